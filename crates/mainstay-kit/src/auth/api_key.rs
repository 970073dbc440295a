//! API keys for programs: long-lived, opaque, stored as hashes, one per user, replaced by rotation.
//!
//! Who a key belongs to is remembered in Redis for half an hour but trusted for [`TRUST`] only, as
//! with sessions; a rotation makes the old key unknown at once.

use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderName, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_postgres::types::Type;

use super::{Principal, Role};
use crate::cache::{Cache, Lookup};
use crate::pool::{Database, Failure};
use crate::problem::Problem;
use crate::time::unix_seconds;

/// Where a key may stand besides `Authorization: Bearer`.
pub const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const REMEMBERED: Duration = Duration::from_secs(30 * 60);
const TRUST: Duration = Duration::from_secs(30);
/// Characters of a key that somebody else made, at least, besides its prefix.
const GIVEN_MIN: usize = 20;
/// Characters of a key that may be shown to tell it from another: the prefix and these.
const SHOWN: usize = 6;

/// A key that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewApiKey {
    /// Shown to its owner once, never stored.
    pub text: String,
    /// What is stored.
    pub hash: Vec<u8>,
    /// First characters, to tell keys apart.
    pub shown: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Owner {
    user_id: i64,
    username: String,
    role: Role,
    is_active: bool,
    seen_at: u64,
}

/// Makes keys and knows whose they are.
#[derive(Clone)]
pub struct ApiKeys {
    database: Database,
    store: Cache,
    prefix: &'static str,
    owner_sql: &'static str,
}

impl ApiKeys {
    /// `prefix` begins every key (`int_`), so that people and secret scanners know what it is.
    /// `owner_sql` takes a hash (bytea) and gives `id bigint, username text, role text, is_active bool`.
    #[must_use]
    pub fn new(database: Database, store: Cache, prefix: &'static str, owner_sql: &'static str) -> Self {
        Self { database, store, prefix, owner_sql }
    }

    /// A new key with 256 random bits.
    #[must_use]
    pub fn make(&self) -> NewApiKey {
        self.of(format!("{}{}", self.prefix, crate::random::token::<32>()))
    }

    /// A key that somebody else made: with its prefix, and long enough not to be guessed.
    #[must_use]
    pub fn given(&self, text: &str) -> Option<NewApiKey> {
        let secret = text.strip_prefix(self.prefix)?;
        (secret.len() >= GIVEN_MIN).then(|| self.of(text.to_owned()))
    }

    fn of(&self, text: String) -> NewApiKey {
        let shown = text.chars().take(self.prefix.len() + SHOWN).collect();
        NewApiKey { hash: hash(&text), shown, text }
    }

    /// The key in a request's headers: `X-API-Key`, or a bearer token that begins like one of ours.
    #[must_use]
    pub fn in_headers<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        if let Some(value) = headers.get(X_API_KEY) {
            return Some(value.to_str().unwrap_or_default());
        }
        let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && token.starts_with(self.prefix)).then_some(token)
    }

    /// The caller behind a key, with present rights.
    ///
    /// **Errors**: 401 for a key that is not ours any more or an inactive owner; 503 when nobody can be asked.
    pub async fn principal(&self, key: &str) -> Result<Principal, Problem> {
        if !key.starts_with(self.prefix) {
            return Err(refused());
        }
        let hash = hash(key);
        let now = unix_seconds(SystemTime::now());
        let remembered = match self.store.get::<Owner>(&entry(&hash)).await {
            Lookup::Hit(owner) => Some(owner),
            Lookup::Gone => return Err(refused()),
            Lookup::Miss => None,
        };
        if let Some(fresh) = remembered.as_ref().filter(|owner| now.saturating_sub(owner.seen_at) < TRUST.as_secs()) {
            return admit(fresh.clone());
        }
        match self.look_up(&hash, now).await {
            Ok(Some(owner)) => {
                let version = i64::try_from(owner.seen_at).unwrap_or(i64::MAX);
                self.store.put(&entry(&hash), version, &owner, REMEMBERED).await;
                admit(owner)
            }
            Ok(None) => Err(refused()),
            Err(failure) => match (remembered, failure) {
                (Some(older), Failure::Unavailable(_)) => admit(older),
                (_, failure) => Err(failure.into()),
            },
        }
    }

    /// Refuses a key that was replaced, or whose owner was locked out, at once. Call it after the commit.
    pub async fn revoke(&self, hash: &[u8]) {
        // Newer than what somebody read a moment ago and has not stored yet.
        let version = i64::try_from(unix_seconds(SystemTime::now()) + 2).unwrap_or(i64::MAX);
        self.store.put_gone(&entry(hash), version, REMEMBERED).await;
    }

    /// Makes the next request with this key ask the database: after its owner was given rights or let in again.
    pub async fn forget(&self, hash: &[u8]) {
        self.store.forget(&entry(hash)).await;
    }

    async fn look_up(&self, hash: &[u8], now: u64) -> Result<Option<Owner>, Failure> {
        self.database
            .read(|client| {
                Box::pin(async move {
                    let rows = client.query_typed(self.owner_sql, &[(&hash, Type::BYTEA)]).await?;
                    Ok(rows.first().map(|row| Owner {
                        user_id: row.get(0),
                        username: row.get(1),
                        role: row.get::<_, &str>(2).parse().unwrap_or(Role::Viewer),
                        is_active: row.get(3),
                        seen_at: now,
                    }))
                })
            })
            .await
    }
}

fn admit(owner: Owner) -> Result<Principal, Problem> {
    if !owner.is_active {
        return Err(refused());
    }
    Ok(Principal { user_id: owner.user_id, username: owner.username, role: owner.role, session_id: String::new() })
}

fn refused() -> Problem {
    Problem::unauthorized("the API key is not valid; it may have been rotated")
}

/// 256 random bits need no slow hash: nothing can be guessed from it.
fn hash(key: &str) -> Vec<u8> {
    Sha256::digest(key.as_bytes()).to_vec()
}

fn entry(hash: &[u8]) -> String {
    format!("apikey:{}", crate::random::hex(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::pool::PoolOptions;

    fn keys() -> ApiKeys {
        let database = Database::new(&PoolOptions {
            url: "postgres://nobody@127.0.0.1:1/nothing".into(),
            size: 1,
            acquire_timeout: Duration::from_millis(50),
            application_name: "test".into(),
        });
        ApiKeys::new(database.unwrap(), Cache::new("keys", None, Metrics::new()).unwrap(), "int_", "SELECT")
    }

    #[tokio::test]
    async fn shows_enough_of_a_key_to_tell_it_and_not_more() {
        let (one, two) = (keys().make(), keys().make());
        assert!(one.text.starts_with("int_") && one.text.len() == 4 + 43, "{}", one.text.len());
        assert!(one.text.starts_with(&one.shown) && one.shown.len() == 10);
        assert_ne!(one.hash, two.hash);
    }

    #[tokio::test]
    async fn finds_a_key_in_either_header_and_leaves_tokens_alone() {
        let keys = keys();
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            keys.in_headers(&headers).map(str::to_owned)
        };
        assert_eq!(with("x-api-key", "int_abc").as_deref(), Some("int_abc"));
        assert_eq!(with("authorization", "bearer int_abc").as_deref(), Some("int_abc"));
        assert_eq!(with("authorization", "Bearer eyJ.x.y"), None);
        assert_eq!(with("authorization", "Basic int_abc"), None);
    }

    #[tokio::test]
    async fn refuses_a_text_that_is_no_key_without_asking_anybody() {
        assert_eq!(keys().principal("nonsense").await.unwrap_err().status().as_u16(), 401);
    }
}
