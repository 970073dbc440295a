//! HTTP probes through the edge: keep-alive clients over TLS, as browsers are.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::history::{End, History, Operation};

/// Clients at once.
pub(crate) const CLIENTS: u32 = 4;
/// Pause of a client between two requests.
const PACE: Duration = Duration::from_millis(5);
/// Pause of one of many clients.
const CROWD_PACE: Duration = Duration::from_millis(100);
/// How a client calls itself.
pub(crate) const NAME: &str = "mainstay-drill";
/// Pause of a client that connects anew for each request: a handshake costs both sides some milliseconds.
const FRESH_PACE: Duration = Duration::from_millis(15);
/// Time for one request.
const REQUEST: Duration = Duration::from_secs(40);
/// Pause after a refusal by a limit: the drill is not to test the limit.
const LIMITED: Duration = Duration::from_millis(500);
/// Pause before a client that could not connect tries again.
const RECONNECT: Duration = Duration::from_millis(10);

/// What is asked of the edge.
#[derive(Clone)]
pub(crate) struct Probe {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) history: History,
    /// More clients, each with a name of its own: the edge leads them to the sides of a canary one by one.
    pub(crate) crowd: u32,
    /// What it calls itself.
    pub(crate) name: String,
    /// A positive control: ports of instances, which are asked without TLS in place of the edge. None: the edge is.
    pub(crate) past: Vec<u16>,
}

