//! Killing everything that belongs to a start.
//!
//! A process belongs to it when it is its main process, in its cgroup, in its session, carries its nonce,
//! holds its lock, or descends from one that does. Each of these can be escaped; all of them together can
//! not be by accident.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mainstay_types::{Nonce, Pid};
use rustix::process::Signal;

use super::Keep;
use crate::cgroup::Group;
use crate::proc::{self, Stat};
use crate::protocol::{Answer, Refusal};
use crate::record::Record;

/// Time between two passes: a killed process needs about this long to be gone.
const PASS: Duration = Duration::from_millis(5);
/// How long leftovers may take before a new start is refused; keep serves nobody meanwhile.
const LEFTOVERS_WITHIN: Duration = Duration::from_millis(500);
/// Longest deadline that a client may set.
const LONGEST: Duration = Duration::from_secs(600);

/// What is to be killed.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) nonce: Nonce,
    main: Option<(Pid, u64)>,
    group: Group,
    lock: PathBuf,
    is_held: bool,
}

/// A kill under way.
pub(super) struct Kill {
    client: u64,
    request: u64,
    nonce: Nonce,
    deadline: Instant,
    pub(super) next_pass: Instant,
}

/// Process ids, for people.
pub(super) fn list(pids: &BTreeSet<Pid>) -> String {
    pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Target {
    fn is_in_session(&self, all: &std::collections::BTreeMap<Pid, Stat>, stat: &Stat) -> bool {
        // A session's id is not given anew while the session has members; but the leader's id could have
        // gone to a stranger after all of ours were gone.
        self.main.is_some_and(|(main, start)| {
            stat.session == main
                && stat.start_time >= start
                && all.get(&main).is_none_or(|leader| leader.start_time == start)
        })
    }

    /// All living processes that belong to the start.
    pub(super) fn find(&self, me: Pid) -> BTreeSet<Pid> {
        let all = proc::all();
        let members = self.group.members();
        let belongs = |pid: Pid, stat: &Stat| {
            self.main == Some((pid, stat.start_time))
                || members.contains(&pid)
                || self.is_in_session(&all, stat)
                || proc::is_nonce(pid, &self.nonce)
                || (self.is_held && proc::has_open(pid, &self.lock))
        };
        // keep, init and kernel threads are nobody's descendants.
        let is_taboo = |pid: Pid| pid == me || pid.0 <= 1;
        let mut others = all.clone();
        others.retain(|pid, _| !is_taboo(*pid));
        let found = others.iter().filter(|(pid, stat)| belongs(**pid, stat)).map(|(pid, _)| *pid).collect();
        let mut found = proc::descendants(&others, found);
        found.retain(|pid| others.get(pid).is_some_and(Stat::is_alive));
        found
    }

    /// Removes its cgroup; what still holds a process stays and is tried again later.
    pub(super) fn remove_group(&self) {
        self.group.remove();
    }

    /// One pass: finds and kills; answers who was found alive.
    fn pass(&self, me: Pid) -> BTreeSet<Pid> {
        let found = self.find(me);
        if found.is_empty() {
            return found;
        }
        self.group.kill();
        for pid in &found {
            // Between the look and the kill an id could change hands: the handle is opened first, then
            // the owner looked at again.
            let start = proc::stat(*pid).map(|stat| stat.start_time);
            if let Ok(pidfd) = super::children::open_pidfd(*pid)
                && start.is_some()
                && proc::stat(*pid).map(|stat| stat.start_time) == start
            {
                rustix::process::pidfd_send_signal(&pidfd, Signal::KILL).ok();
            }
        }
        found
    }

    /// Kills in place, for leftovers that are few; answers who survived.
    pub(super) fn kill_within(&self, me: Pid) -> BTreeSet<Pid> {
        let deadline = Instant::now() + LEFTOVERS_WITHIN;
        loop {
            let found = self.pass(me);
            if found.is_empty() || Instant::now() >= deadline {
                return found;
            }
            std::thread::sleep(PASS);
        }
    }
}

impl Keep {
    /// What belongs to a start.
    pub(super) fn target(&self, record: &Record) -> Target {
        // Ids of an earlier boot mean nothing.
        let is_this_boot = record.boot == self.boot;
        Target {
            nonce: record.nonce.clone(),
            main: record.pid.zip(record.start_time).filter(|_| is_this_boot),
            group: record.group.clone(),
            lock: self.records.lock_path(&record.nonce),
            is_held: self.records.is_held(&record.nonce),
        }
    }

    fn target_of(&self, nonce: &Nonce) -> Target {
        let known = self.children.values().find(|entry| entry.record.nonce == *nonce);
        known.map(|entry| self.target(&entry.record)).unwrap_or_else(|| Target {
            nonce: nonce.clone(),
            main: None,
            group: Group::default(),
            lock: self.records.lock_path(nonce),
            is_held: self.records.is_held(nonce),
        })
    }

    /// Begins to kill a tree; the answer comes when it is gone.
    pub(super) fn begin_kill(&mut self, client: u64, request: u64, nonce: Nonce, within: Duration) {
        let now = Instant::now();
        self.kills.push(Kill { client, request, nonce, deadline: now + within.min(LONGEST), next_pass: now });
    }

    /// One pass for each kill under way.
    pub(super) fn go_on_killing(&mut self) {
        if self.kills.is_empty() {
            return;
        }
        for mut kill in std::mem::take(&mut self.kills) {
            if Instant::now() < kill.next_pass {
                self.kills.push(kill);
                continue;
            }
            if let Some(entry) = self.running(&kill.nonce) {
                entry.was_killed = true;
            }
            let target = self.target_of(&kill.nonce);
            let left = target.pass(self.me);
            self.reap();
            self.look_at_adopted();
            if left.is_empty() && self.running(&kill.nonce).is_none() {
                target.remove_group();
                self.clients.answer(kill.client, kill.request, Answer::Done);
            } else if Instant::now() >= kill.deadline {
                let reason = format!("processes {} survived SIGKILL (uninterruptible sleep?)", list(&left));
                let answer = Answer::Refused { reason, kind: Refusal::Survived };
                self.clients.answer(kill.client, kill.request, answer);
            } else {
                kill.next_pass = Instant::now() + PASS;
                self.kills.push(kill);
            }
        }
    }
}
