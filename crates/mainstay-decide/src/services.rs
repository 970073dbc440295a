//! Instances of the application: started when what they use is ready, restarted alone, stopped with a drain.

use std::collections::BTreeSet;

use mainstay_stack::model::{Probe, Service};
use mainstay_types::{BoxId, ChildName, InstanceId, ServiceName, State, Waiting};

use crate::children::TERMINATE;
use crate::draft::{Draft, Stop, end_reason, idle_state};
use crate::endpoints::health_of;
use crate::observed::{Health, HealthSeen};
use crate::plan::{BoxPlan, Step, StepKey};
use crate::restart;
use crate::rollout;
use crate::schedule;
use crate::view::{Life, View};

/// What services depend on.
pub(crate) struct Tiers {
    /// What the database still waits for; `None`: it takes writes and its schema is there.
    pub(crate) database: Option<Waiting>,
    /// The schema is there: an instance that is started again needs no more, the router holds its sessions.
    pub(crate) is_schema_ready: bool,
    /// Both Redis answer.
    pub(crate) is_cache_ready: bool,
}

/// Plans all services and draws their boxes.
pub(crate) fn plan(draft: &mut Draft<'_>, tiers: &Tiers) {
    let stack = draft.view.stack;
    for (name, service) in &stack.services {
        let waiting = blocked(draft, name, service, tiers);
        if let Some(schedule) = &service.schedule {
            let mut shown = schedule::plan(draft, name, service, schedule, waiting);
            show_failed_release(&draft.view, name, &mut shown);
            draft.show(shown);
            continue;
        }
        let mut boxes = Vec::new();
        let all = draft.view.observed.fleet.wanted(name, service);
        let wanted = rollout::old_instances(&draft.view, name, service);
        for id in &wanted {
            boxes.push(instance(draft, id, service, waiting.as_ref()));
        }
        let new = new_instances(draft, name, tiers);
        boxes.extend(new.iter().map(|(_, shown)| shown.clone()));
        let is_wanted = |id: &InstanceId| wanted.contains(id) || new.iter().any(|(new, _)| new == id);
        for id in running_instances(&draft.view, name).into_iter().filter(|id| !is_wanted(id)) {
            boxes.push(surplus(draft, &id, service));
        }
        let mut shown = whole(name, all as usize, &boxes, waiting);
        show_failed_release(&draft.view, name, &mut shown);
        draft.show(shown);
        draft.plan.boxes.extend(boxes);
    }
    for name in added(&draft.view) {
        let new = new_instances(draft, &name, tiers);
        let mut boxes: Vec<_> = new.iter().map(|(_, shown)| shown.clone()).collect();
        let seen = draft.view.observed.rollout.as_ref();
        if let Some(service) = seen.and_then(|seen| seen.stack.services.get(&name)) {
            let running = running_instances(&draft.view, &name);
            for id in running.into_iter().filter(|id| !new.iter().any(|(new, _)| new == id)) {
                boxes.push(surplus(draft, &id, service));
            }
        }
        let label = format!("{} of the new release", boxes.len());
        if !draft.view.stack.services.contains_key(&name) {
            draft.show(BoxPlan {
                id: BoxId::Service { name },
                label,
                state: State::Starting,
                waiting: vec![],
                reason: None,
            });
        }
        draft.plan.boxes.extend(boxes);
    }
}

/// Services that stand only in the release on its way.
fn added(view: &View<'_>) -> Vec<ServiceName> {
    let Some(seen) = &view.observed.rollout else { return Vec::new() };
    let standing = seen.stack.services.iter().filter(|(_, service)| service.schedule.is_none());
    // One that runs on a schedule has no instances until the release is live.
    let stands = |name: &ServiceName| view.stack.services.get(name).is_some_and(|service| service.schedule.is_none());
    standing.map(|(name, _)| name.clone()).filter(|name| !stands(name)).collect()
}

