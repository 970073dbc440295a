//! `[edge]` and `[[edge.route]]`: the front door.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use mainstay_types::{Bytes, ServiceName, StackName};

use crate::balance::{Balancing, Resilience};
use crate::browser::Headers;
use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, Text, wrong_type};
use crate::diagnostic::quote;
use crate::edits::Edits;
use crate::model::{Edge, Route, RouteTarget, Service, Site, TlsVersion};
use crate::network::Admission;
use crate::origin::Origin;
use crate::raw::{Node, Value};
use crate::read::{balance, edits, identity, limit, policy, redirect, tls};
use crate::tls::is_public;
use crate::words::nearest;

const HTTPS_PORT: u16 = 8443;
const HTTP_PORT: u16 = 8080;
const LISTEN: &str = "127.0.0.1";
/// Time for an upstream's whole answer.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest request body of a route that says nothing: uploads of people, not archives.
const BODY_LIMIT: Bytes = Bytes::mebi(100);
/// Bodies pass through and are kept nowhere: the bound is what somebody could mean.
const MOST_BODY: Bytes = Bytes::mebi(1024 * 1024);
/// What is smaller fits into one packet anyway.
const COMPRESS_FROM: Bytes = Bytes(1024);
/// How long a request waits for an instance: a cold start of an application. As kamal-proxy.
const HOLD: Duration = Duration::from_secs(30);
/// People leave and load balancers give up before that.
const LONGEST_HOLD: Duration = Duration::from_mins(10);
/// Requests that wait so: at 32 KiB of head each at most this is 32 MiB.
const HOLD_REQUESTS: u32 = 1024;
/// As many as connections there may be.
const MOST_HELD: u32 = 12_000;
/// With the host itself as many as Let's Encrypt signs for at once.
const MOST_ALIASES: usize = 99;
const DAY: Duration = Duration::from_secs(86_400);
/// The console's own host, kept apart so that cookies and HSTS do not mix.
const CONSOLE_HOST: &str = "console.localhost";

const LATER: [(&str, &str); 5] = [
    ("redirect_http", "HTTP is always redirected"),
    ("compress", "it stands in a route: sites have it without being told"),
    ("headers", "they stand in a route: sites have the strict set without being told"),
    ("waf", "requests are not inspected yet"),
    ("auth", "`[edge.identity.NAME]` verifies tokens; the service signs people in itself"),
];
const RENAMED: [(&str, &str); 4] =
    [("routes", "[[edge.route]]"), ("port", "https_port"), ("address", "listen"), ("hostname", "host")];
const ROUTE_LATER: [(&str, &str); 3] = [
    ("auth", "`identity` asks for tokens, `basic_auth` for passwords"),
    ("weight", ""),
    ("host", "the edge answers to `edge.host`"),
];

/// What routes may lead to.
struct Places<'s> {
    services: &'s BTreeMap<ServiceName, Service>,
    sites: &'s BTreeMap<String, Site>,
}

pub(super) fn read(
    top: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    name: &StackName,
    domain: Option<&Text>,
    services: &BTreeMap<ServiceName, Service>,
    sites: &BTreeMap<String, Site>,
) -> Edge {
    let places = Places { services, sites };
    if let Some(domain) = domain {
        check_host(ctx, "domain", domain);
    }
    let mut edge = Edge {
        host: format!("{name}.localhost"),
        aliases: Vec::new(),
        https_port: HTTPS_PORT,
        http_port: HTTP_PORT,
        listen: LISTEN.to_owned(),
        limits: Vec::new(),
        admission: Admission::default(),
        hold: HOLD,
        hold_requests: HOLD_REQUESTS,
        connections_per_ip: None,
        least_tls: TlsVersion::default(),
        certificate: None,
        acme: None,
        client_ca: None,
        resilience: Resilience::default(),
        maintenance: None,
        identities: BTreeMap::new(),
        routes: Vec::new(),
    };
    ctx.origins.set("edge.host", Origin::Derived { from: "stack".to_owned() });
    // Only production answers to the real name: elsewhere it would lead to the production machine.
    if let Some(domain) = domain.filter(|_| ctx.environment.as_str() == "production") {
        edge.host.clone_from(&domain.text);
        ctx.origins.set("edge.host", Origin::Derived { from: "domain".to_owned() });
    }
    let mut routes = None;
    if let Some(mut cursor) = top.table(ctx, "edge") {
        if let Some(host) = cursor.text(ctx, "host", "host = \"myapp.localhost\"") {
            check_host(ctx, "edge.host", &host);
            edge.host = host.text;
        }
        edge.https_port = cursor.port(ctx, "https_port").unwrap_or(HTTPS_PORT);
        edge.http_port = cursor.port(ctx, "http_port").unwrap_or(HTTP_PORT);
        if let Some(listen) = cursor.text(ctx, "listen", "listen = \"127.0.0.1\"") {
            if listen.text.parse::<IpAddr>().is_err() {
                let message = format!("`edge.listen` is \"{}\", which is no IP address", quote(&listen.text));
                let help = "write \"127.0.0.1\" for this machine only, or \"0.0.0.0\" for all addresses".to_owned();
                ctx.error(Code::BadValue, &listen.span, message, help);
            }
            edge.listen = listen.text;
        }
        edge.limits = limit::read(&mut cursor, ctx).unwrap_or_default();
        edge.admission = policy::admission(&mut cursor, ctx);
        edge.hold = cursor.duration(ctx, "hold", Duration::ZERO..=LONGEST_HOLD).unwrap_or(HOLD);
        edge.hold_requests = cursor.count(ctx, "hold_requests", 0..=MOST_HELD).unwrap_or(HOLD_REQUESTS);
        edge.connections_per_ip = cursor.count(ctx, "connections_per_ip", 1..=MOST_HELD);
        tls::read(&mut cursor, ctx).put(&mut edge);
        edge.aliases = aliases(&mut cursor, ctx, &edge.host);
        edge.resilience = balance::resilience(&mut cursor, ctx);
        edge.maintenance = edits::maintenance(&mut cursor, ctx);
        edge.identities = identity::read(&mut cursor, ctx);
        routes = cursor.node("route").map(|node| read_routes(node, ctx, &places));
        cursor.finish(ctx, &LATER, &RENAMED);
    }
    edge.routes = routes.unwrap_or_else(|| default_route(ctx, &places));
    edge
}

