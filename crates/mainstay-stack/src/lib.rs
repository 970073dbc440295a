//! The stack file (L1): `mainstay.toml` → [`Stack`], or all its diagnostics at once.
//!
//! Two stages: TOML to a value tree with places ([`raw`]), then noun by noun to the model ([`read`]) and the rules
//! that look at the whole ([`check`]). Every environment is checked, not only the one asked for: a mistake for production shows in development.
//!
//! Never touches the disk or the network: the caller hands over the text; what exists on the machine is
//! `doctor`'s and the control plane's business.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod balance;
pub mod browser;
mod check;
mod code;
mod computed;
mod context;
mod cursor;
pub mod deploy;
mod diagnostic;
pub mod drills;
pub mod edits;
pub mod identity;
pub mod limit;
pub mod model;
pub mod network;
mod origin;
mod overlay;
mod raw;
mod read;
pub mod routing;
pub mod scale;
pub mod schedule;
pub mod template;
pub mod tls;
pub mod units;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use mainstay_types::{EnvironmentName, StackName};

pub use check::{OWN_CONNECTIONS, pool_size};
pub use code::{Code, explain, pages};
pub use computed::{ComputedValue, computed};
pub use diagnostic::{Diagnostic, Diagnostics, MAX_DIAGNOSTICS, Severity, render, render_one};
pub use model::Stack;
pub use origin::{Origin, Origins};
pub use read::{OUR_PARTS, is_our_part};

use context::Context;
use diagnostic::{Lines, quote};
use raw::{Table, Value};
use words::nearest;

/// Largest stack file. **Unit**: bytes. The full example of a large application has 6 KB.
pub const MAX_BYTES: usize = 256 * 1024;

/// Environments that exist without being named in the file.
pub const ENVIRONMENTS: [&str; 3] = ["development", "staging", "production"];

/// Most environments of one file: each is checked, so that they bound the work.
pub const MAX_ENVIRONMENTS: usize = 16;

/// A stack file that keeps every rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The stack in the environment asked for.
    pub stack: Stack,
    /// Where its values come from.
    pub origins: Origins,
    /// What is allowed and probably not meant.
    pub warnings: Diagnostics,
}

/// Reads a stack file for one environment.
///
/// **Errors**: every broken rule at once, warnings among them.
pub fn parse(text: &str, source_name: &str, environment: &EnvironmentName) -> Result<Parsed, Diagnostics> {
    let lines = Lines::new(text);
    let mut ctx = Context::new(&lines, environment.clone());
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes, and {MAX_BYTES} are the most", text.len());
        ctx.error(Code::TooLarge, &(0..0), message, "check that this is the stack file; split the stack".to_owned());
        return Err(Diagnostics::new(source_name, ctx.diagnostics, ctx.omitted));
    }
    let (root, errors) = raw::read(text);
    let is_readable = errors.iter().all(raw::SyntaxError::is_duplicate);
    for error in &errors {
        syntax_error(&mut ctx, error);
    }
    // After a syntax error what was understood is a guess: rules about guesses would mislead.
    if !is_readable {
        return Err(Diagnostics::new(source_name, ctx.diagnostics, ctx.omitted));
    }
    let others = environments(&root, &mut ctx);
    let merged = overlay::apply(&root, environment.as_str(), &mut ctx);
    let draft = read::stack(&merged, &mut ctx);
    check::whole(&draft, &mut ctx);
    let Context { mut diagnostics, omitted, origins, .. } = ctx;
    // One mistake shows in every environment: it is told once, for the one asked for if it is there.
    let place_of = |found: &Diagnostic| (found.code, found.span.start, found.span.end);
    let mut told: BTreeSet<_> = diagnostics.iter().map(place_of).collect();
    for other in others {
        let found = diagnostics_of(&root, &lines, other);
        let new: Vec<_> = found.into_iter().filter(|found| !told.contains(&place_of(found))).collect();
        told.extend(new.iter().map(place_of));
        diagnostics.extend(new);
    }
    let diagnostics = Diagnostics::new(source_name, diagnostics, omitted);
    if diagnostics.has_errors() {
        return Err(diagnostics);
    }
    Ok(Parsed { stack: draft.stack, origins, warnings: diagnostics })
}

/// The name of the stack alone, as far as the text can be read: for commands about a stack whose file is broken by
/// now, such as `down`.
pub fn name_of(text: &str) -> Option<StackName> {
    if text.len() > MAX_BYTES {
        return None;
    }
    match &raw::read(text).0.get("stack")?.value {
        Value::Text(name) => StackName::new(name.as_str()).ok(),
        _ => None,
    }
}

