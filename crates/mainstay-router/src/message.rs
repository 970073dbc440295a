//! The few messages that the router writes or reads itself.
//!
//! **Source**: PostgreSQL manual, "Message Formats" and "Error and Notice Message Fields".

use crate::frame::split_string;

/// SQLSTATEs that the router gives itself.
pub(crate) mod sqlstate {
    pub(crate) const PROTOCOL_VIOLATION: &str = "08P01";
    pub(crate) const TRANSACTION_RESOLUTION_UNKNOWN: &str = "08007";
    pub(crate) const FEATURE_NOT_SUPPORTED: &str = "0A000";
    pub(crate) const INVALID_TEXT_REPRESENTATION: &str = "22P02";
    pub(crate) const INVALID_PASSWORD: &str = "28P01";
    pub(crate) const INVALID_CATALOG_NAME: &str = "3D000";
    pub(crate) const SERIALIZATION_FAILURE: &str = "40001";
    pub(crate) const TOO_MANY_CONNECTIONS: &str = "53300";
    pub(crate) const ADMIN_SHUTDOWN: &str = "57P01";
    pub(crate) const CRASH_SHUTDOWN: &str = "57P02";
    pub(crate) const CANNOT_CONNECT_NOW: &str = "57P03";
}

/// How bad an error of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The statement failed, the session lives.
    Error,
    /// The session ends.
    Fatal,
}

impl Severity {
    fn text(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// Appends a message whose body `fill` writes.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(kind);
    put_sized(out, fill);
}

fn put_sized(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    // Our own messages are some hundred bytes.
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

pub(crate) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

pub(crate) fn error(out: &mut Vec<u8>, severity: Severity, code: &str, text: &str) {
    error_with_detail(out, severity, code, text, "");
}

/// An empty `detail` is left out.
pub(crate) fn error_with_detail(out: &mut Vec<u8>, severity: Severity, code: &str, text: &str, detail: &str) {
    put(out, b'E', |out| {
        let level = severity.text();
        let fields =
            [(b'S', level), (b'V', level), (b'C', code), (b'M', text), (b'D', detail), (b'R', "mainstay-router")];
        for (field, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            out.push(field);
            put_string(out, value.as_bytes());
        }
        out.push(0);
    });
}

pub(crate) fn ready(out: &mut Vec<u8>, status: u8) {
    put(out, b'Z', |out| out.push(status));
}

pub(crate) fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    put(out, b'S', |out| {
        put_string(out, name.as_bytes());
        put_string(out, value.as_bytes());
    });
}

pub(crate) fn backend_key(out: &mut Vec<u8>, process: u32, secret: u32) {
    put(out, b'K', |out| {
        out.extend_from_slice(&process.to_be_bytes());
        out.extend_from_slice(&secret.to_be_bytes());
    });
}

pub(crate) fn authentication(out: &mut Vec<u8>, code: u32, data: &[u8]) {
    put(out, b'R', |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

pub(crate) fn query(out: &mut Vec<u8>, text: &str) {
    put(out, b'Q', |out| put_string(out, text.as_bytes()));
}

pub(crate) fn sync(out: &mut Vec<u8>) {
    put(out, b'S', |_| {});
}

pub(crate) fn flush(out: &mut Vec<u8>) {
    put(out, b'H', |_| {});
}

/// A startup packet of protocol 3.0.
pub(crate) fn startup<'a>(out: &mut Vec<u8>, parameters: impl Iterator<Item = (&'a str, &'a str)>) {
    put_sized(out, |out| {
        out.extend_from_slice(&crate::startup::PROTOCOL_3_0.to_be_bytes());
        for (name, value) in parameters {
            put_string(out, name.as_bytes());
            put_string(out, value.as_bytes());
        }
        out.push(0);
    });
}

pub(crate) fn cancel(process: u32, secret: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    put_sized(&mut out, |out| {
        out.extend_from_slice(&crate::startup::CANCEL_REQUEST.to_be_bytes());
        out.extend_from_slice(&process.to_be_bytes());
        out.extend_from_slice(secret);
    });
    out
}

/// What matters of an ErrorResponse of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// FATAL or PANIC: the server ends the session.
    pub(crate) is_fatal: bool,
    pub(crate) code: String,
    pub(crate) text: String,
}

impl Failure {
    /// Reads the body of an ErrorResponse; what is missing stays empty.
    pub(crate) fn parse(mut body: &[u8]) -> Self {
        let mut failure = Self { is_fatal: false, code: String::new(), text: String::new() };
        while let Some((field, rest)) = body.split_first().filter(|(field, _)| **field != 0) {
            let Some((value, rest)) = split_string(rest) else { break };
            body = rest;
            match field {
                // V is not translated (S is).
                b'V' => failure.is_fatal = value == b"FATAL" || value == b"PANIC",
                b'C' => failure.code = String::from_utf8_lossy(value).into_owned(),
                b'M' => failure.text = String::from_utf8_lossy(value).into_owned(),
                _ => {}
            }
        }
        failure
    }

    /// `RevalidateCachedQuery`: the table has changed under a prepared statement. Its text is not translated in a
    /// server that runs with `lc_messages = C`; elsewhere each error of this class counts.
    pub(crate) fn is_stale_plan(&self) -> bool {
        self.code == sqlstate::FEATURE_NOT_SUPPORTED
    }

    /// The server is going away or not there yet: what follows is a failover or a restart, not the client's fault.
    pub(crate) fn is_server_leaving(&self) -> bool {
        use sqlstate::{ADMIN_SHUTDOWN, CANNOT_CONNECT_NOW, CRASH_SHUTDOWN};
        self.is_fatal && [ADMIN_SHUTDOWN, CRASH_SHUTDOWN, CANNOT_CONNECT_NOW].contains(&self.code.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_errors_read_back() {
        let mut out = Vec::new();
        error(&mut out, Severity::Fatal, sqlstate::ADMIN_SHUTDOWN, "gone");
        let failure = Failure::parse(&out[5..]);
        assert_eq!((failure.is_fatal, failure.code.as_str(), failure.text.as_str()), (true, "57P01", "gone"));
        assert!(failure.is_server_leaving());
        assert_eq!(u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize + 1, out.len());
    }

    #[test]
    fn half_an_error_is_read_as_far_as_it_goes() {
        assert_eq!(Failure::parse(b"C57P01").code, "");
        assert_eq!(Failure::parse(b"").code, "");
    }
}
