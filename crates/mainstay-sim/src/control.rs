//! The control plane of the simulated world: looks in, plan, steps out. What is not durable dies with it.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_decide::damage::{self, Damages};
use mainstay_decide::health::{HealthMachine, ProbeResult, Transition};
use mainstay_decide::observed::{
    ChildSeen, DatabaseSeen, Errand, FailedStep, MemberSeen, Observed, RouterSeen, RunningStep, Wish,
};
use mainstay_decide::plan::{Plan, Step};
use mainstay_decide::schedule::ScheduleSeen;
use mainstay_decide::wish::{self, Progress};
use mainstay_stack::Stack;
use mainstay_types::{ChildName, InstanceId, Member, Nonce, Seen, Timestamp};

use crate::faults::Intensity;
use crate::marks::Mark;
use crate::postgres::Data;
use crate::steps::{self, InFlight};
use crate::world::{World, after};

/// Looks come this often.
const LOOK_EVERY_MS: u64 = 250;

#[derive(Clone, Debug)]
enum Message {
    /// keep's list. It answers in order with what it was asked to start, so the list is taken when it arrives.
    Children,
    Ended(ChildName, ChildSeen),
    Member(Member, MemberSeen),
    /// How often a member says that it met a damaged page.
    Pages(Member, u64),
    Redis(&'static str, Seen<()>),
    Edge(Seen<()>),
    Router(Seen<RouterSeen>),
    Prometheus(Seen<()>),
    Alertmanager(Seen<()>),
    Probe(InstanceId, Nonce, ProbeResult),
}

/// The control plane.
pub(crate) struct Control {
    pub(crate) observed: Observed,
    pub(crate) in_flight: Vec<InFlight>,
    pub(crate) is_finished: bool,
    pub(crate) intensity: Intensity,
    /// Action boundaries passed so far: a step begins, has its effect, is known to have had it.
    pub(crate) boundaries: u64,
    pub(crate) crash_at: BTreeSet<u64>,
    pub(crate) dead_until: Option<Timestamp>,
    pub(crate) keep_lost_until: Option<Timestamp>,
    pub(crate) wake_at: Timestamp,
    inbox: Vec<(Timestamp, Message)>,
    machines: BTreeMap<InstanceId, HealthMachine>,
    probing: BTreeSet<InstanceId>,
    silent_since: BTreeMap<ChildName, Timestamp>,
    next_look_at: Timestamp,
}

impl Control {
    pub(crate) fn new(stack: &Stack, world: &mut World, intensity: Intensity) -> Self {
        let mut control = Self {
            observed: blank(stack, world),
            in_flight: Vec::new(),
            is_finished: false,
            intensity,
            boundaries: 0,
            crash_at: BTreeSet::new(),
            dead_until: None,
            keep_lost_until: None,
            wake_at: world.now,
            inbox: Vec::new(),
            machines: BTreeMap::new(),
            probing: BTreeSet::new(),
            silent_since: BTreeMap::new(),
            next_look_at: world.now,
        };
        control.ask_keep(world);
        control
    }

    /// Dies: everything that is not durable is gone.
    pub(crate) fn crash(&mut self, stack: &Stack, world: &mut World) {
        if self.in_flight.iter().any(|flight| matches!(flight.result, Some(Ok(())))) {
            world.mark(Mark::CrashedAfterEffect);
        }
        world.tell(&"the control plane dies");
        self.dead_until = Some(after(world.now, world.random.within(100, 900)));
        self.in_flight.clear();
        self.inbox.clear();
        self.machines.clear();
        self.probing.clear();
        self.silent_since.clear();
        self.observed = blank(stack, world);
    }

    pub(crate) fn lose_keep(&mut self, world: &mut World, millis: u64) {
        self.observed.children = Seen::Unknown;
        self.inbox.retain(|(_, message)| !matches!(message, Message::Ended(..) | Message::Children));
        self.keep_lost_until = Some(after(world.now, millis));
        self.wake_at = world.now;
    }

    fn ask_keep(&mut self, world: &mut World) {
        let at = after(world.now, world.random.within(2, 30));
        self.inbox.push((at, Message::Children));
        world.ended.clear();
    }

