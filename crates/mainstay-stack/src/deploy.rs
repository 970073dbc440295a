//! `[deploy]`: how a new release takes the place of the one before it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How traffic comes to a new release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// One instance after the other.
    #[default]
    Rolling,
    /// All new instances beside the old ones, then all clients at once.
    BlueGreen,
    /// All new instances beside the old ones, then a rising share of clients.
    Canary,
}

/// Their names in the stack file.
pub const STRATEGIES: [&str; 3] = ["rolling", "blue-green", "canary"];

impl FromStr for Strategy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "rolling" => Ok(Self::Rolling),
            "blue-green" => Ok(Self::BlueGreen),
            "canary" => Ok(Self::Canary),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rolling => "rolling",
            Self::BlueGreen => "blue-green",
            Self::Canary => "canary",
        })
    }
}

/// `[deploy]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    /// How traffic comes to it. Default rolling.
    pub strategy: Strategy,
    /// Time from the first start of a new instance until all are ready. Default 5 min.
    pub timeout: Duration,
    /// How long it is watched once it has all traffic, before the old one is drained. Default 10 s.
    pub bake: Duration,
    /// Shares of clients that a canary goes through before it has all. **Unit**: hundredths of a percent. Default 1, 10
    /// and 50 %.
    pub steps: Vec<u16>,
    /// Least time of each of these steps. Default 30 s.
    pub step: Duration,
    /// Least number of requests that the new release answered in each of these steps. Default 300.
    pub requests: u32,
    /// An answer that takes longer is slow. Default: `target.p95`, else 500 ms.
    pub slow: Duration,
    /// Paths that each new instance must answer with 2xx or 3xx before it gets traffic. Default none.
    pub smoke: Vec<String>,
    /// Releases that are kept besides the one that runs. Default 5.
    pub keep: u32,
}

impl Deploy {
    /// Of a stack file that says nothing.
    pub fn new(p95: Option<Duration>) -> Self {
        Self {
            strategy: Strategy::default(),
            timeout: Duration::from_mins(5),
            bake: Duration::from_secs(10),
            steps: vec![100, 1000, 5000],
            step: Duration::from_secs(30),
            requests: 300,
            slow: p95.unwrap_or(Duration::from_millis(500)),
            smoke: Vec::new(),
            keep: 5,
        }
    }
}
