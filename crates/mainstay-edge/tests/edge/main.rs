//! The edge over real sockets.

mod control;
mod doors;
mod sites;
mod support;
mod upstreams;
