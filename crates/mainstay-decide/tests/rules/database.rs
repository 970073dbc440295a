//! The database's rules, one by one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{A, B, Bench, at, fact, failed};
use mainstay_decide::invariants;
use mainstay_decide::observed::{
    ControlFile, DataDirectory, Errand, FailedStep, MemberAnswer, MemberSeen, Record, RouterSeen, RunningStep, Wish,
};
use mainstay_decide::plan::{Plan, Step, StepKey};
use mainstay_stack::model::Durability;
use mainstay_types::{BoxId, ChildName, ExitReason, Lsn, Member, Seen, State, Timeline, Waiting};

fn record(steps: &[Step]) -> Option<&Record> {
    steps.iter().find_map(|step| match step {
        Step::WriteRecord { record } => Some(record),
        _ => None,
    })
}

#[test]
fn a_cluster_at_rest_needs_nothing() {
    assert_eq!(Bench::ready().steps(), vec![]);
}

#[test]
fn a_new_state_gets_a_cluster_in_a() {
    assert!(Bench::empty().steps().contains(&Step::InitPrimary { member: A }));
}

#[test]
fn a_half_finished_first_start_is_taken_up() {
    let mut bench = Bench::empty();
    bench.member(A, DataDirectory::Complete, Some(false), false, Seen::Unknown);
    bench.member(B, DataDirectory::Unfinished, None, false, Seen::Unknown);
    assert!(bench.steps().contains(&Step::StartPostgres { member: A, follow: None }));
}

#[test]
fn data_without_a_record_waits_for_a_person() {
    let mut bench = Bench::empty();
    bench.member(A, DataDirectory::Complete, Some(false), false, Seen::Unknown);
    bench.member(B, DataDirectory::Complete, Some(true), false, Seen::Unknown);
    let shown = bench.shown(BoxId::Postgres { member: A });
    assert!(matches!(shown.waiting[0], Waiting::Operator { .. }), "{shown:?}");
    assert!(!bench.steps().iter().any(|step| matches!(step, Step::StartPostgres { .. } | Step::InitPrimary { .. })));
}

#[test]
fn a_directory_that_is_not_ours_is_left_alone() {
    let mut bench = Bench::empty();
    bench.member(A, DataDirectory::Foreign, None, false, Seen::Unknown);
    let shown = bench.shown(BoxId::Postgres { member: A });
    assert_eq!(shown.state, State::Failed);
    assert!(!bench.steps().iter().any(|step| matches!(step, Step::InitPrimary { .. })));
}

#[test]
fn a_dead_primary_is_drawn_as_failed_and_the_standby_is_not() {
    let mut bench = Bench::ready();
    assert_eq!(bench.shown(BoxId::Postgres { member: A }).state, State::Ready);
    bench.kill_primary(fact(true, 99_990));
    let shown = bench.shown(BoxId::Postgres { member: A });
    assert_eq!((shown.state, shown.label.as_str()), (State::Failed, "primary"));
    assert_eq!(bench.shown(BoxId::Postgres { member: B }).state, State::Ready);
}

#[test]
fn a_dead_primary_is_fenced_while_the_failover_is_recorded() {
    let mut bench = Bench::ready();
    bench.kill_primary(fact(true, 99_990));
    let steps = bench.steps();
    assert_eq!(record(&steps).expect("the bench is whole").promoting, Some(B));
    assert_eq!(record(&steps).expect("the bench is whole").epoch, 1);
    assert!(steps.contains(&Step::Fence { member: A }));
    assert!(!steps.iter().any(|step| matches!(step, Step::Promote { .. } | Step::PointRouter { .. })));
}

#[test]
fn nothing_is_promoted_without_proof_of_death() {
    for is_alive in [Seen::Unknown, fact(true, 99_999), fact(false, 99_990)] {
        let mut bench = Bench::ready();
        bench.recorded().promoting = Some(B);
        bench.kill_primary(is_alive.clone());
        let steps = bench.steps();
        assert!(!steps.contains(&Step::Promote { member: B }), "from {is_alive:?}");
        assert!(steps.contains(&Step::Fence { member: A }), "from {is_alive:?}");
    }
}

#[test]
fn promotes_once_death_is_proven() {
    let mut bench = Bench::ready();
    bench.recorded().promoting = Some(B);
    bench.kill_primary(fact(false, 99_999));
    assert_eq!(bench.steps(), vec![Step::Promote { member: B }]);
}

