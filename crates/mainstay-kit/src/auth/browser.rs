//! Sessions of browsers: an opaque cookie that scripts cannot read, 30 minutes from the last
//! request, 7 days at most; and the list of a user's sessions of both kinds.
//!
//! A cookie is sent by the browser itself, so every request that may change something must also
//! carry [`CSRF_HEADER`], a value that other sites cannot read; `SameSite=Strict` is the second lock.
//!
//! Beside the columns of [`super::Sessions`] the table needs:
//! ```sql
//! ALTER TABLE sessions
//!     ADD COLUMN secret_hash bytea, ADD COLUMN last_seen_at timestamptz NOT NULL DEFAULT now(),
//!     ADD COLUMN address text NOT NULL DEFAULT '', ADD COLUMN agent text NOT NULL DEFAULT '';
//! ```

use std::time::{Duration, SystemTime};

use axum::http::{HeaderMap, HeaderName, Method, header};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Transaction};

use super::REFRESH_TTL;
use super::session::{Sessions, hash};
use crate::pool::Failure;
use crate::problem::Problem;

/// Without a request for this long a browser is signed out. **Source**: document 004, 30 minutes.
pub const IDLE: Duration = Duration::from_secs(30 * 60);
/// Carries the value that proves that our own page sends the request.
pub const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");
/// `__Host-`: only over HTTPS, only for this host, whatever a sibling domain tries to set.
const COOKIE: &str = "__Host-session";

/// Where a session was opened from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// As the edge saw it.
    pub address: String,
    /// What the client says it is, cut.
    pub agent: String,
}

impl Origin {
    /// From the headers of the request. The edge writes the address it saw; without an edge it is "local".
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let address = text("x-forwarded-for").rsplit(',').next().unwrap_or_default().trim();
        let address = if address.is_empty() { "local" } else { address };
        Self {
            address: address.chars().take(64).collect(),
            agent: text("user-agent").chars().filter(|c| !c.is_control()).take(200).collect(),
        }
    }
}

/// One session of a user that still holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number; useless without the token or cookie.
    pub id: String,
    /// Owner.
    pub username: String,
    /// A cookie, or tokens.
    pub is_browser: bool,
    /// When it was opened.
    pub created_at: SystemTime,
    /// Of a browser: the last request, up to [`super::session::TRUST`] early. Of tokens: the last renewal.
    pub last_seen_at: SystemTime,
    /// When it ends by itself.
    pub expires_at: SystemTime,
    /// From where.
    pub origin: Origin,
}

impl Sessions {
    /// Opens a session for a browser; gives its number and the value of its cookie.
    pub async fn open_browser(
        &self,
        transaction: &Transaction<'_>,
        user_id: i64,
        origin: &Origin,
        now: SystemTime,
    ) -> Result<(String, String), Failure> {
        let (session_id, secret) = (crate::random::token::<16>(), crate::random::token::<32>());
        let secret_hash = hash(&secret);
        let sql = "INSERT INTO sessions (id, user_id, created_at, expires_at, last_seen_at, secret_hash, address, agent) \
             VALUES ($1, $2, $3, $4, $3, $5, $6, $7)";
        let parameters: [(&(dyn ToSql + Sync), Type); 7] = [
            (&session_id, Type::TEXT),
            (&user_id, Type::INT8),
            (&now, Type::TIMESTAMPTZ),
            (&(now + IDLE), Type::TIMESTAMPTZ),
            (&secret_hash, Type::BYTEA),
            (&origin.address, Type::TEXT),
            (&origin.agent, Type::TEXT),
        ];
        transaction.query_typed(sql, &parameters).await?;
        let cookie = format!("{session_id}.{secret}");
        Ok((session_id, cookie))
    }

