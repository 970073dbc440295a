//! `flyway`, `sessions`, `auditevents`: what the database knows about itself, who is signed in, and
//! what was done.

use std::time::SystemTime;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::Shared;
use crate::auth::browser::{IDLE, Listed};
use crate::pool::Failure;
use crate::problem::Problem;
use crate::time::rfc3339;

/// Events shown at once.
const EVENTS_MAX: i64 = 100;

pub(super) async fn flyway(State(management): Shared) -> Result<Json<Value>, Problem> {
    let result = management
        .database
        .read(|client| {
            Box::pin(async move {
                let sql = "SELECT installed_rank, version, description, type, script, checksum, installed_by, \
                     installed_on AT TIME ZONE 'UTC', execution_time, success \
                     FROM flyway_schema_history ORDER BY installed_rank";
                let rows = client.query_typed(sql, &[]).await?;
                Ok(rows.iter().map(migration).collect::<Vec<_>>())
            })
        })
        .await;
    match result {
        Ok(migrations) => {
            let beans = json!({ "flywayBeans": { "flyway": { "migrations": migrations } } });
            Ok(Json(json!({ "contexts": { "application": beans } })))
        }
        Err(Failure::Refused(error)) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
            Err(Problem::not_found("this database has no flyway_schema_history: its migrations were run by hand"))
        }
        Err(failure) => Err(failure.into()),
    }
}

fn migration(row: &Row) -> Value {
    json!({
        "installedRank": row.get::<_, i32>(0),
        "version": row.get::<_, Option<String>>(1),
        "description": row.get::<_, String>(2),
        "type": row.get::<_, String>(3),
        "script": row.get::<_, String>(4),
        "checksum": row.get::<_, Option<i32>>(5),
        "installedBy": row.get::<_, String>(6),
        "installedOn": rfc3339(row.get::<_, SystemTime>(7)),
        "executionTime": row.get::<_, i32>(8),
        "state": if row.get(9) { "SUCCESS" } else { "FAILED" },
    })
}

#[derive(Deserialize)]
pub(super) struct SessionQuery {
    username: Option<String>,
}

/// Spring's needs `username`; without one, ours shows all (at most 200).
pub(super) async fn sessions(
    State(management): Shared,
    Query(query): Query<SessionQuery>,
) -> Result<Json<Value>, Problem> {
    let listed = list(&management).await?;
    let is_wanted = |one: &&Listed| query.username.as_ref().is_none_or(|name| one.username.eq_ignore_ascii_case(name));
    Ok(Json(json!({ "sessions": listed.iter().filter(is_wanted).map(session_json).collect::<Vec<_>>() })))
}

pub(super) async fn session(State(management): Shared, Path(id): Path<String>) -> Result<Json<Value>, Problem> {
    let listed = list(&management).await?;
    listed.iter().find(|one| one.id == id).map(|one| Json(session_json(one))).ok_or_else(no_session)
}

pub(super) async fn end_session(State(management): Shared, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let (sessions, session_id) = (&management.auth.sessions, &id);
    let was_there = management
        .database
        .transaction(|transaction| {
            Box::pin(async move {
                let now = SystemTime::now();
                let was_there = sessions.end_if_open(&transaction, session_id, None, "ended by operator", now).await?;
                if was_there {
                    let entry = crate::audit::Entry {
                        actor: "operator",
                        action: "session.ended",
                        subject: "management",
                        details: json!({ "session": session_id }).to_string(),
                    };
                    crate::audit::append(&transaction, &entry).await?;
                }
                Ok(was_there)
            })
        })
        .await?;
    sessions.forget(std::slice::from_ref(&id)).await;
    if was_there { Ok(StatusCode::NO_CONTENT) } else { Err(no_session()) }
}

async fn list(management: &super::Management) -> Result<Vec<Listed>, Problem> {
    let sessions = &management.auth.sessions;
    Ok(management.database.read(|client| Box::pin(async move { sessions.list(&client, None).await })).await?)
}

fn session_json(one: &Listed) -> Value {
    let longest = if one.is_browser { IDLE.as_secs() } else { crate::auth::REFRESH_TTL.as_secs() };
    json!({
        "id": one.id,
        "attributeNames": ["username", "address", "agent"],
        "creationTime": rfc3339(one.created_at),
        "lastAccessedTime": rfc3339(one.last_seen_at),
        "maxInactiveInterval": longest,
        "expired": false,
    })
}

fn no_session() -> Problem {
    Problem::not_found("no session of that number holds")
}

#[derive(Deserialize)]
pub(super) struct EventQuery {
    principal: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// The newest hundred; `after` of Spring's is not taken, the page under `/api/audit` goes further back.
pub(super) async fn audit_events(
    State(management): Shared,
    Query(query): Query<EventQuery>,
) -> Result<Json<Value>, Problem> {
    let (principal, kind) = (&query.principal, &query.kind);
    let events = management
        .database
        .read(|client| {
            Box::pin(async move {
                let sql = "SELECT at, actor, action, subject, request_id, details FROM audit_log \
                     WHERE ($1::text IS NULL OR actor = $1) AND ($2::text IS NULL OR action = $2) \
                     ORDER BY id DESC LIMIT $3";
                let limit = EVENTS_MAX;
                let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
                    [(principal, Type::TEXT), (kind, Type::TEXT), (&limit, Type::INT8)];
                let rows = client.query_typed(sql, &parameters).await?;
                Ok(rows.iter().map(event).collect::<Vec<_>>())
            })
        })
        .await?;
    Ok(Json(json!({ "events": events })))
}

fn event(row: &Row) -> Value {
    let details = serde_json::from_str::<Value>(row.get(5)).unwrap_or(Value::Null);
    json!({
        "timestamp": rfc3339(row.get(0)),
        "principal": row.get::<_, String>(1),
        "type": row.get::<_, String>(2),
        "data": { "subject": row.get::<_, String>(3), "requestId": row.get::<_, String>(4), "details": details },
    })
}
