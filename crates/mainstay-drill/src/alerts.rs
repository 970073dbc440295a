//! What told people of a fault: events that warn, when the first of each kind came, and whether it was taken back. Pure.

use std::collections::{BTreeMap, BTreeSet};

use mainstay_api::{BoxStatus, Event, Level, ScheduleStatus};
use mainstay_types::{ServiceName, State, Timestamp};
use serde::{Deserialize, Serialize};

use crate::measure::{self, millis};

/// Events that say that something lasts, and the one that says that it is over; of the same subject where it has one.
const TAKEN_BACK: [(&str, &str); 6] = [
    ("BoxDegraded", "BoxReady"),
    ("BoxFailed", "BoxReady"),
    ("CommitsAsynchronous", "CommitsSynchronous"),
    ("FailoverBegan", "StandbyPromoted"),
    ("KeepLost", "KeepFound"),
    ("DiskBallastThrown", "DiskBallastMade"),
];
/// A run of a schedule ended badly.
const RUN_FAILED: &str = "RunFailed";
/// The drill's own doing.
const OURS: &str = "SabotageSet";

/// An event that warns, over the rounds in which it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Its kind.
    pub kind: String,
    /// `warn` or `error`.
    pub level: Level,
    /// The first text of it.
    pub text: String,
    /// From the injection to the first of a round: median and worst. **Unit**: milliseconds.
    pub after_p50_ms: u64,
    /// See `after_p50_ms`.
    pub after_max_ms: u64,
    /// Rounds in which it came.
    pub rounds: u32,
    /// Whether it says that something lasts.
    pub lasts: bool,
    /// Of these rounds, those in which it was taken back.
    pub cleared: u32,
    /// From the injection until it was taken back, worst. **Unit**: milliseconds.
    pub cleared_max_ms: Option<u64>,
}

/// The first event of a kind in one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) kind: String,
    level: Level,
    text: String,
    after_ms: u64,
    lasts: bool,
    cleared_ms: Option<u64>,
}

/// What warns already: kinds of events and whom they are about.
pub(crate) type Standing = BTreeSet<(String, String)>;

/// What warns by what the stack says of itself.
pub(crate) fn standing(boxes: &[BoxStatus], schedules: &BTreeMap<ServiceName, ScheduleStatus>) -> Standing {
    let warns = |one: &BoxStatus| match one.state {
        State::Degraded => Some(("BoxDegraded".to_owned(), one.name.clone())),
        State::Failed | State::CrashLoop => Some(("BoxFailed".to_owned(), one.name.clone())),
        State::Ready
        | State::NotConfigured
        | State::Waiting
        | State::Starting
        | State::Draining
        | State::BackingOff
        | State::Stopped
        | State::Unknown => None,
    };
    let has_failed = |one: &&ServiceName| {
        schedules.get(*one).and_then(|schedule| schedule.last.as_ref()).is_some_and(|last| !last.is_success)
    };
    let failed = schedules.keys().filter(has_failed).map(|name| (RUN_FAILED.to_owned(), name.to_string()));
    boxes.iter().filter_map(warns).chain(failed).collect()
}

/// The events of a round without those that warn of what was so before the fault: they are no notice of it.
pub(crate) fn notices(mut standing: Standing, injected: Timestamp, events: &[Event]) -> Vec<Event> {
    let of = |event: &Event| (event.kind.clone(), event.subject.clone().unwrap_or_default());
    for event in events.iter().filter(|event| event.at < injected) {
        if event.kind == RUN_FAILED || TAKEN_BACK.iter().any(|(kind, _)| *kind == event.kind) {
            standing.insert(of(event));
        }
        let is_over = |kind: &str, subject: &str| {
            let subjects = (subject, event.subject.as_deref().unwrap_or_default());
            match (kind, event.kind.as_str()) {
                (RUN_FAILED, "RunEnded") => subjects.0 == subjects.1,
                _ => TAKEN_BACK.iter().any(|(began, over)| *began == kind && takes_back(event, over, subjects.0)),
            }
        };
        standing.retain(|(kind, subject)| !is_over(kind, subject));
    }
    events.iter().filter(|event| event.at < injected || !standing.contains(&of(event))).cloned().collect()
}

