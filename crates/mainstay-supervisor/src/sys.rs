//! The only unsafe code of the workspace: fork and exec, signals as a descriptor, exit codes by pidfd.
//!
//! Everything a child needs is made before the fork; between fork and exec only system calls are made, no
//! memory is allocated and no lock is taken.
#![expect(unsafe_code, reason = "fork, execveat, signalfd and PIDFD_GET_INFO have no safe interface")]

pub mod inherited;
pub mod shared_memory;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use rustix::process::{Resource, Rlimit};

/// Descriptors that a child inherits wait above this number, so that placing one never hits another.
const SHELF: RawFd = 64;

/// What a failing child was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    Fork = 0,
    Session = 1,
    View = 2,
    Descriptors = 3,
    User = 4,
    Folder = 5,
    Exec = 6,
}

impl Stage {
    fn from_byte(byte: u8) -> Self {
        [Self::Fork, Self::Session, Self::View, Self::Descriptors, Self::User, Self::Folder, Self::Exec]
            .into_iter()
            .find(|stage| *stage as u8 == byte)
            .unwrap_or(Self::Exec)
    }
}

/// A start that failed: where, and what the kernel said.
#[derive(Debug)]
pub(crate) struct StartError {
    pub(crate) stage: Stage,
    pub(crate) error: io::Error,
}

/// A private view of the file system: closed folders become empty ones that hold only what is shown, in this order.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) shown: Vec<Shown>,
}

/// A folder that a view shows.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Becomes an empty folder first; `None`: it has become one for a folder before this one.
    pub(crate) blocked: Option<CString>,
    /// Folders to make in the empty one, outermost first; the last is `folder`.
    pub(crate) parents: Vec<CString>,
    pub(crate) folder: CString,
}

/// All that a start needs.
pub(crate) struct Start<'a> {
    pub(crate) program: CString,
    /// Executes this descriptor instead of the path, when the child's user cannot reach the path.
    pub(crate) program_file: Option<BorrowedFd<'a>>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) dir: CString,
    pub(crate) stdin: BorrowedFd<'a>,
    pub(crate) output: BorrowedFd<'a>,
    /// Become 3, 4, … in the child.
    pub(crate) listeners: Vec<BorrowedFd<'a>>,
    /// Stays open in the child and all its descendants.
    pub(crate) lock: Option<BorrowedFd<'a>>,
    /// `cgroup.procs` of each group to join.
    pub(crate) groups: Vec<BorrowedFd<'a>>,
    pub(crate) view: Option<View>,
    /// User and group to become.
    pub(crate) user: Option<(u32, u32)>,
    /// A second fork, so that the child is nobody's here and its parent becomes init.
    pub(crate) is_detached: bool,
}

struct Prepared {
    program: CString,
    program_file: Option<OwnedFd>,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    dir: CString,
    stdin: OwnedFd,
    output: OwnedFd,
    listeners: Vec<OwnedFd>,
    lock: Option<OwnedFd>,
    groups: Vec<OwnedFd>,
    view: Option<View>,
    user: Option<(u32, u32)>,
    is_detached: bool,
    report: OwnedFd,
}

fn shelve(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, SHELF)?)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Starts a process and returns its id once it executes the program.
///
/// **Errors**: what the child could not do before its program ran; nothing is left of it then.
pub(crate) fn start(start: Start<'_>) -> Result<i32, StartError> {
    let before_fork = |error: io::Error| StartError { stage: Stage::Fork, error };
    let (read_end, write_end) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| before_fork(errno.into()))?;
    let prepare = |write_end: &OwnedFd| -> io::Result<Prepared> {
        Ok(Prepared {
            program: start.program,
            program_file: start.program_file.map(shelve).transpose()?,
            argv: pointers(&start.argv),
            env: pointers(&start.env),
            dir: start.dir,
            stdin: shelve(start.stdin)?,
            output: shelve(start.output)?,
            listeners: start.listeners.iter().map(|fd| shelve(*fd)).collect::<io::Result<_>>()?,
            lock: start.lock.map(shelve).transpose()?,
            groups: start.groups.iter().map(|fd| shelve(*fd)).collect::<io::Result<_>>()?,
            view: start.view,
            user: start.user,
            is_detached: start.is_detached,
            report: shelve(write_end.as_fd())?,
        })
    };
    let prepared = prepare(&write_end).map_err(before_fork)?;
    drop(write_end);
    // SAFETY: the child calls only `run_child`, which makes system calls on values made above and ends in
    // exec or _exit; `start.argv` and `start.env`, which the pointers are into, live to the end of this function.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(before_fork(io::Error::last_os_error()));
    }
    if pid == 0 {
        run_child(&prepared);
    }
    let is_detached = prepared.is_detached;
    drop(prepared);
    await_report(read_end, pid, is_detached)
}

