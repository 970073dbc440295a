//! Compares receipts with the counter. Pure: everything it needs is given.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::client::End;

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    /// Since the beginning of the run.
    pub(crate) ended: Duration,
    pub(crate) took: Duration,
    pub(crate) n: i64,
    pub(crate) end: End,
}

/// One counter: what it said before and after, and every request in between.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) epoch: i64,
    pub(crate) was_reset: bool,
    pub(crate) operations: Vec<Operation>,
    pub(crate) replays: u64,
    pub(crate) wrong_replays: u64,
}

/// What was found, over all counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    pub(crate) clients: usize,
    pub(crate) counters: usize,
    pub(crate) took: Duration,
    /// Requests that were given integers.
    pub(crate) acknowledged: usize,
    /// Integers that were given.
    pub(crate) integers: i64,
    /// Given, and the counter does not know of them.
    pub(crate) lost: i64,
    /// Given to more than one request.
    pub(crate) duplicated: i64,
    /// Requests of which nobody said whether they counted.
    pub(crate) ambiguous: usize,
    /// Integers that the counter has passed and nobody was given: those of ambiguous requests that counted.
    pub(crate) unclaimed: i64,
    /// More of them than ambiguous requests could have taken.
    pub(crate) unexplained: i64,
    /// Requests of which it is certain that they did not count.
    pub(crate) refused: usize,
    /// A client was given a smaller integer after a larger one.
    pub(crate) out_of_order: usize,
    pub(crate) replays: u64,
    pub(crate) wrong_replays: u64,
    pub(crate) resets: usize,
    pub(crate) final_values: Vec<i64>,
    pub(crate) latency: Latency,
    /// Longest time between two answers with integers of one client.
    pub(crate) stall: Duration,
    pub(crate) reasons: BTreeMap<String, usize>,
}

