//! `mainstay events`: what happened.

use std::time::Duration;

use clap::Args;
use mainstay_api::{Event, Level};

use crate::Global;
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// How many of the newest
    #[arg(long, short = 'n', default_value_t = 50)]
    lines: u32,
    /// Go on as events come
    #[arg(long, short = 'f')]
    follow: bool,
}

/// Pause between two looks: events are for reading, not for reacting.
const LOOK: Duration = Duration::from_millis(300);

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = crate::place::client(global)?;
    let mut after = None;
    loop {
        let events = match client.events(after, if after.is_none() { options.lines } else { 1000 }).await {
            Ok(events) => events,
            // A control plane that is just being restarted comes back; its events are durable.
            Err(_) if after.is_some() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        for event in &events {
            print(event, global.json)?;
        }
        after = events.last().map(|event| event.seq).or(after).or(Some(0));
        if !options.follow {
            return Ok(mainstay_types::exit_code::DONE);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn print(event: &Event, json: bool) -> Result<(), Failure> {
    if json {
        println!("{}", serde_json::to_string(event).map_err(|error| Failure::bug(error.to_string()))?);
        return Ok(());
    }
    let level = match event.level {
        Level::Info => screen::dim("info "),
        Level::Warn => screen::yellow("warn "),
        Level::Error => screen::red("error"),
    };
    println!("{}  {level}  {:<20} {}", event.at, event.kind, event.text);
    Ok(())
}
