//! A counter for each key: it never goes back, gives no value twice, and leaves none out.

use std::collections::BTreeMap;

use super::{Anomaly, Checked, History, Op, Outcome};

/// Its name in reports.
pub const NAME: &str = "monotonic";
/// Its name where it looks at the application's own counter.
pub const RECEIPTS: &str = "receipts";
/// Keys from here on are the application's counters.
pub const APPLICATION: u32 = 1_000_000;
/// Its version.
pub const VERSION: u32 = 1;

/// Whether values may be left out: a counter in a row leaves none out, a database sequence does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gaps {
    /// Each missing value needs an increment of unknown outcome.
    #[default]
    Forbidden,
    /// Any value may be missing.
    Allowed,
}

/// Whether a value may be given out twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// Never.
    #[default]
    Forbidden,
    /// As often as it likes; then only going back is wrong.
    Allowed,
}

/// What is expected of the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether the counters are the application's own, or the drill's.
    pub are_of_application: bool,
    /// Value before the first increment.
    pub base: u64,
    /// Values left out.
    pub gaps: Gaps,
    /// Values given out twice.
    pub duplicates: Duplicates,
}

impl Default for Rules {
    /// The drill's own counters, of which nothing is excused.
    fn default() -> Self {
        let (gaps, duplicates) = (Gaps::default(), Duplicates::default());
        Self { are_of_application: false, base: 0, gaps, duplicates }
    }
}

impl Rules {
    fn is_about(&self, key: u32) -> bool {
        (key >= APPLICATION) == self.are_of_application
    }
}

/// A value that a client saw.
#[derive(Clone, Copy)]
struct Sight {
    at: usize,
    value: u64,
    is_increment: bool,
}

/// All operations of one key.
#[derive(Default)]
struct Key {
    sights: Vec<Sight>,
    failed: Vec<usize>,
    ambiguous: Vec<usize>,
}

/// Checks each key by itself.
pub fn check(history: &History, rules: &Rules) -> Checked {
    let mut checked = Checked::new(if rules.are_of_application { RECEIPTS } else { NAME }, VERSION);
    let mut keys: BTreeMap<u32, Key> = BTreeMap::new();
    for (at, operation) in history.operations().iter().enumerate() {
        match (&operation.op, operation.outcome) {
            (Op::Increment { key, .. } | Op::Read { key, .. }, _) if !rules.is_about(*key) => {}
            (Op::Increment { key, value }, outcome) => {
                checked.writes.add(outcome);
                let entry = keys.entry(*key).or_default();
                match (outcome, value) {
                    (Outcome::Ok, Some(value)) => {
                        entry.sights.push(Sight { at, value: *value, is_increment: true });
                    }
                    (Outcome::Ok, None) => {
                        checked.notes.push(format!("increment {at} was acknowledged without its value"));
                    }
                    (Outcome::Failed, _) => entry.failed.push(at),
                    (Outcome::Ambiguous, _) => entry.ambiguous.push(at),
                }
            }
            (Op::Read { key, value: Some(value) }, Outcome::Ok) => {
                checked.reads += 1;
                keys.entry(*key).or_default().sights.push(Sight { at, value: *value, is_increment: false });
            }
            _ => {}
        }
    }
    for (key, entry) in &keys {
        backwards(history, *key, entry, &mut checked);
        if rules.duplicates == Duplicates::Forbidden {
            duplicates(*key, entry, &mut checked);
        }
        if rules.gaps == Gaps::Forbidden {
            gaps(history, *key, entry, rules, &mut checked);
        }
    }
    checked.conclude()
}

/// The greater of two sights; at the same value the increment, which is the stronger witness.
fn greater(one: Option<Sight>, other: Sight) -> Option<Sight> {
    match one {
        Some(sight) if (sight.value, sight.is_increment) >= (other.value, other.is_increment) => Some(sight),
        _ => Some(other),
    }
}

/// No sight is below one that was over before it began; an increment is above all of these.
fn backwards(history: &History, key: u32, entry: &Key, checked: &mut Checked) {
    let operations = history.operations();
    let of = |sight: &Sight| operations.get(sight.at);
    let mut by_start: Vec<Sight> = entry.sights.clone();
    by_start.sort_by_key(|sight| of(sight).map_or(0, |operation| operation.start_us));
    // Sights are in the order of their ends.
    let mut ended = entry.sights.iter().peekable();
    let mut highest: Option<Sight> = None;
    let mut of_process: BTreeMap<u32, Sight> = BTreeMap::new();
    for sight in by_start {
        let Some(operation) = of(&sight) else { continue };
        while let Some(over) = ended.next_if(|over| of(over).is_some_and(|over| over.end_us < operation.start_us)) {
            highest = greater(highest, *over);
        }
        // A process knows its own last sight even when both happened within a microsecond.
        let own = of_process.get(&operation.process).copied();
        let floor = own.and_then(|own| greater(highest, own)).or(highest);
        if let Some(next) = greater(own, sight) {
            of_process.insert(operation.process, next);
        }
        let Some(floor) = floor else { continue };
        // The same value from two increments is for `duplicates`.
        let is_back =
            sight.value < floor.value || (sight.is_increment && sight.value == floor.value && !floor.is_increment);
        if !is_back {
            continue;
        }
        let (had, has) = (describe(&floor), describe(&sight));
        let text = format!("key {key}: {has} after {had} was over");
        let anomaly = if floor.is_increment && !sight.is_increment { Anomaly::StaleRead } else { Anomaly::TimeTravel };
        checked.find(anomaly, vec![floor.at, sight.at], text);
    }
}

