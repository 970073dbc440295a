//! Routes of the edge, and their maintenance.

use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

/// A route of the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// `/exact` or `/prefix/*`.
    pub path: String,
    /// Where it leads: a service, `NAME:management`, a site, or a place that clients are sent to.
    pub to: String,
    /// Nobody is let in; `None`: it serves.
    pub maintenance: Option<Maintenance>,
}

/// That nobody is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// A person switched it on; else the stack file says so.
    pub is_by_hand: bool,
    /// Since when; `None`: the stack file's.
    pub since: Option<Timestamp>,
    /// What clients are told to wait. **Unit**: seconds.
    pub retry_after_s: u64,
}

/// What a person asks of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceAsked {
    /// Its path, as the stack file writes it.
    pub route: String,
    /// Whether nobody is to be let in.
    pub is_on: bool,
    /// What clients are told to wait. **Unit**: seconds. `None`: as it was, else five minutes.
    pub retry_after_s: Option<u64>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSwitched {
    /// The route as it is now.
    pub route: RouteStatus,
    /// It was otherwise before.
    pub is_changed: bool,
    /// The edge said that it counts; else it will as soon as there is an edge.
    pub is_in_force: bool,
}
