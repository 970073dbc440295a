//! The position in the write-ahead log that a client's reads must see, as the client says it.
//!
//! Pure. **Source**: PostgreSQL manual, "Customized Options": a setting with a dot in its name is nobody's own.

use mainstay_types::Lsn;

use crate::glance::{Glance, Ties};

/// The setting's name.
pub(crate) const NAME: &str = "mainstay.read_after";

/// Longest statement that is looked at, without its comments: twice the longest form.
const MAX_TEXT: usize = 128;

/// What is wrong, and what would be right.
pub(crate) const RULE: &str = "mainstay.read_after takes one position, '' or DEFAULT, in a statement of its own: \
    SET mainstay.read_after = '0/3000060'";

/// What a text says of the setting, if it says nothing else: a position, or that none is wanted any more.
pub(crate) fn said(text: &[u8]) -> Option<Option<Lsn>> {
    // Nearly every statement is passed over here.
    if !matches!(text.trim_ascii_start().first(), Some(b's' | b'S' | b'r' | b'R' | b'-' | b'/')) {
        return None;
    }
    let text = without_comments(text)?;
    let text = std::str::from_utf8(text.trim_ascii()).ok()?.to_ascii_lowercase();
    let text = text.strip_suffix(';').unwrap_or(&text).trim_end();
    let word = |text: &'_ str, word: &str| -> Option<usize> {
        let rest = text.strip_prefix(word)?;
        rest.starts_with(|sign: char| sign.is_ascii_whitespace()).then(|| text.len() - rest.trim_ascii_start().len())
    };
    if let Some(at) = word(text, "reset") {
        return (&text[at..] == NAME).then_some(None);
    }
    let mut rest = &text[word(text, "set")?..];
    if let Some(at) = word(rest, "session") {
        rest = &rest[at..];
    }
    let rest = rest.strip_prefix(NAME)?;
    let spaced = rest.trim_ascii_start();
    let value = match spaced.strip_prefix('=') {
        Some(value) => value.trim_ascii_start(),
        None if spaced.len() < rest.len() => &spaced[word(spaced, "to").or_else(|| quoted_to(spaced))?..],
        None => return None,
    };
    match value {
        "default" | "''" => Some(None),
        value => Some(Some(value.strip_prefix('\'')?.strip_suffix('\'')?.parse().ok()?)),
    }
}

/// A text with a space for each comment; `None`: it is longer than what is looked at, or says something else.
fn without_comments(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(MAX_TEXT);
    while let Some((byte, rest)) = text.split_first() {
        if out.len() >= MAX_TEXT {
            return None;
        }
        if text.starts_with(b"--") {
            let end = text.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(text.len());
            text = &text[end..];
            out.push(b' ');
        } else if text.starts_with(b"/*") {
            text = behind_comment(text)?;
            out.push(b' ');
        } else if *byte == b'\'' {
            let end = rest.iter().position(|byte| *byte == b'\'')? + 2;
            if end > MAX_TEXT {
                return None;
            }
            out.extend_from_slice(&text[..end]);
            text = &text[end..];
        } else {
            let is_first = out.iter().all(u8::is_ascii_whitespace);
            if is_first && byte.is_ascii_whitespace() {
                out.clear();
            } else if is_first && !matches!(byte, b's' | b'S' | b'r' | b'R') {
                // Nearly every statement behind a comment is passed over here.
                return None;
            } else {
                out.push(*byte);
            }
            text = rest;
        }
    }
    Some(out)
}

/// What follows the block comment at the start of `text`; they nest.
fn behind_comment(text: &[u8]) -> Option<&[u8]> {
    let (mut depth, mut at) = (0_u32, 0);
    loop {
        match text.get(at..at + 2)? {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return Some(&text[at..]);
        }
    }
}

/// Whether a text is about the position, and no statement that sets it.
pub(crate) fn is_misplaced(text: &[u8]) -> bool {
    let has = |part: &[u8]| text.windows(part.len()).any(|here| here.eq_ignore_ascii_case(part));
    // Nearly every statement is passed over here.
    if !has(b"read_after") {
        return false;
    }
    let seen = Glance::at(text);
    // The name is in a string there.
    let is_set_by_function = seen.has(Ties::SETTING) && has(b"set_config") && has(NAME.as_bytes());
    seen.has(Ties::MISPLACED) || is_set_by_function
}

