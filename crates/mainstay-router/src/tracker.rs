//! What a session is in the middle of, learned from the messages that pass: the facts that decide its fate when its
//! server goes away.
//!
//! Pure. Where it does not know, it says the careful thing: in flight, or tied to its server.
//! **Source**: PostgreSQL manual, "Message Flow"; `src/backend/tcop/postgres.c`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::frame::{HEADER, split_string};
use crate::glance::{Glance, Ties};

/// Most named statements that are kept to be prepared again. Drivers cache 100 (sqlx) to 256 (pgJDBC).
const MAX_STATEMENTS: usize = 1_000;

/// Most bytes of them in one session.
const MAX_STATEMENT_BYTES: usize = 1024 * 1024;

/// Transaction status in ReadyForQuery.
pub(crate) const IDLE: u8 = b'I';

/// What a ReadyForQuery will answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Query,
    Sync,
    Call,
    /// CopyDone or CopyFail, sent before the server said that it copies: answers nothing, but ends the copying.
    CopyEnd,
}

/// What a ParseComplete or CloseComplete will confirm.
#[derive(Debug)]
enum Awaited {
    Parse { cycle: u64, statement: Option<(Vec<u8>, Arc<[u8]>)> },
    Close { cycle: u64, name: Option<Vec<u8>> },
}

/// A message that streams through.
#[derive(Debug)]
enum Passing {
    Text(Box<Glance>),
    Other,
}

/// What becomes of a session that loses its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing is lost: another server can take over.
    Carry,
    /// Nothing is in flight, but the old server took something with it.
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
}

/// One session's state.
#[derive(Debug)]
pub(crate) struct Tracker {
    status: u8,
    asked: VecDeque<(Asked, Instant)>,
    /// Extended-protocol messages went out and no Sync yet.
    is_batch_open: bool,
    is_copying_in: bool,
    ties: Ties,
    statements: BTreeMap<Vec<u8>, Arc<[u8]>>,
    statement_bytes: usize,
    awaited: VecDeque<Awaited>,
    /// Cycles asked for and answered.
    cycles_asked: u64,
    cycles_done: u64,
    passing: Option<Passing>,
}

/// What is still owed to the client when something in flight was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owed {
    /// ReadyForQuery messages that the client waits for.
    pub(crate) cycles: usize,
    /// A batch without Sync: everything up to the client's Sync is void.
    pub(crate) is_batch_open: bool,
}

impl Tracker {
    pub(crate) fn new() -> Self {
        Self {
            status: IDLE,
            asked: VecDeque::new(),
            is_batch_open: false,
            is_copying_in: false,
            ties: Ties::NONE,
            statements: BTreeMap::new(),
            statement_bytes: 0,
            awaited: VecDeque::new(),
            cycles_asked: 0,
            cycles_done: 0,
            passing: None,
        }
    }

    /// Nothing was sent that is not answered.
    pub(crate) fn is_quiet(&self) -> bool {
        self.asked.is_empty() && !self.is_batch_open && !self.is_copying_in && self.passing.is_none()
    }

