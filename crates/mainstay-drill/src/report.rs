//! What a drill hands over: promise against measurement, with the evidence. One JSON object.

use std::collections::BTreeMap;

use mainstay_api::{Extended, Verdict};
use mainstay_decide::drills::Fault;
use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::alerts::Alert;
use crate::checker::{Anomaly, Tally, Validity};
use crate::environment::Environment;
use crate::loss::Gone;
use crate::strip::Strip;

/// Version of [`Report`]; raised when a field changes its meaning.
pub const REPORT_VERSION: u32 = 1;

/// What was promised, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// From injection to service again.
    pub rto_ms: u64,
    /// Age of acknowledged data that may be lost.
    pub rpo_ms: u64,
    /// `mainstay.toml` or `default`.
    pub source: String,
}

/// A figure over all runs. **Unit**: milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Median.
    pub p50: u64,
    /// 95th percentile by nearest rank; with fewer than 59 runs it says little.
    pub p95: u64,
    /// Worst.
    pub max: u64,
}

impl Spread {
    /// `None` of nothing: zero would be a figure.
    pub(crate) fn of(values: &[u64]) -> Option<Self> {
        use crate::measure::percentile;
        let max = values.iter().copied().max()?;
        Some(Self { p50: percentile(values, 50), p95: percentile(values, 95), max })
    }
}

/// What clients saw, over all runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// Longest gap between two successes of one client. This and the next two: of the runs whose fault is proven,
    /// `None` without any.
    pub stall_ms: Option<Spread>,
    /// From injection to the first success of a run of successes.
    pub rto_ms: Option<Spread>,
    /// From injection until the stack was whole again.
    pub whole_ms: Option<Spread>,
    /// Age that the oldest lost key had when the fault came; zero when none was lost.
    pub keys_rpo_ms: u64,
    /// Acknowledged rows of the ledger: what is gone, and how old it was.
    #[serde(default)]
    pub rows: Gone,
    /// Numbers that the application's own counter gave, if the stack file names one.
    #[serde(default)]
    pub numbers: Option<Gone>,
    /// What was counted.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Counts of one round, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Rows that the ledger acknowledged.
    pub acknowledged: u64,
    /// Of these, not there afterwards.
    pub lost: u64,
    /// Rows that are there more than once.
    pub duplicated: u64,
    /// Rows that had certainly failed, and are there.
    pub resurrected: u64,
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
    /// Keys that a Redis acknowledged.
    pub keys: u64,
    /// Of these, not there afterwards.
    pub keys_lost: u64,
    /// Keys that failed or whose outcome the client could not know.
    pub failed_keys: u64,
    /// Connections that were opened to see whether they are accepted.
    pub knocks: u64,
    /// Connections of any client that were refused.
    pub refused: u64,
    /// Operations that broke with a connection that was there before its other end was hit.
    pub broken: u64,
}

impl Counts {
    /// The sum.
    pub(crate) fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.resurrected += other.resurrected;
        self.ambiguous += other.ambiguous;
        self.ambiguous_present += other.ambiguous_present;
        self.failed_writes += other.failed_writes;
        self.requests += other.requests;
        self.failed_requests += other.failed_requests;
        self.truncated += other.truncated;
        self.keys += other.keys;
        self.keys_lost += other.keys_lost;
        self.failed_keys += other.failed_keys;
        self.knocks += other.knocks;
        self.refused += other.refused;
        self.broken += other.broken;
    }
}

/// One value for each part of a round: before the fault, from it until service was back, afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phases<T> {
    /// Ended before the fault.
    pub before: T,
    /// Was under way or began while there was no service.
    pub during: T,
    /// Began after service was back.
    pub after: T,
}

/// How much a kind of client did in one phase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Operations that were tried.
    pub attempted: u64,
    /// Of these, acknowledged.
    pub succeeded: u64,
    /// Length of the phase.
    pub length_ms: u64,
}

/// How long successful operations took. **Unit**: microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 95th percentile by nearest rank.
    pub p95_us: u64,
    /// 99th percentile by nearest rank.
    pub p99_us: u64,
    /// Worst.
    pub max_us: u64,
}

/// What a checker says of the data, over all rounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Its name.
    pub checker: String,
    /// Its version.
    pub version: u32,
    /// The worst that it said of a round.
    pub validity: Validity,
    /// Rounds that it looked at.
    pub rounds: u32,
    /// Writes that it looked at.
    pub writes: Tally,
    /// Of those of unknown outcome, how many had their effect.
    pub ambiguous_seen: u64,
    /// Reads that it looked at.
    pub reads: u64,
    /// What it found, by class.
    pub anomalies: BTreeMap<Anomaly, u64>,
    /// The first things that it found or could not judge.
    pub quoted: Vec<String>,
}

