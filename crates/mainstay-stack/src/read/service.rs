//! `[service.NAME]`: application processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use mainstay_types::{Bytes, ServiceName};

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, wrong_type};
use crate::diagnostic::quote;
use crate::model::{Health, Probe, Service};
use crate::origin::Origin;
use crate::raw::{Node, Value};
use crate::read::{bad_name, check_url_path, inner_path, one_of, part_name};
use crate::template;
use crate::words::{nearest, split_command};

/// More instances than this on one machine is a slip of the keyboard.
const MOST_INSTANCES: u32 = 100;
/// More connections of one instance than this no PostgreSQL serves well.
const MOST_POOL: u32 = 1000;
/// Connections of an instance that says nothing: the default of most pools.
const POOL: u32 = 10;
/// Longest name of a secret or variable.
const LONGEST_VARIABLE: usize = 64;
/// Below this no runtime starts; it is a mistyped unit.
const LEAST_MEMORY: Bytes = Bytes::mebi(1);
const MOST_MEMORY: Bytes = Bytes(1 << 44);

const HOUR: Duration = Duration::from_secs(3600);

const LATER: [(&str, &str); 10] = [
    ("image", "mainstay runs commands: give `run`"),
    ("build", "build first, and give `run`"),
    ("every", "start it from cron"),
    ("restart_within", "the promise is `target.instance_crash`"),
    ("restart", "an instance that ends is always restarted, with back-off"),
    ("limit", "nothing is limited at the edge yet"),
    ("traces", "send spans to a collector of your own"),
    ("deploy", "a new release replaces the old one at the next `up`"),
    ("cache", "the service sets its own Cache-Control"),
    ("processes", "declare one service a process"),
];
const RENAMED: [(&str, &str); 8] = [
    ("command", "run"),
    ("cmd", "run"),
    ("static", "[site.NAME] dir"),
    ("environment", "env"),
    ("depends_on", "needs"),
    ("replicas", "instances"),
    ("release_command", "before"),
    ("cwd", "dir"),
];
const SCALE_LATER: [(&str, &str); 8] = [
    ("cpu", "a fixed number of instances runs"),
    ("memory", "a fixed number of instances runs"),
    ("latency_p95", "a fixed number of instances runs"),
    ("tolerance", "a fixed number of instances runs"),
    ("up", "a fixed number of instances runs"),
    ("down", "a fixed number of instances runs"),
    ("schedule", "a fixed number of instances runs"),
    ("behavior", "a fixed number of instances runs"),
];

/// What the stack has that a service may use.
#[derive(Clone, Copy, Debug)]
struct Has {
    database: bool,
    cache: bool,
}

/// All services, and the upper bounds of their scales.
pub(super) fn read_all(
    top: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    database: bool,
    cache: bool,
) -> (BTreeMap<ServiceName, Service>, BTreeMap<ServiceName, u32>) {
    let (mut services, mut maxima) = (BTreeMap::new(), BTreeMap::new());
    let Some(tables) = top.table(ctx, "service") else { return (services, maxima) };
    for (key, node) in tables.entries() {
        ctx.declared.insert(key.to_owned());
        // A bad name is told, and its table read all the same: all diagnostics at once.
        let name = part_name(ctx, "service name", key, node);
        let Some(mut cursor) = tables.table_of(ctx, key, node) else { continue };
        let (service, max) = read(&mut cursor, ctx, Has { database, cache });
        if let Some(name) = name {
            maxima.extend(max.map(|max| (name.clone(), max)));
            services.insert(name, service);
        }
    }
    (services, maxima)
}

