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
        assert!([0, 2, 3].contains(&ran.code), "seed {seed}: exit {}:\n{}\n{text}", ran.code, ran.text);
        if ran.code == 0 {
            continue;
        }
        wrong += 1;
        let said: Vec<&str> = ran.text.lines().filter(|line| line.starts_with("error[")).collect();
        let ran = world.run(&["up", "--detach"]);
        assert_ne!(ran.code, 0, "seed {seed}: up takes what check refuses:\n{}\n{text}", ran.text);
        assert!(!said.is_empty(), "seed {seed}: no code in:\n{}", ran.text);
        for line in said {
            assert!(ran.text.contains(line), "seed {seed}: check says {line:?}, up does not:\n{}\n{text}", ran.text);
        }
        let is_of_file = ran.text.contains("error[MS0");
        assert!(!is_of_file || ran.text.contains("mainstay.toml:"), "seed {seed}: no place in:\n{}", ran.text);
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
    // `check` says the same as `up`, with the same exit status; neither makes anything.
    let both_fail = |code: i32, name: &str, words: &[&str]| {
        world.run(&["check"]).fails(code, name, words);
        world.up().fails(code, name, words);
        world.assert_nothing_made();
    };
    world.write(&world.stack("run = \"./server --fast\"", "standbys = 0"));
    both_fail(3, "MS3021", &["service web", "./server", "build or install it"]);
    std::fs::write(world.app().join("server"), "no program").expect("writes");
    both_fail(3, "MS3021", &["service web", "server is not executable", "chmod +x"]);
    world.write(&world.stack("run = \"no-such-program-anywhere\"", "standbys = 0"));
    both_fail(3, "MS3021", &["service web", "no-such-program-anywhere", "PATH"]);
    let by_shell = r#"run = ["sh", "-c", "exec no-such-server -b 127.0.0.1:$PORT"]"#;
    world.write(&world.stack(by_shell, "standbys = 0"));
    both_fail(3, "MS3021", &["service web", "no-such-server", "PATH"]);
    // sh is in no PATH of the service's own either.
    world.write(&world.stack(&format!("{by_shell}\nenv = {{ PATH = \"/nowhere\" }}"), "standbys = 0"));
    both_fail(3, "MS3021", &["service web", "no-such-server", "PATH"]);
    world.write(&world.stack("run = \"target/release/web\"", "standbys = 0"));
    both_fail(3, "MS3021", &["it is not built yet", "cargo build --release"]);
    world.write(&world.stack("dir = \"backend\"\nrun = \"true\"", "standbys = 0"));
    both_fail(2, "MS2010", &["service web", "backend"]);
    world.write(&world.stack(ANSWERS, "standbys = 0\nmigrations = \"sql\""));
    both_fail(2, "MS2012", &["sql"]);
    world.assert_nothing_runs();
}

#[test]
fn everything_that_is_missing_is_told_at_once() {
    let world = World::new("lacking");
    let stack = world.stack("run = \"./server\"", "standbys = 0\nmigrations = \"sql\"");
    let routes = [("/api/*", "web"), ("/*", "pages")]
        .map(|(path, to)| format!("[[edge.route]]\npath = \"{path}\"\nto = \"{to}\"\n"))
        .concat();
    world.write(&format!("{stack}\n[site.pages]\ndir = \"pages\"\n{routes}"));
    for command in [&["check"][..], &["up", "--detach"]] {
        world.run(command).fails(3, "MS3021", &["./server", "error[MS2011]", "pages", "error[MS2012]", "sql"]);
    }
    let ran = world.run(&["check", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.text).expect("one value");
    let codes: Vec<_> = json["missing"].as_array().expect("a list").iter().map(|one| one["code"].clone()).collect();
    assert_eq!((ran.code, codes), (3, vec!["MS3021".into(), "MS2011".into(), "MS2012".into()]), "{json}");
    world.assert_nothing_made();
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
        world.assert_nothing_made();
    }
    world.assert_nothing_runs();
}

#[test]
fn what_a_refused_start_of_an_earlier_version_left_is_deleted_on_demand() {
    let world = World::new("leftover");
    let state = world.paths().state;
    for folder in ["bin", "logs"] {
        std::fs::create_dir_all(state.join(folder)).expect("folder");
    }
    std::fs::write(state.join("keep.lock"), "").expect("writes");
    std::fs::write(state.join("notes.txt"), "mine").expect("writes");
    let delete = ["down", "--delete-data", "--confirm", "leftover"];
    world.run(&delete).fails(4, "MS4003", &["notes.txt", "nothing was deleted"]);
    std::fs::remove_file(state.join("notes.txt")).expect("removes");
    world.run(&delete).succeeds();
    assert!(!state.exists(), "{} is left", state.display());
}

#[test]
fn printed_commands_are_about_the_stack_that_was_named() {
    let world = World::new("copied");
    let state = format!("--state {} ", world.base().display());
    let ran = world.run(&["status"]);
    ran.fails(1, "MS1001", &[&format!("{state}up`")]);
    let ran = world.run(&["status", "--file", "mainstay.toml", "--env", "development", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.text).expect("one value");
    let help = json["error"]["help"].as_str().expect("a hint");
    assert!(help.contains("mainstay --file mainstay.toml --env development --state "), "{help}");
    // What was printed does what it says: the program is there, and it is about this stack.
    let command = help.split('`').nth(1).expect("a command");
    let again = std::process::Command::new("sh")
        .args(["-c", &format!("{} check", command.trim_end_matches(" up"))])
        .current_dir(world.app())
        .output()
        .expect("sh");
    assert!(String::from_utf8_lossy(&again.stdout).contains("stack copied"), "{again:?}");
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
        assert_eq!(std::fs::read_dir(&base).expect("lists").count(), 0);
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
    let names = |folder: &std::path::Path| std::fs::read_dir(folder).expect("lists").count();
    assert_eq!(names(&world.paths().state), 1, "a refused start left something beside what was there");
    world.assert_nothing_runs();
}
