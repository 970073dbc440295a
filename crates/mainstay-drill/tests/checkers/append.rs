//! Sets: losses, duplicates, resurrections, in three outcomes.

use mainstay_drill::checker::{Anomaly, Element, Op, Operation, Outcome, Validity, append};
use proptest::prelude::*;

use crate::generate::{self, Plan};
use crate::support::{assert_finds, assert_valid, history, operation};

fn add(process: u32, number: u64, start: u64, outcome: Outcome) -> Operation {
    operation(process, start, start + 5, Op::Append(Element(process, number)), outcome)
}

fn read(process: u32, start: u64, end: u64, elements: &[(u32, u64)]) -> Operation {
    let elements = elements.iter().map(|(process, number)| Element(*process, *number)).collect();
    operation(process, start, end, Op::ReadAll(elements), Outcome::Ok)
}

/// Three acknowledged, one failed, one unknown; by position 0 to 4.
fn writes() -> Vec<Operation> {
    vec![
        add(0, 1, 0, Outcome::Ok),
        add(0, 2, 10, Outcome::Ok),
        add(1, 1, 20, Outcome::Failed),
        add(1, 2, 30, Outcome::Ambiguous),
        add(0, 3, 40, Outcome::Ok),
    ]
}

fn with(reads: &[Operation]) -> mainstay_drill::checker::Checked {
    append::check(&history(&[writes(), reads.to_vec()].concat()))
}

#[test]
fn all_that_was_acknowledged_is_there_and_the_unknown_may_be() {
    let without = with(&[read(9, 100, 110, &[(0, 1), (0, 2), (0, 3)])]);
    assert_valid(&without);
    assert_eq!(
        (without.writes.ok, without.writes.failed, without.writes.ambiguous, without.ambiguous_seen),
        (3, 1, 1, 0)
    );
    let having = with(&[read(9, 100, 110, &[(0, 1), (0, 2), (1, 2), (0, 3)])]);
    assert_valid(&having);
    assert_eq!(having.ambiguous_seen, 1);
}

#[test]
fn an_acknowledged_element_that_is_gone_is_lost() {
    let checked = with(&[read(9, 100, 110, &[(0, 1), (0, 3)])]);
    assert_finds(&checked, &[(Anomaly::Lost, &[1, 5])]);
    assert_eq!(checked.findings[0].text, "read 5 misses 0-2, which append 1 was acknowledged before");
}

#[test]
fn an_element_that_is_there_twice_is_duplicated() {
    let checked = with(&[read(9, 100, 110, &[(0, 1), (0, 2), (0, 2), (0, 3)])]);
    assert_finds(&checked, &[(Anomaly::Duplicated, &[1, 5])]);
}

#[test]
fn a_failed_append_that_is_there_is_resurrected() {
    let checked = with(&[read(9, 100, 110, &[(0, 1), (0, 2), (1, 1), (0, 3)])]);
    assert_finds(&checked, &[(Anomaly::Resurrected, &[2, 5])]);
}

#[test]
fn an_element_that_nobody_appended_is_unexpected() {
    let checked = with(&[read(9, 100, 110, &[(0, 1), (0, 2), (0, 3), (7, 7)])]);
    assert_finds(&checked, &[(Anomaly::Unexpected, &[5])]);
    let early = append::check(&history(&[read(9, 0, 5, &[(0, 1)]), add(0, 1, 10, Outcome::Ok)]));
    assert_finds(&early, &[(Anomaly::Unexpected, &[1, 0])]);
}

#[test]
fn a_read_that_misses_what_a_later_one_has_is_stale_not_a_loss() {
    let late = read(8, 60, 70, &[(0, 1), (0, 3)]);
    let checked = with(&[late, read(9, 100, 110, &[(0, 1), (0, 2), (0, 3)])]);
    assert_finds(&checked, &[(Anomaly::StaleRead, &[1, 5])]);
}

#[test]
fn an_unknown_append_that_was_seen_must_stay() {
    let seen = read(8, 60, 70, &[(0, 1), (0, 2), (1, 2), (0, 3)]);
    let checked = with(&[seen.clone(), read(9, 100, 110, &[(0, 1), (0, 2), (0, 3)])]);
    assert_finds(&checked, &[(Anomaly::Lost, &[3, 5, 6])]);
    assert_valid(&with(&[seen.clone(), Operation { process: 9, start_us: 100, end_us: 110, ..seen }]));
}

#[test]
fn a_read_at_the_same_time_may_have_it_or_not() {
    let append = operation(0, 10, 30, Op::Append(Element(0, 1)), Outcome::Ok);
    assert_valid(&append::check(&history(&[append.clone(), read(9, 20, 40, &[])])));
    assert_valid(&append::check(&history(&[append, read(9, 20, 40, &[(0, 1)])])));
}

#[test]
fn what_was_never_read_back_is_unknown() {
    assert_eq!(with(&[]).validity, Validity::Unknown);
    let failed = Operation { outcome: Outcome::Failed, ..read(9, 100, 110, &[]) };
    assert_eq!(with(&[failed]).validity, Validity::Unknown);
}

#[test]
fn an_element_that_was_appended_twice_cannot_be_judged() {
    let twice = [add(0, 1, 0, Outcome::Ok), add(0, 1, 10, Outcome::Ok), read(9, 100, 110, &[(0, 1)])];
    assert_eq!(append::check(&history(&twice)).validity, Validity::Unknown);
}

/// What is done to a right history, and what must be found then.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Lose,
    Duplicate,
    Resurrect,
}

proptest! {
    #[test]
    fn right_histories_pass(plan in generate::plans()) {
        assert_valid(&append::check(&history(&generate::set(&plan))));
    }

    #[test]
    fn one_damaged_element_is_found_and_named(
        plan in generate::plans(),
        damage in prop_oneof![Just(Damage::Lose), Just(Damage::Duplicate), Just(Damage::Resurrect)],
        pick in any::<prop::sample::Index>(),
    ) {
        damaged(&plan, damage, pick)?;
    }
}

fn damaged(plan: &[Plan], damage: Damage, pick: prop::sample::Index) -> Result<(), TestCaseError> {
    let mut operations = generate::set(plan);
    let outcome = if matches!(damage, Damage::Resurrect) { Outcome::Failed } else { Outcome::Ok };
    let candidates: Vec<usize> = (0..operations.len())
        .filter(|at| matches!(operations[*at].op, Op::Append(_)) && operations[*at].outcome == outcome)
        .collect();
    prop_assume!(!candidates.is_empty());
    let victim = *pick.get(&candidates);
    let Op::Append(element) = operations[victim].op else { unreachable!() };
    let last = operations.len() - 1;
    let Op::ReadAll(elements) = &mut operations[last].op else { unreachable!("the last reads all") };
    let anomaly = match damage {
        Damage::Lose => {
            elements.retain(|one| *one != element);
            Anomaly::Lost
        }
        Damage::Duplicate => {
            elements.push(element);
            Anomaly::Duplicated
        }
        Damage::Resurrect => {
            elements.push(element);
            Anomaly::Resurrected
        }
    };
    assert_finds(&append::check(&history(&operations)), &[(anomaly, &[victim, last])]);
    Ok(())
}
