//! The router in transaction mode, with real PostgreSQL: what holds in session mode, and what is its own.
#![expect(clippy::unwrap_used, reason = "helpers of tests say what they expect by unwrapping")]

#[path = "../router/encrypted.rs"]
mod encrypted;
#[path = "../router/failover.rs"]
mod failover;
#[path = "../router/garbage.rs"]
mod garbage;
#[path = "../router/generated.rs"]
mod generated;
mod held;
#[path = "../router/pipelined.rs"]
mod pipelined;
mod pooling;
mod prepared;
#[path = "../router/reads.rs"]
mod reads;
#[path = "../router/sessions.rs"]
mod sessions;
#[path = "../router/support/mod.rs"]
mod support;
#[path = "../router/transactions.rs"]
mod transactions;
mod typed;
