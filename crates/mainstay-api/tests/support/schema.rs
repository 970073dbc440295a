//! A validator of the part of JSON Schema 2020-12 that our own schemas use. A keyword that it does not know is an
//! error, so that no rule is passed over in silence.

use std::cell::RefCell;
use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

/// Says of a document what breaks its schema: places and rules.
pub(crate) struct Validator<'s> {
    root: &'s Value,
    /// Compiled once: it takes longer than to match.
    patterns: RefCell<BTreeMap<String, Regex>>,
}

/// Words that rule nothing.
const ANNOTATIONS: [&str; 11] = [
    "$schema",
    "$id",
    "$defs",
    "title",
    "description",
    "default",
    "examples",
    "example",
    "format",
    "deprecated",
    "x-unit",
];

impl<'s> Validator<'s> {
    pub(crate) fn new(root: &'s Value) -> Self {
        Self { root, patterns: RefCell::default() }
    }

    /// Faults by one schema of the root.
    pub(crate) fn faults_by(&self, schema: &Value, document: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.check(schema, document, "", &mut faults);
        faults
    }

    /// The schema that a reference means.
    pub(crate) fn resolve(&self, reference: &str) -> &'s Value {
        let pointer = reference.strip_prefix('#').expect("references stay in the document");
        self.root.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let rules = match schema {
            Value::Bool(true) => return,
            Value::Bool(false) => return faults.push(format!("{at}: nothing may stand here")),
            Value::Object(rules) => rules,
            other => panic!("{other} is no schema"),
        };
        let has = |key: &str| rules.contains_key(key);
        for (key, rule) in rules {
            match key.as_str() {
                "$ref" => self.check(self.resolve(rule.as_str().expect("a reference")), value, at, faults),
                "type" if !is_of(rule, value) => faults.push(format!("{at}: {value} is not of type {rule}")),
                "enum" if !rule.as_array().expect("values").contains(value) => {
                    faults.push(format!("{at}: {value} is none of {rule}"))
                }
                "const" if rule != value => faults.push(format!("{at}: {value} is not {rule}")),
                "pattern" if value.as_str().is_some_and(|text| !self.matches(rule, text)) => {
                    faults.push(format!("{at}: {value} does not match {rule}"))
                }
                "minimum" if value.as_f64() < rule.as_f64() && value.is_number() => {
                    faults.push(format!("{at}: {value} is below {rule}"))
                }
                "maximum" if value.as_f64() > rule.as_f64() && value.is_number() => {
                    faults.push(format!("{at}: {value} is above {rule}"))
                }
                "anyOf" | "oneOf" => {
                    let good = rule
                        .as_array()
                        .expect("schemas")
                        .iter()
                        .filter(|one| self.faults_by(one, value).is_empty())
                        .count();
                    if good == 0 || (key == "oneOf" && good > 1) {
                        faults.push(format!("{at}: {value} fits {good} of {key}"));
                    }
                }
                "items" | "minItems" => self.check_list(key, rule, value, at, faults),
                "properties" | "required" | "propertyNames" | "additionalProperties" => {
                    self.check_table(key, rule, schema, value, at, faults);
                }
                "type" | "enum" | "const" | "pattern" | "minimum" | "maximum" => {}
                other => assert!(ANNOTATIONS.contains(&other), "the validator does not know {other:?}"),
            }
        }
        assert!(!has("properties") || has("additionalProperties"), "{at}: a table must say whether it is closed");
    }

    fn matches(&self, rule: &Value, text: &str) -> bool {
        let pattern = rule.as_str().expect("a pattern");
        let mut patterns = self.patterns.borrow_mut();
        let made = patterns.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).expect("a pattern"));
        made.is_match(text)
    }

    fn check_list(&self, key: &str, rule: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let Value::Array(list) = value else { return };
        if key == "minItems" {
            if (list.len() as u64) < rule.as_u64().expect("a number") {
                faults.push(format!("{at}: has fewer than {rule}"));
            }
            return;
        }
        for (index, item) in list.iter().enumerate() {
            self.check(rule, item, &format!("{at}/{index}"), faults);
        }
    }

    fn check_table(&self, key: &str, rule: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
        let Value::Object(table) = value else { return };
        match key {
            "properties" => {
                for (name, rule) in rule.as_object().expect("schemas") {
                    if let Some(value) = table.get(name) {
                        self.check(rule, value, &format!("{at}/{name}"), faults);
                    }
                }
            }
            "required" => {
                for name in rule.as_array().expect("names").iter().filter_map(Value::as_str) {
                    if !table.contains_key(name) {
                        faults.push(format!("{at}: lacks {name}"));
                    }
                }
            }
            "propertyNames" => {
                for name in table.keys() {
                    self.check(rule, &Value::from(name.as_str()), &format!("{at}/{name}"), faults);
                }
            }
            _ => {
                for (name, value) in table.iter().filter(|(name, _)| schema["properties"].get(name.as_str()).is_none())
                {
                    if *rule == Value::Bool(false) {
                        faults.push(format!("{at}: {name} is not known"));
                    } else {
                        self.check(rule, value, &format!("{at}/{name}"), faults);
                    }
                }
            }
        }
    }
}

fn is_of(rule: &Value, value: &Value) -> bool {
    let one = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("there is no type {other:?}"),
    };
    match rule {
        Value::String(name) => one(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(one),
        other => panic!("{other} is no type"),
    }
}
