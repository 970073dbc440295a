//! The bytes of one session: from the client to its server and back, with what is learned on the way.
//!
//! Forwards without re-encoding. Nothing moves into flight before its first byte is written to a server: what is
//! still in the inbox can go to another one. Never holds more than the bounds below.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use mainstay_types::Lsn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client::Client;
use crate::frame::{Frame, HEADER, Malformed, peek};
use crate::glance::is_readable;
use crate::link::{Link, Parameters, Side, record_parameter};
use crate::message::{self, Failure, Severity, sqlstate};
use crate::pool::{Pool, Tied};
use crate::shared::{Door, Knowing, Shared};
use crate::tracker::{Answer, IDLE, Owed, Received, Tracker};

mod loss;
mod misplaced;
mod rewrite;

pub(crate) use loss::Outcome;
use loss::Void;

/// One read. Sixteen times a socket's usual fill, and shared by all sessions of a thread.
const SCRATCH: usize = 64 * 1024;

/// Once that much waits for one side, the other is not read.
const HIGH_WATER: usize = 64 * 1024;

/// What a held client may send ahead; then it is not read.
const HELD_BYTES: usize = 1024 * 1024;

/// A buffer that emptied keeps no more than this, so that idle sessions are small.
const KEPT: usize = 4 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Why the relay stopped.
#[derive(Debug)]
pub(crate) enum Event {
    /// The client went away, or said that it will.
    ClientGone,
    /// The client sent what is no message.
    ClientMalformed(Malformed),
    /// The server went away.
    ServerLost,
    /// The server ended this session for a reason of the session's own, and the client knows.
    ServerEnded,
    /// What [`Relay::stop`] asked for.
    Stopped,
    /// A client without a server has sent what needs one.
    ClientWants,
    /// The client has sent what this server may not be able to answer yet.
    Behind,
}

/// When to stop by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Never,
    /// When settings have changed that are to be read back, and nothing is under way.
    WhenChanged,
    /// When any server would do for what comes next, and nothing has come or others wait.
    WhenFree,
    /// With nothing in flight and no transaction.
    WhenIdle,
    /// The same, and with nothing that only this server has: it may as well stay.
    WhenLoose,
    /// With nothing in flight.
    WhenQuiet,
}

/// One session's bytes.
pub(crate) struct Relay {
    client: Client,
    /// TLS holds back what the socket did not take.
    is_held_back: bool,
    shared: Arc<Shared>,
    door: Door,
    pub(crate) tracker: Tracker,
    /// From the client, not begun to be sent.
    inbox: Vec<u8>,
    /// To the server, the rest of a message that began to be sent.
    outbox: Vec<u8>,
    /// From the server, an incomplete message.
    tail: Vec<u8>,
    to_client: Vec<u8>,
    client_at: usize,
    /// What is to come of long messages, either way.
    streaming_up: usize,
    streaming_down: usize,
    void: Void,
    owed: Owed,
    /// Where answers to what was lost leave the client.
    after: u8,
    /// Whether what was in flight took effect is unknown.
    is_unknown: bool,
    /// Its transaction was lost, and it does not know yet.
    is_untold: bool,
    /// Whether this transaction was committed is asked of the next server.
    unresolved: Option<u64>,
    /// More than that transaction's end was in flight.
    goes_on: bool,
    /// Counts a session whose transaction's number is known.
    knowing: Option<Knowing>,
    has_ended: bool,
    /// Servers are shared with other clients.
    pool: Option<Arc<Pool>>,
    /// Counts a session that keeps its server.
    tied: Option<Tied>,
    /// New cycles wait; what is begun goes on.
    pub(crate) is_paused: bool,
    /// Stops once with nothing in flight and no transaction, whatever else it does.
    pub(crate) tells_idle: bool,
    pub(crate) stop: Stop,
    /// The server was asked for the answers that it keeps back.
    has_asked: bool,
    /// The position for which the primary serves the client, because no standby had it.
    pub(crate) ahead: Option<Lsn>,
}

fn consume(buffer: &mut Vec<u8>, count: usize) {
    if count < buffer.len() {
        buffer.drain(..count);
    } else if buffer.capacity() > KEPT {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

/// Reads once into the scratch buffer and hands over what came; `None` at the end of the stream.
fn read_scratch<T>(
    stream: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<Option<T>>> {
    SCRATCH_BUFFER.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok((!buffer.filled().is_empty()).then(|| take(buffer.filled()))))
    })
}

