//! The PostgreSQL router (L3, box "router"): authenticates clients, holds them through a failover.
//!
//! A process of its own (`mainstay router`). It never decides who is primary: it is told. It never repeats a
//! statement whose outcome it does not know.
#![warn(missing_docs)]

mod client;
mod control;
mod events;
mod fit;
mod frame;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod glance;
mod greet;
mod link;
mod message;
mod metrics;
mod pool;
mod position;
pub mod protocol;
mod random;
mod relay;
mod replay;
mod resolve;
mod scram;
mod service;
mod session;
mod shared;
mod startup;
mod statements;
mod store;
mod tracker;
mod xid;

pub use control::SOCKET;
pub use service::{Listeners, Options, RunError, run, serve};
