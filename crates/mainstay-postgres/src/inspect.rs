//! What a person asks of a running cluster: sizes, standbys, slow statements, locks. Reads only, but for [`end`].
//!
//! Texts of statements leave this module without their literals: a password or a card number in a statement is nobody's
//! business who looks for what is slow.

use std::time::Duration;

use mainstay_types::{Lsn, Member};
use serde::Serialize;
use tokio_postgres::Row;

use crate::access::{Access, AccessError, Use};
use crate::{config, sql};

/// Time for one answer: a person waits for it, and a machine with much to do is when he asks.
pub const INSPECT_WITHIN: Duration = Duration::from_secs(15);
/// Statements that are told of.
const MOST_STATEMENTS: i64 = 20;
/// Characters of a statement that are told of.
const MOST_TEXT: usize = 400;

/// A database of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Its name.
    pub name: String,
    /// **Unit**: bytes.
    pub bytes: u64,
    /// Client connections to it.
    pub connections: u64,
    /// Pages whose checksum was wrong, since statistics were reset.
    pub checksum_failures: u64,
}

/// A slot of somebody else's replication: mainstay's own standbys have none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Somebody uses it now.
    pub is_active: bool,
    /// WAL that it retains. **Unit**: bytes.
    pub retained_bytes: u64,
    /// WAL that may still be written before it is given up; `None`: without bound. **Unit**: bytes.
    pub left_bytes: Option<u64>,
    /// It was given up: what it waits for is no longer there.
    pub is_lost: bool,
}

/// A primary in figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Overview {
    /// As the server says it: "15.14 (Debian 15.14-0+deb12u1)".
    pub version: String,
    /// Data pages carry checksums.
    pub has_checksums: bool,
    /// Most connections.
    pub max_connections: u64,
    /// Connections of clients now.
    pub connections: u64,
    /// WAL on disk. **Unit**: bytes.
    pub wal_bytes: u64,
    /// Databases, the largest first.
    pub databases: Vec<Size>,
    /// Replication slots: none is of mainstay's.
    pub slots: Vec<Slot>,
}

/// A standby as its primary sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Replica {
    /// Which.
    pub member: Member,
    /// `streaming`, `catchup`, `startup`, `backup`.
    pub state: String,
    /// `quorum` (a commit waits for any one of these), `async`.
    pub sync_state: String,
    /// What it has flushed.
    pub flushed: Option<Lsn>,
    /// Behind the primary in what it has flushed. **Unit**: bytes.
    pub flush_lag_bytes: u64,
    /// Behind the primary in what readers see there. **Unit**: bytes.
    pub replay_lag_bytes: u64,
    /// How long the latest commits took to be flushed there; `None`: nothing was written lately. **Unit**: milliseconds.
    pub flush_lag_ms: Option<f64>,
    /// How long the latest commits took to be seen by readers there. **Unit**: milliseconds.
    pub replay_lag_ms: Option<f64>,
}

/// A statement or open transaction that is there now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Running {
    /// Its server process.
    pub pid: i32,
    /// Database.
    pub database: String,
    /// Role.
    pub role: String,
    /// `active`, `idle in transaction`, …
    pub state: String,
    /// Since its statement began, or since it is idle. **Unit**: milliseconds.
    pub since_ms: f64,
    /// How long its transaction is open. **Unit**: milliseconds.
    pub open_ms: f64,
    /// What it waits for: "Lock/transactionid"; empty: nothing.
    pub waits_for: String,
    /// Its text without literals, cut.
    pub text: String,
}

/// A statement over all its runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Total {
    /// Database.
    pub database: String,
    /// Role.
    pub role: String,
    /// How often it ran.
    pub calls: u64,
    /// **Unit**: milliseconds.
    pub mean_ms: f64,
    /// **Unit**: milliseconds.
    pub max_ms: f64,
    /// All runs together. **Unit**: milliseconds.
    pub total_ms: f64,
    /// Rows, all runs together.
    pub rows: u64,
    /// Its text without literals, cut.
    pub text: String,
}

/// Slow statements.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slow {
    /// What is there now, the longest transaction first.
    pub running: Vec<Running>,
    /// Statements by the time of all their runs, the most first; `None`: nobody keeps count.
    pub totals: Option<Vec<Total>>,
    /// Why nobody keeps count.
    pub missing: Option<String>,
}

