//! `mainstay ps`: every process of the stack.

use mainstay_types::Bytes;

use crate::Global;
use crate::failure::Failure;
use crate::screen;

pub(crate) async fn run(global: &Global) -> Result<u8, Failure> {
    let processes = crate::place::client(global)?.processes().await?;
    if global.json {
        let text = serde_json::to_string_pretty(&processes).map_err(|error| Failure::bug(error.to_string()))?;
        println!("{text}");
        return Ok(mainstay_types::exit_code::DONE);
    }
    println!("{}", screen::bold("NAME           ROLE          PID      STATE         SINCE    MEMORY      LAST EXIT"));
    let now = screen::now();
    for process in &processes {
        let pid = process.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let memory = process.memory_bytes.map_or("-".to_owned(), |bytes| Bytes(bytes).to_string());
        let exit = process.last_exit.as_ref().map_or(String::new(), ToString::to_string);
        let role = if process.detail.is_empty() { process.role.to_string() } else { process.detail.clone() };
        println!(
            "{:<14} {:<13.13} {pid:<8} {} {:<8} {memory:<11} {exit}",
            process.name.as_str(),
            role,
            screen::state(process.state, 13),
            screen::age(now.saturating_since(process.since)),
        );
    }
    Ok(mainstay_types::exit_code::DONE)
}
