//! The sections that are words and tables.

use std::fmt::Write;

use mainstay_api::{Level, Verdict};
use mainstay_decide::drills::Fault;

use super::text::{NOT_MEASURED, count, date, duration, escape, micros, number};
use super::{class, words};
use crate::checker::Validity;
use crate::dossier::{Control, Sheet};
use crate::environment::Environment;
use crate::loss::Gone;
use crate::report::{CheckReport, Latency, Report};

/// Proofs that are shown; the file of data has them all.
const MOST_PROOFS: usize = 5;

/// Rows of a list of facts.
fn facts(page: &mut String, rows: &[(&str, String)]) {
    page.push_str("<dl class=\"facts\">\n");
    for (name, value) in rows {
        writeln!(page, "<dt>{name}</dt><dd>{}</dd>", escape(value)).ok();
    }
    page.push_str("</dl>\n");
}

pub(super) fn hypothesis(page: &mut String, report: &Report) {
    let words = words::of(&report.drill);
    // Nothing is known of the edge where nobody asked it.
    let is_worker = report.drill == Fault::InstanceCrash.name() && !report.evidence.load.contains("through the edge");
    let hypothesis = if is_worker { "The killed one is started again." } else { words.hypothesis };
    page.push_str("<h2>What was tried</h2>\n");
    let promise = format!(
        "service back within {}, {} ({})",
        duration(report.promise.rto_ms),
        match report.promise.rpo_ms {
            0 => "no acknowledged write lost".to_owned(),
            ms => format!("at most the last {} of acknowledged writes lost", duration(ms)),
        },
        match report.promise.source.as_str() {
            "default" => "the default: the stack file says nothing".to_owned(),
            source => format!("from {source}"),
        }
    );
    let mut rows = vec![
        ("Promise", promise),
        ("Hypothesis", hypothesis.to_owned()),
        ("Blast radius", words.blast_radius.to_owned()),
        ("Stops when", "the stack is not whole before a run; nobody is asked to approve a run".to_owned()),
    ];
    rows.extend(report.evidence.notes.iter().map(|note| ("Mind", note.clone())));
    if let Some(mistake) = &report.sabotage {
        rows.push(("Put in on purpose", format!("{mistake}: a positive control, the drill must fail")));
    }
    facts(page, &rows);
}

pub(super) fn proof(page: &mut String, report: &Report) {
    let evidence = &report.evidence;
    page.push_str("<h2>Proof of fault and of load</h2>\n<ul>\n");
    for round in report.rounds.iter().take(MOST_PROOFS) {
        let at = round.injected.map(|at| format!(" at {at}")).unwrap_or_default();
        let mark = if round.is_proven { "" } else { "<b class=\"warn\">not proven</b> " };
        writeln!(page, "<li>{mark}Run {}{at}: {}</li>", round.number, escape(&round.fault)).ok();
    }
    if let Some(more) = report.rounds.len().checked_sub(MOST_PROOFS).filter(|more| *more > 0) {
        let unproven = report.rounds.iter().filter(|round| !round.is_proven).count();
        writeln!(page, "<li>and {more} more; {unproven} of all are not proven</li>").ok();
    }
    let has_load = !evidence.load.is_empty();
    write!(page, "<li>Load: {}", if has_load { escape(&evidence.load) } else { "none".to_owned() }).ok();
    let least = evidence.least_load_before.zip(evidence.least_load_after).filter(|_| has_load);
    if let Some((before, after)) = least {
        let (before, after) = (number(before), number(after));
        let text =
            format!("at least {before} operations succeeded before the fault and {after} after it, in every run");
        write!(page, "; {text}").ok();
    }
    page.push_str("</li>\n</ul>\n");
}

