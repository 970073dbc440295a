//! A repository's files in an object store. Packs, which are nearly all of it, are there and nowhere else; what is small
//! (index, snapshots, keys) lies in the folder too, so that a list of the backups asks nobody.
//!
//! Small files are written here first and removed there first: killed in between, the store lacks one, which the next
//! round of the copier puts again. It never has one more: an index that names packs which went since would lead a restore
//! astray.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};

use super::disk::Disk;
use crate::objects::{StoreError, Waiting};

/// Folder and store.
#[derive(Debug)]
pub(super) struct Remote {
    disk: Disk,
    store: Arc<Waiting>,
}

/// Packs go by the hundreds, after the index that named them: not each is asked for.
const PACKS_WITHIN: Duration = Duration::from_secs(10);
/// Where packs lie in the store.
pub(super) const PACKS: &str = "restic/data/";

impl Remote {
    pub(super) fn new(disk: Disk, store: Arc<Waiting>) -> Self {
        Self { disk, store }
    }

    /// Before what another's repository would not outlive.
    fn ours(&self, age: Duration, name: &str) -> RusticResult<()> {
        self.store.is_ours(age).map_err(|error| fault("change", name, error))
    }
}

fn name(kind: FileType, id: &Id) -> String {
    let (folder, id) = (kind.dirname(), id.to_hex());
    match kind {
        FileType::Config => format!("restic/{folder}"),
        FileType::Pack => format!("restic/{folder}/{}/{}", &id[..2], &*id),
        FileType::Index | FileType::Key | FileType::Snapshot => format!("restic/{folder}/{}", &*id),
    }
}

fn fault(action: &str, name: &str, source: StoreError) -> Box<RusticError> {
    RusticError::with_source(ErrorKind::Backend, format!("cannot {action} {name}"), source)
}

impl ReadBackend for Remote {
    fn location(&self) -> String {
        self.store.store().address().to_string()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        if kind != FileType::Pack {
            return self.disk.list_with_size(kind);
        }
        let listed = self.store.list_below(PACKS).map_err(|error| fault("list", PACKS, error))?;
        let mut found = Vec::with_capacity(listed.len());
        for (object, about) in listed {
            let file = object.rsplit('/').next().unwrap_or_default();
            let Some(id) = Id::parse_some(file, kind) else { continue };
            let length = u32::try_from(about.bytes).map_err(|_| {
                let text = format!("{object} has {} bytes, which no pack has", about.bytes);
                RusticError::new(ErrorKind::Backend, text)
            })?;
            found.push((id, length));
        }
        Ok(found)
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        if kind != FileType::Pack {
            return self.disk.read_full(kind, id);
        }
        let name = name(kind, id);
        self.store.get(&name).map(Bytes::from).map_err(|error| fault("read", &name, error))
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &Id,
        is_cacheable: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        if kind != FileType::Pack {
            return self.disk.read_partial(kind, id, is_cacheable, offset, length);
        }
        let name = name(kind, id);
        let part = self.store.get_part(&name, offset.into(), length.into());
        part.map(Bytes::from).map_err(|error| fault("read", &name, error))
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        name(kind, id)
    }
}

impl WriteBackend for Remote {
    fn create(&self) -> RusticResult<()> {
        self.disk.create()
    }

    fn write_bytes(&self, kind: FileType, id: &Id, is_cacheable: bool, content: BytesList) -> RusticResult<()> {
        let name = name(kind, id);
        if kind != FileType::Pack {
            self.ours(Duration::ZERO, &name)?;
            self.disk.write_bytes(kind, id, is_cacheable, content.clone())?;
        }
        // The name of a config says nothing of its content, and nobody changes it while backups are made.
        let hash = match kind {
            FileType::Config => crate::hash_of(content.slice()),
            FileType::Pack | FileType::Index | FileType::Key | FileType::Snapshot => id.to_hex().to_string(),
        };
        self.store.put_parts(&name, content.slice(), &hash).map_err(|error| fault("write", &name, error))
    }

    fn remove(&self, kind: FileType, id: &Id, is_cacheable: bool) -> RusticResult<()> {
        let name = name(kind, id);
        self.ours(if kind == FileType::Pack { PACKS_WITHIN } else { Duration::ZERO }, &name)?;
        // A key that may only add is a good one: then all is kept there, also what the index named.
        self.store.remove(&name).map(drop).map_err(|error| fault("remove", &name, error))?;
        if kind == FileType::Pack { Ok(()) } else { self.disk.remove(kind, id, is_cacheable) }
    }
}
