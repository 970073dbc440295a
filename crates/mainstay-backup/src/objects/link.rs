//! Connections to the store's server: HTTP/1.1, by TLS or plain, kept open between requests. No other address is
//! ever spoken to: no proxy, no redirect.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mainstay_types::Endpoint;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Time to a connection, with its handshake.
const CONNECT: Duration = Duration::from_secs(15);
/// A server from which nothing comes and to which nothing goes for so long is not there.
pub(super) const STILL: Duration = Duration::from_secs(60);
/// A kept connection is ready at once, or not at all.
const READY: Duration = Duration::from_millis(200);
/// What is read of a file at a time.
const PIECE: usize = 1 << 18;
/// Where systems keep the certificates that they trust.
const TRUSTED: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// What is sent with a request.
pub(super) type Sent = UnsyncBoxBody<Bytes, io::Error>;

/// The server.
pub(super) struct Link {
    endpoint: Endpoint,
    tls: Option<TlsConnector>,
    idle: Mutex<Vec<SendRequest<Sent>>>,
}

impl Link {
    /// **Errors**: the certificates to trust cannot be read.
    pub(super) fn new(endpoint: Endpoint, ca: Option<&Path>) -> io::Result<Self> {
        let tls = endpoint.is_tls().then(|| trust(ca)).transpose()?;
        Ok(Self { endpoint, tls, idle: Mutex::default() })
    }

    /// Sends a request and waits for the head of its answer. `moved` counts what went of the body. The connection is
    /// for [`Self::keep`], when the answer was read to its end.
    pub(super) async fn send(
        &self,
        request: Request<Sent>,
        moved: &AtomicU64,
    ) -> io::Result<(Response<Incoming>, SendRequest<Sent>)> {
        let mut sender = self.sender().await?;
        let answer = patient(sender.send_request(request), moved).await?;
        let answer = answer.map_err(|error| io::Error::other(mainstay_types::full_text(&error)))?;
        Ok((answer, sender))
    }

    /// For the next request.
    pub(super) fn keep(&self, sender: SendRequest<Sent>) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    }

    /// One that is open still, or a new one.
    async fn sender(&self) -> io::Result<SendRequest<Sent>> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut kept) = kept else { break };
            if matches!(tokio::time::timeout(READY, kept.ready()).await, Ok(Ok(()))) {
                return Ok(kept);
            }
        }
        let opening = tokio::time::timeout(CONNECT, self.open()).await;
        opening.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no connection within 15 s"))?
    }

    async fn open(&self) -> io::Result<SendRequest<Sent>> {
        let stream = TcpStream::connect((self.endpoint.host(), self.endpoint.port())).await?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return shake_hands(TokioIo::new(stream)).await };
        let name = ServerName::try_from(self.endpoint.host().to_owned()).map_err(io::Error::other)?;
        shake_hands(TokioIo::new(tls.connect(name, stream).await?)).await
    }
}

async fn shake_hands<S>(stream: TokioIo<S>) -> io::Result<SendRequest<Sent>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(io::Error::other)?;
    // Its end is seen by the sender's next use.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

/// Waits for as long as something moves.
pub(super) async fn patient<T>(work: impl Future<Output = T>, moved: &AtomicU64) -> io::Result<T> {
    let mut work = pin!(work);
    loop {
        let before = moved.load(Ordering::Relaxed);
        if let Ok(done) = tokio::time::timeout(STILL, &mut work).await {
            return Ok(done);
        }
        if moved.load(Ordering::Relaxed) == before {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved for 60 s"));
        }
    }
}

fn trust(ca: Option<&Path>) -> io::Result<TlsConnector> {
    let invalid = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let of_system = TRUSTED.iter().map(PathBuf::from).find(|path| path.exists());
    let file = ca.map(Path::to_owned).or(named).or(of_system).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "the system has no file of trusted certificates: install ca-certificates",
        )
    })?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(&file)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", file.display())))?;
    for certificate in certificates {
        let added = certificate.map_err(|error| invalid(&error)).map(|one| roots.add(one));
        // One that is odd among the system's is nobody's trouble; in a file of one's own it is.
        if let (Ok(Err(error)), true) = (&added, ca.is_some()) {
            return Err(invalid(error));
        }
        added?.ok();
    }
    if roots.is_empty() {
        return Err(invalid(&format!("{} holds no certificate", file.display())));
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A file on its way. Its last piece goes only when all of it has the hash that was promised, so that a damaged file
/// never becomes an object.
pub(super) struct Pieces {
    file: std::fs::File,
    left: u64,
    hash: Sha256,
    wanted: String,
    moved: Arc<AtomicU64>,
}

impl Pieces {
    pub(super) fn new(file: std::fs::File, bytes: u64, wanted: &str, moved: Arc<AtomicU64>) -> Self {
        Self { file, left: bytes, hash: Sha256::new(), wanted: wanted.to_owned(), moved }
    }

    fn read(&mut self) -> io::Result<Bytes> {
        let length = usize::try_from(self.left).unwrap_or(PIECE).min(PIECE);
        let mut piece = vec![0; length];
        // From a disk, on a thread that does nothing else: it may wait.
        self.file.read_exact(&mut piece)?;
        self.left -= length as u64;
        self.hash.update(&piece);
        if self.left == 0 && crate::hex(&std::mem::take(&mut self.hash).finalize()) != self.wanted {
            return Err(io::Error::new(io::ErrorKind::InvalidData, DAMAGED));
        }
        self.moved.fetch_add(length as u64, Ordering::Relaxed);
        Ok(piece.into())
    }
}

/// A content in memory on its way, piece by piece, so that it is seen to move.
pub(super) struct Parts {
    parts: VecDeque<Bytes>,
    left: u64,
    moved: Arc<AtomicU64>,
}

impl Parts {
    pub(super) fn new(parts: Vec<Bytes>, moved: Arc<AtomicU64>) -> Self {
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts: parts.into(), left, moved }
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(mut part) = self.parts.pop_front() else { return Poll::Ready(None) };
        let piece = part.split_to(part.len().min(PIECE));
        if !part.is_empty() {
            self.parts.push_front(part);
        }
        self.left -= piece.len() as u64;
        self.moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// What is said of a file that is not what it was.
pub(super) const DAMAGED: &str = "the file does not have the hash that it should have";

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(self.read().map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
