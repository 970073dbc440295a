//! Certificates that clients show (mutual TLS): who signs them, what a connection has shown, what a route makes of it.
//!
//! A handshake only proves that a client has the key of what it shows; whether that counts is judged by the policy in
//! force when a request comes, so that a certificate of nobody's harms no route that asks for none, and one that no
//! longer counts opens nothing on a connection that was made before.

use std::sync::{Arc, Mutex, PoisonError};

use mainstay_stack::tls::ClientCertificate;
use pingora_proxy::Session;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::strict::Refusal;

/// What the service is told of a client's certificate. Envoy's name and form, which libraries read.
pub(crate) const HEADER: &str = "x-forwarded-client-cert";

const NOT_ASKED: Refusal = (421, "connection was made before certificates were asked for: connect again");
const MISSING: Refusal = (403, "client certificate is required");
const FOREIGN: Refusal = (403, "client certificate is not one that counts here");
const OVER: Refusal = (403, "client certificate is over");

/// Most certificates of authorities that are read.
const MOST_AUTHORITIES: usize = 64;

/// Who signs certificates of clients.
#[derive(Debug)]
pub(crate) struct Authorities {
    /// `None`: nobody, so that no certificate counts.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    count: usize,
    hash: [u8; 32],
}

impl Authorities {
    /// Of certificates in PEM. Of an empty text: nobody.
    ///
    /// **Errors**: why they cannot be used.
    pub(crate) fn new(pem: &str) -> Result<Self, String> {
        let hash = Sha256::digest(pem).into();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("it is not PEM: {error:?}"))?;
            roots.add(certificate).map_err(|error| format!("certificate {} in it: {error}", roots.len() + 1))?;
        }
        if roots.len() > MOST_AUTHORITIES {
            return Err(format!("it has {} certificates, and {MOST_AUTHORITIES} are the most", roots.len()));
        }
        if roots.is_empty() && !pem.is_empty() {
            return Err("it has no certificate".to_owned());
        }
        if roots.is_empty() {
            return Ok(Self { verifier: None, count: 0, hash });
        }
        let count = roots.len();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self { verifier: Some(verifier.map_err(|error| error.to_string())?), count, hash })
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// What asks clients in the handshake.
    pub(crate) fn asks(&self) -> Arc<Asks> {
        let hints = self.verifier.as_ref().map(|of| of.root_hint_subjects().to_vec()).unwrap_or_default();
        Arc::new(Asks { hints, algorithms: ring::default_provider().signature_verification_algorithms })
    }

    /// Whether these are the same.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.hash == other.hash
    }

    fn judge(&self, chain: &[CertificateDer<'static>]) -> Result<Known, Refusal> {
        let (leaf, between) = chain.split_first().ok_or(MISSING)?;
        let verifier = self.verifier.as_ref().ok_or(FOREIGN)?;
        verifier.verify_client_cert(leaf, between, UnixTime::now()).map_err(|error| match error {
            rustls::Error::InvalidCertificate(
                rustls::CertificateError::Expired | rustls::CertificateError::ExpiredContext { .. },
            ) => OVER,
            _ => FOREIGN,
        })?;
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| FOREIGN)?;
        let fingerprint: String = Sha256::digest(leaf).iter().map(|byte| format!("{byte:02x}")).collect();
        let told = format!("Hash={fingerprint};Subject=\"{}\"", quoted(&subject(&certificate)));
        Ok(Known { told, ends: certificate.validity().not_after.timestamp() })
    }
}

