//! `[database]` and `[cache]`: what holds the data.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use mainstay_types::{Bytes, StackName};

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, wrong_type};
use crate::diagnostic::quote;
use crate::model::{
    Backup, BackupTarget, Cache, Database, DatabaseRole, Durability, Keep, PoolLimits, PoolMode, RoleAccess,
    StoreCopies,
};
use crate::origin::Origin;
use crate::raw::Value;
use crate::read::copy::{self, copy};
use crate::read::{inner_path, one_of};
use crate::units::show_duration;
use crate::words::nearest;

/// Members are `a` to `f`: a primary and five standbys.
const MOST_STANDBYS: u32 = 5;
/// A primary is probed every 250 ms: below two probes silence cannot be told from chance.
const HANG_AFTER_LEAST: Duration = Duration::from_millis(500);
const MINUTES: Duration = Duration::from_secs(600);
/// Shorter than a statement takes, it would refuse clients for being two.
const POOL_WAIT_LEAST: Duration = Duration::from_millis(10);
/// Connections that are made and closed all the time cost more than they save.
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
/// As many as the router lets in.
const MOST_WAITING: u32 = 12_000;
/// Below this the services, mainstay and PostgreSQL's own reserve do not fit.
const LEAST_CONNECTIONS: u32 = 20;
/// Each costs a process of some MB; PostgreSQL with more than this on one machine does not work.
const MOST_CONNECTIONS: u32 = 10_000;
const WRITE_PORT: u16 = 6432;
const READ_PORT: u16 = 6433;
/// PostgreSQL cuts names here (NAMEDATALEN - 1).
const LONGEST_NAME: usize = 63;

const LATER: [(&str, &str); 6] = [
    ("engine", "it is PostgreSQL"),
    ("version", "the installed PostgreSQL is used"),
    ("failover", "the promise is `target.database_failure`"),
    ("pool", "each service has its own `pool`; the router's is `pool_size`"),
    ("pooler", "mainstay's own router stands in front"),
    ("extensions", "create them in a migration"),
];
const RENAMED: [(&str, &str); 6] = [
    ("users", "roles"),
    ("role", "roles"),
    ("replication", "durability"),
    ("sync", "durability"),
    ("port", "write_port"),
    ("config", "settings"),
];

/// Settings that mainstay sets itself; another value would break replication, fencing or the way in.
const MANAGED: [&str; 39] = [
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "cluster_name",
    "config_file",
    "data_directory",
    "external_pid_file",
    "fsync",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "log_destination",
    "logging_collector",
    "max_connections",
    "max_replication_slots",
    "max_wal_senders",
    "password_encryption",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "restart_after_crash",
    "restore_command",
    "ssl",
    "synchronous_commit",
    "synchronous_standby_names",
    "unix_socket_directories",
    "unix_socket_group",
    "unix_socket_permissions",
    "wal_level",
];

/// The stack's name, and where it stands.
type Named<'a> = (&'a StackName, &'a Range<usize>);

/// The database's name is the stack's, where the file says none.
fn named_after(ctx: &mut Context<'_>, (stack, span): Named<'_>) -> String {
    let name = stack.as_str().replace('-', "_");
    if is_taken(&name) && !ctx.is_said("database.name") {
        let message =
            format!("the database is named after the stack, and PostgreSQL or mainstay uses \"{name}\" itself");
        let help = "name the stack otherwise, or write `name = \"myapp\"` under [database]".to_owned();
        ctx.error(Code::BadName, span, message, help);
    }
    name
}

