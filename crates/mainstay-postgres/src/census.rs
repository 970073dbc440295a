//! What the databases of a server hold, counted at a position that is known, so that a restored copy can be compared
//! with its source.
//!
//! A snapshot alone has no exact position: a commit is in the WAL before others see it. On a standby replay is paused
//! for the moment in which snapshots are taken; there is nothing between two records then. A primary without standbys
//! gives its tables shared locks for that moment. Rows are counted afterwards, with everything going on, and for as long
//! as was allowed: what was not counted by then is named.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mainstay_types::Lsn;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::access::{Access, AccessError};

/// Longest pause of replay. Taking a snapshot in each database takes milliseconds.
const PAUSED_MOST_MS: u64 = 2_000;
/// How long writers may wait for the shared locks of a primary, and how often that is tried.
const LOCK_WITHIN_MS: u64 = 200;
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(500);
/// Key of the advisory lock that ends the pause of replay early: "mainstay" in ASCII.
const KEY: i64 = 0x6D61_696E_7374_6179;
/// Sessions speak the same, so that a value has one text.
const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET datestyle = 'ISO, YMD'; SET timezone = \
    'UTC'; SET intervalstyle = 'postgres'; SET extra_float_digits = 1; SET bytea_output = 'hex'; SET search_path = \
    pg_catalog; SET row_security = off; SET idle_in_transaction_session_timeout = 0; SET lc_monetary = 'C'; \
    SET quote_all_identifiers = off; SET xmlbinary = 'base64'";
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// Tables with their own rows, the smallest first, as SQL writes them. Unlogged ones are empty after a restore.
const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n \
    ON n.oid = c.relnamespace WHERE (c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
    AND n.nspname !~ '^pg_(toast|temp)' AND c.relpersistence = 'p') OR c.oid = 'pg_largeobject'::regclass \
    ORDER BY pg_relation_size(c.oid), 1";

/// Those of which a lock can be had.
const LOCKABLE: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n \
    ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
    AND n.nspname !~ '^pg_(toast|temp)' AND c.relpersistence = 'p' ORDER BY 1";

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its database.
    pub database: String,
    /// Schema and name, quoted as SQL wants them.
    pub table: String,
    /// Rows.
    pub rows: u64,
    /// Sum of the hashes of its rows' texts.
    pub hash: String,
}

/// What was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Census {
    /// Everything before this position was seen and nothing after it; of a copy where replay stands.
    pub lsn: Lsn,
    /// Every table that was counted.
    pub tables: Vec<Table>,
    /// What was not, and why.
    pub left_out: Vec<String>,
}

/// Tables of every kind that has a name of its own, with their numbers.
const NUMBERED: &str = "SELECT format('%I.%I', n.nspname, c.relname), c.oid FROM pg_class AS c JOIN pg_namespace AS n \
    ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', \
    'information_schema') AND n.nspname !~ '^pg_(toast|temp)' ORDER BY 2";

/// A table's number in the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Its database.
    pub database: String,
    /// Schema and name, quoted as SQL wants them.
    pub table: String,
    /// Number.
    pub number: u32,
}

/// Rows of a table and the sum of their hashes. `counted.*` is the row whatever its columns are called (one named as the
/// table is would stand for itself in `t::text`), and a row made of it has one text, whatever casts its type has.
fn hashed(table: &str) -> String {
    format!("SELECT count(*), coalesce(sum(hashtextextended(ROW(counted.*)::text, 0)), 0) FROM ONLY {table} AS counted")
}

/// What is counted.
#[derive(Clone, Copy)]
enum Only<'a> {
    All,
    /// The others are named.
    Lockable(&'a BTreeSet<(String, String)>),
    /// The others are nobody's concern.
    Counted(&'a BTreeSet<(String, String)>),
}

/// Sessions of one server, one in each database.
struct Sessions<'a> {
    access: &'a Access,
    each: Vec<(String, Client)>,
}

fn nonsense(access: &Access, what: &'static str, value: impl Into<String>) -> AccessError {
    AccessError::Nonsense { member: access.member(), what, value: value.into() }
}

