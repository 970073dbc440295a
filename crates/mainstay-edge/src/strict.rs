//! What is refused before anything routes on it: ambiguous framing, paths that mean two things, heads too long.
//!
//! A request that two parsers could read differently is answered 400 and its connection is closed; nothing is
//! repaired. **Source**: RFC 9112 sections 2.2, 5.1, 6.1 and 6.3; RFC 3986 section 5.2.4.

use pingora_http::RequestHeader;

/// Longest request head. Browsers stay below 16 KiB even with many cookies.
pub(crate) const MAX_HEAD_BYTES: usize = 32 * 1024;
/// A refusal: status and reason.
pub(crate) type Refusal = (u16, &'static str);
/// A body in chunks that is none.
pub(crate) const BAD_CHUNKS: Refusal = (400, "body is not in well-formed chunks");
/// A body beyond what the route takes.
pub(crate) const BODY_TOO_LONG: Refusal = (413, "request body is longer than this route takes");
/// A body that was announced and does not come.
pub(crate) const BODY_TOO_LATE: Refusal = (408, "request body did not arrive in time");

/// Checks the raw bytes of an HTTP/1 head (Pingora's parsed form has lost what is asked here).
///
/// **Errors**: the refusal.
pub(crate) fn check_raw_head(raw: &[u8]) -> Result<(), Refusal> {
    if raw.len() > MAX_HEAD_BYTES {
        return Err((431, "request head is longer than 32 KiB"));
    }
    let mut previous = 0;
    for &byte in raw {
        if byte == b'\n' && previous != b'\r' {
            return Err((400, "line ends with a bare line feed"));
        }
        if previous == b'\r' && byte != b'\n' {
            return Err((400, "bare carriage return"));
        }
        previous = byte;
    }
    let line = raw.split(|byte| *byte == b'\n').next().unwrap_or_default();
    check_request_line(line.strip_suffix(b"\r").unwrap_or(line))?;
    let (mut lengths, mut encodings, mut hosts) = (0, 0, 0);
    for line in raw.split(|byte| *byte == b'\n').skip(1) {
        if line.first().is_some_and(|first| *first == b' ' || *first == b'\t') {
            return Err((400, "folded header line"));
        }
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            encodings += 1;
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    if lengths > 0 && encodings > 0 {
        return Err((400, "both Content-Length and Transfer-Encoding"));
    }
    if lengths > 1 || encodings > 1 || hosts > 1 {
        return Err((400, "repeated Content-Length, Transfer-Encoding or Host"));
    }
    Ok(())
}

/// Longest method: those that are registered have 17 letters at most.
const MAX_METHOD_BYTES: usize = 32;

/// Exactly a method, a target and a version with single blanks between. Pingora has encoded further blanks by now, as
/// a part of the target, and drops fragments.
fn check_request_line(line: &[u8]) -> Result<(), Refusal> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err((400, "request line is not a method, a target and a version"));
    };
    if method.len() > MAX_METHOD_BYTES || !(version == b"HTTP/1.1" || version == b"HTTP/1.0") {
        return Err((400, "request line is not a method, a target and a version"));
    }
    let begins = |with: &[u8]| target.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    if target.contains(&b'#') || !(begins(b"/") || target == b"*" || begins(b"http://") || begins(b"https://")) {
        return Err((400, "target is neither a path nor a URL of HTTP"));
    }
    Ok(())
}

/// Checks a parsed head of either protocol.
///
/// **Errors**: the refusal.
pub(crate) fn check_head(head: &RequestHeader) -> Result<(), Refusal> {
    let size: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size + head.raw_path().len() > MAX_HEAD_BYTES {
        return Err((431, "request head is longer than 32 KiB"));
    }
    if let Some(encoding) = head.headers.get(http::header::TRANSFER_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"chunked")
    {
        return Err((400, "transfer encoding other than chunked"));
    }
    check_method(head.method.as_str())?;
    if let Some(length) = head.headers.get(http::header::CONTENT_LENGTH) {
        let digits = length.as_bytes();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err((400, "Content-Length is not a number"));
        }
    }
    check_path(head.uri.path())
}

/// Methods that are about the connection and not about a resource behind it. Methods have their case: what guards
/// `DELETE` must not be passed by `delete`, which many a framework takes for the same.
///
/// **Errors**: the refusal.
pub(crate) fn check_method(method: &str) -> Result<(), Refusal> {
    if method == "TRACE" || method == "CONNECT" {
        Err((405, "method is not served"))
    } else if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Err((400, "method is not in capital letters"))
    } else {
        Ok(())
    }
}

