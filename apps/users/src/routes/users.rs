//! The user routes of document 004 and their codes: 200, 201, 204, 304, 400, 401, 403, 404, 409, 412, 422.
//!
//! Who may do what: a viewer reads; an editor also creates and changes viewers, but gives no rights
//! and sets no passwords of others; an administrator does everything. One active administrator is
//! always left.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mainstay_kit::audit;
use mainstay_kit::auth::{Principal, Role};
use mainstay_kit::cache::Lookup;
use mainstay_kit::pool::Failure;
use mainstay_kit::problem::Problem;
use mainstay_kit::tokio_postgres::Transaction;
use serde_json::json;

use crate::model::{CreateUser, ListQuery, Page, UpdateUser, User};
use crate::state::AppState;
use crate::store::{self, By, Statistics};

/// **Source**: document 004, data cache `user:{userId}`, 5 minutes.
const USER_TTL: Duration = Duration::from_secs(300);
/// Tells an operator (and a test) where an answer came from.
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

type JsonBody<T> = Result<Json<T>, JsonRejection>;
type IdPath = Result<Path<i64>, PathRejection>;
type ListParameters = Result<Query<ListQuery>, QueryRejection>;

/// `GET /api/users?page&size&sort&q&role&active`
pub(super) async fn list(
    State(state): State<AppState>,
    _caller: Principal,
    query: ListParameters,
) -> Result<Json<Page>, Problem> {
    let Query(query) = query?;
    page(&state, &query).await
}

/// `GET /api/users/active`: the list of those who may sign in.
pub(super) async fn active(
    State(state): State<AppState>,
    _caller: Principal,
    query: ListParameters,
) -> Result<Json<Page>, Problem> {
    let Query(query) = query?;
    page(&state, &ListQuery { active: Some(true), ..query }).await
}

/// `GET /api/users/search?q=`: the list with words that must be given.
pub(super) async fn search(
    State(state): State<AppState>,
    _caller: Principal,
    query: ListParameters,
) -> Result<Json<Page>, Problem> {
    let Query(query) = query?;
    if query.q.as_deref().is_none_or(|q| q.trim().is_empty()) {
        let mut checks = mainstay_kit::validation::Checks::new();
        checks.reject("q", "required", "say what to search for");
        checks.finish()?;
    }
    page(&state, &query).await
}

async fn page(state: &AppState, query: &ListQuery) -> Result<Json<Page>, Problem> {
    let listing = &query.check()?;
    let page = state.database.read(|client| Box::pin(async move { store::list(&client, listing).await })).await?;
    Ok(Json(page))
}

/// `GET /api/users/stats`
pub(super) async fn stats(State(state): State<AppState>, _caller: Principal) -> Result<Json<Statistics>, Problem> {
    let statistics = state.database.read(|client| Box::pin(async move { store::statistics(&client).await })).await?;
    Ok(Json(statistics))
}

/// `GET /api/users/{id}`, from the cache when it is there.
pub(super) async fn by_id(
    State(state): State<AppState>,
    _caller: Principal,
    id: IdPath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(id) = id?;
    match state.cache.get::<User>(&key(id)).await {
        Lookup::Hit(user) => return Ok(answer(&user, &headers, "hit")),
        Lookup::Gone => return Err(not_found(id)),
        Lookup::Miss => {}
    }
    let user = find(&state, By::Id(id)).await?.ok_or_else(|| not_found(id))?;
    state.cache.put(&key(id), user.version, &user, USER_TTL).await;
    Ok(answer(&user, &headers, "miss"))
}

/// `GET /api/users/username/{username}`
pub(super) async fn by_username(
    State(state): State<AppState>,
    _caller: Principal,
    username: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(username) = username?;
    let user = find(&state, By::Username(&username)).await?;
    let user = user.ok_or_else(|| Problem::not_found("no user has this name"))?;
    Ok(answer(&user, &headers, "none"))
}

/// `GET /api/users/email/{email}`
pub(super) async fn by_email(
    State(state): State<AppState>,
    _caller: Principal,
    email: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Path(email) = email?;
    let user = find(&state, By::Email(&email)).await?;
    let user = user.ok_or_else(|| Problem::not_found("no user has this address"))?;
    Ok(answer(&user, &headers, "none"))
}

