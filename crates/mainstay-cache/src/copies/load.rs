//! Proves a copy: a second server, which nobody else can reach, loads it at the lowest priority and is asked what it
//! holds. A copy that loads nothing, or less or more than the store held at its moment, is none.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};

use super::{Alone, Copies, Copy, CopyError, Counts, Proof, at, counts, digest, has_space};
use crate::config;
use crate::layout::{LOOK_WITHIN, SOCKET_PATH_MAX};
use crate::resp::Door;

/// Longest load. **Basis**: 20 MB/s of one core that all others use too, for 16 GiB.
const LOADED_WITHIN: Duration = Duration::from_mins(15);
/// Pause between two looks at a server that loads.
const LOOK: Duration = Duration::from_millis(20);
/// The machine's own work goes first.
const LAST: [&str; 5] = ["/usr/bin/ionice", "-c3", "/usr/bin/nice", "-n", "19"];
/// Faults that are named.
const MOST_NAMED: usize = 5;

/// Folders of the second server. Its own user may enter them.
struct Scratch {
    data: PathBuf,
    sockets: PathBuf,
}

impl Scratch {
    fn socket(&self) -> PathBuf {
        self.sockets.join("redis.sock")
    }
}

impl Copies {
    /// Loads it, compares it, and keeps what was found in its note.
    ///
    /// **Errors**: nothing can be said of it: no memory, no program, no space. What is wrong with the copy is in the
    /// proof.
    pub async fn prove(&self, _alone: &Alone, copy: &Copy) -> Result<Copy, CopyError> {
        let scratch =
            Scratch { data: proof_folder(&self.settings.state), sockets: self.settings.runtime.join("redis-proof") };
        Self::end_left_over(&scratch, &self.settings.state)?;
        // A stack that is down has no folder for sockets. The server's user passes through it to its own.
        let is_made = !self.settings.runtime.exists();
        if is_made {
            config::folder(&self.settings.runtime, 0o711, None)
                .map_err(|error| CopyError::NoLook(mainstay_types::full_text(&error)))?;
        }
        let proved = self.load(copy, &scratch).await;
        // Whatever it was: it is as big as the copy.
        let removed = remove(&scratch.data).and_then(|()| remove(&scratch.sockets));
        if is_made {
            // Somebody may have brought the stack up meanwhile: then it is not empty.
            std::fs::remove_dir(&self.settings.runtime).ok();
        }
        let proof = proved?;
        removed?;
        // A note of an earlier version has the proof alone.
        let before = copy.proof.iter().find(|proof| proof.faults.is_empty()).map(|proof| proof.at);
        let right_since = copy.right_since.or(before).or_else(|| proof.faults.is_empty().then_some(proof.at));
        let proven = Copy { proof: Some(proof), right_since, ..copy.clone() };
        self.write_note(&proven)?;
        Ok(proven)
    }

    async fn load(&self, copy: &Copy, scratch: &Scratch) -> Result<Proof, CopyError> {
        let begun = Instant::now();
        let proof = |counts: Counts, faults: Vec<String>, took: Duration| Proof {
            at: (self.now)(),
            counts,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            faults,
        };
        has_memory(copy.memory)?;
        for folder in [&scratch.data, &scratch.sockets] {
            config::folder(folder, 0o700, self.settings.user.as_ref())
                .map_err(|error| CopyError::NoLook(mainstay_types::full_text(&error)))?;
        }
        match self.lay_out(copy, &scratch.data.join("copy.rdb")) {
            Ok(()) => {}
            Err(error @ CopyError::Damaged { .. }) => {
                return Ok(proof(Counts::new(), vec![error.to_string()], begun.elapsed()));
            }
            Err(error) => return Err(error),
        }
        let mut server = self.start(scratch)?;
        let loaded = self.wait_until_loaded(&mut server, scratch).await;
        server.kill().await.ok();
        let (counts, faults) = match loaded? {
            Ok(loaded) => {
                let faults = faults(copy, &loaded);
                (loaded, faults)
            }
            Err(words) => (Counts::new(), vec![format!("Redis does not load it: {words}")]),
        };
        Ok(proof(counts, faults, begun.elapsed()))
    }

