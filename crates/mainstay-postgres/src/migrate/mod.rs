//! Migrations: Flyway's file names and its `flyway_schema_history`, so that an application can come from it
//! and leave for it.
//!
//! Each file runs in one transaction with its row of the history, unless it holds a `CONCURRENTLY`: then each
//! statement commits alone, and a failure leaves a row that says so. Not supported, with a clear error: `COPY`
//! from standard input, transaction commands inside a file. Flyway's placeholders and callbacks are not known.

mod files;
mod history;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_postgres::error::ErrorPosition;

pub use files::{Migration, Version};

use crate::access::{Access, AccessError};
use crate::sql::{self, Statement};

/// How long another run of migrations is waited for.
pub const LOCK_WITHIN: Duration = Duration::from_secs(60);
/// How long a migration waits for a lock on a table. Longer, and every statement behind it waits too.
pub const TABLE_LOCK_WITHIN: Duration = Duration::from_secs(10);
/// Key of the advisory lock that runs of migrations take: "mainstay" in ASCII, as a number.
const LOCK_KEY: i64 = 0x6D61_696E_7374_6179;

/// A migration that was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its version; `None`: repeatable.
    pub version: Option<String>,
    /// Name of its file.
    pub script: String,
    /// How long it took.
    pub took: Duration,
}

/// Why migrations stopped. Files before the one named are applied and stay so.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The folder or a file cannot be read.
    #[error("cannot read migration {path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A name that looks like a migration's and is none.
    #[error("migration {script} is not named V<version>__<description>.sql or R__<description>.sql: rename it")]
    Name {
        /// Its name.
        script: String,
    },
    /// Not UTF-8.
    #[error("migration {script} is not UTF-8 text")]
    NotText {
        /// Its name.
        script: String,
    },
    /// Too large, or too many.
    #[error("migration {script} of {bytes} bytes is beyond the bound of 16 MiB a file and 10000 files")]
    TooMuch {
        /// Its name.
        script: String,
        /// Its size.
        bytes: u64,
    },
    /// One version, two files.
    #[error("migrations {first} and {second} have the same version: give one of them another")]
    Twice {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// An applied file was changed.
    #[error(
        "migration {script} was changed after it was applied: checksum {found} now, {applied} in \
         flyway_schema_history; restore the file and put the change into a new version"
    )]
    Changed {
        /// Its name.
        script: String,
        /// In the history.
        applied: i32,
        /// In the folder.
        found: i32,
    },
    /// An applied file is gone.
    #[error("migration {script} (version {version}) is applied and its file is missing: restore the file")]
    Lost {
        /// Name in the history.
        script: String,
        /// Its version.
        version: String,
    },
    /// A new file has a version below one that is applied.
    #[error("migration {script} comes before version {applied}, which is applied: give it a higher version")]
    OutOfOrder {
        /// Its name.
        script: String,
        /// Highest version applied.
        applied: String,
    },
    /// An earlier run failed half-way outside a transaction.
    #[error(
        "migration {script} failed half-way in an earlier run: undo what it left by hand, then \
         DELETE FROM flyway_schema_history WHERE NOT success"
    )]
    FailedBefore {
        /// Its name.
        script: String,
    },
    /// A statement that cannot run here.
    #[error("{script} line {line}: {what} is not possible in a migration; {instead}")]
    Unsupported {
        /// File.
        script: String,
        /// Line.
        line: usize,
        /// The command.
        what: String,
        /// What to do.
        instead: &'static str,
    },
    /// A statement failed.
    #[error("{script} line {line}: {message}; {state}")]
    Statement {
        /// File.
        script: String,
        /// Line.
        line: usize,
        /// PostgreSQL's words.
        message: String,
        /// What is left.
        state: &'static str,
    },
    /// Another run holds the lock.
    #[error("another run of migrations did not end within {} s", LOCK_WITHIN.as_secs())]
    Locked,
    /// The history could not be read or written.
    #[error("cannot {what}: {source}")]
    History {
        /// Verb and object.
        what: &'static str,
        /// Why not.
        source: AccessError,
    },
    /// The database cannot be asked.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Runs what is not applied yet, as the role of `access`, straight on the primary's socket. Returns what ran.
