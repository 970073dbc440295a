//! `mainstay env SERVICE`: what a service is given.

use clap::Args;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// The service
    service: String,
    /// Show passwords on a terminal too
    #[arg(long)]
    show_secrets: bool,
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let env = crate::place::client(global)?.service_env(&options.service).await?;
    if global.json {
        let text = serde_json::to_string_pretty(&env).map_err(|error| Failure::bug(error.to_string()))?;
        println!("{text}");
        return Ok(mainstay_types::exit_code::DONE);
    }
    let on_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    for (name, value) in &env.env {
        let holds_password = ["PASSWORD", "URL", "KEY", "SECRET", "TOKEN"].iter().any(|part| name.contains(part));
        if on_terminal && holds_password && !options.show_secrets {
            println!("{name}=***");
        } else {
            println!("{name}={}", value.expose());
        }
    }
    for (instance, port) in &env.ports {
        println!("{}", crate::screen::dim(&format!("# {instance}: PORT={port}")));
    }
    if on_terminal && !options.show_secrets {
        eprintln!("hint: --show-secrets shows the passwords");
    }
    Ok(mainstay_types::exit_code::DONE)
}
