//! So many requests of a user at an endpoint in a minute, counted in Redis for all instances together.
//!
//! **Source**: document 004: 100 requests a minute, key `rate:{userId}:{endpoint}`, lives 1 minute.
//! The window begins with its first request, so each window lets through exactly the limit; two
//! windows that follow each other may put twice that into one minute. Without Redis nothing is
//! limited, and `rate_limit_skipped_total` counts it. Limits by address belong to the edge.

use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::auth::{Authenticator, Principal};
use crate::cache::Cache;
use crate::metrics::{Kind, Metrics};
use crate::problem::Problem;

/// **Source**: document 004.
pub const WINDOW: Duration = Duration::from_secs(60);
/// **Source**: draft-ietf-httpapi-ratelimit-headers.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Who is calling, found once for a request and kept in its extensions.
#[derive(Clone)]
pub struct Resolved(pub Result<Principal, Problem>);

/// Name of the caller, left in the extensions of the answer for whoever records exchanges.
#[derive(Clone, Debug)]
pub struct AnsweredTo {
    /// User name.
    pub username: String,
    /// Session.
    pub session_id: String,
}

/// Settings of [`limit_users`].
#[derive(Clone)]
pub struct UserLimit {
    auth: Authenticator,
    store: Cache,
    metrics: Metrics,
    per_minute: u64,
}

impl UserLimit {
    /// `per_minute` 0 limits nothing.
    #[must_use]
    pub fn new(auth: Authenticator, store: Cache, metrics: Metrics, per_minute: u64) -> Self {
        metrics.describe("rate_limit_refused_total", Kind::Counter, "Requests refused because of the limit per user");
        metrics.describe("rate_limit_skipped_total", Kind::Counter, "Requests let through because Redis did not count");
        Self { auth, store, metrics, per_minute }
    }
}

/// Middleware: finds the caller and counts the request. Requests without a caller pass; what they
/// may do is decided by the handler.
pub async fn limit_users(State(limit): State<UserLimit>, mut request: Request, next: Next) -> Response {
    if !limit.auth.has_credentials(request.headers()) {
        return next.run(request).await;
    }
    let endpoint =
        request.extensions().get::<MatchedPath>().map_or_else(|| "UNKNOWN".to_owned(), |path| path.as_str().to_owned());
    let endpoint = format!("{} {endpoint}", request.method());
    let resolved = limit.auth.authenticate_request(request.method(), request.headers()).await;
    let caller = resolved.as_ref().ok().map(|principal| (principal.user_id, answered_to(principal)));
    request.extensions_mut().insert(Resolved(resolved));
    let Some((user_id, answered_to)) = caller else {
        return next.run(request).await;
    };
    let count = match limit.per_minute {
        0 => None,
        _ => limit.store.count_in_window(&key(user_id, &endpoint), WINDOW).await,
    };
    let mut response = match &count {
        Some((number, left)) if *number > limit.per_minute => {
            limit.metrics.add("rate_limit_refused_total", &[], 1.0);
            Problem::too_many_requests(seconds(*left)).into_response()
        }
        _ => next.run(request).await,
    };
    response.extensions_mut().insert(answered_to);
    match count {
        Some((number, left)) => write_headers(&mut response, limit.per_minute, number, left),
        None if limit.per_minute > 0 => limit.metrics.add("rate_limit_skipped_total", &[], 1.0),
        None => {}
    }
    response
}

fn answered_to(principal: &Principal) -> AnsweredTo {
    AnsweredTo { username: principal.username.clone(), session_id: principal.session_id.clone() }
}

fn write_headers(response: &mut Response, per_minute: u64, number: u64, left: Duration) {
    let remaining = per_minute.saturating_sub(number);
    let limit = format!("\"user\";r={remaining};t={}", seconds(left));
    let policy = format!("\"user\";q={per_minute};w={}", WINDOW.as_secs());
    for (name, text) in [(RATE_LIMIT, limit), (RATE_LIMIT_POLICY, policy)] {
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(name, value);
        }
    }
}

/// Until the window ends, rounded up: who waits that long is let through.
fn seconds(left: Duration) -> u64 {
    left.as_millis().div_ceil(1_000).try_into().unwrap_or(WINDOW.as_secs())
}

fn key(user_id: i64, endpoint: &str) -> String {
    format!("rate:{user_id}:{endpoint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_as_long_as_told_is_let_through() {
        for (millis, wait) in [(60_000, 60), (59_001, 60), (1, 1), (0, 0)] {
            assert_eq!(seconds(Duration::from_millis(millis)), wait);
        }
    }

    #[test]
    fn keys_are_those_of_the_document() {
        assert_eq!(key(7, "GET /api/users/{id}"), "rate:7:GET /api/users/{id}");
    }
}
