//! Who is let in with a token, what the service is told, and what no client can say in its place.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::Full;
use hyper::Request;
use mainstay_edge::protocol::{FromEdge, Issuer, Policy};
use mainstay_stack::identity::{self, Algorithm, Entry, Keys, Roles};
use mainstay_types::Secret;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::support::backend::Backend;
use crate::support::client::Answer;
use crate::support::jwks::{Answers, Jwks};
use crate::support::{Control, Edge, HOST, eventually, now, route};

const SECRET: &str = "0123456789abcdef0123456789abcdef01234567";

fn seconds() -> i64 {
    now().as_micros() / 1_000_000
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What a good token says; `more` changes it.
fn claims(more: Value) -> Value {
    let mut claims = json!({
        "iss": "https://login.example.com/", "sub": "alice", "aud": "shop", "exp": seconds() + 600,
        "roles": ["reader", "clerk"],
    });
    let fields = claims.as_object_mut().expect("an object");
    for (name, value) in more.as_object().expect("an object") {
        if value.is_null() {
            fields.remove(name)
        } else {
            fields.insert(name.clone(), value.clone())
        };
    }
    claims
}

fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let text = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
    let signature = sign(text.as_bytes());
    format!("{text}.{}", b64(signature))
}

fn hs256(more: Value) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    signed(&json!({ "alg": "HS256", "typ": "JWT" }), &claims(more), |text| hmac::sign(&key, text).as_ref().to_vec())
}

/// A key of an issuer.
struct Signer {
    kid: &'static str,
    pair: EcdsaKeyPair,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        let (random, of) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(of, &random).expect("a key");
        Self { kid, pair: EcdsaKeyPair::from_pkcs8(of, document.as_ref(), &random).expect("a key") }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        json!({ "kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "x": b64(&point[1..33]), "y": b64(&point[33..]) })
    }

    fn token(&self) -> String {
        let header = json!({ "alg": "ES256", "kid": self.kid });
        signed(&header, &claims(json!({})), |text| {
            self.pair.sign(&SystemRandom::new(), text).expect("signs").as_ref().to_vec()
        })
    }
}

fn set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }).to_string()
}

fn rule(algorithm: Algorithm, keys: Keys) -> identity::Issuer {
    identity::Issuer {
        issuer: Some("https://login.example.com/".to_owned()),
        audience: vec!["shop".to_owned()],
        algorithm,
        keys,
        typ: None,
        leeway: Duration::from_secs(5),
        roles: vec!["roles".to_owned()],
    }
}

fn own() -> Issuer {
    let rule = rule(Algorithm::HS256, Keys::Secret { name: "JWT_KEY".to_owned() });
    Issuer { rule, secret: Some(Secret::new(SECRET)) }
}

fn fetched(url: &str, is_private: bool, roots: Option<std::path::PathBuf>) -> Issuer {
    let keys = Keys::Url { url: url.to_owned(), roots, is_private, max_age: Duration::from_secs(1) };
    Issuer { rule: rule(Algorithm::ES256, keys), secret: None }
}

fn roles(of: &[(&str, &[&str])]) -> Roles {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Roles(of.iter().map(|(method, names)| ((*method).to_owned(), set(names))).collect())
}

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

/// With this issuer for all of `/api/*`, and nobody for `/open/*`.
fn guarded(issuer: Issuer, roles: Roles) -> impl FnOnce(&mut Policy) {
    move |policy| {
        policy.issuers.insert("staff".to_owned(), issuer);
        policy.schema = Policy::schema_of(&policy.issuers, None);
        policy.routes[0].identity = Some(Entry { issuer: "staff".to_owned(), roles });
        policy.routes.push(route("/open/*", "backend"));
    }
}

async fn ask(edge: &Edge, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut wanted = Request::builder().method(method).uri(path).header("host", HOST);
    for (name, value) in headers {
        wanted = wanted.header(*name, *value);
    }
    edge.client().send(wanted.body(Full::default()).expect("builds")).await
}

