//! What instances use, looked at for the autoscaler: CPU and memory as `mainstay top` measures them, the machine's
//! memory, and what Prometheus answers to questions of the stack file.

use std::collections::BTreeMap;
use std::sync::Arc;

use mainstay_decide::autoscale::Machine;
use mainstay_supervisor::proc::Snapshot;
use mainstay_types::{Bytes, ChildName, Nonce, Pid, ServiceName, Timestamp, full_text};

use crate::clock::now;
use crate::effects::Effects;

/// One look.
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// When CPU times were read.
    pub(crate) at: Timestamp,
    /// What each start of an instance has used and holds.
    pub(crate) instances: BTreeMap<ChildName, Used>,
    /// The machine's memory, when it could be read.
    pub(crate) machine: Option<Machine>,
    /// Answers of Prometheus.
    pub(crate) queries: BTreeMap<ServiceName, Result<f64, String>>,
}

/// What a process and its descendants used.
#[derive(Clone, Debug)]
pub(crate) struct Used {
    /// The start that it is about.
    pub(crate) nonce: Nonce,
    /// CPU since then. **Unit**: milliseconds.
    pub(crate) cpu_ms: u64,
    /// Proportional set size.
    pub(crate) memory: Bytes,
}

/// Looks once at these processes.
pub(crate) async fn look(effects: Arc<Effects>, processes: Vec<(ChildName, Nonce, Pid)>) -> Load {
    let queries = ask(&effects).await;
    let looking = tokio::task::spawn_blocking(move || {
        // CPU first: the sizes of many processes take a while.
        let (snapshot, at) = (Snapshot::take(), now());
        let used = |pid: Pid| (snapshot.cpu(&snapshot.tree(pid)), snapshot.tree_pss(pid));
        let instances = processes.into_iter().map(|(name, nonce, pid)| {
            let (cpu, memory) = used(pid);
            let cpu_ms = u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX);
            (name, Used { nonce, cpu_ms, memory })
        });
        Load { at, instances: instances.collect(), machine: machine(), queries: BTreeMap::new() }
    });
    match looking.await {
        Ok(load) => Load { queries, ..load },
        // The process ends.
        Err(_) => Load { at: now(), queries, ..Load::default() },
    }
}

async fn ask(effects: &Effects) -> BTreeMap<ServiceName, Result<f64, String>> {
    let mut answers = BTreeMap::new();
    let stack = &effects.settings.stack;
    for (name, service) in &stack.services {
        let Some(query) = service.scale.as_ref().and_then(|scale| scale.targets.query.as_ref()) else { continue };
        let (port, password) = (effects.settings.doors.prometheus, &effects.settings.passwords.telemetry);
        let answer = mainstay_telemetry::query_number(port, password, &query.expression).await;
        answers.insert(name.clone(), answer.map_err(|error| full_text(&error)));
    }
    answers
}

/// The machine's memory; inside of a control group with a limit, no more than that.
fn machine() -> Option<Machine> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let used = std::fs::read_to_string("/sys/fs/cgroup/memory.current").ok();
    memory(&text, limit.as_deref(), used.as_deref())
}

fn memory(meminfo: &str, limit: Option<&str>, used: Option<&str>) -> Option<Machine> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let (total, available) = (field("MemTotal")?, field("MemAvailable")?);
    let number = |text: Option<&str>| text.and_then(|text| text.trim().parse::<u64>().ok());
    let limit = number(limit).unwrap_or(u64::MAX);
    let left = limit.saturating_sub(number(used).unwrap_or(0));
    Some(Machine { memory: Bytes(total.min(limit)), available: Bytes(available.min(left)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_is_that_of_the_machine_or_of_its_control_group() {
        let meminfo = "MemTotal:  4000 kB\nMemFree: 1 kB\nMemAvailable:   2000 kB\n";
        let found = |limit, used| memory(meminfo, limit, used).map(|found| (found.memory.0, found.available.0));
        assert_eq!(found(None, None), Some((4_096_000, 2_048_000)));
        assert_eq!(found(Some("max\n"), Some("5\n")), Some((4_096_000, 2_048_000)));
        assert_eq!(found(Some("1000000\n"), Some("400000\n")), Some((1_000_000, 600_000)));
        assert_eq!(memory("nothing", None, None), None);
    }
}