/// The JSON Schema (2020-12) of the stack file, for editors. Tests hold it to what the reader reads.
pub const SCHEMA: &str = include_str!("../../../docs/reference/stack.schema.json");

/// Every key that the reader knows in each table that a file has, by the table's path: what [`SCHEMA`] must say.
pub fn keys(text: &str) -> BTreeMap<String, BTreeSet<&'static str>> {
    let (root, _) = raw::read(text);
    let lines = Lines::new(text);
    let mut ctx = Context::new(&lines, EnvironmentName::default());
    let merged = overlay::apply(&root, ctx.environment.clone().as_str(), &mut ctx);
    read::stack(&merged, &mut ctx);
    ctx.asked
}

fn syntax_error(ctx: &mut Context<'_>, error: &raw::SyntaxError) {
    if error.is_duplicate() {
        let message = "this key or table is there twice".to_owned();
        ctx.error(Code::DefinedTwice, &error.span, message, "keep one of the two".to_owned());
    } else {
        let message = format!("this is not TOML: {}", quote(&error.message));
        let help = "see https://toml.io; texts stand in quotation marks, tables in [brackets]".to_owned();
        ctx.error(Code::Syntax, &error.span, message, help);
    }
}

/// All environments other than the one asked for: the file's own and the usual ones, since a file may be used in any
/// of them. The one asked for must be among them.
fn environments(root: &Table, ctx: &mut Context<'_>) -> Vec<EnvironmentName> {
    let wanted = ctx.environment.clone();
    let mut others: Vec<EnvironmentName> = ENVIRONMENTS
        .iter()
        .filter_map(|name| EnvironmentName::new(*name).ok())
        .filter(|name| *name != wanted)
        .collect();
    let mut is_known = ENVIRONMENTS.contains(&wanted.as_str());
    let mut named: Vec<&str> = ENVIRONMENTS.to_vec();
    let node = root.get("env");
    match node.map(|node| (node, &node.value)) {
        Some((node, Value::Table(tables))) => {
            if tables.len() > MAX_ENVIRONMENTS {
                let message = format!("`env` has {} environments, and {MAX_ENVIRONMENTS} are the most", tables.len());
                ctx.error(Code::OutOfRange, &node.key, message, "split the stack, or remove some".to_owned());
            }
            for (key, table) in tables.iter().take(MAX_ENVIRONMENTS) {
                is_known |= key == wanted.as_str();
                named.push(key);
                if !matches!(table.value, Value::Table(_)) {
                    let path = format!("env.{key}");
                    cursor::wrong_type(ctx, &path, table, "a table of overrides", "[env.staging]");
                }
                match EnvironmentName::new(key.as_str()) {
                    Ok(name) if name == wanted || others.contains(&name) => {}
                    Ok(name) => others.push(name),
                    Err(error) => read::bad_name(ctx, &table.key, &error),
                }
            }
        }
        Some((node, _)) => cursor::wrong_type(ctx, "env", node, "a table of environments", "[env.staging]"),
        None => {}
    }
    if !is_known {
        let place = node.map_or(0..0, |node| node.key.clone());
        let help = match nearest(wanted.as_str(), named) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("add a table `[env.{wanted}]`, or use one of: {}", ENVIRONMENTS.join(", ")),
        };
        ctx.error(Code::UnknownEnvironment, &place, format!("the file has no environment `{wanted}`"), help);
    }
    others
}

/// What breaks rules in another environment than the one asked for, and says so.
fn diagnostics_of(root: &Table, lines: &Lines<'_>, environment: EnvironmentName) -> Vec<Diagnostic> {
    let mut ctx = Context::new(lines, environment.clone());
    let merged = overlay::apply(root, environment.as_str(), &mut ctx);
    let draft = read::stack(&merged, &mut ctx);
    check::whole(&draft, &mut ctx);
    for diagnostic in &mut ctx.diagnostics {
        diagnostic.message = format!("in environment `{environment}`: {}", diagnostic.message);
    }
    ctx.diagnostics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_known_although_the_rest_is_broken() {
        let name = StackName::new("shop").ok();
        assert_eq!(name_of("stack = \"shop\"\nport = nonsense\n[service.backend"), name);
        assert_eq!(name_of("stack = 7"), None);
        assert_eq!(name_of("[env.staging]\nstack = \"shop\""), None);
    }
}
