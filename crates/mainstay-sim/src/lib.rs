//! A seeded world that drives `mainstay-decide`: the same decisions, with processes, PostgreSQL, clients and faults
//! made of numbers. Test only; nothing of the product depends on it.
//!
//! Never reads a clock, never starts a thread: a run is a function of its seed. A failing run prints the seed, and
//! `MAINSTAY_SEED=… cargo test -p mainstay-sim` replays that one alone.
#![forbid(unsafe_code)]

mod bugs;
mod checks;
mod control;
mod faults;
mod marks;
mod postgres;
mod random;
mod run;
mod schedules;
mod stack;
mod steps;
mod world;

pub use bugs::Bug;
pub use checks::{Broken, Kind};
pub use faults::{FOR_EVER, Fault, Intensity};
pub use marks::Mark;
pub use run::{Ending, Options, Report, Scenario, run};
pub use stack::{full, scheduled, small};

/// The seed to replay, if the environment names one.
pub fn seed_from_environment() -> Option<u64> {
    std::env::var("MAINSTAY_SEED").ok()?.parse().ok()
}
