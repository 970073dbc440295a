//! Children: their starts, ends, users and limits.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use crate::world::{PATIENCE, World, find, is_alive, is_root, kill, next_end, pids_in, refusal, until};
use mainstay_supervisor::protocol::{Refusal, User};
use mainstay_types::{Bytes, ChildRole, ExitReason, Pid};

#[tokio::test]
async fn an_end_is_told_and_listed_until_the_next_start_of_the_name() {
    let world = World::new(&[]);
    let (keep, mut notices) = world.connect().await;
    let spec = world.shell("a", "echo out; echo err >&2; exit 7");
    let pid = keep.spawn(spec.clone()).await.expect("starts");
    let child = next_end(&mut notices).await;
    assert_eq!((child.pid, child.nonce, child.is_own), (pid, spec.nonce, true));
    assert_eq!(child.ended.expect("ended").reason, ExitReason::Code { code: 7 });
    assert_eq!(std::fs::read_to_string(world.log("a")).expect("log"), "out\nerr\n");
    assert_eq!(std::fs::metadata(world.log("a")).expect("log").permissions().mode() & 0o777, 0o640);
    assert!(find(&keep, "a").await.ended.is_some());

    let spec = world.shell("a", "exec sleep 60");
    keep.spawn(spec.clone()).await.expect("starts again");
    assert_eq!(find(&keep, "a").await.ended, None);
    let (kind, text) = refusal(keep.spawn(world.shell("a", "true")).await);
    assert!(kind == Refusal::AlreadyRunning && text.contains("pid"), "{text}");
    keep.signal(&spec.nonce, 15).await.expect("signals");
    assert_eq!(next_end(&mut notices).await.ended.expect("ended").reason, ExitReason::Signal { signal: 15 });
    assert_eq!(refusal(keep.signal(&spec.nonce, 15).await).0, Refusal::NotRunning);
}

#[tokio::test]
async fn a_program_that_cannot_run_is_refused_and_leaves_nothing() {
    let world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let mut missing = world.shell("a", "");
    missing.argv = vec!["no-such-program".to_owned()];
    let (kind, text) = refusal(keep.spawn(missing).await);
    assert!(
        kind == Refusal::Environment && text.contains("no-such-program") && text.contains("/usr/bin:/bin"),
        "{text}"
    );
    let mut directory = world.shell("a", "true");
    directory.dir = "/no/such/folder".into();
    let (kind, text) = refusal(keep.spawn(directory).await);
    assert!(kind == Refusal::Environment && text.contains("/no/such/folder"), "{text}");
    let script = world.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").expect("writes");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("mode");
    let mut bad = world.shell("a", "");
    bad.argv = vec![script.to_str().expect("text").to_owned()];
    let (kind, text) = refusal(keep.spawn(bad).await);
    assert!(kind == Refusal::Environment && text.contains("cannot execute"), "{text}");
    assert!(keep.list().await.expect("lists").is_empty());
    assert_eq!(std::fs::read_dir(world.state().join("children")).expect("folder").count(), 0);
}

#[tokio::test]
async fn killing_a_tree_reaches_grandchildren_in_sessions_of_their_own() {
    let world = World::new(&[]);
    let (keep, mut notices) = world.connect().await;
    let pids = world.path().join("pids");
    let script = format!(
        "setsid sh -c 'echo $$ >> {0}; exec sleep 60' & setsid -f env -i sh -c 'echo $$ >> {0}; exec sleep 60'; \
         trap '' TERM; wait; wait; exit 3",
        pids.display()
    );
    let spec = world.shell("tree", &script);
    keep.spawn(spec.clone()).await.expect("starts");
    let grandchildren = pids_in(&pids, 2);
    keep.kill_tree(&spec.nonce, PATIENCE).await.expect("kills");
    assert!(grandchildren.iter().all(|pid| !is_alive(*pid)), "{grandchildren:?}");
    assert_eq!(next_end(&mut notices).await.ended.expect("ended").reason, ExitReason::Signal { signal: 9 });
    keep.kill_tree(&spec.nonce, PATIENCE).await.expect("nothing left is done");
}

