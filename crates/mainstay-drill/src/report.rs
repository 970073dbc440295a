//! What a drill prints: promise against measurement, with the evidence.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// The verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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

/// What was promised, and by whom.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Promised {
    /// From injection to service again.
    pub rto_ms: u64,
    /// Age of acknowledged data that may be lost.
    pub rpo_ms: u64,
    /// `mainstay.toml` or `default`.
    pub source: &'static str,
}

/// A figure over all runs. **Unit**: milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Spread {
    /// Median.
    pub p50: u64,
    /// 95th percentile by nearest rank; with fewer than 59 runs it says little.
    pub p95: u64,
    /// Worst.
    pub max: u64,
}

impl Spread {
    pub(crate) fn of(values: &[u64]) -> Self {
        use crate::measure::percentile;
        Self {
            p50: percentile(values, 50),
            p95: percentile(values, 95),
            max: values.iter().copied().max().unwrap_or(0),
        }
    }
}

/// What clients saw, over all runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Measured {
    /// Longest gap between two successes of one client.
    pub stall_ms: Spread,
    /// From injection to the first success of a run of successes.
    pub rto_ms: Spread,
    /// From injection until the stack was whole again.
    pub whole_ms: Spread,
    /// Rows that the ledger acknowledged.
    pub acknowledged: u64,
    /// Of these, not there afterwards.
    pub lost: u64,
    /// Rows that are there more than once.
    pub duplicated: u64,
    /// Rows whose outcome the client could not know.
    pub ambiguous: u64,
    /// Of these, there afterwards.
    pub ambiguous_present: u64,
    /// Rows that certainly failed, as the client was told.
    pub failed_writes: u64,
    /// HTTP requests.
    pub requests: u64,
    /// Of these, not begun to be answered, or answered with 5xx.
    pub failed_requests: u64,
    /// Answers that had begun and broke off.
    pub truncated: u64,
}

/// What proves fault and load, and what broke a promise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// One line for each fault: who was killed, and how that is known.
    pub faults: Vec<String>,
    /// Operations before the fault, fewest over all runs.
    pub least_load_before: u64,
    /// Operations after the fault, fewest over all runs.
    pub least_load_after: u64,
    /// Errors that clients saw, by text.
    pub errors: BTreeMap<String, u64>,
    /// Why the verdict is not PASS.
    pub reasons: Vec<String>,
    /// RTO of every run.
    pub rto_ms: Vec<u64>,
    /// Stall of every run.
    pub stall_ms: Vec<u64>,
    /// What the load was.
    pub load: String,
    /// What this drill does not test.
    pub not_tested: Vec<String>,
    /// The line that does it again.
    pub reproduce: String,
}

/// A drill's report: one JSON object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Its name.
    pub drill: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// Runs done.
    pub runs: u32,
    /// The promise.
    pub promise: Promised,
    /// The measurement.
    pub measured: Measured,
    /// Median time from injection to each step of recovery, as the stack's events tell it. **Unit**: milliseconds.
    pub timeline_ms: BTreeMap<String, u64>,
    /// The evidence.
    pub evidence: Evidence,
}
