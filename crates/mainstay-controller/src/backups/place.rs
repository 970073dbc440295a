//! The folder for backups is made, or found to be the right one, before anything is started.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mainstay_backup::place::About;
use mainstay_backup::{Place, Repository, keys};
use mainstay_stack::model::{Backup, BackupCopy};
use mainstay_supervisor::durable;
use mainstay_supervisor::ids::user_for;
use mainstay_supervisor::protocol::User;
use mainstay_types::{ChildRole, Secret};

use super::{Error, PASSWORD, Target, VERSION, file};
use crate::paths::Paths;
use crate::secrets::Secrets;

/// Whose folder it is.
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    /// The stack.
    pub name: &'a str,
    /// Its environment.
    pub environment: &'a str,
    /// Folder of the stack file: a relative target begins there.
    pub folder: &'a Path,
}

/// What `up` should tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// Where backups go.
    pub folder: PathBuf,
    /// The repository was made just now.
    pub is_new: bool,
    /// The recovery card, as long as nobody was shown that of this repository: see [`card_was_shown`].
    pub card: Option<String>,
    /// The folder is on the disk of the data.
    pub is_same_device: bool,
    /// Where the second copy goes.
    pub copy: Option<String>,
}

pub(super) fn key_of(repository: &str) -> String {
    format!("backup:key:{repository}")
}

pub(super) fn wal_key_of(repository: &str) -> String {
    format!("backup:wal:{repository}")
}

/// Makes the repository at the first `up`, and knows it again at every other. `None`: the stack file asks for none,
/// and what an earlier one asked for is forgotten; the backups stay.
///
/// **Errors**: the folder is another's or cannot be used. Nothing was started then.
pub fn establish(paths: &Paths, stack: Stack<'_>, backup: Option<&Backup>) -> Result<Option<Established>, Error> {
    let io = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    let note = file(paths);
    let Some(backup) = backup else {
        return match std::fs::remove_file(&note) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &note)(error)),
            _ => Ok(None),
        };
    };
    let folder = stack.folder.join(&backup.target);
    let place = Place::new(&folder);
    let about = place.about()?;
    if let Some(about) = about
        .as_ref()
        .filter(|about| (about.stack.as_str(), about.environment.as_str()) != (stack.name, stack.environment))
    {
        let About { stack, environment, .. } = about.clone();
        return Err(Error::OtherStack { folder, stack, environment });
    }
    let mut secrets = Secrets::open(&paths.state)?;
    let password = secrets.get_or_make(PASSWORD)?;
    let (about, is_new) = match about {
        Some(about) => {
            open_again(&place, &about, &password, &mut secrets)?;
            (about, false)
        }
        None => {
            let new = place.create(stack.name, stack.environment, &password)?;
            keep_keys(&mut secrets, &new.about, &new.key, &new.wal_key)?;
            (new.about, true)
        }
    };
    // As people name it, without the way there from the stack file; it is there by now.
    let folder = folder.canonicalize().unwrap_or(folder);
    let place = Place::new(&folder);
    let user = user_for(ChildRole::Postgres, stack.name, "postgres");
    let wal = place.wal();
    if let Some(user) = &user {
        reachable(&wal, user)?;
        std::os::unix::fs::chown(&wal, Some(user.uid), Some(user.gid))
            .map_err(io("give to the server's user", &wal))?;
    }
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&wal, mode).map_err(io("set the mode of", &wal))?;
    let target =
        Target { version: VERSION, folder: folder.clone(), repository: about.repository, recipient: about.recipient };
    let text = serde_json::to_vec_pretty(&target).map_err(|error| io("write", &note)(error.into()))?;
    durable::replace(&note, &text, 0o644).map_err(io("write", &note))?;
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    Ok(Some(Established {
        is_new,
        card: (shown(paths).as_deref() != Some(target.repository.as_str())).then(|| {
            on_card(
                &keys::card(stack.name, stack.environment, &folder, &password),
                (&target.repository, backup.copy.as_ref()),
            )
        }),
        copy: backup.copy.as_ref().map(|copy| copy.to.to_string()),
        is_same_device: device(&folder).is_some() && device(&folder) == device(&paths.state),
        folder,
    }))
}