#[tokio::test]
async fn what_a_dead_child_left_is_cleared_before_its_next_start_but_never_for_a_database() {
    let world = World::new(&[]);
    let (keep, mut notices) = world.connect().await;
    for role in [ChildRole::Instance, ChildRole::Postgres] {
        let name = role.to_string();
        let pids = world.path().join(&name);
        let mut spec = world.shell(&name, &format!("sleep 60 & echo $! > {}; exit 0", pids.display()));
        spec.role = role;
        keep.spawn(spec.clone()).await.expect("starts");
        next_end(&mut notices).await;
        let orphan = pids_in(&pids, 1)[0];
        assert!(is_alive(orphan));
        let mut again = world.shell(&name, "exec sleep 60");
        again.role = role;
        if role == ChildRole::Postgres {
            let (kind, text) = refusal(keep.spawn(again).await);
            assert!(kind == Refusal::AlreadyRunning && text.contains(&orphan.to_string()), "{text}");
            keep.kill_tree(&spec.nonce, PATIENCE).await.expect("kills");
        } else {
            keep.spawn(again).await.expect("starts");
        }
        assert!(!is_alive(orphan));
    }
}

#[tokio::test]
async fn a_task_is_waited_for_or_killed_when_its_time_is_up() {
    let world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let reason = keep.run_task(world.shell("task-a", "exit 4"), PATIENCE).await.expect("runs");
    assert_eq!(reason, ExitReason::Code { code: 4 });
    let slow = world.shell("task-b", "sleep 60; exit 0");
    let error = keep.run_task(slow, Duration::from_millis(100)).await.expect_err("too slow");
    assert!(error.to_string().contains("task-b") && error.to_string().contains("was killed"), "{error}");
    assert!(find(&keep, "task-b").await.ended.is_some());
}

#[tokio::test]
async fn a_child_gets_only_what_it_was_given() {
    let world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let spec = world.shell("a", "env; ulimit -c; umask; ls -l /proc/self/fd");
    let nonce = spec.nonce.clone();
    keep.run_task(spec, PATIENCE).await.expect("runs");
    let text = std::fs::read_to_string(world.log("a")).expect("log");
    assert!(text.contains(&format!("MAINSTAY_NONCE={nonce}\n")), "{text}");
    assert!(text.contains("\n0\n0027\n") && text.contains("/dev/null"), "{text}");
    assert!(text.contains(&format!("{nonce}.lock")), "whoever is left of it holds its lock: {text}");
    assert!(!text.contains("socket:") && !text.contains("keep.lock"), "{text}");
    assert!(!text.contains("HOME=") && !text.contains("CARGO"), "{text}");
}

#[tokio::test]
async fn a_child_drops_to_its_user_even_when_its_project_lies_in_a_closed_home() {
    if !is_root() {
        eprintln!("SKIPPED: not root, no user to drop to");
        return;
    }
    let world = World::new(&[]);
    std::fs::set_permissions(world.path(), PermissionsExt::from_mode(0o700)).expect("mode");
    let project = world.path().join("home/app");
    std::fs::create_dir_all(project.join("sub")).expect("folders");
    for folder in [world.path().join("home"), project.clone(), project.join("sub")] {
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).expect("mode");
    }
    std::fs::write(project.join("hello"), "hello from the project\n").expect("writes");
    let (keep, _notices) = world.connect().await;
    let script =
        format!("id -u; id -G; cat ../hello; ls -a {}; grep NoNewPrivs /proc/self/status", world.path().display());
    let mut spec = world.shell("dropped", &script);
    spec.user = Some(User { uid: 61_300, gid: 61_301 });
    spec.dir = project.join("sub");
    spec.project = Some(project.clone());
    keep.run_task(spec, PATIENCE).await.expect("runs");
    let text = std::fs::read_to_string(world.log("dropped")).expect("log");
    assert_eq!(text, "61300\n61301\nhello from the project\n.\n..\nhome\nNoNewPrivs:\t1\n");
    assert_eq!(std::fs::metadata(world.log("dropped")).expect("log").uid(), 61_300);

    std::fs::set_permissions(&project, PermissionsExt::from_mode(0o700)).expect("mode");
    let mut spec = world.shell("dropped", "true");
    spec.user = Some(User { uid: 61_300, gid: 61_301 });
    spec.dir = project;
    let (kind, text) = refusal(keep.spawn(spec).await);
    assert!(kind == Refusal::Environment && text.contains("move the project"), "{text}");
}