impl Relay {
    pub(crate) fn new(client: Client, shared: Arc<Shared>, door: Door, inbox: Vec<u8>) -> Self {
        Self {
            client,
            is_held_back: false,
            shared,
            door,
            tracker: Tracker::new(),
            inbox,
            outbox: Vec::new(),
            tail: Vec::new(),
            to_client: Vec::new(),
            client_at: 0,
            streaming_up: 0,
            streaming_down: 0,
            void: Void::default(),
            owed: Owed::default(),
            after: IDLE,
            is_unknown: false,
            is_untold: false,
            unresolved: None,
            goes_on: false,
            knowing: None,
            has_ended: false,
            pool: None,
            tied: None,
            is_paused: false,
            tells_idle: false,
            stop: Stop::Never,
            has_asked: false,
            ahead: None,
        }
    }

    /// From now on servers come from this pool.
    pub(crate) fn share(&mut self, pool: Arc<Pool>) {
        self.pool = Some(pool);
    }

    /// What a session's SQL does is not known where it is not read rightly; it keeps a server that others use.
    pub(crate) fn check_readable(&mut self, parameters: &Parameters) {
        let is_read = |name: &str| parameters.get(name).is_none_or(|value| is_readable(name, value));
        let is_read = is_read("client_encoding") && is_read("standard_conforming_strings");
        self.tracker.is_read(is_read, self.pool.is_some());
    }

    /// For messages of our own: at a boundary, see [`Relay::lose`].
    pub(crate) fn client_buffer(&mut self) -> &mut Vec<u8> {
        &mut self.to_client
    }

    pub(crate) fn error(&mut self, severity: Severity, code: &str, text: &str) {
        message::error(&mut self.to_client, severity, code, text);
        self.shared.counters(self.door).error(code, true);
    }