#[test]
fn the_positive_control_promotes_without_a_fence() {
    let mut bench = Bench::ready();
    bench.observed.is_fencing_sabotaged = true;
    bench.recorded().promoting = Some(B);
    bench.kill_primary(fact(true, 99_999));
    assert_eq!(bench.steps(), vec![Step::Promote { member: B }]);
}

#[test]
fn the_record_names_the_new_primary_before_the_router_does() {
    let mut bench = Bench::ready();
    bench.recorded().promoting = Some(B);
    bench.kill_primary(fact(false, 99_999));
    let answer = bench.answer(B);
    (answer.is_in_recovery, answer.is_streaming, answer.timeline) = (false, false, Timeline(2));
    let steps = bench.steps();
    let new = record(&steps).expect("the bench is whole").clone();
    assert_eq!((new.epoch, new.primary, new.timeline, new.promoting), (2, B, Timeline(2), None));
    assert_eq!(new.candidates, vec![]);
    assert_eq!(steps.len(), 1, "{steps:?}");
    bench.record(new);
    let steps = bench.steps();
    assert!(steps.contains(&Step::PointRouter { epoch: 2, write: Some(B), read: vec![] }));
    assert!(!steps.iter().any(|step| matches!(step, Step::Clone { .. })), "clients first");
}

#[test]
fn the_old_primary_is_cloned_once_clients_are_led_away() {
    let mut bench = Bench::ready();
    bench.kill_primary(fact(false, 99_999));
    *bench.recorded() =
        Record { epoch: 2, primary: B, timeline: Timeline(2), lsn: Lsn::new(500), candidates: vec![], promoting: None };
    let answer = bench.answer(B);
    (answer.is_in_recovery, answer.is_streaming, answer.timeline) = (false, false, Timeline(2));
    bench.observed.router =
        fact(mainstay_decide::observed::RouterSeen { epoch: 2, write: Some(B), read: vec![], leaving: None }, 99_999);
    assert_eq!(bench.steps(), vec![Step::Clone { member: A, from: B }]);
    bench.database().members.get_mut(&A).expect("the bench is whole").has_standby_signal = Some(true);
    assert_eq!(bench.steps(), vec![Step::StartPostgres { member: A, follow: Some(B) }], "the copy is done");
}

#[test]
fn a_primary_without_a_candidate_is_started_in_place() {
    let mut bench = Bench::ready();
    bench.recorded().candidates.clear();
    bench.kill_primary(fact(false, 99_999));
    assert_eq!(bench.steps(), vec![Step::StartPostgres { member: A, follow: None }]);
}

#[test]
fn a_cold_start_begins_with_the_recorded_primary() {
    let mut bench = Bench::ready();
    bench.children().remove(&ChildName::postgres(A));
    bench.children().remove(&ChildName::postgres(B));
    for seen in bench.database().members.values_mut() {
        (seen.is_alive, seen.answer) = (fact(false, 99_990), Seen::Unknown);
    }
    let steps = bench.steps();
    assert_eq!(steps, vec![Step::StartPostgres { member: A, follow: None }]);
}

#[test]
fn silence_is_waited_out_then_ended_by_a_fence() {
    let mut bench = Bench::ready();
    bench.database().members.get_mut(&A).expect("the bench is whole").answer = Seen::Silent { since: at(97_100) };
    assert_eq!(bench.steps(), vec![], "2.9 s");
    assert_eq!(bench.plan().wake_at, Some(at(100_100)));
    bench.now = at(100_100);
    let steps = bench.steps();
    assert_eq!(record(&steps).expect("the bench is whole").promoting, Some(B));
    assert!(steps.contains(&Step::Fence { member: A }));
}

#[test]
fn silence_under_pressure_is_waited_out() {
    let mut bench = Bench::ready();
    bench.database().members.get_mut(&A).expect("the bench is whole").answer = Seen::Silent { since: at(86_000) };
    bench.database().is_under_pressure = true;
    assert_eq!(bench.steps(), vec![]);
    let shown = bench.shown(BoxId::Postgres { member: A });
    assert!(matches!(shown.waiting[0], Waiting::Silence { .. }), "{shown:?}");
    assert_eq!(shown.state, State::Degraded, "a person is told that it is borne");
    assert!(shown.reason.is_some_and(|reason| reason.contains("15 s at most")));
}

