//! An interface and its OpenAPI document that cannot drift apart: [`Api`] remembers every route that is
//! added to it, and [`differences`] compares them with the document in a test.
//!
//! The document is a file that people wrote. Rejected: deriving it from types (a dependency, and schemas
//! without the words that a reader needs). What answers really look like is checked from outside, by
//! schemathesis against the running stack.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::header;
use axum::routing::{MethodRouter, delete, get, post, put};
use serde_json::Value;

use crate::assets::{self, Asset};

/// One method on one path, in the notation that axum and OpenAPI share: `GET /users/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Upper case.
    pub method: &'static str,
    /// With parameters in braces.
    pub path: &'static str,
    /// The function that answers.
    pub handler: &'static str,
}

/// A router that knows its routes.
pub struct Api<S> {
    router: Router<S>,
    routes: Vec<Route>,
}

impl<S: Clone + Send + Sync + 'static> Default for Api<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Clone + Send + Sync + 'static> Api<S> {
    /// Without routes.
    #[must_use]
    pub fn new() -> Self {
        Self { router: Router::new(), routes: Vec::new() }
    }

    /// Adds a GET route.
    #[must_use]
    pub fn get<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.add(("GET", path, std::any::type_name_of_val(&handler)), get(handler))
    }

    /// Adds a POST route.
    #[must_use]
    pub fn post<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.add(("POST", path, std::any::type_name_of_val(&handler)), post(handler))
    }

    /// Adds a PUT route.
    #[must_use]
    pub fn put<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.add(("PUT", path, std::any::type_name_of_val(&handler)), put(handler))
    }

    /// Adds a DELETE route.
    #[must_use]
    pub fn delete<T: 'static>(self, path: &'static str, handler: impl Handler<T, S>) -> Self {
        self.add(("DELETE", path, std::any::type_name_of_val(&handler)), delete(handler))
    }

    /// Adds a POST route that takes bodies of up to `body_max` bytes, whatever the limit of the others.
    #[must_use]
    pub fn post_up_to<T: 'static>(self, path: &'static str, body_max: usize, handler: impl Handler<T, S>) -> Self {
        let name = std::any::type_name_of_val(&handler);
        self.add(("POST", path, name), post(handler).layer(DefaultBodyLimit::max(body_max)))
    }

    fn add(
        mut self,
        (method, path, handler): (&'static str, &'static str, &'static str),
        route: MethodRouter<S>,
    ) -> Self {
        self.routes.push(Route { method, path, handler });
        Self { router: self.router.route(path, route), routes: self.routes }
    }

    /// The router, and what it serves.
    pub fn finish(self) -> (Router<S>, Vec<Route>) {
        (self.router, self.routes)
    }
}

/// `/openapi.json`, and `/docs`: a page that shows it and sends requests.
pub fn documentation<S: Clone + Send + Sync + 'static>(document: &'static str) -> Router<S> {
    let json = move || async move {
        ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], document)
    };
    assets::routes(&PAGES).route("/openapi.json", get(json))
}

const PAGES: [Asset; 4] = [
    Asset { path: "/docs", content_type: "text/html; charset=utf-8", body: include_str!("docs/index.html") },
    Asset { path: "/docs/docs.js", content_type: "text/javascript; charset=utf-8", body: include_str!("docs/docs.js") },
    Asset { path: "/docs/docs.css", content_type: "text/css; charset=utf-8", body: include_str!("docs/docs.css") },
    Asset { path: "/docs/icon.svg", content_type: "image/svg+xml", body: include_str!("docs/icon.svg") },
];

/// What is in one of them only, a line for each; empty when document and routes agree.
#[must_use]
pub fn differences(document: &Value, routes: &[Route]) -> Vec<String> {
    const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];
    let mut documented = Vec::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for method in METHODS.iter().filter(|method| item.get(**method).is_some()) {
            documented.push(format!("{} {path}", method.to_ascii_uppercase()));
        }
    }
    let served: Vec<String> = routes.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    let only = |these: &[String], those: &[String], what: &str| -> Vec<String> {
        these.iter().filter(|one| !those.contains(one)).map(|one| format!("{one} is {what}")).collect()
    };
    let mut found = only(&documented, &served, "documented and not served");
    found.extend(only(&served, &documented, "served and not documented"));
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_what_only_the_document_or_only_the_router_has() {
        let (_, routes) =
            Api::<()>::new().get("/a", || async {}).post("/a", || async {}).put("/b", || async {}).finish();
        let agreed = json!({ "paths": { "/a": { "get": {}, "post": {}, "parameters": [] }, "/b": { "put": {} } } });
        assert_eq!(differences(&agreed, &routes), Vec::<String>::new());
        let drifted = json!({ "paths": { "/a": { "get": {}, "delete": {} }, "/b": { "put": {} } } });
        assert_eq!(
            differences(&drifted, &routes),
            ["DELETE /a is documented and not served", "POST /a is served and not documented"]
        );
    }
}
