//! What reaches the loop: the one place where everything that happened is put in order.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_api::{RolloutStatus, RolloutWish, Sabotage};
use mainstay_decide::backups::BackupsSeen;
use mainstay_decide::damage::Page;
use mainstay_decide::observed::{MemberSeen, Record, RouterSeen};
use mainstay_decide::plan::Step;
use mainstay_decide::replicas::{StoreLook, StoreRecord};
use mainstay_decide::rollout::Rollout;
use mainstay_decide::store::CopiesSeen;
use mainstay_postgres::migrate::Migrated;
use mainstay_supervisor::protocol::Child;
use mainstay_types::{InstanceId, Lsn, Member, Nonce, Pid, Seen, ServiceName, Timeline, Timestamp};
use tokio::sync::oneshot;

/// An observation, a result or a wish.
#[derive(Debug)]
pub(crate) enum Message {
    /// keep's whole list, after (re)connecting, and when it was asked for.
    Children(Vec<Child>, Timestamp),
    /// Who keep is, after (re)connecting.
    KeepFound(mainstay_supervisor::client::Hello),
    /// The connection to keep broke.
    KeepLost,
    /// A child's main process ended.
    Ended(Child),
    /// A step is over.
    StepDone { step: Step, took: Duration, result: Result<Outcome, String> },
    /// A look at a database member.
    Member { member: Member, seen: MemberSeen },
    /// Machine pressure explains silence, or no longer does.
    Pressure(bool),
    /// A look at the copies of the store.
    StoreCopies(Seen<CopiesSeen>),
    /// A look at a Redis.
    Redis { name: &'static str, seen: Seen<()> },
    /// A look at a server of the store that has others beside it.
    StoreMember { member: Member, look: StoreLook },
    /// A look at Prometheus.
    Prometheus(Seen<()>),
    /// A look at Alertmanager.
    Alertmanager(Seen<()>),
    /// An instance answered its probe, or did not.
    Probe { id: InstanceId, nonce: Nonce, result: mainstay_decide::health::ProbeResult },
    /// The edge's link stands with the policy accepted, or does not.
    Edge(Seen<()>),
    /// Traffic through the edge in the last second.
    EdgeReport {
        window_ms: u64,
        upstreams: BTreeMap<String, mainstay_edge::protocol::Counts>,
        endpoints: BTreeMap<String, mainstay_edge::protocol::EndpointReport>,
    },
    /// The edge ejected or readmitted an endpoint by itself.
    EndpointChanged { endpoint: String, is_in: bool, reason: String },
    /// The keys of an issuer of tokens came, or no longer come.
    KeysChanged { issuer: String, keys: usize, failure: Option<String> },
    /// The edge or the router refused what it was told.
    PolicyRejected { by: &'static str, reason: String },
    /// The router's link.
    Router(Seen<RouterSeen>),
    /// Traffic through the router in the last second.
    RouterReport { window_ms: u64, write: mainstay_router::protocol::Counts, read: mainstay_router::protocol::Counts },
    /// What a failover did to sessions.
    FailoverDone { carried: u64, ended: u64, aborted: u64, in_flight: u64, longest_hold_ms: u64 },
    /// A person asks for a run of a schedule now; answered with the time that it is for, or why not.
    RunNow { service: ServiceName, answer: oneshot::Sender<Result<Timestamp, String>> },
    /// A person asks the cluster for something; answered with how it stands, or why it cannot be.
    Errand {
        asked: mainstay_api::ErrandAsked,
        /// Whose run of migrations is cut off by it.
        cuts: Option<String>,
        answer: oneshot::Sender<Result<mainstay_api::ErrandStatus, String>>,
    },
    /// A command has changed the schema.
    SchemaChanged(mainstay_api::SchemaChanged),
    /// A page of this member is damaged on its disk.
    PageDamaged { member: Member, page: Page },
    /// How often this member says that it met a page with a wrong checksum.
    PagesMet { member: Member, count: u64 },
    /// Pages of this member that were damaged are sound now, or gone.
    PagesMended { member: Member, pages: Vec<Page> },
    /// Every page of this member was looked at; it had met so many when that began.
    PagesLookedAt { member: Member, met: u64 },
    /// The size of all databases together.
    DatabaseSize(u64),
    /// A look at the disk of the databases.
    Disk(mainstay_api::DiskStatus),
    /// The history of drills, when it changed.
    Drills(Vec<mainstay_api::DrillRecord>),
    /// A look at the folder of the backups, and what restores found.
    Backups { seen: Seen<BackupsSeen>, proofs: Vec<mainstay_backup::proof::Proof> },
    /// How many instances of services there are to be.
    Scaling(crate::core::scaling::ScalingMessage),
    /// A person asks for a rollout, or something of the one under way; answered with how it stands, or why it cannot be.
    Release { asked: ReleaseAsked, answer: oneshot::Sender<Result<RolloutStatus, String>> },
    /// Somebody asks for an ordered end.
    Down,
    /// A positive control.
    Sabotage(Sabotage),
}

/// What a person asks about releases.
#[derive(Debug)]
pub(crate) enum ReleaseAsked {
    /// To roll out one that is ready for it.
    Rollout(Box<crate::core::rollout::Prepared>),
    /// Something of the rollout under way.
    Wish(RolloutWish),
}

/// What a step leaves behind besides its effect.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Nothing that observers would not see.
    Done,
    /// A child was started.
    Started { name: mainstay_types::ChildName, nonce: Nonce, pid: Pid },
    /// What was to be started had been started before.
    Found(Child),
    /// The record on disk.
    Recorded(Record),
    /// A replica of the store took over.
    StorePromoted(StoreRecord),
    /// The member took over.
    Promoted { timeline: Timeline, lsn: Lsn },
    /// Roles and databases exist.
    Prepared,
    /// Migrations were run, or none was left to be.
    Migrated(Migrated),
    /// Nothing was to be run; what was found.
    SchemaSeen(crate::schema::SchemaSeen),
    /// The record of a schedule is on disk.
    ScheduleWritten,
    /// The release command ended well.
    BeforeDone,
    /// Something of a rollout.
    Release(ReleaseOutcome),
    /// Everything is stopped.
    Finished,
}

/// What a step of a rollout leaves behind.
#[derive(Debug)]
pub(crate) enum ReleaseOutcome {
    /// Its record is on disk.
    Written(Box<Rollout>),
    /// Something was done for the new release; what came of it, for people.
    Done(String),
    /// The new release is what this stack is.
    Committed,
    /// It is over, and its release was taken back.
    Ended,
}
