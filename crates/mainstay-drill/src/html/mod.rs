//! The report as one HTML file: no script, no request, nothing but what was measured. Pure.
//!
//! First what a manager asks (was the promise kept?), then what the engineer at night asks (what happened, when, how
//! is that known?), then everything that lets a third one doubt it.

mod bounds;
mod facts;
mod svg;
mod text;
mod times;
mod words;

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mainstay_api::Verdict;
use mainstay_decide::drills::Fault;
use sha2::{Digest, Sha256};

use crate::dossier::{Dossier, Sheet};
use crate::report::Report;
pub(crate) use text::escape;
use text::{count, date, duration, number, times as how_often, title};

const STYLE: &str = include_str!("style.css");

/// The whole file.
pub fn page(dossier: &Dossier) -> String {
    // The only thing that the page may use is this very style sheet.
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    let name = match dossier.sheets.as_slice() {
        [one] => format!("{}: {}", title(&one.report.drill), one.report.verdict),
        many => format!("{}: {}", count(many.len() as u64, "drill", "drills"), worst(dossier)),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{hash}'; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escape(&name)
    );
    if dossier.sheets.len() != 1 {
        overview(&mut page, dossier);
    }
    for sheet in &dossier.sheets {
        article(&mut page, sheet);
    }
    writeln!(
        page,
        "<footer>Written by mainstay on {}. Every figure is of the runs shown here; what was not measured says so. The \
         same as data: the file beside this one that ends in <code>.json</code>.</footer>\n</main>\n</body>\n</html>",
        date(dossier.made)
    )
    .ok();
    page
}

fn worst(dossier: &Dossier) -> Verdict {
    dossier.sheets.iter().map(|sheet| sheet.report.verdict).max().unwrap_or(Verdict::Void)
}

/// How a verdict is coloured.
fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "good",
        Verdict::Fail => "bad",
        Verdict::Void | Verdict::Aborted => "warn",
    }
}

/// What a verdict means, in a sentence.
fn meaning(report: &Report) -> &'static str {
    match report.verdict {
        Verdict::Pass if report.extended.is_some() => {
            "One promise was missed as it is written, and kept with the wider bar that a busy machine is given; all others \
             were kept in every run."
        }
        Verdict::Pass => "Every promise was kept in every run.",
        Verdict::Fail if report.sabotage.is_some() => {
            "A mistake was put in on purpose, and the drill saw it: this failure is what was wanted."
        }
        Verdict::Fail => "A promise was broken.",
        Verdict::Void => "Fault, load or data could not be proven, so this drill says nothing. Run it again.",
        Verdict::Aborted => "It was stopped before its end and says nothing.",
    }
}

/// Several drills at a glance.
fn overview(page: &mut String, dossier: &Dossier) {
    let verdict = worst(dossier);
    let failed = dossier.sheets.iter().filter(|sheet| sheet.report.verdict != Verdict::Pass).count() as u64;
    let line = if failed == 0 {
        format!("All {} passed.", count(dossier.sheets.len() as u64, "drill", "drills"))
    } else {
        format!("{} of {} did not pass.", number(failed), count(dossier.sheets.len() as u64, "drill", "drills"))
    };
    write!(
        page,
        "<h1>Drills of {}</h1>\n<div class=\"verdict {}\"><b>{verdict}</b><p class=\"lead\">{line}</p></div>\n\
         <div class=\"scroll\"><table><thead><tr><th>Drill</th><th>Verdict</th><th class=\"n\">Back after, or longest wait</th>\
         <th class=\"n\">Promised</th><th class=\"n\">Writes lost</th><th class=\"n\">Requests failed</th></tr></thead>\
         <tbody>\n",
        date(dossier.made),
        class(verdict),
    )
    .ok();
    for sheet in &dossier.sheets {
        let (report, counts) = (&sheet.report, &sheet.report.measured.counts);
        let name = escape(&report.drill);
        writeln!(
            page,
            "<tr><td><a href=\"#{name}\">{}</a></td><td class=\"{}\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{} of {}</td><td class=\"n\">{} of {}</td></tr>",
            escape(&title(&report.drill)),
            colour(report),
            marked(report),
            back(report),
            duration(report.promise.rto_ms),
            number(report.lost().0),
            number(report.lost().1),
            number(counts.failed_requests),
            number(counts.requests),
        )
        .ok();
    }
    for skipped in &dossier.skipped {
        let (name, reason) = (escape(&title(&skipped.drill)), escape(&skipped.reason));
        writeln!(page, "<tr><td>{name}</td><td class=\"warn\">not run</td><td colspan=\"4\">{reason}</td></tr>").ok();
    }
    page.push_str("</tbody></table></div>\n");
}

/// What the promise is about is the longest wait of a client, not the time until service is back.
fn bounds_stall(report: &Report) -> bool {
    Fault::by_name(&report.drill).is_some_and(Fault::bounds_stall)
}

/// A verdict, with its mark when a wider bar than the promised one was met.
fn marked(report: &Report) -> String {
    let mark = if report.extended.is_some() { "*" } else { "" };
    format!("{}{mark}", report.verdict)
}

/// How it is coloured.
fn colour(report: &Report) -> &'static str {
    match class(report.verdict) {
        "good" if report.extended.is_some() => "warn",
        other => other,
    }
}

/// The worst time until service was back, or the longest wait if that is promised; or that it never was back in some
/// run.
fn back(report: &Report) -> String {
    let mut proven = report.rounds.iter().filter(|round| round.is_proven);
    if proven.any(|round| round.rto_ms.is_none()) {
        return "never".to_owned();
    }
    let measured = &report.measured;
    let rto = if bounds_stall(report) { measured.stall_ms.as_ref() } else { measured.rto_ms.as_ref() };
    let rto = rto.filter(|_| report.is_proven() && !is_null(report));
    rto.map_or(text::NOT_MEASURED.to_owned(), |rto| duration(rto.max))
}

