//! Starts that meet what an earlier one left.

use std::time::{Duration, Instant};

use crate::world::{ANSWERS, World, terminate};

/// 2100-01-01 in microseconds: further than any clock is set back by accident.
const FUTURE: u64 = 4_102_444_800_000_000;

#[test]
fn a_second_up_is_refused_and_the_first_unharmed_then_taken_over_without_a_restart() {
    let world = World::new("twice");
    world.up().succeeds();
    let first = world.pids();
    world.up().fails(
        4,
        "MS4001",
        &[&format!("keep pid {}", first["keep"]), &world.paths().state.display().to_string()],
    );
    assert_eq!(world.pids(), first, "the second up changed something");

    // What finds leftovers in every test here must find these.
    let all = world.processes();
    let unseen: Vec<_> = first.iter().filter(|(_, pid)| !all.iter().any(|one| i64::from(*one) == **pid)).collect();
    assert!(unseen.is_empty(), "not found as processes of this stack: {unseen:?}");

    // SIGTERM ends keep and the control plane; the children go on, and the next `up` finds its own ports held by them.
    terminate(first["keep"]);
    wait_until("keep is gone", || !world.processes().contains(&i32::try_from(first["keep"]).expect("fits")));
    world.up().succeeds();
    let second = world.pids();
    for child in ["postgres-a", "edge", "router", "web-1"] {
        assert_eq!(second.get(child), first.get(child), "{child} was restarted");
    }
    assert_ne!(second["keep"], first["keep"]);

    // Without keep and control plane `down` still brings all down.
    terminate(second["keep"]);
    wait_until("keep is gone", || !world.processes().contains(&i32::try_from(second["keep"]).expect("fits")));
    world.down().succeeds();
    world.assert_nothing_runs();
}

#[test]
fn an_up_right_after_a_down_comes_up_on_changed_ports_and_after_the_clock_was_set_back() {
    let mut world = World::new("again");
    world.up().succeeds();
    world.sql("create table kept as select 7 as value");
    world.down().succeeds();
    world.ports.rotate_left(1);
    world.write(&world.stack(ANSWERS, "standbys = 0"));
    world.up().succeeds();
    assert_eq!(world.sql("select value from kept"), "7");

    // As after a clock that was set back while the stack ran: all that is stored lies ahead.
    world.kill_parents();
    let state = world.paths().state;
    let mut changed = change_times(&state.join("launch.json"), "since");
    for record in std::fs::read_dir(state.join("children")).expect("records").flatten() {
        if record.path().extension().is_some_and(|extension| extension == "json") {
            changed += change_times(&record.path(), "started_at");
        }
    }
    assert!(changed >= 4, "only {changed} times were changed");
    world.up().succeeds();
    assert_eq!(world.sql("select value from kept"), "7");
    world.down().succeeds();
    world.assert_nothing_runs();
}

#[test]
fn a_console_port_that_was_taken_meanwhile_costs_the_console_alone_and_only_until_it_is_free() {
    let world = World::new("taken");
    world.up().succeeds();
    let port = (std::net::Ipv4Addr::LOCALHOST, world.ports[2]);
    // keep starts the next control plane at once: whoever takes the port has to be quick.
    let taken = (0..20).find_map(|_| {
        let control = world.pids()["control"];
        crate::world::kill(i32::try_from(control).expect("fits"));
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(300) {
            if let Ok(listener) = std::net::TcpListener::bind(port) {
                return Some(listener);
            }
        }
        wait_until("a control plane answers", || world.run(&["status"]).code == 0);
        None
    });
    let taken = taken.expect("the port was never free");
    wait_until("the event is there", || world.run(&["events"]).text.contains("no console until it is free"));
    assert_eq!(world.sql("select 1"), "1");
    // The port is another's: no link leads there, and no token.
    world.run(&["console"]).fails(1, "MS4092", &["the console has no door", &world.ports[2].to_string(), "pid"]);
    assert_eq!(world.status()["urls"]["console"], serde_json::Value::Null);
    assert!(world.status()["urls"]["site"].is_string());
    drop(taken);
    wait_until("the console is there", || std::net::TcpStream::connect(port).is_ok());
    world.run(&["console"]).succeeds();
    wait_until("its address is told", || world.status()["urls"]["console"].is_string());
    world.down().succeeds();
    world.assert_nothing_runs();
}

#[test]
fn what_dies_while_no_keep_looks_is_started_anew() {
    let world = World::new("unseen");
    world.up().succeeds();
    let first = world.pids();
    let pid = |name: &str| i32::try_from(first[name]).expect("fits");
    // A keep that is stopped learns of no end, and the next one finds records of what is gone.
    crate::world::stop(pid("keep"));
    for name in ["router", "edge", "web-1", "postgres-a"] {
        crate::world::kill(pid(name));
    }
    crate::world::kill(pid("keep"));
    for name in ["keep", "router", "edge", "web-1", "postgres-a"] {
        wait_until(&format!("another {name} runs"), || {
            world.run(&["ps"]).code == 0 && world.pids().get(name).is_some_and(|now| *now != first[name])
        });
    }
    wait_until("the database answers", || world.run_sql("select 1").code == 0);
    assert_eq!(world.pids()["control"], first["control"], "the control plane saw it all");
    world.down().succeeds();
    world.assert_nothing_runs();
}

#[test]
fn a_down_ends_though_the_control_plane_dies_over_it() {
    let world = World::new("dieover");
    for names in [&["control"][..], &["control", "keep"]] {
        world.up().succeeds();
        let pids = world.pids();
        let mut down = world.begin(&["down"]);
        std::thread::sleep(Duration::from_millis(150));
        for name in names {
            crate::world::kill(i32::try_from(pids[*name]).expect("fits"));
        }
        let ended = down.wait().expect("ends");
        assert!(ended.success(), "{names:?}: {ended}");
        world.assert_nothing_runs();
    }
}

fn change_times(file: &std::path::Path, key: &str) -> usize {
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(file).expect("reads")).expect("JSON");
    assert!(value[key].is_i64() || value[key].is_u64(), "{key} in {} is {}", file.display(), value[key]);
    value[key] = FUTURE.into();
    std::fs::write(file, value.to_string()).expect("writes");
    1
}

#[test]
fn a_start_that_was_killed_half_way_is_finished_by_the_next_and_data_survives() {
    let world = World::new("halfway");
    world.write(&world.stack(ANSWERS, "standbys = 1"));
    // initdb, the first start and the clone lie in these moments; each kill meets what the one before left.
    for millis in [300, 900, 1800, 3000] {
        kill_during_up(&world, millis);
    }
    world.up().succeeds();
    world.sql("create table kept as select 42 as value");
    assert_waits_for_nobody(&world);
    for millis in [400, 1200] {
        world.down().succeeds();
        kill_during_up(&world, millis);
        world.up().succeeds();
        assert_eq!(world.sql("select value from kept"), "42", "after a kill at {millis} ms");
    }
    world.down().succeeds();
    world.assert_nothing_runs();
}

fn kill_during_up(world: &World, millis: u64) {
    let mut up = world.begin_up();
    std::thread::sleep(Duration::from_millis(millis));
    up.kill().expect("kills");
    up.wait().expect("ends");
    world.kill_parents();
}

/// Nothing asks for a person.
fn assert_waits_for_nobody(world: &World) {
    let status = world.status();
    for one in status["boxes"].as_array().expect("boxes") {
        assert!(!one["waiting"].to_string().contains("operator"), "{one}");
    }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
