//! Who is calling: passwords, access tokens (1 h), refresh tokens (7 d), roles, and the extractor
//! [`Principal`] that a handler asks for when it needs a signed-in caller.

mod api_key;
pub mod browser;
pub mod lockout;
mod password;
mod session;
mod token;

use std::fmt;
use std::str::FromStr;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use serde::{Deserialize, Serialize};

pub use api_key::{ApiKeys, NewApiKey, X_API_KEY};
pub use password::{Passwords, needs_rehash};
pub use session::{Opened, Rotation, Sessions, TRUST};
pub use token::{Claims, KEY_MIN, ShortKey, Tokens};

use crate::limit::Resolved;
use crate::problem::Problem;

/// Access tokens live this long. **Source**: document 004, "1 hour access".
pub const ACCESS_TTL: std::time::Duration = std::time::Duration::from_secs(3_600);
/// Refresh tokens live this long. **Source**: document 004, "7 days refresh".
pub const REFRESH_TTL: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

/// What a user may do; each role may do all of the former.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May read.
    Viewer,
    /// May change.
    Editor,
    /// May do everything.
    Admin,
}

impl Role {
    /// All of them, weakest first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Editor, Self::Admin];

    /// Its name in JSON and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("role is not one of viewer, editor, admin")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

/// A signed-in caller with the rights of this moment, not those at sign-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// User id.
    pub user_id: i64,
    /// User name.
    pub username: String,
    /// Present role.
    pub role: Role,
    /// Session that the access token belongs to.
    pub session_id: String,
}

impl Principal {
    /// **Errors**: 403 below `role`.
    pub fn require(&self, role: Role) -> Result<(), Problem> {
        if self.role >= role {
            Ok(())
        } else {
            Err(Problem::forbidden(format!("needs role {role}, you are {}", self.role)))
        }
    }
}

/// Decides who is calling. Part of an application's state.
#[derive(Clone)]
pub struct Authenticator {
    /// Checks signatures and times.
    pub tokens: Tokens,
    /// Knows which sessions still hold.
    pub sessions: Sessions,
}

impl Authenticator {
    /// **Errors**: 401 unless the bearer token is ours, in time and of a session that still holds.
    pub async fn authenticate(&self, authorization: Option<&str>) -> Result<Principal, Problem> {
        let header = authorization.ok_or_else(|| Problem::unauthorized("send Authorization: Bearer <access token>"))?;
        let token = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| Problem::unauthorized("the scheme is Bearer"))?;
        let claims = self
            .tokens
            .verify(token)
            .ok_or_else(|| Problem::unauthorized("the access token is not valid or has expired"))?;
        self.sessions.principal(&claims).await
    }

    /// Whether the request says who sends it, rightly or not.
    #[must_use]
    pub fn has_credentials(&self, headers: &HeaderMap) -> bool {
        headers.contains_key(header::AUTHORIZATION) || browser::cookie(headers).is_some()
    }

    /// The caller by bearer token, or else by a browser's cookie.
    ///
    /// **Errors**: 401 as [`Authenticator::authenticate`]; 403 when a cookie comes without its CSRF value.
    pub async fn authenticate_request(&self, method: &Method, headers: &HeaderMap) -> Result<Principal, Problem> {
        let authorization = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        match (authorization, browser::cookie(headers)) {
            (None, Some((session_id, secret))) => {
                let principal = self.sessions.principal_of_cookie(session_id, secret).await?;
                browser::check_csrf(method, headers, &self.tokens.csrf(session_id))?;
                Ok(principal)
            }
            (authorization, _) => self.authenticate(authorization).await,
        }
    }
}

impl<S> FromRequestParts<S> for Principal
where
    S: Send + Sync,
    Authenticator: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match parts.extensions.get::<Resolved>() {
            Some(Resolved(resolved)) => resolved.clone(),
            None => Authenticator::from_ref(state).authenticate_request(&parts.method, &parts.headers).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_all_of_the_former() {
        for (index, role) in Role::ALL.into_iter().enumerate() {
            let principal = Principal { user_id: 1, username: "ada".into(), role, session_id: "s".into() };
            for (needed_index, needed) in Role::ALL.into_iter().enumerate() {
                assert_eq!(principal.require(needed).is_ok(), index >= needed_index, "{role} {needed}");
            }
        }
    }

    #[test]
    fn role_names_round_trip() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert_eq!("root".parse::<Role>(), Err(UnknownRole));
    }
}
