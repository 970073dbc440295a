//! What no plan may do, said a second time and independently of how plans are made. Checked in simulation, in
//! property tests and at run time: a plan that breaks one is not executed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mainstay_stack::Stack;
use mainstay_stack::model::Durability;
use mainstay_types::{ChildName, InstanceId, Member, Nonce, Seen, ServiceName, Timestamp};

use crate::observed::{ChildSeen, DataDirectory, Errand, MemberSeen, Observed, Record};
use crate::plan::{Plan, Step, StepKey, Work};
use crate::schedule::{Change, Run, ScheduleRecord};

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule, as its name.
    pub rule: Rule,
    /// What breaks it.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.what)
    }
}

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Two steps with one key, or one whose key is running.
    OneStepPerKey,
    /// A step planned without knowing what runs, or a destructive one from `Unknown`.
    NothingFromUnknown,
    /// A child started that runs.
    NoDuplicates,
    /// A promotion that is not of the recorded candidate, or without proof that the recorded primary is dead.
    ProofBeforePromote,
    /// The router led to somebody who is not the recorded primary.
    RecordBeforeRouter,
    /// A primary started, or recorded, while another may take writes.
    OneWritablePrimary,
    /// A candidate that not every acknowledged commit waited for.
    CandidatesAreSynchronous,
    /// Confirmations given up while the record relies on them, or at all in `strict`.
    RecordBeforeUnblock,
    /// The epoch goes back, or stays while the primary changes.
    EpochRises,
    /// Data that may be needed is replaced.
    DataIsKept,
    /// An endpoint that does not run, or is ready without a good answer of its start.
    EndpointsRun,
    /// A release becomes live, or goes, only when no instance of the other is left.
    OneReleaseServes,
    /// A run of a schedule that is not on disk before it starts, or is started beside another or twice.
    OneRunAtATime,
    /// Something stopped that others still use, or ended before all is stopped.
    StopInOrder,
    /// A member with damaged pages chosen where a whole one is, or reads led to it.
    DamagedStaysBehind,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OneStepPerKey => "one step per key",
            Self::NothingFromUnknown => "nothing from what is unknown",
            Self::NoDuplicates => "no process twice",
            Self::ProofBeforePromote => "proof of death before a promotion",
            Self::RecordBeforeRouter => "the record before the router",
            Self::OneWritablePrimary => "at most one writable primary",
            Self::CandidatesAreSynchronous => "candidates are synchronous",
            Self::RecordBeforeUnblock => "the record before commits stop waiting",
            Self::EpochRises => "the epoch rises with each change of primary",
            Self::DataIsKept => "data is kept",
            Self::EndpointsRun => "endpoints run and answered",
            Self::OneReleaseServes => "one release takes the place of the other",
            Self::OneRunAtATime => "one run at a time, on disk first",
            Self::StopInOrder => "the end has an order",
            Self::DamagedStaysBehind => "a member with damaged pages stays behind",
        })
    }
}

/// All rules that the plan breaks.
pub fn check(stack: &Stack, observed: &Observed, plan: &Plan) -> Vec<Violation> {
    let mut found = Found(Vec::new());
    keys(observed, plan, &mut found);
    let Seen::Fact { value: children, .. } = &observed.children else {
        for step in &plan.steps {
            found.add(Rule::NothingFromUnknown, format!("{step} without keep's children"));
        }
        return found.0;
    };
    let facts = Facts { stack, observed, children };
    for step in &plan.steps {
        facts.step(step, &mut found);
    }
    facts.endpoints(plan, &mut found);
    found.0
}

struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, rule: Rule, what: String) {
        self.0.push(Violation { rule, what });
    }

    fn unless(&mut self, holds: bool, rule: Rule, what: impl FnOnce() -> String) {
        if !holds {
            self.add(rule, what());
        }
    }
}

fn keys(observed: &Observed, plan: &Plan, found: &mut Found) {
    let mut keys = BTreeSet::new();
    for step in &plan.steps {
        let is_free = keys.insert(step.key()) && !observed.running.contains_key(&step.key());
        found.unless(is_free, Rule::OneStepPerKey, || format!("{step} beside another step on {:?}", step.key()));
    }
}

struct Facts<'a> {
    stack: &'a Stack,
    observed: &'a Observed,
    children: &'a BTreeMap<ChildName, ChildSeen>,
}

