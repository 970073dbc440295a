//! Leaving in good order: readiness off, requests in flight finished, exit 0.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether the process is leaving. Cloning shares it.
#[derive(Clone)]
pub struct Drain {
    leaving: Arc<watch::Sender<bool>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// Staying.
    #[must_use]
    pub fn new() -> Self {
        Self { leaving: Arc::new(watch::Sender::new(false)) }
    }

    /// Begins to leave. There is no way back.
    pub fn begin(&self) {
        self.leaving.send_replace(true);
    }

    /// Whether it is leaving.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        *self.leaving.borrow()
    }

    /// Returns once it is leaving.
    pub async fn wait(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.leaving.subscribe().wait_for(|leaving| *leaving).await;
    }

    /// Begins to leave at SIGTERM or SIGINT.
    ///
    /// **Errors**: the handler cannot be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let drain = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            drain.begin();
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_those_who_wait_and_those_who_come_late() {
        let drain = Drain::new();
        assert!(!drain.is_leaving());
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.wait().await }
        });
        drain.begin();
        waiting.await.unwrap();
        drain.wait().await;
        assert!(drain.is_leaving());
    }
}
