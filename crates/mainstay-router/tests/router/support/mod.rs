//! Real PostgreSQL clusters and a real router, in temporary folders, ended when the test ends.

pub(crate) mod raw;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use mainstay_router::protocol::{FromRouter, Policy, PoolMode, PoolPolicy, PoolState, Server, Targets, ToRouter};
use mainstay_router::{Listeners, Options, SOCKET, serve};
use mainstay_supervisor::wire;
use mainstay_types::{Generation, Member, Secret, Timeline};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio_postgres::{Client, Config, NoTls};

const BIN: &str = "/usr/lib/postgresql/15/bin";
pub(crate) const PASSWORD: &str = "correct horse";

/// The user that PostgreSQL runs as: itself never root.
fn postgres_ids() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("a user named postgres");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn command(program: &str) -> Command {
    let mut command = Command::new(Path::new(BIN).join(program));
    if let Some((uid, gid)) = postgres_ids() {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C");
    command
}

fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("msr").tempdir_in("/tmp").unwrap();
    if let Some((uid, gid)) = postgres_ids() {
        std::os::unix::fs::chown(folder.path(), Some(uid), Some(gid)).unwrap();
    }
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    postmaster: Option<Child>,
    /// Kept for the next test.
    template: Arc<TempDir>,
    pub(crate) member: usize,
}

/// An initialised cluster is made once and copied, while any test uses it: initdb takes most of a test's time.
fn template() -> Arc<TempDir> {
    // Weak: nothing drops a static, and the folder must not outlive the tests.
    static TEMPLATE: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut template = TEMPLATE.lock().unwrap();
    if let Some(made) = template.upgrade() {
        return made;
    }
    let made = Arc::new(folder());
    let data = made.path().join("data");
    done(command("initdb").args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "-D"]).arg(&data));
    let hba = "local all postgres trust\nlocal replication postgres trust\nlocal all all scram-sha-256\n";
    std::fs::write(data.join("pg_hba.conf"), hba).unwrap();
    let settings = "fsync = off\nlisten_addresses = ''\nshared_buffers = 16MB\nmax_connections = 60\n\
        wal_level = replica\nhot_standby = on\nlog_min_messages = fatal\nautovacuum = off\n";
    std::fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
    *template = Arc::downgrade(&made);
    made
}

impl Cluster {
    pub(crate) async fn primary() -> Self {
        let folder = folder();
        let mut copy = Command::new("cp");
        if let Some((uid, gid)) = postgres_ids() {
            copy.uid(uid).gid(gid);
        }
        let template = template();
        done(copy.arg("-a").arg(template.path().join("data")).arg(folder.path()));
        let mut cluster = Self { folder, postmaster: None, member: 0, template };
        cluster.start().await;
        let admin = cluster.admin("postgres").await;
        admin
            .batch_execute(&format!(
                "create role app login password '{PASSWORD}'; create role \"näm'e\" login password '{PASSWORD}'"
            ))
            .await
            .unwrap();
        admin.batch_execute("create database app owner app").await.unwrap();
        let admin = cluster.admin("app").await;
        admin
            .batch_execute("create table ledger (id bigint, at timestamptz default now()); grant all on ledger to app")
            .await
            .unwrap();
        cluster
    }

    pub(crate) async fn standby(&self) -> Self {
        let folder = folder();
        let data = folder.path().join("data");
        done(
            command("pg_basebackup")
                .args(["-U", "postgres", "-c", "fast", "-X", "stream", "-R", "--no-sync", "-h"])
                .arg(self.folder.path())
                .arg("-D")
                .arg(&data),
        );
        let template = Arc::clone(&self.template);
        let mut cluster = Self { folder, postmaster: None, member: self.member + 1, template };
        cluster.start().await;
        cluster
    }

