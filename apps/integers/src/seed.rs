//! The first administrator. Several instances may start at once; the database decides who was first.

use anyhow::{Context as _, bail};
use mainstay_kit::audit;
use mainstay_kit::auth::{ApiKeys, Passwords};
use mainstay_kit::pool::Database;
use mainstay_kit::telemetry::{Level, log};
use mainstay_kit::tokio_postgres::types::Type;

use crate::model::PASSWORD_MIN;
use crate::store::{self, NewUser};

/// `pg_advisory_xact_lock` key: "seed" in ASCII.
const LOCK: i64 = 0x7365_6564;

/// Makes the user `admin` when there is no user at all. Its API key is thrown away: a person signs in
/// and rotates it to get one.
///
/// **Errors**: the table is empty and no password is given; there is no default one.
pub(crate) async fn first_admin(
    database: &Database,
    passwords: &Passwords,
    api_keys: &ApiKeys,
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
        bail!("there is no user yet: set the secret ADMIN_PASSWORD to make the first administrator");
    };
    if password.chars().count() < PASSWORD_MIN {
        bail!("ADMIN_PASSWORD has fewer than {PASSWORD_MIN} characters");
    }
    let hash = passwords.hash(password).await.map_err(|_| anyhow::anyhow!("cannot hash ADMIN_PASSWORD"))?;
    let api_key = api_keys.make();
    let new = NewUser { username: "admin", role: "admin", password_hash: &hash, api_key: &api_key };
    let new = &new;
    let was_made = database
        .transaction(|transaction| {
            Box::pin(async move {
                transaction.query_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
                if !transaction.query_typed("SELECT 1 FROM users LIMIT 1", &[]).await?.is_empty() {
                    return Ok(false);
                }
                let user = store::insert_user(&transaction, new).await?;
                let entry = audit::Entry {
                    actor: "system",
                    action: "user.created",
                    subject: &format!("user:{}", user.id),
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
