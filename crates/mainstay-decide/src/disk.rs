//! The disk that the databases write to: when it will be full, and when the ballast is thrown off.
//!
//! A PostgreSQL that cannot write its log ends with a PANIC and does not come up again before there is room. The
//! ballast is a file of ours on the same disk: thrown off in time, it leaves room in which a person can act.

use std::collections::VecDeque;
use std::time::Duration;

use mainstay_types::Timestamp;

/// Size of the ballast on a large disk: what a busy primary writes in some seconds, four of its log's segments.
pub const BALLAST_BYTES: u64 = 64 * 1024 * 1024;
/// On a small disk the ballast is at most this share of it (a fiftieth).
const BALLAST_SHARE: u64 = 50;
/// A ballast is made while this many times its size stay free beside it.
const ROOM: u64 = 4;
/// Room below which it is thrown off: one segment of the log (16 MiB) is being filled, one is about to be made.
const LOW_BYTES: u64 = 32 * 1024 * 1024;
/// How far back the growth is looked at.
const WINDOW: Duration = Duration::from_mins(10);
/// Growth is not judged by less than this: a clone, a build, a dump come and go.
const LEAST: Duration = Duration::from_mins(5);
/// A prediction beyond this is none.
const HORIZON: Duration = Duration::from_hours(24 * 7);

/// Below this prediction a person is told.
const SOON: Duration = Duration::from_hours(4);

/// A look at the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// When.
    pub at: Timestamp,
    /// Room for everybody. **Unit**: bytes.
    pub free_bytes: u64,
    /// All of it. **Unit**: bytes.
    pub total_bytes: u64,
    /// The ballast that is there; 0: none. **Unit**: bytes.
    pub ballast_bytes: u64,
}

/// What to do about the ballast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// As it is.
    Nothing,
    /// Make it, this large. **Unit**: bytes.
    Make(u64),
    /// Throw it off: now.
    Throw,
}

/// Size of the ballast on a disk of this size; 0: too small for one.
fn size(total_bytes: u64) -> u64 {
    let size = BALLAST_BYTES.min(total_bytes / BALLAST_SHARE);
    // Less than a segment of the log helps nobody.
    if size < 16 * 1024 * 1024 { 0 } else { size }
}

/// What to do about the ballast.
pub fn decide(look: &Look) -> Action {
    let size = size(look.total_bytes);
    if look.ballast_bytes > 0 {
        return if look.free_bytes < LOW_BYTES { Action::Throw } else { Action::Nothing };
    }
    if size > 0 && look.free_bytes >= size.saturating_mul(ROOM).max(LOW_BYTES.saturating_mul(ROOM)) {
        Action::Make(size)
    } else {
        Action::Nothing
    }
}

/// The latest looks.
#[derive(Clone, Debug, Default)]
pub struct History(VecDeque<Look>);

impl History {
    /// Takes a look; those that are too old are forgotten, and all of them when the clock was set back.
    pub fn take(&mut self, look: Look) {
        if self.0.back().is_some_and(|last| last.at > look.at) {
            self.0.clear();
        }
        self.0.push_back(look);
        while self.0.front().is_some_and(|first| look.at.saturating_since(first.at) > WINDOW) {
            self.0.pop_front();
        }
    }

    /// When the disk is full if it goes on as in the last minutes; `None`: it does not fill, not within a week, or
    /// nobody has looked for long enough.
    ///
    /// By the oldest and the newest look: what comes and goes in between (a clone, a checkpoint's old log) is not
    /// growth. The ballast counts as room, or making it would look like a disk that fills.
    pub fn full_in(&self) -> Option<Duration> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let span = last.at.saturating_since(first.at);
        if span < LEAST {
            return None;
        }
        let room = |look: &Look| look.free_bytes.saturating_add(look.ballast_bytes);
        let grown = room(first).saturating_sub(room(last));
        if grown == 0 {
            return None;
        }
        let millis = u128::from(room(last)).saturating_mul(span.as_millis()) / u128::from(grown);
        let full_in = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        (full_in <= HORIZON).then_some(full_in)
    }
}

/// Whether a disk that fills was told of: once for each time that it comes up, however the prediction sways.
#[derive(Clone, Copy, Debug, Default)]
pub struct Warning {
    is_told: bool,
    /// Since when nothing is predicted.
    calm_since: Option<Timestamp>,
}

