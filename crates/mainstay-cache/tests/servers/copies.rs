//! Copies of a real store: taken while it works, loaded by a second real server, put back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_cache::copies::{self, Alone, Copies, Copy, Laid, Wanted};
use mainstay_cache::{CopyError, Kind, find_program};
use mainstay_types::Timestamp;
use rustix::process::Signal;

use super::Server;

fn copies_of(server: &Server) -> (Copies, Alone) {
    let now = || Timestamp::from_millis(1_795_700_000_000);
    let copies = Copies::new(server.settings.clone(), find_program().unwrap(), now);
    let alone = copies.alone().unwrap();
    (copies, alone)
}

fn wanted(name: &str) -> Wanted {
    Wanted::Asked { name: Some(name.to_owned()) }
}

fn file(server: &Server, copy: &Copy) -> PathBuf {
    copies::folder(&server.settings.state).join(format!("{}.rdb", copy.id))
}

/// The note of a copy whose file was changed behind its back, as if it had been stored so.
async fn note_as_stored(server: &Server, copy: &Copy) -> Copy {
    let path = file(server, copy);
    let hash = tokio::process::Command::new("sha256sum").arg(&path).output().await.unwrap();
    let sha256 = String::from_utf8(hash.stdout).unwrap().split(' ').next().unwrap().to_owned();
    Copy { bytes: std::fs::metadata(&path).unwrap().len(), sha256, ..copy.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_store_that_is_written_to_holds_exactly_what_the_store_held() {
    let mut server = Server::new(Kind::Store);
    server.start().await;
    server.ask(&["SELECT", "0"]).await;
    server.ask(&["SET", "session:short", "over before it is loaded", "PX", "300"]).await;
    let door = server.settings.door();
    let writing = tokio::spawn(async move {
        for n in 0.. {
            let (key, field) = (format!("key:{n}"), format!("list:{}", n % 7));
            door.ask_all(&[&["SET", &key, "x"], &["RPUSH", &field, &key], &["SETEX", &format!("e{n}"), "900", "y"]])
                .await
                .unwrap();
        }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (copies, alone) = copies_of(&server);
    for round in 0..3 {
        let copy = copies.take(&alone, wanted("under load")).await.unwrap();
        assert!(copy.proof.is_none() && !copy.is_proven());
        assert_eq!(copy.before, copy.after, "round {round}: the server did something else in between");
        assert!(copy.before[&0].keys > 10 && copy.before[&0].expires > 1, "{copy:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let proven = copies.prove(&alone, &copy).await.unwrap();
        assert!(proven.is_proven(), "{proven:?}");
        assert_eq!(proven.proof.unwrap().counts, copy.before);
    }
    writing.abort();
    let listed = copies::list(&server.settings.state).unwrap();
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(Copy::is_proven));
    assert_eq!(listed[0].id, "20261126T133320");
    assert_eq!(listed[2].id, "20261126T133320c");
    assert!(!server.settings.state.join("redis/proof").exists() && !server.settings.dir().join("dump.rdb").exists());
    assert!(matches!(copies.alone(), Err(CopyError::Busy(_))), "two may work at once");
    copies.remove(&alone, &[listed[0].id.clone()]).unwrap();
    assert_eq!(copies::list(&server.settings.state).unwrap(), listed[1..]);
    server.end(Signal::TERM).await;
}

#[tokio::test]
async fn a_copy_that_is_torn_damaged_or_loads_nothing_is_not_proven() {
    let mut server = Server::new(Kind::Store);
    server.start().await;
    let (copies, alone) = copies_of(&server);
    let empty = copies.take(&alone, wanted("of nothing")).await.unwrap();
    assert!(copies.prove(&alone, &empty).await.unwrap().is_proven(), "an empty store has an empty copy");
    for n in 0..500 {
        server.ask(&["SET", &format!("key:{n}"), &"value".repeat(20 + n % 9)]).await;
    }
    let good = copies.take(&alone, wanted("good")).await.unwrap();
    let path = file(&server, &good);
    let whole = std::fs::read(&path).unwrap();
    let faults = async |copy: Copy| {
        let proven = copies.prove(&alone, &copy).await.unwrap();
        assert!(!proven.is_proven());
        proven.proof.unwrap().faults.join("; ")
    };

    // Redis' own file with nothing in it, stored as this copy: it loads well.
    std::fs::copy(file(&server, &empty), &path).unwrap();
    let found = faults(note_as_stored(&server, &good).await).await;
    assert!(found.contains("0 keys were loaded, the store had 500"), "{found}");
    // Cut off, and stored so.
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let found = faults(note_as_stored(&server, &good).await).await;
    assert!(found.contains("does not load"), "{found}");
    // A byte that changed on disk since it was stored.
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&path, &flipped).unwrap();
    let found = faults(good.clone()).await;
    assert!(found.contains("is not what was stored"), "{found}");
    assert!(matches!(copies.lay(&alone, &good), Err(CopyError::Damaged { .. })), "it would be put back");
    assert!(!copies.waits());

    std::fs::write(&path, &whole).unwrap();
    assert!(copies.prove(&alone, &good).await.unwrap().is_proven());
    server.end(Signal::TERM).await;
    let error = copies.take(&alone, wanted("of nobody")).await.unwrap_err();
    assert!(matches!(error, CopyError::Response(_)), "{error}");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_copy_is_put_back_at_the_next_start_whole_or_not_at_all() {
    let mut server = Server::new(Kind::Store);
    server.start().await;
    server.ask(&["SET", "session:1", "alice"]).await;
    server.ask(&["HSET", "cart:1", "pears", "3"]).await;
    let (copies, alone) = copies_of(&server);
    let copy = copies.take(&alone, wanted("before the mistake")).await.unwrap();
    server.ask(&["FLUSHALL"]).await;
    server.ask(&["SET", "later", "1"]).await;
    assert_eq!(copies::apply(&server.settings).unwrap(), None, "nothing waits");
    assert_eq!(copies.replace(&alone, &copy).await.unwrap(), Laid::Begins);
    server.child.take().unwrap().wait().await.unwrap();

    let replaced = copies::apply(&server.settings).unwrap().unwrap().replaced;
    assert_eq!(copies::apply(&server.settings).unwrap(), None);
    assert!(names(&replaced).contains(&"appendonlydir".to_owned()) || names(&replaced) == ["appendonly.aof"]);
    for _ in 0..2 {
        server.start().await;
        assert_eq!(server.ask(&["GET", "session:1"]).await, "alice");
        assert_eq!(server.ask(&["HGET", "cart:1", "pears"]).await, "3");
        assert_eq!(copies::keys(&copies.present().await.unwrap().unwrap()), 2, "what came after the copy is there");
        // It is the store's own file now: a crash loses nothing of it.
        server.end(Signal::KILL).await;
    }

    // Killed between putting aside and putting in place: the next start goes on, and the first data are kept.
    copies.lay(&alone, &copy).unwrap();
    let live = ["appendonlydir", "appendonly.aof"].map(|name| server.settings.dir().join(name));
    let live = live.iter().find(|path| path.exists()).unwrap();
    std::fs::remove_dir_all(&replaced).unwrap();
    std::fs::create_dir(&replaced).unwrap();
    std::fs::rename(live, replaced.join(live.file_name().unwrap())).unwrap();
    copies::apply(&server.settings).unwrap().unwrap();
    assert_eq!(names(&replaced), [live.file_name().unwrap().to_str().unwrap()]);
    server.start().await;
    assert_eq!(server.ask(&["GET", "session:1"]).await, "alice");
    server.end(Signal::TERM).await;
    assert_eq!(copies.present().await.unwrap(), None, "nobody is there");
    assert_eq!(copies.replace(&alone, &copy).await.unwrap(), Laid::Waits);
    assert!(copies.waits());
}

#[tokio::test]
async fn what_a_killed_process_left_half_done_is_no_copy_and_goes() {
    let mut server = Server::new(Kind::Store);
    server.start().await;
    server.ask(&["SET", "a", "1"]).await;
    let (copies, alone) = copies_of(&server);
    let copy = copies.take(&alone, wanted("whole")).await.unwrap();
    let folder = copies::folder(&server.settings.state);
    let note = folder.join(format!("{}.json", copy.id));
    std::fs::copy(&note, folder.join("20261126T160000.json")).unwrap();
    std::fs::write(folder.join("20261126T160000.rdb.part"), b"REDIS0010").unwrap();
    assert_eq!(copies::list(&server.settings.state).unwrap(), std::slice::from_ref(&copy));
    drop(alone);
    // A second server whose starter was killed too, with its files.
    let alone = copies.alone().unwrap();
    assert_eq!(names(&folder), [".lock".to_owned(), format!("{}.json", copy.id), format!("{}.rdb", copy.id)]);
    std::fs::create_dir_all(server.settings.state.join("redis/proof")).unwrap();
    std::fs::write(server.settings.state.join("redis/proof/copy.rdb"), b"old").unwrap();
    assert!(copies.prove(&alone, &copy).await.unwrap().is_proven());
    server.end(Signal::TERM).await;
}

/// Who answers every connection at a server's socket with the same words, once for the password and then.
fn answers(server: &Server, words: String) -> tokio::task::JoinHandle<()> {
    std::fs::create_dir_all(server.settings.socket_dir()).unwrap();
    std::fs::create_dir_all(server.settings.dir()).unwrap();
    std::fs::remove_file(server.settings.socket()).ok();
    let listener = tokio::net::UnixListener::bind(server.settings.socket()).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut stream, format!("+OK\r\n{words}").as_bytes()).await.unwrap();
            // Until the other side goes.
            tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut Vec::new()).await.ok();
        }
    })
}

