//! A client's connection as Pingora sees it: plain or TLS, with a total deadline and a size limit for request heads.
//!
//! Pingora's own limit on a slow head is per read (60 s each, 1 MiB in all), so a client that sends one byte a
//! minute would keep its place for months. This stream knows whether a head is being read and ends the connection
//! when one is not complete in [`HEAD_DEADLINE`]. It also reads bodies in chunks beside Pingora, which is not strict.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{ALPN, SslDigest};
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use pingora_http::ResponseHeader;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use crate::chunks::{Chunks, Malformed};
use crate::clients::Shown;

/// Time for a whole request head, from its first byte (for the first one: from the accept). Ten seconds are enough
/// for a phone on a bad line and few enough that held places come back.
pub(crate) const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Hard limit on bytes read while a head is not complete. Twice the limit on heads, because the bytes of a body may
/// come with it; heads between the two are answered 431, longer ones end the connection.
const HEAD_READ_LIMIT: usize = 2 * crate::strict::MAX_HEAD_BYTES;

const BETWEEN_REQUESTS: u8 = 0;
const IN_HEAD: u8 = 1;
const PAST_HEAD: u8 = 2;
const IN_PREFACE: u8 = 3;
/// Past a head that promises a body in chunks.
const IN_CHUNKS: u8 = 4;
/// In a body that is none.
const IS_BROKEN: u8 = 5;
/// The end of a head whose lines end as they must; others are refused.
const HEAD_END: &[u8] = b"\r\n\r\n";
/// Length of the HTTP/2 client preface. **Source**: RFC 9113 section 3.4.
const PREFACE_BYTES: usize = 24;

/// Where the connection is within a request; shared by the stream and the loop that serves it.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    state: AtomicU8,
    head_bytes: AtomicUsize,
    body: Mutex<Body>,
}

/// What is known of a body that may come in chunks.
#[derive(Debug, Default)]
struct Body {
    /// What was read last while the head was not complete: its end (or its end's end, and what came before it), and
    /// perhaps the body's beginning.
    last_read: Vec<u8>,
    chunks: Option<Chunks>,
}

impl Phase {
    /// A head may come; its clock starts with the first byte.
    pub(crate) fn expect_head(&self) {
        self.head_bytes.store(0, Ordering::Relaxed);
        self.body().chunks = None;
        self.state.store(BETWEEN_REQUESTS, Ordering::Release);
    }

    /// The head is complete.
    pub(crate) fn head_done(&self) {
        self.body().last_read = Vec::new();
        self.state.store(PAST_HEAD, Ordering::Release);
    }

    /// The head is complete, and a body in chunks follows.
    ///
    /// **Errors**: it does not, by what came with the head.
    pub(crate) fn expect_chunks(&self) -> Result<(), Malformed> {
        let mut body = self.body();
        let last_read = std::mem::take(&mut body.last_read);
        // Pingora's head may have another length: it encodes blanks in targets.
        let end = last_read.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END);
        let mut chunks = Chunks::new();
        let beginning = end.and_then(|end| last_read.get(end + HEAD_END.len()..)).ok_or(Malformed);
        let read = beginning.and_then(|beginning| chunks.read(beginning));
        body.chunks = Some(chunks);
        self.state.store(if read.is_ok() { IN_CHUNKS } else { IS_BROKEN }, Ordering::Release);
        read
    }

    /// Whether a body turned out to be none.
    pub(crate) fn is_broken(&self) -> bool {
        self.state.load(Ordering::Acquire) == IS_BROKEN
    }

    fn body(&self) -> std::sync::MutexGuard<'_, Body> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what came of a body in chunks.
    fn read_chunks(&self, bytes: &[u8]) -> io::Result<()> {
        let read = self.body().chunks.as_mut().map_or(Ok(()), |chunks| chunks.read(bytes));
        read.map_err(|Malformed| {
            self.state.store(IS_BROKEN, Ordering::Release);
            io::Error::new(io::ErrorKind::InvalidData, "body is not in chunks")
        })
    }

    /// HTTP/2: only the preface has the deadline; its heads are frames among others, bounded by `H2Options` and
    /// the idle timeout.
    pub(crate) fn expect_preface(&self) {
        self.state.store(IN_PREFACE, Ordering::Release);
    }

    fn in_head(&self) {
        self.state.store(IN_HEAD, Ordering::Release);
    }
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A client's connection.
pub(crate) struct Connection {
    transport: Transport,
    phase: Arc<Phase>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Read by [`Connection::wake`], for whoever reads next.
    ahead: Option<u8>,
    socket: Arc<SocketDigest>,
    tls: Option<Arc<SslDigest>>,
    alpn: Option<ALPN>,
    /// What its client has shown, when it was asked for a certificate.
    shown: Option<Arc<ProxyDigest>>,
    since: SystemTime,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("socket", &self.socket).finish_non_exhaustive()
    }
}

fn socket_digest(socket: &TcpStream, peer: SocketAddr) -> Arc<SocketDigest> {
    let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
    // Asked now: a peer that is gone by the time of the log line would have no address.
    digest.peer_addr.set(Some(peer.into())).ok();
    Arc::new(digest)
}

