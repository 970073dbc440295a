//! `mainstay env SERVICE`: what a service is given.

use clap::Args;
use mainstay_types::Secret;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// The service
    service: String,
    /// Show what is hidden otherwise: passwords, keys, addresses with a password in them
    #[arg(long)]
    show_secrets: bool,
}

/// What stands for a value that was not asked for. A pipe leads to logs as often as to programs.
const HIDDEN: &str = "***";
/// Parts of names whose values are hidden, besides the secrets that the stack file names.
const NAMES: [&str; 5] = ["PASSWORD", "URL", "KEY", "SECRET", "TOKEN"];

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let mut env = crate::place::client(global)?.service_env(&options.service).await?;
    let place = crate::place::read(global)?;
    let secrets = place.parsed.stack.services.get(&env.service).map(|service| &service.secrets);
    if !options.show_secrets {
        for (name, value) in &mut env.env {
            let is_named_so = NAMES.iter().any(|part| name.contains(part));
            if is_named_so || secrets.is_some_and(|secrets| secrets.iter().any(|secret| secret == name)) {
                *value = Secret::new(HIDDEN);
            }
        }
        eprintln!("hint: --show-secrets shows the passwords");
    }
    if global.json {
        let text = serde_json::to_string_pretty(&env).map_err(|error| Failure::bug(error.to_string()))?;
        println!("{text}");
        return Ok(mainstay_types::exit_code::DONE);
    }
    for (name, value) in &env.env {
        println!("{name}={}", value.expose());
    }
    for (instance, port) in &env.ports {
        println!("{}", crate::screen::dim(&format!("# {instance}: PORT={port}")));
    }
    Ok(mainstay_types::exit_code::DONE)
}