pub(super) fn database(top: &mut Cursor<'_>, ctx: &mut Context<'_>, stack: Named<'_>) -> Option<Database> {
    let mut cursor = top.table(ctx, "database")?;
    let (standbys, replicas) = (cursor.node("standbys"), cursor.node("replicas"));
    let (use_standbys, use_replicas) = one_of(ctx, ("database.standbys", standbys), ("database.replicas", replicas));
    // Both are read in any case, so that a wrong type is told.
    let named = cursor.count(ctx, "standbys", 0..=MOST_STANDBYS).filter(|_| use_standbys);
    let aliased = cursor.count(ctx, "replicas", 0..=MOST_STANDBYS).filter(|_| use_replicas);
    if use_replicas {
        let origin = ctx.origins.of("database.replicas");
        ctx.origins.set("database.standbys", origin);
    }
    let name = database_name(&mut cursor, ctx).unwrap_or_else(|| {
        ctx.origins.set("database.name", Origin::Derived { from: "stack".to_owned() });
        named_after(ctx, stack)
    });
    let mut database = Database {
        name,
        standbys: named.or(aliased).unwrap_or(1),
        durability: durability(&mut cursor, ctx).unwrap_or(Durability::Balanced),
        hang_after: cursor.duration(ctx, "hang_after", HANG_AFTER_LEAST..=MINUTES).unwrap_or(Duration::from_secs(3)),
        hold: cursor.duration(ctx, "hold", Duration::ZERO..=MINUTES).unwrap_or(Duration::from_secs(30)),
        max_connections: cursor.count(ctx, "max_connections", LEAST_CONNECTIONS..=MOST_CONNECTIONS).unwrap_or(100),
        pool_mode: pool_mode(&mut cursor, ctx).unwrap_or(PoolMode::Session),
        pool_size: cursor.count(ctx, "pool_size", 1..=MOST_CONNECTIONS),
        pool: pool_limits(&mut cursor, ctx),
        migrations: inner_path(&mut cursor, ctx, "migrations"),
        write_port: cursor.port(ctx, "write_port").unwrap_or(WRITE_PORT),
        read_port: cursor.port(ctx, "read_port").unwrap_or(READ_PORT),
        databases: BTreeSet::new(),
        roles: BTreeMap::new(),
        settings: settings(&mut cursor, ctx),
        backup: backup(&mut cursor, ctx),
    };
    database.databases = databases(&mut cursor, ctx, &database.name);
    database.roles = roles(&mut cursor, ctx, &database);
    cursor.finish(ctx, &LATER, &RENAMED);
    Some(database)
}

/// WAL is switched at half of it, and a segment every second is the most that makes sense.
const RPO_LEAST: Duration = Duration::from_secs(2);
const RPO_MOST: Duration = Duration::from_secs(24 * 3600);
const DAYS: Duration = Duration::from_secs(3660 * 86_400);
const BACKUP_LATER: [(&str, &str); 5] = [
    ("before_deploy", "take one with `mainstay backup now`"),
    ("verify", "every backup is restored and checked; `proof` says how old the last proof may become"),
    ("encrypt", "backups are always encrypted"),
    ("engine", "mainstay's own makes them"),
    ("compress", "backups are always compressed"),
];
const BACKUP_RENAMED: [(&str, &str); 9] = [
    ("to", "target"),
    ("dir", "target"),
    ("folder", "target"),
    ("full", "keep"),
    ("every", "keep"),
    ("schedule", "keep"),
    ("retention", "keep"),
    ("pitr", "window"),
    ("asserts", "assert"),
];