/// Asks every client for a certificate and takes any, or none: what it is worth is judged later.
#[derive(Debug)]
pub(crate) struct Asks {
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Asks {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
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

/// A client whose certificate counts.
#[derive(Clone, Debug)]
struct Known {
    /// The value of [`HEADER`].
    told: String,
    /// **Unit**: seconds since 1970.
    ends: i64,
}

/// By which authorities (their hash), and how.
type Judged = ([u8; 32], Result<Known, Refusal>);

/// What the client of a connection has shown when it was asked.
#[derive(Debug)]
pub(crate) struct Shown {
    chain: Vec<CertificateDer<'static>>,
    /// What that was worth, by the authorities that were asked last.
    judged: Mutex<Option<Judged>>,
}

impl Shown {
    pub(crate) fn new(chain: Option<&[CertificateDer<'static>]>) -> Self {
        Self { chain: chain.unwrap_or_default().to_vec(), judged: Mutex::new(None) }
    }

    fn judge(&self, by: &Authorities) -> Result<Known, Refusal> {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let known = judged.take().filter(|(hash, _)| *hash == by.hash);
        let (_, result) = judged.insert(known.unwrap_or_else(|| (by.hash, by.judge(&self.chain))));
        result.clone()
    }
}

/// What the client of a request's connection has shown, if it was asked.
pub(crate) fn shown(session: &Session) -> Option<&Shown> {
    session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

/// What the service is told of who comes, if anything.
///
/// **Errors**: who comes is not let in.
pub(crate) fn admit(
    wanted: ClientCertificate,
    by: Option<&Authorities>,
    shown: Option<&Shown>,
) -> Result<Option<String>, Refusal> {
    // A policy without authorities has no such route; were there one, it is shut.
    let by = by.ok_or(FOREIGN)?;
    let shown = shown.ok_or(NOT_ASKED)?;
    if shown.chain.is_empty() && wanted == ClientCertificate::Optional {
        return Ok(None);
    }
    let known = shown.judge(by)?;
    if known.ends < crate::now().as_micros() / 1_000_000 {
        return Err(OVER);
    }
    Ok(Some(known.told))
}

/// A subject as one line, the most specific part first. **Source**: RFC 4514.
fn subject(certificate: &X509Certificate<'_>) -> String {
    let part = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        let oid = attribute.attr_type().to_id_string();
        let value = attribute.as_str().map(escaped);
        // What is no text is told by its bytes.
        let value = value.unwrap_or_else(|_| {
            attribute.as_slice().iter().fold("#".to_owned(), |text, byte| format!("{text}{byte:02x}"))
        });
        format!("{}={value}", short(&oid))
    };
    let names = certificate.subject().iter_rdn().map(|rdn| rdn.iter().map(part).collect::<Vec<_>>().join("+"));
    let mut names: Vec<String> = names.collect();
    names.reverse();
    names.join(",")
}

fn short(oid: &str) -> &str {
    match oid {
        "2.5.4.3" => "CN",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        other => other,
    }
}

/// A value within a subject: what would end it, and what is no letter of a header, is escaped, so that nobody can write
/// another part into one of his own. **Source**: RFC 4514, section 2.4.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let is_blank_at_edge = byte == b' ' && (at == 0 || at == last);
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' | b'=' => out.extend(['\\', char::from(byte)]),
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if is_blank_at_edge => out.push_str("\\ "),
            0x20..=0x7e => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\{byte:02X}")),
        }
    }
    out
}

/// A text between quotes in the header.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_subject_ends_before_its_end() {
        for (value, wanted) in [
            ("shop", "shop"),
            ("a,O=evil", "a\\,O\\=evil"),
            (" a\"b\\ ", "\\ a\\\"b\\\\\\ "),
            ("#x", "\\#x"),
            ("zwölf\r\n", "zw\\C3\\B6lf\\0D\\0A"),
        ] {
            assert_eq!(escaped(value), wanted);
        }
        assert_eq!(quoted("a\\\"b"), "a\\\\\\\"b");
    }

    #[test]
    fn without_authorities_nobody_is_let_in() {
        let nobody = Authorities::new("").expect("is nobody");
        let shown = Shown::new(None);
        assert_eq!(admit(ClientCertificate::Required, Some(&nobody), Some(&shown)), Err(MISSING));
        assert_eq!(admit(ClientCertificate::Optional, Some(&nobody), Some(&shown)), Ok(None));
        assert_eq!(admit(ClientCertificate::Optional, Some(&nobody), None), Err(NOT_ASKED));
        assert_eq!(admit(ClientCertificate::Optional, None, Some(&shown)), Err(FOREIGN));
        let forged = Shown::new(Some(&[CertificateDer::from(vec![1, 2, 3])]));
        assert_eq!(admit(ClientCertificate::Optional, Some(&nobody), Some(&forged)), Err(FOREIGN));
        for text in ["nonsense", "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n"] {
            assert!(Authorities::new(text).is_err(), "{text}");
        }
    }
}
