//! Children that are no database: edge, router, Redis, telemetry, instances, release commands.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_cache::replicas;
use mainstay_decide::replicas::{StoreRecord, child_of, members};
use mainstay_supervisor::ids::user_for;
use mainstay_supervisor::protocol::{Limits, Refusal, SpawnSpec, User};
use mainstay_types::{ChildName, ChildRole, InstanceId, Member, Nonce, Secret, ServiceName, full_text};

use super::Effects;
use crate::message::Outcome;
use crate::settings::Settings;

/// Time for the edge to take an instance out of the rotation before it gets its signal: one frame on a local socket.
const OUT_OF_ROTATION: Duration = Duration::from_millis(100);
/// Pause between two looks at a child that is being stopped.
const LOOK: Duration = Duration::from_millis(20);
/// SIGKILL.
const KILL: i32 = 9;
/// Time to kill what survived its grace.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Makes a folder of a child's own.
pub(super) fn own_folder(path: &Path, user: Option<&User>, mode: u32) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot make {}: {error}", path.display());
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    match user {
        Some(user) => chown(path, Some(user.uid), Some(user.gid)).map_err(failed),
        None => Ok(()),
    }
}

impl Effects {
    pub(super) async fn start_child(&self, name: &ChildName) -> Result<Outcome, String> {
        self.mistakes.before_start().await;
        let spec = match name.as_str() {
            "edge" => self.edge_spec().await?,
            "router" => self.router_spec().await?,
            "cache" => self.redis_spec(&self.cache_settings()?)?,
            "store" => self.store_spec(Member::A)?,
            "store-b" => self.store_spec(Member::B)?,
            "store-c" => self.store_spec(Member::nth(2).ok_or("there is no such server")?)?,
            "prometheus" | "alertmanager" => self.telemetry_spec(name)?,
            other => return Err(format!("nobody knows how to start {other}")),
        };
        self.spawn(spec).await
    }

    fn stack_name(&self) -> &str {
        self.settings.launch.stack.as_str()
    }

    async fn listen(&self, name: &str, port: u16) -> Result<(), String> {
        let host = &self.settings.stack.edge.listen;
        let host = if name.starts_with("edge-") { host.as_str() } else { "127.0.0.1" };
        let host: std::net::IpAddr = host.parse().map_err(|error| format!("edge.listen {host:?}: {error}"))?;
        let address = std::net::SocketAddr::new(host, port);
        let keep = self.keep()?;
        match keep.listen(name, address).await {
            // The stack file names another port than the last run had. Nobody listens on the old one: who would is
            // just being started.
            Err(error) if error.refusal() == Some(Refusal::Invalid) => {
                keep.unlisten(name).await.map_err(|error| full_text(&error))?;
                keep.listen(name, address).await.map(drop).map_err(|error| full_text(&error))
            }
            other => other.map(drop).map_err(|error| full_text(&error)),
        }
    }

    fn own_process(&self, name: &str, role: ChildRole, listeners: &[&str]) -> Result<SpawnSpec, String> {
        let paths = &self.settings.paths;
        let user = user_for(role, self.stack_name(), name);
        let state = paths.state.join(name);
        let runtime = paths.runtime.join(name);
        own_folder(&state, user.as_ref(), 0o700)?;
        own_folder(&runtime, user.as_ref(), 0o711)?;
        Ok(SpawnSpec {
            name: ChildName::new(name).map_err(|error| error.to_string())?,
            role,
            nonce: Self::nonce()?,
            argv: vec![
                paths.program().display().to_string(),
                name.to_owned(),
                "--state".to_owned(),
                state.display().to_string(),
                "--runtime".to_owned(),
                runtime.display().to_string(),
            ],
            env: self.base_env(),
            dir: state,
            user,
            log: paths.log(name),
            listeners: listeners.iter().map(|name| (*name).to_owned()).collect(),
            limits: Limits::default(),
            restart: false,
            project: None,
            shown: Vec::new(),
        })
    }

