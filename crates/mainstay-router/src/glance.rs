//! A glance at SQL text: would something be lost if the session moved to another server?
//!
//! Reads words only, in one pass and constant memory, so that text of any length can stream past. Never decides
//! what a statement means; what it does not know counts as something to lose.

/// What a session has that only its server knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ties(u32);

impl Ties {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const SETTING: Self = Self(1);
    pub(crate) const LISTEN: Self = Self(1 << 1);
    pub(crate) const CURSOR: Self = Self(1 << 2);
    pub(crate) const TEMPORARY: Self = Self(1 << 3);
    pub(crate) const LOCK: Self = Self(1 << 4);
    pub(crate) const PREPARED: Self = Self(1 << 5);
    pub(crate) const LOADED: Self = Self(1 << 6);
    pub(crate) const SEQUENCE: Self = Self(1 << 7);
    pub(crate) const UNKNOWN: Self = Self(1 << 8);
    pub(crate) const TOO_MUCH: Self = Self(1 << 9);
    /// A setting that the server can be asked for, so that a router that asks has nothing to lose.
    pub(crate) const READABLE: Self = Self(1 << 10);
    /// Not a tie: settings may have gone back to what they were.
    pub(crate) const RESET: Self = Self(1 << 11);
    /// Not a tie: the text names prepared statements.
    pub(crate) const NAMES: Self = Self(1 << 12);

    /// Not a tie: a transaction may end here, committed or not.
    pub(crate) const ENDS: Self = Self(1 << 13);
    /// Not a tie: its first statement begins a transaction.
    pub(crate) const OPENS: Self = Self(1 << 14);
    /// Not a tie: the text speaks of its transaction's number.
    pub(crate) const XID: Self = Self(1 << 15);

    /// After these, settings are to be read back.
    pub(crate) const CHANGES: Self = Self(Self::READABLE.0 | Self::RESET.0);

    /// Those that are no ties.
    const REMARKS: u32 = Self::RESET.0 | Self::NAMES.0 | Self::ENDS.0 | Self::OPENS.0 | Self::XID.0;

    pub(crate) fn is_empty(self) -> bool {
        self == Self::NONE
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Those of its own that `others` has too.
    pub(crate) fn among(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Without what is no tie.
    pub(crate) fn only_ties(self) -> Self {
        Self(self.0 & !Self::REMARKS)
    }

    /// The first reason, in the operator's words.
    pub(crate) fn reason(self) -> &'static str {
        let reasons = [
            (Self::SETTING, "a setting made with SET"),
            (Self::READABLE, "a setting made with SET"),
            (Self::LISTEN, "LISTEN"),
            (Self::CURSOR, "a cursor WITH HOLD"),
            (Self::TEMPORARY, "a temporary object"),
            (Self::LOCK, "a session advisory lock"),
            (Self::PREPARED, "a statement made with PREPARE"),
            (Self::LOADED, "a library loaded with LOAD"),
            (Self::SEQUENCE, "currval or lastval"),
            (Self::TOO_MUCH, "more prepared statements than the router keeps"),
        ];
        let found = reasons.iter().find(|(tie, _)| self.0 & tie.0 != 0);
        found.map_or("state that the router cannot carry over", |(_, reason)| reason)
    }
}

/// Longest word that is looked at (NAMEDATALEN): some settings' names have more than 32 bytes.
const WORD: usize = 64;

/// Longest tag of a dollar quote (NAMEDATALEN).
const TAG: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Plain,
    Quote {
        has_escapes: bool,
    },
    Name,
    LineComment,
    BlockComment {
        depth: u8,
    },
    /// In the tag that opens a dollar quote.
    Opening,
    Dollar {
        matched: usize,
    },
}

/// Whether a quote now would continue an `E` string, whose escapes then go on: white space with a newline in it may
/// stand between, and line comments are white space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Continued {
    No,
    /// Nothing since the string's last quote: another one is a doubled one.
    Closed,
    Space {
        has_newline: bool,
    },
    /// A minus, which may begin a comment.
    Dash {
        has_newline: bool,
    },
}

impl Continued {
    /// Behind one more byte outside of quotes and comments.
    fn then(self, byte: u8) -> Self {
        let is_newline = matches!(byte, b'\n' | b'\r');
        match (self, byte) {
            (Self::Closed, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) => Self::Space { has_newline: is_newline },
            (Self::Space { has_newline }, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c) => {
                Self::Space { has_newline: has_newline || is_newline }
            }
            (Self::Closed, b'-') => Self::Dash { has_newline: false },
            (Self::Space { has_newline }, b'-') => Self::Dash { has_newline },
            // The comment has begun; its end is the newline.
            (Self::Dash { has_newline }, b'-') => Self::Space { has_newline },
            _ => Self::No,
        }
    }
}

