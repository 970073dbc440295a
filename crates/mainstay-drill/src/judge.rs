//! The verdict over all rounds. Pure: everything it says follows from what the rounds saw.

use std::collections::BTreeMap;

use mainstay_stack::Stack;
use mainstay_stack::model::Promise;
use mainstay_types::Timestamp;

use crate::fault::Fault;
use crate::findings;
use crate::history::{End, Operation};
use crate::measure::{self, millis};
use crate::report::{
    Counts, Evidence, Latency, Load, Measured, Phases, Promised, REPORT_VERSION, Report, RoundReport, Spread, Verdict,
};
use crate::round::{LEAST_LOAD, Round};
use crate::run::Options;
use crate::whole;

/// What is judged, besides the rounds.
pub(crate) struct Case<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) options: &'a Options,
    pub(crate) began: Timestamp,
    /// What the load was, for people.
    pub(crate) load: String,
}

/// Kinds of clients, as reports name them.
const WRITES: &str = "writes";
const REQUESTS: &str = "requests";

/// The report.
pub(crate) fn judge(case: &Case<'_>, rounds: &[Round]) -> Report {
    let (options, promise) = (case.options, promise(case));
    let measured = measured(rounds);
    let (verdict, reasons) = verdict(case, rounds, &measured.counts, promise);
    Report {
        version: REPORT_VERSION,
        drill: options.fault.name().to_owned(),
        verdict,
        runs: u32::try_from(rounds.len()).unwrap_or(u32::MAX),
        seed: options.seed,
        began: case.began,
        ended: measure::wall_clock(),
        sabotage: options.sabotage.map(|sabotage| sabotage.name().to_owned()),
        promise: Promised {
            rto_ms: millis(promise.rto),
            rpo_ms: millis(promise.rpo),
            source: if promise.is_declared { "mainstay.toml" } else { "default" }.to_owned(),
        },
        measured,
        latency: latency(rounds),
        checks: findings::summary(rounds),
        history_sha256: None,
        timeline_ms: medians(rounds),
        rounds: rounds.iter().map(round_report).collect(),
        evidence: evidence(case, rounds, reasons),
    }
}

fn promise(case: &Case<'_>) -> Promise {
    let target = &case.stack.target;
    match case.options.fault {
        Fault::InstanceCrash => target.instance_crash,
        Fault::DatabaseCrash => target.database_failure,
        Fault::ControlPlaneCrash => target.control_plane_crash,
        Fault::KeepCrash => target.keep_crash,
    }
}

fn measured(rounds: &[Round]) -> Measured {
    let rto_ms: Vec<u64> = rounds.iter().filter_map(|round| round.rto).map(millis).collect();
    let stall_ms: Vec<u64> = rounds.iter().map(|round| millis(round.stall)).collect();
    let whole_ms: Vec<u64> = rounds.iter().filter_map(|round| round.whole).map(millis).collect();
    let mut counts = Counts::default();
    for round in rounds {
        counts.add(&count(round));
    }
    Measured { stall_ms: Spread::of(&stall_ms), rto_ms: Spread::of(&rto_ms), whole_ms: Spread::of(&whole_ms), counts }
}

fn evidence(case: &Case<'_>, rounds: &[Round], reasons: Vec<String>) -> Evidence {
    let options = case.options;
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    for (text, count) in rounds.iter().flat_map(|round| &round.errors) {
        *errors.entry(text.clone()).or_default() += count;
    }
    let least = |of: fn(&Round) -> usize| rounds.iter().map(of).min().unwrap_or(0) as u64;
    Evidence {
        faults: rounds.iter().map(fault_text).collect(),
        least_load_before: least(|round| round.load_before),
        least_load_after: least(|round| round.load_after),
        errors,
        reasons,
        rto_ms: rounds.iter().filter_map(|round| round.rto).map(millis).collect(),
        stall_ms: rounds.iter().map(|round| millis(round.stall)).collect(),
        load: case.load.clone(),
        not_tested: vec![
            "loss of the machine, its disk or its power".to_owned(),
            "more load than this drill makes".to_owned(),
        ],
        reproduce: format!("mainstay drill {} --runs {} --seed {}", options.fault.name(), options.runs, options.seed),
    }
}

fn fault_text(round: &Round) -> String {
    match &round.fault {
        Ok(text) => text.clone(),
        Err(text) => format!("not proven: {text}"),
    }
}

