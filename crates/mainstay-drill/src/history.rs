//! What clients saw: one entry for each operation, on one monotonic clock.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// How an operation ended, as its client knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Acknowledged.
    Ok,
    /// Certainly not done.
    Failed,
    /// Certainly not done: nobody listened.
    Refused,
    /// Perhaps done: the connection broke, or the server said that the outcome is unknown.
    Ambiguous,
    /// The answer had begun and broke off.
    Truncated,
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) client: u32,
    pub(crate) number: u64,
    /// When the connection that it was done on was opened; of one that could not be: when that was tried.
    pub(crate) opened: Instant,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) end: End,
}

/// All operations of a run. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct History {
    operations: Arc<Mutex<Vec<Operation>>>,
    errors: Arc<Mutex<std::collections::BTreeMap<String, u64>>>,
}

impl History {
    pub(crate) fn add(&self, operation: Operation) {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    /// Counts an error's text: evidence for the report.
    pub(crate) fn error(&self, text: &str) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        // A bound on kinds, not on counts: texts with ids in them must not fill memory.
        if errors.len() < 64 || errors.contains_key(text) {
            *errors.entry(text.to_owned()).or_default() += 1;
        }
    }

    /// Errors of several, by text.
    pub(crate) fn errors_of(histories: &[&Self]) -> std::collections::BTreeMap<String, u64> {
        let mut all = std::collections::BTreeMap::new();
        for history in histories {
            for (text, count) in history.errors.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                *all.entry(text.clone()).or_default() += count;
            }
        }
        all
    }

    pub(crate) fn all(&self) -> Vec<Operation> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn successes_since(&self, since: Instant) -> usize {
        let operations = self.operations.lock().unwrap_or_else(PoisonError::into_inner);
        operations.iter().rev().take_while(|operation| operation.ended >= since).filter(|o| o.end == End::Ok).count()
    }
}
