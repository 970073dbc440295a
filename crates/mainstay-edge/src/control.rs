//! The control socket: takes policies and endpoints, reports once a second, hands out the metrics page.
//!
//! Only the owner of the process and root may speak: mode 0600, and the peer's user is checked.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mainstay_supervisor::wire;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::edge::Edge;
use crate::metrics::{difference, sum};
use crate::protocol::{Counts, EndpointReport, FromEdge, PROTOCOL_VERSION, ToEdge};

/// Name of the socket in the runtime folder.
pub const SOCKET: &str = "edge.sock";
/// Control planes at once: one, and the next one while the first is not yet gone.
const MAX_CONTROLLERS: usize = 4;
/// Pause between two reports.
const REPORT: Duration = Duration::from_secs(1);
/// Time a control plane may take to read a frame; one that hangs must not hold the edge's memory.
const SEND: Duration = Duration::from_secs(5);

/// Binds the socket. A stale file of the same name is replaced.
///
/// **Errors**: the folder or the socket cannot be made.
pub(crate) fn bind(runtime: &Path) -> io::Result<UnixListener> {
    std::fs::create_dir_all(runtime)?;
    let path = runtime.join(SOCKET);
    let aside: PathBuf = runtime.join("edge.new");
    std::fs::remove_file(&aside).ok();
    let listener = UnixListener::bind(&aside)?;
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
    // Renamed when it is closed to others: nobody can connect to a socket that is open for a moment.
    std::fs::rename(&aside, &path)?;
    Ok(listener)
}

/// Serves control planes for as long as the edge lives.
pub(crate) async fn run(edge: Arc<Edge>, listener: UnixListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let is_allowed = stream.peer_cred().is_ok_and(|peer| {
            let ours = rustix::process::geteuid().as_raw();
            peer.uid() == ours || peer.uid() == 0
        });
        if !is_allowed || edge.controllers.load(Ordering::Relaxed) >= MAX_CONTROLLERS {
            continue;
        }
        let guard = Connected::new(Arc::clone(&edge));
        let edge = Arc::clone(&edge);
        tokio::spawn(async move {
            // A broken connection is an ordinary event: the control plane dials again.
            serve(&edge, stream).await.ok();
            drop(guard);
        });
    }
}

/// Counts a control plane as connected until dropped.
struct Connected(Arc<Edge>);

