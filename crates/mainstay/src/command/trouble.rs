//! Why a stack does not come up, told by those who know: the boxes' reasons and the last words of the children.

use std::path::Path;
use std::time::Duration;

use mainstay_api::{BoxStatus, Progress, Status};
use mainstay_controller::paths::Paths;
use mainstay_types::{BoxId, State, Timestamp};

use crate::failure::Failure;

/// Lines of a log that are shown: an exception with its trace is longer, its message is at its end.
const LAST_WORDS: usize = 6;
/// Logs that are shown: a service of many instances says the same in each.
const LOGS: usize = 3;

/// A part does not come up, or a step fails again and again.
pub(super) fn why(paths: &Paths, line: &Progress, status: &Status) -> Failure {
    let mut text = format!("{} does not come up: {}", line.what, line.lost.as_ref().unwrap_or(&line.text));
    // How instances ended that were brought down in order is no reason.
    let is_broken = |state| matches!(state, State::Failed | State::CrashLoop | State::BackingOff);
    let is_its = |one: &&BoxStatus| one.name.starts_with(&line.what) && is_broken(one.state);
    let boxes = status.boxes.iter().filter(|one| line.lost.is_none() && is_its(one));
    for reason in boxes.filter_map(|one| one.reason.as_ref()).filter(|reason| !line.text.contains(*reason)) {
        text.push_str(&format!("; {reason}"));
    }
    if line.what == "migrate" {
        return or_full_disk(paths, Failure::failed("MS1006", text).help("mend that file and run `mainstay up` again"));
    }
    let words = last_words(paths, &line.what, &text, Some(status.since));
    text.push_str(&words);
    let is_service =
        status.boxes.iter().any(|one| matches!(&one.id, BoxId::Service { name } if name.as_str() == line.what));
    let all = if is_service {
        format!("`mainstay logs {}` shows all of its output, `mainstay events` what happened", line.what)
    } else {
        format!("all of its output is in {}; `mainstay events` shows what happened", paths.state.join("logs").display())
    };
    or_full_disk(paths, Failure::failed("MS1006", text).help(format!("{}{all}", advice(line))))
}

/// What a service that runs and does not answer mostly lacks.
fn advice(line: &Progress) -> &'static str {
    let answers_nothing = line
        .lost
        .as_ref()
        .is_some_and(|lost| ["was not ready within", "has answered for"].iter().any(|words| lost.contains(words)));
    if answers_nothing {
        "it must listen on 127.0.0.1 at the port in its variable PORT, and answer its `health` path with 200 to 399; \
         `start_within` in `health` gives it more time; "
    } else {
        ""
    }
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
        let words = last_words(paths, &line.what, &text, status.map(|status| status.since));
        text.push_str(&words);
    }
    or_full_disk(paths, Failure::failed("MS1007", text).help("--wait SECONDS waits longer"))
}

/// The control plane ends again and again before it can answer: its own words say why.
pub(super) fn no_control(paths: &Paths, patience: Duration) -> Failure {
    let text = format!("the control plane does not answer {} s after its start", patience.as_secs());
    let text = format!("{text}{}", last_words(paths, "control", "", None));
    let help = format!("all of its words are in {}", paths.log("control").display());
    or_full_disk(paths, Failure::environment("MS3033", text).help(help))
}

/// The ends of a part's logs, but for those that were said already and those of earlier runs.
fn last_words(paths: &Paths, what: &str, said: &str, since: Option<Timestamp>) -> String {
    let what = if what == "database" { "postgres" } else { what };
    let entries = std::fs::read_dir(paths.state.join("logs")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".log").map(str::to_owned));
    let is_its = |name: &String| name == what || name.strip_prefix(what).is_some_and(|rest| rest.starts_with('-'));
    let mut names: Vec<String> = names.filter(is_its).collect();
    names.sort();
    // What is said here is copied to others.
    let mask = mainstay_controller::secrets::Mask::of(&paths.state);
    let mut shown: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    for name in names.into_iter().filter(|name| is_written_since(&paths.log(name), since)) {
        let lines = mainstay_supervisor::logs::read_tail(&paths.log(&name), LAST_WORDS).map(|(lines, _)| lines);
        let lines = lines.unwrap_or_default();
        // Of a release command the last try was told, with its output; its log ends with those before, too.
        let is_told = name.ends_with("-before") && said.contains("the release command of");
        if is_told || !lines.is_empty() && said.contains(&mask.hide(&lines.join("\n"))) {
            continue;
        }
        // Instances that fail alike say the same.
        match shown.iter().position(|(_, known)| *known == lines) {
            Some(same) => shown[same].0.push(name),
            None if !lines.is_empty() && shown.len() < LOGS => shown.push((vec![name], lines)),
            None => {}
        }
    }
    let words = |(names, lines): &(Vec<String>, Vec<String>)| {
        format!("\nthe last words of {}:\n    {}", names.join(", "), lines.join("\n    "))
    };
    mask.hide(&shown.iter().map(words).collect::<String>())
}

/// Whether a log has words of this run. One whose time cannot be told is taken for one that has.
fn is_written_since(log: &Path, since: Option<Timestamp>) -> bool {
    let written = std::fs::metadata(log).and_then(|log| log.modified()).ok();
    let written = written.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    let written = written.and_then(|age| i64::try_from(age.as_micros()).ok()).map(Timestamp::from_micros);
    written.zip(since).is_none_or(|(written, since)| written >= since)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_show_no_secret_of_the_stack() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = Paths { state: folder.path().to_owned(), runtime: folder.path().join("run") };
        std::fs::create_dir(folder.path().join("logs")).expect("made");
        let mut secrets = mainstay_controller::secrets::Secrets::open(folder.path()).expect("opens");
        let secret = secrets.get_or_make("named:API_TOKEN").expect("makes");
        std::fs::write(paths.log("web-before"), format!("API_TOKEN={}\n", secret.expose())).expect("written");
        assert_eq!(last_words(&paths, "web", "", None), "\nthe last words of web-before:\n    API_TOKEN=***");
    }

    #[test]
    fn words_of_an_earlier_run_or_that_were_said_already_are_not_the_last_ones_of_this() {
        let folder = tempfile::tempdir().expect("a folder");
        let paths = Paths { state: folder.path().to_owned(), runtime: folder.path().join("run") };
        std::fs::create_dir(folder.path().join("logs")).expect("made");
        for (name, text) in
            [("web-1", "no queue\n"), ("web-2", "no queue\n"), ("web-before", "no table\n"), ("webs-1", "x\n")]
        {
            std::fs::write(paths.log(name), text).expect("written");
        }
        let all = "\nthe last words of web-1, web-2:\n    no queue\nthe last words of web-before:\n    no table";
        assert_eq!(last_words(&paths, "web", "", Some(Timestamp::from_micros(1))), all);
        let unsaid = "\nthe last words of web-1, web-2:\n    no queue";
        assert_eq!(last_words(&paths, "web", "it ended: no table", None), unsaid);
        let tries = "the release command of web ended: exit status 1\nno table, third try";
        assert_eq!(last_words(&paths, "web", tries, None), unsaid);
        let later = Timestamp::from_micros(i64::MAX);
        assert_eq!(last_words(&paths, "web", "", Some(later)), "");
    }
}
