//! The store and its replicas: who serves, and when another takes over.
//!
//! The store's address stays with whoever is primary: its port is bound by the primary alone, and replicas follow that
//! address, whoever is behind it. A primary that ended is started again in place first, which loses next to nothing:
//! what it acknowledged is in its file. Another takes over when that does not work (it ends again at once, or cannot be
//! started) or would take long (a large file). What was acknowledged in the last moment and had not reached the
//! successor is lost then.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_stack::Stack;
use mainstay_types::{BoxId, ChildName, Member, Seen, State, Timestamp, Waiting};
use serde::{Deserialize, Serialize};

use crate::children::{ORDERLY, Simple, child, keep_running, look_of};
use crate::draft::{Draft, end_reason, idle_state, not_configured};
use crate::observed::Program;
use crate::plan::{BoxPlan, Step, StepKey};
use crate::store;
use crate::view::{Life, View};

/// Ends in a row without a steady run after which a start in place is given up: the first may have been a kill, the
/// second is that of the start that was to mend it.
const FAILED_STARTS: u32 = 2;
/// A larger file takes longer to load than clients should wait. **Basis**: 50 MB a second on a busy core, 3 s.
const QUICK_TO_LOAD: u64 = 150_000_000;
/// How long a replica is waited for that was not looked at since the end of the primary.
const LOOKED_AT_WITHIN: Duration = Duration::from_secs(2);

/// Who is primary, on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRecord {
    /// Counts changes of the primary; 0: there was none yet.
    pub epoch: u64,
    /// Who serves.
    pub primary: Member,
    /// Who served before: its data are behind, and it begins with nothing.
    pub former: Option<Member>,
}

impl Default for StoreRecord {
    fn default() -> Self {
        Self { epoch: 0, primary: Member::A, former: None }
    }
}

/// What a server of the store says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreAnswer {
    /// It follows another.
    pub is_replica: bool,
    /// A replica: its primary's stream flows.
    pub has_link: bool,
    /// Name of the stream that it has, which begins anew with each start of a primary.
    pub history: String,
    /// How far it is in the stream. **Unit**: bytes.
    pub offset: u64,
    /// All that it has is in its file. Not so after a copy of all was taken over, until that is written, too: a server that
    /// ends before comes back without it.
    pub is_on_disk: bool,
    /// The port that it listens at; 0: none.
    pub port: u16,
}

/// A look at a server of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreMemberSeen {
    /// Its answer.
    pub answer: Seen<StoreAnswer>,
    /// Size of its file when it answered last. **Unit**: bytes.
    pub file_bytes: u64,
    /// A copy waits to take the place of its data at its next start.
    pub is_restoring: bool,
    /// Where it was when it answered as the primary last, whatever it answers now.
    pub served: Option<Served>,
}

/// A place in a primary's stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Name of the stream.
    pub history: String,
    /// **Unit**: bytes.
    pub offset: u64,
}

impl Served {
    /// Whether a replica has all of it, and in a file.
    pub(crate) fn is_all_at(&self, replica: &StoreAnswer) -> bool {
        replica.is_replica && replica.is_on_disk && replica.history == self.history && replica.offset >= self.offset
    }
}

/// What one look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreLook {
    /// The server's answer.
    pub answer: Seen<StoreAnswer>,
    /// Size of its file; `None`: it did not say.
    pub file_bytes: Option<u64>,
    /// A copy waits for its next start.
    pub is_restoring: bool,
    /// Who serves, as it is on disk.
    pub record: Seen<StoreRecord>,
}

/// The store with its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreSeen {
    /// The record.
    pub record: Seen<StoreRecord>,
    /// Port of the store's address.
    pub port: u16,
    /// Looks.
    pub members: BTreeMap<Member, StoreMemberSeen>,
}

