//! The primary is gone: fence, then promote, then record, and only then is anybody routed.

use std::time::Duration;

use mainstay_stack::model::{Database, Durability};
use mainstay_types::{ChildName, Member, Timestamp, Waiting};

use super::bootstrap::directory_unknown;
use super::wish::{self, Stage};
use super::{Notes, fail, wait};
use crate::damage;
use crate::draft::Draft;
use crate::observed::{DataDirectory, Errand, MemberAnswer, Record, Wish};
use crate::plan::{Step, StepKey};
use crate::restart;
use crate::view::{Answer, Life, View};

/// A hung primary without a candidate is killed and started in place after this many times `hang_after`: the
/// kill costs every session, and nobody can take over meanwhile.
const PATIENCE_WITHOUT_CANDIDATE: u32 = 10;

/// What crash recovery redoes in a second, at the least: 50 to 130 MiB were measured on two cores and one disk.
const REDO_BYTES_A_SECOND: u64 = 50 * 1024 * 1024;
/// In `fast`: a recovery of that long is borne when a promotion would lose what was acknowledged. A promotion itself
/// takes a tenth of it.
const REDO_BORNE_SECONDS: u64 = 1;

/// Who may be promoted.
enum Choice {
    /// This one holds every acknowledged write (`fast`: the most).
    Promote(Member),
    /// Several may hold the latest writes: only after the primary's death can they be compared.
    FenceFirst,
    /// A candidate runs and has not answered yet.
    Wait(Member),
    /// Nobody.
    Nobody,
}

/// The recorded primary does not run.
pub(super) fn ended(draft: &mut Draft<'_>, notes: &mut Notes, database: &Database, record: &Record) {
    let primary = record.primary;
    let life = draft.view.member_life(primary);
    let lost_at = match life {
        Life::Ended { at, .. } => at,
        Life::Never | Life::Runs(_) => draft.view.now,
    };
    if draft.view.is_child_busy(&ChildName::postgres(primary)) && !is_fencing(&draft.view, primary) {
        let waiting = draft.ask(Step::StartPostgres { member: primary, follow: None });
        return wait(notes, primary, waiting);
    }
    match choose(&draft.view, database, record, lost_at.after(database.hang_after)) {
        Choice::Promote(candidate) => begin(draft, notes, record, candidate),
        Choice::FenceFirst => {
            let waiting = fence(draft, primary);
            wait(notes, primary, waiting);
        }
        Choice::Wait(candidate) => {
            draft.wake(lost_at.after(database.hang_after));
            let of = format!("postgres-{candidate}, which could take over");
            wait(notes, primary, Waiting::Observation { of });
        }
        Choice::Nobody => start_in_place(draft, notes, record),
    }
}

/// The recorded primary runs and does not answer.
pub(super) fn silent(draft: &mut Draft<'_>, notes: &mut Notes, database: &Database, record: &Record, since: Timestamp) {
    let primary = record.primary;
    let reason = format!("postgres-{primary} does not answer");
    let hung_at = draft.view.hung_at(primary, since);
    if draft.view.now < hung_at {
        draft.wake(hung_at);
        return wait(notes, primary, Waiting::Silence { since });
    }
    match choose(&draft.view, database, record, hung_at.after(database.hang_after)) {
        Choice::Promote(candidate) => begin(draft, notes, record, candidate),
        Choice::FenceFirst => {
            let waiting = fence(draft, primary);
            fail(notes, primary, reason, waiting);
        }
        Choice::Wait(candidate) => {
            let of = format!("postgres-{candidate}, which could take over");
            draft.wake(hung_at.after(database.hang_after));
            fail(notes, primary, reason, Waiting::Observation { of });
        }
        Choice::Nobody => {
            let patience: Duration = database.hang_after.saturating_mul(PATIENCE_WITHOUT_CANDIDATE);
            let kill_at = since.after(patience);
            let waiting = if draft.view.now >= kill_at {
                draft.ask_urgent(Step::Fence { member: primary })
            } else {
                draft.wake(kill_at);
                Waiting::Silence { since }
            };
            fail(notes, primary, reason, waiting);
        }
    }
}

