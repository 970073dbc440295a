//! `[site.NAME]`, `[observe]`, `[console]`, `[target]`: the smaller nouns.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::code::Code;
use crate::context::Context;
use crate::cursor::Cursor;
use crate::model::{Console, Database, Durability, Observe, Promise, Site, SiteCache, Target};
use crate::raw::Value;
use crate::read::{inner_path, part_name};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const CONSOLE_PORT: u16 = 7700;

/// Sites keep to the rule of service names, because both stand in routes.
pub(super) fn sites(top: &mut Cursor<'_>, ctx: &mut Context<'_>) -> BTreeMap<String, Site> {
    let mut sites = BTreeMap::new();
    let Some(tables) = top.table(ctx, "site") else { return sites };
    for (key, node) in tables.entries() {
        if ctx.declared.contains(key) {
            let message = format!("`{key}` is the name of a service and of a site");
            let help = "rename one of the two: routes could not tell them apart".to_owned();
            ctx.error(Code::NameShared, &node.key, message, help);
        }
        ctx.declared.insert(key.to_owned());
        let name = part_name(ctx, "site name", key, node);
        let Some(mut cursor) = tables.table_of(ctx, key, node) else { continue };
        let dir = inner_path(&mut cursor, ctx, "dir");
        if dir.is_none() && !ctx.is_said(&cursor.at("dir")) {
            cursor.missing(ctx, "dir", "it is the folder of built assets", "`dir = \"web/dist\"`");
        }
        let spa = cursor.boolean(ctx, "spa").unwrap_or(false);
        let cache = site_cache(&mut cursor, ctx);
        let later = [("scale", "the edge serves it"), ("build", "build it first")];
        cursor.finish(ctx, &later, &[("static", "dir"), ("path", "dir"), ("root", "dir")]);
        if let Some(name) = name {
            sites.insert(name.to_string(), Site { dir: dir.unwrap_or_else(|| PathBuf::from(".")), spa, cache });
        }
    }
    sites
}

