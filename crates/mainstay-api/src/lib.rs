//! The admin API's types (L1): what CLI, console, tests and drills read and send.
//!
//! | method and path | body → answer |
//! |---|---|
//! | `GET /api/v1/status` | [`Status`] |
//! | `GET /api/v1/processes` | [`Vec<Process>`](Process) |
//! | `GET /api/v1/events?after=SEQ&limit=N` | [`Vec<Event>`](Event) in order of `seq` |
//! | `GET /api/v1/traffic` | [`Traffic`] |
//! | `GET /api/v1/drills` | [`Vec<DrillStanding>`](DrillStanding): what each promise was last proven to be worth |
//! | `GET /api/v1/drills/history?drill=NAME&limit=N` | [`Vec<DrillRecord>`](DrillRecord), newest first |
//! | `GET /api/v1/stream` | SSE: `event: status` [`Status`], `event: traffic` [`Traffic`], `event: event` [`Event`], `event: beat` [`Beat`] |
//! | `GET /api/v1/logs?child=NAME&lines=N&follow=true` | [`LogLine`] per line (newline-delimited JSON) |
//! | `GET /api/v1/services/NAME/env` | [`ServiceEnv`]; Unix socket only, it holds passwords |
//! | `GET /api/v1/context/NAME?running=BOOL` | [`CommandContext`] of a service, or of a running instance; Unix socket only |
//! | `POST /api/v1/services/NAME/run` | [`RunAsked`]; a run of its schedule begins as soon as it can; Unix socket only |
//! | `POST /api/v1/services/NAME/scale` | [`ScaleAsked`] → [`ScaleStatus`]; Unix socket only |
//! | `GET /api/v1/scale` | [`ScaleStatus`] of each service that stands |
//! | `GET /api/v1/routes` | [`RouteStatus`] of each route of the edge |
//! | `POST /api/v1/routes/maintenance` | [`MaintenanceAsked`] → [`RouteSwitched`]; Unix socket only |
//! | `GET /api/v1/top` | [`Top`] |
//! | `GET /api/v1/database` | [`DatabaseAccess`]; Unix socket only |
//! | `POST /api/v1/database/errand` | [`ErrandAsked`] → 202 [`ErrandStatus`]; then it is in [`DatabaseStatus`]; Unix socket only |
//! | `POST /api/v1/database/schema` | [`SchemaChanged`] → 204; what a command has done, for the log; Unix socket only |
//! | `GET /api/v1/releases` | [`Releases`] |
//! | `POST /api/v1/releases` | [`DeployAsked`] → 202 [`RolloutStatus`]; then it is in [`Releases`]; Unix socket only |
//! | `POST /api/v1/releases/wish` | [`RolloutWish`] → 202 [`RolloutStatus`]; Unix socket only |
//! | `GET /api/v1/pools` | [`Pool`]s of the router |
//! | `GET /api/v1/config` | the computed stack, JSON |
//! | `POST /api/v1/console-link` | [`ConsoleLink`]; Unix socket only |
//! | `POST /api/v1/sabotage` | [`Sabotage`] → 204; Unix socket only; for positive controls of drills |
//! | `POST /api/v1/down` | 202; the control plane stops everything in reverse order and exits |
//!
//! The Unix socket trusts its peer by credentials (owner or root). The loopback TCP door wants the console's
//! session cookie, which `POST /login` with `{"token": …}` gives once per printed link.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod drills;
mod releases;
mod routes;
mod scale;

use std::collections::BTreeMap;

pub use drills::{
    DrillFigures, DrillFiled, DrillHistory, DrillRecord, DrillStanding, Extended, HISTORY_VERSION, Standing, Verdict,
    newest_by_drill, parse_history,
};
use mainstay_types::{
    BoxId, ChildName, ChildRole, EnvironmentName, ExitReason, Generation, Lsn, Member, Nonce, Pid, Secret, ServiceName,
    StackName, State, Timeline, Timestamp, Waiting,
};
pub use releases::{DeployAsked, Release, ReleaseState, Releases, RolloutStatus, RolloutWish, Trial};
pub use routes::{Maintenance, MaintenanceAsked, RouteStatus, RouteSwitched};
pub use scale::{ScaleAsked, ScaleChange, ScaleMeasure, ScaleRoom, ScaleStatus};
use serde::{Deserialize, Serialize};

