//! Backups of a stack's database: where they go, what opens them, and the runs that a person asks for.
//!
//! Backups are taken, proven and freed in processes of their own, not in the control plane: a backup reads and packs
//! gigabytes, and what is not the control plane cannot hold it up. The control plane starts them when they are due.

mod base;
pub mod card;
mod check;
pub mod compare;
pub(crate) mod deploys;
pub mod find;
pub mod jobs;
mod keeping;
mod lineage;
pub mod past;
mod place;
mod prove;
pub mod rehearse;
pub mod scratch;
pub mod second;
mod sending;
pub(crate) mod status;
mod supply;
pub mod swap;
mod waiting;
mod walk;
pub(crate) mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_backup::copy::CopyError;
use mainstay_backup::objects::{StoreError, Waiting};
use mainstay_backup::place::PlaceError;
use mainstay_backup::wal::{self, GetError, Until};
use mainstay_backup::{Place, Repository, RepositoryError};
use mainstay_decide::observed::Record;
use mainstay_decide::past::Unreachable;
use mainstay_postgres::access::AccessError;
use mainstay_postgres::{Access, Layout, RecordFile, layout};
use mainstay_stack::Stack;
use mainstay_stack::model::{Backup as Policy, BackupTarget};
use mainstay_supervisor::ids::user_for;
use mainstay_types::{Bytes, ChildRole, Lsn, Member, Secret, Timestamp};
use serde::{Deserialize, Serialize};

pub use base::Progress;
pub use check::{Checked, check};
pub use keeping::{Explained, Pruned, explain, list};
pub use place::{Established, Stack as Whose, card as card_text, card_was_shown, establish};
pub use waiting::{Held, PATIENCE, Patience};

use crate::launch::Launch;
use crate::paths::Paths;
use crate::secrets::{self, Secrets};

/// Version of [`Target`].
const VERSION: u32 = 1;
const PASSWORD: &str = "backup:password";

