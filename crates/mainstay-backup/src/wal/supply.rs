//! WAL from a store for a server that replays: it asks for a file by its name, and who has the store's keys fetches it.
//!
//! The server's user has no keys. It writes the name into a folder and waits; what comes lies beside it, as in an archive.
//! Only what replay asks for is fetched, and some segments ahead of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Name, find, folder_of, list::files};
use crate::objects::{Store, StoreError};

/// Folder of names that are asked for, in an archive that is supplied.
const ASKS: &str = "asks";
/// Longest wait of a server. A store that is away so long ends the restore, and not the archive.
const WITHIN: Duration = Duration::from_secs(300);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Pause after a store that did not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// Segments that are fetched before they are asked for: the way of one takes as long as the replay of some.
const AHEAD: usize = 4;
/// Longest file: a segment has 16 MiB, and what does not compress becomes a little longer.
const LONGEST: u64 = 64 << 20;

/// Asks for a file and waits until it is there, or known to be nowhere. For who replays.
///
/// **Errors**: nobody answered.
pub fn ask(archive: &Path, system: u64, name: &str) -> io::Result<()> {
    let Some(known) = Name::parse(name) else { return Ok(()) };
    let cluster = folder_of(archive, system);
    if !find(&cluster, &known)?.is_empty() {
        return Ok(());
    }
    let path = archive.join(ASKS).join(name);
    File::options().create(true).truncate(false).write(true).open(&path)?;
    let begun = Instant::now();
    while path.try_exists()? && find(&cluster, &known)?.is_empty() {
        if begun.elapsed() > WITHIN {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{name} did not come from the store in 5 min"),
            ));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// An archive that is supplied from a store.
#[derive(Clone, Debug)]
pub struct Supplied {
    /// The folder `wal` of a place, with links for what is in the store.
    pub of: PathBuf,
    /// The cluster.
    pub system: u64,
    /// Where a server looks, and asks.
    pub archive: PathBuf,
    /// User and group of the server; `None`: those of who supplies.
    pub owner: Option<(u32, u32)>,
}

impl Supplied {
    /// Makes the folders. Nothing is fetched yet.
    ///
    /// The server's user may write into the folder of what it asks for and nowhere else: who supplies may be root, and
    /// what it writes must not be led elsewhere by a link.
    ///
    /// **Errors**: the file system's.
    pub fn make(&self) -> io::Result<()> {
        let asks = self.archive.join(ASKS);
        fs::create_dir_all(&asks)?;
        self.show(&self.archive, 0o750)?;
        let Some((user, group)) = self.owner else { return Ok(()) };
        std::os::unix::fs::chown(&asks, Some(user), Some(group))
    }

    /// The server's user may read it. The group comes first: who asks looks there meanwhile.
    fn show(&self, path: &Path, mode: u32) -> io::Result<()> {
        if let Some((_, group)) = self.owner {
            std::os::unix::fs::chown(path, None, Some(group))?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    /// Fetches what is asked for, for ever. `tell` hears what a store says that does not give it.
    pub async fn serve(&self, store: &Store, tell: impl Fn(&StoreError)) {
        let mut known = BTreeMap::new();
        loop {
            match self.asked() {
                Some(name) => match self.bring(store, &name, &mut known).await {
                    Ok(()) => {
                        if fs::remove_file(self.archive.join(ASKS).join(name.to_string())).is_err() {
                            tokio::time::sleep(AGAIN).await;
                        }
                    }
                    Err(error) => {
                        tell(&error);
                        tokio::time::sleep(AGAIN).await;
                    }
                },
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn asked(&self) -> Option<Name> {
        let entries = fs::read_dir(self.archive.join(ASKS)).ok()?;
        // The folder is the server's user's: what is no plain file could not be taken away, and would be asked for ever.
        let mut plain = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
        plain.find_map(|entry| Name::parse(&entry.file_name().to_string_lossy()))
    }

    /// One file, and those after it. What is in no archive is not brought, and that is the answer.
    async fn bring(&self, store: &Store, name: &Name, known: &mut BTreeMap<Name, PathBuf>) -> Result<(), StoreError> {
        if !known.contains_key(name) {
            *known = files(&self.of, self.system).map_err(|source| self.at(source))?;
        }
        let Some(path) = known.get(name) else { return Ok(()) };
        self.one(store, path).await?;
        if matches!(name, Name::Segment(_)) {
            let next = known.range(name.clone()..).skip(1).take(AHEAD);
            for (_, path) in next.filter(|(name, _)| matches!(name, Name::Segment(_))) {
                // Fetched or not: whoever wants it asks.
                self.one(store, path).await.ok();
            }
        }
        Ok(())
    }

    async fn one(&self, store: &Store, path: &Path) -> Result<(), StoreError> {
        let inner = path.strip_prefix(&self.of).unwrap_or(path);
        let into = self.archive.join(inner);
        if into.exists() {
            return Ok(());
        }
        let content = match fs::read(path) {
            // Histories lie here; of the others there are links that lead nowhere.
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match store.get_whole(&format!("wal/{}", inner.display()), LONGEST).await {
                    Ok(content) => content,
                    // Retention let it go meanwhile: it is nowhere.
                    Err(StoreError::Missing(_)) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            Err(source) => return Err(self.at(source)),
        };
        self.put(&into, &content).map_err(|source| self.at(source))
    }

    fn put(&self, into: &Path, content: &[u8]) -> io::Result<()> {
        let folder = into.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(folder)?;
        for folder in folder.ancestors().take_while(|folder| *folder != self.archive) {
            self.show(folder, 0o750)?;
        }
        let aside = folder.join(".unfinished");
        fs::write(&aside, content)?;
        self.show(&aside, 0o640)?;
        fs::rename(&aside, into)
    }

    fn at(&self, source: io::Error) -> StoreError {
        StoreError::File { path: self.archive.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder under the name of a segment kept who supplies busy for ever, and whoever asked for others waiting.
    #[test]
    fn what_is_no_plain_file_asks_for_nothing() {
        let folder = tempfile::tempdir().expect("folder");
        let archive = folder.path().join("archive");
        let supplied = Supplied { of: folder.path().join("wal"), system: 7, archive: archive.clone(), owner: None };
        supplied.make().expect("made");
        let (first, second) = ("000000010000000000000001", "000000010000000000000002");
        fs::create_dir(archive.join(ASKS).join(first)).expect("made");
        std::os::unix::fs::symlink("/etc/passwd", archive.join(ASKS).join("00000002.history")).expect("made");
        assert_eq!(supplied.asked(), None);
        fs::write(archive.join(ASKS).join(second), "").expect("written");
        assert_eq!(supplied.asked(), Name::parse(second));
    }
}
