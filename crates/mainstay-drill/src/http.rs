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
/// Time for one request.
const REQUEST: Duration = Duration::from_secs(40);
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

impl Probe {
    /// Starts the clients; they end when `stop` says so.
    pub(crate) fn start(&self, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        (0..CLIENTS).map(|client| tokio::spawn(self.clone().run(client, stop.clone()))).collect()
    }

    async fn run(self, client: u32, stop: watch::Receiver<bool>) {
        let mut open: Option<SendRequest<Empty<Bytes>>> = None;
        let mut number = 0;
        while !*stop.borrow() {
            number += 1;
            let began = Instant::now();
            let end = match tokio::time::timeout(REQUEST, self.request(&mut open)).await {
                Ok(Ok(())) => End::Ok,
                Ok(Err((end, text))) => {
                    self.history.error(&text);
                    open = None;
                    end
                }
                Err(_) => {
                    self.history.error("no answer within 40 s");
                    open = None;
                    End::Failed
                }
            };
            self.history.add(Operation { client, number, began, ended: Instant::now(), end });
            tokio::time::sleep(if end == End::Ok { PACE } else { RECONNECT }).await;
        }
    }

    async fn request(&self, open: &mut Option<SendRequest<Empty<Bytes>>>) -> Result<(), (End, String)> {
        let failed = |what: &str, error: &dyn std::fmt::Display| (End::Failed, format!("{what}: {error}"));
        // An idle connection that the server closed is not a failed request: clients open another.
        let reusable = match open.take() {
            Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
            None => None,
        };
        let mut sender = match reusable {
            Some(sender) => sender,
            None => self.connect().await.map_err(|error| failed("connect", &error))?,
        };
        let request = Request::get(&self.path)
            .header("host", format!("{}:{}", self.host, self.port))
            .header("user-agent", "mainstay-drill")
            .body(Empty::new())
            .map_err(|error| failed("request", &error))?;
        let response = sender.send_request(request).await.map_err(|error| failed("request", &error))?;
        let status = response.status();
        if status.is_server_error() {
            return Err((End::Failed, format!("status {}", status.as_u16())));
        }
        response.into_body().collect().await.map_err(|error| (End::Truncated, format!("answer broke off: {error}")))?;
        *open = Some(sender);
        Ok(())
    }

    async fn connect(&self) -> io::Result<SendRequest<Empty<Bytes>>> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(io::Error::other)?;
        // Its end is seen by the sender's next use.
        tokio::spawn(async move { connection.await.ok() });
        Ok(sender)
    }
}
