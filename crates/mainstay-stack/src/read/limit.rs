//! `limit` of the edge and of routes: a text, or an array of texts and tables.

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, wrong_type};
use crate::diagnostic::quote;
use crate::limit::{Limit, LimitError, LimitKey, MOST_REQUESTS, PROFILES};
use crate::raw::{Node, Value};
use crate::words::nearest;

/// Limits of one place at most: each is asked for every request.
const MOST: usize = 8;
const EXAMPLE: &str = "limit = \"100/min per ip\"";

/// What `limit` says: `None` when it is not there or wrong, an empty list for `"none"`.
pub(super) fn read(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Vec<Limit>> {
    let node = cursor.value(ctx, "limit")?;
    let path = cursor.at("limit");
    match &node.value {
        Value::Text(text) if text == "none" => Some(Vec::new()),
        Value::Text(text) => item(ctx, &path, text, node),
        Value::Array(items) if items.len() > MOST => {
            let message = format!("`{path}` has {} limits, and {MOST} are the most", items.len());
            ctx.error(Code::OutOfRange, &node.key, message, "remove some".to_owned());
            None
        }
        Value::Array(items) => {
            let mut limits = Vec::new();
            for (index, one) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                match &one.value {
                    Value::Text(text) => limits.extend(item(ctx, &path, text, one).unwrap_or_default()),
                    Value::Table(table) => {
                        let mut cursor = Cursor::new(table, one.key.clone(), path);
                        limits.extend(of_table(&mut cursor, ctx));
                    }
                    _ => wrong_type(ctx, &path, one, "a text or a table", "\"100/min per ip\""),
                }
            }
            (!limits.is_empty()).then_some(limits)
        }
        _ => {
            wrong_type(ctx, &path, node, "a text or an array", EXAMPLE);
            None
        }
    }
}

fn item(ctx: &mut Context<'_>, path: &str, text: &str, node: &Node) -> Option<Vec<Limit>> {
    if let Some(limits) = Limit::profile(text) {
        return Some(limits);
    }
    match text.parse::<Limit>() {
        Ok(limit) => Some(vec![limit]),
        Err(error) => {
            let near = nearest(text, PROFILES.iter().map(|(name, _)| *name));
            let help = near.filter(|_| error == LimitError::Form).map(|near| format!("did you mean \"{near}\"?"));
            let message = format!("`{path}` is \"{}\": {error}", quote(text));
            ctx.error(Code::BadLimit, &node.span, message, help.unwrap_or_else(|| how(&error)));
            None
        }
    }
}

fn how(error: &LimitError) -> String {
    match error {
        LimitError::Form | LimitError::Rate(_) => {
            let profiles: Vec<String> = PROFILES.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            format!("write for example {EXAMPLE}, or one of the profiles {}", profiles.join(", "))
        }
        LimitError::Key(_) => format!("write for example {EXAMPLE}, or \"100/min per header x-api-key\""),
    }
}

/// `{ rate = "100/min", per = "ip", burst = 20 }`.
fn of_table(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Limit> {
    let rate = cursor.text(ctx, "rate", "rate = \"100/min\"");
    let per = cursor.text(ctx, "per", "per = \"ip\"");
    for (key, example) in [("rate", "`rate = \"100/min\"`"), ("per", "`per = \"ip\"`")] {
        if !ctx.is_said(&cursor.at(key)) {
            cursor.missing(ctx, key, "a limit has a rate and says for whom it counts", example);
        }
    }
    let burst = cursor.count(ctx, "burst", 1..=MOST_REQUESTS);
    cursor.finish(ctx, &[], &[("key", "per"), ("requests", "rate"), ("average", "rate")]);
    let mut refuse = |key: &str, text: &crate::cursor::Text, error: LimitError| {
        let message = format!("`{}` is \"{}\": {error}", cursor.at(key), quote(&text.text));
        ctx.error(Code::BadLimit, &text.span, message, how(&error));
    };
    let rate = rate.and_then(|text| Limit::rate(&text.text).map_err(|error| refuse("rate", &text, error)).ok());
    let per = per.and_then(|text| text.text.parse::<LimitKey>().map_err(|error| refuse("per", &text, error)).ok());
    let ((requests, period), per) = rate.zip(per)?;
    Some(Limit { requests, period, burst: burst.unwrap_or(requests), per })
}