    /// One moment. Returns whether to plan.
    pub(crate) fn observe(&mut self, stack: &Stack, world: &mut World) -> bool {
        if let Some(until) = self.dead_until {
            world.ended.clear();
            if world.now < until {
                return false;
            }
            self.dead_until = None;
            self.observed = blank(stack, world);
            if self.observed.database.as_ref().and_then(|seen| seen.record.value()?.as_ref()?.promoting).is_some() {
                world.mark(Mark::FailoverTakenUp);
            }
            let mut records = self.observed.schedules.values().filter_map(|seen| seen.record.as_ref());
            if records.any(|record| record.run.is_some()) {
                world.mark(Mark::RunTakenUp);
            }
            self.next_look_at = world.now;
            self.ask_keep(world);
        }
        if let Some(until) = self.keep_lost_until {
            world.mark(Mark::KeepUnknown);
            world.ended.clear();
            if world.now >= until {
                self.keep_lost_until = None;
                self.ask_keep(world);
            }
        }
        for name in std::mem::take(&mut world.ended) {
            let Some(child) = world.children.get(&name) else { continue };
            let message = Message::Ended(name, child.seen.clone());
            let at = after(world.now, world.random.within(1, 6));
            self.inbox.push((at, message));
        }
        if world.now >= self.next_look_at {
            self.next_look_at = after(world.now, LOOK_EVERY_MS);
            self.look(stack, world);
        }
        self.probe(stack, world);
        self.settle_wish(stack, world);
        self.leave_damaged(stack, world);
        let is_told = self.take_due(stack, world);
        is_told || world.now >= self.wake_at
    }

    /// A person asks for something, and is told when it is refused.
    pub(crate) fn ask(&mut self, stack: &Stack, world: &mut World, errand: Errand) {
        let epoch = world.record.as_ref().map_or(0, |record| record.epoch);
        let refusal = wish::refusal(stack, &self.observed, &errand, world.now);
        world.tell(&format_args!("a person asks for {errand:?}: {refusal:?}"));
        if refusal.is_some() || self.dead_until.is_some() {
            return;
        }
        world.forced = matches!(errand, Errand::Switchover { is_forced: true, .. });
        self.observed.wish = Some(Wish { errand, asked_at: world.now, epoch });
        self.wake_at = world.now;
    }

    /// A primary that met damaged pages makes place, as if a person asked for it.
    fn leave_damaged(&mut self, stack: &Stack, world: &mut World) {
        let now = world.now;
        let Some(to) = damage::successor(stack, &self.observed, now) else { return };
        if let Some(database) = &mut self.observed.database {
            database.damages.asked_at = Some(now);
        }
        self.write_damages(world);
        self.ask(stack, world, Errand::Switchover { to, drain_ms: 1_000, is_forced: false });
    }

    fn write_damages(&self, world: &mut World) {
        if let Some(database) = &self.observed.database {
            world.damages = Damages { asked_at: None, ..database.damages.clone() };
        }
    }

    /// A wish that is over is forgotten.
    fn settle_wish(&mut self, stack: &Stack, world: &mut World) {
        let Some(progress) = wish::progress(stack, &self.observed, world.now) else { return };
        let is_restart = matches!(self.observed.wish, Some(Wish { errand: Errand::Restart { .. }, .. }));
        match &progress {
            Progress::Underway(_) => return,
            Progress::Done if is_restart => world.mark(Mark::Restarted),
            Progress::Done => world.mark(Mark::ErrandDone),
            Progress::Over { .. } => world.mark(Mark::ErrandGivenUp),
        }
        world.tell(&format_args!("the errand is over: {progress:?}"));
        self.observed.wish = None;
        self.wake_at = world.now;
    }

    fn take_due(&mut self, stack: &Stack, world: &mut World) -> bool {
        let now = world.now;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.inbox).into_iter().partition(|(at, _)| *at <= now);
        self.inbox = later;
        let is_told = !due.is_empty();
        for (_, message) in due {
            self.take(stack, world, message);
        }
        is_told
    }

