//! SQL of the users table. Every function works on a session or in a transaction of the caller.

use std::time::SystemTime;

use mainstay_kit::auth::Role;
use mainstay_kit::pool::Failure;
use mainstay_kit::tokio_postgres::types::{ToSql, Type};
use mainstay_kit::tokio_postgres::{Client, GenericClient, Row, Transaction};
use serde::Serialize;

use crate::model::{CreateUser, Listing, Page, User};

const COLUMNS: &str = "id, username, email, first_name, last_name, role, is_active, \
     created_at, updated_at, created_by, updated_by, version";

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// How a single user is found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By<'a> {
    Id(i64),
    Username(&'a str),
    Email(&'a str),
}

/// One user, as it is on this server.
pub(crate) async fn find(client: &impl GenericClient, by: By<'_>) -> Result<Option<User>, Failure> {
    let (condition, parameter): (_, Parameter<'_>) = match &by {
        By::Id(id) => ("id = $1", (id, Type::INT8)),
        By::Username(name) => ("lower(username) = lower($1)", (name, Type::TEXT)),
        By::Email(email) => ("lower(email) = lower($1)", (email, Type::TEXT)),
    };
    let sql = format!("SELECT {COLUMNS} FROM users WHERE {condition}");
    let rows = client.query_typed(&sql, &[parameter]).await?;
    Ok(rows.first().map(user))
}

/// One user, locked until the transaction ends.
pub(crate) async fn lock(transaction: &Transaction<'_>, id: i64) -> Result<Option<User>, Failure> {
    let sql = format!("SELECT {COLUMNS} FROM users WHERE id = $1 FOR UPDATE");
    let rows = transaction.query_typed(&sql, &[(&id, Type::INT8)]).await?;
    Ok(rows.first().map(user))
}

/// A page of users.
pub(crate) async fn list(client: &Client, listing: &Listing) -> Result<Page, Failure> {
    let condition = "($1::text IS NULL OR lower(username) LIKE $1 OR lower(email) LIKE $1 \
           OR lower(first_name || ' ' || last_name) LIKE $1) \
         AND ($2::text IS NULL OR role = $2) AND ($3::bool IS NULL OR is_active = $3)";
    let role = listing.role.map(Role::as_str);
    let filters: [Parameter<'_>; 3] =
        [(&listing.pattern, Type::TEXT), (&role, Type::TEXT), (&listing.active, Type::BOOL)];
    let sql = format!("SELECT count(*) FROM users WHERE {condition}");
    let rows = client.query_typed(&sql, &filters).await?;
    let total = rows.first().map_or(0, |row| row.get(0));
    let direction = if listing.is_descending { "DESC" } else { "ASC" };
    // The id makes the order total, so that no user is on two pages.
    let sql = format!(
        "SELECT {COLUMNS} FROM users WHERE {condition} ORDER BY {} {direction}, id {direction} LIMIT $4 OFFSET $5",
        listing.order
    );
    let (limit, offset) = (i64::from(listing.size), i64::from(listing.page) * i64::from(listing.size));
    let [pattern, role, active] = filters;
    let parameters = [pattern, role, active, (&limit as _, Type::INT8), (&offset as _, Type::INT8)];
    let rows = client.query_typed(&sql, &parameters).await?;
    Ok(Page::new(rows.iter().map(user).collect(), listing, total))
}

/// Adds a user.
pub(crate) async fn insert(
    transaction: &Transaction<'_>,
    new: &CreateUser,
    password_hash: Option<&str>,
    actor: &str,
) -> Result<User, Failure> {
    let role = new.role.unwrap_or(Role::Viewer).as_str();
    let sql = format!(
        "INSERT INTO users (username, email, first_name, last_name, role, password_hash, created_by, updated_by) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7) RETURNING {COLUMNS}"
    );
    let parameters: [Parameter<'_>; 7] = [
        (&new.username, Type::TEXT),
        (&new.email, Type::TEXT),
        (&new.first_name, Type::TEXT),
        (&new.last_name, Type::TEXT),
        (&role, Type::TEXT),
        (&password_hash, Type::TEXT),
        (&actor, Type::TEXT),
    ];
    one(&transaction.query_typed(&sql, &parameters).await?)
}

/// Replaces a locked user's fields; `None` keeps the password.
pub(crate) async fn update(
    transaction: &Transaction<'_>,
    wanted: &User,
    password_hash: Option<&str>,
    actor: &str,
) -> Result<User, Failure> {
    let sql = format!(
        "UPDATE users SET username = $2, email = $3, first_name = $4, last_name = $5, role = $6, is_active = $7, \
         password_hash = coalesce($8, password_hash), updated_by = $9, updated_at = now(), version = version + 1 \
         WHERE id = $1 RETURNING {COLUMNS}"
    );
    let role = wanted.role.as_str();
    let parameters: [Parameter<'_>; 9] = [
        (&wanted.id, Type::INT8),
        (&wanted.username, Type::TEXT),
        (&wanted.email, Type::TEXT),
        (&wanted.first_name, Type::TEXT),
        (&wanted.last_name, Type::TEXT),
        (&role, Type::TEXT),
        (&wanted.is_active, Type::BOOL),
        (&password_hash, Type::TEXT),
        (&actor, Type::TEXT),
    ];
    one(&transaction.query_typed(&sql, &parameters).await?)
}

/// Which of these names and addresses (in lower case) are taken.
pub(crate) async fn taken(
    client: &impl GenericClient,
    usernames: &[String],
    emails: &[String],
) -> Result<(Vec<String>, Vec<String>), Failure> {
    let column = |rows: Vec<Row>| rows.iter().map(|row| row.get(0)).collect();
    let sql = "SELECT lower(username) FROM users WHERE lower(username) = ANY($1)";
    let names = column(client.query_typed(sql, &[(&usernames, Type::TEXT_ARRAY)]).await?);
    let sql = "SELECT lower(email) FROM users WHERE lower(email) = ANY($1)";
    let addresses = column(client.query_typed(sql, &[(&emails, Type::TEXT_ARRAY)]).await?);
    Ok((names, addresses))
}

/// Adds many users in one statement and gives their ids.
pub(crate) async fn insert_all(
    transaction: &Transaction<'_>,
    users: &[CreateUser],
    actor: &str,
) -> Result<Vec<i64>, Failure> {
    let column = |of: fn(&CreateUser) -> &str| users.iter().map(of).collect::<Vec<&str>>();
    let usernames = column(|user| &user.username);
    let emails = column(|user| &user.email);
    let first_names = column(|user| &user.first_name);
    let last_names = column(|user| &user.last_name);
    let roles = column(|user| user.role.unwrap_or(Role::Viewer).as_str());
    let sql = "INSERT INTO users (username, email, first_name, last_name, role, created_by, updated_by) \
         SELECT u, e, f, l, r, $6, $6 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) \
         AS t(u, e, f, l, r) RETURNING id";
    let parameters: [Parameter<'_>; 6] = [
        (&usernames, Type::TEXT_ARRAY),
        (&emails, Type::TEXT_ARRAY),
        (&first_names, Type::TEXT_ARRAY),
        (&last_names, Type::TEXT_ARRAY),
        (&roles, Type::TEXT_ARRAY),
        (&actor, Type::TEXT),
    ];
    let rows = transaction.query_typed(sql, &parameters).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Removes a user with all sessions.
pub(crate) async fn delete(transaction: &Transaction<'_>, id: i64) -> Result<(), Failure> {
    transaction.query_typed("DELETE FROM users WHERE id = $1", &[(&id, Type::INT8)]).await?;
    Ok(())
}

/// Whether another active administrator is left. Locks them all, so that two administrators
/// cannot remove each other at the same moment.
pub(crate) async fn has_other_admin(transaction: &Transaction<'_>, id: i64) -> Result<bool, Failure> {
    let sql = "SELECT id FROM users WHERE role = 'admin' AND is_active ORDER BY id FOR UPDATE";
    let rows = transaction.query_typed(sql, &[]).await?;
    Ok(rows.iter().any(|row| row.get::<_, i64>(0) != id))
}

/// What sign-in needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) user_id: i64,
    pub(crate) is_active: bool,
    pub(crate) password_hash: Option<String>,
    pub(crate) is_locked: bool,
}

/// By user name or e-mail address.
pub(crate) async fn credentials(client: &impl GenericClient, login: &str) -> Result<Option<Credentials>, Failure> {
    let sql = "SELECT id, is_active, password_hash, coalesce(locked_until > now(), false) FROM users \
         WHERE lower(username) = lower($1) OR lower(email) = lower($1) \
         ORDER BY lower(username) = lower($1) DESC LIMIT 1";
    let rows = client.query_typed(sql, &[(&login, Type::TEXT)]).await?;
    Ok(rows.first().map(|row| Credentials {
        user_id: row.get(0),
        is_active: row.get(1),
        password_hash: row.get(2),
        is_locked: row.get(3),
    }))
}

/// Wrong passwords in a row, and what came of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    pub(crate) number: i32,
    pub(crate) last: Option<SystemTime>,
    pub(crate) locked_until: Option<SystemTime>,
}

/// Of one user. `for_update` locks the row until the transaction ends.
pub(crate) async fn failures(
    client: &impl GenericClient,
    id: i64,
    for_update: bool,
) -> Result<Option<Failures>, Failure> {
    let lock = if for_update { "FOR UPDATE" } else { "" };
    let sql = format!("SELECT failed_signins, last_failed_at, locked_until FROM users WHERE id = $1 {lock}");
    let rows = client.query_typed(&sql, &[(&id, Type::INT8)]).await?;
    Ok(rows.first().map(|row| Failures { number: row.get(0), last: row.get(1), locked_until: row.get(2) }))
}

/// Sets them. Not a change of the user: the version stays.
pub(crate) async fn set_failures(transaction: &Transaction<'_>, id: i64, failures: &Failures) -> Result<(), Failure> {
    let sql = "UPDATE users SET failed_signins = $2, last_failed_at = $3, locked_until = $4 WHERE id = $1";
    let parameters: [Parameter<'_>; 4] = [
        (&id, Type::INT8),
        (&failures.number, Type::INT4),
        (&failures.last, Type::TIMESTAMPTZ),
        (&failures.locked_until, Type::TIMESTAMPTZ),
    ];
    transaction.query_typed(sql, &parameters).await?;
    Ok(())
}

/// Stores a stronger hash of the same password.
pub(crate) async fn rehash(transaction: &Transaction<'_>, id: i64, hash: &str) -> Result<(), Failure> {
    transaction
        .query_typed("UPDATE users SET password_hash = $2 WHERE id = $1", &[(&id, Type::INT8), (&hash, Type::TEXT)])
        .await?;
    Ok(())
}

/// Numbers for the dashboard.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Statistics {
    total: i64,
    active: i64,
    inactive: i64,
    by_role: std::collections::BTreeMap<String, i64>,
    /// The last 14 days, oldest first.
    created_per_day: Vec<DayCount>,
}

