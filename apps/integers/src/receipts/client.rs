//! One keep-alive HTTP client, as a program that uses the service would have it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::options::Options;

/// Longer than the router holds a session and the kit waits for it.
const REQUEST: Duration = Duration::from_secs(45);

/// Where the service is.
pub(crate) struct Target {
    host: String,
    port: u16,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// What became of a request for integers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// `first` to `value`.
    Given { first: i64, value: i64 },
    /// The service said, or it is certain, that nothing happened.
    Refused(String),
    /// Nobody said whether it happened.
    Ambiguous(String),
}

impl Target {
    /// **Errors**: a URL or CA that cannot be used.
    pub(crate) fn new(options: &Options) -> anyhow::Result<Self> {
        let (scheme, rest) = options.url.split_once("://").context("--url begins with https:// or http://")?;
        let authority = rest.split('/').next().unwrap_or_default();
        let default = if scheme == "https" { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().context("--url has no usable port")?),
            None => (authority, default),
        };
        let is_local = host == "127.0.0.1" || host == "localhost" || host.ends_with(".localhost");
        if !is_local {
            bail!("--url leads to {host:?}; this client speaks to this machine only (127.0.0.1, *.localhost)");
        }
        let tls = match (scheme, &options.ca) {
            ("http", _) => None,
            ("https", Some(ca)) => Some((trust(ca)?, ServerName::try_from(host.to_owned())?)),
            ("https", None) => bail!("--ca is missing: the certificate of the stack's CA"),
            _ => bail!("--url begins with https:// or http://"),
        };
        Ok(Self { host: host.to_owned(), port, tls })
    }

    async fn connect(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => handshake(stream).await,
            Some((config, name)) => {
                handshake(TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await?).await
            }
        }
    }
}

async fn handshake<S>(stream: S) -> io::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Its end is seen by the sender's next use.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

/// Trusts the stack's own CA and nobody else.
fn trust(ca: &std::path::Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).with_context(|| format!("cannot read {}", ca.display()))? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// One user's client.
pub(crate) struct Client {
    target: Arc<Target>,
    api_key: String,
    open: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    pub(crate) fn new(target: Arc<Target>, api_key: String) -> Self {
        Self { target, api_key, open: None }
    }

    /// Asks for the next `n` integers once.
    pub(crate) async fn next(&mut self, n: i64, key: Option<&str>) -> End {
        let mut sender = match self.sender().await {
            Ok(sender) => sender,
            Err(error) => return End::Refused(format!("no connection: {error}")),
        };
        let path = if n == 1 { "/api/v1/integer/next".to_owned() } else { format!("/api/v1/integer/next?n={n}") };
        let mut request = self.request("POST", &path);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let Ok(request) = request.body(Full::default()) else { return End::Refused("request".to_owned()) };
        match tokio::time::timeout(REQUEST, exchange(&mut sender, request)).await {
            Err(_) => End::Ambiguous("no answer within 45 s".to_owned()),
            Ok(Err(error)) => End::Ambiguous(format!("the connection broke: {error}")),
            Ok(Ok((head, body))) => {
                self.open = Some(sender);
                judge(&head, &body)
            }
        }
    }

    async fn sender(&mut self) -> io::Result<SendRequest<Full<Bytes>>> {
        // An idle connection that the server closed is not a failed request: clients open another.
        if let Some(mut sender) = self.open.take()
            && sender.ready().await.is_ok()
        {
            return Ok(sender);
        }
        self.target.connect().await
    }

    fn request(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("{}:{}", self.target.host, self.target.port))
            .header("x-api-key", &self.api_key)
            .header("accept", "application/json")
            .header("user-agent", "integers-receipts")
    }
}

/// A status means what the interface's document says of it.
fn judge(head: &Response<()>, body: &[u8]) -> End {
    let status = head.status();
    if status == StatusCode::OK {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        return match (value["first"].as_i64(), value["value"].as_i64()) {
            (Some(first), Some(value)) => End::Given { first, value },
            _ => End::Ambiguous("an answer without integers".to_owned()),
        };
    }
    let text = format!("status {}", status.as_u16());
    // 503 with Retry-After: nothing happened. Any other 5xx: nobody knows.
    match status.is_server_error() && !head.headers().contains_key("retry-after") {
        true => End::Ambiguous(text),
        false => End::Refused(text),
    }
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<(Response<()>, Bytes), hyper::Error> {
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok((Response::from_parts(parts, ()), body))
}

async fn ask(target: &Arc<Target>, request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Value)> {
    let mut sender = target.connect().await?;
    let (head, body) = tokio::time::timeout(REQUEST, exchange(&mut sender, request)).await??;
    Ok((head.status(), serde_json::from_slice(&body).unwrap_or_default()))
}

/// Where a counter stands, and its epoch.
pub(crate) async fn position(target: &Arc<Target>, api_key: &str) -> anyhow::Result<(i64, i64)> {
    let client = Client::new(Arc::clone(target), api_key.to_owned());
    let (status, body) = ask(target, client.request("GET", "/api/v1/integer").body(Full::default())?).await?;
    match (status, body["value"].as_i64(), body["epoch"].as_i64()) {
        (StatusCode::OK, Some(value), Some(epoch)) => Ok((value, epoch)),
        _ => bail!("status {}: {body}", status.as_u16()),
    }
}

/// Registers a user of an invented name; its API key.
pub(crate) async fn register(target: &Arc<Target>) -> anyhow::Result<String> {
    let client = Client::new(Arc::clone(target), String::new());
    let name = format!("receipts-{}", mainstay_kit::random::hex(&mainstay_kit::random::bytes::<6>()));
    let body = json!({ "username": name, "password": mainstay_kit::random::token::<16>() }).to_string();
    let request =
        client.request("POST", "/users/create").header("content-type", "application/json").body(Full::from(body))?;
    let (status, body) = ask(target, request).await?;
    match (status, body["apiKey"].as_str()) {
        (StatusCode::CREATED, Some(key)) => Ok(key.to_owned()),
        _ => bail!("status {}: {body}", status.as_u16()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(status: u16, retry_after: bool, body: &str) -> End {
        let mut response = Response::builder().status(status);
        if retry_after {
            response = response.header("retry-after", "1");
        }
        judge(&response.body(()).unwrap(), body.as_bytes())
    }

    #[test]
    fn a_503_says_by_retry_after_whether_anything_happened() {
        assert!(matches!(end(503, true, ""), End::Refused(_)));
        assert!(matches!(end(503, false, ""), End::Ambiguous(_)));
        assert!(matches!(end(502, false, ""), End::Ambiguous(_)));
        assert!(matches!(end(429, true, ""), End::Refused(_)));
    }

    #[test]
    fn reads_the_integers_it_was_given() {
        assert_eq!(end(200, false, r#"{"value":12,"first":10,"n":3,"epoch":1}"#), End::Given { first: 10, value: 12 });
        assert!(matches!(end(200, false, "{}"), End::Ambiguous(_)));
    }
}
