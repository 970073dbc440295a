//! The edge's certificate: the local authority's, or the operator's own, which is followed while its files change; that
//! of a public authority is `acme`'s.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::store::NewEvent;
use mainstay_edge::own::{Look, OwnFiles};
use mainstay_edge::protocol::Certificate;
use mainstay_stack::model::OwnCertificate;
use mainstay_supervisor::durable;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::acme;
use crate::clock::now;
use crate::journal::Journal;
use crate::maintenance::ToEdge;
use crate::settings::Settings;

/// Pause between two looks at the files. A renewal is at least a day early.
const LOOK: Duration = Duration::from_secs(2);

/// What the edge's policy is made of.
pub(crate) struct Own {
    settings: Arc<Settings>,
    journal: Journal,
}

impl Own {
    pub(crate) fn of(settings: &Arc<Settings>, journal: &Journal) -> Self {
        Self { settings: Arc::clone(settings), journal: journal.clone() }
    }

    /// Sends the first policy, with the operator's certificate if it can be used and else with `local`, and follows
    /// the files from then on.
    pub(crate) fn begin(self, local: Certificate, edge: ToEdge, seen: watch::Sender<Option<acme::Seen>>) {
        if let Some(of) = self.settings.stack.edge.authority() {
            let instead = self.first().unwrap_or(local);
            return acme::Keeper::begin(&self.settings, &self.journal, of, instead, (edge, seen));
        }
        let Some(of) = &self.settings.stack.edge.certificate else {
            // What cannot be removed is of files that the stack does not name, and is not used.
            std::fs::remove_file(self.file()).ok();
            edge.send(|| self.settings.edge_policy(local));
            return;
        };
        let named = self.named(of);
        let mut files = OwnFiles::new(named.cert.clone(), named.key.clone(), &self.settings.stack.edge.hosts());
        let look = files.look(now());
        let is_wrong = !matches!(look, Look::New(_));
        if is_wrong {
            // A control plane that is started again while the files are half changed has the last pair that was good.
            let kept = Kept::load(&self.file(), &named).and_then(|kept| files.still(kept, now()));
            let begin = kept.map_or(Instead::Local(local), Instead::Kept);
            self.instead(look, begin, &edge);
        } else {
            self.take(look, &named, &edge);
        }
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let looked = tokio::task::spawn_blocking(move || {
                    let look = files.look(now());
                    (files, look)
                });
                let Ok((next, look)) = looked.await else { return };
                files = next;
                self.take(look, &named, &edge);
            }
        });
    }

    /// The operator's own, for the time until an authority has signed one.
    fn first(&self) -> Option<Certificate> {
        let named = self.named(self.settings.stack.edge.certificate.as_ref()?);
        match OwnFiles::new(named.cert, named.key, &self.settings.stack.edge.hosts()).look(now()) {
            Look::New(certificate) => Some(certificate),
            Look::Same | Look::Wrong(_) => None,
        }
    }

    /// The first policy, when the files cannot be used.
    fn instead(&self, look: Look, instead: Instead, edge: &ToEdge) {
        let (certificate, which) = match instead {
            Instead::Kept(kept) => (kept, "the one before stays"),
            Instead::Local(local) => (local, "the local authority's is in its place"),
        };
        edge.send(|| self.settings.edge_policy(certificate));
        if let Look::Wrong(reason) = look {
            let text = format!("the certificate of tls.cert is not used, {which}: {reason}");
            self.journal.emit(NewEvent::error(now(), "CertificateRefused", text).about("edge"));
        }
    }

    fn file(&self) -> PathBuf {
        self.settings.paths.state.join("edge-certificate.json")
    }

    /// Where the stack has them.
    fn named(&self, of: &OwnCertificate) -> Named {
        let folder = &self.settings.launch.origin;
        Named { cert: folder.join(&of.cert), key: folder.join(&of.key) }
    }

    fn take(&self, look: Look, named: &Named, edge: &ToEdge) {
        match look {
            Look::Same => {}
            Look::New(certificate) => {
                // Whoever cannot keep it has it all the same, until the next control plane begins while the files are bad.
                let kept = Kept { of: named.clone(), certificate: certificate.clone() };
                if let Err(error) = kept.save(&self.file()) {
                    let text = format!("the certificate of tls.cert could not be kept beside its files: {error}");
                    self.journal.emit(NewEvent::warn(now(), "CertificateNotKept", text).about("edge"));
                }
                edge.send(|| self.settings.edge_policy(certificate));
                let text = "the edge takes the certificate of tls.cert for new connections";
                self.journal.emit(NewEvent::info(now(), "CertificateTaken", text).about("edge"));
            }
            Look::Wrong(reason) => {
                let text = format!("the certificate of tls.cert is not used, the one before stays: {reason}");
                self.journal.emit(NewEvent::error(now(), "CertificateRefused", text).about("edge"));
            }
        }
    }
}

/// The files that the stack names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Named {
    cert: PathBuf,
    key: PathBuf,
}

/// The pair that was taken last, of any control plane, and where it came from.
#[derive(Serialize, Deserialize)]
struct Kept {
    of: Named,
    certificate: Certificate,
}

impl Kept {
    /// That of these files; of others none.
    fn load(file: &Path, of: &Named) -> Option<Certificate> {
        let kept: Self = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        (kept.of == *of).then_some(kept.certificate)
    }

    fn save(&self, file: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        durable::replace(file, &bytes, 0o600)
    }
}

/// With what the edge begins while the files cannot be used.
enum Instead {
    Kept(Certificate),
    Local(Certificate),
}

#[cfg(test)]
mod tests {
    use mainstay_types::Secret;

    use super::*;

    #[test]
    fn a_kept_certificate_is_that_of_the_files_that_the_stack_names() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("edge-certificate.json");
        let named =
            |name: &str| Named { cert: format!("/etc/{name}.pem").into(), key: format!("/etc/{name}.key").into() };
        let certificate = Certificate {
            hosts: vec!["shop.example.com".to_owned()],
            chain_pem: "chain".to_owned(),
            key_pem: Secret::new("key".to_owned()),
        };
        Kept { of: named("old"), certificate }.save(&file).expect("saves");
        let kept = |of: &Named| Kept::load(&file, of).map(|kept| (kept.chain_pem, kept.key_pem.expose().to_owned()));
        assert_eq!(kept(&named("old")), Some(("chain".to_owned(), "key".to_owned())));
        assert_eq!(kept(&named("new")), None);
        assert_eq!(kept(&Named { key: named("new").key, ..named("old") }), None);
    }
}
