//! Processes (L3a): `keep`, the parent of everything, and its client.
//!
//! keep spawns, waits, knows exit codes, holds the public listeners and restarts the control plane. It
//! decides nothing, has no async runtime and no database. The rest of L3 may use this crate.
#![warn(missing_docs)]

mod cgroup;
pub mod client;
pub mod context;
pub mod durable;
pub mod ids;
pub mod keep;
pub mod launch;
pub mod logs;
pub mod proc;
pub mod protocol;
mod record;
mod sandbox;
pub mod sockets;
mod sys;
pub mod wire;

pub use sandbox::closed_to_services;
pub use sys::{clock_is_synchronised, end_with_parent};

use mainstay_types::Timestamp;

pub use sys::{inherited, shared_memory};

/// Name of keep's socket in the runtime folder.
pub const SOCKET: &str = "keep.sock";
/// Name of the environment variable that carries a start's nonce to a child and its descendants.
pub const NONCE_VARIABLE: &str = "MAINSTAY_NONCE";
/// Name of the environment variable that tells a child its inherited listeners: `name:3,name:4`.
pub const LISTENERS_VARIABLE: &str = "MAINSTAY_LISTENERS";

/// The wall clock. Clocks set back or before 1970 are the caller's to survive.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
