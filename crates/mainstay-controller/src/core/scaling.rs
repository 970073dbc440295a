//! Scaling as the loop does it: looks every 15 s, decides, remembers, tells.

mod measures;
mod shown;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mainstay_api::{ScaleAsked, ScaleChange, ScaleStatus, Status};
use mainstay_decide::autoscale::rates::Limit;
use mainstay_decide::autoscale::{self, Decision, Inputs, Measure, Memory, Room};
use mainstay_edge::protocol::Counts;
use mainstay_stack::Stack;
use mainstay_stack::model::Service;
use mainstay_stack::scale::Scale;
use mainstay_types::{Bytes, ServiceName, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::Core;
use crate::load::{self, Load};
use crate::message::Message;
use crate::store::NewEvent;

/// What is known of scaling, in the store: a control plane that begins goes on with it.
pub(crate) const FACT: &str = "scale";
/// Changes that are shown.
const CHANGES: usize = 10;

/// What reaches the loop about scaling.
#[derive(Debug)]
pub(crate) enum ScalingMessage {
    /// A look at what instances use.
    Load(Load),
    /// A person asks for a number, or for the load to move it.
    Asked {
        service: ServiceName,
        asked: ScaleAsked,
        /// How it stands, or which code and why not.
        answer: oneshot::Sender<Result<ScaleStatus, (&'static str, String)>>,
    },
}

/// What is kept of a service.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    /// What the stack file said when it was made.
    says: serde_json::Value,
    count: u32,
    is_auto: bool,
    memory: Memory,
    changes: VecDeque<ScaleChange>,
}

impl Record {
    fn of(service: &Service) -> Self {
        let is_auto = is_moved(service);
        Self {
            says: says(service),
            count: service.instances,
            is_auto,
            memory: Memory::default(),
            changes: VecDeque::new(),
        }
    }

    /// What is left of it when the stack file says something else now.
    fn adapted(self, service: &Service) -> Option<Self> {
        if self.says == says(service) {
            return Some(self);
        }
        let scale = service.scale.as_ref()?;
        // The number goes on within the new bounds: a release under load does not begin with the fewest.
        let count = self.count.clamp(service.instances.min(scale.max), scale.max);
        Some(Self { count, changes: self.changes, ..Self::of(service) })
    }
}

/// Whether the stack file names what would move the number.
fn is_moved(service: &Service) -> bool {
    service.scale.as_ref().is_some_and(Scale::is_moved)
}

fn says(service: &Service) -> serde_json::Value {
    serde_json::json!([service.instances, service.scale])
}

/// What the latest decision about a service was made of.
#[derive(Debug)]
struct Latest {
    at: Timestamp,
    decision: Decision,
    measures: Vec<Measure>,
}

/// Requests to a service since the last decision.
#[derive(Debug, Default)]
struct Asked {
    requests: u64,
    latency: Vec<u64>,
}

/// Everything about scaling that the loop owns.
pub(super) struct Scaling {
    records: BTreeMap<ServiceName, Record>,
    kept: watch::Sender<Option<String>>,
    /// When the next look is due; `None`: one is under way.
    due: Option<Timestamp>,
    /// The latest look.
    before: Option<Load>,
    asked: BTreeMap<ServiceName, Asked>,
    asked_ms: u64,
    latest: BTreeMap<ServiceName, Latest>,
    rooms: BTreeMap<ServiceName, Room>,
}

impl Scaling {
    /// Goes on with what an earlier control plane kept.
    pub(super) fn new(
        stack: &Stack,
        fact: Option<&str>,
        counts: &mut BTreeMap<ServiceName, u32>,
        kept: watch::Sender<Option<String>>,
        at: Timestamp,
    ) -> Self {
        let known: BTreeMap<ServiceName, Record> =
            fact.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let mut records = BTreeMap::new();
        for (name, service) in stack.services.iter().filter(|(_, service)| service.schedule.is_none()) {
            let kept = known.get(name).cloned().and_then(|record| record.adapted(service));
            match &kept {
                Some(record) => counts.insert(name.clone(), record.count),
                None => counts.remove(name),
            };
            records.insert(name.clone(), kept.unwrap_or_else(|| Record::of(service)));
        }
        Self {
            records,
            kept,
            // At once: CPU is known by two looks, and what the machine has room for by one.
            due: Some(at),
            before: None,
            asked: BTreeMap::new(),
            asked_ms: 0,
            latest: BTreeMap::new(),
            rooms: BTreeMap::new(),
        }
    }

    /// Counts what the edge reports.
    pub(super) fn edge(&mut self, window_ms: u64, upstreams: &BTreeMap<String, Counts>) {
        self.asked_ms += window_ms;
        for (name, record) in upstreams {
            // `web:management` is asked by machines.
            let Some(service) = self.records.keys().find(|known| known.as_str() == name).cloned() else { continue };
            let asked = self.asked.entry(service).or_default();
            asked.requests += record.requests;
            asked.latency.resize(asked.latency.len().max(record.latency.len()), 0);
            asked.latency.iter_mut().zip(&record.latency).for_each(|(sum, count)| *sum += count);
        }
    }

    fn keep(&self) {
        self.kept.send_replace(serde_json::to_string(&self.records).ok());
    }
}

impl Core {
    /// Begins a look when one is due.
    pub(super) fn look_at_load(&mut self, at: Timestamp) {
        if self.scaling.due.is_none_or(|due| due > at) || self.observed.is_stopping {
            return;
        }
        self.scaling.due = None;
        let standing = self.scaling.records.keys();
        let processes = standing
            .flat_map(|name| self.observed.fleet.most(name, &self.stack.services[name]))
            .map(|id| mainstay_types::ChildName::instance(&id))
            .filter_map(|name| {
                let child = self.children.get(&name).filter(|child| child.ended.is_none())?;
                Some((name, child.nonce.clone(), child.pid))
            })
            .collect();
        let (effects, sender) = (Arc::clone(&self.effects), self.sender.clone());
        tokio::spawn(async move {
            let load = load::look(effects, processes).await;
            sender.send(Message::Scaling(ScalingMessage::Load(load))).await.ok();
        });
    }

    pub(super) fn take_scaling(&mut self, message: ScalingMessage, at: Timestamp) {
        match message {
            ScalingMessage::Load(load) => self.take_load(load, at),
            ScalingMessage::Asked { service, asked, answer } => {
                // Who asked may be gone by now.
                answer.send(self.take_asked(&service, asked, at)).ok();
            }
        }
    }

    fn take_load(&mut self, load: Load, at: Timestamp) {
        self.scaling.due = Some(load.at.after(autoscale::PERIOD).max(at));
        self.take_rooms(&load);
        if self.scaling.before.is_some() {
            let names: Vec<ServiceName> = self.scaling.records.keys().cloned().collect();
            for name in names {
                self.decide_scale(&name, &load, at);
            }
        }
        self.scaling.before = Some(load);
        self.scaling.asked.clear();
        self.scaling.asked_ms = 0;
        self.scaling.keep();
    }

    /// What the machine has room for, by what instances are allowed to take, else by what they take.
    fn take_rooms(&mut self, load: &Load) {
        let Some(machine) = load.machine else { return };
        let mut each = BTreeMap::new();
        let mut current = BTreeMap::new();
        for name in self.scaling.records.keys() {
            let service = &self.stack.services[name];
            let used: Vec<u64> = self
                .observed
                .fleet
                .instances(name, service)
                .iter()
                .filter_map(|id| load.instances.get(&mainstay_types::ChildName::instance(id)))
                .map(|used| used.memory.0)
                .collect();
            let mean = used.iter().sum::<u64>().checked_div(used.len() as u64).map(Bytes);
            if let Some(bytes) = service.memory.or(mean) {
                each.insert(name.clone(), bytes);
            }
            current.insert(name.clone(), self.observed.fleet.wanted(name, service));
        }
        let names = self.scaling.records.keys();
        let rooms = names
            .filter_map(|name| Some((name.clone(), autoscale::room(&self.stack, machine, name, &each, &current)?)));
        self.scaling.rooms = rooms.collect();
    }

    fn decide_scale(&mut self, name: &ServiceName, load: &Load, at: Timestamp) {
        let Some(service) = self.stack.services.get(name) else { return };
        let Some(scale) = &service.scale else { return };
        // Nobody knows what runs, or it is not up for the first time: what is measured is not its work.
        if self.observed.children.value().is_none() || self.observed.is_stopping || !self.picture.was_up() {
            return;
        }
        // Two releases share the work: what either does says nothing of how many one needs.
        if self.observed.rollout.is_some() {
            return;
        }
        let current = self.observed.fleet.wanted(name, service);
        let measures = measures::of(self, name, service, scale, load);
        let Some(record) = self.scaling.records.get_mut(name) else { return };
        let inputs = Inputs { scale, current, measures: &measures, room: self.scaling.rooms.get(name), now: at };
        let mut memory = record.memory.clone();
        let decision = autoscale::decide(&inputs, &mut memory);
        let was_full = self.scaling.latest.get(name).is_some_and(|latest| latest.decision.limit == Limit::Capacity);
        let (count, limit, why) = (decision.count, decision.limit, decision.why.clone());
        self.scaling.latest.insert(name.clone(), Latest { at, decision, measures });
        if !record.is_auto {
            return;
        }
        record.memory = memory;
        if limit == Limit::Capacity && !was_full {
            let event = NewEvent::warn(at, "ScaleRefused", format!("{name} stays below what its load asks for: {why}"));
            self.journal.emit(event.about(name).with("reason", limit.reason()));
        }
        if count != current {
            autoscale::changed(&mut record.memory, scale, current, count, at);
            self.change_scale(name, (current, count), why, limit.reason(), at);
        }
    }

    /// Another number from now on: remembered, told, and planned at the next turn.
    fn change_scale(&mut self, name: &ServiceName, (from, to): (u32, u32), why: String, reason: &str, at: Timestamp) {
        let Some(record) = self.scaling.records.get_mut(name) else { return };
        record.count = to;
        let text = format!("{name} goes from {from} to {to} instances: {why}");
        record.changes.push_front(ScaleChange { at, from, to, why });
        record.changes.truncate(CHANGES);
        self.observed.fleet.counts.insert(name.clone(), to);
        let event = NewEvent::info(at, "Scaled", text).about(name);
        self.journal.emit(event.with("from", from).with("to", to).with("reason", reason));
    }

    fn take_asked(
        &mut self,
        name: &ServiceName,
        asked: ScaleAsked,
        at: Timestamp,
    ) -> Result<ScaleStatus, (&'static str, String)> {
        let unknown = || ("MS4047", format!("the stack has no service {name} that stands"));
        let service = self.stack.services.get(name).filter(|service| service.schedule.is_none()).ok_or_else(unknown)?;
        if self.observed.is_stopping {
            return Err(("MS4093", "the stack is going down".to_owned()));
        }
        if let Some(seen) = &self.observed.rollout {
            return Err(("MS4093", format!("v{} is on its way: ask again when it is there", seen.record.release)));
        }
        let current = self.observed.fleet.wanted(name, service);
        if let Some(count) = asked.count {
            self.check_count(name, service, current, count)?;
        }
        if asked.is_auto == Some(true) && !is_moved(service) {
            let text = format!(
                "nothing would move the number of {name}: `[service.{name}.scale]` has no measure and no schedule"
            );
            return Err(("MS4093", text));
        }
        let Some(record) = self.scaling.records.get_mut(name) else { return Err(unknown()) };
        // A number that a person gives stays, unless they say otherwise.
        let is_auto = asked.is_auto.unwrap_or(record.is_auto && asked.count.is_none());
        if is_auto != record.is_auto {
            record.is_auto = is_auto;
            // Recommendations of another time say nothing.
            record.memory = Memory::default();
            let word = if is_auto { "moves" } else { "no longer moves" };
            let text = format!("the load {word} the number of instances of {name}");
            self.journal.emit(NewEvent::info(at, "ScaleAutoSet", text).about(name));
        }
        if let Some(count) = asked.count.filter(|count| *count != current) {
            self.change_scale(name, (current, count), "a person asked for it".to_owned(), "Asked", at);
        }
        self.scaling.keep();
        Ok(self.scale_status(name, at))
    }

    fn check_count(
        &self,
        name: &ServiceName,
        service: &Service,
        current: u32,
        count: u32,
    ) -> Result<(), (&'static str, String)> {
        let most = service.most_instances();
        if count == 0 || count > most {
            return Err(("MS4093", format!("{name} may have 1 to {most} instances by the stack file, not {count}")));
        }
        match self.scaling.rooms.get(name) {
            Some(room) if count > current && count > room.most => Err((
                "MS4094",
                format!("the machine has no room for {count} instances of {name}, but for {}: {}", room.most, room.why),
            )),
            _ => Ok(()),
        }
    }

    /// Shows the state of all services, and the bounds in the picture.
    pub(super) fn show_scales(&self, status: &mut Status, at: Timestamp) {
        let all: Vec<ScaleStatus> = self.scaling.records.keys().map(|name| self.scale_status(name, at)).collect();
        for scale in all.iter().filter(|scale| scale.is_auto && scale.policy.is_some()) {
            let bounds = format!(" (auto {}..{})", scale.min, scale.max);
            let name = scale.service.as_str();
            let shown = status
                .boxes
                .iter_mut()
                .find(|one| one.id == mainstay_types::BoxId::Service { name: scale.service.clone() });
            if let Some(shown) = shown.filter(|shown| !shown.label.ends_with(')')) {
                let line = status.progress.iter_mut().find(|line| line.what == name && line.text == shown.label);
                shown.label.push_str(&bounds);
                if let Some(line) = line {
                    line.text.push_str(&bounds);
                }
            }
        }
        self.published.scales.send_if_modified(|known| {
            let is_new = *known != all;
            *known = all;
            is_new
        });
    }
}

#[cfg(test)]
mod tests;
