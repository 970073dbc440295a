//! Data that comes from elsewhere, and data that is to go.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::world::World;

/// A dump as pg_dump 17 writes it on another machine: roles that are not here, settings that 15 does not know.
const DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\\restrict Xy12\n\
    SET statement_timeout = 0;\nSET transaction_timeout = 0;\nSET standard_conforming_strings = on;\n\
    SELECT pg_catalog.set_config('search_path', '', false);\n\
    CREATE TABLE public.orders (\n    id integer NOT NULL,\n    note text\n);\nALTER TABLE public.orders OWNER TO nobody_here;\n\
    COPY public.orders (id, note) FROM stdin;\n1\tGRANT me a wish\n2\t\\\\! not a command\n3\t\\N\n\\.\n\
    ALTER TABLE ONLY public.orders\n    ADD CONSTRAINT orders_pkey PRIMARY KEY (id);\n\
    GRANT SELECT ON TABLE public.orders TO nobody_here;\n\
    --\n-- PostgreSQL database dump complete\n--\n\\unrestrict Xy12\n";

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gzip");
    child.stdin.take().expect("piped").write_all(text).expect("writes");
    child.wait_with_output().expect("ends").stdout
}

#[test]
fn a_dump_is_imported_whole_or_not_at_all_and_what_was_there_is_kept_aside() {
    let world = World::new("import");
    world.up().succeeds();
    let write = |name: &str, bytes: &[u8]| std::fs::write(world.app().join(name), bytes).expect("writes");
    write("orders.sql", DUMP.as_bytes());
    write("broken.sql", DUMP.replace("PRIMARY KEY (id)", "PRIMARY KEY (nothing)").as_bytes());
    write("evil.sql", format!("{DUMP}\\! touch hacked\n").as_bytes());
    let cut = gzip(DUMP.as_bytes());
    write("cut.sql.gz", &cut[..cut.len() - 12]);
    write("photo.png", b"\x89PNG\r\n\x1a\n\0\0\0");

    let tables = "select count(*) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')";
    world.import(&["broken.sql"]).fails(1, "MS1013", &["nothing", "nothing was imported"]);
    world.import(&["evil.sql"]).fails(2, "MS2032", &["evil.sql", "touch hacked"]);
    world.import(&["cut.sql.gz"]).fails(1, "MS1013", &["gzip failed", "unexpected end of file"]);
    write("half.sql", DUMP.split("ALTER TABLE ONLY").next().expect("before").as_bytes());
    world.import(&["half.sql"]).fails(2, "MS2031", &["half.sql", "cut off"]);
    // More notices than a pipe holds.
    let notices: String =
        (0..3000).map(|n| format!("DROP TABLE IF EXISTS public.nothing_of_that_name_{n};\n")).collect();
    write("notices.sql", format!("{notices}SELECT 1/0;\n").as_bytes());
    world.import(&["notices.sql"]).fails(1, "MS1013", &["division by zero"]);
    write("commit.sql", b"create table one (x int); cOmMiT; select 1/0;\n");
    world.import(&["commit.sql"]).fails(2, "MS2032", &["commit.sql", "line 1", "transaction"]);
    world.import(&["photo.png"]).fails(2, "MS2031", &["photo.png"]);
    world.import(&["missing.sql"]).fails(2, "MS2031", &["missing.sql"]);
    let conninfo = world.import(&["host=127.0.0.1 user=x password=hunter2"]);
    conninfo.fails(2, "MS2031", &["postgres://USER:PASSWORD@HOST"]);
    assert!(!conninfo.text.contains("hunter2"), "{}", conninfo.text);
    let half = DUMP.split("ALTER TABLE ONLY").next().expect("before");
    world.import_piped(half.as_bytes(), &[]).fails(2, "MS2031", &["the standard input (SQL)", "cut off"]);
    world.import_piped(&cut[..cut.len() - 12], &[]).fails(1, "MS1013", &["gzip failed", "unexpected end of file"]);
    world.import_piped(b"", &[]).fails(2, "MS2031", &["the standard input", "nothing is in it"]);
    world.import_piped(b"\x89PNG\r\n\x1a\n\0\0\0", &[]).fails(2, "MS2031", &["the standard input", "neither SQL"]);
    world.import_piped(format!("{DUMP}\\! touch hacked\n").as_bytes(), &[]).fails(2, "MS2032", &["touch hacked"]);
    assert_eq!(world.sql(tables), "0", "something of a refused import was kept");
    assert!(!world.app().join("hacked").exists(), "a dump ran a program");

    let ran = world.import(&["orders.sql"]);
    ran.succeeds();
    for words in ["imported 1 table, 3 rows", "1 × owners of objects", "1 × rights of roles"] {
        assert!(ran.text.contains(words), "{words:?} is not in:\n{}", ran.text);
    }
    assert_eq!(world.sql("select note from orders where id = 2"), "\\! not a command");
    world.import(&["orders.sql"]).fails(4, "MS4004", &["--replace"]);
    world.sql("insert into orders values (4, 'later')");

    // Another stack's database, running; then what it gave, packed, in place of what is there.
    let other = World::new("source");
    other.up().succeeds();
    other.sql("create table orders as select n as id from generate_series(1, 4) n");
    world.import(&[&other.database_url(), "--replace"]).succeeds();
    assert_eq!(world.sql("select count(*) from public.orders"), "4");
    other.down().succeeds();
    write("orders.sql.gz", &gzip(DUMP.as_bytes()));
    world.import(&["orders.sql.gz", "--replace"]).succeeds();
    assert_eq!(world.sql("select count(*) from public.orders"), "3");
    world.import_piped(DUMP.as_bytes(), &[]).fails(4, "MS4004", &["--replace"]);
    assert_eq!(
        world.sql("select count(*) from information_schema.tables where table_schema like 'before_import_%'"),
        "2",
        "what was there was not kept"
    );
    killed_half_way(&world);
    world.down().succeeds();
    world.assert_nothing_runs();
}

