//! Pages that a service serves itself: files inside the program, with the headers that keep a page to itself.

use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest as _, Sha256};

/// Nothing from elsewhere: no script, style, font, picture or connection. No inline script or style either.
pub const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
const CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// A file of the program.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Where it is served: `/app.js`.
    pub path: &'static str,
    /// Its media type.
    pub content_type: &'static str,
    /// Its content.
    pub body: &'static str,
}

/// Routes of files; each is asked for again every time and mostly answered 304.
pub fn routes<S: Clone + Send + Sync + 'static>(assets: &[Asset]) -> Router<S> {
    let mut router = Router::new();
    for asset in assets {
        let (asset, etag) = (*asset, etag(asset.body));
        let answer = move |request: HeaderMap| {
            let etag = etag.clone();
            async move { serve(&asset, &etag, &request) }
        };
        router = router.route(asset.path, get(answer));
    }
    router
}

fn serve(asset: &Asset, etag: &str, request: &HeaderMap) -> Response {
    let known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let is_known = known.is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag));
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => asset.body.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, asset.content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
        (PERMISSIONS_POLICY, "camera=(), geolocation=(), microphone=()"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(value) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, value);
    }
    response
}

fn etag(body: &str) -> String {
    format!("\"{}\"", crate::random::hex(&Sha256::digest(body.as_bytes())[..12]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Asset = Asset { path: "/", content_type: "text/html; charset=utf-8", body: "<p>" };

    #[test]
    fn a_page_may_load_from_its_own_server_only() {
        let response = serve(&PAGE, "\"1\"", &HeaderMap::new());
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'self';") && !policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn a_known_file_is_not_sent_again() {
        let mut request = HeaderMap::new();
        request.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"0\", W/\"1\""));
        assert_eq!(serve(&PAGE, "\"1\"", &request).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(serve(&PAGE, "\"2\"", &request).status(), StatusCode::OK);
    }
}
