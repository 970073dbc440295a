//! A database from its repository and the recovery card alone: on a machine that has nothing else of the stack.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mainstay_backup::objects::Waiting;
use mainstay_backup::place::About;
use mainstay_backup::{Place, Repository, RepositoryError};
use mainstay_decide::observed::{DataDirectory, Record};
use mainstay_decide::past::Moment;
use mainstay_postgres::{Layout, RecordFile, adopt};
use mainstay_stack::model::{Backup as Policy, BackupTarget, Keep};
use mainstay_types::{EnvironmentName, Member, Secret, StackName};

use super::find::{self, Asked, Found};
use super::{Backups, Error, PASSWORD, Patience, cluster, past, place, swap};
use crate::paths::Paths;
use crate::secrets::Secrets;

/// A repository that a card opens.
#[derive(Debug)]
pub struct Opened {
    /// What it says of itself.
    pub about: About,
    place: Place,
    repository: Repository,
    /// Where packs and WAL are, when it is no folder.
    store: Option<Arc<Waiting>>,
    wal_key: Secret,
    password: Secret,
    /// For who works on the repository.
    pub patience: Patience,
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The moment, as it was asked for.
    pub found: Found,
    /// What was restored.
    pub plan: past::Plan,
    /// Position that replay reached.
    pub lsn: String,
    /// Time for the files.
    pub restored_in: Duration,
    /// Time for the WAL.
    pub replayed_in: Duration,
}

/// The password of a card's text; a text without lines is the password itself.
pub fn password(card: &str) -> Option<Secret> {
    let named = card.lines().find_map(|line| line.trim().strip_prefix("password"));
    let alone = (card.trim().lines().count() == 1).then_some(card);
    let found = named.or(alone)?.trim();
    (!found.is_empty() && !found.contains(char::is_whitespace)).then(|| Secret::new(found))
}

/// What a card says it is of; `None`: it is a password alone.
pub fn says(card: &str) -> Option<String> {
    let line = |name: &str| card.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
    let stack = line("stack ")?;
    let of = line("identity ").map_or_else(
        || line("repository ").map_or_else(String::new, |folder| format!(", {folder}")),
        |identity| format!(", repository {identity}"),
    );
    Some(format!("{stack}{of}"))
}

/// Opens a repository with the password of a card, which `says` what it is of.
///
/// **Errors**: there is none, or the card is another's.
pub fn open(folder: &Path, password: Secret, says: Option<String>) -> Result<Opened, Error> {
    let place = Place::new(folder);
    let about = place.about()?.ok_or_else(|| mainstay_backup::place::PlaceError::Missing(folder.to_owned()))?;
    let other = |error| match error {
        RepositoryError::Key { source, .. } if source.is_incorrect_password() => Error::OtherCard {
            folder: folder.to_owned(),
            of: format!("{} ({}), repository {}", about.stack, about.environment, about.repository),
            card: says.unwrap_or_else(|| "not said: it is a password alone".to_owned()),
        },
        other => other.into(),
    };
    let repository = Repository::open_with_password(&place.repository(), &password).map_err(other)?;
    let wal_key = place.wal_key(&password)?;
    Ok(Opened { about, place, repository, store: None, wal_key, password, patience: Patience::default() })
}

impl Opened {
    /// The same whose packs and WAL stay in a store; its folder was made by [`super::second::gather`].
    #[must_use]
    pub fn in_store(self, store: Arc<Waiting>) -> Self {
        let repository = self.repository.backed_by(Some(Arc::clone(&store)));
        Self { repository, store: Some(store), ..self }
    }
}

/// The folders of the stack that the repository is of.
///
/// **Errors**: its names are none.
pub fn paths(opened: &Opened, base: &Path) -> Result<Paths, Error> {
    let wrong = |why: String| Error::Stack(format!("the repository names no stack: {why}"));
    let stack = StackName::new(opened.about.stack.as_str()).map_err(|error| wrong(error.to_string()))?;
    let environment =
        EnvironmentName::new(opened.about.environment.as_str()).map_err(|error| wrong(error.to_string()))?;
    Paths::new(base, &stack, &environment).map_err(|error| wrong(error.to_string()))
}