///
/// **Errors**: as [`MigrateError`]; nothing runs when the folder and the history contradict each other.
pub async fn migrate(access: &Access, folder: &Path) -> Result<Vec<Applied>, MigrateError> {
    let migrations = files::read(folder)?;
    // The lock is this session's: it ends with the connection, however this function ends.
    let client = access.connect().await?;
    let run = Run { access, client: &client };
    run.lock().await?;
    let history = history::History::open(&run).await?;
    let pending = history.pending(&migrations)?;
    let mut applied = Vec::new();
    for (rank, migration) in (history.next_rank()..).zip(pending) {
        applied.push(run.apply(migration, rank).await?);
    }
    run.execute("unlock", &format!("SELECT pg_advisory_unlock({LOCK_KEY})")).await?;
    Ok(applied)
}

pub(crate) struct Run<'a> {
    access: &'a Access,
    client: &'a Client,
}

impl Run<'_> {
    async fn execute(&self, what: &'static str, sql: &str) -> Result<(), MigrateError> {
        self.client.batch_execute(sql).await.map_err(|error| self.failed(what, error))
    }

    fn failed(&self, what: &'static str, error: tokio_postgres::Error) -> MigrateError {
        MigrateError::History { what, source: self.access.explain(error) }
    }

    async fn lock(&self) -> Result<(), MigrateError> {
        let begun = Instant::now();
        while begun.elapsed() < LOCK_WITHIN {
            let sql = format!("SELECT pg_try_advisory_lock({LOCK_KEY})");
            let row = self.client.query_one(&sql, &[]).await.map_err(|error| self.failed("lock", error))?;
            if row.get(0) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(MigrateError::Locked)
    }

    async fn apply(&self, migration: &Migration, rank: i32) -> Result<Applied, MigrateError> {
        let statements = sql::split(&migration.sql);
        let is_transaction = !statements.iter().any(|statement| sql::has_word(statement.text, "concurrently"));
        refuse_unsupported(migration, &statements)?;
        let begun = Instant::now();
        // Parameters that a file sets are its own: the next one begins clean.
        let lock_timeout = format!("RESET ALL; SET lock_timeout = '{}ms'", TABLE_LOCK_WITHIN.as_millis());
        self.execute("begin a migration", &lock_timeout).await?;
        if is_transaction {
            self.execute("begin a migration", "BEGIN").await?;
        }
        for statement in &statements {
            let Err(error) = self.client.batch_execute(statement.text).await else { continue };
            let (line, message) = explain(statement, &error);
            let state = if is_transaction {
                // If the connection broke, the server rolls back by itself.
                self.client.batch_execute("ROLLBACK").await.ok();
                "all of the file was rolled back, files before it stay applied"
            } else {
                self.write(migration, rank, begun.elapsed(), false).await?;
                "statements before it in the file are done and stay (it holds CONCURRENTLY, so it has no transaction)"
            };
            return Err(MigrateError::Statement { script: migration.script.clone(), line, message, state });
        }
        let took = begun.elapsed();
        self.write(migration, rank, took, true).await?;
        if is_transaction {
            self.execute("commit a migration", "COMMIT").await?;
        }
        Ok(Applied {
            version: migration.version.as_ref().map(ToString::to_string),
            script: migration.script.clone(),
            took,
        })
    }

    async fn write(&self, migration: &Migration, rank: i32, took: Duration, success: bool) -> Result<(), MigrateError> {
        // The file may have changed these; the history is where it was found.
        history::write(self, migration, history::Outcome { rank, took, success }).await
    }
}

fn refuse_unsupported(migration: &Migration, statements: &[Statement<'_>]) -> Result<(), MigrateError> {
    for statement in statements {
        let first = sql::first_word(statement.text);
        let instead = match first.as_str() {
            "copy" if sql::has_word(statement.text, "stdin") => "use INSERT",
            "begin" | "start" | "commit" | "end" | "rollback" | "abort" | "savepoint" | "release" => {
                "each file is one transaction already: remove it"
            }
            "\\" => "commands of psql are not SQL: remove it",
            _ => continue,
        };
        return Err(MigrateError::Unsupported {
            script: migration.script.clone(),
            line: statement.line,
            what: if first == "\\" { "a command of psql".to_owned() } else { first.to_ascii_uppercase() },
            instead,
        });
    }
    Ok(())
}

/// Line of the error in the file, and PostgreSQL's message with its hint.
fn explain(statement: &Statement<'_>, error: &tokio_postgres::Error) -> (usize, String) {
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
    for (name, extra) in [("detail", database.detail()), ("hint", database.hint())] {
        if let Some(extra) = extra {
            message = format!("{message}; {name}: {extra}");
        }
    }
    (statement.line + within, message)
}
