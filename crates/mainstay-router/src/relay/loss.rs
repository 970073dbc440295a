//! What a client is told when its server is lost: of statements in flight, of an open transaction, and of what it
//! sent meanwhile.
//!
//! Never says of anything that it did not happen unless that is certain, and repeats nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Relay, consume};
use crate::frame::{HEADER, Malformed, peek, split_string};
use crate::glance::Glance;
use crate::link::Link;
use crate::message::{self, Severity, sqlstate};
use crate::statements::Statement;
use crate::tracker::{FAILED, Fate, IDLE, Named, leaves, lost_status};

/// Brings a server to where the client is: in a transaction that has failed. The name is for the server's log.
const FAIL: &str = "BEGIN; ROLLBACK TO SAVEPOINT \"of a transaction that was lost with the former server\"";

/// What the client sent for a server that is lost: answered, not executed.
#[derive(Debug, Default)]
pub(super) struct Void {
    /// Of the message that was going through.
    message: usize,
    /// Everything up to a Sync.
    until_sync: bool,
    /// What was in the inbox when the server was lost.
    bytes: usize,
    /// What the names of statements mean to the client that no server has confirmed.
    meant: BTreeMap<Vec<u8>, Option<bool>>,
}

/// Most of these: a batch that begins or ends transactions under more names is taken for one that leaves one open.
const MAX_MEANT: usize = 64;

impl Void {
    pub(super) fn is_empty(&self) -> bool {
        self.message == 0 && !self.until_sync && self.bytes == 0
    }
}

/// What became of a transaction whose COMMIT was in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    NotCommitted,
    Unknown,
}

/// How a statement ends a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Commit,
    Rollback,
    No,
}

impl Ending {
    /// Of the first statement in a text.
    fn of(text: &[u8]) -> Self {
        let first = text.split(|byte| *byte == b';').next().unwrap_or_default();
        let mut words = first.split(|byte| !byte.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let begin = words.next().unwrap_or_default().to_ascii_lowercase();
        // Of a savepoint, or of a transaction that is none of this session's.
        let is_other = words.any(|word| word.eq_ignore_ascii_case(b"to") || word.eq_ignore_ascii_case(b"prepared"));
        match begin.as_slice() {
            b"commit" | b"end" if !is_other => Self::Commit,
            b"rollback" | b"abort" if !is_other => Self::Rollback,
            _ => Self::No,
        }
    }
}

impl Relay {
    /// The server is lost. Says what becomes of the session; `None` when the client cannot be told any more,
    /// because it has half of a message.
    pub(crate) fn lose(&mut self) -> Option<Fate> {
        if self.streaming_down > 0 {
            return None;
        }
        let fate = self.tracker.fate();
        self.tail.clear();
        self.outbox.clear();
        let message = std::mem::take(&mut self.streaming_up);
        match fate {
            Fate::Carry => {
                // Nothing of the client's is in flight; the router's own never is answered. A BEGIN alone has done
                // nothing: it goes to the next server as if it had not been sent.
                let begin = self.tracker.take_begin();
                self.tracker.lose();
                if let Some(mut begin) = begin {
                    begin.append(&mut self.inbox);
                    self.inbox = begin;
                }
            }
            Fate::End { .. } => {}
            Fate::Abort => {
                let is_awaited = self.tracker.awaits_answer();
                self.is_untold |= !is_awaited && self.tracker.is_in_transaction();
                self.is_unknown = false;
                // What is in the inbox goes to the next server, whose transaction has failed too.
                self.leave_lost(message);
                if is_awaited {
                    self.transaction_lost();
                }
            }
            Fate::Unknown | Fate::UnknownAndEnd => {
                self.unresolved = self.tracker.xid();
                self.goes_on = self.tracker.goes_on();
                self.is_unknown = true;
                self.leave_lost(message);
                if self.unresolved.is_none() {
                    self.unknown(if fate == Fate::Unknown { Severity::Error } else { Severity::Fatal }, "");
                }
            }
        }
        Some(fate)
    }

    /// The client is where it takes itself to be: in a transaction that has failed, if in one. What it has sent ahead,
    /// and what it will before it has read that, was meant for that place.
    fn leave_lost(&mut self, message: usize) {
        let meant = self.tracker.meant();
        self.owed = self.tracker.lose();
        self.after = self.owed.after;
        // A failed transaction's server refuses what was pipelined behind it; outside of one it is refused here, as far
        // as it has come.
        let bytes = if self.after == IDLE { self.inbox.len() } else { 0 };
        self.void = Void { message, until_sync: self.owed.is_batch_open, bytes, meant };
        self.tracker.now(self.after);
    }

