//! Dumps of other databases, made fit for the application's own role: what a dump is, and which of its lines are left
//! out because they name roles, databases or settings that are not here.
//!
//! A dump is text that `psql` obeys, and `psql` obeys a line such as `\! command` too. The filter names such a line;
//! that none is obeyed whatever a file does to hide it is psql's own restricted mode, in which [`preamble`] puts it.

use std::collections::BTreeMap;

/// What a file is, by its first bytes (at least 300, or all there are).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text of `pg_dump` or written by hand.
    Sql,
    /// `pg_dump --format=custom`.
    Custom,
    /// `pg_dump --format=tar`.
    Tar,
    /// Anything of these, packed by gzip.
    Gzip,
    /// None that can be read.
    Unknown,
}

impl Format {
    /// Looks at the first bytes of a file.
    ///
    /// **Source**: `pg_backup_archiver.c` (magic `PGDMP`), POSIX ustar (magic at 257), RFC 1952 (0x1f 0x8b).
    pub fn of(head: &[u8]) -> Self {
        if head.starts_with(b"PGDMP") {
            Self::Custom
        } else if head.get(257..262) == Some(b"ustar") {
            Self::Tar
        } else if head.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if is_binary(head) {
            Self::Unknown
        } else {
            Self::Sql
        }
    }
}

/// Why a dump is not imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A command of psql's own.
    #[error("line {line}: `{text}` is a command of psql's own, which could run programs or leave this database")]
    Command {
        /// Which line, from 1.
        line: u64,
        /// Its beginning.
        text: String,
    },
    /// Not what somebody wrote.
    #[error("line {line} is no text: no dump in plain SQL")]
    Binary {
        /// Which line, from 1.
        line: u64,
    },
    /// It would end the transaction that the whole import is.
    #[error("line {line}: `{text}` ends or begins a transaction, and the import is one")]
    Transaction {
        /// Which line, from 1.
        line: u64,
        /// Its beginning.
        text: String,
    },
    /// It makes databases or roles.
    #[error("line {line}: `{text}` is about the whole server, not about one database")]
    WholeServer {
        /// Which line, from 1.
        line: u64,
        /// Its beginning.
        text: String,
    },
    /// A line or statement that PostgreSQL could not take, and psql would gather in memory before it found out.
    #[error("line {line}: `{text}` is a statement or row of more than {MOST} bytes, the most that PostgreSQL takes")]
    TooLong {
        /// Which line, from 1.
        line: u64,
        /// Its beginning.
        text: String,
    },
}

/// What is held of a line at once: a longer one passes in parts of this size. All that is asked of a line's beginning
/// is asked within it; the longest there is, a `COPY` of 1,600 columns of 63 bytes, each quoted, has 110 KiB.
pub const PART: usize = 1024 * 1024;
/// PostgreSQL takes no message and no row above this. **Source**: `MaxAllocSize` in `memutils.h`.
const MOST: u64 = 0x3fff_ffff;
/// A word longer than this is none that is asked about, and need not be held until its end is there.
const WORD: usize = 64 * 1024;

/// Where in the text a line begins.
#[derive(Debug, PartialEq, Eq)]
enum Within {
    Statements,
    /// Rows after `COPY … FROM stdin`, up to `\.`.
    Rows,
    /// A text that began in an earlier line.
    Quote(Quote),
}

/// A text, name or comment that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Quote {
    /// `'…'`; in `E'…'` a backslash takes the next letter with it.
    Text { escapes: bool },
    /// `"…"`
    Name,
    /// `$tag$…$tag$`
    Dollar(Vec<u8>),
    /// `/* … */`, which may hold others.
    Comment(u32),
}

/// Passes a dump on line by line, and leaves out what cannot be here.
#[derive(Debug)]
pub struct Filter {
    within: Within,
    line: u64,
    left_out: BTreeMap<&'static str, u64>,
    statements: u64,
    rows: u64,
    /// A left out statement goes on in the next line.
    is_dropping: bool,
    heads: Heads,
    /// pg_dump's first line was seen, and its last one.
    has_header: bool,
    has_trailer: bool,
    /// The line whose end has not come yet.
    part: Option<Part>,
    /// Bytes of the statement or row so far.
    length: u64,
}