impl Warning {
    /// Takes a prediction; whether to tell of it now. It is over when the disk is predicted to last for twice as long as
    /// the limit, or when nothing was predicted for a whole window.
    pub fn take(&mut self, full_in: Option<Duration>, at: Timestamp) -> bool {
        let Some(full_in) = full_in else {
            let since = *self.calm_since.get_or_insert(at);
            if at.saturating_since(since) >= WINDOW {
                self.is_told = false;
            }
            return false;
        };
        self.calm_since = None;
        if full_in > SOON * 2 {
            self.is_told = false;
        }
        let is_new = full_in <= SOON && !self.is_told;
        self.is_told |= is_new;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A prediction that swayed around the limit was told of again every few seconds.
    #[test]
    fn a_disk_that_fills_is_told_of_once_until_it_was_calm_or_lasts_much_longer() {
        let mut warning = Warning::default();
        let hours = |hours: u64, minutes: u64| Some(Duration::from_mins(hours * 60 + minutes));
        let mut second = 0;
        let mut tell = |full_in, for_seconds: i64| {
            second += for_seconds;
            warning.take(full_in, Timestamp::from_millis(second * 1_000))
        };
        assert!(!tell(hours(4, 1), 1));
        assert!(tell(hours(3, 59), 1));
        for full_in in [hours(4, 1), hours(3, 59), hours(7, 59), None, hours(3, 59)] {
            assert!(!tell(full_in, 1), "{full_in:?}");
        }
        assert!(!tell(hours(8, 1), 1));
        assert!(tell(hours(3, 59), 1), "it had been predicted to last");
        assert!(!tell(None, 1));
        assert!(!tell(None, 599));
        assert!(!tell(hours(3, 59), 1), "nothing was predicted for less than a window");
        assert!(!tell(None, 1));
        assert!(!tell(None, 600));
        assert!(tell(hours(3, 59), 1), "it had been calm");
    }

    const MIB: u64 = 1024 * 1024;

    fn look(second: i64, free_mib: u64, ballast_mib: u64) -> Look {
        Look {
            at: Timestamp::from_millis(second * 1000),
            free_bytes: free_mib * MIB,
            total_bytes: 10_000 * MIB,
            ballast_bytes: ballast_mib * MIB,
        }
    }

    #[test]
    fn the_ballast_is_made_while_there_is_room_and_thrown_off_before_the_log_has_none() {
        assert_eq!(decide(&look(0, 5_000, 0)), Action::Make(BALLAST_BYTES));
        assert_eq!(decide(&look(0, 255, 0)), Action::Nothing, "not while room is short");
        assert_eq!(decide(&look(0, 32, 64)), Action::Nothing);
        assert_eq!(decide(&look(0, 31, 64)), Action::Throw);
        assert_eq!(decide(&look(0, 95, 0)), Action::Nothing, "what was thrown off is not made again at once");
        let small = Look { total_bytes: 500 * MIB, ..look(0, 400, 0) };
        assert_eq!(decide(&small), Action::Nothing, "a small disk has no room to give away");
    }

    #[test]
    fn a_disk_that_fills_steadily_is_predicted_and_one_that_does_not_is_not() {
        let mut history = History::default();
        for second in 0..60 {
            history.take(look(second * 10, 1_000 - u64::try_from(second).unwrap(), 0));
        }
        assert_eq!(history.full_in(), Some(Duration::from_secs(9_410)));
        let mut still = History::default();
        (0..60).for_each(|second| still.take(look(second * 10, 1_000, 0)));
        assert_eq!(still.full_in(), None);
    }

    #[test]
    fn making_the_ballast_is_no_growth_and_little_time_says_nothing() {
        let mut history = History::default();
        history.take(look(0, 1_000, 0));
        history.take(look(600, 936, 64));
        assert_eq!(history.full_in(), None);
        let mut short = History::default();
        short.take(look(0, 1_000, 0));
        short.take(look(5, 10, 0));
        assert_eq!(short.full_in(), None);
    }

    #[test]
    fn a_clock_set_back_begins_anew() {
        let mut history = History::default();
        history.take(look(1_000, 1_000, 0));
        history.take(look(50, 500, 0));
        history.take(look(90, 500, 0));
        assert_eq!(history.full_in(), None);
    }
}
