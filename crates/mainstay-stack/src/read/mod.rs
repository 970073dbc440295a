//! From the value tree to a [`Stack`]: one module a noun, each with its keys, defaults and bounds.

mod balance;
mod copy;
mod data;
mod deploy;
mod drills;
mod edge;
mod edits;
mod health;
mod identity;
mod limit;
mod policy;
mod redirect;
mod rest;
mod scale;
mod schedule;
mod service;
mod tls;
mod variables;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use mainstay_types::{IdError, Member, ServiceName, StackName};

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, Text};
use crate::diagnostic::quote;
use crate::model::{Console, Observe, Stack};
use crate::origin::Origin;
use crate::raw::{Node, Table};

pub(crate) use edge::name_of;

/// Tables of capabilities that come later, and what to do until then.
const LATER: [(&str, &str); 5] = [
    ("auth", "the service signs people in itself"),
    ("alert", "Prometheus runs without alert rules of yours"),
    ("notify", "nobody is notified yet"),
    ("backup", "take dumps with `pg_dump` until then"),
    ("limit", "it stands in `[edge]`, or in a route"),
];

/// Nouns under which other texts know ours.
const RENAMED: [(&str, &str); 6] = [
    ("app", "service"),
    ("services", "service"),
    ("db", "database"),
    ("redis", "cache"),
    ("sites", "site"),
    ("name", "stack"),
];

/// Names of our own parts: in `status`, `logs` and `ps` a service of that name could not be told from
/// them. Nothing may be called so, and nothing that is proposed is.
pub const OUR_PARTS: [&str; 21] = [
    "alertmanager",
    "backup",
    "backup-run",
    "backups",
    "cache",
    "console",
    "control",
    "database",
    "edge",
    "keep",
    "mainstay",
    "postgres",
    "prometheus",
    "redis",
    "redis-cache",
    "redis-store",
    "router",
    "stack",
    "store",
    "store-copy",
    "store-copy-run",
];

/// Whether a name is one of [`OUR_PARTS`], or one of a server that a stack has or may come to have, or of the work on it:
/// `postgres-b`, `postgres-b-clone`, `store-b`.
pub fn is_our_part(name: &str) -> bool {
    let is_server = |rest: &str| {
        let member = rest.split('-').next().unwrap_or_default();
        Member::try_from(member.to_owned()).is_ok()
    };
    let servers = ["postgres-", "redis-store-", "store-"];
    OUR_PARTS.contains(&name) || servers.iter().any(|server| name.strip_prefix(server).is_some_and(is_server))
}

/// What the file declares beyond the model, for rules that look at the whole.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) stack: Stack,
    /// Upper bounds of scales.
    pub(crate) scale_max: BTreeMap<ServiceName, u32>,
}

/// Reads the whole file as one environment sees it. With errors in `ctx` the answer is only good for more checks.
pub(crate) fn stack(root: &Table, ctx: &mut Context<'_>) -> Draft {
    let mut top = Cursor::new(root, 0..0, "");
    let (name, named_at) = stack_name(&mut top, ctx);
    let domain = top.text(ctx, "domain", "domain = \"example.com\"");
    ctx.origins.set("environment", Origin::Caller);
    let has_database = root.contains_key("database");
    let has_cache = root.contains_key("cache");
    let (services, scale_max) = service::read_all(&mut top, ctx, has_database, has_cache);
    let sites = rest::sites(&mut top, ctx);
    let database = data::database(&mut top, ctx, (&name, &named_at));
    let cache = data::cache(&mut top, ctx);
    let edge = edge::read(&mut top, ctx, &name, domain.as_ref(), &services, &sites);
    let observe: Observe = rest::observe(&mut top, ctx);
    let console: Console = rest::console(&mut top, ctx);
    let target = rest::target(&mut top, ctx, database.as_ref());
    let deploy = deploy::deploy(&mut top, ctx, target.p95);
    let drills = drills::drills(&mut top, ctx, &edge, &services);
    // Taken out by the overlay; named here so that a mistyped `[env]` finds it.
    let _ = top.node("env");
    top.finish(ctx, &LATER, &RENAMED);
    let environment = ctx.environment.clone();
    let stack =
        Stack { name, environment, edge, services, sites, database, cache, observe, console, deploy, target, drills };
    Draft { stack, scale_max }
}

