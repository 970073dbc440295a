//! Upstream groups: their endpoints, who is in the rotation, the hold gate and the circuit breaker.
//!
//! A group lives outside the policy snapshot and survives swaps, because it carries live counters. An endpoint
//! that leaves the set is only dropped when its last request has ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mainstay_decide::balance::{self, Answers, Breaker, Outcome, Verdict, Way};
use mainstay_decide::share::{Share, Side};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::endpoint::{Endpoint, Lease};
use crate::metrics::Tally;
use crate::protocol;
use crate::release::Release;

/// An ejection or readmission, for the control plane.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    pub(crate) upstream: String,
    pub(crate) endpoint: String,
    pub(crate) is_in: bool,
    pub(crate) reason: String,
}

/// How a request wants its endpoint chosen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wish {
    pub(crate) way: Option<Way>,
    /// Tag of the endpoint it had before.
    pub(crate) sticky: Option<String>,
    /// What its client is known by. Not looked at before there is a share; who waits for an endpoint when one comes
    /// counts as a client of the old release.
    pub(crate) client: Option<u64>,
    /// The release it asks for.
    pub(crate) release: Option<u64>,
}

/// Who takes requests, and how clients are divided among releases: one value, so that no request sees one without the
/// other.
#[derive(Debug, Default)]
struct Roster {
    endpoints: Arc<Vec<Arc<Endpoint>>>,
    share: Option<Share>,
    /// Of the endpoints. Counters of a release begin anew when it comes back.
    releases: Vec<Arc<Release>>,
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
    roster: ArcSwap<Roster>,
    next: AtomicU64,
    /// Its times count from here.
    beginning: Instant,
    version: watch::Sender<u64>,
    waiting: AtomicU32,
    breaker: Mutex<Breaker>,
    pub(crate) tally: Tally,
    pub(crate) retries: AtomicU64,
    pub(crate) retries_refused: AtomicU64,
    pub(crate) ejections: AtomicU64,
    pub(crate) outliers: AtomicU64,
    pub(crate) readmissions: AtomicU64,
    /// Requests that the breaker kept away.
    pub(crate) broken: AtomicU64,
    pub(crate) held: AtomicU64,
    pub(crate) released: AtomicU64,
    pub(crate) shed: AtomicU64,
    /// Requests that the other release served, because none of their own could.
    pub(crate) strayed: AtomicU64,
    events: broadcast::Sender<Changed>,
}

impl Group {
    fn new(name: &str, settings: protocol::Upstream, events: broadcast::Sender<Changed>) -> Self {
        Self {
            name: name.to_owned(),
            settings: ArcSwap::from_pointee(settings),
            roster: ArcSwap::default(),
            next: AtomicU64::new(0),
            beginning: Instant::now(),
            version: watch::Sender::new(0),
            waiting: AtomicU32::new(0),
            breaker: Mutex::new(Breaker::default()),
            tally: Tally::default(),
            retries: AtomicU64::new(0),
            retries_refused: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
            outliers: AtomicU64::new(0),
            readmissions: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            held: AtomicU64::new(0),
            released: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            strayed: AtomicU64::new(0),
            events,
        }
    }

    pub(crate) fn settings(&self) -> Arc<protocol::Upstream> {
        self.settings.load_full()
    }

    pub(crate) fn endpoints(&self) -> Arc<Vec<Arc<Endpoint>>> {
        Arc::clone(&self.roster.load().endpoints)
    }

    /// Whether clients are divided among releases.
    pub(crate) fn has_share(&self) -> bool {
        self.roster.load().share.is_some()
    }

    /// Releases that have endpoints.
    pub(crate) fn releases(&self) -> Vec<Arc<Release>> {
        self.roster.load().releases.clone()
    }

