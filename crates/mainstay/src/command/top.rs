//! `mainstay top`: what every process of the stack uses, as a table that is drawn again and again.

mod screen;
mod table;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use clap::{Args, ValueEnum};
use mainstay_api::{Top, Usage};
use mainstay_client::Client;
use mainstay_types::{Pid, exit_code};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::Global;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// Print once and end, as always when this is no terminal
    #[arg(long)]
    once: bool,
    /// What comes first
    #[arg(long, value_enum, default_value_t = Sort::Cpu)]
    sort: Sort,
}

/// The order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// Most processor time first
    Cpu,
    /// Most memory first
    Memory,
    /// By name
    Name,
}

/// Pause between two pictures.
const EVERY: Duration = Duration::from_secs(2);
/// The time that a single picture is about, and the first one.
const ONCE: Duration = Duration::from_secs(1);

/// A process and its share of a processor.
#[derive(Clone, Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    usage: Usage,
    /// Of one processor; `None` until it was seen twice.
    cpu_percent: Option<f64>,
}

/// What is shown: the processes between two looks.
#[derive(Clone, Debug, Serialize)]
struct Picture {
    at: mainstay_types::Timestamp,
    cores: u32,
    window_ms: u64,
    processes: Vec<Row>,
}

impl Picture {
    /// From two looks; `before` is `None` at the first.
    fn of(before: Option<&Top>, now: &Top, sort: Sort) -> Self {
        let window = before.map_or(Duration::ZERO, |before| now.at.saturating_since(before.at));
        // A process of another id is another one, whatever its name.
        let known: BTreeMap<(&str, Option<Pid>), u64> = before
            .iter()
            .flat_map(|top| &top.processes)
            .filter_map(|usage| Some(((usage.process.name.as_str(), usage.process.pid), usage.cpu_ms?)))
            .collect();
        let mut rows: Vec<Row> = now
            .processes
            .iter()
            .map(|usage| {
                let key = (usage.process.name.as_str(), usage.process.pid);
                let used = usage.cpu_ms.zip(known.get(&key)).map(|(now, before)| now.saturating_sub(*before));
                let cpu_percent = used.filter(|_| !window.is_zero()).map(|used| share(used, window));
                Row { usage: usage.clone(), cpu_percent }
            })
            .collect();
        match sort {
            Sort::Cpu => rows.sort_by(|a, b| b.cpu_percent.unwrap_or(-1.0).total_cmp(&a.cpu_percent.unwrap_or(-1.0))),
            Sort::Memory => rows.sort_by_key(|row| std::cmp::Reverse(row.usage.process.memory_bytes)),
            Sort::Name => rows.sort_by(|a, b| a.usage.process.name.cmp(&b.usage.process.name)),
        }
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        Self { at: now.at, cores: now.cores, window_ms, processes: rows }
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of one look are far below 2^52")]
fn share(used_ms: u64, window: Duration) -> f64 {
    (used_ms as f64) / window.as_secs_f64() / 10.0
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let client = crate::place::client(global)?;
    if options.once || global.json || !std::io::stdout().is_terminal() {
        let before = client.top().await?;
        tokio::time::sleep(ONCE).await;
        let picture = Picture::of(Some(&before), &client.top().await?, options.sort);
        if global.json {
            let text = serde_json::to_string_pretty(&picture).map_err(|error| Failure::bug(error.to_string()))?;
            println!("{text}");
        } else {
            let title = title(&client).await?;
            table::lines(&title, &picture, crate::board::columns(), None).iter().for_each(|line| println!("{line}"));
        }
        return Ok(exit_code::DONE);
    }
    watch(&client, options.sort).await
}

async fn title(client: &Client) -> Result<String, Failure> {
    let status = client.status().await?;
    Ok(format!("{}  {}  {}", status.stack, status.environment, status.overall))
}

/// Draws until a person ends it.
async fn watch(client: &Client, mut sort: Sort) -> Result<u8, Failure> {
    // What cannot be answered at all is said on the ordinary screen.
    let mut now = client.top().await?;
    let mut heading = title(client).await?;
    let stream = |kind| signal(kind).map_err(|error| Failure::environment("MS3001", error.to_string()));
    let (mut interrupt, mut terminate) = (stream(SignalKind::interrupt())?, stream(SignalKind::terminate())?);
    let mut resized = stream(SignalKind::window_change())?;
    let mut screen = screen::Screen::open();
    let mut before: Option<Top> = None;
    let mut pause = ONCE;
    let mut next = tokio::time::Instant::now() + pause;
    loop {
        screen.draw(&heading, &Picture::of(before.as_ref(), &now, sort));
        tokio::select! {
            () = tokio::time::sleep_until(next) => {
                pause = EVERY;
                next = tokio::time::Instant::now() + pause;
                match (client.top().await, title(client).await) {
                    (Ok(top), Ok(text)) => {
                        before = Some(std::mem::replace(&mut now, top));
                        heading = text;
                    }
                    (Err(error), _) => heading = error.to_string(),
                    (_, Err(failure)) => heading = failure.text,
                }
            }
            key = screen.key() => match key {
                Some(b'q' | b'Q') => return Ok(exit_code::DONE),
                Some(b'c') => sort = Sort::Cpu,
                Some(b'm') => sort = Sort::Memory,
                Some(b'n') => sort = Sort::Name,
                Some(_) | None => {}
            },
            _ = interrupt.recv() => return Ok(exit_code::DONE),
            _ = terminate.recv() => return Ok(exit_code::DONE),
            _ = resized.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests;