/// Names the repository whose card was shown: an `up` that failed after it was made showed none.
fn marker(paths: &Paths) -> PathBuf {
    paths.state.join("backup-card-shown")
}

fn shown(paths: &Paths) -> Option<String> {
    std::fs::read_to_string(marker(paths)).ok()
}

/// Takes note that a person was shown the card of the repository.
pub fn card_was_shown(paths: &Paths) {
    if let Ok(Some(target)) = Target::load(paths) {
        // Shown again next time if this cannot be noted: better twice than never.
        std::fs::write(marker(paths), target.repository).ok();
    }
}

pub(super) fn keep_keys(secrets: &mut Secrets, about: &About, key: &Secret, wal_key: &Secret) -> Result<(), Error> {
    secrets.set(&key_of(&about.repository), key)?;
    secrets.set(&wal_key_of(&about.repository), wal_key)?;
    Ok(())
}

/// The keys are in the state folder, or (when `up` was killed between making and noting) the password opens it.
fn open_again(place: &Place, about: &About, password: &Secret, secrets: &mut Secrets) -> Result<(), Error> {
    let known =
        secrets.get(&key_of(&about.repository)).is_some() && secrets.get(&wal_key_of(&about.repository)).is_some();
    if known {
        return Ok(());
    }
    let other = |_| Error::OtherState(place.folder().to_owned());
    let repository = Repository::open_with_password(&place.repository(), password).map_err(other)?;
    let wal_key = place.wal_key(password).map_err(|_| Error::OtherState(place.folder().to_owned()))?;
    keep_keys(secrets, about, &repository.key()?, &wal_key)
}

/// Every folder on the way must let the server's user pass.
fn reachable(wal: &Path, user: &User) -> Result<(), Error> {
    for folder in wal.ancestors().skip(1) {
        let Ok(metadata) = std::fs::metadata(folder) else { continue };
        let mode = metadata.mode();
        let may_pass = match (metadata.uid() == user.uid, metadata.gid() == user.gid) {
            (true, _) => mode & 0o100 != 0,
            (false, true) => mode & 0o010 != 0,
            (false, false) => mode & 0o001 != 0,
        };
        if !may_pass {
            let user = format!("user {}", user.uid);
            return Err(Error::Closed { user, folder: folder.to_owned(), target: wal.to_owned() });
        }
    }
    Ok(())
}

/// The recovery card of a stack that was up with `[database.backup]`.
///
/// **Errors**: there is none.
pub fn card(paths: &Paths, stack: &str, environment: &str) -> Result<String, Error> {
    let path = file(paths);
    let target = Target::load(paths).map_err(|source| Error::Io { action: "read", path, source })?;
    let target = target.ok_or(Error::NotConfigured)?;
    let secrets = Secrets::open(&paths.state)?;
    let password = secrets.get(PASSWORD).ok_or(Error::NotConfigured)?;
    let card = keys::card(stack, environment, &target.folder, password);
    // A card without the copy is better than none.
    let copy = super::second::standing(paths).ok().flatten().map(|(copy, _)| copy);
    Ok(on_card(&card, (&target.repository, copy.as_ref())))
}

/// With what a restore from the second copy needs besides its keys.
fn on_card(card: &str, (repository, copy): (&str, Option<&BackupCopy>)) -> String {
    let card = keys::with_identity(card, repository);
    let Some(copy) = copy else { return card };
    let endpoint = copy.endpoint.as_ref().map_or("Amazon's".to_owned(), ToString::to_string);
    keys::with_copy(&card, &format!("{} (endpoint {endpoint}, region {})", copy.to, copy.region))
}
