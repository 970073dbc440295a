//! `mainstay drill verify`: whether a report is what was written, and the history what was remembered.

use std::path::{Path, PathBuf};

use mainstay_api::DrillFiled;
use mainstay_controller::drills;
use mainstay_drill::chain::{self, Chain};
use mainstay_types::{Timestamp, exit_code};
use serde::Serialize;

use crate::Global;
use crate::command::drill_report;
use crate::failure::Failure;

/// A file and what the history says of it.
#[derive(Serialize)]
struct Looked {
    file: String,
    sha256: Option<String>,
    /// When a report with this sum was written here.
    filed: Option<Timestamp>,
    /// Why it is not what was written.
    fault: Option<String>,
}

/// With a report's page or twin its files; without one every report that is kept. And the history in both cases.
pub(super) fn run(global: &Global, report: Option<&str>) -> Result<u8, Failure> {
    let paths = crate::place::paths(global)?;
    let path = paths.drill_history();
    let unreadable =
        |error: std::io::Error| Failure::environment("MS3040", format!("cannot read {}: {error}", path.display()));
    let chain = chain::verify(&path).map_err(unreadable)?;
    let filed = drills::read_all(&path).map_err(unreadable)?.filed;
    let files = match report {
        Some(report) => of_report(Path::new(report))?,
        None => drill_report::kept_files(&paths),
    };
    let looked: Vec<Looked> = files.iter().map(|file| look(file, &filed)).collect();
    // Reports are filed by a mainstay that writes sums: a history with such lines and no sum has lost them.
    let is_stripped = !filed.is_empty() && chain.lines > 0 && chain.unchained == chain.lines;
    let is_bad = chain.broken.is_some() || is_stripped;
    let faults = looked.iter().filter(|one| one.fault.is_some()).count() + usize::from(is_bad);
    if global.json {
        let value = serde_json::json!({"verified": faults == 0, "files": looked, "chain": chain});
        println!("{value}");
    } else {
        looked.iter().filter(|one| report.is_some() || one.fault.is_some()).for_each(line);
        if report.is_none() {
            println!("{:<28} {} looked at", "reports that are kept", looked.len());
        }
        chain_line(&chain);
    }
    if faults == 0 {
        return Ok(exit_code::DONE);
    }
    if global.json {
        return Ok(exit_code::FAILED);
    }
    let text = format!("{faults} of these are not as they were written");
    Err(Failure::failed("MS1060", text).help("a report that was changed proves nothing: run the drill again"))
}

/// The files of a report, of which the twin must be there; the page and the history may be left out.
fn of_report(report: &Path) -> Result<Vec<PathBuf>, Failure> {
    let is_report = report.extension().is_some_and(|extension| extension == "html" || extension == "json");
    if !is_report || !report.exists() || !report.with_extension("json").exists() {
        let text = format!(
            "{} is no report: its .html or .json file is wanted, and the .json one beside it",
            report.display()
        );
        return Err(Failure::user("MS2027", text).help("as in `mainstay drill verify drill.html`"));
    }
    let all = ["html", "json", "history.jsonl"].map(|extension| report.with_extension(extension));
    Ok(all.into_iter().filter(|path| path.exists()).collect())
}

fn look(file: &Path, filed: &[DrillFiled]) -> Looked {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let sha256 = drill_report::sum(file);
    // By its sum, not by its name: a report may be renamed.
    let sums = |one: &DrillFiled| one.files.values().any(|sum| Some(sum) == sha256.as_ref());
    let found = filed.iter().rev().find(|one| sums(one)).map(|one| one.filed);
    let was_named = filed.iter().rev().find(|one| one.files.contains_key(&name)).map(|one| one.filed);
    let fault = match (&sha256, found, was_named) {
        (None, _, _) => Some("cannot be read".to_owned()),
        (_, Some(_), _) => None,
        (_, None, Some(at)) => Some(format!("is not what was written under this name on {at}")),
        (_, None, None) => Some("was not written by this stack".to_owned()),
    };
    Looked { file: file.display().to_string(), sha256, filed: found, fault }
}

fn line(one: &Looked) {
    let text = match (&one.fault, one.filed) {
        (Some(fault), _) => crate::screen::red(fault),
        (None, Some(at)) => format!("as it was written on {at}"),
        (None, None) => String::new(),
    };
    println!("{:<28} {text}", one.file);
}

fn chain_line(chain: &Chain) {
    let kinds = [(chain.unchained, "of an older mainstay, without sums"), (chain.cut_off, "cut off by a crash")];
    let more: String =
        kinds.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}")).collect();
    let state = match chain.broken {
        None => "unbroken".to_owned(),
        Some(line) => crate::screen::red(&format!("broken before line {line}: a line was changed, added or taken out")),
    };
    println!("{:<28} {} lines{more}; {state}", "history", chain.lines);
    println!("{:<28} {}", "its sum", chain.head);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_report_is_known_by_its_sum_under_any_name_and_a_changed_one_is_not() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("drill.json");
        std::fs::write(&file, "{}").expect("writes");
        let sum = drill_report::sum(&file).expect("sum");
        let filed = [DrillFiled {
            version: 1,
            filed: Timestamp::from_millis(5),
            drills: Vec::new(),
            files: BTreeMap::from([("drill.json".to_owned(), sum)]),
        }];
        assert!(look(&file, &filed).fault.is_none());
        let renamed = folder.path().join("for-the-auditor.json");
        std::fs::copy(&file, &renamed).expect("copies");
        assert_eq!(look(&renamed, &filed).filed, Some(Timestamp::from_millis(5)));
        std::fs::write(&file, "{ }").expect("writes");
        assert!(look(&file, &filed).fault.is_some_and(|fault| fault.starts_with("is not what was written")));
        std::fs::write(&renamed, "{ }").expect("writes");
        assert!(look(&renamed, &filed).fault.is_some_and(|fault| fault.starts_with("was not written")));
        assert!(look(&folder.path().join("none.json"), &filed).fault.is_some());
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("drill.pdf"), "").expect("writes");
        for wrong in ["drill.pdf", "none.html"] {
            let failure = of_report(&folder.path().join(wrong)).expect_err("refused");
            assert_eq!((failure.name, failure.code), ("MS2027", exit_code::USER));
        }
    }
}