/// The OpenAPI 3.1 description of this contract. Tests hold it to the types here and to the controller's routes.
pub const OPENAPI: &str = include_str!("../../../docs/reference/openapi.json");

/// Version of this contract; raised when a field changes its meaning.
pub const API_VERSION: u32 = 1;

/// The whole stack at a moment: what `status`, the diagram and tests read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`API_VERSION`].
    pub api: u32,
    /// The stack.
    pub stack: StackName,
    /// Its environment.
    pub environment: EnvironmentName,
    /// When this was put together.
    pub at: Timestamp,
    /// When `up` began.
    pub since: Timestamp,
    /// Generation of the configuration.
    pub generation: Generation,
    /// True once everything that `up` waits for was ready; stays true.
    pub is_up: bool,
    /// The stack is going down.
    pub is_stopping: bool,
    /// Worst state over all boxes that matter for serving.
    pub overall: State,
    /// All boxes, in the diagram's reading order.
    pub boxes: Vec<BoxStatus>,
    /// Arrows between boxes.
    pub arrows: Vec<Arrow>,
    /// Steps of `up`, in order, for its progress lines.
    pub progress: Vec<Progress>,
    /// Who is primary and how far standbys are.
    pub database: Option<DatabaseStatus>,
    /// Addresses people use.
    pub urls: BTreeMap<String, String>,
    /// Services that run on a schedule.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schedules: BTreeMap<ServiceName, ScheduleStatus>,
    /// Every drill and what it is owed; empty when the control plane is older than drills' history.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drills: Vec<DrillStanding>,
    /// Backups, when the stack has them and somebody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<BackupsStatus>,
    /// Copies of the store, when the stack takes some and somebody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_copies: Option<StoreCopiesStatus>,
    /// Routes of the edge that are in maintenance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maintenance: Vec<RouteStatus>,
}

/// Copies of what the store holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreCopiesStatus {
    /// Whole ones.
    pub count: u64,
    /// Their size. **Unit**: bytes.
    pub bytes: u64,
    /// Moment of the newest.
    pub last: Option<Timestamp>,
    /// From when on the next is due.
    pub next: Timestamp,
    /// Moment of the newest that a second server loaded and found right.
    pub proven: Option<Timestamp>,
    /// Keys in it.
    pub proven_keys: Option<u64>,
    /// That moment; without one, since when somebody looks.
    pub unproven_since: Timestamp,
    /// How often one is taken. **Unit**: milliseconds.
    pub every_ms: u64,
    /// One is taken now.
    pub is_running: bool,
    /// Failures in a row.
    pub failures: u64,
    /// What is wrong, the worst first.
    pub faults: Vec<String>,
}

/// Base backups, archived WAL and what restores proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupsStatus {
    /// Where they lie, as the stack file names it.
    pub folder: String,
    /// Whole base backups.
    pub count: u64,
    /// When the newest became consistent.
    pub last: Option<Timestamp>,
    /// When the next will be due; `None`: the stack file asks for none.
    pub next: Option<Timestamp>,
    /// Since when one is due; `None`: none is.
    pub overdue_since: Option<Timestamp>,
    /// The last restore that was checked and found right.
    pub proven: Option<ProvenRestore>,
    /// That restore, or the oldest base backup when there was none.
    pub unproven_since: Option<Timestamp>,
    /// How old the last proven restore may become. **Unit**: milliseconds.
    pub proof_within_ms: u64,
    /// The job under way: `take`, `prove` or `prune`.
    pub running: Option<String>,
    /// Failures in a row, by job.
    pub failures: BTreeMap<String, u64>,
    /// Segments of WAL in the archive.
    pub segments: u64,
    /// Their bytes. **Unit**: bytes.
    pub wal_bytes: u64,
    /// When the newest was archived.
    pub newest_wal: Option<Timestamp>,
    /// Finished segments that are not archived.
    pub waiting: u64,
    /// Since when the oldest of them waits.
    pub waiting_since: Option<Timestamp>,
    /// Where archived WAL is missing, a line each.
    pub gaps: Vec<String>,
    /// What may be lost with the machine, in time. **Unit**: milliseconds.
    pub rpo_ms: u64,
    /// What is wrong, the worst first.
    pub faults: Vec<String>,
    /// The second copy off the machine; `None`: the stack file asks for none, or nothing is known of it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyStatus>,
}

