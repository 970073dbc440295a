//! A drill's report as text.

use mainstay_drill::{Counts, Extended, Report, Verdict};

use crate::screen;

/// A verdict in its colour.
pub(super) fn verdict(verdict: Verdict, width: usize) -> String {
    let text = format!("{:<width$}", verdict.to_string());
    match verdict {
        Verdict::Pass => screen::green(&text),
        Verdict::Fail => screen::red(&text),
        Verdict::Void | Verdict::Aborted => screen::yellow(&text),
    }
}

/// A verdict with a mark when the bar was wider than the promise; who prints it says why.
pub(super) fn marked(verdict: Verdict, extended: Option<&Extended>, width: usize) -> String {
    let Some(_) = extended else { return self::verdict(verdict, width) };
    let text = format!("{:<width$}", format!("{verdict}*"));
    if verdict == Verdict::Pass { screen::yellow(&text) } else { screen::red(&text) }
}

/// A figure of the table: its name, what was promised, what was measured.
fn row(name: &str, promised: &str, measured: &str) {
    println!("  {name:<13} {promised:<28} {measured}");
}

pub(super) fn print(report: &Report) {
    let measured = &report.measured;
    let runs = if report.runs == 1 { "run" } else { "runs" };
    println!(
        "{}  {}  {} {runs}",
        screen::bold(&report.drill),
        marked(report.verdict, report.extended.as_ref(), 0),
        report.runs
    );
    if let Some(extended) = &report.extended {
        println!("                {}", screen::yellow(&format!("* {extended}")));
    }
    println!("                promised ({})          measured", report.promise.source);
    let is_stall = mainstay_drill::Fault::by_name(&report.drill).is_some_and(mainstay_drill::Fault::bounds_stall);
    let promised = format!("{} ms", report.promise.rto_ms);
    let (of_rto, of_stall) =
        if is_stall { ("–".to_owned(), format!("{promised} at p95")) } else { (promised, "–".to_owned()) };
    let spread = |spread: &mainstay_drill::Spread| {
        format!("p50 {} ms, p95 {} ms, worst {} ms", spread.p50, spread.p95, spread.max)
    };
    row("RTO", &of_rto, &spread(&measured.rto_ms));
    row("stall", &of_stall, &spread(&measured.stall_ms));
    counts(report, &measured.counts);
    for check in &report.checks {
        let found: Vec<String> = check.anomalies.iter().map(|(anomaly, count)| format!("{count} {anomaly}")).collect();
        let found = if found.is_empty() { "nothing found".to_owned() } else { found.join(", ") };
        let looked_at = format!("in {} writes and {} reads", check.writes.ok, check.reads);
        row(&check.checker, "valid", &format!("{}: {found} {looked_at}", check.validity));
    }
    row("whole again", "–", &format!("p50 {} ms, worst {} ms", measured.whole_ms.p50, measured.whole_ms.max));
    evidence(report);
}

fn counts(report: &Report, counts: &Counts) {
    let rpo = format!("RPO {} ms", report.promise.rpo_ms);
    let is_about_keys = report.drill == mainstay_drill::Fault::StoreCrash.name();
    let of_rows = if is_about_keys { "0" } else { &rpo };
    row("lost", of_rows, &format!("{} of {} acknowledged writes", counts.lost, counts.acknowledged));
    if counts.keys > 0 || counts.failed_keys > 0 {
        let gone = if report.evicted().is_some() { "evicted, which is allowed" } else { "gone" };
        let text = format!(
            "{} of {} acknowledged keys {gone}, {} failed or ended unknown",
            counts.keys_lost, counts.keys, counts.failed_keys
        );
        row("keys", if is_about_keys { &rpo } else { "–" }, &text);
    }
    row("duplicated", "0", &counts.duplicated.to_string());
    let (failed, unknown, there) = (counts.failed_writes, counts.ambiguous, counts.ambiguous_present);
    row("writes", "–", &format!("{failed} failed, {unknown} ended unknown ({there} of them are there)"));
    let requests = format!("{} failed of {}, {} truncated", counts.failed_requests, counts.requests, counts.truncated);
    row("requests", "–", &requests);
    if counts.knocks > 0 {
        row("refused", "0", &format!("{} connections, of {} knocks and every other", counts.refused, counts.knocks));
        row("broken", "–", &format!("{} operations on connections that were open when it died", counts.broken));
    }
}

fn evidence(report: &Report) {
    let mut steps: Vec<(&String, &u64)> = report.timeline_ms.iter().collect();
    steps.sort_by_key(|(_, at)| **at);
    let steps: Vec<String> = steps.iter().map(|(step, at)| format!("{step} {at}")).collect();
    println!("  timeline, ms  {}", steps.join(" → "));
    let evidence = &report.evidence;
    println!(
        "  load          {}; at least {} operations before and {} after the fault",
        evidence.load, evidence.least_load_before, evidence.least_load_after
    );
    for fault in evidence.faults.iter().take(3) {
        println!("  fault         {fault}");
    }
    for (text, count) in &evidence.errors {
        println!("  clients saw   {count} × {text}");
    }
    for note in &evidence.notes {
        println!("  note          {note}");
    }
    for reason in &evidence.reasons {
        println!("  {}", screen::red(reason));
    }
    println!("  not tested    {}", evidence.not_tested.join("; "));
    println!("  again         {}", evidence.reproduce);
}
