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
    /// The present is on a timeline that the incoming data does not know: it would write what is there already.
    #[error(
        "the restored data is on timeline {coming} and the present on {present}: there was a failover since it was made"
    )]
    Overtaken {
        /// Of the incoming data.
        coming: Timeline,
        /// Of the present.
        present: Timeline,
    },
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

/// Timeline and last checkpoint of a data directory whose server ended.
pub fn end_of(data: &Path) -> Option<(Timeline, Lsn)> {
    control_file::read(data).map(|control| (control.timeline, control.checkpoint))
}

/// Leaves files of WAL to the archiver of the server that is started with the data next: what is never started archives
/// nothing.
///
/// **Errors**: the file system's.
pub fn leave_to_archiver(layout: &Layout, data: &Path, names: &[String]) -> Result<(), FileError> {
    let folder = data.join("pg_wal/archive_status");
    files::own_folder(&folder, 0o700, layout.user.as_ref())?;
    for name in names {
        if !folder.join(format!("{name}.done")).exists() {
            files::write_owned(&folder.join(format!("{name}.ready")), "", 0o600, layout.user.as_ref())?;
        }
    }
    files::sync_folder(&folder)
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
            is_above(&path, &data)?;
            set_others_aside(layout, primary, members, &kept_as)?;
            // One that an earlier exchange left would say, when this one is tried again, that it was not done yet.
            files::remove_file(&data.join(MARK))?;
            exchange(&path, &data)?;
            kept_as
        }
        (None, Some(kept_as)) if is_of(&kept_as, relative) => kept_as,
        (None, Some(_) | None) => return Err(SwapError::NoData(path)),
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

/// Whether a mark is of this incoming directory: both names end alike.
fn is_of(kept_as: &str, incoming: &Path) -> bool {
    let stamp = |name: &str| name.rsplit_once('-').map(|(_, stamp)| stamp.to_owned());
    let name = incoming.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    stamp(kept_as).is_some() && stamp(kept_as) == stamp(&name)
}

/// The number of its timeline was free when it was made. A present that cannot be read, or is another cluster's, says
/// nothing.
fn is_above(incoming: &Path, data: &Path) -> Result<(), SwapError> {
    if !are_of_one_cluster(incoming, data) {
        return Ok(());
    }
    match (end_of(incoming), end_of(data)) {
        (Some((coming, _)), Some((present, _))) if coming <= present => Err(SwapError::Overtaken { coming, present }),
        _ => Ok(()),
    }
}

/// Whether two data directories are of one `initdb`: the first field of `pg_control`.
pub fn are_of_one_cluster(one: &Path, other: &Path) -> bool {
    let system = |data: &Path| std::fs::read(data.join("global/pg_control")).ok()?.first_chunk::<8>().copied();
    system(one).is_some_and(|system_of_one| Some(system_of_one) == system(other))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(path: &Path, timeline: u32, mark: Option<&str>) {
        std::fs::create_dir_all(path.join("global")).unwrap();
        for name in [layout::MARK, "PG_VERSION"] {
            std::fs::write(path.join(name), "15").unwrap();
        }
        let mut control = [0_u8; 512];
        control[0] = 7;
        control[8..12].copy_from_slice(&1300_u32.to_ne_bytes());
        control[48..52].copy_from_slice(&timeline.to_ne_bytes());
        std::fs::write(path.join("global/pg_control"), control).unwrap();
        if let Some(mark) = mark {
            std::fs::write(path.join(MARK), mark).unwrap();
        }
    }

    fn scene() -> (tempfile::TempDir, Layout) {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout {
            state: folder.path().join("s"),
            runtime: folder.path().join("r"),
            bin: folder.path().join("bin"),
            user: None,
        };
        (folder, layout)
    }

    const INCOMING: &str = "a/incoming-5";

    #[test]
    fn a_mark_that_an_earlier_exchange_left_does_not_bring_the_replaced_data_back() {
        let (_folder, layout) = scene();
        tree(&layout.data(Member::A), 1, Some("restored-over-1"));
        tree(&layout.base().join(INCOMING), 2, Some("restored-over-5"));
        let swapped = swap_in(&layout, Member::A, &[Member::A], INCOMING).unwrap();
        assert_eq!(swapped.timeline, Timeline(2));
        // As if killed just after the exchange: what was replaced lies where the incoming data did.
        let kept = layout.member_dir(Member::A).join("restored-over-5");
        std::fs::rename(&kept, layout.base().join(INCOMING)).unwrap();
        let again = swap_in(&layout, Member::A, &[Member::A], INCOMING).unwrap();
        assert_eq!((again.timeline, kept.exists()), (Timeline(2), true));
    }

    #[test]
    fn a_mark_of_another_exchange_is_no_proof_of_this_one() {
        let (_folder, layout) = scene();
        tree(&layout.data(Member::A), 1, Some("restored-over-1"));
        assert!(matches!(swap_in(&layout, Member::A, &[Member::A], INCOMING), Err(SwapError::NoData(_))));
    }

    #[test]
    fn data_of_a_timeline_that_the_present_has_come_to_is_not_put_in_place() {
        let (_folder, layout) = scene();
        tree(&layout.data(Member::A), 2, None);
        tree(&layout.base().join(INCOMING), 2, Some("restored-over-5"));
        let refused = swap_in(&layout, Member::A, &[Member::A], INCOMING);
        assert!(matches!(refused, Err(SwapError::Overtaken { .. })), "{refused:?}");
        assert!(!layout.data(Member::A).join(MARK).exists(), "the present is as it was");
    }

    #[test]
    fn the_archiver_is_left_what_it_has_not_archived() {
        let (_folder, layout) = scene();
        let data = layout.data(Member::A);
        let folder = data.join("pg_wal/archive_status");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("00000002.history.done"), "").unwrap();
        leave_to_archiver(&layout, &data, &["00000002.history".to_owned(), "00000003.history".to_owned()]).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["00000002.history.done", "00000003.history.ready"]);
    }
}
