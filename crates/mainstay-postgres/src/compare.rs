//! What the tables of a server hold, counted with bounded effort: small ones exactly, large ones as the statistics have
//! them. For the present and the past side by side: two looks with one rule.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::access::{Access, AccessError};
use crate::layout::LEDGER;

/// Largest table that is counted. **Basis**: a million narrow rows, some 50 ms of one core; above, the answer would
/// keep a person waiting who must decide.
const COUNTED_MOST_BYTES: u64 = 64 << 20;
/// Longest time to count one table.
const ONE_WITHIN_MS: u64 = 2_000;

/// Tables with rows of their own, the smallest first: what cannot be counted in time is then as little as possible.
const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname), pg_table_size(c.oid), c.reltuples::bigint \
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') \
    AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' \
    AND c.relpersistence <> 't' ORDER BY 2, 1";
const DATABASES: &str = "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY datname";

/// Database, and the table as SQL writes it.
pub type Name = (String, String);

/// How many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Counted.
    Exact(u64),
    /// As the last `VACUUM` or `ANALYZE` left it.
    Estimate(u64),
    /// Too large to be counted here, and never analysed.
    Unknown,
}

/// Counts the tables of every database.
///
/// **Errors**: as [`AccessError`]. A table that cannot be counted in time has an estimate.
pub async fn rows(access: &Access, within: Duration) -> Result<BTreeMap<Name, Rows>, AccessError> {
    let begun = Instant::now();
    let first = access.connect().await?;
    let mut found = BTreeMap::new();
    for database in query(access, &first, DATABASES).await?.into_iter().flatten() {
        if database == LEDGER {
            continue;
        }
        let client = access.in_database(&database).connect().await?;
        let settings =
            format!("SET statement_timeout = {ONE_WITHIN_MS}; SET lock_timeout = 200; SET row_security = off");
        client.batch_execute(&settings).await.map_err(|error| access.explain(error))?;
        for row in query(access, &client, TABLES).await? {
            let [table, bytes, estimate] = row.as_slice() else { continue };
            let estimate = estimate.parse().map_or(Rows::Unknown, Rows::Estimate);
            let is_small = bytes.parse().is_ok_and(|bytes: u64| bytes <= COUNTED_MOST_BYTES);
            let rows = if is_small && begun.elapsed() < within {
                let counting = format!("SELECT count(*) FROM ONLY {table}");
                let counted = query(access, &client, &counting).await.ok();
                let counted = counted.and_then(|rows| rows.first()?.first()?.parse().ok());
                counted.map_or(estimate, Rows::Exact)
            } else {
                estimate
            };
            found.insert((database.clone(), table.clone()), rows);
        }
    }
    Ok(found)
}

/// The name of a table by its number, and the name of its database; `None`: it is not there.
///
/// **Errors**: as [`AccessError`].
pub async fn table_of(access: &Access, (database, relation): (u32, u32)) -> Result<Option<Name>, AccessError> {
    let first = access.connect().await?;
    let named = format!("SELECT datname FROM pg_database WHERE oid = {database}");
    let Some(database) = query(access, &first, &named).await?.into_iter().flatten().next() else { return Ok(None) };
    let client = access.in_database(&database).connect().await?;
    let named = format!(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace \
         WHERE c.oid = {relation} AND c.relkind IN ('r', 'p', 'm', 'f')"
    );
    let table = query(access, &client, &named).await?.into_iter().flatten().next();
    Ok(table.map(|table| (database, table)))
}

/// The number that the next transaction gets: its upper half counts how often the lower began anew.
///
/// **Errors**: as [`AccessError`].
pub async fn next_transaction(access: &Access) -> Result<Option<u64>, AccessError> {
    let client = access.connect().await?;
    let found = query(access, &client, "SELECT pg_snapshot_xmax(pg_current_snapshot())").await?;
    Ok(found.first().and_then(|row| row.first()?.parse().ok()))
}

async fn query(access: &Access, client: &Client, text: &str) -> Result<Vec<Vec<String>>, AccessError> {
    let messages = client.simple_query(text).await.map_err(|error| access.explain(error))?;
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    };
    Ok(messages.iter().filter_map(row).collect())
}
