//! A real PostgreSQL, a real Redis and the real binary, on Unix sockets in a folder that is removed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const ADMIN_PASSWORD: &str = "first-password-of-admin";
const WITHIN: Duration = Duration::from_secs(30);

/// Folder of the server programs, newest version first.
fn postgres_programs() -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed under /usr/lib/postgresql")
        .map(|entry| entry.unwrap().path().join("bin"))
        .collect();
    versions.sort();
    versions.pop().expect("a PostgreSQL version")
}

fn id_of(argument: &str) -> u32 {
    let mut command = Command::new("id");
    command.args(argument.split(' '));
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    text.trim().parse().unwrap_or_else(|_| panic!("id {argument}: {text}"))
}

pub(crate) struct Rig {
    folder: tempfile::TempDir,
    programs: PathBuf,
    is_root: bool,
    redis: Option<Child>,
}

impl Rig {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let is_root = id_of("-u") == 0;
        // PostgreSQL runs as a user of its own when we are root, and must reach its folder.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let data = folder.path().join("pg");
        std::fs::create_dir(&data).unwrap();
        if is_root {
            chown(&data, Some(id_of("-u postgres")), Some(id_of("-g postgres"))).unwrap();
        }
        let mut rig = Self { folder, programs: postgres_programs(), is_root, redis: None };
        let data = data.display().to_string();
        rig.postgres("initdb", &["-D", &data, "-A", "trust", "-U", "postgres", "--no-sync"]);
        let options = format!("-c listen_addresses= -k {data} -c fsync=off");
        rig.postgres("pg_ctl", &["-D", &data, "-w", "-l", &format!("{data}/log"), "-o", &options, "start"]);
        rig.create_database("users");
        rig.start_redis();
        rig
    }

    fn postgres(&self, program: &str, arguments: &[&str]) {
        let program = self.programs.join(program);
        let mut command = match self.is_root {
            true => {
                let mut command = Command::new("runuser");
                command.args(["-u", "postgres", "--"]).arg(program);
                command
            }
            false => Command::new(program),
        };
        let status = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.unwrap().success(), "{arguments:?}");
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("pg")
    }

    fn redis_socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// A database with all migrations, run by psql in the order of their versions.
    pub(crate) fn create_database(&self, name: &str) {
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            self.sql(name, &std::fs::read_to_string(file).unwrap());
        }
    }

    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", sql]);
        let output = command.arg("-h").arg(self.data()).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn redis_cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(self.redis_socket()).args(arguments).output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn start_redis(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(self.redis_socket());
        command.arg("--dir").arg(self.folder.path());
        self.redis = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_until("redis answers", || self.redis_cli(&["PING"]) == "PONG");
    }

    pub(crate) fn stop_redis(&mut self) {
        if let Some(mut redis) = self.redis.take() {
            let _ = redis.kill();
            let _ = redis.wait();
        }
    }

    /// The binary on ports of the kernel's choice, with further variables.
    pub(crate) fn command(&self, database: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_users"));
        let redis = self.redis_socket().display().to_string();
        command
            .env_clear()
            .env("PORT", "0")
            .env("MANAGEMENT_PORT", "0")
            .env("DATABASE_URL", format!("postgres:///{database}?user=postgres&host={}", self.data().display()))
            .env("REDIS_URL", format!("redis+unix://{redis}?db=0"))
            .env("REDIS_STORE_URL", format!("redis+unix://{redis}?db=1"))
            .stdout(Stdio::piped());
        command
    }

    pub(crate) fn app(&self) -> App {
        self.app_with(&[("REQUESTS_PER_MINUTE", "0")])
    }

    /// With further variables.
    pub(crate) fn app_with(&self, variables: &[(&str, &str)]) -> App {
        let mut command = self.command("users");
        App::start(command.env("ADMIN_PASSWORD", ADMIN_PASSWORD).envs(variables.iter().copied()))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop_redis();
        let data = self.data().display().to_string();
        self.postgres("pg_ctl", &["-D", &data, "-m", "immediate", "-w", "stop"]);
    }
}

/// A running instance.
pub(crate) struct App {
    pub(crate) child: Child,
    port: u16,
    management_port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

impl App {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("ServiceStarted") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "the service ended instead of starting");
        }
        let event: Value = serde_json::from_str(&line).unwrap();
        // A full pipe would stop the service; this ends with it.
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let port = |name: &str| event[name].as_str().unwrap().parse().unwrap();
        Self { child, port: port("port"), management_port: port("management_port"), log }
    }

    /// How many lines it has logged that hold this text.
    pub(crate) fn logged(&self, text: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    /// A request at the management port.
    pub(crate) fn manage(&self, request: Call<'_>) -> Answer {
        exchange(self.management_port, &request)
    }

    pub(crate) fn call(&self, request: Call<'_>) -> Answer {
        exchange(self.port, &request)
    }

    pub(crate) fn get(&self, token: &str, path: &str) -> Answer {
        self.call(Call::new("GET", path).token(token))
    }

    pub(crate) fn send(&self, method: &'static str, token: &str, path: &str, body: Value) -> Answer {
        self.call(Call::new(method, path).token(token).body(body))
    }

    pub(crate) fn management(&self, path: &str) -> Answer {
        exchange(self.management_port, &Call::new("GET", path))
    }

    pub(crate) fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Call<'a> {
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, String)>,
    body: String,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: &'a str, path: &'a str) -> Self {
        Self { method, path, headers: Vec::new(), body: String::new() }
    }

    pub(crate) fn header(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn token(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    pub(crate) fn body(self, body: Value) -> Self {
        self.text(body.to_string())
    }

    pub(crate) fn text(self, body: impl Into<String>) -> Self {
        self.of_kind("application/json", body)
    }

    pub(crate) fn of_kind(mut self, kind: &str, body: impl Into<String>) -> Self {
        self.body = body.into();
        self.header("content-type", kind)
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// Checks the status and hands the answer on.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        if status >= 400 {
            assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        }
        self
    }
}

fn exchange(port: u16, request: &Call<'_>) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    let mut text =
        format!("{} {} HTTP/1.1\r\nhost: users.localhost\r\nconnection: close\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n{}", request.body.len(), request.body));
    // A refusal may come, and the connection end, before a large body is read.
    let _ = stream.write_all(text.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), text: text.to_owned() }
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