fn backup(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Backup> {
    let mut table = cursor.table(ctx, "backup")?;
    let target = table.text(ctx, "target", "target = \"/srv/backups/myapp\"");
    let rpo = table.duration(ctx, "rpo", RPO_LEAST..=RPO_MOST).unwrap_or(Duration::from_secs(60));
    let day_begins = day_begins(&mut table, ctx).unwrap_or(Duration::from_secs(3 * 3600));
    let window = table.duration(ctx, "window", HOUR..=DAYS).unwrap_or(7 * DAY);
    let proof = table.duration(ctx, "proof", HOUR..=DAYS).unwrap_or(DAY);
    let example = "assert = [\"SELECT count(*) > 0 FROM users\"]";
    let asserts = table.texts(ctx, "assert", example).unwrap_or_default();
    let keep = keep(&mut table, ctx);
    let copy = copy(&mut table, ctx);
    let is_store = target.as_ref().is_some_and(|target| target.text.contains("://"));
    let store = match &target {
        Some(target) if is_store => copy::target(&mut table, ctx, target),
        Some(_) | None => {
            copy::no_store(&mut table, ctx);
            None
        }
    };
    table.finish(ctx, &BACKUP_LATER, &BACKUP_RENAMED);
    let Some(target) = target else {
        if !ctx.is_said("database.backup.target") {
            table.missing(ctx, "target", "backups are kept there", "target = \"/srv/backups/myapp\"");
        }
        return None;
    };
    if is_store && copy.is_some() {
        let message = "`database.backup.copy` is a second copy of a folder, and the target is a store";
        let help = "leave it out; the bucket's own replication makes a second one, or make the target a folder";
        ctx.error(Code::BadValue, &target.span, message.to_owned(), help.to_owned());
        return None;
    }
    let is_path = !target.text.is_empty() && !target.text.contains(['\n', '\0']);
    let target = match store {
        _ if is_store => BackupTarget::Store(store?),
        _ if is_path => BackupTarget::Folder(PathBuf::from(target.text)),
        _ => {
            let message = format!("`database.backup.target` is \"{}\", which is no folder", quote(&target.text));
            let help =
                "write a folder here, best on another disk, or an object store: target = \"s3://my-backups/shop\"";
            ctx.error(Code::BadValue, &target.span, message, help.to_owned());
            return None;
        }
    };
    let asserts = asserts.into_iter().map(|text| text.text).collect();
    Some(Backup { target, rpo, day_begins, window, proof, keep, asserts, copy })
}

/// `at = "03:00"`.
fn day_begins(table: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Duration> {
    let text = table.text(ctx, "at", "at = \"03:00\"")?;
    let time = crate::schedule::time_of_day(&text.text);
    if time.is_none() {
        let message = format!(
            "`database.backup.at` is \"{}\"; it is a time of day in UTC, from 00:00 to 23:59",
            quote(&text.text)
        );
        ctx.error(Code::BadValue, &text.span, message, "write for example \"03:00\"".to_owned());
    }
    time.map(Duration::from_secs)
}

fn keep(table: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Keep {
    let mut keep = Keep::default();
    let Some(mut table) = table.table(ctx, "keep") else { return keep };
    for (key, value) in [
        ("hourly", &mut keep.hourly),
        ("daily", &mut keep.daily),
        ("weekly", &mut keep.weekly),
        ("monthly", &mut keep.monthly),
        ("yearly", &mut keep.yearly),
        ("by_hand", &mut keep.by_hand),
        ("deploys", &mut keep.deploys),
    ] {
        *value = table.duration(ctx, key, Duration::ZERO..=DAYS).unwrap_or(*value);
    }
    table.finish(
        ctx,
        &[],
        &[
            ("manual", "by_hand"),
            ("deploy", "deploys"),
            ("releases", "deploys"),
            ("hours", "hourly"),
            ("days", "daily"),
        ],
    );
    keep
}

fn database_name(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<String> {
    let name = cursor.text(ctx, "name", "name = \"myapp\"")?;
    checked_name(ctx, "database.name", &name.text, &name.span)
}

/// Further databases.
fn databases(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, own: &str) -> BTreeSet<String> {
    let mut databases = BTreeSet::new();
    for (index, item) in
        cursor.texts(ctx, "databases", "databases = [\"audit\"]").unwrap_or_default().iter().enumerate()
    {
        let path = format!("database.databases[{index}]");
        let Some(name) = checked_name(ctx, &path, &item.text, &item.span) else { continue };
        if name == own || databases.contains(&name) {
            let message = format!("`{path}` is \"{name}\", which the stack has already");
            ctx.error(Code::SaidTwice, &item.span, message, "remove it".to_owned());
            continue;
        }
        databases.insert(name);
    }
    databases
}

/// Further roles.
fn roles(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, database: &Database) -> BTreeMap<String, DatabaseRole> {
    let mut roles = BTreeMap::new();
    let Some(table) = cursor.table(ctx, "roles") else { return roles };
    for (key, node) in table.entries() {
        let path = table.at(&quote(key));
        let name = checked_name(ctx, &path, key, &node.key);
        let Some(mut one) = table.table_of(ctx, key, node) else { continue };
        let (access, of) = (access(&mut one, ctx), one.text(ctx, "database", "database = \"audit\""));
        one.finish(
            ctx,
            &[("password", "it is generated and sealed"), ("limit", "")],
            &[("rights", "access"), ("db", "database")],
        );
        let is_owner = |name: &str| name == database.name || database.databases.contains(name);
        if name.as_deref().is_some_and(is_owner) {
            let message = format!("`{path}` has the name of a database, whose owner is a role already");
            ctx.error(Code::BadName, &node.key, message, "choose another name".to_owned());
            continue;
        }
        let of = match of {
            None => database.name.clone(),
            Some(text) if is_owner(&text.text) => text.text,
            Some(text) => {
                let message =
                    format!("`{path}.database` is \"{}\", which is no database of the stack", quote(&text.text));
                let known =
                    std::iter::once(database.name.as_str()).chain(database.databases.iter().map(String::as_str));
                let help = match nearest(&text.text, known) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "name it in `database.databases`, or remove the key".to_owned(),
                };
                ctx.error(Code::UsesNothing, &text.span, message, help);
                continue;
            }
        };
        if let (Some(name), Some(access)) = (name, access) {
            roles.insert(name, DatabaseRole { access, database: of });
        }
    }
    roles
}

fn access(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<RoleAccess> {
    let example = "access = \"read\"";
    let Some(text) = cursor.text(ctx, "access", example) else {
        if !ctx.is_said(&cursor.at("access")) {
            cursor.missing(ctx, "access", "it says what the role may do", &format!("{example} or \"write\""));
        }
        return None;
    };
    match text.text.as_str() {
        "read" => Some(RoleAccess::Read),
        "write" => Some(RoleAccess::Write),
        other => {
            let message = format!("`{}` is \"{}\"; it is \"read\" or \"write\"", cursor.at("access"), quote(other));
            let help = "what makes and drops tables connects as the database's owner, which bears its name".to_owned();
            ctx.error(Code::BadValue, &text.span, message, help);
            None
        }
    }
}

/// A role of these names is the server's; `mainstay` is ours.
fn is_taken(name: &str) -> bool {
    matches!(name, "postgres" | "template0" | "template1" | "public" | "all" | "replication" | "none")
        || name.starts_with("pg_")
        || name.starts_with("mainstay")
}

/// A name of a database or role that no server takes for another.
fn checked_name(ctx: &mut Context<'_>, path: &str, text: &str, span: &Range<usize>) -> Option<String> {
    let bytes = text.as_bytes();
    let is_plain = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_');
    let begins_well = bytes.first().is_some_and(u8::is_ascii_lowercase);
    if !is_plain || !begins_well || bytes.len() > LONGEST_NAME {
        let message = format!(
            "`{path}` is \"{}\"; it is 1 to {LONGEST_NAME} of a-z, 0-9 and _, beginning with a letter",
            quote(text)
        );
        ctx.error(Code::BadName, span, message, "write for example \"myapp\"".to_owned());
        return None;
    }
    if is_taken(text) {
        let message = format!("`{path}` is \"{text}\", which PostgreSQL or mainstay uses itself");
        ctx.error(Code::BadName, span, message, "choose another name".to_owned());
        return None;
    }
    Some(text.to_owned())
}

fn durability(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Durability> {
    let text = cursor.text(ctx, "durability", "durability = \"balanced\"")?;
    match text.text.as_str() {
        "fast" => return Some(Durability::Fast),
        "balanced" => return Some(Durability::Balanced),
        "strict" => return Some(Durability::Strict),
        _ => {}
    }
    let message =
        format!("`database.durability` is \"{}\"; it is \"fast\", \"balanced\" or \"strict\"", quote(&text.text));
    let near = match text.text.as_str() {
        "async" => Some("fast"),
        "sync" | "available" => Some("balanced"),
        other => nearest(other, ["fast", "balanced", "strict"]),
    };
    let help = near.map_or_else(|| "write \"balanced\"".to_owned(), |near| format!("did you mean \"{near}\"?"));
    ctx.error(Code::BadValue, &text.span, message, help);
    None
}

fn pool_limits(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> PoolLimits {
    let default = PoolLimits::default();
    PoolLimits {
        wait: cursor.duration(ctx, "pool_wait", POOL_WAIT_LEAST..=MINUTES).unwrap_or(default.wait),
        queue: cursor.count(ctx, "pool_queue", 1..=MOST_WAITING).unwrap_or(default.queue),
        idle: cursor.count(ctx, "pool_idle", 0..=MOST_CONNECTIONS).unwrap_or(default.idle),
        idle_timeout: cursor.duration(ctx, "pool_idle_timeout", SECOND..=DAY).unwrap_or(default.idle_timeout),
        lifetime: cursor.duration(ctx, "pool_lifetime", SECOND..=DAY).unwrap_or(default.lifetime),
        read_wait: cursor.duration(ctx, "read_wait", POOL_WAIT_LEAST..=MINUTES).unwrap_or(default.read_wait),
    }
}

fn pool_mode(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<PoolMode> {
    let text = cursor.text(ctx, "pool_mode", "pool_mode = \"transaction\"")?;
    match text.text.as_str() {
        "session" => return Some(PoolMode::Session),
        "transaction" => return Some(PoolMode::Transaction),
        _ => {}
    }
    let message = format!("`database.pool_mode` is \"{}\"; it is \"session\" or \"transaction\"", quote(&text.text));
    let near = nearest(&text.text, ["session", "transaction"]);
    let help = near.map_or_else(|| "write \"transaction\"".to_owned(), |near| format!("did you mean \"{near}\"?"));
    ctx.error(Code::BadValue, &text.span, message, help);
    None
}

/// Further settings of the server, as postgresql.conf names them.
fn settings(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let Some(table) = cursor.table(ctx, "settings") else { return settings };
    for (name, node) in table.entries() {
        let path = table.at(&quote(name));
        ctx.note_value(&table.at(name), node);
        let begins_well = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'.');
        if !begins_well || !is_plain {
            let message = format!("`{path}` is no name of a server setting: a-z, 0-9, _ and .");
            ctx.error(Code::BadName, &node.key, message, "write it as postgresql.conf does, in lower case".to_owned());
            continue;
        }
        if MANAGED.contains(&name) {
            let help = if name == "max_connections" {
                "write `database.max_connections`".to_owned()
            } else {
                "remove it".to_owned()
            };
            ctx.error(Code::ManagedSetting, &node.key, format!("`{path}` is set by mainstay itself"), help);
            continue;
        }
        let value = match &node.value {
            Value::Text(text) => crate::cursor::plain_text(ctx, &path, text, node).map(|text| text.text),
            Value::Integer(Some(number)) => Some(number.to_string()),
            Value::Float(number) => Some(number.clone()),
            Value::Boolean(value) => Some(if *value { "on" } else { "off" }.to_owned()),
            Value::Table(_) => {
                let example = format!("\"{}.name\" = …, with the whole name in quotation marks", quote(name));
                wrong_type(ctx, &path, node, "a text, a number, true or false", &example);
                None
            }
            _ => {
                wrong_type(ctx, &path, node, "a text, a number, true or false", "work_mem = \"16MB\"");
                None
            }
        };
        settings.extend(value.map(|value| (name.to_owned(), value)));
    }
    settings
}

/// Memory of each Redis that says nothing.
const REDIS_MEMORY: Bytes = Bytes::mebi(256);
/// Redis itself needs about 1 MiB before it holds anything.
const REDIS_LEAST: Bytes = Bytes::mebi(4);
const REDIS_MOST: Bytes = Bytes(1 << 42);
/// On one machine a third copy in memory is the last that protects from anything.
const MOST_REPLICAS: u32 = 2;
/// A copy of a full store takes seconds of a core.
const COPIES_LEAST: Duration = Duration::from_secs(60);

const CACHE_LATER: [(&str, &str); 5] = [
    ("engine", "the installed Redis or Valkey is used"),
    ("version", "the installed Redis or Valkey is used"),
    ("replicas", "one cache runs; the store's are `store_replicas`"),
    ("evict", "the cache evicts what was used longest ago, the store nothing"),
    ("ttl", "the service sets the time to live of its keys"),
];

pub(super) fn cache(top: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Cache> {
    let mut cursor = top.table(ctx, "cache")?;
    let cache_memory = cursor.size(ctx, "max_memory", REDIS_LEAST..=REDIS_MOST).unwrap_or(REDIS_MEMORY);
    let store_memory = cursor.size(ctx, "store_max_memory", REDIS_LEAST..=REDIS_MOST).unwrap_or(REDIS_MEMORY);
    let mut store_persists = true;
    if let Some(persist) = cursor.text(ctx, "persist", "persist = \"aof\"") {
        match persist.text.as_str() {
            "aof" => {}
            "none" => store_persists = false,
            other => {
                let message = format!("`cache.persist` is \"{}\"; it is \"aof\" or \"none\"", quote(other));
                let help = "write \"aof\" to keep the store through a restart".to_owned();
                ctx.error(Code::BadValue, &persist.span, message, help);
            }
        }
    }
    let store_replicas = cursor.count(ctx, "store_replicas", 0..=MOST_REPLICAS).unwrap_or(0);
    if store_replicas > 0 && !store_persists {
        let place = ctx.place(&["cache.store_replicas", "cache.persist"]);
        let message =
            "`cache.store_replicas` with `cache.persist` = \"none\": a store that begins empty empties its replicas";
        let help = "write persist = \"aof\", or store_replicas = 0 in this environment";
        ctx.error(Code::BadValue, &place, message.to_owned(), help.to_owned());
    }
    let copies = store_copies(&mut cursor, ctx);
    let renamed = [("memory", "max_memory"), ("store_memory", "store_max_memory"), ("backup", "copies")];
    cursor.finish(ctx, &CACHE_LATER, &renamed);
    Some(Cache { cache_memory, store_memory, store_persists, store_replicas, copies })
}

/// Copies of the store. Without its file it promises nothing, and is not copied either.
fn store_copies(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> StoreCopies {
    let default = StoreCopies::default();
    let Some(mut table) = cursor.table(ctx, "copies") else { return default };
    let copies = StoreCopies {
        every: table.duration(ctx, "every", Duration::ZERO..=DAY).unwrap_or(default.every),
        keep: table.duration(ctx, "keep", HOUR..=DAYS).unwrap_or(default.keep),
        keep_daily: table.duration(ctx, "keep_daily", Duration::ZERO..=DAYS).unwrap_or(default.keep_daily),
    };
    if !copies.every.is_zero() && copies.every < COPIES_LEAST {
        let place = ctx.place(&["cache.copies.every"]);
        let message = format!("`cache.copies.every` is {}, which is below 1m", show_duration(copies.every));
        let help = "choose 1m to 1d, or \"0s\" for no copies: Redis forks for each, and a second one loads it";
        ctx.error(Code::OutOfRange, &place, message, help.to_owned());
    }
    let later = [("target", "copies lie in the state folder"), ("verify", "every copy is loaded and counted")];
    table.finish(ctx, &later, &[("hourly", "every"), ("daily", "keep_daily"), ("retention", "keep")]);
    copies
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_settings_are_in_order_and_each_once() {
        assert!(MANAGED.is_sorted_by(|a, b| a < b));
    }
}
