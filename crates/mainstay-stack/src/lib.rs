//! The stack file (L1): `mainstay.toml` → [`Stack`], or all its diagnostics at once.
//!
//! Never touches the disk or the network: the caller hands over the text; what exists on the machine is
//! `doctor`'s and the control plane's business.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod model;

pub use model::Stack;
