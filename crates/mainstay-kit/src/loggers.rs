//! Which events are written: a level for each logger, changed while the process runs.
//!
//! A logger is the place in the source that logs, as `crate.module.module`; levels are inherited
//! along the dots, and `ROOT` is above all. Levels may be shared between the instances of a service
//! through Redis, so that whoever changes one changes all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::{LazyLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::telemetry::{Level, log};

/// The logger above all others.
pub const ROOT: &str = "ROOT";
/// Loggers remembered for the list; the program has fewer places that log.
const KNOWN_MAX: usize = 500;
/// Longest name that can be configured, and how many.
const NAME_MAX: usize = 200;
const CONFIGURED_MAX: usize = 100;
const SHARED_KEY: &str = "loggers";
/// How long instances that start later still take over what was set.
const SHARED_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Between two looks at what other instances were told.
pub const SHARED_EVERY: Duration = Duration::from_secs(2);

/// The least important events that are still written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Threshold {
    /// Nothing.
    Off,
    /// A person must act.
    Error,
    /// Surprising.
    Warn,
    /// State changes and requests.
    Info,
    /// Decisions.
    Debug,
    /// Everything.
    Trace,
}

impl Threshold {
    /// All of them, quietest first; Spring's order.
    pub const ALL: [Self; 6] = [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "OFF",
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
            Self::Trace => "TRACE",
        }
    }

    fn lets(self, level: Level) -> bool {
        let needed = match level {
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
        };
        self >= needed
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("level is not one of OFF, ERROR, WARN, INFO, DEBUG, TRACE")]
pub struct UnknownLevel;

impl FromStr for Threshold {
    type Err = UnknownLevel;

    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        Self::ALL.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(text)).ok_or(UnknownLevel)
    }
}

/// What is configured and what has logged.
#[derive(Debug, Default)]
pub struct Loggers {
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    configured: BTreeMap<String, Threshold>,
    known: BTreeSet<String>,
    version: i64,
}

#[derive(Serialize, Deserialize)]
struct Shared {
    version: i64,
    levels: BTreeMap<String, Threshold>,
}

/// Why a level was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not `a.b.c` or `ROOT`.
    #[error("a logger's name is letters, digits, `_` and dots, at most {NAME_MAX}")]
    Name,
    /// Too many.
    #[error("at most {CONFIGURED_MAX} loggers have a level of their own")]
    TooMany,
}

static GLOBAL: LazyLock<Loggers> = LazyLock::new(Loggers::default);

/// Those of this process.
#[must_use]
pub fn global() -> &'static Loggers {
    &GLOBAL
}

impl Loggers {
    /// Whether an event of this logger is written. Remembers the logger.
    pub fn is_enabled(&self, logger: &str, level: Level) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let is_enabled = effective(&state.configured, logger).lets(level);
        let is_new = !state.known.contains(logger) && state.known.len() < KNOWN_MAX;
        drop(state);
        if is_new {
            self.state.write().unwrap_or_else(PoisonError::into_inner).known.insert(logger.to_owned());
        }
        is_enabled
    }

    /// Its own level, if it has one, and the one that counts.
    #[must_use]
    pub fn level(&self, logger: &str) -> (Option<Threshold>, Threshold) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let configured = state.configured.get(logger).copied();
        let configured = configured.or_else(|| (logger == ROOT).then_some(Threshold::Info));
        (configured, effective(&state.configured, logger))
    }

    /// All that have logged, are configured, or stand above one of these.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut names = BTreeSet::from([ROOT.to_owned()]);
        for name in state.known.iter().chain(state.configured.keys()) {
            let mut part = name.as_str();
            names.insert(part.to_owned());
            while let Some((above, _)) = part.rsplit_once('.') {
                names.insert(above.to_owned());
                part = above;
            }
        }
        names
    }

    /// Sets a level; `None` makes the logger follow what is above it.
    ///
    /// **Errors**: [`Refused`].
    pub fn set(&self, logger: &str, level: Option<Threshold>) -> Result<(), Refused> {
        let is_part = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if logger.len() > NAME_MAX || !logger.split('.').all(is_part) {
            return Err(Refused::Name);
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match level {
            None => {
                state.configured.remove(logger);
            }
            Some(_) if state.configured.len() >= CONFIGURED_MAX && !state.configured.contains_key(logger) => {
                return Err(Refused::TooMany);
            }
            Some(level) => {
                state.configured.insert(logger.to_owned(), level);
            }
        }
        state.version = now_ms().max(state.version + 1);
        Ok(())
    }

    /// Tells the other instances what is configured here.
    pub async fn publish(&self, store: &Cache) {
        let shared = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            Shared { version: state.version, levels: state.configured.clone() }
        };
        store.put(SHARED_KEY, shared.version, &shared, SHARED_FOR).await;
    }

    /// Takes over what another instance was told later than this one.
    pub async fn adopt(&self, store: &Cache) {
        let Some(entry) = store.raw_get(SHARED_KEY).await else { return };
        let Some((_, body)) = entry.split_once(':') else { return };
        let Ok(shared) = serde_json::from_str::<Shared>(body) else { return };
        let is_newer = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let is_newer = shared.version > state.version;
            if is_newer {
                state.version = shared.version;
                state.configured = shared.levels;
            }
            is_newer
        };
        if is_newer {
            log(Level::Info, "LogLevelsAdopted", &[]);
        }
    }
}

