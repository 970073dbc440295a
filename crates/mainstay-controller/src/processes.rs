//! `ps`: every supervised process with what the stack says of it.

use mainstay_api::{Process, Status};
use mainstay_supervisor::client::Hello;
use mainstay_supervisor::proc::{self, Snapshot};
use mainstay_supervisor::protocol::Child;
use mainstay_types::{BoxId, ChildName, ChildRole, State};

use crate::settings::Settings;

/// The list, keep first, then in the order of names. Reads /proc: call it where blocking is allowed.
pub(crate) fn list(keep: Option<&Hello>, children: &[Child], status: &Status, settings: &Settings) -> Vec<Process> {
    // Once for all of them: a look reads a file for each process of the machine.
    let all = Snapshot::take();
    let mut list: Vec<Process> = children
        .iter()
        .filter(|child| child.role != ChildRole::Task || child.ended.is_none() || is_scheduled(child, status))
        .map(|child| one(child, status, settings, &all))
        .collect();
    list.extend(keep.and_then(keep_itself));
    list.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
    list
}

/// The last run of a schedule is shown although it has ended.
fn is_scheduled(child: &Child, status: &Status) -> bool {
    status.schedules.keys().any(|service| ChildName::run(service) == child.name)
}

/// keep is nobody's child: it told who it is when the control plane connected.
fn keep_itself(hello: &Hello) -> Option<Process> {
    Some(Process {
        name: ChildName::new("keep").ok()?,
        role: ChildRole::Keep,
        detail: String::new(),
        pid: Some(hello.pid),
        nonce: None,
        state: State::Ready,
        since: hello.since,
        last_exit: None,
        address: None,
        memory_bytes: proc::pss(hello.pid).ok().map(|bytes| bytes.0),
    })
}

fn one(child: &Child, status: &Status, settings: &Settings, all: &Snapshot) -> Process {
    let drawn = status.boxes.iter().find(|one| one.name == child.name.as_str());
    let runs = child.ended.is_none();
    let fallback = if runs { State::Ready } else { State::Stopped };
    let detail = match drawn {
        Some(drawn) if matches!(drawn.id, BoxId::Postgres { .. }) => drawn.label.clone(),
        _ if is_scheduled(child, status) => "scheduled".to_owned(),
        _ => String::new(),
    };
    Process {
        name: child.name.clone(),
        role: child.role,
        detail,
        pid: runs.then_some(child.pid),
        nonce: Some(child.nonce.clone()),
        state: drawn.map_or(fallback, |drawn| drawn.state),
        since: child.ended.as_ref().map_or(child.since, |ended| ended.at),
        last_exit: child.ended.as_ref().or(child.ended_before.as_ref()).map(|ended| ended.reason.clone()),
        address: settings.address_of(&child.name),
        memory_bytes: runs.then(|| all.tree_pss(child.pid).0),
    }
}
