//! WAL whose archive is an object store: a finished file waits in a spool until the store has it, and counts as archived
//! from then on.
//!
//! In the place of a file that went a link stays that leads nowhere. It bears its size and the time of its archiving, so
//! that a look through the archive asks nobody; who opens it finds nothing, and never a file of the wrong content.
//! Histories of timelines are small, without them nothing can be planned, and they stay whole.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use mainstay_types::Timestamp;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::{Name, SUFFIX, parse};

/// Folder of what waits, beside those of the archive.
const SPOOL: &str = "spool";
/// Ending of files in it, after their name in the archive: whoever looks through the archive passes them by.
const SPOOLED: &str = ".spooled";
/// How a link says that its file is elsewhere.
const ELSEWHERE: &str = "in-the-store?bytes=";
/// Under this name a link is made that is not in its place yet.
const UNFINISHED: &str = ".unfinished-link";

/// A file of the archive, here or in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// As it is in the archive. **Unit**: bytes.
    pub bytes: u64,
    /// When it was archived.
    pub at: Timestamp,
    /// It is here.
    pub is_here: bool,
}

/// Looks at a file of the archive, which may be a link in its place.
///
/// **Errors**: the file system's, or a link that is none of ours.
pub fn look(path: &Path, metadata: &Metadata) -> io::Result<Look> {
    let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    if !metadata.is_symlink() {
        return Ok(Look { bytes: metadata.len(), at, is_here: true });
    }
    let target = fs::read_link(path)?;
    let bytes = target.to_str().and_then(|text| text.strip_prefix(ELSEWHERE)?.parse().ok());
    let bytes = bytes.ok_or_else(|| io::Error::other(format!("{} is no link of ours", path.display())))?;
    Ok(Look { bytes, at, is_here: false })
}

/// A file that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spooled {
    /// Where it is.
    pub path: PathBuf,
    /// What it is called below the place: `wal/…`.
    pub name: String,
    /// When it came.
    pub at: Timestamp,
    /// **Unit**: bytes.
    pub bytes: u64,
}

/// What waits, the oldest first. `archive` is the folder `wal` of a place.
///
/// **Errors**: the file system's.
pub fn spooled(archive: &Path) -> io::Result<Vec<Spooled>> {
    let mut found = Vec::new();
    for system in below(archive)? {
        for path in below(&system.join(SPOOL))? {
            let Some((name, file)) = name_of(&path) else { continue };
            let metadata = match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let system = system.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("wal/{system}/{}/{file}", name.folder());
            let Look { bytes, at, .. } = look(&path, &metadata)?;
            found.push(Spooled { path, name, at, bytes });
        }
    }
    found.sort_by(|a, b| (a.at, &a.name).cmp(&(b.at, &b.name)));
    Ok(found)
}

fn below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// The store has it: from now on it is archived.
///
/// **Errors**: the file system's. Asked again, it is done again.
pub fn arrived(spooled: &Spooled) -> io::Result<()> {
    let (spool, cluster) = (spooled.path.parent(), spooled.path.parent().and_then(Path::parent));
    let (Some(spool), Some(cluster), Some((name, file))) = (spool, cluster, name_of(&spooled.path)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = cluster.join(name.folder());
    let file = folder.join(file);
    if is_history(&file) {
        fs::rename(&spooled.path, &file)?;
    } else {
        put_link(&file, spooled.bytes, spooled.at)?;
        fs::remove_file(&spooled.path)?;
    }
    File::open(&folder)?.sync_all()?;
    File::open(spool)?.sync_all()
}

/// Name of a file in the spool, and what it is called in the archive.
fn name_of(path: &Path) -> Option<(Name, String)> {
    let file = path.file_name()?.to_str()?.strip_suffix(SPOOLED)?;
    parse(file).map(|(name, _)| (name, file.to_owned()))
}

/// Whether it is a file that stays here whole.
pub fn is_history(path: &Path) -> bool {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    matches!(parse(&file), Some((Name::History(_), _)))
}

/// Says of a file that it is in the store.
///
/// **Errors**: the file system's.
pub fn put_link(file: &Path, bytes: u64, at: Timestamp) -> io::Result<()> {
    let folder = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(folder)?;
    // Who sends and who gathers may both make one.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let aside = folder.join(format!("{UNFINISHED}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(format!("{ELSEWHERE}{bytes}"), &aside)?;
    let moment =
        Timespec { tv_sec: at.as_millis().div_euclid(1000), tv_nsec: at.as_millis().rem_euclid(1000) * 1_000_000 };
    let times = Timestamps { last_access: moment, last_modification: moment };
    utimensat(CWD, &aside, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    fs::rename(&aside, file)
}

/// The spool of a cluster.
pub(super) fn folder_of(cluster: &Path) -> PathBuf {
    cluster.join(SPOOL)
}

/// Where a file lies in the spool.
pub(super) fn path_of(cluster: &Path, name: &Name, hash: &str) -> PathBuf {
    folder_of(cluster).join(format!("{name}-{hash}{SUFFIX}{SPOOLED}"))
}

/// Another content of the same name that waits in the spool.
pub(super) fn other(cluster: &Path, name: &Name, hash: &str) -> io::Result<Option<PathBuf>> {
    let wanted = format!("{name}-{hash}{SUFFIX}");
    let is_other = |path: &PathBuf| name_of(path).is_some_and(|(of, file)| of == *name && file != wanted);
    Ok(below(&folder_of(cluster))?.into_iter().find(is_other))
}
