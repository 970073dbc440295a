//! Upstream groups: their endpoints, who is in the rotation, the hold gate and the retry budget.
//!
//! A group lives outside the policy snapshot and survives swaps, because it carries live counters. An endpoint
//! that leaves the set is only dropped when its last request has ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::metrics::Tally;
use crate::protocol;

/// Answers missing in a row (reset, timeout) before an endpoint that still accepts connections is ejected: a single
/// one is an ordinary bug in a handler, five say that the process hangs.
const FAILURES_BEFORE_EJECTION: u32 = 5;
/// Share of requests that may be sent again, in thousandths: with a dead upstream the load grows by a fifth at most.
const RETRY_SHARE_MILLI: i64 = 200;
/// Most retries saved up: one crash may break as many requests as are under way at once.
const RETRY_SAVINGS_MILLI: i64 = 1_000_000;
/// Retries available to a group that is new or idle.
const RETRY_START_MILLI: i64 = 100_000;

/// An ejection or readmission, for the control plane.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    pub(crate) upstream: String,
    pub(crate) endpoint: String,
    pub(crate) is_in: bool,
    pub(crate) reason: String,
}

/// One endpoint with its live state.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
    is_ready: AtomicBool,
    is_ejected: AtomicBool,
    failures: AtomicU32,
    pub(crate) is_probing: AtomicBool,
    pub(crate) in_flight: AtomicU64,
    pub(crate) tally: Tally,
}

impl Endpoint {
    fn new(id: &str, address: SocketAddr, is_ready: bool) -> Self {
        Self {
            id: id.to_owned(),
            address,
            is_ready: AtomicBool::new(is_ready),
            is_ejected: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            is_probing: AtomicBool::new(false),
            in_flight: AtomicU64::new(0),
            tally: Tally::default(),
        }
    }

    /// In the rotation.
    pub(crate) fn is_in(&self) -> bool {
        self.is_ready.load(Ordering::Acquire) && !self.is_ejected.load(Ordering::Acquire)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.is_ejected.load(Ordering::Acquire)
    }
}

/// A request's hold on an endpoint; counts it as under way until dropped.
#[derive(Debug)]
pub(crate) struct Lease(pub(crate) Arc<Endpoint>);

impl Lease {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why no endpoint was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoEndpoint {
    /// As many requests wait as may.
    Full,
    /// None came in within the hold time.
    TimedOut,
}

/// An upstream with its endpoints.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    settings: ArcSwap<protocol::Upstream>,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    next: AtomicUsize,
    version: watch::Sender<u64>,
    waiting: AtomicU32,
    savings_milli: Mutex<i64>,
    pub(crate) tally: Tally,
    pub(crate) retries: AtomicU64,
    pub(crate) retries_refused: AtomicU64,
    pub(crate) ejections: AtomicU64,
    pub(crate) readmissions: AtomicU64,
    pub(crate) held: AtomicU64,
    pub(crate) released: AtomicU64,
    pub(crate) shed: AtomicU64,
    events: broadcast::Sender<Changed>,
}

impl Group {
    fn new(name: &str, settings: protocol::Upstream, events: broadcast::Sender<Changed>) -> Self {
        Self {
            name: name.to_owned(),
            settings: ArcSwap::from_pointee(settings),
            endpoints: ArcSwap::default(),
            next: AtomicUsize::new(0),
            version: watch::Sender::new(0),
            waiting: AtomicU32::new(0),
            savings_milli: Mutex::new(RETRY_START_MILLI),
            tally: Tally::default(),
            retries: AtomicU64::new(0),
            retries_refused: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            readmissions: AtomicU64::new(0),
            held: AtomicU64::new(0),
            released: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            events,
        }
    }

    pub(crate) fn settings(&self) -> Arc<protocol::Upstream> {
        self.settings.load_full()
    }

