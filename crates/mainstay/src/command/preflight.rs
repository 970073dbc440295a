//! What must be so before anything is started: programs, ports, folders. Nothing is changed by looking.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mainstay_controller::ports::{Ports, Wish};
use mainstay_controller::programs;

use crate::failure::Failure;
use crate::place::Place;

mod program_file;

/// Looks at everything, with nothing written. What the stack file names and is not there is told all at once; it ends
/// `up`, as a full disk or a port in use does.
pub(crate) fn run(place: &Place) -> Result<Doors, Failure> {
    if let Some(failure) = Failure::of_all(missing(place)) {
        return Err(failure);
    }
    space(place)?;
    ports(place)
}

/// What the stack needs and this machine lacks: programs, folders. `check` tells the same.
pub(crate) fn missing(place: &Place) -> Vec<Failure> {
    let stack = &place.parsed.stack;
    let project = project(&place.folder);
    let mut missing = Vec::new();
    missing.extend(required_programs(place).err());
    for (name, service) in &stack.services {
        let dir = place.folder.join(&service.dir);
        if !dir.is_dir() {
            let text = format!("service {name}: there is no folder {}", dir.display());
            missing.push(Failure::user("MS2010", text).help("`dir` is relative to the stack file's folder"));
            continue;
        }
        let path = service.env.get("PATH").map(String::as_str);
        let from = Origin { dir: &dir, project: &project, path };
        for command in [Some(&service.run), service.before.as_ref()].into_iter().flatten() {
            missing.extend(program_of(name.as_str(), command, &from).err());
        }
        // What runs once before may be what makes it.
        if service.before.is_none() {
            missing.extend(program_file::check(name.as_str(), &service.run, &dir).err());
        }
    }
    for (name, site) in &stack.sites {
        let dir = place.folder.join(&site.dir);
        if !dir.is_dir() {
            let text = format!("site {name}: there is no folder {}", dir.display());
            let help = "build the site first; `dir` is relative to the stack file's folder";
            missing.push(Failure::user("MS2011", text).help(help));
        }
    }
    if let Some(migrations) = stack.database.as_ref().and_then(|database| database.migrations.as_ref()) {
        let dir = place.folder.join(migrations);
        if !dir.is_dir() {
            let text = format!("there is no migrations folder {}", dir.display());
            let help = "`migrations` in [database] is relative to the stack file's folder";
            missing.push(Failure::user("MS2012", text).help(help));
        }
    }
    missing
}

/// What a new cluster takes: 40 MiB of catalogs and two segments of WAL of 16 MiB, and room for a third.
const NEW_MEMBER: u64 = 96 * 1024 * 1024;
/// The rest of a state folder before it holds anything of the user's: the program, logs, events.
const OWN: u64 = 32 * 1024 * 1024;

/// A disk that is full in the middle of a start is worse than one that was full before it.
fn space(place: &Place) -> Result<(), Failure> {
    let state = &place.paths.state;
    let cannot = |what: &Path, error: &dyn std::fmt::Display| {
        Failure::environment("MS3031", format!("cannot look at {}: {error}", what.display()))
    };
    // Before the first start there is none: its file system is that of the folder in which it will be made.
    let there = state.ancestors().find(|folder| folder.symlink_metadata().is_ok()).unwrap_or(state);
    let stat = rustix::fs::statvfs(there).map_err(|error| cannot(there, &error))?;
    let need = disk_need(&place.parsed.stack, state).map_err(|error| cannot(state, &error))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= need {
        return Ok(());
    }
    let (free, need) = (mainstay_types::Bytes(free), mainstay_types::Bytes(need));
    Err(Failure::environment("MS3034", format!("{free} are free in {}, this start needs {need}", state.display()))
        .help("make space there, or keep state elsewhere: --state DIR"))
}

/// Space that a start takes.
///
/// **Errors**: the program that runs cannot be looked at.
pub(crate) fn disk_need(stack: &mainstay_stack::Stack, state: &Path) -> std::io::Result<u64> {
    let program = std::env::current_exe()?.metadata()?.len();
    let wanted = stack.database.as_ref().map_or(0, |database| u64::from(database.standbys) + 1);
    let members = std::fs::read_dir(state.join("pg")).into_iter().flatten().flatten();
    let there = members.filter(|member| member.path().join("data/PG_VERSION").exists()).count();
    let new = wanted.saturating_sub(u64::try_from(there).unwrap_or(u64::MAX));
    Ok(OWN + program + new * NEW_MEMBER)
}