/// A restore once said that the store was back with 15,671 keys of 600,000: it was still loading them.
#[tokio::test]
async fn a_store_that_still_loads_is_not_there_yet() {
    let server = Server::new(Kind::Store);
    let info = "# Keyspace\r\ndb0:keys=1,expires=0,avg_ttl=0\r\n";
    let loading = "-LOADING Redis is loading the dataset in memory";
    let answering = answers(&server, format!("{loading}\r\n${}\r\n{info}\r\n", info.len()));
    let (copies, _alone) = copies_of(&server);
    let error = copies.present().await.unwrap_err();
    assert!(error.to_string().contains("LOADING"), "{error}");
    answering.abort();
}

/// A restore once said of such a store that it does not run, and left the copy for its next start.
#[tokio::test]
async fn a_store_that_is_there_and_cannot_be_ended_keeps_its_data_at_the_next_start_too() {
    let mut server = Server::new(Kind::Store);
    server.start().await;
    server.ask(&["SET", "a", "1"]).await;
    let (copies, alone) = copies_of(&server);
    let copy = copies.take(&alone, wanted("of one key")).await.unwrap();
    server.end(Signal::TERM).await;
    for words in ["-BUSY Redis is busy running a script.\r\n", "-LOADING Redis is loading\r\n", "what?\r\n"] {
        let answering = answers(&server, words.to_owned());
        let error = copies.replace(&alone, &copy).await.unwrap_err();
        assert!(matches!(error, CopyError::Response(_)), "{words}: {error}");
        assert!(!copies.waits(), "{words}");
        answering.abort();
        assert!(answering.await.is_err());
    }
    // Somebody else's process, by its number.
    let info = format!("process_id:{}\r\n", std::process::id());
    let answering = answers(&server, format!("${}\r\n{info}\r\n", info.len()));
    let error = copies.replace(&alone, &copy).await.unwrap_err();
    assert!(matches!(error, CopyError::NotOurs { .. }), "{error}");
    assert!(!copies.waits());
    answering.abort();
}

