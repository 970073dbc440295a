//! The router in front of real PostgreSQL clusters.
#![expect(clippy::unwrap_used, reason = "helpers of tests say what they expect by unwrapping")]

mod encrypted;
mod failover;
mod garbage;
mod generated;
mod pipelined;
mod reads;
mod sessions;
mod support;
mod transactions;