/// `edge.aliases`. Where the edge has a name of this machine only, it has no public ones either: there they would lead
/// to the production machine.
fn aliases(table: &mut Cursor<'_>, ctx: &mut Context<'_>, host: &str) -> Vec<String> {
    let texts = table.texts(ctx, "aliases", "aliases = [\"www.example.com\"]").unwrap_or_default();
    let mut aliases = Vec::new();
    for text in &texts {
        check_host(ctx, "edge.aliases", text);
        if text.text == host || aliases.contains(&text.text) {
            let message = format!("`edge.aliases` has \"{}\", which the edge answers to already", quote(&text.text));
            ctx.error(Code::BadName, &text.span, message, "remove it".to_owned());
        }
        aliases.push(text.text.clone());
    }
    if aliases.len() > MOST_ALIASES {
        let span = texts[MOST_ALIASES].span.clone();
        let message = format!("`edge.aliases` has {} names, {MOST_ALIASES} are the most", aliases.len());
        ctx.error(Code::BadValue, &span, message, "an authority signs for 100 names at once".to_owned());
    }
    aliases.retain(|alias| is_public(host) || !is_public(alias));
    aliases
}

/// Host names: labels of letters, digits and `-`.
fn check_host(ctx: &mut Context<'_>, path: &str, host: &Text) {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // 253 is the most that DNS carries (RFC 1035, section 2.3.4, without the length bytes).
    if host.text.len() > 253 || !host.text.split('.').all(is_label) {
        let message = format!(
            "`{path}` is \"{}\", which is no host name: labels of a-z, 0-9 and - with points between",
            quote(&host.text)
        );
        ctx.error(Code::BadName, &host.span, message, "write for example \"myapp.localhost\", without port".to_owned());
    } else if host.text == CONSOLE_HOST {
        let message = format!("`{path}` is \"{CONSOLE_HOST}\", which is the console's own host");
        ctx.error(Code::BadName, &host.span, message, "choose another host".to_owned());
    }
}

/// Without routes, everything leads to the only thing that can answer.
fn default_route(ctx: &mut Context<'_>, places: &Places<'_>) -> Vec<Route> {
    let with_port = places.services.iter().filter(|(_, service)| service.has_port);
    let mut targets: Vec<RouteTarget> =
        with_port.map(|(name, _)| RouteTarget::Service { name: name.clone(), management: false }).collect();
    targets.extend(places.sites.keys().map(|name| RouteTarget::Site { name: name.clone() }));
    if targets.len() > 1 {
        let names: Vec<_> = targets.iter().map(|target| format!("`{}`", name_of(target))).collect();
        let place = ctx.place(&["edge", "service", "site"]);
        let message = format!("no route says where requests lead, and {} could answer", names.join(", "));
        let help = format!(
            "add for each a route: [[edge.route]] path = \"/*\", to = \"{}\"",
            targets.first().map(name_of).unwrap_or_default()
        );
        ctx.error(Code::RouteUnclear, &place, message, help);
        return Vec::new();
    }
    let Some(to) = targets.pop() else { return Vec::new() };
    let from = format!("the only thing that answers, `{}`", name_of(&to));
    for key in ["path", "to"] {
        ctx.origins.set(format!("edge.route[0].{key}"), Origin::Derived { from: from.clone() });
    }
    vec![plain_route("/*", to)]
}