    fn take(&mut self, stack: &Stack, world: &mut World, message: Message) {
        let now = world.now;
        let Some(database) = &mut self.observed.database else { return };
        match message {
            Message::Children => {
                let children = world.children.iter().map(|(name, child)| (name.clone(), child.seen.clone())).collect();
                self.observed.children = Seen::Fact { value: children, observed_at: now };
                self.look(stack, world);
            }
            Message::Ended(name, child) => {
                if let Seen::Fact { value: children, observed_at } = &mut self.observed.children {
                    *observed_at = now;
                    let is_known = children.get(&name).is_none_or(|known| known.since <= child.since);
                    if is_known {
                        children.insert(name, child);
                    }
                }
                self.look(stack, world);
            }
            Message::Member(member, seen) => {
                let known = database.members.get(&member).map(|known| observed_at(&known.is_alive));
                if known.flatten() > observed_at(&seen.is_alive) {
                    world.mark(Mark::StaleLook);
                }
                database.is_under_pressure = world.is_under_pressure;
                database.look(member, seen, now);
            }
            Message::Pages(member, met) => {
                let was_known = database.damages.of.contains_key(&member);
                if database.damages.look(member, met, now) > 0 && !was_known {
                    world.tell(&format_args!("postgres-{member} met damaged pages"));
                }
                self.write_damages(world);
            }
            Message::Redis(name, seen) => {
                self.observed.redis.insert(name.to_owned(), seen);
            }
            Message::Edge(seen) => self.observed.edge = seen,
            // A link keeps its order, whatever became of other looks.
            Message::Router(seen)
                if observed_at(&seen).is_some_and(|at| Some(at) < observed_at(&self.observed.router)) => {}
            Message::Router(seen) => self.observed.router = seen,
            Message::Prometheus(seen) => self.observed.prometheus = seen,
            Message::Alertmanager(seen) => self.observed.alertmanager = seen,
            Message::Probe(id, nonce, result) => {
                self.probing.remove(&id);
                let service = stack.services.get(&id.service);
                let machine = self.machines.get_mut(&id).filter(|machine| *machine.nonce() == nonce);
                if let (Some(service), Some(machine)) = (service, machine) {
                    let was_suspended = machine.seen().health == mainstay_decide::observed::Health::Suspended;
                    let transition = machine.step(&service.health, now, &result);
                    if was_suspended && transition == Some(Transition::Admitted) {
                        world.mark(Mark::Readmitted);
                    }
                }
            }
        }
    }

    /// Looks at everything once. Some looks are lost, some come late.
    fn look(&mut self, stack: &Stack, world: &mut World) {
        let now = world.now;
        let mut looks = Vec::new();
        let members: Vec<Member> = world.cluster.servers.keys().copied().collect();
        for member in members {
            let seen = self.member(world, member);
            looks.push(Message::Member(member, seen));
            if world.cluster.answers(member, now) && world.cluster.server(member).is_damaged {
                let is_met = world.random.chance(30);
                let server = world.cluster.server_mut(member);
                server.met += u64::from(is_met);
                looks.push(Message::Pages(member, server.met));
            }
        }
        looks.push(Message::Edge(self.door(world, "edge", ())));
        let router = world.router_seen();
        looks.push(Message::Router(self.door(world, "router", router)));
        if stack.cache.is_some() {
            looks.push(Message::Redis("cache", self.door(world, "cache", ())));
            looks.push(Message::Redis("store", self.door(world, "store", ())));
        }
        if stack.observe.enabled {
            looks.push(Message::Prometheus(self.door(world, "prometheus", ())));
            looks.push(Message::Alertmanager(self.door(world, "alertmanager", ())));
        }
        for look in looks {
            if world.random.chance(self.intensity.lost) {
                world.mark(Mark::LostLook);
                continue;
            }
            let mut delay = world.random.within(1, 10);
            if world.random.chance(self.intensity.stale) {
                delay += world.random.within(100, 1_500);
            }
            self.inbox.push((after(now, delay), look));
        }
    }

    fn door<T>(&mut self, world: &World, name: &str, value: T) -> Seen<T> {
        let name = ChildName::new(name).expect("a valid name");
        if world.answers(&name) {
            self.silent_since.remove(&name);
            return Seen::Fact { value, observed_at: world.now };
        }
        if world.is_frozen(&name) {
            return Seen::Silent { since: *self.silent_since.entry(name).or_insert(world.now) };
        }
        self.silent_since.remove(&name);
        Seen::Unknown
    }

    fn member(&mut self, world: &World, member: Member) -> MemberSeen {
        let name = ChildName::postgres(member);
        let server = world.cluster.server(member);
        let answer = match world.cluster.answer(member, world.now) {
            Some(answer) => {
                self.silent_since.remove(&name);
                Seen::Fact { value: answer, observed_at: world.now }
            }
            None if world.is_frozen(&name) => {
                Seen::Silent { since: *self.silent_since.entry(name).or_insert(world.now) }
            }
            None => {
                self.silent_since.remove(&name);
                Seen::Unknown
            }
        };
        MemberSeen {
            data: server.data.seen(),
            has_standby_signal: (server.data == Data::Complete).then_some(server.has_standby_signal),
            is_alive: Seen::Fact { value: world.cluster.is_alive(member), observed_at: world.now },
            answer,
            control: world.cluster.control(member),
        }
    }

