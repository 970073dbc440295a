use std::fs;
use std::path::{Path, PathBuf};

use mainstay_types::Secret;

use super::*;
use crate::keys;

const SIZE: u64 = 1 << 20;
const SYSTEM: u64 = 77;

struct Scene {
    folder: tempfile::TempDir,
    key: Secret,
    recipient: String,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir_all(folder.path().join("data/global")).expect("folder");
        fs::create_dir_all(folder.path().join("data/pg_wal")).expect("folder");
        let (key, recipient) = keys::new_wal_key();
        let scene = Self { folder, key, recipient };
        fs::write(scene.data().join("global/pg_control"), SYSTEM.to_le_bytes()).expect("writes");
        scene
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn archive(&self) -> PathBuf {
        self.folder.path().join("archive")
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = Path::new("pg_wal").join(name);
        fs::write(self.data().join(&path), content).expect("writes");
        path
    }

    fn push(&self, name: &str, content: &[u8]) -> Result<Pushed, PushError> {
        push(&self.archive(), &self.recipient, (&self.data(), &self.write(name, content)), Until::OnDisk)
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, GetError> {
        let into = self.folder.path().join("got");
        get(&self.archive(), &self.key, SYSTEM, name, &into)?;
        Ok(fs::read(into).expect("reads"))
    }
}

fn segment(part: u8, fill: u8) -> Vec<u8> {
    let mut content = vec![fill; usize::try_from(SIZE).expect("fits")];
    content[..2].copy_from_slice(&0xD110_u16.to_le_bytes());
    content[2..4].copy_from_slice(&2_u16.to_le_bytes());
    content[4..8].copy_from_slice(&1_u32.to_le_bytes());
    content[8..16].copy_from_slice(&(u64::from(part) * SIZE).to_le_bytes());
    content[24..32].copy_from_slice(&SYSTEM.to_le_bytes());
    content[32..36].copy_from_slice(&u32::try_from(SIZE).expect("fits").to_le_bytes());
    content
}

fn name(part: u8) -> String {
    format!("0000000100000000{part:08X}")
}

#[test]
fn what_went_in_comes_out_and_lies_there_unreadable() {
    let scene = Scene::new();
    let content = segment(3, 9);
    assert!(matches!(scene.push(&name(3), &content), Ok(Pushed::Stored(bytes)) if bytes < SIZE / 10));
    assert_eq!(scene.get(&name(3)).expect("gets"), content);
    assert!(scene.push("00000002.history", b"1\t0/3000000\tno recovery target\n").is_ok());
    assert_eq!(scene.get("00000002.history").expect("gets"), b"1\t0/3000000\tno recovery target\n");
    assert!(scene.push(&format!("{}.partial", name(4)), &segment(4, 1)).is_ok());
    let listed = list(&scene.archive(), SYSTEM).expect("lists");
    assert_eq!((listed.segments.len(), listed.histories, listed.partials.len()), (1, vec![2], 1));
    assert!(matches!(scene.get(&name(5)), Err(GetError::Missing(_))));
}

#[test]
fn the_same_again_is_well_and_another_content_is_refused() {
    let scene = Scene::new();
    scene.push(&name(3), &segment(3, 9)).expect("stores");
    assert_eq!(scene.push(&name(3), &segment(3, 9)).expect("knows it"), Pushed::AlreadyThere);
    let error = scene.push(&name(3), &segment(3, 8)).expect_err("refuses");
    assert!(matches!(error, PushError::Different { .. }), "{error}");
    assert_eq!(scene.get(&name(3)).expect("gets"), segment(3, 9), "the first stays");
}

#[test]
fn a_file_that_is_not_what_its_name_says_is_refused() {
    let scene = Scene::new();
    let cases: [(&str, Vec<u8>); 5] = [
        ("its first page is of position", segment(4, 9)),
        ("it has", segment(3, 9)[..4096].to_vec()),
        ("it is of the cluster 78", {
            let mut content = segment(3, 9);
            content[24] = 78;
            content
        }),
        ("its pages are of timeline 2", {
            let mut content = segment(3, 9);
            content[4] = 2;
            content
        }),
        ("its first page has no header", vec![0; usize::try_from(SIZE).expect("fits")]),
    ];
    for (why, content) in cases {
        let error = scene.push(&name(3), &content).expect_err(why);
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(matches!(scene.push("postgresql.conf", b"x"), Err(PushError::Name(_))));
    assert!(list(&scene.archive(), SYSTEM).expect("lists").segments.is_empty());
}

#[test]
fn every_flipped_byte_of_an_archived_segment_is_found() {
    let scene = Scene::new();
    scene.push(&name(3), &segment(3, 9)).expect("stores");
    let found = find(&folder_of(&scene.archive(), SYSTEM), &Name::parse(&name(3)).expect("a name")).expect("lists");
    let (path, sound) = (found[0].0.clone(), fs::read(&found[0].0).expect("reads"));
    let mut flips = 0;
    for at in (0..sound.len()).step_by(sound.len().div_ceil(200)) {
        let mut damaged = sound.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, damaged).expect("writes");
        let error = scene.get(&name(3)).expect_err("finds it");
        assert!(matches!(error, GetError::Damaged { .. }), "byte {at}: {error}");
        flips += 1;
    }
    assert!(flips > 100, "{flips}");
    fs::write(&path, &sound[..sound.len() / 2]).expect("writes");
    assert!(matches!(scene.get(&name(3)), Err(GetError::Damaged { .. })), "cut");
}

#[test]
fn what_a_killed_push_left_does_no_harm() {
    let scene = Scene::new();
    let folder = folder_of(&scene.archive(), SYSTEM).join("0000000100000000");
    fs::create_dir_all(&folder).expect("folder");
    fs::write(folder.join(".unfinished"), b"half").expect("writes");
    assert!(list(&scene.archive(), SYSTEM).expect("lists").segments.is_empty());
    assert!(matches!(scene.push(&name(3), &segment(3, 9)), Ok(Pushed::Stored(_))));
    assert_eq!(scene.get(&name(3)).expect("gets"), segment(3, 9));
}

#[test]
fn a_gap_in_the_archive_is_two_runs() {
    let scene = Scene::new();
    for part in [3, 4, 6] {
        scene.push(&name(part), &segment(part, 9)).expect("stores");
    }
    let runs = list(&scene.archive(), SYSTEM).expect("lists").runs(SIZE);
    let runs: Vec<(u32, u32)> = runs.iter().map(|run| (run.first.part, run.last.part)).collect();
    assert_eq!(runs, [(3, 4), (6, 6)]);
}

/// A file of which the store has nothing yet counts for nothing, and one that the store has leaves a link that leads
/// nowhere: no look through the archive opens it.
#[test]
fn a_segment_is_archived_when_the_store_has_it_and_not_before() {
    let scene = Scene::new();
    let pid = scene.data().join("postmaster.pid");
    fs::write(&pid, "1\n\n\n\n\n\n\nstopping\n").expect("writes");
    let send = |content: &[u8]| {
        let file = scene.write(&name(3), content);
        push(&scene.archive(), &scene.recipient, (&scene.data(), &file), Until::InStore)
    };
    let error = send(&segment(3, 9)).expect_err("the store has nothing");
    assert!(matches!(error, PushError::Waits { .. }), "{error}");
    assert!(error.to_string().contains("the server ends"), "{error}");
    assert!(list(&scene.archive(), SYSTEM).expect("lists").segments.is_empty());
    let waiting = spool::spooled(&scene.archive()).expect("looks");
    assert_eq!(waiting.len(), 1);
    let error = send(&segment(3, 8)).expect_err("another content");
    assert!(matches!(error, PushError::Different { .. }), "{error}");

    let file = waiting[0].name.rsplit('/').next().expect("a name").to_owned();
    assert_eq!(waiting[0].name, format!("wal/{SYSTEM}/0000000100000000/{file}"));
    spool::arrived(&waiting[0]).expect("makes the link");
    spool::arrived(&waiting[0]).expect_err("it is not in the spool any more");
    assert_eq!(send(&segment(3, 9)).expect("knows it"), Pushed::AlreadyThere);
    assert!(matches!(send(&segment(3, 8)), Err(PushError::Different { .. })));
    let listed = list(&scene.archive(), SYSTEM).expect("lists");
    assert_eq!(listed.segments.values().copied().collect::<Vec<_>>(), [(waiting[0].bytes, waiting[0].at)]);
    assert!(matches!(scene.get(&name(3)), Err(GetError::Damaged { .. })), "nobody takes it for the end of the archive");
    assert!(spool::spooled(&scene.archive()).expect("looks").is_empty());
    let removed = remove(&scene.archive(), SYSTEM, |_| false).expect("removes");
    assert_eq!((removed.segments, removed.bytes), (1, waiting[0].bytes));
}

#[test]
fn a_segment_that_the_store_takes_meanwhile_is_archived_by_the_call_that_waits() {
    let scene = Scene::new();
    std::thread::scope(|scope| {
        let sends = scope.spawn(|| {
            let file = scene.write(&name(3), &segment(3, 9));
            push(&scene.archive(), &scene.recipient, (&scene.data(), &file), Until::InStore)
        });
        let waiting = loop {
            if let Some(waiting) = spool::spooled(&scene.archive()).expect("looks").pop() {
                break waiting;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        assert!(!sends.is_finished());
        spool::arrived(&waiting).expect("makes the link");
        assert!(matches!(sends.join().expect("ends"), Ok(Pushed::Stored(bytes)) if bytes == waiting.bytes));
    });
}
