//! Upstream connections for upgrades, around a race in Pingora 0.9.1.
//!
//! Pingora's upstream half takes "the request's body has ended" for the end of the upgraded connection when it sees
//! it after the 101 (`proxy_handle_upstream` in its `proxy_h1.rs`). Both wait when an upstream answers within
//! microseconds, and the choice between them is random: one in ten WebSockets to a fast local service ended at
//! once. A first read after each write that says "not yet" lets the end of the body win always.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Connects with [`Patient`] sockets.
#[derive(Debug)]
pub(crate) struct Patiently;

#[async_trait]
impl Connect for Patiently {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::InternalError, "upstream address is not TCP");
        };
        let connected = tokio::time::timeout(crate::proxy::CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let socket = match connected {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Error::e_because(ErrorType::ConnectRefused, "upgrade", error);
            }
            Ok(Err(error)) => return Error::e_because(ErrorType::ConnectError, "upgrade", error),
            Err(_) => return Error::e_explain(ErrorType::ConnectTimedout, "upgrade"),
        };
        Ok(Stream::from(VirtualSocketStream::new(Box::new(Patient { socket, has_written: false }))))
    }
}

#[derive(Debug)]
struct Patient {
    socket: TcpStream,
    has_written: bool,
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.has_written) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.has_written = true;
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl VirtualSocket for Patient {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.socket.set_nodelay(true),
            // Both ends are on this machine: a dead one is seen at once.
            _ => Ok(()),
        }
    }
}
