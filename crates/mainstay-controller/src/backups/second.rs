//! The second copy of the backups in an object store: its keys, the thread that copies, what it notes.
//!
//! A thread of the control plane copies, below everything else, with a runtime of its own: nothing waits for it, and a
//! control plane that is killed goes on where it was, as what is missing is what the store's list does not name.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_backup::copy::{self, Compared, Copier, CopyError, Fetched, Fetching, How, LetGo, Standing};
use mainstay_backup::objects::{CLAIM, Claim, Keys, Options, Store, Waiting};
use mainstay_backup::place::About;
use mainstay_backup::{Place, Repository};
use mainstay_decide::backups::CopySeen;
use mainstay_stack::model::{Away, Backup as Policy, ObjectStore};
use mainstay_supervisor::durable;
use mainstay_supervisor::ids::user_for;
use mainstay_types::{ChildRole, Endpoint, ObjectAddress, Secret, Timestamp, full_text};

use super::{Error, Target, policy};
use crate::clock::now;
use crate::paths::Paths;
use crate::secrets::Secrets;

/// Version of the record.
const VERSION: u32 = 1;
/// Pause between two rounds that found nothing wrong.
const LOOK: Duration = Duration::from_secs(2);
/// Pause after a first failure; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause: a store that is back is used again within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Behind everything that serves.
const NICE: i32 = 15;
/// Longest file of a key.
const LONGEST_KEY: u64 = 4096;
const ACCESS: &str = "copy:access-key";
const SECRET: &str = "copy:secret-key";

fn file(paths: &Paths) -> PathBuf {
    paths.state.join("backup-copy.json")
}

/// What was noted last; `None`: nothing, or it cannot be read.
pub(super) fn record(paths: &Paths) -> Option<CopySeen> {
    serde_json::from_slice(&std::fs::read(file(paths)).ok()?).ok()
}

/// How far the copy is that the stack file asks for; `None`: it asks for none.
///
/// **Errors**: the stack file that is running cannot be read.
pub fn standing(paths: &Paths) -> Result<Option<(Wanted, Option<CopySeen>)>, Error> {
    let Some(wanted) = Wanted::of(&policy(paths)?.0) else { return Ok(None) };
    let to = wanted.store.address.to_string();
    let seen = record(paths).filter(|seen| seen.to == to);
    Ok(Some((wanted, seen)))
}

/// What the stack file asks for off the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub store: ObjectStore,
    /// How far it may be behind.
    pub rpo: Duration,
    /// Backups are there and nowhere else; else it is a copy of their folder.
    pub is_target: bool,
}

impl Wanted {
    /// Of a stack's backups; `None`: all stay on the machine.
    pub fn of(policy: &Policy) -> Option<Self> {
        let away = policy.away()?;
        Some(Self { store: away.store.clone(), rpo: away.rpo, is_target: away.is_target })
    }

    fn away(&self) -> Away<'_> {
        Away { store: &self.store, rpo: self.rpo, is_target: self.is_target }
    }
}

/// What is wrong with the copy, one line each.
///
/// **Errors**: the stack file that is running cannot be read.
pub fn faults(paths: &Paths) -> Result<Vec<String>, Error> {
    let Some((wanted, seen)) = standing(paths)? else { return Ok(Vec::new()) };
    Ok(mainstay_decide::backups::copy_faults(wanted.away(), seen.as_ref(), now()))
}

/// A key that a variable holds, or a file that another one names; `None`: neither is there.
///
/// **Errors**: the file cannot be read.
pub fn key_of(variable: &str) -> Result<Option<Secret>, Error> {
    let plain = |text: String| {
        let text = text.trim();
        (!text.is_empty()).then(|| Secret::new(text))
    };
    if let Some(value) = std::env::var(variable).ok().and_then(plain) {
        return Ok(Some(value));
    }
    let Some(path) = std::env::var_os(format!("{variable}_FILE")).map(PathBuf::from) else { return Ok(None) };
    let at = |source| Error::Io { action: "read the key in", path: path.clone(), source };
    if std::fs::metadata(&path).map_err(at)?.len() > LONGEST_KEY {
        return Err(at(io::Error::other("it is too long to be a key")));
    }
    Ok(plain(std::fs::read_to_string(&path).map_err(at)?))
}

