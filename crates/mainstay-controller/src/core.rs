//! The loop: observations in, plan, steps out. It owns all state of the control plane; nothing is shared.

mod children;
pub(crate) mod damage;
mod health;
pub(crate) mod rollout;
pub(crate) mod scaling;
mod stores;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mainstay_api::{ErrandSessions, Sabotage, Status, Traffic};
use mainstay_backup::proof::Proof;
use mainstay_decide::backups::BackupsSeen;
use mainstay_decide::health::HealthMachine;
use mainstay_decide::observed::{ChildSeen, FailedStep, MemberAnswer, Observed, Record, RunningStep};
use mainstay_decide::plan::{Plan, Step, StepKey};
use mainstay_decide::store::CopiesSeen;
use mainstay_decide::{invariants, restart};
use mainstay_stack::Stack;
use mainstay_stack::model::Durability;
use mainstay_supervisor::protocol::Child;
use mainstay_types::{BoxId, ChildName, ChildRole, Generation, InstanceId, Nonce, Seen, State, Timestamp};
use tokio::sync::{mpsc, watch};

use crate::clock::now;
use crate::effects::{Effects, Fallen};
use crate::first_looks::FirstLooks;
use crate::journal::Journal;
use crate::launch::Launch;
use crate::message::{Message, Outcome};
use crate::ports::Ports;
use crate::status::{Picture, Scene};
use crate::store::NewEvent;
use crate::traffic::TrafficMeter;
use crate::{errands, schedules, schema, story};

/// The loop looks again at least this often: nothing that it waits for is silent longer.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// What drills are owed is worked out again at least this often: it grows old by days.
const DRILLS_EVERY: Duration = Duration::from_secs(60);

/// What the loop publishes for the API.
#[derive(Default)]
pub(crate) struct Published {
    pub(crate) status: watch::Sender<Option<Status>>,
    pub(crate) traffic: watch::Sender<Option<Traffic>>,
    pub(crate) children: watch::Sender<Vec<Child>>,
    /// Who keep is; `None` while there is none.
    pub(crate) keep: watch::Sender<Option<mainstay_supervisor::client::Hello>>,
    /// The instances of the release that is live.
    pub(crate) fleet: watch::Sender<mainstay_decide::fleet::Fleet>,
    /// The rollout under way.
    pub(crate) rollout: watch::Sender<Option<mainstay_api::RolloutStatus>>,
    /// Whether the console's port is ours; another process may have it.
    pub(crate) console: watch::Sender<bool>,
    /// How many instances of services there are, and why.
    pub(crate) scales: watch::Sender<Vec<mainstay_api::ScaleStatus>>,
}

/// The history of drills, and what follows from it.
#[derive(Default)]
struct Drills {
    records: Vec<mainstay_api::DrillRecord>,
    standings: Vec<mainstay_api::DrillStanding>,
    /// When they were last worked out; `None`: the history changed since.
    at: Option<Timestamp>,
}

/// What the loop begins with.
pub(crate) struct Parts {
    pub(crate) effects: Arc<Effects>,
    pub(crate) journal: Journal,
    pub(crate) published: Arc<Published>,
    pub(crate) sender: mpsc::Sender<Message>,
    pub(crate) observed: Observed,
    /// Copies of the store of which an earlier control plane told.
    pub(crate) copies_told: Option<CopiesSeen>,
    /// What is known of scaling.
    pub(crate) scale: Option<String>,
    pub(crate) picture: Picture,
    pub(crate) at: Timestamp,
}

