//! One policy, checked and compiled: hosts, certificates, routes. Immutable; a request keeps the one it began with.
//!
//! Everything that can be wrong with a policy is found here, before it is in force.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_stack::balance::Balancing;
use mainstay_stack::model::TlsVersion;
use mainstay_stack::routing;
use mainstay_stack::tls::ClientCertificate;
use mainstay_types::Generation;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use crate::challenge::Answers;
use crate::clients::Authorities;
use crate::edit::Edit;
use crate::entry::Users;
use crate::guard::{self, Door, Guard};
use crate::identity::{self, Issuers};
use crate::limit::{self, Limits};
use crate::metrics::{Metrics, RouteTally};
use crate::protocol::{CLIENTS_SCHEMA, Certificate, ISSUERS_SCHEMA, PROTOCOL_VERSION, Policy, Target};
use crate::strict;
use crate::upstream::{Group, Groups};

/// Which rule a policy breaks.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Another version of the protocol.
    #[error(
        "policy has schema {found}, this edge reads {PROTOCOL_VERSION}, {ISSUERS_SCHEMA} of one with issuers and \
         {CLIENTS_SCHEMA} of one that asks for certificates: start the edge of the same release"
    )]
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
    /// A limit that is none.
    #[error("limit {limit} of {path:?} is not usable")]
    Limit {
        /// Its route's path; empty for the edge.
        path: String,
        /// As people write it.
        limit: String,
    },
    /// Passwords that are none.
    #[error("route {path} has a hash of a password that is none")]
    Users {
        /// The path.
        path: String,
    },
    /// Somebody who signs tokens that cannot be checked.
    #[error("identity {name} has no key or a key that does not fit, or its issuer cannot be told")]
    Issuer {
        /// Its name.
        name: String,
    },
    /// A route for users of an issuer that there is not.
    #[error("route {path} asks for identity {name:?}, which the policy does not have")]
    Identity {
        /// The path.
        path: String,
        /// The name.
        name: String,
    },
    /// Authorities of clients that cannot be used.
    #[error("authorities of clients are not usable: {reason}")]
    Clients {
        /// Why.
        reason: String,
    },
    /// A route for clients with certificates that nobody signs.
    #[error("route {path} asks for certificates of clients, and the policy has no authorities of them")]
    Client {
        /// The path.
        path: String,
    },
    /// A header that cannot be sent.
    #[error("header {name:?} of route {path} cannot be sent")]
    Header {
        /// The path.
        path: String,
        /// The header's name.
        name: String,
    },
    /// A route to nowhere.
    #[error("route {path} leads to upstream {upstream:?}, which the policy does not have")]
    Upstream {
        /// The path.
        path: String,
        /// The upstream.
        upstream: String,
    },
    /// A redirection to nowhere.
    #[error("route {path} redirects to {location:?}, which is no place, or with a status that is none")]
    Redirect {
        /// The path.
        path: String,
        /// The place.
        location: String,
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
    Redirect(Redirect),
}

/// Where clients of a route are sent.
#[derive(Debug)]
pub(crate) struct Redirect {
    pub(crate) status: u16,
    location: String,
}

impl Redirect {
    /// The place for a request, of which `below` is what the route's `*` stands for.
    pub(crate) fn location(&self, below: &str, query: Option<&str>) -> String {
        let mut location = match self.location.strip_suffix('*') {
            // Without slashes at the front: `//evil.example` would be another host.
            Some(begin) => format!("{begin}{}", below.trim_start_matches('/')),
            None => self.location.clone(),
        };
        if let Some(query) = query {
            location.push(if location.contains('?') { '&' } else { '?' });
            location.push_str(query);
        }
        location
    }
}

