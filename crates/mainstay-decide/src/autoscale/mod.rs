//! How many instances a service should have, from what was measured of it.
//!
//! [`replicas`] turns one measure into a number, [`rates`] holds the number back, [`decide`] puts them together. All
//! is as in Kubernetes' HorizontalPodAutoscaler (`pkg/controller/podautoscaler`, read at the end of 2026), with instances
//! for pods: its own tables are the tests. Ratios are doubles as they are there: IEEE 754 gives the same quotient and
//! product on every machine, and 7 % of a target of 100 % over 100 instances is 8 there, not 7.

mod capacity;
mod policy;
pub mod rates;
pub mod replicas;

use std::time::Duration;

use mainstay_stack::scale::{Policy, Scale};
use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

pub use capacity::{Machine, Room, room};
pub use policy::Changes;
use rates::{History, Limit, Normalised};
use replicas::{Reading, Tolerance};

/// Between two decisions (`--horizontal-pod-autoscaler-sync-period`).
pub const PERIOD: Duration = Duration::from_secs(15);

/// One measure of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// As the stack file names it.
    pub name: &'static str,
    /// Where it should be, in the unit of the reading.
    pub target: u64,
    /// What was measured and what follows from it alone; an error says why that cannot be known.
    pub reading: Result<Reading, String>,
}

/// What a decision looks at.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// What the stack file says.
    pub scale: &'a Scale,
    /// How many instances are wanted at present.
    pub current: u32,
    /// The measures, in the order of the stack file.
    pub measures: &'a [Measure],
    /// What the machine has room for.
    pub room: Option<&'a Room>,
    /// When.
    pub now: Timestamp,
}

/// What is remembered of a service between decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Recommendations and changes, for [`rates`].
    pub history: History,
    /// The last changes, for policies with a cooldown.
    pub changes: Changes,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// How many instances there are to be.
    pub count: u32,
    /// The measure that asked for most, when measures decided.
    pub by: Option<&'static str>,
    /// The number that the measures ask for; `None`: they said nothing.
    pub desired: Option<u32>,
    /// What the window of the rules made of it.
    pub stabilised: Option<u32>,
    /// What held the number back.
    pub limit: Limit,
    /// Bounds that held.
    pub bounds: (u32, u32),
    /// Why, for people.
    pub why: String,
}

impl Decision {
    /// A decision that leaves all as it is.
    fn keep(inputs: &Inputs<'_>, bounds: (u32, u32), limit: Limit, why: String) -> Self {
        Self { count: inputs.current, by: None, desired: None, stabilised: None, limit, bounds, why }
    }

    /// A decision that no measure made.
    fn forced(count: u32, bounds: (u32, u32), limit: Limit, why: String) -> Self {
        Self { count, by: None, desired: None, stabilised: None, limit, bounds, why }
    }
}

/// Decides how many instances there are to be. Recommendations are remembered; a change is not, before [`changed`]
/// says that it was made.
pub fn decide(inputs: &Inputs<'_>, memory: &mut Memory) -> Decision {
    let mut decision = wanted(inputs, memory);
    if let Some(room) = inputs.room.filter(|room| decision.count > inputs.current && decision.count > room.most) {
        // What runs already is not taken away: that the machine is too small is a matter for people.
        let most = room.most.max(inputs.current);
        decision.why = format!("{} wanted, {most} fit: {}", decision.count, room.why);
        decision.count = most;
        decision.limit = Limit::Capacity;
    }
    decision
}

/// Remembers that the number was changed.
pub fn changed(memory: &mut Memory, scale: &Scale, from: u32, to: u32, at: Timestamp) {
    rates::store_change(&mut memory.history, &scale.up, &scale.down, from, to, at);
    memory.changes.note(from, to, at);
}

