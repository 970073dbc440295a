//! A Dockerfile: from which image, and with which command its container starts.

use super::text::Command;

/// What the last stage says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    /// The image that it is made from, and the line, from 1, that says so.
    pub(super) base: Option<(String, usize)>,
    entry: Option<Start>,
    command: Option<Start>,
    /// The command is that of an earlier stage.
    is_inherited: bool,
}

/// ENTRYPOINT or CMD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) command: Command,
    pub(super) at: usize,
}

impl Start {
    /// The words that a program is given; those of a line for the shell are the shell's.
    fn words(&self) -> Vec<String> {
        let shell = || ["/bin/sh", "-c", &self.command.line].map(str::to_owned).to_vec();
        self.command.words.clone().unwrap_or_else(shell)
    }
}

impl Image {
    /// What a container runs: the compose file's `entrypoint` and `command` go before those of the image, and an
    /// entry point of its own makes the image's command void.
    pub(super) fn start(&self, entry: Option<Start>, command: Option<Start>) -> Option<(Start, bool)> {
        let is_ours = entry.is_some() || command.is_some();
        let own_entry = entry.is_some();
        let entry = entry.or_else(|| self.entry.clone());
        let command = command.or_else(|| if own_entry { None } else { self.command.clone() });
        let start = match (entry, command) {
            // An ENTRYPOINT for the shell takes no further words.
            (Some(entry), Some(command)) if entry.command.words.is_some() => {
                let at = if is_ours && !own_entry { command.at } else { entry.at };
                Start { command: Command::of_words([entry.words(), command.words()].concat()), at }
            }
            (Some(entry), _) => entry,
            (None, Some(command)) => command,
            (None, None) => return None,
        };
        Some((start, is_ours)).filter(|(start, _)| !start.command.line.trim().is_empty())
    }
}

/// The stage that is built: the named one, else the last.
pub(super) fn read(text: &str, target: Option<&str>) -> Image {
    let mut stages: Vec<(String, Image)> = Vec::new();
    for (line, at) in instructions(text) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let rest = rest.trim();
        match word.to_ascii_uppercase().as_str() {
            "FROM" => {
                let mut words = rest.split_whitespace().filter(|word| !word.starts_with("--"));
                let base = words.next().unwrap_or_default();
                let name = words.nth(1).unwrap_or_default().to_lowercase();
                // A stage upon an earlier one begins with what that one says.
                let earlier = stages.iter().find(|(stage, _)| stage.eq_ignore_ascii_case(base)).cloned();
                let image = earlier.map_or_else(
                    || Image { base: Some((base.to_owned(), at)), ..Image::default() },
                    |(_, image)| Image { is_inherited: true, ..image },
                );
                stages.push((name, image));
            }
            "ENTRYPOINT" => {
                let image = last(&mut stages);
                image.entry = Some(started(rest, at));
                // An entry point makes the command of what it is made from void.
                if image.is_inherited {
                    image.command = None;
                }
            }
            "CMD" => {
                let image = last(&mut stages);
                (image.command, image.is_inherited) = (Some(started(rest, at)), false);
            }
            _ => {}
        }
    }
    let wanted = target.and_then(|name| stages.iter().position(|(stage, _)| stage.eq_ignore_ascii_case(name)));
    let at = wanted.or(stages.len().checked_sub(1));
    at.map(|at| stages.swap_remove(at).1).unwrap_or_default()
}

fn last(stages: &mut Vec<(String, Image)>) -> &mut Image {
    if stages.is_empty() {
        stages.push(Default::default());
    }
    let at = stages.len() - 1;
    &mut stages[at].1
}

/// Lines with what a backslash at their end continues, without comments.
fn instructions(text: &str) -> Vec<(String, usize)> {
    let mut all: Vec<(String, usize)> = Vec::new();
    let mut is_open = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('#') || (line.is_empty() && !is_open) {
            continue;
        }
        let (part, goes_on) = line.strip_suffix('\\').map_or((line, false), |part| (part.trim_end(), true));
        match all.last_mut().filter(|_| is_open) {
            Some((whole, _)) => {
                whole.push(' ');
                whole.push_str(part);
            }
            None => all.push((part.to_owned(), index + 1)),
        }
        is_open = goes_on;
    }
    all
}

/// `["a", "b c"]` or a shell's line.
fn started(text: &str, at: usize) -> Start {
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(words) => Start { command: Command::of_words(words), at },
        Err(_) => Start { command: Command::new(text), at },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, target: Option<&str>) -> String {
        read(text, target)
            .start(None, None)
            .map(|(start, _)| format!("{}:{}", start.at, start.command.line))
            .unwrap_or_default()
    }

    #[test]
    fn the_last_stage_says_what_starts() {
        let two = "FROM node AS build\nCMD [\"npm\", \"test\"]\nFROM nginx\nCOPY a b\n";
        assert_eq!(line(two, None), "");
        assert_eq!(line(two, Some("build")), "2:npm test");
        assert_eq!(line("FROM a AS base\nCMD x\nFROM base\nRUN y\n", None), "2:x");
        assert_eq!(line("FROM a AS base\nCMD x\nFROM base\nENTRYPOINT [\"y\"]\n", None), "4:y");
        assert_eq!(read("from postgres:16\n", None).base, Some(("postgres:16".to_owned(), 1)));
    }

    #[test]
    fn entry_point_and_command_are_one_line_unless_a_shell_has_it() {
        assert_eq!(line("FROM a\nENTRYPOINT [\"/s\"]\nCMD [\"--port\", \"8 0\"]\n", None), "2:/s --port '8 0'");
        assert_eq!(line("FROM a\nENTRYPOINT exec /s\nCMD [\"--port\"]\n", None), "2:exec /s");
        assert_eq!(line("FROM a\nENTRYPOINT [\"/s\"]\nCMD node x $Y\n", None), "2:/s /bin/sh -c 'node x $Y'");
        assert_eq!(line("FROM a\ncmd [\"a\", \\\n  # why\n  \"b\"]\n", None), "2:a b");
    }
}
