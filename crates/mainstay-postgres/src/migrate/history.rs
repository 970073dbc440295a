//! The table `flyway_schema_history`, with Flyway's columns.

use std::time::Duration;

use super::files::{Migration, Version};
use super::{MigrateError, Run};

/// Flyway's own definition for PostgreSQL.
const TABLE: &str = "
CREATE TABLE IF NOT EXISTS flyway_schema_history (
    installed_rank integer NOT NULL CONSTRAINT flyway_schema_history_pk PRIMARY KEY,
    version varchar(50),
    description varchar(200) NOT NULL,
    type varchar(20) NOT NULL,
    script varchar(1000) NOT NULL,
    checksum integer,
    installed_by varchar(100) NOT NULL,
    installed_on timestamp NOT NULL DEFAULT now(),
    execution_time integer NOT NULL,
    success boolean NOT NULL
);
CREATE INDEX IF NOT EXISTS flyway_schema_history_s_idx ON flyway_schema_history (success)";

#[derive(Clone, Debug)]
struct Entry {
    rank: i32,
    version: Option<Version>,
    kind: String,
    description: String,
    script: String,
    checksum: Option<i32>,
    success: bool,
}

/// What was applied.
#[derive(Debug)]
pub(crate) struct History {
    entries: Vec<Entry>,
}

/// How a migration ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) rank: i32,
    pub(crate) took: Duration,
    pub(crate) success: bool,
}

impl History {
    pub(crate) async fn open(run: &Run<'_>) -> Result<Self, MigrateError> {
        let what = "open flyway_schema_history";
        // Asked first: `IF NOT EXISTS` alone would write a notice into the server's log at every start.
        let exists = run
            .client
            .query_one("SELECT to_regclass('flyway_schema_history') IS NOT NULL", &[])
            .await
            .map_err(|error| run.failed(what, error))?;
        if !exists.get::<_, bool>(0) {
            run.execute(what, TABLE).await?;
        }
        let rows = run
            .client
            .query(
                "SELECT installed_rank, version, type, description, script, checksum, success
                 FROM flyway_schema_history ORDER BY installed_rank",
                &[],
            )
            .await
            .map_err(|error| run.failed(what, error))?;
        let entries = rows.iter().map(|row| Entry {
            rank: row.get(0),
            version: row.get::<_, Option<&str>>(1).and_then(Version::parse),
            kind: row.get(2),
            description: row.get(3),
            script: row.get(4),
            checksum: row.get(5),
            success: row.get(6),
        });
        Ok(Self { entries: entries.collect() })
    }

    pub(crate) fn next_rank(&self) -> i32 {
        self.entries.last().map_or(1, |entry| entry.rank.saturating_add(1))
    }

    /// What is still to be run, after folder and history were held against each other.
    pub(crate) fn pending<'a>(&self, found: &'a [Migration]) -> Result<Vec<&'a Migration>, MigrateError> {
        if let Some(entry) = self.entries.iter().find(|entry| !entry.success) {
            return Err(MigrateError::FailedBefore { script: entry.script.clone() });
        }
        let baseline = self.highest(|entry| entry.kind == "BASELINE");
        let highest = self.highest(|entry| entry.kind == "SQL" || entry.kind == "BASELINE");
        let newest_found = found.iter().filter_map(|one| one.version.as_ref()).max();
        for entry in self.entries.iter().filter(|entry| entry.kind == "SQL") {
            let Some(version) = &entry.version else { continue };
            // Versions above all of ours come from a later release that was rolled back: Flyway ignores them too.
            let is_ours = newest_found.is_some_and(|newest| version <= newest);
            if is_ours && !found.iter().any(|one| one.version.as_ref() == Some(version)) {
                return Err(MigrateError::Lost { script: entry.script.clone(), version: version.to_string() });
            }
        }
        let mut pending = Vec::new();
        for migration in found {
            let Some(version) = &migration.version else {
                if self.repeatable(&migration.description) != Some(migration.checksum) {
                    pending.push(migration);
                }
                continue;
            };
            match self.entries.iter().find(|entry| entry.version.as_ref() == Some(version)) {
                Some(entry) => check(entry, migration)?,
                None if baseline.is_some_and(|baseline| version <= baseline) => {}
                None => {
                    if let Some(applied) = highest.filter(|highest| version < *highest) {
                        let (script, applied) = (migration.script.clone(), applied.to_string());
                        return Err(MigrateError::OutOfOrder { script, applied });
                    }
                    pending.push(migration);
                }
            }
        }
        Ok(pending)
    }

    fn highest(&self, of: impl Fn(&Entry) -> bool) -> Option<&Version> {
        self.entries.iter().filter(|entry| of(entry)).filter_map(|entry| entry.version.as_ref()).max()
    }

    /// Checksum of its latest run.
    fn repeatable(&self, description: &str) -> Option<i32> {
        let mut runs = self.entries.iter().rev().filter(|entry| entry.version.is_none());
        runs.find(|entry| entry.description == description)?.checksum
    }
}

fn check(entry: &Entry, migration: &Migration) -> Result<(), MigrateError> {
    match entry.checksum {
        Some(applied) if applied != migration.checksum && entry.kind == "SQL" => {
            Err(MigrateError::Changed { script: migration.script.clone(), applied, found: migration.checksum })
        }
        Some(_) | None => Ok(()),
    }
}

/// Adds a row; inside the migration's transaction when there is one.
pub(crate) async fn write(run: &Run<'_>, migration: &Migration, outcome: Outcome) -> Result<(), MigrateError> {
    let what = "write flyway_schema_history";
    // A file may have set the search path or another role: the row belongs where the table was made.
    run.execute(what, "RESET ROLE; RESET search_path").await?;
    let version = migration.version.as_ref().map(ToString::to_string);
    let took = i32::try_from(outcome.took.as_millis()).unwrap_or(i32::MAX);
    let script = &migration.script;
    let row: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&outcome.rank, &version, &migration.description, script, &migration.checksum, &took, &outcome.success];
    run.client
        .execute(
            "INSERT INTO flyway_schema_history
                 (installed_rank, version, description, type, script, checksum, installed_by, execution_time, success)
             VALUES ($1, $2, left($3, 200), 'SQL', $4, $5, session_user, $6, $7)",
            row,
        )
        .await
        .map_err(|error| run.failed(what, error))?;
    Ok(())
}
