//! Certificates of clients: who is asked, who comes in, what the service is told, and what of it nobody can forge.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mainstay_edge::protocol::Policy;
use mainstay_stack::tls::ClientCertificate;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::backend::Backend;
use crate::support::client::{Answer, request};
use crate::support::{Control, Edge, HOST, route};

/// Somebody who signs certificates of clients.
struct Signer {
    pem: String,
    params: CertificateParams,
    key: KeyPair,
}

impl Signer {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("signs").pem();
        Self { pem, params, key }
    }

    /// A certificate of a client and its key; one that is over when `days` are below 0.
    fn signs(&self, name: &str, days: i64) -> (CertificateDer<'static>, Vec<u8>) {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Partner, Inc.");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::now_utc() - time::Duration::days(30);
        params.not_after = OffsetDateTime::now_utc() + time::Duration::days(days);
        let key = KeyPair::generate().expect("key");
        let issuer = Issuer::from_params(&self.params, &self.key);
        let signed = params.signed_by(&key, &issuer).expect("signs");
        (signed.der().clone(), key.serialize_der())
    }
}

/// A client with or without a certificate; its sessions go on from one connection to the next.
struct Client {
    edge: std::net::SocketAddr,
    connector: TlsConnector,
}

impl Client {
    fn new(edge: &Edge, shows: Option<(CertificateDer<'static>, Vec<u8>)>, alpn: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&edge.certificate.authority).expect("PEM")).expect("authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match shows {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key).expect("key");
                builder.with_client_auth_cert(vec![certificate], key).expect("fits")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Self { edge: edge.https, connector: TlsConnector::from(Arc::new(config)) }
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.edge).await.expect("connects");
        let name = ServerName::try_from(HOST).expect("name");
        self.connector.connect(name, socket).await.expect("shakes hands")
    }

    async fn get(&self, path: &str) -> Answer {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await)).await.expect("handshake");
        tokio::spawn(connection);
        Answer::of(sender.send_request(request("GET", path, "")).await.expect("answer")).await.expect("body")
    }

    async fn http2(&self) -> http2::SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.connect().await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.expect("handshake");
        tokio::spawn(connection);
        sender
    }
}

async fn get2(sender: &mut http2::SendRequest<Full<Bytes>>, path: &str) -> Answer {
    let wanted = Request::get(format!("https://{HOST}{path}")).body(Full::default()).expect("builds");
    Answer::of(sender.send_request(wanted).await.expect("answer")).await.expect("body")
}

/// `/api/*` for clients with a certificate of these authorities; `/open/*` for everybody.
fn policy(edge: &Edge, wanted: ClientCertificate, authorities: &str, generation: u64) -> Policy {
    let mut policy = edge.policy();
    policy.generation.0 = generation;
    policy.routes.push(route("/open/*", "backend"));
    policy.routes[0].client_certificate = Some(wanted);
    policy.client_ca = Some(authorities.to_owned());
    policy.schema = Policy::schema_of(&policy.issuers, policy.client_ca.as_ref());
    policy
}

async fn serving(wanted: ClientCertificate, signer: &Signer) -> (Backend, Edge, Control) {
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    control.accept(&policy(&edge, wanted, &signer.pem, 2)).await;
    (backend, edge, control)
}

