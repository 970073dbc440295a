//! An upstream with known behaviour by path.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use mainstay_edge::protocol::Endpoint;
use tokio::net::TcpListener;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

type Body = BoxBody<Bytes, Infallible>;

pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// Requests that reached it, probes not counted.
    pub(crate) hits: Arc<AtomicUsize>,
    accept: tokio::task::JoinHandle<()>,
    connections: Arc<tokio::sync::Mutex<tokio::task::JoinSet<()>>>,
}

impl Backend {
    pub(crate) async fn start(name: &str) -> Self {
        Self::start_at(name, "127.0.0.1:0".parse().expect("address")).await
    }

    pub(crate) async fn start_at(name: &str, address: SocketAddr) -> Self {
        let listener = super::eventually("the port", async || TcpListener::bind(address).await.ok()).await;
        let address = listener.local_addr().expect("address");
        let hits = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(tokio::sync::Mutex::new(tokio::task::JoinSet::new()));
        let (counter, set, label) = (Arc::clone(&hits), Arc::clone(&connections), name.to_owned());
        let accept = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (counter, label) = (Arc::clone(&counter), label.clone());
                set.lock().await.spawn(async move {
                    let service = service_fn(move |request| answer(request, label.clone(), Arc::clone(&counter)));
                    let connection =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
                    connection.with_upgrades().await.ok();
                });
            }
        });
        Self { name: name.to_owned(), address, hits, accept, connections }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { id: self.name.clone(), address: self.address.to_string(), is_ready: true, release: 0 }
    }

    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }

    /// As a killed process: the port refuses and all connections end.
    pub(crate) async fn kill(self) -> SocketAddr {
        self.accept.abort();
        self.accept.await.ok();
        self.connections.lock().await.shutdown().await;
        self.address
    }
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// The service's error: the connection ends without an answer.
#[derive(Debug)]
struct NoAnswer;

impl std::fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no answer")
    }
}

impl std::error::Error for NoAnswer {}

async fn answer(request: Request<Incoming>, name: String, hits: Arc<AtomicUsize>) -> Result<Response<Body>, NoAnswer> {
    let path = request.uri().path().to_owned();
    if path == "/health" {
        return Ok(Response::new(full("UP")));
    }
    let nth = hits.fetch_add(1, Ordering::SeqCst);
    match path.as_str() {
        "/api/die" => Err(NoAnswer),
        "/api/die-first" if nth == 0 => {
            request.into_body().collect().await.ok();
            Err(NoAnswer)
        }
        "/api/slow" => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            Ok(Response::new(full(name)))
        }
        "/api/hang" => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok(Response::new(full(name)))
        }
        "/api/headers" | "/open/headers" => {
            let headers: std::collections::BTreeMap<String, Vec<String>> = request
                .headers()
                .keys()
                .map(|key| {
                    let values =
                        request.headers().get_all(key).iter().map(|value| value.to_str().expect("text").to_owned());
                    (key.to_string(), values.collect())
                })
                .collect();
            Ok(Response::new(full(serde_json::to_vec(&headers).expect("JSON"))))
        }
        "/api/echo" => {
            let body = request.into_body().collect().await.map_err(|_| NoAnswer)?.to_bytes();
            Ok(Response::new(full(body)))
        }
        "/api/sse" => {
            let pieces = futures_util::stream::unfold(0, |count| async move {
                if count == 3 {
                    return None;
                }
                if count > 0 {
                    tokio::time::sleep(Duration::from_millis(400)).await;
                }
                Some((Ok(Frame::data(Bytes::from(format!("data: {count}\n\n")))), count + 1))
            });
            let mut response = Response::new(BodyExt::boxed(StreamBody::new(pieces)));
            response.headers_mut().insert("content-type", "text/event-stream".parse().expect("value"));
            Ok(response)
        }
        "/api/ws" => Ok(websocket(request)),
        "/api/hop" => {
            let hop = [("connection", "keep-alive"), ("keep-alive", "timeout=5"), ("proxy-connection", "x")];
            Ok(with_headers(name, &hop))
        }
        "/api/framed" | "/api/framed/hard" => Ok(with_headers(name, &[("x-frame-options", "SAMEORIGIN")])),
        path if path.starts_with("/api/text") => Ok(text(path)),
        "/api/lines" => lines(request).await,
        "/api/target" => Ok(Response::new(full(request.uri().to_string()))),
        "/api/crossing" => Ok(with_headers(name, &[("access-control-allow-origin", "*")])),
        // One of several that answers so, by its name.
        path if path == "/api/broken" || path.strip_prefix("/api/broken/") == Some(name.as_str()) => {
            let mut response = Response::new(full("broken"));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            Ok(response)
        }
        _ => Ok(Response::new(full(name))),
    }
}

/// Text that becomes much smaller.
fn text(path: &str) -> Response<Body> {
    let text = "many words that come again and again, ".repeat(500);
    let mut headers = vec![("content-type", "text/plain"), ("etag", "\"1\""), ("accept-ranges", "bytes")];
    match path {
        "/api/text/cookie" => headers.push(("set-cookie", "session=secret")),
        "/api/text/fixed" => headers.push(("cache-control", "public, No-Transform")),
        _ => {}
    }
    with_headers(text, &headers)
}

/// Three lines, one after the other, once the request is there.
async fn lines(request: Request<Incoming>) -> Result<Response<Body>, NoAnswer> {
    request.into_body().collect().await.map_err(|_| NoAnswer)?;
    let pieces = futures_util::stream::unfold(0, |count| async move {
        if count > 0 {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        (count < 3).then(|| (Ok(Frame::data(Bytes::from(format!("{{\"line\":{count}}}\n")))), count + 1))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(pieces)));
    response.headers_mut().insert("content-type", "application/x-ndjson".parse().expect("value"));
    Ok(response)
}

fn with_headers(text: String, headers: &[(&'static str, &str)]) -> Response<Body> {
    let mut response = Response::new(full(text));
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.parse().expect("value"));
    }
    response
}

fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let key = request.headers().get("sec-websocket-key").expect("key");
    let accept = derive_accept_key(key.as_bytes());
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = TokioIo::new(upgraded.await.expect("upgrades"));
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .body(full(""))
        .expect("builds")
}