    /// The copy where the second server finds it; read to the end and compared with its hash on the way.
    pub(super) fn lay_out(&self, copy: &Copy, to: &Path) -> Result<(), CopyError> {
        let path = self.file(&copy.id);
        has_space(to.parent().unwrap_or(to), copy.bytes)?;
        let mut from = File::open(&path).map_err(at("open", &path))?;
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
        let mut file = made.map_err(at("make the file", to))?;
        let (bytes, sha256) = digest(&mut from, |piece| file.write_all(piece)).map_err(at("copy", &path))?;
        if (bytes, &sha256) != (copy.bytes, &copy.sha256) {
            std::fs::remove_file(to).map_err(at("remove", to))?;
            return Err(CopyError::Damaged { id: copy.id.clone(), bytes });
        }
        file.sync_all().map_err(at("write", to))?;
        config::give(to, self.settings.user.as_ref()).map_err(|error| CopyError::NoLook(error.to_string()))
    }

    fn start(&self, scratch: &Scratch) -> Result<Child, CopyError> {
        let socket = scratch.socket();
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(CopyError::NoLook(format!("the path {} is too long for a socket", socket.display())));
        }
        let quoted = |path: &Path| format!("\"{}\"", path.display());
        // A replica of nobody: it drops no key whose time is over, so that an old copy can be counted too.
        let text = format!(
            "port 0\nunixsocket {}\nunixsocketperm 700\nrequirepass \"{}\"\ndir {}\ndbfilename copy.rdb\n\
             appendonly no\nsave \"\"\nmaxmemory 0\nreplicaof 127.0.0.1 1\nreplica-serve-stale-data yes\n\
             daemonize no\nsupervised no\n",
            quoted(&socket),
            self.settings.password.expose(),
            quoted(&scratch.data),
        );
        let file = scratch.data.join("redis.conf");
        let user = self.settings.user.as_ref();
        config::write(&file, &text, user).map_err(|error| CopyError::NoLook(mainstay_types::full_text(&error)))?;
        let path = scratch.data.join("log");
        let log = File::create(&path).map_err(at("make the file", &path))?;
        let words = log.try_clone().map_err(at("open", &path))?;
        let mut argv: Vec<PathBuf> = Vec::new();
        if [LAST[0], LAST[2]].iter().all(|program| Path::new(program).exists()) {
            argv.extend(LAST.map(PathBuf::from));
        }
        argv.extend([self.program.clone(), file]);
        let (program, arguments) = argv.split_first().ok_or_else(|| CopyError::NoLook("no program".to_owned()))?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&scratch.data).env_clear().env("LANG", "C.UTF-8").env("TZ", "UTC");
        command.stdin(Stdio::null()).stdout(log).stderr(words).kill_on_drop(true);
        mainstay_supervisor::end_with_parent(command.as_std_mut());
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
        let child = command.spawn().map_err(|error| CopyError::NoLook(format!("{}: {error}", program.display())))?;
        if let Some(pid) = child.id() {
            // When memory runs out, this goes and not what serves.
            std::fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").ok();
        }
        Ok(child)
    }

    fn door(&self, scratch: &Scratch) -> Door {
        Door { socket: scratch.socket(), password: self.settings.password.clone(), within: LOOK_WITHIN }
    }

    /// What it holds, or its last words.
    async fn wait_until_loaded(
        &self,
        server: &mut Child,
        scratch: &Scratch,
    ) -> Result<Result<Counts, String>, CopyError> {
        let door = self.door(scratch);
        let deadline = Instant::now() + LOADED_WITHIN;
        loop {
            if let Some(status) = server.try_wait().map_err(|error| CopyError::NoLook(error.to_string()))? {
                let text = std::fs::read(scratch.data.join("log")).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let words = format!("{}; it ended: {status}", last_words(&text));
                // One that was killed, for want of memory say, or did not come so far, says nothing of the copy.
                let is_verdict = status.code().is_some() && is_verdict(&text);
                return if is_verdict { Ok(Err(words)) } else { Err(CopyError::NoLook(words)) };
            }
            match door.ask_all(&[&["PING"], &["INFO", "keyspace"]]).await.as_deref() {
                Ok([Ok(pong), Ok(info)]) if pong == "PONG" => return Ok(Ok(counts(info))),
                // It loads, or is not there yet.
                Ok(_) | Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                Ok(_) | Err(_) => {
                    let text = format!("Redis still loads it after {} s", LOADED_WITHIN.as_secs());
                    return Err(CopyError::NoLook(text));
                }
            }
        }
    }

    /// Ends a second server whose starter was killed, and removes what it had.
    fn end_left_over(scratch: &Scratch, state: &Path) -> Result<(), CopyError> {
        end_proof(state);
        remove(&scratch.data)?;
        remove(&scratch.sockets)
    }
}