    fn probe(&mut self, stack: &Stack, world: &mut World) {
        let Seen::Fact { value: children, .. } = &self.observed.children else { return };
        let mut running = BTreeMap::new();
        for (name, service) in &stack.services {
            for slot in 1..=service.instances {
                let id = InstanceId { service: name.clone(), slot };
                let child = children.get(&ChildName::instance(&id)).filter(|child| child.ended.is_none());
                running.extend(child.map(|child| (id, (child.nonce.clone(), child.since, child.quick_ends))));
            }
        }
        self.machines.retain(|id, machine| running.get(id).is_some_and(|(nonce, ..)| nonce == machine.nonce()));
        self.probing.retain(|id| self.machines.contains_key(id));
        self.observed.health.retain(|id, _| running.contains_key(id));
        for (id, (nonce, since, quick_ends)) in running {
            let machine = self.machines.entry(id.clone());
            let machine = machine.or_insert_with(|| HealthMachine::new(nonce.clone(), since, quick_ends));
            let Some(service) = stack.services.get(&id.service) else { continue };
            machine.tick(&service.health, world.now);
            if machine.next_probe_at(&service.health) <= world.now && self.probing.insert(id.clone()) {
                let name = ChildName::instance(&id);
                let (result, delay) = if world.answers(&name) {
                    (ProbeResult::Good { text: "200".to_owned() }, world.random.within(1, 6))
                } else if world.is_frozen(&name) {
                    (ProbeResult::Bad { text: "no answer".to_owned() }, 500)
                } else {
                    (ProbeResult::Refused { text: "refused".to_owned() }, 1)
                };
                self.inbox.push((after(world.now, delay), Message::Probe(id.clone(), nonce, result)));
            }
            let seen = machine.seen();
            if self.observed.health.get(&id) != Some(&seen) {
                self.wake_at = world.now;
                self.observed.health.insert(id, seen);
            }
        }
    }

    /// Lets steps have their effect and learns of it. Returns false when the control plane died on the way.
    pub(crate) fn work(&mut self, stack: &Stack, world: &mut World) -> bool {
        let mut index = 0;
        while index < self.in_flight.len() {
            let flight = self.in_flight[index].clone();
            if flight.result.is_none() && flight.applies_at <= world.now {
                let result = steps::apply(world, &flight);
                world.tell(&format_args!("  {}: {result:?}", flight.step));
                self.in_flight[index].result = Some(result);
                if self.boundary(stack, world) {
                    return false;
                }
            }
            let is_waiting =
                flight.known_at > world.now || flight.waits_for.as_ref().is_some_and(|name| world.runs(name));
            let Some(result) = self.in_flight[index].result.clone().filter(|_| !is_waiting) else {
                index += 1;
                continue;
            };
            self.in_flight.remove(index);
            self.learn(stack, world, &flight.step, result);
            if self.boundary(stack, world) {
                return false;
            }
        }
        true
    }

    fn boundary(&mut self, stack: &Stack, world: &mut World) -> bool {
        self.boundaries += 1;
        let is_crash = self.crash_at.contains(&self.boundaries);
        if is_crash {
            self.crash(stack, world);
        }
        is_crash
    }

