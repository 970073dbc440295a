//! `archive_command`: a finished file of WAL goes into the archive.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::{Name, SUFFIX, find, folder_of, hex, spool};
use crate::keys;

/// WAL compresses well at the fastest level, and an idle segment is mostly zeros.
const LEVEL: i32 = 1;
/// First half of every version's page magic (`XLOG_PAGE_MAGIC`, 0xD1xx since PostgreSQL 9.4).
const MAGIC: u8 = 0xD1;
/// The first page of a segment has the long header.
const LONG_HEADER: u16 = 0x0002;

/// Why a file is not in the archive. PostgreSQL keeps it and asks again.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// It is none of WAL's.
    #[error("{0} is no file of WAL")]
    Name(String),
    /// What it says of itself is not what it should be.
    #[error("{name} is not what its name says: {why}")]
    Content {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The archive has another file of this name.
    #[error(
        "{name} is in the archive already with another content ({there}): two clusters write to one archive, or one of them was changed"
    )]
    Different {
        /// Which.
        name: String,
        /// The file that is there.
        there: PathBuf,
    },
    /// It is on disk here, and the store does not have it yet.
    #[error("{name} waits in the spool for the store, {why}: it counts as archived when the store has it")]
    Waits {
        /// Which.
        name: String,
        /// What ended the wait.
        why: &'static str,
    },
    /// The file system said no.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is there now. **Unit**: bytes, as they lie on disk.
    Stored(u64),
    /// The same was there already.
    AlreadyThere,
}

/// When a file counts as archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// It is on disk.
    OnDisk,
    /// The store of the place has it, see [`super::spool`].
    InStore,
}

/// So long the store is waited for. **Basis**: 16 MiB of WAL that do not compress take 13 s at 10 Mbit/s; a line that is
/// slower goes on by itself, and PostgreSQL asks again.
const STORE_WITHIN: Duration = Duration::from_secs(30);
/// The same while the server ends: its end waits for the archiver, and it sends the file after its next start too.
const STORE_WITHIN_AT_END: Duration = Duration::from_secs(2);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PushError {
    let path = path.to_owned();
    move |source| PushError::Io { action, path, source }
}

/// Puts `file` of the cluster in `data` into the archive, sealed to `recipient`. When it returns well, the file is
/// where it is to stay.
///
/// **Errors**: see [`PushError`].
pub fn push(archive: &Path, recipient: &str, (data, file): (&Path, &Path), until: Until) -> Result<Pushed, PushError> {
    let text = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = Name::parse(&text).ok_or_else(|| PushError::Name(file.display().to_string()))?;
    let path = data.join(file);
    let content = fs::read(&path).map_err(at("read", &path))?;
    let system = system_identifier(data).map_err(at("read pg_control in", data))?;
    check(&name, &content, system).map_err(|why| PushError::Content { name: text.clone(), why })?;
    let hash = hex(&Sha256::digest(&content));

    let cluster = folder_of(archive, system);
    let folder = cluster.join(name.folder());
    fs::create_dir_all(&folder).map_err(at("make the folder", &folder))?;
    // A standby sends what its primary sent: one after the other, so that the second sees the first.
    let lock = cluster.join("lock");
    let alone = File::options().create(true).truncate(false).write(true).open(&lock).map_err(at("open", &lock))?;
    flock(&alone, FlockOperation::LockExclusive).map_err(|error| at("lock", &lock)(error.into()))?;
    let there = find(&cluster, &name).map_err(at("list", &folder))?;
    if let Some((other, _)) = there.iter().find(|(_, other)| *other != hash) {
        return Err(PushError::Different { name: text, there: other.clone() });
    }
    if let Some((same, _)) = there.first() {
        // It may have been put there by one that died before it synced the folder.
        sync_folders(&folder, archive).map_err(at("sync", same))?;
        return Ok(Pushed::AlreadyThere);
    }
    let path = folder.join(format!("{name}-{hash}{SUFFIX}"));
    if until == Until::OnDisk {
        let stored = write(&folder, &path, &content, recipient).map_err(at("write", &path))?;
        sync_folders(&folder, archive).map_err(at("sync", &folder))?;
        return Ok(Pushed::Stored(stored));
    }
    let folder = spool::folder_of(&cluster);
    fs::create_dir_all(&folder).map_err(at("make the folder", &folder))?;
    if let Some(there) = spool::other(&cluster, &name, &hash).map_err(at("list", &folder))? {
        return Err(PushError::Different { name: text, there });
    }
    let spooled = spool::path_of(&cluster, &name, &hash);
    let stored = match fs::metadata(&spooled) {
        // By an attempt that did not wait for its end, or by another member.
        Ok(there) => there.len(),
        Err(_) => write(&folder, &spooled, &content, recipient).map_err(at("write", &spooled))?,
    };
    sync_folders(&folder, archive).map_err(at("sync", &folder))?;
    // Another member may send the same meanwhile.
    drop(alone);
    wait_for_store(data, &path).map_err(|why| PushError::Waits { name: text, why })?;
    Ok(Pushed::Stored(stored))
}