    pub(super) fn base_env(&self) -> BTreeMap<String, Secret> {
        let state = self.settings.paths.state.display().to_string();
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
        BTreeMap::from([
            ("PATH".to_owned(), Secret::new(path)),
            // By this an `up` that finds a port taken knows that the holder is its own.
            ("MAINSTAY_STATE".to_owned(), Secret::new(state)),
        ])
    }

    async fn edge_spec(&self) -> Result<SpawnSpec, String> {
        self.listen("edge-https", self.settings.doors.https).await?;
        self.listen("edge-http", self.settings.doors.http).await?;
        let mut spec = self.own_process("edge", ChildRole::Edge, &["edge-https", "edge-http"])?;
        // A release that comes while it runs may have sites, and its view is made now.
        let releases = crate::releases::folder(&self.settings.paths);
        own_folder(&releases, None, 0o755)?;
        spec.shown = vec![spec.dir.clone(), releases];
        if !self.settings.stack.sites.is_empty() {
            spec.project = Some(self.settings.launch.project.clone());
            spec.dir = self.settings.launch.folder.clone();
        }
        Ok(spec)
    }

    async fn router_spec(&self) -> Result<SpawnSpec, String> {
        self.listen("router-write", self.settings.doors.write).await?;
        self.listen("router-read", self.settings.doors.read).await?;
        self.own_process("router", ChildRole::Router, &["router-write", "router-read"])
    }

    /// What the cache is started with.
    ///
    /// **Errors**: the stack has none.
    pub(crate) fn cache_settings(&self) -> Result<mainstay_cache::Settings, String> {
        let (port, password) = (self.settings.doors.redis_cache, &self.settings.passwords.redis_cache);
        self.redis_settings(mainstay_cache::Kind::Cache, port, password)
    }

    /// What a server of the store is started with, by the record of who serves.
    ///
    /// **Errors**: the stack has none; the record cannot be read.
    pub(crate) fn store_settings(&self, member: Member) -> Result<mainstay_cache::Settings, String> {
        let passwords = &self.settings.passwords;
        let settings =
            self.redis_settings(mainstay_cache::Kind::Store, self.settings.doors.redis_store, &passwords.redis_store)?;
        let record = replicas::record(&self.settings.paths.state).map_err(|error| full_text(&error))?;
        let command = passwords.redis_command.clone();
        let part = crate::copies::part(record, settings.cache.store_replicas, member, command);
        Ok(mainstay_cache::Settings { part, ..settings })
    }

    fn redis_settings(
        &self,
        kind: mainstay_cache::Kind,
        port: u16,
        password: &Secret,
    ) -> Result<mainstay_cache::Settings, String> {
        let config = self.settings.stack.cache.as_ref().ok_or("the stack has no cache")?;
        Ok(mainstay_cache::Settings {
            kind,
            state: self.settings.paths.state.clone(),
            runtime: self.settings.paths.runtime.clone(),
            port,
            password: password.clone(),
            cache: config.clone(),
            part: None,
            user: user_for(ChildRole::Redis, self.stack_name(), "redis"),
        })
    }

    fn redis_spec(&self, settings: &mainstay_cache::Settings) -> Result<SpawnSpec, String> {
        let program = mainstay_cache::find_program().map_err(|error| error.to_string())?;
        if settings.part.as_ref().is_some_and(|part| !part.is_alone) && !replicas::is_enough(&program) {
            let oldest = replicas::OLDEST_MAJOR;
            return Err(format!(
                "cache.store_replicas needs Redis {oldest} or newer, or Valkey: {} is older",
                program.display()
            ));
        }
        mainstay_cache::spec(settings, &program, Self::nonce()?, self.settings.paths.log(&settings.name()))
            .map_err(|error| full_text(&error))
    }