pub(super) fn data(page: &mut String, report: &Report) {
    let counts = &report.measured.counts;
    page.push_str("<h2>Was the data right?</h2>\n");
    if counts.keys > 0 {
        let (lost, all) = (number(counts.keys_lost), number(counts.keys));
        let age = duration(report.measured.keys_rpo_ms);
        writeln!(page, "<p>Keys: {lost} of {all} confirmed ones are gone; the oldest was {age} old at the fault.</p>")
            .ok();
    }
    losses(page, report);
    if report.checks.is_empty() {
        writeln!(page, "<p>{NOT_MEASURED}: no row was written that could be checked.</p>").ok();
        return;
    }
    page.push_str(
        "<div class=\"scroll\"><table class=\"checkers\"><thead><tr><th>Checker</th><th>Says</th><th>Found</th>\
         <th class=\"n\">Confirmed</th><th class=\"n\">Failed</th><th class=\"n\">Unknown</th>\
         <th class=\"n\">Reads</th></tr></thead><tbody>\n",
    );
    for check in &report.checks {
        let class = match check.validity {
            Validity::Valid => "good",
            Validity::Unknown => "warn",
            Validity::Invalid => "bad",
        };
        writeln!(
            page,
            "<tr><td>{} <small>version {}<br>{}</small></td><td class=\"{class}\">{}</td><td>{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escape(&check.checker),
            check.version,
            asks(&check.checker),
            check.validity,
            found(check),
            number(check.writes.ok),
            number(check.writes.failed),
            number(check.writes.ambiguous),
            number(check.reads),
        )
        .ok();
    }
    page.push_str("</tbody></table></div>\n");
    let quoted: Vec<&String> = report.checks.iter().flat_map(|check| &check.quoted).collect();
    if !quoted.is_empty() {
        page.push_str("<ul>\n");
        for text in quoted {
            writeln!(page, "<li>{}</li>", escape(text)).ok();
        }
        page.push_str("</ul>\n");
    }
    let unknown = format!("{}; {} of them are there", number(counts.ambiguous), number(counts.ambiguous_present));
    facts(
        page,
        &[
            ("Lost, there twice, risen", format!("{}, {}, {}", counts.lost, counts.duplicated, counts.resurrected)),
            ("Writes of unknown outcome", unknown),
            ("SHA-256 of the history", report.history_sha256.clone().unwrap_or_else(|| NOT_MEASURED.to_owned())),
        ],
    );
}

/// What the application's counter says, and rows that are gone.
fn losses(page: &mut String, report: &Report) {
    if let Some(numbers) = &report.measured.numbers {
        writeln!(
            page,
            "<p>The application's own counter is the receipt: of {} numbers that it gave through the edge {} are lost and {} \
             were given twice; {} requests were refused, {} ended unknown.{}</p>",
            number(numbers.acknowledged),
            number(numbers.lost),
            number(numbers.duplicated),
            number(numbers.failed),
            number(numbers.ambiguous),
            oldest(numbers),
        )
        .ok();
    }
    let rows = &report.measured.rows;
    if rows.lost > 0 {
        let (lost, all) = (number(rows.lost), number(rows.acknowledged));
        writeln!(page, "<p>Rows: {lost} of {all} confirmed ones are gone.{}</p>", oldest(rows)).ok();
    }
}

/// How old the oldest of what is gone was.
fn oldest(gone: &Gone) -> String {
    if gone.lost == 0 {
        return String::new();
    }
    match gone.oldest_us {
        // Who was hit may serve on for a moment.
        0 => " All of it was confirmed in the moment of the fault.".to_owned(),
        us => format!(" The oldest of what is lost was confirmed {} before the fault.", micros(us)),
    }
}

/// What a checker asks, in a line.
fn asks(checker: &str) -> &'static str {
    match checker {
        "append" => "is every confirmed row there, once, and no failed one?",
        "monotonic" => "does a counter never go back, repeat or skip?",
        "receipts" => "did the application give each number once, and know it afterwards?",
        "bank" => "is money neither made nor lost in transfers?",
        _ => "",
    }
}

fn found(check: &CheckReport) -> String {
    if check.anomalies.is_empty() {
        return "nothing".to_owned();
    }
    check.anomalies.iter().map(|(anomaly, many)| format!("{} {anomaly}", number(*many))).collect::<Vec<_>>().join(", ")
}

