//! Rules about the whole stack: order of start and end, restarts, endpoints, boxes.

use crate::support::{A, B, Bench, at, child, fact, failed, instance};
use mainstay_decide::observed::{Health, Program};
use mainstay_decide::plan::Step;
use mainstay_types::{BoxId, ChildName, Seen, ServiceName, State, Waiting};

fn names(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

fn stopped(bench: &Bench) -> Vec<String> {
    let name = |step: Step| match step {
        Step::Stop { name, .. } => name.to_string(),
        other => other.to_string(),
    };
    bench.steps().into_iter().map(name).collect()
}

#[test]
fn everything_independent_starts_at_once() {
    let started = names(&Bench::empty().steps());
    for what in ["edge", "router", "cache", "store", "prometheus", "alertmanager"] {
        assert!(started.contains(&format!("starts {what}")), "{started:?}");
    }
    assert!(!started.iter().any(|step| step.contains("backend")), "{started:?}");
}

#[test]
fn services_wait_for_what_they_use() {
    let mut bench = Bench::ready();
    for name in ["backend-1", "backend-2", "worker-1"] {
        bench.children().remove(&child(name));
    }
    let backend = ServiceName::new("backend").expect("the bench is whole");
    bench.observed.before_done.clear();
    assert_eq!(bench.steps(), vec![Step::RunBefore { service: backend.clone() }]);
    bench.observed.before_done.insert(backend, at(1));
    let started = [Step::StartInstance { id: instance(1) }, Step::StartInstance { id: instance(2) }];
    assert_eq!(bench.steps(), started, "the worker needs the backend");
    bench.observed.redis.insert("store".to_owned(), Seen::Unknown);
    assert_eq!(bench.steps(), vec![]);
    bench.observed.redis.insert("store".to_owned(), fact((), 99_999));
    bench.observed.is_migrated = false;
    assert_eq!(bench.steps(), vec![Step::Migrate { primary: A }]);
}

#[test]
fn a_release_command_that_failed_is_said_while_it_is_tried_again() {
    let mut bench = Bench::ready();
    for name in ["backend-1", "backend-2"] {
        bench.children().remove(&child(name));
    }
    let backend = ServiceName::new("backend").expect("the bench is whole");
    bench.observed.before_done.clear();
    let step = Step::RunBefore { service: backend.clone() };
    let failed = |millis| failed(millis, 1, "exit 3\nno such table");
    for (failed_at, steps) in [(99_990, vec![]), (90_000, vec![step.clone()])] {
        bench.observed.failed.insert(step.key(), failed(failed_at));
        assert_eq!(bench.steps(), steps);
        let shown = bench.shown(BoxId::Service { name: backend.clone() });
        assert_eq!(shown.state, State::Failed);
        assert!(shown.reason.is_some_and(|reason| reason.contains("no such table")));
    }
}

#[test]
fn an_instance_is_restarted_alone_and_at_once_after_a_steady_run() {
    let mut bench = Bench::ready();
    bench.end_child("backend-1", 99_999);
    assert_eq!(bench.steps(), vec![Step::StartInstance { id: instance(1) }]);
    let shown = bench.shown(BoxId::Service { name: ServiceName::new("backend").expect("the bench is whole") });
    assert_eq!((shown.state, shown.label.as_str()), (State::Degraded, "1 of 2 ready"));
}

#[test]
fn an_instance_is_restarted_during_a_failover_because_the_router_holds() {
    let mut bench = Bench::ready();
    bench.kill_primary(fact(true, 99_999));
    bench.end_child("backend-1", 99_999);
    assert!(bench.steps().contains(&Step::StartInstance { id: instance(1) }));
}

#[test]
fn a_crash_loop_is_shown_and_still_retried() {
    let mut bench = Bench::ready();
    bench.end_child("backend-1", 99_999);
    let looping = bench.children().get_mut(&child("backend-1")).expect("the bench is whole");
    (looping.since, looping.quick_ends) = (at(99_990), 6);
    let shown = bench.shown(BoxId::Instance { id: instance(1) });
    assert_eq!(shown.state, State::CrashLoop);
    assert!(matches!(&shown.waiting[0], Waiting::BackOff { until, .. } if *until == at(103_199)), "{shown:?}");
    bench.now = at(103_199);
    bench.observed.database = Bench::ready().observed.database;
    assert!(names(&bench.steps()).contains(&"starts backend-1".to_owned()));
}

#[test]
fn an_instance_that_is_never_ready_is_stopped_with_its_drain() {
    let mut bench = Bench::ready();
    bench.health(&instance(2), Health::NeverReady);
    let steps = bench.steps();
    let drain = bench.stack.services[&ServiceName::new("backend").expect("the bench is whole")].drain;
    assert!(
        matches!(&steps[..], [Step::Stop { name, grace, signal: 15, .. }]
        if *name == child("backend-2") && *grace == drain),
        "{steps:?}"
    );
}

#[test]
fn only_running_and_ready_instances_take_requests() {
    let mut bench = Bench::ready();
    bench.end_child("backend-1", 99_999);
    bench.health(&instance(2), Health::Suspended);
    let endpoints = &bench.plan().endpoints["backend"];
    assert_eq!(endpoints.len(), 1);
    assert_eq!((&endpoints[0].instance, endpoints[0].is_ready), (&instance(2), false));
}

#[test]
fn instances_of_an_earlier_control_plane_keep_their_endpoints_until_they_were_asked() {
    let mut bench = Bench::ready();
    bench.observed.health.get_mut(&instance(1)).expect("the bench is whole").last.clear();
    assert!(!bench.plan().endpoints.contains_key("backend"), "the edge keeps what it has");
    bench.observed.children = Seen::Unknown;
    assert!(bench.plan().endpoints.is_empty());
}

#[test]
fn nothing_is_started_while_nobody_knows_what_runs() {
    let mut bench = Bench::ready();
    bench.observed.children = Seen::Unknown;
    let plan = bench.plan();
    assert_eq!(plan.steps, vec![]);
    assert!(
        plan.boxes
            .iter()
            .all(|shown| shown.state == State::Unknown && matches!(shown.waiting[0], Waiting::Observation { .. }))
    );
}

/// After a failover and with fewer standbys since, the box of the process with the data was gone while keep was away.
#[test]
fn the_recorded_primary_is_drawn_also_while_nobody_knows_what_runs() {
    let mut bench = Bench::ready();
    bench.stack.database.as_mut().expect("the bench is whole").standbys = 0;
    bench.recorded().primary = B;
    bench.observed.children = Seen::Unknown;
    let drawn = |member| bench.plan().boxes.iter().any(|shown| shown.id == BoxId::Postgres { member });
    assert!(drawn(B) && !drawn(A));
}

#[test]
fn a_missing_program_greys_its_boxes_and_the_rest_runs() {
    let mut bench = Bench::empty();
    bench.observed.missing.insert(Program::Postgres, "apt-get install postgresql".to_owned());
    bench.observed.missing.insert(Program::Prometheus, "apt-get install prometheus".to_owned());
    let shown = bench.shown(BoxId::Postgres { member: A });
    assert_eq!(shown.state, State::NotConfigured);
    assert!(shown.reason.expect("the bench is whole").contains("apt-get install postgresql"));
    let started = names(&bench.steps());
    assert!(started.contains(&"starts edge".to_owned()) && started.contains(&"starts alertmanager".to_owned()));
    assert!(!started.iter().any(|step| step.contains("postgres") || step.contains("prometheus")));
}

#[test]
fn the_end_comes_in_reverse_order() {
    let mut bench = Bench::ready();
    bench.observed.is_stopping = true;
    let stages: [&[&str]; 7] = [
        &["edge"],
        &["backend-1", "backend-2", "worker-1"],
        &["router"],
        &["cache", "store"],
        &["postgres-b"],
        &["postgres-a"],
        &["prometheus", "alertmanager"],
    ];
    for stage in stages {
        assert_eq!(stopped(&bench), stage);
        for name in stage {
            bench.end_child(name, 99_999);
        }
        let is_draining = bench.plan().endpoints.values().flatten().all(|endpoint| !endpoint.is_ready);
        assert!(is_draining, "after {stage:?}");
    }
    assert_eq!(bench.steps(), vec![Step::Finish]);
}

#[test]
fn a_primary_that_dies_during_the_end_is_not_failed_over() {
    let mut bench = Bench::ready();
    bench.observed.is_stopping = true;
    bench.kill_primary(fact(true, 99_999));
    assert_eq!(stopped(&bench), ["edge"]);
}

#[test]
fn postgresql_is_asked_for_a_fast_shutdown() {
    let mut bench = Bench::ready();
    bench.observed.is_stopping = true;
    for name in ["edge", "backend-1", "backend-2", "worker-1", "router", "cache", "store"] {
        bench.end_child(name, 99_999);
    }
    let steps = bench.steps();
    assert!(
        matches!(&steps[..], [Step::Stop { name, signal: 2, grace, .. }]
        if *name == ChildName::postgres(B) && grace.as_secs() == 60),
        "{steps:?}"
    );
}

#[test]
fn what_has_not_answered_since_its_start_is_starting_and_what_fell_silent_has_failed() {
    let state = |since: i64, now: i64| {
        let mut bench = Bench::ready();
        bench.children().get_mut(&child("prometheus")).expect("it runs").since = at(50_000);
        bench.observed.prometheus = Seen::Silent { since: at(since) };
        bench.now = at(now);
        (bench.shown(BoxId::Prometheus).state, stopped(&bench).contains(&"prometheus".to_owned()))
    };
    for since in [40_000, 50_000, 52_000] {
        assert_eq!(state(since, 90_000), (State::Starting, false), "silent since {since}");
        assert_eq!(state(since, 113_000), (State::Failed, true), "silent since {since}");
    }
    assert_eq!(state(60_000, 70_000), (State::Failed, false));
    assert_eq!(state(60_000, 75_000), (State::Failed, true));
    // Who is silent on a machine that has no time for anybody may only be waiting for it.
    let mut bench = Bench::ready();
    bench.observed.prometheus = Seen::Silent { since: at(60_000) };
    bench.database().is_under_pressure = true;
    bench.now = at(100_000);
    assert!(!stopped(&bench).contains(&"prometheus".to_owned()));
}

/// The control plane was stopped for some seconds: its first turn afterwards called the router degraded.
#[test]
fn an_answer_that_grew_old_while_nobody_looked_says_nothing_of_the_router() {
    let mut bench = Bench::ready();
    bench.now = at(110_000);
    assert_eq!(bench.shown(BoxId::Router).state, State::Unknown);
    assert_eq!(bench.steps(), vec![]);
    // One that has not answered since its start takes no writes.
    bench.children().get_mut(&child("postgres-a")).expect("it runs").since = at(105_000);
    assert_eq!(bench.shown(BoxId::Router).state, State::Degraded);
}
