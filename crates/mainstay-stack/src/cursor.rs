//! Reads one table key by key: types, bounds, units; and at the end tells what nobody asked for.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use mainstay_types::Bytes;

use crate::code::Code;
use crate::context::Context;
use crate::diagnostic::quote;
use crate::raw::{Node, Table, Value};
use crate::units::{self, UnitError};
use crate::words::nearest;

/// A text and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) span: Range<usize>,
}

/// A table being read.
#[derive(Debug)]
pub(crate) struct Cursor<'n> {
    table: &'n Table,
    /// The table's key, for what is missing in it.
    pub(crate) place: Range<usize>,
    /// The table's path in the file's own words; empty at the top.
    pub(crate) path: String,
    /// Keys asked for so far: what remains at the end is unknown.
    known: Vec<&'static str>,
}

impl<'n> Cursor<'n> {
    pub(crate) fn new(table: &'n Table, place: Range<usize>, path: impl Into<String>) -> Self {
        Self { table, place, path: path.into(), known: Vec::new() }
    }

    /// The path of a key of this table.
    pub(crate) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The node of a key, which counts as known from here on.
    pub(crate) fn node(&mut self, key: &'static str) -> Option<&'n Node> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key)
    }

    /// The node of a key that is a value, noted with place and origin.
    pub(crate) fn value(&mut self, ctx: &mut Context<'_>, key: &'static str) -> Option<&'n Node> {
        let node = self.node(key)?;
        ctx.note_value(&self.at(key), node);
        Some(node)
    }

    fn wrong_type(&self, ctx: &mut Context<'_>, key: &str, node: &Node, wanted: &str, example: &str) {
        wrong_type(ctx, &self.at(key), node, wanted, example);
    }

    /// A text of one line without control characters.
    pub(crate) fn text(&mut self, ctx: &mut Context<'_>, key: &'static str, example: &str) -> Option<Text> {
        let node = self.value(ctx, key)?;
        let Value::Text(text) = &node.value else {
            self.wrong_type(ctx, key, node, "a text", example);
            return None;
        };
        plain_text(ctx, &self.at(key), text, node)
    }

    pub(crate) fn boolean(&mut self, ctx: &mut Context<'_>, key: &'static str) -> Option<bool> {
        let node = self.value(ctx, key)?;
        if let Value::Boolean(value) = &node.value {
            return Some(*value);
        }
        self.wrong_type(ctx, key, node, "true or false", &format!("{key} = true"));
        None
    }

    /// A whole number within bounds.
    pub(crate) fn count(
        &mut self,
        ctx: &mut Context<'_>,
        key: &'static str,
        bounds: RangeInclusive<u32>,
    ) -> Option<u32> {
        let node = self.value(ctx, key)?;
        let Value::Integer(number) = &node.value else {
            self.wrong_type(ctx, key, node, "a whole number", &format!("{key} = {}", bounds.start()));
            return None;
        };
        let fitting = number.and_then(|number| u32::try_from(number).ok()).filter(|number| bounds.contains(number));
        if fitting.is_none() {
            let given = number.map_or("the number".to_owned(), |number| number.to_string());
            let (low, high) = bounds.into_inner();
            let message = format!("`{}` is {given}, which is outside {low} to {high}", self.at(key));
            ctx.error(Code::OutOfRange, &node.span, message, format!("choose a number from {low} to {high}"));
        }
        fitting
    }

    pub(crate) fn port(&mut self, ctx: &mut Context<'_>, key: &'static str) -> Option<u16> {
        let node = self.value(ctx, key)?;
        let Value::Integer(number) = &node.value else {
            self.wrong_type(ctx, key, node, "a port number", &format!("{key} = 8443"));
            return None;
        };
        let port = number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0);
        if port.is_none() {
            let given = number.map_or("the number".to_owned(), |number| number.to_string());
            let message = format!("`{}` is {given}; ports are 1 to 65535", self.at(key));
            ctx.error(Code::PortRange, &node.span, message, "choose a free port from 1024 to 65535".to_owned());
        }
        port
    }

    /// A duration within bounds.
    pub(crate) fn duration(
        &mut self,
        ctx: &mut Context<'_>,
        key: &'static str,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let (value, node) = self.amount(ctx, key, units::duration, "30s", "ms, s, m, h or d")?;
        if bounds.contains(&value) {
            return Some(value);
        }
        let [low, high] = [bounds.start(), bounds.end()].map(|bound| units::show_duration(*bound));
        let message =
            format!("`{}` is {}, which is outside {low} to {high}", self.at(key), units::show_duration(value));
        ctx.error(Code::OutOfRange, &node.span, message, format!("choose a duration from {low} to {high}"));
        None
    }

    /// A size within bounds.
    pub(crate) fn size(
        &mut self,
        ctx: &mut Context<'_>,
        key: &'static str,
        bounds: RangeInclusive<Bytes>,
    ) -> Option<Bytes> {
        let (value, node) =
            self.amount(ctx, key, units::size, "256MiB", "KiB, MiB, GiB (1024) or kB, MB, GB (1000)")?;
        if bounds.contains(&value) {
            return Some(value);
        }
        let [low, high] = [bounds.start(), bounds.end()].map(|bound| units::show_size(*bound));
        let message = format!("`{}` is {}, which is outside {low} to {high}", self.at(key), units::show_size(value));
        ctx.error(Code::OutOfRange, &node.span, message, format!("choose a size from {low} to {high}"));
        None
    }

    pub(crate) fn cpu(&mut self, ctx: &mut Context<'_>, key: &'static str) -> Option<u32> {
        let (value, node) =
            self.amount(ctx, key, units::cpu_milli, "500m", "m (thousandths of a core), or none (cores)")?;
        if value > 0 {
            return Some(value);
        }
        let message = format!("`{}` is 0: an instance without any processor time never runs", self.at(key));
        ctx.error(Code::OutOfRange, &node.span, message, "choose at least \"1m\", or remove the key".to_owned());
        None
    }

    fn amount<T>(
        &mut self,
        ctx: &mut Context<'_>,
        key: &'static str,
        read: fn(&str) -> Result<T, UnitError>,
        example: &str,
        units: &str,
    ) -> Option<(T, &'n Node)> {
        let node = self.value(ctx, key)?;
        let path = self.at(key);
        if let Value::Integer(Some(number)) = &node.value {
            let message = format!("`{path}` is the number {number} without a unit");
            let help = format!("write it as a text with one of {units}: {key} = \"{example}\"");
            ctx.error(Code::BadUnit, &node.span, message, help);
            return None;
        }
        let Value::Text(text) = &node.value else {
            self.wrong_type(ctx, key, node, "a text with a unit", &format!("{key} = \"{example}\""));
            return None;
        };
        match read(text) {
            Ok(value) => Some((value, node)),
            Err(error) => {
                let message = format!("`{path}` is \"{}\": {error}", quote(text));
                let help = format!("write a whole number with one of {units}: {key} = \"{example}\"");
                ctx.error(Code::BadUnit, &node.span, message, help);
                None
            }
        }
    }

    /// An array of texts.
    pub(crate) fn texts(&mut self, ctx: &mut Context<'_>, key: &'static str, example: &str) -> Option<Vec<Text>> {
        let node = self.value(ctx, key)?;
        let Value::Array(items) = &node.value else {
            self.wrong_type(ctx, key, node, "an array of texts", example);
            return None;
        };
        Some(text_items(ctx, &self.at(key), items, example))
    }

    /// A table below this one.
    pub(crate) fn table(&mut self, ctx: &mut Context<'_>, key: &'static str) -> Option<Cursor<'n>> {
        let node = self.node(key)?;
        self.table_of(ctx, key, node)
    }

    /// Takes a node of this table as a table.
    pub(crate) fn table_of(&self, ctx: &mut Context<'_>, key: &str, node: &'n Node) -> Option<Cursor<'n>> {
        let path = self.at(key);
        ctx.note_place(&path, node);
        if let Value::Table(table) = &node.value {
            return Some(Cursor::new(table, node.key.clone(), path));
        }
        self.wrong_type(ctx, key, node, "a table", &format!("[{path}]"));
        None
    }

    /// Entries of a table whose keys people choose.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'n str, &'n Node)> + use<'n> {
        self.table.iter().map(|(key, node)| (key.as_str(), node))
    }

    /// Says that a key without a default is absent.
    pub(crate) fn missing(&self, ctx: &mut Context<'_>, key: &str, why: &str, example: &str) {
        let place = if self.path.is_empty() { "the file".to_owned() } else { format!("`{}`", self.path) };
        ctx.error(Code::MissingKey, &self.place, format!("{place} has no `{key}`: {why}"), format!("add {example}"));
    }

    /// Tells what nobody asked for. `later` are keys that this release does not have and what to do instead,
    /// `renamed` are keys under another name.
    pub(crate) fn finish(&self, ctx: &mut Context<'_>, later: &[(&str, &str)], renamed: &[(&str, &str)]) {
        ctx.asked.entry(self.path.clone()).or_default().extend(self.known.iter().copied());
        for (key, node) in self.table {
            if self.known.contains(&key.as_str()) {
                continue;
            }
            // The nearest name costs time, and would not be shown.
            if ctx.is_full() {
                ctx.omitted += 1;
                continue;
            }
            let path = self.at(&quote(key));
            if let Some((_, what)) = later.iter().find(|(name, _)| name == key) {
                let help = if what.is_empty() { "remove it".to_owned() } else { format!("remove it: {what}") };
                ctx.error(Code::NotSupported, &node.key, format!("`{path}` is not supported yet"), help);
                continue;
            }
            let near = renamed.iter().find(|(old, _)| old == key).map(|(_, new)| *new);
            let help = match near.or_else(|| nearest(key, self.known.iter().copied())) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("remove it, or use one of: {}", self.known.join(", ")),
            };
            ctx.error(Code::UnknownKey, &node.key, format!("`{path}` is not a key of the stack file"), help);
        }
    }
}

