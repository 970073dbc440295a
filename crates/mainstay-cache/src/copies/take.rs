//! Takes a copy: the running server writes it from a fork, and serves on.

use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use mainstay_types::Timestamp;

use super::{Alone, Copies, Copy, CopyError, Counts, VERSION, at, counts, digest, has_space};
use crate::resp::{Door, ResponseError};

/// The fork of a server of many GB holds it up for so long at the very most.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Longest wait for a file to be written. **Basis**: 10 MB/s of a disk that all others use too, for 16 GiB.
const SAVED_WITHIN: Duration = Duration::from_mins(30);
/// Pause between two looks at a server that saves.
const LOOK: Duration = Duration::from_millis(50);

/// Why one is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It is due; nobody asked.
    Due,
    /// Somebody asked, and may have said what for.
    Asked {
        /// What it is for.
        name: Option<String>,
    },
    /// A restore is about to replace what the store holds.
    Replaced {
        /// By the copy of this name.
        by: String,
    },
}

/// What the server said around its fork.
struct Saved {
    before: Counts,
    after: Counts,
    memory: u64,
}

impl Copies {
    /// Takes one. It is whole on disk when this returns, and not proven yet.
    ///
    /// **Errors**: the store does not answer or cannot save; the file system's. Nothing is left then.
    pub async fn take(&self, _alone: &Alone, wanted: Wanted) -> Result<Copy, CopyError> {
        let (moment, begun) = ((self.now)(), Instant::now());
        let id = self.free_name(moment);
        let dump = self.settings.dir().join("dump.rdb");
        let saved = self.save(&dump).await?;
        let part = self.folder.join(format!("{id}.rdb.part"));
        // By its name, not by what it leads to: the folder that it comes from is the server's own.
        std::fs::rename(&dump, &part).map_err(at("move", &dump))?;
        let (bytes, sha256) = own(&part).map_err(at("keep", &part))?;
        let (is_scheduled, is_replaced) = (wanted == Wanted::Due, matches!(wanted, Wanted::Replaced { .. }));
        let name = match wanted {
            Wanted::Due => None,
            Wanted::Asked { name } => name,
            Wanted::Replaced { by } => Some(format!("before the restore of {by}")),
        };
        let copy = Copy {
            version: VERSION,
            id: id.clone(),
            at: moment,
            name,
            is_scheduled,
            is_replaced,
            bytes,
            sha256,
            before: saved.before,
            after: saved.after,
            memory: saved.memory,
            took_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            proof: None,
            right_since: None,
        };
        self.write_note(&copy)?;
        let file = self.file(&id);
        let placed = std::fs::rename(&part, &file).and_then(|()| std::fs::File::open(&self.folder)?.sync_all());
        placed.map_err(at("put in place", &file))?;
        Ok(copy)
    }

    /// The moment as a name: `20261126T200516`. A second of two copies gets a letter.
    fn free_name(&self, moment: Timestamp) -> String {
        let text: String = moment.to_string().chars().filter(|c| c.is_ascii_digit() || *c == 'T').take(15).collect();
        let names = std::iter::once(text.clone()).chain(('b'..='z').map(|letter| format!("{text}{letter}")));
        let mut free = names.filter(|name| !self.file(name).exists());
        free.next().unwrap_or(text)
    }

    async fn save(&self, dump: &Path) -> Result<Saved, CopyError> {
        let door = Door { within: ANSWER_WITHIN, ..self.settings.door() };
        let deadline = Instant::now() + SAVED_WITHIN;
        let saved = loop {
            wait_for_children(&door, deadline).await?;
            // What the data take in memory; in the file it is less.
            let memory = door.ask(&["INFO", "memory"]).await?;
            has_space(&self.settings.dir(), number(&memory, "used_memory_dataset").unwrap_or(0))?;
            match std::fs::remove_file(dump) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("remove", dump)(error)),
                Ok(()) | Err(_) => {}
            }
            // In one piece: what INFO counts on either side of the fork is what the fork writes.
            let asked: [&[&str]; 4] = [&["INFO", "memory"], &["INFO", "keyspace"], &["BGSAVE"], &["INFO", "keyspace"]];
            let mut answers = door.ask_all(&asked).await?.into_iter();
            let mut next = || answers.next().unwrap_or_else(|| Ok(String::new()));
            let (memory, before, begun, after) = (next()?, next()?, next(), next()?);
            match begun {
                Ok(_) => {
                    let memory = number(&memory, "used_memory").unwrap_or(0);
                    break Saved { before: counts(&before), after: counts(&after), memory };
                }
                // Its own file, or somebody else's BGSAVE, came first.
                Err(ResponseError::Refused { message, .. })
                    if is_other_child(&message) && Instant::now() < deadline =>
                {
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => return Err(CopyError::NotSaved(error.to_string())),
            }
        };
        loop {
            let info = door.ask(&["INFO", "persistence"]).await?;
            if number(&info, "rdb_bgsave_in_progress") == Some(0) {
                break;
            }
            if Instant::now() >= deadline {
                return Err(CopyError::NotSaved(format!("it still writes after {} s", SAVED_WITHIN.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
        // It is renamed into place when it is whole and synced, and at no other time.
        if !dump.is_file() {
            let why = "BGSAVE failed; `mainstay logs store` says why, often a full disk or too little memory to fork";
            return Err(CopyError::NotSaved(why.to_owned()));
        }
        Ok(saved)
    }
}

/// Redis has one child at a time: it may be writing its append-only file anew.
async fn wait_for_children(door: &Door, deadline: Instant) -> Result<(), CopyError> {
    loop {
        let info = door.ask(&["INFO", "persistence"]).await?;
        let busy = ["rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled", "loading"];
        let Some(what) = busy.into_iter().find(|field| number(&info, field) == Some(1)) else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(CopyError::NotSaved(format!("it is busy ({what}) for {} s", SAVED_WITHIN.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn is_other_child(message: &str) -> bool {
    message.contains("in progress") || message.contains("child process")
}

/// A field of INFO.
pub(crate) fn number(info: &str, name: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim_end().parse().ok()
}

/// Makes a file of the server's our own, durable, and tells its size and hash.
fn own(path: &Path) -> io::Result<(u64, String)> {
    let flags = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    rustix::fs::fchown(&file, Some(user), Some(group))?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.sync_all()?;
    digest(&mut file, |_| Ok(()))
}
