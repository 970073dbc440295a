//! Ports: chosen once per stack and environment, then kept in `ports.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use mainstay_supervisor::durable;
use serde::{Deserialize, Serialize};

/// Every port of a stack by its use: `edge-https`, `router-write`, `instance:backend-1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// Version of the file.
    version: u32,
    /// Port by use.
    ports: BTreeMap<String, u16>,
    #[serde(skip)]
    file: PathBuf,
}

/// Why a port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else listens there.
    #[error("port {port} for {purpose} is in use{}", .holder.as_ref().map(|h| format!(" by {h}")).unwrap_or_default())]
    InUse {
        /// Its use.
        purpose: String,
        /// The port.
        port: u16,
        /// Who, if that can be seen.
        holder: Option<String>,
    },
    /// None is free in the range that was tried.
    #[error("no free port for {purpose} from {first} on ({tried} tried)")]
    NoneFree {
        /// Its use.
        purpose: String,
        /// First one tried.
        first: u16,
        /// How many.
        tried: u16,
    },
    /// The file could not be read or written.
    #[error("cannot keep ports in {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How a port is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The stack file names it: this one or none.
    Declared(u16),
    /// The documented default: this one, or the next free one at the first `up`.
    Default(u16),
    /// Any free one.
    Any,
}

/// How many neighbours of a default port are tried.
const NEIGHBOURS: u16 = 200;

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Who listens on a port: `name (pid N)` from /proc, when we may see it.
pub fn holder(port: u16) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let needle = format!(":{port:04X}");
    let inode = table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_listening = fields.get(3) == Some(&"0A");
        (is_listening && fields.get(1)?.ends_with(&needle)).then(|| fields.get(9).map(|text| (*text).to_owned()))?
    })?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = descriptors
            .flatten()
            .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()));
        if holds {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

impl Ports {
    /// Reads `ports.json` of a state folder; none yet is empty.
    ///
    /// **Errors**: the file is there and cannot be read or understood.
    pub fn load(state: &Path) -> Result<Self, Error> {
        let file = state.join("ports.json");
        let failed = |source| Error::File { path: file.clone(), source };
        match std::fs::read(&file) {
            Ok(bytes) => {
                let mut ports: Self = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
                ports.file = file;
                Ok(ports)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { version: 1, file, ..Self::default() }),
            Err(error) => Err(failed(error)),
        }
    }

    /// The port for a use, if it was chosen.
    pub fn get(&self, purpose: &str) -> Option<u16> {
        self.ports.get(purpose).copied()
    }

    /// All, by use.
    pub fn all(&self) -> &BTreeMap<String, u16> {
        &self.ports
    }

    /// The port for a use, chosen now if it was not before. `must_be_free`: nobody of ours listens yet.
    ///
    /// **Errors**: a declared or kept port is in use, or none is free.
    pub fn choose(&mut self, purpose: &str, wish: Wish, must_be_free: bool) -> Result<u16, Error> {
        let in_use = |port| Error::InUse { purpose: purpose.to_owned(), port, holder: holder(port) };
        let kept = self.ports.get(purpose).copied().filter(|port| match wish {
            Wish::Declared(declared) => *port == declared,
            Wish::Default(_) | Wish::Any => true,
        });
        if let Some(port) = kept {
            return if !must_be_free || is_free(port) { Ok(port) } else { Err(in_use(port)) };
        }
        let taken: BTreeSet<u16> = self.ports.values().copied().collect();
        let port = match wish {
            Wish::Declared(port) if is_free(port) => port,
            Wish::Declared(port) => return Err(in_use(port)),
            Wish::Default(first) => (first..first.saturating_add(NEIGHBOURS))
                .find(|port| !taken.contains(port) && is_free(*port))
                .ok_or_else(|| Error::NoneFree { purpose: purpose.to_owned(), first, tried: NEIGHBOURS })?,
            Wish::Any => (0..64)
                .find_map(|_| {
                    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
                    let port = listener.local_addr().ok()?.port();
                    (!taken.contains(&port)).then_some(port)
                })
                .ok_or_else(|| Error::NoneFree { purpose: purpose.to_owned(), first: 0, tried: 64 })?,
        };
        self.ports.insert(purpose.to_owned(), port);
        self.save()?;
        Ok(port)
    }

    /// Gives up a kept port, so that the next choice is free.
    ///
    /// **Errors**: the file cannot be written.
    pub fn forget(&mut self, purpose: &str) -> Result<(), Error> {
        if self.ports.remove(purpose).is_some() { self.save() } else { Ok(()) }
    }

    fn save(&self) -> Result<(), Error> {
        let failed = |source| Error::File { path: self.file.clone(), source };
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        durable::replace(&self.file, &bytes, 0o644).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_that_is_taken_moves_once_and_then_stays() {
        let folder = tempfile::tempdir().expect("folder");
        let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let taken = busy.local_addr().expect("address").port();
        let mut ports = Ports::load(folder.path()).expect("loads");
        let chosen = ports.choose("edge-https", Wish::Default(taken), true).expect("next free");
        assert_ne!(chosen, taken);
        drop(busy);
        let mut again = Ports::load(folder.path()).expect("loads");
        assert_eq!(again.choose("edge-https", Wish::Default(taken), true).expect("kept"), chosen);
    }

    #[test]
    fn a_declared_port_in_use_names_its_holder() {
        let folder = tempfile::tempdir().expect("folder");
        let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let taken = busy.local_addr().expect("address").port();
        let mut ports = Ports::load(folder.path()).expect("loads");
        let error = ports.choose("edge-https", Wish::Declared(taken), true).expect_err("in use");
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    }
}