/// Whether an event is this one, about this subject where it matters.
fn takes_back(event: &Event, over: &str, subject: &str) -> bool {
    event.kind == over && (event.subject.as_deref().unwrap_or_default() == subject || over != "BoxReady")
}

/// What was told in a round, in the order in which it came.
pub(crate) fn told(injected: Timestamp, events: &[Event]) -> Vec<Told> {
    let mut all: Vec<Told> = Vec::new();
    for event in events.iter().filter(|event| event.at >= injected && event.level != Level::Info && event.kind != OURS)
    {
        if all.iter().any(|one| one.kind == event.kind) {
            continue;
        }
        let over = TAKEN_BACK.iter().find(|(kind, _)| *kind == event.kind).map(|(_, over)| *over);
        let subject = event.subject.as_deref().unwrap_or_default();
        let is_over =
            |later: &&Event| later.seq > event.seq && over.is_some_and(|over| takes_back(later, over, subject));
        let cleared = events.iter().find(is_over);
        all.push(Told {
            kind: event.kind.clone(),
            level: event.level,
            text: event.text.clone(),
            after_ms: millis(event.at.saturating_since(injected)),
            lasts: over.is_some(),
            cleared_ms: cleared.map(|event| millis(event.at.saturating_since(injected))),
        });
    }
    all
}

/// Over all rounds, in the order in which they came.
pub(crate) fn over<'t>(rounds: impl Iterator<Item = &'t [Told]>) -> Vec<Alert> {
    let mut kinds: BTreeMap<&str, Vec<&Told>> = BTreeMap::new();
    for one in rounds.flatten() {
        kinds.entry(&one.kind).or_default().push(one);
    }
    let mut alerts: Vec<Alert> = kinds.into_values().filter_map(|told| alert(&told)).collect();
    alerts.sort_by_key(|alert| alert.after_p50_ms);
    alerts
}

