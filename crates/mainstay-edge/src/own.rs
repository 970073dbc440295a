//! A certificate of the operator's own: two files that change when it is renewed.
//!
//! What is wrong is told and not used; whoever asks keeps what he has.

use std::path::PathBuf;

use mainstay_decide::acme::Validity;
use mainstay_types::{Secret, Timestamp};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::protocol::Certificate;
use crate::snapshot::certified_key;

/// Longest file that is read: chains have a handful of certificates.
const MOST_BYTES: u64 = 256 * 1024;

/// The files.
#[derive(Debug)]
pub struct OwnFiles {
    chain: PathBuf,
    key: PathBuf,
    hosts: Vec<String>,
    /// Hash of what was judged last.
    judged: Option<[u8; 32]>,
    /// It begins to be valid then, and is judged again. **Unit**: seconds since 1970.
    begins: Option<i64>,
    /// Hash of what was seen last.
    seen: Option<[u8; 32]>,
}

/// What a look at the files says.
#[derive(Debug)]
pub enum Look {
    /// Nothing new, or not for long enough: two files do not change at one moment.
    Same,
    /// Another certificate, which can be used.
    New(Certificate),
    /// Another one that cannot, and why.
    Wrong(String),
}

impl OwnFiles {
    /// A chain and its key in PEM, for these hosts.
    pub fn new(chain: PathBuf, key: PathBuf, hosts: &[String]) -> Self {
        Self { chain, key, hosts: hosts.to_vec(), judged: None, begins: None, seen: None }
    }

    /// Looks at the files. The first time what is there is judged at once, later when it is the same at two looks.
    pub fn look(&mut self, now: Timestamp) -> Look {
        let read = read(&self.chain).and_then(|chain| Ok((chain, read(&self.key)?)));
        let mut digest = Sha256::new();
        match &read {
            Ok((chain, key)) => {
                digest.update((chain.len() as u64).to_be_bytes());
                digest.update(chain);
                digest.update(key);
            }
            Err(reason) => digest.update(reason),
        }
        let hash: [u8; 32] = digest.finalize().into();
        let is_settled = self.seen.is_none() || self.seen == Some(hash);
        self.seen = Some(hash);
        let has_begun = self.begins.is_some_and(|begins| seconds(now) >= begins);
        if !is_settled || self.judged == Some(hash) && !has_begun {
            return Look::Same;
        }
        (self.judged, self.begins) = (Some(hash), None);
        match read.and_then(|(chain, key)| self.judge(chain, key, now)) {
            Ok(certificate) => Look::New(certificate),
            Err(reason) => Look::Wrong(reason),
        }
    }

    /// A pair that was taken before, if it can be used still; whatever the files hold now.
    pub fn still(&self, kept: Certificate, now: Timestamp) -> Option<Certificate> {
        let mut of = Self::new(self.chain.clone(), self.key.clone(), &self.hosts);
        of.judge(kept.chain_pem, kept.key_pem.expose().to_owned(), now).ok()
    }

    fn judge(&mut self, chain: String, key: String, now: Timestamp) -> Result<Certificate, String> {
        let certificate = Certificate { hosts: self.hosts.clone(), chain_pem: chain, key_pem: Secret::new(key) };
        certified_key(&certificate)?;
        let Leaf { validity, .. } = leaf(&certificate)?;
        if now < validity.begins {
            self.begins = Some(seconds(validity.begins));
        }
        inspect(&certificate, now)?;
        Ok(certificate)
    }
}

/// Looks at a certificate for its hosts.
///
/// **Errors**: why it is of no use now.
pub fn inspect(certificate: &Certificate, now: Timestamp) -> Result<Validity, String> {
    certified_key(certificate)?;
    let Leaf { names, validity } = leaf(certificate)?;
    if now < validity.begins || now >= validity.ends {
        return Err(format!("it is valid from {} to {} only", validity.begins, validity.ends));
    }
    let uncovered = certificate.hosts.iter().find(|host| !names.iter().any(|name| covers(name, host)));
    match uncovered {
        None => Ok(validity),
        Some(host) => Err(format!("it is for {}, and the edge answers to {host}", names.join(", "))),
    }
}