/// A word that is being read.
#[derive(Clone, Debug)]
struct Word {
    bytes: [u8; WORD],
    length: usize,
}

impl Word {
    fn new() -> Self {
        Self { bytes: [0; WORD], length: 0 }
    }

    fn push(&mut self, byte: u8) {
        if self.length < WORD {
            self.bytes[self.length] = byte.to_ascii_lowercase();
        }
        self.length = self.length.saturating_add(1);
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What was read; `?` for what is too long.
    fn read(&self) -> &[u8] {
        if self.length > WORD { b"?" } else { &self.bytes[..self.length] }
    }
}

/// What the first words of a statement said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statement {
    Start,
    /// Nothing more to learn from its head.
    Known,
    Create,
    Declare,
    DeclareWith,
    Into,
    /// Behind EXPLAIN: its options, and somewhere the statement that is explained.
    Explain,
    Prepare,
    /// Behind PREPARE TRANSACTION, which may also be a statement of that name.
    PrepareTransaction,
    Set,
    SetTime,
    /// Behind a word that may be the name of an ordinary setting; a dot here makes it one of somebody's own.
    SetName,
    /// Behind `standard_conforming_strings`: its value comes.
    SetStrings,
    /// Behind DEALLOCATE or DISCARD.
    Deallocate,
    Discard,
}

/// One pass over a text that may come in pieces.
#[derive(Clone, Debug)]
pub(crate) struct Glance {
    place: Place,
    statement: Statement,
    word: Word,
    /// Of what is in quotes of any kind, which may become SQL elsewhere or name a schema.
    inner: Word,
    continued: Continued,
    previous: u8,
    is_pair: bool,
    /// The last `&` stood behind a `U`.
    is_unicode: bool,
    tag: [u8; TAG],
    tag_length: usize,
    ties: Ties,
    is_first_statement: bool,
}

impl Glance {
    pub(crate) fn new() -> Self {
        Self {
            place: Place::Plain,
            statement: Statement::Start,
            word: Word::new(),
            inner: Word::new(),
            continued: Continued::No,
            previous: 0,
            is_pair: false,
            is_unicode: false,
            tag: [0; TAG],
            tag_length: 0,
            ties: Ties::NONE,
            is_first_statement: true,
        }
    }

    /// All of a text at once.
    pub(crate) fn at(text: &[u8]) -> Ties {
        let mut glance = Self::new();
        glance.feed(text);
        glance.finish()
    }

    pub(crate) fn feed(&mut self, text: &[u8]) {
        for byte in text {
            self.step(*byte);
            // A byte that completed a pair (`/*`, `\\`) must not begin another with the next one.
            self.previous = if std::mem::take(&mut self.is_pair) { 0 } else { *byte };
        }
    }

    pub(crate) fn finish(mut self) -> Ties {
        self.end_inner();
        self.end_word();
        self.end_statement();
        self.ties
    }

    fn step(&mut self, byte: u8) {
        if matches!(self.place, Place::Quote { .. } | Place::Name | Place::Dollar { .. }) {
            self.within(byte);
        }
        match self.place {
            Place::Plain => self.plain(byte),
            Place::Quote { has_escapes } => match byte {
                b'\'' if !(has_escapes && self.previous == b'\\') => {
                    self.place = Place::Plain;
                    self.continued = if has_escapes { Continued::Closed } else { Continued::No };
                }
                // A doubled backslash must not escape what follows it.
                b'\\' if has_escapes && self.previous == b'\\' => self.is_pair = true,
                _ => {}
            },
            Place::Name if byte == b'"' => {
                self.end_word();
                self.place = Place::Plain;
            }
            Place::Name => self.word.push(byte),
            Place::LineComment if matches!(byte, b'\n' | b'\r') => {
                self.continued = self.continued.then(byte);
                self.place = Place::Plain;
            }
            Place::LineComment => {}
            Place::BlockComment { depth } => self.comment(byte, depth),
            Place::Opening => self.opening(byte),
            Place::Dollar { matched } => self.dollar(byte, matched),
        }
    }

    /// In quotes of any kind.
    fn within(&mut self, byte: u8) {
        if is_of_word(byte) {
            self.inner.push(byte);
        } else {
            self.end_inner();
        }
    }

