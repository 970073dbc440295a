//! SQL of this application. Every function works on a session or in a transaction of the caller.
//!
//! A counter is only ever changed by one statement that says by how much: nobody reads a value and
//! writes back another. Values are never read from a standby or a cache.

use mainstay_kit::auth::NewApiKey;
use mainstay_kit::idempotency::Key;
use mainstay_kit::paging::Page;
use mainstay_kit::pool::Failure;
use mainstay_kit::problem::Problem;
use mainstay_kit::time::rfc3339;
use mainstay_kit::tokio_postgres::types::{ToSql, Type};
use mainstay_kit::tokio_postgres::{Client, GenericClient, Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::model::{Issued, Position, User};

const USER: &str = "id, username, role, is_active, api_key_shown, created_at";
const ADVANCE: &str = "UPDATE counters SET value = value + $2, calls = calls + 1, issued = issued + $2, \
     updated_at = now() WHERE user_id = $1 RETURNING value, epoch";

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// What a new user is made of.
pub(crate) struct NewUser<'a> {
    pub(crate) username: &'a str,
    pub(crate) role: &'a str,
    pub(crate) password_hash: &'a str,
    pub(crate) api_key: &'a NewApiKey,
}

/// Adds a user with his counter.
pub(crate) async fn insert_user(transaction: &Transaction<'_>, new: &NewUser<'_>) -> Result<User, Failure> {
    let sql = format!(
        "INSERT INTO users (username, role, password_hash, api_key_hash, api_key_shown) \
         VALUES ($1, $2, $3, $4, $5) RETURNING {USER}"
    );
    let parameters: [Parameter<'_>; 5] = [
        (&new.username, Type::TEXT),
        (&new.role, Type::TEXT),
        (&new.password_hash, Type::TEXT),
        (&new.api_key.hash, Type::BYTEA),
        (&new.api_key.shown, Type::TEXT),
    ];
    let user = user(&transaction.query_typed_one(&sql, &parameters).await?);
    let sql = "INSERT INTO counters (user_id) VALUES ($1)";
    transaction.query_typed(sql, &[(&user.id, Type::INT8)]).await?;
    Ok(user)
}

pub(crate) async fn find_user(client: &impl GenericClient, id: i64) -> Result<Option<User>, Failure> {
    let sql = format!("SELECT {USER} FROM users WHERE id = $1");
    let rows = client.query_typed(&sql, &[(&id, Type::INT8)]).await?;
    Ok(rows.first().map(user))
}

/// Users by id, ascending.
pub(crate) async fn list_users(client: &Client, page: Page) -> Result<Vec<User>, Failure> {
    let sql = format!("SELECT {USER} FROM users WHERE id > $1 ORDER BY id LIMIT $2");
    let after = page.after.unwrap_or(0);
    let rows = client.query_typed(&sql, &[(&after, Type::INT8), (&page.limit, Type::INT8)]).await?;
    Ok(rows.iter().map(user).collect())
}

/// What sign-in needs to know.
pub(crate) struct Account {
    pub(crate) user: User,
    pub(crate) password_hash: String,
}

pub(crate) async fn account(client: &impl GenericClient, username: &str) -> Result<Option<Account>, Failure> {
    let sql = format!("SELECT {USER}, password_hash FROM users WHERE lower(username) = lower($1)");
    let rows = client.query_typed(&sql, &[(&username, Type::TEXT)]).await?;
    Ok(rows.first().map(|row| Account { user: user(row), password_hash: row.get(6) }))
}