fn told(answer: &Answer) -> Option<Vec<String>> {
    let headers: std::collections::BTreeMap<String, Vec<String>> = serde_json::from_str(answer.text()).expect("JSON");
    headers.get("x-forwarded-client-cert").cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_none_that_counts_stays_out_of_that_route_and_of_no_other() {
    let (signer, other) = (Signer::new("partners"), Signer::new("partners"));
    let (backend, edge, _control) = serving(ClientCertificate::Required, &signer).await;
    let refused = [
        ("none", None, "client certificate is required"),
        ("foreign", Some(other.signs("shop", 30)), "client certificate is not one that counts here"),
        ("over", Some(signer.signs("shop", -1)), "client certificate is over"),
    ];
    for (what, shows, reason) in refused {
        for alpn in ["http/1.1", "h2"] {
            let client = Client::new(&edge, shows.clone(), alpn);
            let (answer, open) = if alpn == "h2" {
                let mut sender = client.http2().await;
                (get2(&mut sender, "/api/headers").await, get2(&mut sender, "/open/headers").await)
            } else {
                (client.get("/api/headers").await, client.get("/open/headers").await)
            };
            assert_eq!((answer.status, open.status), (403, 200), "{what} {alpn}");
            assert!(answer.text().contains(reason), "{what} {alpn}: {}", answer.text());
            assert_eq!(told(&open), None, "{what} {alpn}");
        }
    }
    assert_eq!(backend.hits(), 6, "of the refused ones none came through");
    // Nor by another spelling of the guarded route's path.
    let (chain, key) = signer.signs("shop", 30);
    assert_eq!(Client::new(&edge, None, "http/1.1").get("/API/headers").await.status, 404);
    assert_eq!(Client::new(&edge, Some((chain, key)), "http/1.1").get("/api/headers").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_is_told_by_whose_certificate_and_by_nobody_else() {
    let signer = Signer::new("partners");
    let (_backend, edge, _control) = serving(ClientCertificate::Optional, &signer).await;
    let (chain, key) = signer.signs("shop", 30);
    let hash = {
        use sha2::{Digest, Sha256};
        Sha256::digest(&chain).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let wanted = format!("Hash={hash};Subject=\"CN=shop,O=Partner\\\\, Inc.\"");
    let known = Client::new(&edge, Some((chain.clone(), key.clone())), "http/1.1");
    assert_eq!(told(&known.get("/api/headers").await), Some(vec![wanted.clone()]));
    let mut sender = Client::new(&edge, Some((chain, key)), "h2").http2().await;
    assert_eq!(told(&get2(&mut sender, "/api/headers").await), Some(vec![wanted]));
    // A session that goes on is one of the same client.
    let answer = known.get("/api/headers").await;
    assert!(told(&answer).is_some_and(|told| told[0].contains("CN=shop")), "{answer:?}");
    let nobody = Client::new(&edge, None, "http/1.1");
    assert_eq!(told(&nobody.get("/api/headers").await), None);
    for path in ["/api/headers", "/open/headers"] {
        for name in ["x-forwarded-client-cert", "X_Forwarded_Client_Cert"] {
            let mut forged = request("GET", path, "");
            let name = hyper::header::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            forged.headers_mut().insert(name, "Hash=00;Subject=\"CN=evil\"".parse().expect("value"));
            let stream = TokioIo::new(nobody.connect().await);
            let (mut sender, connection) = http1::handshake(stream).await.expect("handshake");
            tokio::spawn(connection);
            let answer = Answer::of(sender.send_request(forged).await.expect("answer")).await.expect("body");
            assert!(!answer.text().contains("evil"), "{path}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_counts_is_judged_by_the_policy_in_force_and_not_by_that_of_the_handshake() {
    let (signer, next) = (Signer::new("partners"), Signer::new("others"));
    let backend = Backend::start("a").await;
    let edge = Edge::start().await;
    let mut control = edge.with(&[backend.endpoint()]).await;
    let (chain, key) = signer.signs("shop", 30);
    let client = Client::new(&edge, Some((chain.clone(), key.clone())), "h2");
    let mut before = client.http2().await;
    assert_eq!(get2(&mut before, "/api/x").await.status, 200);
    control.accept(&policy(&edge, ClientCertificate::Required, &signer.pem, 2)).await;
    // Not asked then: a client that connects again can show one.
    let answer = get2(&mut before, "/api/x").await;
    assert_eq!(answer.status, 421, "{}", answer.text());
    assert_eq!(get2(&mut before, "/open/x").await.status, 200);
    // With the session of that connection: it is no way around being asked.
    let mut asked = client.http2().await;
    assert_eq!(get2(&mut asked, "/api/x").await.status, 200);
    control.accept(&policy(&edge, ClientCertificate::Required, &next.pem, 3)).await;
    assert_eq!(get2(&mut asked, "/api/x").await.status, 403, "its authority no longer counts");
    let both = format!("{}{}", next.pem, signer.pem);
    control.accept(&policy(&edge, ClientCertificate::Required, &both, 4)).await;
    assert_eq!(get2(&mut asked, "/api/x").await.status, 200);
    assert_eq!(get2(&mut client.http2().await, "/api/x").await.status, 200);
    // Nobody: as when the file of the authorities cannot be read.
    control.accept(&policy(&edge, ClientCertificate::Required, "", 5)).await;
    assert_eq!(get2(&mut asked, "/api/x").await.status, 403);
    assert_eq!(get2(&mut client.http2().await, "/api/x").await.status, 403);
    assert_eq!(get2(&mut asked, "/open/x").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_asks_for_certificates_of_nobody_known_changes_nothing() {
    let signer = Signer::new("partners");
    let (_backend, edge, mut control) = serving(ClientCertificate::Required, &signer).await;
    let good = policy(&edge, ClientCertificate::Required, &signer.pem, 3);
    let wrong = [
        ("has no authorities", Policy { client_ca: None, schema: 1, ..good.clone() }),
        ("not usable", Policy { client_ca: Some("nonsense".to_owned()), ..good.clone() }),
        // An edge from before client certificates refuses it for this.
        ("schema 1", Policy { schema: 1, ..good.clone() }),
    ];
    for (expected, policy) in wrong {
        let reason = control.offer(&policy).await.expect_err(expected);
        assert!(reason.contains(expected) && !reason.contains("nonsense"), "{reason}");
        assert_eq!(Client::new(&edge, None, "http/1.1").get("/api/x").await.status, 403);
    }
    assert_eq!(good.schema, 3);
}
