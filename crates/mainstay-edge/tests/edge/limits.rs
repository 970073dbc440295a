//! Limits: who is refused when, what he is told, and what nobody gets around.

use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Request;
use mainstay_edge::protocol::{Policy, Target};
use mainstay_stack::limit::Limit;

use crate::support::backend::Backend;
use crate::support::client::{Answer, request};
use crate::support::{Control, Edge, HOST, eventually, route};

fn limit(text: &str) -> Limit {
    text.parse().expect("a limit")
}

/// Puts a changed policy into force.
async fn with(edge: &Edge, control: &mut Control, generation: u64, change: impl FnOnce(&mut Policy)) {
    let mut policy = edge.policy();
    policy.generation.0 = generation;
    change(&mut policy);
    control.accept(&policy).await;
}

async fn get(edge: &Edge, path: &str, name: &'static str, value: &str) -> Answer {
    let wanted = Request::get(path).header("host", HOST).header(name, value);
    edge.client().send(wanted.body(Full::default()).expect("builds")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_too_many_is_refused_told_when_to_come_back_and_logged() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    with(&edge, &mut control, 2, |policy| policy.routes[0].limits = vec![limit("3/h per ip")]).await;
    for left in ["2", "1", "0"] {
        let answer = edge.client().get("/api/x").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit-policy"), "\"ip\";q=3;w=3600");
        assert!(answer.header("ratelimit").starts_with(&format!("\"ip\";r={left};t=")), "{:?}", answer.headers);
    }
    let answer = edge.client().send(request("POST", "/api/echo", "x")).await;
    assert_eq!((answer.status, answer.header("content-type")), (429, "application/problem+json"));
    let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(body["detail"], "too many requests from one address");
    assert_eq!((&body["code"], &body["type"]), (&"MS6429".into(), &"about:blank".into()));
    let seconds: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!((1190..=1200).contains(&seconds), "a third of an hour, and not {seconds} s");
    assert!(answer.header("ratelimit").starts_with("\"ip\";r=0;t="), "{:?}", answer.headers);
    assert_eq!(backend.hits(), 3, "what is refused never reaches an instance");
    let sample = "mainstay_edge_limit_refused_total{route=\"/api/*\",limit=\"3/h per ip\"}";
    assert_eq!(control.metric(sample).await, 1);
    let line = eventually("the line of the refusal", async || {
        let text = std::fs::read_to_string(edge.access_log()).ok()?;
        text.lines().find(|line| line.contains("\"status\":429")).map(str::to_owned)
    })
    .await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((line["limit"].as_str(), line["route"].as_str()), (Some("3/h per ip"), Some("/api/*")));
    assert_eq!(line["reason"], "too many requests from one address");
    let mut sender = edge.client().http2().await;
    let wanted = Request::get(format!("https://{HOST}/api/x")).body(Full::default()).expect("builds");
    let answer = Answer::of(sender.send_request(wanted).await.expect("answer")).await.expect("body");
    assert_eq!(answer.status, 429, "HTTP/2 is no way around");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_value_of_a_header_has_a_rate_of_its_own_and_none_counts_by_address() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    with(&edge, &mut control, 2, |policy| policy.routes[0].limits = vec![limit("2/h per header x-api-key")]).await;
    for (key, expected) in [("a", 200), ("a", 200), ("a", 429), ("b", 200), ("b", 200), ("b", 429), ("a", 429)] {
        assert_eq!(get(&edge, "/api/x", "x-api-key", key).await.status, expected, "{key}");
    }
    for expected in [200, 200, 429] {
        assert_eq!(edge.client().get("/api/x").await.status, expected, "leaving the header out is no way around");
    }
    let log = eventually("ten lines", async || {
        let text = std::fs::read_to_string(edge.access_log()).ok()?;
        (text.lines().count() == 10).then_some(text)
    })
    .await;
    assert!(log.contains("too many requests with one value of a header"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_the_edge_counts_for_every_path_but_exempt_ones() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let site = edge.folder.path().join("site");
    std::fs::create_dir_all(&site).expect("folder");
    std::fs::write(site.join("index.html"), "home").expect("writes");
    let change = |policy: &mut Policy| {
        policy.limits = vec![limit("4/h per ip")];
        policy.routes.push(route("/api/free", "backend"));
        policy.routes[1].is_exempt = true;
        policy.routes.push(route("/site/*", ""));
        policy.routes[2].to = Target::Site { dir: site.clone(), spa: false, cache: Default::default() };
        policy.routes[2].limits = vec![limit("100/s per cookie sid")];
    };
    with(&edge, &mut control, 2, change).await;
    assert_eq!(edge.client().get("/api/x").await.status, 200);
    assert_eq!(edge.client().get("/nowhere").await.status, 404);
    let answer = get(&edge, "/site/", "cookie", "sid=1").await;
    assert_eq!((answer.status, answer.text()), (200, "home"));
    assert_eq!(answer.header("ratelimit-policy"), "\"ip\";q=4;w=3600, \"cookie-sid\";q=100;w=1");
    assert_eq!(edge.client().get("/nowhere").await.status, 404);
    for path in ["/api/x", "/nowhere", "/site/"] {
        assert_eq!(edge.client().get(path).await.status, 429, "{path}");
    }
    let free = edge.client().get("/api/free").await;
    assert_eq!((free.status, free.header("ratelimit")), (200, ""));
    // A new policy that still has the limit does not forgive anybody.
    with(&edge, &mut control, 3, change).await;
    assert_eq!(edge.client().get("/api/x").await.status, 429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_as_many_pass_as_the_limit_says() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    with(&edge, &mut control, 2, |policy| policy.routes[0].limits = vec![limit("50/s per ip")]).await;
    let begun = Instant::now();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let client = edge.client();
            tokio::spawn(async move {
                let mut passed = 0_u32;
                let mut sender = client.http1().await;
                while begun.elapsed() < Duration::from_secs(3) {
                    // A refusal ends its connection.
                    if sender.ready().await.is_err() {
                        sender = client.http1().await;
                    }
                    let Ok(response) = sender.send_request(request("GET", "/api/x", "")).await else { continue };
                    passed += u32::from(Answer::of(response).await.is_ok_and(|answer| answer.status == 200));
                }
                passed
            })
        })
        .collect();
    let mut passed = 0;
    for client in clients {
        passed += client.await.expect("joins");
    }
    let most = 50.0 + 50.0 * begun.elapsed().as_secs_f64();
    assert!(f64::from(passed) <= most + 1.0, "{passed} passed of {most}");
    // The last ones may be late on a busy machine, and are then asked for after the end.
    assert!(f64::from(passed) >= 180.0, "{passed} passed of {most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_nothing_is_refused_with_the_policy() {
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    let mut policy = edge.policy();
    policy.generation.0 = 2;
    policy.routes[0].limits = vec![Limit { requests: 0, ..limit("1/s per ip") }];
    let reason = control.offer(&policy).await.expect_err("refused");
    assert!(reason.contains("limit 0/s per ip, 1 at once of \"/api/*\" is not usable"), "{reason}");
}