/// The second copy of the backups, off the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// Where it is.
    pub to: String,
    /// It is no copy: backups are there and nowhere else.
    #[serde(default)]
    pub is_target: bool,
    /// What was archived until then can be restored from it; `None`: no base backup is in it.
    pub up_to: Option<Timestamp>,
    /// How far it is behind. **Unit**: milliseconds.
    pub behind_ms: Option<u64>,
    /// How far it may be. **Unit**: milliseconds.
    pub rpo_ms: u64,
    /// Base backups in it with all that they need.
    pub backups: u64,
    /// Files in it.
    pub files: u64,
    /// Their bytes. **Unit**: bytes.
    pub bytes: u64,
    /// Files that are not in it yet.
    pub waiting: u64,
    /// Their bytes. **Unit**: bytes.
    pub waiting_bytes: u64,
    /// Objects there that the folder does not have.
    pub extra: u64,
    /// Why it does not go on, in the store's own words.
    pub error: Option<String>,
    /// Since when it does not.
    pub failing_since: Option<Timestamp>,
}

/// A restore that was checked and found right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenRestore {
    /// When.
    pub at: Timestamp,
    /// Of which base backup.
    pub backup: String,
}

/// One box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxStatus {
    /// Which.
    pub id: BoxId,
    /// Its name as text, as in `ps` and `logs`.
    pub name: String,
    /// The role drawn under the name: "primary", "standby", "2 of 2 ready", "LRU".
    pub label: String,
    /// Its state.
    pub state: State,
    /// Since when it is in it.
    pub since: Timestamp,
    /// What it waits for.
    pub waiting: Vec<Waiting>,
    /// Why it is not as it should be, with the next step.
    pub reason: Option<String>,
}

/// A service that runs on a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleStatus {
    /// When, as the stack file writes it; times are UTC.
    pub every: String,
    /// Its next time.
    pub next: Timestamp,
    /// The run under way.
    pub running: Option<RunUnderWay>,
    /// The last run that ended.
    pub last: Option<LastRun>,
}

/// A run of a schedule that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunUnderWay {
    /// The time that it is for.
    pub due: Timestamp,
    /// `time`, `catch-up` or `person`.
    pub cause: String,
    /// When its process was started; `None` while it is being started.
    pub since: Option<Timestamp>,
}

/// A run of a schedule that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// The time that it was for.
    pub due: Timestamp,
    /// `time`, `catch-up` or `person`.
    pub cause: String,
    /// When its process was started.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How.
    pub exit: ExitReason,
    /// It took longer than its `timeout` and was ended.
    pub is_timed_out: bool,
    /// It ended by itself and well.
    pub is_success: bool,
}

/// A run of a schedule that a person asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAsked {
    /// The time that it is for: by this it is found in [`ScheduleStatus`].
    pub due: Timestamp,
}

/// All that a command needs to run as a service does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandContext {
    /// The service.
    pub service: ServiceName,
    /// The running instance that it is about.
    pub instance: Option<ChildName>,
    /// That instance's main process.
    pub pid: Option<Pid>,
    /// The whole environment.
    pub env: BTreeMap<String, Secret>,
    /// Working directory.
    pub dir: String,
    /// Folder that the user must be able to see.
    pub project: String,
    /// Home of the service, which the user must be able to see as well.
    #[serde(default)]
    pub home: Option<String>,
    /// User and group; `None`: that of the stack.
    pub user: Option<(u32, u32)>,
}

