//! Cache-aside on Redis: a cache may be slow, empty or dead, and the service still answers.
//!
//! Every failure of Redis is a miss. Entries carry the row's version, and an older version never
//! overwrites a newer one, so a slow reader cannot put back what a writer has just replaced.

use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::metrics::{Kind, Metrics};
use crate::telemetry::{Level, log};

/// A GET takes half a millisecond; ten times the time of a database query is no cache any more.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(250);
const CONNECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// Entries written at one moment must not expire at one moment: up to this share is taken off.
const JITTER: f64 = 0.1;

/// Keys that one SCAN looks at: a millisecond of Redis at most.
const SCAN_STEP: u32 = 1_000;

/// `KEYS[1]` key, `ARGV` version, entry, milliseconds.
const PUT_IF_NEWER: &str = "local held = redis.call('GET', KEYS[1]) \
     if held and tonumber(string.match(held, '^%d+')) > tonumber(ARGV[1]) then return 0 end \
     redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) return 1";

/// What the cache knows about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup<T> {
    /// The value.
    Hit(T),
    /// It is known not to exist (deleted a moment ago).
    Gone,
    /// Nothing is known.
    Miss,
}

/// A client of one Redis. Cloning shares its connection.
#[derive(Clone)]
pub struct Cache {
    connection: Option<ConnectionManager>,
    metrics: Metrics,
    name: &'static str,
}

impl Cache {
    /// Prepares the client; connects when first asked and again after every loss. Without a URL
    /// every lookup is a miss. Call it inside the runtime.
    ///
    /// **Errors**: the URL is unusable.
    pub fn new(name: &'static str, url: Option<&str>, metrics: Metrics) -> Result<Self, redis::RedisError> {
        metrics.describe("cache_gets_total", Kind::Counter, "Cache lookups by result");
        let connection = match url {
            None => None,
            Some(url) => {
                let config = ConnectionManagerConfig::new()
                    .set_response_timeout(Some(RESPONSE_TIMEOUT))
                    .set_connection_timeout(Some(CONNECTION_TIMEOUT))
                    .set_number_of_retries(1);
                Some(ConnectionManager::new_lazy_with_config(redis::Client::open(url)?, config)?)
            }
        };
        Ok(Self { connection, metrics, name })
    }

