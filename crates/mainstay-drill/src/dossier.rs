//! One or more drills with what surrounds them: what a report file is made from, and its twin in JSON.

use mainstay_api::Verdict;
use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::report::Report;

/// Version of [`Dossier`]; raised when a field changes its meaning.
pub const DOSSIER_VERSION: u32 = 1;

/// Everything that a report file shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dossier {
    /// [`DOSSIER_VERSION`].
    pub dossier: u32,
    /// When it was put together.
    pub made: Timestamp,
    /// The drills.
    pub sheets: Vec<Sheet>,
    /// Drills that were wanted and not done.
    #[serde(default)]
    pub skipped: Vec<Skipped>,
}

/// One drill and its controls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sheet {
    /// The drill.
    pub report: Report,
    /// Its controls.
    pub controls: Controls,
}

/// What shows that a drill can see nothing, and can see something.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Controls {
    /// The last drill without a fault.
    pub null: Option<Control>,
    /// The last drill of this name with a mistake put in on purpose: it must fail.
    pub positive: Option<Control>,
}

/// A control that was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Control {
    /// When it ended.
    pub at: Timestamp,
    /// Its verdict.
    pub verdict: Verdict,
    /// The mistake, for a positive one.
    pub mistake: Option<String>,
}

/// A drill that was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Which.
    pub drill: String,
    /// Why.
    pub reason: String,
    /// It began and could not go on.
    #[serde(default)]
    pub is_aborted: bool,
}
