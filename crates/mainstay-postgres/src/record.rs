//! The record of who is primary: one file with two slots, written in turn.
//!
//! A slot is written in place and synced, so a change needs no free space on file systems that overwrite
//! (ext4, xfs), and a write torn by a crash leaves the other slot, which holds the record before it. It must
//! never go back to a lower epoch. After a crash it decides, never a probe.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mainstay_decide::observed::Record;
use mainstay_supervisor::durable;
use sha2::{Digest, Sha256};

/// Size of a slot: a page, so that most torn writes do not even touch its end.
pub const SLOT_SIZE: usize = 4096;

const MAGIC: &[u8; 8] = b"MSREC\0\0\x01";
const HEAD: usize = 8 + 8 + 4;
const DIGEST: usize = 32;
/// Most bytes of a record's JSON.
pub const RECORD_MAX: usize = SLOT_SIZE - HEAD - DIGEST;

/// Why the record cannot be read or written. What was on disk is untouched unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system said no.
    #[error("cannot {action} the record {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Neither slot is whole.
    #[error(
        "the record {path} is damaged in both slots: mainstay does not guess who was primary; \
         see which data directory was written last and restore the file from a copy",
        path = .0.display()
    )]
    Damaged(PathBuf),
    /// Whole, and of a form we do not know.
    #[error("the record {path} was written by another version: {source}", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What is not understood.
        source: serde_json::Error,
    },
    /// A later record is on disk.
    #[error("epoch {asked} is older than epoch {on_disk} on disk: another change of primary came first")]
    Older {
        /// On disk.
        on_disk: u64,
        /// Asked for.
        asked: u64,
    },
    /// It does not fit its slot.
    #[error("a record of {0} bytes does not fit, at most {RECORD_MAX} do")]
    TooLong(usize),
}

/// The record file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFile {
    path: PathBuf,
}

#[derive(Debug)]
struct Slot {
    index: usize,
    sequence: u64,
    json: Vec<u8>,
}

/// What a slot's bytes are.
#[derive(Debug)]
enum Reading {
    Empty,
    Damaged,
    Whole(Slot),
}

impl RecordFile {
    /// At this path; nothing is read or made.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The newest whole record; `None` when none was ever written.
    ///
    /// **Errors**: the file system's, both slots damaged, or a form we do not know.
    pub fn read(&self) -> Result<Option<Record>, RecordError> {
        let Some((newest, _)) = self.slots()? else { return Ok(None) };
        newest.map(|slot| self.parse(&slot)).transpose()
    }

    /// Writes a record over the older slot and syncs it. The caller sees to it that only one process writes.
    ///
    /// **Errors**: its epoch is lower than the one on disk, or the file system's; then the record before it holds.
    pub fn write(&self, record: &Record) -> Result<(), RecordError> {
        let json = serde_json::to_vec(record).map_err(|source| self.version(source))?;
        if json.len() > RECORD_MAX {
            return Err(RecordError::TooLong(json.len()));
        }
        let (newest, is_fresh) = match self.slots()? {
            Some(found) => found,
            None => {
                self.make()?;
                (None, true)
            }
        };
        if let Some(slot) = &newest {
            let on_disk = self.parse(slot)?.epoch;
            if record.epoch < on_disk {
                return Err(RecordError::Older { on_disk, asked: record.epoch });
            }
        }
        let sequence = newest.as_ref().map_or(0, |slot| slot.sequence);
        let index = newest.as_ref().map_or(0, |slot| 1 - slot.index);
        let file = OpenOptions::new().write(true).open(&self.path).map_err(|e| self.failed("open", e))?;
        self.write_slot(&file, index, &encode(sequence + 1, &json))?;
        if is_fresh {
            // Both slots from the beginning: a slot that rots later must not look like «never written».
            self.write_slot(&file, 1 - index, &encode(sequence + 2, &json))?;
        }
        // What was written is what is read: a disk that lies is found now, not in the next failover.
        match self.read()? {
            Some(read) if read == *record => Ok(()),
            Some(_) | None => Err(RecordError::Damaged(self.path.clone())),
        }
    }