fn describe(sight: &Sight) -> String {
    let what = if sight.is_increment { "increment" } else { "read" };
    format!("{what} {} gave {}", sight.at, sight.value)
}

fn duplicates(key: u32, entry: &Key, checked: &mut Checked) {
    let mut given: BTreeMap<u64, usize> = BTreeMap::new();
    for sight in entry.sights.iter().filter(|sight| sight.is_increment) {
        match given.get(&sight.value) {
            Some(first) => {
                let text = format!("key {key}: increments {first} and {} were both given {}", sight.at, sight.value);
                checked.find(Anomaly::Duplicated, vec![*first, sight.at], text);
            }
            None => {
                given.insert(sight.value, sight.at);
            }
        }
    }
}

/// A value needs as many increments as it is high: acknowledged ones up to it, or ones of unknown outcome that had
/// begun. Names what saw the value, and failed increments that may have had an effect all the same.
fn gaps(history: &History, key: u32, entry: &Key, rules: &Rules, checked: &mut Checked) {
    let start = |at: usize| history.operations().get(at).map_or(u64::MAX, |operation| operation.start_us);
    let end = |at: usize| history.operations().get(at).map_or(0, |operation| operation.end_us);
    let mut by_value = entry.sights.clone();
    by_value.sort_by_key(|sight| (sight.value, !sight.is_increment));
    let (mut acknowledged, mut worst, mut last, mut used) = (0, 0, None, 0);
    for sight in &by_value {
        if sight.is_increment && last != Some(sight.value) {
            acknowledged += 1;
            last = Some(sight.value);
        }
        let begun = entry.ambiguous.iter().filter(|at| start(**at) <= end(sight.at)).count() as u64;
        let missing = sight.value.saturating_sub(rules.base).saturating_sub(acknowledged);
        used = used.max(missing.min(begun));
        let excess = missing.saturating_sub(begun);
        if excess <= worst {
            continue;
        }
        worst = excess;
        let suspects = entry.failed.iter().copied().filter(|at| start(*at) <= end(sight.at));
        let operations: Vec<usize> = std::iter::once(sight.at).chain(suspects).collect();
        let text = format!(
            "key {key}: {}, but only {acknowledged} increments up to it were acknowledged and {begun} ended unknown",
            describe(sight)
        );
        checked.find(Anomaly::Gap, operations, text);
    }
    checked.ambiguous_seen += used;
}

/// Acknowledged increments that the counter does not know of any more: later it stood below what they were given, or gave
/// that out again. Positions in the history.
pub(crate) fn forgotten(history: &History, are_of_application: bool) -> Vec<usize> {
    let rules = Rules { are_of_application, ..Rules::default() };
    // Of each key: when an operation began, and what the counter then stood at, at most.
    let mut stands: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
    let mut given: Vec<(usize, u32, u64, u64)> = Vec::new();
    for (at, operation) in history.operations().iter().enumerate().filter(|(_, one)| one.outcome == Outcome::Ok) {
        match operation.op {
            Op::Increment { key, value: Some(value) } if rules.is_about(key) => {
                stands.entry(key).or_default().push((operation.start_us, value.saturating_sub(1)));
                given.push((at, key, value, operation.end_us));
            }
            Op::Read { key, value: Some(value) } if rules.is_about(key) => {
                stands.entry(key).or_default().push((operation.start_us, value));
            }
            _ => {}
        }
    }
    for all in stands.values_mut() {
        all.sort_unstable();
        // From the last one back: the least that it stood at from then on.
        let mut least = u64::MAX;
        for (_, stood) in all.iter_mut().rev() {
            least = least.min(*stood);
            *stood = least;
        }
    }
    let is_forgotten = |(_, key, value, end): &(usize, u32, u64, u64)| {
        let later = stands.get(key).and_then(|all| all.get(all.partition_point(|(start, _)| start <= end)));
        later.is_some_and(|(_, least)| least < value)
    };
    given.into_iter().filter(is_forgotten).map(|(at, ..)| at).collect()
}
