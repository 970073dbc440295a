//! HTTPS to an authority: one connection a request, bounded in time and size, no redirects, nothing but TLS.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, RETRY_AFTER};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{AcmeError, Heard};

/// Time for one request: an authority that needs longer is asked again later.
const REQUEST: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);
/// Longest answer: chains have some kilobytes.
const MOST_BYTES: usize = 256 * 1024;
/// Asks an authority.
pub(super) struct Https {
    connector: TlsConnector,
    heard: Heard,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0} is no https URL")]
    NoUrl(Uri),
    #[error("no answer of {0} within 30 s")]
    Late(String),
    #[error("no connection to {0}")]
    Connect(String, #[source] std::io::Error),
    #[error("{0} is not who its certificate should say, or does not speak TLS")]
    Tls(String, #[source] std::io::Error),
    #[error("{0} broke off")]
    Http(String, #[source] hyper::Error),
    #[error("the answer of {0} is longer than 256 KiB, or breaks off")]
    Body(String),
}

impl Https {
    /// **Errors**: no certificates of authorities, or none that can be used.
    pub(super) fn new(roots: Option<&Path>, heard: Heard) -> Result<Self, AcmeError> {
        let connector = crate::roots::connector(roots)
            .map_err(|crate::roots::BadRoots { path, reason }| AcmeError::File { path, reason })?;
        Ok(Self { connector, heard })
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (connector, heard) = (self.connector.clone(), Arc::clone(&self.heard));
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let answer = tokio::time::timeout(REQUEST, send(connector, request)).await;
            let answer = answer.map_err(|_| Failed::Late(host)).and_then(|answer| answer);
            let answer = answer.map_err(|error| Error::Other(Box::new(error)))?;
            let pause = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            if !answer.status().is_success() {
                *heard.lock().unwrap_or_else(PoisonError::into_inner) = pause.map(Duration::from_secs);
            }
            Ok(BytesResponse::from(answer))
        })
    }
}

async fn send(
    connector: TlsConnector,
    mut request: Request<BodyWrapper<Bytes>>,
) -> Result<Response<Full<Bytes>>, Failed> {
    let uri = request.uri().clone();
    let (Some("https"), Some(host), Some(authority)) = (uri.scheme_str(), uri.host(), uri.authority()) else {
        return Err(Failed::NoUrl(uri));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let Ok(name) = ServerName::try_from(host.clone()) else { return Err(Failed::NoUrl(uri)) };
    let value = authority.as_str().parse().map_err(|_| Failed::NoUrl(uri.clone()))?;
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))));
    let socket = connected.await.map_err(|_| Failed::Late(host.clone()))?;
    let socket = socket.map_err(|error| Failed::Connect(host.clone(), error))?;
    let stream = connector.connect(name, socket).await.map_err(|error| Failed::Tls(host.clone(), error))?;
    let broke = |error| Failed::Http(host.clone(), error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    // Ends with the answer: nothing else holds the sender.
    tokio::spawn(connection);
    request.headers_mut().insert(HOST, value);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|_| Failed::NoUrl(uri.clone()))?;
    let (parts, body) = sender.send_request(request).await.map_err(broke)?.into_parts();
    let body = Limited::new(body, MOST_BYTES).collect().await.map_err(|_| Failed::Body(host.clone()))?;
    Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
}

#[cfg(test)]
mod tests {
    use rustls::{ClientConfig, RootCertStore};

    use super::*;

    #[tokio::test]
    async fn what_is_not_https_is_not_asked() {
        let connector = || {
            let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            TlsConnector::from(Arc::new(config))
        };
        for uri in ["http://127.0.0.1:1/dir", "/dir", "ftp://127.0.0.1/x"] {
            let request = Request::get(uri).body(BodyWrapper::default()).expect("builds");
            assert!(matches!(send(connector(), request).await, Err(Failed::NoUrl(_))), "{uri}");
        }
    }

    #[test]
    fn a_list_without_an_authority_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "nonsense").expect("writes");
        let error = Https::new(Some(file.path()), Heard::default()).err().expect("refused").to_string();
        assert!(error.contains("no certificate in PEM"), "{error}");
    }
}
