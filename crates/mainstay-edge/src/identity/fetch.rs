//! An issuer's keys from its file or its URL: bounded in time and size, no redirects, and no address in a private
//! network unless the stack file says that it is there.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use mainstay_decide::identity::is_public;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::roots::{self, BadRoots};

/// Longest set of keys. Those of large directories have some 30 KiB, most of it certificates.
const MOST_BYTES: usize = 256 * 1024;
/// Time for all of it: requests may wait for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses of a name that are tried.
const MOST_ADDRESSES: usize = 4;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("{0} cannot be read")]
    File(PathBuf, #[source] std::io::Error),
    #[error("{0} is longer than 256 KiB")]
    LongFile(PathBuf),
    #[error("{0} is no URL of keys")]
    NoUrl(String),
    #[error("no answer of {0} within 10 s")]
    Late(String),
    #[error("{0} has no address")]
    Name(String, #[source] std::io::Error),
    #[error("{host} is {address}, an address of a private network: `jwks = {{ url, private = true }}` allows it")]
    Private { host: String, address: IpAddr },
    #[error("{host} is {address}, an address of the internet, where keys are only asked for over https")]
    Public { host: String, address: IpAddr },
    #[error("no connection to {0}")]
    Connect(String, #[source] std::io::Error),
    #[error("the certificates of authorities in {0} are of no use: {1}")]
    Roots(PathBuf, String),
    #[error("{0} is not who its certificate should say, or does not speak TLS")]
    Tls(String, #[source] std::io::Error),
    #[error("{0} broke off")]
    Http(String, #[source] hyper::Error),
    #[error("{0} answers {1}, which leads elsewhere: nobody follows it; write where the keys are")]
    Elsewhere(String, u16),
    #[error("{0} answers {1}")]
    Status(String, u16),
    #[error("the answer of {0} is longer than 256 KiB, or breaks off")]
    Body(String),
}

/// Where to ask.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) url: String,
    pub(super) roots: Option<PathBuf>,
    pub(super) is_private: bool,
}

/// The bytes of a file. Blocks.
pub(super) fn file(path: &Path) -> Result<Vec<u8>, Failed> {
    let failed = |error| Failed::File(path.to_owned(), error);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MOST_BYTES { Err(Failed::LongFile(path.to_owned())) } else { Ok(bytes) }
}

/// The bytes behind a URL.
pub(super) async fn url(place: &Place) -> Result<Vec<u8>, Failed> {
    let uri: Uri = place.url.parse().map_err(|_| Failed::NoUrl(place.url.clone()))?;
    let Some(host) = uri.host().map(|host| host.trim_matches(['[', ']']).to_owned()) else {
        return Err(Failed::NoUrl(place.url.clone()));
    };
    match tokio::time::timeout(PATIENCE, ask(place, &uri, &host)).await {
        Ok(answer) => answer,
        Err(_) => Err(Failed::Late(host)),
    }
}

async fn ask(place: &Place, uri: &Uri, host: &str) -> Result<Vec<u8>, Failed> {
    let is_tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") if place.is_private => false,
        _ => return Err(Failed::NoUrl(place.url.clone())),
    };
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<SocketAddr> = found.map_err(|error| Failed::Name(host.to_owned(), error))?.collect();
    let stream = connect(place, is_tls, host, &found).await?;
    if !is_tls {
        return get(stream, uri, host).await;
    }
    let roots = place.roots.clone();
    let connector = tokio::task::spawn_blocking(move || roots::connector(roots.as_deref())).await;
    let connector = connector
        .map_err(|error| Failed::Connect(host.to_owned(), std::io::Error::other(error)))?
        .map_err(|BadRoots { path, reason }| Failed::Roots(path, reason))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Failed::NoUrl(place.url.clone()))?;
    let stream = connector.connect(name, stream).await.map_err(|error| Failed::Tls(host.to_owned(), error))?;
    get(stream, uri, host).await
}

/// A connection to one of the addresses, each of which has been looked at: a name may lead anywhere, and at the next
/// look elsewhere.
async fn connect(place: &Place, is_tls: bool, host: &str, found: &[SocketAddr]) -> Result<TcpStream, Failed> {
    let mut last = None;
    for address in found.iter().take(MOST_ADDRESSES) {
        let ip = address.ip();
        match (is_public(ip), place.is_private) {
            (false, false) => return Err(Failed::Private { host: host.to_owned(), address: ip }),
            (true, _) if !is_tls => return Err(Failed::Public { host: host.to_owned(), address: ip }),
            _ => {}
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    let none = || std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    Err(Failed::Connect(host.to_owned(), last.unwrap_or_else(none)))
}

async fn get<S>(stream: S, uri: &Uri, host: &str) -> Result<Vec<u8>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broke = |error| Failed::Http(host.to_owned(), error);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    // Ends with the answer: nothing else holds the sender.
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let no_url = || Failed::NoUrl(uri.to_string());
    let authority = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let request = Request::get(path)
        .header(HOST, authority.ok_or_else(no_url)?)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, concat!("mainstay/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| no_url())?;
    let answer = sender.send_request(request).await.map_err(broke)?;
    match answer.status().as_u16() {
        200 => {}
        status @ 300..=399 => return Err(Failed::Elsewhere(host.to_owned(), status)),
        status => return Err(Failed::Status(host.to_owned(), status)),
    }
    let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
    Ok(body.map_err(|_| Failed::Body(host.to_owned()))?.to_bytes().to_vec())
}
