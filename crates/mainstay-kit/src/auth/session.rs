//! Sessions and their refresh tokens: opaque, stored as hashes, replaced at every use, and the whole
//! session ends when an old one comes back.
//!
//! A session's present state is remembered in the Redis store as `session:{id}` for 30 minutes, but
//! trusted for [`TRUST`] only; after that the database is asked. While the database does not answer,
//! what was seen within the 30 minutes still counts, so that a failover signs nobody out.
//!
//! The tables that it needs:
//! ```sql
//! CREATE TABLE sessions (
//!     id text PRIMARY KEY, user_id bigint NOT NULL, created_at timestamptz NOT NULL,
//!     expires_at timestamptz NOT NULL, ended_at timestamptz, ended_because text);
//! CREATE TABLE refresh_tokens (
//!     hash bytea PRIMARY KEY, session_id text NOT NULL REFERENCES sessions ON DELETE CASCADE,
//!     created_at timestamptz NOT NULL, used_at timestamptz);
//! ```

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};

use super::{Claims, Principal, REFRESH_TTL, Role};
use crate::cache::{Cache, Lookup};
use crate::pool::{Database, Failure};
use crate::problem::Problem;
use crate::time::unix_seconds;

/// **Source**: document 004, `session:{userId}` 30 minutes; ours is keyed by session, so that a
/// user may have several.
const REMEMBERED: Duration = Duration::from_secs(30 * 60);
/// How long a remembered state is taken without asking the database.
pub const TRUST: Duration = Duration::from_secs(30);
/// A used refresh token is taken once more within this time: its answer may have been lost on the
/// way, or two tabs asked at once. Declared weakening of reuse detection.
const REUSE_GRACE: Duration = Duration::from_secs(10);

/// What the database says about a session at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    user_id: i64,
    username: String,
    role: Role,
    holds: bool,
    seen_at: u64,
    /// Of a browser's session: what its cookie must hash to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_hash: Option<String>,
}

/// A new pair's refresh half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The session.
    pub session_id: String,
    /// Its owner.
    pub user_id: i64,
    /// Shown to the client once, never stored.
    pub refresh_token: String,
}

/// What became of a refresh token that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// Replaced.
    Renewed(Opened),
    /// Unknown, expired, or of a session that has ended.
    Refused,
    /// It had been used before: somebody has a copy. The session has been ended.
    Reused {
        /// The ended session.
        session_id: String,
        /// Its owner.
        user_id: i64,
    },
}

/// Opens, renews, checks and ends sessions.
#[derive(Clone)]
pub struct Sessions {
    database: Database,
    store: Cache,
    /// `SELECT username, role, is_active FROM … WHERE id = $1` in the application's own table.
    account_sql: &'static str,
}

impl Sessions {
    /// `account_sql` takes a user id and gives `username text, role text, is_active bool`.
    #[must_use]
    pub fn new(database: Database, store: Cache, account_sql: &'static str) -> Self {
        Self { database, store, account_sql }
    }

    pub(super) fn database(&self) -> &Database {
        &self.database
    }

    /// Opens a session; the caller has checked the password.
    pub async fn open(&self, transaction: &Transaction<'_>, user_id: i64, now: SystemTime) -> Result<Opened, Failure> {
        let session_id = crate::random::token::<16>();
        let sql = "INSERT INTO sessions (id, user_id, created_at, expires_at) VALUES ($1, $2, $3, $4)";
        transaction
            .query_typed(
                sql,
                &[
                    (&session_id, Type::TEXT),
                    (&user_id, Type::INT8),
                    (&now, Type::TIMESTAMPTZ),
                    (&(now + REFRESH_TTL), Type::TIMESTAMPTZ),
                ],
            )
            .await?;
        let refresh_token = add_token(transaction, &session_id, now).await?;
        Ok(Opened { session_id, user_id, refresh_token })
    }