impl Connection {
    /// A connection without TLS whose head is due by `head_until`.
    pub(crate) fn plain(socket: TcpStream, peer: SocketAddr, head_until: Instant) -> Self {
        let digest = socket_digest(&socket, peer);
        Self::new(Transport::Plain(socket), digest, None, None, head_until)
    }

    /// A connection after its handshake.
    pub(crate) fn tls(stream: TlsStream<TcpStream>, peer: SocketAddr, head_until: Instant) -> Self {
        let (socket, session) = stream.get_ref();
        let digest = socket_digest(socket, peer);
        let version = match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLS",
        };
        let tls = SslDigest::new("", version, None, None, Vec::new());
        let alpn = if session.alpn_protocol() == Some(b"h2") { ALPN::H2 } else { ALPN::H1 };
        Self::new(Transport::Tls(Box::new(stream)), digest, Some(Arc::new(tls)), Some(alpn), head_until)
    }

    fn new(
        transport: Transport,
        socket: Arc<SocketDigest>,
        tls: Option<Arc<SslDigest>>,
        alpn: Option<ALPN>,
        head_until: Instant,
    ) -> Self {
        let phase = Arc::new(Phase::default());
        phase.in_head();
        let deadline = Some(Box::pin(tokio::time::sleep_until(head_until)));
        let since = SystemTime::now();
        Self { transport, phase, deadline, ahead: None, socket, tls, alpn, shown: None, since }
    }

    /// The client was asked for a certificate in the handshake.
    ///
    /// Pingora hands out what a stream says of a proxy before it, and nothing else of ours, to streams of HTTP/2: there
    /// is no such proxy here.
    pub(crate) fn was_asked(&mut self) {
        let Transport::Tls(stream) = &self.transport else { return };
        let Ok(head) = ResponseHeader::build(200, Some(0)) else { return };
        let shown = Shown::new(stream.get_ref().1.peer_certificates());
        self.shown = Some(Arc::new(ProxyDigest::new(Box::new(head), Some(Box::new(shown)))));
    }

    pub(crate) fn phase(&self) -> Arc<Phase> {
        Arc::clone(&self.phase)
    }

    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.alpn, Some(ALPN::H2))
    }

    /// Waits until a request begins, without a buffer for it. `false`: the client has gone.
    ///
    /// **Errors**: the connection's, or its head is overdue.
    pub(crate) async fn wake(&mut self) -> io::Result<bool> {
        let mut byte = [0];
        let count = self.read(&mut byte).await?;
        self.ahead = byte.first().copied().filter(|_| count > 0);
        Ok(count > 0)
    }

    fn poll_transport(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    /// Whether the head is overdue; arms the clock.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    fn begin_head(&mut self) {
        self.phase.in_head();
        let until = Instant::now() + HEAD_DEADLINE;
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().reset(until),
            None => self.deadline = Some(Box::pin(tokio::time::sleep_until(until))),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(byte) = self.ahead.filter(|_| buf.remaining() > 0) else { return self.poll_looked_at(cx, buf) };
        self.ahead = None;
        buf.put_slice(&[byte]);
        match self.poll_looked_at(cx, buf) {
            Poll::Pending => Poll::Ready(Ok(())),
            read => read,
        }
    }
}

impl Connection {
    /// A read, of which the phase learns.
    fn poll_looked_at(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self;
        let state = this.phase.state.load(Ordering::Acquire);
        if state == PAST_HEAD {
            return this.poll_transport(cx, buf);
        }
        let before = buf.filled().len();
        let read = this.poll_transport(cx, buf);
        let new = buf.filled().get(before..).unwrap_or_default();
        if matches!(state, IN_CHUNKS | IS_BROKEN) {
            // Nothing of a read with a fault in it goes on.
            return match this.phase.read_chunks(new) {
                Ok(()) => read,
                Err(error) => Poll::Ready(Err(error)),
            };
        }
        let count = new.len();
        if count > 0 {
            if state == BETWEEN_REQUESTS {
                this.begin_head();
            }
            let total = this.phase.head_bytes.fetch_add(count, Ordering::Relaxed) + count;
            if state != IN_PREFACE {
                let mut body = this.phase.body();
                let before = body.last_read.len().saturating_sub(HEAD_END.len() - 1);
                body.last_read.drain(..before);
                body.last_read.extend_from_slice(new);
            }
            if state == IN_PREFACE && total >= PREFACE_BYTES {
                this.phase.head_done();
                return read;
            }
            if total > HEAD_READ_LIMIT {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "request head is too long")));
            }
        }
        // Also when bytes came: a drip of single bytes must not outrun the clock.
        let is_head = matches!(this.phase.state.load(Ordering::Acquire), IN_HEAD | IN_PREFACE);
        if is_head && this.poll_deadline(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "request head is overdue")));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        // The peer may be gone already; there is nobody to tell.
        AsyncWriteExt::shutdown(self).await.ok();
    }
}

impl UniqueID for Connection {
    fn id(&self) -> UniqueIDType {
        match &self.transport {
            Transport::Plain(socket) => socket.as_raw_fd(),
            Transport::Tls(stream) => stream.get_ref().0.as_raw_fd(),
        }
    }
}

impl Ssl for Connection {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.tls.clone()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.alpn.clone()
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(TimingDigest { established_ts: self.since, ..TimingDigest::default() })]
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.shown.clone()
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.socket))
    }
}

impl Peek for Connection {}
