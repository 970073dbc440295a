//! `httpexchanges`: the last requests of this instance, without what could be secret.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::Shared;
use crate::limit::AnsweredTo;
use crate::time::rfc3339;

/// Kept. **Source**: Spring's InMemoryHttpExchangeRepository.
const KEPT: usize = 100;
/// Headers that are shown; every other one may carry something private.
const SHOWN: [&str; 10] = [
    "accept",
    "content-type",
    "content-length",
    "user-agent",
    "if-match",
    "if-none-match",
    "etag",
    "retry-after",
    "x-request-id",
    "x-cache",
];

/// The last exchanges. Cloning shares them.
#[derive(Clone, Default)]
pub struct Exchanges {
    kept: Arc<Mutex<VecDeque<Value>>>,
}

impl Exchanges {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&self, exchange: Value) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.pop_back();
        }
        kept.push_front(exchange);
    }
}

/// Middleware that remembers.
pub async fn record(State(exchanges): State<Exchanges>, request: Request, next: Next) -> Response {
    let (at, started) = (SystemTime::now(), Instant::now());
    let asked = json!({
        "method": request.method().as_str(),
        // Not the query: it holds what people search for.
        "uri": shown_uri(request.uri()),
        "headers": shown_headers(request.headers()),
    });
    let response = next.run(request).await;
    let mut exchange = json!({
        "timestamp": rfc3339(at),
        "request": asked,
        "response": { "status": response.status().as_u16(), "headers": shown_headers(response.headers()) },
        "timeTaken": iso_duration(started.elapsed().as_secs_f64()),
    });
    if let Some(caller) = response.extensions().get::<AnsweredTo>() {
        exchange["principal"] = json!({ "name": caller.username });
        exchange["session"] = json!({ "id": caller.session_id });
    }
    exchanges.push(exchange);
    response
}

pub(super) async fn answer(State(management): Shared) -> Json<Value> {
    let kept = management.exchanges.kept.lock().unwrap_or_else(PoisonError::into_inner);
    Json(json!({ "exchanges": kept.iter().collect::<Vec<_>>() }))
}

fn shown_uri(uri: &Uri) -> String {
    uri.path().chars().take(300).collect()
}

fn shown_headers(headers: &HeaderMap) -> Map<String, Value> {
    let shown = headers.keys().filter(|name| SHOWN.contains(&name.as_str()));
    shown
        .map(|name| {
            let values: Vec<_> =
                headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            (name.as_str().to_owned(), json!(values))
        })
        .collect()
}

/// `PT0.023S`. **Source**: ISO 8601, as Java writes a duration.
pub(super) fn iso_duration(seconds: f64) -> String {
    format!("PT{seconds:.6}S")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_hundred_newest_first() {
        let exchanges = Exchanges::new();
        for index in 0..KEPT + 7 {
            exchanges.push(json!(index));
        }
        let kept = exchanges.kept.lock().unwrap();
        assert_eq!((kept.len(), &kept[0], &kept[KEPT - 1]), (KEPT, &json!(KEPT + 6), &json!(7)));
    }

    #[test]
    fn shows_no_credentials_and_no_query() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "cookie", "x-csrf-token", "set-cookie"] {
            headers.insert(name, "secret".parse().unwrap());
        }
        headers.insert("accept", "application/json".parse().unwrap());
        assert_eq!(Value::Object(shown_headers(&headers)), json!({ "accept": ["application/json"] }));
        assert_eq!(shown_uri(&"/api/users?q=ada".parse().unwrap()), "/api/users");
    }
}
