//! A rollout, driven as the control plane drives it: each step that is planned has its effect, then the next plan.

use std::time::Duration;

use mainstay_api::Trial;
use mainstay_decide::fleet::Fleet;
use mainstay_decide::invariants;
use mainstay_decide::observed::{FailedStep, Health};
use mainstay_decide::plan::{Plan, Step, StepKey, plan};
use mainstay_decide::rollout::{Phase, Rollout, RolloutSeen, TRIAL_OVER, forget_work, of_trial, unlike, way};
use mainstay_stack::deploy::{Deploy, Strategy};
use mainstay_types::{ChildName, ExitReason, InstanceId, ServiceName};

use crate::support::*;

/// A world with a rollout in it.
struct World {
    bench: Bench,
    strategy: Strategy,
    /// Phases that were written, in order.
    phases: Vec<Phase>,
    /// Least number of instances of the backend that took requests at any time.
    least: usize,
    ended: Option<String>,
    is_committed: bool,
}

fn backend() -> ServiceName {
    ServiceName::new("backend").expect("the bench is whole")
}

impl World {
    fn new(strategy: Strategy) -> Self {
        let mut bench = Bench::ready();
        // A database is another story; here it is one that is always there.
        (bench.stack.database, bench.stack.cache) = (None, None);
        bench.observed.database = None;
        for part in ["postgres-a", "postgres-b", "router", "cache", "store"] {
            bench.children().remove(&child(part));
        }
        bench.observed.fleet = Fleet { release: 1, ..Fleet::default() };
        let rules = Deploy { strategy, step: Duration::from_secs(1), requests: 10, ..Deploy::new(None) };
        let record = Rollout {
            release: 2,
            from: 1,
            is_rollback: false,
            strategy,
            rules,
            began_at: bench.now,
            phase: Phase::Migrate,
            since: bench.now,
            fleet: bench.observed.fleet.next(&bench.stack, &bench.stack, 2),
            was: None,
            is_paused: false,
            is_promoted: false,
            trial: None,
        };
        let stack = Box::new(bench.stack.clone());
        bench.observed.rollout = Some(RolloutSeen { record, stack, requests: 0, verdict: None });
        Self { bench, strategy, phases: Vec::new(), least: usize::MAX, ended: None, is_committed: false }
    }

    fn seen(&mut self) -> &mut RolloutSeen {
        self.bench.observed.rollout.as_mut().expect("a rollout is under way")
    }

    fn start(&mut self, id: &InstanceId) {
        self.bench.run_child(&id.to_string());
        let now = self.bench.now;
        self.bench.children().get_mut(&ChildName::instance(id)).expect("just started").since = now;
    }

    fn end(&mut self, name: &ChildName, reason: ExitReason) {
        let now = self.bench.now;
        self.bench.children().get_mut(name).expect("it ran").ended = Some((reason, now));
    }

    fn phase(&mut self) -> Phase {
        self.seen().record.phase.clone()
    }

    fn new_slots(&mut self) -> Vec<InstanceId> {
        let name = backend();
        let service = self.bench.stack.services[&name].clone();
        self.seen().record.fleet.instances(&name, &service)
    }

    /// Plans, keeps the rules, carries out; 100 ms later.
    fn turn(&mut self) -> Plan {
        let planned = plan(&self.bench.stack, &self.bench.observed, self.bench.now);
        let broken = invariants::check(&self.bench.stack, &self.bench.observed, &planned);
        assert!(broken.is_empty(), "{broken:?}");
        let endpoints = planned.endpoints.get("backend").map_or(0, |all| all.iter().filter(|one| one.is_ready).count());
        self.least = self.least.min(endpoints);
        for step in &planned.steps {
            self.carry_out(step);
        }
        self.bench.now = self.bench.now.after(Duration::from_millis(100));
        planned
    }

    fn carry_out(&mut self, step: &Step) {
        let now = self.bench.now;
        match step {
            Step::WriteRollout { rollout } => {
                self.phases.push(rollout.phase.clone());
                forget_work(&mut self.bench.observed);
                let seen = self.seen();
                seen.record = (**rollout).clone();
                seen.requests = 0;
            }
            Step::StartNew { id, .. } | Step::StartInstance { id } => {
                self.start(id);
                self.bench.health(id, Health::Ready);
            }
            Step::Stop { name, .. } => self.end(name, ExitReason::Code { code: 0 }),
            Step::CommitRelease { .. } => self.is_committed = true,
            Step::EndRollout { reason, .. } => {
                self.ended = Some(reason.clone());
                self.bench.observed.rollout = None;
            }
            Step::ReleaseWork { .. } => {}
            _ => return,
        }
        self.bench.observed.done.insert(step.key(), now);
    }

