//! Two releases of a service beside each other: who goes where, and what is counted.

use std::collections::BTreeMap;

use http_body_util::Full;
use hyper::Request;
use mainstay_decide::share::{ALL, Share};
use mainstay_edge::protocol::Endpoint;

use crate::support::backend::Backend;
use crate::support::client::Answer;
use crate::support::{Control, Edge, HOST, eventually};

const HEADER: &str = "x-mainstay-release";

fn of(backend: &Backend, release: u64) -> Endpoint {
    Endpoint { release, ..backend.endpoint() }
}

fn share(basis_points: u16) -> Share {
    Share { release: 2, basis_points }
}

/// An edge with release 1 (`old`) and release 2 (`new`).
async fn edge(basis_points: u16) -> (Edge, Control, Backend, Backend) {
    let (old, new) = (Backend::start("old").await, Backend::start("new").await);
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    control.shared("backend", &[of(&old, 1), of(&new, 2)], share(basis_points)).await;
    (edge, control, old, new)
}

async fn get(edge: &Edge, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut wanted = Request::get(path).header("host", HOST);
    for (name, value) in headers {
        wanted = wanted.header(*name, *value);
    }
    edge.client().send(wanted.body(Full::default()).expect("builds")).await
}

/// Who answers each of a hundred sessions.
async fn answers(edge: &Edge) -> BTreeMap<u32, String> {
    let mut answers = BTreeMap::new();
    for session in 0..100 {
        let answer = get(edge, "/api/x", &[("cookie", &format!("sid={session}"))]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header(HEADER), "", "is told to nobody who did not ask");
        answers.insert(session, answer.text().to_owned());
    }
    answers
}