impl Facts<'_> {
    fn step(&self, step: &Step, found: &mut Found) {
        match step {
            Step::InitPrimary { member } => self.init(*member, found),
            Step::Clone { member, from } => self.clone_(*member, *from, found),
            Step::Rewind { member, from } => self.rewind(*member, *from, found),
            Step::Follow { member, primary } => self.follow(*member, *primary, found),
            Step::StartPostgres { member, follow } => self.start_postgres(*member, *follow, found),
            Step::Fence { member } => self.fence(*member, found),
            Step::Promote { member } => self.promote(*member, found),
            Step::WriteRecord { record } => self.write(record, found),
            Step::SetSynchronous { primary, standbys } => self.synchronous(*primary, standbys, found),
            Step::PointRouter { epoch, write, read } => {
                self.route(*epoch, *write, found);
                let damaged = read.iter().find(|member| self.is_damaged(**member));
                found.unless(damaged.is_none(), Rule::DamagedStaysBehind, || {
                    format!("leads reads to {damaged:?}, which met damaged pages")
                });
            }
            Step::SwapIn { primary, .. } => self.swap_in(*primary, found),
            Step::Checkpoint { primary } => {
                let is_it = self.record().is_some_and(|record| record.primary == *primary);
                found.unless(is_it, Rule::NothingFromUnknown, || format!("{step}, which is not the recorded primary"));
            }
            Step::PrepareDatabase { primary }
            | Step::Migrate { primary }
            | Step::ReleaseWork { work: Work::Migrate { primary }, .. } => {
                let is_it = self.record().is_some_and(|record| record.primary == *primary);
                found.unless(is_it, Rule::RecordBeforeRouter, || {
                    format!("{step} at one who is not the recorded primary")
                });
            }
            Step::RunBefore { .. } | Step::ReleaseWork { work: Work::Before | Work::Smoke, .. } => {}
            Step::WriteRollout { .. } | Step::CommitRelease { .. } | Step::EndRollout { .. } => {
                self.release(step, found)
            }
            Step::WriteSchedule { service, record, change } => self.write_schedule(service, record, change, found),
            Step::StartRun { service, run } => self.start_run(service, run, found),
            Step::StartBackupJob { .. } => {
                let seen = self.observed.backups.value().is_some();
                found.unless(seen, Rule::NothingFromUnknown, || format!("{step} without a look at what there is"));
                self.start(&crate::backups::child(), found);
            }
            Step::StartStoreCopy => {
                let seen = self.observed.store_copies.value().is_some();
                found.unless(seen, Rule::NothingFromUnknown, || format!("{step} without a look at what there is"));
                self.start(&crate::store::child(), found);
            }
            Step::PromoteStore { to, from, epoch } => self.promote_store(*to, *from, *epoch, found),
            Step::StartChild { name } => self.start(name, found),
            Step::StartInstance { id } | Step::StartNew { id, .. } => self.start(&ChildName::instance(id), found),
            Step::Stop { name, nonce, .. } => self.stop(name, nonce, found),
            Step::Finish => {
                let left = self.children.iter().find(|(name, child)| child.ended.is_none() && !is_control(name));
                found.unless(left.is_none() && self.observed.is_stopping, Rule::StopInOrder, || {
                    format!("ends while {} runs", left.map_or("the stack", |(name, _)| name.as_str()))
                });
            }
        }
    }

    fn record(&self) -> Option<&Record> {
        self.observed.database.as_ref()?.record.value()?.as_ref()
    }

    fn is_damaged(&self, member: Member) -> bool {
        self.observed.database.as_ref().is_some_and(|seen| seen.damages.of.contains_key(&member))
    }

    fn is_record_known(&self) -> bool {
        self.observed.database.as_ref().is_some_and(|seen| seen.record.value().is_some())
    }

    fn member(&self, member: Member) -> Option<&MemberSeen> {
        self.observed.database.as_ref()?.members.get(&member)
    }

    fn runs(&self, member: Member) -> Option<&ChildSeen> {
        self.children.get(&ChildName::postgres(member)).filter(|child| child.ended.is_none())
    }

    /// Looked at after its end, and no step on it is open or failed since.
    fn is_proven_dead(&self, member: Member) -> bool {
        let name = ChildName::postgres(member);
        let ended_at = match self.children.get(&name) {
            None => None,
            Some(ChildSeen { ended: None, .. }) => return false,
            Some(ChildSeen { ended: Some((_, at)), .. }) => Some(*at),
        };
        let key = StepKey::Child { name };
        let failed_at = self.observed.failed.get(&key).map(|failed| failed.at);
        let after: Option<Timestamp> = ended_at.max(failed_at);
        !self.observed.running.contains_key(&key)
            && matches!(self.member(member).map(|seen| &seen.is_alive), Some(Seen::Fact { value: false, observed_at })
                if after.is_none_or(|after| *observed_at >= after))
    }

    fn is_writable(&self, member: Member) -> bool {
        let answer = self.member(member).and_then(|seen| seen.answer.value());
        self.runs(member).is_some() && answer.is_some_and(|answer| !answer.is_in_recovery)
    }

    fn start(&self, name: &ChildName, found: &mut Found) {
        let runs = self.children.get(name).is_some_and(|child| child.ended.is_none());
        found.unless(!runs, Rule::NoDuplicates, || format!("starts {name}, which runs"));
        found.unless(!self.observed.is_stopping, Rule::StopInOrder, || format!("starts {name} while going down"));
    }

    /// Nobody else may take writes, and nobody is made the store from what was not seen.
    fn promote_store(&self, to: Member, from: Option<Member>, epoch: u64, found: &mut Found) {
        let runs = |member| {
            let name = crate::replicas::child_of(member);
            self.children.get(&name).is_some_and(|child| child.ended.is_none())
        };
        let record = self.observed.store.as_ref().and_then(|seen| seen.record.value());
        let name = crate::replicas::child_of(to);
        let Some(record) = record else {
            found.add(Rule::NothingFromUnknown, format!("makes {name} the store without a record"));
            return;
        };
        found.unless(runs(to), Rule::NothingFromUnknown, || format!("makes {name} the store, which does not run"));
        match from {
            Some(from) => {
                let is_it = from == record.primary && from != to;
                found.unless(is_it, Rule::OneWritablePrimary, || {
                    format!("takes the store from store {from}, which is not recorded")
                });
                found.unless(!runs(from), Rule::ProofBeforePromote, || {
                    format!("makes {name} the store while store {from} runs")
                });
                let members = self.observed.store.as_ref().map(|seen| &seen.members);
                let look = |member| members.and_then(|members| members.get(&member));
                let served = look(from).and_then(|seen| seen.served.as_ref());
                let is_whole = served.is_some_and(|served| {
                    look(to).and_then(|seen| seen.answer.value()).is_some_and(|answer| served.is_all_at(answer))
                });
                found.unless(is_whole, Rule::NothingFromUnknown, || {
                    format!("makes {name} the store, which was not seen to have what store {from} had, on disk")
                });
                found.unless(epoch == record.epoch + 1, Rule::EpochRises, || {
                    format!("epoch {epoch} after {}", record.epoch)
                });
            }
            None => {
                let is_it = to == record.primary && epoch == record.epoch;
                found.unless(is_it, Rule::OneWritablePrimary, || format!("finishes {name}, which is not recorded"));
            }
        }
    }

    fn init(&self, member: Member, found: &mut Found) {
        let data = self.member(member).map(|seen| seen.data);
        let is_empty = matches!(data, Some(DataDirectory::Absent | DataDirectory::Unfinished));
        found.unless(is_empty, Rule::DataIsKept, || format!("makes a cluster in postgres-{member} over {data:?}"));
        let is_first = self.is_record_known() && self.record().is_none();
        found.unless(is_first, Rule::NothingFromUnknown, || "makes a cluster although one may be recorded".to_owned());
        self.start(&ChildName::postgres(member), found);
    }

    fn clone_(&self, member: Member, from: Member, found: &mut Found) {
        self.start(&ChildName::postgres(member), found);
        let Some(record) = self.record() else {
            return found.add(Rule::NothingFromUnknown, format!("clones postgres-{member} without a record"));
        };
        found.unless(member != record.primary && record.promoting != Some(member), Rule::DataIsKept, || {
            format!("replaces the data of the recorded primary postgres-{member}")
        });
        found.unless(!record.candidates.contains(&member), Rule::DataIsKept, || {
            format!("replaces the data of the candidate postgres-{member}")
        });
        found.unless(from == record.primary && self.is_writable(from), Rule::RecordBeforeRouter, || {
            format!("clones postgres-{from}, which is not the recorded primary at work")
        });
        match self.member(member).map(|seen| seen.data) {
            Some(DataDirectory::Absent | DataDirectory::Unfinished) => {}
            Some(DataDirectory::Complete) => {
                found.unless(self.is_proven_dead(member), Rule::DataIsKept, || {
                    format!("replaces the data of postgres-{member}, which may live")
                });
            }
            Some(DataDirectory::Foreign | DataDirectory::Unknown) | None => {
                found.add(Rule::NothingFromUnknown, format!("clones over a directory of postgres-{member} not known"));
            }
        }
    }

    /// What a clone may replace a rewind may change, but only of a former primary, whole and dead; and never where its
    /// log may hold what was acknowledged and is nowhere else.
    fn rewind(&self, member: Member, from: Member, found: &mut Found) {
        self.clone_(member, from, found);
        let seen = self.member(member);
        let was_primary = seen.is_some_and(|seen| seen.has_standby_signal == Some(false));
        let is_whole = seen.is_some_and(|seen| seen.data == DataDirectory::Complete);
        let is_fast = self.stack.database.as_ref().is_none_or(|database| database.durability == Durability::Fast);
        let is_allowed = was_primary
            && is_whole
            && !is_fast
            && self.is_proven_dead(member)
            && !self.is_damaged(member)
            && !self.is_damaged(from);
        found.unless(is_allowed, Rule::DataIsKept, || {
            format!("rewinds postgres-{member}, which is no former primary that may be")
        });
    }

    fn follow(&self, member: Member, primary: Member, found: &mut Found) {
        let is_recorded = self
            .record()
            .is_some_and(|record| record.primary == primary && record.promoting.is_none() && member != primary);
        found.unless(is_recorded, Rule::RecordBeforeRouter, || {
            format!("lets postgres-{member} follow postgres-{primary}, which is not the recorded primary")
        });
        found.unless(self.runs(member).is_some(), Rule::NothingFromUnknown, || {
            format!("lets postgres-{member} follow, which does not run")
        });
    }

    fn start_postgres(&self, member: Member, follow: Option<Member>, found: &mut Found) {
        self.start(&ChildName::postgres(member), found);
        found.unless(self.is_record_known(), Rule::NothingFromUnknown, || {
            format!("starts postgres-{member} without knowing the record")
        });
        if follow.is_some() {
            let seen = self.member(member);
            let was_primary = seen.is_some_and(|seen| seen.has_standby_signal == Some(false));
            let is_prefix = seen.and_then(|seen| seen.control).zip(self.record()).is_some_and(|(control, record)| {
                control.is_shut_down
                    && control.timeline.0 + 1 == record.timeline.0
                    && control.checkpoint < record.lsn
                    && self.is_proven_dead(member)
            });
            return found.unless(!was_primary || is_prefix, Rule::DataIsKept, || {
                format!("lets postgres-{member} follow, which may hold what the primary does not")
            });
        }
        let is_allowed = match self.record() {
            None => member == Member::A,
            Some(record) => match record.promoting {
                None => record.primary == member,
                Some(promoting) => {
                    promoting == member && (self.is_proven_dead(record.primary) || self.observed.is_fencing_sabotaged)
                }
            },
        };
        found.unless(is_allowed, Rule::OneWritablePrimary, || {
            format!("starts postgres-{member} as primary, which is not the record's")
        });
    }

    fn fence(&self, member: Member, found: &mut Found) {
        let runs = self.runs(member);
        let Some(seen) = self.member(member) else {
            return found.add(Rule::NothingFromUnknown, format!("fences postgres-{member}, which nobody looked at"));
        };
        let is_going_over = self.record().is_some_and(|record| record.promoting.is_some() && record.primary == member);
        let is_silent = matches!(seen.answer, Seen::Silent { .. });
        let is_second = self.is_writable(member) && self.record().is_some_and(|record| record.primary != member);
        let is_standby = self.record().is_some_and(|record| record.primary != member);
        let is_without_data = is_standby && matches!(seen.data, DataDirectory::Absent | DataDirectory::Unfinished);
        let is_bad = is_going_over || is_silent || is_second || is_without_data || self.is_failover_asked(member);
        found.unless(runs.is_none() || is_bad, Rule::NothingFromUnknown, || {
            format!("kills postgres-{member}, which runs and about which nothing bad is known")
        });
    }

    /// A person gave this primary up.
    fn is_failover_asked(&self, member: Member) -> bool {
        let Some((wish, record)) = self.observed.wish.as_ref().zip(self.record()) else { return false };
        matches!(wish.errand, Errand::Failover { .. }) && wish.epoch == record.epoch && record.primary == member
    }

    /// A person wants another primary, and nobody has anything under way at this one or a person said that it may
    /// be ended.
    fn is_switchover_ready(&self) -> bool {
        let Some((wish, record)) = self.observed.wish.as_ref().zip(self.record()) else { return false };
        let Errand::Switchover { to, is_forced, .. } = wish.errand else { return false };
        let is_held = match &self.observed.router {
            Seen::Fact { value: router, .. } => {
                let is_empty = router.leaving.as_ref().is_some_and(|leaving| !leaving.contains_key(&record.primary));
                router.write.is_none() && router.epoch == record.epoch && (is_empty || is_forced)
            }
            Seen::Unknown | Seen::Silent { .. } => false,
        };
        is_held && wish.epoch == record.epoch && record.promoting.is_none() && record.candidates.contains(&to)
    }

    /// A person wants the past in place of the present: nobody is led there any more, and nobody may take over.
    fn is_restore_ready(&self) -> bool {
        let Some((wish, record)) = self.observed.wish.as_ref().zip(self.record()) else { return false };
        let router = self.children.iter().find(|(name, _)| name.as_str() == "router");
        let is_gone = router.is_none_or(|(_, child)| child.ended.is_some());
        // Where one that says nothing leads sessions nobody knows.
        let is_led_away = is_gone || self.observed.router.value().is_some_and(|router| router.write.is_none());
        let is_asked = matches!(wish.errand, Errand::Restore { .. }) && wish.epoch == record.epoch;
        is_asked && is_led_away && record.promoting.is_none() && record.candidates.is_empty()
    }

    fn swap_in(&self, primary: Member, found: &mut Found) {
        let is_it = self.record().is_some_and(|record| record.primary == primary);
        found.unless(is_it && self.is_restore_ready(), Rule::DataIsKept, || {
            format!("replaces the data of postgres-{primary}, and nobody asked for it")
        });
        let members = self.observed.database.iter().flat_map(|seen| &seen.members);
        for (member, seen) in members.filter(|(_, seen)| seen.data != DataDirectory::Absent) {
            let is_dead = self.runs(*member).is_none() && matches!(seen.is_alive, Seen::Fact { value: false, .. });
            found.unless(is_dead, Rule::DataIsKept, || format!("replaces data while postgres-{member} may live"));
        }
    }

    fn promote(&self, member: Member, found: &mut Found) {
        let Some(record) = self.record() else {
            return found.add(Rule::ProofBeforePromote, format!("promotes postgres-{member} without a record"));
        };
        if record.primary == member && record.promoting.is_none() {
            return;
        }
        found.unless(record.promoting == Some(member), Rule::ProofBeforePromote, || {
            format!("promotes postgres-{member}, which is not recorded as to be promoted")
        });
        found.unless(
            self.is_proven_dead(record.primary) || self.observed.is_fencing_sabotaged,
            Rule::ProofBeforePromote,
            || format!("promotes postgres-{member} without proof that postgres-{} is dead", record.primary),
        );
    }

    fn write(&self, new: &Record, found: &mut Found) {
        let Some(old) = self.record() else {
            let is_first = self.is_record_known() && new.epoch == 1 && new.primary == Member::A;
            found.unless(is_first, Rule::EpochRises, || "a first record that is not epoch 1 of postgres-a".to_owned());
            found.unless(self.is_writable(new.primary), Rule::OneWritablePrimary, || {
                format!("records postgres-{} as primary, which does not take writes", new.primary)
            });
            return found.unless(
                new.candidates.is_empty() && new.promoting.is_none(),
                Rule::CandidatesAreSynchronous,
                || "a first record with candidates".to_owned(),
            );
        };
        if new.primary == old.primary {
            found.unless(new.epoch == old.epoch, Rule::EpochRises, || {
                format!("epoch {} follows {} without a change of primary", new.epoch, old.epoch)
            });
            self.write_same(old, new, found);
        } else {
            found.unless(new.epoch == old.epoch + 1, Rule::EpochRises, || {
                format!("epoch {} follows {} with a change of primary", new.epoch, old.epoch)
            });
            self.write_change(old, new, found);
        }
    }

    fn write_same(&self, old: &Record, new: &Record, found: &mut Found) {
        if let Some(promoting) = new.promoting.filter(|_| old.promoting != new.promoting) {
            found.unless(
                old.promoting.is_none() && old.candidates.contains(&promoting),
                Rule::ProofBeforePromote,
                || format!("chooses postgres-{promoting}, which is no candidate"),
            );
            let is_final = old.candidates.len() < 2
                || self.observed.is_fencing_sabotaged
                || self.is_proven_dead(old.primary) && self.is_latest(old, promoting);
            found.unless(is_final, Rule::ProofBeforePromote, || {
                format!("chooses postgres-{promoting} among several before their positions are final")
            });
            // One that ends again and again is no better copy.
            let ends = self.children.get(&ChildName::postgres(old.primary)).map_or(0, |child| child.quick_ends);
            let is_primary_better = !self.is_damaged(old.primary)
                && ends <= 1
                && self.member(old.primary).is_some_and(|seen| seen.data == DataDirectory::Complete);
            found.unless(!(self.is_damaged(promoting) && is_primary_better), Rule::DamagedStaysBehind, || {
                format!(
                    "chooses postgres-{promoting}, which met damaged pages, where postgres-{} met none",
                    old.primary
                )
            });
        }
        if old.promoting.is_some() && new.promoting.is_none() {
            let is_safe = self.is_proven_dead(old.primary) || self.observed.is_fencing_sabotaged;
            found.unless(new.candidates.is_empty() && is_safe, Rule::OneWritablePrimary, || {
                "gives up a promotion that may have happened".to_owned()
            });
        }
        if new.promoting.is_some() {
            return found.unless(new.candidates == old.candidates, Rule::CandidatesAreSynchronous, || {
                "changes candidates during a failover".to_owned()
            });
        }
        let added: Vec<Member> = new.candidates.iter().copied().filter(|m| !old.candidates.contains(m)).collect();
        if !added.is_empty() {
            self.candidates(new, &added, found);
        }
    }

    /// Of what the candidates said since the old primary's death, this one has the most.
    fn is_latest(&self, old: &Record, chosen: Member) -> bool {
        let Some(Seen::Fact { observed_at: proven, .. }) = self.member(old.primary).map(|seen| &seen.is_alive) else {
            return false;
        };
        let position = |member: Member| match self.member(member).map(|seen| &seen.answer) {
            Some(Seen::Fact { value, observed_at }) if observed_at >= proven => Some(value.lsn),
            Some(Seen::Fact { .. } | Seen::Unknown | Seen::Silent { .. }) | None => None,
        };
        let is_fast = self.stack.database.as_ref().is_some_and(|database| database.durability == Durability::Fast);
        position(chosen).is_some_and(|chosen| {
            old.candidates.iter().all(|member| position(*member).map_or(is_fast, |lsn| lsn <= chosen))
        })
    }

    fn candidates(&self, new: &Record, added: &[Member], found: &mut Found) {
        let durability = self.stack.database.as_ref().map(|database| database.durability);
        let answer = self.member(new.primary).and_then(|seen| seen.answer.value());
        let memory = self.observed.database.as_ref().and_then(|seen| seen.memory.get(&new.primary));
        for member in added {
            let holds = answer.is_some_and(|answer| {
                let from = match memory.and_then(|memory| memory.synchronous.as_ref()) {
                    Some((named, from)) if *named == answer.synchronous => *from,
                    Some(_) | None => answer.lsn,
                };
                let flushed = answer.standbys.get(member);
                let is_named = answer.synchronous.contains(member)
                    // A commit waits for any one of the named: each of them must be a candidate.
                    && answer.synchronous.iter().all(|named| new.candidates.contains(named));
                durability == Some(Durability::Fast) && flushed.is_some()
                    || is_named && flushed.is_some_and(|flushed| *flushed >= from)
            });
            found.unless(holds, Rule::CandidatesAreSynchronous, || {
                format!("makes postgres-{member} a candidate, for which commits did not wait")
            });
        }
    }

    fn write_change(&self, old: &Record, new: &Record, found: &mut Found) {
        let is_safe = self.is_proven_dead(old.primary) || self.observed.is_fencing_sabotaged;
        found.unless(is_safe, Rule::OneWritablePrimary, || {
            format!("records postgres-{} while postgres-{} may take writes", new.primary, old.primary)
        });
        let is_promoted = old.promoting == Some(new.primary) && self.is_writable(new.primary);
        found.unless(is_promoted, Rule::ProofBeforePromote, || {
            format!("records postgres-{}, which was not promoted", new.primary)
        });
        found.unless(new.candidates.is_empty() && new.promoting.is_none(), Rule::CandidatesAreSynchronous, || {
            "a new primary with candidates that it does not know yet".to_owned()
        });
    }

    fn synchronous(&self, primary: Member, standbys: &[Member], found: &mut Found) {
        let Some(record) = self.record() else {
            return found.add(Rule::RecordBeforeUnblock, "sets confirmations without a record".to_owned());
        };
        found.unless(record.primary == primary, Rule::RecordBeforeRouter, || {
            format!("sets confirmations at postgres-{primary}, which is not the recorded primary")
        });
        let durability = self.stack.database.as_ref().map(|database| database.durability);
        if durability == Some(Durability::Fast) {
            return;
        }
        found.unless(record.candidates.is_empty(), Rule::RecordBeforeUnblock, || {
            "changes whom commits wait for while the record relies on them".to_owned()
        });
        found.unless(!standbys.is_empty() || durability != Some(Durability::Strict), Rule::RecordBeforeUnblock, || {
            "makes commits asynchronous in a strict stack".to_owned()
        });
    }

    fn route(&self, epoch: u64, write: Option<Member>, found: &mut Found) {
        let Some(record) = self.record() else {
            return found.add(Rule::RecordBeforeRouter, "leads sessions somewhere without a record".to_owned());
        };
        let is_recorded = epoch == record.epoch && write.is_none_or(|member| member == record.primary);
        found.unless(is_recorded, Rule::RecordBeforeRouter, || {
            format!("leads sessions to {write:?} in epoch {epoch}, the record says otherwise")
        });
        found.unless(write.is_none() || record.promoting.is_none(), Rule::OneWritablePrimary, || {
            "leads sessions to a primary that is being replaced".to_owned()
        });
    }

    fn stop(&self, name: &ChildName, nonce: &Nonce, found: &mut Found) {
        let child = self.children.get(name);
        found.unless(child.is_some_and(|child| child.nonce == *nonce), Rule::NothingFromUnknown, || {
            format!("stops a start of {name} that is not the present one")
        });
        let primary = self.record().map(|record| ChildName::postgres(record.primary));
        if primary.as_ref() != Some(name) {
            return self.stop_standby(name, found);
        }
        if (self.is_switchover_ready() || self.is_restore_ready()) && !self.observed.is_stopping {
            return;
        }
        let user = self.children.iter().find(|(other, child)| {
            child.ended.is_none() && *other != name && !is_control(other) && !is_telemetry(other)
        });
        found.unless(user.is_none() && self.observed.is_stopping, Rule::StopInOrder, || {
            format!("stops the primary while {} runs", user.map_or("the stack", |(other, _)| other.as_str()))
        });
    }

    /// A standby is stopped while the stack works only when no candidate is lost by it, but for `strict`, where
    /// commits wait until it is back.
    fn stop_standby(&self, name: &ChildName, found: &mut Found) {
        let durability = self.stack.database.as_ref().map(|database| database.durability);
        let candidate = self.record().into_iter().flat_map(|record| &record.candidates);
        let is_candidate = candidate.copied().any(|member| ChildName::postgres(member) == *name);
        let is_allowed = !is_candidate || self.observed.is_stopping || durability != Some(Durability::Balanced);
        found.unless(is_allowed, Rule::RecordBeforeUnblock, || {
            format!("stops {name}, for which commits wait and which the record relies on")
        });
    }

    fn write_schedule(&self, service: &ServiceName, new: &ScheduleRecord, change: &Change, found: &mut Found) {
        let old = self.observed.schedules.get(service).and_then(|seen| seen.record.as_ref());
        let name = ChildName::run(service);
        let runs = self.children.get(&name).filter(|child| child.ended.is_none());
        let open = old.and_then(|old| old.run.as_ref());
        let is_kept = match change {
            Change::First | Change::PassedOver { .. } => new.run.as_ref() == open,
            Change::Begun { .. } => open.is_none() && runs.is_none() && new.run.is_some() && !self.observed.is_stopping,
            Change::Ended => {
                let is_over = |run: &Run| runs.is_none_or(|child| child.nonce != run.nonce);
                open.is_some_and(is_over) && new.run.is_none()
            }
        };
        found.unless(is_kept, Rule::OneRunAtATime, || format!("{name}: {change:?} while {open:?} is open"));
        let is_back = old.is_some_and(|old| new.decided < old.decided);
        found.unless(!is_back || *change == Change::First, Rule::OneRunAtATime, || {
            format!("{name}: times that were decided upon would come again")
        });
        let is_used = |nonce: &Nonce| self.children.get(&name).is_some_and(|child| child.nonce == *nonce);
        let is_again =
            matches!(change, Change::Begun { .. }) && new.run.as_ref().is_some_and(|run| is_used(&run.nonce));
        found.unless(!is_again, Rule::OneRunAtATime, || format!("{name}: a new run with the identity of the last"));
    }

    fn start_run(&self, service: &ServiceName, run: &Run, found: &mut Found) {
        let name = ChildName::run(service);
        self.start(&name, found);
        let record = self.observed.schedules.get(service).and_then(|seen| seen.record.as_ref());
        let is_recorded = record.and_then(|record| record.run.as_ref()) == Some(run);
        found.unless(is_recorded, Rule::OneRunAtATime, || format!("starts {name}, which is not on disk"));
        let is_known = self.children.get(&name).is_some_and(|child| child.nonce == run.nonce);
        found.unless(!is_known, Rule::OneRunAtATime, || format!("starts {name} a second time"));
    }

    /// A release becomes live only with its own instances ready and none of the old one's left.
    fn release(&self, step: &Step, found: &mut Found) {
        let Some(seen) = &self.observed.rollout else {
            return found.add(Rule::OneReleaseServes, format!("{step} without a rollout"));
        };
        let runs =
            |id: &InstanceId| self.children.get(&ChildName::instance(id)).is_some_and(|child| child.ended.is_none());
        let fleet = &seen.record.fleet;
        if matches!(step, Step::CommitRelease { .. }) {
            let services = self.stack.services.iter();
            let mut old = services.flat_map(|(name, service)| self.observed.fleet.most(name, service));
            let left = old.find(|id| runs(id) && !fleet.owns(id));
            found.unless(left.is_none(), Rule::OneReleaseServes, || format!("{step} while {left:?} runs"));
        }
        if matches!(step, Step::EndRollout { .. }) {
            let services = seen.stack.services.iter();
            let mut new = services.flat_map(|(name, service)| fleet.most(name, service));
            let left = new.find(|id| runs(id) && fleet.owns(id));
            found.unless(left.is_none(), Rule::OneReleaseServes, || format!("{step} while {left:?} runs"));
        }
    }

    fn endpoints(&self, plan: &Plan, found: &mut Found) {
        for endpoint in plan.endpoints.values().flatten() {
            let id: &InstanceId = &endpoint.instance;
            let child = self.children.get(&ChildName::instance(id));
            let runs = child.is_some_and(|child| child.ended.is_none() && child.nonce == endpoint.nonce);
            found.unless(runs, Rule::EndpointsRun, || format!("{id} is an endpoint and does not run"));
            let is_judged = self.observed.health.get(id).is_some_and(|health| {
                health.nonce == endpoint.nonce && health.health == crate::observed::Health::Ready
            });
            found.unless(!endpoint.is_ready || is_judged, Rule::EndpointsRun, || {
                format!("{id} is a ready endpoint without a good answer of this start")
            });
            let is_stopped =
                plan.steps.iter().any(|step| matches!(step, Step::Stop { nonce, .. } if *nonce == endpoint.nonce));
            found.unless(!endpoint.is_ready || !is_stopped, Rule::EndpointsRun, || {
                format!("{id} is stopped while it takes new requests")
            });
        }
    }
}

fn is_control(name: &ChildName) -> bool {
    matches!(name.as_str(), "control" | "keep")
}

fn is_telemetry(name: &ChildName) -> bool {
    matches!(name.as_str(), "prometheus" | "alertmanager")
}
