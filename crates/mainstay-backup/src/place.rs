//! The folder that holds a stack's backups: what is in it, and whose it is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use mainstay_supervisor::durable;
use mainstay_types::Secret;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::holder::{self, Holder};
use crate::keys;
use crate::repository::{Repository, RepositoryError};

/// Version of [`About`].
const SCHEMA: u32 = 1;
/// Names that an interrupted [`Place::create`] leaves; no backup is in them before `mainstay.json` is there.
const OF_MAKING: [&str; 6] = ["restic", "wal", "wal-key.age", "README.txt", "lock", "lost+found"];
/// Held by who reads, and alone by who deletes.
const DELETING: &str = "lock-deleting";
const README: &str = include_str!("readme.txt");

/// Why a place cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
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
    /// It holds something that is not ours.
    #[error("{0} holds files that are no repository of mainstay's: name an empty folder")]
    Foreign(PathBuf),
    /// It holds backups, and not the file that says whose they are.
    #[error("{0} holds backups and no mainstay.json, which says whose they are: nothing in it was touched")]
    Nameless(PathBuf),
    /// There is no repository.
    #[error("{0} holds no repository")]
    Missing(PathBuf),
    /// It cannot be understood.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another run works on it.
    #[error("{folder} is in use: {}", named(.by))]
    Busy {
        /// Where.
        folder: PathBuf,
        /// Who; empty: nobody knows.
        by: Vec<Holder>,
    },
    /// The repository's.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

/// Those who work on a place, for people.
pub fn named(by: &[Holder]) -> String {
    if by.is_empty() {
        return "another backup, check or restore".to_owned();
    }
    by.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// What a place says about itself, in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Version of this file.
    pub schema: u32,
    /// The stack.
    pub stack: String,
    /// Its environment.
    pub environment: String,
    /// Identity of this repository.
    pub repository: String,
    /// What archived WAL is sealed to; opens nothing.
    pub recipient: String,
}

impl About {
    /// Of a repository that is made now.
    pub fn new(stack: &str, environment: &str, repository: String, recipient: String) -> Self {
        let (stack, environment) = (stack.to_owned(), environment.to_owned());
        Self { schema: SCHEMA, stack, environment, repository, recipient }
    }

    /// As it stands in `mainstay.json`.
    ///
    /// **Errors**: none in practice; writing JSON can fail by its type.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(self)?)
    }
}

/// A folder for backups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    folder: PathBuf,
}

/// What a new place is opened with.
#[derive(Debug)]
pub struct New {
    /// What it says about itself.
    pub about: About,
    /// Key of the base backups.
    pub key: Secret,
    /// Key of the archived WAL.
    pub wal_key: Secret,
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError::Io { action, path, source }
}

/// One run at a time on a place; ends when it is dropped, or with the process.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "holds the lock")] File);

impl Place {
    /// The place in a folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Folder of the base backups.
    pub fn repository(&self) -> PathBuf {
        self.folder.join("restic")
    }

    /// Folder of the archived WAL.
    pub fn wal(&self) -> PathBuf {
        self.folder.join("wal")
    }

