//! Whether an instance takes requests: a machine over probe results.
//!
//! The control plane asks and feeds the answers; the machine never asks. A start probe admits, a refused
//! connection ejects at once; the stack file's interval and thresholds govern the steady state.

use std::time::Duration;

use mainstay_stack::model::{self, Probe};
use mainstay_types::{Nonce, Timestamp};

use crate::observed::{Health, HealthSeen};
use crate::restart;

/// Pause between looks at an instance that is starting or refuses connections: a tenth of what a person
/// notices; a look costs a fraction of a millisecond.
pub const START_CADENCE: Duration = Duration::from_millis(100);

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// It answered well.
    Good {
        /// For people: "GET /healthz: 200".
        text: String,
    },
    /// It answered badly, or not in time.
    Bad {
        /// For people: "GET /healthz: 503".
        text: String,
    },
    /// It answers, and says that the question is wrong: no such path, not allowed. Time does not mend that.
    Wrong {
        /// For people: "GET /healthz: 404".
        text: String,
    },
    /// Nobody listens on its port.
    Refused {
        /// For people.
        text: String,
    },
}

/// A change that is worth an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Takes requests from now on.
    Admitted,
    /// Takes none until it answers well again.
    Suspended,
    /// Was never ready in the time it had: to be started again.
    NeverReady,
}

/// The machine of one start of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthMachine {
    nonce: Nonce,
    started: Timestamp,
    health: Health,
    since: Timestamp,
    last: String,
    asked_at: Option<Timestamp>,
    good_in_row: u32,
    bad_in_row: u32,
    is_refusing: bool,
    wrong_since: Option<Timestamp>,
    settles_after: Duration,
}

impl HealthMachine {
    /// For the start with this nonce, begun at `since`, after so many quick ends in a row.
    pub fn new(nonce: Nonce, since: Timestamp, quick_ends: u32) -> Self {
        Self {
            nonce,
            started: since,
            health: Health::Starting,
            since,
            last: String::new(),
            asked_at: None,
            good_in_row: 0,
            bad_in_row: 0,
            is_refusing: false,
            wrong_since: None,
            settles_after: restart::settles_after(quick_ends),
        }
    }

    /// The start it is about.
    pub fn nonce(&self) -> &Nonce {
        &self.nonce
    }

    /// What the planner sees. An empty `last` says that no answer has come yet.
    pub fn seen(&self) -> HealthSeen {
        let (nonce, last) = (self.nonce.clone(), self.last.clone());
        HealthSeen { nonce, health: self.health, since: self.since, last, wrong_since: self.wrong_since }
    }

    /// When to ask next; the past means now.
    pub fn next_probe_at(&self, policy: &model::Health) -> Timestamp {
        let Some(asked_at) = self.asked_at else { return self.started };
        let pause = match self.health {
            Health::Starting | Health::NeverReady => START_CADENCE,
            Health::Suspended if self.is_refusing => START_CADENCE,
            Health::Ready | Health::Suspended => policy.interval,
        };
        asked_at.after(pause)
    }

    /// Time passed without a result.
    pub fn tick(&mut self, policy: &model::Health, now: Timestamp) -> Option<Transition> {
        // The clock was set back: the next look must not wait until it has caught up.
        if self.asked_at.is_some_and(|asked| asked > now) {
            self.asked_at = Some(now);
        }
        if self.started > now {
            self.started = now;
        }
        // Who is asked nothing cannot fail to answer.
        let is_late = policy.probe != Probe::Process && now.saturating_since(self.started) >= policy.start_within;
        // Before the first answer nothing is known: a control plane that has just begun may adopt an old start.
        if self.health == Health::Starting && is_late && self.asked_at.is_some() {
            return self.become_(Health::NeverReady, now, Transition::NeverReady);
        }
        None
    }

