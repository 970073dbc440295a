//! The second copy of the backups: how far it is, and what is wrong with it.

use std::time::Duration;

use mainstay_stack::model::Away;
use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

/// A store that does not answer for so long is told: shorter is one request that was lost, and made again.
const FAILING_WITHIN: Duration = Duration::from_secs(15);
/// The first base backup may take so long on its way before the copy is missed: a day at 10 Mbit/s are 100 GB.
const FIRST_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// How far the second copy is, as it was noted last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopySeen {
    /// Version of this record.
    pub version: u32,
    /// Where it is.
    pub to: String,
    /// It is no copy: backups are there and nowhere else.
    #[serde(default)]
    pub is_target: bool,
    /// When the folder was last looked through and compared with what is in the copy.
    pub looked: Timestamp,
    /// Whole base backups that are in the copy with all that they need.
    pub backups: u64,
    /// Files that are in the copy.
    pub files: u64,
    /// Their bytes. **Unit**: bytes.
    pub bytes: u64,
    /// Files of the folder that are not in it yet.
    pub waiting: u64,
    /// Their bytes. **Unit**: bytes.
    pub waiting_bytes: u64,
    /// When the oldest archived WAL was archived that is not in it.
    pub wal_waits_since: Option<Timestamp>,
    /// When the oldest file of base backups was written that is not in it.
    pub base_waits_since: Option<Timestamp>,
    /// Objects at that prefix that the folder does not have: kept too long there, or another's.
    pub extra: u64,
    /// Why it does not go on, in the store's own words.
    pub error: Option<String>,
    /// Since when it does not.
    pub failing_since: Option<Timestamp>,
}

impl CopySeen {
    /// Everything that was archived until then can be restored from the copy; `None`: no base backup is in it.
    pub fn up_to(&self) -> Option<Timestamp> {
        (self.backups > 0).then(|| self.wal_waits_since.unwrap_or(self.looked).min(self.looked))
    }

    /// How far it is behind.
    pub fn behind(&self, now: Timestamp) -> Option<Duration> {
        self.up_to().map(|up_to| now.saturating_since(up_to))
    }
}

/// What is wrong with what is off the machine, the worst first.
pub fn faults(away: Away<'_>, seen: Option<&CopySeen>, now: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    // A record of another place says nothing of this one.
    let to = away.store.address.to_string();
    let Some(copy) = seen.filter(|copy| copy.to == to) else {
        faults.push(match away.is_target {
            true => format!("nothing was sent to the store {to} yet"),
            false => format!("the second copy to {to} has not begun"),
        });
        return faults;
    };
    if let (Some(since), Some(error)) = (copy.failing_since, &copy.error)
        && now.saturating_since(since) > FAILING_WITHIN
    {
        let seconds = now.saturating_since(since).as_secs();
        faults.push(match away.is_target {
            true => format!("the store {to} takes nothing since {seconds} s: {error}"),
            false => format!("the second copy to {to} does not go on since {seconds} s: {error}"),
        });
    }
    let named = if away.is_target { "the store" } else { "the second copy" };
    if let Some(behind) = copy.behind(now).filter(|behind| *behind > away.rpo) {
        let (behind, promised) = (behind.as_secs(), away.rpo.as_secs());
        faults.push(format!("{named} is {behind} s behind, promised are {promised} s"));
    }
    if let Some(since) = copy.base_waits_since.filter(|since| now.saturating_since(*since) > FIRST_WITHIN) {
        let (files, since) = (copy.waiting, crate::schedule::moment(since));
        faults.push(format!("files of base backups wait for {named} since {since}: {files} are missing there"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use mainstay_stack::model::ObjectStore;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn store() -> ObjectStore {
        ObjectStore {
            address: "s3://bucket/shop".parse().expect("an address"),
            endpoint: None,
            region: "us-east-1".to_owned(),
            access_key: "A".to_owned(),
            secret_key: "S".to_owned(),
            ca: None,
        }
    }

    fn faults(seen: Option<&CopySeen>, now: Timestamp) -> Vec<String> {
        super::faults(Away { store: &store(), rpo: Duration::from_secs(300), is_target: false }, seen, now)
    }

    fn copy() -> CopySeen {
        CopySeen {
            version: 1,
            to: "s3://bucket/shop".to_owned(),
            is_target: false,
            looked: at(1000),
            backups: 1,
            files: 10,
            bytes: 100,
            waiting: 0,
            waiting_bytes: 0,
            wal_waits_since: None,
            base_waits_since: None,
            extra: 0,
            error: None,
            failing_since: None,
        }
    }

    #[test]
    fn a_copy_that_has_everything_is_as_far_as_the_last_look() {
        assert_eq!(copy().up_to(), Some(at(1000)));
        assert_eq!(faults(Some(&copy()), at(1002)), Vec::<String>::new());
    }

    #[test]
    fn a_segment_that_waits_longer_than_promised_is_told_and_a_shorter_wait_is_not() {
        let late = CopySeen { wal_waits_since: Some(at(690)), ..copy() };
        assert_eq!(faults(Some(&late), at(990)), Vec::<String>::new());
        assert!(faults(Some(&late), at(1000))[0].contains("310 s behind, promised are 300 s"));
    }

    #[test]
    fn a_copy_that_nobody_makes_any_more_falls_behind_although_nothing_waited() {
        assert!(faults(Some(&copy()), at(1400))[0].contains("400 s behind"));
    }

    #[test]
    fn a_failure_is_told_in_the_stores_words_once_it_lasts() {
        let failing = CopySeen { error: Some("no".to_owned()), failing_since: Some(at(1000)), ..copy() };
        assert_eq!(faults(Some(&failing), at(1010)), Vec::<String>::new());
        assert!(faults(Some(&failing), at(1020))[0].ends_with("since 20 s: no"));
    }

    #[test]
    fn without_a_base_backup_the_copy_is_as_far_as_nothing() {
        let first = CopySeen { backups: 0, base_waits_since: Some(at(0)), ..copy() };
        assert_eq!(first.up_to(), None);
        assert_eq!(faults(Some(&first), at(80_000)), Vec::<String>::new());
        assert!(faults(Some(&first), at(90_000))[0].contains("files of base backups wait"));
    }

    #[test]
    fn what_was_noted_of_another_place_is_not_taken_for_this_one() {
        let other = CopySeen { to: "s3://other/shop".to_owned(), ..copy() };
        assert!(faults(Some(&other), at(100))[0].contains("has not begun"));
        assert!(faults(None, at(100))[0].contains("has not begun"));
    }

    #[test]
    fn of_a_store_that_is_the_target_nobody_says_that_it_is_a_copy() {
        let failing = CopySeen { error: Some("no".to_owned()), failing_since: Some(at(1000)), ..copy() };
        let store = store();
        let away = Away { store: &store, rpo: Duration::from_secs(10), is_target: true };
        let found = super::faults(away, Some(&failing), at(1020));
        assert_eq!(found[0], "the store s3://bucket/shop takes nothing since 20 s: no");
        assert_eq!(found[1], "the store is 20 s behind, promised are 10 s");
    }
}
