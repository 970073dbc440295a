//! A port that a command fixes, instead of the one that it is given.

use std::ops::Range;

use super::Taken;
use crate::init::shell::Word;

/// Where a port stands.
struct Found {
    command: usize,
    word: usize,
    part: Range<usize>,
    port: String,
    /// `PORT=3000`: the whole word goes, since PORT is given.
    is_variable: bool,
    shown: String,
}

/// Options whose value is where to listen, as `HOST:PORT` or as `PORT`.
const LISTEN: [&str; 12] = [
    "-b",
    "--bind",
    "-l",
    "--listen",
    "--address",
    "--addr",
    "-addr",
    "-listen",
    "-S",
    "--http",
    "--http-address",
    "-bind",
];
/// Options whose value is an address alone.
const HOST: [&str; 6] = ["--host", "-H", "--hostname", "--ip", "-o", "--bind-address"];
/// Hosts that stand for all addresses of the machine.
const EVERYWHERE: [&str; 3] = ["0.0.0.0", "[::]", "::"];
/// Programs that connect to a port.
const CLIENTS: [&str; 12] = [
    "psql",
    "pg_isready",
    "pg_dump",
    "redis-cli",
    "ssh",
    "mysql",
    "mysqladmin",
    "nc",
    "curl",
    "wget",
    "wait-for-it",
    "wait-for-it.sh",
];

/// Puts PORT in the place of a fixed port, and this machine in that of all addresses: the edge stands before it.
pub(super) fn take(mut commands: Vec<&mut Vec<Word>>, taken: &mut Taken) {
    let mut found = Vec::new();
    let mut is_given = false;
    for (at, command) in commands.iter().enumerate() {
        is_given |= command.iter().any(|word| word.expands() && word.text().contains("PORT"));
        look(at, command, &mut found);
    }
    let mut ports: Vec<&str> = found.iter().map(|one| one.port.as_str()).collect();
    ports.sort_unstable();
    ports.dedup();
    match ports.as_slice() {
        [] => {}
        [port] if !is_given || found.iter().all(|one| one.is_variable) => {
            let shown: Vec<&str> = found.iter().map(|one| one.shown.as_str()).collect();
            let shown = shown.join("`, `");
            taken.said.push((format!("it listens on PORT instead of {port}"), format!("`{shown}`")));
            is_given = true;
            for one in found.iter().rev() {
                let word = &mut commands[one.command][one.word];
                if one.is_variable { word.become_text("") } else { word.put(one.part.clone(), "$PORT") }
            }
        }
        // Beside $PORT another port is one of something else.
        _ if is_given => {}
        several => taken.fixed = Some(several.join(" and ")),
    }
    if is_given {
        for command in commands {
            loopback(command, taken);
        }
    }
}

fn look(at: usize, command: &[Word], found: &mut Vec<Found>) {
    let texts: Vec<String> = command.iter().map(Word::text).collect();
    let is_export = texts.first().is_some_and(|first| first == "export");
    let is_client = |text: &String| CLIENTS.contains(&text.rsplit('/').next().unwrap_or(text));
    if texts.iter().take(3).any(is_client) {
        return;
    }
    for (index, text) in texts.iter().enumerate().filter(|(index, _)| !command[*index].expands()) {
        let before = index.checked_sub(1).and_then(|before| texts.get(before)).map_or("", String::as_str);
        let mut add = |part: Range<usize>, is_variable: bool, shown: String| {
            let port = text.get(part.clone()).unwrap_or_default().to_owned();
            found.push(Found { command: at, word: index, part, port, is_variable, shown });
        };
        if let Some(value) = text.strip_prefix("PORT=").filter(|value| is_port(value)) {
            add(5..5 + value.len(), !is_export, text.clone());
        } else if let Some(part) = behind_option(before, text) {
            add(part, false, format!("{before} {text}"));
        } else if let Some((name, value)) = text.split_once('=').filter(|(name, _)| name.starts_with('-')) {
            if let Some(part) = of_option(name, value) {
                let start = name.len() + 1;
                add(start + part.start..start + part.end, false, text.clone());
            }
        } else if let Some(part) = attached(text) {
            add(part, false, text.clone());
        }
    }
}

/// Several digits: `-p 5` is no port.
fn is_port(text: &str) -> bool {
    text.len() >= 2 && text.parse::<u16>().is_ok_and(|port| port >= 80)
}

/// The port in `VALUE`, given behind an option or behind what begins a server.
fn behind_option(before: &str, value: &str) -> Option<Range<usize>> {
    if matches!(before, "runserver" | "serve" | "server" | "start") {
        return if before == "runserver" { in_address(value) } else { in_address(value).filter(|part| part.start > 0) };
    }
    of_option(before, value)
}

/// The port in the value of an option.
fn of_option(name: &str, value: &str) -> Option<Range<usize>> {
    let bare = name.trim_start_matches('-');
    let is_port_option = name.starts_with('-')
        && (["p", "port", "PORT"].contains(&bare)
            || ["-port", "_port", ".port", "Port"].iter().any(|end| bare.ends_with(end)));
    let is_about_other = ["management", "metrics", "admin", "debug", "redis", "db", "database"];
    if is_port_option && !is_about_other.iter().any(|word| bare.to_ascii_lowercase().contains(word)) {
        return is_port(value).then_some(0..value.len());
    }
    if LISTEN.contains(&name) { in_address(value) } else { None }
}

/// `-p3000`, `-b0.0.0.0:8000`, and jetty's `-Dserver.port`, which has a `=`.
fn attached(text: &str) -> Option<Range<usize>> {
    let part = text.strip_prefix("-p").filter(|value| is_port(value)).map(|value| 0..value.len());
    let part = part.or_else(|| text.strip_prefix("-b").and_then(in_address))?;
    Some(2 + part.start..2 + part.end)
}

/// The port of `PORT`, `HOST:PORT` and `tcp://HOST:PORT`, where HOST is this machine.
fn in_address(value: &str) -> Option<Range<usize>> {
    if is_port(value) {
        return Some(0..value.len());
    }
    let (place, port) = value.rsplit_once(':')?;
    let host = place.rsplit_once("//").map_or(place, |(_, host)| host);
    let is_here = EVERYWHERE.contains(&host) || ["", "*", "127.0.0.1", "localhost", "[::1]"].contains(&host);
    (is_here && is_port(port)).then_some(place.len() + 1..value.len())
}

/// Nobody but the edge should reach an instance.
fn loopback(command: &mut [Word], taken: &mut Taken) {
    let mut before = String::new();
    for word in command {
        let text = word.text();
        let place = EVERYWHERE.iter().chain(&[""]).find_map(|host| {
            let at = text.find(&format!("{host}:$PORT")).or_else(|| text.find(&format!("{host}:${{PORT")))?;
            let is_start = at == 0 || matches!(text.as_bytes()[at - 1], b'/' | b'=') || &text[..at] == "-b";
            is_start.then_some(at..at + host.len())
        });
        let alone = EVERYWHERE.iter().find_map(|host| {
            let name = text.strip_suffix(host)?;
            let is_host = if name.is_empty() {
                HOST.contains(&before.as_str())
            } else {
                name.strip_suffix('=').is_some_and(|name| HOST.contains(&name))
            };
            is_host.then_some(name.len()..text.len())
        });
        if let Some(part) = place.or(alone) {
            let host = if part.is_empty() { text.clone() } else { text[part.clone()].to_owned() };
            word.put(part, "127.0.0.1");
            let what = "it listens on 127.0.0.1: clients come through the edge".to_owned();
            taken.said.push((what, format!("`{host}`")));
        }
        before = text;
    }
}
