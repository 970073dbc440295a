//! What the router remembers over a restart: the last policy and targets, in `router.json`.
//!
//! Holds passwords: mode 0600, never logged.

use std::io;
use std::path::{Path, PathBuf};

use mainstay_supervisor::durable;
use serde::{Deserialize, Serialize};

use crate::protocol::{PROTOCOL_VERSION, Policy, Targets};

/// The file's name in the state folder.
const NAME: &str = "router.json";

/// What is in the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Memory {
    version: u32,
    /// Salts come from it; see [`crate::shared::Shared`].
    pub(crate) secret: [u8; 32],
    pub(crate) policy: Option<Policy>,
    pub(crate) targets: Option<Targets>,
}

/// The file, and what it holds.
pub(crate) struct Store {
    path: PathBuf,
    pub(crate) memory: Memory,
}

impl Store {
    /// Reads the file, or starts with nothing known.
    ///
    /// **Errors**: a file that cannot be read, or is not one of ours: the epoch in it must not be forgotten.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let path = state.join(NAME);
        let memory = match std::fs::read(&path) {
            Ok(bytes) => {
                let memory: Memory = serde_json::from_slice(&bytes)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                if memory.version != PROTOCOL_VERSION {
                    let text = format!("{NAME} has version {}, this router reads {PROTOCOL_VERSION}", memory.version);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                memory
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut secret = [0; 32];
                crate::random::fill(&mut secret)?;
                Memory { version: PROTOCOL_VERSION, secret, policy: None, targets: None }
            }
            Err(error) => return Err(error),
        };
        Ok(Self { path, memory })
    }

    /// Makes what is in memory durable. Blocks for some milliseconds.
    pub(crate) fn save(&self) -> io::Result<()> {
        durable::replace(&self.path, &serde_json::to_vec(&self.memory)?, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_ours_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.save().unwrap();
        assert_eq!(Store::open(folder.path()).unwrap().memory.secret, store.memory.secret);
        std::fs::write(folder.path().join(NAME), b"{").unwrap();
        assert!(Store::open(folder.path()).is_err());
        assert_eq!(std::fs::read(folder.path().join(NAME)).unwrap(), b"{");
    }
}
