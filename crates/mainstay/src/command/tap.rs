//! `mainstay tap [ROUTE]`: requests of the edge as they end.
//!
//! Read from the edge's access log: nobody taps the edge itself, so it does nothing for it, and a reader that is slow is
//! late and holds no request up. What the log does not have is told as a count.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use mainstay_client::{Client, Error};
use mainstay_stack::{Stack, routing};
use mainstay_supervisor::logs;
use mainstay_types::exit_code;
use serde::Deserialize;

use crate::Global;
use crate::board;
use crate::failure::Failure;
use crate::screen;

#[derive(Args)]
pub(crate) struct Options {
    /// A route as the stack file writes it ('/api/*'), or a path that it takes; all when left out
    route: Option<String>,
}

/// Pause between two looks at the log: shorter than a person notices.
const LOOK: Duration = Duration::from_millis(100);
/// Looks without a line after which the stack is asked whether it is still up.
const QUIET_LOOKS: u32 = 20;
/// The control plane may be away for a moment, while the edge goes on: so often in a row is no moment.
const AWAY: u32 = 5;
/// A line is shorter: a request's head has 32 KiB at most, and what JSON escapes is not allowed in it.
const MAX_LINE: usize = 128 * 1024;

/// What is shown of a line of the access log.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    at: String,
    method: String,
    path: String,
    route: String,
    status: u16,
    endpoint: String,
    duration_ms: f64,
    user: Option<String>,
    reason: Option<String>,
    /// The line is none of a request: so many are missing here.
    lost: u64,
}