fn required_programs(place: &Place) -> Result<(), Failure> {
    let missing = programs::missing(&place.parsed.stack, &place.paths.state);
    let mut required: Vec<String> = Vec::new();
    for (program, help) in &missing {
        if programs::is_required(*program) {
            required.push(help.clone());
        }
    }
    if required.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = missing
        .keys()
        .filter(|program| programs::is_required(**program))
        .map(|p| format!("{p:?}").to_lowercase())
        .collect();
    Err(Failure::environment("MS3020", format!("the stack needs {}, which this machine lacks", names.join(" and ")))
        .help(required.join("; ")))
}

/// Where a service begins.
struct Origin<'a> {
    dir: &'a Path,
    /// What services see even in a closed home.
    project: &'a Path,
    /// The PATH that it is given, when the stack file says one.
    path: Option<&'a str>,
}

/// A service's program: with a slash relative to its folder, else from the PATH that it is given.
fn program_of(service: &str, command: &[String], from: &Origin<'_>) -> Result<(), Failure> {
    let Some(program) = executed(command) else { return Ok(()) };
    let dir = from.dir;
    let is_executable =
        |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    // What a template comes to is known when the stack runs.
    let is_known = program.contains('/') || from.path.is_none_or(|path| !path.contains("${"));
    let all: Vec<PathBuf> = if program.contains('/') {
        vec![dir.join(program)]
    } else {
        let path = from.path.map(Into::into).or_else(|| std::env::var_os("PATH")).unwrap_or_default();
        std::env::split_paths(&path).map(|folder| dir.join(folder).join(program)).collect()
    };
    let all: Vec<PathBuf> = all.into_iter().filter(|path| is_executable(path)).collect();
    if !is_known {
        return Ok(());
    }
    if let Some(first) = all.first() {
        return runnable(service, first, &all, from.project);
    }
    let path = dir.join(program);
    if program.contains('/') && path.is_file() {
        let text = format!("service {service}: {} is not executable", path.display());
        return Err(Failure::environment("MS3021", text).help(format!("`chmod +x {}`", path.display())));
    }
    let beside =
        [".venv/bin", "node_modules/.bin"].iter().find(|folder| is_executable(&dir.join(folder).join(program)));
    let (place, help) = match (program.contains('/'), beside) {
        (true, _) => (format!("in {}", dir.display()), maker(program, dir)),
        (false, Some(folder)) => ("in PATH".to_owned(), format!("it is in {folder}: name it as {folder}/{program}")),
        (false, None) => ("in PATH".to_owned(), maker(program, dir)),
    };
    Err(Failure::environment("MS3021", format!("service {service}: there is no program {program} {place}")).help(help))
}

/// Started as root, services run as users of their own, to whom root's home and its like are closed.
fn runnable(service: &str, first: &Path, all: &[PathBuf], project: &Path) -> Result<(), Failure> {
    let closed = |path: &PathBuf| mainstay_supervisor::closed_to_services(path, project);
    let is_one_open = !rustix::process::geteuid().is_root() || all.iter().any(|path| closed(path).is_none());
    let Some(folder) = closed(&first.to_owned()).filter(|_| !is_one_open) else { return Ok(()) };
    let real = first.canonicalize().ok().filter(|real| real != first);
    let lies = real.map_or_else(String::new, |real| format!(" (it is {})", real.display()));
    let text = format!(
        "service {service}: {}{lies} lies below {}, which is closed to the user that the service runs as",
        first.display(),
        folder.display()
    );
    let help = "name a program that every user may run, such as one below /usr, or run mainstay as the user whose \
                folder that is";
    Err(Failure::environment("MS3021", text).help(help))
}

/// The program that a command comes to: its first word, or what a shell is told to become at once.
fn executed(command: &[String]) -> Option<&str> {
    let first = command.first()?.as_str();
    let [_, flag, script] = command else { return Some(first) };
    let is_shell = ["sh", "bash", "/bin/sh", "/bin/bash"].contains(&first) && flag == "-c";
    let become_ = script.strip_prefix("exec ").and_then(|rest| rest.split_whitespace().next());
    // Only what a shell would take as it is, and no option of `exec`.
    let is_plain = |word: &&str| {
        let has_letter = word.starts_with(|c: char| c.is_alphanumeric() || "./_".contains(c));
        has_letter && word.chars().all(|c| c.is_alphanumeric() || "/._-+".contains(c))
    };
    Some(become_.filter(|_| is_shell).filter(is_plain).unwrap_or(first))
}