async fn rows(access: &Access, client: &Client, query: &str) -> Result<Vec<Vec<String>>, AccessError> {
    let messages = client.simple_query(query).await.map_err(|error| access.explain(error))?;
    let text = |row: &tokio_postgres::SimpleQueryRow| {
        (0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect()
    };
    Ok(messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(text(row)),
            _ => None,
        })
        .collect())
}

async fn row(access: &Access, client: &Client, query: &str) -> Result<Vec<String>, AccessError> {
    Ok(rows(access, client, query).await?.into_iter().next().unwrap_or_default())
}

impl<'a> Sessions<'a> {
    async fn open(access: &'a Access) -> Result<Self, AccessError> {
        let first = access.connect().await?;
        let query = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname";
        let mut each = Vec::new();
        for name in rows(access, &first, query).await?.into_iter().flatten() {
            let client = access.in_database(&name).connect().await?;
            client.batch_execute(SETTINGS).await.map_err(|error| access.explain(error))?;
            each.push((name, client));
        }
        Ok(Self { access, each })
    }

    async fn run(&self, query: &str) -> Result<(), AccessError> {
        for (_, client) in &self.each {
            client.batch_execute(query).await.map_err(|error| self.access.explain(error))?;
        }
        Ok(())
    }

    /// Counts in the snapshots that the sessions hold, until the time is over.
    async fn count(&self, lsn: Lsn, within: Duration, only: Only<'_>) -> Result<Census, AccessError> {
        let mut census = Census { lsn, tables: Vec::new(), left_out: Vec::new() };
        let begun = Instant::now();
        let (mut late, mut first_late) = (0_u64, None);
        for (database, client) in &self.each {
            for table in rows(self.access, client, TABLES).await?.into_iter().flatten() {
                let key = (database.clone(), table);
                match only {
                    Only::Lockable(known) if !known.contains(&key) => {
                        census.left_out.push(format!("{database} {}: it cannot be counted without a standby", key.1));
                        continue;
                    }
                    Only::Counted(known) if !known.contains(&key) => continue,
                    Only::All | Only::Lockable(_) | Only::Counted(_) => {}
                }
                let left = within.saturating_sub(begun.elapsed());
                if left.is_zero() {
                    late += 1;
                    first_late.get_or_insert_with(|| format!("{database} {}", key.1));
                    continue;
                }
                match self.count_one(client, key, left).await? {
                    Ok(table) => census.tables.push(table),
                    Err(why) => census.left_out.push(why),
                }
            }
        }
        if let Some(first) = first_late {
            let seconds = within.as_secs();
            let more = if late > 1 { format!(" and {} more tables", late - 1) } else { String::new() };
            census.left_out.push(format!("{first}{more}: counting took longer than {seconds} s"));
        }
        Ok(census)
    }

    /// One table, for no longer than is left; what goes wrong with it is said of it alone.
    async fn count_one(
        &self,
        client: &Client,
        (database, table): (String, String),
        left: Duration,
    ) -> Result<Result<Table, String>, AccessError> {
        // At most the type's own bound: a few weeks.
        let left_ms = left.as_millis().clamp(1, i32::MAX as u128);
        let begin = format!("SAVEPOINT counted; SET LOCAL statement_timeout = {left_ms}");
        client.batch_execute(&begin).await.map_err(|error| self.access.explain(error))?;
        let found = match row(self.access, client, &hashed(&table)).await {
            Ok(found) => found,
            Err(error) => {
                // Without its connection nothing of the others can be said.
                let back = "ROLLBACK TO SAVEPOINT counted; RELEASE SAVEPOINT counted";
                client.batch_execute(back).await.map_err(|error| self.access.explain(error))?;
                return Ok(Err(format!("{database} {table}: it cannot be counted: {error}")));
            }
        };
        let end = "RELEASE SAVEPOINT counted; SET LOCAL statement_timeout = 0";
        client.batch_execute(end).await.map_err(|error| self.access.explain(error))?;
        let [rows, hash] = found.as_slice() else {
            return Err(nonsense(self.access, "the rows of a table", found.join(", ")));
        };
        let rows = rows.parse().map_err(|_| nonsense(self.access, "the rows of a table", rows.as_str()))?;
        Ok(Ok(Table { database, table, rows, hash: hash.clone() }))
    }
}

