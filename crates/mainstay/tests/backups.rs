//! Backups of a real stack: archived, backed up from the standby, damaged on purpose, and the past opened beside the
//! present. One test, because a stack takes its time to come up.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything in this test.
const WITHIN: Duration = Duration::from_secs(90);

struct World {
    folder: tempfile::TempDir,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let world = Self { folder };
        for inner in ["", "app", "state", "backups"] {
            let path = world.folder.path().join(inner);
            std::fs::create_dir_all(&path).expect("folder");
            // Servers that dropped root pass through.
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o711)).expect("mode");
        }
        world.write("archived");
        world
    }

    fn write(&self, stack: &str) {
        let text = format!(
            "stack = \"{stack}\"\n\n[observe]\nenabled = false\n\n[service.idle]\nrun = [\"sleep\", \"1000000\"]\n\
             port = false\n\n[database]\nname = \"shop\"\n\n[database.backup]\ntarget = \"../backups\"\nrpo = \"2s\"\n"
        );
        std::fs::write(self.folder.path().join("app/mainstay.toml"), text).expect("writes");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.args(arguments.split(|word| *word == "--").next().unwrap_or_default());
        command.arg("--state").arg(self.folder.path().join("state"));
        if let Some(at) = arguments.iter().position(|word| *word == "--") {
            command.args(&arguments[at..]);
        }
        command.current_dir(self.folder.path().join("app")).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let Output { status, stdout, stderr } = self.command(arguments).output().expect("runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { code: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
    }

    fn well(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        assert_eq!(ran.code, 0, "{arguments:?} said:\n{}{}", ran.out, ran.err);
        ran.out
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.well(arguments)).expect("JSON")
    }

    /// A statement of the application's role, through the router.
    fn sql(&self, statement: &str) -> String {
        self.well(&["db", "psql", "--", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", statement]).trim().to_owned()
    }

    fn fails(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let ran = self.run(arguments);
        assert_eq!(ran.code, code, "{arguments:?} said:\n{}{}", ran.out, ran.err);
        for word in words {
            assert!(ran.err.contains(word) || ran.out.contains(word), "{word:?} is not in:\n{}{}", ran.out, ran.err);
        }
    }

    /// Archived segments, by name.
    fn segments(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        list(&self.folder.path().join("backups/wal"), &mut found);
        found.sort();
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.command(&["down"]).output().ok();
    }
}

fn list(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(&path, found);
        } else if path.to_string_lossy().ends_with(".zst.age") && !path.to_string_lossy().contains(".backup-") {
            found.push(path);
        }
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < WITHIN, "{what} did not come true within {WITHIN:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn psql(url: &str, statement: &str) -> Output {
    Command::new("psql").arg(url).args(["-qAt", "-v", "ON_ERROR_STOP=1", "-c", statement]).output().expect("runs")
}

/// Opens the past and gives what it says of itself.
fn open(world: &World, moment: &str) -> (Child, Value) {
    let mut child =
        world.command(&["restore", "--to", moment, "--json"]).stdout(Stdio::piped()).spawn().expect("starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("reads");
    let value: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{moment}: it said {line:?}"));
    assert!(value["conninfo"].is_string(), "{value}");
    (child, value)
}

fn interrupt(mut child: Child) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("fits")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signals");
    assert!(child.wait().expect("ends").success());
}

#[test]
fn a_stack_is_archived_backed_up_and_its_past_is_opened() {
    let world = World::new();
    let up = world.well(&["up", "--detach"]);
    let card = world.well(&["backup", "card"]);
    let password = card.lines().find_map(|line| line.trim().strip_prefix("password")).expect("a password").trim();
    assert!(up.contains("recovery card") && up.contains(password), "{up}");
    assert!(up.contains("disk of the data"), "one disk is called one disk: {up}");
    world.fails(&["restore", "--to", "latest", "--dry-run"], 2, &["MS2110", "no base backup"]);

    world.sql("CREATE TABLE orders (id int PRIMARY KEY, note text)");
    world.sql("INSERT INTO orders SELECT n, repeat('x', 100) FROM generate_series(1, 5000) AS n");
    until("a standby streams", || world.run(&["status"]).out.contains("commits synchronous"));
    let first = world.json(&["backup", "now", "--name", "before the fault", "--json"]);
    assert_eq!(first["label"]["from_standby"], true, "{first}");
    assert!(first["label"]["pages"].as_u64().is_some_and(|pages| pages > 1000), "{first}");
    let second = world.json(&["backup", "now", "--json"]);
    let stored = |value: &Value| value["label"]["stored_bytes"].as_u64().expect("a number");
    assert!(stored(&second) * 5 < stored(&first), "a second backup stores what changed: {first} {second}");
    assert!(world.well(&["backup", "list"]).contains("before the fault"));

    dropped_table(&world);
    assert!(world.well(&["backup", "check"]).contains("every byte is as it was written"));
    damage(&world);
    other_stack(&world);
}

