//! The history of drills: a line when one begins, a line when it ends, in a file that only grows.
//!
//! Each line is written at once and synced (`chain.rs`); what a crash cut off is ended before the next line, and
//! readers skip it.
//! Whoever writes holds the lock of the folder: two drills at once would measure neither fault.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use mainstay_api::{DrillFigures, DrillRecord, HISTORY_VERSION, Verdict};
use mainstay_types::Timestamp;

use crate::chain::append;
use crate::measure::wall_clock;
use crate::report::Report;
use crate::run::{Error, Options};

/// Reasons that are remembered; the report has them all.
const MOST_REASONS: usize = 5;
/// Characters of a reason that are remembered.
const REASON_LENGTH: usize = 200;

/// A drill that is being remembered.
pub(crate) struct Log {
    history: PathBuf,
    record: DrillRecord,
    /// Held until the end.
    _lock: File,
}

impl Log {
    /// Remembers that a drill begins.
    ///
    /// **Errors**: another one is under way, or the file system's.
    pub(crate) fn begin(options: &Options, began: Timestamp) -> Result<Self, Error> {
        let folder = options.history.parent().ok_or_else(|| {
            Error::History(io::Error::new(io::ErrorKind::InvalidInput, "the history is in no folder"))
        })?;
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(Error::History)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(folder.join("lock"))
            .map_err(Error::History)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy),
            Err(TryLockError::Error(error)) => return Err(Error::History(error)),
        }
        let record = DrillRecord {
            version: HISTORY_VERSION,
            id: format!("{:x}-{}", began.as_micros(), std::process::id()),
            drill: options.fault.name().to_owned(),
            began,
            ended: None,
            verdict: None,
            runs: options.runs,
            seed: options.seed,
            sabotage: options.sabotage.map(|sabotage| sabotage.name().to_owned()),
            release: options.release.clone(),
            stack: options.stack_hash.clone(),
            figures: None,
            reasons: Vec::new(),
        };
        append(&options.history, &record).map_err(Error::History)?;
        Ok(Self { history: options.history.clone(), record, _lock: lock })
    }

    /// Remembers how it ended.
    ///
    /// **Errors**: the file system's.
    pub(crate) fn end(&mut self, report: &Report) -> Result<(), Error> {
        self.record.runs = report.runs;
        self.record.ended = Some(report.ended);
        self.record.verdict = Some(report.verdict);
        // Void without a fault: whatever the load saw is no figure of this drill.
        self.record.figures = (report.is_proven() || report.verdict != Verdict::Void).then(|| figures(report));
        self.record.reasons = report.evidence.reasons.iter().take(MOST_REASONS).map(|reason| short(reason)).collect();
        append(&self.history, &self.record).map_err(Error::History)
    }

    /// Remembers that it could not go on.
    ///
    /// **Errors**: the file system's.
    pub(crate) fn abort(&mut self, reason: &str) -> Result<(), Error> {
        self.record.ended = Some(wall_clock());
        self.record.verdict = Some(Verdict::Aborted);
        self.record.reasons = vec![short(reason)];
        append(&self.history, &self.record).map_err(Error::History)
    }
}

fn short(text: &str) -> String {
    text.chars().take(REASON_LENGTH).collect()
}

fn figures(report: &Report) -> DrillFigures {
    let (measured, counts) = (&report.measured, &report.measured.counts);
    let (lost, acknowledged) = report.lost();
    let (rto, stall) = (measured.rto_ms.as_ref(), measured.stall_ms.as_ref());
    DrillFigures {
        promised_rto_ms: report.promise.rto_ms,
        promised_rpo_ms: report.promise.rpo_ms,
        rto_p50_ms: rto.map(|rto| rto.p50),
        rto_p95_ms: rto.map(|rto| rto.p95),
        rto_max_ms: rto.map(|rto| rto.max),
        stall_p95_ms: stall.map(|stall| stall.p95),
        stall_max_ms: stall.map(|stall| stall.max),
        acknowledged,
        lost,
        requests: counts.requests,
        failed_requests: counts.failed_requests,
        evicted: Some(report.evicted().map_or(0, |(gone, _)| gone)),
        extended: report.extended.clone(),
    }
}