    /// Replaces a refresh token. The caller commits in every case: ending a session on reuse is a
    /// change that must last.
    pub async fn rotate(
        &self,
        transaction: &Transaction<'_>,
        refresh_token: &str,
        now: SystemTime,
    ) -> Result<Rotation, Failure> {
        let hash = hash(refresh_token);
        let sql = "SELECT s.id, s.user_id, s.expires_at, s.ended_at IS NOT NULL, t.used_at \
             FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id WHERE t.hash = $1 FOR UPDATE";
        let rows = transaction.query_typed(sql, &[(&hash, Type::BYTEA)]).await?;
        let Some(row) = rows.first() else {
            return Ok(Rotation::Refused);
        };
        let (session_id, user_id): (String, i64) = (row.get(0), row.get(1));
        match decide(row.get(2), row.get(3), row.get(4), now) {
            Decision::Refuse => Ok(Rotation::Refused),
            Decision::End => {
                self.end(transaction, &session_id, "refresh token reused", now).await?;
                Ok(Rotation::Reused { session_id, user_id })
            }
            Decision::Renew => {
                let sql = "UPDATE refresh_tokens SET used_at = coalesce(used_at, $2) WHERE hash = $1";
                transaction.query_typed(sql, &[(&hash, Type::BYTEA), (&now, Type::TIMESTAMPTZ)]).await?;
                let refresh_token = add_token(transaction, &session_id, now).await?;
                Ok(Rotation::Renewed(Opened { session_id, user_id, refresh_token }))
            }
        }
    }

