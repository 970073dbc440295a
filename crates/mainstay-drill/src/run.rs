//! One drill: its options, what it needs of the stack, its rounds, its verdict, its place in the history.

use std::path::PathBuf;

use mainstay_client::Client;
use mainstay_decide::drills::Fault;
use mainstay_stack::Stack;
use mainstay_stack::deploy::Strategy;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::environment::Environment;
use crate::load::Loads;
use crate::log::Log;
use crate::report::Report;
use crate::round::{Arena, Round, round_line};
use crate::{judge, measure, whole};

/// A positive control: the drill must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The control plane promotes without fencing.
    PromoteWithoutFencing,
    /// The same, and the former primary is left alone for some seconds after it: thawed, it serves.
    ThawWithoutFencing,
    /// The ledger's clients count a row before its commit.
    AcknowledgeBeforeCommit,
    /// The listeners of edge or router are not held: they close with it.
    CloseListeners,
    /// The victim is started again several seconds late.
    StartLate,
    /// Commits wait for a lost standby for seconds.
    UnblockLate,
    /// The primary is given up at once in place of a switchover.
    FailoverInstead,
    /// The ballast is not thrown off.
    KeepBallast,
    /// The connections of the pool are held for longer than promised.
    LeakConnections,
    /// The store is emptied in place of the cache.
    EmptyTheStore,
    /// The store keeps no file until it is started again.
    StoreWithoutFile,
    /// The standby answers with rows of damaged pages.
    ServeDamaged,
    /// Who would heal stands still for longer than is promised.
    HealLate,
    /// Edge and router die with who was hit, as children do that are tied to their parent.
    DieTogether,
    /// Each client asks one instance, past the edge.
    PastTheEdge,
    /// The edge is not told of the instances that are started.
    LeaveOut,
    /// Instances are killed in place of their drain, and the edge is told late.
    KillUndrained,
    /// The drill looks at another moment, or not at all: it must say so itself.
    LookElsewhere,
}

impl Sabotage {
    /// The drills that are shown to notice it. Any other would go by as if nothing had been put in.
    pub fn fits(self) -> &'static [Fault] {
        match self {
            Self::PromoteWithoutFencing | Self::AcknowledgeBeforeCommit => &[Fault::DatabaseCrash],
            Self::ThawWithoutFencing => &[Fault::DatabaseFreeze],
            Self::CloseListeners => &[Fault::EdgeCrash, Fault::RouterCrash],
            Self::StartLate => &[Fault::CacheCrash, Fault::RouterCrash],
            Self::UnblockLate => &[Fault::StandbyLoss, Fault::ReplicationLag],
            Self::FailoverInstead => &[Fault::Switchover],
            Self::KeepBallast => &[Fault::DiskFull],
            Self::LeakConnections => &[Fault::PoolExhaustion],
            Self::EmptyTheStore => &[Fault::CacheLoss],
            Self::StoreWithoutFile => &[Fault::StoreCrash],
            Self::ServeDamaged => &[Fault::CorruptPage],
            Self::HealLate | Self::DieTogether => &[Fault::ControlPlaneCrash, Fault::KeepCrash],
            Self::PastTheEdge => &[Fault::InstanceCrash],
            Self::LeaveOut => &[Fault::ScaleUp],
            Self::KillUndrained => &[Fault::ScaleDown, Fault::Deploy],
            Self::LookElsewhere => {
                &[Fault::BackupRestore, Fault::DropTable, Fault::CorruptBackup, Fault::MissingWal, Fault::MachineLoss]
            }
        }
    }

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::PromoteWithoutFencing => "promote-without-fencing",
            Self::ThawWithoutFencing => "thaw-without-fencing",
            Self::AcknowledgeBeforeCommit => "acknowledge-before-commit",
            Self::CloseListeners => "close-listeners",
            Self::StartLate => "start-late",
            Self::UnblockLate => "unblock-late",
            Self::FailoverInstead => "failover-instead",
            Self::KeepBallast => "keep-ballast",
            Self::LeakConnections => "leak-connections",
            Self::EmptyTheStore => "empty-the-store",
            Self::StoreWithoutFile => "store-without-file",
            Self::ServeDamaged => "serve-damaged",
            Self::HealLate => "heal-late",
            Self::DieTogether => "die-together",
            Self::PastTheEdge => "past-the-edge",
            Self::LeaveOut => "leave-out",
            Self::KillUndrained => "kill-undrained",
            Self::LookElsewhere => "look-elsewhere",
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
    /// Of `deploy`: this strategy alone.
    pub strategy: Option<Strategy>,
    /// The stack's CA, PEM.
    pub ca: PathBuf,
    /// Port of the edge.
    pub https_port: u16,
    /// The stack's state folder: its processes are known by what is in there.
    pub state: PathBuf,
    /// The file that remembers drills.
    pub history: PathBuf,
    /// Version of mainstay.
    pub release: String,
    /// SHA-256 of the stack file.
    pub stack_hash: String,
    /// How mainstay is called for this stack, for the line that runs the drill again.
    pub call: String,
    /// What ends it before its time.
    pub stop: Stop,
}

