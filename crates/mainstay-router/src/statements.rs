//! Prepared statements of clients, under names of the router's own on servers that many clients share.
//!
//! Two clients that prepare the same text share one statement on a server. Never repeats a Parse for a client that
//! waits for its outcome elsewhere: what it repeats are statements that a server has confirmed before.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use crate::frame::split_string;
use crate::glance::Ties;
use crate::message;

/// Statements that one server connection keeps prepared; beyond it the one not used for longest is closed.
/// Drivers cache 100 (sqlx, psycopg) to 256 (pgJDBC) in a session of their own.
const MAX_KNOWN: usize = 500;

/// Most bytes of statements and their names that are kept for clients in the whole router: beyond it sessions keep their servers.
/// A thousand sessions with statements of their own have some hundred KiB each; shared ones count once.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// What of it is taken. One for the process, as memory is.
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// Whether that much more can be kept.
pub(crate) fn has_room(bytes: usize) -> bool {
    BYTES.load(Ordering::Relaxed) + bytes <= MAX_BYTES
}

/// Bytes of statements, and of their names, that are kept now.
pub(crate) fn bytes() -> usize {
    BYTES.load(Ordering::Relaxed)
}

/// The statement with this tail: the one that some session has, or a new one.
pub(crate) fn intern(tail: &[u8], seen: Ties) -> Arc<Statement> {
    // One for the process too: sessions of one application prepare the same texts.
    static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);
    REGISTRY.intern(tail, seen)
}

/// What a client calls a statement. Counted like the texts: a client chooses its length.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(Box<[u8]>);

/// A session's statements.
pub(crate) type Kept = BTreeMap<Name, Arc<Statement>>;

impl Name {
    pub(crate) fn new(name: &[u8]) -> Self {
        BYTES.fetch_add(name.len(), Ordering::Relaxed);
        Self(name.into())
    }
}

impl Clone for Name {
    fn clone(&self) -> Self {
        Self::new(self)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        BYTES.fetch_sub(self.0.len(), Ordering::Relaxed);
    }
}

impl std::ops::Deref for Name {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// A statement that no server has: closing it always succeeds, binding it always fails.
pub(crate) const NOBODY: &[u8] = b"mainstay_none";

/// What a Parse said behind its name: the text, and the types of parameters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    number: u64,
    tail: Box<[u8]>,
    /// What a glance at its text saw.
    pub(crate) seen: Ties,
}

impl Statement {
    fn new(number: u64, tail: &[u8], seen: Ties) -> Self {
        BYTES.fetch_add(tail.len(), Ordering::Relaxed);
        Self { number, tail: tail.into(), seen }
    }

    /// Of one session alone.
    pub(crate) fn own(tail: &[u8], seen: Ties) -> Arc<Self> {
        Arc::new(Self::new(0, tail, seen))
    }

    /// Its SQL.
    pub(crate) fn text(&self) -> &[u8] {
        split_string(&self.tail).map_or(&self.tail, |(text, _)| text)
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Its size in memory, near enough.
    pub(crate) fn len(&self) -> usize {
        self.tail.len()
    }

    /// Appends the Parse message that makes it under `name`.
    pub(crate) fn parse(&self, out: &mut Vec<u8>, name: &[u8]) {
        message::put(out, b'P', |out| {
            message::put_string(out, name);
            out.extend_from_slice(&self.tail);
        });
    }

    /// Its name on shared servers.
    pub(crate) fn name(&self) -> Vec<u8> {
        name_of(self.number)
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        BYTES.fetch_sub(self.tail.len(), Ordering::Relaxed);
    }
}

/// Names of the router's own begin so.
pub(crate) const PREFIX: &[u8] = b"mainstay_";

/// With a part that no client can guess: SQL's EXECUTE reaches whatever it can name.
fn name_of(number: u64) -> Vec<u8> {
    static UNGUESSABLE: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    format!("mainstay_{:016x}_{number}", *UNGUESSABLE).into_bytes()
}

/// Appends the Close of a statement.
pub(crate) fn close(out: &mut Vec<u8>, name: &[u8]) {
    message::put(out, b'C', |out| {
        out.push(b'S');
        message::put_string(out, name);
    });
}

/// All statements that clients have prepared, each once.
struct Registry {
    hasher: RandomState,
    all: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    last: u64,
    by_hash: HashMap<u64, Vec<Weak<Statement>>>,
    /// Size at which the dead are looked for again.
    sweep_at: usize,
}

impl Registry {
    fn new() -> Self {
        Self { hasher: RandomState::new(), all: Mutex::new(Entries::default()) }
    }

