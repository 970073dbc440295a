//! WAL of a stack whose backups are in a store: what waits in the spool is sent by a thread of its own, at the priority of
//! what serves. PostgreSQL waits for it, and what it does not send is lost with the machine.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use mainstay_backup::copy::Sender;
use mainstay_stack::model::ObjectStore;
use mainstay_types::full_text;

use super::second::{Trouble, holder, store};
use super::{Error, Target};
use crate::paths::Paths;

/// Pause between two looks into the spool, which is a folder with a file for each member at most.
const LOOK: Duration = Duration::from_millis(50);
/// Pause after a failure: the store is asked again well within the least `rpo`.
const AGAIN: Duration = Duration::from_secs(2);

/// Starts to send; what it meets is left in `trouble`.
pub(super) fn start(paths: Paths, wanted: ObjectStore, folder: PathBuf, trouble: Trouble) {
    let thread = std::thread::Builder::new().name("backup-send".to_owned());
    let begun = thread.spawn(move || {
        loop {
            let note = |error: Option<String>| {
                *trouble.lock().unwrap_or_else(PoisonError::into_inner) = error;
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let error = match runtime {
                Ok(runtime) => runtime.block_on(send(&paths, &wanted, &folder, &note)),
                Err(error) => error.to_string(),
            };
            note(Some(error));
            std::thread::sleep(AGAIN);
        }
    });
    // No thread: nothing is archived, and PostgreSQL tells that.
    drop(begun);
}

/// Sends until it fails.
async fn send(paths: &Paths, wanted: &ObjectStore, folder: &Path, note: &impl Fn(Option<String>)) -> String {
    let opened = || -> Result<_, Error> {
        let path = super::file(paths);
        let target = Target::load(paths).map_err(|source| Error::Io { action: "read", path, source })?;
        let place = target.ok_or(Error::NotConfigured)?.place();
        Ok(Sender::new(store(paths, wanted, folder)?, place, holder(paths)?))
    };
    let mut sender = match opened() {
        Ok(sender) => sender,
        Err(error) => return full_text(&error),
    };
    loop {
        match sender.send().await {
            Ok(_) => note(None),
            Err(error) => return full_text(&error),
        }
        tokio::time::sleep(LOOK).await;
    }
}