/// Seals the keys that the stack file names, for `up`. Those of an earlier `up` stay when none are given now.
///
/// **Errors**: there are none, neither now nor from earlier.
pub fn seal_keys(paths: &Paths, wanted: &ObjectStore) -> Result<(), Error> {
    let mut secrets = Secrets::open(&paths.state)?;
    for (purpose, variable) in [(ACCESS, &wanted.access_key), (SECRET, &wanted.secret_key)] {
        match key_of(variable)? {
            Some(key) if secrets.get(purpose) != Some(&key) => secrets.set(purpose, &key)?,
            Some(_) => {}
            None if secrets.get(purpose).is_some() => {}
            None => return Err(Error::NoKey(variable.clone())),
        }
    }
    Ok(())
}

/// The store that the stack file asks for, opened with what is sealed.
pub(super) fn store(paths: &Paths, wanted: &ObjectStore, folder: &Path) -> Result<Store, Error> {
    let secrets = Secrets::open(&paths.state)?;
    let key = |purpose: &str, name: &str| secrets.get(purpose).cloned().ok_or_else(|| Error::NoKey(name.to_owned()));
    let keys = Keys { access: key(ACCESS, &wanted.access_key)?, secret: key(SECRET, &wanted.secret_key)? };
    let store = Store::new(Options {
        address: wanted.address.clone(),
        endpoint: wanted.endpoint.clone(),
        region: wanted.region.clone(),
        keys,
        ca: wanted.ca.as_ref().map(|ca| folder.join(ca)),
    });
    Ok(store.map_err(CopyError::from)?)
}

/// For callers without a runtime; with a holder for who adds to it.
pub(super) fn waiting(store: Store, holder: Option<String>) -> Result<Arc<Waiting>, Error> {
    let broken = |error: io::Error| Error::NoServer(format!("no thread for the store: {error}"));
    let waiting = Waiting::new(store).map_err(broken)?;
    Ok(Arc::new(match holder {
        Some(id) => waiting.held_by(id),
        None => waiting,
    }))
}

/// How this state folder is known to a store that its backups are in.
///
/// **Errors**: the file system's.
pub(super) fn holder(paths: &Paths) -> Result<String, Error> {
    let path = paths.state.join("backup-holder");
    let io = |action: &'static str| {
        let path = path.clone();
        move |source| Error::Io { action, path, source }
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io("read")(error)),
    }
    let id = mainstay_supervisor::ids::nonce().map_err(io("make"))?.to_string();
    durable::replace(&path, id.as_bytes(), 0o600).map_err(io("write"))?;
    Ok(id)
}

/// From now on this state folder adds to the store, and nobody else.
///
/// **Errors**: the store takes nothing.
pub(super) fn take_over(paths: &Paths, store: &Store) -> Result<(), Error> {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let claim = Claim { id: holder(paths)?, machine, since: now() };
    wait_for(async { Ok(store.take_over(&claim).await?) })
}

/// Runs to its end on a thread of its own: who asks may be in a runtime.
fn wait_for<T: Send>(work: impl Future<Output = Result<T, CopyError>> + Send) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::NoServer(format!("no thread for the store: {error}")))?;
    // It ends there too: nobody in a runtime may wait for the end of another.
    let done = std::thread::scope(|scope| scope.spawn(move || runtime.block_on(work)).join());
    done.map_err(|_| Error::NoServer("what asked the store broke off".to_owned()))?.map_err(Error::from)
}

/// What a store holds that is a place already, when it `may` be gone on with: then what is small is brought into the
/// folder beside it. `None`: there is nothing in it, or no more than one that was `begun` here.
///
/// **Errors**: it holds something else, or does not answer.
pub(super) fn known(
    store: &Store,
    (folder, begun_as): (&Path, Option<&str>),
    may: impl Fn(&About) -> Result<(), Error>,
) -> Result<Option<About>, Error> {
    let foreign = || Error::from(CopyError::Foreign(store.address().to_string()));
    let Some(text) = wait_for(async { Ok(store.get_small("mainstay.json").await?) })? else {
        let is_empty = wait_for(async { Ok(store.list().await?.keys().all(|name| name == CLAIM)) })?;
        return if is_empty { Ok(None) } else { Err(foreign()) };
    };
    let about: About = serde_json::from_slice(&text).map_err(|_| foreign())?;
    may(&about)?;
    if begun_as == Some(about.repository.as_str()) {
        return Ok(None);
    }
    wait_for(copy::gather(store, folder))?;
    Ok(Some(about))
}

