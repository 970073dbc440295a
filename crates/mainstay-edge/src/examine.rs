//! A client of the edge for `mainstay edge test`: sends requests as they are written, also those that no library would
//! send, and sees the certificate without trusting it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_decide::promises::{Answer, Ask};
use mainstay_types::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Time for an answer: a held request waits longer, and then nothing is known of it.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest head of an answer that is read.
const MOST_BYTES: usize = 64 * 1024;

/// The doors of an edge.
#[derive(Clone, Copy, Debug)]
pub struct Doors {
    /// HTTPS.
    pub https: SocketAddr,
    /// HTTP.
    pub http: SocketAddr,
}

/// Sends a request on a connection of its own.
///
/// **Errors**: why there is no answer.
pub async fn ask(doors: Doors, ask: &Ask) -> Result<Answer, String> {
    let mut text = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", ask.method, ask.target, ask.host);
    for (name, value) in &ask.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("User-Agent: mainstay-edge-test\r\nConnection: close\r\n\r\n");
    let whole = async {
        if !ask.is_tls {
            return exchange(connect(doors.http).await?, text.as_bytes()).await;
        }
        // As a browser: the name of the handshake is that of the request.
        let (stream, _) = handshake(doors.https, &ask.host, rustls::DEFAULT_VERSIONS).await?;
        exchange(stream, text.as_bytes()).await
    };
    let late = || format!("none within {} s", ANSWER.as_secs());
    tokio::time::timeout(ANSWER, whole).await.map_err(|_| late())?
}

/// Until when the certificate for a host counts.
///
/// **Errors**: it does not, or there is no handshake.
pub async fn certificate(https: SocketAddr, host: &str, now: Timestamp) -> Result<Timestamp, String> {
    let shaken = tokio::time::timeout(ANSWER, handshake(https, host, rustls::DEFAULT_VERSIONS)).await;
    let (_, leaf) = shaken.map_err(|_| "no handshake in time".to_owned())??;
    crate::own::judge(&leaf, host, now)
}

/// Whether a client that knows nothing newer than TLS 1.2 comes in.
///
/// **Errors**: nobody listens.
pub async fn takes_tls12(https: SocketAddr, host: &str) -> Result<bool, String> {
    connect(https).await?;
    let shaken = tokio::time::timeout(ANSWER, handshake(https, host, &[&rustls::version::TLS12])).await;
    Ok(matches!(shaken, Ok(Ok(_))))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))
}

type Shaken = (tokio_rustls::client::TlsStream<TcpStream>, CertificateDer<'static>);

async fn handshake(
    https: SocketAddr,
    host: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<Shaken, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let seen = Arc::new(Seen {
        leaf: Mutex::new(None),
        algorithms: ring::default_provider().signature_verification_algorithms,
    });
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .map_err(|error| text(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Seen>::clone(&seen))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(|error| text(&error))?;
    let socket = connect(https).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await;
    let stream = stream.map_err(|error| format!("no TLS: {error}"))?;
    let leaf = seen.leaf.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((stream, leaf.ok_or("the edge showed no certificate")?))
}

/// Takes any certificate and remembers it: what it is worth is measured, not trusted, and nothing secret is sent.
#[derive(Debug)]
struct Seen {
    leaf: Mutex<Option<CertificateDer<'static>>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Seen {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.leaf.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Sends a request and reads the head of its answer.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &[u8]) -> Result<Answer, String> {
    // An edge that refuses early may have closed its side by then: its answer is there all the same.
    let written = stream.write_all(request).await;
    stream.flush().await.ok();
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            return parsed(&bytes[..end]).ok_or_else(|| "it is no HTTP".to_owned());
        }
        if bytes.len() > MOST_BYTES {
            return Err("its head has no end".to_owned());
        }
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => {
                return Err(written
                    .err()
                    .map_or_else(|| "the edge closed the connection".to_owned(), |error| error.to_string()));
            }
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

fn parsed(head: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Some(Answer { status, headers: lines.filter_map(header).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_an_answer_is_read_and_nothing_else_is_one() {
        let answer = parsed(b"HTTP/1.1 308 Permanent Redirect\r\nLocation: https://a/\r\nX-A:b").expect("an answer");
        assert_eq!(answer.status, 308);
        let wanted =
            [("location", "https://a/"), ("x-a", "b")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(answer.headers, wanted);
        for text in ["", "HTTP/1.1 x", "SSH-2.0", "HTTP/2 200"] {
            assert_eq!(parsed(text.as_bytes()), None, "{text}");
        }
    }
}
