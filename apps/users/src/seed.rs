//! What must exist before the first request: a signing key that all instances share, and one
//! administrator. Several instances may start at once; the database decides who was first.

use anyhow::{Context as _, bail};
use mainstay_kit::audit;
use mainstay_kit::auth::{KEY_MIN, Passwords};
use mainstay_kit::pool::Database;
use mainstay_kit::random;
use mainstay_kit::telemetry::{Level, log};
use mainstay_kit::tokio_postgres::types::Type;
use mainstay_kit::validation::PASSWORD_LEAST;

const KEY_SETTING: &str = "jwt_key";
/// `pg_advisory_xact_lock` key: "seed" in ASCII.
const LOCK: i64 = 0x7365_6564;

/// The secret `JWT_KEY` if there is one. Otherwise a random key in the table `app_settings`, made
/// once: instances and restarts agree on it without a secret being handed round. Who can read the
/// database or a backup can then make tokens, which is why production should seal `JWT_KEY`.
pub(crate) async fn signing_key(database: &Database, secret: Option<&str>) -> anyhow::Result<Vec<u8>> {
    if let Some(secret) = secret {
        return Ok(secret.as_bytes().to_vec());
    }
    let candidate = random::bytes::<KEY_MIN>().to_vec();
    let candidate = &candidate;
    let key = database
        .transaction(|transaction| {
            Box::pin(async move {
                let insert = "INSERT INTO app_settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
                transaction.query_typed(insert, &[(&KEY_SETTING, Type::TEXT), (candidate, Type::BYTEA)]).await?;
                let select = "SELECT value FROM app_settings WHERE name = $1";
                let rows = transaction.query_typed(select, &[(&KEY_SETTING, Type::TEXT)]).await?;
                Ok(rows.first().map(|row| row.get::<_, Vec<u8>>(0)))
            })
        })
        .await
        .context("cannot read the signing key; have the migrations run?")?;
    key.context("the signing key vanished while it was being made")
}

/// Makes the user `admin` when there is no user at all.
///
/// **Errors**: the table is empty and no password is given; there is no default one.
pub(crate) async fn first_admin(
    database: &Database,
    passwords: &Passwords,
    password: Option<String>,
) -> anyhow::Result<()> {
    let is_empty = database
        .read(|client| {
            Box::pin(async move {
                let rows = client.query_typed("SELECT 1 FROM users LIMIT 1", &[]).await?;
                Ok(rows.is_empty())
            })
        })
        .await
        .context("cannot read the users; have the migrations run?")?;
    if !is_empty {
        return Ok(());
    }
    let Some(password) = password else {
        bail!("there is no user yet: set the secret ADMIN_PASSWORD (or DEMO_PASSWORD) to make the first administrator");
    };
    if password.chars().count() < PASSWORD_LEAST {
        bail!("the first administrator's password has fewer than {PASSWORD_LEAST} characters");
    }
    let hash = passwords
        .hash(password)
        .await
        .map_err(|_| anyhow::anyhow!("cannot hash the first administrator's password"))?;
    let hash = &hash;
    let was_made = database
        .transaction(|transaction| {
            Box::pin(async move {
                transaction.query_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
                let insert = "INSERT INTO users (username, email, first_name, last_name, role, password_hash) \
                     SELECT 'admin', 'admin@users.localhost.test', 'First', 'Administrator', 'admin', $1 \
                     WHERE NOT EXISTS (SELECT 1 FROM users) RETURNING id";
                let rows = transaction.query_typed(insert, &[(hash, Type::TEXT)]).await?;
                let Some(row) = rows.first() else { return Ok(false) };
                let id: i64 = row.get(0);
                let entry = audit::Entry {
                    actor: "system",
                    action: "user.created",
                    subject: &format!("user:{id}"),
                    details: r#"{"username":"admin","role":"admin"}"#.to_owned(),
                };
                audit::append(&transaction, &entry).await?;
                Ok(true)
            })
        })
        .await
        .context("cannot make the first administrator")?;
    if was_made {
        log(Level::Info, "FirstAdminCreated", &[("username", "admin")]);
    }
    Ok(())
}
