//! What a person who has just typed `up` need not wait for.

use mainstay_decide::observed::{FailedStep, Health, RunningStep};
use mainstay_decide::plan::{Step, StepKey};
use mainstay_types::{BoxId, ChildName, ExitReason, InstanceId, ServiceName, State, Waiting};

use crate::support::{A, B, Bench, at, child, failed, instance};

fn key(name: &str) -> StepKey {
    StepKey::Child { name: child(name) }
}

fn end(bench: &mut Bench, name: &str, reason: ExitReason, quick_ends: u32) {
    let seen = bench.children().get_mut(&child(name)).expect("the bench is whole");
    (seen.ended, seen.quick_ends) = (Some((reason, at(99_999))), quick_ends);
}

fn fail(bench: &mut Bench, key: StepKey, attempts: u32) {
    bench.observed.failed.insert(key, failed(99_999, attempts, "no such thing"));
}

#[test]
fn a_stack_that_is_well_has_lost_nothing() {
    assert_eq!(Bench::ready().plan().lost, [].into());
    assert_eq!(Bench::empty().plan().lost, [].into());
}

#[test]
fn quick_ends_are_lost_when_they_are_a_crash_loop() {
    for name in ["worker-1", "edge", "prometheus"] {
        let mut bench = Bench::ready();
        end(&mut bench, name, ExitReason::Code { code: 3 }, 4);
        assert_eq!(bench.plan().lost, [].into());
        end(&mut bench, name, ExitReason::Code { code: 3 }, 5);
        let why = format!("{name} ended 5 times in a row, last by exit 3");
        assert_eq!(bench.plan().lost, [(key(name), why)].into());
    }
}

#[test]
fn a_start_that_was_never_ready_is_lost_with_its_last_answer_and_keeps_it_after_its_stop() {
    let mut bench = Bench::ready();
    bench.health(&instance(2), Health::NeverReady);
    bench.observed.health.get_mut(&instance(2)).expect("there").last = "GET /healthz on port 7: refused".to_owned();
    let why = "was not ready within 1m: GET /healthz on port 7: refused";
    assert_eq!(bench.plan().lost, [(key("backend-2"), format!("backend-2 {why}"))].into());
    // Stopped by our own SIGTERM: not that is why it does not run.
    end(&mut bench, "backend-2", ExitReason::Signal { signal: 15 }, 0);
    let shown = bench.shown(BoxId::Instance { id: instance(2) });
    assert_eq!(shown.reason, Some(format!("{why}; it is started again")));
}

#[test]
fn a_question_that_stays_wrong_is_lost_after_ten_seconds() {
    let mut bench = Bench::ready();
    bench.health(&instance(1), Health::Starting);
    let seen = bench.observed.health.get_mut(&instance(1)).expect("there");
    (seen.last, seen.wrong_since) = ("GET /healthz on port 7: 404".to_owned(), Some(at(90_001)));
    assert_eq!(bench.plan().lost, [].into());
    bench.now = at(100_001);
    let why = "backend-1 has answered for 10 s: GET /healthz on port 7: 404".to_owned();
    assert_eq!(bench.plan().lost, [(key("backend-1"), why)].into());
    // Once it was ready, that is a matter of its rotation and not of the start.
    bench.observed.health.get_mut(&instance(1)).expect("there").health = Health::Ready;
    assert_eq!(bench.plan().lost, [].into());
}

#[test]
fn steps_are_lost_after_some_tries_and_those_of_a_failover_never() {
    let backend = || StepKey::Before { service: ServiceName::new("backend").expect("valid") };
    let cases = [
        (backend(), 3, "no such thing"),
        (StepKey::Schema, 6, "no such thing"),
        (key("worker-1"), 5, "worker-1: does something failed: no such thing"),
    ];
    for (key, tries, why) in cases {
        let mut bench = Bench::ready();
        fail(&mut bench, key.clone(), tries - 1);
        assert_eq!(bench.plan().lost, [].into());
        fail(&mut bench, key.clone(), tries);
        assert_eq!(bench.plan().lost, [(key, why.to_owned())].into());
    }
    let mut bench = Bench::ready();
    fail(&mut bench, StepKey::Cluster, 1_000);
    assert_eq!(bench.plan().lost, [].into());
}

/// A fence that failed was told as a start, and after 2 s: a repair is tried four times a second.
#[test]
fn a_part_is_lost_after_thirteen_seconds_of_failures_with_what_failed() {
    let told = |step: &Step| {
        let mut bench = Bench::ready();
        let first = FailedStep::after(None, step, "no proof".to_owned(), at(80_000));
        let last = (1..30).fold(first, |before, n| {
            FailedStep::after(Some(&before), step, "no proof".to_owned(), at(80_000 + n * 250))
        });
        assert_eq!((last.since, last.attempts), (at(80_000), 30));
        bench.observed.failed.insert(step.key(), last);
        bench.now = at(92_999);
        assert_eq!(bench.plan().lost, [].into());
        bench.now = at(93_000);
        let why = bench.plan().lost.remove(&step.key());
        let running = RunningStep { since: at(92_000), what: step.to_string() };
        bench.observed.running.insert(step.key(), running);
        assert_eq!(bench.plan().lost, [].into(), "it is tried just now");
        why.expect("it is lost")
    };
    assert_eq!(told(&Step::Fence { member: B }), "postgres-b: fences postgres-b failed: no proof");
    let clone = Step::Clone { member: B, from: A };
    assert_eq!(told(&clone), "postgres-b: clones postgres-a to postgres-b failed: no proof");
    assert_eq!(told(&Step::StartChild { name: child("edge") }), "edge cannot be started: no proof");
}

#[test]
fn a_worker_that_has_just_started_says_what_it_waits_for() {
    let mut bench = Bench::ready();
    let id = InstanceId { service: ServiceName::new("worker").expect("valid"), slot: 1 };
    bench.health(&id, Health::Starting);
    bench.children().get_mut(&ChildName::instance(&id)).expect("there").since = at(99_000);
    let shown = bench.shown(BoxId::Instance { id });
    let waiting = vec![Waiting::Readiness { probe: "it to stay up for 3 s".to_owned() }];
    assert_eq!((shown.state, shown.waiting), (State::Starting, waiting));
    assert_eq!(bench.plan().wake_at, Some(at(102_000)));
}
