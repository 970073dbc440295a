//! Pending migrations run on a copy, and watched: how long each takes, which tables it locks against whom and for how
//! long, what it writes. The copy is changed; whoever made it throws it away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_postgres::{Client, Row};

use super::files::{self, Convention, Migration};
use super::history::{History, Outcome};
use super::run::{Run, Way};
use super::{MigrateError, Request, State, plan};
use crate::access::{Access, AccessError};

/// Between two looks at the locks of a statement that runs without a transaction: it lets go of them by itself.
const LOOK: Duration = Duration::from_millis(5);
/// Schemas of PostgreSQL's own.
const OWN: &str = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' \
    AND n.nspname NOT LIKE 'pg\\_temp%'";

/// Who has to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blocks {
    /// Other changes of the schema, and VACUUM.
    Changes,
    /// The same, and everybody who writes.
    Writes,
    /// Everybody.
    ReadsAndWrites,
}

impl Blocks {
    /// What a lock of this mode keeps others from; `None`: nothing that an application does.
    fn of(mode: &str) -> Option<Self> {
        match mode {
            "AccessExclusiveLock" => Some(Self::ReadsAndWrites),
            "ExclusiveLock" | "ShareRowExclusiveLock" | "ShareLock" => Some(Self::Writes),
            "ShareUpdateExclusiveLock" => Some(Self::Changes),
            _ => None,
        }
    }
}

/// A lock on a table that was there before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Locked {
    /// The table.
    pub table: String,
    /// PostgreSQL's name of it.
    pub mode: String,
    /// Who has to wait.
    pub blocks: Blocks,
    /// How long, at most: from the beginning of the statement that took it. **Unit**: milliseconds.
    pub held_ms: u64,
}

/// Rows that were written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Touched {
    /// The table.
    pub table: String,
    /// Rows.
    pub inserted: i64,
    /// Rows.
    pub updated: i64,
    /// Rows.
    pub deleted: i64,
}

/// A table whose files were written anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    /// The table.
    pub table: String,
    /// What it takes now, without its indexes. **Unit**: bytes.
    pub bytes: i64,
}

/// What a file did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Watched {
    /// Its name.
    pub script: String,
    /// All of it was one transaction.
    pub is_transactional: bool,
    /// **Unit**: milliseconds.
    pub took_ms: u64,
    /// The strongest come first.
    pub locks: Vec<Locked>,
    /// Tables whose rows it wrote.
    pub rows: Vec<Touched>,
    /// Tables that it rewrote.
    pub rewritten: Vec<Rewritten>,
}

/// A rehearsal.
#[derive(Debug)]
pub struct Rehearsed {
    /// Whose files they are.
    pub convention: Convention,
    /// What ran, in its order.
    pub files: Vec<Watched>,
    /// Why it went no further.
    pub failed: Option<MigrateError>,
}

