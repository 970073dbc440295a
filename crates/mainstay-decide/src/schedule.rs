//! Services that run on a schedule: when a run is due, never two at once, none lost and none made twice.
//!
//! A run is on disk before its process is started, with the identity that it will bear. keep starts an identity once
//! and remembers its end, so that whoever comes after a crash knows whether it was started.

use std::time::Duration;

use mainstay_stack::model::{Schedule, Service};
use mainstay_stack::schedule::Every;
use mainstay_types::{BoxId, ChildName, ExitReason, Nonce, ServiceName, State, Timestamp, Waiting};
use serde::{Deserialize, Serialize};

use crate::draft::{Draft, idle_state};
use crate::observed::ChildSeen;
use crate::plan::{BoxPlan, Step};
use crate::services::drain;
use crate::view::Life;

/// A run that begins this much after its time was missed. Longer than a restart of everything takes, so that the
/// recovery of a crash is not told as one.
pub const LATE: Duration = Duration::from_secs(60);
/// Tries to start a run before it counts as failed: the pauses between them add up to 1.5 s.
const MOST_TRIES: u32 = 5;
/// A record this far ahead of the clock is of a clock that was wrong. Less is a clock that was corrected, and times
/// must not come twice.
const CLOCK_WAS_WRONG: Duration = Duration::from_secs(3600);

/// What is known of a service's schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleSeen {
    /// What is on disk.
    pub record: Option<ScheduleRecord>,
    /// The identity of the next run, drawn by the caller and never used before.
    pub next_nonce: Nonce,
    /// A person asks for a run since then.
    pub asked_at: Option<Timestamp>,
}

/// What is durable of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleRecord {
    /// The times that this record is about; others begin anew.
    pub every: Every,
    /// Every time up to this one was decided upon: run, or passed over.
    pub decided: Timestamp,
    /// The run that was begun and whose end is not on record.
    pub run: Option<Run>,
    /// The last run that ended.
    pub last: Option<RunEnd>,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The time that it is for.
    pub due: Timestamp,
    /// Its identity.
    pub nonce: Nonce,
    /// Why.
    pub cause: Cause,
}

/// Why a run was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Its time came.
    Time,
    /// Its time was missed.
    CatchUp,
    /// A person asked.
    Person,
}

/// A run and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// Which.
    pub run: Run,
    /// When its process was started.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How.
    pub reason: ExitReason,
    /// It took too long and was ended.
    pub is_timed_out: bool,
}

impl RunEnd {
    /// Whether it ended by itself and well.
    pub fn is_success(&self) -> bool {
        self.reason.is_success() && !self.is_timed_out
    }

    /// How it ended, for people.
    pub fn how(&self) -> String {
        match (self.is_timed_out, &self.reason) {
            (true, reason) => format!("it took too long and was ended ({reason})"),
            (false, ExitReason::Unknown) => "it was interrupted, nobody knows how".to_owned(),
            (false, reason) => reason.to_string(),
        }
    }
}

/// What is new in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// The schedule is new, changed, or of a clock that was wrong.
    First,
    /// A run is begun.
    Begun {
        /// Times before it at which none was.
        missed: u32,
    },
    /// A run is over.
    Ended,
    /// Times are passed over.
    PassedOver {
        /// Why.
        why: PassedOver,
        /// How many.
        times: u32,
    },
}

/// Why a time is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PassedOver {
    /// A run lasts.
    StillRunning,
    /// It is too late, and nothing is made up for.
    TooLate,
}

/// How many times of the schedule lie after `from` and not after `to`.
fn times_between(every: Every, from: Timestamp, to: Timestamp) -> u32 {
    let between = every.latest(to).saturating_since(every.latest(from));
    u32::try_from(between.as_secs() / every.period().as_secs().max(1)).unwrap_or(u32::MAX)
}

/// A moment as people read it, to the second where that matters.
pub fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    let end = if text.get(17..19) == Some("00") { 16 } else { 19 };
    format!("{} UTC", text.get(..end).unwrap_or(&text).replace('T', " "))
}

