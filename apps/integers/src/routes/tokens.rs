//! Signing in, staying in, signing out.

use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mainstay_kit::audit;
use mainstay_kit::auth::{ACCESS_TTL, Opened, Principal, Role, Rotation};
use mainstay_kit::pool::Failure;
use mainstay_kit::problem::Problem;
use mainstay_kit::tokio_postgres::Transaction;
use serde::Deserialize;
use serde_json::json;

use super::address;
use crate::model::{Credentials, User};
use crate::state::AppState;
use crate::store;

/// Attempts of one address at one name in a minute. Bound to the address, so that nobody can lock
/// somebody else out.
const ATTEMPTS_MAX: u64 = 20;
const WRONG: &str = "user name or password is wrong";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RefreshBody {
    refresh_token: String,
}

/// `POST /auth/token`: a pair of tokens for a name and its password.
pub(super) async fn token(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Result<Json<Credentials>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(given) = body?;
    given.check_known()?;
    let key = format!("rate:{}@{}:login", given.username.to_lowercase(), address(&headers));
    state.limit(&key, ATTEMPTS_MAX).await?;
    let username = given.username.as_str();
    let found = state.database.read(|client| Box::pin(async move { store::account(&*client, username).await })).await?;
    let stored = found.as_ref().map(|account| account.password_hash.clone());
    let fits = state.passwords.verify(given.password.clone(), stored).await?;
    let Some(account) = found.filter(|account| fits && account.user.is_active) else {
        count(&state, "refused");
        // One answer for unknown, inactive and wrong: who has an account is nobody's business.
        return Err(Problem::unauthorized(WRONG));
    };
    let (user, sessions) = (&account.user, &state.auth.sessions);
    let opened = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let opened = sessions.open(&transaction, user.id, SystemTime::now()).await?;
                record(&transaction, user, "session.opened", &opened.session_id).await?;
                Ok(opened)
            })
        })
        .await?;
    count(&state, "accepted");
    answer(&state, &opened, user)
}

/// `POST /auth/refresh`: a new pair for a refresh token, which is then used up.
pub(super) async fn refresh(
    State(state): State<AppState>,
    body: Result<Json<RefreshBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(RefreshBody { refresh_token }) = body?;
    let (token, sessions) = (refresh_token.as_str(), &state.auth.sessions);
    let (rotation, user) = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let rotation = sessions.rotate(&transaction, token, SystemTime::now()).await?;
                let user_id = match &rotation {
                    Rotation::Refused => return Ok((rotation, None)),
                    Rotation::Renewed(Opened { user_id, .. }) | Rotation::Reused { user_id, .. } => *user_id,
                };
                let user = store::find_user(&*transaction, user_id).await?;
                if let (Rotation::Reused { session_id, .. }, Some(user)) = (&rotation, &user) {
                    record(&transaction, user, "session.reuse-detected", session_id).await?;
                }
                Ok((rotation, user.filter(|user| user.is_active)))
            })
        })
        .await?;
    match (rotation, user) {
        (Rotation::Renewed(opened), Some(user)) => answer(&state, &opened, &user),
        (Rotation::Reused { session_id, .. }, _) => {
            sessions.forget(&[session_id]).await;
            count(&state, "reused");
            Err(Problem::unauthorized("the refresh token was used before; the session has been ended, sign in again"))
        }
        (Rotation::Renewed(_) | Rotation::Refused, _) => {
            Err(Problem::unauthorized("the refresh token is not valid any more; sign in again"))
        }
    }
}

/// `POST /auth/logout`: 204, ends the session of the access token.
pub(super) async fn logout(State(state): State<AppState>, caller: Principal) -> Result<StatusCode, Problem> {
    let (caller, sessions) = (&caller, &state.auth.sessions);
    state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                sessions.end(&transaction, &caller.session_id, "signed out", SystemTime::now()).await?;
                let entry = audit::Entry {
                    actor: &caller.username,
                    action: "session.ended",
                    subject: &format!("user:{}", caller.user_id),
                    details: json!({ "session": caller.session_id }).to_string(),
                };
                audit::append(&transaction, &entry).await
            })
        })
        .await?;
    sessions.forget(std::slice::from_ref(&caller.session_id)).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn record(transaction: &Transaction<'_>, user: &User, action: &str, session_id: &str) -> Result<(), Failure> {
    let entry = audit::Entry {
        actor: &user.username,
        action,
        subject: &format!("user:{}", user.id),
        details: json!({ "session": session_id }).to_string(),
    };
    audit::append(transaction, &entry).await
}

fn answer(state: &AppState, opened: &Opened, user: &User) -> Result<Response, Problem> {
    let role = if user.role == "admin" { Role::Admin } else { Role::Editor };
    let access_token = state
        .auth
        .tokens
        .issue(SystemTime::now(), user.id, &user.username, role, &opened.session_id)
        .ok_or_else(Problem::internal)?;
    let body = json!({
        "accessToken": access_token,
        "refreshToken": opened.refresh_token,
        "tokenType": "Bearer",
        "expiresIn": ACCESS_TTL.as_secs(),
        "user": user,
    });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

fn count(state: &AppState, outcome: &str) {
    state.metrics.add("integers_signins_total", &[("outcome", outcome)], 1.0);
}