/// Somebody who waits for a lock.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blocked {
    /// The process that waits.
    pub pid: i32,
    /// Its role.
    pub role: String,
    /// Its database.
    pub database: String,
    /// For how long. **Unit**: milliseconds.
    pub waits_ms: f64,
    /// What it wants: "`ShareLock` on transactionid", "`AccessExclusiveLock` on orders".
    pub wants: String,
    /// Its statement without literals, cut.
    pub text: String,
    /// Processes that stand in its way.
    pub blocked_by: Vec<Blocker>,
}

/// Somebody who holds a lock that another wants, or stands before it in the queue.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blocker {
    /// Its process.
    pub pid: i32,
    /// Its role.
    pub role: String,
    /// `active`, `idle in transaction`, …
    pub state: String,
    /// It waits for a lock itself.
    pub is_waiting: bool,
    /// How long its transaction is open. **Unit**: milliseconds.
    pub open_ms: f64,
    /// Its latest statement without literals, cut.
    pub text: String,
}

/// How a process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its statement is cancelled; the session goes on.
    Cancel,
    /// Its session is ended.
    Terminate,
}

/// What became of [`end`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The signal was sent to a session of this role, which was in this state.
    Sent {
        /// Whose.
        role: String,
        /// `active`, `idle in transaction`, …
        state: String,
    },
    /// No client's session has this process.
    NotThere,
    /// It is mainstay's own.
    Ours,
}

const OVERVIEW: &str = "
SELECT current_setting('server_version'), current_setting('data_checksums') = 'on',
       current_setting('max_connections')::bigint,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
       (SELECT coalesce(sum(size), 0)::bigint FROM pg_ls_waldir())";

const SIZES: &str = "
SELECT d.datname, pg_database_size(d.oid), coalesce(s.numbackends, 0)::bigint, coalesce(s.checksum_failures, 0)
FROM pg_database d LEFT JOIN pg_stat_database s ON s.datid = d.oid WHERE NOT d.datistemplate ORDER BY 2 DESC";

const SLOTS: &str = "
SELECT slot_name::text, active,
       coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                                     ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint,
       safe_wal_size, wal_status = 'lost'
FROM pg_replication_slots ORDER BY 3 DESC, 1";

const REPLICAS: &str = "
SELECT application_name, state, sync_state, flush_lsn::text,
       greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(flush_lsn, '0/0')), 0)::bigint,
       greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(replay_lsn, '0/0')), 0)::bigint,
       (extract(epoch FROM flush_lag) * 1000)::float8, (extract(epoch FROM replay_lag) * 1000)::float8
FROM pg_stat_replication WHERE starts_with(application_name, 'mainstay_') ORDER BY 1";

// Looks and metrics of ours are the most frequent statements of all, and nobody's question.
const TOTALS: &str = "
SELECT coalesce(d.datname, ''), coalesce(r.rolname, ''), s.calls, s.mean_exec_time, s.max_exec_time,
       s.total_exec_time, s.rows, coalesce(left(s.query, 4000), '')
FROM pg_stat_statements s LEFT JOIN pg_database d ON d.oid = s.dbid LEFT JOIN pg_roles r ON r.oid = s.userid
WHERE s.calls > 0 AND NOT starts_with(coalesce(r.rolname, ''), 'mainstay')
ORDER BY s.total_exec_time DESC LIMIT $1";

const RUNNING: &str = "
SELECT pid, coalesce(datname, ''), coalesce(usename, ''), coalesce(state, ''),
       coalesce(extract(epoch FROM clock_timestamp()
                        - CASE WHEN state = 'active' THEN query_start ELSE state_change END) * 1000, 0)::float8,
       coalesce(extract(epoch FROM clock_timestamp() - xact_start) * 1000, 0)::float8,
       coalesce(wait_event_type || '/' || wait_event, ''), coalesce(left(query, 4000), '')
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle' AND usename <> 'mainstay'
ORDER BY xact_start LIMIT $1";

