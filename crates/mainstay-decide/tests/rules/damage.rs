//! Damaged pages, rule by rule.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{A, B, Bench, at, fact, failed};
use mainstay_decide::damage::{Copies, Page, successor};
use mainstay_decide::invariants::{self, Rule};
use mainstay_decide::observed::{DataDirectory, Errand, RouterSeen, Wish};
use mainstay_decide::plan::{Plan, Step};
use mainstay_decide::wish;
use mainstay_stack::model::Durability;
use mainstay_types::{BoxId, ChildName, Member, Seen, State, Waiting};

/// A cluster at rest in which these members met a damaged page.
fn damaged(members: &[Member]) -> Bench {
    let mut bench = Bench::ready();
    for member in members {
        let page = Page { file: "base/5/16384".to_owned(), block: 3 };
        bench.database().damages.found(*member, page, at(99_000));
    }
    bench
}

fn router(bench: &mut Bench, read: Vec<Member>, leaving: BTreeMap<Member, u64>) {
    bench.observed.router = fact(RouterSeen { epoch: 1, write: Some(A), read, leaving: Some(leaving) }, 99_990);
}

fn stops(steps: &[Step], name: &str) -> bool {
    steps.iter().any(|step| matches!(step, Step::Stop { name: one, .. } if one.as_str() == name))
}

#[test]
fn a_damaged_standby_leaves_the_record_then_commits_then_reads_and_is_stopped_last() {
    let mut bench = damaged(&[B]);
    let steps = bench.steps();
    assert!(
        matches!(&steps[..], [Step::WriteRecord { record }] if record.candidates.is_empty()),
        "first nobody relies on it: {steps:?}"
    );
    bench.recorded().candidates = vec![];
    assert_eq!(bench.steps(), [Step::SetSynchronous { primary: A, standbys: vec![] }]);
    bench.answer(A).synchronous = vec![];
    assert_eq!(bench.steps(), [Step::PointRouter { epoch: 1, write: Some(A), read: vec![] }]);
    router(&mut bench, vec![], BTreeMap::from([(B, 2)]));
    assert_eq!(bench.steps(), [], "statements that read there end first");
    let shown = bench.shown(BoxId::Postgres { member: B });
    assert!(shown.waiting.iter().any(|one| matches!(one, Waiting::Drain { .. })), "{shown:?}");
    assert_eq!(shown.state, State::Degraded);
    assert!(shown.reason.is_some_and(|reason| reason.contains("block 3 of base/5/16384")));
    router(&mut bench, vec![], BTreeMap::new());
    assert!(stops(&bench.steps(), "postgres-b"));
    bench.now = at(99_000).after(Duration::from_secs(31));
    router(&mut bench, vec![], BTreeMap::from([(B, 2)]));
    let Seen::Fact { observed_at, .. } = &mut bench.observed.router else { panic!("it answers") };
    *observed_at = bench.now;
    for member in [A, B] {
        let seen = bench.database().members[&member].clone();
        let now = bench.now;
        bench.database().look(member, seen, now);
        if let Seen::Fact { observed_at, .. } =
            &mut bench.database().members.get_mut(&member).expect("it is there").answer
        {
            *observed_at = now;
        }
    }
    assert!(stops(&bench.steps(), "postgres-b"), "what takes longer is ended with it");
}

#[test]
fn a_stopped_standby_with_damaged_pages_is_cloned_and_not_started() {
    let mut bench = damaged(&[B]);
    bench.recorded().candidates = vec![];
    bench.answer(A).synchronous = vec![];
    bench.answer(A).standbys = BTreeMap::new();
    router(&mut bench, vec![], BTreeMap::new());
    bench.end_child("postgres-b", 99_995);
    bench.member(B, DataDirectory::Complete, Some(true), false, Seen::Unknown);
    bench.database().members.get_mut(&B).expect("it is there").is_alive = fact(false, 99_996);
    assert_eq!(bench.steps(), [Step::Clone { member: B, from: A }]);
    bench.database().cloned(B, at(99_999));
    assert!(bench.database().damages.of.is_empty(), "another directory, of whole pages");
}

