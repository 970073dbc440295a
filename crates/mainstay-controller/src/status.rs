//! The picture of the stack for people: boxes with `since`, arrows, progress lines.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_api::{API_VERSION, Arrow, BoxStatus, DatabaseStatus, Progress, Status};
use mainstay_decide::observed::{Observed, Program};
use mainstay_decide::plan::{Plan, StepKey};
use mainstay_stack::Stack;
use mainstay_stack::model::Durability;
use mainstay_types::{BoxId, ChildName, Generation, Member, Seen, ServiceName, State, Timestamp};

use serde::{Deserialize, Serialize};

use crate::launch::Launch;
use crate::schedules;

/// Remembers since when what is so.
#[derive(Default)]
pub(crate) struct Picture {
    memory: Memory,
    /// Since when nobody could look at a box.
    unknown: BTreeMap<BoxId, Timestamp>,
    begun: BTreeMap<String, Timestamp>,
    remembered: Memory,
    remembered_at: Timestamp,
}

/// What the next control plane of the same run goes on with.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
struct Memory {
    /// When the run began, as in [`Launch::since`]: a rollout changes the release, and `up` may not.
    run: Option<Timestamp>,
    since: Vec<(BoxId, State, Timestamp)>,
    took_ms: BTreeMap<String, u64>,
    was_up: bool,
}

/// Its name in `state.db`.
pub(crate) const MEMORY_FACT: &str = "picture";
/// The memory is written at most this often: in a failover states change many times a second.
const REMEMBER_EVERY: Duration = Duration::from_millis(500);

/// What the picture is drawn from, besides the plan.
pub(crate) struct Scene<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) launch: &'a Launch,
    pub(crate) observed: &'a Observed,
    pub(crate) urls: &'a BTreeMap<String, String>,
    pub(crate) migrations: &'a str,
    pub(crate) generation: Generation,
    pub(crate) drills: &'a [mainstay_api::DrillStanding],
    pub(crate) errand: Option<&'a mainstay_api::ErrandStatus>,
    /// The console's port is this control plane's.
    pub(crate) is_console_open: bool,
    pub(crate) disk: Option<mainstay_api::DiskStatus>,
    /// Routes in maintenance.
    pub(crate) maintenance: Vec<mainstay_api::RouteStatus>,
    pub(crate) now: Timestamp,
}

impl Picture {
    /// Goes on with what an earlier control plane of the same run remembered.
    pub(crate) fn of(memory: Option<String>, launch: &Launch) -> Self {
        let known: Option<Memory> = memory.and_then(|text| serde_json::from_str(&text).ok());
        let run = Some(launch.since);
        let memory = Memory { run, ..known.filter(|memory| memory.run == run).unwrap_or_default() };
        Self { remembered: memory.clone(), memory, ..Self::default() }
    }

    /// The memory as text, if it changed since it was last asked for and that is long enough ago.
    pub(crate) fn changed_memory(&mut self, at: Timestamp) -> Option<String> {
        if self.memory == self.remembered || at.saturating_since(self.remembered_at) < REMEMBER_EVERY {
            return None;
        }
        self.remembered = self.memory.clone();
        self.remembered_at = at;
        serde_json::to_string(&self.memory).ok()
    }

    /// The last known states, by box.
    pub(crate) fn states(&self) -> BTreeMap<BoxId, State> {
        self.memory.since.iter().map(|(id, state, _)| (id.clone(), *state)).collect()
    }

    /// Draws it.
    pub(crate) fn draw(&mut self, plan: &Plan, scene: &Scene<'_>) -> Status {
        let mut boxes = self.boxes(plan, scene.now);
        if let Some(edge) = boxes.iter_mut().find(|one| one.id == BoxId::Edge && one.reason.is_none()) {
            edge.reason = crate::maintenance::reason(&scene.maintenance);
        }
        let progress = self.progress(&boxes, plan, scene);
        let all_done = progress.iter().all(|line| matches!(line.state, State::Ready | State::NotConfigured));
        self.memory.was_up |= all_done && !scene.observed.is_stopping;
        Status {
            api: API_VERSION,
            stack: scene.launch.stack.clone(),
            environment: scene.launch.environment.clone(),
            at: scene.now,
            since: scene.launch.since,
            generation: scene.generation,
            is_up: self.memory.was_up,
            is_stopping: scene.observed.is_stopping,
            overall: overall(&boxes),
            arrows: arrows(scene, &boxes),
            boxes,
            progress,
            database: database(scene),
            urls: open_doors(scene),
            schedules: schedules::status(scene),
            drills: scene.drills.to_vec(),
            backups: crate::backups::status::status(scene),
            store_copies: crate::copies::watch::status(scene),
            maintenance: scene.maintenance.clone(),
        }
    }

