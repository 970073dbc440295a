//! Figures of a report from what the rounds saw.

use std::collections::BTreeMap;

use crate::findings;
use crate::history::{End, Operation};
use crate::loss::Gone;
use crate::measure::{self, millis};
use crate::report::{Counts, Latency, Load, Measured, Phases, RoundReport, Spread};
use crate::round::Round;

/// What a kind of client did in a round.
pub(crate) type Of = fn(&Round) -> &[Operation];

/// Kinds of clients, as reports name them.
pub(crate) const KINDS: [(&str, Of); 4] = [
    ("writes", |round| &round.seen.writes),
    ("requests", |round| &round.seen.requests),
    ("keys", |round| &round.seen.keys),
    ("knocks", |round| &round.seen.knocks),
];

/// Rounds whose fault is proven: the others have no moment that their times could be counted from.
pub(crate) fn proven(rounds: &[Round]) -> impl Iterator<Item = &Round> {
    rounds.iter().filter(|round| round.fault.is_ok())
}

/// RTO of every such round in which service came back.
pub(crate) fn rto_ms(rounds: &[Round]) -> Vec<u64> {
    proven(rounds).filter_map(|round| round.rto).map(millis).collect()
}

/// Stall of every such round.
pub(crate) fn stall_ms(rounds: &[Round]) -> Vec<u64> {
    proven(rounds).map(|round| millis(round.stall)).collect()
}

/// Over all rounds.
pub(crate) fn measured(rounds: &[Round]) -> Measured {
    let (rto_ms, stall_ms) = (rto_ms(rounds), stall_ms(rounds));
    let whole_ms: Vec<u64> = proven(rounds).filter_map(|round| round.whole).map(millis).collect();
    Measured {
        stall_ms: Spread::of(&stall_ms),
        rto_ms: Spread::of(&rto_ms),
        whole_ms: Spread::of(&whole_ms),
        keys_rpo_ms: rounds.iter().map(oldest_loss_ms).max().unwrap_or(0),
        rows: sum(rounds.iter().map(|round| round.seen.examined.loss.rows)).unwrap_or_default(),
        numbers: sum(rounds.iter().filter_map(|round| round.seen.examined.loss.numbers)),
        counts: counts(rounds.iter()),
    }
}

fn sum(all: impl Iterator<Item = Gone>) -> Option<Gone> {
    all.reduce(|mut sum, one| {
        sum.add(&one);
        sum
    })
}

/// What was counted, over these.
pub(crate) fn counts<'r>(rounds: impl Iterator<Item = &'r Round>) -> Counts {
    let mut counts = Counts::default();
    for round in rounds {
        counts.add(&count(round));
    }
    counts
}

/// Age that the oldest lost key had when the fault came.
fn oldest_loss_ms(round: &Round) -> u64 {
    let lost = round.seen.keys_read.iter().flat_map(|keys| &keys.lost);
    lost.map(|one| millis(round.times.injected.saturating_duration_since(one.ended))).max().unwrap_or(0)
}

/// What proves the fault of a round.
pub(crate) fn fault_text(round: &Round) -> String {
    match &round.fault {
        Ok(text) => text.clone(),
        Err(text) => format!("not proven: {text}"),
    }
}

/// Connections of any client that were refused; those of counters and the bank are known by their errors only.
pub(crate) fn refused(round: &Round) -> u64 {
    let all = KINDS.iter().flat_map(|(_, of)| of(round));
    let seen = all.filter(|operation| operation.end == End::Refused).count() as u64;
    let is_refusal = |text: &str| text.contains("Connection refused") && !text.starts_with("redis");
    let told = round.seen.errors.iter().filter(|(text, _)| is_refusal(text)).map(|(_, count)| count).sum();
    seen.max(told)
}

fn count(round: &Round) -> Counts {
    let seen = &round.seen;
    let ends = |operations: &[Operation], wanted: &[End]| {
        operations.iter().filter(|operation| wanted.contains(&operation.end)).count() as u64
    };
    let is_broken = |one: &&Operation| !matches!(one.end, End::Ok | End::Refused) && one.opened < round.times.gone;
    let mut counts = Counts {
        failed_writes: ends(&seen.writes, &[End::Failed, End::Refused]),
        ambiguous: ends(&seen.writes, &[End::Ambiguous, End::Truncated]),
        requests: seen.requests.len() as u64,
        failed_requests: ends(&seen.requests, &[End::Failed, End::Refused, End::Ambiguous]),
        truncated: ends(&seen.requests, &[End::Truncated]),
        failed_keys: ends(&seen.keys, &[End::Failed, End::Refused, End::Ambiguous, End::Truncated]),
        knocks: seen.knocks.len() as u64,
        refused: refused(round),
        broken: KINDS.iter().flat_map(|(_, of)| of(round)).filter(is_broken).count() as u64,
        ..Counts::default()
    };
    findings::count_rows(round, &mut counts);
    if let Some(keys) = &seen.keys_read {
        counts.keys = keys.acknowledged;
        counts.keys_lost = keys.lost.len() as u64;
    }
    counts
}

