//! keep dies, and the next one goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::world::{PATIENCE, World, find, is_alive, kill, next_end, pids_in, refusal, until};
use mainstay_supervisor::protocol::{Notice, Refusal};
use mainstay_supervisor::{client, launch};
use mainstay_types::{ExitReason, Pid};

#[tokio::test]
async fn a_second_keep_is_refused_and_names_the_first() {
    let mut world = World::new(&[]);
    let first = world.pid;
    let error = world.start().expect_err("refused");
    let launch::Error::Ended { lines, .. } = &error else { panic!("{error}") };
    assert!(lines.contains(&format!("keep, pid {first}, since 20")), "{lines}");
    assert!(is_alive(first));
}

#[tokio::test]
async fn the_next_keep_adopts_and_reports_later_ends() {
    let mut world = World::new(&[]);
    let (keep, mut notices) = world.connect().await;
    let code = world.path().join("code");
    let done = world.shell("done", "exit 5");
    keep.spawn(done).await.expect("starts");
    next_end(&mut notices).await;
    let waits = format!("while [ ! -e {} ]; do sleep 0.01; done; exit 9", code.display());
    let alive = world.shell("alive", &waits);
    let pid = keep.spawn(alive.clone()).await.expect("starts");
    let doomed = keep.spawn(world.shell("doomed", "exec sleep 60")).await.expect("starts");

    world.kill_keep();
    assert!(notices.recv().await.is_none(), "the stream of notices ends");
    assert!(keep.list().await.expect_err("gone").is_gone());
    assert!(is_alive(pid), "children outlive keep");
    kill(doomed, "KILL");
    until("the doomed to be reaped by init", || mainstay_supervisor::proc::stat(doomed).is_none());
    world.start().expect("next keep");

    let (keep, mut notices) = world.connect().await;
    let adopted = find(&keep, "alive").await;
    assert_eq!((adopted.pid, adopted.is_own, adopted.ended), (pid, false, None));
    let told = tokio::time::timeout(PATIENCE, notices.recv()).await.expect("in time").expect("told");
    assert!(matches!(&told, Notice::Adopted { child } if child.name.as_str() == "alive"), "{told:?}");
    assert_eq!(find(&keep, "done").await.ended.expect("ended").reason, ExitReason::Code { code: 5 });
    assert_eq!(find(&keep, "doomed").await.ended.expect("ended").reason, ExitReason::Unknown);
    assert_eq!(refusal(keep.spawn(world.shell("alive", "true")).await).0, Refusal::AlreadyRunning);

    std::fs::write(&code, "").expect("writes");
    let ended = next_end(&mut notices).await;
    assert_eq!(ended.pid, pid);
    let reason = ended.ended.expect("ended").reason;
    // As root the zombie's status can be read, else newer kernels tell it; older ones do not.
    assert!(matches!(reason, ExitReason::Code { code: 9 } | ExitReason::Unknown), "{reason:?}");
    if crate::world::is_root() {
        assert_eq!(reason, ExitReason::Code { code: 9 });
    }
}

#[tokio::test]
async fn an_adopted_tree_can_be_killed() {
    let mut world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let pids = world.path().join("pids");
    let spec = world.shell("tree", &format!("setsid sleep 60 & echo $! >> {}; wait", pids.display()));
    let pid = keep.spawn(spec.clone()).await.expect("starts");
    let inner = pids_in(&pids, 1)[0];
    world.kill_keep();
    world.start().expect("next keep");
    let (keep, _notices) = world.connect().await;
    keep.kill_tree(&spec.nonce, PATIENCE).await.expect("kills");
    assert!(!is_alive(pid) && !is_alive(inner));
    assert!(find(&keep, "tree").await.ended.is_some());
}

/// Rewrites the only record as it is between two steps of a start.
fn edit_record(world: &World, edit: impl Fn(&mut serde_json::Value)) {
    let folder = std::fs::read_dir(world.state().join("children")).expect("folder");
    let path =
        folder.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "json")).expect("a record");
    let mut record = serde_json::from_slice(&std::fs::read(&path).expect("reads")).expect("parses");
    edit(&mut record);
    std::fs::write(&path, record.to_string()).expect("writes");
}

#[tokio::test]
async fn a_start_whose_process_id_was_never_recorded_is_found_by_its_nonce() {
    let mut world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let pid = keep.spawn(world.shell("a", "sleep 60; exit 1")).await.expect("starts");
    world.kill_keep();
    edit_record(&world, |record| {
        record["pid"] = serde_json::Value::Null;
        record["start_time"] = serde_json::Value::Null;
    });
    world.start().expect("next keep");
    let (keep, _notices) = world.connect().await;
    let found = find(&keep, "a").await;
    assert_eq!((found.pid, found.ended), (pid, None));
}