    /// Whether everything that `up` waits for was ready once.
    pub(crate) fn was_up(&self) -> bool {
        self.memory.was_up
    }

    fn boxes(&mut self, plan: &Plan, now: Timestamp) -> Vec<BoxStatus> {
        let mut memory = Vec::with_capacity(plan.boxes.len());
        let boxes = plan.boxes.iter().map(|planned| {
            let known = self.memory.since.iter().find(|(id, ..)| *id == planned.id);
            let since = if planned.state == State::Unknown {
                *self.unknown.entry(planned.id.clone()).or_insert(now)
            } else {
                self.unknown.remove(&planned.id);
                known.filter(|(_, state, _)| *state == planned.state).map_or(now, |(.., since)| *since)
            };
            // Nobody could look for a moment: no change of the box itself, which goes on being since when it was.
            let seen = known.filter(|_| planned.state == State::Unknown).cloned();
            memory.push(seen.unwrap_or((planned.id.clone(), planned.state, since)));
            BoxStatus {
                id: planned.id.clone(),
                name: planned.id.to_string(),
                label: planned.label.clone(),
                state: planned.state,
                since,
                waiting: planned.waiting.clone(),
                reason: planned.reason.clone(),
            }
        });
        let boxes = boxes.collect();
        self.memory.since = memory;
        boxes
    }

    fn progress(&mut self, boxes: &[BoxStatus], plan: &Plan, scene: &Scene<'_>) -> Vec<Progress> {
        let mut lines = Vec::new();
        if scene.stack.database.is_some() {
            lines.push(database_line(boxes, scene));
        }
        if scene.stack.cache.is_some() {
            lines.push(line("cache", "cache, store", redis_state(boxes)));
        }
        if scene.stack.database.as_ref().is_some_and(|database| database.migrations.is_some()) {
            let (text, state) = if scene.observed.is_migrated {
                (scene.migrations.to_owned(), State::Ready)
            } else if let Some(why) = failure(scene, "Schema") {
                (why, State::Failed)
            } else if database(scene).is_some_and(|status| status.is_writable) {
                (scene.migrations.to_owned(), State::Starting)
            } else {
                (String::new(), State::Waiting)
            };
            lines.push(line("migrate", &text, state));
        }
        for name in scene.stack.services.keys() {
            let line = service_line(name, boxes);
            let is_scheduled = scene.stack.services.get(name).is_some_and(|service| service.schedule.is_some());
            lines.push(if is_scheduled { schedules::progress(line) } else { line });
        }
        let edge = state_of(boxes, &BoxId::Edge);
        lines.push(line("edge", scene.urls.get("site").map_or("", String::as_str), edge));
        if scene.stack.observe.enabled {
            lines.push(telemetry_line(boxes, scene));
        }
        lines.push(line("console", scene.urls.get("console").map_or("", String::as_str), State::Ready));
        for progress in &mut lines {
            progress.lost = lost(&progress.what, plan, scene.stack);
            self.time(progress, scene);
        }
        lines
    }

    fn time(&mut self, progress: &mut Progress, scene: &Scene<'_>) {
        let begun = match progress.state {
            State::Waiting => None,
            _ => Some(*self.begun.entry(progress.what.clone()).or_insert(scene.now)),
        };
        let is_done = matches!(progress.state, State::Ready | State::NotConfigured);
        if let (true, Some(begun)) = (is_done, begun) {
            let took = u64::try_from(scene.now.saturating_since(begun).as_millis()).unwrap_or(u64::MAX);
            self.memory.took_ms.entry(progress.what.clone()).or_insert(took);
        }
        progress.took_ms = self.memory.took_ms.get(&progress.what).copied();
    }
}

/// Addresses behind which this stack is. A port that was chosen once may be another's by now.
fn open_doors(scene: &Scene<'_>) -> BTreeMap<String, String> {
    let is_open = |name: &str| match name {
        "console" => scene.is_console_open,
        "site" => is_held(scene.observed, "edge"),
        child => is_held(scene.observed, child),
    };
    scene.urls.iter().filter(|(name, _)| is_open(name)).map(|(name, url)| (name.clone(), url.clone())).collect()
}

/// Whether a child has its door: it was started, and its last start was not refused. keep holds the door while it is
/// started again.
fn is_held(observed: &Observed, child: &str) -> bool {
    let Ok(name) = ChildName::new(child) else { return false };
    let is_known = observed.children.value().is_none_or(|children| children.contains_key(&name));
    is_known && !observed.failed.contains_key(&StepKey::Child { name })
}

