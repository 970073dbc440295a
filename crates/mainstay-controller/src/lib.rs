//! The control plane (L4): observe → plan → execute → record, and the admin API.
//!
//! Composes the effects of L3 under the decisions of L2. It chooses nothing itself: what to do comes from
//! `mainstay_decide::plan`. Killing it stops no traffic; the next one learns from keep what runs.
#![forbid(unsafe_code)]

pub mod paths;
pub mod ports;
pub mod secrets;
pub mod store;
