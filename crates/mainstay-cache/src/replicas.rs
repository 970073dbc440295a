//! Servers of the store that follow it: the record of who serves, what each looks like, how one takes over.
//!
//! The store's port is bound by its primary alone, and the path of its socket is a link to the primary's: clients and
//! replicas go to the same address, whoever is behind it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use mainstay_decide::replicas::{StoreAnswer, StoreRecord};
use mainstay_supervisor::durable;
use mainstay_types::{Seen, Timestamp};

use crate::config::{self, SpecError};
use crate::copies::{self, CopyError, at};
use crate::layout::{Part, Settings, major_version};
use crate::resp::ResponseError;

/// Older servers cannot bind another port while they run.
pub const OLDEST_MAJOR: u32 = 7;

/// Why a server cannot take its part.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The file system said no.
    #[error(transparent)]
    File(#[from] CopyError),
    /// A later record is on disk.
    #[error("epoch {asked} is not after epoch {on_disk} on disk: another change of the store's primary came first")]
    Older {
        /// On disk.
        on_disk: u64,
        /// Asked for.
        asked: u64,
    },
    /// It served before and has no file: begun empty, it would empty its replicas.
    #[error("the store's file is gone from {}: begun empty, it would empty its replicas too", .0.display())]
    Gone(PathBuf),
    /// A folder.
    #[error(transparent)]
    Folder(#[from] SpecError),
    /// Its answer.
    #[error(transparent)]
    Response(#[from] ResponseError),
}

fn record_file(state: &Path) -> PathBuf {
    state.join("redis/record.json")
}

/// The record; `None`: there was no change of primary yet.
///
/// **Errors**: it cannot be read.
pub fn record(state: &Path) -> Result<Option<StoreRecord>, PartError> {
    let path = record_file(state);
    match std::fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|error| at("understand", &path)(error.into()).into())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", &path)(error).into()),
    }
}

/// Writes it down, durably. Never back, and never the same epoch for another primary.
///
/// **Errors**: a later one is there; the file system's.
pub fn write_record(state: &Path, new: &StoreRecord) -> Result<(), PartError> {
    let known = record(state)?.unwrap_or_default();
    if known == *new {
        return Ok(());
    }
    if new.epoch <= known.epoch {
        return Err(PartError::Older { on_disk: known.epoch, asked: new.epoch });
    }
    let path = record_file(state);
    let text = serde_json::to_vec_pretty(new).map_err(io::Error::from);
    Ok(text.and_then(|text| durable::replace(&path, &text, 0o644)).map_err(at("write", &path))?)
}

fn begun_file(state: &Path) -> PathBuf {
    state.join("redis/store.begun")
}

/// Notes that the store has served: from then on it has a file. A first start that failed leaves none, and is no loss.
///
/// **Errors**: the file system's.
pub fn note_served(state: &Path) -> Result<(), PartError> {
    let path = begun_file(state);
    if path.exists() {
        return Ok(());
    }
    Ok(durable::replace(&path, b"", 0o644).map_err(at("write", &path))?)
}

/// Before a server is started: what its part asks of its files.
///
/// **Errors**: its file is gone; the file system's.
pub fn prepare(settings: &Settings, record: &StoreRecord) -> Result<(), PartError> {
    let Some(part) = settings.part.as_ref().filter(|part| !part.is_alone) else { return Ok(()) };
    config::folder(&settings.state.join("redis"), 0o711, None)?;
    if part.is_primary {
        if begun_file(&settings.state).exists() && !copies::has_file(settings) {
            return Err(PartError::Gone(settings.dir()));
        }
        return point(settings);
    }
    // What it acknowledged and its successor never had is in here, and nowhere else: kept, and not begun with.
    let stale = record.former == Some(part.member);
    let mark = settings.state.join(format!("redis/{}.epoch", settings.name()));
    let known = std::fs::read_to_string(&mark).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0_u64);
    if stale && known < record.epoch {
        copies::put_aside(settings).map_err(at("put aside the files in", &settings.dir()))?;
    }
    Ok(durable::replace(&mark, record.epoch.to_string().as_bytes(), 0o644).map_err(at("write", &mark))?)
}

/// Leads the path of the store's socket to this server's, in one step.
///
/// **Errors**: the file system's.
pub fn point(settings: &Settings) -> Result<(), PartError> {
    let public = settings.public_socket();
    let folder = public.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(at("make the folder", folder))?;
    let target = settings.socket();
    if std::fs::read_link(&public).is_ok_and(|known| known == target) {
        return Ok(());
    }
    let aside = folder.join("redis.new");
    match std::fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("remove", &aside)(error).into()),
        Ok(()) | Err(_) => {}
    }
    std::os::unix::fs::symlink(&target, &aside).map_err(at("make the link", &aside))?;
    Ok(std::fs::rename(&aside, &public).map_err(at("put in place", &public))?)
}

/// Makes a replica the store: it follows nobody any more, and binds the store's port. Its predecessor is dead, else
/// the port is not free.
///
/// **Errors**: it does not answer, or refuses.
pub async fn promote(settings: &Settings, part: &Part) -> Result<(), PartError> {
    point(settings)?;
    let door = settings.door();
    // What it has is nobody else's from now on: it ends when it is on disk.
    door.ask(&["CONFIG", "SET", "shutdown-on-sigterm", "default"]).await?;
    door.ask(&[part.command.expose(), "NO", "ONE"]).await?;
    door.ask(&["CONFIG", "SET", "port", &settings.port.to_string()]).await?;
    Ok(())
}

/// What a server says of its part, and the size of its file when it says so.
pub async fn look(settings: &Settings, now: Timestamp) -> (Seen<StoreAnswer>, Option<u64>) {
    let asked: [&[&str]; 4] = [&["PING"], &["INFO", "replication"], &["INFO", "server"], &["INFO", "persistence"]];
    let answers = match settings.door().ask_all(&asked).await {
        Ok(answers) => answers,
        Err(error) if error.is_silence() => return (Seen::Silent { since: now }, None),
        Err(_) => return (Seen::Unknown, None),
    };
    let text = |index: usize| answers.get(index).and_then(|answer| answer.as_deref().ok()).unwrap_or_default();
    if text(0) != "PONG" {
        return (Seen::Unknown, None);
    }
    let (replication, server, persistence) = (text(1), text(2), text(3));
    let has = |line: &str| replication.lines().any(|found| found.trim_end() == line);
    let is_replica = has("role:slave");
    let number = copies::number;
    let position = if is_replica { "slave_repl_offset" } else { "master_repl_offset" };
    let (Some(offset), Some(port)) = (number(replication, position), number(server, "tcp_port")) else {
        return (Seen::Unknown, None);
    };
    let port = u16::try_from(port).unwrap_or(0);
    let history = replication.lines().find_map(|line| line.trim_end().strip_prefix("master_replid:"));
    let is_on_disk = ["aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0", "aof_last_bgrewrite_status:ok"]
        .iter()
        .all(|wanted| persistence.lines().any(|line| line.trim_end() == *wanted));
    let answer = StoreAnswer {
        is_replica,
        has_link: has("master_link_status:up"),
        history: history.unwrap_or_default().to_owned(),
        offset,
        is_on_disk,
        port,
    };
    (Seen::Fact { value: answer, observed_at: now }, number(persistence, "aof_current_size"))
}

/// Whether a server program can take part.
pub fn is_enough(program: &Path) -> bool {
    major_version(program).is_some_and(|major| major >= OLDEST_MAJOR)
}