/// Every process of the stack with what it uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Top {
    /// When CPU times were read.
    pub at: Timestamp,
    /// Processors that this machine has for the stack.
    pub cores: u32,
    /// As in `ps`, in its order.
    pub processes: Vec<Usage>,
}

/// What a process and its descendants use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// The process; its memory is that of the whole tree.
    pub process: Process,
    /// CPU time since its start. **Unit**: milliseconds.
    pub cpu_ms: Option<u64>,
    /// Connections that others hold to it (TCP, and Unix sockets).
    pub connections: Option<u32>,
    /// Requests (edge, instances) or statements (router, PostgreSQL) in the last seconds. **Unit**: per second.
    pub per_second: Option<f64>,
}

/// A connection between two boxes, from client to server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrow {
    /// From; `None` is the world outside.
    pub from: Option<BoxId>,
    /// To.
    pub to: BoxId,
    /// What flows: "https", "http", "sql write", "sql read", "redis", "WAL".
    pub label: String,
}

/// One line of `up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// First column: "database", "cache", "migrate", a service, "edge", "telemetry", "console".
    pub what: String,
    /// What is so: "2 of 2 instances ready".
    pub text: String,
    /// Time it took, once done. **Unit**: milliseconds.
    pub took_ms: Option<u64>,
    /// Its state.
    pub state: State,
    /// Why it will not come up by waiting: `up` ends here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// The cluster as recorded and as observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseStatus {
    /// The recorded primary.
    pub primary: Option<Member>,
    /// Its timeline.
    pub timeline: Timeline,
    /// Where it writes.
    pub lsn: Option<Lsn>,
    /// True while commits wait for a standby.
    pub is_synchronous: bool,
    /// The router carries writes.
    pub is_writable: bool,
    /// What an acknowledged write is worth: `fast`, `balanced` or `strict`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub durability: String,
    /// What that risks, in a sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub risk: String,
    /// Standbys that the stack file asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standbys: Option<u32>,
    /// Replication lag by standby. **Unit**: bytes.
    pub lag_bytes: BTreeMap<Member, u64>,
    /// Changes of the primary since the state was created, planned ones too.
    pub failovers: u64,
    /// Pages that are known to be damaged now, at the least, by the members that have some.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub damaged_pages: BTreeMap<Member, u64>,
    /// Damaged pages that were found since the state was created, by member; those of replaced directories too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub damaged_pages_ever: BTreeMap<Member, u64>,
    /// The disk that the databases write to; `None`: nobody has looked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskStatus>,
    /// The latest switchover, failover by hand or restart that a person asked this control plane for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errand: Option<ErrandStatus>,
}

/// A disk that fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Room for everybody. **Unit**: bytes.
    pub free_bytes: u64,
    /// All of it. **Unit**: bytes.
    pub total_bytes: u64,
    /// When it is full, if it goes on as in the last minutes; `None`: not within a week. **Unit**: seconds.
    pub full_in_s: Option<u64>,
    /// The file that is thrown off when the room ends, before PostgreSQL stops; 0: it was, or the disk is too small.
    /// **Unit**: bytes.
    pub ballast_bytes: u64,
}

/// What a person may ask the cluster for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrandKind {
    /// Another primary, without losing a statement.
    Switchover,
    /// Another primary at once, as if this one were lost.
    Failover,
    /// A standby is restarted.
    Restart,
    /// Another data directory takes the place of the primary's.
    Restore,
}

/// A person asks the cluster for something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrandAsked {
    /// What.
    pub errand: ErrandKind,
    /// The member that is to be primary, or to be restarted; `None`: the first standby that may take over.
    pub member: Option<Member>,
    /// Switchover: time for what is begun to end. **Unit**: milliseconds. `None`: 10 s.
    pub drain_ms: Option<u64>,
    /// Switchover: what has not ended by then is ended, instead of the switchover being given up.
    #[serde(default)]
    pub is_forced: bool,
    /// Restore: the directory, below the folder of all members (`a/restored-over-1`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incoming: Option<String>,
}

