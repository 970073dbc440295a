//! Messages of a client to a server that it shares with others: the same messages, with other names of prepared
//! statements, and with what this server has to be told first.
//!
//! Answers keep their order by a trick: what this server need not do again is sent as the Close of a statement that
//! nobody has, whose answer comes at the right place and goes on as the answer that the client waits for.

use std::sync::Arc;
use std::time::Instant;

use super::{HIGH_WATER, Relay, consume};
use crate::frame::{Frame, HEADER, peek, split_string};
use crate::glance::{Glance, Ties};
use crate::link::Link;
use crate::message;
use crate::statements::{self, NOBODY, Name, Need, PREFIX, Statement, close};
use crate::tracker::{Answer, Effect, Named};

/// Names in a message that streams are waited for up to here. Drivers use some ten bytes.
const MAX_NAMES: usize = 8 * 1024;

/// A message of the client, or its head when it streams.
struct Part<'a> {
    frame: Frame,
    bytes: &'a [u8],
    is_whole: bool,
    now: Instant,
}

impl Part<'_> {
    fn body(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }
}

/// Whether a message went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Staged {
    Done,
    /// Something before it is to be answered first, or more of it is to come.
    Wait,
}

/// What a name is on this server.
enum Resolved {
    Wait,
    Same,
    Other(Vec<u8>),
}

impl Relay {
    /// Moves messages from the first `end` bytes of the inbox to the outbox. Gives whether any did.
    pub(super) fn stage(&mut self, link: &mut Link, end: usize) -> bool {
        let now = Instant::now();
        let inbox = std::mem::take(&mut self.inbox);
        let mut at = 0;
        while at < end && self.outbox.len() < HIGH_WATER {
            // `sendable` has read these heads already.
            let Ok(Some(frame)) = peek(&inbox[at..end]) else { break };
            let is_whole = at + frame.len <= end;
            let next = if is_whole { at + frame.len } else { end };
            let part = Part { frame, bytes: &inbox[at..next], is_whole, now };
            if self.stage_one(link, &part) == Staged::Wait {
                break;
            }
            if !is_whole {
                self.streaming_up = frame.len - (end - at);
            }
            at = next;
        }
        self.inbox = inbox;
        consume(&mut self.inbox, at);
        at > 0
    }

    fn stage_one(&mut self, link: &mut Link, part: &Part<'_>) -> Staged {
        if self.tracker.is_skipping() && part.frame.kind != b'S' {
            // The server passes it over, whatever it is.
            return self.pass(part);
        }
        match part.frame.kind {
            b'Q' => self.stage_query(link, part),
            b'P' => self.stage_parse(link, part),
            b'B' => self.stage_bind(link, part),
            b'D' if part.is_whole && part.body().first() == Some(&b'S') => self.stage_describe(link, part),
            b'C' if part.is_whole && part.body().first() == Some(&b'S') => self.stage_close(link, part),
            _ => self.pass(part),
        }
    }

    fn pass(&mut self, part: &Part<'_>) -> Staged {
        self.outbox.extend_from_slice(part.bytes);
        self.tracker.sent(part.frame.kind, part.bytes, part.is_whole, part.now);
        Staged::Done
    }

    fn stage_query(&mut self, link: &mut Link, part: &Part<'_>) -> Staged {
        link.side.unnamed = None;
        if !part.is_whole {
            return self.pass(part);
        }
        let text = part.body().strip_suffix(b"\0").unwrap_or(part.body());
        let seen = Glance::at(text);
        self.forget_sequences(link, seen, part.now);
        if seen.has(Ties::NAMES) {
            let mentioned = self.tracker.mentioned(text);
            // A batch without Sync has no end to wait for.
            if !mentioned.is_empty() && !self.tracker.is_quiet() && !self.tracker.is_batch_open() {
                return Staged::Wait;
            }
            if !mentioned.is_empty() && self.tracker.is_quiet() {
                self.make_own(&mentioned, false);
                message::sync(&mut self.outbox);
                self.tracker.sent_ours(part.now);
            }
        }
        self.outbox.extend_from_slice(part.bytes);
        self.tracker.sent_query(seen, text, part.now);
        Staged::Done
    }