fn alert(told: &[&Told]) -> Option<Alert> {
    let first = told.first()?;
    let after: Vec<u64> = told.iter().map(|one| one.after_ms).collect();
    let cleared: Vec<u64> = told.iter().filter_map(|one| one.cleared_ms).collect();
    Some(Alert {
        kind: first.kind.clone(),
        level: first.level,
        text: first.text.clone(),
        after_p50_ms: measure::percentile(&after, 50),
        after_max_ms: after.iter().copied().max()?,
        rounds: u32::try_from(told.len()).unwrap_or(u32::MAX),
        lasts: first.lasts,
        cleared: u32::try_from(cleared.len()).unwrap_or(u32::MAX),
        cleared_max_ms: cleared.iter().copied().max(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, kind: &str, level: Level, subject: &str) -> Event {
        Event {
            seq,
            at: Timestamp::from_millis(1000 + i64::try_from(seq).expect("small") * 10),
            kind: kind.to_owned(),
            level,
            subject: Some(subject.to_owned()),
            text: format!("{subject}: {kind}"),
            fields: BTreeMap::new(),
        }
    }

    #[test]
    fn a_warning_is_known_by_its_first_and_is_over_when_its_own_subject_is_well() {
        let events = [
            event(1, "ChildEnded", Level::Warn, "a"),
            event(2, "BoxDegraded", Level::Warn, "a"),
            event(3, "BoxDegraded", Level::Warn, "b"),
            event(4, "BoxReady", Level::Info, "b"),
            event(5, "SabotageSet", Level::Warn, "a"),
            event(9, "BoxReady", Level::Info, "a"),
        ];
        let told = told(Timestamp::from_millis(1000), &events);
        let alerts = over([told.as_slice(), &told[..1]].into_iter());
        let seen: Vec<_> =
            alerts.iter().map(|one| (one.kind.as_str(), one.rounds, one.lasts, one.cleared_max_ms)).collect();
        assert_eq!(seen, [("ChildEnded", 2, false, None), ("BoxDegraded", 1, true, Some(90))]);
        assert_eq!((alerts[1].after_p50_ms, alerts[1].cleared), (20, 1));
        assert!(
            super::told(Timestamp::from_millis(5000), &events).is_empty(),
            "what came before the fault is not of it"
        );
    }

    /// The cache was killed, and a scheduled service whose run had failed before was told as degraded once more.
    #[test]
    fn what_was_so_before_the_fault_is_no_notice_of_it() {
        let shown = |name: &str, state| BoxStatus {
            id: mainstay_types::BoxId::Service { name: ServiceName::new(name).expect("a name") },
            name: name.to_owned(),
            label: String::new(),
            state,
            since: Timestamp::from_millis(0),
            waiting: Vec::new(),
            reason: None,
        };
        let boxes = [
            shown("bad", State::Degraded),
            shown("mended", State::Degraded),
            shown("loop", State::CrashLoop),
            shown("tick", State::Ready),
        ];
        let events = [
            event(1, "BoxReady", Level::Info, "mended"),
            event(2, "CommitsAsynchronous", Level::Warn, "database"),
            event(3, "RunFailed", Level::Error, "bad"),
            event(11, "BoxDegraded", Level::Warn, "bad"),
            event(12, "RunFailed", Level::Error, "bad"),
            event(13, "CommitsAsynchronous", Level::Warn, "database"),
            event(14, "BoxFailed", Level::Error, "loop"),
            event(15, "BoxDegraded", Level::Warn, "mended"),
            event(16, "BoxFailed", Level::Error, "tick"),
            event(17, "ChildEnded", Level::Warn, "cache"),
        ];
        let injected = Timestamp::from_millis(1100);
        let notices = notices(standing(&boxes, &BTreeMap::new()), injected, &events);
        let told = told(injected, &notices);
        let texts: Vec<&str> = told.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(texts, ["mended: BoxDegraded", "tick: BoxFailed", "cache: ChildEnded"]);
    }

    #[test]
    fn a_schedule_whose_last_run_had_failed_is_known_by_its_status() {
        let last = |is_success: bool| mainstay_api::LastRun {
            due: Timestamp::from_millis(0),
            cause: "time".to_owned(),
            began: Timestamp::from_millis(0),
            ended: Timestamp::from_millis(1),
            exit: mainstay_types::ExitReason::Code { code: i32::from(!is_success) },
            is_timed_out: false,
            is_success,
        };
        let schedule = |is_success| ScheduleStatus {
            every: "1m".to_owned(),
            next: Timestamp::from_millis(60_000),
            running: None,
            last: Some(last(is_success)),
        };
        let name = |name| ServiceName::new(name).expect("a name");
        let schedules = BTreeMap::from([(name("bad"), schedule(false)), (name("tick"), schedule(true))]);
        let standing = standing(&[], &schedules);
        assert_eq!(standing, BTreeSet::from([("RunFailed".to_owned(), "bad".to_owned())]));
        let events = [
            event(1, "RunEnded", Level::Info, "bad"),
            event(2, "RunFailed", Level::Error, "bad"),
            event(3, "RunFailed", Level::Error, "tick"),
        ];
        let subjects = |injected| {
            let notices = notices(standing.clone(), Timestamp::from_millis(injected), &events).into_iter();
            notices.filter(|event| event.kind == "RunFailed").filter_map(|event| event.subject).collect::<Vec<_>>()
        };
        assert_eq!(subjects(1000), ["tick"]);
        assert_eq!(subjects(1015), ["bad", "tick"], "one had ended well in between");
    }
}
