//! Counters: stale reads, time travel, values given twice or left out.

use mainstay_drill::checker::monotonic::{self, Duplicates, Gaps, Rules};
use mainstay_drill::checker::{Anomaly, Checked, Op, Operation, Outcome, Validity};
use proptest::prelude::*;

use crate::generate::{self, Plan};
use crate::support::{assert_finds, assert_valid, history, operation};

fn increment(process: u32, start: u64, value: u64) -> Operation {
    operation(process, start, start + 5, Op::Increment { key: 0, value: Some(value) }, Outcome::Ok)
}

fn without_value(process: u32, start: u64, outcome: Outcome) -> Operation {
    operation(process, start, start + 5, Op::Increment { key: 0, value: None }, outcome)
}

fn read(process: u32, start: u64, value: u64) -> Operation {
    operation(process, start, start + 5, Op::Read { key: 0, value: Some(value) }, Outcome::Ok)
}

fn check(operations: &[Operation]) -> Checked {
    monotonic::check(&history(operations), &Rules::default())
}

#[test]
fn a_counter_that_goes_up_by_one_is_right() {
    assert_valid(&check(&[
        increment(0, 0, 1),
        increment(1, 10, 2),
        read(2, 20, 2),
        increment(0, 30, 3),
        read(2, 40, 3),
    ]));
}

#[test]
fn a_read_below_an_acknowledged_value_is_stale() {
    let checked = check(&[increment(0, 0, 1), increment(0, 10, 2), read(1, 20, 1), read(1, 40, 2)]);
    assert_finds(&checked, &[(Anomaly::StaleRead, &[1, 2])]);
    assert_eq!(checked.findings[0].text, "key 0: read 2 gave 1 after increment 1 gave 2 was over");
}

#[test]
fn a_read_below_an_earlier_read_is_time_travel() {
    // The increment to 2 ended unknown; a read showed it, so it was there.
    let operations = [increment(0, 0, 1), without_value(0, 10, Outcome::Ambiguous), read(1, 20, 2), read(2, 30, 1)];
    assert_finds(&check(&operations), &[(Anomaly::TimeTravel, &[2, 3])]);
    assert_valid(&check(&operations[..3]));
}

#[test]
fn an_increment_that_goes_back_is_time_travel() {
    let operations =
        [increment(0, 0, 1), increment(0, 10, 2), increment(0, 20, 3), increment(1, 30, 2), read(1, 40, 3)];
    assert_finds(&check(&operations), &[(Anomaly::TimeTravel, &[2, 3]), (Anomaly::Duplicated, &[1, 3])]);
}

#[test]
fn a_value_given_twice_is_duplicated_unless_that_is_allowed() {
    let operations = [increment(0, 0, 1), increment(1, 0, 1), read(2, 20, 1)];
    assert_finds(&check(&operations), &[(Anomaly::Duplicated, &[0, 1])]);
    let allowed = Rules { duplicates: Duplicates::Allowed, ..Rules::default() };
    assert_valid(&monotonic::check(&history(&operations), &allowed));
    assert_valid(&check(&[increment(0, 0, 1), increment(1, 0, 2), read(2, 20, 2)]));
}

#[test]
fn a_value_left_out_needs_an_increment_of_unknown_outcome() {
    let operations = [increment(0, 0, 1), without_value(1, 10, Outcome::Failed), increment(0, 20, 3), read(0, 30, 3)];
    assert_finds(&check(&operations), &[(Anomaly::Gap, &[2, 1])]);
    let explained = [increment(0, 0, 1), without_value(1, 10, Outcome::Ambiguous), increment(0, 20, 3), read(0, 30, 3)];
    let checked = check(&explained);
    assert_valid(&checked);
    assert_eq!(checked.ambiguous_seen, 1);
    let sequence = Rules { gaps: Gaps::Allowed, ..Rules::default() };
    assert_valid(&monotonic::check(&history(&operations), &sequence));
}

#[test]
fn an_increment_that_began_later_explains_no_gap() {
    let operations =
        [increment(0, 0, 1), increment(0, 20, 3), without_value(1, 30, Outcome::Ambiguous), read(0, 40, 3)];
    assert_finds(&check(&operations), &[(Anomaly::Gap, &[1])]);
}

#[test]
fn keys_have_nothing_to_do_with_each_other() {
    let other = operation(1, 20, 25, Op::Read { key: 1, value: Some(0) }, Outcome::Ok);
    assert_valid(&check(&[increment(0, 0, 1), increment(0, 10, 2), other, read(2, 30, 2)]));
}

