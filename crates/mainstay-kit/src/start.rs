//! What a service does between its start and its first request: read numbers from the environment,
//! wait for its database, agree with the other instances on a signing key.

use std::str::FromStr;
use std::time::Duration;

use tokio_postgres::types::Type;

use crate::auth::KEY_MIN;
use crate::pool::{Database, Failure};

const KEY_SETTING: &str = "jwt_key";

/// A variable that cannot be used, by its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {text:?}, which is not a number in range")]
pub struct NotANumber {
    name: String,
    text: String,
}

/// A number from a variable, or the default.
///
/// **Errors**: it is set to something else.
pub fn number<T: FromStr>(get: &impl Fn(&str) -> Option<String>, name: &str, default: T) -> Result<T, NotANumber> {
    match get(name).filter(|text| !text.is_empty()) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| NotANumber { name: name.to_owned(), text }),
    }
}

/// Returns once the database answers.
///
/// **Errors**: it did not within that time.
pub async fn wait_for(database: &Database, within: Duration) -> Result<(), Failure> {
    let started = tokio::time::Instant::now();
    loop {
        match database.ping().await {
            Ok(()) => return Ok(()),
            Err(failure) if started.elapsed() >= within => return Err(failure),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The given secret, or a random key in the table `app_settings (name text PRIMARY KEY, value bytea NOT NULL)`,
/// made once: instances and restarts agree on it without a secret being handed round. Who can read the database
/// or a backup can then make tokens, which is why production should seal a secret.
///
/// **Errors**: the table cannot be read.
pub async fn signing_key(database: &Database, secret: Option<&str>) -> Result<Vec<u8>, Failure> {
    if let Some(secret) = secret {
        return Ok(secret.as_bytes().to_vec());
    }
    let candidate = crate::random::bytes::<KEY_MIN>().to_vec();
    let candidate = &candidate;
    database
        .transaction(|transaction| {
            Box::pin(async move {
                let insert = "INSERT INTO app_settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
                transaction.query_typed(insert, &[(&KEY_SETTING, Type::TEXT), (candidate, Type::BYTEA)]).await?;
                let select = "SELECT value FROM app_settings WHERE name = $1";
                let row = transaction.query_typed_one(select, &[(&KEY_SETTING, Type::TEXT)]).await?;
                Ok(row.get::<_, Vec<u8>>(0))
            })
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_and_names_what_is_none() {
        let get = |name: &str| match name {
            "GOOD" => Some("17".to_owned()),
            "EMPTY" => Some(String::new()),
            "WRONG" => Some("300".to_owned()),
            _ => None,
        };
        assert_eq!(number(&get, "GOOD", 1_u8), Ok(17));
        assert_eq!(number(&get, "EMPTY", 1_u8), Ok(1));
        assert_eq!(number(&get, "ABSENT", 1_u8), Ok(1));
        assert!(number(&get, "WRONG", 1_u8).unwrap_err().to_string().starts_with("WRONG is \"300\""));
    }
}