/// What a connection's `options` say of the position (`-c mainstay.read_after=0/3000060`), and the options without
/// that. As PostgreSQL reads them (`pg_split_opts`, `ParseLongOption`).
pub(crate) fn from_options(options: &str) -> (String, Option<String>) {
    let mut said = None;
    let mut kept = Vec::new();
    let mut words = split_options(options).into_iter().peekable();
    while let Some(word) = words.next() {
        let argument = if word == "-c" { words.next() } else { None };
        let setting = argument.as_deref().or_else(|| word.strip_prefix("-c")).or_else(|| word.strip_prefix("--"));
        match setting.and_then(|setting| setting.split_once('=')) {
            Some((name, value)) if name.replace('-', "_").eq_ignore_ascii_case(NAME) => said = Some(value.to_owned()),
            _ => kept.extend([Some(word), argument].into_iter().flatten()),
        }
    }
    let written = |word: String| word.replace('\\', "\\\\").replace(|sign: char| sign.is_ascii_whitespace(), "\\ ");
    (kept.into_iter().map(written).collect::<Vec<_>>().join(" "), said)
}

/// Words between white space; a backslash takes the next sign as it is.
fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut signs = options.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '\\' => word.get_or_insert_default().extend(signs.next()),
            _ if sign.is_ascii_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(sign),
        }
    }
    words.extend(word);
    words
}

/// `TO'…'`, without a space.
fn quoted_to(text: &str) -> Option<usize> {
    text.starts_with("to'").then_some(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_statement_that_sets_the_position_counts() {
        let position = Some(Some(Lsn::new(0x1_0300_0060)));
        for (text, expected) in [
            ("set mainstay.read_after = '1/3000060'", position),
            (" SET SESSION mainstay.read_after TO '1/3000060' ; ", position),
            ("set mainstay.read_after='1/3000060'", position),
            ("set mainstay.read_after to'1/3000060'", position),
            ("reset mainstay.read_after", Some(None)),
            ("set mainstay.read_after = default", Some(None)),
            ("set mainstay.read_after to ''", Some(None)),
            ("/* app:'x', /* nested */ */ set mainstay.read_after = '1/3000060' -- '", position),
            ("-- a\nset /**/ mainstay.read_after /* = '' */ to '1/3000060'", position),
            ("set mainstay.read_after = '1/x'", None),
            ("/* set mainstay.read_after = '1/1'", None),
            ("/* a */ select 1 -- mainstay.read_after", None),
            ("set mainstay.read_after = '--1/1'", None),
            ("set mainstay.read_after '1/1'", None),
            ("set mainstay.read_afterwards = '1/1'", None),
            ("set local mainstay.read_after = '1/1'", None),
            ("set mainstay.read_after = '1/1'; listen x", None),
            ("setmainstay.read_after = '1/1'", None),
            ("select 1", None),
        ] {
            assert_eq!(said(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_speaks_of_the_position_in_another_way_is_seen() {
        for text in [
            "set mainstay.read_after = 'junk'",
            "SET mainstay.read_after = 5",
            "set local mainstay.read_after = '1/1'",
            "set \"mainstay\".\"read_after\" = '1/1'",
            "set \"mainstay.read_after\" = '1/1'",
            "set Mainstay . Read_After = '1/1'",
            "select 1; set mainstay.read_after = '1/1'",
            "set mainstay.read_after = '1/1'; select 1",
            "begin; /* x */ reset mainstay./* y */read_after",
            "select set_config('mainstay.read_after', '1/1', false)",
            "select pg_catalog.set_config($1, 'mainstay.read_after', false)",
        ] {
            assert!(is_misplaced(text.as_bytes()), "{text}");
        }
        for text in [
            "set mainstay.read_after = '1/1'",
            "/* x */ set mainstay.read_after = '1/1' /* y */",
            "set mainstay.read_afterwards = '1/1'",
            "select 'set mainstay.read_after = ''junk'' '",
            "select 1 -- set mainstay.read_after = 'junk'",
            "show mainstay.read_after",
            "select mainstay.read_after from mainstay",
        ] {
            assert!(!is_misplaced(text.as_bytes()), "{text}");
        }
        // What it becomes is not taken for it again.
        assert!(!is_misplaced(format!("select '{}'", RULE.replace('\'', "''")).as_bytes()));
    }

    #[test]
    fn options_give_the_position_and_keep_the_rest() {
        for (options, rest, position) in [
            ("-c mainstay.read_after=0/1", "", Some("0/1")),
            ("-c work_mem=1MB --mainstay.read-after=x\\ y -d 1", "-c work_mem=1MB -d 1", Some("x y")),
            (" -cMAINSTAY.read_after=0/1  -c search_path=a\\ b\\\\", "-c search_path=a\\ b\\\\", Some("0/1")),
            ("-c search_path=mainstay.read_after", "-c search_path=mainstay.read_after", None),
            ("-c", "-c", None),
            ("", "", None),
        ] {
            assert_eq!(from_options(options), (rest.to_owned(), position.map(str::to_owned)), "{options}");
        }
    }
}
