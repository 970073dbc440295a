//! The typed stack: what is left when every rule has been checked. Past here nothing is re-validated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use mainstay_types::{Bytes, Endpoint, EnvironmentName, ObjectAddress, ServiceName, StackName};
use serde::{Deserialize, Serialize};

use crate::balance::{Balancing, Resilience};
use crate::browser::{Cors, Headers};
use crate::deploy::Deploy;
use crate::drills::Drills;
use crate::edits::Edits;
use crate::identity::{Entry, Issuer};
use crate::limit::Limit;
use crate::network::Admission;
use crate::scale::Scale;
use crate::schedule::Every;
use crate::tls::{Acme, ClientCertificate};

/// One application's whole architecture in one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    /// Its name.
    pub name: StackName,
    /// The environment it was read for.
    pub environment: EnvironmentName,
    /// The front door.
    pub edge: Edge,
    /// Application processes, by name.
    pub services: BTreeMap<ServiceName, Service>,
    /// Static sites, by name.
    pub sites: BTreeMap<String, Site>,
    /// PostgreSQL, when the stack has one.
    pub database: Option<Database>,
    /// Redis, when the stack has one.
    pub cache: Option<Cache>,
    /// Metrics and alerts.
    pub observe: Observe,
    /// Console and admin API.
    pub console: Console,
    /// How a new release takes the place of the one before it.
    pub deploy: Deploy,
    /// The promises that drills measure. Missing ones have documented defaults.
    pub target: Target,
    /// What drills use of the application.
    pub drills: Drills,
}

/// The front door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edge {
    /// Host name it answers to. Default: `domain` in production, else `NAME.localhost`.
    pub host: String,
    /// Further names it answers to. Default none.
    pub aliases: Vec<String>,
    /// HTTPS port asked for. Default 8443.
    pub https_port: u16,
    /// HTTP port that redirects to HTTPS. Default 8080.
    pub http_port: u16,
    /// Address to listen on. Default 127.0.0.1.
    pub listen: String,
    /// Limits of every request, but for routes that are exempt. Default none.
    pub limits: Vec<Limit>,
    /// Who may connect. Default everybody.
    pub admission: Admission,
    /// How long a request waits when no instance is ready. Default 30 s.
    pub hold: Duration,
    /// Requests that wait so at once, of each service. Default 1024.
    pub hold_requests: u32,
    /// Connections that one address may have at once. Default: no bound but that of all.
    pub connections_per_ip: Option<u32>,
    /// Lowest version of TLS. Default 1.2.
    pub least_tls: TlsVersion,
    /// A certificate of the operator's own. Default: one of the local authority.
    pub certificate: Option<OwnCertificate>,
    /// Certificates from a public authority. Default: none are asked for.
    pub acme: Option<Acme>,
    /// Certificates of authorities that sign those of clients, a file in PEM. Default: clients are asked for none.
    pub client_ca: Option<PathBuf>,
    /// What becomes of instances that are new or fail.
    pub resilience: Resilience,
    /// Nobody is let in on any route, and told to come back after this time.
    pub maintenance: Option<Duration>,
    /// Who signs tokens that routes ask for, by name.
    pub identities: BTreeMap<String, Issuer>,
    /// Routes, most specific first once sorted by the edge.
    pub routes: Vec<Route>,
}

impl Edge {
    /// All names it answers to.
    pub fn hosts(&self) -> Vec<String> {
        [&self.host].into_iter().chain(&self.aliases).cloned().collect()
    }

    /// Where certificates come from: no public authority signs for a name of this machine.
    pub fn authority(&self) -> Option<&Acme> {
        self.acme.as_ref().filter(|_| crate::tls::is_public(&self.host))
    }
}

