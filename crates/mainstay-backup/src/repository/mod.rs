//! The repository of base backups. Everything of `rustic_core` is in this module.
//!
//! Two traps it guards against. The archiver leaves out a file that it cannot read, with a line in a log that nobody
//! sees, and saves the snapshot all the same: so what was stored is counted and compared with what was read. And a
//! snapshot is there before it is known to be whole: so it is saved without our mark, and saved again with it when
//! everything is checked; one without the mark is never listed or restored.

mod disk;
mod remote;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay_types::{Secret, Timestamp};
use rustic_core::repofile::{Chunker, MasterKey, SnapshotFile};
use rustic_core::{
    BackupOptions, CheckOptions, ConfigOptions, Credentials, KeyOptions, LimitOption, LocalDestination, LsOptions,
    OpenStatus, PruneOptions, RepositoryBackends, RepositoryOptions, RestoreOptions, SnapshotOptions, WriteBackend,
};

use crate::label::{LABEL_VERSION, Label};
use crate::objects::Waiting;

pub(crate) use rustic_core::repofile::{Metadata, Node, NodeType};
pub(crate) use rustic_core::{ErrorKind, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult};

/// Size of chunks of a new repository; what one was made with stands in its config and stays. A changed page costs a
/// chunk, and a run of changed pages one more at its edges; each chunk costs 75 bytes of index and tree, and is read and
/// written by itself. Measured on 2.2 GB of pgbench, 1 % of its rows updated in a hundred runs (2 % of its pages), as a
/// part of the bytes of the full: 256 KiB 12.4 %, 128 KiB 7.6 %, 64 KiB 5.6 %; the full grows by 6 and by 13 %.
/// Content-defined chunks stored nearly everything again, as pages give them no natural cuts.
const CHUNK: &str = "128 KiB";
/// Fastest level: 2 GiB in 2.5 s on two cores; higher ones cost time for little, pages compress well at any.
const COMPRESSION: i32 = 1;
/// Tag of base backups.
const TAG: &str = "mainstay-base";

/// What the repository could not do.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// The key or password does not open it.
    #[error("the key does not open the repository in {path}: it belongs to another stack, or its files are damaged")]
    Key {
        /// Where.
        path: PathBuf,
        /// What the library said.
        #[source]
        source: Box<RusticError>,
    },
    /// Reading, writing or an entry that does not match its checksum.
    #[error("cannot {action} in the repository {path}: {reason}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the library said, in one line.
        reason: String,
    },
    /// What was stored is not what was read.
    #[error("{stored} of {wanted} were stored: the backup is not whole and is not kept")]
    NotWhole {
        /// Files and bytes that are in the snapshot.
        stored: String,
        /// Files and bytes that were read.
        wanted: String,
    },
}

/// A base backup in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Identity of its snapshot, 64 hexadecimal digits.
    pub id: String,
    /// What it is.
    pub label: Label,
}

/// What a check found, one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Damaged or missing.
    pub faults: Vec<String>,
    /// Nothing is lost by it: packs that no backup refers to, as a killed one leaves them until space is freed.
    pub warnings: Vec<String>,
}

/// What a backup added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Files stored.
    pub files: u64,
    /// Bytes read. **Unit**: bytes.
    pub bytes: u64,
    /// Of these, bytes in chunks that were not there before. **Unit**: bytes.
    pub new_bytes: u64,
    /// What they took when compressed and encrypted. **Unit**: bytes.
    pub stored_bytes: u64,
}

/// A snapshot that is stored and not yet marked as whole.
pub struct Unmarked {
    snapshot: SnapshotFile,
    /// What it added.
    pub added: Added,
}

/// A repository in a folder, and the key that opens it.
pub struct Repository {
    folder: PathBuf,
    /// Where its packs are, when they are not in the folder.
    store: Option<Arc<Waiting>>,
    key: MasterKey,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is not for logs.
        f.debug_struct("Repository").field("folder", &self.folder).finish_non_exhaustive()
    }
}

