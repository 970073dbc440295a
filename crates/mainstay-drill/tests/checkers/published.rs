//! Histories that others published, with their verdicts: what these say, our checkers must say too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;

use mainstay_drill::checker::bank::{Negative, Rules};
use mainstay_drill::checker::{Anomaly, Checked, Element, History, Op, Operation, Outcome, Validity, append, bank};
use serde_json::Value;

use crate::edn;

/// Jepsen's form: an operation is invoked and later ends, each an entry; the position is the time.
struct Entry {
    process: u32,
    start: usize,
    end: usize,
    f: String,
    invoked: Value,
    returned: Value,
    outcome: Outcome,
    key: String,
}

fn entries(lines: &[Value]) -> Vec<Entry> {
    let mut open: BTreeMap<u64, (usize, Value)> = BTreeMap::new();
    let mut all = Vec::new();
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let mut close = |process: u64, (start, invoke): (usize, Value), end: usize, last: Option<&Value>| {
        let outcome = match last.and_then(|last| last["type"].as_str()) {
            Some("ok") => Outcome::Ok,
            Some("fail") => Outcome::Failed,
            _ => Outcome::Ambiguous,
        };
        all.push(Entry {
            // A process that lost its answer is never used again, so that its number can stand for one that waits.
            process: u32::try_from(process).unwrap(),
            start,
            end,
            f: text(&invoke, "f"),
            returned: last.map(|last| last["value"].clone()).unwrap_or_default(),
            outcome,
            key: text(&invoke, "key"),
            invoked: invoke["value"].clone(),
        });
    };
    for (at, line) in lines.iter().enumerate() {
        // Others are of the machine that breaks things.
        let Some(process) = line["process"].as_u64() else { continue };
        if line["type"] == "invoke" {
            open.insert(process, (at, line.clone()));
        } else if let Some(began) = open.remove(&process) {
            close(process, began, at, Some(line));
        }
    }
    for (process, began) in open {
        close(process, began, lines.len(), None);
    }
    all
}

fn operation(entry: &Entry, op: Op) -> Operation {
    let (start_us, end_us) = (entry.start as u64, entry.end as u64);
    Operation { process: entry.process, start_us, end_us, op, outcome: entry.outcome }
}

// --- porcupine: key-value stores of students, "x PROCESS NUMBER y" is appended to texts ---------------------------

fn elements(text: &str) -> Vec<Element> {
    let numbers = |part: &str| {
        let mut numbers = part.trim_start_matches('x').split_whitespace().filter_map(|number| number.parse().ok());
        Some(Element(u32::try_from(numbers.next()?).ok()?, numbers.next()?))
    };
    text.split('y').filter_map(numbers).collect()
}

/// The sets in a history of texts, one a key. A put replaces a text: of such a key only what is before the first.
fn sets(text: &str) -> Vec<History> {
    let mut by_key: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    for entry in entries(&edn::read(text)) {
        by_key.entry(entry.key.clone()).or_default().push(entry);
    }
    let set = |entries: &Vec<Entry>| {
        let replaced = entries.iter().filter(|entry| entry.f == "put").map(|entry| entry.start).min();
        let replaced = replaced.unwrap_or(usize::MAX);
        let value = |value: &Value| elements(value.as_str().unwrap_or_default());
        let operations = entries.iter().filter(|entry| entry.start < replaced).filter_map(|entry| {
            let is_before = entry.end < replaced;
            match entry.f.as_str() {
                // Whether it came before the put is not known.
                "append" => {
                    let outcome = if is_before { entry.outcome } else { Outcome::Ambiguous };
                    Some(Operation { outcome, ..operation(entry, Op::Append(value(&entry.invoked)[0])) })
                }
                _ => is_before.then(|| operation(entry, Op::ReadAll(value(&entry.returned)))),
            }
        });
        History::new("porcupine", None, operations.collect()).unwrap()
    };
    by_key.values().map(set).collect()
}

fn anomalies(text: &str) -> BTreeMap<Anomaly, u64> {
    let mut all = BTreeMap::new();
    for history in sets(text) {
        for (anomaly, count) in append::check(&history).count() {
            *all.entry(anomaly).or_default() += count;
        }
    }
    all
}

#[test]
fn append_agrees_with_porcupine_on_histories_of_key_value_stores() {
    for (name, text, is_right) in [
        ("c01-ok", include_str!("porcupine/c01-ok.txt"), true),
        ("c01-bad", include_str!("porcupine/c01-bad.txt"), false),
        ("c10-ok", include_str!("porcupine/c10-ok.txt"), true),
        ("c10-bad", include_str!("porcupine/c10-bad.txt"), false),
    ] {
        let found = anomalies(text);
        assert_eq!(found.is_empty(), is_right, "{name}: {found:?}");
    }
}

