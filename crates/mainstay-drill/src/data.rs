//! The data of a round: what writes it, what is read back of it, and what the checkers say.

use mainstay_types::Secret;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::checker::{self, Checked, Element, HistoryError, Op, Outcome, append, bank, monotonic};
use crate::history::{History, Operation};
use crate::ledger::{Honesty, Ledger};
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
    /// None without a database: nothing was written that could be checked.
    pub(crate) checks: Vec<Checked>,
}

/// Joins what was recorded, the ledger's rows and the requests to a history, and checks it.
pub(crate) fn examine(
    of: String,
    injected: Option<Instant>,
    record: &Record,
    writes: &[Operation],
    requests: &[Operation],
) -> Examined {
    let mut operations = record.all();
    let has_data = !operations.is_empty();
    operations.extend(record.translate(writes, 0, |row| Op::Append(Element(row.client, row.number))));
    operations.extend(record.translate(requests, FIRST_REQUESTER, |_| Op::Request));
    match checker::History::new(of, injected.map(|at| record.micros(at)), operations) {
        Ok(history) => {
            let checks = if has_data { check(&history) } else { Vec::new() };
            Examined { history: Some(history), contradiction: None, checks }
        }
        Err(error) => Examined { history: None, contradiction: Some(error), checks: Vec::new() },
    }
}

/// What all checkers say.
fn check(history: &checker::History) -> Vec<Checked> {
    vec![
        append::check(history),
        monotonic::check(history, &monotonic::Rules::default()),
        bank::check(history, &workload::bank_rules()),
    ]
}
