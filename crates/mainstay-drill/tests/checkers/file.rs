//! The file format: what is written is read again, and what is damaged is refused.

use mainstay_drill::checker::{Element, History, HistoryError, Op, Outcome};
use proptest::prelude::*;

use crate::generate;
use crate::support::{history, operation};

#[test]
fn a_line_is_one_operation_that_a_person_can_read() {
    let one = history(&[
        operation(3, 10, 20, Op::Append(Element(3, 17)), Outcome::Ok),
        operation(9, 30, 40, Op::Balances([(0, 95), (1, 105)].into()), Outcome::Ok),
    ]);
    let wanted = concat!(
        r#"{"history":1,"of":"a test","injected_us":null,"operations":2}"#,
        "\n",
        r#"{"process":3,"start_us":10,"end_us":20,"op":{"append":[3,17]},"outcome":"ok"}"#,
        "\n",
        r#"{"process":9,"start_us":30,"end_us":40,"op":{"balances":{"0":95,"1":105}},"outcome":"ok"}"#,
        "\n"
    );
    assert_eq!(one.to_lines(), wanted);
}

#[test]
fn a_history_that_was_cut_off_is_refused() {
    let text = history(&[operation(0, 0, 1, Op::Request, Outcome::Ok), operation(0, 2, 3, Op::Request, Outcome::Ok)]);
    let text = text.to_lines();
    let short: String = text.lines().take(2).map(|line| format!("{line}\n")).collect();
    assert_eq!(History::parse(&short), Err(HistoryError::Short { found: 1, wanted: 2 }));
    let torn = &text[..text.len() - 10];
    assert!(matches!(History::parse(torn), Err(HistoryError::Line { line: 3, .. })));
}

#[test]
fn another_version_is_refused() {
    let text = history(&[]).to_lines().replace("\"history\":1", "\"history\":2");
    let error = History::parse(&text).unwrap_err().to_string();
    assert_eq!(error, "line 1: a history of version 2, this reads 1");
}

#[test]
fn a_process_that_does_two_things_at_once_is_refused() {
    let both = vec![operation(0, 0, 10, Op::Request, Outcome::Ok), operation(0, 5, 15, Op::Request, Outcome::Ok)];
    assert!(matches!(History::new("", None, both), Err(HistoryError::Disordered { operation: 1, .. })));
    let backwards = vec![operation(0, 10, 5, Op::Request, Outcome::Ok)];
    assert!(matches!(History::new("", None, backwards), Err(HistoryError::Disordered { operation: 0, .. })));
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(plan in generate::plans()) {
        let all = [generate::set(&plan), generate::counters(&plan), generate::bank(&plan)].map(|one| history(&one));
        let text: String = all.iter().map(History::to_lines).collect();
        prop_assert_eq!(History::parse(&text).unwrap(), all);
    }

    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _result = History::parse(&text);
    }
}
