//! What the machine has room for: a service never starves the database.

use std::collections::BTreeMap;

use mainstay_stack::Stack;
use mainstay_types::{Bytes, ServiceName};
use serde::{Deserialize, Serialize};

/// Memory of one PostgreSQL besides its connections: `shared_buffers` as mainstay sets it, and its own processes.
const SERVER: Bytes = Bytes::mebi(128);
/// Memory of a connection that works: a backend with its `work_mem`.
const CONNECTION: Bytes = Bytes::mebi(4);
/// keep, control plane, edge and router: 75 MB were measured when idle, and the edge grows with connections.
const OURS: Bytes = Bytes::mebi(192);
/// Prometheus and Alertmanager with two weeks of a small stack.
const TELEMETRY: Bytes = Bytes::mebi(256);
/// What an instance is counted with at the least: a process that was just started, or only sleeps, shows less than it
/// will take, and thousands of them are no plan. **Source**: a shell that sleeps holds 0.4 MiB, a bare Python 12.
const LEAST: Bytes = Bytes::mebi(8);
/// The system itself, and its page cache at the least. **Unit**: per cent of the machine's memory.
const SYSTEM_PERCENT: u64 = 10;

/// The machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// All of it; of a container its limit.
    pub memory: Bytes,
    /// What could be had now without swapping.
    pub available: Bytes,
}

/// How many instances of a service fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// So many, at the most.
    pub most: u32,
    /// The computation, for people.
    pub why: String,
}

/// How many instances of a service fit beside all else. `None`: nobody knows what an instance takes.
///
/// `each` is what an instance of a service takes: its limit, else what was measured. `current` is how many of each
/// service are wanted.
pub fn room(
    stack: &Stack,
    machine: Machine,
    service: &ServiceName,
    each: &BTreeMap<ServiceName, Bytes>,
    current: &BTreeMap<ServiceName, u32>,
) -> Option<Room> {
    let one = each.get(service).copied().filter(|bytes| bytes.0 > 0)?.max(LEAST);
    let count = |name: &ServiceName| current.get(name).copied().unwrap_or_default();
    let others: u64 = each
        .iter()
        .filter(|(name, _)| *name != service)
        .map(|(name, bytes)| bytes.0.saturating_mul(u64::from(count(name))))
        .fold(0, u64::saturating_add);
    let kept = reserved(stack).0.saturating_add(machine.memory.0 / 100 * SYSTEM_PERCENT);
    let left = machine.memory.0.saturating_sub(kept).saturating_sub(others);
    let by_plan = u32::try_from(left / one.0).unwrap_or(u32::MAX);
    // Whoever else uses the machine is seen here only.
    let spare = machine.available.0.saturating_sub(machine.memory.0 / 100 * SYSTEM_PERCENT / 2);
    let by_now = count(service).saturating_add(u32::try_from(spare / one.0).unwrap_or(u32::MAX));
    let why = if by_now < by_plan {
        format!(
            "an instance takes {}, and {} of the machine's {} are available",
            shown(one.0),
            shown(machine.available.0),
            shown(machine.memory.0)
        )
    } else {
        format!(
            "an instance takes {}; of the machine's {} {} are kept for the database, caches, mainstay and the system, {} \
             for other services",
            shown(one.0),
            shown(machine.memory.0),
            shown(kept),
            shown(others),
        )
    };
    Some(Room { most: by_plan.min(by_now), why })
}

/// What database, caches, telemetry and mainstay need.
fn reserved(stack: &Stack) -> Bytes {
    let mut sum = OURS.0;
    if let Some(database) = &stack.database {
        let members = u64::from(database.standbys) + 1;
        sum += members * (SERVER.0 + CONNECTION.0 * u64::from(database.max_connections));
    }
    if let Some(cache) = &stack.cache {
        sum += cache.cache_memory.0 + cache.store_memory.0 * (u64::from(cache.store_replicas) + 1);
    }
    if stack.observe.enabled {
        sum += TELEMETRY.0;
    }
    Bytes(sum)
}

/// Whole mebibytes: nobody decides by less.
fn shown(bytes: u64) -> String {
    format!("{} MiB", bytes / (1 << 20))
}
