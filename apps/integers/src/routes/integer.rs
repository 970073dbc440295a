//! The counter: where it stands, the next integers, setting it, and how much it was used.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use mainstay_kit::audit;
use mainstay_kit::cache::Lookup;
use mainstay_kit::idempotency::{CONSTRAINT, Key, REPLAYED, find, fingerprint};
use mainstay_kit::pool::Failure;
use mainstay_kit::problem::Problem;
use mainstay_kit::telemetry;
use mainstay_kit::time::unix_seconds;
use mainstay_kit::validation::Checks;
use serde::Deserialize;
use serde_json::json;

use crate::model::{Form, Issued, NextQuery, Position, SetValue};
use crate::state::{AppState, Caller};
use crate::store::{self, Day};

/// How often an increment with a key is tried again after its outcome became unknown.
const UNKNOWN_MAX: u32 = 3;
/// Usage may be this old; a value never.
const USAGE_TTL: Duration = Duration::from_secs(30);
const DAYS_MAX: i32 = 90;
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// `GET /api/v1/integer`: from the primary.
pub(super) async fn current(
    State(state): State<AppState>,
    Caller(caller): Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = caller.user_id;
    let position = state.database.read(|client| Box::pin(async move { store::position(&*client, id).await })).await?;
    Ok(Form::of(&headers).position(id, position))
}

/// `POST /api/v1/integer/next`: without `Idempotency-Key` a request whose answer is lost may have counted.
pub(super) async fn next_by_post(
    State(state): State<AppState>,
    Caller(caller): Caller,
    query: Result<Query<NextQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = Key::from_headers(&headers)?;
    next(&state, caller.user_id, query?.0.check()?, key, &headers).await
}

/// `PUT /api/v1/integer/next`: kept for those who call it so. PUT promises that once more changes nothing,
/// and the edge relies on it when an instance dies; without a key the edge's name for the request is the key.
pub(super) async fn next_by_put(
    State(state): State<AppState>,
    Caller(caller): Caller,
    query: Result<Query<NextQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = Key::from_headers(&headers)?
        .or_else(|| telemetry::current().map(|identity| Key::of_request(&identity.request_id)));
    next(&state, caller.user_id, query?.0.check()?, key, &headers).await
}

async fn next(
    state: &AppState,
    user_id: i64,
    n: i64,
    key: Option<Key>,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let result = match &key {
        None => {
            let issued =
                state.database.write(|client| Box::pin(async move { store::advance(&client, user_id, n).await })).await;
            if matches!(issued, Err(Failure::OutcomeUnknown)) {
                state.metrics.add("integers_outcomes_unknown_total", &[("end", "told")], 1.0);
            }
            issued.map(|issued| (issued, false))
        }
        Some(key) => once(state, user_id, n, key).await,
    };
    let (issued, is_replay) = result.map_err(|failure| match failure.is_out_of_range() {
        true => Problem::conflict(format!("fewer than {n} integers are left up to {}", i64::MAX)),
        false => failure.into(),
    })?;
    let mut response = Form::of(headers).issued(user_id, issued);
    if is_replay {
        state.metrics.add("integers_idempotent_replays_total", &[], 1.0);
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    } else {
        state.metrics.add("integers_increments_total", &[], 1.0);
        state.metrics.add("integers_issued_total", &[], f64::from(i32::try_from(issued.n).unwrap_or(0)));
    }
    Ok(response)
}

