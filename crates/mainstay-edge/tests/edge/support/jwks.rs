//! A server of an issuer's keys that answers as a test wants it to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mainstay_edge::ca::local_ca;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

#[derive(Clone)]
pub(crate) enum Answers {
    Text(String),
    /// After half a second.
    Slow(String),
    /// To a place with good keys, which nobody must follow.
    Elsewhere,
    Status(u16),
}

struct State {
    answers: Answers,
    asked: Vec<String>,
}

pub(crate) struct Jwks {
    address: SocketAddr,
    scheme: &'static str,
    host: &'static str,
    state: Arc<Mutex<State>>,
    accept: tokio::task::JoinHandle<()>,
}

impl Jwks {
    pub(crate) async fn start(answers: Answers) -> Self {
        Self::serve(answers, None).await
    }

    /// With a certificate for `localhost` of an authority in this folder.
    pub(crate) async fn start_tls(ca: &Path, answers: Answers) -> Self {
        let made = local_ca(ca, &["localhost".to_owned()], super::now()).expect("certificate").certificate;
        let chain = CertificateDer::pem_slice_iter(made.chain_pem.as_bytes()).map(|one| one.expect("PEM")).collect();
        let key = PrivateKeyDer::from_pem_slice(made.key_pem.expose().as_bytes()).expect("PEM");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("certificate");
        Self::serve(answers, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(answers: Answers, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("address");
        let state = Arc::new(Mutex::new(State { answers, asked: Vec::new() }));
        let (scheme, host) = if tls.is_some() { ("https", "localhost") } else { ("http", "127.0.0.1") };
        let shared = Arc::clone(&state);
        let accept = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (state, tls) = (Arc::clone(&shared), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => connection(socket, state).await,
                        Some(tls) => {
                            if let Ok(socket) = tls.accept(socket).await {
                                connection(socket, state).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, scheme, host, state, accept }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}:{}/keys", self.scheme, self.host, self.address.port())
    }

    pub(crate) fn answer(&self, answers: Answers) {
        self.state.lock().expect("state").answers = answers;
    }

    /// Ends it; the paths that were asked for.
    pub(crate) async fn stop(self) -> Vec<String> {
        self.accept.abort();
        self.accept.await.ok();
        self.state.lock().expect("state").asked.clone()
    }
}

async fn connection(socket: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let answers = {
                let mut state = state.lock().expect("state");
                state.asked.push(request.uri().path().to_owned());
                state.answers.clone()
            };
            Ok::<_, Infallible>(answer(answers).await)
        }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await.ok();
}

async fn answer(answers: Answers) -> Response<Full<Bytes>> {
    let text = |text: String| Response::new(Full::new(Bytes::from(text)));
    match answers {
        Answers::Text(body) => text(body),
        Answers::Slow(body) => {
            tokio::time::sleep(Duration::from_millis(500)).await;
            text(body)
        }
        Answers::Elsewhere => {
            let elsewhere = Response::builder().status(302).header("location", "/others");
            elsewhere.body(Full::default()).expect("builds")
        }
        Answers::Status(status) => Response::builder().status(status).body(Full::default()).expect("builds"),
    }
}
