//! What the service is told by its environment. Values are checked once, here; secrets are never shown.

use std::time::Duration;

use anyhow::{Context as _, bail};
use mainstay_kit::start::number;

/// Checked settings.
pub(crate) struct Config {
    pub(crate) port: u16,
    pub(crate) management_port: Option<u16>,
    pub(crate) database_url: String,
    pub(crate) redis_url: Option<String>,
    pub(crate) redis_store_url: Option<String>,
    pub(crate) pool_size: usize,
    /// Signing key of access tokens; without it one is kept in the database.
    pub(crate) jwt_key: Option<String>,
    pub(crate) admin_password: Option<String>,
    /// API key of the user that drills count for; without it there is none.
    pub(crate) drill_key: Option<String>,
    pub(crate) limits: Limits,
    /// Between two roll-ups of usage.
    pub(crate) rollup_every: Duration,
    /// Between two removals of old answers and expired sessions.
    pub(crate) purge_every: Duration,
}

/// How often somebody may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of one address.
    pub(crate) registrations_per_minute: u64,
    /// Of one user.
    pub(crate) calls_per_minute: u64,
}

impl Config {
    /// **Errors**: a missing or unusable variable, by name.
    pub(crate) fn from_env(get: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let jwt_key = get("JWT_KEY");
        if let Some(key) = &jwt_key
            && key.len() < mainstay_kit::auth::KEY_MIN
        {
            bail!("JWT_KEY has {} bytes, at least {} are needed", key.len(), mainstay_kit::auth::KEY_MIN);
        }
        let pool_size = number(&get, "DATABASE_POOL", 10)?;
        if !(1..=100).contains(&pool_size) {
            bail!("DATABASE_POOL is {pool_size}, must be 1 to 100");
        }
        let every = |name: &str, default: u64| {
            let seconds = number(&get, name, default)?;
            if !(1..=3_600).contains(&seconds) {
                bail!("{name} is {seconds}, must be 1 to 3600");
            }
            Ok(Duration::from_secs(seconds))
        };
        Ok(Self {
            port: number(&get, "PORT", 8080)?,
            management_port: get("MANAGEMENT_PORT")
                .is_some()
                .then(|| number(&get, "MANAGEMENT_PORT", 0))
                .transpose()?,
            database_url: get("DATABASE_URL").context("DATABASE_URL is not set")?,
            redis_url: get("REDIS_URL"),
            redis_store_url: get("REDIS_STORE_URL"),
            pool_size,
            jwt_key,
            admin_password: get("ADMIN_PASSWORD"),
            drill_key: get("DRILL_KEY"),
            limits: Limits {
                registrations_per_minute: number(&get, "REGISTRATIONS_PER_MINUTE", 5)?,
                calls_per_minute: number(&get, "CALLS_PER_MINUTE", 60_000)?,
            },
            rollup_every: every("USAGE_ROLLUP_SECONDS", 10)?,
            purge_every: every("PURGE_SECONDS", 600)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> anyhow::Result<Config> {
        Config::from_env(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn needs_only_a_database() {
        let config = config(&[("DATABASE_URL", "postgres://localhost/integers")]).unwrap();
        assert_eq!((config.port, config.management_port, config.pool_size), (8080, None, 10));
        assert_eq!(config.limits, Limits { registrations_per_minute: 5, calls_per_minute: 60_000 });
    }

    #[test]
    fn names_the_variable_that_is_wrong() {
        let url = ("DATABASE_URL", "postgres://localhost/integers");
        for (name, value) in [
            ("PORT", "eighty"),
            ("MANAGEMENT_PORT", "x"),
            ("JWT_KEY", "short"),
            ("DATABASE_POOL", "0"),
            ("CALLS_PER_MINUTE", "-1"),
            ("USAGE_ROLLUP_SECONDS", "0"),
        ] {
            let error = config(&[url, (name, value)]).err().expect(name);
            assert!(format!("{error:#}").contains(name), "{error:#}");
        }
        assert!(config(&[]).is_err());
    }
}
