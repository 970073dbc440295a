//! Schedules of the simulated world: what is on disk of them, what was really started, and whether any time was lost
//! or had two runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay_decide::schedule::{Cause, Change, Run, ScheduleRecord, ScheduleSeen};
use mainstay_stack::Stack;
use mainstay_types::{ChildName, ExitReason, Nonce, ServiceName, Timestamp};

use crate::checks::Kind;
use crate::marks::Mark;
use crate::world::{World, after};

/// What is durable of all schedules, and what happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedules {
    records: BTreeMap<ServiceName, ScheduleRecord>,
    /// Identities that keep knows, with the time of each.
    started: BTreeMap<Nonce, (ServiceName, Timestamp)>,
    /// Times that had a run, or were passed over and said so.
    told: BTreeMap<ServiceName, BTreeSet<Timestamp>>,
    /// Where each schedule began.
    first: BTreeMap<ServiceName, Timestamp>,
}

impl World {
    /// What a control plane knows of a schedule when it begins.
    pub(crate) fn schedule_seen(&mut self, service: &ServiceName) -> ScheduleSeen {
        let record = self.schedules.records.get(service).cloned();
        ScheduleSeen { record, next_nonce: self.draw_nonce(), asked_at: None }
    }

    /// The record is on disk. Never fails by itself: the world says no for it.
    pub(crate) fn write_schedule(
        &mut self,
        service: &ServiceName,
        record: &ScheduleRecord,
        change: Change,
    ) -> Result<(), String> {
        let before = self.schedules.records.insert(service.clone(), record.clone());
        let told = self.schedules.told.entry(service.clone()).or_default();
        match (change, &record.run) {
            (Change::First, _) => {
                let is_again = self.schedules.first.insert(service.clone(), record.decided).is_some();
                if is_again {
                    self.broke(Kind::Schedule, format!("{service} begins anew, which nobody asked for"));
                }
            }
            (Change::Begun { missed }, Some(run)) if run.cause != Cause::Person => {
                // Those that it stands for are counted by the planner, and told.
                let earliest = run.due.as_millis() - i64::from(missed) * 1_000;
                told.extend((0..=i64::from(missed)).map(|n| Timestamp::from_millis(earliest + n * 1_000)));
            }
            (Change::PassedOver { times, .. }, _) => {
                let latest = record.decided.as_millis();
                told.extend((0..i64::from(times)).map(|n| Timestamp::from_millis(latest - n * 1_000)));
                self.mark(Mark::RunSkipped);
            }
            (Change::Ended, _) => {
                let last = record.last.as_ref();
                if last.is_some_and(|end| end.is_success()) {
                    self.mark(Mark::RunEnded);
                }
                if last.is_some_and(|end| end.is_timed_out) {
                    self.mark(Mark::RunTimedOut);
                }
            }
            (Change::Begun { .. }, _) => {}
        }
        let open = before.and_then(|before| before.run);
        if matches!(change, Change::Begun { .. }) && open.is_some() {
            self.broke(Kind::Schedule, format!("a run of {service} is begun while {open:?} is open"));
        }
        Ok(())
    }

    /// keep starts a run: an identity once. **Errors**: another run is there.
    pub(crate) fn start_run(&mut self, service: &ServiceName, run: &Run) -> Result<(), String> {
        if self.schedules.started.contains_key(&run.nonce) {
            return Ok(());
        }
        let is_on_disk =
            self.schedules.records.get(service).and_then(|record| record.run.as_ref()).is_some_and(|open| open == run);
        if !is_on_disk {
            self.broke(Kind::Schedule, format!("{run:?} of {service} is started and not on disk"));
        }
        if let Some((_, due)) = self.schedules.started.values().find(|(of, due)| of == service && *due == run.due) {
            let text = format!("{service} was run for {due} already");
            self.broke(Kind::Schedule, text);
        }
        let name = ChildName::run(service);
        self.spawn(&name, 0)?;
        self.schedules.started.insert(run.nonce.clone(), (service.clone(), run.due));
        let takes_ms =
            if self.random.chance(20) { self.random.within(1_000, 2_300) } else { self.random.within(5, 700) };
        let is_hanging = self.random.chance(10);
        let code = i32::from(self.random.chance(5));
        let ends_at = after(self.now, takes_ms);
        if let Some(child) = self.children.get_mut(&name) {
            child.seen.nonce = run.nonce.clone();
            child.ends_at = (!is_hanging).then_some((ends_at, ExitReason::Code { code }));
        }
        Ok(())
    }

    /// No time between the beginning and now is missing, but for the last ones.
    pub(crate) fn check_schedules(&mut self, stack: &Stack) {
        for (name, service) in &stack.services {
            let (Some(schedule), Some(first)) = (&service.schedule, self.schedules.first.get(name).copied()) else {
                continue;
            };
            let told = self.schedules.told.get(name).cloned().unwrap_or_default();
            let until = Timestamp::from_millis(self.now.as_millis() - 2_000);
            let mut time = schedule.every.next(first);
            while time < until {
                if !told.contains(&time) {
                    self.broke(Kind::Schedule, format!("nobody ran {name} at {time}, and nobody said so"));
                    return;
                }
                time = time.after(Duration::from_secs(1));
            }
        }
    }
}
