//! The data of a round: what writes it, what is read back of it, and what the checkers say.

use std::time::Duration;

use mainstay_types::Secret;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::checker::{self, Checked, Element, HistoryError, Op, Outcome, Validity, append, bank, monotonic};
use crate::history::{History, Operation};
use crate::ledger::{Honesty, Ledger};
use crate::loss::{self, Excuse, Loss};
use crate::record::Record;
use crate::workload::{self, LAST_READER, Workloads};

/// Processes in the history that ask the edge.
const FIRST_REQUESTER: u32 = 1000;

/// Ledger and workloads of one round.
pub(crate) struct Data {
    ledger: Ledger,
    workloads: Workloads,
}

/// Who it is for.
pub(crate) struct Round<'a> {
    /// Unique among all rounds of all drills.
    pub(crate) name: String,
    pub(crate) url: &'a Secret,
    pub(crate) seed: u64,
    pub(crate) writes: &'a History,
    pub(crate) record: &'a Record,
}

impl Data {
    /// Makes the tables.
    pub(crate) async fn prepare(round: Round<'_>) -> Result<Self, tokio_postgres::Error> {
        let ledger = Ledger { url: round.url.clone(), drill: round.name.clone(), history: round.writes.clone() };
        let workloads = Workloads {
            url: round.url.clone(),
            drill: round.name,
            seed: round.seed,
            record: round.record.clone(),
            errors: round.writes.clone(),
        };
        ledger.prepare().await?;
        workloads.prepare().await?;
        Ok(Self { ledger, workloads })
    }

    /// Starts all clients, and `fresh` more writers that connect anew for each row; they end when `stop` says so.
    pub(crate) fn start(&self, honesty: Honesty, fresh: u32, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        let mut tasks = self.ledger.start(honesty, fresh, stop);
        tasks.extend(self.workloads.start(honesty, stop));
        tasks
    }

    /// Reads everything back, once nobody writes any more.
    pub(crate) async fn read_back(&self, record: &Record) -> Result<(), tokio_postgres::Error> {
        let began = Instant::now();
        let elements = self.ledger.read_back().await?;
        record.add(LAST_READER, began, Op::ReadAll(elements), Outcome::Ok);
        self.workloads.read_back().await
    }
}

/// A round's history and what the checkers say of it.
pub(crate) struct Examined {
    /// All that clients did and saw, until it is handed on.
    pub(crate) history: Option<checker::History>,
    /// Why there is no history: it contradicts itself, which is a mistake of the drill.
    pub(crate) contradiction: Option<HistoryError>,
    /// None without data: nothing was written that could be checked. Of a loss that is promised to be possible they say
    /// what they say when it is granted.
    pub(crate) checks: Vec<Checked>,
    /// What of the acknowledged is gone, whether that is allowed or not.
    pub(crate) loss: Loss,
}

/// What was recorded in a round.
pub(crate) struct Recorded<'a> {
    /// Names the history.
    pub(crate) of: String,
    pub(crate) injected: Option<Instant>,
    /// When the fault was proven, and the age of rows that may be lost.
    pub(crate) gone: Instant,
    pub(crate) rpo: Duration,
    pub(crate) record: &'a Record,
    pub(crate) writes: &'a [Operation],
    pub(crate) requests: &'a [Operation],
    pub(crate) has_rows: bool,
    /// Where the application's counter stood before.
    pub(crate) counter: Option<u64>,
}

/// Joins what was recorded, the ledger's rows and the requests to a history, and checks it.
pub(crate) fn examine(recorded: Recorded<'_>) -> Examined {
    let Recorded { of, injected, record, writes, requests, .. } = &recorded;
    let mut operations = record.all();
    operations.extend(record.translate(writes, 0, |row| Op::Append(Element(row.client, row.number))));
    operations.extend(record.translate(requests, FIRST_REQUESTER, |_| Op::Request));
    let injected_us = injected.map(|at| record.micros(at));
    match checker::History::new(of.clone(), injected_us, operations) {
        Ok(history) => {
            let (checks, loss) = checked(&recorded, &history, injected_us);
            Examined { history: Some(history), contradiction: None, checks, loss }
        }
        Err(error) => Examined { history: None, contradiction: Some(error), checks: Vec::new(), loss: Loss::default() },
    }
}

/// What the checkers say, and what is gone: that is counted before a promise lets anything go.
fn checked(recorded: &Recorded<'_>, history: &checker::History, injected_us: Option<u64>) -> (Vec<Checked>, Loss) {
    let checks = check(recorded, history);
    let mut loss = loss::of(history, &checks, injected_us);
    let is_broken = checks.iter().any(|checked| checked.validity == Validity::Invalid);
    let (Some(injected_us), true) = (injected_us, is_broken && !recorded.rpo.is_zero()) else { return (checks, loss) };
    let rpo_us = u64::try_from(recorded.rpo.as_micros()).unwrap_or(u64::MAX);
    let excuse = Excuse { rpo_us, injected_us, gone_us: recorded.record.micros(recorded.gone) };
    let (checks, explained_us) = loss::excused(history, &loss, excuse, |history| check(recorded, history));
    loss.explained_us = explained_us;
    (checks, loss)
}

/// What all checkers say.
fn check(recorded: &Recorded<'_>, history: &checker::History) -> Vec<Checked> {
    let mut checks = Vec::new();
    if recorded.has_rows {
        checks.extend([
            append::check(history),
            monotonic::check(history, &monotonic::Rules::default()),
            bank::check(history, &workload::bank_rules()),
        ]);
    }
    if let Some(base) = recorded.counter {
        let rules = monotonic::Rules { are_of_application: true, base, ..monotonic::Rules::default() };
        checks.push(monotonic::check(history, &rules));
    }
    checks
}
