//! The rollout under way: how it is taken up, what the edge says of it, what a person wants of it.

use std::io::Write as _;
use std::sync::Arc;

use mainstay_api::{RolloutStatus, RolloutWish};
use mainstay_decide::evidence::{Evidence, Strength, Tally, Window};
use mainstay_decide::plan::{Plan, StepKey};
use mainstay_decide::rollout::{self, Phase, Rollout, RolloutSeen};
use mainstay_edge::protocol::{EndpointReport, LATENCY_BOUNDS_MS};
use mainstay_types::{ChildName, Seen, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Core, End};
use crate::effects::Effects;
use crate::message::{ReleaseAsked, ReleaseOutcome};
use crate::releases;
use crate::settings::Settings;
use crate::store::NewEvent;
use crate::traffic::instance_of;

/// A release that is ready to be rolled out.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) record: Rollout,
    pub(crate) settings: Arc<Settings>,
}

/// A line of `evidence.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    at: Timestamp,
    phase: String,
    share: Option<u16>,
    window: Window,
    strength: Strength,
    evidence: Evidence,
}

/// The rollout that an earlier control plane left under way. One whose release cannot be read any more is taken back.
pub(crate) fn take_up(effects: &Effects, settled: releases::Settled) -> Option<RolloutSeen> {
    if let Some(damage) = settled.damage {
        let event = NewEvent::error(crate::clock::now(), "ReleaseDamaged", damage);
        effects.journal.emit(event.about("deploy"));
    }
    let record = settled.rollout?;
    let paths = effects.paths();
    let made = || {
        let release = releases::load(paths, record.release)?;
        let text = releases::stack_text(paths, record.release)?;
        let launch = releases::launch_of(paths, &release, &effects.settings.launch, &record);
        Settings::of(paths, launch, &text).map(|(settings, _)| Arc::new(settings)).map_err(std::io::Error::other)
    };
    match made() {
        Ok(settings) => {
            let stack = Box::new(settings.stack.clone());
            effects.set_next(Some(settings));
            let seen = RolloutSeen { record, stack, requests: 0, verdict: None };
            let verdict = known(effects, Some(&seen)).verdict();
            Some(RolloutSeen { verdict, ..seen })
        }
        Err(error) => {
            let reason = format!("v{} cannot be read any more: {error}", record.release);
            effects.journal.emit(NewEvent::error(crate::clock::now(), "ReleaseLost", reason.clone()));
            let stack = Box::new(effects.settings.stack.clone());
            let record = record.back(reason, crate::clock::now());
            Some(RolloutSeen { record, stack, requests: 0, verdict: None })
        }
    }
}

/// What was seen of a release before this control plane began.
pub(crate) fn known(effects: &Effects, rollout: Option<&RolloutSeen>) -> Evidence {
    let Some(seen) = rollout else { return Evidence::default() };
    let text = std::fs::read_to_string(releases::evidence_file(effects.paths(), seen.record.release));
    // The last line may be half a line.
    let last = text.ok().and_then(|text| text.lines().rev().find_map(|line| serde_json::from_str::<Line>(line).ok()));
    last.map(|line| line.evidence).unwrap_or_default()
}

/// Whether a drill's release has stood its watch: that it is taken back is no failure.
fn is_over(record: &Rollout, reason: &str) -> bool {
    record.trial.is_some() && reason == rollout::TRIAL_OVER
}

impl Core {
    pub(super) fn take_release_asked(&mut self, asked: ReleaseAsked, at: Timestamp) -> Result<RolloutStatus, String> {
        match asked {
            ReleaseAsked::Rollout(prepared) => self.take_deploy(*prepared, at),
            ReleaseAsked::Wish(wish) => self.take_wish(wish, at),
        }
    }

    pub(super) fn take_release(&mut self, outcome: ReleaseOutcome, at: Timestamp) {
        match outcome {
            ReleaseOutcome::Written(record) => self.take_rollout(*record, at),
            ReleaseOutcome::Done(said) => self.journal.emit(NewEvent::info(at, "ReleaseWork", said).about("deploy")),
            ReleaseOutcome::Ended => self.end_rollout(at),
            ReleaseOutcome::Committed => {
                let release = self.observed.rollout.as_ref().map_or(0, |seen| seen.record.release);
                let text = format!("v{release} is what this stack is");
                self.journal.emit(NewEvent::info(at, "DeployDone", text).with("release", release).about("deploy"));
                self.end = Some(End::Again);
            }
        }
    }

