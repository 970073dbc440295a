//! What a reading of the file collects: diagnostics, origins and places.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use mainstay_types::EnvironmentName;

use crate::code::Code;
use crate::diagnostic::{Diagnostic, Lines, MAX_DIAGNOSTICS, Severity, clamp};
use crate::origin::{Origin, Origins};
use crate::raw::Node;

/// Diagnostics kept of one reading: ten times what is shown, so that those shown are the first by place.
const MOST_KEPT: usize = 10 * MAX_DIAGNOSTICS;

/// Collects while the file is read for one environment.
#[derive(Debug)]
pub(crate) struct Context<'t> {
    lines: &'t Lines<'t>,
    pub(crate) environment: EnvironmentName,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// How many more there were.
    pub(crate) omitted: usize,
    pub(crate) origins: Origins,
    /// Places of values by path, for rules that look at more than one value.
    places: BTreeMap<String, Range<usize>>,
    /// Keys that the reader asked for, by the path of their table.
    pub(crate) asked: BTreeMap<String, BTreeSet<&'static str>>,
    /// Names that the file declares, good or bad, so that one mistake is not told twice.
    pub(crate) declared: BTreeSet<String>,
}

impl<'t> Context<'t> {
    pub(crate) fn new(lines: &'t Lines<'t>, environment: EnvironmentName) -> Self {
        Self {
            lines,
            environment,
            diagnostics: Vec::new(),
            omitted: 0,
            origins: Origins::default(),
            places: BTreeMap::new(),
            asked: BTreeMap::new(),
            declared: BTreeSet::new(),
        }
    }

    pub(crate) fn error(&mut self, code: Code, span: &Range<usize>, message: String, help: String) {
        self.report(Severity::Error, code, span, message, help);
    }

    pub(crate) fn warning(&mut self, code: Code, span: &Range<usize>, message: String, help: String) {
        self.report(Severity::Warning, code, span, message, help);
    }

    /// Whether nothing more is kept. Never before an error is: a broken file must not pass because it warns a lot.
    pub(crate) fn is_full(&self) -> bool {
        let is_error = |found: &Diagnostic| found.severity == Severity::Error;
        self.diagnostics.len() >= MOST_KEPT && self.diagnostics.iter().any(is_error)
    }

    fn report(&mut self, severity: Severity, code: Code, span: &Range<usize>, message: String, help: String) {
        if self.is_full() {
            self.omitted += 1;
            return;
        }
        let span = clamp(self.lines.text(), span);
        let (line, column) = self.lines.position(span.start);
        self.diagnostics.push(Diagnostic { code, severity, span, line, column, message, help });
    }

    /// Notes where a table stands.
    pub(crate) fn note_place(&mut self, path: &str, node: &Node) {
        self.places.insert(path.to_owned(), node.key.clone());
    }

    /// Notes where a value stands and who says it.
    pub(crate) fn note_value(&mut self, path: &str, node: &Node) {
        self.places.insert(path.to_owned(), node.span.clone());
        let (line, _) = self.lines.position(clamp(self.lines.text(), &node.key).start);
        let origin = if node.is_override {
            Origin::Environment { name: self.environment.clone(), line }
        } else {
            Origin::File { line }
        };
        self.origins.set(path, origin);
    }

    /// The place of the first path that the file has; else of its nearest table; else the start of the file.
    pub(crate) fn place(&self, paths: &[&str]) -> Range<usize> {
        if let Some(found) = paths.iter().find_map(|path| self.places.get(*path)) {
            return found.clone();
        }
        let mut path = paths.first().copied().unwrap_or_default();
        while let Some((parent, _)) = path.rsplit_once('.') {
            if let Some(found) = self.places.get(parent) {
                return found.clone();
            }
            path = parent;
        }
        0..0
    }

    /// Whether the value at this path was refused, so that its default stands in for it.
    pub(crate) fn is_refused(&self, path: &str) -> bool {
        self.places.get(path).is_some_and(|place| {
            let is_here = |diagnostic: &&Diagnostic| diagnostic.span == *place;
            self.diagnostics.iter().filter(is_here).any(|diagnostic| diagnostic.severity == Severity::Error)
        })
    }

    /// Whether the file says a value at this path.
    pub(crate) fn is_said(&self, path: &str) -> bool {
        self.places.contains_key(path)
    }
}
