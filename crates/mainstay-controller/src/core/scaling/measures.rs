//! From what was looked at to the readings that a decision is made of.

use std::time::Duration;

use mainstay_decide::autoscale::Measure;
use mainstay_decide::autoscale::replicas::{
    self, Kind, Phase, Pod, Reading, Sample, Timing, Tolerance, utilisation, value_per_instance,
};
use mainstay_decide::observed::Health;
use mainstay_decide::plan::StepKey;
use mainstay_edge::protocol::LATENCY_BOUNDS_MS;
use mainstay_stack::model::Service;
use mainstay_stack::scale::{Query, Scale};
use mainstay_types::{ChildName, InstanceId, ServiceName};

use super::Core;
use crate::load::Load;

/// Every measure of a service, in the order of the stack file.
pub(super) fn of(core: &Core, name: &ServiceName, service: &Service, scale: &Scale, load: &Load) -> Vec<Measure> {
    let current = core.observed.fleet.wanted(name, service);
    let tolerance = mainstay_decide::autoscale::tolerance(scale);
    let targets = &scale.targets;
    let mut all = Vec::new();
    if let Some(target) = targets.cpu_percent.map(u64::from) {
        let pods = pods(core, name, service, load, What::Cpu);
        let rules = (Kind::Cpu, load.at, Timing::default());
        all.push(Measure { name: "cpu", target, reading: utilisation(current, &pods, target, tolerance, rules) });
    }
    if let Some(target) = targets.memory_percent.map(u64::from) {
        let pods = pods(core, name, service, load, What::Memory);
        let rules = (Kind::Other, load.at, Timing::default());
        all.push(Measure { name: "memory", target, reading: utilisation(current, &pods, target, tolerance, rules) });
    }
    let asked = core.scaling.asked.get(name);
    let window_ms = core.scaling.asked_ms;
    let silent = || "the edge has reported nothing since the last decision".to_owned();
    if let Some(target) = targets.requests.map(|target| u64::from(target) * 1000) {
        let requests = asked.map_or(0, |asked| asked.requests);
        let milli = (requests * 1_000_000).checked_div(window_ms).ok_or_else(silent);
        let reading = milli.map(|milli| value_per_instance(current, milli, target, tolerance));
        all.push(Measure { name: "requests", target, reading });
    }
    if let Some(target) = targets.latency_p95 {
        let target = u64::try_from(target.as_millis()).unwrap_or(u64::MAX);
        let ready = ready(core, name, service);
        // Nobody asked: nobody waited.
        let millis = asked.map_or(0, |asked| p95_ms(&asked.latency));
        let reading = if window_ms == 0 { Err(silent()) } else { as_whole(current, ready, millis, target, tolerance) };
        all.push(Measure { name: "latency_p95", target, reading });
    }
    if let Some(Query { target, is_per_instance, .. }) = &targets.query {
        let target = u64::from(*target) * 1000;
        let answer = load.queries.get(name).cloned().unwrap_or_else(|| Err("nobody asked yet".to_owned()));
        let reading = answer.and_then(|answer| {
            let milli = milli(answer);
            if *is_per_instance {
                return Ok(value_per_instance(current, milli, target, tolerance));
            }
            as_whole(current, ready(core, name, service), milli, target, tolerance)
        });
        all.push(Measure { name: "query", target, reading });
    }
    all
}

