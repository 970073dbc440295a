//! Stacks to simulate.

use mainstay_stack::Stack;
use mainstay_stack::model::Durability;
use mainstay_types::EnvironmentName;

const SMALL: &str = r#"
stack = "small"
[service.backend]
run = "./backend"
instances = 2
health = { path = "/healthz", interval = "500ms", timeout = "500ms" }
[database]
migrations = "migrations"
[observe]
enabled = false
"#;

const REPORT: &str = r#"
[service.report]
run = "./report"
every = "1s"
timeout = "2s"
drain = "1s"
"#;

const FULL: &str = r#"
stack = "full"
[service.backend]
run = "./backend"
instances = 2
health = "/healthz"
before = "./prepare"
[service.worker]
run = "./worker"
port = false
health = "process"
needs = ["backend"]
[database]
standbys = 2
migrations = "migrations"
[cache]
"#;

fn read(text: &str, durability: Durability) -> Stack {
    let parsed = mainstay_stack::parse(text, "mainstay.toml", &EnvironmentName::default());
    let mut stack = match parsed {
        Ok(parsed) => parsed.stack,
        Err(diagnostics) => panic!("the stack of the simulation is wrong: {diagnostics:?}"),
    };
    if let Some(database) = &mut stack.database {
        database.durability = durability;
    }
    stack
}

/// A service, a primary and a standby.
pub fn small(durability: Durability) -> Stack {
    read(SMALL, durability)
}

/// The same with a service that runs every second.
pub fn scheduled(durability: Durability) -> Stack {
    read(&format!("{SMALL}{REPORT}"), durability)
}

/// Two services, one that needs the other, a release command, one that runs every second, two standbys, caches,
/// telemetry.
pub fn full(durability: Durability) -> Stack {
    read(&format!("{FULL}{REPORT}"), durability)
}