fn line(what: &str, text: &str, state: State) -> Progress {
    Progress { what: what.to_owned(), text: text.to_owned(), took_ms: None, state, lost: None }
}

/// Why what this line is about does not come up by waiting.
fn lost(what: &str, plan: &Plan, stack: &Stack) -> Option<String> {
    let mut all = plan.lost.iter().filter(|(key, _)| line_of(key, stack) == what).map(|(_, why)| why.as_str());
    let first = all.next()?;
    match all.count() {
        0 => Some(first.to_owned()),
        others => Some(format!("{first}; and {others} more of the kind")),
    }
}

/// The line of `up` that a step belongs to.
fn line_of<'a>(key: &'a StepKey, stack: &Stack) -> &'a str {
    let name = match key {
        StepKey::Before { service } => return service.as_str(),
        StepKey::Cluster | StepKey::Checkpoint => return "database",
        StepKey::Store => return "cache",
        // Nothing of `up`.
        StepKey::Rollout | StepKey::Release => return "deploy",
        StepKey::Schema if stack.database.as_ref().is_some_and(|database| database.migrations.is_some()) => {
            return "migrate";
        }
        StepKey::Schema => return "database",
        StepKey::Child { name } => name.as_str(),
    };
    match name {
        "router" => "database",
        "cache" | "store" | "store-b" | "store-c" => "cache",
        "prometheus" | "alertmanager" => "telemetry",
        // `web-1` of `web`, `postgres-a` of the database.
        other => match other.rsplit_once('-') {
            Some(("postgres", _)) => "database",
            Some((service, _)) => service,
            None => other,
        },
    }
}

fn state_of(boxes: &[BoxStatus], id: &BoxId) -> State {
    boxes.iter().find(|one| one.id == *id).map_or(State::Unknown, |one| one.state)
}

fn redis_state(boxes: &[BoxStatus]) -> State {
    boxes
        .iter()
        .filter(|one| matches!(one.id, BoxId::Cache { .. }))
        // A replica that is not there yet takes nothing from those who use the store.
        .filter(|one| !one.label.starts_with("replica"))
        .map(|one| one.state)
        .max()
        .unwrap_or(State::Unknown)
}

/// Severity for the overall sentence: a stopped or starting part is not yet broken.
///
/// Before the first base backup nothing that serves is missing.
fn overall(boxes: &[BoxStatus]) -> State {
    let rank = |state: State| match state {
        State::Ready | State::NotConfigured => 0,
        State::Degraded => 1,
        State::Draining | State::Stopped => 2,
        State::Waiting | State::Starting => 3,
        State::BackingOff | State::Unknown => 4,
        State::CrashLoop | State::Failed => 5,
    };
    boxes
        .iter()
        .filter(|one| one.id != BoxId::Backups || one.state == State::Degraded)
        .map(|one| one.state)
        .max_by_key(|state| rank(*state))
        .map_or(State::Unknown, |worst| if rank(worst) == 0 { State::Ready } else { worst })
}

fn failure(scene: &Scene<'_>, key: &str) -> Option<String> {
    scene
        .observed
        .failed
        .iter()
        .find(|(failed, _)| format!("{failed:?}").starts_with(key))
        .map(|(_, failed)| failed.error.clone())
}

