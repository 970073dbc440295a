//! When what ended or failed may be tried again.
//!
//! Bounds the cost of something that cannot work: it is retried for ever, ever more rarely. The control plane
//! is restarted by keep, within a second and without end.

use std::time::Duration;

use mainstay_types::Timestamp;

use crate::observed::{ChildSeen, FailedStep};

/// A run of this length counts as steady. It is longer than any start of ours takes to fail on its own
/// (PostgreSQL's recovery of a torn page, a JVM that misses its configuration), and short enough that a
/// second crash in the same minute is not punished for the first.
pub const STEADY: Duration = Duration::from_secs(10);
/// First pause after a quick end: a port in the last throes of its former owner is free by then.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between starts: what a person who repairs the cause is willing to wait.
pub const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Quick ends in a row that make a crash loop: the pauses up to here add up to 3 s.
pub const CRASH_LOOP_AFTER: u32 = 5;
/// Longest pause between tries of a step.
pub const MAX_STEP_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause between tries of a step that stands between a failure and its repair: clients are held
/// meanwhile, so the cost of a futile try is less than that of a late one.
pub const MAX_URGENT_PAUSE: Duration = Duration::from_millis(250);

/// A process that is asked nothing counts as ready when it has stayed up for this long: most that miss a setting, a
/// module or a server end within it, and it is added to each `up` of a stack with a worker.
pub const SETTLES_AFTER: Duration = Duration::from_secs(3);

/// The same after quick ends in a row. The first is forgiven: it may have followed a steady run.
pub fn settles_after(quick_ends: u32) -> Duration {
    SETTLES_AFTER.saturating_mul(1 << quick_ends.saturating_sub(1).min(8)).min(STEADY)
}

fn doubled(times: u32, limit: Duration) -> Duration {
    // 100 ms doubled 20 times is a day: past every limit here, and far from an overflow.
    FIRST_PAUSE.saturating_mul(1 << times.min(20)).min(limit)
}

/// When the child may be started again; `None`: at once. For a child that runs: `None`.
pub fn earliest(child: &ChildSeen, now: Timestamp) -> Option<Timestamp> {
    let (_, ended_at) = child.ended.as_ref()?;
    if child.quick_ends == 0 || ended_at.saturating_since(child.since) >= STEADY {
        return None;
    }
    pause_until(*ended_at, doubled(child.quick_ends - 1, MAX_PAUSE), now)
}

/// Whether the child ended too often in too short a time.
pub fn is_crash_loop(child: &ChildSeen) -> bool {
    child.quick_ends >= CRASH_LOOP_AFTER && child.ended.is_some()
}

/// When a step that failed may be tried again; `None`: at once.
pub fn earliest_step(failed: &FailedStep, is_urgent: bool, now: Timestamp) -> Option<Timestamp> {
    let limit = if is_urgent { MAX_URGENT_PAUSE } else { MAX_STEP_PAUSE };
    pause_until(failed.at, doubled(failed.attempts.saturating_sub(1), limit), now)
}

/// The end of a pause, if it lies ahead. A beginning that lies ahead means that the clock was set back: nobody
/// knows how long ago it was, and waiting for the clock to catch up could take for ever.
fn pause_until(from: Timestamp, pause: Duration, now: Timestamp) -> Option<Timestamp> {
    let until = from.after(pause);
    (from <= now && now < until).then_some(until)
}

#[cfg(test)]
mod tests {
    use mainstay_types::{ExitReason, Nonce, Pid};

    use super::*;

    fn ended(ran: Duration, quick_ends: u32) -> ChildSeen {
        let since = Timestamp::from_millis(1_000_000);
        ChildSeen {
            nonce: Nonce::from_bytes([7; 16]),
            pid: Pid(7),
            since,
            ended: Some((ExitReason::Code { code: 1 }, since.after(ran))),
            quick_ends,
        }
    }

    fn pause(child: &ChildSeen) -> Duration {
        let ended_at = child.ended.as_ref().unwrap().1;
        earliest(child, ended_at).map_or(Duration::ZERO, |until| until.saturating_since(ended_at))
    }

    #[test]
    fn the_first_restart_after_a_steady_run_is_immediate() {
        assert_eq!(pause(&ended(STEADY, 1)), Duration::ZERO);
        assert_eq!(pause(&ended(STEADY, 0)), Duration::ZERO);
    }

    #[test]
    fn quick_ends_double_the_pause_up_to_thirty_seconds() {
        let pauses: Vec<u128> = (1..=11).map(|n| pause(&ended(Duration::from_millis(5), n)).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert_eq!(pause(&ended(Duration::ZERO, u32::MAX)), MAX_PAUSE);
    }

    #[test]
    fn the_fifth_quick_end_is_a_crash_loop() {
        assert!(!is_crash_loop(&ended(Duration::ZERO, 4)));
        assert!(is_crash_loop(&ended(Duration::ZERO, 5)));
    }

    #[test]
    fn a_clock_set_back_ends_the_pause() {
        let child = ended(Duration::ZERO, 9);
        assert_eq!(earliest(&child, Timestamp::from_millis(5)), None);
    }

    #[test]
    fn urgent_steps_wait_a_quarter_second_at_most() {
        let at = Timestamp::from_millis(50);
        let failed = FailedStep { since: at, at, attempts: 30, what: String::new(), error: String::new() };
        let wait = |urgent| earliest_step(&failed, urgent, failed.at).unwrap().saturating_since(failed.at);
        assert_eq!(wait(true), MAX_URGENT_PAUSE);
        assert_eq!(wait(false), MAX_STEP_PAUSE);
    }
}