    /// What a server has sent that nobody has looked at.
    pub(crate) fn take_leftover(&mut self, link: &mut Link) {
        self.tail.append(&mut link.leftover);
    }

    /// A new server takes over: the client gets what it still waits for.
    pub(crate) fn resume(&mut self, link: &mut Link) {
        self.tail = std::mem::take(&mut link.leftover);
        if self.tracker.is_failed() {
            self.fail(link);
        }
        let owed = std::mem::take(&mut self.owed);
        for (cycle, status) in owed.cycles.iter().enumerate() {
            if cycle > 0 {
                self.lost_too();
            }
            message::ready(&mut self.to_client, *status);
        }
        if owed.is_batch_open && !owed.cycles.is_empty() {
            self.lost_too();
        }
    }

    /// Brings the server into a transaction that has failed.
    fn fail(&mut self, link: &mut Link) {
        // A simple query drops the unnamed statement.
        link.side.unnamed = None;
        message::query(&mut self.outbox, FAIL);
        self.tracker.sent_failing(Instant::now());
        self.tracker.now(FAILED);
    }

    /// Answers what was meant for a lost server, and leaves the next one where the client takes itself to be.
    pub(super) fn void(&mut self, link: &mut Link) -> Result<(), Malformed> {
        self.answer_void()?;
        if self.void.is_empty() {
            match (self.after == FAILED, self.tracker.is_failed()) {
                (true, false) => self.fail(link),
                (false, true) => self.roll_back(),
                (true, true) | (false, false) => {}
            }
        }
        Ok(())
    }

    /// Brings the server out of a transaction that has failed.
    fn roll_back(&mut self) {
        message::query(&mut self.outbox, "ROLLBACK");
        self.tracker.sent_ours(Instant::now());
        self.tracker.now(IDLE);
    }

    /// The number of the transaction whose outcome is to be found out before anything else is said.
    pub(crate) fn unresolved(&self) -> Option<u64> {
        self.unresolved
    }

    /// What came out.
    pub(crate) fn resolved(&mut self, outcome: Outcome, severity: Severity) {
        let Some(xid) = self.unresolved.take() else { return };
        let rest = if self.goes_on { "; of what was sent behind its end nothing is known" } else { "" };
        let detail = match outcome {
            Outcome::Committed => format!("transaction {xid} was committed; do not repeat it{rest}"),
            Outcome::NotCommitted => format!("transaction {xid} was not committed; it may be repeated{rest}"),
            Outcome::Unknown => format!("whether transaction {xid} was committed could not be found out"),
        };
        self.unknown(severity, &detail);
        self.count_knowing();
    }

    fn unknown(&mut self, severity: Severity, detail: &str) {
        let code = sqlstate::TRANSACTION_RESOLUTION_UNKNOWN;
        let text = "the database server was lost while this statement was in flight; whether it took effect is \
                    unknown, and it was not repeated";
        message::error_with_detail(&mut self.to_client, severity, code, text, detail);
        self.shared.counters(self.door).error(code, true);
    }

    fn transaction_lost(&mut self) {
        self.is_untold = false;
        self.error(
            Severity::Error,
            sqlstate::SERIALIZATION_FAILURE,
            "the database server was lost in this transaction; nothing of it was committed, it may be repeated",
        );
    }

    /// For what was in flight behind the first.
    fn lost_too(&mut self) {
        if self.is_unknown { self.unknown(Severity::Error, "") } else { self.transaction_lost() }
    }

    /// Tells a client whose transaction was lost while it said nothing, once it says something.
    pub(super) fn tell(&mut self) -> Result<bool, Malformed> {
        let Some(frame) = peek(&self.inbox)?.filter(|_| self.is_untold && self.void.is_empty()) else {
            return Ok(false);
        };
        if frame.len > self.inbox.len() && frame.is_small() {
            return Ok(false);
        }
        let body = &self.inbox[HEADER..frame.len.min(self.inbox.len())];
        let of = |text: &[u8]| (Ending::of(text), leaves(Glance::at(text)));
        let (ending, left) = match frame.kind {
            b'Q' => of(body),
            b'P' => {
                let text = split_string(body).map_or(body, |(_, rest)| rest);
                of(split_string(text).map_or(text, |(text, _)| text))
            }
            b'B' => self.bound_text(body).map_or((Ending::No, None), |statement| of(statement.text())),
            b'D' | b'E' | b'F' => (Ending::No, None),
            // Goes to the server, alone.
            _ => return Ok(false),
        };
        if ending == Ending::Rollback {
            self.is_untold = false;
            return Ok(false);
        }
        self.transaction_lost();
        self.after = FAILED;
        if ending == Ending::Commit && left != Some(true) {
            // An error of COMMIT ends the transaction, in PostgreSQL too. But with `commit; begin` the client takes
            // itself to be in the next one, of which nothing may take effect by itself.
            self.after = IDLE;
            self.roll_back();
        }
        let is_simple = matches!(frame.kind, b'Q' | b'F');
        if is_simple {
            message::ready(&mut self.to_client, self.after);
        }
        self.void = Void { message: frame.len, until_sync: !is_simple, ..Void::default() };
        Ok(true)
    }

