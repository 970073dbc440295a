//! A member that is not the primary: cloned, started, watched, cloned again.

use std::time::Duration;

use mainstay_stack::model::Durability;
use mainstay_types::{ChildName, Member, Seen, Timestamp, Waiting};

use super::bootstrap::directory_unknown;
use super::wish::{self, Stage};
use super::{Notes, fail, leads_to_primary, wait};
use crate::damage;
use crate::draft::Draft;
use crate::observed::{ChildSeen, DataDirectory, MemberAnswer, Record};
use crate::plan::{Step, StepKey};
use crate::restart;
use crate::stop::FAST_SHUTDOWN;
use crate::view::{Answer, Life, View};

/// Time without a stream after which a standby is cloned again: fifty times PostgreSQL's pause between two
/// tries to connect (`wal_retrieve_retry_interval`, 200 ms here).
pub(super) const RECLONE_AFTER: Duration = Duration::from_secs(10);

/// A database up to this size is cloned again rather than rewound: a copy of 5 GiB takes 10 to 25 s (measured: 8.2 s for
/// 2.1 GB, and 12 s to rewind it), and never has to be begun anew as a rewind that failed.
pub(super) const CLONE_UP_TO_BYTES: u64 = 5 * 1024 * 1024 * 1024;

/// Plans one member. `primary` is the recorded primary's answer when it takes writes.
pub(super) fn plan(
    draft: &mut Draft<'_>,
    notes: &mut Notes,
    record: &Record,
    member: Member,
    primary: Option<&MemberAnswer>,
) {
    if let Some(until) = damage::rests_until(&draft.view, member) {
        draft.wake(until);
    }
    let name = ChildName::postgres(member);
    let is_wanted = draft.view.wanted_members().contains(&member);
    match draft.view.life(&name) {
        Life::Runs(child) if is_wanted => running(draft, notes, record, member, child, primary),
        Life::Runs(child) => {
            // It holds its data; a stack file that wants it again finds it there.
            let waiting = draft.stop(&name, child, FAST_SHUTDOWN);
            wait(notes, member, waiting);
        }
        life if is_wanted => idle(draft, notes, record, member, life, primary),
        Life::Never | Life::Ended { .. } => {}
    }
}

fn running(
    draft: &mut Draft<'_>,
    notes: &mut Notes,
    record: &Record,
    member: Member,
    child: &ChildSeen,
    primary: Option<&MemberAnswer>,
) {
    if draft.view.is_data_gone(member) {
        let waiting = draft.ask_urgent(Step::Fence { member });
        return fail(notes, member, "its data directory is gone".to_owned(), waiting);
    }
    match draft.view.answer(member) {
        Answer::Fact(answer) if !answer.is_in_recovery => {
            let reason =
                format!("takes writes although the record names postgres-{}: nobody is led to it", record.primary);
            let waiting = draft.ask_urgent(Step::Fence { member });
            fail(notes, member, reason, waiting);
        }
        // The primary changed, and this one is another standby than the one that took over.
        Answer::Fact(answer)
            if answer.follows.is_some_and(|one| one != record.primary) && record.promoting.is_none() =>
        {
            let waiting = if is_changed_since(&draft.view, member) {
                Waiting::Observation { of: format!("whom postgres-{member} follows") }
            } else {
                draft.ask_urgent(Step::Follow { member, primary: record.primary })
            };
            wait(notes, member, waiting);
        }
        // Nobody waits for it any more: its pages are damaged, and it is cloned anew.
        Answer::Fact(_) if is_left(draft, record, member, primary) => leave(draft, notes, member, child),
        Answer::Fact(answer) if answer.is_streaming => {
            let is_asked = wish::detaching(&draft.view) == Some(member);
            if is_asked && matches!(wish::underway(&draft.view), Some((_, Stage::Restart))) {
                let waiting = draft.stop(&ChildName::postgres(member), child, FAST_SHUTDOWN);
                wait(notes, member, waiting);
            }
        }
        Answer::Fact(_) => {
            wait(notes, member, Waiting::Readiness { probe: "its stream from the primary".to_owned() });
            let Some(since) = detached_since(&draft.view, member, child) else { return };
            if primary.is_none() {
                return;
            }
            let due = since.after(RECLONE_AFTER);
            if draft.view.now < due {
                draft.wake(due);
            } else if !record.candidates.contains(&member) {
                let waiting = draft.stop(&ChildName::postgres(member), child, FAST_SHUTDOWN);
                wait(notes, member, waiting);
            }
        }
        Answer::Silent { since } => {
            let hung_at = draft.view.hung_at(member, since);
            if draft.view.now < hung_at {
                draft.wake(hung_at);
                return wait(notes, member, Waiting::Silence { since });
            }
            let waiting = draft.ask_urgent(Step::Fence { member });
            fail(notes, member, "does not answer".to_owned(), waiting);
        }
        Answer::Unknown => wait(notes, member, Waiting::Readiness { probe: "its first answer".to_owned() }),
    }
}

