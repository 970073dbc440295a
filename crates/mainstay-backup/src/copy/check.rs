//! Compares a copy with the folder that it is of, and with the hashes that names bear.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::{CopyError, Folders, Kind, Local, Marked, at, folder, now};
use crate::objects::{Got, Object, Put, Store, StoreError, Upload};
use crate::place::Place;
use crate::repository::Repository;

/// Objects at once.
const AT_ONCE: usize = 4;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Objects of the copy.
    pub files: u64,
    /// Their bytes. **Unit**: bytes.
    pub bytes: u64,
    /// Of these, whose every byte was read and has the hash that it should have.
    pub read: u64,
    /// Files of the folder that are so new that they may still be on their way.
    pub on_their_way: u64,
    /// Objects that the folder does not have, and that were compared with their own names alone.
    pub extra: u64,
    /// What is missing or damaged, one line each.
    pub faults: Vec<String>,
    /// Of these, what was put again from the folder.
    pub mended: u64,
}

/// How it is compared.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Every byte is fetched and compared.
    pub reads_data: bool,
    /// What is damaged or missing is put again from the folder.
    pub mends: bool,
    /// Files that are younger may be on their way.
    pub patience: Duration,
}

/// Compares.
///
/// **Errors**: see [`CopyError`]: nothing could be said. What is wrong is in the answer.
pub async fn check(store: Arc<Store>, place: &Place, repository: &Repository, how: How) -> Result<Compared, CopyError> {
    let _held = place.hold()?;
    let root = place.folder();
    let mut folders = Folders::default();
    let mut here = folders.base(root).map_err(at("list", root))?;
    here.extend(folders.wal(root).map_err(at("list", root))?);
    // A snapshot without its mark is of a backup that is being taken, or was cut off.
    let marked = Marked::of(repository)?;
    here.retain(|name, _| Kind::of(name) != Some(Kind::Snapshot) || marked.has(name));
    // After the folder: what comes while it is looked through is in neither.
    let there = store.list().await?;
    let mut compared = Compared::default();
    let mut bad: Vec<String> = Vec::new();
    for (name, local) in &here {
        match there.get(name) {
            None if now().saturating_since(local.written) < how.patience => compared.on_their_way += 1,
            None => {
                compared.faults.push(format!("missing in the copy: {name}"));
                bad.push(name.clone());
            }
            Some(object) if object.bytes != local.bytes && Kind::of(name).is_some_and(Kind::is_fixed) => {
                let (has, wanted) = (object.bytes, local.bytes);
                compared.faults.push(format!("damaged in the copy: {name} has {has} bytes, the folder's {wanted}"));
                bad.push(name.clone());
            }
            Some(_) => {}
        }
    }
    compared.extra = there.keys().filter(|name| !here.contains_key(*name)).count() as u64;
    compared.files = there.len() as u64;
    compared.bytes = there.values().map(|object| object.bytes).sum();
    if how.reads_data {
        for (name, why) in read(&store, place, &there, &here, &mut compared).await? {
            if !bad.contains(&name) {
                compared.faults.push(format!("damaged in the copy: {name} {why}"));
                bad.push(name);
            }
        }
    }
    if how.mends {
        for name in bad {
            let Some(local) = here.get(&name) else { continue };
            compared.mended += u64::from(mend(&store, place, &name, local).await?);
        }
    }
    Ok(compared)
}

/// Fetches everything; answers what is not as it should be, and why.
async fn read(
    store: &Arc<Store>,
    place: &Place,
    there: &BTreeMap<String, Object>,
    here: &BTreeMap<String, Local>,
    compared: &mut Compared,
) -> Result<Vec<(String, String)>, CopyError> {
    let mut bad = Vec::new();
    let mut running = JoinSet::new();
    let mut names = there.keys().filter(|name| Kind::of(name).is_some());
    loop {
        while running.len() < AT_ONCE {
            let Some(name) = names.next() else { break };
            let (store, name) = (Arc::clone(store), name.clone());
            running.spawn(async move {
                let got = store.get(&name, &mut io::sink()).await;
                (name, got)
            });
        }
        let Some(done) = running.join_next().await else { return Ok(bad) };
        let (name, got) = done.map_err(|error| at("read", place.folder())(io::Error::other(error)))?;
        let got = match got {
            Ok(got) => got,
            // Retention let it go meanwhile.
            Err(StoreError::Missing(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        match why_not(place, &name, here.contains_key(&name), &got)? {
            None => compared.read += 1,
            Some(why) => bad.push((name, why)),
        }
    }
}

/// What is wrong with an object that was fetched.
fn why_not(place: &Place, name: &str, is_here: bool, got: &Got) -> Result<Option<String>, CopyError> {
    let differs = |wanted: &str| (got.hash != wanted).then(|| format!("has the hash {}, not {wanted}", got.hash));
    if let Some(hash) = folder::hash_of(name) {
        return Ok(differs(hash));
    }
    if !is_here {
        return Ok(None);
    }
    let path = place.folder().join(name);
    match std::fs::read(&path) {
        // A file that changes may be newer than what was put of it.
        Ok(content) => {
            let is_fixed = Kind::of(name).is_some_and(Kind::is_fixed);
            let is_newer = !is_fixed && content.len() as u64 != got.bytes;
            Ok(if is_newer { None } else { differs(&crate::hex(&Sha256::digest(content))) })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", &path)(error)),
    }
}

async fn mend(store: &Store, place: &Place, name: &str, local: &Local) -> Result<bool, CopyError> {
    let path = place.folder().join(name);
    let content = std::fs::read(&path).map_err(at("read", &path))?;
    let hash = crate::hex(&Sha256::digest(&content));
    if folder::hash_of(name).is_some_and(|wanted| wanted != hash) {
        // The folder's own is damaged: nothing better can be put.
        return Ok(false);
    }
    let upload = Upload { name, path: &path, hash: &hash, written: local.written, only_new: false };
    Ok(store.put(&upload).await? == Put::Stored)
}
