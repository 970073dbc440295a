//! Copies of the store: taken, proven and freed in a process of its own, and the runs that a person asks for. Which one
//! is due and which one goes is decided in `mainstay-decide`, how it is done in `mainstay-cache`.

pub(crate) mod watch;

use std::path::PathBuf;
use std::time::Duration;

use mainstay_cache::copies::{self, Alone, Wanted};
use mainstay_cache::replicas::PartError;
use mainstay_cache::{Copies, Copy, CopyError, Kind, Part, Settings, find_program};
use mainstay_decide::backups::JobRecord;
use mainstay_decide::replicas::{StoreRecord, child_of};
use mainstay_decide::store::{self, CopySeen};
use mainstay_stack::model::StoreCopies as Policy;
use mainstay_supervisor::durable;
use mainstay_supervisor::ids::user_for;
use mainstay_types::{ChildName, ChildRole, Member, Secret, full_text};

use crate::clock::now;
use crate::launch::Launch;
use crate::paths::Paths;
use crate::secrets::{self, Secrets};
use crate::settings::REDIS_COMMAND;

/// How long one waits for who takes or loads a copy now. **Basis**: a store of 1 GiB takes half a minute for both.
pub const PATIENCE: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(200);

/// Why copies cannot be taken, read or put back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing that is promised to last.
    #[error("the stack has no store that keeps its data: it has no [cache], or cache.persist is \"none\"")]
    NotConfigured,
    /// What to run with is not in the state folder.
    #[error("cannot read the stack file that is running: {0}")]
    Stack(String),
    /// No server program.
    #[error(transparent)]
    Missing(#[from] mainstay_cache::Missing),
    /// The record of the job.
    #[error("cannot write {path}")]
    Record {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is stored, and is not what the store held.
    #[error("copy {0} is not right: {1}")]
    NotRight(String, String),
    /// Another server of the store took over while this went on.
    #[error("{0} became the store meanwhile")]
    Moved(ChildName),
    /// Who serves is not known.
    #[error(transparent)]
    Part(#[from] PartError),
    /// The copies'.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The sealed secrets.
    #[error(transparent)]
    Secrets(#[from] secrets::Error),
}

/// A store and its copies, opened with what the state folder holds.
#[derive(Debug)]
pub struct Opened {
    /// The copies.
    pub copies: Copies,
    /// What the stack file says of them.
    pub policy: Policy,
    paths: Paths,
    /// The server that served when it was opened.
    member: Member,
}

fn file(paths: &Paths) -> PathBuf {
    paths.state.join("store-copy.json")
}

/// The last process that took one; `None`: there was none, or its record cannot be read.
fn record(paths: &Paths) -> Option<JobRecord> {
    serde_json::from_slice(&std::fs::read(file(paths)).ok()?).ok()
}

fn write(paths: &Paths, record: &JobRecord) -> Result<(), Error> {
    let path = file(paths);
    let text = serde_json::to_vec(record).map_err(std::io::Error::from);
    let written = text.and_then(|text| durable::replace(&path, &text, 0o644));
    written.map_err(|source| Error::Record { path, source })
}

/// What decisions go by.
pub(crate) fn to_decide(copy: &Copy) -> CopySeen {
    CopySeen {
        id: copy.id.clone(),
        at: copy.at,
        keys: copies::keys(&copy.before),
        bytes: copy.bytes,
        proof: copy.proof.as_ref().map(|proof| (proof.at, proof.faults.is_empty())),
        was_right: copy.right_since.is_some() || copy.is_proven(),
    }
}

/// The part of a server of the store; `None`: it is the only one, and always was.
pub(crate) fn part(record: Option<StoreRecord>, replicas: u32, member: Member, command: Secret) -> Option<Part> {
    if replicas == 0 && record.is_none() {
        return None;
    }
    let is_primary = record.unwrap_or_default().primary == member;
    Some(Part { member, is_primary, is_alone: replicas == 0, command })
}

impl Opened {
    /// Of a stack that was up.
    ///
    /// **Errors**: it has no store, or what opens it is not in the state folder.
    pub fn open(paths: &Paths) -> Result<Self, Error> {
        let launch = Launch::load(paths).map_err(|error| Error::Stack(error.to_string()))?;
        let text = std::fs::read_to_string(paths.stack_file()).map_err(|error| Error::Stack(error.to_string()))?;
        let parsed = mainstay_stack::parse(&text, "mainstay.toml", &launch.environment);
        let stack = parsed.map_err(|found| Error::Stack(found.to_string()))?.stack;
        let cache = stack.cache.filter(|cache| cache.store_persists).ok_or(Error::NotConfigured)?;
        let secrets = Secrets::open(&paths.state)?;
        let password = secrets.get("redis:store").cloned().ok_or(Error::NotConfigured)?;
        let policy = cache.copies.clone();
        let record = mainstay_cache::replicas::record(&paths.state)?;
        let command = secrets.get(REDIS_COMMAND).cloned().unwrap_or_else(|| Secret::new(""));
        let member = record.unwrap_or_default().primary;
        let settings = Settings {
            part: part(record, cache.store_replicas, member, command),
            kind: Kind::Store,
            state: paths.state.clone(),
            runtime: paths.runtime.clone(),
            // Copies go through the socket.
            port: 0,
            password,
            cache,
            user: user_for(ChildRole::Redis, stack.name.as_str(), "redis"),
        };
        let copies = Copies::new(settings, find_program()?, now);
        Ok(Self { copies, policy, paths: paths.clone(), member })
    }

    /// The same as it is now: another server may have become the store while this one waited.
    ///
    /// **Errors**: as of [`Opened::open`].
    pub fn again(&self) -> Result<Self, Error> {
        Self::open(&self.paths)
    }

    /// Whether the server that was opened is still the one that serves.
    ///
    /// **Errors**: another is.
    pub fn still_serves(&self) -> Result<(), Error> {
        let primary = mainstay_cache::replicas::record(&self.paths.state)?.unwrap_or_default().primary;
        if primary == self.member { Ok(()) } else { Err(Error::Moved(child_of(primary))) }
    }

    /// Whole copies, oldest first.
    ///
    /// **Errors**: they cannot be read.
    pub fn list(&self) -> Result<Vec<Copy>, Error> {
        Ok(copies::list(&self.paths.state)?)
    }

    /// Takes the place, or waits for who has it, and says so once.
    ///
    /// **Errors**: still taken when the time is over; the file system's.
    pub async fn alone(&self, patience: Duration, tell: impl Fn(&str)) -> Result<Alone, Error> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut is_told = false;
        loop {
            match self.copies.alone() {
                Err(CopyError::Busy(_)) if tokio::time::Instant::now() < deadline => {
                    if !std::mem::replace(&mut is_told, true) {
                        tell("waits for the process that takes or loads a copy of the store now");
                    }
                    tokio::time::sleep(LOOK).await;
                }
                alone => return Ok(alone?),
            }
        }
    }

    /// Takes a copy, loads it for a look, and frees what is kept no longer. The record says how it went.
    ///
    /// **Errors**: it could not be taken or loaded, or is not right.
    pub async fn take(&self, alone: &Alone, wanted: Wanted, tell: impl Fn(&str)) -> Result<Copy, Error> {
        // Counted as a failure until it is none: who is killed cannot say so.
        let attempts = record(&self.paths).map_or(0, |record| record.attempts).saturating_add(1);
        let begun = JobRecord { began: now(), ended: None, error: None, attempts };
        write(&self.paths, &begun)?;
        let done = self.take_and_prove(alone, wanted, tell).await;
        let (error, attempts) = match &done {
            Ok(_) => (None, 0),
            Err(error) => (Some(full_text(error)), attempts),
        };
        write(&self.paths, &JobRecord { ended: Some(now()), error, attempts, ..begun })?;
        done
    }

    /// The same for what a restore is about to replace: nothing is freed, least of all what is to be restored.
    ///
    /// **Errors**: it could not be taken or loaded, or is not right.
    pub async fn keep_present(&self, alone: &Alone, by: &Copy) -> Result<Copy, Error> {
        let copy = self.copies.take(alone, Wanted::Replaced { by: by.id.clone() }).await?;
        self.prove(alone, &copy).await
    }

    /// Loads a copy for a look.
    ///
    /// **Errors**: it could not be loaded, or is not right.
    pub async fn prove(&self, alone: &Alone, copy: &Copy) -> Result<Copy, Error> {
        let copy = self.copies.prove(alone, copy).await?;
        match copy.proof.as_ref().filter(|proof| !proof.faults.is_empty()) {
            Some(proof) => Err(Error::NotRight(copy.id.clone(), proof.faults.join("; "))),
            None => Ok(copy),
        }
    }

    async fn take_and_prove(&self, alone: &Alone, wanted: Wanted, tell: impl Fn(&str)) -> Result<Copy, Error> {
        // First, since a disk that is full of old ones would never get a new one.
        self.free(alone)?;
        let copy = self.copies.take(alone, wanted).await?;
        tell(&format!("copy {} is stored, and is loaded by a second server", copy.id));
        let proven = self.prove(alone, &copy).await;
        self.free(alone)?;
        proven
    }

    /// Removes what is kept no longer.
    fn free(&self, alone: &Alone) -> Result<(), Error> {
        let seen: Vec<CopySeen> = self.list()?.iter().map(to_decide).collect();
        Ok(self.copies.remove(alone, &store::goes(&self.policy, &seen, now()))?)
    }
}

/// Does what is due, for the control plane. `None`: another process has the place, and nothing was tried.
///
/// **Errors**: see [`Error`]; the record says so too.
pub async fn run(paths: &Paths) -> Result<Option<Copy>, Error> {
    let opened = Opened::open(paths)?;
    let alone = match opened.copies.alone() {
        Err(CopyError::Busy(_)) => return Ok(None),
        alone => alone?,
    };
    opened.take(&alone, Wanted::Due, |_| {}).await.map(Some)
}

#[cfg(test)]
mod tests {
    use mainstay_types::Timestamp;

    use super::*;

    /// Only what followed the new copy freed the old ones: a disk that was full of them got none any more.
    #[tokio::test]
    async fn what_is_kept_no_longer_goes_before_a_copy_is_taken() {
        let folder = tempfile::tempdir().expect("folder");
        let paths = Paths { state: folder.path().join("s"), runtime: folder.path().join("r") };
        let settings = Settings {
            part: None,
            kind: Kind::Store,
            state: paths.state.clone(),
            runtime: paths.runtime.clone(),
            port: 0,
            password: mainstay_types::Secret::new("x"),
            cache: mainstay_stack::parse(
                "stack = \"x\"\n[cache]\n",
                "mainstay.toml",
                &"development".parse().expect("a name"),
            )
            .expect("a stack")
            .stack
            .cache
            .expect("a cache"),
            user: None,
        };
        let policy = settings.cache.copies.clone();
        let opened =
            Opened { copies: Copies::new(settings, "/bin/false".into(), now), policy, paths, member: Member::A };
        let alone = opened.copies.alone().expect("alone");
        let at = |days: i64| Timestamp::from_millis(now().as_millis() - days * 86_400_000);
        for (id, days) in [("old", 90), ("new", 1)] {
            let note = serde_json::json!({
                "version": 1, "id": id, "at": at(days), "name": null, "is_scheduled": true, "bytes": 1, "sha256": "",
                "before": {}, "after": {}, "memory": 1, "took_ms": 1,
                "proof": {"at": at(days), "counts": {}, "took_ms": 1, "faults": []},
            });
            let place = copies::folder(&opened.paths.state);
            std::fs::write(place.join(format!("{id}.json")), note.to_string()).expect("written");
            std::fs::write(place.join(format!("{id}.rdb")), b"x").expect("written");
        }
        // Nobody listens: no copy is taken.
        let error = opened.take(&alone, Wanted::Due, |_| {}).await.expect_err("there is no store");
        assert!(matches!(error, Error::Copy(CopyError::Response(_))), "{error}");
        let left: Vec<String> = opened.list().expect("listed").into_iter().map(|copy| copy.id).collect();
        assert_eq!(left, ["new"]);
    }
}
