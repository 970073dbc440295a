//! Where the edge's certificate comes from when it is not the local authority.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Let's Encrypt.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Its staging directory: no browser trusts what it signs, and it locks nobody out.
pub const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// Certificates from a public authority, by ACME. **Source**: RFC 8555.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acme {
    /// URL of the authority's directory. Default: Let's Encrypt.
    pub directory: String,
    /// Where the authority writes to. Default: nowhere.
    pub email: Option<String>,
    /// How names are proven. Default: HTTP-01 and TLS-ALPN-01 in turn.
    pub challenge: Option<Challenge>,
    /// Certificates that sign the directory's own, in PEM. Default: those of the system.
    pub roots: Option<PathBuf>,
    /// An account elsewhere that the authority asks for.
    pub external_account: Option<ExternalAccount>,
}

/// How a name is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Challenge {
    /// By a file at port 80. **Source**: RFC 8555, section 8.3.
    #[serde(rename = "http-01")]
    Http01,
    /// In the TLS handshake at port 443. **Source**: RFC 8737.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl Challenge {
    /// As the stack file has it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::TlsAlpn01 => "tls-alpn-01",
        }
    }
}

/// External account binding. **Source**: RFC 8555, section 7.3.4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAccount {
    /// The key's name.
    pub kid: String,
    /// A file with the key, in Base64 for URLs as authorities hand it out.
    pub key_file: PathBuf,
}

/// Whether clients of a route show a certificate of their own (mutual TLS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificate {
    /// Who shows none comes in as well; one that does not count is refused.
    Optional,
    /// Nobody comes in without one that counts.
    Required,
}

impl ClientCertificate {
    /// As the stack file has it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// Whether a public authority could sign for this name: none does for names of one machine or network.
pub fn is_public(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    host.contains('.') && !["localhost", "local", "internal"].contains(&last) && last.parse::<u8>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_machine_or_network_are_not_public() {
        for host in ["shop.example.com", "example.com", "a.b.c.example"] {
            assert!(is_public(host), "{host}");
        }
        for host in ["localhost", "shop.localhost", "printer.local", "db.internal", "shop", "127.0.0.1"] {
            assert!(!is_public(host), "{host}");
        }
    }
}
