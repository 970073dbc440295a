//! `balance`, `sticky`, `retries`, `retry_percent` of a route; `slow_start`, `eject`, `breaker` of the edge.

use std::time::Duration;

use crate::balance::{Balancing, Breaker, Eject, Method, Resilience};
use crate::browser::is_header_name;
use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, Text, wrong_type};
use crate::diagnostic::quote;
use crate::limit::LimitError;
use crate::model::RouteTarget;
use crate::raw::Value;
use crate::words::nearest;

/// An application that needs longer to get warm is asked too early by its health check.
const LONGEST_SLOW_START: Duration = Duration::from_mins(10);
/// Beyond an hour it is a matter for people.
const LONGEST_OUT: Duration = Duration::from_hours(1);
/// Retries beyond this only multiply an outage.
const MOST_RETRIES: u32 = 5;
const MOST_FAILURES: u32 = 1000;
const MOST_REQUESTS: u32 = 100_000;
const METHODS: [&str; 3] = ["round-robin", "least-requests", "hash"];

/// What a route says of how its requests are spread; `to` is where it leads, if that is known.
pub(super) fn balancing(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, to: Option<&RouteTarget>) -> Balancing {
    let mut balancing = Balancing::default();
    if let Some(text) = cursor.text(ctx, "balance", "balance = \"least-requests\"") {
        balancing.method = method(ctx, &cursor.at("balance"), &text).unwrap_or(balancing.method);
    }
    balancing.sticky = sticky(cursor, ctx, to);
    balancing.retries = cursor.count(ctx, "retries", 0..=MOST_RETRIES).unwrap_or(balancing.retries);
    balancing.retry_percent = cursor.count(ctx, "retry_percent", 0..=100).unwrap_or(balancing.retry_percent);
    if to.is_some_and(|to| !matches!(to, RouteTarget::Service { .. })) {
        for key in ["balance", "sticky", "retries", "retry_percent"] {
            let path = cursor.at(key);
            if ctx.is_said(&path) {
                let place = ctx.place(&[&path]);
                let message = format!("`{path}` is about instances, and this route leads to none");
                ctx.error(Code::BadValue, &place, message, "remove it".to_owned());
            }
        }
    }
    balancing
}

fn method(ctx: &mut Context<'_>, path: &str, text: &Text) -> Option<Method> {
    match text.text.parse() {
        Ok(method) => Some(method),
        Err(error) => {
            let what = match &error {
                LimitError::Form | LimitError::Rate(_) => "it is no way to choose an instance".to_owned(),
                LimitError::Key(_) => error.to_string(),
            };
            let message = format!("`{path}` is \"{}\": {what}", quote(&text.text));
            let help = match nearest(&text.text, METHODS) {
                Some(near) if error == LimitError::Form => format!("did you mean \"{near}\"?"),
                _ => "write \"round-robin\", \"least-requests\", \"hash ip\", \"hash user\", \"hash header NAME\" or \
                      \"hash cookie NAME\""
                    .to_owned(),
            };
            ctx.error(Code::BadValue, &text.span, message, help);
            None
        }
    }
}

/// `true`, or the cookie's name.
fn sticky(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, to: Option<&RouteTarget>) -> Option<String> {
    let node = cursor.value(ctx, "sticky")?;
    let path = cursor.at("sticky");
    match &node.value {
        Value::Boolean(false) => None,
        // A name of this kind is taken by browsers from this host alone, over TLS alone.
        Value::Boolean(true) => match to {
            Some(RouteTarget::Service { name, .. }) => Some(format!("__Host-mainstay-{name}")),
            Some(RouteTarget::Site { .. } | RouteTarget::Redirect { .. }) | None => None,
        },
        Value::Text(name) if is_header_name(name) => Some(name.clone()),
        Value::Text(name) => {
            let message = format!("`{path}` is \"{}\", which is no name of a cookie", quote(name));
            ctx.error(Code::BadValue, &node.span, message, "write `sticky = true` for a name of its own".to_owned());
            None
        }
        _ => {
            wrong_type(ctx, &path, node, "true, false or the name of a cookie", "sticky = true");
            None
        }
    }
}

/// What the edge says of new and failing instances.
pub(super) fn resilience(edge: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Resilience {
    let mut resilience = Resilience::default();
    let slow_start = edge.duration(ctx, "slow_start", Duration::ZERO..=LONGEST_SLOW_START);
    resilience.slow_start = slow_start.unwrap_or(resilience.slow_start);
    match table_or_none(edge, ctx, "eject", "eject = { most_percent = 30 }") {
        Some(Said::None) => resilience.eject = None,
        Some(Said::Table(mut table)) => {
            let Eject { failures, errors_percent, requests, most_percent, least } = Eject::default();
            resilience.eject = Some(Eject {
                failures: table.count(ctx, "failures", 1..=MOST_FAILURES).unwrap_or(failures),
                errors_percent: table.count(ctx, "errors_percent", 1..=100).unwrap_or(errors_percent),
                requests: table.count(ctx, "requests", 1..=MOST_REQUESTS).unwrap_or(requests),
                most_percent: table.count(ctx, "most_percent", 1..=100).unwrap_or(most_percent),
                least: table.duration(ctx, "least", Duration::from_secs(1)..=LONGEST_OUT).unwrap_or(least),
            });
            table.finish(ctx, &[], &[("max", "most_percent"), ("errors", "errors_percent"), ("after", "failures")]);
        }
        None => {}
    }
    if let Some(Said::Table(mut table)) = table_or_none(edge, ctx, "breaker", "breaker = { open = \"5s\" }") {
        let Breaker { errors_percent, requests, open } = Breaker::default();
        resilience.breaker = Some(Breaker {
            errors_percent: table.count(ctx, "errors_percent", 1..=100).unwrap_or(errors_percent),
            requests: table.count(ctx, "requests", 1..=MOST_REQUESTS).unwrap_or(requests),
            open: table.duration(ctx, "open", Duration::from_millis(100)..=LONGEST_OUT).unwrap_or(open),
        });
        table.finish(ctx, &[], &[("errors", "errors_percent"), ("timeout", "open"), ("for", "open")]);
    }
    resilience
}

enum Said<'n> {
    None,
    Table(Cursor<'n>),
}

fn table_or_none<'n>(
    cursor: &mut Cursor<'n>,
    ctx: &mut Context<'_>,
    key: &'static str,
    example: &str,
) -> Option<Said<'n>> {
    let node = cursor.node(key)?;
    let path = cursor.at(key);
    match &node.value {
        Value::Table(_) => cursor.table_of(ctx, key, node).map(Said::Table),
        Value::Text(text) if text == "none" => {
            ctx.note_value(&path, node);
            Some(Said::None)
        }
        _ => {
            wrong_type(ctx, &path, node, "a table or \"none\"", example);
            None
        }
    }
}
