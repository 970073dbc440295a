//! What will not come up by waiting. Everything is tried again for ever, ever more rarely; but a person who has just
//! typed `up` is told at once what a further try cannot mend, with the reason of the last.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_types::{ChildName, InstanceId};

use crate::endpoints::health_of;
use crate::observed::{ChildSeen, FailedStep, Health};
use crate::plan::StepKey;
use crate::view::View;
use crate::{restart, services};

/// Tries of a release command: it is the application's own, and what it needs is ready when it is run.
const RELEASE_TRIES: u32 = 3;
/// Tries of migrations and roles; the pauses between them add up to 3 s, in which a server may have come back.
const SCHEMA_TRIES: u32 = 6;
/// Tries to start an instance that cannot even be executed; the pauses add up to 1.5 s, in which a file is whole that
/// was in the middle of its change, and a keep is back.
const INSTANCE_TRIES: u32 = 5;
/// For so long a part of our own is tried without success: a port is let go meanwhile, and survivors of a killed server
/// are gone. Tries would tell nothing: those of a repair come four times a second.
const PART_FOR: Duration = Duration::from_secs(13);
/// For so long an instance may answer that the question is wrong: some frameworks listen before they know their paths.
const WRONG_FOR: Duration = Duration::from_secs(10);

/// What is lost, and why, by what would have to succeed.
pub(crate) fn find(view: &View<'_>) -> BTreeMap<StepKey, String> {
    let mut lost = BTreeMap::new();
    for name in own_children(view) {
        let why = view.children.get(&name).and_then(|child| ends(&name, child));
        lost.extend(why.map(|why| (StepKey::Child { name }, why)));
    }
    for (service_name, service) in view.stack.services.iter().filter(|(_, service)| service.schedule.is_none()) {
        for id in view.observed.fleet.instances(service_name, service) {
            let name = ChildName::instance(&id);
            let child = view.children.get(&name);
            let why = child.and_then(|child| ends(&name, child)).or_else(|| never_answers(view, &id));
            lost.extend(why.map(|why| (StepKey::Child { name }, why)));
        }
    }
    let parts = own_children(view);
    for (key, failed) in &view.observed.failed {
        let (is_lost, why) = match key {
            // The next try, above all that of a clone, may take longer than all that failed.
            StepKey::Child { name } if parts.contains(name) => {
                (view.now.saturating_since(failed.since) >= PART_FOR && !view.is_busy(key), of_child(name, failed))
            }
            StepKey::Child { name } => (failed.attempts >= INSTANCE_TRIES, of_child(name, failed)),
            StepKey::Schema => (failed.attempts >= SCHEMA_TRIES, failed.error.clone()),
            StepKey::Before { .. } => (failed.attempts >= RELEASE_TRIES, failed.error.clone()),
            // Between a failure and its repair there is no giving up.
            StepKey::Cluster | StepKey::Checkpoint | StepKey::Store | StepKey::Rollout | StepKey::Release => continue,
        };
        if is_lost {
            lost.insert(key.clone(), why);
        }
    }
    lost
}

/// What could not be done about a child: it was not always its start.
fn of_child(name: &ChildName, failed: &FailedStep) -> String {
    let FailedStep { what, error, .. } = failed;
    if what.starts_with("starts ") {
        format!("{name} cannot be started: {error}")
    } else {
        format!("{name}: {what} failed: {error}")
    }
}

/// Children that are no instances.
fn own_children(view: &View<'_>) -> Vec<ChildName> {
    let stack = view.stack;
    let mut names = vec!["edge"];
    if stack.database.is_some() {
        names.push("router");
    }
    if stack.cache.is_some() {
        names.push("cache");
    }
    // A replica that is lost takes nothing from those who use the store.
    let stores = stack.cache.is_some().then(|| crate::replicas::primary(view));
    if stack.observe.enabled {
        names.extend(["prometheus", "alertmanager"]);
    }
    let members = view.wanted_members().into_iter().filter(|_| stack.database.is_some());
    let names = names.into_iter().map(crate::children::child);
    names.chain(stores).chain(members.map(ChildName::postgres)).collect()
}

/// It ends as often as it is started.
fn ends(name: &ChildName, child: &ChildSeen) -> Option<String> {
    let (reason, _) = child.ended.as_ref()?;
    restart::is_crash_loop(child).then(|| format!("{name} ended {} times in a row, last by {reason}", child.quick_ends))
}

/// It runs, and nothing it says will make it ready.
fn never_answers(view: &View<'_>, id: &InstanceId) -> Option<String> {
    let service = view.stack.services.get(&id.service)?;
    let health = health_of(view, id)?;
    let wrong_for = health.wrong_since.map(|since| view.now.saturating_since(since));
    match health.health {
        Health::NeverReady => Some(format!("{id} {}", services::not_ready(service, health))),
        Health::Starting if wrong_for.is_some_and(|time| time >= WRONG_FOR) => {
            Some(format!("{id} has answered for {} s: {}", WRONG_FOR.as_secs(), health.last))
        }
        Health::Starting | Health::Ready | Health::Suspended => None,
    }
}