/// Reads what the child says until its exec closes the pipe.
fn await_report(read_end: OwnedFd, pid: i32, is_detached: bool) -> Result<i32, StartError> {
    // Frames of nine bytes: 255 and the detached process's id, or a stage and an error number.
    let mut said = Vec::new();
    let read = File::from(read_end).take(18).read_to_end(&mut said);
    let mut child = pid;
    let mut failure = read.err().map(|error| StartError { stage: Stage::Fork, error });
    for frame in said.chunks_exact(9) {
        let value = i64::from_ne_bytes(frame[1..9].try_into().unwrap_or_default());
        let value = i32::try_from(value).unwrap_or(0);
        if frame[0] == u8::MAX {
            child = value;
        } else {
            let error = io::Error::from_raw_os_error(value);
            failure = Some(StartError { stage: Stage::from_byte(frame[0]), error });
        }
    }
    if (is_detached || failure.is_some())
        && let Some(intermediate) = rustix::process::Pid::from_raw(pid)
    {
        // The process has ended or is about to; there is nothing to learn from its status.
        rustix::process::waitpid(Some(intermediate), rustix::process::WaitOptions::empty()).ok();
    }
    failure.map_or(Ok(child), Err)
}

fn say(report: &OwnedFd, kind: u8, value: i64) {
    let mut frame = [kind; 9];
    frame[1..9].copy_from_slice(&value.to_ne_bytes());
    // A frame this small is written whole or not at all; nobody could be told of a failure.
    rustix::io::write(report, &frame).ok();
}

/// What takes the place of this process.
pub(crate) struct Replacement<'a> {
    pub(crate) program: CString,
    /// As in [`Start`].
    pub(crate) program_file: Option<BorrowedFd<'a>>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    pub(crate) dir: CString,
    /// `cgroup.procs` of each group to join.
    pub(crate) groups: Vec<BorrowedFd<'a>>,
    pub(crate) view: Option<View>,
    pub(crate) user: Option<(u32, u32)>,
}

/// Executes a program in the place of this process, with its terminal, session and standard streams. Only the calling
/// thread goes on into it. Returns when that failed; the process may be another user by then, and should end.
pub(crate) fn replace(new: Replacement<'_>) -> StartError {
    let mut stage = Stage::View;
    match replace_steps(&new, &mut stage) {
        Ok(never) => match never {},
        Err(error) => StartError { stage, error },
    }
}

fn replace_steps(new: &Replacement<'_>, stage: &mut Stage) -> io::Result<std::convert::Infallible> {
    // SAFETY: the default action is always a valid one. Rust ignores this signal, and a program expects not to.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    for group in &new.groups {
        // "0" is the writer itself. A group that refuses is a limit less, not a reason not to run.
        rustix::io::write(group, b"0").ok();
    }
    if let Some(view) = &new.view {
        rustix::process::umask(Mode::from_raw_mode(0o022));
        enter(view)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o027));
    close_the_rest_at_exec();
    *stage = Stage::User;
    become_user(new.user)?;
    *stage = Stage::Folder;
    rustix::process::chdir(new.dir.as_c_str())?;
    *stage = Stage::Exec;
    Err(exec(&new.program, new.program_file, &pointers(&new.argv), &pointers(&new.env)))
}

/// In the child: all steps up to the program.
fn run_child(prepared: &Prepared) -> ! {
    let mut stage = Stage::Session;
    let errno = match steps(prepared, &mut stage) {
        Ok(never) => match never {},
        Err(error) => error.raw_os_error().unwrap_or(libc::EINVAL),
    };
    say(&prepared.report, stage as u8, i64::from(errno));
    // SAFETY: `_exit` ends the process at once; no handler or destructor of the parent's memory runs.
    unsafe { libc::_exit(127) }
}

