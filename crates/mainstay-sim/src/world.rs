//! What is so, whether anybody looks or not: processes, servers, router, clients and what was acknowledged to them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mainstay_decide::observed::{ChildSeen, Record, RouterSeen};
use mainstay_decide::restart::STEADY;
use mainstay_stack::Stack;
use mainstay_types::{ChildName, ExitReason, Member, Nonce, Pid, ServiceName, Timestamp};

use crate::checks::{Broken, Kind};
use crate::marks::Mark;
use crate::postgres::Cluster;
use crate::random::Random;
use crate::schedules::Schedules;

/// More starts of one child than this within [`STARTS_WITHIN_MS`] are a storm: the back-off allows six.
const MOST_STARTS: usize = 8;
const STARTS_WITHIN_MS: i64 = 3_000;
/// Writes of the client come this often.
const WRITE_EVERY_MS: i64 = 15;

/// Lines of the story that are kept.
const STORY_LINES: usize = 80;

/// A process of keep's.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    pub(crate) seen: ChildSeen,
    pub(crate) is_frozen: bool,
    /// Answers from here on.
    pub(crate) ready_at: Timestamp,
    /// It ends by itself then: an ordered stop, or a program that cannot run.
    pub(crate) ends_at: Option<(Timestamp, ExitReason)>,
}

/// A write on its way.
#[derive(Clone, Copy, Debug)]
struct Pending {
    id: u64,
    member: Member,
    position: usize,
    session: u64,
}

/// The world.
pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) random: Random,
    pub(crate) children: BTreeMap<ChildName, Child>,
    pub(crate) cluster: Cluster,
    pub(crate) router: RouterSeen,
    /// Sessions to the router's write target, counted up with each change of it.
    session: u64,
    /// Where they were led last.
    led_to: Option<Member>,
    /// The switchover under way ends what is under way.
    pub(crate) forced: bool,
    pub(crate) record: Option<Record>,
    /// What the control plane wrote down of damaged pages.
    pub(crate) damages: mainstay_decide::damage::Damages,
    pub(crate) is_prepared: bool,
    pub(crate) is_migrated: bool,
    pub(crate) before_done: BTreeSet<ServiceName>,
    pub(crate) schedules: Schedules,
    pub(crate) is_stopping: bool,
    pub(crate) is_under_pressure: bool,
    /// The databases are large: a former primary is rewound rather than cloned.
    pub(crate) is_large: bool,
    pub(crate) is_sabotaged: bool,
    /// Instances end at once until then.
    pub(crate) instances_fail_until: Timestamp,
    pub(crate) starts: BTreeMap<ChildName, Vec<Timestamp>>,
    pub(crate) broken: Vec<Broken>,
    pub(crate) marks: BTreeSet<Mark>,
    pub(crate) story: VecDeque<String>,
    pub(crate) acknowledged: Vec<u64>,
    pub(crate) lost_allowed: usize,
    pending: Vec<Pending>,
    next_write: u64,
    next_write_at: Timestamp,
    next_nonce: u64,
    pub(crate) may_lose: bool,
    /// Ends that keep has not told yet.
    pub(crate) ended: Vec<ChildName>,
}

impl World {
    pub(crate) fn new(stack: &Stack, seed: u64, now: Timestamp) -> Self {
        let mut cluster = Cluster::default();
        let database = stack.database.as_ref();
        for n in 0..=database.map_or(0, |database| database.standbys) {
            cluster.server_mut(Member::nth(n as usize).expect("at most six members"));
        }
        Self {
            now,
            random: Random::new(seed),
            children: BTreeMap::new(),
            cluster,
            router: RouterSeen { epoch: 0, write: None, read: vec![], leaving: None },
            session: 0,
            led_to: None,
            forced: false,
            record: None,
            damages: mainstay_decide::damage::Damages::default(),
            is_prepared: false,
            is_migrated: false,
            before_done: BTreeSet::new(),
            schedules: Schedules::default(),
            is_stopping: false,
            is_under_pressure: false,
            is_large: seed.is_multiple_of(3),
            is_sabotaged: false,
            instances_fail_until: now,
            starts: BTreeMap::new(),
            broken: Vec::new(),
            marks: BTreeSet::new(),
            story: VecDeque::new(),
            acknowledged: Vec::new(),
            lost_allowed: 0,
            pending: Vec::new(),
            next_write: 1,
            next_write_at: now,
            next_nonce: 1,
            may_lose: database.is_some_and(|database| database.durability == mainstay_stack::model::Durability::Fast),
            ended: Vec::new(),
        }
    }

