//! The whole plan, tier by tier.

use mainstay_stack::Stack;
use mainstay_types::{BoxId, Seen, State, Timestamp, Waiting};

use crate::draft::Draft;
use crate::observed::Observed;
use crate::plan::{BoxPlan, Plan};
use crate::services::Tiers;
use crate::view::{View, wanted_members};
use crate::{backups, children, database, endpoints, lost, replicas, rollout, services, stop};

pub(crate) fn plan(stack: &Stack, observed: &Observed, now: Timestamp) -> Plan {
    let Seen::Fact { value: children, .. } = &observed.children else { return blind(stack, observed) };
    let mut draft = Draft::new(View { stack, observed, children, now });
    if observed.is_stopping {
        let is_draining = stop::is_draining(&draft.view);
        stop::plan(&mut draft);
        draft.plan.endpoints = endpoints::plan(&draft, is_draining);
        return draft.plan;
    }
    let edge = children::edge(&mut draft);
    draft.show(edge.clone());
    children::sites(&mut draft, &edge);
    let database = database::plan(&mut draft);
    let (is_cache_ready, caches) = children::caches(&mut draft);
    let telemetry = children::telemetry(&mut draft);
    let tiers = Tiers {
        database: database.as_ref().and_then(|tier| tier.waiting.clone()),
        is_schema_ready: database.as_ref().is_none_or(|tier| tier.is_schema_ready),
        is_cache_ready,
    };
    services::plan(&mut draft, &tiers);
    draft.plan.rollout = rollout::plan(&mut draft, tiers.database.as_ref());
    draft.plan.boxes.extend(database.into_iter().flat_map(|tier| tier.boxes));
    draft.plan.boxes.extend(caches);
    draft.plan.boxes.extend(telemetry);
    if let Some(shown) = backups::plan(&mut draft) {
        draft.show(shown);
    }
    draft.show(control(State::Ready, vec![]));
    draft.plan.endpoints = endpoints::plan(&draft, false);
    draft.plan.shares = endpoints::shares(&draft.view);
    draft.plan.lost = lost::find(&draft.view);
    draft.plan
}

fn control(state: State, waiting: Vec<Waiting>) -> BoxPlan {
    BoxPlan { id: BoxId::Control, label: "keep, control plane".to_owned(), state, waiting, reason: None }
}

/// Nobody knows what runs: nothing is started, nothing is stopped, and everyone keeps the endpoints they have.
fn blind(stack: &Stack, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let mut ids = vec![BoxId::Edge];
    ids.extend(stack.sites.keys().map(|name| BoxId::Site { name: name.clone() }));
    for (name, service) in &stack.services {
        ids.push(BoxId::Service { name: name.clone() });
        ids.extend(observed.fleet.instances(name, service).into_iter().map(|id| BoxId::Instance { id }));
    }
    if stack.database.is_some() {
        ids.push(BoxId::Router);
        let record = observed.database.as_ref().and_then(|seen| seen.record.value()).and_then(Option::as_ref);
        ids.extend(wanted_members(stack, record).into_iter().map(|member| BoxId::Postgres { member }));
    }
    if stack.cache.is_some() {
        ids.push(BoxId::Cache { name: "cache".to_owned() });
        let stores = replicas::wanted_of(stack, observed.store.as_ref());
        ids.extend(stores.into_iter().map(|name| BoxId::Cache { name: name.to_string() }));
    }
    if stack.observe.enabled {
        ids.extend([BoxId::Prometheus, BoxId::Alertmanager]);
    }
    if stack.database.as_ref().is_some_and(|database| database.backup.is_some()) {
        ids.push(BoxId::Backups);
    }
    ids.push(BoxId::Control);
    for id in ids {
        let waiting = vec![Waiting::Observation { of: "keep's children".to_owned() }];
        plan.boxes.push(BoxPlan { label: id.to_string(), id, state: State::Unknown, waiting, reason: None });
    }
    plan
}
