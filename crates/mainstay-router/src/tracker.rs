//! What a session is in the middle of, learned from the messages that pass: the facts that decide its fate when its
//! server goes away.
//!
//! Pure. Where it does not know, it says the careful thing: in flight, or tied to its server.
//! **Source**: PostgreSQL manual, "Message Flow"; `src/backend/tcop/postgres.c`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_types::Lsn;

use crate::frame::{HEADER, split_string};
use crate::glance::{Glance, Ties};
use crate::statements::{self, Kept, Name, Statement};
use crate::xid;

/// Most named statements that are kept to be prepared again. Drivers cache 100 (sqlx) to 256 (pgJDBC), but some
/// frameworks let their users cache thousands. Those beyond work as well, under the client's own names on a server
/// that the session then keeps.
const MAX_STATEMENTS: usize = 10_000;

/// Most bytes of them in one session: pgJDBC's cache, the largest of the drivers', takes 5 MiB.
const MAX_STATEMENT_BYTES: usize = 8 * 1024 * 1024;

/// Transaction status in ReadyForQuery.
pub(crate) const IDLE: u8 = b'I';

/// In a transaction that has failed.
pub(crate) const FAILED: u8 = b'E';

/// What a ReadyForQuery will answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Query,
    Sync,
    Call,
    /// CopyDone or CopyFail, sent before the server said that it copies: answers nothing, but ends the copying.
    CopyEnd,
    /// A cycle of the router's own, of which the client sees nothing.
    Ours,
}

/// What a cycle may do to its transaction.
#[derive(Clone, Copy, Debug, Default)]
struct Doing {
    /// A transaction may end in it.
    ends: bool,
    /// It begins with BEGIN.
    opens: bool,
    /// Whether a transaction is open behind it; `None`: as before.
    leaves: Option<bool>,
    /// Its only statement asks for the number of its transaction.
    asks_xid: bool,
    /// How text is read may be another behind it.
    rereads: bool,
    /// Something follows the end of a transaction.
    goes_on: bool,
    /// How many statements it has; of a simple query: one, or more.
    binds: u32,
}

/// Something that a ReadyForQuery will answer.
#[derive(Clone, Copy, Debug)]
struct Cycle {
    asked: Asked,
    since: Instant,
    doing: Doing,
}

/// What a name means to the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named {
    Absent,
    Statement(Arc<Statement>),
    /// That is not known before an earlier cycle is answered.
    Undecided,
}

/// The unnamed statement.
#[derive(Debug)]
enum Unnamed {
    Absent,
    Kept(Arc<Statement>),
    /// Too long to be kept: only its server has it. It is waited for until it was used.
    Long {
        is_bound: bool,
    },
}

/// Where a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Query,
    Named,
    /// In a Parse of the unnamed statement. `is_first`: nothing before it can keep the server from reading it.
    Unnamed {
        is_first: bool,
    },
}

/// A message that streams through.
#[derive(Debug)]
enum Passing {
    Text { glance: Box<Glance>, text: Text },
    Other,
}

/// What becomes of a session that loses its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing is lost: another server can take over.
    Carry,
    /// An open transaction is lost, and was not committed; the session itself can go on.
    Abort,
    /// Nothing can have been committed, but the old server took something with it.
    End { reason: &'static str },
    /// The outcome of something is unknown; the session itself can go on.
    Unknown,
    /// The outcome of something is unknown, and the old server took something with it.
    UnknownAndEnd,
}

/// A message of the server that others care about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Nothing,
    /// A query cycle ended.
    Ready {
        took: Option<Duration>,
    },
    /// An ErrorResponse.
    Error,
    /// A ParameterStatus.
    Parameter,
    /// A ParseComplete or CloseComplete.
    Confirmed {
        answer: Answer,
        on_server: Option<u64>,
    },
    /// The server has dropped all prepared statements.
    Dropped,
    /// Of a cycle of the router's own.
    Ours,
    /// What had to fail did not: where the server is nobody knows.
    NotFailed,
}

