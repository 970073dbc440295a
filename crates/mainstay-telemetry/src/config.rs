//! What Prometheus and Alertmanager read: rendered by pure functions, written with closed modes.
//!
//! Every file is JSON, which is YAML: no name or path can break out of its place. The rules are YAML proper,
//! because people read them.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_stack::model::Observe;
use mainstay_supervisor::durable;
use mainstay_supervisor::protocol::User;
use mainstay_types::{EnvironmentName, Secret, StackName};
use serde_json::{Value, json};

/// User name of basic authentication at both programs.
pub const USER_NAME: &str = "mainstay";

pub(crate) const PROMETHEUS_FILE: &str = "prometheus.yml";
pub(crate) const ALERTMANAGER_FILE: &str = "alertmanager.yml";
pub(crate) const WEB_FILE: &str = "web.yml";
pub(crate) const PROMETHEUS_DATA: &str = "data";
pub(crate) const ALERTMANAGER_DATA: &str = "alertmanager";
pub(crate) const TARGETS_FILE: &str = "targets.json";
const RULES_FILE: &str = "rules.yml";
const PASSWORD_FILE: &str = "password";
const TOKEN_FILE: &str = "console-token";

const RULES: &str = include_str!("../rules/mainstay.yml");

/// The password is random and long, so the cost protects nothing; every request pays for it.
const BCRYPT_COST: u32 = 5;

/// A scrape answers within this or counts as down; never longer than the interval.
const SCRAPE_TIMEOUT_MOST: Duration = Duration::from_secs(10);

/// An application that puts ids into labels loses its own scrape, not everybody's memory.
const SERVICE_SAMPLES_MOST: u32 = 20_000;

/// A missed file notification is made good within this.
const TARGETS_REFRESH: &str = "10s";

/// A metrics page that the control plane serves at `/metrics/NAME` of the console's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Page {
    /// The edge's own page.
    Edge,
    /// The router's own page.
    Router,
    /// The control plane and what it knows of every child.
    Control,
    /// The PostgreSQL members.
    Postgres,
    /// `cache` and `store`.
    Redis,
    /// [`crate::host_metrics`].
    Host,
}

impl Page {
    /// Its name in the path and as the `job` label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Router => "router",
            Self::Control => "control",
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Host => "host",
        }
    }
}

/// All that the files of one stack depend on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of both programs: `prometheus/` of the state directory. Made if it is missing.
    pub dir: PathBuf,
    /// The stack; a label of every alert.
    pub stack: StackName,
    /// Its environment; a label of every alert.
    pub environment: EnvironmentName,
    /// Scrape interval and retention.
    pub observe: Observe,
    /// Port of Prometheus on 127.0.0.1.
    pub prometheus_port: u16,
    /// Port of Alertmanager on 127.0.0.1.
    pub alertmanager_port: u16,
    /// Port of the console on 127.0.0.1, which serves the pages.
    pub console_port: u16,
    /// Pages to scrape: those of the parts that the stack has.
    pub pages: Vec<Page>,
    /// Password of [`USER_NAME`] at both programs.
    pub password: Secret,
    /// Bearer token that the pages want.
    pub pages_token: Secret,
    /// Whom the programs run as; `None` is who we are.
    pub user: Option<User>,
}

/// Why the files are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or folder cannot be made.
    #[error("cannot write {path}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The password cannot be hashed.
    #[error("cannot hash the telemetry password")]
    Hash(#[source] bcrypt::BcryptError),
}