fn steps(prepared: &Prepared, stage: &mut Stage) -> io::Result<std::convert::Infallible> {
    reset_signals();
    rustix::process::setsid()?;
    if prepared.is_detached {
        detach(&prepared.report)?;
    }
    for group in &prepared.groups {
        // "0" is the writer itself. A group that refuses is a limit less, not a reason not to run.
        rustix::io::write(group, b"0").ok();
    }
    *stage = Stage::View;
    if let Some(view) = &prepared.view {
        rustix::process::umask(Mode::from_raw_mode(0o022));
        enter(view)?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o027));
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    *stage = Stage::Descriptors;
    place(prepared)?;
    *stage = Stage::User;
    become_user(prepared.user)?;
    *stage = Stage::Folder;
    rustix::process::chdir(prepared.dir.as_c_str())?;
    *stage = Stage::Exec;
    let program_file = prepared.program_file.as_ref().map(AsFd::as_fd);
    Err(exec(&prepared.program, program_file, &prepared.argv, &prepared.env))
}

/// keep blocks and reads its signals; a child gets a clean mask and default actions.
fn reset_signals() {
    // SAFETY: an empty set and default actions for existing signals are always valid; the pointers are to
    // locals or null.
    unsafe {
        let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE, libc::SIGCHLD] {
            libc::signal(signal, libc::SIG_DFL);
        }
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

fn detach(report: &OwnedFd) -> io::Result<()> {
    // SAFETY: this process is single-threaded (it came from a fork); both sides only make system calls.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => Ok(()),
        ..0 => Err(io::Error::last_os_error()),
        _ => {
            say(report, u8::MAX, i64::from(pid));
            // SAFETY: ends the intermediate process at once, as in `run_child`.
            unsafe { libc::_exit(0) }
        }
    }
}

