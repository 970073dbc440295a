//! package.json: its start script is the service, its dependencies say what it uses.

use serde_json::Value;

use super::folder::View;
use super::given::{self, Place, Taken};
use super::text::{Command, add_health, add_service, data_tier, first_of, line_of, port_note, reason};
use super::{Part, Service, Site};

const SERVERS: [&str; 14] = [
    "express",
    "fastify",
    "koa",
    "next",
    "nuxt",
    "@nestjs/core",
    "@hapi/hapi",
    "hono",
    "restify",
    "polka",
    "@remix-run/serve",
    "@sveltejs/adapter-node",
    "sails",
    "@adonisjs/core",
];
const DATABASE: [&str; 8] =
    ["pg", "postgres", "pg-promise", "slonik", "@prisma/client", "sequelize", "typeorm", "knex"];
/// Speak to several databases: only with a driver beside them is it PostgreSQL.
const MANY: [&str; 4] = ["@prisma/client", "sequelize", "typeorm", "knex"];
const OTHER_DRIVERS: [&str; 6] = ["mysql", "mysql2", "sqlite3", "better-sqlite3", "tedious", "mongodb"];
const CACHE: [&str; 7] = ["redis", "ioredis", "bullmq", "bull", "bee-queue", "connect-redis", "rate-limit-redis"];
const QUEUES: [&str; 3] = ["bullmq", "bull", "bee-queue"];
/// What builds a folder of pages and serves nothing itself, and the folder.
const BUILDERS: [(&str, &str); 5] =
    [("vite", "dist"), ("react-scripts", "build"), ("astro", "dist"), ("@vue/cli-service", "dist"), ("parcel", "dist")];

/// `has_other`: another language's server is here already; then Node builds its pages at most.
pub(super) fn read(view: &View<'_>, has_other: bool) -> Option<Part> {
    let text = view.text("package.json")?;
    let file = view.full("package.json");
    let package: Value = serde_json::from_str(text).ok()?;
    let keys =
        |key: &str| package[key].as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut names = keys("dependencies");
    let production = names.clone();
    names.extend(keys("devDependencies"));
    let mut part = Part::default();
    let is_server = first_of(&production, text, &SERVERS).is_some() || start(view, &package, &production).is_some();
    let builder = BUILDERS.iter().find(|(name, _)| names.iter().any(|known| known == name));
    if let (Some((name, dir)), true) = (builder, has_other || !is_server) {
        site(&mut part, view, &package, text, (name, dir));
    } else if !has_other {
        server(&mut part, view, &package, text, &production);
    }
    // A Procfile names the program: what it needs counts all the same.
    if !part.services.is_empty() || view.has("Procfile") {
        let of_many = production.iter().any(|name| OTHER_DRIVERS.contains(&name.as_str()));
        let database: Vec<&str> = DATABASE.into_iter().filter(|name| !(of_many && MANY.contains(name))).collect();
        data_tier(&mut part, &file, text, &production, &database, &CACHE);
        queue(&mut part, text, &production);
        add_health(&mut part, view);
        if !view.has_folder("node_modules") {
            let folder = view.dir().map(|dir| format!(" in {dir}")).unwrap_or_default();
            part.open.push(format!("packages must be there before `mainstay up`: npm ci (or npm install){folder}"));
        }
    }
    part.says_something().then_some(part)
}

fn named(part: &mut Part, view: &View<'_>, package: &Value, text: &str) -> String {
    let name = package["name"].as_str().filter(|name| super::name_of(name).is_some()).map(str::to_owned);
    if let Some(name) = &name {
        let why = reason("", &view.full("package.json"), line_of(text, "\"name\""), "`name`");
        part.name = Some((name.clone(), why));
    }
    name.or_else(|| view.dir()).unwrap_or_else(|| "web".to_owned())
}

fn site(part: &mut Part, view: &View<'_>, package: &Value, text: &str, builder: (&str, &str)) {
    let (tool, built) = builder;
    named(part, view, package, text);
    let dir = view.full(built);
    let name = super::name_of(&view.dir().unwrap_or_default()).unwrap_or_else(|| "site".to_owned());
    let what = format!("site {name} is the folder {dir}");
    part.reasons.push(reason(
        what,
        &view.full("package.json"),
        line_of(text, &format!("\"{tool}\"")),
        format!("`{tool}`"),
    ));
    part.sites.push(Site { name, dir: dir.clone(), notes: Vec::new() });
    part.open.push(format!("the pages must be built before `mainstay up`: npm run build makes {dir}"));
}

