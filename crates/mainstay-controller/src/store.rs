//! `state.db`: events with a hash chain, and small facts. SQLite, `synchronous=FULL`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mainstay_api::{Event, Level};
use mainstay_types::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use sha2::{Digest, Sha256};

/// Version of the tables; the store reads this and the one before.
const SCHEMA_VERSION: i64 = 1;
/// Events that are kept; the oldest go first. At some 300 bytes each this is 60 MB.
const MAX_EVENTS: u64 = 200_000;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite said no.
    #[error("cannot use {path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A later mainstay wrote it.
    #[error("{path} has version {found}, this mainstay reads up to {SCHEMA_VERSION}")]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
}

/// What is to be recorded; the store gives it its place in the order.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// When it happened.
    pub at: Timestamp,
    /// `NounVerbed`.
    pub kind: &'static str,
    /// How much it matters.
    pub level: Level,
    /// The box it is about.
    pub subject: Option<String>,
    /// One line for people.
    pub text: String,
    /// Fields, units in their names.
    pub fields: BTreeMap<String, serde_json::Value>,
}

impl NewEvent {
    /// A change of state.
    pub fn info(at: Timestamp, kind: &'static str, text: impl Into<String>) -> Self {
        Self { at, kind, level: Level::Info, subject: None, text: text.into(), fields: BTreeMap::new() }
    }

    /// Surprising, and the stack went on.
    pub fn warn(at: Timestamp, kind: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Warn, ..Self::info(at, kind, text) }
    }

    /// A person must act.
    pub fn error(at: Timestamp, kind: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::info(at, kind, text) }
    }

    /// About this box.
    #[must_use]
    pub fn about(mut self, subject: impl ToString) -> Self {
        self.subject = Some(subject.to_string());
        self
    }

    /// With a field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }
}

/// The open store.
pub struct Store {
    connection: Connection,
    path: PathBuf,
    last_seq: u64,
    last_hash: String,
}