/// Files of a certificate, relative to the stack file's folder; they may lie outside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnCertificate {
    /// The chain in PEM, leaf first.
    pub cert: PathBuf,
    /// Its key in PEM.
    pub key: PathBuf,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// 1.2.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// One route of the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// `/exact` or `/prefix/*`.
    pub path: String,
    /// Where it leads.
    pub to: RouteTarget,
    /// Time for the upstream's whole answer. Default 60 s.
    pub timeout: Duration,
    /// Limits of its own, besides those of the edge.
    pub limits: Vec<Limit>,
    /// Whether those of the edge do not count here: `limit = "none"`.
    pub is_exempt: bool,
    /// Who may use it. Default everybody.
    pub admission: Admission,
    /// Security headers of its answers.
    pub headers: Headers,
    /// Which other sites may use it. Default none.
    pub cors: Option<Cors>,
    /// Longest request body. Default 100 MiB.
    pub body_limit: Bytes,
    /// How its requests are spread over instances.
    pub balancing: Balancing,
    /// From which size on its answers are compressed. Default: a site's from 1 KiB, a service's never.
    pub compress: Option<Bytes>,
    /// What it changes in requests and answers.
    pub edits: Edits,
    /// Who may enter with a password, with the name of the secret. Default: everybody without one.
    pub basic_auth: BTreeMap<String, String>,
    /// Who may enter with a token. Default: everybody without one.
    pub identity: Option<Entry>,
    /// Whether clients show a certificate. Default: they are not asked.
    pub client_certificate: Option<ClientCertificate>,
    /// Nobody is let in, and told to come back after this time.
    pub maintenance: Option<Duration>,
}

impl Route {
    /// Whether the edge knows who comes.
    pub fn knows_users(&self) -> bool {
        self.identity.is_some() || !self.basic_auth.is_empty()
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RouteTarget {
    /// The instances of a service.
    Service {
        /// Which.
        name: ServiceName,
        /// Its management port instead of its main port.
        management: bool,
    },
    /// A static site.
    Site {
        /// Which.
        name: String,
    },
    /// Somewhere else: the edge answers with the place.
    Redirect {
        /// A path or URL; a `*` at its end stands for what the route's own stands for.
        location: String,
        /// 301, 302, 307 or 308. Default 308.
        status: u16,
    },
}

/// An application process kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Command and arguments.
    pub run: Vec<String>,
    /// Working directory, relative to the stack file's folder. Default: that folder.
    pub dir: PathBuf,
    /// Whether it listens on `PORT`. A worker does not.
    pub has_port: bool,
    /// Whether it also listens on `MANAGEMENT_PORT`.
    pub has_management_port: bool,
    /// How many instances run. Default 1; `[service.NAME.scale] min`. 0 for a service with a schedule.
    pub instances: u32,
    /// How that number follows the load. Default: it does not.
    pub scale: Option<Scale>,
    /// When it runs, for one that has no standing instances.
    pub schedule: Option<Schedule>,
    /// Environment variables; values may hold `${NAME}` templates.
    pub env: BTreeMap<String, String>,
    /// Names of sealed secrets it is given as environment variables.
    pub secrets: BTreeSet<String>,
    /// How its readiness is known.
    pub health: Health,
    /// Services that must be ready first.
    pub needs: BTreeSet<ServiceName>,
    /// Whether it is given the database. Default: the stack has one, and `uses` does not leave it out.
    pub uses_database: bool,
    /// As whom it connects to the database, and to which. Default: as the owner of the stack's own.
    pub database: Option<DatabaseUse>,
    /// Whether it is given cache and store. Default: the stack has them, and `uses` does not leave them out.
    pub uses_cache: bool,
    /// Database connections that one instance may hold. Default 10 when it uses the database.
    pub pool: u32,
    /// Release command: once per release before the first instance.
    pub before: Option<Vec<String>>,
    /// Time from SIGTERM to SIGKILL. Default 30 s.
    pub drain: Duration,
    /// Path of its metrics in Prometheus text form, on the management port if it has one.
    pub metrics: Option<String>,
    /// Memory limit of one instance.
    pub memory: Option<Bytes>,
    /// CPU limit of one instance. **Unit**: thousandths of a core.
    pub cpu_milli: Option<u32>,
}

impl Service {
    /// Processes of it that may run at once: its instances, or the one run of its schedule.
    pub fn most_at_once(&self) -> u32 {
        if self.schedule.is_some() { 1 } else { self.instances }
    }

