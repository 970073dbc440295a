//! What a person asked the cluster for, as the loop keeps it: the stages it went through, and how it ended.

use std::time::Duration;

use mainstay_api::{ErrandAsked, ErrandKind, ErrandSessions, ErrandStatus, StageReached, Status};
use mainstay_decide::observed::{Errand, Observed, Wish};
use mainstay_decide::wish::{self, Progress, Stage};
use mainstay_postgres::migrate::{self, KeptAway};
use mainstay_stack::Stack;
use mainstay_types::{Member, Timestamp};
use tokio::sync::watch;

use crate::effects::Effects;
use crate::story::ErrandEvent;

/// Time for what is begun to end when nobody says otherwise: longer than a web request may take, shorter than
/// sessions are held.
const DRAIN_MS: u64 = 10_000;

/// Time for the primary to say whether migrations run there.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two looks whether an errand is over.
const LOOK: Duration = Duration::from_millis(200);
/// Longer than any errand takes.
const HELD_AT_MOST: Duration = Duration::from_hours(2);

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
        migration: None,
    })
}

/// A run of migrations beside an errand.
#[derive(Default)]
pub(crate) struct Migrations {
    /// None can begin while this is held.
    pub(crate) kept_away: Option<KeptAway>,
    /// Whose is cut off.
    pub(crate) cut: Option<String>,
}

impl Migrations {
    /// Sees to them before the primary ends in order. They come straight in, so that the drain of the router does not
    /// wait for them.
    ///
    /// **Errors**: one is under way, and is not to be cut off.
    pub(crate) async fn see_to(effects: &Effects, asked: &ErrandAsked) -> Result<Self, String> {
        let access =
            effects.schema_access().filter(|_| matches!(asked.errand, ErrandKind::Switchover | ErrandKind::Restore));
        let Some(access) = access else { return Ok(Self::default()) };
        match tokio::time::timeout(ANSWERS_WITHIN, migrate::keep_away(&access)).await {
            // A primary that does not answer runs none; what else it means for the errand is seen later.
            Err(_) | Ok(Err(_)) => Ok(Self::default()),
            Ok(Ok(Ok(kept_away))) => Ok(Self { kept_away: Some(kept_away), cut: None }),
            // Restored data take the place of whatever it does.
            Ok(Ok(Err(holder))) if asked.is_forced || asked.errand == ErrandKind::Restore => {
                Ok(Self { kept_away: None, cut: Some(holder) })
            }
            Ok(Ok(Err(holder))) => Err(format!("a run of migrations is under way, {holder}: nothing was changed")),
        }
    }
}

/// Holds on until the errand is over, or the server that it was held at.
pub(crate) async fn hold(kept: KeptAway, status: watch::Receiver<Option<Status>>, asked_at: Timestamp) {
    let begun = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let database = status.borrow().as_ref().and_then(|status| status.database.clone());
        let errand = database.and_then(|database| database.errand);
        // The picture may be older than the errand.
        let is_over =
            errand.is_some_and(|one| one.asked_at > asked_at || (one.asked_at == asked_at && one.ended_at.is_some()));
        if is_over || kept.is_over() || begun.elapsed() > HELD_AT_MOST {
            return;
        }
    }
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