/// A person asked for a failover although the primary may be well.
pub(super) fn is_by_hand(draft: &Draft<'_>, record: &Record) -> bool {
    let is_asked = |wish: &Wish| matches!(wish.errand, Errand::Failover { .. });
    draft.view.member_life(record.primary).runs().is_some()
        && matches!(wish::underway(&draft.view), Some((wish, Stage::Promote)) if is_asked(wish))
}

/// The recorded primary is given up because a person said so.
pub(super) fn by_hand(draft: &mut Draft<'_>, notes: &mut Notes, database: &Database, record: &Record) {
    let primary = record.primary;
    match choose(&draft.view, database, record, draft.view.now.after(database.hang_after)) {
        Choice::Promote(candidate) => begin(draft, notes, record, candidate),
        Choice::FenceFirst => {
            let waiting = fence(draft, primary);
            wait(notes, primary, waiting);
        }
        Choice::Wait(candidate) => {
            let of = format!("postgres-{candidate}, which is to take over");
            wait(notes, primary, Waiting::Observation { of });
        }
        // The wish is over in a moment: nobody could take over.
        Choice::Nobody => {}
    }
}

/// A failover that has begun goes on, whoever began it.
pub(super) fn go_on(draft: &mut Draft<'_>, notes: &mut Notes, record: &Record, promoting: Member) {
    let primary = record.primary;
    let is_safe = draft.view.is_proven_dead(primary) || draft.view.observed.is_fencing_sabotaged;
    if !is_safe {
        let waiting = fence(draft, primary);
        wait(notes, primary, waiting);
    }
    let unsafe_waiting = || Waiting::Observation { of: format!("the proof that postgres-{primary} is dead") };
    let Life::Runs(_) = draft.view.member_life(promoting) else {
        return revive(draft, notes, record, promoting, is_safe);
    };
    let waiting = match draft.view.answer(promoting) {
        Answer::Fact(_) if !is_safe => unsafe_waiting(),
        Answer::Fact(_) if draft.view.is_answer_outdated(promoting) => {
            Waiting::Observation { of: format!("whether postgres-{promoting} takes writes") }
        }
        Answer::Fact(answer) if answer.is_in_recovery => draft.ask_urgent(Step::Promote { member: promoting }),
        Answer::Fact(answer) => draft.ask_urgent(Step::WriteRecord { record: taken_over(record, promoting, answer) }),
        Answer::Silent { since } => {
            let hung_at = draft.view.hung_at(promoting, since);
            if draft.view.now >= hung_at {
                draft.ask_urgent(Step::Fence { member: promoting })
            } else {
                draft.wake(hung_at);
                Waiting::Silence { since }
            }
        }
        Answer::Unknown => Waiting::Readiness { probe: "its first answer".to_owned() },
    };
    wait(notes, promoting, waiting);
}

fn taken_over(record: &Record, primary: Member, answer: &MemberAnswer) -> Record {
    Record {
        epoch: record.epoch + 1,
        primary,
        timeline: answer.timeline,
        lsn: answer.lsn,
        candidates: vec![],
        promoting: None,
    }
}

/// The member that is to take over ended before it had: it is started again, or given up when it cannot run.
fn revive(draft: &mut Draft<'_>, notes: &mut Notes, record: &Record, promoting: Member, is_safe: bool) {
    let life = draft.view.member_life(promoting);
    let look = draft.view.member(promoting);
    let data = draft.view.data(promoting);
    let is_looping = matches!(life, Life::Ended { child, .. } if restart::is_crash_loop(child));
    let is_primary_whole = draft.view.member(record.primary).is_some_and(|seen| seen.data == DataDirectory::Complete);
    let waiting = match data {
        DataDirectory::Unknown => directory_unknown(promoting),
        // Nobody was ever routed to it: the recorded primary still holds everything that was acknowledged.
        DataDirectory::Complete | DataDirectory::Absent | DataDirectory::Unfinished | DataDirectory::Foreign
            if is_primary_whole && is_safe && (is_looping || data != DataDirectory::Complete) =>
        {
            let record = Record { candidates: vec![], promoting: None, ..record.clone() };
            draft.ask_urgent(Step::WriteRecord { record })
        }
        DataDirectory::Complete if draft.view.has_survivors(promoting) => {
            draft.ask_urgent(Step::Fence { member: promoting })
        }
        DataDirectory::Complete => {
            let has_finished = look.is_some_and(|seen| seen.has_standby_signal == Some(false));
            let follow = if has_finished { None } else { Some(record.primary) };
            if follow.is_none() && !is_safe {
                Waiting::Observation { of: format!("the proof that postgres-{} is dead", record.primary) }
            } else {
                draft.start(life, Step::StartPostgres { member: promoting, follow })
            }
        }
        DataDirectory::Absent | DataDirectory::Unfinished | DataDirectory::Foreign => Waiting::Operator {
            what: format!("restore a backup: the data of postgres-{promoting} and postgres-{} is gone", record.primary),
        },
    };
    wait(notes, promoting, waiting);
}

