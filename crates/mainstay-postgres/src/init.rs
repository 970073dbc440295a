//! A new cluster: `prepare` → the task (initdb) → `finish`.

use mainstay_decide::observed::DataDirectory;
use mainstay_types::{ChildName, ExitReason, Member, Secret};

use crate::config;
use crate::files::{self, At, FileError};
use crate::layout::{Layout, MARK, SUPERUSER};
use crate::task::{self, Task, ToolFailed};

/// Why a cluster could not be made. The member's directory is as it was: all work is done beside it.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something is there that must not be overwritten.
    #[error(
        "{path} is {found}: a new cluster is only made where nothing is (move it away, or name another state folder)"
    )]
    Occupied {
        /// The directory.
        path: String,
        /// What it is.
        found: &'static str,
    },
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
    /// initdb failed.
    #[error(transparent)]
    Tool(#[from] ToolFailed),
}

/// Makes folders and the password file, wipes an unfinished attempt, and says what to run.
///
/// **Errors**: the place is occupied, or the file system's.
pub fn prepare(layout: &Layout, member: Member, password: &Secret, log: &std::path::Path) -> Result<Task, InitError> {
    let occupied = |found| InitError::Occupied { path: layout.data(member).display().to_string(), found };
    match layout.look(member) {
        DataDirectory::Absent | DataDirectory::Unfinished => {}
        DataDirectory::Complete => return Err(occupied("a complete cluster")),
        DataDirectory::Foreign => return Err(occupied("not one of mainstay's")),
        DataDirectory::Unknown => return Err(occupied("not readable")),
    }
    make_folders(layout, member)?;
    files::remove_tree(&layout.unfinished(member))?;
    let password_file = layout.member_dir(member).join("initial.pass");
    files::write_owned(&password_file, &format!("{}\n", password.expose()), 0o600, layout.user.as_ref())?;
    let path = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    let argv = [
        layout.program("initdb"),
        format!("--pgdata={}", path(layout.unfinished(member))),
        "--data-checksums".to_owned(),
        "--auth-host=scram-sha-256".to_owned(),
        "--auth-local=scram-sha-256".to_owned(),
        format!("--username={SUPERUSER}"),
        format!("--pwfile={}", path(password_file)),
        "--encoding=UTF8".to_owned(),
        "--locale=C.UTF-8".to_owned(),
        // One sync of the file system at the end does the same at once.
        "--no-sync".to_owned(),
    ];
    Ok(Task {
        name: ChildName::new(format!("postgres-{member}-init")).expect("a member is one small letter"),
        argv: argv.to_vec(),
        env: task::environment(),
        dir: layout.member_dir(member),
        user: layout.user.clone(),
        log: log.to_owned(),
        log_from: task::log_length(log),
    })
}

/// After the task ended: removes the password file, syncs, marks and puts the cluster in place.
///
/// **Errors**: initdb failed (with its last lines), or the file system's; then the member is `Unfinished`.
pub fn finish(layout: &Layout, member: Member, task: &Task, ended: &ExitReason) -> Result<(), InitError> {
    files::remove_file(&layout.member_dir(member).join("initial.pass"))?;
    task.check(ended)?;
    let made = layout.unfinished(member);
    config::include_ours(&made, layout.user.as_ref())?;
    put_in_place(layout, member, "init")?;
    Ok(())
}

/// Folders that a member needs before anything else.
pub(crate) fn make_folders(layout: &Layout, member: Member) -> Result<(), FileError> {
    std::fs::create_dir_all(&layout.state).at("make the folder", &layout.state)?;
    // Servers pass through `pg` to their own folder and see no other's.
    files::own_folder(&layout.base(), 0o711, None)?;
    files::own_folder(&layout.member_dir(member), 0o700, layout.user.as_ref())
}

/// Marks `data.new`, syncs all of it and renames it to `data`, which must not hold anything.
pub(crate) fn put_in_place(layout: &Layout, member: Member, made_by: &str) -> Result<(), FileError> {
    let made = layout.unfinished(member);
    let data = layout.data(member);
    files::sync_file_system(&made)?;
    let mark = format!("{{\"schema\":1,\"made_by\":\"{made_by}\"}}\n");
    files::write_owned(&made.join(MARK), &mark, 0o600, layout.user.as_ref())?;
    files::sync_folder(&made)?;
    // An empty folder is replaced by the rename; one that holds something makes it fail.
    std::fs::rename(&made, &data).at("put in place", &data)?;
    files::sync_folder(&layout.member_dir(member))
}
