//! Which stack a command is about: its file, its environment, its state.

use std::path::{Path, PathBuf};

use mainstay_client::Client;
use mainstay_controller::paths::{self, Paths};
use mainstay_stack::{Parsed, render};
use mainstay_types::{EnvironmentName, StackName};

use crate::Global;
use crate::failure::Failure;

/// A stack file that was read and understood.
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    /// What runs: the stack file's folder, or that of the release that was deployed.
    pub(crate) folder: PathBuf,
    /// The stack file's folder.
    pub(crate) origin: PathBuf,
    pub(crate) text: String,
    pub(crate) parsed: Parsed,
    pub(crate) paths: Paths,
}

/// The stack file that `global` names: `--file FILE`, a folder, or `mainstay.toml` here or in a folder above.
pub(crate) fn stack_file(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(given) = &global.file {
        let file = if given.is_dir() { given.join("mainstay.toml") } else { given.clone() };
        return if file.is_file() {
            Ok(file)
        } else if let Some(kind) = no_file(&file) {
            Err(not_a_file(&file, kind))
        } else {
            Err(Failure::user("MS2001", format!("there is no stack file {}", file.display()))
                .help("name it with --file FILE"))
        };
    }
    let here = std::env::current_dir()
        .map_err(|error| Failure::environment("MS3002", format!("cannot see the current folder: {error}")))?;
    let all = || here.ancestors().map(|folder| folder.join("mainstay.toml"));
    if let Some(file) = all().find(|file| file.is_file()) {
        return Ok(file);
    }
    match all().find_map(|file| no_file(&file).map(|kind| (file, kind))) {
        Some((file, kind)) => Err(not_a_file(&file, kind)),
        None => Err(Failure::user("MS2001", format!("no mainstay.toml in {} or a folder above it", here.display()))
            .help("name one with --file FILE")),
    }
}

/// What is there instead of a file; `None`: a file, or nothing.
fn no_file(path: &Path) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt;
    let kind = path.metadata().ok()?.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a folder"),
        // It would be read once, and `deploy` and `up` after a crash read it again.
        () if kind.is_fifo() => Some("a pipe"),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a device"),
    }
}

fn not_a_file(file: &Path, kind: &str) -> Failure {
    Failure::user("MS2003", format!("cannot read {}: it is {kind}, not a file", file.display()))
        .help("a stack file is read again and again: write it to a file, and name that with --file FILE")
}

/// The text of a stack file.
fn text_of(file: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(file).map_err(|error| {
        Failure::user("MS2003", format!("cannot read {}: {error}", file.display()))
            .help("the stack file must be readable for this user; another one: --file FILE")
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let bytes = error.as_bytes();
        let before = bytes.get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&before[begin..]).chars().count() + 1;
        let from = if matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) { "UTF-16" } else { "ISO-8859-1" };
        let name = file.display();
        Failure::user("MS2003", format!("cannot read {name}: it is not UTF-8 at {name}:{line}:{column}"))
            .help(format!("save it as UTF-8; if it is {from}: `iconv -f {from} -t UTF-8 {name} > new.toml`"))
    })
}

pub(crate) fn environment(global: &Global) -> Result<EnvironmentName, Failure> {
    match &global.env {
        None => Ok(EnvironmentName::default()),
        Some(name) => EnvironmentName::new(name.as_str())
            .map_err(|error| Failure::user("MS2002", error.to_string()).help("as in --env staging")),
    }
}

pub(crate) fn state_base(global: &Global) -> Result<PathBuf, Failure> {
    match &global.state {
        Some(base) => Ok(base.clone()),
        None => paths::default_state_base().map_err(|error| Failure::environment("MS3003", error.to_string())),
    }
}

/// Reads and checks the stack file. Warnings are printed, errors end the command with all of them.
pub(crate) fn read(global: &Global) -> Result<Place, Failure> {
    let file = stack_file(global)?;
    let environment = environment(global)?;
    let text = text_of(&file)?;
    let name = file.display().to_string();
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let parsed = mainstay_stack::parse(&text, &name, &environment).map_err(|diagnostics| {
        if global.json {
            println!("{}", serde_json::json!({"file": name, "diagnostics": diagnostics}));
        } else {
            eprint!("{}", render(&diagnostics, &text, &name, colour));
        }
        Failure::user("MS2000", String::new())
    })?;
    if !parsed.warnings.is_empty() && !global.json {
        eprint!("{}", render(&parsed.warnings, &text, &name, colour));
    }
    let folder = absolute_folder(&file)?;
    let paths = Paths::new(&state_base(global)?, &parsed.stack.name, &parsed.stack.environment)
        .map_err(|error| Failure::environment("MS3003", error.to_string()))?;
    Ok(Place { file, origin: folder.clone(), folder, text, parsed, paths })
}

