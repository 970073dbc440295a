//! One policy, checked and compiled: hosts, certificates, routes. Immutable; a request keeps the one it began with.
//!
//! Everything that can be wrong with a policy is found here, before it is in force.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_types::Generation;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use crate::metrics::{Metrics, RouteTally};
use crate::protocol::{Certificate, PROTOCOL_VERSION, Policy, Target};
use crate::upstream::{Group, Groups};

/// Which rule a policy breaks.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Another version of the protocol.
    #[error("policy has schema {found}, this edge reads {PROTOCOL_VERSION}: start the edge of the same release")]
    Schema {
        /// What it says.
        found: u32,
    },
    /// Older than the one in force.
    #[error("policy {offered} is older than {in_force}, which is in force")]
    Older {
        /// What was offered.
        offered: Generation,
        /// What is in force.
        in_force: Generation,
    },
    /// No host.
    #[error("policy names no host")]
    NoHost,
    /// A certificate or its key cannot be used.
    #[error("certificate for {hosts:?} is not usable: {reason}")]
    Certificate {
        /// Its hosts.
        hosts: Vec<String>,
        /// Why.
        reason: String,
    },
    /// A host that no certificate is for.
    #[error("host {host} has no certificate")]
    Uncovered {
        /// The host.
        host: String,
    },
    /// A route's path.
    #[error("route path {path:?} is not /exact or /prefix/*, or is there twice")]
    Path {
        /// The path.
        path: String,
    },
    /// A route's time.
    #[error("route {path} has a timeout of 0 ms")]
    Timeout {
        /// The path.
        path: String,
    },
    /// A route to nowhere.
    #[error("route {path} leads to upstream {upstream:?}, which the policy does not have")]
    Upstream {
        /// The path.
        path: String,
        /// The upstream.
        upstream: String,
    },
    /// A site without a folder.
    #[error("route {path} leads to site folder {}, which cannot be read", dir.display())]
    Site {
        /// The path.
        path: String,
        /// The folder.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Where a compiled route leads.
#[derive(Debug)]
pub(crate) enum Destination {
    Upstream(Arc<Group>),
    Site(crate::site::Site),
}

/// A compiled route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) path: String,
    pub(crate) to: Destination,
    pub(crate) timeout: Duration,
    pub(crate) tally: Arc<RouteTally>,
}

/// A policy in force.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) generation: Generation,
    pub(crate) hash: String,
    pub(crate) https_port: u16,
    pub(crate) access_log: PathBuf,
    hosts: BTreeSet<String>,
    certificates: HashMap<String, Arc<CertifiedKey>>,
    default_certificate: Option<Arc<CertifiedKey>>,
    exact: HashMap<String, Arc<Route>>,
    /// Longest prefix first; without the `*`.
    prefixes: Vec<(String, Arc<Route>)>,
}

/// The hash of a policy: of its JSON.
pub(crate) fn hash(policy: &Policy) -> String {
    let bytes = serde_json::to_vec(policy).unwrap_or_default();
    Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks all rules that need no live state.
///
/// **Errors**: the first rule broken.
pub(crate) fn check(policy: &Policy) -> Result<(), PolicyError> {
    if policy.schema != PROTOCOL_VERSION {
        return Err(PolicyError::Schema { found: policy.schema });
    }
    if policy.hosts.is_empty() {
        return Err(PolicyError::NoHost);
    }
    let (certificates, _) = certificates(&policy.certificates)?;
    for host in &policy.hosts {
        if find_certificate(&certificates, &host.to_ascii_lowercase()).is_none() {
            return Err(PolicyError::Uncovered { host: host.clone() });
        }
    }
    let mut paths = BTreeSet::new();
    for route in &policy.routes {
        if !is_route_path(&route.path) || !paths.insert(&route.path) {
            return Err(PolicyError::Path { path: route.path.clone() });
        }
        if route.timeout_ms == 0 {
            return Err(PolicyError::Timeout { path: route.path.clone() });
        }
        match &route.to {
            Target::Upstream { name } if !policy.upstreams.contains_key(name) => {
                return Err(PolicyError::Upstream { path: route.path.clone(), upstream: name.clone() });
            }
            Target::Upstream { .. } => {}
            Target::Site { dir, .. } => {
                let read = std::fs::read_dir(dir).map(|_| ());
                read.map_err(|source| PolicyError::Site { path: route.path.clone(), dir: dir.clone(), source })?;
            }
        }
    }
    Ok(())
}

fn is_route_path(path: &str) -> bool {
    let body = path.strip_suffix("/*").unwrap_or(path);
    (body.is_empty() && path == "/*" || body.starts_with('/')) && !body.contains(['*', '?', '#'])
}

type Certificates = HashMap<String, Arc<CertifiedKey>>;

fn certificates(of: &[Certificate]) -> Result<(Certificates, Option<Arc<CertifiedKey>>), PolicyError> {
    let mut by_host = HashMap::new();
    let mut first = None;
    for certificate in of {
        let key = certified_key(certificate)
            .map_err(|reason| PolicyError::Certificate { hosts: certificate.hosts.clone(), reason })?;
        let key = Arc::new(key);
        first.get_or_insert_with(|| Arc::clone(&key));
        for host in &certificate.hosts {
            by_host.insert(host.to_ascii_lowercase(), Arc::clone(&key));
        }
    }
    Ok((by_host, first))
}

fn certified_key(certificate: &Certificate) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("chain is not PEM: {error:?}"))?;
    if chain.is_empty() {
        return Err("chain has no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.expose().as_bytes())
        .map_err(|_| "key is not a PEM private key".to_owned())?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| error.to_string())
}

