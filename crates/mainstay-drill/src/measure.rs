//! Figures from a history.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_types::Timestamp;
use tokio::time::Instant;

use crate::history::{End, Operation};

/// Successes in a row that count as service again.
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

/// A gap between two successes of one client that is shorter than this is no outage: a processor was busy.
const FELT: Duration = Duration::from_millis(50);

/// From the injection until service was back for every client; `None`: it never was.
///
/// That is the first success of a run of successes, over all clients and of operations that began after the fault; and
/// the end of every client's outage, if there was one: what was hit may serve on for a moment, so that a run of
/// successes can precede the outage. When nobody felt anything this is the time of the next success.
pub(crate) fn rto(operations: &[Operation], injected: Instant) -> Option<Duration> {
    let run = run_of_successes(operations, injected)?;
    Some(outage(operations, injected).map_or(run, |outage| outage.max(run)))
}

/// From the injection to the end of the last client's outage. A client's outage is its first gap since that is longer
/// than anything before the fault, and at least half as long as its longest: a later one may be the load of a recovery.
fn outage(operations: &[Operation], injected: Instant) -> Option<Duration> {
    let mut clients: BTreeMap<u32, Vec<Instant>> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.end == End::Ok) {
        clients.entry(operation.client).or_default().push(operation.ended);
    }
    for ends in clients.values_mut() {
        ends.sort_unstable();
    }
    let gaps = |ends: &[Instant]| -> Vec<(Instant, Duration)> {
        ends.windows(2).filter_map(|pair| Some((*pair.get(1)?, *pair.get(1)? - *pair.first()?))).collect()
    };
    let before = clients.values().flat_map(|ends| gaps(ends)).filter(|(end, _)| *end < injected);
    let usual = before.map(|(_, gap)| gap).max().unwrap_or_default();
    let of_client = |ends: &Vec<Instant>| {
        let since: Vec<_> = gaps(ends).into_iter().filter(|(end, _)| *end >= injected).collect();
        let longest = since.iter().map(|(_, gap)| *gap).max()?;
        let least = (longest / 2).max(usual * 2).max(FELT);
        since.into_iter().find(|(_, gap)| *gap >= least).map(|(end, _)| end - injected)
    };
    clients.values().filter_map(of_client).max()
}

/// From the injection to the first success of a run of successes.
fn run_of_successes(operations: &[Operation], injected: Instant) -> Option<Duration> {
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

    /// Told as "back within 3 ms": backends outlive their postmaster for a moment, and ten writes go through.
    #[test]
    fn what_serves_on_for_a_moment_is_not_service_that_is_back() {
        let start = Instant::now();
        let injected = start + Duration::from_millis(500);
        let steady = |client, from: u64, to: u64| {
            (from / 5..to / 5).map(move |n| operation(start, client, n * 5, n * 5 + 4, End::Ok)).collect::<Vec<_>>()
        };
        let mut history = [steady(1, 0, 530), steady(2, 0, 530)].concat();
        assert_eq!(rto(&history, injected), Some(Duration::from_millis(4)), "nothing was felt");
        history.push(operation(start, 1, 530, 1730, End::Ok));
        history.push(operation(start, 2, 530, 1800, End::Ok));
        history.extend([steady(1, 1730, 3000), steady(2, 1800, 2500), steady(2, 2900, 3000)].concat());
        assert_eq!(
            rto(&history, injected),
            Some(Duration::from_millis(1300)),
            "the second client's outage, not its last gap"
        );
    }

    #[test]
    fn a_gap_as_there_were_before_the_fault_is_no_outage() {
        let start = Instant::now();
        let ends = [0, 60, 120, 180, 300, 360, 480, 540, 600, 660, 720, 780, 840, 900, 960, 1020];
        let history: Vec<Operation> =
            ends.iter().map(|end| operation(start, 1, end.max(&1) - 1, *end, End::Ok)).collect();
        assert_eq!(rto(&history, start + Duration::from_millis(350)), Some(Duration::from_millis(10)));
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<u64> = (1..=59).collect();
        assert_eq!(percentile(&values, 95), 57);
        assert_eq!(percentile(&values, 50), 30);
        assert_eq!(percentile(&[7], 95), 7);
    }
}
