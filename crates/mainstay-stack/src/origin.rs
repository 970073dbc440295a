//! Where every effective value comes from, for `mainstay config --computed`.

use std::collections::BTreeMap;
use std::fmt;

use mainstay_types::EnvironmentName;
use serde::{Deserialize, Serialize};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Origin {
    /// The stack file says it.
    File {
        /// Line of the key, from 1.
        line: usize,
    },
    /// An environment of the stack file says it.
    Environment {
        /// Which.
        name: EnvironmentName,
        /// Line of the key, from 1.
        line: usize,
    },
    /// It follows from something else that the file says.
    Derived {
        /// From what.
        from: String,
    },
    /// Nobody says it.
    Default,
    /// Whoever called: the environment itself.
    Caller,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { line } => write!(f, "line {line}"),
            Self::Environment { name, line } => write!(f, "line {line} (environment {name})"),
            Self::Derived { from } => write!(f, "follows from {from}"),
            Self::Default => f.write_str("default"),
            Self::Caller => f.write_str("command line"),
        }
    }
}

/// Origins by path in the stack file's own words (`service.backend.health.interval`). What is absent is a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where the value at this path comes from.
    pub fn of(&self, path: &str) -> Origin {
        self.0.get(path).cloned().unwrap_or(Origin::Default)
    }

    /// Notes where a value comes from.
    pub(crate) fn set(&mut self, path: impl Into<String>, origin: Origin) {
        self.0.insert(path.into(), origin);
    }
}