    /// Time since its beginning. **Unit**: milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.beginning.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Replaces the endpoints. One that stays (same id, address and release) keeps its state and its counters.
    fn replace(&self, wanted: &[protocol::Endpoint], share: Option<Share>) {
        let before = self.roster.load_full();
        let known = &before.endpoints;
        let now = self.now_ms();
        let mut next = Vec::with_capacity(wanted.len());
        let mut releases: Vec<Arc<Release>> = Vec::new();
        let find = |among: &[Arc<Release>], number| among.iter().find(|one| one.number == number).cloned();
        for endpoint in wanted {
            let Ok(address) = endpoint.address.parse::<SocketAddr>() else { continue };
            let number = endpoint.release;
            if number > 0 && find(&releases, number).is_none() {
                releases.push(find(&before.releases, number).unwrap_or_else(|| Arc::new(Release::new(number))));
            }
            let is_same = |other: &Endpoint| {
                other.id == endpoint.id && other.address == address && other.release_number() == number
            };
            match known.iter().find(|other| is_same(other)) {
                Some(same) => {
                    same.set_ready(endpoint.is_ready, now);
                    next.push(Arc::clone(same));
                }
                None => {
                    let release = find(&releases, number);
                    next.push(Arc::new(Endpoint::new(&self.name, endpoint, address, release, now)));
                }
            }
        }
        self.roster.store(Arc::new(Roster { endpoints: Arc::new(next), share, releases }));
        self.wake();
    }

