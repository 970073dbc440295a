//! The configuration file of a server, written at every start, and what keep is asked to run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mainstay_supervisor::protocol::{Limits, SpawnSpec, User};
use mainstay_types::{ChildName, ChildRole, Nonce, Secret};

use crate::layout::{Kind, Part, SOCKET_PATH_MAX, Settings};

/// Most clients. A default server allows 10000 and then lowers it by itself to what descriptors allow.
const CLIENTS_MAX: u32 = 4000;

/// Why a server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The socket's path would not fit.
    #[error("socket path {path} has {length} bytes, at most {SOCKET_PATH_MAX} fit: use a shorter runtime folder")]
    LongPath {
        /// The path.
        path: String,
        /// Its length.
        length: usize,
    },
    /// A path or password could not be written into the file.
    #[error("{what} of {kind} holds a line end, a quote or a backslash: use another")]
    Unwritable {
        /// What.
        what: &'static str,
        /// Whose.
        kind: Kind,
    },
    /// The file system said no.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Writes the configuration and says what to run. SIGTERM ends it in order.
///
/// **Errors**: a path too long, something that cannot be written into the file, or the file system's.
pub fn spec(settings: &Settings, program: &Path, nonce: Nonce, log: PathBuf) -> Result<SpawnSpec, SpecError> {
    let socket = settings.socket();
    let length = socket.as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(SpecError::LongPath { path: socket.display().to_string(), length });
    }
    let text = text(settings)?;
    let user = settings.user.as_ref();
    let dir = settings.dir();
    folder(&settings.state.join("redis"), 0o711, None)?;
    folder(&dir, 0o700, user)?;
    // Services of other users connect: the password decides.
    folder(&settings.socket_dir(), 0o755, user)?;
    let file = dir.join("redis.conf");
    write(&file, &text, user)?;
    let env = [("LANG", "C.UTF-8"), ("PATH", "/usr/bin:/bin"), ("TZ", "UTC")];
    Ok(SpawnSpec {
        name: ChildName::new(settings.name()).expect("cache, store and store-b are names"),
        role: ChildRole::Redis,
        nonce,
        argv: vec![program.to_string_lossy().into_owned(), file.to_string_lossy().into_owned()],
        env: env.into_iter().map(|(name, value)| (name.to_owned(), Secret::new(value))).collect::<BTreeMap<_, _>>(),
        dir,
        user: settings.user.clone(),
        log,
        listeners: Vec::new(),
        limits: Limits::default(),
        restart: false,
        project: None,
        shown: Vec::new(),
    })
}

/// What makes a server one of several.
fn follow(line: &mut impl FnMut(&str, &str), part: Option<&Part>, port: u16, password: &str) {
    let Some(part) = part else { return };
    line("masterauth", password);
    line("repl-diskless-sync", "yes");
    line("repl-diskless-sync-delay", "0");
    // What a replica misses in a moment without its primary is made up for from here, and not by a copy of all.
    line("repl-backlog-size", "16mb");
    line("replica-read-only", "yes");
    if !part.is_primary {
        // Whoever serves has this port: another primary is found without a word.
        line("replicaof", &format!("127.0.0.1 {port}"));
        // While it writes its first file of what it follows, a server refuses to end. Its primary has all of that.
        line("shutdown-on-sigterm", "now force");
    }
}

