//! The actuator in full: what Spring Boot's offers and a Rust service can answer honestly, in the
//! same JSON, so that tools that read the one can read the other.
//!
//! **Source**: the examples of Spring Boot's "Production-ready Features", Actuator REST API, 3.x;
//! `tests/actuator_shapes.rs` holds answers against them. Left out, because a Rust process has no
//! such thing: `beans`, `conditions`, `heapdump`, `integrationgraph`, `quartz`; `shutdown` is left
//! out because SIGTERM does it in good order. `threaddump` has threads and states, no stacks.

mod answers;
mod database;
pub mod exchanges;
mod loggers;
mod process;
pub mod sbom;
pub mod startup;
pub mod tasks;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get};
use axum::{Extension, Json};
use serde_json::{Value, json};

use crate::auth::{Authenticator, Role};
use crate::cache::Cache;
use crate::health::Actuator;
use crate::openapi::Route;
use crate::pool::Database;
use crate::problem::Problem;
use exchanges::Exchanges;
use startup::Startup;
use tasks::Tasks;

/// What the index calls its endpoints, in its order.
pub const ENDPOINTS: [&str; 18] = [
    "health",
    "info",
    "metrics",
    "prometheus",
    "loggers",
    "env",
    "configprops",
    "mappings",
    "httpexchanges",
    "caches",
    "scheduledtasks",
    "flyway",
    "sessions",
    "auditevents",
    "threaddump",
    "startup",
    "sbom",
    "self",
];

/// One setting as the service understood it.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `databasePool`
    pub name: &'static str,
    /// `DATABASE_POOL`
    pub variable: &'static str,
    /// `None`: must not be shown.
    pub value: Option<String>,
    /// Whether the environment said so, or it is the default.
    pub is_given: bool,
}

/// A cache whose entries may be thrown away.
#[derive(Clone)]
pub struct ManagedCache {
    /// Its name here.
    pub name: &'static str,
    /// Where its entries are.
    pub cache: Cache,
    /// What their keys begin with.
    pub prefix: &'static str,
}

/// Everything the endpoints show.
#[derive(Clone)]
pub struct Management {
    /// Health, info and metrics.
    pub base: Actuator,
    /// Tells who may see components and ends sessions.
    pub auth: Authenticator,
    /// For `flyway`, `sessions` and `auditevents`.
    pub database: Database,
    /// Carries log levels to the other instances.
    pub store: Cache,
    /// `env`, `configprops`.
    pub settings: Vec<Setting>,
    /// `mappings`.
    pub routes: Vec<Route>,
    /// `httpexchanges`.
    pub exchanges: Exchanges,
    /// `caches`.
    pub caches: Vec<ManagedCache>,
    /// `scheduledtasks`.
    pub tasks: Tasks,
    /// `startup`.
    pub startup: Startup,
    /// `sbom`, which is not there without.
    pub sbom: Option<Arc<Value>>,
}

/// In a request's extensions: the caller has been let in as an administrator already.
#[derive(Clone, Copy, Debug)]
struct LetIn;

type Shared = State<Arc<Management>>;
type Insider = Option<Extension<LetIn>>;

impl Management {
    /// All endpoints, for the management port. What comes through the edge (it says so in
    /// `X-Forwarded-For`) sees the components of `health` as a signed-in administrator only.
    pub fn router(self) -> Router {
        self.base.describe();
        let shared = Arc::new(self);
        let mut router = Router::new().route("/actuator", get(index));
        for name in ENDPOINTS {
            router = router.merge(endpoint(name));
        }
        router.fallback(|| async { Problem::not_found("the actuator has no such path") }).with_state(shared)
    }

    /// Some endpoints for a route that lets administrators in and nobody else: put a guard before it.
    pub fn inside<S: Clone + Send + Sync + 'static>(self, names: &[&str]) -> Router<S> {
        let mut router = Router::new();
        for name in names {
            router = router.merge(endpoint(name));
        }
        router.layer(Extension(LetIn)).with_state(Arc::new(self))
    }

    async fn shows_details(&self, insider: &Insider, headers: &HeaderMap) -> bool {
        if insider.is_some() || !headers.contains_key("x-forwarded-for") {
            return true;
        }
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match authorization {
            None => false,
            some => self.auth.authenticate(some).await.is_ok_and(|caller| caller.require(Role::Admin).is_ok()),
        }
    }
}

