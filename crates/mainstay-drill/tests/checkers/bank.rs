//! Banks: torn transactions, money spent twice, transfers lost, risen or seen late.

use std::collections::BTreeMap;

use mainstay_drill::checker::bank::{self, Negative, Rules};
use mainstay_drill::checker::{Anomaly, Checked, Op, Operation, Outcome, Validity};
use proptest::prelude::*;

use crate::generate::{self, ACCOUNTS, EACH, Plan};
use crate::support::{assert_finds, assert_valid, history, operation};

fn transfer(process: u32, start: u64, (from, to, amount): (u32, u32, i64), outcome: Outcome) -> Operation {
    operation(process, start, start + 5, Op::Transfer { from, to, amount }, outcome)
}

fn read(start: u64, balances: [i64; 3]) -> Operation {
    let balances = (0..).zip(balances).collect();
    operation(9, start, start + 5, Op::Balances(balances), Outcome::Ok)
}

fn rules() -> Rules {
    let initial: BTreeMap<u32, i64> = BTreeMap::from([(0, 100), (1, 100), (2, 100)]);
    Rules { total: 300, initial: Some(initial), negative: Negative::Forbidden }
}

fn check(operations: &[Operation]) -> Checked {
    bank::check(&history(operations), &rules())
}

/// 10 from 0 to 1, 7 from 1 to 2 fails, 5 from 2 to 0 ends unknown.
fn transfers() -> Vec<Operation> {
    vec![
        transfer(0, 0, (0, 1, 10), Outcome::Ok),
        transfer(1, 10, (1, 2, 7), Outcome::Failed),
        transfer(1, 20, (2, 0, 5), Outcome::Ambiguous),
    ]
}

fn with(reads: &[Operation]) -> Checked {
    check(&[transfers(), reads.to_vec()].concat())
}

#[test]
fn the_balances_are_those_that_the_transfers_lead_to() {
    let without = with(&[read(100, [90, 110, 100])]);
    assert_valid(&without);
    assert_eq!(without.ambiguous_seen, 0);
    let having = with(&[read(100, [95, 110, 95])]);
    assert_valid(&having);
    assert_eq!(having.ambiguous_seen, 1);
}

#[test]
fn half_a_transaction_is_a_wrong_total_and_the_transfer_in_flight_is_named() {
    // Of 10 from 0 to 1 only the taking is seen, while it is in flight.
    let torn =
        [operation(0, 0, 30, Op::Transfer { from: 0, to: 1, amount: 10 }, Outcome::Ok), read(10, [90, 100, 100])];
    let last = read(100, [90, 110, 100]);
    assert_finds(&check(&[torn.to_vec(), vec![last.clone()]].concat()), &[(Anomaly::WrongTotal, &[0, 1])]);
    let whole = [torn[0].clone(), read(10, [90, 110, 100]), last.clone()];
    assert_valid(&check(&whole));
    let before = [torn[0].clone(), read(10, [100, 100, 100]), last];
    assert_valid(&check(&before));
}

#[test]
fn a_total_that_stays_wrong_is_named_once_with_what_happened_since_it_was_right() {
    let right = read(6, [90, 110, 100]);
    let wrong = [read(100, [90, 110, 95]), read(110, [90, 110, 95])];
    assert_finds(&with(&[right, wrong[0].clone(), wrong[1].clone()]), &[(Anomaly::WrongTotal, &[4, 3])]);
}

#[test]
fn money_spent_twice_is_a_negative_balance() {
    // Both saw 100 on account 0: a write skew. The total does not show it.
    let spent = [transfer(0, 0, (0, 1, 100), Outcome::Ok), transfer(1, 0, (0, 2, 100), Outcome::Ok)];
    let operations = [spent.to_vec(), vec![read(100, [-100, 200, 200])]].concat();
    assert_finds(&check(&operations), &[(Anomaly::NegativeBalance, &[0, 1, 2])]);
    let allowed = Rules { negative: Negative::Allowed, ..rules() };
    assert_valid(&bank::check(&history(&operations), &allowed));
    let refused =
        [spent[0].clone(), Operation { outcome: Outcome::Failed, ..spent[1].clone() }, read(100, [0, 200, 100])];
    assert_valid(&check(&refused));
}

#[test]
fn an_acknowledged_transfer_that_is_gone_is_lost() {
    assert_finds(&with(&[read(100, [100, 100, 100])]), &[(Anomaly::Lost, &[0, 3])]);
    // Also when one of unknown outcome is there.
    assert_finds(&with(&[read(100, [105, 100, 95])]), &[(Anomaly::Lost, &[0, 3])]);
}

