use std::path::PathBuf;

use mainstay_api::Trial;
use mainstay_decide::fleet::Fleet;
use mainstay_stack::deploy::{Deploy, Strategy};
use mainstay_types::{EnvironmentName, StackName};

use super::*;
use crate::launch::VERSION;

#[test]
fn a_migration_without_a_file_that_takes_it_back_is_irreversible() {
    let all: Vec<String> =
        ["V1__a.sql", "V2__b.sql", "U2__b.sql", "3_c.up.sql", "3_c.down.sql", "4_d.sql"].map(str::to_owned).into();
    let these: Vec<&String> = all.iter().collect();
    assert_eq!(irreversible(&these, &all), ["V1__a.sql", "4_d.sql"]);
}

const AT: Timestamp = Timestamp::from_micros(1_000_000);

/// A stack on whose v1 a v2 follows.
struct Bench {
    _folder: tempfile::TempDir,
    paths: Paths,
}

fn stack_file(number: u64) -> String {
    format!("stack = \"shop\" # v{number}\n")
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let paths = Paths { state: folder.path().join("shop/development"), runtime: folder.path().join("run") };
        let bench = Self { _folder: folder, paths };
        bench.release(1, ReleaseState::Live);
        bench.release(2, ReleaseState::Rolling);
        bench.launch(1).save(&bench.paths).expect("writes");
        std::fs::write(bench.paths.stack_file(), stack_file(1)).expect("writes");
        bench
    }

    fn release(&self, number: u64, state: ReleaseState) {
        std::fs::create_dir_all(files_of(&self.paths, number)).expect("folder");
        std::fs::write(folder_of(&self.paths, number).join("stack.toml"), stack_file(number)).expect("writes");
        let release = Release {
            number,
            made_at: AT,
            by: "me".to_owned(),
            environment: EnvironmentName::default(),
            hash: "00".to_owned(),
            files: 1,
            bytes: 1,
            source: "folder".to_owned(),
            commit: None,
            is_dirty: false,
            migrations: Vec::new(),
            folder: String::new(),
            state,
            since: AT,
            reason: None,
            is_trial: false,
        };
        save(&self.paths, &release).expect("writes");
    }

    fn launch(&self, release: u64) -> Launch {
        let folder = files_of(&self.paths, release);
        Launch {
            version: VERSION,
            stack: StackName::new("shop").expect("a name"),
            environment: EnvironmentName::default(),
            stack_file: PathBuf::from("/srv/shop/mainstay.toml"),
            project: folder.clone(),
            folder,
            origin: PathBuf::from("/srv/shop"),
            release,
            generation: release,
            fleet: Fleet { release, ..Fleet::default() },
            since: AT,
            declared_ports: Vec::new(),
        }
    }

    fn rollout(&self, phase: Phase) -> Rollout {
        let rollout = Rollout {
            release: 2,
            from: 1,
            is_rollback: false,
            strategy: Strategy::default(),
            rules: Deploy::new(None),
            began_at: AT,
            phase,
            since: AT,
            fleet: Fleet { release: 2, ..Fleet::default() },
            was: None,
            is_paused: false,
            is_promoted: false,
            trial: None,
        };
        write_rollout(&self.paths, &rollout).expect("writes");
        rollout
    }

    fn live(&self) -> (u64, String) {
        let launch = Launch::load(&self.paths).expect("reads");
        (launch.release, std::fs::read_to_string(self.paths.stack_file()).expect("reads"))
    }

    fn state(&self, number: u64) -> ReleaseState {
        load(&self.paths, number).expect("reads").state
    }
}

#[test]
fn a_commit_that_was_cut_off_is_finished() {
    let bench = Bench::new();
    bench.rollout(Phase::Commit);
    // As a crash in the middle leaves it.
    std::fs::write(bench.paths.stack_file(), stack_file(2)).expect("writes");
    assert_eq!(settle(&bench.paths, false, AT).expect("settles"), Settled::default());
    assert_eq!(bench.live(), (2, stack_file(2)));
    assert_eq!((bench.state(1), bench.state(2)), (ReleaseState::Former, ReleaseState::Live));
    assert_eq!(rollout(&bench.paths).expect("reads"), None);
}

/// The control plane did not start any more.
#[test]
fn a_record_that_cannot_be_read_keeps_nobody_from_beginning() {
    for damaged in ["", "{\"release\": 2, \"fr", "\0\0\0\0", "[]"] {
        let bench = Bench::new();
        bench.rollout(Phase::Commit);
        std::fs::write(record_file(&bench.paths), damaged).expect("writes");
        std::fs::write(bench.paths.stack_file(), stack_file(2)).expect("writes");
        let settled = settle(&bench.paths, false, AT).expect("settles");
        let damage = settled.damage.expect("it is said");
        assert!(settled.rollout.is_none() && damage.contains("rollout.json.damaged"), "{damage}");
        assert_eq!(bench.live(), (1, stack_file(1)), "what is live is whole");
        assert_eq!((bench.state(1), bench.state(2)), (ReleaseState::Live, ReleaseState::Failed));
        assert_eq!(settle(&bench.paths, false, AT).expect("settles"), Settled::default(), "it is said once");
    }
}