/// A route that says no more than it must.
pub(crate) fn plain_route(path: &str, to: RouteTarget) -> Route {
    let is_strict = matches!(to, RouteTarget::Site { .. });
    Route {
        path: path.to_owned(),
        to,
        timeout: ROUTE_TIMEOUT,
        limits: Vec::new(),
        is_exempt: false,
        admission: Admission::default(),
        headers: Headers { is_strict, overwrites: false, set: BTreeMap::new() },
        cors: None,
        body_limit: BODY_LIMIT,
        balancing: Balancing::default(),
        compress: is_strict.then_some(COMPRESS_FROM),
        edits: Edits::default(),
        basic_auth: BTreeMap::new(),
        identity: None,
        client_certificate: None,
        maintenance: None,
    }
}

/// A target as the stack file writes it.
pub(crate) fn name_of(target: &RouteTarget) -> String {
    match target {
        RouteTarget::Service { name, management: false } => name.to_string(),
        RouteTarget::Service { name, management: true } => format!("{name}:management"),
        RouteTarget::Site { name } => name.clone(),
        RouteTarget::Redirect { location, .. } => location.clone(),
    }
}

fn read_routes(node: &Node, ctx: &mut Context<'_>, places: &Places<'_>) -> Vec<Route> {
    let Value::Array(items) = &node.value else {
        wrong_type(ctx, "edge.route", node, "an array of tables", "[[edge.route]] with two pairs of brackets");
        return Vec::new();
    };
    let mut routes = Vec::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("edge.route[{index}]");
        let Value::Table(table) = &item.value else {
            wrong_type(ctx, &at, item, "a table", "{ path = \"/*\", to = \"backend\" }");
            continue;
        };
        let mut cursor = Cursor::new(table, item.key.clone(), at.clone());
        ctx.note_place(&at, item);
        let path = cursor.text(ctx, "path", "path = \"/api/*\"");
        let to = cursor.text(ctx, "to", "to = \"backend\"");
        let elsewhere = redirect::read(&mut cursor, ctx, path.as_ref());
        for (key, example) in [("path", "`path = \"/*\"`"), ("to", "`to = \"NAME\"`, a service or site")] {
            let is_elsewhere = key == "to" && cursor.node("redirect").is_some();
            if !ctx.is_said(&cursor.at(key)) && !is_elsewhere {
                cursor.missing(ctx, key, "a route leads from a path to a service or site", example);
            }
        }
        if let Some(path) = &path {
            check_route_path(ctx, &at, path);
            if let Some(first) = seen.get(&path.text) {
                let message =
                    format!("the route \"{}\" is there twice: `edge.route[{first}]` has it too", quote(&path.text));
                ctx.error(Code::RouteTwice, &path.span, message, "remove one of the two".to_owned());
            }
            seen.entry(path.text.clone()).or_insert(index);
        }
        let to = to.and_then(|to| target(ctx, places, &to.text, &to.span)).or(elsewhere);
        let route = rules(&mut cursor, ctx, path.as_ref().map_or("", |path| &path.text), to);
        cursor.finish(ctx, &ROUTE_LATER, &[("from", "path"), ("target", "to"), ("service", "to"), ("site", "to")]);
        routes.extend(route.filter(|_| path.is_some()));
    }
    routes
}

/// What a route says beyond where it leads; each key is looked at, though it leads nowhere.
fn rules(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, path: &str, to: Option<RouteTarget>) -> Option<Route> {
    let timeout = cursor.duration(ctx, "timeout", Duration::from_millis(1)..=DAY).unwrap_or(ROUTE_TIMEOUT);
    let limits = limit::read(cursor, ctx);
    let admission = policy::admission(cursor, ctx);
    let headers = policy::headers(cursor, ctx, matches!(to, Some(RouteTarget::Site { .. })));
    let cors = policy::cors(cursor, ctx);
    let body_limit = cursor.size(ctx, "body_limit", Bytes(0)..=MOST_BODY).unwrap_or(BODY_LIMIT);
    let balancing = balance::balancing(cursor, ctx, to.as_ref());
    let is_site = matches!(to, Some(RouteTarget::Site { .. }));
    let compress = compress(cursor, ctx).unwrap_or(is_site.then_some(COMPRESS_FROM));
    let edits = edits::edits(cursor, ctx, path, to.as_ref());
    let basic_auth = edits::basic_auth(cursor, ctx);
    let identity = identity::entry(cursor, ctx);
    let client_certificate = tls::client_certificate(cursor, ctx);
    let maintenance = edits::maintenance(cursor, ctx);
    Some(Route {
        path: path.to_owned(),
        to: to?,
        timeout,
        is_exempt: limits.as_ref().is_some_and(Vec::is_empty),
        limits: limits.unwrap_or_default(),
        admission,
        headers,
        cors,
        body_limit,
        balancing,
        compress,
        edits,
        basic_auth,
        identity,
        client_certificate,
        maintenance,
    })
}

