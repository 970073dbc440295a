//! What a look at the migrations found where none is to be run: a control plane that is started again, or data that a
//! restore put in the place of the present.

use mainstay_postgres::migrate::{Held, MigrateError, Migrated, Plan};
use mainstay_types::{Timestamp, full_text};

use crate::store::NewEvent;

/// Files that are named one by one.
const MOST_NAMED: usize = 8;

/// What a run came to, in a line, for `status` and the log.
pub(crate) fn line(done: &Migrated) -> String {
    let held = |held: &Held| {
        format!("; {} was taken back and is not run by itself: `mainstay db migrate` runs it", held.script)
    };
    done.summary() + &done.held.as_ref().map(held).unwrap_or_default()
}

/// The schema that is there beside the files of the folder. Nothing of it keeps an instance from being started: the
/// application runs on this schema already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SchemaSeen {
    /// The versions that are applied; `None`: nobody can tell.
    summary: Option<String>,
    /// Files that nobody runs by itself.
    pending: Vec<String>,
    /// Why `db migrate` would run nothing.
    trouble: Option<String>,
}

impl SchemaSeen {
    pub(crate) fn of(found: Result<Plan, MigrateError>) -> Self {
        let plan = match found {
            Ok(plan) => plan,
            Err(error) => return Self { summary: None, pending: Vec::new(), trouble: Some(full_text(&error)) },
        };
        Self {
            pending: plan.pending().map(|one| one.script.clone()).collect(),
            trouble: plan.refusals().first().map(|refused| full_text(refused)),
            summary: Some(plan.as_it_is().summary()),
        }
    }

    /// In a line, for `status`.
    pub(crate) fn line(&self) -> String {
        let summary = self.summary.iter().cloned();
        let trouble = self.trouble.iter().map(|trouble| format!("`mainstay db migrate` would run nothing: {trouble}"));
        summary.chain(self.waiting()).chain(trouble).collect::<Vec<_>>().join("; ")
    }

    fn waiting(&self) -> Option<String> {
        let (first, more) = self.pending.split_at(self.pending.len().min(MOST_NAMED));
        let names = first.join(" ");
        match (first.len(), more.len()) {
            (0, _) => None,
            (_, 0) => Some(format!("pending: {names}, which `mainstay db migrate` or the next `mainstay up` runs")),
            (_, more) => Some(format!(
                "pending: {names} and {more} more, which `mainstay db migrate` or the next `mainstay up` runs"
            )),
        }
    }

    pub(crate) fn event(&self, at: Timestamp) -> NewEvent {
        let text = self.line();
        let event = if self.trouble.is_some() {
            NewEvent::warn(at, "MigrationsRefused", text)
        } else if self.pending.is_empty() {
            NewEvent::info(at, "MigrationsApplied", format!("schema is at {text}"))
        } else {
            NewEvent::warn(at, "MigrationsPending", format!("nothing was run by itself: schema is at {text}"))
        };
        event.about("database")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mainstay_postgres::migrate::{Convention, Planned, State};

    use super::*;

    fn planned(version: usize, state: State) -> Planned {
        Planned {
            version: Some(version.to_string()),
            description: "x".to_owned(),
            script: format!("V{version}__x.sql"),
            state,
            applied_at: None,
            took_ms: None,
            has_undo: false,
            is_transactional: true,
            checksum: String::new(),
            unsupported: None,
        }
    }

    fn seen(migrations: Vec<Planned>) -> SchemaSeen {
        SchemaSeen::of(Ok(Plan { convention: Convention::Flyway, migrations }))
    }

    #[test]
    fn what_is_pending_is_named_with_the_command_that_runs_it() {
        let at = Timestamp::from_millis(1);
        let one = seen(vec![planned(1, State::Applied), planned(2, State::Pending)]);
        assert_eq!(one.line(), "V1; pending: V2__x.sql, which `mainstay db migrate` or the next `mainstay up` runs");
        assert_eq!(one.event(at).kind, "MigrationsPending");
        let many = seen((1..=10).map(|version| planned(version, State::Pending)).collect());
        assert!(many.line().contains("V8__x.sql and 2 more"), "{}", many.line());
        let none = seen(vec![planned(1, State::Applied)]);
        assert_eq!((none.line().as_str(), none.event(at).kind), ("V1", "MigrationsApplied"));
    }

    #[test]
    fn a_folder_that_cannot_be_taken_is_told_and_no_error() {
        let at = Timestamp::from_millis(1);
        let error = MigrateError::Name { script: "V9_bad.sql".to_owned() };
        let unread = SchemaSeen::of(Err(error));
        assert!(unread.line().contains("V9_bad.sql"), "{}", unread.line());
        assert_eq!(unread.event(at).kind, "MigrationsRefused");
        let lost = seen(vec![planned(1, State::Missing), planned(2, State::Applied)]);
        assert!(lost.line().starts_with("V2; `mainstay db migrate` would run nothing: "), "{}", lost.line());
        let file = MigrateError::File { path: Path::new("/x").to_owned(), source: std::io::Error::other("gone") };
        assert!(SchemaSeen::of(Err(file)).line().contains("gone"));
    }
}
