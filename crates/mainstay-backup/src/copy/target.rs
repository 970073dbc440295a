//! A place whose archive and base backups are in the store. The folder beside it holds what is small, links in the place
//! of archived WAL, and what waits to be sent.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::{CopyError, Files, Folders, Kind, at, now};
use crate::objects::{Asked, CLAIMED_WITHIN, Object, Put, Store, Upload};
use crate::place::Place;
use crate::wal::spool::{self, Spooled};

/// Sends archived WAL to the store of a place.
#[derive(Debug)]
pub struct Sender {
    store: Store,
    place: Place,
    holder: String,
    asked: Asked,
}

impl Sender {
    /// For who adds to the store.
    pub fn new(store: Store, place: Place, holder: String) -> Self {
        Self { store, place, holder, asked: Asked::default() }
    }

    /// Sends what waits in the spool, the oldest first. Answers how many files went.
    ///
    /// **Errors**: see [`CopyError`]. What did not go waits on.
    pub async fn send(&mut self) -> Result<u64, CopyError> {
        let archive = self.place.wal();
        let mut sent = 0;
        for spooled in spool::spooled(&archive).map_err(at("list", &archive))? {
            self.asked.again(&self.store, &self.holder, CLAIMED_WITHIN).await?;
            send_one(&self.store, &spooled).await?;
            sent += 1;
        }
        Ok(sent)
    }
}

async fn send_one(store: &Store, spooled: &Spooled) -> Result<(), CopyError> {
    let Spooled { path, name, at: written, .. } = spooled;
    // A segment has 16 MiB, and is compressed.
    let hash = crate::hex(&Sha256::digest(fs::read(path).map_err(at("read", path))?));
    let upload = Upload { name, path, hash: &hash, written: *written, only_new: true };
    match store.put(&upload).await? {
        // One of this name is there by an attempt whose answer was lost: the name bears the hash of what it holds.
        Put::Stored | Put::AlreadyThere => {}
    }
    spool::arrived(spooled).map_err(at("take from the spool", path))
}

/// Removes links whose objects are gone: what nobody has is not to look archived. Answers what is lost.
pub(super) fn drop_lost(
    place: &Place,
    wal: &Files,
    there: &std::collections::BTreeMap<String, Object>,
) -> Result<Vec<String>, CopyError> {
    let mut lost = Vec::new();
    for name in wal.keys().filter(|name| !there.contains_key(*name)) {
        let path = place.folder().join(name);
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) {
            fs::remove_file(&path).map_err(at("remove", &path))?;
            lost.push(name.clone());
        }
    }
    Ok(lost)
}

/// Makes the folder beside a store that is a place already: what is small is fetched, a link stands for each file of WAL.
///
/// **Errors**: see [`CopyError`]. Interrupted, it is done again: the note whose it is comes last.
pub async fn gather(store: &Store, into: &Path) -> Result<(), CopyError> {
    let listed = store.list().await?;
    if !listed.contains_key("mainstay.json") {
        return Err(CopyError::NoCopy(store.address().to_string()));
    }
    fs::create_dir_all(into).map_err(at("make the folder", into))?;
    let mut last = None;
    for (name, object) in listed {
        let path = into.join(&name);
        match Kind::of(&name) {
            None | Some(Kind::Pack) => {}
            Some(Kind::Wal) if !spool::is_history(&path) => {
                spool::put_link(&path, object.bytes, object.stored).map_err(at("make the link", &path))?;
            }
            Some(Kind::Name) => last = Some((name, object)),
            Some(Kind::Opening | Kind::Wal | Kind::Index | Kind::Snapshot | Kind::Note) => {
                super::fetch::one(store, into.to_owned(), name, object).await?;
            }
        }
    }
    for folder in ["wal", "restic/data", "restic/index", "restic/snapshots"] {
        let folder = into.join(folder);
        fs::create_dir_all(&folder).map_err(at("make the folder", &folder))?;
    }
    rustix::fs::sync();
    if let Some((name, object)) = last {
        super::fetch::one(store, into.to_owned(), name, object).await?;
        File::open(into).and_then(|folder| folder.sync_all()).map_err(at("sync", into))?;
    }
    Ok(())
}

/// Compares what is small with the store, byte by byte when `reads_data`, and says which archived WAL it does not have.
/// Packs are the repository's own to check, and what WAL holds is for who has its key. Small files that are younger than
/// `patience` may be on their way.
///
/// **Errors**: see [`CopyError`]: nothing could be said.
pub async fn compare(
    store: &Store,
    place: &Place,
    reads_data: bool,
    patience: Duration,
) -> Result<Vec<String>, CopyError> {
    let root = place.folder();
    let mut folders = Folders::default();
    let base = folders.base(root).map_err(at("list", root))?;
    let wal = folders.wal(root).map_err(at("list", root))?;
    let there = store.list().await?;
    let mut faults = Vec::new();
    for (name, local) in base.iter().chain(&wal) {
        let Some(kind) = Kind::of(name) else { continue };
        if !there.contains_key(name) {
            let is_coming = kind != Kind::Wal && now().saturating_since(local.written) < patience;
            // Removed by retention meanwhile.
            if !is_coming && fs::symlink_metadata(root.join(name)).is_ok() {
                faults.push(format!("missing in the store: {name}"));
            }
            continue;
        }
        if !reads_data || kind == Kind::Wal {
            continue;
        }
        let path = root.join(name);
        let here = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            here => here.map_err(at("read", &path))?,
        };
        // Notes are written anew, and sent with the next round.
        if store.get_small(name).await?.is_some_and(|content| content != here) && kind != Kind::Note {
            faults.push(format!("damaged in the store: {name}"));
        }
    }
    Ok(faults)
}
