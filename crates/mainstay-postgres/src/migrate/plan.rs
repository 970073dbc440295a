//! A folder held against its history: what is applied, what is still to be run, what contradicts. Pure.

use mainstay_types::Timestamp;
use serde::Serialize;

use super::files::{Convention, Folder, Migration, Unsupported, Version};
use super::history::{Entry, History, Kind};
use super::{Held, MigrateError};

/// What a migration is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// It was run, and its file is as it was then.
    Applied,
    /// It is still to be run; a repeatable one also when it was changed.
    Pending,
    /// It was run, and its file is another one now.
    Changed {
        /// Checksum in the history.
        applied: String,
        /// Checksum of the file.
        found: String,
    },
    /// It was run, and its file is gone.
    Missing,
    /// It was not run, and a later one was.
    OutOfOrder {
        /// The highest version that was run.
        applied: String,
    },
    /// It broke off outside of a transaction.
    HalfDone,
    /// The history begins after it.
    BelowBaseline,
    /// It was run, and belongs to a later release than the folder's.
    Later,
}

/// A migration of the folder or of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// `None`: repeatable.
    pub version: Option<String>,
    /// What it is for.
    pub description: String,
    /// Name of its file.
    pub script: String,
    /// What it is.
    #[serde(flatten)]
    pub state: State,
    /// When it was run last.
    pub applied_at: Option<Timestamp>,
    /// How long that took. **Unit**: milliseconds.
    pub took_ms: Option<u64>,
    /// A file takes it back.
    pub has_undo: bool,
    /// All of it is one transaction.
    pub is_transactional: bool,
    /// Of the file's text; empty when there is no file.
    #[serde(skip)]
    pub checksum: String,
    /// What in it cannot run in a migration.
    #[serde(skip)]
    pub unsupported: Option<Unsupported>,
}

impl Planned {
    fn of_entry(entry: &Entry, state: State) -> Self {
        Self {
            version: entry.version.as_ref().map(ToString::to_string),
            description: entry.description.clone(),
            script: entry.name(),
            state,
            applied_at: Some(entry.at),
            took_ms: u64::try_from(entry.took.as_millis()).ok(),
            has_undo: false,
            is_transactional: true,
            checksum: String::new(),
            unsupported: None,
        }
    }

    fn of_file(migration: &Migration, state: State, entry: Option<&Entry>) -> Self {
        Self {
            version: migration.version.as_ref().map(ToString::to_string),
            description: migration.description.clone(),
            script: migration.script.name.clone(),
            state,
            applied_at: entry.map(|entry| entry.at),
            took_ms: entry.and_then(|entry| u64::try_from(entry.took.as_millis()).ok()),
            has_undo: migration.undo.is_some(),
            is_transactional: migration.script.is_transactional,
            checksum: migration.script.checksum.to_string(),
            unsupported: migration.script.unsupported.clone(),
        }
    }

    /// It is still to be run.
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Pending | State::OutOfOrder { .. })
    }

    /// Why nothing can be run while it is so; `None`: it is in nobody's way.
    pub fn refusal(&self, convention: Convention) -> Option<MigrateError> {
        let (script, history) = (self.script.clone(), convention.history());
        Some(match &self.state {
            State::Applied | State::Pending | State::BelowBaseline | State::Later => return None,
            State::Changed { applied, found } => {
                MigrateError::Changed { script, applied: applied.clone(), found: found.clone(), history }
            }
            State::Missing => MigrateError::Lost { script, version: self.version.clone().unwrap_or_default() },
            State::OutOfOrder { applied } => MigrateError::OutOfOrder { script, applied: applied.clone() },
            State::HalfDone => MigrateError::FailedBefore { script, history },
        })
    }
}

