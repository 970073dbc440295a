//! Copies of what the store holds: when one is due, which are kept, what is wrong with them. One process at a time
//! takes one, proves it by loading it and frees what is kept no longer; its record is on disk.

use std::time::Duration;

use mainstay_stack::model::{Cache, StoreCopies};
use mainstay_types::{ChildName, Seen, Timestamp, Waiting};
use serde::{Deserialize, Serialize};

use crate::backups::{JobRecord, is_past, pause_until};
use crate::draft::Draft;
use crate::plan::{BoxPlan, Step};
use crate::replicas;
use crate::schedule::moment;
use crate::view::Life;

/// The first copy of a new stack waits so long: a stack that is tried out for a moment is left in peace.
const FIRST_AFTER: Duration = Duration::from_mins(5);
const DAY_SECONDS: i64 = 86_400;

/// A copy that is whole on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopySeen {
    /// Its name.
    pub id: String,
    /// All that was acknowledged before is in it.
    pub at: Timestamp,
    /// Keys that the store held then.
    pub keys: u64,
    /// Size. **Unit**: bytes.
    pub bytes: u64,
    /// When a second server loaded it, and whether it held the same; `None`: not loaded yet.
    pub proof: Option<(Timestamp, bool)>,
    /// A look found it right once, whatever a later one found.
    #[serde(default)]
    pub was_right: bool,
}

/// What is known of a store's copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiesSeen {
    /// Since when somebody looks.
    pub since: Timestamp,
    /// Oldest first.
    pub list: Vec<CopySeen>,
    /// The last process that took one.
    pub job: Option<JobRecord>,
    /// The folder cannot be read: why.
    pub trouble: Option<String>,
}

/// The process that takes one.
pub fn child() -> ChildName {
    crate::children::child("store-copy-run")
}

/// Whether the stack file asks for copies: a store without its file promises nothing.
pub fn policy(cache: &Cache) -> Option<&StoreCopies> {
    Some(&cache.copies).filter(|copies| cache.store_persists && !copies.every.is_zero())
}

/// A copy that was not found wrong, and is not of a clock that was ahead.
fn is_good(copy: &CopySeen, now: Timestamp) -> bool {
    is_past(copy.at, now) && !matches!(copy.proof, Some((_, false)))
}

/// The beginning of the interval that `at` lies in.
fn begin(every: Duration, at: Timestamp) -> Timestamp {
    let step = i64::try_from(every.as_micros()).unwrap_or(i64::MAX).max(1);
    Timestamp::from_micros(at.as_micros().div_euclid(step).saturating_mul(step))
}

/// Since when, or from when on, the next copy is due.
pub fn next(policy: &StoreCopies, seen: &CopiesSeen, now: Timestamp) -> Timestamp {
    let newest = seen.list.iter().filter(|copy| is_good(copy, now)).map(|copy| copy.at).max();
    match newest {
        Some(newest) => begin(policy.every, newest).after(policy.every),
        // Who looks since a moment ahead has a clock that was set back.
        None if seen.since > now => now,
        None => begin(policy.every, seen.since).after(policy.every).min(seen.since.after(FIRST_AFTER)),
    }
}

/// The last copy that a second server loaded and found as the store was: when it was taken, and which.
pub fn last_proven(seen: &CopiesSeen, now: Timestamp) -> Option<&CopySeen> {
    let is_proven = |copy: &&CopySeen| is_past(copy.at, now) && matches!(copy.proof, Some((_, true)));
    seen.list.iter().filter(is_proven).max_by_key(|copy| copy.at)
}

