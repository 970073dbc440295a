//! What the stack file promises of the edge, as requests and what their answers must be: for `mainstay edge test`.
//!
//! Every request is one that the edge refuses by itself, or a GET: nothing is changed behind it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mainstay_stack::browser::Cors;
use mainstay_stack::model::{Route, RouteTarget, Stack};
use mainstay_stack::network::{Admission, Network, Networks};
use mainstay_stack::routing;
use mainstay_stack::tls::ClientCertificate;
use mainstay_stack::units::show_size;
use serde::Serialize;

/// In place of a file or name that nobody has.
const NOBODY: &str = "mainstay-edge-test";
/// A site that no stack lets in.
const STRANGE_ORIGIN: &str = "https://mainstay-edge-test.invalid";
/// Says what a header is told in a request of ours.
const FORGED: &str = "00000000000000000000000000000000";

/// A request. Those that are alike are sent once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ask {
    /// By the door of HTTPS.
    pub is_tls: bool,
    /// `Host`.
    pub host: String,
    /// Its method.
    pub method: &'static str,
    /// Its target, as it stands in the request line.
    pub target: String,
    /// Further headers, in order.
    pub headers: Vec<(String, String)>,
}

/// What an answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// This status.
    Status(u16),
    /// This status, with a header of that name.
    StatusAnd(u16, &'static str),
    /// No success and no redirection.
    Refused,
    /// This status and `Location`.
    Place(u16, String),
    /// A header with this value; another value is the service's own where that may be.
    Header {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// The service's own is as good.
        may_differ: bool,
    },
    /// A header of that name.
    Present(&'static str),
    /// A header with another value.
    Other(&'static str, String),
}

/// Something that the stack file promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// The route's path; `None`: of the whole edge.
    pub route: Option<String>,
    /// What is promised, for people.
    pub says: String,
    /// How it is asked for.
    pub ask: Ask,
    /// What must come.
    pub expect: Expect,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers; names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// How a promise was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it says.
    Kept,
    /// Not so.
    Broken,
    /// It could not be measured: a limit refused the request first.
    Unmeasured,
}

/// What is asked of the stack that runs.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The stack as it runs.
    pub stack: &'a Stack,
    /// Routes in maintenance by hand, with what clients are told to wait. **Unit**: seconds.
    pub shut: &'a BTreeMap<String, u64>,
    /// Port of HTTPS.
    pub https_port: u16,
    /// From where is asked.
    pub client: IpAddr,
}

/// All that is asked for, and in words what is not.
pub fn promises(of: Setting<'_>) -> (Vec<Promise>, Vec<String>) {
    let mut all = edge(of);
    let mut untested = vec![
        "that limits count right (RateLimit-Policy is looked for; nothing is asked so often that it counts)".to_owned(),
        "identity headers other than X-Request-Id: only a service sees what it is told of a user, an address or a \
         certificate"
            .to_owned(),
        "timeouts, retries, hold, the breaker, balancing: they show when instances fail, as drills make them"
            .to_owned(),
        "methods that change something, WebSockets, HTTP/2, and passwords, tokens or certificates that are good"
            .to_owned(),
    ];
    for route in &of.stack.edge.routes {
        match sample(of.stack, route) {
            Some(path) => all.extend(on_route(of, route, &path)),
            None => untested.push(format!("route {}: others take all paths that were tried", route.path)),
        }
    }
    (all, untested)
}

/// Whether an address may come.
pub fn admits(admission: &Admission, client: IpAddr) -> bool {
    let has = |networks: &[Network]| networks.iter().copied().collect::<Networks>().contains(client);
    !has(&admission.deny) && (admission.allow.is_empty() || has(&admission.allow))
}

fn plain(host: &str, target: &str) -> Ask {
    Ask { is_tls: true, host: host.to_owned(), method: "GET", target: target.to_owned(), headers: Vec::new() }
}

fn with(ask: Ask, headers: &[(&str, &str)]) -> Ask {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Ask { headers, ..ask }
}

