//! One endpoint of an upstream with its live state, and a request's hold on it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_decide::balance::{self, Answers, Candidate, WINDOW_SECONDS};
use sha2::{Digest, Sha256};

use crate::metrics::Tally;
use crate::protocol;
use crate::release::Release;

/// Times in a row that an endpoint stays out longer each time.
const MOST_TIMES: u32 = 10;

/// One endpoint. Times are milliseconds since its group's beginning.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) address: SocketAddr,
    /// Hash of its name without the start: the next process of the same instance has the same.
    name: u64,
    /// What a cookie says of it: of this process alone, since sessions end with it. Nobody outside can make one up.
    pub(crate) tag: String,
    is_ready: AtomicBool,
    is_ejected: AtomicBool,
    failures: AtomicU32,
    pub(crate) is_probing: AtomicBool,
    pub(crate) in_flight: AtomicU64,
    pub(crate) tally: Tally,
    /// The release it is of, and what went through all of that; `None`: not known.
    pub(crate) release: Option<Arc<Release>>,
    /// Since when it is in.
    warm_since_ms: AtomicU64,
    /// Until when no probe readmits it.
    out_until_ms: AtomicU64,
    /// How often in a row it was left out for its share of errors.
    times_out: AtomicU32,
    /// Requests and errors so far, as they stood at the last seconds.
    history: Mutex<VecDeque<(u64, u64)>>,
}

impl Endpoint {
    pub(crate) fn new(
        group: &str,
        of: &protocol::Endpoint,
        address: SocketAddr,
        release: Option<Arc<Release>>,
        now_ms: u64,
    ) -> Self {
        let id = of.id.as_str();
        let name = id.split_once('/').map_or(id, |(name, _)| name);
        let tag = Sha256::digest(format!("{group}\0{id}\0{address}").as_bytes());
        Self {
            id: id.to_owned(),
            address,
            name: balance::hash(name.as_bytes()),
            tag: tag.iter().take(12).map(|byte| format!("{byte:02x}")).collect(),
            is_ready: AtomicBool::new(of.is_ready),
            is_ejected: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            is_probing: AtomicBool::new(false),
            in_flight: AtomicU64::new(0),
            tally: Tally::default(),
            release,
            warm_since_ms: AtomicU64::new(now_ms),
            out_until_ms: AtomicU64::new(0),
            times_out: AtomicU32::new(0),
            history: Mutex::new(VecDeque::with_capacity(WINDOW_SECONDS + 1)),
        }
    }

    /// In the rotation.
    pub(crate) fn is_in(&self) -> bool {
        self.is_ready() && !self.is_ejected()
    }

    /// The number of its release; 0: not known.
    pub(crate) fn release_number(&self) -> u64 {
        self.release.as_ref().map_or(0, |release| release.number)
    }

    /// One request to it ended, in whatever way; status 0: without an answer.
    pub(crate) fn record(&self, status: u16, took: Duration, is_error: bool) {
        self.tally.record(took, is_error);
        if let Some(release) = &self.release {
            release.record(status, took, is_error);
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.is_ejected.load(Ordering::Acquire)
    }

    /// Whether it is out for so long that a probe may readmit it.
    pub(crate) fn may_return(&self, now_ms: u64) -> bool {
        now_ms >= self.out_until_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ready(&self, is_ready: bool, now_ms: u64) {
        if !self.is_ready.swap(is_ready, Ordering::AcqRel) && is_ready {
            self.warm_since_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Takes it out; whether it was in by itself.
    pub(crate) fn eject(&self) -> bool {
        !self.is_ejected.swap(true, Ordering::AcqRel)
    }

    /// Takes it out for a while, each time in a row longer.
    pub(crate) fn eject_for(&self, least: Duration, now_ms: u64) -> bool {
        let times = self.times_out.fetch_add(1, Ordering::Relaxed).min(MOST_TIMES - 1) + 1;
        let least = u64::try_from(least.as_millis()).unwrap_or(u64::MAX);
        self.out_until_ms.store(now_ms.saturating_add(least.saturating_mul(u64::from(times))), Ordering::Relaxed);
        self.eject()
    }

    /// Puts it back.
    pub(crate) fn readmit(&self, now_ms: u64) {
        self.failures.store(0, Ordering::Relaxed);
        if self.is_ejected.swap(false, Ordering::AcqRel) {
            self.warm_since_ms.store(now_ms, Ordering::Relaxed);
            // What it answered before says nothing of it now.
            self.history.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// An answer arrived.
    pub(crate) fn answered(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// No answer came; how many times in a row.
    pub(crate) fn unanswered(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// As the choice sees it.
    pub(crate) fn candidate(&self, tried: &[String], slow_start: Duration, now_ms: u64) -> Candidate {
        let since = Duration::from_millis(now_ms.saturating_sub(self.warm_since_ms.load(Ordering::Relaxed)));
        Candidate {
            name: self.name,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            warmth: balance::warmth(since, slow_start),
            is_tried: tried.contains(&self.id),
        }
    }

    /// Once a second: what it answered in the window.
    pub(crate) fn look(&self) -> Answers {
        let now = self.tally.totals();
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.push_back(now);
        if history.len() > WINDOW_SECONDS {
            history.pop_front();
        }
        let (requests, errors) = history.front().copied().unwrap_or(now);
        Answers {
            requests: now.0.saturating_sub(requests),
            errors: now.1.saturating_sub(errors),
            is_out: !self.is_in(),
        }
    }

    /// It does well: the next time out is the first one.
    pub(crate) fn forgive(&self) {
        self.times_out.store(0, Ordering::Relaxed);
    }
}

/// A request's hold on an endpoint; counts it as under way until dropped.
#[derive(Debug)]
pub(crate) struct Lease(pub(crate) Arc<Endpoint>);

impl Lease {
    pub(crate) fn new(endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Ordering::Relaxed);
        Self(endpoint)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
