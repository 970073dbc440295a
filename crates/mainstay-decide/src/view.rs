//! Observations as the rules ask for them. Here is decided what a fact is worth: one that is older than the start
//! that it is about, or simply old, is worth nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_stack::Stack;
use mainstay_types::{ChildName, ExitReason, Member, Seen, Timestamp};

use crate::observed::{ChildSeen, DataDirectory, DatabaseSeen, MemberAnswer, MemberSeen, Observed, Record, RouterSeen};
use crate::plan::StepKey;
use crate::pressure;

/// Age at which a look at something that is looked at every 250 ms says nothing any more: twenty looks were
/// lost since.
pub(crate) const FACT_LIFE: Duration = Duration::from_secs(5);

/// What the planner looks at.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) stack: &'a Stack,
    pub(crate) observed: &'a Observed,
    pub(crate) children: &'a BTreeMap<ChildName, ChildSeen>,
    pub(crate) now: Timestamp,
}

/// A child as far as keep knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Life<'a> {
    Never,
    Runs(&'a ChildSeen),
    Ended { child: &'a ChildSeen, reason: &'a ExitReason, at: Timestamp },
}

impl<'a> Life<'a> {
    pub(crate) fn runs(self) -> Option<&'a ChildSeen> {
        match self {
            Self::Runs(child) => Some(child),
            Self::Never | Self::Ended { .. } => None,
        }
    }
}

/// The answer of a member's present start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer<'a> {
    Unknown,
    Fact(&'a MemberAnswer),
    Silent { since: Timestamp },
}