#[derive(Clone, Debug, Serialize)]
struct DayCount {
    day: String,
    count: i64,
}

/// Counts over all users.
pub(crate) async fn statistics(client: &Client) -> Result<Statistics, Failure> {
    let rows = client.query_typed("SELECT role, is_active, count(*) FROM users GROUP BY role, is_active", &[]).await?;
    let mut by_role: std::collections::BTreeMap<String, i64> =
        Role::ALL.into_iter().map(|role| (role.to_string(), 0)).collect();
    let (mut active, mut inactive) = (0, 0);
    for row in &rows {
        let count: i64 = row.get(2);
        *by_role.entry(row.get(0)).or_default() += count;
        if row.get(1) {
            active += count;
        } else {
            inactive += count;
        }
    }
    let sql = "SELECT to_char(d, 'YYYY-MM-DD'), count(u.id) \
         FROM generate_series(current_date - 13, current_date, interval '1 day') d \
         LEFT JOIN users u ON u.created_at >= d AND u.created_at < d + interval '1 day' GROUP BY d ORDER BY d";
    let rows = client.query_typed(sql, &[]).await?;
    let created_per_day = rows.iter().map(|row| DayCount { day: row.get(0), count: row.get(1) }).collect();
    Ok(Statistics { total: active + inactive, active, inactive, by_role, created_per_day })
}

fn one(rows: &[Row]) -> Result<User, Failure> {
    rows.first().map(user).ok_or_else(|| mainstay_kit::problem::Problem::not_found("the user is gone").into())
}

fn user(row: &Row) -> User {
    let role: &str = row.get(5);
    User {
        id: row.get(0),
        username: row.get(1),
        email: row.get(2),
        first_name: row.get(3),
        last_name: row.get(4),
        // The column's CHECK allows our three names only.
        role: role.parse().unwrap_or(Role::Viewer),
        is_active: row.get(6),
        created_at: User::instant(row.get(7)),
        updated_at: User::instant(row.get(8)),
        created_by: row.get(9),
        updated_by: row.get(10),
        version: row.get(11),
    }
}
