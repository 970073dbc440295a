//! Holds a number of instances back: windows of recommendations, rates of change, bounds.
//!
//! **Source**: `normalizeDesiredReplicasWithBehaviors` and what it calls in
//! `pkg/controller/podautoscaler/horizontal.go` of Kubernetes.

use std::time::Duration;

use mainstay_stack::scale::{Change, Rules, Select};
use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

/// Recommendations and changes of a service, as far back as its rules look.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Numbers that the measures asked for.
    pub recommendations: Vec<Moment>,
    /// By how much it was raised.
    pub raised: Vec<Moment>,
    /// By how much it was lowered.
    pub lowered: Vec<Moment>,
}

/// A number and when it was so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The number.
    pub count: u32,
    /// When.
    pub at: Timestamp,
}

/// What held a number back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Nothing.
    WithinRange,
    /// The rate at which instances are added.
    Up,
    /// The rate at which instances are removed.
    Down,
    /// The most instances.
    TooMany,
    /// The fewest instances.
    TooFew,
    /// The machine.
    Capacity,
    /// The pause after a change.
    Cooldown,
    /// A measure could not be had.
    Unknown,
}

impl Limit {
    /// The reason as Kubernetes words it, or ours where it has none.
    pub fn reason(self) -> &'static str {
        match self {
            Self::WithinRange => "DesiredWithinRange",
            Self::Up => "ScaleUpLimit",
            Self::Down => "ScaleDownLimit",
            Self::TooMany => "TooManyReplicas",
            Self::TooFew => "TooFewReplicas",
            Self::Capacity => "MachineFull",
            Self::Cooldown => "Cooldown",
            Self::Unknown => "FailedGetMetric",
        }
    }
}

/// A number that was held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Normalised {
    /// What the windows made of it.
    pub stabilised: u32,
    /// What rates and bounds made of that.
    pub count: u32,
    /// Which of them counted last.
    pub limit: Limit,
}

/// Windows, then rates and bounds; remembers the recommendation.
pub fn normalise(
    current: u32,
    desired: u32,
    bounds: (u32, u32),
    (up, down): (&Rules, &Rules),
    history: &mut History,
    now: Timestamp,
) -> Normalised {
    let stabilised = stabilise(current, desired, (up.window, down.window), &mut history.recommendations, now);
    let (count, limit) = bound(current, stabilised, bounds, (up, down), history, now);
    Normalised { stabilised, count, limit }
}

/// The most careful of the recommendations of a window: the lowest for more instances, the highest for fewer. What is
/// remembered is the number before that.
///
/// **Source**: `stabilizeRecommendationWithBehaviors`, and its habit of taking the place of the last recommendation
/// that is too old for both windows.
pub fn stabilise(
    current: u32,
    desired: u32,
    (up, down): (Duration, Duration),
    recommendations: &mut Vec<Moment>,
    now: Timestamp,
) -> u32 {
    let (mut lowest, mut highest) = (desired, desired);
    let mut old = None;
    for (index, past) in recommendations.iter().enumerate() {
        // A clock that was set back makes moments of the future, which count as recent.
        let is_within = |window: Duration| past.at.after(window) > now;
        if is_within(up) {
            lowest = lowest.min(past.count);
        }
        if is_within(down) {
            highest = highest.max(past.count);
        }
        if past.at.after(up) < now && past.at.after(down) < now {
            old = Some(index);
        }
    }
    let stabilised = if current < lowest {
        lowest
    } else if current > highest {
        highest
    } else {
        current
    };
    remember(recommendations, old, Moment { count: desired, at: now });
    stabilised
}

fn remember(list: &mut Vec<Moment>, place: Option<usize>, moment: Moment) {
    match place.and_then(|index| list.get_mut(index)) {
        Some(old) => *old = moment,
        None => list.push(moment),
    }
}

