//! Cuts a script into statements, as `psql` would, so that each is sent alone and an error has a line.

/// A statement of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statement<'a> {
    /// Its text, without the semicolon.
    pub(crate) text: &'a str,
    /// Where it begins in the script.
    pub(crate) at: usize,
    /// Line of its first word, from 1.
    pub(crate) line: usize,
}

/// Statements that hold more than comments, in order.
pub(crate) fn split(script: &str) -> Vec<Statement<'_>> {
    let bytes = script.as_bytes();
    let mut cut = Cut { script, statements: Vec::new(), counted: 0, line: 1 };
    let (mut at, mut begun) = (0, None);
    // `BEGIN ATOMIC` bodies of SQL functions hold semicolons of their own.
    let mut atomic = Atomic::default();
    while at < bytes.len() {
        if let Some(end) = comment_end(bytes, at) {
            at = end;
            continue;
        }
        if bytes[at] == b';' && !atomic.is_open() {
            cut.push(begun.take(), at);
            atomic = Atomic::default();
            at += 1;
            continue;
        }
        if !bytes[at].is_ascii_whitespace() {
            begun.get_or_insert(at);
        }
        let end = token_end(bytes, at);
        atomic.see(&script[at..end]);
        at = end;
    }
    cut.push(begun, bytes.len());
    cut.statements
}

/// What was cut off so far.
struct Cut<'a> {
    script: &'a str,
    statements: Vec<Statement<'a>>,
    /// Up to here lines were counted: each is counted once.
    counted: usize,
    line: usize,
}

impl Cut<'_> {
    fn push(&mut self, begun: Option<usize>, end: usize) {
        let Some(at) = begun else { return };
        self.line += self.script[self.counted..at].matches('\n').count();
        self.counted = at;
        self.statements.push(Statement { text: self.script[at..end].trim_end(), at, line: self.line });
    }
}

/// End of a comment that begins here.
fn comment_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes[at..].starts_with(b"--") {
        return Some(find(bytes, at, b"\n").unwrap_or(bytes.len()));
    }
    if !bytes[at..].starts_with(b"/*") {
        return None;
    }
    // They nest in PostgreSQL.
    let (mut depth, mut next) = (1, at + 2);
    while next < bytes.len() && depth > 0 {
        if bytes[next..].starts_with(b"/*") {
            (depth, next) = (depth + 1, next + 2);
        } else if bytes[next..].starts_with(b"*/") {
            (depth, next) = (depth - 1, next + 2);
        } else {
            next += 1;
        }
    }
    Some(next)
}