#[test]
fn where_every_member_is_damaged_nothing_is_replaced_and_a_person_is_told() {
    let mut bench = damaged(&[A, B]);
    assert_eq!(successor(&bench.stack, &bench.observed, bench.now), None);
    assert_eq!(
        bench.steps(),
        [Step::PointRouter { epoch: 1, write: Some(A), read: vec![] }],
        "the standby still confirms commits, and nobody reads there"
    );
    router(&mut bench, vec![], BTreeMap::new());
    assert_eq!(bench.steps(), []);
    let shown = bench.shown(BoxId::Postgres { member: A });
    assert_eq!(shown.state, State::Degraded);
    assert!(
        matches!(&shown.waiting[..], [Waiting::Operator { what }] if what.contains("mainstay restore")),
        "{shown:?}"
    );
}

#[test]
fn a_damaged_primary_makes_place_for_a_standby_that_met_none() {
    let mut bench = damaged(&[A]);
    let next = |bench: &Bench| successor(&bench.stack, &bench.observed, bench.now);
    assert_eq!(next(&bench), Some(B));
    assert_eq!(bench.steps(), [], "the planner itself changes no primary");
    bench.database().damages.asked_at = Some(at(70_000));
    assert_eq!(next(&bench), None, "it was asked for just now");
    bench.database().damages.asked_at = Some(at(40_000));
    assert_eq!(next(&bench), Some(B));
    bench.observed.wish = Some(Wish { errand: Errand::Restart { member: B }, asked_at: at(99_000), epoch: 1 });
    assert_eq!(next(&bench), None, "what a person asked for goes first");
    bench.observed.wish = None;
    bench.recorded().candidates = vec![];
    assert_eq!(next(&bench), None, "commits have not waited for it");
    assert_eq!(successor(&Bench::ready().stack, &Bench::ready().observed, bench.now), None, "nothing is damaged");
}

#[test]
fn a_damaged_standby_takes_over_neither_by_itself_nor_when_asked() {
    let mut bench = damaged(&[B]);
    let errand = Errand::Switchover { to: B, drain_ms: 0, is_forced: false };
    let refusal = wish::refusal(&bench.stack, &bench.observed, &errand, bench.now);
    assert!(refusal.is_some_and(|reason| reason.contains("damaged")));
    bench.kill_primary(fact(false, 99_999));
    let steps = bench.steps();
    assert!(steps.contains(&Step::StartPostgres { member: A, follow: None }), "{steps:?}");
    assert!(!steps.iter().any(|step| matches!(step, Step::WriteRecord { record } if record.promoting.is_some())));
}

#[test]
fn a_damaged_standby_takes_over_from_a_primary_that_cannot_be_started_any_more() {
    let mut bench = damaged(&[B]);
    bench.kill_primary(fact(false, 99_999));
    let ended = bench.children().get_mut(&ChildName::postgres(A)).expect("it is there");
    ended.quick_ends = 9;
    let steps = bench.steps();
    let promoting = |step: &Step| matches!(step, Step::WriteRecord { record } if record.promoting == Some(B));
    assert!(steps.iter().any(promoting), "{steps:?}");
}

#[test]
fn in_strict_the_only_standby_is_left_to_a_person() {
    let mut bench = damaged(&[B]).durability(Durability::Strict);
    assert_eq!(bench.steps(), [Step::PointRouter { epoch: 1, write: Some(A), read: vec![] }]);
    router(&mut bench, vec![], BTreeMap::new());
    assert_eq!(bench.steps(), [], "writes would wait for as long as a clone takes");
    let shown = bench.shown(BoxId::Postgres { member: B });
    assert!(matches!(&shown.waiting[..], [Waiting::Operator { what }] if what.contains("standbys = 2")), "{shown:?}");
}

