//! What was seen. Every fact carries when; what nobody could tell is `Unknown`, and nothing destructive is
//! planned from that.

use std::collections::BTreeMap;

use mainstay_types::{
    ChildName, ExitReason, InstanceId, Lsn, Member, Nonce, Pid, Seen, ServiceName, Timeline, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::backups::BackupsSeen;
use crate::damage::Damages;
use crate::fleet::Fleet;
use crate::plan::{Step, StepKey};
use crate::replicas::StoreSeen;
use crate::rollout::RolloutSeen;
use crate::schedule::ScheduleSeen;
use crate::store::CopiesSeen;

/// Everything the planner may look at, besides the stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// keep's children, by name; ended ones stay until started again.
    pub children: Seen<BTreeMap<ChildName, ChildSeen>>,
    /// Steps under way; the planner never asks for a second one with the same key.
    pub running: BTreeMap<StepKey, RunningStep>,
    /// The last failure of each step that has not succeeded since.
    pub failed: BTreeMap<StepKey, FailedStep>,
    /// When the last step of each key succeeded: a look from before says nothing about what it changed.
    pub done: BTreeMap<StepKey, Timestamp>,
    /// The cluster, when the stack has a database.
    pub database: Option<DatabaseSeen>,
    /// What a person asked the cluster to do. Dies with the control plane: what is half done is then taken up from
    /// what is observed, and what was not begun is not.
    pub wish: Option<Wish>,
    /// Redis by name (`cache`, `store`, `store-b`): answers PING.
    pub redis: BTreeMap<String, Seen<()>>,
    /// Health of instances, from the health machine that is fed by probes. That of a start which never became ready
    /// stays until the next start: it is why that one was stopped.
    pub health: BTreeMap<InstanceId, HealthSeen>,
    /// The edge: the control connection stands and the policy of this generation is accepted.
    pub edge: Seen<()>,
    /// The router: the control connection stands and the policy of this generation is accepted.
    pub router: Seen<RouterSeen>,
    /// Prometheus answers its readiness path.
    pub prometheus: Seen<()>,
    /// Alertmanager answers its readiness path.
    pub alertmanager: Seen<()>,
    /// Programs that are missing on this machine, with the command that installs each.
    pub missing: BTreeMap<Program, String>,
    /// Roles, databases and the ledger exist (done once per cluster and generation).
    pub is_database_prepared: bool,
    /// Migrations of this release are applied.
    pub is_migrated: bool,
    /// Services whose `before` command was done for this release.
    pub before_done: BTreeMap<ServiceName, Timestamp>,
    /// Services that run on a schedule: what is on disk of each.
    pub schedules: BTreeMap<ServiceName, ScheduleSeen>,
    /// Backups, when the stack has them.
    pub backups: Seen<BackupsSeen>,
    /// The store's servers; `None`: it has one, and never had another.
    pub store: Option<StoreSeen>,
    /// Copies of what the store holds, when the stack has them.
    pub store_copies: Seen<CopiesSeen>,
    /// The stack is being brought down.
    pub is_stopping: bool,
    /// A new release that is on its way.
    pub rollout: Option<RolloutSeen>,
    /// The instances of the release that is live.
    pub fleet: Fleet,
    /// A positive control: skip the fence of the next failover.
    pub is_fencing_sabotaged: bool,
}

/// A program of the distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Program {
    /// `postgres` and its tools.
    Postgres,
    /// `redis-server` or `valkey-server`.
    Redis,
    /// `prometheus`.
    Prometheus,
    /// `prometheus-alertmanager` or `alertmanager`.
    Alertmanager,
}

/// A child of keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSeen {
    /// Identity of the latest start.
    pub nonce: Nonce,
    /// Its process id.
    pub pid: Pid,
    /// When it was started.
    pub since: Timestamp,
    /// How and when the latest start ended; `None` while it runs.
    pub ended: Option<(ExitReason, Timestamp)>,
    /// Ends in a row without the `STEADY` time of the restart policy of uninterrupted run before them, the latest included.
    pub quick_ends: u32,
}

/// A step under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningStep {
    /// When it began.
    pub since: Timestamp,
    /// What it does, for people.
    pub what: String,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStep {
    /// When it failed first; nothing with its key has succeeded since.
    pub since: Timestamp,
    /// When it failed last.
    pub at: Timestamp,
    /// Failures in a row.
    pub attempts: u32,
    /// What it does, for people.
    pub what: String,
    /// Why, for people.
    pub error: String,
}

