//! What holds for any bytes that a client or the control plane may send: the bodies of the fuzz targets (`bin/fuzz`),
//! which the tests of this crate run too, on fewer and tamer inputs.
//!
//! Each function panics when a rule is broken.

use std::io;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue};
use mainstay_stack::routing;
use mainstay_types::Timestamp;
use pingora_http::RequestHeader;
use serde_json::{Value, json};

use crate::chunks::Chunks;
use crate::identity::{self, Issuers};
use crate::limit::Limits;
use crate::metrics::Metrics;
use crate::protocol::{PROTOCOL_VERSION, Policy, Target};
use crate::range::{Wanted, wanted};
use crate::snapshot::{Live, Snapshot};
use crate::upstream::Groups;
use crate::{access, coding, entry, file, guard, headers, limit, passage, release, snapshot, strict};

/// A raw head and the same head parsed: what passes has one meaning, and nothing in it can pass for the edge's word.
pub fn head(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let passes_raw = strict::check_raw_head(bytes).is_ok();
    let Ok(mut request) = RequestHeader::build(method, target, None) else { return };
    for line in lines.take_while(|line| !line.is_empty()) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        // Without a colon it is no header: the parser refuses the whole head.
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return };
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.trim_ascii())) else {
            continue;
        };
        request.append_header(name, value).ok();
    }
    if passes_raw {
        let count = |name: &str| request.headers.get_all(name).iter().count();
        assert!(count("content-length") + count("transfer-encoding") <= 1 && count("host") <= 1, "ambiguous framing");
    }
    let host = strict::host(&request);
    if let Some(host) = &host {
        assert!(!host.is_empty() && !host.contains(|sign: char| sign.is_ascii_uppercase() || sign == '@'), "{host:?}");
    }
    if strict::check_head(&request).is_err() {
        return;
    }
    read_headers(&request.headers);
    let identity = headers::Identity::of(&request);
    assert_eq!(identity.trace_id().len(), 32);
    headers::forward(&mut request, &identity, None, "a.example").expect("the edge's own words are header values");
    for (name, value) in &request.headers {
        let plain = name.as_str().replace(|sign: char| !sign.is_ascii_alphanumeric(), "-");
        if plain == "x-forwarded-host" {
            assert_eq!(value, "a.example", "{name}");
        }
        let ours = ["x-forwarded-for", "x-real-ip", "x-forwarded-user", "x-forwarded-roles", "x-forwarded-issuer"];
        assert!(!ours.contains(&plain.as_str()), "{name} was the client's word");
    }
}

/// All that is read of headers before a route is known.
fn read_headers(headers: &HeaderMap) {
    let order = [coding::Coding::Zstd, coding::Coding::Brotli, coding::Coding::Gzip];
    assert!(coding::accepted(headers, order).len() <= 3);
    release::asked(headers, None);
    entry::wants_a_page(headers);
    if let Some(value) = limit::cookie(headers, b"sid") {
        assert!(!value.contains(&b';'), "a cookie ends at its semicolon");
    }
}

/// A token: what it says is what one reader of JSON and every other says, and what a header can hold.
pub fn token(bytes: &[u8]) {
    identity::fuzz(bytes);
}

/// A path: what passes is no way out of `site` (made by [`site`]), and means one route.
pub fn path(site: &Path, bytes: &[u8]) {
    let Ok(path) = std::str::from_utf8(bytes) else { return };
    if !path.contains('?') {
        let logged = access::redact(&format!("{path}?token=SECRET&x=1"));
        assert_eq!(logged, format!("{path}?token=***&x=1"));
    }
    for spa in [false, true] {
        if let Some((root, found)) = file::find(site, path, spa) {
            assert!(found.path.starts_with(&root), "{path:?} leaves the folder: {}", found.path.display());
            assert!(!found.path.ends_with("secret") && !found.path.ends_with(".env"), "{path:?} is served");
        }
    }
    if strict::check_path(path).is_err() {
        return;
    }
    let plain = routing::plain(path);
    assert!(!plain.split('/').any(|segment| segment == ".."), "{path:?} is read as {plain:?}");
    if !strict::has_other_spelling(path) && path.len() > 1 && path.starts_with('/') {
        assert_eq!(plain, path, "read otherwise without a sign of it");
    }
}

