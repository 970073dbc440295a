//! `[drills.counter]`: the application's own counter, whose numbers are the receipts of drills.

use std::collections::BTreeMap;

use mainstay_types::ServiceName;

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, Text};
use crate::diagnostic::quote;
use crate::drills::{Call, Counter, Drills};
use crate::model::{Edge, RouteTarget, Service};
use crate::read::edits;
use crate::routing;
use crate::words::nearest;

const TAKE: &str = "take = \"POST /api/next\"";
const READ: &str = "read = \"GET /api/current\"";
/// Where programs send a key when nothing else is said.
const HEADER: &str = "X-API-Key";
/// A header's name that is longer is a mistake.
const LONGEST_HEADER: usize = 64;
/// Headers that end at the edge, or that a drill's request has already: a key in them would not arrive.
const NO_KEY: [&str; 6] =
    ["accept", "http2-settings", "proxy-authenticate", "proxy-authorization", "proxy-connection", "user-agent"];

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
    let header = header(table, ctx);
    let variable = variable(table, ctx, services, take.as_ref().map(|(_, service)| service));
    table.finish(
        ctx,
        &[("url", "it is asked through the edge: `take` and `read`")],
        &[("next", "take"), ("key", "variable"), ("secret", "variable")],
    );
    let ((take, service), (read, _)) = (take?, read?);
    Some(Counter { take, read, header, variable, service })
}

fn header(table: &mut Cursor<'_>, ctx: &mut Context<'_>) -> String {
    let Some(Text { text, span }) = table.text(ctx, "header", "header = \"X-API-Key\"") else {
        return HEADER.to_owned();
    };
    let is_token = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    let lower = text.to_ascii_lowercase();
    let problem = if text.is_empty() || text.len() > LONGEST_HEADER || !text.chars().all(is_token) {
        Some("is no name of a header")
    } else if edits::NOT_OF_REQUESTS.contains(&lower.as_str()) || NO_KEY.contains(&lower.as_str()) {
        Some("belongs to the connection or to the edge: a key in it would not arrive")
    } else {
        None
    };
    if let Some(problem) = problem {
        let message = format!("`{}` is \"{}\", which {problem}", table.at("header"), quote(&text));
        ctx.error(Code::BadValue, &span, message, format!("write for example \"{HEADER}\""));
    }
    text
}

/// The variable with the key; `counts` is the service that `take` leads to. Another's variable of that name may have another
/// value.
fn variable(
    table: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    services: &BTreeMap<ServiceName, Service>,
    counts: Option<&ServiceName>,
) -> Option<String> {
    let Text { text, span } = table.text(ctx, "variable", "variable = \"DRILL_KEY\"")?;
    let of =
        |service: &'_ Service| -> Vec<String> { service.secrets.iter().chain(service.env.keys()).cloned().collect() };
    let known: Vec<String> = match counts {
        Some(counts) => services.get(counts).map(of).unwrap_or_default(),
        None => services.values().flat_map(of).collect(),
    };
    if !known.contains(&text) {
        let whose =
            counts.map_or("no service has".to_owned(), |one| format!("{one}, where `take` leads to, does not have"));
        let message = format!("`{}` is \"{}\", which {whose}", table.at("variable"), quote(&text));
        let help = match nearest(&text, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => {
                let service = counts.map_or("the service that knows whose key it is".to_owned(), ToString::to_string);
                format!("add it to `env` or `secrets` of {service}")
            }
        };
        ctx.error(Code::BadValue, &span, message, help);
    }
    Some(text)
}

/// "POST /path": a method of these, and a path that leads to a service; which.
fn call(
    table: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    edge: &Edge,
    (key, example): (&'static str, &str),
    methods: &[&str],
) -> Option<(Call, ServiceName)> {
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
    let Some(RouteTarget::Service { name, .. }) = leads else {
        return wrong(ctx, "no route leads from there to a service", "add the route, or name another path".to_owned());
    };
    Some((Call { method: method.to_owned(), path: path.to_owned() }, name.clone()))
}

#[cfg(test)]
mod tests {
    use mainstay_types::EnvironmentName;

    use crate::parse;

    /// What `check` says of a stack whose counter has these lines more; nothing: it is content.
    fn said(lines: &str) -> Vec<String> {
        let text = format!(
            "stack = \"shop\"\n[service.api]\nrun = \"./api\"\nenv = {{ COUNT_KEY = \"a\", BOTH = \"api\" }}\n\
             [service.aa]\nrun = \"./web\"\nenv = {{ DRILL_KEY = \"b\", BOTH = \"aa\" }}\n\
             [drills.counter]\ntake = \"POST /api/next?by=1\"\nread = \"GET /api/current\"\n{lines}\n\
             [[edge.route]]\npath = \"/*\"\nto = \"aa\"\n[[edge.route]]\npath = \"/api/*\"\nto = \"api\"\n"
        );
        match parse(&text, "mainstay.toml", &EnvironmentName::default()) {
            Ok(parsed) => {
                let counter = parsed.stack.drills.counter.expect("is declared");
                assert_eq!(counter.service.as_str(), "api", "the route that takes it, not the first service");
                Vec::new()
            }
            Err(all) => all.list.into_iter().map(|one| one.message).collect(),
        }
    }

    /// Each passed, and the drill ended when it had begun.
    #[test]
    fn a_header_that_frames_or_leads_the_request_has_no_key() {
        let framing = [
            "Host",
            "content-length",
            "Transfer-Encoding",
            "Connection",
            "Keep-Alive",
            "Proxy-Connection",
            "TE",
            "Trailer",
            "Upgrade",
            "Expect",
            "Proxy-Authorization",
            "HTTP2-Settings",
            "Accept",
            "X-Forwarded-For",
        ];
        for name in framing {
            let said = said(&format!("header = \"{name}\""));
            assert!(said.len() == 1 && said[0].contains(&format!("`drills.counter.header` is \"{name}\"")), "{said:?}");
        }
        for name in ["X-API-Key", "Authorization", "Cookie"] {
            assert_eq!(said(&format!("header = \"{name}\"")), Vec::<String>::new());
        }
    }

    #[test]
    fn the_key_is_the_one_of_the_service_that_counts() {
        assert_eq!(said("variable = \"COUNT_KEY\""), Vec::<String>::new());
        assert_eq!(said("variable = \"BOTH\""), Vec::<String>::new());
        let said = said("variable = \"DRILL_KEY\"");
        assert!(said.len() == 1 && said[0].contains("api, where `take` leads to, does not have"), "{said:?}");
    }
}
