//! A shell's line as words, as far as needed to change one word of it and leave the rest as it stands.
//!
//! **Source**: POSIX.1-2017, "Shell Command Language", 2.2 Quoting, 2.3 Token Recognition. Never runs or expands
//! anything.

use std::ops::Range;

/// A letter of a word, and whether the shell puts something else in its place (`$NAME`, `$(…)`).
type Letter = (char, bool);

/// A word, without its quotation marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    letters: Vec<Letter>,
    /// Where it stands in the line, in bytes.
    at: Range<usize>,
    is_changed: bool,
}

impl Word {
    /// A word of a list, in which no shell puts anything.
    pub(super) fn literal(text: &str) -> Self {
        Self { letters: text.chars().map(|letter| (letter, false)).collect(), at: 0..0, is_changed: false }
    }

    /// The word as the program gets it, with what the shell expands as it is written.
    pub(super) fn text(&self) -> String {
        self.letters.iter().map(|(letter, _)| letter).collect()
    }

    /// Whether the shell puts something in.
    pub(super) fn expands(&self) -> bool {
        self.letters.iter().any(|(_, expands)| *expands)
    }

    /// Puts an expansion (or, if it holds no `$`, a text) in place of a part of [`Self::text`], given in bytes.
    pub(super) fn put(&mut self, part: Range<usize>, new: &str) {
        let text = self.text();
        let count = |to: usize| text.get(..to).unwrap_or(&text).chars().count();
        let part = count(part.start)..count(part.end);
        self.letters.splice(part, expanded(new));
        self.is_changed = true;
    }

    /// Another word in its place; an empty one is taken away.
    pub(super) fn become_text(&mut self, new: &str) {
        self.letters = new.chars().map(|letter| (letter, false)).collect();
        self.is_changed = true;
    }

    /// As a shell reads it back.
    pub(super) fn quoted(&self) -> String {
        let only_port = self.text().replace("${PORT}", "").replace("$PORT", "");
        let is_bare = only_port.chars().all(is_plain) && !self.letters.is_empty();
        let is_literal_port = self.letters.iter().any(|(letter, expands)| *letter == '$' && !expands);
        if is_bare && !is_literal_port {
            return self.text();
        }
        if !self.expands() {
            return super::text::one_word(&self.text());
        }
        let mut out = String::from("\"");
        for (letter, expands) in &self.letters {
            if !expands && matches!(letter, '"' | '\\' | '$' | '`') {
                out.push('\\');
            }
            out.push(*letter);
        }
        out + "\""
    }
}

impl Word {
    /// A word in which `$$` is a dollar sign, and `$NAME` and `${NAME}` are put in, as Compose writes it.
    pub(super) fn template(text: &str) -> Self {
        let mut letters = Vec::new();
        for (index, part) in text.split("$$").enumerate() {
            letters.extend((index > 0).then_some(('$', false)));
            letters.extend(expanded(part));
        }
        Self { letters, ..Self::literal("") }
    }
}

/// Splits a line into words as a shell would, but puts nothing in and knows no operators.
pub(super) fn split(text: &str) -> Option<Vec<String>> {
    let mut words: Vec<String> = Vec::new();
    let (mut word, mut mark) = (None::<String>, None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (mark, letter) {
            (Some(open), _) if open == letter => mark = None,
            (None, '\'' | '"') => {
                mark = Some(letter);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = letters.next()?;
                let keeps = mark.is_some() && !matches!(next, '"' | '\\');
                let word = word.get_or_insert_default();
                word.extend(keeps.then_some('\\'));
                word.push(next);
            }
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    mark.is_none().then_some(words)
}

/// `a$NAME-b` as letters: the name is an expansion, the rest is not.
fn expanded(text: &str) -> Vec<Letter> {
    let mut letters = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = if first == '$' { expansion(rest) } else { first.len_utf8() };
        letters.extend(rest[..length].chars().map(|letter| (letter, first == '$' && length > 1)));
        rest = &rest[length..];
    }
    letters
}

/// What needs no quotation marks.
pub(super) fn is_plain(letter: char) -> bool {
    letter.is_alphanumeric() || "-_./:=@%+,^".contains(letter)
}

/// Words between operators: `a b && c` is two of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    text: String,
    pub(super) commands: Vec<Vec<Word>>,
}

/// `None` when a quotation mark or a parenthesis is not closed.
pub(super) fn read(text: &str) -> Option<Line> {
    let mut line = Line { text: text.to_owned(), commands: vec![Vec::new()] };
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        match first {
            ' ' | '\t' => at += 1,
            '\n' | '|' | '&' | ';' | '<' | '>' | '(' | ')' => {
                line.commands.push(Vec::new());
                at += 1;
            }
            '#' => at = text[at..].find('\n').map_or(text.len(), |end| at + end),
            '\\' if text[at..].starts_with("\\\n") => at += 2,
            _ => {
                let word = word(text, at)?;
                at = word.at.end;
                line.commands.last_mut()?.push(word);
            }
        }
    }
    line.commands.retain(|command| !command.is_empty());
    Some(line)
}

