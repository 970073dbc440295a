//! The guide names every key, and its examples run.

use std::collections::BTreeSet;

use mainstay_stack::{computed, parse, template};
use mainstay_types::EnvironmentName;

const GUIDE: &str = include_str!("../../../docs/guide/stack-file.md");
const COMPLETE: &str = include_str!("complete.toml");

#[test]
fn every_example_of_the_guide_keeps_every_rule() {
    let mut examples = 0;
    for rest in GUIDE.split("```toml\n").skip(1) {
        let text = rest.split("```").next().unwrap_or_default();
        let parsed =
            parse(text, "mainstay.toml", &EnvironmentName::default()).unwrap_or_else(|found| panic!("{found}"));
        assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
        examples += 1;
    }
    assert!(examples >= 6, "only {examples} examples were found");
}

#[test]
fn every_key_and_template_stands_in_the_guide() {
    let parsed =
        parse(COMPLETE, "mainstay.toml", &EnvironmentName::default()).unwrap_or_else(|found| panic!("{found}"));
    let mut keys: BTreeSet<String> = template::NAMES.iter().map(|name| (*name).to_owned()).collect();
    for value in computed(&parsed) {
        let parts: Vec<&str> = value.path.split('.').collect();
        // Names that people choose are no keys; promises are rows of their own.
        match parts.as_slice() {
            ["service", _, "env", ..] => keys.insert("env".to_owned()),
            ["service", _, "uses", _] => keys.insert("uses".to_owned()),
            ["service", _, "resources", key] => keys.insert(format!("resources.{key}")),
            ["database", "backup", "keep", key] => keys.insert(format!("backup.keep.{key}")),
            ["database", "backup", "copy", key] => keys.insert(format!("backup.copy.{key}")),
            ["database", "backup", key] => keys.insert(format!("backup.{key}")),
            ["cache", "copies", key] => keys.insert(format!("copies.{key}")),
            ["edge", "route[0]", "headers" | "request_headers" | "response_headers", "set", _] => {
                keys.insert("set".to_owned())
            }
            ["database", "settings", ..] => keys.insert("settings".to_owned()),
            ["drills", "counter", key] => keys.insert(format!("drills.counter.{key}")),
            ["target", key, ..] | ["observe" | "console" | "deploy", key] => keys.insert(format!("{}.{key}", parts[0])),
            ["environment"] => false,
            [.., key] => keys.insert((*key).to_owned()),
            [] => false,
        };
    }
    assert!(keys.len() > 60, "only {} keys", keys.len());
    let missing: Vec<_> = keys.iter().filter(|key| !GUIDE.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "not in the guide: {missing:?}");
}