/// Plans a scheduled service and draws its box.
pub(crate) fn plan(
    draft: &mut Draft<'_>,
    name: &ServiceName,
    service: &Service,
    schedule: &Schedule,
    blocked: Option<Waiting>,
) -> BoxPlan {
    let now = draft.view.now;
    let id = BoxId::Service { name: name.clone() };
    let mut shown = BoxPlan { id, label: String::new(), state: State::Ready, waiting: vec![], reason: None };
    shown.label = format!("every {}", schedule.every);
    let Some(seen) = draft.view.observed.schedules.get(name) else {
        shown.state = State::Unknown;
        shown.waiting.push(Waiting::Observation { of: "the record of its runs".to_owned() });
        return shown;
    };
    let is_good = |record: &&ScheduleRecord| {
        record.every == schedule.every && record.decided.saturating_since(now) < CLOCK_WAS_WRONG
    };
    let Some(record) = seen.record.as_ref().filter(is_good) else {
        let (run, last) = seen.record.clone().map_or((None, None), |old| (old.run, old.last));
        let record = ScheduleRecord { every: schedule.every, decided: now, run, last };
        shown.state = State::Starting;
        shown.waiting.push(draft.ask(write(name, record, Change::First)));
        return shown;
    };
    draft.wake(schedule.every.next(now));
    if let Some(run) = &record.run {
        open(draft, name, (service, schedule), (record, run), &mut shown);
        return shown;
    }
    let is_released = service.before.is_none() || draft.view.observed.before_done.contains_key(name);
    let needs_nothing_now = is_released && !is_run_due(schedule, seen, record, now);
    match (begin(draft, name, schedule, (seen, record), blocked.as_ref()), blocked) {
        (Some(waiting), _) => begins(name, record, waiting, &mut shown),
        (None, Some(waiting)) if !needs_nothing_now => awaits(name, record, (is_released, waiting), &mut shown),
        // What comes and goes between two runs is of no concern to it.
        (None, _) => {
            let next = moment(schedule.every.next(now));
            judge_last(name, record, &format!("its next run, {next}"), &mut shown);
        }
    }
    shown
}

/// Draws a service that cannot run now. Why its last run failed is still so then, and is not told anew after the wait.
fn awaits(name: &ServiceName, record: &ScheduleRecord, (is_released, waiting): (bool, Waiting), shown: &mut BoxPlan) {
    if is_released {
        judge_last(name, record, "its next run", shown);
    }
    if shown.state != State::Degraded {
        shown.state = idle_state(Life::Never, &waiting);
    }
    shown.waiting = vec![waiting];
}

/// Whether a run would begin now, if nothing kept it.
fn is_run_due(schedule: &Schedule, seen: &ScheduleSeen, record: &ScheduleRecord, now: Timestamp) -> bool {
    let latest = schedule.every.latest(now);
    let is_passed_over = now.saturating_since(latest) >= LATE && !schedule.catch_up;
    seen.asked_at.is_some() || latest > record.decided && !is_passed_over
}

fn write(service: &ServiceName, record: ScheduleRecord, change: Change) -> Step {
    Step::WriteSchedule { service: service.clone(), record, change }
}

/// A run that is on disk: started, watched, ended.
fn open(
    draft: &mut Draft<'_>,
    name: &ServiceName,
    (service, schedule): (&Service, &Schedule),
    (record, run): (&ScheduleRecord, &Run),
    shown: &mut BoxPlan,
) {
    let child_name = ChildName::run(name);
    match draft.view.life(&child_name) {
        // One of another identity is of a record that is gone. It is waited for all the same.
        Life::Runs(child) => {
            shown.label = format!("every {}, runs now", schedule.every);
            judge_last(name, record, "the end of its run", shown);
            let over_at = child.since.after(schedule.timeout);
            if draft.view.now >= over_at {
                shown.state = State::Draining;
                shown.waiting = vec![draft.stop(&child_name, child, drain(service))];
                return;
            }
            draft.wake(over_at);
            pass_over(draft, name, record, PassedOver::StillRunning);
        }
        Life::Ended { child, .. } if child.nonce == run.nonce => {
            let ended = ended(schedule, record, run, child);
            judge_last(name, &ended, "its next run", shown);
            draft.ask(write(name, ended, Change::Ended));
        }
        Life::Ended { .. } | Life::Never => {
            let step = Step::StartRun { service: name.clone(), run: run.clone() };
            let failed = draft.view.observed.failed.get(&step.key()).filter(|failed| failed.attempts >= MOST_TRIES);
            let waiting = match failed.cloned() {
                Some(failed) => {
                    let reason = ExitReason::NotStarted { reason: failed.error };
                    let (began, at) = (failed.at, failed.at);
                    let end = RunEnd { run: run.clone(), began, ended: at, reason, is_timed_out: false };
                    draft.ask(write(name, over(record, end), Change::Ended))
                }
                None => draft.ask(step),
            };
            begins(name, record, waiting, shown);
        }
    }
}

