//! A rollout: a new release takes the place of the one that is live, or is taken back.
//!
//! The record of it is durable before anything is done in a phase; a control plane that begins takes it up from there.
//! Instances of both releases stand beside each other in slots of their own, so that taking it back is stopping the new
//! ones.

use std::time::Duration;

use mainstay_api::Trial;
use mainstay_stack::Stack;
use mainstay_stack::deploy::{Deploy, Strategy};
use mainstay_stack::model::Service;
use mainstay_types::{ChildName, InstanceId, Member, ServiceName, Timestamp, Waiting};
use serde::{Deserialize, Serialize};

use crate::draft::Draft;
use crate::endpoints::health_of;
use crate::fleet::Fleet;
use crate::observed::{Health, Observed};
use crate::plan::{Step, StepKey, Work};
use crate::services::{not_ready, running_instances};
use crate::share::{ALL, Share};
use crate::view::{Life, View};

/// Ends of a new instance before it was ready that are forgiven: a port in the last throes of its former owner.
const ENDS_FORGIVEN: u32 = 2;

/// Longest watch of a trial, and longest step: what it serves with is what served before, so that is known to be good.
const TRIAL_WATCH: Duration = Duration::from_secs(3);
const TRIAL_STEP: Duration = Duration::from_secs(2);
/// Why a trial that has stood its watch is taken back.
pub const TRIAL_OVER: &str = "the drill is over";

/// What is on disk of a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The release that is to be live.
    pub release: u64,
    /// The release that is.
    pub from: u64,
    /// A person goes back to a release that was live before.
    pub is_rollback: bool,
    /// How traffic comes to it.
    pub strategy: Strategy,
    /// The rules of its own stack file.
    pub rules: Deploy,
    /// When it began.
    pub began_at: Timestamp,
    /// How far it is.
    pub phase: Phase,
    /// Since when it is there.
    pub since: Timestamp,
    /// Instances of the new release.
    pub fleet: Fleet,
    /// An earlier release: how it stood before, and since when.
    #[serde(default)]
    pub was: Option<(String, Timestamp)>,
    /// A person wants it to stay where it is.
    pub is_paused: bool,
    /// A person does not want to wait for time and requests in this phase.
    pub is_promoted: bool,
    /// A drill asked for it.
    #[serde(default)]
    pub trial: Option<Trial>,
}

/// How far a rollout is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum Phase {
    /// A restore point is named, and the schema is made ready for it.
    Migrate,
    /// Its release commands run.
    Before,
    /// Its first instances (rolling), or all of them, become ready.
    Start,
    /// They are asked what they must answer before they get traffic.
    Smoke,
    /// Traffic comes to it: instance by instance, or by a share of clients.
    Shift {
        /// How far, from 0.
        step: u32,
    },
    /// It has all traffic and is watched.
    Bake,
    /// The old release's instances end.
    Drain,
    /// It becomes what this stack is.
    Commit,
    /// It is taken back.
    Back {
        /// Why.
        reason: String,
        /// In which phase it was.
        was: String,
    },
}

impl Phase {
    /// Its name, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Migrate => "migrate",
            Self::Before => "before",
            Self::Start => "start",
            Self::Smoke => "smoke",
            Self::Shift { .. } => "shift",
            Self::Bake => "watch",
            Self::Drain => "drain",
            Self::Commit => "commit",
            Self::Back { .. } => "back",
        }
    }
}

/// A rollout under way and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutSeen {
    /// What is on disk.
    pub record: Rollout,
    /// The new release's stack.
    pub stack: Box<Stack>,
    /// Requests that it answered since this phase began.
    pub requests: u64,
    /// Why what it answered means that it is taken back.
    pub verdict: Option<String>,
}

impl Rollout {
    /// The same in another phase.
    pub fn at(&self, phase: Phase, now: Timestamp) -> Self {
        Self { phase, since: now, is_promoted: false, ..self.clone() }
    }

    /// Taken back.
    pub fn back(&self, reason: String, now: Timestamp) -> Self {
        let was = self.phase.name().to_owned();
        self.at(Phase::Back { reason, was }, now)
    }