fn proof_folder(state: &Path) -> PathBuf {
    state.join("redis/proof")
}

/// Ends servers that load copies of this state folder, also those whose starter is gone: they are known by the folder in
/// which they work. How many there were.
pub fn end_proof(state: &Path) -> usize {
    let Ok(folder) = std::fs::canonicalize(proof_folder(state)) else { return 0 };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(rustix::process::Pid::from_raw).filter(|pid| end_server(*pid, &folder)).count()
}

/// The same, and removes what they had: the stack goes down.
///
/// **Errors**: the file system's.
pub fn stop_proof(state: &Path) -> Result<usize, CopyError> {
    let ended = end_proof(state);
    remove(&proof_folder(state)).map(|()| ended)
}

/// False: it is no server, or works elsewhere.
fn end_server(pid: rustix::process::Pid, folder: &Path) -> bool {
    let of_process = |what: &str| std::fs::read_link(format!("/proc/{}/{what}", pid.as_raw_nonzero())).ok();
    let Ok(handle) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) else { return false };
    // Looked at with the handle open, so that it is of this process. A shell may stand in the folder too.
    let program = of_process("exe").and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let is_server = program.is_some_and(|name| ["redis", "valkey"].iter().any(|word| name.contains(word)));
    is_server
        && of_process("cwd").is_some_and(|works_in| works_in == folder)
        && rustix::process::pidfd_send_signal(&handle, rustix::process::Signal::KILL).is_ok()
}

fn remove(folder: &Path) -> Result<(), CopyError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", folder)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A second server takes as much memory as the first. On a machine that does not have it, one of them would go.
fn has_memory(wanted: u64) -> Result<(), CopyError> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().split(' ').next()?.parse().ok());
    let free: u64 = kib.map_or(u64::MAX, |kib: u64| kib.saturating_mul(1024));
    if free / 2 >= wanted {
        return Ok(());
    }
    let (wanted, free) = (mainstay_types::Bytes(wanted), mainstay_types::Bytes(free));
    Err(CopyError::NoLook(format!("it takes {wanted} of memory, and of {free} that are free half stays so")))
}

/// Whether the server read the copy and says that it is not whole. "Can't handle RDB format version" is not that: an
/// older server says so of a good copy.
fn is_verdict(log: &str) -> bool {
    let verdicts = ["Wrong signature", "Wrong RDB checksum", "Internal error in RDB reading", "RDB ERROR DETECTED"];
    // For want of memory Redis stops reading in the middle, and then says that the copy ends there.
    let is_starved = log.contains("failed allocating") || log.contains("Out Of Memory");
    !is_starved && verdicts.iter().any(|words| log.contains(words))
}

/// The line in which Redis says why; else its last.
fn last_words(log: &str) -> String {
    let is_reason =
        |line: &&str| ["rror", "EOF", "checksum", "Wrong", "orrupt", "Unknown"].iter().any(|word| line.contains(word));
    let line = log.lines().find(is_reason).or_else(|| log.lines().rfind(|line| !line.trim().is_empty()));
    line.map_or_else(|| "it said nothing".to_owned(), |line| line.chars().take(200).collect())
}

/// What is wrong with what was loaded.
fn faults(copy: &Copy, loaded: &Counts) -> Vec<String> {
    let zero = super::Count { keys: 0, expires: 0 };
    let mut all: Vec<u32> =
        [&copy.before, &copy.after, loaded].into_iter().flat_map(|one| one.keys().copied()).collect();
    all.sort_unstable();
    all.dedup();
    let mut faults = Vec::new();
    for database in all {
        let of = |counts: &Counts| counts.get(&database).copied().unwrap_or(zero);
        let (before, after, found) = (of(&copy.before), of(&copy.after), of(loaded));
        for (what, before, after, found) in [
            ("keys", before.keys, after.keys, found.keys),
            ("keys with an end", before.expires, after.expires, found.expires),
        ] {
            // Both are the same unless a server answers others between commands that came in one piece.
            if !(before.min(after)..=before.max(after)).contains(&found) {
                faults.push(format!("database {database}: {found} {what} were loaded, the store had {before}"));
            }
        }
    }
    faults.truncate(MOST_NAMED);
    faults
}
