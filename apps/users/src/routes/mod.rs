//! The interface: which path leads to which handler.

mod auth;
mod general;
mod users;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use mainstay_kit::problem::Problem;
use mainstay_kit::telemetry;

use crate::state::AppState;

/// Larger bodies get 413. The longest user fits in a thousandth of it.
const BODY_MAX: usize = 64 * 1024;

/// Everything on the main port.
pub(crate) fn router(state: AppState) -> Router {
    let metrics = state.metrics.clone();
    Router::new()
        .route("/api/users", get(users::list).post(users::create))
        .route("/api/users/active", get(users::active))
        .route("/api/users/search", get(users::search))
        .route("/api/users/stats", get(users::stats))
        .route("/api/users/username/{username}", get(users::by_username))
        .route("/api/users/email/{email}", get(users::by_email))
        .route("/api/users/{id}", get(users::by_id).put(users::update).delete(users::delete))
        .route("/api/users/{id}/deactivate", put(users::deactivate))
        .route("/api/users/{id}/reactivate", put(users::reactivate))
        .route("/api/auth/login", post(auth::login))
        .route("/api/auth/refresh", post(auth::refresh))
        .route("/api/auth/logout", post(auth::logout))
        .route("/api/auth/me", get(auth::me))
        .route("/api/auth/password", put(auth::change_password))
        .route("/api/audit", get(general::audit_list))
        .route("/api/audit/verify", get(general::audit_verify))
        .route("/api/v1/info", get(general::info))
        .route("/api/v1/health", get(general::health))
        .route("/api/v1/echo", post(general::echo))
        .route("/api/v1/metrics/requests", get(general::request_metrics))
        .fallback(|| async { Problem::not_found("no such path") })
        .method_not_allowed_fallback(|| async {
            Problem::new(axum::http::StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
        })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(metrics, telemetry::observe))
        .with_state(state)
}
