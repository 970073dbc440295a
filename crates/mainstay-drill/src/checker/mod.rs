//! Checkers: was the data right? Pure functions over a history of what clients did and saw.
//!
//! A history says of each operation who did it, from when to when, and how it ended: done, not done, or unknown.
//! What a checker finds names the operations that cannot have happened together. It never excuses: a history that
//! it cannot judge is `Unknown`, never valid.

pub mod append;
pub mod bank;
mod history;
pub mod monotonic;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use history::{Element, Header, History, HistoryError, Op, Operation, Outcome, VERSION};

/// What a checker concludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Validity {
    /// Everything that was seen can have happened.
    Valid,
    /// There was too little to judge.
    Unknown,
    /// Something was seen that must not happen.
    Invalid,
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::Unknown => "unknown",
            Self::Invalid => "invalid",
        })
    }
}

/// Classes of anomalies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anomaly {
    /// Acknowledged, or seen before, and gone at the end.
    Lost,
    /// There more than once, or given out twice.
    Duplicated,
    /// It had failed, and is there.
    Resurrected,
    /// Nobody had begun to write it.
    Unexpected,
    /// A read missed what was acknowledged before the read began; a later read has it.
    StaleRead,
    /// What was seen went back.
    TimeTravel,
    /// Values are missing that no operation can have used up.
    Gap,
    /// A sum that must be constant was not: part of a transaction was seen.
    WrongTotal,
    /// Below zero where that is forbidden: two transactions spent the same money.
    NegativeBalance,
    /// The state is not what the operations lead to.
    Unexplained,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Resurrected => "resurrected",
            Self::Unexpected => "unexpected",
            Self::StaleRead => "stale read",
            Self::TimeTravel => "time travel",
            Self::Gap => "gap",
            Self::WrongTotal => "wrong total",
            Self::NegativeBalance => "negative balance",
            Self::Unexplained => "unexplained",
        })
    }
}

/// One thing that must not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its class.
    pub anomaly: Anomaly,
    /// The operations that contradict each other, by their position in the history.
    pub operations: Vec<usize>,
    /// In words.
    pub text: String,
}

/// What a checker says about one history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The checker.
    pub checker: &'static str,
    /// Its version; raised when it would judge some history differently.
    pub version: u32,
    /// The conclusion.
    pub validity: Validity,
    /// Writes that it looked at, by outcome.
    pub writes: Tally,
    /// Writes of unknown outcome of which an effect was seen.
    pub ambiguous_seen: u64,
    /// Reads that it looked at.
    pub reads: u64,
    /// All that it found.
    pub findings: Vec<Finding>,
    /// What it could not judge, and why.
    pub notes: Vec<String>,
}

/// Operations by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Acknowledged.
    pub ok: u64,
    /// Certainly not done.
    pub failed: u64,
    /// Perhaps done.
    pub ambiguous: u64,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Ambiguous => self.ambiguous += 1,
        }
    }
}

impl Checked {
    fn new(checker: &'static str, version: u32) -> Self {
        Self {
            checker,
            version,
            validity: Validity::Unknown,
            writes: Tally::default(),
            ambiguous_seen: 0,
            reads: 0,
            findings: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn find(&mut self, anomaly: Anomaly, operations: Vec<usize>, text: String) {
        self.findings.push(Finding { anomaly, operations, text });
    }

    /// Concludes: without a read, or with a note on what could not be judged, a clean history is not proven right.
    fn conclude(mut self) -> Self {
        self.validity = if !self.findings.is_empty() {
            Validity::Invalid
        } else if self.reads == 0 || !self.notes.is_empty() {
            Validity::Unknown
        } else {
            Validity::Valid
        };
        if self.reads == 0 {
            self.notes.push("nothing was read back".to_owned());
        }
        self
    }

    /// How many findings there are of each class.
    pub fn count(&self) -> BTreeMap<Anomaly, u64> {
        let mut count = BTreeMap::new();
        for finding in &self.findings {
            *count.entry(finding.anomaly).or_default() += 1;
        }
        count
    }

    /// How many findings there are of one class.
    pub fn count_of(&self, anomaly: Anomaly) -> u64 {
        self.findings.iter().filter(|finding| finding.anomaly == anomaly).count() as u64
    }
}