/// Gives a user another API key; says the hash of the old one.
pub(crate) async fn replace_api_key(
    transaction: &Transaction<'_>,
    user_id: i64,
    new: &NewApiKey,
) -> Result<Option<Vec<u8>>, Failure> {
    let sql = "SELECT api_key_hash FROM users WHERE id = $1 FOR UPDATE";
    let rows = transaction.query_typed(sql, &[(&user_id, Type::INT8)]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let old = row.get(0);
    let sql = "UPDATE users SET api_key_hash = $2, api_key_shown = $3 WHERE id = $1";
    let parameters: [Parameter<'_>; 3] = [(&user_id, Type::INT8), (&new.hash, Type::BYTEA), (&new.shown, Type::TEXT)];
    transaction.query_typed(sql, &parameters).await?;
    Ok(Some(old))
}

/// Locks a user out or lets him in; says who it is and the hash of his API key.
pub(crate) async fn set_active(
    transaction: &Transaction<'_>,
    user_id: i64,
    is_active: bool,
) -> Result<Option<(User, Vec<u8>)>, Failure> {
    let sql = format!("UPDATE users SET is_active = $2 WHERE id = $1 RETURNING {USER}, api_key_hash");
    let rows = transaction.query_typed(&sql, &[(&user_id, Type::INT8), (&is_active, Type::BOOL)]).await?;
    Ok(rows.first().map(|row| (user(row), row.get(6))))
}

/// Where a counter stands on this server; the caller asks the primary.
pub(crate) async fn position(client: &impl GenericClient, user_id: i64) -> Result<Position, Failure> {
    let sql = "SELECT value, epoch FROM counters WHERE user_id = $1";
    one_position(&client.query_typed(sql, &[(&user_id, Type::INT8)]).await?)
}

/// Takes the next `n` integers: one statement, which commits by itself.
pub(crate) async fn advance(client: &Client, user_id: i64, n: i64) -> Result<Issued, Failure> {
    let rows = client.query_typed(ADVANCE, &[(&user_id, Type::INT8), (&n, Type::INT8)]).await?;
    let Position { value, epoch } = one_position(&rows)?;
    Ok(Issued { value, epoch, n })
}

/// The same for a request with a key: the answer is stored by the statement that makes it true, so that
/// both are there or neither. Breaks [`mainstay_kit::idempotency::CONSTRAINT`] when the key is known,
/// and then changes nothing.
pub(crate) async fn advance_once(
    client: &Client,
    user_id: i64,
    n: i64,
    key: &Key,
    fingerprint: &[u8],
) -> Result<Issued, Failure> {
    let sql = format!(
        "WITH moved AS ({ADVANCE}) \
         INSERT INTO idempotency_keys (owner, key, fingerprint, answer) \
         SELECT $1, $3, $4, json_build_object('value', value, 'epoch', epoch, 'n', $2)::text FROM moved \
         RETURNING answer"
    );
    let key = key.as_str();
    let parameters: [Parameter<'_>; 4] =
        [(&user_id, Type::INT8), (&n, Type::INT8), (&key, Type::TEXT), (&fingerprint, Type::BYTEA)];
    let rows = client.query_typed(&sql, &parameters).await?;
    let row = rows.first().ok_or_else(no_counter)?;
    issued(row.get(0))
}

/// A stored answer.
pub(crate) fn issued(answer: &str) -> Result<Issued, Failure> {
    serde_json::from_str(answer).map_err(|_| Problem::internal().into())
}

/// A counter, locked until the transaction ends.
pub(crate) async fn lock_position(transaction: &Transaction<'_>, user_id: i64) -> Result<Position, Failure> {
    let sql = "SELECT value, epoch FROM counters WHERE user_id = $1 FOR UPDATE";
    one_position(&transaction.query_typed(sql, &[(&user_id, Type::INT8)]).await?)
}

/// Sets a locked counter.
pub(crate) async fn set_position(transaction: &Transaction<'_>, user_id: i64, to: Position) -> Result<(), Failure> {
    let sql = "UPDATE counters SET value = $2, epoch = $3, updated_at = now() WHERE user_id = $1";
    let parameters: [Parameter<'_>; 3] = [(&user_id, Type::INT8), (&to.value, Type::INT8), (&to.epoch, Type::INT8)];
    transaction.query_typed(sql, &parameters).await?;
    Ok(())
}

/// What a user used on one day (UTC).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Day {
    pub(crate) day: String,
    /// Requests for integers.
    pub(crate) calls: i64,
    /// Integers given.
    pub(crate) integers: i64,
}

/// The last `days` days, oldest first, with what no roll-up has seen yet.
pub(crate) async fn usage(client: &Client, user_id: i64, days: i32) -> Result<Vec<Day>, Failure> {
    let sql = "WITH today AS (SELECT (now() AT TIME ZONE 'UTC')::date AS day), \
           fresh AS (SELECT c.calls - coalesce(w.calls, 0) AS calls, c.issued - coalesce(w.issued, 0) AS issued \
             FROM counters c LEFT JOIN usage_watermarks w USING (user_id) WHERE c.user_id = $1) \
         SELECT (today.day - back)::text, \
           coalesce(d.calls, 0) + CASE back WHEN 0 THEN coalesce((SELECT calls FROM fresh), 0) ELSE 0 END, \
           coalesce(d.issued, 0) + CASE back WHEN 0 THEN coalesce((SELECT issued FROM fresh), 0) ELSE 0 END \
         FROM today, generate_series($2 - 1, 0, -1) AS back \
         LEFT JOIN usage_daily d ON d.user_id = $1 AND d.day = (SELECT day FROM today) - back ORDER BY back DESC";
    let rows = client.query_typed(sql, &[(&user_id, Type::INT8), (&days, Type::INT4)]).await?;
    Ok(rows.iter().map(|row| Day { day: row.get(0), calls: row.get(1), integers: row.get(2) }).collect())
}

fn one_position(rows: &[Row]) -> Result<Position, Failure> {
    let row = rows.first().ok_or_else(no_counter)?;
    Ok(Position { value: row.get(0), epoch: row.get(1) })
}

fn no_counter() -> Failure {
    Problem::not_found("your user and its counter are gone").into()
}

fn user(row: &Row) -> User {
    User {
        id: row.get(0),
        username: row.get(1),
        role: row.get(2),
        is_active: row.get(3),
        api_key_begins: row.get(4),
        created_at: rfc3339(row.get(5)),
    }
}
