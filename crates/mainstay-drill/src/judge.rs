//! The verdict over all rounds. Everything it says follows from what the rounds saw.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_api::{Extended, Verdict};
use mainstay_decide::drills::Fault;
use mainstay_decide::pressure;
use mainstay_stack::Stack;
use mainstay_stack::model::Promise;
use mainstay_types::Timestamp;
use tokio::time::Instant;

use crate::aim;
use crate::history::{End, Operation};
use crate::measure::{self, millis};
use crate::report::{Counts, Evidence, Promised, REPORT_VERSION, Report};
use crate::round::{LEAST_LOAD, Round};
use crate::run::Options;
use crate::whole;
use crate::{alerts, figures, findings, rollout, strip};

/// What is judged, besides the rounds.
pub(crate) struct Case<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) options: &'a Options,
    pub(crate) began: Timestamp,
    /// What the load was, for people.
    pub(crate) load: String,
}

/// The report.
pub(crate) fn judge(case: &Case<'_>, rounds: &[Round]) -> Report {
    let (options, promise) = (case.options, case.options.fault.promise(case.stack));
    let measured = figures::measured(rounds);
    let (verdict, reasons) = verdict(case, rounds, promise);
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
        extended: extended(case, rounds, promise),
        measured,
        latency: figures::latency(rounds),
        checks: findings::summary(rounds),
        alerts: alerts::over(figures::proven(rounds).map(|round| round.told.as_slice())),
        history_sha256: None,
        strip: strip::worst(rounds),
        environment: None,
        timeline_ms: figures::medians(rounds),
        rounds: rounds.iter().map(figures::round_report).collect(),
        evidence: evidence(case, rounds, promise, reasons),
    }
}

fn evidence(case: &Case<'_>, rounds: &[Round], promise: Promise, reasons: Vec<String>) -> Evidence {
    let options = case.options;
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    for (text, count) in rounds.iter().flat_map(|round| &round.seen.errors) {
        *errors.entry(text.clone()).or_default() += count;
    }
    let least = |of: fn(&Round) -> usize| rounds.iter().map(of).min().map(|count| count as u64);
    Evidence {
        faults: rounds.iter().map(figures::fault_text).collect(),
        least_load_before: least(|round| round.load_before),
        least_load_after: least(|round| round.load_after),
        errors,
        reasons,
        notes: notes(case, rounds, promise),
        rto_ms: figures::rto_ms(rounds),
        stall_ms: figures::stall_ms(rounds),
        load: case.load.clone(),
        not_tested: not_tested(options.fault),
        reproduce: again(options),
    }
}

/// The line that runs the same drill on the same stack.
pub(crate) fn again(options: &Options) -> String {
    let mistake = options.sabotage.map(|mistake| format!(" --sabotage {}", mistake.name()));
    let strategy = options.strategy.map(|strategy| format!(" --strategy {strategy}")).unwrap_or_default();
    let (call, drill) = (&options.call, options.fault.name());
    let (runs, seed, mistake) = (options.runs, options.seed, mistake.unwrap_or_default());
    format!("{call} drill {drill}{strategy} --runs {runs} --seed {seed}{mistake}")
}

