//! Which instances the edge may send requests to. Never an ended one, never one whose health is another start's.

use std::collections::BTreeMap;

use mainstay_types::{ChildName, InstanceId};

use crate::draft::Draft;
use crate::observed::{Health, HealthSeen};
use crate::plan::{EndpointPlan, Step, StepKey};
use crate::services;
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
            endpoints.push(EndpointPlan { instance: id, nonce: child.nonce.clone(), is_ready, release: 0 });
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
