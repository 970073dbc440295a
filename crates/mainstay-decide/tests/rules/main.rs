//! The planner's rules: each by an example, all of them over random observations.

mod autoscale;
mod damage;
mod database;
mod lost;
mod random;
mod replicas;
mod restore;
mod rollout;
mod schedules;
mod stack;
mod store;
mod support;
