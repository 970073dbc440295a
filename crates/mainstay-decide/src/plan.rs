//! What to do: steps that hold every choice already made. Executors choose nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use mainstay_stack::Stack;
use mainstay_types::{BoxId, ChildName, InstanceId, Member, Nonce, ServiceName, State, Timestamp, Waiting};
use serde::{Deserialize, Serialize};

use crate::backups::{self, Job};
use crate::observed::{Observed, Record};
use crate::replicas;
use crate::rollout::Rollout;
use crate::schedule::{Change, Run, ScheduleRecord};
use crate::share::Share;
use crate::store;

/// Decides what to do now. Performs nothing; the same arguments give the same plan.
///
/// Without keep's list of children nothing is started, nothing is stopped and no endpoint changes.
pub fn plan(stack: &Stack, observed: &Observed, now: Timestamp) -> Plan {
    crate::planner::plan(stack, observed, now)
}

/// The planner's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be begun now, all at once; none has a key that is running.
    pub steps: Vec<Step>,
    /// All boxes with their states, in the diagram's reading order.
    pub boxes: Vec<BoxPlan>,
    /// Endpoints by upstream (service name; `NAME:management` for its management port). An upstream that is not
    /// there keeps what it has: its instances are not known yet (a control plane that has just begun).
    pub endpoints: BTreeMap<String, Vec<EndpointPlan>>,
    /// Which clients go to a new release, by upstream as above. Counts for an upstream that is planned; one that is
    /// not keeps its share as well.
    pub shares: BTreeMap<String, Share>,
    /// What will not come up by waiting, and why, by what would have to succeed. It is tried on all the same.
    pub lost: BTreeMap<StepKey, String>,
    /// What the rollout under way waits for.
    pub rollout: Option<String>,
    /// When to plan again at the latest, although nothing happened.
    pub wake_at: Option<Timestamp>,
}

/// A box and what is so about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxPlan {
    /// Which.
    pub id: BoxId,
    /// The role drawn under its name.
    pub label: String,
    /// Its state.
    pub state: State,
    /// What it waits for.
    pub waiting: Vec<Waiting>,
    /// Why it is not as it should be.
    pub reason: Option<String>,
}

/// An endpoint of the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPlan {
    /// The instance.
    pub instance: InstanceId,
    /// Its start.
    pub nonce: Nonce,
    /// Takes new requests.
    pub is_ready: bool,
    /// The release it is of; 0: not known.
    pub release: u64,
}