fn database_line(boxes: &[BoxStatus], scene: &Scene<'_>) -> Progress {
    let Some(config) = &scene.stack.database else { return line("database", "", State::NotConfigured) };
    let postgres: Vec<&BoxStatus> = boxes.iter().filter(|one| matches!(one.id, BoxId::Postgres { .. })).collect();
    let router = boxes.iter().find(|one| one.id == BoxId::Router);
    if let Some(broken) = postgres.iter().find(|one| matches!(one.state, State::Failed | State::CrashLoop)) {
        return line("database", broken.reason.as_deref().unwrap_or("failed"), State::Failed);
    }
    if let Some(missing) = postgres.iter().find(|one| one.state == State::NotConfigured) {
        return line("database", missing.reason.as_deref().unwrap_or("not configured"), State::NotConfigured);
    }
    let status = database(scene);
    let is_synchronous = status.as_ref().is_some_and(|status| status.is_synchronous);
    let wants_synchronous = config.standbys > 0 && config.durability != Durability::Fast;
    let all_ready = postgres.iter().all(|one| one.state == State::Ready);
    let ready = all_ready
        && router.is_some_and(|one| one.state == State::Ready)
        && (is_synchronous || !wants_synchronous)
        && scene.observed.is_database_prepared;
    let standbys = match (config.standbys, is_synchronous) {
        (0, _) => "primary, no standby".to_owned(),
        (1, true) => "primary streaming to standby, synchronous".to_owned(),
        (1, false) => "primary streaming to standby".to_owned(),
        (n, true) => format!("primary streaming to {n} standbys, synchronous"),
        (n, false) => format!("primary streaming to {n} standbys"),
    };
    let doors = scene.urls.get("router").map_or("", String::as_str);
    let begun = postgres.iter().any(|one| one.state != State::Waiting);
    let state = if ready {
        State::Ready
    } else if begun {
        State::Starting
    } else {
        State::Waiting
    };
    if state != State::Ready {
        // What it will be is not yet so.
        let missing = postgres.iter().copied().chain(router).filter(|one| one.state != State::Ready);
        let missing: Vec<String> = missing.map(|one| format!("{} {}", one.name, one.state)).collect();
        let text = match (missing.is_empty(), scene.observed.is_database_prepared) {
            (false, _) => missing.join(", "),
            (true, false) => "roles and databases are made".to_owned(),
            (true, true) => "the standby catches up".to_owned(),
        };
        return line("database", &text, state);
    }
    line("database", &format!("{standbys}; router {doors}"), state)
}

fn service_line(name: &ServiceName, boxes: &[BoxStatus]) -> Progress {
    let service = boxes.iter().find(|one| one.id == BoxId::Service { name: name.clone() });
    let text = service.map_or(String::new(), |one| match (&one.reason, one.state) {
        (Some(reason), State::Failed | State::CrashLoop | State::BackingOff) => reason.clone(),
        _ => one.label.clone(),
    });
    line(name.as_str(), &text, service.map_or(State::Unknown, |one| one.state))
}

fn telemetry_line(boxes: &[BoxStatus], scene: &Scene<'_>) -> Progress {
    let states = [state_of(boxes, &BoxId::Prometheus), state_of(boxes, &BoxId::Alertmanager)];
    let missing: Vec<&str> = [Program::Prometheus, Program::Alertmanager]
        .iter()
        .filter_map(|program| scene.observed.missing.get(program).map(String::as_str))
        .collect();
    if !missing.is_empty() {
        return line("telemetry", &format!("not configured: {}", missing.join("; ")), State::NotConfigured);
    }
    let worst = if states.iter().all(|state| *state == State::Ready) { State::Ready } else { State::Starting };
    line("telemetry", "prometheus, alertmanager", worst)
}

fn arrows(scene: &Scene<'_>, boxes: &[BoxStatus]) -> Vec<Arrow> {
    let mut arrows = vec![arrow(None, BoxId::Edge, "https")];
    let instances: Vec<&BoxId> =
        boxes.iter().map(|one| &one.id).filter(|id| matches!(id, BoxId::Instance { .. })).collect();
    for one in boxes {
        match &one.id {
            BoxId::Site { .. } => arrows.push(arrow(Some(BoxId::Edge), one.id.clone(), "files")),
            BoxId::Instance { id } => {
                let service = scene.stack.services.get(&id.service);
                if service.is_some_and(|service| service.has_port) {
                    arrows.push(arrow(Some(BoxId::Edge), one.id.clone(), "http"));
                }
            }
            _ => {}
        }
    }
    for id in instances {
        let BoxId::Instance { id: instance } = id else { continue };
        let Some(service) = scene.stack.services.get(&instance.service) else { continue };
        if service.uses_database && scene.stack.database.is_some() {
            arrows.push(arrow(Some(id.clone()), BoxId::Router, "sql"));
        }
        if service.uses_cache && scene.stack.cache.is_some() {
            for name in ["cache".to_owned(), store_primary(scene)] {
                arrows.push(arrow(Some(id.clone()), BoxId::Cache { name }, "redis"));
            }
        }
    }
    for one in boxes {
        let BoxId::Cache { name } = &one.id else { continue };
        if name != "cache" && *name != store_primary(scene) {
            let primary = BoxId::Cache { name: store_primary(scene) };
            arrows.push(arrow(Some(primary), one.id.clone(), "replication"));
        }
    }
    arrows.extend(database_arrows(scene));
    arrows
}

/// The server of the store that serves.
fn store_primary(scene: &Scene<'_>) -> String {
    let record = scene.observed.store.as_ref().and_then(|store| store.record.value().copied());
    mainstay_decide::replicas::child_of(record.unwrap_or_default().primary).to_string()
}

