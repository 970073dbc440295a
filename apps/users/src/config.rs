//! What the service is told by its environment. Values are checked once, here; secrets are never shown.

use std::time::Duration;

use anyhow::{Context as _, bail};
use mainstay_kit::actuator::Setting;

/// Connections, unless the environment says otherwise. **Source**: document 004, HikariCP maximum.
const POOL_DEFAULT: usize = 10;
/// **Unit**: milliseconds. Document 004 waits 30 s; a caller of ours is told after 5 s.
const ACQUIRE_TIMEOUT_MS: u64 = 5_000;
/// **Source**: document 004, 100 requests per minute per user.
const REQUESTS_PER_MINUTE: u64 = 100;

/// Checked settings.
pub(crate) struct Config {
    pub(crate) port: u16,
    pub(crate) management_port: Option<u16>,
    pub(crate) database_url: String,
    pub(crate) redis_url: Option<String>,
    pub(crate) redis_store_url: Option<String>,
    pub(crate) pool_size: usize,
    pub(crate) acquire_timeout: Duration,
    /// Of one user at one endpoint; 0 limits nothing.
    pub(crate) requests_per_minute: u64,
    /// Signing key of access tokens; without it one is kept in the database.
    pub(crate) jwt_key: Option<String>,
    /// Password of the first administrator: `ADMIN_PASSWORD`, else `DEMO_PASSWORD`.
    pub(crate) admin_password: Option<String>,
    /// All of it, for the actuator; without what must not be shown.
    pub(crate) settings: Vec<Setting>,
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
        let pool_size = number(&get, "DATABASE_POOL", POOL_DEFAULT)?;
        if !(1..=100).contains(&pool_size) {
            bail!("DATABASE_POOL is {pool_size}, must be 1 to 100");
        }
        Ok(Self {
            port: number(&get, "PORT", 8080)?,
            management_port: get("MANAGEMENT_PORT")
                .map(|text| text.parse().context("MANAGEMENT_PORT is not a port number"))
                .transpose()?,
            database_url: get("DATABASE_URL").context("DATABASE_URL is not set")?,
            redis_url: get("REDIS_URL"),
            redis_store_url: get("REDIS_STORE_URL"),
            pool_size,
            acquire_timeout: Duration::from_millis(number(&get, "DATABASE_ACQUIRE_TIMEOUT_MS", ACQUIRE_TIMEOUT_MS)?),
            requests_per_minute: number(&get, "REQUESTS_PER_MINUTE", REQUESTS_PER_MINUTE)?,
            jwt_key,
            settings: settings(&get),
            admin_password: get("ADMIN_PASSWORD").or_else(|| get("DEMO_PASSWORD")),
        })
    }
}

fn settings(get: &impl Fn(&str) -> Option<String>) -> Vec<Setting> {
    let shown = |name, variable, default: &str| {
        let given = get(variable);
        let is_given = given.is_some();
        Setting { name, variable, value: Some(given.unwrap_or_else(|| default.to_owned())), is_given }
    };
    let hidden = |name, variable| Setting { name, variable, value: None, is_given: get(variable).is_some() };
    vec![
        shown("port", "PORT", "8080"),
        shown("managementPort", "MANAGEMENT_PORT", "not served"),
        hidden("databaseUrl", "DATABASE_URL"),
        hidden("redisUrl", "REDIS_URL"),
        hidden("redisStoreUrl", "REDIS_STORE_URL"),
        shown("databasePool", "DATABASE_POOL", &POOL_DEFAULT.to_string()),
        shown("databaseAcquireTimeoutMs", "DATABASE_ACQUIRE_TIMEOUT_MS", &ACQUIRE_TIMEOUT_MS.to_string()),
        shown("requestsPerMinute", "REQUESTS_PER_MINUTE", &REQUESTS_PER_MINUTE.to_string()),
        hidden("jwtKey", "JWT_KEY"),
        hidden("adminPassword", "ADMIN_PASSWORD"),
        hidden("demoPassword", "DEMO_PASSWORD"),
    ]
}

fn number<T: std::str::FromStr>(get: &impl Fn(&str) -> Option<String>, name: &str, default: T) -> anyhow::Result<T> {
    match get(name) {
        None => Ok(default),
        Some(text) => match text.parse() {
            Ok(value) => Ok(value),
            Err(_) => bail!("{name} is {text:?}, which is not a number in range"),
        },
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
        let config = config(&[("DATABASE_URL", "postgres://localhost/users")]).unwrap();
        assert_eq!((config.port, config.management_port, config.pool_size), (8080, None, 10));
        assert!(config.jwt_key.is_none() && config.admin_password.is_none());
        assert_eq!(config.requests_per_minute, 100);
    }

    #[test]
    fn names_the_variable_that_is_wrong() {
        let url = ("DATABASE_URL", "postgres://localhost/users");
        for (name, value) in
            [("PORT", "eighty"), ("JWT_KEY", "short"), ("DATABASE_POOL", "0"), ("MANAGEMENT_PORT", "x")]
        {
            let error = config(&[url, (name, value)]).err().expect(name);
            assert!(format!("{error:#}").contains(name), "{error:#}");
        }
        assert!(config(&[]).is_err());
    }

    #[test]
    fn shows_no_secret_among_its_settings() {
        let secrets = ["DATABASE_URL", "REDIS_URL", "REDIS_STORE_URL", "JWT_KEY", "ADMIN_PASSWORD", "DEMO_PASSWORD"];
        let value = "0123456789abcdef0123456789abcdef";
        let pairs: Vec<(&str, &str)> = secrets.into_iter().map(|name| (name, value)).collect();
        let settings = config(&pairs).unwrap().settings;
        assert!(settings.iter().all(|setting| setting.value.as_deref() != Some(value)));
        assert_eq!(settings.iter().filter(|setting| setting.is_given).count(), secrets.len());
    }

    #[test]
    fn prefers_the_secret_to_the_demo_password() {
        let config = config(&[("DATABASE_URL", "x"), ("DEMO_PASSWORD", "demo"), ("ADMIN_PASSWORD", "sealed")]).unwrap();
        assert_eq!(config.admin_password.as_deref(), Some("sealed"));
    }
}
