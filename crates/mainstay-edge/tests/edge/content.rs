//! What goes out: parts of files, validators, codings, caching rules.

use std::io::Read;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use mainstay_edge::protocol::{BasicAuth, Route, Target};
use mainstay_stack::model::SiteCache;
use mainstay_types::Secret;

use crate::support::backend::Backend;
use crate::support::client::{Answer, request};
use crate::support::{Control, Edge, HOST};

/// An edge with a site under `/*` and a service under `/api/*`, both compressed from 1 KiB on.
async fn edge(cache: SiteCache) -> (Edge, Control, Backend) {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let dir = edge.folder.path().join("dist");
    std::fs::create_dir_all(&dir).expect("folder");
    std::fs::write(dir.join("index.html"), "<p>home</p>".repeat(200)).expect("writes");
    std::fs::write(dir.join("digits.txt"), "0123456789").expect("writes");
    std::fs::write(dir.join("app-3f9aBx12.js"), script()).expect("writes");
    std::fs::write(dir.join("picture.png"), script()).expect("writes");
    let mut control = edge.with(&[backend.endpoint()]).await;
    let mut policy = edge.policy();
    policy.generation.0 = 2;
    policy.routes.push(Route::new("/*", Target::Site { dir, spa: true, cache }, 1000));
    policy.routes.iter_mut().for_each(|route| route.compress = Some(1024));
    control.accept(&policy).await;
    (edge, control, backend)
}

fn script() -> String {
    (0..3000).map(|number| format!("call({number});\n")).collect()
}

async fn get(edge: &Edge, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut wanted = Request::get(path).header("host", HOST);
    for (name, value) in headers {
        wanted = wanted.header(*name, *value);
    }
    edge.client().send(wanted.body(Full::default()).expect("builds")).await
}

