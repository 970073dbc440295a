//! The edge's control socket. The edge listens, the control plane dials; frames of `mainstay_supervisor::wire`.
//!
//! Two streams: durable policy (accepted or rejected, last one kept on disk) and ephemeral endpoints.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mainstay_decide::share::Share;
use mainstay_stack::balance::{Balancing, Resilience};
use mainstay_stack::browser::Cors;
use mainstay_stack::edits::Edits;
use mainstay_stack::identity;
use mainstay_stack::limit::Limit;
use mainstay_stack::model::{SiteCache, TlsVersion};
use mainstay_stack::network::Admission;
use mainstay_stack::tls::ClientCertificate;
use mainstay_types::{Generation, Secret};
use serde::{Deserialize, Serialize};

/// Version of this protocol and of the policy file.
pub const PROTOCOL_VERSION: u32 = 1;

/// Schema of a policy with issuers of tokens: an edge from before them must refuse it, and not leave its routes open.
pub const ISSUERS_SCHEMA: u32 = 2;

/// Schema of a policy that asks clients for certificates, for the same reason.
pub const CLIENTS_SCHEMA: u32 = 3;

/// To the edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "kebab-case")]
pub enum ToEdge {
    /// Replace the policy. Answered by `Accepted` or `Rejected`.
    Policy {
        /// The whole policy.
        policy: Box<Policy>,
    },
    /// Replace the endpoints of all upstreams.
    Endpoints {
        /// By upstream name.
        upstreams: BTreeMap<String, Vec<Endpoint>>,
        /// Which clients go to a new release, by upstream name; one that is not named makes no difference between
        /// releases.
        #[serde(default)]
        shares: BTreeMap<String, Share>,
    },
    /// Ask for the metrics page. Answered by `Metrics`.
    Metrics,
}

/// From the edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "kebab-case")]
pub enum FromEdge {
    /// First frame on a connection.
    Hello {
        /// [`PROTOCOL_VERSION`].
        version: u32,
        /// Policy in force, if any.
        generation: Option<Generation>,
        /// Its hash.
        hash: Option<String>,
    },
    /// The policy is in force and on disk.
    Accepted {
        /// Its generation.
        generation: Generation,
        /// Its hash.
        hash: String,
    },
    /// The policy was not taken; the one before stays.
    Rejected {
        /// Its generation.
        generation: Generation,
        /// Which rule it breaks.
        reason: String,
    },
    /// Once a second: what went through since the last report.
    Report {
        /// Length of the window. **Unit**: milliseconds.
        window_ms: u64,
        /// By upstream (`""` is what no upstream saw: redirects, sites, refusals).
        upstreams: BTreeMap<String, Counts>,
        /// By endpoint id.
        endpoints: BTreeMap<String, EndpointReport>,
    },
    /// The edge ejected or readmitted an endpoint by itself.
    EndpointChanged {
        /// Upstream.
        upstream: String,
        /// Endpoint id.
        endpoint: String,
        /// In the rotation from now on.
        is_in: bool,
        /// Why.
        reason: String,
    },
    /// The keys of an issuer came, or no longer come.
    KeysChanged {
        /// The issuer's name.
        issuer: String,
        /// Keys that are there.
        keys: usize,
        /// Why no others came.
        failure: Option<String>,
    },
    /// The metrics page, Prometheus text form.
    Metrics {
        /// The page.
        text: String,
    },
}

/// What went through in a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests finished.
    pub requests: u64,
    /// Of these, answered with 5xx or not at all.
    pub errors: u64,
    /// Latency histogram: counts for the upper bounds of [`LATENCY_BOUNDS_MS`], then one for the rest.
    pub latency: Vec<u64>,
}

/// Upper bounds of the latency histogram. **Unit**: milliseconds.
/// From half a millisecond (a cached answer on loopback) to the 60 s of the default route timeout.
pub const LATENCY_BOUNDS_MS: [f64; 18] =
    [0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 25.0, 50.0, 75.0, 100.0, 150.0, 300.0, 500.0, 1000.0, 5000.0, 60000.0];