fn new_ones(answers: &BTreeMap<u32, String>) -> Vec<u32> {
    answers.iter().filter(|(_, name)| *name == "new").map(|(session, _)| *session).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_the_clients_goes_to_the_new_release_and_stays_there() {
    let (edge, mut control, old, new) = edge(0).await;
    assert_eq!(new_ones(&answers(&edge).await), Vec::<u32>::new());
    control.shared("backend", &[of(&old, 1), of(&new, 2)], share(1000)).await;
    let few = new_ones(&answers(&edge).await);
    assert!((2..25).contains(&few.len()), "{few:?}");
    assert_eq!(new_ones(&answers(&edge).await), few);
    control.shared("backend", &[of(&old, 1), of(&new, 2)], share(5000)).await;
    let half = new_ones(&answers(&edge).await);
    assert!((30..70).contains(&half.len()), "{half:?}");
    assert!(few.iter().all(|session| half.contains(session)), "nobody goes back");
    control.shared("backend", &[of(&old, 1), of(&new, 2)], share(ALL)).await;
    assert_eq!(new_ones(&answers(&edge).await).len(), 100);
    control.endpoints("backend", &[of(&old, 1), of(&new, 2)]).await;
    control.metrics().await;
    let both = new_ones(&answers(&edge).await).len();
    assert_eq!(both, 50, "without a share all endpoints are alike");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_without_a_share_is_for_who_asks_for_it_here() {
    let (edge, mut control, old, new) = edge(0).await;
    let tried = get(&edge, "/api/x", &[(HEADER, "v2")]).await;
    assert_eq!((tried.text(), tried.header(HEADER)), ("new", "v2"));
    let proxied = get(&edge, "/api/x", &[(HEADER, "v2"), ("x-forwarded-for", "203.0.113.7")]).await;
    assert_eq!((proxied.text(), proxied.header(HEADER)), ("old", ""));
    let absent = get(&edge, "/api/x", &[(HEADER, "v3")]).await;
    assert_eq!((absent.text(), absent.header(HEADER)), ("old", "v1"), "who answered is told");
    let seen = get(&edge, "/api/headers", &[(HEADER, "v2")]).await;
    assert!(!seen.text().contains(HEADER), "no service sees it: {}", seen.text());
    // Nobody is sent to it for want of another, and whoever asks still gets it.
    let hits = new.hits();
    control.shared("backend", &[Endpoint { is_ready: false, ..of(&old, 1) }, of(&new, 2)], share(0)).await;
    let client = edge.client();
    let held = tokio::spawn(async move { client.get("/api/x").await });
    eventually("the request that waits", async || {
        (control.metric("mainstay_edge_holds_waiting{upstream=\"backend\"}").await == 1).then_some(())
    })
    .await;
    assert_eq!(get(&edge, "/api/x", &[(HEADER, "v2")]).await.text(), "new");
    control.shared("backend", &[of(&old, 1), of(&new, 2)], share(0)).await;
    assert_eq!(held.await.expect("joins").text(), "old");
    assert_eq!(new.hits(), hits + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_release_serves_when_one_is_gone_and_it_is_counted() {
    let (edge, mut control, old, new) = edge(ALL).await;
    assert_eq!(edge.client().get("/api/x").await.text(), "new");
    let address = new.kill().await;
    let strayed = "mainstay_edge_release_strayed_total{upstream=\"backend\"}";
    assert_eq!(edge.client().get("/api/x").await.text(), "old", "a refused connection is tried elsewhere");
    assert_eq!(control.metric(strayed).await, 1);
    let none = "mainstay_edge_release_requests_total{upstream=\"backend\",release=\"v2\",status_class=\"none\"}";
    assert_eq!(control.metric(none).await, 1, "and the attempt counts for the release that refused it");
    let new = Backend::start_at("new", address).await;
    eventually("the new release again", async || (edge.client().get("/api/x").await.text() == "new").then_some(()))
        .await;
    // An answer that does not come is asked for at the other release, once, as at another instance.
    assert_eq!(get(&edge, "/api/die", &[]).await.status, 502);
    assert!(new.hits() >= 2 && old.hits() >= 2, "{} {}", new.hits(), old.hits());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tied_client_stays_unless_nobody_is_to_be_there() {
    let (edge, mut control, old, new) = edge(0).await;
    let mut policy = edge.policy();
    policy.generation.0 = 2;
    policy.routes[0].balancing.sticky = Some("__Host-there".to_owned());
    control.accept(&policy).await;
    let both = [of(&old, 1), of(&new, 2)];
    let tied = async |edge: &Edge, headers: &[(&str, &str)]| {
        let answer = get(edge, "/api/x", headers).await;
        let cookie = answer.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
        (answer.text().to_owned(), cookie)
    };
    let (name, to_old) = tied(&edge, &[]).await;
    assert_eq!(name, "old");
    control.shared("backend", &both, share(9999)).await;
    assert_eq!(tied(&edge, &[("cookie", &to_old)]).await, ("old".to_owned(), String::new()));
    control.shared("backend", &both, share(ALL)).await;
    let (name, to_new) = tied(&edge, &[("cookie", &to_old)]).await;
    assert_eq!(name, "new");
    control.shared("backend", &both, share(1)).await;
    assert_eq!(tied(&edge, &[("cookie", &to_new)]).await.0, "new");
    control.shared("backend", &both, share(0)).await;
    assert_eq!(tied(&edge, &[("cookie", &to_new)]).await, ("old".to_owned(), to_old));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_are_counted_logged_and_remembered_by_the_next_edge() {
    let (mut edge, mut control, old, _new) = edge(0).await;
    for _ in 0..3 {
        assert_eq!(edge.client().get("/api/x").await.status, 200);
    }
    assert_eq!(get(&edge, "/api/broken", &[(HEADER, "2")]).await.status, 500);
    let sample = |release: &str, class: &str| {
        format!(
            "mainstay_edge_release_requests_total{{upstream=\"backend\",release=\"{release}\",status_class=\"{class}\"}}"
        )
    };
    // A request is counted when its answer is out.
    for (release, class, count) in [("v1", "2xx", 3), ("v2", "5xx", 1), ("v2", "2xx", 0), ("v1", "none", 0)] {
        eventually("the count", async || (control.metric(&sample(release, class)).await == count).then_some(())).await;
    }
    let count = "mainstay_edge_release_duration_seconds_count{upstream=\"backend\",release=\"v1\"}";
    assert_eq!(control.metric(count).await, 3);
    let log = eventually("the log lines", async || {
        let text = std::fs::read_to_string(edge.access_log()).ok()?;
        (text.lines().count() == 4).then_some(text)
    })
    .await;
    assert_eq!((log.matches("\"release\":\"v1\"").count(), log.matches("\"release\":\"v2\"").count()), (3, 1), "{log}");
    drop(control);
    edge.stop().await;
    edge.run().await;
    let hits = old.hits();
    for _ in 0..8 {
        assert_eq!(edge.client().get("/api/x").await.text(), "old", "no share is still no share");
    }
    assert_eq!(old.hits(), hits + 8);
}
