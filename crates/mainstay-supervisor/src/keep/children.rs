//! Starting children and learning of their ends.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mainstay_types::{ChildName, ChildRole, ExitReason, Nonce, Pid};
use rustix::process::{PidfdFlags, Signal, WaitOptions};

use super::{Keep, emit};
use crate::protocol::{Ended, Notice, Refusal, SpawnSpec, User};
use crate::record::Record;
use crate::sandbox::{Places, is_elf};
use crate::sys::{Stage, Start, StartError, View};

/// Listeners that one child may inherit.
const MAX_LISTENERS: usize = 16;
/// Ended tasks that are remembered; each has a name of its own.
const MAX_ENDED_TASKS: usize = 256;
/// Where programs are looked for when the child's environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Name of keep's own leaf beside its children's groups.
const RESERVED: &str = "keep";

/// A start, running or ended.
pub(super) struct Entry {
    pub(super) record: Record,
    pub(super) pidfd: Option<OwnedFd>,
    /// keep is its parent.
    pub(super) is_own: bool,
    /// keep sent SIGKILL: then that is how it ended, whatever the kernel killed in its group before.
    pub(super) was_killed: bool,
    pub(super) oom_before: u64,
}

/// A request that is not done, and why.
pub(crate) struct Refused {
    pub(crate) reason: String,
    pub(super) kind: Refusal,
}

impl Refused {
    /// Something that this machine lacks.
    pub(crate) fn environment(reason: impl Into<String>) -> Self {
        refuse(Refusal::Environment, reason)
    }
}

pub(super) fn refuse(kind: Refusal, reason: impl Into<String>) -> Refused {
    Refused { reason: reason.into(), kind }
}

fn environment(reason: impl Into<String>) -> Refused {
    Refused::environment(reason)
}

impl Entry {
    pub(super) fn is_running(&self) -> bool {
        self.record.ended.is_none()
    }

    pub(super) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let pidfd = self.pidfd.as_ref().ok_or_else(gone)?;
        self.was_killed |= signal == Signal::KILL;
        Ok(rustix::process::pidfd_send_signal(pidfd, signal)?)
    }
}

/// Opens a handle on a process that cannot come to mean another one.
pub(super) fn open_pidfd(pid: Pid) -> io::Result<OwnedFd> {
    let raw = rustix::process::Pid::from_raw(pid.0).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    Ok(rustix::process::pidfd_open(raw, PidfdFlags::empty())?)
}

/// The meaning of a wait status as `waitpid` has it.
pub(super) fn reason_of(status: i32) -> ExitReason {
    match status & 0x7f {
        0 => ExitReason::Code { code: status >> 8 & 0xff },
        signal => ExitReason::Signal { signal },
    }
}

pub(crate) fn c_string(text: &[u8], what: &str) -> Result<CString, Refused> {
    CString::new(text).map_err(|_| refuse(Refusal::Invalid, format!("{what} holds a zero byte")))
}

/// The file to execute: a path as it is (relative to `dir`), a bare name from `PATH`, as its user would find it there:
/// what that user cannot run is passed over, as long as there is another one.
pub(crate) fn resolve(spec: &SpawnSpec, user: Option<&User>, view: Option<&View>) -> Result<PathBuf, Refused> {
    let program = spec.argv.first().filter(|program| !program.is_empty());
    let program = program.ok_or_else(|| refuse(Refusal::Invalid, format!("{} has no program", spec.name)))?;
    if program.contains('/') {
        return Ok(spec.dir.join(program));
    }
    let path = spec.env.get("PATH").map_or(DEFAULT_PATH, |path| path.expose());
    let is_program = |file: &PathBuf| file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let all: Vec<PathBuf> =
        path.split(':').map(|folder| spec.dir.join(folder).join(program)).filter(is_program).collect();
    let can_run = |file: &&PathBuf| user.is_none_or(|user| crate::sandbox::can_run(file, user, view));
    all.iter()
        .find(can_run)
        .or(all.first())
        .cloned()
        .ok_or_else(|| environment(format!("program {program:?} is not in PATH ({path}): install it or correct PATH")))
}