#[test]
fn a_base_other_than_zero_is_no_gap() {
    let operations = [increment(0, 0, 41), read(0, 10, 41)];
    assert_valid(&monotonic::check(&history(&operations), &Rules { base: 40, ..Rules::default() }));
    assert_finds(&check(&operations), &[(Anomaly::Gap, &[0])]);
}

#[test]
fn counters_that_nobody_read_are_unknown() {
    assert_eq!(check(&[increment(0, 0, 1)]).validity, Validity::Unknown);
}

proptest! {
    #[test]
    fn right_histories_pass(plan in generate::plans()) {
        assert_valid(&check(&generate::counters(&plan)));
    }

    #[test]
    fn a_last_read_that_is_one_short_is_found(plan in generate::plans(), key in 0_u32..2) {
        one_short(&plan, key)?;
    }

    #[test]
    fn an_increment_that_gives_a_used_value_is_found(plan in generate::plans(), pick in any::<prop::sample::Index>()) {
        given_twice(&plan, pick)?;
    }

    #[test]
    fn a_counter_that_skips_a_value_is_found(plan in generate::plans(), pick in any::<prop::sample::Index>()) {
        skipped(&plan, pick)?;
    }
}

/// The last read of a key gives less than was seen before.
fn one_short(plan: &[Plan], wanted: u32) -> Result<(), TestCaseError> {
    let mut operations = generate::counters(plan);
    let at = operations.len() - 2 + wanted as usize;
    let highest = operations[..operations.len() - 2].iter().filter_map(|operation| match operation.op {
        Op::Increment { key, value } | Op::Read { key, value } if key == wanted => value,
        _ => None,
    });
    let Some(highest) = highest.max().filter(|highest| *highest > 0) else {
        return Err(TestCaseError::reject("nothing was counted"));
    };
    operations[at].op = Op::Read { key: wanted, value: Some(highest - 1) };
    let checked = check(&operations);
    prop_assert_eq!(checked.validity, Validity::Invalid);
    let named = checked.findings.iter().all(|finding| {
        matches!(finding.anomaly, Anomaly::StaleRead | Anomaly::TimeTravel) && finding.operations.last() == Some(&at)
    });
    prop_assert!(named, "{:?}", checked.findings);
    Ok(())
}

fn increments(operations: &[Operation]) -> Vec<(usize, u32, u64)> {
    let value = |(at, operation): (usize, &Operation)| match operation.op {
        Op::Increment { key, value: Some(value) } => Some((at, key, value)),
        _ => None,
    };
    operations.iter().enumerate().filter_map(value).collect()
}

fn given_twice(plan: &[Plan], pick: prop::sample::Index) -> Result<(), TestCaseError> {
    let mut operations = generate::counters(plan);
    let all = increments(&operations);
    let pairs: Vec<(usize, usize, u32, u64)> = all
        .iter()
        .flat_map(|(a, key, value)| {
            all.iter().filter(move |(b, k, _)| k == key && b != a).map(|(b, ..)| (*a, *b, *key, *value))
        })
        .collect();
    prop_assume!(!pairs.is_empty());
    let (first, second, key, value) = *pick.get(&pairs);
    operations[second].op = Op::Increment { key, value: Some(value) };
    let checked = check(&operations);
    let is_named = checked.findings.iter().any(|finding| {
        finding.anomaly == Anomaly::Duplicated && finding.operations == [first.min(second), first.max(second)]
    });
    prop_assert!(is_named, "{:?}", checked.findings);
    Ok(())
}

fn skipped(plan: &[Plan], pick: prop::sample::Index) -> Result<(), TestCaseError> {
    let mut operations = generate::counters(plan);
    // With nothing unknown each gap is one.
    prop_assume!(operations.iter().all(|operation| operation.outcome != Outcome::Ambiguous));
    let all = increments(&operations);
    prop_assume!(!all.is_empty());
    let (_, key, from) = *pick.get(&all);
    for operation in &mut operations {
        if let Op::Increment { key: of, value: Some(value) } | Op::Read { key: of, value: Some(value) } =
            &mut operation.op
            && *of == key
            && *value >= from
        {
            *value += 1;
        }
    }
    let checked = check(&operations);
    prop_assert_eq!(checked.count_of(Anomaly::Gap), 1, "{:?}", checked.findings);
    prop_assert_eq!(checked.findings.len(), 1);
    Ok(())
}