/// A line of which some parts were taken.
#[derive(Debug)]
struct Part {
    passes: bool,
    /// The byte before the next one.
    before: u8,
    /// The rest of the line is a comment.
    is_comment: bool,
    /// The last byte that is no space.
    last: u8,
    start: String,
}

/// What becomes of a part of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whether it is passed on.
    pub passes: bool,
    /// How many bytes of it; the others come again at the beginning of the next part.
    pub bytes: usize,
}

/// Where statements begin, and by which words.
#[derive(Debug, Default)]
struct Heads {
    /// Words of the statement so far, at most two are kept.
    count: u32,
    first: String,
    /// The word before, anywhere in the statement.
    before: String,
    /// Within a body `BEGIN ATOMIC … END`, whose statements end in semicolons too.
    is_atomic: bool,
}

/// What a statement's first words say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Head {
    #[default]
    Ordinary,
    Transaction,
    WholeServer,
}

impl Heads {
    fn word(&mut self, word: &[u8]) -> Head {
        let word = String::from_utf8_lossy(word).to_ascii_lowercase();
        if self.before == "begin" && word == "atomic" {
            self.is_atomic = true;
        }
        self.count += 1;
        let head = match (self.count, word.as_str()) {
            (1, "end") if self.is_atomic => {
                self.is_atomic = false;
                Head::Ordinary
            }
            (1, "begin" | "commit" | "end" | "rollback" | "abort" | "start") => Head::Transaction,
            (2, "transaction") if self.first == "prepare" => Head::Transaction,
            (2, "database" | "role" | "user" | "group" | "tablespace" | "system")
                if matches!(self.first.as_str(), "create" | "alter" | "drop") =>
            {
                Head::WholeServer
            }
            _ => Head::Ordinary,
        };
        if self.count == 1 {
            self.first.clone_from(&word);
        }
        self.before = word;
        head
    }

    fn end_statement(&mut self) {
        self.count = 0;
        self.before.clear();
    }
}

/// Lines that hand-written dumps put around all they hold; the import is one transaction without them.
const AROUND: [&str; 5] = ["begin;", "begin transaction;", "start transaction;", "commit;", "end;"];

/// Beginnings of statements that are left out, and what is said of them.
const LEFT_OUT: [(&str, &str); 7] = [
    ("GRANT ", "rights of roles"),
    ("REVOKE ", "rights of roles"),
    ("ALTER DEFAULT PRIVILEGES ", "rights of roles"),
    ("COMMENT ON EXTENSION ", "comments on extensions"),
    ("CREATE SCHEMA public;", "the schema public, which is there"),
    ("COMMENT ON SCHEMA public ", "the schema public, which is there"),
    // Of PostgreSQL 17 and later; it only sets how long the dump itself may take.
    ("SET transaction_timeout ", "settings of newer servers"),
];

impl Default for Filter {
    fn default() -> Self {
        Self {
            within: Within::Statements,
            line: 0,
            left_out: BTreeMap::new(),
            statements: 0,
            rows: 0,
            is_dropping: false,
            heads: Heads::default(),
            has_header: false,
            has_trailer: false,
            part: None,
            length: 0,
        }
    }
}

impl Filter {
    /// Judges the next line (with its newline, if it has one): true when it is passed on.
    ///
    /// **Errors**: the dump is not one of a single database, or would have psql do more than run statements.
    pub fn passes(&mut self, line: &[u8]) -> Result<bool, Refused> {
        self.part(line, true).map(|taken| taken.passes)
    }

    /// The same for a part of a line, so that no line has to be held as a whole. All parts but a line's last
    /// (`is_last`) have at least [`PART`] bytes. What passed is judged and can be sent on, whatever comes later.
    ///
    /// **Errors**: as [`Self::passes`], and a line or statement that PostgreSQL cannot take.
    pub fn part(&mut self, part: &[u8], is_last: bool) -> Result<Taken, Refused> {
        let taken = if self.part.is_some() { self.goes_on(part, is_last)? } else { self.begins(part, is_last)? };
        self.length += taken.bytes as u64;
        if self.length > MOST {
            let start = self.part.as_ref().map_or_else(|| short(part), |part| part.start.clone());
            return Err(Refused::TooLong { line: self.line, text: start });
        }
        if is_last {
            self.part = None;
            if self.within == Within::Rows || (self.within == Within::Statements && self.heads.count == 0) {
                self.length = 0;
            }
        }
        Ok(taken)
    }