/// What the user of a child must be able to come to.
pub(crate) fn places(spec: &SpawnSpec) -> Places<'_> {
    Places { dir: &spec.dir, project: spec.project.as_deref(), shown: &spec.shown }
}

fn open_log(spec: &SpawnSpec, is_root: bool) -> io::Result<File> {
    if let Some(folder) = spec.log.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&spec.log)?;
    if let Some(user) = spec.user.as_ref().filter(|_| is_root) {
        // Programs open /dev/stderr anew, which asks for the file's own permission.
        std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
    }
    Ok(file)
}

fn env_of(spec: &SpawnSpec) -> Result<Vec<CString>, Refused> {
    let numbered = (3..).zip(&spec.listeners).map(|(number, name)| format!("{name}:{number}"));
    let listeners = numbered.collect::<Vec<_>>().join(",");
    let ours = [
        (crate::NONCE_VARIABLE, Some(spec.nonce.as_str())),
        (crate::LISTENERS_VARIABLE, (!listeners.is_empty()).then_some(listeners.as_str())),
    ];
    let given = spec.env.iter().map(|(name, value)| (name.as_str(), Some(value.expose())));
    given
        .filter(|(name, _)| ours.iter().all(|(own, _)| own != name))
        .chain(ours)
        .filter_map(|(name, value)| value.map(|value| (name, value)))
        .map(|(name, value)| c_string(format!("{name}={value}").as_bytes(), &format!("variable {name}")))
        .collect()
}

pub(crate) fn explain(spec: &SpawnSpec, program: &Path, failed: &StartError) -> Refused {
    let error = &failed.error;
    let (file, program, dir) = (program, program.display(), spec.dir.display());
    let user = spec.user.as_ref().map_or_else(String::new, |user| format!(" as user {}", user.uid));
    let is_there = error.kind() == io::ErrorKind::NotFound && file.exists();
    environment(match failed.stage {
        // The kernel's words are about the interpreter then, and people look at the file.
        Stage::Exec if is_there => {
            format!("cannot execute {program}{user}: the interpreter that its first line names is not there")
        }
        Stage::Exec => format!("cannot execute {program} in {dir}{user}: {error}{}", closed(spec, file, error)),
        Stage::Folder => format!("cannot enter {dir}{user} to run {program}: {error}"),
        Stage::User => format!("cannot become user {:?} to run {program}: {error}", spec.user),
        Stage::View => format!(
            "cannot make a private view for {dir}{user}: {error}; move the project to a folder that others may enter, or run mainstay as the user who owns it"
        ),
        Stage::Fork | Stage::Session | Stage::Descriptors => format!("cannot start {program} in {dir}: {error}"),
    })
}

/// The folder that is closed to the user of a child, when that is why it may not run its program.
fn closed(spec: &SpawnSpec, program: &Path, error: &io::Error) -> String {
    let user = spec.user.as_ref().filter(|_| error.kind() == io::ErrorKind::PermissionDenied);
    let Some((real, folder)) = user.and_then(|user| crate::sandbox::closed_program(program, user)) else {
        return String::new();
    };
    let real = if real == program { "it".to_owned() } else { real.display().to_string() };
    format!("; {real} lies below {}, which is closed to that user", folder.display())
}

