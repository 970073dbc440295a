//! Children that depend on nobody and that nothing is decided about but whether they run: edge, router, caches,
//! telemetry. Each is started at once and restarted in place.

use std::time::Duration;

use mainstay_types::{BoxId, ChildName, Seen, State, Timestamp, Waiting};

use crate::draft::{Draft, Stop, end_reason, idle_state, not_configured};
use crate::observed::Program;
use crate::plan::{BoxPlan, Step};
use crate::replicas;
use crate::view::Life;

/// Silence after which a Redis, Prometheus or Alertmanager is started again: longer than Redis takes to load
/// a dump of its default size, and than Prometheus takes to compact.
pub(crate) const HUNG_AFTER: Duration = Duration::from_secs(15);
/// A child may be silent for this long from its start on before it is started again: on a machine where all else
/// starts too, Prometheus took 20 s until it listened.
pub(crate) const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Silence that begins this soon after a start is that of the start: the last look was up to 2 s before it.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// Time to end in order for a child that has no drain of its own.
pub(crate) const GRACE: Duration = Duration::from_secs(10);
/// SIGTERM.
pub(crate) const TERMINATE: i32 = 15;

/// How such a child is asked to end.
pub(crate) const ORDERLY: Stop = Stop { signal: TERMINATE, grace: GRACE };

/// The name of a child that this module knows to be valid.
pub(crate) fn child(name: &str) -> ChildName {
    ChildName::new(name).expect("names of our own are short and plain")
}

/// What a look at a child says.
pub(crate) enum Look {
    Ready,
    Unknown,
    Silent(Timestamp),
}

pub(crate) fn look_of<T>(seen: Option<&Seen<T>>) -> Look {
    match seen {
        Some(Seen::Fact { .. }) => Look::Ready,
        Some(Seen::Silent { since }) => Look::Silent(*since),
        Some(Seen::Unknown) | None => Look::Unknown,
    }
}

/// A child and how its box is drawn.
pub(crate) struct Simple<'a> {
    pub(crate) name: &'a str,
    pub(crate) id: BoxId,
    pub(crate) label: &'a str,
    pub(crate) look: Look,
    /// Its readiness probe, for people.
    pub(crate) probe: &'a str,
    /// Whether long silence ends in a restart. Not so where a link of ours, not the child, may be the cause.
    pub(crate) is_restarted_when_hung: bool,
}

/// Keeps one child running and draws its box.
pub(crate) fn keep_running(draft: &mut Draft<'_>, simple: Simple<'_>) -> BoxPlan {
    let name = child(simple.name);
    let life = draft.view.life(&name);
    let mut shown = BoxPlan {
        id: simple.id,
        label: simple.label.to_owned(),
        state: State::Starting,
        waiting: vec![],
        reason: None,
    };
    let Life::Runs(running) = life else {
        let waiting = draft.start(life, Step::StartChild { name });
        shown.state = idle_state(life, &waiting);
        shown.reason = end_reason(life);
        shown.waiting = vec![waiting];
        return shown;
    };
    match simple.look {
        Look::Ready => shown.state = State::Ready,
        Look::Unknown => shown.waiting.push(Waiting::Readiness { probe: simple.probe.to_owned() }),
        Look::Silent(since) => {
            let is_starting = since <= running.since.after(FIRST_LOOK);
            let since = since.max(running.since);
            let restart_at = since.after(draft.view.patience(if is_starting { STARTS_WITHIN } else { HUNG_AFTER }));
            if !is_starting || draft.view.now >= restart_at {
                shown.state = State::Failed;
                shown.reason = Some(format!("does not answer {}", simple.probe));
            }
            if simple.is_restarted_when_hung && draft.view.now >= restart_at {
                shown.waiting.push(draft.stop(&name, running, ORDERLY));
            } else {
                draft.wake(restart_at);
                shown.waiting.push(Waiting::Silence { since });
            }
        }
    }
    shown
}

/// The front door.
pub(crate) fn edge(draft: &mut Draft<'_>) -> BoxPlan {
    let look = look_of(Some(&draft.view.observed.edge));
    let simple = Simple {
        name: "edge",
        id: BoxId::Edge,
        label: "HTTPS",
        look,
        probe: "its control connection",
        is_restarted_when_hung: false,
    };
    keep_running(draft, simple)
}

/// Static sites are served by the edge: they are as ready as it is.
pub(crate) fn sites(draft: &mut Draft<'_>, edge: &BoxPlan) {
    for name in draft.view.stack.sites.keys() {
        let is_ready = edge.state == State::Ready;
        let waiting = if is_ready { vec![] } else { vec![Waiting::Dependency { on: "edge".to_owned() }] };
        draft.show(BoxPlan {
            id: BoxId::Site { name: name.clone() },
            label: "static site".to_owned(),
            state: if is_ready { State::Ready } else { State::Waiting },
            waiting,
            reason: None,
        });
    }
}

/// `cache` and `store`. Returns whether both answer.
pub(crate) fn caches(draft: &mut Draft<'_>) -> (bool, Vec<BoxPlan>) {
    let Some(config) = &draft.view.stack.cache else { return (true, vec![]) };
    let label = if config.store_persists { "AOF" } else { "no file" };
    let id = BoxId::Cache { name: "cache".to_owned() };
    let cache = match draft.view.observed.missing.get(&Program::Redis) {
        Some(install) => not_configured(id, "LRU", format!("redis-server is missing: {install}")),
        None => {
            let look = look_of(draft.view.observed.redis.get("cache"));
            let simple = Simple { name: "cache", id, label: "LRU", look, probe: "PING", is_restarted_when_hung: true };
            keep_running(draft, simple)
        }
    };
    let (is_store_ready, stores) = replicas::plan(draft, label);
    let is_ready = cache.state == State::Ready && is_store_ready;
    (is_ready, std::iter::once(cache).chain(stores).collect())
}

/// Prometheus and Alertmanager.
pub(crate) fn telemetry(draft: &mut Draft<'_>) -> Vec<BoxPlan> {
    if !draft.view.stack.observe.enabled {
        return vec![];
    }
    let observed = draft.view.observed;
    let parts = [
        ("prometheus", BoxId::Prometheus, "metrics, rules", Program::Prometheus, &observed.prometheus),
        ("alertmanager", BoxId::Alertmanager, "alerts", Program::Alertmanager, &observed.alertmanager),
    ];
    let mut boxes = Vec::new();
    for (name, id, label, program, seen) in parts {
        if let Some(install) = observed.missing.get(&program) {
            boxes.push(not_configured(id, label, format!("{name} is missing: {install}")));
            continue;
        }
        let simple =
            Simple { name, id, label, look: look_of(Some(seen)), probe: "GET /-/ready", is_restarted_when_hung: true };
        boxes.push(keep_running(draft, simple));
    }
    boxes
}
