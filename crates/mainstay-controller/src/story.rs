//! What is worth an event, in words for people. One event per change; fields carry the figures.

use std::time::Duration;

use mainstay_api::{ErrandKind, ErrandStatus, SchemaChanged};
use mainstay_decide::health::Transition;
use mainstay_decide::observed::{HealthSeen, Record};
use mainstay_decide::plan::{BoxPlan, Step};
use mainstay_decide::replicas::{StoreRecord, child_of};
use mainstay_postgres::loss::Loss;
use mainstay_postgres::migrate::Migrated;
use mainstay_supervisor::protocol::{Child, Ended};
use mainstay_types::{BoxId, ChildRole, ExitReason, InstanceId, Member, State, Timestamp, Waiting};

use crate::effects::Fallen;
use crate::message::Outcome;
use crate::store::NewEvent;
use crate::{schedules, schema};

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A step that begins; only those that matter while they run.
pub(crate) fn began(step: &Step, at: Timestamp) -> Option<NewEvent> {
    match step {
        Step::WriteRecord { record } => record.promoting.map(|member| {
            let text = format!("postgres-{} is lost: postgres-{member} will be promoted", record.primary);
            NewEvent::warn(at, "FailoverBegan", text).about(format!("postgres-{}", record.primary))
        }),
        Step::Rewind { member, from } => Some(
            NewEvent::info(at, "RewindBegan", format!("postgres-{member} is rewound to postgres-{from}"))
                .about(format!("postgres-{member}")),
        ),
        Step::Clone { member, from } => Some(
            NewEvent::info(at, "CloneBegan", format!("postgres-{member} is cloned from postgres-{from}"))
                .about(format!("postgres-{member}")),
        ),
        _ => None,
    }
}

/// An errand that is over.
pub(crate) struct ErrandEvent {
    pub(crate) errand: ErrandKind,
    pub(crate) member: Member,
    pub(crate) primary: Member,
    /// Why it was given up.
    pub(crate) reason: Option<String>,
    pub(crate) took: Duration,
}

/// A person asked the cluster for something.
pub(crate) fn errand_asked(status: &ErrandStatus, at: Timestamp) -> NewEvent {
    let (member, primary) = (status.member, status.primary);
    let (kind, text) = match status.errand {
        ErrandKind::Switchover => {
            ("SwitchoverAsked", format!("postgres-{member} is to take over from postgres-{primary}, as planned"))
        }
        ErrandKind::Failover => {
            ("FailoverAsked", format!("postgres-{member} is to take over from postgres-{primary} at once"))
        }
        ErrandKind::Restart => ("RestartAsked", format!("postgres-{member} is to be restarted")),
        ErrandKind::Restore => ("RestoreAsked", "the past is to take the place of the present".to_owned()),
    };
    let cut = status.migration.as_ref().map(|whose| format!("; a run of migrations is cut off: {whose}"));
    NewEvent::info(at, kind, text + &cut.unwrap_or_default()).about(format!("postgres-{member}"))
}

/// It is over.
pub(crate) fn errand_over(over: &ErrandEvent, at: Timestamp) -> NewEvent {
    let (member, primary) = (over.member, over.primary);
    let (done, given_up, what) = match over.errand {
        ErrandKind::Switchover => (
            "SwitchoverDone",
            "SwitchoverGivenUp",
            format!("the switchover from postgres-{primary} to postgres-{member}"),
        ),
        ErrandKind::Failover => {
            ("FailoverDone", "FailoverGivenUp", format!("the failover from postgres-{primary} to postgres-{member}"))
        }
        ErrandKind::Restart => ("RestartDone", "RestartGivenUp", format!("the restart of postgres-{member}")),
        ErrandKind::Restore => ("RestoreDone", "RestoreGivenUp", "the exchange of the present for the past".to_owned()),
    };
    let event = match &over.reason {
        None => NewEvent::info(at, done, format!("{what} is done")),
        Some(reason) => NewEvent::warn(at, given_up, format!("{what} was given up: {reason}")),
    };
    event.about(format!("postgres-{member}")).with("took_ms", millis(over.took))
}

/// A failover begins because a person asked.
pub(crate) fn planned(record: &Record, to: Member, at: Timestamp) -> NewEvent {
    let text = format!("postgres-{} was given up as asked: postgres-{to} will be promoted", record.primary);
    NewEvent::info(at, "FailoverBegan", text).about(format!("postgres-{}", record.primary))
}