    /// Whether it has got so far that it is taken back no more.
    pub fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Drain | Phase::Commit | Phase::Back { .. })
    }

    /// How many of a service's new instances are wanted, of `all`.
    pub fn new_wanted(&self, all: u32) -> u32 {
        let first = if self.strategy == Strategy::Rolling { all.min(1) } else { all };
        match &self.phase {
            Phase::Migrate | Phase::Before => 0,
            Phase::Start | Phase::Smoke => first,
            Phase::Shift { step } if self.strategy == Strategy::Rolling => all.min(step + 1),
            Phase::Shift { .. } | Phase::Bake | Phase::Drain | Phase::Commit => all,
            // What runs of it goes on until the old release is whole again.
            Phase::Back { .. } => all,
        }
    }

    /// How many of the old release's instances are wanted, of `all`, while `ready` new ones are.
    pub fn old_wanted(&self, all: u32, ready: u32) -> u32 {
        match &self.phase {
            // One stays until the watch is over: going back then takes no start.
            Phase::Shift { .. } | Phase::Bake if self.strategy == Strategy::Rolling => {
                all.saturating_sub(ready).max(all.min(1))
            }
            Phase::Drain | Phase::Commit => 0,
            _ => all,
        }
    }

    /// The share of clients that go to the new release; `None`: each instance has its part, whatever its release.
    pub fn share(&self) -> Option<Share> {
        let share = match &self.phase {
            Phase::Migrate | Phase::Before | Phase::Start | Phase::Smoke | Phase::Back { .. } => Some(0),
            Phase::Drain | Phase::Commit => Some(ALL),
            Phase::Shift { .. } if self.strategy == Strategy::Rolling => None,
            Phase::Shift { step } if self.strategy == Strategy::Canary => {
                Some(self.rules.steps.get(*step as usize).copied().unwrap_or(ALL))
            }
            Phase::Shift { .. } | Phase::Bake => Some(ALL),
        };
        share.map(|basis_points| Share { release: self.release, basis_points })
    }

    /// Steps of the shift.
    fn steps(&self, stack: &Stack) -> u32 {
        let all = stack.services.iter().map(|(name, service)| self.fleet.wanted(name, service));
        match self.strategy {
            Strategy::Rolling => all.max().unwrap_or(0),
            Strategy::BlueGreen => 0,
            Strategy::Canary => u32::try_from(self.rules.steps.len()).unwrap_or(0),
        }
    }
}

/// How traffic comes to a release: as a person wants it, else as its stack file says. What runs from a folder that may
/// have changed (`is_from_folder`) could not be started again: its instances stay until the new ones have proven
/// themselves. An earlier release served before: whoever goes back wants all of it now, and without a watch.
pub fn way(wanted: Option<Strategy>, rules: Deploy, is_from_folder: bool, is_rollback: bool) -> (Strategy, Deploy) {
    if is_rollback {
        return (wanted.unwrap_or(Strategy::BlueGreen), Deploy { bake: Duration::ZERO, ..rules });
    }
    match wanted.unwrap_or(rules.strategy) {
        Strategy::Rolling if is_from_folder => (Strategy::BlueGreen, rules),
        strategy => (strategy, rules),
    }
}

/// The rules of a trial: those of the stack file, sooner over. A canary's steps go by time alone: how many requests a
/// drill makes is its own matter.
pub fn of_trial(rules: Deploy) -> Deploy {
    Deploy { bake: rules.bake.min(TRIAL_WATCH), step: rules.step.min(TRIAL_STEP), requests: 0, ..rules }
}

/// What a release would change that no rollout changes: clients are served by it meanwhile.
pub fn unlike(live: &Stack, next: &Stack) -> Option<&'static str> {
    let door = |stack: &Stack| {
        let edge = &stack.edge;
        (edge.host.clone(), edge.https_port, edge.http_port, edge.listen.clone(), stack.console.port)
    };
    let differs = [
        ("the stack's name", live.name != next.name),
        ("[database]", live.database != next.database),
        ("[cache]", live.cache != next.cache),
        ("[observe]", live.observe != next.observe),
        ("host, ports or address of [edge] or [console]", door(live) != door(next)),
    ];
    differs.into_iter().find(|(_, differs)| *differs).map(|(what, _)| what)
}

