//! What the interface takes and shows, in the three forms that a caller may ask for.

use std::fmt::Write as _;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mainstay_kit::problem::Problem;
use mainstay_kit::validation::{Checks, NewPassword, PASSWORD_MOST};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Longer than the source's 6, and than the kit's 8: this password guards a counter that must be right.
pub(crate) const PASSWORD_MIN: usize = 12;
/// Integers of one request.
pub(crate) const RANGE_MAX: i64 = 1_000;
const JSON_API: &str = "application/vnd.api+json";

/// Body of `POST /users/create` and of `POST /auth/token`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl Credentials {
    /// **Errors**: 422 with the fields that may not be those of a new user.
    pub(crate) fn check_new(&self) -> Result<(), Problem> {
        let mut checks = Checks::new();
        checks.name("/username", &self.username, 3, 50);
        let new = NewPassword { value: &self.password, username: &self.username, least: PASSWORD_MIN };
        checks.password("/password", &new);
        checks.finish()
    }

    /// **Errors**: 422 with fields that no user can have.
    pub(crate) fn check_known(&self) -> Result<(), Problem> {
        let mut checks = Checks::new();
        checks.name("/username", &self.username, 1, 50);
        if self.password.chars().count() > PASSWORD_MOST {
            checks.reject("/password", "length", format!("must be at most {PASSWORD_MOST} characters"));
        }
        checks.finish()
    }
}

/// Body of `PUT /api/v1/integer`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetValue {
    #[serde(deserialize_with = "whole")]
    pub(crate) value: i64,
    /// Needed to go below the current value: integers will then be issued a second time.
    #[serde(default)]
    pub(crate) confirm: bool,
}

/// JSON does not tell 7 from 7.0; larger ones than this are not told apart by those who write them so.
fn whole<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let number = serde_json::Number::deserialize(deserializer)?;
    if let Some(value) = number.as_i64() {
        return Ok(value);
    }
    match number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() <= EXACT_MAX) {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        Some(value) => Ok(value as i64),
        None => Err(serde::de::Error::custom(format!("{number} is no whole number from 1 to {}", i64::MAX))),
    }
}

impl SetValue {
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let mut checks = Checks::new();
        if self.value < 1 {
            checks.reject("/value", "range", format!("must be 1 to {}, is {}", i64::MAX, self.value));
        }
        checks.finish()
    }
}

/// `?n=10`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NextQuery {
    n: Option<i64>,
}

impl NextQuery {
    pub(crate) fn check(&self) -> Result<i64, Problem> {
        let n = self.n.unwrap_or(1);
        let mut checks = Checks::new();
        if !(1..=RANGE_MAX).contains(&n) {
            checks.reject("n", "range", format!("must be 1 to {RANGE_MAX}, is {n}"));
        }
        checks.finish().map(|()| n)
    }
}

/// A user as his owner and administrators see him.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    pub(crate) id: i64,
    pub(crate) username: String,
    pub(crate) role: String,
    pub(crate) is_active: bool,
    /// First characters of the key, to tell it from another.
    pub(crate) api_key_begins: String,
    pub(crate) created_at: String,
}

/// Where a counter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The newest integer that was issued; 0 when none was.
    pub(crate) value: i64,
    /// Grows when the value is set back.
    pub(crate) epoch: i64,
}

/// Integers that were issued: `first` to `value`. Also what is stored for an Idempotency-Key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Issued {
    pub(crate) value: i64,
    pub(crate) epoch: i64,
    pub(crate) n: i64,
}

impl Issued {
    pub(crate) fn first(&self) -> i64 {
        self.value - self.n + 1
    }
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    JsonApi,
    /// A line for each integer: for shells.
    Text,
}

