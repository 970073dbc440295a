//! Telemetry (L3, box "telemetry"): the lifecycle of the distribution's own Prometheus and Alertmanager.
//!
//! It finds the programs, writes what they read, says how to start them and whether they are ready, and
//! renders the `host` metrics page. It never starts a process itself (keep does), never decides whether
//! one should run, and never listens on anything but 127.0.0.1.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod config;
mod host;
mod programs;
mod query;
mod ready;
mod spec;
mod targets;

pub use config::{ConfigError, Page, Settings, USER_NAME, write_config};
pub use host::host_metrics;
pub use programs::{MissingProgram, Programs, find_programs, find_programs_in};
pub use query::{NoNumber, query_number};
pub use ready::{NotReady, is_ready, probe_ready};
pub use spec::{alertmanager_spec, prometheus_spec};
pub use targets::{Target, write_targets};
