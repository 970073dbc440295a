//! The local certificate authority: makes `https://NAME.localhost` work on one machine.
//!
//! Its key never leaves its folder. It signs for the names it is asked for and for loopback, and its certificate says
//! so by name constraints: whoever steals the key of an authority that a browser trusts can still not pose as a bank.
//! Who wants to be trusted elsewhere needs a public authority.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay_supervisor::durable;
use mainstay_types::{Secret, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

use crate::protocol::Certificate;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Life of a leaf: the longest that browsers take (397 days, CA/Browser Forum ballot SC31).
const LEAF_LIFE: Duration = DAY.saturating_mul(397);
/// Life of the authority: re-trusting it is manual work.
const CA_LIFE: Duration = DAY.saturating_mul(3650);
/// A leaf or authority with less than this left is replaced.
const RENEW_BEFORE: Duration = DAY.saturating_mul(30);
/// Clocks of clients may be behind by this much.
const BACKDATE: Duration = DAY;

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const CA_NOTE: &str = "ca.json";
const LEAF: &str = "leaf.json";

/// A certificate and where its authority is.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalCertificate {
    /// Leaf, chain and key, for the policy.
    pub certificate: Certificate,
    /// The authority's certificate, for `curl --cacert` and trust stores.
    pub authority: PathBuf,
    /// When the leaf ends.
    pub expires: Timestamp,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of the authority.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Keys or certificates.
    #[error("cannot make a certificate for {hosts:?}")]
    Make {
        /// For which names.
        hosts: Vec<String>,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
    /// The clock is outside of what a certificate can say.
    #[error("clock says {now}, which no certificate can carry: set the clock")]
    Clock {
        /// What it says.
        now: Timestamp,
    },
}

#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    /// Its common name: what leaves say of their issuer must be the same for ever.
    name: String,
    expires: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Leaf {
    version: u32,
    authority: String,
    hosts: Vec<String>,
    expires: Timestamp,
    chain_pem: String,
    key_pem: Secret,
}

/// Version of the files here.
const VERSION: u32 = 1;

/// The certificate for `hosts` by the authority in `dir`; both are made when missing and renewed when less than 30
/// days are left.
///
/// **Errors**: the folder cannot be written, or the clock is impossible.
pub fn local_ca(dir: &Path, hosts: &[String], now: Timestamp) -> Result<LocalCertificate, CaError> {
    let file = |path: PathBuf| move |source| CaError::File { path, source };
    std::fs::create_dir_all(dir).map_err(file(dir.to_owned()))?;
    let make = |source| CaError::Make { hosts: hosts.to_vec(), source };
    let Authority { name, pem: authority_pem, key } = authority(dir, hosts, now)?;
    let path = dir.join(LEAF);
    let authority = dir.join(CA_CERTIFICATE);
    if let Some(leaf) = read::<Leaf>(&path)
        && leaf.version == VERSION
        && leaf.authority == authority_pem
        && leaf.hosts == hosts
        && is_fresh(leaf.expires, now)
    {
        let certificate = Certificate { hosts: leaf.hosts, chain_pem: leaf.chain_pem, key_pem: leaf.key_pem };
        return Ok(LocalCertificate { certificate, authority, expires: leaf.expires });
    }
    let params = ca_params(name, hosts, now)?;
    let issuer = Issuer::from_params(&params, &key);
    let expires = now.after(LEAF_LIFE);
    let leaf_key = KeyPair::generate().map_err(make)?;
    let signed = leaf_params(hosts, now, expires)?.signed_by(&leaf_key, &issuer).map_err(make)?;
    let leaf = Leaf {
        version: VERSION,
        authority: authority_pem.clone(),
        hosts: hosts.to_vec(),
        expires,
        chain_pem: format!("{}{authority_pem}", signed.pem()),
        key_pem: Secret::new(leaf_key.serialize_pem()),
    };
    write(&path, &leaf)?;
    let certificate = Certificate { hosts: leaf.hosts, chain_pem: leaf.chain_pem, key_pem: leaf.key_pem };
    Ok(LocalCertificate { certificate, authority, expires })
}

fn is_fresh(expires: Timestamp, now: Timestamp) -> bool {
    // A clock that was set back far makes a leaf that ends "too late": it is not yet valid then, so made again.
    let left = expires.saturating_since(now);
    left >= RENEW_BEFORE && left <= CA_LIFE
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), CaError> {
    let file = |source| CaError::File { path: path.to_owned(), source };
    let bytes = serde_json::to_vec(value).map_err(|error| file(error.into()))?;
    durable::replace(path, &bytes, 0o600).map_err(file)
}

/// What an authority's certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its common name.
    pub name: String,
    /// SHA-256 of the certificate, as browsers show it: `AB:CD:…`.
    pub fingerprint: String,
    /// From when it counts.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Names (with all below them) and networks that it may sign for; `None`: any.
    pub limited_to: Option<Vec<String>>,
}

