use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use mainstay_types::Secret;

use super::*;
use crate::label::{LABEL_VERSION, Label};

fn label() -> Label {
    let moment = Timestamp::from_millis(1000);
    Label {
        version: LABEL_VERSION,
        stack: "shop".to_owned(),
        system: 77,
        major: 15,
        timeline: 1,
        start: Lsn::new(16),
        stop: Lsn::new(32),
        member: "a".to_owned(),
        from_standby: false,
        began: moment,
        ended: moment,
        files: 1,
        bytes: 1,
        stored_bytes: 1,
        pages: 0,
        name: None,
        is_scheduled: false,
        point: None,
    }
}

fn cluster(folder: &Path) -> PathBuf {
    let data = folder.join("data");
    for inner in ["base/5", "global", "pg_wal", "pg_replslot/old"] {
        fs::create_dir_all(data.join(inner)).expect("folder");
    }
    for (name, size) in
        [("base/5/16384", 700_000), ("base/5/16384.1", 8192), ("global/1260", 8192), ("base/5/empty", 0)]
    {
        fs::write(data.join(name), vec![0; size]).expect("writes");
    }
    for name in ["global/pg_control", "PG_VERSION", "postmaster.pid", "base/5/t3_1234", "base/5/pg_internal.init"] {
        fs::write(data.join(name), name).expect("writes");
    }
    data
}

fn source(data: &Path) -> Source {
    Source { data: data.to_owned(), start: Lsn::new(16), has_checksums: true, stack: "shop".to_owned() }
}

fn repository(folder: &Path) -> Repository {
    Repository::create(&folder.join("restic"), &Secret::new("password")).expect("makes")
}

#[test]
fn a_data_directory_comes_back_as_it_was_with_the_label_and_without_what_is_the_servers_own() {
    let folder = tempfile::tempdir().expect("folder");
    let data = cluster(folder.path());
    let repository = repository(folder.path());
    let calls = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&calls);
    let taken = take(&repository, &source(&data), move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok("START WAL LOCATION: 0/10\n".to_owned())
    });
    let taken = taken.expect("backs up");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(taken.added.files, 7);
    assert!(taken.pages >= 86, "{}", taken.pages);
    assert!(repository.backups().expect("lists").is_empty(), "not before it is marked");
    let backup = repository.mark(taken.unmarked, &label()).expect("marks");
    assert_eq!(repository.backups().expect("lists"), std::slice::from_ref(&backup));
    assert_eq!(repository.check(true).expect("checks"), crate::repository::Found::default());

    let into = folder.path().join("into");
    repository.restore(&backup, &into).expect("restores");
    assert_eq!(fs::read(into.join("base/5/16384")).expect("reads"), vec![0; 700_000]);
    assert_eq!(fs::read(into.join("global/pg_control")).expect("reads"), b"global/pg_control");
    assert!(fs::read_to_string(into.join("backup_label")).expect("reads").starts_with("START WAL LOCATION: 0/10\n\n"));
    assert!(into.join("pg_wal/archive_status").is_dir() && into.join("pg_replslot").is_dir());
    for name in ["postmaster.pid", "base/5/t3_1234", "base/5/pg_internal.init", "pg_replslot/old"] {
        assert!(!into.join(name).exists(), "{name}");
    }
}

#[test]
fn a_damaged_page_fails_the_backup_by_name() {
    let folder = tempfile::tempdir().expect("folder");
    let data = cluster(folder.path());
    let mut pages = vec![0; 700_000];
    pages[3 * PAGE + 14] = 1;
    fs::write(data.join("base/5/16384.1"), &pages[..5 * PAGE]).expect("writes");
    let repository = repository(folder.path());
    let Err(error) = take(&repository, &source(&data), || Ok(String::new())) else { panic!("it was taken") };
    let text = error.to_string();
    assert!(text.contains("base/5/16384.1 block 131075"), "{text}");
    assert!(repository.backups().expect("lists").is_empty());
}

#[test]
fn a_server_that_does_not_end_the_backup_leaves_no_backup() {
    let folder = tempfile::tempdir().expect("folder");
    let data = cluster(folder.path());
    let repository = repository(folder.path());
    let taken = take(&repository, &source(&data), || Err("the standby was promoted".to_owned()));
    assert!(matches!(taken, Err(BackupError::Stop(why)) if why.contains("promoted")));
    fs::remove_file(data.join("global/pg_control")).expect("removes");
    fs::create_dir(data.join("global/pg_control")).expect("folder");
    assert!(take(&repository, &source(&data), || Ok(String::new())).is_err());
    assert!(repository.backups().expect("lists").is_empty());
}

