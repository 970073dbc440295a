//! The PostgreSQL router (L3, box "router"): authenticates clients, holds them through a failover.
//!
//! A process of its own (`mainstay router`). It never decides who is primary: it is told. It never repeats a
//! statement whose outcome it does not know.
#![warn(missing_docs)]

pub mod protocol;
