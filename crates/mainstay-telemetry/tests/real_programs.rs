//! The real Prometheus and Alertmanager read what is rendered, start, guard their doors and scrape.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use mainstay_stack::model::Observe;
use mainstay_supervisor::protocol::{SpawnSpec, User};
use mainstay_telemetry::{
    NoNumber, NotReady, Page, Settings, Target, USER_NAME, alertmanager_spec, find_programs, host_metrics, probe_ready,
    prometheus_spec, query_number, write_config, write_targets,
};
use mainstay_types::{EnvironmentName, InstanceId, Nonce, Secret, ServiceName, StackName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;

const PASSWORD: &str = "a long password that a generator made";
const TOKEN: &str = "a long token that a generator made";

/// Both start within a second on an idle machine; builds run beside the tests.
const READY_WITHIN: Duration = Duration::from_secs(30);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("address").port()
}

fn settings(state: &Path, console_port: u16) -> Settings {
    Settings {
        dir: state.join("prometheus"),
        stack: StackName::new("users").expect("valid"),
        environment: EnvironmentName::default(),
        observe: Observe { enabled: true, scrape: Duration::from_millis(200), retention: Duration::from_secs(3600) },
        prometheus_port: free_port(),
        alertmanager_port: free_port(),
        console_port,
        pages: vec![Page::Edge, Page::Router, Page::Control, Page::Postgres, Page::Redis, Page::Host],
        password: Secret::new(PASSWORD),
        pages_token: Secret::new(TOKEN),
        user: None,
    }
}

/// Starts what the specification says, as keep would; killed when dropped.
fn start(spec: &SpawnSpec) -> Child {
    let log = std::fs::File::create(&spec.log).expect("makes the log");
    let mut command = tokio::process::Command::new(&spec.argv[0]);
    command.args(&spec.argv[1..]).env_clear().current_dir(&spec.dir).kill_on_drop(true);
    if let Some(user) = &spec.user {
        command.uid(user.uid).gid(user.gid);
    }
    command.envs(spec.env.iter().map(|(name, value)| (name, value.expose())));
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("clones")).stderr(log);
    command.spawn().expect("starts")
}

async fn until_ready(port: u16, log: &Path) {
    let begin = Instant::now();
    let password = Secret::new(PASSWORD);
    while let Err(reason) = probe_ready(port, &password).await {
        let log = std::fs::read_to_string(log).unwrap_or_default();
        assert!(begin.elapsed() < READY_WITHIN, "{reason} after {READY_WITHIN:?}\n{log}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{USER_NAME}:{PASSWORD}"));
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Basic {credentials}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("reads");
    answer
}

/// Answers every request with a metrics page, or 401 when it wants a token and none comes.
fn serve_pages(listener: tokio::net::TcpListener, page: &'static str, token: Option<&'static str>) {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let Ok(length) = stream.read(&mut request).await else { continue };
            let head = String::from_utf8_lossy(&request[..length]).into_owned();
            let is_welcome = token.is_none_or(|token| head.contains(&format!("Authorization: Bearer {token}\r\n")));
            let (status, body) = if is_welcome { ("200 OK", page) } else { ("401 Unauthorized", "") };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            if stream.write_all(answer.as_bytes()).await.is_err() {
                continue;
            }
        }
    });
}

/// Repeats a query until its answer holds `wanted`.
async fn until_query(port: u16, query: &str, wanted: &str) {
    let begin = Instant::now();
    loop {
        let answer = get(port, &format!("/api/v1/query?query={query}")).await;
        if answer.contains(wanted) {
            return;
        }
        assert!(begin.elapsed() < READY_WITHIN, "{query} never answered {wanted}:\n{answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn instance(slot: u32) -> InstanceId {
    InstanceId { service: ServiceName::new("backend").expect("valid"), slot }
}

fn tool(program: &str, arguments: &[&str], folder: &Path) {
    let output = Command::new(program).args(arguments).current_dir(folder).output().expect("the tool is installed");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{program} {arguments:?}:\n{text}");
}

#[test]
fn the_distributions_own_tools_accept_every_file() {
    let state = tempfile::tempdir().expect("folder");
    let settings = settings(state.path(), 7700);
    write_config(&settings).expect("writes");
    write_targets(&settings.dir, &[Target { instance: instance(1), port: 4001, path: "/metrics".into() }])
        .expect("writes");
    tool("promtool", &["check", "config", "prometheus.yml"], &settings.dir);
    tool("promtool", &["check", "web-config", "web.yml"], &settings.dir);
    tool("promtool", &["check", "rules", "rules.yml"], &settings.dir);
    tool("amtool", &["check-config", "alertmanager.yml"], &settings.dir);
}

#[test]
fn rules_speak_when_they_must_and_only_then() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
    tool("promtool", &["test", "rules", "mainstay.test.yml"], &rules);
}

#[test]
fn the_host_page_is_what_prometheus_calls_good() {
    let state = tempfile::tempdir().expect("folder");
    let page = state.path().join("page");
    let text = host_metrics(state.path());
    for name in
        ["node_cpu_seconds_total{", "node_memory_MemAvailable_bytes ", "node_load1 ", "node_filesystem_avail_bytes{"]
    {
        assert!(text.lines().any(|line| line.starts_with(name)), "no {name} in\n{text}");
    }
    std::fs::write(&page, text).expect("writes");
    let output = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::fs::File::open(&page).expect("opens"))
        .output()
        .expect("promtool is installed");
    let complaints: Vec<String> = String::from_utf8_lossy(&output.stderr)
        .lines()
        // node_exporter's own names break this advice of the linter; dashboards expect them as they are.
        .filter(|line| !line.contains("MemTotal") && !line.contains("camelCase"))
        .map(str::to_owned)
        .collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test]