fn read(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, has: Has) -> (Service, Option<u32>) {
    let run = command(cursor, ctx, "run");
    if run.is_none() && !ctx.is_said(&cursor.at("run")) {
        cursor.missing(ctx, "run", "it is the command that starts an instance", "`run = \"./server --flag\"`");
    }
    let dir = inner_path(cursor, ctx, "dir").unwrap_or_else(|| PathBuf::from("."));
    let has_port = port_flag(cursor, ctx, "port").unwrap_or(true);
    let has_management_port = port_flag(cursor, ctx, "management_port").unwrap_or(false);
    let (instances, max) = instances(cursor, ctx);
    let (uses_database, uses_cache) = uses(cursor, ctx, has);
    let pool = cursor.count(ctx, "pool", 1..=MOST_POOL);
    if pool.is_some() && !uses_database {
        let place = ctx.place(&[&cursor.at("pool")]);
        let message = format!("`{}` is set, and the service uses no database", cursor.at("pool"));
        ctx.error(Code::UsesNothing, &place, message, "remove it, or add \"database\" to `uses`".to_owned());
    }
    let secrets = secrets(cursor, ctx);
    let env = env(cursor, ctx, &secrets);
    let health = health(cursor, ctx, has_port, has_management_port);
    let metrics = cursor.text(ctx, "metrics", "metrics = \"/metrics\"");
    if let Some(path) = &metrics {
        check_url_path(ctx, &cursor.at("metrics"), path);
        if !has_port && !has_management_port {
            no_port(ctx, cursor, "metrics", "port");
        }
    }
    let (memory, cpu_milli) = resources(cursor, ctx);
    let service = Service {
        run: run.unwrap_or_default(),
        dir,
        has_port,
        has_management_port,
        instances,
        env,
        secrets,
        health,
        needs: needs(cursor, ctx),
        uses_database,
        uses_cache,
        pool: pool.unwrap_or(if uses_database { POOL } else { 0 }),
        before: command(cursor, ctx, "before"),
        drain: cursor.duration(ctx, "drain", Duration::ZERO..=HOUR).unwrap_or(Duration::from_secs(30)),
        metrics: metrics.map(|text| text.text),
        memory,
        cpu_milli,
    };
    cursor.finish(ctx, &LATER, &RENAMED);
    check_templates(cursor, ctx, &service);
    (service, max)
}

/// A command line: a text that is split into words, or the words.
fn command(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, key: &'static str) -> Option<Vec<String>> {
    let node = cursor.value(ctx, key)?;
    let path = cursor.at(key);
    let example = format!("{key} = \"./server --flag\"");
    let split = match &node.value {
        Value::Text(text) if text.contains('\0') => Err("it holds a NUL".to_owned()),
        Value::Text(text) => split_command(text).map_err(|error| error.to_string()),
        Value::Array(items) => words(ctx, &path, items, &example)?,
        _ => {
            wrong_type(ctx, &path, node, "a command line or an array of its words", &example);
            return None;
        }
    };
    split
        .map_err(|reason| {
            let help = format!(
                "write the program and its arguments, for example `{example}`; for a shell, {key} = [\"sh\", \"-c\", \"…\"]"
            );
            ctx.error(Code::BadCommand, &node.span, format!("`{path}` is not a command: {reason}"), help);
        })
        .ok()
}

/// The words of a command line. Line breaks are welcome: `["sh", "-c", "…"]` carries whole scripts.
fn words(ctx: &mut Context<'_>, path: &str, items: &[Node], example: &str) -> Option<Result<Vec<String>, String>> {
    let mut words = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match &item.value {
            Value::Text(word) => words.push(word.clone()),
            _ => wrong_type(ctx, &format!("{path}[{index}]"), item, "a text", example),
        }
    }
    if words.len() < items.len() {
        return None;
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Some(Err("it holds a NUL".to_owned()));
    }
    Some(if words.first().is_none_or(String::is_empty) { Err("it is empty".to_owned()) } else { Ok(words) })
}

/// Whether there is a port. Its number is ours to choose.
fn port_flag(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, key: &'static str) -> Option<bool> {
    let variable = if key == "port" { "PORT" } else { "MANAGEMENT_PORT" };
    let node = cursor.value(ctx, key)?;
    match &node.value {
        Value::Boolean(value) => Some(*value),
        Value::Integer(_) => {
            let message = format!("`{}` is a number, and takes true or false", cursor.at(key));
            let help = format!(
                "write `{key} = true`: mainstay chooses a free port for each instance and gives it as `{variable}`"
            );
            ctx.error(Code::WrongType, &node.span, message, help);
            None
        }
        _ => {
            wrong_type(ctx, &cursor.at(key), node, "true or false", &format!("{key} = true"));
            None
        }
    }
}

