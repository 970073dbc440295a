//! Backups of a real stack: archived, backed up from the standby, damaged on purpose, and the past opened beside the
//! present. One test, because a stack takes its time to come up.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything in this test: jobs of the backups get what a busy machine leaves.
const WITHIN: Duration = Duration::from_secs(300);

struct World {
    folder: tempfile::TempDir,
    /// More of `[database.backup]`.
    backup: String,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// No backup is taken that the test does not take.
const BY_HAND: &str = "\n[database.backup.keep]\nhourly = \"0d\"\ndaily = \"0d\"\nweekly = \"0d\"\nmonthly = \"0d\"\n";

impl World {
    fn new(backup: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let world = Self { folder, backup: backup.to_owned() };
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
             port = false\n\n[target]\nrestore = {{ rto = \"10m\", rpo = \"60s\" }}\n\n[database]\nname = \"shop\"\n\n[database.backup]\ntarget = \"../backups\"\nrpo = \"2s\"\n{}",
            self.backup
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
    let world = World::new(BY_HAND);
    let up = world.well(&["up", "--detach", "--wait", "300"]);
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
    let point =
        second["label"]["point"].as_str().unwrap_or_else(|| panic!("its source was not counted: {second}")).to_owned();
    let first = first["id"].as_str().expect("an identity");
    let second = second["id"].as_str().expect("an identity");
    the_control_plane_proves(&world, &[first, second]);

    dropped_table(&world);
    found_by_what_happened(&world, &point);
    assert!(world.well(&["backup", "check"]).contains("every byte is as it was written"));
    drills(&world);
    damage(&world);
}

#[test]
fn the_past_takes_the_place_of_the_present() {
    let world = World::new(BY_HAND);
    world.well(&["up", "--detach", "--wait", "300"]);
    let card = world.well(&["backup", "card"]);
    until("a standby streams", || world.run(&["status"]).out.contains("commits synchronous"));
    world.well(&["backup", "now", "--name", "before the fault"]);
    in_place(&world);
    by_the_card(&world, &card);
    other_stack(&world);
}

/// The past takes the place of the present behind the router, and the present comes back.
fn in_place(world: &World) {
    world.sql("CREATE TABLE accounts (id int PRIMARY KEY)");
    world.sql("INSERT INTO accounts SELECT generate_series(1, 100)");
    std::thread::sleep(Duration::from_millis(50));
    let moment = world.sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')");
    std::thread::sleep(Duration::from_millis(50));
    world.sql("DELETE FROM accounts WHERE id > 10");
    until("the moment is in the archive", || world.run(&["restore", "--to", &moment, "--dry-run"]).code == 0);
    // What is left behind goes on to positions that the restored past does not come to soon.
    for n in 0..3 {
        // By its name: meanwhile those go that no backup needs any more.
        let last = world.segments().pop();
        world.sql(&format!("INSERT INTO accounts VALUES ({})", 500 + n));
        until("another segment is archived", || world.segments().pop() > last);
    }
    world.fails(&["restore", "--to", &moment, "--swap"], 4, &["MS4002", "--confirm archived"]);
    let done = world.json(&["restore", "--to", &moment, "--swap", "--confirm", "archived", "--json"]);
    let accounts = &done["beside"]["differs"]["tables"][0];
    assert_eq!((&accounts["now"]["rows"], &accounts["then"]["rows"]), (&13.into(), &100.into()), "{done}");
    assert!(leaves_out(&done["beside"], 4), "{done}");
    assert_eq!(world.sql("SELECT count(*) FROM accounts"), "100", "{done}");
    world.sql("INSERT INTO accounts VALUES (1000)");
    assert!(done["backup"].is_string(), "a base backup of the new timeline: {done}");
    until("the standby is cloned again", || world.run(&["status"]).out.contains("commits synchronous"));
    assert!(world.well(&["events"]).contains("DataReplaced"));
    until_archived(world);
    let (child, value) = open(world, "latest");
    let url = format!("{} dbname=shop", value["conninfo"].as_str().expect("an address"));
    let rows = psql(&url, "SELECT count(*), max(id) FROM accounts");
    assert_eq!(String::from_utf8_lossy(&rows.stdout).trim(), "101|1000", "the present's past: {rows:?}");
    interrupt(child);
    assert_eq!(world.run(&["backup", "check", "--quick"]).code, 0, "no gap on the way here");

    let kept = done["kept_as"].as_str().expect("a name");
    world.fails(&["restore", "--undo", "a/nothing", "--confirm", "archived"], 2, &["MS2110"]);
    world.json(&["restore", "--undo", kept, "--confirm", "archived", "--json"]);
    assert_eq!(world.sql("SELECT count(*) FROM accounts"), "13");
    until("the standby is cloned again", || world.run(&["status"]).out.contains("commits synchronous"));
    world.well(&["backup", "check", "--quick"]);
}

/// Waits until what was written so far is in the archive. Something is written after the moment that is looked for: when
/// its segment was archived just before it, the next one would be that of a checkpoint, minutes later.
fn until_archived(world: &World) {
    let now = world.sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')");
    std::thread::sleep(Duration::from_millis(50));
    world.sql("COMMENT ON TABLE accounts IS 'later'");
    until("it is in the archive", || world.run(&["restore", "--to", &now, "--dry-run"]).code == 0);
}

/// On a machine that has nothing but the repository and the card.
fn by_the_card(world: &World, card: &str) {
    world.sql("INSERT INTO accounts VALUES (2000)");
    until_archived(world);
    world.well(&["down"]);
    let base = world.folder.path();
    let file = base.join("card");
    std::fs::write(&file, card).expect("writes");
    let other = base.join("other");
    std::fs::create_dir(&other).expect("folder");
    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o711)).expect("mode");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mainstay"));
        command.arg("--state").arg(&other).args(arguments).current_dir(base.join("app")).stdin(Stdio::null());
        command.output().expect("runs")
    };
    let (from, card) = (base.join("backups").display().to_string(), file.display().to_string());
    std::fs::write(base.join("wrong"), "0000111122223333").expect("writes");
    let wrong = base.join("wrong").display().to_string();
    let refused = run(&["restore", "--from", &from, "--card", &wrong]);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(4) && words.contains("does not open") && words.contains("archived"),
        "{words}"
    );
    let restored = run(&["restore", "--from", &from, "--card", &card]);
    assert!(restored.status.success(), "{restored:?}");
    let again = run(&["restore", "--from", &from, "--card", &card]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"), "{again:?}");
    let up = run(&["up", "--detach"]);
    let rows = run(&["db", "psql", "--", "-qAt", "-c", "SELECT count(*), max(id) FROM accounts"]);
    let down = run(&["down"]);
    assert!(up.status.success() && down.status.success(), "{up:?} {down:?}");
    assert_eq!(String::from_utf8_lossy(&rows.stdout).trim(), "14|2000", "{rows:?}");
    world.well(&["up", "--detach", "--wait", "300"]);
}

/// Every backup is restored and compared without anybody asking, also one that a person took.
fn the_control_plane_proves(world: &World, ids: &[&str]) {
    let proof = |id: &str| {
        let list = world.json(&["backup", "list", "--json"]);
        let of = |one: &&Value| one["id"] == id;
        list["backups"]
            .as_array()
            .expect("backups")
            .iter()
            .find(of)
            .map(|one| one["proof"].clone())
            .expect("it is there")
    };
    for id in ids {
        until("it is proven", || !proof(id).is_null());
        let proof = proof(id);
        assert_eq!((&proof["is_proven"], &proof["faults"]), (&true.into(), &serde_json::json!([])), "{proof}");
        assert!(proof["tables"].as_u64() > Some(0) && proof["rows"].as_u64() >= Some(5000), "{proof}");
        assert_eq!(proof["wanted"], proof["reached"], "to the byte: {proof}");
        assert_eq!(proof["left_out"], serde_json::json!([]), "{proof}");
        for what in ["restore", "replay", "compare", "amcheck", "checksums"] {
            assert!(proof["took_ms"][what].is_number(), "{what}: {proof}");
        }
    }
    until("the status says so", || world.run(&["status"]).out.contains("last proven restore"));
    let events = world.well(&["events"]);
    assert!(events.contains("was restored and is right"), "{events}");
    let status: Value = serde_json::from_str(&world.run(&["status", "--json"]).out).expect("JSON");
    assert_eq!(status["backups"]["faults"], serde_json::json!([]), "{status}");
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
    assert!(plan["bytes"].as_u64() > Some(1_000_000), "{plan}");

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
    world.fails(&["restore", "--to", "xid 4000000000", "--dry-run"], 2, &["MS2110", "has not begun"]);
    as_expected(world, &moment);
}

/// How long it takes is said before, by the last restore here: at most so many times off, either way. The machine of a
/// test does other things, too.
const EXPECTED_WITHIN: u64 = 4;

#[expect(clippy::print_stdout, reason = "a figure of the test run")]
fn as_expected(world: &World, moment: &str) {
    let expected = world.json(&["restore", "--to", moment, "--dry-run", "--json"])["expected_ms"].as_u64();
    let expected = expected.expect("a rate was measured");
    let done = world.json(&["restore", "--to", moment, "--once", "--json"]);
    let took = |what: &str| done[what].as_u64().expect("a time");
    let measured = took("restored_ms") + took("replayed_ms");
    println!(
        "a restore was expected to take {expected} ms and took {measured} ms, {EXPECTED_WITHIN} times off at most"
    );
    assert!(measured <= expected * EXPECTED_WITHIN && expected <= measured * EXPECTED_WITHIN, "{done}");
}

/// So many commits at least are said to be left out. Counting them has a bound in time, which a busy machine comes to with
/// a program that is not optimised: then it must say so, and have begun.
fn leaves_out(said: &Value, least: u64) -> bool {
    let left = &said["leaves_out"];
    let least = if left["is_complete"] == true { least } else { 1 };
    left["commits"].as_u64() >= Some(least)
}

/// Moments that are named by what happened, on a stack whose table `orders` was dropped after the base backup `point` is
/// of.
fn found_by_what_happened(world: &World, point: &str) {
    world.sql("CREATE TABLE fresh (id int)");
    world.sql("INSERT INTO fresh SELECT generate_series(1, 7)");
    world.sql("TRUNCATE fresh");
    world.sql("INSERT INTO fresh SELECT generate_series(1, 3)");
    world.sql("DROP TABLE fresh");
    world.sql("CREATE TABLE fresh (id int)");
    world.sql("DROP TABLE fresh");
    world.sql("INSERT INTO later VALUES (1)");
    // By the number that the base backup noted, and by the WAL alone: the second was made since, and twice.
    let orders = world.json(&["restore", "--to", "before orders was dropped", "--dry-run", "--json"]);
    assert!(leaves_out(&orders, 8) && orders["to"].as_str().is_some_and(|to| to.starts_with("before 0/")), "{orders}");
    let fresh = world.json(&["restore", "--to", "before public.fresh was dropped", "--dry-run", "--json"]);
    let notes = fresh["notes"].to_string();
    assert!(notes.contains("dropped 2 times: "), "a table that was truncated was not dropped: {fresh}");
    let first = notes.split_once("dropped 2 times: ").and_then(|(_, times)| times.split(',').next()).expect("a time");
    let moment = format!("before fresh was dropped at {first}");
    let (child, value) = open(world, &moment);
    let url = format!("{} dbname=shop", value["conninfo"].as_str().expect("an address"));
    let rows = psql(&url, "SELECT count(*) FROM fresh");
    assert_eq!(String::from_utf8_lossy(&rows.stdout).trim(), "3", "{rows:?} {value}");
    let differs = value["differs"]["tables"].as_array().expect("tables");
    let of = |table: &str| differs.iter().find(|one| one["table"] == table).unwrap_or_else(|| panic!("{value}"));
    assert_eq!((&of("public.fresh")["then"]["rows"], &of("public.fresh")["now"]), (&3.into(), &Value::Null));
    assert_eq!((&of("public.later")["now"]["rows"], &of("public.later")["then"]["rows"]), (&1.into(), &0.into()));
    assert!(leaves_out(&value, 4), "{value}");
    interrupt(child);
    // Moved behind the commit before it, that one is left out, too.
    let micros = |value: &Value| value.as_i64().expect("a time");
    let since = micros(&value["found_at"]) - micros(&value["leaves_out"]["last_commit_in_it"]["at"]);
    let nudge = format!("-{}ms", since / 1000 + 1);
    let moved = world.json(&["restore", "--to", &moment, "--nudge", &nudge, "--dry-run", "--json"]);
    assert!(moved["to"].as_str() < Some(first) && leaves_out(&moved, 5), "{nudge} {moved}");
    let counted = format!("name mainstay counted {point}");
    assert!(world.well(&["restore", "--to", &counted, "--once"]).contains("reached"), "a restore point by its name");

    let refused = |to: &str, words: &[&str]| world.fails(&["restore", "--to", to, "--dry-run"], 2, words);
    refused("before ordrs was dropped", &["MS2110", "no table ordrs", "public.orders ("]);
    refused("before later was dropped", &["a table later is known, and no drop of it"]);
    refused("release 7", &["release 7 has no restore point", "releases that have one: none"]);
    refused("name x", &["no restore point \"x\""]);
}

/// Each passes, and with a look at another moment, or none, each must fail.
fn drills(world: &World) {
    for name in ["backup-restore", "drop-table", "corrupt-backup", "missing-wal"] {
        let report = world.json(&["drill", name, "--json"]);
        assert_eq!(report["verdict"], "PASS", "{name}: {report}");
        // Each half of `missing-wal` must fail.
        let halves: &[&str] = &["FAIL", "did not find", "did not need the missing segment"];
        let words = if name == "missing-wal" { halves } else { &["FAIL"] };
        world.fails(&["drill", name, "--sabotage", "look-elsewhere"], 10, words);
    }
    let backups = world.folder.path().join("backups");
    let left: Vec<_> = std::fs::read_dir(backups).expect("lists").flatten().collect();
    assert!(!left.iter().any(|entry| entry.file_name().to_string_lossy().starts_with(".drill")), "{left:?}");
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
    let again = world.well(&["up", "--detach", "--wait", "300"]);
    assert!(!again.contains("recovery card"), "{again}");
    assert!(world.well(&["backup", "list"]).contains("before the fault"));
}

/// What a person asks for waits for others, and says for whom; the control plane comes again and finds no fault in it.
fn waits_for_who_works_there(world: &World, id: &str) {
    let path = world.folder.path().join("backups/lock-deleting");
    let lock = std::fs::File::options().create(true).truncate(false).write(true).open(path).expect("opens");
    // The control plane may have it just now.
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locks");
    let me = std::process::id().to_string();
    world.fails(&["backup", "prove", id, "--wait", "0"], 3, &["MS3111", "is in use", &me]);
    world.fails(&["restore", "--to", "latest", "--once", "--wait", "1"], 3, &["MS3111", "still after 1 s"]);
    let taken = world.json(&["backup", "now", "--json"]);
    let mut child = world.command(&["backup", "prove", id]).stderr(Stdio::piped()).spawn().expect("starts");
    let mut said = BufReader::new(child.stderr.take().expect("its talk")).lines();
    let first = said.next().expect("a line").expect("reads");
    assert!(first.starts_with("waiting: ") && first.contains(&me), "{first}");
    let status: Value = serde_json::from_str(&world.run(&["status", "--json"]).out).expect("JSON");
    let faults = status["backups"]["faults"].to_string();
    assert!(!faults.contains("in a row"), "the new one can neither be proven nor pruned now: {faults}");
    drop(lock);
    let more: Vec<String> = said.map_while(Result::ok).collect();
    assert_eq!(child.wait().expect("ends").code(), Some(1), "it goes on: {more:?}");
    until("the new one is proven", || {
        let list = world.json(&["backup", "list", "--json"]);
        let all = list["backups"].as_array().expect("backups");
        all.iter().any(|one| one["id"] == taken["id"] && one["proof"].is_object())
    });
}

/// One is taken as soon as the stack stands, proven, and what must be true is asked.
#[test]
fn a_backup_is_taken_when_it_is_due_and_a_statement_that_is_not_true_is_no_proof() {
    let world = World::new(
        "assert = [\"SELECT count(*) = 0 FROM pg_class WHERE relname = 'orders'\"]\n[database.backup.keep]\nhourly = \"0d\"\n",
    );
    world.well(&["up", "--detach", "--wait", "300"]);
    until("a backup is taken and proven", || {
        // It ends with 1 while some part is not ready, and says all the same.
        let status: Value = serde_json::from_str(&world.run(&["status", "--json"]).out).expect("JSON");
        status["backups"]["count"] == 1 && status["backups"]["proven"].is_object()
    });
    let list = world.json(&["backup", "list", "--json"]);
    assert_eq!(list["backups"][0]["label"]["is_scheduled"], true, "{list}");
    assert_eq!(list["backups"][0]["label"]["from_standby"], true, "{list}");
    assert_eq!(list["backups"][0]["proof"]["asserts"], 1, "{list}");
    let explained = world.json(&["retention", "--explain", "--json"]);
    let rules = &explained["backups"][0]["rules"];
    let has = |rule: &str| rules.as_array().expect("rules").iter().any(|one| one["rule"] == rule);
    assert!(has("family") && has("newest") && has("window") && has("last-proven"), "{explained}");
    assert!(world.well(&["retention", "--explain"]).contains("daily until"));

    world.sql("CREATE TABLE orders (id int)");
    let taken = world.json(&["backup", "now", "--json"]);
    let id = taken["id"].as_str().expect("an identity");
    until("the control plane has looked at it", || {
        // Degraded: the exit status says so too.
        world.run(&["status"]).out.contains("the last restore of a backup failed")
    });
    world.fails(&["backup", "prove", id], 1, &["MS1113", "must be true"]);
    waits_for_who_works_there(&world, id);
    let status = world.run(&["status"]);
    assert!(status.out.contains("degraded") && status.code != 0, "{}", status.out);
    let explained = world.json(&["retention", "--explain", "--json"]);
    let proven = explained["backups"][0]["rules"].to_string();
    assert!(proven.contains("last-proven"), "the one before stays the last proven: {explained}");
    let pruned = world.json(&["backup", "prune", "--json"]);
    assert_eq!(pruned["forgotten"], serde_json::json!([]), "{pruned}");
    assert_eq!(world.json(&["backup", "list", "--json"])["backups"].as_array().map(Vec::len), Some(3));
}