/// Makes a site below `root`: files, one hidden, one beside the site, and a link that leads there.
///
/// **Errors**: the disk's.
pub fn site(root: &Path) -> io::Result<PathBuf> {
    let public = root.join("public");
    std::fs::create_dir_all(public.join("a"))?;
    std::fs::write(public.join("index.html"), "home")?;
    std::fs::write(public.join("a/b.css"), "css")?;
    std::fs::write(public.join(".env"), "hidden")?;
    std::fs::write(root.join("secret"), "outside")?;
    std::os::unix::fs::symlink(root.join("secret"), public.join("link"))?;
    Ok(public)
}

/// A chunked body: it is read alike however it comes apart on the way.
pub fn chunks(bytes: &[u8]) {
    let Some((&cut, body)) = bytes.split_first() else { return };
    let whole = Chunks::new().read(body);
    let mut apart = Chunks::new();
    let in_pieces = body.chunks(usize::from(cut).max(1)).try_for_each(|piece| apart.read(piece));
    assert_eq!(in_pieces, whole, "read otherwise in pieces of {cut}");
}

/// A range of a file: a part lies within it.
pub fn range(bytes: &[u8]) {
    let Some((length, text)) = bytes.split_first_chunk::<8>() else { return };
    let length = u64::from_le_bytes(*length);
    if let Wanted::Part { first, last } = wanted(&String::from_utf8_lossy(text), length) {
        assert!(first <= last && last < length, "{first}-{last} of {length}");
    }
    if let Ok(text) = std::str::from_utf8(text)
        && let Some(seconds) = crate::range::parse_date(text)
    {
        assert_eq!(crate::range::parse_date(&crate::range::date(seconds)), Some(seconds), "{text:?}");
    }
}

/// A policy as the control plane sends it, given as the parts (a JSON object) in which it differs from one that is
/// usable: what is checked can be put in force, and is then in force as it was sent.
pub fn policy(usable: &Value, bytes: &[u8]) {
    let Ok(Value::Object(parts)) = serde_json::from_slice(bytes) else { return };
    let mut whole = usable.clone();
    for (key, value) in parts {
        whole[key] = value;
    }
    let Ok(policy) = serde_json::from_value::<Policy>(whole) else { return };
    let hash = snapshot::hash(&policy);
    let again: Policy = serde_json::from_slice(&serde_json::to_vec(&policy).expect("a policy is JSON")).expect("read");
    assert_eq!(snapshot::hash(&again), hash, "a policy changes on its way to the disk");
    if snapshot::check(&policy).is_err() {
        return;
    }
    let (groups, metrics, limits) = (Groups::new(), Metrics::default(), Limits::new());
    // Nothing is kept of issuers: they are not fetched here.
    let issuers = Issuers::new(Path::new("/nonexistent"));
    let live = Live { groups: &groups, metrics: &metrics, limits: &limits, issuers: &issuers };
    let compiled = Snapshot::compile(&policy, &live);
    let snapshot = compiled.unwrap_or_else(|error| panic!("checked and not compiled: {error}"));
    assert_eq!(snapshot.hash, hash);
    for route in &policy.routes {
        assert!(route.headers.iter().all(guard::is_usable), "{}", route.path);
        let path = route.path.replace('*', "a/b");
        let Some(found) = snapshot.route(&path) else { panic!("{path} of {} finds no route", route.path) };
        let Ok(mut request) = RequestHeader::build("GET", path.as_bytes(), None) else { continue };
        passage::edit(&mut request, found, false).ok();
    }
}