    /// What it says about itself; `None`: there is nothing yet, or a repository whose making was interrupted.
    ///
    /// **Errors**: somebody else's files, or unreadable.
    pub fn about(&self) -> Result<Option<About>, PlaceError> {
        let path = self.folder.join("mainstay.json");
        match fs::read(&path) {
            Ok(bytes) => {
                let unreadable = |reason: String| PlaceError::Unreadable { path: path.clone(), reason };
                let about: About = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
                if about.schema != SCHEMA {
                    return Err(unreadable(format!("it is of version {}, this mainstay knows {SCHEMA}", about.schema)));
                }
                return Ok(Some(about));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(at("read", &path)(source)),
        }
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(at("list", &self.folder)(source)),
        };
        for entry in entries {
            let name = entry.map_err(at("list", &self.folder))?.file_name();
            if !OF_MAKING.contains(&&*name.to_string_lossy()) {
                return Err(PlaceError::Foreign(self.folder.clone()));
            }
        }
        // A making that was interrupted has left neither: what has, is somebody's backups.
        for kept in [self.repository().join("snapshots"), self.wal()] {
            match fs::read_dir(&kept).map(|mut entries| entries.next()) {
                Ok(Some(_)) => return Err(PlaceError::Nameless(self.folder.clone())),
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(at("list", &kept)(source)),
                Ok(None) | Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Makes a repository here that `password` opens. Killed at any moment, the next attempt begins anew: the file
    /// that says whose it is comes last.
    ///
    /// **Errors**: the file system's, or something is there already.
    pub fn create(&self, stack: &str, environment: &str, password: &Secret) -> Result<New, PlaceError> {
        if self.about()?.is_some() {
            return Err(PlaceError::Foreign(self.folder.clone()));
        }
        let folder = self.repository();
        match fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(at("remove", &folder)(source)),
            _ => {}
        }
        fs::create_dir_all(&folder).map_err(at("make the folder", &folder))?;
        let repository = Repository::create(&folder, password)?;
        let (wal_key, recipient) = keys::new_wal_key();
        let id = repository.identity()?;
        let about = About::new(stack, environment, id, recipient);
        let sealed = keys::seal_wal_key(&wal_key, password).map_err(at("seal the key of", &self.folder))?;
        let write = |name: &str, bytes: &[u8], mode: u32| {
            let path = self.folder.join(name);
            durable::replace(&path, bytes, mode).map_err(at("write", &path))
        };
        let wal = self.wal();
        fs::create_dir_all(&wal).map_err(at("make the folder", &wal))?;
        write("wal-key.age", &sealed, 0o644)?;
        write("README.txt", README.as_bytes(), 0o644)?;
        let text = about.text().map_err(at("write", &self.folder))?;
        write("mainstay.json", &text, 0o644)?;
        Ok(New { about, key: repository.key()?, wal_key })
    }

    /// Whether it says of itself what `about` says, byte for byte.
    ///
    /// **Errors**: it cannot be read.
    pub fn says(&self, about: &About) -> io::Result<bool> {
        Ok(fs::read(self.folder.join("mainstay.json"))? == about.text()?)
    }

    /// The key of the archived WAL, by the card's password.
    ///
    /// **Errors**: not there, or another password.
    pub fn wal_key(&self, password: &Secret) -> Result<Secret, PlaceError> {
        let path = self.folder.join("wal-key.age");
        let sealed = fs::read(&path).map_err(at("read", &path))?;
        keys::open_wal_key(&sealed, password)
            .map_err(|error| PlaceError::Unreadable { path, reason: error.to_string() })
    }

    /// Folder of what restores found.
    pub fn proofs(&self) -> PathBuf {
        self.folder.join("proofs")
    }

    /// Takes the place for one run that adds to it.
    ///
    /// **Errors**: another one has it.
    pub fn take(&self) -> Result<Alone, PlaceError> {
        self.lock("lock", FlockOperation::NonBlockingLockExclusive)
    }

    /// Nothing is deleted while this is held: for who reads.
    ///
    /// **Errors**: something is being deleted now. A folder that cannot be written is read without.
    pub fn hold(&self) -> Result<Option<Alone>, PlaceError> {
        match self.lock(DELETING, FlockOperation::NonBlockingLockShared) {
            Err(PlaceError::Io { source, .. })
                if matches!(source.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) =>
            {
                Ok(None)
            }
            held => held.map(Some),
        }
    }

    /// Nobody reads while this is held: for who deletes.
    ///
    /// **Errors**: somebody does.
    pub fn hold_to_delete(&self) -> Result<Alone, PlaceError> {
        self.lock(DELETING, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock(&self, name: &str, how: FlockOperation) -> Result<Alone, PlaceError> {
        let path = self.folder.join(name);
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(at("open", &path))?;
        match rustix::fs::flock(&file, how) {
            Ok(()) => Ok(Alone(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(PlaceError::Busy { folder: self.folder.clone(), by: holder::of(&file) })
            }
            Err(error) => Err(at("lock", &path)(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_whose_note_is_gone_are_left_as_they_are_and_a_making_that_was_cut_off_begins_anew() {
        let folder = tempfile::tempdir().expect("folder");
        let place = Place::new(folder.path());
        let make = || place.create("shop", "production", &Secret::new("password"));
        make().expect("made");
        fs::remove_file(folder.path().join("mainstay.json")).expect("removed");
        make().expect("nothing was in it yet");
        for kept in ["restic/snapshots/ab", "wal/77"] {
            fs::remove_file(folder.path().join("mainstay.json")).expect("removed");
            fs::write(folder.path().join(kept), "x").expect("written");
            assert!(matches!(place.about(), Err(PlaceError::Nameless(_))), "{kept}");
            assert!(matches!(make(), Err(PlaceError::Nameless(_))), "{kept}");
            assert!(folder.path().join(kept).exists(), "{kept}");
            fs::remove_file(folder.path().join(kept)).expect("removed");
            make().expect("made again");
        }
    }
}
