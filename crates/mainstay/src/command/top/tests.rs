use mainstay_api::Process;
use mainstay_types::{ChildName, ChildRole, ExitReason, State, Timestamp};

use super::*;

fn usage(name: &str, pid: Option<i32>, cpu_ms: u64, memory: u64) -> Usage {
    let process = Process {
        name: ChildName::new(name).expect("valid"),
        role: ChildRole::Instance,
        detail: String::new(),
        pid: pid.map(Pid),
        nonce: None,
        state: if pid.is_some() { State::Ready } else { State::CrashLoop },
        since: Timestamp::from_millis(0),
        last_exit: pid.is_none().then_some(ExitReason::OutOfMemory),
        address: None,
        memory_bytes: pid.map(|_| memory),
    };
    Usage { process, cpu_ms: pid.map(|_| cpu_ms), connections: pid.map(|_| 1_000), per_second: pid.map(|_| 12_345.6) }
}

fn top(at: i64, processes: Vec<Usage>) -> Top {
    Top { at: Timestamp::from_millis(at), cores: 2, processes }
}

fn names(picture: &Picture) -> Vec<&str> {
    picture.processes.iter().map(|row| row.usage.process.name.as_str()).collect()
}

#[test]
fn shares_are_of_the_time_between_two_looks_and_of_the_same_process() {
    let before = top(1_000, vec![usage("a", Some(1), 500, 1), usage("b", Some(2), 900, 2), usage("c", None, 0, 0)]);
    let now = top(3_000, vec![usage("a", Some(1), 1_500, 1), usage("b", Some(7), 100, 2), usage("c", None, 0, 0)]);
    let picture = Picture::of(Some(&before), &now, Sort::Name);
    let shares: Vec<Option<f64>> = picture.processes.iter().map(|row| row.cpu_percent).collect();
    assert_eq!(shares, [Some(50.0), None, None]);
    assert_eq!(picture.window_ms, 2_000);
    assert!(Picture::of(None, &now, Sort::Cpu).processes.iter().all(|row| row.cpu_percent.is_none()));
}

#[test]
fn each_order_has_its_first() {
    let before = top(0, vec![usage("a", Some(1), 0, 5), usage("b", Some(2), 0, 1), usage("c", Some(3), 0, 9)]);
    let now = top(1_000, vec![usage("c", Some(3), 10, 9), usage("a", Some(1), 20, 5), usage("b", Some(2), 30, 1)]);
    let order = |sort| names(&Picture::of(Some(&before), &now, sort)).join("");
    assert_eq!((order(Sort::Cpu), order(Sort::Memory), order(Sort::Name)), ("bac".into(), "cab".into(), "abc".into()));
}

#[test]
fn no_line_is_wider_than_the_terminal_and_none_is_lost_without_a_word() {
    let long = "a-service-with-a-very-long-name-1";
    let many: Vec<Usage> = (0..40).map(|n| usage(&format!("{long}{n}"), Some(4_194_304), 9, 99 << 30)).collect();
    let mut all = many.clone();
    all.push(usage("gone", None, 0, 0));
    let picture = Picture::of(Some(&top(0, many)), &top(1_000, all), Sort::Name);
    for columns in [80, 112] {
        let lines = table::lines("shop  development  ready", &picture, columns, Some(24));
        assert_eq!(lines.len(), 24);
        assert!(lines.iter().any(|line| line.contains("and 22 more")), "{lines:#?}");
        let wide: Vec<&String> = lines.iter().filter(|line| line.chars().count() > columns).collect();
        assert!(wide.is_empty(), "{wide:#?}");
        let names: std::collections::BTreeSet<&str> =
            lines.iter().filter(|line| line.starts_with("a-")).filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names.len(), 19, "names that differ at their end are told apart: {names:?}");
    }
    let whole = table::lines("shop", &picture, 80, None);
    assert_eq!(whole.len(), 3 + 41);
    assert!(whole.iter().any(|line| line.contains("gone") && line.contains("crash loop")), "{whole:#?}");
}
