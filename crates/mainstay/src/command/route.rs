//! `mainstay route`: which routes there are; `explain METHOD URL`: which way a request would take through the edge, and
//! why.
//!
//! Said from the stack file; with what the instances do when the stack runs.

use clap::{Args, Subcommand};
use mainstay_stack::balance::{Balancing, Method, Resilience};
use mainstay_stack::edits::{Edits, Lines, rewritten};
use mainstay_stack::model::{Edge, Route, RouteTarget, SiteCache, Stack, TlsVersion};
use mainstay_stack::network::Admission;
use mainstay_stack::routing;
use mainstay_stack::tls::ClientCertificate;
use mainstay_stack::units::{show_duration, show_size};
use mainstay_types::exit_code;
use serde::Serialize;

use crate::Global;
use crate::failure::Failure;
use crate::screen;

mod identity;
mod maintenance;

#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Which route, limits and upstream a request would meet, and why
    Explain {
        /// GET, POST, …
        method: String,
        /// A URL of the edge, or a path
        url: String,
        /// A header of the request, "Name: value": a token is looked at, and never shown
        #[arg(long, short = 'H', value_name = "HEADER")]
        header: Vec<String>,
    },
    /// Routes of the edge, where they lead, and which are in maintenance
    List,
    /// Let nobody into a route, until `off`: 503 and a page, as with `maintenance` of the stack file
    Maintenance(maintenance::Options),
}

/// What would become of a request. Stages stand in the order in which the edge goes through them.
#[derive(Debug, Serialize)]
struct Explanation {
    method: String,
    host: String,
    path: String,
    /// The path of the route that takes it.
    route: Option<String>,
    stages: Vec<Stage>,
    /// The status with which the edge answers by itself, as far as that is certain.
    answered: Option<u16>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Stage {
    name: &'static str,
    says: String,
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let (method, url, header) = match &options.what {
        What::Explain { method, url, header } => (method, url, header),
        What::List => return maintenance::list(global).await,
        What::Maintenance(options) => return maintenance::run(global, options).await,
    };
    let place = crate::place::read(global)?;
    let stack = &place.parsed.stack;
    let mut request = Request::of(method, url, &stack.edge.host)?;
    request.headers = identity::headers(header)?;
    request.folder = place.origin.clone();
    let status = match crate::place::client(global) {
        Ok(client) => client.status().await.ok(),
        Err(_) => None,
    };
    let shut = status.iter().flat_map(|status| &status.maintenance);
    request.shut = shut.filter_map(|route| Some((route.path.clone(), route.maintenance?))).collect();
    let mut explanation = explain(stack, &request);
    if explanation.answered.is_none() {
        explanation.stages.extend(live(status.as_ref(), stack, &explanation));
    }
    if global.json {
        let text = serde_json::to_string_pretty(&explanation).map_err(|error| Failure::bug(error.to_string()))?;
        println!("{text}");
        return Ok(exit_code::DONE);
    }
    println!("{}", screen::bold(&format!("{} https://{}{}", explanation.method, explanation.host, explanation.path)));
    for Stage { name, says } in &explanation.stages {
        println!("{}", screen::wrap(says, &format!("  {name:<12}"), "              "));
    }
    Ok(exit_code::DONE)
}

struct Request {
    method: String,
    host: String,
    path: String,
    is_tls: bool,
    headers: Vec<(String, String)>,
    /// Of the stack file, for the files that it names.
    folder: std::path::PathBuf,
    /// Routes of the stack that runs that are in maintenance.
    shut: std::collections::BTreeMap<String, mainstay_api::Maintenance>,
}

impl Request {
    /// `https://host:port/path?query`, `http://…`, or `/path`.
    fn of(method: &str, url: &str, own_host: &str) -> Result<Self, Failure> {
        let bad = |what: &str| {
            Failure::user("MS2090", format!("{url:?} is no URL: {what}"))
                .help("write `mainstay route explain GET /api/users`, or the whole of https://HOST/api/users")
        };
        let (is_tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, Some(rest)),
            (None, Some(rest)) => (false, Some(rest)),
            (None, None) => (true, None),
        };
        let (host, path) = match rest {
            Some(rest) => match rest.find('/') {
                Some(at) => (&rest[..at], &rest[at..]),
                None => (rest, "/"),
            },
            None if url.starts_with('/') => (own_host, url),
            None => return Err(bad("it begins with neither https:// nor /")),
        };
        let host = host.split_once(':').map_or(host, |(host, _)| host).to_ascii_lowercase();
        if host.is_empty() || method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(bad("a method and a host are letters"));
        }
        let path = path.split_once('#').map_or(path, |(path, _)| path);
        let method = method.to_ascii_uppercase();
        let (headers, shut) = (Vec::new(), Default::default());
        Ok(Self { method, host, path: path.to_owned(), is_tls, headers, folder: "".into(), shut })
    }
}