/// A compiled route.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) path: String,
    pub(crate) to: Destination,
    pub(crate) timeout: Duration,
    pub(crate) limits: Arc<limit::Chain>,
    pub(crate) guard: Guard,
    pub(crate) body_limit: u64,
    pub(crate) balancing: Balancing,
    /// From which size on its answers are compressed.
    pub(crate) compress: Option<u64>,
    /// The path that the upstream sees.
    pub(crate) rewrite: Option<String>,
    pub(crate) request: Edit,
    pub(crate) users: Option<Users>,
    pub(crate) entry: Option<identity::Entry>,
    pub(crate) client_certificate: Option<ClientCertificate>,
    /// See [`crate::protocol::Route::shut`].
    shut: Option<String>,
    pub(crate) maintenance: Option<Duration>,
    pub(crate) tally: Arc<RouteTally>,
}

impl Route {
    /// What its `*` stands for in a path that it takes.
    pub(crate) fn below<'p>(&self, path: &'p str) -> &'p str {
        routing::below(&self.path, path)
    }
}

/// A policy in force.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) generation: Generation,
    pub(crate) hash: String,
    pub(crate) https_port: u16,
    pub(crate) access_log: PathBuf,
    /// Who may connect.
    pub(crate) door: Door,
    pub(crate) connections_per_ip: Option<u32>,
    pub(crate) least_tls: TlsVersion,
    /// For requests that no route takes.
    pub(crate) limits: Arc<limit::Chain>,
    /// What certificate authorities are shown.
    pub(crate) answers: Answers,
    /// Who signs certificates of clients; every client is asked for one when there is somebody.
    pub(crate) clients: Option<Arc<Authorities>>,
    hosts: BTreeSet<String>,
    certificates: HashMap<String, Arc<CertifiedKey>>,
    default_certificate: Option<Arc<CertifiedKey>>,
    routes: Routes,
    /// The same in lower case, where one of them is guarded.
    alike: Option<Routes>,
}

/// Routes by what they take.
#[derive(Debug, Default)]
struct Routes {
    exact: HashMap<String, Arc<Route>>,
    /// Longest prefix first; without the `*`.
    prefixes: Vec<(String, Arc<Route>)>,
}

impl Routes {
    /// `spell`: how their paths are written.
    fn new(all: &[Arc<Route>], spell: impl Fn(&str) -> String) -> Self {
        let mut routes = Self::default();
        for route in all {
            let path = spell(&route.path);
            match path.strip_suffix('*') {
                Some(prefix) => routes.prefixes.push((prefix.to_owned(), Arc::clone(route))),
                None => drop(routes.exact.insert(path, Arc::clone(route))),
            }
        }
        routes.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        routes
    }

