//! Whether a tar archive has its end. `pg_restore` does not ask: it waits for ever for the rest of one that was cut off.
//!
//! **Source**: POSIX.1-2017, pax, "ustar Interchange Format": a head of 512 bytes with the size at 124 (octal; GNU and
//! PostgreSQL write base 256 for more than 8 GiB), data in blocks of 512 bytes, at the end two blocks of zeros.

use std::io::{self, Read};

const BLOCK: usize = 512;

/// Reads an archive to its end.
///
/// **Errors**: the reader's.
pub(super) fn is_whole(archive: impl Read) -> io::Result<bool> {
    let mut watched = Watched::new(archive);
    io::copy(&mut watched, &mut io::sink())?;
    Ok(watched.is_whole())
}

/// Passes an archive on and looks whether its end was there.
pub(super) struct Watched<R> {
    archive: R,
    /// The head that is being read.
    head: Vec<u8>,
    /// Bytes of data and filling before the next one.
    data: u64,
    has_end: bool,
}

impl<R: Read> Watched<R> {
    pub(super) fn new(archive: R) -> Self {
        Self { archive, head: Vec::with_capacity(BLOCK), data: 0, has_end: false }
    }

    /// Whether a block of zeros came where a head was due: the first of the two is enough, `pg_restore` needs none.
    pub(super) fn is_whole(&self) -> bool {
        self.has_end
    }

    fn look(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.has_end {
            if self.data > 0 {
                let skipped = usize::try_from(self.data).unwrap_or(usize::MAX).min(bytes.len());
                self.data -= skipped as u64;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let (head, rest) = bytes.split_at((BLOCK - self.head.len()).min(bytes.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            if self.head.len() == BLOCK {
                self.has_end = self.head.iter().all(|byte| *byte == 0);
                self.data = size(&self.head).next_multiple_of(BLOCK as u64);
                self.head.clear();
            }
        }
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.archive.read(buffer)?;
        self.look(buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}

/// Size of the data after a head. What is none makes an archive that does not end well, which is what it is.
fn size(head: &[u8]) -> u64 {
    let field = head.get(124..136).unwrap_or_default();
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        let bytes = field.iter().skip(4).fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
        return bytes.min(u64::MAX / 2);
    }
    let digits = field.iter().filter(|byte| (b'0'..=b'7').contains(byte));
    digits.fold(0, |sum, digit| sum * 8 + u64::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(size: &[u8; 12], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![b'x'; BLOCK];
        bytes[124..136].copy_from_slice(size);
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    #[test]
    fn an_archive_is_whole_only_with_its_end_wherever_it_was_cut() {
        let mut archive = member(b"00000001130\0", &[0; 600]);
        archive.extend(member(b"\x80\0\0\0\0\0\0\0\0\0\0\x05", b"12345"));
        let end = archive.len();
        archive.extend([0; 2 * BLOCK]);
        for length in 0..=archive.len() {
            let is_whole = is_whole(&archive[..length]).expect("reads");
            assert_eq!(is_whole, length >= end + BLOCK, "cut at {length} of {}", archive.len());
        }
    }
}