/// What a reader of the figures must know.
fn notes(case: &Case<'_>, rounds: &[Round], promise: Promise) -> Vec<String> {
    let mut notes = Vec::new();
    let pressed = rounds.iter().filter(|round| round.was_pressed).count();
    if pressed > 0 && case.options.fault.bounds_stall() {
        let limit = stall_limit(case.options.fault, true, promise).as_millis();
        notes.push(format!(
            "in {pressed} of {} rounds {}; the stall there is held to {limit} ms",
            rounds.len(),
            excuse(case.options.fault),
        ));
    }
    notes.extend(let_go(case, rounds));
    match case.options.fault {
        Fault::EdgeCrash | Fault::RouterCrash => {
            notes.push("connections that were open when it died break with it; new ones wait".to_owned());
        }
        Fault::CacheCrash => notes.push("what the cache held may be gone: that is no loss".to_owned()),
        Fault::StoreCrash => notes.push(
            "the store syncs its file once a second (appendfsync everysec); what it acknowledged while a sync was under \
             way, 2 s at most, dies with the process"
                .to_owned(),
        ),
        Fault::InstanceCrash => notes.extend(whose_instances(case.stack)),
        Fault::Deploy => notes.extend(rollout::notes(case.options, rounds)),
        Fault::DatabaseCrash
        | Fault::DatabaseFreeze
        | Fault::StandbyLoss
        | Fault::Switchover
        | Fault::ScaleUp
        | Fault::ScaleDown
        | Fault::ReplicationLag
        | Fault::CorruptPage
        | Fault::PoolExhaustion
        | Fault::DiskFull
        | Fault::CacheLoss
        | Fault::ControlPlaneCrash
        | Fault::KeepCrash
        | Fault::BackupRestore
        | Fault::DropTable
        | Fault::CorruptBackup
        | Fault::MissingWal
        | Fault::MachineLoss
        | Fault::Null => {}
    }
    notes
}

/// What was lost and may be, in count and in time.
fn let_go(case: &Case<'_>, rounds: &[Round]) -> Option<String> {
    let explained = rounds.iter().filter_map(|round| round.seen.examined.loss.explained_us).max()?;
    let measured = figures::measured(rounds);
    let rows = measured.rows;
    let numbers = measured.numbers.map(|gone| format!(" and {} of {} numbers", gone.lost, gone.acknowledged));
    let rpo = case.options.fault.lets_rows_go(case.stack).as_millis();
    let when = match explained.div_ceil(1000) {
        0 => "in the moment of the fault".to_owned(),
        ms => format!("in the last {ms} ms before the fault"),
    };
    Some(format!(
        "commits wait for no standby (durability = \"fast\"): {} of {} rows{} that were acknowledged are gone; the loss of \
         what was acknowledged {when} explains all that was read, {rpo} ms are promised",
        rows.lost,
        rows.acknowledged,
        numbers.unwrap_or_default(),
    ))
}

/// Which instances may have been hit, where that is not all.
fn whose_instances(stack: &Stack) -> Option<String> {
    let Some((asked, _)) = aim::probe(stack) else {
        return Some(
            "no service is asked through the edge: the times say nothing of it, nor of who was hit".to_owned(),
        );
    };
    let stands = stack.services.iter().filter(|(_, service)| service.schedule.is_none());
    let others: Vec<&str> = stands.map(|(name, _)| name.as_str()).filter(|name| *name != asked.as_str()).collect();
    let others = others.join(", ");
    (!others.is_empty()).then(|| format!("requests go to {asked}, so its instances were hit, none of {others}"))
}

fn not_tested(fault: Fault) -> Vec<String> {
    let of_fault = match fault {
        Fault::StoreCrash => "loss of power, which takes what was not synced: up to 2 s of keys",
        Fault::CacheCrash | Fault::CacheLoss => {
            "requests that need what the cache held, if the probed path needs nothing of it"
        }
        Fault::DatabaseFreeze => "a disk or a kernel that hangs: a killed process would not end there",
        Fault::StandbyLoss => {
            "the alert NoStandby of Prometheus, which waits for a minute without one; sessions that read from the standby"
        }
        Fault::ScaleUp | Fault::ScaleDown => {
            "that the load moves the number (`bin/lib/scale.sh` does); an application that does not finish its requests"
        }
        Fault::Deploy => {
            "migrations and release commands, which a drill runs none of; HTTP/2 and WebSocket clients (`bin/lib/deploy.sh` \
             has some of HTTP/2); code that is new"
        }
        Fault::Switchover => "a primary that is not well: replacing that is a failover",
        Fault::ReplicationLag => "a standby that is slow and not still: commits are then as slow as it is",
        Fault::CorruptPage => {
            "the alert CorruptPages of Prometheus, which waits for the next look at the metrics; damage that its checksum \
             does not show, and a page that is damaged on every member"
        }
        Fault::PoolExhaustion => "clients that hold connections for longer than others may wait: those are told 53300",
        Fault::DiskFull => "a disk that is filled on after the ballast was thrown off: PostgreSQL stops then",
        Fault::EdgeCrash => "connections over a network, whose first packets may be lost",
        Fault::RouterCrash => "how the application treats its broken connections",
        Fault::InstanceCrash
        | Fault::DatabaseCrash
        | Fault::ControlPlaneCrash
        | Fault::KeepCrash
        | Fault::BackupRestore
        | Fault::DropTable
        | Fault::CorruptBackup
        | Fault::MissingWal
        | Fault::MachineLoss
        | Fault::Null => "more than one fault at a time",
    };
    ["loss of the machine, its disk or its power", "more load than this drill makes", of_fault]
        .into_iter()
        .map(str::to_owned)
        .collect()
}

