//! Drills (L4): inject a fault, measure what clients saw, compare with the promise.
//!
//! Works on any stack: a ledger of its own through the router, HTTP probes through the edge. It believes no
//! report of the control plane where it can see for itself; what it cannot prove is VOID, never PASS. It kills
//! only processes that the stack names as its own, checked by their nonce just before.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod aim;
mod alerts;
mod backups;
pub mod chain;
pub mod checker;
mod controls;
mod corrupt;
mod counter;
mod data;
mod deployed;
mod dossier;
mod environment;
mod fault;
mod figures;
mod findings;
mod former;
mod freeze;
mod history;
pub mod html;
mod http;
mod inject;
mod judge;
mod junit;
mod keys;
mod knock;
mod ledger;
mod load;
mod log;
mod loss;
mod measure;
mod record;
mod report;
mod rollout;
mod round;
mod run;
mod scaled;
mod strip;
mod tier;
mod timeline;
mod whole;
mod workload;

pub use alerts::Alert;
pub use backups::{Fetched, Past, Repository, Unopened, backups};
pub use dossier::{Control, Controls, DOSSIER_VERSION, Dossier, Sheet, Skipped};
pub use environment::Environment;
pub use freeze::{DEAD_MAN, dead_man};
pub use junit::junit;
pub use loss::Gone;
pub use mainstay_api::{Extended, Verdict};
pub use mainstay_decide::drills::Fault;
pub use report::{
    CheckReport, Counts, Evidence, Latency, Load, Measured, Phases, Promised, REPORT_VERSION, Report, RoundReport,
    Spread,
};
pub use run::{Error, Options, Progress, Sabotage, Stop, drill};
pub use strip::{Slice, Strip};
