//! What clients saw over the time of one run, in slices, for a picture. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::figures::KINDS;
use crate::history::{End, Operation};
use crate::measure::millis;
use crate::round::Round;

/// What clients saw over the time of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strip {
    /// Which run.
    pub run: u32,
    /// Length of a slice.
    pub slice_ms: u64,
    /// From the beginning of the load to the fault.
    pub before_ms: u64,
    /// Operations by the time of their end, by kind of client.
    pub kinds: BTreeMap<String, Vec<Slice>>,
}

/// Operations that ended within one slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Succeeded.
    pub ok: u64,
    /// Failed.
    pub failed: u64,
    /// Ended unknown, or broke off.
    pub unknown: u64,
}

/// Slices that a picture can show on a narrow screen.
const SLICES: u64 = 120;

/// The strip of the run with the longest stall.
pub(crate) fn worst(rounds: &[Round]) -> Option<Strip> {
    rounds.iter().filter(|round| round.fault.is_ok()).max_by_key(|round| round.stall).map(strip)
}

fn strip(round: &Round) -> Strip {
    let times = round.times;
    let length = millis(times.ended.saturating_duration_since(times.began)).max(1);
    let slice_ms = width(length);
    let slices = |operations: &[Operation]| {
        let mut slices = vec![Slice::default(); usize::try_from(length / slice_ms + 1).unwrap_or(1)];
        for operation in operations {
            let at = millis(operation.ended.saturating_duration_since(times.began)) / slice_ms;
            // The last answers come just after the load was stopped.
            let last = slices.len() - 1;
            let Some(slice) = slices.get_mut(usize::try_from(at).map_or(last, |at| at.min(last))) else { continue };
            match operation.end {
                End::Ok => slice.ok += 1,
                End::Failed | End::Refused => slice.failed += 1,
                End::Ambiguous | End::Truncated => slice.unknown += 1,
            }
        }
        slices
    };
    let kinds = KINDS.iter().map(|(kind, of)| (*kind, of(round))).filter(|(_, operations)| !operations.is_empty());
    Strip {
        run: round.number,
        slice_ms,
        before_ms: millis(times.injected.saturating_duration_since(times.began)),
        kinds: kinds.map(|(kind, operations)| (kind.to_owned(), slices(operations))).collect::<BTreeMap<_, _>>(),
    }
}

/// A round number of milliseconds that leaves at most [`SLICES`].
fn width(length_ms: u64) -> u64 {
    let least = length_ms.div_ceil(SLICES);
    [10, 20, 25, 50, 100, 200, 250, 500].into_iter().find(|width| *width >= least).unwrap_or_else(|| {
        let seconds = Duration::from_millis(least).as_secs() + 1;
        seconds * 1000
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_round_and_few() {
        assert_eq!((width(1), width(1200), width(3000), width(60_000)), (10, 10, 25, 500));
        for length in [1, 999, 12_345, 130_000, 9_999_999] {
            assert!(length / width(length) <= SLICES, "{length}");
        }
    }
}
