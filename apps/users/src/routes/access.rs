//! Who is signed in where, who has to wait, and how both end.

use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use mainstay_kit::audit;
use mainstay_kit::auth::browser::Listed;
use mainstay_kit::auth::{Principal, Role};
use mainstay_kit::pool::Failure;
use mainstay_kit::problem::Problem;
use mainstay_kit::time::rfc3339;
use mainstay_kit::tokio_postgres::Transaction;
use serde_json::{Value, json};

use crate::state::AppState;
use crate::store::{self, By, Failures};

type IdPath = Result<Path<i64>, PathRejection>;
type SessionPath = Result<Path<(i64, String)>, PathRejection>;

fn shown(one: &Listed, caller: &Principal) -> Value {
    json!({
        "id": one.id,
        "kind": if one.is_browser { "browser" } else { "tokens" },
        "createdAt": rfc3339(one.created_at),
        "lastSeenAt": rfc3339(one.last_seen_at),
        "expiresAt": rfc3339(one.expires_at),
        "address": one.origin.address,
        "agent": one.origin.agent,
        "current": one.id == caller.session_id,
    })
}

async fn listed(state: &AppState, caller: &Principal, user_id: i64) -> Result<Vec<Value>, Problem> {
    let sessions = &state.auth.sessions;
    let list =
        state.database.read(|client| Box::pin(async move { sessions.list(&client, Some(user_id)).await })).await?;
    Ok(list.iter().map(|one| shown(one, caller)).collect())
}

/// `GET /api/auth/sessions`: the caller's own.
pub(super) async fn own_sessions(State(state): State<AppState>, caller: Principal) -> Result<Json<Value>, Problem> {
    Ok(Json(json!({ "sessions": listed(&state, &caller, caller.user_id).await? })))
}

/// `DELETE /api/auth/sessions/{session}`: ends one of the caller's own.
pub(super) async fn end_own_session(
    State(state): State<AppState>,
    caller: Principal,
    session: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Problem> {
    let Path(session) = session?;
    end(&state, &caller, caller.user_id, &session).await
}

/// `GET /api/users/{id}/access`: wrong passwords, lock and sessions; administrators only.
pub(super) async fn access(
    State(state): State<AppState>,
    caller: Principal,
    id: IdPath,
) -> Result<Json<Value>, Problem> {
    caller.require(Role::Admin)?;
    let Path(id) = id?;
    let failures =
        state.database.read(|client| Box::pin(async move { store::failures(&*client, id, false).await })).await?;
    let failures = failures.ok_or_else(|| not_found(id))?;
    let locked_until = failures.locked_until.filter(|until| *until > SystemTime::now());
    Ok(Json(json!({
        "failedSignIns": failures.number,
        "lastFailedAt": failures.last.map(rfc3339),
        "lockedUntil": locked_until.map(rfc3339),
        "sessions": listed(&state, &caller, id).await?,
    })))
}

/// `PUT /api/users/{id}/unlock`: 204, forgets wrong passwords; administrators only.
pub(super) async fn unlock(
    State(state): State<AppState>,
    caller: Principal,
    id: IdPath,
) -> Result<StatusCode, Problem> {
    caller.require(Role::Admin)?;
    let Path(id) = id?;
    let caller = &caller;
    state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let before = store::failures(&*transaction, id, true).await?.ok_or_else(|| not_found(id))?;
                if before == Failures::default() {
                    return Ok(());
                }
                store::set_failures(&transaction, id, &Failures::default()).await?;
                record(&transaction, caller, "user.unlocked", id, json!({ "failedSignIns": before.number })).await
            })
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /api/users/{id}/sessions`: 204, signs a user out everywhere; administrators only.
pub(super) async fn end_sessions(
    State(state): State<AppState>,
    caller: Principal,
    id: IdPath,
) -> Result<StatusCode, Problem> {
    caller.require(Role::Admin)?;
    let Path(id) = id?;
    let (caller, sessions) = (&caller, &state.auth.sessions);
    let ended = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                store::find(&*transaction, By::Id(id)).await?.ok_or_else(|| not_found(id))?;
                let now = SystemTime::now();
                let ended = sessions.end_all(&transaction, id, "ended by an administrator", now).await?;
                record(&transaction, caller, "session.ended", id, json!({ "sessions": ended.len() })).await?;
                Ok(ended)
            })
        })
        .await?;
    sessions.forget(&ended).await;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /api/users/{id}/sessions/{session}`: 204; administrators only.
pub(super) async fn end_session(
    State(state): State<AppState>,
    caller: Principal,
    path: SessionPath,
) -> Result<StatusCode, Problem> {
    caller.require(Role::Admin)?;
    let Path((id, session)) = path?;
    end(&state, &caller, id, &session).await
}

async fn end(state: &AppState, caller: &Principal, user_id: i64, session: &String) -> Result<StatusCode, Problem> {
    let sessions = &state.auth.sessions;
    state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let now = SystemTime::now();
                if !sessions.end_if_open(&transaction, session, Some(user_id), "ended from the list", now).await? {
                    return Err(Problem::not_found("no session of that number holds").into());
                }
                record(&transaction, caller, "session.ended", user_id, json!({ "session": session })).await
            })
        })
        .await?;
    sessions.forget(std::slice::from_ref(session)).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn record(
    transaction: &Transaction<'_>,
    caller: &Principal,
    action: &str,
    id: i64,
    details: Value,
) -> Result<(), Failure> {
    let subject = format!("user:{id}");
    let entry = audit::Entry { actor: &caller.username, action, subject: &subject, details: details.to_string() };
    audit::append(transaction, &entry).await
}

fn not_found(id: i64) -> Problem {
    Problem::not_found(format!("there is no user {id}"))
}
