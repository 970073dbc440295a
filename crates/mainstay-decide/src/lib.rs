//! Decisions (L2): what to do next, as pure functions of stack, observations and a given `now`.
//!
//! Performs nothing, sees no clock. The control plane executes what [`plan`](plan::plan) says and chooses
//! nothing; the simulator drives the same code.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod acme;
pub mod autoscale;
pub mod backups;
pub mod balance;
mod children;
mod copy;
pub mod damage;
mod database;
pub mod disk;
mod draft;
pub mod drills;
mod endpoints;
pub mod evidence;
pub mod fleet;
pub mod health;
pub mod identity;
pub mod invariants;
pub mod limit;
mod lost;
pub mod maintenance;
pub mod observed;
pub mod past;
pub mod plan;
mod planner;
pub mod pressure;
pub mod promises;
pub mod replicas;
pub mod restart;
pub mod retention;
pub mod rollout;
pub mod schedule;
mod services;
pub mod share;
mod stop;
pub mod store;
mod view;

pub use database::wish;