/// Writes every file that differs, and makes the folders. `Ok(true)`: something changed that a running
/// Prometheus or Alertmanager has not read (it needs a restart, or SIGHUP).
///
/// The list of services is kept if there is one, so that a restart does not forget instances.
///
/// **Errors**: a file cannot be written, or the password not hashed.
pub fn write_config(settings: &Settings) -> Result<bool, ConfigError> {
    make_folder(&settings.dir, 0o750, None)?;
    own(&settings.dir, None, settings.user.as_ref().map(|user| user.gid))?;
    for data in [PROMETHEUS_DATA, ALERTMANAGER_DATA] {
        make_folder(&settings.dir.join(data), 0o700, settings.user.as_ref())?;
    }
    if !settings.dir.join(TARGETS_FILE).exists() {
        crate::write_targets(&settings.dir, &[])?;
    }
    let files = [
        (PROMETHEUS_FILE, json_text(&prometheus(settings))),
        (ALERTMANAGER_FILE, json_text(&alertmanager())),
        (RULES_FILE, RULES.to_owned()),
        (PASSWORD_FILE, settings.password.expose().to_owned()),
        (TOKEN_FILE, settings.pages_token.expose().to_owned()),
    ];
    let mut has_changed = false;
    for (name, text) in &files {
        has_changed |= write(settings, name, text)?;
    }
    has_changed |= write_web(settings)?;
    Ok(has_changed)
}

fn write_web(settings: &Settings) -> Result<bool, ConfigError> {
    let path = settings.dir.join(WEB_FILE);
    let old: Option<Value> = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let old_hash = old.as_ref().and_then(|web| web["basic_auth_users"][USER_NAME].as_str());
    let password = settings.password.expose();
    // Each hash has a salt of its own: only a password that no longer fits is a change.
    let hash = match old_hash {
        Some(hash) if bcrypt::verify(password, hash).unwrap_or(false) => hash.to_owned(),
        _ => bcrypt::hash(password, BCRYPT_COST).map_err(ConfigError::Hash)?,
    };
    write(settings, WEB_FILE, &json_text(&json!({ "basic_auth_users": { USER_NAME: hash } })))
}

/// Closed to all but us and, when they run as another user, the programs.
fn write(settings: &Settings, name: &str, text: &str) -> Result<bool, ConfigError> {
    let path = settings.dir.join(name);
    let mode = if settings.user.is_some() { 0o640 } else { 0o600 };
    let has_changed = !std::fs::read(&path).is_ok_and(|old| old == text.as_bytes());
    if has_changed {
        durable::replace(&path, text.as_bytes(), mode)
            .map_err(|source| ConfigError::Write { path: path.clone(), source })?;
    }
    // Also when nothing changed: the user may have.
    own(&path, None, settings.user.as_ref().map(|user| user.gid))?;
    set_mode(&path, mode)?;
    Ok(has_changed)
}

fn make_folder(path: &Path, mode: u32, owner: Option<&User>) -> Result<(), ConfigError> {
    let fail = |source| ConfigError::Write { path: path.to_path_buf(), source };
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(fail)?;
    own(path, owner.map(|user| user.uid), owner.map(|user| user.gid))?;
    set_mode(path, mode)
}

fn own(path: &Path, uid: Option<u32>, gid: Option<u32>) -> Result<(), ConfigError> {
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, uid, gid).map_err(|source| ConfigError::Write { path: path.to_path_buf(), source })
}

fn set_mode(path: &Path, mode: u32) -> Result<(), ConfigError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|source| ConfigError::Write { path: path.to_path_buf(), source })
}

fn json_text(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Prometheus' own form of a duration; whole milliseconds are its smallest unit.
pub(crate) fn duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis().max(1))
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn prometheus(settings: &Settings) -> Value {
    let interval = settings.observe.scrape;
    let auth = json!({ "username": USER_NAME, "password_file": PASSWORD_FILE });
    let mut jobs: Vec<Value> = settings.pages.iter().map(|page| page_job(*page, settings.console_port)).collect();
    jobs.push(json!({
        "job_name": "services",
        "sample_limit": SERVICE_SAMPLES_MOST,
        "file_sd_configs": [{ "files": [TARGETS_FILE], "refresh_interval": TARGETS_REFRESH }],
    }));
    for (name, port) in [("prometheus", settings.prometheus_port), ("alertmanager", settings.alertmanager_port)] {
        jobs.push(json!({
            "job_name": name,
            "basic_auth": auth,
            "static_configs": [{ "targets": [local(port)], "labels": { "instance": name } }],
        }));
    }
    json!({
        "global": {
            "scrape_interval": duration(interval),
            "scrape_timeout": duration(interval.min(SCRAPE_TIMEOUT_MOST)),
            "evaluation_interval": duration(interval),
            "external_labels": { "stack": settings.stack.as_str(), "environment": settings.environment.as_str() },
        },
        "rule_files": [RULES_FILE],
        "alerting": { "alertmanagers": [{
            "basic_auth": auth,
            "static_configs": [{ "targets": [local(settings.alertmanager_port)] }],
        }] },
        "scrape_configs": jobs,
    })
}

