//! The second copy of the backups in an object store: its keys, the thread that copies, what it notes.
//!
//! A thread of the control plane copies, below everything else, with a runtime of its own: nothing waits for it, and a
//! control plane that is killed goes on where it was, as what is missing is what the store's list does not name.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_backup::copy::{self, Compared, Copier, CopyError, Fetched, Fetching, How, LetGo, Standing};
use mainstay_backup::objects::{Keys, Options, Store};
use mainstay_backup::{Place, Repository};
use mainstay_decide::backups::CopySeen;
use mainstay_stack::model::BackupCopy;
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
pub fn standing(paths: &Paths) -> Result<Option<(BackupCopy, Option<CopySeen>)>, Error> {
    let Some(copy) = policy(paths)?.0.copy else { return Ok(None) };
    let to = copy.to.to_string();
    let seen = record(paths).filter(|seen| seen.to == to);
    Ok(Some((copy, seen)))
}

/// What is wrong with the copy, one line each.
///
/// **Errors**: the stack file that is running cannot be read.
pub fn faults(paths: &Paths) -> Result<Vec<String>, Error> {
    let Some((copy, seen)) = standing(paths)? else { return Ok(Vec::new()) };
    Ok(mainstay_decide::backups::copy_faults(&copy, seen.as_ref(), now()))
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
pub fn seal_keys(paths: &Paths, wanted: &BackupCopy) -> Result<(), Error> {
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
fn store(paths: &Paths, wanted: &BackupCopy, folder: &Path) -> Result<Store, Error> {
    let secrets = Secrets::open(&paths.state)?;
    let key = |purpose: &str, name: &str| secrets.get(purpose).cloned().ok_or_else(|| Error::NoKey(name.to_owned()));
    let keys = Keys { access: key(ACCESS, &wanted.access_key)?, secret: key(SECRET, &wanted.secret_key)? };
    let store = Store::new(Options {
        address: wanted.to.clone(),
        endpoint: wanted.endpoint.clone(),
        region: wanted.region.clone(),
        keys,
        ca: wanted.ca.as_ref().map(|ca| folder.join(ca)),
    });
    Ok(store.map_err(CopyError::from)?)
}

/// Starts to copy; nothing waits for it.
pub(crate) fn start(paths: Paths, wanted: BackupCopy, folder: PathBuf) {
    let thread = std::thread::Builder::new().name("backup-copy".to_owned());
    let begun = thread.spawn(move || {
        // Of this thread alone; whoever may not be nicer goes on as it is.
        rustix::process::nice(NICE).ok();
        let mut notes = Notes::new(&paths, &wanted);
        loop {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let ended = match runtime {
                Ok(runtime) => catch_unwind(AssertUnwindSafe(|| {
                    runtime.block_on(copy_for_ever(&paths, &wanted, &folder, &mut notes));
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

async fn copy_for_ever(paths: &Paths, wanted: &BackupCopy, folder: &Path, notes: &mut Notes<'_>) {
    let mut copier: Option<Copier> = None;
    let mut pause = FIRST_PAUSE;
    loop {
        match round(paths, wanted, folder, &mut copier, notes).await {
            Ok(()) => {
                notes.is_well();
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
    wanted: &BackupCopy,
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
            copier.insert(Copier::new(place, repository, store(paths, wanted, folder)?))
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
        Self { before: backups.policy.copy.as_ref().and_then(|_| copy::names(&backups.place).ok()) }
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
    fn new(paths: &'a Paths, wanted: &BackupCopy) -> Self {
        let to = wanted.to.to_string();
        let seen = record(paths).filter(|seen| seen.to == to && seen.version == VERSION).unwrap_or(CopySeen {
            version: VERSION,
            to,
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
    let (wanted, _) = standing(paths)?.ok_or(Error::NoCopy)?;
    let launch = crate::launch::Launch::load(paths).map_err(|error| Error::Stack(error.to_string()))?;
    let store = Arc::new(store(paths, &wanted, &launch.origin)?);
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
    let key = |variable: &str| key_of(variable)?.ok_or_else(|| Error::NoKey(variable.to_owned()));
    let keys = Keys { access: key(access_key)?, secret: key(secret_key)? };
    let Named { address, endpoint, region, ca } = named;
    let store = Store::new(Options { address, endpoint, region, keys, ca }).map_err(CopyError::from)?;
    Ok(copy::fetch(Arc::new(store), into, tell).await?)
}

/// The same from the copy of this stack, with the keys that are sealed here: for drills.
///
/// **Errors**: no copy is configured, or see [`CopyError`].
pub async fn fetch_own(paths: &Paths, into: &Path) -> Result<Fetched, Error> {
    let (wanted, _) = standing(paths)?.ok_or(Error::NoCopy)?;
    let launch = crate::launch::Launch::load(paths).map_err(|error| Error::Stack(error.to_string()))?;
    let store = store(paths, &wanted, &launch.origin)?;
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
            } else {
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
