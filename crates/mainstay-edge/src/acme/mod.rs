//! Orders certificates from a public authority (RFC 8555): the control plane's half, which asks.
//!
//! An order has two steps, [`begin`] and [`Pending::finish`]; between them the edge is told what to show. When to order
//! is decided elsewhere (`mainstay_decide::acme`). The account's key is made here, kept in a file that only the owner
//! reads, and never logged.

mod https;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, ExternalAccountKey, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use mainstay_decide::acme::Validity;
use mainstay_stack::tls::Challenge;
use mainstay_supervisor::durable;
use mainstay_types::Secret;
use sha2::{Digest, Sha256};

use crate::challenge;
use crate::own;
use crate::protocol::{Certificate, Challenges};
use https::Https;

/// Time for an authority to look at the proofs, or to sign: authorities look from several places.
const PATIENCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(90));
/// Wait of who is told that he asks too often, and not for how long.
const RATE_LIMITED: Duration = Duration::from_hours(1);
/// Longest text of an authority that is passed on.
const MOST_TEXT: usize = 400;

/// What is ordered, and where.
#[derive(Clone, Debug)]
pub struct Ask {
    /// URL of the directory.
    pub directory: String,
    /// Where the authority writes to.
    pub email: Option<String>,
    /// Certificates that sign the directory's own; `None`: those of the system.
    pub roots: Option<PathBuf>,
    /// Name and file of a key that the authority handed out.
    pub external_account: Option<(String, PathBuf)>,
    /// Folder of the accounts.
    pub accounts: PathBuf,
    /// The names; the first one is the certificate's main one.
    pub names: Vec<String>,
    /// How they are proven.
    pub challenge: Challenge,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// A file on this machine.
    #[error("cannot use {}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The authority is not reached, or says no.
    #[error("cannot {action}: {reason}")]
    Authority {
        /// What was asked of it.
        action: &'static str,
        /// What it said, or what happened on the way to it.
        reason: String,
        /// How long it wants to hear nothing.
        retry_after: Option<Duration>,
    },
    /// It saw no proof of a name.
    #[error("{name} is not proven by {}: {reason}", challenge.text())]
    Unproven {
        /// The name.
        name: String,
        /// How it was to be proven.
        challenge: Challenge,
        /// What the authority saw.
        reason: String,
    },
    /// What it signed is of no use.
    #[error("what the authority signed is not usable: {0}")]
    Unusable(String),
}

impl AcmeError {
    /// How long the authority wants to hear nothing.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Authority { retry_after, .. } => *retry_after,
            Self::File { .. } | Self::Unproven { .. } | Self::Unusable(_) => None,
        }
    }
}

/// An order whose names are yet to be proven.
pub struct Pending {
    order: Order,
    ask: Ask,
    heard: Heard,
}

/// The last `Retry-After` of an answer that was none.
type Heard = Arc<Mutex<Option<Duration>>>;

/// Begins an order; the account is made when there is none. What the edge must show before [`Pending::finish`] comes
/// with it.
///
/// **Errors**: a file, or the authority.
pub async fn begin(ask: &Ask) -> Result<(Pending, Challenges), AcmeError> {
    let heard = Heard::default();
    let mut account = open(ask, &heard).await?;
    let names: Vec<_> = ask.names.iter().cloned().map(Identifier::Dns).collect();
    let mut ordered = account.new_order(&NewOrder::new(&names)).await;
    if ordered.as_ref().is_err_and(is_unknown_account) {
        // An authority that forgot its accounts: a test one that was started again.
        std::fs::remove_file(account_file(ask)).ok();
        account = open(ask, &heard).await?;
        ordered = account.new_order(&NewOrder::new(&names)).await;
    }
    let mut order = ordered.map_err(said("order a certificate", &heard))?;
    let challenges = challenges(&mut order, ask, &heard).await?;
    Ok((Pending { order, ask: ask.clone(), heard }, challenges))
}