impl StoreSeen {
    /// Takes a look in.
    pub fn look(&mut self, member: Member, look: StoreLook) {
        let StoreLook { answer, file_bytes, is_restoring, record } = look;
        let known = self.members.get(&member);
        let served = match answer.value().filter(|answer| !answer.is_replica) {
            Some(answer) => Some(Served { history: answer.history.clone(), offset: answer.offset }),
            None => known.and_then(|known| known.served.clone()),
        };
        let file_bytes = file_bytes.unwrap_or_else(|| known.map_or(0, |known| known.file_bytes));
        self.members.insert(member, StoreMemberSeen { answer, file_bytes, is_restoring, served });
        // A change of the primary that broke off is on disk all the same. A look may be older than the last that did not.
        let epoch = |record: &Seen<StoreRecord>| record.value().map(|record| record.epoch);
        if epoch(&record) > epoch(&self.record) {
            self.record = record;
        }
    }
}

/// The process of a member.
pub fn child_of(member: Member) -> ChildName {
    if member == Member::A { child("store") } else { child(&format!("store-{member}")) }
}

/// Those that run: the primary first, then as many others as the stack file asks for.
pub fn members(replicas: u32, record: &StoreRecord) -> Vec<Member> {
    let others = (0..).map_while(Member::nth).filter(|member| *member != record.primary);
    std::iter::once(record.primary).chain(others.take(replicas as usize)).collect()
}

/// The record, when somebody could read it.
pub(crate) fn record(view: &View<'_>) -> Option<StoreRecord> {
    view.observed.store.as_ref()?.record.value().copied()
}

/// The name of the process that serves.
pub(crate) fn primary(view: &View<'_>) -> ChildName {
    record(view).map_or_else(|| child("store"), |record| child_of(record.primary))
}

/// The processes that the stack wants, the primary's first.
pub(crate) fn wanted(view: &View<'_>) -> Vec<ChildName> {
    wanted_of(view.stack, view.observed.store.as_ref())
}

/// The same while nobody knows what runs.
pub(crate) fn wanted_of(stack: &Stack, seen: Option<&StoreSeen>) -> Vec<ChildName> {
    let replicas = stack.cache.as_ref().map_or(0, |cache| cache.store_replicas);
    let record = seen.and_then(|seen| seen.record.value().copied()).unwrap_or_default();
    members(replicas, &record).into_iter().map(child_of).collect()
}

/// Every process of the store that may run, for who stops them.
pub(crate) fn children() -> Vec<ChildName> {
    // Two replicas and the primary, whichever they are.
    (0..3).filter_map(Member::nth).map(child_of).collect()
}

/// Plans the store. Returns whether its primary answers, and the boxes, the primary's first.
pub(crate) fn plan(draft: &mut Draft<'_>, label: &str) -> (bool, Vec<BoxPlan>) {
    let install = draft.view.observed.missing.get(&Program::Redis).cloned();
    let Some(seen) = &draft.view.observed.store else {
        let mut shown = match install {
            Some(install) => missing(Member::A, label, &install),
            None => keep(draft, Member::A, label),
        };
        let is_ready = shown.state == State::Ready;
        store::plan(draft, &mut shown);
        return (is_ready, vec![shown]);
    };
    let Some(record) = seen.record.value().copied() else {
        let mut shown = empty(Member::A, label);
        shown.state = State::Unknown;
        shown.waiting.push(Waiting::Observation { of: "the record of the store's primary".to_owned() });
        return (false, vec![shown]);
    };
    let replicas = draft.view.stack.cache.as_ref().map_or(0, |cache| cache.store_replicas);
    let mut boxes = Vec::new();
    for member in members(replicas, &record) {
        let is_primary = member == record.primary;
        let label = if is_primary { format!("primary, {label}") } else { replica_label(seen, &record, member) };
        boxes.push(match &install {
            Some(install) => missing(member, &label, install),
            None if is_primary => serve(draft, seen, &record, &label),
            None => follow(draft, seen, member, &label),
        });
    }
    let wanted = members(replicas, &record);
    for name in (0..3).filter_map(Member::nth).filter(|member| !wanted.contains(member)).map(child_of) {
        if let Some(running) = draft.view.life(&name).runs() {
            draft.stop(&name, running, ORDERLY);
        }
    }
    let is_ready = boxes.first().is_some_and(|shown| shown.state == State::Ready);
    if let Some(shown) = boxes.first_mut() {
        store::plan(draft, shown);
    }
    (is_ready, boxes)
}

