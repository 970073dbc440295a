//! Starting keep as a process of its own: for `mainstay up`, and for a control plane whose keep died.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
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
    let env = std::env::vars_os()
        .filter(|(name, _)| !is_ours(name))
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

/// Starts keep detached (own session, nobody's child, no descriptor of ours) and returns once it answers
/// on the socket in `runtime`. Blocks: an async caller gives it a thread.
///
/// `exe` is an absolute path, `args` make it call [`crate::keep::run`] with the same `runtime`; `log` gets
/// its standard output and error.
///
/// **Errors**: see [`Error`].
pub fn start_keep(exe: &Path, args: &[String], runtime: &Path, log: &Path) -> Result<Hello, Error> {
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

fn last_lines(log: &Path, since: u64) -> String {
    let Ok(chunk) = crate::logs::follow(log, since) else { return String::new() };
    let text = String::from_utf8_lossy(&chunk.bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
