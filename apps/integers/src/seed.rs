//! The first administrator, and the user that drills count for. Several instances may start at once; the database
//! decides who was first.

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

/// Who drills count for. Nobody can register under this name: `:` is not in the names of people.
const DRILL: &str = "drill:counter";

/// Makes the user that drills count for, or gives him this key when it is another one now.
///
/// **Errors**: the key is none of ours, or the database cannot be asked.
pub(crate) async fn drill_user(
    database: &Database,
    passwords: &Passwords,
    api_keys: &ApiKeys,
    key: &str,
) -> anyhow::Result<()> {
    let api_key = api_keys.given(key).context("DRILL_KEY is not int_ and at least 20 characters")?;
    // He signs in with nothing: his password is thrown away.
    let password = api_keys.make().text;
    let hash = passwords.hash(password).await.map_err(|_| anyhow::anyhow!("cannot hash a password"))?;
    let new = NewUser { username: DRILL, role: "user", password_hash: &hash, api_key: &api_key };
    let new = &new;
    database
        .transaction(|transaction| {
            Box::pin(async move {
                transaction.query_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
                let sql = "SELECT id, api_key_hash FROM users WHERE username = $1";
                let rows = transaction.query_typed(sql, &[(&new.username, Type::TEXT)]).await?;
                let (action, id) = match rows.first() {
                    Some(row) if row.get::<_, Vec<u8>>(1) == new.api_key.hash => return Ok(()),
                    Some(row) => {
                        let id: i64 = row.get(0);
                        store::replace_api_key(&transaction, id, new.api_key).await?;
                        ("api-key.rotated", id)
                    }
                    None => ("user.created", store::insert_user(&transaction, new).await?.id),
                };
                let entry = audit::Entry {
                    actor: "system",
                    action,
                    subject: &format!("user:{id}"),
                    details: r#"{"username":"drill:counter"}"#.to_owned(),
                };
                audit::append(&transaction, &entry).await?;
                Ok(())
            })
        })
        .await
        .context("cannot make the user that drills count for")
}
