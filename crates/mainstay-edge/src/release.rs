//! Releases beside each other: which one a request is for, and what went through each.
//!
//! The decision is `mainstay_decide::share`; here is by what a client is known, who may choose a release, and the
//! counters. Nothing of this is looked at while an upstream has no share.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;
use http::header::USER_AGENT;
use mainstay_decide::balance::hash;
use mainstay_stack::balance::{Balancing, Method};
use mainstay_stack::limit::LimitKey;

use crate::metrics::Tally;

/// The header by which a request on this machine chooses a release, and by which its answer says which one it was.
pub(crate) const HEADER: &str = "x-mainstay-release";

/// Cookies that common servers set with the name of a session that they keep themselves. Not among them are cookies
/// that hold the session (`session` of Flask, `_NAME_session` of Rails): those change with it.
const SESSION_COOKIES: [&[u8]; 6] =
    [b"JSESSIONID", b"PHPSESSID", b"ASP.NET_SessionId", b"connect.sid", b"sessionid", b"sid"];

/// Headers by which proxies say for whom they ask: then the request is not of this machine, whatever its address is.
const PROXIED: [&str; 5] = ["forwarded", "x-forwarded-for", "x-real-ip", "via", "cf-connecting-ip"];

/// What went through the endpoints of one release of an upstream, each attempt counted.
#[derive(Debug)]
pub(crate) struct Release {
    pub(crate) number: u64,
    /// As people write it.
    pub(crate) label: String,
    /// By the first digit of the status; 0 is no answer.
    pub(crate) by_class: [AtomicU64; 6],
    pub(crate) tally: Tally,
}

impl Release {
    pub(crate) fn new(number: u64) -> Self {
        Self { number, label: format!("v{number}"), by_class: Default::default(), tally: Tally::default() }
    }

    pub(crate) fn record(&self, status: u16, took: Duration, is_error: bool) {
        self.by_class[usize::from(status / 100).min(5)].fetch_add(1, Ordering::Relaxed);
        self.tally.record(took, is_error);
    }
}

/// What a client is known by from one request to the next, as a hash: what its route says makes a client, else its
/// session, else the user who has shown a password, else its network and its program.
pub(crate) fn client(balancing: &Balancing, headers: &HeaderMap, user: Option<&str>, address: Option<IpAddr>) -> u64 {
    let own = match &balancing.method {
        Method::Hash { by: LimitKey::Header { name } } => headers.get(name.as_str()).map(http::HeaderValue::as_bytes),
        Method::Hash { by: LimitKey::Cookie { name } } => crate::limit::cookie(headers, name.as_bytes()),
        Method::Hash { by: LimitKey::User } => user.map(str::as_bytes),
        Method::Hash { by: LimitKey::Ip } | Method::RoundRobin | Method::LeastRequests => None,
    };
    let session = || SESSION_COOKIES.iter().find_map(|name| crate::limit::cookie(headers, name));
    let user = || user.map(str::as_bytes);
    let known = [own, session(), user()].into_iter().flatten().find(|value| !value.is_empty());
    known.map(hash).unwrap_or_else(|| {
        let agent = headers.get(USER_AGENT).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let network = address.map_or(Ipv6Addr::UNSPECIFIED, network).octets();
        hash(&[&network[..], agent].concat())
    })
}

/// The network of an address: what a client keeps while a provider gives it another one.
fn network(address: IpAddr) -> Ipv6Addr {
    match address.to_canonical() {
        IpAddr::V4(address) => std::net::Ipv4Addr::from_bits(address.to_bits() & 0xffff_ff00).to_ipv6_mapped(),
        IpAddr::V6(address) => crate::limit::network(IpAddr::V6(address)),
    }
}