    pub(crate) fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.endpoints.load_full()
    }

    /// Replaces the endpoints. One that stays (same id and address) keeps its state and its counters.
    fn replace(&self, wanted: &[protocol::Endpoint]) {
        let known = self.endpoints.load_full();
        let mut next = Vec::with_capacity(wanted.len());
        for endpoint in wanted {
            let Ok(address) = endpoint.address.parse::<SocketAddr>() else { continue };
            match known.iter().find(|other| other.id == endpoint.id && other.address == address) {
                Some(same) => {
                    same.is_ready.store(endpoint.is_ready, Ordering::Release);
                    next.push(Arc::clone(same));
                }
                None => next.push(Arc::new(Endpoint::new(&endpoint.id, address, endpoint.is_ready))),
            }
        }
        self.endpoints.store(Arc::new(next));
        self.wake();
    }

    fn wake(&self) {
        self.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// The next endpoint in turn, one not tried before if there is one. The turn is over those that are in: with a
    /// turn over all, the neighbour of one that is out would get twice its share.
    fn pick(&self, tried: &[String]) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        let is_untried = |endpoint: &&Arc<Endpoint>| endpoint.is_in() && !tried.contains(&endpoint.id);
        let is_in = |endpoint: &&Arc<Endpoint>| endpoint.is_in();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let untried = endpoints.iter().filter(is_untried).count();
        let picked = if untried > 0 {
            endpoints.iter().filter(is_untried).nth(turn % untried)
        } else {
            let count = endpoints.iter().filter(is_in).count();
            endpoints.iter().filter(is_in).nth(turn % count.max(1))
        };
        // An endpoint may have been ejected between the count and the pick: any that is in will do.
        picked.or_else(|| endpoints.iter().find(is_in)).map(Arc::clone)
    }

    /// An endpoint for a request, waiting behind the hold gate until `hold_until` when none is in.
    ///
    /// **Errors**: the gate is full, or the time is over.
    pub(crate) async fn acquire(
        &self,
        tried: &[String],
        hold_until: &mut Option<Instant>,
    ) -> Result<Lease, NoEndpoint> {
        if let Some(endpoint) = self.pick(tried) {
            return Ok(Lease::new(endpoint));
        }
        let settings = self.settings.load_full();
        let until = *hold_until.get_or_insert_with(|| Instant::now() + Duration::from_millis(settings.hold_ms));
        let Some(_place) = Place::take(&self.waiting, settings.hold_requests) else {
            self.shed.fetch_add(1, Ordering::Relaxed);
            return Err(NoEndpoint::Full);
        };
        self.held.fetch_add(1, Ordering::Relaxed);
        let mut version = self.version.subscribe();
        loop {
            version.mark_unchanged();
            // After a wait an endpoint that was tried before has been readmitted or replaced: it may be tried again.
            if let Some(endpoint) = self.pick(tried) {
                self.released.fetch_add(1, Ordering::Relaxed);
                return Ok(Lease::new(endpoint));
            }
            if tokio::time::timeout_at(until, version.changed()).await.is_err() {
                self.shed.fetch_add(1, Ordering::Relaxed);
                return Err(NoEndpoint::TimedOut);
            }
        }
    }

    /// Requests waiting at the gate.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// One more request: it saves up for a share of a retry.
    pub(crate) fn deposit(&self) {
        let mut savings = self.savings_milli.lock().unwrap_or_else(PoisonError::into_inner);
        *savings = (*savings + RETRY_SHARE_MILLI).min(RETRY_SAVINGS_MILLI);
    }

    /// Whether a request may be sent again within the budget.
    pub(crate) fn may_retry(&self) -> bool {
        let mut savings = self.savings_milli.lock().unwrap_or_else(PoisonError::into_inner);
        let is_allowed = *savings >= 1000;
        if is_allowed {
            *savings -= 1000;
            self.retries.fetch_add(1, Ordering::Relaxed);
        } else {
            self.retries_refused.fetch_add(1, Ordering::Relaxed);
        }
        is_allowed
    }

    /// Takes an endpoint out of the rotation until a probe readmits it.
    pub(crate) fn eject(&self, endpoint: &Endpoint, reason: &str) {
        if endpoint.is_ejected.swap(true, Ordering::AcqRel) {
            return;
        }
        self.ejections.fetch_add(1, Ordering::Relaxed);
        self.tell(endpoint, false, reason);
    }

    /// Puts an endpoint back. With `is_ready` also against the control plane's last word, because there is none now.
    pub(crate) fn readmit(&self, endpoint: &Endpoint, is_ready: bool, reason: &str) {
        let was_in = endpoint.is_in();
        endpoint.failures.store(0, Ordering::Relaxed);
        if is_ready {
            endpoint.is_ready.store(true, Ordering::Release);
        }
        endpoint.is_ejected.store(false, Ordering::Release);
        if !was_in && endpoint.is_in() {
            self.readmissions.fetch_add(1, Ordering::Relaxed);
            self.wake();
            self.tell(endpoint, true, reason);
        }
    }

    /// An answer arrived: the endpoint lives.
    pub(crate) fn answered(&self, endpoint: &Endpoint) {
        if endpoint.failures.load(Ordering::Relaxed) != 0 {
            endpoint.failures.store(0, Ordering::Relaxed);
        }
    }

    /// No answer came. Ejects an endpoint that keeps doing so while another is in: the last one is better than none.
    pub(crate) fn unanswered(&self, endpoint: &Endpoint, reason: &str) {
        let failures = endpoint.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let has_other = self.endpoints.load().iter().any(|other| other.id != endpoint.id && other.is_in());
        if failures >= FAILURES_BEFORE_EJECTION && has_other {
            self.eject(endpoint, reason);
        }
    }

    fn tell(&self, endpoint: &Endpoint, is_in: bool, reason: &str) {
        let changed =
            Changed { upstream: self.name.clone(), endpoint: endpoint.id.clone(), is_in, reason: reason.to_owned() };
        // Nobody listens while no control plane is connected.
        self.events.send(changed).ok();
    }
}

