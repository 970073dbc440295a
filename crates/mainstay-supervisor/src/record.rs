//! What keep remembers of a start: one file a start, `children/NONCE.json`, and the lock beside it.
//!
//! It is written and synced before the process exists, again when its id is known, and again when its end
//! is. Never holds a value of the environment.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mainstay_types::{ChildName, ChildRole, Nonce, Pid, Timestamp};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::protocol::{Child, Ended, SpawnSpec};

/// Version of the file; a keep reads its own and the previous one.
const VERSION: u32 = 1;

/// One start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// Boot of the kernel in which the ids mean something.
    pub(crate) boot: String,
    pub(crate) name: ChildName,
    pub(crate) role: ChildRole,
    pub(crate) nonce: Nonce,
    argv: Vec<String>,
    dir: PathBuf,
    pub(crate) log: PathBuf,
    /// Inherited as descriptors 3, 4, … in this order.
    pub(crate) listeners: Vec<String>,
    pub(crate) group: Group,
    pub(crate) started_at: Timestamp,
    /// `None` until the process exists.
    pub(crate) pid: Option<Pid>,
    /// **Unit**: clock ticks since boot.
    pub(crate) start_time: Option<u64>,
    pub(crate) ended: Option<Ended>,
    /// How the start before this one ended.
    #[serde(default)]
    pub(crate) ended_before: Option<Ended>,
}

impl Record {
    /// The intent to start `spec`.
    pub(crate) fn intent(spec: &SpawnSpec, boot: &str, group: Group, now: Timestamp) -> Self {
        Self {
            version: VERSION,
            boot: boot.to_owned(),
            name: spec.name.clone(),
            role: spec.role,
            nonce: spec.nonce.clone(),
            argv: spec.argv.clone(),
            dir: spec.dir.clone(),
            log: spec.log.clone(),
            listeners: spec.listeners.clone(),
            group,
            started_at: now,
            pid: None,
            start_time: None,
            ended: None,
            ended_before: None,
        }
    }

    /// As clients see it.
    pub(crate) fn child(&self, is_own: bool) -> Child {
        Child {
            name: self.name.clone(),
            role: self.role,
            nonce: self.nonce.clone(),
            // A start whose process was never seen has none; 0 is nobody's id.
            pid: self.pid.unwrap_or(Pid(0)),
            since: self.started_at,
            is_own,
            ended: self.ended.clone(),
            ended_before: self.ended_before.clone(),
        }
    }
}

/// The folder of all records.
#[derive(Debug)]
pub(crate) struct Records(PathBuf);

impl Records {
    /// Opens (and makes) the folder below `state`.
    ///
    /// **Errors**: the file system's.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let folder = state.join("children");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        // Lock holders are found by comparing paths, so the path must be the kernel's own.
        Ok(Self(folder.canonicalize()?))
    }

    pub(crate) fn lock_path(&self, nonce: &Nonce) -> PathBuf {
        self.0.join(format!("{nonce}.lock"))
    }

    fn path(&self, nonce: &Nonce) -> PathBuf {
        self.0.join(format!("{nonce}.json"))
    }

    /// Writes and syncs a record.
    ///
    /// **Errors**: the file system's; the old content stays.
    pub(crate) fn save(&self, record: &Record) -> io::Result<()> {
        let bytes = serde_json::to_vec(record)?;
        crate::durable::replace(&self.path(&record.nonce), &bytes, 0o600)
    }

    /// Whether a start of this nonce is on record.
    pub(crate) fn knows(&self, nonce: &Nonce) -> bool {
        self.path(nonce).exists()
    }

    /// Forgets a start. A lock that is held stays.
    pub(crate) fn forget(&self, nonce: &Nonce) {
        // The record first: without it the lock is an orphan that the next keep removes.
        std::fs::remove_file(self.path(nonce)).ok();
        if !self.is_held(nonce) {
            std::fs::remove_file(self.lock_path(nonce)).ok();
        }
    }

    /// Takes the lock of a new start; the child inherits it, and this process lets go of it.
    ///
    /// **Errors**: the file system's, or somebody holds it already.
    pub(crate) fn lock(&self, nonce: &Nonce) -> io::Result<File> {
        let path = self.lock_path(nonce);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(file)
    }

    /// Whether any process still holds the lock of a start.
    pub(crate) fn is_held(&self, nonce: &Nonce) -> bool {
        let Ok(file) = File::open(self.lock_path(nonce)) else { return false };
        let tried = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        tried == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// Removes locks whose record is gone and that nobody holds: keep died while it forgot a start.
    pub(crate) fn tidy(&self) {
        let Ok(folder) = std::fs::read_dir(&self.0) else { return };
        for path in folder.flatten().map(|entry| entry.path()) {
            let nonce = path.file_stem().and_then(|stem| stem.to_str()).map(|stem| Nonce::try_from(stem.to_owned()));
            if let Some(Ok(nonce)) = nonce
                && !self.knows(&nonce)
                && !self.is_held(&nonce)
            {
                std::fs::remove_file(path).ok();
            }
        }
    }

    /// All records. Files that are none (torn before version 1, or foreign) are left alone and named.
    pub(crate) fn load(&self) -> (Vec<Record>, Vec<String>) {
        let (mut records, mut strange) = (Vec::new(), Vec::new());
        let Ok(folder) = std::fs::read_dir(&self.0) else { return (records, strange) };
        for path in folder.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let parsed = std::fs::read(&path)
                .map_err(|error| error.to_string())
                .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).map_err(|error| error.to_string()));
            match parsed {
                Ok(record) if record.version == VERSION => records.push(record),
                Ok(record) => strange.push(format!("{}: version {}", path.display(), record.version)),
                Err(error) => strange.push(format!("{}: {error}", path.display())),
            }
        }
        records.sort_by_key(|record| record.started_at);
        (records, strange)
    }
}
