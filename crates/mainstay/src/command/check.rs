//! `mainstay check`: every mistake of a stack file at once.

use std::path::PathBuf;

use clap::Args;
use mainstay_stack::model::Service;
use mainstay_types::ServiceName;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// Stack file or folder (default: --file, else mainstay.toml here)
    // Not named `file`: clap takes the same id for the same argument, and `--file` would be unknown here.
    #[arg(value_name = "FILE")]
    stack_file: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let global = Global { file: options.stack_file.clone().or_else(|| global.file.clone()), ..global.clone() };
    let place = crate::place::read(&global)?;
    let stack = &place.parsed.stack;
    if global.json {
        println!(
            "{}",
            serde_json::json!({"file": place.file, "stack": stack.name, "environment": stack.environment,
                "diagnostics": place.parsed.warnings})
        );
    } else {
        let services: Vec<String> = stack.services.iter().map(|(name, service)| described(name, service)).collect();
        println!("{} is valid: stack {}, environment {}", place.file.display(), stack.name, stack.environment);
        println!("  services   {}", if services.is_empty() { "none".to_owned() } else { services.join(", ") });
        let database = stack.database.as_ref().map_or("none".to_owned(), |database| {
            format!("primary and {} standby, {:?}", database.standbys, database.durability).to_lowercase()
        });
        println!("  database   {database}");
        println!("  cache      {}", if stack.cache.is_some() { "cache, store" } else { "none" });
    }
    Ok(mainstay_types::exit_code::DONE)
}

fn described(name: &ServiceName, service: &Service) -> String {
    match &service.schedule {
        Some(schedule) => format!("{name} every {}", schedule.every),
        None => format!("{name} × {}", service.instances),
    }
}
