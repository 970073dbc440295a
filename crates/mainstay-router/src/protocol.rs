//! The router's control socket. The router listens, the control plane dials; frames of
//! `mainstay_supervisor::wire`. Two streams: durable policy and ephemeral targets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mainstay_types::{Generation, Member, Secret, Timeline};
use serde::{Deserialize, Serialize};

/// Version of this protocol and of the policy file.
pub const PROTOCOL_VERSION: u32 = 1;

/// To the router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "kebab-case")]
pub enum ToRouter {
    /// Replace the policy. Answered by `Accepted` or `Rejected`.
    Policy {
        /// The whole policy.
        policy: Box<Policy>,
    },
    /// Where writes and reads go from now on. Refused (`Rejected`) when its epoch is older than the last.
    Targets {
        /// The targets.
        targets: Targets,
    },
    /// Ask for the metrics page. Answered by `Metrics`.
    Metrics,
    /// Ask how the pools are. Answered by `Pools`.
    Pools,
}

/// From the router.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "kebab-case")]
pub enum FromRouter {
    /// First frame on a connection.
    Hello {
        /// [`PROTOCOL_VERSION`].
        version: u32,
        /// Policy in force.
        generation: Option<Generation>,
        /// Targets in force.
        targets: Option<Targets>,
    },
    /// The policy is in force and on disk.
    Accepted {
        /// Its generation.
        generation: Generation,
    },
    /// These targets are in force and on disk; server connections to others are closed.
    Pointed {
        /// Their epoch.
        epoch: u64,
    },
    /// Not taken; what was before stays.
    Rejected {
        /// Which rule it breaks.
        reason: String,
    },
    /// Once a second.
    Report {
        /// Length of the window. **Unit**: milliseconds.
        window_ms: u64,
        /// Write door.
        write: Counts,
        /// Read door.
        read: Counts,
    },
    /// Server connections that are still at work at members that the targets in force no longer lead to: told
    /// after every change of the targets, and then whenever it changes, until none is. While sessions are held
    /// (`write` is `None`), a session counts until its transaction is over; nothing is sent there afterwards.
    Leaving {
        /// The epoch of the targets.
        epoch: u64,
        /// Connections by member; a member without any is not named.
        by_member: BTreeMap<Member, u64>,
    },
    /// At the end of a failover: what became of the sessions.
    FailoverDone {
        /// The epoch that ended it.
        epoch: u64,
        /// Sessions held and carried over.
        carried: u64,
        /// Ended with 57P01: they had state.
        ended: u64,
        /// Of those carried over, in an open transaction: it was told 40001.
        #[serde(default)]
        aborted: u64,
        /// Got 08007: a statement was in flight.
        in_flight: u64,
        /// Longest hold. **Unit**: milliseconds.
        longest_hold_ms: u64,
    },
    /// The metrics page, Prometheus text form.
    Metrics {
        /// The page.
        text: String,
    },
    /// How the pools are.
    Pools {
        /// By door, database and role.
        pools: Vec<PoolState>,
    },
}

/// How servers are given to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolMode {
    /// A client has a server for as long as it is connected.
    #[default]
    Session,
    /// A client has a server for as long as a transaction lasts, or state of its own ties it to one.
    Transaction,
}

/// One pool: the clients of a role in a database by one door, and their servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolState {
    /// `write` or `read`.
    pub door: String,
    /// Database.
    pub database: String,
    /// Role.
    pub role: String,
    /// How servers are given out.
    pub mode: PoolMode,
    /// Most server connections.
    pub size: u64,
    /// Client sessions that have a server now.
    pub clients_active: u64,
    /// Client sessions that need none now.
    pub clients_idle: u64,
    /// Client sessions that wait for one.
    pub clients_waiting: u64,
    /// Of the active ones, those that keep their server between transactions for state of their own.
    pub clients_tied: u64,
    /// Why they keep it: how many for which reason.
    #[serde(default)]
    pub tied_by: BTreeMap<String, u64>,
    /// Server connections without a client.
    pub servers_idle: u64,
    /// How often a client got a server, since the router started.
    pub acquired: u64,
    /// Of these, how often it waited in the queue first.
    pub waited: u64,
    /// 95th percentile of these waits. **Unit**: microseconds.
    pub wait_p95_us: Option<u64>,
    /// How often a client waited for too long and was told so.
    pub refused: u64,
    /// Client sessions of this door that are held for a primary now.
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

/// What went through a door in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Client sessions now.
    pub clients: u64,
    /// Of these, held now.
    pub held: u64,
    /// Server connections now.
    pub servers: u64,
    /// Query cycles (to ReadyForQuery) finished.
    pub statements: u64,
    /// Of these, ended by an error of ours or a lost server.
    pub errors: u64,
    /// 95th percentile of a query cycle. **Unit**: microseconds.
    pub p95_us: Option<u64>,
}

/// All that the router needs to authenticate and to bound itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// [`PROTOCOL_VERSION`].
    pub schema: u32,
    /// Its place in the order of policies.
    pub generation: Generation,
    /// Roles that may come in, by role name, with the password that opens both sides (SCRAM-SHA-256).
    pub roles: BTreeMap<String, Secret>,
    /// Databases that may be named.
    pub databases: Vec<String>,
    /// Most client sessions over both doors.
    pub max_clients: u32,
    /// Most server connections.
    pub max_servers: u32,
    /// How long a session is held. **Unit**: milliseconds.
    pub hold_ms: u64,
    /// How servers are given to clients.
    #[serde(default)]
    pub pool: PoolPolicy,
    /// Offered to clients that ask for TLS; without one they are told that there is none.
    #[serde(default)]
    pub tls: Option<Identity>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// PEM chain, leaf first.
    pub chain_pem: String,
    /// PEM private key (PKCS #8).
    pub key_pem: Secret,
}

/// Bounds of each pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolPolicy {
    /// How servers are given out.
    pub mode: PoolMode,
    /// Most server connections of a role in a database by one door.
    pub size: u32,
    /// How long a client waits for one. **Unit**: milliseconds.
    pub wait_ms: u64,
    /// Most clients that wait for one at the same time.
    pub queue: u32,
    /// Server connections that stay, however long they are idle.
    pub least_idle: u32,
    /// How long others may be idle. **Unit**: milliseconds.
    pub idle_ms: u64,
    /// How old a server connection becomes. **Unit**: milliseconds.
    pub lifetime_ms: u64,
    /// How long a reader waits for a standby to have what it must see. **Unit**: milliseconds.
    pub read_wait_ms: u64,
}

impl Default for PoolPolicy {
    fn default() -> Self {
        Self {
            mode: PoolMode::Session,
            size: 10,
            wait_ms: 30_000,
            queue: 1_000,
            least_idle: 2,
            idle_ms: 600_000,
            lifetime_ms: 1_800_000,
            read_wait_ms: 1_000,
        }
    }
}

/// Where statements go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Targets {
    /// Rises with every change of primary; an older one is refused.
    pub epoch: u64,
    /// The primary; `None`: hold. What is begun goes on, nothing new is begun there.
    pub write: Option<Server>,
    /// Standbys for the read door; when empty, the primary serves it.
    pub read: Vec<Server>,
}

/// A PostgreSQL server on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Which member.
    pub member: Member,
    /// Its timeline when it was made a target.
    pub timeline: Timeline,
    /// Folder of its Unix socket.
    pub socket_dir: PathBuf,
    /// Its port (names the socket file).
    pub port: u16,
}