fn page_job(page: Page, console_port: u16) -> Value {
    json!({
        "job_name": page.name(),
        "metrics_path": format!("/metrics/{}", page.name()),
        "authorization": { "type": "Bearer", "credentials_file": TOKEN_FILE },
        "static_configs": [{ "targets": [local(console_port)], "labels": { "instance": page.name() } }],
    })
}

/// Alerts are grouped and kept; nobody is told until a receiver is declared.
fn alertmanager() -> Value {
    json!({
        "route": { "receiver": "nobody", "group_by": ["alertname", "service"] },
        "receivers": [{ "name": "nobody" }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(dir: &Path) -> Settings {
        Settings {
            dir: dir.join("prometheus"),
            stack: StackName::new("users").expect("valid"),
            environment: EnvironmentName::default(),
            observe: Observe { enabled: true, scrape: Duration::from_secs(15), retention: Duration::from_secs(86_400) },
            prometheus_port: 9090,
            alertmanager_port: 9093,
            console_port: 7700,
            pages: vec![Page::Edge],
            password: Secret::new("correct horse"),
            pages_token: Secret::new("battery staple"),
            user: None,
        }
    }

    #[test]
    fn nothing_is_rewritten_until_something_changes() {
        let dir = tempfile::tempdir().expect("folder");
        let mut settings = settings(dir.path());
        assert!(write_config(&settings).expect("writes"));
        assert!(!write_config(&settings).expect("writes"), "the same settings were written again");
        settings.password = Secret::new("another");
        assert!(write_config(&settings).expect("writes"));
    }

    #[test]
    fn a_restart_keeps_the_list_of_services() {
        let dir = tempfile::tempdir().expect("folder");
        let settings = settings(dir.path());
        write_config(&settings).expect("writes");
        std::fs::write(settings.dir.join(TARGETS_FILE), "[{}]").expect("writes");
        write_config(&settings).expect("writes");
        assert_eq!(std::fs::read_to_string(settings.dir.join(TARGETS_FILE)).expect("reads"), "[{}]");
    }

    #[test]
    fn secrets_stand_in_closed_files_and_nowhere_else() {
        let dir = tempfile::tempdir().expect("folder");
        let settings = settings(dir.path());
        write_config(&settings).expect("writes");
        for entry in std::fs::read_dir(&settings.dir).expect("lists") {
            let path = entry.expect("entry").path();
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            if path.is_dir() {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("reads");
            let mode = std::fs::metadata(&path).expect("meta").permissions().mode() & 0o777;
            assert_eq!(text.contains("correct horse"), name == PASSWORD_FILE, "{name}");
            assert_eq!(text.contains("battery staple"), name == TOKEN_FILE, "{name}");
            assert!(mode == 0o600 || name == TARGETS_FILE, "{name} has mode {mode:o}");
        }
        assert_eq!(std::fs::metadata(&settings.dir).expect("meta").permissions().mode() & 0o777, 0o750);
    }

    #[test]
    fn short_scrape_intervals_shorten_the_timeout() {
        let dir = tempfile::tempdir().expect("folder");
        let mut settings = settings(dir.path());
        assert_eq!(prometheus(&settings)["global"]["scrape_timeout"], "10000ms");
        settings.observe.scrape = Duration::from_millis(500);
        assert_eq!(prometheus(&settings)["global"]["scrape_timeout"], "500ms");
    }
}
