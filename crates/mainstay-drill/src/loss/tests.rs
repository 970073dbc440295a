use super::*;
use crate::checker::{Element, monotonic::APPLICATION};

const INJECTED: u64 = 1_000_000;

fn operation(process: u32, start_us: u64, op: Op) -> Operation {
    Operation { process, start_us, end_us: start_us + 10, op, outcome: Outcome::Ok }
}

/// A row and a number each millisecond up to the fault; the rows and numbers of the last `lost` ms are not there after it,
/// and the numbers are given again.
fn history(lost: u64) -> History {
    let mut operations = Vec::new();
    let kept = 100 - lost;
    for number in 1..=100 {
        let at = INJECTED - (101 - number) * 1000;
        operations.push(operation(0, at, Op::Append(Element(0, number))));
        operations.push(operation(1, at, Op::Increment { key: APPLICATION, value: Some(number) }));
    }
    operations.push(operation(1, INJECTED + 50_000, Op::Increment { key: APPLICATION, value: Some(kept + 1) }));
    let rows = (1..=kept).map(|number| Element(0, number)).collect();
    operations.push(operation(9, INJECTED + 60_000, Op::ReadAll(rows)));
    operations.push(operation(9, INJECTED + 60_020, Op::Read { key: APPLICATION, value: Some(kept + 1) }));
    History::new("a test", Some(INJECTED), operations).expect("in order")
}

fn check(history: &History) -> Vec<Checked> {
    let rules = monotonic::Rules { are_of_application: true, ..monotonic::Rules::default() };
    vec![append::check(history), monotonic::check(history, &rules)]
}

fn excuse(rpo_us: u64) -> Excuse {
    Excuse { rpo_us, injected_us: INJECTED, gone_us: INJECTED + 1000 }
}

#[test]
fn what_is_gone_is_counted_with_its_age_whatever_is_promised() {
    let history = history(7);
    let loss = of(&history, &check(&history), Some(INJECTED));
    let numbers = loss.numbers.expect("a counter");
    assert_eq!((loss.rows.acknowledged, loss.rows.lost, loss.rows.oldest_us), (100, 7, 6990));
    assert_eq!((numbers.acknowledged, numbers.lost, numbers.oldest_us), (101, 7, 6990));
    assert_eq!(numbers.duplicated, 1, "one of them was given again");
    let whole = self::history(0);
    let none = of(&whole, &check(&whole), Some(INJECTED));
    assert_eq!((none.rows.lost, none.numbers.map(|gone| gone.lost)), (0, Some(0)));
}

#[test]
fn a_loss_within_the_promise_is_explained_by_its_age_and_one_beyond_it_stays_one() {
    let history = history(7);
    let loss = of(&history, &check(&history), Some(INJECTED));
    let (checks, age) = excused(&history, &loss, excuse(5_000_000), check);
    assert_eq!(age, Some(6990));
    assert!(checks.iter().all(|checked| checked.validity == Validity::Valid), "{checks:?}");
    let (checks, age) = excused(&history, &loss, excuse(3000), check);
    assert_eq!(age, None);
    assert!(checks.iter().all(|checked| checked.validity == Validity::Invalid), "{checks:?}");
}

#[test]
fn no_promise_excuses_what_was_acknowledged_by_the_server_that_took_over() {
    let mut operations = history(0).operations().to_vec();
    let late = operation(0, INJECTED + 20_000, Op::Append(Element(0, 101)));
    operations.push(late);
    let history = History::new("a test", Some(INJECTED), operations).expect("in order");
    let loss = of(&history, &check(&history), Some(INJECTED));
    assert_eq!((loss.rows.lost, loss.rows.oldest_us), (1, 0));
    let (checks, age) = excused(&history, &loss, excuse(5_000_000), check);
    assert_eq!(age, None);
    assert_eq!(checks[0].validity, Validity::Invalid);
}

#[test]
fn a_number_that_is_given_again_was_forgotten_and_one_that_a_slow_answer_brings_late_was_not() {
    let history = history(3);
    let values: Vec<u64> = monotonic::forgotten(&history, true)
        .into_iter()
        .filter_map(|at| match history.operations()[at].op {
            Op::Increment { value, .. } => value,
            _ => None,
        })
        .collect();
    assert_eq!(values, [98, 99, 100]);
    let increment = |process, start_us, end_us, value| Operation {
        process,
        start_us,
        end_us,
        op: Op::Increment { key: APPLICATION, value: Some(value) },
        outcome: Outcome::Ok,
    };
    let slow = History::new("slow", None, vec![increment(1, 0, 100, 1), increment(2, 10, 20, 2)]).expect("in order");
    assert!(monotonic::forgotten(&slow, true).is_empty());
}
