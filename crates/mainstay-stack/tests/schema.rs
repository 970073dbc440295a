//! The schema for editors says what the reader reads: key by key in both directions, and bound by bound.
#![expect(clippy::disallowed_methods, reason = "the fence is for the crate; stack files lie on disk")]

#[path = "../../mainstay-api/tests/support/schema.rs"]
mod validator;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mainstay_stack::{Code, SCHEMA, keys, parse};
use mainstay_types::EnvironmentName;
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};
use validator::Validator;

const COMPLETE: &str = include_str!("complete.toml");

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

/// A stack file as JSON.
fn json(text: &str) -> Value {
    let (table, errors) = DeTable::parse_recoverable(text);
    assert!(errors.is_empty(), "{errors:?}");
    table_json(table.get_ref())
}

fn table_json(table: &DeTable<'_>) -> Value {
    let entries = table.iter().map(|(key, value)| (key.get_ref().to_string(), value_json(value.get_ref())));
    Value::Object(entries.collect::<Map<_, _>>())
}

fn value_json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => Value::from(number.as_str().parse::<i64>().expect("fits")),
        DeValue::Float(number) => Value::from(number.as_str().parse::<f64>().expect("fits")),
        DeValue::Boolean(value) => Value::from(*value),
        DeValue::Datetime(moment) => Value::from(moment.to_string()),
        DeValue::Array(items) => items.iter().map(|item| value_json(item.get_ref())).collect(),
        DeValue::Table(table) => table_json(table),
    }
}

/// The table of the schema at a path of the stack file, and where it stands in the schema.
fn table_at(root: &Value, path: &str) -> (String, Value) {
    let mut place = String::new();
    let mut at = follow(root, root, &mut place);
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, is_item) = part.split_once('[').map_or((part, false), |(name, _)| (name, true));
        let next = if at["properties"][name].is_object() {
            place.push_str(&format!("/properties/{name}"));
            at["properties"][name].clone()
        } else {
            assert!(at["additionalProperties"].is_object(), "the schema has no {path} (at {part})");
            place.push_str("/additionalProperties");
            at["additionalProperties"].clone()
        };
        at = follow(root, &next, &mut place);
        if is_item {
            let arrays = |all: &Vec<Value>| all.iter().position(|one| one["items"].is_object());
            if let Some(index) = at["anyOf"].as_array().and_then(arrays) {
                place.push_str(&format!("/anyOf/{index}"));
                at = at["anyOf"][index].clone();
            }
            place.push_str("/items");
            let items = at["items"].clone();
            at = follow(root, &items, &mut place);
        }
    }
    (place, at)
}

/// Through references, and to the table among alternatives.
fn follow(root: &Value, schema: &Value, place: &mut String) -> Value {
    let mut at = schema.clone();
    loop {
        if let Some(reference) = at["$ref"].as_str() {
            reference[1..].clone_into(place);
            at = Validator::new(root).resolve(reference).clone();
        } else if let Some((index, table)) =
            at["anyOf"].as_array().and_then(|all| all.iter().enumerate().find(|(_, one)| one["properties"].is_object()))
        {
            place.push_str(&format!("/anyOf/{index}"));
            at = table.clone();
        } else {
            return at;
        }
    }
}

fn names(table: &Value) -> BTreeSet<String> {
    table["properties"].as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
}

/// Places of all tables with keys of their own.
fn tables(schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            if map.get("properties").is_some_and(Value::is_object) && !at.ends_with("/properties") {
                found.insert(at.to_owned());
            }
            map.iter().for_each(|(key, value)| tables(value, &format!("{at}/{key}"), found));
        }
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| tables(value, &format!("{at}/{index}"), found));
        }
        _ => {}
    }
}

#[test]
fn the_schema_has_every_key_that_the_reader_knows_and_no_other() {
    let schema = schema();
    let mut visited = BTreeSet::new();
    let known: BTreeMap<String, BTreeSet<&str>> = keys(COMPLETE);
    assert!(known.len() > 15, "only {} tables were read", known.len());
    for (path, known) in known {
        let (place, table) = table_at(&schema, &path);
        let known: BTreeSet<String> = known.into_iter().map(str::to_owned).collect();
        assert_eq!(names(&table), known, "keys of [{path}]: left in the schema ({place}), right in the reader");
        assert_eq!(table["additionalProperties"], Value::Bool(false), "[{path}] is closed");
        visited.insert(place);
    }
    // An environment overrides what the file says, but for its name and the environments themselves.
    let mut overridable = names(&schema);
    for key in ["stack", "env"] {
        assert!(overridable.remove(key));
    }
    assert_eq!(names(&schema["$defs"]["overrides"]), overridable);
    visited.insert("/$defs/overrides".to_owned());
    let mut all = BTreeSet::new();
    tables(&schema, "", &mut all);
    let unread: Vec<_> = all.difference(&visited).collect();
    assert!(unread.is_empty(), "tables that complete.toml does not have, so that nobody checks their keys: {unread:?}");
}