/// `POST /api/users`: 201 with `Location`.
pub(super) async fn create(
    State(state): State<AppState>,
    caller: Principal,
    body: JsonBody<CreateUser>,
) -> Result<Response, Problem> {
    caller.require(Role::Editor)?;
    let Json(new) = body?;
    new.check()?;
    if caller.role < Role::Admin && (new.role.unwrap_or(Role::Viewer) > Role::Viewer || new.password.is_some()) {
        return Err(Problem::forbidden("only an administrator gives rights and passwords"));
    }
    let password_hash = match new.password.clone() {
        Some(password) => Some(state.passwords.hash(password).await?),
        None => None,
    };
    let (new, password_hash, caller) = (&new, password_hash.as_deref(), &caller);
    let user = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let user = store::insert(&transaction, new, password_hash, &caller.username).await?;
                let details = json!({ "username": user.username, "role": user.role }).to_string();
                record(&transaction, caller, "user.created", user.id, details).await?;
                Ok(user)
            })
        })
        .await
        .map_err(taken)?;
    state.cache.put(&key(user.id), user.version, &user, USER_TTL).await;
    count(&state, "users_created_total");
    state.metrics.add("users_signups_total", &[], 1.0);
    let location = format!("/api/users/{}", user.id);
    let headers = [(header::LOCATION, location), (header::ETAG, user.etag())];
    Ok((StatusCode::CREATED, headers, Json(user)).into_response())
}

/// `PUT /api/users/{id}`, with `If-Match` only onto that version.
pub(super) async fn update(
    State(state): State<AppState>,
    caller: Principal,
    id: IdPath,
    headers: HeaderMap,
    body: JsonBody<UpdateUser>,
) -> Result<Response, Problem> {
    caller.require(Role::Editor)?;
    let Path(id) = id?;
    let Json(update) = body?;
    change(&state, &caller, id, &headers, &update, "user.updated").await
}

/// `PUT /api/users/{id}/deactivate`: signs the user out everywhere.
pub(super) async fn deactivate(
    State(state): State<AppState>,
    caller: Principal,
    id: IdPath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    set_active(&state, &caller, id, &headers, false).await
}

/// `PUT /api/users/{id}/reactivate`
pub(super) async fn reactivate(
    State(state): State<AppState>,
    caller: Principal,
    id: IdPath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    set_active(&state, &caller, id, &headers, true).await
}

async fn set_active(
    state: &AppState,
    caller: &Principal,
    id: IdPath,
    headers: &HeaderMap,
    is_active: bool,
) -> Result<Response, Problem> {
    caller.require(Role::Editor)?;
    let Path(id) = id?;
    let update = UpdateUser {
        username: None,
        email: None,
        first_name: None,
        last_name: None,
        role: None,
        is_active: Some(is_active),
        password: None,
    };
    let action = if is_active { "user.reactivated" } else { "user.deactivated" };
    change(state, caller, id, headers, &update, action).await
}

/// `DELETE /api/users/{id}`: 204.
pub(super) async fn delete(
    State(state): State<AppState>,
    caller: Principal,
    id: IdPath,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.require(Role::Admin)?;
    let Path(id) = id?;
    let (caller, headers, sessions) = (&caller, &headers, &state.auth.sessions);
    let (version, session_ids) = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let user = store::lock(&transaction, id).await?.ok_or_else(|| not_found(id))?;
                if user.id == caller.user_id {
                    return Err(Problem::conflict("you cannot delete yourself").into());
                }
                keep_an_admin(&transaction, &user, false).await?;
                require_match(headers, &user)?;
                let session_ids = sessions.of_user(&transaction, id).await?;
                store::delete(&transaction, id).await?;
                let details = json!({ "username": user.username }).to_string();
                record(&transaction, caller, "user.deleted", id, details).await?;
                Ok((user.version, session_ids))
            })
        })
        .await?;
    sessions.forget(&session_ids).await;
    state.cache.put_gone(&key(id), version + 1, USER_TTL).await;
    count(&state, "users_deleted_total");
    Ok(StatusCode::NO_CONTENT)
}

