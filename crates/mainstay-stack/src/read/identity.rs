//! `[edge.identity.NAME]`, and `identity` and `roles` of a route.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, Text, wrong_type};
use crate::diagnostic::quote;
use crate::identity::{Algorithm, Entry, Issuer, Keys, OTHER_METHODS, Roles, is_role};
use crate::raw::{Node, Value};
use crate::read::edits::is_secret;
use crate::words::nearest;

/// Issuers of one stack at most: each has keys that are kept and fetched.
const MOST_ISSUERS: usize = 16;
/// Roles, methods, audiences and names on the way to a claim.
const MOST: usize = 32;
const LONGEST: usize = 512;
/// Clocks that follow a time server are right to a second.
const LEEWAY: Duration = Duration::from_secs(30);
const MOST_LEEWAY: Duration = Duration::from_mins(5);
/// An issuer publishes a key well before it signs with it, and a key that is not known is asked for at once.
const MAX_AGE: Duration = Duration::from_mins(10);
const ROLES: &str = "roles";
const DAY: Duration = Duration::from_secs(86_400);

/// All issuers. The names of broken ones are declared too, so that routes may name them.
pub(super) fn read(edge: &mut Cursor<'_>, ctx: &mut Context<'_>) -> BTreeMap<String, Issuer> {
    let mut issuers = BTreeMap::new();
    let Some(tables) = edge.table(ctx, "identity") else { return issuers };
    for (name, node) in tables.entries() {
        let is_name = (1..=32).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !is_name {
            let message = format!("\"{}\" is no name of an identity: a-z, 0-9 and -, 32 at most", quote(name));
            ctx.error(Code::BadName, &node.key, message, "write for example [edge.identity.staff]".to_owned());
            continue;
        }
        ctx.declared.insert(declared(name));
        let path = tables.at(name);
        ctx.note_place(&path, node);
        let Value::Table(table) = &node.value else {
            wrong_type(ctx, &path, node, "a table", "[edge.identity.staff]");
            continue;
        };
        let mut cursor = Cursor::new(table, node.key.clone(), path);
        if let Some(issuer) = issuer(&mut cursor, ctx) {
            issuers.insert(name.to_owned(), issuer);
        }
    }
    if tables.entries().count() > MOST_ISSUERS {
        let message = format!("`edge.identity` has more than {MOST_ISSUERS} issuers");
        ctx.error(Code::OutOfRange, &tables.place, message, "remove some".to_owned());
    }
    issuers
}

fn declared(name: &str) -> String {
    format!("edge.identity.{name}")
}

fn issuer(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Issuer> {
    let name = bounded(cursor, ctx, "issuer", "issuer = \"https://login.example.com/\"");
    let audience = audience(cursor, ctx);
    let algorithm = cursor.text(ctx, "algorithm", "algorithm = \"ES256\"");
    let keys = keys(cursor, ctx);
    let typ = bounded(cursor, ctx, "type", "type = \"at+jwt\"");
    let leeway = cursor.duration(ctx, "leeway", Duration::ZERO..=MOST_LEEWAY).unwrap_or(LEEWAY);
    let roles = claim(cursor, ctx).unwrap_or_else(|| vec![ROLES.to_owned()]);
    let renamed = [
        ("iss", "issuer"),
        ("aud", "audience"),
        ("alg", "algorithm"),
        ("algorithms", "algorithm"),
        ("key", "key_file"),
        ("typ", "type"),
        ("roles_claim", "roles"),
        ("jwks_url", "jwks"),
        ("jwks_uri", "jwks"),
    ];
    cursor.finish(ctx, &[], &renamed);
    let (key, keys) = keys?;
    if name.is_none() && key != "secret" && !ctx.is_said(&cursor.at("issuer")) {
        let why = "tokens of others with these keys would be taken";
        cursor.missing(ctx, "issuer", why, "`issuer = \"https://login.example.com/\"`");
    }
    let algorithm = self::algorithm(cursor, ctx, algorithm.as_ref(), key)?;
    Some(Issuer { issuer: name, audience, algorithm, keys, typ, leeway, roles })
}

/// A text that a header can hold.
fn bounded(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, key: &'static str, example: &str) -> Option<String> {
    let text = cursor.text(ctx, key, example)?;
    if (1..=LONGEST).contains(&text.text.len()) && text.text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(text.text);
    }
    let message = format!("`{}` is not 1 to {LONGEST} visible ASCII characters", cursor.at(key));
    ctx.error(Code::BadValue, &text.span, message, format!("write for example {example}"));
    None
}