    /// What another client's sequences gave must not be read here: a `currval` without a `nextval` in the same
    /// transaction is the server's error.
    fn forget_sequences(&mut self, link: &mut Link, seen: Ties, now: Instant) {
        if seen.has(Ties::SEQUENCE) && self.tracker.is_idle() && !self.tracker.is_tied() {
            // A simple query drops the unnamed statement.
            link.side.unnamed = None;
            message::query(&mut self.outbox, "discard sequences");
            self.tracker.sent_ours(now);
        }
    }

    /// SQL names prepared statements: this server gets them under the client's names, and the session stays here.
    fn make_own(&mut self, statements: &[(Vec<u8>, Arc<Statement>)], is_in_batch: bool) {
        for (name, statement) in statements {
            close(&mut self.outbox, name);
            statement.parse(&mut self.outbox, name);
            if is_in_batch {
                for _ in 0..2 {
                    self.tracker.sent_parse(Ties::NONE, Effect::Nothing, Answer::Swallow, None);
                }
            }
        }
        self.tracker.made_own();
    }

    fn stage_parse(&mut self, link: &mut Link, part: &Part<'_>) -> Staged {
        let Some((name, rest)) = split_string(part.body()) else { return self.pass_unless_short(part) };
        if !part.is_whole {
            // Too long to be kept: under its own name, and the session stays here.
            self.pass(part);
            if name.is_empty() {
                link.side.unnamed = None;
                self.tracker.sent_long_unnamed();
            }
            return Staged::Done;
        }
        if !name.is_empty() && self.tracker.named(name) == Named::Undecided {
            return Staged::Wait;
        }
        let text = split_string(rest).map_or(rest, |(text, _)| text);
        let seen = Glance::at(text);
        self.forget_sequences(link, seen, part.now);
        if seen.has(Ties::NAMES) {
            let mentioned = self.tracker.mentioned(text);
            if !mentioned.is_empty() {
                self.make_own(&mentioned, true);
            }
        }
        if name.is_empty() {
            let statement = Statement::own(rest, seen);
            link.side.unnamed = Some((Arc::clone(&statement), self.tracker.cycle()));
            self.outbox.extend_from_slice(part.bytes);
            self.tracker.sent_parse(seen, Effect::Unnamed { statement }, Answer::Forward, None);
            return Staged::Done;
        }
        if !self.tracker.has_room(name.len() + rest.len()) {
            self.outbox.extend_from_slice(part.bytes);
            self.tracker.sent_surplus(seen, name);
            return Staged::Done;
        }
        let statement = statements::intern(rest, seen);
        let keep = Effect::Keep { name: Name::new(name), statement: Arc::clone(&statement) };
        match link.side.known.need(statement.number(), self.tracker.cycle()) {
            Need::Wait => return Staged::Wait,
            Need::Nothing => {
                close(&mut self.outbox, NOBODY);
                self.tracker.sent_parse(seen, keep, Answer::AsParse, None);
            }
            Need::Parse { evicted } => {
                self.evict(evicted);
                statement.parse(&mut self.outbox, &statement.name());
                self.tracker.sent_parse(seen, keep, Answer::Forward, Some(statement.number()));
            }
        }
        Staged::Done
    }

    fn evict(&mut self, evicted: Option<Vec<u8>>) {
        if let Some(name) = evicted {
            close(&mut self.outbox, &name);
            self.tracker.sent_parse(Ties::NONE, Effect::Nothing, Answer::Swallow, None);
        }
    }

    /// Its names are not all there: more is to come, or it is no message that a driver sends.
    fn pass_unless_short(&mut self, part: &Part<'_>) -> Staged {
        if part.is_whole || part.bytes.len() > MAX_NAMES { self.pass(part) } else { Staged::Wait }
    }