/// How many instances run, and how many the scale would allow.
fn instances(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> (u32, Option<u32>) {
    let (fixed_node, scale_node) = (cursor.node("instances"), cursor.node("scale"));
    let scale_min = node_of(scale_node, "min");
    let names = (cursor.at("instances"), cursor.at("scale.min"));
    let (use_fixed, use_min) = one_of(ctx, (&names.0, fixed_node), (&names.1, scale_min));
    // Both are read in any case, so that a wrong type is told.
    let fixed = cursor.count(ctx, "instances", 1..=MOST_INSTANCES).filter(|_| use_fixed);
    let mut max = None;
    let mut least = None;
    if let Some(mut scale) = scale_node.and_then(|node| cursor.table_of(ctx, "scale", node)) {
        least = scale.count(ctx, "min", 1..=MOST_INSTANCES).filter(|_| use_min);
        max = scale.count(ctx, "max", 1..=MOST_INSTANCES);
        let origin = ctx.origins.of(&scale.at("min"));
        if use_min {
            ctx.origins.set(cursor.at("instances"), origin);
        }
        // An environment that fixes the number has left the file's scale.
        let is_left = node_of(scale_node, "max").is_some_and(|max| use_fixed && overrides(fixed_node, max));
        if is_left {
            max = None;
        }
        check_scale(&scale, ctx, fixed.or(least).unwrap_or(1), max);
        scale.finish(ctx, &SCALE_LATER, &[("minimum", "min"), ("maximum", "max")]);
    }
    (fixed.or(least).unwrap_or(1), max)
}

/// A key of a node that is a table.
fn node_of<'n>(table: Option<&'n Node>, key: &str) -> Option<&'n Node> {
    match &table?.value {
        Value::Table(table) => table.get(key),
        _ => None,
    }
}

/// Whether the first is an environment's and the second the file's.
fn overrides(first: Option<&Node>, second: &Node) -> bool {
    first.is_some_and(|first| first.is_override) && !second.is_override
}

fn check_scale(scale: &Cursor<'_>, ctx: &mut Context<'_>, least: u32, max: Option<u32>) {
    let Some(max) = max else { return };
    let place = ctx.place(&[&scale.at("max")]);
    if least > max {
        let message = format!("`{}` begins at {least} instances and ends at {max}", scale.path);
        ctx.error(Code::MinAboveMax, &place, message, format!("raise `max` to {least}, or lower `min`"));
    } else if least < max {
        let message = format!("`{}` goes up to {max}, and a fixed number of {least} runs", scale.path);
        let help = "scaling by load is not supported yet: raise `min` when more are needed".to_owned();
        ctx.warning(Code::ScaleFixed, &place, message, help);
    }
}

/// Whether it is given database and cache: what `uses` lists; without `uses`, all that the stack has.
fn uses(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, has: Has) -> (bool, bool) {
    let example = "uses = [\"database\", \"cache\"]";
    let Some(listed) = cursor.texts(ctx, "uses", example) else {
        for (key, is_used) in [("database", has.database), ("cache", has.cache)] {
            if is_used {
                let from = format!("the table `[{key}]`");
                ctx.origins.set(cursor.at(&format!("uses.{key}")), Origin::Derived { from });
            }
        }
        return (has.database, has.cache);
    };
    let (mut database, mut cache) = (false, false);
    for item in listed {
        let (known, is_there) = match item.text.as_str() {
            "database" => (&mut database, has.database),
            "cache" => (&mut cache, has.cache),
            other => {
                let near = match other {
                    "db" | "postgres" | "postgresql" => Some("database"),
                    "redis" | "store" => Some("cache"),
                    _ => nearest(other, ["database", "cache"]),
                };
                let help = near.map_or_else(
                    || "`uses` takes \"database\" and \"cache\"; other services belong in `needs`".to_owned(),
                    |near| format!("did you mean \"{near}\"?"),
                );
                let message = format!("`{}` names \"{}\", which is nothing to use", cursor.at("uses"), quote(other));
                ctx.error(Code::UsesNothing, &item.span, message, help);
                continue;
            }
        };
        *known = true;
        if !is_there {
            let message = format!("`{}` names \"{}\", which the stack does not have", cursor.at("uses"), item.text);
            ctx.error(Code::UsesNothing, &item.span, message, format!("add a `[{}]` table, or remove it", item.text));
        }
    }
    let origin = ctx.origins.of(&cursor.at("uses"));
    for key in ["database", "cache"] {
        ctx.origins.set(cursor.at(&format!("uses.{key}")), origin.clone());
    }
    (database, cache)
}

