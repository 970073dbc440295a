//! Users: registering, oneself, one's API key.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use mainstay_kit::audit;
use mainstay_kit::auth::{Principal, Role};
use mainstay_kit::pool::Failure;
use mainstay_kit::problem::Problem;
use serde_json::json;

use super::address;
use crate::model::{Credentials, User, created};
use crate::state::{AppState, Caller};
use crate::store::{self, NewUser};

/// `POST /users/create`: 201 with the API key, which is shown this once.
pub(super) async fn create(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: Result<Json<Credentials>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(new) = body?;
    new.check_new().inspect_err(|_| count(&state, "refused"))?;
    let limit = state.limits.registrations_per_minute;
    state
        .limit(&format!("rate:{}:register", address(&headers)), limit)
        .await
        .inspect_err(|_| count(&state, "limited"))?;
    let hash = state.passwords.hash(new.password).await?;
    let api_key = state.api_keys.make();
    let wanted = NewUser { username: &new.username, role: "user", password_hash: &hash, api_key: &api_key };
    let wanted = &wanted;
    let user = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let user = store::insert_user(&transaction, wanted).await?;
                let entry = audit::Entry {
                    actor: wanted.username,
                    action: "user.created",
                    subject: &format!("user:{}", user.id),
                    details: json!({ "username": user.username, "role": user.role }).to_string(),
                };
                audit::append(&transaction, &entry).await?;
                Ok(user)
            })
        })
        .await
        .map_err(|failure| taken(&state, failure))?;
    count(&state, "accepted");
    let location = format!("/api/v1/users/{}", user.id);
    let mut body = json!(user);
    body["apiKey"] = api_key.text.into();
    Ok(created(location, body))
}

/// `GET /api/v1/me`
pub(super) async fn me(State(state): State<AppState>, Caller(caller): Caller) -> Result<Json<User>, Problem> {
    find(&state, caller.user_id).await
}

/// `GET /api/v1/users/{id}`: oneself; anybody for administrators. For others he does not exist.
pub(super) async fn by_id(
    State(state): State<AppState>,
    Caller(caller): Caller,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Json<User>, Problem> {
    let Path(id) = id?;
    if id != caller.user_id && caller.role != Role::Admin {
        return Err(Problem::not_found(format!("there is no user {id}")));
    }
    find(&state, id).await
}

/// `POST /api/v1/api-key/rotate`: a new key, shown this once; the old one is refused from now on.
pub(super) async fn rotate(State(state): State<AppState>, caller: Principal) -> Result<Response, Problem> {
    let api_key = state.api_keys.make();
    let (caller, new) = (&caller, &api_key);
    let old = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let old = store::replace_api_key(&transaction, caller.user_id, new).await?;
                let old = old.ok_or_else(|| Problem::not_found("your user is gone"))?;
                let entry = audit::Entry {
                    actor: &caller.username,
                    action: "api-key.rotated",
                    subject: &format!("user:{}", caller.user_id),
                    details: json!({ "begins": new.shown }).to_string(),
                };
                audit::append(&transaction, &entry).await?;
                Ok(old)
            })
        })
        .await?;
    state.api_keys.revoke(&old).await;
    state.metrics.add("integers_key_rotations_total", &[], 1.0);
    let body = json!({ "apiKey": api_key.text, "apiKeyBegins": api_key.shown });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
}

async fn find(state: &AppState, id: i64) -> Result<Json<User>, Problem> {
    let found = state.database.read(|client| Box::pin(async move { store::find_user(&*client, id).await })).await?;
    found.map(Json).ok_or_else(|| Problem::not_found(format!("there is no user {id}")))
}

fn taken(state: &AppState, failure: Failure) -> Problem {
    count(state, "refused");
    match failure.unique_constraint() {
        Some("users_username_key") => Problem::conflict("this user name is taken"),
        _ => failure.into(),
    }
}

fn count(state: &AppState, outcome: &str) {
    state.metrics.add("integers_registrations_total", &[("outcome", outcome)], 1.0);
}
