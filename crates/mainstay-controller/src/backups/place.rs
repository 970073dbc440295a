//! The folder for backups is made, or found to be the right one, before anything is started.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mainstay_backup::objects::Store;
use mainstay_backup::place::About;
use mainstay_backup::{Place, Repository, keys};
use mainstay_stack::model::{Backup, BackupTarget, ObjectStore};
use mainstay_supervisor::durable;
use mainstay_supervisor::ids::user_for;
use mainstay_supervisor::protocol::User;
use mainstay_types::{ChildRole, ObjectAddress, Secret, StoreKind};

use super::second::{self, Wanted};
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
    /// Where backups go, as people name it.
    pub target: String,
    /// The folder of them, or beside their store.
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
    let (folder, wanted) = match &backup.target {
        BackupTarget::Folder(target) => (stack.folder.join(target), None),
        BackupTarget::Store(store) => (paths.state.join(BESIDE_STORE).join(beside(&store.address)), Some(store)),
    };
    let mut secrets = Secrets::open(&paths.state)?;
    let password = secrets.get_or_make(PASSWORD)?;
    let store = |wanted: &ObjectStore| second::store(paths, wanted, stack.folder);
    let found = match wanted {
        // The store may be away when a stack begins that was up with it before.
        Some(wanted) if Place::new(&folder).about()?.is_none() => {
            in_store(paths, store(wanted)?, stack, (&backup.target, &folder), &mut secrets, &password)?
        }
        Some(_) | None => in_folder(stack, (&backup.target, &folder), &mut secrets, &password)?,
    };
    let (about, is_new) = found;
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
        card: (shown(paths).as_deref() != Some(target.repository.as_str()))
            .then(|| on_card((stack.name, stack.environment), (&target, &password), Wanted::of(backup).as_ref())),
        copy: backup.copy.as_ref().map(|copy| copy.store.address.to_string()),
        is_same_device: wanted.is_none() && device(&folder).is_some() && device(&folder) == device(&paths.state),
        target: wanted.map_or_else(|| folder.display().to_string(), |store| store.address.to_string()),
        folder,
    }))
}

/// What a folder says of itself, and whether that was made now.
fn in_folder(
    stack: Stack<'_>,
    (target, folder): (&BackupTarget, &Path),
    secrets: &mut Secrets,
    password: &Secret,
) -> Result<(About, bool), Error> {
    let place = Place::new(folder);
    let Some(about) = place.about()? else {
        let new = place.create(stack.name, stack.environment, password)?;
        keep_keys(secrets, &new.about, &new.key, &new.wal_key)?;
        return Ok((new.about, true));
    };
    check_stack(&about, stack, target)?;
    open_again(&place, &about, password, secrets)?;
    Ok((about, false))
}

/// The same of a store beside which there is no folder yet: this state folder adds to it from then on.
fn in_store(
    paths: &Paths,
    store: Store,
    stack: Stack<'_>,
    (target, folder): (&BackupTarget, &Path),
    secrets: &mut Secrets,
    password: &Secret,
) -> Result<(About, bool), Error> {
    let may = |about: &About| {
        check_stack(about, stack, target)?;
        let is_known = secrets.get(&key_of(&about.repository)).is_some();
        if is_known { Ok(()) } else { Err(Error::OtherStore(target.to_string())) }
    };
    // Until the store has all that opens it, a new one lies beside its folder: whoever is interrupted goes on with that.
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let begun = Place::new(&folder.with_file_name(format!("begun~{name}")));
    let begun_as = begun.about()?.map(|about| about.repository);
    let may = |about: &About| if begun_as.as_ref() == Some(&about.repository) { Ok(()) } else { may(about) };
    if let Some(about) = second::known(&store, (folder, begun_as.as_deref()), may)? {
        second::hand_over(&Place::new(folder), stack.name)?;
        second::take_over(paths, &store)?;
        return Ok((about, false));
    }
    if begun_as.is_none() {
        let new = begun.create(stack.name, stack.environment, password)?;
        keep_keys(secrets, &new.about, &new.key, &new.wal_key)?;
    }
    let about = begun.about()?.ok_or_else(|| Error::Unreadable(begun.folder().display().to_string()))?;
    open_again(&begun, &about, password, secrets)?;
    let key = secrets.get(&key_of(&about.repository)).ok_or(Error::NotConfigured)?;
    second::take_over(paths, &store)?;
    second::begin(store, &begun, Repository::with_key(&begun.repository(), key)?, second::holder(paths)?)?;
    let (from, to) = (begun.folder(), folder.to_owned());
    std::fs::rename(from, folder).map_err(|source| Error::Io { action: "rename to", path: to, source })?;
    Ok((about, true))
}

/// Below the state folder: what lies here of repositories in stores.
const BESIDE_STORE: &str = "backups";

/// A folder for each address: what lies here of one says nothing of another. No address has a `~`.
fn beside(address: &ObjectAddress) -> String {
    let text = format!("{}~{}~{}", address.kind().scheme(), address.bucket(), address.prefix().replace('/', "~"));
    text.trim_end_matches('~').to_owned()
}

fn check_stack(about: &About, whose: Stack<'_>, target: &BackupTarget) -> Result<(), Error> {
    if (about.stack.as_str(), about.environment.as_str()) == (whose.name, whose.environment) {
        return Ok(());
    }
    let About { stack, environment, .. } = about.clone();
    let target = match target {
        BackupTarget::Folder(folder) => whose.folder.join(folder).display().to_string(),
        BackupTarget::Store(store) => store.address.to_string(),
    };
    Err(Error::OtherStack { target, stack, environment })
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
    // A card without the copy is better than none.
    let wanted = second::standing(paths).ok().flatten().map(|(wanted, _)| wanted);
    Ok(on_card((stack, environment), (&target, password), wanted.as_ref()))
}

/// With what a restore from a store needs besides its keys.
fn on_card(
    (stack, environment): (&str, &str),
    (target, password): (&Target, &Secret),
    wanted: Option<&Wanted>,
) -> String {
    let card = |place: &str| keys::with_identity(&keys::card(stack, environment, place, password), &target.repository);
    let here = target.folder.display().to_string();
    let Some(Wanted { store, is_target, .. }) = wanted else { return card(&here) };
    let address = &store.address;
    let at = match (&store.endpoint, address.kind()) {
        (Some(endpoint), _) => format!("{address} (endpoint {endpoint}, region {})", store.region),
        (None, StoreKind::S3) => format!("{address} (endpoint Amazon's, region {})", store.region),
        (None, StoreKind::Google | StoreKind::Azure) => address.to_string(),
    };
    if *is_target { card(&at) } else { keys::with_copy(&card(&here), &at) }
}