/// One round's part of the report.
pub(crate) fn round_report(round: &Round) -> RoundReport {
    let load = KINDS.iter().map(|(kind, of)| (*kind, of(round))).filter(|(_, operations)| !operations.is_empty());
    RoundReport {
        number: round.number,
        began: round.began_at,
        injected: round.injected_at,
        ended: round.ended_at,
        fault: fault_text(round),
        is_proven: round.fault.is_ok(),
        rto_ms: round.rto.filter(|_| round.fault.is_ok()).map(millis),
        stall_ms: round.fault.is_ok().then(|| millis(round.stall)),
        whole_ms: round.whole.map(millis),
        load: load.map(|(kind, operations)| (kind.to_owned(), load_of(round, operations))).collect(),
        timeline_ms: round.timeline.clone(),
        counts: count(round),
    }
}

/// Operations by phase. What service was back for is `after`; what waited for it is `during`.
fn phases<'o>(round: &Round, operations: &'o [Operation]) -> Phases<Vec<&'o Operation>> {
    let times = round.times;
    let back = round.rto.map_or(times.ended, |rto| times.injected + rto);
    let mut phases: Phases<Vec<&Operation>> = Phases::default();
    for operation in operations {
        let phase = if operation.ended < times.injected {
            &mut phases.before
        } else if operation.began < back {
            &mut phases.during
        } else {
            &mut phases.after
        };
        phase.push(operation);
    }
    phases
}

fn load_of(round: &Round, operations: &[Operation]) -> Phases<Load> {
    let times = round.times;
    let back = round.rto.map_or(times.ended, |rto| times.injected + rto);
    let found = phases(round, operations);
    let load = |operations: &[&Operation], length| Load {
        attempted: operations.len() as u64,
        succeeded: operations.iter().filter(|operation| operation.end == End::Ok).count() as u64,
        length_ms: millis(length),
    };
    Phases {
        before: load(&found.before, times.injected.saturating_duration_since(times.began)),
        during: load(&found.during, back.saturating_duration_since(times.injected)),
        after: load(&found.after, times.ended.saturating_duration_since(back)),
    }
}

/// Latency over all rounds by kind of client; a kind that did nothing is left out.
pub(crate) fn latency(rounds: &[Round]) -> BTreeMap<String, Phases<Latency>> {
    let by_phase = |of: Of| {
        let mut all: Phases<Vec<u64>> = Phases::default();
        for round in rounds {
            let found = phases(round, of(round));
            all.before.extend(micros(&found.before));
            all.during.extend(micros(&found.during));
            all.after.extend(micros(&found.after));
        }
        (!all.before.is_empty()).then(|| Phases {
            before: latency_of(&all.before),
            during: latency_of(&all.during),
            after: latency_of(&all.after),
        })
    };
    KINDS.iter().filter_map(|(kind, of)| Some(((*kind).to_owned(), by_phase(*of)?))).collect()
}

fn micros<'o>(operations: &'o [&Operation]) -> impl Iterator<Item = u64> + 'o {
    let succeeded = operations.iter().filter(|operation| operation.end == End::Ok);
    succeeded.map(|operation| u64::try_from((operation.ended - operation.began).as_micros()).unwrap_or(u64::MAX))
}

fn latency_of(micros: &[u64]) -> Latency {
    Latency {
        count: micros.len() as u64,
        p50_us: measure::percentile(micros, 50),
        p95_us: measure::percentile(micros, 95),
        p99_us: measure::percentile(micros, 99),
        max_us: micros.iter().copied().max().unwrap_or(0),
    }
}

/// Median time of each step of recovery.
pub(crate) fn medians(rounds: &[Round]) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (step, at) in rounds.iter().flat_map(|round| &round.timeline) {
        all.entry(step.clone()).or_default().push(*at);
    }
    let rto = rto_ms(rounds);
    let whole: Vec<u64> = proven(rounds).filter_map(|round| round.whole).map(millis).collect();
    all.insert("first_success".to_owned(), rto);
    all.insert("whole".to_owned(), whole);
    all.retain(|_, values| !values.is_empty());
    all.into_iter().map(|(step, values)| (step, measure::percentile(&values, 50))).collect()
}