/// An increment with a key happens once. When its outcome becomes unknown, the same statement is sent
/// again: either it finds the stored answer, or it makes one; both cannot be there.
async fn once(state: &AppState, user_id: i64, n: i64, key: &Key) -> Result<(Issued, bool), Failure> {
    let fingerprint = fingerprint(&[b"next", &n.to_be_bytes()]);
    let fingerprint = fingerprint.as_slice();
    let mut unknown = 0;
    loop {
        let result = state
            .database
            .write(|client| Box::pin(async move { store::advance_once(&client, user_id, n, key, fingerprint).await }))
            .await;
        match result {
            Ok(issued) => {
                settled(state, unknown);
                return Ok((issued, false));
            }
            Err(Failure::OutcomeUnknown) if unknown < UNKNOWN_MAX => unknown += 1,
            Err(failure) if failure.unique_constraint() == Some(CONSTRAINT) => {
                let answer = state
                    .database
                    .read(|client| Box::pin(async move { find(&*client, user_id, key, fingerprint).await }))
                    .await?;
                settled(state, unknown);
                let answer = answer
                    .ok_or_else(|| Problem::conflict("the key has just expired; send the request with a new one"))?;
                return Ok((store::issued(&answer)?, true));
            }
            Err(failure) => {
                if matches!(failure, Failure::OutcomeUnknown) {
                    state.metrics.add("integers_outcomes_unknown_total", &[("end", "told")], 1.0);
                }
                return Err(failure);
            }
        }
    }
}

fn settled(state: &AppState, unknown: u32) {
    if unknown > 0 {
        state.metrics.add("integers_outcomes_unknown_total", &[("end", "settled")], 1.0);
    }
}

/// `PUT /api/v1/integer`: sets the counter.
pub(super) async fn set(
    State(state): State<AppState>,
    Caller(caller): Caller,
    headers: HeaderMap,
    body: Result<Json<SetValue>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(wanted) = body?;
    wanted.check()?;
    let (caller, wanted) = (&caller, &wanted);
    let position = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let before = store::lock_position(&transaction, caller.user_id).await?;
                if wanted.value < before.value && !wanted.confirm {
                    let text = "the counter is at a higher value; with \"confirm\": true it is set back, \
                         and integers will be issued a second time";
                    return Err(Problem::conflict(text).into());
                }
                let epoch = before.epoch + i64::from(wanted.value < before.value);
                let after = Position { value: wanted.value, epoch };
                if after != before {
                    store::set_position(&transaction, caller.user_id, after).await?;
                    let entry = audit::Entry {
                        actor: &caller.username,
                        action: "integer.set",
                        subject: &format!("user:{}", caller.user_id),
                        details: json!({ "from": before.value, "to": after.value, "epoch": epoch }).to_string(),
                    };
                    audit::append(&transaction, &entry).await?;
                }
                Ok(after)
            })
        })
        .await?;
    state.metrics.add("integers_resets_total", &[], 1.0);
    Ok(Form::of(&headers).position(caller.user_id, position))
}

/// `?days=30`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UsageQuery {
    days: Option<i32>,
}

/// `GET /api/v1/usage`: at most 30 s old.
pub(super) async fn usage(
    State(state): State<AppState>,
    Caller(caller): Caller,
    query: Result<Query<UsageQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let days = query?.0.days.unwrap_or(30);
    let mut checks = Checks::new();
    if !(1..=DAYS_MAX).contains(&days) {
        checks.reject("days", "range", format!("must be 1 to {DAYS_MAX}, is {days}"));
    }
    checks.finish()?;
    let (id, key) = (caller.user_id, format!("usage:{}:{days}", caller.user_id));
    let (usage, cache) = match state.cache.get::<Vec<Day>>(&key).await {
        Lookup::Hit(usage) => (usage, "hit"),
        Lookup::Gone | Lookup::Miss => {
            let version = i64::try_from(unix_seconds(std::time::SystemTime::now())).unwrap_or(i64::MAX);
            let usage =
                state.database.read(|client| Box::pin(async move { store::usage(&client, id, days).await })).await?;
            state.cache.put(&key, version, &usage, USAGE_TTL).await;
            (usage, "miss")
        }
    };
    let total = |of: fn(&Day) -> i64| usage.iter().map(of).sum::<i64>();
    let body = json!({
        "calls": total(|day| day.calls), "integers": total(|day| day.integers), "days": usage,
    });
    let headers = [(X_CACHE, cache), (header::CACHE_CONTROL, "private, no-cache")];
    Ok((headers, Json(body)).into_response())
}