/// What makes a program that is not there, as far as its path tells.
fn maker(program: &str, dir: &Path) -> String {
    const MAKERS: [(&str, &str); 3] = [
        ("target/release/", "cargo build --release"),
        ("target/debug/", "cargo build"),
        ("node_modules/.bin/", "npm ci"),
    ];
    if let Some((before, _)) = program.split_once(".venv/bin/") {
        return environment(&dir.join(before));
    }
    let made = MAKERS.iter().find_map(|(mark, how)| Some((program.split_once(mark)?.0, how)));
    match made {
        Some((before, how)) => {
            let folder = dir.join(before);
            let folder = folder.canonicalize().unwrap_or(folder);
            format!("it is not built yet: `cd {} && {how}`", folder.display())
        }
        None => "build or install it first; `run` with a slash is relative to the service's `dir`".to_owned(),
    }
}

/// What makes a Python environment in this folder.
fn environment(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    // The machine's: another in PATH may be one that services cannot reach.
    let make = format!("it is not built yet: `cd {} && /usr/bin/python3 -m venv .venv", folder.display());
    if folder.join("requirements.txt").is_file() {
        format!("{make} && .venv/bin/pip install -r requirements.txt`")
    } else if ["pyproject.toml", "setup.py"].iter().any(|name| folder.join(name).is_file()) {
        format!("{make} && .venv/bin/pip install .`")
    } else {
        format!("{make}` makes the environment; `.venv/bin/pip install` with the names of its packages fills it")
    }
}

/// Ports of all doors, chosen and not yet written down.
pub(crate) struct Doors {
    ports: Ports,
    /// Those that the file declares.
    declared: Vec<String>,
}

impl Doors {
    /// Writes the ports down; returns which of them the file declares.
    pub(crate) fn keep(self) -> Result<Vec<String>, Failure> {
        self.ports.keep().map_err(|error| ports_file(&error))?;
        Ok(self.declared)
    }
}

/// Chooses the ports of all doors.
fn ports(place: &Place) -> Result<Doors, Failure> {
    let stack = &place.parsed.stack;
    let mut ports = Ports::begin(&place.paths).map_err(|error| ports_file(&error))?;
    let mut doors = vec![
        ("edge-https", "edge.https_port", stack.edge.https_port),
        ("edge-http", "edge.http_port", stack.edge.http_port),
        ("console", "console.port", stack.console.port),
    ];
    if let Some(database) = &stack.database {
        doors.push(("router-write", "database.write_port", database.write_port));
        doors.push(("router-read", "database.read_port", database.read_port));
    }
    let is_door = |purpose: &str| doors.iter().any(|(door, _, _)| *door == purpose);
    ports.forget_taken(is_door).map_err(|error| ports_file(&error))?;
    let mut declared = Vec::new();
    for (purpose, path, port) in doors {
        let is_declared = place.parsed.origins.of(path) != mainstay_stack::Origin::Default;
        let wish = if is_declared { Wish::Declared(port) } else { Wish::Default(port) };
        if is_declared {
            declared.push(purpose.to_owned());
        }
        ports.choose(purpose, wish, true).map_err(|error| {
            let place_text = if is_declared { format!(" ({}: {path})", place.file.display()) } else { String::new() };
            let mut text = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                text = format!("{text}: {source}");
            }
            Failure::environment("MS3023", format!("{text}{place_text}"))
                .help(format!("stop what listens there, or set another {path} in the stack file"))
        })?;
    }
    Ok(Doors { ports, declared })
}

/// `ports.json` cannot be read or written.
fn ports_file(error: &mainstay_controller::ports::Error) -> Failure {
    let why = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    Failure::environment("MS3022", format!("{error}{why}"))
        .help("a damaged file can be deleted while the stack is down: ports are then chosen anew")
}

/// The folder that services may see even in a closed home: the checkout around the stack file, or its folder.
pub(crate) fn project(folder: &Path) -> PathBuf {
    folder.ancestors().find(|candidate| candidate.join(".git").exists()).unwrap_or(folder).to_owned()
}
