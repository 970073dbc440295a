//! Object stores of backups: the target itself, and `[database.backup.copy]`, the second copy off the machine.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use mainstay_types::{Endpoint, ObjectAddress, StoreKind};

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, Text};
use crate::diagnostic::quote;
use crate::model::{BackupCopy, ObjectStore};
use crate::read::variables::is_variable;

/// A look every second or two and a segment's way to another continent fit in.
const RPO_LEAST: Duration = Duration::from_secs(30);
const RPO_MOST: Duration = Duration::from_secs(7 * 24 * 3600);
const LATER: [(&str, &str); 4] = [
    ("storage_class", "the bucket's rules move objects to another class"),
    ("encrypt", "backups are always encrypted before they leave the machine"),
    ("session_token", "keys that expire are not supported: make a key for this copy alone"),
    ("role", "make a key for this copy alone"),
];
const RENAMED: [(&str, &str); 6] = [
    ("target", "to"),
    ("url", "to"),
    ("access_key_id", "access_key"),
    ("secret_access_key", "secret_key"),
    ("cacert", "ca"),
    ("server", "endpoint"),
];

/// What requests are signed for where no region is named. Google takes any, and Azure knows none.
fn region_of(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::S3 => "us-east-1",
        StoreKind::Google | StoreKind::Azure => "auto",
    }
}

/// Keys of a table that say how a store is opened.
const OF_STORE: [&str; 5] = ["endpoint", "region", "access_key", "secret_key", "ca"];

pub(super) fn copy(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<BackupCopy> {
    let mut table = cursor.table(ctx, "copy")?;
    let to = place::<ObjectAddress>(&mut table, ctx, "to", "to = \"s3://my-backups/shop\"");
    let store = store(&mut table, ctx, to.as_ref());
    let rpo = table.duration(ctx, "rpo", RPO_LEAST..=RPO_MOST).unwrap_or(Duration::from_secs(300));
    table.finish(ctx, &LATER, &RENAMED);
    if to.is_none() && !ctx.is_said(&table.at("to")) {
        table.missing(ctx, "to", "the copy goes there", "to = \"s3://my-backups/shop\"");
    }
    Some(BackupCopy { store: store?, rpo })
}

/// What opens the store at an address; all its keys are read also when there is none.
pub(super) fn store(
    table: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    address: Option<&ObjectAddress>,
) -> Option<ObjectStore> {
    let kind = address.map_or(StoreKind::S3, ObjectAddress::kind);
    let (access, secret) = kind.variables();
    let endpoint = place::<Endpoint>(table, ctx, "endpoint", "endpoint = \"https://s3.example.com\"");
    let region = region(table, ctx).unwrap_or_else(|| region_of(kind).to_owned());
    let access_key = variable(table, ctx, "access_key", access);
    let secret_key = variable(table, ctx, "secret_key", secret);
    let ca = table.text(ctx, "ca", "ca = \"store-ca.pem\"").map(|text| PathBuf::from(text.text));
    Some(ObjectStore { address: address?.clone(), endpoint, region, access_key, secret_key, ca })
}

/// The target as a store, with what opens it.
pub(super) fn target(table: &mut Cursor<'_>, ctx: &mut Context<'_>, text: &Text) -> Option<ObjectStore> {
    let address = match text.text.parse::<ObjectAddress>() {
        Ok(address) => Some(address),
        Err(error) => {
            let message = format!("`{}` is \"{}\": {error}", table.at("target"), quote(&text.text));
            let help = "write a folder, or a store as target = \"s3://my-backups/shop\"".to_owned();
            ctx.error(Code::BadValue, &text.span, message, help);
            None
        }
    };
    store(table, ctx, address.as_ref())
}

/// A folder needs nothing that opens it.
pub(super) fn no_store(table: &mut Cursor<'_>, ctx: &mut Context<'_>) {
    for key in OF_STORE {
        let Some(text) = table.text(ctx, key, "") else { continue };
        let message = format!("`{}` is for a store, and `{}` is a folder", table.at(key), table.at("target"));
        let help =
            "write target = \"s3://my-backups/shop\", or the second copy's into [database.backup.copy]".to_owned();
        ctx.error(Code::BadValue, &text.span, message, help);
    }
}

fn place<T: FromStr<Err: std::fmt::Display>>(
    table: &mut Cursor<'_>,
    ctx: &mut Context<'_>,
    key: &'static str,
    example: &str,
) -> Option<T> {
    let text = table.text(ctx, key, example)?;
    match text.text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            let message = format!("`{}` is \"{}\": {error}", table.at(key), quote(&text.text));
            ctx.error(Code::BadValue, &text.span, message, format!("write for example {example}"));
            None
        }
    }
}

fn region(table: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<String> {
    let text = table.text(ctx, "region", "region = \"eu-central-1\"")?;
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if (1..=64).contains(&text.text.len()) && text.text.bytes().all(is_name) {
        return Some(text.text);
    }
    let message = format!("`{}` is \"{}\", which is no region", table.at("region"), quote(&text.text));
    ctx.error(Code::BadValue, &text.span, message, "write for example region = \"eu-central-1\"".to_owned());
    None
}

/// The name of a variable; a key itself in the stack file is refused, and not shown again.
fn variable(table: &mut Cursor<'_>, ctx: &mut Context<'_>, key: &'static str, default: &str) -> String {
    let Some(text) = table.text(ctx, key, &format!("{key} = \"{default}\"")) else { return default.to_owned() };
    let is_upper = text.text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    // Access keys are such names by their letters; no name that people choose has so many without a `_`.
    let is_key = text.text.len() >= 16 && !text.text.contains('_');
    if is_upper && is_variable(&text.text) && !is_key {
        return text.text;
    }
    let message = format!("`{}` is no name of a variable: the key itself is never written here", table.at(key));
    let help = format!("write {key} = \"{default}\": `up` reads that variable, or the file that {default}_FILE names");
    ctx.error(Code::VariableName, &text.span, message, help);
    default.to_owned()
}