/// What is promised whatever the routes are.
fn edge(of: Setting<'_>) -> Vec<Promise> {
    let host = of.stack.edge.host.as_str();
    let port = if of.https_port == 443 { String::new() } else { format!(":{}", of.https_port) };
    let promise = |says: &str, ask: Ask, expect: Expect| Promise { route: None, says: says.to_owned(), ask, expect };
    let get = |target: &str| plain(host, target);
    let long = "x".repeat(33 * 1024);
    let mut all = vec![
        promise(
            "HTTP leads to HTTPS",
            Ask { is_tls: false, ..get("/") },
            Expect::Place(308, format!("https://{host}{port}/")),
        ),
        promise("another host is not served", plain("mainstay-edge-test.invalid", "/"), Expect::Status(421)),
        promise("TRACE is not served", Ask { method: "TRACE", ..get("/") }, Expect::Status(405)),
        promise("a path that climbs is refused", get("/%2e%2e/"), Expect::Status(400)),
        promise(
            "two lengths of one body are refused",
            with(get("/"), &[("Content-Length", "1"), ("Transfer-Encoding", "chunked")]),
            Expect::Status(400),
        ),
        promise("a head of more than 32 KiB is refused", with(get("/"), &[("X-Long", &long)]), Expect::Status(431)),
        promise(
            "a client's X-Request-Id is not believed",
            with(Ask { method: "TRACE", ..get("/") }, &[("X-Request-Id", FORGED)]),
            Expect::Other("x-request-id", FORGED.to_owned()),
        ),
    ];
    let nowhere = format!("/{NOBODY}");
    let is_taken = of.stack.edge.routes.iter().any(|route| routing::takes(&route.path, &nowhere));
    if !is_taken {
        all.push(promise("a path of no route is not served", get(&nowhere), Expect::Status(404)));
    }
    all
}

/// A path that this route takes and no other.
fn sample(stack: &Stack, route: &Route) -> Option<String> {
    let paths: Vec<&str> = stack.edge.routes.iter().map(|route| route.path.as_str()).collect();
    let tried = match route.path.strip_suffix('*') {
        Some(prefix) => vec![format!("{prefix}{NOBODY}"), prefix.to_owned()],
        None => vec![route.path.clone()],
    };
    let is_ours = |path: &String| {
        let first = routing::candidates(paths.iter().copied(), path).first().copied();
        first.and_then(|index| paths.get(index)).is_some_and(|found| *found == route.path)
    };
    tried.into_iter().find(is_ours)
}

/// With what a route turns everybody away who shows nothing.
fn door(of: Setting<'_>, route: &Route) -> Option<(String, Expect)> {
    let maintenance = super::maintenance::by_file(of.stack, &route.path).is_some();
    if !admits(&route.admission, of.client) {
        return Some((format!("{} may not use it", of.client), Expect::Status(403)));
    }
    if maintenance || of.shut.contains_key(&route.path) {
        return Some(("in maintenance nobody is let in".to_owned(), Expect::StatusAnd(503, "retry-after")));
    }
    if route.client_certificate == Some(ClientCertificate::Required) {
        return Some(("nobody without a certificate".to_owned(), Expect::Status(403)));
    }
    if !route.basic_auth.is_empty() {
        return Some(("nobody without a password".to_owned(), Expect::StatusAnd(401, "www-authenticate")));
    }
    route.identity.as_ref().map(|_| ("nobody without a token".to_owned(), Expect::StatusAnd(401, "www-authenticate")))
}

fn on_route(of: Setting<'_>, route: &Route, path: &str) -> Vec<Promise> {
    let host = of.stack.edge.host.as_str();
    let mut all = Vec::new();
    let mut promise = |says: String, ask: Ask, expect: Expect| {
        all.push(Promise { route: Some(route.path.clone()), says, ask, expect });
    };
    let get = || plain(host, path);
    let is_admitted = admits(&route.admission, of.client);
    let door = door(of, route);
    let is_open = door.is_none();
    if let Some((says, expect)) = door {
        promise(says, get(), expect);
    }
    if is_admitted && let Some(too_long) = route.body_limit.0.checked_add(1) {
        let length = too_long.to_string();
        let says = format!("a body of more than {} is refused", show_size(route.body_limit));
        promise(says, with(get(), &[("Content-Length", &length)]), Expect::Status(413));
    }
    if is_guarded(route) {
        for other in spellings(path) {
            promise(format!("{other} leads not around it"), plain(host, &other), Expect::Refused);
        }
    }
    for (name, value) in route.headers.lines(host) {
        let is_services = matches!(route.to, RouteTarget::Service { .. });
        let may_differ = is_services && is_open && !route.headers.overwrites;
        promise(format!("answers have {name}"), get(), Expect::Header { name, value, may_differ });
    }
    let counts = !route.limits.is_empty() || !route.is_exempt && !of.stack.edge.limits.is_empty();
    if counts && is_admitted {
        promise("answers tell the limit".to_owned(), get(), Expect::Present("ratelimit-policy"));
    }
    if let Some(cors) = route.cors.as_ref().filter(|_| is_admitted) {
        scripts(cors, &get(), &mut promise);
    }
    match &route.to {
        RouteTarget::Redirect { location, status } if is_open => {
            let below = routing::below(&route.path, path);
            let place = match location.strip_suffix('*') {
                Some(begin) => format!("{begin}{}", below.trim_start_matches('/')),
                None => location.clone(),
            };
            promise(format!("leads to {place}"), get(), Expect::Place(*status, place));
        }
        RouteTarget::Site { name } if is_open && route.path.ends_with("/*") => {
            let prefix = route.path.trim_end_matches('*');
            if of.stack.sites.get(name).is_some_and(|site| !site.spa) {
                promise(
                    "hidden files are not served".to_owned(),
                    plain(host, &format!("{prefix}.env")),
                    Expect::Status(404),
                );
            }
        }
        RouteTarget::Redirect { .. } | RouteTarget::Site { .. } | RouteTarget::Service { .. } => {}
    }
    all
}

