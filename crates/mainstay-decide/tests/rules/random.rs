//! Whatever is observed, the planner does not panic, keeps the invariants, and says what it waits for.

use std::collections::BTreeMap;

use crate::support::{A, B, Bench, at, child, failed, instance, report};
use mainstay_decide::invariants;
use mainstay_decide::observed::{
    ControlFile, DataDirectory, Errand, FailedStep, Health, Observed, RouterSeen, RunningStep, Wish,
};
use mainstay_decide::plan::{Step, StepKey, plan};
use mainstay_decide::replicas::{Served, StoreAnswer, StoreMemberSeen, StoreRecord, StoreSeen};
use mainstay_decide::schedule::{Cause, Run};
use mainstay_stack::model::Durability;
use mainstay_types::{ChildName, ExitReason, Lsn, Member, Nonce, Seen, State, Timeline, Timestamp};
use proptest::prelude::*;

/// Bytes that decide every disturbance; zeros disturb nothing, so that shrinking leads to the calm case.
struct Bytes<'a>(std::slice::Iter<'a, u8>);

impl Bytes<'_> {
    fn below(&mut self, limit: u8) -> u8 {
        self.0.next().copied().unwrap_or(0) % limit
    }

    fn is_rare(&mut self) -> bool {
        self.below(4) == 3
    }

    fn time(&mut self) -> Timestamp {
        at([99_990, 99_999, 95_000, 1_500, 99_960, 100_500, 90_000, 0][usize::from(self.below(8))])
    }

    fn member(&mut self) -> Member {
        if self.below(2) == 0 { A } else { B }
    }
}

fn disturb(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    let durability = [Durability::Balanced, Durability::Strict, Durability::Fast][usize::from(bytes.below(3))];
    bench.stack.database.as_mut().expect("the bench is whole").durability = durability;
    for name in ["postgres-a", "postgres-b", "backend-1", "router", "edge", "cache"] {
        if bytes.is_rare() {
            let ended_at = bytes.time();
            let quick_ends = u32::from(bytes.below(8));
            let seen = bench.children().get_mut(&child(name)).expect("the bench is whole");
            seen.ended = Some((ExitReason::Unknown, ended_at));
            seen.quick_ends = quick_ends;
        } else if bytes.is_rare() {
            bench.children().remove(&child(name));
        }
    }
    for member in [A, B] {
        disturb_member(bench, member, bytes);
    }
    disturb_record(bench, bytes);
    disturb_wish(bench, bytes);
    let observed = &mut bench.observed;
    if bytes.is_rare() {
        let write = if bytes.is_rare() { None } else { Some(bytes.member()) };
        let leaving = match bytes.below(3) {
            0 => None,
            left => Some([(A, u64::from(left))].into_iter().filter(|(_, left)| *left > 1).collect()),
        };
        let value = RouterSeen { epoch: u64::from(bytes.below(3)), write, read: vec![], leaving };
        observed.router = Seen::Fact { value, observed_at: at(99_000) };
    } else if bytes.is_rare() {
        observed.router = Seen::Unknown;
    }
    observed.is_stopping = bytes.below(8) == 7;
    observed.is_database_prepared = bytes.below(4) != 3;
    observed.is_migrated = bytes.below(4) != 3;
    if bytes.is_rare() {
        observed.health.remove(&instance(1));
    } else if bytes.is_rare() && bench.children().contains_key(&child("backend-1")) {
        bench.health(
            &instance(1),
            [Health::Starting, Health::Suspended, Health::NeverReady][usize::from(bytes.below(3))],
        );
    }
    disturb_schedule(bench, bytes);
    disturb_store(bench, bytes);
    disturb_steps(&mut bench.observed, bytes);
}

