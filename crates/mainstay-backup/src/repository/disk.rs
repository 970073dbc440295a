//! A repository's files in a folder. Written under another name, synced, renamed, and the folder synced: what was
//! acknowledged is there after a crash, and nothing half written has a file's name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustic_core::{
    ALL_FILE_TYPES, BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend,
};
use sha2::{Digest, Sha256};

/// How names of files begin that are being written.
const UNFINISHED: &str = ".tmp-";

/// The folder.
#[derive(Debug)]
pub(super) struct Disk {
    folder: PathBuf,
}

impl Disk {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self, kind: FileType, id: &Id) -> PathBuf {
        let name = id.to_hex();
        let folder = self.folder.join(kind.dirname());
        match kind {
            FileType::Config => folder,
            FileType::Pack => folder.join(&name[..2]).join(&*name),
            FileType::Index | FileType::Key | FileType::Snapshot => folder.join(&*name),
        }
    }
}

fn fault(action: &str, path: &Path, source: io::Error) -> Box<RusticError> {
    RusticError::with_source(ErrorKind::Backend, format!("cannot {action} {}", path.display()), source)
}

/// Files of a folder with their lengths; what is no id (a file being written) is left out.
fn list(folder: &Path, kind: FileType, found: &mut Vec<(Id, u32)>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), kind, found)?;
            continue;
        }
        let Some(id) = Id::parse_some(&entry.file_name().to_string_lossy(), kind) else { continue };
        let length = match entry.metadata() {
            Ok(metadata) => metadata.len(),
            // Removed between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        found.push((id, u32::try_from(length).map_err(io::Error::other)?));
    }
    Ok(())
}

fn write(path: &Path, parts: &[Bytes]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    // Two writers of one id write the same bytes; each to a name of its own.
    let unfinished = folder.join(format!("{UNFINISHED}{}-{name}", std::process::id()));
    let write = || {
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        File::open(folder)?.sync_all()
    };
    write().inspect_err(|_| {
        fs::remove_file(&unfinished).ok();
    })
}

impl ReadBackend for Disk {
    fn location(&self) -> String {
        self.folder.display().to_string()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        let path = self.folder.join(kind.dirname());
        if kind == FileType::Config {
            let is_there = path.try_exists().map_err(|error| fault("look at", &path, error))?;
            return Ok(if is_there { vec![(Id::default(), 0)] } else { Vec::new() });
        }
        let mut found = Vec::new();
        list(&path, kind, &mut found).map_err(|error| fault("list", &path, error))?;
        Ok(found)
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        let path = self.path(kind, id);
        fs::read(&path).map(Bytes::from).map_err(|error| fault("read", &path, error))
    }

    fn read_partial(&self, kind: FileType, id: &Id, _: bool, offset: u32, length: u32) -> RusticResult<Bytes> {
        let path = self.path(kind, id);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        File::open(&path)
            .and_then(|file| file.read_exact_at(&mut bytes, offset.into()))
            .map_err(|error| fault("read", &path, error))?;
        Ok(bytes.into())
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        self.path(kind, id).display().to_string()
    }
}

impl WriteBackend for Disk {
    fn create(&self) -> RusticResult<()> {
        let mut folders: Vec<PathBuf> = ALL_FILE_TYPES.iter().map(|kind| self.folder.join(kind.dirname())).collect();
        folders.extend((0..=255_u8).map(|first| self.folder.join("data").join(format!("{first:02x}"))));
        for folder in folders {
            fs::create_dir_all(&folder).map_err(|error| fault("make the folder", &folder, error))?;
        }
        Ok(())
    }

    fn write_bytes(&self, kind: FileType, id: &Id, _: bool, content: BytesList) -> RusticResult<()> {
        let path = self.path(kind, id);
        write(&path, content.slice()).map_err(|error| fault("write", &path, error))
    }

    fn remove(&self, kind: FileType, id: &Id, _: bool) -> RusticResult<()> {
        let path = self.path(kind, id);
        match fs::remove_file(&path) {
            Ok(()) => {}
            // Another index or an earlier, killed run has seen to it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(fault("remove", &path, error)),
        }
        // Packs go after what refers to them, and that must hold after a loss of power too.
        match path.parent().filter(|_| kind != FileType::Pack) {
            Some(folder) => File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(|error| fault("sync the folder of", &path, error)),
            None => Ok(()),
        }
    }
}

/// Files of keys, each with the hash of its content.
pub(super) fn doors(folder: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.join(FileType::Key.dirname()))? {
        let path = entry?.path();
        let is_unfinished = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED));
        if !is_unfinished {
            let hash = crate::hex(&Sha256::digest(fs::read(&path)?));
            found.push((path, hash));
        }
    }
    Ok(found)
}

/// Removes what killed writers left: files that never got their name. For who holds the place alone.
pub(super) fn remove_unfinished(folder: &Path) -> io::Result<u64> {
    let mut freed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            freed += remove_unfinished(&entry.path())?;
        } else if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
            freed += metadata.len();
        }
    }
    Ok(freed)
}

/// Bytes of all files.
pub(super) fn bytes(folder: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}
