//! Signing in, staying in, signing out.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use mainstay_kit::audit;
use mainstay_kit::auth::{ACCESS_TTL, Opened, Principal, Rotation, needs_rehash};
use mainstay_kit::problem::Problem;
use mainstay_kit::validation::Checks;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::model::User;
use crate::state::AppState;
use crate::store::{self, By};

/// Attempts of one address at one name in [`ATTEMPT_WINDOW`]. Bound to the address, so that
/// nobody can lock somebody else out.
const ATTEMPTS_MAX: u64 = 20;
/// **Source**: document 004, `rate:{userId}:{endpoint}`, 1 minute.
const ATTEMPT_WINDOW: Duration = Duration::from_secs(60);
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[derive(Deserialize)]
pub(super) struct LoginBody {
    username: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefreshBody {
    refresh_token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PasswordBody {
    current_password: String,
    new_password: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenAnswer {
    access_token: String,
    refresh_token: String,
    token_type: &'static str,
    expires_in: u64,
    user: User,
}

/// `POST /api/auth/login` with user name or e-mail address.
pub(super) async fn login(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Result<Json<LoginBody>, JsonRejection>,
) -> Result<Json<TokenAnswer>, Problem> {
    let Json(LoginBody { username, password }) = body?;
    let mut checks = Checks::new();
    checks.length("/username", &username, 1, 254);
    if password.chars().count() > 128 {
        checks.reject("/password", "length", "must be at most 128 characters");
    }
    checks.finish()?;
    limit(&state, &username, &headers).await?;
    let login = username.as_str();
    let found =
        state.database.read(|client| Box::pin(async move { store::credentials(&*client, login).await })).await?;
    let stored = found.as_ref().and_then(|credentials| credentials.password_hash.clone());
    let fits = state.passwords.verify(password.clone(), stored.clone()).await?;
    let Some(credentials) = found.filter(|credentials| fits && credentials.is_active) else {
        count(&state, "refused");
        // One answer for unknown, inactive and wrong: who has an account is nobody's business.
        return Err(Problem::unauthorized("user name or password is wrong"));
    };
    let stronger = match stored.as_deref().is_some_and(needs_rehash) {
        true => Some(state.passwords.hash(password).await?),
        false => None,
    };
    let (user_id, stronger, sessions) = (credentials.user_id, stronger.as_deref(), &state.auth.sessions);
    let (opened, user) = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let user = store::find(&*transaction, By::Id(user_id))
                    .await?
                    .filter(|user| user.is_active)
                    .ok_or_else(|| Problem::unauthorized("user name or password is wrong"))?;
                if let Some(hash) = stronger {
                    store::rehash(&transaction, user_id, hash).await?;
                }
                let opened = sessions.open(&transaction, user_id, SystemTime::now()).await?;
                let entry = audit::Entry {
                    actor: &user.username,
                    action: "session.opened",
                    subject: &format!("user:{user_id}"),
                    details: json!({ "session": opened.session_id }).to_string(),
                };
                audit::append(&transaction, &entry).await?;
                Ok((opened, user))
            })
        })
        .await?;
    count(&state, "accepted");
    answer(&state, opened, user)
}