#[test]
fn a_release_that_was_live_when_its_record_was_damaged_stays_live() {
    let bench = Bench::new();
    bench.launch(2).save(&bench.paths).expect("writes");
    std::fs::write(bench.paths.stack_file(), stack_file(2)).expect("writes");
    std::fs::write(record_file(&bench.paths), "{").expect("writes");
    let damage = settle(&bench.paths, false, AT).expect("settles").damage.expect("it is said");
    assert!(!damage.contains("taken back"), "{damage}");
    assert_eq!(bench.live(), (2, stack_file(2)));
    assert_eq!((bench.state(1), bench.state(2)), (ReleaseState::Former, ReleaseState::Live));
}

#[test]
fn a_drills_release_is_a_copy_of_what_is_live_that_leaves_its_number_and_no_files() {
    let bench = Bench::new();
    let paths = &bench.paths;
    std::fs::create_dir_all(files_of(paths, 1).join("deep")).expect("folder");
    std::fs::write(files_of(paths, 1).join("deep/web.py"), "serve").expect("writes");
    let made = again(paths, &Launch::load(paths).expect("reads"), true, AT).expect("is made");
    assert_eq!((made.number, made.is_trial, made.hash.as_str()), (3, true, "00"));
    assert_eq!(std::fs::read_to_string(files_of(paths, 3).join("deep/web.py")).expect("is copied"), "serve");
    assert_eq!(stack_text(paths, 3).expect("reads"), stack_file(1));
    let forward = Rollout { release: 3, trial: Some(Trial { is_kept: true }), ..bench.rollout(Phase::Commit) };
    commit(paths, &forward, AT).expect("commits");
    assert_eq!(bench.live(), (3, stack_file(1)));
    let back = Rollout { release: 1, from: 3, is_rollback: true, ..bench.rollout(Phase::Commit) };
    commit(paths, &back, AT).expect("commits");
    assert_eq!((bench.live(), bench.state(3)), ((1, stack_file(1)), ReleaseState::Former));
    assert!(!files_of(paths, 3).exists() && files_of(paths, 1).exists());
    let next = again(paths, &Launch::load(paths).expect("reads"), true, AT).expect("is made");
    assert_eq!(next.number, 4, "a number is one release's");
}

#[test]
fn what_a_drill_only_tries_runs_where_the_live_release_does() {
    let bench = Bench::new();
    let live = Launch::load(&bench.paths).expect("reads");
    let made = again(&bench.paths, &live, false, AT).expect("is made");
    let tried = Rollout { release: 3, trial: Some(Trial { is_kept: false }), ..bench.rollout(Phase::Start) };
    let launch = launch_of(&bench.paths, &made, &live, &tried);
    assert_eq!((launch.folder, launch.project, launch.release), (live.folder, live.project, 3));
    give_up(&bench.paths, &tried, "the drill is over", AT).expect("is written");
    assert_eq!((bench.state(3), bench.live().0), (ReleaseState::Failed, 1));
    assert!(!files_of(&bench.paths, 3).exists());
}

#[test]
fn a_release_that_is_gone_before_it_is_live_is_taken_back() {
    for is_over in [false, true] {
        let bench = Bench::new();
        bench.rollout(Phase::Commit);
        std::fs::write(bench.paths.stack_file(), stack_file(2)).expect("writes");
        std::fs::remove_dir_all(folder_of(&bench.paths, 2)).expect("removes");
        let settled = settle(&bench.paths, is_over, AT).expect("settles");
        assert!(settled.damage.is_some_and(|damage| damage.contains("v1 stays live")));
        assert_eq!(bench.live(), (1, stack_file(1)));
        // What runs of it goes on until the release before is whole.
        let is_back = settled.rollout.is_some_and(|rollout| matches!(rollout.phase, Phase::Back { .. }));
        assert_eq!(is_back, !is_over);
        assert_eq!(rollout(&bench.paths).expect("reads").is_some(), !is_over);
    }
}

#[test]
fn a_release_that_is_gone_when_it_is_live_already_stays_so() {
    let bench = Bench::new();
    bench.rollout(Phase::Commit);
    bench.launch(2).save(&bench.paths).expect("writes");
    std::fs::write(bench.paths.stack_file(), stack_file(2)).expect("writes");
    std::fs::remove_dir_all(files_of(&bench.paths, 2)).expect("removes");
    let settled = settle(&bench.paths, false, AT).expect("settles");
    assert!(settled.damage.is_some_and(|damage| damage.contains("`mainstay rollback`")));
    assert_eq!(bench.live(), (2, stack_file(2)));
    assert_eq!((bench.state(1), bench.state(2)), (ReleaseState::Former, ReleaseState::Live));
    assert_eq!(settle(&bench.paths, false, AT).expect("settles"), Settled::default());
}

/// It stayed until a rollout an hour later.
#[test]
fn what_a_killed_deploy_left_behind_goes_with_the_next_start_and_what_is_held_stays() {
    let bench = Bench::new();
    let (held, lock) = begin(&bench.paths, AT).expect("begins");
    let left = folder(&bench.paths).join(".incoming-1-5");
    let going = folder(&bench.paths).join(".going-1-4");
    for path in [&left, &going] {
        std::fs::create_dir_all(path.join("files")).expect("folder");
        std::fs::write(path.join("files/a"), "a").expect("writes");
    }
    settle(&bench.paths, false, AT).expect("settles");
    assert!(held.is_dir() && !left.exists() && !going.exists());
    drop(lock);
    clear(&bench.paths);
    assert!(!held.exists(), "its deploy is gone");
    assert_eq!(list(&bench.paths).len(), 2);
}
