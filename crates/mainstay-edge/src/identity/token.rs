//! A token (JWT) taken apart, with strictness in place of repairs: what two readers may read in two ways is refused.
//!
//! Knows no key and believes nothing. **Source**: RFC 7515, section 7.1; RFC 7519, section 7.2; RFC 6750, section 2.1.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use mainstay_decide::identity::{Claims, Fault, Header};
use mainstay_stack::identity::is_role;
use mainstay_types::Timestamp;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Longest token that is taken apart: those with the groups of large directories have some kilobytes.
pub(crate) const MOST_BYTES: usize = 8 * 1024;
/// Roles of one token, and their bytes: servers behind take headers of 8 KiB.
const MOST_ROLES: usize = 128;
const MOST_ROLE_BYTES: usize = 4096;

/// A token whose signature is still to be checked.
#[derive(Debug)]
pub(crate) struct Token<'t> {
    pub(crate) header: Header,
    /// What is signed.
    pub(crate) signed: &'t [u8],
    pub(crate) signature: Vec<u8>,
    payload: Vec<u8>,
}

/// The one bearer token of a request.
///
/// **Errors**: there is none, more than one, or it is too long.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&str, Fault> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(one) = given.next() else { return Err(Fault::Missing) };
    if given.next().is_some() {
        return Err(Fault::Several);
    }
    let bytes = one.as_bytes();
    let (Some(scheme), Some(rest)) = (bytes.get(..6), bytes.get(6..)) else { return Err(Fault::Missing) };
    if !scheme.eq_ignore_ascii_case(b"bearer") || rest.first().is_some_and(|byte| *byte != b' ') {
        return Err(Fault::Missing);
    }
    // Before anything is decoded or even looked through.
    if rest.len() > MOST_BYTES {
        return Err(Fault::TooLong);
    }
    std::str::from_utf8(rest).map(|text| text.trim_matches(' ')).map_err(|_| Fault::Malformed)
}

impl<'t> Token<'t> {
    /// Takes a token apart.
    ///
    /// **Errors**: it is none, or its header has a name twice.
    pub(crate) fn read(text: &'t str) -> Result<Self, Fault> {
        if text.len() > MOST_BYTES {
            return Err(Fault::TooLong);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Fault::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Fault::Malformed)?;
        if payload.contains('.') {
            return Err(Fault::Malformed);
        }
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        let fields = object(&decode(header)?)?;
        let header = Header {
            algorithm: text_of(&fields, "alg")?.ok_or(Fault::Malformed)?,
            key: text_of(&fields, "kid")?,
            typ: text_of(&fields, "typ")?,
            is_critical: fields.contains_key("crit"),
        };
        Ok(Self { header, signed: signed.as_bytes(), signature, payload })
    }

    /// What it says, once its signature is known to be good. `roles` are the names on the way to the claim with the
    /// roles.
    ///
    /// **Errors**: it says it in no form of claims.
    pub(crate) fn claims(&self, roles: &[String]) -> Result<Claims, Fault> {
        let fields = object(&self.payload)?;
        Ok(Claims {
            issuer: text_of(&fields, "iss")?,
            subject: text_of(&fields, "sub")?,
            audience: audience(&fields)?,
            expires: moment(&fields, "exp", f64::floor)?,
            not_before: moment(&fields, "nbf", f64::ceil)?,
            roles: self::roles(&fields, roles)?,
        })
    }
}

/// Base64 for URLs without padding; each text has one spelling only.
fn decode(text: &str) -> Result<Vec<u8>, Fault> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Fault::Malformed)
}

/// The members of an object, of which no name is there twice, at any depth.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, Fault> {
    match serde_json::from_slice(bytes) {
        Ok(Strict(Value::Object(fields))) => Ok(fields),
        Ok(Strict(_)) => Err(Fault::Malformed),
        // The reader takes every type: only what it refuses itself is an error of data.
        Err(error) if error.is_data() => Err(Fault::Twice),
        Err(_) => Err(Fault::Malformed),
    }
}

fn text_of(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, Fault> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Fault::Malformed),
    }
}

fn audience(fields: &Map<String, Value>) -> Result<Option<Vec<String>>, Fault> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(Fault::Malformed);
    match fields.get("aud") {
        None => Ok(None),
        Some(Value::Array(items)) => items.iter().map(text).collect::<Result<_, _>>().map(Some),
        Some(one) => Ok(Some(vec![text(one)?])),
    }
}

/// A NumericDate: seconds since 1970, perhaps with a fraction.
fn moment(fields: &Map<String, Value>, name: &str, round: impl FnOnce(f64) -> f64) -> Result<Option<Timestamp>, Fault> {
    let number = match fields.get(name) {
        None => return Ok(None),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(Fault::Malformed),
    };
    let milliseconds = match (number.as_i64(), number.as_f64()) {
        (Some(seconds), _) => seconds.saturating_mul(1000),
        // Stays within bounds: this conversion saturates, and JSON has no NaN.
        (None, Some(seconds)) => round(seconds * 1000.0) as i64,
        (None, None) => return Err(Fault::Malformed),
    };
    Ok(Some(Timestamp::from_millis(milliseconds)))
}

/// The roles: of an array each text, else one text. Of a `scope` (RFC 8693, section 4.2) its words. What is no name of
/// a role is left out: it stands in no stack file, and in a header it would be read as two.
fn roles(fields: &Map<String, Value>, way: &[String]) -> Result<Vec<String>, Fault> {
    let Some((last, before)) = way.split_last() else { return Ok(Vec::new()) };
    let mut at = fields;
    for name in before {
        let Some(Value::Object(next)) = at.get(name) else { return Ok(Vec::new()) };
        at = next;
    }
    let is_scope = last == "scope" || last == "scp";
    let mut roles: Vec<String> = Vec::new();
    let mut take = |text: &str| {
        if is_role(text) && !roles.iter().any(|known| known == text) {
            roles.push(text.to_owned());
        }
    };
    match at.get(last) {
        Some(Value::String(text)) if is_scope => text.split(' ').take(MOST_ROLES + 1).for_each(&mut take),
        Some(Value::String(text)) => take(text),
        Some(Value::Array(items)) => items.iter().take(MOST_ROLES + 1).filter_map(Value::as_str).for_each(&mut take),
        _ => {}
    }
    let bytes: usize = roles.iter().map(|role| role.len() + 2).sum();
    if roles.len() > MOST_ROLES || bytes > MOST_ROLE_BYTES { Err(Fault::Roles) } else { Ok(roles) }
}

/// JSON in which no object has a name twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(Value::Number(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(Value::Number(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(Value::String(value.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Strict, A::Error> {
        let mut items = Vec::new();
        while let Some(Strict(item)) = from.next_element()? {
            items.push(item);
        }
        Ok(Strict(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Strict, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            let Strict(value) = from.next_value()?;
            if fields.insert(name, value).is_some() {
                return Err(A::Error::custom("a name is there twice"));
            }
        }
        Ok(Strict(Value::Object(fields)))
    }
}

#[cfg(test)]
mod tests;
