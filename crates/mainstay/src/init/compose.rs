//! A compose file: images of PostgreSQL and Redis become database and cache; what it builds becomes services when
//! no other file says how they run.
//!
//! Not a YAML reader: services, and the few keys of theirs that matter, by indentation, as people write these files.

use super::folder::{View, is_compose};
use super::text::{Command, reason};
use super::{Part, Service};

const DATABASE: [&str; 6] = ["postgres", "postgresql", "postgis", "timescaledb", "pgvector", "timescaledb-ha"];
const CACHE: [&str; 5] = ["redis", "valkey", "keydb", "redis-stack", "redis-stack-server"];

/// One entry below `services:`.
#[derive(Debug, Default)]
struct Entry {
    name: String,
    line: usize,
    image: Option<(String, usize)>,
    build: Option<(String, usize)>,
    command: Option<(String, usize)>,
    has_ports: bool,
    /// Path of an HTTP health check.
    health: Option<(String, usize)>,
}

/// `is_known`: other files say which services run.
pub(super) fn read(view: &View<'_>, is_known: bool) -> Option<Part> {
    let path = view.paths().find(|path| is_compose(path))?;
    let file = view.full(path);
    let mut part = Part::default();
    for entry in entries(view.text(path)?) {
        if let Some((image, line)) = &entry.image {
            image_part(&mut part, &file, &entry, image, *line);
        } else if !is_known && entry.build.is_some() {
            built(&mut part, view, &file, entry);
        }
    }
    Some(part)
}

fn image_part(part: &mut Part, file: &str, entry: &Entry, image: &str, line: usize) {
    let name = image.split(['@']).next().unwrap_or(image);
    let name = name.rsplit('/').next().unwrap_or(name).split(':').next().unwrap_or(name);
    let found = format!("the image {image}");
    if DATABASE.contains(&name) {
        part.has_database = true;
        part.reasons.push(reason("database (PostgreSQL)", file, Some(line), found));
    } else if CACHE.contains(&name) {
        part.has_cache = true;
        part.reasons.push(reason("cache (Redis)", file, Some(line), found));
    } else {
        part.open.push(format!(
            "{file}:{line} has {} ({image}), which mainstay does not run: keep running it yourself, and give its \
             address in `env` of [service.NAME]; or make it a service of its own command",
            entry.name
        ));
    }
}

fn built(part: &mut Part, view: &View<'_>, file: &str, entry: Entry) {
    let (context, build_line) = entry.build.clone().unwrap_or_default();
    let inner = view.inner(&context);
    let docker = inner.text("Dockerfile");
    let from_docker =
        docker.and_then(|text| docker_command(text).map(|(line, at)| (line, inner.full("Dockerfile"), at)));
    let from_compose = entry.command.clone().map(|(line, at)| (line, file.to_owned(), at));
    let (command, file_of, line, is_guess) = match from_compose.or(from_docker) {
        Some((command, file, line)) => (command, file, line, false),
        None => ("./server".to_owned(), file.to_owned(), build_line, true),
    };
    let mut service = Service::new(&entry.name, Command::new(command), entry.has_ports);
    service.dir = inner.dir();
    let found = if is_guess {
        service
            .notes
            .push("NOT KNOWN: neither the compose file nor a Dockerfile says the command. Put it here.".to_owned());
        part.open.push(format!("the command of {} is not known: `run` in [service.{}]", entry.name, service.name));
        "it is built here, and no command is said".to_owned()
    } else {
        service
            .notes
            .push("The command of the container; here it runs on the machine itself, without an image.".to_owned());
        "its command".to_owned()
    };
    if entry.has_ports && !service.run.line.contains("PORT") {
        service.notes.push("It must listen on 127.0.0.1 and the port in the environment variable PORT.".to_owned());
    }
    if let Some((path, line)) = &entry.health {
        service.health = Some(path.clone());
        part.reasons.push(reason(format!("health {path}"), file, Some(*line), "its health check"));
    }
    let what = format!("service {} runs {}", service.name, service.run.line);
    part.reasons.push(reason(what, &file_of, Some(line), found));
    if !entry.has_ports {
        part.reasons.push(reason(format!("{} is a worker", service.name), file, Some(entry.line), "it has no `ports`"));
    }
    part.services.push(service);
}