fn verdict(case: &Case<'_>, rounds: &[Round], counts: &Counts, promise: Promise) -> (Verdict, Vec<String>) {
    let mut failures: Vec<String> = rounds.iter().flat_map(|round| round.reasons.clone()).collect();
    let mut voids = Vec::new();
    for round in rounds {
        let number = round.number;
        if let Err(text) = &round.fault {
            voids.push(format!("run {number}: the fault is not proven: {text}"));
        }
        if round.load_before < LEAST_LOAD {
            let load = round.load_before;
            voids.push(format!("run {number}: {load} operations before the fault, {LEAST_LOAD} are needed"));
        }
        failures.extend(broken_times(round, promise));
        failures.extend(findings::broken(round));
        voids.extend(findings::unjudged(round));
    }
    failures.extend(broken_by_fault(case, counts, findings::disturbed(rounds)));
    if !failures.is_empty() {
        failures.extend(voids);
        return (Verdict::Fail, failures);
    }
    if voids.is_empty() { (Verdict::Pass, Vec::new()) } else { (Verdict::Void, voids) }
}

fn broken_times(round: &Round, promise: Promise) -> Vec<String> {
    let (number, mut broken) = (round.number, Vec::new());
    match round.rto {
        None => broken.push(format!("run {number}: service did not come back")),
        Some(rto) if rto > promise.rto => {
            let (rto, promised) = (rto.as_millis(), promise.rto.as_millis());
            broken.push(format!("run {number}: RTO {rto} ms, promised {promised} ms"));
        }
        Some(_) => {}
    }
    if round.whole.is_none() {
        let within = whole::WITHIN.as_secs();
        broken.push(format!("run {number}: the stack was not whole again within {within} s"));
    }
    broken
}

/// What the kind of fault promises besides its RTO: who is not hit must not feel it.
fn broken_by_fault(case: &Case<'_>, counts: &Counts, disturbed: u64) -> Vec<String> {
    let mut broken = Vec::new();
    let stands = case.stack.services.values().filter(|service| service.schedule.is_none());
    let instances = stands.map(|service| service.instances).min().unwrap_or(0);
    let (requests_count, writes_count) = match case.options.fault {
        // With one instance there is nobody to take over.
        Fault::InstanceCrash => (instances >= 2, false),
        Fault::DatabaseCrash => (false, false),
        Fault::ControlPlaneCrash | Fault::KeepCrash => (true, true),
    };
    if requests_count && counts.failed_requests > 0 {
        broken.push(format!("{} requests failed, none may", counts.failed_requests));
    }
    if writes_count && counts.failed_writes + counts.ambiguous > 0 {
        let text = format!("{} writes failed and {} ended unknown, none may", counts.failed_writes, counts.ambiguous);
        broken.push(text);
    }
    if writes_count && disturbed > 0 {
        broken.push(format!("{disturbed} writes of counters and bank failed or ended unknown, none may"));
    }
    broken
}

fn count(round: &Round) -> Counts {
    let mut counts = Counts::default();
    for operation in &round.writes {
        match operation.end {
            End::Ok => {}
            End::Failed => counts.failed_writes += 1,
            End::Ambiguous | End::Truncated => counts.ambiguous += 1,
        }
    }
    for operation in &round.requests {
        counts.requests += 1;
        match operation.end {
            End::Ok => {}
            End::Failed | End::Ambiguous => counts.failed_requests += 1,
            End::Truncated => counts.truncated += 1,
        }
    }
    findings::count_rows(round, &mut counts);
    counts
}

fn round_report(round: &Round) -> RoundReport {
    let kinds = [(WRITES, &round.writes), (REQUESTS, &round.requests)];
    let load = kinds.into_iter().filter(|(_, operations)| !operations.is_empty());
    let load = load.map(|(kind, operations)| (kind.to_owned(), load_of(round, operations))).collect();
    RoundReport {
        number: round.number,
        began: round.began_at,
        injected: round.injected_at,
        ended: round.ended_at,
        fault: fault_text(round),
        is_proven: round.fault.is_ok(),
        rto_ms: round.rto.map(millis),
        stall_ms: millis(round.stall),
        whole_ms: round.whole.map(millis),
        load,
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

fn latency(rounds: &[Round]) -> BTreeMap<String, Phases<Latency>> {
    let writes = latency_by_phase(rounds, |round| &round.writes);
    let requests = latency_by_phase(rounds, |round| &round.requests);
    let all = [(WRITES, writes), (REQUESTS, requests)];
    all.into_iter().filter_map(|(kind, found)| Some((kind.to_owned(), found?))).collect()
}

fn latency_by_phase(rounds: &[Round], of: impl Fn(&Round) -> &[Operation]) -> Option<Phases<Latency>> {
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

fn medians(rounds: &[Round]) -> BTreeMap<String, u64> {
    let mut all: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (step, at) in rounds.iter().flat_map(|round| &round.timeline) {
        all.entry(step.clone()).or_default().push(*at);
    }
    let rto: Vec<u64> = rounds.iter().filter_map(|round| round.rto).map(millis).collect();
    let whole: Vec<u64> = rounds.iter().filter_map(|round| round.whole).map(millis).collect();
    all.insert("first_success".to_owned(), rto);
    all.insert("whole".to_owned(), whole);
    all.retain(|_, values| !values.is_empty());
    all.into_iter().map(|(step, values)| (step, measure::percentile(&values, 50))).collect()
}
