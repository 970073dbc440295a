//! A second copy of a place in an object store: the same files under the same names, so that the copy is itself a place
//! that the recovery card opens.
//!
//! Files are added and hardly ever changed, so what is missing is what a list does not name. Contents go before what
//! refers to them; a base backup goes when all that it needs is there. Nothing is removed from the copy because the
//! folder does not have it: only what retention let go of, and said so, goes there too.

mod check;
mod fetch;
mod folder;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mainstay_types::{Bytes, Timestamp};
use sha2::{Digest, Sha256};

use crate::objects::{Asked, CLAIM, CLAIMED_WITHIN, Put, Store, StoreError, Upload};
use crate::place::{About, Place, PlaceError};
use crate::repository::Repository;
use crate::wal::spool::{self, Spooled};

pub use check::{Compared, How, check};
pub use fetch::{Fetched, Fetching, fetch};
pub use folder::{Files, Folders, Kind, Local};
pub use target::{Sender, compare, gather};

/// The store is asked for all its objects this often: what somebody removed there is put again.
const LIST_AGAIN: Duration = Duration::from_secs(3600);
/// While contents of base backups go, archived WAL is looked for this often: it is what a loss is measured by.
const WAL_AGAIN: Duration = Duration::from_secs(1);
/// A file that changes was put when it was older than the object by more than clocks may differ.
const CLOCKS: Duration = Duration::from_secs(900);

/// Why a copy does not go on.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder's.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The file system said no.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is the copy of another repository.
    #[error("{to} holds the copy of another repository, of the stack {stack} ({environment})")]
    Other {
        /// Where.
        to: String,
        /// Whose.
        stack: String,
        /// Its environment.
        environment: String,
    },
    /// There are objects that are no copy.
    #[error("{0} holds objects that are no copy of this repository: name an empty prefix")]
    Foreign(String),
    /// There is no copy.
    #[error("{0} holds no copy of a repository: there is no mainstay.json")]
    NoCopy(String),
    /// What came is not what was put.
    #[error("{name} is damaged in the copy: {why}")]
    Damaged {
        /// The object.
        name: String,
        /// What was seen.
        why: String,
    },
    /// Too little space for what is to be fetched.
    #[error("{free} are free in {folder}, the copy has {wanted} more")]
    NoSpace {
        /// Free.
        free: Bytes,
        /// Wanted.
        wanted: Bytes,
        /// Where.
        folder: PathBuf,
    },
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CopyError {
    let path = path.to_owned();
    move |source| CopyError::Io { action, path, source }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// How far a copy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// When the archive was looked through.
    pub looked: Timestamp,
    /// Base backups in it with all that they need.
    pub backups: u64,
    /// Files of the folder that are in it.
    pub files: u64,
    /// Their bytes. **Unit**: bytes.
    pub bytes: u64,
    /// Files that are not.
    pub waiting: u64,
    /// Their bytes. **Unit**: bytes.
    pub waiting_bytes: u64,
    /// When the oldest of them that is archived WAL was archived.
    pub wal_waits_since: Option<Timestamp>,
    /// When the oldest of them that is of base backups was written.
    pub base_waits_since: Option<Timestamp>,
    /// Objects that the folder does not have.
    pub extra: u64,
}

/// What became of what retention let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// It is gone from the copy too.
    Done,
    /// What took its place is not there yet.
    Later,
    /// The store's key may not remove anything.
    Denied,
}

/// An object that is in the copy.
#[derive(Clone, Copy, Debug)]
struct Held {
    bytes: u64,
    /// What was written until then is in it, for a file that changes.
    of: Timestamp,
}

/// Copies a place.
pub struct Copier {
    place: Place,
    store: Store,
    repository: Repository,
    /// The store is the place itself, and who adds to it: packs and WAL are there by themselves, see [`Sender`].
    holder: Option<String>,
    asked: Asked,
    /// Snapshots of backups that are being taken, or were cut off: no base backups, and not for the copy.
    unmarked: BTreeSet<String>,
    folders: Folders,
    held: BTreeMap<String, Held>,
    listed: Option<Instant>,
    base: Files,
    wal: Files,
    spooled: Vec<Spooled>,
    looked: Timestamp,
    wal_looked: Instant,
    /// What cannot go as it is damaged here.
    damaged: Option<StoreError>,
}

