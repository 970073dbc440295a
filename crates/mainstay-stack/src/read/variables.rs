//! `env` and `secrets` of a service: names, reserved names, templates.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, wrong_type};
use crate::diagnostic::quote;
use crate::model::Service;
use crate::raw::Value;
use crate::template;
use crate::words::nearest;

/// Longest name of a secret or variable.
const LONGEST_VARIABLE: usize = 64;

/// Names of sealed values.
pub(super) fn secrets(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for item in cursor.texts(ctx, "secrets", "secrets = [\"JWT_KEY\"]").unwrap_or_default() {
        let name = item.text;
        let is_upper = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if !is_upper || !is_variable(&name) {
            let message =
                format!("\"{}\" is no name of a secret: A-Z, 0-9 and _, not beginning with a digit", quote(&name));
            let help = "it becomes an environment variable: write for example \"JWT_KEY\"".to_owned();
            ctx.error(Code::VariableName, &item.span, message, help);
        } else if is_reserved(&name) || template::NAMES.contains(&name.as_str()) {
            reserved(ctx, &item.span, &name);
        } else if !names.insert(name.clone()) {
            let message = format!("the secret \"{name}\" is listed twice");
            ctx.error(Code::SaidTwice, &item.span, message, "keep one of the two".to_owned());
        }
    }
    names
}

/// Environment variables.
pub(super) fn env(
    cursor: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    secrets: &BTreeSet<String>,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let Some(table) = cursor.table(ctx, "env") else { return env };
    for (name, node) in table.entries() {
        ctx.note_value(&table.at(name), node);
        if !is_variable(name) {
            let message = format!("\"{}\" is no name of a variable: letters, digits and _", quote(name));
            let help = "rename it: it must not begin with a digit, and 64 letters are the most".to_owned();
            ctx.error(Code::VariableName, &node.key, message, help);
        } else if is_reserved(name) {
            reserved(ctx, &node.key, name);
        } else if secrets.contains(name) {
            let message = format!("`{name}` is in `env` and in `secrets`");
            ctx.error(Code::SaidTwice, &node.key, message, "keep it in one of the two".to_owned());
        }
        match &node.value {
            Value::Text(text) if text.contains('\0') => {
                let message = format!("`{}` holds a NUL, which no environment variable can", table.at(&quote(name)));
                ctx.error(Code::BadValue, &node.span, message, "remove it".to_owned());
            }
            Value::Text(text) => {
                env.insert(name.to_owned(), text.clone());
            }
            _ => wrong_type(
                ctx,
                &table.at(name),
                node,
                "a text",
                &format!("{} = \"…\", in quotation marks", quote(name)),
            ),
        }
    }
    env
}

fn reserved(ctx: &mut Context<'_>, span: &Range<usize>, name: &str) {
    let message = format!("`{name}` is given by mainstay itself");
    ctx.error(Code::VariableName, span, message, "choose another name, or remove it".to_owned());
}

pub(super) fn is_variable(name: &str) -> bool {
    let begins_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    begins_well && name.len() <= LONGEST_VARIABLE && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Variables that an application must be able to trust. `DATABASE_URL` and the like may be written in another form.
fn is_reserved(name: &str) -> bool {
    matches!(name, "PORT" | "MANAGEMENT_PORT") || name.starts_with("MAINSTAY_")
}

/// Templates in `env` name what exists and what this service is given.
pub(super) fn check_templates(cursor: &Cursor<'_>, ctx: &mut Context<'_>, service: &Service) {
    for (name, value) in &service.env {
        let path = cursor.at(&format!("env.{name}"));
        let place = ctx.place(&[&path]);
        let pieces = match template::pieces(value) {
            Ok(pieces) => pieces,
            Err(error) => {
                let help = "write `${NAME}`, and `$$` for a dollar sign".to_owned();
                ctx.error(Code::BadTemplate, &place, format!("`{path}` is \"{}\": {error}", quote(value)), help);
                continue;
            }
        };
        for piece in pieces {
            let template::Piece::Name(used) = piece else { continue };
            if service.secrets.contains(used) {
                continue;
            }
            if !template::NAMES.contains(&used) {
                let known = template::NAMES.into_iter().chain(service.secrets.iter().map(String::as_str));
                let help = match nearest(used, known) {
                    Some(near) => format!("did you mean `${{{near}}}`?"),
                    None => format!("add it to `secrets`, or use one of: {}", template::NAMES.join(", ")),
                };
                let message = format!("`{path}` uses `${{{}}}`, which does not exist", quote(used));
                ctx.error(Code::UnknownTemplate, &place, message, help);
            } else if let Some(help) = not_given(used, service) {
                let message = format!("`{path}` uses `${{{used}}}`, which this service is not given");
                ctx.error(Code::TemplateNotGiven, &place, message, help.to_owned());
            }
        }
    }
}

/// Why a service is not given a name, as what to do about it.
fn not_given(name: &str, service: &Service) -> Option<&'static str> {
    match name {
        "PORT" if !service.has_port => Some("set `port = true`"),
        "MANAGEMENT_PORT" if !service.has_management_port => Some("add `management_port = true`"),
        _ if name.starts_with("DATABASE_") && !service.uses_database => {
            Some("add a `[database]` table, and \"database\" to `uses` if the service has one")
        }
        _ if name.starts_with("REDIS_") && !service.uses_cache => {
            Some("add a `[cache]` table, and \"cache\" to `uses` if the service has one")
        }
        _ => None,
    }
}
