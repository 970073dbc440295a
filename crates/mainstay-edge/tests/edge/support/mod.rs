//! A running edge, upstreams and clients for tests: real sockets on free ports, everything in a temporary folder.

pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod jwks;
pub(crate) mod pebble;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mainstay_decide::share::Share;
use mainstay_edge::ca::{LocalCertificate, local_ca};
use mainstay_edge::protocol::{Endpoint, FromEdge, PROTOCOL_VERSION, Policy, Route, Target, ToEdge, Upstream};
use mainstay_edge::{EdgeError, HTTP_LISTENER, HTTPS_LISTENER, Options};
use mainstay_supervisor::wire;
use mainstay_types::{Generation, Timestamp};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const HOST: &str = "users.localhost";
/// Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp::from_micros(i64::try_from(since.as_micros()).expect("fits"))
}

/// An edge that serves.
pub(crate) struct Edge {
    pub(crate) https: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) certificate: LocalCertificate,
    listeners: BTreeMap<String, TcpListener>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<Result<(), EdgeError>>>,
}

impl Edge {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let certificate = local_ca(&folder.path().join("ca"), &[HOST.to_owned(), "b.localhost".to_owned()], now())
            .expect("certificate");
        let https = TcpListener::bind("127.0.0.1:0").expect("binds");
        let http = TcpListener::bind("127.0.0.1:0").expect("binds");
        let mut edge = Self {
            https: https.local_addr().expect("address"),
            http: http.local_addr().expect("address"),
            folder,
            certificate,
            listeners: BTreeMap::from([(HTTPS_LISTENER.to_owned(), https), (HTTP_LISTENER.to_owned(), http)]),
            stop: None,
            running: None,
        };
        edge.run().await;
        edge
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.folder.path().join("runtime")
    }

    pub(crate) fn access_log(&self) -> PathBuf {
        self.folder.path().join("logs/access.log")
    }

    pub(crate) async fn run(&mut self) {
        let listeners = self.listeners.iter();
        let listeners =
            listeners.map(|(name, listener)| (name.clone(), listener.try_clone().expect("clones"))).collect();
        let options = Options { runtime: self.runtime(), state: self.folder.path().join("state"), listeners };
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        self.running = Some(tokio::spawn(mainstay_edge::serve(options, async {
            stopped.await.ok();
        })));
        eventually("the control socket", async || UnixStream::connect(self.runtime().join("edge.sock")).await.ok())
            .await;
    }

    pub(crate) async fn stop(&mut self) {
        self.stop.take().expect("runs").send(()).expect("listens");
        let ended = tokio::time::timeout(PATIENCE, self.running.take().expect("runs")).await.expect("ends in time");
        ended.expect("joins").expect("ends well");
    }

    pub(crate) async fn control(&self) -> Control {
        let mut stream = UnixStream::connect(self.runtime().join("edge.sock")).await.expect("connects");
        let hello: FromEdge = wire::receive(&mut stream).await.expect("reads").expect("frame");
        Control { stream, hello }
    }

    /// A policy with one upstream `backend` under `/api/*`.
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            schema: PROTOCOL_VERSION,
            generation: Generation(1),
            hosts: vec![HOST.to_owned()],
            certificates: vec![self.certificate.certificate.clone()],
            challenges: Default::default(),
            https_port: self.https.port(),
            limits: Vec::new(),
            admission: Default::default(),
            connections_per_ip: None,
            least_tls: Default::default(),
            issuers: BTreeMap::new(),
            client_ca: None,
            routes: vec![route("/api/*", "backend")],
            upstreams: BTreeMap::from([("backend".to_owned(), upstream())]),
            access_log: self.access_log(),
        }
    }

    /// Puts the ordinary policy into force with these endpoints; the control plane stays connected.
    pub(crate) async fn with(&self, endpoints: &[Endpoint]) -> Control {
        let mut control = self.control().await;
        control.accept(&self.policy()).await;
        control.endpoints("backend", endpoints).await;
        self.until_known(endpoints.len(), &mut control).await;
        control
    }

    async fn until_known(&self, count: usize, control: &mut Control) {
        let until = Instant::now() + PATIENCE;
        loop {
            let page = control.metrics().await;
            if page.lines().filter(|line| line.starts_with("mainstay_edge_endpoint_in{")).count() == count {
                return;
            }
            assert!(Instant::now() < until, "{page}");
        }
    }

    pub(crate) fn client(&self) -> client::Client {
        client::Client::new(self.https, &self.certificate.authority)
    }
}

/// A control plane's connection.
pub(crate) struct Control {
    stream: UnixStream,
    pub(crate) hello: FromEdge,
}

impl Control {
    pub(crate) async fn send(&mut self, frame: &ToEdge) {
        wire::send(&mut self.stream, frame).await.expect("sends");
    }

    /// The first frame that `pick` takes.
    pub(crate) async fn wait<T>(&mut self, mut pick: impl FnMut(FromEdge) -> Option<T>) -> T {
        let found = async {
            loop {
                let frame = wire::receive(&mut self.stream).await.expect("reads").expect("connected");
                if let Some(found) = pick(frame) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("frame in time")
    }

    /// Accepted with a hash, or rejected with a reason.
    pub(crate) async fn offer(&mut self, policy: &Policy) -> Result<String, String> {
        self.send(&ToEdge::Policy { policy: Box::new(policy.clone()) }).await;
        self.wait(|frame| match frame {
            FromEdge::Accepted { hash, .. } => Some(Ok(hash)),
            FromEdge::Rejected { reason, .. } => Some(Err(reason)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn accept(&mut self, policy: &Policy) {
        self.offer(policy).await.expect("accepted");
    }

    pub(crate) async fn endpoints(&mut self, upstream: &str, endpoints: &[Endpoint]) {
        let upstreams = BTreeMap::from([(upstream.to_owned(), endpoints.to_vec())]);
        self.send(&ToEdge::Endpoints { upstreams, shares: BTreeMap::new() }).await;
    }

    /// The endpoints of an upstream of which two releases run.
    pub(crate) async fn shared(&mut self, upstream: &str, endpoints: &[Endpoint], share: Share) {
        let upstreams = BTreeMap::from([(upstream.to_owned(), endpoints.to_vec())]);
        let shares = BTreeMap::from([(upstream.to_owned(), share)]);
        self.send(&ToEdge::Endpoints { upstreams, shares }).await;
        // Answered after it: they are in force then.
        self.metrics().await;
    }

    pub(crate) async fn metrics(&mut self) -> String {
        self.send(&ToEdge::Metrics).await;
        self.wait(|frame| match frame {
            FromEdge::Metrics { text } => Some(text),
            _ => None,
        })
        .await
    }

    /// The value of a sample.
    pub(crate) async fn metric(&mut self, sample: &str) -> u64 {
        let page = self.metrics().await;
        let line =
            page.lines().find_map(|line| line.strip_prefix(sample)).unwrap_or_else(|| panic!("{sample}:\n{page}"));
        line.trim().parse().expect("number")
    }
}

pub(crate) fn upstream() -> Upstream {
    Upstream { health_path: Some("/health".to_owned()), hold_ms: 5000, hold_requests: 100, ..Upstream::default() }
}

pub(crate) fn route(path: &str, upstream: &str) -> Route {
    Route::new(path, Target::Upstream { name: upstream.to_owned() }, 10_000)
}

pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