impl Connected {
    fn new(edge: Arc<Edge>) -> Self {
        edge.controllers.fetch_add(1, Ordering::Relaxed);
        Self(edge)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.controllers.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn send(to: &mut OwnedWriteHalf, frame: &FromEdge) -> io::Result<()> {
    tokio::time::timeout(SEND, wire::send(to, frame)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Reads frames in a task of its own: reading one is not cancellation safe. The task ends with the connection.
fn read_frames(mut from: OwnedReadHalf) -> mpsc::Receiver<ToEdge> {
    // Policies and endpoints are answered one by one; 16 waiting are more than a control plane sends unasked.
    let (frames, receiver) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok(Some(frame)) = wire::receive(&mut from).await {
            if frames.send(frame).await.is_err() {
                return;
            }
        }
    });
    receiver
}

async fn serve(edge: &Arc<Edge>, stream: UnixStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut changes = edge.groups.events.subscribe();
    let mut keys = edge.issuers.events.subscribe();
    let (generation, hash) = edge.in_force().unzip();
    send(&mut write, &FromEdge::Hello { version: PROTOCOL_VERSION, generation, hash }).await?;
    let mut frames = read_frames(read);
    let mut report = Reporter::new(edge);
    let mut tick = tokio::time::interval_at(Instant::now() + REPORT, REPORT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            frame = frames.recv() => {
                let Some(frame) = frame else { return Ok(()) };
                if let Some(answer) = take(edge, frame).await? {
                    send(&mut write, &answer).await?;
                }
            }
            change = changes.recv() => match change {
                Ok(change) => {
                    let crate::upstream::Changed { upstream, endpoint, is_in, reason } = change;
                    send(&mut write, &FromEdge::EndpointChanged { upstream, endpoint, is_in, reason }).await?;
                }
                // The reports carry the state.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            change = keys.recv() => match change {
                Ok(crate::identity::KeysChanged { issuer, keys, failure }) => {
                    send(&mut write, &FromEdge::KeysChanged { issuer, keys, failure }).await?;
                }
                // The metrics carry the state.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            _ = tick.tick() => send(&mut write, &report.next(edge)).await?,
        }
    }
}

async fn take(edge: &Arc<Edge>, frame: ToEdge) -> io::Result<Option<FromEdge>> {
    match frame {
        ToEdge::Policy { policy } => {
            let generation = policy.generation;
            let edge = Arc::clone(edge);
            let applied = tokio::task::spawn_blocking(move || edge.apply(&policy)).await.map_err(io::Error::other)?;
            Ok(Some(match applied {
                Ok(hash) => FromEdge::Accepted { generation, hash },
                Err(error) => FromEdge::Rejected { generation, reason: mainstay_types::full_text(&error) },
            }))
        }
        ToEdge::Endpoints { upstreams, shares } => {
            let edge = Arc::clone(edge);
            let replaced = tokio::task::spawn_blocking(move || edge.replace_endpoints(upstreams, shares));
            replaced.await.map_err(io::Error::other)?;
            Ok(None)
        }
        ToEdge::Metrics => {
            let generation = edge.in_force().map(|(generation, _)| generation.0);
            let mut text = edge.metrics.page(&edge.groups, &edge.limits.all(), generation, edge.access.lost());
            crate::metrics::write_issuers(&mut text, &edge.issuers);
            Ok(Some(FromEdge::Metrics { text }))
        }
    }
}

/// What was last told to one control plane.
struct Reporter {
    since: Instant,
    upstreams: BTreeMap<String, Counts>,
    endpoints: BTreeMap<String, Counts>,
}

impl Reporter {
    /// What went through before the connection is not reported: the one before it got most of it.
    fn new(edge: &Edge) -> Self {
        let mut reporter = Self { since: Instant::now(), upstreams: BTreeMap::new(), endpoints: BTreeMap::new() };
        reporter.next(edge);
        reporter
    }

    fn next(&mut self, edge: &Edge) -> FromEdge {
        let window = self.since.elapsed();
        self.since = Instant::now();
        let (mut upstreams, mut endpoints) = (BTreeMap::new(), BTreeMap::new());
        let mut upstream_totals = BTreeMap::new();
        let mut endpoint_totals: BTreeMap<String, Counts> = BTreeMap::new();
        let local = edge.metrics.local.read();
        upstreams.insert(String::new(), difference(&local, self.upstreams.get("")));
        upstream_totals.insert(String::new(), local);
        for (name, group) in edge.groups.all().iter() {
            let total = group.tally.read();
            upstreams.insert(name.clone(), difference(&total, self.upstreams.get(name)));
            upstream_totals.insert(name.clone(), total);
            for endpoint in group.endpoints().iter() {
                // The main port's group comes first by its name: whether an endpoint is in is about that one.
                let known = EndpointReport { is_in: endpoint.is_in(), in_flight: 0, counts: Counts::default() };
                let report = endpoints.entry(endpoint.id.clone()).or_insert(known);
                report.in_flight += endpoint.in_flight.load(Ordering::Relaxed);
                let total = endpoint_totals.entry(endpoint.id.clone()).or_default();
                *total = sum(total, &endpoint.tally.read());
            }
        }
        for (id, report) in &mut endpoints {
            if let Some(total) = endpoint_totals.get(id) {
                report.counts = difference(total, self.endpoints.get(id));
            }
        }
        self.upstreams = upstream_totals;
        self.endpoints = endpoint_totals;
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        FromEdge::Report { window_ms, upstreams, endpoints }
    }
}
