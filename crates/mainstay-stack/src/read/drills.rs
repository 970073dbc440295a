//! `[drills.counter]`: the application's own counter, whose numbers are the receipts of drills.

use std::collections::BTreeMap;

use mainstay_types::ServiceName;

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, Text};
use crate::diagnostic::quote;
use crate::drills::{Call, Counter, Drills};
use crate::model::{Edge, RouteTarget, Service};
use crate::routing;
use crate::words::nearest;

const TAKE: &str = "take = \"POST /api/next\"";
const READ: &str = "read = \"GET /api/current\"";
/// Where programs send a key when nothing else is said.
const HEADER: &str = "X-API-Key";
/// A header's name that is longer is a mistake.
const LONGEST_HEADER: usize = 64;

pub(super) fn drills(
    top: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    edge: &Edge,
    services: &BTreeMap<ServiceName, Service>,
) -> Drills {
    let Some(mut cursor) = top.table(ctx, "drills") else { return Drills::default() };
    let counter = cursor.table(ctx, "counter").and_then(|mut table| counter(&mut table, ctx, edge, services));
    let later = [("schedule", "run `mainstay drill --all` by a timer of the machine"), ("approve", "a person runs it")];
    cursor.finish(ctx, &later, &[("receipt", "counter"), ("receipts", "counter")]);
    Drills { counter }
}

fn counter(
    table: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    edge: &Edge,
    services: &BTreeMap<ServiceName, Service>,
) -> Option<Counter> {
    let take = call(table, ctx, edge, ("take", TAKE), &["POST", "PUT"]);
    let read = call(table, ctx, edge, ("read", READ), &["GET"]);
    let header = table.text(ctx, "header", "header = \"X-API-Key\"").map_or(HEADER.to_owned(), |text| {
        let is_token = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
        if text.text.is_empty() || text.text.len() > LONGEST_HEADER || !text.text.chars().all(is_token) {
            let message =
                format!("`{}` is \"{}\", which is no name of a header", table.at("header"), quote(&text.text));
            ctx.error(Code::BadValue, &text.span, message, format!("write for example \"{HEADER}\""));
        }
        text.text
    });
    let variable = table.text(ctx, "variable", "variable = \"DRILL_KEY\"").map(|text| {
        let known: Vec<&str> =
            services.values().flat_map(|one| one.secrets.iter().chain(one.env.keys())).map(String::as_str).collect();
        if !known.contains(&text.text.as_str()) {
            let message = format!("`{}` is \"{}\", which no service has", table.at("variable"), quote(&text.text));
            let help = match nearest(&text.text, known.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "add it to `env` or `secrets` of the service that knows whose key it is".to_owned(),
            };
            ctx.error(Code::BadValue, &text.span, message, help);
        }
        text.text
    });
    table.finish(
        ctx,
        &[("url", "it is asked through the edge: `take` and `read`")],
        &[("next", "take"), ("key", "variable"), ("secret", "variable")],
    );
    Some(Counter { take: take?, read: read?, header, variable })
}

/// "POST /path": a method of these, and a path that leads to a service.
fn call(
    table: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    edge: &Edge,
    (key, example): (&'static str, &str),
    methods: &[&str],
) -> Option<Call> {
    let Some(text) = table.text(ctx, key, example) else {
        if !ctx.is_said(&table.at(key)) {
            table.missing(ctx, key, "drills count with it", &format!("`{example}`"));
        }
        return None;
    };
    let Text { text, span } = text;
    let wrong = |ctx: &mut Context<'_>, what: &str, help: String| {
        ctx.error(Code::BadValue, &span, format!("`{}` is \"{}\"; {what}", table.at(key), quote(&text)), help);
        None
    };
    let words = text.split_once(' ').filter(|(method, _)| methods.contains(method));
    let Some((method, path)) = words else {
        return wrong(ctx, &format!("it is {} and a path", methods.join(" or ")), format!("write `{example}`"));
    };
    let is_plain = path.chars().all(|letter| letter.is_ascii_graphic() && letter != '#');
    if !path.starts_with('/') || !is_plain {
        return wrong(ctx, "its path begins with / and has no # and no space", format!("write `{example}`"));
    }
    let bare = path.split('?').next().unwrap_or(path);
    let found = routing::candidates(edge.routes.iter().map(|route| route.path.as_str()), bare);
    let leads = found.first().and_then(|index| edge.routes.get(*index)).map(|route| &route.to);
    if !matches!(leads, Some(RouteTarget::Service { .. })) {
        return wrong(ctx, "no route leads from there to a service", "add the route, or name another path".to_owned());
    }
    Some(Call { method: method.to_owned(), path: path.to_owned() })
}
