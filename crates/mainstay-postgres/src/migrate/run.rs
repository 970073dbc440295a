//! Runs scripts over one session, each with its row of the history.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::error::{ErrorPosition, SqlState};

use super::files::{Convention, Migration, Script};
use super::history::{self, Outcome};
use super::{MigrateError, TABLE_LOCK_WITHIN};
use crate::access::Access;
use crate::sql::Statement;

/// A session that migrations are run over.
pub(crate) struct Run<'a> {
    pub(crate) access: &'a Access,
    pub(crate) client: &'a Client,
    pub(crate) convention: Convention,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Up,
    Undo,
}

impl Way {
    pub(crate) fn script(self, migration: &Migration) -> &Script {
        match (self, &migration.undo) {
            (Self::Undo, Some(undo)) => undo,
            (Self::Up, _) | (Self::Undo, None) => &migration.script,
        }
    }
}

impl Run<'_> {
    pub(crate) async fn execute(&self, what: &'static str, sql: &str) -> Result<(), MigrateError> {
        self.client.batch_execute(sql).await.map_err(|error| self.failed(what, error))
    }

    pub(crate) fn failed(&self, what: &'static str, error: tokio_postgres::Error) -> MigrateError {
        MigrateError::History { what, source: self.access.explain(error) }
    }

    pub(crate) fn opening(&self) -> &'static str {
        match self.convention {
            Convention::Flyway => "open flyway_schema_history",
            Convention::Sqlx => "open _sqlx_migrations",
        }
    }

    pub(crate) fn writing(&self) -> &'static str {
        match self.convention {
            Convention::Flyway => "write flyway_schema_history",
            Convention::Sqlx => "write _sqlx_migrations",
        }
    }

    /// A file may have set the search path or another role: its row belongs where the table was made.
    pub(crate) async fn at_home(&self) -> Result<(), MigrateError> {
        self.execute(self.writing(), "RESET ROLE; RESET search_path").await
    }

    /// The locks go with the connection too: what is done is done, whether or not this is.
    pub(crate) async fn unlock(&self) {
        self.client.batch_execute("SELECT pg_advisory_unlock_all()").await.ok();
    }

    /// Runs one and notes it. Returns how long it took.
    pub(crate) async fn apply(&self, migration: &Migration, way: Way, rank: i64) -> Result<Duration, MigrateError> {
        let script = way.script(migration);
        self.begin((migration, way), rank).await?;
        let begun = Instant::now();
        for statement in script.statements() {
            if let Err(error) = self.client.batch_execute(statement.text).await {
                return Err(self.broke_off((migration, way), &statement, error).await);
            }
        }
        let took = begun.elapsed();
        self.finish((migration, way), Outcome { rank, took, is_success: true }).await?;
        Ok(took)
    }

    /// Makes everything ready for its statements. Where each of them commits alone its row is there before the first, as
    /// failed: whatever ends this process, the connection or the server leaves it so.
    pub(crate) async fn begin(&self, (migration, way): (&Migration, Way), rank: i64) -> Result<(), MigrateError> {
        // Parameters that a file sets are its own: the next one begins clean.
        let lock_timeout = format!("RESET ALL; SET lock_timeout = '{}ms'", TABLE_LOCK_WITHIN.as_millis());
        self.execute("begin a migration", &lock_timeout).await?;
        if way.script(migration).is_transactional {
            return self.execute("begin a migration", "BEGIN").await;
        }
        self.note((migration, way), Outcome { rank, took: Duration::ZERO, is_success: false }).await
    }

    /// A statement failed: what was done is taken back, or stays noted as half-done.
    pub(crate) async fn broke_off(
        &self,
        (migration, way): (&Migration, Way),
        statement: &Statement<'_>,
        error: tokio_postgres::Error,
    ) -> MigrateError {
        let script = way.script(migration);
        let is_cut = is_cut(&error);
        let (line, message) = explain(script, statement, &error);
        let state = if script.is_transactional {
            // If the connection broke, the server rolls back by itself.
            self.client.batch_execute("ROLLBACK").await.ok();
            "all of the file was rolled back, files before it stay applied"
        } else {
            "statements before it in the file are done and stay (it runs without a transaction), and the history says so"
        };
        let half_done = (!script.is_transactional).then(|| self.convention.history());
        let script = script.name.clone();
        if is_cut {
            MigrateError::Cut { script, line, message, state, is_undo: way == Way::Undo, half_done }
        } else {
            MigrateError::Statement { script, line, message, state }
        }
    }

    /// Notes it, and commits both.
    pub(crate) async fn finish(
        &self,
        (migration, way): (&Migration, Way),
        outcome: Outcome,
    ) -> Result<(), MigrateError> {
        let script = way.script(migration);
        if !script.is_transactional {
            return history::settle(self, migration, way, outcome).await;
        }
        self.note((migration, way), outcome).await?;
        self.commit(script).await
    }

    async fn note(&self, (migration, way): (&Migration, Way), outcome: Outcome) -> Result<(), MigrateError> {
        match way {
            Way::Up => history::write(self, migration, outcome).await,
            Way::Undo => history::write_undo(self, migration, outcome).await,
        }
    }

    /// What is refused at the commit (a deferred constraint) is rolled back; when the connection broke on the way,
    /// nobody was told.
    async fn commit(&self, script: &Script) -> Result<(), MigrateError> {
        match self.client.batch_execute("COMMIT").await {
            Ok(()) => Ok(()),
            Err(error) if error.as_db_error().is_some() => {
                let last = Statement { text: "COMMIT", at: 0, line: script.sql.lines().count().max(1) };
                let (line, message) = explain(script, &last, &error);
                let state = "all of the file was rolled back at its COMMIT, files before it stay applied";
                Err(MigrateError::Statement { script: script.name.clone(), line, message, state })
            }
            Err(error) => {
                Err(MigrateError::Unknown { script: script.name.clone(), source: self.access.explain(error) })
            }
        }
    }
}