    /// A result came.
    pub fn step(&mut self, policy: &model::Health, now: Timestamp, result: &ProbeResult) -> Option<Transition> {
        self.asked_at = Some(now);
        let (ProbeResult::Good { text }
        | ProbeResult::Bad { text }
        | ProbeResult::Wrong { text }
        | ProbeResult::Refused { text }) = result;
        self.last.clone_from(text);
        let is_wrong = matches!(result, ProbeResult::Wrong { .. });
        self.wrong_since = is_wrong.then(|| self.wrong_since.unwrap_or(now).min(now));
        match result {
            ProbeResult::Good { .. } => {
                self.bad_in_row = 0;
                self.good_in_row = self.good_in_row.saturating_add(1);
                self.good(policy, now)
            }
            ProbeResult::Bad { .. } | ProbeResult::Wrong { .. } => {
                self.count_bad(false);
                let is_over = self.bad_in_row >= policy.down_after;
                self.bad(is_over, policy, now)
            }
            ProbeResult::Refused { .. } => {
                self.count_bad(true);
                self.bad(true, policy, now)
            }
        }
    }

    fn good(&mut self, policy: &model::Health, now: Timestamp) -> Option<Transition> {
        // A process that merely runs may be about to end: it has to stay up for a while.
        let is_settled = policy.probe != Probe::Process || now.saturating_since(self.started) >= self.settles_after;
        match self.health {
            Health::Starting if !is_settled => None,
            Health::Starting => self.become_(Health::Ready, now, Transition::Admitted),
            Health::Suspended if self.good_in_row >= policy.up_after => {
                self.become_(Health::Ready, now, Transition::Admitted)
            }
            // Too late: it is about to be stopped, and must not be given requests on the way.
            Health::Suspended | Health::Ready | Health::NeverReady => None,
        }
    }

    fn bad(&mut self, is_over: bool, policy: &model::Health, now: Timestamp) -> Option<Transition> {
        match self.health {
            Health::Ready if is_over => self.become_(Health::Suspended, now, Transition::Suspended),
            Health::Starting => self.tick(policy, now),
            Health::Ready | Health::Suspended | Health::NeverReady => None,
        }
    }

    fn count_bad(&mut self, is_refusing: bool) {
        self.good_in_row = 0;
        self.bad_in_row = self.bad_in_row.saturating_add(1);
        self.is_refusing = is_refusing;
    }