    /// The most instances that may stand at once.
    pub fn most_instances(&self) -> u32 {
        self.scale.as_ref().map_or(0, Scale::most).max(self.instances)
    }
}

/// Runs that come and go, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// When.
    pub every: Every,
    /// How long a run may take before it is ended. Default 1 h.
    pub timeout: Duration,
    /// Whether a time that was missed (the machine was down) is made up for, once. Default true.
    pub catch_up: bool,
}

/// Readiness and liveness of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What is asked.
    pub probe: Probe,
    /// Pause between two looks in the steady state. Default 10 s.
    pub interval: Duration,
    /// Time for an answer. Default 5 s, or the interval where that is shorter.
    pub timeout: Duration,
    /// Good answers in a row that admit a suspended instance. Default 2.
    pub up_after: u32,
    /// Bad answers in a row that eject it. Default 3.
    pub down_after: u32,
    /// Time from start to the first good answer, after which it counts as failed. Default 60 s.
    pub start_within: Duration,
}

/// A question to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Probe {
    /// `GET path` answers 2xx or 3xx.
    Http {
        /// The path.
        path: String,
        /// On the management port.
        management: bool,
    },
    /// The port accepts a connection.
    Tcp,
    /// It runs (a worker).
    Process,
}

/// A folder of built assets that the edge serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The folder, relative to the stack file's.
    pub dir: PathBuf,
    /// Unknown paths without a file extension answer with `index.html`.
    pub spa: bool,
    /// How long clients keep its files.
    pub cache: SiteCache,
}

/// How long clients keep the files of a site. Pages are always asked for again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum SiteCache {
    /// A year for names with a hash of their content; others are asked for again each time.
    #[default]
    Assets,
    /// All are asked for again each time.
    Revalidate,
    /// None is kept.
    NoStore,
    /// So long, but for pages.
    For {
        /// The time.
        time: Duration,
    },
}

/// How much an acknowledged write is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Asynchronous: a failover may lose the last acknowledged writes.
    Fast,
    /// Synchronous while a standby streams, asynchronous (with an alert) while none does.
    Balanced,
    /// Synchronous always: without a standby, writes wait.
    Strict,
}

impl Durability {
    /// Each, from the one that risks most.
    pub const ALL: [Self; 3] = [Self::Fast, Self::Balanced, Self::Strict];

    /// As the stack file writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Balanced => "balanced",
            Self::Strict => "strict",
        }
    }

    /// What it risks, with so many standbys, in a sentence for people.
    pub fn risk(self, standbys: u32) -> &'static str {
        match (self, standbys) {
            (_, 0) => {
                "Without a standby a crash is an outage until the primary has recovered; acknowledged writes survive it."
            }
            (Self::Fast, _) => {
                "Commits wait for no standby: a failover may lose the last acknowledged writes, and says how many."
            }
            (Self::Balanced, _) => {
                "Commits wait for one standby while one streams: a crash of the primary loses nothing. When the last \
                 standby is lost, writes go on without one, with an alert; a crash of the primary then is an outage \
                 until it has recovered."
            }
            (Self::Strict, 1) => {
                "Commits always wait for the standby: nothing is lost, and while the standby is away, writes wait."
            }
            (Self::Strict, _) => {
                "Commits always wait for one of the standbys: nothing is lost, and while all of them are away, writes wait."
            }
        }
    }

    /// What none of them changes.
    pub const ONE_MACHINE: &'static str = "All of it is on one machine: the loss of its disk is the loss of all.";
}

/// How the router gives server connections to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolMode {
    /// A client has one for as long as it is connected.
    Session,
    /// A client has one for as long as a transaction lasts, or state of its own ties it to one.
    Transaction,
}

/// What a further role may do with the tables of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoleAccess {
    /// Read rows.
    Read,
    /// Read and write rows; make and drop nothing.
    Write,
}

impl RoleAccess {
    /// As the stack file writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// A role besides the owners of databases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseRole {
    /// What it may do.
    pub access: RoleAccess,
    /// The one database that it may connect to. Default: the stack's own.
    pub database: String,
}

