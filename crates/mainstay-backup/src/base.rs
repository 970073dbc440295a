//! A base backup: the data directory of a running server, read file by file between `pg_backup_start` and
//! `pg_backup_stop`, with no copy in between.
//!
//! The rules are those of PostgreSQL's manual, 26.3.3, and of `basebackup.c`: a file that is shorter than it was
//! listed is filled up with zeros and one that is gone is left out, as replay makes both whole again; `pg_control` is
//! read when everything else has been read, since on a standby it says how far replay must go; `backup_label` comes
//! last of all. A page whose checksum is wrong is read once more (it may have been written just then), and when it is
//! wrong again the backup fails: a damaged page must not push sound ones out of the repository.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use mainstay_types::{Lsn, Timestamp};

use crate::page::{self, Look, PAGE};
use crate::repository::{
    self, Added, ErrorKind, Metadata, Node, NodeType, ReadSourceEntry, Repository, RepositoryError, RusticError,
    RusticResult, Unmarked,
};

/// Read at once where less is wanted than a page.
const BLOCK: usize = 16 * PAGE;
/// Room for `backup_label`, filled up with line ends: its size must be known before it is.
const LABEL_ROOM: usize = 1024;
const CONTROL: &str = "global/pg_control";

/// Folders whose content is made anew at every start, and those of WAL: the folder is kept, what is in it is not.
const EMPTIED: [&str; 9] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_wal",
    "pg_tblspc",
];
/// Files of the running server, of an earlier backup, and our own that every start writes.
const LEFT_OUT: [&str; 10] = [
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "current_logfiles",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
];

/// Why no backup was made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The data directory could not be read.
    #[error("cannot read {path}")]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The cluster uses tablespaces.
    #[error("the database has tablespaces ({0}): mainstay's backups do not cover them yet")]
    Tablespaces(String),
    /// A page's checksum is wrong, twice.
    #[error("{} has a wrong checksum: {}", if .0.len() == 1 { "a page" } else { "more than one page" }, .0.join(", "))]
    DamagedPages(Vec<String>),
    /// The server did not end the backup well.
    #[error("the server did not end the backup: {0}")]
    Stop(String),
    /// The repository's.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

/// What is backed up.
#[derive(Clone, Debug)]
pub struct Source {
    /// The data directory.
    pub data: PathBuf,
    /// Where the backup began: pages written after it are replaced by replay.
    pub start: Lsn,
    /// Whether the cluster has page checksums.
    pub has_checksums: bool,
    /// The stack's name, kept as the host of the snapshot.
    pub stack: String,
}

/// What was read and stored; to be marked when its WAL is in the archive.
pub struct Taken {
    /// The snapshot.
    pub unmarked: Unmarked,
    /// What it added.
    pub added: Added,
    /// Pages whose checksum was looked at.
    pub pages: u64,
}

/// Stores a data directory. `stop` ends the backup on the server and gives `backup_label`; it is called once, when
/// everything else has been read.
///
/// **Errors**: see [`BackupError`]; the repository then has chunks that nothing refers to, and no new backup.
pub fn take(
    repository: &Repository,
    source: &Source,
    stop: impl FnOnce() -> Result<String, String> + Send + 'static,
) -> Result<Taken, BackupError> {
    let mut entries = Vec::new();
    walk(&source.data, Path::new(""), &mut entries)?;
    if !entries.iter().any(|entry| entry.is_control) {
        // Everything waits for it at the end.
        let (path, kind) = (source.data.join(CONTROL), io::ErrorKind::NotFound);
        return Err(BackupError::Read { path, source: kind.into() });
    }
    let others = entries.iter().filter(|entry| !entry.is_dir && !entry.is_control).count();
    let shared = Arc::new(Shared {
        start: source.start.as_u64(),
        has_checksums: source.has_checksums,
        others: Mutex::new(others),
        control_read: Mutex::new(false),
        changed: Condvar::new(),
        fault: Mutex::new(None),
        damaged: Mutex::new(Vec::new()),
        has_failed: AtomicBool::new(false),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        pages: AtomicU64::new(0),
        stop: Mutex::new(Some(Box::new(stop))),
    });
    let files = Files { data: source.data.clone(), entries, shared: Arc::clone(&shared) };
    let unmarked = repository.store(&files, &source.stack)?;
    let damaged = std::mem::take(&mut *lock(&shared.damaged));
    if !damaged.is_empty() {
        return Err(BackupError::DamagedPages(damaged));
    }
    if let Some(fault) = lock(&shared.fault).take() {
        return Err(fault);
    }
    let (files, bytes) = (shared.files.load(Ordering::SeqCst), shared.bytes.load(Ordering::SeqCst));
    let added = unmarked.added;
    if (added.files, added.bytes) != (files, bytes) || !*lock(&shared.control_read) {
        let text = |files: u64, bytes: u64| format!("{files} files of {bytes} bytes");
        let (stored, wanted) = (text(added.files, added.bytes), text(files, bytes));
        return Err(RepositoryError::NotWhole { stored, wanted }.into());
    }
    Ok(Taken { unmarked, added, pages: shared.pages.load(Ordering::SeqCst) })
}

