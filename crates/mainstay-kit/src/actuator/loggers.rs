//! `loggers`: reads and sets levels while the process runs, for all instances when Redis is there.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Shared;
use crate::loggers::{ROOT, Threshold, global};
use crate::problem::{FieldError, Problem};
use crate::telemetry::{Level, log};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Wanted {
    /// Absent or null: follow what is above.
    configured_level: Option<String>,
}

fn shown(name: &str) -> Value {
    let (configured, effective) = global().level(name);
    match configured {
        Some(configured) => json!({ "configuredLevel": configured, "effectiveLevel": effective }),
        None => json!({ "effectiveLevel": effective }),
    }
}

pub(super) async fn all() -> Json<Value> {
    let loggers: Map<String, Value> = global().names().into_iter().map(|name| (name.clone(), shown(&name))).collect();
    Json(json!({ "levels": Threshold::ALL, "loggers": loggers, "groups": {} }))
}

pub(super) async fn one(Path(name): Path<String>) -> Result<Json<Value>, Problem> {
    if !global().names().contains(&name) {
        return Err(Problem::not_found("no logger of that name has written or been configured yet"));
    }
    Ok(Json(shown(&name)))
}

pub(super) async fn set(
    State(management): Shared,
    Path(name): Path<String>,
    body: Result<Json<Wanted>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Json(wanted) = body?;
    let level = match wanted.configured_level.as_deref() {
        None => None,
        Some(text) => Some(text.parse::<Threshold>().map_err(|error| {
            let detail = error.to_string();
            Problem::invalid(vec![FieldError { pointer: "/configuredLevel".to_owned(), code: "level", detail }])
        })?),
    };
    let name = if name.eq_ignore_ascii_case(ROOT) { ROOT.to_owned() } else { name };
    global().set(&name, level).map_err(|refused| {
        let detail = refused.to_string();
        Problem::invalid(vec![FieldError { pointer: "name".to_owned(), code: "logger", detail }])
    })?;
    global().publish(&management.store).await;
    let level = level.map_or("inherited", Threshold::as_str);
    log(Level::Warn, "LogLevelSet", &[("configured", &name), ("to", level)]);
    Ok(StatusCode::NO_CONTENT)
}
