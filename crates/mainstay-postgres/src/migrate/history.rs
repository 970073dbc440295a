//! The tables `flyway_schema_history` and `_sqlx_migrations`, with the columns of Flyway and of sqlx.

use std::time::Duration;

use mainstay_types::Timestamp;
use tokio_postgres::Row;

use super::MigrateError;
use super::files::{Checksum, Convention, Migration, Version};
use super::run::{Run, Way};

/// Flyway's own definition for PostgreSQL.
const FLYWAY: &str = "
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

/// sqlx's columns and types.
const SQLX: &str = "
CREATE TABLE IF NOT EXISTS _sqlx_migrations (
    version bigint PRIMARY KEY,
    description text NOT NULL,
    installed_on timestamptz NOT NULL DEFAULT now(),
    success boolean NOT NULL,
    checksum bytea NOT NULL,
    execution_time bigint NOT NULL
)";

/// Flyway keeps a time without a zone, in that of the session that wrote it.
const FLYWAY_ROWS: &str = "
    SELECT installed_rank::bigint, version, type, description, script, checksum, success,
           (extract(epoch FROM installed_on::timestamptz) * 1000000)::bigint, execution_time::bigint
    FROM flyway_schema_history ORDER BY installed_rank";

const SQLX_ROWS: &str = "
    SELECT row_number() OVER (ORDER BY version), version::text, 'SQL', description, NULL::text, checksum, success,
           (extract(epoch FROM installed_on) * 1000000)::bigint, execution_time / 1000000
    FROM _sqlx_migrations ORDER BY version";

/// What a row says was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file was run.
    Sql,
    /// Everything up to here counts as applied.
    Baseline,
    /// A file that takes one back was run.
    Undo,
    /// The row of that version does not count any more.
    Delete,
    /// Flyway's Java classes and scripts.
    Other,
}

/// A row.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) rank: i64,
    pub(crate) version: Option<Version>,
    pub(crate) kind: Kind,
    pub(crate) description: String,
    /// sqlx does not keep it.
    pub(crate) script: Option<String>,
    pub(crate) checksum: Option<Checksum>,
    pub(crate) is_success: bool,
    pub(crate) at: Timestamp,
    pub(crate) took: Duration,
}

impl Entry {
    /// The name of its file, or what is known of it.
    pub(crate) fn name(&self) -> String {
        let version = self.version.as_ref().map(ToString::to_string).unwrap_or_default();
        self.script.clone().unwrap_or_else(|| format!("{version}_{}.sql", self.description.replace(' ', "_")))
    }
}

/// What was applied.
#[derive(Clone, Debug)]
pub(crate) struct History {
    pub(crate) convention: Convention,
    /// All rows, in the order in which they were written.
    rows: Vec<Entry>,
}

/// How a script ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) rank: i64,
    pub(crate) took: Duration,
    pub(crate) is_success: bool,
}

impl History {
    /// Reads what is there; nothing is made.
    pub(crate) async fn look(run: &Run<'_>) -> Result<Self, MigrateError> {
        let convention = run.convention;
        if !exists(run, convention).await? {
            // Files of one beside the history of the other: the database is not as empty as it seems.
            if exists(run, convention.other()).await? {
                return Err(MigrateError::OtherHistory { files: convention, history: convention.other().history() });
            }
            return Ok(Self { convention, rows: Vec::new() });
        }
        let sql = match convention {
            Convention::Flyway => FLYWAY_ROWS,
            Convention::Sqlx => SQLX_ROWS,
        };
        let rows = run.client.query(sql, &[]).await.map_err(|error| run.failed(run.opening(), error))?;
        Ok(Self { convention, rows: rows.iter().map(|row| entry(convention, row)).collect() })
    }