#[test]
fn a_failed_transfer_that_is_there_is_resurrected() {
    assert_finds(&with(&[read(100, [90, 103, 107])]), &[(Anomaly::Resurrected, &[1, 3])]);
}

#[test]
fn a_read_that_misses_a_transfer_which_the_last_one_has_is_stale() {
    let operations = [read(50, [100, 100, 100]), read(100, [90, 110, 100])];
    assert_finds(&with(&operations), &[(Anomaly::StaleRead, &[0, 3])]);
}

#[test]
fn balances_that_no_transfer_explains_are_named_with_the_difference() {
    let checked = with(&[read(100, [89, 111, 100])]);
    assert_finds(&checked, &[(Anomaly::Unexplained, &[3, 2])]);
    assert!(checked.findings[0].text.ends_with("account 0 by -1, account 1 by +1"), "{}", checked.findings[0].text);
}

#[test]
fn an_account_that_is_missing_is_not_overlooked() {
    let balances = BTreeMap::from([(0, 90), (1, 210)]);
    let missing = operation(9, 100, 105, Op::Balances(balances), Outcome::Ok);
    let checked = with(&[missing]);
    assert_eq!(checked.count_of(Anomaly::Unexpected), 1);
}

#[test]
fn too_many_unknown_transfers_are_said_not_to_be_judged() {
    let many = (0..20).map(|n| transfer(n, 0, (0, 1, 1), Outcome::Ambiguous)).collect::<Vec<_>>();
    let checked = check(&[many, vec![read(100, [100, 100, 100])]].concat());
    assert_eq!(checked.validity, Validity::Unknown);
    assert_eq!(checked.notes.len(), 1);
}

fn generated() -> Rules {
    let total = i64::from(ACCOUNTS) * EACH;
    Rules { total, initial: Some(generate::accounts()), negative: Negative::Forbidden }
}

proptest! {
    #[test]
    fn right_histories_pass(plan in generate::plans()) {
        let checked = bank::check(&history(&generate::bank(&plan)), &generated());
        prop_assert_eq!(&checked.findings, &Vec::new());
        prop_assert!(checked.validity == Validity::Valid || !checked.notes.is_empty());
    }

    #[test]
    fn a_last_read_that_lost_a_transfer_is_found(plan in generate::plans(), pick in any::<prop::sample::Index>()) {
        lost(&plan, pick)?;
    }

    #[test]
    fn a_torn_read_is_found(plan in generate::plans(), pick in any::<prop::sample::Index>(), off in 1_i64..9) {
        let mut operations = generate::bank(&plan);
        let reads: Vec<usize> =
            (0..operations.len()).filter(|at| matches!(operations[*at].op, Op::Balances(_))).collect();
        let at = *pick.get(&reads);
        if let Op::Balances(balances) = &mut operations[at].op {
            *balances.entry(0).or_default() += off;
        }
        let checked = bank::check(&history(&operations), &generated());
        let wrong: Vec<_> = checked.findings.iter().filter(|finding| finding.anomaly == Anomaly::WrongTotal).collect();
        prop_assert_eq!(wrong.len(), 1);
        prop_assert_eq!(wrong[0].operations[0], at);
    }
}

fn lost(plan: &[Plan], pick: prop::sample::Index) -> Result<(), TestCaseError> {
    let mut operations = generate::bank(plan);
    let is_candidate =
        |operation: &Operation| matches!(operation.op, Op::Transfer { .. }) && operation.outcome == Outcome::Ok;
    let candidates: Vec<usize> = (0..operations.len()).filter(|at| is_candidate(&operations[*at])).collect();
    // An unknown transfer of the same amount could stand in for the lost one.
    prop_assume!(operations.iter().all(|operation| operation.outcome != Outcome::Ambiguous));
    prop_assume!(!candidates.is_empty());
    let victim = *pick.get(&candidates);
    let Op::Transfer { from, to, amount } = operations[victim].op else { unreachable!() };
    let last = operations.len() - 1;
    let Op::Balances(balances) = &mut operations[last].op else { unreachable!("the last reads the balances") };
    *balances.entry(from).or_default() += amount;
    *balances.entry(to).or_default() -= amount;
    let checked = bank::check(&history(&operations), &Rules { negative: Negative::Allowed, ..generated() });
    prop_assert_eq!(checked.findings.len(), 1, "{:?}", checked.findings);
    prop_assert_eq!(checked.findings[0].anomaly, Anomaly::Lost);
    // Another with the same accounts and amount is as good a guess.
    let named = &operations[checked.findings[0].operations[0]];
    prop_assert_eq!(&named.op, &Op::Transfer { from, to, amount });
    Ok(())
}
