//! Ports: chosen once per stack and environment, then kept in `ports.json`.
//!
//! Two stacks that start at the same moment see the same free ports, because nobody listens yet. So they choose one
//! after the other ([`turn`]), and what one has chosen is told to all others in its runtime folder until it runs or has
//! had the time to. Stacks of other users keep runtime folders elsewhere: who loses to one of them chooses again at
//! its next start, as long as it never served on its ports.

mod holders;
mod turn;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use mainstay_supervisor::durable;
use mainstay_types::Pid;
use serde::{Deserialize, Serialize};

use crate::paths::Paths;

pub use holders::holder;
use holders::{Held, Look, sockets_on};

/// Every port of a stack by its use: `edge-https`, `router-write`, `instance:backend-1`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Ports {
    /// Version of the file.
    version: u32,
    /// Port by use.
    ports: BTreeMap<String, u16>,
    /// Whether the stack was ever ready on them: then people may know them.
    #[serde(default = "yes")]
    is_served: bool,
    #[serde(skip)]
    file: PathBuf,
    /// Looks that were spent on defaults.
    #[serde(skip)]
    looks: Cell<u32>,
    /// What is chosen is not written down yet.
    #[serde(skip)]
    is_draft: bool,
    /// While a choice goes on: what others have chosen and may not serve yet.
    #[serde(skip)]
    turn: Option<turn::Turn>,
    /// Where to take that turn when a choice is due.
    #[serde(skip)]
    runtime: Option<PathBuf>,
}

