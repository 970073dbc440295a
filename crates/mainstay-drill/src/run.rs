//! One drill: rounds of load, fault, recovery, reading back; then the verdict.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mainstay_api::{Event, Status};
use mainstay_client::Client;
use mainstay_stack::Stack;
use mainstay_stack::model::{Probe as HealthProbe, Promise, RouteTarget};
use mainstay_types::{ChildName, State, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fault::{self, Fault, Victim};
use crate::history::{End, History, Operation};
use crate::http::{self, Probe};
use crate::ledger::{Honesty, Ledger};
use crate::measure;
use crate::report::{Evidence, Measured, Promised, Report, Spread, Verdict};

/// Load before the fault: enough to know what normal is.
const BEFORE: Duration = Duration::from_millis(800);
/// The fault comes at a random moment within this, so that it meets every phase of checkpoints and ticks.
const JITTER_MS: u64 = 400;
/// Load goes on for this long after the stack is whole again.
const AFTER: Duration = Duration::from_millis(600);
/// Most time for the stack to be whole again.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);
/// On a busy machine clients take a while to connect; past this the load counts as not proven.
const LOAD_WITHIN: Duration = Duration::from_secs(15);
/// Operations before the fault below which the load is not proven.
const LEAST_LOAD: usize = 20;
/// Pause between two looks at the stack.
const LOOK: Duration = Duration::from_millis(20);

/// A positive control: the drill must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// The control plane promotes without fencing.
    PromoteWithoutFencing,
    /// The ledger's clients count a row before its commit.
    AcknowledgeBeforeCommit,
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

/// What one round saw.
struct Round {
    rto: Option<Duration>,
    stall: Duration,
    whole: Option<Duration>,
    writes: Vec<Operation>,
    requests: Vec<Operation>,
    load_before: usize,
    load_after: usize,
    fault: Result<String, String>,
    timeline: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    readback: Option<crate::ledger::Readback>,
    reasons: Vec<String>,
}

struct Arena<'a> {
    client: &'a Client,
    stack: &'a Stack,
    options: &'a Options,
    http: Option<Probe>,
    ledger_url: Option<mainstay_types::Secret>,
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
    whole(client, WHOLE_WITHIN).await?;
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
    let arena = Arena { client, stack, options, http, ledger_url };
    let mut rounds = Vec::new();
    for number in 1..=options.runs {
        let round = arena.round(number).await?;
        progress.say(&round_line(number, options.runs, &round));
        rounds.push(round);
    }
    Ok(arena.judge(&rounds))
}

/// A path that a service answers through the edge, without signing in: its health path if a route leads there,
/// else what is below its first route (then any answer below 500 counts as answered).
fn probe_path(stack: &Stack) -> Option<String> {
    let leads = |path: &str, service: &mainstay_types::ServiceName, on_management: bool| {
        let best = stack
            .edge
            .routes
            .iter()
            .filter(|route| match route.path.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => route.path == path,
            })
            .max_by_key(|route| route.path.len())?;
        match &best.to {
            RouteTarget::Service { name, management } if name == service && *management == on_management => Some(()),
            RouteTarget::Service { .. } | RouteTarget::Site { .. } => None,
        }
    };
    for (name, service) in &stack.services {
        if let HealthProbe::Http { path, management } = &service.health.probe
            && leads(path, name, *management).is_some()
        {
            return Some(path.clone());
        }
    }
    stack.edge.routes.iter().find_map(|route| match &route.to {
        RouteTarget::Service { management: false, .. } => Some(route.path.trim_end_matches('*').to_owned()),
        RouteTarget::Service { .. } | RouteTarget::Site { .. } => None,
    })
}