/// Of requests that were given integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latency {
    pub(crate) p50: Duration,
    pub(crate) p95: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Report {
    pub(crate) fn of(accounts: &[Account], clients: usize, took: Duration) -> Self {
        let mut report = Self { clients, counters: accounts.len(), took, ..Self::default() };
        let mut times = Vec::new();
        for account in accounts {
            report.add(account, &mut times);
        }
        times.sort_unstable();
        report.latency = Latency {
            p50: percentile(&times, 50),
            p95: percentile(&times, 95),
            p99: percentile(&times, 99),
            max: times.last().copied().unwrap_or_default(),
        };
        report
    }

    fn add(&mut self, account: &Account, times: &mut Vec<Duration>) {
        let mut given = Vec::new();
        let mut ambiguous_integers = 0;
        let mut by_client: BTreeMap<usize, Vec<(Duration, i64, i64)>> = BTreeMap::new();
        for operation in &account.operations {
            match &operation.end {
                End::Given { first, value } => {
                    self.acknowledged += 1;
                    times.push(operation.took);
                    given.extend(*first..=*value);
                    by_client.entry(operation.client).or_default().push((operation.ended, *first, *value));
                }
                End::Refused(reason) => {
                    self.refused += 1;
                    *self.reasons.entry(reason.clone()).or_default() += 1;
                }
                End::Ambiguous(reason) => {
                    self.ambiguous += 1;
                    ambiguous_integers += operation.n;
                    *self.reasons.entry(reason.clone()).or_default() += 1;
                }
            }
        }
        self.integers += count(given.len());
        given.sort_unstable();
        let all = count(given.len());
        given.dedup();
        let distinct = count(given.len());
        self.duplicated += all - distinct;
        let known = count(given.iter().filter(|value| (account.start + 1..=account.end).contains(*value)).count());
        self.lost += distinct - known;
        let unclaimed = account.end - account.start - known;
        self.unclaimed += unclaimed;
        self.unexplained += (unclaimed - ambiguous_integers).max(0);
        for answers in by_client.values_mut() {
            answers.sort_unstable();
            let mut before = (Duration::ZERO, account.start);
            for (ended, first, value) in answers {
                self.out_of_order += usize::from(*first <= before.1);
                self.stall = self.stall.max(ended.saturating_sub(before.0));
                before = (*ended, *value);
            }
        }
        self.replays += account.replays;
        self.wrong_replays += account.wrong_replays;
        self.resets += usize::from(account.was_reset);
        self.final_values.push(account.end);
    }

    /// Whether receipts and counter disagree.
    pub(crate) fn is_broken(&self) -> bool {
        self.lost != 0
            || self.duplicated != 0
            || self.unexplained != 0
            || self.out_of_order != 0
            || self.wrong_replays != 0
            || self.resets != 0
    }

    /// Requests that were given integers, in a second.
    fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate of fewer than 2^52 requests")]
        let acknowledged = self.acknowledged as f64;
        acknowledged / self.took.as_secs_f64().max(0.001)
    }

    pub(crate) fn json(&self) -> String {
        let ms = |duration: Duration| (duration.as_secs_f64() * 10_000.0).round() / 10.0;
        let value = json!({
            "verdict": if self.is_broken() { "BROKEN" } else { "AGREED" },
            "clients": self.clients, "counters": self.counters, "took_s": ms(self.took / 1_000),
            "acknowledged": self.acknowledged, "integers": self.integers,
            "lost": self.lost, "duplicated": self.duplicated, "ambiguous": self.ambiguous,
            "unclaimed": self.unclaimed, "unexplained": self.unexplained, "refused": self.refused,
            "out_of_order": self.out_of_order, "replays": self.replays, "wrong_replays": self.wrong_replays,
            "resets": self.resets, "final_values": self.final_values,
            "requests_per_second": (self.rate() * 10.0).round() / 10.0,
            "latency_ms": {
                "p50": ms(self.latency.p50), "p95": ms(self.latency.p95),
                "p99": ms(self.latency.p99), "max": ms(self.latency.max),
            },
            "stall_ms": ms(self.stall), "reasons": self.reasons,
        });
        format!("{value:#}\n")
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let ms = |duration: Duration| format!("{:.1} ms", duration.as_secs_f64() * 1_000.0);
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<13} {value}"); // writing to a String cannot fail
        };
        line("acknowledged", format!("{} requests, {} integers", self.acknowledged, self.integers));
        line("lost", self.lost.to_string());
        line("duplicated", self.duplicated.to_string());
        let counted = match self.unclaimed {
            0 => String::new(),
            some => format!("; {some} integers taken by them"),
        };
        line("ambiguous", format!("{} requests without a word{counted}", self.ambiguous));
        line("unexplained", self.unexplained.to_string());
        line("refused", self.refused.to_string());
        line("out of order", self.out_of_order.to_string());
        line("replays", format!("{} with a known key, {} answered otherwise", self.replays, self.wrong_replays));
        if self.resets > 0 {
            line("resets", format!("{} counters were set back meanwhile", self.resets));
        }
        match self.final_values.as_slice() {
            [one] => line("final value", one.to_string()),
            many => line("final values", format!("{} counters, sum {}", many.len(), many.iter().sum::<i64>())),
        }
        let Latency { p50, p95, p99, max } = self.latency;
        line("latency", format!("p50 {}, p95 {}, p99 {}, worst {}", ms(p50), ms(p95), ms(p99), ms(max)));
        line("stall", format!("{} at most between two answers of one client", ms(self.stall)));
        line(
            "rate",
            format!("{:.0} requests/s of {} clients for {:.1} s", self.rate(), self.clients, self.took.as_secs_f64()),
        );
        for (reason, count) in &self.reasons {
            line("clients saw", format!("{count} × {reason}"));
        }
        let verdict = if self.is_broken() { "BROKEN" } else { "AGREED" };
        format!("receipts  {verdict}\n{text}")
    }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

/// Nearest rank.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
