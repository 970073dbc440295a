//! Keeps the edge's certificate of a public authority: orders it, tells the edge what to show, renews it in time.
//!
//! Whatever goes wrong, the edge goes on with the certificate it has; while it never had one, with the operator's own
//! or the local authority's. What was tried is on disk before it is tried, so that a control plane that is started
//! again and again does not have the authority lock the stack out.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_decide::acme::{self, Attempts, Decision, Validity};
use mainstay_decide::balance;
use mainstay_edge::acme::{AcmeError, Ask, begin};
use mainstay_edge::own;
use mainstay_edge::protocol::{Certificate, Challenges};
use mainstay_stack::tls::{Acme, Challenge};
use mainstay_supervisor::durable;
use mainstay_types::full_text;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::clock::now;
use crate::journal::Journal;
use crate::maintenance::ToEdge;
use crate::settings::Settings;
use crate::store::NewEvent;

/// Longest sleep: the clock may be set, and a machine may sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// Time for the edge to take a policy; it is being started again at worst.
const TAKEN: Duration = Duration::from_secs(20);
/// Time for a whole order.
const ORDER: Duration = Duration::from_mins(6);
/// Below this share of its life a certificate that is not renewed is a matter for a person. **Unit**: thousandths.
const URGENT_MILLI: u64 = 250;

/// What others want to know of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) validity: Option<Validity>,
    /// Failures in a row.
    pub(crate) failures: u32,
}

pub(crate) struct Keeper {
    settings: Arc<Settings>,
    journal: Journal,
    of: Acme,
    edge: ToEdge,
    seen: watch::Sender<Option<Seen>>,
    folder: PathBuf,
    /// In force at the edge, whoever signed it.
    shown: Certificate,
    /// For names that this one is not for.
    instead: Certificate,
    /// Of a certificate as it is wanted now.
    validity: Option<Validity>,
    attempts: Attempts,
}

/// The last certificate, and for what it was ordered.
#[derive(Serialize, Deserialize)]
struct Kept {
    directory: String,
    certificate: Certificate,
}

/// What was tried, and for what.
#[derive(Serialize, Deserialize)]
struct Tried {
    directory: String,
    hosts: Vec<String>,
    attempts: Attempts,
}

impl Keeper {
    /// Sends the first policy, with the last certificate of the authority if there is one, and else with `instead`; and
    /// keeps it from then on.
    pub(crate) fn begin(
        settings: &Arc<Settings>,
        journal: &Journal,
        of: &Acme,
        instead: Certificate,
        (edge, seen): (ToEdge, watch::Sender<Option<Seen>>),
    ) {
        let folder = settings.paths.state.join("acme");
        let mut keeper = Self {
            settings: Arc::clone(settings),
            journal: journal.clone(),
            of: of.clone(),
            edge,
            seen,
            folder,
            shown: instead.clone(),
            instead,
            validity: None,
            attempts: Attempts::default(),
        };
        if let Err(error) = private_folder(&keeper.folder) {
            let text = format!("{} cannot be made, so no certificate is ordered: {error}", keeper.folder.display());
            keeper.journal.emit(NewEvent::error(now(), "CertificateFailed", text).about("edge"));
            keeper.show(Challenges::default());
            return;
        }
        if let Some((kept, validity)) = keeper.kept() {
            (keeper.shown, keeper.validity) = (kept, validity);
        }
        keeper.attempts = keeper.tried();
        keeper.show(Challenges::default());
        keeper.tell();
        tokio::spawn(keeper.run());
    }