async fn challenges(order: &mut Order, ask: &Ask, heard: &Heard) -> Result<Challenges, AcmeError> {
    let mut found = Challenges::default();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(said("read what is to be proven", heard))?;
        let name = authorization.identifier().to_string();
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            _ => return Err(unproven(&name, ask, format!("it is {:?} already", authorization.status))),
        }
        let Some(offered) = authorization.challenge(kind(ask.challenge)) else {
            return Err(unproven(&name, ask, "the authority does not offer it".to_owned()));
        };
        let answer = offered.key_authorization();
        match ask.challenge {
            Challenge::Http01 => {
                // It becomes a part of a path: nothing but what RFC 8555, section 8.1 allows.
                let is_token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
                if offered.token.is_empty() || !offered.token.bytes().all(is_token) {
                    return Err(unproven(&name, ask, "the authority's token is none".to_owned()));
                }
                found.http.insert(offered.token.clone(), answer.as_str().to_owned());
            }
            Challenge::TlsAlpn01 => {
                let made = challenge::certificate(&name, answer.digest().as_ref());
                found.tls.push(made.map_err(|error| unproven(&name, ask, error.to_string()))?);
            }
        }
    }
    Ok(found)
}

impl Pending {
    /// Lets the authority look, and has the certificate signed. Its key is a new one.
    ///
    /// **Errors**: the authority, or what it signed.
    pub async fn finish(mut self) -> Result<(Certificate, Validity), AcmeError> {
        self.ready().await?;
        let key = self.order.finalize().await.map_err(said("have the certificate signed", &self.heard))?;
        let chain = self.order.poll_certificate(&PATIENCE).await;
        let chain_pem = chain.map_err(said("get the certificate", &self.heard))?;
        let certificate = Certificate { hosts: self.ask.names.clone(), chain_pem, key_pem: Secret::new(key) };
        let validity = own::validity(&certificate).map_err(AcmeError::Unusable)?;
        // The authority's clock may be ahead of ours: that is no reason to order another.
        own::inspect(&certificate, crate::now().max(validity.begins)).map_err(AcmeError::Unusable)?;
        Ok((certificate, validity))
    }

    /// Waits until all names are proven.
    async fn ready(&mut self) -> Result<(), AcmeError> {
        let mut authorizations = self.order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(said("read what is to be proven", &self.heard))?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            if let Some(mut offered) = authorization.challenge(kind(self.ask.challenge)) {
                offered.set_ready().await.map_err(said("ask the authority to look", &self.heard))?;
            }
        }
        match self.order.poll_ready(&PATIENCE).await {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => Err(self.why().await),
            Err(Error::Api(problem)) => Err(match self.why().await {
                known @ AcmeError::Unproven { .. } => known,
                _ => said("have the names proven", &self.heard)(Error::Api(problem)),
            }),
            Err(error) => Err(said("have the names proven", &self.heard)(error)),
        }
    }

    /// Which name was not proven, and what the authority saw.
    async fn why(&mut self) -> AcmeError {
        let mut authorizations = self.order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            if authorization.refresh().await.is_err() || authorization.status != AuthorizationStatus::Invalid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let problem = authorization.challenges.iter().find_map(|one| one.error.as_ref());
            let reason = problem.map_or_else(|| "the authority does not say why".to_owned(), ToString::to_string);
            return unproven(&name, &self.ask, reason);
        }
        let reason = "the authority refuses the order and does not say why".to_owned();
        AcmeError::Authority { action: "have the names proven", reason, retry_after: None }
    }
}

fn kind(of: Challenge) -> ChallengeType {
    match of {
        Challenge::Http01 => ChallengeType::Http01,
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

fn unproven(name: &str, ask: &Ask, reason: String) -> AcmeError {
    AcmeError::Unproven { name: name.to_owned(), challenge: ask.challenge, reason: plain(&reason) }
}

/// Of a text that somebody else wrote: one line, not too long.
fn plain(text: &str) -> String {
    let mut plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MOST_TEXT).collect();
    if text.chars().count() > MOST_TEXT {
        plain.push('…');
    }
    plain
}

fn said(action: &'static str, heard: &Heard) -> impl FnOnce(Error) -> AcmeError {
    let asked = heard.lock().unwrap_or_else(PoisonError::into_inner).take();
    move |error| {
        let is_limited = matches!(&error, Error::Api(problem) if problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(":rateLimited")));
        let retry_after = asked.or(is_limited.then_some(RATE_LIMITED));
        AcmeError::Authority { action, reason: plain(&full_text(&error)), retry_after }
    }
}