/// Runs what is pending on the copy that the request leads to.
///
/// **Errors**: as [`MigrateError`], before anything was run; a file that fails is in the result.
pub async fn rehearse(request: &Request<'_>) -> Result<Rehearsed, MigrateError> {
    let folder = files::read(request.folder).await?;
    let client = request.application.connect().await?;
    let run = Run { access: request.application, client: &client, convention: folder.convention };
    let history = History::open(&run).await?;
    let plan = plan::hold_against(&folder, &history);
    plan::refusal(&plan, folder.convention, request.is_out_of_order_allowed)?;
    let pending = plan::pending(&folder, &plan);
    pending.iter().try_for_each(|one| one.script.check())?;
    let observer = request.superuser.connect().await?;
    let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(|error| run.failed(LOOKING, error))?;
    let mut watch =
        Watch { access: request.superuser, observer, pid: pid.get(0), held: BTreeMap::new(), mark: Instant::now() };
    let (mut files, mut failed) = (Vec::new(), None);
    for (rank, migration) in (history.next_rank()..).zip(pending) {
        match watch.file(&run, migration, rank).await {
            Ok(watched) => files.push(watched),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    Ok(Rehearsed { convention: folder.convention, files, failed })
}

const LOOKING: &str = "look at the locks";

/// Looks at one session from another.
struct Watch<'a> {
    access: &'a Access,
    observer: Client,
    pid: i32,
    /// By table and mode.
    held: BTreeMap<(String, String), Duration>,
    /// The end of the last look: looking takes time that is nobody's.
    mark: Instant,
}

/// Tables by their identity: name, files, size.
type Files = BTreeMap<i64, (String, i64, i64)>;
/// Rows written by table.
type Rows = BTreeMap<String, [i64; 3]>;

impl Watch<'_> {
    async fn file(&mut self, run: &Run<'_>, migration: &Migration, rank: i64) -> Result<Watched, MigrateError> {
        let script = &migration.script;
        let before = self.files().await?;
        // Where each statement commits alone, what is counted is only told afterwards.
        let source = if script.is_transactional { "pg_stat_xact_user_tables" } else { "pg_stat_user_tables" };
        if !script.is_transactional {
            flush(run).await?;
        }
        run.begin((migration, Way::Up), rank).await?;
        let rows_before = rows(run, source).await?;
        self.held.clear();
        let (begun, mut overhead) = (Instant::now(), Duration::ZERO);
        for statement in script.statements() {
            self.mark = Instant::now();
            let done = if script.is_transactional {
                run.client.batch_execute(statement.text).await
            } else {
                self.sampled(run, statement.text, &mut overhead).await?
            };
            if let Err(error) = done {
                return Err(run.broke_off((migration, Way::Up), &statement, error).await);
            }
            overhead += self.look().await?;
        }
        let took = begun.elapsed().saturating_sub(overhead);
        if !script.is_transactional {
            flush(run).await?;
        }
        run.at_home().await?;
        let rows_after = rows(run, source).await?;
        self.mark = Instant::now();
        run.finish((migration, Way::Up), Outcome { rank, took, is_success: true }).await?;
        if script.is_transactional {
            let commit = self.mark.elapsed();
            self.held.values_mut().for_each(|held| *held += commit);
        }
        let after = self.files().await?;
        Ok(Watched {
            script: script.name.clone(),
            is_transactional: script.is_transactional,
            took_ms: millis(took),
            locks: self.locks(),
            rows: touched(&rows_before, &rows_after, run.convention),
            rewritten: rewritten(&before, &after),
        })
    }

    /// One that commits alone, looked at while it runs.
    async fn sampled(
        &mut self,
        run: &Run<'_>,
        sql: &str,
        overhead: &mut Duration,
    ) -> Result<Result<(), tokio_postgres::Error>, MigrateError> {
        let mut running = std::pin::pin!(run.client.batch_execute(sql));
        loop {
            tokio::select! {
                done = &mut running => return Ok(done),
                () = tokio::time::sleep(LOOK) => {
                    // It goes on meanwhile: what looking takes is part of what it takes.
                    self.look().await?;
                    *overhead = Duration::ZERO;
                }
            }
        }
    }

    /// Counts the time since the last look for every lock that is held now. Returns what looking took.
    async fn look(&mut self) -> Result<Duration, MigrateError> {
        let (spent, begun) = (self.mark.elapsed(), Instant::now());
        // The observer sees no table that is not committed yet: nobody else could wait for those.
        let sql = format!(
            "SELECT DISTINCT n.nspname || '.' || c.relname, l.mode
             FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE l.pid = $1 AND l.granted AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
             AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) AND {OWN}"
        );
        for row in self.ask(&sql, &[&self.pid]).await? {
            *self.held.entry((row.get(0), row.get(1))).or_default() += spent;
        }
        self.mark = Instant::now();
        Ok(begun.elapsed())
    }

    async fn ask(
        &self,
        sql: &str,
        values: &[&(dyn tokio_postgres::types::ToSql + Sync)],
    ) -> Result<Vec<Row>, MigrateError> {
        let rows = self.observer.query(sql, values).await;
        rows.map_err(|error| MigrateError::History { what: LOOKING, source: self.access.explain(error) })
    }

    async fn files(&self) -> Result<Files, MigrateError> {
        let sql = format!(
            "SELECT c.oid::bigint, n.nspname || '.' || c.relname, c.relfilenode::bigint, pg_relation_size(c.oid)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND {OWN}"
        );
        let rows = self.ask(&sql, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3)))).collect())
    }

    fn locks(&self) -> Vec<Locked> {
        let of = |((table, mode), held): (&(String, String), &Duration)| {
            let blocks = Blocks::of(mode)?;
            Some(Locked { table: table.clone(), mode: mode.clone(), blocks, held_ms: millis(*held) })
        };
        let mut locks: Vec<Locked> = self.held.iter().filter_map(of).collect();
        locks.sort_by(|a, b| b.blocks.cmp(&a.blocks).then(b.held_ms.cmp(&a.held_ms)));
        locks
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Makes the session tell what it counted so far.
async fn flush(run: &Run<'_>) -> Result<(), MigrateError> {
    run.execute("count rows", "SELECT pg_catalog.pg_stat_force_next_flush()").await
}

async fn rows(run: &Run<'_>, source: &str) -> Result<Rows, MigrateError> {
    let sql = format!(
        "SELECT schemaname || '.' || relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_catalog.{source}
         WHERE n_tup_ins + n_tup_upd + n_tup_del > 0"
    );
    let rows = run.client.query(&sql, &[]).await.map_err(|error| run.failed("count rows", error))?;
    Ok(rows.iter().map(|row| (row.get(0), [row.get(1), row.get(2), row.get(3)])).collect())
}

/// What was written between two counts. The history is not the file's doing.
fn touched(before: &Rows, after: &Rows, convention: Convention) -> Vec<Touched> {
    let history = format!(".{}", convention.history());
    let of = |(table, now): (&String, &[i64; 3])| {
        let then = before.get(table).copied().unwrap_or_default();
        let [inserted, updated, deleted] = [0, 1, 2].map(|column| (now[column] - then[column]).max(0));
        let is_touched = inserted + updated + deleted > 0 && !table.ends_with(&history);
        is_touched.then(|| Touched { table: table.clone(), inserted, updated, deleted })
    };
    after.iter().filter_map(of).collect()
}

fn rewritten(before: &Files, after: &Files) -> Vec<Rewritten> {
    let of = |(id, (table, file, bytes)): (&i64, &(String, i64, i64))| {
        let was = before.get(id)?;
        (was.1 != *file).then(|| Rewritten { table: table.clone(), bytes: *bytes })
    };
    after.iter().filter_map(of).collect()
}

/// Transactions of the present that use a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InTheWay {
    /// The table.
    pub table: String,
    /// How many.
    pub transactions: i64,
    /// The oldest of them is open for so long. **Unit**: milliseconds.
    pub oldest_ms: i64,
}

