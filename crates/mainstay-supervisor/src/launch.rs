//! Starting keep as a process of its own: for `mainstay up`, and for a control plane whose keep died.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mainstay_types::Pid;

use crate::client::{Hello, hello_blocking};
use crate::sys::Start;

/// How long keep may take until it answers. It adopts first, which reads a file a child.
const START_WITHIN: Duration = Duration::from_secs(10);
/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Lines of keep's log in an error.
const LINES: usize = 8;

/// Variables that keep does not inherit.
static HIDDEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A keep that is started from now on does not get this variable: it holds a key that was sealed instead, and the
/// environment of a process that lives for months is no place for one.
pub fn hide(variable: &str) {
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).push(variable.to_owned());
}

/// Why keep did not come.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended at once.
    #[error("keep ended before it answered; its log {log} ends with:\n{lines}")]
    Ended {
        /// Its log.
        log: PathBuf,
        /// The last lines.
        lines: String,
    },
    /// It runs and is silent; it was left alone.
    #[error("keep (pid {pid}) did not answer within {} s; see {log}", .within.as_secs())]
    Silent {
        /// Its process id.
        pid: Pid,
        /// Its log.
        log: PathBuf,
        /// The time it had.
        within: Duration,
    },
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "zero byte in an argument"))
}

fn start(exe: &Path, args: &[String], log: &File) -> io::Result<Pid> {
    let null = File::open("/dev/null")?;
    let argv =
        [exe.as_os_str()].into_iter().chain(args.iter().map(OsStr::new)).map(c_string).collect::<io::Result<_>>()?;
    // The variables of a child must not make keep look like one: its tree would be killed with the child's.
    let is_ours = |name: &OsStr| name == crate::NONCE_VARIABLE || name == crate::LISTENERS_VARIABLE;
    let hidden = HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let env = std::env::vars_os()
        .filter(|(name, _)| !is_ours(name) && !hidden.iter().any(|one| one.as_str() == name))
        .map(|(name, value)| {
            c_string(
                &[name.as_os_str(), OsStr::new("="), value.as_os_str()].into_iter().collect::<std::ffi::OsString>(),
            )
        })
        .collect::<io::Result<_>>()?;
    let started = crate::sys::start(Start {
        program: c_string(exe.as_os_str())?,
        program_file: None,
        argv,
        env,
        dir: c"/".to_owned(),
        stdin: null.as_fd(),
        output: log.as_fd(),
        listeners: Vec::new(),
        lock: None,
        groups: Vec::new(),
        view: None,
        user: None,
        is_detached: true,
    });
    started.map(Pid).map_err(|failed| failed.error)
}

/// The unit of systemd that a keep is started for, and runs beside.
#[derive(Clone, Debug)]
pub struct Beside {
    /// The service, as in `mainstay-shop-production.service`.
    pub service: String,
    /// Whether a user's own systemd manages it.
    pub is_of_user: bool,
}

impl Beside {
    /// How systemd is asked to run a program in a scope of its own, which is delegated to that program.
    ///
    /// Not below the service's own group: a group whose children have controllers may hold no process itself, and
    /// systemd (before 254) puts the service's next main process just there. Its restart would fail for ever while
    /// children run. The scope is stopped after the service, whose stopping is the orderly one.
    fn words(&self, exe: &Path, args: &[String], mark: &str) -> Vec<String> {
        let stem = self.service.strip_suffix(".service").unwrap_or(&self.service);
        let user = self.is_of_user.then(|| "--user".to_owned());
        let options = [
            "--scope",
            "--quiet",
            "--collect",
            &format!("--unit={stem}-{mark}"),
            &format!("--description=what {} runs", self.service),
            &format!("--property=Before={}", self.service),
            "--property=Delegate=yes",
            "--property=TasksMax=infinity",
            "--",
        ]
        .map(str::to_owned);
        user.into_iter().chain(options).chain([exe.display().to_string()]).chain(args.iter().cloned()).collect()
    }
}

/// systemd's program that makes a scope and becomes what it was told to run: keep has the same pid.
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";

/// Starts keep detached (own session, nobody's child, no descriptor of ours) and returns once it answers
/// on the socket in `runtime`. Blocks: an async caller gives it a thread.
///
/// `exe` is an absolute path, `args` make it call [`crate::keep::run`] with the same `runtime`; `log` gets
/// its standard output and error. `beside` names the unit of systemd that this is for, if it is for one.
///
/// **Errors**: see [`Error`].
pub fn start_keep(
    exe: &Path,
    args: &[String],
    runtime: &Path,
    log: &Path,
    beside: Option<&Beside>,
) -> Result<Hello, Error> {
    let words = match beside {
        None => args.to_vec(),
        Some(beside) => beside.words(exe, args, &mark()),
    };
    let (exe, args) = (if beside.is_some() { Path::new(SYSTEMD_RUN) } else { exe }, words.as_slice());
    let cannot = |source| Error::Start { program: exe.to_owned(), source };
    let open = || -> io::Result<File> {
        if let Some(folder) = log.parent() {
            std::fs::create_dir_all(folder)?;
        }
        OpenOptions::new().append(true).create(true).mode(0o640).open(log)
    };
    let file = open().map_err(cannot)?;
    let before = file.metadata().map_err(cannot)?.len();
    let pid = start(exe, args, &file).map_err(cannot)?;
    let deadline = Instant::now() + START_WITHIN;
    loop {
        // Looked at before the socket: an answer of the right process counts even if it ends just after.
        let is_alive = crate::proc::stat(pid).is_some_and(|stat| stat.is_alive());
        if let Ok(hello) = hello_blocking(runtime, START_WITHIN)
            && hello.pid == pid
        {
            return Ok(hello);
        }
        if !is_alive {
            return Err(Error::Ended { log: log.to_owned(), lines: last_lines(log, before) });
        }
        if Instant::now() >= deadline {
            return Err(Error::Silent { pid, log: log.to_owned(), within: START_WITHIN });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Tells one start's scope from the next one's: what an earlier start left running keeps its own.
fn mark() -> String {
    crate::ids::nonce()
        .map_or_else(|_| std::process::id().to_string(), |nonce| nonce.to_string().chars().take(8).collect())
}

fn last_lines(log: &Path, since: u64) -> String {
    let Ok(chunk) = crate::logs::follow(log, since) else { return String::new() };
    let text = String::from_utf8_lossy(&chunk.bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keep_for_a_service_gets_a_scope_beside_it_that_stops_after_it() {
        let beside = Beside { service: "mainstay-shop-production.service".to_owned(), is_of_user: true };
        let words = beside.words(Path::new("/var/lib/x/bin/mainstay"), &["keep".to_owned()], "1a2b");
        assert_eq!(words.first().map(String::as_str), Some("--user"));
        for word in [
            "--unit=mainstay-shop-production-1a2b",
            "--property=Before=mainstay-shop-production.service",
            "--property=Delegate=yes",
        ] {
            assert!(words.iter().any(|one| one == word), "{word} is not in {words:?}");
        }
        assert_eq!(words[words.len() - 3..], ["--", "/var/lib/x/bin/mainstay", "keep"]);
    }
}