/// The stages that the stack file alone decides.
fn explain(stack: &Stack, request: &Request) -> Explanation {
    let mut explanation = Explanation {
        method: request.method.clone(),
        host: request.host.clone(),
        path: request.path.clone(),
        route: None,
        stages: Vec::new(),
        answered: None,
    };
    explanation.answered = walk(stack, request, &mut explanation.stages, &mut explanation.route);
    explanation
}

fn tls(edge: &Edge) -> String {
    let versions = match edge.least_tls {
        TlsVersion::Tls12 => "1.2 or 1.3",
        TlsVersion::Tls13 => "1.3",
    };
    let certificate = match (edge.authority(), &edge.certificate) {
        (Some(acme), _) => format!("a certificate of {}", acme.directory),
        (None, Some(own)) => format!("the certificate {}", own.cert.display()),
        (None, None) => "a certificate of the local authority".to_owned(),
    };
    format!("{versions}, {certificate}")
}

fn walk(stack: &Stack, request: &Request, stages: &mut Vec<Stage>, taken: &mut Option<String>) -> Option<u16> {
    let mut say = |name: &'static str, says: String| stages.push(Stage { name, says });
    let edge = &stack.edge;
    say("connection", admission(&edge.admission, "cut off before TLS"));
    if let Some(most) = edge.connections_per_ip {
        say("connection", format!("at most {most} of one address"));
    }
    say("tls", tls(edge));
    let path = request.path.split_once('?').map_or(request.path.as_str(), |(path, _)| path);
    if let Some((status, reason)) = mainstay_edge::refusal(&request.method, path) {
        say("framing", format!("refused with {status}: {reason}"));
        return Some(status);
    }
    let found = candidates(stack, path);
    if let Some(other) = other_route(stack, path).filter(|_| request.is_tls) {
        say("framing", format!("refused with 400: {other}"));
        return Some(400);
    }
    say("framing", "sound: method and path mean one thing; the head may have 32 KiB".to_owned());
    if !edge.hosts().contains(&request.host) {
        say(
            "host",
            format!("refused with 421: the edge answers to {}, not to {}", edge.hosts().join(", "), request.host),
        );
        return Some(421);
    }
    say("host", format!("{} is the edge's own", request.host));
    if !request.is_tls {
        say("redirect", format!("308 to https://{}{}", request.host, request.path));
        return Some(308);
    }
    let Some(route) = found.first().and_then(|index| edge.routes.get(*index)) else {
        say("limits", limits(&edge.limits, &[], false));
        let known: Vec<&str> = edge.routes.iter().map(|route| route.path.as_str()).collect();
        say("route", format!("none takes the path, so 404; there are {}", known.join(", ")));
        return Some(404);
    };
    *taken = Some(route.path.clone());
    let why = if route.path.ends_with('*') { "the longest prefix of the path" } else { "exactly the path" };
    let others: Vec<&str> =
        found.iter().skip(1).filter_map(|index| edge.routes.get(*index)).map(|route| route.path.as_str()).collect();
    let others = if others.is_empty() { String::new() } else { format!("; less specific: {}", others.join(", ")) };
    say("route", format!("{}: {why}{others}", route.path));
    say("addresses", admission(&route.admission, "refused with 403"));
    say("limits", limits(&edge.limits, &route.limits, route.is_exempt));
    say("body", format!("at most {}, else 413", show_size(route.body_limit)));
    say("cors", cors(route, &request.method));
    if let Some(time) = edge.maintenance.or(route.maintenance) {
        say("maintenance", format!("503 to everybody, come back after {}", show_duration(time)));
        return Some(503);
    }
    if let Some(by_hand) = request.shut.get(&route.path).filter(|of| of.is_by_hand) {
        let time = show_duration(std::time::Duration::from_secs(by_hand.retry_after_s));
        let until = crate::again::text(&format!("`mainstay route maintenance '{}' off`", route.path));
        say("maintenance", format!("503 to everybody, come back after {time}; by hand, until {until}"));
        return Some(503);
    }
    client_certificate(route, edge, &mut say);
    let refused = identity::explain(stack, route, request, &mut say);
    if refused.is_some() {
        return refused;
    }
    say("waf", "not yet: requests are not inspected".to_owned());
    destination(stack, route, path, &mut say);
    match &route.to {
        RouteTarget::Redirect { status, .. } => Some(*status),
        RouteTarget::Service { .. } | RouteTarget::Site { .. } => None,
    }
}

