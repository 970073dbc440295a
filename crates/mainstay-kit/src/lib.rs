//! What a Rust service needs to live well on mainstay: sign-in, problems, validation, pools that
//! survive a failover, cache-aside, health, telemetry, audit and drain, for axum.
//!
//! It is the inside of the box "service instances". It must never depend on another crate of
//! mainstay: a service that uses it talks to PostgreSQL, Redis and HTTP, and runs without mainstay.

#[cfg(feature = "actuator")]
pub mod actuator;
pub mod assets;
pub mod audit;
pub mod auth;
pub mod cache;
pub mod csv;
pub mod drain;
pub mod health;
pub mod idempotency;
pub mod limit;
pub mod loggers;
pub mod metrics;
pub mod openapi;
pub mod paging;
pub mod pool;
pub mod problem;
pub mod random;
pub mod serve;
pub mod start;
pub mod telemetry;
pub mod time;
pub mod validation;

pub use tokio_postgres;
