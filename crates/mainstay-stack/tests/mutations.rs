//! Whatever is done to a valid stack file: no panic, an answer that helps, and no effect on what was not touched.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_stack::{Code, ComputedValue, Diagnostics, Origin, Parsed, Severity, computed, parse, render};
use mainstay_types::EnvironmentName;
use proptest::prelude::*;

const COMPLETE: &str = include_str!("complete.toml");
const NAME: &str = "mainstay.toml";

fn read(text: &str, environment: &str) -> Result<Parsed, Diagnostics> {
    parse(text, NAME, &EnvironmentName::new(environment).expect("a valid environment"))
}

/// What holds of every answer to every text.
fn judge(text: &str, answer: &Result<Parsed, Diagnostics>) -> Result<(), TestCaseError> {
    let diagnostics = match answer {
        Ok(parsed) => {
            prop_assert!(!parsed.warnings.has_errors(), "a stack with errors was accepted");
            &parsed.warnings
        }
        Err(diagnostics) => {
            prop_assert!(diagnostics.has_errors(), "refused without an error");
            diagnostics
        }
    };
    for diagnostic in &diagnostics.list {
        let span = &diagnostic.span;
        prop_assert!(text.get(span.clone()).is_some(), "{span:?} is no part of the text: {diagnostic:?}");
        let before = &text[..span.start];
        prop_assert_eq!(diagnostic.line, before.matches('\n').count() + 1);
        let in_line = before.rsplit('\n').next().unwrap_or_default();
        prop_assert_eq!(diagnostic.column, in_line.chars().count() + 1);
        prop_assert!(diagnostic.code.as_str().starts_with("MS"));
        prop_assert!(!diagnostic.message.trim().is_empty() && !diagnostic.help.trim().is_empty());
        let is_tame = |words: &str| !words.chars().any(char::is_control);
        prop_assert!(is_tame(&diagnostic.message) && is_tame(&diagnostic.help), "acts on a terminal: {diagnostic:?}");
        let rendered = mainstay_stack::render_one(diagnostic, text, NAME, false);
        prop_assert!(rendered.contains(diagnostic.code.as_str()));
    }
    let json = serde_json::to_string(diagnostics).expect("diagnostics are data");
    prop_assert_eq!(&serde_json::from_str::<Diagnostics>(&json).expect("and read back"), diagnostics);
    Ok(())
}

/// Values that lines of the file say, by path, without those that the touched line says in either reading.
fn said_elsewhere(parsed: &Parsed, other: &Parsed, touched: usize) -> BTreeMap<String, ComputedValue> {
    let line_of = |value: &ComputedValue| match &value.origin {
        Origin::File { line } | Origin::Environment { line, .. } => Some(*line),
        Origin::Derived { .. } | Origin::Default | Origin::Caller => None,
    };
    let by_touched: BTreeSet<String> = [parsed, other]
        .into_iter()
        .flat_map(computed)
        .filter(|value| line_of(value) == Some(touched))
        .map(|value| value.path)
        .collect();
    computed(parsed)
        .into_iter()
        .filter(|value| line_of(value).is_some() && !by_touched.contains(&value.path))
        .map(|value| (value.path.clone(), value))
        .collect()
}

/// Lines `key = value`, counted from 1.
fn key_lines() -> Vec<(usize, &'static str, &'static str)> {
    let lines = COMPLETE.lines().enumerate();
    lines.filter_map(|(at, line)| line.split_once(" = ").map(|(key, value)| (at + 1, key, value))).collect()
}

/// The complete file with one line replaced.
fn with_line(line: usize, replacement: &str) -> String {
    let lines = COMPLETE.lines().enumerate();
    lines.map(|(at, old)| format!("{}\n", if at + 1 == line { replacement } else { old })).collect()
}