/// Reads a certificate in PEM; `None` when it is none.
pub fn describe(pem: &[u8]) -> Option<Described> {
    use sha2::{Digest, Sha256};
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let certificate = block.parse_x509().ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let fingerprint: Vec<String> = Sha256::digest(&block.contents).iter().map(|byte| format!("{byte:02X}")).collect();
    let at = |seconds: i64| Timestamp::from_micros(seconds.saturating_mul(1_000_000));
    let validity = certificate.validity();
    let (from, until) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
    let limited_to = match certificate.name_constraints() {
        Ok(found) => found
            .and_then(|found| found.value.permitted_subtrees.as_ref())
            .map(|limits| limits.iter().map(|limit| limit_in_words(&limit.base)).collect()),
        Err(_) => Some(Vec::new()),
    };
    Some(Described { name, fingerprint: fingerprint.join(":"), from, until, limited_to })
}

fn limit_in_words(limit: &GeneralName<'_>) -> String {
    let network = |address: IpAddr, mask: &[u8]| {
        let bits: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
        // A network of one address is written as the address, which is what hosts are compared with.
        if usize::try_from(bits).is_ok_and(|bits| bits == mask.len() * 8) {
            address.to_string()
        } else {
            format!("{address}/{bits}")
        }
    };
    match limit {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => match bytes.split_at(bytes.len() / 2) {
            (address, mask) if address.len() == 4 => {
                <[u8; 4]>::try_from(address).map(|bytes| network(bytes.into(), mask)).unwrap_or_default()
            }
            (address, mask) => {
                <[u8; 16]>::try_from(address).map(|bytes| network(bytes.into(), mask)).unwrap_or_default()
            }
        },
        other => format!("{other:?}"),
    }
}

struct Authority {
    name: String,
    pem: String,
    key: KeyPair,
}

/// The authority's certificate and key; made when missing, unreadable or near its end.
fn authority(dir: &Path, hosts: &[String], now: Timestamp) -> Result<Authority, CaError> {
    let (certificate_path, key_path, note_path) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY), dir.join(CA_NOTE));
    let known = || {
        let note: Note = read(&note_path)?;
        let pem = std::fs::read_to_string(&certificate_path).ok()?;
        let key = KeyPair::from_pem(&std::fs::read_to_string(&key_path).ok()?).ok()?;
        let serves = note.version == VERSION && is_fresh(note.expires, now) && permits(&pem, hosts);
        serves.then_some(Authority { name: note.name, pem, key })
    };
    if let Some(known) = known() {
        return Ok(known);
    }
    let make = |source| CaError::Make { hosts: hosts.to_vec(), source };
    let key = KeyPair::generate().map_err(make)?;
    let name = format!("mainstay local CA {}", hosts.first().map_or("", String::as_str));
    let pem = ca_params(name.clone(), hosts, now)?.self_signed(&key).map_err(make)?.pem();
    let put = |path: &Path, bytes: &[u8], mode| {
        durable::replace(path, bytes, mode).map_err(|source| CaError::File { path: path.to_owned(), source })
    };
    put(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
    put(&certificate_path, pem.as_bytes(), 0o644)?;
    // Last: without it the other two do not count.
    write(&note_path, &Note { version: VERSION, name: name.clone(), expires: now.after(CA_LIFE) })?;
    Ok(Authority { name, pem, key })
}

