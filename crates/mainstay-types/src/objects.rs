//! Where objects lie: a bucket and a prefix of an object store, and the server that has it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest prefix: keys have 1024 bytes at most, and the longest name below it some 200.
const LONGEST_PREFIX: usize = 512;

/// Why a text names no place in an object store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectAddressError {
    /// Not of this form.
    #[error("it is written s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX")]
    Form,
    /// The bucket's name.
    #[error("\"{0}\" is no name of a bucket: 3 to 63 of a-z, 0-9, - and .")]
    Bucket(String),
    /// The prefix.
    #[error("\"{0}\" is no prefix: parts of letters, digits, - _ . = and +, with / between them")]
    Prefix(String),
}

/// How a store is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// Amazon's S3, and every store that speaks as it does: `s3://`.
    S3,
    /// Google Cloud Storage, by the part of it that speaks S3, with HMAC keys: `gs://`.
    Google,
    /// Azure Blob Storage, with the keys of a storage account: `az://`.
    Azure,
}

impl StoreKind {
    /// Before `://`.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
        }
    }

    /// Variables that tools for such stores read: of who asks, and of the secret.
    pub fn variables(self) -> (&'static str, &'static str) {
        match self {
            Self::S3 => ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            Self::Google => ("GS_ACCESS_KEY_ID", "GS_SECRET_ACCESS_KEY"),
            Self::Azure => ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY"),
        }
    }
}

/// A prefix in a bucket: `s3://BUCKET/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectAddress {
    kind: StoreKind,
    bucket: String,
    prefix: String,
}

impl ObjectAddress {
    /// How its store is spoken to.
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// The bucket; for Azure the container.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The prefix, without a `/` at either end; empty: the whole bucket.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether a text is meant as an address of a store, and not as a folder.
    pub fn is_meant(text: &str) -> bool {
        text.contains("://")
    }
}

impl FromStr for ObjectAddress {
    type Err = ObjectAddressError;

    fn from_str(text: &str) -> Result<Self, ObjectAddressError> {
        let (kind, rest) = text.split_once("://").ok_or(ObjectAddressError::Form)?;
        let kind = match kind {
            "s3" => StoreKind::S3,
            "gs" => StoreKind::Google,
            "az" => StoreKind::Azure,
            _ => return Err(ObjectAddressError::Form),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let has_ends = |text: &str| [text.bytes().next(), text.bytes().last()].iter().all(|b| b.is_some_and(is_end));
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(is_inner) || !has_ends(bucket) {
            return Err(ObjectAddressError::Bucket(bucket.to_owned()));
        }
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_part = |part: &str| {
            !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.=+".contains(&b))
        };
        let is_fine = prefix.is_empty() || (prefix.len() <= LONGEST_PREFIX && prefix.split('/').all(is_part));
        if !is_fine {
            return Err(ObjectAddressError::Prefix(prefix.to_owned()));
        }
        Ok(Self { kind, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

fn is_end(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

impl fmt::Display for ObjectAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "{}://{}{slash}{}", self.kind.scheme(), self.bucket, self.prefix)
    }
}

impl TryFrom<String> for ObjectAddress {
    type Error = ObjectAddressError;

    fn try_from(text: String) -> Result<Self, ObjectAddressError> {
        text.parse()
    }
}

impl From<ObjectAddress> for String {
    fn from(address: ObjectAddress) -> Self {
        address.to_string()
    }
}

/// Why a text names no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is written https://HOST or https://HOST:PORT, or with http:// where nobody listens in between")]
pub struct EndpointError;

/// The server of an object store: `https://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    is_tls: bool,
    host: String,
    port: Option<u16>,
}

impl Endpoint {
    /// The server of a host name, by TLS.
    pub fn of_host(host: String) -> Self {
        Self { is_tls: true, host, port: None }
    }

    /// Whether it is spoken to by TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Its host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.is_tls { 443 } else { 80 })
    }

    /// Host, and the port when it was named: what the header `Host` says.
    pub fn authority(&self) -> String {
        self.port.map_or_else(|| self.host.clone(), |port| format!("{}:{port}", self.host))
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = text.split_once("://").ok_or(EndpointError)?;
        let is_tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(EndpointError),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.split_once(':') {
            None => (rest, None),
            Some((host, port)) => (host, Some(port.parse().map_err(|_| EndpointError)?)),
        };
        let is_host = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        if host.is_empty() || host.len() > 253 || !host.bytes().all(is_host) || port == Some(0) {
            return Err(EndpointError);
        }
        Ok(Self { is_tls, host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_written_alike() {
        for text in ["s3://backups", "s3://my.bucket-1/shop", "s3://abc/a/b=c/d_e.f+g", "gs://abc/a", "az://abc/a"] {
            assert_eq!(text.parse::<ObjectAddress>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
        let address: ObjectAddress = "s3://backups/shop/".parse().expect("an address");
        assert_eq!((address.bucket(), address.prefix()), ("backups", "shop"));
    }

    #[test]
    fn what_is_no_address_says_why() {
        let error = |text: &str| text.parse::<ObjectAddress>().expect_err(text);
        assert_eq!(error("gcs://bucket/x"), ObjectAddressError::Form);
        assert_eq!(error("/srv/backups"), ObjectAddressError::Form);
        assert_eq!(error("https://host/x"), ObjectAddressError::Form);
        for text in ["s3://", "s3://ab", "s3://Upper/x", "s3://user:word@bucket/x", "s3://-ab/x"] {
            assert!(matches!(error(text), ObjectAddressError::Bucket(_)), "{text}");
        }
        for text in ["s3://abc//x", "s3://abc/../x", "s3://abc/a b", "s3://abc/x?y", "s3://abc/ü"] {
            assert!(matches!(error(text), ObjectAddressError::Prefix(_)), "{text}");
        }
    }

    #[test]
    fn an_endpoint_is_a_host_with_or_without_a_port() {
        for text in ["https://s3.example.com", "http://127.0.0.1:9000"] {
            assert_eq!(text.parse::<Endpoint>().map(|endpoint| endpoint.to_string()), Ok(text.to_owned()));
        }
        let endpoint: Endpoint = "http://store".parse().expect("an endpoint");
        assert_eq!((endpoint.port(), endpoint.authority().as_str()), (80, "store"));
        for text in ["store", "ftp://store", "https://", "https://a/b", "https://u:p@a", "https://a:0", "https://a:x"] {
            assert_eq!(text.parse::<Endpoint>(), Err(EndpointError), "{text}");
        }
    }
}