/// A policy that is usable, for [`policy`]: one host, a certificate for it, one upstream, one route.
///
/// **Errors**: the certificate's.
pub fn usable_policy(folder: &Path) -> Result<Value, Box<dyn std::error::Error>> {
    let hosts = vec!["a.localhost".to_owned()];
    let certificate = crate::ca::local_ca(folder, &hosts, Timestamp::from_millis(0))?.certificate;
    Ok(json!({
        "schema": PROTOCOL_VERSION, "generation": 1, "hosts": hosts, "certificates": [certificate], "https_port": 443,
        "routes": [{ "path": "/*", "to": Target::Upstream { name: "a".to_owned() }, "timeout_ms": 1000 }],
        "upstreams": { "a": { "health_path": null, "hold_ms": 1000, "hold_requests": 10 } },
        "access_log": folder.join("access.log"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const LINES: &str = "(host: a|Host : b|content-length: [0-9]{1,20}|transfer-encoding: chunked|x_forwarded_for: 1|\
        X-Real-IP: 1|cookie: sid=1; a=b|traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-01|accept-encoding: gzip;q=0.1, br)";

    proptest! {
        #[test]
        fn no_head_passes_for_another(
            target in "/[a-z./%;?]{0,12}", lines in vec(LINES, 0..8), end in "(\r\n|\n|\r)"
        ) {
            let lines: String = lines.iter().map(|line| format!("{line}{end}")).collect();
            head(format!("GET {target} HTTP/1.1\r\n{lines}\r\n").as_bytes());
        }

        #[test]
        fn no_token_says_two_things(text in "[A-Za-z0-9_.{}\":,\\[\\]-]{0,80}", fields in "(\"(alg|sub|roles|exp|a)\":(1|-1e9|\"a\"|\"ES256\"|\\[\"a,b\"\\]|\\{\\}|null),?){0,4}") {
            token(text.as_bytes());
            token(format!("{{{}}}", fields.trim_end_matches(',')).as_bytes());
        }

        #[test]
        fn no_bytes_break_a_reader(bytes in vec(any::<u8>(), 0..200)) {
            head(&bytes);
            token(&bytes);
            chunks(&bytes);
            range(&bytes);
        }

        #[test]
        fn chunks_are_read_alike_in_pieces(
            cut in any::<u8>(), body in "([0-9a-f]{1,3}|\r\n|;|a=b|\"|\\\\|abc|0\r\n\r\n){0,20}"
        ) {
            chunks(&[&[cut], body.as_bytes()].concat());
        }

        #[test]
        fn a_range_lies_within_its_file(length in any::<u64>(), text in "bytes=[0-9]{0,20}-[0-9]{0,20}") {
            range(&[&length.to_le_bytes()[..], text.as_bytes()].concat());
        }
    }

    #[test]
    fn no_path_leaves_a_site() {
        let folder = tempfile::tempdir().expect("a folder");
        let site = site(folder.path()).expect("a site");
        proptest!(|(text in "(/|\\.|\\.\\.|%2e|%2F|a|b\\.css|link|secret|;|\\\\|%00|\\.env|index\\.html|\\?){0,12}")| {
            path(&site, text.as_bytes());
        });
    }

    #[test]
    fn what_is_checked_can_be_put_in_force() {
        let folder = tempfile::tempdir().expect("a folder");
        let usable = usable_policy(folder.path()).expect("a policy");
        let plain: Policy = serde_json::from_value(usable.clone()).expect("of the right form");
        snapshot::check(&plain).expect("it is usable");
        proptest!(|(path in "/[a-z*]{0,4}/?\\*?", location in "[a-z:/{}*]{0,12}", status in 290_u16..320)| {
            let to = Target::Redirect { location, status };
            let parts = json!({ "routes": [{ "path": path, "to": to, "timeout_ms": 1 }] });
            policy(&usable, parts.to_string().as_bytes());
        });
    }
}
