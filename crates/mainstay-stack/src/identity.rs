//! Who may enter a route with a token: issuers of JSON Web Tokens, and the roles that routes ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Stands for every method that a route does not name.
pub const OTHER_METHODS: &str = "*";

/// How tokens of an issuer are signed. One is pinned for each issuer: a token that names another one is refused, so
/// that nobody makes a public key serve as a password (RFC 8725, section 3.1). **Source**: RFC 7518, RFC 8037.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Algorithm {
    /// HMAC with SHA-256. Its longer brothers ask for longer secrets than a stack makes (RFC 7518, section 3.2).
    HS256,
    /// RSA (PKCS #1 v1.5) with SHA-256.
    RS256,
    /// RSA (PKCS #1 v1.5) with SHA-384.
    RS384,
    /// RSA (PKCS #1 v1.5) with SHA-512.
    RS512,
    /// RSA (PSS) with SHA-256.
    PS256,
    /// RSA (PSS) with SHA-384.
    PS384,
    /// RSA (PSS) with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::HS256,
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// As tokens name it.
    pub fn text(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }

    /// Whether who can check a token can make one.
    pub fn is_symmetric(self) -> bool {
        self == Self::HS256
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The text is no algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no algorithm of signatures")]
pub struct NoAlgorithm;

impl FromStr for Algorithm {
    type Err = NoAlgorithm;

    fn from_str(text: &str) -> Result<Self, NoAlgorithm> {
        Self::ALL.into_iter().find(|one| one.text() == text).ok_or(NoAlgorithm)
    }
}

/// Who signs tokens, and what must be in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// What `iss` must be. Default: whatever it is; there is always one where the keys are not a secret of the stack.
    pub issuer: Option<String>,
    /// `aud` must have one of these. Default none: then a token that is for somebody in particular is refused.
    pub audience: Vec<String>,
    /// How tokens are signed. Default HS256 with a secret; else there is no default.
    pub algorithm: Algorithm,
    /// Where the keys are.
    pub keys: Keys,
    /// What `typ` of the header must be. Default: whatever it is.
    pub typ: Option<String>,
    /// How wrong clocks may be. Default 30 s.
    pub leeway: Duration,
    /// The claim with the roles: its name, or the names on the way to it. Default `roles`.
    pub roles: Vec<String>,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Keys {
    /// A secret of the stack, which the service that signs has too.
    Secret {
        /// Its name.
        name: String,
    },
    /// A public key in PEM, or a JSON Web Key Set, relative to the stack file's folder.
    File {
        /// Where.
        path: PathBuf,
    },
    /// A JSON Web Key Set that the edge fetches.
    Url {
        /// Where.
        url: String,
        /// Certificates that sign the server's own, in PEM. Default: those of the system.
        roots: Option<PathBuf>,
        /// Whether it is on this machine or in a private network; else such an address is not asked. Default false.
        is_private: bool,
        /// After which time it is fetched again. Default 10 min.
        max_age: Duration,
    },
}

/// What a route asks of who comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Name of the issuer.
    pub issuer: String,
    /// Roles of which one is enough.
    pub roles: Roles,
}

/// Roles by method. What is not in here nobody may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Roles(pub BTreeMap<String, BTreeSet<String>>);

impl Roles {
    /// For everybody who is known.
    pub fn any() -> Self {
        Self(BTreeMap::from([(OTHER_METHODS.to_owned(), BTreeSet::new())]))
    }

    /// The roles of which one is needed for a method, empty when everybody who is known may; `None`: nobody may.
    /// What is said of GET is said of HEAD.
    pub fn needed(&self, method: &str) -> Option<&BTreeSet<String>> {
        let as_get = if method == "HEAD" { self.0.get("GET") } else { None };
        self.0.get(method).or(as_get).or_else(|| self.0.get(OTHER_METHODS))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (method, roles)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            let method = if method == OTHER_METHODS { "all methods" } else { method };
            let others = if method == "all methods" && self.0.len() > 1 { "other methods" } else { method };
            let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
            let roles = if roles.is_empty() { "any".to_owned() } else { roles.join(" or ") };
            write!(f, "{separator}{others}: {roles}")?;
        }
        Ok(())
    }
}

/// Whether a text can be the name of a role: in a header, names stand with commas between.
pub fn is_role(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(of: &[(&str, &[&str])]) -> Roles {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Roles(of.iter().map(|(method, names)| ((*method).to_owned(), set(names))).collect())
    }

    #[test]
    fn a_method_that_is_not_named_is_nobodys_unless_the_others_are() {
        let some = roles(&[("GET", &[]), ("DELETE", &["admin"])]);
        assert_eq!(some.needed("GET").map(BTreeSet::len), Some(0));
        assert_eq!(some.needed("HEAD").map(BTreeSet::len), Some(0));
        assert_eq!(some.needed("DELETE").map(BTreeSet::len), Some(1));
        assert_eq!(some.needed("POST"), None);
        assert_eq!(some.needed("get"), None, "methods have their case");
        let all = roles(&[("GET", &["reader"]), ("HEAD", &["head"]), ("*", &["admin"])]);
        assert!(all.needed("PURGE").is_some_and(|needed| needed.contains("admin")));
        assert!(all.needed("HEAD").is_some_and(|needed| needed.contains("head")));
        assert_eq!(Roles::any().needed("POST").map(BTreeSet::len), Some(0));
    }

    #[test]
    fn roles_are_told_by_method() {
        assert_eq!(roles(&[("*", &["admin", "owner"])]).to_string(), "all methods: admin or owner");
        assert_eq!(roles(&[("*", &["admin"]), ("GET", &[])]).to_string(), "other methods: admin; GET: any");
    }

    #[test]
    fn every_algorithm_reads_as_it_is_shown_and_nothing_else_does() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        }
        for wrong in ["none", "hs256", "NONE", "", "RS1", "ES256K", "ES512", "HS512"] {
            assert_eq!(wrong.parse::<Algorithm>(), Err(NoAlgorithm), "{wrong}");
        }
    }
}
