//! Reads what happened from archived WAL, without a restore: some segments at a time are laid out in a folder of their
//! own, for `pg_waldump`. What is not archived yet is read from the primary's own folder where that is wanted.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use mainstay_backup::wal::{GetError, Segment};
use mainstay_decide::past::Record;
use mainstay_postgres::waldump::{self, DumpError, Files, Names};
use mainstay_types::Lsn;

use super::check::SEGMENT;
use super::past::{self, Reachable};
use super::{Backups, Error};
use crate::paths::Paths;

/// Segments that lie in the folder at once: 128 MiB, and one that both neighbours are read with.
const AT_ONCE: usize = 8;
/// Where a segment says what position it begins at (`xlp_pageaddr` of its first page): one that was recycled says another.
const ADDRESS: std::ops::Range<usize> = 8..16;

/// A way through the WAL.
pub(super) struct Walk<'a> {
    backups: &'a Backups,
    system: u64,
    timeline: u32,
    segments: BTreeMap<u64, Segment>,
    /// The primary's own folder of WAL.
    live: Option<PathBuf>,
    place: past::Place,
}

/// How far a walk came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// The end of the last segment that was there.
    pub(super) to: Lsn,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

impl<'a> Walk<'a> {
    /// On the way that leads to what can be reached.
    pub(super) fn new(backups: &'a Backups, paths: &Paths, reachable: &Reachable) -> Result<Self, Error> {
        let place = past::place(paths, &backups.layout)?;
        let segments = reachable.lineage.segments(&reachable.archive);
        let walk = Self {
            backups,
            system: reachable.system,
            timeline: reachable.lineage.timeline.max(1),
            segments,
            live: None,
            place,
        };
        let folder = walk.folder();
        std::fs::create_dir(&folder).map_err(io("make the folder", &folder))?;
        // Decrypted: for the server's user, who reads it, and nobody else. He writes nothing there: we follow what lies in it.
        if let Some(user) = &backups.layout.user {
            chown(&folder, None, Some(user.gid)).map_err(io("give away", &folder))?;
        }
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o750)).map_err(io("set the mode of", &folder))?;
        Ok(walk)
    }

    /// The same, and on to what the primary wrote last, when its files are on this machine.
    pub(super) fn with_the_present(self) -> Self {
        let primary = self.backups.primary().ok();
        let live = primary.map(|member| self.backups.layout.data(member).join("pg_wal"));
        Self { live: live.filter(|folder| folder.is_dir()), ..self }
    }

    /// Whether what is not archived yet is seen, too.
    pub(super) fn sees_the_present(&self) -> bool {
        self.live.is_some()
    }

    fn folder(&self) -> PathBuf {
        self.place.layout.state.join("wal")
    }

    /// The bytes of the segment that begins there, and whether they are the archive's; `None`: nobody has it.
    fn content(&self, start: u64) -> Result<Option<(Vec<u8>, bool)>, Error> {
        if let Some(segment) = self.segments.get(&start) {
            return Ok(self.archived(*segment)?.map(|bytes| (bytes, true)));
        }
        let Some(live) = &self.live else { return Ok(None) };
        let segment = Segment::of(self.timeline, start, SEGMENT);
        let name = segment.to_string();
        let bytes = match of_the_server(live, &name) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io("read", &live.join(name))(error)),
        };
        let address = bytes.get(ADDRESS).and_then(|address| address.try_into().ok()).map(u64::from_ne_bytes);
        if address == Some(start) {
            return Ok(Some((bytes, false)));
        }
        // It may be in the archive since that was listed.
        Ok(self.archived(segment)?.map(|bytes| (bytes, true)))
    }

    fn archived(&self, segment: Segment) -> Result<Option<Vec<u8>>, Error> {
        match self.backups.archived(self.system, &segment.to_string()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Get(GetError::Missing(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lays a segment out; `None`: nobody has it; else whether it was archived. All bear the name of one timeline: a record
    /// may begin on one and end on the next, and the reader goes by the names alone.
    fn lay(&self, start: u64, names: Option<&mut Names>) -> Result<Option<bool>, Error> {
        let Some((bytes, is_archived)) = self.content(start)? else { return Ok(None) };
        if let Some(names) = names {
            names.see(&bytes);
        }
        let path = self.path(start);
        std::fs::write(&path, &bytes).map_err(io("write", &path))?;
        // The folder keeps others out; our umask may keep him out, too.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).map_err(io("set the mode of", &path))?;
        Ok(Some(is_archived))
    }

    fn path(&self, start: u64) -> PathBuf {
        self.folder().join(Segment::of(self.timeline, start, SEGMENT).to_string())
    }

    /// Gives every record from one position to another, in order, until it is told to stop. Blocks.
    ///
    /// **Errors**: WAL that cannot be read while later WAL can.
    pub(super) fn read(
        &self,
        (from, to): (Lsn, Option<Lsn>),
        mut names: Option<&mut Names>,
        see: &mut dyn FnMut(&Record) -> ControlFlow<()>,
    ) -> Result<Walked, Error> {
        if let Some(names) = names.as_deref_mut() {
            names.begin_anew();
        }
        let folder = self.folder();
        let mut begin = from.as_u64() / SEGMENT * SEGMENT;
        // Of the primary's own files one may be read before it was full, and the next after.
        let unfinished = std::cell::Cell::new(None::<u64>);
        let mut lay = |laid: &mut Vec<u64>, start: u64| -> Result<bool, Error> {
            let Some(is_archived) = self.lay(start, names.as_deref_mut())? else { return Ok(false) };
            laid.push(start);
            if !is_archived {
                unfinished.set(unfinished.get().or(Some(start)));
            }
            Ok(true)
        };
        let mut laid = Vec::new();
        lay(&mut laid, begin)?;
        let mut seen: Option<Lsn> = None;
        while let Some(last) = laid.last().copied() {
            let mut next = last + SEGMENT;
            let is_wanted = |next: u64| to.is_none_or(|to| next < to.as_u64());
            while laid.len() <= AT_ONCE && is_wanted(next) && lay(&mut laid, next)? {
                next += SEGMENT;
            }
            let has_more = laid.len() > AT_ONCE && is_wanted(next);
            let files = Files {
                folder: &folder,
                timeline: self.timeline,
                from: Lsn::new(from.as_u64().max(begin)),
                to: Lsn::new(next),
            };
            let mut is_over = false;
            let read = waldump::read(&self.backups.layout, files, &mut |record| {
                let is_new = seen.is_none_or(|seen| record.lsn > seen) && record.lsn >= from;
                if is_over || !is_new || to.is_some_and(|to| record.lsn >= to) {
                    return;
                }
                seen = Some(record.lsn);
                is_over = see(&record).is_break();
            });
            match read {
                // Behind the last record there is nothing, and that is said as an error. Where more was expected the last
                // segment is read again: damage in it is an error then, once it has a next one.
                Err(DumpError::Stopped(words)) if furthest(&words) >= unfinished.get().or(laid.last().copied()) => {}
                other => other?,
            }
            // The last is read again with the next: a record may begin in it and end there.
            let keep = laid.pop().unwrap_or(begin);
            for start in laid.drain(..) {
                std::fs::remove_file(self.path(start)).ok();
            }
            if is_over || !has_more {
                std::fs::remove_file(self.path(keep)).ok();
                return Ok(Walked { to: Lsn::new(next) });
            }
            begin = keep;
            laid.push(keep);
        }
        Ok(Walked { to: from })
    }
}

/// A segment in the server's own folder, which is its user's: what bears such a name there may be a pipe, on which we would
/// wait for ever, or a link to what is not his to read.
fn of_the_server(folder: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags, open, openat};
    let safely = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = open(folder, safely | OFlags::DIRECTORY, Mode::empty())?;
    let file = std::fs::File::from(openat(&folder, name, safely | OFlags::NONBLOCK, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no plain file"));
    }
    let mut bytes = Vec::new();
    file.take(SEGMENT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The highest position that a text names.
fn furthest(words: &str) -> Option<u64> {
    let plain = |word: &str| word.trim_end_matches([':', ',', '.', ';']).parse::<Lsn>().ok();
    words.split_whitespace().filter_map(plain).map(Lsn::as_u64).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe kept a restore waiting for ever, and a link was followed as root.
    #[test]
    fn what_the_servers_user_puts_in_the_place_of_a_segment_is_not_read() {
        let state = tempfile::tempdir().expect("folder");
        let at = |name: &str| state.path().join(name);
        std::fs::create_dir(at("pg_wal")).expect("a folder");
        let wal = at("pg_wal");
        std::fs::write(wal.join("plain"), "wal").expect("writes");
        std::fs::write(at("secret"), "secret").expect("writes");
        std::os::unix::fs::symlink(at("secret"), wal.join("link")).expect("links");
        let made = std::process::Command::new("mkfifo").arg(wal.join("pipe")).status();
        assert!(made.expect("runs").success());
        std::fs::create_dir(wal.join("folder")).expect("a folder");
        std::os::unix::fs::symlink(&wal, at("elsewhere")).expect("links");
        assert_eq!(of_the_server(&wal, "plain").expect("reads"), b"wal");
        let missing = of_the_server(&wal, "missing").expect_err("there is none");
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
        for name in ["link", "pipe", "folder"] {
            assert!(of_the_server(&wal, name).is_err(), "{name}");
        }
        assert!(of_the_server(&at("elsewhere"), "plain").is_err(), "the folder itself may be a link");
    }

    #[test]
    fn where_the_reader_stopped_is_in_its_words() {
        let words =
            "pg_waldump: error: error in WAL record at 0/152CB08: invalid record length at 0/152CFF0: wanted 24, got 0";
        assert_eq!(furthest(words), Some(0x152_CFF0));
        assert_eq!(furthest("pg_waldump: error: could not open directory"), None);
    }
}
