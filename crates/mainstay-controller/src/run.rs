//! Puts the control plane together and runs it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use mainstay_decide::observed::{DatabaseSeen, Observed};
use mainstay_decide::replicas::StoreSeen;
use mainstay_supervisor::keep::Control;
use mainstay_supervisor::launch::{self, Beside};
use mainstay_types::{Generation, Member, Secret, Seen, ServiceName, exit_code};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};

use crate::api::{self, Doors as ApiDoors, Shared};
use crate::clock::now;
use crate::core::{Core, End, Parts, Published, rollout};
use crate::effects::{BeforeRun, Cluster, Effects, Mistakes};
use crate::journal::Journal;
use crate::launch::Launch;
use crate::links::{self, Link};
use crate::maintenance::{self, ToEdge};
use crate::message::Message;
use crate::observers;
use crate::paths::Paths;
use crate::ports::Ports;
use crate::schedules;
use crate::secrets::Secrets;
use crate::settings::{Doors, Passwords, Settings};
use crate::status::Picture;
use crate::store::{NewEvent, Store};

/// Messages that may wait for the loop; it takes them all at every turn.
const INBOX: usize = 4096;
/// Between two tries for the console's port, which another process has.
const CONSOLE_RETRY: Duration = Duration::from_secs(1);
/// Time for the API to answer its last requests at the end.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// How keep starts the control plane.
pub fn control_spec(paths: &Paths) -> Control {
    let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
    let mut env = BTreeMap::from([("PATH".to_owned(), Secret::new(path))]);
    for name in ["LANG", "TZ", "HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "RUST_BACKTRACE"] {
        if let Ok(value) = std::env::var(name) {
            env.insert(name.to_owned(), Secret::new(value));
        }
    }
    let mut argv = vec![paths.program().display().to_string()];
    argv.extend(own_arguments(paths, "control"));
    Control { argv, env, dir: paths.state.clone(), log: paths.log("control") }
}

fn own_arguments(paths: &Paths, command: &str) -> Vec<String> {
    let text = |path: &std::path::Path| path.display().to_string();
    vec![command.to_owned(), "--state".to_owned(), text(&paths.state), "--runtime".to_owned(), text(&paths.runtime)]
}

/// Starts keep, detached; returns when it answers. `beside`: the service of systemd that it is started for, if any.
///
/// **Errors**: it did not come up, with its last words.
pub fn start_keep(paths: &Paths, beside: Option<&Beside>) -> Result<(), launch::Error> {
    let arguments = own_arguments(paths, "keep");
    launch::start_keep(&paths.program(), &arguments, &paths.runtime, &paths.log("keep"), beside).map(drop)
}

/// Runs the control plane until the stack is down. Returns the exit status.
///
/// **Errors**: what it needs to begin is missing: the run's description, the store, secrets, ports, its sockets.
pub fn run(paths: &Paths) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot make an async runtime")?;
    let code = runtime.block_on(serve(paths))?;
    // Whatever still waits for the network must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(code)
}

fn settings(paths: &Paths) -> anyhow::Result<(Arc<Settings>, Store, serde_json::Value)> {
    let launch = Launch::load(paths).context("cannot read launch.json")?;
    let text = std::fs::read_to_string(paths.stack_file()).context("cannot read the stack file's copy")?;
    let store = Store::open(&paths.state)?;
    let (settings, config) = Settings::of(paths, launch, &text)?;
    let (switched, _) = maintenance::known(&settings, store.fact(maintenance::FACT)?.as_deref());
    settings.switched.send_replace(switched);
    Ok((Arc::new(settings), store, config))
}

impl Settings {
    /// What a run is made of: of the one that is live, or of a release on its way.
    pub(crate) fn of(paths: &Paths, launch: Launch, text: &str) -> anyhow::Result<(Self, serde_json::Value)> {
        let name = launch.stack_file.display().to_string();
        let parsed = mainstay_stack::parse(text, &name, &launch.environment)
            .map_err(|diagnostics| anyhow::anyhow!("{}", mainstay_stack::render(&diagnostics, text, &name, false)))?;
        let config = serde_json::to_value(mainstay_stack::computed(&parsed))?;
        let mut secrets = Secrets::open(&paths.state)?;
        let passwords = Passwords::open(&mut secrets, &parsed.stack)?;
        let doors = Doors::choose(&mut Ports::resume(paths)?, &parsed.stack, &launch.fleet)?;
        let generation = Generation(launch.generation);
        let stack_hash = crate::drills::stack_hash(text);
        let archive = crate::backups::archive(paths, &parsed.stack).context("cannot tell where WAL is archived")?;
        let (paths, stack) = (paths.clone(), parsed.stack);
        let (client_ca, switched) = Default::default();
        let settings =
            Self { paths, launch, stack, stack_hash, passwords, doors, generation, archive, client_ca, switched };
        Ok((settings, config))
    }
}

