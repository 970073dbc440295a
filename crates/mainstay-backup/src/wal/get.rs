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

/// Reads a file and compares it with its hash.
///
/// **Errors**: see [`GetError`].
pub fn verify(archive: &Path, key: &Secret, system: u64, name: &str) -> Result<(), GetError> {
    content(archive, key, system, name).map(drop)
}

/// What a file of a cluster holds.
///
/// **Errors**: see [`GetError`].
pub fn content(archive: &Path, key: &Secret, system: u64, name: &str) -> Result<Vec<u8>, GetError> {
    let missing = || GetError::Missing(name.to_owned());
    let name = Name::parse(name).ok_or_else(missing)?;
    let cluster = folder_of(archive, system);
    let found =
        find(&cluster, &name).map_err(|source| GetError::Io { action: "list", path: cluster.clone(), source })?;
    let (path, hash) = match found.as_slice() {
        [] => return Err(missing()),
        [one] => one,
        [first, ..] => {
            let why = format!("there are {} of its name", found.len());
            return Err(GetError::Damaged { path: first.0.clone(), why });
        }
    };
    let content = read(key, path).map_err(|why| GetError::Damaged { path: path.clone(), why })?;
    let real = hex(&Sha256::digest(&content));
    if real != *hash {
        return Err(GetError::Damaged { path: path.clone(), why: format!("its content has the hash {real}") });
    }
    Ok(content)
}

/// Largest segment of WAL there can be.
const LARGEST: u64 = 1 << 30;

fn read(key: &Secret, path: &Path) -> Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let sealed = keys::open(key, io::BufReader::new(file)).map_err(|error| error.to_string())?;
    let mut content = Vec::new();
    let mut plain = zstd::Decoder::new(sealed).map_err(|error| error.to_string())?.take(LARGEST + 1);
    plain.read_to_end(&mut content).map_err(|error| error.to_string())?;
    if content.len() as u64 > LARGEST {
        return Err("it is longer than a segment can be".to_owned());
    }
    Ok(content)
}
