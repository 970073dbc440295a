//! One stack in folders of its own, the program that is tested, and what is left of both.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use mainstay_controller::paths::Paths;
use mainstay_types::{EnvironmentName, StackName};
use rustix::process::{Pid, Signal};

/// Longer than `up` waits for anything in these tests, shorter than CI's patience.
const DEADLINE: Duration = Duration::from_secs(100);
/// Time for the last process to be gone after a command that says so.
const GONE: Duration = Duration::from_secs(3);

/// A free port outside the range that the kernel gives away by itself, different at each call.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 100).expect("below 100") * 100;
    loop {
        let port = 20_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

pub(crate) struct World {
    folder: tempfile::TempDir,
    name: &'static str,
    /// edge-https, edge-http, console, router-write, router-read.
    pub(crate) ports: [u16; 5],
}

/// What a command did.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) text: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Self { code: output.status.code().unwrap_or(-1), text }
    }

    /// It failed in this way: the exit status, the code, and these words (place, value, hint).
    pub(crate) fn fails(&self, code: i32, name: &str, words: &[&str]) {
        assert_eq!(self.code, code, "exit status; it said:\n{}", self.text);
        let marks = [format!("error[{name}]"), "hint:".to_owned()];
        for word in marks.iter().map(String::as_str).chain(words.iter().copied()) {
            assert!(self.text.contains(word), "{word:?} is not in:\n{}", self.text);
        }
    }

    pub(crate) fn succeeds(&self) {
        assert_eq!(self.code, 0, "it said:\n{}", self.text);
    }
}

/// A service that answers HTTP on its port.
pub(crate) const ANSWERS: &str = r#"run = ["sh", "-c", "exec python3 -m http.server $PORT --bind 127.0.0.1"]"#;

impl World {
    /// A stack of one service and a database of one member.
    pub(crate) fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let world = Self { folder, name, ports: std::array::from_fn(|_| free_port()) };
        std::fs::create_dir(world.app()).expect("folder");
        for path in [world.folder.path(), &world.app()] {
            // Services that dropped root look at their folder.
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("mode");
        }
        world.write(&world.stack(ANSWERS, "standbys = 0"));
        world
    }

    pub(crate) fn app(&self) -> PathBuf {
        self.folder.path().join("app")
    }

    /// The folder of all state.
    pub(crate) fn base(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn paths(&self) -> Paths {
        let stack = StackName::new(self.name).expect("valid");
        Paths::new(&self.base(), &stack, &EnvironmentName::default()).expect("absolute")
    }

    /// The text of a stack file.
    pub(crate) fn stack(&self, service: &str, database: &str) -> String {
        let [https, http, console, write, read] = self.ports;
        format!(
            "stack = \"{}\"\n\n[edge]\nhttps_port = {https}\nhttp_port = {http}\n\n[console]\nport = {console}\n\n\
             [observe]\nenabled = false\n\n[service.web]\n{service}\n\n[database]\nwrite_port = {write}\n\
             read_port = {read}\n{database}\n",
            self.name
        )
    }

    pub(crate) fn write(&self, text: &str) {
        std::fs::write(self.app().join("mainstay.toml"), text).expect("writes");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(arguments).arg("--state").arg(self.base());
        command.current_dir(self.app()).stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
        command
    }

    /// Runs a command of mainstay to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments))
    }

    pub(crate) fn up(&self) -> Ran {
        self.run(&["up", "--detach", "--wait", "60"])
    }

    pub(crate) fn down(&self) -> Ran {
        self.run(&["down"])
    }

    /// A command that goes on, such as `up` in the foreground.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts")
    }

    pub(crate) fn begin_up(&self) -> Child {
        self.begin(&["up"])
    }

    /// `up` in a view of the file system of its own, after a shell command has changed it.
    pub(crate) fn up_in_changed_view(&self, change: &str) -> Ran {
        let inner = self.command(&["up", "--detach", "--wait", "30"]);
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("{change} && exec \"$@\""), "sh"]);
        command.arg(inner.get_program()).args(inner.get_args()).current_dir(self.app()).stdin(Stdio::null());
        finish(command)
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let ran = self.run(&["status", "--json"]);
        serde_json::from_str(&ran.text).unwrap_or_else(|error| panic!("status: {error}: {}", ran.text))
    }

    /// Process ids by child.
    pub(crate) fn pids(&self) -> std::collections::BTreeMap<String, i64> {
        let ran = self.run(&["ps", "--json"]);
        let list: Vec<serde_json::Value> = serde_json::from_str(&ran.text).expect("ps --json");
        let named = |one: &serde_json::Value| Some((one["name"].as_str()?.to_owned(), one["pid"].as_i64()?));
        list.iter().filter_map(named).collect()
    }

    /// One statement as the application, through the router.
    pub(crate) fn sql(&self, statement: &str) -> String {
        let ran = self.run_sql(statement);
        ran.succeeds();
        ran.text.trim().to_owned()
    }

    pub(crate) fn run_sql(&self, statement: &str) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(["db", "--state"]).arg(self.base()).args(["psql", "--", "-qAtc", statement]);
        command.current_dir(self.app()).stdin(Stdio::null());
        finish(command)
    }

    /// `db import` with these arguments, in the application's folder.
    pub(crate) fn import(&self, arguments: &[&str]) -> Ran {
        self.run(&[&["db", "import"], arguments].concat())
    }

    /// `db import` with these bytes on its standard input, which is a pipe.
    pub(crate) fn import_piped(&self, bytes: &[u8], arguments: &[&str]) -> Ran {
        let mut command = self.command(&[&["db", "import", "-"], arguments].concat());
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        let bytes = bytes.to_vec();
        // Whoever refuses early reads no more.
        let feeder = std::thread::spawn(move || writer.write_all(&bytes).ok());
        command.stdin(reader);
        let ran = finish(command);
        feeder.join().expect("ends");
        ran
    }

    /// `db import` that goes on.
    pub(crate) fn begin_import(&self, arguments: &[&str]) -> Child {
        self.begin(&[&["db", "import"], arguments].concat())
    }

    /// The application's database, with its password.
    pub(crate) fn database_url(&self) -> String {
        let ran = self.run(&["env", "web", "--show-secrets"]);
        let line = ran.text.lines().find_map(|line| line.strip_prefix("DATABASE_URL="));
        line.unwrap_or_else(|| panic!("no DATABASE_URL in:\n{}", ran.text)).to_owned()
    }

    /// The processes of this stack: those that carry its folder in arguments, environment, program or folder.
    pub(crate) fn processes(&self) -> BTreeSet<i32> {
        let needle = self.base().into_os_string().into_encoded_bytes();
        let entries = std::fs::read_dir("/proc").expect("proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_its = |pid: &i32| {
            let folder = PathBuf::from(format!("/proc/{pid}"));
            let text = ["cmdline", "environ"].map(|file| std::fs::read(folder.join(file)).unwrap_or_default()).concat();
            let links = ["cwd", "exe"].map(|link| std::fs::read_link(folder.join(link)).unwrap_or_default());
            text.windows(needle.len()).any(|window| window == needle)
                || links.iter().any(|link| link.starts_with(self.base()))
        };
        pids.filter(is_its).filter(|pid| is_alive(*pid)).collect()
    }

    /// keep, the control plane and `up`: what kill -9 takes in one of these tests.
    pub(crate) fn kill_parents(&self) {
        let is_parent = |pid: &i32| {
            let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = text.split(|byte| *byte == 0);
            words.next().is_some_and(|program| program.ends_with(b"mainstay"))
                && words.next().is_some_and(|word| [&b"keep"[..], b"control", b"up"].contains(&word))
        };
        // keep first, or it would start another control plane; the control plane may start another keep.
        for _ in 0..3 {
            for pid in self.processes().into_iter().filter(is_parent) {
                kill(pid);
            }
        }
    }

    /// No process, no lock, no socket, and every port is free.
    pub(crate) fn assert_nothing_runs(&self) {
        let began = Instant::now();
        while !self.processes().is_empty() {
            if began.elapsed() > GONE {
                let left = self.processes();
                let named = left.iter().map(|pid| {
                    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    format!("{pid} {}", String::from_utf8_lossy(&text).replace('\0', " "))
                });
                panic!("processes are left: {:#?}", named.collect::<Vec<_>>());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Ok(lock) = std::fs::File::open(self.paths().state.join("keep.lock")) {
            let locked = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive);
            assert_eq!(locked, Ok(()), "keep.lock is held");
        }
        assert!(!self.paths().runtime.exists(), "{} is left", self.paths().runtime.display());
        for port in self.ports {
            assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(), "port {port} is still in use");
        }
    }

    /// Not even a folder was made for the stack.
    pub(crate) fn assert_nothing_made(&self) {
        assert!(!self.base().exists(), "{} was made", self.base().display());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Whatever a failed test left; keep first comes by itself after three passes.
        for _ in 0..3 {
            self.processes().into_iter().for_each(kill);
        }
        std::fs::remove_dir_all(self.paths().runtime).ok();
    }
}

