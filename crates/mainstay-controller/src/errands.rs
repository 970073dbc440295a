//! What a person asked the cluster for, as the loop keeps it: the stages it went through, and how it ended.

use mainstay_api::{ErrandAsked, ErrandKind, ErrandSessions, ErrandStatus, StageReached};
use mainstay_decide::observed::{Errand, Observed, Wish};
use mainstay_decide::wish::{self, Progress, Stage};
use mainstay_stack::Stack;
use mainstay_types::{Member, Timestamp};

use crate::story::ErrandEvent;

/// Time for what is begun to end when nobody says otherwise: longer than a web request may take, shorter than
/// sessions are held.
const DRAIN_MS: u64 = 10_000;

/// Takes an errand on.
///
/// **Errors**: why it cannot be done as things are.
pub(crate) fn ask(
    stack: &Stack,
    observed: &mut Observed,
    asked: &ErrandAsked,
    at: Timestamp,
) -> Result<ErrandStatus, String> {
    let database = stack.database.as_ref().ok_or("the stack has no database")?;
    let record = observed.database.as_ref().and_then(|seen| seen.record.value()?.clone());
    let record = record.ok_or("nobody is recorded as primary yet")?;
    let heir = asked.member.or_else(|| wish::heir(observed));
    let to = heir.ok_or_else(|| nobody(stack, record.primary));
    let errand = match asked.errand {
        ErrandKind::Switchover => {
            let drain_ms = asked.drain_ms.unwrap_or(DRAIN_MS);
            let hold_ms = u64::try_from(database.hold.as_millis()).unwrap_or(u64::MAX);
            if drain_ms >= hold_ms {
                return Err(format!("a drain of {drain_ms} ms: sessions are held for {hold_ms} ms (`database.hold`)"));
            }
            Errand::Switchover { to: to?, drain_ms, is_forced: asked.is_forced }
        }
        ErrandKind::Failover => Errand::Failover { to: to? },
        ErrandKind::Restore => {
            Errand::Restore { incoming: asked.incoming.clone().ok_or("which data is to take the primary's place?")? }
        }
        ErrandKind::Restart => Errand::Restart { member: asked.member.ok_or("which standby is to be restarted?")? },
    };
    if let Some(reason) = wish::refusal(stack, observed, &errand, at) {
        return Err(reason);
    }
    let member = match &errand {
        Errand::Switchover { to, .. } | Errand::Failover { to } => *to,
        Errand::Restart { member } => *member,
        Errand::Restore { .. } => record.primary,
    };
    observed.wish = Some(Wish { errand, asked_at: at, epoch: record.epoch });
    Ok(ErrandStatus {
        errand: asked.errand,
        member,
        primary: record.primary,
        asked_at: at,
        stages: Vec::new(),
        left: None,
        ended_at: None,
        is_done: false,
        reason: None,
        sessions: None,
    })
}

fn nobody(stack: &Stack, primary: Member) -> String {
    let standbys = stack.database.as_ref().map_or(0, |database| database.standbys);
    match standbys {
        0 => format!("postgres-{primary} is alone: set `standbys = 1` in [database]"),
        _ => "no standby may take over yet: commits have not waited for one (`mainstay status`)".to_owned(),
    }
}

/// Looks at how far it is, once per turn of the loop.
pub(crate) fn follow(
    stack: &Stack,
    observed: &mut Observed,
    status: &mut ErrandStatus,
    at: Timestamp,
) -> Option<ErrandEvent> {
    match wish::progress(stack, observed, at)? {
        Progress::Underway(stage) => {
            reach(status, stage, at);
            None
        }
        Progress::Done => Some(end(observed, status, None, at)),
        Progress::Over { reason } => Some(end(observed, status, Some(reason), at)),
    }
}

fn end(observed: &mut Observed, status: &mut ErrandStatus, reason: Option<String>, at: Timestamp) -> ErrandEvent {
    observed.wish = None;
    status.ended_at = Some(at);
    status.is_done = reason.is_none();
    status.reason.clone_from(&reason);
    status.left = None;
    ErrandEvent {
        errand: status.errand,
        member: status.member,
        primary: status.primary,
        reason,
        took: at.saturating_since(status.asked_at),
    }
}

fn reach(status: &mut ErrandStatus, stage: Stage, at: Timestamp) {
    let name = match stage {
        Stage::Checkpoint => "checkpoint",
        Stage::Drain { .. } => "drain",
        Stage::Stop => "stop",
        Stage::Promote => "promote",
        Stage::Lead => "lead",
        Stage::Detach => "detach",
        Stage::Restart => "restart",
        Stage::CatchUp => "catch-up",
        Stage::End => "end",
        Stage::Swap => "swap",
    };
    status.left = match stage {
        Stage::Drain { left, .. } => left,
        Stage::Checkpoint
        | Stage::Stop
        | Stage::Promote
        | Stage::Lead
        | Stage::Detach
        | Stage::Restart
        | Stage::CatchUp
        | Stage::End
        | Stage::Swap => None,
    };
    if status.stages.last().is_none_or(|last| last.stage != name) {
        status.stages.push(StageReached { stage: name.to_owned(), at });
    }
}

/// What it did to sessions, which the router tells once all of them are served again.
pub(crate) fn sessions(status: &mut ErrandStatus, counts: ErrandSessions) {
    if status.sessions.is_none() && status.reason.is_none() {
        status.sessions = Some(counts);
    }
}
