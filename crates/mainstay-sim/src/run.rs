//! One run: a world, a control plane, faults, and the question whether the wanted state is reached afterwards.

use std::collections::BTreeSet;

use mainstay_decide::plan::Plan;
use mainstay_decide::{invariants, plan};
use mainstay_stack::Stack;
use mainstay_types::{ChildName, Member, State, Timestamp};

use crate::bugs::Bug;
use crate::checks::{Broken, Kind};
use crate::control::Control;
use crate::faults::{self, FOR_EVER, Fault, Intensity};
use crate::marks::Mark;
use crate::world::{World, after};

/// One moment of the world.
const TICK_MS: u64 = 5;
/// Time for the wanted state once faults have stopped: the longest back-off (30 s), the patience with a hung
/// primary that nobody can replace (30 s), and a clone.
const SETTLE_WITHIN_MS: u64 = 90_000;
/// Time between the first wanted state and the first fault: writes are to be under way.
const CALM_MS: u64 = 300;

/// What happens after everything is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Nothing.
    Up,
    /// Up, and down again.
    Down,
    /// These faults, each so many milliseconds after everything was up.
    Faults(Vec<(u64, Fault)>),
    /// Faults that the seed chooses; a third of the runs end with an ordered end.
    Random,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// What happens.
    pub scenario: Scenario,
    /// How unreliable looks and steps are.
    pub intensity: Intensity,
    /// Action boundaries at which the control plane dies.
    pub crash_at: BTreeSet<u64>,
    /// A planted bug.
    pub bug: Option<Bug>,
    /// The positive control: failovers are not fenced.
    pub is_sabotaged: bool,
    /// Only the world judges, not the invariants.
    pub is_blind: bool,
}

impl Options {
    /// A run without chance but for durations.
    pub fn new(seed: u64, scenario: Scenario) -> Self {
        Self {
            seed,
            scenario,
            intensity: Intensity::default(),
            crash_at: BTreeSet::new(),
            bug: None,
            is_sabotaged: false,
            is_blind: false,
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything is as wanted.
    Settled,
    /// Everything is stopped.
    Finished,
    /// A promise was broken.
    Broken,
}

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub ending: Ending,
    /// Broken promises, the first first.
    pub broken: Vec<Broken>,
    /// Cases that were met.
    pub marks: BTreeSet<Mark>,
    /// The latest lines of the story, for a person.
    pub story: Vec<String>,
    /// Action boundaries passed.
    pub boundaries: u64,
    /// Writes acknowledged to clients and still there.
    pub acknowledged: usize,
    /// Acknowledged writes lost where the mode allows it.
    pub lost_allowed: usize,
    /// Simulated time. **Unit**: milliseconds.
    pub took_ms: i64,
}

/// Runs once.
pub fn run(stack: &Stack, options: &Options) -> Report {
    let start = Timestamp::from_millis(1_700_000_000_000);
    let mut world = World::new(stack, options.seed, start);
    world.is_sabotaged = options.is_sabotaged;
    let mut control = Control::new(stack, &mut world, options.intensity);
    control.crash_at.clone_from(&options.crash_at);
    let mut runner = Runner { stack, options, world, control, faults: vec![], thaws: vec![], last: Plan::default() };
    runner.drive();
    runner.report(start)
}

struct Runner<'a> {
    stack: &'a Stack,
    options: &'a Options,
    world: World,
    control: Control,
    faults: Vec<(Timestamp, Fault)>,
    thaws: Vec<(Timestamp, Thaw)>,
    last: Plan,
}

/// The end of a fault that lasts.
enum Thaw {
    Process(ChildName, mainstay_types::Nonce),
    Pressure,
}

