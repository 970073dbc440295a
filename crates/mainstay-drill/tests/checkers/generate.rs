//! Right histories at random: processes work one after the other, each operation takes effect at one moment within
//! its time or, when its outcome is unknown, perhaps not at all; reads see what had taken effect.

use std::collections::BTreeMap;

use mainstay_drill::checker::{Element, Op, Operation, Outcome};
use proptest::prelude::*;

/// Accounts of the bank and what each holds at first.
pub(crate) const ACCOUNTS: u32 = 4;
pub(crate) const EACH: i64 = 100;

/// One step of one process.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    process: u32,
    pause: u64,
    takes: u64,
    /// Per mille of the time that it takes, after which it has its effect.
    effect: u64,
    is_read: bool,
    outcome: Outcome,
    /// One of unknown outcome had an effect.
    has_effect: bool,
    from: u32,
    to: u32,
    amount: i64,
}

pub(crate) fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let outcome = prop_oneof![
        8 => Just(Outcome::Ok), 1 => Just(Outcome::Failed), 1 => Just(Outcome::Ambiguous)
    ];
    let times = (0_u32..5, 0_u64..30, 1_u64..40, 0_u64..=1000);
    let money = (0..ACCOUNTS, 1..ACCOUNTS, 1_i64..=9);
    let plan = (times, any::<bool>(), outcome, any::<bool>(), money).prop_map(
        |((process, pause, takes, effect), is_read, outcome, has_effect, (from, away, amount))| Plan {
            process,
            pause,
            takes,
            effect,
            is_read,
            outcome,
            has_effect,
            from,
            to: (from + away) % ACCOUNTS,
            amount,
        },
    );
    proptest::collection::vec(plan, 1..60)
}

/// A step with its times.
struct Timed<'a> {
    plan: &'a Plan,
    number: u64,
    start: u64,
    end: u64,
    at: u64,
}

fn timed(plans: &[Plan]) -> Vec<Timed<'_>> {
    let mut clocks: BTreeMap<u32, u64> = BTreeMap::new();
    let mut all: Vec<Timed<'_>> = (0..)
        .zip(plans)
        .map(|(number, plan)| {
            let clock = clocks.entry(plan.process).or_default();
            let start = *clock + plan.pause;
            *clock = start + plan.takes;
            Timed { plan, number, start, end: start + plan.takes, at: start + plan.takes * plan.effect / 1000 }
        })
        .collect();
    all.sort_by_key(|timed| timed.at);
    all
}

fn is_done(plan: &Plan) -> bool {
    match plan.outcome {
        Outcome::Ok => true,
        Outcome::Failed => false,
        Outcome::Ambiguous => plan.has_effect,
    }
}

/// In the order in which a history has them, with a read of its own process at the end.
fn finish(mut operations: Vec<Operation>, last: Vec<Op>) -> Vec<Operation> {
    operations.sort_by_key(|operation| (operation.end_us, operation.start_us));
    let end = operations.last().map_or(0, |operation| operation.end_us);
    operations.extend((1..).zip(last).map(|(number, op)| Operation {
        process: 99,
        start_us: end + 10 * number,
        end_us: end + 10 * number + 5,
        op,
        outcome: Outcome::Ok,
    }));
    operations
}

fn operation(timed: &Timed<'_>, op: Op, outcome: Outcome) -> Operation {
    Operation { process: timed.plan.process, start_us: timed.start, end_us: timed.end, op, outcome }
}

/// Reads always succeed here: one that does not says nothing.
pub(crate) fn set(plans: &[Plan]) -> Vec<Operation> {
    let mut there = Vec::new();
    let mut operations = Vec::new();
    for step in timed(plans) {
        if step.plan.is_read {
            operations.push(operation(&step, Op::ReadAll(there.clone()), Outcome::Ok));
            continue;
        }
        let element = Element(step.plan.process, step.number);
        if is_done(step.plan) {
            there.push(element);
        }
        operations.push(operation(&step, Op::Append(element), step.plan.outcome));
    }
    finish(operations, vec![Op::ReadAll(there)])
}

/// A counter for each of two keys.
pub(crate) fn counters(plans: &[Plan]) -> Vec<Operation> {
    let mut values: BTreeMap<u32, u64> = BTreeMap::from([(0, 0), (1, 0)]);
    let mut operations = Vec::new();
    for step in timed(plans) {
        let key = step.plan.to % 2;
        let value = values.entry(key).or_default();
        if step.plan.is_read {
            operations.push(operation(&step, Op::Read { key, value: Some(*value) }, Outcome::Ok));
            continue;
        }
        if is_done(step.plan) {
            *value += 1;
        }
        let told = (step.plan.outcome == Outcome::Ok).then_some(*value);
        operations.push(operation(&step, Op::Increment { key, value: told }, step.plan.outcome));
    }
    let last = values.into_iter().map(|(key, value)| Op::Read { key, value: Some(value) });
    finish(operations, last.collect())
}

/// What the accounts hold at first.
pub(crate) fn accounts() -> BTreeMap<u32, i64> {
    (0..ACCOUNTS).map(|account| (account, EACH)).collect()
}

/// Transfers, of which those that cannot be paid fail.
pub(crate) fn bank(plans: &[Plan]) -> Vec<Operation> {
    let mut balances = accounts();
    let mut operations = Vec::new();
    for step in timed(plans) {
        let Plan { from, to, amount, .. } = *step.plan;
        if step.plan.is_read {
            operations.push(operation(&step, Op::Balances(balances.clone()), Outcome::Ok));
            continue;
        }
        let can_pay = balances.get(&from).is_some_and(|balance| *balance >= amount);
        let outcome = if can_pay { step.plan.outcome } else { Outcome::Failed };
        if can_pay && is_done(step.plan) {
            *balances.entry(from).or_default() -= amount;
            *balances.entry(to).or_default() += amount;
        }
        operations.push(operation(&step, Op::Transfer { from, to, amount }, outcome));
    }
    finish(operations, vec![Op::Balances(balances)])
}
