//! Who may enter a route, as `route explain` tells it; with `--header`, what would become of a token.

use mainstay_decide::identity::{Fault, permits};
use mainstay_stack::identity::{Entry, Issuer, Keys};
use mainstay_stack::model::{Route, Stack};

use super::Request;
use crate::failure::Failure;
use crate::screen;

/// Longest file of keys, as for the edge.
const MOST_BYTES: u64 = 256 * 1024;

/// `Name: value` each.
pub(super) fn headers(given: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let pair = |text: &String| {
        let (name, value) = text.split_once(':')?;
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
        is_name.then(|| (name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    // Not repeated in what is said: it may be a token.
    let wrong = || {
        Failure::user("MS2090", "a --header is not of the form \"Name: value\"".to_owned())
            .help("write `mainstay route explain GET /api/users --header \"Authorization: Bearer $TOKEN\"`")
    };
    given.iter().map(|text| pair(text).ok_or_else(wrong)).collect()
}

/// Says who may enter; the status of a refusal, as far as that is certain.
pub(super) fn explain(
    stack: &Stack,
    route: &Route,
    request: &Request,
    say: &mut impl FnMut(&'static str, String),
) -> Option<u16> {
    let Some(entry) = &route.identity else {
        say("identity", without_tokens(route));
        return None;
    };
    let issuer = stack.edge.identities.get(&entry.issuer)?;
    say("identity", asked(entry, issuer));
    let has_token = request.headers.iter().any(|(name, _)| name == "authorization");
    if !has_token {
        return None;
    }
    let bytes = keys(request, issuer);
    match mainstay_edge::explain_token(&request.headers, issuer, bytes.as_deref(), screen::now()) {
        Err(fault) => {
            say("user", format!("refused with {}: {}", fault.status(), fault.text()));
            let is_certain = bytes.is_some() || !matches!(fault, Fault::Key | Fault::Signature);
            is_certain.then(|| fault.status())
        }
        Ok(found) => {
            let user = found.claims.subject.as_deref().unwrap_or_default();
            let held = found.claims.roles.join(", ");
            let held = if held.is_empty() { "no roles".to_owned() } else { format!("roles {held}") };
            let whether =
                if found.is_checked { "" } else { "; the signature is not looked at here: the keys are the edge's" };
            let may = permits(&entry.roles, &request.method, &found.claims.roles);
            let outcome = if may { "may enter" } else { "refused with 403: none of them is enough for this method" };
            say("user", format!("{user}, {held}: {outcome}{whether}"));
            (!may).then_some(403)
        }
    }
}

fn without_tokens(route: &Route) -> String {
    if route.basic_auth.is_empty() {
        return "nobody is asked: the service signs people in itself".to_owned();
    }
    let users: Vec<&str> = route.basic_auth.keys().map(String::as_str).collect();
    let told = "the service is told in X-Forwarded-User and sees no password";
    format!("one of {} with a password, else 401; {told}", users.join(", "))
}

fn asked(Entry { issuer: name, roles }: &Entry, issuer: &Issuer) -> String {
    let Issuer { algorithm, keys, audience, .. } = issuer;
    let of = issuer.issuer.as_ref().map_or(String::new(), |issuer| format!(" of {issuer}"));
    let audience = if audience.is_empty() { String::new() } else { format!(" for {}", audience.join(" or ")) };
    let keys = match keys {
        Keys::Secret { name } => format!("the secret {name}"),
        Keys::File { path } => format!("keys of {}", path.display()),
        Keys::Url { url, .. } => format!("keys of {url}"),
    };
    let told = "the service is told in X-Forwarded-User, X-Forwarded-Roles and X-Forwarded-Issuer";
    format!("a token{of}{audience} ({name}: {algorithm}, {keys}), else 401; roles for {roles}, else 403; {told}")
}

/// The keys that the stack file's folder has.
fn keys(request: &Request, issuer: &Issuer) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let Keys::File { path } = &issuer.keys else { return None };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(request.folder.join(path)).ok()?;
    file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