/// Record and fence at the same time: each is right without the other, and clients are held.
fn begin(draft: &mut Draft<'_>, notes: &mut Notes, record: &Record, candidate: Member) {
    let primary = record.primary;
    let begun = Record { promoting: Some(candidate), ..record.clone() };
    let waiting = draft.ask_urgent(Step::WriteRecord { record: begun });
    wait(notes, candidate, waiting);
    if !draft.view.is_proven_dead(primary) && !draft.view.observed.is_fencing_sabotaged {
        let waiting = fence(draft, primary);
        wait(notes, primary, waiting);
    }
}

/// Fences, unless that was just done and nobody has looked since.
fn fence(draft: &mut Draft<'_>, member: Member) -> Waiting {
    let is_done = draft.view.awaits_look(member) && draft.view.member_life(member).runs().is_none();
    if is_done || draft.view.member(member).is_none() {
        return Waiting::Observation { of: format!("the proof that postgres-{member} is dead") };
    }
    draft.ask_urgent(Step::Fence { member })
}

/// Chooses the candidate that holds every acknowledged write.
fn choose(view: &View<'_>, database: &Database, record: &Record, deadline: Timestamp) -> Choice {
    let mut answers: Vec<(Member, &MemberAnswer)> = Vec::new();
    let mut pending = None;
    let is_fast = database.durability == Durability::Fast;
    for candidate in &record.candidates {
        let name = ChildName::postgres(*candidate);
        let is_there =
            view.life(&name).runs().is_some() && !view.is_child_busy(&name) && !view.is_data_gone(*candidate);
        let answer = match view.answer(*candidate) {
            Answer::Fact(answer) if is_there && answer.is_in_recovery && answer.timeline == record.timeline => answer,
            Answer::Unknown | Answer::Silent { .. } if is_there => {
                pending = Some(*candidate);
                continue;
            }
            Answer::Fact(_) | Answer::Unknown | Answer::Silent { .. } => {
                // A commit waits for any one of the synchronous standbys: without the answer of each, nobody
                // knows which one has it.
                if is_fast {
                    continue;
                }
                return Choice::Nobody;
            }
        };
        answers.push((*candidate, answer));
    }
    let preferred = view.observed.wish.as_ref().filter(|wish| wish.epoch == record.epoch).and_then(Wish::to);
    // Of those that have the most one without damaged pages, the one that was asked for, else the first.
    let most = |answers: &[(Member, &MemberAnswer)]| {
        let of_first = answers.iter().rev();
        let is_whole = |member| damage::of(view, member).is_none();
        let order = |member, answer: &MemberAnswer| (answer.lsn, is_whole(member), preferred == Some(member));
        of_first.max_by_key(|(member, answer)| order(*member, answer)).map(|(member, _)| *member)
    };
    let mut best = most(&answers);
    // While anything of the primary lives, one of several candidates may still be given what the others lack.
    // In `fast` a single one is compared too: with what the primary had written.
    let is_comparing = (record.candidates.len() > 1 || is_fast) && !view.observed.is_fencing_sabotaged;
    // In `fast` one that does not answer is not waited for for ever.
    let is_late = is_fast && view.now >= deadline;
    if is_comparing && best.is_some() && (pending.is_none() || is_late) {
        if !view.is_proven_dead(record.primary) {
            return Choice::FenceFirst;
        }
        let is_final = |member: &&Member| view.is_final(**member, record.primary);
        let not_final = record.candidates.iter().find(|member| !is_final(member)).copied();
        pending = pending.or(not_final);
        if is_late {
            answers.retain(|(member, _)| is_final(&member));
            best = most(&answers);
        }
        if let (None, Some(candidate)) = (best, not_final) {
            return Choice::Wait(candidate);
        }
    }
    let is_in_place = |member: Member| is_fast && is_restart_better(view, record, member);
    match (best, pending) {
        (Some(candidate), None) if is_in_place(candidate) => Choice::Nobody,
        (Some(candidate), None) if damage::is_worse(view, record, candidate) => Choice::Nobody,
        (_, Some(candidate)) if view.now < deadline => Choice::Wait(candidate),
        (Some(candidate), None) => Choice::Promote(candidate),
        (Some(candidate), Some(_)) if is_fast => Choice::Promote(candidate),
        (Some(_) | None, Some(_)) | (None, None) => Choice::Nobody,
    }
}

