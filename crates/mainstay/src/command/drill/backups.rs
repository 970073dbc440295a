//! Drills of the backups, with the stack's repository.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mainstay_backup::Place;
use mainstay_controller::backups::{self, Backups, jobs, past};
use mainstay_controller::paths::Paths;
use mainstay_decide::past::Moment;
use mainstay_drill::{Past, Repository};
use mainstay_types::{Timestamp, full_text};

/// The repository of a running stack.
pub(super) struct Own {
    paths: Paths,
    stack: String,
}

/// A restored copy.
pub(super) struct Opened(past::Open);

impl Own {
    pub(super) fn new(paths: &Paths, stack: &str) -> Self {
        Self { paths: paths.clone(), stack: stack.to_owned() }
    }

    fn open_as_it_is(&self, copy: Option<&Path>) -> Result<Backups, String> {
        let opened = Backups::open(&self.paths, &self.stack).map_err(|error| full_text(&error))?;
        match copy {
            None => Ok(opened),
            Some(folder) => opened.at(Place::new(folder)).map_err(|error| full_text(&error)),
        }
    }
}

impl Repository for Own {
    type Past = Opened;

    fn folder(&self) -> PathBuf {
        self.open_as_it_is(None).map(|opened| opened.place.folder().to_owned()).unwrap_or_default()
    }

    async fn ensure(&self) -> Result<bool, String> {
        let opened = self.open_as_it_is(None)?;
        if !backups::list(&opened).map_err(|error| full_text(&error))?.is_empty() {
            return Ok(false);
        }
        let taken = jobs::take(&self.paths, opened, Some("for a drill".to_owned()), |_| {}).await;
        taken.map(|_| true).map_err(|error| full_text(&error))
    }

    async fn finish_segment(&self) -> Result<(), String> {
        self.open_as_it_is(None)?.finish_segment().await.map_err(|error| full_text(&error))
    }

    fn archived_at(&self, segment: &str) -> Result<Option<Timestamp>, String> {
        self.open_as_it_is(None)?.archived_at(segment).map_err(|error| full_text(&error))
    }

    fn segments(&self) -> Result<Vec<String>, String> {
        self.open_as_it_is(None)?.segments_after_newest().map_err(|error| full_text(&error))
    }

    async fn open(&self, to: &str, copy: Option<&Path>) -> Result<Opened, String> {
        let opened = Arc::new(self.open_as_it_is(copy)?);
        let moment = Moment::parse(to).map_err(|error| error.to_string())?;
        let plan = past::plan(&opened, &self.paths, &moment, None).map_err(|error| full_text(&error))?;
        past::open(opened, &self.paths, &plan).await.map(Opened).map_err(|error| full_text(&error))
    }

    async fn check(&self, copy: &Path, read_data: bool) -> Result<Vec<String>, String> {
        let opened = self.open_as_it_is(Some(copy))?;
        let checking = tokio::task::spawn_blocking(move || backups::check(&opened, read_data));
        let checked = checking.await.map_err(|error| error.to_string())?;
        checked.map(|checked| checked.faults).map_err(|error| full_text(&error))
    }

    async fn clear(&self) {
        let Ok(opened) = self.open_as_it_is(None) else { return };
        // The process would wait for its writer at its end, too.
        while let Ok(false) = past::clear(&opened, &self.paths) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Past for Opened {
    fn port(&self) -> u16 {
        self.0.port
    }

    fn took(&self) -> (Duration, Duration) {
        (self.0.restored_in, self.0.replayed_in)
    }

    async fn close(self) {
        self.0.close().await;
    }
}
