//! `mainstay env SERVICE`: what a service is given.

use std::collections::BTreeMap;

use clap::Args;
use mainstay_controller::launch::Launch;
use mainstay_stack::model::Service;
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

const MANAGEMENT_PORT: &str = "MANAGEMENT_PORT";

/// A service by the stack file that it runs with: the one in the folder may say something else by now.
fn service_of(global: &Global, service: &ServiceName) -> Option<Service> {
    let paths = crate::place::paths(global).ok()?;
    let launch = Launch::load(&paths).ok()?;
    let text = std::fs::read_to_string(paths.stack_file()).ok()?;
    let name = launch.stack_file.display().to_string();
    let mut parsed = mainstay_stack::parse(&text, &name, &launch.environment).ok()?;
    parsed.stack.services.remove(service)
}

/// The line of an instance's ports.
fn ports(instance: &str, port: u16, management: Option<u16>) -> String {
    let management = management.map(|port| format!(" {MANAGEMENT_PORT}={port}")).unwrap_or_default();
    format!("# {instance}: PORT={port}{management}")
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = crate::place::client(global)?;
    let mut env = client.service_env(&options.service).await?;
    let service = service_of(global, &env.service);
    let secrets = service.as_ref().map(|service| service.secrets.clone());
    let mut management = BTreeMap::new();
    if service.is_some_and(|service| service.has_management_port) {
        for instance in env.ports.keys() {
            // One that does not run now has none to be reached at.
            let Ok(context) = client.context(instance, true).await else { continue };
            let port = context.env.get(MANAGEMENT_PORT).and_then(|port| port.expose().parse::<u16>().ok());
            management.extend(port.map(|port| (instance.clone(), port)));
        }
    }
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
        let bug = |error: serde_json::Error| Failure::bug(error.to_string());
        let mut value = serde_json::to_value(&env).map_err(bug)?;
        value["management_ports"] = serde_json::to_value(&management).map_err(bug)?;
        println!("{}", serde_json::to_string_pretty(&value).map_err(bug)?);
        return Ok(mainstay_types::exit_code::DONE);
    }
    for (name, value) in &env.env {
        println!("{name}={}", value.expose());
    }
    for (instance, port) in &env.ports {
        println!("{}", crate::screen::dim(&ports(instance, *port, management.get(instance).copied())));
    }
    Ok(mainstay_types::exit_code::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_both_its_ports_on_its_line() {
        assert_eq!(ports("web-1", 4001, None), "# web-1: PORT=4001");
        assert_eq!(ports("web-1", 4001, Some(4002)), "# web-1: PORT=4001 MANAGEMENT_PORT=4002");
    }
}
