//! Both servers, real, on a free port and a socket.
#![expect(clippy::unwrap_used, reason = "tests say what they expect by unwrapping")]

#[path = "servers/copies.rs"]
mod copies;
#[path = "servers/replicas.rs"]
mod replicas;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use mainstay_cache::{Door, Kind, ResponseError, Settings, find_program, info, metrics, ping, spec};
use mainstay_stack::model::{Cache, StoreCopies};
use mainstay_types::{Bytes, Nonce, Secret, Seen, Timestamp};
use rustix::process::Signal;
use tokio::process::{Child, Command};

const WITHIN: Duration = Duration::from_secs(20);

struct Server {
    folder: tempfile::TempDir,
    settings: Settings,
    child: Option<Child>,
}

impl Server {
    fn new(kind: Kind) -> Self {
        let folder = tempfile::Builder::new().prefix("rd").tempdir_in("/tmp").unwrap();
        let settings = Settings {
            kind,
            state: folder.path().join("s"),
            runtime: folder.path().join("r"),
            port: std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(),
            password: Secret::new("geheim"),
            cache: Cache {
                cache_memory: Bytes::mebi(4),
                store_memory: Bytes::mebi(4),
                store_persists: true,
                store_replicas: 0,
                copies: StoreCopies::default(),
            },
            part: None,
            user: None,
        };
        Self { folder, settings, child: None }
    }

    async fn start(&mut self) -> Duration {
        let begun = Instant::now();
        let program = find_program().unwrap();
        let log = self.folder.path().join("log");
        let spec = spec(&self.settings, &program, Nonce::from_bytes([0; 16]), log).unwrap();
        let log = std::fs::OpenOptions::new().append(true).create(true).open(&spec.log).unwrap();
        let child = Command::new(&spec.argv[0])
            .args(&spec.argv[1..])
            .current_dir(&spec.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.child = Some(child);
        while ping(&self.settings, Timestamp::default()).await.value().is_none() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
            assert!(begun.elapsed() < WITHIN, "does not answer: {log}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        begun.elapsed()
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id().unwrap()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    async fn end(&mut self, signal: Signal) {
        self.signal(signal);
        let mut child = self.child.take().unwrap();
        tokio::time::timeout(WITHIN, child.wait()).await.expect("it ends").unwrap();
    }

    async fn ask(&self, command: &[&str]) -> String {
        self.settings.door().ask(command).await.unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_killed_store_has_what_was_synced_when_it_is_started_again() {
    let mut server = Server::new(Kind::Store);
    server.start().await;
    assert_eq!(server.ask(&["SET", "session:1", "alice"]).await, "OK");
    // The file is synced once a second: what is older than that survives even a power cut.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    server.end(Signal::KILL).await;
    let error = server.settings.door().ask(&["PING"]).await.unwrap_err();
    assert!(matches!(error, ResponseError::NotListening { .. }), "{error}");
    let took = server.start().await;
    println!("restarted in place in {took:?}");
    assert_eq!(server.ask(&["GET", "session:1"]).await, "alice");
    let page = metrics(&server.settings).await;
    assert!(page.contains("redis_up{redis=\"store\"} 1\n"), "{page}");
    assert!(page.contains("redis_db_keys{redis=\"store\",db=\"db0\"} 1\n"), "{page}");
    assert!(page.contains("redis_aof_enabled{redis=\"store\"} 1\n"), "{page}");
    let hits = info(&server.settings).await.unwrap()["keyspace_hits"].clone();
    assert!(page.contains(&format!("redis_keyspace_hits_total{{redis=\"store\"}} {hits}\n")), "{page}");

    // A full store refuses, it forgets nothing.
    let value = "x".repeat(100_000);
    let mut refused = None;
    for n in 0..100 {
        if let Err(error) = server.settings.door().ask(&["SET", &format!("big:{n}"), &value]).await {
            refused = Some(error.to_string());
            break;
        }
    }
    assert!(refused.is_some_and(|text| text.contains("OOM")));
    assert_eq!(server.ask(&["GET", "session:1"]).await, "alice");
    server.end(Signal::TERM).await;
    assert!(metrics(&server.settings).await.starts_with("# HELP redis_up"));
    assert!(metrics(&server.settings).await.contains("redis_up{redis=\"store\"} 0\n"));
}

#[tokio::test]
async fn a_full_cache_evicts_and_leaves_nothing_on_disk() {
    let mut server = Server::new(Kind::Cache);
    server.start().await;
    let value = "x".repeat(100_000);
    for n in 0..100 {
        server.ask(&["SET", &format!("big:{n}"), &value]).await;
    }
    let evicted: u64 = info(&server.settings).await.unwrap()["evicted_keys"].parse().unwrap();
    assert!(evicted > 0);
    server.end(Signal::TERM).await;
    let files: Vec<PathBuf> = std::fs::read_dir(server.settings.dir()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files, [server.settings.dir().join("redis.conf")]);
}

#[tokio::test]
async fn the_password_is_needed_on_both_doors_and_dangerous_commands_are_gone() {
    let mut server = Server::new(Kind::Cache);
    server.start().await;
    let wrong = Settings { password: Secret::new("falsch"), ..server.settings.clone() };
    let error = wrong.door().ask(&["PING"]).await.unwrap_err();
    assert!(matches!(error, ResponseError::Refused { .. }), "{error}");
    assert_eq!(ping(&wrong, Timestamp::default()).await, Seen::Unknown);
    for command in ["SHUTDOWN", "DEBUG", "MODULE", "REPLICAOF"] {
        let error = server.settings.door().ask(&[command]).await.unwrap_err();
        assert!(error.to_string().contains("unknown command"), "{command}: {error}");
    }
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.settings.port)).unwrap();
    std::io::Write::write_all(&mut stream, b"PING\r\n").unwrap();
    let mut answer = [0; 7];
    std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
    assert_eq!(&answer, b"-NOAUTH");
    assert_eq!(mode(&server.settings.dir().join("redis.conf")), 0o600);
    assert_eq!(mode(&server.settings.dir()), 0o700);
    assert_eq!(mode(&server.settings.socket()), 0o777);
    server.end(Signal::TERM).await;
}

#[tokio::test]
async fn a_frozen_server_is_silent_and_a_look_has_a_deadline() {
    let mut server = Server::new(Kind::Cache);
    server.start().await;
    server.signal(Signal::STOP);
    let now = Timestamp::from_millis(1);
    assert_eq!(ping(&server.settings, now).await, Seen::Silent { since: now });
    let door = Door { within: Duration::from_millis(50), ..server.settings.door() };
    let begun = Instant::now();
    assert!(door.ask(&["PING"]).await.unwrap_err().is_silence());
    assert!(begun.elapsed() < Duration::from_millis(900));
    server.signal(Signal::CONT);
    server.end(Signal::TERM).await;
}