fn id(member: Member) -> BoxId {
    BoxId::Cache { name: child_of(member).to_string() }
}

fn empty(member: Member, label: &str) -> BoxPlan {
    BoxPlan { id: id(member), label: label.to_owned(), state: State::Starting, waiting: vec![], reason: None }
}

fn missing(member: Member, label: &str, install: &str) -> BoxPlan {
    not_configured(id(member), label, format!("redis-server is missing: {install}"))
}

fn replica_label(seen: &StoreSeen, record: &StoreRecord, member: Member) -> String {
    let answer = |member| seen.members.get(&member).and_then(|seen| seen.answer.value());
    match (answer(record.primary), answer(member)) {
        (Some(primary), Some(replica)) if replica.has_link && replica.history == primary.history => {
            let unwritten = if replica.is_on_disk { "" } else { ", writes its file" };
            format!("replica, {} bytes behind{unwritten}", primary.offset.saturating_sub(replica.offset))
        }
        (_, Some(replica)) if replica.has_link => "replica, takes all over".to_owned(),
        (_, Some(_)) => "replica, without its primary".to_owned(),
        (_, None) => "replica".to_owned(),
    }
}

/// Keeps a server running, in place.
fn keep(draft: &mut Draft<'_>, member: Member, label: &str) -> BoxPlan {
    let name = child_of(member);
    let look = look_of(draft.view.observed.redis.get(name.as_str()));
    let simple =
        Simple { name: name.as_str(), id: id(member), label, look, probe: "PING", is_restarted_when_hung: true };
    keep_running(draft, simple)
}

/// Keeps a replica running. One that follows nobody is ended: it could take writes beside the primary.
fn follow(draft: &mut Draft<'_>, seen: &StoreSeen, member: Member, label: &str) -> BoxPlan {
    let name = child_of(member);
    let running = draft.view.life(&name).runs();
    let answer = seen.members.get(&member).map(|seen| &seen.answer);
    if let (Some(Seen::Fact { value, observed_at }), Some(running)) = (answer, running)
        && !value.is_replica
        && *observed_at >= running.since
        && !draft.view.is_busy(&StepKey::Store)
        && !draft.view.is_outdated(*observed_at, &StepKey::Store)
    {
        let mut shown = empty(member, label);
        shown.reason = Some("follows nobody, and does not serve".to_owned());
        shown.waiting.push(draft.stop(&name, running, ORDERLY));
        return shown;
    }
    keep(draft, member, label)
}

