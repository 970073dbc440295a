//! Durability of a set: what was acknowledged is there, once, and what failed is not.

use std::collections::BTreeMap;

use super::{Anomaly, Checked, Element, History, Op, Outcome};

/// Its name in reports.
pub const NAME: &str = "append";
/// Its version.
pub const VERSION: u32 = 1;

/// What one read saw.
struct Read {
    at: usize,
    seen: BTreeMap<Element, u64>,
}

/// Checks every read against every append.
///
/// An element must be in a read that began after its append was acknowledged, or after another read had shown it.
/// One whose outcome is unknown may be there or not.
pub fn check(history: &History) -> Checked {
    let mut checked = Checked::new(NAME, VERSION);
    let mut appends: BTreeMap<Element, usize> = BTreeMap::new();
    let mut again: BTreeMap<Element, u64> = BTreeMap::new();
    let mut reads = Vec::new();
    for (at, operation) in history.operations().iter().enumerate() {
        match (&operation.op, operation.outcome) {
            (Op::Append(element), outcome) => {
                checked.writes.add(outcome);
                let before = *appends.entry(*element).or_insert(at);
                if before != at {
                    *again.entry(*element).or_default() += 1;
                    checked.notes.push(format!("operations {before} and {at} append the same element {element}"));
                }
            }
            (Op::ReadAll(elements), Outcome::Ok) => reads.push(Read { at, seen: tally(elements) }),
            _ => {}
        }
    }
    checked.reads = reads.len() as u64;
    reads.sort_by_key(|read| start(history, read.at));
    for read in &reads {
        present(history, &appends, &again, read, &mut checked);
    }
    for (element, append) in &appends {
        absent(history, *element, *append, &reads, &mut checked);
    }
    checked.conclude()
}

fn tally(elements: &[Element]) -> BTreeMap<Element, u64> {
    let mut seen = BTreeMap::new();
    for element in elements {
        *seen.entry(*element).or_default() += 1;
    }
    seen
}

fn start(history: &History, at: usize) -> u64 {
    history.operations().get(at).map_or(0, |operation| operation.start_us)
}

/// What a read shows must have been appended before the read was over, must not have failed, and is there once.
fn present(
    history: &History,
    appends: &BTreeMap<Element, usize>,
    again: &BTreeMap<Element, u64>,
    read: &Read,
    checked: &mut Checked,
) {
    for (element, times) in &read.seen {
        let Some(append) = appends.get(element).copied() else {
            let text = format!("read {} shows {element}, which nobody appended", read.at);
            checked.find(Anomaly::Unexpected, vec![read.at], text);
            continue;
        };
        let both = vec![append, read.at];
        if history.precedes(read.at, append) {
            let text = format!("read {} shows {element} before its append {append} began", read.at);
            checked.find(Anomaly::Unexpected, both.clone(), text);
        }
        if history.operations().get(append).is_some_and(|operation| operation.outcome == Outcome::Failed) {
            let text = format!("append {append} of {element} failed, and read {} shows it", read.at);
            checked.find(Anomaly::Resurrected, both.clone(), text);
        }
        // One that was appended more often may be there as often.
        if *times > 1 + again.get(element).copied().unwrap_or(0) {
            let text = format!("read {} shows {element} {times} times, append {append} was one", read.at);
            checked.find(Anomaly::Duplicated, both, text);
        }
    }
}

/// What is known to be there must stay. `reads` are in the order of their beginnings.
fn absent(history: &History, element: Element, append: usize, reads: &[Read], checked: &mut Checked) {
    let outcome = history.operations().get(append).map(|operation| operation.outcome);
    let shows: Vec<&Read> = reads.iter().filter(|read| read.seen.contains_key(&element)).collect();
    if outcome == Some(Outcome::Ambiguous) && !shows.is_empty() {
        checked.ambiguous_seen += 1;
    }
    // The witnesses that it is there: its acknowledgement, and each read that shows it.
    let acknowledged = (outcome == Some(Outcome::Ok)).then_some(append);
    let witnesses: Vec<usize> = acknowledged.into_iter().chain(shows.iter().map(|read| read.at)).collect();
    let mut lost: Option<(usize, usize)> = None;
    for read in reads.iter().filter(|read| !read.seen.contains_key(&element)) {
        let Some(witness) = witnesses.iter().copied().find(|witness| history.precedes(*witness, read.at)) else {
            continue;
        };
        // One that begins later and has it: then it was not lost, this read was late.
        let is_back = shows.iter().any(|other| start(history, other.at) > start(history, read.at));
        if is_back {
            let text = format!("read {} misses {element}, which {} before", read.at, known(append, witness));
            checked.find(Anomaly::StaleRead, vec![witness, read.at], text);
        } else {
            lost = Some((witness, read.at));
        }
    }
    // Named once, by the last read: the earlier ones missed the same.
    if let Some((witness, read)) = lost {
        let operations = if witness == append { vec![append, read] } else { vec![append, witness, read] };
        let text = format!("read {read} misses {element}, which {} before", known(append, witness));
        checked.find(Anomaly::Lost, operations, text);
    }
}

fn known(append: usize, witness: usize) -> String {
    if witness == append { format!("append {append} was acknowledged") } else { format!("read {witness} had shown") }
}