/// Snapshots of every database at one position. Nothing is counted in them yet, and what is counted is of then.
pub struct Pictured<'a> {
    sessions: Sessions<'a>,
    lsn: Lsn,
    /// Of a primary: what could be locked.
    known: Option<BTreeSet<(String, String)>>,
}

impl Pictured<'_> {
    /// Everything before it is seen and nothing after it.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Every table with its number.
    ///
    /// **Errors**: as [`AccessError`].
    pub async fn numbered(&self) -> Result<Vec<Numbered>, AccessError> {
        let mut found = Vec::new();
        for (database, client) in &self.sessions.each {
            for row in rows(self.sessions.access, client, NUMBERED).await? {
                let [table, number] = row.as_slice() else { continue };
                let Ok(number) = number.parse() else { continue };
                found.push(Numbered { database: database.clone(), table: table.clone(), number });
            }
        }
        Ok(found)
    }

    /// Counts, until the time is over.
    ///
    /// **Errors**: as [`AccessError`]; also when a query was cancelled by replay.
    pub async fn count(&self, within: Duration) -> Result<Census, AccessError> {
        self.sessions.count(self.lsn, within, self.known.as_ref().map_or(Only::All, Only::Lockable)).await
    }
}

/// Pictures a standby that streams. Its replay stands for some milliseconds.
///
/// **Errors**: as [`AccessError`]; also when replay is paused already.
pub async fn of_standby(access: &Access) -> Result<Pictured<'_>, AccessError> {
    let sessions = Sessions::open(access).await?;
    let control = access.connect().await?;
    let look = "SELECT pg_get_wal_replay_pause_state(), pg_last_wal_replay_lsn()";
    let before = row(access, &control, look).await?;
    if before.first().is_none_or(|state| state != "not paused") {
        return Err(nonsense(access, "whether replay goes on", before.join(", ")));
    }
    let lock = format!("SELECT pg_advisory_lock({KEY})");
    control.batch_execute(&lock).await.map_err(|error| access.explain(error))?;
    sessions.run(BEGIN).await?;
    let holder = access.connect().await?;
    // One statement on the server: whatever becomes of us, it goes on to its end and replay with it.
    let tries = PAUSED_MOST_MS / 5;
    let hold = format!(
        "SET statement_timeout = 0; DO $$ DECLARE n int := 0; BEGIN PERFORM pg_wal_replay_pause(); BEGIN LOOP EXIT WHEN \
         pg_try_advisory_lock({KEY}) OR n >= {tries}; PERFORM pg_sleep(0.005); n := n + 1; END LOOP; EXCEPTION WHEN \
         query_canceled OR OTHERS THEN NULL; END; PERFORM pg_wal_replay_resume(); END $$"
    );
    let holding = tokio::spawn(async move { holder.batch_execute(&hold).await });
    let lsn = snapshots(&sessions, &control, look).await;
    let released = control.batch_execute(&format!("SELECT pg_advisory_unlock({KEY})")).await;
    let held = holding.await;
    let lsn = lsn?;
    released.map_err(|error| access.explain(error))?;
    held.map_err(|error| nonsense(access, "the end of the pause", error.to_string()))?
        .map_err(|error| access.explain(error))?;
    Ok(Pictured { sessions, lsn, known: None })
}

