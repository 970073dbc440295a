//! A cluster with a record: its duties, one at a time, in an order in which every prefix is safe.

use std::collections::BTreeSet;

use mainstay_stack::model::{Database, Durability};
use mainstay_types::{Member, Waiting};

use super::wish::{self, Stage};
use super::{Notes, failover, restore, standby, wait};
use crate::damage;
use crate::draft::Draft;
use crate::observed::{Errand, MemberAnswer, Record};
use crate::plan::{Step, StepKey};
use crate::stop::FAST_SHUTDOWN;
use crate::view::{Answer, Life};

pub(super) fn plan(draft: &mut Draft<'_>, notes: &mut Notes, database: &Database, record: &Record) {
    let primary = record.primary;
    let mut writable = None;
    let incoming = wish::restoring(&draft.view);
    if let Some(promoting) = record.promoting {
        // Whoever is promoted may be writable already: a failover that was begun comes to its end before anything else.
        failover::go_on(draft, notes, record, promoting);
    } else if let Some(incoming) = incoming {
        return restore::plan(draft, notes, record, incoming);
    } else if failover::is_by_hand(draft, record) {
        failover::by_hand(draft, notes, database, record);
    } else {
        match draft.view.member_life(primary) {
            Life::Runs(_) => match draft.view.answer(primary) {
                Answer::Fact(answer) if !answer.is_in_recovery => writable = Some(answer),
                Answer::Fact(_) => {
                    // The record was written for a promotion that it outlived.
                    let waiting = draft.ask_urgent(Step::Promote { member: primary });
                    wait(notes, primary, waiting);
                }
                Answer::Silent { since } => failover::silent(draft, notes, database, record, since),
                Answer::Unknown => {
                    wait(notes, primary, Waiting::Readiness { probe: "its first answer".to_owned() });
                }
            },
            Life::Never | Life::Ended { .. } => failover::ended(draft, notes, database, record),
        }
    }
    if let Some(answer) = writable {
        duties(draft, notes, database, record, answer);
        schema(draft, database, primary);
        errand(draft, notes, primary);
    }
    let members = others(draft, record);
    for member in members {
        if Some(member) != record.promoting {
            standby::plan(draft, notes, record, member, writable);
        }
    }
}

/// The part of a switchover that the primary still has a say in.
fn errand(draft: &mut Draft<'_>, notes: &mut Notes, primary: Member) {
    let Some((wish, stage)) = wish::underway(&draft.view) else { return };
    if !matches!(wish.errand, Errand::Switchover { .. }) {
        return;
    }
    match stage {
        Stage::Checkpoint => {
            draft.ask(Step::Checkpoint { primary });
        }
        Stage::Drain { until, .. } => draft.wake(until),
        Stage::Stop => {
            let Life::Runs(child) = draft.view.member_life(primary) else { return };
            let waiting = draft.stop(&mainstay_types::ChildName::postgres(primary), child, FAST_SHUTDOWN);
            wait(notes, primary, waiting);
        }
        Stage::Promote | Stage::Lead | Stage::Detach | Stage::Restart | Stage::CatchUp | Stage::End | Stage::Swap => {}
    }
}

/// Every member but the primary, wanted or merely there.
pub(super) fn others(draft: &Draft<'_>, record: &Record) -> BTreeSet<Member> {
    let mut members: BTreeSet<Member> = draft.view.wanted_members().into_iter().collect();
    members.extend(draft.view.database().into_iter().flat_map(|seen| seen.members.keys().copied()));
    members.remove(&record.primary);
    members
}

