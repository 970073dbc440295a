//! Which drills there are and what each is owed; which were run.

use mainstay_api::{DrillFigures, DrillHistory, DrillRecord, DrillStanding, Standing};
use mainstay_controller::drills;
use mainstay_drill::Fault;
use mainstay_types::exit_code;

use super::print;
use crate::Global;
use crate::failure::Failure;
use crate::screen;

/// Lines of a history that are shown; `--json` has them all.
const SHOWN: usize = 30;

fn json<T: serde::Serialize>(value: &T) -> Result<u8, Failure> {
    println!("{}", serde_json::to_string(value).map_err(|error| Failure::bug(error.to_string()))?);
    Ok(exit_code::DONE)
}

fn read(global: &Global) -> Result<DrillHistory, Failure> {
    let path = crate::place::paths(global)?.drill_history();
    drills::read(&path)
        .map_err(|error| Failure::environment("MS3040", format!("cannot read {}: {error}", path.display())))
}

/// The drills of the stack as it was last brought up; without one, of nothing in particular.
fn standings(global: &Global) -> Result<Option<Vec<DrillStanding>>, Failure> {
    let Ok(paths) = crate::place::paths(global) else { return Ok(None) };
    let Ok(running) = super::running_stack(&paths) else { return Ok(None) };
    let records = read(global)?.records;
    let here = drills::here(&running.stack_hash);
    Ok(Some(drills::standings(&running.stack, &records, here, screen::now())))
}

/// Every drill, when it was last run and how that ended.
pub(super) fn list(global: &Global) -> Result<u8, Failure> {
    let Some(all) = standings(global)? else { return plain(global) };
    if global.json {
        return json(&all);
    }
    for one in &all {
        println!("  {:<20} {}  {}", one.drill, standing(one), one.what);
        let is_explained = matches!(one.standing, Standing::Stale | Standing::Failing | Standing::NotApplicable);
        if is_explained || one.extended.is_some() {
            println!("  {:<20} {}", "", screen::dim(&one.reason));
        }
    }
    // Never owed: it is not part of `--all`.
    for fault in Fault::named().filter(|fault| !all.iter().any(|one| one.drill == fault.name())) {
        println!("  {:<20} only by its name  {}", fault.name(), fault.what());
    }
    eprintln!("hint: `mainstay drill NAME --runs 5` runs one, `mainstay drill --all` each that applies");
    Ok(exit_code::DONE)
}

/// A stack that was never brought up has no history.
fn plain(global: &Global) -> Result<u8, Failure> {
    if global.json {
        let all: Vec<_> =
            Fault::named().map(|fault| serde_json::json!({"drill": fault.name(), "what": fault.what()})).collect();
        return json(&all);
    }
    for fault in Fault::named() {
        println!("  {:<20} {}", fault.name(), fault.what());
    }
    eprintln!("hint: `mainstay up` brings a stack up, `mainstay drill database-crash --runs 5` breaks it");
    Ok(exit_code::DONE)
}

fn standing(one: &DrillStanding) -> String {
    let last = match (one.last_verdict, one.last_ended) {
        (Some(verdict), Some(ended)) => {
            format!("{verdict} {} ago", screen::age(screen::now().saturating_since(ended)))
        }
        _ => String::new(),
    };
    let text = match one.standing {
        Standing::Fine | Standing::Failing => last,
        Standing::Stale => format!("stale, {last}"),
        Standing::NeverRun if last.is_empty() => "never run".to_owned(),
        Standing::NeverRun => format!("unproven, {last}"),
        Standing::NotApplicable => "not applicable".to_owned(),
    };
    let text = format!("{text:<22}");
    match one.standing {
        Standing::Fine => screen::green(&text),
        Standing::Failing => screen::red(&text),
        Standing::Stale | Standing::NeverRun => screen::yellow(&text),
        Standing::NotApplicable => screen::dim(&text),
    }
}

/// The drills that were run, newest first: all, or those of one name.
pub(super) fn history(global: &Global, name: Option<&str>) -> Result<u8, Failure> {
    if let Some(name) = name {
        super::by_name(name)?;
    }
    let history = read(global)?;
    let wanted = |record: &&DrillRecord| name.is_none_or(|name| record.drill == name);
    let records: Vec<&DrillRecord> = history.records.iter().rev().filter(wanted).collect();
    if global.json {
        return json(&records);
    }
    if records.is_empty() {
        let none = none(name, !history.records.is_empty());
        match name {
            Some(name) => eprintln!("{none}; `mainstay drill {name}` runs it"),
            None => eprintln!("{none}; `mainstay drill --all` runs each that applies"),
        }
    } else {
        println!(
            "BEGAN                DRILL                VERDICT  RUNS   RTO p95    STALL p95  LOST        EVICTED  \
             REQUESTS FAILED"
        );
    }
    for record in records.iter().take(SHOWN) {
        line(record);
    }
    if records.len() > SHOWN {
        eprintln!("{} older ones: `mainstay drill history --json`", records.len() - SHOWN);
    }
    if history.unreadable > 0 {
        eprintln!(
            "{} lines of the history cannot be read: cut off by a crash, or of a later mainstay",
            history.unreadable
        );
    }
    Ok(exit_code::DONE)
}