pub(super) fn impact(page: &mut String, report: &Report) {
    let counts = &report.measured.counts;
    page.push_str("<h2>What clients felt</h2>\n");
    let stall = report.measured.stall_ms.as_ref().map_or(NOT_MEASURED.to_owned(), |stall| {
        format!("median {}, worst {}", duration(stall.p50), duration(stall.max))
    });
    facts(
        page,
        &[
            (
                "Requests",
                format!(
                    "{} failed of {}; {} answers broke off",
                    number(counts.failed_requests),
                    number(counts.requests),
                    number(counts.truncated)
                ),
            ),
            (
                "Writes",
                format!(
                    "{} confirmed, {} failed, {} ended unknown",
                    number(counts.acknowledged),
                    number(counts.failed_writes),
                    number(counts.ambiguous)
                ),
            ),
            (
                "Connections refused, broken",
                format!("{}, {} operations", number(counts.refused), number(counts.broken)),
            ),
            ("Longest wait of one client", stall),
            ("Error budget", budget(report)),
        ],
    );
    page.push_str("<h3>Time of a successful operation</h3>\n");
    if report.latency.is_empty() {
        writeln!(page, "<p>{NOT_MEASURED}</p>").ok();
    } else {
        page.push_str(
            "<div class=\"scroll\"><table><thead><tr><th></th><th></th><th class=\"n\">p50</th><th class=\"n\">p95</th>\
             <th class=\"n\">p99</th><th class=\"n\">worst</th><th class=\"n\">of</th></tr></thead><tbody>\n",
        );
        for (kind, phases) in &report.latency {
            latency(page, kind, "before the fault", &phases.before);
            latency(page, "", "until service was back", &phases.during);
            latency(page, "", "afterwards", &phases.after);
        }
        page.push_str("</tbody></table></div>\n");
    }
    if !report.evidence.errors.is_empty() {
        page.push_str("<h3>Errors that clients were given</h3>\n<ul>\n");
        for (text, many) in &report.evidence.errors {
            writeln!(page, "<li>{} × {}</li>", number(*many), escape(text)).ok();
        }
        page.push_str("</ul>\n");
    }
}

/// What the longest time without service takes of the failures that an availability allows in a month.
fn budget(report: &Report) -> String {
    // Thirty days. **Unit**: milliseconds.
    const MONTH: u64 = 30 * 86_400_000;
    let measured = &report.measured;
    let felt = if super::bounds_stall(report) { &measured.stall_ms } else { &measured.rto_ms };
    let Some(worst) = felt.as_ref().map(|felt| felt.max) else { return NOT_MEASURED.to_owned() };
    let share = |allowed: u64| {
        // Thousandths of a percent.
        let milli = worst.saturating_mul(100_000) / allowed.max(1);
        format!("{}.{:03} % of the {}", milli / 1000, milli % 1000, duration(allowed))
    };
    format!(
        "{} as in the worst run are {} that 99.9 % allow in a month, {} of 99.99 %; the stack file promises no availability",
        duration(worst),
        share(MONTH / 1000),
        share(MONTH / 10_000),
    )
}