pub(crate) async fn run(global: &Global, options: &Options) -> Result<u8, Failure> {
    let paths = crate::place::paths(global)?;
    let client = Client::new(paths.api_socket());
    client.status().await?;
    let stack = crate::place::taken(global, &paths)?.stack;
    let route = options.route.as_ref().map(|wanted| chosen(&stack, wanted)).transpose()?;
    let of = route.as_ref().map_or("all routes".to_owned(), |route| format!("the route {route}"));
    let mut tail = Tail::at_end(paths.access_log());
    // What ends from here on is shown.
    eprintln!("requests of {of} as they end, times in UTC; Ctrl-C ends it");
    let (mut quiet, mut away) = (0, 0);
    loop {
        let (lines, unread) = tail.read().map_err(|error| {
            Failure::environment("MS3042", format!("cannot read {}: {error}", tail.path.display()))
                .help("as the user whose stack it is")
        })?;
        if unread > 0 {
            say_unread(global.json, unread)?;
        }
        for line in &lines {
            show(global.json, line, route.as_deref())?;
        }
        if !lines.is_empty() {
            quiet = 0;
            continue;
        }
        quiet += 1;
        if quiet >= QUIET_LOOKS {
            quiet = 0;
            away = if matches!(client.status().await, Err(Error::NotRunning { .. })) { away + 1 } else { 0 };
        }
        if away == AWAY {
            eprintln!("the stack is no longer up: nothing more comes");
            return Ok(exit_code::DONE);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The route that a person means.
fn chosen(stack: &Stack, wanted: &str) -> Result<String, Failure> {
    let all: Vec<&str> = stack.edge.routes.iter().map(|route| route.path.as_str()).collect();
    if let Some(found) = all.iter().find(|path| **path == wanted) {
        return Ok((*found).to_owned());
    }
    let path = wanted.split_once('?').map_or(wanted, |(path, _)| path);
    let takes = routing::candidates(all.iter().copied(), path);
    takes.first().and_then(|index| all.get(*index)).map(|path| (*path).to_owned()).ok_or_else(|| {
        let known = if all.is_empty() { "the edge has no routes".to_owned() } else { all.join(", ") };
        Failure::user("MS2091", format!("no route is or takes {wanted:?}")).help(format!("routes of the edge: {known}"))
    })
}

/// The log from its end on.
struct Tail {
    path: PathBuf,
    offset: u64,
    /// Of a line that is not whole yet.
    rest: Vec<u8>,
    /// Up to the next line's begin there is half a line.
    is_within: bool,
}

impl Tail {
    /// An edge that has answered nothing has no log.
    fn at_end(path: PathBuf) -> Self {
        let offset = std::fs::metadata(&path).map_or(0, |file| file.len());
        let before = offset.checked_sub(1).and_then(|at| logs::follow(&path, at).ok());
        let is_within = before.is_some_and(|chunk| !chunk.bytes.starts_with(b"\n"));
        Self { path, offset, rest: Vec::new(), is_within }
    }

    /// Lines that are there by now, as many as one read has; and the bytes that were let go of before they were read.
    fn read(&mut self) -> std::io::Result<(Vec<Vec<u8>>, u64)> {
        let chunk = match logs::follow(&self.path, self.offset) {
            Ok(chunk) => chunk,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
            Err(error) => return Err(error),
        };
        let unread = chunk.start.saturating_sub(self.offset);
        if chunk.start != self.offset {
            self.rest.clear();
            // A hole ends within a line; a new file begins with one.
            self.is_within = unread > 0;
        }
        self.offset = chunk.next();
        self.rest.extend_from_slice(&chunk.bytes);
        let mut lines = Vec::new();
        let mut begin = 0;
        while let Some(length) = self.rest[begin..].iter().position(|byte| *byte == b'\n') {
            if !std::mem::take(&mut self.is_within) {
                lines.push(self.rest[begin..begin + length].to_vec());
            }
            begin += length + 1;
        }
        self.rest.drain(..begin);
        if self.rest.len() > MAX_LINE {
            self.rest.clear();
            self.is_within = true;
        }
        Ok((lines, unread))
    }
}

fn show(json: bool, line: &[u8], route: Option<&str>) -> Result<(), Failure> {
    // What is no line of the edge's (a disk that was full has halves) is nothing to show.
    let Ok(request) = serde_json::from_slice::<Request>(line) else { return Ok(()) };
    if request.lost == 0 && route.is_some_and(|route| route != request.route) {
        return Ok(());
    }
    if json {
        println!("{}", String::from_utf8_lossy(line));
    } else if request.lost > 0 {
        let what = "requests that the access log has no lines of: more came than could be written";
        println!("{}", screen::yellow(&format!("{} … {} {what}", time(&request.at), request.lost)));
    } else {
        let columns = std::io::stdout().is_terminal().then(board::columns);
        for text in lines(&request, columns, route.is_none()) {
            println!("{}", coloured(&text, request.status));
        }
    }
    Ok(())
}

/// What was let go of while nobody read it.
fn say_unread(json: bool, bytes: u64) -> Result<(), Failure> {
    if json {
        let text = serde_json::to_string(&serde_json::json!({ "unread_bytes": bytes }));
        println!("{}", text.map_err(|error| Failure::bug(error.to_string()))?);
    } else {
        let size = mainstay_types::Bytes(bytes);
        println!("{}", screen::yellow(&format!("… {size} of lines were let go of before they were read here")));
    }
    Ok(())
}

/// `21:53:29` of `2026-11-27T21:53:29.123Z`.
fn time(at: &str) -> &str {
    at.get(11..19).unwrap_or(at)
}

/// Before the path: time, status, duration, method.
const BEFORE: usize = 30;
/// A path of so many columns is readable.
const PATH: usize = 24;
/// The route's column.
const ROUTE: usize = 14;
/// That of who answered.
const BY: usize = 12;

/// A request in one line, and in a second one why it was refused. `columns`: of a terminal; a pipe has no width, and
/// nothing is cut there.
fn lines(request: &Request, columns: Option<usize>, has_route: bool) -> Vec<String> {
    let status = if request.status == 0 { "-".to_owned() } else { request.status.to_string() };
    let took = took(request.duration_ms);
    let before = format!("{:<8} {status:>3} {took:>8} {:<7} ", time(&request.at), request.method);
    // Of an instance's endpoint its name: `backend-1/3f…`.
    let name = request.endpoint.split('/').next().unwrap_or_default();
    let by = if name.is_empty() { "edge" } else { name };
    let route = if request.route.is_empty() { "-" } else { request.route.as_str() };
    let user = request.user.as_ref().map(|user| screen::tame(user).replace(['\n', '\t'], " "));
    let user = user.map_or(String::new(), |user| format!("  {user}"));
    let path = screen::tame(&request.path);
    let Some(columns) = columns else {
        let route = if has_route { format!("  {route}") } else { String::new() };
        let reason = request.reason.as_ref().map_or(String::new(), |reason| format!("  ({})", screen::tame(reason)));
        return vec![format!("{before}{path}{route}  {by}{user}{reason}")];
    };
    let after = |is_padded: bool| {
        let (route_width, by_width) = if is_padded { (ROUTE, BY) } else { (0, 0) };
        let route = if has_route { format!("  {:<route_width$}", board::cut(route, ROUTE)) } else { String::new() };
        format!("{route}  {:<by_width$}{}", board::cut(by, BY), board::cut(&user, BY))
    };
    let room = |after: &str| columns.saturating_sub(BEFORE + after.chars().count());
    // Columns below one another, unless the path needs what they leave empty.
    let is_padded = room(&after(true)) >= PATH.min(path.chars().count());
    let after = after(is_padded);
    let room = room(&after).max(8);
    let mut all = vec![format!("{before}{:<room$}{after}", board::cut(&path, room)).trim_end().to_owned()];
    let reason = request.reason.as_deref().map(screen::tame);
    all.extend(reason.map(|reason| board::cut(&format!("{:<13}{reason}", ""), columns)));
    all
}

/// A duration in eight columns at most, as far as there are such durations.
fn took(millis: f64) -> String {
    if millis < 1000.0 { format!("{millis:.1} ms") } else { format!("{:.1} s", millis / 1000.0) }
}

/// A line in the colour of its status.
fn coloured(text: &str, status: u16) -> String {
    match status {
        200..=399 => text.to_owned(),
        400..=499 => screen::yellow(text),
        _ => screen::red(text),
    }
}

#[cfg(test)]
mod tests;
