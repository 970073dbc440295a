//! The disk of the databases: looked at every second, its ballast made and thrown off, its end predicted.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_api::DiskStatus;
use mainstay_decide::disk::{self, Action, History, Look, Warning};
use tokio::sync::mpsc;

use crate::clock::now;
use crate::effects::Effects;
use crate::journal::Journal;
use crate::message::Message;
use crate::store::NewEvent;

/// Pause between two looks: a disk that takes 500 MB/s needs more than a tenth of it for the last 64 MiB.
const LOOK: Duration = Duration::from_secs(1);
/// The file with which a drill fills the disk.
const FILLER: &str = "drill-filler";

/// Looks until the end.
pub(crate) async fn observe(effects: Arc<Effects>, journal: Journal, sender: mpsc::Sender<Message>) {
    let folder = effects.paths().state.join("pg");
    let mut history = History::default();
    let mut warning = Warning::default();
    loop {
        let path = folder.clone();
        let looked = tokio::task::spawn_blocking(move || look(&path)).await;
        if let Ok(Some(mut seen)) = looked {
            if !effects.mistakes.keeps_ballast() {
                act(&folder, &mut seen, &journal).await;
            }
            history.take(seen);
            let full_in = history.full_in();
            let is_new = warning.take(full_in, seen.at);
            if let Some(full_in) = full_in.filter(|_| is_new) {
                tell(&journal, full_in, &seen);
            }
            let status = DiskStatus {
                free_bytes: seen.free_bytes,
                total_bytes: seen.total_bytes,
                full_in_s: full_in.map(|full_in| full_in.as_secs()),
                ballast_bytes: seen.ballast_bytes,
            };
            if sender.send(Message::Disk(status)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn ballast(folder: &Path) -> PathBuf {
    folder.join("ballast")
}

/// `None`: the folder is not there yet, or cannot be looked at.
fn look(folder: &Path) -> Option<Look> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    let unit = stat.f_frsize;
    remove_orphan(&folder.join(FILLER));
    let ballast_bytes = std::fs::metadata(ballast(folder)).map_or(0, |metadata| metadata.len());
    let (free_bytes, total_bytes) = (stat.f_bavail.saturating_mul(unit), stat.f_blocks.saturating_mul(unit));
    Some(Look { at: now(), free_bytes, total_bytes, ballast_bytes })
}

/// A drill that was killed leaves the file with which it filled the disk: whoever made it holds its lock while he lives.
fn remove_orphan(path: &Path) {
    let Ok(file) = std::fs::File::open(path) else { return };
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
        std::fs::remove_file(path).ok();
    }
}

async fn act(folder: &Path, seen: &mut Look, journal: &Journal) {
    let path = ballast(folder);
    match disk::decide(seen) {
        Action::Nothing => {}
        Action::Throw => {
            let thrown = seen.ballast_bytes;
            if std::fs::remove_file(&path).is_ok() {
                seen.ballast_bytes = 0;
                seen.free_bytes = seen.free_bytes.saturating_add(thrown);
                let text = format!(
                    "the disk of the databases is full: {} MiB of ballast were thrown off, free space now",
                    thrown / 1024 / 1024
                );
                journal.emit(NewEvent::error(now(), "DiskBallastThrown", text).about("database").with("bytes", thrown));
            }
        }
        Action::Make(bytes) => {
            let made = tokio::task::spawn_blocking(move || make(&path, bytes)).await;
            // It is tried again at the next look; a disk that takes no ballast says so by being full.
            if matches!(made, Ok(Ok(()))) {
                seen.ballast_bytes = bytes;
                seen.free_bytes = seen.free_bytes.saturating_sub(bytes);
                let text = format!("{} MiB of ballast lie on the disk of the databases", bytes / 1024 / 1024);
                journal.emit(NewEvent::info(now(), "DiskBallastMade", text).about("database").with("bytes", bytes));
            }
        }
    }
}

/// Takes the room, not only the name: a sparse file would give nothing back.
fn make(path: &Path, bytes: u64) -> std::io::Result<()> {
    let aside = path.with_extension("new");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)?;
    file.sync_all()?;
    std::fs::rename(&aside, path)
}

fn tell(journal: &Journal, full_in: Duration, seen: &Look) {
    let minutes = full_in.as_secs() / 60;
    let text = format!(
        "the disk of the databases is full in {minutes} min if it goes on like this; {} MiB are free",
        seen.free_bytes / 1024 / 1024
    );
    journal.emit(NewEvent::warn(now(), "DiskFills", text).about("database").with("full_in_min", minutes));
}