/// New instances of a service that are wanted now. In a rollout that is taken back: those that still run.
pub(crate) fn new_instances(view: &View<'_>, seen: &RolloutSeen, name: &ServiceName) -> Vec<InstanceId> {
    let Some(service) = seen.stack.services.get(name) else { return Vec::new() };
    let fleet = &seen.record.fleet;
    let wanted = fleet.slots(name, seen.record.new_wanted(fleet.wanted(name, service)));
    let wanted = wanted.into_iter().map(|slot| InstanceId { service: name.clone(), slot });
    if !matches!(seen.record.phase, Phase::Back { .. }) {
        return wanted.collect();
    }
    if is_old_whole(view) || view.now.saturating_since(seen.record.since) > seen.record.rules.timeout {
        return Vec::new();
    }
    let running = running_instances(view, name);
    wanted.filter(|id| running.contains(id)).collect()
}

/// Whether every instance of the live release is ready.
fn is_old_whole(view: &View<'_>) -> bool {
    let fleet = &view.observed.fleet;
    let mut all = view.stack.services.iter().flat_map(|(name, service)| fleet.instances(name, service));
    all.all(|id| is_ready(view, &id))
}

pub(crate) fn is_ready(view: &View<'_>, id: &InstanceId) -> bool {
    health_of(view, id).is_some_and(|health| health.health == Health::Ready)
}

/// Runs, and nobody has heard of it yet: a control plane that has just begun.
fn is_unasked(view: &View<'_>, id: &InstanceId) -> bool {
    let runs = view.life(&ChildName::instance(id)).runs().is_some();
    runs && health_of(view, id).is_none_or(|health| health.last.is_empty())
}

fn is_any_unasked(view: &View<'_>, seen: &RolloutSeen) -> bool {
    let mut new = seen.stack.services.keys().flat_map(|name| new_instances(view, seen, name));
    new.any(|id| is_unasked(view, &id))
}

/// New instances of a service that are ready, or were before this control plane began.
pub(crate) fn ready_new(view: &View<'_>, seen: &RolloutSeen, name: &ServiceName) -> u32 {
    let had_traffic = matches!(seen.record.phase, Phase::Shift { .. } | Phase::Bake);
    let counts = |id: &InstanceId| is_ready(view, id) || (had_traffic && is_unasked(view, id));
    let ready = new_instances(view, seen, name).into_iter().filter(counts).count();
    u32::try_from(ready).unwrap_or(u32::MAX)
}

/// Old instances of a service that are wanted now.
pub(crate) fn old_instances(view: &View<'_>, name: &ServiceName, service: &Service) -> Vec<InstanceId> {
    let mut wanted = view.observed.fleet.instances(name, service);
    if let Some(seen) = &view.observed.rollout {
        let all = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        // A service that the new release does not have stands until all is drained.
        let ready = if seen.stack.services.contains_key(name) { ready_new(view, seen, name) } else { 0 };
        wanted.truncate(seen.record.old_wanted(all, ready) as usize);
    }
    wanted
}

/// What is wrong with the new release, whatever it answers: an end, a start that never became ready.
fn fault(view: &View<'_>, seen: &RolloutSeen, primary: Option<Member>) -> Option<String> {
    // Without a database that takes writes an instance that asks it is not ready, whatever its release.
    let has_all = seen.stack.database.is_none() || primary.is_some();
    let had_traffic = matches!(seen.record.phase, Phase::Shift { .. } | Phase::Bake);
    for (name, service) in seen.stack.services.iter().filter(|(_, service)| service.schedule.is_none()) {
        for id in new_instances(view, seen, name) {
            let child_name = ChildName::instance(&id);
            let life = view.life(&child_name);
            let health = view.observed.health.get(&id);
            // What ended in this slot before is another release's.
            if let Life::Ended { child, reason, .. } = life
                && child.since >= seen.record.began_at
            {
                let is_never =
                    health.is_some_and(|seen| seen.nonce == child.nonce && seen.health == Health::NeverReady);
                if let Some(health) = health.filter(|_| is_never) {
                    return Some(format!("{id} {}", not_ready(service, health)));
                }
                if had_traffic {
                    return Some(format!("{id} ended while it had traffic: {reason}"));
                }
                if child.quick_ends > ENDS_FORGIVEN {
                    return Some(format!("{id} ended {} times before it was ready: {reason}", child.quick_ends));
                }
            }
            if let Some(health) = health_of(view, &id) {
                match health.health {
                    Health::NeverReady => return Some(format!("{id} {}", not_ready(service, health))),
                    Health::Suspended if had_traffic && has_all => {
                        return Some(format!("{id} is not ready any more: {}", health.last));
                    }
                    Health::Starting | Health::Ready | Health::Suspended => {}
                }
            }
            if let Some(failed) = view.observed.failed.get(&StepKey::Child { name: child_name })
                && failed.since >= seen.record.began_at
                && failed.attempts > ENDS_FORGIVEN
            {
                return Some(format!("{id} cannot be started: {}", failed.error));
            }
        }
    }
    None
}