impl Store {
    /// Opens or makes `state.db` in a state folder.
    ///
    /// **Errors**: SQLite's, or a later version.
    pub fn open(state: &Path) -> Result<Self, Error> {
        let path = state.join("state.db");
        let failed = |source| Error::Database { path: path.clone(), source };
        let connection = Connection::open(&path).map_err(failed)?;
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA busy_timeout=5000;
                 CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
                 CREATE TABLE IF NOT EXISTS event (
                   seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, kind TEXT NOT NULL, level TEXT NOT NULL,
                   subject TEXT, text TEXT NOT NULL, fields TEXT NOT NULL, hash TEXT NOT NULL);",
            )
            .map_err(failed)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if found > SCHEMA_VERSION {
            return Err(Error::TooNew { path, found });
        }
        connection.execute_batch(&format!("PRAGMA user_version={SCHEMA_VERSION}")).map_err(failed)?;
        let last: Option<(u64, String)> = connection
            .query_row("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1", [], |row| {
                Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?))
            })
            .optional()
            .map_err(failed)?;
        let (last_seq, last_hash) = last.unwrap_or_default();
        Ok(Self { connection, path, last_seq, last_hash })
    }

    /// Opens the `state.db` that is there, as it is: to read what a stack that is down has left. `None`: there is none.
    ///
    /// **Errors**: SQLite's, or a later version.
    pub fn look(state: &Path) -> Result<Option<Self>, Error> {
        let path = state.join("state.db");
        if !path.exists() {
            return Ok(None);
        }
        let failed = |source| Error::Database { path: path.clone(), source };
        // Not read-only: what a killed control plane wrote last is still beside the file, and is read with it only so.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
        connection.execute_batch("PRAGMA busy_timeout=5000").map_err(failed)?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        if found > SCHEMA_VERSION {
            return Err(Error::TooNew { path, found });
        }
        Ok(Some(Self { connection, path, last_seq: 0, last_hash: String::new() }))
    }

    fn failed(&self) -> impl Fn(rusqlite::Error) -> Error + use<> {
        let path = self.path.clone();
        move |source| Error::Database { path: path.clone(), source }
    }

    /// Records events in order, in one transaction; they are durable when this returns.
    ///
    /// **Errors**: SQLite's; then none of them is recorded.
    pub fn append(&mut self, events: Vec<NewEvent>) -> Result<Vec<Event>, Error> {
        let failed = self.failed();
        let transaction = self.connection.transaction().map_err(&failed)?;
        let (mut seq, mut hash) = (self.last_seq, self.last_hash.clone());
        let mut recorded = Vec::with_capacity(events.len());
        for new in events {
            seq += 1;
            let event = Event {
                seq,
                at: new.at,
                kind: new.kind.to_owned(),
                level: new.level,
                subject: new.subject,
                text: new.text,
                fields: new.fields,
            };
            hash = chain(&hash, &event);
            transaction
                .prepare_cached("INSERT INTO event VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
                .and_then(|mut statement| {
                    statement.execute(params![
                        seq.cast_signed(),
                        event.at.as_micros(),
                        event.kind,
                        level_text(event.level),
                        event.subject,
                        event.text,
                        fields_text(&event),
                        hash
                    ])
                })
                .map_err(&failed)?;
            recorded.push(event);
        }
        let oldest = seq.saturating_sub(MAX_EVENTS).cast_signed();
        transaction.execute("DELETE FROM event WHERE seq <= ?1", [oldest]).map_err(&failed)?;
        transaction.commit().map_err(&failed)?;
        (self.last_seq, self.last_hash) = (seq, hash);
        Ok(recorded)
    }

    /// Events after `seq` in order, or the newest when `after` is `None`.
    ///
    /// **Errors**: SQLite's.
    pub fn events(&self, after: Option<u64>, limit: u32) -> Result<Vec<Event>, Error> {
        let failed = self.failed();
        let columns = "seq, at_us, kind, level, subject, text, fields";
        let sql = match after {
            Some(_) => format!("SELECT {columns} FROM event WHERE seq > ?1 ORDER BY seq LIMIT ?2"),
            None => format!(
                "SELECT * FROM (SELECT {columns} FROM event WHERE seq > ?1 ORDER BY seq DESC LIMIT ?2) ORDER BY seq"
            ),
        };
        let mut statement = self.connection.prepare_cached(&sql).map_err(&failed)?;
        let rows =
            statement.query_map(params![after.unwrap_or(0).cast_signed(), limit], read_event).map_err(&failed)?;
        rows.collect::<Result<_, _>>().map_err(&failed)
    }

    /// First event whose hash does not follow from the one before; `None`: the chain is whole.
    ///
    /// **Errors**: SQLite's.
    pub fn first_broken_link(&self) -> Result<Option<u64>, Error> {
        let failed = self.failed();
        let mut statement = self
            .connection
            .prepare("SELECT seq, at_us, kind, level, subject, text, fields, hash FROM event ORDER BY seq")
            .map_err(&failed)?;
        let mut rows = statement.query([]).map_err(&failed)?;
        let mut before: Option<String> = None;
        while let Some(row) = rows.next().map_err(&failed)? {
            let event = read_event(row).map_err(&failed)?;
            let hash: String = row.get(7).map_err(&failed)?;
            // The oldest kept event's predecessor may be gone: then its own hash is where the chain begins.
            let is_first_ever = event.seq == 1;
            let expected = match (&before, is_first_ever) {
                (Some(before), _) => Some(chain(before, &event)),
                (None, true) => Some(chain("", &event)),
                (None, false) => None,
            };
            if expected.is_some_and(|expected| expected != hash) {
                return Ok(Some(event.seq));
            }
            before = Some(hash);
        }
        Ok(None)
    }

    /// A small fact.
    ///
    /// **Errors**: SQLite's.
    pub fn fact(&self, name: &str) -> Result<Option<String>, Error> {
        self.connection
            .query_row("SELECT value FROM fact WHERE name = ?1", [name], |row| row.get(0))
            .optional()
            .map_err(self.failed())
    }

    /// Records a small fact durably.
    ///
    /// **Errors**: SQLite's.
    pub fn set_fact(&self, name: &str, value: &str) -> Result<(), Error> {
        self.connection
            .execute("INSERT INTO fact VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2", [name, value])
            .map(drop)
            .map_err(self.failed())
    }
}

