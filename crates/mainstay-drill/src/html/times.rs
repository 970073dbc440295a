//! How long it took: the timeline of one run, and the spread of all.

use std::fmt::Write;

use super::text::{NOT_MEASURED, count, duration, escape};
use super::{bounds, svg, words};
use crate::measure::percentile;
use crate::report::{Report, RoundReport};

/// The run that a timeline is drawn of: the one with the longest stall, as the strip.
fn shown(report: &Report) -> Option<&RoundReport> {
    match &report.strip {
        Some(strip) => report.rounds.iter().find(|round| round.number == strip.run),
        None => report.rounds.iter().filter(|round| round.is_proven).max_by_key(|round| round.stall_ms),
    }
}

/// Steps of a run by their time, with the clients' own.
fn steps(round: &RoundReport) -> Vec<(String, u64)> {
    let mut steps: Vec<(String, u64)> = round.timeline_ms.iter().map(|(name, at)| (name.clone(), *at)).collect();
    steps.extend(round.rto_ms.map(|at| ("first_success".to_owned(), at)));
    steps.extend(round.whole_ms.map(|at| ("whole".to_owned(), at)));
    // At the same time the fault comes first, and what clients saw after what made it so.
    steps.sort_by_key(|(name, at)| (*at, name != "injected", name == "first_success", name == "whole"));
    steps
}

pub(super) fn timeline(page: &mut String, report: &Report) {
    page.push_str("<h2>What happened, and when</h2>\n");
    let Some(round) = shown(report) else {
        writeln!(page, "<p>{NOT_MEASURED}: no fault was proven.</p>").ok();
        return;
    };
    let which = if report.runs == 1 { "The run".to_owned() } else { format!("Run {}, the worst", round.number) };
    writeln!(page, "<p>{which}: {}.</p>", escape(&round.fault)).ok();
    if let Some(strip) = &report.strip {
        for (kind, slices) in &strip.kinds {
            writeln!(
                page,
                "<figure><figcaption>{} over time, {} ms a bar</figcaption>{}</figure>",
                escape(&super::text::title(kind)),
                strip.slice_ms,
                svg::strip(strip, kind, slices, round.rto_ms)
            )
            .ok();
        }
        page.push_str(
            "<p class=\"legend\"><span><svg aria-hidden=\"true\"><rect class=\"ok\" width=\"100%\" height=\"100%\"/></svg>\
             succeeded</span><span><svg aria-hidden=\"true\"><rect class=\"failed\" width=\"100%\" height=\"100%\"/></svg>\
             failed</span><span><svg aria-hidden=\"true\"><rect class=\"unknown\" width=\"100%\" height=\"100%\"/></svg>\
             outcome unknown</span><span><svg aria-hidden=\"true\"><rect class=\"gap\" width=\"100%\" height=\"100%\"/></svg>\
             from the fault until service was back (RTO)</span></p>\n",
        );
    }
    if super::is_null(report) {
        return;
    }
    let steps = steps(round);
    let served = round.rto_ms.unwrap_or(u64::MAX);
    let (early, late): (Vec<_>, Vec<_>) = steps.into_iter().partition(|(_, at)| *at <= served);
    waterfall(page, "Until clients were served again", &early, "bar", 0);
    let from = early.last().map_or(0, |(_, at)| *at);
    waterfall(page, "Until everything was whole again", &late, "later", from);
    if report.runs > 1 {
        all_runs(page, report);
    }
}

/// One bar a step, from the step before it: what took the time is what is long.
fn waterfall(page: &mut String, name: &str, steps: &[(String, u64)], class: &str, from: u64) {
    let Some((_, end)) = steps.last() else { return };
    let length = end.saturating_sub(from).max(1);
    writeln!(page, "<h3>{name}</h3>\n<div class=\"steps\">").ok();
    let mut before = from;
    for (step, at) in steps {
        let bar = svg::bar(before.saturating_sub(from), at.saturating_sub(from), length, class);
        let took = if *at == 0 { "0 ms".to_owned() } else { format!("at {}", duration(*at)) };
        let name = escape(&words::step(step));
        let parts = format!("<span class=\"name\">{name}</span><span class=\"time\">{took}</span>{bar}");
        writeln!(page, "<div class=\"step\">{parts}</div>").ok();
        before = *at;
    }
    page.push_str("</div>\n");
}