/// An endpoint as the edge sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// In the rotation.
    pub is_in: bool,
    /// Requests under way.
    pub in_flight: u64,
    /// What went through it.
    pub counts: Counts,
}

/// All that the edge needs to serve, but for endpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// See [`Self::schema_of`].
    pub schema: u32,
    /// Its place in the order of policies.
    pub generation: Generation,
    /// Hosts it answers; any other host gets 421.
    pub hosts: Vec<String>,
    /// Certificates by host.
    pub certificates: Vec<Certificate>,
    /// What certificate authorities are shown.
    #[serde(default)]
    pub challenges: Challenges,
    /// HTTPS port as people reach it, for redirects.
    pub https_port: u16,
    /// Limits of all requests, but for exempt routes.
    #[serde(default)]
    pub limits: Vec<Limit>,
    /// Who may connect.
    #[serde(default)]
    pub admission: Admission,
    /// Connections that one address may have at once.
    #[serde(default)]
    pub connections_per_ip: Option<u32>,
    /// Lowest version of TLS.
    #[serde(default)]
    pub least_tls: TlsVersion,
    /// Who signs tokens, by the name that routes give.
    #[serde(default)]
    pub issuers: BTreeMap<String, Issuer>,
    /// Who signs certificates that routes ask clients for: in PEM; empty: nobody that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
    /// Routes; the most specific path wins.
    pub routes: Vec<Route>,
    /// Upstreams by name.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Access log (JSON lines).
    pub access_log: PathBuf,
}

impl Policy {
    /// The schema of a policy that has these issuers, and these authorities of clients.
    pub fn schema_of(issuers: &BTreeMap<String, Issuer>, client_ca: Option<&String>) -> u32 {
        match (client_ca, issuers.is_empty()) {
            (Some(_), _) => CLIENTS_SCHEMA,
            (None, false) => ISSUERS_SCHEMA,
            (None, true) => PROTOCOL_VERSION,
        }
    }
}

/// What certificate authorities are shown to prove that the names are ours (ACME).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Challenges {
    /// HTTP-01: texts by token.
    pub http: BTreeMap<String, String>,
    /// TLS-ALPN-01: a certificate for each name.
    pub tls: Vec<Certificate>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Names it is for.
    pub hosts: Vec<String>,
    /// PEM chain, leaf first.
    pub chain_pem: String,
    /// PEM private key (PKCS #8).
    pub key_pem: Secret,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// `/exact` or `/prefix/*`.
    pub path: String,
    /// Where it leads.
    pub to: Target,
    /// Time for the whole answer of the upstream. **Unit**: milliseconds.
    pub timeout_ms: u64,
    /// Limits of its own.
    #[serde(default)]
    pub limits: Vec<Limit>,
    /// Whether the limits of all requests do not count here.
    #[serde(default)]
    pub is_exempt: bool,
    /// Who may use it.
    #[serde(default)]
    pub admission: Admission,
    /// Added to its answers.
    #[serde(default)]
    pub headers: Vec<Header>,
    /// Which other sites may use it.
    #[serde(default)]
    pub cors: Option<Cors>,
    /// Longest request body. **Unit**: bytes.
    #[serde(default = "body_limit")]
    pub body_limit: u64,
    /// How its requests are spread over endpoints.
    #[serde(default)]
    pub balancing: Balancing,
    /// From which size on its answers are compressed. **Unit**: bytes.
    #[serde(default)]
    pub compress: Option<u64>,
    /// What it changes in requests and answers.
    #[serde(default)]
    pub edits: Edits,
    /// Who may enter with a password.
    #[serde(default)]
    pub basic_auth: Option<BasicAuth>,
    /// Who may enter with a token.
    #[serde(default)]
    pub identity: Option<identity::Entry>,
    /// Whether clients show a certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
    /// Nobody is let in, and told to come back after so long. **Unit**: seconds.
    #[serde(default)]
    pub maintenance_s: Option<u64>,
}

