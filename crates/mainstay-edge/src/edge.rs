//! The edge's state: the snapshot in force, the groups, the counters; and what makes a policy come into force.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use mainstay_decide::share::Share;
use mainstay_stack::model::TlsVersion;
use mainstay_supervisor::durable;
use mainstay_types::Generation;
use serde::{Deserialize, Serialize};

use crate::access::AccessLog;
use crate::identity::Issuers;
use crate::limit::Limits;
use crate::metrics::Metrics;
use crate::protocol::{Endpoint, PROTOCOL_VERSION, Policy};
use crate::snapshot::{self, Live, PolicyError, Snapshot};
use crate::upstream::Groups;

/// The policy in the state folder.
const POLICY_FILE: &str = "edge.json";
/// The endpoints in the state folder.
const ENDPOINTS_FILE: &str = "edge-endpoints.json";

/// Why a policy did not come into force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It breaks a rule.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// It could not be kept.
    #[error("policy cannot be written to {}: {source}", path.display())]
    Keep {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct EndpointsFile {
    version: u32,
    upstreams: BTreeMap<String, Vec<Endpoint>>,
    #[serde(default)]
    shares: BTreeMap<String, Share>,
}

/// What counts before the first byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DoorRules {
    pub(crate) per_ip: Option<u32>,
    pub(crate) least_tls: TlsVersion,
}

/// Everything that lives as long as the process.
#[derive(Debug)]
pub(crate) struct Edge {
    snapshot: ArcSwapOption<Snapshot>,
    pub(crate) groups: Groups,
    pub(crate) metrics: Metrics,
    pub(crate) limits: Limits,
    pub(crate) issuers: Issuers,
    pub(crate) access: AccessLog,
    /// Control planes connected.
    pub(crate) controllers: AtomicUsize,
    state: PathBuf,
    /// One policy comes into force at a time.
    applying: Mutex<()>,
}

impl Edge {
    pub(crate) fn new(state: &Path) -> Self {
        Self {
            snapshot: ArcSwapOption::empty(),
            groups: Groups::new(),
            metrics: Metrics::default(),
            limits: Limits::new(),
            issuers: Issuers::new(state),
            access: AccessLog::start(),
            controllers: AtomicUsize::new(0),
            state: state.to_owned(),
            applying: Mutex::new(()),
        }
    }

    /// The snapshot in force.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.load_full()
    }

    /// Generation and hash of the policy in force.
    pub(crate) fn in_force(&self) -> Option<(Generation, String)> {
        self.snapshot.load().as_ref().map(|snapshot| (snapshot.generation, snapshot.hash.clone()))
    }

    /// The rules of the door in force.
    pub(crate) fn doors(&self) -> DoorRules {
        let snapshot = self.snapshot.load();
        DoorRules {
            per_ip: snapshot.as_ref().and_then(|snapshot| snapshot.connections_per_ip),
            least_tls: snapshot.as_ref().map_or_else(TlsVersion::default, |snapshot| snapshot.least_tls),
        }
    }

    /// Whether this address may connect.
    pub(crate) fn admits(&self, client: IpAddr) -> bool {
        self.snapshot.load().as_ref().is_none_or(|snapshot| snapshot.door.admits(Some(client)))
    }

    pub(crate) fn has_controller(&self) -> bool {
        self.controllers.load(Ordering::Relaxed) > 0
    }

    /// Checks a policy, keeps it on disk and puts it into force; or changes nothing. Blocks on the disk.
    ///
    /// **Errors**: the rule it breaks, or the disk's.
    pub(crate) fn apply(&self, policy: &Policy) -> Result<String, ApplyError> {
        let _one = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((in_force, hash)) = self.in_force() {
            if policy.generation < in_force {
                return Err(PolicyError::Older { offered: policy.generation, in_force }.into());
            }
            if policy.generation == in_force && snapshot::hash(policy) == hash {
                return Ok(hash);
            }
        }
        snapshot::check(policy)?;
        let path = self.state.join(POLICY_FILE);
        let keep = |source| ApplyError::Keep { path: path.clone(), source };
        let bytes = serde_json::to_vec(policy).map_err(|error| keep(error.into()))?;
        // Kept first: an edge that crashes now comes back with the policy it is about to accept.
        durable::replace(&path, &bytes, 0o600).map_err(keep)?;
        self.put_in_force(policy)
    }

    fn put_in_force(&self, policy: &Policy) -> Result<String, ApplyError> {
        let live = Live { groups: &self.groups, metrics: &self.metrics, limits: &self.limits, issuers: &self.issuers };
        let snapshot = Snapshot::compile(policy, &live)?;
        let hash = snapshot.hash.clone();
        self.access.open(&snapshot.access_log);
        self.snapshot.store(Some(Arc::new(snapshot)));
        Ok(hash)
    }

    /// Puts the last policy and endpoints from the disk into force, if there are any.
    ///
    /// **Errors**: the kept policy is not usable (the world changed, or another release wrote it); the edge then
    /// serves nothing until the control plane sends one.
    pub(crate) fn restore(&self) -> Result<(), ApplyError> {
        if let Ok(bytes) = std::fs::read(self.state.join(ENDPOINTS_FILE))
            && let Ok(file) = serde_json::from_slice::<EndpointsFile>(&bytes)
            && file.version == PROTOCOL_VERSION
        {
            self.groups.replace_endpoints(file.upstreams, file.shares);
        }
        let path = self.state.join(POLICY_FILE);
        let keep = |source| ApplyError::Keep { path: path.clone(), source };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(keep(error)),
        };
        let policy: Policy = serde_json::from_slice(&bytes).map_err(|error| keep(error.into()))?;
        match snapshot::check(&policy) {
            // A site that is gone is no reason to refuse everything else.
            Ok(()) | Err(PolicyError::Site { .. }) => self.put_in_force(&policy).map(drop),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the endpoints and keeps them, as well as it can: they are ephemeral. Blocks on the disk.
    pub(crate) fn replace_endpoints(
        &self,
        upstreams: BTreeMap<String, Vec<Endpoint>>,
        shares: BTreeMap<String, Share>,
    ) {
        let file = EndpointsFile { version: PROTOCOL_VERSION, upstreams, shares };
        let bytes = serde_json::to_vec(&file);
        self.groups.replace_endpoints(file.upstreams, file.shares);
        if let Ok(bytes) = bytes {
            durable::replace(&self.state.join(ENDPOINTS_FILE), &bytes, 0o600).ok();
        }
    }
}
