//! `redirect` of a route: a path or URL, or a table with a status.

use crate::browser::is_origin;
use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, Text, wrong_type};
use crate::diagnostic::quote;
use crate::model::RouteTarget;
use crate::raw::Value;

/// Kept by browsers, and the method stays: a move that is meant. **Source**: RFC 9110, section 15.4.9.
const STATUS: u16 = 308;
const EXAMPLE: &str = "redirect = \"/new/*\"";

/// Where a route sends its clients, when it sends them elsewhere.
pub(super) fn read(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, path: Option<&Text>) -> Option<RouteTarget> {
    let node = cursor.node("redirect")?;
    if let Some(to) = cursor.node("to") {
        let message = format!("`{}` and `{}` both say where the route leads", cursor.at("to"), cursor.at("redirect"));
        ctx.error(Code::SaidTwice, &to.key, message, "keep one of the two".to_owned());
    }
    let (location, status) = match &node.value {
        Value::Text(_) => (cursor.text(ctx, "redirect", EXAMPLE)?, STATUS),
        Value::Table(_) => {
            let mut table = cursor.table_of(ctx, "redirect", node)?;
            let location = table.text(ctx, "location", "location = \"/new/*\"");
            if location.is_none() && !ctx.is_said(&table.at("location")) {
                table.missing(ctx, "location", "it says where clients are sent", "`location = \"/new/*\"`");
            }
            let status = table.count(ctx, "status", 301..=308);
            if let Some(other @ 303..=306) = status {
                let place = ctx.place(&[&table.at("status")]);
                let message = format!("`{}` is {other}; it is 301, 302, 307 or 308", table.at("status"));
                let help = "write 308 for a move that lasts, 307 for one that does not".to_owned();
                ctx.error(Code::BadValue, &place, message, help);
            }
            table.finish(ctx, &[], &[("to", "location"), ("url", "location"), ("code", "status")]);
            (location?, status.and_then(|status| u16::try_from(status).ok()).unwrap_or(STATUS))
        }
        _ => {
            wrong_type(ctx, &cursor.at("redirect"), node, "a path or URL, or a table", EXAMPLE);
            return None;
        }
    };
    check(ctx, &cursor.at("redirect"), &location, path);
    Some(RouteTarget::Redirect { location: location.text, status })
}

fn check(ctx: &mut Context<'_>, at: &str, location: &Text, path: Option<&Text>) {
    let text = location.text.as_str();
    let after_scheme = text.find("://").map_or(0, |at| at + 3);
    let origin_end =
        text.get(after_scheme..).and_then(|rest| rest.find('/')).map_or(text.len(), |at| after_scheme + at);
    let is_path = text.starts_with('/') && !text.starts_with("//");
    let body = text.strip_suffix("/*").unwrap_or(text);
    let problem = if !is_path && !is_origin(&text[..origin_end]) {
        Some("it is neither a path nor a URL of http or https")
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains(['\\', '"', '<', '>']) {
        Some("it has a character that a URL does not hold as it is")
    } else if body.contains('*') {
        Some("a * stands only at the end, after a /")
    } else if text.ends_with('*') && path.is_some_and(|path| !path.text.ends_with('*')) {
        Some("its * stands for what the path's stands for, and the path has none")
    } else if path.is_some_and(|path| path.text == text) {
        Some("it leads to itself")
    } else {
        None
    };
    let Some(problem) = problem else { return };
    let message = format!("`{at}` is \"{}\": {problem}", quote(text));
    let help = "write for example \"/new/*\", or \"https://www.example.com/*\"".to_owned();
    ctx.error(Code::BadValue, &location.span, message, help);
}