fn moment(at: Timestamp) -> Result<OffsetDateTime, CaError> {
    let seconds = at.as_micros().div_euclid(1_000_000);
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| CaError::Clock { now: at })
}

fn backdated(now: Timestamp) -> Timestamp {
    Timestamp::from_micros(now.as_micros().saturating_sub(i64::try_from(BACKDATE.as_micros()).unwrap_or(0)))
}

/// Names that every authority here may sign for, with all below them, and addresses: what means this machine.
const LOCAL_NAME: &str = "localhost";

/// The names of the stack and this machine, nothing else.
fn limits(hosts: &[String]) -> NameConstraints {
    let own = hosts.iter().filter(|host| !is_below(host, LOCAL_NAME));
    let mut permitted_subtrees = vec![
        GeneralSubtree::DnsName(LOCAL_NAME.to_owned()),
        GeneralSubtree::IpAddress(CidrSubnet::from_v4_prefix([127, 0, 0, 0], 8)),
        GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(Ipv6Addr::LOCALHOST.octets(), 128)),
    ];
    permitted_subtrees.extend(own.map(|host| match host.parse::<IpAddr>() {
        Ok(address @ IpAddr::V4(_)) => GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, 32)),
        Ok(address @ IpAddr::V6(_)) => GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, 128)),
        Err(_) => GeneralSubtree::DnsName(host.clone()),
    }));
    NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() }
}

