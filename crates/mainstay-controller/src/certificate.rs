//! The edge's certificate: the local authority's, or the operator's own, which is followed while its files change.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::store::NewEvent;
use mainstay_edge::own::{Look, OwnFiles};
use mainstay_edge::protocol::{Certificate, Policy};
use mainstay_supervisor::durable;
use tokio::sync::watch;

use crate::clock::now;
use crate::journal::Journal;
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
    pub(crate) fn begin(self, local: Certificate, policies: watch::Sender<Option<Arc<Policy>>>) {
        let Some(of) = &self.settings.stack.edge.certificate else {
            policies.send_replace(Some(Arc::new(self.settings.edge_policy(local))));
            return;
        };
        let folder = &self.settings.launch.folder;
        let mut files = OwnFiles::new(folder.join(&of.cert), folder.join(&of.key), &self.settings.stack.edge.host);
        let look = files.look(now());
        let is_wrong = !matches!(look, Look::New(_));
        if is_wrong {
            // A control plane that is started again while the files are half changed has the last pair that was good.
            let kept = self.kept().and_then(|kept| files.still(kept, now()));
            let begin = kept.map_or(Instead::Local(local), Instead::Kept);
            self.instead(look, begin, &policies);
        } else {
            self.take(look, &policies);
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
                self.take(look, &policies);
            }
        });
    }

    /// The first policy, when the files cannot be used.
    fn instead(&self, look: Look, instead: Instead, policies: &watch::Sender<Option<Arc<Policy>>>) {
        let (certificate, which) = match instead {
            Instead::Kept(kept) => (kept, "the one before stays"),
            Instead::Local(local) => (local, "the local authority's is in its place"),
        };
        policies.send_replace(Some(Arc::new(self.settings.edge_policy(certificate))));
        if let Look::Wrong(reason) = look {
            let text = format!("the certificate of tls.cert is not used, {which}: {reason}");
            self.journal.emit(NewEvent::error(now(), "CertificateRefused", text).about("edge"));
        }
    }

    fn file(&self) -> PathBuf {
        self.settings.paths.state.join("edge-certificate.json")
    }

    /// The pair that was taken last, of any control plane.
    fn kept(&self) -> Option<Certificate> {
        serde_json::from_slice(&std::fs::read(self.file()).ok()?).ok()
    }

    fn take(&self, look: Look, policies: &watch::Sender<Option<Arc<Policy>>>) {
        match look {
            Look::Same => {}
            Look::New(certificate) => {
                // Whoever cannot keep it has it all the same, until the next control plane begins while the files are bad.
                let kept = serde_json::to_vec(&certificate).map_err(io::Error::other);
                if let Err(error) = kept.and_then(|bytes| durable::replace(&self.file(), &bytes, 0o600)) {
                    let text = format!("the certificate of tls.cert could not be kept beside its files: {error}");
                    self.journal.emit(NewEvent::warn(now(), "CertificateNotKept", text).about("edge"));
                }
                policies.send_replace(Some(Arc::new(self.settings.edge_policy(certificate))));
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

/// With what the edge begins while the files cannot be used.
enum Instead {
    Kept(Certificate),
    Local(Certificate),
}