/// Takes a snapshot in each database while replay stands. Proven by looks before and after.
async fn snapshots(sessions: &Sessions<'_>, control: &Client, look: &str) -> Result<Lsn, AccessError> {
    let access = sessions.access;
    let begun = Instant::now();
    let stands = loop {
        let seen = row(access, control, look).await?;
        if seen.first().is_some_and(|state| state == "paused") {
            break seen;
        }
        if begun.elapsed() > Duration::from_millis(PAUSED_MOST_MS) {
            return Err(nonsense(access, "whether replay stands", seen.join(", ")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    for (_, client) in &sessions.each {
        row(access, client, "SELECT 1").await?;
    }
    let after = row(access, control, look).await?;
    if after != stands {
        return Err(nonsense(access, "whether replay stood", format!("{} then {}", stands.join(" "), after.join(" "))));
    }
    let lsn = stands.get(1).and_then(|text| text.parse().ok());
    lsn.ok_or_else(|| nonsense(access, "where replay stands", stands.join(", ")))
}

/// Pictures a primary without standbys. Writers wait 200 ms at most, and only when one of them has not ended its
/// transaction.
///
/// **Errors**: as [`AccessError`]; also when there was no moment without writers.
pub async fn of_primary(access: &Access) -> Result<Pictured<'_>, AccessError> {
    let (sessions, lockers) = (Sessions::open(access).await?, Sessions::open(access).await?);
    let mut last = None;
    for _ in 0..LOCK_TRIES {
        sessions.run(BEGIN).await?;
        match locked(&sessions, &lockers).await {
            Ok((lsn, tables)) => return Ok(Pictured { sessions, lsn, known: Some(tables) }),
            Err(error) => last = Some(error),
        }
        lockers.run("ROLLBACK").await?;
        sessions.run("ROLLBACK").await?;
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    Err(last.unwrap_or_else(|| nonsense(access, "a moment without writers", "none")))
}

async fn locked(
    sessions: &Sessions<'_>,
    lockers: &Sessions<'_>,
) -> Result<(Lsn, BTreeSet<(String, String)>), AccessError> {
    let access = sessions.access;
    let mut tables = BTreeSet::new();
    lockers.run(&format!("BEGIN; SET LOCAL lock_timeout = {LOCK_WITHIN_MS}")).await?;
    for (database, client) in &lockers.each {
        let names: Vec<String> = rows(access, client, LOCKABLE).await?.into_iter().flatten().collect();
        for name in &names {
            client
                .batch_execute(&format!("LOCK TABLE ONLY {name} IN SHARE MODE"))
                .await
                .map_err(|error| access.explain(error))?;
        }
        tables.extend(names.into_iter().map(|name| (database.clone(), name)));
    }
    let mut lsn = Vec::new();
    for (_, client) in &sessions.each {
        lsn = row(access, client, "SELECT pg_current_wal_insert_lsn()").await?;
    }
    lockers.run("ROLLBACK").await?;
    let parsed = lsn.first().and_then(|text| text.parse().ok());
    Ok((parsed.ok_or_else(|| nonsense(access, "where it writes", lsn.join(", ")))?, tables))
}

/// Counts in a restored copy that stands: every table, or those alone that were counted in its source.
///
/// **Errors**: as [`AccessError`].
pub async fn of_copy(
    access: &Access,
    lsn: Lsn,
    within: Duration,
    counted: Option<&BTreeSet<(String, String)>>,
) -> Result<Census, AccessError> {
    let sessions = Sessions::open(access).await?;
    sessions.run(BEGIN).await?;
    sessions.count(lsn, within, counted.map_or(Only::All, Only::Counted)).await
}

/// Whether a statement's one answer is true; else what it was.
///
/// **Errors**: as [`AccessError`]: above all a mistake in the statement.
pub async fn is_true(access: &Access, database: &str, statement: &str) -> Result<Result<(), String>, AccessError> {
    let access = access.in_database(database);
    let client = access.connect().await?;
    client
        .batch_execute("SET statement_timeout = '60s'; SET default_transaction_read_only = on")
        .await
        .map_err(|error| access.explain(error))?;
    let found = rows(&access, &client, statement).await?;
    Ok(match found.as_slice() {
        [one] if one.as_slice() == ["t"] => Ok(()),
        [one] => Err(format!("it answered {}", one.join(", "))),
        many => Err(format!("it answered {} rows", many.len())),
    })
}
