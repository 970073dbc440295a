//! The front door (L3, box "edge"): TLS, routes, balancing, ejection, retries, static sites, on Pingora.
//!
//! A process of its own (`mainstay edge`). It asks decisions of its snapshot, never decides policy; without
//! a control plane it goes on with the last policy and endpoints and probes for itself.
#![warn(missing_docs)]

mod access;
pub mod acme;
mod answer;
pub mod ca;
mod challenge;
mod chunks;
mod clients;
mod code;
mod coding;
mod connection;
mod control;
mod edge;
mod edit;
mod endpoint;
mod entry;
pub mod examine;
mod file;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod guard;
mod headers;
mod identity;
mod kept;
mod limit;
mod listen;
mod metrics;
pub mod own;
mod passage;
mod patient;
mod probe;
pub mod protocol;
mod proxy;
mod range;
mod release;
mod roots;
mod site;
mod snapshot;
mod strict;
mod upstream;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_types::Timestamp;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, http_proxy};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

pub use control::SOCKET;
pub use edge::ApplyError;
pub use identity::explain::{Explained, explain as explain_token};
pub use snapshot::PolicyError;
pub use snapshot::hash as policy_hash;

use crate::edge::Edge;
use crate::listen::{Door, Doors};

/// Why the edge would refuse a request for this path whatever its route says, with the status; for `route explain`.
pub fn refusal(method: &str, path: &str) -> Option<(u16, &'static str)> {
    strict::check_method(method).and_then(|()| strict::check_path(path)).err()
}

/// How many authorities of clients a text in PEM has.
///
/// **Errors**: why the edge could not use them.
pub fn client_authorities(pem: &str) -> Result<usize, String> {
    clients::Authorities::new(pem).map(|authorities| authorities.count())
}

/// Name of the inherited listener for HTTPS.
pub const HTTPS_LISTENER: &str = "edge-https";
/// Name of the inherited listener for HTTP, which only redirects.
pub const HTTP_LISTENER: &str = "edge-http";

/// Time for requests under way when the edge is told to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// Idle upstream connections kept over all upstreams: ten instances with a dozen each.
const UPSTREAM_POOL: usize = 128;
/// Threads for files and policies; each is a stack of its own.
const BLOCKING_THREADS: usize = 16;
/// Threads for requests: the edge shares the machine with what it serves.
const MAX_THREADS: usize = 4;
/// Time an HTTP/2 connection may be without a request.
const H2_IDLE: Duration = Duration::from_mins(5);

/// What the edge needs.
#[derive(Debug)]
pub struct Options {
    /// Folder of its socket.
    pub runtime: PathBuf,
    /// Folder of the kept policy and endpoints.
    pub state: PathBuf,
    /// Listeners by name ([`HTTPS_LISTENER`], [`HTTP_LISTENER`]); the latter may be missing.
    pub listeners: BTreeMap<String, TcpListener>,
}

/// Why the edge does not run.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// No door.
    #[error("no listener {HTTPS_LISTENER}: the edge is started by keep, which opens it")]
    NoListener,
    /// The system refused something.
    #[error("edge cannot {action}")]
    System {
        /// What it was about to do.
        action: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The TLS library refuses its defaults.
    #[error("edge cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

fn system(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> EdgeError {
    let action = action.into();
    move |source| EdgeError::System { action, source }
}

/// The wall clock.
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Runs the edge until SIGTERM, then lets requests under way end (at most ten seconds).
///
/// **Errors**: no listener, or the system refuses a socket, a folder or a thread.
pub fn run(options: Options) -> Result<(), EdgeError> {
    raise_descriptor_limit();
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(MAX_THREADS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("edge")
        .enable_all()
        .build()
        .map_err(system("start its threads"))?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(system("handle SIGTERM"))?;
        // Ignored by design: a closed terminal stops nothing.
        let _hangup = signal(SignalKind::hangup()).map_err(system("handle SIGHUP"))?;
        serve(options, async move {
            terminate.recv().await;
        })
        .await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Ten thousand connections need more than the usual 1024 descriptors; more than the hard limit is not ours to take.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Without it the edge serves as many as it can.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).ok();
}

/// Runs the edge on the current runtime until `stop`.
///
/// **Errors**: as [`run`].
pub async fn serve(mut options: Options, stop: impl Future<Output = ()> + Send) -> Result<(), EdgeError> {
    let make = format!("make its state folder {}", options.state.display());
    std::fs::create_dir_all(&options.state).map_err(system(make))?;
    let https = options.listeners.remove(HTTPS_LISTENER).ok_or(EdgeError::NoListener)?;
    let http = options.listeners.remove(HTTP_LISTENER);
    let edge = Arc::new(Edge::new(&options.state));
    let restored = {
        let edge = Arc::clone(&edge);
        tokio::task::spawn_blocking(move || edge.restore()).await
    };
    // A kept policy that is no longer usable is not the end: the control plane sends one, and until then every
    // request is answered 503 with the reason.
    drop(restored);
    let listen = format!("listen on its control socket in {}", options.runtime.display());
    let control = control::bind(&options.runtime).map_err(system(listen))?;
    let doors = Arc::new(Doors::new(Arc::clone(&edge), Arc::new(proxy(&edge)))?);
    let (shutdown, is_shutdown) = watch::channel(false);
    let mut tasks = tokio::task::JoinSet::new();
    for (listener, door) in [(Some(https), Door::Https), (http, Door::Http)] {
        if let Some(listener) = listener {
            let listener = into_tokio(listener).map_err(system("use its listener"))?;
            tasks.spawn(Arc::clone(&doors).accept(listener, door, is_shutdown.clone()));
        }
    }
    let background = [
        tokio::spawn(control::run(Arc::clone(&edge), control)),
        tokio::spawn(probe::run(Arc::clone(&edge))),
        tokio::spawn(identity::run(Arc::clone(&edge))),
    ];
    stop.await;
    shutdown.send_replace(true);
    doors.proxy.http_cleanup().await;
    while tasks.join_next().await.is_some() {}
    drain(&edge).await;
    for task in background {
        task.abort();
    }
    let last_lines = tokio::task::spawn_blocking(move || edge.access.flush());
    // It has a deadline of its own, and nothing follows it.
    last_lines.await.ok();
    Ok(())
}

fn into_tokio(listener: TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

fn proxy(edge: &Arc<Edge>) -> HttpProxy<proxy::Proxy> {
    let conf = ServerConf {
        // Upstreams are plain HTTP on this machine: no authorities are loaded (and a machine without any is fine).
        ca_file: Some("/dev/null".to_owned()),
        upstream_keepalive_pool_size: UPSTREAM_POOL,
        max_retries: proxy::MAX_ATTEMPTS + 1,
        ..ServerConf::default()
    };
    let mut proxy = http_proxy(&Arc::new(conf), proxy::Proxy::new(Arc::clone(edge)));
    let mut server = pingora_core::apps::HttpServerOptions::default();
    server.h2_idle_timeout = Some(H2_IDLE);
    proxy.server_options = Some(server);
    let mut h2 = default_h2_options();
    h2.max_header_list_size(u32::try_from(strict::MAX_HEAD_BYTES).unwrap_or(u32::MAX));
    proxy.h2_options = Some(h2);
    proxy
}

/// Waits for the connections to end.
async fn drain(edge: &Edge) {
    let until = tokio::time::Instant::now() + DRAIN;
    while edge.metrics.connections.load(std::sync::atomic::Ordering::Relaxed) > 0 && tokio::time::Instant::now() < until
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
