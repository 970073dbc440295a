//! Mistakes made on purpose, each once, so that drills can show that they would notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mainstay_api::Sabotage;

/// How late a start comes: past every default promise about edge, router, cache and store.
const LATE_START: Duration = Duration::from_secs(8);
/// How late the fence of a former primary comes: time for it to be thawed and to serve.
const LATE_FENCE: Duration = Duration::from_secs(4);

/// What is to go wrong the next time.
#[derive(Default)]
pub(crate) struct Mistakes {
    start: AtomicBool,
    fence: AtomicBool,
}

impl Mistakes {
    /// Plants what `sabotage` names; the planner and keep have theirs elsewhere.
    pub(super) fn plant(&self, sabotage: Sabotage) {
        self.start.store(sabotage == Sabotage::StartLate, Ordering::SeqCst);
        self.fence.store(sabotage == Sabotage::ThawWithoutFencing, Ordering::SeqCst);
    }

    pub(super) async fn before_start(&self) {
        if self.start.swap(false, Ordering::SeqCst) {
            tokio::time::sleep(LATE_START).await;
        }
    }

    pub(super) async fn before_fence(&self) {
        if self.fence.swap(false, Ordering::SeqCst) {
            tokio::time::sleep(LATE_FENCE).await;
        }
    }
}
