//! What drills use of the application: a counter of its own, whose numbers are receipts.

use std::fmt;

use mainstay_types::ServiceName;
use serde::{Deserialize, Serialize};

/// What drills use of the application. Default: nothing, only their own ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drills {
    /// A counter of the application's own.
    pub counter: Option<Counter>,
}

/// A counter that the application serves through the edge. Each number that it gave must have been given once, and must
/// be known to it afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Gives the next number: one more than the last one.
    pub take: Call,
    /// Says the last number that was given.
    pub read: Call,
    /// Header that says who counts. Default `X-API-Key`.
    pub header: String,
    /// Variable of [`Self::service`], in its `env` or its `secrets`, that has what is sent there. Default: nothing is
    /// sent.
    pub variable: Option<String>,
    /// The service that the route of `take` leads to: it counts, so it knows whose key it is.
    pub service: ServiceName,
}

/// A request that is answered with a number alone, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Its method.
    pub method: String,
    /// Its path, with a query where it needs one.
    pub path: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}
