//! What a folder of backups holds, as far as a copy of it goes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mainstay_types::Timestamp;

use crate::wal::{self, spool};

/// A folder that was changed just before it was looked at may change once more within the same tick of its clock.
const TICK: Duration = Duration::from_secs(2);
/// Folders below a place, and how deep files lie in them. Those that refer to others come first: what they refer to
/// was there before them, and is listed after them.
const BASE: [(&str, u32); 4] = [("restic/snapshots", 0), ("restic/index", 0), ("restic/data", 1), ("restic/keys", 0)];
const SMALL: [&str; 4] = ["mainstay.json", "README.txt", "wal-key.age", "restic/config"];

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `mainstay.json`: says whose it is.
    Name,
    /// What opens the repository, and how it is read.
    Opening,
    /// Archived WAL.
    Wal,
    /// Contents of base backups.
    Pack,
    /// Where in packs they are.
    Index,
    /// A base backup.
    Snapshot,
    /// What restores found.
    Note,
}

impl Kind {
    /// Of a name below the place; `None`: none of ours, or a file that is being written. A name that has a kind leads
    /// nowhere else.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "mainstay.json" => return Some(Self::Name),
            "README.txt" | "wal-key.age" | "restic/config" => return Some(Self::Opening),
            _ => {}
        }
        let parts: Vec<&str> = name.split('/').collect();
        match parts.as_slice() {
            ["restic", "keys", id] if is_hash(id) => Some(Self::Opening),
            ["restic", "data", first, id] if is_hash(id) && id.get(..2) == Some(*first) => Some(Self::Pack),
            ["restic", "index", id] if is_hash(id) => Some(Self::Index),
            ["restic", "snapshots", id] if is_hash(id) => Some(Self::Snapshot),
            ["wal", system, folder, file] => {
                let is_system = !system.is_empty() && system.bytes().all(|b| b.is_ascii_digit());
                (is_system && wal::is_place_of(folder, file)).then_some(Self::Wal)
            }
            ["proofs", file] => is_note(file).then_some(Self::Note),
            _ => None,
        }
    }

    /// Written once and never changed.
    pub fn is_fixed(self) -> bool {
        matches!(self, Self::Wal | Self::Pack | Self::Index | Self::Snapshot)
    }

    /// Part of base backups.
    pub fn is_base(self) -> bool {
        matches!(self, Self::Pack | Self::Index | Self::Snapshot)
    }
}

/// The SHA-256 of a file that its name bears.
pub(super) fn hash_of(name: &str) -> Option<&str> {
    let (folder, file) = name.rsplit_once('/')?;
    (folder.starts_with("restic/") && is_hash(file)).then_some(file)
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_note(file: &str) -> bool {
    file.strip_suffix(".age").is_some_and(|stem| {
        !stem.starts_with('.') && stem.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
    })
}

/// A file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// **Unit**: bytes.
    pub bytes: u64,
    /// When it was written.
    pub written: Timestamp,
}

/// Files by their names below the place.
pub type Files = BTreeMap<String, Local>;

struct Seen {
    changed: SystemTime,
    looked: SystemTime,
    files: Vec<(String, Local)>,
    folders: Vec<String>,
}

/// Looks through a place; reads again only what changed since.
#[derive(Default)]
pub struct Folders {
    seen: BTreeMap<PathBuf, Seen>,
}

impl Folders {
    /// Archived WAL.
    ///
    /// **Errors**: the file system's.
    pub fn wal(&mut self, place: &Path) -> io::Result<Files> {
        let mut files = Files::new();
        self.walk(place, "wal", 2, &mut files)?;
        Ok(files)
    }

