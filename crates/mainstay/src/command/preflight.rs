//! What must be so before anything is started: programs, ports, folders. Nothing is changed by looking.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mainstay_controller::ports::{Ports, Wish};
use mainstay_controller::programs;

use crate::failure::Failure;
use crate::place::Place;

/// Looks at everything; the first thing that is missing ends `up` with nothing started.
pub(crate) fn run(place: &Place) -> Result<Vec<String>, Failure> {
    let stack = &place.parsed.stack;
    required_programs(place)?;
    for (name, service) in &stack.services {
        let dir = place.folder.join(&service.dir);
        if !dir.is_dir() {
            return Err(Failure::user("MS2010", format!("service {name}: there is no folder {}", dir.display()))
                .help("`dir` is relative to the stack file's folder"));
        }
        for command in [Some(&service.run), service.before.as_ref()].into_iter().flatten() {
            program_of(name.as_str(), command, &dir)?;
        }
    }
    for (name, site) in &stack.sites {
        let dir = place.folder.join(&site.dir);
        if !dir.is_dir() {
            return Err(Failure::user("MS2011", format!("site {name}: there is no folder {}", dir.display()))
                .help("build the site first; `dir` is relative to the stack file's folder"));
        }
    }
    if let Some(migrations) = stack.database.as_ref().and_then(|database| database.migrations.as_ref()) {
        let dir = place.folder.join(migrations);
        if !dir.is_dir() {
            return Err(Failure::user("MS2012", format!("there is no migrations folder {}", dir.display()))
                .help("`migrations` in [database] is relative to the stack file's folder"));
        }
    }
    space(place)?;
    ports(place)
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
    let stat = rustix::fs::statvfs(state).map_err(|error| cannot(state, &error))?;
    let me = std::env::current_exe().map_err(|error| cannot(state, &error))?;
    let program = me.metadata().map_err(|error| cannot(&me, &error))?.len();
    let wanted = place.parsed.stack.database.as_ref().map_or(0, |database| u64::from(database.standbys) + 1);
    let members = std::fs::read_dir(state.join("pg")).into_iter().flatten().flatten();
    let there = members.filter(|member| member.path().join("data/PG_VERSION").exists()).count();
    let new = wanted.saturating_sub(u64::try_from(there).unwrap_or(u64::MAX));
    let need = OWN + program + new * NEW_MEMBER;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free >= need {
        return Ok(());
    }
    let (free, need) = (mainstay_types::Bytes(free), mainstay_types::Bytes(need));
    Err(Failure::environment("MS3034", format!("{free} are free in {}, this start needs {need}", state.display()))
        .help("make space there, or keep state elsewhere: --state DIR"))
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

/// A service's program: with a slash relative to its folder, else from PATH.
fn program_of(service: &str, command: &[String], dir: &Path) -> Result<(), Failure> {
    let Some(program) = command.first() else { return Ok(()) };
    let is_executable =
        |path: &Path| path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    let found = if program.contains('/') {
        is_executable(&dir.join(program))
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| is_executable(&folder.join(program)))
    };
    if found {
        return Ok(());
    }
    let place = if program.contains('/') { format!("in {}", dir.display()) } else { "in PATH".to_owned() };
    Err(Failure::environment("MS3021", format!("service {service}: there is no program {program} {place}"))
        .help("build or install it first; `run` with a slash is relative to the service's `dir`"))
}

/// Chooses and keeps the ports of all doors; says which of them the file declares.
fn ports(place: &Place) -> Result<Vec<String>, Failure> {
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
    Ok(declared)
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