/// Instances of the release on its way.
fn new_instances(draft: &mut Draft<'_>, name: &ServiceName, tiers: &Tiers) -> Vec<(InstanceId, BoxPlan)> {
    let view = draft.view;
    let Some(seen) = &view.observed.rollout else { return Vec::new() };
    let Some(service) = seen.stack.services.get(name) else { return Vec::new() };
    let database = tiers.database.as_ref().filter(|_| service.uses_database && !tiers.is_schema_ready);
    let release = seen.record.release;
    let mut shown = Vec::new();
    for id in rollout::new_instances(&view, seen, name) {
        let start = Step::StartNew { id: id.clone(), release };
        let mut drawn = standing(draft, &id, service, (database, start));
        drawn.label = format!("v{release}");
        shown.push((id, drawn));
    }
    shown
}

/// A release command that failed is why nothing starts, also while it is tried again.
fn show_failed_release(view: &View<'_>, name: &ServiceName, shown: &mut BoxPlan) {
    let failed = view.observed.failed.get(&StepKey::Before { service: name.clone() });
    if let Some(failed) = failed.filter(|_| !shown.waiting.is_empty() && shown.state != State::Degraded) {
        shown.state = State::Failed;
        shown.reason = Some(failed.error.clone());
    }
}

/// Running instances of a service, wanted or not, in order of their slots.
pub(crate) fn running_instances(view: &View<'_>, service: &ServiceName) -> BTreeSet<InstanceId> {
    let prefix = format!("{service}-");
    let mut found = BTreeSet::new();
    for (name, child) in view.children {
        let slot = name.as_str().strip_prefix(&prefix).and_then(|slot| slot.parse::<u32>().ok());
        // A service `web` and a service `web-1`: `web-1-2` is none of `web`'s, and `01` is no slot of ours.
        let Some(slot) = slot.filter(|slot| *slot > 0 && child.ended.is_none()) else { continue };
        let id = InstanceId { service: service.clone(), slot };
        if ChildName::instance(&id) == *name {
            found.insert(id);
        }
    }
    found
}

/// What keeps the service's instances from being started; asks for its release command when it is due.
fn blocked(draft: &mut Draft<'_>, name: &ServiceName, service: &Service, tiers: &Tiers) -> Option<Waiting> {
    let view = draft.view;
    let was_started = !running_instances(&view, name).is_empty();
    if service.uses_database && view.stack.database.is_some() {
        let is_enough = was_started && tiers.is_schema_ready;
        if let Some(waiting) = tiers.database.as_ref().filter(|_| !is_enough) {
            return Some(waiting.clone());
        }
    }
    if service.uses_cache && view.stack.cache.is_some() && !tiers.is_cache_ready && !was_started {
        return Some(Waiting::Dependency { on: "cache and store".to_owned() });
    }
    if service.before.is_some() && !view.observed.before_done.contains_key(name) {
        return Some(draft.ask(Step::RunBefore { service: name.clone() }));
    }
    if was_started {
        return None;
    }
    service
        .needs
        .iter()
        .find(|needed| !is_ready(&view, needed))
        .map(|needed| Waiting::Dependency { on: needed.to_string() })
}

fn is_ready(view: &View<'_>, service: &ServiceName) -> bool {
    let is_ready = |id: &InstanceId| health_of(view, id).is_some_and(|health| health.health == Health::Ready);
    running_instances(view, service).iter().any(is_ready)
}

fn instance(draft: &mut Draft<'_>, id: &InstanceId, service: &Service, blocked: Option<&Waiting>) -> BoxPlan {
    standing(draft, id, service, (blocked, Step::StartInstance { id: id.clone() }))
}

