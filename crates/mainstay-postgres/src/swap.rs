//! Another data directory takes the place of the primary's. What was there is kept beside it.
//!
//! The exchange is one system call (`RENAME_EXCHANGE`), so that there is never a moment without data. A mark in the
//! incoming directory says whether it was done already when a step is tried again.

use std::path::{Component, Path, PathBuf};

use mainstay_decide::observed::DataDirectory;
use mainstay_types::{Lsn, Member, Timeline};

use crate::control_file;
use crate::files::{self, At, FileError};
use crate::layout::{self, Layout};
use crate::proof::{self, Proof};

/// In the incoming directory: the name that what it replaces will bear.
pub const MARK: &str = "mainstay.incoming";

/// Why nothing was exchanged.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// It is no data directory of ours.
    #[error("{0} is no complete data directory below the folder of the members")]
    NoData(PathBuf),
    /// A process may still write.
    #[error("postgres-{0} is not proven dead")]
    NotDead(Member),
    /// The file system said no.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What is so afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swapped {
    /// Timeline of the data that is in place now.
    pub timeline: Timeline,
    /// Its last checkpoint.
    pub checkpoint: Lsn,
}

/// Marks a directory as incoming. `kept_as` is what the replaced one will be called.
///
/// **Errors**: the file system's.
pub fn mark(layout: &Layout, incoming: &Path, kept_as: &str) -> Result<(), FileError> {
    files::write_owned(&incoming.join(MARK), kept_as, 0o600, layout.user.as_ref())?;
    files::sync_folder(incoming)
}

/// Exchanges. Every member must be dead; the data of those that are not the primary is set aside first.
///
/// **Errors**: see [`SwapError`]. Tried again, it goes on where it was.
pub fn swap_in(layout: &Layout, primary: Member, members: &[Member], incoming: &str) -> Result<Swapped, SwapError> {
    let relative = Path::new(incoming);
    let path = layout.base().join(relative);
    let is_inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
    let data = layout.data(primary);
    let marked = |folder: &Path| std::fs::read_to_string(folder.join(MARK)).ok();
    for member in members {
        if layout.look(*member) != DataDirectory::Absent && proof::check(layout, *member) != Proof::Dead {
            return Err(SwapError::NotDead(*member));
        }
    }
    // In place already: the mark came with it, and names what it replaced.
    let kept_as = match (marked(&path), marked(&data)) {
        (Some(kept_as), _) => {
            if !is_inside || !layout::is_complete(&path) {
                return Err(SwapError::NoData(path));
            }
            set_others_aside(layout, primary, members, &kept_as)?;
            exchange(&path, &data)?;
            kept_as
        }
        (None, Some(kept_as)) => kept_as,
        (None, None) => return Err(SwapError::NoData(path)),
    };
    let kept = layout.member_dir(primary).join(&kept_as);
    if path.exists() && !kept.exists() {
        std::fs::rename(&path, &kept).at("move aside", &path)?;
    }
    files::sync_folder(&layout.member_dir(primary))?;
    let control = control_file::read(&data).ok_or(SwapError::NoData(data))?;
    Ok(Swapped { timeline: control.timeline, checkpoint: control.checkpoint })
}

/// The record says so: the mark goes.
///
/// **Errors**: the file system's.
pub fn finish(layout: &Layout, primary: Member) -> Result<(), FileError> {
    files::remove_file(&layout.data(primary).join(MARK))
}

fn set_others_aside(layout: &Layout, primary: Member, members: &[Member], kept_as: &str) -> Result<(), SwapError> {
    for member in members.iter().filter(|member| **member != primary) {
        let (data, kept) = (layout.data(*member), layout.member_dir(*member).join(kept_as));
        if data.exists() && !kept.exists() {
            std::fs::rename(&data, &kept).at("move aside", &data)?;
            files::sync_folder(&layout.member_dir(*member))?;
        }
    }
    Ok(())
}

fn exchange(incoming: &Path, data: &Path) -> Result<(), FileError> {
    let exchanged =
        rustix::fs::renameat_with(rustix::fs::CWD, incoming, rustix::fs::CWD, data, rustix::fs::RenameFlags::EXCHANGE);
    match exchanged {
        // Nothing was there to be replaced.
        Err(rustix::io::Errno::NOENT) if incoming.exists() => std::fs::rename(incoming, data),
        other => other.map_err(std::io::Error::from),
    }
    .at("put in place", incoming)
}
