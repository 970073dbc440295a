//! Runs scripts over one session, each with its row of the history.

use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::error::{ErrorPosition, SqlState};

use super::files::{self, Convention, Migration, Script};
use super::history::{self, Outcome};
use super::{LOCK_WITHIN, MigrateError, TABLE_LOCK_WITHIN};
use crate::access::Access;
use crate::sql::{self, Statement};

/// Key of the advisory lock that runs of migrations take: "mainstay" in ASCII, as a number.
const LOCK_KEY: i64 = 0x6D61_696E_7374_6179;
/// sqlx's lock is this, times the CRC-32 of the database's name: an application that migrates by itself takes it.
const SQLX_LOCK: i64 = 0x3D32_AD9E;

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
    fn script(self, migration: &Migration) -> &Script {
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

    /// One run at a time, of ours and of sqlx's own. The locks are this session's: they end with the connection,
    /// however this ends.
    pub(crate) async fn lock(&self) -> Result<(), MigrateError> {
        let begun = Instant::now();
        let mut keys = vec![LOCK_KEY];
        if self.convention == Convention::Sqlx {
            let name = self.client.query_one("SELECT current_database()::text", &[]).await;
            let name: String = name.map_err(|error| self.failed("lock", error))?.get(0);
            keys.push(SQLX_LOCK * i64::from(files::checksum(&name).cast_unsigned()));
        }
        for key in keys {
            let sql = format!("SELECT pg_try_advisory_lock({key})");
            while !self.client.query_one(&sql, &[]).await.map_err(|error| self.failed("lock", error))?.get::<_, bool>(0)
            {
                if begun.elapsed() >= LOCK_WITHIN {
                    return Err(MigrateError::Locked);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    pub(crate) async fn unlock(&self) -> Result<(), MigrateError> {
        self.execute("unlock", "SELECT pg_advisory_unlock_all()").await
    }

    /// Runs one and notes it. Returns how long it took.
    pub(crate) async fn apply(&self, migration: &Migration, way: Way, rank: i64) -> Result<Duration, MigrateError> {
        let statements = self.begin(way.script(migration)).await?;
        let begun = Instant::now();
        for statement in &statements {
            if let Err(error) = self.client.batch_execute(statement.text).await {
                let outcome = Outcome { rank, took: begun.elapsed(), is_success: false };
                return Err(self.broke_off((migration, way), statement, &error, outcome).await?);
            }
        }
        let took = begun.elapsed();
        self.finish(migration, way, Outcome { rank, took, is_success: true }).await?;
        Ok(took)
    }

    /// Its statements, once everything is ready for them.
    pub(crate) async fn begin<'s>(&self, script: &'s Script) -> Result<Vec<Statement<'s>>, MigrateError> {
        let statements = sql::split(&script.sql);
        refuse_unsupported(script, &statements)?;
        // Parameters that a file sets are its own: the next one begins clean.
        let lock_timeout = format!("RESET ALL; SET lock_timeout = '{}ms'", TABLE_LOCK_WITHIN.as_millis());
        self.execute("begin a migration", &lock_timeout).await?;
        if script.is_transactional {
            self.execute("begin a migration", "BEGIN").await?;
        }
        Ok(statements)
    }

    /// A statement failed: what was done is taken back, or noted as half-done.
    pub(crate) async fn broke_off(
        &self,
        (migration, way): (&Migration, Way),
        statement: &Statement<'_>,
        error: &tokio_postgres::Error,
        outcome: Outcome,
    ) -> Result<MigrateError, MigrateError> {
        let script = way.script(migration);
        let (line, message) = explain(script, statement, error);
        let state = if script.is_transactional {
            // If the connection broke, the server rolls back by itself.
            self.client.batch_execute("ROLLBACK").await.ok();
            "all of the file was rolled back, files before it stay applied"
        } else {
            self.note(migration, way, outcome).await?;
            "statements before it in the file are done and stay (it runs without a transaction)"
        };
        Ok(MigrateError::Statement { script: script.name.clone(), line, message, state })
    }

    /// Notes it, and commits both.
    pub(crate) async fn finish(&self, migration: &Migration, way: Way, outcome: Outcome) -> Result<(), MigrateError> {
        self.note(migration, way, outcome).await?;
        let script = way.script(migration);
        if script.is_transactional { self.commit(script).await } else { Ok(()) }
    }

    async fn note(&self, migration: &Migration, way: Way, outcome: Outcome) -> Result<(), MigrateError> {
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
                let last = Statement { text: "COMMIT", line: script.sql.lines().count().max(1) };
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

fn refuse_unsupported(script: &Script, statements: &[Statement<'_>]) -> Result<(), MigrateError> {
    for statement in statements {
        let first = sql::first_word(statement.text);
        let instead = match first.as_str() {
            "copy" if sql::has_word(statement.text, "stdin") => "use INSERT",
            "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release" => {
                if script.is_transactional {
                    "each file is one transaction already: remove it"
                } else {
                    "each statement of this file commits alone: remove it"
                }
            }
            "\\" => "commands of psql are not SQL: remove it",
            _ => continue,
        };
        return Err(MigrateError::Unsupported {
            script: script.name.clone(),
            line: statement.line,
            what: if first == "\\" { "a command of psql".to_owned() } else { first.to_ascii_uppercase() },
            instead,
        });
    }
    Ok(())
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