/// What scripts of other sites may.
fn scripts(cors: &Cors, get: &Ask, promise: &mut impl FnMut(String, Ask, Expect)) {
    let question = |origin: &str| {
        let headers = [("Origin", origin), ("Access-Control-Request-Method", "GET")];
        with(Ask { method: "OPTIONS", ..get.clone() }, &headers)
    };
    let is_for_all = cors.origins.iter().any(|origin| origin == "*");
    if !is_for_all {
        promise("scripts of other sites are refused".to_owned(), question(STRANGE_ORIGIN), Expect::Status(403));
    }
    if let Some(origin) = cors.origins.first() {
        let asked = if is_for_all { STRANGE_ORIGIN } else { origin.as_str() };
        let value = if is_for_all { "*" } else { origin }.to_owned();
        let name = "Access-Control-Allow-Origin".to_owned();
        let expect = Expect::Header { name, value, may_differ: false };
        promise(format!("scripts of {origin} may use it"), question(asked), expect);
    }
}

/// Whether a way around it would let in somebody.
fn is_guarded(route: &Route) -> bool {
    route.knows_users()
        || route.client_certificate == Some(ClientCertificate::Required)
        || !route.admission.allow.is_empty()
}

/// The same path as servers may read it: a letter escaped, a slash twice, in capitals.
fn spellings(path: &str) -> Vec<String> {
    let mut all = vec![format!("/{path}")];
    if let Some(letter) = path.chars().nth(1).filter(char::is_ascii_alphabetic) {
        all.push(format!("/%{:02x}{}", u32::from(letter), path.get(2..).unwrap_or_default()));
        let begin = path.split('/').nth(1).unwrap_or_default();
        all.push(path.replacen(begin, &begin.to_ascii_uppercase(), 1));
    }
    all.retain(|other| other != path);
    all
}

/// How a promise stands by what came, and that in words.
pub fn judge(promise: &Promise, came: &Result<Answer, String>) -> (Verdict, String) {
    let answer = match came {
        Ok(answer) => answer,
        Err(why) => return (Verdict::Broken, format!("no answer: {why}")),
    };
    let is = |is_so: bool| if is_so { Verdict::Kept } else { Verdict::Broken };
    let status = answer.status;
    let of_header = |name: &str| answer.header(name).map_or_else(|| format!("{status}, none"), str::to_owned);
    let is_about_status = matches!(promise.expect, Expect::Status(_) | Expect::StatusAnd(..) | Expect::Place(..));
    // A refusal by a limit says nothing of what comes after it; a header of the route is there as well.
    if status == 429 && is_about_status {
        return (Verdict::Unmeasured, "429: a limit refused it first".to_owned());
    }
    match &promise.expect {
        Expect::Status(wanted) => (is(status == *wanted), status.to_string()),
        Expect::StatusAnd(wanted, name) => {
            let has = answer.header(name).is_some();
            let measured = if has { status.to_string() } else { format!("{status} without {name}") };
            (is(status == *wanted && has), measured)
        }
        Expect::Refused => (is(status >= 400), status.to_string()),
        Expect::Place(wanted, place) => {
            let found = answer.header("location");
            let measured = found.map_or_else(|| status.to_string(), |found| format!("{status} to {found}"));
            (is(status == *wanted && found == Some(place.as_str())), measured)
        }
        Expect::Header { name, value, may_differ } => match answer.header(name) {
            Some(found) if found == value => (Verdict::Kept, found.to_owned()),
            Some(found) if *may_differ => (Verdict::Kept, format!("the service's own: {found}")),
            Some(_) | None => (Verdict::Broken, of_header(name)),
        },
        Expect::Present(name) => (is(answer.header(name).is_some()), of_header(name)),
        Expect::Other(name, value) => (is(answer.header(name).is_some_and(|found| found != value)), of_header(name)),
    }
}

#[cfg(test)]
mod tests {
    use mainstay_types::EnvironmentName;

    use super::*;