fn database_arrows(scene: &Scene<'_>) -> Vec<Arrow> {
    let mut arrows = Vec::new();
    let Some(primary) = recorded_primary(scene.observed) else { return arrows };
    let Some(seen) = &scene.observed.database else { return arrows };
    arrows.push(arrow(Some(BoxId::Router), BoxId::Postgres { member: primary }, "sql write"));
    for member in seen.members.keys().filter(|member| **member != primary) {
        arrows.push(arrow(Some(BoxId::Router), BoxId::Postgres { member: *member }, "sql read"));
        arrows.push(arrow(Some(BoxId::Postgres { member: primary }), BoxId::Postgres { member: *member }, "WAL"));
    }
    arrows
}

fn arrow(from: Option<BoxId>, to: BoxId, label: &str) -> Arrow {
    Arrow { from, to, label: label.to_owned() }
}

fn recorded_primary(observed: &Observed) -> Option<Member> {
    let record = observed.database.as_ref()?.record.value()?.as_ref()?;
    Some(record.primary)
}

fn database(scene: &Scene<'_>) -> Option<DatabaseStatus> {
    let seen = scene.observed.database.as_ref()?;
    let record = seen.record.value().and_then(Option::as_ref);
    let answer = record.and_then(|record| seen.members.get(&record.primary)).and_then(|member| member.answer.value());
    let lag_bytes = answer.map_or_else(BTreeMap::new, |primary| {
        let lag = |flushed: &mainstay_types::Lsn| flushed.lag_behind(primary.lsn).map_or(0, |bytes| bytes.0);
        primary.standbys.iter().map(|(member, flushed)| (*member, lag(flushed))).collect()
    });
    let routed = match &scene.observed.router {
        Seen::Fact { value, .. } => value.write,
        Seen::Unknown | Seen::Silent { .. } => None,
    };
    let wanted = scene.stack.database.as_ref();
    Some(DatabaseStatus {
        primary: record.map(|record| record.primary),
        timeline: record.map(|record| record.timeline).unwrap_or_default(),
        lsn: answer.map(|answer| answer.lsn),
        is_synchronous: answer.is_some_and(|answer| !answer.synchronous.is_empty())
            && record.is_some_and(|record| !record.candidates.is_empty()),
        is_writable: routed.is_some()
            && routed == record.map(|record| record.primary)
            && answer.is_some_and(|answer| !answer.is_in_recovery),
        durability: wanted.map_or_else(String::new, |one| one.durability.word().to_owned()),
        risk: wanted.map_or_else(String::new, |one| one.durability.risk(one.standbys).to_owned()),
        standbys: wanted.map(|one| one.standbys),
        lag_bytes,
        // The first epoch is the cluster's birth.
        failovers: record.map_or(0, |record| record.epoch.saturating_sub(1)),
        damaged_pages: seen.damages.of.iter().map(|(member, damage)| (*member, damage.count())).collect(),
        damaged_pages_ever: seen.damages.ever.clone(),
        disk: scene.disk.map(coarse),
        errand: scene.errand.cloned(),
    })
}

/// In steps, so that a disk that is written to does not change the picture at every look.
fn coarse(disk: mainstay_api::DiskStatus) -> mainstay_api::DiskStatus {
    const STEP: u64 = 16 * 1024 * 1024;
    let full_in_s = disk.full_in_s.map(|seconds| if seconds < 600 { seconds } else { seconds / 60 * 60 });
    mainstay_api::DiskStatus { free_bytes: disk.free_bytes / STEP * STEP, full_in_s, ..disk }
}

#[cfg(test)]
mod tests {
    use mainstay_decide::plan::BoxPlan;

    use super::*;

    #[test]
    fn a_moment_in_which_nobody_could_look_changes_no_since() {
        let mut picture = Picture::default();
        let mut since = |state, at| {
            let shown = BoxPlan { id: BoxId::Router, label: String::new(), state, waiting: vec![], reason: None };
            let plan = Plan { boxes: vec![shown], ..Plan::default() };
            picture.boxes(&plan, Timestamp::from_millis(at))[0].since.as_micros() / 1000
        };
        assert_eq!(since(State::Degraded, 10), 10);
        assert_eq!(since(State::Unknown, 20), 20);
        assert_eq!(since(State::Unknown, 30), 20);
        assert_eq!(since(State::Degraded, 40), 10);
        assert_eq!(since(State::Unknown, 50), 50);
        assert_eq!(since(State::Ready, 60), 60);
    }
}
