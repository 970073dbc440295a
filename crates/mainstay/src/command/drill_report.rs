//! Drills as files: the report for people, its twin in JSON, the history, their sums; and the sheets that are kept in
//! the state folder, from which a report can be written later.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use mainstay_api::{DrillFiled, DrillRecord};
use mainstay_controller::paths::Paths;
use mainstay_drill::{Control, Controls, DOSSIER_VERSION, Dossier, Fault, Report, Sheet, Skipped};
use mainstay_types::{Timestamp, exit_code};
use sha2::{Digest, Sha256};

use crate::Global;
use crate::failure::Failure;
use crate::screen;

/// Sheets that are kept; one of 59 runs has some 60 KiB.
const MOST_KEPT: usize = 500;

fn broken(path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::environment("MS3041", format!("cannot write {}: {error}", path.display()))
        .help("name another file, or make space")
}

/// Files under names of their own beside what they will be. Dropped before [`Drafts::place`] they are deleted: a drill
/// that was stopped leaves nothing, and a report that was there before it as it was.
#[derive(Default)]
struct Drafts(Vec<(PathBuf, PathBuf)>);

impl Drafts {
    /// Makes one for a file that may be there already, and is not touched.
    fn open(&mut self, path: &Path) -> Result<File, Failure> {
        if path.is_dir() {
            return Err(broken(path, &"it is a folder"));
        }
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let draft = path.with_file_name(format!(".{name}.{}.new", std::process::id()));
        // One of that name is of a process that was killed, and whose number came round again.
        std::fs::remove_file(&draft).ok();
        let file = OpenOptions::new().write(true).create_new(true).open(&draft);
        let file = file.map_err(|error| broken(path, &error))?;
        self.0.push((draft, path.to_owned()));
        Ok(file)
    }

    /// Gives one up.
    fn discard(&mut self, path: &Path) {
        self.0.retain(|(draft, wanted)| {
            let is_kept = wanted != path;
            if !is_kept {
                std::fs::remove_file(draft).ok();
            }
            is_kept
        });
    }

    fn write(&mut self, path: &Path, text: &str) -> Result<(), Failure> {
        self.open(path)?.write_all(text.as_bytes()).map_err(|error| broken(path, &error))
    }

    /// Gives each its name, in place of what had it.
    fn place(self) -> Result<(), Failure> {
        for (draft, path) in &self.0 {
            std::fs::rename(draft, path).map_err(|error| broken(path, &error))?;
            eprintln!("written: {}", path.display());
        }
        Ok(())
    }
}

impl Drop for Drafts {
    fn drop(&mut self) {
        for (draft, _) in &self.0 {
            // Those that were placed are not there any more.
            std::fs::remove_file(draft).ok();
        }
    }
}

/// The files of one report: `X.html`, `X.json`, `X.history.jsonl`, `X.sha256`. Drills of the backups have no history.
pub(crate) struct Files {
    html: PathBuf,
    drafts: Drafts,
    history: BufWriter<File>,
    hash: Sha256,
    /// Something was seen that belongs into the history.
    has_history: bool,
}

impl Files {
    /// Begins them before anything is broken: a drill must not end with a report that cannot be written.
    pub(crate) fn create(html: &Path) -> Result<Self, Failure> {
        if html.extension().is_none_or(|extension| extension != "html") {
            let text = format!("--report {} does not end in .html", html.display());
            return Err(Failure::user("MS2025", text).help("as in --report drill.html"));
        }
        let folder = html.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            let text = format!("cannot write {}: there is no folder {}", html.display(), folder.display());
            return Err(Failure::environment("MS3041", text).help("make it, or name a file in another one"));
        }
        for path in [html.to_owned(), html.with_extension("json"), html.with_extension("sha256")] {
            if path.is_dir() {
                return Err(broken(&path, &"it is a folder"));
            }
        }
        let mut drafts = Drafts::default();
        let history = BufWriter::new(drafts.open(&html.with_extension("history.jsonl"))?);
        Ok(Self { html: html.to_owned(), drafts, history, hash: Sha256::new(), has_history: false })
    }

    /// A round's history. What cannot be written is found at the end, by the sum.
    pub(crate) fn history(&mut self, lines: &str) {
        self.has_history |= !lines.is_empty();
        if self.history.write_all(lines.as_bytes()).is_ok() {
            self.hash.update(lines);
        }
    }

    /// Writes the rest and names it.
    pub(crate) fn finish(mut self, paths: &Paths, dossier: &Dossier) -> Result<(), Failure> {
        let path = self.html.with_extension("history.jsonl");
        self.history.flush().map_err(|error| broken(&path, &error))?;
        let is_without = dossier.sheets.iter().all(|sheet| sheet.report.history_sha256.is_none());
        let history = if is_without && !dossier.sheets.is_empty() && !self.has_history {
            self.drafts.discard(&path);
            None
        } else {
            Some((path, hex(self.hash.finalize().as_slice())))
        };
        if let ([sheet], Some((path, sum))) = (dossier.sheets.as_slice(), &history)
            && sheet.report.history_sha256.as_deref() != Some(sum.as_str())
        {
            return Err(broken(path, &"it is not what the drill saw"));
        }
        let mut sums = write(&mut self.drafts, &self.html, dossier)?;
        sums.extend(history);
        write_sums(&mut self.drafts, &self.html, &sums)?;
        self.drafts.place()?;
        file(paths, dossier.sheets.iter().map(|sheet| sheet.report.began), &sums);
        Ok(())
    }
}