/// Names of sealed values.
fn secrets(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for item in cursor.texts(ctx, "secrets", "secrets = [\"JWT_KEY\"]").unwrap_or_default() {
        let name = item.text;
        let is_upper = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if !is_upper || !is_variable(&name) {
            let message =
                format!("\"{}\" is no name of a secret: A-Z, 0-9 and _, not beginning with a digit", quote(&name));
            let help = "it becomes an environment variable: write for example \"JWT_KEY\"".to_owned();
            ctx.error(Code::VariableName, &item.span, message, help);
        } else if is_reserved(&name) || template::NAMES.contains(&name.as_str()) {
            reserved(ctx, &item.span, &name);
        } else if !names.insert(name.clone()) {
            let message = format!("the secret \"{name}\" is listed twice");
            ctx.error(Code::SaidTwice, &item.span, message, "keep one of the two".to_owned());
        }
    }
    names
}

/// Environment variables.
fn env(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, secrets: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let Some(table) = cursor.table(ctx, "env") else { return env };
    for (name, node) in table.entries() {
        ctx.note_value(&table.at(name), node);
        if !is_variable(name) {
            let message = format!("\"{}\" is no name of a variable: letters, digits and _", quote(name));
            let help = "rename it: it must not begin with a digit, and 64 letters are the most".to_owned();
            ctx.error(Code::VariableName, &node.key, message, help);
        } else if is_reserved(name) {
            reserved(ctx, &node.key, name);
        } else if secrets.contains(name) {
            let message = format!("`{name}` is in `env` and in `secrets`");
            ctx.error(Code::SaidTwice, &node.key, message, "keep it in one of the two".to_owned());
        }
        match &node.value {
            Value::Text(text) if text.contains('\0') => {
                let message = format!("`{}` holds a NUL, which no environment variable can", table.at(&quote(name)));
                ctx.error(Code::BadValue, &node.span, message, "remove it".to_owned());
            }
            Value::Text(text) => {
                env.insert(name.to_owned(), text.clone());
            }
            _ => wrong_type(
                ctx,
                &table.at(name),
                node,
                "a text",
                &format!("{} = \"…\", in quotation marks", quote(name)),
            ),
        }
    }
    env
}

fn reserved(ctx: &mut Context<'_>, span: &std::ops::Range<usize>, name: &str) {
    let message = format!("`{name}` is given by mainstay itself");
    ctx.error(Code::VariableName, span, message, "choose another name, or remove it".to_owned());
}