/// `POST /api/auth/refresh`: a new pair for a refresh token, which is then used up.
pub(super) async fn refresh(
    State(state): State<AppState>,
    body: Result<Json<RefreshBody>, JsonRejection>,
) -> Result<Json<TokenAnswer>, Problem> {
    let Json(RefreshBody { refresh_token }) = body?;
    let (token, sessions) = (refresh_token.as_str(), &state.auth.sessions);
    let (rotation, user) = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let rotation = sessions.rotate(&transaction, token, SystemTime::now()).await?;
                let user_id = match &rotation {
                    Rotation::Renewed(opened) => opened.user_id,
                    Rotation::Refused => return Ok((rotation, None)),
                    Rotation::Reused { session_id, user_id } => {
                        let entry = audit::Entry {
                            actor: "system",
                            action: "session.reuse-detected",
                            subject: &format!("user:{user_id}"),
                            details: json!({ "session": session_id }).to_string(),
                        };
                        audit::append(&transaction, &entry).await?;
                        return Ok((rotation, None));
                    }
                };
                let user = store::find(&*transaction, By::Id(user_id)).await?;
                Ok((rotation, user.filter(|user| user.is_active)))
            })
        })
        .await?;
    match (rotation, user) {
        (Rotation::Renewed(opened), Some(user)) => answer(&state, opened, user),
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

/// `POST /api/auth/logout`: 204, ends the session of the access token.
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

/// `GET /api/auth/me`
pub(super) async fn me(State(state): State<AppState>, caller: Principal) -> Result<Json<User>, Problem> {
    let id = caller.user_id;
    let user = state.database.read(|client| Box::pin(async move { store::find(&*client, By::Id(id)).await })).await?;
    user.map(Json).ok_or_else(|| Problem::not_found("your user is gone"))
}

/// `PUT /api/auth/password`: 204, ends all sessions of the caller, this one too.
pub(super) async fn change_password(
    State(state): State<AppState>,
    caller: Principal,
    headers: HeaderMap,
    body: Result<Json<PasswordBody>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Json(PasswordBody { current_password, new_password }) = body?;
    let mut checks = Checks::new();
    checks.password("/newPassword", &new_password, &caller.username);
    if current_password.chars().count() > 128 {
        checks.reject("/currentPassword", "length", "must be at most 128 characters");
    }
    checks.finish()?;
    limit(&state, &caller.username, &headers).await?;
    let login = caller.username.as_str();
    let found =
        state.database.read(|client| Box::pin(async move { store::credentials(&*client, login).await })).await?;
    let stored = found.and_then(|credentials| credentials.password_hash);
    if !state.passwords.verify(current_password, stored).await? {
        return Err(Problem::forbidden("the current password is wrong"));
    }
    let hash = state.passwords.hash(new_password).await?;
    let (caller, hash, sessions) = (&caller, hash.as_str(), &state.auth.sessions);
    let session_ids = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                store::rehash(&transaction, caller.user_id, hash).await?;
                let now = SystemTime::now();
                let session_ids = sessions.end_all(&transaction, caller.user_id, "password changed", now).await?;
                let entry = audit::Entry {
                    actor: &caller.username,
                    action: "password.changed",
                    subject: &format!("user:{}", caller.user_id),
                    details: "{}".to_owned(),
                };
                audit::append(&transaction, &entry).await?;
                Ok(session_ids)
            })
        })
        .await?;
    sessions.forget(&session_ids).await;
    Ok(StatusCode::NO_CONTENT)
}

fn answer(state: &AppState, opened: Opened, user: User) -> Result<Json<TokenAnswer>, Problem> {
    let access_token = state
        .auth
        .tokens
        .issue(SystemTime::now(), user.id, &user.username, user.role, &opened.session_id)
        .ok_or_else(Problem::internal)?;
    Ok(Json(TokenAnswer {
        access_token,
        refresh_token: opened.refresh_token,
        token_type: "Bearer",
        expires_in: ACCESS_TTL.as_secs(),
        user,
    }))
}

async fn limit(state: &AppState, username: &str, headers: &HeaderMap) -> Result<(), Problem> {
    // The edge appends the address it saw; what stands before it was written by the caller.
    let address = headers
        .get(FORWARDED_FOR)
        .and_then(|value| value.to_str().ok())
        .and_then(|list| list.rsplit(',').next())
        .map_or("local", str::trim);
    let key = format!("rate:{}@{address}:login", username.to_lowercase());
    match state.store.count(&key, ATTEMPT_WINDOW).await {
        Some(attempts) if attempts > ATTEMPTS_MAX => {
            count(state, "limited");
            Err(Problem::too_many_requests(ATTEMPT_WINDOW.as_secs()))
        }
        _ => Ok(()),
    }
}

fn count(state: &AppState, outcome: &str) {
    state.metrics.add("users_signins_total", &[("outcome", outcome)], 1.0);
}
