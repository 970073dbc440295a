//! `/actuator/*` on the management port, in the JSON shapes of Spring Boot's actuator, and the plain
//! `/healthz`, `/readyz`, `/metrics`.
//!
//! Readiness is about this process only. A database that is switching over is shown under
//! `health`, but must not eject every instance at once: the router holds their sessions meanwhile.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value as Json_, json};

use crate::drain::Drain;
use crate::metrics::{Family, Kind, Labels, Metrics, Value};
use crate::problem::Problem;
use crate::time::rfc3339;

/// A component that does not answer in this time counts as down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Result of looking at a component; the text is for operators and holds no secrets.
pub type Probe = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// Something that the service depends on.
#[derive(Clone)]
pub struct Component {
    /// Key under `components`.
    pub name: &'static str,
    /// Without it the service is DOWN; otherwise DEGRADED.
    pub is_required: bool,
    /// How it is looked at.
    pub probe: Probe,
}

/// What the actuator shows.
#[derive(Clone)]
pub struct Actuator {
    /// Metrics of the process.
    pub metrics: Metrics,
    /// Readiness follows it.
    pub drain: Drain,
    /// Parts of `health`.
    pub components: Vec<Component>,
    /// Answer of `info`.
    pub info: Json_,
    /// Called before metrics are shown, for gauges that are read and not counted.
    pub before_scrape: Arc<dyn Fn(&Metrics) + Send + Sync>,
}

impl Actuator {
    /// Says when the process began.
    pub(crate) fn describe(&self) {
        self.metrics.describe("process_start_time_seconds", Kind::Gauge, "Start of the process");
        self.metrics.set("process_start_time_seconds", &[], unix(SystemTime::now()));
    }

    /// Its routes.
    pub fn router(self) -> Router {
        self.describe();
        Router::new()
            .route("/actuator", get(links))
            .route("/actuator/health", get(health))
            .route("/actuator/health/{name}", get(part))
            .route("/actuator/info", get(info))
            .route("/actuator/metrics", get(metric_names))
            .route("/actuator/metrics/{name}", get(metric))
            .route("/actuator/prometheus", get(prometheus))
            .route("/healthz", get(alive))
            .route("/readyz", get(ready))
            .route("/metrics", get(prometheus))
            .with_state(Arc::new(self))
    }

    /// Answer of `prometheus`.
    pub(crate) fn prometheus(&self) -> Response {
        self.scrape();
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        ([(header::CONTENT_TYPE, kind)], self.metrics.text()).into_response()
    }

    fn scrape(&self) {
        (self.before_scrape)(&self.metrics);
        report_process(&self.metrics);
    }
}

/// `/healthz` and `/readyz` for the main port: whoever balances asks where the requests go.
pub fn probes<S: Clone + Send + Sync + 'static>(drain: &Drain) -> Router<S> {
    let drain = drain.clone();
    Router::new()
        .route("/healthz", get(|| async { plain("UP") }))
        .route("/readyz", get(move || async move { plain(if drain.is_leaving() { "OUT_OF_SERVICE" } else { "UP" }) }))
}

async fn alive() -> Response {
    plain("UP")
}

async fn ready(State(actuator): State<Arc<Actuator>>) -> Response {
    plain(if actuator.drain.is_leaving() { "OUT_OF_SERVICE" } else { "UP" })
}

fn plain(status: &str) -> Response {
    answer(status, json!({ "status": status }))
}

async fn links() -> Json<Json_> {
    let link = |path: &str| json!({ "href": path, "templated": path.contains('{') });
    Json(json!({ "_links": {
        "self": link("/actuator"),
        "health": link("/actuator/health"),
        "health-path": link("/actuator/health/{*path}"),
        "info": link("/actuator/info"),
        "metrics": link("/actuator/metrics"),
        "metrics-requiredMetricName": link("/actuator/metrics/{requiredMetricName}"),
        "prometheus": link("/actuator/prometheus"),
    } }))
}

async fn health(State(actuator): State<Arc<Actuator>>) -> Response {
    actuator.health(true).await
}

async fn part(State(actuator): State<Arc<Actuator>>, Path(name): Path<String>) -> Response {
    actuator.health_of(&name, true).await
}

impl Actuator {
    /// Answer of `health`; the components only where `shows_details`.
    pub(crate) async fn health(&self, shows_details: bool) -> Response {
        let mut components = serde_json::Map::new();
        let mut status = "UP";
        // All at once: the slowest decides, not the sum.
        let looks: Vec<_> = self.components.iter().map(|component| tokio::spawn(look(component.clone()))).collect();
        for (component, look) in self.components.iter().zip(looks) {
            let result = look.await.unwrap_or_else(|_| Err("the look failed".to_owned()));
            if result.is_err() && component.is_required {
                status = "DOWN";
            } else if result.is_err() && status == "UP" {
                status = "DEGRADED";
            }
            components.insert(component.name.to_owned(), shown(component, &result));
        }
        components.insert("ping".to_owned(), json!({ "status": "UP" }));
        if self.drain.is_leaving() {
            status = "OUT_OF_SERVICE";
        }
        let groups = json!(["liveness", "readiness"]);
        let body = match shows_details {
            true => json!({ "status": status, "components": components, "groups": groups }),
            false => json!({ "status": status, "groups": groups }),
        };
        answer(status, body)
    }