fn endpoint(name: &str) -> Router<Arc<Management>> {
    let router = Router::new();
    match name {
        "health" => router.route("/actuator/health", get(health)).route("/actuator/health/{name}", get(health_of)),
        "info" => router.route("/actuator/info", get(|State(m): Shared| async move { Json(m.base.info.clone()) })),
        "metrics" => router
            .route("/actuator/metrics", get(|State(m): Shared| async move { Json(m.base.metric_names()) }))
            .route("/actuator/metrics/{name}", get(metric)),
        "prometheus" => {
            router.route("/actuator/prometheus", get(|State(m): Shared| async move { m.base.prometheus() }))
        }
        "loggers" => router
            .route("/actuator/loggers", get(loggers::all))
            .route("/actuator/loggers/{name}", get(loggers::one).post(loggers::set)),
        "env" => router.route("/actuator/env", get(answers::env)).route("/actuator/env/{name}", get(answers::env_of)),
        "configprops" => router.route("/actuator/configprops", get(answers::configprops)),
        "mappings" => router.route("/actuator/mappings", get(answers::mappings)),
        "httpexchanges" => router.route("/actuator/httpexchanges", get(exchanges::answer)),
        "caches" => router
            .route("/actuator/caches", get(answers::caches).delete(answers::clear_caches))
            .route("/actuator/caches/{name}", get(answers::cache).delete(answers::clear_cache)),
        "scheduledtasks" => router.route("/actuator/scheduledtasks", get(tasks::answer)),
        "flyway" => router.route("/actuator/flyway", get(database::flyway)),
        "sessions" => router
            .route("/actuator/sessions", get(database::sessions))
            .route("/actuator/sessions/{id}", delete(database::end_session).get(database::session)),
        "auditevents" => router.route("/actuator/auditevents", get(database::audit_events)),
        "threaddump" => router.route("/actuator/threaddump", get(process::threads)),
        "startup" => router.route("/actuator/startup", get(startup::answer)),
        "sbom" => router.route("/actuator/sbom", get(sbom::ids)).route("/actuator/sbom/{id}", get(sbom::one)),
        _ => router,
    }
}

async fn index(State(management): Shared, headers: HeaderMap) -> Json<Value> {
    // Spring's links are absolute, and who reads them (Spring Boot Admin) follows them.
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or("localhost");
    let link = |path: &str| json!({ "href": format!("http://{host}/actuator{path}"), "templated": path.contains('{') });
    let mut links = serde_json::Map::new();
    links.insert("self".to_owned(), link(""));
    let is_there = |name: &str| name != "self" && (name != "sbom" || management.sbom.is_some());
    for name in ENDPOINTS.into_iter().filter(|name| is_there(name)) {
        links.insert(name.to_owned(), link(&format!("/{name}")));
        let further = match name {
            "health" => Some(("health-path", "/health/{*path}")),
            "metrics" => Some(("metrics-requiredMetricName", "/metrics/{requiredMetricName}")),
            "loggers" => Some(("loggers-name", "/loggers/{name}")),
            "env" => Some(("env-toMatch", "/env/{toMatch}")),
            "caches" => Some(("caches-cache", "/caches/{cache}")),
            "sessions" => Some(("sessions-sessionId", "/sessions/{sessionId}")),
            "sbom" => Some(("sbom-id", "/sbom/{id}")),
            _ => None,
        };
        if let Some((name, path)) = further {
            links.insert(name.to_owned(), link(path));
        }
    }
    Json(json!({ "_links": links }))
}

async fn health(State(management): Shared, insider: Insider, headers: HeaderMap) -> Response {
    let shows = management.shows_details(&insider, &headers).await;
    management.base.health(shows).await
}

async fn health_of(
    State(management): Shared,
    insider: Insider,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let shows = management.shows_details(&insider, &headers).await;
    management.base.health_of(&name, shows).await
}

async fn metric(
    State(management): Shared,
    Path(name): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    match management.base.metric(&name, &query) {
        Ok(answer) => Json(answer).into_response(),
        Err(problem) => problem.into_response(),
    }
}
