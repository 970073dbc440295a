//! The edge over real sockets.

mod acme;
mod balance;
mod clients;
mod content;
mod control;
mod doors;
mod edits;
mod guards;
mod identity;
mod limits;
mod releases;
mod sites;
mod smuggling;
mod support;
mod upstreams;
