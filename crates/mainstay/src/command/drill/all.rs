//! `mainstay drill --all`: every drill that applies, one after the other, and one table of what they said.

use mainstay_drill::{Error, Fault, Report, Verdict};

use super::{Running, Talk, code_of, print};
use crate::failure::Failure;
use crate::screen;

/// What became of one drill.
enum Row {
    Done(Box<Report>),
    Skipped(String),
    Aborted(String),
}

/// Runs them all. Each waits until the stack is whole; one that cannot begin or go on ends the row.
pub(super) async fn run(running: &Running, is_json: bool) -> Result<u8, Failure> {
    let mut rows: Vec<(Fault, Row)> = Vec::new();
    let mut is_broken = false;
    for fault in Fault::ALL {
        let row = match fault.applies(&running.stack.stack) {
            Err(reason) => Row::Skipped(reason),
            Ok(()) if is_broken => Row::Skipped("the drill before it could not go on".to_owned()),
            Ok(()) => {
                let mut talk = Talk { is_quiet: is_json, name: Some(fault.name()) };
                match running.drill(fault, &mut talk).await {
                    Ok(report) => Row::Done(Box::new(report)),
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
    let verdicts = rows.iter().filter_map(|(_, row)| match row {
        Row::Done(report) => Some(report.verdict),
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

fn in_json(fault: Fault, row: &Row) -> serde_json::Value {
    match row {
        Row::Done(report) => serde_json::json!({"drill": fault.name(), "verdict": report.verdict, "report": report}),
        Row::Skipped(reason) => serde_json::json!({"drill": fault.name(), "skipped": reason}),
        Row::Aborted(reason) => {
            serde_json::json!({"drill": fault.name(), "verdict": Verdict::Aborted, "reason": reason})
        }
    }
}

fn table(rows: &[(Fault, Row)]) {
    println!("DRILL                VERDICT  PROMISED           RTO p95    STALL p95  LOST          REQUESTS FAILED");
    for (fault, row) in rows {
        let name = fault.name();
        match row {
            Row::Skipped(reason) => println!("{name:<20} {}  {reason}", screen::dim("skipped")),
            Row::Aborted(reason) => println!("{name:<20} {} {reason}", print::verdict(Verdict::Aborted, 8)),
            Row::Done(report) => {
                let (measured, counts) = (&report.measured, &report.measured.counts);
                let promised =
                    format!("{}, {}", screen::took(report.promise.rto_ms), screen::took(report.promise.rpo_ms));
                // What a cache held may be gone.
                let keys = *fault != Fault::CacheCrash;
                let (lost, acknowledged) = (
                    counts.lost + if keys { counts.keys_lost } else { 0 },
                    counts.acknowledged + if keys { counts.keys } else { 0 },
                );
                println!(
                    "{name:<20} {} {promised:<18} {:<10} {:<10} {:<13} {} of {}",
                    print::verdict(report.verdict, 8),
                    screen::took(measured.rto_ms.p95),
                    screen::took(measured.stall_ms.p95),
                    format!("{lost} of {acknowledged}"),
                    counts.failed_requests,
                    counts.requests
                );
                for reason in &report.evidence.reasons {
                    println!("{:<20} {}", "", screen::red(reason));
                }
            }
        }
    }
    if rows.iter().any(|(_, row)| matches!(row, Row::Aborted(_))) {
        eprintln!("hint: `mainstay status` shows what the stack waits for");
    }
}