/// The state folder may lie in root's home: a service could not come to its HOME, the edge not to its state.
#[tokio::test]
async fn a_child_comes_to_a_folder_of_its_own_below_a_closed_one_and_sees_nothing_beside_it() {
    if !is_root() {
        eprintln!("SKIPPED: not root, no user to drop to");
        return;
    }
    let world = World::new(&[]);
    std::fs::set_permissions(world.path(), PermissionsExt::from_mode(0o700)).expect("mode");
    let (home, app) = (world.path().join("state/home/web"), world.path().join("app"));
    for folder in [&home, &app, &world.path().join("state/home/other"), &world.path().join("secret")] {
        std::fs::create_dir_all(folder).expect("folders");
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).expect("mode");
    }
    std::fs::set_permissions(&home, PermissionsExt::from_mode(0o700)).expect("mode");
    std::os::unix::fs::chown(&home, Some(61_300), Some(61_300)).expect("owner");
    let (keep, _notices) = world.connect().await;
    for (name, dir, seen) in [("beside", app, "app\nstate\n"), ("elsewhere", "/usr".into(), "state\n")] {
        let script = format!(
            "pwd >> {0}/{name}; ls -A {1} {1}/state {1}/state/home | grep -v : | grep .; ls {0}",
            home.display(),
            world.path().display()
        );
        let mut spec = world.shell(name, &script);
        spec.user = Some(User { uid: 61_300, gid: 61_300 });
        (spec.dir, spec.shown) = (dir.clone(), vec![home.clone()]);
        keep.run_task(spec, PATIENCE).await.expect("runs");
        let text = std::fs::read_to_string(world.log(name)).expect("log");
        assert!(text.starts_with(&format!("{seen}home\nweb\n")) && text.contains(name), "{name}: {text}");
        let written = std::fs::read_to_string(home.join(name)).expect("it was written there");
        assert_eq!(written.trim(), dir.display().to_string(), "it is the folder itself, not a copy");
    }
}

/// As pyenv and its like put it: a script in root's home, before the machine's own program.
#[tokio::test]
async fn a_script_in_a_closed_folder_of_path_gives_way_to_one_that_the_user_can_run() {
    if !is_root() {
        eprintln!("SKIPPED: not root, no user to drop to");
        return;
    }
    let world = World::new(&[]);
    let script = |folder: &str, mode: u32, text: &str| {
        let folder = world.path().join(folder);
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join("tool"), format!("#!/bin/sh\necho {text}\n")).expect("writes");
        std::fs::set_permissions(folder.join("tool"), PermissionsExt::from_mode(0o755)).expect("mode");
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).expect("mode");
        folder.display().to_string()
    };
    std::fs::set_permissions(world.path(), PermissionsExt::from_mode(0o755)).expect("mode");
    let (closed, open) = (script("closed", 0o700, "closed"), script("open", 0o755, "open"));
    let (keep, _notices) = world.connect().await;
    let spec = |path: String| {
        let mut spec = world.shell("tool", "");
        spec.argv = vec!["tool".to_owned()];
        spec.env.insert("PATH".to_owned(), mainstay_types::Secret::new(path));
        spec.user = Some(User { uid: 61_300, gid: 61_301 });
        spec
    };
    keep.run_task(spec(format!("{closed}:{open}:/usr/bin:/bin")), PATIENCE).await.expect("runs");
    assert_eq!(std::fs::read_to_string(world.log("tool")).expect("log"), "open\n");
    let (kind, text) = refusal(keep.spawn(spec(closed.clone())).await);
    let is_told = text.contains(&format!("below {closed}, which is closed to that user"));
    assert!(kind == Refusal::Environment && is_told, "{text}");
}

#[tokio::test]
async fn nobody_but_root_can_make_a_child_another_user() {
    if is_root() {
        eprintln!("SKIPPED: root can");
        return;
    }
    let world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let mut spec = world.shell("a", "true");
    spec.user = Some(User { uid: 61_300, gid: 61_300 });
    let (kind, text) = refusal(keep.spawn(spec).await);
    assert!(kind == Refusal::Environment && text.contains("only root"), "{text}");
}

