use std::sync::Arc;

use mainstay_backup::base::{self, Source};
use mainstay_backup::label::{LABEL_VERSION, Label};
use mainstay_backup::proof::{self, PROOF_VERSION, Point};
use mainstay_types::EnvironmentName;

use super::*;

const HOUR: i64 = 3_600_000;

/// A place with a repository, of a stack that keeps nothing but what it must.
struct Scene {
    folder: tempfile::TempDir,
    backups: Arc<Backups>,
}

fn policy() -> Policy {
    let text = "stack = \"shop\"\n[service.a]\nrun = \"./a\"\n[database]\n[database.backup]\ntarget = \"/b\"\nwindow = \
                \"1h\"\n[database.backup.keep]\nhourly = \"0d\"\ndaily = \"0d\"\nweekly = \"0d\"\nmonthly = \"0d\"\n";
    let parsed = mainstay_stack::parse(text, "mainstay.toml", &EnvironmentName::default());
    let parsed = parsed.unwrap_or_else(|found| panic!("{found}"));
    parsed.stack.database.and_then(|database| database.backup).expect("a backup")
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("global")).expect("folder");
        std::fs::write(data.join("global/pg_control"), "x").expect("writes");
        let place = Place::new(&folder.path().join("place"));
        let new = place.create("shop", "test", &Secret::new("password")).expect("makes");
        let state = folder.path().join("state");
        std::fs::create_dir(&state).expect("folder");
        let runtime = folder.path().join("run");
        let backups = Arc::new(Backups {
            stack: "shop".to_owned(),
            repository: Repository::with_key(&place.repository(), &new.key).expect("opens"),
            place,
            store: None,
            policy: policy(),
            database: "shop".to_owned(),
            environment: "test".to_owned(),
            recipient: new.about.recipient,
            wal_key: new.wal_key,
            password: Some(Secret::new("password")),
            layout: Layout { state, runtime, bin: PathBuf::new(), user: None },
            superuser: Secret::new("superuser"),
            patience: Patience::none(),
        });
        Self { folder, backups }
    }

    fn take(&self, hours: i64, point: Option<Lsn>) -> mainstay_backup::repository::Backup {
        let start = Lsn::new(u64::try_from(hours).expect("fits") * 100 + 16);
        let data = self.folder.path().join("data");
        let source = Source { data, start, has_checksums: false, stack: "shop".to_owned() };
        let taken = base::take(&self.backups.repository, &source, || Ok(String::new())).expect("backs up");
        let at = Timestamp::from_millis(hours * HOUR);
        let label = Label {
            version: LABEL_VERSION,
            stack: "shop".to_owned(),
            system: 77,
            major: 15,
            timeline: 1,
            start,
            stop: start,
            member: "a".to_owned(),
            from_standby: false,
            began: at,
            ended: at,
            files: 1,
            bytes: 1,
            stored_bytes: 1,
            pages: 0,
            name: None,
            is_scheduled: true,
            point,
        };
        self.backups.repository.mark(taken.unmarked, &label).expect("marks")
    }

    fn prune(&self) -> Result<Pruned, Error> {
        let deleting = self.backups.place.hold_to_delete().expect("nobody reads");
        keeping::prune(&self.backups, &deleting)
    }
}

#[test]
fn nothing_is_freed_while_a_proof_cannot_be_read() {
    let scene = Scene::new();
    let all: Vec<_> = [0, 30, 60].into_iter().map(|hours| scene.take(hours, None)).collect();
    let proofs = scene.backups.place.proofs();
    std::fs::create_dir_all(&proofs).expect("folder");
    let damaged = proofs.join(format!("{}.proof.age", all[0].id));
    std::fs::write(&damaged, "x").expect("writes");
    let refused = scene.prune().expect_err("it cannot be told what is kept").to_string();
    assert!(refused.contains("nothing was freed") && refused.contains(&all[0].id[..8]), "{refused}");
    assert_eq!(scene.backups.repository.backups().expect("lists"), all);
    assert!(damaged.exists());
    std::fs::remove_file(&damaged).expect("removes");
    assert_eq!(scene.prune().expect("frees").forgotten, [all[0].id.clone()]);
}