/// What a failover in `fast` lost.
pub(crate) fn loss(fallen: Fallen, loss: Result<Loss, String>, at: Timestamp) -> NewEvent {
    let (from, to) = (fallen.member, fallen.to);
    let event = match loss {
        Ok(Loss { bytes: 0, .. }) => {
            let text = format!("postgres-{to} has everything that postgres-{from} had written: nothing was lost");
            NewEvent::info(at, "FailoverLost", text).with("lost_bytes", 0).with("lost_commits", 0)
        }
        Ok(Loss { bytes, commits, is_more }) => {
            let least = if is_more { "at least " } else { "" };
            let text = format!(
                "{least}{bytes} bytes of log with {commits} commits of postgres-{from} are not on postgres-{to}: \
                 lost, as `fast` allows; the old directory is kept until the next standby streams"
            );
            NewEvent::error(at, "FailoverLost", text).with("lost_bytes", bytes).with("lost_commits", commits)
        }
        Err(reason) => {
            NewEvent::error(at, "FailoverLost", format!("what postgres-{to} lacks cannot be told: {reason}"))
        }
    };
    event.about(format!("postgres-{from}"))
}

/// Where the router leads. Also told when only the readers changed, so it says who they are.
fn led(write: mainstay_types::Member, read: &[mainstay_types::Member]) -> String {
    let readers: Vec<String> = read.iter().map(|member| format!("postgres-{member}")).collect();
    let reads = if readers.is_empty() { "there as well".to_owned() } else { format!("to {}", readers.join(", ")) };
    format!("writes go to postgres-{write}, reads {reads}")
}

/// A step that is done.
pub(crate) fn done(step: &Step, outcome: &Outcome, took: Duration, at: Timestamp) -> Option<NewEvent> {
    let postgres = |member: &mainstay_types::Member| format!("postgres-{member}");
    let event = match (step, outcome) {
        (Step::InitPrimary { member }, _) => {
            NewEvent::info(at, "ClusterMade", format!("a new cluster is in {}", postgres(member)))
                .about(postgres(member))
        }
        (Step::Clone { member, from }, _) => {
            let text = format!("{} is a copy of {}", postgres(member), postgres(from));
            NewEvent::info(at, "StandbyCloned", text).about(postgres(member))
        }
        (Step::Rewind { member, from }, _) => {
            let text = format!("{} is a beginning of {} again", postgres(member), postgres(from));
            NewEvent::info(at, "StandbyRewound", text).about(postgres(member))
        }
        (Step::Follow { member, primary }, _) => {
            let text = format!("{} follows {}", postgres(member), postgres(primary));
            NewEvent::info(at, "StandbyRepointed", text).about(postgres(member))
        }
        (Step::Fence { member }, _) => {
            let text = format!("{} is dead: nothing is attached to its shared memory", postgres(member));
            NewEvent::info(at, "PrimaryFenced", text).about(postgres(member))
        }
        (Step::PromoteStore { from, .. }, Outcome::StorePromoted(record)) => store_promoted(*from, record, at),
        (Step::Promote { member }, Outcome::Promoted { timeline, lsn }) => {
            let text = format!("{} is primary on timeline {timeline} from {lsn}", postgres(member));
            NewEvent::info(at, "StandbyPromoted", text).about(postgres(member)).with("timeline", timeline.0)
        }
        (Step::PointRouter { epoch, write: None, .. }, _) => {
            NewEvent::info(at, "SessionsHeld", "new transactions wait; those that are begun go on")
                .about("router")
                .with("epoch", *epoch)
        }
        (Step::PointRouter { epoch, write: Some(member), read }, _) => {
            NewEvent::info(at, "RouterRepointed", led(*member, read)).about("router").with("epoch", *epoch)
        }
        (Step::SetSynchronous { standbys, .. }, _) if standbys.is_empty() => {
            NewEvent::warn(at, "CommitsAsynchronous", "no standby streams: commits no longer wait for one")
                .about("database")
        }
        (Step::SetSynchronous { .. }, _) => {
            NewEvent::info(at, "CommitsSynchronous", "every commit waits for a standby").about("database")
        }
        (Step::SwapIn { primary, .. }, Outcome::Recorded(record)) => {
            let text = format!(
                "restored data is in the place of postgres-{primary}'s, on timeline {}; what was there is kept beside it",
                record.timeline
            );
            NewEvent::warn(at, "DataReplaced", text).about(format!("postgres-{primary}"))
        }
        (Step::Migrate { .. }, Outcome::Migrated(done)) => migrated(done, at),
        (Step::Migrate { .. }, Outcome::SchemaSeen(seen)) => seen.event(at),
        (Step::RunBefore { service }, _) => {
            NewEvent::info(at, "ReleaseCommandDone", format!("the release command of {service} ended well"))
                .about(service)
        }
        (Step::WriteSchedule { service, record, change }, _) => return schedules::event(service, record, *change, at),
        (Step::StartRun { service, run }, Outcome::Started { pid, .. }) => {
            return Some(schedules::began(service, run, *pid, at));
        }
        (_, Outcome::Started { name, pid, .. }) => {
            NewEvent::info(at, "ChildStarted", format!("{name} runs as pid {pid}")).about(name).with("pid", pid.0)
        }
        (Step::Stop { name, .. }, _) => NewEvent::info(at, "ChildStopped", format!("{name} is stopped")).about(name),
        _ => return None,
    };
    Some(event.with("took_ms", millis(took)))
}