impl Copier {
    /// For a place, its repository, and the store that it is copied to; with a `holder` the store that it is in.
    pub fn new(place: Place, repository: Repository, store: Store, holder: Option<String>) -> Self {
        Self {
            place,
            store,
            repository,
            holder,
            asked: Asked::default(),
            unmarked: BTreeSet::new(),
            folders: Folders::default(),
            held: BTreeMap::new(),
            listed: None,
            base: Files::new(),
            wal: Files::new(),
            spooled: Vec::new(),
            looked: now(),
            wal_looked: Instant::now(),
            damaged: None,
        }
    }

    /// Puts what the copy does not have. `tell` hears how far it is, before and after each larger step.
    ///
    /// **Errors**: see [`CopyError`]. What was put until then stays; the next round goes on from there.
    pub async fn round(&mut self, tell: &mut (dyn FnMut(Standing) + Send)) -> Result<(), CopyError> {
        self.damaged = None;
        self.look_at_base()?;
        self.look_at_wal()?;
        // Also while the store is away: what waits is known as long as what it has is.
        if self.listed.is_some() {
            tell(self.standing());
        }
        if self.listed.is_none_or(|at| at.elapsed() > LIST_AGAIN) {
            self.list().await?;
            tell(self.standing());
        }
        if let Some(holder) = &self.holder {
            self.asked.again(&self.store, holder, CLAIMED_WITHIN).await?;
        }
        for kind in [Kind::Opening, Kind::Name] {
            self.put_kind(kind, tell).await?;
        }
        self.put_wal(tell).await?;
        // What is listed now was closed in itself: who refers to others was listed before them.
        let listed = self.base.clone();
        for kind in [Kind::Pack, Kind::Index] {
            self.put_kind(kind, tell).await?;
        }
        self.put_snapshots(&listed, tell).await?;
        self.put_kind(Kind::Note, tell).await?;
        self.put_wal(tell).await?;
        tell(self.standing());
        match self.damaged.take() {
            Some(damaged) => Err(damaged.into()),
            None => Ok(()),
        }
    }