#[test]
fn in_a_bad_history_of_one_client_the_append_that_a_read_misses_is_named() {
    let named: BTreeSet<String> = sets(include_str!("porcupine/c01-bad.txt"))
        .iter()
        .flat_map(|history| append::check(history).findings)
        .map(|finding| finding.text)
        .collect();
    assert_eq!(named.into_iter().collect::<Vec<_>>(), ["read 3 misses 0-3, which append 2 was acknowledged before"]);
}

// --- elle-cli: Jepsen's banks and sets. Their licence keeps them out of this repository. --------------------------

/// The folder of these histories, or `None` after having said that it is not there.
fn elle(name: &str) -> Option<String> {
    let folder = std::env::var_os("MAINSTAY_PUBLISHED_HISTORIES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/elle-cli/histories/jepsen"),
        PathBuf::from,
    );
    let file = folder.join(name);
    match std::fs::read_to_string(&file) {
        Ok(text) => Some(text),
        Err(_) => {
            let text = format!(
                "skipped: {name} of elle-cli is not in {} (MAINSTAY_PUBLISHED_HISTORIES names the folder)\n",
                folder.display()
            );
            // Not by a macro of printing: the harness keeps that to itself while a test passes.
            std::io::stderr().write_all(text.as_bytes()).unwrap();
            None
        }
    }
}

fn lines(name: &str, text: &str) -> Vec<Value> {
    if name.ends_with(".json") {
        return serde_json::from_str(text).unwrap();
    }
    match edn::read(text).as_slice() {
        [Value::Array(lines)] => lines.clone(),
        lines => lines.to_vec(),
    }
}

fn check_bank(name: &str, text: &str, total: i64, initial: Option<BTreeMap<u32, i64>>) -> Checked {
    let operations = entries(&lines(name, text)).into_iter().map(|entry| {
        let op = if entry.f == "transfer" {
            let field = |field: &str| entry.invoked[field].as_i64().unwrap();
            let account = |name| u32::try_from(field(name)).unwrap();
            Op::Transfer { from: account("from"), to: account("to"), amount: field("amount") }
        } else {
            let balances = entry.returned.as_object().into_iter().flatten();
            Op::Balances(balances.map(|(key, value)| (key.parse().unwrap(), value.as_i64().unwrap())).collect())
        };
        operation(&entry, op)
    });
    let history = History::new(name, None, operations.collect()).unwrap();
    bank::check(&history, &Rules { total, initial, negative: Negative::Forbidden })
}

#[test]
fn bank_agrees_with_jepsen() {
    let all_on_first = |accounts: u32| (0..accounts).map(|n| (n, if n == 0 { 100 } else { 0 })).collect();
    if let Some(text) = elle("bank.json") {
        let checked = check_bank("bank.json", &text, 100, Some(all_on_first(10)));
        assert_eq!(checked.findings, []);
        assert_eq!(checked.validity, Validity::Valid, "{:?}", checked.notes);
        assert_eq!((checked.writes.ok, checked.writes.failed, checked.reads), (53, 99, 168));
    }
    if let Some(text) = elle("bank-negative-balances.json") {
        let checked = check_bank("bank-negative-balances.json", &text, 100, None);
        assert_eq!(checked.count(), BTreeMap::from([(Anomaly::NegativeBalance, 1)]));
    }
    if let Some(text) = elle("bank-tidb.edn") {
        let checked = check_bank("bank-tidb.edn", &text, 100, None);
        assert!(checked.count_of(Anomaly::WrongTotal) > 0, "{:?}", checked.count());
    }
}

#[test]
fn append_agrees_with_jepsen() {
    let Some(text) = elle("set.edn") else { return };
    let element = |value: &Value| Element(0, value.as_u64().unwrap());
    let operations = entries(&lines("set.edn", &text)).into_iter().map(|entry| {
        let op = if entry.f == "add" {
            Op::Append(element(&entry.invoked))
        } else {
            Op::ReadAll(entry.returned.as_array().unwrap().iter().map(element).collect())
        };
        operation(&entry, op)
    });
    let mut operations: Vec<Operation> = operations.collect();
    let check = |operations: &[Operation]| append::check(&History::new("set", None, operations.to_vec()).unwrap());
    assert_eq!(check(&operations).validity, Validity::Valid);
    if let Some(Op::ReadAll(elements)) = operations.last_mut().map(|last| &mut last.op) {
        elements.pop();
    }
    assert_eq!(check(&operations).count(), BTreeMap::from([(Anomaly::Lost, 1)]));
}