/// Every migration of both, in the order of versions; repeatable ones come last.
pub(crate) fn hold_against(folder: &Folder, history: &History) -> Vec<Planned> {
    let counted = history.versions();
    let highest = counted.iter().filter_map(|entry| entry.version.as_ref()).max();
    let newest = folder.migrations.iter().filter_map(|one| one.version.as_ref()).max();
    let mut versioned: Vec<(Option<&Version>, Planned)> = Vec::new();
    let half_done = history.failed();
    for migration in folder.migrations.iter().filter(|one| one.version.is_some()) {
        let version = migration.version.as_ref();
        let entry = counted.iter().find(|entry| entry.version.as_ref() == version && entry.kind != Kind::Baseline);
        let state = match entry {
            _ if half_done.is_some_and(|failed| failed.version.as_ref() == version) => State::HalfDone,
            Some(entry) => applied(migration, entry),
            None if history.baseline().is_some_and(|baseline| version <= Some(baseline)) => State::BelowBaseline,
            None => match highest.filter(|highest| version < Some(highest)) {
                Some(highest) => State::OutOfOrder { applied: highest.to_string() },
                None => State::Pending,
            },
        };
        versioned.push((version, Planned::of_file(migration, state, entry.copied())));
    }
    for entry in counted.iter().filter(|entry| entry.kind == Kind::Sql) {
        let version = entry.version.as_ref();
        if versioned.iter().any(|(known, _)| *known == version) {
            continue;
        }
        // Flyway passes over versions above all of the folder's, which a release left that was rolled back; sqlx does
        // not.
        let is_later = history.convention == Convention::Flyway && newest.is_none_or(|newest| version > Some(newest));
        let state = if is_later { State::Later } else { State::Missing };
        versioned.push((version, Planned::of_entry(entry, state)));
    }
    if let Some(failed) = half_done
        && !versioned.iter().any(|(_, planned)| planned.state == State::HalfDone)
    {
        versioned.push((failed.version.as_ref(), Planned::of_entry(failed, State::HalfDone)));
    }
    versioned.sort_by(|a, b| a.0.cmp(&b.0));
    let repeatable = folder.migrations.iter().filter(|one| one.version.is_none()).map(|migration| {
        let entry = history.repeatable(&migration.description);
        let is_same = entry.is_some_and(|entry| entry.checksum.as_ref() == Some(&migration.script.checksum));
        Planned::of_file(migration, if is_same { State::Applied } else { State::Pending }, entry)
    });
    versioned.into_iter().map(|(_, planned)| planned).chain(repeatable).collect()
}

fn applied(migration: &Migration, entry: &Entry) -> State {
    match &entry.checksum {
        Some(checksum) if *checksum != migration.script.checksum && entry.kind == Kind::Sql => {
            State::Changed { applied: checksum.to_string(), found: migration.script.checksum.to_string() }
        }
        Some(_) | None => State::Applied,
    }
}

/// The first reason against running anything. What broke off half-way comes first: it must be mended by hand.
pub(crate) fn refusal(
    plan: &[Planned],
    convention: Convention,
    is_out_of_order_allowed: bool,
) -> Result<(), MigrateError> {
    let half_done = plan.iter().filter(|planned| planned.state == State::HalfDone);
    let is_against =
        |planned: &&Planned| !(is_out_of_order_allowed && matches!(planned.state, State::OutOfOrder { .. }));
    let against = half_done.chain(plan.iter().filter(is_against)).find_map(|planned| planned.refusal(convention));
    against.map_or(Ok(()), Err)
}

/// What is to be run, in its order.
pub(crate) fn pending<'a>(folder: &'a Folder, plan: &[Planned]) -> Vec<&'a Migration> {
    let is_pending = |migration: &&Migration| {
        let planned = plan.iter().find(|planned| planned.script == migration.script.name);
        planned.is_some_and(Planned::is_pending)
    };
    folder.migrations.iter().filter(is_pending).collect()
}

/// Leaves out what is held, and all that comes after the first of it. Answers which that is.
pub(crate) fn hold_back(pending: &mut Vec<&Migration>, held: &[Held]) -> Option<Held> {
    let is_held = |one: &&Migration| held.iter().find(|held| held.is(&one.script));
    let (at, first) = pending.iter().enumerate().find_map(|(at, one)| Some((at, is_held(one)?)))?;
    pending.truncate(at);
    Some(first.clone())
}

