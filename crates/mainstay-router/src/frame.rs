//! Boundaries of protocol messages: one byte of type, four of length, then a body that is rarely looked at.
//!
//! Never copies, never allocates.
//! **Source**: PostgreSQL manual, "Message Formats".

/// Type and length.
pub(crate) const HEADER: usize = 5;

/// Messages up to this size are forwarded whole, so that a lost server leaves the client at a boundary; longer ones
/// stream through. Nearly every statement and row is far below it, and two of them fit the scratch buffer.
pub(crate) const WHOLE: usize = 16 * 1024;

/// PostgreSQL's own limit (`PQ_LARGE_MESSAGE_LIMIT`, 1 GiB).
pub(crate) const MAX_MESSAGE: usize = 1 << 30;

/// A length that no message has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("message of type {kind:#04x} has length {length}, limits are 4 and {MAX_MESSAGE}")]
pub(crate) struct Malformed {
    kind: u8,
    length: u32,
}

/// The head of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    /// With the type byte.
    pub(crate) len: usize,
}

impl Frame {
    /// Whether it is forwarded whole.
    pub(crate) fn is_small(self) -> bool {
        self.len <= WHOLE
    }
}

/// Reads the head of the message at the start of `bytes`; `None` when it is not all there.
pub(crate) fn peek(bytes: &[u8]) -> Result<Option<Frame>, Malformed> {
    let &[kind, a, b, c, d, ..] = bytes else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]);
    if length < 4 || length as usize > MAX_MESSAGE {
        return Err(Malformed { kind, length });
    }
    Ok(Some(Frame { kind, len: length as usize + 1 }))
}

/// The zero-terminated string at the start of `bytes`, and what follows it.
pub(crate) fn split_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_only_when_it_is_whole() {
        assert_eq!(peek(b"Q\0\0\0"), Ok(None));
        assert_eq!(peek(b"Q\0\0\0\x05x"), Ok(Some(Frame { kind: b'Q', len: 6 })));
        assert!(peek(b"Q\0\0\0\x03").is_err());
        assert!(peek(b"Q\xff\xff\xff\xff").is_err());
    }
}
