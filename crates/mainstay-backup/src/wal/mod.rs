//! The WAL archive: a file for each segment, in a folder for each cluster.
//!
//! `push` is called by PostgreSQL for each finished segment, `get` by a server that replays. Both run in processes of
//! their own, as the server's user, with nothing else of mainstay alive. A file is in its place only when it is whole
//! and synced, and bears the SHA-256 of its content in its name: the same segment sent again is recognised, another
//! content under the same name is refused. `push` needs no secret: it seals to a key that opens nothing.

mod get;
mod list;
mod name;
mod push;
mod remove;
pub mod spool;
pub mod supply;

pub use get::{GetError, Located, content, get, locate, sealed_content};
pub use list::{Archive, Run, files, list, names};
pub use name::{Name, Segment};
pub use push::{PushError, Pushed, Until, push};
pub use remove::{Removed, remove};

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::hex;

/// Ending of archived files: compressed, then sealed.
const SUFFIX: &str = ".zst.age";

/// Folder of a cluster in the archive.
pub fn folder_of(archive: &Path, system: u64) -> PathBuf {
    archive.join(system.to_string())
}

/// Archived files of a name: path and hash. More than one is possible only by other hands than ours.
fn find(cluster: &Path, name: &Name) -> io::Result<Vec<(PathBuf, String)>> {
    let folder = cluster.join(name.folder());
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name();
        let Some((of, hash)) = parse(&file.to_string_lossy()) else { continue };
        if of == *name {
            found.push((entry.path(), hash));
        }
    }
    Ok(found)
}

/// `NAME-HASH.zst.age`.
fn parse(file: &str) -> Option<(Name, String)> {
    let (name, hash) = file.strip_suffix(SUFFIX)?.rsplit_once('-')?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then_some(())?;
    Some((Name::parse(name)?, hash.to_owned()))
}

/// Whether an archived file lies in such a folder of a cluster's.
pub(crate) fn is_place_of(folder: &str, file: &str) -> bool {
    parse(file).is_some_and(|(name, _)| name.folder() == folder)
}

#[cfg(test)]
mod tests;