fn decoded(answer: &Answer) -> String {
    let mut text = String::new();
    let body = &answer.body[..];
    match answer.header("content-encoding") {
        "gzip" => flate2::read::GzDecoder::new(body).read_to_string(&mut text).expect("gzip"),
        "br" => brotli::Decompressor::new(body, 4096).read_to_string(&mut text).expect("brotli"),
        "zstd" => zstd::stream::read::Decoder::new(body).expect("zstd").read_to_string(&mut text).expect("zstd"),
        other => panic!("coding {other}"),
    };
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_a_file_is_sent_when_it_is_there_and_of_the_same_file() {
    let (edge, _control, _backend) = edge(SiteCache::Assets).await;
    let whole = get(&edge, "/digits.txt", &[]).await;
    assert_eq!((whole.status, whole.text(), whole.header("accept-ranges")), (200, "0123456789", "bytes"));
    let (etag, modified) = (whole.header("etag").to_owned(), whole.header("last-modified").to_owned());
    assert!(modified.ends_with(" GMT"), "{modified}");
    for (range, text, content_range) in [
        ("bytes=0-0", "0", "bytes 0-0/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=4-99", "456789", "bytes 4-9/10"),
    ] {
        let part = get(&edge, "/digits.txt", &[("range", range)]).await;
        assert_eq!((part.status, part.text(), part.header("content-range")), (206, text, content_range), "{range}");
        assert_eq!(part.header("content-length"), text.len().to_string());
    }
    let beyond = get(&edge, "/digits.txt", &[("range", "bytes=10-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range"), beyond.body.len()), (416, "bytes */10", 0));
    for several in ["bytes=0-1,3-4", "bytes=9-3", "words=0-1"] {
        assert_eq!(get(&edge, "/digits.txt", &[("range", several)]).await.status, 200, "{several}");
    }
    for (same, status) in
        [(etag.as_str(), 206), (modified.as_str(), 206), ("\"other\"", 200), ("Thu, 01 Jan 1970 00:00:00 GMT", 200)]
    {
        let part = get(&edge, "/digits.txt", &[("range", "bytes=0-1"), ("if-range", same)]).await;
        assert_eq!(part.status, status, "{same}");
    }
    // A part is of the plain file, whatever else the client takes.
    let part = get(&edge, "/app-3f9aBx12.js", &[("range", "bytes=5-8"), ("accept-encoding", "gzip, br")]).await;
    assert_eq!((part.status, part.text(), part.header("content-encoding")), (206, "0);\n", ""));
    let head = edge.client().send(request("HEAD", "/digits.txt", "")).await;
    assert_eq!((head.status, head.header("content-length"), head.header("accept-ranges")), (200, "10", "bytes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_file_is_not_sent_it_again() {
    let (edge, _control, _backend) = edge(SiteCache::Assets).await;
    let whole = get(&edge, "/digits.txt", &[]).await;
    let modified = whole.header("last-modified");
    assert_eq!(get(&edge, "/digits.txt", &[("if-modified-since", modified)]).await.status, 304);
    let early = "Thu, 01 Jan 1970 00:00:00 GMT";
    assert_eq!(get(&edge, "/digits.txt", &[("if-modified-since", early)]).await.status, 200);
    assert_eq!(get(&edge, "/digits.txt", &[("if-modified-since", "yesterday")]).await.status, 200);
    // The tag counts more than the date.
    let both = [("if-none-match", "\"other\""), ("if-modified-since", modified)];
    assert_eq!(get(&edge, "/digits.txt", &both).await.status, 200);
    let known = get(&edge, "/digits.txt", &[("if-none-match", whole.header("etag")), ("range", "bytes=0-1")]).await;
    assert_eq!((known.status, known.header("etag")), (304, whole.header("etag")));
    // Another coding is another content.
    let script = get(&edge, "/app-3f9aBx12.js", &[("accept-encoding", "gzip")]).await;
    let again = [("accept-encoding", "gzip"), ("if-none-match", script.header("etag"))];
    let known = get(&edge, "/app-3f9aBx12.js", &again).await;
    assert_eq!((known.status, known.header("vary")), (304, "Accept-Encoding"));
    let other = [("accept-encoding", "br"), ("if-none-match", script.header("etag"))];
    assert_eq!(get(&edge, "/app-3f9aBx12.js", &other).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_encoded_as_the_client_likes_best() {
    let (edge, _control, _backend) = edge(SiteCache::Assets).await;
    for (accepted, coding) in
        [("gzip, deflate, br, zstd", "br"), ("zstd, gzip", "zstd"), ("gzip;q=1, br;q=0.1", "gzip")]
    {
        for _ in 0..2 {
            let answer = get(&edge, "/app-3f9aBx12.js", &[("accept-encoding", accepted)]).await;
            assert_eq!((answer.status, answer.header("content-encoding")), (200, coding), "{accepted}");
            assert_eq!(answer.header("vary"), "Accept-Encoding");
            assert_eq!(answer.header("content-length"), answer.body.len().to_string());
            assert!(answer.body.len() * 3 < script().len(), "{coding}: {}", answer.body.len());
            assert_eq!(decoded(&answer), script());
        }
    }
    let plain = get(&edge, "/app-3f9aBx12.js", &[("accept-encoding", "identity")]).await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "Accept-Encoding"));
    assert_eq!(plain.text(), script());
    for unchanged in ["/picture.png", "/digits.txt"] {
        let answer = get(&edge, unchanged, &[("accept-encoding", "br, gzip")]).await;
        assert_eq!((answer.header("content-encoding"), answer.header("vary")), ("", ""), "{unchanged}");
    }
    // What the build has encoded is taken as it is.
    let beside = edge.folder.path().join("dist/app-3f9aBx12.js.gz");
    std::fs::write(&beside, "encoded by the build").expect("writes");
    let answer = get(&edge, "/app-3f9aBx12.js", &[("accept-encoding", "gzip")]).await;
    assert_eq!((answer.text(), answer.header("content-encoding")), ("encoded by the build", "gzip"));
    assert_eq!(answer.header("content-type"), "text/javascript; charset=utf-8");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_a_service_are_compressed_unless_they_may_not() {
    let (edge, mut control, _backend) = edge(SiteCache::Assets).await;
    let plain = get(&edge, "/api/text", &[]).await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "Accept-Encoding"));
    for coding in ["zstd", "br", "gzip"] {
        let answer = get(&edge, "/api/text", &[("accept-encoding", coding)]).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (200, coding));
        assert_eq!((answer.header("vary"), answer.header("etag")), ("Accept-Encoding", "W/\"1\""));
        assert_eq!((answer.header("accept-ranges"), answer.header("content-length")), ("", ""));
        assert_eq!(decoded(&answer), plain.text(), "{coding}");
        assert!(answer.body.len() * 10 < plain.body.len(), "{coding}: {}", answer.body.len());
    }
    let mut sender = edge.client().http2().await;
    let wanted = Request::get(format!("https://{HOST}/api/text")).header("accept-encoding", "gzip");
    let answer = sender.send_request(wanted.body(Full::default()).expect("builds")).await.expect("answer");
    assert_eq!(decoded(&Answer::of(answer).await.expect("body")), plain.text());
    for left_alone in ["/api/text/cookie", "/api/text/fixed", "/api/x"] {
        let answer = get(&edge, left_alone, &[("accept-encoding", "gzip")]).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (200, ""), "{left_alone}");
        assert!(!answer.header("content-length").is_empty(), "{left_alone}");
    }
    let wanted = Request::head("/api/text").header("host", HOST).header("accept-encoding", "gzip");
    let head = edge.client().send(wanted.body(Full::default()).expect("builds")).await;
    assert_eq!((head.status, head.header("content-encoding")), (200, ""));
    // Nobody asked for it.
    let mut policy = edge.policy();
    policy.generation.0 = 3;
    control.accept(&policy).await;
    let answer = get(&edge, "/api/text", &[("accept-encoding", "gzip")]).await;
    assert_eq!((answer.header("content-encoding"), answer.header("vary")), ("", ""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_route_sets_wins_over_the_site_but_not_over_how_an_answer_is_encoded() {
    let (edge, mut control, _backend) = edge(SiteCache::Assets).await;
    let mut policy = edge.policy();
    policy.generation.0 = 3;
    let dir = edge.folder.path().join("dist");
    policy.routes.push(Route::new("/*", Target::Site { dir, spa: true, cache: SiteCache::Assets }, 1000));
    for route in &mut policy.routes {
        route.compress = Some(1024);
        for (name, value) in [("Cache-Control", "max-age=7"), ("Vary", "Origin")] {
            route.edits.response.set.insert(name.to_owned(), value.to_owned());
        }
    }
    control.accept(&policy).await;
    for path in ["/api/text", "/app-3f9aBx12.js"] {
        let answer = get(&edge, path, &[("accept-encoding", "gzip")]).await;
        assert_eq!(
            (answer.header("content-encoding"), answer.header("cache-control")),
            ("gzip", "max-age=7"),
            "{path}"
        );
        let varies: Vec<&str> =
            answer.headers.get_all("vary").iter().map(|value| value.to_str().expect("text")).collect();
        assert_eq!(varies, ["Origin", "Accept-Encoding"], "{path}");
    }
    assert_eq!(get(&edge, "/nothing.js", &[]).await.header("vary"), "Origin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_behind_a_password_is_kept_by_whoever_knows_it_only() {
    let (edge, mut control, _backend) = edge(SiteCache::Assets).await;
    let mut policy = edge.policy();
    policy.generation.0 = 3;
    let dir = edge.folder.path().join("dist");
    let mut route = Route::new("/*", Target::Site { dir, spa: true, cache: SiteCache::Assets }, 1000);
    route.basic_auth = Some(BasicAuth::new("salt", [("alice", &Secret::new("word"))]));
    policy.routes.push(route);
    control.accept(&policy).await;
    let word = format!("Basic {}", STANDARD.encode("alice:word"));
    let answer = get(&edge, "/app-3f9aBx12.js", &[("authorization", &word)]).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "private, max-age=31536000, immutable"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_a_compressed_stream_arrive_when_they_are_sent() {
    let (edge, _control, _backend) = edge(SiteCache::Assets).await;
    let mut sender = edge.client().http1().await;
    let wanted = Request::get("/api/lines").header("host", HOST).header("accept-encoding", "zstd");
    let begun = Instant::now();
    let response = sender.send_request(wanted.body(Full::default()).expect("builds")).await.expect("answer");
    assert_eq!(response.headers()["content-encoding"], "zstd");
    let mut body = response.into_body();
    let first = body.frame().await.expect("a piece").expect("reads").into_data().expect("data");
    assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
    let rest = body.collect().await.expect("body").to_bytes();
    let all = [first, rest].concat();
    let text = zstd::stream::decode_all(&all[..]).expect("zstd");
    assert_eq!(String::from_utf8(text).expect("text"), "{\"line\":0}\n{\"line\":1}\n{\"line\":2}\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_kept_as_the_profile_says() {
    let day = SiteCache::For { time: Duration::from_secs(86_400) };
    for (cache, page, asset, other) in [
        (SiteCache::Assets, "no-cache", "public, max-age=31536000, immutable", "no-cache"),
        (SiteCache::Revalidate, "no-cache", "no-cache", "no-cache"),
        (SiteCache::NoStore, "no-store", "no-store", "no-store"),
        (day, "no-cache", "public, max-age=86400", "public, max-age=86400"),
    ] {
        let (edge, _control, _backend) = edge(cache).await;
        for (path, expected) in [("/", page), ("/users/7", page), ("/app-3f9aBx12.js", asset), ("/digits.txt", other)] {
            assert_eq!(get(&edge, path, &[]).await.header("cache-control"), expected, "{cache:?} {path}");
        }
    }
}
