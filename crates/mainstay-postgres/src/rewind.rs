//! A former primary made a beginning of its successor again, without a copy: `prepare` → the task (`pg_rewind`) →
//! `finish`. From the first of these to the last its directory is an unfinished one: an attempt that fails, or that
//! nobody ends, is cloned over.

use mainstay_types::{ChildName, ExitReason, Member, Secret};

use crate::clone::{self, CloneError, Request};
use crate::cluster::{self, ClusterError};
use crate::config;
use crate::files::{self, At};
use crate::init;
use crate::layout::{Layout, MARK, PORT, SUPERUSER};
use crate::proof;
use crate::task::{self, Task};

/// Why a rewind failed.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// As for a clone.
    #[error(transparent)]
    Clone(#[from] CloneError),
    /// The primary wrote no checkpoint: `pg_rewind` would take its timeline for the old one.
    #[error(transparent)]
    Source(#[from] ClusterError),
}

/// Makes the primary write its timeline down, moves the directory aside as unfinished, and says what to run.
///
/// **Errors**: the target is alive or foreign, the source cannot be asked, or the file system's.
pub async fn prepare(rewind: &Request<'_>, superuser: &Secret) -> Result<Task, RewindError> {
    let Request { layout, member, from, log, .. } = *rewind;
    clone::check_target(layout, member)?;
    cluster::checkpoint(from).await?;
    let (data, made) = (layout.data(member), layout.unfinished(member));
    let moved = || {
        files::remove_tree(&made)?;
        std::fs::rename(&data, &made).at("move aside", &data)?;
        files::remove_file(&made.join(MARK))?;
        // Its number may be somebody else's by now, and the recovery before the rewind would refuse to begin.
        files::remove_file(&made.join("postmaster.pid"))?;
        files::sync_folder(&layout.member_dir(member))
    };
    // While the lock file still says which it was. A failure leaves a segment of 56 bytes, nothing else.
    proof::remove_segment(layout, member).ok();
    moved().map_err(CloneError::File)?;
    let host = layout.socket_dir(from.member());
    let argv = [
        layout.program("pg_rewind"),
        format!("--target-pgdata={}", made.display()),
        format!("--source-server=host='{}' port={PORT} user={SUPERUSER} dbname=postgres", escaped(&host)),
        // One sync of the file system at the end does the same at once.
        "--no-sync".to_owned(),
    ];
    let mut env = task::environment();
    env.insert("PGPASSWORD".to_owned(), superuser.clone());
    env.insert("PGCONNECT_TIMEOUT".to_owned(), Secret::new("10"));
    Ok(Task {
        name: ChildName::new(format!("postgres-{member}-rewind")).expect("a member is one small letter"),
        argv: argv.to_vec(),
        env,
        dir: layout.member_dir(member),
        user: layout.user.clone(),
        log: log.to_owned(),
        log_from: task::log_length(log),
    })
}

/// In a connection string.
fn escaped(path: &std::path::Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace('\'', "\\'")
}

/// After the task ended: takes the source's identity out of the directory, syncs, marks and puts it in place.
///
/// **Errors**: the tool failed (with its last lines), or the file system's; then the member is unfinished.
pub fn finish(layout: &Layout, member: Member, task: &Task, ended: &ExitReason) -> Result<(), CloneError> {
    task.check(ended)?;
    let made = layout.unfinished(member);
    config::forget_primary(&made, layout.user.as_ref())?;
    files::write_owned(&made.join("standby.signal"), "", 0o600, layout.user.as_ref())?;
    init::put_in_place(layout, member, "rewind")?;
    Ok(())
}
