//! Dependencies point downward only, and decisions reach no runtime.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

/// Layer of each crate. Siblings of a layer never depend on each other; L3a (25) lies below L3 (30).
const LAYERS: &[(&str, u32)] = &[
    ("mainstay-types", 0),
    ("mainstay-stack", 10),
    ("mainstay-api", 10),
    ("mainstay-decide", 20),
    ("mainstay-supervisor", 25),
    ("mainstay-backup", 30),
    ("mainstay-client", 30),
    ("mainstay-postgres", 30),
    ("mainstay-router", 30),
    ("mainstay-cache", 30),
    ("mainstay-edge", 30),
    ("mainstay-telemetry", 30),
    ("mainstay-controller", 40),
    ("mainstay-drill", 40),
    ("mainstay", 50),
    // Test only, and the application side: on top of what they use, used by none of ours.
    ("mainstay-sim", 60),
    ("mainstay-kit", 60),
    ("mainstay-rig", 60),
    ("integers", 70),
    ("users", 70),
    ("xtask", 70),
];

/// What no normal dependency path of L0 to L2 may reach.
const RUNTIMES: &[&str] = &["tokio", "hyper", "sqlx", "pingora-core", "pingora", "reqwest", "rustix", "nix"];
const LAST_PURE_LAYER: u32 = 20;

pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let graph = graph(&metadata)?;
    let layers: BTreeMap<&str, u32> = LAYERS.iter().copied().collect();
    let mut faults = Vec::new();
    for name in members(&metadata)? {
        let Some(layer) = layers.get(name.as_str()) else {
            faults.push(format!("{name} has no layer: add it to xtask/src/layers.rs"));
            continue;
        };
        for dependency in graph.get(&name).into_iter().flatten() {
            if layers.get(dependency.as_str()).is_some_and(|other| other >= layer) {
                faults.push(format!("{name} (layer {layer}) depends on {dependency}, which is not below it"));
            }
        }
        if *layer <= LAST_PURE_LAYER {
            for runtime in reach(&graph, &name).iter().filter(|reached| RUNTIMES.contains(&reached.as_str())) {
                faults.push(format!("{name} decides and reaches {runtime}, which acts"));
            }
        }
    }
    if !faults.is_empty() {
        bail!("layers are broken:\n  {}", faults.join("\n  "));
    }
    println!("layers: {} crates, all dependencies point downward", LAYERS.len());
    Ok(())
}

fn members(metadata: &Value) -> anyhow::Result<BTreeSet<String>> {
    let ids: BTreeSet<&str> =
        metadata["workspace_members"].as_array().context("no members")?.iter().filter_map(Value::as_str).collect();
    let packages = metadata["packages"].as_array().context("no packages")?;
    Ok(packages
        .iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| ids.contains(id)))
        .filter_map(|package| package["name"].as_str().map(str::to_owned))
        .collect())
}

/// Normal dependencies by name; development and build dependencies are free.
fn graph(metadata: &Value) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let mut names = BTreeMap::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        if let (Some(id), Some(name)) = (package["id"].as_str(), package["name"].as_str()) {
            names.insert(id, name.to_owned());
        }
    }
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for node in metadata["resolve"]["nodes"].as_array().context("no resolve graph")? {
        let Some(name) = node["id"].as_str().and_then(|id| names.get(id)) else { continue };
        let entry = graph.entry(name.clone()).or_default();
        for dependency in node["deps"].as_array().into_iter().flatten() {
            let kinds = dependency["dep_kinds"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_normal = kinds.iter().any(|kind| kind["kind"].is_null());
            if let (true, Some(other)) = (is_normal, dependency["pkg"].as_str().and_then(|id| names.get(id))) {
                entry.insert(other.clone());
            }
        }
    }
    Ok(graph)
}

fn reach(graph: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        for next in graph.get(&name).into_iter().flatten() {
            if reached.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    reached
}
