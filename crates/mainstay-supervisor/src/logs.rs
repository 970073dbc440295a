//! Log files that a child appends to and never reopens: following, tail, rotation, bound.
//!
//! Offsets are logical and only ever grow. What is old is punched out of the file, which leaves a hole that
//! takes no room; readers skip it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mainstay_types::Bytes;
use rustix::fs::FallocateFlags;

/// How much of a log is kept when nobody says otherwise.
pub const BOUND: Bytes = Bytes::mebi(64);
/// Holes begin and end at multiples of this, the largest common block size.
const BLOCK: u64 = 4096;
/// Bytes that one call of [`follow`] reads at most.
pub const CHUNK: usize = 256 * 1024;

/// What [`follow`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Where `bytes` begin: after the offset asked for when that was in a hole.
    pub start: u64,
    /// The bytes; empty at the end of the file.
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// Offset to ask for next.
    pub fn next(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// The next offset from `offset` on that holds data; the file's length when none does.
fn skip_hole(file: &File, offset: u64) -> io::Result<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(offset)) {
        Ok(data) => Ok(data),
        Err(rustix::io::Errno::NXIO) => Ok(file.metadata()?.len()),
        // File systems that know no holes show zeros there.
        Err(rustix::io::Errno::INVAL) => Ok(offset),
        Err(error) => Err(error.into()),
    }
}

/// Reads up to [`CHUNK`] bytes from `offset` on, skipping what was punched out.
///
/// **Errors**: the file system's. An offset past the end (the file was replaced) begins again at 0.
pub fn follow(path: &Path, offset: u64) -> io::Result<Chunk> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut start = skip_hole(&file, if offset > length { 0 } else { offset })?;
    let mut bytes = vec![0; CHUNK];
    let read = file.read_at(&mut bytes, start)?;
    bytes.truncate(read);
    if start > offset {
        // A hole ends at a block, in the middle of a line.
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.drain(..zeros);
        start += zeros as u64;
    }
    Ok(Chunk { start, bytes })
}

/// The last `lines` lines, and the offset after them to follow from. Looks back [`CHUNK`] bytes at most.
///
/// **Errors**: the file system's.
pub fn read_tail(path: &Path, lines: usize) -> io::Result<(Vec<String>, u64)> {
    read_tail_since(path, 0, lines)
}

/// The same of what was written from this offset on.
///
/// **Errors**: the file system's.
pub fn read_tail_since(path: &Path, begin: u64, lines: usize) -> io::Result<(Vec<String>, u64)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let start = skip_hole(&file, length.saturating_sub(CHUNK as u64).max(begin))?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(CHUNK as u64).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.trim_matches('\0').lines().collect();
    let tail = all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect();
    Ok((tail, start + bytes.len() as u64))
}

/// Punches `[0, end)` out, rounded down to whole blocks.
fn punch(file: &File, end: u64) -> io::Result<()> {
    let end = end / BLOCK * BLOCK;
    if end > 0 {
        rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, end)?;
    }
    Ok(())
}

/// Bounds a log that grew over twice `bound`: its oldest part is punched out so that `bound` remains.
/// Answers whether anything was.
///
/// **Errors**: the file system's, among them one that has no holes.
pub fn enforce(path: &Path, bound: Bytes) -> io::Result<bool> {
    let metadata = std::fs::metadata(path)?;
    // Allocated blocks, not length: what was punched counts nothing. **Source**: stat(2), units of 512 bytes.
    if metadata.blocks() * 512 <= bound.0.saturating_mul(2) {
        return Ok(false);
    }
    punch(&OpenOptions::new().write(true).open(path)?, metadata.len().saturating_sub(bound.0))?;
    Ok(true)
}

/// Copies all but the newest `keep` bytes to `PATH.1` (replacing it), then punches that part out. Answers
/// the rotated file, or `None` when there was nothing to rotate.
///
/// **Errors**: the file system's; the log is whole then.
pub fn rotate(path: &Path, keep: Bytes) -> io::Result<Option<PathBuf>> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let end = file.metadata()?.len().saturating_sub(keep.0) / BLOCK * BLOCK;
    let start = skip_hole(&file, 0)?;
    if start >= end {
        return Ok(None);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    let rotated = PathBuf::from(name);
    let mut aside = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&rotated)?;
    file.seek(SeekFrom::Start(start))?;
    io::copy(&mut Read::by_ref(&mut file).take(end - start), &mut aside)?;
    aside.flush()?;
    aside.sync_all()?;
    punch(&file, end)?;
    Ok(Some(rotated))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: usize) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log");
        let text: String = (0..lines).map(|n| format!("line {n:08}\n")).collect();
        std::fs::write(&path, text).expect("writes");
        (folder, path)
    }

    #[test]
    fn following_goes_on_where_it_was_and_skips_what_was_punched() {
        let (_folder, path) = log(10_000);
        let first = follow(&path, 0).expect("reads");
        assert!(first.bytes.starts_with(b"line 00000000\n"));
        assert!(follow(&path, first.next()).expect("reads").bytes.is_empty());
        assert!(enforce(&path, Bytes(40_000)).expect("punches"));
        let rest = follow(&path, 0).expect("reads");
        assert!(rest.start >= 140_000 - 40_000 - BLOCK && rest.bytes.ends_with(b"line 00009999\n"));
        assert_eq!(rest.next(), first.next());
        assert_eq!(std::fs::metadata(&path).expect("stat").len(), 140_000);
        assert!(!enforce(&path, Bytes(40_000)).expect("is bounded"));
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let (_folder, path) = log(50_000);
        let (lines, next) = read_tail(&path, 2).expect("reads");
        assert_eq!(lines, ["line 00049998", "line 00049999"]);
        assert_eq!(next, 700_000);
        // Of what was written later nothing earlier is shown, however few lines it has.
        let (lines, _) = read_tail_since(&path, 700_000 - 14, 10).expect("reads");
        assert_eq!(lines, ["line 00049999"]);
    }

    #[test]
    fn rotation_loses_no_byte() {
        let (_folder, path) = log(10_000);
        let whole = std::fs::read(&path).expect("reads");
        let rotated = rotate(&path, Bytes(8_192)).expect("rotates").expect("has something to");
        let mut joined = std::fs::read(&rotated).expect("reads");
        joined.extend(follow(&path, 0).expect("reads").bytes);
        assert_eq!(joined, whole);
        assert_eq!(rotate(&path, Bytes(8_192)).expect("rotates"), None);
    }
}
