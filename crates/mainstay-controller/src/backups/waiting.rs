//! What a person asks for waits for what the control plane does by itself on the same place.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainstay_backup::Place;
use mainstay_backup::place::{Alone, PlaceError, named};

use super::{Backups, Error};

/// How long a person's command waits unless another time is given. **Basis**: a proof of 2 GiB takes two minutes.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Pause between two tries.
const LOOK: Duration = Duration::from_millis(100);
/// Who waits this long is told why: freeing space mostly takes less.
const FIRST_TOLD: Duration = Duration::from_secs(1);
/// And again so often.
const TELL_EVERY: Duration = Duration::from_secs(10);

type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// How long somebody waits for who works on the place, and who is told meanwhile.
#[derive(Clone)]
pub struct Patience {
    within: Duration,
    tell: Option<Tell>,
}

impl fmt::Debug for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patience").field("within", &self.within).finish_non_exhaustive()
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self { within: PATIENCE, tell: None }
    }
}

/// A lock of the place; ends when it is dropped. A folder that only can be read has none.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "holds the lock")] Option<Alone>);

impl Patience {
    /// Waits so long; `tell` gets a line now and then.
    pub fn new(within: Duration, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { within, tell: Some(Arc::new(tell)) }
    }

    /// For who comes again by itself.
    pub(super) fn none() -> Self {
        Self { within: Duration::ZERO, tell: None }
    }

    /// Tries until it is had.
    ///
    /// **Errors**: [`Error::Busy`] when it was not in time; others at once.
    fn wait<T>(&self, mut attempt: impl FnMut() -> Result<T, PlaceError>) -> Result<T, Error> {
        let begun = Instant::now();
        let mut told = FIRST_TOLD;
        loop {
            let waited = begun.elapsed();
            match attempt() {
                Err(PlaceError::Busy { folder, by }) if waited >= self.within => {
                    return Err(Error::Busy { folder, by: named(&by), waited });
                }
                Err(PlaceError::Busy { by, .. }) => {
                    if let Some(tell) = self.tell.as_ref().filter(|_| waited >= told) {
                        told = waited + TELL_EVERY;
                        let (by, left) = (named(&by), self.within.saturating_sub(waited).as_secs());
                        tell(&format!("waiting: {by}; for {left} s more at most, Ctrl-C gives up"));
                    }
                    std::thread::sleep(LOOK);
                }
                other => return Ok(other?),
            }
        }
    }
}

impl Backups {
    /// The same with another patience.
    pub fn patient(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// From here on nothing is deleted.
    ///
    /// **Errors**: something is being deleted, and did not end in time.
    pub async fn hold(&self) -> Result<Held, Error> {
        self.lock(Place::hold).await.map(Held)
    }

    /// The same for who may block.
    pub(super) fn hold_blocking(&self) -> Result<Held, Error> {
        self.patience.wait(|| self.place.hold()).map(Held)
    }

    /// From here on nobody else adds to the place.
    pub(super) async fn take_place(&self) -> Result<Alone, Error> {
        self.lock(Place::take).await
    }

    /// From here on nobody reads.
    pub(super) async fn hold_to_delete(&self) -> Result<Alone, Error> {
        self.lock(Place::hold_to_delete).await
    }

    async fn lock<T: Send + 'static>(&self, how: fn(&Place) -> Result<T, PlaceError>) -> Result<T, Error> {
        let (place, patience) = (self.place.clone(), self.patience.clone());
        let waiting = tokio::task::spawn_blocking(move || patience.wait(|| how(&place)));
        waiting.await.map_err(|error| Error::NoServer(error.to_string()))?
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use super::*;

    fn place(folder: &Path) -> Place {
        std::fs::create_dir_all(folder).expect("folder");
        Place::new(folder)
    }

    #[test]
    fn a_person_waits_for_who_deletes_is_told_who_that_is_and_goes_on() {
        let folder = tempfile::tempdir().expect("folder");
        let place = place(folder.path());
        let deleting = place.hold_to_delete().expect("held");
        let ends = std::thread::spawn(move || {
            std::thread::sleep(FIRST_TOLD + Duration::from_millis(500));
            drop(deleting);
        });
        let told = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&told);
        let patience =
            Patience::new(Duration::from_secs(60), move |text| lines.lock().expect("lines").push(text.to_owned()));
        patience.wait(|| place.hold()).expect("it had its turn");
        ends.join().expect("ended");
        let told = told.lock().expect("lines");
        let me = format!("(pid {}, since", std::process::id());
        assert!(told.len() == 1 && told[0].starts_with("waiting: `") && told[0].contains(&me), "{told:?}");
    }

    #[test]
    fn who_has_no_patience_or_none_left_is_told_who_works_there() {
        let folder = tempfile::tempdir().expect("folder");
        let place = place(folder.path());
        let _reading = place.hold().expect("held");
        let error = Patience::none().wait(|| place.hold_to_delete()).expect_err("busy");
        let text = error.to_string();
        assert!(text.contains("is in use") && text.contains(&std::process::id().to_string()), "{text}");
        let begun = Instant::now();
        let short = Patience { within: Duration::from_millis(300), tell: None };
        assert!(matches!(short.wait(|| place.hold_to_delete()), Err(Error::Busy { .. })));
        assert!(begun.elapsed() >= Duration::from_millis(300));
        short.wait(|| place.hold()).expect("two may read");
    }
}