    fn learn(&mut self, stack: &Stack, world: &mut World, step: &Step, result: Result<(), String>) {
        let now = world.now;
        let key = step.key();
        self.observed.running.remove(&key);
        self.wake_at = now;
        if let Err(error) = result {
            let failed = FailedStep::after(self.observed.failed.get(&key), step, error, now);
            self.observed.failed.insert(key, failed);
            return;
        }
        self.observed.failed.remove(&key);
        self.observed.done.insert(key, now);
        match step {
            Step::StartPostgres { member, .. } => self.learn_start(world, &ChildName::postgres(*member)),
            Step::StartChild { name } => self.learn_start(world, name),
            Step::StartInstance { id } => self.learn_start(world, &ChildName::instance(id)),
            Step::WriteRecord { record } => {
                if let Some(database) = &mut self.observed.database {
                    database.record = Seen::Fact { value: Some(record.clone()), observed_at: now };
                }
            }
            Step::Clone { member, .. } | Step::Rewind { member, .. } => {
                if let Some(database) = &mut self.observed.database {
                    database.cloned(*member, now);
                }
                self.write_damages(world);
            }
            Step::PrepareDatabase { .. } => self.observed.is_database_prepared = true,
            Step::Migrate { .. } => self.observed.is_migrated = true,
            Step::RunBefore { service } => {
                self.observed.before_done.insert(service.clone(), now);
            }
            Step::WriteSchedule { service, record, .. } => {
                let seen = world.schedule_seen(service);
                self.observed.schedules.insert(service.clone(), ScheduleSeen { record: Some(record.clone()), ..seen });
            }
            Step::StartRun { service, .. } => self.learn_start(world, &ChildName::run(service)),
            Step::Finish => {
                self.is_finished = true;
                world.mark(Mark::Finished);
            }
            Step::InitPrimary { .. }
            | Step::Fence { .. }
            | Step::Promote { .. }
            | Step::SetSynchronous { .. }
            | Step::Follow { .. }
            | Step::Checkpoint { .. }
            | Step::StartBackupJob { .. }
            | Step::StartStoreCopy
            | Step::StartNew { .. }
            | Step::ReleaseWork { .. }
            | Step::WriteRollout { .. }
            | Step::CommitRelease { .. }
            | Step::EndRollout { .. }
            | Step::PromoteStore { .. }
            | Step::SwapIn { .. }
            | Step::Stop { .. } => {}
            // The router says so before the step is over.
            Step::PointRouter { .. } => {
                self.observed.router = Seen::Fact { value: world.router_seen(), observed_at: now };
            }
        }
        self.look(stack, world);
    }

    fn learn_start(&mut self, world: &World, name: &ChildName) {
        let Some(child) = world.children.get(name) else { return };
        if let Seen::Fact { value: children, observed_at } = &mut self.observed.children {
            *observed_at = world.now;
            children.insert(name.clone(), child.seen.clone());
        }
    }

    /// Begins what the plan says. Returns false when the control plane died on the way.
    pub(crate) fn begin(&mut self, stack: &Stack, world: &mut World, plan: &Plan) -> bool {
        self.wake_at = plan.wake_at.unwrap_or_else(|| after(world.now, 500)).min(after(world.now, 500));
        for step in &plan.steps {
            if self.boundary(stack, world) {
                return false;
            }
            let flight = steps::begin(world, step, self.intensity.failing);
            world.tell(step);
            self.observed.running.insert(step.key(), RunningStep { since: world.now, what: step.to_string() });
            self.in_flight.push(flight);
        }
        true
    }
}

fn observed_at<T>(seen: &Seen<T>) -> Option<Timestamp> {
    match seen {
        Seen::Fact { observed_at, .. } => Some(*observed_at),
        Seen::Unknown | Seen::Silent { .. } => None,
    }
}

/// What a control plane knows when it begins: what is durable.
fn blank(stack: &Stack, world: &mut World) -> Observed {
    let scheduled = stack.services.iter().filter(|(_, service)| service.schedule.is_some());
    let schedules = scheduled.map(|(name, _)| (name.clone(), world.schedule_seen(name))).collect();
    let record = Seen::Fact { value: world.record.clone(), observed_at: world.now };
    Observed {
        children: Seen::Unknown,
        running: BTreeMap::new(),
        failed: BTreeMap::new(),
        done: BTreeMap::new(),
        database: stack.database.as_ref().map(|_| DatabaseSeen {
            record,
            members: BTreeMap::new(),
            is_under_pressure: world.is_under_pressure,
            size_bytes: Some(if world.is_large { 100 << 30 } else { 1 << 20 }),
            memory: BTreeMap::new(),
            damages: world.damages.clone(),
        }),
        wish: None,
        redis: BTreeMap::new(),
        health: BTreeMap::new(),
        edge: Seen::Unknown,
        router: Seen::Unknown,
        prometheus: Seen::Unknown,
        alertmanager: Seen::Unknown,
        missing: BTreeMap::new(),
        is_database_prepared: world.is_prepared,
        is_migrated: world.is_migrated,
        before_done: world.before_done.iter().map(|service| (service.clone(), world.now)).collect(),
        schedules,
        backups: Seen::Unknown,
        store: None,
        store_copies: Seen::Unknown,
        is_stopping: world.is_stopping,
        rollout: None,
        fleet: mainstay_decide::fleet::Fleet::default(),
        is_fencing_sabotaged: world.is_sabotaged,
    }
}