/// Waits until every box is ready and commits are as durable as the stack file wants.
async fn whole(client: &Client, within: Duration) -> Result<Status, Error> {
    let began = Instant::now();
    let mut last = "it does not answer".to_owned();
    while began.elapsed() < within {
        if let Ok(status) = client.status().await {
            match not_whole(&status) {
                None => return Ok(status),
                Some(reason) => last = reason,
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Err(Error::NotWhole(last))
}

fn not_whole(status: &Status) -> Option<String> {
    if !status.is_up {
        return Some("it is still starting".to_owned());
    }
    let broken = status.boxes.iter().find(|one| !matches!(one.state, State::Ready | State::NotConfigured));
    broken.map(|one| {
        let why = one.reason.clone().or_else(|| one.waiting.first().map(ToString::to_string)).unwrap_or_default();
        format!("{} is {} {why}", one.name, one.state)
    })
}

fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn round_line(number: u32, runs: u32, round: &Round) -> String {
    let fault = match &round.fault {
        Ok(text) => text.clone(),
        Err(text) => format!("no fault: {text}"),
    };
    let rto = round.rto.map_or("never".to_owned(), |rto| format!("{} ms", rto.as_millis()));
    let whole =
        round.whole.map_or("not whole again".to_owned(), |whole| format!("whole after {} ms", whole.as_millis()));
    format!("run {number}/{runs}: {fault}; rto {rto}, stall {} ms, {whole}", round.stall.as_millis())
}

impl Arena<'_> {
    async fn round(&self, number: u32) -> Result<Round, Error> {
        let status = whole(self.client, WHOLE_WITHIN).await?;
        self.wait_steady(&status).await?;
        let random = splitmix(self.options.seed ^ u64::from(number) << 32);
        let seq = self.client.events(None, 1).await?.last().map_or(0, |event| event.seq);
        let (writes, requests) = (History::default(), History::default());
        let ledger = self.ledger(number, &writes).await?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        if let Some(ledger) = &ledger {
            tasks.extend(ledger.start(self.honesty(), &stopped));
        }
        if let Some(http) = &self.http {
            tasks.extend(Probe { history: requests.clone(), ..http.clone() }.start(&stopped));
        }
        let began = Instant::now();
        while self.load(&ledger, &writes, &requests, began) < LEAST_LOAD && began.elapsed() < LOAD_WITHIN {
            tokio::time::sleep(LOOK).await;
        }
        tokio::time::sleep(BEFORE + Duration::from_millis(random % JITTER_MS)).await;
        let load_before = self.load(&ledger, &writes, &requests, began);
        let fault = self.inject(&status, random).await;
        let injected = fault.as_ref().map_or_else(|_| Instant::now(), |(at, ..)| *at);
        let whole_again = self.wait_whole(injected, fault.as_ref().ok().map(|(_, _, victim)| victim)).await;
        tokio::time::sleep(AFTER).await;
        let load_after = self.load(&ledger, &writes, &requests, injected);
        let load_end = Instant::now();
        stop.send_replace(true);
        for task in tasks {
            // A writer that panicked would be a loss of load; its own history shows it.
            task.await.ok();
        }
        let events = self.client.events(Some(seq), 10_000).await.unwrap_or_default();
        let readback = match &ledger {
            Some(ledger) => Some(ledger.read_back().await?),
            None => None,
        };
        let (writes_seen, requests_seen) = (writes.all(), requests.all());
        let felt = if self.measures_writes() { &writes_seen } else { &requests_seen };
        let (fault, timeline, mut reasons) = match fault {
            Ok((_, wall, victim)) => {
                let proof = proof(&victim, &events);
                (proof, timeline(wall, &events), Vec::new())
            }
            Err(text) => (Err(text), BTreeMap::new(), Vec::new()),
        };
        reasons.extend(unfenced(self.options.fault, &events));
        let mut errors = writes.errors();
        for (text, count) in requests.errors() {
            *errors.entry(text).or_default() += count;
        }
        Ok(Round {
            rto: measure::rto(felt, injected),
            stall: measure::stall(felt, injected, load_end),
            whole: whole_again,
            load_before,
            load_after,
            fault,
            timeline,
            errors,
            readback,
            reasons,
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

    async fn ledger(&self, number: u32, history: &History) -> Result<Option<Ledger>, Error> {
        let Some(url) = &self.ledger_url else { return Ok(None) };
        let drill = format!("{}-{:x}-{number}-{}", self.options.fault.name(), self.options.seed, std::process::id());
        let ledger = Ledger { url: url.clone(), drill, history: history.clone() };
        ledger.prepare().await?;
        Ok(Some(ledger))
    }

    /// Successes since a moment, of the load that has least.
    fn load(&self, ledger: &Option<Ledger>, writes: &History, requests: &History, since: Instant) -> usize {
        let writes = ledger.as_ref().map(|_| writes.successes_since(since));
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
        while injected.elapsed() < WHOLE_WITHIN {
            let status = self.client.status().await.ok().filter(|status| not_whole(status).is_none());
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

    fn promise(&self) -> Promise {
        match self.options.fault {
            Fault::InstanceCrash => self.stack.target.instance_crash,
            Fault::DatabaseCrash => self.stack.target.database_failure,
            Fault::ControlPlaneCrash => self.stack.target.control_plane_crash,
            Fault::KeepCrash => self.stack.target.keep_crash,
        }
    }

    fn judge(&self, rounds: &[Round]) -> Report {
        let promise = self.promise();
        let rto_ms: Vec<u64> = rounds.iter().filter_map(|round| round.rto).map(millis).collect();
        let stall_ms: Vec<u64> = rounds.iter().map(|round| millis(round.stall)).collect();
        let whole_ms: Vec<u64> = rounds.iter().filter_map(|round| round.whole).map(millis).collect();
        let measured = Measured {
            stall_ms: Spread::of(&stall_ms),
            rto_ms: Spread::of(&rto_ms),
            whole_ms: Spread::of(&whole_ms),
            ..count(rounds)
        };
        let (verdict, reasons) = self.verdict(rounds, &measured, promise);
        let mut errors: BTreeMap<String, u64> = BTreeMap::new();
        for (text, count) in rounds.iter().flat_map(|round| &round.errors) {
            *errors.entry(text.clone()).or_default() += count;
        }
        let faults = rounds.iter().map(|round| match &round.fault {
            Ok(text) => text.clone(),
            Err(text) => format!("not proven: {text}"),
        });
        let least = |of: fn(&Round) -> usize| rounds.iter().map(of).min().unwrap_or(0) as u64;
        Report {
            drill: self.options.fault.name(),
            verdict,
            runs: u32::try_from(rounds.len()).unwrap_or(u32::MAX),
            promise: Promised {
                rto_ms: millis(promise.rto),
                rpo_ms: millis(promise.rpo),
                source: if promise.is_declared { "mainstay.toml" } else { "default" },
            },
            measured,
            timeline_ms: medians(rounds),
            evidence: Evidence {
                faults: faults.collect(),
                least_load_before: least(|round| round.load_before),
                least_load_after: least(|round| round.load_after),
                errors,
                reasons,
                rto_ms,
                stall_ms,
                load: self.load_text(),
                not_tested: vec![
                    "loss of the machine, its disk or its power".to_owned(),
                    "more load than this drill makes".to_owned(),
                ],
                reproduce: format!(
                    "mainstay drill {} --runs {} --seed {}",
                    self.options.fault.name(),
                    self.options.runs,
                    self.options.seed
                ),
            },
        }
    }

    fn load_text(&self) -> String {
        let writes = self.ledger_url.as_ref().map(|_| format!("{} writers through the router", crate::ledger::WRITERS));
        let requests =
            self.http.as_ref().map(|http| format!("{} clients GET {} through the edge", http::CLIENTS, http.path));
        [writes, requests].into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn verdict(&self, rounds: &[Round], measured: &Measured, promise: Promise) -> (Verdict, Vec<String>) {
        let mut failures: Vec<String> = rounds.iter().flat_map(|round| round.reasons.clone()).collect();
        let mut voids = Vec::new();
        for (number, round) in rounds.iter().enumerate() {
            let number = number + 1;
            if let Err(text) = &round.fault {
                voids.push(format!("run {number}: the fault is not proven: {text}"));
            }
            if round.load_before < LEAST_LOAD {
                voids.push(format!(
                    "run {number}: {} operations before the fault, {LEAST_LOAD} are needed",
                    round.load_before
                ));
            }
            match round.rto {
                None => failures.push(format!("run {number}: service did not come back")),
                Some(rto) if rto > promise.rto => {
                    failures.push(format!(
                        "run {number}: RTO {} ms, promised {} ms",
                        rto.as_millis(),
                        promise.rto.as_millis()
                    ));
                }
                Some(_) => {}
            }
            if round.whole.is_none() {
                failures
                    .push(format!("run {number}: the stack was not whole again within {} s", WHOLE_WITHIN.as_secs()));
            }
            if let Some(readback) = &round.readback {
                if !readback.lost.is_empty() {
                    let shown: Vec<String> =
                        readback.lost.iter().take(5).map(|(w, n)| format!("writer {w} row {n}")).collect();
                    let text = format!(
                        "run {number}: {} acknowledged rows are lost ({}…)",
                        readback.lost.len(),
                        shown.join(", ")
                    );
                    failures.push(text);
                }
                if readback.duplicated > 0 {
                    failures.push(format!("run {number}: {} rows are there twice", readback.duplicated));
                }
                if readback.resurrected > 0 {
                    failures.push(format!("run {number}: {} rows that had failed are there", readback.resurrected));
                }
            }
        }
        failures.extend(self.broken_by_fault(measured));
        if !failures.is_empty() {
            failures.extend(voids);
            return (Verdict::Fail, failures);
        }
        if voids.is_empty() { (Verdict::Pass, Vec::new()) } else { (Verdict::Void, voids) }
    }

    /// What the kind of fault promises besides its RTO: who is not hit must not feel it.
    fn broken_by_fault(&self, measured: &Measured) -> Vec<String> {
        let mut broken = Vec::new();
        let instances = self.stack.services.values().map(|service| service.instances).min().unwrap_or(0);
        let (requests_count, writes_count) = match self.options.fault {
            // With one instance there is nobody to take over.
            Fault::InstanceCrash => (instances >= 2, false),
            Fault::DatabaseCrash => (false, false),
            Fault::ControlPlaneCrash | Fault::KeepCrash => (true, true),
        };
        if requests_count && measured.failed_requests > 0 {
            broken.push(format!("{} requests failed, none may", measured.failed_requests));
        }
        if writes_count && measured.failed_writes + measured.ambiguous > 0 {
            let text =
                format!("{} writes failed and {} ended unknown, none may", measured.failed_writes, measured.ambiguous);
            broken.push(text);
        }
        broken
    }
}

fn count(rounds: &[Round]) -> Measured {
    let mut measured = Measured::default();
    for round in rounds {
        for operation in &round.writes {
            match operation.end {
                End::Ok => {}
                End::Failed => measured.failed_writes += 1,
                End::Ambiguous | End::Truncated => measured.ambiguous += 1,
            }
        }
        for operation in &round.requests {
            measured.requests += 1;
            match operation.end {
                End::Ok => {}
                End::Failed | End::Ambiguous => measured.failed_requests += 1,
                End::Truncated => measured.truncated += 1,
            }
        }
        if let Some(readback) = &round.readback {
            measured.acknowledged += readback.acknowledged;
            measured.lost += readback.lost.len() as u64;
            measured.duplicated += readback.duplicated;
            measured.ambiguous_present += readback.ambiguous_present;
        }
    }
    measured
}

/// The kernel's word was taken by the kill; the stack must have seen it too.
fn proof(victim: &Victim, events: &[Event]) -> Result<String, String> {
    let what = format!("SIGKILL to {} (pid {}), gone from /proc", victim.name, victim.pid);
    let seen = events.iter().find(|event| {
        event.fields.get("pid").and_then(serde_json::Value::as_i64) == Some(i64::from(victim.pid.0))
            && event.kind == "ChildEnded"
    });
    Ok(match seen {
        Some(event) => format!("{what}; event {}: {}", event.seq, event.text),
        None => what,
    })
}

/// A promotion without the proof of death before it breaks the first rule of all, whatever came of it.
fn unfenced(fault: Fault, events: &[Event]) -> Vec<String> {
    if fault != Fault::DatabaseCrash {
        return Vec::new();
    }
    let mut is_fenced = false;
    let mut reasons = Vec::new();
    for event in events {
        match event.kind.as_str() {
            "PrimaryFenced" => is_fenced = true,
            "StandbyPromoted" if !is_fenced => {
                reasons.push(format!("event {}: promoted without proof that the old primary is dead", event.seq));
            }
            "FailoverBegan" => is_fenced = false,
            _ => {}
        }
    }
    reasons
}

/// Steps of recovery by their first event after the fault.
fn timeline(injected: Timestamp, events: &[Event]) -> BTreeMap<String, u64> {
    const STEPS: [(&str, &str); 12] = [
        ("ChildEnded", "detected"),
        ("FailoverBegan", "decided"),
        ("PrimaryFenced", "fenced"),
        ("StandbyPromoted", "promoted"),
        ("RouterRepointed", "repointed"),
        ("StandbyCloned", "recloned"),
        ("CommitsSynchronous", "synchronous"),
        ("EndpointEjected", "ejected"),
        ("ChildStarted", "restarted"),
        ("InstanceReady", "ready"),
        ("KeepLost", "keep_lost"),
        ("ControlStarted", "control_started"),
    ];
    let mut timeline = BTreeMap::from([("injected".to_owned(), 0)]);
    for (kind, step) in STEPS {
        let first = events.iter().find(|event| event.kind == kind && event.at >= injected);
        if let Some(event) = first {
            timeline.insert(step.to_owned(), millis(event.at.saturating_since(injected)));
        }
    }
    timeline
}

fn medians(rounds: &[Round]) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (step, at) in rounds.iter().flat_map(|round| &round.timeline) {
        all.entry(step.clone()).or_default().push(*at);
    }
    let rto: Vec<u64> = rounds.iter().filter_map(|round| round.rto).map(millis).collect();
    let whole: Vec<u64> = rounds.iter().filter_map(|round| round.whole).map(millis).collect();
    all.insert("first_success".to_owned(), rto);
    all.insert("whole".to_owned(), whole);
    all.retain(|_, values| !values.is_empty());
    all.into_iter().map(|(step, values)| (step, measure::percentile(&values, 50))).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn wall_clock() -> Timestamp {
    let micros = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_micros());
    Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}