    fn stage_bind(&mut self, link: &mut Link, part: &Part<'_>) -> Staged {
        let names = split_string(part.body()).and_then(|(portal, rest)| Some((portal, split_string(rest)?)));
        let Some((portal, (name, rest))) = names else { return self.pass_unless_short(part) };
        match self.resolve(link, name) {
            Resolved::Wait => Staged::Wait,
            Resolved::Same => self.pass(part),
            Resolved::Other(other) => {
                let length = part.frame.len - 1 - name.len() + other.len();
                self.outbox.push(b'B');
                self.outbox.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
                message::put_string(&mut self.outbox, portal);
                message::put_string(&mut self.outbox, &other);
                self.outbox.extend_from_slice(rest);
                self.tracker.sent(b'B', part.bytes, part.is_whole, part.now);
                Staged::Done
            }
        }
    }

    fn stage_describe(&mut self, link: &mut Link, part: &Part<'_>) -> Staged {
        let Some((name, _)) = split_string(&part.body()[1..]) else { return self.pass(part) };
        match self.resolve(link, name) {
            Resolved::Wait => Staged::Wait,
            Resolved::Same => self.pass(part),
            Resolved::Other(other) => {
                message::put(&mut self.outbox, b'D', |out| {
                    out.push(b'S');
                    message::put_string(out, &other);
                });
                self.tracker.sent(b'D', part.bytes, true, part.now);
                Staged::Done
            }
        }
    }

    fn stage_close(&mut self, link: &mut Link, part: &Part<'_>) -> Staged {
        let Some((name, _)) = split_string(&part.body()[1..]) else { return self.pass(part) };
        if name.is_empty() {
            link.side.unnamed = None;
            self.outbox.extend_from_slice(part.bytes);
            self.tracker.sent_close(name);
            return Staged::Done;
        }
        match self.tracker.named(name) {
            Named::Undecided => Staged::Wait,
            Named::Absent if !name.starts_with(PREFIX) => self.pass(part),
            Named::Absent | Named::Statement(_) => {
                // Others may use it: it stays on the server.
                close(&mut self.outbox, NOBODY);
                self.tracker.sent_close(name);
                Staged::Done
            }
        }
    }

    /// Makes sure that this server has what the client means by `name`.
    fn resolve(&mut self, link: &mut Link, name: &[u8]) -> Resolved {
        if name.is_empty() {
            return self.resolve_unnamed(link);
        }
        let statement = match self.tracker.named(name) {
            Named::Undecided => return Resolved::Wait,
            // One that another client prepared may be there under that name.
            Named::Absent if name.starts_with(PREFIX) => return Resolved::Other(NOBODY.to_vec()),
            Named::Absent => return Resolved::Same,
            Named::Statement(statement) => statement,
        };
        match link.side.known.need(statement.number(), self.tracker.cycle()) {
            Need::Wait => return Resolved::Wait,
            Need::Nothing => {}
            Need::Parse { evicted } => {
                self.evict(evicted);
                statement.parse(&mut self.outbox, &statement.name());
                self.tracker.sent_parse(Ties::NONE, Effect::Nothing, Answer::Swallow, Some(statement.number()));
            }
        }
        Resolved::Other(statement.name())
    }

    fn resolve_unnamed(&mut self, link: &mut Link) -> Resolved {
        let statement = match self.tracker.unnamed() {
            // Too long to be kept: it is on this server.
            None => return Resolved::Same,
            // Another client's may be there.
            Some(Named::Absent) => return Resolved::Other(NOBODY.to_vec()),
            Some(Named::Undecided) => return Resolved::Wait,
            Some(Named::Statement(statement)) => statement,
        };
        match &link.side.unnamed {
            Some((there, cycle)) if Arc::ptr_eq(there, &statement) => {
                let is_answered = *cycle < self.tracker.done() || *cycle == self.tracker.cycle();
                if is_answered { Resolved::Same } else { Resolved::Wait }
            }
            _ => {
                link.side.unnamed = Some((Arc::clone(&statement), self.tracker.cycle()));
                statement.parse(&mut self.outbox, b"");
                self.tracker.sent_parse(Ties::NONE, Effect::Nothing, Answer::Swallow, None);
                Resolved::Same
            }
        }
    }
}