/// Which copies are kept no longer. Ages count to the newest: a stack that takes none any more loses none. Never the
/// newest, never the last that is proven; one that was never found right, and wrong, as soon as it is not the newest. One
/// that was right before is kept like others, and the last of those always: a bad look is not to take the only copy.
pub fn goes(policy: &StoreCopies, list: &[CopySeen], now: Timestamp) -> Vec<String> {
    let past = || list.iter().filter(|copy| is_past(copy.at, now));
    let Some(newest) = past().map(|copy| copy.at).max() else { return Vec::new() };
    let last_proven = past().filter(|copy| matches!(copy.proof, Some((_, true)))).map(|copy| copy.at).max();
    let last_right = past().filter(|copy| copy.was_right).map(|copy| copy.at).max();
    let day = |copy: &CopySeen| copy.at.as_micros().div_euclid(DAY_SECONDS * 1_000_000);
    let is_first =
        |copy: &CopySeen| !past().any(|other| day(other) == day(copy) && other.at < copy.at && is_good(other, now));
    let stays = |copy: &CopySeen| {
        let age = newest.saturating_since(copy.at);
        let is_in_time = age <= policy.keep || (age <= policy.keep_daily && is_first(copy));
        let is_last = [last_proven, last_right].contains(&Some(copy.at));
        copy.at >= newest || is_last || (is_in_time && (copy.was_right || is_good(copy, now)))
    };
    list.iter().filter(|copy| !stays(copy)).map(|copy| copy.id.clone()).collect()
}

/// What is wrong, the worst first.
pub fn faults(policy: &StoreCopies, seen: &CopiesSeen, now: Timestamp) -> Vec<String> {
    let mut faults: Vec<String> = seen.trouble.iter().cloned().collect();
    if let Some(copy) = seen.list.last().filter(|copy| matches!(copy.proof, Some((_, false)))) {
        faults.push(format!("copy {} of the store is not right: `mainstay store copies` says why", copy.id));
    }
    let failed = seen.job.as_ref().filter(|job| job.ended.is_some());
    if let Some((job, error)) = failed.and_then(|job| Some((job, job.error.as_ref()?))) {
        faults.push(format!("no copy of the store could be taken ({} in a row): {error}", job.attempts));
    }
    let proven = last_proven(seen, now).map(|copy| copy.at);
    let from = proven.unwrap_or(seen.since);
    // The one that is due may be under way.
    let promised = policy.every.saturating_mul(2).max(FIRST_AFTER.saturating_mul(2));
    if seen.trouble.is_none() && now.saturating_since(from) > promised {
        let what = if proven.is_some() { "the last proven copy of the store is of" } else { "no copy is proven since" };
        let every = mainstay_stack::units::show_duration(policy.every);
        faults.push(format!("{what} {}, promised is one in {every}", moment(from)));
    }
    faults
}

