//! Commands that are printed for people to copy: with the program as it was called, and with `--file`, `--env` and
//! `--state` as they were given. Without them a copied command is about another stack, or about none.
//!
//! Texts name commands as `` `mainstay status` ``, wherever they come from; what prints them sends them through here.

use std::path::Path;
use std::sync::OnceLock;

use crate::{Global, place};

/// How this program was called; set once, before anything is printed.
static CALL: OnceLock<Call> = OnceLock::new();

/// Commands that are about no stack: options of one would only be in the way.
const ABOUT_NO_STACK: [&str; 5] = ["init", "explain", "schema", "completions", "manual"];

/// The words before a command's name.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    program: String,
    /// Options that choose the stack, with their values.
    options: Vec<(&'static str, String)>,
}

impl Call {
    fn new(program: &str, global: &Global) -> Self {
        let mut options = Vec::new();
        let mut option = |name: &'static str, value: &str| options.push((name, quoted(value)));
        if let Some(file) = &global.file {
            option("--file", &file.display().to_string());
        }
        if let Some(environment) = &global.env {
            option("--env", environment);
        }
        if let Some(state) = &global.state {
            option("--state", &state.display().to_string());
        }
        Self { program: quoted(program), options }
    }

    fn command(&self, rest: &str) -> String {
        let verb = rest.split(' ').next().unwrap_or_default();
        // A text that went through here before has them.
        let has_them = format!(" {rest} ").starts_with(&format!("{} ", self.words(|_| true)));
        if ABOUT_NO_STACK.contains(&verb) || has_them {
            return format!("{} {rest}", self.program);
        }
        // One that the command names itself would stand there twice, which is refused.
        let own = rest.split(" -- ").next().unwrap_or(rest);
        let options = self.words(|name| !own.split(' ').any(|word| word == name));
        format!("{}{options} {rest}", self.program)
    }

    /// The options with a space before each; empty when none was given.
    fn words(&self, is_wanted: impl Fn(&str) -> bool) -> String {
        let wanted = self.options.iter().filter(|(name, _)| is_wanted(name));
        wanted.map(|(name, value)| format!(" {name} {value}")).collect()
    }

    /// Options stand before the command's name: after it they could belong to a command that is run.
    fn text(&self, text: &str) -> String {
        let mut parts = text.split("`mainstay ");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            match part.split_once('`') {
                Some((rest, after)) => out.push_str(&format!("`{}`{after}", self.command(rest))),
                // No command: the text has an odd number of marks.
                None => out.push_str(&format!("`mainstay {part}")),
            }
        }
        out
    }
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@,%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    if word.contains(char::is_control) {
        // It is printed: as it stands it would act on the terminal.
        let shown = |letter: char| match letter {
            '\'' | '\\' => format!("\\{letter}"),
            letter if letter.is_control() => format!("\\u{:04x}", u32::from(letter)),
            letter => letter.to_string(),
        };
        return format!("$'{}'", word.chars().map(shown).collect::<String>());
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Takes note of how this program was called. `about`: the file or folder, when it was no `--file` that named it.
pub(crate) fn remember(global: &Global, about: Option<&Path>) {
    let program =
        std::env::args_os().next().map_or_else(|| "mainstay".into(), |name| name.to_string_lossy().into_owned());
    let file = about.map(Path::to_owned).or_else(|| global.file.clone());
    // Set once: a second call in a process would be about the same stack.
    CALL.set(Call::new(&program, &Global { file, ..global.clone() })).ok();
}

fn call() -> &'static Call {
    CALL.get_or_init(|| Call { program: "mainstay".to_owned(), options: Vec::new() })
}

/// A command about this stack: `status` becomes `mainstay --state /srv/s status`.
pub(crate) fn command(rest: &str) -> String {
    call().command(rest)
}

/// What stands before the name of a command about this stack.
pub(crate) fn prefix() -> String {
    let call = call();
    format!("{}{}", call.program, call.words(|_| true))
}