/// A table is dropped; the moment before is opened, and the present is left alone.
fn dropped_table(world: &World) {
    world.sql("INSERT INTO orders VALUES (5001, 'the last one')");
    std::thread::sleep(Duration::from_millis(50));
    let moment = world.sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')");
    std::thread::sleep(Duration::from_millis(50));
    world.sql("DROP TABLE orders");
    world.sql("CREATE TABLE later (id int)");
    until("the moment is in the archive", || world.run(&["restore", "--to", &moment, "--dry-run"]).code == 0);
    let plan = world.json(&["restore", "--to", &moment, "--dry-run", "--json"]);
    assert!(plan["bytes"].as_u64() > Some(1_000_000) && plan["expected_ms"].is_null(), "{plan}");

    let (child, value) = open(world, &moment);
    let url = format!("{} dbname=shop", value["conninfo"].as_str().expect("an address"));
    let rows = psql(&url, "SELECT count(*), max(note) FILTER (WHERE id = 5001) FROM orders");
    assert_eq!(String::from_utf8_lossy(&rows.stdout).trim(), "5001|the last one", "{rows:?}");
    let write = psql(&url, "INSERT INTO orders VALUES (0, '')");
    assert!(String::from_utf8_lossy(&write.stderr).contains("read-only"), "{write:?}");
    interrupt(child);
    let left = std::fs::read_dir(world.folder.path().join("state/archived/development/past")).expect("lists");
    let left: Vec<_> = left.flatten().filter(|entry| entry.path().is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
    let plan = world.json(&["restore", "--to", "latest", "--dry-run", "--json"]);
    assert!(plan["expected_ms"].is_number(), "a rate was measured: {plan}");
    assert_eq!(world.sql("SELECT to_regclass('orders') IS NULL, to_regclass('later') IS NULL"), "t|f");

    world.fails(&["restore", "--to", "2020-01-01 00:00"], 2, &["MS2110", "reachable is"]);
    world.fails(&["restore", "--to", "2099-01-01 00:00"], 2, &["MS2110", "end of the archive"]);
    world.fails(&["restore", "--to", "xid 4000000000"], 1, &["MS1112", "before configured recovery target"]);
}

/// What is damaged or missing is found, and never taken for the end.
fn damage(world: &World) {
    let segments = world.segments();
    let victim = segments.last().expect("a segment");
    let sound = std::fs::read(victim).expect("reads");
    let mut damaged = sound.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(victim, damaged).expect("writes");
    world.fails(&["backup", "check"], 1, &["MS1111", "is damaged"]);
    world.fails(&["restore", "--to", "latest", "--once"], 1, &["MS1112", "is damaged"]);
    std::fs::write(victim, &sound).expect("writes");
    world.well(&["restore", "--to", "latest", "--once"]);

    // Two more segments, then the one before the last is taken away.
    let count = world.segments().len();
    for n in 0..2 {
        world.sql(&format!("INSERT INTO later VALUES ({n})"));
        until("another segment is archived", || world.segments().len() > count + n);
    }
    let segments = world.segments();
    let victim = &segments[segments.len() - 2];
    let aside = world.folder.path().join("aside");
    std::fs::rename(victim, &aside).expect("moves");
    world.fails(&["backup", "check", "--quick"], 1, &["MS1111", "gap in the archive"]);
    std::fs::rename(&aside, victim).expect("moves");
    world.well(&["backup", "check", "--quick"]);
}

/// Another stack's folder is refused with nothing started, and the own one is known again.
fn other_stack(world: &World) {
    world.well(&["down"]);
    world.write("another");
    world.fails(&["up", "--detach"], 4, &["MS4110", "archived"]);
    world.write("archived");
    let again = world.well(&["up", "--detach"]);
    assert!(!again.contains("recovery card"), "{again}");
    assert!(world.well(&["backup", "list"]).contains("before the fault"));
}
