//! What a person asks the cluster for: a change of the primary that nobody notices, one that everybody does, a restart
//! of all members under load.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::world::World;

/// Transactions of one writer; each takes at least 10 ms.
const WRITES: usize = 1_500;
/// Writers at once.
const WRITERS: usize = 3;

/// A client that writes in transactions of two statements and stops at the first error of any kind.
fn writer(world: &World, number: usize) -> Child {
    let file = world.app().join(format!("writer-{number}.sql"));
    let one =
        |n: usize| format!("begin;\ninsert into written values ({number}, {n});\nselect pg_sleep(0.01);\ncommit;\n");
    std::fs::write(&file, (0..WRITES).map(one).collect::<String>()).expect("writes");
    let mut command = Command::new("psql");
    command.arg(world.database_url()).args(["-qAt", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file);
    let log = std::fs::File::create(world.app().join(format!("writer-{number}.log"))).expect("file");
    command.stdout(Stdio::null()).stderr(log).spawn().expect("psql")
}

fn primary(world: &World) -> String {
    world.status()["database"]["primary"].as_str().expect("a primary").to_owned()
}

/// Until every commit waits for a standby again.
fn whole(world: &World) {
    let began = Instant::now();
    while world.status()["database"]["is_synchronous"] != true {
        assert!(began.elapsed() < Duration::from_secs(60), "{:#}", world.status()["database"]);
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn kinds(world: &World) -> Vec<String> {
    let ran = world.run(&["events", "--json"]);
    let of = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok();
    let kind = |event: serde_json::Value| event["kind"].as_str().map(str::to_owned);
    match serde_json::from_str::<Vec<serde_json::Value>>(&ran.text) {
        Ok(events) => events.into_iter().filter_map(kind).collect(),
        Err(_) => ran.text.lines().filter_map(of).filter_map(kind).collect(),
    }
}

#[test]
fn a_switchover_and_a_restart_of_all_members_fail_no_statement_under_load() {
    let world = World::new("planned");
    world.write(&world.stack(crate::world::ANSWERS, "standbys = 1"));
    world.up().succeeds();
    whole(&world);
    world.sql("create table written (writer int, n int)");
    let writers: Vec<Child> = (0..WRITERS).map(|number| writer(&world, number)).collect();
    std::thread::sleep(Duration::from_secs(1));

    let ran = world.run(&["db", "switchover"]);
    ran.succeeds();
    assert!(ran.text.contains("postgres-b is primary, postgres-a becomes a standby"), "{}", ran.text);
    assert_eq!(primary(&world), "b");
    whole(&world);
    let kinds = kinds(&world);
    let clones = kinds.iter().filter(|kind| *kind == "CloneBegan").count();
    assert_eq!(clones, 1, "the former primary follows as it is; only the first standby was cloned: {kinds:?}");
    for kind in ["SwitchoverAsked", "SessionsHeld", "SwitchoverDone"] {
        assert!(kinds.iter().any(|known| known == kind), "{kind} is not among {kinds:?}");
    }

    let before = world.pids();
    world.run(&["db", "restart"]).succeeds();
    assert_eq!(primary(&world), "a");
    let after = world.pids();
    for member in ["postgres-a", "postgres-b"] {
        assert_ne!(before.get(member), after.get(member), "{member} was not restarted");
    }
    for (number, mut writer) in writers.into_iter().enumerate() {
        let ended = writer.wait().expect("ends");
        let log = std::fs::read_to_string(world.app().join(format!("writer-{number}.log"))).unwrap_or_default();
        assert!(ended.success(), "a statement of writer {number} failed: {log}");
    }
    let written = world.sql("select count(*), count(distinct (writer, n)) from written");
    assert_eq!(written, format!("{0}|{0}", WRITERS * WRITES));
    world.down().succeeds();
    world.assert_nothing_runs();
}

#[test]
fn a_switchover_gives_up_for_a_long_transaction_and_a_failover_by_hand_does_not() {
    let world = World::new("unplanned");
    world.write(&world.stack(crate::world::ANSWERS, "standbys = 1\nmigrations = \"migrations\""));
    std::fs::create_dir(world.app().join("migrations")).expect("folder");
    migration(&world, "V1__go.sql", "create table go (n int);");
    world.run(&["db", "switchover", "--to", "nobody"]).fails(2, "MS2080", &["nobody"]);
    world.up().succeeds();
    whole(&world);
    world.run(&["db", "switchover", "--to", "a"]).fails(1, "MS1002", &["is primary already"]);
    world.run(&["db", "switchover", "--to", "d"]).fails(1, "MS1002", &["has no postgres-d"]);
    world.run(&["db", "switchover", "--drain-timeout", "5m"]).fails(1, "MS1002", &["database.hold"]);
    world.sql("create table kept (n int)");
    let long = "begin; insert into kept values (1); select pg_sleep(8); insert into kept values (2); commit";
    let mut client = Command::new("psql")
        .arg(world.database_url())
        .args(["-qAt", "-v", "ON_ERROR_STOP=1", "-c", long])
        .stdout(Stdio::null())
        .spawn()
        .expect("psql");
    std::thread::sleep(Duration::from_millis(500));
    let ran = world.run(&["db", "switchover", "--drain-timeout", "2s"]);
    ran.fails(1, "MS1080", &["1 session still had", "2000 ms", "nothing was changed", "--force"]);
    assert!(client.wait().expect("ends").success(), "the transaction was cut off by a switchover that was given up");
    assert_eq!((primary(&world).as_str(), world.sql("select sum(n) from kept").as_str()), ("a", "3"));

    world.run(&["db", "failover"]).succeeds();
    assert_eq!(primary(&world), "b");
    assert_eq!(world.sql("select sum(n) from kept"), "3");
    whole(&world);
    let json = world.run(&["db", "switchover", "--json", "--to", "postgres-a", "--force"]);
    json.succeeds();
    let start = json.text.find('{').expect("JSON");
    let end = json.text.rfind('}').expect("JSON");
    let status: serde_json::Value = serde_json::from_str(&json.text[start..=end]).expect("JSON");
    assert_eq!((&status["is_done"], &status["member"]), (&true.into(), &"a".into()), "{status:#}");
    a_run_of_migrations_is_cut_off_only_when_that_is_asked_for(&world);
    world.down().succeeds();
    world.assert_nothing_runs();
}

fn migration(world: &World, name: &str, sql: &str) {
    std::fs::write(world.app().join("migrations").join(name), sql).expect("writes");
}

/// Begins to run what is pending, which goes on.
fn begin_to_migrate(world: &World) -> Child {
    let run = world.begin(&["db", "migrate"]);
    let began = Instant::now();
    while world.sql("select count(*) from pg_locks where locktype = 'advisory'") == "0" {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not begin");
        std::thread::sleep(Duration::from_millis(100));
    }
    run
}

/// It comes straight in, past the router: the drain does not see it.
fn a_run_of_migrations_is_cut_off_only_when_that_is_asked_for(world: &World) {
    whole(world);
    let until_told = "do $$ begin while not exists (select from go) loop perform pg_sleep(0.1); end loop; end $$;";
    migration(world, "V2__until_told.sql", until_told);
    let mut run = begin_to_migrate(world);
    world.run(&["db", "switchover"]).fails(1, "MS1002", &["a run of migrations is under way, pid ", "--force"]);
    world.sql("insert into go values (1)");
    assert!(run.wait().expect("ends").success(), "a switchover that was refused cut it off");

    migration(world, "V3__long.sql", "select pg_sleep(600);");
    let mut run = begin_to_migrate(world);
    let ran = world.run(&["db", "switchover", "--force"]);
    ran.succeeds();
    assert!(ran.text.contains("a run of migrations was cut off: pid "), "{}", ran.text);
    assert_eq!(run.wait().expect("ends").code(), Some(1));
    assert_eq!(primary(world), "b");
}