/// The name, and where it stands.
fn stack_name(top: &mut Cursor<'_>, ctx: &mut Context<'_>) -> (StackName, Range<usize>) {
    let example = "stack = \"myapp\"";
    if let Some(text) = top.text(ctx, "stack", example) {
        match StackName::new(text.text.as_str()) {
            Ok(name) => return (name, text.span),
            Err(error) => bad_name(ctx, &text.span, &error),
        }
    } else if !ctx.is_said("stack") {
        top.missing(ctx, "stack", "its data and ports are kept under this name", &format!("`{example}` at the top"));
    }
    // Only reached with an error on record, so that no stack ever bears this name.
    (StackName::new("unnamed").expect("a fixed name that keeps the rule"), 0..0)
}

/// Says that a name breaks the rule for names.
pub(crate) fn bad_name(ctx: &mut Context<'_>, span: &Range<usize>, error: &IdError) {
    let message = format!("{} \"{}\" breaks the rule: {}", error.kind, quote(&error.value), error.rule);
    let fixed: String = error
        .value
        .to_lowercase()
        .chars()
        .map(|letter| if letter.is_ascii_lowercase() || letter.is_ascii_digit() { letter } else { '-' })
        .take(32)
        .collect();
    let fixed = fixed.trim_start_matches(|letter: char| !letter.is_ascii_lowercase()).trim_end_matches('-');
    let help = if fixed.is_empty() { "choose a name such as `backend`".to_owned() } else { format!("write `{fixed}`") };
    ctx.error(Code::BadName, span, message, help);
}

/// A name of a service or site, unless it breaks the rule or is one of our own parts.
fn part_name(ctx: &mut Context<'_>, kind: &'static str, key: &str, node: &Node) -> Option<ServiceName> {
    if is_our_part(key) {
        let message = format!("{kind} \"{key}\" is the name of a part of mainstay itself");
        ctx.error(Code::BadName, &node.key, message, format!("write for example `my-{key}`"));
        return None;
    }
    ServiceName::new(key).map_err(|error| bad_name(ctx, &node.key, &IdError { kind, ..error })).ok()
}

/// A folder or file below the folder of the stack file.
pub(crate) fn inner_path(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, key: &'static str) -> Option<PathBuf> {
    let text = cursor.text(ctx, key, &format!("{key} = \"folder\""))?;
    let path = Path::new(&text.text);
    let mut depth = 0_i32;
    let mut leaves = text.text.is_empty();
    for part in path.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth -= 1,
            Component::RootDir | Component::Prefix(_) => leaves = true,
        }
        leaves |= depth < 0;
    }
    if leaves {
        let message = format!(
            "`{}` is \"{}\", which is not inside the folder of the stack file",
            cursor.at(key),
            quote(&text.text)
        );
        let help = "write a path relative to the stack file that does not leave its folder, or move the stack file up";
        ctx.error(Code::PathEscapes, &text.span, message, help.to_owned());
        return None;
    }
    Some(path.to_owned())
}

/// A path of a URL.
pub(crate) fn check_url_path(ctx: &mut Context<'_>, path: &str, text: &Text) {
    let is_plain = |letter: char| !letter.is_whitespace() && !matches!(letter, '?' | '#' | '*');
    if !text.text.starts_with('/') || !text.text.chars().all(is_plain) {
        let message = format!("`{path}` is \"{}\"; a URL path begins with / and has no ?, # or *", quote(&text.text));
        ctx.error(Code::BadValue, &text.span, message, "write for example \"/healthz\"".to_owned());
    }
}

/// Picks between two keys that say the same thing: an environment's override wins over the file.
pub(crate) fn one_of<'n>(
    ctx: &mut Context<'_>,
    first: (&str, Option<&'n Node>),
    second: (&str, Option<&'n Node>),
) -> (bool, bool) {
    let (Some(a), Some(b)) = (first.1, second.1) else { return (first.1.is_some(), second.1.is_some()) };
    if a.is_override != b.is_override {
        return (a.is_override, b.is_override);
    }
    let message = format!("`{}` and `{}` say the same thing twice", first.0, second.0);
    ctx.error(Code::SaidTwice, &b.key, message, "keep one of the two".to_owned());
    (true, false)
}