    /// Answer of `health/{name}`: a group, or one component.
    pub(crate) async fn health_of(&self, name: &str, shows_details: bool) -> Response {
        let (component, status) = match name {
            "liveness" => ("livenessState", "UP"),
            "readiness" if self.drain.is_leaving() => ("readinessState", "OUT_OF_SERVICE"),
            "readiness" => ("readinessState", "UP"),
            "ping" if shows_details => return answer("UP", json!({ "status": "UP" })),
            other => {
                let found = self.components.iter().find(|component| component.name == other && shows_details);
                let Some(component) = found else {
                    return Problem::not_found("no health group or component of that name").into_response();
                };
                let result = look(component.clone()).await;
                return answer(if result.is_ok() { "UP" } else { "DOWN" }, shown(component, &result));
            }
        };
        let body = match shows_details {
            true => json!({ "status": status, "components": { component: { "status": status } } }),
            false => json!({ "status": status }),
        };
        answer(status, body)
    }
}

type Look = Result<Duration, String>;

async fn look(component: Component) -> Look {
    let started = std::time::Instant::now();
    match tokio::time::timeout(PROBE_TIMEOUT, (component.probe)()).await {
        Ok(result) => result.map(|()| started.elapsed()),
        Err(_) => Err("no answer within 1 s".to_owned()),
    }
}

fn shown(component: &Component, look: &Look) -> Json_ {
    match look {
        Ok(took) => json!({ "status": "UP", "details": {
            "required": component.is_required, "responseTimeMs": took.as_secs_f64() * 1_000.0 } }),
        Err(error) => {
            json!({ "status": "DOWN", "details": { "required": component.is_required, "error": error } })
        }
    }
}

fn answer(status: &str, body: Json_) -> Response {
    let code = match status {
        "UP" | "DEGRADED" => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

async fn info(State(actuator): State<Arc<Actuator>>) -> Json<Json_> {
    Json(actuator.info.clone())
}

async fn prometheus(State(actuator): State<Arc<Actuator>>) -> Response {
    actuator.prometheus()
}

async fn metric_names(State(actuator): State<Arc<Actuator>>) -> Json<Json_> {
    Json(actuator.metric_names())
}

async fn metric(
    State(actuator): State<Arc<Actuator>>,
    Path(wanted): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Json<Json_>, Problem> {
    actuator.metric(&wanted, &query).map(Json)
}

impl Actuator {
    /// Answer of `metrics`.
    pub(crate) fn metric_names(&self) -> Json_ {
        self.scrape();
        let snapshot = self.metrics.snapshot();
        let names: Vec<String> = snapshot.iter().map(|(name, family)| dotted(name, family)).collect();
        json!({ "names": names })
    }

    /// Answer of `metrics/{name}`.
    pub(crate) fn metric(&self, wanted: &str, query: &[(String, String)]) -> Result<Json_, Problem> {
        self.scrape();
        let filters: Vec<(&str, &str)> =
            query.iter().filter(|(name, _)| name == "tag").filter_map(|(_, tag)| tag.split_once(':')).collect();
        let snapshot = self.metrics.snapshot();
        let (name, family) = snapshot
            .iter()
            .find(|(name, family)| dotted(name, family) == wanted)
            .ok_or_else(|| Problem::not_found("no metric of that name"))?;
        let matches =
            |labels: &Labels| filters.iter().all(|(tag, value)| labels.iter().any(|(n, v)| n == tag && v == value));
        let chosen: Vec<_> = family.series.iter().filter(|(labels, _)| matches(labels)).collect();
        if chosen.is_empty() && !filters.is_empty() {
            return Err(Problem::not_found("no series has these tags"));
        }
        let mut tags: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (labels, _) in &chosen {
            for (tag, value) in labels.iter().filter(|(tag, _)| !filters.iter().any(|(f, _)| f == tag)) {
                let values = tags.entry(*tag).or_default();
                if !values.contains(&value.as_str()) {
                    values.push(value);
                }
            }
        }
        let available: Vec<_> = tags.iter().map(|(tag, values)| json!({ "tag": tag, "values": values })).collect();
        Ok(json!({
            "name": dotted(name, family),
            "description": family.help,
            "baseUnit": name.contains("_seconds").then_some("seconds"),
            "measurements": measurements(family.kind, chosen.iter().map(|(_, value)| *value)),
            "availableTags": available,
        }))
    }
}

fn measurements<'a>(kind: Kind, values: impl Iterator<Item = &'a Value>) -> Json_ {
    let (mut number, mut count, mut total, mut largest) = (0.0, 0_u64, 0.0, 0.0_f64);
    for value in values {
        match value {
            Value::Number(n) => number += n,
            Value::Histogram { buckets, sum, max } => {
                count += buckets.iter().sum::<u64>();
                total += sum;
                largest = largest.max(*max);
            }
        }
    }
    match kind {
        Kind::Counter => json!([{ "statistic": "COUNT", "value": number }]),
        Kind::Gauge => json!([{ "statistic": "VALUE", "value": number }]),
        Kind::Histogram => json!([
            { "statistic": "COUNT", "value": count },
            { "statistic": "TOTAL_TIME", "value": total },
            { "statistic": "MAX", "value": largest },
        ]),
    }
}

/// `http_server_requests_seconds` is `http.server.requests` in Spring's words.
fn dotted(name: &str, family: &Family) -> String {
    let name = match family.kind {
        Kind::Histogram => name.trim_end_matches("_seconds"),
        Kind::Counter => name.trim_end_matches("_total"),
        Kind::Gauge => name,
    };
    name.replace('_', ".")
}

/// Memory and processor time of this process. **Source**: proc(5). Left out where /proc is not.
fn report_process(metrics: &Metrics) {
    if let Some(kib) = std::fs::read_to_string("/proc/self/status").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok()
    }) {
        metrics.describe("process_resident_memory_bytes", Kind::Gauge, "Resident memory");
        metrics.set("process_resident_memory_bytes", &[], kib * 1024.0);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        metrics.describe("process_open_fds", Kind::Gauge, "Open file descriptors");
        let open = u32::try_from(entries.count()).unwrap_or(u32::MAX);
        metrics.set("process_open_fds", &[], f64::from(open));
    }
}

