//! Executors of the simulated world: each step takes its time, may fail, and has its effect at one moment.

use mainstay_decide::observed::RouterSeen;
use mainstay_decide::plan::Step;
use mainstay_types::{ChildName, ExitReason, Member, Timestamp};

use crate::checks::Kind;
use crate::marks::Mark;
use crate::postgres::{Data, Process};
use crate::world::{World, after, member_of};

/// A step under way.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) step: Step,
    pub(crate) applies_at: Timestamp,
    /// The control plane hears of it.
    pub(crate) known_at: Timestamp,
    pub(crate) result: Option<Result<(), String>>,
    pub(crate) is_failing: bool,
    /// A stop is over when its child has ended.
    pub(crate) waits_for: Option<ChildName>,
}

/// Begins a step.
pub(crate) fn begin(world: &mut World, step: &Step, failing_percent: u64) -> InFlight {
    let (low, high) = duration(step);
    let millis = world.random.within(low, high);
    // The end of everything is not repeated, so it is not failed either.
    let is_failing = *step != Step::Finish && world.random.chance(failing_percent);
    let mut waits_for = None;
    match step {
        // Moved aside first: whatever comes between leaves an unfinished directory.
        Step::Rewind { member, .. } if !world.cluster.is_alive(*member) => {
            world.cluster.server_mut(*member).data = Data::Unfinished;
        }
        Step::Clone { member, .. } | Step::InitPrimary { member } => {
            let server = world.cluster.server_mut(*member);
            if server.data == Data::Absent {
                server.data = Data::Unfinished;
            }
        }
        Step::Stop { name, nonce, grace, .. } => {
            check_order(world, name);
            let stop_at = after(world.now, world.random.within(5, 60));
            let kill_at = world.now.after(*grace);
            if let Some(child) = world.children.get_mut(name).filter(|child| child.seen.nonce == *nonce) {
                let (at, reason) = if child.is_frozen {
                    (kill_at, ExitReason::Signal { signal: 9 })
                } else {
                    (stop_at, ExitReason::Code { code: 0 })
                };
                child.ends_at = Some((at, reason));
            }
            waits_for = Some(name.clone());
        }
        _ => {}
    }
    let applies_at = after(world.now, millis);
    let known_at = after(applies_at, world.random.within(0, 8));
    InFlight { step: step.clone(), applies_at, known_at, result: None, is_failing, waits_for }
}

/// The least and the most milliseconds until a step has its effect.
fn duration(step: &Step) -> (u64, u64) {
    match step {
        Step::InitPrimary { .. } => (150, 300),
        Step::Clone { .. } => (200, 600),
        Step::Rewind { .. } => (100, 900),
        Step::Follow { .. } => (2, 15),
        Step::StartPostgres { .. }
        | Step::StartChild { .. }
        | Step::StartInstance { .. }
        | Step::StartNew { .. }
        | Step::StartBackupJob { .. }
        | Step::StartStoreCopy
        | Step::PromoteStore { .. }
        | Step::StartRun { .. } => (2, 12),
        Step::WriteSchedule { .. } => (1, 6),
        Step::Checkpoint { .. } => (5, 200),
        Step::Fence { .. } => (5, 25),
        Step::Promote { .. } => (30, 120),
        Step::WriteRecord { .. } => (1, 4),
        Step::SetSynchronous { .. } => (5, 20),
        Step::PointRouter { .. } | Step::SwapIn { .. } => (1, 8),
        Step::PrepareDatabase { .. } | Step::Migrate { .. } | Step::RunBefore { .. } => (30, 90),
        Step::ReleaseWork { .. }
        | Step::WriteRollout { .. }
        | Step::CommitRelease { .. }
        | Step::EndRollout { .. }
        | Step::Stop { .. }
        | Step::Finish => (0, 1),
    }
}

fn check_order(world: &mut World, name: &ChildName) {
    let Some(record) = &world.record else { return };
    if member_of(name) != Some(record.primary) {
        return;
    }
    // A planned change of the primary: held sessions are waited for, see the end of its process.
    if world.router.write.is_none() && !world.is_stopping {
        return;
    }
    let user = world.children.iter().find(|(other, child)| {
        let is_user = other.as_str().starts_with("backend-") || matches!(other.as_str(), "router" | "edge");
        is_user && child.seen.ended.is_none()
    });
    let text = match user {
        Some((user, _)) => format!("the primary is stopped while {user} runs"),
        None if !world.is_stopping => "the primary is stopped and nobody asked for it".to_owned(),
        None => return,
    };
    world.broke(Kind::Order, text);
}

