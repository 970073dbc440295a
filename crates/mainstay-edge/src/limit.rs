//! Limits in force: how often one client may ask, with the state of all clients.
//!
//! The decision is `mainstay_decide::limit`; here are the clients' names (hashes under a key of this process, so that
//! nobody can aim at a place of the table and nothing secret is kept), the locks and the headers. The state is this
//! process's own and begins anew with it.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fmt::Write;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use mainstay_decide::limit::{Outcome, Rate, Table};
use mainstay_stack::limit::{Limit, LimitKey};
use tokio::time::Instant;

use crate::protocol::Policy;

/// Clients of one limit that have something due at the same time: 1 MiB at 16 bytes each, used as they come.
const CLIENTS: usize = 65_536;
/// Parts of a table with a lock of their own: four times the most threads there are.
const PARTS: usize = 16;

/// One limit with its clients. It outlives the policies that have it.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Path of its route; empty for the edge's own.
    pub(crate) scope: String,
    pub(crate) text: String,
    rule: Limit,
    rate: Rate,
    parts: Vec<Mutex<Table>>,
    pub(crate) refused: AtomicU64,
}

/// Why a limit cannot be in force.
fn rate(limit: &Limit) -> Option<Rate> {
    Rate::new(limit.requests, limit.period, limit.burst)
}

/// Whether this can be a limit.
pub(crate) fn is_usable(limit: &Limit) -> bool {
    rate(limit).is_some()
}

impl Limiter {
    fn new(scope: &str, rule: &Limit) -> Option<Self> {
        let parts = (0..PARTS).map(|_| Mutex::new(Table::new(CLIENTS / PARTS))).collect();
        Some(Self {
            scope: scope.to_owned(),
            text: rule.to_string(),
            rate: rate(rule)?,
            rule: rule.clone(),
            parts,
            refused: AtomicU64::new(0),
        })
    }

    /// What the access log says of a refusal.
    fn reason(&self) -> &'static str {
        match self.rule.per {
            LimitKey::Ip => "too many requests from one address",
            LimitKey::Header { .. } => "too many requests with one value of a header",
            LimitKey::Cookie { .. } => "too many requests with one value of a cookie",
            LimitKey::User => "too many requests of one user",
        }
    }

    fn ask(&self, client: u64, now: u64) -> Outcome {
        // The table finds its place by the low bits.
        let part = usize::try_from(client >> 60).unwrap_or(0) % PARTS;
        let Some(part) = self.parts.get(part) else { return Outcome::Refused { retry_in: Duration::from_secs(1) } };
        part.lock().unwrap_or_else(PoisonError::into_inner).ask(self.rate, client, now)
    }

    /// Requests that were counted for another client as well, because the table was full.
    pub(crate) fn crowded(&self) -> u64 {
        let of = |part: &Mutex<Table>| part.lock().unwrap_or_else(PoisonError::into_inner).crowded();
        self.parts.iter().map(of).sum()
    }
}

/// The limits of a route, in the order in which they are asked.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    limiters: Vec<(Arc<Limiter>, String)>,
    /// Those from here on count by user.
    by_user: usize,
    /// The header `RateLimit-Policy`.
    policy: String,
}

impl Chain {
    fn new(mut limiters: Vec<Arc<Limiter>>) -> Self {
        // By address first: what is refused there takes no place in the tables of made-up names. By user last: to know
        // one costs a signature's check.
        limiters.sort_by_key(|limiter| match limiter.rule.per {
            LimitKey::Ip => 0,
            LimitKey::Header { .. } | LimitKey::Cookie { .. } => 1,
            LimitKey::User => 2,
        });
        let by_user = limiters.iter().filter(|limiter| limiter.rule.per != LimitKey::User).count();
        let mut chain = Self { by_user, ..Self::default() };
        for limiter in limiters {
            let kind = limiter.rule.per.to_string().replace(' ', "-");
            let same = chain.limiters.iter().filter(|(_, name)| name.starts_with(&kind)).count();
            let name = if same == 0 { kind } else { format!("{kind}-{}", same + 1) };
            let separator = if chain.policy.is_empty() { "" } else { ", " };
            let (quota, window) = (limiter.rule.requests, limiter.rule.period.as_secs());
            // Writing to a String cannot fail.
            write!(chain.policy, "{separator}\"{name}\";q={quota};w={window}").ok();
            chain.limiters.push((limiter, name));
        }
        chain
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.limiters.is_empty()
    }

    /// Whether some of it can only be asked once the user is known.
    pub(crate) fn has_users(&self) -> bool {
        self.by_user < self.limiters.len()
    }

