//! Puts a copy in the place of what the store holds. The copy is laid beside the store's files first; it takes their
//! place at the next start of the server, and what they were is kept. A crash at any point leaves the one or the other.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};

use super::{Alone, Copies, Copy, CopyError, Counts, at, counts, take};
use crate::layout::Settings;
use crate::resp::{Door, ResponseError};

/// The copy that waits, in the store's folder.
const WAITING: &str = "restore.rdb";
/// The same once it is being put in place: nobody takes it back any more. The store's files may be aside already.
const TAKEN: &str = "restore.rdb.taken";
/// It is being written.
const PART: &str = "restore.rdb.part";
/// Time for the store's answer: one that answers late runs.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
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
    [WAITING, TAKEN].iter().any(|name| settings.dir().join(name).exists())
}

fn remove(path: &Path) -> Result<bool, CopyError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true).map_err(at("remove", path)),
    }
}

/// Before the server is started: puts the copy that waits in the place of its files. `None`: none waits.
///
/// **Errors**: the file system's; called again, it goes on where it stopped.
pub fn apply(settings: &Settings) -> Result<Option<Applied>, CopyError> {
    let dir = settings.dir();
    let taken = dir.join(TAKEN);
    // In one step, since who laid it may take it back. A later one goes before one that was met half way.
    let waiting = dir.join(WAITING);
    match std::fs::rename(&waiting, &taken) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("take", &waiting)(error)),
        Err(_) if !taken.exists() => return Ok(None),
        Ok(()) | Err(_) => {}
    }
    let replaced = dir.join(REPLACED);
    put_aside(settings).map_err(at("put aside the files in", &dir))?;
    let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all()).map_err(at("sync", path));
    sync(&dir)?;
    std::fs::rename(&taken, dir.join(WHOLE)).map_err(at("put in place", &taken))?;
    sync(&dir)?;
    Ok(Some(Applied { replaced }))
}

/// Whether the server has data of its own.
pub(crate) fn has_file(settings: &Settings) -> bool {
    [PIECES, WHOLE].iter().any(|name| settings.dir().join(name).exists())
}

/// Puts the server's data aside, into the place of what was put aside before.
pub(crate) fn put_aside(settings: &Settings) -> io::Result<()> {
    let dir = settings.dir();
    let replaced = dir.join(REPLACED);
    for name in [PIECES, WHOLE] {
        let present = dir.join(name);
        if !present.exists() {
            continue;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&replaced)?;
        let aside = replaced.join(name);
        // What is present now is still there.
        let removed = if aside.is_dir() { std::fs::remove_dir_all(&aside) } else { std::fs::remove_file(&aside) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        std::fs::rename(&present, &aside)?;
    }
    Ok(())
}

/// Takes back a copy that waits for a server which serves no more: it would come up long after its time.
///
/// **Errors**: the file system's.
pub fn forget_waiting(settings: &Settings) -> Result<(), CopyError> {
    [WAITING, TAKEN].iter().try_for_each(|name| remove(&settings.dir().join(name)).map(drop))
}

/// What became of a copy that was laid beside the store's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Laid {
    /// The store was ended: who keeps it running starts it again, with the copy.
    Begins,
    /// Nobody listens at its socket: the next start takes it.
    Waits,
}

impl Copies {
    /// Puts the copy in the place of what the store holds: lays it beside the store's files, and ends the store.
    ///
    /// **Errors**: the copy is damaged, the store is there and cannot be ended: then nothing waits for its next start.
    pub async fn replace(&self, alone: &Alone, copy: &Copy) -> Result<Laid, CopyError> {
        self.lay(alone, copy)?;
        let error = match self.end().await {
            Ok(true) => return Ok(Laid::Begins),
            Ok(false) => return Ok(Laid::Waits),
            Err(error) => error,
        };
        // One that nobody knows of would replace the data at some later start.
        if self.take_back()? { Err(error) } else { Ok(Laid::Begins) }
    }

    /// Lays the copy beside the store's files, for its next start.
    ///
    /// **Errors**: it is damaged; the file system's. Nothing is left then.
    pub fn lay(&self, _alone: &Alone, copy: &Copy) -> Result<(), CopyError> {
        let dir = self.settings.dir();
        let (part, waiting) = (dir.join(PART), dir.join(WAITING));
        remove(&part)?;
        let laid = self
            .lay_out(copy, &part)
            .and_then(|()| std::fs::rename(&part, &waiting).map_err(at("put in place", &waiting)));
        if let Err(error) = laid {
            // A full disk needs the place.
            remove(&part).ok();
            return Err(error);
        }
        File::open(&dir).and_then(|folder| folder.sync_all()).map_err(at("sync", &dir))
    }

    /// Whether the copy that was laid still waits.
    pub fn waits(&self) -> bool {
        is_waiting(&self.settings)
    }

    /// False: it does not wait any more, a start took it.
    fn take_back(&self) -> Result<bool, CopyError> {
        let dir = self.settings.dir();
        let was_there = remove(&dir.join(WAITING))?;
        File::open(&dir).and_then(|folder| folder.sync_all()).map_err(at("sync", &dir))?;
        Ok(was_there)
    }

    /// Ends the running store in order; who keeps it running starts it again. False: nobody listens at its socket.
    ///
    /// **Errors**: it is there and does not say who it is (it loads, or is busy with a script), or cannot be signalled.
    pub async fn end(&self) -> Result<bool, CopyError> {
        let Some(pid) = self.process().await? else { return Ok(false) };
        let dir = self.settings.dir();
        let failed = |error: rustix::io::Errno| at("signal", &dir)(error.into());
        let handle = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
        // The handle is of the process that bears the number now: it answers still, so it is the one.
        match self.process().await? {
            None => return Ok(false),
            Some(again) if again == pid => {}
            Some(again) => return Err(CopyError::NotOurs { pid: again.as_raw_nonzero().get(), dir }),
        }
        // Who answers may say any number.
        let works_in = std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero())).ok();
        if works_in.is_none() || works_in != std::fs::canonicalize(&dir).ok() {
            return Err(CopyError::NotOurs { pid: pid.as_raw_nonzero().get(), dir });
        }
        rustix::process::pidfd_send_signal(&handle, Signal::TERM).map_err(failed)?;
        Ok(true)
    }

    /// The store's process. `None`: nobody listens at its socket.
    async fn process(&self) -> Result<Option<Pid>, CopyError> {
        let door = Door { within: ANSWER_WITHIN, ..self.settings.door() };
        let info = match door.ask(&["INFO", "server"]).await {
            Err(ResponseError::NotListening { .. }) => return Ok(None),
            answer => answer?,
        };
        let pid = take::number(&info, "process_id").and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        pid.map(Some).ok_or_else(|| CopyError::NotOurs { pid: 0, dir: self.settings.dir() })
    }

    /// What the store holds now. `None`: nobody listens at its socket.
    ///
    /// **Errors**: it is there and cannot be asked: it still loads, or is busy with a script.
    pub async fn present(&self) -> Result<Option<Counts>, ResponseError> {
        let door = Door { within: ANSWER_WITHIN, ..self.settings.door() };
        let answers = match door.ask_all(&[&["PING"], &["INFO", "keyspace"]]).await {
            Err(ResponseError::NotListening { .. }) => return Ok(None),
            answers => answers?,
        };
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Ok(String::new()));
        // One that still loads counts what it has by now, and refuses PING.
        next()?;
        Ok(Some(counts(&next()?)))
    }
}
