//! The users application: the service box of document 004 on `mainstay-kit`.
//!
//! It reads its surroundings from the environment, opens two ports, and leaves in good order at
//! SIGTERM. It never migrates its own database: mainstay does, before a release starts.

mod config;
mod import;
mod model;
mod routes;
mod seed;
mod state;
mod store;

use std::process::ExitCode;

use mainstay_kit::drain::Drain;
use mainstay_kit::serve::{Ports, serve};
use mainstay_kit::telemetry::{Level, log};

use crate::config::Config;
use crate::state::AppState;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(Level::Error, "ServiceFailed", &[("cause", &format!("{error:#}"))]);
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run() -> anyhow::Result<()> {
    let config = Config::from_env(|name| std::env::var(name).ok())?;
    let drain = Drain::new();
    drain.on_signals()?;
    let state = AppState::build(&config, drain.clone()).await?;
    let (main, management) = routes::routers(state.clone(), &config);
    state.spawn_housekeeping();
    let ports = Ports { main: config.port, management: config.management_port };
    serve(ports, main, management, drain).await?;
    Ok(())
}