async fn serve(paths: &Paths) -> anyhow::Result<u8> {
    let settled = crate::releases::settle(paths, false, now()).context("cannot take up the rollout under way")?;
    let (settings, store, config) = settings(paths)?;
    let (before_done, before_runs) = (before_done(&store, &settings)?, before_runs(&store, &settings)?);
    let schedules = schedules::load(&store, &settings.stack)?;
    let picture = Picture::of(store.fact(crate::status::MEMORY_FACT)?, &settings.launch);
    let (sessions, scale) = (store.fact(api::SESSIONS_FACT)?, store.fact(crate::core::scaling::FACT)?);
    let (journal, journal_thread) = Journal::start(store).context("cannot start the journal's thread")?;
    let ((sender, inbox), (keep_sender, keep)) = (mpsc::channel(INBOX), watch::channel(None));
    let ((stopping, stopping_seen), (endpoints, endpoints_seen)) = (watch::channel(false), watch::channel(None));
    let ((edge, edge_asks), (router, router_asks)) = (Link::new(), Link::new());
    let effects = Arc::new(Effects {
        settings: Arc::clone(&settings),
        keep,
        edge,
        router,
        endpoints,
        certificate: watch::Sender::default(),
        to_edge: ToEdge::default(),
        looks: watch::Sender::default(),
        cluster: cluster(&settings)?,
        journal: journal.clone(),
        telemetry_files: Mutex::new(()),
        before_runs: Mutex::new(before_runs),
        mistakes: Mistakes::default(),
        damages: watch::Sender::new(crate::core::damage::known(&journal).await),
        next: std::sync::RwLock::default(),
    });
    effects.refresh_targets();
    let rollout = rollout::take_up(&effects, settled);
    let observed = Observed { schedules, rollout, ..first_look(&settings, &effects, before_done) };

    tokio::spawn(observers::keep(paths.clone(), keep_sender, sender.clone(), stopping_seen));
    observe(&effects, &sender, observed.store.is_some());
    link_up(&effects, endpoints_seen, (edge_asks, router_asks), &sender)?;

    let published = Arc::new(Published::default());
    let core = Core::new(Parts {
        effects: Arc::clone(&effects),
        journal: journal.clone(),
        published: Arc::clone(&published),
        sender: sender.clone(),
        observed,
        copies_told: crate::copies::watch::told(&journal).await,
        scale,
        picture,
        at: now(),
    });
    let shared = Arc::new(Shared {
        journal: journal.clone(),
        published,
        effects: Arc::clone(&effects),
        sender: sender.clone(),
        doors: Mutex::new(ApiDoors::of(sessions)),
        metrics_token: settings.passwords.pages_token.clone(),
        console_port: settings.doors.console,
        config,
        deploying: tokio::sync::Mutex::default(),
    });
    open_doors(paths, shared, settings.doors.console).await?;
    journal.emit(NewEvent::info(now(), "ControlStarted", format!("control plane runs as pid {}", std::process::id())));
    let end = tokio::select! {
        end = core.run(inbox) => end,
        () = end_on_sigterm() => End::Leave,
    };
    stopping.send_replace(end == End::Down);
    leave(paths, &effects, end).await;
    drop(journal_thread);
    Ok(if end == End::Again { exit_code::AGAIN } else { exit_code::DONE })
}

async fn leave(paths: &Paths, effects: &Effects, end: End) {
    let text = match end {
        End::Down => return bring_keep_to_its_end(paths, effects).await,
        // keep starts the next one, which reads what this stack is from now on.
        End::Again => "control plane begins anew with the new release",
        End::Leave => "control plane ends; its children go on",
    };
    effects.journal.emit(NewEvent::info(now(), "ControlEnded", text));
    effects.journal.flush().await;
}

async fn bring_keep_to_its_end(paths: &Paths, effects: &Effects) {
    if let Ok(keep) = effects.keep() {
        // It may be gone before its answer is here.
        keep.exit().await.ok();
    }
    tokio::time::sleep(LAST_ANSWERS).await;
    // The next `up` begins with sockets of its own.
    std::fs::remove_file(paths.api_socket()).ok();
}

