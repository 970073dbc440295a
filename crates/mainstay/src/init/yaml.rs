//! YAML as a small tree with lines, for compose files.
//!
//! Never guesses: what the tree cannot hold (a key that is no text, a tag of its own, a second document) is an error
//! with its line. Anchors and merge keys are resolved, within bounds that keep a hostile file small.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, Tag};

use super::Unread;

/// Values of one file, those that anchors repeat included: a compose file has hundreds.
const MOST_NODES: usize = 20_000;
/// Values within values: a compose file has six.
const DEEPEST: usize = 32;

/// A value and the line, from 1, on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing stands there, or `null`.
    Empty,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// The value of a key of this map.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Keys and values; none when it is no map.
    pub(super) fn entries(&self) -> &[(String, Node)] {
        match &self.value {
            Value::Map(entries) => entries,
            Value::Empty | Value::Text(_) | Value::List(_) => &[],
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            Value::Empty | Value::List(_) | Value::Map(_) => None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Empty => true,
            Value::Text(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Map(entries) => entries.is_empty(),
        }
    }

    fn size(&self) -> usize {
        let inner = match &self.value {
            Value::Empty => 0,
            // A long text that is repeated takes as much room as many nodes.
            Value::Text(text) => text.len() / 64,
            Value::List(items) => items.iter().map(Node::size).sum(),
            Value::Map(entries) => entries.iter().map(|(_, node)| node.size()).sum(),
        };
        inner + 1
    }

    fn depth(&self) -> usize {
        let inner = match &self.value {
            Value::Empty | Value::Text(_) => None,
            Value::List(items) => items.iter().map(Node::depth).max(),
            Value::Map(entries) => entries.iter().map(|(_, node)| node.depth()).max(),
        };
        inner.unwrap_or(0) + 1
    }
}

/// A list or map that is not whole yet.
struct Open {
    anchor: usize,
    line: usize,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map { entries: Vec<(String, Node)>, merged: Vec<(String, Node)>, key: Option<(String, usize)> },
}

struct Reader<'t> {
    file: &'t str,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

/// The only document of a file.
///
/// # Errors
/// Where and why it is no YAML, or none that the tree can hold.
pub(super) fn read(file: &str, text: &str) -> Result<Node, Unread> {
    let mut reader = Reader { file, open: Vec::new(), anchors: BTreeMap::new(), nodes: 0, root: None };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| reader.error(error.marker().line(), error.info()))?;
        reader.take(event, span.start.line())?;
    }
    Ok(reader.root.unwrap_or(Node { line: 1, value: Value::Empty }))
}

