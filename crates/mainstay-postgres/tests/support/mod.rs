//! A cluster in a temporary folder, of real servers, run without keep.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mainstay_postgres::access::Role;
use mainstay_postgres::start::{self, Start};
use mainstay_postgres::{Access, Layout, Passwords, Task, clone, find_programs, init, plain, probe, proof};
use mainstay_stack::model::{Database, Durability, PoolMode};
use mainstay_supervisor::protocol::User;
use mainstay_types::{Member, Nonce, Secret};
use tokio::process::Child;

/// Deadline of everything in these tests.
pub const WITHIN: Duration = Duration::from_secs(60);

pub struct Cluster {
    folder: tempfile::TempDir,
    pub layout: Layout,
    pub passwords: Passwords,
    pub database: Database,
    pub access: BTreeMap<Member, Access>,
    pub servers: BTreeMap<Member, Child>,
    pub archive: Option<mainstay_postgres::config::Archive>,
}

impl Cluster {
    pub fn new(name: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
        // The servers' user passes through to its own folders.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let runtime = folder.path().join("r");
        std::fs::create_dir(&runtime).unwrap();
        let layout = Layout {
            state: folder.path().join("s"),
            runtime,
            bin: find_programs(None).unwrap().bin,
            user: unprivileged(),
        };
        let secret = |role: &str| Secret::new(format!("{role}:pass\\word's"));
        let passwords = Passwords {
            superuser: secret("superuser"),
            replication: secret("replication"),
            application: secret("application"),
            ledger: secret("ledger"),
            monitor: secret("monitor"),
        };
        let access = [Member::A, Member::B]
            .map(|member| (member, Access::new(&layout, member, &passwords.superuser)))
            .into_iter()
            .collect();
        Self { folder, layout, passwords, database: database(name), access, servers: BTreeMap::new(), archive: None }
    }

    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub async fn init(&self, member: Member) {
        let task = init::prepare(&self.layout, member, &self.passwords.superuser, &self.log("init")).unwrap();
        let ended = plain::run(&task, WITHIN).await.unwrap();
        init::finish(&self.layout, member, &task, &ended).unwrap();
    }

    pub async fn clone_task(&self, member: Member, from: Member) -> Task {
        let request = clone::Request {
            layout: &self.layout,
            member,
            from: &self.access[&from],
            replication: &self.passwords.replication,
            log: &self.log("clone"),
        };
        clone::prepare(&request).await.unwrap()
    }

    pub async fn clone(&self, member: Member, from: Member) {
        let task = self.clone_task(member, from).await;
        let ended = plain::run(&task, WITHIN).await.unwrap();
        clone::finish(&self.layout, member, &task, &ended).unwrap();
    }

    pub async fn start(&mut self, member: Member, follow: Option<Member>) {
        let spec = start::prepare(&self.start_of(member, follow)).unwrap();
        self.servers.insert(member, plain::start(&spec).unwrap());
        self.until(member, |_| true).await;
    }

    pub fn start_of(&self, member: Member, follow: Option<Member>) -> Start<'_> {
        Start {
            layout: &self.layout,
            member,
            follow,
            database: &self.database,
            archive: self.archive.as_ref(),
            replication: &self.passwords.replication,
            nonce: Nonce::from_bytes([1; 16]),
            log: self.log(&format!("postgres-{member}")),
        }
    }

    /// Waits until the member's answer is so.
    pub async fn until(
        &self,
        member: Member,
        is_so: impl Fn(&mainstay_decide::observed::MemberAnswer) -> bool,
    ) -> mainstay_decide::observed::MemberAnswer {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < WITHIN {
            match probe::probe(&self.access[&member]).await {
                Ok(answer) if is_so(&answer) => return answer,
                other => last = format!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let log = std::fs::read_to_string(self.log(&format!("postgres-{member}"))).unwrap_or_default();
        panic!("not so within {WITHIN:?}: {last}\n{log}");
    }

    /// Kills the postmaster alone, and waits for the proof that all of it is dead.
    pub async fn kill(&mut self, member: Member) -> Duration {
        let begun = Instant::now();
        let mut server = self.servers.remove(&member).unwrap();
        server.kill().await.unwrap();
        while proof::check(&self.layout, member) != proof::Proof::Dead {
            assert!(begun.elapsed() < WITHIN, "{:?}", proof::check(&self.layout, member));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        begun.elapsed()
    }

    pub fn application(&self, member: Member) -> Access {
        let role =
            Role { name: &self.database.name, database: &self.database.name, password: &self.passwords.application };
        Access::as_role(&self.layout, member, role)
    }

    pub fn pid(&self, member: Member) -> u32 {
        self.servers[&member].id().unwrap()
    }

    /// Ends one server in order and proves that nothing is left of it.
    pub async fn stop(&mut self, member: Member) {
        signal(self.pid(member), rustix::process::Signal::INT);
        let mut server = self.servers.remove(&member).unwrap();
        tokio::time::timeout(WITHIN, server.wait()).await.expect("ends by SIGINT").unwrap();
        assert_eq!(proof::check(&self.layout, member), proof::Proof::Dead);
    }

    /// Ends all servers in order and proves that nothing is left.
    pub async fn end(mut self) {
        let members: Vec<Member> = self.servers.keys().copied().collect();
        for member in members {
            self.stop(member).await;
        }
    }
}

impl Drop for Cluster {
    /// A failed test leaves no backends behind: the postmaster dies with its handle, they see it and go. What killed
    /// servers had shared goes as well: the machine has room for 4096 such segments.
    fn drop(&mut self) {
        for server in self.servers.values_mut() {
            server.start_kill().ok();
        }
        for member in (0..6).filter_map(Member::nth) {
            proof::remove_segment(&self.layout, member).ok();
        }
    }
}

pub fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub fn database(name: &str) -> Database {
    Database {
        name: name.to_owned(),
        standbys: 1,
        durability: Durability::Balanced,
        hang_after: Duration::from_secs(3),
        hold: Duration::from_secs(30),
        max_connections: 30,
        pool_mode: PoolMode::Transaction,
        pool_size: None,
        pool: mainstay_stack::model::PoolLimits::default(),
        migrations: None,
        write_port: 0,
        read_port: 0,
        backup: None,
        databases: BTreeSet::new(),
        roles: BTreeMap::new(),
        settings: BTreeMap::from([("work_mem".to_owned(), "2MB".to_owned())]),
    }
}

/// PostgreSQL refuses to run as root: the distribution's user stands in.
fn unprivileged() -> Option<User> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:")).expect("user postgres");
    let ids: Vec<u32> = line.split(':').skip(2).take(2).map(|id| id.parse().unwrap()).collect();
    Some(User { uid: ids[0], gid: ids[1] })
}
