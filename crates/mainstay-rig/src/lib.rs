//! What the tests of an application stand on: a real PostgreSQL and a real Redis, on Unix sockets in a folder that is
//! removed, instances of its real program, requests to them, and scenarios that run one after another.
//!
//! For tests only: nothing that is shipped depends on it.

#![expect(clippy::unwrap_used, reason = "a rig that cannot go on has failed the test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What `ADMIN_PASSWORD` is for every instance.
pub const ADMIN_PASSWORD: &str = "first-password-of-admin";
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

/// The application under test.
#[derive(Clone, Copy, Debug)]
pub struct Application {
    /// Its name, which its database has too.
    pub name: &'static str,
    /// Its program, built.
    pub program: &'static str,
    /// Folder of its migrations.
    pub migrations: &'static str,
    /// What [`Rig::app`] sets beside addresses and the administrator's password.
    pub variables: &'static [(&'static str, &'static str)],
}

/// The servers.
pub struct Rig {
    application: Application,
    folder: tempfile::TempDir,
    programs: PathBuf,
    is_root: bool,
    redis: Option<Child>,
}

impl Rig {
    /// Starts the servers, with the application's database.
    pub fn start(application: Application) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let is_root = id_of("-u") == 0;
        // PostgreSQL runs as a user of its own when we are root, and must reach its folder.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let data = folder.path().join("pg");
        std::fs::create_dir(&data).unwrap();
        if is_root {
            chown(&data, Some(id_of("-u postgres")), Some(id_of("-g postgres"))).unwrap();
        }
        let mut rig = Self { application, folder, programs: postgres_programs(), is_root, redis: None };
        let data = data.display().to_string();
        rig.postgres("initdb", &["-D", &data, "-A", "trust", "-U", "postgres", "--no-sync"]);
        let options = format!("-c listen_addresses= -k {data} -c fsync=off");
        rig.postgres("pg_ctl", &["-D", &data, "-w", "-l", &format!("{data}/log"), "-o", &options, "start"]);
        rig.create_database(application.name);
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
    pub fn create_database(&self, name: &str) {
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        let entries = std::fs::read_dir(self.application.migrations).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            self.sql(name, &std::fs::read_to_string(file).unwrap());
        }
    }

    /// What psql answers, as a superuser.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", sql]);
        let output = command.arg("-h").arg(self.data()).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What redis-cli answers.
    pub fn redis_cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(self.redis_socket()).args(arguments).output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
    }

    /// Starts Redis, until it answers.
    pub fn start_redis(&mut self) {
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(self.redis_socket());
        command.arg("--dir").arg(self.folder.path());
        self.redis = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_until("redis answers", || self.redis_cli(&["PING"]) == "PONG");
    }

    /// Kills Redis.
    pub fn stop_redis(&mut self) {
        if let Some(mut redis) = self.redis.take() {
            let _ = redis.kill();
            let _ = redis.wait();
        }
    }

    /// The program on ports of the kernel's choice, with the addresses of this database and of Redis.
    pub fn command(&self, database: &str) -> Command {
        let mut command = Command::new(self.application.program);
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

    /// An instance with the application's own variables.
    pub fn app(&self) -> App {
        self.app_with(self.application.variables)
    }

    /// An instance with these variables instead.
    pub fn app_with(&self, variables: &[(&str, &str)]) -> App {
        let mut command = self.command(self.application.name);
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
pub struct App {
    /// Its process.
    pub child: Child,
    /// The port that it chose.
    pub port: u16,
    management_port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

impl App {
    /// Starts it, until it says on which ports it listens.
    pub fn start(command: &mut Command) -> Self {
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
    pub fn logged(&self, text: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }

    /// A request at the management port.
    pub fn manage(&self, request: Call<'_>) -> Answer {
        exchange(self.management_port, &request)
    }

    /// A request at the main port.
    pub fn call(&self, request: Call<'_>) -> Answer {
        exchange(self.port, &request)
    }

    /// A read by whoever has this token.
    pub fn get(&self, token: &str, path: &str) -> Answer {
        self.call(Call::new("GET", path).token(token))
    }

    /// A request with a JSON body by whoever has this token.
    pub fn send(&self, method: &'static str, token: &str, path: &str, body: Value) -> Answer {
        self.call(Call::new(method, path).token(token).body(body))
    }

    /// A read at the management port.
    pub fn management(&self, path: &str) -> Answer {
        exchange(self.management_port, &Call::new("GET", path))
    }

    /// Ends it by SIGTERM; its exit status.
    pub fn terminate(&mut self) -> Option<i32> {
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

/// A request.
pub struct Call<'a> {
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, String)>,
    body: String,
}

impl<'a> Call<'a> {
    /// Without headers and body.
    pub fn new(method: &'a str, path: &'a str) -> Self {
        Self { method, path, headers: Vec::new(), body: String::new() }
    }

    /// With a further header.
    pub fn header(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// By whoever has this token.
    pub fn token(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// With a JSON body.
    pub fn body(self, body: Value) -> Self {
        self.text(body.to_string())
    }

    /// With a body that is called JSON, whatever it is.
    pub fn text(self, body: impl Into<String>) -> Self {
        self.of_kind("application/json", body)
    }

    /// With a body of another kind.
    pub fn of_kind(mut self, kind: &str, body: impl Into<String>) -> Self {
        self.body = body.into();
        self.header("content-type", kind)
    }
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    head: String,
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body, which must be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// Checks the status and hands the answer on.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        if status >= 400 {
            assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        }
        self
    }
}

/// One request over a connection of its own.
pub fn exchange(port: u16, request: &Call<'_>) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    let mut text =
        format!("{} {} HTTP/1.1\r\nhost: app.localhost\r\nconnection: close\r\n", request.method, request.path);
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

/// Looks again and again until it is so.
///
/// # Panics
/// When it is not so for long.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A scenario and its name; `W` is what all of them work with.
pub type Scenario<W> = (&'static str, fn(&mut W));

/// Runs the scenarios whose name holds the first argument of the process, or all: a main function of its own, because
/// the usual harness has no place to end servers.
#[expect(clippy::print_stdout, reason = "it is a test harness and says what ran")]
pub fn run<W>(world: &mut W, scenarios: &[Scenario<W>]) -> ExitCode {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let mut failed = 0;
    for (name, scenario) in scenarios {
        if wanted.as_deref().is_some_and(|wanted| !name.contains(wanted)) {
            continue;
        }
        let is_good = catch_unwind(AssertUnwindSafe(|| scenario(world))).is_ok();
        failed += u32::from(!is_good);
        println!("{name} ... {}", if is_good { "ok" } else { "FAILED" });
    }
    println!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