/// A text, or an array of texts.
fn some_texts(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, key: &'static str, example: &str) -> Option<Vec<Text>> {
    let texts = match cursor.node(key).map(|node| &node.value) {
        None => return None,
        Some(Value::Text(_)) => vec![cursor.text(ctx, key, example)?],
        Some(_) => cursor.texts(ctx, key, example)?,
    };
    let path = cursor.at(key);
    let is_good = |text: &Text| (1..=LONGEST).contains(&text.text.len());
    if texts.is_empty() || texts.len() > MOST || !texts.iter().all(is_good) {
        let message = format!("`{path}` has 1 to {MOST} texts of 1 to {LONGEST} bytes");
        ctx.error(Code::OutOfRange, &ctx.place(&[&path]), message, format!("write for example {example}"));
        return None;
    }
    Some(texts)
}

fn audience(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Vec<String> {
    let texts = some_texts(cursor, ctx, "audience", "audience = \"shop\"").unwrap_or_default();
    texts.into_iter().map(|text| text.text).collect()
}

/// The names on the way to the claim with the roles.
fn claim(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Vec<String>> {
    let texts = some_texts(cursor, ctx, "roles", "roles = [\"realm_access\", \"roles\"]")?;
    Some(texts.into_iter().map(|text| text.text).collect())
}

fn algorithm(cursor: &Cursor<'_>, ctx: &mut Context<'_>, text: Option<&Text>, key: &str) -> Option<Algorithm> {
    let of_secret = key == "secret";
    let Some(text) = text else {
        if of_secret {
            return Some(Algorithm::HS256);
        }
        if !ctx.is_said(&cursor.at("algorithm")) {
            let why = "a token does not choose how it is looked at";
            cursor.missing(ctx, "algorithm", why, "`algorithm = \"ES256\"`, as the issuer signs");
        }
        return None;
    };
    let path = cursor.at("algorithm");
    let fitting = |one: &Algorithm| one.is_symmetric() == of_secret;
    let known = || Algorithm::ALL.iter().filter(|one| fitting(one)).map(|one| one.text());
    match text.text.parse::<Algorithm>() {
        Ok(algorithm) if fitting(&algorithm) => Some(algorithm),
        Ok(algorithm) => {
            let what = if of_secret {
                "is checked with a public key, and `secret` is none"
            } else {
                "is checked with a secret: who knows the key could sign"
            };
            let message = format!("`{path}` is \"{algorithm}\", which {what}");
            let help = format!("write one of {}, or other keys", known().collect::<Vec<_>>().join(", "));
            ctx.error(Code::BadValue, &text.span, message, help);
            None
        }
        Err(error) => {
            let message = format!("`{path}` is \"{}\": {error} that the edge knows", quote(&text.text));
            let help = match nearest(&text.text, known()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("write one of {}", known().collect::<Vec<_>>().join(", ")),
            };
            ctx.error(Code::BadValue, &text.span, message, help);
            None
        }
    }
}

/// Where the keys are, with the key that says so.
fn keys(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<(&'static str, Keys)> {
    let secret = cursor.text(ctx, "secret", "secret = \"JWT_KEY\"");
    let file = cursor.text(ctx, "key_file", "key_file = \"keys/issuer.pem\"");
    let jwks = jwks(cursor, ctx);
    let said: Vec<&str> = ["secret", "key_file", "jwks"].into_iter().filter(|key| cursor.node(key).is_some()).collect();
    match said.as_slice() {
        [] => {
            let why = "it says with what a signature is checked";
            let example = "`jwks = \"https://login.example.com/jwks.json\"`, `key_file = \"keys/issuer.pem\"` or \
                           `secret = \"JWT_KEY\"`";
            cursor.missing(ctx, "jwks", why, example);
            return None;
        }
        [_] => {}
        [first, second, ..] => {
            let message = format!("`{}` and `{}` both say where the keys are", cursor.at(first), cursor.at(second));
            ctx.error(Code::SaidTwice, &ctx.place(&[&cursor.at(second)]), message, "keep one of the two".to_owned());
            return None;
        }
    }
    if let Some(secret) = secret {
        if is_secret(&secret.text) {
            return Some(("secret", Keys::Secret { name: secret.text }));
        }
        // Not quoted: it may be a key.
        let message = format!("`{}` is no name of a secret: A-Z, 0-9 and _", cursor.at("secret"));
        let help = "write the name of a secret, not a key: secret = \"JWT_KEY\"; the stack makes its value, and a \
                    service that signs has it too by `secrets = [\"JWT_KEY\"]`";
        ctx.error(Code::BadValue, &secret.span, message, help.to_owned());
        return None;
    }
    let file = file.and_then(|text| path(cursor, ctx, "key_file", text)).map(|path| Keys::File { path });
    file.map(|keys| ("key_file", keys)).or_else(|| Some(("jwks", jwks?)))
}

fn path(cursor: &Cursor<'_>, ctx: &mut Context<'_>, key: &str, text: Text) -> Option<PathBuf> {
    if !text.text.is_empty() && !text.text.contains("://") {
        return Some(PathBuf::from(text.text));
    }
    let message = format!("`{}` is \"{}\", which is no file", cursor.at(key), quote(&text.text));
    let help = "write a path, relative to the stack file's folder: \"keys/issuer.pem\"".to_owned();
    ctx.error(Code::BadValue, &text.span, message, help);
    None
}

/// `jwks`: a URL, a file, or a table with a URL.
fn jwks(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Keys> {
    const EXAMPLE: &str = "jwks = \"https://login.example.com/jwks.json\"";
    let node = cursor.node("jwks")?;
    match &node.value {
        Value::Text(_) => {
            let text = cursor.text(ctx, "jwks", EXAMPLE)?;
            if text.text.contains("://") {
                ctx.note_value(&cursor.at("jwks.url"), node);
                let url = url(ctx, &cursor.at("jwks"), text, false)?;
                return Some(Keys::Url { url, roots: None, is_private: false, max_age: MAX_AGE });
            }
            ctx.note_value(&cursor.at("key_file"), node);
            path(cursor, ctx, "jwks", text).map(|path| Keys::File { path })
        }
        Value::Table(_) => {
            let mut table = cursor.table_of(ctx, "jwks", node)?;
            let given = table.text(ctx, "url", "url = \"https://login.example.com/jwks.json\"");
            if given.is_none() && !ctx.is_said(&table.at("url")) {
                let example = "`url = \"https://login.example.com/jwks.json\"`";
                table.missing(ctx, "url", "it says where the keys are", example);
            }
            let roots = table.text(ctx, "roots", "roots = \"keys/authority.pem\"");
            let is_private = table.boolean(ctx, "private").unwrap_or(false);
            let max_age = table.duration(ctx, "max_age", Duration::from_secs(30)..=DAY).unwrap_or(MAX_AGE);
            table.finish(ctx, &[], &[("ca", "roots"), ("ttl", "max_age"), ("internal", "private")]);
            let roots = roots.and_then(|text| path(&table, ctx, "roots", text));
            let url = given.and_then(|text| url(ctx, &table.at("url"), text, is_private))?;
            Some(Keys::Url { url, roots, is_private, max_age })
        }
        _ => {
            wrong_type(ctx, &cursor.at("jwks"), node, "a text or a table", EXAMPLE);
            None
        }
    }
}

/// `https://HOST/…`; `http://` only where nobody from outside answers.
fn url(ctx: &mut Context<'_>, path: &str, text: Text, is_private: bool) -> Option<String> {
    let url = text.text.as_str();
    let plain = url.strip_prefix("http://");
    let host = url.strip_prefix("https://").or(plain).and_then(|rest| rest.split(['/', '?', '#']).next());
    let is_url = host.is_some_and(|host| !host.is_empty() && !host.contains('@'))
        && url.len() <= LONGEST
        && url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let problem = if !is_url {
        "which is no https URL without a user and a fragment"
    } else if plain.is_some() && !is_private {
        "and whoever is on the way could put keys of his own there"
    } else {
        return Some(text.text);
    };
    let message = format!("`{path}` is \"{}\", {problem}", quote(url));
    let help = "write https://…; http:// is for `jwks = { url = \"http://127.0.0.1:8180/jwks.json\", private = true }`";
    ctx.error(Code::BadValue, &text.span, message, help.to_owned());
    None
}

/// `identity` and `roles` of a route.
pub(super) fn entry(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Entry> {
    let issuer = cursor.text(ctx, "identity", "identity = \"staff\"");
    let node = cursor.node("roles");
    let roles = node.and_then(|node| roles(cursor, ctx, node));
    let Some(issuer) = issuer else {
        if let Some(node) = node.filter(|_| !ctx.is_said(&cursor.at("identity"))) {
            let path = cursor.at("roles");
            let message = format!("`{path}` asks for roles, and the route does not say who knows them");
            ctx.error(
                Code::UsesNothing,
                &node.key,
                message,
                "add `identity = \"NAME\"` of an [edge.identity.NAME]".to_owned(),
            );
        }
        return None;
    };
    if !ctx.declared.contains(&declared(&issuer.text)) {
        let path = cursor.at("identity");
        let known: Vec<String> =
            ctx.declared.iter().filter_map(|one| one.strip_prefix("edge.identity.")).map(str::to_owned).collect();
        let message = format!("`{path}` names \"{}\", which is no identity of the stack", quote(&issuer.text));
        let help = match nearest(&issuer.text, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => "declare it: [edge.identity.NAME]".to_owned(),
        };
        ctx.error(Code::UsesNothing, &issuer.span, message, help);
    }
    if cursor.node("basic_auth").is_some() {
        let path = cursor.at("identity");
        let message = format!("`{path}` and `basic_auth` both are about `Authorization`");
        ctx.error(Code::SaidTwice, &ctx.place(&[&path]), message, "keep one of the two".to_owned());
    }
    // A list that cannot be read must not leave the door open; the file is refused anyway.
    let roles = if node.is_some() { roles.unwrap_or_default() } else { Roles::any() };
    Some(Entry { issuer: issuer.text, roles })
}

/// An array, or a table of arrays by method.
fn roles(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>, node: &Node) -> Option<Roles> {
    const EXAMPLE: &str = "roles = [\"admin\"], or roles = { GET = [\"reader\", \"admin\"], \"*\" = [\"admin\"] }";
    let path = cursor.at("roles");
    match &node.value {
        Value::Array(_) => {
            let texts = cursor.texts(ctx, "roles", EXAMPLE)?;
            let set = role_set(ctx, &path, &texts, &node.key)?;
            Some(Roles(BTreeMap::from([(OTHER_METHODS.to_owned(), set)])))
        }
        Value::Table(table) => {
            ctx.note_value(&path, node);
            let mut by_method = BTreeMap::new();
            for (method, node) in table {
                let at = format!("{path}.{method}");
                ctx.note_value(&at, node);
                let is_method =
                    (1..=32).contains(&method.len()) && method.bytes().all(|byte| byte.is_ascii_uppercase());
                if !is_method && method != OTHER_METHODS {
                    let message = format!("\"{}\" is no method: GET, POST, …, or \"*\" for all others", quote(method));
                    ctx.error(Code::BadName, &node.key, message, format!("write for example {EXAMPLE}"));
                    continue;
                }
                let Value::Array(items) = &node.value else {
                    wrong_type(ctx, &at, node, "an array of roles", EXAMPLE);
                    continue;
                };
                let texts = items.iter().enumerate().filter_map(|(index, item)| match &item.value {
                    Value::Text(text) => Some(Text { text: text.clone(), span: item.span.clone() }),
                    _ => {
                        wrong_type(ctx, &format!("{at}[{index}]"), item, "a text", EXAMPLE);
                        None
                    }
                });
                let texts: Vec<Text> = texts.collect();
                if let Some(set) = role_set(ctx, &at, &texts, &node.key) {
                    by_method.insert(method.clone(), set);
                }
            }
            if by_method.is_empty() || by_method.len() > MOST {
                let message = format!("`{path}` has {} methods; it has 1 to {MOST}", by_method.len());
                ctx.error(Code::OutOfRange, &node.key, message, format!("write for example {EXAMPLE}"));
            }
            Some(Roles(by_method))
        }
        _ => {
            wrong_type(ctx, &path, node, "an array or a table", EXAMPLE);
            None
        }
    }
}

fn role_set(ctx: &mut Context<'_>, path: &str, texts: &[Text], place: &Range<usize>) -> Option<BTreeSet<String>> {
    if texts.len() > MOST {
        let message = format!("`{path}` has {} roles, and {MOST} are the most", texts.len());
        ctx.error(Code::OutOfRange, place, message, "remove some".to_owned());
        return None;
    }
    for text in texts.iter().filter(|text| !is_role(&text.text)) {
        let message = format!("`{path}` has \"{}\", which is no name of a role", quote(&text.text));
        let help = "write letters, digits and signs without blanks and commas: \"shop:admin\"".to_owned();
        ctx.error(Code::BadName, &text.span, message, help);
    }
    Some(texts.iter().map(|text| text.text.clone()).collect())
}