fn verdict(case: &Case<'_>, rounds: &[Round], promise: Promise) -> (Verdict, Vec<String>) {
    let mut failures: Vec<String> = rounds.iter().flat_map(|round| round.reasons.clone()).collect();
    let mut voids = Vec::new();
    for round in rounds {
        let number = round.number;
        failures.extend(findings::broken(round));
        voids.extend(findings::unjudged(round));
        failures.extend(broken_keys(case, round, promise));
        if let Err(text) = &round.fault {
            // Data must not be lost without a fault either; all else is counted from it.
            voids.push(format!("run {number}: the fault is not proven: {text}"));
            continue;
        }
        if round.load_before < LEAST_LOAD {
            let load = round.load_before;
            voids.push(format!("run {number}: {load} operations before the fault, {LEAST_LOAD} are needed"));
        }
        failures.extend(broken_times(case, round, promise));
        failures.extend(broken_doors(case, round));
    }
    voids.extend(findings::no_numbers(rounds));
    failures.extend(rollout::broken(case.options.fault, rounds));
    failures.extend(broken_stalls(case, rounds, promise));
    failures.extend(broken_by_fault(case, &figures::counts(figures::proven(rounds)), rounds));
    if !failures.is_empty() {
        failures.extend(voids);
        return (Verdict::Fail, failures);
    }
    if voids.is_empty() { (Verdict::Pass, Vec::new()) } else { (Verdict::Void, voids) }
}

fn broken_times(case: &Case<'_>, round: &Round, promise: Promise) -> Vec<String> {
    let (number, mut broken) = (round.number, Vec::new());
    match round.rto {
        // Where nobody was served before, nobody is served after: that is for the bar of the load to say.
        None if round.load_before < LEAST_LOAD => {}
        None => broken.push(format!("run {number}: service did not come back")),
        // Its promise is about the stall, over all rounds.
        Some(_) if case.options.fault.bounds_stall() => {}
        Some(rto) if rto > promise.rto => {
            let (rto, promised) = (rto.as_millis(), promise.rto.as_millis());
            broken.push(format!("run {number}: RTO {rto} ms, promised {promised} ms"));
        }
        Some(_) => {}
    }
    // Nobody notices that they are gone: what is promised is that they are back.
    let is_about_whole = matches!(case.options.fault, Fault::ControlPlaneCrash | Fault::KeepCrash);
    if let Some(whole) = round.whole.filter(|whole| is_about_whole && *whole > promise.rto) {
        let (whole, promised) = (whole.as_millis(), promise.rto.as_millis());
        broken.push(format!("run {number}: whole again after {whole} ms, promised {promised} ms"));
    }
    if round.whole.is_none() {
        let within = whole::WITHIN.as_secs();
        broken.push(format!("run {number}: the stack was not whole again within {within} s"));
    }
    broken
}

/// How long a client may wait where that is what is promised.
fn stall_limit(fault: Fault, was_pressed: bool, promise: Promise) -> Duration {
    // A sender's patience with a silent receiver is a time of PostgreSQL's, whatever the machine is at.
    let is_borne = was_pressed && fault != Fault::ReplicationLag;
    if is_borne { promise.rto * pressure::PATIENCE } else { promise.rto }
}