    /// Prolongs a browser's session and says whose it is; `None` when it does not hold any more.
    pub(super) async fn touch(&self, session_id: &str, secret_hash: &[u8]) -> Result<Option<i64>, Failure> {
        let (idle, longest) = (IDLE.as_secs_f64(), REFRESH_TTL.as_secs_f64());
        self.database()
            .transaction(|transaction| {
                Box::pin(async move {
                    let sql = "UPDATE sessions SET last_seen_at = now(), expires_at = \
                           least(now() + make_interval(secs => $3), created_at + make_interval(secs => $4)) \
                         WHERE id = $1 AND secret_hash = $2 AND ended_at IS NULL AND expires_at > now() \
                         RETURNING user_id";
                    let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
                        (&session_id, Type::TEXT),
                        (&secret_hash, Type::BYTEA),
                        (&idle, Type::FLOAT8),
                        (&longest, Type::FLOAT8),
                    ];
                    let rows = transaction.query_typed(sql, &parameters).await?;
                    Ok(rows.first().map(|row| row.get(0)))
                })
            })
            .await
    }

    /// Sessions that still hold, newest use first, at most 200: of one user, or of all.
    pub async fn list(&self, client: &Client, user_id: Option<i64>) -> Result<Vec<Listed>, Failure> {
        let sql = "SELECT s.id, u.username, s.secret_hash IS NOT NULL, s.created_at, \
               coalesce((SELECT max(t.created_at) FROM refresh_tokens t WHERE t.session_id = s.id), s.last_seen_at), \
               s.expires_at, s.address, s.agent \
             FROM sessions s JOIN users u ON u.id = s.user_id \
             WHERE s.ended_at IS NULL AND s.expires_at > now() AND ($1::bigint IS NULL OR s.user_id = $1) \
             ORDER BY 5 DESC, s.id LIMIT 200";
        let rows = client.query_typed(sql, &[(&user_id, Type::INT8)]).await?;
        Ok(rows.iter().map(listed).collect())
    }
}

fn listed(row: &Row) -> Listed {
    Listed {
        id: row.get(0),
        username: row.get(1),
        is_browser: row.get(2),
        created_at: row.get(3),
        last_seen_at: row.get(4),
        expires_at: row.get(5),
        origin: Origin { address: row.get(6), agent: row.get(7) },
    }
}

/// `Set-Cookie` of a session.
#[must_use]
pub fn set_cookie(value: &str) -> String {
    format!("{COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Strict")
}

/// `Set-Cookie` that takes it away.
#[must_use]
pub fn clear_cookie() -> String {
    format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0")
}

/// Number and secret from the request's cookie.
pub(super) fn cookie(headers: &HeaderMap) -> Option<(&str, &str)> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == COOKIE)
        .and_then(|(_, value)| value.split_once('.'))
}

/// **Errors**: 403 when a request with a cookie could be another site's.
pub(super) fn check_csrf(method: &Method, headers: &HeaderMap, wanted: &str) -> Result<(), Problem> {
    let changes_nothing = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let given = headers.get(CSRF_HEADER).map(|value| value.as_bytes());
    if changes_nothing || given.is_some_and(|given| is_equal(given, wanted.as_bytes())) {
        return Ok(());
    }
    Err(Problem::forbidden(
        "a request with a cookie must carry the session's X-CSRF-Token; GET /api/auth/session has it",
    ))
}

/// Takes as long wherever the difference is.
fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (x, y)| difference | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn finds_its_cookie_among_others() {
        let headers = with("cookie", "theme=dark; __Host-session=abc.def; x=1");
        assert_eq!(cookie(&headers), Some(("abc", "def")));
        for other in ["session=abc.def", "__Host-session=abc", "x__Host-session=a.b", ""] {
            assert_eq!(cookie(&with("cookie", other)), None, "{other}");
        }
    }

    #[test]
    fn changes_need_the_value_that_other_sites_cannot_read() {
        let nothing = HeaderMap::new();
        assert!(check_csrf(&Method::GET, &nothing, "token").is_ok());
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            assert!(check_csrf(&method, &nothing, "token").is_err());
            assert!(check_csrf(&method, &with("x-csrf-token", "tokem"), "token").is_err());
            assert!(check_csrf(&method, &with("x-csrf-token", ""), "token").is_err());
            assert!(check_csrf(&method, &with("x-csrf-token", "token"), "token").is_ok());
        }
    }

    #[test]
    fn takes_the_address_that_the_edge_wrote() {
        let origin = Origin::of(&with("x-forwarded-for", "10.0.0.1, 192.0.2.7"));
        assert_eq!(origin.address, "192.0.2.7");
        assert_eq!(Origin::of(&HeaderMap::new()).address, "local");
        assert_eq!(Origin::of(&with("user-agent", &"x".repeat(500))).agent.len(), 200);
    }
}
