//! Why a stack does not come up, told by those who know: the boxes' reasons and the last words of the children.

use std::time::Duration;

use mainstay_api::{Progress, Status};
use mainstay_controller::paths::Paths;
use mainstay_types::State;

use crate::failure::Failure;

/// Lines of a log that are shown: an exception with its trace is longer, its message is at its end.
const LAST_WORDS: usize = 6;
/// Logs that are shown: a service of many instances says the same in each.
const LOGS: usize = 3;

/// A part is in a crash loop, or a step fails again and again.
pub(super) fn why(paths: &Paths, line: &Progress, status: &Status) -> Failure {
    let mut text = format!("{} does not come up: {}", line.what, line.text);
    let boxes = status.boxes.iter().filter(|one| one.name.starts_with(&line.what));
    for reason in boxes.filter_map(|one| one.reason.as_ref()).filter(|reason| !line.text.contains(*reason)) {
        text.push_str(&format!("; {reason}"));
    }
    if line.what == "migrate" {
        return or_full_disk(paths, Failure::failed("MS1006", text).help("mend that file and run `mainstay up` again"));
    }
    text.push_str(&last_words(paths, &line.what));
    let help = format!("all of its output is in {}", paths.state.join("logs").display());
    or_full_disk(paths, Failure::failed("MS1006", text).help(help))
}

/// Patience is over.
pub(super) fn too_long(paths: &Paths, status: Option<&Status>, patience: Duration) -> Failure {
    let mut text = format!("not everything was ready within {} s", patience.as_secs());
    let boxes = status.iter().flat_map(|status| &status.boxes);
    for one in boxes.filter(|one| !matches!(one.state, State::Ready | State::NotConfigured)) {
        let waits: Vec<String> = one.waiting.iter().map(ToString::to_string).collect();
        let waits = if waits.is_empty() { String::new() } else { format!(" ({})", waits.join(", ")) };
        let reason = one.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        text.push_str(&format!("\n  {} is {}{waits}{reason}", one.name, one.state));
    }
    let lines = status.iter().flat_map(|status| &status.progress);
    for line in lines.filter(|line| !matches!(line.state, State::Ready | State::NotConfigured | State::Waiting)) {
        text.push_str(&last_words(paths, &line.what));
    }
    or_full_disk(paths, Failure::failed("MS1007", text).help("--wait SECONDS waits longer"))
}

/// The control plane ends again and again before it can answer: its own words say why.
pub(super) fn no_control(paths: &Paths, patience: Duration) -> Failure {
    let text = format!("the control plane does not answer {} s after its start", patience.as_secs());
    let text = format!("{text}{}", last_words(paths, "control"));
    let help = format!("all of its words are in {}", paths.log("control").display());
    or_full_disk(paths, Failure::environment("MS3033", text).help(help))
}

/// The ends of a part's logs.
fn last_words(paths: &Paths, what: &str) -> String {
    let what = if what == "database" { "postgres" } else { what };
    let entries = std::fs::read_dir(paths.state.join("logs")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log").map(str::to_owned));
    let is_its = |name: &String| name == what || name.strip_prefix(what).is_some_and(|rest| rest.starts_with('-'));
    let mut names: Vec<String> = names.filter(is_its).collect();
    names.sort();
    let mut text = String::new();
    for name in names {
        let lines = mainstay_supervisor::logs::read_tail(&paths.log(&name), LAST_WORDS).map(|(lines, _)| lines);
        let lines = lines.unwrap_or_default();
        if !lines.is_empty() && text.matches("\nthe last words of ").count() < LOGS {
            text.push_str(&format!("\nthe last words of {name}:\n    {}", lines.join("\n    ")));
        }
    }
    text
}

/// The same, but when a full disk is what was behind it.
fn or_full_disk(paths: &Paths, failure: Failure) -> Failure {
    // The C library's words, PostgreSQL's are the same; SQLite has its own.
    let is_full =
        ["No space left on device", "database or disk is full"].iter().any(|words| failure.text.contains(words));
    if !is_full {
        return failure;
    }
    Failure::environment("MS3034", failure.text).help(format!(
        "make space in the file system of {}, or keep state elsewhere: --state DIR",
        paths.state.display()
    ))
}
