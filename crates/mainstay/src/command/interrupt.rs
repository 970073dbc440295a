//! Work that takes back what it began when somebody ends the command.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// Something was given up: what is written on the way is not waited for.
static IS_GIVEN_UP: AtomicBool = AtomicBool::new(false);

/// Whether [`or`] has given something up.
pub(crate) fn is_given_up() -> bool {
    IS_GIVEN_UP.load(Ordering::Relaxed)
}

/// Does the work, until SIGINT, SIGTERM or SIGHUP: then it is dropped, and what it had open goes with it. From here on
/// these signals do nothing by themselves: whatever may take long afterwards belongs in another call.
pub(super) async fn or<T>(work: impl Future<Output = Result<T, Failure>>, given_up: &str) -> Result<T, Failure> {
    let stream = |kind| signal(kind).map_err(|error| Failure::environment("MS3001", error.to_string()));
    let (mut interrupt, mut terminate) = (stream(SignalKind::interrupt())?, stream(SignalKind::terminate())?);
    let mut hangup = stream(SignalKind::hangup())?;
    tokio::select! {
        done = work => return done,
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    IS_GIVEN_UP.store(true, Ordering::Relaxed);
    Err(Failure::failed("MS1005", given_up).help("`mainstay status` shows the stack as it is now"))
}
