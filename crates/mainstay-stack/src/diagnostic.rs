//! What is wrong with a stack file, where, which rule says so and what to do; and how that reads as text.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::{Deserialize, Serialize};

use crate::code::Code;

/// Diagnostics kept of one file; past this many a person mends the first ones and looks again.
pub const MAX_DIAGNOSTICS: usize = 100;

/// Longest piece of the file that a message repeats, in characters: enough to recognise it.
const MAX_QUOTE: usize = 60;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The stack cannot run.
    Error,
    /// It runs, and probably not as meant.
    Warning,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Which rule.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// Where. **Unit**: bytes from the start of the text; on character boundaries.
    pub span: Range<usize>,
    /// Line of the start, from 1.
    pub line: usize,
    /// Column of the start, from 1. **Unit**: characters.
    pub column: usize,
    /// What is wrong, with the value and the rule.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// All diagnostics of one file, in the order of their places.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostics {
    /// The file's name as the caller gave it.
    pub source_name: String,
    /// At most [`MAX_DIAGNOSTICS`].
    pub list: Vec<Diagnostic>,
    /// How many more there were, at least.
    pub omitted: usize,
}

impl Diagnostics {
    /// Orders by place, drops repetitions, and keeps to the bound.
    pub(crate) fn new(source_name: &str, mut list: Vec<Diagnostic>, mut omitted: usize) -> Self {
        list.sort_by(|a, b| {
            (a.span.start, a.span.end, a.code, &a.message).cmp(&(b.span.start, b.span.end, b.code, &b.message))
        });
        list.dedup();
        omitted += list.len().saturating_sub(MAX_DIAGNOSTICS);
        // Errors outrank warnings when not all can stay.
        if list.len() > MAX_DIAGNOSTICS {
            list.sort_by_key(|diagnostic| diagnostic.severity);
            list.truncate(MAX_DIAGNOSTICS);
            list.sort_by_key(|diagnostic| diagnostic.span.start);
        }
        Self { source_name: source_name.to_owned(), list, omitted }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether the stack cannot run.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

impl fmt::Display for Diagnostics {
    /// One line each: `mainstay.toml:3:1: error[MS0002]: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            let severity = match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            write!(
                f,
                "{}:{}:{}: {severity}[{}]: {}",
                tamed(&self.source_name),
                diagnostic.line,
                diagnostic.column,
                diagnostic.code,
                diagnostic.message
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// All diagnostics as text, with the lines of the file that they speak of. `text` is what was parsed.
pub fn render(diagnostics: &Diagnostics, text: &str, source_name: &str, colour: bool) -> String {
    let mut out = String::new();
    for diagnostic in &diagnostics.list {
        out.push_str(&render_one(diagnostic, text, source_name, colour));
        out.push_str("\n\n");
    }
    if diagnostics.omitted > 0 {
        out.push_str(&format!("and {} more: mend these first\n", diagnostics.omitted));
    }
    out
}

/// One diagnostic as text in the manner of rustc: message, place, the lines, help.
pub fn render_one(diagnostic: &Diagnostic, text: &str, source_name: &str, colour: bool) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    // A span that was made for another text must not bring the renderer down.
    let span = clamp(text, &diagnostic.span);
    // The renderer tames messages and lines of the file, and leaves the name as it is.
    let path = tamed(source_name);
    let snippet = Snippet::source(text).path(path).annotation(AnnotationKind::Primary.span(span));
    let group = level
        .primary_title(diagnostic.message.as_str())
        .id(diagnostic.code.as_str())
        .element(snippet)
        .element(Level::HELP.message(diagnostic.help.as_str()));
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    renderer.render(&[group])
}

/// A name of a file that acts on no terminal.
fn tamed(name: &str) -> String {
    let shown =
        |letter: char| if letter.is_control() { letter.escape_unicode().to_string() } else { letter.to_string() };
    name.chars().map(shown).collect()
}

/// The nearest span inside the text that begins and ends between characters.
pub(crate) fn clamp(text: &str, span: &Range<usize>) -> Range<usize> {
    let mut start = span.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

/// A piece of the file for a message: bounded, and without characters that act on a terminal.
pub(crate) fn quote(value: &str) -> String {
    let mut quoted = String::new();
    for letter in value.chars().take(MAX_QUOTE) {
        match letter {
            // Harmless, and easier to recognise as they stand in the file.
            '"' | '\'' | '\\' => quoted.push(letter),
            _ => quoted.extend(letter.escape_debug()),
        }
    }
    if value.chars().nth(MAX_QUOTE).is_some() {
        quoted.push('…');
    }
    quoted
}

/// Where lines begin, to turn byte positions into lines and columns.
#[derive(Debug)]
pub(crate) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    pub(crate) fn text(&self) -> &'t str {
        self.text
    }

    /// Line and column, both from 1.
    pub(crate) fn position(&self, at: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= at);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..at).map_or(0, |before| before.chars().count());
        (line.max(1), column + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_not_bytes() {
        let lines = Lines::new("ä = 1\nöö = 2\n");
        assert_eq!(lines.position(0), (1, 1));
        assert_eq!(lines.position(2), (1, 2));
        assert_eq!(lines.position(7), (2, 1));
        assert_eq!(lines.position(11), (2, 3));
        assert_eq!(lines.position(17), (3, 1));
    }

    #[test]
    fn spans_are_brought_inside_the_text_and_between_characters() {
        assert_eq!(clamp("aä", &(2..9)), 1..3);
        assert_eq!(clamp("", &(4..9)), 0..0);
    }

    #[test]
    fn quotes_hold_no_control_characters_and_have_a_bound() {
        assert_eq!(quote("a\u{1b}[31m"), "a\\u{1b}[31m");
        assert_eq!(quote(&"x".repeat(1000)).chars().count(), MAX_QUOTE + 1);
    }

    #[test]
    fn a_file_of_any_name_acts_on_no_terminal() {
        let name = "a\u{1b}[31mb/\u{9b}mainstay.toml";
        let text = "stack = \"shop\u{1b}[1m\"\n\"ru\\u001bn\" = \"x\"\n";
        let found = crate::parse(text, name, &mainstay_types::EnvironmentName::default()).expect_err("broken");
        for shown in [render(&found, text, name, false), found.to_string()] {
            assert!(shown.contains("a\\u{1b}[31mb/\\u{9b}mainstay.toml"), "{shown}");
            assert!(!shown.contains(|letter: char| letter.is_control() && letter != '\n'), "{shown:?}");
        }
    }

    #[test]
    fn past_the_bound_errors_stay_and_the_rest_is_counted() {
        let one = |start: usize, severity| Diagnostic {
            code: Code::Syntax,
            severity,
            span: start..start,
            line: 1,
            column: 1,
            message: "m".to_owned(),
            help: "h".to_owned(),
        };
        let mut list: Vec<_> = (0..MAX_DIAGNOSTICS).map(|at| one(at, Severity::Warning)).collect();
        list.push(one(500, Severity::Error));
        let all = Diagnostics::new("f", list, 0);
        assert_eq!((all.list.len(), all.omitted), (MAX_DIAGNOSTICS, 1));
        assert!(all.has_errors());
    }
}