/// The wider bar, if the drill would have missed the promise as it is written: rounds under pressure are held to it.
fn extended(case: &Case<'_>, rounds: &[Round], promise: Promise) -> Option<Extended> {
    if !case.options.fault.bounds_stall() {
        return None;
    }
    let pressed: Vec<u64> = rounds.iter().filter(|round| round.was_pressed).map(|round| millis(round.stall)).collect();
    let (promised_ms, bar_ms) = (
        millis(stall_limit(case.options.fault, false, promise)),
        millis(stall_limit(case.options.fault, true, promise)),
    );
    let p95 = measure::percentile(&pressed, 95);
    (p95 > promised_ms && p95 <= bar_ms).then(|| Extended {
        rounds: u32::try_from(pressed.len()).unwrap_or(u32::MAX),
        of: u32::try_from(rounds.len()).unwrap_or(u32::MAX),
        promised_ms,
        bar_ms,
        reason: excuse(case.options.fault),
    })
}

/// What a round under pressure saw.
fn excuse(fault: Fault) -> String {
    let share = pressure::EXPLAINS_SILENCE / 100;
    let waited = format!("tasks waited for this machine more than {share} % of the time");
    match fault {
        Fault::DatabaseFreeze => format!(
            "{waited} and no other member answered all the while: the stack bore the silence, up to {} times as long",
            pressure::PATIENCE
        ),
        _ => waited,
    }
}

/// What promises a stall promises it at the 95th percentile, of the rounds in which nothing else explained the silence and of
/// the others.
fn broken_stalls(case: &Case<'_>, rounds: &[Round], promise: Promise) -> Vec<String> {
    if !case.options.fault.bounds_stall() {
        return Vec::new();
    }
    let mut broken = Vec::new();
    for was_pressed in [false, true] {
        let stalls: Vec<u64> = figures::proven(rounds)
            .filter(|round| round.was_pressed == was_pressed)
            .map(|round| millis(round.stall))
            .collect();
        let (p95, limit) =
            (measure::percentile(&stalls, 95), millis(stall_limit(case.options.fault, was_pressed, promise)));
        if p95 > limit {
            let when = if was_pressed { " under pressure" } else { "" };
            broken.push(format!("stall{when} p95 {p95} ms over {} rounds, promised {limit} ms", stalls.len()));
        }
    }
    broken
}

/// Keys of the store: the promise says how old what is lost may have been. What a cache held may be gone.
fn broken_keys(case: &Case<'_>, round: &Round, promise: Promise) -> Vec<String> {
    let number = round.number;
    let mut broken = Vec::new();
    let Some(keys) = round.seen.keys_read.as_ref().filter(|_| case.options.fault != Fault::CacheCrash) else {
        return broken;
    };
    let is_lost = |one: &&Operation| !may_be_lost(round, one.ended, promise.rpo);
    let lost: Vec<&Operation> = keys.lost.iter().filter(is_lost).collect();
    if !lost.is_empty() {
        let shown: Vec<String> =
            lost.iter().take(5).map(|one| format!("writer {} number {}", one.client, one.number)).collect();
        let (lost, shown) = (lost.len(), shown.join(", "));
        // The table counts those too that the promise allows.
        let all = if keys.lost.len() == lost {
            String::new()
        } else {
            format!(" beyond the RPO of {} ms, {} in all", promise.rpo.as_millis(), keys.lost.len())
        };
        broken.push(format!("run {number}: {lost} acknowledged keys are lost{all} ({shown}…)"));
    }
    if keys.resurrected > 0 {
        broken.push(format!("run {number}: {} keys that had failed are there", keys.resurrected));
    }
    broken
}

/// Whether the promise allows the loss of what was acknowledged then: not before it, and not once service was back.
fn may_be_lost(round: &Round, acknowledged: Instant, rpo: Duration) -> bool {
    if round.fault.is_err() {
        return false;
    }
    let back = round.rto.map_or(round.times.ended, |rto| round.times.injected + rto);
    let age = round.times.injected.saturating_duration_since(acknowledged);
    !rpo.is_zero() && age <= rpo && acknowledged < back
}