#[test]
fn pressure_that_never_ends_does_not_hide_a_frozen_primary() {
    let mut bench = Bench::ready();
    bench.database().members.get_mut(&A).expect("the bench is whole").answer = Seen::Silent { since: at(85_000) };
    bench.database().is_under_pressure = true;
    let steps = bench.steps();
    assert_eq!(record(&steps).expect("the bench is whole").promoting, Some(B));
    assert!(steps.contains(&Step::Fence { member: A }));
}

/// Compilers at idle priority are pressure by the kernel's count, and take nothing from a server: a primary that was
/// frozen beside them was borne for 15 s while its standby answered every look.
#[test]
fn pressure_does_not_explain_what_an_equal_on_the_same_machine_does_not_suffer() {
    let mut bench = Bench::ready();
    bench.database().is_under_pressure = true;
    bench.database().members.get_mut(&A).expect("the bench is whole").answer = Seen::Silent { since: at(97_000) };
    let promotes = |bench: &Bench| record(&bench.steps()).is_some_and(|record| record.promoting == Some(B));
    let steady = |bench: &mut Bench, since: Option<i64>| {
        bench.database().memory.entry(B).or_default().answers_since = since.map(at);
    };
    let asked = |bench: &mut Bench, millis: i64| {
        let seen = bench.database().members.get_mut(&B).expect("the bench is whole");
        if let Seen::Fact { observed_at, .. } = &mut seen.answer {
            *observed_at = at(millis);
        }
    };
    steady(&mut bench, Some(50_000));
    asked(&mut bench, 99_999);
    assert_eq!(bench.steps(), vec![], "nobody knows whether it answered for all of the 3 s");
    assert!(bench.plan().wake_at.is_some_and(|at| at > bench.now), "it is looked at again");
    asked(&mut bench, 100_000);
    assert!(promotes(&bench), "it answered for all of the 3 s");
    steady(&mut bench, Some(98_000));
    assert_eq!(bench.steps(), vec![], "2 s of steady answers prove nothing");
    assert_eq!(bench.plan().wake_at, Some(at(101_000)));
    steady(&mut bench, None);
    assert_eq!(bench.steps(), vec![], "it does not answer every look either");
    steady(&mut bench, Some(50_000));
    bench.database().members.get_mut(&B).expect("the bench is whole").answer = Seen::Silent { since: at(99_900) };
    assert_eq!(bench.steps(), vec![], "it is silent itself");
}

#[test]
fn a_member_answers_since_the_first_look_after_its_last_silence() {
    let mut bench = Bench::ready();
    let answers = bench.database().members[&B].clone();
    let silent = MemberSeen { answer: Seen::Silent { since: at(100_300) }, ..answers.clone() };
    let since = |bench: &mut Bench| bench.database().memory[&B].answers_since;
    bench.database().look(B, silent.clone(), at(99_995));
    bench.database().look(B, answers.clone(), at(100_000));
    bench.database().look(B, answers.clone(), at(100_250));
    assert_eq!(since(&mut bench), Some(at(100_000)));
    bench.database().look(B, silent, at(100_500));
    assert_eq!(since(&mut bench), None);
    bench.database().look(B, answers, at(100_750));
    assert_eq!(since(&mut bench), Some(at(100_750)));
}

#[test]
fn one_look_without_an_answer_paints_nothing_red() {
    let mut bench = Bench::ready();
    bench.database().members.get_mut(&A).expect("the bench is whole").answer = Seen::Silent { since: at(99_500) };
    assert_eq!(bench.shown(BoxId::Postgres { member: A }).state, State::Unknown);
    assert_eq!(bench.shown(BoxId::Router).state, State::Ready);
}

#[test]
fn an_answer_of_an_earlier_start_says_nothing() {
    let mut bench = Bench::ready();
    bench.children().get_mut(&ChildName::postgres(A)).expect("the bench is whole").since = at(99_995);
    assert_ne!(bench.shown(BoxId::Postgres { member: A }).state, State::Ready);
}