    /// Takes a rollout on, if things are as they must be for it.
    fn take_deploy(&mut self, prepared: Prepared, at: Timestamp) -> Result<RolloutStatus, String> {
        if let Some(seen) = &self.observed.rollout {
            return Err(format!("v{} is on its way: it is at {}", seen.record.release, seen.record.phase.name()));
        }
        if self.observed.is_stopping {
            return Err("the stack is being brought down".to_owned());
        }
        if !self.picture.was_up() {
            return Err("not everything is up yet".to_owned());
        }
        if self.observed.wish.is_some() {
            return Err("the cluster is just being changed (switchover, failover, restore or restart)".to_owned());
        }
        let is_writable = self.observed.router.value().is_none_or(|router| router.write.is_some());
        if self.stack.database.is_some() && !is_writable {
            return Err("no primary takes writes: a failover is under way".to_owned());
        }
        if let Some(id) = self.leftover() {
            return Err(format!("{id} of the release before still ends"));
        }
        let Prepared { record, settings } = prepared;
        let stack = Box::new(settings.stack.clone());
        self.effects.set_next(Some(settings));
        self.evidence = Evidence::default();
        rollout::forget_work(&mut self.observed);
        // How another release's instances ended in these slots says nothing of this one's.
        for id in stack.services.iter().flat_map(|(name, service)| record.fleet.most(name, service)) {
            self.quick_ends.remove(&ChildName::instance(&id));
        }
        self.show_children(at);
        let verb = if record.is_rollback { "goes back to" } else { "rolls out" };
        let why = if record.trial.is_some() { ", for a drill" } else { "" };
        let text = format!("{verb} v{} from v{}, {}{why}", record.release, record.from, record.strategy);
        let kind = if record.is_rollback { "RollbackBegun" } else { "DeployBegun" };
        self.journal.emit(NewEvent::info(at, kind, text).with("release", record.release).with("from", record.from));
        let seen = RolloutSeen { record, stack, requests: 0, verdict: None };
        let status = self.rollout_status(&seen, "begins");
        self.observed.rollout = Some(seen);
        Ok(status)
    }

    /// An instance that still runs in a slot that is not this release's.
    fn leftover(&self) -> Option<String> {
        let Seen::Fact { value: children, .. } = &self.observed.children else { return None };
        let ours: Vec<String> = self.stack.services.keys().map(|name| format!("{name}-")).collect();
        let running = children.iter().filter(|(_, child)| child.ended.is_none());
        running.map(|(name, _)| name.as_str()).find_map(|name| {
            let is_instance = ours.iter().any(|prefix| name.starts_with(prefix));
            let id = instance_of(name).filter(|_| is_instance)?;
            (self.stack.services.contains_key(&id.service) && !self.observed.fleet.owns(&id)).then(|| id.to_string())
        })
    }

    fn take_wish(&mut self, wish: RolloutWish, at: Timestamp) -> Result<RolloutStatus, String> {
        let seen = self.observed.rollout.as_mut().ok_or("no release is on its way")?;
        if seen.record.is_settled() {
            return Err(format!(
                "v{} is at {}: that is not changed any more",
                seen.record.release,
                seen.record.phase.name()
            ));
        }
        if self.observed.running.contains_key(&StepKey::Rollout) {
            return Err(format!("v{} is just going on to its next phase: ask again", seen.record.release));
        }
        let release = seen.record.release;
        let text = match wish {
            RolloutWish::Promote => {
                seen.record.is_promoted = true;
                "goes on without waiting"
            }
            RolloutWish::Pause => {
                seen.record.is_paused = true;
                "stays where it is"
            }
            RolloutWish::Resume => {
                seen.record.is_paused = false;
                "goes on"
            }
            RolloutWish::Abort => {
                seen.verdict = Some("a person took it back".to_owned());
                "is taken back"
            }
        };
        let record = seen.record.clone();
        let paths = self.effects.paths().clone();
        // The next phase is written with it; until then it is a wish that a crash may lose.
        if let Err(error) = releases::write_rollout(&paths, &record) {
            return Err(format!("cannot write the record of the rollout: {error}"));
        }
        self.journal.emit(NewEvent::info(at, "RolloutAsked", format!("v{release} {text}")).with("release", release));
        let seen = self.observed.rollout.as_ref().ok_or("no release is on its way")?;
        Ok(self.rollout_status(seen, text))
    }