fn unix(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

/// The usual answer of `info`: what runs, since when, and what mainstay says about it.
#[must_use]
pub fn standard_info(name: &str, version: &str) -> Json_ {
    let from = |key: &str| std::env::var(key).ok();
    json!({
        "app": { "name": name, "version": version },
        "build": { "artifact": name, "name": name, "version": version },
        "os": { "name": std::env::consts::OS, "arch": std::env::consts::ARCH },
        "process": { "pid": std::process::id(), "startedAt": rfc3339(SystemTime::now()) },
        "mainstay": {
            "stack": from("MAINSTAY_STACK"),
            "environment": from("MAINSTAY_ENVIRONMENT"),
            "service": from("MAINSTAY_SERVICE"),
            "instance": from("MAINSTAY_INSTANCE"),
            "release": from("MAINSTAY_RELEASE"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actuator(is_required: bool, is_up: bool) -> Actuator {
        let probe: Probe =
            Arc::new(move || Box::pin(async move { if is_up { Ok(()) } else { Err("refused".to_owned()) } }));
        Actuator {
            metrics: Metrics::new(),
            drain: Drain::new(),
            components: vec![Component { name: "db", is_required, probe }],
            info: json!({}),
            before_scrape: Arc::new(|_| {}),
        }
    }

    async fn health_status(actuator: Actuator) -> StatusCode {
        health(State(Arc::new(actuator))).await.status()
    }

    #[tokio::test]
    async fn is_down_without_a_required_component_only() {
        assert_eq!(health_status(actuator(true, true)).await, StatusCode::OK);
        assert_eq!(health_status(actuator(true, false)).await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(health_status(actuator(false, false)).await, StatusCode::OK);
    }

    #[tokio::test]
    async fn readiness_follows_the_drain_and_not_the_database() {
        let shared = Arc::new(actuator(true, false));
        let look = |name: &str| part(State(shared.clone()), Path(name.to_owned()));
        assert_eq!(look("readiness").await.status(), StatusCode::OK);
        shared.drain.begin();
        assert_eq!(look("readiness").await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(look("liveness").await.status(), StatusCode::OK);
        assert_eq!(look("other").await.status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn shows_components_only_to_those_who_may_see_them() {
        let actuator = actuator(true, false);
        assert_eq!(actuator.health_of("db", true).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(actuator.health_of("db", false).await.status(), StatusCode::NOT_FOUND);
        let body = |response: Response| async {
            let bytes = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
            serde_json::from_slice::<Json_>(&bytes).unwrap()
        };
        let shown = body(actuator.health(true).await).await;
        assert_eq!(shown["components"]["db"]["details"], json!({ "required": true, "error": "refused" }));
        assert_eq!(
            body(actuator.health(false).await).await,
            json!({ "status": "DOWN", "groups": ["liveness", "readiness"] })
        );
    }

    #[test]
    fn speaks_springs_names() {
        let metrics = Metrics::new();
        metrics.observe("http_server_requests_seconds", &[], 0.1);
        metrics.add("cache_gets_total", &[], 1.0);
        let names: Vec<_> = metrics.snapshot().iter().map(|(n, f)| dotted(n, f)).collect();
        assert_eq!(names, ["cache.gets", "http.server.requests"]);
    }
}
