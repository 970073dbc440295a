//! The front door (L3, box "edge"): TLS, routes, balancing, ejection, retries, static sites, on Pingora.
//!
//! A process of its own (`mainstay edge`). It asks decisions of its snapshot, never decides policy; without
//! a control plane it goes on with the last policy and endpoints and probes for itself.
#![warn(missing_docs)]

pub mod protocol;