    /// The most specific route: exact, then the longest prefix. `/x/*` also takes `/x`.
    fn find(&self, path: &str) -> Option<&Arc<Route>> {
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

/// The hash of a policy: of its JSON.
pub fn hash(policy: &Policy) -> String {
    let bytes = serde_json::to_vec(policy).unwrap_or_default();
    Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks all rules that need no live state.
///
/// **Errors**: the first rule broken.
pub(crate) fn check(policy: &Policy) -> Result<(), PolicyError> {
    if policy.schema != Policy::schema_of(&policy.issuers, policy.client_ca.as_ref()) {
        return Err(PolicyError::Schema { found: policy.schema });
    }
    if policy.hosts.is_empty() {
        return Err(PolicyError::NoHost);
    }
    let (certificates, _) = certificates(&policy.certificates)?;
    answers(policy)?;
    for host in &policy.hosts {
        if find_certificate(&certificates, &host.to_ascii_lowercase()).is_none() {
            return Err(PolicyError::Uncovered { host: host.clone() });
        }
    }
    check_limits("", &policy.limits)?;
    if let Some((name, _)) = policy.issuers.iter().find(|(_, of)| !identity::is_usable(of)) {
        return Err(PolicyError::Issuer { name: name.clone() });
    }
    clients(policy)?;
    let mut paths = BTreeSet::new();
    for route in &policy.routes {
        check_limits(&route.path, &route.limits)?;
        if let Some(header) = route.headers.iter().find(|header| !guard::is_usable(header)) {
            return Err(PolicyError::Header { path: route.path.clone(), name: header.name.clone() });
        }
        for edits in [&route.edits.request, &route.edits.response] {
            Edit::new(edits).map_err(|name| PolicyError::Header { path: route.path.clone(), name })?;
        }
        if route.basic_auth.as_ref().is_some_and(|users| Users::new(users).is_none()) {
            return Err(PolicyError::Users { path: route.path.clone() });
        }
        if let Some(of) = route.identity.as_ref().filter(|of| !policy.issuers.contains_key(&of.issuer)) {
            return Err(PolicyError::Identity { path: route.path.clone(), name: of.issuer.clone() });
        }
        if route.client_certificate.is_some() && policy.client_ca.is_none() {
            return Err(PolicyError::Client { path: route.path.clone() });
        }
        if route.edits.rewrite.as_ref().is_some_and(|rewrite| !rewrite.starts_with('/')) {
            return Err(PolicyError::Path { path: route.path.clone() });
        }
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
            Target::Redirect { location, status } => {
                let is_status = matches!(status, 301 | 302 | 307 | 308);
                if !is_status || !location.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(PolicyError::Redirect { path: route.path.clone(), location: location.clone() });
                }
            }
            Target::Site { dir, .. } => {
                let read = std::fs::read_dir(dir).map(|_| ());
                read.map_err(|source| PolicyError::Site { path: route.path.clone(), dir: dir.clone(), source })?;
            }
        }
    }
    Ok(())
}

fn check_limits(path: &str, limits: &[mainstay_stack::limit::Limit]) -> Result<(), PolicyError> {
    match limits.iter().find(|limit| !limit::is_usable(limit)) {
        Some(limit) => Err(PolicyError::Limit { path: path.to_owned(), limit: limit.to_string() }),
        None => Ok(()),
    }
}

fn is_route_path(path: &str) -> bool {
    let body = path.strip_suffix("/*").unwrap_or(path);
    (body.is_empty() && path == "/*" || body.starts_with('/')) && !body.contains(['*', '?', '#'])
}

fn answers(policy: &Policy) -> Result<Answers, PolicyError> {
    Answers::new(&policy.challenges).map_err(|(hosts, reason)| PolicyError::Certificate { hosts, reason })
}

fn clients(policy: &Policy) -> Result<Option<Arc<Authorities>>, PolicyError> {
    let authorities = policy.client_ca.as_ref().map(|pem| Authorities::new(pem)).transpose();
    Ok(authorities.map_err(|reason| PolicyError::Clients { reason })?.map(Arc::new))
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

pub(crate) fn certified_key(certificate: &Certificate) -> Result<CertifiedKey, String> {
    let (chain, key) = read_pem(certificate)?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| error.to_string())
}

/// Chain and key as they stand in their texts.
pub(crate) fn read_pem(
    certificate: &Certificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
    let chain = CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("chain is not PEM: {error:?}"))?;
    if chain.is_empty() {
        return Err("chain has no certificate".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.expose().as_bytes())
        .map_err(|_| "key is not a PEM private key".to_owned())?;
    Ok((chain, key))
}

fn find_certificate<'a>(by_host: &'a Certificates, host: &str) -> Option<&'a Arc<CertifiedKey>> {
    let wildcard = || host.split_once('.').and_then(|(_, rest)| by_host.get(&format!("*.{rest}")));
    by_host.get(host).or_else(wildcard)
}

/// What outlives policies.
pub(crate) struct Live<'l> {
    pub(crate) groups: &'l Groups,
    pub(crate) metrics: &'l Metrics,
    pub(crate) limits: &'l Limits,
    pub(crate) issuers: &'l Issuers,
}

