//! Which of the two, what it is started with, where it lives, and which program it is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_stack::model::Cache;
use mainstay_supervisor::protocol::User;
use mainstay_types::{Member, Secret};

use crate::resp::Door;

/// Oldest supported major version.
pub const OLDEST_MAJOR: u32 = 6;

/// Longest path of a Unix socket: `sun_path` holds 107 bytes and a zero.
pub const SOCKET_PATH_MAX: usize = 107;

/// Time for one answer.
pub const LOOK_WITHIN: Duration = Duration::from_secs(1);

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// May be lost: bounded memory, least recently used keys go first.
    Cache,
    /// May not be lost: append-only file, writes fail when memory is full.
    Store,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Cache, Self::Store];

    /// Its name: child, folder, label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Store => "store",
        }
    }

    /// The one of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a server of the store takes part when there are others, or were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which it is.
    pub member: Member,
    /// It serves.
    pub is_primary: bool,
    /// There are no others any more: it is reached as the only one is.
    pub is_alone: bool,
    /// The name that REPLICAOF has: nobody else is to know it.
    pub command: Secret,
}

/// What one of the two is started with, and where it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which of the two.
    pub kind: Kind,
    /// State folder of the stack; ours are `redis/cache` and `redis/store` in it.
    pub state: PathBuf,
    /// Runtime folder of the stack.
    pub runtime: PathBuf,
    /// Port on 127.0.0.1, because most drivers know no sockets; 0: the socket alone.
    pub port: u16,
    /// Password of the default user.
    pub password: Secret,
    /// What the stack file says.
    pub cache: Cache,
    /// Its part; `None`: it is the only one, and always was.
    pub part: Option<Part>,
    /// User that the server runs as; `None`: the one we are.
    pub user: Option<User>,
}

impl Settings {
    /// Its name: child, folder, label.
    pub fn name(&self) -> String {
        let member = self.part.as_ref().map_or(Member::A, |part| part.member);
        if member == Member::A { self.kind.to_string() } else { format!("{}-{member}", self.kind) }
    }

    /// Configuration and data.
    pub fn dir(&self) -> PathBuf {
        self.state.join("redis").join(self.name())
    }

    /// Folder of the socket. Beside others each has its own; the path that clients know is a link to the primary's.
    pub fn socket_dir(&self) -> PathBuf {
        match self.part.as_ref().filter(|part| !part.is_alone) {
            Some(part) => self.runtime.join(format!("redis-{}-{}", self.kind, part.member)),
            None => self.runtime.join(format!("redis-{}", self.kind)),
        }
    }

    /// The path that clients know.
    pub fn public_socket(&self) -> PathBuf {
        self.runtime.join(format!("redis-{}/redis.sock", self.kind))
    }

    /// The socket.
    pub fn socket(&self) -> PathBuf {
        self.socket_dir().join("redis.sock")
    }

    /// The way in, on the socket.
    pub fn door(&self) -> Door {
        Door { socket: self.socket(), password: self.password.clone(), within: LOOK_WITHIN }
    }
}

/// No usable server on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Redis {OLDEST_MAJOR} or newer, or Valkey, is missing ({found}); install it with: {install}")]
pub struct Missing {
    /// What was found instead.
    pub found: String,
    /// The command that installs it.
    pub install: String,
}

/// Finds the server: Valkey first, then Redis.
///
/// **Errors**: neither is there, or only an older one.
pub fn find_program() -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // A service manager's PATH may leave them out.
    folders.extend(["/usr/bin", "/usr/local/bin", "/usr/sbin"].map(PathBuf::from));
    let mut found = "none was found".to_owned();
    for name in ["valkey-server", "redis-server"] {
        for program in folders.iter().map(|folder| folder.join(name)).filter(|program| program.is_file()) {
            match major_version(&program) {
                Some(major) if major >= OLDEST_MAJOR => return Ok(program),
                Some(major) => found = format!("{} is version {major}", program.display()),
                None => found = format!("{} does not tell its version", program.display()),
            }
        }
    }
    Err(Missing { found, install: install_command() })
}

/// The major version of a server program; `None`: it does not tell.
pub fn major_version(program: &Path) -> Option<u32> {
    let output = std::process::Command::new(program).arg("--version").output().ok()?;
    // "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=…"
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
    version.split('.').next()?.parse().ok()
}

fn install_command() -> String {
    if Path::new("/etc/debian_version").exists() {
        "sudo apt-get install --no-install-recommends redis-server".to_owned()
    } else if Path::new("/etc/redhat-release").exists() {
        "sudo dnf install valkey".to_owned()
    } else {
        "your distribution's package valkey or redis".to_owned()
    }
}
