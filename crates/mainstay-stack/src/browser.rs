//! What browsers are told about a route: security headers, and which other sites may use it (CORS).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The strict set. The policy on content allows what built single-page applications need (styles in attributes,
/// images and fonts as `data:`) and nothing from elsewhere. **Source**: OWASP Secure Headers Project.
const STRICT: [(&str, &str); 7] = [
    (
        "Content-Security-Policy",
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; \
         base-uri 'self'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    // Last: it is left out for hosts of this machine.
    ("Strict-Transport-Security", "max-age=31536000"),
];

/// Security headers of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headers {
    /// Begins with the strict set. Default: for a site, not for a service.
    pub is_strict: bool,
    /// Replaces what the service sends under the same names. Default: the service's word counts.
    pub overwrites: bool,
    /// Further or other headers by name; an empty text leaves the header out.
    pub set: BTreeMap<String, String>,
}

impl Headers {
    /// Names and values for answers of a host.
    pub fn lines(&self, host: &str) -> Vec<(String, String)> {
        // Browsers take Strict-Transport-Security for all ports of a name: whatever else somebody develops under
        // `NAME.localhost` would be out of reach.
        let is_local = host == "localhost" || host.ends_with(".localhost");
        let strict = STRICT.iter().filter(|(name, _)| !is_local || *name != "Strict-Transport-Security");
        let strict = strict.filter(|_| self.is_strict);
        let is_said = |name: &str| self.set.keys().any(|said| said.eq_ignore_ascii_case(name));
        let mut lines: Vec<(String, String)> = strict
            .filter(|(name, _)| !is_said(name))
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let own = self.set.iter().filter(|(_, value)| !value.is_empty());
        lines.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        lines
    }
}

/// Which other sites may use a route from a browser. **Source**: Fetch standard, section 3.2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cors {
    /// `https://app.example.com`, exact; or `*` alone for all.
    pub origins: Vec<String>,
    /// Methods beyond the simple ones.
    pub methods: Vec<String>,
    /// Request headers beyond the simple ones.
    pub headers: Vec<String>,
    /// Answer headers that scripts may read.
    pub expose: Vec<String>,
    /// Whether cookies come along.
    pub has_credentials: bool,
    /// How long a browser may keep the answer to a preflight. Default 10 min.
    pub max_age: Duration,
}

/// Whether a text is an origin: scheme, host, and port if it is not the scheme's own; in lower case.
pub fn is_origin(text: &str) -> bool {
    let rest = text.strip_prefix("https://").map(|rest| (rest, ":443"));
    let Some((rest, own_port)) = rest.or_else(|| text.strip_prefix("http://").map(|rest| (rest, ":80"))) else {
        return false;
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let is_host = |host: &str| {
        let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match inner {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(is_name),
        }
    };
    let is_port = port.is_none_or(|port| {
        let is_number = port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0');
        is_number && port.parse::<u16>().is_ok() && !rest.ends_with(own_port)
    });
    is_host(host) && is_port
}

/// Whether a text can be the name of a header. **Source**: RFC 9110, section 5.6.2.
pub fn is_header_name(text: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.len() <= 64 && text.bytes().all(is_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_stands_instead_of_the_strict_set_and_nothing_leaves_a_header_out() {
        let set = [("x-frame-options", "SAMEORIGIN"), ("Referrer-Policy", ""), ("X-Own", "1")];
        let set = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let headers = Headers { is_strict: true, overwrites: false, set };
        let lines = headers.lines("shop.example.com");
        let of = |name: &str| -> Vec<&str> {
            let found = lines.iter().filter(|(one, _)| one.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str()).collect()
        };
        assert_eq!(of("X-Frame-Options"), ["SAMEORIGIN"]);
        assert_eq!(of("X-Own"), ["1"]);
        assert_eq!(of("X-Content-Type-Options"), ["nosniff"]);
        assert_eq!(of("Strict-Transport-Security"), ["max-age=31536000"]);
        assert!(of("Referrer-Policy").is_empty());
        assert!(!headers.lines("shop.localhost").iter().any(|(name, _)| name == "Strict-Transport-Security"));
        let none = Headers { is_strict: false, overwrites: false, set: BTreeMap::new() };
        assert!(none.lines("shop.example.com").is_empty());
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for good in [
            "https://a.example",
            "http://localhost:3000",
            "https://a.example:8443",
            "http://[::1]:3000",
            "http://[::1]",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "a.example",
            "https://",
            "https://A.example",
            "https://a.example/",
            "https://a.example:443",
            "http://a.example:80",
            "https://a.example:0",
            "https://a.example:70000",
            "https://*.example",
            "null",
            "ftp://a.example",
            "https://a.example:",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