    /// A server of the store: its data are made ready for its part first.
    fn store_spec(&self, member: Member) -> Result<SpawnSpec, String> {
        let settings = self.store_settings(member)?;
        if settings.part.as_ref().is_none_or(|part| part.is_primary) {
            self.put_copy_back(&settings)?;
        } else {
            mainstay_cache::copies::forget_waiting(&settings).map_err(|error| full_text(&error))?;
        }
        let record = replicas::record(&settings.state).map_err(|error| full_text(&error))?.unwrap_or_default();
        replicas::prepare(&settings, &record).map_err(|error| full_text(&error))?;
        self.redis_spec(&settings)
    }

    /// Makes a replica the store.
    pub(super) async fn promote_store(&self, to: Member, from: Option<Member>, epoch: u64) -> Result<Outcome, String> {
        let children = self.keep()?.list().await.map_err(|error| full_text(&error))?;
        let runs = |member| {
            let name = child_of(member);
            children.iter().any(|child| child.name == name && child.ended.is_none())
        };
        if let Some(from) = from.filter(|from| runs(*from)) {
            return Err(format!("{} runs: two would take writes", child_of(from)));
        }
        if let Some(from) = from
            && mainstay_cache::copies::is_waiting(&self.store_settings(from)?)
        {
            return Err(format!("a copy waits to be what {} begins with", child_of(from)));
        }
        let state = &self.settings.paths.state;
        let known = replicas::record(state).map_err(|error| full_text(&error))?.unwrap_or_default();
        let record = StoreRecord { epoch, primary: to, former: from.or(known.former) };
        // Before anything is changed: after a crash it decides, and its start goes on from here.
        replicas::write_record(state, &record).map_err(|error| full_text(&error))?;
        let settings = self.store_settings(to)?;
        let part = settings.part.as_ref().ok_or("the store has no replicas")?;
        replicas::promote(&settings, part).await.map_err(|error| full_text(&error))?;
        Ok(Outcome::StorePromoted(record))
    }

    /// A copy that a person wants back takes the place of the store's data before its server is started.
    fn put_copy_back(&self, settings: &mainstay_cache::Settings) -> Result<(), String> {
        let applied = mainstay_cache::copies::apply(settings).map_err(|error| full_text(&error))?;
        if let Some(applied) = applied {
            let text = format!("the store begins with a copy; what it held lies in {}", applied.replaced.display());
            let event = crate::store::NewEvent::warn(crate::clock::now(), "StoreRestored", text);
            self.journal.emit(event.about("store"));
        }
        Ok(())
    }

    /// What Prometheus and Alertmanager are started with.
    pub(crate) fn telemetry_settings(&self) -> mainstay_telemetry::Settings {
        use mainstay_telemetry::Page;
        let stack = &self.settings.stack;
        let mut pages = vec![Page::Edge, Page::Control, Page::Host];
        if stack.database.is_some() {
            pages.extend([Page::Router, Page::Postgres]);
        }
        if stack.cache.is_some() {
            pages.push(Page::Redis);
        }
        mainstay_telemetry::Settings {
            dir: self.settings.paths.state.join("prometheus"),
            stack: self.settings.launch.stack.clone(),
            environment: self.settings.launch.environment.clone(),
            observe: stack.observe.clone(),
            prometheus_port: self.settings.doors.prometheus,
            alertmanager_port: self.settings.doors.alertmanager,
            console_port: self.settings.doors.console,
            pages,
            password: self.settings.passwords.telemetry.clone(),
            pages_token: self.settings.passwords.pages_token.clone(),
            user: user_for(ChildRole::Prometheus, self.stack_name(), "prometheus"),
        }
    }

