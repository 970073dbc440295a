//! Information about the application itself, and the audit record.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use mainstay_kit::audit::{self, Verification};
use mainstay_kit::auth::{Principal, Role};
use mainstay_kit::health::standard_info;
use mainstay_kit::metrics::Value;
use mainstay_kit::problem::Problem;
use mainstay_kit::telemetry;
use mainstay_kit::time::rfc3339;
use mainstay_kit::validation::Checks;
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use crate::state::AppState;

#[derive(Deserialize)]
pub(super) struct AuditQuery {
    before: Option<i64>,
    limit: Option<i64>,
}

/// `GET /api/v1/info`
pub(super) async fn info() -> Json<JsonValue> {
    let mut info = standard_info("users", env!("CARGO_PKG_VERSION"));
    // The process is the operators' business and stays on the management port.
    if let Some(object) = info.as_object_mut() {
        object.remove("process");
    }
    Json(info)
}

/// `GET /api/v1/health`: 200 while requests can be served.
pub(super) async fn health(State(state): State<AppState>) -> (StatusCode, Json<JsonValue>) {
    let (code, status) = match state.database.ping().await {
        Ok(()) if !state.drain.is_leaving() => (StatusCode::OK, "UP"),
        Ok(()) => (StatusCode::SERVICE_UNAVAILABLE, "OUT_OF_SERVICE"),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "DOWN"),
    };
    (code, Json(json!({ "status": status })))
}

/// `POST /api/v1/echo`: the JSON that was sent, and how the request is known here.
pub(super) async fn echo(body: Result<Json<JsonValue>, JsonRejection>) -> Result<Json<JsonValue>, Problem> {
    let Json(body) = body?;
    let identity = telemetry::current();
    Ok(Json(json!({
        "echo": body,
        "requestId": identity.as_ref().map(|i| i.request_id.as_str()),
        "traceId": identity.as_ref().map(|i| i.trace_id.as_str()),
        "instance": std::env::var("MAINSTAY_INSTANCE").ok(),
    })))
}

/// `GET /api/v1/metrics/requests`: what this instance has answered since its start.
pub(super) async fn request_metrics(State(state): State<AppState>, _caller: Principal) -> Json<JsonValue> {
    let (mut total, mut seconds) = (0_u64, 0.0);
    let mut by_status = std::collections::BTreeMap::<String, u64>::new();
    if let Some(family) = state.metrics.snapshot().get("http_server_requests_seconds") {
        for (labels, value) in &family.series {
            let Value::Histogram { buckets, sum, .. } = value else { continue };
            let count: u64 = buckets.iter().sum();
            total += count;
            seconds += sum;
            if let Some((_, status)) = labels.iter().find(|(name, _)| *name == "status") {
                *by_status.entry(status.clone()).or_default() += count;
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a mean of fewer than 2^52 requests")]
    let mean_ms = if total == 0 { 0.0 } else { seconds * 1_000.0 / total as f64 };
    Json(json!({
        "instance": std::env::var("MAINSTAY_INSTANCE").ok(),
        "total": total,
        "meanMs": mean_ms,
        "byStatus": by_status,
    }))
}

/// `GET /api/audit?before&limit`: newest first, administrators only.
pub(super) async fn audit_list(
    State(state): State<AppState>,
    caller: Principal,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<JsonValue>, Problem> {
    caller.require(Role::Admin)?;
    let Query(query) = query?;
    let (before, limit) = (query.before.unwrap_or(i64::MAX), query.limit.unwrap_or(50));
    let mut checks = Checks::new();
    if before < 1 {
        checks.reject("before", "range", "must be at least 1");
    }
    if !(1..=100).contains(&limit) {
        checks.reject("limit", "range", "must be 1 to 100");
    }
    checks.finish()?;
    let records =
        state.database.read(|client| Box::pin(async move { audit::list(&client, before, limit).await })).await?;
    let content: Vec<JsonValue> = records
        .iter()
        .map(|record| {
            json!({
                "id": record.id,
                "at": rfc3339(record.at),
                "actor": record.actor,
                "action": record.action,
                "subject": record.subject,
                "requestId": record.request_id,
                "details": serde_json::from_str::<JsonValue>(&record.details).unwrap_or(JsonValue::Null),
            })
        })
        .collect();
    Ok(Json(json!({ "content": content })))
}

/// `GET /api/audit/verify`: recomputes the chain, administrators only.
pub(super) async fn audit_verify(State(state): State<AppState>, caller: Principal) -> Result<Json<JsonValue>, Problem> {
    caller.require(Role::Admin)?;
    let verification = state.database.read(|client| Box::pin(async move { audit::verify(&client).await })).await?;
    Ok(Json(match verification {
        Verification::Intact { rows } => json!({ "intact": true, "rows": rows }),
        Verification::Broken { id } => json!({ "intact": false, "brokenAt": id }),
    }))
}