#[test]
fn a_lost_standby_leaves_the_record_before_commits_stop_waiting() {
    let mut bench = Bench::ready();
    bench.end_child("postgres-b", 99_995);
    let steps = bench.steps();
    assert_eq!(record(&steps).expect("the bench is whole").candidates, vec![]);
    assert!(!steps.iter().any(|step| matches!(step, Step::SetSynchronous { .. })));
    bench.recorded().candidates.clear();
    assert!(bench.steps().contains(&Step::SetSynchronous { primary: A, standbys: vec![] }));
}

#[test]
fn a_standby_without_a_directory_holds_nothing() {
    let mut bench = Bench::ready();
    bench.database().members.get_mut(&B).expect("the bench is whole").data = DataDirectory::Absent;
    let steps = bench.steps();
    assert_eq!(record(&steps).expect("the bench is whole").candidates, vec![]);
    assert!(steps.contains(&Step::Fence { member: B }), "{steps:?}");
    bench.end_child("postgres-a", 99_995);
    let steps = bench.steps();
    assert!(steps.iter().all(|step| !matches!(step, Step::WriteRecord { record } if record.promoting.is_some())));
}

#[test]
fn strict_never_stops_waiting() {
    let mut bench = Bench::ready().durability(Durability::Strict);
    bench.end_child("postgres-b", 99_995);
    bench.answer(A).standbys.clear();
    let steps = bench.steps();
    assert!(!steps.iter().any(|step| matches!(step, Step::SetSynchronous { .. })), "{steps:?}");
}

#[test]
fn a_standby_is_synchronous_before_it_is_a_candidate() {
    let mut bench = Bench::ready();
    bench.recorded().candidates.clear();
    bench.answer(A).synchronous.clear();
    assert_eq!(bench.steps(), vec![Step::SetSynchronous { primary: A, standbys: vec![B] }]);
    let mut bench = Bench::ready();
    bench.recorded().candidates.clear();
    bench.answer(A).standbys.insert(B, Lsn::new(499));
    assert_eq!(bench.steps(), vec![], "it has not flushed what was acknowledged before");
    bench.answer(A).standbys.insert(B, Lsn::new(500));
    assert_eq!(record(&bench.steps()).expect("the bench is whole").candidates, vec![B]);
}

#[test]
fn under_steady_load_a_standby_becomes_a_candidate() {
    let mut bench = Bench::ready();
    bench.recorded().candidates.clear();
    // Named since position 500; the log has grown since and the standby trails it, as ever.
    let answer = bench.answer(A);
    answer.lsn = Lsn::new(900);
    answer.standbys.insert(B, Lsn::new(880));
    assert_eq!(record(&bench.steps()).expect("the bench is whole").candidates, vec![B]);
}

#[test]
fn a_member_that_takes_writes_past_the_record_is_fenced() {
    let mut bench = Bench::ready();
    bench.recorded().candidates.clear();
    bench.answer(A).synchronous.clear();
    bench.answer(A).standbys.clear();
    let answer = bench.answer(B);
    (answer.is_in_recovery, answer.is_streaming) = (false, false);
    assert!(bench.steps().contains(&Step::Fence { member: B }));
    assert_eq!(bench.shown(BoxId::Postgres { member: B }).state, State::Failed);
}

#[test]
fn a_standby_without_a_stream_is_stopped_and_cloned_again() {
    let mut bench = Bench::ready();
    bench.recorded().candidates.clear();
    bench.answer(A).synchronous.clear();
    bench.answer(A).standbys.clear();
    bench.observed.router =
        fact(mainstay_decide::observed::RouterSeen { epoch: 1, write: Some(A), read: vec![], leaving: None }, 99_999);
    bench.answer(B).is_streaming = false;
    bench.database().memory.entry(B).or_default().detached_since = Some(at(90_001));
    assert_eq!(bench.steps(), vec![], "9.999 s");
    bench.now = at(100_001);
    assert!(matches!(bench.steps()[..], [Step::Stop { .. }]));
    bench.end_child("postgres-b", 100_050);
    // A stop is done once its child has ended. Counted as a change of whom it follows, it was started again for ever.
    bench.observed.done.insert(StepKey::Child { name: ChildName::postgres(B) }, at(100_052));
    bench.now = at(100_060);
    bench.database().members.get_mut(&B).expect("the bench is whole").is_alive = fact(false, 100_055);
    assert_eq!(bench.steps(), vec![Step::Clone { member: B, from: A }]);
    bench.database().cloned(B, at(100_060));
    assert_eq!(bench.steps(), vec![Step::StartPostgres { member: B, follow: Some(A) }]);
}