/// The next thing to do about confirmations and the next about the router; whichever comes second waits a turn.
fn duties(draft: &mut Draft<'_>, notes: &mut Notes, database: &Database, record: &Record, primary: &MemberAnswer) {
    // What the last step changed is not seen yet: it would be asked for again.
    let confirm = (!draft.view.is_answer_outdated(record.primary))
        .then(|| timeline(record, primary).or_else(|| confirmations(draft, database, record, primary)))
        .flatten();
    let route = routing(draft, record, primary);
    let wanted = (!wish::is_holding(&draft.view)).then_some(record.primary);
    let is_misled = draft.view.router().is_some_and(|router| router.write != wanted);
    let mut lanes = match &confirm {
        // Commits hang until it is done, or nobody may be led there before.
        Some((_, Weight::Pressing)) => [confirm.map(|(step, _)| step), route],
        Some((_, Weight::Calm)) if !is_misled => [confirm.map(|(step, _)| step), route],
        Some((_, Weight::Calm)) | None => [route, confirm.map(|(step, _)| step)],
    };
    // Steps of the cluster share one key: one that fails for ever must not starve the other.
    let attempts = draft.view.observed.failed.get(&StepKey::Cluster).map_or(0, |failed| failed.attempts);
    if attempts % 2 == 1 && lanes[1].is_some() && !draft.view.is_busy(&StepKey::Cluster) {
        lanes.swap(0, 1);
    }
    if let Some(step) = lanes.into_iter().flatten().next() {
        let waiting = draft.ask_urgent(step);
        if matches!(waiting, Waiting::BackOff { .. }) {
            wait(notes, record.primary, waiting);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    Pressing,
    Calm,
}

/// A control plane that died while restored data took the primary's place left a record of the timeline before.
fn timeline(record: &Record, primary: &MemberAnswer) -> Option<(Step, Weight)> {
    let is_stale = record.timeline != primary.timeline && record.candidates.is_empty();
    let record = Record { timeline: primary.timeline, ..record.clone() };
    is_stale.then_some((Step::WriteRecord { record }, Weight::Calm))
}

fn routing(draft: &Draft<'_>, record: &Record, primary: &MemberAnswer) -> Option<Step> {
    let router = draft.view.router()?;
    if router.epoch > record.epoch {
        return None;
    }
    let read: Vec<Member> = others(draft, record)
        .into_iter()
        .filter(|member| standby::is_fine(&draft.view, record, *member, primary))
        .filter(|member| wish::detaching(&draft.view) != Some(*member))
        .filter(|member| damage::of(&draft.view, *member).is_none())
        .collect();
    let write = (!wish::is_holding(&draft.view)).then_some(record.primary);
    let is_right = router.epoch == record.epoch && router.write == write && router.read == read;
    (!is_right).then_some(Step::PointRouter { epoch: record.epoch, write, read })
}

/// The next step towards candidates that every acknowledged commit waits for.
///
/// Adding: the primary names them first, then the record. Removing: the record first, then the primary. Any change
/// of the set passes through a record without candidates, because a commit waits for any one of the set: what the
/// one has the other may lack.
fn confirmations(
    draft: &Draft<'_>,
    database: &Database,
    record: &Record,
    primary: &MemberAnswer,
) -> Option<(Step, Weight)> {
    let view = &draft.view;
    let leaving = wish::detaching(view).filter(|member| wish::is_given_up(view, *member));
    let is_lost = |member: &Member| leaving == Some(*member) || standby::is_lost(view, record, *member, primary);
    let is_fine = |member: &Member| leaving != Some(*member) && standby::is_fine(view, record, *member, primary);
    let fine: BTreeSet<Member> = others(draft, record).into_iter().filter(is_fine).collect();
    let candidates: BTreeSet<Member> = record.candidates.iter().copied().collect();
    let named: BTreeSet<Member> = primary.synchronous.iter().copied().collect();
    if database.durability == Durability::Fast {
        return asynchronous(record, &candidates, &fine, is_lost, primary);
    }
    let is_strict = database.durability == Durability::Strict;
    // In `strict` a lost candidate stays one: without it nothing was acknowledged since.
    let is_out = |member: &Member| match is_strict {
        true => leaving == Some(*member) || standby::needs_clone(view, *member) || is_detached(view, *member),
        false => is_lost(member),
    };
    let without = || Step::WriteRecord { record: Record { candidates: vec![], ..record.clone() } };
    if candidates.iter().any(is_out) || !candidates.is_subset(&named) {
        return Some((without(), Weight::Pressing));
    }
    let set = |members: &BTreeSet<Member>| Step::SetSynchronous {
        primary: record.primary,
        standbys: members.iter().copied().collect(),
    };
    if fine.is_empty() {
        if !is_strict && !named.is_empty() && named.iter().all(is_lost) {
            return Some((set(&BTreeSet::new()), Weight::Pressing));
        }
        // A promoted primary of a strict stack must not acknowledge alone, not even its first commit.
        let wanted: BTreeSet<Member> = view.wanted_members().into_iter().filter(|m| *m != record.primary).collect();
        if is_strict && named.is_empty() && !wanted.is_empty() && view.observed.is_database_prepared {
            return Some((set(&wanted), Weight::Pressing));
        }
        return None;
    }
    let kept = named.iter().copied().filter(|member| !is_lost(member));
    let wanted: BTreeSet<Member> = fine.iter().copied().chain(kept).collect();
    if wanted != named {
        let step = if candidates.is_empty() { set(&wanted) } else { without() };
        return Some((step, Weight::Calm));
    }
    let is_caught_up = |member: &Member| has_caught_up(draft, record, *member, primary);
    if candidates != wanted && wanted.is_subset(&fine) && wanted.iter().all(is_caught_up) {
        let record = Record { candidates: wanted.into_iter().collect(), ..record.clone() };
        return Some((Step::WriteRecord { record }, Weight::Calm));
    }
    None
}

/// A standby that lost its stream long ago and will be cloned again.
fn is_detached(view: &crate::view::View<'_>, member: Member) -> bool {
    let since = view.database().and_then(|seen| seen.memory.get(&member)).and_then(|memory| memory.detached_since);
    since.is_some_and(|since| view.now >= since.after(standby::RECLONE_AFTER))
}

fn asynchronous(
    record: &Record,
    candidates: &BTreeSet<Member>,
    fine: &BTreeSet<Member>,
    is_lost: impl Fn(&Member) -> bool,
    primary: &MemberAnswer,
) -> Option<(Step, Weight)> {
    if !primary.synchronous.is_empty() {
        return Some((Step::SetSynchronous { primary: record.primary, standbys: vec![] }, Weight::Calm));
    }
    let kept = candidates.iter().copied().filter(|member| !is_lost(member));
    let wanted: BTreeSet<Member> = kept.chain(fine.iter().copied()).collect();
    if wanted == *candidates {
        return None;
    }
    let record = Record { candidates: wanted.into_iter().collect(), ..record.clone() };
    Some((Step::WriteRecord { record }, Weight::Calm))
}

/// Whether the member has flushed everything that was acknowledged before commits waited for it.
pub(crate) fn has_caught_up(draft: &Draft<'_>, record: &Record, member: Member, primary: &MemberAnswer) -> bool {
    let memory = draft.view.database().and_then(|seen| seen.memory.get(&record.primary));
    let named = memory.and_then(|memory| memory.synchronous.as_ref());
    let from = match named {
        Some((members, from)) if *members == primary.synchronous => *from,
        Some(_) | None => primary.lsn,
    };
    primary.standbys.get(&member).is_some_and(|flushed| *flushed >= from)
}

fn schema(draft: &mut Draft<'_>, database: &Database, primary: Member) {
    if !draft.view.observed.is_database_prepared {
        draft.ask(Step::PrepareDatabase { primary });
    } else if database.migrations.is_some() && !draft.view.observed.is_migrated {
        draft.ask(Step::Migrate { primary });
    }
}
