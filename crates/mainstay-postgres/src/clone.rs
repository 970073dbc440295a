//! A member made as a copy of another: `prepare` → the task (`pg_basebackup`) → `finish`, then `drop_old`
//! once it streams.

use std::path::{Path, PathBuf};

use mainstay_decide::observed::DataDirectory;
use mainstay_types::{ChildName, ExitReason, Member, Secret};

use crate::access::Access;
use crate::config;
use crate::files::{self, At, FileError};
use crate::init;
use crate::layout::{Layout, PORT, REPLICATION_ROLE};
use crate::prepare::{self, PrepareError};
use crate::proof;
use crate::task::{self, Task, ToolFailed};

/// Old directories kept beside a member: the first (what the fallen primary held) and the latest.
pub const OLD_KEPT: usize = 2;

/// Why a clone failed. What was in the member's place before is untouched or beside it as `data.old-N`.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// A process may still write there.
    #[error("postgres-{member} is not proven dead ({why}): it must be fenced before its directory is replaced")]
    NotDead {
        /// Which.
        member: Member,
        /// What was seen.
        why: &'static str,
    },
    /// Somebody else's directory.
    #[error("{0} is not one of mainstay's data directories: move it away")]
    Foreign(String),
    /// The source did not take the replication role.
    #[error("the primary cannot be prepared for a clone: {0}")]
    Source(#[from] PrepareError),
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
    /// `pg_basebackup` failed.
    #[error(transparent)]
    Tool(#[from] ToolFailed),
}

/// What a clone needs.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The cluster.
    pub layout: &'a Layout,
    /// Where to.
    pub member: Member,
    /// Where from, as superuser.
    pub from: &'a Access,
    /// Password of the replication role.
    pub replication: &'a Secret,
    /// Where the tool writes.
    pub log: &'a Path,
}

/// Makes sure of the replication role on the source, wipes an unfinished attempt, and says what to run.
///
/// **Errors**: the target is alive or foreign, the source refuses, or the file system's.
pub async fn prepare(clone: &Request<'_>) -> Result<Task, CloneError> {
    let Request { layout, member, from, replication, log } = *clone;
    check_target(layout, member)?;
    prepare::ensure_replication_role(from, replication).await?;
    init::make_folders(layout, member)?;
    files::remove_tree(&layout.unfinished(member))?;
    let passfile = layout.passfile(member);
    files::write_owned(&passfile, &config::passfile(replication), 0o600, layout.user.as_ref())?;
    let argv = [
        layout.program("pg_basebackup"),
        format!("--pgdata={}", layout.unfinished(member).display()),
        "--wal-method=stream".to_owned(),
        "--checkpoint=fast".to_owned(),
        "--no-sync".to_owned(),
        "--no-password".to_owned(),
        format!("--host={}", layout.socket_dir(from.member()).display()),
        format!("--port={PORT}"),
        format!("--username={REPLICATION_ROLE}"),
        format!("--label=mainstay clone to {member}"),
    ];
    let mut env = task::environment();
    env.insert("PGPASSFILE".to_owned(), Secret::new(passfile.to_string_lossy()));
    env.insert("PGCONNECT_TIMEOUT".to_owned(), Secret::new("10"));
    Ok(Task {
        name: ChildName::new(format!("postgres-{member}-clone")).expect("a member is one small letter"),
        argv: argv.to_vec(),
        env,
        dir: layout.member_dir(member),
        user: layout.user.clone(),
        log: log.to_owned(),
        log_from: task::log_length(log),
    })
}

/// After the task ended: takes the source's identity out of the copy, moves the old directory aside, syncs,
/// marks and puts the copy in place.
///
/// **Errors**: the tool failed (with its last lines), the target came alive, or the file system's.
pub fn finish(layout: &Layout, member: Member, task: &Task, ended: &ExitReason) -> Result<(), CloneError> {
    task.check(ended)?;
    check_target(layout, member)?;
    let made = layout.unfinished(member);
    config::forget_primary(&made, layout.user.as_ref())?;
    // Until it is promoted it must never come up as a primary on its source's timeline.
    files::write_owned(&made.join("standby.signal"), "", 0o600, layout.user.as_ref())?;
    let data = layout.data(member);
    if layout.look(member) == DataDirectory::Complete {
        // Proven dead above. A failure leaves a segment of 56 bytes, nothing else.
        proof::remove_segment(layout, member).ok();
        let old = old_directories(layout, member)?;
        let next = old.last().map_or(1, |(number, _)| number + 1);
        // The first and the latest are evidence; what is between was a copy that never streamed.
        for (_, path) in old.iter().skip(OLD_KEPT - 1) {
            files::remove_tree(path)?;
        }
        let aside = layout.member_dir(member).join(format!("data.old-{next}"));
        std::fs::rename(&data, &aside).at("move aside", &data)?;
    }
    init::put_in_place(layout, member, "clone")?;
    Ok(())
}

/// Deletes the directories that were moved aside. Call it when the new copy streams.
///
/// **Errors**: the file system's.
pub fn drop_old(layout: &Layout, member: Member) -> Result<usize, FileError> {
    let old = old_directories(layout, member)?;
    for (_, path) in &old {
        files::remove_tree(path)?;
    }
    Ok(old.len())
}

pub(crate) fn check_target(layout: &Layout, member: Member) -> Result<(), CloneError> {
    match layout.look(member) {
        DataDirectory::Absent | DataDirectory::Unfinished => return Ok(()),
        DataDirectory::Foreign => return Err(CloneError::Foreign(layout.data(member).display().to_string())),
        DataDirectory::Unknown => return Err(CloneError::NotDead { member, why: "its directory is not readable" }),
        DataDirectory::Complete => {}
    }
    match proof::check(layout, member) {
        proof::Proof::Dead => Ok(()),
        proof::Proof::Alive => Err(CloneError::NotDead { member, why: "processes are attached to its memory" }),
        proof::Proof::Unknown(_) => Err(CloneError::NotDead { member, why: "nobody could look" }),
    }
}

/// By number.
fn old_directories(layout: &Layout, member: Member) -> Result<Vec<(u32, PathBuf)>, FileError> {
    let folder = layout.member_dir(member);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).at("list", &folder)? {
        let entry = entry.at("list", &folder)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix("data.old-").and_then(|number| number.parse().ok());
        found.extend(number.map(|number| (number, entry.path())));
    }
    found.sort();
    Ok(found)
}
