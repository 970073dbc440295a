//! What administrators see and do. API keys do not count here: a person signs in.

use std::time::SystemTime;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use mainstay_kit::audit::{self, Verification};
use mainstay_kit::auth::{Principal, Role};
use mainstay_kit::paging::PageQuery;
use mainstay_kit::problem::Problem;
use mainstay_kit::time::rfc3339;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::model::User;
use crate::state::AppState;
use crate::store;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Active {
    active: bool,
}

/// `GET /api/v1/users`
pub(super) async fn users(
    State(state): State<AppState>,
    caller: Principal,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    caller.require(Role::Admin)?;
    let page = query?.0.check()?;
    let users = state.database.read(|client| Box::pin(async move { store::list_users(&client, page).await })).await?;
    let next = page.next(users.len(), users.last().map(|user| user.id));
    Ok(Json(json!({ "items": users, "nextCursor": next })))
}

/// `PUT /api/v1/users/{id}/active`: locks a user out at once, or lets him in again.
pub(super) async fn set_active(
    State(state): State<AppState>,
    caller: Principal,
    id: Result<Path<i64>, PathRejection>,
    body: Result<Json<Active>, JsonRejection>,
) -> Result<Json<User>, Problem> {
    caller.require(Role::Admin)?;
    let (Path(id), Json(Active { active })) = (id?, body?);
    if id == caller.user_id && !active {
        return Err(Problem::conflict("you cannot lock yourself out"));
    }
    let (caller, sessions) = (&caller, &state.auth.sessions);
    let (user, api_key_hash, session_ids) = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let changed = store::set_active(&transaction, id, active).await?;
                let (user, hash) = changed.ok_or_else(|| Problem::not_found(format!("there is no user {id}")))?;
                let session_ids = match active {
                    true => sessions.of_user(&transaction, id).await?,
                    false => sessions.end_all(&transaction, id, "locked out", SystemTime::now()).await?,
                };
                let entry = audit::Entry {
                    actor: &caller.username,
                    action: if active { "user.let-in" } else { "user.locked-out" },
                    subject: &format!("user:{id}"),
                    details: "{}".to_owned(),
                };
                audit::append(&transaction, &entry).await?;
                Ok((user, hash, session_ids))
            })
        })
        .await?;
    sessions.forget(&session_ids).await;
    match active {
        true => state.api_keys.forget(&api_key_hash).await,
        false => state.api_keys.revoke(&api_key_hash).await,
    }
    Ok(Json(user))
}

/// `GET /api/v1/audit`: newest first.
pub(super) async fn audit_list(
    State(state): State<AppState>,
    caller: Principal,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    caller.require(Role::Admin)?;
    let page = query?.0.check()?;
    let before = page.after.unwrap_or(i64::MAX);
    let records =
        state.database.read(|client| Box::pin(async move { audit::list(&client, before, page.limit).await })).await?;
    let items: Vec<Value> = records
        .iter()
        .map(|record| {
            json!({
                "id": record.id,
                "at": rfc3339(record.at),
                "actor": record.actor,
                "action": record.action,
                "subject": record.subject,
                "requestId": record.request_id,
                "details": serde_json::from_str::<Value>(&record.details).unwrap_or(Value::Null),
            })
        })
        .collect();
    let next = page.next(records.len(), records.last().map(|record| record.id));
    Ok(Json(json!({ "items": items, "nextCursor": next })))
}

/// `GET /api/v1/audit/verify`: recomputes the chain.
pub(super) async fn audit_verify(State(state): State<AppState>, caller: Principal) -> Result<Json<Value>, Problem> {
    caller.require(Role::Admin)?;
    let verification = state.database.read(|client| Box::pin(async move { audit::verify(&client).await })).await?;
    Ok(Json(match verification {
        Verification::Intact { rows } => json!({ "intact": true, "rows": rows }),
        Verification::Broken { id } => json!({ "intact": false, "brokenAt": id }),
    }))
}
