//! What every request shares.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::FromRef;
use mainstay_kit::auth::{Authenticator, Passwords, Sessions, Tokens};
use mainstay_kit::cache::Cache;
use mainstay_kit::drain::Drain;
use mainstay_kit::health::{Actuator, Component, Probe, standard_info};
use mainstay_kit::metrics::{Kind, Metrics};
use mainstay_kit::pool::{Database, PoolOptions};
use mainstay_kit::telemetry::{self, Level, log};

use crate::config::Config;
use crate::seed;

/// Between two removals of expired sessions.
const PURGE_EVERY: Duration = Duration::from_secs(600);
/// How long a starting service waits for its database before it gives up and is started again.
const DATABASE_WITHIN: Duration = Duration::from_secs(30);

/// Shared parts; cloning is cheap.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) database: Database,
    pub(crate) cache: Cache,
    pub(crate) store: Cache,
    pub(crate) metrics: Metrics,
    pub(crate) passwords: Passwords,
    pub(crate) auth: Authenticator,
    pub(crate) drain: Drain,
}

impl FromRef<AppState> for Authenticator {
    fn from_ref(state: &AppState) -> Self {
        state.auth.clone()
    }
}

impl AppState {
    /// Connects, agrees with the other instances on the signing key, and makes the first administrator.
    pub(crate) async fn build(config: &Config, drain: Drain) -> anyhow::Result<Self> {
        let metrics = Metrics::new();
        telemetry::describe(&metrics);
        describe(&metrics);
        let database = Database::new(&PoolOptions {
            url: config.database_url.clone(),
            size: config.pool_size,
            acquire_timeout: config.acquire_timeout,
            application_name: std::env::var("MAINSTAY_INSTANCE").unwrap_or_else(|_| "users".to_owned()),
        })
        .context("DATABASE_URL is not usable")?;
        let cache =
            Cache::new("users", config.redis_url.as_deref(), metrics.clone()).context("REDIS_URL is not usable")?;
        let store_url = config.redis_store_url.as_deref();
        let store = Cache::new("sessions", store_url, metrics.clone()).context("REDIS_STORE_URL is not usable")?;
        let passwords = Passwords::new();
        wait_for(&database).await?;
        let key = seed::signing_key(&database, config.jwt_key.as_deref()).await?;
        seed::first_admin(&database, &passwords, config.admin_password.clone()).await?;
        let auth = Authenticator {
            tokens: Tokens::new("users", &key)?,
            sessions: Sessions::new(
                database.clone(),
                store.clone(),
                "SELECT username, role, is_active FROM users WHERE id = $1",
            ),
        };
        Ok(Self { database, cache, store, metrics, passwords, auth, drain })
    }

    /// Health and metrics for the management port.
    pub(crate) fn actuator(&self) -> Actuator {
        let database = self.database.clone();
        let db: Probe = Arc::new(move || {
            let database = database.clone();
            Box::pin(async move { database.ping().await.map_err(|error| error.to_string()) })
        });
        let mut components = vec![Component { name: "db", is_required: true, probe: db }];
        for (name, cache) in [("cache", &self.cache), ("store", &self.store)] {
            if cache.is_configured() {
                let cache = cache.clone();
                let probe: Probe = Arc::new(move || {
                    let cache = cache.clone();
                    Box::pin(async move { cache.ping().await })
                });
                components.push(Component { name, is_required: false, probe });
            }
        }
        let database = self.database.clone();
        Actuator {
            metrics: self.metrics.clone(),
            drain: self.drain.clone(),
            components,
            info: standard_info("users", env!("CARGO_PKG_VERSION")),
            before_scrape: Arc::new(move |metrics| database.report(metrics, "main")),
        }
    }

    /// Removes expired sessions now and then; a failure waits for the next time.
    pub(crate) fn spawn_housekeeping(&self) {
        let sessions = self.auth.sessions.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PURGE_EVERY).await;
                match sessions.purge().await {
                    Ok(0) => {}
                    Ok(rows) => log(Level::Info, "SessionsPurged", &[("rows", &rows.to_string())]),
                    Err(error) => log(Level::Warn, "SessionPurgeFailed", &[("cause", &error.to_string())]),
                }
            }
        });
    }
}

async fn wait_for(database: &Database) -> anyhow::Result<()> {
    let started = tokio::time::Instant::now();
    loop {
        match database.ping().await {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() >= DATABASE_WITHIN => {
                return Err(error).context("the database did not answer within 30 s");
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn describe(metrics: &Metrics) {
    for (name, help) in [
        ("users_created_total", "Users created"),
        ("users_updated_total", "Users changed, deactivated or reactivated"),
        ("users_deleted_total", "Users deleted"),
        ("users_signins_total", "Sign-ins by outcome"),
        ("users_transactions_total", "Committed changes"),
        ("cache_errors_total", "Failed cache operations"),
    ] {
        metrics.describe(name, Kind::Counter, help);
    }
}