    pub(crate) async fn start(&mut self) {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let mut start = command("postgres");
        start.arg("-D").arg(self.folder.path().join("data")).arg("-k").arg(self.folder.path());
        self.postmaster = Some(start.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.config("postgres").user("postgres").dbname("postgres").connect(NoTls).await.is_err() {
            assert!(Instant::now() < deadline, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn config(&self, user: &str) -> Config {
        let mut config = Config::new();
        config.host_path(self.folder.path()).user(user);
        config
    }

    /// Past the router.
    pub(crate) async fn admin(&self, database: &str) -> Client {
        let (client, connection) = self.config("postgres").dbname(database).connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// All processes at once, as a fence does.
    pub(crate) fn kill(&mut self) {
        let Some(mut postmaster) = self.postmaster.take() else { return };
        let parent = postmaster.id();
        // Stopped first, so that it starts no child while its children are counted.
        signal(parent, rustix::process::Signal::STOP);
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        signal(parent, rustix::process::Signal::KILL);
        for child in children.split_whitespace() {
            signal(child.parse().unwrap(), rustix::process::Signal::KILL);
        }
        postmaster.wait().unwrap();
        // A backend that has not died yet may still take a statement.
        let deadline = Instant::now() + Duration::from_secs(10);
        while children.split_whitespace().any(is_alive) {
            assert!(Instant::now() < deadline, "backends survive SIGKILL");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.remove_segment();
    }

    /// A killed server leaves its shared memory, and the machine has room for 4096 such segments.
    fn remove_segment(&self) {
        let lock = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap_or_default();
        if let Some(id) = lock.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            Command::new("ipcrm").args(["-m", id]).stderr(std::process::Stdio::null()).status().ok();
        }
    }

    /// Its processes go on no further, until it is killed: what is sent to them stays unanswered.
    pub(crate) fn freeze(&self) {
        let parent = self.postmaster.as_ref().expect("it runs").id();
        signal(parent, rustix::process::Signal::STOP);
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        for child in children.split_whitespace() {
            signal(child.parse().unwrap(), rustix::process::Signal::STOP);
        }
    }

    pub(crate) async fn promote(&self) {
        let admin = self.admin("postgres").await;
        admin.query_one("select pg_promote(true, 20)", &[]).await.unwrap();
    }

    pub(crate) fn server(&self) -> Server {
        Server {
            member: Member::nth(self.member).unwrap(),
            timeline: Timeline(1),
            socket_dir: self.folder.path().to_owned(),
            port: 5432,
        }
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).ok();
}

fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) struct Router {
    pub(crate) folder: TempDir,
    pub(crate) write: SocketAddr,
    pub(crate) read: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Router {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    pub(crate) fn start_in(folder: TempDir) -> Self {
        let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [write, read] = [0, 1].map(|at| listeners[at].local_addr().unwrap());
        let [write_listener, read_listener] = listeners;
        let options = Options {
            runtime: folder.path().to_owned(),
            state: folder.path().to_owned(),
            listeners: Listeners { write: write_listener, read: Some(read_listener) },
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            serve(options, async move {
                stopped.await.ok();
            })
            .await
            .unwrap();
        });
        Self { folder, write, read, stop: Some(stop), task: Some(task) }
    }

    pub(crate) async fn stop(mut self) -> TempDir {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.take().unwrap().await.unwrap();
        self.folder
    }

    pub(crate) async fn control(&self) -> Control {
        let path = self.folder.path().join(SOCKET);
        let deadline = Instant::now() + Duration::from_secs(5);
        let stream = loop {
            match UnixStream::connect(&path).await {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let mut control = Control { stream };
        assert!(matches!(control.next().await, FromRouter::Hello { .. }));
        control
    }

    pub(crate) async fn connect(&self) -> Client {
        connect(self.write).await
    }
}

pub(crate) fn config(address: SocketAddr) -> Config {
    let mut config = Config::new();
    config.host(address.ip().to_string()).port(address.port()).user("app").dbname("app").password(PASSWORD);
    config
}

pub(crate) async fn connect(address: SocketAddr) -> Client {
    let (client, connection) = config(address).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) struct Control {
    stream: UnixStream,
}

impl Control {
    pub(crate) async fn next(&mut self) -> FromRouter {
        let next = tokio::time::timeout(Duration::from_secs(20), wire::receive(&mut self.stream));
        next.await.expect("a frame in 20 s").unwrap().expect("the router is there")
    }

    /// The answer to a frame; reports in between are dropped.
    pub(crate) async fn ask(&mut self, frame: ToRouter) -> FromRouter {
        wire::send(&mut self.stream, &frame).await.unwrap();
        loop {
            match self.next().await {
                FromRouter::Report { .. } | FromRouter::FailoverDone { .. } | FromRouter::Leaving { .. } => {}
                answer => return answer,
            }
        }
    }

    pub(crate) async fn policy(&mut self, policy: Policy) {
        let answer = self.ask(ToRouter::Policy { policy: Box::new(policy) }).await;
        assert!(matches!(answer, FromRouter::Accepted { .. }), "{answer:?}");
    }

    pub(crate) async fn point(&mut self, epoch: u64, write: Option<&Cluster>, read: &[&Cluster]) {
        let targets = Targets {
            epoch,
            write: write.map(Cluster::server),
            read: read.iter().map(|cluster| cluster.server()).collect(),
        };
        assert_eq!(self.ask(ToRouter::Targets { targets }).await, FromRouter::Pointed { epoch });
    }

    /// Connections that are leaving, once so many are.
    pub(crate) async fn leaving(&mut self, wanted: u64) {
        let waiting = async {
            loop {
                if let FromRouter::Leaving { by_member, .. } = self.next().await
                    && by_member.values().sum::<u64>() == wanted
                {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("told within 10 s");
    }

    pub(crate) async fn failover_done(&mut self) -> FromRouter {
        loop {
            let next = self.next().await;
            if matches!(next, FromRouter::FailoverDone { .. }) {
                return next;
            }
        }
    }

    /// The pool of the write door.
    #[allow(dead_code, reason = "one of the two programs uses it")]
    pub(crate) async fn pool(&mut self) -> PoolState {
        match self.ask(ToRouter::Pools).await {
            FromRouter::Pools { pools } => {
                pools.into_iter().find(|pool| pool.door == "write" && pool.role == "app").expect("a pool")
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn metrics(&mut self) -> String {
        match self.ask(ToRouter::Metrics).await {
            FromRouter::Metrics { text } => text,
            other => panic!("{other:?}"),
        }
    }
}

/// The same tests are two programs: `router` and `transaction`.
pub(crate) fn mode() -> PoolMode {
    if env!("CARGO_CRATE_NAME") == "transaction" { PoolMode::Transaction } else { PoolMode::Session }
}

pub(crate) fn policy() -> Policy {
    let roles = [("app", PASSWORD), ("näm'e", PASSWORD), ("absent", PASSWORD)];
    Policy {
        schema: 1,
        generation: Generation(1),
        roles: roles
            .map(|(role, password)| (role.to_owned(), Secret::new(password)))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        databases: vec!["app".to_owned(), "nowhere".to_owned()],
        max_clients: 50,
        max_servers: 40,
        hold_ms: 10_000,
        pool: PoolPolicy { mode: mode(), size: 20, ..PoolPolicy::default() },
        tls: None,
    }
}

/// A router in front of one primary.
pub(crate) async fn single() -> (Cluster, Router, Control) {
    let primary = Cluster::primary().await;
    let router = Router::start();
    let mut control = router.control().await;
    control.policy(policy()).await;
    control.point(1, Some(&primary), &[]).await;
    (primary, router, control)
}

/// A router in front of a primary and a standby.
pub(crate) async fn pair() -> (Cluster, Cluster, Router, Control) {
    let (primary, router, control) = single().await;
    let standby = primary.standby().await;
    (primary, standby, router, control)
}

pub(crate) fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}

/// Waits until the standby has all that the primary has.
pub(crate) async fn caught_up(primary: &Cluster, standby: &Cluster) {
    let here = primary.admin("postgres").await;
    let there = standby.admin("postgres").await;
    let lsn: String = here.query_one("select pg_current_wal_flush_lsn()::text", &[]).await.unwrap().get(0);
    let question = format!("select coalesce(pg_last_wal_replay_lsn() >= '{lsn}', false)");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !there.query_one(&question, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < deadline, "standby does not catch up: {}", standby.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