impl Keep {
    /// Starts a child: intent, lock, process, record, in this order.
    pub(super) fn spawn(&mut self, spec: SpawnSpec) -> Result<Pid, Refused> {
        self.refuse_if_impossible(&spec)?;
        self.clear_leftovers(&spec)?;
        for name in &spec.listeners {
            self.need_listener(name)?;
        }
        let group = self.cgroups.create(spec.name.as_str(), &spec.limits);
        let mut record = Record::intent(&spec, &self.boot, group, crate::now());
        record.ended_before = self.children.get(&spec.name).and_then(|before| before.record.ended.clone());
        let oom_before = record.group.oom_kills();
        let pid = match self.start(&spec, &record) {
            Ok(pid) => pid,
            Err(refused) => {
                self.records.forget(&spec.nonce);
                record.group.remove();
                return Err(refused);
            }
        };
        record.pid = Some(pid);
        // It is our child and not reaped, so the id is its own even if it has ended already.
        record.start_time = crate::proc::stat(pid).map(|stat| stat.start_time);
        if let Err(error) = self.records.save(&record) {
            // The intent stands, and the next keep finds the process by its nonce.
            emit("record-not-saved", &format!("{}: {error}", spec.name));
        }
        let entry = Entry { record, pidfd: open_pidfd(pid).ok(), is_own: true, was_killed: false, oom_before };
        emit("child-started", &format!("{}: pid {pid}", spec.name));
        if let Some(old) = self.children.insert(spec.name.clone(), entry) {
            self.records.forget(&old.record.nonce);
        }
        if spec.restart {
            self.will_restart(spec);
        }
        self.forget_old_tasks();
        Ok(pid)
    }

    fn refuse_if_impossible(&self, spec: &SpawnSpec) -> Result<(), Refused> {
        if spec.name.as_str() == RESERVED {
            return Err(refuse(Refusal::Invalid, format!("child name {RESERVED:?} is keep's own")));
        }
        if spec.listeners.len() > MAX_LISTENERS {
            let given = spec.listeners.len();
            return Err(refuse(
                Refusal::Invalid,
                format!("{given} listeners for {}, limit is {MAX_LISTENERS}", spec.name),
            ));
        }
        if let Some(running) = self.children.get(&spec.name).filter(|entry| entry.is_running()) {
            let child = running.record.child(running.is_own);
            let text = format!("{} runs already: pid {}, since {}", spec.name, child.pid, child.since);
            return Err(refuse(Refusal::AlreadyRunning, text));
        }
        let me = rustix::process::geteuid().as_raw();
        if let Some(user) = spec.user.as_ref().filter(|user| !self.is_root() && user.uid != me) {
            let text = format!(
                "{} cannot run as user {}: keep runs as user {me}, only root can become another",
                spec.name, user.uid
            );
            return Err(environment(text));
        }
        if self.records.knows(&spec.nonce) || self.records.is_held(&spec.nonce) {
            return Err(refuse(Refusal::AlreadyRunning, format!("start {} was made already", spec.nonce)));
        }
        Ok(())
    }

    /// What the last start of this name left behind must be gone, or two would run. Orphans of a postmaster
    /// still write, so for them it is the caller who fences and asks for the proof.
    fn clear_leftovers(&self, spec: &SpawnSpec) -> Result<(), Refused> {
        let Some(old) = self.children.get(&spec.name) else { return Ok(()) };
        let target = self.target(&old.record);
        let left = if spec.role == ChildRole::Postgres { target.find(self.me) } else { target.kill_within(self.me) };
        if left.is_empty() {
            // A fresh group: limits and counts of the last start must not show in this one.
            target.remove_group();
            return Ok(());
        }
        let pids = super::kill::list(&left);
        let text =
            format!("the last start of {} left processes {pids}: kill its tree ({}) first", spec.name, target.nonce);
        Err(refuse(Refusal::AlreadyRunning, text))
    }

