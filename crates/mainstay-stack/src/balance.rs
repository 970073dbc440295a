//! How requests are spread over the instances of a service, and what becomes of instances that fail.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limit::{LimitError, LimitKey};

/// How a route chooses among ready instances, and how often it asks again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balancing {
    /// Default: in turn.
    pub method: Method,
    /// Name of the cookie that leads a client to the instance it had before. Default: none.
    pub sticky: Option<String>,
    /// How often a request that got no answer is sent again, if it is idempotent. Default 2.
    pub retries: u32,
    /// Retries as a share of the route's requests. **Unit**: per cent. Default 20.
    pub retry_percent: u32,
}

impl Default for Balancing {
    fn default() -> Self {
        // A fifth more load at most when an upstream dies.
        Self { method: Method::RoundRobin, sticky: None, retries: 2, retry_percent: 20 }
    }
}

/// A way to choose an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Method {
    /// In turn.
    RoundRobin,
    /// Of two taken by chance, the one with fewer requests under way.
    LeastRequests,
    /// The same client to the same instance, for as long as it is ready.
    Hash {
        /// What makes two requests those of one client.
        by: LimitKey,
    },
}

impl FromStr for Method {
    type Err = LimitError;

    fn from_str(text: &str) -> Result<Self, LimitError> {
        match text.split_whitespace().next() {
            Some("round-robin") if text == "round-robin" => Ok(Self::RoundRobin),
            Some("least-requests") if text == "least-requests" => Ok(Self::LeastRequests),
            Some("hash") if text == "hash" => Ok(Self::Hash { by: LimitKey::Ip }),
            Some("hash") => Ok(Self::Hash { by: text.strip_prefix("hash").unwrap_or_default().parse()? }),
            _ => Err(LimitError::Form),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoundRobin => f.write_str("round-robin"),
            Self::LeastRequests => f.write_str("least-requests"),
            Self::Hash { by } => write!(f, "hash {by}"),
        }
    }
}

/// What the edge does about instances that are new or fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resilience {
    /// Time in which a new instance gets up to its whole share. Default: at once.
    pub slow_start: Duration,
    /// When an instance is left out for what it answers. Default: as [`Eject::default`].
    pub eject: Option<Eject>,
    /// When a service is left alone. Default: never.
    pub breaker: Option<Breaker>,
}

impl Default for Resilience {
    fn default() -> Self {
        Self { slow_start: Duration::ZERO, eject: Some(Eject::default()), breaker: None }
    }
}

/// When an instance is left out for its answers, though it takes connections and says that it is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eject {
    /// Answers missing in a row. Default 5: a single one is an ordinary bug in a handler.
    pub failures: u32,
    /// Share of its answers of ten seconds that are 5xx or missing, while others do well. **Unit**: per cent.
    /// Default 50.
    pub errors_percent: u32,
    /// Requests of ten seconds below which that share says nothing. Default 20.
    pub requests: u32,
    /// Share of the instances that may be out at once. **Unit**: per cent. Default 50.
    pub most_percent: u32,
    /// How long it stays out for its share of errors, times the number of times in a row. Default 5 s.
    pub least: Duration,
}

impl Default for Eject {
    fn default() -> Self {
        Self { failures: 5, errors_percent: 50, requests: 20, most_percent: 50, least: Duration::from_secs(5) }
    }
}

/// When a service gets no requests for a while, because nearly all of them fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Share of all answers of ten seconds that are 5xx or missing. **Unit**: per cent. Default 50.
    pub errors_percent: u32,
    /// Requests of ten seconds below which that share says nothing. Default 20.
    pub requests: u32,
    /// How long nothing is sent; then one request tries. Default 5 s.
    pub open: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { errors_percent: 50, requests: 20, open: Duration::from_secs(5) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_reads_as_it_is_shown() {
        for text in ["round-robin", "least-requests", "hash ip", "hash user", "hash header x-user", "hash cookie sid"] {
            assert_eq!(text.parse::<Method>().map(|method| method.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("hash".parse(), Ok(Method::Hash { by: LimitKey::Ip }));
        for wrong in ["", "random", "haship", "round-robin ip", "hash user x", "hash header"] {
            assert!(wrong.parse::<Method>().is_err(), "{wrong}");
        }
    }
}
