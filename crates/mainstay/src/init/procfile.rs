//! A Procfile: `NAME: COMMAND` a line. `web` listens, `release` runs once before, the others are workers.

use super::folder::View;
use super::given::{self, Place};
use super::text::{Command, reason};
use super::{Part, Service};

pub(super) fn read(view: &View<'_>) -> Option<Part> {
    let text = view.text("Procfile")?;
    let file = view.full("Procfile");
    let mut part = Part::default();
    let mut release = None;
    let repeated = repeated(text);
    for (index, line) in text.lines().enumerate().filter(|(index, _)| !repeated.contains(index)) {
        // What is none is said by `unread`.
        let Some((name, command)) = process(line.trim()) else { continue };
        let at = Some(index + 1);
        let place = Place { file: &file, line: at };
        if name == "release" {
            let (command, taken) = given::fit(&command, false, place);
            part.reasons.push(reason(format!("before: {}", command.line), &file, at, "the process `release`"));
            release = Some(command);
            taken.give(&mut part, None, place);
            continue;
        }
        let is_web = name == "web" || command.line.contains("$PORT") || command.line.contains("${PORT");
        let (command, taken) = given::fit(&command, is_web, place);
        let mut service = Service::new(name, command, is_web);
        if is_web && !service.run.line.contains("PORT") {
            service.notes.push("It must listen on the port in the environment variable PORT.".to_owned());
        }
        let kind = if is_web { "" } else { ", a worker," };
        let what = format!("service {}{kind} runs {}", service.name, service.run.line);
        part.reasons.push(reason(what, &file, at, format!("the process `{name}`")));
        taken.give(&mut part, Some(&mut service), place);
        part.services.push(service);
    }
    // The web process is the one that people look for first.
    part.services.sort_by_key(|service| !service.has_port);
    if let Some(first) = part.services.first_mut() {
        first.before = release;
    }
    (!part.services.is_empty()).then_some(part)
}

/// Lines, from 0, whose name an earlier line has, as far as names of services tell.
pub(super) fn repeated(text: &str) -> Vec<usize> {
    let mut known = std::collections::BTreeSet::new();
    let names = text.lines().enumerate().filter_map(|(index, line)| Some((index, process(line.trim())?.0)));
    let names = names.map(|(index, name)| (index, name.to_ascii_lowercase().replace('_', "-")));
    names.filter(|(_, name)| !known.insert(name.clone())).map(|(index, _)| index).collect()
}

/// `NAME: COMMAND`.
pub(super) fn process(line: &str) -> Option<(&str, Command)> {
    let (name, command) = line.split_once(':').filter(|_| !line.starts_with('#'))?;
    let (name, command) = (name.trim(), Command::new(command));
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    (is_name && !command.line.is_empty()).then_some((name, command))
}