/// What the new instances wait for, if they do: all that are wanted now must be ready.
fn unready(view: &View<'_>, seen: &RolloutSeen) -> Option<String> {
    for name in seen.stack.services.keys() {
        for id in new_instances(view, seen, name) {
            if !is_ready(view, &id) {
                let last = health_of(view, &id).map_or("its start", |health| health.last.as_str());
                let last = if last.is_empty() { "its first answer" } else { last };
                return Some(format!("waits for {id}: {last}"));
            }
        }
    }
    None
}

/// Whether the work of this phase is done, or why it failed. What was known of the work of another phase was forgotten
/// with its end ([`forget_work`]): times would be wrong where the clock was set.
fn work(view: &View<'_>) -> Option<Result<(), String>> {
    if let Some(failed) = view.observed.failed.get(&StepKey::Release) {
        return Some(Err(failed.error.clone()));
    }
    view.observed.done.contains_key(&StepKey::Release).then_some(Ok(()))
}

/// Another phase has begun, or another rollout. Always say so, or its work counts as done.
pub fn forget_work(observed: &mut Observed) {
    observed.done.remove(&StepKey::Release);
    observed.failed.remove(&StepKey::Release);
}

/// What follows from a look at a rollout.
enum Next {
    Phase(Phase),
    Back(String),
    Work(Work),
    Commit,
    End(String),
    Wait(String),
}

fn decide(view: &View<'_>, seen: &RolloutSeen, primary: Option<Member>) -> Next {
    let record = &seen.record;
    let waited = view.now.saturating_since(record.since);
    if !record.is_settled() {
        if let Some(reason) = fault(view, seen, primary).or_else(|| seen.verdict.clone()) {
            return Next::Back(reason);
        }
        if record.is_paused {
            return Next::Wait("is paused: `mainstay deploy --resume` goes on, `--abort` takes it back".to_owned());
        }
    }
    match &record.phase {
        Phase::Migrate => match (work(view), primary, &seen.stack.database) {
            // A drill changes no schema, and names no point that a person may want to go back to.
            _ if record.is_rollback || record.trial.is_some() => Next::Phase(Phase::Before),
            (Some(Ok(())), ..) => Next::Phase(Phase::Before),
            (Some(Err(error)), ..) => Next::Back(format!("migrations failed: {error}")),
            // Without migrations a restore point is named all the same.
            (None, Some(primary), Some(_)) => Next::Work(Work::Migrate { primary }),
            (None, None, Some(_)) => Next::Wait("waits for a primary that takes writes".to_owned()),
            (None, _, None) => Next::Phase(Phase::Before),
        },
        Phase::Before => {
            let has_any = seen.stack.services.values().any(|service| service.before.is_some());
            match work(view) {
                _ if record.is_rollback || record.trial.is_some() || !has_any => Next::Phase(Phase::Start),
                Some(Ok(())) => Next::Phase(Phase::Start),
                Some(Err(error)) => Next::Back(error),
                None => Next::Work(Work::Before),
            }
        }
        Phase::Start => match unready(view, seen) {
            None => Next::Phase(Phase::Smoke),
            Some(why) if waited > record.rules.timeout && !is_any_unasked(view, seen) => {
                let within = mainstay_stack::units::show_duration(record.rules.timeout);
                Next::Back(format!("not all new instances were ready within {within}: {why}"))
            }
            Some(why) => Next::Wait(why),
        },
        Phase::Smoke => match work(view) {
            _ if record.rules.smoke.is_empty() => Next::Phase(Phase::Shift { step: 0 }),
            Some(Ok(())) => Next::Phase(Phase::Shift { step: 0 }),
            Some(Err(error)) => Next::Back(error),
            None => Next::Work(Work::Smoke),
        },
        Phase::Shift { step } => shift(view, seen, *step, waited),
        Phase::Bake if waited >= record.rules.bake || record.is_promoted => match record.trial {
            Some(trial) if !trial.is_kept => Next::Back(TRIAL_OVER.to_owned()),
            Some(_) | None => Next::Phase(Phase::Drain),
        },
        Phase::Bake => {
            let (done, all) = (waited.as_secs(), record.rules.bake.as_secs());
            Next::Wait(format!("is watched with all traffic, {done} of {all} s; {} requests so far", seen.requests))
        }
        Phase::Drain => drain(view, record),
        Phase::Commit => Next::Commit,
        Phase::Back { reason, .. } => back(view, seen, reason, waited),
    }
}

