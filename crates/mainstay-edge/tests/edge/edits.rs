//! What a route changes, whom it lets in, and when it lets nobody in.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::Full;
use hyper::Request;
use mainstay_edge::protocol::{BasicAuth, Policy};
use mainstay_types::Secret;

use crate::support::backend::Backend;
use crate::support::client::{Answer, request};
use crate::support::{Control, Edge, HOST, eventually, route};

async fn edge(change: impl FnOnce(&mut Policy)) -> (Edge, Control, Backend) {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let mut policy = edge.policy();
    policy.generation.0 = 2;
    change(&mut policy);
    control.accept(&policy).await;
    (edge, control, backend)
}

async fn get(edge: &Edge, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut wanted = Request::get(path).header("host", HOST);
    for (name, value) in headers {
        wanted = wanted.header(*name, *value);
    }
    edge.client().send(wanted.body(Full::default()).expect("builds")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_sees_the_path_and_the_headers_that_the_route_makes() {
    let (edge, _control, _backend) = edge(|policy| {
        let mut shop = route("/shop/*", "backend");
        shop.edits.rewrite = Some("/api/*".to_owned());
        shop.edits.request.set.insert("X-Shop".to_owned(), "edge".to_owned());
        shop.edits.request.remove.insert("x-debug".to_owned());
        shop.edits.response.set.insert("X-Served-By".to_owned(), "shop".to_owned());
        shop.edits.response.remove.insert("x-frame-options".to_owned());
        policy.routes.push(shop);
        let mut whole = route("/whole", "backend");
        whole.edits.rewrite = Some("/api/target".to_owned());
        policy.routes.push(whole);
    })
    .await;
    let forged = [("x-shop", "client"), ("x_shop", "client"), ("X-Debug", "1"), ("x-other", "client")];
    let answer = get(&edge, "/shop/headers", &forged).await;
    assert_eq!((answer.status, answer.header("x-served-by")), (200, "shop"));
    let seen: BTreeMap<String, Vec<String>> = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(seen["x-shop"], ["edge"]);
    assert_eq!(seen["x-other"], ["client"]);
    for gone in ["x_shop", "x-debug"] {
        assert!(!seen.contains_key(gone), "{gone} in {seen:?}");
    }
    assert_eq!(get(&edge, "/shop/framed", &[]).await.header("x-frame-options"), "");
    assert_eq!(get(&edge, "/shop/target?a=%2F&b", &[]).await.text(), "/api/target?a=%2F&b");
    assert_eq!(get(&edge, "/shop//target", &[]).await.text(), "/api/target");
    assert_eq!(get(&edge, "/whole?q", &[]).await.text(), "/api/target?q");
    assert_eq!(get(&edge, "/shop/../api/x", &[]).await.status, 400);
    let mut sender = edge.client().http2().await;
    let wanted = Request::get(format!("https://{HOST}/shop/target?x=1")).body(Full::default()).expect("builds");
    let answer = Answer::of(sender.send_request(wanted).await.expect("answer")).await.expect("body");
    assert_eq!(answer.text(), "/api/target?x=1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_knows_the_password_is_let_in_and_nothing_keeps_it() {
    let password = Secret::new("correct horse");
    let (edge, _control, backend) = edge(|policy| {
        policy.routes[0].basic_auth = Some(BasicAuth::new("salt", [("alice", &password)]));
        policy.routes.push(route("/open/*", "backend"));
    })
    .await;
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    for wrong in [None, Some(basic("alice:wrong")), Some(basic("bob:correct horse")), Some("Bearer x".to_owned())] {
        let headers: Vec<(&str, &str)> = wrong.iter().map(|value| ("authorization", value.as_str())).collect();
        let answer = get(&edge, "/api/headers", &headers).await;
        assert_eq!(answer.status, 401, "{wrong:?}");
        assert!(answer.header("www-authenticate").starts_with("Basic realm="), "{wrong:?}");
    }
    assert_eq!(backend.hits(), 0);
    let right = basic("alice:correct horse");
    let answer = get(&edge, "/api/headers", &[("authorization", &right), ("x-forwarded-user", "root")]).await;
    assert_eq!(answer.status, 200);
    let seen: BTreeMap<String, Vec<String>> = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(seen["x-forwarded-user"], ["alice"]);
    assert!(!seen.contains_key("authorization"), "{seen:?}");
    // Elsewhere nobody can say who he is, and what the service asks for itself passes.
    let open = get(&edge, "/open/x", &[("authorization", &right), ("x_forwarded_user", "root")]).await;
    assert_eq!(open.status, 200);
    let log = eventually("the lines", async || {
        let text = std::fs::read_to_string(edge.access_log()).ok()?;
        (text.lines().count() == 6).then_some(text)
    })
    .await;
    assert!(log.contains("\"user\":\"alice\""), "{log}");
    let kept = std::fs::read_to_string(edge.folder.path().join("state/edge.json")).expect("kept");
    for text in [&log, &kept] {
        assert!(!text.contains("correct horse") && !text.contains(&right), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_maintenance_people_get_a_page_and_programs_a_problem() {
    let (edge, mut control, backend) = edge(|policy| policy.routes[0].maintenance_s = Some(600)).await;
    let page = get(&edge, "/api/x", &[("accept", "text/html,*/*;q=0.8")]).await;
    assert_eq!((page.status, page.header("retry-after")), (503, "600"));
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.text().contains("maintenance"), "{}", page.text());
    let problem = edge.client().send(request("POST", "/api/x", "x")).await;
    assert_eq!((problem.status, problem.header("content-type")), (503, "application/problem+json"));
    assert_eq!(problem.header("retry-after"), "600");
    assert_eq!(backend.hits(), 0);
    let mut policy = edge.policy();
    policy.generation.0 = 3;
    control.accept(&policy).await;
    assert_eq!(edge.client().get("/api/x").await.status, 200);
}
