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

/// What was hit may serve on for so long after the fault: backends outlive their postmaster until they are fenced.
const SERVES_ON: Duration = Duration::from_millis(500);
/// A later gap in which nothing failed is an outage only when it is as long as this. Clients that are held fail nothing;
/// a busy processor holds nobody up for so long.
const HELD: Duration = Duration::from_millis(500);

/// From the injection until service was back for every client; `None`: it never was.
///
/// That is the first success of a run of successes, over all clients and of operations that began after the fault; and
/// the end of every client's outage, if there was one: what was hit may serve on for a moment, so that a run of
/// successes can precede the outage. When nobody felt anything this is the time of the next success.
pub(crate) fn rto(operations: &[Operation], injected: Instant) -> Option<Duration> {
    let run = run_of_successes(operations, injected)?;
    let first = run.first - injected;
    Some(outage(operations, injected, run).map_or(first, |outage| outage.max(first)))
}

/// Time between two successes of one client.
#[derive(Clone, Copy)]
struct Gap {
    began: Instant,
    ended: Instant,
}

impl Gap {
    fn length(self) -> Duration {
        self.ended - self.began
    }
}

/// From the injection to the end of the last client's outage. A client's outage is its first gap since that is longer
/// than anything before the fault, and at least half as long as its longest: a later one may be the load of a recovery.
///
/// It is one of the fault only if it began before service was back (the run of successes was complete, and what was hit
/// cannot serve on any more), if an operation failed in it, or if it is too long for anything else: else a hiccup of the
/// machine a second later would be told as an outage of a second.
fn outage(operations: &[Operation], injected: Instant, run: Run) -> Option<Duration> {
    let mut clients: BTreeMap<u32, (Vec<Instant>, Vec<Instant>)> = BTreeMap::new();
    for operation in operations {
        let (ends, failures) = clients.entry(operation.client).or_default();
        if operation.end == End::Ok { ends } else { failures }.push(operation.ended);
    }
    for (ends, _) in clients.values_mut() {
        ends.sort_unstable();
    }
    let gaps = |ends: &[Instant]| -> Vec<Gap> {
        ends.windows(2).filter_map(|pair| Some(Gap { began: *pair.first()?, ended: *pair.get(1)? })).collect()
    };
    let before = clients.values().flat_map(|(ends, _)| gaps(ends)).filter(|gap| gap.ended < injected);
    let usual = before.map(Gap::length).max().unwrap_or_default();
    let served_at = run.complete.max(injected + SERVES_ON);
    let of_client = |(ends, failures): &(Vec<Instant>, Vec<Instant>)| {
        let has_failure = |gap: &Gap| failures.iter().any(|at| (gap.began..=gap.ended).contains(at));
        let is_of_fault = |gap: &Gap| gap.began < served_at || gap.length() >= HELD || has_failure(gap);
        let since: Vec<Gap> = gaps(ends).into_iter().filter(|gap| gap.ended >= injected && is_of_fault(gap)).collect();
        let longest = since.iter().map(|gap| gap.length()).max()?;
        let least = (longest / 2).max(usual * 2).max(FELT);
        since.into_iter().find(|gap| gap.length() >= least).map(|gap| gap.ended - injected)
    };
    clients.values().filter_map(of_client).max()
}

/// A run of successes: when the first of them ended, and when they were enough.
#[derive(Clone, Copy)]
struct Run {
    first: Instant,
    complete: Instant,
}

/// The first run of successes since the injection.
fn run_of_successes(operations: &[Operation], injected: Instant) -> Option<Run> {
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
            return first.map(|first| Run { first, complete: operation.ended });
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

    /// Told as an outage of 1.4 s: service was back after 65 ms, and a processor was busy for 82 ms a second later.
    #[test]
    fn a_hiccup_after_service_was_back_is_no_outage_unless_something_fails_in_it() {
        let start = Instant::now();
        let injected = start + Duration::from_millis(500);
        let steady = |client, from: u64, to: u64| {
            (from / 5..to / 5).map(move |n| operation(start, client, n * 5, n * 5 + 4, End::Ok)).collect::<Vec<_>>()
        };
        // Both clients are cut off for 40 ms; one has a hiccup of 80 ms at 1.9 s.
        let mut history = [steady(1, 0, 500), steady(1, 540, 1820), steady(1, 1900, 3000)].concat();
        history.extend([steady(2, 0, 500), steady(2, 540, 3000)].concat());
        assert_eq!(rto(&history, injected), Some(Duration::from_millis(44)));
        history.push(operation(start, 1, 1820, 1850, End::Failed));
        assert_eq!(rto(&history, injected), Some(Duration::from_millis(1404)), "the fault came back");
        // Held, and nothing failed: as long as that is no hiccup.
        let mut held = [steady(1, 0, 1820), steady(1, 2400, 3000)].concat();
        held.extend(steady(2, 0, 3000));
        assert_eq!(rto(&held, injected), Some(Duration::from_millis(1904)));
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let values: Vec<u64> = (1..=59).collect();
        assert_eq!(percentile(&values, 95), 57);
        assert_eq!(percentile(&values, 50), 30);
        assert_eq!(percentile(&[7], 95), 7);
    }
}