/// Draws a service of which a run is about to begin. That is no change of its state: it comes and goes.
fn begins(name: &ServiceName, record: &ScheduleRecord, waiting: Waiting, shown: &mut BoxPlan) {
    if matches!(waiting, Waiting::Step { .. }) {
        return judge_last(name, record, "the end of its run", shown);
    }
    shown.state = idle_state(Life::Never, &waiting);
    if let Waiting::BackOff { reason, .. } = &waiting {
        shown.reason = Some(reason.clone());
    }
    shown.waiting.push(waiting);
}

/// A failed run is seen until one has ended well.
fn judge_last(name: &ServiceName, record: &ScheduleRecord, until: &str, shown: &mut BoxPlan) {
    let Some(last) = record.last.as_ref().filter(|last| !last.is_success()) else { return };
    shown.state = State::Degraded;
    shown.reason = Some(format!("its last run failed: {}; see `mainstay logs {name}`", last.how()));
    shown.waiting.push(Waiting::Dependency { on: until.to_owned() });
}

fn over(record: &ScheduleRecord, end: RunEnd) -> ScheduleRecord {
    ScheduleRecord { run: None, last: Some(end), ..record.clone() }
}

/// The record after the end of this run.
fn ended(schedule: &Schedule, record: &ScheduleRecord, run: &Run, child: &ChildSeen) -> ScheduleRecord {
    let (reason, at) = child.ended.clone().unwrap_or((ExitReason::Unknown, child.since));
    // Whatever it answers to its signal: it took too long.
    let is_timed_out = at.saturating_since(child.since) >= schedule.timeout;
    over(record, RunEnd { run: run.clone(), began: child.since, ended: at, reason, is_timed_out })
}

fn pass_over(draft: &mut Draft<'_>, name: &ServiceName, record: &ScheduleRecord, why: PassedOver) {
    let latest = record.every.latest(draft.view.now);
    if latest > record.decided {
        let times = times_between(record.every, record.decided, latest);
        let record = ScheduleRecord { decided: latest, ..record.clone() };
        draft.ask(write(name, record, Change::PassedOver { why, times }));
    }
}

/// Begins a run that is due. Returns what it waits for, when one is.
fn begin(
    draft: &mut Draft<'_>,
    name: &ServiceName,
    schedule: &Schedule,
    (seen, record): (&ScheduleSeen, &ScheduleRecord),
    blocked: Option<&Waiting>,
) -> Option<Waiting> {
    let now = draft.view.now;
    let latest = schedule.every.latest(now);
    let is_late = now.saturating_since(latest) >= LATE;
    let is_due = latest > record.decided;
    if is_due && is_late && !schedule.catch_up {
        pass_over(draft, name, record, PassedOver::TooLate);
        return None;
    }
    // A child of an unknown identity (its record is gone) is waited for.
    let is_free = blocked.is_none() && draft.view.life(&ChildName::run(name)).runs().is_none();
    if !is_free || !is_due && seen.asked_at.is_none() {
        return None;
    }
    let run = |due, cause| Run { due, nonce: seen.next_nonce.clone(), cause };
    let (run, decided, missed) = match seen.asked_at {
        Some(asked) => (run(asked, Cause::Person), record.decided, 0),
        None => {
            let missed = times_between(schedule.every, record.decided, latest).saturating_sub(1);
            let cause = if is_late { Cause::CatchUp } else { Cause::Time };
            (run(latest, cause), latest, missed)
        }
    };
    let record = ScheduleRecord { decided, run: Some(run), ..record.clone() };
    Some(draft.ask(write(name, record, Change::Begun { missed })))
}

/// While all is stopped: notes the ends of runs. Returns whether one is being noted.
pub(crate) fn close_ended(draft: &mut Draft<'_>) -> bool {
    let view = draft.view;
    let mut is_noting = false;
    for (name, service) in &view.stack.services {
        let Some(schedule) = &service.schedule else { continue };
        let record = view.observed.schedules.get(name).and_then(|seen| seen.record.as_ref());
        let Some((record, run)) = record.and_then(|record| Some((record, record.run.as_ref()?))) else { continue };
        if let Life::Ended { child, .. } = view.life(&ChildName::run(name))
            && child.nonce == run.nonce
        {
            let waiting = draft.ask(write(name, ended(schedule, record, run, child), Change::Ended));
            // A disk that takes nothing must not hold up the end; the next `up` notes it.
            is_noting |= matches!(waiting, Waiting::Step { .. });
        }
    }
    is_noting
}
