//! Planted bugs: what somebody could get wrong in the planner. A simulation that catches none of them finds nothing.

use std::collections::BTreeMap;

use mainstay_decide::observed::{ControlFile, Errand, Observed, Record};
use mainstay_decide::plan::{Plan, Step};
use mainstay_decide::schedule::Change;
use mainstay_types::{ChildName, Seen, Timestamp};

/// A mistake of the planner, planted in what it sees or in what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// An ended postmaster counts as a dead member.
    PromoteWithoutProof,
    /// Whatever streams counts as a candidate.
    PromoteAnyStandby,
    /// The router is led to the promoted member before the record says so.
    RouterBeforeRecord,
    /// A standby is recorded as candidate as soon as it streams.
    CandidateBeforeSynchronous,
    /// Commits stop waiting while the record still relies on it.
    UnblockBeforeRecord,
    /// The old primary is not killed.
    ForgetFence,
    /// A child that runs is not seen to run.
    StartTwice,
    /// Silence counts as "nobody has looked".
    IgnoreSilence,
    /// An unknown list of children counts as an empty one.
    UnknownAsEmpty,
    /// What ended is started again at once, always.
    NoBackOff,
    /// The primary is stopped first.
    PrimaryStoppedFirst,
    /// Old looks count as new.
    TrustStaleLooks,
    /// The epoch stays with a new primary.
    SameEpoch,
    /// Every running instance is given requests.
    ReadyWithoutAnswer,
    /// A standby that ended is cloned although the record relies on it.
    CloneCandidate,
    /// A failover is not recorded before it is done.
    PromoteUnrecorded,
    /// A planned change of the primary does not wait for what is under way.
    StopBeforeDrained,
    /// A former primary follows the new one whatever its log holds.
    FollowAnyway,
    /// A standby is restarted while commits wait for it.
    RestartAwaited,
    /// Damaged pages are told and nobody decides by them.
    ForgetDamage,
    /// A run that is on disk is not seen to be.
    ForgetRun,
    /// Times that were decided upon are not seen to be.
    ForgetDecided,
    /// A run is started before it is on disk.
    RunUnrecorded,
    /// A time passes and nothing is noted of it.
    SkipSilently,
}

impl Bug {
    /// Those of the database and of instances that stand.
    pub const ALL: [Self; 20] = [
        Self::PromoteWithoutProof,
        Self::PromoteAnyStandby,
        Self::RouterBeforeRecord,
        Self::CandidateBeforeSynchronous,
        Self::UnblockBeforeRecord,
        Self::ForgetFence,
        Self::StartTwice,
        Self::IgnoreSilence,
        Self::UnknownAsEmpty,
        Self::NoBackOff,
        Self::PrimaryStoppedFirst,
        Self::TrustStaleLooks,
        Self::SameEpoch,
        Self::ReadyWithoutAnswer,
        Self::CloneCandidate,
        Self::PromoteUnrecorded,
        Self::StopBeforeDrained,
        Self::FollowAnyway,
        Self::RestartAwaited,
        Self::ForgetDamage,
    ];

    /// Those of services that run on a schedule.
    pub const OF_SCHEDULES: [Self; 4] = [Self::ForgetRun, Self::ForgetDecided, Self::RunUnrecorded, Self::SkipSilently];

