//! The position in the write-ahead log that a client's reads must see, as the client says it.
//!
//! Pure. **Source**: PostgreSQL manual, "Customized Options": a setting with a dot in its name is nobody's own.

use mainstay_types::Lsn;

/// The setting's name.
pub(crate) const NAME: &str = "mainstay.read_after";

/// Longest statement that is looked at: twice the longest form.
const MAX_TEXT: usize = 128;

/// What a text says of the setting, if it says nothing else: a position, or that none is wanted any more.
pub(crate) fn said(text: &[u8]) -> Option<Option<Lsn>> {
    let text = text.trim_ascii();
    // Nearly every statement is passed over here.
    if text.len() > MAX_TEXT || !matches!(text.first(), Some(b's' | b'S' | b'r' | b'R')) {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?.to_ascii_lowercase();
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
            ("set mainstay.read_after = '1/x'", None),
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
}
