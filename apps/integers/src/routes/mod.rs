//! The interface: which path leads to which handler.

mod accounts;
mod admin;
mod integer;
mod tokens;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::from_fn_with_state;
use mainstay_kit::assets::{self, Asset};
use mainstay_kit::openapi::{Api, documentation};
use mainstay_kit::problem::Problem;
use mainstay_kit::{health, telemetry};

use crate::state::AppState;

/// Larger bodies get 413. The longest that is needed has some 250 bytes.
const BODY_MAX: usize = 16 * 1024;
const DOCUMENT: &str = include_str!("../../openapi.json");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

const PAGE: [Asset; 4] = [
    Asset { path: "/", content_type: "text/html; charset=utf-8", body: include_str!("../../web/index.html") },
    Asset { path: "/app.js", content_type: "text/javascript; charset=utf-8", body: include_str!("../../web/app.js") },
    Asset { path: "/style.css", content_type: "text/css; charset=utf-8", body: include_str!("../../web/style.css") },
    Asset { path: "/icon.svg", content_type: "image/svg+xml", body: include_str!("../../web/icon.svg") },
];

/// What the document describes.
fn api() -> Api<AppState> {
    Api::new()
        .post("/users/create", accounts::create)
        .post("/auth/token", tokens::token)
        .post("/auth/refresh", tokens::refresh)
        .post("/auth/logout", tokens::logout)
        .get("/api/v1/integer", integer::current)
        .put("/api/v1/integer", integer::set)
        .post("/api/v1/integer/next", integer::next_by_post)
        .put("/api/v1/integer/next", integer::next_by_put)
        .get("/api/v1/usage", integer::usage)
        .get("/api/v1/me", accounts::me)
        .post("/api/v1/api-key/rotate", accounts::rotate)
        .get("/api/v1/users/{id}", accounts::by_id)
        .get("/api/v1/users", admin::users)
        .put("/api/v1/users/{id}/active", admin::set_active)
        .get("/api/v1/audit", admin::audit_list)
        .get("/api/v1/audit/verify", admin::audit_verify)
}

/// Everything on the main port.
pub(crate) fn router(state: AppState) -> Router {
    let (router, _) = api().finish();
    router
        .merge(documentation(DOCUMENT))
        .merge(assets::routes(&PAGE))
        .merge(health::probes(&state.drain))
        .fallback(|| async { Problem::not_found("no such path") })
        .method_not_allowed_fallback(|| async { Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed") })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(from_fn_with_state(state.metrics.clone(), telemetry::observe))
        .with_state(state)
}

/// The edge says the address that it saw, and nobody else's word for it counts.
fn address(headers: &HeaderMap) -> &str {
    let list = headers.get(FORWARDED_FOR).and_then(|value| value.to_str().ok());
    list.and_then(|list| list.rsplit(',').next()).map_or("local", str::trim)
}

#[cfg(test)]
mod tests {
    use mainstay_kit::openapi::differences;

    use super::*;

    #[test]
    fn every_route_is_in_the_document_and_the_other_way_round() {
        let document = serde_json::from_str(DOCUMENT).unwrap();
        let (_, routes) = api().finish();
        assert_eq!(differences(&document, &routes), Vec::<String>::new());
        assert_eq!(routes.len(), 16);
    }

    #[test]
    fn every_operation_says_what_it_is_and_what_it_answers() {
        let document: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
                assert!(operation["summary"].is_string(), "{method} {path}");
                let answers = operation["responses"].as_object().unwrap();
                assert!(answers.keys().any(|status| status.starts_with('2')), "{method} {path}");
                assert!(answers.contains_key("503"), "{method} {path} needs a database");
            }
        }
    }

    #[test]
    fn the_last_address_counts() {
        let mut headers = HeaderMap::new();
        assert_eq!(address(&headers), "local");
        headers.insert(FORWARDED_FOR, "10.0.0.1, 192.0.2.7".parse().unwrap());
        assert_eq!(address(&headers), "192.0.2.7");
    }
}
