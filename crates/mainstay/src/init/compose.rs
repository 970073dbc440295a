//! A compose file: images of PostgreSQL and Redis become database and cache; what it builds becomes services when
//! no other file says how they run.
//!
//! **Source**: the Compose Specification, <https://github.com/compose-spec/compose-spec>.

use super::docker::{self, Image, Start};
use super::folder::{View, is_compose};
use super::given::{self, Place};
use super::shell::{self, Word};
use super::text::{Command, reason};
use super::yaml::{self, Node, Value};
use super::{Part, Service, Unread};

mod environment;

const DATABASE: [&str; 6] = ["postgres", "postgresql", "postgis", "timescaledb", "pgvector", "timescaledb-ha"];
const CACHE: [&str; 5] = ["redis", "valkey", "keydb", "redis-stack", "redis-stack-server"];

/// More than this is of a cluster, not of one machine.
const MOST_INSTANCES: u32 = 16;

/// The compose file that Docker would take, if there is one.
pub(super) fn file<'f>(view: &View<'f>) -> Option<&'f str> {
    view.paths().find(|path| is_compose(path))
}

/// The whole file, with a map of `services`.
///
/// # Errors
/// Where and why it cannot be read.
pub(super) fn root(file: &str, text: &str) -> Result<Node, Unread> {
    let root = yaml::read(file, text)?;
    let services = root.get("services").ok_or_else(|| Unread::new(file, Some(1), "it has no `services` at its top"))?;
    if !matches!(services.value, Value::Map(_) | Value::Empty) {
        return Err(Unread::new(file, Some(services.line), "`services` is no map"));
    }
    let odd = services.entries().iter().find(|(_, service)| !matches!(service.value, Value::Map(_)));
    match odd {
        Some((name, service)) => Err(Unread::new(file, Some(service.line), format!("the service `{name}` is no map"))),
        None => Ok(root),
    }
}

/// `is_known`: other files say which services run.
pub(super) fn read(view: &View<'_>, is_known: bool) -> Option<Part> {
    let path = file(view)?;
    let file = view.full(path);
    // Why it cannot be read is said by `unread`.
    let root = root(&file, view.text(path)?).ok()?;
    let mut part = Part::default();
    if let Some((name, line)) = root.get("name").and_then(|node| Some((interpolated(node.text()?), node.line))) {
        part.name = Some((name, reason("", &file, Some(line), "`name`")));
    }
    let services = root.get("services")?.entries();
    let hosts: Vec<&str> = services.iter().map(|(name, _)| name.as_str()).collect();
    for (name, node) in services {
        one(&mut part, view, &file, &Entry { name, node, hosts: &hosts }, is_known);
    }
    if let Some(include) = root.get("include") {
        part.open.push(format!("{file}:{} includes other files, which init does not read", include.line));
    }
    let beside = ["compose.override.yaml", "compose.override.yml"];
    let beside = beside.into_iter().chain(["docker-compose.override.yaml", "docker-compose.override.yml"]);
    for other in beside.filter(|other| view.has(other)) {
        part.open.push(format!("{} is laid over {file} by Docker, and init does not read it", view.full(other)));
    }
    Some(part)
}

/// One entry below `services:`.
struct Entry<'n> {
    name: &'n str,
    node: &'n Node,
    /// The names of all, by which containers reach each other.
    hosts: &'n [&'n str],
}

impl Entry<'_> {
    fn has(&self, key: &str) -> bool {
        self.node.get(key).is_some_and(|node| !node.is_empty())
    }
}

fn one(part: &mut Part, view: &View<'_>, file: &str, entry: &Entry<'_>, is_known: bool) {
    if let Some(extends) = entry.node.get("extends") {
        part.open.push(format!(
            "{file}:{}: {} extends another service, and init does not read what it takes from there",
            extends.line, entry.name
        ));
    }
    let image = entry.node.get("image").and_then(|node| Some((interpolated(node.text()?), node.line)));
    let build = Build::of(entry, view);
    match (image, build) {
        // Beside `build`, `image` is only the name of what is built.
        (_, Some(build)) => {
            let base = build.image.base.clone().map(|(base, at)| (base, build.dockerfile.clone(), at));
            match base.filter(|(base, _, _)| kind(base) != Kind::Other) {
                Some((base, dockerfile, at)) => image_part(part, &dockerfile, entry, &base, at),
                // Its command is in other files; what it is given stands here.
                None if is_known => environment::take(part, None, file, entry),
                None => built(part, file, entry, &build),
            }
        }
        (Some((image, line)), None) => image_part(part, file, entry, &image, line),
        (None, None) if entry.has("extends") => {}
        (None, None) => part.open.push(format!(
            "{file}:{}: {} has neither `image` nor `build`, so that init does not know what it is",
            entry.node.line, entry.name
        )),
    }
}