/// When a certificate counts.
///
/// **Errors**: it cannot be read.
pub fn validity(certificate: &Certificate) -> Result<Validity, String> {
    Ok(leaf(certificate)?.validity)
}

/// What the first certificate of a chain says.
struct Leaf {
    names: Vec<String>,
    validity: Validity,
}

fn leaf(certificate: &Certificate) -> Result<Leaf, String> {
    let unreadable = || "its first certificate cannot be read".to_owned();
    let (_, block) = x509_parser::pem::parse_x509_pem(certificate.chain_pem.as_bytes()).map_err(|_| unreadable())?;
    Ok(Leaf::of(&block.parse_x509().map_err(|_| unreadable())?))
}

impl Leaf {
    fn of(leaf: &X509Certificate<'_>) -> Self {
        let names = match leaf.subject_alternative_name() {
            Ok(Some(found)) => found.value.general_names.iter().filter_map(dns_name).map(str::to_owned).collect(),
            Ok(None) | Err(_) => Vec::new(),
        };
        let at = |time: x509_parser::time::ASN1Time| Timestamp::from_millis(time.timestamp().saturating_mul(1000));
        let validity = Validity { begins: at(leaf.validity().not_before), ends: at(leaf.validity().not_after) };
        Self { names, validity }
    }
}

/// Until when a certificate as it was shown counts for a host.
///
/// **Errors**: why it does not count now.
pub(crate) fn judge(leaf: &CertificateDer<'_>, host: &str, now: Timestamp) -> Result<Timestamp, String> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| "it cannot be read".to_owned())?;
    let Leaf { names, validity } = Leaf::of(&leaf);
    if now < validity.begins || now >= validity.ends {
        return Err(format!("it is valid from {} to {} only", validity.begins, validity.ends));
    }
    if !names.iter().any(|name| covers(name, host)) {
        return Err(format!("it is for {}", names.join(", ")));
    }
    Ok(validity.ends)
}

fn seconds(at: Timestamp) -> i64 {
    at.as_micros() / 1_000_000
}

fn dns_name<'n>(name: &GeneralName<'n>) -> Option<&'n str> {
    if let GeneralName::DNSName(name) = name { Some(name) } else { None }
}

/// **Source**: RFC 6125, section 6.4.3: a `*` stands for one label, the first.
fn covers(name: &str, host: &str) -> bool {
    let wildcard = name.strip_prefix("*.").zip(host.split_once('.'));
    name.eq_ignore_ascii_case(host) || wildcard.is_some_and(|(rest, (_, domain))| rest.eq_ignore_ascii_case(domain))
}