fn effective(configured: &BTreeMap<String, Threshold>, logger: &str) -> Threshold {
    let mut part = logger;
    loop {
        if let Some(level) = configured.get(part) {
            return *level;
        }
        match part.rsplit_once('.') {
            Some((above, _)) => part = above,
            None => return configured.get(ROOT).copied().unwrap_or(Threshold::Info),
        }
    }
}

/// `apps/users/src/routes/auth.rs` is the logger `users.routes.auth`.
#[must_use]
pub fn name_of(file: &str) -> String {
    let file = file.replace('\\', "/");
    let (before, inside) = file.rsplit_once("src/").unwrap_or(("", &file));
    let package = before.trim_end_matches('/').rsplit('/').next().unwrap_or_default().replace('-', "_");
    let inside = inside.trim_end_matches(".rs");
    let inside = inside.strip_suffix("/mod").unwrap_or(inside);
    let modules = match inside {
        "main" | "lib" | "mod" => String::new(),
        other => other.replace('/', "."),
    };
    match (package.is_empty(), modules.is_empty()) {
        (false, false) => format!("{package}.{modules}"),
        (false, true) => package,
        (true, _) => modules,
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_logger_after_its_place() {
        for (file, name) in [
            ("apps/users/src/routes/auth.rs", "users.routes.auth"),
            ("/home/x/crates/mainstay-kit/src/auth/mod.rs", "mainstay_kit.auth"),
            ("apps/users/src/main.rs", "users"),
            ("src/main.rs", ""),
        ] {
            assert_eq!(name_of(file), name, "{file}");
        }
    }

    #[test]
    fn levels_are_inherited_along_the_dots() {
        let loggers = Loggers::default();
        assert!(loggers.is_enabled("users.routes.auth", Level::Info));
        assert!(!loggers.is_enabled("users.routes.auth", Level::Debug));
        loggers.set("users", Some(Threshold::Warn)).unwrap();
        loggers.set("users.routes", Some(Threshold::Debug)).unwrap();
        assert!(loggers.is_enabled("users.routes.auth", Level::Debug));
        assert!(!loggers.is_enabled("users.state", Level::Info));
        assert!(loggers.is_enabled("users_other", Level::Info), "a prefix of letters is not above");
        loggers.set("users", None).unwrap();
        assert!(loggers.is_enabled("users.state", Level::Info));
        loggers.set(ROOT, Some(Threshold::Off)).unwrap();
        assert!(!loggers.is_enabled("users.state", Level::Error));
        assert_eq!(loggers.level("users.routes"), (Some(Threshold::Debug), Threshold::Debug));
    }

    #[test]
    fn refuses_names_that_are_none_and_too_many() {
        let loggers = Loggers::default();
        for name in ["", "a..b", "a b", "../x", ".a", &"x".repeat(201)] {
            assert_eq!(loggers.set(name, Some(Threshold::Info)), Err(Refused::Name), "{name}");
        }
        for index in 0..CONFIGURED_MAX {
            loggers.set(&format!("l{index}"), Some(Threshold::Info)).unwrap();
        }
        assert_eq!(loggers.set("one.more", Some(Threshold::Info)), Err(Refused::TooMany));
        assert!(loggers.set("l0", Some(Threshold::Debug)).is_ok());
    }
}
