//! What a route asks of its clients and adds to its answers: addresses, headers, CORS, bodies, doors.

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use mainstay_edge::protocol::{Header, Policy, Target};
use mainstay_stack::browser::{Cors, Headers};
use mainstay_stack::model::TlsVersion;
use mainstay_stack::network::{Admission, Network};

use crate::support::backend::Backend;
use crate::support::client::{Answer, request};
use crate::support::{Control, Edge, HOST, eventually, route};

async fn with(edge: &Edge, control: &mut Control, generation: u64, change: impl FnOnce(&mut Policy)) {
    let mut policy = edge.policy();
    policy.generation.0 = generation;
    change(&mut policy);
    control.accept(&policy).await;
}

fn networks(texts: &[&str]) -> Vec<Network> {
    texts.iter().map(|text| text.parse().expect("a network")).collect()
}

fn header(name: &str, value: &str, overwrites: bool) -> Header {
    Header { name: name.to_owned(), value: value.to_owned(), overwrites }
}

async fn send(edge: &Edge, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut wanted = Request::builder().method(method).uri(path).header("host", HOST);
    for (name, value) in headers {
        wanted = wanted.header(*name, *value);
    }
    edge.client().send(wanted.body(Full::<Bytes>::default()).expect("builds")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_is_open_to_the_addresses_that_it_names() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    for (nth, allow, deny, expected) in [
        (2, &["10.0.0.0/8"][..], &[][..], 403),
        (3, &["10.0.0.0/8", "127.0.0.0/8"], &[], 200),
        (4, &[], &["127.0.0.1"], 403),
        (5, &["127.0.0.0/8"], &["127.0.0.1"], 403),
        (6, &[], &["10.0.0.0/8"], 200),
    ] {
        let admission = Admission { allow: networks(allow), deny: networks(deny) };
        let change = |policy: &mut Policy| {
            policy.routes[0].admission = admission;
            policy.routes.push(route("/api/open", "backend"));
        };
        with(&edge, &mut control, nth, change).await;
        assert_eq!(edge.client().get("/api/x").await.status, expected, "allow {allow:?}, deny {deny:?}");
        assert_eq!(edge.client().get("/api/open").await.status, 200, "another route is another matter");
    }
    assert_eq!(backend.hits(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_guards_a_route_is_not_walked_around_by_another_spelling_of_its_path() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let change = |policy: &mut Policy| {
        let mut admin = route("/admin/*", "backend");
        admin.admission.deny = networks(&["127.0.0.0/8"]);
        policy.routes.extend([admin, route("/*", "backend")]);
    };
    with(&edge, &mut control, 2, change).await;
    assert_eq!(edge.client().get("/admin/x").await.status, 403);
    for path in ["/%61dmin/x", "//admin/x", "/admin%2Fx", "/admin;a=b/x", "/;a/admin/x", "/x/..;/admin/x", "/%61dmin"] {
        let mut sender = edge.client().http2().await;
        let wanted = Request::get(format!("https://{HOST}{path}")).body(Full::<Bytes>::default()).expect("builds");
        for status in
            [edge.client().get(path).await.status, sender.send_request(wanted).await.expect(path).status().as_u16()]
        {
            assert_eq!(status, 400, "{path}");
        }
    }
    assert_eq!(backend.hits(), 0);
    for path in ["/caf%C3%A9/x", "/a;v=1/b", "/a//b", "/a%2Fb", "/administrators", "/api/admin"] {
        assert_eq!(edge.client().get(path).await.status, 200, "{path}");
    }
    assert_eq!(backend.hits(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_address_is_cut_off_before_tls_and_in_connections_it_already_had() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let mut kept = edge.client().http1().await;
    with(&edge, &mut control, 2, |policy| policy.admission.deny = networks(&["127.0.0.0/8"])).await;
    assert!(edge.client().tls(HOST, &[]).await.is_err());
    assert_eq!(control.metric("mainstay_edge_connections_refused_total").await, 1);
    kept.ready().await.expect("kept");
    let answer = kept.send_request(request("GET", "/api/x", "")).await.expect("answer");
    assert_eq!(answer.status(), 403);
    assert_eq!(backend.hits(), 0);
    with(&edge, &mut control, 3, |_| ()).await;
    assert_eq!(edge.client().get("/api/x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_no_more_connections_than_it_may_and_gets_places_back() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    with(&edge, &mut control, 2, |policy| policy.connections_per_ip = Some(3)).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(edge.client().tls(HOST, &[]).await.expect("a place"));
    }
    assert!(edge.client().tls(HOST, &[]).await.is_err(), "a fourth");
    open.clear();
    eventually("a place that was given back", async || edge.client().tls(HOST, &[]).await.ok()).await;
    assert_eq!(edge.client().get("/api/x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_as_new_as_the_policy_asks() {
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    let versions = [&rustls::version::TLS12, &rustls::version::TLS13];
    for (nth, least, expected) in [
        (2, TlsVersion::Tls12, [true, true]),
        (3, TlsVersion::Tls13, [false, true]),
        (4, TlsVersion::Tls12, [true, true]),
    ] {
        with(&edge, &mut control, nth, |policy| policy.least_tls = least).await;
        for (version, expected) in versions.into_iter().zip(expected) {
            let connected = edge.client().tls_of(HOST, &["http/1.1"], &[version]).await.is_ok();
            assert_eq!(connected, expected, "{:?} where {least:?} is the least", version.version);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_are_added_where_the_service_says_nothing_and_replace_its_word_when_told() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let strict = Headers { is_strict: true, overwrites: false, set: [].into() }.lines("shop.example.com");
    let strict: Vec<Header> = strict.iter().map(|(name, value)| header(name, value, false)).collect();
    assert!(strict.len() >= 7);
    let site = edge.folder.path().join("site");
    std::fs::create_dir_all(&site).expect("folder");
    std::fs::write(site.join("index.html"), "home").expect("writes");
    let change = |policy: &mut Policy| {
        policy.routes[0].headers = strict.clone();
        policy.routes[0].headers.push(header("Keep-Alive-Hint", "ours", false));
        policy.routes.push(route("/api/framed", "backend"));
        policy.routes[1].headers = vec![header("X-Frame-Options", "DENY", false)];
        policy.routes.push(route("/api/framed/hard", "backend"));
        policy.routes[2].headers = vec![header("X-Frame-Options", "DENY", true)];
        policy.routes.push(route("/api/bare", "backend"));
        policy.routes.push(route("/site/*", ""));
        policy.routes[4].to = Target::Site { dir: site, spa: false, cache: Default::default() };
        policy.routes[4].headers = strict.clone();
    };
    with(&edge, &mut control, 2, change).await;
    for path in ["/api/x", "/site/", "/site/none"] {
        let answer = edge.client().get(path).await;
        for header in &strict {
            assert_eq!(answer.header(&header.name), header.value, "{path}");
        }
    }
    assert_eq!(edge.client().get("/api/framed").await.header("x-frame-options"), "SAMEORIGIN");
    let hard = edge.client().get("/api/framed/hard").await;
    assert_eq!(hard.headers.get_all("x-frame-options").iter().count(), 1);
    assert_eq!(hard.header("x-frame-options"), "DENY");
    assert_eq!(edge.client().get("/api/bare").await.header("content-security-policy"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_cannot_be_sent_is_refused_with_the_policy() {
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    let mut policy = edge.policy();
    policy.generation.0 = 2;
    policy.routes[0].headers = vec![header("X-A", "a\r\nSet-Cookie: b", false)];
    let reason = control.offer(&policy).await.expect_err("refused");
    assert!(reason.contains("header \"X-A\" of route /api/* cannot be sent"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_may_send_its_clients_elsewhere() {
    let edge = Edge::start().await;
    let mut control = edge.with(&[]).await;
    let to = |path: &str, location: &str, status| {
        let mut route = route(path, "");
        route.to = Target::Redirect { location: location.to_owned(), status };
        route
    };
    let change = |policy: &mut Policy| {
        policy.routes =
            vec![to("/old/*", "/new/*", 308), to("/away/*", "https://b.example/x/*", 307), to("/one", "/two?a=1", 301)];
        policy.routes[0].limits = vec!["7/h per ip".parse().expect("a limit")];
    };
    with(&edge, &mut control, 2, change).await;
    for (path, status, location) in [
        ("/old/a/b?c=d", 308, "/new/a/b?c=d"),
        ("/old", 308, "/new/"),
        ("/old//evil.example", 308, "/new/evil.example"),
        ("/away/%41?x", 307, "https://b.example/x/%41?x"),
        ("/one?b=2", 301, "/two?a=1&b=2"),
    ] {
        let answer = edge.client().get(path).await;
        assert_eq!((answer.status, answer.header("location")), (status, location), "{path}");
    }
    assert_eq!(edge.client().get("/old/x").await.header("ratelimit-policy"), "\"ip\";q=7;w=3600");
    let mut policy = edge.policy();
    policy.generation.0 = 3;
    policy.routes = vec![to("/x", "/y", 200)];
    assert!(control.offer(&policy).await.expect_err("refused").contains("a status that is none"));
}

fn cors(origins: &[&str], has_credentials: bool) -> Option<Cors> {
    let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Some(Cors {
        origins: own(origins),
        methods: own(&["GET", "PUT"]),
        headers: own(&["content-type"]),
        expose: own(&["etag"]),
        has_credentials,
        max_age: std::time::Duration::from_secs(600),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_sites_may_use_a_route_that_names_them() {
    const ORIGIN: &str = "https://app.example.com";
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let change = |policy: &mut Policy| {
        policy.routes[0].cors = cors(&[ORIGIN], true);
        policy.routes.push(route("/api/public", "backend"));
        policy.routes[1].cors = cors(&["*"], false);
        policy.routes.push(route("/api/own", "backend"));
    };
    with(&edge, &mut control, 2, change).await;
    let asks = ("access-control-request-method", "PUT");
    let before = send(&edge, "OPTIONS", "/api/x", &[("origin", ORIGIN), asks]).await;
    for (name, expected) in [
        ("access-control-allow-origin", ORIGIN),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-headers", "content-type"),
        ("access-control-max-age", "600"),
        ("vary", "Origin"),
    ] {
        assert_eq!(before.header(name), expected, "{name}");
    }
    assert_eq!((before.status, backend.hits()), (204, 0), "a preflight is answered here");
    let answer = send(&edge, "GET", "/api/crossing", &[("origin", ORIGIN)]).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, ORIGIN));
    assert_eq!(answer.headers.get_all("access-control-allow-origin").iter().count(), 1, "one voice: the edge's");
    assert_eq!(answer.header("access-control-expose-headers"), "etag");
    for stranger in ["https://app.example.com.evil.example", "https://evil.example", "null", "http://app.example.com"] {
        let refused = send(&edge, "OPTIONS", "/api/x", &[("origin", stranger), asks]).await;
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, ""), "{stranger}");
        let answer = send(&edge, "GET", "/api/crossing", &[("origin", stranger)]).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, ""), "{stranger}");
        assert_eq!(answer.header("vary"), "Origin");
    }
    assert_eq!(send(&edge, "GET", "/api/x", &[]).await.header("access-control-allow-origin"), "");
    let all = send(&edge, "GET", "/api/public", &[("origin", "https://evil.example")]).await;
    assert_eq!((all.header("access-control-allow-origin"), all.header("vary")), ("*", ""));
    // A route that says nothing leaves all of it to the service.
    let own = send(&edge, "OPTIONS", "/api/own", &[("origin", ORIGIN), asks]).await;
    assert_eq!((own.status, own.text()), (200, "a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_as_long_as_its_route_takes() {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    with(&edge, &mut control, 2, |policy| policy.routes[0].body_limit = 1000).await;
    let fits = edge.client().send(request("POST", "/api/echo", &"x".repeat(1000))).await;
    assert_eq!((fits.status, fits.body.len()), (200, 1000));
    let before = backend.hits();
    let long = edge.client().send(request("POST", "/api/echo", &"x".repeat(1001))).await;
    assert_eq!((long.status, backend.hits()), (413, before), "one that says so is not even begun");
    let head = format!("POST /api/echo HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let answer = edge.client().raw(format!("{head}3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    with(&edge, &mut control, 3, |policy| policy.routes[0].body_limit = 0).await;
    assert_eq!(edge.client().get("/api/x").await.status, 200);
    assert_eq!(edge.client().send(request("POST", "/api/echo", "x")).await.status, 413);
}