    fn become_(&mut self, health: Health, now: Timestamp, transition: Transition) -> Option<Transition> {
        self.health = health;
        self.since = now;
        Some(transition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> model::Health {
        model::Health {
            probe: Probe::Tcp,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            up_after: 2,
            down_after: 3,
            start_within: Duration::from_secs(60),
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    fn good() -> ProbeResult {
        ProbeResult::Good { text: "good".to_owned() }
    }

    fn bad() -> ProbeResult {
        ProbeResult::Bad { text: "bad".to_owned() }
    }

    fn refused() -> ProbeResult {
        ProbeResult::Refused { text: "refused".to_owned() }
    }

    fn machine() -> HealthMachine {
        HealthMachine::new(Nonce::from_bytes([1; 16]), at(0), 0)
    }

    fn ready() -> HealthMachine {
        let mut machine = machine();
        machine.step(&policy(), at(0), &good());
        machine
    }

    #[test]
    fn the_first_good_answer_admits_a_start() {
        let mut machine = machine();
        assert_eq!(machine.next_probe_at(&policy()), at(0));
        assert_eq!(machine.step(&policy(), at(1), &refused()), None);
        assert_eq!(machine.next_probe_at(&policy()), at(101));
        assert_eq!(machine.step(&policy(), at(101), &bad()), None);
        assert_eq!(machine.step(&policy(), at(201), &good()), Some(Transition::Admitted));
        assert_eq!(machine.seen().health, Health::Ready);
        assert_eq!(machine.next_probe_at(&policy()), at(30_201));
    }

    #[test]
    fn a_refused_connection_ejects_at_once_and_is_asked_again_soon() {
        let mut machine = ready();
        assert_eq!(machine.step(&policy(), at(30_000), &refused()), Some(Transition::Suspended));
        assert_eq!(machine.next_probe_at(&policy()), at(30_100));
        assert_eq!(machine.step(&policy(), at(30_100), &good()), None);
        assert_eq!(machine.step(&policy(), at(30_200), &good()), Some(Transition::Admitted));
    }

    #[test]
    fn bad_answers_eject_only_when_they_come_in_a_row() {
        let mut machine = ready();
        for result in [bad(), bad(), good(), bad(), bad()] {
            assert_eq!(machine.step(&policy(), at(1), &result), None);
        }
        assert_eq!(machine.step(&policy(), at(1), &bad()), Some(Transition::Suspended));
        assert_eq!(machine.next_probe_at(&policy()), at(30_001), "it is not refusing: the interval holds");
    }

    #[test]
    fn a_start_that_is_never_ready_is_given_up_after_its_time() {
        let mut machine = machine();
        machine.step(&policy(), at(1), &bad());
        assert_eq!(machine.tick(&policy(), at(59_999)), None);
        assert_eq!(machine.tick(&policy(), at(60_000)), Some(Transition::NeverReady));
        assert_eq!(machine.tick(&policy(), at(60_001)), None, "it is said once");
        assert_eq!(machine.step(&policy(), at(60_002), &good()), None, "too late");
    }

    #[test]
    fn an_adopted_start_is_asked_before_it_is_judged() {
        let mut machine = machine();
        assert_eq!(machine.tick(&policy(), at(900_000)), None);
        assert_eq!(machine.step(&policy(), at(900_001), &good()), Some(Transition::Admitted));
    }

    fn worker() -> model::Health {
        model::Health { probe: Probe::Process, ..policy() }
    }

    #[test]
    fn a_worker_is_ready_once_it_has_stayed_up_and_later_after_each_quick_end() {
        let ready_at = |quick_ends: u32| {
            let mut machine = HealthMachine::new(Nonce::from_bytes([1; 16]), at(0), quick_ends);
            let looks = (0..200).map(|look| at(look * 100));
            let ready = looks.into_iter().find(|now| machine.step(&worker(), *now, &good()).is_some());
            ready.expect("ready at last").saturating_since(at(0))
        };
        assert_eq!([0, 1, 2, 3, 9].map(|ends| ready_at(ends).as_secs()), [3, 3, 6, 10, 10]);
        // One that is adopted has stayed up already.
        let mut machine = HealthMachine::new(Nonce::from_bytes([1; 16]), at(0), 0);
        assert_eq!(machine.step(&worker(), at(900_000), &good()), Some(Transition::Admitted));
    }

    #[test]
    fn a_worker_is_never_given_up_for_being_slow() {
        let hasty = model::Health { start_within: Duration::from_millis(500), ..worker() };
        let mut machine = machine();
        assert_eq!(machine.step(&hasty, at(100), &good()), None);
        assert_eq!(machine.tick(&hasty, at(2_900)), None);
        assert_eq!(machine.step(&hasty, at(3_000), &good()), Some(Transition::Admitted));
    }

    #[test]
    fn how_long_the_question_has_been_wrong_is_known_and_ends_with_another_answer() {
        let wrong = || ProbeResult::Wrong { text: "GET /healthz: 404".to_owned() };
        let mut machine = machine();
        machine.step(&policy(), at(100), &wrong());
        machine.step(&policy(), at(5_000), &wrong());
        assert_eq!(machine.seen().wrong_since, Some(at(100)));
        machine.step(&policy(), at(6_000), &bad());
        assert_eq!(machine.seen().wrong_since, None);
    }

    #[test]
    fn a_clock_set_back_does_not_stop_the_looks() {
        let mut machine = ready();
        machine.step(&policy(), at(5_000_000), &good());
        machine.tick(&policy(), at(10));
        assert!(machine.next_probe_at(&policy()) <= at(10).after(policy().interval));
    }
}