fn store_promoted(from: Option<Member>, record: &StoreRecord, at: Timestamp) -> NewEvent {
    let name = child_of(record.primary);
    let former = from.map_or(String::new(), |from| {
        let former = child_of(from);
        format!(" in the place of {former}, which is dead; what {former} had and {name} had not is kept aside")
    });
    NewEvent::warn(at, "StorePromoted", format!("{name} is the store{former}")).about(name).with("epoch", record.epoch)
}

/// Migrations that were run at a start.
fn migrated(done: &Migrated, at: Timestamp) -> NewEvent {
    let text = format!("schema is at {}", schema::line(done));
    let event = NewEvent::info(at, "MigrationsApplied", text).about("database");
    match &done.restore_point {
        Some(point) => event.with("scripts", done.applied.len()).with("restore_point", point.name.clone()),
        None => event,
    }
}

/// What `db migrate` did.
pub(crate) fn schema_changed(changed: &SchemaChanged, at: Timestamp) -> NewEvent {
    let SchemaChanged { scripts, is_undo, restore_point, schema } = changed;
    let event = if *is_undo {
        let text = format!("{} took a migration back; schema is at {schema}", scripts.join(", "));
        NewEvent::warn(at, "MigrationUndone", text)
    } else {
        NewEvent::info(at, "MigrationsApplied", format!("ran {}; schema is at {schema}", scripts.join(", ")))
    };
    event.about("database").with("restore_point", restore_point.clone())
}

/// A child that ended while it should run.
pub(crate) fn ended(child: &Child, ended: &Ended) -> NewEvent {
    let text = format!("{} (pid {}) ended: {}", child.name, child.pid, ended.reason);
    NewEvent::warn(ended.at, "ChildEnded", text)
        .about(&child.name)
        .with("pid", child.pid.0)
        .with("role", child.role.to_string())
        .with("reason", ended.reason.to_string())
        .with("ran_ms", millis(ended.at.saturating_since(child.since)))
}

/// The end of the control plane before this one, which only keep saw; `None`: there was none, or it ended in order.
pub(crate) fn control_died(child: &Child) -> Option<NewEvent> {
    let is_in_order = |reason: &ExitReason| matches!(reason, ExitReason::Code { code: 0 | 75 });
    let before = child.ended_before.as_ref().filter(|before| !is_in_order(&before.reason))?;
    let is_control = child.role == ChildRole::Control && child.pid.0.cast_unsigned() == std::process::id();
    let text = format!("the control plane ended: {}; keep started another, the parts ran on", before.reason);
    is_control.then(|| {
        NewEvent::warn(before.at, "ControlDied", text)
            .about("control")
            .with("reason", before.reason.to_string())
            .with("away_ms", millis(child.since.saturating_since(before.at)))
    })
}

/// An instance whose health changed.
pub(crate) fn health(
    id: &InstanceId,
    transition: Transition,
    seen: &HealthSeen,
    began: Timestamp,
    at: Timestamp,
) -> NewEvent {
    let event = match transition {
        Transition::Admitted => NewEvent::info(at, "InstanceReady", format!("{id} is ready: {}", seen.last)),
        Transition::Suspended => NewEvent::warn(at, "InstanceSuspended", format!("{id} is suspended: {}", seen.last)),
        Transition::NeverReady => {
            NewEvent::error(at, "InstanceNeverReady", format!("{id} did not become ready: {}", seen.last))
        }
    };
    event.about(id).with("after_ms", millis(at.saturating_since(began)))
}

