//! Whom the edge trusts when it is a client itself: of authorities of certificates and of issuers' keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// Where systems keep the authorities that they trust: Debian and Ubuntu, Fedora, Alpine and others.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A file of certificates that is of no use.
#[derive(Debug)]
pub(crate) struct BadRoots {
    pub(crate) path: PathBuf,
    pub(crate) reason: String,
}

/// What begins TLS with who is signed for by these certificates; by default those that the system trusts.
///
/// **Errors**: no certificates, or none that can be used.
pub(crate) fn connector(roots: Option<&Path>) -> Result<TlsConnector, BadRoots> {
    let found = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
    let Some(path) = roots.or(found) else {
        let reason = "the system has no list of authorities: apt-get install ca-certificates".to_owned();
        return Err(BadRoots { path: SYSTEM_ROOTS[0].into(), reason });
    };
    let wrong = |reason: String| BadRoots { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if store.is_empty() {
        return Err(wrong("it has no certificate in PEM".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| wrong(error.to_string()))?;
    let config = builder.with_root_certificates(store).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