/// Writes page and twin; their names and sums.
fn write(drafts: &mut Drafts, html: &Path, dossier: &Dossier) -> Result<Vec<(PathBuf, String)>, Failure> {
    let json = html.with_extension("json");
    let page = mainstay_drill::html::page(dossier);
    let mut twin = serde_json::to_string_pretty(dossier).map_err(|error| Failure::bug(error.to_string()))?;
    twin.push('\n');
    let mut sums = Vec::new();
    for (path, text) in [(html.to_owned(), page), (json, twin)] {
        drafts.write(&path, &text)?;
        sums.push((path, hex(Sha256::digest(&text).as_slice())));
    }
    Ok(sums)
}

/// As `sha256sum --check` reads them, from the folder of the files.
fn write_sums(drafts: &mut Drafts, html: &Path, sums: &[(PathBuf, String)]) -> Result<(), Failure> {
    let mut text = String::new();
    for (path, sum) in sums {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        text.push_str(&format!("{sum}  {name}\n"));
    }
    drafts.write(&html.with_extension("sha256"), &text)
}

/// Enters the sums in the history of drills, for `drill verify`. What cannot be entered is said and stops nothing.
fn file(paths: &Paths, drills: impl Iterator<Item = Timestamp>, sums: &[(PathBuf, String)]) {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let filed = DrillFiled {
        version: mainstay_api::HISTORY_VERSION,
        filed: screen::now(),
        drills: drills.collect(),
        files: sums.iter().map(|(path, sum)| (name(path), sum.clone())).collect(),
    };
    if let Err(error) = mainstay_drill::chain::file(&paths.drill_history(), &filed) {
        eprintln!("warning: `mainstay drill verify` will not know this report: {error}");
    }
}

/// SHA-256 of a file that can be read.
pub(crate) fn sum(path: &Path) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| hex(Sha256::digest(bytes).as_slice()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Several drills as one report.
pub(crate) fn dossier(sheets: Vec<Sheet>, skipped: Vec<Skipped>) -> Dossier {
    Dossier { dossier: DOSSIER_VERSION, made: screen::now(), sheets, skipped }
}

/// A report with its controls, kept in the state folder. What cannot be kept is said and stops nothing.
pub(crate) fn keep(paths: &Paths, lacks: &[String], mut report: Report) -> Sheet {
    complete(paths, &mut report);
    report.environment.get_or_insert_default().missing = lacks.to_vec();
    let kept = Kept::of(&report);
    let sheet = Sheet { controls: controls(paths, &report.drill), report };
    if let Err(error) = save(paths, &kept, &sheet) {
        eprintln!("warning: this report is not kept: {error}");
    }
    sheet
}

/// What only the command line knows of where a drill ran.
fn complete(paths: &Paths, report: &mut Report) {
    let environment = report.environment.get_or_insert_default();
    let build = if cfg!(debug_assertions) { "unoptimised build" } else { "optimised build" };
    environment.mainstay = Some(format!("{}, {build}", env!("CARGO_PKG_VERSION")));
    (environment.commit, environment.is_dirty) = commit(option_env!("MAINSTAY_COMMIT"));
    environment.program_sha256 = sum(&paths.program());
    environment.stack_sha256 = sum(&paths.stack_file());
    let mut folders = paths.state.components().rev().map(|part| part.as_os_str().to_string_lossy());
    let (name, stack) = (folders.next().unwrap_or_default(), folders.next().unwrap_or_default());
    environment.stack = Some(format!("{stack}, environment {name}"));
    if let Some(version) = redis_version() {
        environment.programs.insert("Redis".to_owned(), version);
    }
}

/// What whoever built it said that it was built from: "COMMIT", or "COMMIT-dirty". Anything else is nothing.
fn commit(said: Option<&str>) -> (Option<String>, Option<bool>) {
    let Some(said) = said else { return (None, None) };
    let (commit, is_dirty) = said.strip_suffix("-dirty").map_or((said, false), |commit| (commit, true));
    let is_one = commit.len() >= 7 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_one { (Some(commit.to_owned()), Some(is_dirty)) } else { (None, None) }
}

/// "Redis server v=7.0.15 sha=…" → "7.0.15".
fn redis_version() -> Option<String> {
    use mainstay_controller::programs::{Found, all};
    let Found::Here(path) = all(None).into_iter().find(|program| program.name == "redis")?.found else { return None };
    let output = std::process::Command::new(path).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split(' ').find_map(|word| word.strip_prefix("v=")).map(str::to_owned)
}

// --- what is kept ---------------------------------------------------------------------------------------------

/// A kept sheet by its file's name: `BEGAN_DRILL_VERDICT[_MISTAKE].json`, so that a folder tells without reading.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    began: Timestamp,
    drill: String,
    verdict: String,
    mistake: Option<String>,
}