/// Whether the statement was cut off and is not at fault itself: the connection broke, somebody ended or cancelled the
/// session, the server went or had no room.
fn is_cut(error: &tokio_postgres::Error) -> bool {
    let Some(database) = error.as_db_error() else { return true };
    if *database.code() == SqlState::QUERY_CANCELED {
        // A time that the file set itself has the same code. Our servers speak English.
        return database.message().ends_with("due to user request");
    }
    // Classes of SQLSTATE: connection, resources, operator, system.
    ["08", "53", "57", "58"].iter().any(|class| database.code().code().starts_with(class))
}

/// Line of the error in the file, and PostgreSQL's message with its hint.
fn explain(script: &Script, statement: &Statement<'_>, error: &tokio_postgres::Error) -> (usize, String) {
    let Some(database) = error.as_db_error() else {
        return (statement.line, mainstay_types::full_text(error));
    };
    let within = match database.position() {
        // Counted in characters, from 1.
        Some(ErrorPosition::Original(position)) => {
            let before = statement.text.chars().take((*position as usize).saturating_sub(1));
            before.filter(|c| *c == '\n').count()
        }
        Some(ErrorPosition::Internal { .. }) | None => 0,
    };
    let mut message = format!("{} ({})", database.message(), database.code().code());
    let ours = match database.code() {
        code if *code == SqlState::LOCK_NOT_AVAILABLE => Some(
            "somebody held the table for longer than 10 s: `mainstay db locks` says who; a migration that waited on \
             would hold up everybody behind it",
        ),
        code if *code == SqlState::ACTIVE_SQL_TRANSACTION && script.is_transactional => {
            Some("`-- no-transaction` as the first line of a file of sqlx runs it without one")
        }
        _ => None,
    };
    for (name, extra) in [("detail", database.detail()), ("hint", database.hint()), ("hint", ours)] {
        if let Some(extra) = extra {
            message = format!("{message}; {name}: {extra}");
        }
    }
    (statement.line + within, message)
}
