//! What is said between keep and its clients: one JSON object a frame (see [`crate::wire`]) on a Unix socket.
//!
//! A client sends [`Request`]s, each with an id of its choice; keep answers each with one [`Answer`] of the
//! same id, and sends [`Notice`]s at any time to every client that subscribed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mainstay_types::{Bytes, ChildName, ChildRole, ExitReason, Nonce, Pid, Secret, Timestamp};
use serde::{Deserialize, Serialize};

/// Version of this protocol; keep answers a greeting of this and the previous one.
pub const PROTOCOL_VERSION: u32 = 1;

/// Everything keep must know to start a child. All choices are made already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnSpec {
    /// Name, unique among running children.
    pub name: ChildName,
    /// What it is for.
    pub role: ChildRole,
    /// Identity of this start. Keep makes the intent durable before it starts anything, gives the child
    /// `MAINSTAY_NONCE` and an inherited lock on a file named by it.
    pub nonce: Nonce,
    /// Program (absolute, or looked up in `PATH` of `env`) and arguments.
    pub argv: Vec<String>,
    /// The whole environment; nothing is inherited.
    pub env: BTreeMap<String, Secret>,
    /// Working directory.
    pub dir: PathBuf,
    /// User to become; `None` stays what keep is.
    pub user: Option<User>,
    /// File for standard output and error, opened for appending, created with mode 0640.
    pub log: PathBuf,
    /// Names of held listeners, inherited as descriptors from 3 on in this order; the child also gets
    /// `MAINSTAY_LISTENERS=name:3,name:4`.
    pub listeners: Vec<String>,
    /// Resource limits, where a cgroup controller or rlimit can hold them.
    pub limits: Limits,
    /// Keep starts it again by itself within a second when it ends (only the control plane).
    pub restart: bool,
    /// Folder that holds `dir`, for a `user` who cannot come there because a parent is closed to others (a
    /// project under a home of mode 0700): the child then sees a private view in which the closed parent
    /// holds nothing but this folder. `None` is `dir` itself.
    #[serde(default)]
    pub project: Option<PathBuf>,
    /// Folders besides, wherever they lie, that `user` must be able to come to (its home): what is closed above them
    /// holds, for this child, them and `project` alone.
    #[serde(default)]
    pub shown: Vec<PathBuf>,
}

/// User and group of a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Numeric user id.
    pub uid: u32,
    /// Numeric group id.
    pub gid: u32,
}

/// Resource limits of a child and all its descendants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory.
    pub memory: Option<Bytes>,
    /// CPU. **Unit**: thousandths of a core.
    pub cpu_milli: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// A frame to keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client; comes back in the answer.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What a client asks of keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Ask {
    /// Versions; from now on this client gets notices.
    Subscribe {
        /// The client's [`PROTOCOL_VERSION`].
        version: u32,
    },
    /// Start a child. Refused when one of that name (or nonce) runs, with its pid.
    Spawn {
        /// All about it.
        spec: Box<SpawnSpec>,
    },
    /// Send a signal to a child's main process, if it is still the start with this nonce.
    Signal {
        /// Which start.
        nonce: Nonce,
        /// Signal number.
        signal: i32,
    },
    /// Kill every process of a child's tree (cgroup, lock holders, descendants); answered with `Done` when
    /// none is left, `Refused` when some survived the deadline.
    KillTree {
        /// Which start.
        nonce: Nonce,
        /// How long to try. **Unit**: milliseconds.
        deadline_ms: u64,
    },
    /// All children that run, and the last end of those that do not.
    List,
    /// Bind (once) and hold a public listener. Answered with its actual address.
    Listen {
        /// Its name.
        name: String,
        /// Address and port; port 0 chooses.
        address: String,
    },
    /// Close a held listener.
    Unlisten {
        /// Its name.
        name: String,
    },
    /// Keep exits; children go on unless they are stopped before.
    Exit,
}

/// A frame from keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "kebab-case")]
pub enum FromKeep {
    /// Answer to a request.
    Answer {
        /// The request's id.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// Something happened.
    Notice {
        /// What.
        notice: Notice,
    },
}

/// keep's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// Done.
    Done,
    /// Who keep is.
    Hello {
        /// Its [`PROTOCOL_VERSION`].
        version: u32,
        /// Its process id.
        pid: Pid,
        /// When it started.
        since: Timestamp,
        /// What cgroups can do here, for `doctor` and `status`: "v1 memory,cpu,pids; v2 kill" or a reason.
        cgroups: String,
    },
    /// The child runs.
    Spawned {
        /// Its process id.
        pid: Pid,
    },
    /// Answer to `List`.
    Children {
        /// All.
        children: Vec<Child>,
    },
    /// The listener is held.
    Listening {
        /// Where, as bound.
        address: String,
    },
    /// Not done.
    Refused {
        /// Why, with the values.
        reason: String,
        /// What kind of trouble.
        kind: Refusal,
    },
}

/// Kinds of refusal a caller acts upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// A child of that name runs.
    AlreadyRunning,
    /// No such child, or another start of it.
    NotRunning,
    /// The address is in use.
    AddressInUse,
    /// Program or directory missing or not permitted.
    Environment,
    /// The request makes no sense.
    Invalid,
    /// Processes survived.
    Survived,
}

/// A child as keep knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its name.
    pub name: ChildName,
    /// What it is for.
    pub role: ChildRole,
    /// Identity of this start.
    pub nonce: Nonce,
    /// Process id of its main process.
    pub pid: Pid,
    /// When it was started.
    pub since: Timestamp,
    /// Whether keep is its parent (else it was adopted after an earlier keep died).
    pub is_own: bool,
    /// How and when it ended, if it did.
    pub ended: Option<Ended>,
    /// How and when the start before this one ended, if keep knows it. Nobody else is there to see the end of the
    /// control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_before: Option<Ended>,
}

/// The end of a child.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How.
    pub reason: ExitReason,
    /// When keep learned of it.
    pub at: Timestamp,
}

/// Something that keep tells everyone who subscribed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "notice", rename_all = "kebab-case")]
pub enum Notice {
    /// A child's main process ended.
    Exited {
        /// The child, with `ended` set.
        child: Child,
    },
    /// A child was found running that an earlier keep had started.
    Adopted {
        /// The child.
        child: Child,
    },
}
