//! A drill's report as text.

use mainstay_drill::{Counts, Evidence, Extended, Fault, Gone, Report, Spread, Verdict};

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

/// A 95th percentile, or that there is none.
pub(super) fn p95(spread: Option<&Spread>) -> String {
    spread.map_or("–".to_owned(), |spread| screen::took(spread.p95))
}

/// The drill that breaks nothing has nothing to come back from.
pub(super) fn is_null(drill: &str) -> bool {
    drill == Fault::Null.name()
}

fn is_about_backups(drill: &str) -> bool {
    Fault::by_name(drill).is_some_and(Fault::is_about_backups)
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
    if let Some(sabotage) = &report.sabotage {
        println!(
            "                {}",
            screen::yellow(&format!("positive control: {sabotage} was put in, it must fail"))
        );
    }
    if let Some(extended) = &report.extended {
        println!("                {}", screen::yellow(&format!("* {extended}")));
    }
    println!("                promised ({})          measured", report.promise.source);
    let is_stall = Fault::by_name(&report.drill).is_some_and(Fault::bounds_stall);
    let promised = format!("{} ms", report.promise.rto_ms);
    let (of_rto, of_stall) =
        if is_stall { ("–".to_owned(), format!("{promised} at p95")) } else { (promised, "–".to_owned()) };
    let spread = |spread: &Option<Spread>| match spread {
        Some(spread) => format!("p50 {} ms, p95 {} ms, worst {} ms", spread.p50, spread.p95, spread.max),
        None => "–".to_owned(),
    };
    if !is_null(&report.drill) {
        row("RTO", &of_rto, &spread(&measured.rto_ms));
    }
    if is_about_backups(&report.drill) {
        // No clients ask, and nothing is down.
        if measured.counts.acknowledged > 0 {
            row("lost", &format!("RPO {} ms", report.promise.rpo_ms), &lost(report.lost(), &measured.counts, false));
        }
        return evidence(report);
    }
    row("stall", &of_stall, &spread(&measured.stall_ms));
    counts(report, &measured.counts);
    for check in &report.checks {
        let found: Vec<String> = check.anomalies.iter().map(|(anomaly, count)| format!("{count} {anomaly}")).collect();
        let found = if found.is_empty() { "nothing found".to_owned() } else { found.join(", ") };
        let looked_at = format!("in {} writes and {} reads", check.writes.ok, check.reads);
        row(&check.checker, "valid", &format!("{}: {found} {looked_at}", check.validity));
    }
    let whole = measured.whole_ms.as_ref();
    let whole = whole.map_or("–".to_owned(), |whole| format!("p50 {} ms, worst {} ms", whole.p50, whole.max));
    if !is_null(&report.drill) {
        row("whole again", "–", &whole);
    }
    evidence(report);
}

/// As the history has it: rows and keys together, but for keys that may go.
fn lost((lost, all): (u64, u64), counts: &Counts, may_evict: bool) -> String {
    let parts = if counts.keys > 0 && !may_evict {
        let (rows, keys) = ((counts.lost, counts.acknowledged), (counts.keys_lost, counts.keys));
        format!(" ({} of {} rows, {} of {} keys)", rows.0, rows.1, keys.0, keys.1)
    } else {
        String::new()
    };
    format!("{lost} of {all} acknowledged writes{parts}")
}

/// Numbers that the application's own counter gave.
fn receipts(numbers: &Gone) -> String {
    let Gone { acknowledged, lost, duplicated, failed, ambiguous, oldest_us } = numbers;
    let oldest = if *lost > 0 { format!(" (the oldest {} before the fault)", age(*oldest_us)) } else { String::new() };
    format!(
        "{acknowledged} numbers of the application: {lost} lost{oldest}, {duplicated} given twice, {failed} refused, \
         {ambiguous} ended unknown"
    )
}

fn age(us: u64) -> String {
    format!("{}.{} ms", us / 1000, us % 1000 / 100)
}

fn counts(report: &Report, counts: &Counts) {
    let rpo = format!("RPO {} ms", report.promise.rpo_ms);
    let is_about_keys = report.drill == Fault::StoreCrash.name();
    let of_all = if is_about_keys { format!("0 rows; keys: {rpo}") } else { rpo };
    row("lost", &of_all, &lost(report.lost(), counts, report.evicted().is_some()));
    if counts.keys > 0 || counts.failed_keys > 0 {
        let failed = format!("{} failed or ended unknown", counts.failed_keys);
        let text = match report.evicted() {
            Some((gone, all)) => format!("{gone} of {all} acknowledged keys evicted, which is allowed; {failed}"),
            None => failed,
        };
        row("keys", "–", &text);
    }
    if report.measured.rows.lost > 0 {
        row("oldest lost", "–", &format!("{} before the fault", age(report.measured.rows.oldest_us)));
    }
    if let Some(numbers) = &report.measured.numbers {
        row("receipts", "none lost, each once", &receipts(numbers));
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
    if !is_null(&report.drill) {
        println!("  timeline, ms  {}", steps.join(" → "));
    }
    for alert in &report.alerts {
        let back = match (alert.lasts, alert.cleared_max_ms) {
            (false, _) => String::new(),
            (true, Some(ms)) if alert.cleared == alert.rounds => format!(", taken back after {ms} ms at worst"),
            (true, _) => format!(", taken back in {} of {} runs", alert.cleared, alert.rounds),
        };
        println!(
            "  told          {} after {} ms, worst {} ms{back}",
            alert.kind, alert.after_p50_ms, alert.after_max_ms
        );
    }
    let evidence = &report.evidence;
    println!("  load          {}", load(evidence));
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

/// What the load was, and how much of it there was at least.
fn load(evidence: &Evidence) -> String {
    match (evidence.load.as_str(), evidence.least_load_before, evidence.least_load_after) {
        ("", ..) => "none: the stack has no database, and no route to a service".to_owned(),
        (load, Some(before), Some(after)) => {
            format!("{load}; at least {before} operations before and {after} after the fault")
        }
        (load, ..) => load.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It said "load          ; at least 0 operations before and 0 after the fault".
    #[test]
    fn a_load_that_was_not_there_is_said_to_be_none() {
        let (least_load_before, least_load_after) = (Some(0), Some(0));
        let nothing = Evidence { least_load_before, least_load_after, ..Evidence::default() };
        assert_eq!(load(&nothing), "none: the stack has no database, and no route to a service");
        let some = Evidence { load: "4 writers".to_owned(), ..nothing };
        assert_eq!(load(&some), "4 writers; at least 0 operations before and 0 after the fault");
    }

    #[test]
    fn what_was_lost_is_one_number_with_its_parts_where_rows_and_keys_count() {
        let counts = Counts { acknowledged: 86, keys: 58, keys_lost: 2, ..Counts::default() };
        let text = lost((2, 144), &counts, false);
        assert_eq!(text, "2 of 144 acknowledged writes (0 of 86 rows, 2 of 58 keys)");
        assert_eq!(lost((0, 86), &counts, true), "0 of 86 acknowledged writes");
    }
}