/// Whether nobody waits for a standby with damaged pages any more.
fn is_left(draft: &Draft<'_>, record: &Record, member: Member, primary: Option<&MemberAnswer>) -> bool {
    damage::to_clone(&draft.view) == Some(member)
        && !record.candidates.contains(&member)
        && primary.is_some_and(|primary| !primary.synchronous.contains(&member))
}

/// Statements that read there end first.
fn leave(draft: &mut Draft<'_>, notes: &mut Notes, member: Member, child: &ChildSeen) {
    let waiting = match damage::read_until(&draft.view, member) {
        Some(until) => {
            draft.wake(until);
            Waiting::Drain { deadline: until }
        }
        None => draft.stop(&ChildName::postgres(member), child, FAST_SHUTDOWN),
    };
    wait(notes, member, waiting);
}

fn idle(
    draft: &mut Draft<'_>,
    notes: &mut Notes,
    record: &Record,
    member: Member,
    life: Life<'_>,
    primary: Option<&MemberAnswer>,
) {
    let waiting = match draft.view.data(member) {
        DataDirectory::Unknown => directory_unknown(member),
        DataDirectory::Foreign => {
            let what = format!("move the directory of postgres-{member} away: it is not one of mainstay's");
            return fail(notes, member, "its directory is not ours".to_owned(), Waiting::Operator { what });
        }
        DataDirectory::Complete if draft.view.has_survivors(member) => draft.ask_urgent(Step::Fence { member }),
        DataDirectory::Complete if !needs_clone(&draft.view, member) => {
            let is_needed = record.candidates.contains(&member) && super::failover::needs_candidate(draft, record);
            if draft.view.member_life(record.primary).runs().is_some() || is_needed {
                draft.start(life, Step::StartPostgres { member, follow: Some(record.primary) })
            } else {
                Waiting::Dependency { on: format!("postgres-{}", record.primary) }
            }
        }
        DataDirectory::Complete if primary.is_some() && !draft.view.is_proven_dead(member) => {
            running_step(draft, member)
                .unwrap_or_else(|| Waiting::Observation { of: format!("the proof that postgres-{member} is dead") })
        }
        DataDirectory::Absent | DataDirectory::Unfinished | DataDirectory::Complete => {
            clone(draft, record, member, primary)
        }
    };
    wait(notes, member, waiting);
}

fn clone(draft: &mut Draft<'_>, record: &Record, member: Member, primary: Option<&MemberAnswer>) -> Waiting {
    if primary.is_none() {
        return Waiting::Dependency { on: format!("postgres-{}", record.primary) };
    }
    // Clients first: a clone loads the disk that the repointed sessions need.
    if draft.view.router().is_some() && !leads_to_primary(draft, record) {
        return Waiting::Dependency { on: "the router".to_owned() };
    }
    if record.candidates.contains(&member) {
        return Waiting::Dependency { on: "the record, which still names it a candidate".to_owned() };
    }
    let from = record.primary;
    let failed = draft.view.observed.failed.get(&StepKey::Child { name: ChildName::postgres(member) });
    if let Some(until) = damage::not_copied_until(&draft.view, from, failed) {
        let reason = format!("postgres-{from} has damaged pages, and no copy of it is whole");
        draft.wake(until);
        return Waiting::BackOff { until, reason };
    }
    draft.ask(if can_rewind(draft, record, member) {
        Step::Rewind { member, from }
    } else {
        Step::Clone { member, from }
    })
}

/// Whether a rewind is worth its risk: a former primary of a large database. One failure of anything, and it is cloned.
/// Not in `fast`: there its log is the only evidence of what a failover lost.
fn can_rewind(draft: &Draft<'_>, record: &Record, member: Member) -> bool {
    let view = &draft.view;
    let (Some(seen), Some(database)) = (view.member(member), &view.stack.database) else { return false };
    let key = StepKey::Child { name: ChildName::postgres(member) };
    let size = view.database().and_then(|database| database.size_bytes);
    seen.data == DataDirectory::Complete
        && seen.has_standby_signal == Some(false)
        && seen.control.is_some_and(|control| control.timeline < record.timeline)
        && database.durability != Durability::Fast
        && size.is_some_and(|size| size > CLONE_UP_TO_BYTES)
        && !view.observed.failed.contains_key(&key)
        && view.is_proven_dead(member)
        // A rewind leaves what did not change as it is, and looks at no checksum of what it copies.
        && damage::of(view, member).is_none()
        && damage::of(view, record.primary).is_none()
}