impl Reader<'_> {
    fn error(&self, line: usize, reason: impl Into<String>) -> Unread {
        Unread::new(self.file, Some(line), reason)
    }

    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), Unread> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(self.error(line, "a second document begins here, and init reads files of one"))
            }
            Event::DocumentStart(_) => Ok(()),
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(self.error(line, "an alias of what is not whole yet"));
                };
                self.nodes += node.size();
                if self.nodes > MOST_NODES || node.depth() + self.open.len() > DEEPEST {
                    return Err(self.error(line, "what anchors repeat becomes too large"));
                }
                let node = Node { line, value: node.value.clone() };
                self.put(node, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), line)?;
                let is_plain = style == saphyr_parser::ScalarStyle::Plain && tag.is_none();
                let is_empty = is_plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if is_empty { Value::Empty } else { Value::Text(text.into_owned()) };
                self.put(Node { line, value }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), line)?;
                self.begin(Open { anchor, line, kind: Kind::List(Vec::new()) })
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.as_deref(), line)?;
                let kind = Kind::Map { entries: Vec::new(), merged: Vec::new(), key: None };
                self.begin(Open { anchor, line, kind })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
        }
    }

    /// Tags such as `!reset` change what a value means.
    fn refuse_tag(&self, tag: Option<&Tag>, line: usize) -> Result<(), Unread> {
        match tag.filter(|tag| !tag.is_yaml_core_schema()) {
            Some(tag) => Err(self.error(line, format!("init does not know the tag {}{}", tag.handle, tag.suffix))),
            None => Ok(()),
        }
    }

    fn begin(&mut self, open: Open) -> Result<(), Unread> {
        if self.open.len() >= DEEPEST {
            return Err(self.error(open.line, format!("values lie in each other more than {DEEPEST} deep")));
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Unread> {
        let Some(Open { anchor, line, kind }) = self.open.pop() else { return Ok(()) };
        let value = match kind {
            Kind::List(items) => Value::List(items),
            Kind::Map { mut entries, merged, .. } => {
                // What a map says itself goes before what it merges in; of two that are merged, the first.
                for (key, node) in merged {
                    if !entries.iter().any(|(name, _)| *name == key) {
                        entries.push((key, node));
                    }
                }
                Value::Map(entries)
            }
        };
        self.put(Node { line, value }, anchor)
    }

    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Unread> {
        let line = node.line;
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            return Err(self.error(line, format!("it has more than {MOST_NODES} values")));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let file = self.file;
        let error = |reason: String| Unread::new(file, Some(line), reason);
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.kind {
            Kind::List(items) => items.push(node),
            Kind::Map { entries, merged, key } => match key.take() {
                None => match node.value {
                    Value::Text(text) => *key = Some((text, line)),
                    _ => return Err(error("a key that is no text".to_owned())),
                },
                Some((name, _)) if name == "<<" => merge(merged, node).map_err(error)?,
                Some((name, at)) if entries.iter().any(|(known, _)| *known == name) => {
                    return Err(Unread { line: Some(at), ..error(format!("the key `{name}` is there twice")) });
                }
                // The line of a pair is that of its key: a block's value begins below it.
                Some((name, at)) => entries.push((name, Node { line: at, ..node })),
            },
        }
        Ok(())
    }
}

/// `<<: *anchor` and `<<: [*one, *two]`.
///
/// **Source**: <https://yaml.org/type/merge.html>
fn merge(merged: &mut Vec<(String, Node)>, node: Node) -> Result<(), String> {
    let maps = match node.value {
        Value::List(items) => items,
        value => vec![Node { line: node.line, value }],
    };
    for map in maps {
        match map.value {
            Value::Map(entries) => merged.extend(entries),
            Value::Empty | Value::Text(_) | Value::List(_) => return Err("`<<` takes a map, or a list of maps".into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(node: &Node) -> String {
        match &node.value {
            Value::Empty => "-".to_owned(),
            Value::Text(text) => format!("{text:?}"),
            Value::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
            Value::Map(entries) => {
                let entries = entries.iter().map(|(key, node)| format!("{key}@{}={}", node.line, shown(node)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(" "))
            }
        }
    }

    fn of(text: &str) -> String {
        match read("x.yaml", text) {
            Ok(node) => shown(&node),
            Err(unread) => format!("line {}: {}", unread.line.unwrap_or(0), unread.reason),
        }
    }

    #[test]
    fn blocks_flows_anchors_and_merges_are_read() {
        assert_eq!(of("a: |\n  one\n  two\nb: >-\n  one\n  two\n"), r#"{a@1="one\ntwo\n" b@4="one two"}"#);
        assert_eq!(of("a: {b: [c, 'd e'], f: }\n"), r#"{a@1={b@1=["c" "d e"] f@1=-}}"#);
        assert_eq!(
            of("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\nz: *x\n"),
            r#"{x@1={a@1="1" b@1="2"} y@2={b@4="3" a@1="1"} z@5={a@1="1" b@1="2"}}"#
        );
        assert_eq!(of("a: null\nb: 'null'\nc: # nothing\n"), r#"{a@1=- b@2="null" c@3=-}"#);
    }

    #[test]
    fn what_the_tree_cannot_hold_is_an_error_with_its_line() {
        for (text, wanted) in [
            ("a: 1\nb: [1, 2\n", "line "),
            ("a: 1\n---\nb: 2\n", "line 2: a second document"),
            ("a: 1\nb: 2\na: 3\n", "line 3: the key `a` is there twice"),
            ("a: 1\nb: !reset null\n", "line 2: init does not know the tag !reset"),
            ("a: 1\n? [b]\n: c\n", "line 2: a key that is no text"),
            ("a: 1\nb:\n  <<: 7\n", "line 3: `<<` takes a map"),
            ("a:\n\tb: 1\n", "line 2"),
            ("a: *nobody\n", "line 1"),
        ] {
            let found = of(text);
            assert!(found.starts_with(wanted), "{text:?}: {found}");
        }
    }

    #[test]
    fn a_hostile_file_ends_early() {
        for deep in ["[".repeat(100), "- ".repeat(100), "{a: ".repeat(100)] {
            let text = format!("a:\n {deep}");
            assert!(of(&text).contains("deep"), "{}", of(&text));
        }
        for part in
            ["[", "- ", "? ", "{a: ", "'", "\"\\", "&a ", "!a ", "a: b\n", "%a\n", "|\n ", "\t", "*", "- \n", "#\n"]
        {
            // Whatever it is, it ends.
            of(&part.repeat(400_000 / part.len()));
        }
        let mut laughs = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n".to_owned();
        for level in 1..20 {
            let one = format!("*a{}", level - 1);
            laughs.push_str(&format!("a{level}: &a{level} [{}]\n", vec![one; 9].join(", ")));
        }
        assert!(of(&laughs).contains("too large"), "{}", of(&laughs));
    }
}