/// How far an errand is, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrandStatus {
    /// What.
    pub errand: ErrandKind,
    /// The member that is to be primary, or to be restarted.
    pub member: Member,
    /// The primary when it was asked.
    pub primary: Member,
    /// When it was asked.
    pub asked_at: Timestamp,
    /// What it went through, in order.
    pub stages: Vec<StageReached>,
    /// Sessions whose transaction or statement is waited for.
    pub left: Option<u64>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// It was done, not given up.
    pub is_done: bool,
    /// Why it was given up.
    pub reason: Option<String>,
    /// What became of the router's sessions; told once all of them are served again.
    pub sessions: Option<ErrandSessions>,
    /// Whose run of migrations it cuts off; `None`: none was under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<String>,
}

/// A stage of an errand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReached {
    /// `checkpoint`, `drain`, `stop`, `promote`, `lead`; `detach`, `restart`, `catch-up`; `end`, `swap`, `lead`.
    pub stage: String,
    /// When it began.
    pub at: Timestamp,
}

/// What a change of the primary did to sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrandSessions {
    /// Held and carried over.
    pub carried: u64,
    /// Ended with 57P01: they had state of their own.
    pub ended: u64,
    /// Got 08007: a statement was in flight.
    pub in_flight: u64,
    /// Longest hold. **Unit**: milliseconds.
    pub longest_hold_ms: u64,
}

/// A supervised process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its name.
    pub name: ChildName,
    /// What it is for.
    pub role: ChildRole,
    /// `primary` or `standby` for PostgreSQL, slot for instances; may be empty.
    pub detail: String,
    /// Process id; `None` when it does not run.
    pub pid: Option<Pid>,
    /// Identity of this start.
    pub nonce: Option<Nonce>,
    /// Its state.
    pub state: State,
    /// Since when it is in it.
    pub since: Timestamp,
    /// How it ended last.
    pub last_exit: Option<ExitReason>,
    /// Where it answers: addresses and sockets, as text; `None` when nobody calls it.
    pub address: Option<String>,
    /// Proportional set size over its process tree. **Unit**: bytes.
    pub memory_bytes: Option<u64>,
}

/// A pool of the router: the clients of a role in a database by one of its doors, and their server connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// `write` or `read`.
    pub door: String,
    /// Database.
    pub database: String,
    /// Role.
    pub role: String,
    /// `session` or `transaction`.
    pub mode: String,
    /// Most server connections.
    pub size: u64,
    /// Clients that have a server connection now.
    pub clients_active: u64,
    /// Clients that need none now.
    pub clients_idle: u64,
    /// Clients that wait for one.
    pub clients_waiting: u64,
    /// Of the active ones, those that keep it between transactions for state of their own.
    pub clients_tied: u64,
    /// Why they keep it: how many for which reason.
    #[serde(default)]
    pub tied_by: BTreeMap<String, u64>,
    /// Server connections without a client.
    pub servers_idle: u64,
    /// How often a client got one since the router started.
    pub acquired: u64,
    /// Of these, how often it waited in the queue first.
    pub waited: u64,
    /// 95th percentile of these waits. **Unit**: microseconds.
    pub wait_p95_us: Option<u64>,
    /// How often a client waited too long and was told so.
    pub refused: u64,
    /// Clients of this door that are held for a primary now.
    pub held: u64,
    /// How often a reader waited until a standby had what it must see.
    #[serde(default)]
    pub behind: u64,
    /// 95th percentile of these waits. **Unit**: microseconds.
    #[serde(default)]
    pub behind_p95_us: Option<u64>,
    /// Of these, how often none had in time and the primary served the reader.
    #[serde(default)]
    pub to_primary: u64,
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// A change of state.
    Info,
    /// Surprising, and the stack went on.
    Warn,
    /// A person must act.
    Error,
}

