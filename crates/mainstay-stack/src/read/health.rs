//! `health` of a service: how readiness is known.

use std::time::Duration;

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, plain_text, wrong_type};
use crate::diagnostic::quote;
use crate::model::{Health, Probe};
use crate::origin::Origin;
use crate::raw::{Node, Value};
use crate::read::check_url_path;
use crate::units::show_duration;

const HOUR: Duration = Duration::from_secs(3600);

/// How readiness is known: `"/path"`, `"tcp"`, `"process"`, or a table.
pub(super) fn health(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, has_port: bool, has_management: bool) -> Health {
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
                show_duration(timeout),
                show_duration(health.interval)
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
            let found = plain_text(ctx, path, text, node)?;
            check_url_path(ctx, path, &found);
            Some(Probe::Http { path: found.text, management })
        }
    }
}

/// Says that a key asks a port that the service does not have.
pub(super) fn no_port(ctx: &mut Context<'_>, cursor: &Cursor<'_>, key: &str, port: &str) {
    let place = ctx.place(&[&cursor.at(&format!("{key}.port")), &cursor.at(&format!("{key}.path")), &cursor.at(key)]);
    let message = format!("`{}` asks a port that the service does not have", cursor.at(key));
    ctx.error(Code::NoSuchPort, &place, message, format!("add `{port} = true` to `{}`", cursor.path));
}
