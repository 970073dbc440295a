//! Looks at the folder of the backups for the control plane: what is there is observed, not remembered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mainstay_backup::proof::Proof;
use mainstay_backup::repository::Backup;
use mainstay_backup::wal;
use mainstay_decide::backups::{ArchiveSeen, BackupsSeen, Job, JobRecord};
use mainstay_types::{Seen, Timestamp, full_text};
use tokio::sync::mpsc;

use super::{Backups, check, deploys, jobs, keeping, second};
use crate::clock::now;
use crate::effects::Effects;
use crate::message::Message;
use crate::observers::rest;
use crate::paths::Paths;

/// Pause between two looks at records and waiting WAL.
const LOOK: Duration = Duration::from_secs(2);
/// Pause between two looks through the archive: it may hold some ten thousand files.
const ARCHIVE_LOOK: Duration = Duration::from_secs(15);
/// The list of backups is read again at least this often.
const LIST_LOOK: Duration = Duration::from_secs(60);

/// Base backups with their proofs.
type List = Vec<(Backup, Option<Proof>)>;

#[derive(Default)]
struct Memory {
    opened: Option<Backups>,
    listed: Option<(Timestamp, [Option<SystemTime>; 2], List)>,
    archive: Option<(Timestamp, ArchiveSeen)>,
    jobs: BTreeMap<Job, JobRecord>,
}

/// Looks until the end.
pub(crate) async fn observe(effects: Arc<Effects>, sender: mpsc::Sender<Message>) {
    let since = now();
    let stack = effects.settings.launch.stack.to_string();
    let paths = effects.paths().clone();
    let mut looks = effects.looks.subscribe();
    let mut memory = Memory::default();
    loop {
        let begun = now();
        let (paths, stack) = (paths.clone(), stack.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let seen = memory.look(&paths, &stack, since);
            (memory, seen)
        });
        let (seen, proofs);
        (memory, (seen, proofs)) = match looking.await {
            Ok(looked) => looked,
            // A bug, or a file that the library of the repository cannot bear: told, and looked at again.
            Err(error) if error.is_panic() => (Memory::default(), (BackupsSeen::broken(since), Vec::new())),
            Err(_) => return,
        };
        let seen = Seen::Fact { value: seen, observed_at: begun };
        if sender.send(Message::Backups { seen, proofs }).await.is_err() {
            return;
        }
        rest(&mut looks, LOOK).await;
    }
}

impl Memory {
    fn look(&mut self, paths: &Paths, stack: &str, since: Timestamp) -> (BackupsSeen, Vec<Proof>) {
        let jobs: BTreeMap<Job, JobRecord> = [Job::Take, Job::Prove, Job::Prune]
            .into_iter()
            .filter_map(|job| jobs::record(paths, job).map(|record| (job, record)))
            .collect();
        let has_worked = jobs != self.jobs;
        let mut seen = BackupsSeen {
            since,
            list: Vec::new(),
            archive: ArchiveSeen::default(),
            jobs: jobs.clone(),
            trouble: None,
            unknown_deploys: None,
            copy: None,
        };
        seen.copy = second::record(paths);
        self.jobs = jobs;
        let mut proofs = Vec::new();
        if let Err(error) = self.look_inside(paths, stack, has_worked, &mut seen, &mut proofs) {
            // The keys may be others by now, the folder mounted again.
            *self = Self { jobs: std::mem::take(&mut self.jobs), ..Self::default() };
            seen.trouble = Some(format!("the backups cannot be read: {error}"));
        }
        (seen, proofs)
    }

    fn look_inside(
        &mut self,
        paths: &Paths,
        stack: &str,
        has_worked: bool,
        seen: &mut BackupsSeen,
        proofs: &mut Vec<Proof>,
    ) -> Result<(), String> {
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => Backups::open(paths, stack).map_err(|error| full_text(&error))?,
        };
        let opened = self.opened.insert(opened);
        let changed = |path: PathBuf| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        let marks = [changed(opened.place.repository().join("snapshots")), changed(opened.place.proofs())];
        let at = now();
        let is_known = |(then, known, _): &(Timestamp, [Option<SystemTime>; 2], List)| {
            !has_worked && *known == marks && at.saturating_since(*then) < LIST_LOOK
        };
        if !self.listed.as_ref().is_some_and(is_known) {
            let list = keeping::list(opened).map_err(|error| full_text(&error))?;
            self.listed = Some((at, marks, list));
        }
        let list: &[(Backup, Option<Proof>)] = self.listed.as_ref().map_or(&[], |(.., list)| list);
        seen.list = list.iter().map(keeping::to_decide).collect();
        proofs.extend(list.iter().filter_map(|(_, proof)| proof.clone()));
        let is_fresh = |(then, _): &(Timestamp, ArchiveSeen)| !has_worked && at.saturating_since(*then) < ARCHIVE_LOOK;
        if !self.archive.as_ref().is_some_and(is_fresh) {
            let archive =
                archive(opened, list).map_err(|error| format!("{}: {error}", opened.place.wal().display()))?;
            self.archive = Some((at, archive));
        }
        seen.archive = self.archive.as_ref().map(|(_, archive)| archive.clone()).unwrap_or_default();
        (seen.archive.waiting, seen.archive.waiting_since) = waiting(opened);
        seen.unknown_deploys = deploys::known(&opened.layout.state, opened.policy.keep.deploys).err();
        Ok(())
    }
}

fn archive(backups: &Backups, list: &[(Backup, Option<Proof>)]) -> std::io::Result<ArchiveSeen> {
    let mut seen = ArchiveSeen::default();
    // Only of the newest cluster: the others take part in nothing that goes on.
    let Some(system) = list.last().map(|(backup, _)| backup.label.system) else { return Ok(seen) };
    let awaited = check::awaited(backups);
    let found = wal::list(&backups.place.wal(), system)?;
    let all: Vec<Backup> = list.iter().map(|(backup, _)| backup.clone()).collect();
    let of_retention: Vec<_> = list.iter().map(keeping::to_decide).collect();
    seen.segments = found.segments.len() as u64;
    seen.bytes = found.bytes();
    seen.newest = found.newest();
    seen.gaps =
        check::gaps(backups, (&all, &of_retention), system, (&found, &awaited)).map_err(std::io::Error::other)?;
    Ok(seen)
}

/// Segments that the recorded primary has finished and not archived: how many, and since when the oldest waits.
fn waiting(backups: &Backups) -> (u64, Option<Timestamp>) {
    let Some(record) = backups.record() else { return (0, None) };
    let folder = backups.layout.data(record.primary).join("pg_wal/archive_status");
    let ready = |path: &Path| path.extension().is_some_and(|extension| extension == "ready");
    let (mut count, mut oldest) = (0, None);
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !ready(&entry.path()) {
            continue;
        }
        count += 1;
        let since = entry.metadata().and_then(|metadata| metadata.modified()).ok().map(moment);
        oldest = [oldest, since].into_iter().flatten().min();
    }
    (count, oldest)
}

fn moment(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