impl<'a> View<'a> {
    pub(crate) fn life(&self, name: &ChildName) -> Life<'a> {
        match self.children.get(name) {
            None => Life::Never,
            Some(child) => match &child.ended {
                None => Life::Runs(child),
                Some((reason, at)) => Life::Ended { child, reason, at: *at },
            },
        }
    }

    pub(crate) fn is_busy(&self, key: &StepKey) -> bool {
        self.observed.running.contains_key(key)
    }

    pub(crate) fn is_child_busy(&self, name: &ChildName) -> bool {
        self.is_busy(&StepKey::Child { name: name.clone() })
    }

    /// Whether a look at this time is older than the last success of a step with this key.
    pub(crate) fn is_outdated(&self, observed_at: Timestamp, key: &StepKey) -> bool {
        // A success that lies ahead means that the clock was set back: then looks are believed.
        self.observed.done.get(key).is_some_and(|done| observed_at < *done && *done <= self.now)
    }

    /// A step has just changed the member and nobody has looked since.
    pub(crate) fn awaits_look(&self, member: Member) -> bool {
        let key = StepKey::Child { name: ChildName::postgres(member) };
        match self.member(member).map(|seen| &seen.is_alive) {
            Some(Seen::Fact { observed_at, .. }) => self.is_outdated(*observed_at, &key),
            Some(Seen::Unknown | Seen::Silent { .. }) | None => false,
        }
    }

    /// The member's data directory, as of after the last step on it.
    pub(crate) fn data(&self, member: Member) -> DataDirectory {
        match self.member(member) {
            Some(seen) if !self.awaits_look(member) => seen.data,
            Some(_) | None => DataDirectory::Unknown,
        }
    }

    /// Whether its directory is not there any more. A server goes on for up to a minute without one, and confirms
    /// commits that no disk holds.
    pub(crate) fn is_data_gone(&self, member: Member) -> bool {
        let is_seen_alive =
            self.member(member).is_some_and(|seen| matches!(seen.is_alive, Seen::Fact { value: true, .. }));
        match self.data(member) {
            DataDirectory::Absent | DataDirectory::Unfinished => is_seen_alive,
            DataDirectory::Complete | DataDirectory::Foreign | DataDirectory::Unknown => false,
        }
    }

    /// Whether an answer is older than the last step on record, confirmations, promotion or router.
    pub(crate) fn is_answer_outdated(&self, member: Member) -> bool {
        match self.member(member).map(|seen| &seen.answer) {
            Some(Seen::Fact { observed_at, .. }) => self.is_outdated(*observed_at, &StepKey::Cluster),
            Some(Seen::Unknown | Seen::Silent { .. }) | None => false,
        }
    }

    pub(crate) fn database(&self) -> Option<&'a DatabaseSeen> {
        self.observed.database.as_ref()
    }

    pub(crate) fn record(&self) -> Option<&'a Record> {
        self.database()?.record.value()?.as_ref()
    }

    pub(crate) fn member(&self, member: Member) -> Option<&'a MemberSeen> {
        self.database()?.members.get(&member)
    }

    pub(crate) fn member_life(&self, member: Member) -> Life<'a> {
        self.life(&ChildName::postgres(member))
    }

    /// What the member's present start says of itself.
    pub(crate) fn answer(&self, member: Member) -> Answer<'a> {
        let Life::Runs(child) = self.member_life(member) else { return Answer::Unknown };
        // A start that lies ahead means that the clock was set back: then only the age of the look counts.
        let is_of_this_start = |at: Timestamp| at >= child.since || child.since > self.now;
        match self.member(member).map(|seen| &seen.answer) {
            Some(Seen::Fact { value, observed_at })
                if is_of_this_start(*observed_at) && self.now.saturating_since(*observed_at) <= FACT_LIFE =>
            {
                Answer::Fact(value)
            }
            Some(Seen::Silent { since }) => {
                let since = if is_of_this_start(*since) { *since } else { child.since };
                Answer::Silent { since: since.min(self.now) }
            }
            Some(Seen::Fact { .. } | Seen::Unknown) | None => Answer::Unknown,
        }
    }

    /// Whether its present start has answered, and nobody has looked since for longer than an answer counts.
    pub(crate) fn is_answer_old(&self, member: Member) -> bool {
        let Life::Runs(child) = self.member_life(member) else { return false };
        match self.member(member).map(|seen| &seen.answer) {
            Some(Seen::Fact { observed_at, .. }) => {
                *observed_at >= child.since && self.now.saturating_since(*observed_at) > FACT_LIFE
            }
            Some(Seen::Silent { .. } | Seen::Unknown) | None => false,
        }
    }

    /// When this member's silence since then means a hang. The planner looks again then.
    ///
    /// What a busy machine does to one server it does to its equals. So pressure explains nothing once another member
    /// is known to have answered every look for as long as this one may be silent.
    pub(crate) fn hung_at(&self, member: Member, since: Timestamp) -> Timestamp {
        let hang_after = self.stack.database.as_ref().map_or(Duration::MAX, |database| database.hang_after);
        let borne = since.after(self.patience(hang_after));
        let others = self.database().into_iter().flat_map(|seen| seen.members.keys()).filter(|other| **other != member);
        let refuted = others.filter_map(|other| {
            let (steady, asked_at) = self.answers(*other)?;
            let at = steady.max(since).after(hang_after);
            // What it said before then does not tell whether it answered until then: the next look does.
            (asked_at >= at || self.now < at).then_some(at)
        });
        refuted.min().map_or(borne, |at| at.min(borne))
    }

    /// Since when this member has answered every look in time, and when the last that it answered was taken.
    fn answers(&self, member: Member) -> Option<(Timestamp, Timestamp)> {
        let Answer::Fact(_) = self.answer(member) else { return None };
        let Seen::Fact { observed_at, .. } = self.member(member)?.answer else { return None };
        let since = self.database()?.memory.get(&member)?.answers_since?;
        Some((since, observed_at))
    }

    /// How long silence is borne that means a hang after `usual` on a machine that has time.
    pub(crate) fn patience(&self, usual: Duration) -> Duration {
        let is_under_pressure = self.database().is_some_and(|seen| seen.is_under_pressure);
        usual.saturating_mul(if is_under_pressure { pressure::PATIENCE } else { 1 })
    }

    /// Whether the member's answer was given after the death of `dead` was proven: nothing can reach it since.
    pub(crate) fn is_final(&self, member: Member, dead: Member) -> bool {
        let proven_at = self.member(dead).map(|seen| &seen.is_alive);
        let answered_at = self.member(member).map(|seen| &seen.answer);
        match (proven_at, answered_at) {
            (Some(Seen::Fact { observed_at: proven, .. }), Some(Seen::Fact { observed_at: answered, .. })) => {
                self.is_proven_dead(dead) && answered >= proven
            }
            _ => false,
        }
    }

    /// The recorded primary's answer, when it is one that takes writes.
    pub(crate) fn writable(&self, member: Member) -> Option<&'a MemberAnswer> {
        match self.answer(member) {
            Answer::Fact(answer) if !answer.is_in_recovery => Some(answer),
            Answer::Fact(_) | Answer::Silent { .. } | Answer::Unknown => None,
        }
    }

    /// Proof that nothing of this member can acknowledge a write: looked at after its end, and no step (a start,
    /// a fence whose outcome is open) has touched it since.
    pub(crate) fn is_proven_dead(&self, member: Member) -> bool {
        let name = ChildName::postgres(member);
        let key = StepKey::Child { name: name.clone() };
        let Some(Seen::Fact { value: false, observed_at }) = self.member(member).map(|seen| &seen.is_alive) else {
            return false;
        };
        let after = match self.life(&name) {
            Life::Runs(_) => return false,
            Life::Ended { at, .. } => Some(at),
            Life::Never => None,
        };
        let failed_at = self.observed.failed.get(&key).map(|failed| failed.at);
        !self.is_busy(&key)
            && !self.is_outdated(*observed_at, &key)
            && after.max(failed_at).is_none_or(|after| *observed_at >= after)
    }

    /// Some process may still write to its directory although its postmaster ended.
    pub(crate) fn has_survivors(&self, member: Member) -> bool {
        if self.awaits_look(member) {
            return false;
        }
        let Some(Seen::Fact { value: true, observed_at }) = self.member(member).map(|seen| &seen.is_alive) else {
            return false;
        };
        match self.member_life(member) {
            Life::Runs(_) => false,
            Life::Ended { at, .. } => *observed_at >= at,
            Life::Never => true,
        }
    }

    pub(crate) fn router(&self) -> Option<&'a RouterSeen> {
        self.observed.router.value()
    }

    /// Wanted members, the first one first.
    pub(crate) fn wanted_members(&self) -> Vec<Member> {
        wanted_members(self.stack, self.record())
    }
}

/// Members that a stack wants with this record, the first one first.
pub(crate) fn wanted_members(stack: &Stack, record: Option<&Record>) -> Vec<Member> {
    let standbys = stack.database.as_ref().map_or(0, |database| database.standbys);
    let nth = |n| Member::nth(usize::try_from(n).unwrap_or(usize::MAX));
    let mut members: Vec<Member> = (0..=standbys).filter_map(nth).collect();
    // A failover and a smaller number since: the data are where the record says, whatever its letter.
    if let Some(record) = record.filter(|record| !members.contains(&record.primary)) {
        members.pop();
        members.push(record.primary);
    }
    members
}
