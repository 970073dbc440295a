//! Services that run on a schedule: their records in `state.db`, what is told of them. When a run is due is decided in
//! `mainstay_decide::schedule`.

use std::collections::BTreeMap;

use mainstay_api::{LastRun, Progress, RunUnderWay, ScheduleStatus};
use mainstay_decide::observed::Observed;
use mainstay_decide::plan::Step;
use mainstay_decide::schedule::{Cause, Change, PassedOver, Run, RunEnd, ScheduleRecord, ScheduleSeen, moment};
use mainstay_stack::Stack;
use mainstay_types::{ChildName, Pid, ServiceName, State, Timestamp};

use crate::effects::Effects;
use crate::status::Scene;
use crate::store::{NewEvent, Store};

/// The record's name in `state.db`.
pub(crate) fn fact(service: &ServiceName) -> String {
    format!("schedule:{service}")
}

/// What is on disk of every schedule of the stack.
pub(crate) fn load(store: &Store, stack: &Stack) -> anyhow::Result<BTreeMap<ServiceName, ScheduleSeen>> {
    let mut schedules = BTreeMap::new();
    for (name, _) in stack.services.iter().filter(|(_, service)| service.schedule.is_some()) {
        // A record that cannot be read is no reason to run nothing: the schedule begins anew.
        let record = store.fact(&fact(name))?.and_then(|text| serde_json::from_str(&text).ok());
        let next_nonce = Effects::nonce().map_err(|reason| anyhow::anyhow!(reason))?;
        schedules.insert(name.clone(), ScheduleSeen { record, next_nonce, asked_at: None });
    }
    Ok(schedules)
}

/// A record is on disk.
pub(crate) fn written(observed: &mut Observed, step: &Step) {
    let Step::WriteSchedule { service, record, change } = step else { return };
    let Some(seen) = observed.schedules.get_mut(service) else { return };
    if matches!(change, Change::Begun { .. }) {
        if record.run.as_ref().is_some_and(|run| run.cause == Cause::Person) {
            seen.asked_at = None;
        }
        // Without random bytes the old identity stays, and keep refuses to start it a second time.
        if let Ok(nonce) = Effects::nonce() {
            seen.next_nonce = nonce;
        }
    }
    seen.record = Some(record.clone());
}

/// A person asks for a run now. Answers the time that it is for.
pub(crate) fn ask(observed: &mut Observed, service: &ServiceName, at: Timestamp) -> Result<Timestamp, String> {
    if observed.is_stopping {
        return Err("the stack is going down".to_owned());
    }
    let seen = observed.schedules.get_mut(service).ok_or_else(|| format!("{service} runs on no schedule"))?;
    if let Some(run) = seen.record.as_ref().and_then(|record| record.run.as_ref()) {
        return Err(format!("a run of {service} is under way, for {}: never two at once", moment(run.due)));
    }
    Ok(*seen.asked_at.get_or_insert(at))
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Time => "time",
        Cause::CatchUp => "catch-up",
        Cause::Person => "person",
    }
}

/// What `status` says of schedules.
pub(crate) fn status(scene: &Scene<'_>) -> BTreeMap<ServiceName, ScheduleStatus> {
    let mut all = BTreeMap::new();
    for (name, service) in &scene.stack.services {
        let Some(schedule) = &service.schedule else { continue };
        let record = scene.observed.schedules.get(name).and_then(|seen| seen.record.as_ref());
        let child = scene.observed.children.value().and_then(|children| children.get(&ChildName::run(name)));
        let running = record.and_then(|record| record.run.as_ref()).map(|run| RunUnderWay {
            due: run.due,
            cause: cause(run.cause).to_owned(),
            since: child.filter(|child| child.nonce == run.nonce).map(|child| child.since),
        });
        let last = record.and_then(|record| record.last.as_ref()).map(|end| LastRun {
            due: end.run.due,
            cause: cause(end.run.cause).to_owned(),
            began: end.began,
            ended: end.ended,
            exit: end.reason.clone(),
            is_timed_out: end.is_timed_out,
            is_success: end.is_success(),
        });
        let next = schedule.every.next(scene.now);
        all.insert(name.clone(), ScheduleStatus { every: schedule.every.to_string(), next, running, last });
    }
    all
}

/// A schedule holds up no `up`: that its last run failed is for `status` to say.
pub(crate) fn progress(line: Progress) -> Progress {
    let state = if line.state == State::Degraded { State::Ready } else { line.state };
    Progress { state, ..line }
}

/// A run has begun.
pub(crate) fn began(service: &ServiceName, run: &Run, pid: Pid, at: Timestamp) -> NewEvent {
    let why = match run.cause {
        Cause::Time => format!("the one of {}", moment(run.due)),
        Cause::CatchUp => format!("the one of {}, which was missed", moment(run.due)),
        Cause::Person => "a person asked for it".to_owned(),
    };
    let text = format!("a run of {service} begins as pid {pid}: {why}");
    NewEvent::info(at, "RunBegan", text).about(service).with("pid", pid.0).with("due", run.due.to_string())
}

/// A record was written.
pub(crate) fn event(service: &ServiceName, record: &ScheduleRecord, change: Change, at: Timestamp) -> Option<NewEvent> {
    let event = match change {
        Change::First => {
            let text = format!("{service} runs every {}, next at {}", record.every, moment(record.every.next(at)));
            NewEvent::info(at, "ScheduleSet", text)
        }
        Change::Begun { missed: 0 } => return None,
        Change::Begun { missed } => {
            let text = format!("{missed} earlier times of {service} had no run; this one stands for all");
            // The run is for the time after them.
            let due = record.run.as_ref().map_or(record.decided, |run| run.due);
            let latest = record.every.latest(Timestamp::from_micros(due.as_micros() - 1));
            NewEvent::warn(at, "RunMissed", text).with("times", missed).with("latest", latest.to_string())
        }
        Change::PassedOver { why: PassedOver::StillRunning, times } => {
            let text = format!("{service} was not run at {}: a run lasts", moment(record.decided));
            let event = NewEvent::warn(at, "RunSkipped", text);
            event.with("times", times).with("latest", record.decided.to_string())
        }
        Change::PassedOver { why: PassedOver::TooLate, times } => {
            let text =
                format!("{service} was not run at {}: it is too late, and catch_up is off", moment(record.decided));
            let event = NewEvent::warn(at, "RunMissed", text);
            event.with("times", times).with("latest", record.decided.to_string())
        }
        Change::Ended => return record.last.as_ref().map(|end| ended(service, end, at)),
    };
    Some(event.about(service))
}

fn ended(service: &ServiceName, end: &RunEnd, at: Timestamp) -> NewEvent {
    let took = u64::try_from(end.ended.saturating_since(end.began).as_millis()).unwrap_or(u64::MAX);
    let event = if end.is_success() {
        NewEvent::info(at, "RunEnded", format!("the run of {service} for {} ended well", moment(end.run.due)))
    } else {
        let text = format!("the run of {service} for {} failed: {}", moment(end.run.due), end.how());
        NewEvent::error(at, "RunFailed", text)
    };
    event.about(service).with("due", end.run.due.to_string()).with("exit", end.reason.to_string()).with("took_ms", took)
}
