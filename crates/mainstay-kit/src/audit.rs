//! Who changed what: one row for each write, in the same transaction, chained by hashes so that a
//! changed, removed or inserted row is found by [`verify`].
//!
//! It does not stop somebody who can rewrite the whole table; keep the newest hash elsewhere for
//! that. Appending takes a lock until commit, so writes with an audit row commit one after another.
//!
//! The table that it needs:
//! ```sql
//! CREATE TABLE audit_log (
//!     id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL,
//!     actor text NOT NULL, action text NOT NULL, subject text NOT NULL,
//!     request_id text NOT NULL, details text NOT NULL,
//!     previous_hash bytea NOT NULL, hash bytea NOT NULL);
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row, Transaction};

use crate::pool::Failure;
use crate::telemetry;

/// `pg_advisory_xact_lock` key: "audit" in ASCII.
const LOCK: i64 = 0x61_7564_6974;
/// Hash before the first row.
const GENESIS: [u8; 32] = [0; 32];
/// Rows read at once by [`verify`].
const PAGE: i64 = 1_000;

/// One change.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// User name, or the service's own name.
    pub actor: &'a str,
    /// `user.created`, `user.signed-in`, …
    pub action: &'a str,
    /// What was changed: `user:17`.
    pub subject: &'a str,
    /// Further facts as JSON; no secrets.
    pub details: String,
}

/// A stored row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: SystemTime,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To what.
    pub subject: String,
    /// In which request.
    pub request_id: String,
    /// Further facts as JSON.
    pub details: String,
    previous_hash: Vec<u8>,
    hash: Vec<u8>,
}

/// What [`verify`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Every row is as it was written.
    Intact {
        /// How many.
        rows: u64,
    },
    /// The chain breaks here: this row or the one before it was changed or removed.
    Broken {
        /// At which row.
        id: i64,
    },
}

/// Appends an entry. Call it last in the transaction, because it holds a lock from here to commit.
pub async fn append(transaction: &Transaction<'_>, entry: &Entry<'_>) -> Result<(), Failure> {
    let previous =
        transaction.query_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await.map(|_| ());
    previous?;
    let previous_hash = transaction
        .query_typed("SELECT hash FROM audit_log ORDER BY id DESC LIMIT 1", &[])
        .await?
        .first()
        .map_or_else(|| GENESIS.to_vec(), |row| row.get(0));
    let request_id = telemetry::current().map_or_else(String::new, |identity| identity.request_id);
    let at = truncate_to_micros(SystemTime::now());
    let hash = chain(&previous_hash, at, [entry.actor, entry.action, entry.subject, &request_id, &entry.details]);
    transaction
        .query_typed(
            "INSERT INTO audit_log (at, actor, action, subject, request_id, details, previous_hash, hash) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                (&at, Type::TIMESTAMPTZ),
                (&entry.actor, Type::TEXT),
                (&entry.action, Type::TEXT),
                (&entry.subject, Type::TEXT),
                (&request_id, Type::TEXT),
                (&entry.details, Type::TEXT),
                (&previous_hash, Type::BYTEA),
                (&hash, Type::BYTEA),
            ],
        )
        .await?;
    Ok(())
}

/// The newest rows with an id below `before`, newest first; at most 100.
pub async fn list(client: &Client, before: i64, limit: i64) -> Result<Vec<Record>, Failure> {
    let rows = client
        .query_typed(
            &format!("{SELECT} WHERE id < $1 ORDER BY id DESC LIMIT $2"),
            &[(&before, Type::INT8), (&limit.clamp(1, 100), Type::INT8)],
        )
        .await?;
    Ok(rows.iter().map(record).collect())
}

/// Recomputes the whole chain.
pub async fn verify(client: &Client) -> Result<Verification, Failure> {
    let mut previous_hash = GENESIS.to_vec();
    let (mut after, mut rows) = (0_i64, 0_u64);
    loop {
        let page = client
            .query_typed(
                &format!("{SELECT} WHERE id > $1 ORDER BY id LIMIT $2"),
                &[(&after, Type::INT8), (&PAGE, Type::INT8)],
            )
            .await?;
        if page.is_empty() {
            return Ok(Verification::Intact { rows });
        }
        for record in page.iter().map(record) {
            if !record.continues(&previous_hash) {
                return Ok(Verification::Broken { id: record.id });
            }
            (after, rows) = (record.id, rows + 1);
            previous_hash = record.hash;
        }
    }
}

const SELECT: &str = "SELECT id, at, actor, action, subject, request_id, details, previous_hash, hash FROM audit_log";

fn record(row: &Row) -> Record {
    Record {
        id: row.get(0),
        at: row.get(1),
        actor: row.get(2),
        action: row.get(3),
        subject: row.get(4),
        request_id: row.get(5),
        details: row.get(6),
        previous_hash: row.get(7),
        hash: row.get(8),
    }
}

impl Record {
    fn continues(&self, previous_hash: &[u8]) -> bool {
        let fields = [&self.actor, &self.action, &self.subject, &self.request_id, &self.details];
        self.previous_hash == previous_hash && self.hash == chain(previous_hash, self.at, fields.map(String::as_str))
    }
}

/// Lengths go in before texts, so that moving a letter from one field to the next changes the hash.
fn chain(previous_hash: &[u8], at: SystemTime, fields: [&str; 5]) -> Vec<u8> {
    let micros = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
    let mut hasher = Sha256::new();
    hasher.update(previous_hash);
    hasher.update(micros.to_be_bytes());
    for field in fields {
        hasher.update((field.len() as u64).to_be_bytes());
        hasher.update(field.as_bytes());
    }
    hasher.finalize().to_vec()
}

/// PostgreSQL stores microseconds; a finer instant would hash to something else after reading.
fn truncate_to_micros(at: SystemTime) -> SystemTime {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    UNIX_EPOCH + Duration::new(since.as_secs(), since.subsec_micros() * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash_of(fields: [&str; 5]) -> Vec<u8> {
        chain(&GENESIS, UNIX_EPOCH, fields)
    }

    #[test]
    fn every_field_and_its_border_count() {
        let base = hash_of(["ada", "user.created", "user:1", "r", "{}"]);
        assert_ne!(base, hash_of(["ad", "auser.created", "user:1", "r", "{}"]));
        assert_ne!(base, hash_of(["ada", "user.created", "user:1", "r", "{ }"]));
        assert_ne!(base, chain(&base, UNIX_EPOCH, ["ada", "user.created", "user:1", "r", "{}"]));
    }
}
