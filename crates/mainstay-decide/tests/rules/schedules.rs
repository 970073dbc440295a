//! Rules about services that run on a schedule. The bench's runs every ten seconds, and a run may take 25.

use crate::support::{Bench, at, child, failed, report};
use mainstay_decide::invariants::{self, Rule};
use mainstay_decide::observed::RunningStep;
use mainstay_decide::plan::{Plan, Step};
use mainstay_decide::schedule::{Cause, Change, PassedOver, Run, RunEnd, ScheduleRecord};
use mainstay_types::{BoxId, ExitReason, Nonce, Seen, State, Waiting};

fn bench() -> Bench {
    let mut bench = Bench::ready();
    bench.now = at(100_001);
    bench
}

fn record(bench: &mut Bench) -> &mut ScheduleRecord {
    let seen = bench.observed.schedules.get_mut(&report()).expect("the bench is whole");
    seen.record.as_mut().expect("the bench is whole")
}

fn run(due: i64) -> Run {
    Run { due: at(due), nonce: Nonce::from_bytes([201; 16]), cause: Cause::Time }
}

/// A run of the bench is on disk, and its process runs since that moment.
fn running(bench: &mut Bench, since: i64) {
    bench.run_child("report-run");
    let seen = bench.children().get_mut(&child("report-run")).expect("the bench is whole");
    (seen.nonce, seen.since) = (run(0).nonce, at(since));
    record(bench).run = Some(run(since));
}

fn end(bench: &mut Bench, reason: ExitReason, millis: i64) {
    let seen = bench.children().get_mut(&child("report-run")).expect("the bench is whole");
    seen.ended = Some((reason, at(millis)));
}

fn written(bench: &Bench) -> (ScheduleRecord, Change) {
    let steps = bench.steps();
    let [Step::WriteSchedule { record, change, .. }] = steps.as_slice() else { panic!("{steps:?}") };
    (record.clone(), *change)
}

fn shown(bench: &Bench) -> mainstay_decide::plan::BoxPlan {
    bench.shown(BoxId::Service { name: report() })
}

#[test]
fn nothing_is_done_before_its_time() {
    let bench = bench();
    assert_eq!(bench.steps(), vec![]);
    assert_eq!((shown(&bench).state, shown(&bench).label.as_str()), (State::Ready, "every 10s"));
    assert_eq!(bench.plan().wake_at, Some(at(110_000)));
}

#[test]
fn a_run_is_on_disk_before_it_is_started() {
    let mut bench = bench();
    record(&mut bench).decided = at(90_000);
    let (begun, change) = written(&bench);
    assert_eq!(change, Change::Begun { missed: 0 });
    assert_eq!(begun.decided, at(100_000));
    let planned = begun.run.clone().expect("a run");
    assert_eq!((planned.due, planned.cause), (at(100_000), Cause::Time));
    *record(&mut bench) = begun;
    assert_eq!(bench.steps(), vec![Step::StartRun { service: report(), run: planned }]);
    assert_eq!(shown(&bench).state, State::Ready, "a run that comes and goes is no change of its state");
}

#[test]
fn a_run_that_is_on_disk_and_was_never_started_is_started_with_the_same_identity() {
    let mut bench = bench();
    record(&mut bench).run = Some(run(90_000));
    assert_eq!(bench.steps(), vec![Step::StartRun { service: report(), run: run(90_000) }]);
    // The end of an earlier run is no end of this one.
    bench.run_child("report-run");
    bench.end_child("report-run", 80_000);
    assert_eq!(bench.steps(), vec![Step::StartRun { service: report(), run: run(90_000) }]);
}

#[test]
fn nothing_is_started_while_nobody_knows_what_runs() {
    let mut bench = bench();
    record(&mut bench).run = Some(run(90_000));
    bench.observed.children = Seen::Unknown;
    assert_eq!(bench.steps(), vec![]);
}

#[test]
fn times_that_come_while_a_run_lasts_are_passed_over_and_said_so() {
    let mut bench = bench();
    running(&mut bench, 100_000);
    assert_eq!(bench.steps(), vec![]);
    assert_eq!(shown(&bench).label, "every 10s, runs now");
    bench.now = at(121_000);
    let (passed, change) = written(&bench);
    assert_eq!(change, Change::PassedOver { why: PassedOver::StillRunning, times: 2 });
    assert_eq!((passed.decided, passed.run.is_some()), (at(120_000), true));
    *record(&mut bench) = passed;
    assert_eq!(bench.steps(), vec![]);
}