fn server(part: &mut Part, view: &View<'_>, package: &Value, text: &str, production: &[String]) {
    let Some((begin, needle, found)) = start(view, package, production) else { return };
    let name = named(part, view, package, text);
    let file = view.full("package.json");
    let line = line_of(text, &needle);
    let place = Place { file: &file, line };
    let (command, taken) = match begin {
        Begin::Command(command) => (command, Taken::default()),
        Begin::Script(script, name) => script_command(script, name, true, place),
    };
    let mut service = Service::new(&name, command, true);
    let framework = first_of(production, text, &SERVERS);
    match framework.as_ref().map(|known| known.name) {
        Some("next" | "nuxt") => {
            part.open.push("it must be built before `mainstay up`: npm run build".to_owned());
        }
        _ => port_note(part, &mut service, view),
    }
    service.env.insert("NODE_ENV".to_owned(), "production".to_owned());
    let found = framework.map_or(found.clone(), |known| format!("{found}, with `{}`", known.name));
    add_service(part, view, service, ("package.json", line, found));
    give(part, taken, place);
    if let Some(script) = package["scripts"]["worker"].as_str() {
        let line = line_of(text, "\"worker\"");
        let place = Place { file: &file, line };
        let (command, taken) = script_command(script, "worker", false, place);
        let mut worker = Service::new("worker", command, false);
        worker.env.insert("NODE_ENV".to_owned(), "production".to_owned());
        add_service(part, view, worker, ("package.json", line, "`scripts.worker`".to_owned()));
        give(part, taken, place);
    }
}

/// To the service that was added last.
fn give(part: &mut Part, taken: Taken, place: Place<'_>) {
    let mut service = part.services.pop();
    taken.give(part, service.as_mut(), place);
    part.services.extend(service);
}

/// How a server is begun.
enum Begin<'p> {
    /// A script, with its name.
    Script(&'p str, &'static str),
    Command(Command),
}

/// The command that starts the server, what to look for in the file, and what was found.
fn start<'p>(view: &View<'_>, package: &'p Value, production: &[String]) -> Option<(Begin<'p>, String, String)> {
    // Nest's own `start` compiles first; this is the one for production.
    for name in ["start:prod", "start"] {
        if let Some(script) = package["scripts"][name].as_str() {
            return Some((Begin::Script(script, name), format!("\"{name}\""), format!("`scripts.{name}`")));
        }
    }
    let is_web = SERVERS.iter().any(|server| production.iter().any(|name| name == server));
    let main = package["main"].as_str().filter(|main| is_web && view.has(main.trim_start_matches("./")));
    if let Some(main) = main {
        let command = Begin::Command(Command::new(format!("node {main}")));
        return Some((command, "\"main\"".to_owned(), "`main`".to_owned()));
    }
    // npm itself starts server.js when there is no start script.
    let guesses = if is_web { &["server.js", "index.js", "app.js"][..] } else { &["server.js"][..] };
    let file = guesses.iter().find(|file| view.has(file))?;
    let command = Begin::Command(Command::new(format!("node {file}")));
    Some((command, "\"name\"".to_owned(), format!("no start script, and {file} is there")))
}

/// A script without npm in between, where that is possible: npm forwards signals late and costs memory.
fn script_command(script: &str, name: &str, has_port: bool, place: Place<'_>) -> (Command, Taken) {
    let before = Command::new(script);
    let (command, taken) = given::fit(&before, has_port, place);
    let by_npm = Command::new(format!("npm run --silent {name}"));
    if command == before && command.wants_shell() {
        return (by_npm, taken);
    }
    // What needs more of a shell than variables is left to npm, which runs the script as it is.
    if command != before && !command.is_simple() {
        let what: Vec<&str> = taken.said.iter().map(|(what, _)| what.as_str()).collect();
        let what = if what.is_empty() { "a password" } else { &what.join("; ") };
        let mut left = Taken::default();
        left.open.push(format!(
            "{place}: npm runs the script `{name}` as it is, and it sets itself what the stack gives ({what}): take \
             that out of the script"
        ));
        return (by_npm, left);
    }
    let words = command.line.split_whitespace();
    let is_setting = |word: &&str| word.split_once('=').is_some_and(|(name, _)| given::is_variable(name));
    let first = words.clone().find(|word| !is_setting(word)).unwrap_or_default();
    let is_here = ["node", "npm", "npx", "yarn", "pnpm", "bun", "deno"].contains(&first) || first.contains('/');
    if is_here || first.is_empty() {
        return (command, taken);
    }
    let at = command.line.find(first).unwrap_or_default();
    let (settings, rest) = command.line.split_at(at);
    (Command::new(format!("{settings}node_modules/.bin/{rest}")), taken)
}

/// Queues live in the Redis that evicts nothing.
fn queue(part: &mut Part, text: &str, production: &[String]) {
    let Some(known) = first_of(production, text, &QUEUES) else { return };
    part.env.insert("REDIS_URL".to_owned(), "${REDIS_STORE_URL}".to_owned());
    part.open.push(format!(
        "`{}` keeps jobs in Redis, so REDIS_URL is the store, which evicts nothing; the cache has its own address in \
         the template ${{REDIS_URL}}",
        known.name
    ));
}