    fn start(&self, spec: &SpawnSpec, intent: &Record) -> Result<Pid, Refused> {
        let user = spec.user.as_ref().filter(|_| self.is_root());
        let view = user.map(|user| crate::sandbox::view(places(spec), user));
        let view = view.transpose().map_err(environment)?.flatten();
        let program = resolve(spec, user, view.as_ref())?;
        let c_program = c_string(program.as_os_str().as_bytes(), "program")?;
        let hidden = spec.user.as_ref().filter(|user| crate::sandbox::needs_open_file(&program, user, view.as_ref()));
        let program_file = hidden.and_then(|_| crate::sys::open_program(&c_program).ok()).filter(is_elf);
        let at = |what: String| move |error: io::Error| environment(format!("{what}: {error}"));
        let log = open_log(spec, self.is_root()).map_err(at(format!("cannot open log {}", spec.log.display())))?;
        let null = File::open("/dev/null").map_err(at("cannot open /dev/null".to_owned()))?;
        let argv = spec.argv.iter().map(|text| c_string(text.as_bytes(), "argument")).collect::<Result<_, _>>()?;
        let env = env_of(spec)?;
        let dir = c_string(spec.dir.as_os_str().as_bytes(), "folder")?;
        let doors = intent.group.doors();
        self.records.save(intent).map_err(at(format!("cannot record the start of {}", spec.name)))?;
        let lock = self.records.lock(&spec.nonce).map_err(at(format!("cannot lock start {}", spec.nonce)))?;
        let started = crate::sys::start(Start {
            program: c_program,
            program_file: program_file.as_ref().map(AsFd::as_fd),
            argv,
            env,
            dir,
            stdin: null.as_fd(),
            output: log.as_fd(),
            listeners: self.listeners.borrow(&spec.listeners),
            lock: Some(lock.as_fd()),
            groups: doors.iter().map(AsFd::as_fd).collect(),
            view,
            user: spec.user.as_ref().filter(|_| self.is_root()).map(|user| (user.uid, user.gid)),
            is_detached: false,
        });
        started.map(Pid).map_err(|failed| explain(spec, &program, &failed))
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    /// Collects every ended process whose parent keep is: children, and orphans that came to the subreaper.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = Pid(pid.as_raw_nonzero().get());
            let is_it = |entry: &&Entry| entry.is_running() && entry.is_own && entry.record.pid == Some(pid);
            let name = self.children.values().find(is_it).map(|entry| entry.record.name.clone());
            if let Some(name) = name {
                self.finish(&name, reason_of(status.as_raw()));
            }
        }
    }

    /// Records the end of a child and tells everyone.
    pub(super) fn finish(&mut self, name: &ChildName, reason: ExitReason) {
        let Some(entry) = self.children.get_mut(name) else { return };
        let is_kill = reason == ExitReason::Signal { signal: Signal::KILL.as_raw() };
        let is_oom = is_kill && !entry.was_killed && entry.record.group.oom_kills() > entry.oom_before;
        let reason = if is_oom { ExitReason::OutOfMemory } else { reason };
        let is_success = reason.is_success();
        emit("child-ended", &format!("{name}: {reason}"));
        entry.record.ended = Some(Ended { reason, at: crate::now() });
        entry.pidfd = None;
        let child = entry.record.child(entry.is_own);
        // First told, then written: a slow disk must not delay a failover.
        self.clients.notify(&Notice::Exited { child });
        let Some(entry) = self.children.get(name) else { return };
        if let Err(error) = self.records.save(&entry.record) {
            emit("record-not-saved", &format!("{name}: {error}"));
        }
        entry.record.group.remove();
        self.consider_restart(name, is_success);
    }

    /// Groups whose last process went after the child itself.
    pub(super) fn remove_empty_groups(&self) {
        for entry in self.children.values().filter(|entry| !entry.is_running()) {
            entry.record.group.remove();
        }
    }

    fn forget_old_tasks(&mut self) {
        let is_old = |entry: &&Entry| entry.record.role == ChildRole::Task && !entry.is_running();
        let mut old: Vec<_> = self
            .children
            .values()
            .filter(is_old)
            .map(|entry| (entry.record.started_at, entry.record.name.clone()))
            .collect();
        old.sort();
        for (_, name) in old.iter().take(old.len().saturating_sub(MAX_ENDED_TASKS)) {
            if let Some(entry) = self.children.remove(name) {
                self.records.forget(&entry.record.nonce);
            }
        }
    }

    /// The child that is this start, if it runs.
    pub(super) fn running(&mut self, nonce: &Nonce) -> Option<&mut Entry> {
        self.children.values_mut().find(|entry| entry.record.nonce == *nonce && entry.is_running())
    }
}
