//! keep: the parent of everything. One thread, one poll loop, no async runtime.
//!
//! It decides nothing: it starts what it is told, says how it ended, holds listeners open, and restarts the
//! control plane. What it must not forget is on disk before it happens; the next keep goes on from there.

mod adopt;
pub(crate) mod children;
mod clients;
mod control;
mod kill;
mod listeners;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mainstay_types::{Bytes, ChildName, Pid, Secret, Timestamp, exit_code};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::cgroup::Cgroups;
use crate::protocol::Child;
use crate::record::Records;
use crate::sys::Signals;
use children::Entry;
use clients::Clients;

/// How often logs are held to their bound.
const LOG_CHECK: Duration = Duration::from_secs(5);
/// How long the control plane may take to end after SIGTERM before it is killed and keep leaves.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);
/// Longest wait of the loop, so that a lost wake-up costs little.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What keep needs to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of durable state; keep uses `keep.lock`, `children/` and `listeners.json` in it.
    pub state: PathBuf,
    /// Folder of sockets; keep listens on `keep.sock` in it.
    pub runtime: PathBuf,
    /// The control plane, started first and restarted for ever. Without one keep only serves its socket.
    pub control: Option<Control>,
    /// How much of each child's log is kept at least; see [`crate::logs::BOUND`].
    pub log_bound: Bytes,
}

/// How the control plane is started.
#[derive(Clone, Debug)]
pub struct Control {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, Secret>,
    /// Working directory.
    pub dir: PathBuf,
    /// File for its standard output and error.
    pub log: PathBuf,
}

/// Why keep did not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another keep holds this state.
    #[error("another mainstay (keep, pid {pid}, since {since}) holds this state")]
    Held {
        /// Its process id.
        pid: Pid,
        /// When it started.
        since: Timestamp,
    },
    /// The machine said no.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The control plane could not be started at all.
    #[error("cannot start the control plane: {reason}")]
    Control {
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// The exit status of the process that reports this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Held { .. } => exit_code::REFUSED,
            Self::Io { .. } | Self::Control { .. } => exit_code::ENVIRONMENT,
        }
    }
}

/// Makes an [`Error::Io`] out of what a path's operation said.
fn io_error(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::Io { action, path, source }
}

/// One line of keep's own log. keep has no subscriber: what it tells is JSON on standard error.
fn emit(event: &'static str, about: &str) {
    let line = serde_json::json!({ "at": crate::now().to_string(), "event": event, "about": about });
    // Nobody is left to tell when the log cannot be written.
    writeln!(io::stderr(), "{line}").ok();
}

/// Everything keep knows.
struct Keep {
    options: Options,
    boot: String,
    me: Pid,
    since: Timestamp,
    records: Records,
    cgroups: Cgroups,
    children: BTreeMap<ChildName, Entry>,
    listeners: listeners::Listeners,
    clients: Clients,
    kills: Vec<kill::Kill>,
    restarts: BTreeMap<ChildName, control::Restart>,
    log_check_at: Instant,
    /// Set by SIGTERM: when to leave at the latest.
    leave_at: Option<Instant>,
    is_done: bool,
    _lock: std::fs::File,
}