    pub(crate) fn broke(&mut self, kind: Kind, what: String) {
        self.broken.push(Broken { at: self.now, kind, what });
    }

    /// Writes a line of the story; the latest are kept for the report of a failure.
    pub(crate) fn tell(&mut self, what: &dyn std::fmt::Display) {
        if self.story.len() >= STORY_LINES {
            self.story.pop_front();
        }
        self.story.push_back(format!("{} ms {what}", self.now.as_millis()));
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.marks.insert(mark);
    }

    pub(crate) fn runs(&self, name: &ChildName) -> bool {
        self.children.get(name).is_some_and(|child| child.seen.ended.is_none())
    }

    pub(crate) fn answers(&self, name: &ChildName) -> bool {
        self.children
            .get(name)
            .is_some_and(|child| child.seen.ended.is_none() && !child.is_frozen && child.ready_at <= self.now)
    }

    pub(crate) fn is_frozen(&self, name: &ChildName) -> bool {
        self.children.get(name).is_some_and(|child| child.seen.ended.is_none() && child.is_frozen)
    }

    /// An identity that was never given before.
    pub(crate) fn draw_nonce(&mut self) -> Nonce {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next_nonce.to_be_bytes());
        self.next_nonce += 1;
        Nonce::from_bytes(bytes)
    }

    /// keep starts a child. **Errors**: one of that name runs.
    pub(crate) fn spawn(&mut self, name: &ChildName, ready_ms: u64) -> Result<(), String> {
        if self.runs(name) {
            self.broke(Kind::Starts, format!("{name} was to be started twice"));
            return Err(format!("{name} runs"));
        }
        let quick_ends = self.children.get(name).map_or(0, |child| child.seen.quick_ends);
        let nonce = self.draw_nonce();
        let pid = Pid(i32::try_from(self.next_nonce % 30_000).unwrap_or(1) + 1);
        let is_failing = self.now < self.instances_fail_until && name.as_str().starts_with("backend-");
        let ends_at = is_failing.then(|| (after(self.now, 3), ExitReason::Code { code: 1 }));
        let seen = ChildSeen { nonce, pid, since: self.now, ended: None, quick_ends };
        let child = Child { seen, is_frozen: false, ready_at: after(self.now, ready_ms), ends_at };
        self.children.insert(name.clone(), child);
        let starts = self.starts.entry(name.clone()).or_default();
        starts.push(self.now);
        let recent = starts.iter().filter(|at| self.now.as_millis() - at.as_millis() <= STARTS_WITHIN_MS).count();
        if recent > MOST_STARTS {
            self.broke(Kind::Starts, format!("{name} was started {recent} times within {STARTS_WITHIN_MS} ms"));
        }
        Ok(())
    }

    /// A process ends. Backends of a killed postmaster live on for a while.
    pub(crate) fn end(&mut self, name: &ChildName, reason: ExitReason, is_whole_tree: bool) {
        let (now, reason_is_order) = (self.now, reason.is_success());
        if let Some(child) = self.children.get_mut(name).filter(|child| child.seen.ended.is_none()) {
            let was_steady = now.saturating_since(child.seen.since) >= STEADY;
            child.seen.quick_ends = if was_steady { 1 } else { child.seen.quick_ends + 1 };
            child.seen.ended = Some((reason, now));
            child.ends_at = None;
            self.ended.push(name.clone());
        }
        let Some(member) = member_of(name) else { return };
        let orphans_ms = self.random.within(10, 41);
        let server = self.cluster.server_mut(member);
        // Not written down by one that did not end in order.
        if !reason_is_order {
            server.met = 0;
        }
        if let Some(process) = server.process.take()
            && !is_whole_tree
            && !process.is_in_recovery
            && !process.is_rogue
        {
            server.orphans_until = Some(after(now, orphans_ms));
        }
        if is_whole_tree {
            server.orphans_until = None;
        }
    }

    pub(crate) fn freeze(&mut self, name: &ChildName, is_frozen: bool) {
        let Some(child) = self.children.get_mut(name).filter(|child| child.seen.ended.is_none()) else { return };
        child.is_frozen = is_frozen;
        if let Some(process) = member_of(name).and_then(|m| self.cluster.server_mut(m).process.as_mut()) {
            process.is_frozen = is_frozen;
        }
    }

    pub(crate) fn point_router(&mut self, targets: RouterSeen) {
        if let Some(member) = targets.write {
            // Sessions that are held and led to the same primary again have not noticed.
            if self.led_to != Some(member) {
                self.session += 1;
            }
            self.led_to = Some(member);
            let recorded = self.record.as_ref().map(|record| (record.primary, record.epoch));
            if recorded != Some((member, targets.epoch)) {
                self.broke(Kind::Misled, format!("sessions are led to {member}, the record says {recorded:?}"));
            }
        }
        self.router = targets;
    }

    /// What the router says: sessions with a write under way count as leaving while they are held.
    pub(crate) fn router_seen(&self) -> RouterSeen {
        let mut leaving = BTreeMap::new();
        for write in self.pending.iter().filter(|write| write.session == self.session) {
            if self.router.write != Some(write.member) {
                *leaving.entry(write.member).or_insert(0) += 1;
            }
        }
        RouterSeen { leaving: Some(leaving), ..self.router.clone() }
    }

    pub(crate) fn write_record(&mut self, record: Record) -> Result<(), String> {
        let is_change = self.record.as_ref().is_some_and(|old| old.primary != record.primary);
        if self.record.as_ref().is_some_and(|old| old.epoch > record.epoch || is_change && old.epoch >= record.epoch) {
            self.broke(Kind::Misled, format!("epoch {} is not later than the record's", record.epoch));
            return Err("the record on disk is later".to_owned());
        }
        if is_change {
            self.mark(Mark::FailedOver);
            let known = |member: Member| self.damages.of.contains_key(&member);
            let old = self.record.as_ref().map_or(record.primary, |old| old.primary);
            if known(record.primary) && !known(old) {
                self.broke(Kind::Data, format!("postgres-{}, known to be damaged, took over", record.primary));
            } else if known(old) {
                self.mark(Mark::DamagedLeft);
            }
            let log: BTreeSet<u64> = self.cluster.server(record.primary).log.iter().copied().collect();
            self.check_log(&log, &format!("postgres-{} took over", record.primary));
        }
        self.record = Some(record);
        Ok(())
    }

    /// Every acknowledged write is in this log.
    pub(crate) fn check_log(&mut self, log: &BTreeSet<u64>, when: &str) {
        let lost: Vec<u64> = self.acknowledged.iter().copied().filter(|id| !log.contains(id)).collect();
        if lost.is_empty() {
            return;
        }
        self.acknowledged.retain(|id| log.contains(id));
        if self.may_lose {
            self.lost_allowed += lost.len();
        } else {
            self.broke(Kind::LostWrite, format!("{} acknowledged writes are lost: {when}", lost.len()));
        }
    }

    /// Goes on to `now`: processes end, logs are copied, clients write and are answered.
    pub(crate) fn advance(&mut self, now: Timestamp) {
        self.now = now;
        let due: Vec<(ChildName, ExitReason)> = self
            .children
            .iter()
            .filter_map(|(name, child)| {
                let (at, reason) = child.ends_at.clone()?;
                (child.seen.ended.is_none() && at <= now).then(|| (name.clone(), reason))
            })
            .collect();
        for (name, reason) in due {
            self.end_in_order(&name, &reason);
            self.end(&name, reason, true);
        }
        self.cluster.replicate(now, &mut self.random);
        self.write();
        self.acknowledge();
        self.check();
    }

    /// A primary that ends in order sends its last record; nobody may have anything under way there then.
    fn end_in_order(&mut self, name: &ChildName, reason: &ExitReason) {
        let Some(member) = member_of(name).filter(|_| reason.is_success()) else { return };
        let process = self.cluster.server(member).process.as_ref();
        if process.is_none_or(|process| process.is_in_recovery || process.is_rogue) {
            return;
        }
        let is_cut = self.pending.iter().any(|write| write.member == member && write.session == self.session);
        if is_cut && !self.is_stopping && !self.forced {
            self.broke(Kind::Cut, format!("postgres-{member} was ended with a write under way"));
        }
        self.cluster.shut_down(member);
    }

    fn write(&mut self) {
        if self.now < self.next_write_at {
            return;
        }
        self.next_write_at = Timestamp::from_millis(self.now.as_millis() + WRITE_EVERY_MS);
        let router = ChildName::new("router").expect("a valid name");
        let Some(member) = self.router.write.filter(|_| self.answers(&router) && self.is_prepared) else { return };
        let is_frozen = self.cluster.server(member).process.as_ref().is_some_and(|process| process.is_frozen);
        let by_postmaster = self.cluster.answers(member, self.now)
            && self.cluster.server(member).process.as_ref().is_some_and(|process| !process.is_in_recovery);
        let by_orphans = self.cluster.server(member).orphans_until.is_some();
        if is_frozen || !(by_postmaster || by_orphans) {
            return;
        }
        let server = self.cluster.server_mut(member);
        server.log.push(self.next_write);
        let position = server.log.len();
        self.pending.push(Pending { id: self.next_write, member, position, session: self.session });
        self.next_write += 1;
    }

    /// A session to the router's target gets its answer once the commit is confirmed.
    fn acknowledge(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        for write in pending {
            let server = self.cluster.server(write.member);
            let is_orphan = server.process.is_none();
            let is_frozen = server.process.as_ref().is_some_and(|process| process.is_frozen);
            let is_there = server.log.get(write.position - 1) == Some(&write.id);
            if write.session != self.session || !self.cluster.can_write(write.member) || !is_there {
                continue;
            }
            if !is_frozen && self.cluster.is_confirmed(write.member, write.position) {
                self.acknowledged.push(write.id);
                if is_orphan {
                    self.mark(Mark::OrphanAcknowledged);
                }
            } else {
                self.pending.push(write);
            }
        }
    }

    fn check(&mut self) {
        let rogue =
            |member: &Member| self.cluster.server(*member).process.as_ref().is_some_and(|process| process.is_rogue);
        let members = self.cluster.servers.keys().copied();
        let writable: Vec<Member> = members.filter(|m| self.cluster.can_write(*m) && !rogue(m)).collect();
        if writable.len() > 1 && !self.broken.iter().any(|broken| broken.kind == Kind::SplitBrain) {
            self.broke(Kind::SplitBrain, format!("{writable:?} could take writes at once"));
        }
    }
}

pub(crate) fn after(from: Timestamp, millis: u64) -> Timestamp {
    from.after(std::time::Duration::from_millis(millis))
}

pub(crate) fn member_of(name: &ChildName) -> Option<Member> {
    Member::try_from(name.as_str().strip_prefix("postgres-")?.to_owned()).ok()
}