#[test]
fn a_proof_without_what_its_source_was_counted_as_has_a_fault() {
    let scene = Scene::new();
    let faults = |backup: &mainstay_backup::repository::Backup| prove::faults_of_point(&scene.backups, backup);
    assert_eq!(faults(&scene.take(0, None)), Vec::<String>::new(), "it never was: its proof says so");
    let lsn = Lsn::new(4242);
    let counted = scene.take(1, Some(lsn));
    let found = faults(&counted);
    assert!(matches!(found.as_slice(), [one] if one.contains("is not there")), "{found:?}");
    let at = Timestamp::from_millis(HOUR);
    let point =
        Point { version: PROOF_VERSION, lsn, at, tables: Vec::new(), left_out: Vec::new(), relations: Vec::new() };
    let proofs = scene.backups.place.proofs();
    proof::write_point(&proofs, &scene.backups.recipient, 77, &point).expect("writes");
    assert_eq!(faults(&counted), Vec::<String>::new());
    let file = std::fs::read_dir(&proofs).expect("lists").flatten().next().expect("one").path();
    std::fs::write(file, "x").expect("writes");
    let found = faults(&counted);
    assert!(matches!(found.as_slice(), [one] if one.contains("cannot be read")), "{found:?}");
}

/// Every file that has bytes, below a folder.
fn files(folder: &std::path::Path) -> Vec<PathBuf> {
    let inner = std::fs::read_dir(folder).expect("lists").flatten().map(|entry| entry.path());
    let all = inner.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    all.filter(|path| std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0)).collect()
}

#[test]
fn a_byte_that_changed_in_any_file_that_a_restore_needs_is_found_by_the_check() {
    let scene = Scene::new();
    let lsn = Lsn::new(4242);
    scene.take(1, Some(lsn));
    let (backups, place) = (&scene.backups, &scene.backups.place);
    let point = Point {
        version: PROOF_VERSION,
        lsn,
        at: Timestamp::from_millis(1),
        tables: vec![],
        left_out: vec![],
        relations: vec![],
    };
    proof::write_point(&place.proofs(), &backups.recipient, 77, &point).expect("writes");
    // A history is small and whole; segments have the size that PostgreSQL gives them.
    let data = scene.folder.path().join("data");
    std::fs::write(data.join("global/pg_control"), 77_u64.to_le_bytes()).expect("writes");
    std::fs::write(data.join("00000002.history"), "1\t0/3000000\tno reason\n").expect("writes");
    let history = std::path::Path::new("00000002.history");
    mainstay_backup::wal::push(&place.wal(), &backups.recipient, (&data, history), Until::OnDisk).expect("archives");
    // No segment was archived: that is a fault of its own, and the only one.
    let faults = || check(backups, true).map(|checked| checked.faults);
    let before = faults().expect("checks");
    assert!(matches!(before.as_slice(), [one] if one.contains("is not whole in the archive")), "{before:?}");

    let mut looked_at = 0;
    for path in files(place.folder()).into_iter().filter(|path| !path.ends_with("README.txt")) {
        let content = std::fs::read(&path).expect("reads");
        for at in [content.len() / 3, content.len() - 1] {
            let mut damaged = content.clone();
            damaged[at] ^= 0x11;
            std::fs::write(&path, damaged).expect("writes");
            let found = faults();
            assert!(found.as_ref().map_or(true, |found| found.len() > 1), "{} at {at}: {found:?}", path.display());
            looked_at += 1;
        }
        std::fs::remove_file(&path).expect("removes");
        let found = faults();
        let is_noted =
            path.to_string_lossy().contains("/snapshots/") || path.extension().is_some_and(|end| end == "age");
        // A snapshot or a history that is gone was never there, as far as anybody knows.
        assert!(is_noted || found.as_ref().map_or(true, |found| found.len() > 1), "{} gone: {found:?}", path.display());
        std::fs::write(&path, content).expect("writes");
    }
    assert!(looked_at >= 2 * 9, "config, key, index, snapshot, packs, both keys' files, point, history: {looked_at}");
    assert_eq!(faults().expect("checks"), before);
}