    fn plain(&mut self, byte: u8) {
        let continued = self.continued;
        self.continued = continued.then(byte);
        match byte {
            _ if is_of_word(byte) => self.word.push(byte),
            b'$' if !self.word.is_empty() => self.word.push(byte),
            b'\'' => {
                let is_continued = matches!(continued, Continued::Closed | Continued::Space { has_newline: true });
                let has_escapes = is_continued || self.word.read() == b"e";
                self.unless_unicode();
                self.end_word();
                self.place = Place::Quote { has_escapes };
            }
            _ => {
                self.end_word();
                self.punctuation(byte);
            }
        }
    }

    fn punctuation(&mut self, byte: u8) {
        match byte {
            b';' => self.end_statement(),
            b'.' if matches!(self.statement, Statement::Set | Statement::SetTime | Statement::SetName) => {
                self.statement = self.tied(Ties::SETTING);
            }
            b'"' => {
                self.unless_unicode();
                self.place = Place::Name;
            }
            // What it means is decided by the quote that may follow.
            b'&' => self.is_unicode = matches!(self.previous, b'u' | b'U'),
            b'-' if self.previous == b'-' => self.place = Place::LineComment,
            b'*' if self.previous == b'/' => {
                self.is_pair = true;
                self.place = Place::BlockComment { depth: 1 };
            }
            b'$' => {
                self.place = Place::Opening;
                self.tag_length = 0;
            }
            _ => {}
        }
    }

    /// `U&"…"` and `U&'…'` spell their letters as numbers, which are not read here.
    fn unless_unicode(&mut self) {
        if self.is_unicode && self.previous == b'&' {
            self.ties.add(Ties::UNKNOWN);
        }
        self.is_unicode = false;
    }

    fn comment(&mut self, byte: u8, depth: u8) {
        let depth = match (self.previous, byte) {
            (b'/', b'*') => depth.saturating_add(1),
            (b'*', b'/') => depth - 1,
            _ => return,
        };
        self.is_pair = true;
        self.place = if depth == 0 { Place::Plain } else { Place::BlockComment { depth } };
    }

    fn opening(&mut self, byte: u8) {
        match byte {
            b'$' => self.place = Place::Dollar { matched: 0 },
            _ if is_of_word(byte) && self.tag_length == TAG => {
                // Longer than a name can be, and yet PostgreSQL takes it for a quote: what is in it cannot be told.
                self.place = Place::Plain;
                self.ties.add(Ties::UNKNOWN);
            }
            _ if is_of_word(byte) => {
                // A digit first is a parameter ($1), not a quote.
                if self.tag_length == 0 && byte.is_ascii_digit() {
                    self.place = Place::Plain;
                } else {
                    self.tag[self.tag_length] = byte;
                    self.tag_length += 1;
                }
            }
            _ => {
                self.place = Place::Plain;
                self.plain(byte);
            }
        }
    }

    /// `matched` counts what has been seen of `$tag$`.
    fn dollar(&mut self, byte: u8, matched: usize) {
        let expected = match matched {
            0 => b'$',
            n if n <= self.tag_length => self.tag[n - 1],
            _ => b'$',
        };
        if byte != expected {
            self.place = Place::Dollar { matched: usize::from(byte == b'$') };
        } else if matched == self.tag_length + 1 {
            self.place = Place::Plain;
        } else {
            self.place = Place::Dollar { matched: matched + 1 };
        }
    }

