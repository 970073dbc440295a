//! What a rollout cost its clients: connections that it dropped, time that it added. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay_decide::drills::Fault;
use tokio::time::Instant;

use crate::figures;
use crate::history::{End, Operation};
use crate::measure::percentile;
use crate::round::Round;
use crate::run::Options;

/// Connections that a client had to open anew since a moment: those of before were closed on it. A client that a limit
/// refused opens another by itself.
fn dropped(requests: &[Operation], since: Instant) -> usize {
    let mut opened: BTreeMap<u32, BTreeSet<Instant>> = BTreeMap::new();
    for operation in requests {
        opened.entry(operation.client).or_default().insert(operation.opened);
    }
    // The first of a client is none that was lost.
    opened.values().map(|of| of.iter().skip(1).filter(|at| **at > since).count()).sum()
}

fn is_limited(round: &Round) -> bool {
    round.seen.errors.keys().any(|text| text.starts_with("status 429"))
}

/// Promises of a rollout besides those of every drill.
pub(crate) fn broken(fault: Fault, rounds: &[Round]) -> Vec<String> {
    if fault != Fault::Deploy {
        return Vec::new();
    }
    let of = |round: &Round| {
        let count = dropped(&round.seen.requests, round.times.injected);
        let number = round.number;
        (count > 0 && !is_limited(round))
            .then(|| format!("run {number}: {count} connections of clients were dropped, none may"))
    };
    figures::proven(rounds).filter_map(of).collect()
}

/// Percentiles of the successes of a part of a round. **Unit**: microseconds.
struct Times {
    p95: u64,
    p99: u64,
}

impl Times {
    fn of<'o>(requests: impl Iterator<Item = &'o Operation>) -> Self {
        // The first request of a connection is one of shaking hands too: all come at once when the load begins.
        let is_plain = |one: &&Operation| one.end == End::Ok && one.opened < one.began;
        let ended = requests.filter(is_plain);
        let took = ended.map(|one| u64::try_from((one.ended - one.began).as_micros()).unwrap_or(u64::MAX));
        let took: Vec<u64> = took.collect();
        Self { p95: percentile(&took, 95), p99: percentile(&took, 99) }
    }
}

/// `p95 2.1 ms, 0.3 ms more; p99 …`.
fn added(before: &Times, during: &Times) -> String {
    let ms = |micros: u64| format!("{}.{} ms", micros / 1000, micros % 1000 / 100);
    let one = |name: &str, before: u64, during: u64| {
        let (more, word) = if during >= before { (during - before, "more") } else { (before - during, "less") };
        format!("{name} {}, {} {word} than before", ms(during), ms(more))
    };
    format!("{}; {}", one("p95", before.p95, during.p95), one("p99", before.p99, during.p99))
}

/// What a reader of the figures must know: a line for each round.
pub(crate) fn notes(options: &Options, rounds: &[Round]) -> Vec<String> {
    let mut notes = vec!["RTO is the time from asking until what was live was live again; nothing was away".to_owned()];
    if options.strategy.is_some() {
        notes.push("one strategy only was asked for".to_owned());
    }
    let line = |round: &Round| {
        let (at, over) = (round.times.injected, round.rto.unwrap_or(Duration::ZERO));
        let before = round.seen.requests.iter().filter(|one| one.ended < at);
        let during = round.seen.requests.iter().filter(|one| one.began >= at && one.began < at + over);
        let added = added(&Times::of(before), &Times::of(during));
        let count = dropped(&round.seen.requests, at);
        format!("run {}: while it was rolled out {added}; {count} connections dropped", round.number)
    };
    notes.extend(figures::proven(rounds).map(line));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(client: u32, opened: Instant, began: Instant, took_ms: u64) -> Operation {
        let ended = began + Duration::from_millis(took_ms);
        Operation { client, number: 1, opened, began, ended, end: End::Ok }
    }

    #[test]
    fn a_connection_that_a_client_opens_anew_was_dropped_but_for_its_first_and_those_of_before() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let of = |client, opened: &[u64]| {
            opened.iter().map(|ms| operation(client, at(*ms), at(*ms), 1)).collect::<Vec<Operation>>()
        };
        let all = [of(1, &[0, 0, 600, 600]), of(2, &[10, 20]), of(3, &[700])].concat();
        assert_eq!(dropped(&all, at(500)), 1, "client 1 lost its connection after the beginning, 2 before, 3 had none");
        assert_eq!(dropped(&all, at(5)), 2);
    }

    #[test]
    fn what_is_added_is_told_with_its_sign() {
        let (before, during) = (Times { p95: 2_000, p99: 9_000 }, Times { p95: 3_150, p99: 8_000 });
        assert_eq!(added(&before, &during), "p95 3.1 ms, 1.1 ms more than before; p99 8.0 ms, 1.0 ms less than before");
    }
}