#[tokio::test]
async fn a_copy_that_cannot_be_laid_out_leaves_nothing() {
    let mut server = Server::new(Kind::Store);
    server.start().await;
    let (copies, alone) = copies_of(&server);
    let copy = copies.take(&alone, wanted("good")).await.unwrap();
    // Where it is to wait there is a folder: it cannot be put there.
    std::fs::create_dir_all(server.settings.dir().join("restore.rdb/x")).unwrap();
    let error = copies.lay(&alone, &copy).unwrap_err();
    assert!(matches!(error, CopyError::Io { .. }), "{error}");
    assert!(!server.settings.dir().join("restore.rdb.part").exists());
    server.end(Signal::TERM).await;
}

/// A program that stands for the second server.
fn program(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("redis-server");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// A second server that was killed for want of memory once made a proven copy a wrong one, and the next copy removed it.
#[tokio::test]
async fn a_second_server_that_is_killed_or_does_not_start_says_nothing_of_the_copy() {
    let mut server = Server::new(Kind::Store);
    server.start().await;
    server.ask(&["SET", "a", "1"]).await;
    let (copies, alone) = copies_of(&server);
    let copy = copies.take(&alone, wanted("good")).await.unwrap();
    let proven = copies.prove(&alone, &copy).await.unwrap();
    assert!(proven.is_proven() && proven.right_since.is_some());
    server.end(Signal::TERM).await;
    let loads = "echo '* Loading RDB produced by version 7.0.15'; echo '# RDB memory usage when created 1.00 Mb'";
    let eof = "echo '# Internal error in RDB reading offset 0 -> Unexpected EOF reading RDB file'";
    let scripts = [
        format!("{loads}; kill -KILL $$"),
        format!("{loads}; {eof}; kill -SEGV $$"),
        format!("{loads}; exit 1"),
        format!("{loads}; echo '# ziplist load failed allocating 8 bytes'; {eof}; exit 1"),
        "echo \"# Can't handle RDB format version 11\"; exit 1".to_owned(),
        "echo \"# Can't open the log file: Permission denied\"; exit 1".to_owned(),
    ];
    for script in scripts {
        let of = |program| Copies::new(server.settings.clone(), program, || Timestamp::from_millis(7));
        let error = of(program(&server.settings.state, &script)).prove(&alone, &proven).await.unwrap_err();
        assert!(matches!(error, CopyError::NoLook(_)), "{script}: {error}");
    }
    assert_eq!(copies::list(&server.settings.state).unwrap(), std::slice::from_ref(&proven), "its note is as it was");
    // Positive control: the server's own words are a verdict, and that it was right once stays known.
    let says = program(&server.settings.state, &format!("{loads}; {eof}; exit 1"));
    let wrong = Copies::new(server.settings.clone(), says, || Timestamp::from_millis(7));
    // As an earlier version wrote it.
    let noted = Copy { right_since: None, ..proven.clone() };
    // A program that was just written may be busy for a moment, when another test forks meanwhile.
    let mut looked = wrong.prove(&alone, &noted).await;
    for _ in 0..20 {
        if looked.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        looked = wrong.prove(&alone, &noted).await;
    }
    let wrong = looked.unwrap();
    assert!(!wrong.is_proven());
    assert_eq!(wrong.right_since, proven.right_since);
}

/// Whoever loads a copy may be killed in the middle; the second server was left to the next look, an hour later.
#[tokio::test]
async fn a_second_server_that_is_left_is_found_by_its_folder() {
    let server = Server::new(Kind::Store);
    let folder = server.settings.state.join("redis/proof");
    std::fs::create_dir_all(&folder).unwrap();
    let redis = find_program().unwrap();
    let mut left = std::process::Command::new(&redis)
        .args(["--port", "0", "--save", "", "--dir"])
        .arg(&folder)
        .current_dir(&folder)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut shell = std::process::Command::new("/bin/sleep").arg("600").current_dir(&folder).spawn().unwrap();
    // Forked and not yet executed it bears our name.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while copies::end_proof(&server.settings.state) != 1 {
        assert!(std::time::Instant::now() < deadline, "it is not found");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&left.wait().unwrap()), Some(9));
    assert_eq!(copies::stop_proof(&server.settings.state).unwrap(), 0);
    assert!(!folder.exists(), "what it had is there still");
    assert!(shell.try_wait().unwrap().is_none(), "a shell in that folder is nobody's to end");
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[tokio::test]
async fn a_copy_that_would_fill_the_disk_is_neither_taken_nor_loaded_nor_laid() {
    let server = Server::new(Kind::Store);
    let info = "used_memory_dataset:1000000000000000000\r\nrdb_bgsave_in_progress:0\r\n";
    // It would take BGSAVE for a question like others, and answer it so: nothing would be written.
    let answering = answers(&server, format!("${}\r\n{info}\r\n", info.len()));
    let (copies, alone) = copies_of(&server);
    let error = copies.take(&alone, wanted("too big")).await.unwrap_err();
    assert!(matches!(error, CopyError::NoSpace { .. }), "{error}");
    answering.abort();
    let mut server = Server::new(Kind::Store);
    server.start().await;
    let (copies, alone) = copies_of(&server);
    let copy = copies.take(&alone, wanted("small")).await.unwrap();
    let big = Copy { bytes: 1_000_000_000_000_000_000, ..copy };
    let error = copies.prove(&alone, &big).await.unwrap_err();
    assert!(matches!(error, CopyError::NoSpace { .. }), "{error}");
    let error = copies.replace(&alone, &big).await.unwrap_err();
    assert!(matches!(error, CopyError::NoSpace { .. }), "{error}");
    assert!(!copies.waits());
    server.end(Signal::TERM).await;
}

