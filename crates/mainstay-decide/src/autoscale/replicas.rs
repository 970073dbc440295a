//! From one measure to a number of instances.
//!
//! **Source**: `pkg/controller/podautoscaler/replica_calculator.go` of Kubernetes.

use std::time::Duration;

use mainstay_types::Timestamp;

/// After its start, CPU of an instance is believed only when it was measured after it became ready
/// (`--horizontal-pod-autoscaler-cpu-initialization-period`).
pub const CPU_INITIALISATION: Duration = Duration::from_secs(300);
/// An instance that became unready so soon after its start was never ready
/// (`--horizontal-pod-autoscaler-initial-readiness-delay`).
pub const INITIAL_READINESS: Duration = Duration::from_secs(30);

/// The two times above. Tests of Kubernetes have others.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// [`CPU_INITIALISATION`].
    pub initialisation: Duration,
    /// [`INITIAL_READINESS`].
    pub readiness: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { initialisation: CPU_INITIALISATION, readiness: INITIAL_READINESS }
    }
}

/// An instance as one measure sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Where it is in its life.
    pub phase: Phase,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// Whether it takes requests, and since when that is so. `None`: nobody knows.
    pub readiness: Option<(bool, Timestamp)>,
    /// What was measured of it.
    pub sample: Option<Sample>,
    /// What it reserves of that; `None`: it reserves nothing.
    pub request: Option<u64>,
}

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It is wanted and not started.
    Pending,
    /// It runs.
    Running,
    /// It is being stopped, or has ended.
    Leaving,
}

/// A value that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The value, in thousandths of a core, bytes, or the unit of the target.
    pub value: u64,
    /// When.
    pub at: Timestamp,
    /// Over how long.
    pub window: Duration,
}

/// Which rules of readiness count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// CPU, which a start uses more of than the work.
    Cpu,
    /// Anything else.
    Other,
}

/// How far a measure may be from its target without effect, as a share of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Below.
    pub down: f64,
    /// Above.
    pub up: f64,
}

impl Tolerance {
    fn holds(self, ratio: f64) -> bool {
        1.0 - self.down <= ratio && ratio <= 1.0 + self.up
    }
}

/// What an instance is to a measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// It counts.
    Ready,
    /// It does not work yet.
    Unready,
    /// It works, and was not measured.
    Missing,
    /// It goes.
    Ignored,
}

/// What was measured of a service and the number that follows from it alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Instances that follow from it.
    pub proposal: u32,
    /// Where it is, in the unit of the target: per cent of what is reserved, or the value itself.
    pub usage: u64,
    /// `usage` against the target.
    pub ratio: f64,
    /// The ratio once instances that start or were not measured are assumed to use nothing, or all.
    pub adjusted: Option<f64>,
    /// Instances that the proposal is computed from.
    pub counted: u32,
    /// Instances by what they are: ready, unready, missing, ignored.
    pub groups: [u32; 4],
    /// Which of the ways led to the proposal.
    pub way: Way,
}

/// Which way led to a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The ratio is within the tolerance: no change.
    WithinTolerance,
    /// The ratio times the instances that count, rounded up.
    Proportional,
    /// The assumptions about what was not measured would turn the direction round: no change.
    WouldTurn,
}

/// What an instance is to a measure of this kind.
///
/// **Source**: `groupPods`; the order of the questions matters.
pub fn group(pod: &Pod, kind: Kind, now: Timestamp, timing: Timing) -> Group {
    match pod.phase {
        Phase::Leaving => return Group::Ignored,
        Phase::Pending => return Group::Unready,
        Phase::Running => {}
    }
    let Some(sample) = pod.sample else { return Group::Missing };
    if kind == Kind::Other {
        return Group::Ready;
    }
    let (Some(started), Some((is_ready, since))) = (pod.started_at, pod.readiness) else { return Group::Unready };
    let is_unready = if started.after(timing.initialisation) > now {
        !is_ready || sample.at < since.after(sample.window)
    } else {
        !is_ready && started.after(timing.readiness) > since
    };
    if is_unready { Group::Unready } else { Group::Ready }
}

/// Pods by group, and the values that count.
struct Grouped<'p> {
    /// Those that count, with their values.
    measured: Vec<(&'p Pod, u64)>,
    unready: Vec<&'p Pod>,
    missing: Vec<&'p Pod>,
    counts: [u32; 4],
}

fn grouped<'p>(pods: &'p [Pod], kind: Kind, now: Timestamp, timing: Timing) -> Result<Grouped<'p>, String> {
    if pods.is_empty() {
        return Err("no instance runs".to_owned());
    }
    let mut all = Grouped { measured: Vec::new(), unready: Vec::new(), missing: Vec::new(), counts: [0; 4] };
    for pod in pods {
        match (group(pod, kind, now, timing), pod.sample) {
            (Group::Ready, Some(sample)) => all.measured.push((pod, sample.value)),
            (Group::Unready, _) => all.unready.push(pod),
            (Group::Missing | Group::Ready, _) => all.missing.push(pod),
            (Group::Ignored, _) => all.counts[3] += 1,
        }
    }
    let size = |list: usize| u32::try_from(list).unwrap_or(u32::MAX);
    all.counts[..3].copy_from_slice(&[size(all.measured.len()), size(all.unready.len()), size(all.missing.len())]);
    if all.measured.is_empty() {
        return Err("no instance that works was measured yet".to_owned());
    }
    Ok(all)
}

/// A ratio and the value it comes from.
#[derive(Clone, Copy)]
struct Ratio {
    ratio: f64,
    usage: u64,
}