/// Something that happened; kept in `state.db`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the event log, from 1, without gaps.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// `NounVerbed`: `PrimaryFenced`, `InstanceExited`, `RouterRepointed`.
    pub kind: String,
    /// How much it matters.
    pub level: Level,
    /// The box it is about.
    pub subject: Option<String>,
    /// One line for people.
    pub text: String,
    /// Its fields, with units in their names.
    pub fields: BTreeMap<String, serde_json::Value>,
}

/// Traffic over one arrow in the last seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flow {
    /// From; `None` is the world outside.
    pub from: Option<BoxId>,
    /// To.
    pub to: BoxId,
    /// Requests (or statements) per second.
    pub per_second: f64,
    /// 95th percentile of latency. **Unit**: milliseconds.
    pub p95_ms: Option<f64>,
    /// Share that failed, 0 to 1.
    pub error_share: f64,
}

/// Traffic over all arrows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// End of the window.
    pub at: Timestamp,
    /// Length of the window. **Unit**: milliseconds.
    pub window_ms: u64,
    /// One entry per arrow that carried something or is known to be idle.
    pub flows: Vec<Flow>,
}

/// Every two seconds on the stream, also when nothing changes: silence then means that the connection is dead, and
/// an old `looked_at` that the control plane answers but no longer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Now, by the control plane's clock.
    pub at: Timestamp,
    /// When it put its picture together last.
    pub looked_at: Timestamp,
}

/// A line of a child's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Who wrote it.
    pub child: ChildName,
    /// Without its newline; cut at 16 KiB.
    pub text: String,
}

/// What a service is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEnv {
    /// The service.
    pub service: ServiceName,
    /// Variables common to all its instances (no `PORT`, which differs).
    pub env: BTreeMap<String, Secret>,
    /// Ports by instance name.
    pub ports: BTreeMap<String, u16>,
}

/// How the ledger of drills, `db psql` and operators reach the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseAccess {
    /// Application DSN through the router, reading and writing.
    pub app_url: Secret,
    /// The same, reading only.
    pub app_read_url: Secret,
    /// mainstay's own ledger database through the router.
    pub ledger_url: Secret,
    /// Superuser directly on each member's Unix socket (`host` is the socket folder).
    pub direct: BTreeMap<Member, Secret>,
}

/// What `db migrate` did to the schema: told so that it is among the events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaChanged {
    /// Files that were run, in their order.
    pub scripts: Vec<String>,
    /// They took something back.
    pub is_undo: bool,
    /// Restore point before them, for `restore --to "name NAME"`.
    pub restore_point: String,
    /// Where the schema is now, in a line.
    pub schema: String,
}

/// A one-time link to the console.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleLink {
    /// The link, token in the fragment.
    pub url: String,
}

/// What a positive control breaks on purpose, until the next failover is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sabotage {
    /// Nothing: back to normal.
    Off,
    /// The next failover promotes without fencing the old primary.
    PromoteWithoutFencing,
    /// The same, and the old primary is left alone for some seconds after it too.
    ThawWithoutFencing,
    /// The edge's listeners are no longer held: they close with the edge.
    CloseEdgeListeners,
    /// The router's listeners are no longer held: they close with the router.
    CloseRouterListeners,
    /// The next start of a child that is no database comes several seconds late.
    StartLate,
    /// The next lost standby: commits wait for it for some seconds more, and its start comes as late.
    UnblockLate,
    /// The ballast is not thrown off when the disk is full.
    KeepBallast,
    /// The edge is not told of instances that are started.
    LeaveOut,
    /// Instances that nobody wants any more are killed at once, and the edge is told a second later.
    KillUndrained,
}

/// Any error of the API, as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable code, a page of `docs/errors`.
    pub code: String,
    /// What failed, against which rule.
    pub title: String,
    /// The next step.
    pub help: Option<String>,
}