    /// The record on disk has changed.
    fn take_rollout(&mut self, record: Rollout, at: Timestamp) {
        rollout::forget_work(&mut self.observed);
        let Some(seen) = &mut self.observed.rollout else { return };
        let event = match &record.phase {
            // Nobody has to act.
            Phase::Back { reason, .. } if is_over(&record, reason) => {
                NewEvent::info(at, "DeployTakenBack", format!("v{} is taken back: {reason}", record.release))
            }
            Phase::Back { reason, .. } => {
                NewEvent::error(at, "DeployTakenBack", format!("v{} is taken back: {reason}", record.release))
            }
            phase => {
                let share =
                    record.share().map(|share| mainstay_types::Percent::from_milli(u32::from(share.basis_points) * 10));
                let share = share.map(|share| format!(", {share} of clients")).unwrap_or_default();
                NewEvent::info(at, "DeployPhase", format!("v{} is at {}{share}", record.release, phase.name()))
            }
        };
        self.journal.emit(event.with("release", record.release).about("deploy"));
        // A wish that came while it was written stays.
        let is_paused = seen.record.is_paused;
        seen.record = Rollout { is_paused, ..record };
        seen.requests = 0;
    }

    fn end_rollout(&mut self, at: Timestamp) {
        let Some(seen) = self.observed.rollout.take() else { return };
        self.effects.set_next(None);
        let Rollout { release, from, .. } = seen.record;
        let text = format!("v{release} was taken back; v{from} serves");
        let event = match &seen.record.phase {
            Phase::Back { reason, .. } if is_over(&seen.record, reason) => NewEvent::info(at, "TrialEnded", text),
            _ => NewEvent::warn(at, "DeployFailed", text),
        };
        self.journal.emit(event.with("release", release).about("deploy"));
    }

    /// What the edge saw in the last second.
    pub(super) fn weigh<'a>(&mut self, reports: impl Iterator<Item = (&'a String, &'a EndpointReport)>, at: Timestamp) {
        let Some(seen) = &mut self.observed.rollout else { return };
        if seen.record.is_settled() {
            return;
        }
        let slow_ms = seen.record.rules.slow.as_secs_f64() * 1000.0;
        let mut window = Window::default();
        for (endpoint, report) in reports {
            let Some(id) = instance_of(endpoint) else { continue };
            let counts = &report.counts;
            let slow = counts.latency.iter().enumerate().filter(|(bucket, _)| {
                // The bucket's lower bound: everything in it took at least so long.
                let least = bucket.checked_sub(1).and_then(|before| LATENCY_BOUNDS_MS.get(before)).copied();
                least.is_some_and(|least| least >= slow_ms)
            });
            let tally =
                Tally { requests: counts.requests, errors: counts.errors, slow: slow.map(|(_, count)| count).sum() };
            let side = if seen.record.fleet.owns(&id) { &mut window.new } else { &mut window.old };
            *side = side.and(tally);
        }
        // While the database has no primary, errors say nothing of a release.
        let is_writable = self.observed.router.value().is_none_or(|router| router.write.is_some());
        if window == Window::default() || !is_writable {
            return;
        }
        self.evidence = self.evidence.and(window);
        seen.requests += window.new.requests;
        if seen.verdict.is_none() {
            seen.verdict = self.evidence.verdict();
        }
        let line = Line {
            at,
            phase: seen.record.phase.name().to_owned(),
            share: seen.record.share().map(|share| share.basis_points),
            window,
            strength: self.evidence.strength(),
            evidence: self.evidence,
        };
        let file = releases::evidence_file(self.effects.paths(), seen.record.release);
        tokio::task::spawn_blocking(move || {
            let Ok(text) = serde_json::to_string(&line) else { return };
            // Evidence that cannot be kept is still weighed.
            let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
            file.and_then(|mut file| writeln!(file, "{text}")).ok();
        });
    }

    /// Shows how the rollout stands.
    pub(super) fn publish_rollout(&self, plan: &Plan) {
        self.published.fleet.send_if_modified(|current| {
            let differs = *current != self.observed.fleet;
            current.clone_from(&self.observed.fleet);
            differs
        });
        let status =
            self.observed.rollout.as_ref().map(|seen| {
                self.rollout_status(seen, plan.rollout.as_deref().unwrap_or("keep's children are looked for"))
            });
        self.published.rollout.send_if_modified(|current| {
            let differs = *current != status;
            *current = status;
            differs
        });
    }

    fn rollout_status(&self, seen: &RolloutSeen, waiting: &str) -> RolloutStatus {
        let record = &seen.record;
        let counted = |tally: Tally| [tally.requests, tally.errors, tally.slow];
        RolloutStatus {
            release: record.release,
            from: record.from,
            is_rollback: record.is_rollback,
            strategy: record.strategy.to_string(),
            began_at: record.began_at,
            phase: record.phase.name().to_owned(),
            since: record.since,
            share: record.share().map(|share| share.basis_points),
            waiting: waiting.to_owned(),
            reason: match &record.phase {
                Phase::Back { reason, .. } => Some(reason.clone()),
                _ => None,
            },
            is_paused: record.is_paused,
            answered: counted(self.evidence.seen.new),
            old_answered: counted(self.evidence.seen.old),
        }
    }
}