/// The one with the highest version of those that are applied.
pub(crate) fn last<'a>(folder: &'a Folder, plan: &[Planned]) -> Result<&'a Migration, MigrateError> {
    let is_there = |planned: &&Planned| matches!(planned.state, State::Applied | State::Later);
    let last = plan.iter().rfind(|planned| planned.version.is_some() && is_there(planned));
    let last = last.ok_or(MigrateError::NothingToUndo)?;
    let file = folder.migrations.iter().find(|one| one.version.is_some() && one.script.name == last.script);
    file.ok_or_else(|| MigrateError::Lost {
        script: last.script.clone(),
        version: last.version.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::files::{Checksum, Script};
    use super::*;

    fn file(version: &str, crc: i32) -> Migration {
        let mut script = Script::new(Convention::Flyway, format!("V{version}__x.sql"), "");
        script.checksum = Checksum::Lines(crc);
        let version = (version != "R").then(|| Version::parse(version).unwrap());
        Migration { version, description: "x".to_owned(), script, undo: None }
    }

    fn row(rank: i64, version: &str, kind: Kind, crc: i32) -> Entry {
        Entry {
            rank,
            version: Version::parse(version),
            kind,
            description: "x".to_owned(),
            script: Some(format!("V{version}__x.sql")),
            checksum: Some(Checksum::Lines(crc)),
            is_success: true,
            at: Timestamp::from_micros(rank),
            took: Duration::ZERO,
        }
    }

    fn states(convention: Convention, files: &[(&str, i32)], rows: Vec<Entry>) -> Vec<(String, State)> {
        let migrations = files.iter().map(|(version, crc)| file(version, *crc)).collect();
        let planned = hold_against(&Folder { convention, migrations }, &History::of(convention, rows));
        planned.into_iter().map(|one| (one.version.unwrap_or_else(|| "R".to_owned()), one.state)).collect()
    }

    fn named(states: &[(&str, State)]) -> Vec<(String, State)> {
        states.iter().map(|(version, state)| ((*version).to_owned(), state.clone())).collect()
    }

    #[test]
    fn each_is_told_for_what_it_is() {
        let rows = vec![
            row(1, "1", Kind::Sql, 1),
            row(2, "2", Kind::Sql, 9),
            row(3, "3", Kind::Sql, 3),
            row(4, "5", Kind::Sql, 5),
            row(5, "9", Kind::Sql, 9),
        ];
        let files = [("1", 1), ("2", 2), ("4", 4), ("5", 5), ("6", 6)];
        let changed = State::Changed { applied: "9".to_owned(), found: "2".to_owned() };
        let late = State::OutOfOrder { applied: "9".to_owned() };
        let wanted = named(&[
            ("1", State::Applied),
            ("2", changed.clone()),
            ("3", State::Missing),
            ("4", late.clone()),
            ("5", State::Applied),
            ("6", late),
            ("9", State::Later),
        ]);
        assert_eq!(states(Convention::Flyway, &files, rows.clone()), wanted);
        // sqlx wants every applied file to be there.
        assert_eq!(states(Convention::Sqlx, &files, rows).last(), Some(&("9".to_owned(), State::Missing)));
    }

    #[test]
    fn what_was_taken_back_is_pending_again() {
        let rows = vec![row(1, "1", Kind::Sql, 1), row(2, "2", Kind::Sql, 2), row(3, "2", Kind::Undo, 7)];
        let wanted = named(&[("1", State::Applied), ("2", State::Pending), ("3", State::Pending)]);
        assert_eq!(states(Convention::Flyway, &[("1", 1), ("2", 2), ("3", 3)], rows.clone()), wanted);
        let again = [rows, vec![row(4, "2", Kind::Sql, 2)]].concat();
        let wanted = named(&[("1", State::Applied), ("2", State::Applied)]);
        assert_eq!(states(Convention::Flyway, &[("1", 1), ("2", 2)], again), wanted);
    }

    #[test]
    fn a_baseline_covers_what_is_below_it_and_a_deleted_row_counts_no_more() {
        let rows = vec![row(1, "3", Kind::Baseline, 0), row(2, "4", Kind::Sql, 4), row(3, "4", Kind::Delete, 4)];
        let wanted = named(&[("2", State::BelowBaseline), ("3", State::BelowBaseline), ("4", State::Pending)]);
        assert_eq!(states(Convention::Flyway, &[("2", 2), ("3", 3), ("4", 4)], rows), wanted);
    }

    #[test]
    fn what_broke_off_is_refused_before_everything_else() {
        let failed = Entry { is_success: false, ..row(2, "2", Kind::Sql, 2) };
        let migrations = vec![file("1", 8), file("2", 2)];
        let folder = Folder { convention: Convention::Flyway, migrations };
        let plan = hold_against(&folder, &History::of(Convention::Flyway, vec![row(1, "1", Kind::Sql, 1), failed]));
        assert!(matches!(refusal(&plan, Convention::Flyway, false), Err(MigrateError::FailedBefore { .. })));
    }

    #[test]
    fn what_comes_too_late_is_run_only_when_that_is_allowed() {
        let folder = Folder { convention: Convention::Flyway, migrations: vec![file("1", 1), file("2", 2)] };
        let plan = hold_against(&folder, &History::of(Convention::Flyway, vec![row(1, "2", Kind::Sql, 2)]));
        assert!(matches!(refusal(&plan, Convention::Flyway, false), Err(MigrateError::OutOfOrder { .. })));
        assert!(refusal(&plan, Convention::Flyway, true).is_ok());
        assert_eq!(pending(&folder, &plan).len(), 1);
    }
}