    /// The same, and the table is there afterwards.
    pub(crate) async fn open(run: &Run<'_>) -> Result<Self, MigrateError> {
        let history = Self::look(run).await?;
        // Asked first: `IF NOT EXISTS` alone would write a notice into the server's log at every start.
        if history.rows.is_empty() && !exists(run, run.convention).await? {
            let table = match run.convention {
                Convention::Flyway => FLYWAY,
                Convention::Sqlx => SQLX,
            };
            run.execute(run.opening(), table).await?;
        }
        Ok(history)
    }

    pub(crate) fn next_rank(&self) -> i64 {
        self.rows.last().map_or(1, |entry| entry.rank.saturating_add(1))
    }

    /// A row of a script that broke off half-way.
    pub(crate) fn failed(&self) -> Option<&Entry> {
        self.rows.iter().find(|entry| !entry.is_success)
    }

    /// What counts: of each version the last row, unless that took it back.
    pub(crate) fn versions(&self) -> Vec<&Entry> {
        let mut counted: Vec<&Entry> = Vec::new();
        for entry in self.rows.iter().filter(|entry| entry.is_success && entry.version.is_some()) {
            let is_other = |one: &&Entry| one.version != entry.version || one.kind == Kind::Baseline;
            match entry.kind {
                Kind::Baseline | Kind::Sql | Kind::Other => counted.push(entry),
                Kind::Undo | Kind::Delete => counted.retain(is_other),
            }
        }
        counted
    }

    /// The latest run of a repeatable one.
    pub(crate) fn repeatable(&self, description: &str) -> Option<&Entry> {
        let mut runs = self.rows.iter().rev().filter(|entry| entry.version.is_none() && entry.is_success);
        runs.find(|entry| entry.description == description).filter(|entry| entry.kind != Kind::Delete)
    }

    pub(crate) fn baseline(&self) -> Option<&Version> {
        let baselines = self.rows.iter().filter(|entry| entry.is_success && entry.kind == Kind::Baseline);
        baselines.filter_map(|entry| entry.version.as_ref()).max()
    }

    #[cfg(test)]
    pub(crate) fn of(convention: Convention, rows: Vec<Entry>) -> Self {
        Self { convention, rows }
    }
}

async fn exists(run: &Run<'_>, convention: Convention) -> Result<bool, MigrateError> {
    let found = run.client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&convention.history()]).await;
    Ok(found.map_err(|error| run.failed(run.opening(), error))?.get(0))
}

fn entry(convention: Convention, row: &Row) -> Entry {
    let kind = match row.get(2) {
        "SQL" => Kind::Sql,
        "BASELINE" | "SQL_BASELINE" => Kind::Baseline,
        "UNDO_SQL" => Kind::Undo,
        "DELETE" => Kind::Delete,
        _ => Kind::Other,
    };
    let checksum = match convention {
        Convention::Flyway => row.get::<_, Option<i32>>(5).map(Checksum::Lines),
        Convention::Sqlx => row.get::<_, Option<Vec<u8>>>(5).map(Checksum::Bytes),
    };
    Entry {
        rank: row.get(0),
        version: row.get::<_, Option<&str>>(1).and_then(Version::parse),
        kind,
        description: row.get(3),
        script: row.get(4),
        checksum,
        is_success: row.get(6),
        at: Timestamp::from_micros(row.get(7)),
        took: Duration::from_millis(u64::try_from(row.get::<_, i64>(8)).unwrap_or_default()),
    }
}

/// Notes a file that was run, inside its transaction; or one that begins to run without one.
pub(crate) async fn write(run: &Run<'_>, migration: &Migration, outcome: Outcome) -> Result<(), MigrateError> {
    match run.convention {
        Convention::Flyway => {
            let script = (&migration.script.name, &migration.script.checksum);
            write_flyway(run, migration, ("SQL", script.0, script.1), outcome).await
        }
        Convention::Sqlx => write_sqlx(run, migration, outcome).await,
    }
}