#[test]
fn the_member_to_take_over_is_started_again_when_it_dies() {
    let mut bench = Bench::ready();
    bench.recorded().promoting = Some(B);
    bench.kill_primary(fact(false, 99_999));
    bench.end_child("postgres-b", 99_995);
    bench.database().members.get_mut(&B).expect("the bench is whole").is_alive = fact(false, 99_999);
    assert_eq!(bench.steps(), vec![Step::StartPostgres { member: B, follow: Some(A) }]);
    bench.database().members.get_mut(&B).expect("the bench is whole").has_standby_signal = Some(false);
    assert_eq!(bench.steps(), vec![Step::StartPostgres { member: B, follow: None }], "it had finished");
}

#[test]
fn a_step_is_not_asked_for_twice_before_anybody_looked() {
    let mut bench = Bench::empty();
    let key = StepKey::Child { name: ChildName::postgres(A) };
    bench.observed.done.insert(key.clone(), at(99_000));
    assert!(!bench.steps().iter().any(|step| matches!(step, Step::InitPrimary { .. })));
    bench.observed.done.clear();
    let running = RunningStep { since: at(99_000), what: "makes a new cluster in postgres-a".to_owned() };
    bench.observed.running.insert(key, running);
    assert!(!bench.steps().iter().any(|step| matches!(step, Step::InitPrimary { .. })));
    assert_eq!(bench.shown(BoxId::Postgres { member: A }).state, State::Starting);
}

#[test]
fn a_failing_promotion_is_tried_again_within_a_quarter_second() {
    let mut bench = Bench::ready();
    bench.recorded().promoting = Some(B);
    bench.kill_primary(fact(false, 99_999));
    bench.observed.failed.insert(StepKey::Cluster, failed(99_800, 9, "timeout"));
    assert_eq!(bench.steps(), vec![]);
    bench.now = at(99_800).after(Duration::from_millis(250));
    assert_eq!(bench.steps(), vec![Step::Promote { member: B }]);
}

/// In `fast`: the primary is dead; the standby's position and what would be redone vary.
fn fallen_in_fast(standby: u64, redo_bytes: u64) -> Bench {
    let mut bench = Bench::ready().durability(Durability::Fast);
    bench.answer(A).synchronous.clear();
    bench.answer(B).lsn = Lsn::new(standby);
    bench.kill_primary(fact(false, 99_999));
    let written = 1 << 40;
    bench.database().memory.entry(A).or_default().written = Some(Lsn::new(written));
    let database = bench.database();
    let seen = database.members.get_mut(&A).expect("the bench is whole");
    let redo = Lsn::new(written - redo_bytes);
    seen.control = Some(ControlFile { is_shut_down: false, timeline: Timeline(1), checkpoint: redo, redo });
    if let Seen::Fact { observed_at, .. } = &mut database.members.get_mut(&B).expect("the bench is whole").answer {
        *observed_at = at(100_000);
    }
    bench
}

#[test]
fn in_fast_a_short_recovery_is_preferred_to_a_loss_and_a_long_one_is_not() {
    let mib = 1024 * 1024;
    let restarts = |bench: &Bench| bench.steps().contains(&Step::StartPostgres { member: A, follow: None });
    let promotes = |bench: &Bench| record(&bench.steps()).is_some_and(|record| record.promoting == Some(B));
    let behind = (1 << 40) - 8;
    assert!(restarts(&fallen_in_fast(behind, 10 * mib)));
    assert!(promotes(&fallen_in_fast(behind, 300 * mib)), "a recovery of many seconds");
    assert!(promotes(&fallen_in_fast(1 << 40, 10 * mib)), "nothing would be lost");
    let mut again = fallen_in_fast(behind, 10 * mib);
    again.children().get_mut(&ChildName::postgres(A)).expect("the bench is whole").quick_ends = 2;
    assert!(promotes(&again), "it was started again and ended again");
}