fn full_text(error: &Error) -> String {
    match error {
        // Its text is the source's own.
        Error::Other(source) => mainstay_types::full_text(source.as_ref()),
        other => mainstay_types::full_text(other),
    }
}

fn is_unknown_account(error: &Error) -> bool {
    matches!(error, Error::Api(problem)
        if problem.r#type.as_deref().is_some_and(|kind| kind.ends_with(":accountDoesNotExist")))
}

/// The account at this directory; another directory has another.
fn account_file(ask: &Ask) -> PathBuf {
    let hash = Sha256::digest(ask.directory.as_bytes());
    let short: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    ask.accounts.join(format!("account-{short}.json"))
}

/// The account that is kept, or a new one.
async fn open(ask: &Ask, heard: &Heard) -> Result<Account, AcmeError> {
    let https = Https::new(ask.roots.as_deref(), Arc::clone(heard))?;
    let builder = Account::builder_with_http(Box::new(https));
    let path = account_file(ask);
    let wrong = |reason: String| AcmeError::File { path: path.clone(), reason };
    match std::fs::read(&path) {
        Ok(bytes) => {
            // Not what it says: the key is in it.
            let kept: AccountCredentials = serde_json::from_slice(&bytes)
                .map_err(|_| wrong("it is no account; remove it to get a new one".to_owned()))?;
            return builder.from_credentials(kept).await.map_err(said("reach the directory", heard));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(wrong(error.to_string())),
    }
    let contact = ask.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = ask.external_account.as_ref().map(|(kid, file)| external_key(kid, file)).transpose()?;
    let made = builder.create(&new, ask.directory.clone(), external.as_ref()).await;
    let (account, credentials) = made.map_err(said("make an account", heard))?;
    let bytes = serde_json::to_vec(&credentials).map_err(|error| wrong(error.to_string()))?;
    durable::replace(&path, &bytes, 0o600).map_err(|error| wrong(error.to_string()))?;
    Ok(account)
}

fn external_key(kid: &str, file: &Path) -> Result<ExternalAccountKey, AcmeError> {
    let wrong = |reason: &str| AcmeError::File { path: file.to_owned(), reason: reason.to_owned() };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(&error.to_string()))?;
    let key = URL_SAFE_NO_PAD.decode(text.trim().trim_end_matches('='));
    let key = key.map_err(|_| wrong("it is not Base64 for URLs, as authorities hand keys out"))?;
    if key.is_empty() {
        return Err(wrong("it is empty"));
    }
    Ok(ExternalAccountKey::new(kid.to_owned(), &key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_says_is_one_line_and_not_too_long() {
        assert_eq!(plain("a\nb\u{1b}[31m"), "a b [31m");
        let long = plain(&"x".repeat(5000));
        assert_eq!(long.chars().count(), MOST_TEXT + 1);
    }

    #[test]
    fn a_key_of_an_external_account_is_base64_with_or_without_padding() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("key");
        for (text, is_good) in [("AAECAw", true), ("AAECAw==\n", true), ("not base64!", false), ("", false)] {
            std::fs::write(&file, text).expect("writes");
            assert_eq!(external_key("kid", &file).is_ok(), is_good, "{text}");
        }
        let reason = external_key("kid", &folder.path().join("none")).err().expect("none").to_string();
        assert!(reason.contains("none"), "{reason}");
    }

    #[test]
    fn each_directory_has_an_account_of_its_own() {
        let of = |directory: &str| {
            account_file(&Ask {
                directory: directory.to_owned(),
                email: None,
                roots: None,
                external_account: None,
                accounts: PathBuf::from("/a"),
                names: Vec::new(),
                challenge: Challenge::Http01,
            })
        };
        assert_ne!(of("https://a.example/dir"), of("https://b.example/dir"));
        assert_eq!(of("https://a.example/dir"), of("https://a.example/dir"));
    }
}