/// What of the small files and of archived WAL a store does not have.
///
/// **Errors**: nothing could be said.
pub(super) fn compare(
    store: &Waiting,
    place: &Place,
    reads_data: bool,
    patience: Duration,
) -> Result<Vec<String>, Error> {
    wait_for(copy::compare(store.store(), place, reads_data, patience))
}

/// Puts what opens a new place into its store.
///
/// **Errors**: the store takes nothing.
pub(super) fn begin(store: Store, place: &Place, repository: Repository, holder: String) -> Result<(), Error> {
    let mut copier = Copier::new(place.clone(), repository, store, Some(holder));
    wait_for(async move { copier.round(&mut |_| {}).await })
}

/// Starts to copy; nothing waits for it.
pub(crate) fn start(paths: Paths, wanted: Wanted, folder: PathBuf) {
    let trouble = Trouble::default();
    if wanted.is_target {
        super::sending::start(paths.clone(), wanted.store.clone(), folder.clone(), Arc::clone(&trouble));
    }
    let thread = std::thread::Builder::new().name("backup-copy".to_owned());
    let begun = thread.spawn(move || {
        // Of this thread alone; whoever may not be nicer goes on as it is.
        rustix::process::nice(NICE).ok();
        let mut notes = Notes::new(&paths, &wanted);
        loop {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ended = match runtime {
                Ok(runtime) => catch_unwind(AssertUnwindSafe(|| {
                    runtime.block_on(copy_for_ever(&paths, &wanted, (&folder, &trouble), &mut notes));
                })),
                Err(error) => {
                    notes.fails(error.to_string());
                    Ok(())
                }
            };
            if ended.is_err() {
                notes.fails("the copier broke off, which is a bug: `mainstay logs control` has its trace".to_owned());
            }
            std::thread::sleep(LONGEST_PAUSE);
        }
    });
    // No thread: the record grows old, and that is told.
    drop(begun);
}

/// What the thread that sends WAL has met.
pub(super) type Trouble = Arc<Mutex<Option<String>>>;

