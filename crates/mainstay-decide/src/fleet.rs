//! Which slots of a service belong to which release, and how many of its instances are wanted.
//!
//! An instance never changes its release: a new one is started in slots that the old one does not use, so that a name,
//! a port and a line of a log belong to one release.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_stack::Stack;
use mainstay_stack::model::Service;
use mainstay_types::{InstanceId, ServiceName};
use serde::{Deserialize, Serialize};

use crate::observed::Observed;

/// The instances of one release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fleet {
    /// The release.
    pub release: u64,
    /// Slots that belonged to the release before it, by service. Missing: none did.
    #[serde(default)]
    pub taken: BTreeMap<ServiceName, BTreeSet<u32>>,
    /// How many instances a person or the autoscaler wants, by service. Missing: as the stack file says.
    #[serde(default)]
    pub counts: BTreeMap<ServiceName, u32>,
}

impl Fleet {
    /// The first `count` slots of a service in this release.
    pub fn slots(&self, service: &ServiceName, count: u32) -> Vec<u32> {
        let taken = self.taken.get(service);
        let is_free = |slot: &u32| taken.is_none_or(|taken| !taken.contains(slot));
        (1..).filter(is_free).take(count as usize).collect()
    }

    /// Whether a slot is one of this release's, used or not.
    pub fn owns(&self, id: &InstanceId) -> bool {
        self.taken.get(&id.service).is_none_or(|taken| !taken.contains(&id.slot))
    }

    /// How many instances are wanted. A service with a schedule has none that stand.
    pub fn wanted(&self, name: &ServiceName, service: &Service) -> u32 {
        if service.schedule.is_some() {
            return 0;
        }
        self.counts.get(name).copied().unwrap_or(service.instances)
    }

    /// The instances that are wanted, in order of their slots.
    pub fn instances(&self, name: &ServiceName, service: &Service) -> Vec<InstanceId> {
        let slots = self.slots(name, self.wanted(name, service));
        slots.into_iter().map(|slot| InstanceId { service: name.clone(), slot }).collect()
    }

    /// Every instance that this release may ever have.
    pub fn most(&self, name: &ServiceName, service: &Service) -> Vec<InstanceId> {
        let count = service.most_instances().max(self.wanted(name, service));
        self.slots(name, count).into_iter().map(|slot| InstanceId { service: name.clone(), slot }).collect()
    }

    /// The fleet of the release after this one, whose stack is `live`. Slots of this one stay its own. A number that a
    /// person or the load gave stays, unless the release itself (`next`) says another.
    pub fn next(&self, live: &Stack, next: &Stack, release: u64) -> Self {
        let taken = live.services.iter().map(|(name, service)| {
            let slots = self.most(name, service).into_iter().map(|id| id.slot);
            (name.clone(), slots.collect())
        });
        let mut counts = self.counts.clone();
        counts.retain(|name, count| match (live.services.get(name), next.services.get(name)) {
            (Some(_), Some(new)) if new.scale.is_some() => {
                // Under load it must not begin with the fewest.
                *count = (*count).clamp(new.instances.min(new.most_instances()), new.most_instances());
                true
            }
            (Some(old), Some(new)) => old.instances == new.instances && old.scale == new.scale,
            _ => false,
        });
        Self { release, taken: taken.collect(), counts }
    }
}

/// Every instance that may run, of the live release and of the one on its way.
pub fn all_instances(stack: &Stack, observed: &Observed) -> Vec<InstanceId> {
    let live = stack.services.iter().flat_map(|(name, service)| observed.fleet.most(name, service));
    let mut all: Vec<InstanceId> = live.collect();
    if let Some(seen) = &observed.rollout {
        all.extend(seen.stack.services.iter().flat_map(|(name, service)| seen.record.fleet.most(name, service)));
    }
    all
}

/// The service that an instance is one of, as its own release has it.
pub fn service_of<'a>(stack: &'a Stack, observed: &'a Observed, id: &InstanceId) -> Option<&'a Service> {
    let new = observed.rollout.as_ref().filter(|seen| seen.record.fleet.owns(id));
    new.map_or(stack, |seen| &seen.stack).services.get(&id.service)
}

#[cfg(test)]
mod tests {
    use mainstay_types::EnvironmentName;

    use super::*;

    fn stack(instances: u32) -> Stack {
        let text = format!(
            "stack = \"s\"\n[[edge.route]]\npath = \"/*\"\nto = \"web\"\n[service.web]\nrun = \"x\"\ninstances = {instances}\n"
        );
        mainstay_stack::parse(&text, "mainstay.toml", &EnvironmentName::default()).expect("a stack").stack
    }

    #[test]
    fn a_release_uses_slots_that_the_one_before_it_does_not() {
        let stack = stack(2);
        let web = ServiceName::new("web").expect("a name");
        let first = Fleet { release: 1, ..Fleet::default() };
        assert_eq!(first.slots(&web, 2), [1, 2]);
        let second = first.next(&stack, &stack, 2);
        assert_eq!((second.release, second.slots(&web, 2)), (2, vec![3, 4]));
        let third = second.next(&stack, &stack, 3);
        assert_eq!(third.slots(&web, 3), [1, 2, 5], "what the second left is used again");
        let id = |slot| InstanceId { service: web.clone(), slot };
        assert!(third.owns(&id(1)) && third.owns(&id(5)) && !third.owns(&id(3)));
    }

    #[test]
    fn a_count_goes_before_the_stack_file_and_on_to_the_next_release() {
        let stack = stack(2);
        let web = ServiceName::new("web").expect("a name");
        let mut fleet = Fleet { release: 1, ..Fleet::default() };
        fleet.counts.insert(web.clone(), 5);
        assert_eq!(fleet.wanted(&web, &stack.services[&web]), 5);
        let next = fleet.next(&stack, &stack, 2);
        let slots: Vec<u32> = next.instances(&web, &stack.services[&web]).iter().map(|id| id.slot).collect();
        assert_eq!(slots, [6, 7, 8, 9, 10]);
    }

    #[test]
    fn a_release_that_says_another_number_has_that_and_a_scaled_one_keeps_what_the_load_gave() {
        let text = |scale: &str| {
            format!("stack = \"s\"\n[[edge.route]]\npath = \"/*\"\nto = \"web\"\n[service.web]\nrun = \"x\"\n{scale}\n")
        };
        let parse = |scale: &str| {
            mainstay_stack::parse(&text(scale), "mainstay.toml", &EnvironmentName::default()).expect("a stack").stack
        };
        let web = ServiceName::new("web").expect("a name");
        let fleet = Fleet { release: 1, counts: BTreeMap::from([(web.clone(), 8)]), ..Fleet::default() };
        let count = |old: &Stack, new: &Stack| fleet.next(old, new, 2).counts.get(&web).copied();
        let scaled = |max: u32| parse(&format!("scale = {{ min = 2, max = {max}, requests = 20 }}"));
        assert_eq!(count(&stack(2), &stack(3)), None, "its own number counts");
        assert_eq!(count(&stack(2), &stack(2)), Some(8));
        assert_eq!(count(&scaled(10), &scaled(12)), Some(8), "and not the fewest");
        assert_eq!(count(&scaled(10), &scaled(5)), Some(5), "within its own bounds");
    }
}
