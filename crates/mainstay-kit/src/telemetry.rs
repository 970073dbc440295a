//! One JSON line on stdout per event, request identity across services, and request metrics.
//!
//! Never prints secrets: values under names that mean one are replaced, whoever passes them.

use std::io::Write as _;
use std::panic::Location;
use std::time::{Instant, SystemTime};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::loggers;
use crate::metrics::{Kind, Metrics};
use crate::problem::Problem;
use crate::random;
use crate::time::rfc3339;

/// Header that carries the request's identity in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Longer ids are not taken over: they would be copied into every log line.
const REQUEST_ID_MAX: usize = 128;
const SECRET_WORDS: [&str; 6] = ["password", "token", "secret", "authorization", "cookie", "key"];

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A person must act.
    Error,
    /// Surprising, but the service went on.
    Warn,
    /// A state change or a request.
    Info,
    /// A decision, for somebody who looks for a cause. Not written unless a logger's level is lowered.
    Debug,
}

/// Identity of the request being served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestIdentity {
    /// From `X-Request-Id`, or new.
    pub request_id: String,
    /// From `traceparent`, or new. 32 hexadecimal digits.
    pub trace_id: String,
}

tokio::task_local! {
    static CURRENT: RequestIdentity;
}

/// Identity of the request that the current task serves.
#[must_use]
pub fn current() -> Option<RequestIdentity> {
    CURRENT.try_with(Clone::clone).ok()
}

/// Writes one event, if the level of its logger (the place that calls this) allows it. Names are
/// `NounVerbed`; a line that cannot be written is dropped.
#[track_caller]
pub fn log(level: Level, event: &str, fields: &[(&str, &str)]) {
    let logger = loggers::name_of(Location::caller().file());
    if !loggers::global().is_enabled(&logger, level) {
        return;
    }
    let line = line(SystemTime::now(), level, (&logger, event), fields, current().as_ref());
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes());
}

fn line(
    now: SystemTime,
    level: Level,
    (logger, event): (&str, &str),
    fields: &[(&str, &str)],
    identity: Option<&RequestIdentity>,
) -> String {
    let mut object = serde_json::Map::new();
    let level = match level {
        Level::Error => "ERROR",
        Level::Warn => "WARN",
        Level::Info => "INFO",
        Level::Debug => "DEBUG",
    };
    object.insert("timestamp".into(), rfc3339(now).into());
    object.insert("level".into(), level.into());
    object.insert("logger".into(), logger.into());
    object.insert("event".into(), event.into());
    if let Some(identity) = identity {
        object.insert("request_id".into(), identity.request_id.clone().into());
        object.insert("trace_id".into(), identity.trace_id.clone().into());
    }
    for (name, value) in fields {
        let lower = name.to_ascii_lowercase();
        let is_secret = SECRET_WORDS.iter().any(|word| lower.contains(word));
        let value = if is_secret { "[redacted]" } else { value };
        object.insert((*name).to_owned(), value.into());
    }
    let mut text = serde_json::Value::Object(object).to_string();
    text.push('\n');
    text
}

/// Middleware for every route of the main port: identity, metrics, one log line, and an answer
/// even when a handler panics. The handler runs to its end when the client has gone, so that a
/// write is never cut in half.
pub async fn observe(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let identity = identify(request.headers());
    let method = request.method().as_str().to_owned();
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| "UNKNOWN".to_owned(), |path| path.as_str().to_owned());
    let started = Instant::now();
    metrics.shift("http_server_requests_active", &[], 1.0);
    let task = tokio::spawn(CURRENT.scope(identity.clone(), next.run(request)));
    let mut response = match task.await {
        Ok(response) => response,
        Err(_) => Problem::internal().into_response(),
    };
    metrics.shift("http_server_requests_active", &[], -1.0);
    let elapsed = started.elapsed().as_secs_f64();
    let status = response.status();
    let labels = [
        ("method", method.as_str()),
        ("uri", route.as_str()),
        ("status", status.as_str()),
        ("outcome", outcome(status.as_u16())),
    ];
    metrics.observe("http_server_requests_seconds", &labels, elapsed);
    let millis = format!("{:.3}", elapsed * 1000.0);
    let fields = [
        ("method", method.as_str()),
        ("route", route.as_str()),
        ("status", status.as_str()),
        ("duration_ms", millis.as_str()),
    ];
    CURRENT.sync_scope(identity.clone(), || log(Level::Info, "RequestAnswered", &fields));
    if let Ok(value) = HeaderValue::from_str(&identity.request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Makes the request metrics known before the first request.
pub fn describe(metrics: &Metrics) {
    metrics.describe("http_server_requests_seconds", Kind::Histogram, "Answered requests by method, route and status");
    metrics.describe("http_server_requests_active", Kind::Gauge, "Requests being answered");
    metrics.set("http_server_requests_active", &[], 0.0);
}

fn identify(headers: &HeaderMap) -> RequestIdentity {
    let request_id = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty() && id.len() <= REQUEST_ID_MAX)
        .map_or_else(|| random::hex(&random::bytes::<16>()), str::to_owned);
    let trace_id = headers
        .get(TRACEPARENT)
        .and_then(|value| value.to_str().ok())
        .and_then(trace_id_of)
        .unwrap_or_else(|| random::hex(&random::bytes::<16>()));
    RequestIdentity { request_id, trace_id }
}

/// **Source**: W3C Trace Context, 3.2.
fn trace_id_of(traceparent: &str) -> Option<String> {
    let mut parts = traceparent.split('-');
    let (version, trace_id) = (parts.next()?, parts.next()?);
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let is_valid = version.len() == 2
        && version != "ff"
        && trace_id.len() == 32
        && is_hex(version)
        && is_hex(trace_id)
        && trace_id.bytes().any(|b| b != b'0');
    is_valid.then(|| trace_id.to_owned())
}

fn outcome(status: u16) -> &'static str {
    match status {
        100..=199 => "INFORMATIONAL",
        200..=299 => "SUCCESS",
        300..=399 => "REDIRECTION",
        400..=499 => "CLIENT_ERROR",
        _ => "SERVER_ERROR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redacts_values_by_name() {
        let fields = [("refresh_token", "abc"), ("Authorization", "Bearer x"), ("route", "/api")];
        let text = line(SystemTime::UNIX_EPOCH, Level::Info, ("users", "RequestAnswered"), &fields, None);
        assert!(!text.contains("abc") && !text.contains("Bearer"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["route"], "/api");
        assert_eq!(value["level"], "INFO");
        assert!(text.ends_with('\n') && text.matches('\n').count() == 1);
    }

    #[test]
    fn keeps_one_line_whatever_a_value_holds() {
        let text =
            line(SystemTime::UNIX_EPOCH, Level::Warn, ("users", "X"), &[("a", "1\n{\"level\":\"ERROR\"}")], None);
        assert_eq!(text.matches('\n').count(), 1);
    }

    #[test]
    fn takes_over_valid_identities_only() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("req-abc-123"));
        headers
            .insert(TRACEPARENT, HeaderValue::from_static("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        let identity = identify(&headers);
        assert_eq!(identity.request_id, "req-abc-123");
        assert_eq!(identity.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        headers.insert(TRACEPARENT, HeaderValue::from_static("00-00000000000000000000000000000000-1-01"));
        assert_ne!(identify(&headers).trace_id, "0".repeat(32));
    }
}
