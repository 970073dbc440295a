//! Clients: TLS with a given name, HTTP/1.1, HTTP/2 and raw bytes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[derive(Clone)]
pub(crate) struct Client {
    edge: SocketAddr,
    roots: Arc<RootCertStore>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (head, body) = response.into_parts();
        Ok(Self { status: head.status.as_u16(), headers: head.headers, body: body.collect().await?.to_bytes() })
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

pub(crate) type Sender1 = http1::SendRequest<Full<Bytes>>;

impl Client {
    pub(crate) fn new(edge: SocketAddr, authority: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).expect("PEM")).expect("authority");
        Self { edge, roots: Arc::new(roots) }
    }

    pub(crate) async fn tls(&self, name: &str, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        self.tls_of(name, alpn, rustls::DEFAULT_VERSIONS).await
    }

    /// With these versions of TLS.
    pub(crate) async fn tls_of(
        &self,
        name: &str,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let socket = TcpStream::connect(self.edge).await?;
        let name = ServerName::try_from(name.to_owned()).expect("name");
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }

    pub(crate) async fn http1(&self) -> Sender1 {
        let stream = self.tls(super::HOST, &["http/1.1"]).await.expect("connects");
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("handshake");
        tokio::spawn(connection.with_upgrades());
        sender
    }

    pub(crate) async fn http2(&self) -> http2::SendRequest<Full<Bytes>> {
        let stream = self.tls(super::HOST, &["h2"]).await.expect("connects");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = handshake.expect("handshake");
        tokio::spawn(connection);
        sender
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let mut sender = self.http1().await;
        Answer::of(sender.send_request(request).await.expect("answer")).await.expect("body")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, "")).await
    }

    /// Sends bytes as they are and reads to the end of the connection.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.tls(super::HOST, &["http/1.1"]).await.expect("connects");
        stream.write_all(bytes).await.expect("writes");
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        // An end without a TLS farewell is an end as well.
        tokio::time::timeout(super::PATIENCE, read).await.expect("ends in time").ok();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

pub(crate) fn request(method: &str, path: &str, body: &str) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(body.to_owned()));
    Request::builder().method(method).uri(path).header("host", super::HOST).body(body).expect("builds")
}
