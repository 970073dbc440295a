//! The console's fixtures are what this contract says, field by field: neither side can drift alone.
#![expect(clippy::disallowed_methods, reason = "the rule is for the crate, which is pure; fixtures are files")]

use std::path::{Path, PathBuf};

use mainstay_api::{API_VERSION, Event, Process, Status, Traffic};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../web/console/fixtures")
}

/// All fixtures of a kind: `NAME.status.json` and so on.
fn of_kind(kind: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(fixtures()).expect("the folder is there") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        if name.ends_with(&format!(".{kind}.json")) {
            found.push((name, std::fs::read_to_string(&path).expect("reads")));
        }
    }
    assert!(!found.is_empty(), "no {kind} fixtures");
    found
}

/// Reads it as the type, and the type writes the same: no field is missing, unknown or spelt differently.
fn there_and_back<T: Serialize + DeserializeOwned>(name: &str, text: &str) -> T {
    let value: Value = serde_json::from_str(text).expect("is JSON");
    let typed: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let again = serde_json::to_value(&typed).expect("serializes");
    assert_eq!(numbers_as_floats(again), numbers_as_floats(value), "{name}");
    typed
}

/// JavaScript has one kind of number: 12 and 12.0 are the same.
fn numbers_as_floats(value: Value) -> Value {
    match value {
        Value::Number(number) => Value::from(number.as_f64()),
        Value::Array(list) => list.into_iter().map(numbers_as_floats).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, numbers_as_floats(value))).collect(),
        other => other,
    }
}

#[test]
fn status_fixtures_are_statuses_of_this_version() {
    for (name, text) in of_kind("status") {
        let status: Status = there_and_back(&name, &text);
        assert_eq!(status.api, API_VERSION, "{name}");
        for one in &status.boxes {
            assert_eq!(one.name, one.id.to_string(), "{name}: a box is named as its id reads");
        }
    }
}

#[test]
fn traffic_fixtures_are_traffic_with_shares_for_shares() {
    for (name, text) in of_kind("traffic") {
        let traffic: Traffic = there_and_back(&name, &text);
        for flow in &traffic.flows {
            assert!((0.0..=1.0).contains(&flow.error_share), "{name}: {flow:?}");
        }
    }
}

#[test]
fn event_fixtures_are_a_log_without_gaps() {
    for (name, text) in of_kind("events") {
        let events: Vec<Event> = there_and_back(&name, &text);
        let expected: Vec<u64> = (1..).take(events.len()).collect();
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn process_fixtures_are_processes() {
    for (name, text) in of_kind("processes") {
        let list: Vec<Process> = there_and_back(&name, &text);
        assert!(
            list.iter().any(|process| process.role == mainstay_types::ChildRole::Keep),
            "{name}: keep is listed too"
        );
    }
}
