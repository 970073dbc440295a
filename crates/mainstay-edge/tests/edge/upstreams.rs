//! Upstreams: balancing, ejection, retries, hold, streams, headers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::backend::Backend;
use crate::support::client::request;
use crate::support::{Edge, HOST, PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_go_round_the_ready_endpoints() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let out = Backend::start("out").await;
    let edge = Edge::start().await;
    let mut not_ready = out.endpoint();
    not_ready.is_ready = false;
    let _control = edge.with(&[a.endpoint(), b.endpoint(), not_ready]).await;
    for _ in 0..10 {
        assert_eq!(edge.client().get("/api/x").await.status, 200);
    }
    assert_eq!((a.hits(), b.hits(), out.hits()), (5, 5, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusing_endpoint_costs_nobody_a_request_and_comes_back_by_itself() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let edge = Edge::start().await;
    let mut control = edge.with(&[a.endpoint(), b.endpoint()]).await;
    let address = a.kill().await;
    for method in ["GET", "POST", "GET", "PATCH"] {
        let answer = edge.client().send(request(method, "/api/echo-not", "x")).await;
        assert_eq!((answer.status, answer.text()), (200, "b"), "{method}");
    }
    assert_eq!(control.metric("mainstay_edge_ejections_total{upstream=\"backend\"}").await, 1);
    assert_eq!(control.metric("mainstay_edge_endpoint_in{upstream=\"backend\",endpoint=\"a\"}").await, 0);
    let again = Backend::start_at("a", address).await;
    eventually("readmission", async || {
        let is_in = control.metric("mainstay_edge_endpoint_in{upstream=\"backend\",endpoint=\"a\"}").await;
        (is_in == 1).then_some(())
    })
    .await;
    for _ in 0..4 {
        edge.client().get("/api/x").await;
    }
    assert!(again.hits() >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotent_requests_are_sent_again_and_others_never() {
    for (method, status, hits) in
        [("GET", 200, 2), ("PUT", 200, 2), ("DELETE", 200, 2), ("POST", 502, 1), ("PATCH", 502, 1)]
    {
        let backend = Backend::start("a").await;
        let edge = Edge::start().await;
        let _control = edge.with(&[backend.endpoint()]).await;
        let answer = edge.client().send(request(method, "/api/die-first", "body")).await;
        assert_eq!((answer.status, backend.hits()), (status, hits), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_that_dies_under_a_post_is_no_reason_to_repeat_it() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    for (method, more) in [("POST", 1), ("GET", 3)] {
        // The edge keeps this request's connection for the next one.
        assert_eq!(edge.client().get("/api/x").await.status, 200);
        let before = backend.hits();
        assert_eq!(edge.client().send(request(method, "/api/die", "")).await.status, 502);
        assert_eq!(backend.hits() - before, more, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_sent_three_times_at_most() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    assert_eq!(edge.client().get("/api/die").await.status, 502);
    assert_eq!(backend.hits(), 3);
    assert_eq!(control.metric("mainstay_edge_retries_total{upstream=\"backend\"}").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_carries_the_whole_body_and_a_long_one_is_not_retried() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    let long = "x".repeat(65 * 1024);
    let answer = edge.client().send(request("PUT", "/api/die-first", &long)).await;
    assert_eq!((answer.status, backend.hits()), (502, 1));
    let body = "y".repeat(200 * 1024);
    assert_eq!(edge.client().send(request("PUT", "/api/echo", &body)).await.text(), body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_for_an_endpoint_and_are_released_by_one() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let client = edge.client();
            tokio::spawn(async move { client.send(request("POST", "/api/echo", "held")).await })
        })
        .collect();
    eventually("five held requests", async || {
        (control.metric("mainstay_edge_holds_waiting{upstream=\"backend\"}").await == 5).then_some(())
    })
    .await;
    let begun = Instant::now();
    control.endpoints("backend", &[backend.endpoint()]).await;
    for waiting in waiting {
        let answer = waiting.await.expect("joins");
        assert_eq!((answer.status, answer.text()), (200, "held"));
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(control.metric("mainstay_edge_holds_released_total{upstream=\"backend\"}").await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hold_ends_with_503_and_when_to_come_back() {
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    let mut policy = edge.policy();
    policy.generation.0 = 2;
    policy.upstreams.get_mut("backend").expect("upstream").hold_ms = 200;
    control.accept(&policy).await;
    let begun = Instant::now();
    let answer = edge.client().get("/api/x").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert_eq!(control.metric("mainstay_edge_holds_shed_total{upstream=\"backend\"}").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_instance_may_die_and_return_without_a_failed_get() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    let mut sender = edge.client().http1().await;
    let client = tokio::spawn(async move {
        let mut answers = Vec::new();
        for _ in 0..60 {
            sender.ready().await.expect("kept");
            let response = sender.send_request(request("GET", "/api/x", "")).await.expect("answer");
            answers.push(response.status().as_u16());
            response.into_body().collect().await.expect("body");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        answers
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let address = backend.kill().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let again = Backend::start_at("a", address).await;
    let answers = client.await.expect("joins");
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert!(again.hits() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_restarts_under_sixty_four_clients_without_a_failed_request() {
    let backend = Backend::start("a-1").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let mut clients = Vec::new();
    for nth in 0..64 {
        let method = if nth % 2 == 0 { "GET" } else { "POST" };
        clients.push(ask_for(&edge, method, Duration::from_secs(5)).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    // As a deployment does: out of the rotation, time to drain, the end; and a while later the next one.
    let mut leaving = backend.endpoint();
    leaving.is_ready = false;
    control.endpoints("backend", &[leaving]).await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    backend.kill().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let next = Backend::start("a-2").await;
    control.endpoints("backend", &[next.endpoint()]).await;
    for client in clients {
        let answers = client.await.expect("joins");
        assert!(!answers.is_empty() && answers.iter().all(|status| *status == 200), "{answers:?}");
    }
    let held = control.metric("mainstay_edge_holds_held_total{upstream=\"backend\"}").await;
    assert!(held >= 32, "only {held} requests waited: nothing was proven");
    assert_eq!(control.metric("mainstay_edge_holds_shed_total{upstream=\"backend\"}").await, 0);
    // And as a crash does: what may be asked twice is saved.
    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(ask_for(&edge, "GET", Duration::from_secs(4)).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let address = next.kill().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _again = Backend::start_at("a-2", address).await;
    for client in clients {
        let answers = client.await.expect("joins");
        assert!(!answers.is_empty() && answers.iter().all(|status| *status == 200), "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_come_in_time_is_504() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let mut policy = edge.policy();
    policy.generation.0 = 2;
    policy.routes[0].timeout_ms = 300;
    control.accept(&policy).await;
    let begun = Instant::now();
    assert_eq!(edge.client().get("/api/hang").await.status, 504);
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(backend.hits(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_pass_both_ways() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    let stream = edge.client().tls(HOST, &["http/1.1"]).await.expect("connects");
    let url = format!("wss://{HOST}/api/ws");
    let (mut socket, response) = tokio_tungstenite::client_async(url, stream).await.expect("upgrades");
    assert_eq!(response.status(), 101);
    for count in 0..3 {
        let text = Message::text(format!("message {count}"));
        socket.send(text.clone()).await.expect("sends");
        assert_eq!(socket.next().await.expect("open").expect("reads"), text);
    }
    socket.close(None).await.expect("closes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_when_they_are_sent() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let mut policy = edge.policy();
    policy.generation.0 = 2;
    // Shorter than the whole stream, longer than its pauses.
    policy.routes[0].timeout_ms = 700;
    control.accept(&policy).await;
    let begun = Instant::now();
    let mut sender = edge.client().http1().await;
    let response = sender.send_request(request("GET", "/api/sse", "")).await.expect("answer");
    let mut body = response.into_body();
    let mut arrivals = Vec::new();
    while let Some(frame) = body.frame().await {
        frame.expect("frame");
        arrivals.push(begun.elapsed());
    }
    assert_eq!(arrivals.len(), 3, "{arrivals:?}");
    assert!(arrivals[0] < Duration::from_millis(300), "{arrivals:?}");
    assert!(arrivals[2] >= Duration::from_millis(700), "{arrivals:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstream_learns_who_asked_from_the_edge_alone() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let wanted = Request::get("/api/headers")
        .header("host", HOST)
        .header("x-forwarded-for", "6.6.6.6")
        .header("x_forwarded_for", "6.6.6.6")
        .header("forwarded", "for=6.6.6.6")
        .header("x-real-ip", "6.6.6.6")
        .header("x-request-id", "forged")
        .header("connection", "x-drop, close")
        .header("x-drop", "1")
        .header("te", "trailers")
        .header("traceparent", trace)
        .body(Full::default())
        .expect("builds");
    let answer = edge.client().send(wanted).await;
    let seen: BTreeMap<String, Vec<String>> = serde_json::from_slice(&answer.body).expect("JSON");
    let one = |name: &str| seen.get(name).map(|values| values.join("|")).unwrap_or_default();
    assert_eq!(one("x-forwarded-for"), "127.0.0.1");
    assert_eq!(one("x-forwarded-proto"), "https");
    assert_eq!(one("x-forwarded-host"), HOST);
    assert_eq!(one("host"), HOST);
    assert_eq!(one("traceparent"), trace);
    assert_eq!(one("x-request-id"), answer.header("x-request-id"));
    for gone in ["x_forwarded_for", "forwarded", "x-real-ip", "x-drop", "te"] {
        assert!(!seen.contains_key(gone), "{gone} in {seen:?}");
    }
    let made = edge.client().get("/api/headers").await;
    let seen: BTreeMap<String, Vec<String>> = serde_json::from_slice(&made.body).expect("JSON");
    assert_eq!(seen["traceparent"][0].len(), 55);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_requests_reach_the_upstream_with_host_and_body() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    let mut sender = edge.client().http2().await;
    let url = format!("https://{HOST}/api/headers");
    let response =
        sender.send_request(Request::get(&url).body(Full::default()).expect("builds")).await.expect("answer");
    let body = response.into_body().collect().await.expect("body").to_bytes();
    let seen: BTreeMap<String, Vec<String>> = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((seen["host"][0].as_str(), seen["x-forwarded-host"][0].as_str()), (HOST, HOST));
    let url = format!("https://{HOST}/api/echo");
    let text = "z".repeat(300 * 1024);
    let wanted = Request::post(&url).body(Full::from(text.clone())).expect("builds");
    let response = sender.send_request(wanted).await.expect("answer");
    assert_eq!(response.into_body().collect().await.expect("body").to_bytes(), text);
    let url = format!("https://{HOST}/api/die");
    let response =
        sender.send_request(Request::post(&url).body(Full::default()).expect("builds")).await.expect("answer");
    assert_eq!(response.status(), 502);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_headers_of_an_upstream_do_not_reach_http2() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    let mut sender = edge.client().http2().await;
    let wanted = Request::get(format!("https://{HOST}/api/hop")).body(Full::default()).expect("builds");
    let response = sender.send_request(wanted).await.expect("answer");
    assert_eq!(response.status(), 200);
    for name in ["connection", "keep-alive", "proxy-connection"] {
        assert!(!response.headers().contains_key(name), "{:?}", response.headers());
    }
    assert_eq!(response.into_body().collect().await.expect("body").to_bytes(), "a");
    assert_eq!(edge.client().get("/api/hop").await.text(), "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_expects_100_continue_gets_it_and_head_has_no_body() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    let mut stream = edge.client().tls(HOST, &["http/1.1"]).await.expect("connects");
    let head = format!(
        "POST /api/echo HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("writes");
    let mut answer = vec![0; 256];
    let count = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await.expect("in time").expect("reads");
    let interim = String::from_utf8_lossy(&answer[..count]).into_owned();
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    stream.write_all(b"hello").await.expect("writes");
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("in time").ok();
    let rest = String::from_utf8_lossy(&rest).into_owned();
    assert!(rest.starts_with("HTTP/1.1 200") && rest.ends_with("hello"), "{rest}");
    let head = edge.client().send(request("HEAD", "/api/x", "")).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "1", 0));
}

/// Answers that one client got while the world around it changed.
async fn ask_for(edge: &Edge, method: &'static str, time: Duration) -> tokio::task::JoinHandle<Vec<u16>> {
    let client = edge.client();
    tokio::spawn(async move {
        let (begun, mut answers) = (Instant::now(), Vec::new());
        let mut sender = client.http1().await;
        while begun.elapsed() < time {
            if sender.ready().await.is_err() {
                sender = client.http1().await;
            }
            let response = sender.send_request(request(method, "/api/slow", "x")).await.expect("answer");
            answers.push(response.status().as_u16());
            response.into_body().collect().await.expect("body");
        }
        answers
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_dies_with_requests_under_way_fails_no_get() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let edge = Edge::start().await;
    let mut control = edge.with(&[a.endpoint(), b.endpoint()]).await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(ask_for(&edge, "GET", Duration::from_secs(2)).await);
    }
    let poster = ask_for(&edge, "POST", Duration::from_secs(2)).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    a.kill().await;
    for client in clients {
        let answers = client.await.expect("joins");
        assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    }
    // At most the one that was under way: it may have had its effect.
    let failed = poster.await.expect("joins").into_iter().filter(|status| *status != 200).count();
    assert!(failed <= 1, "{failed}");
    assert!(control.metric("mainstay_edge_retries_total{upstream=\"backend\"}").await > 0, "nothing was under way");
}
