//! The control socket: policies, endpoints, reports, restarts, the end; and the local authority.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use mainstay_edge::ca::local_ca;
use mainstay_edge::protocol::{FromEdge, Policy, Target};
use mainstay_types::{Generation, Secret};

use crate::support::backend::Backend;
use crate::support::client::request;
use crate::support::{Edge, HOST, eventually, now, route};

type Break = fn(&mut Policy);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_breaks_a_rule_changes_nothing() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let kept = std::fs::read(edge.folder.path().join("state/edge.json")).expect("kept");
    let wrong: [(&str, Break); 11] = [
        ("cannot be sent", |policy| {
            policy.routes[0].edits.request.set.insert("X".to_owned(), "a\nb".to_owned());
        }),
        ("hash of a password", |policy| {
            let users = [("a".to_owned(), Secret::new("nonsense"))].into();
            policy.routes[0].basic_auth = Some(mainstay_edge::protocol::BasicAuth { salt: String::new(), users });
        }),
        ("schema 9", |policy| policy.schema = 9),
        ("no host", |policy| policy.hosts.clear()),
        ("has no certificate", |policy| policy.hosts.push("elsewhere.example".to_owned())),
        ("not usable", |policy| policy.certificates[0].chain_pem = "nonsense".to_owned()),
        ("not usable", |policy| policy.certificates[0].key_pem = Secret::new("nonsense")),
        ("upstream \"nobody\"", |policy| policy.routes.push(route("/x", "nobody"))),
        ("route path", |policy| policy.routes.push(route("x*y", "backend"))),
        ("is there twice", |policy| policy.routes.push(route("/api/*", "backend"))),
        ("cannot be read", |policy| {
            policy.routes[0].to = Target::Site { dir: "/does/not/exist".into(), spa: true, cache: Default::default() };
        }),
    ];
    for (expected, spoil) in wrong {
        let mut policy = edge.policy();
        policy.generation = Generation(2);
        spoil(&mut policy);
        let reason = control.offer(&policy).await.expect_err(expected);
        assert!(reason.contains(expected), "{reason}");
        assert!(!reason.contains("nonsense"), "{reason}");
        assert_eq!(edge.client().get("/api/x").await.status, 200, "{expected}");
    }
    let mut old = edge.policy();
    old.generation = Generation(0);
    assert!(control.offer(&old).await.expect_err("older").contains("older"));
    assert_eq!(std::fs::read(edge.folder.path().join("state/edge.json")).expect("kept"), kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_fail_no_request() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let edge = Edge::start().await;
    let mut control = edge.with(&[a.endpoint(), b.endpoint()]).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (client, is_over) = (edge.client(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let mut sender = client.http1().await;
                let mut count = 0;
                while !is_over.load(Ordering::Relaxed) {
                    sender.ready().await.expect("kept");
                    let response = sender.send_request(request("POST", "/api/echo", "x")).await.expect("answer");
                    assert_eq!(response.status(), 200);
                    response.into_body().collect().await.expect("body");
                    count += 1;
                }
                count
            })
        })
        .collect();
    for generation in 2..30 {
        let mut policy = edge.policy();
        policy.generation = Generation(generation);
        control.accept(&policy).await;
        let endpoints = if generation % 2 == 0 { vec![a.endpoint()] } else { vec![b.endpoint(), a.endpoint()] };
        control.endpoints("backend", &endpoints).await;
    }
    is_over.store(true, Ordering::Relaxed);
    let mut total = 0;
    for client in clients {
        total += client.await.expect("no failed request");
    }
    assert!(total > 50, "{total} requests are no load");
    assert_eq!(a.hits() + b.hits(), total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_edge_serves_without_a_control_plane() {
    let backend = Backend::start("a").await;
    let mut edge = Edge::start().await;
    let control = edge.with(&[backend.endpoint()]).await;
    let mode =
        |path: &str| std::fs::metadata(edge.folder.path().join(path)).expect("file").permissions().mode() & 0o777;
    assert_eq!((mode("state/edge.json"), mode("runtime/edge.sock")), (0o600, 0o600));
    drop(control);
    edge.stop().await;
    // Nobody is refused meanwhile: the listener is the parent's.
    let client = edge.client();
    let early = tokio::spawn(async move { client.get("/api/x").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    edge.run().await;
    assert_eq!(early.await.expect("joins").status, 200);
    assert_eq!(edge.client().get("/api/x").await.text(), "a");
    let control = edge.control().await;
    assert!(matches!(control.hello, FromEdge::Hello { generation: Some(Generation(1)), hash: Some(_), .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_control_plane_a_dead_endpoint_is_found_by_probes() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let edge = Edge::start().await;
    drop(edge.with(&[a.endpoint(), b.endpoint()]).await);
    a.kill().await;
    let sample = "mainstay_edge_endpoint_in{upstream=\"backend\",endpoint=\"a\"}";
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(edge.control().await.metric(sample).await, 0);
    assert_eq!(b.hits(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_was_not_ready_stays_out_until_the_control_plane_is_long_gone() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut starting = backend.endpoint();
    starting.is_ready = false;
    let sample = "mainstay_edge_endpoint_in{upstream=\"backend\",endpoint=\"a\"}";
    drop(edge.with(&[starting]).await);
    // Longer than the hold: the control plane may be back any moment and knows better.
    assert_eq!(edge.client().get("/api/x").await.status, 503);
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert_eq!(edge.client().get("/api/x").await.text(), "a");
    assert_eq!(edge.control().await.metric(sample).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_count_what_went_through_and_say_who_is_out() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let edge = Edge::start().await;
    let mut control = edge.with(&[a.endpoint(), b.endpoint()]).await;
    b.kill().await;
    for path in ["/api/x", "/api/x", "/api/broken", "/nowhere"] {
        edge.client().get(path).await;
    }
    let mut totals: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    let mut is_told = false;
    control
        .wait(|frame| {
            match frame {
                FromEdge::Report { upstreams, endpoints, .. } => {
                    for (name, counts) in upstreams {
                        let total = totals.entry(name).or_default();
                        *total = (
                            total.0 + counts.requests,
                            total.1 + counts.errors,
                            total.2 + counts.latency.iter().sum::<u64>(),
                        );
                    }
                    assert!(endpoints["a"].is_in);
                }
                FromEdge::EndpointChanged { endpoint, is_in, .. } => is_told |= endpoint == "b" && !is_in,
                _ => {}
            }
            let is_all = totals.get("backend") == Some(&(3, 1, 3)) && totals.get("") == Some(&(1, 0, 1));
            (is_all && is_told).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_a_line_without_secrets() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    let answer = edge.client().get("/api/x?token=hunter2&page=3").await;
    edge.client().get("/nowhere").await;
    let lines = eventually("two lines", async || {
        let text = std::fs::read_to_string(edge.access_log()).ok()?;
        (text.lines().count() == 2).then_some(text)
    })
    .await;
    assert!(!lines.contains("hunter2"), "{lines}");
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let line = &lines[0];
    assert_eq!(line["request_id"], answer.header("x-request-id"));
    assert_eq!(line["path"], "/api/x?token=***&page=3");
    for (key, expected) in
        [("host", HOST), ("route", "/api/*"), ("upstream", "backend"), ("endpoint", "a"), ("tls", "TLSv1.3")]
    {
        assert_eq!(line[key], expected, "{line}");
    }
    assert_eq!(
        (line["status"].as_u64(), line["attempts"].as_u64(), line["bytes"].as_u64()),
        (Some(200), Some(1), Some(1))
    );
    assert_eq!(lines[1]["reason"], "no route for this path");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_ends_before_the_edge_does() {
    let backend = Backend::start("a").await;
    let mut edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    let mut idle = edge.client().http1().await;
    idle.send_request(request("GET", "/api/x", "")).await.expect("answer").into_body().collect().await.expect("body");
    let client = edge.client();
    let slow = tokio::spawn(async move { client.get("/api/slow").await });
    eventually("the slow request", async || (backend.hits() == 2).then_some(())).await;
    let begun = std::time::Instant::now();
    edge.stop().await;
    assert_eq!(slow.await.expect("joins").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(5), "an idle connection held the end up: {:?}", begun.elapsed());
}

#[test]
fn the_local_authority_is_made_once_and_its_leaves_are_renewed_in_time() {
    let folder = tempfile::tempdir().expect("folder");
    let hosts = [HOST.to_owned()];
    let day = Duration::from_secs(24 * 3600);
    let first = local_ca(folder.path(), &hosts, now()).expect("makes");
    assert_eq!(local_ca(folder.path(), &hosts, now().after(300 * day)).expect("keeps"), first);
    let authority = std::fs::read(&first.authority).expect("authority");
    let renewed = local_ca(folder.path(), &hosts, now().after(368 * day)).expect("renews");
    assert_ne!(renewed.certificate.chain_pem, first.certificate.chain_pem);
    let other = local_ca(folder.path(), &["b.localhost".to_owned()], now()).expect("makes");
    assert_ne!(other.certificate, first.certificate);
    assert_eq!(std::fs::read(&first.authority).expect("authority"), authority);
    for secret in ["ca.key", "leaf.json"] {
        let mode = std::fs::metadata(folder.path().join(secret)).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
}