    fn end_statement(&mut self) {
        match self.statement {
            Statement::Set | Statement::SetTime | Statement::SetStrings => self.ties.add(Ties::SETTING),
            Statement::Prepare => self.ties.add(Ties::PREPARED),
            Statement::PrepareTransaction => self.ties.add(Ties::ENDS),
            _ => {}
        }
        self.is_first_statement = false;
        self.statement = Statement::Start;
    }

    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let word = std::mem::replace(&mut self.word, Word::new());
        self.ties.add(anywhere(word.read()));
        self.statement = self.next(word.read());
    }

    fn end_inner(&mut self) {
        if !self.inner.is_empty() {
            self.ties.add(anywhere(self.inner.read()));
            self.inner.length = 0;
        }
    }

    fn next(&mut self, word: &[u8]) -> Statement {
        match self.statement {
            Statement::Start => self.first(word),
            Statement::Known if word == b"into" => Statement::Into,
            Statement::Known => Statement::Known,
            Statement::Create => {
                self.tie_if(is_temporary(word), Ties::TEMPORARY);
                self.tie_if(word == b"execute", Ties::NAMES);
                Statement::Create
            }
            Statement::Explain => match word {
                b"create" | b"declare" | b"execute" | b"prepare" => self.first(word),
                b"into" => Statement::Into,
                _ => Statement::Explain,
            },
            Statement::Into if matches!(word, b"local" | b"global") => Statement::Into,
            Statement::Into => {
                self.tie_if(is_temporary(word), Ties::TEMPORARY);
                Statement::Known
            }
            Statement::Declare if word == b"with" => Statement::DeclareWith,
            Statement::Declare => Statement::Declare,
            Statement::DeclareWith => {
                self.tie_if(word == b"hold", Ties::CURSOR);
                Statement::Declare
            }
            Statement::Prepare if word == b"transaction" => Statement::PrepareTransaction,
            Statement::Prepare | Statement::PrepareTransaction => self.tied(Ties::PREPARED),
            Statement::Set => self.setting(word),
            // A name with a doubled quote in it comes as two.
            Statement::SetName if word.contains(&b'.') => self.tied(Ties::SETTING),
            Statement::SetName => Statement::Known,
            Statement::SetStrings if word == b"to" => Statement::SetStrings,
            Statement::SetStrings => {
                self.tie_if(word != b"on", Ties::SETTING);
                Statement::Known
            }
            Statement::Deallocate if word == b"prepare" => Statement::Deallocate,
            Statement::Deallocate => {
                self.tie_if(word != b"all", Ties::NAMES);
                // One of the router's own, found in `pg_prepared_statements`.
                self.tie_if(word.starts_with(crate::statements::PREFIX), Ties::PREPARED);
                Statement::Known
            }
            Statement::Discard => {
                self.tie_if(word == b"all", Ties::RESET);
                Statement::Known
            }
            Statement::SetTime => {
                self.tie_if(word != b"zone", Ties::SETTING);
                Statement::Known
            }
        }
    }

    fn first(&mut self, word: &[u8]) -> Statement {
        let is_first = std::mem::take(&mut self.is_first_statement);
        match word {
            b"begin" | b"start" => {
                self.tie_if(is_first, Ties::OPENS);
                Statement::Known
            }
            b"commit" | b"end" | b"rollback" | b"abort" => self.tied(Ties::ENDS),
            b"set" => Statement::Set,
            b"create" => Statement::Create,
            b"declare" => Statement::Declare,
            b"prepare" => Statement::Prepare,
            b"listen" => self.tied(Ties::LISTEN),
            b"load" => self.tied(Ties::LOADED),
            b"select" | b"insert" | b"update" | b"delete" | b"merge" | b"with" | b"values" | b"table"
            | b"savepoint" | b"release" | b"show" | b"copy" | b"fetch" | b"move" | b"close" | b"analyze"
            | b"analyse" | b"vacuum" | b"alter" | b"drop" | b"truncate" | b"comment" | b"grant" | b"revoke"
            | b"lock" | b"notify" | b"checkpoint" | b"reindex" | b"cluster" | b"refresh" | b"security" | b"import"
            | b"reassign" | b"unlisten" | b"call" => Statement::Known,
            b"explain" => Statement::Explain,
            b"reset" => self.tied(Ties::RESET),
            b"execute" => self.tied(Ties::NAMES),
            b"deallocate" => Statement::Deallocate,
            b"discard" => Statement::Discard,
            _ => self.tied(Ties::UNKNOWN),
        }
    }

    /// The word after SET. Settings that the server reports are re-applied, so they are nothing to lose.
    fn setting(&mut self, word: &[u8]) -> Statement {
        match word {
            b"session" => Statement::Set,
            b"time" => Statement::SetTime,
            b"local" | b"transaction" | b"constraints" | b"names" => Statement::SetName,
            // Who one is decides what one may do; a server does not tell these as settings.
            b"role" | b"authorization" | b"session_authorization" => self.tied(Ties::SETTING),
            // With a dot in its quotes it is a setting of somebody's own; a name too long to read may have one.
            _ if word.contains(&b'.') || word == b"?" => self.tied(Ties::SETTING),
            // Anything but "on" changes how text is read, also here: the session must stay.
            b"standard_conforming_strings" => {
                self.ties.add(Ties::READABLE);
                Statement::SetStrings
            }
            _ if CARRIED.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(word)) => Statement::SetName,
            _ => {
                self.ties.add(Ties::READABLE);
                Statement::SetName
            }
        }
    }

    fn tied(&mut self, tie: Ties) -> Statement {
        self.ties.add(tie);
        Statement::Known
    }

    fn tie_if(&mut self, is_tied: bool, tie: Ties) {
        if is_tied {
            self.ties.add(tie);
        }
    }
}

