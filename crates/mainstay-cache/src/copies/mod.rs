//! Copies of what the store holds: taken from the running server, loaded by a second one, counted, kept, put back.
//!
//! A copy is one file in Redis' own format (RDB), which Redis writes from a fork and closes with a checksum, and a note
//! beside it: when, how many keys the store had in that very moment, the file's SHA-256, what loading it showed.
//! Nothing here decides when one is due or how long it is kept.

mod load;
mod restore;
mod take;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mainstay_types::{Bytes, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::layout::Settings;
use crate::resp::ResponseError;

pub use load::{end_proof, stop_proof};
pub use restore::{Applied, Laid, apply, forget_waiting, is_waiting};
pub(crate) use restore::{has_file, put_aside};
pub use take::Wanted;
pub(crate) use take::number;

/// Version of the notes.
const VERSION: u32 = 1;

/// Why copies cannot be taken, read or put back.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The file system said no.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process takes or loads one.
    #[error("another process works on the copies in {}", .0.display())]
    Busy(PathBuf),
    /// There is none of that name.
    #[error("there is no copy {0}")]
    NoCopy(String),
    /// Several begin like that.
    #[error("several copies begin with {0}: {1}")]
    Ambiguous(String, String),
    /// The server could not save.
    #[error("the store could not write a copy: {0}")]
    NotSaved(String),
    /// The file is not the one that was stored.
    #[error("the file of copy {id} is not what was stored: {bytes} bytes with another hash")]
    Damaged {
        /// Which.
        id: String,
        /// Its size.
        bytes: u64,
    },
    /// A second server cannot be run, so nothing can be said of the copy.
    #[error("the copy could not be loaded for a look: {0}")]
    NoLook(String),
    /// The disk would be full.
    #[error("it takes up to {wanted} in {folder}, where {free} are free; {spare} stay for who writes there", folder = .folder.display(), spare = SPARE)]
    NoSpace {
        /// Where.
        folder: PathBuf,
        /// What it may take.
        wanted: Bytes,
        /// What is free.
        free: Bytes,
    },
    /// Who answers at the store's socket is not the store.
    #[error("process {pid}, which the server says it is, does not work in {dir}", dir = .dir.display())]
    NotOurs {
        /// Which.
        pid: i32,
        /// Where the store works.
        dir: PathBuf,
    },
    /// The store's answer.
    #[error(transparent)]
    Response(#[from] ResponseError),
}

/// So much stays free of a disk for who writes there all the time, the store's own file first: a store that cannot write
/// it refuses writes.
const SPARE: Bytes = Bytes::mebi(64);

/// Whether so many bytes more leave the disk of a folder usable.
fn has_space(folder: &Path, wanted: u64) -> Result<(), CopyError> {
    let stat = rustix::fs::statvfs(folder).map_err(|error| at("look at the disk of", folder)(error.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= wanted.saturating_add(SPARE.0) {
        return Ok(());
    }
    Err(CopyError::NoSpace { folder: folder.to_owned(), wanted: Bytes(wanted), free: Bytes(free) })
}

/// Keys of one database, and how many of them have an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Keys.
    pub keys: u64,
    /// Those that expire.
    pub expires: u64,
}

/// Keys by database; one without any is not in it.
pub type Counts = BTreeMap<u32, Count>;

/// What INFO says of the keys.
pub fn counts(info: &str) -> Counts {
    // "db0:keys=2,expires=1,avg_ttl=0"
    let count = |line: &str| {
        let (name, value) = line.trim_end().split_once(':')?;
        let field = |name: &str| {
            let part = value.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            part.and_then(|number| number.parse().ok())
        };
        Some((name.strip_prefix("db")?.parse().ok()?, Count { keys: field("keys")?, expires: field("expires")? }))
    };
    info.lines().filter_map(count).collect()
}

/// Keys of all databases.
pub fn keys(counts: &Counts) -> u64 {
    counts.values().map(|count| count.keys).sum()
}

/// A copy, as its note has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// [`VERSION`].
    pub version: u32,
    /// Its name: the moment as text.
    pub id: String,
    /// All that was acknowledged before is in it. **Unit**: UTC.
    pub at: Timestamp,
    /// What it is for; `None`: it was due.
    pub name: Option<String>,
    /// Whether it was due, and nobody asked.
    pub is_scheduled: bool,
    /// Whether it holds what a restore replaced: mostly what was to be got rid of.
    #[serde(default)]
    pub is_replaced: bool,
    /// Size of the file. **Unit**: bytes.
    pub bytes: u64,
    /// SHA-256 of the file, in hex.
    pub sha256: String,
    /// What the store held just before.
    pub before: Counts,
    /// And just after: the server does nothing in between, so both are the same.
    pub after: Counts,
    /// Memory of the store's data. **Unit**: bytes.
    pub memory: u64,
    /// How long it took. **Unit**: milliseconds.
    pub took_ms: u64,
    /// What loading it showed; `None`: it was not loaded yet.
    pub proof: Option<Proof>,
    /// When it was found right first, whatever a later look found.
    #[serde(default)]
    pub right_since: Option<Timestamp>,
}

impl Copy {
    /// Whether a second server loaded it and held what the store had held.
    pub fn is_proven(&self) -> bool {
        self.proof.as_ref().is_some_and(|proof| proof.faults.is_empty())
    }
}

/// What a second server showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// When it was looked at.
    pub at: Timestamp,
    /// What the server held, keys whose time was over included.
    pub counts: Counts,
    /// How long loading took. **Unit**: milliseconds.
    pub took_ms: u64,
    /// What is wrong; empty: it is proven.
    pub faults: Vec<String>,
}