fn is_alive(pid: i32) -> bool {
    mainstay_supervisor::proc::stat(mainstay_types::Pid(pid)).is_some_and(|stat| stat.is_alive())
}

pub(crate) fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        rustix::process::kill_process(pid, Signal::KILL).ok();
    }
}

/// Until it is killed.
pub(crate) fn stop(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        rustix::process::kill_process(pid, Signal::STOP).expect("signal");
    }
}

pub(crate) fn terminate(pid: i64) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        rustix::process::kill_process(pid, Signal::TERM).expect("signal");
    }
}

/// Runs a command to its end, within the deadline. Its output goes to files: a child that outlives it could hold a
/// pipe open for ever.
fn finish(mut command: Command) -> Ran {
    let folder = tempfile::tempdir().expect("folder");
    let [out, err] = ["out", "err"].map(|name| folder.path().join(name));
    let create = |path: &Path| std::fs::File::create(path).expect("file");
    let mut child = command.stdout(create(&out)).stderr(create(&err)).spawn().expect("starts");
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("waits") {
            break status;
        }
        if began.elapsed() > DEADLINE {
            child.kill().ok();
            child.wait().ok();
            let text = std::fs::read_to_string(&err).unwrap_or_default();
            panic!("{command:?} did not end within {} s:\n{text}", DEADLINE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let [stdout, stderr] = [&out, &err].map(|path| std::fs::read(path).unwrap_or_default());
    Ran::of(Output { status, stdout, stderr })
}

/// Whether this process may mount and change owners; says on standard error what is not tested without.
pub(crate) fn is_root_or_says(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        // Not by a macro, whose text the test harness would keep to itself.
        writeln!(std::io::stderr(), "not tested, needs root: {what}").ok();
    }
    is_root
}