const LOCKS: &str = "
SELECT w.pid, coalesce(w.usename, ''), coalesce(w.datname, ''),
       coalesce(extract(epoch FROM clock_timestamp() - coalesce(l.waitstart, w.query_start)) * 1000, 0)::float8,
       l.mode || ' on ' || CASE WHEN l.relation IS NULL THEN l.locktype
                                WHEN w.datname = current_database() THEN l.relation::regclass::text
                                ELSE 'relation ' || l.relation END,
       coalesce(left(w.query, 4000), ''),
       b.pid, coalesce(b.usename, ''), coalesce(b.state, ''), coalesce(b.wait_event_type = 'Lock', false),
       coalesce(extract(epoch FROM clock_timestamp() - b.xact_start) * 1000, 0)::float8, left(coalesce(b.query, ''), 4000)
FROM pg_stat_activity w
JOIN pg_locks l ON l.pid = w.pid AND NOT l.granted
JOIN pg_stat_activity b ON b.pid = ANY (pg_blocking_pids(w.pid))
ORDER BY 4 DESC, 1, 7";

/// Size, connections, slots.
///
/// **Errors**: as [`AccessError`]; so for every question here.
pub async fn overview(access: &Access) -> Result<Overview, AccessError> {
    let row = rows(access, OVERVIEW, &[]).await?.into_iter().next();
    let row =
        row.ok_or(AccessError::Nonsense { member: access.member(), what: "its overview", value: String::new() })?;
    let size = |row: &Row| Size {
        name: row.get(0),
        bytes: number(row, 1),
        connections: number(row, 2),
        checksum_failures: number(row, 3),
    };
    let slot = |row: &Row| Slot {
        name: row.get(0),
        is_active: row.get(1),
        retained_bytes: number(row, 2),
        left_bytes: row.get::<_, Option<i64>>(3).map(|left| u64::try_from(left).unwrap_or(0)),
        is_lost: row.get::<_, Option<bool>>(4).unwrap_or(false),
    };
    Ok(Overview {
        version: row.get(0),
        has_checksums: row.get(1),
        max_connections: number(&row, 2),
        connections: number(&row, 3),
        wal_bytes: number(&row, 4),
        databases: rows(access, SIZES, &[]).await?.iter().map(size).collect(),
        slots: rows(access, SLOTS, &[]).await?.iter().map(slot).collect(),
    })
}

/// Pages whose checksum was wrong, over all databases.
pub async fn checksum_failures(access: &Access) -> Result<u64, AccessError> {
    let sql = "SELECT coalesce(sum(checksum_failures), 0)::bigint FROM pg_stat_database";
    Ok(rows(access, sql, &[]).await?.first().map_or(0, |row| number(row, 0)))
}

/// All databases together. **Unit**: bytes.
pub async fn size_bytes(access: &Access) -> Result<u64, AccessError> {
    let sql = "SELECT sum(pg_database_size(oid))::bigint FROM pg_database";
    Ok(rows(access, sql, &[]).await?.first().map_or(0, |row| number(row, 0)))
}

/// Standbys, as the primary sees them.
pub async fn replicas(access: &Access) -> Result<Vec<Replica>, AccessError> {
    let found = rows(access, REPLICAS, &[]).await?;
    let one = |row: &Row| {
        Some(Replica {
            member: config::member_of(row.get(0))?,
            state: row.get(1),
            sync_state: row.get(2),
            flushed: row.get::<_, Option<String>>(3).and_then(|lsn| lsn.parse().ok()),
            flush_lag_bytes: number(row, 4),
            replay_lag_bytes: number(row, 5),
            flush_lag_ms: row.get(6),
            replay_lag_ms: row.get(7),
        })
    };
    Ok(found.iter().filter_map(one).collect())
}

/// What runs now, and what cost most over all runs where `pg_stat_statements` keeps count. Ask in `postgres`, where its
/// view is.
pub async fn slow(access: &Access) -> Result<Slow, AccessError> {
    let running = rows(access, RUNNING, &[&MOST_STATEMENTS]).await?;
    let running = running.iter().map(|row| Running {
        pid: row.get(0),
        database: row.get(1),
        role: row.get(2),
        state: row.get(3),
        since_ms: row.get(4),
        open_ms: row.get(5),
        waits_for: row.get(6),
        text: text(row, 7),
    });
    let running = running.collect();
    let (totals, missing) = match totals(access).await? {
        Ok(totals) => (Some(totals), None),
        Err(missing) => (None, Some(missing.to_owned())),
    };
    Ok(Slow { running, totals, missing })
}