/// Starts the process when a copy is due, and says in the store's box how the copies are. They do not change its state:
/// a store without a fresh copy serves as well.
pub(crate) fn plan(draft: &mut Draft<'_>, shown: &mut BoxPlan) {
    let Some(policy) = draft.view.stack.cache.as_ref().and_then(policy) else { return };
    let Seen::Fact { value: seen, observed_at } = &draft.view.observed.store_copies else { return };
    let now = draft.view.now;
    if let Some(copy) = last_proven(seen, now) {
        // In UTC; a box is narrow.
        let text = copy.at.to_string();
        let text = text.get(5..16).unwrap_or(&text).replace('T', " ");
        shown.label = format!("{}, copy proven {text}", shown.label);
    }
    let life = draft.view.life(&child());
    let is_looked_at = match life {
        Life::Runs(_) => false,
        // What was seen before its end says nothing of what it did.
        Life::Ended { at, .. } => *observed_at >= at,
        Life::Never => true,
    };
    let serving = replicas::primary(&draft.view);
    let answers = draft.view.observed.redis.get(serving.as_str()).is_some_and(|seen| seen.value().is_some());
    let due = next(policy, seen, now);
    draft.wake(due);
    if due <= now && is_looked_at && answers && seen.trouble.is_none() {
        match pause_until(seen.job.as_ref(), now) {
            Some(until) => draft.wake(until),
            None => {
                let _: Waiting = draft.start(life, Step::StartStoreCopy);
            }
        }
    }
    if shown.reason.is_none() {
        shown.reason = faults(policy, seen, now).into_iter().next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn copy(hours: i64, proof: Option<bool>) -> CopySeen {
        let at = Timestamp::from_millis(hours * HOUR + 1000);
        let was_right = proof == Some(true);
        CopySeen {
            id: format!("h{hours}"),
            at,
            keys: 1,
            bytes: 1,
            proof: proof.map(|is_right| (at, is_right)),
            was_right,
        }
    }

    fn seen(list: Vec<CopySeen>) -> CopiesSeen {
        CopiesSeen { since: Timestamp::from_millis(100 * HOUR + 1_200_000), list, job: None, trouble: None }
    }

    fn due(list: Vec<CopySeen>, now: i64) -> i64 {
        next(&StoreCopies::default(), &seen(list), Timestamp::from_millis(now)).as_millis()
    }

    #[test]
    fn a_copy_is_due_once_in_each_hour_whatever_the_minute_of_the_last() {
        let now = 101 * HOUR + 1_800_000;
        assert_eq!(due(vec![copy(100, Some(true))], now), 101 * HOUR);
        assert_eq!(due(vec![copy(100, Some(true)), copy(101, None)], now), 102 * HOUR);
        assert_eq!(due(vec![copy(101, Some(false))], now), 100 * HOUR + 1_500_000, "one that is wrong is none");
        assert_eq!(due(vec![copy(7000, Some(true))], now), 100 * HOUR + 1_500_000, "nor is one of the future");
        assert_eq!(due(vec![], now), 100 * HOUR + 1_500_000, "the first comes after five minutes");
        assert_eq!(due(vec![], 99 * HOUR), 99 * HOUR, "a clock that was set back holds nothing up");
    }

    #[test]
    fn the_first_of_each_day_stays_longer_and_the_last_proven_always() {
        let mut list: Vec<CopySeen> = (0..24 * 10).map(|hour| copy(hour, Some(true))).collect();
        let now = Timestamp::from_millis(24 * 10 * HOUR);
        let gone = |list: &[CopySeen]| goes(&StoreCopies::default(), list, now);
        let stay = |list: &[CopySeen]| {
            let gone = gone(list);
            list.iter().filter(|copy| !gone.contains(&copy.id)).map(|copy| copy.id.clone()).collect::<Vec<_>>()
        };
        let kept = stay(&list);
        let last_day = (215..240).map(|hour| format!("h{hour}"));
        let days = (3..9).map(|day| format!("h{}", day * 24)).filter(|id| id != "h216");
        assert_eq!(kept, days.chain(last_day).collect::<Vec<_>>());
        // Pruned again: nothing more goes.
        list.retain(|copy| kept.contains(&copy.id));
        assert!(gone(&list).is_empty());
        // Copies that fail for days: the last one that is right is older than all rules, and stays.
        let mut failing = vec![copy(0, Some(true))];
        failing.extend((24..24 * 10).map(|hour| copy(hour, Some(false))));
        assert_eq!(stay(&failing), ["h0", "h239"], "the last proven, and the newest");
    }

    /// A look whose server was killed made a proven copy a wrong one, and it was the only one.
    #[test]
    fn a_copy_that_was_right_once_outlives_a_bad_look() {
        let policy = StoreCopies::default();
        let now = Timestamp::from_millis(24 * 10 * HOUR);
        let once = |hours| CopySeen { was_right: true, ..copy(hours, Some(false)) };
        assert_eq!(goes(&policy, &[once(1), copy(2, Some(false)), copy(3, None)], now), ["h2"]);
        // Older than all rules, and nothing since was ever right.
        assert_eq!(goes(&policy, &[once(1), once(2), copy(239, None)], now), ["h1"]);
        // It is not right now: another is due.
        assert_eq!(due(vec![once(101)], 101 * HOUR + 1_800_000), 100 * HOUR + 1_500_000);
    }

    #[test]
    fn what_is_wrong_is_said_and_what_is_well_is_not() {
        let policy = StoreCopies::default();
        let now = Timestamp::from_millis(103 * HOUR);
        assert!(faults(&policy, &seen(vec![copy(102, Some(true))]), now).is_empty());
        let old = faults(&policy, &seen(vec![copy(100, Some(true)), copy(102, Some(false))]), now);
        assert!(old[0].starts_with("copy h102 of the store is not right"), "{old:?}");
        assert!(old[1].starts_with("the last proven copy of the store is of 1970-01-05 04:00:01 UTC"), "{old:?}");
        let job = JobRecord { began: now, ended: Some(now), error: Some("disk full".to_owned()), attempts: 3 };
        let failed = faults(&policy, &CopiesSeen { job: Some(job), ..seen(vec![copy(102, Some(true))]) }, now);
        assert_eq!(failed, ["no copy of the store could be taken (3 in a row): disk full"]);
    }
}