    /// Until it is over; every turn the new release answers so many requests.
    fn run(&mut self, requests: u64) {
        for _ in 0..2000 {
            if self.is_committed || self.ended.is_some() {
                return;
            }
            self.turn();
            if let Some(seen) = &mut self.bench.observed.rollout {
                seen.requests += requests;
            }
        }
        panic!(
            "{:?} does not end: it is at {:?}",
            self.strategy,
            self.bench.observed.rollout.as_ref().map(|seen| &seen.record.phase)
        );
    }

    fn until(&mut self, wanted: impl Fn(&Phase) -> bool) {
        for _ in 0..500 {
            if wanted(&self.phase()) {
                return;
            }
            self.turn();
            self.seen().requests += 10;
        }
        panic!("never came there; it is at {:?}", self.phase());
    }

    fn running(&self) -> Vec<String> {
        let children = self.bench.observed.children.value().expect("known");
        let running =
            children.iter().filter(|(name, child)| name.as_str().starts_with("backend-") && child.ended.is_none());
        running.map(|(name, _)| name.to_string()).collect()
    }
}

#[test]
fn every_strategy_ends_with_the_new_release_alone_and_never_less_than_the_old_had() {
    for strategy in [Strategy::Rolling, Strategy::BlueGreen, Strategy::Canary] {
        let mut world = World::new(strategy);
        world.run(10);
        assert!(world.is_committed, "{strategy}");
        assert_eq!(world.running(), ["backend-3", "backend-4"], "{strategy}");
        assert!(world.least >= 2, "{strategy}: {} of two took requests", world.least);
        assert_eq!(world.phases.last(), Some(&Phase::Commit));
    }
}

#[test]
fn a_trial_runs_no_migration_and_is_taken_back_after_its_watch_unless_it_is_kept() {
    for strategy in [Strategy::Rolling, Strategy::BlueGreen, Strategy::Canary] {
        for is_kept in [true, false] {
            let mut world = World::new(strategy);
            // Of a real rollout it would be the end.
            let at = world.bench.now;
            let what = "runs migrations".to_owned();
            let failed = FailedStep { since: at, at, attempts: 1, what, error: "V4: syntax".to_owned() };
            world.bench.observed.failed.insert(StepKey::Release, failed);
            let rules = of_trial(world.seen().record.rules.clone());
            assert!(rules.bake <= Duration::from_secs(3) && rules.requests == 0);
            world.seen().record.rules = rules;
            world.seen().record.trial = Some(Trial { is_kept });
            // Nobody asks: a drill's rollout does not wait for traffic.
            world.run(0);
            assert_eq!(world.is_committed, is_kept, "{strategy}");
            assert!(world.phases.contains(&Phase::Bake), "{strategy}: {:?}", world.phases);
            if !is_kept {
                assert_eq!(world.ended.as_deref(), Some(TRIAL_OVER), "{strategy}");
                assert_eq!(world.running(), ["backend-1", "backend-2"], "{strategy}");
            }
            assert!(world.least >= 2, "{strategy}: {} of two took requests", world.least);
        }
    }
}

#[test]
fn a_new_release_gets_no_traffic_before_its_smoke_tests_and_then_step_by_step() {
    let mut world = World::new(Strategy::Canary);
    let mut shares = Vec::new();
    for _ in 0..400 {
        let planned = world.turn();
        let share = planned.shares.get("backend").map(|share| share.basis_points);
        if shares.last() != Some(&share) {
            shares.push(share);
        }
        if world.is_committed {
            break;
        }
        world.seen().requests += 10;
    }
    assert_eq!(shares, [Some(0), Some(100), Some(1000), Some(5000), Some(10_000)]);
}

#[test]
fn a_canary_that_nobody_asks_waits_and_says_so_until_a_person_promotes_it() {
    let mut world = World::new(Strategy::Canary);
    world.until(|phase| matches!(phase, Phase::Shift { step: 0 }));
    world.seen().requests = 0;
    let mut said = String::new();
    for _ in 0..50 {
        said = world.turn().rollout.unwrap_or_default();
    }
    assert_eq!(world.phase(), Phase::Shift { step: 0 });
    assert!(said.contains("not enough traffic to judge, 0 of 10 requests"), "{said}");
    world.seen().record.is_promoted = true;
    world.turn();
    assert_eq!(world.phase(), Phase::Shift { step: 1 });
}