/// What was measured as a share of what is reserved, against a target in per cent.
///
/// **Errors**: no instance runs, none was measured, one reserves nothing.
pub fn utilisation(
    current: u32,
    pods: &[Pod],
    target: u64,
    tolerance: Tolerance,
    (kind, now, timing): (Kind, Timestamp, Timing),
) -> Result<Reading, String> {
    let all = grouped(pods, kind, now, timing)?;
    if pods.iter().any(|pod| pod.request.is_none()) {
        return Err("an instance reserves nothing of it".to_owned());
    }
    let ratio = |values: &[(&Pod, u64)]| {
        let sum: u64 = values.iter().map(|(_, value)| *value).sum();
        let reserved: u64 = values.iter().filter_map(|(pod, _)| pod.request).sum();
        let usage = u64::try_from(u128::from(sum) * 100 / u128::from(reserved.max(1))).unwrap_or(u64::MAX);
        Ratio { ratio: float(usage) / float(target), usage }
    };
    // When instances are removed, those that were not measured are assumed to use all that they reserve.
    let full = |pod: &Pod| pod.request.unwrap_or_default() * target.max(100) / 100;
    Ok(propose(current, all, tolerance, ratio, full))
}

/// The mean of what was measured, against a target for each instance.
///
/// **Errors**: no instance runs, none was measured.
pub fn average(
    current: u32,
    pods: &[Pod],
    target: u64,
    tolerance: Tolerance,
    (kind, now, timing): (Kind, Timestamp, Timing),
) -> Result<Reading, String> {
    let all = grouped(pods, kind, now, timing)?;
    let ratio = |values: &[(&Pod, u64)]| {
        let sum: u64 = values.iter().map(|(_, value)| *value).sum();
        let usage = sum / u64::try_from(values.len().max(1)).unwrap_or(1);
        Ratio { ratio: float(usage) / float(target), usage }
    };
    Ok(propose(current, all, tolerance, ratio, |_| target))
}

fn propose(
    current: u32,
    all: Grouped<'_>,
    tolerance: Tolerance,
    ratio: impl Fn(&[(&Pod, u64)]) -> Ratio,
    full: impl Fn(&Pod) -> u64,
) -> Reading {
    let Grouped { mut measured, unready, missing, counts } = all;
    let Ratio { ratio: first, usage } = ratio(&measured);
    let counted = counts[0];
    let reading = |proposal, adjusted, counted, way| Reading {
        proposal,
        usage,
        ratio: first,
        adjusted,
        counted,
        groups: counts,
        way,
    };
    let is_up_with_unready = !unready.is_empty() && first > 1.0;
    if !is_up_with_unready && missing.is_empty() {
        if tolerance.holds(first) {
            return reading(current, None, counted, Way::WithinTolerance);
        }
        // Of those that are ready, not of those that are wanted.
        return reading(ceil(first * f64::from(counted)), None, counted, Way::Proportional);
    }
    if first < 1.0 {
        measured.extend(missing.iter().map(|pod| (*pod, full(pod))));
    } else if first > 1.0 {
        measured.extend(missing.iter().map(|pod| (*pod, 0)));
    }
    if is_up_with_unready {
        measured.extend(unready.iter().map(|pod| (*pod, 0)));
    }
    let second = ratio(&measured).ratio;
    let counted = u32::try_from(measured.len()).unwrap_or(u32::MAX);
    if tolerance.holds(second) {
        return reading(current, Some(second), counted, Way::WithinTolerance);
    }
    let proposal = ceil(second * f64::from(counted));
    let turns = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
    let contradicts = (second < 1.0 && proposal > current) || (second > 1.0 && proposal < current);
    if turns || contradicts {
        return reading(current, Some(second), counted, Way::WouldTurn);
    }
    reading(proposal, Some(second), counted, Way::Proportional)
}

/// One value for the service as a whole against a target: the ratio times the instances that are ready.
///
/// **Source**: `getUsageRatioReplicaCount`.
pub fn value(current: u32, ready: u32, usage: u64, target: u64, tolerance: Tolerance) -> Reading {
    let ratio = float(usage) / float(target);
    let (proposal, way) = if tolerance.holds(ratio) {
        (current, Way::WithinTolerance)
    } else {
        (ceil(ratio * f64::from(ready)), Way::Proportional)
    };
    Reading { proposal, usage, ratio, adjusted: None, counted: ready, groups: [ready, 0, 0, 0], way }
}

/// One value for the service as a whole against a target for each instance.
///
/// **Source**: `GetExternalPerPodMetricReplicas`.
pub fn value_per_instance(current: u32, usage: u64, target: u64, tolerance: Tolerance) -> Reading {
    let ratio = float(usage) / (float(target) * f64::from(current));
    let (proposal, way) = if tolerance.holds(ratio) {
        (current, Way::WithinTolerance)
    } else {
        (ceil(float(usage) / float(target)), Way::Proportional)
    };
    let each = if current == 0 { 0 } else { usage.div_ceil(u64::from(current)) };
    Reading { proposal, usage: each, ratio, adjusted: None, counted: current, groups: [current, 0, 0, 0], way }
}

#[expect(clippy::cast_precision_loss, reason = "as Kubernetes does it; what is measured is far below 2^52")]
fn float(value: u64) -> f64 {
    value as f64
}

/// Rounded up, and as many as a number of instances can be.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bounds of the type")]
pub(super) fn ceil(value: f64) -> u32 {
    value.ceil().clamp(0.0, f64::from(i32::MAX)) as u32
}
