//! Database boxes of the diagram (L3): the life of a PostgreSQL cluster on one machine.
//!
//! It makes, copies, starts, asks, promotes and prepares members, proves that one is dead, runs migrations,
//! and keeps the durable record of who is primary. It never decides which of these to do, never starts a
//! process itself (it hands out [`Task`]s and `SpawnSpec`s for keep; [`plain`] is for tests and tools without
//! keep), and never deletes a data directory that was complete until its caller says so.
#![warn(missing_docs)]

pub mod access;
pub mod adopt;
pub mod backup;
pub mod census;
pub mod clone;
pub mod cluster;
pub mod compare;
pub mod config;
pub mod control_file;
pub mod damage;
pub mod files;
pub mod import;
pub mod init;
pub mod inspect;
pub mod layout;
pub mod loss;
pub mod metrics;
pub mod migrate;
pub mod past;
pub mod plain;
pub mod prepare;
pub mod probe;
pub mod proof;
pub mod record;
pub mod rewind;
mod scram;
mod sql;
pub mod start;
pub mod swap;
pub mod task;
pub mod waldump;

pub use access::Access;
pub use layout::{Layout, Missing, Programs, find_programs};
pub use prepare::Passwords;
pub use record::RecordFile;
pub use task::Task;