/// `true`, `false`, or from which size on.
fn compress(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Option<Bytes>> {
    let node = cursor.node("compress")?;
    match &node.value {
        Value::Boolean(is_on) => {
            ctx.note_value(&cursor.at("compress"), node);
            Some(is_on.then_some(COMPRESS_FROM))
        }
        Value::Table(_) => {
            let mut table = cursor.table_of(ctx, "compress", node)?;
            let from = table.size(ctx, "from", Bytes(1)..=Bytes::mebi(1)).unwrap_or(COMPRESS_FROM);
            table.finish(ctx, &[], &[("min", "from"), ("min_size", "from"), ("size", "from")]);
            Some(Some(from))
        }
        _ => {
            wrong_type(ctx, &cursor.at("compress"), node, "true, false or a table", "compress = true");
            None
        }
    }
}

/// `/exact` or `/prefix/*`.
fn check_route_path(ctx: &mut Context<'_>, at: &str, path: &Text) {
    let body = path.text.strip_suffix("/*").unwrap_or(&path.text);
    let is_whole = path.text == "/" || path.text == "/*";
    let problem = if !path.text.starts_with('/') {
        Some("it does not begin with /")
    } else if body.contains('*') {
        Some("a * stands only at the end, after a /")
    } else if body.chars().any(|letter| letter.is_whitespace() || matches!(letter, '?' | '#')) {
        Some("it has a blank, ? or #")
    } else if !is_whole && body.split('/').skip(1).any(|part| part == "." || part == "..") {
        Some("it has a . or .. between slashes")
    } else {
        None
    };
    let Some(problem) = problem else { return };
    let message = format!("`{at}.path` is \"{}\": {problem}", quote(&path.text));
    let help = "write \"/exact\" for one path, or \"/prefix/*\" for all below it".to_owned();
    ctx.error(Code::RoutePath, &path.span, message, help);
}

fn target(ctx: &mut Context<'_>, places: &Places<'_>, text: &str, span: &Range<usize>) -> Option<RouteTarget> {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let service = ServiceName::new(name).ok().and_then(|name| places.services.get_key_value(&name));
    match (service, port) {
        (Some((name, service)), None) => {
            if !service.has_port {
                no_such_port(ctx, span, name, "port");
            }
            Some(RouteTarget::Service { name: name.clone(), management: false })
        }
        (Some((name, service)), Some("management")) => {
            if !service.has_management_port {
                no_such_port(ctx, span, name, "management_port");
            }
            Some(RouteTarget::Service { name: name.clone(), management: true })
        }
        (Some((name, _)), Some(port)) => {
            let message = format!("a service has no port named \"{}\"", quote(port));
            let help = format!("write \"{name}\" for its port, or \"{name}:management\"");
            ctx.error(Code::RouteToNothing, span, message, help);
            None
        }
        (None, None) if places.sites.contains_key(name) => Some(RouteTarget::Site { name: name.to_owned() }),
        (None, Some(_)) if places.sites.contains_key(name) => {
            let message = format!("`{name}` is a site, and a site has no ports");
            ctx.error(Code::RouteToNothing, span, message, format!("write \"{name}\""));
            None
        }
        // It is declared under a name that was already told to be wrong.
        (None, _) if ctx.declared.contains(name) => None,
        (None, _) => {
            let known = places.services.keys().map(ServiceName::as_str).chain(places.sites.keys().map(String::as_str));
            let known: Vec<&str> = known.collect();
            let help = match nearest(name, known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None if known.is_empty() => "declare a [service.NAME] or [site.NAME] first".to_owned(),
                None => format!("the stack has: {}", known.join(", ")),
            };
            let message = format!("this route leads to \"{}\", which is no service and no site", quote(name));
            ctx.error(Code::RouteToNothing, span, message, help);
            None
        }
    }
}

fn no_such_port(ctx: &mut Context<'_>, span: &Range<usize>, name: &ServiceName, key: &str) {
    let message = format!("this route leads to a port that `service.{name}` does not have");
    let help = if ctx.is_said(&format!("service.{name}.every")) {
        "lead it to a service that stands: this one runs on a schedule".to_owned()
    } else {
        format!("set `{key} = true` in `[service.{name}]`")
    };
    ctx.error(Code::NoSuchPort, span, message, help);
}
