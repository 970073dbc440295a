//! Before the first record: a new cluster, or an earlier start that ended half-way.

use mainstay_types::{Lsn, Member, Waiting};

use super::{Notes, fail, wait};
use crate::draft::Draft;
use crate::observed::{DataDirectory, Record};
use crate::plan::Step;
use crate::view::Life;

pub(super) fn plan(draft: &mut Draft<'_>, notes: &mut Notes) {
    let wanted = draft.view.wanted_members();
    for member in wanted.iter().filter(|member| **member != Member::A) {
        wait(notes, *member, Waiting::Dependency { on: "postgres-a".to_owned() });
    }
    let Some(seen) = draft.view.database() else { return };
    let mut complete = Vec::new();
    if let Some(member) = wanted.iter().find(|member| !seen.members.contains_key(member)) {
        return wait(notes, *member, directory_unknown(*member));
    }
    for member in seen.members.keys() {
        match draft.view.data(*member) {
            DataDirectory::Absent | DataDirectory::Unfinished => {}
            DataDirectory::Complete => complete.push(*member),
            DataDirectory::Unknown => return wait(notes, *member, directory_unknown(*member)),
            DataDirectory::Foreign => {
                let what = format!("move the directory of postgres-{member} away: it is not one of mainstay's");
                return fail(notes, *member, "its directory is not ours".to_owned(), Waiting::Operator { what });
            }
        }
    }
    match complete.as_slice() {
        [] if draft.view.member_life(Member::A).runs().is_some() => {
            // A server without a directory: one of the two looks is wrong.
            wait(notes, Member::A, directory_unknown(Member::A));
        }
        [] => {
            let waiting = draft.ask(Step::InitPrimary { member: Member::A });
            wait(notes, Member::A, waiting);
        }
        [Member::A] => first_primary(draft, notes),
        _ => {
            let names: Vec<String> = complete.iter().map(|member| format!("postgres-{member}")).collect();
            let what = format!("say who was primary: {} hold data and the record is gone", names.join(" and "));
            for member in complete {
                let reason = "the record of who is primary is gone".to_owned();
                fail(notes, member, reason, Waiting::Operator { what: what.clone() });
            }
        }
    }
}

pub(super) fn directory_unknown(member: Member) -> Waiting {
    Waiting::Observation { of: format!("the directory of postgres-{member}") }
}

/// The only cluster there is was made by an `up` that wrote no record yet: nobody was routed to it.
fn first_primary(draft: &mut Draft<'_>, notes: &mut Notes) {
    let member = Member::A;
    let is_standby = draft.view.member(member).is_some_and(|seen| seen.has_standby_signal == Some(true));
    if is_standby {
        let what = "restore the record: postgres-a holds a standby's data".to_owned();
        return fail(notes, member, "the record of who is primary is gone".to_owned(), Waiting::Operator { what });
    }
    let life = draft.view.member_life(member);
    let Life::Runs(_) = life else {
        let waiting = draft.start(life, Step::StartPostgres { member, follow: None });
        return wait(notes, member, waiting);
    };
    let Some(answer) = draft.view.writable(member) else {
        return wait(notes, member, Waiting::Readiness { probe: "its first answer".to_owned() });
    };
    let record = Record {
        epoch: 1,
        primary: member,
        timeline: answer.timeline,
        lsn: Lsn::default(),
        candidates: vec![],
        promoting: None,
    };
    let waiting = draft.ask_urgent(Step::WriteRecord { record });
    wait(notes, member, waiting);
}