#[tokio::test]
async fn an_intent_that_never_became_a_process_is_cleaned_up() {
    let mut world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let spec = world.shell("a", "exec sleep 60");
    let pid = keep.spawn(spec.clone()).await.expect("starts");
    world.kill_keep();
    kill(pid, "KILL");
    until("it to be gone", || !is_alive(pid));
    edit_record(&world, |record| record["pid"] = serde_json::Value::Null);
    world.start().expect("next keep");
    let (keep, _notices) = world.connect().await;
    assert!(keep.list().await.expect("lists").is_empty());
    assert_eq!(std::fs::read_dir(world.state().join("children")).expect("folder").count(), 0);
    keep.spawn(spec).await.expect("even the same nonce starts now");
}

#[tokio::test]
async fn keep_killed_at_any_moment_of_a_start_starts_nothing_twice_and_loses_nothing() {
    let mut world = World::new(&[]);
    let mut survived = 0;
    for round in 0..24 {
        let (keep, _notices) = world.connect().await;
        let spec = world.shell("a", "exec sleep 60");
        let nonce = spec.nonce.clone();
        let asking = tokio::spawn(async move { keep.spawn(spec).await });
        tokio::task::yield_now().await;
        // A start takes about 5 ms here: the rounds walk through it and past it.
        tokio::time::sleep(Duration::from_micros(round * 400)).await;
        world.kill_keep();
        asking.await.expect("no panic").ok();
        world.start().expect("next keep");
        let (keep, _notices) = world.connect().await;
        let carries = |pid: &Pid| mainstay_supervisor::proc::is_nonce(*pid, &nonce);
        let started: Vec<Pid> = mainstay_supervisor::proc::all().into_keys().filter(carries).collect();
        assert!(started.len() <= 1, "round {round}: {started:?}");
        let listed = keep.list().await.expect("lists").into_iter().find(|child| child.nonce == nonce);
        let running = listed.filter(|child| child.ended.is_none()).map(|child| child.pid);
        assert_eq!(running, started.first().copied(), "round {round}");
        survived += started.len();
        keep.kill_tree(&nonce, PATIENCE).await.expect("kills");
    }
    assert!(survived > 0, "no round was late enough for a start to be finished");
}

#[tokio::test]
async fn a_process_id_given_to_a_stranger_is_not_adopted() {
    let mut world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let spec = world.shell("a", "exec sleep 60");
    let pid = keep.spawn(spec.clone()).await.expect("starts");
    world.kill_keep();
    kill(pid, "KILL");
    let mut stranger = std::process::Command::new("/bin/sleep").arg("60").spawn().expect("starts");
    let id = Pid(i32::try_from(stranger.id()).expect("small"));
    let start_time = mainstay_supervisor::proc::stat(id).expect("runs").start_time;
    edit_record(&world, |record| {
        record["pid"] = id.0.into();
        record["start_time"] = start_time.into();
    });
    until("the lock to be free", || !is_alive(pid));
    world.start().expect("next keep");
    let (keep, _notices) = world.connect().await;
    assert_eq!(find(&keep, "a").await.ended.expect("ended").reason, ExitReason::Unknown);
    keep.spawn(world.shell("b", "exec sleep 60")).await.expect("starts");
    assert!(is_alive(id), "a stranger is left alone");
    stranger.kill().expect("kills");
    stranger.wait().expect("waits");
}

fn get(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connects");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream.write_all(b"x\n").expect("writes");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("reads");
    text
}

/// Answers each connection on descriptor 3 with its process id.
const SERVER: &str = "import socket,os\ns=socket.socket(fileno=3)\ns.setblocking(True)\n\
    while True:\n c,_=s.accept()\n c.recv(9)\n c.sendall(str(os.getpid()).encode())\n c.close()\n";