/// The proof of death that a look gave before anybody had to fence.
pub(crate) fn seen_dead(member: mainstay_types::Member, at: Timestamp) -> NewEvent {
    let text = format!("postgres-{member} was seen dead: nothing is attached to its shared memory");
    NewEvent::info(at, "PrimaryFenced", text).about(format!("postgres-{member}"))
}

/// What a failover did to sessions.
/// `aborted` are those of the carried whose transaction was lost and told so.
pub(crate) fn sessions(
    (carried, aborted): (u64, u64),
    ended: u64,
    in_flight: u64,
    longest_hold_ms: u64,
    at: Timestamp,
) -> NewEvent {
    let text = format!(
        "sessions carried over {carried} ({aborted} of them in a transaction, told 40001), ended for their state {ended}, with a statement in flight {in_flight}; \
         longest hold {longest_hold_ms} ms"
    );
    NewEvent::info(at, "SessionsCarried", text)
        .about("router")
        .with("carried", carried)
        .with("longest_hold_ms", longest_hold_ms)
}

/// The keys of an issuer of tokens came, or no longer come.
pub(crate) fn issuer_keys(issuer: &str, keys: usize, failure: Option<String>, at: Timestamp) -> NewEvent {
    let event = match failure {
        None => NewEvent::info(at, "IssuerKeysTaken", format!("{keys} keys of identity {issuer} are there")),
        Some(reason) if keys > 0 => {
            let text = format!("no new keys of identity {issuer}, the {keys} before stay: {reason}");
            NewEvent::warn(at, "IssuerKeysMissed", text)
        }
        Some(reason) => {
            let text = format!("identity {issuer} has no keys, its routes answer 503: {reason}");
            NewEvent::error(at, "IssuerKeysMissed", text)
        }
    };
    event.about("edge").with("keys", keys as u64)
}

/// A box that changed into a state that a person would want to know of.
pub(crate) fn state_changed(planned: &BoxPlan, at: Timestamp) -> Option<NewEvent> {
    // Instances and members have events of their own; a service or the edge as a whole has not.
    let reason = planned.reason.clone().unwrap_or_default();
    let text = format!("{} is {}{}{reason}", planned.id, planned.state, if reason.is_empty() { "" } else { ": " });
    let is_handled = matches!(planned.id, BoxId::Postgres { .. })
        && planned.waiting.iter().any(|one| matches!(one, Waiting::Step { .. } | Waiting::Observation { .. }));
    let event = match planned.state {
        // Its end and what is done about it are told; nobody must act.
        State::Failed if is_handled => return None,
        State::CrashLoop | State::Failed => NewEvent::error(at, "BoxFailed", text),
        State::Degraded => NewEvent::warn(at, "BoxDegraded", text),
        State::Ready if !matches!(planned.id, BoxId::Instance { .. }) => NewEvent::info(at, "BoxReady", text),
        _ => return None,
    };
    Some(event.about(&planned.id))
}

#[cfg(test)]
mod tests {
    use mainstay_types::{ChildName, Nonce, Pid};

    use super::*;

    /// Nobody told of it: the one that died could not, and the next one did not know.
    #[test]
    fn the_death_of_the_control_plane_is_told_by_the_next_one() {
        let at = Timestamp::from_millis;
        let ended = |reason| Some(Ended { reason, at: at(5_000) });
        let control = |pid: u32, ended_before| Child {
            name: ChildName::new("control").expect("a name"),
            role: ChildRole::Control,
            nonce: Nonce::from_bytes([0; 16]),
            pid: Pid(pid.cast_signed()),
            since: at(5_700),
            is_own: true,
            ended: None,
            ended_before,
        };
        let me = std::process::id();
        let event = control_died(&control(me, ended(ExitReason::Signal { signal: 9 }))).expect("it is told");
        assert_eq!((event.kind, event.at), ("ControlDied", at(5_000)));
        assert!(event.text.contains("SIGKILL"), "{}", event.text);
        assert_eq!(event.fields["away_ms"], 700);
        assert!(control_died(&control(me, None)).is_none(), "it is the first");
        assert!(control_died(&control(me, ended(ExitReason::Code { code: 0 }))).is_none(), "it ended in order");
        assert!(control_died(&control(me + 1, ended(ExitReason::OutOfMemory))).is_none(), "another one tells that");
    }
}
