//! `mainstay config`: the effective stack file.

use clap::Args;

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// Every value with where it came from: a line of the file, an environment, or the default
    #[arg(long)]
    computed: bool,
}

pub(crate) fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let place = crate::place::read(global)?;
    let values = mainstay_stack::computed(&place.parsed);
    if global.json {
        let text = serde_json::to_string_pretty(&values).map_err(|error| Failure::bug(error.to_string()))?;
        println!("{text}");
        return Ok(mainstay_types::exit_code::DONE);
    }
    let width = values.iter().map(|value| value.path.len()).max().unwrap_or(0);
    for value in &values {
        let origin = value.origin.to_string();
        if !options.computed && origin == "default" {
            continue;
        }
        println!("{:<width$}  {}  {}", value.path, value.value, crate::screen::dim(&format!("# {origin}")));
        if let Some(note) = &value.note {
            println!("{}", crate::screen::dim(&crate::screen::wrap(note, "  # ", "  # ")));
        }
    }
    if !options.computed {
        eprintln!("hint: `mainstay config --computed` also shows every default");
    }
    Ok(mainstay_types::exit_code::DONE)
}
