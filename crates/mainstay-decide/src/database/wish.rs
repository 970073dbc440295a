//! What a person asked the cluster to do: whether it can be done, how far it is, when it is over.
//!
//! Nothing of an errand is remembered besides the wish itself: each stage is read off what is observed. A control
//! plane that dies on the way forgets the wish, and the next one goes on with what it sees: a router that holds is led
//! to the recorded primary again, and a primary that ended is taken over from.

use std::time::Duration;

use mainstay_stack::Stack;
use mainstay_stack::model::Durability;
use mainstay_types::{ChildName, Member, Seen, Timestamp};

use super::standby;
use crate::damage;
use crate::observed::{Errand, FailedStep, Observed, Record, Wish};
use crate::plan::{Step, StepKey};
use crate::restart;
use crate::view::{Answer, Life, View};

/// An errand that takes longer than this besides its drain is given up: a checkpoint of a slow disk (10 min at most,
/// then its step fails) and the end of a primary (60 s, then it is killed) are far within.
const LIMIT: Duration = Duration::from_mins(15);
/// Tries to put restored data in place before the present is started again.
const SWAP_TRIES: u32 = 5;
/// Time for statements at a standby that is to be restarted; those that take longer are ended with it.
const READS_WITHIN: Duration = Duration::from_secs(30);

/// How far an errand is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    Underway(Stage),
    /// What was asked is so.
    Done,
    /// It is given up; nothing of it is left to do.
    Over {
        /// Why, for people.
        reason: String,
    },
}

/// What an errand is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A checkpoint is written while everybody works on.
    Checkpoint,
    /// Sessions are held; what was begun is waited for.
    Drain {
        /// Sessions that still have something begun; `None`: the router has not said so yet.
        left: Option<u64>,
        /// How long they have.
        until: Timestamp,
    },
    /// The primary ends in order.
    Stop,
    /// The other takes over.
    Promote,
    /// The router is led to the new primary.
    Lead,
    /// Nobody waits for the standby any more, and nobody reads there.
    Detach,
    /// The standby ends and is started again.
    Restart,
    /// Every member ends.
    End,
    /// The restored data takes its place.
    Swap,
    /// The standby catches up until commits wait for it again.
    CatchUp,
}

/// How far the wish is; `None`: there is none, or nobody can tell just now.
pub fn progress(stack: &Stack, observed: &Observed, now: Timestamp) -> Option<Progress> {
    let Seen::Fact { value: children, .. } = &observed.children else { return None };
    look(&View { stack, observed, children, now })
}

/// Why it cannot be asked for; `None`: it can.
pub fn refusal(stack: &Stack, observed: &Observed, errand: &Errand, now: Timestamp) -> Option<String> {
    let Seen::Fact { value: children, .. } = &observed.children else {
        return Some("keep is being restarted: nobody knows what runs; ask again".to_owned());
    };
    let view = View { stack, observed, children, now };
    if observed.is_stopping {
        return Some("the stack is going down".to_owned());
    }
    if matches!(look(&view), Some(Progress::Underway(_))) {
        return Some("another switchover, failover or restart is under way".to_owned());
    }
    let Some(record) = view.record() else { return Some("nobody is recorded as primary yet".to_owned()) };
    obstacle(&view, record, errand)
}

/// Who takes over when nobody is named: the first standby that may, one without damaged pages before others.
pub fn heir(observed: &Observed) -> Option<Member> {
    let database = observed.database.as_ref()?;
    let candidates = &database.record.value()?.as_ref()?.candidates;
    let is_whole = |member: &&Member| !database.damages.of.contains_key(member);
    candidates.iter().find(is_whole).or_else(|| candidates.first()).copied()
}

/// The wish and its stage, while it is under way.
pub(crate) fn underway<'a>(view: &View<'a>) -> Option<(&'a Wish, Stage)> {
    match look(view)? {
        Progress::Underway(stage) => Some((view.observed.wish.as_ref()?, stage)),
        Progress::Done | Progress::Over { .. } => None,
    }
}

/// Whether sessions wait for a planned change of the primary.
pub(crate) fn is_holding(view: &View<'_>) -> bool {
    let is_before = |wish: &Wish, stage| {
        matches!(wish.errand, Errand::Switchover { .. }) && matches!(stage, Stage::Drain { .. } | Stage::Stop)
    };
    underway(view).is_some_and(|(wish, stage)| is_before(wish, stage))
}

