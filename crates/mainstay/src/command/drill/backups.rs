//! Drills of the backups, with the stack's repository.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_backup::Place;
use mainstay_backup::copy::CopyError;
use mainstay_controller::backups::{self, Backups, card, jobs, past, second};
use mainstay_controller::paths::Paths;
use mainstay_decide::past::Moment;
use mainstay_drill::{Fetched, Past, Repository, Unopened};
use mainstay_types::{Timestamp, full_text};

/// The repository of a running stack.
pub(super) struct Own {
    paths: Paths,
    stack: String,
}

/// A restored copy.
pub(super) struct Opened {
    open: past::Open,
    /// The machine that it was opened on, where that is not this one.
    machine: Option<Machine>,
}

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
        past::open(opened, &self.paths, &plan)
            .await
            .map(|open| Opened { open, machine: None })
            .map_err(|error| full_text(&error))
    }

    fn copied_until(&self) -> Result<Option<Timestamp>, String> {
        let standing = second::standing(&self.paths).map_err(|error| full_text(&error))?;
        Ok(standing.and_then(|(_, seen)| seen).and_then(|seen| seen.up_to()))
    }

    async fn open_copy(&self, without: Option<&str>) -> Result<(Opened, Fetched), Unopened> {
        let machine = Machine::new(&self.paths).map_err(|error| Unopened::Here(format!("no folder: {error}")))?;
        let opened = machine.restore(&self.stack, without).await;
        match opened {
            Ok((open, fetched)) => Ok((Opened { open, machine: Some(machine) }, fetched)),
            Err(error) => {
                machine.remove();
                let text = full_text(&error);
                Err(if is_of_this_machine(&error) { Unopened::Here(text) } else { Unopened::Copy(text) })
            }
        }
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
        let machine = Machine::of(&self.paths);
        while let Ok(false) = past::clear(&opened, &machine.paths()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        machine.remove();
    }
}

impl Past for Opened {
    fn port(&self) -> u16 {
        self.open.port
    }

    fn took(&self) -> (Duration, Duration) {
        (self.open.restored_in, self.open.replayed_in)
    }

    async fn close(self) {
        self.open.close().await;
        if let Some(machine) = self.machine {
            machine.remove();
        }
    }
}

/// Whether it says nothing of a copy.
fn is_of_this_machine(error: &backups::Error) -> bool {
    matches!(
        error,
        backups::Error::NoSpace { .. } | backups::Error::Io { .. } | backups::Error::Copy(CopyError::NoSpace { .. })
    )
}

/// A machine that has nothing: a folder in the state folder.
struct Machine {
    of: Paths,
    folder: PathBuf,
}

impl Machine {
    fn of(paths: &Paths) -> Self {
        Self { of: paths.clone(), folder: paths.state.join("drill-machine") }
    }

    /// With nothing in it but the program, as on a machine where it was installed.
    fn new(of: &Paths) -> std::io::Result<Self> {
        let machine = Self::of(of);
        // Of a drill that was killed; a server that it left is ended by whoever opens the next one there.
        match std::fs::remove_dir_all(machine.repository()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let paths = machine.paths();
        for folder in [machine.folder.clone(), paths.state.join("bin"), paths.runtime.clone()] {
            std::fs::create_dir_all(folder)?;
        }
        // Its server is another user, who passes through.
        for folder in [&machine.folder, &paths.state, &paths.state.join("bin"), &paths.runtime] {
            std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        }
        crate::command::up::copy_program(&of.program(), &paths.program())?;
        Ok(machine)
    }

    fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    fn paths(&self) -> Paths {
        Paths { state: self.folder.join("state"), runtime: self.of.runtime.join("machine") }
    }

    /// As `mainstay restore --from s3://… --card` does it, up to the point where the past stands open. Of this stack
    /// only the text of its card and what opens the store are used.
    async fn restore(&self, stack: &str, without: Option<&str>) -> Result<(past::Open, Fetched), backups::Error> {
        let card = backups::card_text(&self.of, stack, "")?;
        let begun = Instant::now();
        let came = second::fetch_own(&self.of, &self.repository()).await?;
        let fetched = Fetched { files: came.files, bytes: came.bytes, took: begun.elapsed() };
        let place = Place::new(&self.repository());
        if let Some(first) = without {
            let at = |source| backups::Error::Io { action: "take segments from", path: place.wal(), source };
            remove_from(&place.wal(), first).map_err(at)?;
        }
        let password = card::password(&card).ok_or(backups::Error::NotConfigured)?;
        let opened = card::open(&self.repository(), password, card::says(&card))?;
        second::hand_over(&place, stack)?;
        let paths = self.paths();
        let (opened, plan) = card::look(opened, &paths, &Moment::Latest)?;
        Ok((past::open(opened, &paths, &plan).await?, fetched))
    }

    fn remove(&self) {
        // What is in use still is removed by the next drill.
        std::fs::remove_dir_all(&self.folder).ok();
        std::fs::remove_dir_all(self.of.runtime.join("machine")).ok();
    }
}

/// Takes segments away, this one and all after it, whatever their timeline.
fn remove_from(wal: &Path, first: &str) -> std::io::Result<()> {
    // The first eight digits are the timeline, those after it the place.
    let place = |name: &str| name.get(8..24).map(str::to_owned);
    for entry in std::fs::read_dir(wal)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_segment = name.split(['-', '.']).next().is_some_and(|name| name.len() == 24);
        if path.is_dir() {
            remove_from(&path, first)?;
        } else if is_segment && place(&name) >= place(first) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_from_one_on_are_taken_away_on_every_timeline_and_nothing_else_is() {
        let folder = tempfile::tempdir().expect("folder");
        let wal = folder.path().join("wal");
        let names = [
            "00000001000000000000000A-ab.zst.age",
            "00000001000000000000000B-ab.zst.age",
            "00000002000000000000000B-ab.zst.age",
            "000000010000000100000000-ab.zst.age",
            "00000002.history-ab.zst.age",
        ];
        std::fs::create_dir_all(wal.join("7/00")).expect("made");
        for name in names {
            std::fs::write(wal.join("7/00").join(name), b"").expect("written");
        }
        remove_from(&wal, "00000001000000000000000B").expect("removes");
        let left: Vec<bool> = names.iter().map(|name| wal.join("7/00").join(name).exists()).collect();
        assert_eq!(left, [true, false, false, false, true]);
    }
}