/// End of the token that begins here: a quoted text or name, a word, or one character.
fn token_end(bytes: &[u8], at: usize) -> usize {
    match bytes[at] {
        b'\'' => quote_end(bytes, at, false),
        b'"' => quote_end(bytes, at, false),
        b'$' => dollar_end(bytes, at),
        byte if is_word(byte) => {
            let end = at + bytes[at..].iter().take_while(|byte| is_word(**byte) || **byte == b'$').count();
            // E'…' takes backslash escapes.
            if end - at == 1 && byte.eq_ignore_ascii_case(&b'e') && bytes.get(end) == Some(&b'\'') {
                return quote_end(bytes, end, true);
            }
            end
        }
        // Only ASCII is looked at, and the bytes of longer characters count as words: no cut inside one.
        _ => at + 1,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn quote_end(bytes: &[u8], at: usize, has_escapes: bool) -> usize {
    let quote = bytes[at];
    let mut next = at + 1;
    while next < bytes.len() {
        if has_escapes && bytes[next] == b'\\' {
            next += 2;
        } else if bytes[next] != quote {
            next += 1;
        } else if bytes.get(next + 1) == Some(&quote) {
            next += 2;
        } else {
            return next + 1;
        }
    }
    bytes.len()
}

/// End of `$tag$ … $tag$`, or of the lone `$`.
fn dollar_end(bytes: &[u8], at: usize) -> usize {
    let tag = at + 1 + bytes[at + 1..].iter().take_while(|byte| is_word(**byte)).count();
    let is_tag = bytes.get(tag) == Some(&b'$') && !bytes[at + 1].is_ascii_digit();
    if !is_tag {
        return at + 1;
    }
    let mark = &bytes[at..=tag];
    find(bytes, tag + 1, mark).map_or(bytes.len(), |end| end + mark.len())
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> Option<usize> {
    bytes[from..].windows(what.len()).position(|window| window == what).map(|at| from + at)
}

/// Whether we are inside `BEGIN ATOMIC … END`.
#[derive(Debug, Default)]
struct Atomic {
    was_begin: bool,
    depth: u32,
}

impl Atomic {
    fn is_open(&self) -> bool {
        self.depth > 0
    }

    fn see(&mut self, token: &str) {
        if token.trim().is_empty() {
            return;
        }
        if self.was_begin && token.eq_ignore_ascii_case("atomic") {
            self.depth = 1;
        } else if self.is_open() && token.eq_ignore_ascii_case("case") {
            self.depth += 1;
        } else if self.is_open() && token.eq_ignore_ascii_case("end") {
            self.depth -= 1;
        }
        self.was_begin = token.eq_ignore_ascii_case("begin");
    }
}

/// Whether the statement has this word outside of texts, names and comments.
pub(crate) fn has_word(statement: &str, word: &str) -> bool {
    let bytes = statement.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(end) = comment_end(bytes, at) {
            at = end;
            continue;
        }
        let end = token_end(bytes, at);
        if statement[at..end].eq_ignore_ascii_case(word) {
            return true;
        }
        at = end;
    }
    false
}

/// A statement on one line, its texts and numbers as `?`, its comments left out. A text that was cut off counts as one to
/// the end.
pub(crate) fn without_literals(statement: &str) -> String {
    let bytes = statement.as_bytes();
    let mut masked = String::with_capacity(statement.len());
    let mut at = 0;
    while at < bytes.len() {
        if let Some(end) = comment_end(bytes, at) {
            push_space(&mut masked);
            at = end;
            continue;
        }
        let end = token_end(bytes, at);
        let token = &statement[at..end];
        // `$1` is a parameter's name, and the `1` behind its `$` is no number.
        let is_parameter = bytes[at].is_ascii_digit() && masked.ends_with('$');
        match bytes[at] {
            byte if byte.is_ascii_whitespace() => push_space(&mut masked),
            b'\'' => masked.push('?'),
            b'$' if token.len() > 1 => masked.push('?'),
            byte if byte.is_ascii_digit() && !is_parameter => masked.push('?'),
            // E'…', which is one token.
            byte if byte.eq_ignore_ascii_case(&b'e') && token.contains('\'') => masked.push('?'),
            _ => masked.push_str(token),
        }
        at = end;
    }
    masked.trim_end().to_owned()
}

fn push_space(text: &mut String) {
    if !text.is_empty() && !text.ends_with(' ') {
        text.push(' ');
    }
}

/// First word of a statement, in lower case.
pub(crate) fn first_word(statement: &str) -> String {
    let end = if statement.is_empty() { 0 } else { token_end(statement.as_bytes(), 0) };
    statement[..end].to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(script: &str) -> Vec<&str> {
        split(script).into_iter().map(|statement| statement.text).collect()
    }

    #[test]
    fn semicolons_in_texts_names_and_comments_do_not_cut() {
        let script =
            "SELECT ';' , \"a;b\"; -- no; cut\n/* nor /* here; */ ; */ INSERT INTO x VALUES ('it''s;', E'\\';');";
        assert_eq!(texts(script), ["SELECT ';' , \"a;b\"", "INSERT INTO x VALUES ('it''s;', E'\\';')"]);
    }

    #[test]
    fn bodies_in_dollars_do_not_cut() {
        let script = "DO $$ BEGIN; END $$; CREATE FUNCTION f() AS $a$ $$;$$ $a$ LANGUAGE sql; SELECT $1;";
        assert_eq!(texts(script).len(), 3);
        assert_eq!(texts("SELECT a$b; SELECT 2").len(), 2, "a dollar in a name is none");
    }

    #[test]
    fn an_atomic_body_is_one_statement() {
        let script =
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3;";
        assert_eq!(texts(script).len(), 2);
        assert_eq!(texts("BEGIN; SELECT 1; END;").len(), 3);
    }

    #[test]
    fn lines_are_those_of_the_first_word() {
        let lines: Vec<usize> = split("\n-- x\nSELECT\n1;\n\nSELECT 2").iter().map(|one| one.line).collect();
        assert_eq!(lines, [3, 6]);
    }

    /// Lines were once counted from the beginning for each statement: this took minutes.
    #[test]
    fn a_large_script_is_cut_in_time_that_grows_with_it_alone() {
        let script = "SELECT 1;\n".repeat(400_000);
        let begun = std::time::Instant::now();
        let statements = split(&script);
        assert_eq!(statements.last().map(|last| (last.line, last.at)), Some((400_000, script.len() - 10)));
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    }

    #[test]
    fn literals_are_told_to_nobody() {
        let cases = [
            ("ALTER ROLE x PASSWORD 'geheim'", "ALTER ROLE x PASSWORD ?"),
            (
                "SELECT  *\n FROM \"My Table\" WHERE a = 12.5 AND b=$1 -- note",
                "SELECT * FROM \"My Table\" WHERE a = ?.? AND b=$1",
            ),
            ("SELECT E'a\\'b', $x$ secret $x$, U&'z', B'1', 'it''s'", "SELECT ?, ?, U&?, B?, ?"),
            ("INSERT INTO t VALUES ('cut off in the mid", "INSERT INTO t VALUES (?"),
            ("/* token=abc */ SELECT t1.id, 0x1F FROM t1", "SELECT t1.id, ? FROM t1"),
        ];
        for (given, wanted) in cases {
            assert_eq!(without_literals(given), wanted);
        }
    }

    #[test]
    fn words_are_found_outside_of_texts_only() {
        assert!(has_word("CREATE INDEX concurrently i ON t (a)", "CONCURRENTLY"));
        assert!(!has_word("SELECT 'concurrently', \"concurrently\" -- concurrently", "concurrently"));
        assert_eq!(first_word("Copy t FROM stdin"), "copy");
    }

    proptest! {
        #[test]
        fn any_text_is_cut_without_losing_its_statements(script in "[a-zé$'\"; \\n/*-]{0,60}") {
            for statement in split(&script) {
                prop_assert!(script.contains(statement.text));
                prop_assert!(!statement.text.is_empty());
                has_word(statement.text, "x");
                without_literals(statement.text);
            }
        }
    }
}
