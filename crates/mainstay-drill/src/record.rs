//! What the workloads of a round record: operations on the clock of its history, for the checkers.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::checker::{Op, Operation, Outcome};
use crate::history::{self, End};

/// A recording. Clones share it.
#[derive(Clone)]
pub(crate) struct Record {
    began: Instant,
    operations: Arc<Mutex<Vec<Operation>>>,
}

impl Record {
    /// Empty; its clock begins now.
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), operations: Arc::default() }
    }

    /// Adds what `process` did from `began` until now.
    pub(crate) fn add(&self, process: u32, began: Instant, op: Op, outcome: Outcome) {
        let operation =
            Operation { process, start_us: self.micros(began), end_us: self.micros(Instant::now()), op, outcome };
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    /// A moment on the history's clock.
    pub(crate) fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX)
    }

    /// What a load saw that keeps a history of its own: `op` says what each of its operations was.
    pub(crate) fn translate(
        &self,
        operations: &[history::Operation],
        first_process: u32,
        op: impl Fn(&history::Operation) -> Op,
    ) -> Vec<Operation> {
        let translated = operations.iter().map(|operation| Operation {
            process: first_process + operation.client,
            start_us: self.micros(operation.began),
            end_us: self.micros(operation.ended),
            op: op(operation),
            outcome: outcome(operation.end),
        });
        translated.collect()
    }

    /// All that was added.
    pub(crate) fn all(&self) -> Vec<Operation> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An answer that broke off may have had its effect.
pub(crate) fn outcome(end: End) -> Outcome {
    match end {
        End::Ok => Outcome::Ok,
        End::Failed | End::Refused => Outcome::Failed,
        End::Ambiguous | End::Truncated => Outcome::Ambiguous,
    }
}
