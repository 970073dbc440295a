//! `mainstay doctor`: what this machine has and lacks, each with the command that mends it.

use mainstay_types::exit_code;
use serde::Serialize;

use crate::Global;
use crate::failure::Failure;
use crate::screen;

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Health {
    Fine,
    /// The stack runs, with less.
    Limited,
    /// A stack that needs it cannot run.
    Missing,
}

#[derive(Serialize)]
struct Finding {
    what: &'static str,
    health: Health,
    found: String,
    help: Option<String>,
}

impl Finding {
    fn fine(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, health: Health::Fine, found: found.into(), help: None }
    }

    fn limited(what: &'static str, found: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what, health: Health::Limited, found: found.into(), help: Some(help.into()) }
    }

    fn missing(what: &'static str, found: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what, health: Health::Missing, found: found.into(), help: Some(help.into()) }
    }
}

/// Free space below which a database is at risk soon.
const LEAST_FREE_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// Descriptors that an edge with ten thousand connections needs.
const DESCRIPTORS: u64 = 20_000;

pub(crate) async fn run(global: &Global) -> Result<u8, Failure> {
    let mut findings = programs();
    findings.push(cgroups());
    findings.push(user());
    findings.push(descriptors());
    findings.push(space(global)?);
    findings.push(running(global).await);
    let worst = findings.iter().any(|finding| finding.health == Health::Missing);
    if global.json {
        println!("{}", serde_json::to_string(&findings).map_err(|error| Failure::bug(error.to_string()))?);
    } else {
        for finding in &findings {
            let mark = match finding.health {
                Health::Fine => screen::green("ok     "),
                Health::Limited => screen::yellow("limited"),
                Health::Missing => screen::red("missing"),
            };
            println!("{mark}  {:<14} {}", finding.what, finding.found);
            if let Some(help) = &finding.help {
                println!("         {:<14} {}", "", screen::dim(help));
            }
        }
    }
    Ok(if worst { exit_code::ENVIRONMENT } else { exit_code::DONE })
}

fn programs() -> Vec<Finding> {
    use mainstay_controller::programs::{Found, all};
    all()
        .into_iter()
        .map(|program| match program.found {
            Found::Here(what) => Finding::fine(program.name, what),
            Found::Missing(help) if program.is_required => {
                Finding::missing(program.name, "not on this machine; stacks with that part do not start", help)
            }
            Found::Missing(help) => Finding::limited(program.name, "not on this machine; stacks run without it", help),
        })
        .collect()
}

/// Which controllers could hold limits: v2 by its list, v1 by its mounted hierarchies.
fn cgroups() -> Finding {
    let wanted = ["memory", "cpu", "pids"];
    let v2 = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let v1 = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let in_v1 = |name: &str| {
        v1.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.first() == Some(&name) && fields.get(1).is_some_and(|hierarchy| *hierarchy != "0")
        })
    };
    let found = wanted.iter().filter_map(|name| {
        if v2.split_whitespace().any(|controller| controller == *name) {
            Some(format!("{name} (v2)"))
        } else if in_v1(name) {
            Some(format!("{name} (v1)"))
        } else {
            None
        }
    });
    let found: Vec<String> = found.collect();
    let is_whole = found.len() == wanted.len();
    if is_whole && rustix::process::geteuid().is_root() {
        Finding::fine("cgroups", found.join(", "))
    } else if is_whole {
        Finding::limited(
            "cgroups",
            format!(
                "{}; as an ordinary user memory and CPU limits are held only in a delegated group",
                found.join(", ")
            ),
            "systemd-run --user --scope -p Delegate=yes mainstay up",
        )
    } else {
        let text = if found.is_empty() { "no controller".to_owned() } else { found.join(", ") };
        Finding::limited(
            "cgroups",
            format!("{text}: not every limit is enforced"),
            "boot with cgroup v2 controllers enabled",
        )
    }
}

fn user() -> Finding {
    if rustix::process::geteuid().is_root() {
        Finding::fine("user", "root: every part drops to an unprivileged user of its own")
    } else {
        Finding::fine("user", format!("user {}: all parts run as this user", rustix::process::geteuid().as_raw()))
    }
}

fn descriptors() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    let text = if hard == u64::MAX { "unlimited".to_owned() } else { format!("at most {hard} a process") };
    if hard >= DESCRIPTORS {
        Finding::fine("descriptors", text)
    } else {
        Finding::limited("descriptors", text, "raise `nofile` in /etc/security/limits.conf for 10,000 connections")
    }
}

fn space(global: &Global) -> Result<Finding, Failure> {
    let base = crate::place::state_base(global)?;
    let there = base.ancestors().find(|folder| folder.exists()).unwrap_or(&base).to_owned();
    let stat = rustix::fs::statvfs(&there)
        .map_err(|error| Failure::environment("MS3031", format!("cannot look at {}: {error}", there.display())))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let text = format!("{} free for {}", mainstay_types::Bytes(free), base.display());
    Ok(if free >= LEAST_FREE_BYTES {
        Finding::fine("disk", text)
    } else {
        Finding::limited("disk", text, "free some space, or keep state elsewhere: --state DIR")
    })
}

async fn running(global: &Global) -> Finding {
    let Ok(client) = crate::place::client(global) else {
        return Finding::fine("stack", "no stack file here: nothing to look at");
    };
    match client.status().await {
        Ok(status) => Finding::fine("stack", format!("{} is up: {}", status.stack, status.overall)),
        Err(_) => Finding::fine("stack", "not up"),
    }
}