/// Restores into the state folder, as the primary that the next `up` starts. The program must be in the state folder.
///
/// **Errors**: see [`Error`]; above all data of the stack is there already. Nothing is put in place then.
pub async fn restore(opened: Opened, paths: &Paths, asked: &Asked) -> Result<Made, Error> {
    let layout = cluster(paths, &opened.about.stack);
    let io = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    let is_there = layout
        .members()
        .map_err(io("list", &layout.base()))?
        .into_iter()
        .any(|member| layout.look(member) != DataDirectory::Absent);
    if is_there || layout.record().exists() {
        return Err(Error::InUse(paths.state.clone()));
    }
    let mut secrets = Secrets::open(&paths.state)?;
    let superuser = secrets.get_or_make("postgres:superuser")?;
    secrets.set(PASSWORD, &opened.password)?;
    place::keep_keys(&mut secrets, &opened.about, &opened.repository.key()?, &opened.wal_key)?;
    let backups = backups_of(opened, layout, superuser);
    let held = backups.hold().await?;
    let (found, plan) = find::plan(&backups, paths, asked).await?;
    let mut open = past::open_held(Arc::clone(&backups), paths, &plan, held).await?;
    if let Err(error) = find::check(&found, &open).await {
        open.close().await;
        return Err(error);
    }
    let lsn = open.replay.lsn.map(|lsn| lsn.to_string()).unwrap_or_default();
    let (restored_in, replayed_in) = (open.restored_in, open.replayed_in);
    let adopted = put_in_place(&backups, &mut open).await;
    open.close().await;
    adopted?;
    Ok(Made { found, plan, lsn, restored_in, replayed_in })
}

/// What a card opens, as the repository of a stack without a stack file.
fn backups_of(opened: Opened, layout: Layout, superuser: Secret) -> Arc<Backups> {
    let policy = Policy {
        target: BackupTarget::Folder(opened.place.folder().to_owned()),
        rpo: Duration::from_secs(60),
        day_begins: Duration::ZERO,
        window: Duration::MAX,
        proof: Duration::MAX,
        keep: Keep::default(),
        asserts: Vec::new(),
        copy: None,
    };
    Arc::new(Backups {
        stack: opened.about.stack.clone(),
        place: opened.place,
        repository: opened.repository,
        store: opened.store,
        policy,
        database: String::new(),
        environment: opened.about.environment.clone(),
        recipient: opened.about.recipient,
        wal_key: opened.wal_key,
        password: Some(opened.password),
        layout,
        superuser,
        patience: opened.patience,
    })
}

/// What would be restored, and from what, without putting anything in place: for drills.
///
/// **Errors**: see [`Error`].
pub fn look(opened: Opened, paths: &Paths, moment: &Moment) -> Result<(Arc<Backups>, past::Plan), Error> {
    let layout = cluster(paths, &opened.about.stack);
    // Nobody asks for it: the way in is a socket that root and the server's user alone can enter.
    let superuser = opened.password.clone();
    let backups = backups_of(opened, layout, superuser);
    let plan = past::plan(&backups, paths, moment, None)?;
    Ok((backups, plan))
}

async fn put_in_place(backups: &Backups, open: &mut past::Open) -> Result<(), Error> {
    open.leave_recovery().await?;
    // Its passwords are those of the machine that is gone; those of roles below it are set by the next `up`.
    adopt::set_superuser_password(&open.access, &backups.superuser).await?;
    swap::end_in_order(backups, open).await?;
    let adopted = adopt::adopt(open.layout(), &backups.layout, Member::A)?;
    let record = Record {
        epoch: 1,
        primary: Member::A,
        timeline: adopted.timeline,
        lsn: adopted.checkpoint,
        candidates: Vec::new(),
        promoting: None,
    };
    RecordFile::new(backups.layout.record())
        .write(&record)
        .map_err(|error| Error::NoServer(mainstay_types::full_text(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_read_off_a_card_or_stands_alone() {
        let card = mainstay_backup::keys::card("shop", "production", "/srv/b", &Secret::new("abc-def"));
        assert_eq!(password(&card), Some(Secret::new("abc-def")));
        assert_eq!(password("abc-def\n"), Some(Secret::new("abc-def")));
        for text in ["", "two words", "no\ncard"] {
            assert_eq!(password(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_card_says_what_it_is_of_and_a_password_does_not() {
        let card = mainstay_backup::keys::card("shop", "production", "/srv/b", &Secret::new("abc-def"));
        assert_eq!(says(&card).as_deref(), Some("shop (production), /srv/b"), "of an earlier release");
        let card = mainstay_backup::keys::with_identity(&card, "3f0c2a91");
        assert_eq!(says(&card).as_deref(), Some("shop (production), repository 3f0c2a91"));
        assert_eq!(password(&card), Some(Secret::new("abc-def")));
        assert_eq!(says("abc-def"), None);
    }
}
