//! The process: listeners, control socket, and an orderly end.
//!
//! Order of the end: no new clients, idle sessions told, what is in flight finished for a bounded time.

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mainstay_supervisor::inherited::{InheritedError, tcp_listeners};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::{self, Control};
use crate::events::{Event, emit};
use crate::session;
use crate::shared::{ClientCount, Door, InForce, Shared, View};
use crate::store::Store;

/// Statements in flight when the router is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Connections beyond `max_clients` that are talked to, so that they hear why they are not let in.
const TURNED_AWAY: u64 = 64;

/// Quiet connections are probed, so that a client that vanished does not keep its server: 60 s, then 3 × 10 s.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 3);

/// How often the end of the last session is looked for.
const LOOK: Duration = Duration::from_millis(10);

/// The doors.
#[derive(Debug)]
pub struct Listeners {
    /// Statements go to the primary.
    pub write: TcpListener,
    /// Statements go to a standby; without one, read only to the primary.
    pub read: Option<TcpListener>,
}

impl Listeners {
    /// Takes `router-write` and `router-read` from the environment. Once, before anything else is opened.
    ///
    /// **Errors**: they are not there, or no listeners.
    pub fn inherited() -> Result<Self, RunError> {
        let mut all = tcp_listeners().map_err(RunError::Inherited)?;
        let write = all.remove("router-write").ok_or(RunError::NoListener { name: "router-write" })?;
        Ok(Self { write, read: all.remove("router-read") })
    }
}

/// What the router needs to run.
#[derive(Debug)]
pub struct Options {
    /// Folder of the control socket.
    pub runtime: PathBuf,
    /// Folder of the remembered policy and targets.
    pub state: PathBuf,
    /// The doors.
    pub listeners: Listeners,
}

/// Why the router does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A listener that the parent should have handed down.
    #[error("no listener named {name} was handed down")]
    NoListener {
        /// Its name.
        name: &'static str,
    },
    /// Listeners that were handed down are not usable.
    #[error("cannot take the listeners")]
    Inherited(#[source] InheritedError),
    /// The remembered policy and targets.
    #[error("cannot read {}", path.display())]
    State {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The control socket.
    #[error("cannot open the control socket in {}", path.display())]
    Control {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Threads, signals, listeners.
    #[error("cannot start")]
    Start(#[from] io::Error),
}

/// Runs the router in this process until SIGTERM.
///
/// **Errors**: it could not start; once it runs, it does not fail.
pub fn run(options: Options) -> Result<(), RunError> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut term = signal(SignalKind::terminate())?;
        serve(options, async move {
            term.recv().await;
        })
        .await
    });
    runtime.shutdown_background();
    ended
}

/// A thousand clients and their servers need more than the usual 1024; more than the hard limit is not ours to take.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it the router serves as many as it can.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).ok();
}

/// Runs the router until `stop`. Wants a runtime of several threads.
///
/// **Errors**: as [`run`].
pub async fn serve(options: Options, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let Options { runtime, state, listeners } = options;
    let store = Store::open(&state).map_err(|source| RunError::State { path: state, source })?;
    let memory = store.memory.clone();
    let view = View {
        policy: memory.policy.map(|policy| Arc::new(InForce::new(policy, &memory.secret))),
        targets: memory.targets.map(Arc::new),
        is_stopping: false,
        reign: 0,
    };
    emit(&Event::RouterStarted {
        generation: view.policy.as_ref().map(|in_force| in_force.policy.generation.0),
        epoch: view.targets.as_ref().map(|targets| targets.epoch),
    });
    let shared = Arc::new(Shared::new(memory.secret, view));
    let socket = control::bind(&runtime).map_err(|source| RunError::Control { path: runtime, source })?;
    let mut doors = vec![(Door::Write, listeners.write)];
    doors.extend(listeners.read.map(|read| (Door::Read, read)));
    let connections = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for (door, listener) in doors {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tasks.spawn(accept(listener, door, Arc::clone(&shared), Arc::clone(&connections)));
    }
    tasks.spawn(crate::pool::sweep(Arc::clone(&shared)));
    tasks.spawn(crate::replay::watch(Arc::clone(&shared)));
    tasks.spawn(Control::new(Arc::clone(&shared), store).accept(socket));
    stop.await;
    tasks.shutdown().await;
    shared.view.send_modify(|view| view.is_stopping = true);
    let drained = async {
        while connections.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    // What is not done by then is cut off: the supervisor's patience ends too.
    tokio::time::timeout(DRAIN, drained).await.ok();
    emit(&Event::RouterStopped { cut_off: connections.load(Ordering::Relaxed) });
    Ok(())
}

async fn accept(listener: tokio::net::TcpListener, door: Door, shared: Arc<Shared>, connections: Arc<AtomicU64>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors: sessions end, descriptors come back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let allowed = shared.view.borrow().policy.as_ref().map_or(0, |in_force| in_force.policy.max_clients);
        if connections.load(Ordering::Relaxed) >= u64::from(allowed) + TURNED_AWAY || prepare(&client).is_err() {
            continue;
        }
        let connection = Connection::new(&connections);
        let count = ClientCount::new(Arc::clone(&shared), door);
        tokio::spawn(async move {
            session::serve(client, count, door).await;
            drop(connection);
        });
    }
}

fn prepare(client: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    client.set_nodelay(true)?;
    let (idle, interval, count) = KEEPALIVE;
    sockopt::set_socket_keepalive(client, true)?;
    sockopt::set_tcp_keepidle(client, idle)?;
    sockopt::set_tcp_keepintvl(client, interval)?;
    sockopt::set_tcp_keepcnt(client, count)?;
    Ok(())
}

/// Counts a connection, also when its task panics.
struct Connection(Arc<AtomicU64>);

impl Connection {
    fn new(connections: &Arc<AtomicU64>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
