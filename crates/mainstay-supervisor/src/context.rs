//! A command of a person in the context of a service: its user, folder, environment and private view, and the
//! terminal of the person. It takes the place of the process that asks, so that signals, terminal and exit status
//! are the command's own.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use mainstay_types::{ChildName, ChildRole, Nonce, Pid, Secret};

use crate::keep::children::{Refused, c_string, explain, places, resolve};
use crate::protocol::{Limits, SpawnSpec, User};
use crate::sandbox::is_elf;
use crate::sys::{Replacement, replace};

/// What is to be run, and as whom.
#[derive(Debug)]
pub struct Command {
    /// Of the service or instance, for messages.
    pub name: ChildName,
    /// Program (looked up in `PATH` of `env`, or a path, relative to `dir`) and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: std::collections::BTreeMap<String, Secret>,
    /// Working directory.
    pub dir: PathBuf,
    /// Folder that the user sees even in a closed home.
    pub project: PathBuf,
    /// Home of the service, which the user sees as well; `None`: not told.
    pub home: Option<PathBuf>,
    /// User to become, when this process is root's.
    pub user: Option<User>,
    /// Join the control groups of this process.
    pub beside: Option<Pid>,
}

/// Runs the command in the place of this process. Returns only when that failed: why, for people.
pub fn take_place(command: Command) -> String {
    match prepare_and_replace(command) {
        Ok(never) => match never {},
        Err(refused) => refused.reason,
    }
}

fn prepare_and_replace(command: Command) -> Result<std::convert::Infallible, Refused> {
    let is_root = rustix::process::geteuid().is_root();
    let groups = command.beside.map(crate::cgroup::doors_of).unwrap_or_default();
    let spec = SpawnSpec {
        name: command.name,
        role: ChildRole::Task,
        // It is nobody's start: keep knows nothing of it.
        nonce: Nonce::from_bytes([0; 16]),
        argv: command.argv,
        env: command.env,
        dir: command.dir,
        user: command.user.filter(|_| is_root),
        log: PathBuf::new(),
        listeners: Vec::new(),
        limits: Limits::default(),
        restart: false,
        project: Some(command.project),
        shown: command.home.into_iter().collect(),
    };
    let view = spec.user.as_ref().map(|user| crate::sandbox::view(places(&spec), user));
    let view = view.transpose().map_err(Refused::environment)?.flatten();
    let program = resolve(&spec, spec.user.as_ref(), view.as_ref())?;
    let c_program = c_string(program.as_os_str().as_bytes(), "program")?;
    let hidden = spec.user.as_ref().filter(|user| crate::sandbox::needs_open_file(&program, user, view.as_ref()));
    let program_file = hidden.and_then(|_| crate::sys::open_program(&c_program).ok()).filter(is_elf);
    let failed = replace(Replacement {
        program: c_program,
        program_file: program_file.as_ref().map(AsFd::as_fd),
        argv: spec.argv.iter().map(|text| c_string(text.as_bytes(), "argument")).collect::<Result<_, _>>()?,
        env: spec
            .env
            .iter()
            .map(|(name, value)| c_string(format!("{name}={}", value.expose()).as_bytes(), &format!("variable {name}")))
            .collect::<Result<_, _>>()?,
        dir: c_string(spec.dir.as_os_str().as_bytes(), "folder")?,
        groups: groups.iter().map(AsFd::as_fd).collect(),
        view,
        user: spec.user.as_ref().map(|user| (user.uid, user.gid)),
    });
    Err(explain(&spec, &program, &failed))
}