async fn copy_for_ever(paths: &Paths, wanted: &Wanted, (folder, trouble): (&Path, &Trouble), notes: &mut Notes<'_>) {
    let mut copier: Option<Copier> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        match round(paths, wanted, folder, &mut copier, notes).await {
            Ok(()) => {
                match trouble.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                    Some(error) => notes.fails(error),
                    None => notes.is_well(),
                }
                pause = FIRST_PAUSE;
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => {
                notes.fails(full_text(&error));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

async fn round(
    paths: &Paths,
    wanted: &Wanted,
    folder: &Path,
    copier: &mut Option<Copier>,
    notes: &mut Notes<'_>,
) -> Result<(), Error> {
    let copier = match copier {
        Some(copier) => copier,
        None => {
            let note = super::file(paths);
            let target = Target::load(paths).map_err(|source| Error::Io { action: "read", path: note, source })?;
            let target = target.ok_or(Error::NotConfigured)?;
            let secrets = Secrets::open(&paths.state)?;
            let key = secrets.get(&super::place::key_of(&target.repository)).ok_or(Error::NotConfigured)?;
            let place = target.place();
            let repository = Repository::with_key(&place.repository(), key)?;
            let holder = wanted.is_target.then(|| holder(paths)).transpose()?;
            copier.insert(Copier::new(place, repository, store(paths, &wanted.store, folder)?, holder))
        }
    };
    copier.round(&mut |standing| notes.is_at(standing)).await?;
    carry_out(paths, copier).await
}

/// What retention lets go of in the folder, noted there and then: the copy lets go of that and of nothing else.
pub(super) struct Retention {
    before: Option<Vec<String>>,
}

impl Retention {
    /// Before it lets go.
    pub(super) fn begins(backups: &super::Backups) -> Self {
        // What cannot be listed now is not noted, and stays in the copy.
        Self { before: backups.policy.away().and_then(|_| copy::names(&backups.place).ok()) }
    }

    /// After it did. Killed before, the copy keeps what went.
    pub(super) fn ends(self, paths: &Paths, place: &Place) -> Result<(), Error> {
        let Some(before) = self.before else { return Ok(()) };
        let at = |source| Error::Io { action: "note what retention let go of in", path: gone(paths), source };
        let after: BTreeSet<String> = copy::names(place).map_err(at)?.into_iter().collect();
        let went: String =
            before.iter().filter(|name| !after.contains(*name)).map(|name| format!("{name}\n")).collect();
        if went.is_empty() {
            return Ok(());
        }
        let mut file = File::options().create(true).append(true).open(gone(paths)).map_err(at)?;
        file.write_all(went.as_bytes()).and_then(|()| file.sync_all()).map_err(at)
    }
}

fn gone(paths: &Paths) -> PathBuf {
    paths.state.join("backup-copy-gone")
}

async fn carry_out(paths: &Paths, copier: &mut Copier) -> Result<(), Error> {
    let (noted, taken) = (gone(paths), paths.state.join("backup-copy-gone.taken"));
    let at = |source| Error::Io { action: "read", path: taken.clone(), source };
    if !taken.exists() {
        match std::fs::rename(&noted, &taken) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(at)?,
        }
    }
    let text = std::fs::read_to_string(&taken).map_err(at)?;
    let names: Vec<String> = text.lines().map(str::to_owned).collect();
    match copier.let_go(&names).await? {
        LetGo::Later => Ok(()),
        LetGo::Done | LetGo::Denied => std::fs::remove_file(&taken).map_err(at),
    }
}

/// What is noted for `status` and for commands, also while no control plane runs.
struct Notes<'a> {
    paths: &'a Paths,
    seen: CopySeen,
}

impl<'a> Notes<'a> {
    fn new(paths: &'a Paths, wanted: &Wanted) -> Self {
        let to = wanted.store.address.to_string();
        let seen = record(paths)
            .filter(|seen| seen.to == to && seen.version == VERSION && seen.is_target == wanted.is_target)
            .unwrap_or(CopySeen {
                version: VERSION,
                to,
                is_target: wanted.is_target,
                looked: now(),
                backups: 0,
                files: 0,
                bytes: 0,
                waiting: 0,
                waiting_bytes: 0,
                wal_waits_since: None,
                base_waits_since: None,
                extra: 0,
                error: None,
                failing_since: None,
            });
        Self { paths, seen }
    }

    fn is_at(&mut self, standing: Standing) {
        let Standing { looked, backups, files, bytes, waiting, waiting_bytes, .. } = standing;
        let seen = &mut self.seen;
        (seen.looked, seen.backups, seen.files, seen.bytes) = (looked, backups, files, bytes);
        (seen.waiting, seen.waiting_bytes, seen.extra) = (waiting, waiting_bytes, standing.extra);
        (seen.wal_waits_since, seen.base_waits_since) = (standing.wal_waits_since, standing.base_waits_since);
        self.write();
    }

    fn is_well(&mut self) {
        if self.seen.failing_since.is_some() {
            (self.seen.error, self.seen.failing_since) = (None, None);
            self.write();
        }
    }

    fn fails(&mut self, error: String) {
        self.seen.failing_since.get_or_insert_with(now);
        self.seen.error = Some(error);
        self.write();
    }

    fn write(&self) {
        // What is lost of it is written again with the next look: no reason to wait for a disk.
        let path = file(self.paths);
        let aside = path.with_extension("new");
        if let Ok(text) = serde_json::to_vec(&self.seen) {
            std::fs::write(&aside, text).and_then(|()| std::fs::rename(&aside, &path)).ok();
        }
    }
}

/// Compares the copy with the folder.
///
/// **Errors**: no copy is configured, or nothing could be compared.
pub async fn check(paths: &Paths, backups: &super::Backups, reads_data: bool, mends: bool) -> Result<Compared, Error> {
    let (wanted, _) = standing(paths)?.filter(|(wanted, _)| !wanted.is_target).ok_or(Error::NoCopy)?;
    let launch = crate::launch::Launch::load(paths).map_err(|error| Error::Stack(error.to_string()))?;
    let store = Arc::new(store(paths, &wanted.store, &launch.origin)?);
    let how = How { reads_data, mends, patience: wanted.rpo };
    Ok(copy::check(store, &backups.place, &backups.repository, how).await?)
}

/// A store that a person names, on a machine that knows nothing of it.
#[derive(Clone, Debug)]
pub struct Named {
    /// Bucket and prefix.
    pub address: ObjectAddress,
    /// The server; `None`: Amazon's.
    pub endpoint: Option<Endpoint>,
    /// The region.
    pub region: String,
    /// Certificates of the server's.
    pub ca: Option<PathBuf>,
}

/// Fetches the whole copy into a folder, which is then the place that was copied.
///
/// **Errors**: the keys are not in the variables, or see [`CopyError`].
pub async fn fetch(
    named: Named,
    (access_key, secret_key): (&str, &str),
    into: &Path,
    tell: &mut dyn FnMut(Fetching),
) -> Result<Fetched, Error> {
    Ok(copy::fetch(Arc::new(named.open((access_key, secret_key))?), into, tell).await?)
}

/// What is small comes into a folder, links stand for WAL, and base backups stay where they are.
///
/// **Errors**: the same.
pub async fn gather(named: Named, keys: (&str, &str), into: &Path) -> Result<Arc<Waiting>, Error> {
    let store = waiting(named.open(keys)?, None)?;
    copy::gather(store.store(), into).await?;
    Ok(store)
}

impl Named {
    fn open(self, (access_key, secret_key): (&str, &str)) -> Result<Store, Error> {
        let key = |variable: &str| key_of(variable)?.ok_or_else(|| Error::NoKey(variable.to_owned()));
        let keys = Keys { access: key(access_key)?, secret: key(secret_key)? };
        let Self { address, endpoint, region, ca } = self;
        Ok(Store::new(Options { address, endpoint, region, keys, ca }).map_err(CopyError::from)?)
    }
}

/// The same from the copy of this stack, with the keys that are sealed here: for drills.
///
/// **Errors**: no copy is configured, or see [`CopyError`].
pub async fn fetch_own(paths: &Paths, into: &Path) -> Result<Fetched, Error> {
    let (wanted, _) = standing(paths)?.ok_or(Error::NoCopy)?;
    let launch = crate::launch::Launch::load(paths).map_err(|error| Error::Stack(error.to_string()))?;
    let store = store(paths, &wanted.store, &launch.origin)?;
    Ok(copy::fetch(Arc::new(store), into, &mut |_| {}).await?)
}

/// What was fetched becomes readable for the user that PostgreSQL runs as, as it was where it came from.
///
/// **Errors**: the file system's.
pub fn hand_over(place: &Place, stack: &str) -> Result<(), Error> {
    let Some(user) = user_for(ChildRole::Postgres, stack, "postgres") else { return Ok(()) };
    let mut folders = vec![place.wal()];
    while let Some(folder) = folders.pop() {
        let at = |source| Error::Io { action: "give to the server's user", path: folder.clone(), source };
        let give = |path: &Path| std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid));
        give(&folder).map_err(at)?;
        for entry in std::fs::read_dir(&folder).map_err(at)? {
            let path = entry.map_err(at)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.is_symlink() {
                give(&path).map_err(at)?;
            }
        }
    }
    Ok(())
}