/// An import that is killed, however it is, leaves the database as it was.
fn killed_half_way(world: &World) {
    let rows: String = (0..400_000).map(|row| format!("{row}\n")).collect();
    let text =
        format!("BEGIN;\nCREATE TABLE public.big (x int);\nCOPY public.big (x) FROM stdin;\n{rows}\\.\nCOMMIT;\n");
    std::fs::write(world.app().join("big.sql"), text).expect("writes");
    for (signal, millis) in [("-KILL", 150), ("-TERM", 300), ("-KILL", 500)] {
        let mut import = world.begin_import(&["big.sql", "--replace"]);
        std::thread::sleep(std::time::Duration::from_millis(millis));
        Command::new("kill").args([signal, &import.id().to_string()]).status().expect("kill");
        // One that was done by then is no test of it, and no fault.
        let is_done = import.wait().expect("ends").success();
        let began = std::time::Instant::now();
        let sessions = "select count(*) from pg_stat_activity where query like '%COPY%' and pid <> pg_backend_pid()";
        while world.sql(sessions) != "0" && began.elapsed() < std::time::Duration::from_secs(20) {}
        let there = world.sql("select to_regclass('public.orders') is not null, to_regclass('public.big') is not null");
        assert_eq!(there, if is_done { "f|t" } else { "t|f" }, "after {signal} at {millis} ms");
        if is_done {
            return;
        }
    }
    world.import(&["big.sql", "--replace"]).succeeds();
    assert_eq!(world.sql("select count(*) from public.big"), "400000");
}

