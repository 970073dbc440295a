//! `top`: what every process uses. CPU times are cumulative; who asks twice divides by the time between.

use mainstay_api::{Process, Status, Top, Traffic, Usage};
use mainstay_supervisor::client::Hello;
use mainstay_supervisor::proc::Snapshot;
use mainstay_supervisor::protocol::Child;
use mainstay_supervisor::sockets::Accepted;
use mainstay_types::{BoxId, ChildRole};

use crate::clock::now;
use crate::processes;
use crate::settings::Settings;

/// Measures. Reads /proc: call it where blocking is allowed.
pub(crate) fn measure(
    keep: Option<&Hello>,
    children: &[Child],
    (status, settings): (&Status, &Settings),
    traffic: Option<&Traffic>,
) -> Top {
    // CPU first: the sizes of many processes take a while.
    let (snapshot, at) = (Snapshot::take(), now());
    let accepted = Accepted::take();
    let processes = processes::list(keep, children, status, settings)
        .into_iter()
        .map(|process| {
            // Everything is keep's child: of keep, only itself.
            let tree = process.pid.map(|pid| match process.role {
                ChildRole::Keep => [pid].into(),
                _ => snapshot.tree(pid),
            });
            Usage {
                cpu_ms: tree.as_ref().map(|tree| u64::try_from(snapshot.cpu(tree).as_millis()).unwrap_or(u64::MAX)),
                connections: tree.as_ref().and_then(|tree| accepted.count(tree)),
                per_second: traffic.and_then(|traffic| per_second(&process, status, traffic)),
                process,
            }
        })
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    Top { at, cores, processes }
}

/// What flows to a process; for the router, what it passes on.
fn per_second(process: &Process, status: &Status, traffic: &Traffic) -> Option<f64> {
    process.pid?;
    let flows = traffic.flows.iter();
    if process.role == ChildRole::Router {
        let passed: Vec<f64> =
            flows.filter(|flow| flow.from == Some(BoxId::Router)).map(|flow| flow.per_second).collect();
        return (!passed.is_empty()).then(|| passed.iter().sum());
    }
    let id = &status.boxes.iter().find(|one| one.name == process.name.as_str())?.id;
    flows.filter(|flow| flow.to == *id).map(|flow| flow.per_second).reduce(|sum, more| sum + more)
}