    /// Tells Prometheus where instances are; it reads the file again by itself.
    fn write_targets(&self, settings: &mainstay_telemetry::Settings) -> Result<(), String> {
        let services = &self.settings.stack.services;
        let doors = &self.settings.doors;
        let targets: Vec<mainstay_telemetry::Target> = services
            .iter()
            .filter_map(|(name, service)| Some((name, service, service.metrics.as_ref()?)))
            .flat_map(|(name, service, path)| {
                self.settings.launch.fleet.most(name, service).into_iter().filter_map(move |instance| {
                    let port = doors.of(&instance, service.has_management_port)?;
                    Some(mainstay_telemetry::Target { instance, port, path: path.clone() })
                })
            })
            .collect();
        mainstay_telemetry::write_targets(&settings.dir, &targets).map(drop).map_err(|error| full_text(&error))
    }

    /// Another release has other instances than Prometheus was started with.
    pub(crate) fn refresh_targets(&self) {
        let settings = self.telemetry_settings();
        if self.settings.stack.observe.enabled && settings.dir.exists() {
            let _alone = self.telemetry_files.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // Prometheus goes on with what it has, and is told again with its next start.
            self.write_targets(&settings).ok();
        }
    }

    fn telemetry_spec(&self, name: &ChildName) -> Result<SpawnSpec, String> {
        let settings = self.telemetry_settings();
        // Both programs read the same folder, and both may be started at once.
        let _alone = self.telemetry_files.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        mainstay_telemetry::write_config(&settings).map_err(|error| full_text(&error))?;
        self.write_targets(&settings)?;
        let programs = mainstay_telemetry::find_programs();
        let (nonce, log) = (Self::nonce()?, self.settings.paths.log(name.as_str()));
        let spec = if name.as_str() == "prometheus" {
            let program = programs.prometheus.map_err(|missing| missing.to_string())?;
            mainstay_telemetry::prometheus_spec(&settings, &program, nonce, log)
        } else {
            let program = programs.alertmanager.map_err(|missing| missing.to_string())?;
            mainstay_telemetry::alertmanager_spec(&settings, &program, nonce, log)
        };
        spec.map_err(|error| error.to_string())
    }

    /// Starts an instance of the release that these settings are of.
    pub(super) async fn start_instance(&self, settings: &Settings, id: &InstanceId) -> Result<Outcome, String> {
        let service = settings.stack.services.get(&id.service).ok_or("the stack has no such service")?;
        let mut env = settings.service_env(&id.service, Some(id))?;
        env.extend(self.base_env().into_iter().filter(|(name, _)| name == "MAINSTAY_STATE"));
        let name = ChildName::instance(id);
        let process = (&id.service, name, ChildRole::Instance);
        let mut spec = self.service_process(settings, process, &service.run, env)?;
        spec.limits = Limits { memory: service.memory, cpu_milli: service.cpu_milli, pids: None };
        self.spawn(spec).await
    }

    /// Where a service's home is.
    pub(super) fn home_of(&self, service: &ServiceName) -> PathBuf {
        self.settings.paths.state.join("home").join(service.as_str())
    }

    /// The home of a service, made when it is not there.
    pub(super) fn service_home(&self, service: &ServiceName) -> Result<Option<User>, String> {
        // One user for a service, whatever the process: its files are its own.
        let user = user_for(ChildRole::Instance, self.stack_name(), service.as_str());
        own_folder(&self.settings.paths.state.join("home"), None, 0o711)?;
        own_folder(&self.home_of(service), user.as_ref(), 0o700)?;
        Ok(user)
    }

    pub(super) fn service_process(
        &self,
        settings: &Settings,
        (service_name, name, role): (&ServiceName, ChildName, ChildRole),
        command: &[String],
        env: BTreeMap<String, Secret>,
    ) -> Result<SpawnSpec, String> {
        let service = settings.stack.services.get(service_name).ok_or("the stack has no such service")?;
        let user = self.service_home(service_name)?;
        let dir = settings.launch.folder.join(&service.dir);
        let mut argv = command.to_vec();
        if let Some(program) = argv.first_mut().filter(|program| program.contains('/') && !program.starts_with('/')) {
            *program = normal(&dir.join(&*program)).display().to_string();
        }
        Ok(SpawnSpec {
            log: self.settings.paths.log(name.as_str()),
            name,
            role,
            nonce: Self::nonce()?,
            argv,
            env,
            dir,
            user,
            listeners: Vec::new(),
            limits: Limits::default(),
            restart: false,
            project: Some(settings.launch.project.clone()),
            shown: vec![self.home_of(service_name)],
        })
    }