    /// Looks a key up and counts the result.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Lookup<T> {
        let lookup = match self.raw_get(key).await {
            Some(entry) => match entry.split_once(':').map(|(_, body)| body) {
                Some("") => Lookup::Gone,
                Some(body) => serde_json::from_str(body).map_or(Lookup::Miss, Lookup::Hit),
                None => Lookup::Miss,
            },
            None => Lookup::Miss,
        };
        let result = if matches!(lookup, Lookup::Miss) { "miss" } else { "hit" };
        self.metrics.add("cache_gets_total", &[("cache", self.name), ("result", result)], 1.0);
        log(Level::Debug, "CacheLookedUp", &[("cache", self.name), ("entry", key), ("result", result)]);
        lookup
    }

    /// Stores a version of a value unless a newer one is there.
    pub async fn put<T: Serialize + Sync>(&self, key: &str, version: i64, value: &T, ttl: Duration) {
        if let Ok(body) = serde_json::to_string(value) {
            self.put_entry(key, version, &format!("{version}:{body}"), ttl).await;
        }
    }

    /// Remembers that a value does not exist any more.
    pub async fn put_gone(&self, key: &str, version: i64, ttl: Duration) {
        self.put_entry(key, version, &format!("{version}:"), ttl).await;
    }

    /// Forgets a key.
    pub async fn forget(&self, key: &str) {
        self.run::<i64>("invalidate", redis::cmd("DEL").arg(key)).await;
    }

    /// Counts an event in a window of fixed length that begins with its first event.
    /// `None` when Redis cannot be asked: limits then do not apply.
    pub async fn count(&self, key: &str, window: Duration) -> Option<u64> {
        self.count_in_window(key, window).await.map(|(number, _)| number)
    }

    /// Counts as [`Cache::count`] does, and says how long the window still lasts.
    pub async fn count_in_window(&self, key: &str, window: Duration) -> Option<(u64, Duration)> {
        // A key without an end (PTTL -1) would count for ever; it gets one, whoever made it.
        let script = "local n = redis.call('INCR', KEYS[1]) local t = redis.call('PTTL', KEYS[1]) \
             if t < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) t = tonumber(ARGV[1]) end return {n, t}";
        let millis = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let command = redis::cmd("EVAL").arg(script).arg(1).arg(key).arg(millis).to_owned();
        let (number, left) = self.run::<(u64, u64)>("count", &command).await?;
        Some((number, Duration::from_millis(left)))
    }

    /// Its name in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Forgets every key that begins with `prefix`, in bounded steps; says how many it were.
    /// `None` when Redis cannot be asked.
    pub async fn forget_all(&self, prefix: &str) -> Option<u64> {
        let pattern = format!("{prefix}*");
        let (mut cursor, mut forgotten) = (0_u64, 0_u64);
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_STEP);
            let (next, keys) = self.run::<(u64, Vec<String>)>("scan", &scan).await?;
            if !keys.is_empty() {
                forgotten += self.run::<u64>("invalidate", redis::cmd("UNLINK").arg(keys)).await?;
            }
            if next == 0 {
                return Some(forgotten);
            }
            cursor = next;
        }
    }

    /// Asks for a sign of life.
    ///
    /// **Errors**: a short reason.
    pub async fn ping(&self) -> Result<(), String> {
        let Some(mut connection) = self.connection.clone() else {
            return Err("not configured".to_owned());
        };
        redis::cmd("PING")
            .query_async::<String>(&mut connection)
            .await
            .map(|_| ())
            .map_err(|error| error.kind().to_string_short())
    }

    /// Whether there is a Redis to speak to.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.connection.is_some()
    }

    pub(crate) async fn raw_get(&self, key: &str) -> Option<String> {
        self.run::<Option<String>>("get", redis::cmd("GET").arg(key)).await.flatten()
    }

    async fn put_entry(&self, key: &str, version: i64, entry: &str, ttl: Duration) {
        let ttl = ttl.mul_f64(1.0 - JITTER * crate::random::fraction());
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut command = redis::cmd("EVAL");
        command.arg(PUT_IF_NEWER).arg(1).arg(key).arg(version).arg(entry).arg(millis);
        self.run::<i64>("put", &command).await;
    }

    async fn run<T: redis::FromRedisValue>(&self, action: &str, command: &redis::Cmd) -> Option<T> {
        let mut connection = self.connection.clone()?;
        match command.query_async(&mut connection).await {
            Ok(value) => Some(value),
            Err(error) => {
                self.metrics.add("cache_errors_total", &[("cache", self.name)], 1.0);
                log(
                    Level::Warn,
                    "CacheFailed",
                    &[("cache", self.name), ("action", action), ("cause", &error.kind().to_string_short())],
                );
                None
            }
        }
    }
}

trait ShortKind {
    fn to_string_short(&self) -> String;
}

impl ShortKind for redis::ErrorKind {
    /// The kind only: messages may quote keys and addresses.
    fn to_string_short(&self) -> String {
        format!("{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn is_a_miss_without_redis() {
        let metrics = Metrics::new();
        let cache = Cache::new("users", None, metrics.clone()).unwrap();
        assert_eq!(cache.get::<String>("user:1").await, Lookup::Miss);
        assert!(metrics.text().contains("cache_gets_total{cache=\"users\",result=\"miss\"} 1"));
    }

    #[tokio::test]
    async fn is_a_miss_when_redis_does_not_answer() {
        // Port 1 refuses connections.
        let cache = Cache::new("users", Some("redis://127.0.0.1:1"), Metrics::new()).unwrap();
        assert_eq!(cache.get::<String>("user:1").await, Lookup::Miss);
        assert_eq!(cache.count("rate:1:login", Duration::from_secs(60)).await, None);
        assert!(cache.ping().await.is_err());
    }
}
