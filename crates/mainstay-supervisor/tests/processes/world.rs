//! A keep of its own for a test, and everything of it gone afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mainstay_supervisor::client::{self, Keep, ask_blocking};
use mainstay_supervisor::protocol::{Answer, Ask, Child, Limits, Notice, SpawnSpec};
use mainstay_supervisor::{ids, launch};
use mainstay_types::{ChildName, ChildRole, Pid, Secret};
use tokio::sync::mpsc;

/// Longest wait for something that takes milliseconds on a free machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) pid: Pid,
    pub(crate) cgroups: String,
    args: Vec<String>,
}

impl World {
    /// With keep running; `rest` are the further arguments of the example.
    pub(crate) fn new(rest: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let mut world = Self { folder, pid: Pid(0), cgroups: String::new(), args: Vec::new() };
        let (state, runtime) = (world.state(), world.runtime());
        world.args = [state.to_str(), runtime.to_str()].into_iter().flatten().map(str::to_owned).collect();
        world.args.extend(rest.iter().map(|text| (*text).to_owned()));
        world.start().expect("keep starts");
        world
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.path().join("run")
    }

    /// How a shell starts keep.
    pub(crate) fn command(&self) -> String {
        format!("{} {}", example().display(), self.args.join(" "))
    }

    pub(crate) fn start(&mut self) -> Result<(), launch::Error> {
        let hello = launch::start_keep(&example(), &self.args, &self.runtime(), &self.path().join("keep.log"), None)?;
        self.pid = hello.pid;
        self.cgroups = hello.cgroups;
        Ok(())
    }

    /// kill -9, and wait until it is gone.
    pub(crate) fn kill_keep(&mut self) {
        kill(self.pid, "KILL");
        let pid = self.pid;
        until("keep to die", || !is_alive(pid));
        self.pid = Pid(0);
    }

    pub(crate) async fn connect(&self) -> (Keep, mpsc::Receiver<Notice>) {
        Keep::connect(&self.runtime()).await.expect("connects")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.state().join(format!("{name}.log"))
    }

    /// A shell that runs `script`.
    pub(crate) fn shell(&self, name: &str, script: &str) -> SpawnSpec {
        SpawnSpec {
            name: ChildName::new(name).expect("valid"),
            role: ChildRole::Instance,
            nonce: ids::nonce().expect("random"),
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            env: BTreeMap::from([("PATH".to_owned(), Secret::new("/usr/bin:/bin"))]),
            dir: PathBuf::from("/"),
            user: None,
            log: self.log(name),
            listeners: Vec::new(),
            limits: Limits::default(),
            restart: false,
            project: None,
            shown: Vec::new(),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.path().join("keep.log").exists() {
            return;
        }
        let runtime = self.runtime();
        if !is_alive(self.pid) && self.start().is_err() {
            return;
        }
        let ask = |ask| ask_blocking(&runtime, ask, Duration::from_secs(5));
        if let Ok(Answer::Children { children }) = ask(Ask::List) {
            // The control plane last: keep would restart it, so keep goes at once after it.
            let (control, others): (Vec<_>, Vec<_>) =
                children.into_iter().partition(|child| child.role == ChildRole::Control);
            for child in others.into_iter().chain(control) {
                ask(Ask::KillTree { nonce: child.nonce, deadline_ms: 5000 }).ok();
            }
        }
        ask(Ask::Exit).ok();
        let pid = self.pid;
        until("keep to leave", || !is_alive(pid));
    }
}

fn example() -> PathBuf {
    let test = std::env::current_exe().expect("path");
    let folder = test.parent().and_then(Path::parent).expect("target folder");
    let keep = folder.join("examples/keep");
    assert!(keep.exists(), "{} is not built: run without --test, or add --examples", keep.display());
    keep
}

pub(crate) fn is_alive(pid: Pid) -> bool {
    pid.0 > 0 && mainstay_supervisor::proc::stat(pid).is_some_and(|stat| stat.is_alive())
}

pub(crate) fn kill(pid: Pid, signal: &str) {
    let done = std::process::Command::new("/bin/kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(done.expect("kill runs").success(), "kill -{signal} {pid}");
}

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The next end that is told.
pub(crate) async fn next_end(notices: &mut mpsc::Receiver<Notice>) -> Child {
    loop {
        let notice = tokio::time::timeout(PATIENCE, notices.recv()).await.expect("in time").expect("keep is there");
        if let Notice::Exited { child } = notice {
            return child;
        }
    }
}

pub(crate) async fn find(keep: &Keep, name: &str) -> Child {
    let children = keep.list().await.expect("lists");
    children.into_iter().find(|child| child.name.as_str() == name).expect("is listed")
}

pub(crate) fn pids_in(file: &Path, count: usize) -> Vec<Pid> {
    let read = || -> Vec<Pid> {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok().map(Pid)).collect()
    };
    until("pids in a file", || read().len() >= count);
    read()
}

pub(crate) fn refusal<T: std::fmt::Debug>(
    result: Result<T, client::Error>,
) -> (mainstay_supervisor::protocol::Refusal, String) {
    let error = result.expect_err("refused");
    let kind = error.refusal().unwrap_or_else(|| panic!("not refused but: {error:?}"));
    (kind, error.to_string())
}