/// A place in the hold gate, given back when dropped (also when the client goes away while waiting).
struct Place<'a>(&'a AtomicU32);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicU32, most: u32) -> Option<Self> {
        waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (count < most).then_some(count + 1))
            .ok()
            .map(|_| Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All groups by name.
#[derive(Debug)]
pub(crate) struct Groups {
    by_name: ArcSwap<BTreeMap<String, Arc<Group>>>,
    endpoints: Mutex<BTreeMap<String, Vec<protocol::Endpoint>>>,
    pub(crate) events: broadcast::Sender<Changed>,
}

impl Groups {
    pub(crate) fn new() -> Self {
        // Ejections come in handfuls; a control plane that lags by 256 of them learns the state from the reports.
        let (events, _) = broadcast::channel(256);
        Self { by_name: ArcSwap::default(), endpoints: Mutex::new(BTreeMap::new()), events }
    }

    pub(crate) fn all(&self) -> Arc<BTreeMap<String, Arc<Group>>> {
        self.by_name.load_full()
    }

    /// Makes the groups of a policy; those that stay keep their state.
    pub(crate) fn configure(
        &self,
        upstreams: &BTreeMap<String, protocol::Upstream>,
    ) -> Arc<BTreeMap<String, Arc<Group>>> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.by_name.load_full();
        let mut groups = BTreeMap::new();
        for (name, settings) in upstreams {
            let group = match known.get(name) {
                Some(group) => {
                    group.settings.store(Arc::new(settings.clone()));
                    Arc::clone(group)
                }
                None => {
                    let group = Group::new(name, settings.clone(), self.events.clone());
                    group.replace(endpoints.get(name).map_or(&[], Vec::as_slice));
                    Arc::new(group)
                }
            };
            groups.insert(name.clone(), group);
        }
        let groups = Arc::new(groups);
        self.by_name.store(Arc::clone(&groups));
        groups
    }

    /// Replaces the endpoints of all groups; a group that is not named has none.
    pub(crate) fn replace_endpoints(&self, upstreams: BTreeMap<String, Vec<protocol::Endpoint>>) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        *endpoints = upstreams;
        for (name, group) in self.by_name.load().iter() {
            group.replace(endpoints.get(name).map_or(&[], Vec::as_slice));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(hold_ms: u64, hold_requests: u32) -> Group {
        let settings = protocol::Upstream { health_path: None, hold_ms, hold_requests };
        Group::new("backend", settings, broadcast::channel(16).0)
    }

    fn endpoint(id: &str, port: u16) -> protocol::Endpoint {
        protocol::Endpoint { id: id.to_owned(), address: format!("127.0.0.1:{port}"), is_ready: true }
    }

    #[tokio::test]
    async fn requests_go_round_and_avoid_what_was_tried() {
        let group = group(0, 0);
        group.replace(&[endpoint("a", 1), endpoint("b", 2)]);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(group.acquire(&[], &mut None).await.expect("endpoint").0.id.clone());
        }
        assert_eq!(seen, ["a", "b", "a", "b"]);
        for _ in 0..3 {
            assert_eq!(group.acquire(&["a".to_owned()], &mut None).await.expect("endpoint").0.id, "b");
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_stays_keeps_its_ejection_and_one_that_leaves_is_not_picked() {
        let group = group(0, 1);
        group.replace(&[endpoint("a", 1), endpoint("b", 2)]);
        let lease = group.acquire(&[], &mut None).await.expect("endpoint");
        group.eject(&lease.0, "refused");
        group.replace(&[endpoint("a", 1), endpoint("c", 3)]);
        for _ in 0..3 {
            assert_eq!(group.acquire(&[], &mut None).await.expect("endpoint").0.id, "c");
        }
        assert_eq!(lease.0.in_flight.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_gate_counts_who_waits_and_gives_up_in_time() {
        let group = Arc::new(group(40, 1));
        let first = tokio::spawn({
            let group = Arc::clone(&group);
            async move { group.acquire(&[], &mut None).await.err() }
        });
        while group.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(group.acquire(&[], &mut None).await.err(), Some(NoEndpoint::Full));
        assert_eq!(first.await.expect("joins"), Some(NoEndpoint::TimedOut));
        assert_eq!(group.waiting(), 0);
    }

    #[test]
    fn retries_are_a_fifth_of_requests() {
        let group = group(0, 0);
        while group.may_retry() {}
        for _ in 0..10 {
            group.deposit();
        }
        assert!(group.may_retry());
        assert!(group.may_retry());
        assert!(!group.may_retry());
    }

    #[test]
    fn the_last_endpoint_is_not_ejected_for_missing_answers() {
        let group = group(0, 0);
        group.replace(&[endpoint("a", 1), endpoint("b", 2)]);
        let endpoints = group.endpoints();
        for endpoint in endpoints.iter() {
            for _ in 0..10 {
                group.unanswered(endpoint, "reset");
            }
        }
        assert!(!endpoints[0].is_in());
        assert!(endpoints[1].is_in());
    }
}