#[test]
fn another_password_and_another_key_open_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let made = repository(folder.path());
    let key = made.key().expect("key");
    let again = Repository::with_key(made.folder(), &key).expect("a key");
    assert!(again.backups().is_ok());
    assert!(Repository::open_with_password(made.folder(), &Secret::new("password")).is_ok());
    let error = Repository::open_with_password(made.folder(), &Secret::new("other")).expect_err("refuses");
    assert!(matches!(error, RepositoryError::Key { .. }), "{error}");
    let other = Repository::create(&folder.path().join("other"), &Secret::new("x")).expect("makes");
    let wrong = Repository::with_key(made.folder(), &other.key().expect("key")).expect("a key");
    assert!(matches!(wrong.backups(), Err(RepositoryError::Key { .. })));
}

#[test]
fn a_second_backup_stores_what_changed() {
    let folder = tempfile::tempdir().expect("folder");
    let data = cluster(folder.path());
    let mut noise = vec![0_u8; 4 << 20];
    let mut state = 1_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    fs::write(data.join("base/5/blob"), &noise).expect("writes");
    let repository = repository(folder.path());
    let first = take(&repository, &source(&data), || Ok("one".to_owned())).expect("backs up").added;
    noise[2 << 20] ^= 1;
    fs::write(data.join("base/5/blob"), &noise).expect("writes");
    let second = take(&repository, &source(&data), || Ok("two".to_owned())).expect("backs up").added;
    assert_eq!(first.bytes, second.bytes);
    assert!(first.stored_bytes > 4 << 20, "{first:?}");
    assert!(second.stored_bytes < 300 << 10, "one chunk, the label and the trees: {second:?}");
}

#[test]
fn a_backup_whose_label_is_a_later_versions_is_named_and_not_taken_for_an_unfinished_one() {
    let folder = tempfile::tempdir().expect("folder");
    let data = cluster(folder.path());
    let repository = repository(folder.path());
    let take = || take(&repository, &source(&data), || Ok(String::new())).expect("backs up").unmarked;
    let ours = repository.mark(take(), &label()).expect("marks");
    let later = Label { version: LABEL_VERSION + 1, ..label() };
    assert!(repository.mark(take(), &later).is_err(), "it is not listed");
    drop(take());
    assert_eq!(repository.unreadable().expect("lists").len(), 1);
    assert_eq!(repository.forget(&[]).expect("forgets"), 1, "the unmarked one alone");
    assert_eq!(repository.unreadable().expect("lists").len(), 1);
    assert_eq!(repository.backups().expect("lists"), [ours]);
}

#[test]
fn a_pack_that_nothing_refers_to_is_no_fault() {
    let folder = tempfile::tempdir().expect("folder");
    let data = cluster(folder.path());
    let repository = repository(folder.path());
    let taken = take(&repository, &source(&data), || Ok(String::new())).expect("backs up");
    repository.mark(taken.unmarked, &label()).expect("marks");
    let stray = folder.path().join("restic/data/ab").join("ab".repeat(32));
    fs::write(stray, "of a run that was killed").expect("writes");
    let found = repository.check(false).expect("checks");
    assert_eq!((found.faults.len(), found.warnings.len()), (0, 1), "{found:?}");
}

/// Chunks were of 256 KiB once, and of another size they would all be stored again.
#[test]
fn a_repository_goes_on_with_the_chunks_that_it_was_made_with() {
    for (chunk, stored_again) in [("256 KiB", 256 << 10), ("128 KiB", 128 << 10)] {
        let folder = tempfile::tempdir().expect("folder");
        let data = cluster(folder.path());
        let mut content: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
        fs::write(data.join("base/5/16385x"), &content).expect("writes");
        let at = folder.path().join("restic");
        let made = Repository::create_with(&at, &Secret::new("password"), chunk).expect("makes");
        let again = Repository::with_key(&at, &made.key().expect("key")).expect("opens");
        let mut new_bytes = Vec::new();
        for repository in [made, again] {
            let taken = take(&repository, &source(&data), || Ok("label\n".to_owned())).expect("backs up");
            new_bytes.push(taken.added.new_bytes);
            content[700_000] ^= 1;
            fs::write(data.join("base/5/16385x"), &content).expect("writes");
        }
        assert!((1 << 20..2 << 20).contains(&new_bytes[0]), "{new_bytes:?}");
        // The chunk with the byte, and the folders' lists of chunks.
        assert!((stored_again..stored_again + 16_000).contains(&new_bytes[1]), "{chunk}: {new_bytes:?}");
    }
}