fn reason(error: &RusticError) -> String {
    // The library's text has headings and advice for its own command line over many lines.
    let mut text = error.display_log();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Repository {
    /// Makes a repository that `password` opens.
    ///
    /// **Errors**: one is there already, or the folder cannot be written.
    pub fn create(folder: &Path, password: &Secret) -> Result<Self, RepositoryError> {
        Self::create_with(folder, password, CHUNK)
    }

    pub(crate) fn create_with(folder: &Path, password: &Secret, chunk: &str) -> Result<Self, RepositoryError> {
        let mut config = ConfigOptions::default()
            .set_chunker(Chunker::FixedSize)
            .set_compression(COMPRESSION)
            // Every blob is decrypted and compared again before it is written: memory that lies is found now, not at
            // the restore.
            .set_extra_verify(true);
        config.set_chunk_size = chunk.parse().ok();
        let credentials = Credentials::password(password.expose());
        let open = raw(folder, None)
            .and_then(|raw| raw.init(&credentials, &KeyOptions::default(), &config))
            .map_err(|error| failed("make a repository", folder, &error))?;
        Ok(Self { folder: folder.to_owned(), store: None, key: open.key() })
    }

    /// With the password of the recovery card. Slow on purpose: the password is stretched.
    ///
    /// **Errors**: it does not fit, or the folder is no repository.
    pub fn open_with_password(folder: &Path, password: &Secret) -> Result<Self, RepositoryError> {
        let open = raw(folder, None)
            .and_then(|raw| raw.open(&Credentials::password(password.expose())))
            .map_err(|source| RepositoryError::Key { path: folder.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned(), store: None, key: open.key() })
    }

    /// With the key itself, as [`Self::key`] gave it.
    ///
    /// **Errors**: it is no key.
    pub fn with_key(folder: &Path, key: &Secret) -> Result<Self, RepositoryError> {
        let key = serde_json::from_str(key.expose()).map_err(|_| RepositoryError::Failed {
            action: "use the key of",
            path: folder.to_owned(),
            reason: "it is no key".to_owned(),
        })?;
        Ok(Self { folder: folder.to_owned(), store: None, key })
    }

    /// The same with its packs in a store, and its small files in the folder and there.
    #[must_use]
    pub fn backed_by(self, store: Option<Arc<Waiting>>) -> Self {
        Self { store, ..self }
    }

    /// The key, to be sealed in the state folder: it opens the repository at once.
    ///
    /// **Errors**: none in practice; writing JSON can fail by its type.
    pub fn key(&self) -> Result<Secret, RepositoryError> {
        let text = serde_json::to_string(&self.key).map_err(|error| RepositoryError::Failed {
            action: "write the key of",
            path: self.folder.clone(),
            reason: error.to_string(),
        })?;
        Ok(Secret::new(text))
    }

    fn open(&self) -> Result<rustic_core::Repository<OpenStatus>, RepositoryError> {
        raw(&self.folder, self.store.as_ref())
            .and_then(|raw| raw.open(&Credentials::Masterkey(self.key.clone())))
            .map_err(|source| RepositoryError::Key { path: self.folder.clone(), source })
    }

    fn failed(&self, action: &'static str) -> impl Fn(Box<RusticError>) -> RepositoryError + '_ {
        move |error| failed(action, &self.folder, &error)
    }

    /// Stores what a source gives. Nothing lists it until [`Self::mark`].
    ///
    /// **Errors**: the repository's. A source's own errors are the source's to remember: the library swallows them.
    pub(crate) fn store<R>(&self, source: &R, stack: &str) -> Result<Unmarked, RepositoryError>
    where
        R: ReadSource + 'static,
        R::Open: Send + ReadSourceOpen,
        R::Iter: Send,
    {
        let failed = self.failed("store a backup");
        let repository = self.open()?.to_indexed_ids().map_err(&failed)?;
        let options = SnapshotOptions::default().host(stack.to_owned());
        let snapshot = options.to_snapshot().map_err(&failed)?;
        let mut backup = BackupOptions::default().no_scan(true);
        // No file is taken from an earlier backup by its size and time: PostgreSQL changes pages in place, and
        // every page's checksum is to be looked at. Chunks that are there already are found by their hash.
        backup.parent_opts.force = true;
        let root = [PathBuf::from("/")];
        let snapshot = repository.archive(&backup, source, snapshot, &root).map_err(&failed)?;
        let summary = snapshot.summary.clone().unwrap_or_default();
        let added = Added {
            files: summary.total_files_processed,
            bytes: summary.total_bytes_processed,
            new_bytes: summary.data_added,
            stored_bytes: summary.data_added_packed,
        };
        Ok(Unmarked { snapshot, added })
    }

    /// Marks a stored snapshot as a whole base backup.
    ///
    /// **Errors**: the repository's; then the snapshot stays unmarked and is never used.
    pub fn mark(&self, unmarked: Unmarked, label: &Label) -> Result<Backup, RepositoryError> {
        let failed = self.failed("mark a backup");
        let repository = self.open()?;
        let old = unmarked.snapshot.id;
        let mut snapshot = unmarked.snapshot;
        snapshot.tags.add(TAG.to_owned());
        snapshot.label = label.name.clone().unwrap_or_default();
        snapshot.description = serde_json::to_string(label).ok();
        repository.save_snapshots(vec![snapshot]).map_err(&failed)?;
        repository.delete_snapshots(&[old]).map_err(&failed)?;
        let newest = self.backups()?.into_iter().find(|backup| backup.label == *label);
        newest.ok_or_else(|| RepositoryError::Failed {
            action: "find the marked backup",
            path: self.folder.clone(),
            reason: "it was saved and is not listed".to_owned(),
        })
    }

    /// All whole base backups, oldest first: those of one cluster by timeline and position, which no clock touches.
    ///
    /// **Errors**: the repository's.
    pub fn backups(&self) -> Result<Vec<Backup>, RepositoryError> {
        let snapshots = self.open()?.get_all_snapshots().map_err(self.failed("list backups"))?;
        Ok(in_order(snapshots.iter().filter_map(marked).collect()))
    }

    /// Base backups whose label cannot be read, as one that a later version wrote: nobody knows what they need.
    ///
    /// **Errors**: the repository's.
    pub fn unreadable(&self) -> Result<Vec<String>, RepositoryError> {
        let snapshots = self.open()?.get_all_snapshots().map_err(self.failed("list backups"))?;
        let is_unreadable = |snapshot: &&SnapshotFile| snapshot.tags.contains(TAG) && marked(snapshot).is_none();
        Ok(snapshots.iter().filter(is_unreadable).map(|snapshot| snapshot.id.to_string()).collect())
    }

    /// Lets go of base backups, and of snapshots that were never marked. Their space is freed by [`Self::prune`]. For
    /// who holds the place alone. Answers how many went.
    ///
    /// **Errors**: the repository's. Killed at any moment, each backup is there whole or not at all.
    pub fn forget(&self, ids: &[String]) -> Result<usize, RepositoryError> {
        let failed = self.failed("forget backups");
        let repository = self.open()?;
        let snapshots = repository.get_all_snapshots().map_err(&failed)?;
        // One with our mark whose label cannot be read is somebody's backup all the same.
        let goes = |snapshot: &&SnapshotFile| {
            !snapshot.tags.contains(TAG) || marked(snapshot).is_some_and(|backup| ids.contains(&backup.id))
        };
        let goes: Vec<_> = snapshots.iter().filter(goes).map(|snapshot| snapshot.id).collect();
        repository.delete_snapshots(&goes).map_err(&failed)?;
        Ok(goes.len())
    }

    /// Frees what no snapshot refers to. For who holds the place alone. **Unit** of the answer: bytes freed on disk.
    ///
    /// **Errors**: the repository's. Killed at any moment, everything that a backup needs is there: new packs and the
    /// index that knows them are on disk before the old ones go.
    pub fn prune(&self) -> Result<u64, RepositoryError> {
        let io = |error: std::io::Error| RepositoryError::Failed {
            action: "free space",
            path: self.folder.clone(),
            reason: error.to_string(),
        };
        disk::remove_unfinished(&self.folder).map_err(io)?;
        let failed = self.failed("free space");
        let bytes = || -> Result<u64, RepositoryError> {
            let here = disk::bytes(&self.folder).map_err(io)?;
            let Some(store) = &self.store else { return Ok(here) };
            let packs = store.list_below(remote::PACKS).map_err(|error| RepositoryError::Failed {
                action: "list the packs of",
                path: self.folder.clone(),
                reason: error.to_string(),
            })?;
            Ok(here + packs.values().map(|pack| pack.bytes).sum::<u64>())
        };
        let before = bytes()?;
        let repository = self.open()?;
        let mut options = PruneOptions::default();
        // The lock of the place says that nobody else is here: no reason to wait a day before files go.
        options.instant_delete = true;
        options.max_repack = LimitOption::Unlimited;
        let plan = repository.prune_plan(&options).map_err(&failed)?;
        repository.prune(&options, plan).map_err(&failed)?;
        Ok(before.saturating_sub(bytes()?))
    }

    /// Reads everything and compares it with its hashes: index, trees, and with `read_data` every byte.
    ///
    /// **Errors**: the repository could not be read at all. What is damaged is in the answer.
    pub fn check(&self, read_data: bool) -> Result<Found, RepositoryError> {
        let repository = self.open()?;
        let options = CheckOptions::default().trust_cache(true).read_data(read_data);
        // rustic_core 0.13 gives up with a panic where a damaged tree ends its walk ("index still in use"): that is a
        // finding, and the worst one.
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| repository.check(options)));
        let Ok(results) = checked else {
            let text = "the check broke off: a tree of files is damaged and cannot be read".to_owned();
            return Ok(Found { faults: vec![text], warnings: Vec::new() });
        };
        let results = results.map_err(self.failed("check"))?;
        let mut found = Found::default();
        for (level, error) in &results.0 {
            // The library does not let out the type. Whatever it adds to it is a fault.
            match format!("{level:?}").as_str() {
                "Warn" => found.warnings.push(error.to_string()),
                _ => found.faults.push(error.to_string()),
            }
        }
        Ok(found)
    }

    /// The files that the card's password opens: each bears the hash of its content in its name, and who has the key
    /// itself never reads them.
    ///
    /// **Errors**: the folder cannot be read. What is damaged or missing is in the answer.
    pub fn check_doors(&self) -> Result<Vec<String>, RepositoryError> {
        let doors = disk::doors(&self.folder).map_err(|error| RepositoryError::Failed {
            action: "read the keys",
            path: self.folder.clone(),
            reason: error.to_string(),
        })?;
        if doors.is_empty() {
            return Ok(vec![format!("{} has no key: the recovery card does not open it", self.folder.display())]);
        }
        let damaged = doors.iter().filter(|(path, hash)| path.file_name().is_none_or(|name| name != hash.as_str()));
        let text = |(path, _): &(PathBuf, String)| {
            format!("{} is damaged: the recovery card may not open the base backups", path.display())
        };
        Ok(damaged.map(text).collect())
    }

    /// Writes a backup's files into an empty folder. Owners are not set.
    ///
    /// **Errors**: the repository's, or the folder's. What was written until then stays there.
    pub fn restore(&self, backup: &Backup, into: &Path) -> Result<(), RepositoryError> {
        let failed = self.failed("restore a backup");
        let repository = self.open()?.to_indexed().map_err(&failed)?;
        let node = repository.node_from_snapshot_path(&backup.id, |_| true).map_err(&failed)?;
        let options = RestoreOptions::default().no_ownership(true);
        let target = LocalDestination::new(&into.to_string_lossy(), true, false).map_err(&failed)?;
        let all = LsOptions::default();
        let list = || repository.ls(&node, &all).map_err(&failed);
        let plan = repository.prepare_restore(&options, list()?, &target, false).map_err(&failed)?;
        repository.restore(plan, &options, list()?, &target).map_err(&failed)
    }

    /// What the repository is called in its own files.
    ///
    /// **Errors**: the key does not open it.
    pub fn identity(&self) -> Result<String, RepositoryError> {
        Ok(self.open()?.config().id.to_string())
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Clusters are in the order in which their first backup ended.
fn in_order(mut backups: Vec<Backup>) -> Vec<Backup> {
    let mut first: BTreeMap<u64, Timestamp> = BTreeMap::new();
    for Backup { label, .. } in &backups {
        let known = first.entry(label.system).or_insert(label.ended);
        *known = (*known).min(label.ended);
    }
    backups.sort_by_cached_key(|one| {
        let Label { system, timeline, start, ended, .. } = one.label;
        (first.get(&system).copied(), system, timeline, start, ended, one.id.clone())
    });
    backups
}

fn marked(snapshot: &SnapshotFile) -> Option<Backup> {
    if !snapshot.tags.contains(TAG) {
        return None;
    }
    let label: Label = serde_json::from_str(snapshot.description.as_deref()?).ok()?;
    if label.version > LABEL_VERSION {
        return None;
    }
    Some(Backup { id: snapshot.id.to_string(), label })
}

fn raw(folder: &Path, store: Option<&Arc<Waiting>>) -> RusticResult<rustic_core::Repository<()>> {
    let disk = disk::Disk::new(folder);
    let backend: Arc<dyn WriteBackend> = match store {
        Some(store) => Arc::new(remote::Remote::new(disk, Arc::clone(store))),
        None => Arc::new(disk),
    };
    let backends = RepositoryBackends::new(backend, None);
    // The cache would be a second place on this machine in which backups lie.
    rustic_core::Repository::new(&RepositoryOptions::default().no_cache(true), &backends)
}

fn failed(action: &'static str, folder: &Path, error: &RusticError) -> RepositoryError {
    RepositoryError::Failed { action, path: folder.to_owned(), reason: reason(error) }
}

/// A moment as the library writes it in a file's times.
pub(crate) fn moment(at: Timestamp) -> Option<rustic_core::jiff::Timestamp> {
    rustic_core::jiff::Timestamp::from_millisecond(at.as_millis()).ok()
}
