//! Which instances the edge may send requests to. Never an ended one, never one whose health is another start's.

use std::collections::BTreeMap;

use mainstay_types::{ChildName, InstanceId};

use crate::draft::Draft;
use crate::observed::{Health, HealthSeen};
use crate::plan::{EndpointPlan, Step, StepKey};
use crate::services;
use crate::share::Share;
use crate::view::View;

/// Endpoints of every upstream whose instances are known.
pub(crate) fn plan(draft: &Draft<'_>, is_draining: bool) -> BTreeMap<String, Vec<EndpointPlan>> {
    let view = draft.view;
    let mut upstreams = BTreeMap::new();
    for (name, service) in &view.stack.services {
        if !service.has_port && !service.has_management_port {
            continue;
        }
        let mut endpoints = Vec::new();
        let mut is_known = true;
        for id in services::running_instances(&view, name) {
            let child_name = ChildName::instance(&id);
            let Some(child) = view.life(&child_name).runs() else { continue };
            let health = health_of(&view, &id);
            // Adopted and not asked yet: whether it is ready, the edge knows better.
            is_known &= health.is_some_and(|health| !health.last.is_empty());
            let is_ready = health.is_some_and(|health| health.health == Health::Ready)
                && !is_draining
                && !is_being_stopped(draft, &child_name);
            let release = release_of(&view, &id);
            endpoints.push(EndpointPlan { instance: id, nonce: child.nonce.clone(), is_ready, release });
        }
        if !is_known && !is_draining {
            continue;
        }
        if service.has_management_port {
            upstreams.insert(format!("{name}:management"), endpoints.clone());
        }
        if service.has_port {
            upstreams.insert(name.to_string(), endpoints);
        }
    }
    upstreams
}

/// The release that an instance is of.
fn release_of(view: &View<'_>, id: &InstanceId) -> u64 {
    let rollout = view.observed.rollout.as_ref().map(|seen| &seen.record);
    rollout.filter(|record| record.fleet.owns(id)).map_or(view.observed.fleet.release, |record| record.release)
}

/// The share of a new release, by upstream that both releases have.
pub(crate) fn shares(view: &View<'_>) -> BTreeMap<String, Share> {
    let mut shares = BTreeMap::new();
    let Some(seen) = &view.observed.rollout else { return shares };
    let Some(share) = seen.record.share() else { return shares };
    for (name, service) in &view.stack.services {
        if !seen.stack.services.contains_key(name) {
            continue;
        }
        if service.has_port {
            shares.insert(name.to_string(), share);
        }
        if service.has_management_port {
            shares.insert(format!("{name}:management"), share);
        }
    }
    shares
}

/// Health of the present start.
pub(crate) fn health_of<'a>(view: &View<'a>, id: &InstanceId) -> Option<&'a HealthSeen> {
    let child = view.life(&ChildName::instance(id)).runs()?;
    view.observed.health.get(id).filter(|health| health.nonce == child.nonce)
}

/// A step on a running instance can only be its stop.
fn is_being_stopped(draft: &Draft<'_>, name: &ChildName) -> bool {
    let is_planned = |step: &Step| matches!(step, Step::Stop { name: stopped, .. } if stopped == name);
    draft.plan.steps.iter().any(is_planned) || draft.view.is_busy(&StepKey::Child { name: name.clone() })
}