#[test]
fn the_end_of_a_run_is_noted_once_and_the_next_time_is_not_doubled() {
    let mut bench = bench();
    running(&mut bench, 100_000);
    end(&mut bench, ExitReason::Code { code: 0 }, 100_001);
    let (over, change) = written(&bench);
    assert_eq!((change, over.run.as_ref()), (Change::Ended, None));
    assert!(over.last.as_ref().is_some_and(RunEnd::is_success));
    *record(&mut bench) = over;
    assert_eq!(bench.steps(), vec![]);
    assert_eq!(shown(&bench).state, State::Ready);
}

#[test]
fn a_failed_run_is_seen_until_one_ends_well_and_is_not_repeated() {
    let mut bench = bench();
    running(&mut bench, 100_000);
    end(&mut bench, ExitReason::Code { code: 3 }, 100_001);
    *record(&mut bench) = written(&bench).0;
    assert_eq!(bench.steps(), vec![]);
    let drawn = shown(&bench);
    assert_eq!(drawn.state, State::Degraded);
    assert!(drawn.reason.as_ref().is_some_and(|reason| reason.contains("exit 3") && reason.contains("logs report")));
    assert!(matches!(&drawn.waiting[0], Waiting::Dependency { on } if on.contains("UTC")), "{drawn:?}");
    record(&mut bench).run = Some(run(110_000));
    assert_eq!(shown(&bench).state, State::Degraded, "also while the next one runs");
}

#[test]
fn a_run_that_takes_too_long_is_ended_with_its_drain_and_has_failed() {
    let mut bench = bench();
    running(&mut bench, 80_000);
    bench.now = at(104_999);
    assert_eq!(bench.steps(), vec![]);
    assert_eq!(bench.plan().wake_at, Some(at(105_000)));
    bench.now = at(105_000);
    let steps = bench.steps();
    assert!(
        matches!(&steps[..], [Step::Stop { name, signal: 15, grace, .. }]
        if *name == child("report-run") && grace.as_secs() == 5),
        "{steps:?}"
    );
    end(&mut bench, ExitReason::Signal { signal: 15 }, 105_100);
    let last = written(&bench).0.last.expect("it is over");
    assert!(last.is_timed_out && !last.is_success() && last.how().contains("too long"), "{last:?}");
}

#[test]
fn missed_times_are_made_up_for_once() {
    let mut bench = bench();
    record(&mut bench).every = "hour at :15".parse().expect("a schedule");
    let schedule = bench.stack.services.get_mut(&report()).and_then(|service| service.schedule.as_mut());
    schedule.expect("it has one").every = "hour at :15".parse().expect("a schedule");
    // at(100_001) is 13:48:20; decided long before it.
    record(&mut bench).decided = at(100_001 - 3 * 3_600_000);
    let (begun, change) = written(&bench);
    assert_eq!(change, Change::Begun { missed: 2 });
    let planned = begun.run.expect("a run");
    assert_eq!((planned.due.to_string().get(11..19), planned.cause), (Some("13:15:00"), Cause::CatchUp));
    assert_eq!(begun.decided, planned.due);
    let schedule = bench.stack.services.get_mut(&report()).and_then(|service| service.schedule.as_mut());
    schedule.expect("it has one").catch_up = false;
    let (passed, change) = written(&bench);
    assert_eq!(change, Change::PassedOver { why: PassedOver::TooLate, times: 3 });
    assert_eq!(passed.run, None);
}

#[test]
fn a_run_that_is_due_waits_for_what_it_uses() {
    let mut bench = bench();
    record(&mut bench).decided = at(90_000);
    bench.observed.is_migrated = false;
    assert!(!bench.steps().iter().any(|step| matches!(step, Step::WriteSchedule { .. })));
    assert_ne!(shown(&bench).state, State::Ready);
}

/// A drill that killed the cache was credited with the failure of such a run long before.
#[test]
fn what_a_run_would_need_changes_nothing_between_two_runs() {
    for reason in [ExitReason::Code { code: 0 }, ExitReason::Code { code: 3 }] {
        let mut bench = bench();
        running(&mut bench, 100_000);
        end(&mut bench, reason.clone(), 100_001);
        *record(&mut bench) = written(&bench).0;
        let before = shown(&bench);
        let is_failed = before.state == State::Degraded;
        bench.observed.is_migrated = false;
        assert_eq!(shown(&bench), before, "{reason:?}: none is due");
        bench.now = at(110_000);
        let due = shown(&bench);
        assert!(due.state != State::Ready && !due.waiting.is_empty(), "it waits now: {due:?}");
        assert_eq!(due.state == State::Degraded, is_failed, "{due:?}");
        assert_eq!(due.reason, before.reason);
    }
}

#[test]
fn a_person_may_ask_for_a_run_between_times() {
    let mut bench = bench();
    let seen = bench.observed.schedules.get_mut(&report()).expect("the bench is whole");
    seen.asked_at = Some(at(100_001));
    let (begun, _) = written(&bench);
    assert_eq!(begun.decided, at(100_000), "no time is taken by it");
    assert_eq!(begun.run.expect("a run").cause, Cause::Person);
}

