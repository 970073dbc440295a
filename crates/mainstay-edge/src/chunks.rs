//! The grammar of a body in chunks, to the letter.
//!
//! Pingora takes what it can make sense of (no size at all, blanks behind it, any byte in an extension, any line as a
//! trailer) and frames it anew. This reads the same bytes beside it and refuses what the grammar does not have, so that
//! nothing that two parsers could read differently goes on. Blanks around `;` and `=` are in the grammar for old
//! recipients only, no sender may make them: they are refused as well.
//!
//! **Source**: RFC 9112 section 7.1; RFC 9110 sections 5.6 and 6.5.1.

/// Longest line of a size with its extensions.
const MAX_LINE_BYTES: usize = 4096;
/// All extensions of a body together: they are work for nothing.
const MAX_EXTENSION_BYTES: usize = 16 * 1024;
/// All trailers of a body together.
const MAX_TRAILER_BYTES: usize = 8 * 1024;
/// A size of 15 digits is a petabyte, and cannot overflow.
const MAX_DIGITS: usize = 15;
/// What frames a message or leads it to its place cannot come behind it.
const NO_TRAILERS: [&str; 6] =
    ["content-length", "transfer-encoding", "host", "trailer", "content-encoding", "content-type"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size { digits: usize },
    ExtensionName { is_empty: bool },
    ExtensionValue { is_empty: bool },
    Quoted,
    Escaped,
    AfterQuoted,
    SizeEnd,
    Data { left: u64 },
    DataReturn,
    DataEnd,
    Trailer,
    TrailerEnd,
    Done,
}

/// A body being read.
#[derive(Debug)]
pub(crate) struct Chunks {
    at: At,
    size: u64,
    line: usize,
    extensions: usize,
    trailer: Vec<u8>,
    trailers: usize,
}

/// The body is not of the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Visible, blank, tab, or beyond ASCII.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

impl Chunks {
    pub(crate) fn new() -> Self {
        Self { at: At::Size { digits: 0 }, size: 0, line: 0, extensions: 0, trailer: Vec::new(), trailers: 0 }
    }

