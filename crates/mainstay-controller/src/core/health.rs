//! Health of instances, of whichever release: a machine for every start, fed by probes.

use mainstay_decide::fleet;
use mainstay_decide::health::HealthMachine;
use mainstay_decide::observed::{Health, HealthSeen};
use mainstay_stack::model::Probe;
use mainstay_types::{ChildName, InstanceId, Nonce, Timestamp};

use super::Core;
use crate::message::Message;
use crate::{prober, story};

impl Core {
    /// Gives every running start of an instance its health machine and shows what the machines say.
    pub(super) fn refresh_health(&mut self, at: Timestamp) {
        let Some(children) = self.observed.children.value() else { return };
        for id in fleet::all_instances(&self.stack, &self.observed) {
            let latest = children.get(&ChildName::instance(&id));
            let Some(child) = latest.filter(|child| child.ended.is_none()) else {
                self.machines.remove(&id);
                // Why it was stopped: its end by our own signal says nothing.
                let is_told = |seen: &HealthSeen| {
                    seen.health == Health::NeverReady && latest.is_some_and(|child| child.nonce == seen.nonce)
                };
                if !self.observed.health.get(&id).is_some_and(is_told) {
                    self.observed.health.remove(&id);
                }
                continue;
            };
            let machine = self.machines.get(&id).filter(|machine| machine.nonce() == &child.nonce);
            if machine.is_none() {
                self.machines
                    .insert(id.clone(), HealthMachine::new(child.nonce.clone(), child.since, child.quick_ends));
            }
        }
        for (id, machine) in &mut self.machines {
            if let Some(service) = fleet::service_of(&self.stack, &self.observed, id) {
                machine.tick(&service.health, at);
            }
        }
        let seen = self.machines.iter().map(|(id, machine)| (id.clone(), machine.seen()));
        self.observed.health.extend(seen);
    }

    pub(super) fn begin_probes(&mut self, at: Timestamp) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        for (id, machine) in &self.machines {
            let Some(service) = fleet::service_of(&self.stack, &self.observed, id) else { continue };
            let due = machine.next_probe_at(&service.health);
            if due > at {
                next = Some(next.map_or(due, |known| known.min(due)));
                continue;
            }
            if self.probing.get(id) == Some(machine.nonce()) {
                continue;
            }
            self.probing.insert(id.clone(), machine.nonce().clone());
            let (sender, id, nonce) = (self.sender.clone(), id.clone(), machine.nonce().clone());
            let probe = service.health.probe.clone();
            let port = self.effects.instance_port(&id, matches!(probe, Probe::Http { management: true, .. }));
            let timeout = service.health.timeout;
            tokio::spawn(async move {
                let result = prober::probe(&probe, port, timeout).await;
                sender.send(Message::Probe { id, nonce, result }).await.ok();
            });
        }
        next
    }

    pub(super) fn take_probe(
        &mut self,
        id: &InstanceId,
        nonce: &Nonce,
        result: &mainstay_decide::health::ProbeResult,
        at: Timestamp,
    ) {
        self.probing.remove(id);
        let Some(service) = fleet::service_of(&self.stack, &self.observed, id) else { return };
        let Some(machine) = self.machines.get_mut(id).filter(|machine| machine.nonce() == nonce) else { return };
        let began = machine.seen().since;
        if let Some(transition) = machine.step(&service.health, at, result) {
            self.journal.emit(story::health(id, transition, &machine.seen(), began, at));
        }
    }
}
