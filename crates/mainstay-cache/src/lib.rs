//! Cache and store boxes of the diagram (L3): the life of two Redis (or Valkey) on one machine.
//!
//! `cache` may be lost (least recently used keys go first, nothing is on disk), `store` may not (sessions,
//! queues: append-only file, no eviction). They are two processes because one eviction policy for both would
//! evict sessions. It writes their configuration, hands out `SpawnSpec`s for keep, asks and measures them. Of the store
//! it takes copies, and puts one back. The one process that it starts itself is the server that loads a copy for a
//! look; the store's files it never deletes: a copy that takes their place puts them aside.
#![warn(missing_docs)]

pub mod config;
pub mod copies;
pub mod info;
pub mod layout;
pub mod replicas;
pub mod resp;

pub use config::{SpecError, spec};
pub use copies::{Copies, Copy, CopyError};
pub use info::{info, metrics, ping};
pub use layout::{Kind, Missing, Part, Settings, find_program};
pub use resp::{Door, ResponseError};
