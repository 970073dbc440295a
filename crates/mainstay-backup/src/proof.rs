//! What restores found: a record beside each backup, and what the source looked like when it was taken. Both are
//! sealed as archived WAL is: names of tables and counts are nobody's business.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use mainstay_supervisor::durable;
use mainstay_types::{Lsn, Secret, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::keys;

/// Version of [`Proof`] and [`Point`].
pub const PROOF_VERSION: u32 = 1;
/// Longest record that is read: some 100,000 tables.
const LONGEST: u64 = 64 << 20;

/// A table as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its database.
    pub database: String,
    /// Schema and name, quoted as SQL wants them.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// Sum of the hashes of all rows, in any order.
    pub hash: String,
}

/// A table's number in the catalog, by which the WAL calls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// Its database.
    pub database: String,
    /// Schema and name, quoted as SQL wants them.
    pub table: String,
    /// Number.
    pub number: u32,
}

/// The source at a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// [`PROOF_VERSION`].
    pub version: u32,
    /// Everything before this position is in it and nothing after.
    pub lsn: Lsn,
    /// When.
    pub at: Timestamp,
    /// Every table that was seen.
    pub tables: Vec<Table>,
    /// What was not looked at, and why.
    pub left_out: Vec<String>,
    /// Every table that was there, with its number: it is found again in the WAL by which it was dropped.
    #[serde(default)]
    pub relations: Vec<Relation>,
}

/// What a restore of a backup found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// [`PROOF_VERSION`].
    pub version: u32,
    /// The backup.
    pub backup: String,
    /// Version of mainstay.
    pub release: String,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Everything was as it should be.
    pub is_proven: bool,
    /// What was not, one line each.
    pub faults: Vec<String>,
    /// Position that was to be reached.
    pub wanted: Lsn,
    /// Position that was.
    pub reached: Option<Lsn>,
    /// When the last replayed transaction committed.
    pub last_commit: Option<Timestamp>,
    /// Bytes of the restored files. **Unit**: bytes.
    pub bytes: u64,
    /// What was done and how long each took. **Unit**: milliseconds.
    pub took_ms: BTreeMap<String, u64>,
    /// Tables that were compared with the source.
    pub tables: u64,
    /// Their rows.
    pub rows: u64,
    /// Statements of the stack file that were true.
    pub asserts: u64,
    /// What was not looked at, and why.
    pub left_out: Vec<String>,
}

/// Where a backup's proof lies.
fn proof_file(folder: &Path, backup: &str) -> PathBuf {
    folder.join(format!("{backup}.proof.age"))
}

/// Where the source's picture at a position lies.
fn point_file(folder: &Path, system: u64, lsn: Lsn) -> PathBuf {
    folder.join(format!("{system}-{:016X}.point.age", lsn.as_u64()))
}

fn write<T: Serialize>(path: &Path, recipient: &str, value: &T) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut sealed = Vec::new();
    let mut writer = keys::seal(recipient, &mut sealed)?;
    writer.write_all(&serde_json::to_vec(value)?)?;
    writer.finish()?;
    durable::replace(path, &sealed, 0o600)
}

fn read<T: DeserializeOwned>(path: &Path, key: &Secret) -> io::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    keys::open(key, bytes.as_slice()).map_err(io::Error::other)?.take(LONGEST).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map(Some).map_err(io::Error::other)
}

/// Keeps a proof; an earlier one of the backup is replaced.
///
/// **Errors**: the file system's.
pub fn write_proof(folder: &Path, recipient: &str, proof: &Proof) -> io::Result<()> {
    write(&proof_file(folder, &proof.backup), recipient, proof)
}

/// The last proof of a backup.
///
/// **Errors**: unreadable, or of another key.
pub fn read_proof(folder: &Path, key: &Secret, backup: &str) -> io::Result<Option<Proof>> {
    read(&proof_file(folder, backup), key)
}

/// Keeps the source's picture.
///
/// **Errors**: the file system's.
pub fn write_point(folder: &Path, recipient: &str, system: u64, point: &Point) -> io::Result<()> {
    write(&point_file(folder, system, point.lsn), recipient, point)
}

/// The source's picture at a position.
///
/// **Errors**: unreadable, or of another key.
pub fn read_point(folder: &Path, key: &Secret, system: u64, lsn: Lsn) -> io::Result<Option<Point>> {
    read(&point_file(folder, system, lsn), key)
}

/// Removes what belongs to no backup of these (identity, cluster, position) any more.
///
/// **Errors**: the file system's.
pub fn remove_others(folder: &Path, kept: &[(String, u64, Option<Lsn>)]) -> io::Result<()> {
    let mut names: Vec<PathBuf> = Vec::new();
    for (backup, system, point) in kept {
        names.push(proof_file(folder, backup));
        names.extend(point.map(|lsn| point_file(folder, *system, lsn)));
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let is_ours = path.to_string_lossy().ends_with(".age");
        if is_ours && !names.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_read_back_with_the_key_alone_and_goes_with_its_backup() {
        let folder = tempfile::tempdir().expect("folder");
        let (key, recipient) = keys::new_wal_key();
        let (other, _) = keys::new_wal_key();
        let table = Table { database: "shop".to_owned(), table: "public.t".to_owned(), rows: 3, hash: "9".to_owned() };
        let at = Timestamp::from_millis(1);
        let point = Point {
            version: PROOF_VERSION,
            lsn: Lsn::new(9),
            at,
            tables: vec![table],
            left_out: vec![],
            relations: vec![],
        };
        write_point(folder.path(), &recipient, 7, &point).expect("writes");
        assert_eq!(read_point(folder.path(), &key, 7, Lsn::new(9)).expect("reads"), Some(point));
        assert!(read_point(folder.path(), &other, 7, Lsn::new(9)).is_err());
        let kept = |point| [("b".to_owned(), 7, point)];
        remove_others(folder.path(), &kept(Some(Lsn::new(9)))).expect("looks");
        assert!(read_point(folder.path(), &key, 7, Lsn::new(9)).expect("reads").is_some());
        remove_others(folder.path(), &kept(None)).expect("removes");
        assert_eq!(read_point(folder.path(), &key, 7, Lsn::new(9)).expect("reads"), None);
    }
}