fn wanted(inputs: &Inputs<'_>, memory: &mut Memory) -> Decision {
    let Inputs { scale, current, now, .. } = *inputs;
    let (min, max, period) = scale.bounds(now);
    let bounds = (min, max);
    let by_period = period.map_or(String::new(), |period| format!(" (schedule: {})", period.when));
    if scale.policy == Policy::Schedule {
        let limit = Limit::WithinRange;
        return Decision::forced(min, bounds, limit, format!("the schedule says {min}{by_period}"));
    }
    if current > max {
        return Decision::forced(max, bounds, Limit::TooMany, format!("{current} run, {max} is the most{by_period}"));
    }
    if current < min {
        return Decision::forced(min, bounds, Limit::TooFew, format!("{current} run, {min} is the least{by_period}"));
    }
    if inputs.measures.is_empty() {
        return Decision::keep(inputs, bounds, Limit::WithinRange, format!("nothing is measured{by_period}"));
    }
    match scale.policy {
        Policy::Hpa => by_measures(inputs, memory, bounds),
        Policy::Step { step, low, cooldown } => policy::step(inputs, memory, bounds, (step, low, cooldown)),
        Policy::TargetTracking { cooldown } => policy::target_tracking(inputs, memory, bounds, cooldown),
        Policy::Schedule => Decision::keep(inputs, bounds, Limit::WithinRange, String::new()),
    }
}

/// The largest of the proposals; `None` when nothing may be concluded.
///
/// **Source**: `computeReplicasForMetrics`: without one of the measures the others may add instances, not remove any.
pub fn combine(current: u32, proposals: &[Option<u32>]) -> Option<(usize, u32)> {
    let known = proposals.iter().enumerate().filter_map(|(index, proposal)| Some((index, (*proposal)?)));
    // The first of equal ones, as there.
    let (index, most) = known.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    let is_one_missing = proposals.iter().any(Option::is_none);
    (!(is_one_missing && most < current)).then_some((index, most))
}

fn by_measures(inputs: &Inputs<'_>, memory: &mut Memory, bounds: (u32, u32)) -> Decision {
    let current = inputs.current;
    let proposals: Vec<Option<u32>> =
        inputs.measures.iter().map(|measure| measure.reading.as_ref().ok().map(|reading| reading.proposal)).collect();
    let Some((index, desired)) = combine(current, &proposals) else {
        let reasons: Vec<String> = inputs
            .measures
            .iter()
            .filter_map(|measure| Some(format!("{}: {}", measure.name, measure.reading.as_ref().err()?)))
            .collect();
        let why = format!("nothing is concluded from what is known ({})", reasons.join("; "));
        return Decision::keep(inputs, bounds, Limit::Unknown, why);
    };
    let by = inputs.measures[index].name;
    let scale = inputs.scale;
    let rules = (&scale.up, &scale.down);
    let Normalised { stabilised, count, limit } =
        rates::normalise(current, desired, bounds, rules, &mut memory.history, inputs.now);
    let asks = match desired.cmp(&current) {
        std::cmp::Ordering::Greater => format!("{by} above target: {desired} wanted"),
        std::cmp::Ordering::Less => format!("all measures below target: {desired} enough"),
        std::cmp::Ordering::Equal => format!("{by} near its target"),
    };
    let held = match limit {
        Limit::WithinRange if stabilised != desired => {
            let window = if desired >= current { scale.up.window } else { scale.down.window };
            format!(", {stabilised} by the recommendations of {} s", window.as_secs())
        }
        Limit::WithinRange | Limit::Capacity | Limit::Cooldown | Limit::Unknown => String::new(),
        Limit::Up | Limit::Down => {
            let rules = if limit == Limit::Up { &scale.up } else { &scale.down };
            let rates: Vec<String> = rules.rates.iter().map(ToString::to_string).collect();
            format!(", {count} by its rate ({}; select {})", rates.join(", "), rules.select.word())
        }
        Limit::TooMany => format!(", {} is the most", bounds.1),
        Limit::TooFew => format!(", {} is the least", bounds.0),
    };
    Decision {
        count,
        by: Some(by),
        desired: Some(desired),
        stabilised: Some(stabilised),
        limit,
        bounds,
        why: format!("{asks}{held}"),
    }
}

/// How far a measure may be from its target, as the stack file says it.
pub fn tolerance(scale: &Scale) -> Tolerance {
    let share = |percent: mainstay_types::Percent| f64::from(percent.as_milli()) / 100_000.0;
    Tolerance { down: share(scale.down_tolerance), up: share(scale.up_tolerance) }
}
