//! `restore_command`: a file of WAL comes out of the archive.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use mainstay_types::Secret;
use sha2::{Digest, Sha256};

use super::{Name, find, folder_of, hex};
use crate::keys;

/// Why a file did not come out.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// It is not there: for a server that replays, the end of the archive.
    #[error("{0} is not in the archive")]
    Missing(String),
    /// It is there and cannot be trusted. To a server that replays this must not look like the end.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The archived file.
        path: PathBuf,
        /// What was seen.
        why: String,
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

/// Writes the file `name` of a cluster to `into`.
///
/// **Errors**: see [`GetError`]. `into` is then not there.
pub fn get(archive: &Path, key: &Secret, system: u64, name: &str, into: &Path) -> Result<(), GetError> {
    let content = content(archive, key, system, name)?;
    let write = || {
        let mut file = File::create(into)?;
        file.write_all(&content)?;
        file.sync_all()
    };
    write().map_err(|source| {
        fs::remove_file(into).ok();
        GetError::Io { action: "write", path: into.to_owned(), source }
    })
}

/// An archived file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where it is; of one that is in a store a link lies there, see [`super::spool`].
    pub path: PathBuf,
    /// The hash of what it holds.
    pub hash: String,
}

/// Where a file of a cluster is; `None`: nowhere.
///
/// **Errors**: there is more than one of its name, or see [`GetError`].
pub fn locate(archive: &Path, system: u64, name: &str) -> Result<Option<Located>, GetError> {
    let Some(name) = Name::parse(name) else { return Ok(None) };
    let cluster = folder_of(archive, system);
    let mut found =
        find(&cluster, &name).map_err(|source| GetError::Io { action: "list", path: cluster.clone(), source })?;
    let count = found.len();
    match (found.pop(), count) {
        (None, _) => Ok(None),
        (Some((path, hash)), 1) => Ok(Some(Located { path, hash })),
        (Some((path, _)), _) => Err(GetError::Damaged { path, why: format!("there are {count} of its name") }),
    }
}

/// What a file of a cluster holds.
///
/// **Errors**: see [`GetError`].
pub fn content(archive: &Path, key: &Secret, system: u64, name: &str) -> Result<Vec<u8>, GetError> {
    let located = locate(archive, system, name)?.ok_or_else(|| GetError::Missing(name.to_owned()))?;
    let Located { path, hash } = &located;
    let damaged = |why: String| GetError::Damaged { path: path.clone(), why };
    let file = File::open(path).map_err(|error| damaged(error.to_string()))?;
    sealed_content(key, hash, io::BufReader::new(file)).map_err(damaged)
}

/// What an archived file holds, wherever it comes from: compared with the hash that its name bears.
///
/// **Errors**: why it cannot be trusted.
pub fn sealed_content(key: &Secret, hash: &str, sealed: impl io::BufRead) -> Result<Vec<u8>, String> {
    let content = read(key, sealed)?;
    let real = hex(&Sha256::digest(&content));
    if real == hash { Ok(content) } else { Err(format!("its content has the hash {real}")) }
}

/// Largest segment of WAL there can be.
const LARGEST: u64 = 1 << 30;

fn read(key: &Secret, sealed: impl io::BufRead) -> Result<Vec<u8>, String> {
    let sealed = keys::open(key, sealed).map_err(|error| error.to_string())?;
    let mut content = Vec::new();
    let mut plain = zstd::Decoder::new(sealed).map_err(|error| error.to_string())?.take(LARGEST + 1);
    plain.read_to_end(&mut content).map_err(|error| error.to_string())?;
    if content.len() as u64 > LARGEST {
        return Err("it is longer than a segment can be".to_owned());
    }
    Ok(content)
}