/// A directory that could not be started from (a port in use, a missing library) kept everybody waiting for ever.
#[test]
fn in_fast_a_fallen_primary_that_cannot_be_started_is_replaced() {
    let mut bench = fallen_in_fast((1 << 40) - 8, 0);
    let start = Step::StartPostgres { member: A, follow: None };
    assert!(bench.steps().contains(&start));
    let failed = FailedStep::after(None, &start, "no such program".to_owned(), at(99_999));
    bench.observed.failed.insert(start.key(), failed);
    assert_eq!(record(&bench.steps()).and_then(|record| record.promoting), Some(B), "{:?}", bench.steps());
}

#[test]
fn in_fast_a_candidate_is_judged_by_what_it_says_after_the_primarys_death() {
    let mut bench = fallen_in_fast(1, 0);
    let database = bench.database();
    if let Seen::Fact { observed_at, .. } = &mut database.members.get_mut(&B).expect("the bench is whole").answer {
        *observed_at = at(99_990);
    }
    assert_eq!(bench.steps(), vec![]);
}

/// B took over from A, which is dead; clients are led to B.
fn replaced(durability: Durability) -> Bench {
    let mut bench = Bench::ready().durability(durability);
    bench.kill_primary(fact(false, 99_999));
    bench.record(Record {
        epoch: 2,
        primary: B,
        timeline: Timeline(2),
        lsn: Lsn::new(500),
        candidates: vec![],
        promoting: None,
    });
    let answer = bench.answer(B);
    (answer.is_in_recovery, answer.is_streaming, answer.follows, answer.timeline) = (false, false, None, Timeline(2));
    bench.observed.router = fact(RouterSeen { epoch: 2, write: Some(B), read: vec![], leaving: None }, 99_990);
    let redo = Lsn::new(400);
    let seen = bench.database().members.get_mut(&A).expect("the bench is whole");
    seen.control = Some(ControlFile { is_shut_down: false, timeline: Timeline(1), checkpoint: redo, redo });
    bench
}

#[test]
fn a_former_primary_of_a_large_database_is_rewound_and_of_a_small_one_cloned() {
    let gib = 1 << 30;
    let rejoin = |durability, size: Option<u64>| {
        let mut bench = replaced(durability);
        bench.database().size_bytes = size;
        bench.steps().into_iter().find(|step| matches!(step, Step::Rewind { .. } | Step::Clone { .. }))
    };
    let (rewind, clone) = (Some(Step::Rewind { member: A, from: B }), Some(Step::Clone { member: A, from: B }));
    assert_eq!(rejoin(Durability::Balanced, Some(6 * gib)), rewind);
    assert_eq!(rejoin(Durability::Strict, Some(6 * gib)), rewind);
    assert_eq!(rejoin(Durability::Balanced, Some(5 * gib)), clone);
    assert_eq!(rejoin(Durability::Balanced, None), clone, "nobody knows its size");
    assert_eq!(rejoin(Durability::Fast, Some(6 * gib)), clone, "its log is the evidence of what was lost");
}

#[test]
fn a_rewind_that_failed_is_followed_by_a_clone() {
    let mut bench = replaced(Durability::Balanced);
    bench.database().size_bytes = Some(6 << 30);
    let key = Step::Rewind { member: A, from: B }.key();
    bench.observed.failed.insert(key, failed(90_000, 1, "no log"));
    bench.database().members.get_mut(&A).expect("the bench is whole").data = DataDirectory::Unfinished;
    assert!(bench.steps().contains(&Step::Clone { member: A, from: B }), "{:?}", bench.steps());
}

#[test]
fn another_standby_is_led_to_the_new_primary_without_a_restart() {
    let third = Member::nth(2).expect("a letter");
    let mut bench = replaced(Durability::Balanced);
    bench.stack.database.as_mut().expect("the bench is whole").standbys = 2;
    bench.run_child("postgres-c");
    let standby = MemberAnswer {
        is_in_recovery: true,
        timeline: Timeline(1),
        lsn: Lsn::new(480),
        is_streaming: false,
        follows: Some(A),
        synchronous: vec![],
        standbys: BTreeMap::new(),
    };
    bench.member(third, DataDirectory::Complete, Some(true), true, fact(standby, 99_990));
    let step = Step::Follow { member: third, primary: B };
    assert!(bench.steps().contains(&step), "{:?}", bench.steps());
    // Done, and nobody has looked since: not once more, and its time without a stream begins anew.
    bench.observed.done.insert(step.key(), at(99_995));
    bench.database().memory.entry(third).or_default().detached_since = Some(at(0));
    let is_about_it = |step: &Step| step.key() == StepKey::Child { name: ChildName::postgres(third) };
    assert!(!bench.steps().iter().any(is_about_it), "{:?}", bench.steps());
    bench.answer(third).follows = Some(B);
    assert!(!bench.steps().iter().any(is_about_it), "{:?}", bench.steps());
}