#[test]
fn a_former_primary_with_damaged_pages_is_no_candidate_for_a_rewind() {
    let bench = damaged(&[B]);
    let plan = |step: Step| Plan { steps: vec![step], ..Plan::default() };
    let rules = |step| -> Vec<Rule> {
        let found = invariants::check(&bench.stack, &bench.observed, &plan(step));
        found.into_iter().map(|violation| violation.rule).collect()
    };
    assert!(rules(Step::PointRouter { epoch: 1, write: Some(A), read: vec![B] }).contains(&Rule::DamagedStaysBehind));
    let mut record = bench.observed.database.as_ref().and_then(|seen| seen.record.value()?.clone()).expect("a record");
    record.promoting = Some(B);
    assert!(rules(Step::WriteRecord { record }).contains(&Rule::DamagedStaysBehind));
    assert!(rules(Step::Rewind { member: B, from: A }).contains(&Rule::DataIsKept));
}

/// A disk that damages page after page had its standby cloned without an end.
#[test]
fn a_standby_that_was_cloned_often_in_a_row_rests_and_says_so() {
    let mut bench = damaged(&[B]);
    bench.database().damages.copies.insert(B, Copies { at: at(98_000), count: 6 });
    let steps = bench.steps();
    let is_left = |step: &Step| matches!(step, Step::WriteRecord { .. } | Step::Clone { .. } | Step::Stop { .. });
    assert!(!steps.iter().any(is_left), "it confirms commits meanwhile: {steps:?}");
    let shown = bench.shown(BoxId::Postgres { member: B });
    assert!(shown.reason.is_some_and(|reason| reason.contains("cloned anew 6 times in a row")));
    assert!(matches!(&shown.waiting[..], [Waiting::Operator { what }] if what.contains("disk")), "{:?}", shown.waiting);
    assert!(bench.plan().wake_at.is_some_and(|wake| wake <= at(698_000)));
    bench.database().damages.copies.insert(B, Copies { at: at(98_000), count: 5 });
    assert!(matches!(&bench.steps()[..], [Step::WriteRecord { .. }]), "a few are made at once");
    bench.database().damages.copies.insert(B, Copies { at: at(98_000_000), count: 9 });
    assert!(matches!(&bench.steps()[..], [Step::WriteRecord { .. }]), "a clock that was ahead holds nothing up");
}

/// It waited for a standby that can never be made, and each try, every ten seconds, read the whole primary.
#[test]
fn a_damaged_primary_without_a_standby_is_not_copied_all_the_time_and_a_person_is_told() {
    let mut bench = damaged(&[A]);
    bench.recorded().candidates = vec![];
    bench.answer(A).synchronous = vec![];
    bench.answer(A).standbys = BTreeMap::new();
    router(&mut bench, vec![], BTreeMap::new());
    bench.observed.router = fact(RouterSeen { epoch: 1, write: Some(A), read: vec![], leaving: None }, 99_990);
    bench.end_child("postgres-b", 50_000);
    bench.member(B, DataDirectory::Absent, None, false, Seen::Unknown);
    let clone = Step::Clone { member: B, from: A };
    assert_eq!(bench.steps(), std::slice::from_ref(&clone), "it may be whole where the copy is");
    let key = clone.key();
    bench.observed.failed.insert(key.clone(), failed(85_000, 1, "a page is damaged"));
    assert_eq!(bench.steps(), []);
    assert!(bench.plan().wake_at.is_some_and(|wake| wake <= at(685_000)));
    let shown = bench.shown(BoxId::Postgres { member: A });
    assert!(matches!(&shown.waiting[..], [Waiting::Operator { what }] if what.contains("REINDEX")), "{shown:?}");
    bench.database().damages.of.clear();
    assert_eq!(bench.steps(), [clone], "the table was dropped");
}
