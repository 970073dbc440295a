//! Decisions (L2): what to do next, as pure functions of stack, observations and a given `now`.
//!
//! Performs nothing, sees no clock. The control plane executes what [`plan`](plan::Plan) says and chooses
//! nothing; the simulator drives the same code.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod observed;
pub mod plan;