fn no_backups() -> Result<(), String> {
    Err("the simulated world has no backups".to_owned())
}

/// The step has its effect, or fails without one.
pub(crate) fn apply(world: &mut World, flight: &InFlight) -> Result<(), String> {
    if flight.is_failing {
        world.mark(Mark::StepFailed);
        return Err("the simulated world said no".to_owned());
    }
    let now = world.now;
    match &flight.step {
        Step::InitPrimary { member } => init(world, *member),
        Step::Clone { member, from } => clone(world, *member, *from),
        Step::Rewind { member, from } => rewind(world, *member, *from),
        Step::Follow { member, primary } => follow(world, *member, *primary),
        Step::StartPostgres { member, follow } => start(world, *member, *follow),
        Step::Fence { member } => fence(world, *member),
        Step::Promote { member } => promote(world, *member),
        Step::WriteRecord { record } => world.write_record(record.clone()),
        Step::SetSynchronous { primary, standbys } => {
            answering(world, *primary)?;
            if standbys.is_empty() && !world.cluster.server(*primary).synchronous.is_empty() {
                world.mark(Mark::Unblocked);
            }
            world.cluster.server_mut(*primary).synchronous.clone_from(standbys);
            Ok(())
        }
        Step::PointRouter { epoch, write, read } => {
            if !world.answers(&name("router")) {
                return Err("the router does not answer".to_owned());
            }
            if *epoch < world.router.epoch {
                return Err("the router knows a later epoch".to_owned());
            }
            world.point_router(RouterSeen { epoch: *epoch, write: *write, read: read.clone(), leaving: None });
            Ok(())
        }
        Step::PrepareDatabase { primary } | Step::Migrate { primary } => {
            let answer = world.cluster.answer(*primary, now);
            if answer.is_none_or(|answer| answer.is_in_recovery) {
                return Err(format!("postgres-{primary} takes no writes"));
            }
            if matches!(flight.step, Step::Migrate { .. }) {
                world.is_migrated = true;
            } else {
                world.is_prepared = true;
            }
            Ok(())
        }
        Step::RunBefore { service } => {
            world.before_done.insert(service.clone());
            Ok(())
        }
        Step::WriteSchedule { service, record, change } => world.write_schedule(service, record, *change),
        Step::StartRun { service, run } => world.start_run(service, run),
        Step::StartBackupJob { .. } | Step::SwapIn { .. } | Step::StartStoreCopy | Step::PromoteStore { .. } => {
            no_backups()
        }
        Step::StartNew { .. }
        | Step::ReleaseWork { .. }
        | Step::WriteRollout { .. }
        | Step::CommitRelease { .. }
        | Step::EndRollout { .. } => Err("this world has no releases".to_owned()),
        Step::StartChild { name } => spawned(world, name, (20, 120)),
        Step::StartInstance { id } => spawned(world, &ChildName::instance(id), (30, 200)),
        Step::Checkpoint { primary } => answering(world, *primary),
        Step::Stop { .. } | Step::Finish => Ok(()),
    }
}

/// A process that answers after a time between these. **Unit**: milliseconds.
fn spawned(world: &mut World, name: &ChildName, (least, most): (u64, u64)) -> Result<(), String> {
    let ready_ms = world.random.within(least, most);
    world.spawn(name, ready_ms)
}

fn fence(world: &mut World, member: Member) -> Result<(), String> {
    if world.cluster.server(member).process.as_ref().is_some_and(|process| process.is_frozen) {
        world.mark(Mark::FencedSilent);
    }
    world.end(&ChildName::postgres(member), ExitReason::Signal { signal: 9 }, true);
    Ok(())
}

fn answering(world: &World, member: Member) -> Result<(), String> {
    let is_there = world.cluster.answers(member, world.now);
    is_there.then_some(()).ok_or_else(|| format!("postgres-{member} does not answer"))
}