    /// The statement with this tail: the one that is there, or a new one.
    fn intern(&self, tail: &[u8], seen: Ties) -> Arc<Statement> {
        let hash = self.hasher.hash_one(tail);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let same = all.by_hash.get(&hash).into_iter().flatten();
        if let Some(found) = same.filter_map(Weak::upgrade).find(|statement| *statement.tail == *tail) {
            return found;
        }
        if all.by_hash.len() >= all.sweep_at.max(1024) {
            all.by_hash.retain(|_, list| {
                list.retain(|statement| statement.strong_count() > 0);
                !list.is_empty()
            });
            all.sweep_at = all.by_hash.len() * 2;
        }
        all.last += 1;
        let made = Arc::new(Statement::new(all.last, tail, seen));
        all.by_hash.entry(hash).or_default().push(Arc::downgrade(&made));
        made
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Confirmed,
    /// Sent in this cycle.
    Pending {
        cycle: u64,
    },
}

/// What has to be sent before a statement is used on a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    /// A Parse; and a Close of the one that makes room.
    Parse {
        evicted: Option<Vec<u8>>,
    },
    /// Nothing can be said before an earlier cycle is answered.
    Wait,
}

/// The statements that a server connection has.
#[derive(Debug, Default)]
pub(crate) struct Known {
    entries: BTreeMap<u64, (State, u64)>,
    clock: u64,
}

impl Known {
    /// For a use in `cycle`. With [`Need::Parse`] the caller sends it.
    pub(crate) fn need(&mut self, number: u64, cycle: u64) -> Need {
        self.clock += 1;
        match self.entries.get_mut(&number) {
            Some((State::Pending { cycle: sent }, _)) if *sent != cycle => return Need::Wait,
            Some((_, used)) => {
                *used = self.clock;
                return Need::Nothing;
            }
            None => {}
        }
        let mut evicted = None;
        if self.entries.len() >= MAX_KNOWN {
            let confirmed = self.entries.iter().filter(|(_, (state, _))| *state == State::Confirmed);
            let oldest = confirmed.min_by_key(|(_, (_, used))| *used).map(|(number, _)| *number);
            evicted = oldest.map(|number| {
                self.entries.remove(&number);
                name_of(number)
            });
        }
        self.entries.insert(number, (State::Pending { cycle }, self.clock));
        Need::Parse { evicted }
    }

    /// The server has it.
    pub(crate) fn confirm(&mut self, number: u64) {
        self.entries.insert(number, (State::Confirmed, self.clock));
    }

    /// Cycles up to `done` are answered: what they did not confirm is not there.
    pub(crate) fn ready(&mut self, done: u64) {
        self.entries.retain(|_, (state, _)| !matches!(state, State::Pending { cycle } if *cycle < done));
    }

    /// The server has dropped all of them.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_one_statement_while_somebody_has_it() {
        let registry = Registry::new();
        let first = registry.intern(b"select 1\0\0\0", Ties::NONE);
        let number = first.number();
        assert_eq!(registry.intern(b"select 1\0\0\0", Ties::NONE).number(), number);
        assert_ne!(registry.intern(b"select 2\0\0\0", Ties::NONE).number(), number);
        drop(first);
        assert_ne!(registry.intern(b"select 1\0\0\0", Ties::NONE).number(), number);
    }

    #[test]
    fn a_statement_is_sent_once_and_waited_for_by_later_cycles() {
        let mut known = Known::default();
        assert_eq!(known.need(7, 0), Need::Parse { evicted: None });
        assert_eq!(known.need(7, 0), Need::Nothing);
        assert_eq!(known.need(7, 1), Need::Wait);
        known.confirm(7);
        known.ready(1);
        assert_eq!(known.need(7, 1), Need::Nothing);
        known.clear();
        assert_eq!(known.need(7, 1), Need::Parse { evicted: None });
    }

    #[test]
    fn what_a_failed_cycle_did_not_confirm_is_sent_again() {
        let mut known = Known::default();
        known.need(7, 0);
        known.ready(1);
        assert_eq!(known.need(7, 1), Need::Parse { evicted: None });
    }

    #[test]
    fn the_statement_not_used_for_longest_makes_room() {
        let mut known = Known::default();
        for number in 0..MAX_KNOWN as u64 {
            known.need(number, 0);
            known.confirm(number);
        }
        known.need(0, 1);
        assert_eq!(known.need(1_000, 1), Need::Parse { evicted: Some(name_of(1)) });
    }
}
