//! The position that a client's reads must see, learned from what it sets.

use mainstay_types::Lsn;

use super::{Named, Tracker};
use crate::glance::Ties;
use crate::position;

/// What a statement says of the position, if it is about that.
pub(super) fn position_of(seen: Ties, sql: &[u8]) -> Option<Option<Lsn>> {
    if seen.has(Ties::POSITION) { position::said(sql) } else { None }
}

impl Tracker {
    /// What the client's reads must see.
    pub(crate) fn read_after(&self) -> Option<Lsn> {
        self.read_after
    }

    /// As it came with the startup packet.
    pub(crate) fn start_after(&mut self, position: Option<Lsn>) {
        self.read_after = position;
    }

    /// It has state that no other server can have.
    pub(crate) fn must_stay(&self) -> bool {
        let mut ties = self.ties;
        ties.remove(Ties::READABLE);
        !ties.is_empty()
    }

    /// A query goes to the server. That it may fail there does no harm: reads wait for more than they must.
    pub(super) fn note_position(&mut self, seen: Ties, sql: &[u8]) {
        if let Some(said) = position_of(seen, sql) {
            self.read_after = said;
        }
    }

    /// The same of a Bind.
    pub(super) fn bound_position(&mut self, name: Option<&[u8]>) {
        let said = match name {
            Some([]) => self.unnamed_position,
            Some(name) => match self.named(name) {
                Named::Statement(statement) => position_of(statement.seen, statement.text()),
                Named::Absent | Named::Undecided => None,
            },
            None => None,
        };
        if let Some(said) = said {
            self.read_after = said;
        }
    }
}