/// Who would be waited for if these tables were locked now: transactions of the present that are open for more than a
/// second. `superuser` leads into the application's database.
///
/// **Errors**: as [`AccessError`].
pub async fn in_the_way(superuser: &Access, tables: &[String]) -> Result<Vec<InTheWay>, AccessError> {
    let client = superuser.connect().await?;
    let sql = "SELECT n.nspname || '.' || c.relname, count(DISTINCT a.pid),
            (max(extract(epoch FROM clock_timestamp() - a.xact_start)) * 1000)::bigint
        FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid JOIN pg_class c ON c.oid = l.relation
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE l.granted AND l.locktype = 'relation' AND a.xact_start < clock_timestamp() - interval '1 second'
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND n.nspname || '.' || c.relname = ANY($1) GROUP BY 1 ORDER BY 1";
    let rows = client.query(sql, &[&tables]).await.map_err(|error| superuser.explain(error))?;
    let of = |row: &Row| InTheWay { table: row.get(0), transactions: row.get(1), oldest_ms: row.get(2) };
    Ok(rows.iter().map(of).collect())
}

/// Scripts that are applied according to a plan.
pub(crate) fn applied(plan: &[super::Planned]) -> Vec<String> {
    plan.iter().filter(|one| one.state == State::Applied).map(|one| one.script.clone()).collect()
}
