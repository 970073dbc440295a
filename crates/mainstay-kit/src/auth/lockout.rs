//! Wrong passwords in a row make an account wait, each time twice as long.
//!
//! The counter belongs to the account, not to an address: guesses from many addresses count
//! together. While an account waits, attempts neither count nor prolong, so that nobody can keep it
//! locked by attempts alone; and whoever has a session keeps it.

use std::time::{Duration, SystemTime};

/// Wrong passwords that cost nothing. **Source**: room for a typing mistake and a forgotten change.
pub const FREE_FAILURES: u32 = 4;
/// The first wait; it doubles with each further failure.
pub const FIRST_WAIT: Duration = Duration::from_secs(15);
/// The longest wait: about a hundred guesses a day.
pub const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// A failure this long ago is forgotten.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// Failures in a row after one more, and how long the account waits now.
#[must_use]
pub fn after_failure(failures: u32, last: Option<SystemTime>, now: SystemTime) -> (u32, Option<Duration>) {
    let is_old = last.is_some_and(|last| now.duration_since(last).unwrap_or(Duration::ZERO) >= FORGOTTEN_AFTER);
    let failures = if is_old { 1 } else { failures.saturating_add(1) };
    let wait = failures
        .checked_sub(FREE_FAILURES + 1)
        .map(|doublings| FIRST_WAIT.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_WAIT));
    (failures, wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_the_fifth_failure_and_are_bounded() {
        let now = SystemTime::UNIX_EPOCH + 2 * FORGOTTEN_AFTER;
        let mut failures = 0;
        let mut waits = Vec::new();
        for _ in 0..13 {
            let (next, wait) = after_failure(failures, Some(now), now);
            failures = next;
            waits.push(wait.map_or(0, |wait| wait.as_secs()));
        }
        assert_eq!(waits, [0, 0, 0, 0, 15, 30, 60, 120, 240, 480, 900, 900, 900]);
        assert_eq!(after_failure(u32::MAX, None, now), (u32::MAX, Some(LONGEST_WAIT)));
    }

    #[test]
    fn an_old_failure_is_forgotten() {
        let last = SystemTime::UNIX_EPOCH;
        assert_eq!(after_failure(40, Some(last), last + FORGOTTEN_AFTER), (1, None));
        // A clock that was set back must not forget anything.
        assert_eq!(after_failure(4, Some(last + FORGOTTEN_AFTER), last).0, 5);
    }
}