    /// The newest whole slot and whether the other was never written; `None`: no file, or nothing in it.
    fn slots(&self) -> Result<Option<(Option<Slot>, bool)>, RecordError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("open", error)),
        };
        let mut readings = [Reading::Damaged, Reading::Damaged];
        for (index, reading) in readings.iter_mut().enumerate() {
            let mut bytes = vec![0; SLOT_SIZE];
            match file.read_exact_at(&mut bytes, offset(index)) {
                Ok(()) => *reading = decode(index, &bytes),
                // A file cut short holds nothing whole here.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(self.failed("read", error)),
            }
        }
        pick(readings).map(Some).ok_or_else(|| RecordError::Damaged(self.path.clone()))
    }

    fn make(&self) -> Result<(), RecordError> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| self.failed("make the folder of", e))?;
        }
        durable::replace(&self.path, &[0; 2 * SLOT_SIZE], 0o600).map_err(|e| self.failed("make", e))
    }

    fn write_slot(&self, file: &File, index: usize, bytes: &[u8; SLOT_SIZE]) -> Result<(), RecordError> {
        file.write_all_at(bytes, offset(index)).map_err(|e| self.failed("write", e))?;
        file.sync_data().map_err(|e| self.failed("sync", e))
    }

    fn parse(&self, slot: &Slot) -> Result<Record, RecordError> {
        serde_json::from_slice(&slot.json).map_err(|source| self.version(source))
    }

    fn version(&self, source: serde_json::Error) -> RecordError {
        RecordError::Version { path: self.path.clone(), source }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> RecordError {
        RecordError::File { action, path: self.path.clone(), source }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The newest whole slot, and whether one was never written; `None` when both are damaged. One damaged and one
/// empty is the very first write, torn: there was nothing before it.
fn pick(readings: [Reading; 2]) -> Option<(Option<Slot>, bool)> {
    let mut newest: Option<Slot> = None;
    let (mut has_empty, mut damaged) = (false, 0);
    for reading in readings {
        match reading {
            Reading::Empty => has_empty = true,
            Reading::Damaged => damaged += 1,
            Reading::Whole(slot) => {
                if newest.as_ref().is_none_or(|other| other.sequence < slot.sequence) {
                    newest = Some(slot);
                }
            }
        }
    }
    (damaged < 2).then_some((newest, has_empty))
}

fn offset(index: usize) -> u64 {
    if index == 0 { 0 } else { SLOT_SIZE as u64 }
}

/// Magic, sequence number, length, JSON, zeros, and at the very end the digest of all before it.
fn encode(sequence: u64, json: &[u8]) -> [u8; SLOT_SIZE] {
    assert!(json.len() <= RECORD_MAX, "the caller checked the length");
    let mut bytes = [0; SLOT_SIZE];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
    let length = u32::try_from(json.len()).unwrap_or(0);
    bytes[16..HEAD].copy_from_slice(&length.to_le_bytes());
    bytes[HEAD..HEAD + json.len()].copy_from_slice(json);
    let digest = Sha256::digest(&bytes[..SLOT_SIZE - DIGEST]);
    bytes[SLOT_SIZE - DIGEST..].copy_from_slice(&digest);
    bytes
}

fn decode(index: usize, bytes: &[u8]) -> Reading {
    if bytes.iter().all(|byte| *byte == 0) {
        return Reading::Empty;
    }
    let (body, digest) = bytes.split_at(SLOT_SIZE - DIGEST);
    if Sha256::digest(body).as_slice() != digest || &body[..8] != MAGIC {
        return Reading::Damaged;
    }
    let sequence = u64::from_le_bytes(body[8..16].try_into().unwrap_or_default());
    let length = u32::from_le_bytes(body[16..HEAD].try_into().unwrap_or_default()) as usize;
    match body.get(HEAD..HEAD + length) {
        Some(json) => Reading::Whole(Slot { index, sequence, json: json.to_vec() }),
        None => Reading::Damaged,
    }
}

#[cfg(test)]
mod tests;