fn chain(before: &str, event: &Event) -> String {
    let mut hasher = Sha256::new();
    for part in [
        before,
        &event.seq.to_string(),
        &event.at.as_micros().to_string(),
        &event.kind,
        level_text(event.level),
        event.subject.as_deref().unwrap_or(""),
        &event.text,
        &fields_text(event),
    ] {
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fields_text(event: &Event) -> String {
    serde_json::Value::Object(event.fields.clone().into_iter().collect()).to_string()
}

fn level_text(level: Level) -> &'static str {
    match level {
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}

fn read_event(row: &rusqlite::Row<'_>) -> rusqlite::Result<Event> {
    let level: String = row.get(3)?;
    let fields: String = row.get(6)?;
    Ok(Event {
        seq: row.get::<_, i64>(0)?.unsigned_abs(),
        at: Timestamp::from_micros(row.get(1)?),
        kind: row.get(2)?,
        level: match level.as_str() {
            "warn" => Level::Warn,
            "error" => Level::Error,
            _ => Level::Info,
        },
        subject: row.get(4)?,
        text: row.get(5)?,
        fields: serde_json::from_str(&fields).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> NewEvent {
        NewEvent::info(Timestamp::from_millis(5), "InstanceReady", text).about("backend-1").with("after_ms", 7)
    }

    #[test]
    fn events_keep_their_order_over_reopening() {
        let folder = tempfile::tempdir().expect("folder");
        let mut store = Store::open(folder.path()).expect("opens");
        store.append(vec![event("one"), event("two")]).expect("appends");
        drop(store);
        let mut store = Store::open(folder.path()).expect("reopens");
        assert_eq!(store.append(vec![event("three")]).expect("appends")[0].seq, 3);
        let texts: Vec<String> = store.events(Some(1), 10).expect("reads").into_iter().map(|e| e.text).collect();
        assert_eq!(texts, ["two", "three"]);
        let newest: Vec<u64> = store.events(None, 2).expect("reads").into_iter().map(|e| e.seq).collect();
        assert_eq!(newest, [2, 3]);
    }

    #[test]
    fn events_of_a_stack_that_is_down_are_read_and_nothing_is_made_for_it() {
        let folder = tempfile::tempdir().expect("folder");
        assert!(Store::look(folder.path()).expect("looks").is_none());
        assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 0);
        let mut store = Store::open(folder.path()).expect("opens");
        store.append(vec![event("one"), event("two")]).expect("appends");
        // Killed: what it wrote last is not in the main file yet.
        std::mem::forget(store);
        let left = Store::look(folder.path()).expect("looks").expect("is there");
        let texts: Vec<String> = left.events(None, 10).expect("reads").into_iter().map(|event| event.text).collect();
        assert_eq!(texts, ["one", "two"]);
    }

    #[test]
    fn a_changed_event_breaks_the_chain_where_it_was_changed() {
        let folder = tempfile::tempdir().expect("folder");
        let mut store = Store::open(folder.path()).expect("opens");
        store.append(vec![event("one"), event("two"), event("three")]).expect("appends");
        assert_eq!(store.first_broken_link().expect("reads"), None);
        store.connection.execute("UPDATE event SET text = 'forged' WHERE seq = 2", []).expect("forges");
        assert_eq!(store.first_broken_link().expect("reads"), Some(2));
    }
}