    fn of(&self, stage: Stage) -> &[(Arc<Limiter>, String)] {
        let (before, by_user) = self.limiters.split_at(self.by_user);
        match stage {
            Stage::Stranger => before,
            Stage::User => by_user,
        }
    }
}

/// When limits are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before anybody knows who comes.
    Stranger,
    /// Afterwards.
    User,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'r> {
    pub(crate) headers: &'r HeaderMap,
    pub(crate) address: Option<IpAddr>,
    /// With the issuer who knows the user; a password has none.
    pub(crate) user: Option<(&'r str, &'r str)>,
}

/// What the limits said about one request.
#[derive(Debug)]
pub(crate) struct Quota {
    /// The header `RateLimit-Policy`.
    pub(crate) policy: String,
    /// The header `RateLimit`.
    pub(crate) left: String,
    pub(crate) refused: Option<Refused>,
}

/// Which limit refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) reason: &'static str,
    pub(crate) retry_in: Duration,
}

pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Refused {
    /// The header `Retry-After`. **Unit**: seconds, upwards, so that who obeys is not refused again.
    pub(crate) fn retry_after(&self) -> u64 {
        whole_seconds(self.retry_in).max(1)
    }
}

/// All limits of the policies so far that are still in force.
#[derive(Debug)]
pub(crate) struct Limits {
    epoch: Instant,
    keys: RandomState,
    known: Mutex<BTreeMap<(String, Limit), Arc<Limiter>>>,
}

/// The limits of one policy.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    /// For requests that no route takes.
    pub(crate) edge: Arc<Chain>,
    pub(crate) routes: BTreeMap<String, Arc<Chain>>,
}

impl Limits {
    pub(crate) fn new() -> Self {
        Self { epoch: Instant::now(), keys: RandomState::new(), known: Mutex::new(BTreeMap::new()) }
    }

    /// Makes the limits of a policy; one that stays keeps its clients.
    pub(crate) fn configure(&self, policy: &Policy) -> Compiled {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = BTreeMap::new();
        let mut take = |scope: &str, limits: &[Limit]| -> Vec<Arc<Limiter>> {
            let limiters = limits.iter().filter_map(|limit| {
                let key = (scope.to_owned(), limit.clone());
                let limiter = match known.get(&key).or_else(|| next.get(&key)) {
                    Some(limiter) => Arc::clone(limiter),
                    None => Arc::new(Limiter::new(scope, limit)?),
                };
                next.insert(key, Arc::clone(&limiter));
                Some(limiter)
            });
            limiters.collect()
        };
        let edge = take("", &policy.limits);
        let mut compiled = Compiled { edge: Arc::new(Chain::new(edge.clone())), routes: BTreeMap::new() };
        for route in &policy.routes {
            let own = take(&route.path, &route.limits);
            let chain = if route.is_exempt {
                Arc::new(Chain::new(own))
            } else if own.is_empty() {
                Arc::clone(&compiled.edge)
            } else {
                Arc::new(Chain::new(edge.iter().cloned().chain(own).collect()))
            };
            compiled.routes.insert(route.path.clone(), chain);
        }
        *known = next;
        compiled
    }

    pub(crate) fn all(&self) -> Vec<Arc<Limiter>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Asks every limit of a chain about a request, until one refuses. Call it only for a chain that is not empty.
    pub(crate) fn ask(&self, chain: &Chain, client: Client<'_>, at: Instant) -> Quota {
        let mut quota = Quota { policy: chain.policy.clone(), left: String::new(), refused: None };
        self.go_on(&mut quota, chain.of(Stage::Stranger), client, at);
        quota
    }

    /// Asks those that count by user.
    pub(crate) fn ask_users(&self, quota: &mut Quota, chain: &Chain, client: Client<'_>, at: Instant) {
        self.go_on(quota, chain.of(Stage::User), client, at);
    }

    fn go_on(&self, quota: &mut Quota, limiters: &[(Arc<Limiter>, String)], client: Client<'_>, at: Instant) {
        let now = u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        for (limiter, name) in limiters {
            let outcome = limiter.ask(self.client(&limiter.rule.per, client), now);
            let separator = if quota.left.is_empty() { "" } else { ", " };
            let (left, time) = match outcome {
                Outcome::Admitted { left, full_in } => (left, full_in),
                Outcome::Refused { retry_in } => (0, retry_in),
            };
            write!(quota.left, "{separator}\"{name}\";r={left};t={}", whole_seconds(time)).ok();
            if let Outcome::Refused { retry_in } = outcome {
                limiter.refused.fetch_add(1, Ordering::Relaxed);
                let reason = limiter.reason();
                quota.refused = Some(Refused { limiter: Arc::clone(limiter), reason, retry_in });
                break;
            }
        }
    }