/// As whom a service connects, and to which database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseUse {
    /// The database. Default: that of the role, else the stack's own.
    pub name: Option<String>,
    /// The role. Default: the owner of the database.
    pub role: Option<String>,
}

impl Database {
    /// Role and database of a connection.
    pub fn connection<'a>(&'a self, wanted: Option<&'a DatabaseUse>) -> (&'a str, &'a str) {
        let Some(DatabaseUse { name, role }) = wanted else { return (&self.name, &self.name) };
        match (role, name) {
            (Some(role), name) => match self.roles.get(role) {
                Some(known) => (role, &known.database),
                // The owner of a database bears its name.
                None => (role, name.as_deref().unwrap_or(role)),
            },
            (None, Some(name)) => (name, name),
            (None, None) => (&self.name, &self.name),
        }
    }

    /// Every role that applications connect as, with its database: owners first.
    pub fn connections(&self) -> Vec<(&str, &str)> {
        let owners = std::iter::once(&self.name).chain(&self.databases).map(|name| (name.as_str(), name.as_str()));
        owners.chain(self.roles.iter().map(|(role, known)| (role.as_str(), known.database.as_str()))).collect()
    }
}

/// PostgreSQL primary, standbys and the router in front of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Database name and owner of the application. Default: the stack's name with `-` as `_`.
    pub name: String,
    /// Standbys, 0 to 5. Default 1.
    pub standbys: u32,
    /// Default `balanced`.
    pub durability: Durability,
    /// Silence after which a primary counts as hung. Default 3 s.
    pub hang_after: Duration,
    /// How long the router holds a session through a failover. Default 30 s.
    pub hold: Duration,
    /// The server's `max_connections`. Default 100.
    pub max_connections: u32,
    /// Default `session`.
    pub pool_mode: PoolMode,
    /// Most server connections of a role in a database by one port of the router, in transaction mode. Default: what
    /// the services may open, at least 10, at most `max_connections` less what mainstay keeps.
    pub pool_size: Option<u32>,
    /// Further bounds of the router's pools, in transaction mode.
    pub pool: PoolLimits,
    /// Folder of migrations, named as Flyway (`V1__name.sql`) or sqlx (`1_name.sql`) names them, relative to the stack
    /// file's.
    pub migrations: Option<PathBuf>,
    /// Router port for reading and writing. Default 6432.
    pub write_port: u16,
    /// Router port for reading only. Default 6433.
    pub read_port: u16,
    /// Further databases, each owned by a role of its own name.
    pub databases: BTreeSet<String>,
    /// Further roles, with less than an owner may.
    pub roles: BTreeMap<String, DatabaseRole>,
    /// Further server settings, as postgresql.conf names them.
    pub settings: BTreeMap<String, String>,
    /// Where backups go. Default: nowhere, there are none.
    pub backup: Option<Backup>,
}

/// Backups of the database: base backups and continuous WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Where they are.
    pub target: BackupTarget,
    /// Most that may be lost with the machine, in time: WAL is archived at least twice as often. Default 1 min.
    pub rpo: Duration,
    /// When a day of backups begins, from midnight UTC. Default 3 h.
    pub day_begins: Duration,
    /// Any moment of so long a past can be restored. Default 7 d.
    pub window: Duration,
    /// How old the last proven restore may become before an alert. Default 1 d.
    pub proof: Duration,
    /// How long the first backup of each period is kept.
    pub keep: Keep,
    /// Statements whose one answer must be true in every restored copy that is proven.
    pub asserts: Vec<String>,
    /// A second copy of the folder, off the machine. Default: none.
    pub copy: Option<BackupCopy>,
}

impl Backup {
    /// The object store that they are in, or are copied to, if there is one.
    pub fn away(&self) -> Option<Away<'_>> {
        match (&self.target, &self.copy) {
            (BackupTarget::Store(store), _) => Some(Away { store, rpo: self.rpo, is_target: true }),
            (BackupTarget::Folder(_), Some(copy)) => Some(Away { store: &copy.store, rpo: copy.rpo, is_target: false }),
            (BackupTarget::Folder(_), None) => None,
        }
    }
}

