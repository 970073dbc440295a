//! Words: the nearest known name for a mistyped one, and a command line split into arguments.

/// The candidate that a typing mistake most likely meant; `None` when nothing is near.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // A third of the letters may be wrong, at least one: looser finds relatives that nobody meant.
    let limit = (word.chars().count() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        // Length alone rules most out, and bounds the work on a hostile key.
        if word.len().abs_diff(candidate.len()) > limit * 4 {
            continue;
        }
        let distance = distance(&word.to_lowercase(), &candidate.to_lowercase());
        if distance <= limit && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Edits between two words: insert, delete, replace, swap neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// Why a command line is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SplitError {
    #[error("it is empty")]
    Empty,
    #[error("a quotation mark is never closed")]
    Unclosed,
    #[error("it ends in a backslash")]
    Dangling,
    #[error("`{0}` outside quotation marks means something to a shell, and no shell runs it")]
    Shell(char),
}

/// Splits as a shell does into words: quotes and backslashes, and nothing else of a shell.
///
/// Characters that only a shell acts on are refused outside quotes, rather than handed over as plain words.
pub(crate) fn split_command(line: &str) -> Result<Vec<String>, SplitError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(letter) = rest.next() {
        match letter {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => quoted(&mut rest, '\'', word.get_or_insert_default())?,
            '"' => quoted(&mut rest, '"', word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(rest.next().ok_or(SplitError::Dangling)?),
            '|' | '&' | ';' | '<' | '>' | '`' => return Err(SplitError::Shell(letter)),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    if words.first().is_none_or(String::is_empty) {
        return Err(SplitError::Empty);
    }
    Ok(words)
}

fn quoted(rest: &mut std::str::Chars<'_>, mark: char, word: &mut String) -> Result<(), SplitError> {
    loop {
        match rest.next().ok_or(SplitError::Unclosed)? {
            letter if letter == mark => return Ok(()),
            // As in a shell: only " and \ are special between double quotes here.
            '\\' if mark == '"' => match rest.next().ok_or(SplitError::Unclosed)? {
                letter @ ('"' | '\\') => word.push(letter),
                letter => word.extend(['\\', letter]),
            },
            letter => word.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_finds_its_word_and_a_stranger_finds_none() {
        let known = ["instances", "interval", "timeout", "env"];
        assert_eq!(nearest("instnaces", known), Some("instances"));
        assert_eq!(nearest("Timeout", known), Some("timeout"));
        assert_eq!(nearest("evn", known), Some("env"));
        assert_eq!(nearest("colour", known), None);
    }

    #[test]
    fn swapped_neighbours_are_one_edit() {
        assert_eq!(distance("run", "rnu"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn commands_split_as_in_a_shell() {
        assert_eq!(split_command("java -jar app.jar"), Ok(vec!["java".into(), "-jar".into(), "app.jar".into()]));
        assert_eq!(
            split_command(r#"sh -c 'a | b' "c \" d" e\ f ''"#),
            Ok(vec!["sh".into(), "-c".into(), "a | b".into(), "c \" d".into(), "e f".into(), String::new()])
        );
    }

    #[test]
    fn what_only_a_shell_understands_is_refused() {
        assert_eq!(split_command("a && b"), Err(SplitError::Shell('&')));
        assert_eq!(split_command("a 'b"), Err(SplitError::Unclosed));
        assert_eq!(split_command("a \\"), Err(SplitError::Dangling));
        assert_eq!(split_command("  "), Err(SplitError::Empty));
        assert_eq!(split_command("''"), Err(SplitError::Empty));
    }
}
