//! The table of `top`, line by line: never wider than the terminal, never longer than it.

use mainstay_types::{Bytes, State};

use super::{Picture, Row};
use crate::board::cut;
use crate::screen;

/// A name that always has its room; a longer one only where the terminal has it.
const WIDE_NAME: usize = 18;
/// The last column keeps so much.
const WHAT: usize = 24;
/// Columns between the name and the last one, with their spaces.
const FIGURES: usize = 46;

/// Title, sums, head and rows. `rows`: how many lines there is room for.
pub(super) fn lines(heading: &str, picture: &Picture, columns: usize, rows: Option<usize>) -> Vec<String> {
    let longest = picture.processes.iter().map(|row| row.usage.process.name.as_str().len()).max().unwrap_or(0);
    let name = longest.clamp(4, columns.saturating_sub(FIGURES + WHAT).max(WIDE_NAME));
    let head = format!(
        "{:<name$} {:>7} {:>6} {:>9} {:>5} {:>7} {:>6} WHAT",
        "NAME", "PID", "CPU %", "MEMORY", "CONN", "REQ/S", "UP"
    );
    let mut lines = vec![screen::bold(&cut(heading, columns)), cut(&sums(picture), columns), screen::bold(&head)];
    let room = rows.map_or(usize::MAX, |rows| rows.saturating_sub(lines.len() + 1));
    let shown = if picture.processes.len() > room { room.saturating_sub(1) } else { picture.processes.len() };
    lines.extend(picture.processes.iter().take(shown).map(|row| line(row, picture, name, columns)));
    let left = picture.processes.len() - shown;
    if left > 0 {
        lines.push(screen::dim(&format!("… and {left} more: make the window higher")));
    }
    if rows.is_some() {
        lines.push(screen::dim("q ends · sort: c CPU, m memory, n name · CPU in % of one processor"));
    }
    lines
}

fn sums(picture: &Picture) -> String {
    let cpu: f64 = picture.processes.iter().filter_map(|row| row.cpu_percent).sum();
    let memory: u64 = picture.processes.iter().filter_map(|row| row.usage.process.memory_bytes).sum();
    let running = picture.processes.iter().filter(|row| row.usage.process.pid.is_some()).count();
    let cores = picture.cores;
    format!("{running} processes, CPU {cpu:.1} % of {} %, memory {}", u64::from(cores) * 100, Bytes(memory))
}

fn line(row: &Row, picture: &Picture, name: usize, columns: usize) -> String {
    let process = &row.usage.process;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let pid = or_dash(process.pid.map(|pid| pid.to_string()));
    let cpu = or_dash(row.cpu_percent.map(|percent| format!("{percent:.1}")));
    let memory = or_dash(process.memory_bytes.map(|bytes| Bytes(bytes).to_string()));
    let connections = or_dash(row.usage.connections.map(|count| count.to_string()));
    let requests = or_dash(row.usage.per_second.map(rate));
    let age = screen::age(picture.at.saturating_since(process.since));
    let up = if process.pid.is_some() { age } else { "-".to_owned() };
    let figures = format!(
        "{:<name$} {pid:>7} {cpu:>6} {memory:>9} {connections:>5} {requests:>7} {up:>6} ",
        shortened(process.name.as_str(), name)
    );
    let what = cut(&what(row), columns.saturating_sub(name + FIGURES + 1));
    let what = match process.state {
        State::Ready | State::Waiting | State::Stopped | State::NotConfigured => what,
        State::Starting | State::Degraded | State::Draining | State::BackingOff => screen::yellow(&what),
        State::CrashLoop | State::Failed | State::Unknown => screen::red(&what),
    };
    format!("{figures}{what}")
}

/// A name without its middle: instances of one service differ at the end.
fn shortened(name: &str, width: usize) -> String {
    let count = name.chars().count();
    if count <= width {
        return name.to_owned();
    }
    let end = (width / 2).min(8);
    let start = width.saturating_sub(end + 1);
    name.chars().take(start).chain(['…']).chain(name.chars().skip(count - end)).collect()
}

/// What it is; when it is not as it should be, what is wrong.
fn what(row: &Row) -> String {
    let process = &row.usage.process;
    match (process.state, &process.last_exit) {
        (State::Ready, _) if !process.detail.is_empty() => process.detail.clone(),
        (State::Ready, _) => process.role.to_string(),
        (State::Stopped, Some(exit)) => exit.to_string(),
        (state, Some(exit)) => format!("{state}, {exit}"),
        (state, None) => state.to_string(),
    }
}

/// Whole numbers when they are large, tenths when they are not.
fn rate(per_second: f64) -> String {
    if per_second >= 100.0 { format!("{per_second:.0}") } else { format!("{per_second:.1}") }
}
