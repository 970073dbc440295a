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
        } else {
            Err(Failure::user("MS2001", format!("there is no stack file {}", file.display()))
                .help("name it with --file FILE"))
        };
    }
    let here = std::env::current_dir()
        .map_err(|error| Failure::environment("MS3002", format!("cannot see the current folder: {error}")))?;
    here.ancestors().map(|folder| folder.join("mainstay.toml")).find(|file| file.is_file()).ok_or_else(|| {
        Failure::user("MS2001", format!("no mainstay.toml in {} or a folder above it", here.display()))
            .help("name one with --file FILE")
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
    let text = std::fs::read_to_string(&file)
        .map_err(|error| Failure::user("MS2003", format!("cannot read {}: {error}", file.display())))?;
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
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::user("MS2003", format!("cannot read {}: {error}", file.display())))?;
    mainstay_stack::name_of(&text).ok_or_else(|| {
        Failure::user("MS2004", format!("{} does not say stack = \"NAME\"", file.display()))
            .help("`mainstay check` shows all its mistakes")
    })
}

/// The admin API of the stack that `global` names.
pub(crate) fn client(global: &Global) -> Result<Client, Failure> {
    Ok(Client::new(paths(global)?.api_socket()))
}