fn find_certificate<'a>(by_host: &'a Certificates, host: &str) -> Option<&'a Arc<CertifiedKey>> {
    let wildcard = || host.split_once('.').and_then(|(_, rest)| by_host.get(&format!("*.{rest}")));
    by_host.get(host).or_else(wildcard)
}

impl Snapshot {
    /// Compiles a policy that [`check`] passed; makes its groups.
    ///
    /// **Errors**: what has changed in the world since the check.
    pub(crate) fn compile(policy: &Policy, groups: &Groups, metrics: &Metrics) -> Result<Self, PolicyError> {
        let (certificates, default_certificate) = certificates(&policy.certificates)?;
        let groups = groups.configure(&policy.upstreams);
        let mut exact = HashMap::new();
        let mut prefixes = Vec::new();
        for route in &policy.routes {
            let (to, upstream) = match &route.to {
                Target::Upstream { name } => match groups.get(name) {
                    Some(group) => (Destination::Upstream(Arc::clone(group)), name.as_str()),
                    None => continue,
                },
                Target::Site { dir, spa } => (Destination::Site(crate::site::Site::new(dir, *spa)), ""),
            };
            let compiled = Arc::new(Route {
                path: route.path.clone(),
                to,
                timeout: Duration::from_millis(route.timeout_ms),
                tally: metrics.route(&route.path, upstream),
            });
            match route.path.strip_suffix('*') {
                Some(prefix) => prefixes.push((prefix.to_owned(), compiled)),
                None => drop(exact.insert(route.path.clone(), compiled)),
            }
        }
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(Self {
            generation: policy.generation,
            hash: hash(policy),
            https_port: policy.https_port,
            access_log: policy.access_log.clone(),
            hosts: policy.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            certificates,
            default_certificate,
            exact,
            prefixes,
        })
    }

    /// Whether the edge answers for this host (no port, lower case).
    pub(crate) fn has_host(&self, host: &str) -> bool {
        self.hosts.contains(host)
    }

    /// The certificate for a name. A name nobody knows gets the first one, so that the client sees the 421.
    pub(crate) fn certificate(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let by_name = name.and_then(|name| find_certificate(&self.certificates, &name.to_ascii_lowercase()));
        by_name.or(self.default_certificate.as_ref()).map(Arc::clone)
    }

    /// The most specific route: exact, then the longest prefix. `/x/*` also takes `/x`.
    pub(crate) fn route(&self, path: &str) -> Option<&Arc<Route>> {
        if let Some(route) = self.exact.get(path) {
            return Some(route);
        }
        self.prefixes
            .iter()
            .find(|(prefix, _)| {
                path.starts_with(prefix.as_str())
                    || prefix.strip_suffix('/').is_some_and(|bare| !bare.is_empty() && path == bare)
            })
            .map(|(_, route)| route)
    }
}