impl FailedStep {
    /// This failure of a step, after those before it.
    pub fn after(before: Option<&Self>, step: &Step, error: String, at: Timestamp) -> Self {
        Self {
            since: before.map_or(at, |before| before.since),
            at,
            attempts: before.map_or(0, |before| before.attempts).saturating_add(1),
            what: step.to_string(),
            error,
        }
    }
}

/// The PostgreSQL cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseSeen {
    /// The durable record. `Fact(None)`: there is none (a new state). It decides, never a probe.
    pub record: Seen<Option<Record>>,
    /// Members `a`.. up to the wanted number, and any further one that has a data directory.
    pub members: BTreeMap<Member, MemberSeen>,
    /// Machine pressure (PSI) explains silence at present.
    pub is_under_pressure: bool,
    /// All databases together, when somebody looked. **Unit**: bytes.
    pub size_bytes: Option<u64>,
    /// What earlier looks showed and the latest no longer does. Filled by [`DatabaseSeen::look`].
    pub memory: BTreeMap<Member, MemberMemory>,
    /// Damaged pages that members met.
    pub damages: Damages,
}

impl DatabaseSeen {
    /// Takes a new look at a member. Always use this, never insert into `members`.
    pub fn look(&mut self, member: Member, seen: MemberSeen, at: Timestamp) {
        let memory = self.memory.entry(member).or_default();
        memory.answers_since = match &seen.answer {
            Seen::Fact { .. } => Some(memory.answers_since.unwrap_or(at)),
            Seen::Silent { .. } | Seen::Unknown => None,
        };
        if let Seen::Fact { value: answer, .. } = &seen.answer {
            if answer.is_in_recovery && !answer.is_streaming {
                memory.detached_since.get_or_insert(at);
            } else {
                memory.detached_since = None;
            }
            if !answer.is_in_recovery {
                memory.written = Some(answer.lsn);
            }
            if answer.is_in_recovery || answer.synchronous.is_empty() {
                memory.synchronous = None;
            } else if memory.synchronous.as_ref().is_none_or(|(named, _)| *named != answer.synchronous) {
                memory.synchronous = Some((answer.synchronous.clone(), answer.lsn));
            }
        }
        self.members.insert(member, seen);
    }

    /// A clone of this member is done: what was remembered was about another directory. Always say so, or the
    /// member is cloned once more.
    pub fn cloned(&mut self, member: Member, at: Timestamp) {
        self.memory.insert(member, MemberMemory { cloned_at: Some(at), ..MemberMemory::default() });
        self.damages.replaced(member, at);
    }
}

/// What earlier looks at a member showed. Lost with the control plane, and learned again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberMemory {
    /// A standby: since when no look showed it streaming. Outlives its stop.
    pub detached_since: Option<Timestamp>,
    /// A primary: the members that it names as synchronous, and its position when they were first seen. What
    /// was acknowledged without waiting for them lies before it.
    pub synchronous: Option<(Vec<Member>, Lsn)>,
    /// Since when it has answered each look in time.
    pub answers_since: Option<Timestamp>,
    /// A primary: the last position that it was seen to have written.
    pub written: Option<Lsn>,
    /// When its directory was last made as a copy, or rewound.
    pub cloned_at: Option<Timestamp>,
}

/// The durable record of who is primary. Written and fsynced before the router is repointed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Rises with every change of primary; the router refuses an older one.
    pub epoch: u64,
    /// The primary.
    pub primary: Member,
    /// Its timeline.
    pub timeline: Timeline,
    /// Where the timeline began (zero for the first).
    pub lsn: Lsn,
    /// Standbys that may be promoted without a person: those whose confirmation every acknowledged commit
    /// waited for (`fast`: those that were streaming).
    pub candidates: Vec<Member>,
    /// A failover that has begun: this member is to be promoted once the primary is fenced.
    pub promoting: Option<Member>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSeen {
    /// Its data directory.
    pub data: DataDirectory,
    /// A complete directory: whether it holds `standby.signal`. `Some(false)`: it was a primary last, so it can
    /// follow another only after a new clone. `None`: nobody could look.
    pub has_standby_signal: Option<bool>,
    /// Whether any process may still write to it: attachments of its shared memory segment and holders of
    /// its lock. `Fact(false)` is the proof that it is dead.
    pub is_alive: Seen<bool>,
    /// Its answer on its own socket.
    pub answer: Seen<MemberAnswer>,
    /// What its control file says; `None`: there is none, or it cannot be read.
    pub control: Option<ControlFile>,
}

