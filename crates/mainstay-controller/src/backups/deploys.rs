//! Which release was deployed when, and where in the WAL: for as long as the state before it is kept.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mainstay_decide::retention::Deploy;
use mainstay_postgres::Access;
use mainstay_postgres::backup;
use mainstay_supervisor::durable;
use mainstay_types::{Lsn, full_text};

use crate::clock::now;

/// Deploys that are remembered: three a day for a year, and what is kept is far less.
const MOST: usize = 1_000;

fn file(state: &Path) -> PathBuf {
    state.join("release-points.json")
}

/// What a damaged file is called once another was begun in its place.
fn damaged(state: &Path) -> PathBuf {
    state.join("release-points.json.damaged")
}

/// Every deploy that is remembered, the oldest first.
///
/// **Errors**: unreadable, or no list of deploys ([`std::io::ErrorKind::InvalidData`]).
fn all(state: &Path) -> std::io::Result<Vec<Deploy>> {
    match std::fs::read(file(state)) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error.to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Every deploy whose state before it may still be kept, which is done for so long.
///
/// **Errors**: nobody knows: the file is damaged, or was, and another begun in its place less than that time ago. Why, and
/// what follows, in words for people.
pub(super) fn known(state: &Path, kept: Duration) -> Result<Vec<Deploy>, String> {
    let days = kept.as_secs().div_ceil(86_400);
    let follows = format!(
        "which backups are those before a deploy is not known, and all of the last {days} days are kept, with their WAL"
    );
    let deploys = all(state).map_err(|error| {
        let file = file(state);
        format!("{} cannot be read ({error}): {follows}; the next deploy begins it anew", file.display())
    })?;
    let aside = damaged(state);
    let since = std::fs::symlink_metadata(&aside).and_then(|metadata| metadata.modified());
    // A clock that was set back makes it young.
    let age = since.ok().map(|since| SystemTime::now().duration_since(since).unwrap_or_default());
    match age {
        Some(age) if age < kept => Err(format!("{} was damaged: {follows}", aside.display())),
        _ => Ok(deploys),
    }
}

/// Takes note of a deploy, whose restore point is in the WAL of this primary.
pub(crate) async fn note(state: &Path, primary: &Access, (release, lsn): (u64, Lsn)) -> Result<(), String> {
    let about = backup::about(primary).await.map_err(|error| full_text(&error))?;
    let timeline = backup::timeline(primary).await.map_err(|error| full_text(&error))?;
    add(state, Deploy { release, at: now(), system: about.system, timeline, lsn })
}

fn add(state: &Path, deploy: Deploy) -> Result<(), String> {
    let mut deploys = match all(state) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            // Its time of change says until when it matters: that it is renamed must not make it old.
            let set_aside = std::fs::rename(file(state), damaged(state))
                .and_then(|()| std::fs::File::options().write(true).open(damaged(state)))
                .and_then(|file| file.set_modified(SystemTime::now()));
            set_aside.map_err(|error| format!("{} is damaged and stays: {error}", file(state).display()))?;
            Vec::new()
        }
        other => other.map_err(|error| format!("cannot read {}: {error}", file(state).display()))?,
    };
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
    }

    /// Retention stopped for good, and so did the memory of deploys.
    #[test]
    fn a_damaged_file_is_told_and_the_next_deploy_begins_it_anew() {
        const KEPT: Duration = Duration::from_secs(30 * 86_400);
        let folder = tempfile::tempdir().expect("folder");
        let state = folder.path();
        assert_eq!(known(state, KEPT), Ok(Vec::new()));
        std::fs::write(file(state), "[").expect("writes");
        let said = known(state, KEPT).expect_err("nobody knows");
        assert!(said.contains("release-points.json cannot be read") && said.contains("30 days"), "{said}");
        let deploy = Deploy { release: 4, at: Timestamp::from_millis(1), system: 7, timeline: 1, lsn: Lsn::new(9) };
        add(state, deploy).expect("noted");
        assert_eq!(all(state).expect("reads"), [deploy]);
        let said = known(state, KEPT).expect_err("what was before it is not known yet");
        assert!(said.contains("release-points.json.damaged was damaged"), "{said}");
        let aside = std::fs::File::options().write(true).open(damaged(state)).expect("is kept");
        aside.set_modified(SystemTime::now() - KEPT).expect("sets");
        assert_eq!(known(state, KEPT), Ok(vec![deploy]), "nothing of then is kept any more");
    }
}