    /// Quiet, and outside a transaction.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_quiet() && self.status == IDLE
    }

    /// What the client sends next continues something begun.
    pub(crate) fn is_within(&self) -> bool {
        self.status != IDLE || self.is_batch_open || self.is_copying_in || self.passing.is_some()
    }

    pub(crate) fn fate(&self) -> Fate {
        let is_free = self.status == IDLE && self.ties.is_empty();
        match (self.is_quiet(), is_free) {
            (true, true) => Fate::Carry,
            (true, false) if self.status != IDLE => Fate::End { reason: "an open transaction" },
            (true, false) => Fate::End { reason: self.ties.reason() },
            (false, true) => Fate::Unknown,
            (false, false) => Fate::UnknownAndEnd,
        }
    }

    /// Forgets what was in flight on a lost server, and says what the client waits for.
    pub(crate) fn lose(&mut self) -> Owed {
        let cycles = self.asked.iter().filter(|(asked, _)| *asked != Asked::CopyEnd).count();
        let owed = Owed { cycles, is_batch_open: self.is_batch_open };
        self.asked.clear();
        self.awaited.clear();
        self.is_batch_open = false;
        self.is_copying_in = false;
        self.passing = None;
        self.status = IDLE;
        self.cycles_done = self.cycles_asked;
        owed
    }

    /// The Parse messages that make this session's named statements on another server.
    pub(crate) fn statements(&self) -> Vec<Arc<[u8]>> {
        self.statements.values().cloned().collect()
    }

    /// A message of the client goes to the server. `message` is all of it, or its head when it streams
    /// (`is_whole`); the rest then comes through [`Tracker::sent_more`].
    pub(crate) fn sent(&mut self, kind: u8, message: &[u8], is_whole: bool, now: Instant) {
        let body = message.get(HEADER..).unwrap_or_default();
        if !is_whole {
            self.passing = Some(Passing::Other);
        }
        match kind {
            b'Q' => {
                self.ask(Asked::Query, now);
                self.look(body, is_whole);
            }
            b'P' => {
                self.is_batch_open = true;
                self.parse(message, body, is_whole);
            }
            b'C' => {
                self.is_batch_open = true;
                let name = body.strip_prefix(b"S").and_then(split_string).map(|(name, _)| name.to_vec());
                self.awaited.push_back(Awaited::Close { cycle: self.cycles_asked, name });
            }
            b'B' | b'E' | b'D' | b'H' => self.is_batch_open = true,
            // A server that copies ignores Sync (`CopyGetData`).
            b'S' if self.is_copying_in => {}
            b'S' => {
                self.is_batch_open = false;
                self.ask(Asked::Sync, now);
            }
            b'F' => {
                self.ties.add(Ties::UNKNOWN);
                self.ask(Asked::Call, now);
            }
            b'c' | b'f' if self.is_copying_in => self.is_copying_in = false,
            b'c' | b'f' if !self.asked.is_empty() => self.asked.push_back((Asked::CopyEnd, now)),
            b'c' | b'f' | b'd' | b'X' => {}
            _ => self.ties.add(Ties::UNKNOWN),
        }
    }

    /// More of a message that streams; `is_last` ends it.
    pub(crate) fn sent_more(&mut self, bytes: &[u8], is_last: bool) {
        if let Some(Passing::Text(glance)) = &mut self.passing {
            glance.feed(bytes);
        }
        if is_last && let Some(Passing::Text(glance)) = self.passing.take() {
            self.ties.add(glance.finish());
        }
    }

    fn look(&mut self, text: &[u8], is_whole: bool) {
        let mut glance = Glance::new();
        glance.feed(text.strip_suffix(b"\0").unwrap_or(text));
        if is_whole {
            self.ties.add(glance.finish());
        } else {
            self.passing = Some(Passing::Text(Box::new(glance)));
        }
    }

    fn parse(&mut self, message: &[u8], body: &[u8], is_whole: bool) {
        let Some((name, rest)) = split_string(body) else { return self.ties.add(Ties::UNKNOWN) };
        // Whole: the text ends at its zero byte and parameter types follow. Streaming: types are looked at as
        // if they were text, which may only add ties.
        let text = split_string(rest).map_or(rest, |(text, _)| text);
        self.look(text, is_whole);
        let statement = (!name.is_empty() && is_whole).then(|| (name.to_vec(), Arc::from(message)));
        if !name.is_empty() && !is_whole {
            self.ties.add(Ties::TOO_MUCH);
        }
        self.awaited.push_back(Awaited::Parse { cycle: self.cycles_asked, statement });
    }

    fn ask(&mut self, asked: Asked, now: Instant) {
        self.cycles_asked += 1;
        self.asked.push_back((asked, now));
    }

    /// A message of the server goes to the client.
    pub(crate) fn received(&mut self, kind: u8, body: &[u8], now: Instant) -> Received {
        match kind {
            b'Z' => return self.ready(body, now),
            b'E' => {
                self.is_copying_in = false;
                return Received::Error;
            }
            b'S' => return Received::Parameter,
            b'1' | b'3' => self.confirmed(),
            b'G' => self.copy_in(),
            b'C' if body.starts_with(b"DISCARD ALL") => self.discarded(),
            b'C' if body.starts_with(b"DEALLOCATE") => self.deallocated(body.starts_with(b"DEALLOCATE ALL")),
            _ => {}
        }
        Received::Nothing
    }

    fn ready(&mut self, body: &[u8], now: Instant) -> Received {
        self.status = body.first().copied().unwrap_or(IDLE);
        self.is_copying_in = false;
        let mut took = None;
        while let Some((asked, since)) = self.asked.pop_front() {
            if asked != Asked::CopyEnd {
                took = Some(now.saturating_duration_since(since));
                self.cycles_done += 1;
                break;
            }
        }
        let done = self.cycles_done;
        self.awaited.retain(|awaited| match awaited {
            Awaited::Parse { cycle, .. } | Awaited::Close { cycle, .. } => *cycle >= done,
        });
        Received::Ready { took }
    }

    fn confirmed(&mut self) {
        match self.awaited.pop_front() {
            Some(Awaited::Parse { statement: Some((name, message)), .. }) => self.keep(name, message),
            Some(Awaited::Close { name: Some(name), .. }) => self.forget(&name),
            Some(Awaited::Parse { .. } | Awaited::Close { .. }) | None => {}
        }
    }

    fn keep(&mut self, name: Vec<u8>, message: Arc<[u8]>) {
        self.forget(&name);
        if self.statements.len() == MAX_STATEMENTS || self.statement_bytes + message.len() > MAX_STATEMENT_BYTES {
            self.ties.add(Ties::TOO_MUCH);
            return;
        }
        self.statement_bytes += message.len();
        self.statements.insert(name, message);
    }

    fn forget(&mut self, name: &[u8]) {
        if let Some(message) = self.statements.remove(name) {
            self.statement_bytes -= message.len();
        }
    }

    /// The server copies in: a Sync that it was sent for this batch is ignored, up to the end of the data.
    fn copy_in(&mut self) {
        self.is_copying_in = true;
        let mut at = usize::from(matches!(self.asked.front(), Some((Asked::Query, _))));
        while let Some((asked, _)) = self.asked.get(at).copied() {
            match asked {
                Asked::Sync => {
                    self.asked.remove(at);
                    self.cycles_done += 1;
                    self.is_batch_open = true;
                }
                Asked::CopyEnd => {
                    self.asked.remove(at);
                    self.is_copying_in = false;
                    break;
                }
                Asked::Query | Asked::Call => at += 1,
            }
        }
    }

    fn discarded(&mut self) {
        self.statements.clear();
        self.statement_bytes = 0;
        // What was sent behind it may have made new ties already.
        if self.asked.len() <= 1 && !self.is_batch_open {
            self.ties = Ties::NONE;
        }
    }

    fn deallocated(&mut self, is_all: bool) {
        if is_all {
            self.statements.clear();
            self.statement_bytes = 0;
        } else if !self.statements.is_empty() {
            // Which one is in the statement's text, or in the text of a prepared one: not worth following.
            self.ties.add(Ties::PREPARED);
        }
    }
}

#[cfg(test)]
mod tests;
