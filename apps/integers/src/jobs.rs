//! Background work: usage roll-up, and the removal of what is old. Every instance tries; the database
//! lets one of them.

use mainstay_kit::idempotency;
use mainstay_kit::pool::{Database, Failure};
use mainstay_kit::telemetry::{Level, log};
use mainstay_kit::tokio_postgres::types::Type;

use crate::config::Config;
use crate::state::AppState;

/// `pg_try_advisory_xact_lock` key: "usage" in ASCII.
const ROLLUP_LOCK: i64 = 0x75_7361_6765;

/// Starts them; they end with the process.
pub(crate) fn spawn(state: &AppState, config: &Config) {
    let (rollups, every) = (state.clone(), config.rollup_every);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(every).await;
            let result = roll_up(&rollups.database).await;
            if let Ok(Some(users)) = result {
                #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 users")]
                rollups.metrics.set("integers_users", &[], users as f64);
            }
            report(&rollups, "usage_rollup", result.map(|_| 0));
        }
    });
    let (purges, every) = (state.clone(), config.purge_every);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(every).await;
            report(&purges, "idempotency_purge", idempotency::purge(&purges.database).await);
            report(&purges, "session_purge", purges.auth.sessions.purge().await);
        }
    });
}

fn report(state: &AppState, job: &str, result: Result<u64, Failure>) {
    let outcome = if result.is_ok() { "done" } else { "failed" };
    state.metrics.add("integers_job_runs_total", &[("job", job), ("outcome", outcome)], 1.0);
    match result {
        Ok(0) => {}
        Ok(rows) => log(Level::Info, "OldRowsRemoved", &[("job", job), ("rows", &rows.to_string())]),
        // The next run does what this one did not.
        Err(error) => log(Level::Warn, "JobFailed", &[("job", job), ("cause", &error.to_string())]),
    }
}

/// Adds what the counters have grown by to the usage of today. Takes no lock on a counter: increments
/// go on meanwhile, and what they add is in the next difference. Says how many users there are, or
/// nothing when another instance is at it.
pub(crate) async fn roll_up(database: &Database) -> Result<Option<i64>, Failure> {
    database
        .transaction(|transaction| {
            Box::pin(async move {
                let sql = "SELECT pg_try_advisory_xact_lock($1)";
                let row = transaction.query_typed_one(sql, &[(&ROLLUP_LOCK, Type::INT8)]).await?;
                if !row.get::<_, bool>(0) {
                    return Ok(None);
                }
                let sql = "WITH seen AS ( \
                       SELECT c.user_id, c.calls, c.issued, c.calls - coalesce(w.calls, 0) AS more_calls, \
                              c.issued - coalesce(w.issued, 0) AS more_issued \
                       FROM counters c LEFT JOIN usage_watermarks w USING (user_id) \
                       WHERE c.calls <> coalesce(w.calls, 0)), \
                     added AS ( \
                       INSERT INTO usage_daily AS d (user_id, day, calls, issued) \
                       SELECT user_id, (now() AT TIME ZONE 'UTC')::date, more_calls, more_issued FROM seen \
                       ON CONFLICT (user_id, day) DO UPDATE \
                       SET calls = d.calls + excluded.calls, issued = d.issued + excluded.issued) \
                     INSERT INTO usage_watermarks (user_id, calls, issued) SELECT user_id, calls, issued FROM seen \
                     ON CONFLICT (user_id) DO UPDATE SET calls = excluded.calls, issued = excluded.issued";
                transaction.query_typed(sql, &[]).await?;
                let row = transaction.query_typed_one("SELECT count(*) FROM users", &[]).await?;
                Ok(Some(row.get(0)))
            })
        })
        .await
}