async fn prometheus_scrapes_instances_and_pages_and_refuses_strangers() {
    let state = tempfile::tempdir().expect("folder");
    let console = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let settings = settings(state.path(), console.local_addr().expect("address").port());
    serve_pages(console, "page_of_the_control_plane 1\n", Some(TOKEN));
    let service = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let service_port = service.local_addr().expect("address").port();
    serve_pages(service, "made_by_the_application 42\n", None);

    write_config(&settings).expect("writes");
    let program = find_programs().prometheus.expect("installed");
    let log = state.path().join("prometheus.log");
    let spec = prometheus_spec(&settings, &program, Nonce::from_bytes([7; 16]), log.clone()).expect("valid");
    let _prometheus = start(&spec);
    until_ready(settings.prometheus_port, &log).await;

    let stranger = probe_ready(settings.prometheus_port, &Secret::new("wrong")).await;
    assert!(matches!(stranger, Err(NotReady::Answered { status: 401, .. })), "{stranger:?}");
    // The list of instances changes while Prometheus runs.
    let target = Target { instance: instance(1), port: service_port, path: "/actuator/prometheus".into() };
    write_targets(&settings.dir, &[target]).expect("writes");
    until_query(settings.prometheus_port, "made_by_the_application", "\"instance\":\"backend-1\"").await;
    until_query(settings.prometheus_port, "page_of_the_control_plane{job=\"postgres\"}", "\"postgres\"").await;
    until_query(settings.prometheus_port, "up{job=\"prometheus\"}", ",\"1\"]").await;

    // The question of a stack file that scales by it.
    let password = Secret::new(PASSWORD);
    let number = async |text: &str| query_number(settings.prometheus_port, &password, text).await;
    assert!(number("sum(vector(40)) + 2.5").await.is_ok_and(|found| (found - 42.5).abs() < 1e-9));
    assert!(matches!(number("no_such_series").await, Err(NoNumber::Empty)));
    assert!(matches!(number("sum(").await, Err(NoNumber::Refused(why)) if why.contains("parse error")));
}

/// Started as root, mainstay gives each child a user of its own: it must be able to read what root wrote.
#[tokio::test]
async fn an_unprivileged_user_can_run_on_what_root_wrote() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root can give files away; the other tests cover the case without.
    }
    // "nobody": on every Linux, and owner of nothing.
    let user = User { uid: 65_534, gid: 65_534 };
    let state = tempfile::tempdir().expect("folder");
    std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o711)).expect("opens the way");
    let settings = Settings { user: Some(user.clone()), ..settings(state.path(), 7700) };
    write_config(&settings).expect("writes");
    for (name, port) in [("prometheus", settings.prometheus_port), ("alertmanager", settings.alertmanager_port)] {
        let log = state.path().join(format!("{name}.log"));
        let programs = find_programs();
        let nonce = Nonce::from_bytes([9; 16]);
        let spec = match name {
            "prometheus" => prometheus_spec(&settings, &programs.prometheus.expect("installed"), nonce, log.clone()),
            _ => alertmanager_spec(&settings, &programs.alertmanager.expect("installed"), nonce, log.clone()),
        };
        let _child = start(&spec.expect("valid"));
        until_ready(port, &log).await;
    }
    let mode = std::fs::metadata(settings.dir.join("password")).expect("meta").permissions().mode() & 0o777;
    assert_eq!(mode, 0o640);
}

#[tokio::test]
async fn alertmanager_is_ready_closed_to_strangers_and_gossips_nowhere() {
    let state = tempfile::tempdir().expect("folder");
    let settings = settings(state.path(), 7700);
    write_config(&settings).expect("writes");
    let program: PathBuf = find_programs().alertmanager.expect("installed");
    let log = state.path().join("alertmanager.log");
    let spec = alertmanager_spec(&settings, &program, Nonce::from_bytes([8; 16]), log.clone()).expect("valid");
    let alertmanager = start(&spec);
    until_ready(settings.alertmanager_port, &log).await;

    let stranger = probe_ready(settings.alertmanager_port, &Secret::new("wrong")).await;
    assert!(matches!(stranger, Err(NotReady::Answered { status: 401, .. })), "{stranger:?}");
    let pid = alertmanager.id().expect("runs");
    let doors = listening(pid);
    assert_eq!(doors, [format!("127.0.0.1:{}", settings.alertmanager_port)], "it listens on more than it may");
}

/// Addresses a process listens on (TCP over IPv4 and IPv6) or receives on (UDP). **Source**: proc(5).
fn listening(pid: u32) -> Vec<String> {
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("lists")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = Vec::new();
    for (table, listening_state) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for row in text.lines().skip(1) {
            let columns: Vec<&str> = row.split_ascii_whitespace().collect();
            if columns[3] == listening_state && inodes.iter().any(|inode| inode == columns[9]) {
                found.push(readable(columns[1]));
            }
        }
    }
    found
}

fn readable(address: &str) -> String {
    let (host, port) = address.split_once(':').expect("has a port");
    let port = u16::from_str_radix(port, 16).expect("is a port");
    if host == "0100007F" { format!("127.0.0.1:{port}") } else { format!("{host}:{port}") }
}
