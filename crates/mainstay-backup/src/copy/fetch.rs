//! The whole copy comes back into a folder, which then is the place that was copied.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use mainstay_types::{Bytes, Timestamp};
use tokio::task::JoinSet;

use super::{CopyError, Kind, at, folder};
use crate::holder;
use crate::objects::{CLAIM, Object, Store, StoreError};
use crate::place::PlaceError;

/// Objects at once: on a long way most of the time of a small one is waiting.
const AT_ONCE: usize = 8;
/// Besides the objects this much is to stay free.
const SPARE: u64 = 64 << 20;

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetching {
    /// Objects that are here.
    pub files: u64,
    /// Their bytes. **Unit**: bytes.
    pub bytes: u64,
    /// All objects.
    pub all_files: u64,
    /// Their bytes. **Unit**: bytes.
    pub all_bytes: u64,
}

/// What was fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Objects that came.
    pub files: u64,
    /// Their bytes. **Unit**: bytes.
    pub bytes: u64,
    /// Objects that were here from an earlier, interrupted run.
    pub had: u64,
    /// Objects at the prefix that are no part of a copy, and were left there.
    pub foreign: u64,
}

/// Fetches everything into a folder. What an interrupted run left is used. Each file gets its name when it is whole:
/// one that bears its hash in its name was compared with it, the others open only with the key that sealed them.
///
/// **Errors**: see [`CopyError`]; above all there is too little space, or another fetches into the folder, and then
/// nothing was fetched.
pub async fn fetch(store: Arc<Store>, into: &Path, tell: &mut dyn FnMut(Fetching)) -> Result<Fetched, CopyError> {
    let listed = store.list().await?;
    if !listed.contains_key("mainstay.json") {
        return Err(CopyError::NoCopy(store.address().to_string()));
    }
    fs::create_dir_all(into).map_err(at("make the folder", into))?;
    let folder = File::open(into).map_err(at("open", into))?;
    // Held to the end: two that fetch would take each other's unfinished files.
    if rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        return Err(PlaceError::Busy { folder: into.to_owned(), by: holder::of(&folder) }.into());
    }
    let mut fetched = Fetched::default();
    let mut so_far = Fetching::default();
    let mut wanted: Vec<(Kind, String, Object)> = Vec::new();
    for (name, object) in listed {
        let Some(kind) = Kind::of(&name) else {
            fetched.foreign += u64::from(name != CLAIM);
            continue;
        };
        so_far.all_files += 1;
        so_far.all_bytes += object.bytes;
        if fs::metadata(into.join(&name)).is_ok_and(|there| there.len() == object.bytes) {
            fetched.had += 1;
            so_far.files += 1;
            so_far.bytes += object.bytes;
        } else {
            wanted.push((kind, name, object));
        }
    }
    let missing = so_far.all_bytes - so_far.bytes;
    has_space(into, missing)?;
    tell(so_far);
    // The note whose it is comes last: a folder with it is whole.
    wanted.sort_by_key(|(kind, ..)| *kind == Kind::Name);
    let mut queue: VecDeque<(Kind, String, Object)> = wanted.into();
    let mut running: JoinSet<Result<u64, CopyError>> = JoinSet::new();
    loop {
        while running.len() < AT_ONCE {
            let Some((kind, ..)) = queue.front() else { break };
            if *kind == Kind::Name {
                if !running.is_empty() {
                    break;
                }
                // A loss of power must not leave the note without what it speaks for.
                rustix::fs::sync();
            }
            let Some((_, name, object)) = queue.pop_front() else { break };
            let (store, into) = (Arc::clone(&store), into.to_owned());
            running.spawn(async move { one(&store, into, name, object).await });
        }
        let Some(done) = running.join_next().await else { break };
        let bytes = done.map_err(|error| at("fetch into", into)(io::Error::other(error)))??;
        fetched.files += 1;
        fetched.bytes += bytes;
        so_far.files += 1;
        so_far.bytes += bytes;
        tell(so_far);
    }
    rustix::fs::sync();
    Ok(fetched)
}

fn has_space(into: &Path, missing: u64) -> Result<(), CopyError> {
    let stat = rustix::fs::statvfs(into).map_err(|error| at("look at", into)(error.into()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < missing.saturating_add(SPARE) {
        let (free, wanted, folder) = (Bytes(free), Bytes(missing), into.to_owned());
        return Err(CopyError::NoSpace { free, wanted, folder });
    }
    Ok(())
}

pub(super) async fn one(store: &Store, into: PathBuf, name: String, object: Object) -> Result<u64, CopyError> {
    let path = into.join(&name);
    let parent = path.parent().unwrap_or(&into).to_owned();
    fs::create_dir_all(&parent).map_err(at("make the folder", &parent))?;
    // A name that is none of ours: a run that is killed leaves what nobody takes for a file.
    let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unfinished = parent.join(format!(".tmp-fetch-{file_name}"));
    let opened = File::options().create(true).truncate(true).write(true).mode(0o600).open(&unfinished);
    let mut sink = BufWriter::with_capacity(1 << 18, opened.map_err(at("write", &unfinished))?);
    let got = match store.get(&name, &mut sink).await {
        Err(StoreError::Sink(source)) => return Err(at("write", &unfinished)(source)),
        got => got?,
    };
    sink.flush().map_err(at("write", &unfinished))?;
    let damaged = |why: String| CopyError::Damaged { name: name.clone(), why };
    if got.bytes != object.bytes {
        return Err(damaged(format!("it has {} bytes, the list says {}", got.bytes, object.bytes)));
    }
    if folder::hash_of(&name).is_some_and(|hash| hash != got.hash) {
        return Err(damaged(format!("its content has the hash {}", got.hash)));
    }
    // When WAL was archived is what a restore to a moment goes by.
    let written = got.written.unwrap_or(object.stored);
    let file = sink.get_ref();
    file.set_modified(UNIX_EPOCH + since(written)).map_err(at("set the time of", &unfinished))?;
    fs::rename(&unfinished, &path).map_err(at("rename", &unfinished))?;
    Ok(got.bytes)
}

fn since(at: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(at.as_millis()).unwrap_or(0))
}