fn is_variable(name: &str) -> bool {
    let begins_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    begins_well && name.len() <= LONGEST_VARIABLE && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Variables that an application must be able to trust. `DATABASE_URL` and the like may be written in another form.
fn is_reserved(name: &str) -> bool {
    matches!(name, "PORT" | "MANAGEMENT_PORT") || name.starts_with("MAINSTAY_")
}

/// Names of services; whether they exist is looked at when all are known.
fn needs(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> BTreeSet<ServiceName> {
    let mut needs = BTreeSet::new();
    for item in cursor.texts(ctx, "needs", "needs = [\"backend\"]").unwrap_or_default() {
        match ServiceName::new(item.text.as_str()) {
            Ok(name) => {
                needs.insert(name);
            }
            Err(error) => bad_name(ctx, &item.span, &error),
        }
    }
    needs
}

fn resources(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> (Option<Bytes>, Option<u32>) {
    let Some(mut table) = cursor.table(ctx, "resources") else { return (None, None) };
    let mut is_range = |table: &mut Cursor<'_>, key: &'static str| match table.node(key) {
        Some(node @ Node { value: Value::Array(_), .. }) => {
            let message = format!("`{}` with a lower and an upper amount is not supported yet", table.at(key));
            ctx.error(Code::NotSupported, &node.key, message, "give the upper amount alone, as a text".to_owned());
            true
        }
        _ => false,
    };
    let (memory_range, cpu_range) = (is_range(&mut table, "memory"), is_range(&mut table, "cpu"));
    let memory = if memory_range { None } else { table.size(ctx, "memory", LEAST_MEMORY..=MOST_MEMORY) };
    let cpu = if cpu_range { None } else { table.cpu(ctx, "cpu") };
    table.finish(ctx, &[("disk", "")], &[("mem", "memory")]);
    (memory, cpu)
}

/// How readiness is known: `"/path"`, `"tcp"`, `"process"`, or a table.
fn health(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, has_port: bool, has_management: bool) -> Health {
    let fallback = if has_port { Probe::Tcp } else { Probe::Process };
    let mut health = Health {
        probe: fallback,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        up_after: 2,
        down_after: 3,
        start_within: Duration::from_secs(60),
    };
    let Some(node) = cursor.node("health") else { return health };
    if let Value::Text(text) = &node.value {
        ctx.note_value(&cursor.at("health"), node);
        let origin = ctx.origins.of(&cursor.at("health"));
        ctx.origins.set(cursor.at("health.path"), origin);
        if let Some(probe) = probe(ctx, &cursor.at("health"), text, node, false) {
            health.probe = probe;
        }
    } else if matches!(node.value, Value::Table(_)) {
        let Some(mut table) = cursor.table_of(ctx, "health", node) else { return health };
        health_table(&mut table, ctx, &mut health);
    } else {
        wrong_type(ctx, &cursor.at("health"), node, "a path, \"tcp\", \"process\" or a table", "health = \"/healthz\"");
    }
    match &health.probe {
        Probe::Http { management: true, .. } if !has_management => {
            no_port(ctx, cursor, "health", "management_port");
        }
        Probe::Http { management: false, .. } | Probe::Tcp if !has_port => no_port(ctx, cursor, "health", "port"),
        _ => {}
    }
    health
}

fn health_table(table: &mut Cursor<'_>, ctx: &mut Context<'_>, health: &mut Health) {
    let port = table.text(ctx, "port", "port = \"management\"");
    let on_management = match port.as_ref().map(|port| port.text.as_str()) {
        None | Some("main") => false,
        Some("management") => true,
        Some(other) => {
            let message = format!("`{}` is \"{}\"; it is \"main\" or \"management\"", table.at("port"), quote(other));
            let place = ctx.place(&[&table.at("port")]);
            ctx.error(Code::BadValue, &place, message, "write \"main\" or \"management\"".to_owned());
            false
        }
    };
    let node = table.node("path");
    if let Some(text) = table.text(ctx, "path", "path = \"/healthz\"") {
        if let Some(found) = node.and_then(|node| probe(ctx, &table.at("path"), &text.text, node, on_management)) {
            health.probe = found;
        }
    } else if on_management && node.is_none() {
        table.missing(ctx, "path", "`port` says where it is asked, and nothing what", "`path = \"/healthz\"`");
    }
    let moment = Duration::from_millis(100);
    if let Some(interval) = table.duration(ctx, "interval", moment..=HOUR) {
        health.interval = interval;
        if interval < health.timeout {
            health.timeout = interval;
            ctx.origins.set(table.at("timeout"), Origin::Derived { from: table.at("interval") });
        }
    }
    if let Some(timeout) = table.duration(ctx, "timeout", Duration::from_millis(10)..=HOUR) {
        health.timeout = timeout;
        if timeout > health.interval {
            let place = ctx.place(&[&table.at("timeout")]);
            let message = format!(
                "`{}` is {}, longer than the {} between two probes",
                table.at("timeout"),
                crate::units::show_duration(timeout),
                crate::units::show_duration(health.interval)
            );
            let help = "lower `timeout` or raise `interval`: probes follow each other late otherwise".to_owned();
            ctx.warning(Code::SlowProbe, &place, message, help);
        }
    }
    health.up_after = table.count(ctx, "up_after", 1..=100).unwrap_or(health.up_after);
    health.down_after = table.count(ctx, "down_after", 1..=100).unwrap_or(health.down_after);
    health.start_within = table.duration(ctx, "start_within", moment..=HOUR).unwrap_or(health.start_within);
    table.finish(ctx, &[("command", "give a `path`")], &[("url", "path"), ("every", "interval")]);
}

fn probe(ctx: &mut Context<'_>, path: &str, text: &str, node: &Node, management: bool) -> Option<Probe> {
    match text {
        "tcp" => Some(Probe::Tcp),
        "process" => Some(Probe::Process),
        _ => {
            let found = crate::cursor::plain_text(ctx, path, text, node)?;
            check_url_path(ctx, path, &found);
            Some(Probe::Http { path: found.text, management })
        }
    }
}

fn no_port(ctx: &mut Context<'_>, cursor: &Cursor<'_>, key: &str, port: &str) {
    let place = ctx.place(&[&cursor.at(&format!("{key}.port")), &cursor.at(&format!("{key}.path")), &cursor.at(key)]);
    let message = format!("`{}` asks a port that the service does not have", cursor.at(key));
    ctx.error(Code::NoSuchPort, &place, message, format!("add `{port} = true` to `{}`", cursor.path));
}

/// Templates in `env` name what exists and what this service is given.
fn check_templates(cursor: &Cursor<'_>, ctx: &mut Context<'_>, service: &Service) {
    for (name, value) in &service.env {
        let path = cursor.at(&format!("env.{name}"));
        let place = ctx.place(&[&path]);
        let pieces = match template::pieces(value) {
            Ok(pieces) => pieces,
            Err(error) => {
                let help = "write `${NAME}`, and `$$` for a dollar sign".to_owned();
                ctx.error(Code::BadTemplate, &place, format!("`{path}` is \"{}\": {error}", quote(value)), help);
                continue;
            }
        };
        for piece in pieces {
            let template::Piece::Name(used) = piece else { continue };
            if service.secrets.contains(used) {
                continue;
            }
            if !template::NAMES.contains(&used) {
                let known = template::NAMES.into_iter().chain(service.secrets.iter().map(String::as_str));
                let help = match nearest(used, known) {
                    Some(near) => format!("did you mean `${{{near}}}`?"),
                    None => format!("add it to `secrets`, or use one of: {}", template::NAMES.join(", ")),
                };
                let message = format!("`{path}` uses `${{{}}}`, which does not exist", quote(used));
                ctx.error(Code::UnknownTemplate, &place, message, help);
            } else if let Some(help) = not_given(used, service) {
                let message = format!("`{path}` uses `${{{used}}}`, which this service is not given");
                ctx.error(Code::TemplateNotGiven, &place, message, help.to_owned());
            }
        }
    }
}

/// Why a service is not given a name, as what to do about it.
fn not_given(name: &str, service: &Service) -> Option<&'static str> {
    match name {
        "PORT" if !service.has_port => Some("set `port = true`"),
        "MANAGEMENT_PORT" if !service.has_management_port => Some("add `management_port = true`"),
        _ if name.starts_with("DATABASE_") && !service.uses_database => {
            Some("add a `[database]` table, and \"database\" to `uses` if the service has one")
        }
        _ if name.starts_with("REDIS_") && !service.uses_cache => {
            Some("add a `[cache]` table, and \"cache\" to `uses` if the service has one")
        }
        _ => None,
    }
}
