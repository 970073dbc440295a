//! Environments: lays `[env.NAME]` over the rest of the file, key by key.
//!
//! Tables merge, everything else (arrays too) is replaced. Tables that people name may be added by an
//! environment only when they are complete; a part of one is a mistyped name.

use crate::code::Code;
use crate::context::Context;
use crate::diagnostic::quote;
use crate::raw::{Node, Table, Value};
use crate::words::nearest;

/// The file as one environment sees it: `[env]` taken out and, if there is one, the environment's part applied.
pub(crate) fn apply(root: &Table, environment: &str, ctx: &mut Context<'_>) -> Table {
    let mut merged = root.clone();
    let Some(environments) = merged.remove("env") else { return merged };
    let Value::Table(environments) = environments.value else { return merged };
    let Some(Node { value: Value::Table(overrides), .. }) = environments.get(environment) else { return merged };
    for (key, node) in overrides {
        match key.as_str() {
            "stack" | "env" => ctx.error(
                Code::OverridesNothing,
                &node.key,
                format!("an environment cannot override `{key}`"),
                "remove it: the name of the stack is the same in every environment".to_owned(),
            ),
            "database" | "cache" | "site" | "service" if !is_known(&merged, key, node, ctx) => {}
            _ => lay(&mut merged, key, node),
        }
    }
    merged
}

/// Whether an override of a noun's table has something to lie on; says so when not.
fn is_known(base: &Table, noun: &str, node: &Node, ctx: &mut Context<'_>) -> bool {
    let Value::Table(entries) = &node.value else { return true };
    if matches!(noun, "database" | "cache") {
        if !base.contains_key(noun) {
            ctx.error(
                Code::OverridesNothing,
                &node.key,
                format!("this overrides `{noun}`, which the stack does not have"),
                format!("add a `[{noun}]` table outside `[env]`, or remove this override"),
            );
            return false;
        }
        return true;
    }
    let empty = Table::new();
    let known = match base.get(noun) {
        Some(Node { value: Value::Table(known), .. }) => known,
        _ => &empty,
    };
    // The one key without a default tells a new entry from a mistyped one.
    let required = if noun == "service" { "run" } else { "dir" };
    let mut all_known = true;
    for (name, entry) in entries {
        let is_complete = matches!(&entry.value, Value::Table(table) if table.contains_key(required));
        if known.contains_key(name) || is_complete {
            continue;
        }
        all_known = false;
        let help = match nearest(name, known.keys().map(String::as_str)) {
            Some(near) => format!("did you mean `{noun}.{near}`?"),
            None => format!("name a {noun} of this stack, or give `{required}` to add one in this environment"),
        };
        let message = format!("this overrides `{noun}.{}`, which the stack does not have", quote(name));
        ctx.error(Code::OverridesNothing, &entry.key, message, help);
    }
    all_known
}

/// Lays one value over what is there.
fn lay(base: &mut Table, key: &str, over: &Node) {
    match (base.get_mut(key), &over.value) {
        (Some(Node { value: Value::Table(below), .. }), Value::Table(above)) => {
            for (inner, node) in above {
                lay(below, inner, node);
            }
        }
        // `health = "/path"` is short for a table with that path: an override of its timings keeps the path.
        (Some(below), Value::Table(_)) if key == "health" && matches!(below.value, Value::Text(_)) => {
            let path = Node { value: below.value.clone(), ..below.clone() };
            below.value = Value::Table(Table::from([("path".to_owned(), path)]));
            lay(base, key, over);
        }
        _ => {
            base.insert(key.to_owned(), marked(over));
        }
    }
}

/// The node and all below it, marked as an environment's.
fn marked(node: &Node) -> Node {
    let value = match &node.value {
        Value::Array(items) => Value::Array(items.iter().map(marked).collect()),
        Value::Table(table) => Value::Table(table.iter().map(|(key, node)| (key.clone(), marked(node))).collect()),
        other => other.clone(),
    };
    Node { value, span: node.span.clone(), key: node.key.clone(), is_override: true }
}