    pub(super) async fn stop(
        &self,
        name: &ChildName,
        nonce: &Nonce,
        signal: i32,
        grace: Duration,
    ) -> Result<Outcome, String> {
        let is_instance = self.role_of(name) == ChildRole::Instance;
        let signal = if is_instance && self.mistakes.kills() { KILL } else { signal };
        if is_instance && signal != KILL {
            tokio::time::sleep(OUT_OF_ROTATION).await;
        }
        let keep = self.keep()?;
        match keep.signal(nonce, signal).await {
            Ok(()) => self.wait_for_end(name, nonce, grace).await?,
            // A child that is gone already needs no signal.
            Err(error) if error.refusal() == Some(Refusal::NotRunning) => {}
            Err(error) => return Err(full_text(&error)),
        }
        self.kill_leftovers(self.role_of(name), nonce).await?;
        Ok(Outcome::Done)
    }

    /// Waits for the end of a child that got its signal; says so when the time is over.
    async fn wait_for_end(&self, name: &ChildName, nonce: &Nonce, grace: Duration) -> Result<(), String> {
        let keep = self.keep()?;
        let deadline = tokio::time::Instant::now() + grace;
        while tokio::time::Instant::now() < deadline {
            let children = keep.list().await.map_err(|error| full_text(&error))?;
            let runs = children.iter().any(|child| child.nonce == *nonce && child.ended.is_none());
            if !runs {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        let text = format!("{name} did not end within {} s and is killed", grace.as_secs());
        self.journal.emit(crate::store::NewEvent::warn(crate::clock::now(), "ChildKilled", text).about(name));
        keep.kill_tree(nonce, KILL_DEADLINE).await.map_err(|error| full_text(&error))
    }

    /// Kills what a child left behind: a shell ends by its signal, the program that it had started may not.
    async fn kill_leftovers(&self, role: ChildRole, nonce: &Nonce) -> Result<(), String> {
        match role {
            // Orphans of a postmaster are fenced, with a proof. The control plane is this process.
            ChildRole::Postgres | ChildRole::Control | ChildRole::Keep => Ok(()),
            ChildRole::Edge
            | ChildRole::Router
            | ChildRole::Redis
            | ChildRole::Instance
            | ChildRole::Prometheus
            | ChildRole::Alertmanager
            | ChildRole::Task => self.keep()?.kill_tree(nonce, KILL_DEADLINE).await.map_err(|error| full_text(&error)),
        }
    }

    /// The end of `down`: nothing that any child started may stay, even of those that had ended by themselves.
    pub(super) async fn finish(&self) -> Result<Outcome, String> {
        for child in self.keep()?.list().await.map_err(|error| full_text(&error))? {
            self.kill_leftovers(child.role, &child.nonce).await?;
        }
        Ok(Outcome::Finished)
    }

    pub(crate) async fn redis_metrics(&self) -> Result<String, String> {
        let mut page = String::new();
        page.push_str(&mainstay_cache::metrics(&self.cache_settings()?).await);
        let state = &self.settings.paths.state;
        let record = replicas::record(state).map_err(|error| full_text(&error))?.unwrap_or_default();
        let count = self.settings.stack.cache.as_ref().map_or(0, |cache| cache.store_replicas);
        for member in members(count, &record) {
            page.push_str(&mainstay_cache::metrics(&self.store_settings(member)?).await);
        }
        Ok(page)
    }
}

/// Takes `.` and `..` out of an absolute path, by its text.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                normal.pop();
            }
            std::path::Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}