/// Where base backups and archived WAL are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackupTarget {
    /// A folder; relative to the stack file's, and may lie outside it.
    Folder(PathBuf),
    /// An object store.
    Store(ObjectStore),
}

impl std::fmt::Display for BackupTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Store(store) => store.address.fmt(f),
        }
    }
}

/// Backups off the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Away<'a> {
    /// Where.
    pub store: &'a ObjectStore,
    /// How far they may be behind before an alert.
    pub rpo: Duration,
    /// They are there and nowhere else; else it is a copy of a folder.
    pub is_target: bool,
}

/// An object store, and how it is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectStore {
    /// Bucket and prefix.
    pub address: ObjectAddress,
    /// The server that has the bucket. Default: that of Amazon in the region, of Google, of Azure.
    pub endpoint: Option<Endpoint>,
    /// The region that requests are signed for. Default `us-east-1`.
    pub region: String,
    /// Variable that holds the access key at `up`, or with `_FILE` after it names a file of it.
    pub access_key: String,
    /// Variable that holds the secret key at `up`, or with `_FILE` after it names a file of it.
    pub secret_key: String,
    /// Certificates that the server's is signed by; relative to the stack file. Default: those of the system.
    pub ca: Option<PathBuf>,
}

/// A copy of the folder of backups in an object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupCopy {
    /// Where.
    pub store: ObjectStore,
    /// How far the copy may be behind before an alert. Default 5 min.
    pub rpo: Duration,
}

/// Families of base backups: the first of each period is kept for so long. Zero: there is no such family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// Default 7 d.
    pub hourly: Duration,
    /// Default 30 d.
    pub daily: Duration,
    /// Default 84 d, 12 weeks.
    pub weekly: Duration,
    /// Default 365 d.
    pub monthly: Duration,
    /// Default none.
    pub yearly: Duration,
    /// Those that a person took. Default 30 d.
    pub by_hand: Duration,
    /// The last one before each deploy, with the WAL up to it. Default 30 d.
    pub deploys: Duration,
}

impl Default for Keep {
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Self {
            hourly: days(7),
            daily: days(30),
            weekly: days(84),
            monthly: days(365),
            yearly: Duration::ZERO,
            by_hand: days(30),
            deploys: days(30),
        }
    }
}

/// Bounds of the router's pools besides their size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolLimits {
    /// How long a client waits for a server connection. Default 30 s.
    pub wait: Duration,
    /// Most clients of a pool that wait at the same time. Default 1000.
    pub queue: u32,
    /// Server connections of a pool that stay, however long they are idle. Default 2.
    pub idle: u32,
    /// How long others may be idle. Default 10 min.
    pub idle_timeout: Duration,
    /// How old a server connection becomes. Default 30 min.
    pub lifetime: Duration,
    /// How long a reader waits for a standby to have what it must see; then the primary serves it. Default 1 s.
    pub read_wait: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(30),
            queue: 1_000,
            idle: 2,
            idle_timeout: Duration::from_secs(600),
            lifetime: Duration::from_secs(1_800),
            read_wait: Duration::from_secs(1),
        }
    }
}

/// Two Redis: `cache` may be lost, `store` may not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// Memory bound of the cache (LRU). Default 256 MiB.
    pub cache_memory: Bytes,
    /// Memory bound of the store (no eviction). Default 256 MiB.
    pub store_memory: Bytes,
    /// Whether the store keeps an append-only file. Default true.
    pub store_persists: bool,
    /// Servers that follow the store and take over when it cannot be started again. Default 0, at most 2.
    pub store_replicas: u32,
    /// Copies of the store's data.
    pub copies: StoreCopies,
}

/// Copies of what the store holds, in the state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreCopies {
    /// How often one is taken, counted from 1970-01-01 00:00 UTC; zero: none. Default 1 h.
    pub every: Duration,
    /// How long each is kept. Default 1 d.
    pub keep: Duration,
    /// How long the first of each day (UTC) is kept. Default 7 d.
    pub keep_daily: Duration,
}