    /// Everything else.
    ///
    /// **Errors**: the file system's.
    pub fn base(&mut self, place: &Path) -> io::Result<Files> {
        let mut files = Files::new();
        for (folder, depth) in BASE {
            self.walk(place, folder, depth, &mut files)?;
        }
        self.walk(place, "proofs", 0, &mut files)?;
        for name in SMALL {
            match fs::metadata(place.join(name)) {
                Ok(metadata) => drop(files.insert(name.to_owned(), local(&metadata)?)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    fn walk(&mut self, place: &Path, name: &str, depth: u32, found: &mut Files) -> io::Result<()> {
        let path = place.join(name);
        let looked = SystemTime::now();
        let changed = match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(changed) => changed,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let is_same = |seen: &Seen| seen.changed == changed && changed + TICK < seen.looked;
        if !self.seen.get(&path).is_some_and(is_same) {
            let (files, folders) = read(&path, name)?;
            self.seen.insert(path.clone(), Seen { changed, looked, files, folders });
        }
        let Some(seen) = self.seen.get(&path) else { return Ok(()) };
        found.extend(seen.files.iter().cloned());
        if depth > 0 {
            for folder in seen.folders.clone() {
                self.walk(place, &folder, depth - 1, found)?;
            }
        }
        Ok(())
    }
}

/// Files, and folders by their names.
type Entries = (Vec<(String, Local)>, Vec<String>);

fn read(path: &Path, name: &str) -> io::Result<Entries> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let Ok(file) = entry.file_name().into_string() else { continue };
        let inner = format!("{name}/{file}");
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            folders.push(inner);
        } else if Kind::of(&inner).is_some() {
            let seen = spool::look(&entry.path(), &metadata)?;
            files.push((inner, Local { bytes: seen.bytes, written: seen.at }));
        }
    }
    Ok((files, folders))
}

fn local(metadata: &fs::Metadata) -> io::Result<Local> {
    let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let written = Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    Ok(Local { bytes: metadata.len(), written })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_has_a_kind_leads_nowhere_else() {
        let hash = "ab".repeat(32);
        for (name, kind) in [
            ("mainstay.json".to_owned(), Kind::Name),
            ("restic/config".to_owned(), Kind::Opening),
            (format!("restic/keys/{hash}"), Kind::Opening),
            (format!("restic/data/ab/{hash}"), Kind::Pack),
            (format!("restic/index/{hash}"), Kind::Index),
            (format!("restic/snapshots/{hash}"), Kind::Snapshot),
            (format!("wal/77/0000000100000000/000000010000000000000003-{hash}.zst.age"), Kind::Wal),
            (format!("wal/77/history/00000002.history-{hash}.zst.age"), Kind::Wal),
            (format!("proofs/{hash}.proof.age"), Kind::Note),
            ("proofs/77-0000000000000009.point.age".to_owned(), Kind::Note),
        ] {
            assert_eq!(Kind::of(&name), Some(kind), "{name}");
        }
        for name in [
            "",
            "lock",
            crate::objects::CLAIM,
            "/etc/passwd",
            "../mainstay.json",
            "proofs/../x.age",
            "proofs/.x.age",
            "restic/data/cd/.tmp-1-x",
            "wal/77/0000000100000000/.unfinished",
            "wal/77/lock",
            "wal/../0000000100000000/x",
        ] {
            assert_eq!(Kind::of(name), None, "{name}");
        }
        assert_eq!(Kind::of(&format!("restic/data/cd/{hash}")), None);
        assert_eq!(Kind::of(&format!("wal/77/history/000000010000000000000003-{hash}.zst.age")), None);
    }

    #[test]
    fn a_new_file_is_seen_and_one_that_went_is_not() {
        let folder = tempfile::tempdir().expect("folder");
        let index = folder.path().join("restic/index");
        fs::create_dir_all(&index).expect("made");
        let [one, two] = ["ab", "cd"].map(|part| part.repeat(32));
        fs::write(index.join(&one), "x").expect("written");
        let mut folders = Folders::default();
        let names = |files: Files| files.into_keys().collect::<Vec<_>>();
        assert_eq!(names(folders.base(folder.path()).expect("looks")), [format!("restic/index/{one}")]);
        fs::write(index.join(&two), "xx").expect("written");
        fs::remove_file(index.join(&one)).expect("removed");
        assert_eq!(names(folders.base(folder.path()).expect("looks")), [format!("restic/index/{two}")]);
    }
}