/// Why backups cannot be made, read or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stack file does not ask for any.
    #[error("the stack has no [database.backup], or was not up since it has")]
    NotConfigured,
    /// The folder is another's.
    #[error("{target} holds the backups of the stack {stack} ({environment}): not of this one")]
    OtherStack {
        /// The folder or store.
        target: String,
        /// Whose.
        stack: String,
        /// Its environment.
        environment: String,
    },
    /// It is of a stack of this name, and this state folder has not made it.
    #[error("{0} holds backups of a stack of this name that this state folder did not make and cannot open")]
    OtherState(PathBuf),
    /// The card is another repository's.
    #[error(
        "the password of the card does not open the repository in {folder}; the card is of: {card}; the repository is of: {of}"
    )]
    OtherCard {
        /// The folder.
        folder: PathBuf,
        /// Whose backups are in it.
        of: String,
        /// What the card says.
        card: String,
    },
    /// The server's user cannot get there.
    #[error("PostgreSQL runs as {user} and cannot enter {folder}, which is on the way to {target}")]
    Closed {
        /// The user.
        user: String,
        /// The closed folder.
        folder: PathBuf,
        /// Where it should get.
        target: PathBuf,
    },
    /// The file system said no.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No member can be copied.
    #[error("no PostgreSQL of the stack answers: {0}")]
    NoServer(String),
    /// What was opened beside the present does not do what it is told.
    #[error("{0}")]
    Past(String),
    /// Nothing of that name was stored.
    #[error("there is no base backup {0}")]
    NoBackup(String),
    /// The segments that make the copy whole did not come.
    #[error("the WAL that the backup needs (up to {segment}) is not in the archive after {seconds} s{why}")]
    NoWal {
        /// The last segment.
        segment: String,
        /// How long was waited.
        seconds: u64,
        /// What the archiver says.
        why: String,
    },
    /// What to run with is not in the state folder.
    #[error("cannot read the stack file that is running: {0}")]
    Stack(String),
    /// The repository is in a store, and nothing lies in the folder beside it.
    #[error("{0} holds backups of this stack that this state folder did not make and cannot open")]
    OtherStore(String),
    /// A stack's data is there.
    #[error("{0} holds data of this stack already: a restore by the card makes a new one")]
    InUse(PathBuf),
    /// Nothing of that name lies aside.
    #[error("{0} is no data directory that was kept: it is named as in a/restored-over-…")]
    NotKept(String),
    /// Too little space for a restore.
    #[error("{free} are free in {folder}, the restored database needs {wanted}")]
    NoSpace {
        /// Free.
        free: Bytes,
        /// Wanted.
        wanted: Bytes,
        /// Where.
        folder: PathBuf,
    },
    /// The moment is outside what can be reached.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// What was looked for in the WAL is not there.
    #[error("{0}")]
    NotFound(String),
    /// The WAL could not be read.
    #[error(transparent)]
    Dump(#[from] mainstay_postgres::waldump::DumpError),
    /// Archived WAL that does not come out.
    #[error(transparent)]
    Get(#[from] mainstay_backup::wal::GetError),
    /// Replay ended before the moment.
    #[error("{moment} was not reached: replay came to {} (last commit {}); {why}", or_nothing(.lsn), or_nothing(.last_commit))]
    NotReached {
        /// What was asked for.
        moment: String,
        /// Where replay came to.
        lsn: Option<Lsn>,
        /// When the last replayed transaction committed.
        last_commit: Option<Timestamp>,
        /// What the server said.
        why: String,
    },
    /// A file of the restored server's.
    #[error(transparent)]
    File(#[from] mainstay_postgres::files::FileError),
    /// What must be known before anything goes.
    #[error("nothing was freed, as what is kept cannot be told: {0} cannot be read")]
    Unreadable(String),
    /// Others work on the place.
    #[error("{folder} is in use{}: {by}", still(*.waited))]
    Busy {
        /// The folder.
        folder: PathBuf,
        /// Who.
        by: String,
        /// How long was waited.
        waited: Duration,
    },
    /// What opens the store of the second copy is not known.
    #[error("no value for {0}, which opens the store of the second copy")]
    NoKey(String),
    /// The stack file asks for no second copy.
    #[error("the stack has no [database.backup.copy], or was not up since it has")]
    NoCopy,
    /// The second copy's.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The folder's.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The repository's.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// Reading the data directory.
    #[error(transparent)]
    Backup(#[from] mainstay_backup::base::BackupError),
    /// A server's.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The sealed secrets.
    #[error(transparent)]
    Secrets(#[from] secrets::Error),
}

/// What the control plane and commands know of the place, `backup.json` in the state folder: written by `up`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// [`VERSION`].
    pub version: u32,
    /// The folder, absolute.
    pub folder: PathBuf,
    /// Identity of the repository in it.
    pub repository: String,
    /// What archived WAL is sealed to.
    pub recipient: String,
}

fn or_nothing(value: &Option<impl ToString>) -> String {
    value.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
}

fn still(waited: Duration) -> String {
    if waited < Duration::from_secs(1) { String::new() } else { format!(", still after {} s", waited.as_secs()) }
}

fn file(paths: &Paths) -> PathBuf {
    paths.state.join("backup.json")
}

impl Target {
    /// The present one; `None`: backups are not configured.
    ///
    /// **Errors**: unreadable.
    pub fn load(paths: &Paths) -> std::io::Result<Option<Self>> {
        match std::fs::read(file(paths)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The place.
    pub fn place(&self) -> Place {
        Place::new(&self.folder)
    }
}

/// How PostgreSQL archives, for its settings.
pub(crate) fn archive(paths: &Paths, stack: &Stack) -> std::io::Result<Option<mainstay_postgres::config::Archive>> {
    let Some(backup) = stack.database.as_ref().and_then(|database| database.backup.as_ref()) else { return Ok(None) };
    let Some(target) = Target::load(paths)? else {
        return Err(std::io::Error::other("backup.json is not in the state folder, which `up` writes"));
    };
    let text = |path: &Path| path.display().to_string();
    let argv = [
        text(&paths.program()),
        "wal-push".to_owned(),
        "--archive".to_owned(),
        text(&target.place().wal()),
        "--recipient".to_owned(),
        target.recipient,
    ];
    let is_store = matches!(backup.target, BackupTarget::Store(_));
    let argv = argv.into_iter().chain(is_store.then(|| "--store".to_owned())).collect();
    Ok(Some(mainstay_postgres::config::Archive { argv, timeout: backup.rpo / 2 }))
}

/// A stack's backups, opened with what its state folder holds.
#[derive(Debug)]
pub struct Backups {
    /// The stack's name.
    pub stack: String,
    /// Where they are.
    pub place: Place,
    /// The base backups.
    pub repository: Repository,
    /// Where they are, when it is no folder: then the place beside it holds what is small.
    pub store: Option<Arc<Waiting>>,
    /// What the stack file says of backups.
    pub policy: Policy,
    /// Database of the application.
    pub database: String,
    environment: String,
    recipient: String,
    wal_key: Secret,
    /// That of the card; `None`: the state folder has lost it.
    password: Option<Secret>,
    layout: Layout,
    superuser: Secret,
    patience: Patience,
}

/// What the stack file says that this state folder was up with last.
fn policy(paths: &Paths) -> Result<(Policy, String, Launch), Error> {
    let launch = Launch::load(paths).map_err(|error| Error::Stack(error.to_string()))?;
    let text = std::fs::read_to_string(paths.stack_file()).map_err(|error| Error::Stack(error.to_string()))?;
    let parsed = mainstay_stack::parse(&text, "mainstay.toml", &launch.environment)
        .map_err(|found| Error::Stack(found.to_string()))?;
    let database = parsed.stack.database.ok_or(Error::NotConfigured)?;
    Ok((database.backup.ok_or(Error::NotConfigured)?, database.name, launch))
}

impl Backups {
    /// For a stack that was up with `[database.backup]`.
    ///
    /// **Errors**: not configured, or what opens it is not in the state folder.
    pub fn open(paths: &Paths, stack: &str) -> Result<Self, Error> {
        let path = file(paths);
        let target = Target::load(paths).map_err(|source| Error::Io { action: "read", path, source })?;
        let target = target.ok_or(Error::NotConfigured)?;
        let secrets = Secrets::open(&paths.state)?;
        let secret = |purpose: &str| secrets.get(purpose).cloned().ok_or(Error::NotConfigured);
        let place = target.place();
        let key = secret(&place::key_of(&target.repository))?;
        let (policy, database, launch) = policy(paths)?;
        let store = match &policy.target {
            BackupTarget::Store(wanted) => {
                let store = second::store(paths, wanted, &launch.origin)?;
                Some(second::waiting(store, Some(second::holder(paths)?))?)
            }
            BackupTarget::Folder(_) => None,
        };
        let repository = Repository::with_key(&place.repository(), &key)?.backed_by(store.clone());
        let environment = launch.environment.to_string();
        Ok(Self {
            policy,
            database,
            environment,
            password: secrets.get(PASSWORD).cloned(),
            recipient: target.recipient.clone(),
            stack: stack.to_owned(),
            place,
            repository,
            store,
            wal_key: secret(&place::wal_key_of(&target.repository))?,
            layout: cluster(paths, stack),
            superuser: secret("postgres:superuser")?,
            patience: Patience::default(),
        })
    }

    /// The same with a copy of the repository in another folder.
    ///
    /// **Errors**: the key does not open it.
    pub fn at(self, place: Place) -> Result<Self, Error> {
        let repository = Repository::with_key(&place.repository(), &self.repository.key()?)?;
        Ok(Self { place, repository, store: None, ..self })
    }

    /// When WAL counts as archived.
    fn until(&self) -> Until {
        if self.store.is_some() { Until::InStore } else { Until::OnDisk }
    }

    /// Makes the primary finish its segment of WAL.
    ///
    /// **Errors**: nobody is recorded, or it does not answer.
    pub async fn finish_segment(&self) -> Result<(), Error> {
        let access = self.access(self.primary()?);
        Ok(mainstay_postgres::backup::finish_segment(&access).await?)
    }

    /// When a segment was archived, by its name; `None`: it is not in the archive.
    ///
    /// **Errors**: the archive cannot be listed.
    pub fn archived_at(&self, segment: &str) -> Result<Option<Timestamp>, Error> {
        let (_, archive) = self.newest_archive()?;
        Ok(archive.segments.iter().find(|(name, _)| name.to_string() == segment).map(|(_, (_, at))| *at))
    }

    /// Names of archived segments after the newest base backup, in their order.
    ///
    /// **Errors**: the archive cannot be listed.
    pub fn segments_after_newest(&self) -> Result<Vec<String>, Error> {
        let (newest, archive) = self.newest_archive()?;
        let from = newest.map_or(0, |backup| backup.label.needs().as_u64());
        let after = archive.segments.keys().filter(|segment| segment.start(check::SEGMENT) > from);
        Ok(after.map(ToString::to_string).collect())
    }

    /// What a file of archived WAL holds, wherever it lies. Blocks.
    ///
    /// **Errors**: it is nowhere, damaged, or the store does not answer.
    pub(crate) fn archived(&self, system: u64, name: &str) -> Result<Vec<u8>, Error> {
        let folder = self.place.wal();
        let Some(store) = &self.store else { return Ok(wal::content(&folder, &self.wal_key, system, name)?) };
        let missing = || Error::Get(GetError::Missing(name.to_owned()));
        let located = wal::locate(&folder, system, name)?.ok_or_else(missing)?;
        if !located.path.is_symlink() {
            return Ok(wal::content(&folder, &self.wal_key, system, name)?);
        }
        let object = located.path.strip_prefix(self.place.folder()).unwrap_or(&located.path).display().to_string();
        let sealed = store.get(&object).map_err(|error| match error {
            // Retention let it go meanwhile, or somebody else did.
            StoreError::Missing(_) => missing(),
            error => Error::Copy(error.into()),
        })?;
        let opened = wal::sealed_content(&self.wal_key, &located.hash, sealed.as_slice());
        opened.map_err(|why| {
            let path = Path::new(&store.store().address().to_string()).join(&object);
            Error::Get(GetError::Damaged { path, why })
        })
    }

    fn newest_archive(
        &self,
    ) -> Result<(Option<mainstay_backup::repository::Backup>, mainstay_backup::wal::Archive), Error> {
        let newest = self.repository.backups()?.pop();
        let folder = self.place.wal();
        let system = newest.as_ref().map_or(0, |backup| backup.label.system);
        let archive = mainstay_backup::wal::list(&folder, system).map_err(|source| Error::Io {
            action: "list",
            path: folder,
            source,
        })?;
        Ok((newest, archive))
    }

    fn record(&self) -> Option<Record> {
        RecordFile::new(self.layout.record()).read().ok().flatten()
    }

    fn access(&self, member: Member) -> Access {
        Access::new(&self.layout, member, &self.superuser)
    }
}

fn cluster(paths: &Paths, stack: &str) -> Layout {
    let bin = layout::find_programs(Some(&paths.state)).map(|programs| programs.bin).unwrap_or_default();
    Layout {
        state: paths.state.clone(),
        runtime: paths.runtime.clone(),
        bin,
        user: user_for(ChildRole::Postgres, stack, "postgres"),
    }
}

#[cfg(test)]
mod tests;
