//! When a certificate is ordered from a certificate authority that speaks ACME, and how a name is proven.
//!
//! An authority counts failures (Let's Encrypt: five an hour for a name) and locks out who has too many: what failed
//! waits longer each time, also over restarts, and a wait that the authority asks for is kept.

use std::time::Duration;

use mainstay_stack::tls::Challenge;
use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

/// Wait after a first failure: people mend a DNS record and look. Doubled from the second on: 2, 10, 20, 40 minutes are
/// at most four failures in an hour.
const FIRST_PAUSE: Duration = Duration::from_mins(2);
const SECOND_PAUSE: Duration = Duration::from_mins(10);
/// Longest wait between two attempts: four a day until somebody sees it.
const LONGEST_PAUSE: Duration = Duration::from_hours(6);
/// Shortest wait, whatever the life of a certificate is.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
/// An authority that asks for more is not waited for longer: it may be mistaken.
const LONGEST_ASKED: Duration = Duration::from_hours(7 * 24);

/// When a certificate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    /// Its beginning.
    pub begins: Timestamp,
    /// Its end.
    pub ends: Timestamp,
}

impl Validity {
    /// How long it counts.
    pub fn life(self) -> Duration {
        self.ends.saturating_since(self.begins)
    }

    /// How much of its life is left. **Unit**: thousandths.
    pub fn left_milli(self, now: Timestamp) -> u64 {
        let left = self.ends.saturating_since(now).min(self.life()).as_millis();
        u64::try_from(left * 1000 / self.life().as_millis().max(1)).unwrap_or(0)
    }
}

/// What was tried since the last certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// Failures in a row.
    pub failures: u32,
    /// When the last attempt began.
    pub last: Option<Timestamp>,
    /// Until when the authority wants to hear nothing.
    pub asked_until: Option<Timestamp>,
}

impl Attempts {
    /// One more failure; the authority may have asked for a pause.
    pub fn failed(&mut self, now: Timestamp, retry_after: Option<Duration>) {
        self.failures = self.failures.saturating_add(1);
        self.asked_until = retry_after.map(|pause| now.after(pause.min(LONGEST_ASKED)));
    }
}

/// What to do about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Order one now.
    Order,
    /// Nothing before then.
    Wait {
        /// When to decide again.
        until: Timestamp,
    },
}

/// Decides about a certificate, if there is one for the right names. `chance` is a number that stays the same for a
/// certificate and differs between stacks, so that not all of them ask at one moment.
pub fn decide(certificate: Option<Validity>, attempts: &Attempts, chance: u64, now: Timestamp) -> Decision {
    let due = certificate.map_or(now, |certificate| renewal(certificate, chance));
    let allowed = attempts.last.map_or(now, |last| last.after(pause(certificate, attempts.failures)));
    let until = due.max(allowed).max(attempts.asked_until.unwrap_or(now));
    if until <= now { Decision::Order } else { Decision::Wait { until } }
}

/// At two thirds of its life, or up to a twentieth of its life earlier.
fn renewal(certificate: Validity, chance: u64) -> Timestamp {
    let life = certificate.life();
    let early = life / 20 * u32::try_from(chance % 1000).unwrap_or(0) / 1000;
    certificate.begins.after((life * 2 / 3).saturating_sub(early))
}

/// Time from the beginning of one attempt to the next. One of which nothing is known (the machine went down in it)
/// counts as failed. Certificates of minutes come from an authority of one's own, which locks nobody out: they end while
/// another waits.
fn pause(certificate: Option<Validity>, failures: u32) -> Duration {
    let pause = match failures {
        0 | 1 => FIRST_PAUSE,
        more => SECOND_PAUSE.saturating_mul(2_u32.saturating_pow(more - 2)).min(LONGEST_PAUSE),
    };
    certificate.map_or(pause, |certificate| pause.min((certificate.life() / 30).max(SHORTEST_PAUSE)))
}

/// How a name is proven in the next attempt: as the stack says, else by the one and the other in turn, because one of
/// the two ports may not be reached from outside.
pub fn challenge(wanted: Option<Challenge>, failures: u32) -> Challenge {
    wanted.unwrap_or(if failures.is_multiple_of(2) { Challenge::Http01 } else { Challenge::TlsAlpn01 })
}

#[cfg(test)]
mod tests;