/// Nobody is there to end it, not even `down`: it is no child of keep's.
#[tokio::test]
async fn a_second_server_ends_with_whoever_started_it() {
    let mut server = Server::new(Kind::Store);
    server.start().await;
    let (copies, alone) = copies_of(&server);
    let copy = copies.take(&alone, wanted("good")).await.unwrap();
    server.end(Signal::TERM).await;
    let waits = program(&server.settings.state, "echo $$ > pid; exec sleep 600");
    let copies = Copies::new(server.settings.clone(), waits, || Timestamp::from_millis(7));
    let file = server.settings.state.join("redis/proof/pid");
    let pid = || std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let starter = std::thread::spawn({
        let file = file.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut looking = Box::pin(async move { copies.prove(&alone, &copy).await.map(drop) });
            let begun = async {
                while std::fs::read(&file).map_or(0, |text| text.len()) == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let is_begun = runtime.block_on(async {
                tokio::select! {
                    () = begun => true,
                    _ = &mut looking => false,
                    () = tokio::time::sleep(Duration::from_secs(20)) => false,
                }
            });
            // As with SIGKILL: nothing of it is dropped, and nobody ends the server.
            std::mem::forget(looking);
            std::mem::forget(runtime);
            is_begun
        }
    });
    assert!(starter.join().unwrap(), "the second server was not started");
    let pid = rustix::process::Pid::from_raw(pid().unwrap()).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let options = rustix::process::WaitOptions::NOHANG;
    while rustix::process::waitpid(Some(pid), options).unwrap().is_none() {
        assert!(std::time::Instant::now() < deadline, "it is left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