/// One session's state.
#[derive(Debug)]
pub(crate) struct Tracker {
    status: u8,
    asked: VecDeque<Cycle>,
    /// Extended-protocol messages went out and no Sync yet.
    is_batch_open: bool,
    /// What they do.
    batch: Doing,
    /// What the portals of this transaction may do when they are executed later.
    portals_end: bool,
    /// The unnamed statement asks for the number of its transaction.
    unnamed_asks: bool,
    /// Whether a transaction is open behind the unnamed statement.
    unnamed_leaves: Option<bool>,
    /// The position that the unnamed statement sets.
    unnamed_position: Option<Option<Lsn>>,
    /// What the client's reads must see.
    read_after: Option<Lsn>,
    /// The BEGIN that is in flight, of which nothing was heard.
    begin: Option<Box<[u8]>>,
    /// The cycle of a statement of the router's own that has to fail.
    must_fail: Option<u64>,
    /// The number of the open transaction, if the client has asked for it.
    xid: Option<u64>,
    is_copying_in: bool,
    /// The server reads text in a way that is not known here.
    is_unread: bool,
    ties: Ties,
    /// Settings may be others than before.
    has_changed: bool,
    /// What the named statements do to settings and transactions whenever they are executed.
    changers: Ties,
    /// What the unnamed statement does whenever it is executed.
    unnamed_seen: Ties,
    /// What the one of this batch does: a Bind behind a Parse that fails is skipped with it.
    unnamed_now: Option<Ties>,
    unnamed: Unnamed,
    /// Shared with a new server's greeting while it is under way.
    statements: Arc<Kept>,
    statement_bytes: usize,
    awaited: VecDeque<Awaited>,
    awaited_bytes: usize,
    /// The server skips what comes, up to a Sync.
    is_skipping: bool,
    /// Of these, statements that will be kept: how many, and their bytes.
    coming: (usize, usize),
    /// Cycles asked for and answered.
    cycles_asked: u64,
    cycles_done: u64,
    passing: Option<Passing>,
}

impl Tracker {
    pub(crate) fn new() -> Self {
        Self {
            status: IDLE,
            asked: VecDeque::new(),
            is_batch_open: false,
            batch: Doing::default(),
            portals_end: false,
            unnamed_asks: false,
            unnamed_leaves: None,
            unnamed_position: None,
            read_after: None,
            begin: None,
            must_fail: None,
            xid: None,
            is_copying_in: false,
            is_unread: false,
            ties: Ties::NONE,
            has_changed: false,
            changers: Ties::NONE,
            unnamed_seen: Ties::NONE,
            unnamed_now: None,
            unnamed: Unnamed::Absent,
            statements: Arc::default(),
            statement_bytes: 0,
            awaited: VecDeque::new(),
            awaited_bytes: 0,
            is_skipping: false,
            coming: (0, 0),
            cycles_asked: 0,
            cycles_done: 0,
            passing: None,
        }
    }

    /// Nothing was sent that is not answered.
    pub(crate) fn is_quiet(&self) -> bool {
        self.asked.is_empty() && !self.is_batch_open && !self.is_copying_in && self.passing.is_none()
    }

    /// Extended-protocol messages went out and no Sync yet.
    pub(crate) fn is_batch_open(&self) -> bool {
        self.is_batch_open
    }