    async fn run(mut self) {
        // An edge that is not there yet could show no proof.
        if self.edge.accepted.subscribe().wait_for(Option::is_some).await.is_err() {
            return;
        }
        loop {
            let at = now();
            match acme::decide(self.validity, &self.attempts, self.chance(), at) {
                Decision::Order => self.attempt().await,
                Decision::Wait { until } => {
                    let pause = until.saturating_since(at).clamp(Duration::from_millis(100), LONGEST_SLEEP);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// The same for a certificate, another for each.
    fn chance(&self) -> u64 {
        let ends = self.validity.map_or(0, |validity| validity.ends.as_micros());
        balance::hash(format!("{}{ends}", self.settings.paths.state.display()).as_bytes())
    }

    async fn attempt(&mut self) {
        self.attempts.last = Some(now());
        if let Err(error) = self.keep_attempts() {
            // Without it the next control plane would ask again at once.
            let text = format!("{} cannot be written, so no certificate is ordered: {error}", self.folder.display());
            self.attempts.failed(now(), None);
            self.journal.emit(NewEvent::error(now(), "CertificateFailed", text).about("edge"));
            return;
        }
        let challenge = acme::challenge(self.of.challenge, self.attempts.failures);
        let ordered = tokio::time::timeout(ORDER, self.order(challenge)).await;
        let ordered = ordered.unwrap_or_else(|_| Err(Failed::late("the order took longer than six minutes")));
        match ordered {
            Ok((certificate, validity)) => self.take(certificate, validity),
            Err(failed) => self.failed(&failed),
        }
        self.tell();
    }

    async fn order(&mut self, challenge: Challenge) -> Result<(Certificate, Validity), Failed> {
        let folder = &self.settings.launch.origin;
        let external = self.of.external_account.as_ref();
        let ask = Ask {
            directory: self.of.directory.clone(),
            email: self.of.email.clone(),
            roots: self.of.roots.as_ref().map(|roots| folder.join(roots)),
            external_account: external.map(|of| (of.kid.clone(), folder.join(&of.key_file))),
            accounts: self.folder.clone(),
            names: self.settings.stack.edge.hosts(),
            challenge,
        };
        let (pending, challenges) = begin(&ask).await?;
        if challenges != Challenges::default() {
            let hash = self.show(challenges);
            let mut accepted = self.edge.accepted.subscribe();
            let taken = accepted.wait_for(|accepted| accepted.as_ref() == Some(&hash));
            let taken = tokio::time::timeout(TAKEN, taken).await;
            taken
                .map_err(|_| Failed::late("the edge did not take what it is to show"))?
                .map_err(|_| Failed::late("the edge is gone"))?;
        }
        Ok(pending.finish().await?)
    }

    fn take(&mut self, certificate: Certificate, validity: Validity) {
        let kept = Kept { directory: self.of.directory.clone(), certificate: certificate.clone() };
        let bytes = serde_json::to_vec(&kept).map_err(io::Error::other);
        let saved = bytes.and_then(|bytes| durable::replace(&self.folder.join("certificate.json"), &bytes, 0o600));
        if let Err(error) = saved {
            let text = format!("the new certificate could not be kept, the next control plane orders another: {error}");
            self.journal.emit(NewEvent::warn(now(), "CertificateNotKept", text).about("edge"));
        }
        (self.shown, self.validity, self.attempts) = (certificate, Some(validity), Attempts::default());
        std::fs::remove_file(self.folder.join("attempts.json")).ok();
        self.show(Challenges::default());
        let (names, from, until) = (self.shown.hosts.join(", "), &self.of.directory, validity.ends);
        let text = format!("a certificate for {names} of {from} counts for new connections, until {until}");
        self.journal.emit(NewEvent::info(now(), "CertificateIssued", text).about("edge"));
    }

    fn failed(&mut self, failed: &Failed) {
        let at = now();
        self.attempts.failed(at, failed.retry_after);
        self.keep_attempts().ok();
        self.show(Challenges::default());
        let next = match acme::decide(self.validity, &self.attempts, self.chance(), at) {
            Decision::Order => at,
            Decision::Wait { until } => until,
        };
        let (names, Attempts { failures, .. }) = (self.settings.stack.edge.hosts().join(", "), &self.attempts);
        let meanwhile = match self.validity {
            Some(validity) => format!("the one before stays, until {}", validity.ends),
            None => "there was none before".to_owned(),
        };
        let reason = &failed.reason;
        let text = format!(
            "no certificate for {names} of {}, attempt {failures}, the next at {next}; {meanwhile}: {reason}",
            self.of.directory
        );
        let is_urgent = self.validity.is_none_or(|validity| validity.left_milli(at) < URGENT_MILLI);
        let new = if is_urgent { NewEvent::error } else { NewEvent::warn };
        self.journal.emit(new(at, "CertificateFailed", text).about("edge"));
    }

    /// Sends a policy; its hash.
    fn show(&self, challenges: Challenges) -> String {
        self.edge.send(|| {
            let mut policy = self.settings.edge_policy(self.shown.clone());
            if self.shown.hosts != policy.hosts {
                // The later one counts where both do.
                policy.certificates.insert(0, self.instead.clone());
            }
            policy.challenges = challenges;
            policy
        })
    }

    fn tell(&self) {
        self.seen.send_replace(Some(Seen { validity: self.validity, failures: self.attempts.failures }));
    }

    /// The certificate that is kept, if it is for any of these names. One that is over is still the best there is; one
    /// for other names, or of another authority, serves until there is one as it is wanted.
    fn kept(&self) -> Option<(Certificate, Option<Validity>)> {
        let bytes = std::fs::read(self.folder.join("certificate.json")).ok()?;
        let Kept { directory, certificate } = serde_json::from_slice(&bytes).ok()?;
        let hosts = self.settings.stack.edge.hosts();
        let is_wanted = directory == self.of.directory && certificate.hosts == hosts;
        let validity = own::validity(&certificate).ok()?;
        // What the edge would refuse must not keep it from its other policies.
        own::inspect(&certificate, validity.begins).ok()?;
        let is_for_any = certificate.hosts.iter().any(|host| hosts.contains(host));
        is_for_any.then_some((certificate, is_wanted.then_some(validity)))
    }

    fn tried(&self) -> Attempts {
        let hosts = self.settings.stack.edge.hosts();
        let read = std::fs::read(self.folder.join("attempts.json")).ok();
        let tried: Option<Tried> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        // Of other names, or elsewhere: that says nothing of these.
        let ours = tried.filter(|tried| tried.directory == self.of.directory && tried.hosts == hosts);
        ours.map(|tried| tried.attempts).unwrap_or_default()
    }

    fn keep_attempts(&self) -> io::Result<()> {
        let hosts = self.settings.stack.edge.hosts();
        let tried = Tried { directory: self.of.directory.clone(), hosts, attempts: self.attempts.clone() };
        let bytes = serde_json::to_vec(&tried).map_err(io::Error::other)?;
        durable::replace(&self.folder.join("attempts.json"), &bytes, 0o600)
    }
}

fn private_folder(folder: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Why an order did not succeed.
struct Failed {
    reason: String,
    retry_after: Option<Duration>,
}

impl Failed {
    fn late(reason: &str) -> Self {
        Self { reason: reason.to_owned(), retry_after: None }
    }
}

impl From<AcmeError> for Failed {
    fn from(error: AcmeError) -> Self {
        Self { reason: full_text(&error), retry_after: error.retry_after() }
    }
}
