//! The integers application: the service box of document 001 on `mainstay-kit`.
//!
//! Every user has a counter that never gives an integer twice and leaves none out. `integers` serves;
//! `integers receipts` is a client that checks exactly that, while somebody breaks the stack.

mod config;
mod jobs;
mod model;
mod receipts;
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

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None => match run().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log(Level::Error, "ServiceFailed", &[("cause", &format!("{error:#}"))]);
                ExitCode::FAILURE
            }
        },
        Some("receipts") => receipts::main(arguments).await,
        Some(_) => receipts::usage(),
    }
}

async fn run() -> anyhow::Result<()> {
    let config = Config::from_env(|name| std::env::var(name).ok())?;
    let drain = Drain::new();
    drain.on_signals()?;
    let state = AppState::build(&config, drain.clone()).await?;
    let actuator = state.actuator();
    jobs::spawn(&state, &config);
    let ports = Ports { main: config.port, management: config.management_port };
    serve(ports, routes::router(state), actuator.router(), drain).await?;
    Ok(())
}
