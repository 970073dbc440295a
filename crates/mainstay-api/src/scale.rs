//! How many instances of services there are, and why.

use mainstay_types::{ServiceName, Timestamp};
use serde::{Deserialize, Serialize};

/// What a person asks of a service's number of instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleAsked {
    /// So many, from now on; the load then moves the number no more.
    pub count: Option<u32>,
    /// Whether the load moves the number.
    pub is_auto: Option<bool>,
}

/// How many instances of a service there are, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleStatus {
    /// The service.
    pub service: ServiceName,
    /// How many are wanted.
    pub wanted: u32,
    /// How many of them take requests.
    pub ready: u32,
    /// Fewest at present.
    pub min: u32,
    /// Most at present.
    pub max: u32,
    /// Whether the load moves the number.
    pub is_auto: bool,
    /// The rule that moves it; `None`: the stack file has none.
    pub policy: Option<String>,
    /// The period of the schedule that sets the bounds.
    pub period: Option<String>,
    /// When was decided last; `None`: not yet.
    pub decided_at: Option<Timestamp>,
    /// What was measured then.
    pub measures: Vec<ScaleMeasure>,
    /// The number that the measures asked for.
    pub desired: Option<u32>,
    /// What the window of recommendations made of it.
    pub stabilised: Option<u32>,
    /// What decided in the end, as Kubernetes words it: `DesiredWithinRange`, `ScaleUpLimit` and others.
    pub reason: Option<String>,
    /// Why, for people.
    pub why: String,
    /// What the machine has room for; `None`: nobody knows what an instance takes.
    pub room: Option<ScaleRoom>,
    /// The last changes, newest first.
    pub changes: Vec<ScaleChange>,
}

/// One measure of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleMeasure {
    /// As the stack file names it.
    pub name: String,
    /// Where it should be.
    pub target: String,
    /// Where it is; `None`: nobody knows.
    pub usage: Option<String>,
    /// The number that follows from it alone.
    pub proposal: Option<u32>,
    /// The computation, or why there is none.
    pub arithmetic: String,
}

/// What the machine has room for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleRoom {
    /// So many instances at the most.
    pub most: u32,
    /// The computation.
    pub why: String,
}

/// A change of a number of instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleChange {
    /// When.
    pub at: Timestamp,
    /// How many there were.
    pub from: u32,
    /// How many there were to be.
    pub to: u32,
    /// Why.
    pub why: String,
}