    /// What a Bind would execute.
    fn bound_text(&self, body: &[u8]) -> Option<Arc<Statement>> {
        match self.tracker.named(bound_name(body)) {
            Named::Statement(statement) => Some(statement),
            Named::Absent | Named::Undecided => None,
        }
    }

    /// What the client takes to be done by a message that is not done.
    fn believe(&mut self, kind: u8, length: usize) {
        let body = &self.inbox[HEADER..length.min(self.inbox.len())];
        let left = match kind {
            b'Q' => leaves(Glance::at(body)),
            b'P' => self.believe_parse(length),
            b'B' => {
                let name = bound_name(body);
                match (self.void.meant.get(name), self.tracker.named(name)) {
                    (Some(meant), _) => *meant,
                    (None, Named::Statement(statement)) => leaves(statement.seen),
                    (None, Named::Absent | Named::Undecided) => None,
                }
            }
            _ => None,
        };
        self.after = lost_status(self.after, left);
    }

    fn believe_parse(&mut self, length: usize) -> Option<bool> {
        let body = &self.inbox[HEADER..length.min(self.inbox.len())];
        let (name, rest) = split_string(body)?;
        let left = leaves(Glance::at(split_string(rest).map_or(rest, |(text, _)| text)));
        let was = match self.tracker.named(name) {
            Named::Statement(statement) => leaves(statement.seen),
            Named::Absent | Named::Undecided => None,
        };
        let meant = &mut self.void.meant;
        if name.is_empty() || left.is_some() || was.is_some() || meant.contains_key(name) {
            if meant.len() >= MAX_MEANT {
                return Some(true);
            }
            meant.insert(name.to_vec(), left);
        }
        None
    }

    /// Answers what was meant for a lost server.
    fn answer_void(&mut self) -> Result<(), Malformed> {
        loop {
            if self.void.message > 0 {
                let count = self.void.message.min(self.inbox.len());
                self.drop_void(count);
                self.void.message -= count;
                if self.void.message > 0 {
                    return Ok(());
                }
            }
            if !self.void.until_sync && self.void.bytes == 0 {
                return Ok(());
            }
            let Some(frame) = peek(&self.inbox)? else { return Ok(()) };
            if frame.len > self.inbox.len() && frame.is_small() {
                return Ok(());
            }
            self.believe(frame.kind, frame.len);
            match (self.void.until_sync, frame.kind) {
                (_, b'X') => {
                    self.void = Void::default();
                    return Ok(());
                }
                (true, b'S') => {
                    self.void.until_sync = false;
                    message::ready(&mut self.to_client, self.after);
                }
                (false, b'S') => message::ready(&mut self.to_client, self.after),
                (false, b'Q' | b'F') => {
                    self.not_begun();
                    message::ready(&mut self.to_client, self.after);
                }
                (false, b'P' | b'B' | b'E' | b'D' | b'C' | b'H') => {
                    self.not_begun();
                    self.void.until_sync = true;
                }
                _ => {}
            }
            self.void.message = frame.len;
        }
    }

    fn drop_void(&mut self, count: usize) {
        self.void.bytes = self.void.bytes.saturating_sub(count);
        consume(&mut self.inbox, count);
    }

    /// For what the client sent right behind a statement that was lost: it may depend on it, so it is not executed.
    fn not_begun(&mut self) {
        self.error(
            Severity::Error,
            sqlstate::SERIALIZATION_FAILURE,
            "an earlier statement was lost with the database server; this one was not begun and may be repeated",
        );
    }
}

/// The statement in a Bind.
fn bound_name(body: &[u8]) -> &[u8] {
    split_string(body).and_then(|(_, rest)| Some(split_string(rest)?.0)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_statement_says_how_a_transaction_ends() {
        for (text, ending) in [
            ("COMMIT", Ending::Commit),
            (" end work ;", Ending::Commit),
            ("commit; select 1", Ending::Commit),
            ("rollback and chain", Ending::Rollback),
            ("ABORT", Ending::Rollback),
            ("rollback to savepoint a", Ending::No),
            ("commit prepared 'x'", Ending::No),
            ("select 1; commit", Ending::No),
            ("", Ending::No),
        ] {
            assert_eq!(Ending::of(text.as_bytes()), ending, "{text}");
        }
    }
}
