//! The doors: accepts, speaks TLS, and hands connections to Pingora.
//!
//! The accept loop is ours and not Pingora's `Server`, for three reasons. Pingora binds by address, while these
//! listeners are opened by keep and outlive the edge: new connections wait in the backlog while an edge restarts.
//! Pingora's TLS listener cannot be given a deadline for the handshake. And a stream of our own carries the total
//! deadline for request heads. From the first byte of HTTP on, everything is Pingora's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_stack::model::TlsVersion;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use crate::challenge;
use crate::clients::{Asks, Authorities};
use crate::connection::{Connection, HEAD_DEADLINE};
use crate::edge::{DoorRules, Edge};
use crate::proxy::Proxy;

/// Most client connections at once, both doors together; further ones wait in the backlog. 10,000 idle ones leave room
/// for those that work (`bench/idle` measures what each takes).
const MAX_CONNECTIONS: usize = 12_000;
/// Time an idle connection is kept for the next request: as long as browsers keep theirs.
const KEEPALIVE: Duration = Duration::from_secs(300);
/// Pause after a failed accept (out of descriptors): it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a door needs.
pub(crate) struct Doors {
    pub(crate) edge: Arc<Edge>,
    pub(crate) proxy: Arc<HttpProxy<Proxy>>,
    places: Arc<Semaphore>,
    acceptors: Acceptors,
    /// Those that ask for certificates, of the authorities that were asked for last.
    asking: Mutex<Option<(Arc<Authorities>, Acceptors)>>,
    crowd: Crowd,
}

/// Those for each lowest version.
#[derive(Clone)]
struct Acceptors {
    both: TlsAcceptor,
    /// For TLS 1.3 and nothing older.
    strict: TlsAcceptor,
}

impl Acceptors {
    /// Tickets and sessions are their own: who comes with one of other acceptors makes a whole handshake, and is asked.
    fn new(edge: &Arc<Edge>, asks: Option<&Arc<Asks>>) -> Result<Self, rustls::Error> {
        let both = tls_config(edge, asks, &[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let strict = tls_config(edge, asks, &[&rustls::version::TLS13])?;
        Ok(Self { both: TlsAcceptor::from(Arc::new(both)), strict: TlsAcceptor::from(Arc::new(strict)) })
    }

    fn of(&self, least: TlsVersion) -> &TlsAcceptor {
        match least {
            TlsVersion::Tls12 => &self.both,
            TlsVersion::Tls13 => &self.strict,
        }
    }
}

/// What became of a connection.
enum Opened {
    Connection(Box<Connection>),
    /// The handshake was all that was wanted.
    Proof,
    /// There was no handshake in time.
    Failed,
}

/// Whether a door speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    Https,
    Http,
}

/// Finds the certificate in the snapshot in force at the moment of the handshake.
#[derive(Debug)]
struct FromSnapshot(Arc<Edge>);

impl ResolvesServerCert for FromSnapshot {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let snapshot = self.0.snapshot()?;
        if challenge::is_asked(&hello) {
            return snapshot.answers.tls(hello.server_name()?);
        }
        snapshot.certificate(hello.server_name())
    }
}

fn tls_config(
    edge: &Arc<Edge>,
    asks: Option<&Arc<Asks>>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<ServerConfig, rustls::Error> {
    let builder =
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider())).with_protocol_versions(versions)?;
    let builder = match asks {
        Some(asks) => builder.with_client_cert_verifier(Arc::<Asks>::clone(asks)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(FromSnapshot(Arc::clone(edge))));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), challenge::ALPN.to_vec()];
    config.ticketer = ring::Ticketer::new()?;
    Ok(config)
}

impl Doors {
    /// **Errors**: the TLS library refuses its own defaults.
    pub(crate) fn new(edge: Arc<Edge>, proxy: Arc<HttpProxy<Proxy>>) -> Result<Self, rustls::Error> {
        let acceptors = Acceptors::new(&edge, None)?;
        Ok(Self {
            edge,
            proxy,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            acceptors,
            asking: Mutex::new(None),
            crowd: Crowd::default(),
        })
    }

