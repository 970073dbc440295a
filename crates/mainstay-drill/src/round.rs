//! One round: load, fault, recovery, reading back.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_api::Status;
use mainstay_client::Client;
use mainstay_decide::drills::Fault;
use mainstay_stack::Stack;
use mainstay_stack::deploy::Strategy;
use mainstay_types::Timestamp;
use tokio::time::Instant;

use crate::aim;
use crate::alerts::{self, Told};
use crate::fault;
use crate::history::Operation;
use crate::inject::{After, Hit, Injected, primary};
use crate::ledger::Honesty;
use crate::load::{Ended, Loads, Seen};
use crate::measure::{self, wall_clock};
use crate::run::{Error, Options, Progress, Sabotage};
use crate::timeline;
use crate::whole::{self, LOOK, Patience};

/// Load before the fault: enough to know what normal is.
const BEFORE: Duration = Duration::from_millis(800);
/// Longest load before the fault; a promise that allows more loss than this cannot be measured in one round.
const MOST_BEFORE: Duration = Duration::from_secs(30);
/// The fault comes at a random moment within this, so that it meets every phase of checkpoints and ticks.
const JITTER_MS: u64 = 400;
/// Load goes on for this long after the stack is whole again.
const AFTER: Duration = Duration::from_millis(600);

/// A stack that is whole by its own account may have answered nobody yet: the load goes on until it was, or for so long.
const SERVED_WITHIN: Duration = Duration::from_secs(10);
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
    pub(crate) was_pressed: bool,
    pub(crate) seen: Seen,
    pub(crate) load_before: usize,
    pub(crate) load_after: usize,
    pub(crate) fault: Result<String, String>,
    pub(crate) timeline: BTreeMap<String, u64>,
    /// Promises that it broke besides those that figures tell.
    pub(crate) reasons: Vec<String>,
    /// What told people of the fault.
    pub(crate) told: Vec<Told>,
}

/// Its moments on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// The load began.
    pub(crate) began: Instant,
    /// The fault was injected, or failed to be.
    pub(crate) injected: Instant,
    /// The fault was proven.
    pub(crate) gone: Instant,
    /// The load ended.
    pub(crate) ended: Instant,
}

/// What rounds are run with.
pub(crate) struct Arena<'a> {
    pub(crate) client: &'a Client,
    pub(crate) stack: &'a Stack,
    pub(crate) options: &'a Options,
    pub(crate) loads: Loads,
    /// The strategies that rounds of `deploy` take in turn; of another drill just one, which says nothing.
    pub(crate) ways: Vec<Strategy>,
}

/// Spreads a seed: one step of SplitMix64.
pub(crate) fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A round in a line, while the next one begins.
pub(crate) fn round_line(options: &Options, runs: u32, round: &Round) -> String {
    let number = round.number;
    let fault = match &round.fault {
        Ok(text) => text,
        // There are no times since what was not there.
        Err(text) => return format!("run {number}/{runs}: no fault: {text}"),
    };
    if options.fault == Fault::Null {
        return format!("run {number}/{runs}: {fault}; stall {} ms", round.stall.as_millis());
    }
    let rto = round.rto.map_or("never".to_owned(), |rto| format!("{} ms", rto.as_millis()));
    let whole =
        round.whole.map_or("not whole again".to_owned(), |whole| format!("whole after {} ms", whole.as_millis()));
    let stall = round.stall.as_millis();
    format!("run {number}/{runs}: {fault}; rto {rto}, stall {stall} ms, {whole}")
}