/// The same of one that is taken back.
pub(crate) async fn write_undo(run: &Run<'_>, migration: &Migration, outcome: Outcome) -> Result<(), MigrateError> {
    match (run.convention, &migration.undo) {
        (Convention::Flyway, Some(undo)) => {
            write_flyway(run, migration, ("UNDO_SQL", &undo.name, &undo.checksum), outcome).await
        }
        (Convention::Sqlx, _) | (Convention::Flyway, None) => {
            let version = migration.version.as_ref().and_then(Version::number);
            let sql = if outcome.is_success {
                "DELETE FROM _sqlx_migrations WHERE version = $1"
            } else {
                "UPDATE _sqlx_migrations SET success = false WHERE version = $1"
            };
            run.at_home().await?;
            run.client.execute(sql, &[&version]).await.map_err(|error| run.failed(run.writing(), error))?;
            Ok(())
        }
    }
}

/// A script that committed statement by statement is done: its row, which said that it failed, says so.
pub(crate) async fn settle(
    run: &Run<'_>,
    migration: &Migration,
    way: Way,
    outcome: Outcome,
) -> Result<(), MigrateError> {
    run.at_home().await?;
    let version = migration.version.as_ref().and_then(Version::number);
    let rank = i32::try_from(outcome.rank).unwrap_or(i32::MAX);
    let (millis, nanos) = took(outcome);
    let done = match (run.convention, way) {
        (Convention::Flyway, _) => {
            let sql = "UPDATE flyway_schema_history SET success = true, execution_time = $2 WHERE installed_rank = $1";
            run.client.execute(sql, &[&rank, &millis]).await
        }
        (Convention::Sqlx, Way::Up) => {
            let sql = "UPDATE _sqlx_migrations SET success = true, execution_time = $2 WHERE version = $1";
            run.client.execute(sql, &[&version, &nanos]).await
        }
        (Convention::Sqlx, Way::Undo) => {
            run.client.execute("DELETE FROM _sqlx_migrations WHERE version = $1", &[&version]).await
        }
    };
    done.map(drop).map_err(|error| run.failed(run.writing(), error))
}

/// How long it took, as Flyway counts (milliseconds) and as sqlx does (nanoseconds).
fn took(outcome: Outcome) -> (i32, i64) {
    let millis = i32::try_from(outcome.took.as_millis()).unwrap_or(i32::MAX);
    (millis, i64::try_from(outcome.took.as_nanos()).unwrap_or(i64::MAX))
}

async fn write_flyway(
    run: &Run<'_>,
    migration: &Migration,
    (kind, script, checksum): (&str, &String, &Checksum),
    outcome: Outcome,
) -> Result<(), MigrateError> {
    run.at_home().await?;
    let version = migration.version.as_ref().map(ToString::to_string);
    let (took, _) = took(outcome);
    let rank = i32::try_from(outcome.rank).unwrap_or(i32::MAX);
    let checksum = match checksum {
        Checksum::Lines(crc) => Some(*crc),
        Checksum::Bytes(_) => None,
    };
    let row: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&rank, &version, &migration.description, &kind, script, &checksum, &took, &outcome.is_success];
    run.client
        .execute(
            "INSERT INTO flyway_schema_history
                 (installed_rank, version, description, type, script, checksum, installed_by, execution_time, success)
             VALUES ($1, $2, left($3, 200), $4, $5, $6, session_user, $7, $8)",
            row,
        )
        .await
        .map_err(|error| run.failed(run.writing(), error))?;
    Ok(())
}

async fn write_sqlx(run: &Run<'_>, migration: &Migration, outcome: Outcome) -> Result<(), MigrateError> {
    run.at_home().await?;
    let version = migration.version.as_ref().and_then(Version::number);
    let (_, took) = took(outcome);
    let checksum: &[u8] = match &migration.script.checksum {
        Checksum::Bytes(bytes) => bytes,
        Checksum::Lines(_) => &[],
    };
    let row: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&version, &migration.description, &outcome.is_success, &checksum, &took];
    run.client
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES ($1, $2, $3, $4, $5)",
            row,
        )
        .await
        .map_err(|error| run.failed(run.writing(), error))?;
    Ok(())
}
