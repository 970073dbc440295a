//! The ordered end: nobody loses what they use before they are gone. Keeps all data.

use std::time::Duration;

use mainstay_types::{BoxId, ChildName, Member, State, Waiting};

use crate::children::{ORDERLY, child};
use crate::draft::{Draft, Stop};
use crate::plan::{BoxPlan, Step};
use crate::schedule;
use crate::services::{drain, running_instances};
use crate::view::{Life, View};

/// PostgreSQL's fast shutdown: backends are ended, a checkpoint is written. The signal is SIGINT.
pub(crate) const FAST_SHUTDOWN: Stop = Stop { signal: 2, grace: Duration::from_secs(60) };
/// Names of keep's children that this end is not about: it is the control plane that carries it out.
const NOT_OURS: [&str; 2] = ["control", "keep"];

/// One stage: its children end before the next stage begins.
struct Stage {
    what: &'static str,
    children: Vec<(ChildName, Stop)>,
}

/// Plans the next part of the end.
pub(crate) fn plan(draft: &mut Draft<'_>) {
    let is_noting = schedule::close_ended(draft);
    let stages = stages(&draft.view);
    let current = stages.iter().position(|stage| {
        stage.children.iter().any(|(name, _)| draft.view.life(name).runs().is_some() || draft.view.is_child_busy(name))
    });
    let Some(current) = current else {
        if draft.view.observed.running.is_empty() && !is_noting {
            draft.ask(Step::Finish);
        }
        return boxes(draft, None);
    };
    for (name, how) in &stages[current].children {
        if let Life::Runs(running) = draft.view.life(name) {
            draft.stop(name, running, *how);
        }
    }
    boxes(draft, Some(stages[current].what));
}

/// Whether instances must take no new requests: the edge has ended, it is their turn.
pub(crate) fn is_draining(view: &View<'_>) -> bool {
    view.life(&child("edge")).runs().is_none()
}

fn stages(view: &View<'_>) -> Vec<Stage> {
    let simple = |names: &[&str]| names.iter().map(|name| (child(name), ORDERLY)).collect::<Vec<_>>();
    let mut instances = Vec::new();
    for (name, service) in &view.stack.services {
        let running = running_instances(view, name).into_iter().map(|id| ChildName::instance(&id));
        instances.extend(running.map(|name| (name, drain(service))));
        let run = service.schedule.map(|_| ChildName::run(name));
        instances.extend(run.map(|name| (name, drain(service))));
    }
    let primary = view.record().map(|record| record.primary);
    let members = (0..).map_while(Member::nth);
    let standbys = members.filter(|member| Some(*member) != primary);
    let postgres = |member: Member| (ChildName::postgres(member), FAST_SHUTDOWN);
    let telemetry = simple(&["prometheus", "alertmanager"]);
    let mut caches = simple(&["cache"]);
    caches.extend(crate::replicas::children().into_iter().map(|name| (name, ORDERLY)));
    let mut stages = vec![
        Stage { what: "edge", children: simple(&["edge"]) },
        Stage { what: "services", children: instances },
        Stage { what: "router", children: simple(&["router"]) },
        Stage { what: "caches", children: caches },
        Stage { what: "standbys", children: standbys.map(postgres).collect() },
        Stage { what: "primary", children: primary.into_iter().map(postgres).collect() },
    ];
    let is_known = |name: &ChildName| {
        NOT_OURS.contains(&name.as_str())
            || stages
                .iter()
                .chain([&Stage { what: "", children: telemetry.clone() }])
                .any(|stage| stage.children.iter().any(|(known, _)| known == name))
    };
    // Commands that run once and whose starter is gone: a clone, a release command.
    let others: Vec<_> =
        view.children.keys().filter(|name| !is_known(name)).map(|name| (name.clone(), ORDERLY)).collect();
    stages.insert(1, Stage { what: "commands", children: others });
    stages.push(Stage { what: "telemetry", children: telemetry });
    stages
}

fn boxes(draft: &mut Draft<'_>, stage: Option<&'static str>) {
    let view = draft.view;
    for (id, name) in wanted_boxes(&view) {
        let is_running = name.as_ref().is_some_and(|name| view.life(name).runs().is_some());
        let is_last = id == BoxId::Control;
        let (state, waiting) = if is_running || is_last {
            (State::Draining, stage.map(|stage| Waiting::Dependency { on: format!("the end of the {stage}") }))
        } else {
            (State::Stopped, None)
        };
        let busy = name.and_then(|name| view.observed.running.get(&crate::plan::StepKey::Child { name }));
        let waiting = match busy {
            Some(step) => Some(Waiting::Step { what: step.what.clone(), since: step.since }),
            None => waiting,
        };
        draft.show(BoxPlan { label: id.to_string(), id, state, waiting: waiting.into_iter().collect(), reason: None });
    }
}

/// Every box of the stack with the child behind it, in reading order.
fn wanted_boxes(view: &View<'_>) -> Vec<(BoxId, Option<ChildName>)> {
    let stack = view.stack;
    let mut boxes = vec![(BoxId::Edge, Some(child("edge")))];
    boxes.extend(stack.sites.keys().map(|name| (BoxId::Site { name: name.clone() }, Some(child("edge")))));
    for (name, service) in &stack.services {
        let instances = view.observed.fleet.instances(name, service);
        let first = instances.first().map(ChildName::instance);
        let behind = if service.schedule.is_some() { Some(ChildName::run(name)) } else { first };
        boxes.push((BoxId::Service { name: name.clone() }, behind));
        for id in instances {
            let name = ChildName::instance(&id);
            boxes.push((BoxId::Instance { id }, Some(name)));
        }
    }
    if stack.database.is_some() {
        boxes.push((BoxId::Router, Some(child("router"))));
        let members = view.wanted_members();
        boxes.extend(members.into_iter().map(|member| (BoxId::Postgres { member }, Some(ChildName::postgres(member)))));
    }
    if stack.cache.is_some() {
        let cache = |name: ChildName| (BoxId::Cache { name: name.to_string() }, Some(name));
        boxes.push(cache(child("cache")));
        boxes.extend(crate::replicas::wanted(view).into_iter().map(cache));
    }
    if stack.observe.enabled {
        boxes.push((BoxId::Prometheus, Some(child("prometheus"))));
        boxes.push((BoxId::Alertmanager, Some(child("alertmanager"))));
    }
    if stack.database.as_ref().is_some_and(|database| database.backup.is_some()) {
        boxes.push((BoxId::Backups, Some(crate::backups::child())));
    }
    boxes.push((BoxId::Control, None));
    boxes
}