impl Arena<'_> {
    /// Rounds in all.
    pub(crate) fn rounds(&self) -> u32 {
        self.options.runs.saturating_mul(u32::try_from(self.ways.len()).unwrap_or(1).max(1))
    }

    /// The strategy of a round.
    pub(crate) fn way(&self, number: u32) -> Strategy {
        let index = usize::try_from(number.saturating_sub(1)).unwrap_or(0).checked_rem(self.ways.len());
        index.and_then(|index| self.ways.get(index)).copied().unwrap_or_default()
    }

    pub(crate) async fn round(&self, number: u32, progress: &mut dyn Progress) -> Result<Round, Error> {
        let options = self.options;
        let status = whole::wait(self.client, Patience::between(), progress).await?;
        self.wait_steady(&status, progress).await?;
        let random = splitmix(options.seed ^ u64::from(number) << 32);
        let seq = self.client.events(None, 1).await?.last().map_or(0, |event| event.seq);
        let before = self.client.status().await?;
        let drill = format!("{}-{:x}-{number}-{}", options.fault.name(), options.seed, std::process::id());
        self.sabotage_load(&drill).await?;
        let load = self.loads.start(&drill, random, self.honesty()).await?;
        let (began, began_at) = (Instant::now(), wall_clock());
        load.wait_for(LEAST_LOAD, began, LOAD_WITHIN).await;
        tokio::time::sleep(self.before() + Duration::from_millis(random % JITTER_MS)).await;
        let load_before = load.least_since(began);
        let mut injected = match self.sabotage_stack().await {
            Ok(()) => self.inject(&status, (number, random), progress).await,
            Err(error) => Err(error.to_string()),
        };
        let (at, gone) = injected.as_ref().map_or_else(|_| (Instant::now(), Instant::now()), |i| (i.at, i.gone));
        let mut after = match &mut injected {
            Ok(injected) => self.follow(injected, &load, &drill, progress).await,
            Err(_) => After::default(),
        };
        tokio::time::sleep(AFTER).await;
        if injected.is_ok() {
            load.wait_for(LEAST_LOAD.max(measure::RUN_OF_SUCCESSES), gone, gone.elapsed() + SERVED_WITHIN).await;
        }
        let load_after = load.least_since(at);
        let times = Times { began, injected: at, gone, ended: Instant::now() };
        let of = format!("{} run {number}", options.fault.name());
        let rpo = options.fault.lets_rows_go(self.stack);
        let seen = load.finish(Ended { of, injected: injected.is_ok().then_some(at), gone, rpo }).await?;
        if let Some(former) = after.former.take() {
            let answers = former.await.unwrap_or_default();
            after.reasons.extend(answers.broken().map(|text| format!("run {number}: {text}")));
            after.proof.push(answers.text());
        }
        // Without them nobody can say that the former primary was proven dead.
        let events = self.client.events(Some(seq), 10_000).await?;
        after.reasons.extend(timeline::unfenced(options.fault, &events));
        let mut told = Vec::new();
        if let Ok(injected) = &injected {
            let notices = alerts::notices(alerts::standing(&before.boxes, &before.schedules), injected.wall, &events);
            told = alerts::told(injected.wall, &notices);
            let standbys = self.stack.database.as_ref().map_or(0, |database| database.standbys);
            after.reasons.extend(timeline::untold(options.fault, standbys, injected.wall, &notices));
            after.reasons.extend(timeline::unannounced(&after.left, injected.wall, &events));
        }
        let felt = self.felt(&seen);
        let rto = after.right.unwrap_or_else(|| measure::rto(felt, at));
        let stall = measure::stall(felt, at, times.ended);
        Ok(Round {
            number,
            began_at,
            injected_at: injected.as_ref().ok().map(|injected| injected.wall),
            ended_at: wall_clock(),
            times,
            rto,
            stall,
            whole: after.whole,
            was_pressed: after.was_pressed,
            seen,
            load_before,
            load_after,
            told,
            timeline: injected.as_ref().map_or_else(|_| BTreeMap::new(), |i| timeline::timeline(i.wall, &events)),
            fault: injected.map(|injected| proof(&injected, &after, &events)),
            reasons: after.reasons,
        })
    }

    /// Until there is somebody to hit: after a round its victim is left alone for a while.
    async fn wait_steady(&self, status: &Status, progress: &mut dyn Progress) -> Result<(), Error> {
        let primary = primary(status).map(|(_, name)| name);
        let asked = aim::probe(self.stack).map(|(service, _)| service);
        let (began, mut is_said) = (Instant::now(), false);
        while self.options.fault.has_victim() && began.elapsed() < fault::STEADY {
            let processes = self.client.processes().await?;
            if fault::victim(self.options.fault, &processes, primary.as_ref(), asked, 0, wall_clock()).is_some() {
                break;
            }
            if !is_said && began.elapsed() > Duration::from_secs(1) {
                let seconds = fault::STEADY.as_secs();
                progress.say(&format!("waits: whom it hits must have run for {seconds} s since the last start"));
                is_said = true;
            }
            tokio::time::sleep(LOOK).await;
        }
        // Without one the fault is not proven, and the round says so.
        Ok(())
    }

    /// What may be lost must have been written: only what is older than the promise allows counts as lost.
    fn before(&self) -> Duration {
        let fault = self.options.fault;
        let is_about_rows = matches!(fault, Fault::DatabaseCrash | Fault::DatabaseFreeze);
        let rpo = if is_about_rows { fault.lets_rows_go(self.stack) } else { fault.promise(self.stack).rpo };
        if rpo.is_zero() { BEFORE } else { (rpo + BEFORE).min(MOST_BEFORE) }
    }

    /// What the drill's stall and RTO are about.
    fn felt<'s>(&self, seen: &'s Seen) -> &'s [Operation] {
        let fault = self.options.fault;
        if matches!(fault, Fault::CacheCrash | Fault::StoreCrash) {
            return &seen.keys;
        }
        let is_about_requests = matches!(
            fault,
            Fault::InstanceCrash
                | Fault::EdgeCrash
                | Fault::CacheLoss
                | Fault::ScaleUp
                | Fault::ScaleDown
                | Fault::Deploy
        ) && self.loads.has_requests();
        if is_about_requests || !self.loads.has_writes() { &seen.requests } else { &seen.writes }
    }

    fn honesty(&self) -> Honesty {
        match self.options.sabotage {
            Some(Sabotage::AcknowledgeBeforeCommit) => Honesty::AcknowledgeBeforeCommit,
            _ => Honesty::Honest,
        }
    }

    /// The mistakes that must be there before the first acknowledgement.
    async fn sabotage_load(&self, drill: &str) -> Result<(), Error> {
        if self.options.sabotage == Some(Sabotage::StoreWithoutFile)
            && let Some(keys) = self.loads.keys(drill, &crate::history::History::default())
        {
            keys.stop_the_file().await.map_err(|error| Error::Keys(error.to_string()))?;
        }
        Ok(())
    }

    /// The mistakes that the stack is to make.
    async fn sabotage_stack(&self) -> Result<(), Error> {
        use mainstay_api::Sabotage as Planted;
        let planted = match self.options.sabotage {
            Some(Sabotage::PromoteWithoutFencing) => Planted::PromoteWithoutFencing,
            Some(Sabotage::ThawWithoutFencing) => Planted::ThawWithoutFencing,
            Some(Sabotage::CloseListeners) if self.options.fault == Fault::RouterCrash => Planted::CloseRouterListeners,
            Some(Sabotage::CloseListeners) => Planted::CloseEdgeListeners,
            Some(Sabotage::StartLate) => Planted::StartLate,
            Some(Sabotage::UnblockLate) => Planted::UnblockLate,
            Some(Sabotage::KeepBallast) => Planted::KeepBallast,
            Some(Sabotage::LeaveOut) => Planted::LeaveOut,
            Some(Sabotage::KillUndrained) => Planted::KillUndrained,
            Some(
                Sabotage::AcknowledgeBeforeCommit
                | Sabotage::StoreWithoutFile
                | Sabotage::EmptyTheStore
                | Sabotage::FailoverInstead
                | Sabotage::LeakConnections
                | Sabotage::ServeDamaged
                | Sabotage::HealLate
                | Sabotage::DieTogether
                | Sabotage::PastTheEdge
                | Sabotage::LookElsewhere,
            )
            | None => return Ok(()),
        };
        self.client.sabotage(planted).await?;
        // It is taken at the loop's next turn.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(())
    }
}