    /// Both ways, until something happens that is not the relay's to handle.
    pub(crate) fn poll_live(&mut self, link: &mut Link, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let mut has_moved = false;
            if self.flush_client(cx).is_err() {
                return Poll::Ready(Event::ClientGone);
            }
            if self.to_client.len() < HIGH_WATER && !self.is_held_back {
                match self.read_server(link, cx) {
                    Poll::Ready(Ok(())) => has_moved = true,
                    Poll::Ready(Err(event)) => return Poll::Ready(event),
                    Poll::Pending => {}
                }
            }
            match self.feed_server(link, cx) {
                Poll::Ready(Ok(moved)) => has_moved |= moved,
                Poll::Ready(Err(event)) => return Poll::Ready(event),
                Poll::Pending => {}
            }
            let limit = if self.is_paused { HELD_BYTES } else { HIGH_WATER };
            if self.outbox.is_empty() && self.inbox.len() < limit {
                match self.read_client(cx) {
                    Poll::Ready(Ok(())) => has_moved = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(Event::ClientGone),
                    Poll::Pending => {}
                }
            }
            // Nothing is sent in a pause, and what is to be done about a server that is no target is not decided here:
            // to come back behind again and again would never end. Settings are asked for before the server is left.
            let is_behind = self.is_behind(link) && self.is_at_rest() && !self.is_paused && self.has_work();
            if is_behind && self.stop == Stop::WhenFree {
                return Poll::Ready(Event::Behind);
            }
            if self.is_stopped() && self.tail.is_empty() && self.streaming_down == 0 {
                return Poll::Ready(Event::Stopped);
            }
            if is_behind {
                return Poll::Ready(Event::Behind);
            }
            if !has_moved {
                return Poll::Pending;
            }
        }
    }

    /// The client's reads must see what this server was not seen to have.
    fn is_behind(&self, link: &Link) -> bool {
        if self.door == Door::Write {
            return false;
        }
        let wanted = self.tracker.read_after();
        if link.route.is_primary {
            // It has everything. Who can goes back to the standbys with the next position.
            return self.ahead.is_some() && wanted != self.ahead && !self.tracker.must_stay();
        }
        wanted.is_some_and(|position| !self.shared.replay.has(&link.route.server, position, Some(link.since)))
    }

    /// Nothing is under way.
    fn is_at_rest(&self) -> bool {
        let is_empty = self.void.is_empty() && self.outbox.is_empty() && self.tail.is_empty();
        is_empty && self.streaming_down == 0 && self.tracker.is_idle()
    }

    fn is_stopped(&self) -> bool {
        if self.tells_idle && self.tracker.is_idle() && self.void.is_empty() && self.outbox.is_empty() {
            return true;
        }
        match self.stop {
            Stop::Never => false,
            Stop::WhenChanged => {
                // A session with state of its own is not carried to another server anyway; one that listens would miss
                // what arrives while the router asks.
                let is_quiet = self.tracker.is_free() && self.void.is_empty() && self.outbox.is_empty();
                is_quiet && self.tracker.has_changed()
            }
            Stop::WhenFree => {
                let is_contended = self.pool.as_ref().is_some_and(|pool| pool.is_contended());
                self.tracker.is_free()
                    && self.void.is_empty()
                    && self.outbox.is_empty()
                    && (self.is_paused || is_contended || !self.has_work())
            }
            Stop::WhenIdle => self.tracker.is_idle(),
            Stop::WhenLoose => self.tracker.is_free(),
            Stop::WhenQuiet => self.tracker.is_quiet(),
        }
    }

    /// Something is there that only a server can answer; a malformed message too, which whoever has one tells.
    fn has_work(&self) -> bool {
        self.sendable().map_or(true, |end| end > 0)
    }

    /// The client's side alone, while it has no server and needs none. Ends when it needs one.
    pub(crate) fn poll_detached(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if self.flush_client(cx).is_err() {
                return Poll::Ready(Event::ClientGone);
            }
            if self.has_work() {
                return Poll::Ready(Event::ClientWants);
            }
            if self.inbox.first() == Some(&b'X') || ready!(self.read_client(cx)).is_err() {
                return Poll::Ready(Event::ClientGone);
            }
        }
    }

    /// Nothing is kept of buffers that are empty: there are many clients without a server.
    pub(crate) fn leave(&mut self) {
        self.tracker.leave();
        self.count_tied();
        for buffer in [&mut self.inbox, &mut self.outbox, &mut self.tail, &mut self.to_client] {
            if buffer.is_empty() {
                *buffer = Vec::new();
            }
        }
    }

    /// The client's side alone, while there is no server. Ends only with the client.
    pub(crate) fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if self.flush_client(cx).is_err() {
                return Poll::Ready(Event::ClientGone);
            }
            if self.inbox.len() >= HELD_BYTES {
                return Poll::Pending;
            }
            if ready!(self.read_client(cx)).is_err() {
                return Poll::Ready(Event::ClientGone);
            }
        }
    }

    /// Sends what waits for the client; done when nothing does.
    pub(crate) fn poll_flushed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flush_client(cx)?;
        if self.to_client.is_empty() && !self.is_held_back { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    pub(crate) fn into_client(self) -> Client {
        self.client
    }

    fn flush_client(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.client_at < self.to_client.len() {
            match Pin::new(&mut self.client).poll_write(cx, &self.to_client[self.client_at..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => self.client_at += written,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if self.client_at > 0 {
            self.client_at = 0;
            let all = self.to_client.len();
            consume(&mut self.to_client, all);
            self.is_held_back = matches!(self.client, Client::Tls(_));
        }
        if self.is_held_back
            && let Poll::Ready(flushed) = Pin::new(&mut self.client).poll_flush(cx)
        {
            flushed?;
            self.is_held_back = false;
        }
        Ok(())
    }

    fn read_client(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inbox = &mut self.inbox;
        match ready!(read_scratch(&mut self.client, cx, |bytes| inbox.extend_from_slice(bytes)))? {
            Some(()) => Poll::Ready(Ok(())),
            None => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn read_server(&mut self, link: &mut Link, cx: &mut Context<'_>) -> Poll<Result<(), Event>> {
        let Link { stream, side, .. } = link;
        let read = read_scratch(stream, cx, |bytes| {
            if self.tail.is_empty() {
                let used = self.take_server(side, bytes)?;
                self.tail.extend_from_slice(&bytes[used..]);
            } else {
                let mut all = std::mem::take(&mut self.tail);
                all.extend_from_slice(bytes);
                let used = self.take_server(side, &all)?;
                consume(&mut all, used);
                self.tail = all;
            }
            Ok(())
        });
        match ready!(read) {
            Ok(Some(taken)) => Poll::Ready(taken),
            Ok(None) | Err(_) if self.has_ended => Poll::Ready(Err(Event::ServerEnded)),
            Ok(None) | Err(_) => Poll::Ready(Err(Event::ServerLost)),
        }
    }

    /// Forwards whole messages, and long ones as they come. Gives how much of `bytes` is done with.
    fn take_server(&mut self, side: &mut Side, bytes: &[u8]) -> Result<usize, Event> {
        let now = Instant::now();
        let mut at = self.streaming_down.min(bytes.len());
        self.streaming_down -= at;
        // What is not forwarded yet begins here.
        let mut from = 0;
        while let Some(frame) = peek(&bytes[at..]).map_err(|_| Event::ServerLost)? {
            let rest = bytes.len() - at;
            if frame.len > rest {
                if !frame.is_small() {
                    self.tracker.received(frame.kind, &[], now);
                    self.streaming_down = frame.len - rest;
                    at = bytes.len();
                }
                break;
            }
            let next = at + frame.len;
            let answer = match self.receive(side, frame.kind, &bytes[at + HEADER..next], now) {
                Ok(answer) => answer,
                Err(event) => {
                    // What came before it is the client's.
                    self.to_client.extend_from_slice(&bytes[from..at]);
                    return Err(event);
                }
            };
            if answer != Answer::Forward {
                self.to_client.extend_from_slice(&bytes[from..at]);
                from = next;
            }
            if answer == Answer::AsParse {
                message::put(&mut self.to_client, b'1', |_| {});
            }
            at = next;
        }
        self.to_client.extend_from_slice(&bytes[from..at]);
        Ok(at)
    }

    /// Learns from a message of the server. Gives what the client sees of it.
    fn receive(&mut self, side: &mut Side, kind: u8, body: &[u8], now: Instant) -> Result<Answer, Event> {
        match self.tracker.received(kind, body, now) {
            Received::Nothing => {}
            Received::Ready { took } => {
                side.known.ready(self.tracker.done());
                self.count_tied();
                self.count_knowing();
                if let Some(took) = took {
                    self.shared.counters(self.door).cycle(took);
                }
            }
            Received::Parameter => {
                record_parameter(Arc::make_mut(&mut side.parameters), body);
                self.check_readable(&side.parameters);
            }
            Received::Confirmed { answer, on_server } => {
                if let Some(number) = on_server {
                    side.known.confirm(number);
                }
                return Ok(answer);
            }
            Received::Dropped => side.dropped(),
            Received::Ours => return Ok(Answer::Swallow),
            Received::NotFailed => {
                // Should never be; what the client sends must not take effect outside of its transaction.
                let text = "the transaction was lost with its database server, and the next one does not refuse it";
                self.error(Severity::Fatal, sqlstate::ADMIN_SHUTDOWN, text);
                return Err(Event::ServerEnded);
            }
            Received::Error => {
                // A Parse that was skipped has left the former one.
                side.unnamed = None;
                let failure = Failure::parse(body);
                if failure.is_server_leaving() {
                    // Ours to handle, not the client's.
                    return Err(Event::ServerLost);
                }
                self.has_ended |= failure.is_fatal;
                side.is_spoiled |= failure.is_stale_plan();
                self.shared.counters(self.door).error(&failure.code, false);
            }
        }
        Ok(Answer::Forward)
    }

    /// Where a new primary's transactions begin is found out only if somebody needs it.
    fn count_knowing(&mut self) {
        let is_known = self.unresolved.is_some() || self.tracker.xid().is_some();
        if is_known != self.knowing.is_some() {
            self.knowing = is_known.then(|| Knowing::new(Arc::clone(&self.shared)));
        }
    }

    fn count_tied(&mut self) {
        if self.tracker.is_tied() != self.tied.is_some()
            && let Some(pool) = &self.pool
        {
            self.tied = self.tracker.tie_reason().map(|reason| Tied::new(Arc::clone(pool), reason));
        }
    }

    /// Gives whether anything moved.
    fn feed_server(&mut self, link: &mut Link, cx: &mut Context<'_>) -> Poll<Result<bool, Event>> {
        let mut has_moved = ready!(self.flush_server(link, cx))?;
        if !self.void.is_empty() {
            let before = self.to_client.len();
            self.void(link).map_err(Event::ClientMalformed)?;
            // Answers are flushed at the start of the next turn.
            has_moved |= self.to_client.len() > before;
        }
        if self.streaming_up > 0 {
            let count = self.streaming_up.min(self.inbox.len());
            if count == 0 {
                return Poll::Ready(Ok(has_moved));
            }
            let written = ready!(write(link, cx, &self.inbox[..count]))?;
            self.streaming_up -= written;
            self.tracker.sent_more(&self.inbox[..written], self.streaming_up == 0);
            consume(&mut self.inbox, written);
            return Poll::Ready(Ok(true));
        }
        if self.tracker.must_fail() {
            return Poll::Ready(Ok(has_moved));
        }
        if self.is_untold && self.tell().map_err(Event::ClientMalformed)? {
            // Goes on at the start of the next turn.
            return Poll::Ready(Ok(true));
        }
        if (self.is_paused || self.is_behind(link)) && !self.tracker.is_within() {
            return Poll::Ready(Ok(has_moved));
        }
        if self.tracker.is_full() {
            // A server may keep answers back up to a Sync that is not read from the client before they come.
            if !std::mem::replace(&mut self.has_asked, true) && self.tracker.is_batch_open() {
                message::flush(&mut self.outbox);
                ready!(self.flush_server(link, cx))?;
            }
            return Poll::Ready(Ok(has_moved));
        }
        self.has_asked = false;
        let end = self.sendable().map_err(Event::ClientMalformed)?;
        if end == 0 {
            let is_leaving = self.void.is_empty() && self.inbox.first() == Some(&b'X');
            return Poll::Ready(if is_leaving { Err(Event::ClientGone) } else { Ok(has_moved) });
        }
        if self.refuse_misplaced(end).map_err(Event::ClientMalformed)? {
            // Looked at anew.
            return Poll::Ready(Ok(true));
        }
        if self.pool.is_some() {
            has_moved |= self.stage(link, end);
            ready!(self.flush_server(link, cx))?;
            return Poll::Ready(Ok(has_moved));
        }
        let written = ready!(write(link, cx, &self.inbox[..end]))?;
        self.count_sent(end, written);
        Poll::Ready(Ok(true))
    }

    /// Gives whether anything moved.
    fn flush_server(&mut self, link: &mut Link, cx: &mut Context<'_>) -> Poll<Result<bool, Event>> {
        let mut has_moved = false;
        while !self.outbox.is_empty() {
            let written = ready!(write(link, cx, &self.outbox))?;
            consume(&mut self.outbox, written);
            has_moved = true;
        }
        Poll::Ready(Ok(has_moved))
    }

    /// How much of the inbox may be written: whole messages, and a long one as far as it is there.
    fn sendable(&self) -> Result<usize, Malformed> {
        let mut at = 0;
        if !self.void.is_empty() {
            return Ok(0);
        }
        while let Some(Frame { kind, len }) = peek(&self.inbox[at..])? {
            let rest = self.inbox.len() - at;
            if kind == b'X' {
                break;
            }
            if len > rest {
                return Ok(if (Frame { kind, len }).is_small() { at } else { self.inbox.len() });
            }
            at += len;
            // One at a time until the client knows.
            if self.is_untold || self.is_one_by_one() && matches!(kind, b'Q' | b'S' | b'F') {
                break;
            }
        }
        Ok(at)
    }

    /// What a cycle says may forbid the next one.
    fn is_one_by_one(&self) -> bool {
        self.is_paused || self.door == Door::Read
    }

    /// Everything whose first byte is among the `written` is in flight now.
    fn count_sent(&mut self, end: usize, written: usize) {
        let now = Instant::now();
        let mut at = 0;
        while at < written {
            // `sendable` has read these heads already.
            let Ok(Some(frame)) = peek(&self.inbox[at..end]) else { break };
            let is_whole = at + frame.len <= end;
            let next = if is_whole { at + frame.len } else { end };
            self.tracker.sent(frame.kind, &self.inbox[at..next], is_whole, now);
            if !is_whole {
                self.streaming_up = frame.len - (end - at);
            }
            at = next;
        }
        if at > written {
            self.outbox.extend_from_slice(&self.inbox[written..at]);
        }
        consume(&mut self.inbox, at);
    }
}

fn write(link: &mut Link, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Event>> {
    match ready!(Pin::new(&mut link.stream).poll_write(cx, bytes)) {
        Ok(0) | Err(_) => Poll::Ready(Err(Event::ServerLost)),
        Ok(written) => Poll::Ready(Ok(written)),
    }
}