/// A profile, or a time.
fn site_cache(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> SiteCache {
    let profile = match cursor.node("cache").map(|node| &node.value) {
        Some(Value::Text(text)) => match text.as_str() {
            "assets" => Some(SiteCache::Assets),
            "revalidate" => Some(SiteCache::Revalidate),
            "none" => Some(SiteCache::NoStore),
            _ => None,
        },
        _ => None,
    };
    if let Some(profile) = profile {
        cursor.value(ctx, "cache");
        return profile;
    }
    let time = cursor.duration(ctx, "cache", SECOND..=DAY * 365);
    time.map_or_else(SiteCache::default, |time| SiteCache::For { time })
}

pub(super) fn observe(top: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Observe {
    let mut observe = Observe { enabled: true, scrape: SECOND * 15, retention: DAY * 15 };
    let Some(mut cursor) = top.table(ctx, "observe") else { return observe };
    observe.enabled = cursor.boolean(ctx, "enabled").unwrap_or(observe.enabled);
    observe.scrape = cursor.duration(ctx, "scrape", SECOND..=HOUR).unwrap_or(observe.scrape);
    observe.retention = cursor.duration(ctx, "retention", HOUR..=DAY * 3650).unwrap_or(observe.retention);
    let later = [
        ("logs", "logs are kept to a bound of size"),
        ("refresh", "the console is told of changes at once"),
        ("traces", "send spans to a collector of your own"),
        ("redact", "the service keeps passwords out of its own log"),
    ];
    cursor.finish(ctx, &later, &[("metrics", "retention"), ("interval", "scrape")]);
    observe
}

pub(super) fn console(top: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Console {
    let mut port = None;
    if let Some(mut cursor) = top.table(ctx, "console") {
        port = cursor.port(ctx, "port");
        cursor.finish(ctx, &[("host", "it is on loopback only"), ("listen", "it is on loopback only")], &[]);
    }
    Console { port: port.unwrap_or(CONSOLE_PORT) }
}

pub(super) fn target(top: &mut Cursor<'_>, ctx: &mut Context<'_>, database: Option<&Database>) -> Target {
    let default = |rto: Duration, rpo: Duration| Promise { rto, rpo, is_declared: false };
    // Asynchronous standbys lag: what was acknowledged in the last seconds may be lost.
    let is_fast = database.is_some_and(|database| database.durability == Durability::Fast);
    let database_rpo = if is_fast { SECOND * 5 } else { Duration::ZERO };
    let hang_after = database.map_or(Duration::ZERO, |database| database.hang_after);
    let backup = database.and_then(|database| database.backup.as_ref());
    let restore_rpo = backup.map_or(SECOND * 60, |backup| backup.rpo);
    let copy_rpo = backup.and_then(|backup| backup.copy.as_ref()).map_or(SECOND * 300, |copy| copy.rpo);
    let mut target = Target {
        instance_crash: default(SECOND * 10, Duration::ZERO),
        database_failure: default(SECOND * 60, database_rpo),
        database_freeze: default(hang_after + SECOND, database_rpo),
        standby_loss: default(SECOND / 5, Duration::ZERO),
        switchover: default(SECOND, Duration::ZERO),
        scale_up: default(SECOND, Duration::ZERO),
        scale_down: default(SECOND, Duration::ZERO),
        deploy: default(SECOND, Duration::ZERO),
        replication_lag: default(SECOND * 8, Duration::ZERO),
        pool_exhaustion: default(SECOND * 5, Duration::ZERO),
        corrupt_page: default(SECOND * 15, Duration::ZERO),
        disk_full: default(SECOND * 5, Duration::ZERO),
        edge_crash: default(SECOND, Duration::ZERO),
        router_crash: default(SECOND, Duration::ZERO),
        cache_crash: default(SECOND * 5, Duration::ZERO),
        cache_loss: default(SECOND, Duration::ZERO),
        // While its file is being synced, once a second, Redis answers before the kernel has the data, for 2 s at most.
        store_crash: default(SECOND * 5, SECOND * 2),
        control_plane_crash: default(SECOND * 10, Duration::ZERO),
        keep_crash: default(SECOND * 10, Duration::ZERO),
        restore: default(SECOND * 1800, restore_rpo),
        machine_loss: default(SECOND * 3600, restore_rpo + copy_rpo),
        p95: None,
    };
    let Some(mut cursor) = top.table(ctx, "target") else { return target };
    promise(&mut cursor, ctx, "instance_crash", &mut target.instance_crash);
    promise(&mut cursor, ctx, "database_failure", &mut target.database_failure);
    promise(&mut cursor, ctx, "database_freeze", &mut target.database_freeze);
    promise(&mut cursor, ctx, "standby_loss", &mut target.standby_loss);
    promise(&mut cursor, ctx, "switchover", &mut target.switchover);
    promise(&mut cursor, ctx, "scale_up", &mut target.scale_up);
    promise(&mut cursor, ctx, "scale_down", &mut target.scale_down);
    promise(&mut cursor, ctx, "deploy", &mut target.deploy);
    promise(&mut cursor, ctx, "replication_lag", &mut target.replication_lag);
    promise(&mut cursor, ctx, "pool_exhaustion", &mut target.pool_exhaustion);
    promise(&mut cursor, ctx, "corrupt_page", &mut target.corrupt_page);
    promise(&mut cursor, ctx, "disk_full", &mut target.disk_full);
    promise(&mut cursor, ctx, "edge_crash", &mut target.edge_crash);
    promise(&mut cursor, ctx, "router_crash", &mut target.router_crash);
    promise(&mut cursor, ctx, "cache_crash", &mut target.cache_crash);
    promise(&mut cursor, ctx, "cache_loss", &mut target.cache_loss);
    promise(&mut cursor, ctx, "store_crash", &mut target.store_crash);
    promise(&mut cursor, ctx, "control_plane_crash", &mut target.control_plane_crash);
    promise(&mut cursor, ctx, "keep_crash", &mut target.keep_crash);
    promise(&mut cursor, ctx, "restore", &mut target.restore);
    promise(&mut cursor, ctx, "machine_loss", &mut target.machine_loss);
    target.p95 = cursor.duration(ctx, "p95", Duration::from_millis(1)..=HOUR);
    finish_target(&cursor, ctx);
    target
}

fn finish_target(cursor: &Cursor<'_>, ctx: &mut Context<'_>) {
    const NO_DRILL: &str = "nothing measures it yet, and a promise that nothing measures is none";
    let later = [
        "availability",
        "p50",
        "p99",
        "throughput",
        "cache_hit",
        "node_failure",
        "zone_outage",
        "region_outage",
        "bad_deploy",
        "local_start",
    ]
    .map(|key| (key, NO_DRILL));
    cursor.finish(
        ctx,
        &later,
        &[
            ("database_crash", "database_failure"),
            ("database_hang", "database_freeze"),
            ("redis_crash", "store_crash"),
            ("standby_crash", "standby_loss"),
            ("deleted_data", "restore"),
        ],
    );
}

fn promise(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, key: &'static str, promise: &mut Promise) {
    let Some(mut table) = cursor.table(ctx, key) else { return };
    promise.is_declared = true;
    promise.rto = table.duration(ctx, "rto", Duration::from_millis(1)..=DAY * 30).unwrap_or(promise.rto);
    promise.rpo = table.duration(ctx, "rpo", Duration::ZERO..=DAY * 30).unwrap_or(promise.rpo);
    table.finish(ctx, &[], &[("within", "rto"), ("lose_at_most", "rpo")]);
}
