//! `Idempotency-Key`: a request that is sent again with the same key gets the answer of the first
//! one and changes nothing.
//!
//! The answer is stored by the statement or transaction that makes the change, so that both are
//! there or neither. Two requests with one key at the same moment are decided by the primary key of
//! the table: the second waits for the first, fails, and then reads what the first one stored.
//! **Source**: IETF draft-ietf-httpapi-idempotency-key-header-07, sections 2.1 and 2.6.
//!
//! The table that it needs:
//! ```sql
//! CREATE TABLE idempotency_keys (
//!     owner bigint NOT NULL, key text NOT NULL, fingerprint bytea NOT NULL, answer text NOT NULL,
//!     created_at timestamptz NOT NULL DEFAULT now(),
//!     CONSTRAINT idempotency_keys_pkey PRIMARY KEY (owner, key));
//! ```

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::pool::{Database, Failure};
use crate::problem::Problem;

/// The request header.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Answer header: `true` when the answer is that of an earlier request.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Constraint that a second request with the same key breaks.
pub const CONSTRAINT: &str = "idempotency_keys_pkey";
/// Answers are kept at least this long.
pub const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// A UUID has 36 characters; nobody needs seven of them.
const KEY_MAX: usize = 255;
/// Rows removed by one statement of [`purge`].
const PURGE_AT_ONCE: i64 = 5_000;

/// A key in the form that we accept: 1 to 255 visible ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of a request, if it has one.
    ///
    /// **Errors**: 400 when there are several or it is not in the accepted form.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(value) = given.next() else { return Ok(None) };
        let text = value.to_str().unwrap_or_default();
        let is_good = (1..=KEY_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if given.next().is_some() || !is_good {
            return Err(Problem::bad_request("Idempotency-Key must be one value of 1 to 255 visible ASCII characters"));
        }
        Ok(Some(Self(text.to_owned())))
    }

    /// A key for a request whose method promises idempotence but that brought none: the identity
    /// that the edge gave it, which stays the same when the edge sends it to a second instance.
    #[must_use]
    pub fn of_request(request_id: &str) -> Self {
        Self(format!("request {request_id}")) // the blank keeps it apart from every key of a caller
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What makes two requests the same request.
#[must_use]
pub fn fingerprint(parts: &[&[u8]]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_vec()
}

/// The answer that an earlier request with this key got.
///
/// **Errors**: 422 when that was another request.
pub async fn find(
    client: &impl GenericClient,
    owner: i64,
    key: &Key,
    fingerprint: &[u8],
) -> Result<Option<String>, Failure> {
    let sql = "SELECT fingerprint, answer FROM idempotency_keys WHERE owner = $1 AND key = $2";
    let rows = client.query_typed(sql, &[(&owner, Type::INT8), (&key.0, Type::TEXT)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    if row.get::<_, &[u8]>(0) != fingerprint {
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "Idempotency key was used for another request")
            .detail("send a new key with a new request")
            .into());
    }
    Ok(Some(row.get(1)))
}

/// Removes answers older than [`KEPT`]; says how many.
pub async fn purge(database: &Database) -> Result<u64, Failure> {
    let seconds = f64::from(u32::try_from(KEPT.as_secs()).unwrap_or(u32::MAX));
    let seconds = &seconds;
    let mut removed = 0;
    loop {
        let rows = database
            .transaction(|transaction| {
                Box::pin(async move {
                    let sql = "DELETE FROM idempotency_keys WHERE (owner, key) IN (SELECT owner, key \
                         FROM idempotency_keys WHERE created_at < now() - make_interval(secs => $1) \
                         LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1";
                    let rows =
                        transaction.query_typed(sql, &[(seconds, Type::FLOAT8), (&PURGE_AT_ONCE, Type::INT8)]).await?;
                    Ok(rows.len() as u64)
                })
            })
            .await?;
        removed += rows;
        if rows < PURGE_AT_ONCE.unsigned_abs() {
            return Ok(removed);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn key(values: &[&str]) -> Result<Option<Key>, Problem> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Key::from_headers(&headers)
    }

    #[test]
    fn takes_one_key_of_visible_characters() {
        assert_eq!(key(&[]).unwrap(), None);
        assert_eq!(key(&["order-17"]).unwrap().unwrap().as_str(), "order-17");
        for wrong in [&["a", "b"][..], &[""], &["a b"], &["ž"], &["x".repeat(256).as_str()]] {
            assert_eq!(key(wrong).unwrap_err().status(), StatusCode::BAD_REQUEST, "{wrong:?}");
        }
    }

    #[test]
    fn no_caller_can_send_the_key_of_a_request() {
        let ours = Key::of_request("4bf92f35");
        assert!(key(&[ours.as_str()]).is_err());
    }

    #[test]
    fn parts_and_their_borders_count() {
        assert_ne!(fingerprint(&[b"ab", b"c"]), fingerprint(&[b"a", b"bc"]));
        assert_eq!(fingerprint(&[b"ab", b"c"]), fingerprint(&[b"ab", b"c"]));
    }
}
