//! How keep is to start the two programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mainstay_supervisor::protocol::{Limits, SpawnSpec};
use mainstay_types::{ChildName, ChildRole, IdError, Nonce, Secret};

use crate::config::{self, Settings};

/// The child `prometheus`.
///
/// **Errors**: never for these names; the type of a child name checks them.
pub fn prometheus_spec(settings: &Settings, program: &Path, nonce: Nonce, log: PathBuf) -> Result<SpawnSpec, IdError> {
    let arguments = vec![
        option("--config.file", &settings.dir.join(config::PROMETHEUS_FILE)),
        option("--web.config.file", &settings.dir.join(config::WEB_FILE)),
        option("--storage.tsdb.path", &settings.dir.join(config::PROMETHEUS_DATA)),
        format!("--storage.tsdb.retention.time={}", config::duration(settings.observe.retention)),
        format!("--web.listen-address=127.0.0.1:{}", settings.prometheus_port),
        // No page of another origin may read what is scraped, whatever password a browser remembers.
        format!("--web.cors.origin=http://127\\.0\\.0\\.1:{}", settings.prometheus_port),
    ];
    spec("prometheus", ChildRole::Prometheus, Start { settings, program, arguments, nonce, log })
}

/// The child `alertmanager`.
///
/// **Errors**: never for these names; the type of a child name checks them.
pub fn alertmanager_spec(
    settings: &Settings,
    program: &Path,
    nonce: Nonce,
    log: PathBuf,
) -> Result<SpawnSpec, IdError> {
    let arguments = vec![
        option("--config.file", &settings.dir.join(config::ALERTMANAGER_FILE)),
        option("--web.config.file", &settings.dir.join(config::WEB_FILE)),
        option("--storage.path", &settings.dir.join(config::ALERTMANAGER_DATA)),
        format!("--web.listen-address=127.0.0.1:{}", settings.alertmanager_port),
        // Without this it gossips on port 9094 of every interface.
        "--cluster.listen-address=".to_owned(),
    ];
    spec("alertmanager", ChildRole::Alertmanager, Start { settings, program, arguments, nonce, log })
}

struct Start<'a> {
    settings: &'a Settings,
    program: &'a Path,
    arguments: Vec<String>,
    nonce: Nonce,
    log: PathBuf,
}

fn spec(name: &str, role: ChildRole, start: Start<'_>) -> Result<SpawnSpec, IdError> {
    let mut argv = vec![start.program.display().to_string()];
    argv.extend(start.arguments);
    Ok(SpawnSpec {
        name: ChildName::new(name)?,
        role,
        nonce: start.nonce,
        argv,
        env: BTreeMap::from([("PATH".to_owned(), Secret::new("/usr/bin:/bin"))]),
        dir: start.settings.dir.clone(),
        user: start.settings.user.clone(),
        log: start.log,
        listeners: Vec::new(),
        limits: Limits::default(),
        restart: false,
        project: None,
        shown: Vec::new(),
    })
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}
