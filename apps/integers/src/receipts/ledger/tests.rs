use super::*;

/// Requests in the order in which they ended, 10 ms each, of clients 0, 1, 0, 1, …
fn account(start: i64, end: i64, ends: &[End]) -> Account {
    let operations = ends
        .iter()
        .zip(0_u32..)
        .map(|(end, index)| Operation {
            client: usize::from(index % 2 == 1),
            ended: Duration::from_millis(10) * (index + 1),
            took: Duration::from_millis(10),
            n: 1,
            end: end.clone(),
        })
        .collect();
    Account { start, end, epoch: 1, operations, ..Account::default() }
}

fn given(value: i64) -> End {
    End::Given { first: value, value }
}

fn ambiguous() -> End {
    End::Ambiguous("status 502".into())
}

fn report(account: Account) -> Report {
    Report::of(&[account], 2, Duration::from_secs(1))
}

#[test]
fn agrees_when_every_integer_has_one_receipt() {
    let report = report(account(5, 8, &[given(7), given(6), given(8)]));
    assert!(!report.is_broken(), "{report:?}");
    assert_eq!((report.acknowledged, report.integers, report.unclaimed), (3, 3, 0));
}

#[test]
fn an_ambiguous_request_may_have_counted_or_not() {
    let counted = report(account(0, 3, &[given(1), ambiguous(), given(3)]));
    assert!(!counted.is_broken(), "{counted:?}");
    assert_eq!((counted.ambiguous, counted.unclaimed), (1, 1));
    let not = report(account(0, 2, &[given(1), ambiguous(), given(2)]));
    assert!(!not.is_broken(), "{not:?}");
    assert_eq!((not.ambiguous, not.unclaimed), (1, 0));
}

#[test]
fn finds_an_integer_that_was_given_and_forgotten() {
    let report = report(account(0, 1, &[given(1), given(2)]));
    assert!(report.is_broken());
    assert_eq!((report.lost, report.duplicated), (1, 0));
}

#[test]
fn finds_an_integer_that_was_given_twice() {
    let report = report(account(0, 2, &[given(1), given(2), given(2)]));
    assert!(report.is_broken());
    assert_eq!((report.lost, report.duplicated), (0, 1));
}

#[test]
fn finds_integers_that_nobody_was_given() {
    let report = report(account(0, 4, &[given(1), ambiguous(), given(4)]));
    assert!(report.is_broken());
    assert_eq!((report.unclaimed, report.unexplained), (2, 1));
}

#[test]
fn a_refused_request_explains_no_missing_integer() {
    let report = report(account(0, 2, &[given(1), End::Refused("status 503".into())]));
    assert_eq!((report.is_broken(), report.unexplained, report.refused), (true, 1, 1));
}

#[test]
fn finds_a_client_that_was_led_backwards() {
    let mut backwards = account(0, 3, &[given(3), given(2), given(1)]);
    let first = report(backwards.clone());
    assert_eq!((first.is_broken(), first.out_of_order), (true, 1), "client 0 got 3 and then 1");
    backwards.operations[2].client = 2;
    assert!(!report(backwards).is_broken(), "different clients may overtake each other");
}

#[test]
fn finds_an_answer_that_changed_when_it_was_asked_for_again() {
    let wrong = Account { replays: 3, wrong_replays: 1, ..account(0, 1, &[given(1)]) };
    assert!(report(wrong).is_broken());
}

#[test]
fn ranges_count_each_of_their_integers() {
    let mut ranges =
        account(0, 30, &[End::Given { first: 1, value: 10 }, End::Given { first: 21, value: 30 }, ambiguous()]);
    for operation in &mut ranges.operations {
        operation.n = 10;
    }
    let report = report(ranges);
    assert!(!report.is_broken(), "{report:?}");
    assert_eq!((report.acknowledged, report.integers, report.unclaimed), (2, 20, 10));
}

#[test]
fn measures_the_longest_wait_of_one_client() {
    let mut slow = account(0, 3, &[given(1), given(2), given(3)]);
    slow.operations[2].ended = Duration::from_millis(910);
    let report = report(slow);
    assert_eq!(report.stall, Duration::from_millis(900));
    assert_eq!(report.latency.p95, Duration::from_millis(10));
}

#[test]
fn counters_are_judged_each_for_itself() {
    let one = account(0, 2, &[given(1)]); // one too many
    let other = account(0, 0, &[given(1)]); // one too few
    let report = Report::of(&[one, other], 2, Duration::from_secs(1));
    assert_eq!((report.unexplained, report.lost), (1, 1));
}
