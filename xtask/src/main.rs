//! Fences of the workspace: `cargo xtask check-layers`, `cargo xtask tidy`.
#![expect(clippy::print_stdout, reason = "printing is what a task does")]

mod layers;
mod tidy;

use anyhow::{Context, bail};

fn main() -> anyhow::Result<()> {
    let task = std::env::args().nth(1).unwrap_or_default();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    match task.as_str() {
        "check-layers" => layers::check(root),
        "tidy" => tidy::check(root),
        "check" => {
            layers::check(root)?;
            tidy::check(root)
        }
        other => bail!("no task {other:?}: there are check-layers, tidy, and check for both"),
    }
}
