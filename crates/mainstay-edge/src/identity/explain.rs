//! What the edge would make of a token, for `route explain`: told beside the edge, without its secrets.

use http::{HeaderMap, HeaderName, HeaderValue};
use mainstay_decide::identity::{Claims, Fault, check_claims, check_header};
use mainstay_stack::identity::Issuer;
use mainstay_types::Timestamp;

use super::keys::{self, Signed};
use super::token::{self, Token};

/// A token that would be taken, or one that says at least who it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// What it says.
    pub claims: Claims,
    /// Whether its signature was looked at. Without it anybody can have written the claims.
    pub is_checked: bool,
}

/// What would become of the token in these headers. `keys` are the bytes of the issuer's key file, where they are known.
///
/// **Errors**: the fault for which it would be refused.
pub fn explain(
    headers: &[(String, String)],
    rule: &Issuer,
    keys: Option<&[u8]>,
    now: Timestamp,
) -> Result<Explained, Fault> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let pair = HeaderName::from_bytes(name.as_bytes()).ok().zip(HeaderValue::from_str(value).ok());
        if let Some((name, value)) = pair {
            map.append(name, value);
        }
    }
    let token = Token::read(token::bearer(&map)?)?;
    check_header(&token.header, rule)?;
    let keys = keys.and_then(|bytes| keys::read(bytes, rule.algorithm).ok());
    if let Some(keys) = &keys {
        match keys::check(keys, token.header.key.as_deref(), token.signed, &token.signature) {
            Signed::Good => {}
            Signed::Bad => return Err(Fault::Signature),
            Signed::Unknown => return Err(Fault::Key),
        }
    }
    let claims = token.claims(&rule.roles)?;
    check_claims(&claims, rule, now)?;
    Ok(Explained { claims, is_checked: keys.is_some() })
}
