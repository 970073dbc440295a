//! A job of the backups and its record: when it began is on disk before anything is done, how it ended when it is
//! over. A record without an end whose process is gone was killed.

use std::path::PathBuf;
use std::sync::Arc;

use mainstay_backup::proof::Proof;
use mainstay_backup::repository::Backup;
pub use mainstay_decide::backups::Job;
use mainstay_decide::backups::JobRecord;
use mainstay_supervisor::durable;
use mainstay_types::full_text;

use super::base::Wanted;
use super::{Backups, Error, Patience, Progress, Pruned, base, keeping, prove, second};
use crate::clock::now;
use crate::paths::Paths;

/// What a job left.
#[derive(Debug)]
pub enum Done {
    /// A base backup.
    Taken(Box<Backup>),
    /// A restore, whatever it found.
    Proven(Box<Proof>),
    /// Space.
    Pruned(Pruned),
}

fn file(paths: &Paths, job: Job) -> PathBuf {
    paths.state.join(format!("backup-{}.json", job.name()))
}

/// The last job of a kind; `None`: there was none, or its record cannot be read.
pub(super) fn record(paths: &Paths, job: Job) -> Option<JobRecord> {
    serde_json::from_slice(&std::fs::read(file(paths, job)).ok()?).ok()
}

fn write(paths: &Paths, job: Job, record: &JobRecord) -> Result<(), Error> {
    let path = file(paths, job);
    let written =
        serde_json::to_vec(record).map_err(std::io::Error::from).and_then(|text| durable::replace(&path, &text, 0o644));
    written.map_err(|source| Error::Io { action: "write", path, source })
}

/// Does what is due.
///
/// **Errors**: see [`Error`]; the record says so too. One that found the place busy leaves no record, and does not wait:
/// the control plane has other jobs, and comes again.
pub async fn run(paths: &Paths, stack: &str, job: Job) -> Result<Done, Error> {
    let backups = Backups::open(paths, stack)?.patient(Patience::none());
    match job {
        Job::Take => {
            let wanted = Wanted { name: None, is_scheduled: true };
            take_as(paths, backups, wanted, |_| {}).await.map(|backup| Done::Taken(Box::new(backup)))
        }
        Job::Prove => {
            // A backup is listed before its source is counted: proven in between, nothing of it would be compared.
            drop(backups.take_place().await?);
            prove(paths, backups, None, |_| {}).await.map(|proof| Done::Proven(Box::new(proof)))
        }
        Job::Prune => prune(paths, backups).await.map(Done::Pruned),
    }
}

/// Takes a base backup because a person asks.
///
/// **Errors**: see [`Error`].
pub async fn take(
    paths: &Paths,
    backups: Backups,
    name: Option<String>,
    tell: impl Fn(Progress),
) -> Result<Backup, Error> {
    take_as(paths, backups, Wanted { name, is_scheduled: false }, tell).await
}

async fn take_as(paths: &Paths, backups: Backups, wanted: Wanted, tell: impl Fn(Progress)) -> Result<Backup, Error> {
    let alone = backups.take_place().await?;
    recorded(paths, Job::Take, Box::pin(base::take(backups, alone, wanted, tell))).await
}

/// Restores a base backup and compares it. Without a name it is the newest that has no proof, else the newest.
///
/// **Errors**: see [`Error`]: nothing could be said of it. What is wrong with the backup is in the proof.
pub async fn prove(paths: &Paths, backups: Backups, id: Option<&str>, tell: impl Fn(&str)) -> Result<Proof, Error> {
    // Before the record: who waits, or asks for what is not there, has not failed at a proof.
    let held = backups.hold().await?;
    let backup = prove::choose(&backups, id)?;
    recorded(paths, Job::Prove, prove::prove(Arc::new(backups), paths, (backup, held), tell)).await
}

/// Frees what is kept no longer.
///
/// **Errors**: see [`Error`].
pub async fn prune(paths: &Paths, backups: Backups) -> Result<Pruned, Error> {
    let alone = backups.take_place().await?;
    let deleting = backups.hold_to_delete().await?;
    let (retention, place) = (second::Retention::begins(&backups), backups.place.clone());
    let pruning = async move {
        let pruning = tokio::task::spawn_blocking(move || keeping::prune(&backups, &deleting));
        pruning.await.map_err(|error| Error::NoServer(error.to_string()))?
    };
    let pruned = recorded(paths, Job::Prune, pruning).await;
    // Also after a failure: what went until then went by retention.
    let noted = retention.ends(paths, &place);
    drop(alone);
    let pruned = pruned?;
    noted.map(|()| pruned)
}

async fn recorded<T>(paths: &Paths, job: Job, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    // Counted as a failure until it is none: who is killed cannot say so.
    let attempts = record(paths, job).map_or(0, |record| record.attempts).saturating_add(1);
    let begun = JobRecord { began: now(), ended: None, error: None, attempts };
    write(paths, job, &begun)?;
    let done = work.await;
    let (error, attempts) = match &done {
        Ok(_) => (None, 0),
        Err(error) => (Some(full_text(error)), attempts),
    };
    write(paths, job, &JobRecord { ended: Some(now()), error, attempts, ..begun })?;
    done
}
