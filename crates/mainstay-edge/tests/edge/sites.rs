//! Static sites through the whole edge.

use std::path::Path;

use http_body_util::Full;
use hyper::Request;
use mainstay_edge::protocol::{Header, Route, Target};

use crate::support::client::request;
use crate::support::{Control, Edge, HOST};

const BIG: usize = 1_000_000;

async fn site(edge: &Edge) -> Control {
    let dir = edge.folder.path().join("dist");
    std::fs::create_dir_all(dir.join("assets")).expect("folders");
    std::fs::write(dir.join("index.html"), "<h1>home</h1>").expect("writes");
    std::fs::write(dir.join("assets/app-3f9aBx12.js"), "x".repeat(BIG)).expect("writes");
    std::fs::write(edge.folder.path().join("secret.txt"), "secret").expect("writes");
    std::os::unix::fs::symlink(edge.folder.path().join("secret.txt"), dir.join("link.txt")).expect("links");
    let mut control = edge.control().await;
    let mut policy = edge.policy();
    policy.routes.push(to(&dir, "/*"));
    policy.routes.push(to(&dir, "/docs/*"));
    control.accept(&policy).await;
    control
}

fn to(dir: &Path, path: &str) -> Route {
    let mut route = Route::new(path, Target::Site { dir: dir.to_owned(), spa: true, cache: Default::default() }, 1000);
    let (name, value) = ("X-Content-Type-Options".to_owned(), "nosniff".to_owned());
    route.headers = vec![Header { name, value, overwrites: false }];
    route
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_come_with_their_type_validator_and_caching_rule() {
    let edge = Edge::start().await;
    let _control = site(&edge).await;
    let home = edge.client().get("/").await;
    assert_eq!((home.status, home.text()), (200, "<h1>home</h1>"));
    assert_eq!(home.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(home.header("cache-control"), "no-cache");
    assert_eq!(home.header("x-content-type-options"), "nosniff");
    let asset = edge.client().get("/assets/app-3f9aBx12.js").await;
    assert_eq!((asset.status, asset.body.len()), (200, BIG));
    assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(edge.client().get("/docs/assets/app-3f9aBx12.js").await.body.len(), BIG);
    let head = edge.client().send(request("HEAD", "/assets/app-3f9aBx12.js", "")).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "1000000", 0));
    let known =
        Request::get("/").header("host", HOST).header("if-none-match", format!("\"x\", W/{}", home.header("etag")));
    let known = edge.client().send(known.body(Full::default()).expect("builds")).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    std::fs::write(edge.folder.path().join("dist/index.html"), "<h1>home again</h1>").expect("writes");
    assert_ne!(edge.client().get("/").await.header("etag"), home.header("etag"));
    assert_eq!(edge.client().send(request("POST", "/", "x")).await.status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_paths_are_the_application_and_nothing_else_is_reachable() {
    let edge = Edge::start().await;
    let _control = site(&edge).await;
    assert_eq!(edge.client().get("/users/7/edit").await.text(), "<h1>home</h1>");
    for missing in ["/missing.js", "/link.txt", "/assets/.git"] {
        let answer = edge.client().get(missing).await;
        assert_eq!(answer.status, 404, "{missing}");
        assert!(!answer.text().contains("secret"), "{missing}");
    }
    for wrong in ["/../secret.txt", "/%2e%2e/secret.txt", "/assets/..%2f..%2fsecret.txt", "/%00"] {
        let answer = edge.client().raw(format!("GET {wrong} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{wrong}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_is_gone_at_a_restart_takes_nothing_else_with_it() {
    let mut edge = Edge::start().await;
    let control = site(&edge).await;
    drop(control);
    edge.stop().await;
    std::fs::remove_dir_all(edge.folder.path().join("dist")).expect("removes");
    edge.run().await;
    assert_eq!(edge.client().get("/").await.status, 404);
    let lines = std::fs::read_to_string(edge.access_log()).unwrap_or_default();
    assert!(!lines.contains("no policy"), "{lines}");
}
