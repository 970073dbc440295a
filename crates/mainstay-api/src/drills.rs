//! Drills as they are remembered: one line of JSON for each, in a file that only grows.
//!
//! A drill writes a line when it begins and another when it ends. A line that was cut off by a crash is counted and
//! skipped, and so is a line of a later version.

use std::collections::BTreeMap;
use std::fmt;

use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

/// Version of a line of the history.
pub const HISTORY_VERSION: u32 = 1;

/// The verdict of a drill, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Every promise was kept in every run.
    Pass,
    /// It was stopped before its end.
    Aborted,
    /// Fault or load could not be proven: it says nothing.
    Void,
    /// A promise was broken.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Aborted => "ABORTED",
            Self::Void => "VOID",
            Self::Fail => "FAIL",
        })
    }
}

/// A drill that began, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// [`HISTORY_VERSION`].
    pub version: u32,
    /// Joins the line of its end to that of its beginning.
    pub id: String,
    /// Its name.
    pub drill: String,
    /// When it began.
    pub began: Timestamp,
    /// When it ended; `None`: it runs, or it was killed.
    pub ended: Option<Timestamp>,
    /// Its verdict, with the end.
    pub verdict: Option<Verdict>,
    /// Rounds that were asked for; with the end: rounds that were done.
    pub runs: u32,
    /// Seed of victims and moments.
    pub seed: u64,
    /// The mistake that was put in on purpose: a positive control, which says nothing about the promise.
    pub sabotage: Option<String>,
    /// Version of mainstay.
    pub release: String,
    /// SHA-256 of the stack file.
    pub stack: String,
    /// The figures, with the end.
    pub figures: Option<DrillFigures>,
    /// Why it did not pass; the first few.
    #[serde(default)]
    pub reasons: Vec<String>,
}

/// What a drill promised and measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillFigures {
    /// From injection to service again, as promised.
    pub promised_rto_ms: u64,
    /// Age of acknowledged data that may be lost, as promised.
    pub promised_rpo_ms: u64,
    /// Median RTO. `None` of this and the next four: there is no such figure, which is not zero; older records have zero.
    pub rto_p50_ms: Option<u64>,
    /// 95th percentile of the RTO.
    pub rto_p95_ms: Option<u64>,
    /// Worst RTO.
    pub rto_max_ms: Option<u64>,
    /// 95th percentile of the longest gap between two successes of one client.
    pub stall_p95_ms: Option<u64>,
    /// Worst of these.
    pub stall_max_ms: Option<u64>,
    /// Acknowledged rows and keys, but for keys that may go.
    pub acknowledged: u64,
    /// Of these, not there afterwards.
    pub lost: u64,
    /// Requests.
    pub requests: u64,
    /// Of these, failed.
    pub failed_requests: u64,
    /// Keys of a cache that went with it, which is allowed. `None`: an older record, which counts them as lost.
    #[serde(default)]
    pub evicted: Option<u64>,
    /// The wider bar that it was held to, if it needed one.
    #[serde(default)]
    pub extended: Option<Extended>,
}

/// A bar wider than the promise, without which the drill had not passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    /// Rounds that were held to it.
    pub rounds: u32,
    /// Of how many.
    pub of: u32,
    /// What was promised. **Unit**: milliseconds.
    pub promised_ms: u64,
    /// The bar. **Unit**: milliseconds.
    pub bar_ms: u64,
    /// Why, for people.
    pub reason: String,
}

impl fmt::Display for Extended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, of, promised_ms, bar_ms, reason } = self;
        write!(
            f,
            "against an extended bar, {bar_ms} ms in place of {promised_ms} ms in {rounds} of {of} runs: {reason}"
        )
    }
}

/// The files of a report by their sums, as they were written: a line of the history of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillFiled {
    /// [`HISTORY_VERSION`].
    pub version: u32,
    /// When they were written.
    pub filed: Timestamp,
    /// Beginnings of the drills that they are about.
    pub drills: Vec<Timestamp>,
    /// SHA-256 by file name, without folders.
    pub files: BTreeMap<String, String>,
}

/// What a drill is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Passed lately, with this release and this stack file.
    Fine,
    /// Does not apply to this stack.
    NotApplicable,
    /// Passed too long ago, with another release, or with another stack file.
    Stale,
    /// Never ran to a verdict that says something.
    NeverRun,
    /// Broke its promise when it last ran.
    Failing,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fine => "fine",
            Self::NotApplicable => "not applicable",
            Self::Stale => "stale",
            Self::NeverRun => "never run",
            Self::Failing => "failing",
        })
    }
}