/// Keeps the primary running, or lets another take over.
fn serve(draft: &mut Draft<'_>, seen: &StoreSeen, record: &StoreRecord, label: &str) -> BoxPlan {
    let name = child_of(record.primary);
    let life = draft.view.life(&name);
    // Nothing is begun in place of who may have a successor in this moment.
    if let Some(running) = draft.view.observed.running.get(&StepKey::Store) {
        let mut shown = empty(record.primary, label);
        shown.waiting.push(Waiting::Step { what: running.what.clone(), since: running.since });
        return shown;
    }
    // It is recorded, and the rest of its promotion was cut off.
    if let Some(Seen::Fact { value: answer, observed_at }) = seen.members.get(&record.primary).map(|seen| &seen.answer)
        && !draft.view.is_outdated(*observed_at, &StepKey::Store)
        && (answer.is_replica || answer.port != seen.port)
        && life.runs().is_some()
    {
        let step = Step::PromoteStore { to: record.primary, from: None, epoch: record.epoch };
        let mut shown = empty(record.primary, label);
        shown.reason =
            Some(if answer.is_replica { "still follows another" } else { "is not at its address" }.to_owned());
        shown.waiting.push(draft.ask_urgent(step));
        return shown;
    }
    let Life::Ended { at, .. } = life else { return keep(draft, record.primary, label) };
    if draft.view.is_child_busy(&name) {
        return keep(draft, record.primary, label);
    }
    let Some(why) = given_up(&draft.view, seen, record, life) else { return keep(draft, record.primary, label) };
    match successor(&draft.view, seen, record, at) {
        Successor::Is(to) => {
            let step = Step::PromoteStore { to, from: Some(record.primary), epoch: record.epoch + 1 };
            let waiting = draft.ask_urgent(step);
            let mut shown = empty(record.primary, label);
            shown.state = idle_state(life, &waiting);
            shown.reason = Some(format!("{}; {why}", end_reason(life).unwrap_or_default()));
            shown.waiting.push(waiting);
            shown
        }
        Successor::Later(until) => {
            draft.wake(until);
            let mut shown = empty(record.primary, label);
            shown.reason = end_reason(life);
            shown.waiting.push(Waiting::Observation { of: "the store's replicas".to_owned() });
            shown
        }
        Successor::None => keep(draft, record.primary, label),
    }
}

/// Why a primary that ended is not started again in place.
fn given_up(view: &View<'_>, seen: &StoreSeen, record: &StoreRecord, life: Life<'_>) -> Option<String> {
    let Life::Ended { child, .. } = life else { return None };
    let member = seen.members.get(&record.primary);
    // A person wants other data there: they come with its start.
    if member.is_some_and(|member| member.is_restoring) {
        return None;
    }
    if child.quick_ends >= FAILED_STARTS {
        return Some(format!("a start in place did not mend it ({} ends in a row)", child.quick_ends));
    }
    let key = StepKey::Child { name: child_of(record.primary) };
    if let Some(failed) = view.observed.failed.get(&key).filter(|failed| failed.what.starts_with("starts ")) {
        return Some(format!("it cannot be started: {}", failed.error));
    }
    let bytes = member.map_or(0, |member| member.file_bytes);
    (bytes > QUICK_TO_LOAD).then(|| format!("its file of {} takes long to load", mainstay_types::Bytes(bytes)))
}

enum Successor {
    Is(Member),
    Later(Timestamp),
    None,
}

/// The replica that is furthest, by looks from after the primary's end: nothing can come to any of them since. It has what
/// the primary had at the last look at that, so that one whose stream broke off long ago does not take its data away.
fn successor(view: &View<'_>, seen: &StoreSeen, record: &StoreRecord, ended: Timestamp) -> Successor {
    let Some(served) = seen.members.get(&record.primary).and_then(|seen| seen.served.as_ref()) else {
        return Successor::None;
    };
    let until = ended.after(LOOKED_AT_WITHIN);
    let mut best: Option<(u64, Member)> = None;
    for (member, look) in seen.members.iter().filter(|(member, _)| **member != record.primary) {
        let Some(running) = view.life(&child_of(*member)).runs() else { continue };
        match &look.answer {
            Seen::Fact { value, observed_at } if *observed_at >= ended && *observed_at >= running.since => {
                let is_further = best.is_none_or(|(offset, _)| value.offset > offset);
                if served.is_all_at(value) && is_further {
                    best = Some((value.offset, *member));
                }
            }
            Seen::Fact { .. } | Seen::Unknown if view.now < until && ended <= view.now => {
                return Successor::Later(until);
            }
            Seen::Fact { .. } | Seen::Unknown | Seen::Silent { .. } => {}
        }
    }
    best.map_or(Successor::None, |(_, member)| Successor::Is(member))
}
