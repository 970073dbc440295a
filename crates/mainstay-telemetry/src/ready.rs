//! Asks Prometheus and Alertmanager whether they are ready: one small HTTP request with a deadline.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use mainstay_types::{Secret, Seen, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::USER_NAME;

/// Both answer from memory; more than this is not readiness.
const DEADLINE: Duration = Duration::from_secs(2);

/// A status line is shorter; an answer that has none by then is not HTTP.
const STATUS_LINE_MOST: usize = 512;

/// Why a program does not count as ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// Nothing listens, or the connection broke.
    #[error("no answer on 127.0.0.1:{port}")]
    Unreachable {
        /// The port.
        port: u16,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It is there and does not answer in time.
    #[error("no answer on 127.0.0.1:{port} within {} ms", DEADLINE.as_millis())]
    Silent {
        /// The port.
        port: u16,
    },
    /// It answered, and not with 200.
    #[error("/-/ready on 127.0.0.1:{port} answered {status}, expected 200")]
    Answered {
        /// The port.
        port: u16,
        /// HTTP status: 503 while it reads its data, 401 when the password is not its own.
        status: u16,
    },
    /// What listens there does not speak HTTP.
    #[error("what listens on 127.0.0.1:{port} does not speak HTTP")]
    NotHttp {
        /// The port.
        port: u16,
    },
}

/// `GET /-/ready` on `127.0.0.1:port` as [`USER_NAME`], as a fact of `now`: ready; silent, when it does not
/// answer (the caller keeps the first `since`); unknown, when the answer was another.
pub async fn is_ready(port: u16, password: &Secret, now: Timestamp) -> Seen<()> {
    match probe_ready(port, password).await {
        Ok(()) => Seen::Fact { value: (), observed_at: now },
        Err(NotReady::Unreachable { .. } | NotReady::Silent { .. }) => Seen::Silent { since: now },
        Err(NotReady::Answered { .. } | NotReady::NotHttp { .. }) => Seen::Unknown,
    }
}

/// The same with the reason, for `Waiting::Readiness` and for people.
///
/// **Errors**: everything but a 200 within two seconds.
pub async fn probe_ready(port: u16, password: &Secret) -> Result<(), NotReady> {
    let Ok(answer) = tokio::time::timeout(DEADLINE, ask(port, password)).await else {
        return Err(NotReady::Silent { port });
    };
    let head = answer.map_err(|source| NotReady::Unreachable { port, source })?;
    match status(&head) {
        Some(200) => Ok(()),
        Some(status) => Err(NotReady::Answered { port, status }),
        None => Err(NotReady::NotHttp { port }),
    }
}

async fn ask(port: u16, password: &Secret) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{USER_NAME}:{}", password.expose()));
    let request = format!(
        "GET /-/ready HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Basic {credentials}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::with_capacity(STATUS_LINE_MOST);
    while head.len() < STATUS_LINE_MOST && !head.contains(&b'\n') {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|byte| *byte == b'\n').next()?).ok()?;
    let mut parts = line.split_ascii_whitespace();
    parts.next().filter(|version| version.starts_with("HTTP/1."))?;
    parts.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503 Service Unavailable\r\nX: y"), Some(503));
        assert_eq!(status(b"220 mail.example ESMTP\r\n"), None);
        assert_eq!(status(b"\xff\xfe\n"), None);
        assert_eq!(status(b""), None);
    }

    #[tokio::test]
    async fn a_closed_port_is_silence_and_a_stranger_is_unknown() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("address").port();
        let now = Timestamp::from_millis(7);
        let stranger = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            // The request is read first: closing with unread bytes would reset the connection.
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.expect("reads");
            stream.write_all(b"220 not http\r\n").await.expect("writes");
        });
        assert_eq!(is_ready(port, &Secret::new("x"), now).await, Seen::Unknown);
        stranger.await.expect("ends");
        assert_eq!(is_ready(port, &Secret::new("x"), now).await, Seen::Silent { since: now });
    }
}
