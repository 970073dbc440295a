//! Which endpoint a request goes to, and when it is spared one.

use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use mainstay_edge::protocol::Policy;
use mainstay_stack::balance::{Breaker, Eject, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::backend::Backend;
use crate::support::client::{Answer, request};
use crate::support::{Control, Edge, HOST, eventually};

/// An edge with two endpoints, a and b, and a policy with a change.
async fn edge(change: impl FnOnce(&mut Policy)) -> (Edge, Control, Backend, Backend) {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let edge = Edge::start().await;
    let mut control = edge.with(&[a.endpoint(), b.endpoint()]).await;
    let mut policy = edge.policy();
    policy.generation.0 = 2;
    change(&mut policy);
    control.accept(&policy).await;
    (edge, control, a, b)
}

async fn get(edge: &Edge, path: &str, name: &str, value: &str) -> Answer {
    let wanted = Request::get(path).header("host", HOST).header(name, value);
    edge.client().send(wanted.body(Full::default()).expect("builds")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_the_cookie_comes_back_to_its_instance() {
    let (edge, mut control, a, b) =
        edge(|policy| policy.routes[0].balancing.sticky = Some("__Host-there".to_owned())).await;
    let first = edge.client().get("/api/x").await;
    let cookie = first.header("set-cookie").to_owned();
    assert!(cookie.starts_with("__Host-there="), "{cookie}");
    assert!(cookie.ends_with("; Path=/; HttpOnly; Secure; SameSite=Lax"), "{cookie}");
    let pair = cookie.split(';').next().expect("a pair");
    for _ in 0..6 {
        let again = get(&edge, "/api/x", "cookie", &format!("other=1; {pair}")).await;
        assert_eq!((again.text(), again.header("set-cookie")), (first.text(), ""));
    }
    // What nobody gave out leads nowhere in particular, and is replaced.
    let forged = get(&edge, "/api/x", "cookie", "__Host-there=127.0.0.1:22").await;
    assert_eq!(forged.status, 200);
    assert!(forged.header("set-cookie").starts_with("__Host-there="));
    let (lost, other) = if first.text() == "a" { (a, b) } else { (b, a) };
    control.endpoints("backend", &[other.endpoint()]).await;
    lost.kill().await;
    let moved = get(&edge, "/api/x", "cookie", pair).await;
    assert_eq!((moved.status, moved.text()), (200, other.name.as_str()));
    assert!(!moved.header("set-cookie").is_empty() && moved.header("set-cookie") != cookie);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_by_its_header_stays_with_one_instance() {
    let (edge, _control, a, b) = edge(|policy| {
        policy.routes[0].balancing.method = "hash header x-user".parse::<Method>().expect("a method");
    })
    .await;
    for user in 0..20 {
        let user = user.to_string();
        let first = get(&edge, "/api/x", "x-user", &user).await;
        let again = get(&edge, "/api/x", "x-user", &user).await;
        assert_eq!(first.text(), again.text());
    }
    assert!(a.hits() >= 6 && b.hits() >= 6, "{} and {} of 40", a.hits(), b.hits());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_instance_with_less_to_do_is_taken() {
    let (edge, _control, a, b) = edge(|policy| policy.routes[0].balancing.method = Method::LeastRequests).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let client = edge.client();
        busy.push(tokio::spawn(async move { client.get("/api/hang").await }));
        eventually("the request under way", async || (a.hits() + b.hits() == busy.len()).then_some(())).await;
    }
    assert_eq!((a.hits(), b.hits()), (1, 1), "of two the second hanging one goes to the other");
    busy.pop().expect("one").abort();
    let is_free = |name: &str| name.to_owned();
    let mut free = std::collections::BTreeSet::new();
    eventually("only one free instance", async || {
        free.clear();
        for _ in 0..6 {
            free.insert(is_free(edge.client().get("/api/x").await.text()));
        }
        (free.len() == 1).then_some(())
    })
    .await;
    busy.pop().expect("one").abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_only_fails_is_left_alone_for_a_while() {
    let (edge, mut control, a, b) = edge(|policy| {
        let upstream = policy.upstreams.get_mut("backend").expect("upstream");
        upstream.resilience.breaker = Some(Breaker { errors_percent: 50, requests: 6, open: Duration::from_secs(2) });
    })
    .await;
    for _ in 0..6 {
        assert_eq!(edge.client().get("/api/broken").await.status, 500);
    }
    // A client has its answer before the edge has noted it: the last error may open the breaker a moment later.
    eventually("the open breaker", async || (edge.client().get("/api/x").await.status == 503).then_some(())).await;
    let hits = a.hits() + b.hits();
    let refused = edge.client().get("/api/x").await;
    assert_eq!((refused.status, a.hits() + b.hits()), (503, hits));
    assert!(refused.text().contains("circuit breaker"), "{}", refused.text());
    let retry_after: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=2).contains(&retry_after), "{retry_after}");
    assert_eq!(control.metric("mainstay_edge_breaker_open{upstream=\"backend\"}").await, 1);
    assert!(control.metric("mainstay_edge_breaker_refused_total{upstream=\"backend\"}").await >= 1);
    eventually("the next try", async || (edge.client().get("/api/x").await.status == 200).then_some(())).await;
    eventually("the closed breaker", async || {
        (control.metric("mainstay_edge_breaker_open{upstream=\"backend\"}").await == 0).then_some(())
    })
    .await;
    assert_eq!(edge.client().get("/api/x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_clients_do_wrong_opens_no_circuit_breaker() {
    let (edge, mut control, a, b) = edge(|policy| {
        let upstream = policy.upstreams.get_mut("backend").expect("upstream");
        upstream.resilience.breaker = Some(Breaker { errors_percent: 50, requests: 6, open: Duration::from_secs(60) });
    })
    .await;
    let head = format!("POST /api/echo HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    for nth in 1..=12 {
        let mut stream = edge.client().tls(HOST, &["http/1.1"]).await.expect("connects");
        stream.write_all(head.as_bytes()).await.expect("writes");
        eventually("the head at the service", async || (a.hits() + b.hits() == nth).then_some(())).await;
        stream.write_all(b"no chunk\r\n").await.expect("writes");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(control.metric("mainstay_edge_breaker_open{upstream=\"backend\"}").await, 0);
    assert_eq!(edge.client().get("/api/x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_do_not_come_are_the_clients_fault_and_no_services() {
    let (edge, mut control, a, b) = edge(|policy| {
        policy.routes[0].timeout_ms = 1_000;
        let upstream = policy.upstreams.get_mut("backend").expect("upstream");
        upstream.resilience.breaker = Some(Breaker { errors_percent: 50, requests: 6, open: Duration::from_secs(60) });
    })
    .await;
    let head = format!("POST /api/echo HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n5");
    let mut streams = Vec::new();
    for _ in 0..12 {
        let mut stream = edge.client().tls(HOST, &["http/1.1"]).await.expect("connects");
        stream.write_all(head.as_bytes()).await.expect("writes");
        streams.push(stream);
    }
    for mut stream in streams {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("did not arrive in time"), "{answer}");
    }
    eventually("all of them at the service", async || (a.hits() + b.hits() == 12).then_some(())).await;
    assert_eq!(control.metric("mainstay_edge_breaker_open{upstream=\"backend\"}").await, 0);
    for endpoint in ["a", "b"] {
        let sample = format!("mainstay_edge_endpoint_in{{upstream=\"backend\",endpoint=\"{endpoint}\"}}");
        assert_eq!(control.metric(&sample).await, 1, "{endpoint} was not ejected either");
    }
    assert_eq!(edge.client().get("/api/x").await.status, 200);
    // What hangs with the whole request is the service's.
    assert_eq!(edge.client().send(request("POST", "/api/hang", "all of it")).await.status, 504);
    assert_eq!(edge.client().get("/api/hang").await.status, 504);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_for_an_answer_begins_when_the_request_is_whole() {
    let (edge, _control, _a, _b) = edge(|policy| policy.routes[0].timeout_ms = 3_000).await;
    let head = format!("POST /api/lines HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 33\r\nConnection: close\r\n\r\n");
    let mut stream = edge.client().tls(HOST, &["http/1.1"]).await.expect("connects");
    stream.write_all(head.as_bytes()).await.expect("writes");
    for _ in 0..33 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stream.write_all(b"x").await.expect("writes");
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"line\":2"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_alone_answers_with_errors_is_left_out() {
    let (edge, mut control, a, _b) = edge(|policy| {
        let upstream = policy.upstreams.get_mut("backend").expect("upstream");
        upstream.resilience.eject = Some(Eject { requests: 5, least: Duration::from_secs(60), ..Eject::default() });
    })
    .await;
    let sample = "mainstay_edge_endpoint_in{upstream=\"backend\",endpoint=\"a\"}";
    eventually("the ejection", async || {
        for _ in 0..10 {
            edge.client().get("/api/broken/a").await;
        }
        (control.metric(sample).await == 0).then_some(())
    })
    .await;
    assert_eq!(control.metric("mainstay_edge_outliers_total{upstream=\"backend\"}").await, 1);
    let hits = a.hits();
    for _ in 0..6 {
        assert_eq!(edge.client().get("/api/broken/a").await.text(), "b");
    }
    assert_eq!(a.hits(), hits);
    assert_eq!(control.metric(sample).await, 0, "its health check does not bring it back at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_without_retries_asks_once() {
    let (edge, mut control, a, b) = edge(|policy| policy.routes[0].balancing.retries = 0).await;
    assert_eq!(edge.client().send(request("GET", "/api/die", "")).await.status, 502);
    assert_eq!(a.hits() + b.hits(), 1);
    assert_eq!(control.metric("mainstay_edge_retries_total{upstream=\"backend\"}").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_is_used_up_refuses_retries() {
    let (edge, mut control, a, b) = edge(|policy| {
        policy.routes[0].balancing.retry_percent = 0;
        policy.upstreams.get_mut("backend").expect("upstream").resilience.eject = None;
    })
    .await;
    // A route begins with a hundred retries saved up, two for each of these.
    let mut sender = edge.client().http2().await;
    for _ in 0..60 {
        let url = format!("https://{HOST}/api/die");
        let wanted = Request::get(&url).body(Full::default()).expect("builds");
        assert_eq!(sender.send_request(wanted).await.expect("answer").status(), 502);
    }
    assert_eq!(control.metric("mainstay_edge_retries_total{upstream=\"backend\"}").await, 100);
    assert_eq!(a.hits() + b.hits(), 160);
    assert!(control.metric("mainstay_edge_retries_refused_total{upstream=\"backend\"}").await >= 10);
}