/// Trusts the stack's own CA and nobody else.
///
/// **Errors**: the file cannot be read or holds no certificate.
pub(crate) fn trust(ca: &std::path::Path) -> io::Result<Arc<ClientConfig>> {
    let invalid = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| invalid(&error))? {
        roots.add(certificate.map_err(|error| invalid(&error))?).map_err(|error| invalid(&error))?;
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// A connection and when it was opened.
pub(crate) type Open = (SendRequest<Empty<Bytes>>, Instant);

/// How a request failed: its end, the text for the report, when its connection was opened. Without an end it says
/// nothing about the stack, and does not count.
pub(crate) struct Failure(Option<End>, pub(crate) String, Instant);

impl Probe {
    /// Starts the clients, and `fresh` more that connect anew for each request; they end when `stop` says so.
    pub(crate) fn start(&self, fresh: u32, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        let clients = CLIENTS.max(u32::try_from(self.past.len()).unwrap_or(u32::MAX));
        (0..clients + self.crowd + fresh)
            .map(|client| tokio::spawn(self.of_client(client).run(client, stop.clone())))
            .collect()
    }

    /// What its clients do, for people.
    pub(crate) fn text(&self) -> String {
        match self.past.len() {
            0 if self.crowd > 0 => {
                let (crowd, path) = (self.crowd, &self.path);
                format!("{CLIENTS} clients and {crowd} with names of their own GET {path} through the edge")
            }
            0 => format!("{CLIENTS} clients GET {} through the edge", self.path),
            many => format!("clients GET {} of {many} instances, past the edge", self.path),
        }
    }

    /// Past the edge each client has an instance of its own, and none is left out.
    fn of_client(&self, client: u32) -> Self {
        let index = usize::try_from(client).unwrap_or(0).checked_rem(self.past.len());
        let past = index.and_then(|index| self.past.get(index)).copied();
        let is_one_of_many = (CLIENTS..CLIENTS + self.crowd).contains(&client);
        let name = if is_one_of_many { format!("{NAME}/{client}") } else { self.name.clone() };
        Self { port: past.unwrap_or(self.port), name, ..self.clone() }
    }

    async fn run(self, client: u32, stop: watch::Receiver<bool>) {
        let is_fresh = client >= CLIENTS + self.crowd;
        let mut open: Option<Open> = None;
        let mut number = 0;
        while !*stop.borrow() {
            number += 1;
            let began = Instant::now();
            let (end, opened) = match tokio::time::timeout(REQUEST, self.request(open.take())).await {
                Ok(Ok((sender, opened))) => {
                    open = (!is_fresh).then_some((sender, opened));
                    (End::Ok, opened)
                }
                Ok(Err(Failure(end, text, opened))) => {
                    self.history.error(&text);
                    let Some(end) = end else {
                        tokio::time::sleep(LIMITED).await;
                        continue;
                    };
                    (end, opened)
                }
                Err(_) => {
                    self.history.error("no answer within 40 s");
                    (End::Failed, began)
                }
            };
            self.history.add(Operation { client, number, opened, began, ended: Instant::now(), end });
            let pace = match client {
                _ if is_fresh => FRESH_PACE,
                0..CLIENTS => PACE,
                _ => CROWD_PACE,
            };
            tokio::time::sleep(if end == End::Ok { pace } else { RECONNECT }).await;
        }
    }

    /// A connection that can be used: the one that is open, or a new one. With an error nothing was asked.
    pub(crate) async fn ready(&self, open: Option<Open>) -> Result<Open, Failure> {
        // An idle connection that the server closed is not a failed request: clients open another.
        let reusable = match open {
            Some((mut sender, opened)) => sender.ready().await.is_ok().then_some((sender, opened)),
            None => None,
        };
        match reusable {
            Some(open) => Ok(open),
            None => self.connect().await,
        }
    }

    /// A request to the edge without what is particular to one.
    pub(crate) fn begin(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("{}:{}", self.host, self.port))
            .header("user-agent", &self.name)
    }

    async fn request(&self, open: Option<Open>) -> Result<Open, Failure> {
        let (mut sender, opened) = self.ready(open).await?;
        let failed =
            |end, what: &str, error: &dyn std::fmt::Display| Failure(Some(end), format!("{what}: {error}"), opened);
        let request =
            self.begin("GET", &self.path).body(Empty::new()).map_err(|error| failed(End::Failed, "request", &error))?;
        let response = sender.send_request(request).await.map_err(|error| failed(End::Failed, "request", &error))?;
        let status = response.status();
        if status.is_server_error() {
            return Err(Failure(Some(End::Failed), format!("status {}", status.as_u16()), opened));
        }
        if status == hyper::StatusCode::TOO_MANY_REQUESTS {
            // An answer, and no instance had a part in it: neither a success nor a failure of what is tested.
            return Err(Failure(None, "status 429: a limit refuses the drill, not counted".to_owned(), opened));
        }
        let body = response.into_body().collect().await;
        body.map_err(|error| failed(End::Truncated, "answer broke off", &error))?;
        Ok((sender, opened))
    }

    async fn connect(&self) -> Result<Open, Failure> {
        // Before, not after: one that was accepted before a fault may be looked at here only after it.
        let opened = Instant::now();
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await;
        let stream = stream.map_err(|error| {
            let end = if error.kind() == io::ErrorKind::ConnectionRefused { End::Refused } else { End::Failed };
            Failure(Some(end), format!("connect: {error}"), opened)
        })?;
        let sender = self.shake_hands(stream).await;
        let sender = sender.map_err(|error| Failure(Some(End::Failed), format!("handshake: {error}"), opened))?;
        Ok((sender, opened))
    }

    async fn shake_hands(&self, stream: TcpStream) -> io::Result<SendRequest<Empty<Bytes>>> {
        stream.set_nodelay(true)?;
        if !self.past.is_empty() {
            return spoken(stream).await;
        }
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        spoken(tls).await
    }
}

/// HTTP on a connection.
async fn spoken(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> io::Result<SendRequest<Empty<Bytes>>> {
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Its end is seen by the sender's next use.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests on a connection that an edge had accepted before it was killed counted as opened after the crash.
    #[tokio::test]
    async fn a_connection_is_as_old_as_the_moment_before_it_was_asked_for() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let (host, path) = ("localhost".to_owned(), "/".to_owned());
        let (tls, history, past) = (Arc::new(tls), History::default(), Vec::new());
        let probe = Probe { host, port, path, tls, history, crowd: 0, name: NAME.to_owned(), past };
        let asked = Instant::now();
        let mut connecting = std::pin::pin!(probe.connect());
        tokio::select! {
            biased;
            _ = &mut connecting => panic!("nobody has shaken hands"),
            () = std::future::ready(()) => {}
        }
        // The kernel has accepted it; its client has no time to see that before the server is gone.
        std::thread::sleep(Duration::from_millis(1500));
        drop(listener);
        let Err(Failure(end, _, opened)) = connecting.await else { panic!("nobody has shaken hands") };
        assert_eq!(end, Some(End::Failed));
        assert!(opened - asked < Duration::from_secs(1), "{:?}", opened - asked);
    }
}