    /// Removes from the copy what retention let go of in the folder: who refers to others first. What the folder has
    /// (again) stays, and nothing goes before all that took its place is there.
    ///
    /// **Errors**: see [`CopyError`]. What did not go yet goes with the next call.
    pub async fn let_go(&mut self, names: &[String]) -> Result<LetGo, CopyError> {
        self.look_at_base()?;
        self.look_at_wal()?;
        let waits = [Kind::Pack, Kind::Index].iter().any(|kind| !self.missing(&self.base, *kind).is_empty());
        if waits || self.listed.is_none() {
            return Ok(LetGo::Later);
        }
        let order = |kind: Kind| match kind {
            Kind::Snapshot => 0,
            Kind::Index => 1,
            Kind::Pack | Kind::Wal | Kind::Note | Kind::Opening | Kind::Name => 2,
        };
        let goes = |name: &&String| !self.base.contains_key(*name) && !self.wal.contains_key(*name);
        let mut goes: Vec<(u8, &String)> = names
            .iter()
            .filter(goes)
            .filter_map(|name| {
                let kind = Kind::of(name).filter(|kind| kind.is_fixed() || *kind == Kind::Note)?;
                Some((order(kind), name))
            })
            .collect();
        goes.sort();
        for (_, name) in goes {
            if !self.held.contains_key(name) {
                continue;
            }
            match self.store.remove(name).await {
                Ok(()) => drop(self.held.remove(name)),
                // A key that may only add is a good one: then all is kept.
                Err(error) if error.is_denied() => return Ok(LetGo::Denied),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(LetGo::Done)
    }

    /// How far it is.
    pub fn standing(&self) -> Standing {
        let mut standing = Standing { looked: self.looked, ..Standing::default() };
        let older =
            |since: Option<Timestamp>, local: &Local| Some(since.map_or(local.written, |at| at.min(local.written)));
        for (name, local) in self.base.iter().chain(&self.wal) {
            let kind = Kind::of(name);
            if self.has(name, local) {
                standing.files += 1;
                standing.bytes += local.bytes;
                standing.backups += u64::from(kind == Some(Kind::Snapshot));
                continue;
            }
            if self.unmarked.contains(name) {
                continue;
            }
            standing.waiting += 1;
            standing.waiting_bytes += local.bytes;
            match kind {
                Some(Kind::Wal) => standing.wal_waits_since = older(standing.wal_waits_since, local),
                Some(kind) if kind.is_base() => standing.base_waits_since = older(standing.base_waits_since, local),
                Some(_) | None => {}
            }
        }
        for spooled in &self.spooled {
            standing.waiting += 1;
            standing.waiting_bytes += spooled.bytes;
            let since = standing.wal_waits_since.map_or(spooled.at, |at| at.min(spooled.at));
            standing.wal_waits_since = Some(since);
        }
        let is_of_folder = |name: &str| !(self.holder.is_some() && Kind::of(name) == Some(Kind::Pack));
        let is_extra =
            |name: &&String| is_of_folder(name) && !self.base.contains_key(*name) && !self.wal.contains_key(*name);
        standing.extra = self.held.keys().filter(is_extra).count() as u64;
        standing
    }

    fn has(&self, name: &str, local: &Local) -> bool {
        let kind = Kind::of(name);
        if self.holder.is_some() && kind == Some(Kind::Wal) {
            return true;
        }
        let is_fixed = kind.is_some_and(Kind::is_fixed);
        self.held.get(name).is_some_and(|held| held.bytes == local.bytes && (is_fixed || local.written <= held.of))
    }

    /// Whose the prefix is, and what is in it.
    async fn list(&mut self) -> Result<(), CopyError> {
        let to = self.store.address().to_string();
        let path = self.place.folder().join("mainstay.json");
        let ours = fs::read(&path).map_err(at("read", &path))?;
        let about = self.place.about()?.ok_or_else(|| PlaceError::Missing(self.place.folder().to_owned()))?;
        let mut there = self.store.list().await?;
        there.remove(CLAIM);
        let mut theirs = self.store.get_small("mainstay.json").await?;
        if theirs.is_none() {
            if !there.is_empty() && !self.is_ours().await? {
                return Err(CopyError::Foreign(to));
            }
            if self.store.put_new("mainstay.json", &ours).await? == Put::AlreadyThere {
                theirs = self.store.get_small("mainstay.json").await?;
            }
        }
        if let Some(theirs) = theirs {
            let theirs: About = serde_json::from_slice(&theirs).map_err(|_| CopyError::Foreign(to.clone()))?;
            if theirs.repository != about.repository {
                return Err(CopyError::Other { to, stack: theirs.stack, environment: theirs.environment });
            }
        }
        if self.holder.is_some() {
            target::drop_lost(&self.place, &self.wal, &there)?;
        }
        let before = std::mem::take(&mut self.held);
        for (name, object) in there {
            let known = before.get(&name).filter(|held| held.bytes == object.bytes);
            let of = known.map_or_else(
                || Timestamp::from_millis(object.stored.as_millis().saturating_sub(millis(CLOCKS))),
                |held| held.of,
            );
            self.held.insert(name, Held { bytes: object.bytes, of });
        }
        self.listed = Some(Instant::now());
        Ok(())
    }

    /// A copy that lost the note whose it is, is known by the repository's own.
    async fn is_ours(&self) -> Result<bool, CopyError> {
        let path = self.place.repository().join("config");
        let ours = fs::read(&path).map_err(at("read", &path))?;
        Ok(self.store.get_small("restic/config").await?.is_some_and(|theirs| theirs == ours))
    }

    fn look_at_base(&mut self) -> Result<(), CopyError> {
        let folder = self.place.folder().to_owned();
        self.base = self.folders.base(&folder).map_err(at("list", &folder))?;
        Ok(())
    }

    fn look_at_wal(&mut self) -> Result<(), CopyError> {
        let folder = self.place.folder().to_owned();
        let looked = now();
        self.wal = self.folders.wal(&folder).map_err(at("list", &folder))?;
        if self.holder.is_some() {
            self.spooled = spool::spooled(&self.place.wal()).map_err(at("list", &folder))?;
        }
        (self.looked, self.wal_looked) = (looked, Instant::now());
        Ok(())
    }

    /// What of a kind is missing, the oldest first.
    fn missing(&self, files: &Files, kind: Kind) -> Vec<(String, Local)> {
        let is_missing = |(name, local): &(&String, &Local)| Kind::of(name) == Some(kind) && !self.has(name, local);
        let mut missing: Vec<(String, Local)> =
            files.iter().filter(is_missing).map(|(name, local)| (name.clone(), *local)).collect();
        missing.sort_by(|(a, one), (b, two)| (one.written, a).cmp(&(two.written, b)));
        missing
    }

    async fn put_kind(&mut self, kind: Kind, tell: &mut (dyn FnMut(Standing) + Send)) -> Result<(), CopyError> {
        for (name, local) in self.missing(&self.base, kind) {
            self.put(&name, &local).await?;
            if self.wal_looked.elapsed() > WAL_AGAIN {
                self.put_wal(tell).await?;
            }
        }
        Ok(())
    }

    async fn put_wal(&mut self, tell: &mut (dyn FnMut(Standing) + Send)) -> Result<(), CopyError> {
        self.look_at_wal()?;
        let mut told = Instant::now();
        for (name, local) in self.missing(&self.wal, Kind::Wal) {
            self.put(&name, &local).await?;
            if told.elapsed() > WAL_AGAIN {
                tell(self.standing());
                told = Instant::now();
            }
        }
        tell(self.standing());
        Ok(())
    }

    /// Base backups whose contents are in the copy. Nothing may be freed meanwhile: when a file of the list went since,
    /// others took its place, and the next round sees those.
    async fn put_snapshots(
        &mut self,
        listed: &Files,
        tell: &mut (dyn FnMut(Standing) + Send),
    ) -> Result<(), CopyError> {
        let missing = self.missing(listed, Kind::Snapshot);
        if missing.is_empty() {
            return Ok(());
        }
        let held = match self.place.hold() {
            Ok(held) => held,
            Err(PlaceError::Busy { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let folder = self.place.folder().to_owned();
        let is_whole = listed.iter().all(|(name, local)| match Kind::of(name) {
            Some(Kind::Pack | Kind::Index) => self.has(name, local) && folder.join(name).exists(),
            _ => true,
        });
        if is_whole {
            let marked = Marked::of(&self.repository)?;
            self.unmarked.clear();
            for (name, local) in missing {
                if marked.has(&name) {
                    self.put(&name, &local).await?;
                } else {
                    self.unmarked.insert(name);
                }
            }
        }
        drop(held);
        tell(self.standing());
        Ok(())
    }

    async fn put(&mut self, name: &str, local: &Local) -> Result<(), CopyError> {
        let path = self.place.folder().join(name);
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let hash = match folder::hash_of(name) {
            Some(hash) => hash.to_owned(),
            None => match fs::read(&path) {
                Ok(content) => crate::hex(&Sha256::digest(content)),
                Err(error) if gone(&error) => return Ok(()),
                Err(error) => return Err(at("read", &path)(error)),
            },
        };
        // Another content than ours under this name is one that was damaged there.
        let only_new = Kind::of(name).is_some_and(Kind::is_fixed) && !self.held.contains_key(name);
        let upload = Upload { name, path: &path, hash: &hash, written: local.written, only_new };
        match self.store.put(&upload).await {
            Ok(Put::Stored) => {}
            // By one whose answer was lost, or by another run: the list of the next round says what it is.
            Ok(Put::AlreadyThere) => self.listed = None,
            Err(StoreError::File { source, .. }) if gone(&source) => return Ok(()),
            Err(error @ StoreError::File { .. }) => {
                self.damaged.get_or_insert(error);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        self.held.insert(name.to_owned(), Held { bytes: local.bytes, of: local.written });
        Ok(())
    }
}

/// The snapshots that are whole base backups.
struct Marked(Vec<String>);

impl Marked {
    /// **Errors**: the repository's.
    fn of(repository: &Repository) -> Result<Self, CopyError> {
        let backups = repository.backups().map_err(PlaceError::from)?;
        Ok(Self(backups.into_iter().map(|backup| backup.id).collect()))
    }

    /// By the name of its file, which begins with the identity that people see.
    fn has(&self, name: &str) -> bool {
        let file = name.rsplit('/').next().unwrap_or_default();
        self.0.iter().any(|id| !id.is_empty() && file.starts_with(id.as_str()))
    }
}

/// Names of all files of a place that a copy of it has.
///
/// **Errors**: the file system's.
pub fn names(place: &Place) -> io::Result<Vec<String>> {
    let mut folders = Folders::default();
    let base = folders.base(place.folder())?;
    Ok(base.into_keys().chain(folders.wal(place.folder())?.into_keys()).collect())
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