/// Text of the configuration file.
fn text(settings: &Settings) -> Result<String, SpecError> {
    let Settings { kind, port, cache, password, part, .. } = settings;
    let kind = *kind;
    let quote = |what, value: &str| {
        if value.contains(['\n', '\r', '\0', '"', '\\']) {
            return Err(SpecError::Unwritable { what, kind });
        }
        Ok(format!("\"{value}\""))
    };
    let socket = quote("socket path", &settings.socket().to_string_lossy())?;
    let dir = quote("state folder", &settings.dir().to_string_lossy())?;
    let password = quote("password", password.expose())?;
    let mut text = String::from("# Written by mainstay at every start: changes are lost.\n");
    // Writing to a String cannot fail.
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name} {value}");
    };
    line("bind", "127.0.0.1");
    let is_replica = part.as_ref().is_some_and(|part| !part.is_primary);
    line("port", &if is_replica { 0 } else { *port }.to_string());
    line("protected-mode", "yes");
    line("unixsocket", &socket);
    line("unixsocketperm", "777");
    line("requirepass", &password);
    line("dir", &dir);
    line("daemonize", "no");
    line("supervised", "no");
    line("maxclients", &CLIENTS_MAX.to_string());
    line("timeout", "0");
    line("tcp-keepalive", "60");
    // Each can end or leak the whole server, and nothing that an application does needs one of them.
    for command in ["DEBUG", "MODULE", "SHUTDOWN", "SLAVEOF", "MIGRATE"] {
        line("rename-command", &format!("{command} \"\""));
    }
    let replicaof = part.as_ref().map_or(String::new(), |part| part.command.expose().to_owned());
    line("rename-command", &format!("REPLICAOF \"{replicaof}\""));
    follow(&mut line, part.as_ref(), *port, &password);
    line("save", "\"\"");
    line("stop-writes-on-bgsave-error", "no");
    match kind {
        Kind::Cache => {
            line("appendonly", "no");
            line("maxmemory", &cache.cache_memory.0.to_string());
            line("maxmemory-policy", "allkeys-lru");
            // Freeing many keys at once must not stall the ones that are read.
            line("lazyfree-lazy-eviction", "yes");
            line("lazyfree-lazy-expire", "yes");
        }
        Kind::Store => {
            line("appendonly", if cache.store_persists { "yes" } else { "no" });
            line("appendfsync", "everysec");
            // A crash can cut the last command off; without this the server would refuse to start.
            line("aof-load-truncated", "yes");
            line("maxmemory", &cache.store_memory.0.to_string());
            line("maxmemory-policy", "noeviction");
        }
    }
    Ok(text)
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpecError {
    let path = path.to_owned();
    move |source| SpecError::File { action, path, source }
}

pub(crate) fn give(path: &Path, user: Option<&User>) -> Result<(), SpecError> {
    let Some(user) = user else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid)).map_err(at("change the owner of", path))
}

pub(crate) fn folder(path: &Path, mode: u32, user: Option<&User>) -> Result<(), SpecError> {
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(at("make the folder", path))?;
    // The mode of creation is cut by the umask; this one is not.
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at("set the mode of", path))?;
    give(path, user)
}

/// In one step, so that a crash leaves the old file or the new one. It holds the password: 0600.
pub(crate) fn write(path: &Path, text: &str, user: Option<&User>) -> Result<(), SpecError> {
    let aside = path.with_extension("new");
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("remove", &aside)(error)),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .map_err(at("make the file", &aside))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(at("write", &aside))?;
    give(&aside, user)?;
    std::fs::rename(&aside, path).map_err(at("put in place", path))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mainstay_stack::model::{Cache, StoreCopies};
    use mainstay_types::Bytes;

    use super::*;

    fn text_of(kind: Kind, password: &str) -> Result<String, SpecError> {
        text(&Settings {
            kind,
            state: PathBuf::from("/s"),
            runtime: PathBuf::from("/r"),
            port: 6379,
            password: Secret::new(password),
            cache: Cache {
                cache_memory: Bytes::mebi(16),
                store_memory: Bytes::mebi(32),
                store_persists: true,
                store_replicas: 0,
                copies: StoreCopies::default(),
            },
            part: None,
            user: None,
        })
    }

    #[test]
    fn the_cache_evicts_and_the_store_persists() {
        let cache = text_of(Kind::Cache, "p").unwrap();
        let cache: BTreeSet<&str> = cache.lines().collect();
        assert!(cache.contains("maxmemory-policy allkeys-lru") && cache.contains("appendonly no"));
        assert!(cache.contains("maxmemory 16777216"));
        let store = text_of(Kind::Store, "p").unwrap();
        let store: BTreeSet<&str> = store.lines().collect();
        assert!(store.contains("maxmemory-policy noeviction") && store.contains("appendonly yes"));
        assert!(store.contains("bind 127.0.0.1") && store.contains("requirepass \"p\""));
    }

    #[test]
    fn a_password_that_would_end_its_line_is_refused() {
        assert!(matches!(text_of(Kind::Cache, "a\nport 1"), Err(SpecError::Unwritable { .. })));
        assert!(matches!(text_of(Kind::Cache, "a\" b"), Err(SpecError::Unwritable { .. })));
    }
}