/// Tells a drill to stop, and why.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Option<&'static str>>);

impl Stop {
    /// One that stops when the reason is there.
    pub fn by(reason: watch::Receiver<Option<&'static str>>) -> Self {
        Self(reason)
    }

    /// One that never does.
    pub fn never() -> Self {
        Self(watch::channel(None).1)
    }

    /// The reason, if it was told to stop.
    pub fn reason(&self) -> Option<&'static str> {
        *self.0.borrow()
    }

    pub(crate) async fn wait(&self) -> &'static str {
        let mut reason = self.0.clone();
        let told = reason.wait_for(Option::is_some).await.ok().and_then(|reason| *reason);
        match told {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }
}

/// Told while it runs.
pub trait Progress {
    /// One line.
    fn say(&mut self, line: &str);

    /// The history of a round as it ends, in JSON lines; who wants to keep it writes it.
    fn history(&mut self, _lines: &str) {}
}

/// Why a drill could not even begin, or could not go on.
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
    /// The ledger of keys cannot be used.
    #[error("the ledger of keys cannot be used: {0}")]
    Keys(String),
    /// The application's own counter cannot be used.
    #[error("the application's counter ([drills.counter]) cannot be used: {0}")]
    Counter(String),
    /// The edge cannot be asked.
    #[error("cannot use the stack's CA: {0}")]
    Trust(#[source] std::io::Error),
    /// The backups cannot be used.
    #[error("the backups cannot be used: {0}")]
    Backups(String),
    /// Somebody stopped it.
    #[error("it was stopped ({0}); nothing that it froze is left frozen")]
    Stopped(&'static str),
    /// Another drill runs: two faults at once would measure neither.
    #[error("another drill of this stack is under way")]
    Busy,
    /// What happened could not be remembered.
    #[error("cannot write the history of drills: {0}")]
    History(#[source] std::io::Error),
}

/// Runs a drill and judges it. It is in the history from its beginning on, so that one that was killed is seen.
///
/// **Errors**: it could not begin or go on; a fault that was injected by then is healed.
pub async fn drill(
    client: &Client,
    stack: &Stack,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Report, Error> {
    options.fault.applies(stack).map_err(Error::NotApplicable)?;
    let began = measure::wall_clock();
    let mut log = Log::begin(options, began)?;
    // Dropped in the middle, the rounds heal what they broke: whatever holds a fault lets go of it.
    let outcome = tokio::select! {
        done = rounds(client, stack, options, progress) => done,
        reason = options.stop.wait() => Err(Error::Stopped(reason)),
    };
    if options.sabotage.is_some()
        && let Err(error) = client.sabotage(mainstay_api::Sabotage::Off).await
    {
        // A mistake that nobody has made yet must not wait for the next fault, which is a real one perhaps.
        progress.say(&format!("the planted mistake may still be there ({error}): `mainstay down` and `up` end it"));
    }
    match outcome {
        Ok(done) => {
            let case = judge::Case { stack, options, began, load: done.load };
            let (history_sha256, environment) = (Some(done.history), Some(done.environment));
            let report = Report { history_sha256, environment, ..judge::judge(&case, &done.rounds) };
            log.end(&report)?;
            Ok(report)
        }
        Err(error) => {
            log.abort(&error.to_string())?;
            Err(error)
        }
    }
}

/// All rounds.
struct Done {
    rounds: Vec<Round>,
    /// What the load was, for people.
    load: String,
    /// SHA-256 of the histories.
    history: String,
    environment: Environment,
}

async fn rounds(client: &Client, stack: &Stack, options: &Options, progress: &mut dyn Progress) -> Result<Done, Error> {
    whole::wait(client, whole::Patience::at_first(), progress).await?;
    let loads = Loads::of(client, stack, options).await?;
    let mut arena = Arena { client, stack, options, loads, ways: vec![Strategy::default()] };
    if options.fault == Fault::Deploy {
        arena.ways = arena.ways().await.map_err(Error::NotApplicable)?;
    }
    let mut environment = Environment::look();
    if let Some(version) = arena.loads.database_version().await {
        environment.programs.insert("PostgreSQL".to_owned(), version);
    }
    let (mut rounds, mut hash) = (Vec::new(), Sha256::new());
    for number in 1..=arena.rounds() {
        let mut round = arena.round(number, progress).await?;
        progress.say(&round_line(options, arena.rounds(), &round));
        environment.look_at_load();
        // Handed on, not kept: a round's history is half a megabyte.
        if let Some(history) = round.seen.examined.history.take() {
            let lines = history.to_lines();
            hash.update(&lines);
            progress.history(&lines);
        }
        rounds.push(round);
    }
    let history = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Done { rounds, load: arena.loads.text(), history, environment })
}