/// Checks the length that a head promises, of which [`check_head`] knows that it is a number.
///
/// **Errors**: the refusal.
pub(crate) fn check_length(head: &RequestHeader, most: u64) -> Result<(), Refusal> {
    let Some(length) = head.headers.get(http::header::CONTENT_LENGTH) else { return Ok(()) };
    let length = length.to_str().ok().and_then(|digits| digits.parse::<u64>().ok());
    if length.is_some_and(|length| length <= most) { Ok(()) } else { Err(BODY_TOO_LONG) }
}

/// A path must mean the same to the edge and to every framework behind it.
///
/// **Errors**: the refusal.
pub(crate) fn check_path(path: &str) -> Result<(), Refusal> {
    if !path.starts_with('/') && path != "*" {
        return Err((400, "path does not begin with /"));
    }
    if path.contains(['\\', '\0']) {
        return Err((400, "path contains a backslash or NUL"));
    }
    let decoded = percent_decode(path).ok_or((400, "path has a broken percent encoding"))?;
    if decoded.contains(&0) {
        return Err((400, "path contains a backslash or NUL"));
    }
    // `%2f` counts as a separator here, because some servers take it for one.
    // So does a dot segment with parameters, `..;x`, which Java's servers take for one.
    let name =
        |segment: &[u8]| segment.split(|byte| *byte == b';').next().is_some_and(|name| matches!(name, b"." | b".."));
    if decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(name) {
        return Err((400, "path contains a dot segment"));
    }
    Ok(())
}

/// Written otherwise the path is another route's, so that what guards that one could be walked around.
pub(crate) const OTHER_ROUTE: Refusal = (400, "path is another route's once it is decoded");

/// The same for what a server may do without a sign of it in the path: only where a guard could be walked around.
pub(crate) const GUARDED_ROUTE: Refusal = (400, "path may be read as one of another route, which is guarded");

/// Whether a path may be read as another one. Nearly none may, so this is asked first.
pub(crate) fn has_other_spelling(path: &str) -> bool {
    path.contains(['%', ';']) || path.contains("//")
}

/// The bytes a percent-encoded text stands for; `None` when an escape is broken.
pub(crate) fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        decoded.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(decoded)
}

/// The host of a request without port, in lower case.
pub(crate) fn host(head: &RequestHeader) -> Option<String> {
    let authority = match head.headers.get(http::header::HOST) {
        Some(host) => host.to_str().ok()?,
        None => head.uri.authority()?.as_str(),
    };
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(inner, port)| (inner, port.strip_prefix(':')))?,
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if port.is_some_and(|port| port.starts_with('+') || port.parse::<u16>().is_err()) {
        return None;
    }
    // One dot at the end is the root's; more are no name.
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty() && !host.ends_with('.')).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ambiguous_framing_is_refused() {
        let fine = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(check_raw_head(fine), Ok(()));
        for wrong in [
            &b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"[..],
            b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\n folded: yes\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
            b"POST  / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / x HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST /#x HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST / HTTP/1.2\r\nHost: a\r\n\r\n",
        ] {
            assert_eq!(check_raw_head(wrong).map_err(|(status, _)| status), Err(400), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn a_path_that_means_two_things_is_refused() {
        for wrong in [
            "/a/../b",
            "/a/%2e%2E/b",
            "/..",
            "/a/%2e",
            "/a%2f..%2fb",
            "/a\\b",
            "/%00",
            "/%",
            "/%zz",
            "/%5c..%5c",
            "/a/..;/b",
            "/a/.;x",
            "/a/%2e%2e%3bx/b",
            "x",
        ] {
            assert!(check_path(wrong).is_err(), "{wrong}");
        }
        for fine in ["/", "/a..b", "/a/...", "/a%20b", "/.well-known/x", "*"] {
            assert_eq!(check_path(fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn a_method_has_one_spelling() {
        for (method, expected) in [("DELETE", None), ("X-PURGE", None), ("delete", Some(400)), ("TRACe", Some(400))] {
            assert_eq!(check_method(method).err().map(|(status, _)| status), expected, "{method}");
        }
    }

    #[test]
    fn a_host_is_taken_without_port_and_case() {
        let mut head = RequestHeader::build("GET", b"/", None).expect("builds");
        for (given, expected) in [("Users.Localhost:8443", "users.localhost"), ("[::1]:80", "::1"), ("a.", "a")] {
            head.insert_header("host", given).expect("inserts");
            assert_eq!(host(&head).as_deref(), Some(expected));
        }
        for wrong in [".", "..", "a..", ":80", "[]"] {
            head.insert_header("host", wrong).expect("inserts");
            assert_eq!(host(&head), None, "{wrong}");
        }
    }
}
