//! `[edge.tls]`: versions, and where the certificate comes from.

use std::path::PathBuf;

use crate::code::Code;
use crate::context::Context;
use crate::cursor::{Cursor, Text};
use crate::diagnostic::quote;
use crate::model::{Edge, OwnCertificate, TlsVersion};
use crate::tls::{Acme, Challenge, ClientCertificate, ExternalAccount, LETS_ENCRYPT, LETS_ENCRYPT_STAGING};

const RENAMED: [(&str, &str); 5] =
    [("version", "min"), ("minimum", "min"), ("certificate", "cert"), ("ca", "roots"), ("client", "client_ca")];

/// What the table says.
#[derive(Default)]
pub(super) struct Tls {
    least: TlsVersion,
    certificate: Option<OwnCertificate>,
    acme: Option<Acme>,
    client_ca: Option<PathBuf>,
}

impl Tls {
    pub(super) fn put(self, edge: &mut Edge) {
        let Self { least, certificate, acme, client_ca } = self;
        (edge.least_tls, edge.certificate, edge.acme, edge.client_ca) = (least, certificate, acme, client_ca);
    }
}

pub(super) fn read(edge: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Tls {
    let Some(mut table) = edge.table(ctx, "tls") else { return Tls::default() };
    let least = least(&mut table, ctx).unwrap_or_default();
    let certificate = certificate(&mut table, ctx);
    let acme = acme(&mut table, ctx);
    let client_ca = file(&mut table, ctx, "client_ca", "client_ca = \"tls/clients.pem\"");
    table.finish(ctx, &[], &RENAMED);
    Tls { least, certificate, acme, client_ca }
}

/// `tls.mode` and what belongs to it. Read in any mode, so that its mistakes show.
fn acme(table: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<Acme> {
    let mode = table.text(ctx, "mode", "mode = \"acme\"");
    let directory = directory(table, ctx);
    let email = table.text(ctx, "email", "email = \"ops@example.com\"");
    if let Some(email) = &email
        && !is_email(&email.text)
    {
        let message = format!("`{}` is \"{}\", which is no address", table.at("email"), quote(&email.text));
        ctx.error(Code::BadValue, &email.span, message, "write for example \"ops@example.com\"".to_owned());
    }
    let challenge = table.text(ctx, "challenge", "challenge = \"http-01\"").and_then(|text| challenge(ctx, &text));
    let roots = file(table, ctx, "roots", "roots = \"tls/authority.pem\"");
    let external_account = table.table(ctx, "external_account").and_then(|table| external_account(table, ctx));
    let is_acme = match mode.as_ref().map(|mode| (mode.text.as_str(), mode)) {
        None | Some(("local", _)) => false,
        Some(("acme", _)) => true,
        Some((other, mode)) => {
            let message = format!("`{}` is \"{}\"; it is \"acme\" or \"local\"", table.at("mode"), quote(other));
            let help =
                "write \"acme\" for a certificate of a public authority; \"local\" is what is without it".to_owned();
            ctx.error(Code::BadValue, &mode.span, message, help);
            false
        }
    };
    let email = email.map(|email| email.text);
    is_acme.then_some(Acme { directory, email, challenge, roots, external_account })
}

/// `tls.directory` or `tls.staging`.
fn directory(table: &mut Cursor<'_>, ctx: &mut Context<'_>) -> String {
    let given = table.text(ctx, "directory", "directory = \"https://acme.example.com/directory\"");
    let is_staging = table.boolean(ctx, "staging").unwrap_or(false);
    let Some(given) = given else {
        return if is_staging { LETS_ENCRYPT_STAGING } else { LETS_ENCRYPT }.to_owned();
    };
    let host = given.text.strip_prefix("https://").and_then(|rest| rest.split('/').next());
    if host.is_none_or(str::is_empty) || !given.text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("`{}` is \"{}\", which is no https URL", table.at("directory"), quote(&given.text));
        let help = "write the URL of the authority's directory, for example \"https://acme.example.com/directory\"";
        ctx.error(Code::BadValue, &given.span, message, help.to_owned());
    } else if is_staging {
        let message = format!("`{}` and `{}` exclude each other", table.at("directory"), table.at("staging"));
        let help = "`staging` is the staging directory of Let's Encrypt: remove one of them".to_owned();
        ctx.error(Code::BadValue, &given.span, message, help);
    }
    given.text
}

fn challenge(ctx: &mut Context<'_>, text: &Text) -> Option<Challenge> {
    let known = [Challenge::Http01, Challenge::TlsAlpn01].into_iter().find(|known| known.text() == text.text);
    if known.is_none() {
        let message =
            format!("`edge.tls.challenge` is \"{}\"; it is \"http-01\" or \"tls-alpn-01\"", quote(&text.text));
        let help = "remove it to have both tried in turn; \"http-01\" needs port 80 from outside, \"tls-alpn-01\" 443";
        ctx.error(Code::BadValue, &text.span, message, help.to_owned());
    }
    known
}

/// `client_certificate` of a route.
pub(super) fn client_certificate(cursor: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<ClientCertificate> {
    let text = cursor.text(ctx, "client_certificate", "client_certificate = \"required\"")?;
    let known = [ClientCertificate::Optional, ClientCertificate::Required];
    let found = known.into_iter().find(|known| known.text() == text.text);
    if found.is_none() {
        let path = cursor.at("client_certificate");
        let message = format!("`{path}` is \"{}\"; it is \"required\" or \"optional\"", quote(&text.text));
        let help = "write \"required\" to let nobody in without one; remove it to ask for none".to_owned();
        ctx.error(Code::BadValue, &text.span, message, help);
    }
    found
}

fn external_account(mut table: Cursor<'_>, ctx: &mut Context<'_>) -> Option<ExternalAccount> {
    let kid = table.text(ctx, "kid", "kid = \"…\"").map(|kid| kid.text);
    let key_file = file(&mut table, ctx, "key_file", "key_file = \"tls/external.key\"");
    for key in ["kid", "key_file"] {
        let is_there = if key == "kid" { kid.is_some() } else { key_file.is_some() };
        if !is_there && !ctx.is_said(&table.at(key)) {
            let example = if key == "kid" { "`kid = \"…\"`" } else { "`key_file = \"tls/external.key\"`" };
            table.missing(ctx, key, "the authority hands out a key and a name for it", example);
        }
    }
    // A key does not stand in the stack file.
    table.finish(ctx, &[], &[("key", "key_file"), ("hmac", "key_file"), ("id", "kid")]);
    Some(ExternalAccount { kid: kid?, key_file: key_file? })
}

/// Enough to see that something else was written; what an address is only its server knows.
fn is_email(text: &str) -> bool {
    text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.') && !host.contains('@'))
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\",;".contains(&byte))
}

fn file(table: &mut Cursor<'_>, ctx: &mut Context<'_>, key: &'static str, example: &str) -> Option<PathBuf> {
    let path = table.text(ctx, key, example)?;
    if path.text.is_empty() {
        let message = format!("`{}` is empty", table.at(key));
        ctx.error(Code::BadValue, &path.span, message, format!("write for example {example}"));
    }
    Some(PathBuf::from(path.text))
}

/// `tls.cert` and `tls.key`.
fn certificate(table: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<OwnCertificate> {
    let cert = file(table, ctx, "cert", "cert = \"tls/site.pem\"");
    let key = file(table, ctx, "key", "key = \"tls/site.key\"");
    match (cert, key) {
        (Some(cert), Some(key)) => Some(OwnCertificate { cert, key }),
        (Some(_), None) if !ctx.is_said(&table.at("key")) => {
            table.missing(ctx, "key", "a certificate is of no use without its key", "`key = \"tls/site.key\"`");
            None
        }
        (None, Some(_)) if !ctx.is_said(&table.at("cert")) => {
            table.missing(ctx, "cert", "a key is of no use without its certificate", "`cert = \"tls/site.pem\"`");
            None
        }
        (_, _) => None,
    }
}

/// `tls.min`: the lowest version.
fn least(table: &mut Cursor<'_>, ctx: &mut Context<'_>) -> Option<TlsVersion> {
    let least = table.text(ctx, "min", "min = \"1.3\"");
    least.and_then(|text| match text.text.as_str() {
        "1.2" => Some(TlsVersion::Tls12),
        "1.3" => Some(TlsVersion::Tls13),
        other => {
            let message = format!("`edge.tls.min` is \"{}\"; it is \"1.2\" or \"1.3\"", quote(other));
            let help = "write \"1.3\" to refuse clients that are older than about 2018".to_owned();
            ctx.error(Code::BadValue, &text.span, message, help);
            None
        }
    })
}