fn word(text: &str, start: usize) -> Option<Word> {
    let mut letters = Vec::new();
    let mut at = start;
    let mut is_quoted = false;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        match first {
            ' ' | '\t' | '\n' | '|' | '&' | ';' | '<' | '>' | '(' | ')' if !is_quoted => break,
            '\'' if !is_quoted => {
                let end = rest[1..].find('\'')?;
                letters.extend(rest[1..=end].chars().map(|letter| (letter, false)));
                at += end + 2;
            }
            '"' => {
                is_quoted = !is_quoted;
                at += 1;
            }
            '\\' => {
                let next = rest[1..].chars().next()?;
                let keeps = is_quoted && !matches!(next, '"' | '\\' | '$' | '`' | '\n');
                letters.extend(keeps.then_some(('\\', false)));
                letters.extend((next != '\n').then_some((next, false)));
                at += 1 + next.len_utf8();
            }
            '`' => {
                let end = rest[1..].find('`')? + 2;
                letters.extend(rest[..end].chars().map(|letter| (letter, true)));
                at += end;
            }
            '$' => {
                let length = expansion(rest);
                if length == 1 && (rest.starts_with("$(") || rest.starts_with("${")) {
                    return None;
                }
                letters.extend(rest[..length].chars().map(|letter| (letter, length > 1)));
                at += length;
            }
            letter => {
                letters.push((letter, false));
                at += letter.len_utf8();
            }
        }
    }
    (!is_quoted).then_some(Word { letters, at: start..at, is_changed: false })
}

/// How many bytes `$NAME`, `${…}` or `$(…)` takes; 1 when it is a lone dollar sign.
fn expansion(text: &str) -> usize {
    let rest = &text[1..];
    let closed = |open: char, close: char| {
        let mut depth = 0;
        rest.char_indices().find_map(|(at, letter)| {
            depth += i32::from(letter == open) - i32::from(letter == close);
            (depth == 0).then_some(at + 2)
        })
    };
    match rest.chars().next() {
        Some('{') => closed('{', '}').unwrap_or(1),
        Some('(') => closed('(', ')').unwrap_or(1),
        Some('$' | '?' | '#' | '@' | '*' | '!' | '0'..='9') => 2,
        _ => 1 + rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count(),
    }
}

impl Line {
    /// The line with the words that were changed.
    pub(super) fn changed(&self) -> String {
        let mut out = self.text.clone();
        for word in self.commands.iter().flatten().rev().filter(|word| word.is_changed) {
            if word.letters.is_empty() {
                // With the blank behind it.
                let blanks = out[word.at.end..].bytes().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
                out.replace_range(word.at.start..word.at.end + blanks, "");
            } else {
                out.replace_range(word.at.clone(), &word.quoted());
            }
        }
        out.trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let line = read(text).expect("closed");
        let words = |command: &Vec<Word>| command.iter().map(Word::text).collect::<Vec<_>>().join("·");
        line.commands.iter().map(words).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn words_are_those_that_a_shell_would_pass_on() {
        assert_eq!(shown(r#"a 'b c'"d e"\ f && g;h # i"#), "a·b cd e f | g | h");
        assert_eq!(shown(r#"A="x $Y" b $(c "d") `e f`"#), "A=x $Y·b·$(c \"d\")·`e f`");
        assert_eq!(shown("a \\\n  b\nc"), "a·b | c");
        for open in ["a 'b", "a \"b", "a $(b", "a ${b", "a `b", "a\\"] {
            assert_eq!(read(open), None, "{open}");
        }
    }

    #[test]
    fn a_changed_word_is_quoted_and_all_others_stay_as_they_are() {
        let mut line = read(r#"X=1   run  -p 3000 "a  $B" 'it''s'"#).expect("closed");
        line.commands[0][0].become_text("");
        line.commands[0][3].put(0..4, "$PORT");
        assert_eq!(line.changed(), r#"run  -p $PORT "a  $B" 'it''s'"#);
        line.commands[0][4].put(3..5, "$SECRET");
        line.commands[0][5].become_text("a$b c");
        assert_eq!(line.changed(), r#"run  -p $PORT "a  $SECRET" 'a$b c'"#);
        let mut line = read("a '$x-1'").expect("closed");
        line.commands[0][1].put(3..4, "$PORT");
        assert_eq!(line.changed(), r#"a "\$x-$PORT""#);
    }
}