impl Kept {
    fn of(report: &Report) -> Self {
        Self {
            began: report.began,
            drill: report.drill.clone(),
            verdict: report.verdict.to_string(),
            mistake: report.sabotage.clone(),
        }
    }

    fn file_name(&self) -> String {
        let mistake = self.mistake.as_ref().map(|mistake| format!("_{mistake}")).unwrap_or_default();
        format!("{}_{}_{}{mistake}.json", self.began.as_micros(), self.drill, self.verdict)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".json")?.splitn(4, '_');
        let began = Timestamp::from_micros(parts.next()?.parse().ok()?);
        let (drill, verdict) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Self { began, drill, verdict, mistake: parts.next().map(str::to_owned) })
    }
}

fn folder(paths: &Paths) -> PathBuf {
    paths.state.join("drills/reports")
}

/// What is kept, oldest first.
fn kept(paths: &Paths) -> Vec<Kept> {
    let entries = std::fs::read_dir(folder(paths)).into_iter().flatten().flatten();
    let mut all: Vec<Kept> =
        entries.filter_map(|entry| Kept::parse(entry.file_name().to_str().unwrap_or_default())).collect();
    all.sort();
    all
}

/// The files of what is kept.
pub(crate) fn kept_files(paths: &Paths) -> Vec<PathBuf> {
    kept(paths).iter().map(|kept| folder(paths).join(kept.file_name())).collect()
}

fn save(paths: &Paths, new: &Kept, sheet: &Sheet) -> Result<(), String> {
    let folder = folder(paths);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| error.to_string())?;
    let text = serde_json::to_string(sheet).map_err(|error| error.to_string())?;
    // Whole or not at all.
    let (path, draft) = (folder.join(new.file_name()), folder.join(format!(".{}.new", new.file_name())));
    let sums = [(path.clone(), hex(Sha256::digest(&text).as_slice()))];
    std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, &path)).map_err(|error| error.to_string())?;
    file(paths, [new.began].into_iter(), &sums);
    let all = kept(paths);
    for old in all.iter().take(all.len().saturating_sub(MOST_KEPT)) {
        // One that cannot be deleted is deleted next time.
        std::fs::remove_file(folder.join(old.file_name())).ok();
    }
    Ok(())
}

/// The last controls of a drill, as the history of drills has them; none when it cannot be read.
fn controls(paths: &Paths, drill: &str) -> Controls {
    let history = mainstay_controller::drills::read(&paths.drill_history()).unwrap_or_default();
    let last = |is: &dyn Fn(&DrillRecord) -> bool| {
        let record = history.records.iter().rev().filter(|record| record.verdict.is_some()).find(|one| is(one))?;
        let (at, verdict) = (record.ended.unwrap_or(record.began), record.verdict?);
        Some(Control { at, verdict, mistake: record.sabotage.clone() })
    };
    Controls {
        null: last(&|record| record.drill == Fault::Null.name() && record.sabotage.is_none()),
        positive: last(&|record| record.drill == drill && record.sabotage.is_some()),
    }
}

