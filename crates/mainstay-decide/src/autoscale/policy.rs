//! Policies other than Kubernetes': steps with a threshold, and a target with pauses.

use std::time::Duration;

use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::rates::Limit;
use super::replicas::ceil;
use super::{Decision, Inputs, Measure, Memory};

/// Below this share of its target a measure calls for fewer instances: what is nearer would swing back.
const LOW_SHARE: f64 = 0.9;

/// When the number was changed last, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// When it was raised.
    pub raised: Option<Timestamp>,
    /// When it was lowered.
    pub lowered: Option<Timestamp>,
}

impl Changes {
    /// Remembers a change.
    pub fn note(&mut self, from: u32, to: u32, at: Timestamp) {
        match to.cmp(&from) {
            std::cmp::Ordering::Greater => self.raised = Some(at),
            std::cmp::Ordering::Less => self.lowered = Some(at),
            std::cmp::Ordering::Equal => {}
        }
    }

    /// Whether the pause after any of these moments lasts, and how long still.
    fn pause(moments: &[Option<Timestamp>], cooldown: Duration, now: Timestamp) -> Option<Duration> {
        let last = moments.iter().flatten().max()?;
        let left = last.after(cooldown).saturating_since(now);
        (!left.is_zero()).then_some(left)
    }
}

/// The readings that could be had, and whether that is all of them.
fn readings<'a>(inputs: &Inputs<'a>) -> (Vec<(&'a Measure, u64)>, bool) {
    let known: Vec<_> =
        inputs.measures.iter().filter_map(|measure| Some((measure, measure.reading.as_ref().ok()?.usage))).collect();
    let is_all = known.len() == inputs.measures.len();
    (known, is_all)
}

fn told(name: &str, usage: u64, target: u64) -> String {
    format!("{name} {usage} of {target}")
}

/// Any measure above its target adds a share; CPU below `low`, with no other above its target, removes one.
pub(super) fn step(
    inputs: &Inputs<'_>,
    memory: &Memory,
    bounds: (u32, u32),
    (step, low, cooldown): (u32, u32, Duration),
) -> Decision {
    let current = inputs.current;
    let (known, is_all) = readings(inputs);
    if known.is_empty() {
        return Decision::keep(inputs, bounds, Limit::Unknown, "no measure could be had".to_owned());
    }
    let above = known.iter().find(|(measure, usage)| *usage > measure.target);
    let cpu = known.iter().find(|(measure, _)| measure.name == "cpu");
    let (desired, by, why) = if let Some((measure, usage)) = above {
        let desired = ceil(f64::from(current) * (1.0 + f64::from(step) / 100.0)).max(current + 1);
        (desired, measure.name, format!("{}: {step} % more", told(measure.name, *usage, measure.target)))
    } else if let Some((_, usage)) = cpu.filter(|(_, usage)| *usage < u64::from(low) && is_all) {
        let share = u64::from(current) * u64::from(100_u32.saturating_sub(step)) / 100;
        let desired = u32::try_from(share).unwrap_or(current).min(current.saturating_sub(1));
        (desired, "cpu", format!("cpu {usage} is below {low}: {step} % fewer"))
    } else {
        let all: Vec<String> =
            known.iter().map(|(measure, usage)| told(measure.name, *usage, measure.target)).collect();
        return Decision::keep(inputs, bounds, Limit::WithinRange, format!("no step: {}", all.join(", ")));
    };
    let moments = [memory.changes.raised, memory.changes.lowered];
    settle(inputs, bounds, (desired, by, why), Changes::pause(&moments, cooldown, inputs.now))
}

/// As many as bring the measure that asks for most back to its target.
pub(super) fn target_tracking(
    inputs: &Inputs<'_>,
    memory: &Memory,
    bounds: (u32, u32),
    cooldown: Duration,
) -> Decision {
    let current = inputs.current;
    let (known, is_all) = readings(inputs);
    let ratio = |measure: &Measure| measure.reading.as_ref().map_or(0.0, |reading| reading.ratio);
    let highest = known.iter().map(|(measure, usage)| (ratio(measure), *measure, *usage));
    let Some((most, measure, usage)) = highest.reduce(|best, next| if next.0 > best.0 { next } else { best }) else {
        return Decision::keep(inputs, bounds, Limit::Unknown, "no measure could be had".to_owned());
    };
    let told = told(measure.name, usage, measure.target);
    let desired = ceil(most * f64::from(current));
    let changes = &memory.changes;
    if most > 1.0 && desired > current {
        let pause = Changes::pause(&[changes.raised], cooldown, inputs.now);
        return settle(inputs, bounds, (desired, measure.name, format!("{told}: {desired} wanted")), pause);
    }
    if most < LOW_SHARE && desired < current && is_all {
        let pause = Changes::pause(&[changes.raised, changes.lowered], cooldown, inputs.now);
        return settle(inputs, bounds, (desired, measure.name, format!("{told}: {desired} enough")), pause);
    }
    Decision::keep(inputs, bounds, Limit::WithinRange, format!("{told}: as it should be"))
}

/// Bounds, and the pause after a change.
fn settle(
    inputs: &Inputs<'_>,
    (min, max): (u32, u32),
    (desired, by, why): (u32, &'static str, String),
    pause: Option<Duration>,
) -> Decision {
    let (count, limit, why) = match pause {
        Some(left) => (
            inputs.current,
            Limit::Cooldown,
            format!("{why}, once {} s more of its pause are over", left.as_secs().max(1)),
        ),
        None if desired > max => (max, Limit::TooMany, format!("{why}, {max} is the most")),
        None if desired < min => (min, Limit::TooFew, format!("{why}, {min} is the least")),
        None => (desired, Limit::WithinRange, why),
    };
    Decision { count, by: Some(by), desired: Some(desired), stabilised: Some(desired), limit, bounds: (min, max), why }
}
