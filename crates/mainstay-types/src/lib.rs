//! The vocabulary (L0): ids, units and states that every crate and every protocol of mainstay shares.
//!
//! Never does I/O, never reads a clock; a value that exists is valid (constructors check).
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod exit_code;
mod id;
mod lsn;
mod objects;
mod process;
mod secret;
mod state;
mod text;
mod unit;

pub use id::{
    BoxId, ChildName, EnvironmentName, Generation, IdError, InstanceId, Member, Nonce, ServiceName, StackName,
};
pub use lsn::{Lsn, ParseLsnError, Timeline};
pub use objects::{Endpoint, EndpointError, ObjectAddress, ObjectAddressError, StoreKind};
pub use process::{ChildRole, ExitReason, Pid};
pub use secret::Secret;
pub use state::{Seen, State, Waiting};
pub use text::full_text;
pub use unit::{Bytes, Percent, Timestamp};
