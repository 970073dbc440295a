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
        } else if head.contains(&0) {
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
}

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
    Dollar(String),
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Ordinary,
    Transaction,
    WholeServer,
}

impl Heads {
    fn word(&mut self, word: &str) -> Head {
        let word = word.to_ascii_lowercase();
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
        }
    }
}

impl Filter {
    /// Judges the next line (with its newline, if it has one): true when it is passed on.
    ///
    /// **Errors**: the dump is not one of a single database, or would have psql do more than run statements.
    pub fn passes(&mut self, line: &[u8]) -> Result<bool, Refused> {
        self.line += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if self.within == Within::Rows {
            if text == b"\\." {
                self.within = Within::Statements;
            } else {
                self.rows += 1;
            }
            return Ok(true);
        }
        let text = String::from_utf8_lossy(text);
        self.has_header |= text == "-- PostgreSQL database dump";
        self.has_trailer |= text == "-- PostgreSQL database dump complete";
        let begun = std::mem::replace(&mut self.within, Within::Statements);
        let is_inside = matches!(begun, Within::Quote(_));
        if !is_inside && AROUND.contains(&text.trim().to_ascii_lowercase().as_str()) && !self.heads.is_atomic {
            self.heads.end_statement();
            *self.left_out.entry("BEGIN and COMMIT (an import is one transaction)").or_default() += 1;
            return Ok(false);
        }
        let scanned = scan(&text, if let Within::Quote(quote) = begun { Some(quote) } else { None }, &mut self.heads);
        self.within = scanned.open.map_or(Within::Statements, Within::Quote);
        if scanned.has_command {
            return self.command(&text);
        }
        match scanned.head {
            Head::Ordinary => {}
            Head::Transaction => return Err(Refused::Transaction { line: self.line, text: short(&text) }),
            Head::WholeServer => return Err(Refused::WholeServer { line: self.line, text: short(&text) }),
        }
        if is_inside && !self.is_dropping {
            return Ok(true);
        }
        self.statement_line(&text)
    }

    /// psql's own guard of a dump's text is left out: the one of [`preamble`] is in force.
    fn command(&self, text: &str) -> Result<bool, Refused> {
        let is_guard = text.starts_with("\\restrict ") || text.starts_with("\\unrestrict ");
        if is_guard { Ok(false) } else { Err(Refused::Command { line: self.line, text: short(text) }) }
    }

    fn statement_line(&mut self, text: &str) -> Result<bool, Refused> {
        if self.is_dropping {
            self.is_dropping = !text.trim_end().ends_with(';');
            return Ok(false);
        }
        let owner = text.starts_with("ALTER ") && text.contains(" OWNER TO ") && text.trim_end().ends_with(';');
        let known = LEFT_OUT.iter().find(|(beginning, _)| text.starts_with(beginning)).map(|(_, what)| *what);
        if let Some(what) = known.or(owner.then_some("owners of objects")) {
            *self.left_out.entry(what).or_default() += 1;
            self.is_dropping = !text.trim_end().ends_with(';');
            return Ok(false);
        }
        if text.starts_with("COPY ") && text.trim_end().ends_with(" FROM stdin;") {
            self.within = Within::Rows;
        }
        self.statements += u64::from(text.trim_end().ends_with(';'));
        Ok(true)
    }

    /// What was left out, and how often.
    pub fn left_out(&self) -> &BTreeMap<&'static str, u64> {
        &self.left_out
    }

    /// Rows of `COPY` that were passed on.
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

struct Scanned {
    /// What is open at the end of the line.
    open: Option<Quote>,
    /// A backslash outside of any text: a command of psql's.
    has_command: bool,
    /// The worst of the statements that begin in it.
    head: Head,
}

/// Goes through a line that begins within `open`.
fn scan(line: &str, mut open: Option<Quote>, heads: &mut Heads) -> Scanned {
    let mut rest = line;
    let mut before = ' ';
    let mut head = Head::Ordinary;
    while let Some(letter) = rest.chars().next() {
        let mut taken = letter.len_utf8();
        match &mut open {
            None if rest.starts_with("--") => break,
            None => match letter {
                '\\' => return Scanned { open, has_command: true, head },
                '\'' => open = Some(Quote::Text { escapes: matches!(before, 'e' | 'E') }),
                '"' => open = Some(Quote::Name),
                '/' if rest.starts_with("/*") => {
                    taken = 2;
                    open = Some(Quote::Comment(1));
                }
                '$' if !before.is_alphanumeric() => {
                    if let Some(tag) = dollar_tag(rest) {
                        taken = tag.len();
                        open = Some(Quote::Dollar(tag.to_owned()));
                    }
                }
                ';' => heads.end_statement(),
                letter if letter.is_alphabetic() || letter == '_' => {
                    let word = word_of(rest);
                    taken = word.len();
                    // `E` and the like before a quotation mark belong to the text.
                    let said = heads.word(word);
                    head = if head == Head::Ordinary { said } else { head };
                }
                _ => {}
            },
            Some(Quote::Text { escapes: true }) if letter == '\\' => {
                taken += rest.chars().nth(1).map_or(0, char::len_utf8);
            }
            // A doubled quote closes and opens again, which comes to the same.
            Some(Quote::Text { .. }) if letter == '\'' => open = None,
            Some(Quote::Name) if letter == '"' => open = None,
            Some(Quote::Dollar(tag)) if rest.starts_with(tag.as_str()) => {
                taken = tag.len();
                open = None;
            }
            Some(Quote::Comment(depth)) if rest.starts_with("/*") => {
                taken = 2;
                *depth += 1;
            }
            Some(Quote::Comment(depth)) if rest.starts_with("*/") => {
                taken = 2;
                *depth -= 1;
                if *depth == 0 {
                    open = None;
                }
            }
            Some(_) => {}
        }
        let passed = rest.get(..taken).unwrap_or_default();
        before = passed.chars().next_back().unwrap_or(letter);
        // A longer word ends in `e` without making an E'…' of what follows it.
        if open.is_none() && taken > letter.len_utf8() && before.is_alphabetic() {
            before = 'x';
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    Scanned { open, has_command: false, head }
}

/// The word at the beginning.
fn word_of(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

/// `$$` or `$tag$` at the beginning.
fn dollar_tag(text: &str) -> Option<&str> {
    let after = text.strip_prefix('$')?;
    let end = after.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    let is_tag = after.get(end..)?.starts_with('$') && !after.starts_with(|c: char| c.is_ascii_digit());
    if is_tag { text.get(..end + 2) } else { None }
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

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests;