#[tokio::test]
async fn a_program_in_a_closed_folder_runs_for_a_dropped_user() {
    if !is_root() {
        eprintln!("SKIPPED: not root, no user to drop to");
        return;
    }
    let world = World::new(&[]);
    let closed = world.path().join("closed");
    std::fs::create_dir(&closed).expect("folder");
    std::fs::copy("/bin/sleep", closed.join("nap")).expect("copies");
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).expect("mode");
    let (keep, _notices) = world.connect().await;
    let mut spec = world.shell("nap", "");
    spec.argv = vec![closed.join("nap").to_str().expect("text").to_owned(), "0".to_owned()];
    spec.user = Some(User { uid: 61_300, gid: 61_300 });
    assert_eq!(keep.run_task(spec, PATIENCE).await.expect("runs"), ExitReason::Code { code: 0 });
}

#[tokio::test]
async fn a_child_over_its_memory_limit_ends_as_out_of_memory() {
    let world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let lacks = world.cgroups.split(';').find(|part| part.contains("no limits for"));
    if lacks.is_some_and(|part| part.contains("memory")) {
        eprintln!("SKIPPED: {}", world.cgroups);
        return;
    }
    let mut spec = world.shell("greedy", "exec tail /dev/zero");
    spec.limits.memory = Some(Bytes::mebi(16));
    assert_eq!(keep.run_task(spec, PATIENCE).await.expect("runs"), ExitReason::OutOfMemory);
    // Killed by us after one of its processes was: that is no lack of memory of its own.
    let mut spec = world.shell("half", "tail /dev/zero; echo ready; exec sleep 60");
    spec.limits.memory = Some(Bytes::mebi(16));
    keep.spawn(spec.clone()).await.expect("starts");
    until("the inner process to be killed", || {
        std::fs::read_to_string(world.log("half")).is_ok_and(|text| text.contains("ready"))
    });
    keep.kill_tree(&spec.nonce, PATIENCE).await.expect("kills");
    assert_eq!(find(&keep, "half").await.ended.expect("ended").reason, ExitReason::Signal { signal: 9 });
}

#[tokio::test]
async fn frozen_processes_are_killed() {
    let world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let spec = world.shell("frozen", "exec sleep 60");
    let pid = keep.spawn(spec.clone()).await.expect("starts");
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("reads");
    let freezer = text.lines().find_map(|line| line.split_once(":freezer:")).map(|(_, path)| path.to_owned());
    match freezer.map(|path| format!("/sys/fs/cgroup/freezer{path}/freezer.state")) {
        Some(state) if std::path::Path::new(&state).exists() && state.contains("mainstay") => {
            std::fs::write(&state, "FROZEN").expect("freezes");
        }
        _ => {
            eprintln!("no v1 freezer here: stopped by a signal instead");
            kill(pid, "STOP");
        }
    }
    keep.kill_tree(&spec.nonce, PATIENCE).await.expect("kills");
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_log_that_nobody_follows_stays_bounded() {
    let world = World::new(&["1048576"]);
    let (keep, _notices) = world.connect().await;
    let spec = world.shell("loud", "head -c 6000000 /dev/zero | tr '\\0' x; echo; echo last; exec sleep 60");
    keep.spawn(spec).await.expect("starts");
    let log = world.log("loud");
    until("the whole output", || std::fs::metadata(&log).is_ok_and(|m| m.len() == 6_000_006));
    until("the bound", || std::fs::metadata(&log).is_ok_and(|m| m.blocks() * 512 <= 2 * 1_048_576));
    let (tail, _) = mainstay_supervisor::logs::read_tail(&log, 1).expect("reads");
    assert_eq!(tail, ["last"]);
}

#[tokio::test]
async fn keep_is_small() {
    let world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    for n in 0..20 {
        keep.spawn(world.shell(&format!("c-{n}"), "exec sleep 60")).await.expect("starts");
    }
    let size = mainstay_supervisor::proc::pss(world.pid).expect("ours");
    eprintln!("keep with 20 children: {size}");
    assert!(size < Bytes::mebi(8), "{size}");
    assert_ne!(world.pid, Pid(0));
}