fn all_runs(page: &mut String, report: &Report) {
    page.push_str(
        "<details><summary>The same steps over all runs</summary>\n<div class=\"scroll\"><table><thead><tr><th>Step</th>\
         <th class=\"n\">Median</th><th class=\"n\">Worst</th><th class=\"n\">Runs</th></tr></thead><tbody>\n",
    );
    let all: Vec<Vec<(String, u64)>> = report.rounds.iter().map(steps).collect();
    let mut names: Vec<(&String, u64)> = report.timeline_ms.iter().map(|(name, at)| (name, *at)).collect();
    names.sort_by_key(|(_, at)| *at);
    for (name, _) in names {
        let values: Vec<u64> = all.iter().flatten().filter(|(step, _)| step == name).map(|(_, at)| *at).collect();
        writeln!(
            page,
            "<tr><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escape(&words::step(name)),
            duration(percentile(&values, 50)),
            duration(values.iter().copied().max().unwrap_or(0)),
            values.len()
        )
        .ok();
    }
    page.push_str("</tbody></table></div></details>\n");
}

pub(super) fn histogram(page: &mut String, report: &Report) {
    page.push_str("<h2>How sure that is</h2>\n");
    let none = Vec::new();
    let rto = if super::is_null(report) { &none } else { &report.evidence.rto_ms };
    let stall = &report.evidence.stall_ms;
    if super::is_null(report) {
        writeln!(page, "<p>Nothing was broken: there is nothing to come back from.</p>").ok();
    } else if rto.is_empty() {
        writeln!(page, "<p>Time until service was back: {NOT_MEASURED}.</p>").ok();
    } else if report.runs > 1 {
        let runs = count(u64::from(report.runs), "run", "runs");
        for (name, values) in [("Time until clients were served again", rto), ("Longest wait of one client", stall)] {
            writeln!(
                page,
                "<figure><figcaption>{name}: median {}, worst {}, in {runs}</figcaption>{}</figure>",
                duration(percentile(values, 50)),
                duration(values.iter().copied().max().unwrap_or(0)),
                svg::histogram(values, name)
            )
            .ok();
        }
    } else {
        page.push_str("<p>One run has no spread: a histogram is drawn from two runs on (<code>--runs</code>).</p>\n");
    }
    page.push_str("<ul>\n");
    for line in bound_lines(report, rto) {
        writeln!(page, "<li>{line}</li>").ok();
    }
    page.push_str("</ul>\n");
}

/// What these runs prove about the next fault, and what they do not.
fn bound_lines(report: &Report, rto: &[u64]) -> Vec<String> {
    let n = report.runs;
    let runs = count(u64::from(n), "run", "runs");
    let mut lines = Vec::new();
    if let Some(worst) = rto.iter().max().filter(|_| rto.len() as u64 == u64::from(n)) {
        lines.push(format!(
            "With 95 % confidence at least {} % of such faults are over within {}, the worst of {runs}.",
            bounds::covered_percent(n),
            duration(*worst)
        ));
    }
    if n < bounds::RUNS_FOR_P95 {
        lines.push(format!(
            "{runs} {} nothing of a 95th percentile: {} are needed for that.",
            if n == 1 { "says" } else { "say" },
            bounds::RUNS_FOR_P95
        ));
    }
    let keys_count = report.evicted().is_none();
    let is_lossy = |round: &&RoundReport| round.counts.lost > 0 || (keys_count && round.counts.keys_lost > 0);
    let lossy = report.rounds.iter().filter(is_lossy).count();
    if report.lost().1 > 0 && lossy == 0 {
        lines.push(format!(
            "Writes were lost in 0 of {runs}: with 95 % confidence fewer than {} % of such faults lose one.",
            bounds::at_most_percent(n)
        ));
    } else if lossy > 0 {
        lines.push(format!("Writes were lost in {lossy} of {runs}."));
    }
    lines.push(
        "Both hold for faults, load and machine as they were here; the moment of each fault was chosen at random."
            .to_owned(),
    );
    lines
}