/// Everything the loop owns.
pub(crate) struct Core {
    stack: Arc<Stack>,
    launch: Arc<Launch>,
    effects: Arc<Effects>,
    journal: Journal,
    published: Arc<Published>,
    sender: mpsc::Sender<Message>,
    observed: Observed,
    urls: BTreeMap<String, String>,
    generation: Generation,
    machines: BTreeMap<InstanceId, HealthMachine>,
    probing: BTreeMap<InstanceId, Nonce>,
    children: BTreeMap<ChildName, Child>,
    quick_ends: BTreeMap<ChildName, (Nonce, u32)>,
    picture: Picture,
    traffic: TrafficMeter,
    scaling: scaling::Scaling,
    migrations: String,
    states: BTreeMap<BoxId, State>,
    first_looks: FirstLooks,
    drills: Drills,
    /// The disk of the databases.
    disk: Option<mainstay_api::DiskStatus>,
    /// The latest errand, under way or over.
    errand: Option<mainstay_api::ErrandStatus>,
    /// Copies of the store of which all was told, and where that is written down.
    copies_told: Option<CopiesSeen>,
    copies_kept: watch::Sender<Option<String>>,
    /// Where damaged pages are written down.
    damages_kept: watch::Sender<Option<String>>,
    /// What the edge saw of the release on its way.
    evidence: mainstay_decide::evidence::Evidence,
    /// Epoch whose primary's death was told.
    fenced: Option<u64>,
    is_first_keep: bool,
    is_first_list: bool,
    end: Option<End>,
}

