//! A plan in the making. Every step comes in through [`Draft::ask`], so that no key is taken twice and what
//! failed waits out its pause, whoever asks.

use std::collections::BTreeSet;

use mainstay_types::{BoxId, ChildName, State, Timestamp, Waiting};

use crate::observed::ChildSeen;
use crate::plan::{BoxPlan, Plan, Step, StepKey};
use crate::restart;
use crate::view::{Life, View};

/// A plan in the making.
pub(crate) struct Draft<'a> {
    pub(crate) view: View<'a>,
    pub(crate) plan: Plan,
    taken: BTreeSet<StepKey>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(view: View<'a>) -> Self {
        Self { view, plan: Plan::default(), taken: BTreeSet::new() }
    }

    /// Plans the step unless its key is taken or it waits out its pause. Returns what its box waits for then.
    pub(crate) fn ask(&mut self, step: Step) -> Waiting {
        self.ask_with(step, false)
    }

    /// The same for a step that stands between a failure and its repair.
    pub(crate) fn ask_urgent(&mut self, step: Step) -> Waiting {
        self.ask_with(step, true)
    }

    fn ask_with(&mut self, step: Step, is_urgent: bool) -> Waiting {
        let key = step.key();
        if let Some(running) = self.view.observed.running.get(&key) {
            return Waiting::Step { what: running.what.clone(), since: running.since };
        }
        if let Some(failed) = self.view.observed.failed.get(&key)
            && let Some(until) = restart::earliest_step(failed, is_urgent, self.view.now)
        {
            self.wake(until);
            return Waiting::BackOff { until, reason: failed.error.clone() };
        }
        let waiting = Waiting::Step { what: step.to_string(), since: self.view.now };
        if self.taken.insert(key) {
            self.plan.steps.push(step);
        }
        waiting
    }

    /// Starts a child by the restart policy.
    pub(crate) fn start(&mut self, life: Life<'_>, step: Step) -> Waiting {
        if let Life::Ended { child, reason, .. } = life
            && let Some(until) = restart::earliest(child, self.view.now)
        {
            self.wake(until);
            return Waiting::BackOff { until, reason: reason.to_string() };
        }
        self.ask(step)
    }

    /// Stops this start of a child.
    pub(crate) fn stop(&mut self, name: &ChildName, child: &ChildSeen, how: Stop) -> Waiting {
        let step = Step::Stop { name: name.clone(), nonce: child.nonce.clone(), signal: how.signal, grace: how.grace };
        self.ask(step)
    }

    /// Plan again then at the latest.
    pub(crate) fn wake(&mut self, at: Timestamp) {
        if at > self.view.now {
            self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |known| known.min(at)));
        }
    }

    pub(crate) fn show(&mut self, shown: BoxPlan) {
        self.plan.boxes.push(shown);
    }
}

/// How a child is asked to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop {
    pub(crate) signal: i32,
    pub(crate) grace: std::time::Duration,
}

/// The box of something that is not there for a reason that only a person can change.
pub(crate) fn not_configured(id: BoxId, label: &str, reason: String) -> BoxPlan {
    BoxPlan { id, label: label.to_owned(), state: State::NotConfigured, waiting: vec![], reason: Some(reason) }
}

/// The state of a child that should run and does not, by what it waits for.
pub(crate) fn idle_state(life: Life<'_>, waiting: &Waiting) -> State {
    match (life, waiting) {
        (_, Waiting::Step { .. }) => State::Starting,
        (Life::Ended { child, .. }, _) if restart::is_crash_loop(child) => State::CrashLoop,
        (_, Waiting::BackOff { .. }) => State::BackingOff,
        (_, Waiting::Operator { .. }) => State::Failed,
        (_, Waiting::Observation { .. }) => State::Unknown,
        (
            _,
            Waiting::Dependency { .. } | Waiting::Readiness { .. } | Waiting::Silence { .. } | Waiting::Drain { .. },
        ) => State::Waiting,
    }
}

/// Why it ended, for its box.
pub(crate) fn end_reason(life: Life<'_>) -> Option<String> {
    match life {
        Life::Ended { child, reason, .. } if restart::is_crash_loop(child) => {
            Some(format!("ended {} times in a row, last by {reason}; see `mainstay logs`", child.quick_ends))
        }
        Life::Ended { reason, .. } => Some(format!("ended: {reason}")),
        Life::Never | Life::Runs(_) => None,
    }
}
