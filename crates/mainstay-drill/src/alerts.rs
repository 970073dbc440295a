//! What told people of a fault: events that warn, when the first of each kind came, and whether it was taken back. Pure.

use std::collections::BTreeMap;

use mainstay_api::{Event, Level};
use mainstay_types::Timestamp;
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

/// What was told in a round, in the order in which it came.
pub(crate) fn told(injected: Timestamp, events: &[Event]) -> Vec<Told> {
    let mut all: Vec<Told> = Vec::new();
    for event in events.iter().filter(|event| event.at >= injected && event.level != Level::Info && event.kind != OURS)
    {
        if all.iter().any(|one| one.kind == event.kind) {
            continue;
        }
        let over = TAKEN_BACK.iter().find(|(kind, _)| *kind == event.kind).map(|(_, over)| *over);
        let takes_back = |later: &&Event| {
            later.seq > event.seq
                && Some(later.kind.as_str()) == over
                && (later.subject == event.subject || over != Some("BoxReady"))
        };
        let cleared = events.iter().find(takes_back);
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
}
