//! `rewrite`, `request_headers`, `response_headers`, `basic_auth` and `maintenance` of a route.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::browser::is_header_name;
use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, wrong_type};
use crate::diagnostic::quote;
use crate::edits::{Edits, Lines, plain};
use crate::model::RouteTarget;
use crate::raw::Value;
use crate::read::policy;

/// What a client is told to wait when the stack file says no more than that there is maintenance.
const MAINTENANCE: Duration = Duration::from_mins(5);
const DAY: Duration = Duration::from_secs(86_400);
/// Users and headers of one route at most.
const MOST: usize = 32;

/// Headers of requests that frame the message, lead it to its place, or say what only the edge knows.
pub(super) const NOT_OF_REQUESTS: [&str; 24] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "traceparent",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "x-client-ip",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-issuer",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-roles",
    "x-forwarded-server",
    "x-forwarded-user",
    "x-real-ip",
    "x-request-id",
];
/// Headers of answers that can be removed, though they cannot be set.
const MAY_GO: [&str; 2] = ["set-cookie", "retry-after"];

/// What a route changes; `path` is its own, `to` where it leads.
pub(super) fn edits(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, path: &str, to: Option<&RouteTarget>) -> Edits {
    let rewrite = rewrite(cursor, ctx, path);
    let request = lines(cursor, ctx, "request_headers", &NOT_OF_REQUESTS, &[]);
    let response = lines(cursor, ctx, "response_headers", &policy::NOT_OURS, &MAY_GO);
    if to.is_some_and(|to| !matches!(to, RouteTarget::Service { .. })) {
        for key in ["rewrite", "request_headers"] {
            if cursor.node(key).is_some() {
                let path = cursor.at(key);
                let message = format!("`{path}` is about what a service sees, and this route leads to none");
                ctx.error(Code::BadValue, &ctx.place(&[&path]), message, "remove it".to_owned());
            }
        }
    }
    Edits { rewrite, request, response }
}

fn rewrite(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, path: &str) -> Option<String> {
    let text = cursor.text(ctx, "rewrite", "rewrite = \"/*\"")?;
    let rewrite = text.text.as_str();
    let body = rewrite.strip_suffix("/*").unwrap_or(rewrite);
    let problem = if !rewrite.starts_with('/') || rewrite.starts_with("//") {
        Some("it is no path")
    } else if !rewrite.bytes().all(|byte| byte.is_ascii_graphic()) || rewrite.contains(['\\', '?', '#', '%']) {
        Some("it has a character that a path does not hold as it is")
    } else if body.contains('*') {
        Some("a * stands only at the end, after a /")
    } else if body.split('/').any(|part| part == "." || part == "..") {
        Some("it has a . or .. between slashes")
    } else if rewrite.ends_with('*') != path.ends_with('*') {
        Some("its * stands for what the path's stands for: both have one, or none")
    } else {
        None
    };
    let Some(problem) = problem else { return Some(text.text) };
    let message = format!("`{}` is \"{}\": {problem}", cursor.at("rewrite"), quote(rewrite));
    let help = "write for example \"/*\", which leaves the route's own prefix out".to_owned();
    ctx.error(Code::BadValue, &text.span, message, help);
    None
}

fn lines(
    cursor: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    key: &'static str,
    forbidden: &[&str],
    may_go: &[&str],
) -> Lines {
    let Some(mut table) = cursor.table(ctx, key) else { return Lines::default() };
    let set = policy::set(&mut table, ctx, forbidden);
    let mut remove = BTreeSet::new();
    for text in table.texts(ctx, "remove", "remove = [\"Server\"]").unwrap_or_default() {
        let name = text.text.to_ascii_lowercase();
        let plain = plain(&name);
        let is_ours = forbidden.contains(&plain.as_str()) && !may_go.contains(&plain.as_str());
        if !is_header_name(&name) || is_ours {
            let message = format!("\"{}\" is no header that can be removed here", quote(&text.text));
            let help = "those that frame the message or come from the edge stay".to_owned();
            ctx.error(Code::BadValue, &text.span, message, help);
        } else {
            remove.insert(name);
        }
    }
    table.finish(ctx, &[], &[("add", "set"), ("hide", "remove"), ("delete", "remove")]);
    if remove.len() > MOST {
        let message = format!("`{}` removes {} headers, and {MOST} are the most", table.path, remove.len());
        ctx.error(Code::OutOfRange, &table.place, message, "remove some".to_owned());
    }
    Lines { set, remove }
}

/// `basic_auth`: users, each with the name of a secret.
pub(super) fn basic_auth(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> BTreeMap<String, String> {
    let mut users = BTreeMap::new();
    let Some(entries) = cursor.table(ctx, "basic_auth") else { return users };
    for (user, node) in entries.entries() {
        let path = entries.at(user);
        ctx.note_value(&path, node);
        // A colon ends the name (RFC 7617, section 2).
        let is_name = !user.is_empty() && user.len() <= 64 && user.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        if !is_name {
            let message = format!("\"{}\" is no name of a user here: letters, digits and signs but :", quote(user));
            ctx.error(Code::BadName, &node.key, message, "write for example admin = \"ADMIN_PASSWORD\"".to_owned());
            continue;
        }
        let Value::Text(secret) = &node.value else {
            wrong_type(ctx, &path, node, "the name of a secret", "admin = \"ADMIN_PASSWORD\"");
            continue;
        };
        if !is_secret(secret) {
            // Not quoted: it may be a password.
            let message = format!("`{}` is no name of a secret: A-Z, 0-9 and _", quote(&path));
            let help =
                "write the name of a secret, not a password: admin = \"ADMIN_PASSWORD\"; the stack makes its value";
            ctx.error(Code::BadValue, &node.span, message, help.to_owned());
            continue;
        }
        users.insert(user.to_owned(), secret.clone());
    }
    let count = entries.entries().count();
    if count == 0 || count > MOST {
        let message = format!("`{}` has {count} users; it has 1 to {MOST}", entries.path);
        ctx.error(Code::OutOfRange, &entries.place, message, "write for example admin = \"ADMIN_PASSWORD\"".to_owned());
    }
    users
}

/// Whether a text can be the name of a secret.
pub(super) fn is_secret(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// `maintenance`: `true`, `false`, or for how long.
pub(super) fn maintenance(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Duration> {
    let is_on = match cursor.node("maintenance").map(|node| &node.value) {
        None => return None,
        Some(Value::Boolean(is_on)) => *is_on,
        Some(_) => return cursor.duration(ctx, "maintenance", Duration::from_secs(1)..=DAY),
    };
    cursor.value(ctx, "maintenance");
    is_on.then_some(MAINTENANCE)
}
