//! Real processes under a real keep (the example `keep`, which `cargo test` builds).

mod children;
mod takeover;
mod world;
