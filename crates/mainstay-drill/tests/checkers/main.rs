//! The checkers on histories: right ones pass, and each class of anomaly is found and named.
#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod append;
mod bank;
mod edn;
mod file;
mod generate;
mod monotonic;
mod published;
mod support;
