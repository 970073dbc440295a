//! What a route makes of a request and its answer on the way through: which endpoint, which path and headers, which
//! coding.

use http::Version;
use mainstay_decide::balance::{self, Way};
use mainstay_stack::balance::{Balancing, Method};
use mainstay_stack::edits::rewritten;
use mainstay_stack::limit::LimitKey;
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use crate::coding::{self, Coding, Encoder};
use crate::limit::Client;
use crate::snapshot::Route;
use crate::upstream::Wish;

/// How a request's endpoint is to be chosen.
pub(crate) fn wish(balancing: &Balancing, client: Client<'_>) -> Wish {
    let way = match &balancing.method {
        Method::RoundRobin => None,
        Method::LeastRequests => Some(Way::Least),
        Method::Hash { by } => Some(Way::Hash(client_hash(by, client))),
    };
    let cookie = balancing.sticky.as_ref().and_then(|name| crate::limit::cookie(client.headers, name.as_bytes()));
    Wish { way, sticky: cookie.and_then(|tag| String::from_utf8(tag.to_vec()).ok()), ..Wish::default() }
}

/// The client of a request; the same in another process of the edge.
fn client_hash(by: &LimitKey, Client { headers, address, user }: Client<'_>) -> u64 {
    let named = match by {
        LimitKey::User => user.map(|(_, user)| user.as_bytes()),
        LimitKey::Ip => None,
        LimitKey::Header { name } => headers.get(name.as_str()).map(http::HeaderValue::as_bytes),
        LimitKey::Cookie { name } => crate::limit::cookie(headers, name.as_bytes()),
    };
    match named.filter(|value| !value.is_empty()) {
        Some(value) => balance::hash(value),
        None => address.map_or(0, |address| balance::hash(&crate::limit::network(address).octets())),
    }
}

/// Makes of a request what its route says the upstream sees.
pub(crate) fn edit(request: &mut RequestHeader, route: &Route, has_user: bool) -> Result<()> {
    if let Some(rewrite) = &route.rewrite {
        let raw = String::from_utf8_lossy(request.raw_path()).into_owned();
        let (path, query) = raw.split_once('?').map_or((raw.as_str(), None), |(path, query)| (path, Some(query)));
        let mut target = rewritten(rewrite, route.below(path));
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        request.set_raw_path(target.as_bytes())?;
    }
    if has_user {
        // The password was for the edge.
        request.remove_header(&http::header::AUTHORIZATION);
    }
    if !route.request.is_empty() {
        for name in route.request.gone(&request.headers) {
            request.remove_header(&name);
        }
        for (name, value) in route.request.set() {
            request.insert_header(name.clone(), value.clone())?;
        }
    }
    Ok(())
}

/// The encoder for an answer of an upstream, if it is to be compressed; its head then says so.
///
/// Never one with a cookie: an attacker who can put text into an answer beside a secret, and see its length, finds the
/// secret out letter by letter (BREACH). Which other answers hold secrets only the service knows, so that a route must
/// ask for it.
pub(crate) fn compress(request: &RequestHeader, response: &mut ResponseHeader, floor: u64) -> Result<Option<Encoder>> {
    use http::header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, SET_COOKIE,
        VARY,
    };
    let headers = &response.headers;
    let text = |name: &http::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let is_worth_it = headers.get(CONTENT_TYPE).is_some_and(|kind| coding::is_worth_it(kind.as_bytes()));
    let is_small =
        text(&CONTENT_LENGTH).and_then(|length| length.parse().ok()).is_some_and(|length: u64| length < floor);
    let is_fixed = headers.get_all(CACHE_CONTROL).iter().any(|value| {
        value.to_str().is_ok_and(|rules| rules.split(',').any(|rule| rule.trim().eq_ignore_ascii_case("no-transform")))
    });
    let is_done = [CONTENT_ENCODING, CONTENT_RANGE, SET_COOKIE].iter().any(|name| headers.contains_key(name));
    let has_body = !matches!(response.status.as_u16(), 101 | 204 | 206 | 304);
    // Only of HTTP/1 does every body end with a piece that says so.
    if !is_worth_it || is_small || is_fixed || is_done || !has_body || response.version == Version::HTTP_2 {
        return Ok(None);
    }
    response.append_header(VARY, "Accept-Encoding")?;
    let codings = coding::accepted(&request.headers, Coding::FASTEST);
    let Some(coding) = codings.first().filter(|_| request.method != http::Method::HEAD) else { return Ok(None) };
    let Some(encoder) = Encoder::new(*coding) else { return Ok(None) };
    response.insert_header(CONTENT_ENCODING, coding.token())?;
    response.remove_header(&CONTENT_LENGTH);
    response.remove_header(&ACCEPT_RANGES);
    // Byte for byte it is another one now; a weak tag is of the content.
    if let Some(tag) = response.headers.get(ETAG).and_then(|tag| tag.to_str().ok()).filter(|tag| tag.starts_with('"')) {
        let weak = format!("W/{tag}");
        response.insert_header(ETAG, weak)?;
    }
    Ok(Some(encoder))
}