async fn get(edge: &Edge, token: &str) -> Answer {
    ask(edge, "GET", "/api/headers", &[("authorization", &format!("Bearer {token}"))]).await
}

fn seen(answer: &Answer) -> BTreeMap<String, Vec<String>> {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

/// Tokens that nobody is let in with, of a good one, and what is said of each.
fn bad(good: &str) -> Vec<(String, &'static str)> {
    let soon = seconds();
    let parts: Vec<&str> = good.split('.').collect();
    let head = |text: &str| format!("{}.{}.{}", b64(text), parts[1], parts[2]);
    vec![
        (hs256(json!({ "exp": soon - 6 })), "token is expired"),
        (hs256(json!({ "nbf": soon + 60 })), "token is not valid yet"),
        (hs256(json!({ "exp": null })), "token has no exp"),
        (hs256(json!({ "aud": "other" })), "token is for another audience"),
        (hs256(json!({ "aud": null })), "token is for another audience"),
        (hs256(json!({ "iss": "https://evil.example/" })), "token is of another issuer"),
        (
            hs256(json!({ "sub": "a\r\nX-Forwarded-Roles: admin" })),
            "token has no sub of 1 to 256 visible ASCII characters",
        ),
        (head("{\"alg\":\"none\"}"), "token is not signed with the issuer's algorithm"),
        (format!("{}.{}.", b64("{\"alg\":\"none\"}"), parts[1]), "token is not signed with the issuer's algorithm"),
        (head("{\"alg\":\"RS256\"}"), "token is not signed with the issuer's algorithm"),
        (
            head("{\"alg\":\"HS256\",\"crit\":[\"b64\"],\"b64\":false}"),
            "token has critical headers, none of which is understood",
        ),
        (head("{\"alg\":\"none\",\"alg\":\"HS256\"}"), "token has a name twice"),
        (head("{\"alg\":\"HS256\"}"), "signature of the token is wrong"),
        (format!("{}.{}", parts[0], parts[1]), "token is not of the form of a signed JWT"),
        ("x".repeat(9000), "token is longer than 8 KiB"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_a_good_token_is_let_in_and_everybody_else_is_told_why_not() {
    let needed = roles(&[("GET", &["reader", "admin"]), ("DELETE", &["admin"]), ("PUT", &[])]);
    let (edge, mut control, backend) = edge(guarded(own(), needed)).await;
    let good = hs256(json!({}));
    let answer = get(&edge, &good).await;
    assert_eq!(answer.status, 200);
    let told = seen(&answer);
    assert_eq!(told["x-forwarded-user"], ["alice"]);
    assert_eq!(told["x-forwarded-roles"], ["reader, clerk"]);
    assert_eq!(told["x-forwarded-issuer"], ["https://login.example.com/"]);
    assert_eq!(told["authorization"], [format!("Bearer {good}")], "the service may look for itself");
    let hits = backend.hits();
    let none = ask(&edge, "GET", "/api/headers", &[]).await;
    assert_eq!((none.status, none.header("www-authenticate")), (401, "Bearer realm=\"staff\""));
    let parts: Vec<&str> = good.split('.').collect();
    for (token, description) in bad(&good) {
        let answer = get(&edge, &token).await;
        assert_eq!(answer.status, 401, "{description}");
        let expected = format!("Bearer realm=\"staff\", error=\"invalid_token\", error_description=\"{description}\"");
        assert_eq!(answer.header("www-authenticate"), expected);
        assert!(!answer.text().contains(parts[2]) && !answer.text().contains("evil.example"), "{}", answer.text());
    }
    let bearer = format!("Bearer {good}");
    let twice = [("authorization", bearer.as_str()), ("authorization", "Bearer x")];
    let answer = ask(&edge, "GET", "/api/headers", &twice).await;
    assert_eq!(answer.status, 400);
    assert!(answer.header("www-authenticate").contains("error=\"invalid_request\""));
    for (method, status) in [("PUT", 200), ("HEAD", 200), ("DELETE", 403), ("POST", 403)] {
        let answer = ask(&edge, method, "/api/x", &[("authorization", &bearer)]).await;
        assert_eq!(answer.status, status, "{method}");
        let is_told = answer.header("www-authenticate").contains("error=\"insufficient_scope\"");
        assert_eq!(is_told, status == 403, "{method}");
    }
    assert_eq!(backend.hits(), hits + 2, "what is refused reaches nobody");
    assert_eq!(control.metric("mainstay_edge_identity_verified_total{identity=\"staff\"} ").await, 3);
    let expired = "mainstay_edge_identity_refused_total{identity=\"staff\",reason=\"token is expired\"} ";
    assert_eq!(control.metric(expired).await, 1);
    let log = eventually("the lines", async || {
        let text = std::fs::read_to_string(edge.access_log()).ok()?;
        (text.lines().count() == 22).then_some(text)
    })
    .await;
    assert!(log.contains("\"user\":\"alice\"") && log.contains("\"reason\":\"token is expired\""), "{log}");
    let page = control.metrics().await;
    for text in [&log, &page] {
        assert!(!text.contains(parts[2]) && !text.contains(SECRET), "{text}");
    }
}

/// What the service saw of headers by which it could take somebody for another.
fn forged(told: &BTreeMap<String, Vec<String>>) -> Vec<(&String, &Vec<String>)> {
    let is_about = |name: &str| ["user", "roles", "issuer"].iter().any(|part| name.contains(part));
    told.iter().filter(|(name, _)| name.contains("forwarded") && is_about(name)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_says_who_it_is_by_itself() {
    let (edge, _control, _backend) = edge(guarded(own(), Roles::any())).await;
    let bearer = format!("Bearer {}", hs256(json!({ "roles": [] })));
    let names = [
        "x-forwarded-user",
        "x_forwarded_user",
        "X-Forwarded_User",
        "x.forwarded.user",
        "x-forwarded-roles",
        "x_forwarded_roles",
        "X-FORWARDED-ISSUER",
        "x!forwarded!roles",
    ];
    let mut headers: Vec<(&str, &str)> = names.iter().map(|name| (*name, "admin")).collect();
    let open = ask(&edge, "GET", "/open/../api/headers", &headers).await;
    assert_eq!(open.status, 400);
    let open = edge_open(&edge, &headers).await;
    assert_eq!(forged(&open), [], "where nobody is asked, nobody is told");
    headers.push(("authorization", &bearer));
    let told = seen(&ask(&edge, "GET", "/api/headers", &headers).await);
    let found: Vec<_> = forged(&told).into_iter().map(|(name, values)| (name.as_str(), values.join("|"))).collect();
    let issuer = "https://login.example.com/".to_owned();
    assert_eq!(
        found,
        [
            ("x-forwarded-issuer", issuer),
            ("x-forwarded-roles", String::new()),
            ("x-forwarded-user", "alice".to_owned()),
        ]
    );
    // Named as the connection's own, with and without an upgrade; and as trailers.
    for connection in
        ["X-Forwarded-User, close", "close, x-forwarded-roles, x-forwarded-user", "Upgrade, X-Forwarded-User"]
    {
        let upgrade = if connection.contains("Upgrade") { "Upgrade: h2c\r\n" } else { "" };
        let raw = format!(
            "GET /api/headers HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: {bearer}\r\nX-Forwarded-User: root\r\n\
             {upgrade}Connection: {connection}\r\n\r\nGET /nothing HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
        );
        let answer = edge.client().raw(raw.as_bytes()).await;
        assert!(answer.contains("\"x-forwarded-user\":[\"alice\"]"), "{connection}: {answer}");
        assert!(
            !answer.contains("root") && !answer.to_lowercase().contains("\"connection\":[\"upgrade, x-f"),
            "{answer}"
        );
    }
    let raw = format!(
        "POST /api/headers HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: {bearer}\r\nTrailer: X-Forwarded-User\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\nX-Forwarded-User: root\r\n\r\n"
    );
    let answer = edge.client().raw(raw.as_bytes()).await;
    assert!(!answer.contains("root") && !answer.contains("\"trailer\""), "{answer}");
    assert!(answer.contains("\"x-forwarded-user\":[\"alice\"]") || answer.contains(" 400 "), "{answer}");
    // The other protocol has its own way in.
    let mut sender = edge.client().http2().await;
    let wanted = Request::get(format!("https://{HOST}/api/headers"))
        .header("authorization", &bearer)
        .header("x-forwarded-user", "root")
        .header("x_forwarded_roles", "root")
        .body(Full::default())
        .expect("builds");
    let answer = Answer::of(sender.send_request(wanted).await.expect("answer")).await.expect("body");
    assert_eq!(seen(&answer)["x-forwarded-user"], ["alice"]);
    assert!(!answer.text().contains("root"), "{}", answer.text());
}

/// What the service sees of a route that asks nobody.
async fn edge_open(edge: &Edge, headers: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    let mut wanted = Request::get("/open/headers").header("host", HOST);
    for (name, value) in headers {
        wanted = wanted.header(*name, *value);
    }
    let answer = edge.client().send(wanted.body(Full::default()).expect("builds")).await;
    assert_eq!(answer.status, 200);
    serde_json::from_slice(&answer.body).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_renewed_and_kept_while_the_issuer_is_away() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let jwks = Jwks::start(Answers::Slow(set(&[&old]))).await;
    let issuer = fetched(&jwks.url(), true, None);
    let (mut edge, mut control, _backend) = edge(guarded(issuer, Roles::any())).await;
    assert_eq!(get(&edge, &old.token()).await.status, 200, "the first request waits for the first keys");
    assert_eq!(get(&edge, &new.token()).await.status, 401, "nobody knows that key");
    jwks.answer(Answers::Text(set(&[&new])));
    eventually("the new key", async || (get(&edge, &new.token()).await.status == 200).then_some(())).await;
    assert_eq!(get(&edge, &old.token()).await.status, 401, "withdrawn");
    for (answers, reason) in [
        (Answers::Elsewhere, "answers 302, which leads elsewhere"),
        (Answers::Status(500), "answers 500"),
        (Answers::Text("{}".to_owned()), "no list of keys"),
        (Answers::Text(set(&[])), "no key in it fits ES256"),
        (Answers::Text(" ".repeat(300 * 1024)), "longer than 256 KiB"),
    ] {
        jwks.answer(answers);
        let (keys, found) = control
            .wait(|frame| match frame {
                FromEdge::KeysChanged { keys, failure: Some(failure), .. } if failure.contains(reason) => {
                    Some((keys, failure))
                }
                _ => None,
            })
            .await;
        assert_eq!(keys, 1, "{found}");
        assert_eq!(get(&edge, &new.token()).await.status, 200, "{reason}");
    }
    assert_eq!(control.metric("mainstay_edge_identity_keys_failing{identity=\"staff\"} ").await, 1);
    let asked = jwks.stop().await;
    assert!(asked.iter().all(|path| path == "/keys"), "nobody follows: {asked:?}");
    edge.stop().await;
    edge.run().await;
    let mut control = edge.control().await;
    eventually("the endpoints", async || (get(&edge, &new.token()).await.status == 200).then_some(())).await;
    assert_eq!(control.metric("mainstay_edge_identity_keys{identity=\"staff\"} ").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_from_who_has_a_certificate_and_from_no_private_network_unasked() {
    let signer = Signer::new("a");
    let folder = tempfile::tempdir().expect("folder");
    let jwks = Jwks::start_tls(&folder.path().join("ca"), Answers::Text(set(&[&signer]))).await;
    let (edge, mut control, _backend) =
        edge(guarded(fetched(&jwks.url(), true, Some(folder.path().join("ca/ca.pem"))), Roles::any())).await;
    eventually("the keys", async || (get(&edge, &signer.token()).await.status == 200).then_some(())).await;
    let authority = edge.certificate.authority.clone();
    let plain = jwks.url().replace("https://", "http://");
    for (generation, (issuer, reason)) in [
        (fetched(&jwks.url(), true, Some(authority)), "is not who its certificate should say"),
        (fetched(&jwks.url(), false, Some(folder.path().join("ca/ca.pem"))), "an address of a private network"),
        (fetched(&plain, false, None), "is no URL of keys"),
        (fetched("http://198.51.100.7.invalid/keys", true, None), "has no address"),
        (fetched("http://1.1.1.1/keys", true, None), "only asked for over https"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut policy = edge.policy();
        policy.generation.0 = 3 + generation as u64;
        guarded(issuer, Roles::any())(&mut policy);
        control.accept(&policy).await;
        let found = control
            .wait(|frame| match frame {
                FromEdge::KeysChanged { failure: Some(failure), keys: 0, .. } => Some(failure),
                _ => None,
            })
            .await;
        assert!(found.contains(reason), "{found}");
        let answer = get(&edge, &signer.token()).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_keys_is_followed() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("keys.json");
    std::fs::write(&path, set(&[&old])).expect("writes");
    let issuer = Issuer { rule: rule(Algorithm::ES256, Keys::File { path: path.clone() }), secret: None };
    let (edge, _control, _backend) = edge(guarded(issuer, Roles::any())).await;
    assert_eq!(get(&edge, &old.token()).await.status, 200, "at once");
    std::fs::write(&path, set(&[&new])).expect("writes");
    eventually("the new key", async || (get(&edge, &new.token()).await.status == 200).then_some(())).await;
    assert_eq!(get(&edge, &old.token()).await.status, 401);
    std::fs::remove_file(&path).expect("removes");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(get(&edge, &new.token()).await.status, 200, "what was there stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_have_limits_of_their_own_wherever_they_are() {
    let (edge, _control, backend) = edge(|policy| {
        guarded(own(), Roles::any())(policy);
        policy.routes[0].limits = vec!["2/min per user".parse().expect("a limit")];
    })
    .await;
    let (alice, bob) = (hs256(json!({})), hs256(json!({ "sub": "bob" })));
    let other = hs256(json!({ "exp": seconds() + 500 }));
    let mut statuses = Vec::new();
    for token in [&alice, &other, &alice, &bob, &"x".to_owned()] {
        statuses.push(get(&edge, token).await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 200, 401], "a user is a user, whatever the token");
    let refused = get(&edge, &alice).await;
    assert!(refused.header("ratelimit").starts_with("\"user\";r=0;t="), "{refused:?}");
    assert_eq!(refused.header("ratelimit-policy"), "\"user\";q=2;w=60");
    assert_eq!(backend.hits(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_would_leave_the_door_open_is_refused() {
    let (edge, mut control, _backend) = edge(|_| {}).await;
    let mut refuse = async |change: &dyn Fn(&mut Policy), reason: &str| {
        let mut policy = edge.policy();
        policy.generation.0 = 9;
        guarded(own(), Roles::any())(&mut policy);
        policy.schema = Policy::schema_of(&policy.issuers, None);
        change(&mut policy);
        let found = control.offer(&policy).await.expect_err("refused");
        assert!(found.contains(reason), "{found}");
    };
    let forget = |policy: &mut Policy| {
        policy.issuers.clear();
        policy.schema = Policy::schema_of(&policy.issuers, None);
    };
    refuse(&forget, "asks for identity \"staff\"").await;
    // As an edge from before issuers would take it, and leave the route open.
    refuse(&|policy| policy.schema = 1, "policy has schema 1").await;
    let unusable = "identity staff has no key";
    refuse(&|policy| policy.issuers.get_mut("staff").expect("it").secret = None, unusable).await;
    refuse(&|policy| policy.issuers.get_mut("staff").expect("it").secret = Some(Secret::new("short")), unusable).await;
    // A public key that serves as a secret lets everybody in.
    refuse(
        &|policy| {
            let keys = Keys::File { path: "/dev/null".into() };
            policy.issuers.get_mut("staff").expect("it").rule = rule(Algorithm::HS256, keys);
        },
        unusable,
    )
    .await;
}