    const STACK: &str = r#"
stack = "shop"
[[edge.route]]
path = "/api/*"
to = "web"
limit = "5/min per ip"
body_limit = "1MiB"
cors = { origins = ["https://app.example.com"] }
headers = "strict"
[[edge.route]]
path = "/admin/*"
to = "web"
basic_auth = { alice = "ALICE" }
[[edge.route]]
path = "/old/*"
redirect = "/new/*"
[[edge.route]]
path = "/closed/*"
to = "web"
deny = ["127.0.0.0/8"]
[service.web]
run = "./shop"
"#;

    fn all(shut: &[&str]) -> Vec<Promise> {
        let parsed = mainstay_stack::parse(STACK, "mainstay.toml", &EnvironmentName::default());
        let stack = parsed.expect("keeps the rules").stack;
        let shut = shut.iter().map(|path| ((*path).to_owned(), 300)).collect();
        let client = IpAddr::from([127, 0, 0, 1]);
        promises(Setting { stack: &stack, shut: &shut, https_port: 8443, client }).0
    }

    fn of<'a>(all: &'a [Promise], route: &str, says: &str) -> &'a Promise {
        let is_it = |one: &&Promise| one.route.as_deref().unwrap_or_default() == route && one.says.starts_with(says);
        all.iter().find(is_it).unwrap_or_else(|| panic!("{route} {says}: {all:?}"))
    }

    fn answer(status: u16, headers: &[(&str, &str)]) -> Result<Answer, String> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok(Answer { status, headers })
    }

    #[test]
    fn every_rule_of_a_route_is_a_promise_and_nothing_is_changed_by_asking() {
        let all = all(&[]);
        assert!(all.iter().all(|one| ["GET", "TRACE", "OPTIONS"].contains(&one.ask.method)));
        assert_eq!(of(&all, "", "HTTP leads").expect, Expect::Place(308, "https://shop.localhost:8443/".to_owned()));
        assert_eq!(of(&all, "", "a path of no route").expect, Expect::Status(404));
        assert_eq!(of(&all, "/api/*", "a body of").ask.headers[0].1, "1048577");
        assert_eq!(of(&all, "/api/*", "scripts of other").expect, Expect::Status(403));
        assert_eq!(of(&all, "/api/*", "answers tell").expect, Expect::Present("ratelimit-policy"));
        of(&all, "/api/*", "answers have Content-Security-Policy");
        assert_eq!(
            of(&all, "/admin/*", "nobody without a password").expect,
            Expect::StatusAnd(401, "www-authenticate")
        );
        for other in ["//admin/", "/%61dmin/", "/ADMIN/"] {
            assert_eq!(of(&all, "/admin/*", other).expect, Expect::Refused);
        }
        let place = "/new/mainstay-edge-test".to_owned();
        assert_eq!(of(&all, "/old/*", "leads to").expect, Expect::Place(308, place));
        assert_eq!(of(&all, "/closed/*", "127.0.0.1 may not").expect, Expect::Status(403));
        assert!(!all.iter().any(|one| one.route.as_deref() == Some("/closed/*") && one.says.starts_with("a body")));
        let shut = self::all(&["/api/*"]);
        assert_eq!(of(&shut, "/api/*", "in maintenance").expect, Expect::StatusAnd(503, "retry-after"));
    }

    #[test]
    fn a_promise_is_kept_broken_or_not_measured() {
        let all = all(&[]);
        let password = of(&all, "/admin/*", "nobody without");
        let judged = |came| judge(password, &came);
        assert_eq!(judged(answer(401, &[("www-authenticate", "Basic")])), (Verdict::Kept, "401".to_owned()));
        assert_eq!(judged(answer(401, &[])), (Verdict::Broken, "401 without www-authenticate".to_owned()));
        assert_eq!(judged(answer(200, &[])).0, Verdict::Broken);
        assert_eq!(judged(answer(429, &[])).0, Verdict::Unmeasured);
        assert_eq!(judged(Err("gone".to_owned())), (Verdict::Broken, "no answer: gone".to_owned()));
        let header = of(&all, "/api/*", "answers have X-Frame-Options");
        assert_eq!(judge(header, &answer(200, &[("x-frame-options", "SAMEORIGIN")])).0, Verdict::Kept, "the service's");
        assert_eq!(judge(header, &answer(200, &[])).0, Verdict::Broken);
        let forged = of(&all, "", "a client's X-Request-Id");
        assert_eq!(judge(forged, &answer(405, &[("x-request-id", FORGED)])).0, Verdict::Broken);
        assert_eq!(judge(forged, &answer(405, &[])).0, Verdict::Broken);
        assert_eq!(judge(forged, &answer(405, &[("x-request-id", "1")])).0, Verdict::Kept);
        let around = of(&all, "/admin/*", "//admin/");
        assert_eq!(
            (judge(around, &answer(200, &[])).0, judge(around, &answer(400, &[])).0),
            (Verdict::Broken, Verdict::Kept)
        );
    }
}