async fn totals(access: &Access) -> Result<Result<Vec<Total>, &'static str>, AccessError> {
    let question = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements'),
                           'pg_stat_statements' = ANY (string_to_array(replace(
                             current_setting('shared_preload_libraries'), ' ', ''), ','))";
    let found = rows(access, question, &[]).await?;
    let (is_made, is_loaded) = found.first().map_or((false, false), |row| (row.get(0), row.get(1)));
    if !is_loaded {
        return Ok(Err("the server does not load pg_stat_statements: its library is not installed (Debian has it in \
                       postgresql-15), or the stack file sets shared_preload_libraries without it"));
    }
    if !is_made {
        return Ok(Err(
            "the extension pg_stat_statements is not in the database postgres: the next `mainstay up` makes it",
        ));
    }
    let found = rows(access, TOTALS, &[&MOST_STATEMENTS]).await?;
    let one = |row: &Row| Total {
        database: row.get(0),
        role: row.get(1),
        calls: number(row, 2),
        mean_ms: row.get(3),
        max_ms: row.get(4),
        total_ms: row.get(5),
        rows: number(row, 6),
        text: text(row, 7),
    };
    Ok(Ok(found.iter().map(one).collect()))
}

/// Who waits for a lock, and for whom; who waits longest first. Ask in the application's database, for the names of its
/// tables.
pub async fn locks(access: &Access) -> Result<Vec<Blocked>, AccessError> {
    let mut all: Vec<Blocked> = Vec::new();
    for row in rows(access, LOCKS, &[]).await? {
        let blocker = Blocker {
            pid: row.get(6),
            role: row.get(7),
            state: row.get(8),
            is_waiting: row.get(9),
            open_ms: row.get(10),
            text: text(&row, 11),
        };
        let pid: i32 = row.get(0);
        match all.iter_mut().find(|blocked| blocked.pid == pid) {
            Some(blocked) => blocked.blocked_by.push(blocker),
            None => all.push(Blocked {
                pid,
                role: row.get(1),
                database: row.get(2),
                waits_ms: row.get(3),
                wants: row.get(4),
                text: text(&row, 5),
                blocked_by: vec![blocker],
            }),
        }
    }
    Ok(all)
}

/// Cancels a client's statement, or ends its session.
pub async fn end(access: &Access, pid: i32, how: End) -> Result<Ended, AccessError> {
    let look = "SELECT coalesce(usename, ''), coalesce(state, ''), application_name LIKE 'mainstay%'
                FROM pg_stat_activity WHERE pid = $1 AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    let found = rows(access, look, &[&pid]).await?;
    let Some(row) = found.first() else { return Ok(Ended::NotThere) };
    let (role, state): (String, String) = (row.get(0), row.get(1));
    if role == crate::layout::SUPERUSER && row.get(2) {
        return Ok(Ended::Ours);
    }
    let sql = match how {
        End::Cancel => "SELECT pg_cancel_backend($1)",
        End::Terminate => "SELECT pg_terminate_backend($1)",
    };
    let is_sent = rows(access, sql, &[&pid]).await?.first().is_some_and(|row| row.get(0));
    Ok(if is_sent { Ended::Sent { role, state } } else { Ended::NotThere })
}

type Parameters<'a> = &'a [&'a (dyn tokio_postgres::types::ToSql + Sync)];

async fn rows(access: &Access, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, AccessError> {
    let ask = async {
        let client = access.client(Use::Metrics).await?;
        client.query(sql, parameters).await.map_err(|error| access.explain(error))
    };
    match tokio::time::timeout(INSPECT_WITHIN, ask).await {
        Ok(answer) => answer,
        Err(_) => {
            access.let_go(Use::Metrics);
            Err(AccessError::Silent { member: access.member(), within: INSPECT_WITHIN })
        }
    }
}

fn number(row: &Row, at: usize) -> u64 {
    u64::try_from(row.get::<_, i64>(at)).unwrap_or(0)
}

fn text(row: &Row, at: usize) -> String {
    let masked = sql::without_literals(row.get(at));
    if masked.chars().count() <= MOST_TEXT {
        return masked;
    }
    masked.chars().take(MOST_TEXT).chain(['…']).collect()
}