type Stop = Box<dyn FnOnce() -> Result<String, String> + Send>;

/// What readers of all files share.
pub(crate) struct Shared {
    start: u64,
    has_checksums: bool,
    /// Files but `pg_control` that are not read to their end yet.
    others: Mutex<usize>,
    control_read: Mutex<bool>,
    changed: Condvar,
    fault: Mutex<Option<BackupError>>,
    damaged: Mutex<Vec<String>>,
    has_failed: AtomicBool,
    files: AtomicU64,
    bytes: AtomicU64,
    pages: AtomicU64,
    stop: Mutex<Option<Stop>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Remembers the first fault: the library would swallow it.
    fn fail(&self, fault: BackupError) {
        lock(&self.fault).get_or_insert(fault);
        self.has_failed.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn others_done(&self) {
        let mut left = lock(&self.others);
        while *left > 0 {
            left = self.changed.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn control_done(&self) {
        let mut is_read = lock(&self.control_read);
        while !*is_read && !self.has_failed.load(Ordering::SeqCst) {
            is_read = self.changed.wait(is_read).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct Entry {
    path: PathBuf,
    is_dir: bool,
    is_control: bool,
    size: u64,
    mode: u32,
    modified: Timestamp,
}

/// Lists a folder and all beneath it, each folder before its content. `global` comes last and `pg_control` last in
/// it; apart from that by name.
fn walk(data: &Path, inner: &Path, entries: &mut Vec<Entry>) -> Result<(), BackupError> {
    let folder = data.join(inner);
    let at = |source| BackupError::Read { path: folder.clone(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(at)? {
        names.push(entry.map_err(at)?.file_name());
    }
    let is_last =
        |name: &std::ffi::OsStr| inner.join(name) == Path::new(CONTROL) || inner.join(name) == Path::new("global");
    names.sort_by(|a, b| (is_last(a), a).cmp(&(is_last(b), b)));
    for name in names {
        let path = inner.join(&name);
        let text = name.to_string_lossy();
        if inner == Path::new("") && LEFT_OUT.contains(&&*text) || is_temporary(&text) {
            continue;
        }
        let metadata = match std::fs::symlink_metadata(data.join(&path)) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(BackupError::Read { path: data.join(&path), source }),
        };
        if inner == Path::new("pg_tblspc") {
            return Err(BackupError::Tablespaces(text.into_owned()));
        }
        let is_dir = metadata.is_dir();
        if !is_dir && !metadata.is_file() {
            continue;
        }
        entries.push(Entry {
            is_control: !is_dir && path == Path::new(CONTROL),
            path: path.clone(),
            is_dir,
            size: if is_dir { 0 } else { metadata.len() },
            mode: metadata.mode() & 0o7777,
            modified: Timestamp::from_millis(metadata.mtime().saturating_mul(1000)),
        });
        let is_emptied = inner == Path::new("") && EMPTIED.contains(&&*text) && text != "pg_tblspc";
        if is_dir && !is_emptied {
            walk(data, &path, entries)?;
        }
        if path == Path::new("pg_wal") {
            // PostgreSQL wants it, and makes it only from version 17 on.
            let status = Entry {
                path: path.join("archive_status"),
                is_control: false,
                is_dir,
                size: 0,
                mode: 0o700,
                modified: Timestamp::from_millis(0),
            };
            entries.push(status);
        }
    }
    Ok(())
}

/// `pgsql_tmp*`, `t3_16384` (a temporary table's), `pg_internal.init*`.
fn is_temporary(name: &str) -> bool {
    let of_table = name.strip_prefix('t').and_then(|rest| rest.split_once('_'));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.starts_with("pgsql_tmp")
        || name.starts_with("pg_internal.init")
        || of_table.is_some_and(|(backend, relation)| {
            is_number(backend) && relation.split(['.', '_']).next().is_some_and(is_number)
        })
}

struct Files {
    data: PathBuf,
    entries: Vec<Entry>,
    shared: Arc<Shared>,
}

impl crate::repository::ReadSource for Files {
    type Open = Open;
    type Iter = std::vec::IntoIter<RusticResult<ReadSourceEntry<Open>>>;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Self::Iter {
        let mut all: Vec<_> = self.entries.iter().map(|entry| Ok(self.entry(entry))).collect();
        let shared = Arc::clone(&self.shared);
        let label = Entry {
            path: "backup_label".into(),
            is_dir: false,
            is_control: false,
            size: LABEL_ROOM as u64,
            mode: 0o600,
            modified: Timestamp::from_millis(0),
        };
        let (path, node) = node(&label);
        all.push(Ok(ReadSourceEntry { path, node, open: Some(Open::Label(shared)) }));
        all.into_iter()
    }
}

fn node(entry: &Entry) -> (PathBuf, Node) {
    let name = entry.path.file_name().unwrap_or_default();
    let meta = Metadata {
        mode: Some(entry.mode),
        mtime: repository::moment(entry.modified),
        size: entry.size,
        ..Metadata::default()
    };
    let kind = if entry.is_dir { NodeType::Dir } else { NodeType::File };
    (Path::new("/").join(&entry.path), Node::new_node(name, kind, meta))
}

impl Files {
    fn entry(&self, entry: &Entry) -> ReadSourceEntry<Open> {
        let (path, node) = node(entry);
        let open = (!entry.is_dir).then(|| {
            let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
            let holds_pages = entry.path.starts_with("base") || entry.path.starts_with("global");
            Open::File(Box::new(Opening {
                path: self.data.join(&entry.path),
                size: entry.size,
                first_block: page::first_block(&name).filter(|_| holds_pages && self.shared.has_checksums),
                turn: Turn { is_control: entry.is_control, is_read: false, shared: Arc::clone(&self.shared) },
            }))
        });
        ReadSourceEntry { path, node, open }
    }
}

/// A file's share in the order of reading; done when it is dropped, however it came to that.
struct Turn {
    is_control: bool,
    is_read: bool,
    shared: Arc<Shared>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_control {
            *lock(&self.shared.control_read) = self.is_read;
            if !self.is_read {
                self.shared.has_failed.store(true, Ordering::SeqCst);
            }
        } else {
            *lock(&self.shared.others) -= 1;
        }
        self.shared.changed.notify_all();
    }
}

/// What the library opens when it comes to it.
pub(crate) enum Open {
    File(Box<Opening>),
    Label(Arc<Shared>),
}

/// A file to be opened.
pub(crate) struct Opening {
    path: PathBuf,
    size: u64,
    first_block: Option<u32>,
    turn: Turn,
}

impl crate::repository::ReadSourceOpen for Open {
    type Reader = Reader;

    fn open(self) -> RusticResult<Reader> {
        match self {
            Self::Label(shared) => read_label(&shared),
            Self::File(opening) => open_file(*opening),
        }
    }
}

fn read_label(shared: &Arc<Shared>) -> RusticResult<Reader> {
    shared.control_done();
    let stop = lock(&shared.stop).take().filter(|_| !shared.has_failed.load(Ordering::SeqCst));
    let label = match stop {
        Some(stop) => stop(),
        None => Err("reading failed before".to_owned()),
    };
    let label = label.and_then(|mut label| {
        let room = LABEL_ROOM.checked_sub(label.len()).ok_or("backup_label is longer than there is room for")?;
        label.push_str(&"\n".repeat(room));
        Ok(label)
    });
    match label {
        Ok(label) => {
            shared.files.fetch_add(1, Ordering::SeqCst);
            shared.bytes.fetch_add(LABEL_ROOM as u64, Ordering::SeqCst);
            Ok(Reader::Label(io::Cursor::new(label.into_bytes())))
        }
        Err(why) => {
            shared.fail(BackupError::Stop(why.clone()));
            Err(RusticError::new(ErrorKind::InputOutput, why))
        }
    }
}

fn open_file(opening: Opening) -> RusticResult<Reader> {
    let shared = Arc::clone(&opening.turn.shared);
    if opening.turn.is_control {
        shared.others_done();
    }
    match File::open(&opening.path) {
        Ok(file) => {
            shared.files.fetch_add(1, Ordering::SeqCst);
            shared.bytes.fetch_add(opening.size, Ordering::SeqCst);
            Ok(Reader::File(Box::new(Pages { file, opening, offset: 0, block: Vec::new(), filled: 0, taken: 0 })))
        }
        Err(error) => {
            // A dropped table's file; replay drops it again.
            if error.kind() != io::ErrorKind::NotFound || opening.turn.is_control {
                let source = io::Error::from(error.kind());
                shared.fail(BackupError::Read { path: opening.path.clone(), source });
            }
            Err(RusticError::with_source(ErrorKind::InputOutput, "cannot open a file", error))
        }
    }
}

/// What the library reads from.
pub(crate) enum Reader {
    File(Box<Pages>),
    Label(io::Cursor<Vec<u8>>),
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Label(label) => label.read(into),
            Self::File(pages) => pages.read(into),
        }
    }
}

/// A file that is read in whole pages, to its listed size.
pub(crate) struct Pages {
    file: File,
    opening: Opening,
    offset: u64,
    block: Vec<u8>,
    filled: usize,
    taken: usize,
}

impl Pages {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // Room for pages: they are read to where they are wanted. Through the block goes what is smaller.
        let count = if self.taken == self.filled && into.len() >= PAGE {
            let room = into.len() / PAGE * PAGE;
            self.fill_from(|pages| pages.next(&mut into[..room]))?
        } else {
            if self.taken == self.filled && !into.is_empty() {
                let mut block = std::mem::take(&mut self.block);
                block.resize(BLOCK, 0);
                self.filled = self.fill_from(|pages| pages.next(&mut block))?;
                (self.block, self.taken) = (block, 0);
            }
            let count = (self.filled - self.taken).min(into.len());
            into[..count].copy_from_slice(&self.block[self.taken..self.taken + count]);
            self.taken += count;
            count
        };
        self.opening.turn.is_read |= count == 0;
        Ok(count)
    }

    fn fill_from(&mut self, next: impl FnOnce(&mut Self) -> io::Result<usize>) -> io::Result<usize> {
        next(self).inspect_err(|error| {
            let path = self.opening.path.clone();
            let source = io::Error::from(error.kind());
            self.opening.turn.shared.fail(BackupError::Read { path, source });
        })
    }

    /// As much as there is room for, and no more than was listed.
    fn next(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.opening.size - self.offset).unwrap_or(usize::MAX);
        let wanted = left.min(into.len());
        let into = &mut into[..wanted];
        let read = read_at(&self.file, into, self.offset)?;
        // It was cut meanwhile, and the WAL says so.
        into[read..].fill(0);
        if let Some(first) = self.opening.first_block {
            self.look_at_pages(first, &mut into[..read]);
        }
        self.offset += wanted as u64;
        Ok(wanted)
    }

    fn look_at_pages(&mut self, first: u32, read: &mut [u8]) {
        let shared = Arc::clone(&self.opening.turn.shared);
        let start = shared.start;
        let whole = read.len() / PAGE;
        for (number, page) in read.chunks_exact_mut(PAGE).enumerate() {
            let at = self.offset + (number * PAGE) as u64;
            let block = first.saturating_add(u32::try_from(at / PAGE as u64).unwrap_or(u32::MAX));
            if page::look(page, block, start) != Look::Damaged {
                continue;
            }
            // Written while it was read? Then it is newer now.
            let again = read_at(&self.file, page, at);
            let is_whole = again.is_ok_and(|count| count == PAGE);
            if is_whole && page::look(page, block, start) == Look::Damaged {
                let mut damaged = lock(&shared.damaged);
                if damaged.len() < MOST_NAMED {
                    damaged.push(format!("{} block {block}", self.opening.path.display()));
                }
            }
        }
        shared.pages.fetch_add(whole as u64, Ordering::SeqCst);
    }
}

/// Damaged pages that are named: a dead disk has millions.
const MOST_NAMED: usize = 20;

/// As many bytes as the file has, up to the buffer's length.
fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < into.len() {
        match file.read_at(&mut into[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests;
