//! Whom a fault hits, and the proof that it was hit.

use std::path::Path;
use std::time::Duration;

use mainstay_api::Process;
use mainstay_decide::drills::Fault;
use mainstay_supervisor::proc;
use mainstay_types::{ChildName, ChildRole, Nonce, Pid, ServiceName, Timestamp};
use rustix::process::{Signal, kill_process};
use tokio::time::Instant;

/// Whom it hits: `pick` chooses among several.
///
/// Only those that have run for [`STEADY`], but for keep and the control plane: one that was killed a moment ago
/// counts as ending by itself again and again, and what would be measured is how long it is left alone for that.
///
/// Of instances only those of the service that is `asked` through the edge, if one is: what clients see of the end of
/// another would be shown as what they see of this.
pub(crate) fn victim(
    fault: Fault,
    processes: &[Process],
    primary: Option<&ChildName>,
    asked: Option<&ServiceName>,
    pick: u64,
    now: Timestamp,
) -> Option<Victim> {
    let is_steady = |process: &Process| now.saturating_since(process.since) >= STEADY;
    let is_named = |process: &Process, name: &str| process.name.as_str() == name && is_steady(process);
    let is_candidate = |process: &&Process| match fault {
        Fault::InstanceCrash => {
            let is_asked = asked.is_none_or(|service| is_instance_of(&process.name, service));
            process.role == ChildRole::Instance && is_asked && is_steady(process)
        }
        Fault::EdgeCrash => is_named(process, "edge"),
        Fault::RouterCrash => is_named(process, "router"),
        Fault::DatabaseCrash | Fault::DatabaseFreeze => Some(&process.name) == primary && is_steady(process),
        Fault::StandbyLoss => {
            process.role == ChildRole::Postgres && primary.is_some_and(|one| *one != process.name) && is_steady(process)
        }
        Fault::CacheCrash => is_named(process, "cache"),
        // Its replicas listen at no port.
        Fault::StoreCrash => {
            let is_one = ["store", "store-b", "store-c"].contains(&process.name.as_str());
            is_one && is_steady(process) && !process.address.as_ref().is_some_and(|address| address.starts_with('/'))
        }
        Fault::ControlPlaneCrash => process.role == ChildRole::Control,
        Fault::KeepCrash => process.role == ChildRole::Keep,
        Fault::CacheLoss
        | Fault::Switchover
        | Fault::ScaleUp
        | Fault::ScaleDown
        | Fault::Deploy
        | Fault::ReplicationLag
        | Fault::CorruptPage
        | Fault::PoolExhaustion
        | Fault::DiskFull
        | Fault::BackupRestore
        | Fault::DropTable
        | Fault::CorruptBackup
        | Fault::MissingWal
        | Fault::MachineLoss
        | Fault::Null => false,
    };
    let candidates: Vec<&Process> =
        processes.iter().filter(is_candidate).filter(|process| process.pid.is_some()).collect();
    let index = usize::try_from(pick % u64::try_from(candidates.len()).ok().filter(|count| *count > 0)?).ok()?;
    let process = candidates.get(index)?;
    Some(Victim { name: process.name.clone(), pid: process.pid?, nonce: process.nonce.clone() })
}

/// Whether a child is an instance of a service: `SERVICE-SLOT`.
pub(crate) fn is_instance_of(name: &ChildName, service: &ServiceName) -> bool {
    name.as_str().rsplit_once('-').is_some_and(|(of, slot)| of == service.as_str() && slot.parse::<u32>().is_ok())
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

/// Sends a signal to a process.
///
/// **Errors**: there is no such process, or it is not ours to signal.
pub(crate) fn send(pid: Pid, signal: Signal) -> Result<(), String> {
    let raw = rustix::process::Pid::from_raw(pid.0).ok_or_else(|| format!("no pid {pid}"))?;
    kill_process(raw, signal).map_err(|error| format!("cannot signal pid {pid}: {error}"))
}

/// Whether a process has the lock open that keep gave to the start of this nonce.
fn holds_lock(pid: Pid, nonce: &Nonce, state: &Path) -> bool {
    let lock = std::fs::canonicalize(state.join("children").join(format!("{nonce}.lock")));
    let (Ok(lock), Ok(folder)) = (lock, std::fs::read_dir(format!("/proc/{pid}/fd"))) else { return false };
    folder.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == lock))
}

impl Victim {
    /// Its status just before the fault; it is still the process that the stack names.
    pub(crate) fn look(&self, state: &Path) -> Result<proc::Stat, String> {
        let stat = proc::stat(self.pid).ok_or_else(|| format!("{} (pid {}) does not run", self.name, self.pid))?;
        // Redis writes its title over its environment; the lock of its start it cannot lose.
        if let Some(nonce) = &self.nonce
            && !proc::is_nonce(self.pid, nonce)
            && !holds_lock(self.pid, nonce, state)
        {
            return Err(format!("pid {} is no longer {}: nothing was done to it", self.pid, self.name));
        }
        Ok(stat)
    }

    /// Kills it and proves that it is gone: its pid no longer has the start time that it had. Returns the moment of
    /// the signal and the one of the proof.
    pub(crate) async fn kill(&self, state: &Path) -> Result<(Instant, Instant), String> {
        let before = self.look(state)?;
        let at = Instant::now();
        send(self.pid, Signal::KILL)?;
        while at.elapsed() < GONE_WITHIN {
            if !is_there(self.pid, before.start_time) {
                return Ok((at, Instant::now()));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Err(format!("{} (pid {}) still runs {} s after SIGKILL", self.name, self.pid, GONE_WITHIN.as_secs()))
    }
}

/// Whether anything of a process is left but its corpse. The first thread's end is not that of the others: one of them
/// may be taking a connection in this moment, which then ends with it.
fn is_there(pid: Pid, start_time: u64) -> bool {
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, std::iter::Iterator::count);
    proc::stat(pid).is_some_and(|now| now.start_time == start_time && (now.is_alive() || threads() > 1))
}

#[cfg(test)]
mod tests {
    use mainstay_types::State;

    use super::*;

    fn instance(name: &str) -> Process {
        Process {
            name: ChildName::new(name).expect("a name"),
            role: ChildRole::Instance,
            detail: String::new(),
            pid: Some(Pid(7)),
            nonce: None,
            state: State::Ready,
            since: Timestamp::from_millis(0),
            last_exit: None,
            address: None,
            memory_bytes: None,
        }
    }

    #[test]
    fn only_instances_of_the_service_that_is_asked_are_hit_and_any_where_none_is() {
        let all = ["web-1", "web-2", "web-worker-1", "worker-1"].map(instance);
        let hit = |asked: Option<&ServiceName>| {
            let one = |pick| victim(Fault::InstanceCrash, &all, None, asked, pick, Timestamp::from_millis(60_000));
            let mut names: Vec<String> = (0..8).filter_map(one).map(|victim| victim.name.to_string()).collect();
            names.sort();
            names.dedup();
            names
        };
        let web = ServiceName::new("web").expect("a name");
        assert_eq!(hit(Some(&web)), ["web-1", "web-2"]);
        assert_eq!(hit(None), ["web-1", "web-2", "web-worker-1", "worker-1"]);
        let gone = ServiceName::new("gone").expect("a name");
        assert!(hit(Some(&gone)).is_empty(), "a worker is not hit in place of it");
    }
}