    fn begins(&mut self, part: &[u8], is_last: bool) -> Result<Taken, Refused> {
        self.line += 1;
        let bytes = part.strip_suffix(b"\n").unwrap_or(part);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let whole = |passes| Taken { passes, bytes: part.len() };
        if self.within == Within::Rows {
            if is_last && bytes == b"\\." {
                self.within = Within::Statements;
            } else {
                self.rows += 1;
            }
            self.hold(part, true, &Scanned::default(), is_last);
            return Ok(whole(true));
        }
        self.has_header |= bytes == b"-- PostgreSQL database dump";
        self.has_trailer |= bytes == b"-- PostgreSQL database dump complete";
        let is_inside = matches!(self.within, Within::Quote(_));
        if is_last && !is_inside && !self.heads.is_atomic && is_around(bytes) {
            self.heads.end_statement();
            *self.left_out.entry("BEGIN and COMMIT (an import is one transaction)").or_default() += 1;
            return Ok(whole(false));
        }
        let scanned = self.scan(bytes, b' ', is_last)?;
        // psql's own guard of a dump's text is left out: the one of [`preamble`] is in force.
        let passes = !scanned.has_command && ((is_inside && !self.is_dropping) || self.statement_line(bytes, is_last));
        self.hold(part, passes, &scanned, is_last);
        Ok(if is_last { whole(passes) } else { Taken { passes, bytes: scanned.bytes } })
    }

    fn goes_on(&mut self, part: &[u8], is_last: bool) -> Result<Taken, Refused> {
        let Some(mut known) = self.part.take() else { return Ok(Taken { passes: false, bytes: 0 }) };
        let bytes = part.strip_suffix(b"\n").unwrap_or(part);
        let mut taken = part.len();
        if self.within != Within::Rows && !known.is_comment {
            let scanned = self.scan(bytes, known.before, is_last)?;
            (known.before, known.is_comment) = (scanned.before, scanned.is_comment);
            if !is_last {
                taken = scanned.bytes;
            }
        }
        known.last = last_of(part).unwrap_or(known.last);
        if is_last && known.last == b';' && self.within != Within::Rows {
            self.is_dropping = false;
            self.statements += u64::from(known.passes);
        }
        let passes = known.passes;
        self.part = Some(known);
        Ok(Taken { passes, bytes: taken })
    }

    fn hold(&mut self, part: &[u8], passes: bool, scanned: &Scanned, is_last: bool) {
        if !is_last {
            let (before, is_comment) = (scanned.before, scanned.is_comment);
            let last = last_of(part).unwrap_or(b' ');
            self.part = Some(Part { passes, before, is_comment, last, start: short(part) });
        }
    }

    fn scan(&mut self, bytes: &[u8], before: u8, is_last: bool) -> Result<Scanned, Refused> {
        let open = match std::mem::replace(&mut self.within, Within::Statements) {
            Within::Quote(quote) => Some(quote),
            Within::Statements | Within::Rows => None,
        };
        let mut scanned = scan(bytes, before, open, &mut self.heads, is_last);
        self.within = scanned.open.take().map_or(Within::Statements, Within::Quote);
        let (line, text) = (self.line, short(bytes));
        let is_guard = bytes.starts_with(b"\\restrict ") || bytes.starts_with(b"\\unrestrict ");
        if scanned.has_command && is_binary(bytes) {
            return Err(Refused::Binary { line });
        }
        if scanned.has_command && !is_guard {
            return Err(Refused::Command { line, text });
        }
        match scanned.head {
            Head::Ordinary => Ok(scanned),
            Head::Transaction => Err(Refused::Transaction { line, text }),
            Head::WholeServer => Err(Refused::WholeServer { line, text }),
        }
    }

