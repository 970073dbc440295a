//! What keep is asked to run for a member, after its files say what it is to be.

use std::path::PathBuf;

use mainstay_decide::observed::DataDirectory;
use mainstay_stack::model::Database;
use mainstay_supervisor::protocol::{Limits, SpawnSpec};
use mainstay_types::{ChildName, ChildRole, Member, Nonce, Secret};

use crate::config::{self, SettingError, Settings};
use crate::files::{self, FileError};
use crate::layout::{Layout, SOCKET_DIR_MAX};
use crate::proof::{self, Proof};
use crate::task;

/// Fast shutdown: backends are ended, a checkpoint is written.
pub const STOP_SIGNAL: i32 = 2;

/// Why a member cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its data directory is not whole.
    #[error("postgres-{member} has no complete data directory in {path}")]
    NoData {
        /// Which.
        member: Member,
        /// Where it should be.
        path: String,
    },
    /// Processes of an earlier start live.
    #[error("postgres-{0} has processes attached to its memory: stop or fence it first")]
    Alive(Member),
    /// The socket's path would not fit.
    #[error("socket folder {path} has {length} bytes, at most {SOCKET_DIR_MAX} fit: use a shorter runtime folder")]
    LongPath {
        /// The folder.
        path: String,
        /// Its length.
        length: usize,
    },
    /// The stack file sets what it must not.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A start.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// The cluster.
    pub layout: &'a Layout,
    /// Which member.
    pub member: Member,
    /// The primary it follows; `None`: it is the primary.
    pub follow: Option<Member>,
    /// The stack's database.
    pub database: &'a Database,
    /// How its WAL is archived.
    pub archive: Option<&'a config::Archive>,
    /// Password of the replication role.
    pub replication: &'a Secret,
    /// Identity of this start.
    pub nonce: Nonce,
    /// Its log.
    pub log: PathBuf,
}

/// Writes the settings of a standby that runs anew, so that it follows another once it reads them.
///
/// **Errors**: a setting, or the file system's.
pub fn repoint(start: &Start<'_>) -> Result<(), StartError> {
    let text = settings_text(start)?;
    let data = start.layout.data(start.member);
    files::write_owned(&data.join(config::OURS), &text, 0o600, start.layout.user.as_ref())?;
    files::sync_folder(&data)?;
    Ok(())
}

fn settings_text(start: &Start<'_>) -> Result<String, SettingError> {
    let Start { layout, member, follow, database, .. } = *start;
    let settings = Settings {
        archive: start.archive,
        max_connections: database.max_connections,
        has_statistics: layout.has_statistics(),
        settings: &database.settings,
    };
    config::settings_text(layout, member, follow, &settings)
}

/// Writes the member's files for this start and says what to run.
///
/// A member that was a standby and was never promoted stays in recovery even without one to follow: opened as
/// a primary it would go on writing on the timeline of another. The caller promotes it.
///
/// **Errors**: no complete data, processes of an earlier start, a setting, or the file system's.
pub fn prepare(start: &Start<'_>) -> Result<SpawnSpec, StartError> {
    let Start { layout, member, follow, database, .. } = *start;
    let data = layout.data(member);
    if layout.look(member) != DataDirectory::Complete {
        return Err(StartError::NoData { member, path: data.display().to_string() });
    }
    let socket = layout.socket_dir(member);
    let length = socket.as_os_str().len();
    if length > SOCKET_DIR_MAX {
        return Err(StartError::LongPath { path: socket.display().to_string(), length });
    }
    let user = layout.user.as_ref();
    let text = settings_text(start)?;
    // Others may connect, so others may enter; the password decides.
    files::own_folder(&socket, 0o755, user)?;
    match proof::check(layout, member) {
        Proof::Alive => return Err(StartError::Alive(member)),
        Proof::Dead => {
            // While the lock file still says which it was. A failure leaves a segment of 56 bytes, nothing else.
            proof::remove_segment(layout, member).ok();
            // Its process id may belong to somebody else by now, and PostgreSQL would refuse to start.
            files::remove_file(&data.join("postmaster.pid"))?;
            files::remove_file(&socket.join(".s.PGSQL.5432.lock"))?;
        }
        // PostgreSQL's own interlock decides.
        Proof::Unknown(_) => {}
    }
    files::write_owned(&data.join(config::OURS), &text, 0o600, user)?;
    files::write_owned(&data.join("pg_hba.conf"), &config::hba_text(database), 0o600, user)?;
    if follow.is_some() {
        files::write_owned(&layout.passfile(member), &config::passfile(start.replication), 0o600, user)?;
        files::write_owned(&data.join("standby.signal"), "", 0o600, user)?;
        config::forget_primary(&data, user)?;
    }
    files::sync_folder(&data)?;
    Ok(SpawnSpec {
        name: ChildName::postgres(member),
        role: ChildRole::Postgres,
        nonce: start.nonce.clone(),
        argv: vec![layout.program("postgres"), "-D".to_owned(), data.to_string_lossy().into_owned()],
        env: task::environment(),
        dir: layout.member_dir(member),
        user: layout.user.clone(),
        log: start.log.clone(),
        listeners: Vec::new(),
        limits: Limits::default(),
        restart: false,
        project: None,
        shown: Vec::new(),
    })
}