/// The link in its place says that the store has it.
fn wait_for_store(data: &Path, path: &Path) -> Result<(), &'static str> {
    let begun = Instant::now();
    loop {
        if fs::symlink_metadata(path).is_ok() {
            return Ok(());
        }
        if begun.elapsed() > STORE_WITHIN {
            return Err("which did not take it within 30 s");
        }
        if begun.elapsed() > STORE_WITHIN_AT_END && is_ending(data) {
            return Err("and the server ends");
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether the server in `data` ends: the eighth line of its `postmaster.pid`.
///
/// **Source**: `src/include/utils/pidfile.h`.
fn is_ending(data: &Path) -> bool {
    let text = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    text.lines().nth(7).is_some_and(|status| status.trim() == "stopping")
}

fn write(folder: &Path, path: &Path, content: &[u8], recipient: &str) -> io::Result<u64> {
    // Under the lock there is one writer: what lies there is of one that was killed.
    let unfinished = folder.join(".unfinished");
    let file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
    let sealed = keys::seal(recipient, io::BufWriter::with_capacity(1 << 18, file))?;
    let mut compressed = zstd::Encoder::new(sealed, LEVEL)?;
    compressed.include_checksum(true)?;
    compressed.write_all(content)?;
    let file = compressed.finish()?.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(file.metadata()?.len())
}

/// From the folder of the file up to the archive's: each may be new.
fn sync_folders(folder: &Path, archive: &Path) -> io::Result<()> {
    let up = folder.ancestors().take_while(|ancestor| ancestor.starts_with(archive));
    up.into_iter().try_for_each(|folder| File::open(folder)?.sync_all())
}

/// Identity of the cluster in `data`: the first field of `pg_control`.
fn system_identifier(data: &Path) -> io::Result<u64> {
    let bytes = fs::read(data.join("global/pg_control"))?;
    let first = bytes.first_chunk().ok_or_else(|| io::Error::other("it is too short"))?;
    Ok(u64::from_le_bytes(*first))
}

fn check(name: &Name, content: &[u8], system: u64) -> Result<(), String> {
    let segment = match name {
        Name::History(_) | Name::Backup(..) if content.is_empty() => return Err("it is empty".to_owned()),
        Name::History(_) | Name::Backup(..) => return Ok(()),
        Name::Segment(segment) | Name::Partial(segment) => segment,
    };
    let header: &[u8; 40] = content.first_chunk().ok_or("it is shorter than a header")?;
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let long = |at: usize| u64::from(word(at + 4)) << 32 | u64::from(word(at));
    if header[1] != MAGIC || half(2) & LONG_HEADER == 0 {
        return Err("its first page has no header of WAL".to_owned());
    }
    // The first segment of a timeline begins with pages of the one it branched from.
    if word(4) > segment.timeline {
        return Err(format!("its pages are of timeline {}", word(4)));
    }
    if long(24) != system {
        return Err(format!("it is of the cluster {}, this is {system}", long(24)));
    }
    let size = u64::from(word(32));
    if content.len() as u64 != size {
        return Err(format!("it has {} bytes, segments have {size}", content.len()));
    }
    if long(8) != segment.start(size) {
        return Err(format!("its first page is of position {:X}/{:X}", long(8) >> 32, long(8) & 0xFFFF_FFFF));
    }
    Ok(())
}