    /// Whether a line of statements is passed on, by its beginning.
    fn statement_line(&mut self, bytes: &[u8], is_last: bool) -> bool {
        let ends = is_last && last_of(bytes) == Some(b';');
        if self.is_dropping {
            self.is_dropping = !ends;
            return false;
        }
        let owner = ends && bytes.starts_with(b"ALTER ") && bytes.windows(10).any(|some| some == b" OWNER TO ");
        let known = LEFT_OUT.iter().find(|(beginning, _)| bytes.starts_with(beginning.as_bytes()));
        if let Some(what) = known.map(|(_, what)| *what).or(owner.then_some("owners of objects")) {
            *self.left_out.entry(what).or_default() += 1;
            self.is_dropping = !ends;
            return false;
        }
        if is_last && bytes.starts_with(b"COPY ") && bytes.trim_ascii_end().ends_with(b" FROM stdin;") {
            self.within = Within::Rows;
        }
        self.statements += u64::from(ends);
        true
    }

    /// What was left out, and how often.
    pub fn left_out(&self) -> &BTreeMap<&'static str, u64> {
        &self.left_out
    }

    /// Rows of `COPY` that were passed on. What the database took is told by psql.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether the text ended in the middle of something: of rows, a text, a statement, or of what pg_dump writes.
    pub fn is_cut_off(&self) -> bool {
        self.within != Within::Statements || self.heads.count > 0 || (self.has_header && !self.has_trailer)
    }

    /// Whether anything was in it that psql would do.
    pub fn is_empty(&self) -> bool {
        self.statements == 0 && self.rows == 0
    }
}

#[derive(Debug, Default)]
struct Scanned {
    /// What is open at the end.
    open: Option<Quote>,
    /// A backslash outside of any text: a command of psql's.
    has_command: bool,
    /// The worst of the statements that begin in it.
    head: Head,
    /// The rest of the line is a comment.
    is_comment: bool,
    /// How much was looked at: what is cut in its middle is looked at with what follows it.
    bytes: usize,
    /// The last byte of that.
    before: u8,
}

/// Goes through a line, or a part of one, that begins within `open`, after the byte `before`.
fn scan(line: &[u8], before: u8, open: Option<Quote>, heads: &mut Heads, is_last: bool) -> Scanned {
    let mut seen = Scanned { open, before, ..Scanned::default() };
    while let Some(rest) = line.get(seen.bytes..).filter(|rest| !rest.is_empty()) {
        // What two bytes decide is not decided by one.
        if !is_last && rest.len() < 2 {
            break;
        }
        let was_open = seen.open.is_some();
        let taken = if was_open { inside(rest, &mut seen, is_last) } else { outside(rest, &mut seen, heads) };
        if seen.has_command || seen.is_comment {
            seen.bytes = line.len();
            break;
        }
        // A word or mark that reaches the end may go on.
        let is_cut = !is_last && taken == rest.len() && (2..WORD).contains(&taken) && !was_open && seen.open.is_none();
        if taken == 0 || is_cut {
            break;
        }
        if let Some(word) = rest.get(..taken).filter(|rest| !was_open && is_word(rest)) {
            // `E` and the like before a quotation mark belong to the text.
            let said = heads.word(word);
            seen.head = if seen.head == Head::Ordinary { said } else { seen.head };
        }
        let last = rest.get(taken - 1).copied().unwrap_or(b' ');
        // A longer word ends in `e` without making an E'…' of what follows it.
        seen.before = if seen.open.is_none() && taken > 1 && last.is_ascii_alphabetic() { b'x' } else { last };
        seen.bytes += taken;
    }
    seen
}

