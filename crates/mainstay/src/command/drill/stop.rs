//! Ctrl-C and the like during a drill: it ends, heals what it broke, and is remembered as one that was stopped.

use mainstay_drill::Stop;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::failure::Failure;

/// Signals that stop a drill, by their names.
fn signals() -> [(&'static str, SignalKind); 3] {
    [("SIGINT", SignalKind::interrupt()), ("SIGTERM", SignalKind::terminate()), ("SIGHUP", SignalKind::hangup())]
}

/// Listens from now on.
pub(super) fn listen() -> Result<Stop, Failure> {
    let (sender, receiver) = watch::channel(None);
    for (name, kind) in signals() {
        let mut stream =
            signal(kind).map_err(|error| Failure::environment("MS3001", format!("cannot wait for {name}: {error}")))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            if stream.recv().await.is_some() {
                sender.send_replace(Some(name));
            }
            // Held for ever: a second one changes nothing, the drill is ending.
            std::future::pending::<()>().await;
        });
    }
    Ok(Stop::by(receiver))
}