/// How the loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Everything is stopped.
    Down,
    /// The next control plane goes on with another release.
    Again,
    /// Somebody ended this process; everything goes on.
    Leave,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Self {
        let settings = Arc::clone(&parts.effects.settings);
        let damages_kept = parts.journal.keeper(damage::FACT);
        let copies_kept = parts.journal.keeper(crate::copies::watch::FACT);
        let mut observed = parts.observed;
        let (counts, kept) = (&mut observed.fleet.counts, parts.journal.keeper(scaling::FACT));
        let scaling = scaling::Scaling::new(&settings.stack, parts.scale.as_deref(), counts, kept, parts.at);
        let evidence = rollout::known(&parts.effects, observed.rollout.as_ref());
        Self {
            stack: Arc::new(settings.stack.clone()),
            launch: Arc::new(settings.launch.clone()),
            effects: parts.effects,
            journal: parts.journal,
            published: parts.published,
            sender: parts.sender,
            observed,
            urls: settings.urls(),
            generation: settings.generation,
            machines: BTreeMap::new(),
            probing: BTreeMap::new(),
            children: BTreeMap::new(),
            quick_ends: BTreeMap::new(),
            states: parts.picture.states(),
            picture: parts.picture,
            traffic: TrafficMeter::default(),
            scaling,
            migrations: String::new(),
            first_looks: FirstLooks::new(parts.at),
            drills: Drills::default(),
            disk: None,
            errand: None,
            copies_told: parts.copies_told,
            copies_kept,
            damages_kept,
            evidence,
            fenced: None,
            is_first_keep: true,
            is_first_list: true,
            end: None,
        }
    }

    /// Runs until everything is stopped, or another release is what this stack is.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Message>) -> End {
        let end = loop {
            if let Some(end) = self.end {
                break end;
            }
            let wake_at = self.turn();
            let sleep = wake_at.saturating_since(now()).min(LONGEST_SLEEP);
            let first = tokio::time::timeout(sleep, inbox.recv()).await;
            match first {
                Ok(Some(message)) => self.take(message),
                Ok(None) => return End::Leave,
                Err(_) => continue,
            }
            while let Ok(message) = inbox.try_recv() {
                self.take(message);
            }
        };
        if end == End::Down {
            self.journal.emit(NewEvent::info(now(), "StackStopped", "everything is stopped; data stays"));
        }
        self.journal.flush().await;
        end
    }

    /// Plans once, begins what is to be done, publishes the picture; returns when to look again.
    fn turn(&mut self) -> Timestamp {
        let at = now();
        self.refresh_health(at);
        self.follow_errand(at);
        self.leave_damaged(at);
        self.keep_damages(at);
        self.look_at_load(at);
        let plan = mainstay_decide::plan::plan(&self.stack, &self.observed, at);
        let violations = invariants::check(&self.stack, &self.observed, &plan);
        self.effects.set_endpoints(&plan);
        if violations.is_empty() {
            for step in &plan.steps {
                self.begin(step.clone(), at);
            }
        } else {
            for violation in violations {
                let text = format!("a plan was refused, nothing of it was done: {violation}");
                self.journal.emit(NewEvent::error(at, "PlanRefused", text));
            }
        }
        self.publish(&plan, at);
        self.publish_rollout(&plan);
        let next_probe = self.begin_probes(at);
        [plan.wake_at, next_probe].into_iter().flatten().min().unwrap_or_else(|| at.after(LONGEST_SLEEP))
    }

    fn begin(&mut self, step: Step, at: Timestamp) {
        let key = step.key();
        self.observed.running.insert(key, RunningStep { since: at, what: step.to_string() });
        let planned = match &step {
            Step::WriteRecord { record } if self.observed.wish.is_some() => {
                record.promoting.map(|to| story::planned(record, to, at))
            }
            _ => None,
        };
        if let Some(event) = planned.or_else(|| story::began(&step, at)) {
            self.journal.emit(event);
        }
        if matches!(step, Step::Promote { .. }) {
            self.tell_proof(at);
        }
        let effects = Arc::clone(&self.effects);
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let began = tokio::time::Instant::now();
            let result = effects.run(&step).await;
            // The loop outlives its steps but for the end of the process.
            sender.send(Message::StepDone { step, took: began.elapsed(), result }).await.ok();
        });
    }

    fn follow_errand(&mut self, at: Timestamp) {
        let Some(status) = self.errand.as_mut().filter(|status| status.ended_at.is_none()) else { return };
        if let Some(over) = errands::follow(&self.stack, &mut self.observed, status, at) {
            self.journal.emit(story::errand_over(&over, at));
        }
    }

    /// A primary that was seen dead needed no fence; the proof is told all the same, once for each failover.
    fn tell_proof(&mut self, at: Timestamp) {
        let Some(database) = &self.observed.database else { return };
        let Some(record) = database.record.value().and_then(Option::as_ref) else { return };
        let is_dead = database.members.get(&record.primary).is_some_and(|seen| seen.is_alive.value() == Some(&false));
        if is_dead && self.fenced != Some(record.epoch) && !self.observed.is_fencing_sabotaged {
            self.fenced = Some(record.epoch);
            self.journal.emit(story::seen_dead(record.primary, at));
        }
    }

    fn take(&mut self, message: Message) {
        let at = now();
        match message {
            Message::Children(children, asked_at) => self.take_children(children, asked_at, at),
            Message::KeepFound(hello) => self.take_keep(hello, at),
            Message::KeepLost => self.lose_keep(at),
            Message::Ended(child) => self.take_end(child, at),
            Message::StepDone { step, took, result } => self.take_result(&step, took, result, at),
            Message::Member { member, seen } => {
                if let Some(database) = &mut self.observed.database {
                    database.look(member, seen, at);
                }
            }
            Message::PageDamaged { .. }
            | Message::PagesMet { .. }
            | Message::PagesMended { .. }
            | Message::PagesLookedAt { .. } => self.take_pages(message, at),
            Message::Pressure(is_under_pressure) => self.take_pressure(is_under_pressure),
            Message::Redis { name, seen } => {
                self.observed.redis.insert(name.to_owned(), seen);
            }
            Message::Prometheus(seen) => self.observed.prometheus = seen,
            Message::Alertmanager(seen) => self.observed.alertmanager = seen,
            Message::Probe { id, nonce, result } => self.take_probe(&id, &nonce, &result, at),
            Message::Edge(seen) => self.observed.edge = seen,
            Message::EdgeReport { window_ms, upstreams, endpoints } => {
                self.scaling.edge(window_ms, &upstreams);
                self.weigh(endpoints.iter(), at);
                self.traffic.edge(window_ms, upstreams, endpoints);
                self.publish_traffic(at);
            }
            Message::EndpointChanged { endpoint, is_in, reason } => self.take_endpoint(&endpoint, is_in, &reason, at),
            Message::KeysChanged { issuer, keys, failure } => {
                self.journal.emit(story::issuer_keys(&issuer, keys, failure, at));
            }
            Message::PolicyRejected { by, reason } => self.refused(by, &reason, at),
            Message::Router(seen) => self.observed.router = seen,
            Message::RouterReport { window_ms, write, read } => {
                self.traffic.router(window_ms, write, read);
                self.publish_traffic(at);
            }
            Message::FailoverDone { carried, ended, aborted, in_flight, longest_hold_ms } => {
                self.journal.emit(story::sessions((carried, aborted), ended, in_flight, longest_hold_ms, at));
                if let Some(status) = &mut self.errand {
                    let counts = ErrandSessions { carried, ended, in_flight, longest_hold_ms };
                    errands::sessions(status, counts);
                }
            }
            Message::RunNow { service, answer } => {
                // Who asked may be gone by now.
                answer.send(schedules::ask(&mut self.observed, &service, at)).ok();
            }
            Message::Errand { asked, cuts, answer } => {
                answer.send(self.take_errand(&asked, cuts, at)).ok();
            }
            Message::SchemaChanged(changed) => self.take_schema(changed, at),
            Message::Disk(seen) => self.disk = Some(seen),
            Message::DatabaseSize(bytes) => self.take_size(bytes),
            Message::Drills(records) => self.drills = Drills { records, ..Drills::default() },
            Message::Backups { seen, proofs } => self.take_backups(seen, &proofs, at),
            Message::StoreMember { member, look } => self.take_store(member, look),
            Message::StoreCopies(seen) => self.take_store_copies(seen, at),
            Message::Scaling(message) => self.take_scaling(message, at),
            Message::Release { asked, answer } => {
                answer.send(self.take_release_asked(asked, at)).ok();
            }
            Message::Down => self.begin_to_stop(at),
            Message::Sabotage(sabotage) => self.sabotage(sabotage, at),
        }
    }

    fn sabotage(&mut self, sabotage: Sabotage, at: Timestamp) {
        self.observed.is_fencing_sabotaged =
            matches!(sabotage, Sabotage::PromoteWithoutFencing | Sabotage::ThawWithoutFencing);
        self.effects.sabotage(sabotage);
        self.journal.emit(NewEvent::warn(at, "SabotageSet", format!("positive control: {sabotage:?}")));
    }

    fn refused(&self, by: &'static str, reason: &str, at: Timestamp) {
        self.journal.emit(NewEvent::error(at, "PolicyRejected", format!("{by} refused: {reason}")).about(by));
    }

    fn take_errand(
        &mut self,
        asked: &mainstay_api::ErrandAsked,
        cuts: Option<String>,
        at: Timestamp,
    ) -> Result<mainstay_api::ErrandStatus, String> {
        let mut taken = errands::ask(&self.stack, &mut self.observed, asked, at);
        if let Ok(status) = &mut taken {
            status.migration = cuts;
            self.journal.emit(story::errand_asked(status, at));
            self.errand = Some(status.clone());
        }
        taken
    }

    fn take_pressure(&mut self, is_under_pressure: bool) {
        if let Some(database) = &mut self.observed.database {
            database.is_under_pressure = is_under_pressure;
        }
    }

    fn take_size(&mut self, bytes: u64) {
        if let Some(database) = &mut self.observed.database {
            database.size_bytes = Some(bytes);
        }
    }

    fn take_keep(&mut self, hello: mainstay_supervisor::client::Hello, at: Timestamp) {
        let text = format!("keep runs as pid {}", hello.pid);
        if !self.is_first_keep {
            self.journal.emit(NewEvent::info(at, "KeepFound", text).about("keep").with("pid", hello.pid.0));
        }
        self.is_first_keep = false;
        self.published.keep.send_replace(Some(hello));
    }

    fn lose_keep(&mut self, at: Timestamp) {
        self.observed.children = Seen::Unknown;
        let pid = self.published.keep.send_replace(None).map_or(0, |hello| hello.pid.0);
        if !self.observed.is_stopping {
            let event = NewEvent::warn(at, "KeepLost", "keep ended; a new one is started").about("keep");
            self.journal.emit(event.with("pid", pid));
        }
    }

    fn begin_to_stop(&mut self, at: Timestamp) {
        if !self.observed.is_stopping {
            self.observed.is_stopping = true;
            self.observed.wish = None;
            self.journal.emit(NewEvent::info(at, "DownAsked", "goes down in reverse order; data stays"));
        }
    }

    fn take_children(&mut self, children: Vec<Child>, asked_at: Timestamp, at: Timestamp) {
        self.children = children::listed(std::mem::take(&mut self.children), children, asked_at);
        if std::mem::take(&mut self.is_first_list) {
            let events = self.children.values().filter_map(story::control_died);
            events.for_each(|event| self.journal.emit(event));
        }
        for child in self.children.values() {
            if let Some(ended) = &child.ended {
                count_end(&mut self.quick_ends, child, ended.at);
            }
        }
        self.show_children(at);
    }

    fn take_end(&mut self, child: Child, at: Timestamp) {
        if let Some(ended) = &child.ended {
            count_end(&mut self.quick_ends, &child, ended.at);
            let is_task = child.role == ChildRole::Task;
            if !is_task && !self.observed.is_stopping {
                self.journal.emit(story::ended(&child, ended));
            }
        }
        if child.role != ChildRole::Task {
            self.effects.look_again();
        }
        self.children.insert(child.name.clone(), child);
        self.show_children(at);
    }

    fn show_children(&mut self, at: Timestamp) {
        let seen = self
            .children
            .values()
            .map(|child| {
                let quick_ends = self.quick_ends.get(&child.name).map_or(0, |(_, count)| *count);
                let seen = ChildSeen {
                    nonce: child.nonce.clone(),
                    pid: child.pid,
                    since: child.since,
                    ended: child.ended.as_ref().map(|ended| (ended.reason.clone(), ended.at)),
                    quick_ends,
                };
                (child.name.clone(), seen)
            })
            .collect();
        self.observed.children = Seen::Fact { value: seen, observed_at: at };
        self.published.children.send_replace(self.children.values().cloned().collect());
    }

    fn take_result(&mut self, step: &Step, took: Duration, result: Result<Outcome, String>, at: Timestamp) {
        let key = step.key();
        self.observed.running.remove(&key);
        match result {
            Ok(outcome) => {
                self.observed.failed.remove(&key);
                self.observed.done.insert(key, at);
                if let Some(event) = story::done(step, &outcome, took, at) {
                    self.journal.emit(event);
                }
                if let Step::Fence { member } = step {
                    self.note_fence(*member);
                }
                self.take_outcome(step, outcome, at);
                self.effects.look_again();
            }
            Err(error) => {
                let failed = FailedStep::after(self.observed.failed.get(&key), step, error, at);
                let FailedStep { attempts, error, .. } = &failed;
                let text = format!("{step} failed (attempt {attempts}): {error}");
                let event = NewEvent::error(at, "StepFailed", text).with("attempts", *attempts);
                self.journal.emit(event.about(subject(&key)));
                self.observed.failed.insert(key, failed);
            }
        }
    }

    fn note_fence(&mut self, member: mainstay_types::Member) {
        let record =
            self.observed.database.as_ref().and_then(|database| database.record.value()).and_then(Option::as_ref);
        if let Some(record) = record.filter(|record| record.primary == member) {
            self.fenced = Some(record.epoch);
        }
    }

    fn take_outcome(&mut self, step: &Step, outcome: Outcome, at: Timestamp) {
        match outcome {
            Outcome::Done => {
                if let (Step::Clone { member, .. } | Step::Rewind { member, .. }, Some(database)) =
                    (step, &mut self.observed.database)
                {
                    database.cloned(*member, at);
                    // Another directory: how its former one ended says nothing of it.
                    if let Some((_, count)) = self.quick_ends.get_mut(&ChildName::postgres(*member)) {
                        *count = 0;
                    }
                    self.show_children(at);
                }
            }
            Outcome::Started { name, nonce, pid } => {
                let role = self.effects.role_of(&name);
                let child = Child {
                    name: name.clone(),
                    role,
                    nonce,
                    pid,
                    since: at,
                    is_own: true,
                    ended: None,
                    ended_before: self.children.get(&name).and_then(|known| known.ended.clone()),
                };
                // A quick end may have been noticed before this result came in.
                let is_newer = self.children.get(&name).is_none_or(|known| known.nonce != child.nonce);
                if is_newer {
                    self.children.insert(name, child);
                }
                self.show_children(at);
            }
            Outcome::Found(child) => {
                self.children.insert(child.name.clone(), child);
                self.show_children(at);
            }
            Outcome::ScheduleWritten => schedules::written(&mut self.observed, step),
            Outcome::StorePromoted(record) => {
                if let Some(store) = &mut self.observed.store {
                    store.record = Seen::Fact { value: record, observed_at: at };
                    // What the record's former primary had is aside by its next start.
                    record.former.map(|former| store.members.remove(&former));
                }
            }
            Outcome::Recorded(record) => self.take_record(step, record, at),
            Outcome::Promoted { timeline, lsn } => self.take_promotion(step, timeline, lsn, at),
            Outcome::Prepared => self.observed.is_database_prepared = true,
            Outcome::Migrated(done) => {
                self.observed.is_migrated = true;
                self.migrations = schema::line(&done);
            }
            Outcome::SchemaSeen(seen) => {
                self.observed.is_migrated = true;
                self.migrations = seen.line();
            }
            Outcome::BeforeDone => {
                if let Step::RunBefore { service } = step {
                    self.observed.before_done.insert(service.clone(), at);
                }
            }
            Outcome::Release(outcome) => self.take_release(outcome, at),
            Outcome::Finished => self.end = Some(End::Down),
        }
    }

    /// A command has run migrations.
    fn take_schema(&mut self, changed: mainstay_api::SchemaChanged, at: Timestamp) {
        self.journal.emit(story::schema_changed(&changed, at));
        self.migrations = changed.schema;
    }

    /// It has just said so: waiting for the next look would only cost time.
    fn take_promotion(
        &mut self,
        step: &Step,
        timeline: mainstay_types::Timeline,
        lsn: mainstay_types::Lsn,
        at: Timestamp,
    ) {
        self.tell_loss(timeline, lsn, at);
        let seen = match step {
            Step::Promote { member } => {
                self.observed.database.as_mut().and_then(|database| database.members.get_mut(member))
            }
            _ => None,
        };
        if let Some(seen) = seen {
            seen.has_standby_signal = Some(false);
            let answer = MemberAnswer {
                is_in_recovery: false,
                timeline,
                lsn,
                is_streaming: false,
                follows: None,
                synchronous: Vec::new(),
                standbys: BTreeMap::new(),
            };
            seen.answer = Seen::Fact { value: answer, observed_at: at };
        }
    }

    /// In `fast` the successor may lack what the fallen primary had acknowledged: how much is read from its log, beside
    /// everything else.
    fn tell_loss(&self, timeline: mainstay_types::Timeline, from: mainstay_types::Lsn, at: Timestamp) {
        let is_fast = self.stack.database.as_ref().is_some_and(|database| database.durability == Durability::Fast);
        let Some(database) = self.observed.database.as_ref().filter(|_| is_fast) else { return };
        let Some(record) = database.record.value().and_then(Option::as_ref) else { return };
        let (Some(to), true) = (record.promoting, record.timeline < timeline) else { return };
        let fallen = Fallen { member: record.primary, to, timeline: record.timeline, from };
        let (effects, journal) = (Arc::clone(&self.effects), self.journal.clone());
        tokio::spawn(async move { journal.emit(story::loss(fallen, effects.loss(fallen).await, at)) });
    }

    fn take_record(&mut self, step: &Step, record: Record, at: Timestamp) {
        let Some(database) = &mut self.observed.database else { return };
        let before = database.record.value().and_then(Option::as_ref).map(|old| old.primary);
        if before.is_some_and(|old| old != record.primary) {
            self.observed.is_fencing_sabotaged = false;
        }
        database.record = Seen::Fact { value: Some(record), observed_at: at };
        if let Step::SwapIn { primary, .. } = step {
            // Another time's data: what was known of it says nothing, and roles and schema are of then. Its migrations
            // are looked at, and none is run: whoever went back behind one did not ask for it again.
            database.cloned(*primary, at);
            self.observed.is_database_prepared = false;
            self.observed.is_migrated = false;
        }
    }

    fn take_backups(&mut self, seen: Seen<BackupsSeen>, proofs: &[Proof], at: Timestamp) {
        if let (Some(before), Some(after)) = (self.observed.backups.value(), seen.value()) {
            let events = crate::backups::status::events(before, after, proofs, at);
            events.into_iter().for_each(|event| self.journal.emit(event));
        }
        self.observed.backups = seen;
    }

    fn take_endpoint(&mut self, endpoint: &str, is_in: bool, reason: &str, at: Timestamp) {
        let (kind, verb) = if is_in { ("EndpointReadmitted", "readmitted") } else { ("EndpointEjected", "ejected") };
        let name = endpoint.split('/').next().unwrap_or(endpoint);
        self.journal.emit(NewEvent::info(at, kind, format!("the edge {verb} {name}: {reason}")).about(name));
    }

    fn publish(&mut self, plan: &Plan, at: Timestamp) {
        if !self.first_looks.are_over(&self.stack, &self.observed, at) {
            return;
        }
        self.tell_changes(plan, at);
        self.refresh_drills(at);
        let was_up = self.picture.was_up();
        let scene = Scene {
            stack: &self.stack,
            launch: &self.launch,
            observed: &self.observed,
            urls: &self.urls,
            migrations: &self.migrations,
            generation: self.generation,
            drills: &self.drills.standings,
            errand: self.errand.as_ref(),
            is_console_open: *self.published.console.borrow(),
            disk: self.disk,
            maintenance: crate::maintenance::shut(&self.stack, &self.effects.settings.switched.borrow()),
            now: at,
        };
        let mut status = self.picture.draw(plan, &scene);
        self.show_scales(&mut status, at);
        self.remember(at);
        if !was_up && status.is_up {
            let state = self.effects.paths().state.clone();
            // Written for the next start; without it that may choose others when these are taken.
            tokio::task::spawn_blocking(move || Ports::load(&state).and_then(|mut ports| ports.served()).ok());
            let took = at.saturating_since(self.launch.since).as_millis();
            let took = u64::try_from(took).unwrap_or(u64::MAX);
            self.journal.emit(NewEvent::info(at, "StackReady", "everything is ready").with("took_ms", took));
        }
        self.published.status.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|known| Status { at: status.at, ..known.clone() } == status);
            *current = Some(status);
            !same
        });
    }

    /// What drills are owed changes with their history, and by age alone from day to day.
    fn refresh_drills(&mut self, at: Timestamp) {
        if self.drills.at.is_some_and(|then| at.saturating_since(then) < DRILLS_EVERY) {
            return;
        }
        let here = crate::drills::here(&self.effects.settings.stack_hash);
        self.drills.standings = mainstay_decide::drills::standings(&self.stack, &self.drills.records, here, at);
        self.drills.at = Some(at);
    }

    /// Writes the picture's memory down when it changed, so that the next control plane goes on with it.
    fn remember(&mut self, at: Timestamp) {
        let Some(memory) = self.picture.changed_memory(at) else { return };
        let journal = self.journal.clone();
        tokio::spawn(async move {
            // It is only since when boxes are as they are: without it they count from the restart.
            journal.set_fact(crate::status::MEMORY_FACT, &memory).await.ok();
        });
    }

    fn tell_changes(&mut self, plan: &Plan, at: Timestamp) {
        for planned in &plan.boxes {
            // Nobody could look for a moment: no change of the box itself, and neither is the next look.
            if planned.state == State::Unknown {
                continue;
            }
            let before = self.states.insert(planned.id.clone(), planned.state);
            if before.is_some_and(|before| before != planned.state)
                && let Some(event) = story::state_changed(planned, at)
            {
                self.journal.emit(event);
            }
        }
    }

    fn publish_traffic(&mut self, at: Timestamp) {
        let primary = self
            .observed
            .database
            .as_ref()
            .and_then(|database| database.record.value())
            .and_then(Option::as_ref)
            .map(|record| record.primary);
        let read = self.observed.router.value().map(|router| router.read.clone()).unwrap_or_default();
        self.published.traffic.send_replace(Some(self.traffic.picture(&self.stack, primary, &read, at)));
    }
}

fn count_end(counts: &mut BTreeMap<ChildName, (Nonce, u32)>, child: &Child, at: Timestamp) {
    let known = counts.get(&child.name);
    if known.is_some_and(|(nonce, _)| *nonce == child.nonce) {
        return;
    }
    let was_steady = at.saturating_since(child.since) >= restart::STEADY;
    let before = known.map_or(0, |(_, count)| *count);
    let count = if was_steady { 1 } else { before.saturating_add(1) };
    counts.insert(child.name.clone(), (child.nonce.clone(), count));
}

fn subject(key: &StepKey) -> String {
    match key {
        StepKey::Child { name } => name.to_string(),
        StepKey::Cluster | StepKey::Checkpoint | StepKey::Schema => "database".to_owned(),
        StepKey::Before { service } => service.to_string(),
        StepKey::Store => "store".to_owned(),
        StepKey::Rollout | StepKey::Release => "deploy".to_owned(),
    }
}