/// The last CMD or ENTRYPOINT of a Dockerfile.
fn docker_command(text: &str) -> Option<(String, usize)> {
    let mut entry = None;
    let mut command = None;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("ENTRYPOINT ") {
            entry = Some((words(rest), index + 1));
        } else if let Some(rest) = line.strip_prefix("CMD ") {
            command = Some((words(rest), index + 1));
        }
    }
    match (entry, command) {
        (Some((entry, at)), Some((command, _))) => Some((format!("{entry} {command}"), at)),
        (entry, command) => entry.or(command),
    }
}

/// `["a", "b c"]` or `a b` as one command line.
fn words(text: &str) -> String {
    let text = text.trim();
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(words) => words.iter().map(|word| one_word(word)).collect::<Vec<_>>().join(" "),
        Err(_) => text.trim_matches(['"', '\'']).to_owned(),
    }
}

fn one_word(word: &str) -> String {
    let is_plain = !word.is_empty() && !word.contains([' ', '\t', '"', '\'', '\\']);
    if is_plain { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

fn entries(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let (mut in_services, mut level, mut key) = (false, None, String::new());
    for (index, raw) in text.lines().enumerate() {
        let line = raw.split(" #").next().unwrap_or(raw).trim_end();
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let indent = line.len() - trimmed.len();
        if indent == 0 {
            in_services = trimmed == "services:";
            continue;
        }
        if !in_services {
            continue;
        }
        let at = index + 1;
        let own = *level.get_or_insert(indent);
        if indent == own {
            let name = trimmed.trim_end_matches(':').trim_matches(['"', '\'']).to_owned();
            entries.push(Entry { name, line: at, ..Entry::default() });
            key.clear();
            continue;
        }
        let Some(entry) = entries.last_mut() else { continue };
        read_line(entry, &mut key, trimmed, indent <= own + 4 && !trimmed.starts_with('-'), at);
    }
    entries
}

/// A line within an entry. `may_be_key`: it is indented as a key of the entry is.
fn read_line(entry: &mut Entry, key: &mut String, line: &str, may_be_key: bool, at: usize) {
    let pair = line.split_once(':').map(|(name, value)| (name.trim(), value.trim().to_owned()));
    const KEYS: [&str; 18] = [
        "image",
        "build",
        "command",
        "entrypoint",
        "ports",
        "expose",
        "healthcheck",
        "environment",
        "env_file",
        "volumes",
        "depends_on",
        "restart",
        "networks",
        "deploy",
        "labels",
        "profiles",
        "container_name",
        "working_dir",
    ];
    if let (Some((name, value)), true) = (&pair, may_be_key)
        && KEYS.contains(name)
    {
        (*name).clone_into(key);
        let value = value.trim_matches(['"', '\'']).to_owned();
        match *name {
            "image" => entry.image = Some((value, at)),
            "build" => entry.build = Some((if value.is_empty() { ".".to_owned() } else { value }, at)),
            "command" if !value.is_empty() => entry.command = Some((words(&value), at)),
            "ports" => entry.has_ports = true,
            _ => {}
        }
        return;
    }
    match (key.as_str(), pair) {
        ("build", Some(("context", value))) => entry.build = Some((value.trim_matches(['"', '\'']).to_owned(), at)),
        ("command", _) if line.starts_with("- ") => {
            let word = one_word(line[2..].trim().trim_matches(['"', '\'']));
            let line = entry.command.get_or_insert((String::new(), at));
            line.0 = format!("{} {word}", line.0).trim().to_owned();
        }
        ("healthcheck", _) => {
            // `curl -f http://localhost:8000/health || exit 1`
            let Some((_, rest)) = line.split_once("http://") else { return };
            let path = rest.split_once('/').map(|(_, path)| path).unwrap_or_default();
            let end =
                path.find(|letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '?' | ',' | ']'));
            entry.health = Some((format!("/{}", &path[..end.unwrap_or(path.len())]), at));
        }
        _ => {}
    }
}
