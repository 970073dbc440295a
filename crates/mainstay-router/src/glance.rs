//! A glance at SQL text: would something be lost if the session moved to another server?
//!
//! Reads words only, in one pass and constant memory, so that text of any length can stream past. Never decides
//! what a statement means; what it does not know counts as something to lose. What is in strings and comments is
//! data, often a user's, and says nothing.
//! **Source**: PostgreSQL manual, "Lexical Structure"; `src/backend/parser/scan.l`.

use crate::position;

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
    /// Not a tie: a transaction is open behind it, if nothing in it fails.
    pub(crate) const LEAVES_OPEN: Self = Self(1 << 16);
    /// Not a tie: none is.
    pub(crate) const LEAVES_CLOSED: Self = Self(1 << 17);
    /// Not a tie: it sets the position that reads must see.
    pub(crate) const POSITION: Self = Self(1 << 19);
    /// The client writes its text in a way that is not read here.
    pub(crate) const UNREAD: Self = Self(1 << 18);
    /// Not a tie: the server may read text that comes behind it in another way.
    pub(crate) const REREADS: Self = Self(1 << 20);

    /// Not a tie: something follows the end of a transaction.
    pub(crate) const GOES_ON: Self = Self(1 << 21);
    /// Not a tie: it is about the position that reads must see, and is no statement that sets it.
    pub(crate) const MISPLACED: Self = Self(1 << 22);

    /// After these, settings are to be read back.
    pub(crate) const CHANGES: Self = Self(Self::READABLE.0 | Self::RESET.0);
    /// What a prepared statement does whenever it is executed, also by a name in SQL.
    pub(crate) const REPEATED: Self = Self(Self::CHANGES.0 | Self::ENDS.0 | Self::REREADS.0);

    /// Those that are no ties.
    const REMARKS: u32 = Self::RESET.0
        | Self::NAMES.0
        | Self::ENDS.0
        | Self::OPENS.0
        | Self::XID.0
        | Self::POSITION.0
        | Self::REREADS.0
        | Self::GOES_ON.0
        | Self::MISPLACED.0
        | Self::LEAVES_OPEN.0
        | Self::LEAVES_CLOSED.0;

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
            (Self::UNREAD, "client_encoding or standard_conforming_strings, in which the router does not read SQL"),
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
    /// Behind the quote that ends a name, unless another one follows.
    NameEnd,
    LineComment,
    BlockComment {
        depth: u32,
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
    /// Behind COMMIT or ROLLBACK, which may be of a savepoint.
    Ending,
    /// Behind AND NO.
    EndingNo,
    /// The next transaction has begun.
    EndingChain,
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

/// What the words of a SET or RESET have named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Other,
    Setting,
    Mainstay,
    Position,
}

