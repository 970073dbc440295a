//! Hidden commands: the processes that mainstay starts of itself.

use std::path::PathBuf;

use clap::Args;
use mainstay_controller::paths::Paths;

use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// State folder of the stack and environment
    #[arg(long)]
    state: PathBuf,
    /// Folder of its sockets
    #[arg(long)]
    runtime: PathBuf,
}

impl Options {
    fn paths(&self) -> Paths {
        Paths { state: self.state.clone(), runtime: self.runtime.clone() }
    }
}

/// The process that thaws what a drill froze, whatever becomes of the drill.
#[derive(Args)]
pub(crate) struct ThawLater {
    /// Milliseconds after which it thaws although the drill still holds on
    #[arg(long)]
    within_ms: u64,
}

pub(crate) fn thaw_later(options: &ThawLater) -> Result<u8, Failure> {
    let within = std::time::Duration::from_millis(options.within_ms);
    println!("{}", mainstay_drill::dead_man(std::io::stdin(), within));
    Ok(mainstay_types::exit_code::DONE)
}

fn failed(what: &str, error: &dyn std::error::Error) -> Failure {
    let text = format!("{what}: {}", mainstay_types::full_text(error));
    Failure::environment("MS3010", text)
}

pub(crate) fn keep(options: &Options) -> Result<u8, Failure> {
    let paths = options.paths();
    let options = mainstay_supervisor::keep::Options {
        state: paths.state.clone(),
        runtime: paths.runtime.clone(),
        control: Some(mainstay_controller::control_spec(&paths)),
        log_bound: mainstay_supervisor::logs::BOUND,
    };
    match mainstay_supervisor::keep::run(options) {
        Ok(()) => Ok(mainstay_types::exit_code::DONE),
        Err(error) => Err(Failure { code: error.exit_code(), ..failed("keep", &error) }),
    }
}

pub(crate) fn control(options: &Options) -> Result<u8, Failure> {
    mainstay_controller::run(&options.paths()).map_err(|error| failed("control plane", error.as_ref()))
}

pub(super) fn edge(state: PathBuf, runtime: PathBuf) -> Result<u8, Failure> {
    let options = mainstay_edge::Options {
        runtime,
        state,
        listeners: mainstay_supervisor::inherited::tcp_listeners().map_err(|error| failed("edge", &error))?,
    };
    mainstay_edge::run(options).map_err(|error| failed("edge", &error))?;
    Ok(mainstay_types::exit_code::DONE)
}

pub(crate) fn router(options: &Options) -> Result<u8, Failure> {
    let options = mainstay_router::Options {
        runtime: options.runtime.clone(),
        state: options.state.clone(),
        listeners: mainstay_router::Listeners::inherited().map_err(|error| failed("router", &error))?,
    };
    mainstay_router::run(options).map_err(|error| failed("router", &error))?;
    Ok(mainstay_types::exit_code::DONE)
}
