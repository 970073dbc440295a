//! What every request shares.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::FromRef;
use mainstay_kit::actuator::exchanges::Exchanges;
use mainstay_kit::actuator::sbom;
use mainstay_kit::actuator::startup::Startup;
use mainstay_kit::actuator::tasks::Tasks;
use mainstay_kit::actuator::{ManagedCache, Management};
use mainstay_kit::auth::{Authenticator, Passwords, Sessions, Tokens};
use mainstay_kit::cache::Cache;
use mainstay_kit::drain::Drain;
use mainstay_kit::health::{Actuator, Component, Probe, standard_info};
use mainstay_kit::loggers;
use mainstay_kit::metrics::{Kind, Metrics};
use mainstay_kit::openapi::Route;
use mainstay_kit::pool::{Database, PoolOptions};
use mainstay_kit::telemetry::{self, Level, log};
use serde_json::json;

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
    pub(crate) exchanges: Exchanges,
    pub(crate) tasks: Tasks,
    pub(crate) startup: Startup,
}

impl FromRef<AppState> for Authenticator {
    fn from_ref(state: &AppState) -> Self {
        state.auth.clone()
    }
}

impl AppState {
    /// Connects, agrees with the other instances on the signing key, and makes the first administrator.
    pub(crate) async fn build(config: &Config, drain: Drain) -> anyhow::Result<Self> {
        let startup = Startup::new();
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
        let step = startup.step("users.passwords.prepare");
        let passwords = Passwords::new();
        drop(step);
        let step = startup.step("users.database.wait");
        wait_for(&database).await?;
        drop(step);
        let step = startup.step("users.seed");
        let key = seed::signing_key(&database, config.jwt_key.as_deref()).await?;
        seed::first_admin(&database, &passwords, config.admin_password.clone()).await?;
        drop(step);
        let auth = Authenticator {
            tokens: Tokens::new("users", &key)?,
            sessions: Sessions::new(
                database.clone(),
                store.clone(),
                "SELECT username, role, is_active FROM users WHERE id = $1",
            ),
        };
        let (exchanges, tasks) = (Exchanges::new(), Tasks::new());
        Ok(Self { database, cache, store, metrics, passwords, auth, drain, exchanges, tasks, startup })
    }

    /// Everything that operators may see and do.
    pub(crate) fn management(&self, routes: &[Route], config: &Config) -> Management {
        Management {
            base: self.actuator(),
            auth: self.auth.clone(),
            database: self.database.clone(),
            store: self.store.clone(),
            settings: config.settings.clone(),
            routes: routes.to_vec(),
            exchanges: self.exchanges.clone(),
            caches: vec![
                ManagedCache { name: "users", cache: self.cache.clone(), prefix: "user:" },
                ManagedCache { name: "sessions", cache: self.store.clone(), prefix: "session:" },
            ],
            tasks: self.tasks.clone(),
            startup: self.startup.clone(),
            sbom: sbom::cyclonedx(include_str!("../../../Cargo.lock"), "users").map(Arc::new),
        }
    }

    fn actuator(&self) -> Actuator {
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
            info: info(),
            before_scrape: Arc::new(move |metrics| database.report(metrics, "main")),
        }
    }

    /// What is done again and again; a failure waits for the next time.
    pub(crate) fn spawn_housekeeping(&self) {
        let sessions = self.auth.sessions.clone();
        self.tasks.spawn("users.purge-expired-sessions", PURGE_EVERY, move || {
            let sessions = sessions.clone();
            async move {
                let rows = sessions.purge().await.map_err(|error| error.to_string())?;
                if rows > 0 {
                    log(Level::Info, "SessionsPurged", &[("rows", &rows.to_string())]);
                }
                Ok(())
            }
        });
        let store = self.store.clone();
        self.tasks.spawn("users.adopt-log-levels", loggers::SHARED_EVERY, move || {
            let store = store.clone();
            async move {
                loggers::global().adopt(&store).await;
                Ok(())
            }
        });
    }
}

/// The usual, and the commit where the build saw one.
fn info() -> serde_json::Value {
    let mut info = standard_info("users", env!("CARGO_PKG_VERSION"));
    let facts = (option_env!("USERS_GIT_BRANCH"), option_env!("USERS_GIT_COMMIT"), option_env!("USERS_GIT_TIME"));
    if let (Some(branch), Some(id), Some(time)) = facts {
        info["git"] = json!({ "branch": branch, "commit": { "id": id, "time": time } });
    }
    info
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
        ("users_signups_total", "Users created, one by one or imported"),
        ("users_lockouts_total", "Accounts that began to wait after wrong passwords"),
        ("users_transactions_total", "Committed changes"),
        ("cache_errors_total", "Failed cache operations"),
    ] {
        metrics.describe(name, Kind::Counter, help);
    }
}