/// The release that a request asks for. Only for who is on this machine: a release that is being tried is not for
/// everybody who knows its number.
pub(crate) fn asked(headers: &HeaderMap, address: Option<IpAddr>) -> Option<u64> {
    let mut given = headers.get_all(HEADER).iter();
    let (Some(given), None) = (given.next(), given.next()) else { return None };
    let is_here = address.is_some_and(|address| address.to_canonical().is_loopback());
    if !is_here || PROXIED.iter().any(|name| headers.contains_key(*name)) {
        return None;
    }
    let text = given.to_str().ok()?;
    text.strip_prefix('v').unwrap_or(text).parse().ok().filter(|release| *release > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().expect("value"));
        }
        map
    }

    fn known(pairs: &[(&'static str, &str)], user: Option<&str>, address: &str) -> u64 {
        client(&Balancing::default(), &headers(pairs), user, Some(address.parse().expect("address")))
    }

    #[test]
    fn a_client_is_its_session_else_its_user_else_its_network_and_program() {
        let (here, other) = ("203.0.113.7", "198.51.100.9");
        let session = |value: &str, address: &str| known(&[("cookie", &format!("a=b; sid={value}"))], None, address);
        assert_eq!(session("1", here), session("1", other));
        assert_ne!(session("1", here), session("2", here));
        assert_eq!(known(&[("cookie", "sid=1")], Some("alice"), here), session("1", here));
        assert_eq!(known(&[], Some("alice"), here), known(&[("user-agent", "x")], Some("alice"), other));
        assert_ne!(known(&[], Some("alice"), here), known(&[], Some("bob"), here));
        let agent = |name: &str, address: &str| known(&[("user-agent", name)], None, address);
        assert_eq!(agent("x", here), agent("x", "203.0.113.200"), "one /24");
        assert_ne!(agent("x", here), agent("x", other));
        assert_ne!(agent("x", here), agent("y", here));
        assert_eq!(agent("x", here), agent("x", "::ffff:203.0.113.7"));
        assert_eq!(agent("x", "2001:db8::1"), agent("x", "2001:db8::ffff"), "one /64");
        // A cookie that holds a session changes with it, and an empty one says nothing.
        assert_eq!(known(&[("cookie", "session=1")], None, here), known(&[("cookie", "session=2; sid=")], None, here));
    }

    #[test]
    fn what_a_route_says_makes_a_client_comes_first() {
        let by = |method: &str, pairs: &[(&'static str, &str)]| {
            let balancing = Balancing { method: method.parse().expect("method"), ..Balancing::default() };
            client(&balancing, &headers(pairs), None, None)
        };
        let both = |tenant: &'static str, sid: &'static str| [("x-tenant", tenant), ("cookie", sid)];
        let header = "hash header x-tenant";
        assert_eq!(by(header, &both("a", "sid=1")), by(header, &both("a", "sid=2")));
        assert_ne!(by(header, &both("a", "sid=1")), by(header, &both("b", "sid=1")));
        assert_eq!(by(header, &[("cookie", "sid=1")]), by("round-robin", &both("a", "sid=1")));
        let cookie = "hash cookie who";
        assert_ne!(by(cookie, &[("cookie", "who=a; sid=1")]), by(cookie, &[("cookie", "who=b; sid=1")]));
    }

    #[test]
    fn only_who_is_on_this_machine_chooses_a_release() {
        let ask = |pairs: &[(&'static str, &str)], address: &str| {
            asked(&headers(pairs), Some(address.parse().expect("address")))
        };
        for (text, release) in
            [("v7", Some(7)), ("7", Some(7)), ("v0", None), ("vv7", None), ("", None), ("latest", None), ("-1", None)]
        {
            assert_eq!(ask(&[(HEADER, text)], "127.0.0.1"), release, "{text}");
        }
        assert_eq!(ask(&[(HEADER, "v7")], "::1"), Some(7));
        assert_eq!(ask(&[(HEADER, "v7")], "::ffff:127.0.0.1"), Some(7));
        assert_eq!(ask(&[(HEADER, "v7"), (HEADER, "v8")], "127.0.0.1"), None);
        assert_eq!(ask(&[], "127.0.0.1"), None);
        for address in ["10.0.0.1", "203.0.113.7", "2001:db8::1"] {
            assert_eq!(ask(&[(HEADER, "v7")], address), None, "{address}");
        }
        // A proxy on this machine asks for somebody elsewhere.
        for name in PROXIED {
            assert_eq!(ask(&[(HEADER, "v7"), (name, "203.0.113.7")], "127.0.0.1"), None, "{name}");
        }
        assert_eq!(asked(&headers(&[(HEADER, "v7")]), None), None);
    }
}
