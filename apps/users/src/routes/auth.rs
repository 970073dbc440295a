//! Signing in, staying in, signing out.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use mainstay_kit::audit;
use mainstay_kit::auth::browser::{IDLE, Origin, clear_cookie, set_cookie};
use mainstay_kit::auth::{ACCESS_TTL, Opened, Principal, Rotation, lockout, needs_rehash};
use mainstay_kit::problem::Problem;
use mainstay_kit::validation::{Checks, NewPassword, PASSWORD_LEAST};
use serde::{Deserialize, Serialize};
use serde_json::{Value as JsonValue, json};

use crate::model::User;
use crate::state::AppState;
use crate::store::{self, By, Failures};

/// Attempts of one address at one name in [`ATTEMPT_WINDOW`], right or wrong: hashing is work.
const ATTEMPTS_MAX: u64 = 20;
/// **Source**: document 004, `rate:{userId}:{endpoint}`, 1 minute.
const ATTEMPT_WINDOW: Duration = Duration::from_secs(60);

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

/// `POST /api/auth/login` with user name or e-mail address: tokens, for programs.
pub(super) async fn login(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Result<Json<LoginBody>, JsonRejection>,
) -> Result<Json<TokenAnswer>, Problem> {
    let Json(body) = body?;
    let proven = prove(&state, &headers, body).await?;
    match enter(&state, &proven, false).await? {
        (Entered::Tokens(opened), user) => answer(&state, opened, user),
        (Entered::Browser { .. }, _) => Err(Problem::internal()),
    }
}

/// `POST /api/auth/session` with user name or e-mail address: a cookie, for browsers.
pub(super) async fn open_session(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Result<Json<LoginBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(body) = body?;
    // Another site must not sign its visitors in as somebody it chose. Browsers say where a request comes from.
    if headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(Problem::forbidden("another site cannot sign you in here"));
    }
    let proven = prove(&state, &headers, body).await?;
    match enter(&state, &proven, true).await? {
        (Entered::Browser { session_id, cookie }, user) => {
            let body = session_json(&state, Some((&session_id, user)));
            Ok(([(header::SET_COOKIE, set_cookie(&cookie))], Json(body)).into_response())
        }
        (Entered::Tokens(_), _) => Err(Problem::internal()),
    }
}

/// `GET /api/auth/session`: who the cookie belongs to, or nobody; a page asks this when it opens.
pub(super) async fn session(
    State(state): State<AppState>,
    caller: Result<Principal, Problem>,
) -> Result<Json<JsonValue>, Problem> {
    let caller = match caller {
        Ok(caller) => caller,
        Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => return Ok(Json(session_json(&state, None))),
        Err(problem) => return Err(problem),
    };
    let id = caller.user_id;
    let user = state.database.read(|client| Box::pin(async move { store::find(&*client, By::Id(id)).await })).await?;
    Ok(Json(session_json(&state, user.map(|user| (caller.session_id.as_str(), user)))))
}

fn session_json(state: &AppState, signed_in: Option<(&str, User)>) -> JsonValue {
    match signed_in {
        None => json!({ "user": null, "csrfToken": null, "idleSeconds": IDLE.as_secs() }),
        Some((session_id, user)) => json!({
            "user": user,
            "csrfToken": state.auth.tokens.csrf(session_id),
            "idleSeconds": IDLE.as_secs(),
        }),
    }
}

/// Whose password fitted.
struct Proven {
    user_id: i64,
    /// A stronger hash of the same password, if the stored one is weak.
    stronger: Option<String>,
    origin: Origin,
}

