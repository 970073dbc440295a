//! Tells the program which commit it is built from, where there is one: `git` in the actuator's `info`.

use std::path::Path;
use std::process::Command;

/// What git says about this folder; `None` without git, or outside of a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // It grows with each commit and each change of branch.
    if let Some(log) = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    let facts = [
        ("USERS_GIT_BRANCH", git(&["rev-parse", "--abbrev-ref", "HEAD"])),
        ("USERS_GIT_COMMIT", git(&["rev-parse", "--short", "HEAD"])),
        ("USERS_GIT_TIME", git(&["show", "--no-patch", "--format=%cI", "HEAD"])),
    ];
    for (name, fact) in facts {
        if let Some(fact) = fact {
            println!("cargo::rustc-env={name}={fact}");
        }
    }
}
