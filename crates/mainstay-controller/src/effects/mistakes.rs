//! Mistakes made on purpose, each once, so that drills can show that they would notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay_api::Sabotage;

/// How late a start comes: past every default promise about edge, router, cache and store.
const LATE_START: Duration = Duration::from_secs(8);
/// How late the fence of a former primary comes: time for it to be thawed and to serve.
const LATE_FENCE: Duration = Duration::from_secs(4);

/// How late writes go on without a lost standby: past the promises about that, and five times the one about its death.
const LATE_UNBLOCK: Duration = Duration::from_secs(5);

/// What is to go wrong the next time.
#[derive(Default)]
pub(crate) struct Mistakes {
    start: AtomicBool,
    fence: AtomicBool,
    unblock: AtomicBool,
    standby: AtomicBool,
    ballast: AtomicBool,
}

impl Mistakes {
    /// Plants what `sabotage` names; the planner and keep have theirs elsewhere.
    pub(super) fn plant(&self, sabotage: Sabotage) {
        self.start.store(sabotage == Sabotage::StartLate, Ordering::SeqCst);
        self.fence.store(sabotage == Sabotage::ThawWithoutFencing, Ordering::SeqCst);
        self.unblock.store(sabotage == Sabotage::UnblockLate, Ordering::SeqCst);
        self.standby.store(sabotage == Sabotage::UnblockLate, Ordering::SeqCst);
        self.ballast.store(sabotage == Sabotage::KeepBallast, Ordering::SeqCst);
    }

    pub(super) async fn before_start(&self) {
        if self.start.swap(false, Ordering::SeqCst) {
            tokio::time::sleep(LATE_START).await;
        }
    }

    /// Before commits no longer wait for a standby.
    pub(super) async fn before_unblock(&self) {
        if self.unblock.swap(false, Ordering::SeqCst) {
            tokio::time::sleep(LATE_UNBLOCK).await;
        }
    }

    /// Before a standby is started: one that is back releases what waits for it.
    pub(super) async fn before_standby(&self) {
        if self.standby.swap(false, Ordering::SeqCst) {
            tokio::time::sleep(LATE_UNBLOCK).await;
        }
    }

    /// Whether the ballast stays however full the disk is.
    pub(crate) fn keeps_ballast(&self) -> bool {
        self.ballast.load(Ordering::SeqCst)
    }

    pub(super) async fn before_fence(&self) {
        if self.fence.swap(false, Ordering::SeqCst) {
            tokio::time::sleep(LATE_FENCE).await;
        }
    }
}