#[test]
fn whatever_goes_wrong_the_old_release_serves_as_before() {
    for strategy in [Strategy::Rolling, Strategy::BlueGreen, Strategy::Canary] {
        for wrong in ["exit", "never-ready", "suspended", "verdict", "crash-at-start"] {
            let mut world = World::new(strategy);
            let is_start = wrong == "never-ready" || wrong == "crash-at-start";
            if is_start {
                world.until(|phase| *phase == Phase::Start);
                world.turn();
            } else {
                world.until(|phase| *phase == Phase::Bake);
            }
            let first = world.new_slots()[0].clone();
            match wrong {
                "exit" => world.end(&ChildName::instance(&first), ExitReason::Signal { signal: 9 }),
                "never-ready" => world.bench.health(&first, Health::NeverReady),
                "suspended" => world.bench.health(&first, Health::Suspended),
                "crash-at-start" => {
                    world.end(&ChildName::instance(&first), ExitReason::Code { code: 1 });
                    let name = ChildName::instance(&first);
                    world.bench.children().get_mut(&name).expect("ran").quick_ends = 3;
                }
                _ => world.seen().verdict = Some("more errors".to_owned()),
            }
            world.run(0);
            assert!(!world.is_committed, "{strategy} {wrong}");
            let reason = world.ended.clone().expect("taken back");
            assert!(reason.contains("backend-3") || reason.contains("more errors"), "{strategy} {wrong}: {reason}");
            assert_eq!(world.running(), ["backend-1", "backend-2"], "{strategy} {wrong}");
            assert!(world.least >= 1, "{strategy} {wrong}: nobody took requests");
        }
    }
}

#[test]
fn a_migration_that_fails_starts_nothing() {
    let mut world = World::new(Strategy::Rolling);
    let at = world.bench.now;
    let failed =
        FailedStep { since: at, at, attempts: 1, what: "runs migrations".to_owned(), error: "V4: syntax".to_owned() };
    world.bench.observed.failed.insert(StepKey::Release, failed);
    world.run(0);
    assert!(
        world.ended.as_deref().is_some_and(|why| why.contains("migrations failed: V4: syntax")),
        "{:?}",
        world.ended
    );
    assert_eq!(world.running(), ["backend-1", "backend-2"]);
    let is_back = |phase: &Phase| matches!(phase, Phase::Back { .. });
    assert!(world.phases.iter().all(is_back), "{:?}", world.phases);
}

#[test]
fn what_ended_in_a_slot_before_the_rollout_says_nothing_of_the_new_release() {
    let mut world = World::new(Strategy::BlueGreen);
    let began = world.bench.now;
    let id = world.new_slots()[0].clone();
    world.start(&id);
    world.end(&ChildName::instance(&id), ExitReason::Code { code: 1 });
    let name = ChildName::instance(&id);
    let before = world.bench.children().get_mut(&name).expect("ran");
    before.quick_ends = 9;
    before.since = mainstay_types::Timestamp::from_millis(1);
    world.seen().record.began_at = began;
    world.run(0);
    assert!(world.is_committed, "{:?}", world.ended);
}

#[test]
fn a_paused_rollout_stays_and_a_fault_still_takes_it_back() {
    let mut world = World::new(Strategy::BlueGreen);
    world.until(|phase| *phase == Phase::Bake);
    world.seen().record.is_paused = true;
    for _ in 0..300 {
        world.turn();
    }
    assert_eq!(world.phase(), Phase::Bake);
    world.seen().verdict = Some("more slow answers".to_owned());
    world.run(0);
    assert_eq!(world.ended.as_deref(), Some("more slow answers"));
}

#[test]
fn a_service_that_only_the_new_release_has_is_ended_when_that_is_taken_back() {
    let mut world = World::new(Strategy::BlueGreen);
    let added = ServiceName::new("added").expect("a name");
    let service = world.bench.stack.services[&backend()].clone();
    world.seen().stack.services.insert(added, service);
    world.until(|phase| *phase == Phase::Bake);
    let runs = |world: &World, name: &str| {
        let children = world.bench.observed.children.value().expect("known");
        children.get(&child(name)).is_some_and(|child| child.ended.is_none())
    };
    assert!(runs(&world, "added-1"));
    world.seen().verdict = Some("more errors".to_owned());
    world.run(0);
    assert_eq!(world.ended.as_deref(), Some("more errors"));
    assert!(!runs(&world, "added-1") && !runs(&world, "added-2"));
}

