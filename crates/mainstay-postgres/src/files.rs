//! File work shared by the effects: folders and files of the servers' user, syncing, reading the end of a log.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mainstay_supervisor::protocol::User;

/// What could not be done to which path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}", path = path.display())]
pub struct FileError {
    /// Verb and object.
    pub action: &'static str,
    /// Where.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { action, path: path.to_owned(), source })
    }
}

/// Makes a folder of this mode and owner, or gives the one there both.
pub(crate) fn own_folder(path: &Path, mode: u32, user: Option<&User>) -> Result<(), FileError> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error).at("make the folder", path),
    }
    // The mode of creation is cut by the umask; this one is not.
    std::fs::set_permissions(path, Permissions::from_mode(mode)).at("set the mode of", path)?;
    give(path, user)
}

/// Hands a path to the servers' user.
pub(crate) fn give(path: &Path, user: Option<&User>) -> Result<(), FileError> {
    let Some(user) = user else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid)).at("change the owner of", path)
}

/// Hands a whole tree to the servers' user.
pub(crate) fn give_tree(path: &Path, user: Option<&User>) -> Result<(), FileError> {
    give(path, user)?;
    if user.is_none() || !path.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).at("list", path)? {
        let entry = entry.at("list", path)?;
        match entry.file_type().at("look at", path)?.is_dir() {
            true => give_tree(&entry.path(), user)?,
            false => give(&entry.path(), user)?,
        }
    }
    Ok(())
}

/// Replaces a small file of the servers' user, in one step.
pub(crate) fn write_owned(path: &Path, text: &str, mode: u32, user: Option<&User>) -> Result<(), FileError> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    remove_file(&aside)?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside).at("make the file", &aside)?;
    file.write_all(text.as_bytes()).at("write", &aside)?;
    give(&aside, user)?;
    file.sync_all().at("sync", &aside)?;
    std::fs::rename(&aside, path).at("put in place", path)
}

/// Removes a file that may be missing.
pub(crate) fn remove_file(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a tree that may be missing.
pub(crate) fn remove_tree(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", path),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Syncs a folder, so that names in it survive.
pub(crate) fn sync_folder(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|folder| folder.sync_all()).at("sync", path)
}

/// Syncs everything of the file system that holds `path`: one flush instead of one for each of a thousand
/// files, which is why tools are run with `--no-sync`.
pub(crate) fn sync_file_system(path: &Path) -> Result<(), FileError> {
    let folder = File::open(path).at("open", path)?;
    rustix::fs::syncfs(&folder).map_err(io::Error::from).at("sync the file system of", path)
}

/// Last lines of a file from `from` on, at most `LINES` and `SIZE`.
pub(crate) fn last_lines(path: &Path, from: u64) -> String {
    const LINES: usize = 12;
    const SIZE: u64 = 4096;
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let end = file.metadata()?.len();
        // A log that was rotated meanwhile is shorter than where we began.
        let from = if from > end { 0 } else { from };
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(SIZE))))?;
        let mut bytes = Vec::new();
        file.take(SIZE).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let Ok(text) = read() else { return String::new() };
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