/// A failover, and a smaller number in the stack file since: the box of the process with the data was gone, and a standby
/// was kept that nobody asked for.
#[test]
fn without_standbys_the_one_member_is_the_recorded_primary_whatever_its_letter() {
    let mut bench = replaced(Durability::Balanced);
    bench.stack.database.as_mut().expect("the bench is whole").standbys = 0;
    assert!(bench.plan().boxes.iter().any(|shown| shown.id == BoxId::Postgres { member: B }), "{:?}", bench.plan());
    let is_about_the_other =
        |step: &Step| matches!(step, Step::Clone { member: A, .. } | Step::StartPostgres { member: A, .. });
    assert!(!bench.steps().iter().any(is_about_the_other), "{:?}", bench.steps());
}

/// The second `up` of a stack showed the end of the first as a failure, and on a slow machine gave up over it.
#[test]
fn a_primary_that_was_brought_down_in_order_has_not_failed() {
    let state = |reason: ExitReason| {
        let mut bench = Bench::ready();
        for member in [A, B] {
            let ended = Some((reason.clone(), at(99_000)));
            bench.children().get_mut(&ChildName::postgres(member)).expect("it runs").ended = ended;
            let seen = bench.database().members.get_mut(&member).expect("the bench is whole");
            (seen.is_alive, seen.answer) = (fact(false, 99_990), Seen::Unknown);
        }
        bench.shown(BoxId::Postgres { member: A }).state
    };
    assert_eq!(state(ExitReason::Code { code: 0 }), State::Starting);
    assert_eq!(state(ExitReason::Signal { signal: 9 }), State::Failed);
}

/// A person wants the past in place of the present; nobody may take over any more.
fn restoring(router: Seen<RouterSeen>) -> Bench {
    let mut bench = Bench::ready();
    bench.recorded().candidates.clear();
    let errand = Errand::Restore { incoming: "incoming".to_owned() };
    bench.observed.wish = Some(Wish { errand, asked_at: at(99_980), epoch: 1 });
    bench.observed.router = router;
    bench
}

fn held() -> Seen<RouterSeen> {
    fact(RouterSeen { epoch: 1, write: None, read: vec![], leaving: None }, 99_990)
}

/// A control plane that had just begun, or whose link to the router was down, took the data from under sessions.
#[test]
fn a_router_of_which_nothing_is_known_may_lead_sessions_to_what_is_replaced() {
    let stops = |bench: &Bench| bench.steps().iter().any(|step| matches!(step, Step::Stop { .. }));
    assert!(stops(&restoring(held())));
    for router in [Seen::Unknown, Seen::Silent { since: at(99_000) }] {
        let mut bench = restoring(router);
        assert_eq!(bench.steps(), vec![]);
        let waiting = bench.shown(BoxId::Postgres { member: A }).waiting;
        assert!(matches!(waiting[..], [Waiting::Observation { .. }]), "{waiting:?}");
        bench.end_child("router", 99_000);
        assert!(stops(&bench), "one that ended leads nobody");
    }
}

#[test]
fn an_exchange_of_the_data_under_a_router_of_which_nothing_is_known_is_refused() {
    let refused = |router, is_router_there: bool| {
        let mut bench = restoring(router);
        for name in ["postgres-a", "postgres-b"] {
            bench.end_child(name, 99_000);
        }
        for seen in bench.database().members.values_mut() {
            seen.is_alive = fact(false, 99_990);
        }
        if !is_router_there {
            bench.end_child("router", 99_000);
        }
        let swap = Step::SwapIn { primary: A, incoming: "incoming".to_owned() };
        let plan = Plan { steps: vec![swap], ..Plan::default() };
        !invariants::check(&bench.stack, &bench.observed, &plan).is_empty()
    };
    assert!(!refused(held(), true));
    assert!(refused(Seen::Unknown, true));
    assert!(refused(Seen::Silent { since: at(99_000) }, true));
    assert!(!refused(Seen::Unknown, false));
}
