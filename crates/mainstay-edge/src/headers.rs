//! What the edge adds to requests and takes away: request id, trace context, where the client really is.
//!
//! **Source**: W3C Trace Context, section 3.2 (`traceparent`).

use std::cell::RefCell;
use std::net::IpAddr;

use pingora_core::Result;
use pingora_http::RequestHeader;

/// Names only the edge may set. A client that sends one lies, or is another proxy, which nobody declared.
/// Compared with every other sign as `-`: CGI-like servers make the same variable of `X-A`, `X_A` and `X.A`.
const OURS: [&str; 16] = [
    "forwarded",
    crate::clients::HEADER,
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-issuer",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-prefix",
    "x-forwarded-roles",
    "x-forwarded-server",
    "x-forwarded-user",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-request-id",
    crate::release::HEADER,
];

/// Identity of a request.
#[derive(Debug)]
pub(crate) struct Identity {
    /// 128 random bits in hexadecimal digits.
    pub(crate) request_id: String,
    /// The client's, or a new one.
    pub(crate) traceparent: String,
}

impl Identity {
    /// Continues the trace of `head` or begins one; the request id is always ours.
    pub(crate) fn of(head: &RequestHeader) -> Self {
        let mut bytes = [0_u8; 40];
        random(&mut bytes);
        let request_id = hex(&bytes[..16]);
        let mut given = head.headers.get_all("traceparent").iter();
        let traceparent = match (given.next(), given.next()) {
            (Some(one), None) => one.to_str().ok().filter(|text| is_traceparent(text)).map(str::to_owned),
            _ => None,
        };
        let traceparent = traceparent.unwrap_or_else(|| format!("00-{}-{}-01", hex(&bytes[16..32]), hex(&bytes[32..])));
        Self { request_id, traceparent }
    }

    /// The trace id within the traceparent.
    pub(crate) fn trace_id(&self) -> &str {
        self.traceparent.get(3..35).unwrap_or_default()
    }
}

thread_local! {
    /// Random bytes drawn ahead, and how many of them are used: a call of the kernel for each request is felt.
    static DRAWN: RefCell<([u8; 1024], usize)> = const { RefCell::new(([0; 1024], 1024)) };
}

fn random(bytes: &mut [u8]) {
    DRAWN.with_borrow_mut(|(drawn, used)| {
        if *used + bytes.len() > drawn.len() {
            draw(drawn);
            *used = 0;
        }
        let end = *used + bytes.len();
        bytes.copy_from_slice(&drawn[*used..end]);
        *used = end;
    });
}

fn draw(bytes: &mut [u8]) {
    // The kernel's generator does not fail once it is seeded, and it is long before an edge runs.
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    digits.map(char::from).collect()
}

fn is_traceparent(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags] = parts.as_slice() else { return false };
    *version == "00"
        && (trace.len(), parent.len(), flags.len()) == (32, 16, 2)
        && parts.iter().all(|part| is_hex(part))
        && trace.bytes().any(|byte| byte != b'0')
        && parent.bytes().any(|byte| byte != b'0')
}

fn is_ours(name: &str) -> bool {
    let plain = |byte: u8| if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' };
    OURS.iter().any(|known| known.len() == name.len() && name.bytes().map(plain).eq(known.bytes()))
}

/// Removes what only the edge may say, and says it.
///
/// **Errors**: a value that is no header value (not for what is passed here).
pub(crate) fn forward(head: &mut RequestHeader, identity: &Identity, client: Option<IpAddr>, host: &str) -> Result<()> {
    let forged: Vec<_> = head.headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in forged {
        head.remove_header(&name);
    }
    // What a client calls the connection's own is gone by now, but for upgrades: there nobody behind may be told to drop
    // what the edge says.
    let named = head
        .headers
        .get_all(http::header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if named.into_iter().any(|name| std::str::from_utf8(name.trim_ascii()).is_ok_and(is_ours)) {
        head.insert_header("Connection", "Upgrade")?;
    }
    if let Some(client) = client {
        head.insert_header("X-Forwarded-For", client.to_canonical().to_string())?;
    }
    head.insert_header("X-Forwarded-Proto", "https")?;
    head.insert_header("X-Forwarded-Host", host)?;
    head.insert_header("X-Request-Id", identity.request_id.as_str())?;
    head.insert_header("traceparent", identity.traceparent.as_str())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_trace_is_continued_and_a_broken_one_replaced() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut head = RequestHeader::build("GET", b"/", None).expect("builds");
        head.insert_header("traceparent", good).expect("inserts");
        let identity = Identity::of(&head);
        assert_eq!(identity.traceparent, good);
        assert_eq!(identity.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        for bad in ["", "00-0-0-01", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", &good.to_uppercase()] {
            head.insert_header("traceparent", bad).expect("inserts");
            let made = Identity::of(&head);
            assert!(is_traceparent(&made.traceparent), "{}", made.traceparent);
            assert_ne!(made.traceparent, bad);
        }
    }

    #[test]
    fn forged_forwarding_headers_are_dropped_in_any_spelling() {
        let mut head = RequestHeader::build("GET", b"/", None).expect("builds");
        let forged = [
            "X-Forwarded-For",
            "x_forwarded_for",
            "Forwarded",
            "X-Real-IP",
            "X-Request-Id",
            "X-Forwarded-User",
            "X_Forwarded-User",
            "X_Forwarded.Client-Cert",
            "x.forwarded.roles",
            "X-Forwarded_Issuer",
            "x!forwarded!user",
        ];
        for name in forged {
            head.insert_header(name.to_owned(), "6.6.6.6").expect("inserts");
        }
        let identity = Identity::of(&head);
        forward(&mut head, &identity, Some([127, 0, 0, 1].into()), "a.localhost").expect("forwards");
        let all: Vec<_> = head.headers.iter().filter(|(_, value)| value.as_bytes() == b"6.6.6.6").collect();
        assert!(all.is_empty(), "{all:?}");
        assert_eq!(head.headers["x-forwarded-for"], "127.0.0.1");
        assert!(!is_ours("x-forwarded-users") && !is_ours("xforwardeduser"));
        for (given, kept) in [("Upgrade, X-Forwarded-User", "Upgrade"), ("upgrade, x-other", "upgrade, x-other")] {
            head.insert_header("Connection", given).expect("inserts");
            forward(&mut head, &identity, None, "a.localhost").expect("forwards");
            assert_eq!(head.headers["connection"], kept);
        }
    }
}