/// Who signs tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// What the stack file says; paths are absolute.
    pub rule: identity::Issuer,
    /// The secret, when the keys are one.
    #[serde(default)]
    pub secret: Option<Secret>,
}

impl Route {
    /// What keeps people out of it, for comparison; `None`: it is open.
    pub(crate) fn shut(&self) -> Option<String> {
        let client = self.client_certificate;
        let by = (&self.admission, &self.basic_auth, &self.identity, client);
        let has_users = self.basic_auth.is_some() || self.identity.is_some() || client.is_some();
        let is_open = self.admission == Admission::default() && !has_users;
        // What cannot be written is no policy that came over a wire.
        (!is_open).then(|| serde_json::to_string(&by).unwrap_or_default())
    }
}

/// Users of a route. No password is in here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BasicAuth {
    /// Goes into each hash.
    pub salt: String,
    /// SHA-512 of salt, user and password, in Base64, by user.
    pub users: BTreeMap<String, Secret>,
}

impl BasicAuth {
    /// Of users with their passwords.
    pub fn new<'a>(salt: &str, users: impl IntoIterator<Item = (&'a str, &'a Secret)>) -> Self {
        use base64::Engine as _;
        let hash = |user: &str, password: &Secret| {
            Secret::new(base64::engine::general_purpose::STANDARD.encode(crate::entry::hash(salt, user, password)))
        };
        let users = users.into_iter().map(|(user, password)| (user.to_owned(), hash(user, password)));
        Self { salt: salt.to_owned(), users: users.collect() }
    }
}

/// Longest request body of a route that says nothing.
fn body_limit() -> u64 {
    100 * 1024 * 1024
}

impl Route {
    /// A route that asks nothing of its clients and adds nothing to its answers.
    pub fn new(path: &str, to: Target, timeout_ms: u64) -> Self {
        Self {
            path: path.to_owned(),
            to,
            timeout_ms,
            limits: Vec::new(),
            is_exempt: false,
            admission: Admission::default(),
            headers: Vec::new(),
            cors: None,
            body_limit: body_limit(),
            balancing: Balancing::default(),
            compress: None,
            edits: Edits::default(),
            basic_auth: None,
            identity: None,
            client_certificate: None,
            maintenance_s: None,
        }
    }
}

/// A header of answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Whether it replaces one of the upstream's.
    pub overwrites: bool,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Target {
    /// An upstream.
    Upstream {
        /// Its name.
        name: String,
    },
    /// A folder of files.
    Site {
        /// The folder, absolute.
        dir: PathBuf,
        /// Unknown paths without an extension answer `index.html`.
        spa: bool,
        /// How long clients keep them.
        #[serde(default)]
        cache: SiteCache,
    },
    /// Somewhere else.
    Redirect {
        /// A path or URL; a `*` at its end stands for what the route's own stands for.
        location: String,
        /// A status of redirection.
        status: u16,
    },
}

/// How an upstream is used. By default nothing waits for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    /// Path probed on an ejected endpoint, or on all while no control plane is connected; `None`: TCP connect.
    pub health_path: Option<String>,
    /// Most a request waits for an endpoint when none is in, before 503. **Unit**: milliseconds.
    pub hold_ms: u64,
    /// Most requests that wait so.
    pub hold_requests: u32,
    /// What becomes of endpoints that are new or fail.
    #[serde(default)]
    pub resilience: Resilience,
}

/// One endpoint of an upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id: the instance's name and start, `backend-1/3f…`.
    pub id: String,
    /// `127.0.0.1:port`.
    pub address: String,
    /// Takes new requests.
    pub is_ready: bool,
    /// The release it is of; 0: not known.
    #[serde(default)]
    pub release: u64,
}
