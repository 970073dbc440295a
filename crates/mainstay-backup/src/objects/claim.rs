//! Who adds to a store that is the place itself: one state folder at a time. A machine that was taken for lost and is
//! not must not free what its successor wrote.
//!
//! No lock is known to all stores, so the claim is an object like others, and is asked for again before everything that
//! could make a backup unreadable. Archived WAL is not: its names bear hashes, and a segment too many does no harm.

use std::time::{Duration, Instant};

use bytes::Bytes;
use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};

/// The object. No file of a place has this name.
pub const CLAIM: &str = "holder.json";
/// Who only adds asks so often: what it adds meanwhile is refused or used by nobody.
pub(crate) const AGAIN: Duration = Duration::from_secs(60);

/// Who adds to a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Of its state folder.
    pub id: String,
    /// The machine's name, for people.
    pub machine: String,
    /// When it began.
    pub since: Timestamp,
}

impl Store {
    /// Takes the store over: whoever had it adds nothing from then on.
    ///
    /// **Errors**: see [`StoreError`].
    pub async fn take_over(&self, claim: &Claim) -> Result<(), StoreError> {
        let text = serde_json::to_vec(claim).map_err(|error| self.strange(error))?;
        let hash = crate::hash_of(&[Bytes::from(text.clone())]);
        self.put_parts(CLAIM, &[Bytes::from(text)], &hash).await
    }

    /// That nobody else took the store over.
    ///
    /// **Errors**: [`StoreError::Taken`], or see the others.
    pub async fn is_ours(&self, id: &str) -> Result<(), StoreError> {
        let Some(text) = self.get_small(CLAIM).await? else { return Ok(()) };
        let claim: Claim = serde_json::from_slice(&text).map_err(|error| self.strange(format!("{CLAIM}: {error}")))?;
        if claim.id == id {
            return Ok(());
        }
        let Claim { machine, since, .. } = claim;
        Err(StoreError::Taken { store: self.address().to_string(), machine, since })
    }
}

/// When it was asked last.
#[derive(Debug, Default)]
pub(crate) struct Asked(Option<Instant>);

impl Asked {
    /// Asks when the last answer is older than that.
    pub(crate) async fn again(&mut self, store: &Store, id: &str, age: Duration) -> Result<(), StoreError> {
        if self.0.is_none_or(|at| at.elapsed() >= age) {
            store.is_ours(id).await?;
            self.0 = Some(Instant::now());
        }
        Ok(())
    }
}