impl Runner<'_> {
    fn drive(&mut self) {
        if !self.until_settled("up") {
            return;
        }
        let from = after(self.world.now, CALM_MS);
        self.faults = match &self.options.scenario {
            Scenario::Up | Scenario::Down => vec![],
            Scenario::Faults(faults) => faults.iter().map(|(at, fault)| (after(from, *at), fault.clone())).collect(),
            Scenario::Random => faults::schedule(self.stack, &mut self.world.random, from),
        };
        let last = self.faults.last().map_or(from, |(at, _)| *at);
        while self.world.now < after(last, 50) || !self.thaws.is_empty() {
            if !self.tick() {
                return;
            }
        }
        // What was announced to go wrong is over; what it left behind must heal.
        self.control.intensity = Intensity::default();
        if !self.until_settled("after the last fault") {
            return;
        }
        self.check_writes();
        self.world.check_schedules(self.stack);
        // Of the seed and not of chance: what came before is to be the same with it and without.
        let is_damaging = self.options.scenario == Scenario::Random && self.options.seed % 5 < 2;
        if is_damaging && !self.damage_at_last() {
            return;
        }
        let is_down = match self.options.scenario {
            Scenario::Down => true,
            Scenario::Random => self.world.random.chance(33),
            Scenario::Up | Scenario::Faults(_) => false,
        };
        if is_down {
            self.control.observed.wish = None;
            self.world.is_stopping = true;
            self.control.observed.is_stopping = true;
            self.control.wake_at = self.world.now;
            self.until_finished();
        }
    }

    fn until_settled(&mut self, when: &str) -> bool {
        let deadline = after(self.world.now, SETTLE_WITHIN_MS);
        while !self.is_settled() {
            if !self.tick() {
                return false;
            }
            if self.world.now >= deadline {
                let text = format!("{when}: {}", self.what_is_missing());
                self.world.broke(Kind::Stuck, text);
                return false;
            }
        }
        true
    }

    fn until_finished(&mut self) {
        let deadline = after(self.world.now, SETTLE_WITHIN_MS);
        while !self.control.is_finished {
            if !self.tick() {
                return;
            }
            if self.world.now >= deadline {
                let text = format!("down: {}", self.what_is_missing());
                return self.world.broke(Kind::Stuck, text);
            }
        }
        let left =
            self.world.children.iter().find(|(_, child)| child.seen.ended.is_none()).map(|(name, _)| name.clone());
        if let Some(left) = left {
            self.world.broke(Kind::Order, format!("all is said to be stopped and {left} runs"));
        }
    }

    /// One moment; false when a promise was broken.
    fn tick(&mut self) -> bool {
        let now = after(self.world.now, TICK_MS);
        self.world.advance(now);
        self.inject();
        if self.control.work(self.stack, &mut self.world) && self.control.observe(self.stack, &mut self.world) {
            self.plan();
        }
        self.world.broken.is_empty()
    }

    fn plan(&mut self) {
        let now = self.world.now;
        let observed = &self.control.observed;
        let mut plan = match self.options.bug {
            None => plan::plan(self.stack, observed, now),
            Some(bug) => {
                let mut seen = observed.clone();
                bug.doctor(&mut seen, now);
                plan::plan(self.stack, &seen, now)
            }
        };
        if let Some(bug) = self.options.bug {
            bug.twist(observed, &mut plan);
        }
        if !self.options.is_blind {
            for violation in invariants::check(self.stack, observed, &plan) {
                self.world.broke(Kind::Invariant, violation.to_string());
            }
        }
        let speechless = plan.boxes.iter().find(|shown| {
            let is_done = matches!(shown.state, State::Ready | State::Stopped | State::NotConfigured | State::Draining);
            !is_done && shown.waiting.is_empty()
        });
        if let Some(shown) = speechless {
            let text = format!("{} is {} and waits for nothing", shown.id, shown.state);
            self.world.broke(Kind::Speechless, text);
        }
        self.mark(&plan);
        self.last = plan;
        let plan = self.last.clone();
        self.control.begin(self.stack, &mut self.world, &plan);
    }

    fn mark(&mut self, plan: &Plan) {
        let is_backing_off =
            |shown: &mainstay_decide::plan::BoxPlan| matches!(shown.state, State::BackingOff | State::CrashLoop);
        if plan.boxes.iter().any(is_backing_off) {
            self.world.mark(Mark::BackedOff);
        }
        let is_silent = |shown: &mainstay_decide::plan::BoxPlan| {
            shown.waiting.iter().any(|waiting| matches!(waiting, mainstay_types::Waiting::Silence { .. }))
        };
        if self.world.is_under_pressure && plan.boxes.iter().any(is_silent) {
            self.world.mark(Mark::Pressed);
        }
    }

    fn inject(&mut self) {
        let now = self.world.now;
        let due: Vec<Fault> = self.faults.iter().filter(|(at, _)| *at <= now).map(|(_, fault)| fault.clone()).collect();
        self.faults.retain(|(at, _)| *at > now);
        for fault in due {
            self.strike(fault);
        }
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.thaws).into_iter().partition(|(at, _)| *at <= now);
        self.thaws = later;
        for (_, thaw) in due {
            match thaw {
                Thaw::Pressure => self.world.is_under_pressure = false,
                Thaw::Process(name, nonce) => {
                    let is_same = self.world.children.get(&name).is_some_and(|child| child.seen.nonce == nonce);
                    if is_same && self.world.is_frozen(&name) {
                        self.world.mark(Mark::Thawed);
                        self.world.freeze(&name, false);
                    }
                }
            }
        }
    }

    fn strike(&mut self, fault: Fault) {
        self.world.tell(&format_args!("{fault:?}"));
        let now = self.world.now;
        match fault {
            Fault::Kill(name) => {
                let promoting = self.world.record.as_ref().and_then(|record| record.promoting);
                if promoting.is_some_and(|member| ChildName::postgres(member) == name) && self.world.runs(&name) {
                    self.world.mark(Mark::PromotedDied);
                }
                self.world.end(&name, mainstay_types::ExitReason::Signal { signal: 9 }, false);
            }
            Fault::Freeze(name, millis) => {
                self.world.freeze(&name, true);
                if let Some(child) = self.world.children.get(&name).filter(|_| millis != FOR_EVER) {
                    self.thaws.push((after(now, millis), Thaw::Process(name, child.seen.nonce.clone())));
                }
            }
            // Now, or in the middle of what it does next.
            Fault::ControlCrash if self.world.random.chance(40) => self.control.crash(self.stack, &mut self.world),
            Fault::ControlCrash => {
                let boundary = self.control.boundaries + self.world.random.within(1, 9);
                self.control.crash_at.insert(boundary);
            }
            Fault::KeepLost(millis) => self.control.lose_keep(&mut self.world, millis),
            Fault::Pressure(millis) => {
                self.world.is_under_pressure = true;
                self.thaws.push((after(now, millis), Thaw::Pressure));
            }
            Fault::InstancesFail(millis) => {
                self.world.instances_fail_until = after(now, millis);
                for slot in [1, 2] {
                    let name = ChildName::new(format!("backend-{slot}")).expect("a valid name");
                    self.world.end(&name, mainstay_types::ExitReason::Code { code: 1 }, false);
                }
            }
            Fault::Rogue(member) => self.rogue(member),
            Fault::Damage(member) => self.damage(member),
            Fault::Ask(errand) => self.control.ask(self.stack, &mut self.world, errand),
        }
    }

    /// A standby becomes a primary that nobody asked for. Nobody is led to it.
    fn rogue(&mut self, member: Member) {
        let Some(record) = &self.world.record else { return };
        if record.primary == member || record.promoting.is_some() || !self.world.cluster.answers(member, self.world.now)
        {
            return;
        }
        let server = self.world.cluster.server_mut(member);
        if let Some(process) = server.process.as_mut().filter(|process| process.is_in_recovery) {
            process.is_in_recovery = false;
            process.is_rogue = true;
            process.is_streaming = false;
            server.timeline += 1;
            server.has_standby_signal = false;
            self.world.mark(Mark::RoguePrimary);
        }
    }

    /// A page is damaged on disk. Only where a whole copy is elsewhere: without one nothing but a backup helps.
    fn damage(&mut self, member: Member) {
        let database = self.stack.database.as_ref();
        let standbys = database.map_or(0, |database| database.standbys);
        let is_strict = database.is_some_and(|one| one.durability == mainstay_stack::model::Durability::Strict);
        // Writes would wait for its clone: that is left to a person.
        if standbys > u32::from(is_strict) && self.is_settled() {
            self.world.cluster.server_mut(member).is_damaged = true;
        }
    }

    /// After everything else: damage, met by ends of the control plane and by looks and steps that fail.
    fn damage_at_last(&mut self) -> bool {
        let members: Vec<Member> = self.world.cluster.servers.keys().copied().collect();
        let Some(member) = self.world.random.pick(&members).copied() else { return true };
        self.control.intensity = self.options.intensity;
        self.control.crash_at.clear();
        self.strike(Fault::Damage(member));
        let mut at = self.world.now;
        for _ in 0..self.world.random.within(0, 4) {
            at = after(at, self.world.random.within(5, 800));
            let fault = match self.world.random.within(0, 3) {
                0 => Fault::KeepLost(self.world.random.within(50, 1_000)),
                _ => Fault::ControlCrash,
            };
            self.faults.push((at, fault));
        }
        while self.world.now < after(at, 50) {
            if !self.tick() {
                return false;
            }
        }
        self.control.intensity = Intensity::default();
        let is_settled = self.until_settled("after a page was damaged");
        if is_settled {
            self.check_writes();
        }
        is_settled
    }

    fn is_settled(&self) -> bool {
        let is_right =
            |shown: &mainstay_decide::plan::BoxPlan| matches!(shown.state, State::Ready | State::NotConfigured);
        self.control.dead_until.is_none()
            && self.control.in_flight.is_empty()
            && !self.last.boxes.is_empty()
            && self.last.boxes.iter().all(is_right)
            && self.is_database_right()
    }

    /// The world itself, not what is believed of it.
    fn is_database_right(&self) -> bool {
        let Some(record) = &self.world.record else { return false };
        let standbys: BTreeSet<Member> =
            self.world.cluster.servers.keys().copied().filter(|m| *m != record.primary).collect();
        let candidates: BTreeSet<Member> = record.candidates.iter().copied().collect();
        let answer = self.world.cluster.answer(record.primary, self.world.now);
        let router = &self.world.router;
        let is_damaged = self.world.cluster.servers.values().any(|server| server.is_damaged);
        record.promoting.is_none()
            && !is_damaged
            && self.control.observed.database.as_ref().is_some_and(|seen| seen.damages.of.is_empty())
            && candidates == standbys
            && answer.is_some_and(|answer| !answer.is_in_recovery && answer.standbys.len() == standbys.len())
            && router.epoch == record.epoch
            && router.write == Some(record.primary)
            && router.read.len() == standbys.len()
    }

    fn check_writes(&mut self) {
        let Some(record) = &self.world.record else { return };
        let log: BTreeSet<u64> = self.world.cluster.server(record.primary).log.iter().copied().collect();
        self.world.check_log(&log, "at the end");
    }

    fn what_is_missing(&self) -> String {
        let mut missing: Vec<String> = self
            .last
            .boxes
            .iter()
            .filter(|shown| shown.state != State::Ready)
            .map(|shown| format!("{} is {} {:?} {:?}", shown.id, shown.state, shown.waiting, shown.reason))
            .collect();
        missing.push(format!("record {:?}, router {:?}", self.world.record, self.world.router));
        missing.join("; ")
    }

    fn report(self, start: Timestamp) -> Report {
        let ending = if !self.world.broken.is_empty() {
            Ending::Broken
        } else if self.control.is_finished {
            Ending::Finished
        } else {
            Ending::Settled
        };
        Report {
            ending,
            broken: self.world.broken,
            marks: self.world.marks,
            story: self.world.story.into(),
            boundaries: self.control.boundaries,
            acknowledged: self.world.acknowledged.len(),
            lost_allowed: self.world.lost_allowed,
            took_ms: self.world.now.as_millis() - start.as_millis(),
        }
    }
}