    /// What the planner with this bug sees.
    pub(crate) fn doctor(self, observed: &mut Observed, now: Timestamp) {
        match self {
            Self::PromoteWithoutProof => {
                let Some(primary) = ended_primary(observed) else { return };
                let Some(seen) = observed.database.as_mut().and_then(|seen| seen.members.get_mut(&primary)) else {
                    return;
                };
                seen.is_alive = Seen::Fact { value: false, observed_at: now };
                observed.running.retain(|_, running| !running.what.starts_with("fences"));
            }
            Self::PromoteAnyStandby => {
                if ended_primary(observed).is_none() {
                    return;
                }
                let Some(database) = &mut observed.database else { return };
                let streaming = database.members.keys().copied().collect::<Vec<_>>();
                if let Seen::Fact { value: Some(record), .. } = &mut database.record {
                    record.candidates = streaming.into_iter().filter(|member| *member != record.primary).collect();
                }
            }
            Self::CandidateBeforeSynchronous => {
                for member in observed.database.iter_mut().flat_map(|seen| seen.members.values_mut()) {
                    if let Seen::Fact { value: answer, .. } = &mut member.answer {
                        answer.synchronous = answer.standbys.keys().copied().collect();
                        let lsn = answer.lsn;
                        answer.standbys.values_mut().for_each(|flushed| *flushed = lsn);
                    }
                }
            }
            Self::StartTwice => {
                let Seen::Fact { value: children, .. } = &mut observed.children else { return };
                children.remove(&ChildName::new("backend-1").expect("a valid name"));
            }
            Self::IgnoreSilence => {
                for member in observed.database.iter_mut().flat_map(|seen| seen.members.values_mut()) {
                    if matches!(member.answer, Seen::Silent { .. }) {
                        member.answer = Seen::Unknown;
                    }
                }
            }
            Self::UnknownAsEmpty => {
                if observed.children == Seen::Unknown {
                    observed.children = Seen::Fact { value: BTreeMap::new(), observed_at: now };
                }
            }
            Self::NoBackOff => {
                observed.failed.clear();
                let Seen::Fact { value: children, .. } = &mut observed.children else { return };
                children.values_mut().for_each(|child| child.quick_ends = 0);
            }
            Self::TrustStaleLooks => trust_stale_looks(observed, now),
            Self::ForgetRun | Self::ForgetDecided => self.forget(observed),
            Self::StopBeforeDrained => nobody_is_leaving(observed),
            Self::FollowAnyway => follow_anyway(observed),
            Self::ForgetDamage => observed.database.iter_mut().for_each(|seen| seen.damages.of.clear()),
            Self::RouterBeforeRecord
            | Self::UnblockBeforeRecord
            | Self::ForgetFence
            | Self::PrimaryStoppedFirst
            | Self::SameEpoch
            | Self::ReadyWithoutAnswer
            | Self::CloneCandidate
            | Self::PromoteUnrecorded
            | Self::RestartAwaited
            | Self::RunUnrecorded
            | Self::SkipSilently => {}
        }
    }

    /// Parts of the records of schedules.
    fn forget(self, observed: &mut Observed) {
        for record in observed.schedules.values_mut().filter_map(|seen| seen.record.as_mut()) {
            if self == Self::ForgetRun {
                record.run = None;
            } else {
                record.decided = Timestamp::from_millis(record.decided.as_millis() - 1_000);
            }
        }
    }

    /// What the planner with this bug says.
    pub(crate) fn twist(self, observed: &Observed, plan: &mut Plan) {
        let record = observed.database.as_ref().and_then(|seen| seen.record.value()?.clone());
        match self {
            Self::ForgetFence => plan.steps.retain(|step| !matches!(step, Step::Fence { .. })),
            Self::ReadyWithoutAnswer => {
                plan.endpoints.values_mut().flatten().for_each(|endpoint| endpoint.is_ready = true);
            }
            Self::RunUnrecorded => plan.steps.iter_mut().for_each(start_unrecorded),
            Self::SkipSilently => plan.steps.iter_mut().for_each(skip_silently),
            Self::PrimaryStoppedFirst => stop_primary(observed, record.as_ref(), plan),
            Self::RestartAwaited => restart_awaited(observed, plan),
            Self::RouterBeforeRecord
            | Self::UnblockBeforeRecord
            | Self::SameEpoch
            | Self::CloneCandidate
            | Self::PromoteUnrecorded => {
                let Some(record) = record else { return };
                plan.steps.iter_mut().for_each(|step| self.twist_step(&record, step));
            }
            Self::PromoteWithoutProof
            | Self::PromoteAnyStandby
            | Self::CandidateBeforeSynchronous
            | Self::StartTwice
            | Self::IgnoreSilence
            | Self::UnknownAsEmpty
            | Self::NoBackOff
            | Self::TrustStaleLooks
            | Self::StopBeforeDrained
            | Self::FollowAnyway
            | Self::ForgetDamage
            | Self::ForgetRun
            | Self::ForgetDecided => {}
        }
    }