#[derive(PartialEq, Eq)]
enum Kind {
    Database,
    Cache,
    Other,
}

fn kind(image: &str) -> Kind {
    let name = image.split('@').next().unwrap_or(image);
    let name = name.rsplit('/').next().unwrap_or(name).split(':').next().unwrap_or(name);
    if DATABASE.contains(&name) {
        Kind::Database
    } else if CACHE.contains(&name) {
        Kind::Cache
    } else {
        Kind::Other
    }
}

fn image_part(part: &mut Part, file: &str, entry: &Entry<'_>, image: &str, line: usize) {
    let found = format!("the image {image}");
    match kind(image) {
        Kind::Database => {
            part.has_database = true;
            part.reasons.push(reason("database (PostgreSQL)", file, Some(line), found));
        }
        Kind::Cache => {
            part.has_cache = true;
            part.reasons.push(reason("cache (Redis)", file, Some(line), found));
        }
        Kind::Other => part.open.push(format!(
            "{file}:{line} has {} ({image}), which mainstay does not run: keep running it yourself, and give its \
             address in `env` of [service.NAME]; or make it a service of its own command",
            entry.name
        )),
    }
}

/// What `build` says.
struct Build<'f> {
    line: usize,
    inner: View<'f>,
    /// The Dockerfile as seen from the stack file, and what it says.
    dockerfile: String,
    image: Image,
}

impl<'f> Build<'f> {
    fn of(entry: &Entry<'_>, view: &View<'f>) -> Option<Self> {
        let build = entry.node.get("build")?;
        let text_of = |key: &str| build.get(key).and_then(Node::text).map(interpolated);
        let context = build.text().map(interpolated).or_else(|| text_of("context")).unwrap_or_else(|| ".".to_owned());
        let inner = view.inner(&context);
        let name = text_of("dockerfile").unwrap_or_else(|| "Dockerfile".to_owned());
        let name = name.trim_start_matches("./");
        let target = text_of("target");
        let text = text_of("dockerfile_inline").or_else(|| inner.text(name).map(str::to_owned));
        let image = docker::read(&text.unwrap_or_default(), target.as_deref());
        let line = build.get("context").map_or(build.line, |context| context.line);
        Some(Self { line, dockerfile: inner.full(name), inner, image })
    }
}

fn built(part: &mut Part, file: &str, entry: &Entry<'_>, build: &Build<'_>) {
    let door = Door::of(entry);
    let has_ports = door.is_some();
    let words = |key: &str| entry.node.get(key).and_then(command);
    let start = build.image.start(words("entrypoint"), words("command"));
    let (command, from, found) = match start {
        Some((start, true)) => (start.command, (file.to_owned(), start.at), "its command"),
        Some((start, false)) => (start.command, (build.dockerfile.clone(), start.at), "its command"),
        None => {
            let found = "it is built here, and no command is said";
            (Command::new("./server"), (file.to_owned(), build.line), found)
        }
    };
    let place = Place { file: &from.0, line: Some(from.1) };
    let (command, taken) = given::fit(&command, has_ports, place);
    let is_guess = found != "its command";
    let mut service = Service::new(entry.name, command, has_ports);
    service.dir = build.inner.dir();
    if is_guess {
        service
            .notes
            .push("NOT KNOWN: neither the compose file nor a Dockerfile says the command. Put it here.".to_owned());
        part.open.push(format!("the command of {} is not known: `run` in [service.{}]", entry.name, service.name));
    } else {
        service
            .notes
            .push("The command of the container; here it runs on the machine itself, without an image.".to_owned());
    }
    if has_ports && !service.run.line.contains("PORT") {
        service.notes.push("It must listen on 127.0.0.1 and the port in the environment variable PORT.".to_owned());
    }
    if let Some((path, line)) = entry.node.get("healthcheck").and_then(health) {
        part.reasons.push(reason(format!("health {path}"), file, Some(line), "its health check"));
        service.health = Some(path);
    }
    let what = format!("service {} runs {}", service.name, service.run.line);
    part.reasons.push(reason(what, &from.0, Some(from.1), found));
    taken.give(part, Some(&mut service), place);
    environment::take(part, Some(&mut service), file, entry);
    match replicas(entry.node) {
        Some((Some(number), line)) => {
            service.instances = Some(number);
            let what = format!("{number} instances of {}", service.name);
            part.reasons.push(reason(what, file, Some(line), "`replicas`"));
        }
        Some((None, line)) => part.open.push(format!(
            "{file}:{line}: how many instances {} has is not what init takes over: `instances` in [service.{}]",
            entry.name, service.name
        )),
        None => {}
    }
    let (what, line, why) = match door {
        Some(door) => (format!("{} serves", service.name), door.line, door.why),
        None => {
            let why = "it has no `ports`, no `expose` and no PORT in its `environment`";
            (format!("{} is a worker", service.name), entry.node.line, why)
        }
    };
    part.reasons.push(reason(what, file, Some(line), why));
    part.services.push(service);
}