/// Runs keep until it is told to leave. It takes over this process's signals and must be called from its
/// only thread.
///
/// **Errors**: see [`Error`]; nothing was started then, or only what an earlier keep had started runs.
pub fn run(options: Options) -> Result<(), Error> {
    let boot = crate::proc::boot_id().map_err(io_error("read", "/proc/sys/kernel/random/boot_id"))?;
    for folder in [&options.state, &options.runtime] {
        // Children that dropped root pass through, whatever the umask says.
        let is_new = !folder.exists();
        std::fs::create_dir_all(folder).map_err(io_error("make", folder))?;
        if is_new {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
            std::fs::set_permissions(folder, mode).map_err(io_error("set the mode of", folder))?;
        }
    }
    let since = crate::now();
    let me = Pid(i32::try_from(std::process::id()).unwrap_or(0));
    let lock = adopt::take_lock(&options.state, me, since, &boot)?;
    let mut signals = Signals::take().map_err(io_error("watch signals of", "keep"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| io_error("become the parent of orphans in", "keep")(errno.into()))?;
    let cgroups = Cgroups::detect(&options.state);
    let records = Records::open(&options.state).map_err(io_error("open", options.state.join("children")))?;
    let listeners = listeners::Listeners::load(&options.state).map_err(io_error("read", &options.state))?;
    let clients = Clients::listen(&options.runtime.join(crate::SOCKET))
        .map_err(io_error("listen on", options.runtime.join(crate::SOCKET)))?;
    let mut keep = Keep {
        boot,
        me,
        since,
        records,
        cgroups,
        children: BTreeMap::new(),
        listeners,
        clients,
        kills: Vec::new(),
        restarts: BTreeMap::new(),
        log_check_at: Instant::now() + LOG_CHECK,
        leave_at: None,
        is_done: false,
        _lock: lock,
        options,
    };
    emit("keep-started", &keep.cgroups.describe());
    keep.adopt_all();
    keep.regain_listeners();
    keep.start_control()?;
    while !keep.is_done {
        keep.turn(&mut signals).map_err(io_error("poll in", "keep"))?;
    }
    keep.remove_empty_groups();
    keep.cgroups.leave();
    keep.clients.close();
    emit("keep-ended", "its children go on");
    Ok(())
}

impl Keep {
    /// One turn of the loop: wait, then do everything that is due.
    fn turn(&mut self, signals: &mut Signals) -> io::Result<()> {
        self.wait(signals)?;
        while let Some(signal) = signals.next() {
            // SIGHUP and SIGINT say nothing to keep: terminals and Ctrl-C are the business of `up`.
            if signal == rustix::process::Signal::TERM.as_raw() {
                self.begin_to_leave();
            }
        }
        self.reap();
        self.look_at_adopted();
        for (client, request) in self.clients.read() {
            if let Some(answer) = self.serve(client, request.ask, request.id) {
                self.clients.answer(client, request.id, answer);
            }
        }
        self.go_on_killing();
        self.restart_what_is_due();
        self.hold_logs_to_their_bound();
        self.leave_if_due();
        self.clients.flush();
        Ok(())
    }

    fn wait(&self, signals: &Signals) -> io::Result<()> {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        self.clients.poll(&mut fds);
        let adopted = self.children.values().filter(|entry| !entry.is_own).filter_map(|entry| entry.pidfd.as_ref());
        fds.extend(adopted.map(|pidfd| PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)));
        let wait = self.next_due().saturating_duration_since(Instant::now()).min(LONGEST_WAIT);
        // Rounded up, so that a due moment is not waited for in many empty turns.
        let wait = wait + Duration::from_micros(500);
        let timeout =
            Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(0), tv_nsec: wait.subsec_nanos().into() };
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn next_due(&self) -> Instant {
        let restarts = self.restarts.values().filter_map(|restart| restart.due);
        let kills = self.kills.iter().map(|kill| kill.next_pass);
        restarts.chain(kills).chain(self.leave_at).fold(self.log_check_at, Instant::min)
    }

    /// SIGTERM: the control plane is told to end, the children stay.
    fn begin_to_leave(&mut self) {
        if self.leave_at.is_some() {
            return;
        }
        emit("keep-stopping", "SIGTERM");
        self.leave_at = Some(Instant::now() + LEAVE_WITHIN);
        self.signal_control(rustix::process::Signal::TERM);
    }

    fn leave_if_due(&mut self) {
        let Some(at) = self.leave_at else { return };
        if !self.is_control_running() {
            self.is_done = true;
        } else if Instant::now() >= at {
            // It is made to be killed at any moment; left alive it would talk to nobody.
            self.signal_control(rustix::process::Signal::KILL);
            self.is_done = true;
        }
    }

    fn hold_logs_to_their_bound(&mut self) {
        if Instant::now() < self.log_check_at {
            return;
        }
        self.log_check_at = Instant::now() + LOG_CHECK;
        for entry in self.children.values() {
            if let Err(error) = crate::logs::enforce(&entry.record.log, self.options.log_bound)
                && error.kind() != io::ErrorKind::NotFound
            {
                emit("log-not-bounded", &format!("{}: {error}", entry.record.log.display()));
            }
        }
        self.remove_empty_groups();
    }

    fn children_as_seen(&self) -> Vec<Child> {
        self.children.values().map(|entry| entry.record.child(entry.is_own)).collect()
    }
}