/// A crash behind held listeners: nobody is refused, and who comes after it waits.
fn broken_doors(case: &Case<'_>, round: &Round) -> Vec<String> {
    let (behind, what) = match case.options.fault {
        Fault::EdgeCrash => (&round.seen.requests, "requests"),
        Fault::RouterCrash => (&round.seen.writes, "writes"),
        Fault::InstanceCrash
        | Fault::DatabaseCrash
        | Fault::DatabaseFreeze
        | Fault::StandbyLoss
        | Fault::Switchover
        | Fault::ScaleUp
        | Fault::ScaleDown
        | Fault::Deploy
        | Fault::ReplicationLag
        | Fault::CorruptPage
        | Fault::PoolExhaustion
        | Fault::DiskFull
        | Fault::CacheCrash
        | Fault::CacheLoss
        | Fault::StoreCrash
        | Fault::ControlPlaneCrash
        | Fault::KeepCrash
        | Fault::BackupRestore
        | Fault::DropTable
        | Fault::CorruptBackup
        | Fault::MissingWal
        | Fault::MachineLoss
        | Fault::Null => return Vec::new(),
    };
    let number = round.number;
    let mut broken = Vec::new();
    let refused = figures::refused(round);
    if refused > 0 {
        broken.push(format!("run {number}: {refused} connections were refused, none may"));
    }
    let is_late = |one: &&Operation| !matches!(one.end, End::Ok | End::Refused) && one.opened >= round.times.gone;
    let late = behind.iter().filter(is_late).count();
    if late > 0 {
        broken.push(format!("run {number}: {late} {what} on connections opened after the crash failed, none may"));
    }
    broken
}