/// What says that a service listens.
struct Door {
    line: usize,
    why: &'static str,
}

impl Door {
    fn of(entry: &Entry<'_>) -> Option<Self> {
        let listed = |key: &str| entry.node.get(key).filter(|node| !node.is_empty()).map(|node| node.line);
        let ports = listed("ports").map(|line| Self { line, why: "its `ports`" });
        let exposed = || listed("expose").map(|line| Self { line, why: "its `expose`" });
        let given = || {
            let line = environment::line_of_port(entry)?;
            Some(Self { line, why: "PORT in its `environment`; the number is the stack's to choose" })
        };
        ports.or_else(exposed).or_else(given)
    }
}

/// `deploy.replicas`, or `scale` of older files: the number, if it is one that a machine can run, and its line.
fn replicas(node: &Node) -> Option<(Option<u32>, usize)> {
    let said = node.get("deploy").and_then(|deploy| deploy.get("replicas")).or_else(|| node.get("scale"))?;
    let number = said.text().and_then(|text| interpolated(text).parse().ok());
    Some((number.filter(|number| (1..=MOST_INSTANCES).contains(number)), said.line))
}

/// `command` or `entrypoint`: a list of words, or a line that is split into words. No shell reads either, so what a
/// `$` begins is put in by Compose, and `$$` is a dollar sign that the program is given.
fn command(node: &Node) -> Option<Start> {
    let texts: Vec<String> = match &node.value {
        Value::Text(text) => {
            let line = interpolated(&unfolded(text));
            // A quotation mark that is not closed: as it stands.
            shell::split(&line).unwrap_or_else(|| vec![line.trim().to_owned()])
        }
        Value::List(items) => items.iter().filter_map(Node::text).map(interpolated).collect(),
        Value::Empty | Value::Map(_) => return None,
    };
    let words: Vec<Word> = texts.iter().map(|text| Word::template(text)).collect();
    let command = if words.iter().any(Word::expands) {
        // The service is given these variables, if they are in its environment.
        Command::new(words.iter().map(Word::quoted).collect::<Vec<_>>().join(" "))
    } else {
        Command::of_words(words.iter().map(Word::text).collect())
    };
    Some(Start { command, at: node.line }).filter(|start| !start.command.line.trim().is_empty())
}

/// Line breaks are blanks between words, and stay what they are within quotation marks.
fn unfolded(text: &str) -> String {
    let mut mark = None;
    let letters = text.chars().map(|letter| {
        match (mark, letter) {
            (None, '\'' | '"') => mark = Some(letter),
            (Some(open), letter) if open == letter => mark = None,
            _ => {}
        }
        if letter == '\n' && mark.is_none() { ' ' } else { letter }
    });
    letters.collect()
}

/// The path of `curl -f http://localhost:8000/health || exit 1`, and its line.
fn health(node: &Node) -> Option<(String, usize)> {
    let test = node.get("test")?;
    let words: Vec<&str> = match &test.value {
        Value::Text(text) => vec![text],
        Value::List(items) => items.iter().filter_map(Node::text).collect(),
        Value::Empty | Value::Map(_) => return None,
    };
    let hosts = ["http://", "localhost:", "127.0.0.1:"];
    words.iter().find_map(|word| {
        let rest = hosts.iter().find_map(|host| word.split_once(host)).map(|(_, rest)| rest)?;
        let is_end = |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '?' | ',' | ')' | ';');
        let address = rest.split(is_end).next().unwrap_or_default();
        let path = address.split_once('/').map(|(_, path)| path).unwrap_or_default();
        Some((format!("/{path}"), test.line))
    })
}

/// `${NAME:-value}` is `value`: the one that holds where nobody says another.
fn interpolated(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((inner, behind)) = after.split_once('}') else { break };
        out.push_str(before);
        // Only directly after the name: in `${A:?set it in .env-file}` the dash belongs to the words.
        let name = inner.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric() || letter == '_');
        match name.strip_prefix(":-").or_else(|| name.strip_prefix('-')) {
            Some(value) => out.push_str(value),
            None => out.push_str(&format!("${{{inner}}}")),
        }
        rest = behind;
    }
    out + rest
}
