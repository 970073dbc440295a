//! `mainstay drill --all`: every drill that applies, one after the other, and one table of what they said.

use mainstay_drill::{Dossier, Error, Fault, Report, Sheet, Skipped, Verdict};

use super::{Options, Running, Talk, code_of, print};
use crate::command::drill_report::{self, Files};
use crate::failure::Failure;
use crate::screen;

/// What became of one drill.
enum Row {
    Done(Box<Sheet>),
    Skipped(String),
    Aborted(String),
}

/// Runs them all. Each waits until the stack is whole; one that cannot begin or go on ends the row.
///
/// With `--report` also a page about all of them.
pub(super) async fn run(running: &Running, options: &Options, is_json: bool) -> Result<u8, Failure> {
    let mut files = options.report.as_deref().map(Files::create).transpose()?;
    let mut rows: Vec<(Fault, Row)> = Vec::new();
    let mut is_broken = false;
    for fault in Fault::ALL {
        let row = match fault.applies(&running.stack.stack) {
            Err(reason) => Row::Skipped(reason),
            Ok(()) if running.stop.reason().is_some() => Row::Skipped("stopped before it".to_owned()),
            Ok(()) if is_broken => Row::Skipped("the drill before it could not go on".to_owned()),
            Ok(()) => {
                let mut talk = Talk { is_quiet: is_json, name: Some(fault.name()), files: files.as_mut() };
                match running.drill(fault, &mut talk).await {
                    Ok(sheet) => Row::Done(Box::new(sheet)),
                    Err(error @ Error::Busy) => return Err(super::failure(error)),
                    Err(error) => {
                        is_broken = true;
                        Row::Aborted(error.to_string())
                    }
                }
            }
        };
        rows.push((fault, row));
    }
    let dossier = as_dossier(&rows);
    if let Some(files) = files {
        files.finish(&running.paths, &dossier)?;
    }
    super::junit(options.junit.as_deref(), &dossier)?;
    let verdicts = rows.iter().filter_map(|(_, row)| match row {
        Row::Done(sheet) => Some(sheet.report.verdict),
        Row::Aborted(_) => Some(Verdict::Aborted),
        Row::Skipped(_) => None,
    });
    let worst = verdicts.max().unwrap_or(Verdict::Void);
    if is_json {
        let drills: Vec<_> = rows.iter().map(|(fault, row)| in_json(*fault, row)).collect();
        println!("{}", serde_json::json!({"verdict": worst, "drills": drills}));
    } else {
        table(&rows);
    }
    Ok(code_of(worst))
}

/// Those that could not go on are not left out: they are named with the reason.
fn as_dossier(rows: &[(Fault, Row)]) -> Dossier {
    let (mut sheets, mut skipped) = (Vec::new(), Vec::new());
    for (fault, row) in rows {
        match row {
            Row::Done(sheet) => sheets.push(Sheet::clone(sheet)),
            Row::Skipped(reason) | Row::Aborted(reason) => {
                let (drill, is_aborted) = (fault.name().to_owned(), matches!(row, Row::Aborted(_)));
                skipped.push(Skipped { drill, reason: reason.clone(), is_aborted });
            }
        }
    }
    drill_report::dossier(sheets, skipped)
}

fn in_json(fault: Fault, row: &Row) -> serde_json::Value {
    match row {
        Row::Done(sheet) => {
            let report = &sheet.report;
            serde_json::json!({"drill": fault.name(), "verdict": report.verdict, "report": report})
        }
        Row::Skipped(reason) => serde_json::json!({"drill": fault.name(), "skipped": reason}),
        Row::Aborted(reason) => {
            serde_json::json!({"drill": fault.name(), "verdict": Verdict::Aborted, "reason": reason})
        }
    }
}

const HEADING: &str = "DRILL                VERDICT  PROMISED           RTO p95    STALL p95  LOST          RECEIPTS LOST  \
                       EVICTED  REQUESTS FAILED";

/// What a drill measured, below [`HEADING`].
fn line(name: &str, report: &Report) -> String {
    let (measured, counts) = (&report.measured, &report.measured.counts);
    let promised = format!("{}, {}", screen::took(report.promise.rto_ms), screen::took(report.promise.rpo_ms));
    let (lost, acknowledged) = report.lost();
    let receipts = measured.numbers.map(|numbers| format!("{} of {}", numbers.lost, numbers.acknowledged));
    format!(
        "{name:<20} {} {promised:<18} {:<10} {:<10} {:<13} {:<14} {:<8} {} of {}",
        print::marked(report.verdict, report.extended.as_ref(), 8),
        print::p95(measured.rto_ms.as_ref()),
        print::p95(measured.stall_ms.as_ref()),
        format!("{lost} of {acknowledged}"),
        receipts.unwrap_or("–".to_owned()),
        report.evicted().map_or("–".to_owned(), |(gone, _)| gone.to_string()),
        counts.failed_requests,
        counts.requests
    )
}

fn table(rows: &[(Fault, Row)]) {
    println!("{HEADING}");
    for (fault, row) in rows {
        let name = fault.name();
        match row {
            Row::Skipped(reason) => println!("{name:<20} {}  {reason}", screen::dim("skipped")),
            Row::Aborted(reason) => println!("{name:<20} {} {reason}", print::verdict(Verdict::Aborted, 8)),
            Row::Done(sheet) => {
                let report = &sheet.report;
                println!("{}", line(name, report));
                if let Some(extended) = &report.extended {
                    println!("{:<20} {}", "", screen::yellow(&format!("* {extended}")));
                }
                for reason in &report.evidence.reasons {
                    println!("{:<20} {}", "", screen::red(reason));
                }
            }
        }
    }
    if rows.iter().any(|(fault, row)| fault.may_evict() && matches!(row, Row::Done(_))) {
        println!("EVICTED: keys that a cache held and that went with it, which is allowed");
    }
    let is_counted = |row: &Row| matches!(row, Row::Done(sheet) if sheet.report.measured.numbers.is_some());
    if rows.iter().any(|(_, row)| is_counted(row)) {
        println!("RECEIPTS LOST: numbers that the application's own counter gave and does not know of any more");
    }
    if rows.iter().any(|(_, row)| matches!(row, Row::Aborted(_))) {
        eprintln!("hint: `mainstay status` shows what the stack waits for");
    }
}

#[cfg(test)]
mod tests {
    use mainstay_drill::{Evidence, Gone, Measured};

    use super::*;

    fn report(numbers: Option<Gone>) -> Report {
        let value = serde_json::json!({
            "version": 1, "drill": "edge-crash", "verdict": "PASS", "runs": 1, "seed": 7, "began": 1, "ended": 2,
            "promise": {"rto_ms": 1000, "rpo_ms": 0, "source": "default"}, "latency": {}, "timeline_ms": {},
            "rounds": [], "evidence": Evidence::default(), "measured": Measured { numbers, ..Measured::default() },
        });
        serde_json::from_value(value).expect("a report")
    }

    #[test]
    fn numbers_of_the_application_that_are_lost_have_a_column() {
        let at = HEADING.find("RECEIPTS LOST").expect("a column");
        let cell = |numbers| {
            let line = line("edge-crash", &report(numbers));
            line.chars().skip(at).take(14).collect::<String>().trim().to_owned()
        };
        assert_eq!(cell(Some(Gone { acknowledged: 412, lost: 3, ..Gone::default() })), "3 of 412");
        assert_eq!(cell(None), "–", "a stack without such a counter");
    }
}
