//! The edge's certificate: the local authority's, or the operator's own, which is followed while its files change.

use std::sync::Arc;
use std::time::Duration;

use crate::store::NewEvent;
use mainstay_edge::own::{Look, OwnFiles};
use mainstay_edge::protocol::{Certificate, Policy};
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
        if !self.take(files.look(now()), &policies) {
            policies.send_replace(Some(Arc::new(self.settings.edge_policy(local))));
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

    /// Whether there is another policy now.
    fn take(&self, look: Look, policies: &watch::Sender<Option<Arc<Policy>>>) -> bool {
        match look {
            Look::Same => false,
            Look::New(certificate) => {
                policies.send_replace(Some(Arc::new(self.settings.edge_policy(certificate))));
                let text = "the edge takes the certificate of tls.cert for new connections";
                self.journal.emit(NewEvent::info(now(), "CertificateTaken", text).about("edge"));
                true
            }
            Look::Wrong(reason) => {
                let text = format!("the certificate of tls.cert is not used, the one before stays: {reason}");
                self.journal.emit(NewEvent::error(now(), "CertificateRefused", text).about("edge"));
                false
            }
        }
    }
}