impl Form {
    /// What the caller likes best of what there is; JSON for whoever likes none of it.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
        let mut best = (Self::Json, 0.0_f32);
        for part in accept.split(',') {
            let mut words = part.split(';').map(str::trim);
            let form = match words.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                JSON_API => Self::JsonApi,
                "text/plain" => Self::Text,
                "application/json" | "application/*" | "*/*" => Self::Json,
                _ => continue,
            };
            let weight = words.find_map(|word| word.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            if weight > best.1 {
                best = (form, weight);
            }
        }
        best.0
    }

    /// An answer about a counter.
    pub(crate) fn answer(self, user_id: i64, attributes: Value, lines: impl FnOnce() -> String) -> Response {
        let mut response = match self {
            Self::Json => Json(attributes).into_response(),
            Self::JsonApi => {
                let data = json!({ "type": "integers", "id": user_id.to_string(), "attributes": attributes });
                ([(header::CONTENT_TYPE, JSON_API)], json!({ "data": data }).to_string()).into_response()
            }
            Self::Text => lines().into_response(),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        response
    }

    pub(crate) fn position(self, user_id: i64, position: Position) -> Response {
        let attributes = json!({ "value": position.value, "epoch": position.epoch });
        self.answer(user_id, attributes, || format!("{}\n", position.value))
    }

    pub(crate) fn issued(self, user_id: i64, issued: Issued) -> Response {
        let attributes =
            json!({ "value": issued.value, "first": issued.first(), "n": issued.n, "epoch": issued.epoch });
        self.answer(user_id, attributes, || {
            let mut text = String::new();
            for value in issued.first()..=issued.value {
                let _ = writeln!(text, "{value}"); // writing to a String cannot fail
            }
            text
        })
    }
}

/// 201 with the place of what was made.
pub(crate) fn created(location: String, body: Value) -> Response {
    let headers = [(header::LOCATION, location), (header::CACHE_CONTROL, "no-store".to_owned())];
    (StatusCode::CREATED, headers, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_says_the_same_bounds_of_a_password() {
        let said = |length: usize| {
            let new = Credentials { username: "ada".to_owned(), password: "x".repeat(length) };
            new.check_new().err().map(|problem| format!("{problem:?}"))
        };
        let bounds = format!("must be {PASSWORD_MIN} to {PASSWORD_MOST} characters");
        for wrong in [0, 7, 8, PASSWORD_MIN - 1, PASSWORD_MOST + 1] {
            assert!(said(wrong).is_some_and(|problem| problem.contains(&bounds)), "{wrong}: {:?}", said(wrong));
        }
        assert_eq!((said(PASSWORD_MIN), said(PASSWORD_MOST)), (None, None));
        let openapi: Value = serde_json::from_str(include_str!("../openapi.json")).unwrap();
        let described = &openapi["components"]["schemas"]["NewCredentials"]["properties"]["password"];
        assert_eq!((&described["minLength"], &described["maxLength"]), (&json!(PASSWORD_MIN), &json!(PASSWORD_MOST)));
        for text in [include_str!("../web/index.html"), include_str!("../README.md")] {
            assert!(text.contains(&format!("at least {PASSWORD_MIN} characters")));
        }
    }

    fn form(accept: &str) -> Form {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        Form::of(&headers)
    }

    #[test]
    fn answers_in_the_form_that_is_liked_best() {
        assert_eq!(Form::of(&HeaderMap::new()), Form::Json);
        assert_eq!(form("application/vnd.api+json"), Form::JsonApi);
        assert_eq!(form("text/plain"), Form::Text);
        assert_eq!(form("text/html, */*;q=0.8"), Form::Json);
        assert_eq!(form("text/plain;q=0.5, application/vnd.api+json"), Form::JsonApi);
        assert_eq!(form("image/png"), Form::Json);
    }

    #[test]
    fn a_range_ends_at_its_value() {
        assert_eq!(Issued { value: 42, epoch: 1, n: 1 }.first(), 42);
        assert_eq!(Issued { value: 42, epoch: 1, n: 10 }.first(), 33);
    }

    #[test]
    fn takes_ranges_of_1_to_1000() {
        for (n, is_good) in [(1, true), (1_000, true), (0, false), (1_001, false), (-1, false)] {
            assert_eq!(NextQuery { n: Some(n) }.check().is_ok(), is_good, "{n}");
        }
        assert_eq!(NextQuery { n: None }.check().unwrap(), 1);
    }

    #[test]
    fn takes_whole_numbers_however_they_are_written() {
        let value = |text: &str| serde_json::from_str::<SetValue>(text).ok().map(|body| body.value);
        assert_eq!(value(r#"{"value":7.0}"#), Some(7));
        assert_eq!(value(r#"{"value":9223372036854775807}"#), Some(i64::MAX));
        for wrong in [r#"{"value":7.5}"#, r#"{"value":1e300}"#, r#"{"value":9223372036854775808}"#, r#"{"value":"7"}"#]
        {
            assert_eq!(value(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn wants_a_long_password_that_is_not_the_name() {
        let check = |username: &str, password: &str| {
            Credentials { username: username.into(), password: password.into() }.check_new().is_ok()
        };
        assert!(check("ada", "twelve chars"));
        assert!(!check("ada", "eleven char"));
        assert!(!check("ada-lovelace", "Ada-Lovelace"));
        assert!(!check("a b", "twelve chars"));
    }
}