fn init(world: &mut World, member: Member) -> Result<(), String> {
    let server = world.cluster.server_mut(member);
    if server.data == Data::Complete {
        world.broke(Kind::Data, format!("a cluster was made over the data of postgres-{member}"));
        return Err("there is one".to_owned());
    }
    (server.data, server.timeline) = (Data::Complete, 1);
    Ok(())
}

fn clone(world: &mut World, member: Member, from: Member) -> Result<(), String> {
    if world.cluster.is_alive(member) {
        return Err(format!("postgres-{member} is not proven dead"));
    }
    if world.cluster.answer(from, world.now).is_none_or(|answer| answer.is_in_recovery) {
        return Err(format!("postgres-{from} gives no copy"));
    }
    let is_relied_on =
        world.record.as_ref().is_some_and(|record| record.primary == member || record.candidates.contains(&member));
    if is_relied_on {
        world.broke(Kind::Data, format!("the data of postgres-{member} was replaced, on which the record relies"));
    }
    // `pg_basebackup` looks at every page, and what it would have replaced stays.
    if world.cluster.server(from).is_damaged {
        world.cluster.server_mut(from).met += 1;
        return Err(format!("a page of postgres-{from} has a wrong checksum"));
    }
    let source = world.cluster.server(from).clone();
    let server = world.cluster.server_mut(member);
    if server.data == Data::Complete {
        world.mark(Mark::Rejoined);
    }
    if world.cluster.server(member).is_damaged {
        world.mark(Mark::Mended);
    }
    let server = world.cluster.server_mut(member);
    server.data = Data::Complete;
    server.has_standby_signal = true;
    server.timeline = source.timeline;
    server.log = source.log;
    (server.is_damaged, server.met) = (false, 0);
    server.shut_down_at = None;
    server.synchronous = vec![];
    Ok(())
}

fn follow(world: &mut World, member: Member, primary: Member) -> Result<(), String> {
    answering(world, member)?;
    if let Some(process) = &mut world.cluster.server_mut(member).process {
        process.follows = Some(primary);
    }
    world.mark(Mark::Repointed);
    Ok(())
}

fn rewind(world: &mut World, member: Member, from: Member) -> Result<(), String> {
    // What did not change since the timelines parted stays as it is.
    let was_damaged = world.cluster.server(member).is_damaged;
    clone(world, member, from)?;
    world.cluster.server_mut(member).is_damaged = was_damaged;
    world.mark(Mark::Rewound);
    Ok(())
}

fn start(world: &mut World, member: Member, follow: Option<Member>) -> Result<(), String> {
    let server = world.cluster.server(member);
    if server.data != Data::Complete {
        return Err(format!("postgres-{member} has no complete data directory"));
    }
    if server.orphans_until.is_some() {
        return Err(format!("postgres-{member} has processes attached to its memory"));
    }
    world.spawn(&ChildName::postgres(member), 0)?;
    let answers_from = after(world.now, world.random.within(30, 200));
    let server = world.cluster.server_mut(member);
    if follow.is_some() {
        if !server.has_standby_signal {
            world.marks.insert(Mark::FollowedAsItWas);
        }
        server.has_standby_signal = true;
        server.synchronous = vec![];
    }
    server.shut_down_at = None;
    let is_in_recovery = server.has_standby_signal;
    server.process = Some(Process {
        is_in_recovery,
        follows: follow,
        answers_from,
        is_frozen: false,
        is_streaming: false,
        is_rogue: false,
    });
    let is_primary_alone = follow.is_none() && !is_in_recovery;
    if is_primary_alone && world.record.as_ref().is_some_and(|record| record.primary == member) {
        world.mark(Mark::RecoveredInPlace);
    }
    Ok(())
}

fn promote(world: &mut World, member: Member) -> Result<(), String> {
    if !world.cluster.answers(member, world.now) {
        return Err(format!("postgres-{member} does not answer"));
    }
    let server = world.cluster.server_mut(member);
    let Some(process) = &mut server.process else { return Err("it is gone".to_owned()) };
    if process.is_in_recovery {
        process.is_in_recovery = false;
        process.is_streaming = false;
        server.timeline += 1;
        server.has_standby_signal = false;
    }
    Ok(())
}

fn name(text: &str) -> ChildName {
    ChildName::new(text).expect("a valid name")
}