fn disturb_member(bench: &mut Bench, member: Member, bytes: &mut Bytes<'_>) {
    let looked_at = bytes.time();
    let database = bench.database();
    database.is_under_pressure = bytes.is_rare();
    database.size_bytes = bytes.is_rare().then_some(10 << 30);
    let seen = database.members.get_mut(&member).expect("the bench is whole");
    if bytes.is_rare() {
        seen.data = [DataDirectory::Absent, DataDirectory::Unfinished, DataDirectory::Foreign, DataDirectory::Unknown]
            [usize::from(bytes.below(4))];
    }
    if bytes.is_rare() {
        seen.has_standby_signal = [None, Some(true), Some(false)][usize::from(bytes.below(3))];
    }
    if bytes.is_rare() {
        seen.is_alive = Seen::Fact { value: bytes.below(2) == 1, observed_at: looked_at };
    } else if bytes.is_rare() {
        seen.is_alive = Seen::Unknown;
    }
    match &mut seen.answer {
        Seen::Fact { value: answer, observed_at } if bytes.is_rare() => {
            *observed_at = looked_at;
            answer.is_in_recovery = bytes.below(2) == 1;
            answer.is_streaming = bytes.below(2) == 1;
            answer.timeline = Timeline(u32::from(bytes.below(3)));
            answer.lsn = Lsn::new(u64::from(bytes.below(200)) * 5);
            answer.follows = [Some(A), Some(B), None][usize::from(bytes.below(3))];
            if bytes.below(2) == 1 {
                answer.synchronous.clear();
            }
            if bytes.below(2) == 1 {
                answer.standbys.clear();
            }
        }
        answer if bytes.is_rare() => *answer = Seen::Silent { since: looked_at },
        answer if bytes.is_rare() => *answer = Seen::Unknown,
        _ => {}
    }
    if bytes.is_rare() {
        bench.database().members.remove(&member);
    }
    if bytes.is_rare() {
        bench.database().damages.look(member, 1, looked_at);
    }
    if bytes.is_rare() {
        let memory = bench.database().memory.entry(member).or_default();
        memory.detached_since = Some(looked_at);
        memory.synchronous = None;
        memory.written = Some(Lsn::new(u64::from(bytes.below(200)) * 5));
    }
}

fn disturb_record(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    if bytes.is_rare() {
        bench.recorded().candidates.clear();
    }
    if bytes.is_rare() {
        bench.recorded().epoch = 2;
        bench.recorded().primary = B;
        bench.recorded().candidates.retain(|member| *member != B);
    }
    if bytes.is_rare() {
        let primary = bench.recorded().primary;
        bench.recorded().promoting = Some(if primary == A { B } else { A });
    }
    match bytes.below(16) {
        15 => bench.database().record = Seen::Unknown,
        14 => bench.database().record = Seen::Fact { value: None, observed_at: at(99_000) },
        _ => {}
    }
}

fn disturb_wish(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    if !bytes.is_rare() {
        return;
    }
    let member = bytes.member();
    let is_forced = bytes.is_rare();
    let errand = match bytes.below(4) {
        0 => Errand::Switchover { to: member, drain_ms: 1_000, is_forced },
        1 => Errand::Failover { to: member },
        2 => Errand::Restore { incoming: "incoming".to_owned() },
        _ => Errand::Restart { member },
    };
    let asked_at = bytes.time();
    bench.observed.wish = Some(Wish { errand, asked_at, epoch: u64::from(bytes.below(3)) + 1 });
    let control = ControlFile {
        is_shut_down: bytes.below(2) == 1,
        timeline: Timeline(u32::from(bytes.below(3))),
        checkpoint: Lsn::new(u64::from(bytes.below(200)) * 5),
        redo: Lsn::default(),
    };
    if let Some(seen) = bench.database().members.get_mut(&member) {
        seen.control = Some(control);
    }
    if bytes.below(2) == 1 {
        bench.observed.done.insert(StepKey::Checkpoint, bytes.time());
    }
}

