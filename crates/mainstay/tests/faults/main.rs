//! Faults of the start, end to end: the built program, real PostgreSQL, real processes. Each has its exit status,
//! its code and its place, and afterwards either nothing was started or everything is down again.

mod after;
mod before;
mod data;
mod during;
mod errands;
mod world;