/// One change of one user: rules, version, row, sessions and audit in one transaction.
async fn change(
    state: &AppState,
    caller: &Principal,
    id: i64,
    headers: &HeaderMap,
    update: &UpdateUser,
    action: &'static str,
) -> Result<Response, Problem> {
    let is_too_long = update.password.as_ref().is_some_and(|p| p.chars().count() > 128);
    let password_hash = match &update.password {
        // Too long a password is refused below, together with the other fields.
        Some(password) if !is_too_long => Some(state.passwords.hash(password.clone()).await?),
        _ => None,
    };
    let (password_hash, sessions) = (password_hash.as_deref(), &state.auth.sessions);
    let result = state
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let user = store::lock(&transaction, id).await?.ok_or_else(|| not_found(id))?;
                let wanted = update.apply(&user);
                update.check(&wanted)?;
                may_change(caller, &user, &wanted, update.password.is_some())?;
                // After what is wrong in any version: RFC 9110, 13.2.1.
                require_match(headers, &user)?;
                if wanted == user && update.password.is_none() {
                    return Ok((user, Vec::new()));
                }
                keep_an_admin(&transaction, &user, wanted.is_active && wanted.role == Role::Admin).await?;
                let changed = store::update(&transaction, &wanted, password_hash, &caller.username).await?;
                let session_ids = if !wanted.is_active || update.password.is_some() {
                    sessions.end_all(&transaction, id, action, SystemTime::now()).await?
                } else {
                    sessions.of_user(&transaction, id).await?
                };
                let details = differences(&user, &changed, update.password.is_some());
                record(&transaction, caller, action, id, details).await?;
                Ok((changed, session_ids))
            })
        })
        .await;
    if matches!(result, Err(Failure::OutcomeUnknown)) {
        state.cache.forget(&key(id)).await;
    }
    let (user, session_ids) = result.map_err(taken)?;
    sessions.forget(&session_ids).await;
    state.cache.put(&key(id), user.version, &user, USER_TTL).await;
    count(state, "users_updated_total");
    Ok(answer(&user, &HeaderMap::new(), "none"))
}

fn may_change(caller: &Principal, user: &User, wanted: &User, sets_password: bool) -> Result<(), Problem> {
    if caller.role == Role::Admin {
        return match user.id == caller.user_id && !wanted.is_active {
            true => Err(Problem::conflict("you cannot deactivate yourself")),
            false => Ok(()),
        };
    }
    if user.role != Role::Viewer || wanted.role != Role::Viewer {
        return Err(Problem::forbidden("an editor changes viewers only"));
    }
    if sets_password {
        return Err(Problem::forbidden("only an administrator sets the password of somebody else"));
    }
    Ok(())
}

async fn keep_an_admin(transaction: &Transaction<'_>, user: &User, stays_admin: bool) -> Result<(), Failure> {
    let was_admin = user.is_active && user.role == Role::Admin;
    if was_admin && !stays_admin && !store::has_other_admin(transaction, user.id).await? {
        return Err(Problem::conflict("this is the last active administrator").into());
    }
    Ok(())
}

fn require_match(headers: &HeaderMap, user: &User) -> Result<(), Problem> {
    match headers.get(header::IF_MATCH).map(|value| value.to_str()) {
        None | Some(Ok("*")) => Ok(()),
        Some(Ok(tags)) if tags.split(',').any(|tag| tag.trim() == user.etag()) => Ok(()),
        Some(_) => Err(Problem::precondition_failed(format!("the user is at version {} now", user.version))),
    }
}

async fn record(
    transaction: &Transaction<'_>,
    caller: &Principal,
    action: &str,
    id: i64,
    details: String,
) -> Result<(), Failure> {
    let entry = audit::Entry { actor: &caller.username, action, subject: &format!("user:{id}"), details };
    audit::append(transaction, &entry).await
}

