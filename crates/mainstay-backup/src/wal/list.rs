//! What is in the archive, and where it has gaps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mainstay_types::Timestamp;

use super::spool::look;
use super::{Name, Segment, folder_of, parse};

/// Segments in a row on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub first: Segment,
    /// The last.
    pub last: Segment,
}

/// What is archived of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    /// Segments: bytes on disk and when they were archived.
    pub segments: BTreeMap<Segment, (u64, Timestamp)>,
    /// Timelines whose history is there.
    pub histories: Vec<u32>,
    /// Last unfinished segments of timelines that were left.
    pub partials: Vec<Segment>,
}

impl Archive {
    /// Segments in a row, in order: more than one run on a timeline is a gap.
    pub fn runs(&self, size: u64) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for segment in self.segments.keys().copied() {
            match runs.last_mut() {
                Some(run)
                    if run.last.timeline == segment.timeline && run.last.start(size) + size == segment.start(size) =>
                {
                    run.last = segment;
                }
                _ => runs.push(Run { first: segment, last: segment }),
            }
        }
        runs
    }

    /// Bytes on disk. **Unit**: bytes.
    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|(bytes, _)| bytes).sum()
    }

    /// When the newest segment was archived.
    pub fn newest(&self) -> Option<Timestamp> {
        self.segments.values().map(|(_, at)| *at).max()
    }
}

/// Every name that a cluster has in the archive, in order: segments, and what lies beside them.
///
/// **Errors**: the file system's; an archive that is not there is empty.
pub fn names(archive: &Path, system: u64) -> io::Result<BTreeSet<Name>> {
    Ok(files(archive, system)?.into_keys().collect())
}

/// The same with the path of each; of more than one of a name, any.
///
/// **Errors**: the same.
pub fn files(archive: &Path, system: u64) -> io::Result<BTreeMap<Name, PathBuf>> {
    let mut found = BTreeMap::new();
    let folders = match fs::read_dir(folder_of(archive, system)) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for folder in folders {
        let folder = folder?;
        if folder.file_type()?.is_dir() {
            for entry in fs::read_dir(folder.path())? {
                let entry = entry?;
                found.extend(parse(&entry.file_name().to_string_lossy()).map(|(name, _)| (name, entry.path())));
            }
        }
    }
    Ok(found)
}

/// Looks through the archive of a cluster. Reads names only.
///
/// **Errors**: the file system's; an archive that is not there is empty.
pub fn list(archive: &Path, system: u64) -> io::Result<Archive> {
    let mut found = Archive::default();
    let folders = match fs::read_dir(folder_of(archive, system)) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for folder in folders {
        let folder = folder?;
        if !folder.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(folder.path())? {
            let entry = entry?;
            let Some((name, _)) = parse(&entry.file_name().to_string_lossy()) else { continue };
            match name {
                Name::Segment(segment) => {
                    let seen = look(&entry.path(), &entry.metadata()?)?;
                    found.segments.insert(segment, (seen.bytes, seen.at));
                }
                Name::Partial(segment) => found.partials.push(segment),
                Name::History(timeline) => found.histories.push(timeline),
                Name::Backup(..) => {}
            }
        }
    }
    found.histories.sort_unstable();
    found.partials.sort_unstable();
    Ok(found)
}
