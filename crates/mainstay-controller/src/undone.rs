//! What a control plane must not run by itself: `migrations-undone.json` in the state folder.
//!
//! A person's `up` and `db migrate` run what is pending, because they are asked to. Within a run whose migrations are done
//! nobody else does: neither files that came into the folder since, nor those that a person went back behind, by `--undo`
//! or by restored data in the place of the present. A service manager that starts the stack again is no person: what was
//! gone back behind stays so over its starts.

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
    /// Restored data took the place of the present, and nobody has looked yet what is pending there: it will be held.
    #[serde(default)]
    is_restored: bool,
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

    /// Whether the migrations of this run are done, or are not to be run: then somebody only looks.
    pub fn is_migrated(paths: &Paths, launch: &Launch) -> bool {
        let found = Self::of_run(paths, launch);
        found.is_migrated || found.is_restored
    }

    /// Notes that they are done.
    ///
    /// **Errors**: the file system's.
    pub fn set_migrated(paths: &Paths, launch: &Launch) -> io::Result<()> {
        Self { is_migrated: true, ..Self::of_run(paths, launch) }.save(paths)
    }

    /// Notes that other data take the place of the present: whoever goes back to before a migration wants it gone.
    ///
    /// **Errors**: the file system's.
    pub fn set_restored(paths: &Paths, launch: &Launch) -> io::Result<()> {
        Self { is_migrated: true, is_restored: true, ..Self::of_run(paths, launch) }.save(paths)
    }

    /// Holds back what is pending in restored data, when that was not seen to yet.
    ///
    /// **Errors**: the file system's.
    pub fn hold_restored(paths: &Paths, launch: &Launch, pending: Vec<Held>) -> io::Result<()> {
        let mut noted = Self::of_run(paths, launch);
        if !noted.is_restored {
            return Ok(());
        }
        noted.held.retain(|known| !pending.contains(known));
        noted.held.extend(pending);
        Self { is_restored: false, ..noted }.save(paths)
    }

    /// What an earlier run held back is held back in this one too: nobody asked for it.
    ///
    /// **Errors**: the file system's.
    pub fn carry(paths: &Paths, launch: &Launch) -> io::Result<()> {
        let before = Self::load(paths);
        if before.since == Some(launch.since) || (before.held.is_empty() && !before.is_restored) {
            return Ok(());
        }
        Self { since: Some(launch.since), is_migrated: false, ..before }.save(paths)
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
        Self { held: Vec::new(), is_restored: false, ..Self::of_run(paths, launch) }.save(paths)
    }

    /// Holds these files back no more: a person's run applied them, and not all that is pending.
    ///
    /// **Errors**: the file system's.
    pub fn forget_these(paths: &Paths, launch: &Launch, scripts: &[&str]) -> io::Result<()> {
        let mut noted = Self::of_run(paths, launch);
        let before = noted.held.len();
        noted.held.retain(|held| !scripts.contains(&held.script.as_str()));
        if noted.held.len() == before { Ok(()) } else { noted.save(paths) }
    }
}

#[cfg(test)]
mod tests {
    use mainstay_types::{EnvironmentName, StackName};

    use super::*;

    fn launch(since: i64) -> Launch {
        Launch {
            version: 1,
            stack: StackName::new("shop").unwrap(),
            environment: EnvironmentName::default(),
            stack_file: "mainstay.toml".into(),
            folder: "/".into(),
            origin: "/".into(),
            project: "/".into(),
            release: 1,
            generation: 1,
            fleet: mainstay_decide::fleet::Fleet::default(),
            since: Timestamp::from_micros(since),
            declared_ports: Vec::new(),
        }
    }

    #[test]
    fn what_was_taken_back_is_held_in_that_run_alone() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths { state: folder.path().to_owned(), runtime: folder.path().join("run") };
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

        // A service manager starts it again, twice; then a person does.
        for since in [3, 4] {
            Undone::carry(&paths, &launch(since)).unwrap();
            assert_eq!(of(since), [held("V9__x.sql")]);
            assert!(!Undone::is_migrated(&paths, &launch(since)), "what came since, and in front of it, is run");
            Undone::set_migrated(&paths, &launch(since)).unwrap();
        }
        assert!(of(5).is_empty());
    }

    #[test]
    fn a_run_that_stopped_half_way_lets_go_of_what_it_applied_alone() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths { state: folder.path().to_owned(), runtime: folder.path().join("run") };
        let held = |script: &str| Held { script: script.to_owned(), checksum: "1".to_owned() };
        Undone::note(&paths, &launch(1), held("V3__c.sql")).unwrap();
        Undone::note(&paths, &launch(1), held("V2__b.sql")).unwrap();
        Undone::set_restored(&paths, &launch(1)).unwrap();
        Undone::forget_these(&paths, &launch(1), &[]).unwrap();
        assert_eq!(Undone::held(&paths, &launch(1)).len(), 2, "it ran nothing");
        Undone::forget_these(&paths, &launch(1), &["V2__b.sql", "V2_1__new.sql"]).unwrap();
        assert_eq!(Undone::held(&paths, &launch(1)), [held("V3__c.sql")]);
        Undone::hold_restored(&paths, &launch(1), vec![held("V4__came.sql")]).unwrap();
        assert_eq!(Undone::held(&paths, &launch(1)).len(), 2, "restored data are looked at still");
    }

    #[test]
    fn what_is_pending_in_restored_data_is_held_by_whoever_looks_first() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths { state: folder.path().to_owned(), runtime: folder.path().join("run") };
        let held = |script: &str| Held { script: script.to_owned(), checksum: "1".to_owned() };
        let of = |since| Undone::held(&paths, &launch(since));
        Undone::set_migrated(&paths, &launch(1)).unwrap();
        Undone::hold_restored(&paths, &launch(1), vec![held("V4__came.sql")]).unwrap();
        assert!(of(1).is_empty(), "nothing was restored");
        Undone::set_restored(&paths, &launch(1)).unwrap();
        // The folder could not be read then; started by a service manager, nothing is run before it was.
        Undone::carry(&paths, &launch(2)).unwrap();
        assert!(Undone::is_migrated(&paths, &launch(2)));
        Undone::hold_restored(&paths, &launch(2), vec![held("V5__x.sql")]).unwrap();
        assert_eq!(of(2), [held("V5__x.sql")]);
        Undone::carry(&paths, &launch(3)).unwrap();
        assert_eq!(of(3), [held("V5__x.sql")]);
        Undone::forget(&paths, &launch(3)).unwrap();
        Undone::carry(&paths, &launch(4)).unwrap();
        assert!(of(4).is_empty(), "a person ran it");
    }
}