/// A store with replicas, in any state of a failover.
fn disturb_store(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    if !bytes.is_rare() {
        return;
    }
    bench.stack.cache.as_mut().expect("the bench is whole").store_replicas = u32::from(bytes.below(3));
    if bytes.below(4) != 3 {
        bench.run_child("store-b");
    }
    for name in ["store", "store-b"] {
        let (is_ended, at, quick_ends) = (bytes.is_rare(), bytes.time(), u32::from(bytes.below(4)));
        if let Some(seen) = bench.children().get_mut(&child(name)).filter(|_| is_ended) {
            seen.ended = Some((ExitReason::Unknown, at));
            seen.quick_ends = quick_ends;
        }
    }
    let mut members = BTreeMap::new();
    for member in [A, B] {
        let port = if bytes.below(2) == 0 { 0 } else { 6379 };
        let (is_replica, has_link) = (bytes.below(2) == 0, bytes.below(2) == 0);
        let history = ["first", "second"][usize::from(bytes.below(2))].to_owned();
        let offset = u64::from(bytes.below(200));
        let served = (bytes.below(4) != 3).then(|| Served { history: "first".to_owned(), offset: offset / 2 });
        let is_on_disk = bytes.below(4) != 3;
        let value = StoreAnswer { is_replica, has_link, history, offset, is_on_disk, port };
        let answer = match bytes.below(4) {
            0 => Seen::Unknown,
            1 => Seen::Silent { since: bytes.time() },
            _ => Seen::Fact { value, observed_at: bytes.time() },
        };
        let file_bytes = u64::from(bytes.below(4)) * 100_000_000;
        members.insert(member, StoreMemberSeen { answer, file_bytes, is_restoring: bytes.is_rare(), served });
    }
    let value = StoreRecord { epoch: u64::from(bytes.below(3)), primary: bytes.member(), former: None };
    let record = if bytes.is_rare() { Seen::Unknown } else { Seen::Fact { value, observed_at: bytes.time() } };
    bench.observed.store = Some(StoreSeen { record, port: 6379, members });
}

fn disturb_schedule(bench: &mut Bench, bytes: &mut Bytes<'_>) {
    let run = Run { due: at(90_000), nonce: Nonce::from_bytes([202; 16]), cause: Cause::Time };
    if bytes.is_rare() {
        bench.run_child("report-run");
        if bytes.below(2) == 1 {
            bench.end_child("report-run", 95_000);
        }
        let stranger = Nonce::from_bytes([203; 16]);
        let nonce = if bytes.below(2) == 1 { run.nonce.clone() } else { stranger };
        bench.children().get_mut(&child("report-run")).expect("the bench is whole").nonce = nonce;
    }
    let decided = bytes.time();
    let seen = bench.observed.schedules.get_mut(&report()).expect("the bench is whole");
    if bytes.is_rare() {
        seen.asked_at = Some(at(99_000));
    }
    if bytes.is_rare() {
        seen.record.as_mut().expect("the bench is whole").run = Some(run);
    }
    if bytes.is_rare() {
        seen.record.as_mut().expect("the bench is whole").decided = decided;
    } else if bytes.below(8) == 7 {
        seen.record = None;
    }
    if bytes.below(16) == 15 {
        bench.observed.schedules.clear();
    }
}

fn disturb_steps(observed: &mut Observed, bytes: &mut Bytes<'_>) {
    let keys = [
        StepKey::Cluster,
        StepKey::Schema,
        StepKey::Child { name: ChildName::postgres(A) },
        StepKey::Child { name: ChildName::postgres(B) },
        StepKey::Child { name: child("backend-1") },
        StepKey::Child { name: child("report-run") },
    ];
    for key in keys {
        if bytes.is_rare() {
            let what =
                if bytes.is_rare() { Step::Fence { member: A }.to_string() } else { "does something".to_owned() };
            observed.running.insert(key.clone(), RunningStep { since: at(99_000), what });
        }
        if bytes.is_rare() {
            let attempts = u32::from(bytes.below(40));
            let at = bytes.time();
            observed.failed.insert(key.clone(), FailedStep { at, since: at, ..failed(0, attempts, "no") });
        }
        if bytes.is_rare() {
            observed.done.insert(key, bytes.time());
        }
    }
    if bytes.below(32) == 31 {
        observed.children = Seen::Unknown;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_observation_makes_the_planner_panic_or_break_an_invariant(bytes in proptest::collection::vec(any::<u8>(), 200)) {
        let mut bench = Bench::ready();
        disturb(&mut bench, &mut Bytes(bytes.iter()));
        let planned = plan(&bench.stack, &bench.observed, bench.now);
        let violations = invariants::check(&bench.stack, &bench.observed, &planned);
        prop_assert!(violations.is_empty(), "{}", violations[0]);
        for shown in &planned.boxes {
            let is_done = matches!(shown.state, State::Ready | State::Stopped | State::NotConfigured | State::Draining);
            prop_assert!(is_done || !shown.waiting.is_empty(), "{} is {} and waits for nothing", shown.id, shown.state);
        }
        prop_assert_eq!(&planned, &plan(&bench.stack, &bench.observed, bench.now));
    }
}
