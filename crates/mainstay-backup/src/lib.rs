//! Arrow from the database to the repository (L3): base backups and the WAL archive, encrypted at rest.
//!
//! A place holds two things. `restic/` is a repository of base backups in restic's format, written by `rustic_core`,
//! all of whose interface is used in [`repository`] and nowhere else. `wal/` holds the archived WAL, one file for
//! each segment, compressed by zstd and sealed by age. Both can be read with the distribution's `restic`, `age` and
//! `zstd` and the password on the recovery card. This crate knows no server: it never connects to one, starts none,
//! and deletes nothing that it was not told to.
#![warn(missing_docs)]

pub mod base;
pub mod copy;
pub mod holder;
pub mod keys;
pub mod label;
pub mod objects;
pub mod page;
pub mod place;
pub mod proof;
pub mod repository;
pub mod wal;

use sha2::Digest as _;

pub use holder::Holder;
pub use label::Label;
pub use place::Place;
pub use repository::{Repository, RepositoryError};

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a content in parts.
fn hash_of(parts: &[bytes::Bytes]) -> String {
    let mut hash = sha2::Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hex(&hash.finalize())
}
