//! Mistakes made on purpose, each once, so that drills can show that they would notice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mainstay_api::Sabotage;
use mainstay_edge::protocol::Endpoint;

/// How late a start comes: past every default promise about edge, router, cache and store.
const LATE_START: Duration = Duration::from_secs(8);
/// How late a start comes whose listeners were closed: time for thirty knocks at each door. Without it the doors can be
/// open again between two.
const CLOSED: Duration = Duration::from_millis(300);
/// How late the fence of a former primary comes: time for it to be thawed and to serve.
const LATE_FENCE: Duration = Duration::from_secs(4);

/// How late writes go on without a lost standby: past the promises about that, and five times the one about its death.
const LATE_UNBLOCK: Duration = Duration::from_secs(5);

/// How late the edge is told that an instance was killed: time for some requests to be led to it.
const LATE_WORD: Duration = Duration::from_secs(1);

/// What is to go wrong the next time.
#[derive(Default)]
pub(crate) struct Mistakes {
    /// How late the next start comes. **Unit**: milliseconds.
    start: AtomicU64,
    fence: AtomicBool,
    unblock: AtomicBool,
    standby: AtomicBool,
    ballast: AtomicBool,
    leave_out: AtomicBool,
    kill: AtomicBool,
    /// When the first instance was killed for it.
    killed: Mutex<Option<Instant>>,
}

impl Mistakes {
    /// Plants what `sabotage` names; the planner and keep have theirs elsewhere.
    pub(super) fn plant(&self, sabotage: Sabotage) {
        let late = match sabotage {
            Sabotage::StartLate => LATE_START,
            Sabotage::CloseEdgeListeners | Sabotage::CloseRouterListeners => CLOSED,
            _ => Duration::ZERO,
        };
        self.start.store(u64::try_from(late.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
        self.fence.store(sabotage == Sabotage::ThawWithoutFencing, Ordering::SeqCst);
        self.unblock.store(sabotage == Sabotage::UnblockLate, Ordering::SeqCst);
        self.standby.store(sabotage == Sabotage::UnblockLate, Ordering::SeqCst);
        self.ballast.store(sabotage == Sabotage::KeepBallast, Ordering::SeqCst);
        self.leave_out.store(sabotage == Sabotage::LeaveOut, Ordering::SeqCst);
        self.kill.store(sabotage == Sabotage::KillUndrained, Ordering::SeqCst);
        *self.killed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether an instance is killed in place of its drain.
    pub(super) fn kills(&self) -> bool {
        let kills = self.kill.load(Ordering::SeqCst);
        if kills {
            self.killed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        }
        kills
    }

    /// What the edge is told in place of what it should be told of an upstream; `before` is what it was told last.
    pub(super) fn told(&self, mut wanted: Vec<Endpoint>, before: &[Endpoint]) -> Vec<Endpoint> {
        if self.leave_out.load(Ordering::SeqCst) {
            wanted.retain(|one| before.iter().any(|known| known.id == one.id));
        }
        let killed = *self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        if self.kill.load(Ordering::SeqCst) && killed.is_none_or(|at| at.elapsed() < LATE_WORD) {
            // Who is in stays in.
            let stays = |known: &&Endpoint| known.is_ready;
            wanted.retain(|one| !before.iter().filter(stays).any(|known| known.id == one.id));
            wanted.extend(before.iter().filter(stays).cloned());
        }
        wanted
    }

    pub(super) async fn before_start(&self) {
        let late = self.start.swap(0, Ordering::SeqCst);
        if late > 0 {
            tokio::time::sleep(Duration::from_millis(late)).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, is_ready: bool) -> Endpoint {
        Endpoint { id: id.to_owned(), address: "127.0.0.1:1".to_owned(), is_ready, release: 1 }
    }

    fn told(mistakes: &Mistakes, wanted: &[(&str, bool)]) -> Vec<String> {
        let before = [endpoint("web-1/a", true), endpoint("web-2/b", true), endpoint("web-3/c", false)];
        let wanted = wanted.iter().map(|(id, is_ready)| endpoint(id, *is_ready)).collect();
        let mut told: Vec<String> =
            mistakes.told(wanted, &before).iter().filter(|one| one.is_ready).map(|one| one.id.clone()).collect();
        told.sort();
        told
    }

    #[test]
    fn the_edge_is_told_of_nobody_new_or_of_no_death_only_where_that_was_planted() {
        let mistakes = Mistakes::default();
        let grown = [("web-1/a", true), ("web-2/b", true), ("web-4/d", true)];
        let shrunk = [("web-1/a", true), ("web-2/b", false)];
        assert_eq!(told(&mistakes, &grown), ["web-1/a", "web-2/b", "web-4/d"]);
        mistakes.plant(Sabotage::LeaveOut);
        assert_eq!(told(&mistakes, &grown), ["web-1/a", "web-2/b"]);
        assert!(!mistakes.kills());
        mistakes.plant(Sabotage::KillUndrained);
        assert_eq!(told(&mistakes, &grown), ["web-1/a", "web-2/b", "web-4/d"]);
        assert_eq!(told(&mistakes, &shrunk), ["web-1/a", "web-2/b"]);
        assert!(mistakes.kills());
        assert_eq!(told(&mistakes, &shrunk), ["web-1/a", "web-2/b"], "its word comes late");
        let before = Instant::now().checked_sub(LATE_WORD).expect("the machine runs so long");
        *mistakes.killed.lock().expect("nobody panicked") = Some(before);
        assert_eq!(told(&mistakes, &shrunk), ["web-1/a"]);
        mistakes.plant(Sabotage::Off);
        assert_eq!(told(&mistakes, &shrunk), ["web-1/a"]);
    }
}