/// Names of changed fields, not their values: the record outlives a person's wish to be forgotten.
fn differences(old: &User, new: &User, has_new_password: bool) -> String {
    let mut fields = Vec::new();
    for (name, differs) in [
        ("username", old.username != new.username),
        ("email", old.email != new.email),
        ("firstName", old.first_name != new.first_name),
        ("lastName", old.last_name != new.last_name),
        ("role", old.role != new.role),
        ("isActive", old.is_active != new.is_active),
        ("password", has_new_password),
    ] {
        if differs {
            fields.push(name);
        }
    }
    json!({ "changed": fields, "version": new.version }).to_string()
}

async fn find(state: &AppState, by: By<'_>) -> Result<Option<User>, Problem> {
    let found = state.database.read(|client| Box::pin(async move { store::find(&*client, by).await })).await?;
    Ok(found)
}

fn answer(user: &User, request: &HeaderMap, cache: &'static str) -> Response {
    let etag = user.etag();
    let known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let is_known = known.is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == etag || tag.trim() == "*"));
    let headers =
        [(header::ETAG, etag), (header::CACHE_CONTROL, "private, no-cache".to_owned()), (X_CACHE, cache.to_owned())];
    if is_known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, Json(user)).into_response()
}

fn count(state: &AppState, metric: &'static str) {
    state.metrics.add(metric, &[], 1.0);
    state.metrics.add("users_transactions_total", &[], 1.0);
}

fn key(id: i64) -> String {
    format!("user:{id}")
}

fn not_found(id: i64) -> Problem {
    Problem::not_found(format!("there is no user {id}"))
}

fn taken(failure: Failure) -> Problem {
    match failure.unique_constraint() {
        Some("users_username_key") => taken_field("/username", "this user name is taken"),
        Some("users_email_key") => taken_field("/email", "this e-mail address is taken"),
        _ => failure.into(),
    }
}

fn taken_field(pointer: &str, detail: &str) -> Problem {
    Problem::conflict(detail).field(pointer, "taken", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: i64, role: Role) -> User {
        User {
            id,
            username: format!("user{id}"),
            email: format!("user{id}@example.org"),
            first_name: String::new(),
            last_name: String::new(),
            role,
            is_active: true,
            created_at: String::new(),
            updated_at: String::new(),
            created_by: String::new(),
            updated_by: String::new(),
            version: 3,
        }
    }

    fn caller(role: Role) -> Principal {
        Principal { user_id: 1, username: "caller".into(), role, session_id: String::new() }
    }

    #[test]
    fn an_editor_gives_no_rights_and_no_passwords() {
        let (viewer, editor) = (user(2, Role::Viewer), user(2, Role::Editor));
        let check = |old: &User, new: &User, password| may_change(&caller(Role::Editor), old, new, password).is_ok();
        assert!(check(&viewer, &viewer, false));
        assert!(!check(&viewer, &editor, false));
        assert!(!check(&editor, &viewer, false));
        assert!(!check(&viewer, &viewer, true));
    }

    #[test]
    fn an_administrator_cannot_deactivate_himself() {
        let me = user(1, Role::Admin);
        let gone = User { is_active: false, ..me.clone() };
        assert_eq!(may_change(&caller(Role::Admin), &me, &gone, false).unwrap_err().status(), StatusCode::CONFLICT);
    }

    #[test]
    fn records_which_fields_changed_but_not_their_values() {
        let old = user(2, Role::Viewer);
        let new = User { email: "secret@example.org".into(), version: 4, ..old.clone() };
        assert_eq!(differences(&old, &new, true), r#"{"changed":["email","password"],"version":4}"#);
    }

    #[test]
    fn matches_any_of_several_entity_tags() {
        let user = user(2, Role::Viewer);
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_MATCH, value.parse().unwrap());
            require_match(&headers, &user)
        };
        assert!(with("\"3\"").is_ok() && with("\"2\", \"3\"").is_ok() && with("*").is_ok());
        assert_eq!(with("\"2\"").unwrap_err().status(), StatusCode::PRECONDITION_FAILED);
        assert!(require_match(&HeaderMap::new(), &user).is_ok());
    }
}