/// Checks name and password.
///
/// One answer, of one kind of work, for unknown, inactive, locked and wrong: who has an account is
/// nobody's business.
async fn prove(state: &AppState, headers: &HeaderMap, body: LoginBody) -> Result<Proven, Problem> {
    let LoginBody { username, password } = body;
    let mut checks = Checks::new();
    checks.length("/username", &username, 1, 254);
    if password.chars().count() > 128 {
        checks.reject("/password", "length", "must be at most 128 characters");
    }
    checks.finish()?;
    limit(state, &username, headers).await?;
    let (login, origin) = (username.as_str(), Origin::of(headers));
    let found =
        state.database.read(|client| Box::pin(async move { store::credentials(&*client, login).await })).await?;
    let stored = found.as_ref().filter(|one| !one.is_locked).and_then(|one| one.password_hash.clone());
    let fits = state.passwords.verify(password.clone(), stored.clone()).await?;
    let refusal = match &found {
        None => Some("unknown"),
        Some(one) if one.is_locked => Some("locked"),
        Some(_) if !fits => Some("password"),
        Some(one) if !one.is_active => Some("inactive"),
        Some(_) => None,
    };
    if let Some(reason) = refusal {
        refuse(state, found.as_ref().map(|one| one.user_id), reason, &origin).await?;
        return Err(refused());
    }
    let user_id = found.ok_or_else(refused)?.user_id;
    let stronger = match stored.as_deref().is_some_and(needs_rehash) {
        true => Some(state.passwords.hash(password).await?),
        false => None,
    };
    Ok(Proven { user_id, stronger, origin })
}

fn refused() -> Problem {
    Problem::unauthorized("user name or password is wrong, or there were too many wrong ones: then wait a while")
}

/// Counts a wrong password and writes the refusal into the record. Every refusal does the same
/// work, so that its time says nothing.
async fn refuse(state: &AppState, user_id: Option<i64>, reason: &str, origin: &Origin) -> Result<(), Problem> {
    let counted = user_id.filter(|_| reason == "password").unwrap_or(0);
    let locked = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let now = SystemTime::now();
                let before = store::failures(&*transaction, counted, true).await?.unwrap_or_default();
                let number = u32::try_from(before.number).unwrap_or(0);
                let (number, wait) = lockout::after_failure(number, before.last, now);
                let number = i32::try_from(number).unwrap_or(i32::MAX);
                let after = Failures { number, last: Some(now), locked_until: wait.map(|wait| now + wait) };
                store::set_failures(&transaction, counted, &after).await?;
                let entry = audit::Entry {
                    actor: "anonymous",
                    action: "session.refused",
                    subject: &user_id.map_or_else(|| "user:unknown".to_owned(), |id| format!("user:{id}")),
                    details: json!({ "reason": reason, "address": origin.address }).to_string(),
                };
                audit::append(&transaction, &entry).await?;
                Ok(counted != 0 && wait.is_some())
            })
        })
        .await?;
    if locked {
        state.metrics.add("users_lockouts_total", &[], 1.0);
    }
    count(state, "refused");
    Ok(())
}

/// A session of either kind, just opened.
enum Entered {
    Tokens(Opened),
    Browser { session_id: String, cookie: String },
}

/// Opens a session, forgets wrong passwords, and writes it into the record.
async fn enter(state: &AppState, proven: &Proven, is_browser: bool) -> Result<(Entered, User), Problem> {
    let (user_id, sessions) = (proven.user_id, &state.auth.sessions);
    let entered = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let user = store::find(&*transaction, By::Id(user_id)).await?.filter(|user| user.is_active);
                let user = user.ok_or_else(refused)?;
                if let Some(hash) = &proven.stronger {
                    store::rehash(&transaction, user_id, hash).await?;
                }
                store::set_failures(&transaction, user_id, &Failures::default()).await?;
                let now = SystemTime::now();
                let opened = if is_browser {
                    let (session_id, cookie) =
                        sessions.open_browser(&transaction, user_id, &proven.origin, now).await?;
                    Entered::Browser { session_id, cookie }
                } else {
                    Entered::Tokens(sessions.open(&transaction, user_id, now).await?)
                };
                let entry = audit::Entry {
                    actor: &user.username,
                    action: "session.opened",
                    subject: &format!("user:{user_id}"),
                    details: json!({ "address": proven.origin.address }).to_string(),
                };
                audit::append(&transaction, &entry).await?;
                Ok((opened, user))
            })
        })
        .await?;
    count(state, "accepted");
    Ok(entered)
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

/// `POST /api/auth/logout`: 204, ends the session of the access token or cookie.
pub(super) async fn logout(State(state): State<AppState>, caller: Principal) -> Result<Response, Problem> {
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
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, clear_cookie())]).into_response())
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
    let new = NewPassword { value: &new_password, username: &caller.username, least: PASSWORD_LEAST };
    checks.password("/newPassword", &new);
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
    // The edge writes the address it saw.
    let address = Origin::of(headers).address;
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
