//! Where a server that replays gets its WAL: from the folder of the archive, or from the store, by what it asks for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mainstay_backup::wal::supply::Supplied;
use mainstay_postgres::Layout;
use tokio::task::JoinHandle;

use super::{Backups, Error};
use crate::paths::Paths;

/// An archive for one server; it is supplied as long as this lives.
pub(super) struct Supply {
    archive: PathBuf,
    is_asked: bool,
    task: Option<JoinHandle<()>>,
}

impl Drop for Supply {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Supply {
    /// For a server in a folder of its own, which goes with it.
    ///
    /// **Errors**: the file system's.
    pub(super) fn begin(backups: &Backups, system: u64, layout: &Layout) -> Result<Self, Error> {
        let of = backups.place.wal();
        let Some(store) = &backups.store else { return Ok(Self { archive: of, is_asked: false, task: None }) };
        let archive = layout.state.join("archive");
        let owner = layout.user.as_ref().map(|user| (user.uid, user.gid));
        let supplied = Supplied { of, system, archive: archive.clone(), owner };
        supplied.make().map_err(|source| Error::Io { action: "make the archive", path: archive.clone(), source })?;
        let store = Arc::clone(store.store());
        let task = tokio::spawn(async move {
            // Who replays waits, and says after five minutes that nothing came.
            supplied.serve(&store, |_| {}).await;
        });
        Ok(Self { archive, is_asked: true, task: Some(task) })
    }

    /// What brings a file of WAL.
    pub(super) fn command(&self, paths: &Paths, key: &Path, system: u64) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let mut command = vec![
            text(&paths.program()),
            "wal-get".to_owned(),
            "--archive".to_owned(),
            text(&self.archive),
            "--key".to_owned(),
            text(key),
            "--system".to_owned(),
            system.to_string(),
        ];
        command.extend(self.is_asked.then(|| "--ask".to_owned()));
        command
    }
}