/// What warned of the fault.
pub(super) fn alerts(page: &mut String, report: &Report) {
    page.push_str("<h2>Was anybody told?</h2>\n");
    if report.alerts.is_empty() {
        page.push_str("<p>No event warned of it.</p>\n");
        return;
    }
    page.push_str(
        "<div class=\"scroll\"><table><thead><tr><th>Event</th><th class=\"n\">Runs</th><th class=\"n\">After, median</th>\
         <th class=\"n\">worst</th><th>Taken back, worst</th></tr></thead><tbody>\n",
    );
    for alert in &report.alerts {
        let back = match (alert.lasts, alert.cleared_max_ms) {
            (false, _) => "it says what happened".to_owned(),
            (true, Some(ms)) if alert.cleared == alert.rounds => duration(ms),
            (true, _) => format!("in {} of {} runs", alert.cleared, alert.rounds),
        };
        let class = if alert.lasts && alert.cleared < alert.rounds { "warn" } else { "" };
        writeln!(
            page,
            "<tr><td>{} <small>{}<br>{}</small></td><td class=\"n\">{} of {}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"{class}\">{back}</td></tr>",
            escape(&alert.kind),
            level(alert.level),
            escape(&alert.text),
            alert.rounds,
            report.runs,
            duration(alert.after_p50_ms),
            duration(alert.after_max_ms),
        )
        .ok();
    }
    page.push_str(
        "</tbody></table></div>\n<p class=\"soft\">Events of the stack that warn: the console, <code>mainstay events</code> \
         and <code>GET /api/v1/events</code> show them.</p>\n",
    );
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

fn latency(page: &mut String, kind: &str, phase: &str, found: &Latency) {
    let figures = if found.count == 0 {
        format!("<td class=\"n\" colspan=\"4\">{NOT_MEASURED}</td>")
    } else {
        [found.p50_us, found.p95_us, found.p99_us, found.max_us]
            .map(|us| format!("<td class=\"n\">{}</td>", micros(us)))
            .concat()
    };
    let kind = escape(&super::text::title(kind));
    writeln!(page, "<tr><td>{kind}</td><td>{phase}</td>{figures}<td class=\"n\">{}</td></tr>", number(found.count))
        .ok();
}

pub(super) fn controls(page: &mut String, sheet: &Sheet) {
    page.push_str("<h2>Can this drill see anything?</h2>\n<ul>\n");
    let null = sheet.controls.null.as_ref();
    let positive = sheet.controls.positive.as_ref();
    control(page, "Null drill, nothing broken: it must pass", null, Verdict::Pass);
    control(page, "Positive control, a mistake put in on purpose: it must fail", positive, Verdict::Fail);
    page.push_str("</ul>\n");
}

fn control(page: &mut String, name: &str, control: Option<&Control>, wanted: Verdict) {
    let text = match control {
        None => "<b class=\"warn\">never run</b> on this stack".to_owned(),
        Some(control) => {
            let colour = if control.verdict == wanted { class(Verdict::Pass) } else { class(Verdict::Fail) };
            let mistake = control.mistake.as_ref().map(|mistake| format!(" ({})", escape(mistake))).unwrap_or_default();
            format!("<b class=\"{colour}\">{}</b>{mistake} on {}", control.verdict, date(control.at))
        }
    };
    writeln!(page, "<li>{name}: {text}</li>").ok();
}

pub(super) fn environment(page: &mut String, report: &Report) {
    page.push_str("<h2>Where it ran</h2>\n");
    let unknown = Environment::default();
    let here = report.environment.as_ref().unwrap_or(&unknown);
    let known = |value: &Option<String>| value.clone().unwrap_or_else(|| NOT_MEASURED.to_owned());
    let hundredths = |value: u64| format!("{}.{:02}", value / 100, value % 100);
    let memory = here.memory_bytes.map(|bytes| format!("{} MiB", number(bytes / 1024 / 1024)));
    let cpus = here.cpus.map(|cpus| {
        let model = here.cpu_model.as_ref().map(|model| format!(", {model}")).unwrap_or_default();
        count(cpus, "processor", "processors") + &model
    });
    let pressure: Vec<String> =
        here.pressure.iter().map(|(name, share)| format!("{name} {} %", hundredths(*share))).collect();
    let mut rows = vec![
        ("Stack", known(&here.stack)),
        ("SHA-256 of its file", known(&here.stack_sha256)),
        ("mainstay", known(&here.mainstay)),
        ("Commit", commit(here)),
        ("SHA-256 of the program", known(&here.program_sha256)),
        ("Kernel", known(&here.kernel)),
        ("Processors", known(&cpus)),
        ("Memory", known(&memory)),
    ];
    rows.extend(here.programs.iter().map(|(name, version)| (name.as_str(), version.clone())));
    rows.push((
        "Waited for, at most",
        if pressure.is_empty() {
            NOT_MEASURED.to_owned()
        } else {
            pressure.join(", ") + " of the time (PSI some avg10)"
        },
    ));
    rows.push(("Load average, at most", known(&here.load_hundredths.map(hundredths))));
    rows.push((
        "Missing here",
        match (report.environment.is_some(), here.missing.as_slice()) {
            (false, _) => NOT_MEASURED.to_owned(),
            (true, []) => "nothing that `mainstay doctor` looks for".to_owned(),
            (true, missing) => missing.join("; "),
        },
    ));
    // Names of programs are the stack's; escaped as the values are.
    let escaped: Vec<(String, String)> = rows.into_iter().map(|(name, value)| (escape(name), value)).collect();
    let rows: Vec<(&str, String)> = escaped.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    facts(page, &rows);
}

/// What it was built from.
fn commit(here: &Environment) -> String {
    match (&here.commit, here.is_dirty) {
        (None, _) => "not known: `bin/build` says it, another build does not".to_owned(),
        (Some(commit), Some(false)) => format!("{commit}, nothing changed"),
        (Some(commit), Some(true)) => format!("{commit}, with changes that are not in it"),
        (Some(commit), None) => format!("{commit}; whether anything was changed is not known"),
    }
}

pub(super) fn not_tested(page: &mut String, report: &Report) {
    page.push_str("<h2>Not tested</h2>\n<ul>\n");
    for text in &report.evidence.not_tested {
        writeln!(page, "<li>{}</li>", escape(text)).ok();
    }
    page.push_str(
        "<li>whether anybody read what was told; the alerts of Prometheus, whose rules wait for a minute or longer</li>\n\
         </ul>\n",
    );
    writeln!(
        page,
        "<h2>Again</h2>\n<pre>{}</pre>\n<p class=\"soft\">Victims and moments come from the seed; what processes and the \
         kernel do in between does not.</p>",
        escape(&report.evidence.reproduce)
    )
    .ok();
}
