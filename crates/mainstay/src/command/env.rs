//! `mainstay env SERVICE`: what a service is given.

use std::collections::BTreeSet;

use clap::Args;
use mainstay_controller::launch::Launch;
use mainstay_types::{Secret, ServiceName};

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// The service, or `edge` for the passwords that its routes ask for
    service: String,
    /// Show what is hidden otherwise: passwords, keys, addresses with a password in them
    #[arg(long)]
    show_secrets: bool,
}

/// What stands for a value that was not asked for. A pipe leads to logs as often as to programs.
const HIDDEN: &str = "***";
/// Parts of names whose values are hidden, besides the secrets that the stack file names.
const NAMES: [&str; 5] = ["PASSWORD", "URL", "KEY", "SECRET", "TOKEN"];

/// The secrets of a service by the stack file that it runs with: the one in the folder may say something else by now.
fn secrets_of(global: &Global, service: &ServiceName) -> Option<BTreeSet<String>> {
    let paths = crate::place::paths(global).ok()?;
    let launch = Launch::load(&paths).ok()?;
    let text = std::fs::read_to_string(paths.stack_file()).ok()?;
    let name = launch.stack_file.display().to_string();
    let parsed = mainstay_stack::parse(&text, &name, &launch.environment).ok()?;
    Some(parsed.stack.services.get(service)?.secrets.iter().map(ToString::to_string).collect())
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let mut env = crate::place::client(global)?.service_env(&options.service).await?;
    let secrets = secrets_of(global, &env.service);
    if !options.show_secrets {
        for (name, value) in &mut env.env {
            let is_named_so = NAMES.iter().any(|part| name.contains(part));
            // Where the names cannot be had, nothing is taken for harmless.
            if is_named_so || secrets.as_ref().is_none_or(|secrets| secrets.contains(name)) {
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