/// What is so where there is nothing to show.
fn none(name: Option<&str>, has_others: bool) -> String {
    match name {
        Some(name) if has_others => format!("{name} was never run on this stack, others were"),
        Some(_) | None => "no drill was run on this stack".to_owned(),
    }
}

fn line(record: &DrillRecord) {
    // "2026-11-21T12:58:03.123456Z": seconds are enough.
    let began: String = record.began.to_string().replace('T', " ").chars().take(19).collect();
    let extended = record.figures.as_ref().and_then(|figures| figures.extended.as_ref());
    let verdict = match record.verdict {
        Some(verdict) => print::marked(verdict, extended, 8),
        None => screen::yellow("no end  "),
    };
    println!("{began:<20} {:<20} {verdict} {:<6} {}", record.drill, record.runs, figures(record));
    if let Some(extended) = extended {
        println!("{:<20} {}", "", screen::yellow(&format!("* {extended}")));
    }
    if let Some(sabotage) = &record.sabotage {
        println!("{:<20} {}", "", screen::dim(&format!("positive control: {sabotage}")));
    } else if let Some(reason) = record.reasons.first() {
        println!("{:<20} {}", "", screen::dim(reason));
    }
}

/// The columns of figures; dashes where there is none.
fn figures(record: &DrillRecord) -> String {
    let columns = match &record.figures {
        Some(figures) => [
            took(figures.rto_p95_ms.filter(|_| !print::is_null(&record.drill))),
            took(figures.stall_p95_ms),
            format!("{} of {}", figures.lost, figures.acknowledged),
            evicted(record, figures),
            format!("{} of {}", figures.failed_requests, figures.requests),
        ],
        None => ["–"; 5].map(str::to_owned),
    };
    let [rto, stall, lost, evicted, failed] = columns;
    format!("{rto:<10} {stall:<10} {lost:<11} {evicted:<8} {failed}")
}

fn took(figure: Option<u64>) -> String {
    figure.map_or("–".to_owned(), screen::took)
}

/// Keys that went and were allowed to. Older records count them as lost.
fn evicted(record: &DrillRecord, figures: &DrillFigures) -> String {
    let may_evict = Fault::by_name(&record.drill).is_some_and(Fault::may_evict);
    match figures.evicted {
        _ if !may_evict => "–".to_owned(),
        Some(gone) => gone.to_string(),
        None => "in LOST".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mainstay_drill::Verdict;
    use mainstay_types::Timestamp;

    use super::*;

    #[test]
    fn of_a_drill_that_was_never_run_it_is_not_said_that_none_was() {
        assert_eq!(none(Some("edge-crash"), true), "edge-crash was never run on this stack, others were");
        assert_eq!(none(Some("edge-crash"), false), "no drill was run on this stack");
        assert_eq!(none(None, false), "no drill was run on this stack");
    }

    #[test]
    fn what_measured_nothing_has_dashes_and_what_broke_nothing_has_no_rto() {
        let record = |drill: &str, figures| DrillRecord {
            version: mainstay_api::HISTORY_VERSION,
            id: "1".to_owned(),
            drill: drill.to_owned(),
            began: Timestamp::from_millis(1),
            ended: None,
            verdict: Some(Verdict::Void),
            runs: 1,
            seed: 1,
            sabotage: None,
            release: "0.1.0".to_owned(),
            stack: "abc".to_owned(),
            figures,
            reasons: Vec::new(),
        };
        let words = |record: &DrillRecord| figures(record).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&record("edge-crash", None)), ["–"; 5]);
        let some =
            DrillFigures { rto_p95_ms: Some(7), stall_p95_ms: Some(9), acknowledged: 144, ..DrillFigures::default() };
        let null = words(&record("null", Some(some.clone())));
        assert_eq!(null, ["–", "9", "ms", "0", "of", "144", "–", "0", "of", "0"]);
        assert_eq!(words(&record("edge-crash", Some(some)))[..2], ["7", "ms"]);
        let none = Some(DrillFigures { rto_p95_ms: Some(7), ..DrillFigures::default() });
        assert_eq!(words(&record("drop-table", none))[..3], ["7", "ms", "–"], "no clients, so no stall");
    }
}