fn enter(view: &View) -> io::Result<()> {
    // SAFETY: without CLONE_FILES or CLONE_FS trickery a new mount namespace changes no memory or descriptor.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)? };
    rustix::mount::mount_change(c"/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    show(&view.shown)
}

/// Shows these in their order. All are opened before the first closed folder is hidden, which may hold any of them; by
/// recursion, because a forked child allocates nothing.
fn show(all: &[Shown]) -> io::Result<()> {
    let Some((last, before)) = all.split_last() else { return Ok(()) };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, last.folder.as_c_str(), flags)?;
    show(before)?;
    if let Some(blocked) = &last.blocked {
        let tmpfs = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount(c"mainstay", blocked.as_c_str(), c"tmpfs", tmpfs, Some(c"mode=0755,size=64k"))?;
    }
    for parent in &last.parents {
        match rustix::fs::mkdir(parent.as_c_str(), Mode::from_raw_mode(0o755)) {
            // Made for a folder beside this one.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree.as_fd(), c"", rustix::fs::CWD, last.folder.as_c_str(), whole)?;
    Ok(())
}

/// Marks every descriptor above standard error to close at exec: what this process was itself given without
/// the mark (its own lock, when a child of keep starts the next keep) must not travel on.
fn close_the_rest_at_exec() {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: no descriptor is closed here, only marked. Kernels before 5.11 refuse, and then children have
    // some more descriptors.
    unsafe { libc::close_range(3, libc::c_uint::MAX, flags) };
}

fn place(prepared: &Prepared) -> io::Result<()> {
    let dup = |from: &OwnedFd, to: RawFd| {
        // SAFETY: `from` is open; `to` is below SHELF, where this child (whose parent's values are never
        // used again on this side) owns nothing it still needs.
        if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    close_the_rest_at_exec();
    dup(&prepared.stdin, 0)?;
    dup(&prepared.output, 1)?;
    dup(&prepared.output, 2)?;
    for (number, listener) in (3..).zip(&prepared.listeners) {
        dup(listener, number)?;
        // With Yama only ancestors may take a descriptor from a process; the next keep is none, and must
        // get the listener back. This opens the child to its own user's processes, no others.
        rustix::process::set_ptracer(rustix::process::PTracer::Any).ok();
    }
    if let Some(lock) = &prepared.lock {
        rustix::io::fcntl_setfd(lock, rustix::io::FdFlags::empty())?;
    }
    Ok(())
}

fn become_user(user: Option<(u32, u32)>) -> io::Result<()> {
    let Some((uid, gid)) = user else { return Ok(()) };
    let (uid, gid) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&[gid])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// `argv` and `env` are of [`pointers`].
fn exec(
    program: &CStr,
    program_file: Option<BorrowedFd<'_>>,
    argv: &[*const libc::c_char],
    env: &[*const libc::c_char],
) -> io::Error {
    let (argv, env) = (argv.as_ptr(), env.as_ptr());
    // SAFETY: both arrays end in null and point to strings that outlive this call.
    unsafe {
        match program_file {
            Some(file) => {
                let (fd, path) = (file.as_raw_fd(), c"".as_ptr());
                libc::syscall(libc::SYS_execveat, fd, path, argv, env, libc::AT_EMPTY_PATH);
            }
            None => {
                libc::execve(program.as_ptr(), argv, env);
            }
        }
    }
    io::Error::last_os_error()
}

/// Signals read as data instead of interrupting. Blocks them for this thread.
#[derive(Debug)]
pub(crate) struct Signals(File);

impl Signals {
    /// Takes over SIGCHLD, SIGTERM, SIGINT and SIGHUP.
    ///
    /// **Errors**: the kernel's.
    pub(crate) fn take() -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before use; signalfd returns a new descriptor or -1.
        let fd = unsafe {
            let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) < 0 {
                return Err(io::Error::last_os_error());
            }
            libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// The next signal's number, if one waits.
    pub(crate) fn next(&mut self) -> Option<i32> {
        let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
        self.0.read_exact(&mut record).ok()?;
        // The number is the record's first field.
        i32::try_from(u32::from_ne_bytes(record[..4].try_into().ok()?)).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What the command starts is killed when the thread that starts it ends, however it ends: nobody is left to end it.
pub fn end_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;

    let parent = rustix::process::getpid();
    let tie = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It may have ended before: then nothing would come any more.
        if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
    };
    // SAFETY: between fork and exec it makes two system calls, and takes no lock and no memory.
    unsafe { command.pre_exec(tie) };
}

/// Whether the kernel says that its clock follows a time source; `None` when it does not answer.
pub fn clock_is_synchronised() -> Option<bool> {
    let mut time = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: all-zero is a valid `timex`; `modes` 0 asks and sets nothing, and the call writes into it alone.
    let (state, time) = unsafe { (libc::adjtimex(time.as_mut_ptr()), time.assume_init()) };
    (state >= 0).then_some(state != libc::TIME_ERROR && time.status & libc::STA_UNSYNC == 0)
}

/// Wait status of an ended process that somebody else has reaped; `None` when the kernel cannot tell
/// (before 6.15) or it is not reaped yet.
pub(crate) fn exit_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let mut info = std::mem::MaybeUninit::<libc::pidfd_info>::zeroed();
    // SAFETY: all-zero is a valid `pidfd_info`; `mask` says what is asked, and the ioctl writes at most the
    // size of the struct that its number encodes.
    let info = unsafe {
        (*info.as_mut_ptr()).mask = u64::from(libc::PIDFD_INFO_EXIT);
        if libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, info.as_mut_ptr()) < 0 {
            return None;
        }
        info.assume_init()
    };
    (info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0).then_some(info.exit_code)
}

/// Opens a program for [`Start::program_file`].
///
/// **Errors**: the file system's.
pub(crate) fn open_program(path: &CStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell<'a>(script: &str, stdin: BorrowedFd<'a>, output: BorrowedFd<'a>) -> Start<'a> {
        let c = |text: &str| CString::new(text).expect("no nul");
        Start {
            program: c("/bin/sh"),
            program_file: None,
            argv: vec![c("sh"), c("-c"), c(script)],
            env: vec![c("X=1")],
            dir: c("/"),
            stdin,
            output,
            listeners: vec![],
            lock: None,
            groups: vec![],
            view: None,
            user: None,
            is_detached: false,
        }
    }

    fn wait(pid: i32) -> Option<i32> {
        let pid = rustix::process::Pid::from_raw(pid);
        let (_, status) = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).expect("waits")?;
        status.exit_status()
    }

    #[test]
    fn what_is_tied_to_who_starts_it_ends_with_him() {
        let start = || {
            let mut command = std::process::Command::new("/bin/sleep");
            command.arg("600");
            end_with_parent(&mut command);
            command.spawn().expect("starts")
        };
        let mut child = std::thread::spawn(start).join().expect("ends");
        let status = child.wait().expect("waits");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    #[test]
    fn the_kernel_says_of_its_clock_what_it_says_twice() {
        // It may be either; what counts is that asking is allowed and changes nothing.
        assert_eq!(clock_is_synchronised(), clock_is_synchronised());
        assert!(clock_is_synchronised().is_some());
    }

    #[test]
    fn a_child_runs_in_a_session_of_its_own_with_only_what_it_was_given() {
        let null = File::open("/dev/null").expect("opens");
        let mut out = tempfile::tempfile().expect("file");
        let script =
            "read s < /proc/self/stat; set -- $s; [ $6 = $$ ] && echo session; env; ls -l /proc/$$/fd/3; umask";
        let output = out.try_clone().expect("clones");
        let mut wanted = shell(script, null.as_fd(), output.as_fd());
        wanted.listeners = vec![null.as_fd()];
        let pid = start(wanted).expect("starts");
        assert_eq!(wait(pid), Some(0));
        let mut text = String::new();
        std::io::Seek::rewind(&mut out).expect("rewinds");
        out.read_to_string(&mut text).expect("reads");
        assert!(text.starts_with("session\n") && text.contains("X=1\n"), "{text}");
        assert!(text.contains("/dev/null") && text.ends_with("0027\n"), "{text}");
        assert!(!text.contains("HOME="), "{text}");
    }

    #[test]
    fn a_failing_step_is_named() {
        let null = File::open("/dev/null").expect("opens");
        let mut wanted = shell("exit 0", null.as_fd(), null.as_fd());
        wanted.dir = CString::new("/no/such").expect("no nul");
        let error = start(wanted).expect_err("fails");
        assert_eq!((error.stage, error.error.kind()), (Stage::Folder, io::ErrorKind::NotFound));
        let mut wanted = shell("exit 0", null.as_fd(), null.as_fd());
        wanted.program = CString::new("/no/program").expect("no nul");
        assert_eq!(start(wanted).expect_err("fails").stage, Stage::Exec);
    }

    #[test]
    fn a_detached_process_is_not_our_child() {
        let null = File::open("/dev/null").expect("opens");
        let mut wanted = shell("exec sleep 30", null.as_fd(), null.as_fd());
        wanted.is_detached = true;
        let pid = rustix::process::Pid::from_raw(start(wanted).expect("starts")).expect("a pid");
        let waited = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
        assert_eq!(waited.expect_err("no child"), rustix::io::Errno::CHILD);
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
    }

    #[test]
    fn a_program_can_be_started_by_descriptor() {
        let null = File::open("/dev/null").expect("opens");
        let sh = open_program(c"/bin/sh").expect("opens");
        let mut wanted = shell("exit 7", null.as_fd(), null.as_fd());
        wanted.program_file = Some(sh.as_fd());
        assert_eq!(wait(start(wanted).expect("starts")), Some(7));
    }

    #[test]
    fn the_exit_status_of_a_reaped_process_is_known_where_the_kernel_has_it() {
        let null = File::open("/dev/null").expect("opens");
        let pid = start(shell("exit 7", null.as_fd(), null.as_fd())).expect("starts");
        let known = rustix::process::Pid::from_raw(pid).expect("a pid");
        let pidfd = rustix::process::pidfd_open(known, rustix::process::PidfdFlags::empty()).expect("opens");
        assert_eq!(wait(pid), Some(7));
        // Kernels before 6.15 do not say; a wrong answer would be worse than none.
        assert!(matches!(exit_status(pidfd.as_fd()), None | Some(0x0700)));
    }

    #[test]
    fn signals_arrive_as_data() {
        // A thread of its own: the mask is the thread's, and a signal to the thread cannot go elsewhere.
        let next = std::thread::spawn(|| {
            let mut signals = Signals::take().expect("takes");
            assert_eq!(signals.next(), None);
            // SAFETY: raises a signal that is blocked in this thread.
            assert_eq!(unsafe { libc::raise(libc::SIGHUP) }, 0);
            signals.next()
        });
        assert_eq!(next.join().expect("thread"), Some(libc::SIGHUP));
    }
}
