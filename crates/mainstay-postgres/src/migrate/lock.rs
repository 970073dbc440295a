//! One run of migrations at a time.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::files::{self, Convention};
use super::run::Run;
use super::{LOCK_WITHIN, MigrateError, Tell, Told};
use crate::access::{Access, AccessError};

/// Key of the advisory lock that runs of migrations take: "mainstay" in ASCII, as a number.
const LOCK_KEY: i64 = 0x6D61_696E_7374_6179;
/// sqlx's lock is this, times the CRC-32 of the database's name: an application that migrates by itself takes it.
const SQLX_LOCK: i64 = 0x3D32_AD9E;
/// Pause between two tries.
const AGAIN: Duration = Duration::from_millis(100);
/// After that somebody is told what is waited for.
const QUIET: Duration = Duration::from_secs(1);

/// Who holds a lock. A key of 64 bits is shown in two halves.
const HOLDER: &str = "SELECT format('pid %s (%s, connected for %s s)', l.pid, \
        coalesce(nullif(a.application_name, ''), 'no name'), \
        coalesce(extract(epoch FROM clock_timestamp() - a.backend_start)::bigint::text, '?')) \
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid <> pg_backend_pid() \
        AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
        AND ((l.classid::bigint << 32) | l.objid::bigint) = ANY($1) LIMIT 1";

fn keys(convention: Convention, database: &str) -> Vec<i64> {
    match convention {
        Convention::Flyway => vec![LOCK_KEY],
        Convention::Sqlx => vec![LOCK_KEY, SQLX_LOCK * i64::from(files::checksum(database).cast_unsigned())],
    }
}

/// Waits for ours, and for sqlx's own beside its files. The locks are this session's: they end with the connection,
/// however this ends.
pub(crate) async fn take(run: &Run<'_>, tell: Tell<'_>) -> Result<(), MigrateError> {
    let begun = Instant::now();
    let name = run.client.query_one("SELECT current_database()::text", &[]).await;
    let name: String = name.map_err(|error| run.failed("lock", error))?.get(0);
    let mut is_told = false;
    for key in keys(run.convention, &name) {
        let sql = format!("SELECT pg_try_advisory_lock({key})");
        while !run.client.query_one(&sql, &[]).await.map_err(|error| run.failed("lock", error))?.get::<_, bool>(0) {
            let waited = begun.elapsed();
            if waited >= LOCK_WITHIN || (waited >= QUIET && !is_told) {
                let holder = run.client.query_opt(HOLDER, &[&vec![key]]).await;
                let holder = holder.map_err(|error| run.failed("lock", error))?;
                let holder: String = holder.map_or_else(|| "nobody just now".to_owned(), |row| row.get(0));
                if waited >= LOCK_WITHIN {
                    return Err(MigrateError::Locked { holder });
                }
                tell(Told::Waits(&holder));
                is_told = true;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
    Ok(())
}

/// Keeps runs of migrations away from a database for as long as it lives.
#[derive(Debug)]
pub struct KeptAway(Client);

impl KeptAway {
    /// The server is gone, and with it what kept them away.
    pub fn is_over(&self) -> bool {
        self.0.is_closed()
    }
}

/// Keeps runs of migrations away from the database that this way leads into, or says whose is under way.
///
/// **Errors**: as [`AccessError`].
pub async fn keep_away(access: &Access) -> Result<Result<KeptAway, String>, AccessError> {
    let client = access.connect().await?;
    let taken = client.query_one(&format!("SELECT pg_try_advisory_lock({LOCK_KEY})"), &[]).await;
    if taken.map_err(|error| access.explain(error))?.get(0) {
        return Ok(Ok(KeptAway(client)));
    }
    let holder = running(access).await?;
    Ok(Err(holder.unwrap_or_else(|| "it ended just now".to_owned())))
}

/// Whoever runs migrations just now in the database that this way leads into, by either tool; `None`: nobody.
///
/// **Errors**: as [`AccessError`].
pub async fn running(access: &Access) -> Result<Option<String>, AccessError> {
    let client = access.connect().await?;
    let name = client.query_one("SELECT current_database()::text", &[]).await;
    let name: String = name.map_err(|error| access.explain(error))?.get(0);
    let found = client.query_opt(HOLDER, &[&keys(Convention::Sqlx, &name)]).await;
    Ok(found.map_err(|error| access.explain(error))?.map(|row| row.get(0)))
}
