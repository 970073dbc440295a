//! What a route says of its answers and its clients: `headers`, `cors`, `allow`, `deny`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::browser::{Cors, Headers, is_header_name, is_origin};
use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, Text, plain_text, wrong_type};
use crate::diagnostic::quote;
use crate::edits::plain;
use crate::network::{Admission, Network, NetworkError};
use crate::raw::Value;

/// Networks of one list at most: each policy carries them, and each is read by a person.
const MOST_NETWORKS: usize = 1024;
/// Headers, origins, methods of one route at most.
const MOST_NAMES: usize = 32;
const DAY: Duration = Duration::from_secs(86_400);
/// How long a browser keeps the answer to a preflight. Chromium keeps none longer than two hours.
const CORS_AGE: Duration = Duration::from_mins(10);
/// Methods of an interface over HTTP that are not simple ones.
const CORS_METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
/// Request headers that a script sends to an interface of JSON.
const CORS_HEADERS: [&str; 2] = ["authorization", "content-type"];

/// Headers that are no business of a fixed text: they belong to the message, or the edge sets them itself.
pub(super) const NOT_OURS: [&str; 14] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "keep-alive",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
    "retry-after",
];

/// `headers`: `"strict"`, `"none"`, or a table.
pub(super) fn headers(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, is_site: bool) -> Headers {
    let mut headers = Headers { is_strict: is_site, overwrites: false, set: BTreeMap::new() };
    let Some(node) = cursor.node("headers") else { return headers };
    match &node.value {
        Value::Text(_) => {
            ctx.note_value(&cursor.at("headers"), node);
            if let Some(text) = cursor.text(ctx, "headers", "headers = \"strict\"") {
                headers.is_strict = preset(ctx, &cursor.at("headers"), &text).unwrap_or(is_site);
            }
        }
        Value::Table(_) => {
            let Some(mut table) = cursor.table_of(ctx, "headers", node) else { return headers };
            if let Some(text) = table.text(ctx, "preset", "preset = \"strict\"") {
                headers.is_strict = preset(ctx, &table.at("preset"), &text).unwrap_or(is_site);
            }
            headers.overwrites = table.boolean(ctx, "overwrite").unwrap_or(false);
            headers.set = set(&mut table, ctx, &NOT_OURS);
            table.finish(ctx, &[], &[("add", "set"), ("override", "overwrite")]);
        }
        _ => {
            let example = "headers = \"strict\"";
            wrong_type(ctx, &cursor.at("headers"), node, "\"strict\", \"none\" or a table", example);
        }
    }
    headers
}

fn preset(ctx: &mut Context<'_>, path: &str, text: &Text) -> Option<bool> {
    match text.text.as_str() {
        "strict" => Some(true),
        "none" => Some(false),
        other => {
            let message = format!("`{path}` is \"{}\"; it is \"strict\" or \"none\"", quote(other));
            let help = "write \"strict\", or a table with `set` for headers of your own".to_owned();
            ctx.error(Code::BadValue, &text.span, message, help);
            None
        }
    }
}

/// `set` of a table: headers by name, but for forbidden ones.
pub(super) fn set(table: &mut Cursor<'_>, ctx: &mut Context<'_>, forbidden: &[&str]) -> BTreeMap<String, String> {
    let mut set = BTreeMap::new();
    let Some(entries) = table.table(ctx, "set") else { return set };
    for (name, node) in entries.entries() {
        let path = entries.at(name);
        ctx.note_value(&path, node);
        if !is_header_name(name) || forbidden.contains(&plain(name).as_str()) {
            let message = format!("\"{}\" is no header that can be set here", quote(name));
            let help = "set headers such as \"Content-Security-Policy\"; those of the message itself, its type, length \
                        and cookies are the service's";
            ctx.error(Code::BadValue, &node.key, message, help.to_owned());
            continue;
        }
        let Value::Text(text) = &node.value else {
            wrong_type(ctx, &path, node, "a text", "Referrer-Policy = \"no-referrer\"");
            continue;
        };
        let Some(text) = plain_text(ctx, &path, text, node) else { continue };
        if !text.text.is_ascii() {
            let message = format!("`{}` is \"{}\": values of headers are ASCII", quote(&path), quote(&text.text));
            ctx.error(Code::BadValue, &text.span, message, "write other characters encoded".to_owned());
            continue;
        }
        set.insert(name.to_owned(), text.text.trim().to_owned());
    }
    if set.len() > MOST_NAMES {
        let message = format!("`{}` has {} headers, and {MOST_NAMES} are the most", entries.path, set.len());
        ctx.error(Code::OutOfRange, &entries.place, message, "remove some".to_owned());
    }
    set
}

