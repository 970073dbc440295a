//! The doors: TLS, protocols, hosts, redirects, strictness.

use std::time::{Duration, Instant};

use crate::support::backend::Backend;
use crate::support::client::{Answer, request};
use crate::support::{Edge, HOST, route};
use http_body_util::Full;
use hyper::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_http1_and_http2_over_tls() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    let answer = edge.client().get("/api/whoami").await;
    assert_eq!((answer.status, answer.text()), (200, "a"));
    assert_eq!(answer.header("x-request-id").len(), 32);
    let mut sender = edge.client().http2().await;
    for _ in 0..3 {
        let wanted = Request::get(format!("https://{HOST}/api/whoami")).body(Full::default()).expect("builds");
        let answer = Answer::of(sender.send_request(wanted).await.expect("answer")).await.expect("body");
        assert_eq!((answer.status, answer.text()), (200, "a"));
    }
}

/// "cannot make its state folder: Permission denied" left everybody to guess which.
#[tokio::test]
async fn a_state_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("file"), "").expect("writes");
    let state = folder.path().join("file/edge");
    let options = mainstay_edge::Options {
        runtime: folder.path().join("run"),
        state: state.clone(),
        listeners: std::collections::BTreeMap::new(),
    };
    let error = mainstay_edge::serve(options, std::future::ready(())).await.expect_err("there is a file");
    assert_eq!(error.to_string(), format!("edge cannot make its state folder {}", state.display()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_kept_for_the_next_request() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let mut sender = edge.client().http1().await;
    for _ in 0..5 {
        sender.ready().await.expect("kept");
        let response = sender.send_request(request("POST", "/api/echo", "hello")).await.expect("answer");
        assert_eq!(Answer::of(response).await.expect("body").text(), "hello");
    }
    assert_eq!(control.metric("mainstay_edge_connections_total").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finds_the_certificate_by_name_and_after_a_swap_without_a_restart() {
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    let other = mainstay_edge::ca::local_ca(
        &edge.folder.path().join("ca2"),
        &["c.localhost".to_owned()],
        crate::support::now(),
    );
    let other = other.expect("certificate");
    let other_client = crate::support::client::Client::new(edge.https, &other.authority);
    assert!(other_client.tls("c.localhost", &[]).await.is_err());
    let mut policy = edge.policy();
    policy.generation.0 = 2;
    policy.hosts.push("c.localhost".to_owned());
    policy.certificates.push(other.certificate.clone());
    control.accept(&policy).await;
    assert!(other_client.tls("c.localhost", &[]).await.is_ok());
    assert!(edge.client().tls(HOST, &[]).await.is_ok());
    assert!(edge.client().tls("127.0.0.1", &[]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_is_sent_to_https() {
    let edge = Edge::start().await;
    let _control = edge.with(&[]).await;
    let mut socket = TcpStream::connect(edge.http).await.expect("connects");
    let wanted = format!("GET /a/b?c=d HTTP/1.1\r\nHost: {HOST}:{}\r\nConnection: close\r\n\r\n", edge.http.port());
    socket.write_all(wanted.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
    let location = format!("Location: https://{HOST}:{}/a/b?c=d\r\n", edge.https.port());
    assert!(answer.contains(&location), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_most_specific_route_wins_and_others_are_refused() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    let mut policy = edge.policy();
    policy.generation.0 = 2;
    policy.upstreams.insert("other".to_owned(), crate::support::upstream());
    policy.routes = vec![route("/api/*", "backend"), route("/api/deep/*", "other"), route("/api/deep/er", "backend")];
    control.accept(&policy).await;
    let endpoints = [("backend", a.endpoint()), ("other", b.endpoint())];
    let upstreams = endpoints.into_iter().map(|(name, endpoint)| (name.to_owned(), vec![endpoint])).collect();
    let shares = Default::default();
    control.send(&mainstay_edge::protocol::ToEdge::Endpoints { upstreams, shares }).await;
    control.metrics().await;
    for (path, expected) in
        [("/api/x", "a"), ("/api", "a"), ("/api/deep/x", "b"), ("/api/deep", "b"), ("/api/deep/er", "a")]
    {
        assert_eq!(edge.client().get(path).await.text(), expected, "{path}");
    }
    assert_eq!(edge.client().get("/apix").await.status, 404);
    let unknown = Request::get("/api/x").header("host", "evil.example").body(Full::default()).expect("builds");
    assert_eq!(edge.client().send(unknown).await.status, 421);
    let traced = edge.client().send(crate::support::client::request("TRACE", "/api/x", "")).await;
    assert_eq!(traced.status, 405);
    assert!(traced.header("allow").contains("GET"), "a refused method is told which ones there are");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ambiguous_requests_never_reach_an_upstream() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    for wrong in [
        "POST /api/x HTTP/1.1\r\nHost: users.localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /api/x HTTP/1.1\r\nHost: users.localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST /api/x HTTP/1.1\r\nHost: users.localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "POST /api/x HTTP/1.1\r\nHost: users.localhost\r\nContent-Length: +1\r\n\r\na",
        "GET /api/x HTTP/1.1\r\nHost: users.localhost\r\nHost: users.localhost\r\n\r\n",
        "GET /api/../x HTTP/1.1\r\nHost: users.localhost\r\n\r\n",
        "GET /api/%2e%2e/x HTTP/1.1\r\nHost: users.localhost\r\n\r\n",
        "GET /api/x HTTP/1.1\r\nHost: users.localhost\nX: y\r\n\r\n",
        "GET /api/x HTTP/1.1\r\nHost : users.localhost\r\n\r\n",
        "POST /api/x HTTP/1.0\r\nHost: users.localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let answer = edge.client().raw(wrong.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"), "{wrong}\n{answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{wrong}\n{answer}");
    }
    assert_eq!(backend.hits(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_heads_and_bodies_are_refused() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let _control = edge.with(&[backend.endpoint()]).await;
    let long = "x".repeat(33 * 1024);
    let answer =
        edge.client().raw(format!("GET /api/x HTTP/1.1\r\nHost: {HOST}\r\nX: {long}\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let head = format!("POST /api/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 104857601\r\n\r\n");
    let answer = edge.client().raw(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let endless = format!("GET /api/x HTTP/1.1\r\nHost: {HOST}\r\nX: {}", "x".repeat(200 * 1024));
    assert_eq!(edge.client().raw(endless.as_bytes()).await, "");
    assert_eq!(backend.hits(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_drips_is_cut_off_after_ten_seconds() {
    let edge = Edge::start().await;
    let _control = edge.with(&[]).await;
    let begun = Instant::now();
    let mut stream = edge.client().tls(HOST, &["http/1.1"]).await.expect("connects");
    stream.write_all(b"GET / HTTP/1.1\r\nX: ").await.expect("writes");
    let mut byte = [0];
    loop {
        tokio::select! {
            read = stream.read(&mut byte) => {
                assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
                break;
            }
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        if stream.write_all(b"x").await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
    let took = begun.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(14)).contains(&took), "{took:?}");
}
