//! `mainstay check`: every mistake of a stack file at once, then what it names and is not there: `up` would refuse the
//! same things in the same words.

use std::path::PathBuf;

use clap::Args;
use mainstay_stack::model::{Durability, Service};
use mainstay_types::{ServiceName, exit_code};

use super::preflight;
use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// Stack file or folder (default: --file, else mainstay.toml here)
    // Not named `file`: clap takes the same id for the same argument, and `--file` would be unknown here.
    #[arg(value_name = "FILE")]
    pub(crate) stack_file: Option<PathBuf>,
}

pub(crate) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let global = Global { file: options.stack_file.clone().or_else(|| global.file.clone()), ..global.clone() };
    let place = crate::place::read(&global)?;
    let stack = &place.parsed.stack;
    let missing = preflight::missing(&place);
    if global.json {
        let status = missing.first().map_or(exit_code::DONE, |first| first.code);
        let missing: Vec<_> = missing.iter().map(Failure::value).collect();
        println!(
            "{}",
            serde_json::json!({"file": place.file, "stack": stack.name, "environment": stack.environment,
                "diagnostics": place.parsed.warnings, "missing": missing})
        );
        return Ok(status);
    }
    let services: Vec<String> = stack.services.iter().map(|(name, service)| described(name, service)).collect();
    let verdict = if missing.is_empty() { "is valid" } else { "has no mistake, but `up` would refuse it" };
    let file = crate::screen::tame(&place.file.display().to_string());
    println!("{file} {verdict}: stack {}, environment {}", stack.name, stack.environment);
    println!("  services   {}", if services.is_empty() { "none".to_owned() } else { services.join(", ") });
    let database = stack.database.as_ref().map_or("none".to_owned(), |database| {
        let standbys = if database.standbys == 1 { "standby" } else { "standbys" };
        format!("primary and {} {standbys}, {}", database.standbys, database.durability.word())
    });
    println!("  database   {database}");
    if let Some(database) = &stack.database {
        let text = format!("{} {}", database.durability.risk(database.standbys), Durability::ONE_MACHINE);
        println!("{}", crate::screen::wrap(&text, "             ", "             "));
    }
    println!("  cache      {}", if stack.cache.is_some() { "cache, store" } else { "none" });
    Failure::of_all(missing).map_or(Ok(exit_code::DONE), Err)
}

fn described(name: &ServiceName, service: &Service) -> String {
    match &service.schedule {
        Some(schedule) => format!("{name} every {}", schedule.every),
        None if service.most_instances() > service.instances => {
            format!("{name} × {} to {}", service.instances, service.most_instances())
        }
        None => format!("{name} × {}", service.instances),
    }
}
