//! `mainstay ps`: every process of the stack.

use std::io::IsTerminal;

use mainstay_types::Bytes;

use crate::Global;
use crate::board::{columns, cut};
use crate::failure::Failure;
use crate::screen;

/// A name that always has its room; a longer one only where the terminal has it, else it pushes its own line.
const WIDE_NAME: usize = 20;
/// All columns but the name, and a short last exit.
const REST: usize = 62;

pub(crate) async fn run(global: &Global) -> Result<u8, Failure> {
    let processes = crate::place::client(global)?.processes().await?;
    if global.json {
        let text = serde_json::to_string_pretty(&processes).map_err(|error| Failure::bug(error.to_string()))?;
        println!("{text}");
        return Ok(mainstay_types::exit_code::DONE);
    }
    let longest = processes.iter().map(|process| process.name.as_str().len()).max().unwrap_or(0);
    // Whoever reads a pipe wants columns that stand; a terminal wants lines that do not break.
    let widest = if std::io::stdout().is_terminal() { columns().saturating_sub(REST).max(WIDE_NAME) } else { longest };
    let width = longest.clamp(4, widest.max(4));
    let head = format!(
        "{:<width$} {:<13} {:<7} {:<12} {:<7} {:<9} LAST EXIT",
        "NAME", "ROLE", "PID", "STATE", "SINCE", "MEMORY"
    );
    println!("{}", screen::bold(&head));
    let now = screen::now();
    for process in &processes {
        let pid = process.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let memory = process.memory_bytes.map_or("-".to_owned(), |bytes| Bytes(bytes).to_string());
        let exit = process.last_exit.as_ref().map_or(String::new(), ToString::to_string);
        let exit = cut(&exit, columns().saturating_sub(width + 54).max(8));
        let role = if process.detail.is_empty() { process.role.to_string() } else { process.detail.clone() };
        println!(
            "{:<width$} {:<13.13} {pid:<7} {} {:<7} {memory:<9} {exit}",
            process.name.as_str(),
            role,
            screen::state(process.state, 12),
            screen::age(now.saturating_since(process.since)),
        );
    }
    Ok(mainstay_types::exit_code::DONE)
}