/// Settings that every supported server reports (PostgreSQL 15: `GUC_REPORT`) and that a session may change. A
/// router that carries a session over sets them again. `standard_conforming_strings` is left out on purpose: it
/// changes how text is read, also here.
pub(crate) const CARRIED: [&str; 6] =
    ["application_name", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "default_transaction_read_only"];

fn is_of_word(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'0'..=b'9' | 0x80..)
}

fn is_temporary(word: &[u8]) -> bool {
    matches!(word, b"temp" | b"temporary")
}

fn anywhere(word: &[u8]) -> Ties {
    // Few words are that long or begin so; this is the path of every word of every statement.
    match word {
        // An UPDATE of the view is a SET.
        b"set_config" | b"pg_settings" => Ties::SETTING,
        b"currval" | b"lastval" => Ties::SEQUENCE,
        b"pg_current_xact_id" | b"pg_current_xact_id_if_assigned" | b"txid_current" | b"txid_current_if_assigned" => {
            Ties::XID
        }
        // Also pg_temp_3, the schema's own name.
        _ if word.starts_with(b"pg_temp") => Ties::TEMPORARY,
        _ if word.starts_with(b"pg_") && word.windows(13).any(|part| part == b"advisory_lock") => Ties::LOCK,
        _ => Ties::NONE,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn statements_that_leave_nothing_behind_have_no_ties() {
        for text in [
            "",
            "select 1",
            " /* set x /* nested */ */ -- listen\n SELECT 'listen; set x = 1', $$ do; $$, $a$ ; load $ $a$",
            "(select 1) union select 2;",
            "begin; set local work_mem = '1MB'; set transaction read only; commit",
            "insert into t values (E'it\\'s; listen', 'x''; load ''y')",
            "set time zone 'UTC'; SET SESSION datestyle = iso; set names 'utf8'; set application_name to 'a'",
            "declare c cursor without hold for select 1",
            "create table t (id int); drop table temp",
            "select pg_advisory_xact_lock($1), \"do\"",
            "prepare transaction 'x'",
            "deallocate all; discard plans",
        ] {
            assert_eq!(Glance::at(text.as_bytes()).only_ties(), Ties::NONE, "{text}");
        }
    }

    #[test]
    fn statements_that_leave_something_behind_are_seen() {
        for (text, tie) in [
            ("SET search_path = a", Ties::READABLE),
            ("select 1; set session work_mem to 1", Ties::READABLE),
            ("set role x", Ties::SETTING),
            ("set session authorization x", Ties::SETTING),
            ("discard all", Ties::RESET),
            ("reset work_mem", Ties::RESET),
            ("deallocate prepare a", Ties::NAMES),
            ("execute a", Ties::NAMES),
            ("set session characteristics as transaction read only", Ties::READABLE),
            ("select pg_catalog.set_config('a.b', 'c', false)", Ties::SETTING),
            ("set standard_conforming_strings = on", Ties::READABLE),
            ("set idle_in_transaction_session_timeout = 1", Ties::READABLE),
            ("/* x */ listen y", Ties::LISTEN),
            ("declare c scroll cursor with hold for select 1", Ties::CURSOR),
            ("create temp table t ()", Ties::TEMPORARY),
            ("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1", Ties::TEMPORARY),
            ("select * into temp x from y", Ties::TEMPORARY),
            ("create table pg_temp.x ()", Ties::TEMPORARY),
            ("select pg_try_advisory_lock_shared(1)", Ties::LOCK),
            ("select \"pg_advisory_lock\"(1)", Ties::LOCK),
            ("prepare x as select 1", Ties::PREPARED),
            ("load 'auto_explain'", Ties::LOADED),
            ("select currval('s')", Ties::SEQUENCE),
            ("do $$ begin end $$", Ties::UNKNOWN),
            ("select $1; do 'x'", Ties::UNKNOWN),
            ("select E'\\\\'; listen x", Ties::LISTEN),
            ("update pg_settings set setting = '1' where name = 'work_mem'", Ties::SETTING),
            ("select 1 into local temp x", Ties::TEMPORARY),
            ("select 1 into global temporary x", Ties::TEMPORARY),
            ("select 1 -- '\rinto temp x", Ties::TEMPORARY),
            ("create table pg_temp_3.x ()", Ties::TEMPORARY),
            ("create table x as execute y", Ties::NAMES),
            ("explain analyze create temp table x as select 1", Ties::TEMPORARY),
            ("explain (analyze, verbose off) create temp table x as select 1", Ties::TEMPORARY),
            ("explain analyze verbose select 1 into temp x", Ties::TEMPORARY),
            ("explain execute x", Ties::NAMES),
            ("explain declare c cursor with hold for select 1", Ties::CURSOR),
            ("prepare transaction as select 1", Ties::PREPARED),
            ("set local search_path = 'pg_temp'", Ties::TEMPORARY),
            ("select query_to_xml('select set_config(''a.b'', ''c'', false)', true, true, '')", Ties::SETTING),
            ("select query_to_xml($x$select pg_advisory_lock(1)$x$, true, true, '')", Ties::LOCK),
            ("select 1 as \"x pg_temp\"", Ties::TEMPORARY),
            ("select E'a'\n'\\''; listen x -- '", Ties::LISTEN),
            ("select E'a' -- b\r\t'\\''; listen x -- '", Ties::LISTEN),
            ("select E'a''\\''; listen x -- '", Ties::LISTEN),
            ("select E'a' < \n'\\'; listen x -- '", Ties::LISTEN),
            ("select E'a' - \n'\\'; listen x -- '", Ties::LISTEN),
            ("select U&\"\\0061\"", Ties::UNKNOWN),
            ("select u&'\\0061'", Ties::UNKNOWN),
        ] {
            assert_eq!(Glance::at(text.as_bytes()), tie, "{text}");
        }
    }

    #[test]
    fn the_ends_of_transactions_are_seen() {
        for text in ["commit", "/* x */ END work", "select 1; rollback", "abort", "prepare transaction 'x'", "Commit;"]
        {
            assert!(Glance::at(text.as_bytes()).has(Ties::ENDS), "{text}");
        }
        for text in ["select 'x; commit'", "select 1 as end", "savepoint commit", "prepare transaction as select 1"] {
            assert!(!Glance::at(text.as_bytes()).has(Ties::ENDS), "{text}");
        }
        for (text, expected) in [("begin; select 1", true), (" START transaction", true), ("select 1; begin", false)] {
            assert_eq!(Glance::at(text.as_bytes()).has(Ties::OPENS), expected, "{text}");
        }
    }

    #[test]
    fn a_setting_of_somebodys_own_cannot_be_read_back() {
        let long = format!("set \"{}.b\" = 'x'", "a".repeat(80));
        for text in [
            "set app.user = 'x'",
            "set \"app\".\"user\" = 'x'",
            "set local a = 1; set b . c to 1",
            "set \"app.tenant\" = 'x'",
            "set session \"app.tenant\" = 'x'",
            "set \"app\"\".tenant\" = 'x'",
            "set session.tenant = 'x'",
            "set local.tenant = 'x'",
            "set \"transaction\".tenant = 'x'",
            "set timezone.tenant = 'x'",
            "set time.zone = 'x'",
            "set U&\"app\\002etenant\" = 'x'; set app.x = 1",
            "set standard_conforming_strings = off",
            "set standard_conforming_strings to 'off'",
            &long,
        ] {
            assert!(Glance::at(text.as_bytes()).has(Ties::SETTING), "{text}");
        }
        for text in ["set a = 1.5", "set local a.b = 1", "set session work_mem = 1; set local app.x to 1"] {
            assert!(!Glance::at(text.as_bytes()).has(Ties::SETTING), "{text}");
        }
    }

    #[test]
    fn a_tag_longer_than_a_name_is_not_known() {
        let tag = format!("${}$", "a".repeat(100));
        assert!(Glance::at(format!("select {tag} ' {tag}; listen x").as_bytes()).has(Ties::UNKNOWN));
    }

    proptest! {
        #[test]
        fn pieces_say_the_same_as_the_whole(text in "[ a-zeEU&\r\n'\"$;*/\\\\.-]{0,80}", cut in 0usize..80) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            let mut glance = Glance::new();
            glance.feed(&bytes[..cut]);
            glance.feed(&bytes[cut..]);
            prop_assert_eq!(glance.finish(), Glance::at(bytes));
        }

        #[test]
        fn no_text_makes_it_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Glance::at(&text);
        }
    }
}
