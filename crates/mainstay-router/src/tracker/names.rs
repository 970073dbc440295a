//! Names of prepared statements, for a session whose servers know them by other ones.

use std::sync::Arc;
use std::time::Instant;

use super::{Answer, Awaited, Effect, IDLE, MAX_STATEMENT_BYTES, MAX_STATEMENTS, Named, Text, Tracker, Unnamed};
use crate::glance::Ties;
use crate::statements::{self, Name, Statement};

impl Tracker {
    /// The cycle that what is sent now belongs to.
    pub(crate) fn cycle(&self) -> u64 {
        self.cycles_asked
    }

    /// Cycles up to this one are answered.
    pub(crate) fn done(&self) -> u64 {
        self.cycles_done
    }

    /// What `name` means in a message that is sent now.
    pub(crate) fn named(&self, name: &[u8]) -> Named {
        for awaited in self.awaited.iter().rev() {
            let is_earlier = awaited.cycle != self.cycles_asked;
            match &awaited.effect {
                Effect::Keep { name: kept, .. } | Effect::Forget { name: kept } if **kept == *name && is_earlier => {
                    return Named::Undecided;
                }
                Effect::Keep { name: kept, statement } if **kept == *name => {
                    return Named::Statement(Arc::clone(statement));
                }
                Effect::Forget { name: forgotten } if **forgotten == *name => return Named::Absent,
                Effect::Keep { .. } | Effect::Forget { .. } | Effect::Unnamed { .. } | Effect::Nothing => {}
            }
        }
        self.statements.get(name).map_or(Named::Absent, |statement| Named::Statement(Arc::clone(statement)))
    }

    /// What the unnamed statement is in a message that is sent now; `None`: too long to be kept.
    pub(crate) fn unnamed(&mut self) -> Option<Named> {
        let sent = self.awaited.iter().rev().find_map(|awaited| match awaited {
            Awaited { cycle, effect: Effect::Unnamed { statement }, .. } => Some((*cycle, statement)),
            _ => None,
        });
        if let Some((cycle, statement)) = sent {
            let is_earlier = cycle != self.cycles_asked;
            return Some(if is_earlier { Named::Undecided } else { Named::Statement(Arc::clone(statement)) });
        }
        match &mut self.unnamed {
            Unnamed::Absent => Some(Named::Absent),
            Unnamed::Kept(statement) => Some(Named::Statement(Arc::clone(statement))),
            Unnamed::Long { is_bound } => {
                *is_bound = true;
                None
            }
        }
    }

    /// A Parse goes to the server, or a Close in its place. `seen` is what its text says.
    pub(crate) fn sent_parse(&mut self, seen: Ties, effect: Effect, answer: Answer, on_server: Option<u64>) {
        let text = match effect {
            Effect::Unnamed { .. } => Text::Unnamed { is_first: self.is_idle() },
            Effect::Keep { .. } | Effect::Forget { .. } | Effect::Nothing => Text::Named,
        };
        self.is_batch_open = true;
        match &effect {
            Effect::Unnamed { statement } => self.seen_whole(seen, text, statement.text()),
            Effect::Keep { .. } | Effect::Forget { .. } | Effect::Nothing => self.seen(seen, text),
        }
        if matches!(effect, Effect::Unnamed { .. }) {
            // The server drops the former one before it reads the text.
            self.unnamed = Unnamed::Absent;
        }
        self.await_answer(effect, answer, on_server);
    }

    /// Whether one more statement of this size can be kept, behind those that are on their way.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let (count, coming) = self.coming;
        let is_many = self.statements.len() + count >= MAX_STATEMENTS;
        !is_many && self.statement_bytes + coming + bytes <= MAX_STATEMENT_BYTES && statements::has_room(bytes)
    }

    /// A Parse for which there is no room goes to the server, under the client's own name: the session stays there.
    pub(crate) fn sent_surplus(&mut self, seen: Ties, name: &[u8]) {
        // What was kept under this name is not what it means now.
        self.sent_parse(seen, Effect::Forget { name: Name::new(name) }, Answer::Forward, None);
        self.ties.add(Ties::TOO_MUCH);
    }

    /// A Parse of an unnamed statement streams through.
    pub(crate) fn sent_long_unnamed(&mut self) {
        self.unnamed = Unnamed::Long { is_bound: false };
    }

    /// A Close goes to the server.
    pub(crate) fn sent_close(&mut self, name: &[u8]) {
        self.is_batch_open = true;
        if name.is_empty() {
            self.unnamed = Unnamed::Absent;
        }
        self.await_answer(Effect::Forget { name: Name::new(name) }, Answer::Forward, None);
    }

    /// A query whose text was looked at already goes to the server.
    pub(crate) fn sent_query(&mut self, seen: Ties, sql: &[u8], now: Instant) {
        self.ask_query(now);
        self.seen_whole(seen, Text::Query, sql);
    }

    /// The client's statements whose name is somewhere in `text`, in any case of letters.
    pub(crate) fn mentioned(&self, text: &[u8]) -> Vec<(Vec<u8>, Arc<Statement>)> {
        let is_in = |name: &[u8]| text.windows(name.len().max(1)).any(|part| part.eq_ignore_ascii_case(name));
        let found = self.statements.iter().filter(|(name, _)| is_in(name));
        found.map(|(name, statement)| (name.to_vec(), Arc::clone(statement))).collect()
    }

    /// A statement is on this server under the client's own name: the session stays there.
    pub(crate) fn made_own(&mut self) {
        self.ties.add(Ties::PREPARED);
    }

    pub(super) fn keep(&mut self, name: Name, statement: Arc<Statement>) {
        self.forget(&name);
        self.statement_bytes += name.len() + statement.len();
        Arc::make_mut(&mut self.statements).insert(name, statement);
    }

    pub(super) fn forget(&mut self, name: &[u8]) {
        if self.statements.contains_key(name)
            && let Some(statement) = Arc::make_mut(&mut self.statements).remove(name)
        {
            self.statement_bytes -= name.len() + statement.len();
        }
    }

    pub(super) fn discarded(&mut self) {
        self.deallocated(true);
        self.has_changed = true;
        // What was sent behind it may have made new ties already.
        if self.asked.len() <= 1 && !self.is_batch_open {
            self.ties = self.ties.among(Ties::UNREAD);
        }
    }

    pub(super) fn deallocated(&mut self, is_all: bool) {
        if is_all {
            self.statements = Arc::default();
            self.statement_bytes = 0;
            // Others may have been made behind it, and a portal of a transaction outlives its statement.
            if self.asked.len() <= 1 && !self.is_batch_open && self.status == IDLE {
                self.changers = Ties::NONE;
            }
        } else if !self.statements.is_empty() {
            // Which one is in the statement's text, or in the text of a prepared one: not worth following.
            self.ties.add(Ties::PREPARED);
        }
    }
}