/// The data directory that takes the primary's place, while that is under way and not done.
pub(crate) fn restoring<'a>(view: &View<'a>) -> Option<&'a str> {
    let (wish, stage) = underway(view)?;
    match &wish.errand {
        Errand::Restore { incoming } if matches!(stage, Stage::End | Stage::Swap) => Some(incoming),
        Errand::Restore { .. } | Errand::Switchover { .. } | Errand::Failover { .. } | Errand::Restart { .. } => None,
    }
}

/// The standby that nobody may wait for or read from, because it is to be restarted.
pub(crate) fn detaching(view: &View<'_>) -> Option<Member> {
    let wish = view.observed.wish.as_ref()?;
    let Errand::Restart { member } = &wish.errand else { return None };
    let member = *member;
    let is_pending = view.member_life(member).runs().is_none_or(|child| child.since <= wish.asked_at);
    (is_pending && matches!(look(view), Some(Progress::Underway(_)))).then_some(member)
}

fn look(view: &View<'_>) -> Option<Progress> {
    let wish = view.observed.wish.as_ref()?;
    let record = view.record()?;
    let over = |reason: String| Some(Progress::Over { reason });
    let drain = match &wish.errand {
        Errand::Switchover { drain_ms, .. } => Duration::from_millis(*drain_ms),
        Errand::Failover { .. } | Errand::Restart { .. } | Errand::Restore { .. } => Duration::ZERO,
    };
    // Once the primary is gone there is nothing to give up: the failover goes on by itself.
    if view.now >= wish.asked_at.after(LIMIT).after(drain) {
        return over(format!("it was not done within {} min", LIMIT.as_secs() / 60));
    }
    Some(match &wish.errand {
        Errand::Restart { member } => restart(view, record, wish, *member),
        Errand::Switchover { to, .. } | Errand::Failover { to } => change(view, record, wish, *to),
        Errand::Restore { incoming } => restore(view, record, wish, incoming),
    })
}

/// The record says when the data was exchanged: its epoch rises in the same step.
fn restore(view: &View<'_>, record: &Record, wish: &Wish, incoming: &str) -> Progress {
    let primary = record.primary;
    // It was laid beside the data of one member, and takes the place of no other's.
    let of = incoming.split_once('/').and_then(|(member, _)| Member::try_from(member.to_owned()).ok());
    if of.is_some_and(|of| of != primary) {
        return Progress::Over { reason: format!("postgres-{primary} took over instead; no data was exchanged") };
    }
    // A failover that has begun comes to its end first.
    if record.promoting.is_some() {
        return Progress::Underway(Stage::Promote);
    }
    if record.epoch != wish.epoch {
        return if is_led(view, record) { Progress::Done } else { Progress::Underway(Stage::Lead) };
    }
    let is_final = |failed: &&FailedStep| failed.attempts >= SWAP_TRIES && failed.at >= wish.asked_at;
    if let Some(failed) = view.observed.failed.get(&StepKey::Cluster).filter(is_final) {
        return Progress::Over { reason: format!("{}; {}", failed.error, left_behind(view, record)) };
    }
    let runs = |member: &Member| view.member_life(*member).runs().is_some();
    let is_any_running = view.database().is_some_and(|seen| seen.members.keys().any(runs));
    Progress::Underway(if is_any_running { Stage::End } else { Stage::Swap })
}

