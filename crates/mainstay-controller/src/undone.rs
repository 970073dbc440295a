//! Migrations that a person took back in this run: `migrations-undone.json` in the state folder.
//!
//! Their files are pending again. The next `up` and `db migrate` run them, because a person asks for it; a control plane
//! that is started again in the same run must not.

use std::io;

use mainstay_postgres::migrate::Held;
use mainstay_supervisor::durable;
use mainstay_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::launch::Launch;
use crate::paths::Paths;

/// What was taken back, and in which run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// When the run began, as in [`Launch::since`].
    since: Option<Timestamp>,
    held: Vec<Held>,
}

fn file(paths: &Paths) -> std::path::PathBuf {
    paths.state.join("migrations-undone.json")
}

impl Undone {
    /// What is noted; what cannot be read holds nothing back.
    pub fn load(paths: &Paths) -> Self {
        std::fs::read(file(paths)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// What was taken back in this run.
    pub fn of(self, launch: &Launch) -> Vec<Held> {
        if self.since == Some(launch.since) { self.held } else { Vec::new() }
    }

    /// Notes one more.
    ///
    /// **Errors**: the file system's.
    pub fn note(paths: &Paths, launch: &Launch, held: Held) -> io::Result<()> {
        let mut all = Self::load(paths).of(launch);
        all.retain(|known| *known != held);
        all.push(held);
        let undone = Self { since: Some(launch.since), held: all };
        durable::replace(&file(paths), &serde_json::to_vec_pretty(&undone)?, 0o644)
    }

    /// Forgets all: a person asked for migrations to be run.
    ///
    /// **Errors**: the file system's.
    pub fn forget(paths: &Paths) -> io::Result<()> {
        match std::fs::remove_file(file(paths)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_types::{EnvironmentName, StackName};

    use super::*;

    #[test]
    fn what_was_taken_back_is_held_in_that_run_alone() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths { state: folder.path().to_owned(), runtime: folder.path().join("run") };
        let launch = |since| Launch {
            version: 1,
            stack: StackName::new("shop").unwrap(),
            environment: EnvironmentName::default(),
            stack_file: "mainstay.toml".into(),
            folder: "/".into(),
            project: "/".into(),
            release: 1,
            since: Timestamp::from_micros(since),
            declared_ports: Vec::new(),
        };
        let held = |script: &str| Held { script: script.to_owned(), checksum: "1".to_owned() };
        assert!(Undone::load(&paths).of(&launch(1)).is_empty());
        Undone::note(&paths, &launch(1), held("V3__c.sql")).unwrap();
        Undone::note(&paths, &launch(1), held("V2__b.sql")).unwrap();
        Undone::note(&paths, &launch(1), held("V3__c.sql")).unwrap();
        assert_eq!(Undone::load(&paths).of(&launch(1)), [held("V2__b.sql"), held("V3__c.sql")]);
        assert!(Undone::load(&paths).of(&launch(2)).is_empty(), "the next `up` runs it");
        Undone::note(&paths, &launch(2), held("V9__x.sql")).unwrap();
        assert_eq!(Undone::load(&paths).of(&launch(2)), [held("V9__x.sql")]);
        Undone::forget(&paths).unwrap();
        Undone::forget(&paths).unwrap();
        assert!(Undone::load(&paths).of(&launch(2)).is_empty());
    }
}