/// What the kind of fault promises besides its RTO: who is not hit must not feel it.
fn broken_by_fault(case: &Case<'_>, counts: &Counts, rounds: &[Round]) -> Vec<String> {
    let (mut broken, disturbed, unanswered) = (Vec::new(), findings::disturbed(rounds), findings::unanswered(rounds));
    // Of the service that is asked, which is the one that is hit: how many another has is no excuse.
    let asked = aim::probe(case.stack).and_then(|(asked, _)| case.stack.services.get(asked));
    let instances = asked.map_or(0, |service| service.instances);
    let (requests_count, writes_count) = match case.options.fault {
        // With one instance there is nobody to take over.
        Fault::InstanceCrash => (instances >= 2, false),
        Fault::DatabaseCrash | Fault::DatabaseFreeze | Fault::RouterCrash => (false, false),
        Fault::EdgeCrash | Fault::StandbyLoss | Fault::ReplicationLag | Fault::StoreCrash => (false, true),
        Fault::Switchover
        | Fault::ScaleUp
        | Fault::ScaleDown
        | Fault::Deploy
        | Fault::CorruptPage
        | Fault::PoolExhaustion
        | Fault::DiskFull
        | Fault::CacheCrash
        | Fault::CacheLoss
        | Fault::ControlPlaneCrash
        | Fault::KeepCrash
        | Fault::BackupRestore
        | Fault::DropTable
        | Fault::CorruptBackup
        | Fault::MissingWal
        | Fault::MachineLoss
        | Fault::Null => (true, true),
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
    if requests_count && writes_count && unanswered > 0 {
        broken.push(format!("{unanswered} requests for a number of the application failed or ended unknown, none may"));
    }
    if case.options.fault == Fault::Null && counts.refused + counts.failed_keys > 0 {
        broken.push(format!(
            "{} connections were refused and {} keys failed, none may",
            counts.refused, counts.failed_keys
        ));
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::NoNumbers;
    use crate::data::Examined;
    use crate::load::Seen;
    use crate::run::Stop;

    fn stack() -> Stack {
        let text = "stack = \"shop\"\n[database]\n[service.backend]\nrun = \"./server\"\n";
        let parsed = mainstay_stack::parse(text, "mainstay.toml", &mainstay_types::EnvironmentName::default());
        parsed.expect("a stack").stack
    }

    fn options(fault: Fault) -> Options {
        Options {
            fault,
            runs: 1,
            seed: 7,
            sabotage: None,
            strategy: None,
            ca: "ca.pem".into(),
            https_port: 1,
            state: "/s".into(),
            history: "/s/drills/history.jsonl".into(),
            release: "0.1.0".to_owned(),
            stack_hash: "abc".to_owned(),
            call: "mainstay".to_owned(),
            stop: Stop::never(),
        }
    }

    /// A round in which a write failed, service did not come back, and the stack was not whole again.
    fn round(fault: Result<String, String>) -> Round {
        let (now, wall) = (Instant::now(), Timestamp::from_millis(1));
        let later = now + Duration::from_secs(30);
        let failed = Operation { client: 1, number: 1, opened: now, began: now, ended: later, end: End::Failed };
        Round {
            number: 1,
            began_at: wall,
            injected_at: fault.is_ok().then_some(wall),
            ended_at: wall,
            times: crate::round::Times { began: now, injected: now, gone: now, ended: later },
            rto: None,
            stall: Duration::from_secs(30),
            whole: None,
            was_pressed: false,
            seen: Seen {
                writes: vec![failed],
                requests: Vec::new(),
                keys: Vec::new(),
                knocks: Vec::new(),
                errors: BTreeMap::new(),
                examined: Examined {
                    history: None,
                    contradiction: None,
                    checks: Vec::new(),
                    loss: crate::loss::Loss::default(),
                },
                keys_read: None,
                no_numbers: NoNumbers::default(),
            },
            load_before: LEAST_LOAD,
            load_after: LEAST_LOAD,
            fault,
            timeline: BTreeMap::new(),
            reasons: Vec::new(),
            told: Vec::new(),
        }
    }

    #[test]
    fn a_round_without_its_fault_breaks_no_promise_about_it() {
        let stack = stack();
        for fault in [Fault::DatabaseCrash, Fault::RouterCrash, Fault::Switchover, Fault::StandbyLoss, Fault::DiskFull]
        {
            let options = options(fault);
            let case = Case { stack: &stack, options: &options, began: Timestamp::from_millis(1), load: String::new() };
            let report = judge(&case, &[round(Err("there is nobody to hit".to_owned()))]);
            assert_eq!(report.verdict, Verdict::Void, "{fault:?}: {:?}", report.evidence.reasons);
            assert_eq!(report.evidence.reasons.len(), 1, "{fault:?}: {:?}", report.evidence.reasons);
            assert_eq!(report.rounds[0].stall_ms, None, "there was no fault to count from");
            let report = judge(&case, &[round(Ok("it was hit".to_owned()))]);
            assert_eq!(report.verdict, Verdict::Fail, "{fault:?}");
            let mut lost = round(Err("there is nobody to hit".to_owned()));
            lost.reasons.push("a row is lost".to_owned());
            assert_eq!(judge(&case, &[lost]).verdict, Verdict::Fail, "what was lost without a fault is not hidden");
        }
    }

    #[test]
    fn a_drill_without_load_proves_nothing() {
        let stack = stack();
        let options = options(Fault::InstanceCrash);
        let case = Case { stack: &stack, options: &options, began: Timestamp::from_millis(1), load: String::new() };
        let mut idle = round(Ok("it was hit".to_owned()));
        (idle.whole, idle.load_before) = (Some(Duration::from_secs(1)), 0);
        let report = judge(&case, &[idle]);
        assert_eq!(report.verdict, Verdict::Void, "{:?}", report.evidence.reasons);
        let mut served = round(Ok("it was hit".to_owned()));
        served.whole = Some(Duration::from_secs(1));
        assert_eq!(
            judge(&case, &[served]).verdict,
            Verdict::Fail,
            "who was served before and is not after has lost it"
        );
    }

    /// It said that none may end unknown, and failed.
    #[test]
    fn a_counter_that_answers_with_no_number_proves_nothing_and_breaks_nothing() {
        let (stack, options) = (stack(), options(Fault::ControlPlaneCrash));
        let case = Case { stack: &stack, options: &options, began: Timestamp::from_millis(1), load: String::new() };
        let served = |takes: u64, acknowledged: u64, ambiguous: u64| {
            let mut round = round(Ok("it was hit".to_owned()));
            (round.rto, round.stall, round.whole) =
                (Some(Duration::ZERO), Duration::ZERO, Some(Duration::from_secs(1)));
            round.seen.writes.clear();
            let numbers = crate::loss::Gone { acknowledged, ambiguous, ..crate::loss::Gone::default() };
            round.seen.examined.loss.numbers = Some(numbers);
            let first = (takes > 0).then(|| "POST /n: \"<html>\"".to_owned());
            round.seen.no_numbers = NoNumbers { takes, reads: 0, first };
            round
        };
        assert_eq!(judge(&case, &[served(0, 80, 0)]).verdict, Verdict::Pass);
        let report = judge(&case, &[served(37, 0, 37), served(5, 0, 5)]);
        assert_eq!(report.verdict, Verdict::Void, "{:?}", report.evidence.reasons);
        let line = "42 answers of the application's counter are no number, in 2 of 2 runs, so nothing is proven of it; the \
                    first: POST /n: \"<html>\"";
        assert_eq!(report.evidence.reasons, [line]);
        let report = judge(&case, &[served(37, 0, 38)]);
        assert_eq!(report.verdict, Verdict::Fail, "one ended unknown: {:?}", report.evidence.reasons);
    }

    /// A worker of one instance beside it made the drill pass.
    #[test]
    fn how_many_instances_another_service_has_excuses_no_failed_request() {
        let options = options(Fault::InstanceCrash);
        let worker = "[service.worker]\nrun = \"./work\"\nport = false\ninstances = 1\n";
        let counts = Counts { failed_requests: 1, ..Counts::default() };
        for (instances, is_broken) in [(1, false), (2, true)] {
            for beside in ["", worker] {
                let text = format!(
                    "stack = \"shop\"\n[service.web]\nrun = \"./server\"\nhealth = \"/\"\ninstances = {instances}\n{beside}"
                );
                let parsed = mainstay_stack::parse(&text, "mainstay.toml", &mainstay_types::EnvironmentName::default());
                let stack = parsed.expect("a stack").stack;
                let case =
                    Case { stack: &stack, options: &options, began: Timestamp::from_millis(1), load: String::new() };
                assert_eq!(!broken_by_fault(&case, &counts, &[]).is_empty(), is_broken, "{text}");
            }
        }
    }

    /// The line said 237 and the table 508, of one loss.
    #[test]
    fn keys_that_the_promise_does_not_allow_to_be_lost_are_told_from_all_that_are() {
        let (stack, options) = (stack(), options(Fault::StoreCrash));
        let case = Case { stack: &stack, options: &options, began: Timestamp::from_millis(1), load: String::new() };
        let reasons = |ages: &[u64]| {
            let mut round = round(Ok("it was hit".to_owned()));
            let key = |(number, age): (u64, &u64)| {
                let at = round.times.injected.checked_sub(Duration::from_secs(*age)).expect("the machine runs so long");
                Operation { client: 0, number, opened: at, began: at, ended: at, end: End::Ok }
            };
            let lost = (1..).zip(ages).map(key).collect();
            round.seen.keys_read = Some(crate::keys::Readback { acknowledged: 9, lost, resurrected: 0 });
            judge(&case, &[round]).evidence.reasons.join("\n")
        };
        let some = reasons(&[1, 5, 6]);
        assert!(some.contains("run 1: 2 acknowledged keys are lost beyond the RPO of 2000 ms, 3 in all ("), "{some}");
        let all = reasons(&[5, 6]);
        assert!(all.contains("run 1: 2 acknowledged keys are lost ("), "{all}");
    }
}