/// The ratio times the instances that are ready; without any, nothing can be said.
fn as_whole(current: u32, ready: u32, usage: u64, target: u64, tolerance: Tolerance) -> Result<Reading, String> {
    if ready == 0 {
        return Err("no instance is ready".to_owned());
    }
    Ok(replicas::value(current, ready, usage, target, tolerance))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what the type holds")]
fn milli(number: f64) -> u64 {
    // A negative number asks for no instance.
    (number * 1000.0).clamp(0.0, 9e15) as u64
}

/// How many wanted instances are ready.
pub(super) fn ready(core: &Core, name: &ServiceName, service: &Service) -> u32 {
    let is_ready = |id: &InstanceId| core.observed.health.get(id).is_some_and(|seen| seen.health == Health::Ready);
    let ready = core.observed.fleet.instances(name, service).iter().filter(|id| is_ready(id)).count();
    u32::try_from(ready).unwrap_or(u32::MAX)
}

#[derive(Clone, Copy)]
enum What {
    Cpu,
    Memory,
}

/// The instances of a service as a measure sees them.
fn pods(core: &Core, name: &ServiceName, service: &Service, load: &Load, what: What) -> Vec<Pod> {
    let wanted = core.observed.fleet.instances(name, service);
    let mut all = core.observed.fleet.most(name, service);
    // What is neither wanted nor runs is no instance.
    all.retain(|id| wanted.contains(id) || runs(core, id));
    all.iter().map(|id| pod(core, id, service, wanted.contains(id), load, what)).collect()
}

fn runs(core: &Core, id: &InstanceId) -> bool {
    core.children.get(&ChildName::instance(id)).is_some_and(|child| child.ended.is_none())
}

fn pod(core: &Core, id: &InstanceId, service: &Service, is_wanted: bool, load: &Load, what: What) -> Pod {
    let name = ChildName::instance(id);
    let child = core.children.get(&name).filter(|child| child.ended.is_none());
    let is_stopped = core.observed.running.contains_key(&StepKey::Child { name: name.clone() });
    let phase = match child {
        Some(_) if !is_wanted || is_stopped => Phase::Leaving,
        Some(_) => Phase::Running,
        None => Phase::Pending,
    };
    let seen = child.and_then(|child| core.observed.health.get(id).filter(|seen| seen.nonce == child.nonce));
    let used = child.and_then(|child| load.instances.get(&name).filter(|used| used.nonce == child.nonce));
    let sample = used.and_then(|used| match what {
        What::Memory => Some(Sample { value: used.memory.0, at: load.at, window: Duration::ZERO }),
        What::Cpu => {
            let before = core.scaling.before.as_ref()?;
            let known = before.instances.get(&name).filter(|known| known.nonce == used.nonce)?;
            let window = load.at.saturating_since(before.at);
            let window_ms = u64::try_from(window.as_millis()).ok().filter(|millis| *millis > 0)?;
            // Thousandths of a core.
            let value = used.cpu_ms.saturating_sub(known.cpu_ms) * 1000 / window_ms;
            Some(Sample { value, at: load.at, window })
        }
    });
    Pod {
        phase,
        started_at: child.map(|child| child.since),
        readiness: seen.map(|seen| (seen.health == Health::Ready, seen.since)),
        sample,
        request: match what {
            What::Cpu => service.cpu_milli.map(u64::from),
            What::Memory => service.memory.map(|bytes| bytes.0),
        },
    }
}

/// The 95th percentile within its bucket, as `histogram_quantile` of Prometheus: evenly spread between its bounds.
/// **Unit**: milliseconds, rounded up.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 60 s")]
pub(super) fn p95_ms(latency: &[u64]) -> u64 {
    let total: u64 = latency.iter().sum();
    let wanted = total as f64 * 0.95;
    let mut below = 0_u64;
    for (bucket, count) in latency.iter().enumerate() {
        let reached = below + count;
        if *count > 0 && reached as f64 >= wanted {
            let last = LATENCY_BOUNDS_MS[LATENCY_BOUNDS_MS.len() - 1];
            let upper = LATENCY_BOUNDS_MS.get(bucket).copied().unwrap_or(last);
            let lower = bucket.checked_sub(1).and_then(|one| LATENCY_BOUNDS_MS.get(one)).copied().unwrap_or(0.0);
            let share = (wanted - below as f64) / *count as f64;
            return (lower + (upper - lower) * share).ceil() as u64;
        }
        below = reached;
    }
    0
}