impl Snapshot {
    /// Compiles a policy that [`check`] passed; makes its groups.
    ///
    /// **Errors**: what has changed in the world since the check.
    pub(crate) fn compile(
        policy: &Policy,
        Live { groups, metrics, limits, issuers }: &Live<'_>,
    ) -> Result<Self, PolicyError> {
        let (certificates, default_certificate) = certificates(&policy.certificates)?;
        let groups = groups.configure(&policy.upstreams);
        let limits = limits.configure(policy);
        let issuers = issuers.configure(policy);
        let mut all = Vec::new();
        for route in &policy.routes {
            let (to, upstream) = match &route.to {
                Target::Upstream { name } => match groups.get(name) {
                    Some(group) => (Destination::Upstream(Arc::clone(group)), name.as_str()),
                    None => continue,
                },
                Target::Site { dir, spa, cache } => (Destination::Site(crate::site::Site::new(dir, *spa, *cache)), ""),
                Target::Redirect { location, status } => {
                    (Destination::Redirect(Redirect { status: *status, location: location.clone() }), "")
                }
            };
            // Never open for want of a usable hash.
            let users = match &route.basic_auth {
                Some(of) => Some(Users::new(of).ok_or_else(|| PolicyError::Users { path: route.path.clone() })?),
                None => None,
            };
            // Nor for want of an issuer.
            let entry = Issuers::entry(route.identity.as_ref(), &issuers).ok_or_else(|| PolicyError::Identity {
                path: route.path.clone(),
                name: route.identity.as_ref().map_or_else(String::new, |of| of.issuer.clone()),
            })?;
            all.push(Arc::new(Route {
                path: route.path.clone(),
                to,
                timeout: Duration::from_millis(route.timeout_ms),
                guard: Guard::new(&route.admission, &route.headers, route.cors.as_ref(), &route.edits.response),
                body_limit: route.body_limit,
                balancing: route.balancing.clone(),
                compress: route.compress,
                rewrite: route.edits.rewrite.clone(),
                request: Edit::new(&route.edits.request).unwrap_or_default(),
                users,
                entry,
                client_certificate: route.client_certificate,
                shut: route.shut(),
                maintenance: route.maintenance_s.map(Duration::from_secs),
                limits: limits.routes.get(&route.path).map(Arc::clone).unwrap_or_default(),
                tally: metrics.route(&route.path, upstream),
            }));
        }
        let is_guarded = all.iter().any(|route| route.shut.is_some());
        Ok(Self {
            generation: policy.generation,
            hash: hash(policy),
            https_port: policy.https_port,
            access_log: policy.access_log.clone(),
            door: Door::new(&policy.admission),
            connections_per_ip: policy.connections_per_ip,
            least_tls: policy.least_tls,
            limits: limits.edge,
            answers: answers(policy)?,
            clients: clients(policy)?,
            hosts: policy.hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
            certificates,
            default_certificate,
            alike: is_guarded.then(|| Routes::new(&all, str::to_ascii_lowercase)),
            routes: Routes::new(&all, str::to_owned),
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

    /// The route of a path, which must be the same however a server behind may read the path.
    ///
    /// **Errors**: it is not.
    pub(crate) fn sole_route(&self, path: &str) -> Result<Option<&Arc<Route>>, strict::Refusal> {
        let route = self.route(path);
        if strict::has_other_spelling(path) {
            let other = self.route(&routing::plain(path));
            if route.map(Arc::as_ptr) != other.map(Arc::as_ptr) {
                return Err(strict::OTHER_ROUTE);
            }
        }
        if let (Some(found), Some(alike)) = (route, &self.alike) {
            let is_way_around = |other: &Arc<Route>| {
                other.shut.is_some() && other.shut != found.shut && routing::is_within(&other.path, &found.path)
            };
            if routing::alike(path).iter().filter_map(|reading| alike.find(reading)).any(is_way_around) {
                return Err(strict::GUARDED_ROUTE);
            }
        }
        Ok(route)
    }

    /// The most specific route.
    pub(crate) fn route(&self, path: &str) -> Option<&Arc<Route>> {
        self.routes.find(path)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mainstay_stack::network::Admission;

    use super::*;
    use crate::protocol::Upstream;

    /// A policy with these routes, without anything that touches the world.
    fn snapshot(paths: &[String]) -> Snapshot {
        let target = Target::Upstream { name: "a".to_owned() };
        compiled(paths.iter().map(|path| crate::protocol::Route::new(path, target.clone(), 1)).collect())
    }

    fn compiled(routes: Vec<crate::protocol::Route>) -> Snapshot {
        let upstream = Upstream::default();
        let policy = Policy {
            schema: PROTOCOL_VERSION,
            generation: Generation(1),
            hosts: Vec::new(),
            certificates: Vec::new(),
            challenges: Default::default(),
            https_port: 443,
            limits: Vec::new(),
            admission: Admission::default(),
            connections_per_ip: None,
            least_tls: TlsVersion::Tls12,
            issuers: BTreeMap::new(),
            client_ca: None,
            routes,
            upstreams: BTreeMap::from([("a".to_owned(), upstream)]),
            access_log: PathBuf::new(),
        };
        let (groups, metrics, limits) = (Groups::new(), Metrics::default(), Limits::new());
        let issuers = Issuers::new(std::path::Path::new(""));
        let live = Live { groups: &groups, metrics: &metrics, limits: &limits, issuers: &issuers };
        Snapshot::compile(&policy, &live).expect("compiles")
    }

    #[test]
    fn no_spelling_of_a_path_leads_around_a_guard() {
        let route = |path: &str, is_guarded: bool| {
            let mut route = crate::protocol::Route::new(path, Target::Upstream { name: "a".to_owned() }, 1);
            if is_guarded {
                route.admission.allow = vec!["10.0.0.0/8".parse().expect("a network")];
            }
            route
        };
        let snapshot = compiled(vec![
            route("/*", false),
            route("/api/admin/*", true),
            route("/api/admin/public", false),
            route("/exact", true),
            route("/shut/*", true),
            route("/shut/login", false),
        ]);
        let of = |path: &str| snapshot.sole_route(path).map(|route| route.map(|route| route.path.as_str()));
        for path in ["/api/ADMIN/x", "/API/admin", "/Exact", "/exact/", "/SHUT/x"] {
            assert_eq!(of(path), Err(strict::GUARDED_ROUTE), "{path}");
        }
        for (path, found) in [
            ("/api/admin/x", "/api/admin/*"),
            ("/api/admin/public", "/api/admin/public"),
            ("/api/admin/public/", "/api/admin/*"),
            ("/exact", "/exact"),
            ("/shut/login", "/shut/login"),
            ("/Other", "/*"),
            ("/", "/*"),
        ] {
            assert_eq!(of(path), Ok(Some(found)), "{path}");
        }
    }

    #[test]
    fn a_compiled_policy_routes_as_the_stack_file_says() {
        // All paths of up to three parts of two letters, as routes and as requests.
        let mut paths = vec!["/".to_owned()];
        for length in 1..=3_u32 {
            for word in 0..2_u32.pow(length) {
                let parts = (0..length).map(|part| if word >> part & 1 == 0 { "/a" } else { "/ab" });
                paths.push(parts.collect());
            }
        }
        let requests: Vec<String> = paths.iter().flat_map(|path| [path.clone(), format!("{path}/")]).collect();
        let routes: Vec<String> =
            paths.iter().flat_map(|path| [path.clone(), format!("{}/*", path.trim_end_matches('/'))]).collect();
        for step in 1..12 {
            let some: Vec<String> = routes.iter().step_by(step).cloned().collect();
            let snapshot = snapshot(&some);
            for request in &requests {
                let found = snapshot.route(request).map(|route| route.path.as_str());
                let said = mainstay_stack::routing::candidates(some.iter().map(String::as_str), request);
                assert_eq!(found, said.first().map(|index| some[*index].as_str()), "{request} among {some:?}");
            }
        }
    }
}
