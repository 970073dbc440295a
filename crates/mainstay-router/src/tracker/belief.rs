//! Where a client takes itself to be, once what it has sent is done: what it sends next was meant for that place.
//!
//! A statement that was meant for a transaction must not become one of its own because the transaction was lost.

use std::collections::BTreeMap;

use super::{Asked, Cycle, Effect, FAILED, IDLE, Passing, Text, Tracker};
use crate::frame::HEADER;
use crate::glance::Ties;
use crate::message;

/// Longest BEGIN that is kept while it is in flight: with all its options it has some hundred bytes.
const MAX_BEGIN: usize = 256;

/// What is still owed to the client when something in flight was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    /// The transaction status of each ReadyForQuery that the client waits for.
    pub(crate) cycles: Vec<u8>,
    /// A batch without Sync: everything up to the client's Sync is void.
    pub(crate) is_batch_open: bool,
    /// Where the client is then.
    pub(crate) after: u8,
}

impl Default for Owed {
    fn default() -> Self {
        Self { cycles: Vec::new(), is_batch_open: false, after: IDLE }
    }
}

/// Whether a transaction is open behind a text; `None`: as before.
pub(crate) fn leaves(seen: Ties) -> Option<bool> {
    (seen.has(Ties::LEAVES_OPEN) || seen.has(Ties::LEAVES_CLOSED)).then(|| seen.has(Ties::LEAVES_OPEN))
}

/// The status of somebody whose transaction is lost.
pub(crate) fn lost_status(before: u8, leaves: Option<bool>) -> u8 {
    match leaves {
        Some(true) => FAILED,
        Some(false) => IDLE,
        None if before == IDLE => IDLE,
        None => FAILED,
    }
}

impl Tracker {
    /// What a lost server owes.
    pub(super) fn owed(&self) -> Owed {
        let mut after = lost_status(self.status, None);
        let mut cycles = Vec::new();
        let is_clients = |cycle: &&Cycle| !matches!(cycle.asked, Asked::CopyEnd | Asked::Ours);
        for cycle in self.asked.iter().filter(is_clients) {
            after = lost_status(after, cycle.doing.leaves);
            cycles.push(after);
        }
        if self.is_batch_open {
            after = lost_status(after, self.batch.leaves);
        }
        if let Some(Passing::Text { glance, text: Text::Query }) = &self.passing {
            // Of the part that was seen.
            after = lost_status(after, leaves((**glance).clone().finish()));
            if let Some(last) = cycles.last_mut() {
                *last = after;
            }
        }
        Owed { cycles, is_batch_open: self.is_batch_open, after }
    }

    /// More than the end of the open transaction is in flight: what becomes of that does not say what became of all.
    pub(crate) fn goes_on(&self) -> bool {
        let is_clients = |cycle: &&Cycle| !matches!(cycle.asked, Asked::CopyEnd | Asked::Ours);
        let cycles = self.asked.iter().filter(is_clients).map(|cycle| cycle.doing);
        let mut has_ended = false;
        for doing in cycles.chain(self.is_batch_open.then_some(self.batch)) {
            if has_ended || doing.goes_on {
                return true;
            }
            has_ended = doing.ends;
        }
        // Of which the end is not known.
        self.passing.is_some()
    }

    /// What names of statements mean to the client that the server has not confirmed.
    pub(crate) fn meant(&self) -> BTreeMap<Vec<u8>, Option<bool>> {
        let coming = self.awaited.iter().filter_map(|awaited| match &awaited.effect {
            Effect::Keep { name, statement } => Some((name.to_vec(), leaves(statement.seen))),
            Effect::Forget { name } => Some((name.to_vec(), None)),
            Effect::Nothing | Effect::Unnamed { .. } => None,
        });
        let unnamed = match &self.passing {
            // What takes its place, of the part that was seen: a Bind that comes means this one.
            Some(Passing::Text { glance, text: Text::Unnamed { .. } }) => leaves((**glance).clone().finish()),
            Some(_) | None => self.unnamed_leaves,
        };
        coming.chain([(Vec::new(), unnamed)]).collect()
    }

    /// A text that is all there goes to the server.
    pub(super) fn note_begin(&mut self, sql: &[u8]) {
        let is_alone = self.status == IDLE && !self.awaits_answer_before_last() && sql.len() <= MAX_BEGIN;
        let is_begin = self
            .asked
            .back()
            .is_some_and(|cycle| cycle.asked == Asked::Query && cycle.doing.opens && cycle.doing.binds == 1);
        self.begin = (is_alone && is_begin).then(|| sql.into());
    }

    fn awaits_answer_before_last(&self) -> bool {
        let before = self.asked.len().saturating_sub(1);
        let is_clients = |cycle: &Cycle| !matches!(cycle.asked, Asked::Ours);
        self.is_batch_open || self.asked.iter().take(before).any(is_clients)
    }

    /// All that is in flight is a BEGIN of which nothing was heard: it has done nothing, and can be sent again.
    pub(super) fn is_begin_alone(&self) -> bool {
        let clients = self.asked.iter().filter(|cycle| !matches!(cycle.asked, Asked::Ours)).count();
        self.begin.is_some() && clients == 1 && !self.is_batch_open && self.passing.is_none()
    }

    /// That BEGIN, as a message.
    pub(crate) fn take_begin(&mut self) -> Option<Vec<u8>> {
        let sql = self.begin.take().filter(|_| self.status == IDLE)?;
        let mut out = Vec::with_capacity(HEADER + sql.len() + 1);
        message::put(&mut out, b'Q', |out| message::put_string(out, &sql));
        Some(out)
    }

    /// A statement of the router's own that has to fail, so that the client is in a transaction that has failed.
    pub(crate) fn sent_failing(&mut self, now: std::time::Instant) {
        self.sent_ours(now);
        self.must_fail = Some(self.cycles_asked);
    }

    /// It is not answered yet: nothing of the client's may go where it could take effect.
    pub(crate) fn must_fail(&self) -> bool {
        self.must_fail.is_some()
    }
}