/// `cors`.
pub(super) fn cors(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Cors> {
    let mut table = cursor.table(ctx, "cors")?;
    let origins = names(&mut table, ctx, "origins", "origins = [\"https://app.example.com\"]", |text| {
        text == "*" || is_origin(text)
    });
    if origins.is_none() && !ctx.is_said(&table.at("origins")) {
        let example = "`origins = [\"https://app.example.com\"]`";
        table.missing(ctx, "origins", "it says which sites may use the route", example);
    }
    let is_method = |text: &str| text.bytes().all(|b| b.is_ascii_uppercase()) && (1..=16).contains(&text.len());
    let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
    let methods = names(&mut table, ctx, "methods", "methods = [\"GET\", \"PUT\"]", is_method);
    let headers = names(&mut table, ctx, "headers", "headers = [\"content-type\"]", is_header_name);
    let expose = names(&mut table, ctx, "expose", "expose = [\"etag\"]", is_header_name);
    let has_credentials = table.boolean(ctx, "credentials").unwrap_or(false);
    let max_age = table.duration(ctx, "max_age", Duration::ZERO..=DAY).unwrap_or(CORS_AGE);
    table.finish(ctx, &[], &[("origin", "origins"), ("allow_credentials", "credentials"), ("age", "max_age")]);
    let origins = origins?;
    let is_all = origins.iter().any(|origin| origin == "*");
    if is_all && (has_credentials || origins.len() > 1) {
        let place = ctx.place(&[&table.at("origins")]);
        let message = format!(
            "`{}` has \"*\" beside {}",
            table.at("origins"),
            if has_credentials { "`credentials`" } else { "others" }
        );
        let help = "name the origins: with \"*\" every site of the world could act as whoever is signed in";
        ctx.error(Code::BadValue, &place, message, help.to_owned());
        return None;
    }
    Some(Cors {
        origins,
        methods: methods.unwrap_or_else(|| own(&CORS_METHODS)),
        headers: headers.unwrap_or_else(|| own(&CORS_HEADERS)),
        expose: expose.unwrap_or_default(),
        has_credentials,
        max_age,
    })
}

/// A list of texts of one form.
fn names(
    table: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    key: &'static str,
    example: &str,
    is_good: impl Fn(&str) -> bool,
) -> Option<Vec<String>> {
    let texts = table.texts(ctx, key, example)?;
    let path = table.at(key);
    if texts.len() > MOST_NAMES {
        let message = format!("`{path}` has {} texts, and {MOST_NAMES} are the most", texts.len());
        ctx.error(Code::OutOfRange, &ctx.place(&[&path]), message, "remove some".to_owned());
    }
    let mut good = Vec::new();
    for text in texts {
        if is_good(&text.text) {
            good.push(text.text);
        } else {
            let message = format!("`{path}` has \"{}\", which is none of {key}", quote(&text.text));
            ctx.error(Code::BadValue, &text.span, message, format!("write for example {example}"));
        }
    }
    Some(good)
}

/// `allow` and `deny`.
pub(super) fn admission(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Admission {
    let mut list = |key: &'static str| {
        let example = format!("{key} = [\"10.0.0.0/8\"]");
        let texts = cursor.texts(ctx, key, &example)?;
        let path = cursor.at(key);
        if texts.len() > MOST_NETWORKS || texts.is_empty() && key == "allow" {
            let message = match texts.len() {
                0 => format!("`{path}` is empty: nobody could come"),
                count => format!("`{path}` has {count} networks, and {MOST_NETWORKS} are the most"),
            };
            ctx.error(Code::OutOfRange, &ctx.place(&[&path]), message, format!("write for example {example}"));
        }
        let mut networks = Vec::new();
        for text in texts {
            match text.text.parse::<Network>() {
                Ok(network) => networks.push(network),
                Err(error) => {
                    let help = match &error {
                        NetworkError::Bits { network } => format!("write \"{network}\""),
                        NetworkError::Address | NetworkError::Prefix { .. } => format!("write for example {example}"),
                    };
                    let message = format!("`{path}` has \"{}\": {error}", quote(&text.text));
                    ctx.error(Code::BadValue, &text.span, message, help);
                }
            }
        }
        Some(networks)
    };
    Admission { allow: list("allow").unwrap_or_default(), deny: list("deny").unwrap_or_default() }
}