/// Takes the next thing outside of any text; how many bytes it has.
fn outside(rest: &[u8], seen: &mut Scanned, heads: &mut Heads) -> usize {
    match rest.first().copied().unwrap_or(b' ') {
        b'-' if rest.starts_with(b"--") => seen.is_comment = true,
        b'\\' => seen.has_command = true,
        b'\'' => seen.open = Some(Quote::Text { escapes: matches!(seen.before, b'e' | b'E') }),
        b'"' => seen.open = Some(Quote::Name),
        b'/' if rest.starts_with(b"/*") => {
            seen.open = Some(Quote::Comment(1));
            return 2;
        }
        b'$' if !(seen.before.is_ascii_alphanumeric() || seen.before >= 0x80) => {
            let end = 1 + rest.iter().skip(1).take_while(|byte| is_of_word(**byte) && **byte != b'$').count();
            let is_tag = rest.get(end) == Some(&b'$') && !rest.get(1).is_some_and(u8::is_ascii_digit);
            if let Some(tag) = rest.get(..=end).filter(|_| is_tag) {
                seen.open = Some(Quote::Dollar(tag.to_vec()));
                return tag.len();
            }
            // Its end may come with the next part.
            return if end == rest.len() { end } else { 1 };
        }
        b';' => heads.end_statement(),
        byte if is_of_word(byte) && !byte.is_ascii_digit() && byte != b'$' => {
            return rest.iter().take_while(|byte| is_of_word(**byte)).count();
        }
        _ => {}
    }
    1
}

/// Takes the next byte, or mark, within a text.
fn inside(rest: &[u8], seen: &mut Scanned, is_last: bool) -> usize {
    let byte = rest.first().copied().unwrap_or(b' ');
    match &mut seen.open {
        Some(Quote::Text { escapes: true }) if byte == b'\\' => return 2.min(rest.len()),
        // A doubled quote closes and opens again, which comes to the same.
        Some(Quote::Text { .. }) if byte == b'\'' => seen.open = None,
        Some(Quote::Name) if byte == b'"' => seen.open = None,
        Some(Quote::Dollar(tag)) if rest.starts_with(tag) => {
            let taken = tag.len();
            seen.open = None;
            return taken;
        }
        Some(Quote::Dollar(tag)) if !is_last && tag.starts_with(rest) => return 0,
        Some(Quote::Comment(depth)) if rest.starts_with(b"/*") => {
            *depth += 1;
            return 2;
        }
        Some(Quote::Comment(depth)) if rest.starts_with(b"*/") => {
            *depth -= 1;
            if *depth == 0 {
                seen.open = None;
            }
            return 2;
        }
        Some(_) | None => {}
    }
    1
}

/// Letters, digits, `_`, `$` and whatever is not ASCII. **Source**: `ident_cont` in PostgreSQL's `scan.l`.
fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn is_word(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|byte| is_of_word(*byte) && !byte.is_ascii_digit() && *byte != b'$')
}

fn is_around(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    AROUND.iter().any(|around| line.eq_ignore_ascii_case(around.as_bytes()))
}

/// The last byte that is no space.
fn last_of(bytes: &[u8]) -> Option<u8> {
    bytes.trim_ascii_end().last().copied()
}

/// What psql reads before a dump: from here on all is one transaction, which a dump that ends it anyway leaves without
/// its guard, and psql obeys no command of its own but the end of this, by its key.
///
/// **Source**: psql's manual, `\restrict`; in psql 13.22, 14.19, 15.14, 16.10, 17.6 and later. An older one ends with an
/// error here, before it has done anything.
pub fn preamble(key: &str) -> String {
    format!("BEGIN;\nCREATE TEMPORARY TABLE mainstay_import (x integer) ON COMMIT DROP;\n\\restrict {key}\n")
}

/// What psql reads after it. Only this commits: whoever feeds psql and dies leaves a transaction that is rolled back.
pub fn end(key: &str) -> String {
    format!("\\unrestrict {key}\nDROP TABLE pg_temp.mainstay_import;\nCOMMIT;\n")
}

/// Whether bytes are no text of any encoding that servers have: a zero, or other control characters in what is no
/// UTF-8 either.
fn is_binary(bytes: &[u8]) -> bool {
    let is_blank = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x08 | 0x0b | 0x0c);
    let acts = |byte: &u8| byte.is_ascii_control() && !is_blank(byte);
    // A letter that is cut in two at the end is none that is wrong.
    let is_wrong = || std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_some());
    bytes.contains(&0) || (bytes.iter().any(acts) && is_wrong())
}

fn short(text: &[u8]) -> String {
    // A letter has at most four bytes.
    let text = text.get(..240.min(text.len())).unwrap_or_default();
    String::from_utf8_lossy(text).trim_end().chars().take(60).collect()
}

#[cfg(test)]
mod tests;
