//! The store as the loop takes it: its servers and its copies.

use mainstay_decide::replicas::{StoreLook, child_of};
use mainstay_decide::store::CopiesSeen;
use mainstay_types::{Member, Seen, Timestamp};

use super::Core;

impl Core {
    /// A look at one of several servers.
    pub(super) fn take_store(&mut self, member: Member, look: StoreLook) {
        self.observed.redis.insert(child_of(member).to_string(), plain(&look.answer));
        if let Some(store) = &mut self.observed.store {
            store.look(member, look);
        }
    }

    /// A look at the copies.
    pub(super) fn take_store_copies(&mut self, seen: Seen<CopiesSeen>, at: Timestamp) {
        if let Some(after) = seen.value() {
            // What another control plane saw last, so that what happened while there was none is told, too.
            if let Some(before) = &self.copies_told {
                let events = crate::copies::watch::events(before, after, at);
                events.into_iter().for_each(|event| self.journal.emit(event));
            }
            if self.copies_told.as_ref() != Some(after) {
                self.copies_kept.send_replace(serde_json::to_string(after).ok());
                self.copies_told = Some(after.clone());
            }
        }
        self.observed.store_copies = seen;
    }
}

fn plain<T>(seen: &Seen<T>) -> Seen<()> {
    match seen {
        Seen::Fact { observed_at, .. } => Seen::Fact { value: (), observed_at: *observed_at },
        Seen::Silent { since } => Seen::Silent { since: *since },
        Seen::Unknown => Seen::Unknown,
    }
}