fn read(path: &PathBuf) -> Result<String, String> {
    let show = |what: String| format!("{} cannot be read: {what}", path.display());
    let length = std::fs::metadata(path).map_err(|error| show(error.to_string()))?.len();
    if length > MOST_BYTES {
        return Err(show(format!("it has {length} bytes, and {MOST_BYTES} are the most")));
    }
    std::fs::read_to_string(path).map_err(|error| show(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn now() -> Timestamp {
        crate::now()
    }

    struct Files {
        folder: tempfile::TempDir,
        own: OwnFiles,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("folder");
            let at = |name: &str| folder.path().join(name);
            let own = OwnFiles::new(at("site.pem"), at("site.key"), &["shop.example.com".to_owned()]);
            Self { folder, own }
        }

        /// Another certificate in the files.
        fn put(&self, authority: &str, host: &str) -> Certificate {
            let made = crate::ca::local_ca(&self.folder.path().join(authority), &[host.to_owned()], now());
            let certificate = made.expect("makes").certificate;
            std::fs::write(self.folder.path().join("site.pem"), &certificate.chain_pem).expect("writes");
            std::fs::write(self.folder.path().join("site.key"), certificate.key_pem.expose()).expect("writes");
            certificate
        }

        fn look(&mut self) -> Result<Option<String>, String> {
            match self.own.look(now()) {
                Look::Same => Ok(None),
                Look::New(certificate) => Ok(Some(certificate.chain_pem)),
                Look::Wrong(reason) => Err(reason),
            }
        }
    }

    #[test]
    fn a_changed_certificate_is_taken_once_it_stays_and_a_wrong_one_is_told_once() {
        let mut files = Files::new();
        assert!(files.look().expect_err("nothing there").contains("site.pem cannot be read"));
        let first = files.put("one", "shop.example.com");
        assert_eq!(files.look(), Ok(None), "it may be half of it");
        assert_eq!(files.look(), Ok(Some(first.chain_pem)));
        assert_eq!(files.look(), Ok(None));
        let second = files.put("two", "*.example.com");
        std::fs::write(files.folder.path().join("site.key"), first.key_pem.expose()).expect("writes");
        assert_eq!(files.look(), Ok(None));
        files.look().expect_err("the key is of another certificate");
        assert_eq!(files.look(), Ok(None), "told once");
        std::fs::write(files.folder.path().join("site.key"), second.key_pem.expose()).expect("writes");
        assert_eq!(files.look(), Ok(None));
        assert_eq!(files.look(), Ok(Some(second.chain_pem)));
        files.put("three", "other.example.com");
        assert_eq!(files.look(), Ok(None));
        let reason = files.look().expect_err("another host");
        assert!(reason.contains("other.example.com") && reason.contains("shop.example.com"), "{reason}");
        std::fs::write(files.folder.path().join("site.pem"), "nonsense").expect("writes");
        files.look().ok();
        let reason = files.look().expect_err("no certificate");
        assert!(!reason.contains("nonsense") && !reason.contains("PRIVATE"), "{reason}");
    }

    #[test]
    fn a_certificate_that_is_over_is_wrong() {
        let mut files = Files::new();
        files.put("one", "shop.example.com");
        let later = now().after(Duration::from_secs(20 * 365 * 24 * 3600));
        assert!(matches!(files.own.look(later), Look::Wrong(reason) if reason.contains("valid from")));
    }

    #[test]
    fn a_certificate_that_begins_later_is_taken_when_it_begins_and_told_once() {
        let mut files = Files::new();
        files.put("one", "shop.example.com");
        let before = Timestamp::from_millis(now().as_micros() / 1000 - 20 * 365 * 24 * 3_600_000);
        assert!(matches!(files.own.look(before), Look::Wrong(reason) if reason.contains("valid from")));
        assert!(matches!(files.own.look(before), Look::Same));
        assert!(matches!(files.own.look(now()), Look::New(_)));
        assert!(matches!(files.own.look(now()), Look::Same));
    }

    #[test]
    fn a_pair_that_was_taken_is_still_good_while_the_files_are_not() {
        let mut files = Files::new();
        let first = files.put("one", "shop.example.com");
        std::fs::write(files.folder.path().join("site.key"), "nonsense").expect("writes");
        files.look().expect_err("no key");
        assert_eq!(files.own.still(first.clone(), now()).map(|still| still.chain_pem), Some(first.chain_pem.clone()));
        let later = now().after(Duration::from_secs(20 * 365 * 24 * 3600));
        assert!(files.own.still(first, later).is_none(), "it is over");
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        assert!(covers("*.example.com", "shop.example.com"));
        assert!(covers("Shop.example.com", "shop.example.com"));
        for (name, host) in [("*.example.com", "a.b.example.com"), ("*.example.com", "example.com"), ("*", "a")] {
            assert!(!covers(name, host), "{name} {host}");
        }
    }
}
