//! One file per command.

pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod console;
pub(crate) mod db;
mod delete;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod drill;
pub(crate) mod env;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod explain;
mod import;
pub(crate) mod init;
pub(crate) mod internal;
pub(crate) mod logs;
pub(crate) mod preflight;
pub(crate) mod ps;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod top;
mod trouble;
pub(crate) mod trust;
pub(crate) mod up;
