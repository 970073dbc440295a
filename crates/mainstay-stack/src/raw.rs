//! The value tree: TOML as written, with the place of every key and value. Knows no key of the stack file.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

/// A table: keys in alphabetical order.
pub(crate) type Table = BTreeMap<String, Node>;

/// A value, where it stands, and under which key.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) span: Range<usize>,
    /// Where its key stands; of an array's element, where the element stands.
    pub(crate) key: Range<usize>,
    /// Whether an environment's override put it here.
    pub(crate) is_override: bool,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    /// `None` when it does not fit 64 bits.
    Integer(Option<i64>),
    /// As written: it is only ever copied.
    Float(String),
    Boolean(bool),
    Moment,
    Array(Vec<Node>),
    Table(Table),
}

impl Value {
    /// What it is, with its article.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number with a fraction",
            Self::Boolean(_) => "true or false",
            Self::Moment => "a date",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

/// A sentence of the TOML reader about a place.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) message: String,
    pub(crate) span: Range<usize>,
}

impl SyntaxError {
    /// A key given twice leaves the rest of the file readable.
    pub(crate) fn is_duplicate(&self) -> bool {
        self.message.starts_with("duplicate key")
    }
}

/// Reads TOML, going on after errors.
pub(crate) fn read(text: &str) -> (Table, Vec<SyntaxError>) {
    let (root, errors) = DeTable::parse_recoverable(text);
    let errors = errors
        .into_iter()
        .map(|error| SyntaxError {
            message: error.message().lines().collect::<Vec<_>>().join(", "),
            span: error.span().unwrap_or(text.len()..text.len()),
        })
        .collect();
    (table(root.get_ref()), errors)
}

fn table(from: &DeTable<'_>) -> Table {
    from.iter()
        .map(|(key, value)| (key.get_ref().to_string(), node(value.get_ref(), value.span(), key.span())))
        .collect()
}

fn node(from: &DeValue<'_>, span: Range<usize>, key: Range<usize>) -> Node {
    let value = match from {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(number) => Value::Float(number.as_str().to_owned()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Moment,
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| node(item.get_ref(), item.span(), item.span())).collect())
        }
        DeValue::Table(inner) => Value::Table(table(inner)),
    };
    Node { value, span, key, is_override: false }
}
