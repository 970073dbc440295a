//! How the router and the members are drawn.

use mainstay_stack::model::Durability;
use mainstay_types::{BoxId, ExitReason, Member, State, Waiting};

use super::{Notes, leads_to_primary, worse};
use crate::damage::{self, Damage};
use crate::draft::{Draft, end_reason, idle_state};
use crate::observed::DataDirectory;
use crate::plan::BoxPlan;
use crate::view::{Answer, Life};

pub(super) fn router(draft: &Draft<'_>, mut shown: BoxPlan) -> BoxPlan {
    if shown.state != State::Ready {
        return shown;
    }
    let Some(record) = draft.view.record() else {
        shown.state = State::Starting;
        shown.waiting.push(Waiting::Dependency { on: "the database's primary".to_owned() });
        return shown;
    };
    if draft.view.router().is_some_and(|router| router.epoch > record.epoch) {
        let what = "find out which state directory is the right one".to_owned();
        shown.waiting.push(Waiting::Operator { what });
        worse(&mut shown, State::Failed, "it was told a later epoch than the record holds".to_owned());
    } else if leads_to_primary(draft, record) && draft.view.is_answer_old(record.primary) {
        // Whoever looks was held up: that says nothing of the primary, and sessions go on.
        shown.state = State::Unknown;
        shown.waiting.push(Waiting::Observation { of: format!("postgres-{}", record.primary) });
    } else if !leads_to_primary(draft, record) || !is_serving(draft, record.primary) {
        shown.waiting.push(Waiting::Dependency { on: "the database's primary".to_owned() });
        worse(&mut shown, State::Degraded, "sessions are held until a primary takes writes".to_owned());
    }
    shown
}

/// Whether the primary takes writes as far as anybody knows: a look without an answer is no hang yet.
fn is_serving(draft: &Draft<'_>, primary: Member) -> bool {
    match draft.view.answer(primary) {
        Answer::Fact(answer) => !answer.is_in_recovery,
        Answer::Silent { since } => draft.view.now < draft.view.hung_at(primary, since),
        Answer::Unknown => false,
    }
}

pub(super) fn members(draft: &Draft<'_>, notes: &mut Notes) -> Vec<BoxPlan> {
    let mut members = draft.view.wanted_members();
    members.extend(notes.keys().copied().filter(|member| !members.contains(member)).collect::<Vec<_>>());
    members.into_iter().map(|member| one(draft, notes, member)).collect()
}

fn one(draft: &Draft<'_>, notes: &mut Notes, member: Member) -> BoxPlan {
    let note = notes.remove(&member).unwrap_or_default();
    let life = draft.view.member_life(member);
    let mut shown = BoxPlan {
        id: BoxId::Postgres { member },
        label: label(draft, member),
        state: State::Starting,
        waiting: note.waiting,
        reason: note.reason,
    };
    match life {
        Life::Runs(_) => {
            shown.state = running_state(draft, member, &mut shown.waiting);
            if let Some(reason) = borne(draft, member) {
                worse(&mut shown, State::Degraded, reason);
            } else if let Some(reason) = waits_for_a_standby(draft, member).filter(|_| shown.state == State::Ready) {
                shown.waiting.push(Waiting::Dependency { on: "a standby that streams".to_owned() });
                worse(&mut shown, State::Degraded, reason);
            } else if let Some(damage) = damage::of(&draft.view, member).filter(|_| shown.state == State::Ready) {
                let (reason, waiting) = damaged(draft, member, damage);
                shown.waiting.push(waiting);
                worse(&mut shown, State::Degraded, reason);
            }
        }
        Life::Never | Life::Ended { .. } => {
            if shown.waiting.is_empty() {
                shown.waiting.push(Waiting::Dependency { on: "the database's primary".to_owned() });
            }
            shown.state = idle_state(life, &shown.waiting[0]);
            shown.reason = shown.reason.or_else(|| end_reason(life));
            // A primary that is gone is down, whatever is being done about it; a back-off says more than that.
            let is_primary = draft.view.record().is_some_and(|record| record.primary == member);
            let is_acted_on = matches!(shown.state, State::Starting | State::Unknown | State::Waiting);
            // One that ended in order was brought down, by the last run as a rule: it is started, nothing failed.
            let is_gone = matches!(life, Life::Ended { reason, .. } if *reason != ExitReason::Code { code: 0 });
            if is_primary && is_acted_on && is_gone {
                shown.state = State::Failed;
            }
        }
    }
    if note.is_failed {
        shown.state = State::Failed;
    }
    shown
}