/// Whether the fallen primary is back about as soon as the candidate would be there, with what the candidate lacks.
/// Only the first time: one that ended again at once, or could not be started, is replaced.
fn is_restart_better(view: &View<'_>, record: &Record, candidate: Member) -> bool {
    let is_asked = view
        .observed
        .wish
        .as_ref()
        .is_some_and(|wish| wish.epoch == record.epoch && matches!(wish.errand, Errand::Failover { .. }));
    let is_first = match view.member_life(record.primary) {
        Life::Ended { child, .. } => child.quick_ends <= 1,
        Life::Never | Life::Runs(_) => false,
    };
    let key = StepKey::Child { name: ChildName::postgres(record.primary) };
    let has_failed = view.observed.failed.contains_key(&key);
    let memory = view.database().and_then(|seen| seen.memory.get(&record.primary));
    let Some(control) = view.member(record.primary).and_then(|seen| seen.control) else { return false };
    let Answer::Fact(answer) = view.answer(candidate) else { return false };
    let written = memory.and_then(|memory| memory.written).unwrap_or(control.checkpoint).max(control.checkpoint);
    let is_behind = match control.is_shut_down {
        // Whoever has the last record has everything.
        true => answer.lsn <= control.checkpoint,
        false => answer.lsn < written,
    };
    let redo = if control.is_shut_down { 0 } else { written.as_u64().saturating_sub(control.redo.as_u64()) };
    !is_asked
        && is_first
        && !has_failed
        && is_behind
        && view.is_proven_dead(record.primary)
        && view.data(record.primary) == DataDirectory::Complete
        && redo <= REDO_BYTES_A_SECOND * REDO_BORNE_SECONDS
}

/// Crash recovery of the recorded primary: nothing that was acknowledged is lost by it.
fn start_in_place(draft: &mut Draft<'_>, notes: &mut Notes, record: &Record) {
    let member = record.primary;
    let life = draft.view.member_life(member);
    match draft.view.data(member) {
        DataDirectory::Complete if draft.view.has_survivors(member) => {
            let waiting = draft.ask_urgent(Step::Fence { member });
            wait(notes, member, waiting);
        }
        DataDirectory::Complete => {
            let waiting = draft.start(life, Step::StartPostgres { member, follow: None });
            wait(notes, member, waiting);
        }
        DataDirectory::Unknown => wait(notes, member, directory_unknown(member)),
        DataDirectory::Absent | DataDirectory::Unfinished | DataDirectory::Foreign => {
            let reason = "the recorded primary's data directory is gone".to_owned();
            let what = format!("restore a backup, or put the directory of postgres-{member} back");
            fail(notes, member, reason, Waiting::Operator { what });
        }
    }
}

/// Whether the recorded primary cannot be started just now, so that a candidate must be woken to take over.
pub(super) fn needs_candidate(draft: &Draft<'_>, record: &Record) -> bool {
    let view = &draft.view;
    let Some(seen) = view.member(record.primary) else { return false };
    match view.member_life(record.primary) {
        Life::Runs(_) => false,
        Life::Ended { child, .. } if restart::earliest(child, view.now).is_some() => true,
        Life::Ended { .. } | Life::Never => {
            matches!(seen.data, DataDirectory::Absent | DataDirectory::Unfinished | DataDirectory::Foreign)
        }
    }
}

fn is_fencing(view: &View<'_>, member: Member) -> bool {
    let step = Step::Fence { member };
    view.observed.running.get(&step.key()).is_some_and(|running| running.what == step.to_string())
}
