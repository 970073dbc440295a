//! The planner's rules: each by an example, all of them over random observations.

mod database;
mod random;
mod stack;
mod support;
