//! Ports: chosen once per stack and environment, then kept in `ports.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use mainstay_supervisor::durable;
use mainstay_types::Pid;
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

/// Looks at a port that is taken and that nobody holds: two seconds in all, the kernel needs milliseconds.
const LET_GO_LOOKS: u32 = 40;
/// Pause between two of them.
const LET_GO_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
/// How many neighbours of a default port are tried.
const NEIGHBOURS: u16 = 200;

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A process that was just killed may hold its port for a moment although nobody can be named any more: waits for
/// that. Somebody who can be named holds on.
fn is_let_go(port: u16) -> bool {
    for _ in 0..LET_GO_LOOKS {
        if is_free(port) {
            return true;
        }
        if holder(port).is_some() {
            return false;
        }
        std::thread::sleep(LET_GO_PAUSE);
    }
    false
}

/// Sockets that listen on a port, as /proc names them.
fn sockets_on(port: u16) -> Vec<String> {
    let needle = format!(":{port:04X}");
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let text: String = tables.iter().filter_map(|table| std::fs::read_to_string(table).ok()).collect();
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // State 0A is LISTEN. **Source**: proc_net_tcp of the kernel documentation.
            let listens = fields.get(3) == Some(&"0A") && fields.get(1)?.ends_with(&needle);
            listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
        })
        .collect()
}

/// Processes that listen on a port, as far as we may see. Several when a listener was inherited.
fn holders(port: u16) -> Vec<u32> {
    let wanted = sockets_on(port);
    if wanted.is_empty() {
        return Vec::new();
    }
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let holds = |pid: &u32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .any(|link| wanted.iter().any(|socket| link.as_os_str() == socket.as_str()))
    };
    processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).filter(holds).collect()
}

/// Who listens on a port: `name (pid N)` from /proc, when we may see it.
pub fn holder(port: u16) -> Option<String> {
    let pid = *holders(port).first()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (pid {pid})", name.trim()))
}

/// Processes that a keep of this state folder started and whose end is not recorded, with their start times.
pub fn recorded(state: &Path) -> Vec<(i32, u64)> {
    let files = std::fs::read_dir(state.join("children")).into_iter().flatten().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|extension| extension == "json"))
        .filter_map(|file| serde_json::from_slice::<serde_json::Value>(&std::fs::read(file.path()).ok()?).ok())
        .filter(|record| record["ended"].is_null())
        .filter_map(|record| Some((i32::try_from(record["pid"].as_i64()?).ok()?, record["start_time"].as_u64()?)))
        .collect()
}

/// Whether a process belongs to the stack of this state folder: by keep's records (Redis and PostgreSQL overwrite
/// their environment), by the environment it inherited, or (keep and the control plane) by its arguments.
fn is_of(pid: u32, state: &Path) -> bool {
    let number = i32::try_from(pid).unwrap_or(0);
    let start_time = mainstay_supervisor::proc::stat(Pid(number)).map(|stat| stat.start_time);
    if recorded(state).iter().any(|(known, since)| *known == number && Some(*since) == start_time) {
        return true;
    }
    let has = |file: &str, wanted: &[&[u8]]| {
        let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let parts: Vec<&[u8]> = text.split(|byte| *byte == 0).collect();
        parts.windows(wanted.len()).any(|window| window == wanted)
    };
    let state = state.as_os_str().as_encoded_bytes();
    has("environ", &[&[b"MAINSTAY_STATE=", state].concat()]) || has("cmdline", &[b"--state", state])
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

    /// The port for a use, chosen now if it was not before. `must_be_free`: nobody but this stack itself may
    /// listen there, which it does when its children outlived keep and the control plane.
    ///
    /// **Errors**: a declared or kept port is in use, or none is free.
    pub fn choose(&mut self, purpose: &str, wish: Wish, must_be_free: bool) -> Result<u16, Error> {
        let is_free = |port| is_free(port) || self.is_ours(port) || is_let_go(port);
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

    fn is_ours(&self, port: u16) -> bool {
        let Some(state) = self.file.parent() else { return false };
        holders(port).into_iter().any(|pid| is_of(pid, state))
    }

    /// Gives up kept ports that others took meanwhile and that no person knows by number. `is_door`: says of a
    /// use whether people know its port.
    ///
    /// **Errors**: the file cannot be written.
    pub fn forget_taken(&mut self, is_door: impl Fn(&str) -> bool) -> Result<(), Error> {
        let is_taken = |port: u16| !is_free(port) && !self.is_ours(port);
        let taken: Vec<String> = self
            .ports
            .iter()
            .filter(|(purpose, port)| !is_door(purpose) && is_taken(**port))
            .map(|(purpose, _)| purpose.clone())
            .collect();
        taken.iter().try_for_each(|purpose| self.forget(purpose))
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

    #[test]
    fn a_port_that_others_took_is_chosen_anew_unless_it_is_a_door() {
        let folder = tempfile::tempdir().expect("folder");
        let mut ports = Ports::load(folder.path()).expect("loads");
        let redis = ports.choose("redis-cache", Wish::Any, false).expect("chosen");
        let door = ports.choose("edge-https", Wish::Default(redis), false).expect("chosen");
        let busy = [redis, door].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("binds"));
        ports.forget_taken(|purpose| purpose.starts_with("edge-")).expect("saves");
        assert_eq!((ports.get("redis-cache"), ports.get("edge-https")), (None, Some(door)));
        drop(busy);
    }
}
