//! One round: load, fault, recovery, reading back.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_api::Status;
use mainstay_client::Client;
use mainstay_types::{ChildName, Secret, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::data::{self, Data, Examined};
use crate::fault::{self, Fault, Victim};
use crate::history::{History, Operation};
use crate::http::{self, Probe};
use crate::ledger::Honesty;
use crate::measure::{self, wall_clock};
use crate::record::Record;
use crate::run::{Error, Options, Sabotage};
use crate::timeline;
use crate::whole::{self, LOOK};

/// Load before the fault: enough to know what normal is.
const BEFORE: Duration = Duration::from_millis(800);
/// The fault comes at a random moment within this, so that it meets every phase of checkpoints and ticks.
const JITTER_MS: u64 = 400;
/// Load goes on for this long after the stack is whole again.
const AFTER: Duration = Duration::from_millis(600);
/// On a busy machine clients take a while to connect; past this the load counts as not proven.
const LOAD_WITHIN: Duration = Duration::from_secs(15);
/// Operations before the fault below which the load is not proven.
pub(crate) const LEAST_LOAD: usize = 20;

/// What one round saw.
pub(crate) struct Round {
    pub(crate) number: u32,
    pub(crate) began_at: Timestamp,
    pub(crate) injected_at: Option<Timestamp>,
    pub(crate) ended_at: Timestamp,
    pub(crate) times: Times,
    pub(crate) rto: Option<Duration>,
    pub(crate) stall: Duration,
    pub(crate) whole: Option<Duration>,
    pub(crate) writes: Vec<Operation>,
    pub(crate) requests: Vec<Operation>,
    pub(crate) load_before: usize,
    pub(crate) load_after: usize,
    pub(crate) fault: Result<String, String>,
    pub(crate) timeline: BTreeMap<String, u64>,
    pub(crate) errors: BTreeMap<String, u64>,
    /// Its history and what the checkers say.
    pub(crate) examined: Examined,
    /// Promises that it broke besides those that figures tell.
    pub(crate) reasons: Vec<String>,
}

/// Its moments on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// The load began.
    pub(crate) began: Instant,
    /// The fault was injected, or failed to be.
    pub(crate) injected: Instant,
    /// The load ended.
    pub(crate) ended: Instant,
}

/// What rounds are run with.
pub(crate) struct Arena<'a> {
    pub(crate) client: &'a Client,
    pub(crate) options: &'a Options,
    pub(crate) http: Option<Probe>,
    pub(crate) ledger_url: Option<Secret>,
}

/// Spreads a seed: one step of SplitMix64.
pub(crate) fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A round in a line, while the next one begins.
pub(crate) fn round_line(runs: u32, round: &Round) -> String {
    let fault = match &round.fault {
        Ok(text) => text.clone(),
        Err(text) => format!("no fault: {text}"),
    };
    let rto = round.rto.map_or("never".to_owned(), |rto| format!("{} ms", rto.as_millis()));
    let whole =
        round.whole.map_or("not whole again".to_owned(), |whole| format!("whole after {} ms", whole.as_millis()));
    let stall = round.stall.as_millis();
    format!("run {}/{runs}: {fault}; rto {rto}, stall {stall} ms, {whole}", round.number)
}