/// What a try to exchange that failed has left, by the timeline of the data that is in place.
fn left_behind(view: &View<'_>, record: &Record) -> &'static str {
    let seen = view.member(record.primary).and_then(|member| member.control);
    match seen.map(|control| control.timeline > record.timeline) {
        Some(false) => "the present goes on as it was",
        Some(true) => "the restored data is in place all the same, and is started",
        None => "whether the data was exchanged is not known: `mainstay db info` shows what is there",
    }
}

fn change(view: &View<'_>, record: &Record, wish: &Wish, to: Member) -> Progress {
    if record.epoch != wish.epoch {
        return match record.primary {
            primary if primary != to => Progress::Over { reason: format!("postgres-{primary} took over instead") },
            _ if is_led(view, record) => Progress::Done,
            _ => Progress::Underway(Stage::Lead),
        };
    }
    let primary = record.primary;
    if record.promoting.is_some() {
        return Progress::Underway(Stage::Promote);
    }
    match view.member_life(primary) {
        Life::Runs(child) if child.since > wish.asked_at => {
            let reason = format!("postgres-{to} could not take over: postgres-{primary} was started again");
            Progress::Over { reason }
        }
        Life::Runs(_) if is_being_stopped(view, primary) => Progress::Underway(Stage::Stop),
        Life::Runs(_) => match (obstacle(view, record, &wish.errand), &wish.errand) {
            (Some(reason), _) => Progress::Over { reason },
            (None, Errand::Switchover { drain_ms, is_forced, .. }) => {
                let drain = Duration::from_millis(*drain_ms);
                before_stop(view, record, wish.asked_at, Drain { time: drain, is_forced: *is_forced })
            }
            (None, Errand::Failover { .. } | Errand::Restart { .. } | Errand::Restore { .. }) => {
                by_hand(view, wish, to)
            }
        },
        Life::Ended { .. } | Life::Never => Progress::Underway(Stage::Promote),
    }
}

fn by_hand(view: &View<'_>, wish: &Wish, to: Member) -> Progress {
    let hang_after = view.stack.database.as_ref().map_or(Duration::ZERO, |database| database.hang_after);
    if view.now >= wish.asked_at.after(hang_after) {
        return Progress::Over { reason: format!("postgres-{to} did not answer in time; nothing was done") };
    }
    Progress::Underway(Stage::Promote)
}

#[derive(Clone, Copy)]
struct Drain {
    time: Duration,
    is_forced: bool,
}

/// The primary works still.
fn before_stop(view: &View<'_>, record: &Record, asked_at: Timestamp, drain: Drain) -> Progress {
    let key = StepKey::Checkpoint;
    if let Some(failed) = view.observed.failed.get(&key).filter(|failed| failed.at >= asked_at) {
        return Progress::Over { reason: format!("the checkpoint before it failed: {}", failed.error) };
    }
    let written = view.observed.done.get(&key).filter(|done| **done >= asked_at && **done <= view.now);
    let Some(written) = written else { return Progress::Underway(Stage::Checkpoint) };
    let until = written.after(drain.time);
    let left = match &view.observed.router {
        // What it says of its connections is about the targets that are in force there.
        Seen::Fact { value: router, .. } if router.write.is_none() && router.epoch == record.epoch => {
            router.leaving.as_ref().map(|leaving| leaving.get(&record.primary).copied().unwrap_or(0))
        }
        Seen::Fact { .. } | Seen::Unknown | Seen::Silent { .. } => None,
    };
    match left {
        Some(0) => Progress::Underway(Stage::Stop),
        Some(_) if view.now >= until && drain.is_forced => Progress::Underway(Stage::Stop),
        Some(left) if view.now >= until => Progress::Over {
            reason: format!(
                "{left} {} still had a transaction or statement under way after {} ms; nothing was changed",
                if left == 1 { "session" } else { "sessions" },
                drain.time.as_millis()
            ),
        },
        None if view.now >= until => {
            let reason = format!("the router did not hold within {} ms; nothing was changed", drain.time.as_millis());
            Progress::Over { reason }
        }
        left => Progress::Underway(Stage::Drain { left, until }),
    }
}

fn restart(view: &View<'_>, record: &Record, wish: &Wish, member: Member) -> Progress {
    let durability = view.stack.database.as_ref().map(|database| database.durability);
    match view.member_life(member) {
        Life::Ended { child, .. } if restart::is_crash_loop(child) => {
            Progress::Over { reason: format!("postgres-{member} does not come up again; see `mainstay logs`") }
        }
        Life::Ended { .. } | Life::Never => Progress::Underway(Stage::Restart),
        Life::Runs(child) if child.since <= wish.asked_at => match obstacle(view, record, &wish.errand) {
            Some(reason) => Progress::Over { reason },
            None if is_detached(view, record, wish, member) => Progress::Underway(Stage::Restart),
            None => Progress::Underway(Stage::Detach),
        },
        Life::Runs(_) => {
            let is_streaming = matches!(view.answer(member), Answer::Fact(answer) if answer.is_streaming);
            let is_relied_on = durability == Some(Durability::Fast) || record.candidates.contains(&member);
            let is_read = view.router().is_some_and(|router| router.read.contains(&member));
            if is_streaming && is_relied_on && is_read { Progress::Done } else { Progress::Underway(Stage::CatchUp) }
        }
    }
}

/// Nobody waits for the standby's confirmation or reads there.
fn is_detached(view: &View<'_>, record: &Record, wish: &Wish, member: Member) -> bool {
    let is_awaited = is_given_up(view, member)
        && (record.candidates.contains(&member)
            || view.writable(record.primary).is_none_or(|primary| primary.synchronous.contains(&member)));
    let is_read = match &view.observed.router {
        Seen::Fact { value: router, .. } => {
            router.read.contains(&member) || router.leaving.as_ref().is_none_or(|leaving| leaving.contains_key(&member))
        }
        // It is started again and told its targets.
        Seen::Unknown | Seen::Silent { .. } => true,
    };
    !is_awaited && (!is_read || view.now >= wish.asked_at.after(READS_WITHIN))
}

/// Whether commits stop waiting for a standby that is to be restarted. `strict` without another one: they wait for
/// its return.
pub(crate) fn is_given_up(view: &View<'_>, member: Member) -> bool {
    let Some(database) = &view.stack.database else { return false };
    let others = view.record().map(|record| record.primary);
    let has_another = view.wanted_members().into_iter().any(|other| {
        other != member
            && Some(other) != others
            && matches!(view.answer(other), Answer::Fact(answer) if answer.is_streaming)
    });
    database.durability != Durability::Strict || has_another
}

/// Why the errand cannot be begun, or not go on, as things are.
fn obstacle(view: &View<'_>, record: &Record, errand: &Errand) -> Option<String> {
    let primary = record.primary;
    if let Some(promoting) = record.promoting {
        return Some(format!("a failover to postgres-{promoting} is under way"));
    }
    let member = match errand {
        Errand::Switchover { to: member, .. } | Errand::Failover { to: member } | Errand::Restart { member } => *member,
        // Also when the present does not work any more.
        Errand::Restore { .. } => return None,
    };
    if !view.wanted_members().contains(&member) {
        return Some(format!("the stack has no postgres-{member}"));
    }
    if matches!(errand, Errand::Restart { .. }) {
        let is_writable = view.writable(primary).is_some();
        return match () {
            () if member == primary => Some(format!("postgres-{member} is primary: switch over first")),
            () if !is_writable => Some(format!("the primary postgres-{primary} does not take writes just now")),
            () => None,
        };
    }
    if member == primary {
        return Some(format!("postgres-{member} is primary already"));
    }
    if !record.candidates.contains(&member) {
        return Some(format!(
            "postgres-{member} may not take over: commits have not waited for it yet (`mainstay status`)"
        ));
    }
    if damage::of(view, member).is_some() && damage::of(view, primary).is_none() {
        return Some(format!("postgres-{member} met damaged pages and is cloned anew first (`mainstay status`)"));
    }
    if matches!(errand, Errand::Failover { .. }) {
        let is_there = matches!(view.answer(member), Answer::Fact(answer) if answer.is_in_recovery);
        return (!is_there).then(|| format!("postgres-{member} does not answer"));
    }
    let Some(answer) = view.writable(primary) else {
        return Some(format!("the primary postgres-{primary} does not take writes just now"));
    };
    if !standby::is_fine(view, record, member, answer) {
        return Some(format!("postgres-{member} does not stream from postgres-{primary} just now"));
    }
    view.router().is_none().then(|| "the router does not answer, so nobody would be held".to_owned())
}

fn is_led(view: &View<'_>, record: &Record) -> bool {
    view.router().is_some_and(|router| router.epoch == record.epoch && router.write == Some(record.primary))
}

fn is_being_stopped(view: &View<'_>, member: Member) -> bool {
    let Life::Runs(child) = view.member_life(member) else { return false };
    let name = ChildName::postgres(member);
    let stop = Step::Stop { name, nonce: child.nonce.clone(), signal: 0, grace: Duration::ZERO };
    view.observed.running.get(&stop.key()).is_some_and(|running| running.what == stop.to_string())
}
