//! Faults and the proof that they happened.

use std::time::Duration;

use mainstay_api::Process;
use mainstay_supervisor::proc;
use mainstay_types::{ChildName, ChildRole, Nonce, Pid, Timestamp};
use rustix::process::{Signal, kill_process};
use tokio::time::Instant;

/// A fault that can be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to one instance of a service.
    InstanceCrash,
    /// SIGKILL to the primary's postmaster.
    DatabaseCrash,
    /// SIGKILL to the control plane.
    ControlPlaneCrash,
    /// SIGKILL to keep.
    KeepCrash,
}

impl Fault {
    /// All, in the order of `drill` without a name.
    pub const ALL: [Self; 4] = [Self::InstanceCrash, Self::DatabaseCrash, Self::ControlPlaneCrash, Self::KeepCrash];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::InstanceCrash => "instance-crash",
            Self::DatabaseCrash => "database-crash",
            Self::ControlPlaneCrash => "control-plane-crash",
            Self::KeepCrash => "keep-crash",
        }
    }

    /// By its name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    /// What it does, in a line.
    pub fn what(self) -> &'static str {
        match self {
            Self::InstanceCrash => "kills one instance of a service (SIGKILL)",
            Self::DatabaseCrash => "kills the postmaster of the primary (SIGKILL)",
            Self::ControlPlaneCrash => "kills the control plane (SIGKILL)",
            Self::KeepCrash => "kills keep, the parent of all processes (SIGKILL)",
        }
    }

    /// Whom it hits: `pick` chooses among several.
    ///
    /// Instances and primaries that have run for [`STEADY`] only: one that was killed a moment ago counts as ending by
    /// itself again and again, and what would be measured is how long it is left alone for that.
    pub(crate) fn victim(
        self,
        processes: &[Process],
        primary: Option<&ChildName>,
        pick: u64,
        now: Timestamp,
    ) -> Option<Victim> {
        let is_steady = |process: &Process| now.saturating_since(process.since) >= STEADY;
        let candidates: Vec<&Process> = processes
            .iter()
            .filter(|process| match self {
                Self::InstanceCrash => process.role == ChildRole::Instance && is_steady(process),
                Self::DatabaseCrash => Some(&process.name) == primary && is_steady(process),
                Self::ControlPlaneCrash => process.role == ChildRole::Control,
                Self::KeepCrash => process.role == ChildRole::Keep,
            })
            .filter(|process| process.pid.is_some())
            .collect();
        let index = usize::try_from(pick % u64::try_from(candidates.len()).ok().filter(|count| *count > 0)?).ok()?;
        let process = candidates.get(index)?;
        Some(Victim { name: process.name.clone(), pid: process.pid?, nonce: process.nonce.clone() })
    }
}

/// The process that a fault hits.
#[derive(Clone, Debug)]
pub(crate) struct Victim {
    pub(crate) name: ChildName,
    pub(crate) pid: Pid,
    pub(crate) nonce: Option<Nonce>,
}

/// Time after which the end of a process is one of its own, not the next of a row. A little more than the stack
/// itself asks for (10 s).
pub(crate) const STEADY: Duration = Duration::from_millis(10_500);

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(5);

impl Victim {
    /// Kills it and proves that it is gone: its pid no longer has the start time that it had.
    pub(crate) async fn kill(&self) -> Result<Instant, String> {
        let before = proc::stat(self.pid).ok_or_else(|| format!("{} (pid {}) does not run", self.name, self.pid))?;
        if let Some(nonce) = &self.nonce
            && !proc::is_nonce(self.pid, nonce)
        {
            return Err(format!("pid {} is no longer {}: nothing was killed", self.pid, self.name));
        }
        let pid = rustix::process::Pid::from_raw(self.pid.0).ok_or_else(|| format!("no pid {}", self.pid))?;
        let at = Instant::now();
        kill_process(pid, Signal::KILL).map_err(|error| format!("cannot kill pid {}: {error}", self.pid))?;
        while at.elapsed() < GONE_WITHIN {
            let is_same = proc::stat(self.pid).is_some_and(|now| now.is_alive() && now.start_time == before.start_time);
            if !is_same {
                return Ok(at);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(format!("{} (pid {}) still runs {} s after SIGKILL", self.name, self.pid, GONE_WITHIN.as_secs()))
    }
}