impl Arena<'_> {
    pub(crate) async fn round(&self, number: u32) -> Result<Round, Error> {
        let status = whole::wait(self.client, whole::WITHIN).await?;
        self.wait_steady(&status).await?;
        let random = splitmix(self.options.seed ^ u64::from(number) << 32);
        let seq = self.client.events(None, 1).await?.last().map_or(0, |event| event.seq);
        let (writes, requests) = (History::default(), History::default());
        let record = Record::new();
        let data = self.data(number, random, &writes, &record).await?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        if let Some(data) = &data {
            tasks.extend(data.start(self.honesty(), &stopped));
        }
        if let Some(http) = &self.http {
            tasks.extend(Probe { history: requests.clone(), ..http.clone() }.start(&stopped));
        }
        let (began, began_at) = (Instant::now(), wall_clock());
        while self.load(&writes, &requests, began) < LEAST_LOAD && began.elapsed() < LOAD_WITHIN {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(BEFORE + Duration::from_millis(random % JITTER_MS)).await;
        let load_before = self.load(&writes, &requests, began);
        let fault = self.inject(&status, random).await;
        let injected = fault.as_ref().map_or_else(|_| Instant::now(), |(at, ..)| *at);
        let whole_again = self.wait_whole(injected, fault.as_ref().ok().map(|(_, _, victim)| victim)).await;
        tokio::time::sleep(AFTER).await;
        let load_after = self.load(&writes, &requests, injected);
        let times = Times { began, injected, ended: Instant::now() };
        stop.send_replace(true);
        for task in tasks {
            // A writer that panicked would be a loss of load; its own history shows it.
            task.await.ok();
        }
        let events = self.client.events(Some(seq), 10_000).await.unwrap_or_default();
        if let Some(data) = &data {
            data.read_back(&record).await?;
        }
        let (writes_seen, requests_seen) = (writes.all(), requests.all());
        let felt = if self.measures_writes() { &writes_seen } else { &requests_seen };
        let of = format!("{} run {number}", self.options.fault.name());
        let at = fault.is_ok().then_some(injected);
        let examined = data::examine(of, at, &record, &writes_seen, &requests_seen);
        let injected_at = fault.as_ref().ok().map(|(_, wall, _)| *wall);
        let (fault, timeline) = match fault {
            Ok((_, wall, victim)) => (timeline::proof(&victim, &events), timeline::timeline(wall, &events)),
            Err(text) => (Err(text), BTreeMap::new()),
        };
        Ok(Round {
            number,
            began_at,
            injected_at,
            ended_at: wall_clock(),
            times,
            rto: measure::rto(felt, injected),
            stall: measure::stall(felt, injected, times.ended),
            whole: whole_again,
            load_before,
            load_after,
            fault,
            timeline,
            errors: History::errors_of(&[&writes, &requests]),
            examined,
            reasons: timeline::unfenced(self.options.fault, &events),
            writes: writes_seen,
            requests: requests_seen,
        })
    }

    /// Until there is somebody to kill: after a round its victim is left alone for a while.
    async fn wait_steady(&self, status: &Status) -> Result<(), Error> {
        let primary = status.database.as_ref().and_then(|database| database.primary).map(ChildName::postgres);
        let began = Instant::now();
        while began.elapsed() < fault::STEADY {
            let processes = self.client.processes().await?;
            if self.options.fault.victim(&processes, primary.as_ref(), 0, wall_clock()).is_some() {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        // Without one the fault is not proven, and the round says so.
        Ok(())
    }

    /// What the drill's stall and RTO are about: writes, or requests when the fault is an instance's.
    fn measures_writes(&self) -> bool {
        self.ledger_url.is_some() && (self.options.fault != Fault::InstanceCrash || self.http.is_none())
    }

    fn honesty(&self) -> Honesty {
        match self.options.sabotage {
            Some(Sabotage::AcknowledgeBeforeCommit) => Honesty::AcknowledgeBeforeCommit,
            Some(Sabotage::PromoteWithoutFencing) | None => Honesty::Honest,
        }
    }

    async fn data(&self, number: u32, seed: u64, writes: &History, record: &Record) -> Result<Option<Data>, Error> {
        let Some(url) = &self.ledger_url else { return Ok(None) };
        let name = format!("{}-{:x}-{number}-{}", self.options.fault.name(), self.options.seed, std::process::id());
        Ok(Some(Data::prepare(data::Round { name, url, seed, writes, record }).await?))
    }

    /// Successes since a moment, of the load that has least.
    fn load(&self, writes: &History, requests: &History, since: Instant) -> usize {
        let writes = self.ledger_url.as_ref().map(|_| writes.successes_since(since));
        let requests = self.http.as_ref().map(|_| requests.successes_since(since));
        [writes, requests].into_iter().flatten().min().unwrap_or(0)
    }

    async fn inject(&self, status: &Status, random: u64) -> Result<(Instant, Timestamp, Victim), String> {
        if self.options.sabotage == Some(Sabotage::PromoteWithoutFencing) {
            let sabotage = mainstay_api::Sabotage::PromoteWithoutFencing;
            self.client.sabotage(sabotage).await.map_err(|error| error.to_string())?;
        }
        let processes = self.client.processes().await.map_err(|error| error.to_string())?;
        let primary = status.database.as_ref().and_then(|database| database.primary).map(ChildName::postgres);
        let victim = self
            .options
            .fault
            .victim(&processes, primary.as_ref(), random >> 16, wall_clock())
            .ok_or_else(|| "nobody to kill was found".to_owned())?;
        let wall = wall_clock();
        let at = victim.kill().await?;
        Ok((at, wall, victim))
    }

    /// From the injection until the stack is whole with another process in the victim's place.
    async fn wait_whole(&self, injected: Instant, victim: Option<&Victim>) -> Option<Duration> {
        let victim = victim?;
        while injected.elapsed() < whole::WITHIN {
            let status = self.client.status().await.ok().filter(|status| whole::missing(status).is_none());
            if status.is_some() {
                let processes = self.client.processes().await.unwrap_or_default();
                let is_replaced = processes.iter().any(|process| {
                    process.name == victim.name && process.pid.is_some() && process.pid != Some(victim.pid)
                });
                if is_replaced {
                    return Some(injected.elapsed());
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    pub(crate) fn load_text(&self) -> String {
        let writes = self.ledger_url.as_ref().map(|_| format!("{} writers through the router", crate::ledger::WRITERS));
        let requests =
            self.http.as_ref().map(|http| format!("{} clients GET {} through the edge", http::CLIENTS, http.path));
        let workloads = self.ledger_url.as_ref().map(|_| crate::workload::describe_load());
        [writes, workloads, requests].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}