/// The commands that a text names between backticks, as they are to be typed.
pub(crate) fn text(text: &str) -> String {
    call().text(text)
}

/// The same for a line that is one command, such as `sudo mainstay up`.
pub(crate) fn line(line: &str) -> String {
    if let Some(rest) = line.strip_prefix("mainstay ") {
        return command(rest);
    }
    match line.split_once(" mainstay ") {
        Some((before, rest)) => format!("{before} {}", command(rest)),
        None => line.to_owned(),
    }
}

/// A command about this stack for another user, from any folder: the state folder is that of this one.
pub(crate) fn for_another_user(global: &Global, rest: &str) -> String {
    let program = std::env::current_exe().map_or_else(|_| "mainstay".to_owned(), |path| path.display().to_string());
    let file = place::stack_file(global).ok().and_then(|file| std::fs::canonicalize(file).ok());
    let state = place::state_base(global).ok().map(|base| std::path::absolute(&base).unwrap_or(base));
    Call::new(&program, &Global { file, state, ..global.clone() }).command(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(file: Option<&str>, env: Option<&str>, state: Option<&str>) -> Global {
        Global { file: file.map(Into::into), env: env.map(Into::into), state: state.map(Into::into), json: false }
    }

    #[test]
    fn a_printed_command_has_the_options_that_chose_the_stack_and_works_when_it_is_copied() {
        let call = Call::new("./mainstay", &global(Some("my shop/mainstay.toml"), Some("staging"), Some("/srv/s")));
        let options = "--file 'my shop/mainstay.toml' --env staging --state /srv/s";
        assert_eq!(call.command("drill --all"), format!("./mainstay {options} drill --all"));
        assert_eq!(
            call.text("`mainstay run web -- ls` or `mainstay init`, `--wait`"),
            format!("`./mainstay {options} run web -- ls` or `./mainstay init`, `--wait`")
        );
        assert_eq!(
            call.command("up --state DIR"),
            "./mainstay --file 'my shop/mainstay.toml' --env staging up --state DIR"
        );
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted("a\u{1b}[31m'"), "$'a\\u001b[31m\\''", "nothing acts on a terminal");
    }

    #[test]
    fn a_command_of_a_plain_call_is_printed_as_it_is_written() {
        let call = Call::new("mainstay", &global(None, None, None));
        let text = "`mainstay status` shows it; `mainstay down` stops it; mainstay goes on";
        assert_eq!(call.text(text), text);
        let other = Call::new("mainstay", &global(None, None, Some("/srv/s")));
        let once = other.text(text);
        assert!(once.contains("`mainstay --state /srv/s down`"), "{once}");
        assert_eq!(other.text(&once), once, "what was completed is not completed again");
        let odd = "an odd `mainstay mark";
        assert_eq!(call.text(odd), odd);
    }

    /// From a call's name to its closing bracket.
    fn whole_call(text: &str) -> &str {
        let mut open = 0;
        let end = text.find(|c| {
            open += i32::from(c == '(') - i32::from(c == ')');
            c == ')' && open == 0
        });
        end.map_or(text, |end| &text[..=end])
    }

    /// Part of a text: neither of a comment, nor of one in a file that is written.
    fn is_literal(text: &str, at: usize) -> bool {
        let line = text[..at].rsplit('\n').next().unwrap_or_default().trim_start();
        !["//", "# ", "\"# ", "let text = \"# "].iter().any(|comment| line.starts_with(comment))
    }

    /// Whether one of the calls around that place completes commands.
    fn is_completed(text: &str, at: usize) -> bool {
        const COMPLETE: [&str; 9] = [
            ".help",
            "Failure::user",
            "Failure::failed",
            "Failure::refused",
            "Failure::environment",
            "Failure::new",
            "eprintln!",
            "again::text",
            "again::line",
        ];
        // An item before this one is not around it.
        let item = text[..at].rfind("\n}\n").unwrap_or_default();
        let (mut open, mut from) = (0, at);
        while let Some(bracket) = text[item..from].rfind(['(', ')']).map(|bracket| item + bracket) {
            open += if text[bracket..].starts_with(')') { 1 } else { -1 };
            if open < 0 {
                open = 0;
                let before = &text[..bracket];
                if COMPLETE.iter().any(|call| before.ends_with(call)) {
                    return true;
                }
            }
            from = bracket;
        }
        false
    }

    /// The name that a statement gives to its text.
    fn name_of(text: &str, at: usize) -> Option<&str> {
        let (_, name) = ["let ", "const "]
            .iter()
            .filter_map(|word| text[..at].rfind(word).map(|start| (start, &text[start + word.len()..at])))
            .max_by_key(|(start, _)| *start)?;
        let end = name.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')?;
        // Of this statement, not of one before it.
        (!name.contains(";\n")).then_some(&name[..end])
    }

    fn is_name_completed(text: &str, name: &str) -> bool {
        let is_of_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        text.match_indices(name).any(|(at, _)| {
            let is_whole = !text[..at].ends_with(is_of_word) && !text[at + name.len()..].starts_with(is_of_word);
            is_whole && is_completed(text, at)
        })
    }

    #[test]
    fn a_command_in_a_text_that_nobody_completes_is_seen() {
        for (source, is_fine) in [
            ("fn a() -> String { format!(\"`mainstay x`\") }", false),
            ("fn a() { lines.push(row(\"`mainstay x`\")); }", false),
            ("fn a() { let text = \"`mainstay x`\";\nprintln!(\"{text}\") }", false),
            ("fn a() { again::text(&format!(\"`mainstay x`\")) }", true),
            ("fn a() { Failure::user(\"MS1\", b()).help(if c() { \"`mainstay x`\" } else { \"\" }) }", true),
            ("fn a() { let text = \"`mainstay x`\";\nprintln!(\"{}\", again::text(text)) }", true),
            ("/// See `mainstay x`\nfn a() {}", true),
        ] {
            let at = source.find("`mainstay ").expect("a command");
            let is_bound = || name_of(source, at).is_some_and(|name| is_name_completed(source, name));
            let found = !is_literal(source, at) || is_completed(source, at) || is_bound();
            assert_eq!(found, is_fine, "{source}");
        }
    }

    /// Texts for people of `eprintln!` and of failures go through here by themselves; those on stdout must ask for it.
    #[test]
    fn no_command_is_printed_around_the_one_place_that_completes_it() {
        fn look(folder: &Path, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).expect("sources").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    look(&path, found);
                    continue;
                }
                let text = std::fs::read_to_string(&path).expect("a source");
                let text = text.split("#[cfg(test)]").next().unwrap_or_default();
                let calls = ["println!(", "say("].iter().flat_map(|call| text.match_indices(call));
                let on_stdout = calls.filter(|(at, _)| !text[..*at].ends_with('e'));
                for (at, _) in on_stdout {
                    let call = whole_call(&text[at..]);
                    let is_named = ["`mainstay ", ": mainstay ", "  mainstay "].iter().any(|name| call.contains(name));
                    if is_named && !call.contains("again::") {
                        found.push(format!("{}: {call}", path.display()));
                    }
                }
                for (at, _) in text.match_indices("`mainstay ").filter(|(at, _)| is_literal(text, *at)) {
                    let is_bound = || name_of(text, at).is_some_and(|name| is_name_completed(text, name));
                    if !is_completed(text, at) && !is_bound() {
                        let rest = text[at..].lines().next().unwrap_or_default();
                        found.push(format!("{}: {rest}", path.display()));
                    }
                }
            }
        }
        let mut found = Vec::new();
        look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/command"), &mut found);
        assert!(found.is_empty(), "printed as they stand: {found:#?}");
    }
}