/// Whether its latest answer is older than the last step on it.
fn is_changed_since(view: &View<'_>, member: Member) -> bool {
    let key = StepKey::Child { name: ChildName::postgres(member) };
    match view.member(member).map(|seen| &seen.answer) {
        Some(Seen::Fact { observed_at, .. }) => view.is_outdated(*observed_at, &key),
        Some(Seen::Unknown | Seen::Silent { .. }) | None => false,
    }
}

/// Whether its directory cannot follow the recorded primary as it is.
pub(super) fn needs_clone(view: &View<'_>, member: Member) -> bool {
    let Some(seen) = view.member(member) else { return false };
    let cloned_at = view.database().and_then(|database| database.memory.get(&member)).and_then(|m| m.cloned_at);
    let is_worn_out = match view.member_life(member) {
        Life::Ended { child, at, .. } => {
            let was_detached =
                detached_since(view, member, child).is_some_and(|since| at.saturating_since(since) >= RECLONE_AFTER);
            cloned_at.is_none_or(|cloned| cloned < at) && (was_detached || restart::is_crash_loop(child))
        }
        Life::Never | Life::Runs(_) => false,
    };
    let is_damaged = damage::to_clone(view) == Some(member);
    seen.has_standby_signal == Some(false) && !can_follow(view, member) || is_worn_out || is_damaged
}

/// Whether a former primary is a beginning of what the present one holds, so that it can follow it as it is: it ended
/// in order, and the present one's timeline left its own behind the last record that it wrote.
fn can_follow(view: &View<'_>, member: Member) -> bool {
    let (Some(record), Some(seen)) = (view.record(), view.member(member)) else { return false };
    let Some(control) = &seen.control else { return false };
    record.primary != member
        && record.promoting.is_none()
        && view.is_proven_dead(member)
        && control.is_shut_down
        && control.timeline.0.checked_add(1) == Some(record.timeline.0)
        && control.checkpoint < record.lsn
}

/// Since when this start of a standby has not been streaming.
fn detached_since(view: &View<'_>, member: Member, child: &ChildSeen) -> Option<Timestamp> {
    let since = view.database()?.memory.get(&member)?.detached_since?;
    // Whom it follows may just have been changed. What was done after this start ended is about the next one: its stop,
    // above all, is done once it has ended.
    let key = StepKey::Child { name: ChildName::postgres(member) };
    let ended_at = child.ended.as_ref().map(|(_, at)| *at);
    let is_of_this_start = |done: &Timestamp| *done <= view.now && ended_at.is_none_or(|at| *done < at);
    let changed_at = view.observed.done.get(&key).copied().filter(is_of_this_start);
    Some(since.max(child.since).max(changed_at.unwrap_or(since)))
}

/// Whether the member, as far as the primary and it say, holds back no commit and misses none.
pub(super) fn is_fine(view: &View<'_>, record: &Record, member: Member, primary: &MemberAnswer) -> bool {
    let says_so = matches!(view.answer(member), Answer::Fact(answer)
        if answer.is_in_recovery && answer.is_streaming && answer.timeline == record.timeline);
    says_so
        && damage::to_clone(view) != Some(member)
        && !view.is_data_gone(member)
        && primary.standbys.contains_key(&member)
        && view.wanted_members().contains(&member)
}

/// Whether commits that wait for this member would wait for long. Never from `Unknown`: then the primary decides.
pub(super) fn is_lost(view: &View<'_>, record: &Record, member: Member, primary: &MemberAnswer) -> bool {
    let is_gone = view.member_life(member).runs().is_none()
        || view.is_data_gone(member)
        || !primary.standbys.contains_key(&member);
    let is_wrong = match view.answer(member) {
        Answer::Fact(answer) => !answer.is_in_recovery || answer.timeline != record.timeline,
        Answer::Silent { since } => view.now >= view.hung_at(member, since),
        Answer::Unknown => false,
    };
    let is_damaged = damage::to_clone(view) == Some(member);
    is_gone || is_wrong || is_damaged || !view.wanted_members().contains(&member)
}

fn running_step(draft: &Draft<'_>, member: Member) -> Option<Waiting> {
    let key = StepKey::Child { name: ChildName::postgres(member) };
    let running = draft.view.observed.running.get(&key)?;
    Some(Waiting::Step { what: running.what.clone(), since: running.since })
}
