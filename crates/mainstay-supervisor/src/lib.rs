//! Processes (L3a): `keep`, the parent of everything, and its client.
//!
//! keep spawns, waits, knows exit codes, holds the public listeners and restarts the control plane. It
//! decides nothing, has no async runtime and no database. The rest of L3 may use this crate.
#![warn(missing_docs)]

pub mod durable;
pub mod protocol;
pub mod wire;
