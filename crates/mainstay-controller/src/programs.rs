//! Which of the distribution's programs this machine has.

use std::collections::BTreeMap;
use std::path::Path;

use mainstay_decide::observed::Program;
use mainstay_stack::Stack;

/// Programs that the stack wants, given the data in its state folder, and the machine lacks, with the command that installs each.
pub fn missing(stack: &Stack, state: &Path) -> BTreeMap<Program, String> {
    let mut missing = BTreeMap::new();
    if stack.database.is_some()
        && let Err(error) = mainstay_postgres::find_programs(Some(state))
    {
        missing.insert(Program::Postgres, error.to_string());
    }
    if stack.cache.is_some()
        && let Err(error) = mainstay_cache::find_program()
    {
        missing.insert(Program::Redis, error.to_string());
    }
    if stack.observe.enabled {
        let programs = mainstay_telemetry::find_programs();
        if let Err(error) = programs.prometheus {
            missing.insert(Program::Prometheus, with_hint(&error));
        }
        if let Err(error) = programs.alertmanager {
            missing.insert(Program::Alertmanager, with_hint(&error));
        }
    }
    missing
}

fn with_hint(missing: &mainstay_telemetry::MissingProgram) -> String {
    format!("{missing}; install it with: {}", missing.hint)
}

/// Whether a stack that wants it cannot serve without it. Without metrics it serves, and the picture says so.
pub fn is_required(program: Program) -> bool {
    match program {
        Program::Postgres | Program::Redis => true,
        Program::Prometheus | Program::Alertmanager => false,
    }
}

/// A program and whether it is here, for `doctor`.
pub struct Look {
    /// Its name for people.
    pub name: &'static str,
    /// Whether stacks with that part cannot start without it.
    pub is_required: bool,
    /// What was found.
    pub found: Found,
}

/// What was found.
pub enum Found {
    /// Its path.
    Here(String),
    /// What to do.
    Missing(String),
}

/// Every program that mainstay runs and does not write; PostgreSQL of the version that made the data in `state`.
pub fn all(state: Option<&Path>) -> Vec<Look> {
    let telemetry = mainstay_telemetry::find_programs();
    let path = |found: Result<std::path::PathBuf, mainstay_telemetry::MissingProgram>| match found {
        Ok(path) => Found::Here(path.display().to_string()),
        Err(error) => Found::Missing(with_hint(&error)),
    };
    let postgres = match mainstay_postgres::find_programs(state) {
        Ok(programs) => Found::Here(programs.bin.join("postgres").display().to_string()),
        Err(error) => Found::Missing(error.to_string()),
    };
    let redis = match mainstay_cache::find_program() {
        Ok(program) => Found::Here(program.display().to_string()),
        Err(error) => Found::Missing(error.to_string()),
    };
    vec![
        Look { name: "postgresql", is_required: true, found: postgres },
        Look { name: "redis", is_required: true, found: redis },
        Look { name: "prometheus", is_required: false, found: path(telemetry.prometheus) },
        Look { name: "alertmanager", is_required: false, found: path(telemetry.alertmanager) },
    ]
}
