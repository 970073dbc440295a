//! A tool of PostgreSQL's to be run once by keep: what to run, where it writes, how to read its end.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mainstay_supervisor::protocol::{Limits, SpawnSpec, User};
use mainstay_types::{ChildName, ChildRole, ExitReason, Nonce, Secret};

use crate::files;

/// A run of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Name for keep.
    pub name: ChildName,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, Secret>,
    /// Working directory.
    pub dir: PathBuf,
    /// User to become.
    pub user: Option<User>,
    /// Where it writes.
    pub log: PathBuf,
    /// Length of the log before it ran: what comes after is its own.
    pub log_from: u64,
}

/// A tool ended badly.
#[derive(Debug, thiserror::Error)]
#[error("{tool} ended with {reason}: {last_lines}")]
pub struct ToolFailed {
    /// Name of the program.
    pub tool: String,
    /// How.
    pub reason: ExitReason,
    /// The end of what it wrote.
    pub last_lines: String,
}

impl Task {
    /// For keep.
    pub fn spec(&self, nonce: Nonce) -> SpawnSpec {
        SpawnSpec {
            name: self.name.clone(),
            role: ChildRole::Task,
            nonce,
            argv: self.argv.clone(),
            env: self.env.clone(),
            dir: self.dir.clone(),
            user: self.user.clone(),
            log: self.log.clone(),
            listeners: Vec::new(),
            limits: Limits::default(),
            restart: false,
            project: None,
            shown: Vec::new(),
        }
    }

    pub(crate) fn check(&self, reason: &ExitReason) -> Result<(), ToolFailed> {
        if reason.is_success() {
            return Ok(());
        }
        let tool = self.argv.first().and_then(|path| path.rsplit('/').next()).unwrap_or("the tool").to_owned();
        let last_lines = files::last_lines(&self.log, self.log_from).replace('\n', " / ");
        let last_lines = if last_lines.is_empty() { "it wrote nothing".to_owned() } else { last_lines };
        Err(ToolFailed { tool, reason: reason.clone(), last_lines })
    }
}

/// Environment of every server and tool: a fixed language, so that messages can be read, and no caller's.
pub(crate) fn environment() -> BTreeMap<String, Secret> {
    [("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8"), ("PATH", "/usr/bin:/bin"), ("TZ", "UTC")]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Secret::new(value)))
        .collect()
}

pub(crate) fn log_length(log: &std::path::Path) -> u64 {
    std::fs::metadata(log).map_or(0, |metadata| metadata.len())
}