    /// The client's name in the tables.
    fn client(&self, per: &LimitKey, Client { headers, address, user }: Client<'_>) -> u64 {
        if let (LimitKey::User, Some(user)) = (per, user) {
            // Not only the name: two issuers may know one each.
            return self.keys.hash_one((4_u8, user));
        }
        let named = match per {
            LimitKey::Ip | LimitKey::User => None,
            LimitKey::Header { name } => headers.get(name.as_str()).map(http::HeaderValue::as_bytes),
            LimitKey::Cookie { name } => cookie(headers, name.as_bytes()),
        };
        match (named.filter(|value| !value.is_empty()), address.map(|address| network(address).octets())) {
            (Some(value), _) => self.keys.hash_one((1_u8, value)),
            (None, Some(address)) => self.keys.hash_one((2_u8, &address[..])),
            (None, None) => self.keys.hash_one(3_u8),
        }
    }
}

/// What counts as one address: of IPv6 the first 64 bits, because whoever has one has 2⁶⁴ of them.
pub(crate) fn network(client: IpAddr) -> Ipv6Addr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::from(u64::MAX) << 64)),
    }
}

/// The value of the first cookie of a name.
pub(crate) fn cookie<'h>(headers: &'h HeaderMap, name: &[u8]) -> Option<&'h [u8]> {
    let pairs =
        headers.get_all(http::header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(name, value);
        }
        map
    }

    #[test]
    fn clients_are_told_apart_by_what_the_limit_says() {
        let limits = Limits::new();
        let of = |per: &LimitKey, headers: &HeaderMap, address: Option<IpAddr>| {
            limits.client(per, Client { headers, address, user: None })
        };
        let (here, there) = (Some([127, 0, 0, 1].into()), Some([127, 0, 0, 2].into()));
        let none = HeaderMap::new();
        let key = |text: &str| text.parse::<LimitKey>().expect("a key");
        let ip = key("ip");
        assert_ne!(of(&ip, &none, here), of(&ip, &none, there));
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().expect("address");
        assert_eq!(of(&ip, &none, here), of(&ip, &none, Some(mapped)));
        let v6 = |text: &str| of(&ip, &none, Some(text.parse().expect("address")));
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff"), "a subscriber has a whole /64");
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        let header = key("header X-Key");
        let (a, b) = (headers(&[("x-key", "a")]), headers(&[("x-key", "b")]));
        assert_ne!(of(&header, &a, here), of(&header, &b, here));
        assert_eq!(of(&header, &a, here), of(&header, &a, there));
        assert_eq!(of(&header, &none, here), of(&ip, &none, here), "without it, the address");
        let cookie = key("cookie sid");
        let with = |value: &'static str| of(&cookie, &headers(&[("cookie", value)]), here);
        assert_eq!(with("x=1; sid=7"), with("sid=7; y=2"));
        assert_ne!(with("sid=7"), with("sid=8"));
        assert_eq!(with("xsid=7"), of(&ip, &none, here));
        let user = |user: Option<(&'static str, &'static str)>| {
            limits.client(&LimitKey::User, Client { headers: &none, address: here, user })
        };
        assert_eq!(user(Some(("i", "alice"))), user(Some(("i", "alice"))));
        assert_ne!(user(Some(("i", "alice"))), user(Some(("j", "alice"))), "another issuer's");
        assert_ne!(user(Some(("i", "alice"))), user(Some(("i", "bob"))));
        assert_eq!(user(None), of(&ip, &none, here), "where nobody is known, the address");
    }

    #[test]
    fn a_chain_asks_addresses_first_and_names_each_limit_once() {
        let limiter = |text: &str| Arc::new(Limiter::new("", &text.parse().expect("a limit")).expect("a rate"));
        let chain =
            Chain::new(["3/s per user", "9/min per header x-key", "5/s per ip", "7/h per ip"].map(limiter).into());
        let policy = "\"ip\";q=5;w=1, \"ip-2\";q=7;w=3600, \"header-x-key\";q=9;w=60, \"user\";q=3;w=1";
        assert_eq!((chain.policy.as_str(), chain.has_users()), (policy, true));
        assert_eq!((chain.of(Stage::Stranger).len(), chain.of(Stage::User).len()), (3, 1));
    }
}