/// Of files that do not say so.
fn yes() -> bool {
    true
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

impl Wish {
    fn is_met_by(self, port: u16) -> bool {
        match self {
            Self::Declared(declared) => port == declared,
            Self::Default(_) | Self::Any => true,
        }
    }
}

/// Looks at a port whose holder is ending: two seconds in all, the kernel needs milliseconds. Defaults share them,
/// because their neighbours do as well.
const LET_GO_LOOKS: u32 = 40;
/// Pause between two of them.
const LET_GO_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
/// How many neighbours of a default port are tried.
const NEIGHBOURS: u16 = 200;

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
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
    /// The stack with this runtime folder is down: others may have its ports at once. Its own file keeps them.
    pub fn withdraw(runtime: &Path) {
        turn::withdraw(runtime);
    }

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
            // Of a state folder that cannot be made its maker tells.
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
                Ok(Self { version: 1, file, ..Self::default() })
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The same to choose from: no other stack of this user chooses until this is dropped. Nothing is written before
    /// [`Self::keep`]: a start that is refused leaves its ports as they were.
    ///
    /// **Errors**: as [`Self::load`].
    pub fn begin(paths: &Paths) -> Result<Self, Error> {
        let turn = turn::Turn::take(&paths.runtime);
        Ok(Self { turn: Some(turn), is_draft: true, ..Self::load(&paths.state)? })
    }

    /// Writes down what was chosen since [`Self::begin`], and tells others; then it is their turn.
    ///
    /// **Errors**: the file cannot be written.
    pub fn keep(mut self) -> Result<(), Error> {
        self.is_draft = false;
        self.save()
    }

    /// The same, where all may be chosen already: then nobody is waited for.
    ///
    /// **Errors**: as [`Self::load`].
    pub fn resume(paths: &Paths) -> Result<Self, Error> {
        Ok(Self { runtime: Some(paths.runtime.clone()), ..Self::load(&paths.state)? })
    }

    /// The stack was ready on them.
    ///
    /// **Errors**: the file cannot be written.
    pub fn served(&mut self) -> Result<(), Error> {
        if self.is_served {
            return Ok(());
        }
        self.is_served = true;
        self.save()
    }

    /// Tells others what was chosen.
    fn tell(&self) -> Result<(), Error> {
        let Some(turn) = &self.turn else { return Ok(()) };
        turn.tell(&self.ports).map_err(|source| Error::File { path: turn.file().to_owned(), source })
    }

    /// Another stack that has chosen this port and may come to serve it.
    fn promised(&self, port: u16) -> Option<String> {
        self.turn.as_ref()?.promised(port)
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
        if let Some(port) = self.ports.get(purpose).copied().filter(|port| !must_be_free && wish.is_met_by(*port)) {
            return Ok(port);
        }
        if let Some(runtime) = self.runtime.take() {
            self.turn = Some(turn::Turn::take(&runtime));
        }
        let look = Look::default();
        let is_declared = matches!(wish, Wish::Declared(_));
        let is_free = |port| self.promised(port).is_none() && (is_free(port) || self.is_had(port, &look, is_declared));
        let in_use = |port| {
            let holder = self.promised(port).or_else(|| holder(port));
            Error::InUse { purpose: purpose.to_owned(), port, holder }
        };
        if let Some(port) = self.ports.get(purpose).copied().filter(|port| wish.is_met_by(*port)) {
            if is_free(port) {
                return Ok(port);
            }
            // Nobody knows a port that never was served: another stack was quicker.
            if self.is_served || is_declared {
                return Err(in_use(port));
            }
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
                    (!taken.contains(&port) && self.promised(port).is_none()).then_some(port)
                })
                .ok_or_else(|| Error::NoneFree { purpose: purpose.to_owned(), first: 0, tried: 64 })?,
        };
        self.ports.insert(purpose.to_owned(), port);
        self.save()?;
        Ok(port)
    }

    fn is_ours(&self, holders: &[u32]) -> bool {
        self.file.parent().is_some_and(|state| holders.iter().any(|pid| is_of(*pid, state)))
    }

    /// Whether a port that is taken is this stack's own, or let go at once: a process that was just killed may hold
    /// its port for a moment. Nobody else is waited for.
    fn is_had(&self, port: u16, look: &Look, is_declared: bool) -> bool {
        let sockets = sockets_on(port);
        if self.is_ours(&look.holders(&sockets)) {
            return true;
        }
        if look.held(&sockets) == Held::Firmly {
            return false;
        }
        let own = Cell::new(0);
        let looks = if is_declared { &own } else { &self.looks };
        while looks.get() < LET_GO_LOOKS {
            looks.set(looks.get() + 1);
            std::thread::sleep(LET_GO_PAUSE);
            if is_free(port) {
                return true;
            }
            // A socket that was not there before is somebody who was quicker.
            if sockets_on(port).iter().any(|socket| !sockets.contains(socket)) {
                return false;
            }
        }
        false
    }

    /// Gives up kept ports that others took meanwhile and that no person knows by number. `is_door`: says of a
    /// use whether people know its port.
    ///
    /// **Errors**: the file cannot be written.
    pub fn forget_taken(&mut self, is_door: impl Fn(&str) -> bool) -> Result<(), Error> {
        let look = Look::default();
        let is_ours = |port: u16| self.is_ours(&look.holders(&sockets_on(port)));
        let is_taken = |port: u16| self.promised(port).is_some() || (!is_free(port) && !is_ours(port));
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
        if self.is_draft {
            return Ok(());
        }
        let failed = |source| Error::File { path: self.file.clone(), source };
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        durable::replace(&self.file, &bytes, 0o644).map_err(failed)?;
        self.tell()
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
    fn neighbours_that_nobody_lets_go_are_passed_within_two_seconds_in_all() {
        use rustix::net::{AddressFamily, SocketType, bind, socket};
        let folder = tempfile::tempdir().expect("folder");
        // Bound, and never listening: nobody can be named, as with a process that ends.
        let bind_at = |port: u16| {
            let held = socket(AddressFamily::INET, SocketType::STREAM, None).expect("socket");
            bind(&held, &std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok().map(|()| held)
        };
        // Eight neighbours that happen to be free.
        let neighbours = || {
            let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?.local_addr().ok()?.port();
            let last = first.checked_add(8)?;
            let bound: Option<Vec<_>> = (first..last).map(bind_at).collect();
            Some((first..last, bound?))
        };
        let (range, _bound) = (0..100).find_map(|_| neighbours()).expect("eight free ports in a row");
        let mut ports = Ports::load(folder.path()).expect("loads");
        let began = std::time::Instant::now();
        let chosen = ports.choose("edge-https", Wish::Default(range.start), true).expect("next free");
        let took = began.elapsed();
        assert!(!range.contains(&chosen), "{chosen}");
        // Waiting for each would take ten seconds at least.
        assert!(took < std::time::Duration::from_secs(8), "{took:?}");
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

    fn stack_of(base: &Path, number: usize) -> Paths {
        let paths = Paths { state: base.join(format!("state-{number}")), runtime: base.join(format!("run/{number}")) };
        for folder in [&paths.state, &paths.runtime] {
            std::fs::create_dir_all(folder).expect("folder");
        }
        paths
    }

    const DOORS: [(&str, u16); 3] = [("edge-https", 23_443), ("edge-http", 23_480), ("router-write", 23_432)];

    /// All that a stack needs, as `up` and the control plane choose it. Nobody listens yet.
    fn chosen(paths: &Paths) -> Vec<u16> {
        let mut ports = Ports::begin(paths).expect("loads");
        let doors = DOORS.map(|(purpose, first)| ports.choose(purpose, Wish::Default(first), true).expect("free"));
        ports.keep().expect("saves");
        let mut ports = Ports::begin(paths).expect("loads");
        let others = (0..20).map(|n| ports.choose(&format!("other-{n}"), Wish::Any, false).expect("free"));
        let all = doors.into_iter().chain(others).collect();
        ports.keep().expect("saves");
        all
    }

    #[test]
    fn a_choice_that_is_not_kept_changes_no_file() {
        let base = tempfile::tempdir().expect("folder");
        let paths = stack_of(base.path(), 1);
        let mut ports = Ports::begin(&paths).expect("loads");
        let first = ports.choose("edge-https", Wish::Default(23_743), true).expect("free");
        ports.keep().expect("saves");
        let kept = std::fs::read(paths.state.join("ports.json")).expect("written");
        let mut ports = Ports::begin(&paths).expect("loads");
        ports.choose("edge-https", Wish::Declared(first + 7), true).expect("free");
        ports.choose("console", Wish::Default(23_780), true).expect("free");
        ports.forget("edge-https").expect("forgets");
        drop(ports);
        assert_eq!(std::fs::read(paths.state.join("ports.json")).expect("there"), kept);
    }

    #[test]
    fn stacks_that_start_at_the_same_moment_choose_different_ports() {
        let base = tempfile::tempdir().expect("folder");
        let barrier = std::sync::Barrier::new(8);
        let chosen: Vec<Vec<u16>> = std::thread::scope(|scope| {
            let starts = (0..8).map(|number| {
                let (paths, barrier) = (stack_of(base.path(), number), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    chosen(&paths)
                })
            });
            let starts: Vec<_> = starts.collect();
            starts.into_iter().map(|start| start.join().expect("chooses")).collect()
        });
        let all: Vec<u16> = chosen.into_iter().flatten().collect();
        let different: BTreeSet<u16> = all.iter().copied().collect();
        assert_eq!((all.len(), different.len()), (8 * 23, 8 * 23), "{all:?}");
    }

    #[test]
    fn ports_that_were_lost_before_they_were_served_are_chosen_again_and_served_ones_are_not() {
        let base = tempfile::tempdir().expect("folder");
        let paths = stack_of(base.path(), 1);
        let choose = |is_served: bool| {
            let mut ports = Ports::begin(&paths).expect("loads");
            if is_served {
                ports.served().expect("saves");
            }
            let chosen = ports.choose("edge-https", Wish::Default(23_543), true)?;
            ports.keep().map(|()| chosen)
        };
        let first = choose(false).expect("free");
        let winner = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).expect("binds");
        let second = choose(false).expect("another one");
        assert_ne!(first, second);
        let loser = TcpListener::bind((Ipv4Addr::LOCALHOST, second)).expect("binds");
        assert!(matches!(choose(true), Err(Error::InUse { port, .. }) if port == second));
        drop((winner, loser));
    }

    #[test]
    fn what_a_stack_chose_that_neither_runs_nor_starts_holds_nobody_up() {
        let base = tempfile::tempdir().expect("folder");
        let [one, two] = [1, 2].map(|number| stack_of(base.path(), number));
        let choose = |paths: &Paths| {
            let mut ports = Ports::begin(paths).expect("loads");
            let chosen = ports.choose("edge-https", Wish::Default(23_643), true).expect("free");
            ports.keep().expect("saves");
            chosen
        };
        let first = choose(&one);
        assert_ne!(choose(&two), first);
        std::fs::remove_file(two.state.join("ports.json")).expect("removes");
        let old = std::time::SystemTime::now() - 2 * turn::STARTING;
        let told = std::fs::File::options().write(true).open(one.runtime.join(turn::TOLD)).expect("told");
        told.set_modified(old).expect("sets");
        assert_eq!(choose(&two), first);
    }
}
