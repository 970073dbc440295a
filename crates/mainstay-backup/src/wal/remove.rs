//! Takes segments out of the archive that nothing needs any more.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::spool::look;
use super::{Name, Segment, folder_of, parse};

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Segments.
    pub segments: u64,
    /// What they took on disk. **Unit**: bytes.
    pub bytes: u64,
}

/// Removes the segments, also unfinished ones, of which `is_needed` says no. Histories of timelines stay: they are
/// small, and without them a segment of a later timeline means nothing.
///
/// **Errors**: the file system's. Killed at any moment, what is needed is there.
pub fn remove(archive: &Path, system: u64, is_needed: impl Fn(Segment) -> bool) -> io::Result<Removed> {
    let mut removed = Removed::default();
    let folders = match fs::read_dir(folder_of(archive, system)) {
        Ok(folders) => folders,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
        Err(error) => return Err(error),
    };
    for folder in folders {
        let folder = folder?.path();
        if !folder.is_dir() {
            continue;
        }
        let (mut left, mut has_removed) = (0_u64, false);
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let goes = match parse(&entry.file_name().to_string_lossy()) {
                Some((Name::Segment(segment) | Name::Partial(segment) | Name::Backup(segment, _), _)) => {
                    !is_needed(segment)
                }
                Some((Name::History(_), _)) | None => false,
            };
            if !goes {
                left += 1;
                continue;
            }
            let bytes = look(&entry.path(), &entry.metadata()?)?.bytes;
            fs::remove_file(entry.path())?;
            has_removed = true;
            removed.segments += 1;
            removed.bytes += bytes;
        }
        if has_removed {
            File::open(&folder)?.sync_all()?;
        }
        if left == 0 {
            // The archiver makes it again when it needs it.
            fs::remove_dir(&folder).ok();
        }
    }
    Ok(removed)
}