/// What changed in the copy, for events: it stopped, or goes on.
pub(super) fn changed(before: Option<&CopySeen>, after: Option<&CopySeen>) -> Vec<Change> {
    let Some(after) = after else { return Vec::new() };
    let before = before.filter(|before| before.to == after.to);
    let failed = |seen: &CopySeen| seen.failing_since.is_some();
    let mut changes = Vec::new();
    match (before.is_some_and(failed), &after.error) {
        (false, Some(error)) if failed(after) => changes.push(Change::Stopped(error.clone())),
        (true, _) if !failed(after) => changes.push(Change::GoesOn { waiting: after.waiting }),
        _ => {}
    }
    let backups = before.map_or(after.backups, |before| before.backups);
    if after.backups > backups {
        changes.push(Change::BackupThere { backups: after.backups });
    }
    changes
}

/// A change of the copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It does not go on.
    Stopped(String),
    /// It does again.
    GoesOn { waiting: u64 },
    /// A base backup came to be in it.
    BackupThere { backups: u64 },
}

/// When a copy is as far as it is said to be.
pub fn up_to(seen: &CopySeen, at: Timestamp) -> String {
    match (seen.up_to(), seen.behind(at)) {
        (Some(up_to), Some(behind)) => {
            let up_to = mainstay_decide::schedule::moment(up_to);
            format!("everything up to {up_to}, {} s behind", behind.as_secs())
        }
        _ => format!("no base backup in it yet, {} files wait", seen.waiting),
    }
}