/// Begins everybody who looks, but for the one who talks to keep.
fn observe(effects: &Arc<Effects>, sender: &mpsc::Sender<Message>, has_servers: bool) {
    let stack = &effects.settings.stack;
    tokio::spawn(observers::pressure(sender.clone()));
    tokio::spawn(crate::drills::observe(effects.paths().drill_history(), sender.clone()));
    if stack.cache.is_some() {
        tokio::spawn(observers::redis(Arc::clone(effects), mainstay_cache::Kind::Cache, sender.clone()));
        if has_servers {
            // Whoever serves now: any of them may have to.
            for member in (0..3).filter_map(Member::nth) {
                tokio::spawn(observers::store(Arc::clone(effects), member, sender.clone()));
            }
        } else {
            tokio::spawn(observers::redis(Arc::clone(effects), mainstay_cache::Kind::Store, sender.clone()));
        }
    }
    if stack.cache.as_ref().and_then(mainstay_decide::store::policy).is_some() {
        tokio::spawn(crate::copies::watch::observe(Arc::clone(effects), sender.clone()));
    }
    if stack.observe.enabled {
        tokio::spawn(observers::telemetry(Arc::clone(effects), sender.clone()));
    }
    if let Some(backup) = stack.database.as_ref().and_then(|database| database.backup.as_ref()) {
        tokio::spawn(crate::backups::watch::observe(Arc::clone(effects), sender.clone()));
        if let Some(wanted) = crate::backups::second::Wanted::of(backup) {
            crate::backups::second::start(effects.paths().clone(), wanted, effects.settings.launch.origin.clone());
        }
    }
    if effects.cluster.is_some() {
        Cluster::observe(effects, sender);
        tokio::spawn(crate::disk::observe(Arc::clone(effects), effects.journal.clone(), sender.clone()));
        tokio::spawn(crate::checksums::observe(Arc::clone(effects), sender.clone()));
    }
}

fn cluster(settings: &Settings) -> anyhow::Result<Option<Cluster>> {
    let cluster = settings.stack.database.is_some().then(|| Cluster::new(settings)).transpose();
    cluster.map_err(|reason| anyhow::anyhow!(reason))
}