/// Says that a value is of another type.
pub(crate) fn wrong_type(ctx: &mut Context<'_>, path: &str, node: &Node, wanted: &str, example: &str) {
    let message = format!("`{}` is {}, and takes {wanted}", quote(path), node.value.kind());
    // A table's span is its header, an array's may be many lines: the key says enough.
    let place = if matches!(node.value, Value::Table(_) | Value::Array(_)) { &node.key } else { &node.span };
    ctx.error(Code::WrongType, place, message, format!("write for example {example}"));
}

/// Refuses characters that no path, name or command holds.
pub(crate) fn plain_text(ctx: &mut Context<'_>, path: &str, text: &str, node: &Node) -> Option<Text> {
    if text.chars().any(char::is_control) {
        let message = format!("`{}` holds a control character: \"{}\"", quote(path), quote(text));
        ctx.error(Code::BadValue, &node.span, message, "remove the line break or control character".to_owned());
        return None;
    }
    Some(Text { text: text.to_owned(), span: node.span.clone() })
}

/// The texts of an array; tells which are not.
fn text_items(ctx: &mut Context<'_>, path: &str, items: &[Node], example: &str) -> Vec<Text> {
    let mut texts = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match &item.value {
            Value::Text(text) => texts.extend(plain_text(ctx, &path, text, item)),
            _ => wrong_type(ctx, &path, item, "a text", example),
        }
    }
    texts
}
