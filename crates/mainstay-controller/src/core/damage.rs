//! Damaged pages as the loop takes them: remembered, told, and left by the primary.

use mainstay_api::{ErrandAsked, ErrandKind};
use mainstay_decide::damage::{self, Damages, Page};
use mainstay_types::{Member, Timestamp};

use super::Core;
use crate::journal::Journal;
use crate::message::Message;
use crate::store::NewEvent;
use crate::{errands, story};

/// What is known, in the store: a page stays damaged whoever looks.
pub(super) const FACT: &str = "damaged-pages";

/// What was known before this control plane; what cannot be read is met again.
pub(crate) async fn known(journal: &Journal) -> Damages {
    let text = journal.fact(FACT).await.ok().flatten();
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

impl Core {
    /// Takes what somebody who looks has found.
    pub(super) fn take_pages(&mut self, message: Message, at: Timestamp) {
        let Some(database) = &mut self.observed.database else { return };
        let damages = &mut database.damages;
        match message {
            Message::PageDamaged { member, page } => {
                let is_new = damages.found(member, page.clone(), at);
                is_new.then(|| self.journal.emit(found(member, &page, at)));
            }
            Message::PagesMet { member, count } => {
                let was_known = damages.of.contains_key(&member);
                let new = damages.look(member, count, at);
                // Named ones were told, each by its name.
                if new > 0 && !was_known {
                    self.journal.emit(met(member, new, at));
                }
            }
            Message::PagesMended { member, pages } => {
                damages.mended(member, &pages);
            }
            Message::PagesLookedAt { member, met } => {
                damages.looked(member, met);
            }
            _ => {}
        }
    }

    /// A primary that met damaged pages makes place for a standby that met none.
    pub(super) fn leave_damaged(&mut self, at: Timestamp) {
        let Some(to) = damage::successor(&self.stack, &self.observed, at) else { return };
        let asked = ErrandAsked {
            errand: ErrandKind::Switchover,
            member: Some(to),
            drain_ms: None,
            is_forced: false,
            incoming: None,
        };
        if let Some(database) = &mut self.observed.database {
            database.damages.asked_at = Some(at);
        }
        match errands::ask(&self.stack, &mut self.observed, &asked, at) {
            Ok(status) => {
                let text = format!(
                    "postgres-{} met damaged pages: postgres-{to}, which met none, takes over as planned",
                    status.primary
                );
                self.journal.emit(NewEvent::warn(at, "DamagedPrimaryLeft", text).about(format!("postgres-{to}")));
                self.journal.emit(story::errand_asked(&status, at));
                self.errand = Some(status);
            }
            Err(reason) => {
                let text = format!("the primary met damaged pages, and nobody can take over just now: {reason}");
                self.journal.emit(NewEvent::error(at, "DamagedPrimaryStays", text).about("database"));
            }
        }
    }

    /// Writes down what changed, and shows it to who looks.
    pub(super) fn keep_damages(&mut self, at: Timestamp) {
        let Some(database) = &self.observed.database else { return };
        let before = self.effects.damages.borrow().clone();
        if before == database.damages {
            return;
        }
        for member in before.of.keys().filter(|member| !database.damages.of.contains_key(member)) {
            let text = format!("postgres-{member} has no page any more that is known to be damaged");
            self.journal.emit(NewEvent::info(at, "CorruptPagesGone", text).about(format!("postgres-{member}")));
        }
        self.damages_kept.send_replace(serde_json::to_string(&database.damages).ok());
        self.effects.damages.send_replace(database.damages.clone());
    }
}

fn found(member: Member, page: &Page, at: Timestamp) -> NewEvent {
    let text = format!(
        "{page} of postgres-{member} is damaged: its checksum is wrong, by its disk or by memory; whoever reads it gets an \
         error and no row"
    );
    NewEvent::error(at, "CorruptPagesFound", text).about(format!("postgres-{member}")).with("block", page.block)
}

fn met(member: Member, times: u64, at: Timestamp) -> NewEvent {
    let text = format!(
        "postgres-{member} met pages whose checksum is wrong, {times} times: its disk or memory damaged them; `mainstay \
         logs postgres-{member}` names them"
    );
    NewEvent::error(at, "CorruptPagesFound", text).about(format!("postgres-{member}")).with("times", times)
}