#[test]
fn a_new_or_changed_schedule_begins_with_its_next_time() {
    let mut bench = bench();
    record(&mut bench).every = "1d".parse().expect("a schedule");
    record(&mut bench).decided = at(0);
    let (first, change) = written(&bench);
    assert_eq!((change, first.decided, first.run), (Change::First, at(100_001), None));
    bench.observed.schedules.get_mut(&report()).expect("the bench is whole").record = None;
    assert_eq!(written(&bench).0.decided, at(100_001));
}

#[test]
fn a_clock_that_was_hours_ahead_does_not_silence_a_schedule_and_a_small_step_back_doubles_none() {
    let mut bench = bench();
    record(&mut bench).decided = at(100_000 + 7_200_000);
    assert_eq!(written(&bench).1, Change::First);
    record(&mut bench).decided = at(102_000);
    assert_eq!(bench.steps(), vec![]);
}

#[test]
fn what_cannot_be_started_fails_after_some_tries_and_does_not_block_the_schedule() {
    let mut bench = bench();
    record(&mut bench).run = Some(run(100_000));
    let key = Step::StartRun { service: report(), run: run(100_000) }.key();
    let failed = |attempts| failed(90_000, attempts, "no such program");
    bench.observed.failed.insert(key.clone(), failed(4));
    assert!(matches!(bench.steps()[..], [Step::StartRun { .. }]));
    bench.observed.failed.insert(key, failed(5));
    let (over, change) = written(&bench);
    assert_eq!(change, Change::Ended);
    assert!(over.last.is_some_and(|last| last.how().contains("no such program")));
}

#[test]
fn a_run_ends_with_the_services_and_its_end_is_noted_before_all_is_over() {
    let mut bench = bench();
    running(&mut bench, 100_000);
    bench.observed.is_stopping = true;
    bench.end_child("edge", 99_999);
    let steps = bench.steps();
    assert!(steps.iter().any(|step| matches!(step, Step::Stop { name, .. } if *name == child("report-run"))));
    for name in ["backend-1", "backend-2", "worker-1", "router", "cache", "store", "postgres-a", "postgres-b"] {
        bench.end_child(name, 99_999);
    }
    for name in ["prometheus", "alertmanager", "report-run"] {
        bench.end_child(name, 99_999);
    }
    let (over, _) = written(&bench);
    assert!(!bench.steps().contains(&Step::Finish));
    *record(&mut bench) = over;
    assert_eq!(bench.steps(), vec![Step::Finish]);
}

/// The rules that a plan with this step breaks.
fn broken(bench: &Bench, step: Step) -> Vec<Rule> {
    let plan = Plan { steps: vec![step], ..Plan::default() };
    invariants::check(&bench.stack, &bench.observed, &plan).into_iter().map(|violation| violation.rule).collect()
}

#[test]
fn a_second_run_an_unrecorded_run_and_a_repeated_one_break_the_rule() {
    let mut bench = bench();
    let start = Step::StartRun { service: report(), run: run(100_000) };
    assert_eq!(broken(&bench, start.clone()), vec![Rule::OneRunAtATime], "it is not on disk");
    let next = ScheduleRecord { run: Some(run(110_000)), decided: at(110_000), ..record(&mut bench).clone() };
    let begin = Step::WriteSchedule { service: report(), record: next, change: Change::Begun { missed: 0 } };
    assert_eq!(broken(&bench, begin.clone()), vec![]);
    running(&mut bench, 100_000);
    assert!(broken(&bench, begin).contains(&Rule::OneRunAtATime), "one is open");
    end(&mut bench, ExitReason::Code { code: 0 }, 100_001);
    let again = Step::StartRun { service: report(), run: run(100_000) };
    assert_eq!(broken(&bench, again), vec![Rule::OneRunAtATime], "it was started already");
    let back = ScheduleRecord { decided: at(90_000), ..record(&mut bench).clone() };
    let step = Step::WriteSchedule {
        service: report(),
        record: back,
        change: Change::PassedOver { why: PassedOver::TooLate, times: 1 },
    };
    assert_eq!(broken(&bench, step), vec![Rule::OneRunAtATime], "times would come again");
}

#[test]
fn a_step_on_the_run_under_way_keeps_others_away() {
    let mut bench = bench();
    record(&mut bench).decided = at(90_000);
    let key = Step::StartRun { service: report(), run: run(0) }.key();
    bench.observed.running.insert(key, RunningStep { since: at(100_000), what: "notes".to_owned() });
    assert_eq!(bench.steps(), vec![]);
}
