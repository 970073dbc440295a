//! One stack after the other chooses its ports, and tells the others what it chose.

use std::collections::BTreeMap;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mainstay_supervisor::durable;

/// Whose turn it is: an address that one process of this network namespace can have, whoever runs it, and that the
/// kernel takes back when the process ends. Where ports are apart, this is too; a file would need a common folder.
const NAME: &[u8] = b"mainstay-ports";
/// A choice takes a second, four when ports have to be let go; several may be waited for. Then it is done without a
/// turn: somebody else may have taken the name on purpose.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);
/// A stack that has chosen serves within this time, or does not start: `up` waits for 120 s by default.
pub(super) const STARTING: Duration = Duration::from_secs(120);
/// What a stack has chosen, in its runtime folder.
pub(super) const TOLD: &str = "ports.json";

/// The turn of one stack; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _name: Option<UnixListener>,
    file: PathBuf,
    /// Ports that others have chosen, with their runtime folder.
    promised: BTreeMap<u16, PathBuf>,
}

impl Turn {
    /// Waits for the turn of the stack with this runtime folder.
    pub(super) fn take(runtime: &Path) -> Self {
        let began = Instant::now();
        let name = loop {
            let bound = SocketAddr::from_abstract_name(NAME).and_then(|name| UnixListener::bind_addr(&name));
            match bound {
                Ok(listener) => break Some(listener),
                Err(_) if began.elapsed() < PATIENCE => std::thread::sleep(LOOK),
                Err(_) => break None,
            }
        };
        Self { _name: name, file: runtime.join(TOLD), promised: promised(runtime) }
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Whoever has chosen this port, in words.
    pub(super) fn promised(&self, port: u16) -> Option<String> {
        self.promised.get(&port).map(|folder| format!("another stack that runs or starts ({})", folder.display()))
    }

    pub(super) fn tell(&self, ports: &BTreeMap<String, u16>) -> io::Result<()> {
        durable::replace(&self.file, &serde_json::to_vec(ports)?, 0o644)
    }
}

/// The stack is down: what it had chosen is free for others at once.
pub(super) fn withdraw(runtime: &Path) {
    // What cannot be removed counts until it is old.
    std::fs::remove_file(runtime.join(TOLD)).ok();
}

/// What stacks beside this one have chosen that run or may be starting.
fn promised(runtime: &Path) -> BTreeMap<u16, PathBuf> {
    let folders = runtime.parent().map(std::fs::read_dir).into_iter().flatten().flatten().flatten();
    let others = folders.map(|folder| folder.path()).filter(|folder| folder != runtime && counts(folder));
    let mut found = BTreeMap::new();
    for folder in others {
        let text = std::fs::read(folder.join(TOLD)).unwrap_or_default();
        let ports: BTreeMap<String, u16> = serde_json::from_slice(&text).unwrap_or_default();
        found.extend(ports.into_values().map(|port| (port, folder.clone())));
    }
    found
}

fn counts(folder: &Path) -> bool {
    let written = std::fs::metadata(folder.join(TOLD)).and_then(|told| told.modified());
    // A time that lies ahead means that the clock was set back: then nobody knows, and the port is left alone.
    let is_starting = written.is_ok_and(|at| at.elapsed().map_or(true, |age| age < STARTING));
    is_starting || UnixStream::connect(folder.join(mainstay_supervisor::SOCKET)).is_ok()
}
