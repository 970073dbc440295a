//! Figures from a history.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_types::Timestamp;
use tokio::time::Instant;

use crate::history::{End, Operation};

/// Successes in a row that count as service again: more than the clients, so that none of them is left out.
pub(crate) const RUN_OF_SUCCESSES: usize = 10;

/// Longest gap between two successes of one client that ends after `from`; the end of the load closes every gap.
pub(crate) fn stall(operations: &[Operation], from: Instant, end: Instant) -> Duration {
    let mut last: BTreeMap<u32, Instant> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    let mut sorted: Vec<&Operation> = operations.iter().filter(|operation| operation.end == End::Ok).collect();
    sorted.sort_by_key(|operation| operation.ended);
    for operation in sorted {
        if let Some(before) = last.insert(operation.client, operation.ended)
            && operation.ended >= from
        {
            longest = longest.max(operation.ended - before);
        }
    }
    // A client that never succeeded again stalls until the end.
    last.values().map(|at| end.saturating_duration_since(*at)).fold(longest, Duration::max)
}

/// From the injection to the first success of a run of successes, over all clients; `None`: there was none.
///
/// Counts operations that began after the fault. When nothing failed and nothing began late this is the time of
/// the next success: the fault was not felt.
pub(crate) fn rto(operations: &[Operation], injected: Instant) -> Option<Duration> {
    let mut after: Vec<&Operation> = operations.iter().filter(|operation| operation.ended >= injected).collect();
    after.sort_by_key(|operation| operation.ended);
    let mut first: Option<Instant> = None;
    let mut length = 0;
    for operation in after {
        if operation.end != End::Ok {
            (first, length) = (None, 0);
            continue;
        }
        if operation.began < injected {
            continue;
        }
        first.get_or_insert(operation.ended);
        length += 1;
        if length >= RUN_OF_SUCCESSES {
            return first.map(|at| at - injected);
        }
    }
    None
}

/// The `percent`-th percentile by nearest rank.
pub(crate) fn percentile(values: &[u64], percent: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Now, on the clock that events carry.
pub(crate) fn wall_clock() -> Timestamp {
    let micros = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_micros());
    Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(start: Instant, client: u32, began_ms: u64, ended_ms: u64, end: End) -> Operation {
        let at = |ms| start + Duration::from_millis(ms);
        Operation { client, number: ended_ms, opened: start, began: at(began_ms), ended: at(ended_ms), end }
    }

    #[test]
    fn the_stall_is_one_clients_longest_gap_not_the_gap_of_all() {
        let start = Instant::now();
        let mut history: Vec<Operation> = (0..100).map(|n| operation(start, 1, n * 10, n * 10 + 5, End::Ok)).collect();
        history.push(operation(start, 2, 0, 10, End::Ok));
        history.push(operation(start, 2, 10, 710, End::Ok));
        history.push(operation(start, 2, 710, 990, End::Ok));
        let end = start + Duration::from_millis(1000);
        assert_eq!(stall(&history, start, end), Duration::from_millis(700));
    }

    #[test]
    fn a_client_that_never_comes_back_stalls_until_the_end() {
        let start = Instant::now();
        let history = [operation(start, 1, 0, 10, End::Ok)];
        assert_eq!(stall(&history, start, start + Duration::from_secs(5)), Duration::from_millis(4990));
    }

    #[test]
    fn rto_begins_again_after_every_failure() {
        let start = Instant::now();
        let mut history = vec![operation(start, 1, 100, 120, End::Ok), operation(start, 1, 120, 150, End::Ambiguous)];
        history.extend((0..12).map(|n| operation(start, 1, 300 + n * 10, 305 + n * 10, End::Ok)));
        assert_eq!(rto(&history, start + Duration::from_millis(50)), Some(Duration::from_millis(255)));
        assert_eq!(rto(&history[..5], start), None, "three successes are no run");
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<u64> = (1..=59).collect();
        assert_eq!(percentile(&values, 95), 57);
        assert_eq!(percentile(&values, 50), 30);
        assert_eq!(percentile(&[7], 95), 7);
    }
}
