//! A process that takes backups, forgets old ones and frees their space is killed with SIGKILL at random moments. What
//! is listed afterwards must be whole: every byte as it was written, every backup restored as it was taken.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mainstay_backup::base::{self, Source};
use mainstay_backup::label::{LABEL_VERSION, Label};
use mainstay_backup::repository::Found;
use mainstay_backup::{Place, Repository};
use mainstay_types::{Lsn, Secret, Timestamp};
use sha2::{Digest, Sha256};

const FOLDER: &str = "MAINSTAY_KILLED_FOLDER";
/// Kills of one run; `MAINSTAY_KILLS` says another number.
const KILLS: u32 = 12;
/// Longest that the killed process lives.
const LONGEST: Duration = Duration::from_secs(120);
/// Backups that the killed process keeps.
const KEPT: usize = 3;
const FILES: usize = 6;
/// Some chunks each.
const SIZE: usize = 700_000;

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn seed() -> u64 {
    let given = std::env::var("MAINSTAY_SEED").ok().and_then(|text| text.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos();
    given.unwrap_or(u64::try_from(now % 1_000_000_007).expect("fits") | 1)
}

fn hash(data: &Path) -> String {
    let mut sum = Sha256::new();
    for number in 0..FILES {
        sum.update(std::fs::read(data.join(format!("base/5/{}", 20_000 + number))).expect("reads"));
    }
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn make(folder: &Path) {
    let data = folder.join("data");
    for inner in ["base/5", "global"] {
        std::fs::create_dir_all(data.join(inner)).expect("folder");
    }
    std::fs::write(data.join("global/pg_control"), "x").expect("writes");
    Place::new(&folder.join("place")).create("shop", "test", &Secret::new("password")).expect("makes");
}

fn repository(folder: &Path) -> Repository {
    Repository::open_with_password(&folder.join("place/restic"), &Secret::new("password")).expect("opens")
}

/// A third of the blocks changes with each backup; a part of what was there comes back.
fn change(data: &Path, seed: &mut u64) {
    for number in 0..FILES {
        let path = data.join(format!("base/5/{}", 20_000 + number));
        let mut content = std::fs::read(&path).unwrap_or_else(|_| vec![0; SIZE]);
        for block in content.chunks_mut(64 << 10) {
            if random(seed).is_multiple_of(3) {
                let mut of_block = random(seed) % 50 + 1;
                block.fill_with(|| u8::try_from(random(&mut of_block) & 0xFF).expect("a byte"));
            }
        }
        std::fs::write(path, content).expect("writes");
    }
}

fn take(folder: &Path, repository: &Repository, number: u64) {
    let data = folder.join("data");
    let source = Source { data: data.clone(), start: Lsn::new(16), has_checksums: false, stack: "shop".to_owned() };
    let taken = base::take(repository, &source, || Ok("START WAL LOCATION: 0/10\n".to_owned())).expect("backs up");
    let at = Timestamp::from_millis(i64::try_from(number).expect("fits"));
    let label = Label {
        version: LABEL_VERSION,
        stack: "shop".to_owned(),
        system: 77,
        major: 15,
        timeline: 1,
        start: Lsn::new(16),
        stop: Lsn::new(32),
        member: "a".to_owned(),
        from_standby: false,
        began: at,
        ended: at,
        files: taken.added.files,
        bytes: taken.added.bytes,
        stored_bytes: taken.added.stored_bytes,
        pages: 0,
        name: Some(hash(&data)),
        is_scheduled: true,
        point: None,
    };
    repository.mark(taken.unmarked, &label).expect("marks");
}

/// Ends what it started, also when the test ends by a failure.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The process that is killed. As a test of its own it has nothing to do. When nobody kills it, it ends by itself: it
/// fills a disk.
#[test]
fn takes_forgets_and_frees_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let begun = Instant::now();
    let (repository, mut seed) = (repository(&folder), seed());
    let newest = repository.backups().expect("lists").last().map_or(0, |backup| backup.label.ended.as_millis());
    for number in u64::try_from(newest).expect("fits") + 1.. {
        assert!(begun.elapsed() < LONGEST, "nobody killed it");
        change(&folder.join("data"), &mut seed);
        take(&folder, &repository, number);
        let all = repository.backups().expect("lists");
        let old: Vec<String> =
            all.iter().take(all.len().saturating_sub(KEPT)).map(|backup| backup.id.clone()).collect();
        repository.forget(&old).expect("forgets");
        repository.prune().expect("frees");
        let mut output = std::fs::File::options().append(true).open(folder.join("output")).expect("opens");
        writeln!(output, "round {number}").expect("writes");
    }
}

fn check(folder: &Path, kill: u32) -> usize {
    let repository = repository(folder);
    let errors = repository.check(true).expect("checks").faults;
    assert!(errors.is_empty(), "kill {kill}: {errors:?}");
    let all = repository.backups().expect("lists");
    for backup in &all {
        let into = tempfile::tempdir().expect("folder");
        repository.restore(backup, into.path()).expect("restores");
        assert_eq!(Some(hash(into.path())), backup.label.name, "kill {kill}: {}", backup.id);
    }
    all.len()
}

#[test]
fn killed_at_any_moment_every_backup_that_is_listed_is_whole() {
    let folder = tempfile::tempdir().expect("folder");
    make(folder.path());
    let mut seed = seed();
    let first = seed;
    let kills = std::env::var("MAINSTAY_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let mut rounds = 0;
    for kill in 0..kills {
        std::fs::File::create(folder.path().join("output")).expect("file");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", "takes_forgets_and_frees_until_it_is_killed"])
            .env(FOLDER, folder.path())
            .env("MAINSTAY_SEED", (random(&mut seed) | 1).to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = Killed(command.spawn().expect("starts"));
        // Every third one comes to its first backup, however busy the machine; the others die anywhere.
        let begun = Instant::now();
        let wait = Duration::from_millis(300 + random(&mut seed) % 2_500);
        while begun.elapsed() < wait || (kill.is_multiple_of(3) && rounds_of(folder.path()) == 0) {
            assert!(begun.elapsed() < LONGEST, "no backup was taken");
            assert!(child.0.try_wait().expect("looks").is_none(), "seed {first}: it ended by itself");
            std::thread::sleep(Duration::from_millis(5));
        }
        child.0.kill().expect("kills");
        child.0.wait().expect("ends");
        rounds += rounds_of(folder.path());
        let count = check(folder.path(), kill);
        // One may be marked and its elders not yet forgotten.
        assert!((1..=KEPT + 1).contains(&count), "seed {first}, kill {kill}: {count} backups");
    }
    assert!(rounds > 1, "the killed processes came to {rounds} rounds");
    let repository = repository(folder.path());
    let last = repository.backups().expect("lists").pop().expect("one");
    let others: Vec<String> =
        repository.backups().expect("lists").into_iter().map(|one| one.id).filter(|id| *id != last.id).collect();
    repository.forget(&others).expect("forgets");
    repository.prune().expect("frees");
    assert_eq!(repository.check(true).expect("checks"), Found::default(), "what was left is cleaned up");
    let size = size(&folder.path().join("place/restic"));
    assert!(size < (FILES * SIZE * 13 / 10) as u64, "{size} bytes for one backup: space is really freed");
    assert_eq!(check(folder.path(), kills), 1);
}

fn rounds_of(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("output")).unwrap_or_default().lines().count()
}

fn size(folder: &Path) -> u64 {
    let of = |entry: std::fs::DirEntry| {
        let path = entry.path();
        if path.is_dir() { size(&path) } else { entry.metadata().map_or(0, |metadata| metadata.len()) }
    };
    std::fs::read_dir(folder).expect("lists").flatten().map(of).sum()
}