/// How the fault is known.
fn proof(injected: &Injected, after: &After, events: &[mainstay_api::Event]) -> String {
    let what = match &injected.hit {
        Hit::Nothing => "nothing was done".to_owned(),
        Hit::Emptied(text) | Hit::Filled { text, .. } | Hit::Returned(text) => text.clone(),
        Hit::Taken(taken) => taken.text().to_owned(),
        Hit::Scaled(scaled) => scaled.text(),
        Hit::Deployed(deployed) => deployed.text(),
        Hit::Damaged(damaged) => damaged.text().to_owned(),
        Hit::Asked(asked) => {
            let asked = &asked.status;
            let what = match asked.errand {
                mainstay_api::ErrandKind::Switchover => "a switchover",
                mainstay_api::ErrandKind::Failover => "a failover",
                mainstay_api::ErrandKind::Restart => "a restart",
                mainstay_api::ErrandKind::Restore => "a restore",
            };
            format!("{what} from postgres-{} to postgres-{} was asked for and taken on", asked.primary, asked.member)
        }
        Hit::Still { frozen, member } => {
            let pid = frozen.victim.pid;
            format!(
                "SIGSTOP to the process (pid {pid}) that receives the log at postgres-{member}, in state T in /proc"
            )
        }
        Hit::Killed(victim) => timeline::killed(victim, events),
        Hit::Frozen { frozen, .. } => {
            let (name, pid, count) = (&frozen.victim.name, frozen.victim.pid, frozen.count());
            format!("SIGSTOP to {name} (pid {pid}) and its {} children, all in state T in /proc", count - 1)
        }
    };
    [vec![what], after.proof.clone()].concat().join("; ")
}
