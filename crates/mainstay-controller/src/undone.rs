//! What a control plane that is started again must not run by itself: `migrations-undone.json` in the state folder.
//!
//! The next `up` and `db migrate` run what is pending, because a person asks for it. Within a run whose migrations are
//! done nobody else does: neither files that came into the folder since, nor those that a person took back, by `--undo`
//! or by restored data in the place of the present.

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
    /// The migrations of this run are done.
    #[serde(default)]
    is_migrated: bool,
}

fn file(paths: &Paths) -> std::path::PathBuf {
    paths.state.join("migrations-undone.json")
}

impl Undone {
    /// What is noted; what cannot be read holds nothing back.
    pub fn load(paths: &Paths) -> Self {
        std::fs::read(file(paths)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// What is noted of this run.
    fn of_run(paths: &Paths, launch: &Launch) -> Self {
        let found = Self::load(paths);
        if found.since == Some(launch.since) { found } else { Self { since: Some(launch.since), ..Self::default() } }
    }

    fn save(&self, paths: &Paths) -> io::Result<()> {
        durable::replace(&file(paths), &serde_json::to_vec_pretty(self)?, 0o644)
    }

    /// What was taken back in this run.
    pub fn held(paths: &Paths, launch: &Launch) -> Vec<Held> {
        Self::of_run(paths, launch).held
    }

    /// Whether the migrations of this run are done.
    pub fn is_migrated(paths: &Paths, launch: &Launch) -> bool {
        Self::of_run(paths, launch).is_migrated
    }

    /// Notes that they are, or that none is to be run any more: other data take the place of the present.
    ///
    /// **Errors**: the file system's.
    pub fn set_migrated(paths: &Paths, launch: &Launch) -> io::Result<()> {
        Self { is_migrated: true, ..Self::of_run(paths, launch) }.save(paths)
    }

    /// Notes one more.
    ///
    /// **Errors**: the file system's.
    pub fn note(paths: &Paths, launch: &Launch, held: Held) -> io::Result<()> {
        let mut noted = Self::of_run(paths, launch);
        noted.held.retain(|known| *known != held);
        noted.held.push(held);
        noted.save(paths)
    }

    /// Holds nothing back any more: a person asked for migrations to be run.
    ///
    /// **Errors**: the file system's.
    pub fn forget(paths: &Paths, launch: &Launch) -> io::Result<()> {
        Self { held: Vec::new(), ..Self::of_run(paths, launch) }.save(paths)
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
        let of = |since| Undone::held(&paths, &launch(since));
        assert!(of(1).is_empty() && !Undone::is_migrated(&paths, &launch(1)));
        Undone::set_migrated(&paths, &launch(1)).unwrap();
        Undone::note(&paths, &launch(1), held("V3__c.sql")).unwrap();
        Undone::note(&paths, &launch(1), held("V2__b.sql")).unwrap();
        Undone::note(&paths, &launch(1), held("V3__c.sql")).unwrap();
        assert_eq!(of(1), [held("V2__b.sql"), held("V3__c.sql")]);
        assert!(Undone::is_migrated(&paths, &launch(1)));
        assert!(of(2).is_empty() && !Undone::is_migrated(&paths, &launch(2)), "the next `up` runs it");
        Undone::forget(&paths, &launch(1)).unwrap();
        assert!(of(1).is_empty() && Undone::is_migrated(&paths, &launch(1)));
        Undone::note(&paths, &launch(2), held("V9__x.sql")).unwrap();
        assert_eq!(of(2), [held("V9__x.sql")]);
    }
}