    /// Accepts until the shutdown signal.
    pub(crate) async fn accept(self: Arc<Self>, listener: TcpListener, door: Door, mut shutdown: ShutdownWatch) {
        loop {
            let accepted = tokio::select! {
                accepted = self.next(&listener) => accepted,
                _ = shutdown.wait_for(|is_down| *is_down) => return,
            };
            let Some((socket, peer, place)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // Before TLS: whoever may not come costs a look at a list and no cryptography.
            if !self.edge.admits(peer.ip()) {
                self.edge.metrics.connections_refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            tokio::spawn(Arc::clone(&self).serve(socket, peer, door, shutdown.clone(), place));
        }
    }

    async fn next(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let (socket, peer) = listener.accept().await.ok()?;
        Some((socket, peer, place))
    }

    async fn serve(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        door: Door,
        shutdown: ShutdownWatch,
        _place: OwnedSemaphorePermit,
    ) {
        let metrics = &self.edge.metrics;
        let rules = self.edge.doors();
        let Some(_one_of_its_own) = self.crowd.enter(peer.ip(), rules.per_ip) else {
            metrics.connections_refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        metrics.connections_total.fetch_add(1, Ordering::Relaxed);
        metrics.connections.fetch_add(1, Ordering::Relaxed);
        let _open = Open(&self.edge);
        // Small answers must not wait for the client's delayed ACK.
        socket.set_nodelay(true).ok();
        let connection = match Box::pin(self.open(socket, peer, door, rules)).await {
            Opened::Connection(connection) => connection,
            Opened::Proof => return,
            Opened::Failed => {
                metrics.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        if connection.is_http2() {
            connection.phase().expect_preface();
            Box::pin(self.proxy.process_new(connection, &shutdown)).await;
        } else {
            self.serve_http1(connection, shutdown).await;
        }
    }

    async fn open(&self, socket: TcpStream, peer: SocketAddr, door: Door, rules: DoorRules) -> Opened {
        let head_until = Instant::now() + HEAD_DEADLINE;
        let connection = match door {
            Door::Http => Connection::plain(socket, peer, head_until),
            Door::Https => {
                let Some((acceptor, is_asked)) = self.acceptor(rules) else { return Opened::Failed };
                let shaken = tokio::time::timeout_at(head_until, acceptor.accept(socket)).await;
                let Ok(Ok(stream)) = shaken else { return Opened::Failed };
                if stream.get_ref().1.alpn_protocol() == Some(challenge::ALPN) {
                    return Opened::Proof;
                }
                let mut connection = Connection::tls(stream, peer, head_until);
                if is_asked {
                    connection.was_asked();
                }
                connection
            }
        };
        Opened::Connection(Box::new(connection))
    }

    /// The acceptor for the policy in force, and whether it asks for certificates. `None`: there should be one that asks,
    /// and it cannot be made.
    fn acceptor(&self, rules: DoorRules) -> Option<(TlsAcceptor, bool)> {
        let Some(authorities) = self.edge.snapshot().and_then(|snapshot| snapshot.clients.clone()) else {
            return Some((self.acceptors.of(rules.least_tls).clone(), false));
        };
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let known = asking.take().filter(|(of, _)| of.is_like(&authorities));
        let acceptors = match known {
            Some((_, acceptors)) => acceptors,
            None => Acceptors::new(&self.edge, Some(&authorities.asks())).ok()?,
        };
        let (_, acceptors) = asking.insert((authorities, acceptors));
        Some((acceptors.of(rules.least_tls).clone(), true))
    }

    /// Pingora's own loop over requests, with the phase set between them. A connection that waits for its next request
    /// has neither a session nor its buffers: ten thousand of them are usual.
    async fn serve_http1(&self, mut connection: Box<Connection>, mut shutdown: ShutdownWatch) {
        let mut settings = None;
        loop {
            let is_awake = tokio::select! {
                biased;
                is_awake = timeout(KEEPALIVE, connection.wake()) => matches!(is_awake, Ok(Ok(true))),
                _ = shutdown.wait_for(|is_down| *is_down) => return,
            };
            if !is_awake {
                return;
            }
            match Box::pin(self.serve_one(connection, settings, &shutdown)).await {
                Some(reused) => (connection, settings) = reused,
                None => return,
            }
            connection.phase().expect_head();
        }
    }

    /// One request; gives the connection back if it may be used again.
    async fn serve_one(
        &self,
        connection: Box<Connection>,
        settings: Option<HttpPersistentSettings>,
        shutdown: &ShutdownWatch,
    ) -> Option<(Box<Connection>, Option<HttpPersistentSettings>)> {
        let mut session = ServerSession::new_http1(connection);
        match settings {
            Some(settings) => settings.apply_to_session(&mut session),
            None => session.set_keepalive((!*shutdown.borrow()).then_some(KEEPALIVE.as_secs())),
        }
        let (stream, settings) = self.proxy.process_new_http(session, shutdown).await?.consume();
        Some((stream.into_any().downcast().ok()?, settings))
    }
}

/// Connections by address, while there is a bound on them: as many entries as connections at most.
#[derive(Debug, Default)]
struct Crowd(Mutex<BTreeMap<Ipv6Addr, u32>>);

impl Crowd {
    /// A place for one more connection of this address. Without a bound nothing is counted.
    fn enter(&self, client: IpAddr, most: Option<u32>) -> Option<Place<'_>> {
        let Some(most) = most else { return Some(Place { of: None }) };
        let network = crate::limit::network(client);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { of: Some((self, network)) })
    }
}

/// A place among the connections of an address, given back when dropped.
#[derive(Debug)]
struct Place<'a> {
    of: Option<(&'a Crowd, Ipv6Addr)>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some((crowd, network)) = self.of else { return };
        let mut counts = crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&network);
            }
        }
    }
}

/// Counts a connection as open until dropped.
struct Open<'a>(&'a Edge);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