/// What an import must not wait for, count wrongly or hold.
#[test]
fn an_import_ends_when_its_source_is_cut_off_counts_every_row_and_holds_no_line() {
    let world = World::new("imported");
    world.up().succeeds();
    let write = |name: &str, bytes: &[u8]| std::fs::write(world.app().join(name), bytes).expect("writes");
    world.sql("create table big as select n, repeat(md5(n::text), 20) as t from generate_series(1, 3000) n");
    let url = world.database_url();
    let dump = |name: &str, options: &[&str]| {
        let file = world.app().join(name);
        let status =
            Command::new("pg_dump").args(options).args(["-d", &url, "-f"]).arg(&file).status().expect("pg_dump");
        assert!(status.success());
        std::fs::read(file).expect("reads")
    };
    let tar = dump("whole.tar", &["-Ft"]);
    dump("rows.sql", &["--rows-per-insert=7"]);
    for (name, length) in [("cut.tar", tar.len() / 2), ("end.tar", tar.len() - 1024)] {
        write(name, &tar[..length]);
        write(&format!("{name}.gz"), &gzip(&tar[..length]));
        world.import(&[name, "--replace"]).fails(2, "MS2031", &[name, "cut off"]);
        world.import(&[&format!("{name}.gz"), "--replace"]).fails(2, "MS2031", &["cut off"]);
        world.import_piped(&tar[..length], &["--replace"]).fails(2, "MS2031", &["cut off", "nothing was imported"]);
    }
    let custom = dump("whole.dump", &["-Fc"]);
    for whole in [&custom, &gzip(&custom)] {
        let piped = &whole[..whole.len() / 2];
        world.import_piped(piped, &["--replace"]).fails(1, "MS1013", &["failed", "nothing was imported"]);
    }
    world.import(&[&url, "--replace"]).fails(4, "MS4006", &["this stack's own database"]);
    assert_eq!(world.sql("select count(*) from pg_namespace where nspname like 'before_import_%'"), "0");

    for source in ["whole.tar", "rows.sql"] {
        let ran = world.import(&[source, "--replace"]);
        ran.succeeds();
        assert!(ran.text.contains("imported 1 table, 3000 rows"), "{source}:\n{}", ran.text);
    }
    for piped in [std::fs::read(world.app().join("rows.sql")).expect("reads"), gzip(&custom), custom, gzip(&tar), tar] {
        let ran = world.import_piped(&piped, &["--replace"]);
        ran.succeeds();
        assert!(ran.text.contains("imported 1 table, 3000 rows"), "{}", ran.text);
    }
    let row =
        |length: usize| format!("CREATE TABLE long (t text);\nCOPY long FROM stdin;\n{}\n\\.\n", "x".repeat(length));
    let mut peaks = [1, 48 * 1024 * 1024].map(|length| {
        write("long.sql", row(length).as_bytes());
        let peak = peak_of(world.begin_import(&["long.sql", "--replace"]));
        assert_eq!(world.sql("select length(t) from long"), length.to_string());
        peak
    });
    peaks.sort_unstable();
    assert!(peaks[1] - peaks[0] < 16 * 1024, "a row of 48 MiB took {peaks:?} KiB");
    world.down().succeeds();
    world.assert_nothing_runs();
}

/// The most memory that a process had, in KiB, as of the last look before its end.
fn peak_of(mut child: std::process::Child) -> u64 {
    let mut peak = 0;
    while child.try_wait().expect("waits").is_none() {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let value = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = value.unwrap_or(peak);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert!(child.wait().expect("waits").success());
    peak
}

#[test]
fn data_are_deleted_only_when_the_stacks_name_is_given_and_then_all_of_them() {
    let world = World::new("gone");
    let state = world.paths().state;
    world.up().succeeds();
    world.sql("create table precious (x int)");
    let pids = world.pids();
    world.run(&["down", "--delete-data"]).fails(4, "MS4002", &["gone", "nothing was stopped"]);
    world.run(&["down", "--delete-data", "--confirm", "gome"]).fails(4, "MS4002", &["\"gome\"", "\"gone\""]);
    assert_eq!(world.pids(), pids, "something was stopped");

    world.run(&["down", "--delete-data", "--confirm", "gone"]).succeeds();
    world.assert_nothing_runs();
    assert!(!state.exists(), "{} is still there", state.display());
    assert!(!world.paths().runtime.exists(), "the sockets' folder is still there");
    world.run(&["down", "--delete-data", "--confirm", "gone"]).fails(2, "MS2030", &["no data of this stack"]);

    // The next start begins from nothing; a folder that `up` did not make is not touched.
    world.up().succeeds();
    assert_eq!(world.sql("select count(*) from pg_tables where tablename = 'precious'"), "0");
    world.down().succeeds();
    std::fs::remove_file(state.join("launch.json")).expect("removes");
    world.run(&["down", "--delete-data", "--confirm", "gone"]).fails(4, "MS4003", &["not a state folder"]);
    assert!(state.join("pg").is_dir());

    // A removal that was cut off is gone on with, without another question.
    std::fs::rename(&state, state.with_file_name("development.1.deleting")).expect("renames");
    world.run(&["down", "--delete-data"]).succeeds();
    assert!(!state.with_file_name("development.1.deleting").exists());
}
