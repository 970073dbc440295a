//! Faults that show while the stack starts: everything is brought down again.

use crate::world::{ANSWERS, World, is_root_or_says};

#[test]
fn a_service_that_ends_at_once_is_told_with_its_last_words_and_all_goes_down() {
    let world = World::new("crashing");
    // The shell's own child stays when the shell ends: it must go too.
    let service = r#"run = ["sh", "-c", "sleep 1000 & echo cannot find my settings; exit 3"]"#;
    world.write(&world.stack(service, "standbys = 0"));
    world.up().fails(1, "MS1006", &["web does not come up", "exit 3", "cannot find my settings"]);
    world.assert_nothing_runs();

    // What explains it is still there to be read, also for programs.
    let ran = world.run(&["logs", "web"]);
    ran.succeeds();
    assert!(ran.text.contains("cannot find my settings") && ran.text.contains("the stack is not up"), "{}", ran.text);
    let ran = world.run(&["events", "--lines", "500"]);
    ran.succeeds();
    assert!(ran.text.contains("web-1") && ran.text.contains("ended: exit 3"), "{}", ran.text);
    world.run(&["logs", "nobody"]).fails(2, "MS2052", &["\"nobody\"", "web-1"]);
    let ran = world.run(&["logs", "web-1", "--lines", "1", "--json"]);
    let line: serde_json::Value = serde_json::from_str(ran.text.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&line["child"], &line["text"]), (&"web-1".into(), &"cannot find my settings".into()));
}

/// It counted as ready in the moments in which it ran, and `up` said so.
#[test]
fn a_worker_that_ends_again_and_again_is_never_called_ready() {
    let world = World::new("looping");
    let service = "port = false\nrun = [\"sh\", \"-c\", \"echo no queue; sleep 0.7; exit 4\"]";
    world.write(&world.stack(service, "standbys = 0"));
    let ran = world.up();
    ran.fails(1, "MS1006", &["web does not come up", "ended 5 times in a row", "exit 4", "no queue"]);
    assert!(!ran.text.contains("ready in"), "{}", ran.text);
    world.assert_nothing_runs();
    world.write(&world.stack("port = false\nrun = \"sleep 1000\"", "standbys = 0"));
    world.up().succeeds();
    world.down().succeeds();
    world.assert_nothing_runs();
}

/// `up` waited for a minute and more, and then named the SIGTERM that it had sent itself.
#[test]
fn a_start_that_waiting_does_not_mend_is_given_up_with_its_reason() {
    let world = World::new("hopeless");
    let service = format!("{ANSWERS}\nhealth = \"/no-such-page\"");
    world.write(&world.stack(&service, "standbys = 0"));
    let ran = world.run(&["up", "--detach", "--wait", "50"]);
    ran.fails(1, "MS1006", &["web-1 has answered for 10 s", "GET /no-such-page on port", "404", "logs web"]);

    let silent = "health = { path = \"/healthz\", start_within = \"3s\" }";
    world.write(&world.stack(&format!("run = \"sleep 1000\"\n{silent}"), "standbys = 0"));
    let ran = world.run(&["up", "--detach", "--wait", "50"]);
    ran.fails(1, "MS1006", &["web-1 was not ready within 3s", "GET /healthz on port", "refused", "PORT"]);
    assert!(!ran.text.contains("SIGTERM"), "{}", ran.text);

    let script = world.app().join("server");
    std::fs::write(&script, "#!/no/such/interpreter\n").expect("writes");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    world.write(&world.stack("run = \"./server\"", "standbys = 0"));
    world.up().fails(1, "MS1006", &["web-1 cannot be started", "server", "interpreter"]);
    world.assert_nothing_runs();
}

#[test]
fn a_service_that_is_never_ready_is_told_and_all_goes_down() {
    let world = World::new("dumb");
    world.write(&world.stack(r#"run = ["sh", "-c", "echo thinking; sleep 1000"]"#, "standbys = 0"));
    let ran = world.run(&["up", "--detach", "--wait", "20"]);
    ran.fails(1, "MS1007", &["web-1", "20 s", "thinking"]);
    world.assert_nothing_runs();
}

#[test]
fn a_migration_that_fails_is_told_with_file_and_line_and_the_mended_one_comes_up() {
    let world = World::new("migrated");
    let folder = world.app().join("sql");
    std::fs::create_dir(&folder).expect("folder");
    std::fs::write(folder.join("V1__first.sql"), "create table first (x int);\n").expect("writes");
    std::fs::write(folder.join("V2__second.sql"), "create table second (x int);\n\nselect * from nowhere;\n")
        .expect("writes");
    world.write(&world.stack(ANSWERS, "standbys = 0\nmigrations = \"sql\""));
    world.up().fails(1, "MS1006", &["V2__second.sql", "line 3", "nowhere"]);
    world.assert_nothing_runs();
    std::fs::write(folder.join("V2__second.sql"), "create table second (x int);\n").expect("writes");
    world.up().succeeds();
    world.down().succeeds();
    world.assert_nothing_runs();
}

#[test]
fn a_disk_that_fills_during_the_start_is_told_and_all_goes_down() {
    if !is_root_or_says("a disk that fills during the start") {
        return;
    }
    let world = World::new("filling");
    let service = r#"run = ["sh", "-c", "cat /dev/zero > $HOME/fill"]"#;
    world.write(&world.stack(service, "standbys = 0"));
    std::fs::create_dir(world.base()).expect("folder");
    let base = world.base().display().to_string();
    let ran = world.up_in_changed_view(&format!("mount -t tmpfs -o size=320m,mode=711 none {base}"));
    ran.fails(3, "MS3034", &["No space left on device", &base, "--state"]);
    world.assert_nothing_runs();
}

#[test]
fn a_lost_identity_is_told_in_the_control_planes_words_and_nothing_stays() {
    let world = World::new("keyless");
    let state = world.paths().state;
    std::fs::create_dir_all(&state).expect("folder");
    std::fs::write(state.join("identity.age"), "no identity\n").expect("writes");
    std::fs::write(state.join("secrets.age"), "sealed for somebody else\n").expect("writes");
    world.up().fails(3, "MS3033", &["identity.age", "secrets.age", "control.log"]);
    world.assert_nothing_runs();
}

#[test]
fn a_stack_runs_without_prometheus_and_says_so() {
    if !is_root_or_says("a machine without Prometheus") {
        return;
    }
    let world = World::new("unmeasured");
    world.write(&world.stack(ANSWERS, "standbys = 0").replace("enabled = false", "enabled = true"));
    let hide = "for program in prometheus prometheus-alertmanager alertmanager; do \
                for place in $(command -v $program); do mount --bind /dev/null $place || exit 9; done; done";
    let ran = world.up_in_changed_view(hide);
    ran.succeeds();
    assert!(
        ran.text.contains("not configured") && ran.text.contains("Prometheus is not installed; install it with"),
        "{}",
        ran.text
    );
    let status = world.status();
    let boxes = status["boxes"].as_array().expect("boxes");
    let prometheus = boxes.iter().find(|one| one["name"] == "prometheus").expect("is drawn");
    assert_eq!(prometheus["state"], "not-configured", "{prometheus}");
    world.down().succeeds();
    world.assert_nothing_runs();
}