/// An instance that should run, with the step that starts it and what keeps it from being started.
fn standing(
    draft: &mut Draft<'_>,
    id: &InstanceId,
    service: &Service,
    (blocked, start): (Option<&Waiting>, Step),
) -> BoxPlan {
    let name = ChildName::instance(id);
    let life = draft.view.life(&name);
    let mut shown = BoxPlan {
        id: BoxId::Instance { id: id.clone() },
        label: if service.has_port { id.to_string() } else { "worker".to_owned() },
        state: State::Starting,
        waiting: vec![],
        reason: None,
    };
    let Life::Runs(child) = life else {
        let waiting = match blocked {
            // Its service's release command runs or failed; that is no end of this instance.
            Some(Waiting::Step { .. } | Waiting::BackOff { .. }) => {
                Waiting::Dependency { on: format!("the release command of {}", id.service) }
            }
            Some(waiting) => waiting.clone(),
            None => draft.start(life, start),
        };
        shown.state = idle_state(life, &waiting);
        shown.reason = never_ready(&draft.view, id, life, service).or_else(|| end_reason(life));
        shown.waiting.push(waiting);
        return shown;
    };
    let Some(health) = health_of(&draft.view, id) else {
        shown.waiting.push(Waiting::Readiness { probe: "its first answer".to_owned() });
        return shown;
    };
    match health.health {
        Health::Ready => shown.state = State::Ready,
        Health::Starting if service.health.probe == Probe::Process => {
            let settles_after = restart::settles_after(child.quick_ends);
            let probe = format!("it to stay up for {} s", settles_after.as_secs());
            shown.waiting.push(Waiting::Readiness { probe });
            draft.wake(child.since.after(settles_after));
        }
        Health::Starting => {
            let probe = if health.last.is_empty() { "its first answer" } else { &health.last };
            shown.waiting.push(Waiting::Readiness { probe: probe.to_owned() });
            draft.wake(child.since.after(service.health.start_within));
        }
        Health::Suspended => {
            shown.state = State::Failed;
            shown.reason = Some(format!("takes no requests: {}", health.last));
            shown.waiting.push(Waiting::Readiness { probe: health.last.clone() });
        }
        Health::NeverReady => {
            shown.state = State::Failed;
            shown.reason = Some(format!("{}; it is started again", not_ready(service, health)));
            shown.waiting.push(draft.stop(&name, child, drain(service)));
        }
    }
    let key = StepKey::Child { name };
    if let Some(running) = draft.view.observed.running.get(&key) {
        shown.state = State::Draining;
        shown.waiting = vec![Waiting::Step { what: running.what.clone(), since: running.since }];
    }
    shown
}

/// What a start that never became ready said last.
pub(crate) fn not_ready(service: &Service, health: &HealthSeen) -> String {
    let within = mainstay_stack::units::show_duration(service.health.start_within);
    format!("was not ready within {within}: {}", health.last)
}

/// A start that was stopped because it never became ready: its end by our own signal says nothing.
fn never_ready(view: &View<'_>, id: &InstanceId, life: Life<'_>, service: &Service) -> Option<String> {
    let Life::Ended { child, .. } = life else { return None };
    let health = view.observed.health.get(id)?;
    let is_it = health.nonce == child.nonce && health.health == Health::NeverReady;
    is_it.then(|| format!("{}; it is started again", not_ready(service, health)))
}

/// An instance that nobody wants any more.
fn surplus(draft: &mut Draft<'_>, id: &InstanceId, service: &Service) -> BoxPlan {
    let name = ChildName::instance(id);
    let waiting = match draft.view.life(&name) {
        Life::Runs(child) => vec![draft.stop(&name, child, drain(service))],
        Life::Never | Life::Ended { .. } => vec![],
    };
    let id = BoxId::Instance { id: id.clone() };
    let reason = Some("is not wanted any more".to_owned());
    BoxPlan { id, label: "surplus".to_owned(), state: State::Draining, waiting, reason }
}

pub(crate) fn drain(service: &Service) -> Stop {
    Stop { signal: TERMINATE, grace: service.drain }
}

fn whole(name: &ServiceName, wanted: usize, instances: &[BoxPlan], blocked: Option<Waiting>) -> BoxPlan {
    let ready = instances.iter().filter(|shown| shown.state == State::Ready).count();
    let mut shown = BoxPlan {
        id: BoxId::Service { name: name.clone() },
        label: format!("{ready} of {wanted} ready"),
        state: State::Ready,
        waiting: vec![],
        reason: None,
    };
    if ready >= wanted {
        return shown;
    }
    let worst = instances.iter().filter(|shown| shown.state != State::Ready).max_by_key(|shown| shown.state);
    shown.waiting = blocked.into_iter().collect();
    if let Some(worst) = worst {
        if shown.waiting.is_empty() {
            shown.waiting.clone_from(&worst.waiting);
        }
        shown.reason = worst.reason.as_ref().map(|reason| format!("{}: {reason}", worst.id));
        shown.state = worst.state;
    }
    if let Some(Waiting::BackOff { reason, .. }) = shown.waiting.first() {
        shown.reason.get_or_insert_with(|| reason.clone());
    }
    if ready > 0 {
        shown.state = State::Degraded;
    }
    shown
}