async fn end_on_sigterm() {
    let stream = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    match stream {
        Ok(mut stream) => {
            stream.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

fn before_done(
    store: &Store,
    settings: &Settings,
) -> anyhow::Result<BTreeMap<mainstay_types::ServiceName, mainstay_types::Timestamp>> {
    let release = format!("v{}", settings.launch.release);
    let mut done = BTreeMap::new();
    for name in settings.stack.services.keys() {
        // A rollout has run those of what was deployed, and one that went back ran none.
        if settings.launch.is_deployed(&settings.paths)
            || store.fact(&format!("before:{name}"))?.as_deref() == Some(release.as_str())
        {
            done.insert(name.clone(), now());
        }
    }
    Ok(done)
}

/// The last start of each release command.
fn before_runs(store: &Store, settings: &Settings) -> anyhow::Result<BTreeMap<ServiceName, BeforeRun>> {
    let mut runs = BTreeMap::new();
    for name in settings.stack.services.keys() {
        let text = store.fact(&BeforeRun::fact(name))?;
        // One that cannot be read is one that nobody knows of.
        runs.extend(text.and_then(|text| serde_json::from_str(&text).ok()).map(|run| (name.clone(), run)));
    }
    Ok(runs)
}

/// What is known before anybody looked: the record, and which programs are missing.
fn first_look(
    settings: &Settings,
    effects: &Effects,
    before_done: BTreeMap<mainstay_types::ServiceName, mainstay_types::Timestamp>,
) -> Observed {
    let database = effects.cluster.as_ref().map(|cluster| DatabaseSeen {
        record: cluster.read_record().map_or(Seen::Unknown, observers::fact),
        members: BTreeMap::new(),
        is_under_pressure: false,
        size_bytes: None,
        memory: BTreeMap::new(),
        damages: effects.damages.borrow().clone(),
    });
    Observed {
        children: Seen::Unknown,
        running: BTreeMap::new(),
        failed: BTreeMap::new(),
        done: BTreeMap::new(),
        database,
        wish: None,
        redis: BTreeMap::new(),
        health: BTreeMap::new(),
        edge: Seen::Unknown,
        router: Seen::Unknown,
        prometheus: Seen::Unknown,
        alertmanager: Seen::Unknown,
        missing: crate::programs::missing(&settings.stack, &settings.paths.state),
        is_database_prepared: false,
        is_migrated: false,
        before_done,
        schedules: BTreeMap::new(),
        backups: Seen::Unknown,
        store: store(settings),
        store_copies: Seen::Unknown,
        is_stopping: false,
        rollout: None,
        fleet: settings.launch.fleet.clone(),
        is_fencing_sabotaged: false,
    }
}

/// The servers of a store that has several, or had.
fn store(settings: &Settings) -> Option<StoreSeen> {
    let cache = settings.stack.cache.as_ref()?;
    let record = match mainstay_cache::replicas::record(&settings.paths.state) {
        Ok(None) if cache.store_replicas == 0 => return None,
        Ok(record) => observers::fact(record.unwrap_or_default()),
        Err(_) => Seen::Unknown,
    };
    Some(StoreSeen { record, port: settings.doors.redis_store, members: BTreeMap::new() })
}

type Inboxes = (mpsc::Receiver<links::Ask>, mpsc::Receiver<links::Ask>);

fn link_up(
    effects: &Arc<Effects>,
    endpoints: watch::Receiver<links::Endpoints>,
    (edge_asks, router_asks): Inboxes,
    sender: &mpsc::Sender<Message>,
) -> anyhow::Result<()> {
    let (settings, journal, to_edge) = (&effects.settings, &effects.journal, &effects.to_edge);
    let hosts = settings.stack.edge.hosts();
    let certificate = mainstay_edge::ca::local_ca(&settings.paths.state.join("ca"), &hosts, now())
        .context("cannot make a certificate of the local CA")?;
    let router_policy = settings.router_policy(&certificate.certificate);
    let (edge_policy, accepted) = (to_edge.policies.subscribe(), to_edge.accepted.clone());
    crate::issuers::begin(settings, journal);
    tokio::spawn(maintenance::forget(Arc::clone(effects)));
    crate::clients::begin(effects);
    let own = crate::certificate::Own::of(settings, journal);
    own.begin(certificate.certificate, to_edge.clone(), effects.certificate.clone());
    let (_, router_policy) = watch::channel(router_policy.map(Arc::new));
    let edge_socket = settings.paths.runtime.join("edge/edge.sock");
    tokio::spawn(links::edge(edge_socket, edge_policy, endpoints, edge_asks, (sender.clone(), accepted)));
    if settings.stack.database.is_some() {
        let router_socket = settings.paths.runtime.join("router/router.sock");
        tokio::spawn(links::router(router_socket, router_policy, router_asks, sender.clone()));
    }
    Ok(())
}

/// The API's two doors: the owner's Unix socket (mode 0600) and the browser's loopback port.
async fn open_doors(paths: &Paths, shared: Arc<Shared>, console_port: u16) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let socket = paths.api_socket();
    let aside = socket.with_extension("new");
    std::fs::remove_file(&aside).ok();
    let listener = UnixListener::bind(&aside).with_context(|| format!("cannot listen on {}", aside.display()))?;
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&aside, &socket)?;
    let owner = api::owner(Arc::clone(&shared));
    tokio::spawn(async move { axum::serve(listener, owner).await });
    let browser = api::browser(Arc::clone(&shared));
    // The one before may be just gone; the port is ours by ports.json.
    for _ in 0..50 {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, console_port)).await {
            shared.published.console.send_replace(true);
            tokio::spawn(async move { axum::serve(listener, browser).await });
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::spawn(open_later(shared, browser, console_port));
    Ok(())
}

/// Somebody took the console's port while no control plane ran. Databases and services need one more than people need
/// the console: it waits for its port, and everything else goes on.
async fn open_later(shared: Arc<Shared>, browser: axum::Router, console_port: u16) {
    let journal = &shared.journal;
    let text = format!("port {console_port} is taken by another process: no console until it is free");
    journal.emit(NewEvent::warn(now(), "ConsoleWithoutPort", text));
    loop {
        tokio::time::sleep(CONSOLE_RETRY).await;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, console_port)).await {
            shared.published.console.send_replace(true);
            let text = format!("the console is open at port {console_port}");
            journal.emit(NewEvent::info(now(), "ConsoleOpened", text));
            axum::serve(listener, browser).await.ok();
            return;
        }
    }
}