    fn wake(&self) {
        self.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// The endpoint for a request, one not tried before if there is one; among those that are in.
    fn pick(&self, tried: &[String], wish: &Wish) -> Option<Arc<Endpoint>> {
        let roster = self.roster.load();
        let endpoints = roster.endpoints.as_slice();
        let is_new = |one: &Endpoint| !tried.contains(&one.id);
        let tied = wish
            .sticky
            .as_ref()
            .and_then(|tag| endpoints.iter().find(|one| one.tag == *tag && one.is_in() && is_new(one)).map(Arc::clone));
        let Some(share) = roster.share else {
            return tied.or_else(|| self.choose(endpoints, tried, wish, |_| true));
        };
        if wish.release.is_some() {
            let asked = |one: &Endpoint| Some(one.release_number()) == wish.release;
            if let Some(asked) = self.choose(endpoints, tried, wish, asked) {
                return Some(asked);
            }
        }
        if let Some(tied) = tied.filter(|one| share.keeps(share.side_of(one.release_number()))) {
            return Some(tied);
        }
        let side = wish.client.map_or(Side::Old, |client| share.side(client));
        let sides = [Some(side), share.stand_in(side)];
        // One that was tried and did not answer is the last resort, also if it is the only one of its release.
        for is_last_resort in [false, true] {
            for (nth, side) in sides.iter().enumerate() {
                let is_one = |one: &Endpoint| {
                    Some(share.side_of(one.release_number())) == *side && (is_last_resort || is_new(one))
                };
                if let Some(chosen) = self.choose(endpoints, tried, wish, is_one) {
                    self.strayed.fetch_add(u64::from(nth > 0), Ordering::Relaxed);
                    return Some(chosen);
                }
            }
        }
        None
    }

    /// One of those that are in and meant.
    fn choose(
        &self,
        endpoints: &[Arc<Endpoint>],
        tried: &[String],
        wish: &Wish,
        is_meant: impl Fn(&Endpoint) -> bool,
    ) -> Option<Arc<Endpoint>> {
        let (slow_start, now) = (self.settings.load().resilience.slow_start, self.now_ms());
        let is_in: Vec<&Arc<Endpoint>> =
            endpoints.iter().filter(|endpoint| endpoint.is_in() && is_meant(endpoint)).collect();
        let candidates: Vec<_> = is_in.iter().map(|one| one.candidate(tried, slow_start, now)).collect();
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let chosen = balance::choose(&candidates, wish.way.unwrap_or(Way::Turn), turn)?;
        is_in.get(chosen).map(|endpoint| Arc::clone(endpoint))
    }

    /// An endpoint for a request, waiting behind the hold gate until `hold_until` when none is in.
    ///
    /// **Errors**: the gate is full, or the time is over.
    pub(crate) async fn acquire(
        &self,
        tried: &[String],
        wish: &Wish,
        hold_until: &mut Option<Instant>,
    ) -> Result<Lease, NoEndpoint> {
        if let Some(endpoint) = self.pick(tried, wish) {
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
            if let Some(endpoint) = self.pick(tried, wish) {
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

    /// What the breaker says to a request.
    pub(crate) fn ask_breaker(&self) -> Verdict {
        let settings = self.settings.load();
        let Some(rules) = &settings.resilience.breaker else { return Verdict::Pass };
        let verdict = self.breaker.lock().unwrap_or_else(PoisonError::into_inner).ask(rules, self.now_ms());
        if matches!(verdict, Verdict::Refuse { .. }) {
            self.broken.fetch_add(1, Ordering::Relaxed);
        }
        verdict
    }

    /// Tells the breaker what became of a request.
    pub(crate) fn tell_breaker(&self, is_try: bool, outcome: Outcome) {
        let settings = self.settings.load();
        let Some(rules) = &settings.resilience.breaker else { return };
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner).record(rules, self.now_ms(), is_try, outcome);
    }

    pub(crate) fn is_breaker_open(&self) -> bool {
        let has_rules = self.settings.load().resilience.breaker.is_some();
        has_rules && self.breaker.lock().unwrap_or_else(PoisonError::into_inner).is_open()
    }

    /// Once a second: leaves out who alone answers with errors.
    pub(crate) fn look_for_outliers(&self) {
        let endpoints = self.endpoints();
        let answers: Vec<Answers> = endpoints.iter().map(|endpoint| endpoint.look()).collect();
        let settings = self.settings.load();
        let Some(rules) = &settings.resilience.eject else { return };
        let now = self.now_ms();
        let found = balance::outliers(&answers, rules);
        for (index, (endpoint, answers)) in endpoints.iter().zip(&answers).enumerate() {
            if found.contains(&index) {
                if endpoint.eject_for(rules.least, now) {
                    self.outliers.fetch_add(1, Ordering::Relaxed);
                    let Answers { requests, errors, .. } = answers;
                    let reason = format!("{errors} of {requests} answers of ten seconds are errors, of others fewer");
                    self.ejected(endpoint, &reason);
                }
            } else if answers.requests >= u64::from(rules.requests) && !answers.is_out {
                endpoint.forgive();
            }
        }
    }

    /// Takes an endpoint out of the rotation until a probe readmits it.
    pub(crate) fn eject(&self, endpoint: &Endpoint, reason: &str) {
        if endpoint.eject() {
            self.ejected(endpoint, reason);
        }
    }

    fn ejected(&self, endpoint: &Endpoint, reason: &str) {
        self.ejections.fetch_add(1, Ordering::Relaxed);
        self.tell(endpoint, false, reason);
    }

    /// Puts an endpoint back. With `is_ready` also against the control plane's last word, because there is none now.
    pub(crate) fn readmit(&self, endpoint: &Endpoint, is_ready: bool, reason: &str) {
        let was_in = endpoint.is_in();
        let now = self.now_ms();
        if is_ready {
            endpoint.set_ready(true, now);
        }
        if endpoint.may_return(now) {
            endpoint.readmit(now);
        }
        if !was_in && endpoint.is_in() {
            self.readmissions.fetch_add(1, Ordering::Relaxed);
            self.wake();
            self.tell(endpoint, true, reason);
        }
    }

    /// No answer came. Ejects an endpoint that keeps doing so, as long as enough others are in.
    pub(crate) fn unanswered(&self, endpoint: &Endpoint, reason: &str) {
        let failures = endpoint.unanswered();
        let settings = self.settings.load();
        let Some(rules) = &settings.resilience.eject else { return };
        if failures < rules.failures || !endpoint.is_in() {
            return;
        }
        let endpoints = self.endpoints();
        let out = endpoints.iter().filter(|other| !other.is_in()).count();
        if balance::may_eject(out, endpoints.len(), rules) {
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

/// The control plane's last word: endpoints and shares by upstream.
#[derive(Debug, Default)]
struct Wanted {
    endpoints: BTreeMap<String, Vec<protocol::Endpoint>>,
    shares: BTreeMap<String, Share>,
}

impl Wanted {
    fn tell(&self, group: &Group) {
        let endpoints = self.endpoints.get(&group.name).map_or(&[][..], Vec::as_slice);
        group.replace(endpoints, self.shares.get(&group.name).copied());
    }
}

/// All groups by name.
#[derive(Debug)]
pub(crate) struct Groups {
    by_name: ArcSwap<BTreeMap<String, Arc<Group>>>,
    endpoints: Mutex<Wanted>,
    pub(crate) events: broadcast::Sender<Changed>,
}

impl Groups {
    pub(crate) fn new() -> Self {
        // Ejections come in handfuls; a control plane that lags by 256 of them learns the state from the reports.
        let (events, _) = broadcast::channel(256);
        Self { by_name: ArcSwap::default(), endpoints: Mutex::default(), events }
    }

    pub(crate) fn all(&self) -> Arc<BTreeMap<String, Arc<Group>>> {
        self.by_name.load_full()
    }

    /// Makes the groups of a policy; those that stay keep their state.
    pub(crate) fn configure(
        &self,
        upstreams: &BTreeMap<String, protocol::Upstream>,
    ) -> Arc<BTreeMap<String, Arc<Group>>> {
        let wanted = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
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
                    wanted.tell(&group);
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
    pub(crate) fn replace_endpoints(
        &self,
        endpoints: BTreeMap<String, Vec<protocol::Endpoint>>,
        shares: BTreeMap<String, Share>,
    ) {
        let mut wanted = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted = Wanted { endpoints, shares };
        self.by_name.load().values().for_each(|group| wanted.tell(group));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(hold_ms: u64, hold_requests: u32) -> Group {
        let settings = protocol::Upstream { hold_ms, hold_requests, ..protocol::Upstream::default() };
        Group::new("backend", settings, broadcast::channel(16).0)
    }

    fn endpoint(id: &str, port: u16) -> protocol::Endpoint {
        protocol::Endpoint { id: id.to_owned(), address: format!("127.0.0.1:{port}"), is_ready: true, release: 0 }
    }

    #[tokio::test]
    async fn requests_go_round_and_avoid_what_was_tried() {
        let group = group(0, 0);
        group.replace(&[endpoint("a", 1), endpoint("b", 2)], None);
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(group.acquire(&[], &Wish::default(), &mut None).await.expect("endpoint").0.id.clone());
        }
        assert_eq!(seen, ["a", "b", "a", "b"]);
        for _ in 0..3 {
            assert_eq!(
                group.acquire(&["a".to_owned()], &Wish::default(), &mut None).await.expect("endpoint").0.id,
                "b"
            );
        }
    }

    #[tokio::test]
    async fn an_endpoint_that_stays_keeps_its_ejection_and_one_that_leaves_is_not_picked() {
        let group = group(0, 1);
        group.replace(&[endpoint("a", 1), endpoint("b", 2)], None);
        let lease = group.acquire(&[], &Wish::default(), &mut None).await.expect("endpoint");
        group.eject(&lease.0, "refused");
        group.replace(&[endpoint("a", 1), endpoint("c", 3)], None);
        for _ in 0..3 {
            assert_eq!(group.acquire(&[], &Wish::default(), &mut None).await.expect("endpoint").0.id, "c");
        }
        assert_eq!(lease.0.in_flight.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn the_gate_counts_who_waits_and_gives_up_in_time() {
        let group = Arc::new(group(40, 1));
        let first = tokio::spawn({
            let group = Arc::clone(&group);
            async move { group.acquire(&[], &Wish::default(), &mut None).await.err() }
        });
        while group.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(group.acquire(&[], &Wish::default(), &mut None).await.err(), Some(NoEndpoint::Full));
        assert_eq!(first.await.expect("joins"), Some(NoEndpoint::TimedOut));
        assert_eq!(group.waiting(), 0);
    }

    #[test]
    fn the_last_endpoint_is_not_ejected_for_missing_answers() {
        let group = group(0, 0);
        group.replace(&[endpoint("a", 1), endpoint("b", 2)], None);
        let endpoints = group.endpoints();
        for endpoint in endpoints.iter() {
            for _ in 0..10 {
                group.unanswered(endpoint, "reset");
            }
        }
        assert!(!endpoints[0].is_in());
        assert!(endpoints[1].is_in());
    }

    #[tokio::test]
    async fn a_tag_leads_back_while_its_endpoint_is_in() {
        let group = group(0, 0);
        group.replace(&[endpoint("a/1", 1), endpoint("b/1", 2)], None);
        let tag = group.endpoints()[1].tag.clone();
        let wish = Wish { sticky: Some(tag.clone()), ..Wish::default() };
        for _ in 0..4 {
            assert_eq!(group.acquire(&[], &wish, &mut None).await.expect("endpoint").0.id, "b/1");
        }
        let tried = ["b/1".to_owned()];
        assert_eq!(group.acquire(&tried, &wish, &mut None).await.expect("endpoint").0.id, "a/1");
        group.replace(&[endpoint("a/1", 1), endpoint("b/2", 2)], None);
        assert!(group.endpoints().iter().all(|endpoint| endpoint.tag != tag), "another process has another tag");
    }

    #[tokio::test(start_paused = true)]
    async fn who_alone_answers_with_errors_is_out_for_a_while_and_longer_the_next_time() {
        let group = group(0, 0);
        group.replace(&[endpoint("a", 1), endpoint("b", 2)], None);
        let endpoints = group.endpoints();
        let answer = async |errors: [u32; 2]| {
            for (endpoint, errors) in endpoints.iter().zip(errors) {
                (0..30).for_each(|nth| endpoint.tally.record(Duration::from_millis(1), nth < errors));
            }
            tokio::time::advance(Duration::from_secs(1)).await;
            group.look_for_outliers();
        };
        group.look_for_outliers();
        answer([30, 30]).await;
        assert!(endpoints.iter().all(|endpoint| endpoint.is_in()), "it is the service that fails");
        for _ in 0..12 {
            answer([0, 0]).await;
        }
        answer([30, 0]).await;
        for _ in 0..4 {
            answer([0, 0]).await;
        }
        assert!(endpoints[0].is_in(), "one bad second of ten is not half");
        for seconds in [5, 10] {
            while endpoints[0].is_in() {
                answer([30, 0]).await;
            }
            let until = group.now_ms() + seconds * 1000;
            while group.now_ms() < until {
                group.readmit(&endpoints[0], false, "probe");
                assert!(!endpoints[0].is_in(), "too early");
                tokio::time::advance(Duration::from_millis(500)).await;
            }
            group.readmit(&endpoints[0], false, "probe");
            assert!(endpoints[0].is_in());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_endpoint_gets_its_share_little_by_little() {
        let mut settings = protocol::Upstream::default();
        settings.resilience.slow_start = Duration::from_secs(10);
        let group = Group::new("backend", settings, broadcast::channel(16).0);
        group.replace(&[endpoint("a", 1), endpoint("b", 2)], None);
        tokio::time::advance(Duration::from_secs(60)).await;
        group.replace(&[endpoint("a", 1), endpoint("b", 2), endpoint("c", 3)], None);
        let share = async || {
            let mut count = 0;
            for _ in 0..3000 {
                count += u32::from(group.acquire(&[], &Wish::default(), &mut None).await.expect("one").0.id == "c");
            }
            count
        };
        let cold = share().await;
        assert!((50..200).contains(&cold), "{cold} of 3000");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(share().await, 1000);
    }
}