#[cfg(test)]
mod tests {
    use mainstay_api::parse_history;
    use mainstay_decide::drills::Fault;

    use super::*;

    fn options(folder: &std::path::Path) -> Options {
        Options {
            fault: Fault::EdgeCrash,
            runs: 3,
            seed: 7,
            sabotage: None,
            strategy: None,
            ca: "ca.pem".into(),
            https_port: 1,
            state: folder.to_owned(),
            history: folder.join("drills/history.jsonl"),
            release: "0.1.0".to_owned(),
            stack_hash: "abc".to_owned(),
            call: "mainstay".to_owned(),
            stop: crate::run::Stop::never(),
        }
    }

    #[test]
    fn the_line_that_runs_a_drill_again_names_its_stack_and_its_mistake() {
        let plain = Options { call: "./mainstay --state /srv/s".to_owned(), ..options(std::path::Path::new("/s")) };
        let line = "./mainstay --state /srv/s drill edge-crash --runs 3 --seed 7";
        assert_eq!(crate::judge::again(&plain), line);
        let control = Options { sabotage: Some(crate::run::Sabotage::CloseListeners), ..plain };
        assert_eq!(crate::judge::again(&control), format!("{line} --sabotage close-listeners"));
    }

    #[test]
    fn a_drill_is_remembered_from_its_beginning_and_its_end_replaces_that() {
        let folder = tempfile::tempdir().expect("folder");
        let options = options(folder.path());
        let mut log = Log::begin(&options, Timestamp::from_millis(5)).expect("begins");
        let read = || parse_history(&std::fs::read_to_string(&options.history).expect("reads")).records;
        assert_eq!(read().len(), 1);
        assert_eq!(read()[0].verdict, None, "killed here it would be seen as one that did not end");
        log.abort("the control plane does not answer").expect("aborts");
        assert_eq!(read().len(), 1);
        assert_eq!(read()[0].verdict, Some(Verdict::Aborted));
        assert_eq!(crate::chain::verify(&options.history).expect("reads").broken, None);
    }

    #[test]
    fn a_void_drill_without_a_fault_is_remembered_without_figures() {
        let folder = tempfile::tempdir().expect("folder");
        let options = options(folder.path());
        let mut report = crate::html::tests::report(1);
        (report.verdict, report.rounds[0].is_proven) = (Verdict::Void, false);
        let last = |report: &Report| {
            Log::begin(&options, report.began).expect("begins").end(report).expect("ends");
            let text = std::fs::read_to_string(&options.history).expect("reads");
            parse_history(&text).records.pop().expect("a record").figures
        };
        assert_eq!(last(&report), None);
        report.verdict = Verdict::Fail;
        assert!(last(&report).is_some(), "what was lost without a fault is not hidden");
        (report.verdict, report.rounds[0].is_proven) = (Verdict::Void, true);
        assert!(last(&report).is_some());
    }

    #[test]
    fn a_line_cut_off_by_a_crash_does_not_swallow_the_next_one() {
        let folder = tempfile::tempdir().expect("folder");
        let options = options(folder.path());
        drop(Log::begin(&options, Timestamp::from_millis(5)).expect("begins"));
        let text = std::fs::read_to_string(&options.history).expect("reads");
        std::fs::write(&options.history, &text[..text.len() / 2]).expect("cuts");
        drop(Log::begin(&options, Timestamp::from_millis(9)).expect("begins"));
        let history = parse_history(&std::fs::read_to_string(&options.history).expect("reads"));
        assert_eq!((history.records.len(), history.unreadable), (1, 1));
        assert_eq!(history.records[0].began, Timestamp::from_millis(9));
    }

    #[test]
    fn two_drills_at_once_are_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let options = options(folder.path());
        let first = Log::begin(&options, Timestamp::from_millis(5)).expect("begins");
        assert!(matches!(Log::begin(&options, Timestamp::from_millis(6)), Err(Error::Busy)));
        drop(first);
        assert!(Log::begin(&options, Timestamp::from_millis(7)).is_ok());
    }
}