impl CheckReport {
    pub(crate) fn new(checker: &str, version: u32) -> Self {
        Self {
            checker: checker.to_owned(),
            version,
            validity: Validity::Valid,
            rounds: 0,
            writes: Tally::default(),
            ambiguous_seen: 0,
            reads: 0,
            anomalies: BTreeMap::new(),
            quoted: Vec::new(),
        }
    }
}

/// One round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// From 1.
    pub number: u32,
    /// When its load began.
    pub began: Timestamp,
    /// When the fault was injected.
    pub injected: Option<Timestamp>,
    /// When its load ended.
    pub ended: Timestamp,
    /// Who was hit and how that is known, or why it is not.
    pub fault: String,
    /// Whether the fault is proven.
    pub is_proven: bool,
    /// From injection to the first success of a run of successes; `None`: service did not come back.
    pub rto_ms: Option<u64>,
    /// Longest gap between two successes of one client; `None` without a fault or without clients.
    pub stall_ms: Option<u64>,
    /// From injection until the stack was whole again.
    pub whole_ms: Option<u64>,
    /// Load by kind of client: `writes`, `requests`, `keys`, `knocks`.
    pub load: BTreeMap<String, Phases<Load>>,
    /// Time from injection to each step of recovery, as the stack's events tell it. **Unit**: milliseconds.
    pub timeline_ms: BTreeMap<String, u64>,
    /// What was counted.
    pub counts: Counts,
}

/// What proves fault and load, and what broke a promise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// One line for each fault: who was hit, and how that is known.
    pub faults: Vec<String>,
    /// Operations before the fault, fewest over all runs; `None`: the drill makes no such load.
    pub least_load_before: Option<u64>,
    /// Operations after the fault, fewest over all runs.
    pub least_load_after: Option<u64>,
    /// Errors that clients saw, by text.
    pub errors: BTreeMap<String, u64>,
    /// Why the verdict is not PASS.
    pub reasons: Vec<String>,
    /// What a reader of the figures must know.
    pub notes: Vec<String>,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// Its name.
    pub drill: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Runs done.
    pub runs: u32,
    /// Seed of victims and moments.
    pub seed: u64,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// The mistake that was put in on purpose, if one was.
    pub sabotage: Option<String>,
    /// The promise.
    pub promise: Promised,
    /// The wider bar that it was held to, if it needed one.
    #[serde(default)]
    pub extended: Option<Extended>,
    /// The measurement.
    pub measured: Measured,
    /// Latency of successful operations over all rounds, by kind of client, as in a round's load.
    pub latency: BTreeMap<String, Phases<Latency>>,
    /// What the checkers say of the data; none without a database.
    #[serde(default)]
    pub checks: Vec<CheckReport>,
    /// What told people of the fault: events that warn.
    #[serde(default)]
    pub alerts: Vec<Alert>,
    /// SHA-256 of the history of all rounds, in JSON lines.
    #[serde(default)]
    pub history_sha256: Option<String>,
    /// What clients saw over the time of the run with the longest stall.
    #[serde(default)]
    pub strip: Option<Strip>,
    /// What it ran on.
    #[serde(default)]
    pub environment: Option<Environment>,
    /// Median time from injection to each step of recovery, as the stack's events tell it. **Unit**: milliseconds.
    pub timeline_ms: BTreeMap<String, u64>,
    /// Every round.
    pub rounds: Vec<RoundReport>,
    /// The evidence.
    pub evidence: Evidence,
}

impl Report {
    /// Rows and keys that were acknowledged and are gone, and how many were acknowledged; without keys that may go.
    pub fn lost(&self) -> (u64, u64) {
        let counts = &self.measured.counts;
        let (keys_lost, keys) = if self.may_evict() { (0, 0) } else { (counts.keys_lost, counts.keys) };
        (counts.lost + keys_lost, counts.acknowledged + keys)
    }

    /// Whether any fault was injected and proven. Without one there is no time since it.
    pub fn is_proven(&self) -> bool {
        self.rounds.iter().any(|round| round.is_proven)
    }

    /// Keys that went, which is allowed, and how many there were; `None` where none may go.
    pub fn evicted(&self) -> Option<(u64, u64)> {
        let counts = &self.measured.counts;
        self.may_evict().then_some((counts.keys_lost, counts.keys))
    }

    fn may_evict(&self) -> bool {
        Fault::by_name(&self.drill).is_some_and(Fault::may_evict)
    }
}