/// `mainstay drill report [RUN] --out FILE`: from what is kept; without a run, the last one.
pub(crate) fn again(global: &Global, run: Option<&str>, out: Option<&Path>) -> Result<u8, Failure> {
    let paths = crate::place::paths(global)?;
    let all = kept(&paths);
    let wanted = wanted(&all, run)?;
    let Some(out) = out else { return list(global, &wanted) };
    let Some(found) = wanted.last() else {
        return Err(Failure::user("MS2026", "no drill is kept").help("`mainstay drill NAME` runs one"));
    };
    let path = folder(&paths).join(found.file_name());
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::failed("MS2026", format!("cannot read {}: {error}", path.display())).help("run the drill again")
    };
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&error))?;
    let mut sheet: Sheet = serde_json::from_str(&text).map_err(|error| unreadable(&error))?;
    // As of now: a control may have been run since.
    sheet.controls = controls(&paths, &sheet.report.drill);
    if out.extension().is_none_or(|extension| extension != "html") {
        let text = format!("--out {} does not end in .html", out.display());
        return Err(Failure::user("MS2025", text).help("as in --out drill.html"));
    }
    let began = sheet.report.began;
    let mut drafts = Drafts::default();
    let sums = write(&mut drafts, out, &dossier(vec![sheet], Vec::new()))?;
    write_sums(&mut drafts, out, &sums)?;
    drafts.place()?;
    file(&paths, [began].into_iter(), &sums);
    Ok(exit_code::DONE)
}

/// Those that are meant by a run or by a drill's name; all without.
fn wanted<'a>(all: &'a [Kept], run: Option<&str>) -> Result<Vec<&'a Kept>, Failure> {
    let is_wanted = |kept: &&Kept| run.is_none_or(|run| kept.drill == run || kept.began.as_micros().to_string() == run);
    let found: Vec<&Kept> = all.iter().filter(is_wanted).collect();
    let (Some(run), true) = (run, found.is_empty()) else { return Ok(found) };
    let mut known: Vec<&str> = all.iter().map(|kept| kept.drill.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    let help = match known.as_slice() {
        [] => "none is kept yet; `mainstay drill NAME` runs one".to_owned(),
        known => format!("kept are runs of {}; `mainstay drill report` lists them", known.join(", ")),
    };
    Err(Failure::user("MS2026", format!("no drill {run:?} is kept")).help(help))
}

fn list(global: &Global, all: &[&Kept]) -> Result<u8, Failure> {
    if global.json {
        let rows: Vec<_> = all
            .iter()
            .map(|kept| {
                let run = kept.began.as_micros().to_string();
                serde_json::json!({"run": run, "drill": kept.drill, "began": kept.began, "verdict": kept.verdict,
                    "sabotage": kept.mistake})
            })
            .collect();
        println!("{}", serde_json::Value::from(rows));
        return Ok(exit_code::DONE);
    }
    for kept in all {
        let mistake = kept.mistake.as_ref().map(|mistake| format!("  with {mistake}")).unwrap_or_default();
        println!("{}  {}  {:<20} {}{mistake}", kept.began.as_micros(), kept.began, kept.drill, kept.verdict);
    }
    if all.is_empty() {
        eprintln!("no drill is kept yet");
        eprintln!("hint: `mainstay drill database-crash --runs 5 --report drill.html` runs one");
    } else {
        eprintln!("hint: `mainstay drill report RUN --out drill.html` writes one; without RUN the last");
    }
    Ok(exit_code::DONE)
}

#[cfg(test)]
mod tests {
    use mainstay_drill::Verdict;

    use super::*;

