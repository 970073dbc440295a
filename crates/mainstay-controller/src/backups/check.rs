//! Reads what the repository and the archive hold, and says what is damaged or missing.

use std::time::Duration;

use mainstay_backup::repository::Backup;
use mainstay_backup::wal::{self, GetError, Name, Segment};
use mainstay_types::Timestamp;

use super::{Backups, Error};

/// Size of segments of a cluster that mainstay made: `initdb`'s default. **Unit**: bytes.
pub(super) const SEGMENT: u64 = 16 << 20;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Base backups.
    pub backups: Vec<Backup>,
    /// Segments of archived WAL.
    pub segments: usize,
    /// Bytes of archived WAL. **Unit**: bytes.
    pub wal_bytes: u64,
    /// When the newest segment was archived.
    pub newest: Option<Timestamp>,
    /// What is damaged or missing, one line each; empty: nothing.
    pub faults: Vec<String>,
}

/// Checks everything. With `read_data` every byte is read and compared with its hash.
///
/// **Errors**: nothing could be read at all.
pub fn check(backups: &Backups, read_data: bool) -> Result<Checked, Error> {
    let _held = backups.hold_blocking()?;
    let mut faults = backups.repository.check(read_data)?;
    let listed = backups.repository.backups()?;
    let mut checked = Checked { backups: listed, ..Checked::default() };
    let mut systems: Vec<u64> = checked.backups.iter().map(|backup| backup.label.system).collect();
    systems.sort_unstable();
    systems.dedup();
    let folder = backups.place.wal();
    for system in systems {
        let io = |source| Error::Io { action: "list", path: folder.clone(), source };
        let archive = wal::list(&folder, system).map_err(io)?;
        checked.segments += archive.segments.len();
        checked.wal_bytes += archive.bytes();
        checked.newest = checked.newest.max(archive.newest());
        faults.extend(gaps(&checked.backups, backups.policy.window, system, &archive));
        if read_data {
            for segment in archive.segments.keys() {
                faults.extend(read(backups, system, *segment)?);
            }
        }
    }
    checked.faults = faults;
    Ok(checked)
}

/// Segments that are missing: of each backup's own WAL, and after the backup from which the window's moments are
/// reached. Older WAL between backups goes when it leaves the window.
pub(super) fn gaps(backups: &[Backup], window: Duration, system: u64, archive: &wal::Archive) -> Vec<String> {
    let mut faults = Vec::new();
    let of_system: Vec<&Backup> = backups.iter().filter(|backup| backup.label.system == system).collect();
    let runs = archive.runs(SEGMENT);
    for backup in &of_system {
        let label = &backup.label;
        let first = Segment::of(label.timeline, label.start.as_u64(), SEGMENT);
        let last = Segment::of(label.timeline, label.stop.as_u64().saturating_sub(1), SEGMENT);
        if !runs.iter().any(|run| run.first <= first && last <= run.last) {
            faults
                .push(format!("backup {}: WAL from {first} to {last} is not whole in the archive", short(&backup.id)));
        }
    }
    let Some(newest) = of_system.iter().map(|backup| backup.label.ended).max() else { return faults };
    let is_old = |backup: &&&Backup| newest.saturating_since(backup.label.ended) >= window;
    let anchor = of_system.iter().filter(is_old).max_by_key(|backup| backup.label.ended).or(of_system.first());
    let from = anchor.map_or(u64::MAX, |backup| backup.label.start.as_u64());
    let end = |segment: Segment| segment.start(SEGMENT) + SEGMENT;
    let mut reached = 0;
    for pair in runs.windows(2) {
        let (before, after) = (pair[0], pair[1]);
        reached = end(before.last).max(reached);
        let is_gap = match before.last.timeline == after.first.timeline {
            true => after.first.start(SEGMENT) > from,
            // A timeline begins in the segment in which it left another, or in the one after it.
            false => reached < after.first.start(SEGMENT) && reached > from,
        };
        if is_gap {
            faults.push(format!("gap in the archive: between {} and {}", before.last, after.first));
        }
    }
    faults
}

fn read(backups: &Backups, system: u64, segment: Segment) -> Result<Option<String>, Error> {
    let name = Name::Segment(segment).to_string();
    match wal::verify(&backups.place.wal(), &backups.wal_key, system, &name) {
        Ok(()) => Ok(None),
        Err(error @ (GetError::Damaged { .. } | GetError::Missing(_))) => Ok(Some(error.to_string())),
        Err(GetError::Io { action, path, source }) => Err(Error::Io { action, path, source }),
    }
}

/// As people call a backup.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