fn client_certificate(route: &Route, edge: &Edge, say: &mut impl FnMut(&'static str, String)) {
    let Some(wanted) = route.client_certificate else { return };
    let by =
        edge.client_ca.as_ref().map_or_else(String::new, |path| format!(", of an authority in {}", path.display()));
    let otherwise = match wanted {
        ClientCertificate::Required => "without it 403",
        ClientCertificate::Optional => "or none; with another 403",
    };
    say("certificate", format!("the client's{by}, {otherwise}; the service is told of it in X-Forwarded-Client-Cert"));
}

/// The indices of the routes that take a path.
fn candidates(stack: &Stack, path: &str) -> Vec<usize> {
    routing::candidates(stack.edge.routes.iter().map(|route| route.path.as_str()), path)
}

/// Which other route a path is of when a server reads it otherwise; `None` when it stays the same one.
fn other_route(stack: &Stack, path: &str) -> Option<String> {
    let plain = routing::plain(path);
    let other = candidates(stack, &plain).first().copied();
    let found = candidates(stack, path).first().copied();
    if found == other {
        return found.and_then(|index| guarded_route(stack, stack.edge.routes.get(index)?, path));
    }
    let route = other.and_then(|index| stack.edge.routes.get(index));
    let route = route.map_or("no route".to_owned(), |route| format!("the route {}", route.path));
    Some(format!("a server may read it as {plain}, which is of {route}"))
}

/// Which guarded route within this one a path is of when case or a slash at its end does not count.
fn guarded_route(stack: &Stack, found: &Route, path: &str) -> Option<String> {
    let guards = |route: &Route| {
        (route.admission.clone(), route.basic_auth.clone(), route.identity.clone(), route.client_certificate)
    };
    let lower: Vec<String> = stack.edge.routes.iter().map(|route| route.path.to_ascii_lowercase()).collect();
    routing::alike(path).into_iter().find_map(|reading| {
        let index = *routing::candidates(lower.iter().map(String::as_str), &reading).first()?;
        let other = stack.edge.routes.get(index)?;
        let has_users = other.knows_users() || other.client_certificate.is_some();
        let is_open = !has_users && other.admission == Admission::default();
        let is_way_around = !is_open && guards(other) != guards(found) && routing::is_within(&other.path, &found.path);
        is_way_around
            .then(|| format!("a server may read it as {reading}, which is of the guarded route {}", other.path))
    })
}

fn cors(route: &Route, method: &str) -> String {
    route.cors.as_ref().map_or("left to the service".to_owned(), |cors| {
        let method = if method == "OPTIONS" { "; a preflight is answered here" } else { "" };
        format!("for scripts of {}{method}", cors.origins.join(", "))
    })
}

fn admission(admission: &Admission, otherwise: &str) -> String {
    let list = |networks: &[mainstay_stack::network::Network]| {
        networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    match (admission.allow.is_empty(), admission.deny.is_empty()) {
        (true, true) => "from all addresses".to_owned(),
        (false, true) => format!("from {}; others are {otherwise}", list(&admission.allow)),
        (true, false) => format!("{} are {otherwise}", list(&admission.deny)),
        (false, false) => {
            format!("from {} but not {}; others are {otherwise}", list(&admission.allow), list(&admission.deny))
        }
    }
}

fn limits(edge: &[mainstay_stack::limit::Limit], own: &[mainstay_stack::limit::Limit], is_exempt: bool) -> String {
    let of_edge = edge.iter().filter(|_| !is_exempt).map(|limit| format!("{limit} (edge)"));
    let all: Vec<String> = of_edge.chain(own.iter().map(|limit| format!("{limit} (route)"))).collect();
    match (all.is_empty(), is_exempt && !edge.is_empty()) {
        (true, true) => "none: the route is exempt from those of the edge".to_owned(),
        (true, false) => "none".to_owned(),
        (false, _) => format!("{}, else 429; counted by this edge alone, not yet shared", all.join(", ")),
    }
}

fn destination(stack: &Stack, route: &Route, path: &str, say: &mut impl FnMut(&'static str, String)) {
    match &route.to {
        RouteTarget::Site { name } => {
            let site = stack.sites.get(name);
            let spa = if site.is_some_and(|site| site.spa) { "; unknown paths get index.html" } else { "" };
            let dir = site.map_or_else(String::new, |site| format!(", files of {}", site.dir.display()));
            say("site", format!("{name}{dir}{spa}"));
            let kept = match site.map_or_else(SiteCache::default, |site| site.cache) {
                SiteCache::Assets => "a year when the name has a hash, else asked for again".to_owned(),
                SiteCache::Revalidate => "asked for again each time".to_owned(),
                SiteCache::NoStore => "not kept".to_owned(),
                SiteCache::For { time } => format!("{}, pages asked for again", show_duration(time)),
            };
            say("cache", kept);
        }
        RouteTarget::Redirect { location, status } => say("redirect", format!("{status} to {location}")),
        RouteTarget::Service { name, management } => {
            let port = if *management { ", its management port" } else { "" };
            let time = show_duration(route.timeout);
            edits(&route.edits, routing::below(&route.path, path), &mut *say);
            let method = method(&route.balancing);
            say("upstream", format!("{name}{port}: the ready instances {method}; {time} for the whole answer"));
            resilience(&stack.edge.resilience, &mut *say);
            let Balancing { retries, retry_percent, .. } = route.balancing;
            let again = format!("{retries} times at most when no answer comes, {retry_percent} % of the requests");
            say("retries", if retries == 0 { "none".to_owned() } else { format!("idempotent requests, {again}") });
            let hold = show_duration(stack.edge.hold);
            say("hold", format!("{hold} when none is ready, for {} requests; then 503", stack.edge.hold_requests));
        }
    }
    if let Some(from) = route.compress {
        let what = "what becomes smaller, in brotli, zstd or gzip";
        say("compress", format!("{what}, from {} on; no answers with Set-Cookie or no-transform", show_size(from)));
    }
    let headers: Vec<String> = route.headers.lines(&stack.edge.host).into_iter().map(|(name, _)| name).collect();
    if !headers.is_empty() {
        let whose =
            if route.headers.overwrites { "in place of the service's" } else { "where the service says nothing" };
        say("headers", format!("{}, {whose}", headers.join(", ")));
    }
}

fn edits(Edits { rewrite, request, response }: &Edits, below: &str, say: &mut impl FnMut(&'static str, String)) {
    if let Some(rewrite) = rewrite {
        say("rewrite", format!("the service sees {}", rewritten(rewrite, below)));
    }
    for (name, Lines { set, remove }) in [("request", request), ("answer", response)] {
        let set = set.iter().map(|(name, value)| format!("{name}: {value}"));
        let all: Vec<String> = set.chain(remove.iter().map(|name| format!("no {name}"))).collect();
        if !all.is_empty() {
            say(name, all.join(", "));
        }
    }
}

fn method(Balancing { method, sticky, .. }: &Balancing) -> String {
    let method = match method {
        Method::RoundRobin => "in turn".to_owned(),
        Method::LeastRequests => "by the fewer requests under way of two".to_owned(),
        Method::Hash { by } => format!("by hash of {by}"),
    };
    let sticky = sticky.as_ref().map_or(String::new(), |name| format!(", or the one that the cookie {name} names"));
    format!("{method}{sticky}")
}

fn resilience(of: &Resilience, say: &mut impl FnMut(&'static str, String)) {
    if !of.slow_start.is_zero() {
        say("slow start", format!("a new instance has its whole share after {}", show_duration(of.slow_start)));
    }
    if let Some(eject) = &of.eject {
        let (failures, errors, most) = (eject.failures, eject.errors_percent, eject.most_percent);
        let when = format!("after {failures} missing answers in a row, or for {errors} % errors while others do well");
        say("ejection", format!("{when}; {most} % of the instances at most"));
    }
    if let Some(breaker) = &of.breaker {
        let (errors, open) = (breaker.errors_percent, show_duration(breaker.open));
        say("breaker", format!("503 for {open} when {errors} % of the answers are errors"));
    }
}

/// What the instances do now. A stack that does not run has no say, and is said so.
fn live(status: Option<&mainstay_api::Status>, stack: &Stack, explanation: &Explanation) -> Vec<Stage> {
    let route = stack.edge.routes.iter().find(|route| Some(&route.path) == explanation.route.as_ref());
    let Some(RouteTarget::Service { name, .. }) = route.map(|route| &route.to) else { return Vec::new() };
    let Some(status) = status else {
        return vec![Stage { name: "now", says: "the stack does not run: said from the stack file alone".to_owned() }];
    };
    let is_of = |other: &str| {
        other
            .rsplit_once('-')
            .is_some_and(|(service, slot)| service == name.as_str() && slot.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let instances: Vec<String> =
        status.boxes.iter().filter(|one| is_of(&one.name)).map(|one| format!("{} {}", one.name, one.state)).collect();
    let says = if instances.is_empty() { "no instance runs: requests wait".to_owned() } else { instances.join(", ") };
    vec![Stage { name: "now", says }]
}

#[cfg(test)]
mod tests {
    use mainstay_types::EnvironmentName;

    use super::*;

    const STACK: &str = r#"
stack = "shop"
[edge]
limit = "1000/min per ip"
breaker = {}
[[edge.route]]
path = "/api/*"
to = "backend"
balance = "hash"
limit = "5/s per header x-key"
deny = ["10.0.0.0/8"]
[edge.identity.own]
secret = "JWT_KEY"
[[edge.route]]
path = "/api/staff/*"
to = "backend"
identity = "own"
roles = { GET = ["reader"], "*" = ["admin"] }
[[edge.route]]
path = "/api/admin/*"
to = "backend"
rewrite = "/*"
basic_auth = { alice = "ALICE_PASSWORD" }
[[edge.route]]
path = "/api/old/*"
to = "backend"
maintenance = true
[[edge.route]]
path = "/*"
to = "pages"
limit = "none"
[service.backend]
run = "./shop"
[site.pages]
dir = "dist"
"#;

    fn explained(method: &str, url: &str) -> Explanation {
        let parsed =
            mainstay_stack::parse(STACK, "mainstay.toml", &EnvironmentName::default()).expect("keeps the rules");
        let Ok(request) = Request::of(method, url, &parsed.stack.edge.host) else { panic!("{url} is a URL") };
        explain(&parsed.stack, &request)
    }

    fn says(explanation: &Explanation, name: &str) -> String {
        let found = explanation.stages.iter().find(|stage| stage.name == name);
        found.unwrap_or_else(|| panic!("no {name}: {explanation:?}")).says.clone()
    }

    #[test]
    fn the_way_of_a_request_is_told_stage_by_stage() {
        let api = explained("get", "https://shop.localhost:8443/api/users?page=2");
        assert_eq!((api.route.as_deref(), api.answered), (Some("/api/*"), None));
        assert_eq!(says(&api, "route"), "/api/*: the longest prefix of the path; less specific: /*");
        assert!(says(&api, "limits").starts_with("1000/min per ip (edge), 5/s per header x-key (route), else 429"));
        assert_eq!(says(&api, "addresses"), "10.0.0.0/8 are refused with 403");
        assert_eq!(says(&api, "upstream"), "backend: the ready instances by hash of ip; 1m for the whole answer");
        assert!(says(&api, "breaker").starts_with("503 for 5s when 50 % "));
        let admin = explained("GET", "/api/admin/x");
        assert!(says(&admin, "identity").starts_with("one of alice with a password, else 401"));
        assert_eq!(says(&admin, "rewrite"), "the service sees /x");
        let other = explained("GET", "/api/%61dmin/x");
        assert_eq!(other.answered, Some(400));
        assert!(says(&other, "framing").ends_with("may read it as /api/admin/x, which is of the route /api/admin/*"));
        let page = explained("GET", "/index.html");
        assert_eq!(says(&page, "limits"), "none: the route is exempt from those of the edge");
        assert!(says(&page, "headers").starts_with("Content-Security-Policy, "));
    }

    #[test]
    fn what_becomes_of_a_token_is_told_and_the_token_is_not() {
        const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSIsInJvbGVzIjpbInJlYWRlciJdLCJleHAiOjQxMDI0NDQ4MDB9.\
                             eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg";
        const NONE: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6NDEwMjQ0NDgwMH0.eA";
        let with = |method: &str, tokens: &[&str]| {
            let parsed = mainstay_stack::parse(STACK, "mainstay.toml", &EnvironmentName::default()).expect("a stack");
            let Ok(mut request) = Request::of(method, "/api/staff/x", "shop.localhost") else { panic!("is a URL") };
            let given: Vec<String> = tokens.iter().map(|token| format!("Authorization: Bearer {token}")).collect();
            let Ok(headers) = identity::headers(&given) else { panic!("are headers") };
            request.headers = headers;
            explain(&parsed.stack, &request)
        };
        let nobody = with("GET", &[]);
        assert_eq!(nobody.answered, None);
        let asked = says(&nobody, "identity");
        assert!(
            asked.starts_with("a token (own: HS256, the secret JWT_KEY), else 401; roles for other methods: admin; ")
        );
        let alice = with("GET", &[TOKEN]);
        assert_eq!(alice.answered, None);
        assert!(
            says(&alice, "user").starts_with("alice, roles reader: may enter; the signature is not looked at here")
        );
        assert!(!format!("{alice:?}").contains("eyJ"));
        assert_eq!(with("DELETE", &[TOKEN]).answered, Some(403));
        let none = with("GET", &[NONE]);
        assert_eq!((none.answered, says(&none, "user").starts_with("refused with 401: ")), (Some(401), true));
        assert_eq!(with("GET", &[TOKEN, TOKEN]).answered, Some(400));
        let Err(wrong) = identity::headers(&["eyJhbGciOiJIUzI1NiJ9".to_owned()]) else { panic!("is no header") };
        assert!(!format!("{wrong:?}").contains("eyJ"));
    }

    #[test]
    fn a_route_that_a_person_shut_is_told_as_such() {
        let parsed = mainstay_stack::parse(STACK, "mainstay.toml", &EnvironmentName::default()).expect("a stack");
        let Ok(mut request) = Request::of("GET", "/api/x", "shop.localhost") else { panic!("is a URL") };
        let by_hand = mainstay_api::Maintenance { is_by_hand: true, since: None, retry_after_s: 600 };
        request.shut = [("/api/*".to_owned(), by_hand)].into();
        let told = explain(&parsed.stack, &request);
        assert_eq!((told.answered, told.stages.last().map(|stage| stage.name)), (Some(503), Some("maintenance")));
        assert!(says(&told, "maintenance").starts_with("503 to everybody, come back after 10m; by hand, until `"));
        request.shut.clear();
        assert_eq!(explain(&parsed.stack, &request).answered, None);
    }

    #[test]
    fn what_the_edge_answers_by_itself_ends_the_way() {
        for (method, url, status, last) in [
            ("GET", "http://shop.localhost/api/x", 308, "redirect"),
            ("GET", "https://evil.example/", 421, "host"),
            ("GET", "/api/%2e%2e/x", 400, "framing"),
            ("TRACE", "/api/x", 405, "framing"),
            ("GET", "/api/old/x", 503, "maintenance"),
        ] {
            let explanation = explained(method, url);
            assert_eq!(explanation.answered, Some(status), "{url}");
            assert_eq!(explanation.stages.last().map(|stage| stage.name), Some(last), "{url}");
        }
        assert!(Request::of("GET", "api/x", "shop.localhost").is_err());
        assert!(Request::of("G T", "/api/x", "shop.localhost").is_err());
    }
}