/// A drill and what it is owed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillStanding {
    /// Its name.
    pub drill: String,
    /// What it breaks, in a line.
    pub what: String,
    /// What it is about, as boxes are named: `instance`, `edge`, `router`, `postgres`, `cache`, `store`, `control`.
    pub subject: String,
    /// The key of the stack file that holds its promise.
    pub promise: String,
    /// What it is owed.
    pub standing: Standing,
    /// Why, for people.
    pub reason: String,
    /// When it last ended with a verdict, whichever.
    pub last_ended: Option<Timestamp>,
    /// That verdict.
    pub last_verdict: Option<Verdict>,
    /// The wider bar that the run was held to which the standing rests on, if it needed one.
    #[serde(default)]
    pub extended: Option<Extended>,
}

/// The history as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrillHistory {
    /// Every drill, in the order in which they began.
    pub records: Vec<DrillRecord>,
    /// Every report that was written, in that order.
    pub filed: Vec<DrillFiled>,
    /// Lines that could not be read: cut off by a crash, or of a later version.
    pub unreadable: usize,
}

/// What a line may be; its own keys tell which.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Record(Box<DrillRecord>),
    Filed(DrillFiled),
}

/// Reads a history.
pub fn parse_history(text: &str) -> DrillHistory {
    let mut history = DrillHistory::default();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let record = match serde_json::from_str(line) {
            Ok(Line::Record(record)) if record.version <= HISTORY_VERSION => *record,
            Ok(Line::Filed(filed)) if filed.version <= HISTORY_VERSION => {
                history.filed.push(filed);
                continue;
            }
            Ok(Line::Record(_) | Line::Filed(_)) | Err(_) => {
                history.unreadable += 1;
                continue;
            }
        };
        match places.get(&record.id).and_then(|place| history.records.get_mut(*place)) {
            Some(known) => *known = record,
            None => {
                places.insert(record.id.clone(), history.records.len());
                history.records.push(record);
            }
        }
    }
    history
}

/// The newest record of each drill that `is_wanted`.
pub fn newest_by_drill(
    records: &[DrillRecord],
    is_wanted: impl Fn(&DrillRecord) -> bool,
) -> BTreeMap<&str, &DrillRecord> {
    records.iter().filter(|record| is_wanted(record)).map(|record| (record.drill.as_str(), record)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, ended: Option<i64>) -> DrillRecord {
        DrillRecord {
            version: HISTORY_VERSION,
            id: id.to_owned(),
            drill: "edge-crash".to_owned(),
            began: Timestamp::from_millis(1),
            ended: ended.map(Timestamp::from_millis),
            verdict: ended.map(|_| Verdict::Pass),
            runs: 5,
            seed: 7,
            sabotage: None,
            release: "0.1.0".to_owned(),
            stack: "abc".to_owned(),
            figures: None,
            reasons: Vec::new(),
        }
    }

    fn line(record: &DrillRecord) -> String {
        serde_json::to_string(record).expect("serializes") + "\n"
    }

    #[test]
    fn the_end_of_a_drill_replaces_its_beginning_and_keeps_its_place() {
        let (first, second) = (record("1", None), record("2", None));
        let text = line(&first) + &line(&second) + &line(&record("1", Some(9)));
        let history = parse_history(&text);
        assert_eq!(history.records, [record("1", Some(9)), second]);
        assert_eq!(history.unreadable, 0);
    }

    #[test]
    fn reports_that_were_filed_are_no_drills() {
        let filed = DrillFiled {
            version: HISTORY_VERSION,
            filed: Timestamp::from_millis(9),
            drills: vec![Timestamp::from_millis(1)],
            files: BTreeMap::from([("drill.html".to_owned(), "abc".to_owned())]),
        };
        let text = line(&record("1", Some(9))) + &serde_json::to_string(&filed).expect("serializes") + "\n";
        let history = parse_history(&text);
        assert_eq!((history.records.len(), history.unreadable), (1, 0));
        assert_eq!(history.filed, [filed]);
    }

    #[test]
    fn a_line_cut_off_by_a_crash_and_one_of_a_later_version_are_counted_and_skipped() {
        let later = DrillRecord { version: HISTORY_VERSION + 1, ..record("2", None) };
        let whole = line(&record("1", Some(9)));
        let text = whole.clone() + &whole[..whole.len() / 2] + "\n" + &line(&later);
        let history = parse_history(&text);
        assert_eq!(history.records, [record("1", Some(9))]);
        assert_eq!(history.unreadable, 2);
    }
}
