//! Running a spec without keep: for tests and for tools that work on a scratch cluster.
//!
//! Never for a member of a stack: nobody would know of the process.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use mainstay_supervisor::protocol::SpawnSpec;
use mainstay_types::{ExitReason, Nonce};
use tokio::process::{Child, Command};

use crate::task::Task;

/// Starts what keep would start. Dropping the child kills it.
///
/// **Errors**: the log cannot be opened, or the program cannot be run.
pub fn start(spec: &SpawnSpec) -> io::Result<Child> {
    let (program, arguments) = spec
        .argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the spec names no program"))?;
    let log = OpenOptions::new().append(true).create(true).mode(0o640).open(&spec.log)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(spec.env.iter().map(|(name, value)| (name, value.expose())))
        .env("MAINSTAY_NONCE", spec.nonce.as_str())
        .current_dir(&spec.dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true);
    if let Some(user) = &spec.user {
        command.uid(user.uid).gid(user.gid);
    }
    command.spawn()
}

/// Runs a task to its end, or kills it at the deadline.
///
/// **Errors**: it could not be run, or did not end in time.
pub async fn run(task: &Task, deadline: Duration) -> io::Result<ExitReason> {
    let mut child = start(&task.spec(Nonce::from_bytes([0; 16])))?;
    match tokio::time::timeout(deadline, child.wait()).await {
        Ok(status) => Ok(reason(status?)),
        Err(_) => {
            child.kill().await?;
            let text = format!("{} did not end within {} s", task.name, deadline.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        }
    }
}

/// An exit status in our words.
pub fn reason(status: ExitStatus) -> ExitReason {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitReason::Code { code },
        (None, Some(signal)) => ExitReason::Signal { signal },
        (None, None) => ExitReason::Unknown,
    }
}