/// Whether a name is `base` or one below it. **Source**: RFC 5280, 4.2.1.10.
fn is_below(name: &str, base: &str) -> bool {
    let (name, base) = (name.to_ascii_lowercase(), base.to_ascii_lowercase());
    name.strip_suffix(base.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether an authority with these limits may sign for all of them. One without any was made by an earlier mainstay,
/// and goes on: to replace it would take back the trust that a person gave it.
fn permits(pem: &str, hosts: &[String]) -> bool {
    let Some(Described { limited_to, .. }) = describe(pem.as_bytes()) else { return false };
    limited_to.is_none_or(|limits| hosts.iter().all(|host| limits.iter().any(|limit| is_below(host, limit))))
}

fn ca_params(common_name: String, hosts: &[String], now: Timestamp) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.name_constraints = Some(limits(hosts));
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = moment(backdated(now))?;
    params.not_after = moment(now.after(CA_LIFE))?;
    Ok(params)
}

fn leaf_params(hosts: &[String], now: Timestamp, expires: Timestamp) -> Result<CertificateParams, CaError> {
    let make = |source| CaError::Make { hosts: hosts.to_vec(), source };
    let mut params = CertificateParams::new(hosts.to_vec()).map_err(make)?;
    for address in ["127.0.0.1", "::1"] {
        if let Ok(address) = address.parse() {
            params.subject_alt_names.push(SanType::IpAddress(address));
        }
    }
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, hosts.first().map_or("localhost", String::as_str));
    params.distinguished_name = name;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = moment(backdated(now))?;
    params.not_after = moment(expires)?;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_described_by_what_its_certificate_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let now = Timestamp::from_micros(1_790_000_000_000_000);
        let made = local_ca(folder.path(), &["shop.localhost".to_owned()], now).expect("made");
        let pem = std::fs::read(made.authority).expect("there");
        let described = describe(&pem).expect("a certificate");
        assert_eq!(described.name, "mainstay local CA shop.localhost");
        assert_eq!(described.from, backdated(now));
        assert_eq!(described.until, now.after(CA_LIFE));
        assert_eq!(described.fingerprint.len(), 32 * 3 - 1);
        let limits = ["localhost", "127.0.0.0/8", "::1"].map(str::to_owned);
        assert_eq!(described.limited_to.as_deref(), Some(&limits[..]));
        assert_eq!(describe(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), None);
        assert_eq!(describe(b""), None);
    }

    fn now() -> Timestamp {
        Timestamp::from_micros(1_790_000_000_000_000)
    }

    /// A leaf that somebody with the authority's key signed for `host`, and the authority.
    fn signed(folder: &Path, host: &str) -> (String, String) {
        let authority = authority(folder, &["shop.test".to_owned()], now()).expect("there");
        let issuer_params = ca_params(authority.name, &[], now()).expect("params");
        let issuer = Issuer::from_params(&issuer_params, &authority.key);
        let key = KeyPair::generate().expect("a key");
        let params = leaf_params(&[host.to_owned()], now(), now().after(LEAF_LIFE)).expect("params");
        (params.signed_by(&key, &issuer).expect("signs").pem(), authority.pem)
    }

    fn rustls_accepts(leaf: &str, authority: &str, host: &str) -> bool {
        use rustls::client::danger::ServerCertVerifier as _;
        use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
        let der = |pem: &str| {
            let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
            CertificateDer::from(block.contents)
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(authority)).expect("an authority");
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(std::sync::Arc::new(roots), provider);
        let verifier = verifier.build().expect("a verifier");
        let at = UnixTime::since_unix_epoch(Duration::from_secs(1_790_000_000));
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        verifier.verify_server_cert(&der(leaf), &[], &name, &[], at).is_ok()
    }

    fn openssl_says(folder: &Path, leaf: &str, host: &str) -> String {
        let file = folder.join("tried.pem");
        std::fs::write(&file, leaf).expect("writes");
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["verify", "-attime", "1790000000", "-verify_hostname", host, "-CAfile"]);
        let output = openssl.arg(folder.join(CA_CERTIFICATE)).arg(&file).output().expect("openssl runs");
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).replace(&file.display().to_string(), "leaf")
    }

    #[test]
    fn whoever_has_the_authoritys_key_can_sign_for_the_stack_and_this_machine_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        for host in ["shop.test", "localhost", "console.localhost"] {
            let (leaf, authority) = signed(folder.path(), host);
            assert!(rustls_accepts(&leaf, &authority, host), "{host}");
            assert!(rustls_accepts(&leaf, &authority, "127.0.0.1"), "{host}");
            assert_eq!(openssl_says(folder.path(), &leaf, host), "leaf: OK\n");
        }
        for host in ["bank.example", "nolocalhost", "myshop.test", "8.8.8.8"] {
            let (leaf, authority) = signed(folder.path(), host);
            assert!(!rustls_accepts(&leaf, &authority, host), "{host}");
            let said = openssl_says(folder.path(), &leaf, host);
            assert!(said.contains("permitted subtree violation"), "{host}: {said}");
        }
    }

    #[test]
    fn an_authority_of_before_goes_on_and_one_that_may_not_sign_for_a_new_name_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let mut params = ca_params("mainstay local CA a.test".to_owned(), &[], now()).expect("params");
        params.name_constraints = None;
        let old = params.self_signed(&key).expect("signs").pem();
        std::fs::write(folder.path().join(CA_KEY), key.serialize_pem()).expect("writes");
        std::fs::write(folder.path().join(CA_CERTIFICATE), &old).expect("writes");
        let note =
            Note { version: VERSION, name: "mainstay local CA a.test".to_owned(), expires: now().after(CA_LIFE) };
        write(&folder.path().join(CA_NOTE), &note).expect("writes");
        let of = |host: &str| {
            let made = local_ca(folder.path(), &[host.to_owned()], now()).expect("made");
            std::fs::read_to_string(made.authority).expect("reads")
        };
        assert_eq!((of("a.test"), of("b.test")), (old.clone(), old.clone()));
        assert_eq!(describe(old.as_bytes()).expect("a certificate").limited_to, None);

        std::fs::remove_file(folder.path().join(CA_NOTE)).expect("removes");
        let limited = of("a.test");
        assert_eq!((of("x.a.test"), of("c.localhost")), (limited.clone(), limited.clone()));
        assert_ne!(of("b.test"), limited);
    }
}