/// Every stack file of the repository.
fn stack_files() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = vec![(PathBuf::from("complete.toml"), COMPLETE.to_owned())];
    for folder in ["apps", "examples"] {
        for entry in std::fs::read_dir(root.join(folder)).expect("the folder is there").flatten() {
            let file = entry.path().join("mainstay.toml");
            if let Ok(text) = std::fs::read_to_string(&file) {
                found.push((file, text));
            }
        }
    }
    let guide = include_str!("../../../docs/guide/stack-file.md");
    for rest in guide.split("```toml\n").skip(1) {
        found.push((PathBuf::from("guide"), rest.split("```").next().unwrap_or_default().to_owned()));
    }
    found
}

#[test]
fn every_stack_file_of_the_repository_keeps_the_schema() {
    let schema = schema();
    let files = stack_files();
    assert!(files.len() >= 5, "only {} stack files were found", files.len());
    for (file, text) in files {
        let faults = Validator::new(&schema).faults_by(&schema, &json(&text));
        assert!(faults.is_empty(), "{}: {faults:?}", file.display());
    }
}

/// Lines `key = value` of the complete file, counted from 0; inline tables are one line.
fn lines() -> Vec<(usize, &'static str)> {
    let pairs = COMPLETE.lines().enumerate().filter_map(|(at, line)| Some((at, line.split_once(" = ")?.0)));
    // Names of server settings are free.
    pairs.filter(|(_, key)| !["work_mem", "random_page_cost", "jit"].contains(key)).collect()
}

fn with_line(line: usize, replacement: &str) -> String {
    let lines = COMPLETE.lines().enumerate();
    lines.map(|(at, old)| format!("{}\n", if at == line { replacement } else { old })).collect()
}

#[test]
fn a_misspelt_key_and_a_value_of_another_type_break_the_schema() {
    let schema = schema();
    for (line, key) in lines() {
        let value = COMPLETE.lines().nth(line).and_then(|line| line.split_once(" = ")).expect("a pair").1;
        for text in [format!("{key}q = {value}"), format!("{key} = [[]]"), format!("{key} = -1.5")] {
            let faults = Validator::new(&schema).faults_by(&schema, &json(&with_line(line, &text)));
            assert!(!faults.is_empty(), "the schema accepts {text}");
        }
    }
}

#[test]
fn amounts_without_a_unit_break_the_schema() {
    let schema = schema();
    for text in
        ["[service.a]\nrun = \"x\"\ndrain = \"30\"", "[database]\nhold = \"5 minutes\"", "[cache]\nmax_memory = \"64\""]
    {
        let document = json(&format!("stack = \"a\"\n{text}"));
        assert!(!Validator::new(&schema).faults_by(&schema, &document).is_empty(), "the schema accepts {text}");
    }
    for text in ["hold = \"30s\"", "hold = \"1 h\"", "hold = \"500ms\""] {
        let document = json(&format!("stack = \"a\"\n[database]\n{text}"));
        assert!(Validator::new(&schema).faults_by(&schema, &document).is_empty(), "the schema refuses {text}");
    }
}

/// What the reader says about one key of the complete file when it has another value.
fn codes_at(line: usize, text: &str) -> Vec<Code> {
    match parse(&with_line(line, text), "mainstay.toml", &EnvironmentName::default()) {
        Ok(_) => Vec::new(),
        Err(found) => found.list.iter().filter(|found| found.line == line + 1).map(|found| found.code).collect(),
    }
}

#[test]
fn bounds_and_choices_of_the_schema_are_those_of_the_reader() {
    let schema = schema();
    let mut compared = 0;
    let mut table = String::new();
    for (line, text) in COMPLETE.lines().enumerate() {
        if let Some(name) = text.strip_prefix('[') {
            table = name.trim_matches(['[', ']']).to_owned();
            continue;
        }
        let Some((key, _)) = text.split_once(" = ").filter(|_| !table.starts_with("env.")) else { continue };
        let place = table.replace("edge.route", "edge.route[0]");
        let (_, keys) = table_at(&schema, &place);
        let rule = follow(&schema, &keys["properties"][key], &mut String::new());
        if let (Some(low), Some(high)) = (rule["minimum"].as_i64(), rule["maximum"].as_i64()) {
            let refused = |number: i64| {
                let codes = codes_at(line, &format!("{key} = {number}"));
                codes.iter().any(|code| matches!(code, Code::OutOfRange | Code::PortRange))
            };
            assert!(!refused(low) && !refused(high), "[{table}] {key}: the reader refuses {low} or {high}");
            assert!(
                refused(low - 1) && refused(high + 1),
                "[{table}] {key}: the reader accepts beyond {low} to {high}"
            );
            compared += 1;
        }
        for choice in rule["enum"].as_array().into_iter().flatten() {
            let codes = codes_at(line, &format!("{key} = {choice}"));
            assert!(!codes.contains(&Code::BadValue), "[{table}] {key}: the reader refuses {choice}");
            compared += 1;
        }
        if rule["enum"].is_array() {
            assert!(codes_at(line, &format!("{key} = \"other\"")).contains(&Code::BadValue), "[{table}] {key}");
        }
    }
    assert!(compared >= 15, "only {compared} bounds and choices were compared");
}
