//! `[service.NAME]`: application processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use mainstay_types::{Bytes, ServiceName};

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, wrong_type};
use crate::diagnostic::quote;
use crate::model::{DatabaseUse, Probe, Service};
use crate::origin::Origin;
use crate::raw::{Node, Value};
use crate::read::health::{health, no_port};
use crate::read::schedule::schedule;
use crate::read::variables::{check_templates, env, secrets};
use crate::read::{bad_name, check_url_path, inner_path, part_name, scale};
use crate::words::{nearest, split_command};

/// More connections of one instance than this no PostgreSQL serves well.
const MOST_POOL: u32 = 1000;
/// Connections of an instance that says nothing: the default of most pools.
const POOL: u32 = 10;
/// Below this no runtime starts; it is a mistyped unit.
const LEAST_MEMORY: Bytes = Bytes::mebi(1);
const MOST_MEMORY: Bytes = Bytes(1 << 44);

const HOUR: Duration = Duration::from_secs(3600);

const LATER: [(&str, &str); 9] = [
    ("image", "mainstay runs commands: give `run`"),
    ("build", "build first, and give `run`"),
    ("restart_within", "the promise is `target.instance_crash`"),
    ("restart", "an instance that ends is always restarted, with back-off"),
    ("limit", "nothing is limited at the edge yet"),
    ("traces", "send spans to a collector of your own"),
    ("deploy", "it stands in a table of its own, `[deploy]`"),
    ("cache", "the service sets its own Cache-Control"),
    ("processes", "declare one service a process"),
];
const RENAMED: [(&str, &str); 13] = [
    ("start_within", "health.start_within"),
    ("interval", "health.interval"),
    ("schedule", "every"),
    ("cron", "every"),
    ("command", "run"),
    ("cmd", "run"),
    ("static", "[site.NAME] dir"),
    ("spa", "[site.NAME] spa"),
    ("environment", "env"),
    ("depends_on", "needs"),
    ("replicas", "instances"),
    ("release_command", "before"),
    ("cwd", "dir"),
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
    let (has_port, has_management_port) = (port_flag(cursor, ctx, "port"), port_flag(cursor, ctx, "management_port"));
    let schedule = schedule(cursor, ctx);
    // Keys that a schedule has no use for are told there; what they say must not be told once more.
    let stands = schedule.is_none();
    let has_port = stands && has_port.unwrap_or(true);
    let has_management_port = stands && has_management_port.unwrap_or(false);
    let (uses_database, uses_cache) = uses(cursor, ctx, has);
    let pool = cursor.count(ctx, "pool", 1..=MOST_POOL);
    if pool.is_some() && !uses_database {
        let place = ctx.place(&[&cursor.at("pool")]);
        let message = format!("`{}` is set, and the service uses no database", cursor.at("pool"));
        ctx.error(Code::UsesNothing, &place, message, "remove it, or add \"database\" to `uses`".to_owned());
    }
    let database = database_use(cursor, ctx, uses_database);
    let secrets = secrets(cursor, ctx);
    let env = env(cursor, ctx, &secrets);
    let mut health = health(cursor, ctx, has_port || !stands, has_management_port || !stands);
    if !stands {
        health.probe = Probe::Process;
    }
    let metrics = cursor.text(ctx, "metrics", "metrics = \"/metrics\"");
    if let Some(path) = &metrics {
        check_url_path(ctx, &cursor.at("metrics"), path);
        if stands && !has_port && !has_management_port {
            no_port(ctx, cursor, "metrics", "port");
        }
    }
    let (memory, cpu_milli) = resources(cursor, ctx);
    // A scheduled service has been told that it has no scale: what the scale would need is no matter.
    let has = scale::Has {
        port: has_port || !stands,
        memory: memory.or((!stands).then_some(LEAST_MEMORY)),
        cpu_milli: cpu_milli.or((!stands).then_some(1)),
    };
    let count = scale::count(cursor, ctx, has);
    let service = Service {
        run: run.unwrap_or_default(),
        dir,
        has_port,
        has_management_port,
        instances: if stands { count.instances } else { 0 },
        scale: count.scale.filter(|_| stands),
        schedule,
        env,
        secrets,
        health,
        needs: needs(cursor, ctx),
        uses_database,
        database,
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
    (service, count.max.filter(|_| stands))
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
            // What is meant is clear: routes to it need no second diagnostic.
            Some(true)
        }
        _ => {
            wrong_type(ctx, &cursor.at(key), node, "true or false", &format!("{key} = true"));
            None
        }
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

/// As whom it connects; whether role and database exist is looked at when all are known.
fn database_use(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, uses_database: bool) -> Option<DatabaseUse> {
    let mut table = cursor.table(ctx, "database")?;
    let name = table.text(ctx, "name", "name = \"audit\"").map(|text| text.text);
    let role = table.text(ctx, "role", "role = \"reporting\"").map(|text| text.text);
    table.finish(ctx, &[], &[("user", "role"), ("database", "name"), ("db", "name")]);
    if !uses_database {
        let message = format!("`{}` is set, and the service uses no database", table.path);
        ctx.error(Code::UsesNothing, &table.place, message, "remove it, or add \"database\" to `uses`".to_owned());
    }
    (name.is_some() || role.is_some()).then_some(DatabaseUse { name, role })
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