    fn kept(began: i64, drill: &str, verdict: &str, mistake: Option<&str>) -> Kept {
        Kept {
            began: Timestamp::from_micros(began),
            drill: drill.to_owned(),
            verdict: verdict.to_owned(),
            mistake: mistake.map(str::to_owned),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("lists").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_commit_is_what_looks_like_one_and_says_whether_anything_was_changed() {
        assert_eq!(commit(Some("ee889fd1b469")), (Some("ee889fd1b469".to_owned()), Some(false)));
        assert_eq!(commit(Some("ee889fd1b469-dirty")), (Some("ee889fd1b469".to_owned()), Some(true)));
        for nothing in [None, Some(""), Some("-dirty"), Some("main"), Some("v1.0.0")] {
            assert_eq!(commit(nothing), (None, None), "{nothing:?}");
        }
    }

    #[test]
    fn a_drill_that_does_not_end_leaves_an_earlier_report_as_it_was_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        let html = folder.path().join("x.html");
        std::fs::write(&html, "earlier").expect("writes");
        let mut files = Files::create(&html).expect("begins");
        files.history("{}\n");
        assert_eq!(names(folder.path()).len(), 2, "a draft is written while it runs");
        drop(files);
        assert_eq!(names(folder.path()), ["x.html"]);
        assert_eq!(std::fs::read_to_string(&html).expect("reads"), "earlier");
    }

    #[test]
    fn a_report_takes_the_place_of_an_earlier_one_when_all_of_it_is_written() {
        let folder = tempfile::tempdir().expect("folder");
        let state = tempfile::tempdir().expect("folder");
        let paths = Paths { state: state.path().to_owned(), runtime: state.path().to_owned() };
        let html = folder.path().join("x.html");
        std::fs::write(&html, "earlier").expect("writes");
        let mut files = Files::create(&html).expect("begins");
        files.history("{}\n");
        files.finish(&paths, &dossier(Vec::new(), Vec::new())).expect("ends");
        assert_eq!(names(folder.path()), ["x.history.jsonl", "x.html", "x.json", "x.sha256"]);
        assert!(std::fs::read_to_string(&html).expect("reads").contains("<html"));
        let history = folder.path().join("x.history.jsonl");
        assert_eq!(std::fs::read_to_string(history).expect("reads"), "{}\n");
    }

    /// As a drill of the backups leaves it: without a history.
    fn sheet_without_history() -> Sheet {
        let spread = serde_json::json!(null);
        let report = serde_json::json!({
            "version": 1, "drill": "drop-table", "verdict": "PASS", "runs": 1, "seed": 1, "began": 1, "ended": 2,
            "sabotage": null, "promise": {"rto_ms": 1, "rpo_ms": 1, "source": "default"},
            "measured": {
                "stall_ms": spread, "rto_ms": spread, "whole_ms": spread, "keys_rpo_ms": 0, "acknowledged": 0, "lost": 0,
                "duplicated": 0, "resurrected": 0, "ambiguous": 0, "ambiguous_present": 0, "failed_writes": 0,
                "requests": 0, "failed_requests": 0, "truncated": 0, "keys": 0, "keys_lost": 0, "failed_keys": 0,
                "knocks": 0, "refused": 0, "broken": 0,
            },
            "latency": {}, "timeline_ms": {}, "rounds": [],
            "evidence": {
                "faults": [], "least_load_before": 0, "least_load_after": 0, "errors": {}, "reasons": [], "notes": [],
                "rto_ms": [], "stall_ms": [], "load": "", "not_tested": [], "reproduce": "",
            },
        });
        Sheet { controls: Controls::default(), report: serde_json::from_value(report).expect("a report") }
    }

    #[test]
    fn a_drill_without_a_history_gets_its_report_and_one_that_lost_it_does_not() {
        let folder = tempfile::tempdir().expect("folder");
        let state = tempfile::tempdir().expect("folder");
        let paths = Paths { state: state.path().to_owned(), runtime: state.path().to_owned() };
        let html = folder.path().join("x.html");
        let of = |sheet: &Sheet| dossier(vec![sheet.clone()], Vec::new());
        let sheet = sheet_without_history();
        Files::create(&html).expect("begins").finish(&paths, &of(&sheet)).expect("ends");
        assert_eq!(names(folder.path()), ["x.html", "x.json", "x.sha256"]);
        let sums = std::fs::read_to_string(folder.path().join("x.sha256")).expect("reads");
        assert!(!sums.contains("history"), "{sums}");
        let mut files = Files::create(&html).expect("begins");
        files.history("{}\n");
        assert!(files.finish(&paths, &of(&sheet)).is_err(), "what was seen is not what the sheet says");
        let mut sheet = sheet;
        sheet.report.history_sha256 = Some("abc".to_owned());
        assert!(Files::create(&html).expect("begins").finish(&paths, &of(&sheet)).is_err(), "it lacks its history");
    }

    #[test]
    fn a_draft_of_a_killed_process_with_the_same_number_is_in_nobodys_way() {
        let folder = tempfile::tempdir().expect("folder");
        let html = folder.path().join("x.html");
        std::mem::forget(Files::create(&html).expect("begins"));
        assert!(Files::create(&html).is_ok());
    }

    #[test]
    fn a_run_that_is_not_kept_is_an_error_that_names_those_that_are() {
        let all = [kept(1, "edge-crash", "PASS", None), kept(2, "null", "PASS", None), kept(3, "null", "FAIL", None)];
        let began =
            |run| wanted(&all, run).map(|found| found.iter().map(|kept| kept.began.as_micros()).collect::<Vec<_>>());
        assert_eq!(began(None).ok(), Some(vec![1, 2, 3]));
        assert_eq!(began(Some("null")).ok(), Some(vec![2, 3]));
        assert_eq!(began(Some("1")).ok(), Some(vec![1]));
        let refused = began(Some("nope")).expect_err("refused");
        assert_eq!((refused.code, refused.name), (exit_code::USER, "MS2026"));
        let help = refused.help.expect("a next step");
        assert!(help.contains("runs of edge-crash, null"), "{help}");
    }

    #[test]
    fn where_no_report_can_be_written_the_drill_does_not_begin() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("x.json")).expect("folder");
        assert!(Files::create(&folder.path().join("x.html")).is_err(), "its twin's name is taken by a folder");
        assert!(Files::create(&folder.path().join("none/y.html")).is_err());
        assert_eq!(names(folder.path()), ["x.json"]);
    }

    #[test]
    fn a_file_name_tells_what_is_in_the_file() {
        for one in [
            kept(1_780_000_000_000_000, "database-crash", "PASS", None),
            kept(5, "database-crash", "FAIL", Some("acknowledge-before-commit")),
        ] {
            assert_eq!(Kept::parse(&one.file_name()), Some(one));
        }
        for stranger in ["", ".json", "notes.json", "x_y_z.json", ".5_null_PASS.json.new"] {
            assert_eq!(Kept::parse(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn controls_are_the_last_null_drill_and_the_last_mistake_of_the_same_drill() {
        let folder = tempfile::tempdir().expect("folder");
        let paths = Paths { state: folder.path().to_owned(), runtime: folder.path().to_owned() };
        assert_eq!(controls(&paths, "database-crash"), Controls::default());
        let record = |number: i64, drill: &str, verdict, mistake: Option<&str>| DrillRecord {
            version: mainstay_api::HISTORY_VERSION,
            id: number.to_string(),
            drill: drill.to_owned(),
            began: Timestamp::from_micros(number),
            ended: Some(Timestamp::from_micros(number)),
            verdict,
            runs: 1,
            seed: 1,
            sabotage: mistake.map(str::to_owned),
            release: "0.1.0".to_owned(),
            stack: "abc".to_owned(),
            figures: None,
            reasons: Vec::new(),
        };
        let lines: String = [
            record(1, "null", Some(Verdict::Pass), None),
            record(2, "database-crash", Some(Verdict::Pass), Some("acknowledge-before-commit")),
            record(3, "database-crash", Some(Verdict::Fail), Some("promote-without-fencing")),
            record(4, "edge-crash", Some(Verdict::Fail), Some("close-listeners")),
            record(5, "database-crash", Some(Verdict::Pass), None),
            record(6, "database-crash", None, Some("acknowledge-before-commit")),
        ]
        .iter()
        .map(|record| serde_json::to_string(record).expect("writes") + "\n")
        .collect();
        std::fs::create_dir_all(paths.drill_history().parent().expect("folder")).expect("folder");
        std::fs::write(paths.drill_history(), lines).expect("writes");
        let found = controls(&paths, "database-crash");
        assert_eq!(found.null.map(|control| control.at), Some(Timestamp::from_micros(1)));
        let positive = found.positive.expect("there");
        assert_eq!((positive.verdict, positive.mistake.as_deref()), (Verdict::Fail, Some("promote-without-fencing")));
    }

    #[test]
    fn a_report_that_cannot_be_written_is_refused_before_anything_is_broken() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(Files::create(&folder.path().join("drill.pdf")).err().map(|error| error.name), Some("MS2025"));
        let nowhere = folder.path().join("nowhere/drill.html");
        assert_eq!(Files::create(&nowhere).err().map(|error| error.name), Some("MS3041"));
        assert!(Files::create(&folder.path().join("drill.html")).is_ok());
    }
}