/// Rates and bounds.
///
/// **Source**: `convertDesiredReplicasWithBehaviorRate`.
pub fn bound(
    current: u32,
    desired: u32,
    (min, max): (u32, u32),
    (up, down): (&Rules, &Rules),
    history: &History,
    now: Timestamp,
) -> (u32, Limit) {
    if desired > current {
        // What was raised much of late must not be lowered by the rate.
        let allowed = most(current, history, up, now).max(i64::from(current));
        let (allowed, limit) =
            if i64::from(max) > allowed { (whole(allowed), Limit::Up) } else { (max, Limit::TooMany) };
        if desired > allowed {
            return (allowed, limit);
        }
    } else if desired < current {
        let allowed = least(current, history, down, now).min(i64::from(current));
        let (allowed, limit) =
            if i64::from(min) < allowed { (whole(allowed), Limit::Down) } else { (min, Limit::TooFew) };
        if desired < allowed {
            return (allowed, limit);
        }
    }
    (desired, Limit::WithinRange)
}

fn whole(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

/// How many there were when a period began.
fn at_start(current: u32, history: &History, period: Duration, now: Timestamp) -> i64 {
    i64::from(current) - within(&history.raised, period, now) + within(&history.lowered, period, now)
}

/// The sum of changes within a period.
///
/// **Source**: `getReplicasChangePerPeriod`: strictly newer than the period.
pub fn within(changes: &[Moment], period: Duration, now: Timestamp) -> i64 {
    changes.iter().filter(|change| change.at.after(period) > now).map(|change| i64::from(change.count)).sum()
}

/// The most instances that the rates allow.
fn most(current: u32, history: &History, rules: &Rules, now: Timestamp) -> i64 {
    let proposals = rules.rates.iter().map(|rate| {
        let start = at_start(current, history, rate.every, now);
        match rate.change {
            Change::Instances(count) => start + i64::from(count),
            // Rounded up, or a small number could never grow.
            Change::Percent(share) => rounded_up(float(start) * (1.0 + f64::from(share) / 100.0)),
        }
    });
    let allowed = match rules.select {
        Select::Disabled => None,
        Select::Min => proposals.min(),
        Select::Max => proposals.max(),
    };
    allowed.unwrap_or_else(|| i64::from(current))
}

/// The fewest instances that the rates allow.
fn least(current: u32, history: &History, rules: &Rules, now: Timestamp) -> i64 {
    let proposals = rules.rates.iter().map(|rate| {
        let start = at_start(current, history, rate.every, now);
        match rate.change {
            Change::Instances(count) => start - i64::from(count),
            // Cut off, not rounded: 50 % of 5 leaves 2.
            Change::Percent(share) => cut_off(float(start) * (1.0 - f64::from(share) / 100.0)),
        }
    });
    let allowed = match rules.select {
        Select::Disabled => None,
        Select::Min => proposals.max(),
        Select::Max => proposals.min(),
    };
    allowed.unwrap_or_else(|| i64::from(current))
}

#[expect(clippy::cast_precision_loss, reason = "numbers of instances are far below 2^52")]
fn float(value: i64) -> f64 {
    value as f64
}

#[expect(clippy::cast_possible_truncation, reason = "numbers of instances are far below 2^52")]
fn rounded_up(value: f64) -> i64 {
    value.ceil() as i64
}

#[expect(clippy::cast_possible_truncation, reason = "that it cuts off is what is wanted")]
fn cut_off(value: f64) -> i64 {
    value as i64
}

/// Remembers that the number was changed, in the place of the last change that no rule looks at any more.
///
/// **Source**: `storeScaleEvent`.
pub fn store_change(history: &mut History, up: &Rules, down: &Rules, from: u32, to: u32, at: Timestamp) {
    if from == to {
        return;
    }
    let (list, rules) = if to > from { (&mut history.raised, up) } else { (&mut history.lowered, down) };
    let old = list.iter().rposition(|past| past.at.after(rules.longest()) < at);
    remember(list, old, Moment { count: to.abs_diff(from), at });
}