/// The stack that runs, or ran last: its file as `up` or `deploy` took it, whatever the file says by now.
pub(crate) fn taken(global: &Global, paths: &Paths) -> Result<Parsed, Failure> {
    let file = paths.stack_file();
    let name = file.display().to_string();
    let text = std::fs::read_to_string(&file).map_err(|error| {
        Failure::failed("MS1001", format!("no run left its stack file: cannot read {name}: {error}"))
            .help("`mainstay up` starts it; `--env` and `--state` must be those of its `up`")
    })?;
    // Another release of this program may have other rules.
    mainstay_stack::parse(&text, &name, &environment(global)?).map_err(|diagnostics| {
        let text = render(&diagnostics, &text, &name, false);
        Failure::environment("MS3042", format!("the stack runs by a file that this program does not take:\n{text}"))
            .help("with the program by which it runs, or `mainstay up` with this one")
    })
}

fn absolute_folder(file: &Path) -> Result<PathBuf, Failure> {
    let full = std::fs::canonicalize(file)
        .map_err(|error| Failure::user("MS2003", format!("cannot find {}: {error}", file.display())))?;
    full.parent().map(Path::to_owned).ok_or_else(|| Failure::bug("a file without a folder"))
}

/// The paths of the stack a command is about, when it is ours. A stack of somebody else's is not "not up": it is none
/// of this user's business.
pub(crate) fn paths(global: &Global) -> Result<Paths, Failure> {
    let paths = paths_of_anybody(global)?;
    paths.refuse_foreign().map_err(|error| folder_failure(&error))?;
    Ok(paths)
}

/// Why a folder of a stack cannot be had.
pub(crate) fn folder_failure(error: &paths::Error) -> Failure {
    use mainstay_controller::paths::Error;
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        text = format!("{text}: {source}");
    }
    match error {
        Error::WrongOwner { owner: 0, .. } => Failure::environment("MS3030", text)
            .help("it is a stack of root: the same command with `sudo`; or a stack of your own: --state DIR"),
        Error::WrongOwner { owner, .. } => Failure::environment("MS3030", text)
            .help(format!("the same command as that user: `sudo -u '#{owner}'`; or a stack of your own: --state DIR")),
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Failure::environment("MS3031", text)
                .help("as the user whose stack it is, or with a state folder of your own: --state DIR")
        }
        Error::Io { .. } | Error::NoHome => Failure::environment("MS3031", text)
            .help("the state folder must be writable and have space; another one: --state DIR"),
    }
}

/// The paths of the stack a command is about, although its file may be broken by now: only its name is read.
pub(crate) fn paths_of_anybody(global: &Global) -> Result<Paths, Failure> {
    let environment = environment(global)?;
    let base = state_base(global)?;
    let name = match stack_file(global) {
        Ok(file) => name_of(&file)?,
        Err(failure) => only_stack(&base).ok_or(failure)?,
    };
    Paths::new(&base, &name, &environment).map_err(|error| Failure::environment("MS3003", error.to_string()))
}

/// The one stack that has state here, when there is just one: then a command needs no file.
fn only_stack(base: &Path) -> Option<StackName> {
    let mut names = std::fs::read_dir(base)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| StackName::new(name).ok()));
    let first = names.next()?;
    names.next().is_none().then_some(first)
}

fn name_of(file: &Path) -> Result<StackName, Failure> {
    let text = text_of(file)?;
    mainstay_stack::name_of(&text).ok_or_else(|| {
        Failure::user("MS2004", format!("{} does not say stack = \"NAME\"", file.display()))
            .help("`mainstay check` shows all its mistakes")
    })
}

/// The admin API of the stack that `global` names.
pub(crate) fn client(global: &Global) -> Result<Client, Failure> {
    Ok(Client::new(paths(global)?.api_socket()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(file: &Path) -> Global {
        Global { file: Some(file.to_owned()), env: None, state: None, json: false }
    }

    #[test]
    fn a_stack_file_that_is_no_text_is_told_with_the_place() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("mainstay.toml");
        std::fs::write(&file, b"stack = \"shop\"\n# \xc3\xa9 caf\xe9\n").expect("written");
        let failure = text_of(&file).expect_err("no text");
        assert_eq!(failure.name, "MS2003");
        assert!(failure.text.ends_with("mainstay.toml:2:8"), "{}", failure.text);
        assert!(failure.help.as_deref().is_some_and(|help| help.contains("iconv -f ISO-8859-1")), "{failure:?}");
        std::fs::write(&file, b"\xff\xfes\0").expect("written");
        let help = text_of(&file).expect_err("no text").help.expect("a hint");
        assert!(help.contains("iconv -f UTF-16"), "{help}");
        assert!(name_of(&file).is_err(), "commands that only read the name say the same");
    }

    #[test]
    fn a_pipe_or_a_folder_in_place_of_a_stack_file_is_told_as_such() {
        let folder = tempfile::tempdir().expect("folder");
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).expect("made");
        let failure = stack_file(&named(&pipe)).expect_err("no file");
        assert!(failure.text.ends_with("it is a pipe, not a file"), "{}", failure.text);
        std::fs::create_dir(folder.path().join("mainstay.toml")).expect("made");
        let failure = stack_file(&named(folder.path())).expect_err("no file");
        assert!(failure.text.ends_with("it is a folder, not a file"), "{}", failure.text);
        assert_eq!(stack_file(&named(&folder.path().join("none"))).expect_err("nothing").name, "MS2001");
    }
}
