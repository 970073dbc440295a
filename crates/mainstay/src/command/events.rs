//! `mainstay events`: what happened.

use std::time::Duration;

use clap::Args;
use mainstay_api::{Event, Level};
use mainstay_client::{Client, Error};
use mainstay_controller::paths::Paths;
use mainstay_controller::store::Store;
use mainstay_types::exit_code;

use crate::Global;
use crate::again;
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
    let paths = crate::place::paths(global)?;
    let client = Client::new(paths.api_socket());
    let mut after = None;
    loop {
        let events = match client.events(after, if after.is_none() { options.lines } else { 1000 }).await {
            Ok(events) => events,
            // A control plane that is just being restarted comes back; its events are durable.
            Err(_) if after.is_some() => Vec::new(),
            Err(error @ Error::NotRunning { .. }) => return of_last_run(global, options, &paths, error),
            Err(error) => return Err(error.into()),
        };
        for event in &events {
            print(event, global.json)?;
        }
        after = events.last().map(|event| event.seq).or(after).or(Some(0));
        if !options.follow {
            return Ok(exit_code::DONE);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The stack is down; its events are still there.
fn of_last_run(global: &Global, options: &Options, paths: &Paths, error: Error) -> Result<u8, Failure> {
    let broken = |error: &mainstay_controller::store::Error| {
        Failure::environment("MS3042", error.to_string()).help("as the user whose stack it is")
    };
    let Some(store) = Store::look(&paths.state).map_err(|error| broken(&error))? else {
        return Err(Failure::never_up(&error, "events"));
    };
    for event in store.events(None, options.lines).map_err(|error| broken(&error))? {
        print(&event, global.json)?;
    }
    let more = if options.follow { "; nothing more comes while it is down" } else { "" };
    eprintln!("the stack is not up: these are the last events of its last run{more}");
    Ok(exit_code::DONE)
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
    println!("{}  {level}  {:<20} {}", event.at, event.kind, again::text(&event.text));
    Ok(())
}
