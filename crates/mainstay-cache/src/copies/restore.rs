//! Puts a copy in the place of what the store holds. The copy is laid beside the store's files first; it takes their
//! place at the next start of the server, and what they were is kept. A crash at any point leaves the one or the other.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal};

use super::{Alone, Copies, Copy, CopyError, at, take};
use crate::layout::Settings;

/// The copy that waits, in the store's folder.
const WAITING: &str = "restore.rdb";
/// What it replaced.
const REPLACED: &str = "replaced";
/// Redis 7 and later keep the append-only file in pieces, in a folder.
const PIECES: &str = "appendonlydir";
/// Redis 6 keeps it in one; a later one takes it over from there, and it may begin with a whole copy.
const WHOLE: &str = "appendonly.aof";

/// What was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Where the former files are.
    pub replaced: PathBuf,
}

/// Whether a copy waits for the next start of the store.
pub fn is_waiting(settings: &Settings) -> bool {
    settings.dir().join(WAITING).exists()
}

/// Before the server is started: puts the copy that waits in the place of its files. `None`: none waits.
///
/// **Errors**: the file system's; called again, it goes on where it stopped.
pub fn apply(settings: &Settings) -> Result<Option<Applied>, CopyError> {
    let dir = settings.dir();
    let waiting = dir.join(WAITING);
    if !waiting.exists() {
        return Ok(None);
    }
    let replaced = dir.join(REPLACED);
    for name in [PIECES, WHOLE] {
        let present = dir.join(name);
        if !present.exists() {
            continue;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&replaced).map_err(at("make the folder", &replaced))?;
        let aside = replaced.join(name);
        // Of an earlier restore. What is present now is still there.
        let removed = if aside.is_dir() { std::fs::remove_dir_all(&aside) } else { std::fs::remove_file(&aside) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("remove", &aside)(error)),
            Ok(()) | Err(_) => {}
        }
        std::fs::rename(&present, &aside).map_err(at("put aside", &present))?;
    }
    let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all()).map_err(at("sync", path));
    sync(&dir)?;
    std::fs::rename(&waiting, dir.join(WHOLE)).map_err(at("put in place", &waiting))?;
    sync(&dir)?;
    Ok(Some(Applied { replaced }))
}

impl Copies {
    /// Lays the copy beside the store's files, for its next start.
    ///
    /// **Errors**: it is damaged; the file system's.
    pub fn lay(&self, _alone: &Alone, copy: &Copy) -> Result<(), CopyError> {
        let dir = self.settings.dir();
        let (part, waiting) = (dir.join("restore.rdb.part"), dir.join(WAITING));
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("remove", &part)(error)),
            Ok(()) | Err(_) => {}
        }
        self.lay_out(copy, &part)?;
        std::fs::rename(&part, &waiting).map_err(at("put in place", &waiting))?;
        File::open(&dir).and_then(|folder| folder.sync_all()).map_err(at("sync", &dir))
    }

    /// Whether the copy that was laid still waits.
    pub fn waits(&self) -> bool {
        is_waiting(&self.settings)
    }

    /// Ends the running store in order; who keeps it running starts it again. False: it does not run.
    ///
    /// **Errors**: it cannot be signalled.
    pub async fn end(&self) -> Result<bool, CopyError> {
        let id = async || {
            let info = self.settings.door().ask(&["INFO", "server"]).await.ok()?;
            take::number(&info, "process_id")
        };
        let Some(first) = id().await else { return Ok(false) };
        let Some(pid) = i32::try_from(first).ok().and_then(Pid::from_raw) else { return Ok(false) };
        let failed = |error: rustix::io::Errno| at("signal", &self.settings.dir())(error.into());
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
        // The handle is of the process that bears the number now: it answers still, so it is the one.
        if id().await != Some(first) {
            return Ok(false);
        }
        rustix::process::pidfd_send_signal(&handle, Signal::TERM).map_err(failed)?;
        Ok(true)
    }
}