    /// Ends one session. Call [`Sessions::forget`] after the commit.
    pub async fn end(
        &self,
        transaction: &Transaction<'_>,
        session_id: &str,
        because: &str,
        now: SystemTime,
    ) -> Result<(), Failure> {
        let sql = "UPDATE sessions SET ended_at = $2, ended_because = $3 WHERE id = $1 AND ended_at IS NULL";
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&session_id, Type::TEXT), (&now, Type::TIMESTAMPTZ), (&because, Type::TEXT)];
        transaction.query_typed(sql, &parameters).await?;
        Ok(())
    }

    /// Ends one session that holds, of this user if one is named, and says whether there was one.
    /// Call [`Sessions::forget`] after the commit.
    pub async fn end_if_open(
        &self,
        transaction: &Transaction<'_>,
        session_id: &str,
        user_id: Option<i64>,
        because: &str,
        now: SystemTime,
    ) -> Result<bool, Failure> {
        let sql = "UPDATE sessions SET ended_at = $2, ended_because = $3 WHERE id = $1 AND ended_at IS NULL \
             AND expires_at > $2 AND ($4::bigint IS NULL OR user_id = $4) RETURNING 1";
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] =
            [(&session_id, Type::TEXT), (&now, Type::TIMESTAMPTZ), (&because, Type::TEXT), (&user_id, Type::INT8)];
        let rows = transaction.query_typed(sql, &parameters).await?;
        Ok(!rows.is_empty())
    }

    /// Ends all sessions of a user and says which. Call [`Sessions::forget`] after the commit.
    pub async fn end_all(
        &self,
        transaction: &Transaction<'_>,
        user_id: i64,
        because: &str,
        now: SystemTime,
    ) -> Result<Vec<String>, Failure> {
        let sql = "UPDATE sessions SET ended_at = $2, ended_because = $3 \
             WHERE user_id = $1 AND ended_at IS NULL AND expires_at > $2 RETURNING id";
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&user_id, Type::INT8), (&now, Type::TIMESTAMPTZ), (&because, Type::TEXT)];
        let rows = transaction.query_typed(sql, &parameters).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Sessions of a user that still hold; after a change of rights they must be forgotten.
    pub async fn of_user(&self, transaction: &Transaction<'_>, user_id: i64) -> Result<Vec<String>, Failure> {
        let sql = "SELECT id FROM sessions WHERE user_id = $1 AND ended_at IS NULL AND expires_at > now()";
        let rows = transaction.query_typed(sql, &[(&user_id, Type::INT8)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Makes the next request of these sessions ask the database.
    pub async fn forget(&self, session_ids: &[String]) {
        for id in session_ids {
            self.store.forget(&key(id)).await;
        }
    }

    /// Removes what has expired, a bounded number at once; says how many sessions went.
    pub async fn purge(&self) -> Result<u64, Failure> {
        self.database
            .transaction(|transaction| {
                Box::pin(async move {
                    let sql = "DELETE FROM sessions WHERE id IN \
                         (SELECT id FROM sessions WHERE expires_at < now() LIMIT 1000) RETURNING 1";
                    let rows = transaction.query_typed(sql, &[]).await?;
                    Ok(rows.len() as u64)
                })
            })
            .await
    }

    /// The caller behind a browser's cookie, with present rights. Prolongs the session.
    ///
    /// **Errors**: as [`Sessions::principal`].
    pub(super) async fn principal_of_cookie(&self, session_id: &str, secret: &str) -> Result<Principal, Problem> {
        let now = unix_seconds(SystemTime::now());
        let secret_hash = hash(secret);
        let shown_hash = crate::random::hex(&secret_hash);
        let remembered = match self.store.get::<Remembered>(&key(session_id)).await {
            Lookup::Hit(remembered) if remembered.secret_hash.as_ref() == Some(&shown_hash) => Some(remembered),
            Lookup::Hit(_) | Lookup::Gone | Lookup::Miss => None,
        };
        if let Some(fresh) = remembered.as_ref().filter(|r| now.saturating_sub(r.seen_at) < TRUST.as_secs()) {
            return admit_browser(fresh.clone(), session_id);
        }
        let found = match self.touch(session_id, &secret_hash).await {
            Ok(None) => return Err(ended()),
            Ok(Some(user_id)) => self.account(user_id, true, now).await,
            Err(failure) => Err(failure),
        };
        match found {
            Ok(Some(found)) => {
                let found = Remembered { secret_hash: Some(shown_hash), ..found };
                let version = i64::try_from(now).unwrap_or(i64::MAX);
                self.store.put(&key(session_id), version, &found, REMEMBERED).await;
                admit_browser(found, session_id)
            }
            Ok(None) => Err(ended()),
            Err(failure) => match (remembered, failure) {
                (Some(older), Failure::Unavailable(_) | Failure::OutcomeUnknown) => admit_browser(older, session_id),
                (_, failure) => Err(failure.into()),
            },
        }
    }

    /// Present name and rights of a user; `None` when there is no such user.
    async fn account(&self, user_id: i64, holds: bool, now: u64) -> Result<Option<Remembered>, Failure> {
        self.database
            .read(|client| {
                Box::pin(async move {
                    let rows = client.query_typed(self.account_sql, &[(&user_id, Type::INT8)]).await?;
                    Ok(rows.first().map(|row| remembered(user_id, row, holds, now)))
                })
            })
            .await
    }

    /// The caller behind verified claims, with present rights.
    ///
    /// **Errors**: 401 when the session has ended or its user is inactive; 503 when nobody can be asked.
    pub async fn principal(&self, claims: &Claims) -> Result<Principal, Problem> {
        let now = unix_seconds(SystemTime::now());
        let remembered = match self.store.get::<Remembered>(&key(&claims.sid)).await {
            Lookup::Hit(remembered) => Some(remembered),
            Lookup::Gone | Lookup::Miss => None,
        };
        if let Some(fresh) = remembered.as_ref().filter(|r| now.saturating_sub(r.seen_at) < TRUST.as_secs()) {
            return admit(fresh.clone(), claims);
        }
        match self.look_up(&claims.sid, now).await {
            Ok(Some(found)) => {
                // The moment of looking is the version: a later look wins.
                let version = i64::try_from(found.seen_at).unwrap_or(i64::MAX);
                self.store.put(&key(&claims.sid), version, &found, REMEMBERED).await;
                admit(found, claims)
            }
            Ok(None) => Err(ended()),
            Err(failure) => match (remembered, failure) {
                (Some(older), Failure::Unavailable(_)) => admit(older, claims),
                (_, failure) => Err(failure.into()),
            },
        }
    }

    async fn look_up(&self, session_id: &str, now: u64) -> Result<Option<Remembered>, Failure> {
        self.database
            .read(|client| {
                Box::pin(async move {
                    let sql = "SELECT user_id, ended_at IS NULL AND expires_at > now() FROM sessions WHERE id = $1";
                    let rows = client.query_typed(sql, &[(&session_id, Type::TEXT)]).await?;
                    let Some(session) = rows.first() else { return Ok(None) };
                    let user_id: i64 = session.get(0);
                    let rows = client.query_typed(self.account_sql, &[(&user_id, Type::INT8)]).await?;
                    Ok(rows.first().map(|row| remembered(user_id, row, session.get(1), now)))
                })
            })
            .await
    }
}

fn remembered(user_id: i64, account: &Row, holds: bool, now: u64) -> Remembered {
    let role: &str = account.get(1);
    Remembered {
        user_id,
        username: account.get(0),
        role: role.parse().unwrap_or(Role::Viewer),
        holds: holds && account.get::<_, bool>(2),
        seen_at: now,
        secret_hash: None,
    }
}

fn admit_browser(remembered: Remembered, session_id: &str) -> Result<Principal, Problem> {
    if !remembered.holds {
        return Err(ended());
    }
    Ok(Principal {
        user_id: remembered.user_id,
        username: remembered.username,
        role: remembered.role,
        session_id: session_id.to_owned(),
    })
}

fn admit(remembered: Remembered, claims: &Claims) -> Result<Principal, Problem> {
    if !remembered.holds || remembered.user_id.to_string() != claims.sub {
        return Err(ended());
    }
    Ok(Principal {
        user_id: remembered.user_id,
        username: remembered.username,
        role: remembered.role,
        session_id: claims.sid.clone(),
    })
}

fn ended() -> Problem {
    Problem::unauthorized("the session has ended; sign in again")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Renew,
    Refuse,
    End,
}

fn decide(expires_at: SystemTime, has_ended: bool, used_at: Option<SystemTime>, now: SystemTime) -> Decision {
    if has_ended || expires_at <= now {
        return Decision::Refuse;
    }
    match used_at {
        None => Decision::Renew,
        Some(used_at) if now.duration_since(used_at).unwrap_or(Duration::ZERO) < REUSE_GRACE => Decision::Renew,
        Some(_) => Decision::End,
    }
}

async fn add_token(transaction: &Transaction<'_>, session_id: &str, now: SystemTime) -> Result<String, Failure> {
    let token = crate::random::token::<32>();
    let sql = "INSERT INTO refresh_tokens (hash, session_id, created_at) VALUES ($1, $2, $3)";
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
        [(&hash(&token), Type::BYTEA), (&session_id, Type::TEXT), (&now, Type::TIMESTAMPTZ)];
    transaction.query_typed(sql, &parameters).await?;
    Ok(token)
}

/// A token has 256 random bits, so a fast hash is enough; nothing can be guessed from it.
pub(super) fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

fn key(session_id: &str) -> String {
    format!("session:{session_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn renews_an_unused_token_until_the_session_expires() {
        let now = SystemTime::UNIX_EPOCH + REFRESH_TTL;
        assert_eq!(decide(now + SECOND, false, None, now), Decision::Renew);
        assert_eq!(decide(now, false, None, now), Decision::Refuse);
        assert_eq!(decide(now + SECOND, true, None, now), Decision::Refuse);
    }

    #[test]
    fn ends_the_session_when_a_used_token_comes_back_after_the_grace() {
        let used = SystemTime::UNIX_EPOCH + REFRESH_TTL;
        let expires = used + REFRESH_TTL;
        assert_eq!(decide(expires, false, Some(used), used + 9 * SECOND), Decision::Renew);
        assert_eq!(decide(expires, false, Some(used), used + 10 * SECOND), Decision::End);
        // A clock that was set back must not sign the user out.
        assert_eq!(decide(expires, false, Some(used), used - SECOND), Decision::Renew);
    }

    #[test]
    fn admits_only_the_owner_of_a_session_that_holds() {
        let claims = Claims {
            iss: "users".into(),
            sub: "17".into(),
            name: "ada".into(),
            role: Role::Admin,
            sid: "s".into(),
            iat: 0,
            exp: 0,
            kind: "access".into(),
        };
        let remembered = Remembered {
            user_id: 17,
            username: "ada".into(),
            role: Role::Viewer,
            holds: true,
            seen_at: 0,
            secret_hash: None,
        };
        let principal = admit(remembered.clone(), &claims).unwrap();
        assert_eq!(principal.role, Role::Viewer, "rights of now, not those in the token");
        assert!(admit(Remembered { holds: false, ..remembered.clone() }, &claims).is_err());
        assert!(admit(Remembered { user_id: 18, ..remembered }, &claims).is_err());
    }
}