    /// Reads on. What comes behind the body's end is not looked at.
    ///
    /// **Errors**: what was read so far cannot be a body.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.at == At::Done {
                return Ok(());
            }
            if let At::Data { left } = self.at {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - taken as u64;
                self.at = if left == 0 { At::DataReturn } else { At::Data { left } };
                bytes = bytes.get(taken..).unwrap_or_default();
                continue;
            }
            self.at = self.step(byte)?;
            bytes = rest;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<At, Malformed> {
        let next = match (self.at, byte) {
            (At::Size { digits }, _) if byte.is_ascii_hexdigit() && digits < MAX_DIGITS => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                self.size = self.size * 16 + u64::from(digit);
                At::Size { digits: digits + 1 }
            }
            (At::Size { digits: 1.. } | At::AfterQuoted, b'\r')
            | (At::ExtensionName { is_empty: false } | At::ExtensionValue { is_empty: false }, b'\r') => At::SizeEnd,
            (At::Size { digits: 1.. } | At::AfterQuoted, b';')
            | (At::ExtensionName { is_empty: false } | At::ExtensionValue { is_empty: false }, b';') => {
                At::ExtensionName { is_empty: true }
            }
            (At::ExtensionName { is_empty: false }, b'=') => At::ExtensionValue { is_empty: true },
            (At::ExtensionName { .. }, _) if is_token(byte) => At::ExtensionName { is_empty: false },
            (At::ExtensionValue { .. }, _) if is_token(byte) => At::ExtensionValue { is_empty: false },
            (At::ExtensionValue { is_empty: true }, b'"') => At::Quoted,
            (At::Quoted, b'"') => At::AfterQuoted,
            (At::Quoted, b'\\') => At::Escaped,
            (At::Quoted | At::Escaped, _) if is_text(byte) => At::Quoted,
            (At::SizeEnd, b'\n') => return Ok(self.begin_chunk()),
            (At::DataReturn, b'\r') => At::DataEnd,
            (At::DataEnd, b'\n') => At::Size { digits: 0 },
            (At::Trailer, b'\r') => At::TrailerEnd,
            (At::Trailer, _) if self.trailers < MAX_TRAILER_BYTES => {
                self.trailer.push(byte);
                self.trailers += 1;
                At::Trailer
            }
            (At::TrailerEnd, b'\n') => return self.end_trailer(),
            _ => return Err(Malformed),
        };
        // A large upload has a million chunks, each with an end of its size line.
        if !matches!(next, At::Size { .. } | At::SizeEnd | At::DataEnd | At::Trailer | At::TrailerEnd) {
            self.extensions += 1;
        }
        self.line += 1;
        if self.line > MAX_LINE_BYTES && self.trailers == 0 || self.extensions > MAX_EXTENSION_BYTES {
            return Err(Malformed);
        }
        Ok(next)
    }

    fn begin_chunk(&mut self) -> At {
        let left = std::mem::take(&mut self.size);
        self.line = 0;
        if left == 0 { At::Trailer } else { At::Data { left } }
    }

    fn end_trailer(&mut self) -> Result<At, Malformed> {
        let line = std::mem::take(&mut self.trailer);
        if line.is_empty() {
            return Ok(At::Done);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed)?;
        let (name, value) = line.split_at(colon);
        let is_name = !name.is_empty() && name.iter().all(|byte| is_token(*byte));
        let is_forbidden = NO_TRAILERS.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()));
        if !is_name || is_forbidden || !value.iter().all(|byte| is_text(*byte)) {
            return Err(Malformed);
        }
        Ok(At::Trailer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At once, and byte by byte, which must be the same.
    fn read(body: &[u8]) -> (Result<(), Malformed>, bool) {
        let mut whole = Chunks::new();
        let outcome = whole.read(body);
        let mut single = Chunks::new();
        let singly = body.iter().try_for_each(|byte| single.read(std::slice::from_ref(byte)));
        assert_eq!(outcome, singly, "{}", body.escape_ascii());
        (outcome, whole.at == At::Done)
    }

    #[test]
    fn a_body_of_the_grammar_is_read_to_its_end() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"5\r\nhello\r\n0\r\n\r\n",
            b"00A\r\n0123456789\r\n1\r\nx\r\n000\r\n\r\n",
            b"5;a\r\nhello\r\n0;b=c;d=\"e \\\"; f\"\r\n\r\n",
            b"2\r\n\r\n\r\n0\r\nX-Sum: 1\r\nx-empty:\r\n\r\n",
            b"0\r\n\r\nGET / HTTP/1.1\nwhat comes behind is not looked at",
        ] {
            assert_eq!(read(body), (Ok(()), true), "{}", body.escape_ascii());
        }
        assert_eq!(read(b"5\r\nhel"), (Ok(()), false));
        assert_eq!(read(&[b"1\r\nx\r\n".repeat(50_000), b"0\r\n\r\n".to_vec()].concat()), (Ok(()), true));
    }

    #[test]
    fn anything_else_is_refused() {
        for body in [
            &b"\r\nhello\r\n0\r\n\r\n"[..],
            b"5 \r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5;a\x00\r\nhello\r\n0\r\n\r\n",
            b"5;\r\nhello\r\n0\r\n\r\n",
            b"5;a=\r\nhello\r\n0\r\n\r\n",
            b"5;a=\"b\r\n\"\r\nhello\r\n0\r\n\r\n",
            b"5;a=\"b\"c\r\nhello\r\n0\r\n\r\n",
            b"5 ;a=b\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"1000000000000005\r\nhello\r\n0\r\n\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello!\r\n0\r\n\r\n",
            b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n",
            b"5\r\nhello\r\n0\r\n X: y\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX: y\n\r\n",
            b"5\r\nhello\r\n0\r\nX: \x01\r\n\r\n",
            b"5\r\nhello\r\n0\r\ncontent-Length: 5\r\n\r\n",
            b"5\r\nhello\r\n0\r\nHost: evil.example\r\n\r\n",
        ] {
            assert_eq!(read(body).0, Err(Malformed), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn what_is_not_data_is_bounded() {
        let long = |count: usize| [&b"5;"[..], &b"a".repeat(count), b"\r\nhello\r\n0\r\n\r\n"].concat();
        assert_eq!(read(&long(1000)).0, Ok(()));
        assert_eq!(read(&long(5000)).0, Err(Malformed));
        let many = [b"1;abcdefgh\r\nx\r\n".repeat(3000), b"0\r\n\r\n".to_vec()].concat();
        assert_eq!(read(&many).0, Err(Malformed));
        let trailers = [&b"0\r\n"[..], &b"X: y\r\n".repeat(3000), b"\r\n"].concat();
        assert_eq!(read(&trailers).0, Err(Malformed));
    }
}
