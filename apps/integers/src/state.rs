//! What every request shares, and who is calling.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use mainstay_kit::auth::{ApiKeys, Authenticator, Passwords, Principal, Sessions, Tokens};
use mainstay_kit::cache::Cache;
use mainstay_kit::drain::Drain;
use mainstay_kit::health::{Actuator, Component, Probe, standard_info};
use mainstay_kit::metrics::{Kind, Metrics};
use mainstay_kit::pool::{Database, PoolOptions};
use mainstay_kit::problem::Problem;
use mainstay_kit::{start, telemetry};

use crate::config::{Config, Limits};
use crate::seed;

/// How long a starting service waits for its database before it gives up and is started again.
const DATABASE_WITHIN: Duration = Duration::from_secs(30);
/// A caller is told after this time that no connection is free.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Begins every API key of this service.
const API_KEY_PREFIX: &str = "int_";
// The kit knows viewers, editors and administrators; a user here changes what is his, as an editor does.
const USER_BY_ID: &str = "SELECT username, CASE role WHEN 'admin' THEN 'admin' ELSE 'editor' END, is_active \
     FROM users WHERE id = $1";
const USER_BY_API_KEY: &str = "SELECT id, username, CASE role WHEN 'admin' THEN 'admin' ELSE 'editor' END, is_active \
     FROM users WHERE api_key_hash = $1";

/// Shared parts; cloning is cheap.
#[derive(Clone)]
pub(crate) struct AppState {
    pub(crate) database: Database,
    pub(crate) cache: Cache,
    pub(crate) store: Cache,
    pub(crate) metrics: Metrics,
    pub(crate) passwords: Passwords,
    pub(crate) auth: Authenticator,
    pub(crate) api_keys: ApiKeys,
    pub(crate) limits: Limits,
    pub(crate) drain: Drain,
}

impl FromRef<AppState> for Authenticator {
    fn from_ref(state: &AppState) -> Self {
        state.auth.clone()
    }
}

/// Who uses the counter: signed in, or a program with an API key. Routes that ask for [`Principal`]
/// instead take no API key.
pub(crate) struct Caller(pub(crate) Principal);

impl FromRequestParts<AppState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let (principal, credential) = match state.api_keys.in_headers(&parts.headers) {
            Some(key) => (state.api_keys.principal(key).await?, "api_key"),
            None => (Principal::from_request_parts(parts, state).await?, "token"),
        };
        state.metrics.add("integers_calls_total", &[("credential", credential)], 1.0);
        let limit = state.limits.calls_per_minute;
        state.limit(&format!("rate:{}:api", principal.user_id), limit).await?;
        Ok(Self(principal))
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
            acquire_timeout: ACQUIRE_TIMEOUT,
            application_name: std::env::var("MAINSTAY_INSTANCE").unwrap_or_else(|_| "integers".to_owned()),
        })
        .context("DATABASE_URL is not usable")?;
        let cache =
            Cache::new("usage", config.redis_url.as_deref(), metrics.clone()).context("REDIS_URL is not usable")?;
        let store_url = config.redis_store_url.as_deref();
        let store = Cache::new("sessions", store_url, metrics.clone()).context("REDIS_STORE_URL is not usable")?;
        let passwords = Passwords::new();
        start::wait_for(&database, DATABASE_WITHIN).await.context("the database did not answer within 30 s")?;
        let key = start::signing_key(&database, config.jwt_key.as_deref())
            .await
            .context("cannot read the signing key; have the migrations run?")?;
        let api_keys = ApiKeys::new(database.clone(), store.clone(), API_KEY_PREFIX, USER_BY_API_KEY);
        seed::first_admin(&database, &passwords, &api_keys, config.admin_password.clone()).await?;
        if let Some(key) = &config.drill_key {
            seed::drill_user(&database, &passwords, &api_keys, key).await?;
        }
        let auth = Authenticator {
            tokens: Tokens::new("integers", &key)?,
            sessions: Sessions::new(database.clone(), store.clone(), USER_BY_ID),
        };
        Ok(Self { database, cache, store, metrics, passwords, auth, api_keys, limits: config.limits, drain })
    }

    /// **Errors**: 429 when `key` was used more often in this minute than `limit` allows. Without Redis
    /// nobody can count over all instances, and the limit does not apply.
    pub(crate) async fn limit(&self, key: &str, limit: u64) -> Result<(), Problem> {
        match self.store.count_in_window(key, Duration::from_secs(60)).await {
            Some((count, left)) if count > limit => {
                self.metrics.add("integers_limited_total", &[], 1.0);
                Err(Problem::too_many_requests(left.as_millis().div_ceil(1_000).try_into().unwrap_or(60).max(1)))
            }
            _ => Ok(()),
        }
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
            info: standard_info("integers", env!("CARGO_PKG_VERSION")),
            before_scrape: Arc::new(move |metrics| database.report(metrics, "main")),
        }
    }
}

fn describe(metrics: &Metrics) {
    for (name, help) in [
        ("integers_registrations_total", "Registrations by outcome"),
        ("integers_signins_total", "Sign-ins by outcome"),
        ("integers_increments_total", "Requests that were given integers"),
        ("integers_issued_total", "Integers given"),
        ("integers_idempotent_replays_total", "Answers repeated for a known Idempotency-Key"),
        ("integers_outcomes_unknown_total", "Increments cut off while they were committed, by what became of them"),
        ("integers_resets_total", "Counters set to a value by their owners"),
        ("integers_key_rotations_total", "API keys replaced"),
        ("integers_calls_total", "Authenticated calls by credential"),
        ("integers_limited_total", "Requests refused by a limit"),
        ("integers_job_runs_total", "Runs of background jobs by outcome"),
        ("cache_errors_total", "Failed cache operations"),
    ] {
        metrics.describe(name, Kind::Counter, help);
    }
    metrics.describe("integers_users", Kind::Gauge, "Users, as of the last usage roll-up");
    for name in ["integers_increments_total", "integers_issued_total", "integers_idempotent_replays_total"] {
        metrics.add(name, &[], 0.0);
    }
}
