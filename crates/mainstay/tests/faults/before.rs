//! Faults that are seen before anything is started.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;

use crate::world::{ANSWERS, World, is_root_or_says};

/// xorshift64*: the same mutations for the same seed on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(word).expect("31 bits") % bound
    }
}

/// One to three small changes such as fingers make.
fn mutate(text: &str, random: &mut Random) -> String {
    let mut text = text.to_owned();
    for _ in 0..=random.below(3) {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = random.below(lines.len());
        match random.below(6) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, lines[at].clone()),
            2 => lines[at] = lines[at].replace('"', ""),
            3 => lines[at] = lines[at].replace('=', ": "),
            4 => lines[at] = lines[at].chars().map(|c| if c.is_ascii_digit() { 'x' } else { c }).collect(),
            _ => {
                let place = random.below(lines[at].len() + 1);
                lines[at].insert(place, ['"', '[', ']', '=', '#', 'z', '9', '-', '\u{0}'][random.below(9)]);
            }
        }
        text = lines.join("\n") + "\n";
    }
    text
}

#[test]
fn a_wrong_stack_file_is_told_with_code_and_place_and_makes_nothing() {
    let world = World::new("mutated");
    let good = world.stack(ANSWERS, "standbys = 0");
    let mut wrong = 0;
    for seed in 1..=60 {
        let text = mutate(&good, &mut Random(seed));
        world.write(&text);
        let ran = world.run(&["check"]);
        assert!([0, 2].contains(&ran.code), "seed {seed}: exit {}:\n{}\n{text}", ran.code, ran.text);
        if ran.code == 0 {
            continue;
        }
        wrong += 1;
        let ran = world.run(&["up", "--detach"]);
        assert_eq!(ran.code, 2, "seed {seed}: up and check differ:\n{}\n{text}", ran.text);
        assert!(ran.text.contains("error[MS0"), "seed {seed}: no code in:\n{}", ran.text);
        assert!(ran.text.contains("mainstay.toml:"), "seed {seed}: no place in:\n{}", ran.text);
        world.assert_nothing_made();
    }
    assert!(wrong >= 30, "only {wrong} of 60 mutations were mistakes: the property says little");
}

#[test]
fn wrong_use_makes_nothing() {
    let world = World::new("misused");
    let ran = world.run(&["up", "--no-such-option"]);
    assert_eq!(ran.code, 2, "{}", ran.text);
    assert!(ran.text.contains("--no-such-option"), "{}", ran.text);
    let ran = world.run(&["up", "--detach", "nowhere.toml"]);
    ran.fails(2, "MS2001", &["nowhere.toml"]);
    let ran = world.run(&["up", "--detach", "--env", "Not A Name"]);
    ran.fails(2, "MS2002", &["Not A Name"]);
    world.assert_nothing_made();
}

#[test]
fn a_missing_program_or_folder_of_a_service_is_named_and_nothing_runs() {
    let world = World::new("programless");
    world.write(&world.stack("run = \"./server --fast\"", "standbys = 0"));
    world.up().fails(3, "MS3021", &["service web", "./server"]);
    world.write(&world.stack("run = \"no-such-program-anywhere\"", "standbys = 0"));
    world.up().fails(3, "MS3021", &["service web", "no-such-program-anywhere", "PATH"]);
    world.write(&world.stack("dir = \"backend\"\nrun = \"true\"", "standbys = 0"));
    world.up().fails(2, "MS2010", &["service web", "backend"]);
    world.write(&world.stack(ANSWERS, "standbys = 0\nmigrations = \"sql\""));
    world.up().fails(2, "MS2012", &["sql"]);
    world.assert_nothing_runs();
}

#[test]
fn a_machine_without_postgresql_is_told_the_command_that_installs_it() {
    if !is_root_or_says("a machine without PostgreSQL") {
        return;
    }
    let world = World::new("dataless");
    let ran = world.up_in_changed_view("mount -t tmpfs none /usr/lib/postgresql");
    ran.fails(3, "MS3020", &["postgres", "install"]);
    world.assert_nothing_runs();
}

#[test]
fn a_port_in_use_is_told_with_its_holder_and_its_key() {
    let world = World::new("blocked");
    let me = format!("pid {}", std::process::id());
    for (number, key) in [(0, "edge.https_port"), (2, "console.port"), (3, "database.write_port")] {
        let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, world.ports[number])).expect("free");
        world.up().fails(3, "MS3023", &[&world.ports[number].to_string(), &me, key, "mainstay.toml"]);
        drop(busy);
    }
    world.assert_nothing_runs();
}

#[test]
fn a_state_folder_that_cannot_be_used_is_named() {
    let world = World::new("homeless");
    std::fs::write(world.base(), "a file in the way").expect("writes");
    world.up().fails(3, "MS3031", &[&world.base().display().to_string()]);
    std::fs::remove_file(world.base()).expect("removes");
    if is_root_or_says("a read-only, a full and a foreign state folder") {
        let base = world.base().display().to_string();
        std::fs::create_dir(world.base()).expect("folder");
        let ran = world.up_in_changed_view(&format!("mount -t tmpfs -o ro none {base}"));
        ran.fails(3, "MS3031", &[&base, "Read-only file system"]);
        let ran = world.up_in_changed_view(&format!("mount -t tmpfs -o size=3m none {base}"));
        ran.fails(3, "MS3034", &[&base, "MiB are free in", "--state"]);
        let state = world.paths().state;
        std::fs::create_dir_all(&state).expect("folder");
        chown(&state, Some(65534), Some(65534)).expect("root may");
        world.up().fails(3, "MS3030", &[&state.display().to_string(), "65534"]);
        assert_eq!(std::fs::read_dir(&state).expect("lists").count(), 0, "a foreign folder was written to");
    }
    world.assert_nothing_runs();
}

#[test]
fn damaged_ports_are_told_with_their_file() {
    let world = World::new("portless");
    std::fs::create_dir_all(world.paths().state).expect("folder");
    std::fs::write(world.paths().state.join("ports.json"), "{ torn").expect("writes");
    world.up().fails(3, "MS3022", &["ports.json"]);
    world.assert_nothing_runs();
}