/// One pass over a text that may come in pieces.
#[derive(Clone, Debug)]
pub(crate) struct Glance {
    place: Place,
    statement: Statement,
    word: Word,
    /// Of a string, where it names schemas.
    inner: Word,
    /// In a SET of `search_path`: `pg_temp` in it makes tables temporary that do not say so.
    is_path: bool,
    /// How far a SET or RESET has named the position that reads must see.
    about: About,
    /// Statements of a function's body follow, or may.
    is_body: bool,
    /// Whether a transaction is open behind the last statement that says so.
    is_open: Option<bool>,
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
            is_path: false,
            about: About::Other,
            is_body: false,
            is_open: None,
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
        if position::said(text).is_some() {
            // The router's own setting, which it remembers itself.
            return Ties::POSITION;
        }
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
        match self.place {
            Place::Name | Place::NameEnd => self.end_name(),
            _ => self.end_word(),
        }
        self.end_statement();
        match self.is_open {
            Some(true) => self.ties.add(Ties::LEAVES_OPEN),
            Some(false) => self.ties.add(Ties::LEAVES_CLOSED),
            None => {}
        }
        self.ties
    }

    fn step(&mut self, byte: u8) {
        if self.is_path && matches!(self.place, Place::Quote { .. } | Place::Dollar { .. }) {
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
            Place::Name if byte == b'"' => self.place = Place::NameEnd,
            Place::Name => self.word.push(byte),
            Place::NameEnd if byte == b'"' => {
                self.word.push(byte);
                self.place = Place::Name;
            }
            Place::NameEnd => {
                self.end_name();
                self.place = Place::Plain;
                self.plain(byte);
            }
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

    /// In a string that names schemas.
    fn within(&mut self, byte: u8) {
        if byte == b'\\' {
            // May spell a letter.
            self.ties.add(Ties::UNKNOWN);
        }
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
            // A number ends before a dollar quote; a name goes on.
            b'$' if !self.word.is_empty() && !self.word.bytes[0].is_ascii_digit() => self.word.push(byte),
            b'\'' => {
                let is_continued = matches!(continued, Continued::Closed | Continued::Space { has_newline: true });
                let has_escapes = is_continued || self.word.read() == b"e";
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
                if self.is_unicode && self.previous == b'&' {
                    // `U&"…"` spells its letters as numbers, which are not read here.
                    self.ties.add(Ties::UNKNOWN);
                }
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

    fn comment(&mut self, byte: u8, depth: u32) {
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
                self.ties.add(Ties::ENDS);
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
            Statement::PrepareTransaction => {
                self.ties.add(Ties::ENDS);
                self.leaves(false);
            }
            Statement::Ending | Statement::EndingNo => self.leaves(false),
            Statement::EndingChain => self.leaves(true),
            _ => {}
        }
        self.is_first_statement = false;
        self.is_path = false;
        self.statement = Statement::Start;
    }

    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let word = std::mem::replace(&mut self.word, Word::new());
        self.ties.add(anywhere(word.read()));
        self.name_position(word.read());
        self.statement = self.next(word.read());
    }

    /// A name in quotes: no keyword, but it may be a function's or a schema's.
    fn end_name(&mut self) {
        let word = std::mem::replace(&mut self.word, Word::new());
        let name = word.read();
        self.ties.add(anywhere(name));
        self.name_position(name);
        self.statement = match self.statement {
            // Names and values of settings, names of statements.
            Statement::Set
            | Statement::SetTime
            | Statement::SetName
            | Statement::SetStrings
            | Statement::Deallocate
            | Statement::PrepareTransaction => self.next(name),
            Statement::Prepare => self.tied(Ties::PREPARED),
            // Nothing begins with a name.
            Statement::Start => self.tied(Ties::UNKNOWN),
            Statement::Into | Statement::Discard => Statement::Known,
            Statement::DeclareWith => Statement::Declare,
            other => other,
        };
    }

    fn end_inner(&mut self) {
        if !self.inner.is_empty() {
            self.ties.add(anywhere(self.inner.read()));
            self.inner.length = 0;
        }
    }

    /// `mainstay.read_after`, in whatever way it is written.
    fn name_position(&mut self, word: &[u8]) {
        let is_setting = matches!(self.about, About::Setting);
        self.about = match word {
            b"set" | b"reset" if self.statement == Statement::Start => About::Setting,
            b"session" | b"local" if is_setting => About::Setting,
            b"mainstay" if is_setting => About::Mainstay,
            b"mainstay.read_after" if is_setting => About::Position,
            b"read_after" if self.about == About::Mainstay => About::Position,
            _ => About::Other,
        };
        self.tie_if(self.about == About::Position, Ties::MISPLACED);
    }

    /// What a statement that ends here leaves.
    fn leaves(&mut self, is_open: bool) {
        if !self.is_body {
            self.is_open = Some(is_open);
        }
    }

    fn ending(&self, word: &[u8]) -> Statement {
        match word {
            // Of a savepoint, or of a transaction that is none of this session's.
            b"to" | b"prepared" => Statement::Known,
            b"no" => Statement::EndingNo,
            b"chain" if self.statement == Statement::Ending => Statement::EndingChain,
            _ => self.statement,
        }
    }

    fn next(&mut self, word: &[u8]) -> Statement {
        if matches!(self.statement, Statement::Set | Statement::SetName) {
            self.is_path |= matches!(word, b"search_path" | b"schema");
        }
        match self.statement {
            Statement::Start => self.first(word),
            Statement::Known if word == b"into" => Statement::Into,
            Statement::Known => Statement::Known,
            Statement::Create => {
                self.tie_if(is_temporary(word), Ties::TEMPORARY);
                self.tie_if(word == b"execute", Ties::NAMES);
                self.is_body |= word == b"atomic";
                Statement::Create
            }
            Statement::Ending | Statement::EndingNo | Statement::EndingChain => self.ending(word),
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
                self.tie_if(word == b"all", Ties::REREADS);
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
        self.tie_if(self.ties.has(Ties::ENDS), Ties::GOES_ON);
        match word {
            b"begin" | b"start" => {
                self.tie_if(is_first, Ties::OPENS);
                self.leaves(true);
                Statement::Known
            }
            b"commit" | b"end" | b"rollback" | b"abort" => {
                self.ties.add(Ties::ENDS);
                Statement::Ending
            }
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
            b"reset" => {
                self.ties.add(Ties::REREADS);
                self.tied(Ties::RESET)
            }
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
            b"local" | b"transaction" | b"constraints" => Statement::SetName,
            b"names" => {
                self.ties.add(Ties::REREADS);
                Statement::SetName
            }
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
        b"set_config" | b"pg_settings" => Ties(Ties::SETTING.0 | Ties::REREADS.0),
        b"client_encoding" | b"standard_conforming_strings" => Ties::REREADS,
        b"currval" | b"lastval" => Ties::SEQUENCE,
        b"pg_current_xact_id" | b"pg_current_xact_id_if_assigned" | b"txid_current" | b"txid_current_if_assigned" => {
            Ties::XID
        }
        b"pg_advisory_lock" | b"pg_advisory_lock_shared" | b"pg_try_advisory_lock" | b"pg_try_advisory_lock_shared" => {
            Ties::LOCK
        }
        // These run text as SQL, which may be put together from anything.
        b"ts_stat" | b"ts_rewrite" | b"connectby" | b"xpath_table" => Ties::UNKNOWN,
        // Spells letters with a sign of its own.
        b"uescape" => Ties::UNKNOWN,
        _ if word.starts_with(b"query_to_xml") || word.starts_with(b"crosstab") => Ties::UNKNOWN,
        _ if is_temporary_schema(word) => Ties::TEMPORARY,
        _ => Ties::NONE,
    }
}

/// `pg_temp`, or `pg_temp_3`, the schema's own name.
fn is_temporary_schema(word: &[u8]) -> bool {
    let number = |rest: &[u8]| rest.strip_prefix(b"_").is_some_and(|rest| rest.iter().all(u8::is_ascii_digit));
    word.strip_prefix(b"pg_temp").is_some_and(|rest| rest.is_empty() || number(rest))
}

/// Encodings of clients in which a byte of ASCII may be part of a letter (PostgreSQL manual, "Supported Character
/// Sets": those that no server has).
const WITH_ASCII: [&str; 7] = ["SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB"];

/// Whether SQL of a client whose server reports this is read rightly here.
pub(crate) fn is_readable(name: &str, value: &str) -> bool {
    match name {
        "standard_conforming_strings" => value == "on",
        "client_encoding" => !WITH_ASCII.contains(&value),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
