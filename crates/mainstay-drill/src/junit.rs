//! A dossier as JUnit XML, for systems that run tests. Pure.
//!
//! A drill is a test case: FAIL is a failure, VOID and ABORTED are errors (nothing was learned), what was not run is
//! skipped.

use std::fmt::Write;

use mainstay_api::Verdict;

use crate::dossier::{Dossier, Skipped};
use crate::html::escape as text;
use crate::report::Report;

/// The whole file.
pub fn junit(dossier: &Dossier) -> String {
    let reports: Vec<&Report> = dossier.sheets.iter().map(|sheet| &sheet.report).collect();
    let of = |verdicts: &[Verdict]| reports.iter().filter(|report| verdicts.contains(&report.verdict)).count();
    let aborted = dossier.skipped.iter().filter(|one| one.is_aborted).count();
    let seconds: f64 = reports.iter().fold(0.0, |sum, report| sum + seconds(report));
    let counts = format!(
        "tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\"",
        reports.len() + dossier.skipped.len(),
        of(&[Verdict::Fail]),
        of(&[Verdict::Void, Verdict::Aborted]) + aborted,
        dossier.skipped.len() - aborted,
    );
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"mainstay drill\" {counts}>\n\
         <testsuite name=\"mainstay drill\" {counts} timestamp=\"{}\">\n",
        dossier.made
    );
    reports.iter().for_each(|report| case(&mut xml, report));
    dossier.skipped.iter().for_each(|one| skipped(&mut xml, one));
    xml.push_str("</testsuite>\n</testsuites>\n");
    xml
}

fn seconds(report: &Report) -> f64 {
    report.ended.saturating_since(report.began).as_secs_f64()
}

fn case(xml: &mut String, report: &Report) {
    let name = match &report.sabotage {
        Some(mistake) => format!("{} (positive control: {mistake})", report.drill),
        None => report.drill.clone(),
    };
    write!(xml, "<testcase classname=\"mainstay.drill\" name=\"{}\" time=\"{:.3}\">", text(&name), seconds(report))
        .ok();
    let element = match report.verdict {
        Verdict::Pass => None,
        Verdict::Fail => Some("failure"),
        Verdict::Void | Verdict::Aborted => Some("error"),
    };
    if let Some(element) = element {
        let reasons = &report.evidence.reasons;
        let first = reasons.first().map_or("", String::as_str);
        let (verdict, first, all) = (report.verdict, text(first), text(&reasons.join("\n")));
        write!(xml, "<{element} type=\"{verdict}\" message=\"{first}\">{all}</{element}>").ok();
    }
    let mut said = vec![report.evidence.reproduce.clone()];
    said.extend(report.extended.as_ref().map(|extended| format!("{} {extended}", report.verdict)));
    said.extend(report.evidence.faults.iter().cloned());
    writeln!(xml, "<system-out>{}</system-out></testcase>", text(&said.join("\n"))).ok();
}

fn skipped(xml: &mut String, one: &Skipped) {
    let (name, reason) = (text(&one.drill), text(&one.reason));
    let element = if one.is_aborted {
        format!("<error type=\"ABORTED\" message=\"{reason}\"/>")
    } else {
        format!("<skipped message=\"{reason}\"/>")
    };
    writeln!(xml, "<testcase classname=\"mainstay.drill\" name=\"{name}\">{element}</testcase>").ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::html::tests::{dossier, report};

    #[test]
    fn a_verdict_is_a_failure_an_error_or_nothing() {
        let reports = [Verdict::Pass, Verdict::Fail, Verdict::Void].map(|verdict| Report { verdict, ..report(1) });
        let mut dossier = dossier(reports.to_vec());
        for (drill, is_aborted) in [("edge-crash", true), ("store-crash", false)] {
            dossier.skipped.push(Skipped {
                drill: drill.to_owned(),
                reason: "a < b & \"\u{1b}c\"".to_owned(),
                is_aborted,
            });
        }
        let xml = junit(&dossier);
        let has = |what: &str| assert!(xml.contains(what), "{what} is not in\n{xml}");
        has("tests=\"5\" failures=\"1\" errors=\"2\" skipped=\"1\"");
        has("<failure type=\"FAIL\"");
        has("<error type=\"VOID\"");
        has("<error type=\"ABORTED\" message=\"a &lt; b &amp; &quot;\u{fffd}c&quot;\"/>");
        has("<skipped message=");
        assert_eq!(xml.matches("<testcase").count(), xml.matches("</testcase>").count());
    }
}
