//! What a supervised process is and how it ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Process id of the running kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pid(pub i32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a child is for; `ps` names it and drills choose victims by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChildRole {
    /// The parent of all others.
    Keep,
    /// The control plane.
    Control,
    /// The front door.
    Edge,
    /// The PostgreSQL router.
    Router,
    /// A postmaster. Which member is primary is a matter of state, not of role.
    Postgres,
    /// A Redis.
    Redis,
    /// An application instance.
    Instance,
    /// Prometheus.
    Prometheus,
    /// Alertmanager.
    Alertmanager,
    /// A command that runs once: a clone, a release command, a schedule.
    Task,
}

impl fmt::Display for ChildRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Control => "control",
            Self::Edge => "edge",
            Self::Router => "router",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Instance => "instance",
            Self::Prometheus => "prometheus",
            Self::Alertmanager => "alertmanager",
            Self::Task => "task",
        })
    }
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ExitReason {
    /// It exited by itself.
    Code {
        /// Exit status, 0 to 255.
        code: i32,
    },
    /// A signal ended it.
    Signal {
        /// Signal number.
        signal: i32,
    },
    /// The kernel killed it for want of memory.
    OutOfMemory,
    /// It never ran: the program could not be executed.
    NotStarted {
        /// What the kernel said, and of which path.
        reason: String,
    },
    /// It is gone and nobody could learn how (its parent died first).
    Unknown,
}

impl ExitReason {
    /// Whether it ended by itself and well.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Code { code: 0 })
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code { code } => write!(f, "exit {code}"),
            Self::Signal { signal: 9 } => f.write_str("SIGKILL"),
            Self::Signal { signal: 15 } => f.write_str("SIGTERM"),
            Self::Signal { signal: 2 } => f.write_str("SIGINT"),
            Self::Signal { signal: 3 } => f.write_str("SIGQUIT"),
            Self::Signal { signal: 6 } => f.write_str("SIGABRT"),
            Self::Signal { signal: 11 } => f.write_str("SIGSEGV"),
            Self::Signal { signal } => write!(f, "signal {signal}"),
            Self::OutOfMemory => f.write_str("killed for want of memory (OOM)"),
            Self::NotStarted { reason } => write!(f, "did not start: {reason}"),
            Self::Unknown => f.write_str("ended, reason unknown"),
        }
    }
}