fn running_state(draft: &Draft<'_>, member: Member, waiting: &mut Vec<Waiting>) -> State {
    let is_primary = draft.view.record().is_some_and(|record| record.primary == member);
    match draft.view.answer(member) {
        Answer::Fact(answer) if is_primary && !answer.is_in_recovery => State::Ready,
        Answer::Fact(answer) if !is_primary && answer.is_in_recovery && answer.is_streaming => State::Ready,
        Answer::Silent { since } => {
            if waiting.is_empty() {
                waiting.push(Waiting::Silence { since });
            }
            // Failed is what has been silent for so long that something is done about it.
            State::Unknown
        }
        Answer::Fact(_) | Answer::Unknown => {
            if waiting.is_empty() {
                waiting.push(Waiting::Readiness { probe: "its answer".to_owned() });
            }
            State::Starting
        }
    }
}

/// Why a member that is silent for longer than `hang_after` is left alone: only a machine without time for it excuses
/// that, and a person should know.
fn borne(draft: &Draft<'_>, member: Member) -> Option<String> {
    let Answer::Silent { since } = draft.view.answer(member) else { return None };
    let hang_after = draft.view.stack.database.as_ref()?.hang_after;
    let (now, hung_at) = (draft.view.now, draft.view.hung_at(member, since));
    (now >= since.after(hang_after) && now < hung_at).then(|| {
        let (usual, most) = (hang_after.as_secs(), hung_at.saturating_since(since).as_secs());
        format!(
            "silent for more than {usual} s; borne while tasks of this machine wait for CPU or disk and no other member \
             answers all the time, {most} s at most"
        )
    })
}

/// A primary of a strict stack whose commits wait for a standby that is not there.
fn waits_for_a_standby(draft: &Draft<'_>, member: Member) -> Option<String> {
    let database = draft.view.stack.database.as_ref()?;
    let record = draft.view.record().filter(|record| record.primary == member)?;
    let answer = draft.view.writable(member)?;
    let is_waiting = database.durability == Durability::Strict
        && !answer.synchronous.is_empty()
        && draft.view.observed.is_database_prepared
        && answer.synchronous.iter().all(|standby| super::standby::is_lost(&draft.view, record, *standby, answer));
    is_waiting.then(|| "writes wait: durability is \"strict\" and no standby streams".to_owned())
}

/// What a member with damaged pages says of itself, and what comes next.
fn damaged(draft: &Draft<'_>, member: Member, damage: &Damage) -> (String, Waiting) {
    let view = &draft.view;
    let primary = view.record().map(|record| record.primary);
    let is_whole = |one: &Member| damage::of(view, *one).is_none();
    let standbys: Vec<Member> = view.wanted_members().into_iter().filter(|one| Some(*one) != primary).collect();
    if primary == Some(member) {
        // One that has no data, as no copy of this one is whole, takes over from nobody.
        let is_there = |one: &Member| view.member(*one).is_some_and(|seen| seen.data == DataDirectory::Complete);
        return match standbys.iter().find(|one| is_whole(one) && is_there(one)) {
            Some(to) => {
                let on = format!("postgres-{to} to take over, without a lost statement");
                (format!("met {damage}"), Waiting::Dependency { on })
            }
            None => {
                let what = "restore what is damaged from the backups (`mainstay restore --to …`), or make it anew \
                            (REINDEX, or drop the table)"
                    .to_owned();
                (format!("met {damage}, and no standby without any could take over"), Waiting::Operator { what })
            }
        };
    }
    let reason = format!("met {damage}: nobody reads here");
    if primary.is_some_and(|primary| !is_whole(&primary)) {
        return (reason, Waiting::Dependency { on: "a primary without damaged pages, to be cloned from".to_owned() });
    }
    if !super::wish::is_given_up(view, member) {
        let what =
            "set `standbys = 2`: durability is \"strict\", and while its only standby is cloned anew writes would \
                    wait"
                .to_owned();
        return (reason, Waiting::Operator { what });
    }
    if let Some(until) = damage::rests_until(view, member) {
        let count = damage::copies_of(view, member);
        let text = format!("{reason}, and it was cloned anew {count} times in a row");
        let until = crate::schedule::moment(until);
        let what = format!("look at its disk and the machine's memory (`dmesg`, SMART); the next clone is at {until}");
        return (text, Waiting::Operator { what });
    }
    (reason, Waiting::Dependency { on: "a clone of its own, made anew".to_owned() })
}

fn label(draft: &Draft<'_>, member: Member) -> String {
    let durability = draft.view.stack.database.as_ref().map(|database| database.durability);
    let text = match draft.view.record() {
        None => "PostgreSQL",
        Some(record) if record.primary == member => "primary",
        Some(record) if record.candidates.contains(&member) && durability != Some(Durability::Fast) => {
            "standby, synchronous"
        }
        Some(_) => "standby",
    };
    text.to_owned()
}