/// The copies of a store.
#[derive(Clone, Debug)]
pub struct Copies {
    /// Folder.
    folder: PathBuf,
    /// The store.
    settings: Settings,
    /// Its program.
    program: PathBuf,
    /// The time of day.
    now: fn() -> Timestamp,
}

/// Where copies lie in a state folder.
pub fn folder(state: &Path) -> PathBuf {
    state.join("store-copies")
}

/// The error of what was tried there.
pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let path = path.to_owned();
    move |source| CopyError::Io { action, path, source }
}

/// All whole copies, oldest first. A file without its note, or the other way round, is none.
///
/// **Errors**: the file system's; a note that cannot be read.
pub fn list(state: &Path) -> Result<Vec<Copy>, CopyError> {
    let folder = folder(state);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at("list", &folder))?,
    };
    let mut copies = Vec::new();
    for entry in entries {
        let path = entry.map_err(at("list", &folder))?.path();
        let is_note = path.extension().is_some_and(|extension| extension == "json");
        // A note that is being written has a dot before its name.
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_note || is_hidden || !path.with_extension("rdb").is_file() {
            continue;
        }
        let text = std::fs::read(&path).map_err(at("read", &path))?;
        let copy: Copy = serde_json::from_slice(&text).map_err(io::Error::from).map_err(at("understand", &path))?;
        copies.push(copy);
    }
    copies.sort_by(|one, other| (one.at, &one.id).cmp(&(other.at, &other.id)));
    Ok(copies)
}

/// The one that a person names: by its name, by how that begins, or `latest`, which is the newest that is proven and
/// does not hold what a restore replaced. Who restores `latest` twice would have back what the first time got rid of.
///
/// The second copy of one second is called like the first with a letter behind it, so a whole name goes before a
/// beginning.
///
/// **Errors**: there is none, or several.
pub fn find(list: &[Copy], name: &str) -> Result<Copy, CopyError> {
    if name == "latest" {
        let mut proven = list.iter().rev().filter(|copy| copy.is_proven());
        let newest = proven.clone().find(|copy| !copy.is_replaced);
        return newest.cloned().ok_or_else(|| match proven.next() {
            None => CopyError::NoCopy("that is proven".to_owned()),
            Some(held) => {
                let text = format!("that is proven, but what restores replaced, {} the newest: name it", held.id);
                CopyError::NoCopy(text)
            }
        });
    }
    if let Some(copy) = list.iter().find(|copy| copy.id == name) {
        return Ok(copy.clone());
    }
    let named: Vec<&Copy> = list.iter().filter(|copy| !name.is_empty() && copy.id.starts_with(name)).collect();
    match named.as_slice() {
        [] => Err(CopyError::NoCopy(name.to_owned())),
        [one] => Ok((*one).clone()),
        several => {
            let ids: Vec<&str> = several.iter().map(|copy| copy.id.as_str()).collect();
            Err(CopyError::Ambiguous(name.to_owned(), ids.join(", ")))
        }
    }
}

/// Nobody else takes, loads or removes copies while it lives.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "its lock goes with it")] File);

impl Copies {
    /// Of the store with these settings.
    pub fn new(settings: Settings, program: PathBuf, now: fn() -> Timestamp) -> Self {
        Self { folder: folder(&settings.state), settings, program, now }
    }

    /// Takes the place, and removes what a process that was killed left half done.
    ///
    /// **Errors**: another has it; the file system's.
    pub fn alone(&self) -> Result<Alone, CopyError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(at("make the folder", &self.folder))?;
        let path = self.folder.join(".lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(at("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CopyError::Busy(self.folder.clone())),
            Err(TryLockError::Error(error)) => return Err(at("lock", &path)(error)),
        }
        self.clean()?;
        Ok(Alone(file))
    }

    fn clean(&self) -> Result<(), CopyError> {
        let entries = std::fs::read_dir(&self.folder).map_err(at("list", &self.folder))?;
        for entry in entries {
            let path = entry.map_err(at("list", &self.folder))?.path();
            let has = |extension: &str| path.extension().is_some_and(|found| found == extension);
            let is_half = has("part") || has("new");
            let is_lone = has("json") && !path.with_extension("rdb").exists()
                || has("rdb") && !path.with_extension("json").exists();
            if is_half || is_lone {
                std::fs::remove_file(&path).map_err(at("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Removes copies. The note goes first: a file without one is no copy.
    ///
    /// **Errors**: the file system's.
    pub fn remove(&self, _alone: &Alone, ids: &[String]) -> Result<(), CopyError> {
        for path in ids.iter().flat_map(|id| [self.note(id), self.file(id)]) {
            std::fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        Ok(())
    }

    fn file(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.rdb"))
    }

    fn note(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    fn write_note(&self, copy: &Copy) -> Result<(), CopyError> {
        let path = self.note(&copy.id);
        let text = serde_json::to_vec_pretty(copy).map_err(io::Error::from);
        let written = text.and_then(|text| mainstay_supervisor::durable::replace(&path, &text, 0o600));
        written.map_err(at("write", &path))
    }
}

/// Reads to the end and hands on what it reads. Returns size and hash.
fn digest(from: &mut impl Read, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<(u64, String)> {
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; 256 * 1024]);
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let piece = buffer.get(..read).unwrap_or_default();
        hash.update(piece);
        bytes += piece.len() as u64;
        each(piece)?;
    }
    Ok((bytes, hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}