    fn twist_step(self, record: &Record, step: &mut Step) {
        let old = step.clone();
        match (self, &old) {
            (Self::RouterBeforeRecord, Step::WriteRecord { record: new }) if new.primary != record.primary => {
                *step = Step::PointRouter { epoch: new.epoch, write: Some(new.primary), read: vec![] };
            }
            (Self::UnblockBeforeRecord, Step::WriteRecord { record: new })
                if new.primary == record.primary && new.candidates.is_empty() && !record.candidates.is_empty() =>
            {
                *step = Step::SetSynchronous { primary: record.primary, standbys: vec![] };
            }
            (Self::SameEpoch, Step::WriteRecord { record: new }) if new.primary != record.primary => {
                *step = Step::WriteRecord { record: Record { epoch: record.epoch, ..new.clone() } };
            }
            (Self::CloneCandidate, Step::StartPostgres { member, follow: Some(from) })
                if record.candidates.contains(member) =>
            {
                *step = Step::Clone { member: *member, from: *from };
            }
            (Self::PromoteUnrecorded, Step::WriteRecord { record: new }) => {
                if let Some(member) = new.promoting {
                    *step = Step::Promote { member };
                }
            }
            _ => {}
        }
    }
}

fn start_unrecorded(step: &mut Step) {
    let begun = match &*step {
        Step::WriteSchedule { service, record, change: Change::Begun { .. } } => {
            record.run.clone().map(|run| (service.clone(), run))
        }
        _ => None,
    };
    if let Some((service, run)) = begun {
        *step = Step::StartRun { service, run };
    }
}

fn skip_silently(step: &mut Step) {
    if let Step::WriteSchedule { record, change: Change::Begun { .. }, .. } = step {
        record.decided = record.decided.after(std::time::Duration::from_secs(5));
    }
}

fn nobody_is_leaving(observed: &mut Observed) {
    if let Seen::Fact { value: router, .. } = &mut observed.router {
        router.leaving = Some(BTreeMap::new());
    }
}

fn follow_anyway(observed: &mut Observed) {
    let Some(database) = &mut observed.database else { return };
    let Some(record) = database.record.value().cloned().flatten() else { return };
    for (member, seen) in &mut database.members {
        if *member != record.primary && seen.has_standby_signal == Some(false) {
            let timeline = mainstay_types::Timeline(record.timeline.0.saturating_sub(1));
            let checkpoint = mainstay_types::Lsn::default();
            seen.control = Some(ControlFile { is_shut_down: true, timeline, checkpoint, redo: checkpoint });
        }
    }
}

fn restart_awaited(observed: &Observed, plan: &mut Plan) {
    let Some(Errand::Restart { member }) = observed.wish.as_ref().map(|wish| wish.errand.clone()) else { return };
    let name = ChildName::postgres(member);
    let Some(child) = observed.children.value().and_then(|children| children.get(&name)) else { return };
    let is_first = child.ended.is_none() && observed.wish.as_ref().is_some_and(|wish| child.since <= wish.asked_at);
    let is_planned = plan.steps.iter().any(|step| matches!(step, Step::Stop { name: stopped, .. } if *stopped == name));
    let step = Step::Stop { name, nonce: child.nonce.clone(), signal: 2, grace: std::time::Duration::from_secs(60) };
    if is_first && !is_planned && !observed.running.contains_key(&step.key()) {
        plan.steps.push(step);
    }
}

fn trust_stale_looks(observed: &mut Observed, now: Timestamp) {
    observed.done.clear();
    for member in observed.database.iter_mut().flat_map(|seen| seen.members.values_mut()) {
        if let Seen::Fact { observed_at, .. } = &mut member.is_alive {
            *observed_at = now;
        }
        if let Seen::Fact { observed_at, .. } = &mut member.answer {
            *observed_at = now;
        }
    }
}

/// The recorded primary, when its postmaster ended.
fn ended_primary(observed: &Observed) -> Option<mainstay_types::Member> {
    let primary = observed.database.as_ref()?.record.value()?.as_ref()?.primary;
    let child = observed.children.value()?.get(&ChildName::postgres(primary))?;
    child.ended.as_ref().map(|_| primary)
}

fn stop_primary(observed: &Observed, record: Option<&Record>, plan: &mut Plan) {
    let (Some(record), Seen::Fact { value: children, .. }) = (record, &observed.children) else { return };
    let name = ChildName::postgres(record.primary);
    let is_planned = plan.steps.iter().any(|step| matches!(step, Step::Stop { name: stopped, .. } if *stopped == name));
    let Some(child) = children.get(&name).filter(|child| child.ended.is_none()) else { return };
    let step = Step::Stop { name, nonce: child.nonce.clone(), signal: 2, grace: std::time::Duration::from_secs(60) };
    if observed.is_stopping && !is_planned && !observed.running.contains_key(&step.key()) {
        plan.steps.push(step);
    }
}