#[test]
fn a_service_that_the_new_release_has_no_more_stands_until_the_end() {
    let mut world = World::new(Strategy::Rolling);
    world.seen().stack.services.remove(&ServiceName::new("worker").expect("a name"));
    world.until(|phase| *phase == Phase::Bake);
    let runs = |world: &World| {
        let children = world.bench.observed.children.value().expect("known");
        children.get(&child("worker-1")).is_some_and(|child| child.ended.is_none())
    };
    assert!(runs(&world));
    world.run(10);
    assert!(world.is_committed && !runs(&world));
}

#[test]
fn a_control_plane_that_has_just_begun_takes_nothing_back_for_want_of_a_look() {
    let mut world = World::new(Strategy::Canary);
    world.until(|phase| matches!(phase, Phase::Shift { step: 0 }));
    world.seen().record.rules.timeout = Duration::from_secs(1);
    for _ in 0..30 {
        world.seen().requests = 0;
        world.turn();
    }
    let known = std::mem::take(&mut world.bench.observed.health);
    let said = world.turn().rollout.unwrap_or_default();
    assert!(matches!(world.phase(), Phase::Shift { step: 0 }), "{said}");
    world.bench.observed.health = known;
    world.seen().requests = 100;
    world.run(10);
    assert!(world.is_committed, "{:?}", world.ended);
}

#[test]
fn a_rolling_release_that_is_watched_has_all_traffic_and_an_old_instance_beside_it() {
    let mut world = World::new(Strategy::Rolling);
    world.until(|phase| *phase == Phase::Bake);
    for _ in 0..20 {
        world.turn();
    }
    let share = world.turn().shares.get("backend").map(|share| share.basis_points);
    assert_eq!(share, Some(10_000));
    assert_eq!(world.running().len(), 3, "{:?}", world.running());
}

#[test]
fn each_phase_does_its_own_work_also_when_the_clock_was_set_back() {
    let mut world = World::new(Strategy::BlueGreen);
    world.seen().record.rules.smoke = vec!["/healthz".to_owned()];
    let later = world.bench.now.after(Duration::from_secs(60));
    let mut asked = 0;
    for _ in 0..100 {
        let planned = world.turn();
        let is_work = |step: &&Step| matches!(step, Step::ReleaseWork { .. });
        let done = planned.steps.iter().filter(is_work).count();
        if done > 0 {
            // As if the clock had stood ahead when it was done.
            world.bench.observed.done.insert(StepKey::Release, later);
        }
        asked += done;
        if world.is_committed {
            break;
        }
    }
    assert_eq!(asked, 2, "release commands and smoke tests, once each");
}

#[test]
fn a_service_on_a_schedule_may_become_one_that_stands() {
    let mut world = World::new(Strategy::BlueGreen);
    let standing = world.bench.stack.services[&backend()].clone();
    world.seen().stack.services.insert(report(), standing);
    world.run(10);
    assert!(world.is_committed, "{:?}", world.ended);
    let children = world.bench.observed.children.value().expect("known");
    assert!(children.contains_key(&child("report-1")));
}

#[test]
fn the_way_is_asked_for_and_a_folder_and_an_earlier_release_have_their_own() {
    let rules = || Deploy { strategy: Strategy::Rolling, ..Deploy::new(None) };
    assert_eq!(way(None, rules(), false, false).0, Strategy::Rolling);
    assert_eq!(way(None, rules(), true, false).0, Strategy::BlueGreen, "it could not be started again");
    assert_eq!(way(Some(Strategy::Canary), rules(), true, false).0, Strategy::Canary);
    let (strategy, back) = way(None, rules(), false, true);
    assert_eq!((strategy, back.bake), (Strategy::BlueGreen, Duration::ZERO));
}

#[test]
fn what_no_rollout_changes_is_named() {
    let bench = Bench::empty();
    let mut next = bench.stack.clone();
    next.services.clear();
    assert_eq!(unlike(&bench.stack, &next), None, "services are what a rollout is for");
    next.edge.https_port += 1;
    assert!(unlike(&bench.stack, &next).is_some_and(|what| what.contains("ports")));
    next.database.as_mut().expect("the bench is whole").standbys += 1;
    assert_eq!(unlike(&bench.stack, &next), Some("[database]"));
}
