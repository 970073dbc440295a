//! The past becomes the present: every member is stopped, restored data takes the place of the primary's, and the
//! standbys are cloned from it again.
//!
//! Each prefix is safe. Until the data is exchanged the present is as it was, and a control plane that forgot the wish
//! starts it again; the exchange is one system call; after it the restored data is what the record's primary has.

use mainstay_types::{ChildName, Waiting};

use super::{Notes, cluster, wait};
use crate::children::child;
use crate::draft::Draft;
use crate::observed::{DataDirectory, Record};
use crate::plan::Step;
use crate::stop::FAST_SHUTDOWN;
use crate::view::Life;

pub(super) fn plan(draft: &mut Draft<'_>, notes: &mut Notes, record: &Record, incoming: &str) {
    let primary = record.primary;
    if !record.candidates.is_empty() {
        // Nobody may take over from here on: the standbys hold the present that goes.
        let record = Record { candidates: Vec::new(), ..record.clone() };
        let waiting = draft.ask_urgent(Step::WriteRecord { record });
        return wait(notes, primary, waiting);
    }
    match draft.view.router() {
        Some(router) if router.write.is_some() || !router.read.is_empty() || router.epoch < record.epoch => {
            let waiting = draft.ask_urgent(Step::PointRouter { epoch: record.epoch, write: None, read: Vec::new() });
            return wait(notes, primary, waiting);
        }
        Some(_) => {}
        // One that runs and that nobody has heard of leads sessions where it led them last.
        None if draft.view.life(&child("router")).runs().is_some() => {
            return wait(notes, primary, Waiting::Observation { of: "where the router leads sessions".to_owned() });
        }
        None => {}
    }
    let mut members = cluster::others(draft, record);
    members.insert(primary);
    let mut are_all_dead = true;
    for member in members {
        let name = ChildName::postgres(member);
        if let Life::Runs(child) = draft.view.member_life(member) {
            are_all_dead = false;
            let waiting = draft.stop(&name, child, FAST_SHUTDOWN);
            wait(notes, member, waiting);
        } else if draft.view.is_child_busy(&name) {
            are_all_dead = false;
        } else if draft.view.data(member) != DataDirectory::Absent && !draft.view.is_proven_dead(member) {
            are_all_dead = false;
            wait(notes, member, Waiting::Observation { of: format!("the proof that postgres-{member} is dead") });
        }
    }
    if are_all_dead {
        let waiting = draft.ask_urgent(Step::SwapIn { primary, incoming: incoming.to_owned() });
        wait(notes, primary, waiting);
    }
}