#[tokio::test]
async fn a_listener_outlives_keep_and_the_child_that_serves_it() {
    if !std::path::Path::new("/usr/bin/python3").exists() {
        eprintln!("SKIPPED: no python3");
        return;
    }
    let mut world = World::new(&[]);
    let (keep, mut notices) = world.connect().await;
    let any: SocketAddr = "127.0.0.1:0".parse().expect("valid");
    let address = keep.listen("web", any).await.expect("listens");
    assert_eq!(keep.listen("web", any).await.expect("once"), address);
    let serve = |world: &World| {
        let mut spec = world.shell("web", "");
        spec.argv = ["/usr/bin/python3", "-c", SERVER].map(str::to_owned).to_vec();
        spec.listeners = vec!["web".to_owned()];
        spec
    };
    let first = keep.spawn(serve(&world)).await.expect("starts");
    assert_eq!(get(address), first.to_string());
    world.kill_keep();
    assert_eq!(get(address), first.to_string(), "traffic goes on without keep");
    world.start().expect("next keep");
    assert_eq!(get(address), first.to_string());

    let (keep, mut new_notices) = world.connect().await;
    assert_eq!(keep.listen("web", any).await.expect("is held"), address);
    kill(first, "KILL");
    next_end(&mut new_notices).await;
    // Nobody accepts, but the listener is held: this connection waits for the next start.
    let mut waiting = TcpStream::connect(address).expect("is queued");
    let second = keep.spawn(serve(&world)).await.expect("starts");
    waiting.write_all(b"x\n").expect("writes");
    let mut text = String::new();
    waiting.read_to_string(&mut text).expect("reads");
    assert_eq!(text, second.to_string());
    assert!(notices.try_recv().is_err());
    keep.unlisten("web").await.expect("closes");
    assert_eq!(refusal(keep.unlisten("web").await).0, Refusal::NotRunning);
}

#[tokio::test]
async fn an_address_in_use_is_refused_and_its_holder_named() {
    let world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("address");
    let (kind, text) = refusal(keep.listen("web", address).await);
    assert_eq!(kind, Refusal::AddressInUse);
    assert!(text.contains(&format!("pid {}", std::process::id())) && text.contains(&address.to_string()), "{text}");
}

#[tokio::test]
async fn the_control_plane_is_restarted_within_a_second_and_ends_with_keep() {
    let mut world = World::new(&["0", "/bin/sh", "-c", "echo started; exec sleep 60"]);
    let (keep, mut notices) = world.connect().await;
    let control = find(&keep, "control").await;
    let bystander = keep.spawn(world.shell("a", "exec sleep 60")).await.expect("starts");
    let killed_at = Instant::now();
    kill(control.pid, "KILL");
    assert_eq!(next_end(&mut notices).await.ended.expect("ended").reason, ExitReason::Signal { signal: 9 });
    let mut second = control.pid;
    while second == control.pid {
        assert!(killed_at.elapsed() < Duration::from_secs(1), "not restarted");
        let child = find(&keep, "control").await;
        if child.ended.is_none() {
            second = child.pid;
        }
    }
    let ended_before = async |keep: &client::Keep| find(keep, "control").await.ended_before.map(|ended| ended.reason);
    assert_eq!(control.ended_before, None);
    assert_eq!(ended_before(&keep).await, Some(ExitReason::Signal { signal: 9 }), "who else could tell");
    // The next keep adopts it and starts no other.
    world.kill_keep();
    world.start().expect("next keep");
    let (keep, _notices) = world.connect().await;
    assert_eq!(find(&keep, "control").await.pid, second);
    assert_eq!(ended_before(&keep).await, Some(ExitReason::Signal { signal: 9 }));
    let pid = world.pid;
    kill(pid, "HUP");
    kill(pid, "INT");
    keep.list().await.expect("still there");
    kill(pid, "TERM");
    let asked_at = Instant::now();
    until("keep to leave", || !is_alive(pid));
    assert!(asked_at.elapsed() < Duration::from_secs(4), "the control plane was asked to end, not left to be killed");
    assert!(!is_alive(second), "SIGTERM ends the control plane too");
    assert!(is_alive(bystander), "and leaves the children");
}

#[tokio::test]
async fn a_keep_that_a_child_started_survives_the_killing_of_that_child() {
    let mut world = World::new(&[]);
    let (keep, _notices) = world.connect().await;
    let go = world.path().join("go");
    // As a control plane does when keep has died; it is in a cgroup that is killed as a whole.
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.01; done; env -u MAINSTAY_NONCE setsid -f {}; exec sleep 60",
        go.display(),
        world.command(),
    );
    let spec = world.shell("control-like", &script);
    let pid = keep.spawn(spec.clone()).await.expect("starts");
    world.kill_keep();
    std::fs::write(&go, "").expect("writes");
    let patience = Duration::from_secs(1);
    until("the next keep", || client::hello_blocking(&world.runtime(), patience).is_ok());
    world.pid = client::hello_blocking(&world.runtime(), patience).expect("answers").pid;
    let (keep, _notices) = world.connect().await;
    keep.kill_tree(&spec.nonce, PATIENCE).await.expect("kills");
    assert!(!is_alive(pid) && is_alive(world.pid));
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", world.pid)).expect("reads");
    assert!(!groups.contains("control-like"), "{groups}");
    keep.list().await.expect("still there");
}

#[tokio::test]
async fn an_orderly_end_of_the_control_plane_is_the_end_of_keep() {
    let world = World::new(&["0", "/bin/sh", "-c", "sleep 0.2; exit 0"]);
    let pid = world.pid;
    until("keep to leave", || !is_alive(pid));
}