/// The drill that breaks nothing has nothing to come back from.
fn is_null(report: &Report) -> bool {
    report.drill == Fault::Null.name()
}

/// The worst time until everything was whole again.
fn whole(report: &Report) -> String {
    let is_measured = !Fault::by_name(&report.drill).is_some_and(Fault::is_about_backups) && report.is_proven();
    let mut proven = report.rounds.iter().filter(|round| round.is_proven);
    if is_measured && proven.any(|round| round.whole_ms.is_none()) {
        return "never".to_owned();
    }
    let whole = report.measured.whole_ms.as_ref().filter(|_| is_measured);
    whole.map_or(text::NOT_MEASURED.to_owned(), |whole| duration(whole.max))
}

fn article(page: &mut String, sheet: &Sheet) {
    let report = &sheet.report;
    writeln!(page, "<article id=\"{}\">", escape(&report.drill)).ok();
    headline(page, report);
    cards(page, report);
    facts::hypothesis(page, report);
    facts::proof(page, report);
    times::timeline(page, report);
    times::histogram(page, report);
    facts::data(page, report);
    facts::impact(page, report);
    if !Fault::by_name(&report.drill).is_some_and(Fault::is_about_backups) && !is_null(report) {
        facts::alerts(page, report);
    }
    facts::controls(page, sheet);
    facts::environment(page, report);
    facts::not_tested(page, report);
    page.push_str("</article>\n");
}

/// What happened and whether the promise was kept, in words.
fn headline(page: &mut String, report: &Report) {
    let (lost, acknowledged) = report.lost();
    let runs = u64::from(report.runs);
    let deed = words::of(&report.drill).deed;
    let deed = if is_null(report) {
        format!("{deed}, in {}", count(runs, "run", "runs"))
    } else {
        format!("{deed} {}", how_often(runs))
    };
    let back = match back(report).as_str() {
        "never" => "In at least one run <strong>service did not come back</strong>".to_owned(),
        text::NOT_MEASURED => "Whether service came back was not measured".to_owned(),
        back if bounds_stall(report) => format!("No client waited longer than <strong>{back}</strong>"),
        back => format!("Clients were served again within <strong>{back}</strong>"),
    };
    let promised = duration(report.promise.rto_ms);
    let back = if is_null(report) { String::new() } else { format!(" {back}; {promised} were promised.") };
    let data = if acknowledged == 0 {
        "No write was confirmed, so none could be lost.".to_owned()
    } else if lost == 0 {
        format!("Of {} confirmed writes <strong>none was lost</strong>.", number(acknowledged))
    } else {
        let (lost, all) = (number(lost), number(acknowledged));
        format!("<strong>{lost}</strong> of {all} confirmed writes were <strong>lost</strong>.")
    };
    write!(
        page,
        "<p class=\"soft\">mainstay drill · {} · {}</p>\n<h1>{}</h1>\n\
         <div class=\"verdict {}\"><b>{}</b><div><p class=\"lead\">{deed}.{back} {data}</p>\
         <p>{}</p>",
        date(report.began),
        count(runs, "run", "runs"),
        escape(&title(&report.drill)),
        colour(report),
        marked(report),
        meaning(report),
    )
    .ok();
    if let Some(extended) = &report.extended {
        write!(page, "<p><b class=\"warn\">{}</b></p>", escape(&format!("{} {extended}", marked(report)))).ok();
    }
    if !report.evidence.reasons.is_empty() {
        page.push_str("<ul class=\"reasons\">");
        const MOST: usize = 8;
        for reason in report.evidence.reasons.iter().take(MOST) {
            write!(page, "<li>{}</li>", escape(reason)).ok();
        }
        if let Some(more) = report.evidence.reasons.len().checked_sub(MOST).filter(|more| *more > 0) {
            write!(page, "<li>and {more} more, in the file of data</li>").ok();
        }
        page.push_str("</ul>");
    }
    page.push_str("</div></div>\n");
}

fn cards(page: &mut String, report: &Report) {
    let counts = &report.measured.counts;
    let rpo = match report.promise.rpo_ms {
        0 => "promised: none".to_owned(),
        ms => format!("promised: at most the last {}", duration(ms)),
    };
    let mut cards = vec![
        (
            if bounds_stall(report) { "Longest wait of a client, worst run" } else { "Service back after, worst run" },
            back(report),
            format!("promised: {}", duration(report.promise.rto_ms)),
        ),
        ("Confirmed writes lost", format!("{} of {}", number(report.lost().0), number(report.lost().1)), rpo),
        (
            "Requests failed",
            format!("{} of {}", number(counts.failed_requests), number(counts.requests)),
            format!("{} broke off", number(counts.truncated)),
        ),
        (
            "Everything whole again, worst run",
            whole(report),
            "every process ready; when commits are synchronous again is among the steps".to_owned(),
        ),
    ];
    if is_null(report) {
        cards.retain(|(name, ..)| !name.contains("worst run"));
    }
    page.push_str("<dl class=\"cards\">\n");
    for (name, figure, note) in cards {
        writeln!(page, "<div class=\"card\"><dt>{name}</dt><dd>{figure}</dd><dd class=\"note\">{note}</dd></div>").ok();
    }
    page.push_str("</dl>\n");
}

#[cfg(test)]
pub(crate) mod tests;