/// A member's control file. Of a member that runs it is about its last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlFile {
    /// It ended in order, as a primary: its last record is the checkpoint of its end, and nothing has to be redone.
    pub is_shut_down: bool,
    /// Timeline of the last checkpoint.
    pub timeline: Timeline,
    /// Where the record of the last checkpoint begins.
    pub checkpoint: Lsn,
    /// From where recovery would begin.
    pub redo: Lsn,
}

/// A data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataDirectory {
    /// Not there, or empty.
    Absent,
    /// Begun (initdb, clone) and never finished: its completion mark is missing. May be begun again.
    Unfinished,
    /// Complete.
    Complete,
    /// There, not ours or not readable; nothing is done to it.
    Foreign,
    /// Nobody could look.
    Unknown,
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAnswer {
    /// It is a standby.
    pub is_in_recovery: bool,
    /// Its timeline.
    pub timeline: Timeline,
    /// Last position written (primary) or received and flushed (standby).
    pub lsn: Lsn,
    /// Standby: a WAL receiver is streaming.
    pub is_streaming: bool,
    /// Standby: the member that it is set to stream from.
    pub follows: Option<Member>,
    /// Primary: members that it names in `synchronous_standby_names` at present.
    pub synchronous: Vec<Member>,
    /// Primary: standbys streaming from it, with the position each has flushed.
    pub standbys: BTreeMap<Member, Lsn>,
}

/// The router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterSeen {
    /// Epoch of the targets in force.
    pub epoch: u64,
    /// Where writes go.
    pub write: Option<Member>,
    /// Where reads go.
    pub read: Vec<Member>,
    /// Server connections at work, by member, that these targets no longer lead to. `None`: nobody said so yet.
    pub leaving: Option<BTreeMap<Member, u64>>,
}

/// What a person asked the cluster to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// What.
    pub errand: Errand,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// Epoch of the record then.
    pub epoch: u64,
}

/// An errand of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "errand", rename_all = "kebab-case")]
pub enum Errand {
    /// Another primary, without losing a statement: new transactions wait, those that are begun end, the primary ends
    /// in order, the other takes over.
    Switchover {
        /// Who is to be primary.
        to: Member,
        /// Time for what is begun to end. **Unit**: milliseconds.
        drain_ms: u64,
        /// What has not ended by then is ended; otherwise the switchover is given up.
        is_forced: bool,
    },
    /// Another primary at once, as if this one were lost.
    Failover {
        /// Who is to be primary.
        to: Member,
    },
    /// Another data directory takes the place of the primary's: the past becomes the present. What was the present is
    /// kept beside it.
    Restore {
        /// The directory, below the folder of all members.
        incoming: String,
    },
    /// A standby is ended in order and started again.
    Restart {
        /// Which.
        member: Member,
    },
}

impl Wish {
    /// Who is to be primary.
    pub fn to(&self) -> Option<Member> {
        match self.errand {
            Errand::Switchover { to, .. } | Errand::Failover { to } => Some(to),
            Errand::Restart { .. } | Errand::Restore { .. } => None,
        }
    }
}

/// Health of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSeen {
    /// The start that it is about; health of an earlier start says nothing.
    pub nonce: Nonce,
    /// The state.
    pub health: Health,
    /// Since when.
    pub since: Timestamp,
    /// Last result, for people: "GET /healthz: 503" or "GET /healthz: 200".
    pub last: String,
    /// Since when it has said nothing but that the question is wrong ("GET /healthz: 404").
    pub wrong_since: Option<Timestamp>,
}

/// State of the health machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Has not answered well since it was started.
    Starting,
    /// In the rotation.
    Ready,
    /// Was ready, then answered badly `down_after` times; looked at still.
    Suspended,
    /// Never became ready within `start_within`: to be stopped and started again.
    NeverReady,
}
