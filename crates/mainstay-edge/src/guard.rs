//! What a route asks of its clients and adds to its answers: addresses, CORS, headers, the length of bodies.
//!
//! Compiled once for a policy; a route that says nothing costs a look at empty lists.

use std::net::IpAddr;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{HeaderMap, Method};
use mainstay_stack::browser;
use mainstay_stack::edits::Lines;
use mainstay_stack::network::{Admission, Networks};
use pingora_core::Result;
use pingora_http::ResponseHeader;

use crate::edit::Edit;
use crate::protocol::Header;
use crate::strict::Refusal;

/// Who may come.
#[derive(Debug, Default)]
pub(crate) struct Door {
    allow: Networks,
    deny: Networks,
}

impl Door {
    pub(crate) fn new(of: &Admission) -> Self {
        Self { allow: of.allow.iter().copied().collect(), deny: of.deny.iter().copied().collect() }
    }

    /// Whether this address may come. An address that is not known may only where everybody may.
    pub(crate) fn admits(&self, client: Option<IpAddr>) -> bool {
        if self.allow.is_empty() && self.deny.is_empty() {
            return true;
        }
        client
            .is_some_and(|client| !self.deny.contains(client) && (self.allow.is_empty() || self.allow.contains(client)))
    }
}

/// A header that is added to answers.
#[derive(Debug)]
struct Line {
    name: HeaderName,
    value: HeaderValue,
    overwrites: bool,
}

#[derive(Debug)]
struct Cors {
    /// `None`: all.
    origins: Option<Vec<String>>,
    methods: HeaderValue,
    headers: HeaderValue,
    expose: Option<HeaderValue>,
    has_credentials: bool,
    max_age: HeaderValue,
}

/// What CORS makes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Crossing {
    /// Not from a browser's script elsewhere, or to a route that says nothing of it.
    None,
    /// From an origin that may; it is named in the answer.
    Allowed(HeaderValue),
    /// From one that may not: the answer says nothing, and the browser keeps it from the script.
    Unknown,
    /// A question beforehand, answered here.
    Preflight(HeaderValue),
}

/// The rules of a route.
#[derive(Debug, Default)]
pub(crate) struct Guard {
    pub(crate) door: Door,
    lines: Vec<Line>,
    cors: Option<Cors>,
    edit: Edit,
}

/// Whether the edge can send these headers.
pub(crate) fn is_usable(header: &Header) -> bool {
    HeaderName::from_bytes(header.name.as_bytes()).is_ok() && HeaderValue::from_str(&header.value).is_ok()
}

fn joined(list: &[String]) -> HeaderValue {
    // Checked with the stack file; a text that no header holds allows nothing.
    HeaderValue::from_str(&list.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
}

impl Guard {
    pub(crate) fn new(admission: &Admission, headers: &[Header], cors: Option<&browser::Cors>, edits: &Lines) -> Self {
        let lines = headers.iter().filter_map(|header| {
            let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
            Some(Line { name, value: HeaderValue::from_str(&header.value).ok()?, overwrites: header.overwrites })
        });
        let cors = cors.map(|cors| Cors {
            origins: (!cors.origins.iter().any(|origin| origin == "*")).then(|| cors.origins.clone()),
            methods: joined(&cors.methods),
            headers: joined(&cors.headers),
            expose: (!cors.expose.is_empty()).then(|| joined(&cors.expose)),
            has_credentials: cors.has_credentials,
            max_age: HeaderValue::from(cors.max_age.as_secs()),
        });
        // Checked with the policy.
        let edit = Edit::new(edits).unwrap_or_default();
        Self { door: Door::new(admission), lines: lines.collect(), cors, edit }
    }

    /// What CORS makes of a request.
    ///
    /// **Errors**: the refusal of a preflight from an origin that may not.
    pub(crate) fn crossing(&self, method: &Method, headers: &HeaderMap) -> std::result::Result<Crossing, Refusal> {
        let Some(cors) = &self.cors else { return Ok(Crossing::None) };
        let Some(origin) = headers.get(ORIGIN) else { return Ok(Crossing::None) };
        let is_preflight = *method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let allowed = match &cors.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(origins) => origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone()),
        };
        match (allowed, is_preflight) {
            (Some(origin), true) => Ok(Crossing::Preflight(origin)),
            (Some(origin), false) => Ok(Crossing::Allowed(origin)),
            (None, true) => Err((403, "origin may not use this route (cors)")),
            (None, false) => Ok(Crossing::Unknown),
        }
    }

    /// Adds what the route says to an answer.
    ///
    /// **Errors**: none for what is passed here.
    pub(crate) fn dress(&self, head: &mut ResponseHeader, crossing: &Crossing) -> Result<()> {
        for line in &self.lines {
            if line.overwrites || !head.headers.contains_key(&line.name) {
                head.insert_header(line.name.clone(), line.value.clone())?;
            }
        }
        if !self.edit.is_empty() {
            for name in self.edit.gone(&head.headers) {
                head.remove_header(&name);
            }
            for (name, value) in self.edit.set() {
                head.insert_header(name.clone(), value.clone())?;
            }
        }
        let Some(cors) = &self.cors else { return Ok(()) };
        // One voice: two values of these make browsers refuse both.
        for name in [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_HEADERS,
            ACCESS_CONTROL_MAX_AGE,
        ] {
            head.remove_header(&name);
        }
        if cors.origins.is_some() {
            // Also without an origin: a cache must not hand this answer to somebody who has one.
            head.append_header(VARY, "Origin")?;
        }
        let (Crossing::Allowed(origin) | Crossing::Preflight(origin)) = crossing else { return Ok(()) };
        head.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone())?;
        if cors.has_credentials {
            head.insert_header(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")?;
        }
        if matches!(crossing, Crossing::Preflight(_)) {
            head.insert_header(ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone())?;
            head.insert_header(ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone())?;
            head.insert_header(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone())?;
        } else if let Some(expose) = &cors.expose {
            head.insert_header(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone())?;
        }
        Ok(())
    }
}