    /// Quiet, and outside a transaction.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_quiet() && self.status == IDLE
    }

    /// Nothing would be missed if another server answered what comes next, once [`Tracker::has_changed`] is looked
    /// into.
    pub(crate) fn is_free(&self) -> bool {
        let mut ties = self.ties;
        ties.remove(Ties::READABLE);
        self.is_idle() && ties.is_empty() && !matches!(self.unnamed, Unnamed::Long { is_bound: false })
    }

    /// It keeps its server between transactions.
    pub(crate) fn is_tied(&self) -> bool {
        !self.ties.is_empty()
    }

    /// Why it keeps its server, in the operator's words.
    pub(crate) fn tie_reason(&self) -> Option<&'static str> {
        self.is_tied().then(|| self.ties.reason())
    }

    /// Settings may have changed since this was last asked.
    pub(crate) fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// Its settings are known now.
    pub(crate) fn read_back(&mut self) {
        self.has_changed = false;
        self.ties.remove(Ties::READABLE);
    }

    /// Its settings cannot be known.
    pub(crate) fn unreadable(&mut self) {
        self.has_changed = false;
        self.ties.add(Ties::SETTING);
    }

    /// Whether what it sends is read rightly. If not, nothing is certain of what is in flight; and on a server that
    /// others use too, it may make state that is not seen.
    pub(crate) fn is_read(&mut self, is_read: bool, is_shared: bool) {
        self.is_unread = !is_read;
        if is_shared && !is_read {
            self.ties.add(Ties::UNREAD);
        }
    }

    /// It leaves its server: a long unnamed statement stays behind.
    pub(crate) fn leave(&mut self) {
        if matches!(self.unnamed, Unnamed::Long { .. }) {
            self.unnamed = Unnamed::Absent;
        }
    }

    /// What the client sends next continues something begun.
    pub(crate) fn is_within(&self) -> bool {
        self.status != IDLE || self.is_batch_open || self.is_copying_in || self.passing.is_some()
    }

    pub(crate) fn fate(&self) -> Fate {
        let is_certain = !self.is_in_doubt();
        let is_quiet = !self.awaits_answer() || is_certain && self.is_begin_alone();
        let is_safe = is_quiet || is_certain && self.is_uncommitted();
        match (is_safe, self.ties.is_empty()) {
            (true, true) if is_quiet && self.status == IDLE => Fate::Carry,
            (true, true) => Fate::Abort,
            (true, false) => Fate::End { reason: self.ties.reason() },
            (false, true) => Fate::Unknown,
            (false, false) => Fate::UnknownAndEnd,
        }
    }

    /// Something of the client's own is in flight.
    pub(crate) fn awaits_answer(&self) -> bool {
        let is_clients = |cycle: &Cycle| !matches!(cycle.asked, Asked::Ours | Asked::CopyEnd);
        self.is_batch_open || self.is_copying_in || self.passing.is_some() || self.asked.iter().any(is_clients)
    }

    /// What each cycle in flight does, answered or not yet sent to its end.
    fn doings(&self) -> impl Iterator<Item = Doing> {
        self.asked.iter().map(|cycle| cycle.doing).chain(self.is_batch_open.then_some(self.batch))
    }

    /// The server may read what is in flight in another way than it is read here.
    fn is_in_doubt(&self) -> bool {
        self.is_unread || self.doings().any(|doing| doing.rereads)
    }

    /// All that is in flight belongs to one transaction that has an end of its own, and no end was sent.
    fn is_uncommitted(&self) -> bool {
        let all = || self.doings();
        // A server does not begin a message that it does not have to its end. Outside of a transaction that is not told
        // apart: what follows it there is none of one.
        let is_text_passing = self.status == IDLE && matches!(self.passing, Some(Passing::Text { .. }));
        // Behind a BEGIN that fails, the next cycle would be a transaction of its own.
        let is_opened = || all().count() == 1 && all().all(|doing| doing.opens);
        !is_text_passing && !all().any(|doing| doing.ends) && (self.status != IDLE || is_opened())
    }

    /// In an open transaction that has not failed.
    pub(crate) fn is_in_transaction(&self) -> bool {
        self.status == b'T'
    }

    /// In a transaction that has failed.
    pub(crate) fn is_failed(&self) -> bool {
        self.status == FAILED
    }

    /// The number of the open transaction, if the client has asked for it.
    pub(crate) fn xid(&self) -> Option<u64> {
        self.xid
    }

    /// From now on the client is where this status says.
    pub(crate) fn now(&mut self, status: u8) {
        self.status = status;
    }

    /// Forgets what was in flight on a lost server, and says what the client waits for.
    pub(crate) fn lose(&mut self) -> Owed {
        let owed = self.owed();
        self.asked.clear();
        self.awaited.clear();
        self.awaited_bytes = 0;
        self.is_skipping = false;
        self.coming = (0, 0);
        self.is_batch_open = false;
        self.batch = Doing::default();
        self.portals_end = false;
        self.xid = None;
        self.begin = None;
        self.unnamed_now = None;
        self.must_fail = None;
        self.is_copying_in = false;
        self.passing = None;
        self.status = IDLE;
        self.cycles_done = self.cycles_asked;
        owed
    }

    /// This session's named statements, which another server gets too. Not copied: many sessions may ask at once.
    pub(crate) fn statements(&self) -> Arc<Kept> {
        Arc::clone(&self.statements)
    }

    /// A message of the client goes to the server. `message` is all of it, or its head when it streams
    /// (`is_whole`); the rest then comes through [`Tracker::sent_more`].
    pub(crate) fn sent(&mut self, kind: u8, message: &[u8], is_whole: bool, now: Instant) {
        let body = message.get(HEADER..).unwrap_or_default();
        if !is_whole {
            self.passing = Some(Passing::Other);
        }
        if self.is_skipping && kind != b'S' {
            return;
        }
        match kind {
            b'Q' => {
                self.ask_query(now);
                self.look(body, is_whole, Text::Query);
            }
            b'P' => self.parse(body, is_whole),
            b'C' => {
                self.is_batch_open = true;
                let name = body.strip_prefix(b"S").and_then(split_string).map(|(name, _)| Name::new(name));
                let effect = name.map_or(Effect::Nothing, |name| Effect::Forget { name });
                self.await_answer(effect, Answer::Forward, None);
            }
            b'E' => {
                self.is_batch_open = true;
                // Of which statement is in the Bind, maybe long ago: any of them.
                self.tie(self.executed());
                self.batch.ends |= self.batch.binds == 0 && self.portals_end;
            }
            b'B' => {
                self.is_batch_open = true;
                self.bound(body);
            }
            b'D' | b'H' => self.is_batch_open = true,
            // A server that copies ignores Sync (`CopyGetData`).
            b'S' if self.is_copying_in => {}
            b'S' => {
                self.is_batch_open = false;
                self.is_skipping = false;
                self.ask(Asked::Sync, now);
            }
            b'F' => {
                self.ties.add(Ties::UNKNOWN);
                self.ask(Asked::Call, now);
            }
            b'c' | b'f' if self.is_copying_in => self.is_copying_in = false,
            b'c' | b'f' if !self.asked.is_empty() => {
                self.asked.push_back(Cycle { asked: Asked::CopyEnd, since: now, doing: Doing::default() });
            }
            b'c' | b'f' | b'd' | b'X' => {}
            _ => self.ties.add(Ties::UNKNOWN),
        }
    }

    /// More of a message that streams; `is_last` ends it.
    pub(crate) fn sent_more(&mut self, bytes: &[u8], is_last: bool) {
        if let Some(Passing::Text { glance, .. }) = &mut self.passing {
            glance.feed(bytes);
        }
        if is_last && let Some(Passing::Text { glance, text }) = self.passing.take() {
            self.seen(glance.finish(), text);
        }
    }

    /// A text was looked at to its end.
    fn seen(&mut self, mut seen: Ties, text: Text) {
        if seen.has(Ties::NAMES) {
            seen.add(self.executed());
        }
        match text {
            Text::Query => {
                if let Some(Cycle { doing, .. }) = self.asked.back_mut() {
                    doing.ends |= seen.has(Ties::ENDS);
                    doing.opens |= seen.has(Ties::OPENS);
                    doing.rereads |= seen.has(Ties::REREADS);
                    doing.goes_on |= seen.has(Ties::GOES_ON);
                    doing.leaves = belief::leaves(seen);
                }
            }
            Text::Named => self.changers.add(seen.among(Ties::REPEATED)),
            Text::Unnamed { is_first: true } => self.unnamed_seen = seen,
            Text::Unnamed { is_first: false } => self.unnamed_seen.add(seen),
        }
        if matches!(text, Text::Unnamed { .. }) {
            self.unnamed_asks = false;
            self.unnamed_now = Some(seen);
            self.unnamed_leaves = belief::leaves(seen);
        }
        self.tie(seen);
    }

    /// A text that is all there may ask for the number of its transaction.
    fn seen_whole(&mut self, seen: Ties, text: Text, sql: &[u8]) {
        self.seen(seen, text);
        if let (Text::Query, Some(Cycle { doing, .. })) = (text, self.asked.back_mut()) {
            let sql = sql.trim_ascii();
            doing.binds = if sql.strip_suffix(b";").unwrap_or(sql).contains(&b';') { 2 } else { 1 };
        }
        match text {
            Text::Query => {
                self.note_begin(sql);
                self.note_position(seen, sql);
            }
            Text::Unnamed { .. } => self.unnamed_position = position_of(seen, sql),
            Text::Named => {}
        }
        if seen.has(Ties::XID) && xid::asks(sql) {
            match text {
                Text::Query => {
                    if let Some(cycle) = self.asked.back_mut() {
                        cycle.doing.asks_xid = true;
                    }
                }
                Text::Unnamed { is_first } => self.unnamed_asks = is_first,
                Text::Named => {}
            }
        }
    }

    /// A Bind: what its statement does when it is executed. Of one that is not known, everything.
    fn bound(&mut self, body: &[u8]) {
        let name = split_string(body).and_then(|(_, rest)| Some(split_string(rest)?.0));
        let (seen, asks_xid, leaves) = match name {
            Some([]) => (Some(self.unnamed_now.unwrap_or(self.unnamed_seen)), self.unnamed_asks, self.unnamed_leaves),
            Some(name) => match self.named(name) {
                Named::Statement(statement) => {
                    let seen = statement.seen;
                    (Some(seen), seen.has(Ties::XID) && xid::asks(statement.text()), belief::leaves(seen))
                }
                Named::Absent | Named::Undecided => (None, false, None),
            },
            None => (None, false, None),
        };
        self.bound_position(name);
        let ends = seen.is_none_or(|seen| seen.has(Ties::ENDS));
        self.portals_end |= ends;
        let batch = &mut self.batch;
        batch.goes_on |= batch.ends;
        batch.opens |= batch.binds == 0 && seen.is_some_and(|seen| seen.has(Ties::OPENS));
        batch.ends |= ends;
        batch.rereads |= seen.is_some_and(|seen| seen.has(Ties::REREADS));
        batch.leaves = leaves.or(batch.leaves);
        batch.asks_xid = batch.binds == 0 && asks_xid;
        batch.binds += 1;
    }

    /// What executing any of the prepared statements may do: they were looked at when they were parsed, and settings
    /// may have been read back since.
    fn executed(&self) -> Ties {
        let mut seen = self.changers;
        seen.add(self.unnamed_seen);
        seen
    }

    fn tie(&mut self, seen: Ties) {
        self.has_changed |= seen.has(Ties::CHANGES);
        self.ties.add(seen.only_ties());
    }

    /// The server drops the unnamed statement before it reads the text, if nothing before it fails.
    fn ask_query(&mut self, now: Instant) {
        if self.is_idle() {
            self.unnamed_seen = Ties::NONE;
        }
        self.unnamed = Unnamed::Absent;
        self.ask(Asked::Query, now);
    }

    fn look(&mut self, bytes: &[u8], is_whole: bool, text: Text) {
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
        if is_whole {
            self.seen_whole(Glance::at(bytes), text, bytes);
        } else {
            let mut glance = Glance::new();
            glance.feed(bytes);
            self.passing = Some(Passing::Text { glance: Box::new(glance), text });
        }
    }

    fn parse(&mut self, body: &[u8], is_whole: bool) {
        // While it streams it is `passing` already.
        let is_first = self.status == IDLE && self.asked.is_empty() && !self.is_batch_open && !self.is_copying_in;
        self.is_batch_open = true;
        let Some((name, rest)) = split_string(body) else { return self.ties.add(Ties::UNKNOWN) };
        // Whole: the text ends at its zero byte and parameter types follow. Streaming: types are looked at as
        // if they were text, which may only add ties.
        let text = split_string(rest).map_or(rest, |(text, _)| text);
        let effect = if name.is_empty() || !is_whole {
            self.look(text, is_whole, if name.is_empty() { Text::Unnamed { is_first } } else { Text::Named });
            Effect::Nothing
        } else {
            let seen = Glance::at(text);
            self.seen(seen, Text::Named);
            if self.has_room(name.len() + rest.len()) {
                Effect::Keep { name: Name::new(name), statement: statements::intern(rest, seen) }
            } else {
                self.ties.add(Ties::TOO_MUCH);
                Effect::Forget { name: Name::new(name) }
            }
        };
        if !name.is_empty() && !is_whole {
            self.ties.add(Ties::TOO_MUCH);
        }
        self.await_answer(effect, Answer::Forward, None);
    }

    /// A cycle of the router's own goes to the server.
    pub(crate) fn sent_ours(&mut self, now: Instant) {
        self.ask(Asked::Ours, now);
    }

    fn ask(&mut self, asked: Asked, now: Instant) {
        self.cycles_asked += 1;
        let doing = if asked == Asked::Sync { std::mem::take(&mut self.batch) } else { Doing::default() };
        if asked != Asked::Ours {
            self.unnamed_now = None;
        }
        self.asked.push_back(Cycle { asked, since: now, doing });
    }

    /// A message of the server goes to the client.
    pub(crate) fn received(&mut self, kind: u8, body: &[u8], now: Instant) -> Received {
        if self.is_first(Asked::Ours) {
            return self.received_ours(kind, body);
        }
        match kind {
            b'Z' => return self.ready(body, now),
            b'E' => {
                self.is_copying_in = false;
                self.refused();
                return Received::Error;
            }
            b'D' if self.asked.front().is_some_and(|cycle| cycle.doing.asks_xid) => self.xid = xid::value(body),
            b'S' => return Received::Parameter,
            b'1' | b'3' => return self.confirmed(),
            // It has begun there.
            b'C' if self.begin.is_some() => self.begin = None,
            b'G' => self.copy_in(),
            b'C' if body.starts_with(b"DISCARD ALL") => {
                self.discarded();
                return Received::Dropped;
            }
            b'C' if body.starts_with(b"DEALLOCATE ALL") => {
                self.deallocated(true);
                return Received::Dropped;
            }
            b'C' if body.starts_with(b"DEALLOCATE") => self.deallocated(false),
            _ => {}
        }
        Received::Nothing
    }

    fn ready(&mut self, body: &[u8], now: Instant) -> Received {
        self.status = body.first().copied().unwrap_or(IDLE);
        self.is_copying_in = false;
        self.is_skipping = false;
        self.begin = None;
        if self.status == IDLE {
            self.xid = None;
        }
        let mut took = None;
        while let Some(Cycle { asked, since, doing }) = self.asked.pop_front() {
            if doing.ends {
                // `COMMIT AND CHAIN` leaves the status as it was, in a transaction of another number.
                self.xid = None;
            }
            if asked != Asked::CopyEnd {
                took = Some(now.saturating_duration_since(since));
                self.cycles_done += 1;
                break;
            }
        }
        if self.status == IDLE && self.asked.is_empty() && !self.is_batch_open {
            self.portals_end = false;
        }
        self.answered();
        Received::Ready { took }
    }

    fn is_first(&self, asked: Asked) -> bool {
        self.asked.front().is_some_and(|cycle| cycle.asked == asked)
    }

    fn received_ours(&mut self, kind: u8, body: &[u8]) -> Received {
        match kind {
            // Told to the client at any time.
            b'S' => return Received::Parameter,
            b'N' | b'A' => return Received::Nothing,
            b'Z' => {
                self.asked.pop_front();
                self.cycles_done += 1;
                self.answered();
                let status = body.first().copied().unwrap_or(IDLE);
                // One of the router's own that follows says what the client is in.
                if !self.asked.iter().any(|cycle| cycle.asked == Asked::Ours) {
                    self.status = status;
                }
                if self.must_fail == Some(self.cycles_done) {
                    self.must_fail = None;
                    if status != FAILED {
                        return Received::NotFailed;
                    }
                }
            }
            _ => {}
        }
        Received::Ours
    }

    /// The server copies in: a Sync that it was sent for this batch is ignored, up to the end of the data.
    fn copy_in(&mut self) {
        self.is_copying_in = true;
        let mut at = usize::from(self.is_first(Asked::Query));
        while let Some(Cycle { asked, doing, .. }) = self.asked.get(at).copied() {
            match asked {
                Asked::Sync => {
                    self.asked.remove(at);
                    self.cycles_done += 1;
                    self.is_batch_open = true;
                    self.batch.ends |= doing.ends;
                    self.batch.goes_on |= doing.goes_on;
                    self.batch.rereads |= doing.rereads;
                    self.batch.leaves = doing.leaves.or(self.batch.leaves);
                }
                Asked::CopyEnd => {
                    self.asked.remove(at);
                    self.is_copying_in = false;
                    break;
                }
                Asked::Query | Asked::Call | Asked::Ours => at += 1,
            }
        }
    }
}

mod awaited;
mod belief;
mod names;
mod reads;
#[cfg(test)]
mod tests;

use awaited::Awaited;
pub(crate) use awaited::{Answer, Effect};
pub(crate) use belief::{Owed, leaves, lost_status};
use reads::position_of;
