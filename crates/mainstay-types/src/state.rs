//! States that more than one crate speaks of.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// A fact as last observed. Nothing destructive is planned from `Unknown`; silence is a fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "seen", rename_all = "kebab-case")]
pub enum Seen<T> {
    /// Nobody has looked, or the one who looked could not tell.
    Unknown,
    /// It was looked at and answered.
    Fact {
        /// What was seen.
        value: T,
        /// When.
        observed_at: Timestamp,
    },
    /// It is there and does not answer.
    Silent {
        /// Since when every look went unanswered.
        since: Timestamp,
    },
}

impl<T> Seen<T> {
    /// The value, if there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Fact { value, .. } => Some(value),
            Self::Unknown | Self::Silent { .. } => None,
        }
    }
}

/// The state of a box of the diagram, as people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Wanted, not begun.
    Waiting,
    /// Being started.
    Starting,
    /// Does its work.
    Ready,
    /// Works, with less than was promised.
    Degraded,
    /// Going away in order.
    Draining,
    /// Ended, and waits out its back-off.
    BackingOff,
    /// Ended too often in too short a time.
    CrashLoop,
    /// Does not do its work.
    Failed,
    /// Not running because nobody wants it to.
    Stopped,
    /// Its program is missing, or the stack file leaves it out.
    NotConfigured,
    /// Nobody knows.
    Unknown,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::BackingOff => "backing off",
            Self::CrashLoop => "crash loop",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
            Self::NotConfigured => "not configured",
            Self::Unknown => "unknown",
        })
    }
}

/// Why nothing is done about a box just now. `status` and the console show this text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Waiting {
    /// A dependency is not ready.
    Dependency {
        /// What it waits for.
        on: String,
    },
    /// It was started and has not answered its readiness probe.
    Readiness {
        /// The probe, as text, and its last result.
        probe: String,
    },
    /// It ended and may not be started before.
    BackOff {
        /// The end of the back-off.
        until: Timestamp,
        /// Why it ended last.
        reason: String,
    },
    /// It does not answer, and patience is not over.
    Silence {
        /// Since when.
        since: Timestamp,
    },
    /// An observation is missing, and what would be done needs it.
    Observation {
        /// Which.
        of: String,
    },
    /// A step is running.
    Step {
        /// What it does.
        what: String,
        /// When it began.
        since: Timestamp,
    },
    /// Requests or sessions are being finished.
    Drain {
        /// When it ends at the latest.
        deadline: Timestamp,
    },
    /// A person must act.
    Operator {
        /// What to do.
        what: String,
    },
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dependency { on } => write!(f, "waits for {on}"),
            Self::Readiness { probe } => write!(f, "waits for {probe}"),
            Self::BackOff { reason, .. } => write!(f, "backs off after {reason}"),
            Self::Silence { .. } => f.write_str("does not answer"),
            Self::Observation { of } => write!(f, "has not seen {of}"),
            Self::Step { what, .. } => f.write_str(what),
            Self::Drain { .. } => f.write_str("drains"),
            Self::Operator { what } => write!(f, "needs you: {what}"),
        }
    }
}
