//! One drill: its options, what it needs of the stack, its rounds, its verdict.

use std::path::PathBuf;

use mainstay_client::Client;
use mainstay_stack::Stack;
use sha2::{Digest, Sha256};

use crate::aim::probe_path;
use crate::fault::Fault;
use crate::history::History;
use crate::http::{self, Probe};
use crate::report::Report;
use crate::round::{Arena, round_line};
use crate::{judge, measure, whole};

/// A positive control: the drill must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The control plane promotes without fencing.
    PromoteWithoutFencing,
    /// The ledger's clients count a row before its commit.
    AcknowledgeBeforeCommit,
}

impl Sabotage {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::PromoteWithoutFencing => "promote-without-fencing",
            Self::AcknowledgeBeforeCommit => "acknowledge-before-commit",
        }
    }
}

/// How a drill is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which fault.
    pub fault: Fault,
    /// How many rounds.
    pub runs: u32,
    /// Seed of the moments of injection and the choice of victims.
    pub seed: u64,
    /// Positive control.
    pub sabotage: Option<Sabotage>,
    /// The stack's CA, PEM.
    pub ca: PathBuf,
    /// Port of the edge.
    pub https_port: u16,
}

/// Told while it runs.
pub trait Progress {
    /// One line.
    fn say(&mut self, line: &str);

    /// The history of a round as it ends, in JSON lines; who wants to keep it writes it.
    fn history(&mut self, _lines: &str) {}
}

/// Why a drill could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stack does not answer.
    #[error("{0}")]
    Client(#[from] mainstay_client::Error),
    /// The stack is not whole.
    #[error("the stack is not whole, so nothing would be learned: {0}")]
    NotWhole(String),
    /// The stack lacks what the drill needs.
    #[error("{0}")]
    NotApplicable(String),
    /// The ledger cannot be used.
    #[error("the ledger cannot be used: {0}")]
    Ledger(#[from] tokio_postgres::Error),
    /// The edge cannot be asked.
    #[error("cannot use the stack's CA: {0}")]
    Trust(#[source] std::io::Error),
}

/// Runs a drill and judges it.
///
/// **Errors**: it could not begin; nothing was broken then.
pub async fn drill(
    client: &Client,
    stack: &Stack,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Report, Error> {
    if options.fault == Fault::DatabaseCrash && stack.database.is_none() {
        return Err(Error::NotApplicable("the stack has no database to crash".to_owned()));
    }
    if options.fault == Fault::InstanceCrash && stack.services.is_empty() {
        return Err(Error::NotApplicable("the stack has no service to crash".to_owned()));
    }
    let began = measure::wall_clock();
    whole::wait(client, whole::WITHIN).await?;
    let ledger_url = match stack.database {
        Some(_) => Some(client.database().await?.ledger_url),
        None => None,
    };
    let http = match probe_path(stack) {
        Some(path) => Some(Probe {
            host: stack.edge.host.clone(),
            port: options.https_port,
            path,
            tls: http::trust(&options.ca).map_err(Error::Trust)?,
            history: History::default(),
        }),
        None => None,
    };
    let arena = Arena { client, options, http, ledger_url };
    let (mut rounds, mut hash) = (Vec::new(), Sha256::new());
    for number in 1..=options.runs {
        let mut round = arena.round(number).await?;
        progress.say(&round_line(options.runs, &round));
        // Handed on, not kept: a round's history is half a megabyte.
        if let Some(history) = round.examined.history.take() {
            let lines = history.to_lines();
            hash.update(&lines);
            progress.history(&lines);
        }
        rounds.push(round);
    }
    let case = judge::Case { stack, options, began, load: arena.load_text() };
    let history_sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Report { history_sha256: Some(history_sha256), ..judge::judge(&case, &rounds) })
}