/// What a step occupies; one step per key at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "on", rename_all = "kebab-case")]
pub enum StepKey {
    /// A child's life: start, stop, clone, fence.
    Child {
        /// Which.
        name: ChildName,
    },
    /// The durable record, `synchronous_standby_names`, promotion, the router's targets: one at a time, so
    /// that they happen in the planned order.
    Cluster,
    /// Who is the store's primary.
    Store,
    /// A checkpoint ahead of time: it may take minutes and stands in nobody's way.
    Checkpoint,
    /// Roles, databases, migrations.
    Schema,
    /// The record of a rollout.
    Rollout,
    /// What is done for a new release before and beside its instances.
    Release,
    /// A service's release command.
    Before {
        /// Which.
        service: ServiceName,
    },
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Step {
    /// Make a new cluster in this member's directory (wiping an unfinished one) and mark it complete.
    InitPrimary {
        /// Where.
        member: Member,
    },
    /// Make this member a copy of that one and mark it complete. A complete old directory is kept aside.
    Clone {
        /// Where to.
        member: Member,
        /// Where from.
        from: Member,
    },
    /// Make this former primary a beginning of that one again, in place, and mark it complete. What only it held is gone;
    /// an attempt that fails leaves an unfinished directory.
    Rewind {
        /// Whose directory.
        member: Member,
        /// Whom it is to follow.
        from: Member,
    },
    /// Let a standby that runs stream from this primary.
    Follow {
        /// Which.
        member: Member,
        /// From whom.
        primary: Member,
    },
    /// Start a member's postmaster, as the standby of `follow` or as primary.
    StartPostgres {
        /// Which.
        member: Member,
        /// The primary it follows; `None`: it is the primary.
        follow: Option<Member>,
    },
    /// Kill every process of the member and prove that none is attached to its shared memory.
    Fence {
        /// Which.
        member: Member,
    },
    /// Promote until it is true.
    Promote {
        /// Which.
        member: Member,
    },
    /// Write the record durably. The executor checks that the epoch on disk is not higher.
    WriteRecord {
        /// The record.
        record: Record,
    },
    /// Set `synchronous_standby_names` on the primary and reload; empty means off.
    SetSynchronous {
        /// The primary.
        primary: Member,
        /// Confirmations come from any one of these.
        standbys: Vec<Member>,
    },
    /// With every member dead: put another data directory in the primary's place, and keep what was there. The data of
    /// the others is set aside: they are cloned again.
    SwapIn {
        /// The recorded primary.
        primary: Member,
        /// The directory, below the folder of all members.
        incoming: String,
    },
    /// Write a checkpoint, so that the one at a primary's end is short: sessions are held meanwhile.
    Checkpoint {
        /// The primary.
        primary: Member,
    },
    /// Tell the router its targets.
    PointRouter {
        /// The record's epoch.
        epoch: u64,
        /// The primary; `None`: hold.
        write: Option<Member>,
        /// Streaming standbys.
        read: Vec<Member>,
    },
    /// Roles, databases, the ledger.
    PrepareDatabase {
        /// The primary.
        primary: Member,
    },
    /// Run the stack's migrations.
    Migrate {
        /// The primary.
        primary: Member,
    },
    /// Run a service's release command.
    RunBefore {
        /// Which.
        service: ServiceName,
    },
    /// Write the record of a schedule durably.
    WriteSchedule {
        /// Whose.
        service: ServiceName,
        /// The whole record.
        record: ScheduleRecord,
        /// What is new in it.
        change: Change,
    },
    /// Start the run that is on record. Started already: nothing is done.
    StartRun {
        /// Whose.
        service: ServiceName,
        /// Which.
        run: Run,
    },
    /// Start a job of the backups.
    StartBackupJob {
        /// Which.
        job: Job,
    },
    /// Let a replica of the store take over: record it, make it serve, put the store's address at it. The same again
    /// for one that is recorded already finishes what was cut off.
    PromoteStore {
        /// Who.
        to: Member,
        /// Who served before; dead. `None`: it is recorded already.
        from: Option<Member>,
        /// Epoch of the record.
        epoch: u64,
    },
    /// Start the process that takes a copy of the store.
    StartStoreCopy,
    /// Start a child that is no database and no instance: `edge`, `router`, `cache`, `store`, `prometheus`,
    /// `alertmanager`.
    StartChild {
        /// Which.
        name: ChildName,
    },
    /// Start an instance.
    StartInstance {
        /// Which.
        id: InstanceId,
    },
    /// Start an instance of a new release.
    StartNew {
        /// Which.
        id: InstanceId,
        /// Of which release.
        release: u64,
    },
    /// Do something for a new release.
    ReleaseWork {
        /// Which.
        release: u64,
        /// What.
        work: Work,
    },
    /// Write the record of a rollout durably.
    WriteRollout {
        /// The whole record.
        rollout: Box<Rollout>,
    },
    /// Make a new release what this stack is. The control plane begins anew with it.
    CommitRelease {
        /// Which.
        release: u64,
    },
    /// A rollout was taken back: its record goes, and the release is marked.
    EndRollout {
        /// Which release.
        release: u64,
        /// Why.
        reason: String,
    },
    /// Ask a child to end, wait, then kill its tree.
    Stop {
        /// Which.
        name: ChildName,
        /// Which start of it.
        nonce: Nonce,
        /// First signal (PostgreSQL: SIGINT, fast shutdown; others SIGTERM).
        signal: i32,
        /// Time until SIGKILL.
        grace: Duration,
    },
    /// Everything is stopped: the control plane and keep may exit.
    Finish,
}

/// What is done for a new release besides its instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "kebab-case")]
pub enum Work {
    /// Run its migrations.
    Migrate {
        /// The primary.
        primary: Member,
    },
    /// Run its services' release commands, one after the other.
    Before,
    /// Ask its instances what they must answer.
    Smoke,
}

impl Step {
    /// What it occupies.
    pub fn key(&self) -> StepKey {
        let postgres = |member: &Member| StepKey::Child { name: ChildName::postgres(*member) };
        match self {
            Self::InitPrimary { member }
            | Self::Clone { member, .. }
            | Self::Rewind { member, .. }
            | Self::Follow { member, .. }
            | Self::StartPostgres { member, .. }
            | Self::Fence { member } => postgres(member),
            Self::Promote { .. }
            | Self::WriteRecord { .. }
            | Self::SetSynchronous { .. }
            | Self::PointRouter { .. }
            | Self::SwapIn { .. }
            | Self::Finish => StepKey::Cluster,
            Self::Checkpoint { .. } => StepKey::Checkpoint,
            Self::PrepareDatabase { .. } | Self::Migrate { .. } => StepKey::Schema,
            Self::RunBefore { service } => StepKey::Before { service: service.clone() },
            Self::StartChild { name } | Self::Stop { name, .. } => StepKey::Child { name: name.clone() },
            Self::StartBackupJob { .. } => StepKey::Child { name: backups::child() },
            Self::StartStoreCopy => StepKey::Child { name: store::child() },
            Self::PromoteStore { .. } => StepKey::Store,
            Self::WriteRollout { .. } | Self::CommitRelease { .. } | Self::EndRollout { .. } => StepKey::Rollout,
            Self::ReleaseWork { .. } => StepKey::Release,
            Self::StartInstance { id } | Self::StartNew { id, .. } => StepKey::Child { name: ChildName::instance(id) },
            Self::WriteSchedule { service, .. } | Self::StartRun { service, .. } => {
                StepKey::Child { name: ChildName::run(service) }
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InitPrimary { member } => write!(f, "makes a new cluster in postgres-{member}"),
            Self::Clone { member, from } => write!(f, "clones postgres-{from} to postgres-{member}"),
            Self::Rewind { member, from } => write!(f, "rewinds postgres-{member} to postgres-{from}"),
            Self::Follow { member, primary } => write!(f, "lets postgres-{member} follow postgres-{primary}"),
            Self::StartPostgres { member, follow: None } => write!(f, "starts postgres-{member} as primary"),
            Self::StartPostgres { member, follow: Some(from) } => {
                write!(f, "starts postgres-{member} as standby of postgres-{from}")
            }
            Self::Fence { member } => write!(f, "fences postgres-{member}"),
            Self::Promote { member } => write!(f, "promotes postgres-{member}"),
            Self::WriteRecord { record } => {
                write!(f, "records postgres-{} as primary, epoch {}", record.primary, record.epoch)
            }
            Self::SetSynchronous { standbys, .. } if standbys.is_empty() => f.write_str("makes commits asynchronous"),
            Self::SetSynchronous { .. } => f.write_str("makes commits synchronous"),
            Self::PointRouter { write: Some(member), .. } => write!(f, "points the router at postgres-{member}"),
            Self::PointRouter { write: None, .. } => f.write_str("makes the router hold"),
            Self::SwapIn { primary, .. } => write!(f, "puts the restored data in the place of postgres-{primary}'s"),
            Self::Checkpoint { primary } => write!(f, "writes a checkpoint of postgres-{primary}"),
            Self::PrepareDatabase { .. } => f.write_str("prepares roles and databases"),
            Self::Migrate { .. } => f.write_str("runs migrations"),
            Self::RunBefore { service } => write!(f, "runs the release command of {service}"),
            Self::StartChild { name } => write!(f, "starts {name}"),
            Self::StartBackupJob { job } => write!(f, "starts {}", job.what()),
            Self::StartStoreCopy => f.write_str("starts a copy of the store"),
            Self::PromoteStore { to, .. } => write!(f, "makes {} the store", replicas::child_of(*to)),
            Self::StartInstance { id } => write!(f, "starts {id}"),
            Self::StartNew { id, release } => write!(f, "starts {id} of v{release}"),
            Self::ReleaseWork { release, work: Work::Migrate { .. } } => write!(f, "runs the migrations of v{release}"),
            Self::ReleaseWork { release, work: Work::Before } => write!(f, "runs the release commands of v{release}"),
            Self::ReleaseWork { release, work: Work::Smoke } => write!(f, "asks the smoke tests of v{release}"),
            Self::WriteRollout { rollout } => {
                write!(f, "notes that v{} is at {}", rollout.release, rollout.phase.name())
            }
            Self::CommitRelease { release } => write!(f, "makes v{release} what this stack is"),
            Self::EndRollout { release, .. } => write!(f, "notes that v{release} was taken back"),
            Self::WriteSchedule { service, .. } => write!(f, "notes the schedule of {service}"),
            Self::StartRun { service, .. } => write!(f, "starts a run of {service}"),
            Self::Stop { name, .. } => write!(f, "stops {name}"),
            Self::Finish => f.write_str("ends the control plane"),
        }
    }
}
