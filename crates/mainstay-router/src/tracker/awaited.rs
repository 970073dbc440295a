//! What a batch's Parse and Close messages will be confirmed by, and what a batch that failed never will be.
//!
//! Never holds more than the bounds below, whatever a client sends without a Sync.

use std::sync::Arc;

use super::{Asked, Received, Tracker, Unnamed};
use crate::statements::{Name, Statement};

/// Most messages that are sent ahead of their answers. A server keeps some 1,600 answers back by itself (8 KiB of five
/// bytes each), and is asked for them beyond this.
const MAX_AWAITED: usize = 4096;

/// Most bytes of their texts.
const MAX_AWAITED_BYTES: usize = 4 * 1024 * 1024;

/// What becomes of the ParseComplete or CloseComplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Forward,
    Swallow,
    /// A CloseComplete goes on as a ParseComplete.
    AsParse,
}

/// What it says about the client's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    Keep { name: Name, statement: Arc<Statement> },
    Forget { name: Name },
    Unnamed { statement: Arc<Statement> },
}

impl Effect {
    /// How many statements will be kept by it, and their bytes.
    fn keeps(&self) -> (usize, usize) {
        match self {
            Self::Keep { .. } => (1, self.len()),
            Self::Nothing | Self::Forget { .. } | Self::Unnamed { .. } => (0, 0),
        }
    }

    /// Its size in memory, near enough.
    fn len(&self) -> usize {
        match self {
            Self::Keep { name, statement } => name.len() + statement.len(),
            Self::Forget { name } => name.len(),
            Self::Unnamed { statement } => statement.len(),
            Self::Nothing => 0,
        }
    }
}

/// What a ParseComplete or CloseComplete will confirm.
#[derive(Debug)]
pub(super) struct Awaited {
    pub(super) cycle: u64,
    pub(super) effect: Effect,
    answer: Answer,
    /// The number of a statement that a shared server has then.
    on_server: Option<u64>,
}

impl Tracker {
    pub(super) fn await_answer(&mut self, effect: Effect, answer: Answer, on_server: Option<u64>) {
        let (count, bytes) = effect.keeps();
        self.coming = (self.coming.0 + count, self.coming.1 + bytes);
        self.awaited_bytes += effect.len();
        self.awaited.push_back(Awaited { cycle: self.cycles_asked, effect, answer, on_server });
    }

    /// Nothing more is to be sent before something is answered.
    pub(crate) fn is_full(&self) -> bool {
        self.awaited.len() >= MAX_AWAITED || self.awaited_bytes >= MAX_AWAITED_BYTES
    }

    /// The server has refused something in this batch, and skips what comes up to a Sync.
    pub(crate) fn is_skipping(&self) -> bool {
        self.is_skipping
    }

    /// The server has refused something. What is awaited of a batch that failed never comes, and a client may send on
    /// for ever.
    pub(super) fn refused(&mut self) {
        let is_open = self.asked.is_empty() && self.is_batch_open;
        if is_open || self.is_first(Asked::Sync) {
            self.forget_awaited(self.cycles_done);
        }
        self.is_skipping = is_open;
    }

    /// What a cycle did not confirm never will be.
    pub(super) fn answered(&mut self) {
        if let Some(last) = self.cycles_done.checked_sub(1) {
            self.forget_awaited(last);
        }
    }

    /// Of cycles up to this one.
    fn forget_awaited(&mut self, last: u64) {
        if self.awaited.iter().any(|awaited| awaited.cycle <= last) {
            self.awaited.retain(|awaited| awaited.cycle > last);
            let coming = self.awaited.iter().map(|awaited| awaited.effect.keeps());
            self.coming = coming.fold((0, 0), |sum, (count, bytes)| (sum.0 + count, sum.1 + bytes));
            self.awaited_bytes = self.awaited.iter().map(|awaited| awaited.effect.len()).sum();
        }
    }

    pub(super) fn confirmed(&mut self) -> Received {
        let Some(Awaited { effect, answer, on_server, .. }) = self.awaited.pop_front() else {
            return Received::Nothing;
        };
        let (count, bytes) = effect.keeps();
        self.coming = (self.coming.0 - count, self.coming.1 - bytes);
        self.awaited_bytes -= effect.len();
        match effect {
            Effect::Keep { name, statement } => self.keep(name, statement),
            Effect::Forget { name } => self.forget(&name),
            Effect::Unnamed { statement } => self.unnamed = Unnamed::Kept(statement),
            Effect::Nothing => {}
        }
        Received::Confirmed { answer, on_server }
    }
}
