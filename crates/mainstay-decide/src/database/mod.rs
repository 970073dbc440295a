//! PostgreSQL: who is primary, who follows, what the router is told.
//!
//! The durable record decides, never a probe. Every half-done sequence is taken up again from observation alone,
//! so a control plane that dies between two steps costs time and nothing else.

mod bootstrap;
mod boxes;
mod cluster;
mod failover;
mod restore;
mod standby;
pub mod wish;

use std::collections::BTreeMap;

use mainstay_stack::model::Database;
use mainstay_types::{BoxId, Member, Seen, State, Waiting};

use crate::children::{Simple, keep_running, look_of};
use crate::draft::{Draft, not_configured};
use crate::observed::{Program, Record};
use crate::plan::BoxPlan;

/// What services and the picture need to know of the database.
pub(crate) struct Tier {
    /// What writing waits for; `None`: the router leads to a writable primary and the schema is there.
    pub(crate) waiting: Option<Waiting>,
    /// Roles, databases and migrations are there.
    pub(crate) is_schema_ready: bool,
    /// Router and members.
    pub(crate) boxes: Vec<BoxPlan>,
}

/// What a member waits for and why, beyond what its process tells.
#[derive(Default)]
struct Note {
    waiting: Vec<Waiting>,
    reason: Option<String>,
    is_failed: bool,
}

/// Notes by member.
type Notes = BTreeMap<Member, Note>;

fn wait(notes: &mut Notes, member: Member, waiting: Waiting) {
    notes.entry(member).or_default().waiting.push(waiting);
}

fn fail(notes: &mut Notes, member: Member, reason: String, waiting: Waiting) {
    let note = notes.entry(member).or_default();
    note.is_failed = true;
    note.reason = Some(reason);
    note.waiting.push(waiting);
}

/// Plans the database; `None` when the stack has none.
pub(crate) fn plan(draft: &mut Draft<'_>) -> Option<Tier> {
    let stack = draft.view.stack;
    let database = stack.database.as_ref()?;
    if let Some(install) = draft.view.observed.missing.get(&Program::Postgres) {
        return Some(missing(draft, install));
    }
    let look = look_of(Some(&draft.view.observed.router));
    let simple = Simple {
        name: "router",
        id: BoxId::Router,
        label: "PostgreSQL router",
        look,
        probe: "its control connection",
        is_restarted_when_hung: false,
    };
    let router = keep_running(draft, simple);
    let mut notes = Notes::new();
    match draft.view.database().map(|seen| &seen.record) {
        Some(Seen::Fact { value: Some(record), .. }) => cluster::plan(draft, &mut notes, database, record),
        Some(Seen::Fact { value: None, .. }) => bootstrap::plan(draft, &mut notes),
        Some(Seen::Unknown | Seen::Silent { .. }) | None => {
            for member in draft.view.wanted_members() {
                wait(&mut notes, member, Waiting::Observation { of: "the record of who is primary".to_owned() });
            }
        }
    }
    let waiting = not_writable(draft, database);
    let is_schema_ready = is_schema_ready(draft, database);
    let mut boxes = vec![boxes::router(draft, router)];
    boxes.extend(boxes::members(draft, &mut notes));
    Some(Tier { waiting, is_schema_ready, boxes })
}

fn missing(draft: &Draft<'_>, install: &str) -> Tier {
    let reason = format!("PostgreSQL is missing: {install}");
    let mut boxes = vec![not_configured(BoxId::Router, "PostgreSQL router", reason.clone())];
    for member in draft.view.wanted_members() {
        boxes.push(not_configured(BoxId::Postgres { member }, "PostgreSQL", reason.clone()));
    }
    let waiting = Waiting::Operator { what: reason };
    Tier { waiting: Some(waiting), is_schema_ready: false, boxes }
}

fn is_schema_ready(draft: &Draft<'_>, database: &Database) -> bool {
    let observed = draft.view.observed;
    observed.is_database_prepared && (observed.is_migrated || database.migrations.is_none())
}

fn not_writable(draft: &Draft<'_>, database: &Database) -> Option<Waiting> {
    let view = &draft.view;
    let on = |on: &str| Some(Waiting::Dependency { on: on.to_owned() });
    let Some(record) = view.record() else { return on("the database") };
    if view.writable(record.primary).is_none() {
        return on("the database's primary");
    }
    if !leads_to_primary(draft, record) {
        return on("the router");
    }
    if !view.observed.is_database_prepared {
        return on("the database's roles");
    }
    if !is_schema_ready(draft, database) { on("migrations") } else { None }
}

/// Whether the router sends writes to the recorded primary.
fn leads_to_primary(draft: &Draft<'_>, record: &Record) -> bool {
    draft.view.router().is_some_and(|router| router.epoch == record.epoch && router.write == Some(record.primary))
}

/// The state of a member's or the router's box that has something to say of its own.
fn worse(shown: &mut BoxPlan, state: State, reason: String) {
    shown.state = state;
    shown.reason = Some(reason);
}
