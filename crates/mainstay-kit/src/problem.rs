//! Errors of an HTTP interface in the form of RFC 9457 (`application/problem+json`).
//!
//! A problem tells the caller what to do; it never carries the text of a database or library error.

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON pointer into the body, or the parameter's name.
    pub pointer: String,
    /// Machine-readable rule: `length`, `email`, `required`, …
    pub code: &'static str,
    /// What the rule wants.
    pub detail: String,
}

/// An answer that is not what the caller asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    title: String,
    detail: Option<String>,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    /// A problem with a status and a short title that is the same for every occurrence.
    #[must_use]
    pub fn new(status: StatusCode, title: impl Into<String>) -> Self {
        Self { status, title: title.into(), detail: None, errors: Vec::new(), headers: Vec::new() }
    }

    /// What is special about this occurrence.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// A field that is the cause.
    #[must_use]
    pub fn field(mut self, pointer: &str, code: &'static str, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError { pointer: pointer.to_owned(), code, detail: detail.into() });
        self
    }

    /// A further answer header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its field errors.
    #[must_use]
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// 400: the request cannot be understood.
    #[must_use]
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad request").detail(detail)
    }

    /// 401: no valid credentials; names the scheme as RFC 6750 asks.
    #[must_use]
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Not signed in")
            .detail(detail)
            .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// 403: known, but not allowed.
    #[must_use]
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Not allowed").detail(detail)
    }

    /// 404.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "Not found").detail(detail)
    }

    /// 409: the request contradicts the present state.
    #[must_use]
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict").detail(detail)
    }

    /// 412: `If-Match` names another version.
    #[must_use]
    pub fn precondition_failed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "Changed meanwhile").detail(detail)
    }

    /// 422 with the wrong fields.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Validation failed");
        problem.detail = Some(match errors.len() {
            1 => "a field is wrong".to_owned(),
            number => format!("{number} fields are wrong"),
        });
        problem.errors = errors;
        problem
    }

    /// 429 with the time to wait.
    #[must_use]
    pub fn too_many_requests(retry_after_seconds: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "Too many requests")
            .detail(format!("try again in {retry_after_seconds} s"))
            .header(header::RETRY_AFTER, HeaderValue::from(retry_after_seconds))
    }

    /// 500; the cause belongs into the log.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error")
            .detail("the cause is in the log under this request's id")
    }

    /// 503: nothing was changed, the same request may be repeated.
    #[must_use]
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Temporarily unavailable")
            .detail(detail)
            .header(header::RETRY_AFTER, HeaderValue::from(1_u64))
    }

    /// 503 without `Retry-After`: the write may or may not have happened; look before repeating.
    #[must_use]
    pub fn outcome_unknown() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Outcome unknown")
            .detail("the connection ended while the change was being confirmed; read the state before repeating")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            kind: "about:blank",
            title: &self.title,
            status: self.status.as_u16(),
            detail: self.detail.as_deref(),
            errors: &self.errors,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let detail = rejection.body_text();
        match rejection {
            // Well-formed JSON of the wrong shape is the caller's field error, as FastAPI and Spring say.
            JsonRejection::JsonDataError(_) => {
                Self::invalid(vec![FieldError { pointer: String::new(), code: "shape", detail }])
            }
            other => Self::new(other.status(), "Unreadable body").detail(detail),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_with_the_media_type_and_the_wrong_fields() {
        let problem = Problem::invalid(vec![FieldError {
            pointer: "/email".into(),
            code: "email",
            detail: "must be an e-mail address".into(),
        }]);
        let response = problem.into_response();
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn names_the_scheme_when_nobody_is_signed_in() {
        let response = Problem::unauthorized("no token").into_response();
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }

    #[test]
    fn does_not_invite_to_repeat_a_write_of_unknown_outcome() {
        let response = Problem::outcome_unknown().into_response();
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
    }
}
