//! What a certificate authority is shown to prove that the edge's names are ours: a text at port 80, or a certificate
//! in a handshake that is for nothing else. The control plane orders and says what to show; the edge asks nobody.
//!
//! **Source**: RFC 8555, section 8.3 (HTTP-01); RFC 8737 (TLS-ALPN-01).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use mainstay_types::Secret;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::ring;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;

use crate::protocol::{Certificate, Challenges};
use crate::snapshot::read_pem;

/// The protocol of a handshake that only proves a name.
pub(crate) const ALPN: &[u8] = b"acme-tls/1";
/// Where the texts are.
const FOLDER: &str = "/.well-known/acme-challenge/";

/// What is shown now.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    http: BTreeMap<String, String>,
    tls: HashMap<String, Arc<CertifiedKey>>,
}

impl Answers {
    /// **Errors**: hosts of a certificate that cannot be used, and why.
    pub(crate) fn new(of: &Challenges) -> Result<Self, (Vec<String>, String)> {
        let mut tls = HashMap::new();
        for certificate in &of.tls {
            let key = Arc::new(key(certificate).map_err(|reason| (certificate.hosts.clone(), reason))?);
            tls.extend(certificate.hosts.iter().map(|host| (host.to_ascii_lowercase(), Arc::clone(&key))));
        }
        Ok(Self { http: of.http.clone(), tls })
    }

    /// The text at a path.
    pub(crate) fn http(&self, path: &str) -> Option<&str> {
        self.http.get(path.strip_prefix(FOLDER)?).map(String::as_str)
    }

    pub(crate) fn tls(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.tls.get(&name.to_ascii_lowercase()).cloned()
    }
}

/// Not compared with its certificate, which has an extension that says that it is for nobody but authorities: the
/// library refuses to read it for that.
fn key(certificate: &Certificate) -> Result<CertifiedKey, String> {
    let (chain, key) = read_pem(certificate)?;
    let key = ring::default_provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(chain, key))
}

/// Whether this handshake only wants a proof: the protocol is offered alone then.
pub(crate) fn is_asked(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(ALPN) && offered.next().is_none())
}

/// The certificate that proves a name in a handshake.
///
/// **Errors**: the library's.
pub(crate) fn certificate(name: &str, digest: &[u8]) -> Result<Certificate, rcgen::Error> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let chain_pem = params.self_signed(&key)?.pem();
    Ok(Certificate { hosts: vec![name.to_owned()], chain_pem, key_pem: Secret::new(key.serialize_pem()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_shown_at_its_own_path_alone() {
        let challenges = Challenges { http: [("token".to_owned(), "token.thumb".to_owned())].into(), tls: Vec::new() };
        let answers = Answers::new(&challenges).expect("usable");
        assert_eq!(answers.http("/.well-known/acme-challenge/token"), Some("token.thumb"));
        for other in ["/", "/token", "/.well-known/acme-challenge/", "/.well-known/acme-challenge/token/", "/api/x"] {
            assert_eq!(answers.http(other), None, "{other}");
        }
        assert_eq!(Answers::default().http("/.well-known/acme-challenge/token"), None);
    }

    #[test]
    fn the_certificate_of_a_proof_is_found_by_its_name_and_says_what_is_proven() {
        let made = certificate("shop.example.com", &[7; 32]).expect("makes");
        let text = made.chain_pem.clone();
        let answers = Answers::new(&Challenges { http: BTreeMap::new(), tls: vec![made] }).expect("usable");
        assert!(answers.tls("Shop.example.com").is_some());
        assert!(answers.tls("example.com").is_none());
        let (_, block) = x509_parser::pem::parse_x509_pem(text.as_bytes()).expect("PEM");
        let parsed = block.parse_x509().expect("parses");
        let oid = |one: &x509_parser::extensions::X509Extension<'_>| one.oid.to_id_string();
        let found = parsed.extensions().iter().find(|one| oid(one) == "1.3.6.1.5.5.7.1.31").expect("the extension");
        assert!(found.critical);
        assert_eq!(found.value, [&[4, 32][..], &[7; 32]].concat());
    }
}