#[derive(Clone, Debug)]
enum Mutation {
    Delete(usize),
    Duplicate(usize),
    Swap(usize, usize),
    Rename(usize, String),
    Retype(usize, &'static str),
    Truncate(usize),
    Bytes(usize, Vec<u8>),
}

impl Mutation {
    fn apply(&self, text: &str) -> String {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let count = lines.len().max(1);
        match self {
            Self::Delete(at) if !lines.is_empty() => {
                lines.remove(at % count);
            }
            Self::Duplicate(at) if !lines.is_empty() => lines.insert(at % count, lines[at % count].clone()),
            Self::Swap(a, b) if !lines.is_empty() => lines.swap(a % count, b % count),
            Self::Rename(at, name) if !lines.is_empty() => {
                let line = &mut lines[at % count];
                *line = match line.split_once('=') {
                    Some((_, value)) => format!("{name} ={value}"),
                    None => line.replace('.', &format!(".{name}")),
                };
            }
            Self::Retype(at, value) if !lines.is_empty() => {
                let line = &mut lines[at % count];
                if let Some((key, _)) = line.split_once('=') {
                    *line = format!("{key}= {value}");
                }
            }
            Self::Truncate(at) => {
                let end = text.floor_char_boundary(at % (text.len() + 1));
                return text[..end].to_owned();
            }
            Self::Bytes(at, bytes) => {
                let at = at % (text.len() + 1);
                let spliced = [&text.as_bytes()[..at], bytes, &text.as_bytes()[at..]].concat();
                return String::from_utf8_lossy(&spliced).into_owned();
            }
            _ => {}
        }
        lines.join("\n")
    }
}

const OTHER_VALUES: [&str; 16] = [
    "0",
    "-1",
    "18446744073709551616",
    "1.5",
    "nan",
    "true",
    "\"\"",
    "\"${\"",
    "\"-5s\"",
    "\"99999999999999999999GiB\"",
    "\"\\u0000\"",
    "1979-05-27T07:32:00Z",
    "[]",
    "[1, \"a\", {}]",
    "{}",
    "{ a = { b = 1 } }",
];

fn mutation() -> impl Strategy<Value = Mutation> {
    let name = prop_oneof!["[a-z_]{1,12}", "\"\\PC{0,6}\"", "[a-z]{1,4}\\.[a-z]{1,4}"];
    prop_oneof![
        any::<usize>().prop_map(Mutation::Delete),
        any::<usize>().prop_map(Mutation::Duplicate),
        any::<(usize, usize)>().prop_map(|(a, b)| Mutation::Swap(a, b)),
        (any::<usize>(), name).prop_map(|(at, name)| Mutation::Rename(at, name)),
        (any::<usize>(), prop::sample::select(&OTHER_VALUES[..])).prop_map(|(at, value)| Mutation::Retype(at, value)),
        any::<usize>().prop_map(Mutation::Truncate),
        (any::<usize>(), prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Mutation::Bytes(at, bytes)),
    ]
}

fn environment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["development", "staging", "production", "elsewhere"][..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_mutation_gets_an_answer_that_helps(
        mutations in prop::collection::vec(mutation(), 1..5),
        environment in environment(),
    ) {
        let text = mutations.iter().fold(COMPLETE.to_owned(), |text, mutation| mutation.apply(&text));
        judge(&text, &read(&text, environment))?;
    }

    #[test]
    fn every_text_gets_an_answer(text in "(\\PC|[\n\t\r\0={}\\[\\]\"'.#]){0,200}", environment in environment()) {
        judge(&text, &read(&text, environment))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_not_touched_does_not_change(
        at in any::<prop::sample::Index>(),
        value in prop::sample::select(&["7", "true", "false", "\"7s\"", "\"64MiB\"", "\"/other\"", "\"other\"", "{}", "[]"][..]),
        environment in prop::sample::select(&["development", "staging", "production"][..]),
    ) {
        let lines = key_lines();
        let (line, key, _) = lines[at.index(lines.len())];
        let text = with_line(line, &format!("{key} = {value}"));
        let answer = read(&text, environment);
        judge(&text, &answer)?;
        if let Ok(parsed) = answer {
            let whole = read(COMPLETE, environment).expect("valid");
            let (now, before) = (said_elsewhere(&parsed, &whole, line), said_elsewhere(&whole, &parsed, line));
            prop_assert!(before.len() > 50, "only {} values were compared", before.len());
            for path in now.keys().chain(before.keys()) {
                prop_assert_eq!(now.get(path), before.get(path), "line {} changed {}", line, path);
            }
        }
    }
}

#[test]
fn the_complete_file_keeps_every_rule_in_every_environment() {
    for environment in ["development", "staging", "production"] {
        let parsed = read(COMPLETE, environment).unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
        assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    }
}

#[test]
fn a_misspelt_key_is_told_where_it_stands() {
    for (line, key, value) in key_lines() {
        // Names of server settings and of environments' own tables are free.
        if ["work_mem", "random_page_cost", "jit"].contains(&key) {
            continue;
        }
        let text = with_line(line, &format!("{key}q = {value}"));
        let Err(diagnostics) = read(&text, "development") else { panic!("line {line}, {key} was accepted") };
        let is_told = diagnostics.list.iter().any(|found| found.code == Code::UnknownKey && found.line == line);
        assert!(is_told, "line {line}, {key}q:\n{}", render(&diagnostics, &text, NAME, false));
        let last = key.rsplit('.').next().unwrap_or(key);
        let suggests = diagnostics.list.iter().any(|found| found.line == line && found.help.contains(last));
        assert!(suggests, "line {line}, {key}q has no suggestion:\n{}", render(&diagnostics, &text, NAME, false));
    }
}

#[test]
fn a_value_of_another_type_is_told_where_it_stands() {
    for (line, key, _) in key_lines() {
        let text = with_line(line, &format!("{key} = 1979-05-27"));
        let Err(diagnostics) = read(&text, "development") else { panic!("line {line}, {key} was accepted") };
        let is_told = |found: &mainstay_stack::Diagnostic| {
            found.code == Code::WrongType && found.line == line && found.severity == Severity::Error
        };
        assert!(
            diagnostics.list.iter().any(is_told),
            "line {line}, {key}:\n{}",
            render(&diagnostics, &text, NAME, false)
        );
    }
}

#[test]
fn a_file_beyond_the_bounds_is_refused_at_once() {
    let large = format!("stack = \"a\"\n{}", "#".repeat(mainstay_stack::MAX_BYTES));
    let codes = |text: &str| -> Vec<Code> {
        read(text, "development").expect_err("refused").list.iter().map(|found| found.code).collect()
    };
    assert_eq!(codes(&large), [Code::TooLarge]);
    let deep = format!("stack = {}", "[".repeat(100_000));
    assert!(codes(&deep).contains(&Code::Syntax));
    let environments: String = (0..40).map(|at| format!("[env.e{at}]\n")).collect();
    assert!(codes(&format!("stack = \"a\"\n{environments}")).contains(&Code::OutOfRange));
}

#[test]
fn files_made_to_cost_time_are_answered_with_the_first_mistakes() {
    let environments: String = (0..16).map(|at| format!("[env.e{at}]\ncolour = 1\n")).collect();
    let keys: String = (0..20_000).map(|at| format!("k{at}=1\n")).collect();
    let names: Vec<String> = (0..150).map(|at| format!("s{at}")).collect();
    let services: String =
        names.iter().map(|name| format!("[service.{name}]\nrun = \"a\"\nport = false\nneeds = {names:?}\n")).collect();
    for text in [format!("{keys}{environments}"), format!("stack = \"a\"\n{services}{environments}")] {
        assert!(text.len() <= mainstay_stack::MAX_BYTES, "{} bytes", text.len());
        let found = read(&text, "development").expect_err("refused");
        assert!(found.list.len() <= mainstay_stack::MAX_DIAGNOSTICS && found.has_errors());
    }
}