fn drain(view: &View<'_>, record: &Rollout) -> Next {
    let mut old = view.stack.services.keys().flat_map(|name| running_instances(view, name));
    match old.find(|id| !record.fleet.owns(id)) {
        Some(id) => Next::Wait(format!("waits for the end of {id}")),
        None => Next::Phase(Phase::Commit),
    }
}

fn back(view: &View<'_>, seen: &RolloutSeen, reason: &str, waited: Duration) -> Next {
    let record = &seen.record;
    let is_late = waited > record.rules.timeout;
    let services = seen.stack.services.keys();
    let mut new = services.flat_map(|name| running_instances(view, name)).filter(|id| record.fleet.owns(id));
    match new.next() {
        None if is_old_whole(view) || is_late => Next::End(reason.to_owned()),
        None => Next::Wait("waits for the old release's instances to be ready".to_owned()),
        Some(id) => Next::Wait(format!("waits for the end of {id}")),
    }
}

/// One more instance, or one more step of a canary.
fn shift(view: &View<'_>, seen: &RolloutSeen, step: u32, waited: Duration) -> Next {
    let record = &seen.record;
    if let Some(why) = unready(view, seen) {
        if waited > record.rules.timeout && !is_any_unasked(view, seen) {
            return Next::Back(why);
        }
        return Next::Wait(why);
    }
    let next = if step + 1 < record.steps(&seen.stack) { Phase::Shift { step: step + 1 } } else { Phase::Bake };
    match record.strategy {
        Strategy::BlueGreen => Next::Phase(Phase::Bake),
        Strategy::Rolling => {
            // What the new instance replaces is gone before the next one starts: never more than one too many.
            let surplus = view.stack.services.iter().find_map(|(name, service)| {
                let wanted = old_instances(view, name, service);
                let running = running_instances(view, name);
                running.into_iter().find(|id| !record.fleet.owns(id) && !wanted.contains(id))
            });
            match surplus {
                Some(id) => Next::Wait(format!("waits for the end of {id}")),
                None => Next::Phase(next),
            }
        }
        Strategy::Canary => {
            let has_time = waited >= record.rules.step;
            let has_requests = seen.requests >= u64::from(record.rules.requests);
            if record.is_promoted || (has_time && has_requests) {
                return Next::Phase(next);
            }
            let share = mainstay_types::Percent::from_milli(
                record.share().map_or(0, |share| u32::from(share.basis_points)) * 10,
            );
            let counted = format!("{} of {} requests", seen.requests, record.rules.requests);
            let (done, all) = (waited.as_secs(), record.rules.step.as_secs());
            Next::Wait(if has_time {
                format!(
                    "at {share}: not enough traffic to judge, {counted}; `mainstay deploy --promote` goes on without"
                )
            } else {
                format!("at {share}: {done} of {all} s, {counted}")
            })
        }
    }
}

/// Plans the next thing; returns what it waits for.
pub(crate) fn plan(draft: &mut Draft<'_>, database: Option<&Waiting>) -> Option<String> {
    let view = draft.view;
    let seen = view.observed.rollout.as_ref()?;
    let record = &seen.record;
    // Without a database that takes writes there is no primary to run migrations on.
    let primary = view.record().map(|record| record.primary).filter(|_| database.is_none());
    let step = match decide(&view, seen, primary) {
        Next::Phase(phase) => Step::WriteRollout { rollout: Box::new(record.at(phase, view.now)) },
        Next::Back(reason) => Step::WriteRollout { rollout: Box::new(record.back(reason, view.now)) },
        Next::Work(work) => Step::ReleaseWork { release: record.release, work },
        Next::Commit => Step::CommitRelease { release: record.release },
        Next::End(reason) => Step::EndRollout { release: record.release, reason },
        Next::Wait(why) => {
            draft.wake(view.now.after(Duration::from_millis(250)));
            return Some(why);
        }
    };
    let what = step.to_string();
    draft.ask(step);
    Some(what)
}
