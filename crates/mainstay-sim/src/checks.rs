//! What must never be so in the world, whatever the planner believes.

use std::fmt;

use mainstay_types::Timestamp;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// When, in simulated time.
    pub at: Timestamp,
    /// What kind of promise.
    pub kind: Kind,
    /// What happened.
    pub what: String,
}

/// Kinds of promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A plan broke an invariant of `mainstay-decide`.
    Invariant,
    /// Two members could take writes.
    SplitBrain,
    /// An acknowledged write is not there any more.
    LostWrite,
    /// Sessions were led to somebody who is not the recorded primary.
    Misled,
    /// A process was started twice, or too often.
    Starts,
    /// A run of a schedule was lost, made twice, or made beside another.
    Schedule,
    /// A planned change of the primary cut off what was under way.
    Cut,
    /// Data that was needed was replaced.
    Data,
    /// The end came in the wrong order.
    Order,
    /// A box that is not as wanted does not say what it waits for.
    Speechless,
    /// The wanted state was not reached in time after the last fault.
    Stuck,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} ms: {:?}: {}", self.at.as_millis(), self.kind, self.what)
    }
}