impl Default for StoreCopies {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self { every: Duration::from_secs(3600), keep: day, keep_daily: 7 * day }
    }
}

/// Metrics and alerts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observe {
    /// Whether Prometheus and Alertmanager run. Default true.
    pub enabled: bool,
    /// Scrape interval. Default 15 s.
    pub scrape: Duration,
    /// How long metrics are kept. Default 15 d.
    pub retention: Duration,
}

/// Console and admin API for the browser, on loopback.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// Port asked for. Default 7700.
    pub port: u16,
}

/// A promise about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// From injection to the first success of a run of successes.
    pub rto: Duration,
    /// Age of acknowledged data that may be lost; zero means none.
    pub rpo: Duration,
    /// Whether the stack file says it; else it is mainstay's documented default.
    pub is_declared: bool,
}

/// The promises of the stack file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// An instance dies. Default RTO 10 s, RPO 0.
    pub instance_crash: Promise,
    /// The database primary dies. Default RTO 60 s, RPO 0 (`fast`: 5 s).
    pub database_failure: Promise,
    /// The database primary and all its backends stop without dying. The RTO bounds the stall, at the 95th percentile.
    /// Default RTO `hang_after` and 1 s, RPO as `database_failure`.
    pub database_freeze: Promise,
    /// A standby dies. The RTO bounds the stall of writes, at the 95th percentile. Default RTO 200 ms, RPO 0.
    pub standby_loss: Promise,
    /// A planned change of the primary. The RTO bounds the stall of clients, at the 95th percentile. Default RTO 1 s, RPO 0.
    pub switchover: Promise,
    /// Instances are added. The RTO bounds the longest wait of a client, at the 95th percentile. Default RTO 1 s, RPO 0.
    pub scale_up: Promise,
    /// Instances are removed. The RTO bounds the longest wait of a client, at the 95th percentile. Default RTO 1 s, RPO 0.
    pub scale_down: Promise,
    /// A release takes the place of another. The RTO bounds the longest wait of a client, at the 95th percentile. Default
    /// RTO 1 s, RPO 0.
    pub deploy: Promise,
    /// A standby receives no log. The RTO bounds the stall of writes, at the 95th percentile: its sender gives it up
    /// after 5 s. Default RTO 8 s, RPO 0.
    pub replication_lag: Promise,
    /// Every connection of a pool is taken for 2 s. The RTO bounds the wait of a client that comes then. Default RTO 5 s,
    /// RPO 0.
    pub pool_exhaustion: Promise,
    /// A page is damaged on the disk of a member. Default RTO 15 s until its rows are answered rightly again; a damaged row
    /// never is, whatever RPO says.
    pub corrupt_page: Promise,
    /// The disk of the databases is full. Default RTO 5 s, RPO 0.
    pub disk_full: Promise,
    /// The edge dies. Default RTO 1 s, RPO 0.
    pub edge_crash: Promise,
    /// The router dies. Default RTO 1 s, RPO 0.
    pub router_crash: Promise,
    /// The cache dies. Default RTO 5 s; what it held may be gone.
    pub cache_crash: Promise,
    /// The cache is emptied. Default RTO 1 s of requests; the store keeps every key.
    pub cache_loss: Promise,
    /// The store dies. Default RTO 5 s, RPO 2 s.
    pub store_crash: Promise,
    /// The control plane dies. Default RTO 10 s, RPO 0.
    pub control_plane_crash: Promise,
    /// keep dies. Default RTO 10 s, RPO 0.
    pub keep_crash: Promise,
    /// Data is wanted back from the backups: RTO until the past can be read, RPO the age of what was not archived yet.
    /// Default RTO 30 min, RPO `database.backup.rpo`, else 1 min.
    pub restore: Promise,
    /// Only the second copy is left: RTO until the data can be read again, RPO the age of what was not in the copy yet.
    /// Default RTO 60 min, RPO `database.backup.rpo` and `database.backup.copy.rpo` together.
    pub machine_loss: Promise,
    /// Latency promise at the edge, if declared.
    pub p95: Option<Duration>,
}
