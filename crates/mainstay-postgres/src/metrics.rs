//! A member's metrics, in Prometheus' text form, in the names of the well-known exporter where it has one.

use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::Row;

use crate::access::{Access, AccessError, Use};

/// Time for one page.
pub const METRICS_WITHIN: Duration = Duration::from_secs(2);

/// One row a database; replicas have no use for `pg_database_size` of the templates.
const DATABASES: &str = "
SELECT d.datname, s.numbackends::float8, s.xact_commit::float8, s.xact_rollback::float8, s.blks_read::float8,
       s.blks_hit::float8, s.deadlocks::float8, s.temp_bytes::float8, coalesce(s.checksum_failures, 0)::float8,
       pg_database_size(d.oid)::float8
FROM pg_database d JOIN pg_stat_database s ON s.datid = d.oid WHERE NOT d.datistemplate ORDER BY 1";

const COLUMNS: [(&str, &str, &str); 9] = [
    ("pg_stat_database_numbackends", "gauge", "Backends connected to this database."),
    ("pg_stat_database_xact_commit_total", "counter", "Transactions committed."),
    ("pg_stat_database_xact_rollback_total", "counter", "Transactions rolled back."),
    ("pg_stat_database_blks_read_total", "counter", "Blocks read from disk."),
    ("pg_stat_database_blks_hit_total", "counter", "Blocks found in shared buffers."),
    ("pg_stat_database_deadlocks_total", "counter", "Deadlocks."),
    ("pg_stat_database_temp_bytes_total", "counter", "Bytes written to temporary files."),
    ("pg_stat_database_checksum_failures_total", "counter", "Pages whose checksum was wrong."),
    ("pg_database_size_bytes", "gauge", "Size of the database."),
];

const STANDBYS: &str = "
SELECT application_name, sync_state,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
                       coalesce(replay_lsn, sent_lsn))::float8
FROM pg_stat_replication WHERE state = 'streaming' ORDER BY 1";

const SLOTS: &str = "
SELECT slot_name::text,
       coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                                     ELSE pg_current_wal_lsn() END, restart_lsn), 0)::float8,
       safe_wal_size::float8, (wal_status = 'lost')::int::float8
FROM pg_replication_slots ORDER BY 1";

const SLOT_NAMES: [(&str, &str); 3] = [
    ("pg_replication_slot_retained_bytes", "WAL that a replication slot retains."),
    ("pg_replication_slot_safe_bytes", "WAL that may still be written before the slot is given up."),
    ("pg_replication_slot_lost", "Whether the slot was given up, and its WAL is gone."),
];

const LOCKS: &str = "SELECT lower(mode), count(*)::float8 FROM pg_locks GROUP BY 1 ORDER BY 1";

const ONES: &str = "
SELECT pg_is_in_recovery()::int::float8,
       coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)::float8,
       current_setting('max_connections')::float8, count(*)::float8,
       extract(epoch FROM pg_postmaster_start_time())::float8,
       CASE WHEN NOT pg_is_in_recovery() OR pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
            ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0) END::float8
FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

const ONE_NAMES: [(&str, &str); 6] = [
    ("pg_replication_is_replica", "Whether it is a standby (pg_is_in_recovery)."),
    ("pg_longest_transaction_seconds", "Age of the oldest open transaction."),
    ("pg_settings_max_connections", "The server's max_connections."),
    ("pg_client_backends", "Connections of clients, without this one."),
    ("pg_postmaster_start_time_seconds", "When the server started."),
    ("pg_replication_lag_seconds", "Standby: age of the last replayed commit, 0 when all received is replayed."),
];

/// One page for a member. A member that cannot be asked is `pg_up 0`, and the reason a comment.
pub async fn metrics(access: &Access) -> String {
    let member = access.member();
    let up = |value: u8| {
        format!("# HELP pg_up Whether the server answers.\n# TYPE pg_up gauge\npg_up{{member=\"{member}\"}} {value}\n")
    };
    let error = match tokio::time::timeout(METRICS_WITHIN, page(access)).await {
        Ok(Ok(page)) => return up(1) + &page,
        Ok(Err(error)) => error,
        Err(_) => AccessError::Silent { member, within: METRICS_WITHIN },
    };
    access.let_go(Use::Metrics);
    up(0) + &format!("# {}\n", error.to_string().replace('\n', " "))
}

async fn page(access: &Access) -> Result<String, AccessError> {
    let client = access.client(Use::Metrics).await?;
    let member = access.member().to_string();
    let explain = |error| access.explain(error);
    let mut text = String::new();
    let ones = client.query_one(ONES, &[]).await.map_err(explain)?;
    for (at, (name, help)) in ONE_NAMES.iter().enumerate() {
        family(&mut text, name, "gauge", help);
        sample(&mut text, name, &[("member", &member)], ones.get(at));
    }
    let databases = client.query(DATABASES, &[]).await.map_err(explain)?;
    for (at, (name, kind, help)) in COLUMNS.iter().enumerate() {
        family(&mut text, name, kind, help);
        for row in &databases {
            sample(&mut text, name, &[("member", &member), ("datname", row.get(0))], row.get(at + 1));
        }
    }
    let standbys = client.query(STANDBYS, &[]).await.map_err(explain)?;
    let name = "pg_replication_lag_bytes";
    family(&mut text, name, "gauge", "Bytes of WAL that a standby has not replayed, as its primary sees it.");
    for row in &standbys {
        let labels = [("member", member.as_str()), ("application_name", row.get(0)), ("sync_state", row.get(1))];
        sample(&mut text, name, &labels, row.get(2));
    }
    let slots = client.query(SLOTS, &[]).await.map_err(explain)?;
    for (at, (name, help)) in SLOT_NAMES.iter().enumerate() {
        family(&mut text, name, "gauge", help);
        for row in &slots {
            sample(&mut text, name, &[("member", &member), ("slot_name", row.get(0))], row.get(at + 1));
        }
    }
    let locks = client.query(LOCKS, &[]).await.map_err(explain)?;
    write_locks(&mut text, &member, &locks);
    Ok(text)
}

fn write_locks(text: &mut String, member: &str, rows: &[Row]) {
    let name = "pg_locks_count";
    family(text, name, "gauge", "Locks held or waited for, by mode.");
    for row in rows {
        sample(text, name, &[("member", member), ("mode", row.get(0))], row.get(1));
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: Option<f64>) {
    let Some(value) = value else { return };
    let escape = |label: &str| label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
    let _ = writeln!(text, "{name}{{{}}} {value}", labels.join(","));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut text = String::new();
        sample(&mut text, "pg_x", &[("a", "q\"\\\n")], Some(1.5));
        sample(&mut text, "pg_y", &[], None);
        assert_eq!(text, "pg_x{a=\"q\\\"\\\\\\n\"} 1.5\n");
    }
}
