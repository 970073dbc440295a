//! Which release was deployed when, and where in the WAL: for as long as the state before it is kept.

use std::path::{Path, PathBuf};

use mainstay_decide::retention::Deploy;
use mainstay_postgres::Access;
use mainstay_postgres::backup;
use mainstay_supervisor::durable;
use mainstay_types::{Lsn, full_text};

use super::Error;
use crate::clock::now;

/// Deploys that are remembered: three a day for a year, and what is kept is far less.
const MOST: usize = 1_000;

fn file(state: &Path) -> PathBuf {
    state.join("release-points.json")
}

/// Every deploy that is remembered, the oldest first.
///
/// **Errors**: unreadable; what is kept cannot be told then, and nothing may be freed.
pub(super) fn all(state: &Path) -> Result<Vec<Deploy>, Error> {
    let path = file(state);
    match std::fs::read(&path) {
        Ok(text) => {
            serde_json::from_slice(&text).map_err(|source| Error::Io { action: "read", path, source: source.into() })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(Error::Io { action: "read", path, source }),
    }
}

/// Takes note of a deploy, whose restore point is in the WAL of this primary.
pub(crate) async fn note(state: &Path, primary: &Access, (release, lsn): (u64, Lsn)) -> Result<(), String> {
    let about = backup::about(primary).await.map_err(|error| full_text(&error))?;
    let timeline = backup::timeline(primary).await.map_err(|error| full_text(&error))?;
    add(state, Deploy { release, at: now(), system: about.system, timeline, lsn })
}

fn add(state: &Path, deploy: Deploy) -> Result<(), String> {
    let mut deploys = all(state).map_err(|error| full_text(&error))?;
    deploys.push(deploy);
    deploys.drain(..deploys.len().saturating_sub(MOST));
    let text = serde_json::to_vec(&deploys).map_err(|error| error.to_string())?;
    durable::replace(&file(state), &text, 0o644).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use mainstay_types::Timestamp;

    use super::*;

    #[test]
    fn deploys_are_remembered_in_order_and_the_oldest_go() {
        let state = tempfile::tempdir().expect("folder");
        let deploy = |release: u64| Deploy {
            release,
            at: Timestamp::from_millis(1),
            system: 7,
            timeline: 1,
            lsn: Lsn::new(release),
        };
        assert_eq!(all(state.path()).expect("none"), []);
        for release in 0..=MOST as u64 {
            add(state.path(), deploy(release)).expect("noted");
        }
        let kept = all(state.path()).expect("reads");
        assert_eq!(
            (kept.len(), kept.first().copied(), kept.last().copied()),
            (MOST, Some(deploy(1)), Some(deploy(MOST as u64)))
        );
        std::fs::write(file(state.path()), "[").expect("writes");
        assert!(all(state.path()).is_err(), "what is kept cannot be told");
    }
}
