//! The interface: which path leads to which handler.

mod access;
mod auth;
mod files;
mod general;
mod users;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use mainstay_kit::actuator::exchanges;
use mainstay_kit::audit;
use mainstay_kit::auth::{Principal, Role};
use mainstay_kit::limit::{UserLimit, limit_users};
use mainstay_kit::openapi::{self, Api, Route};
use mainstay_kit::problem::Problem;
use mainstay_kit::telemetry;
use serde_json::json;

use crate::config::Config;
use crate::import::BYTES_MAX;
use crate::state::AppState;

/// Larger bodies get 413. The longest user fits in a thousandth of it.
const BODY_MAX: usize = 64 * 1024;
/// The description of everything below; a test compares the two.
const DOCUMENT: &str = include_str!("../../openapi.json");
/// Endpoints of the actuator that administrators reach through the main port.
const INSIDE: [&str; 7] = ["health", "info", "metrics", "loggers", "caches", "scheduledtasks", "httpexchanges"];

/// The main port and the management port.
pub(crate) fn routers(state: AppState, config: &Config) -> (Router, Router) {
    let (router, list) = routes();
    let management = state.management(&list, config);
    let metrics = state.metrics.clone();
    let limit = UserLimit::new(state.auth.clone(), state.store.clone(), metrics.clone(), config.requests_per_minute);
    let admin = management.clone().inside(&INSIDE).layer(from_fn_with_state(state.clone(), let_admins_in));
    let main = router
        .nest("/api/admin", admin)
        .merge(openapi::documentation(DOCUMENT))
        .fallback(|| async { Problem::not_found("no such path") })
        .method_not_allowed_fallback(|| async { Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed") })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(limit, limit_users))
        .layer(from_fn_with_state(state.exchanges.clone(), exchanges::record))
        .layer(from_fn_with_state(metrics, telemetry::observe))
        .with_state(state);
    (main, management.router())
}

/// Guard of the administration: who may pass, and the record of what was changed behind it.
async fn let_admins_in(
    State(state): State<AppState>,
    caller: Principal,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    caller.require(Role::Admin)?;
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    if method != Method::GET && response.status().is_success() {
        let (caller, details) = (&caller, json!({ "method": method.as_str(), "path": path }).to_string());
        let details = &details;
        state
            .database
            .transaction(|transaction| {
                Box::pin(async move {
                    let entry = audit::Entry {
                        actor: &caller.username,
                        action: "operation.changed",
                        subject: "actuator",
                        details: details.clone(),
                    };
                    audit::append(&transaction, &entry).await
                })
            })
            .await?;
    }
    Ok(response)
}

fn routes() -> (Router<AppState>, Vec<Route>) {
    Api::new()
        .get("/api/users", users::list)
        .post("/api/users", users::create)
        .get("/api/users/active", users::active)
        .get("/api/users/search", users::search)
        .get("/api/users/stats", users::stats)
        .get("/api/users/export", files::export)
        .post_up_to("/api/users/import", BYTES_MAX, files::import)
        .get("/api/users/username/{username}", users::by_username)
        .get("/api/users/email/{email}", users::by_email)
        .get("/api/users/{id}", users::by_id)
        .put("/api/users/{id}", users::update)
        .delete("/api/users/{id}", users::delete)
        .put("/api/users/{id}/deactivate", users::deactivate)
        .put("/api/users/{id}/reactivate", users::reactivate)
        .put("/api/users/{id}/unlock", access::unlock)
        .get("/api/users/{id}/access", access::access)
        .delete("/api/users/{id}/sessions", access::end_sessions)
        .delete("/api/users/{id}/sessions/{session}", access::end_session)
        .post("/api/auth/login", auth::login)
        .post("/api/auth/refresh", auth::refresh)
        .post("/api/auth/session", auth::open_session)
        .get("/api/auth/session", auth::session)
        .post("/api/auth/logout", auth::logout)
        .get("/api/auth/me", auth::me)
        .put("/api/auth/password", auth::change_password)
        .get("/api/auth/sessions", access::own_sessions)
        .delete("/api/auth/sessions/{session}", access::end_own_session)
        .get("/api/audit", general::audit_list)
        .get("/api/audit/verify", general::audit_verify)
        .get("/api/v1/info", general::info)
        .get("/api/v1/health", general::health)
        .post("/api/v1/echo", general::echo)
        .get("/api/v1/metrics/requests", general::request_metrics)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described() -> serde_json::Value {
        serde_json::from_str(DOCUMENT).expect("openapi.json is JSON")
    }

    #[test]
    fn every_route_is_described_and_every_description_is_served() {
        let (_, mut list) = routes();
        for (method, path) in [
            ("GET", "/api/admin/actuator/health"),
            ("GET", "/api/admin/actuator/health/{name}"),
            ("GET", "/api/admin/actuator/info"),
            ("GET", "/api/admin/actuator/metrics"),
            ("GET", "/api/admin/actuator/metrics/{name}"),
            ("GET", "/api/admin/actuator/loggers"),
            ("GET", "/api/admin/actuator/loggers/{name}"),
            ("POST", "/api/admin/actuator/loggers/{name}"),
            ("GET", "/api/admin/actuator/caches"),
            ("DELETE", "/api/admin/actuator/caches"),
            ("GET", "/api/admin/actuator/caches/{name}"),
            ("DELETE", "/api/admin/actuator/caches/{name}"),
            ("GET", "/api/admin/actuator/scheduledtasks"),
            ("GET", "/api/admin/actuator/httpexchanges"),
        ] {
            list.push(Route { path, method, handler: "the actuator" });
        }
        let differences = openapi::differences(&described(), &list);
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }

    #[test]
    fn the_description_carries_the_programs_version() {
        assert_eq!(described()["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}
