//! The public listeners: bound once, held for as long as the stack runs, given to children by inheritance.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use mainstay_types::Pid;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::PidfdGetfdFlags;
use serde::{Deserialize, Serialize};

use super::children::{Refused, refuse};
use super::{Keep, emit};
use crate::protocol::Refusal;

/// Connections that wait to be accepted, while an edge is replaced for example. The kernel cuts it to
/// `net.core.somaxconn`, whose default is the same.
const BACKLOG: i32 = 4096;
/// Listeners of a stack.
const MAX_HELD: usize = 32;

/// A listener as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wanted {
    /// As asked for; port 0 chooses.
    asked: SocketAddr,
    /// As bound.
    bound: SocketAddr,
}

/// All listeners.
pub(super) struct Listeners {
    path: PathBuf,
    wanted: BTreeMap<String, Wanted>,
    held: BTreeMap<String, OwnedFd>,
}

fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn bound_to(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let any = rustix::net::getsockname(socket)?;
    SocketAddr::try_from(any).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not an internet socket"))
}

/// The processes that listen on a port, as far as we may see: "pid 7 (nginx)".
fn holder(address: SocketAddr) -> String {
    let port = format!(":{:04X}", address.port());
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let text: String = tables.iter().filter_map(|table| std::fs::read_to_string(table).ok()).collect();
    let sockets: Vec<PathBuf> = text
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        // Local address, state (0A is LISTEN) and inode. **Source**: proc_net_tcp of the kernel documentation.
        .filter(|fields| fields.len() > 9 && fields[1].ends_with(&port) && fields[3] == "0A")
        .map(|fields| PathBuf::from(format!("socket:[{}]", fields[9])))
        .collect();
    let holds = |pid: &Pid| sockets.iter().any(|socket| crate::proc::has_open(*pid, socket));
    let Some(pid) = crate::proc::all().into_keys().find(holds) else {
        return "a process that this user cannot see".to_owned();
    };
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("pid {pid} ({})", name.trim())
}

fn describe(name: &str, address: SocketAddr, error: &io::Error) -> Refused {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let text =
                format!("{name} cannot listen on {address}: {} does; stop it or choose another port", holder(address));
            refuse(Refusal::AddressInUse, text)
        }
        _ => refuse(Refusal::Environment, format!("{name} cannot listen on {address}: {error}")),
    }
}

impl Listeners {
    /// Reads which listeners there are; none is held yet.
    ///
    /// **Errors**: the file system's, or the file is damaged.
    pub(super) fn load(state: &Path) -> io::Result<Self> {
        let path = state.join("listeners.json");
        let wanted = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, wanted, held: BTreeMap::new() })
    }

    fn save(&self) -> io::Result<()> {
        crate::durable::replace(&self.path, &serde_json::to_vec(&self.wanted)?, 0o600)
    }

    /// The held sockets of these names, in this order; the caller has made sure of them.
    pub(super) fn borrow(&self, names: &[String]) -> Vec<BorrowedFd<'_>> {
        names.iter().filter_map(|name| self.held.get(name)).map(AsFd::as_fd).collect()
    }

    fn hold_new(&mut self, name: &str, asked: SocketAddr) -> Result<SocketAddr, Refused> {
        if self.wanted.len() >= MAX_HELD {
            return Err(refuse(Refusal::Invalid, format!("{MAX_HELD} listeners are held, no room for {name}")));
        }
        let bind = || -> io::Result<_> {
            let socket = bind(asked)?;
            let bound = bound_to(&socket)?;
            Ok((socket, bound))
        };
        let (socket, bound) = bind().map_err(|error| describe(name, asked, &error))?;
        self.wanted.insert(name.to_owned(), Wanted { asked, bound });
        if let Err(error) = self.save() {
            self.wanted.remove(name);
            return Err(refuse(Refusal::Environment, format!("cannot record listener {name}: {error}")));
        }
        self.held.insert(name.to_owned(), socket);
        Ok(bound)
    }

    /// Closes a listener.
    pub(super) fn unlisten(&mut self, name: &str) -> Result<(), Refused> {
        if self.wanted.remove(name).is_none() {
            return Err(refuse(Refusal::NotRunning, format!("no listener {name} is held")));
        }
        self.held.remove(name);
        self.save().map_err(|error| refuse(Refusal::Environment, format!("cannot record listeners: {error}")))
    }
}

impl Keep {
    /// Binds a listener once; the same name and address again answers what is held.
    pub(super) fn listen(&mut self, name: &str, address: &str) -> Result<SocketAddr, Refused> {
        let parsed = address.parse::<SocketAddr>();
        let asked = parsed.map_err(|_| {
            refuse(Refusal::Invalid, format!("listener {name}: {address:?} is no address and port like 127.0.0.1:8443"))
        })?;
        // The names travel in a variable that separates by these.
        if name.is_empty() || name.contains([',', ':', '=']) {
            return Err(refuse(Refusal::Invalid, format!("listener name {name:?} is empty or holds one of , : =")));
        }
        match self.listeners.wanted.get(name).cloned() {
            None => self.listeners.hold_new(name, asked),
            Some(known) if known.asked == asked || known.bound == asked => {
                self.need_listener(name)?;
                Ok(known.bound)
            }
            Some(known) => {
                let text = format!("listener {name} is bound to {}, not {asked}: close it first", known.bound);
                Err(refuse(Refusal::Invalid, text))
            }
        }
    }

    /// Makes sure that a listener is held: still, or taken back from a child, or bound again.
    pub(super) fn need_listener(&mut self, name: &str) -> Result<(), Refused> {
        let Some(wanted) = self.listeners.wanted.get(name).cloned() else {
            return Err(refuse(Refusal::Invalid, format!("no listener {name} is held: listen first")));
        };
        if self.listeners.held.contains_key(name) {
            return Ok(());
        }
        let socket = match self.take_back(name, wanted.bound) {
            Some(socket) => socket,
            None => bind(wanted.bound).map_err(|error| describe(name, wanted.bound, &error))?,
        };
        self.listeners.held.insert(name.to_owned(), socket);
        Ok(())
    }

    /// Takes a listener back from a running child that inherited it from an earlier keep.
    fn take_back(&self, name: &str, bound: SocketAddr) -> Option<OwnedFd> {
        let running = self.children.values().filter(|entry| entry.is_running());
        running
            .filter_map(|entry| {
                let number = (3..).zip(&entry.record.listeners).find(|(_, other)| *other == name)?.0;
                let pidfd = entry.pidfd.as_ref()?;
                rustix::process::pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()).ok()
            })
            // The child may have closed it and opened something else under the number.
            .find(|socket| {
                bound_to(socket).is_ok_and(|address| address == bound)
                    && rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
            })
    }

    /// After a keep's death: takes back what running children hold. The rest is bound at the next need.
    pub(super) fn regain_listeners(&mut self) {
        for (name, wanted) in self.listeners.wanted.clone() {
            match self.take_back(&name, wanted.bound) {
                Some(socket) => {
                    self.listeners.held.insert(name, socket);
                }
                None => emit("listener-not-regained", &format!("{name} on {}", wanted.bound)),
            }
        }
    }
}
