//! The control plane (L4): observe → plan → execute → record, and the admin API.
//!
//! Composes the effects of L3 under the decisions of L2. It chooses nothing itself: what to do comes from
//! `mainstay_decide::plan`. Killing it stops no traffic; the next one learns from keep what runs.
#![forbid(unsafe_code)]

mod acme;
mod api;
mod assets;
pub mod backups;
mod certificate;
mod checksums;
mod clients;
mod clock;
pub mod copies;
mod core;
mod disk;
pub mod drills;
mod effects;
mod errands;
mod first_looks;
mod issuers;
mod journal;
pub mod launch;
mod links;
mod load;
pub mod logs;
mod maintenance;
mod message;
mod metrics;
mod observers;
pub mod paths;
pub mod ports;
mod prober;
mod processes;
pub mod programs;
pub mod releases;
mod run;
mod schedules;
mod schema;
pub mod secrets;
mod settings;
mod status;
pub mod store;
mod story;
mod top;
mod traffic;
pub mod undone;

pub use run::{control_spec, run, start_keep};

/// The local CA's certificate of a stack, PEM: for `curl --cacert` and for drills.
pub fn ca_file(paths: &paths::Paths) -> std::path::PathBuf {
    paths.state.join("ca").join(CA_CERTIFICATE)
}

/// The file's name, as `mainstay_edge::ca` writes it.
const CA_CERTIFICATE: &str = "ca.pem";
