//! What all sessions share: the policy and targets in force, the server connections that exist, cancel keys and
//! counters.
//!
//! Never decides who is primary: it only publishes what it was told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainstay_types::Lsn;
use subtle::ConstantTimeEq;
use tokio::sync::{Notify, OwnedRwLockReadGuard, RwLock, Semaphore, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::client::acceptor;
use crate::metrics::DoorCounters;
use crate::pool::Pools;
use crate::protocol::{Policy, Server, Targets};
use crate::replay::Replay;
use crate::scram::{ClientKeys, Verifier, salt_of};

/// Connections that are made to servers at the same time: a new primary meets a queue, not a stampede.
const CONNECTING: usize = 32;

/// Keys towards servers that are remembered: roles times members, with room for changed passwords.
const MAX_KEYS: usize = 256;

/// Which listener a client came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Door {
    Write,
    Read,
}

/// A policy and what is derived from it.
pub(crate) struct InForce {
    pub(crate) policy: Policy,
    pub(crate) tls: Option<TlsAcceptor>,
    verifiers: BTreeMap<String, Verifier>,
}

impl std::fmt::Debug for InForce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InForce").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl InForce {
    /// Derives the verifiers; takes some milliseconds a role.
    pub(crate) fn new(policy: Policy, secret: &[u8; 32]) -> Self {
        let verifiers = policy
            .roles
            .iter()
            .map(|(role, password)| (role.clone(), Verifier::derive(password.expose(), salt_of(role, secret))))
            .collect();
        // One that cannot be used was refused when it came.
        let tls = policy.tls.as_ref().and_then(|tls| acceptor(&tls.chain_pem, &tls.key_pem).ok());
        Self { policy, tls, verifiers }
    }
}

/// What sessions watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) policy: Option<Arc<InForce>>,
    pub(crate) targets: Option<Arc<Targets>>,
    pub(crate) is_stopping: bool,
    /// Counts changes of the primary.
    pub(crate) reign: u64,
}

/// Where a session's statements go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) server: Server,
    /// It is used as the primary, so it must not answer once another is.
    pub(crate) is_primary: bool,
}

impl View {
    /// Where a new server connection goes; `None`: hold.
    pub(crate) fn route(&self, door: Door, turn: usize) -> Option<Route> {
        let targets = self.targets.as_ref()?;
        let primary = || targets.write.clone().map(|server| Route { server, is_primary: true });
        match door {
            Door::Write => primary(),
            Door::Read if targets.read.is_empty() => primary(),
            Door::Read => {
                let server = targets.read[turn % targets.read.len()].clone();
                Some(Route { server, is_primary: false })
            }
        }
    }

    pub(crate) fn hold(&self) -> Duration {
        // Without a policy nobody comes in; the value bounds the wait of those who are in.
        Duration::from_millis(self.policy.as_ref().map_or(1_000, |in_force| in_force.policy.hold_ms))
    }
}

/// Which server may serve a reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// One that has replayed that far is preferred.
    pub(crate) after: Option<Lsn>,
    /// No standby had in time.
    pub(crate) is_at_primary: bool,
}

/// What became of the sessions in a failover.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failover {
    /// Set once targets with another primary came.
    pub(crate) epoch: Option<u64>,
    pub(crate) carried: u64,
    pub(crate) ended: u64,
    pub(crate) aborted: u64,
    pub(crate) in_flight: u64,
    pub(crate) longest_hold: Duration,
}

/// The first transaction number that a primary gave itself: those from here on that clients know from its
/// predecessor never reached it, and it gives them to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) reign: u64,
    pub(crate) first_own: u64,
}

struct CancelEntry {
    secret: [u8; 4],
    at: Option<CancelAt>,
}

/// A server process that can be asked to cancel.
#[derive(Clone)]
pub(crate) struct CancelAt {
    pub(crate) server: Server,
    pub(crate) process: u32,
    pub(crate) secret: Vec<u8>,
    /// Shared by those who cancel there now.
    gate: Arc<RwLock<()>>,
}

impl CancelAt {
    pub(crate) fn new(server: Server, process: u32, secret: Vec<u8>) -> Self {
        Self { server, process, secret, gate: Arc::new(RwLock::new(())) }
    }

    /// Waits until nobody cancels there. A cancel that the server has taken while idle does nothing
    /// (`ProcessInterrupts`, `DoingCommandRead`), so it cannot meet the next client's statement.
    pub(crate) async fn unused(&self) {
        drop(self.gate.write().await);
    }
}

/// A cancel request under way.
pub(crate) struct Cancelling {
    at: CancelAt,
    _gate: OwnedRwLockReadGuard<()>,
}

impl std::ops::Deref for Cancelling {
    type Target = CancelAt;

    fn deref(&self) -> &CancelAt {
        &self.at
    }
}

/// A server connection that exists.
struct Counted {
    route: Route,
    /// Nothing is under way on it, and nothing is sent before somebody says otherwise.
    is_parked: bool,
}

type KeyName = (String, Vec<u8>, u32);

/// See the module.
pub(crate) struct Shared {
    pub(crate) view: watch::Sender<View>,
    pub(crate) write: DoorCounters,
    pub(crate) read: DoorCounters,
    pub(crate) pools: Pools,
    pub(crate) replay: Replay,
    pub(crate) connecting: Semaphore,
    pub(crate) turn: AtomicU64,
    /// The second in which a client that was turned away was last told of.
    pub(crate) turned_away: AtomicU64,
    pub(crate) failover: Mutex<Failover>,
    /// Sessions that know the number of a transaction whose outcome may have to be found out.
    pub(crate) knowing: AtomicU64,
    pub(crate) fence: Mutex<Option<Fence>>,
    /// Salts and mock verifiers come from it; kept on disk so that salts do not change.
    pub(crate) secret: [u8; 32],
    links: Mutex<BTreeMap<u64, Counted>>,
    link_closed: Notify,
    next: AtomicU64,
    cancels: Mutex<BTreeMap<u32, CancelEntry>>,
    keys: Mutex<BTreeMap<KeyName, (String, ClientKeys)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps behind these locks are consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(secret: [u8; 32], view: View) -> Self {
        Self {
            view: watch::Sender::new(view),
            write: DoorCounters::default(),
            read: DoorCounters::default(),
            pools: Pools::default(),
            replay: Replay::default(),
            connecting: Semaphore::new(CONNECTING),
            turn: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            failover: Mutex::new(Failover::default()),
            knowing: AtomicU64::new(0),
            fence: Mutex::default(),
            secret,
            links: Mutex::new(BTreeMap::new()),
            link_closed: Notify::new(),
            next: AtomicU64::new(0),
            cancels: Mutex::new(BTreeMap::new()),
            keys: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn counters(&self, door: Door) -> &DoorCounters {
        match door {
            Door::Write => &self.write,
            Door::Read => &self.read,
        }
    }

    /// As [`View::route`], for a client that may not be served by any standby.
    pub(crate) fn route(&self, view: &View, door: Door, turn: usize, choice: Choice) -> Option<Route> {
        let Some(position) = choice.after.filter(|_| door == Door::Read) else { return view.route(door, turn) };
        let targets = view.targets.as_ref()?;
        if choice.is_at_primary {
            return targets.write.clone().map(|server| Route { server, is_primary: true });
        }
        let count = targets.read.len();
        let mut standbys = (0..count).map(|step| &targets.read[(turn % count + step) % count]);
        match standbys.find(|server| self.replay.has(server, position, None)) {
            Some(server) => Some(Route { server: server.clone(), is_primary: false }),
            // The session looks again before it uses it.
            None => view.route(door, turn),
        }
    }

    pub(crate) fn clients(&self) -> u64 {
        self.write.clients.load(Ordering::Relaxed) + self.read.clients.load(Ordering::Relaxed)
    }

    pub(crate) fn held(&self) -> u64 {
        self.write.held.load(Ordering::Relaxed) + self.read.held.load(Ordering::Relaxed)
    }

    pub(crate) fn servers(&self) -> usize {
        lock(&self.links).len()
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut Failover)) {
        change(&mut lock(&self.failover));
    }

    /// The verifier of a role; of one that does not exist, one that no proof passes.
    pub(crate) fn verifier(&self, role: &str) -> Verifier {
        let mock = Verifier::mock(salt_of(role, &self.secret), &self.secret);
        let view = self.view.borrow();
        let known = view.policy.as_ref().and_then(|in_force| in_force.verifiers.get(role));
        known.cloned().unwrap_or(mock)
    }

    /// The keys that prove `password` to a server, derived once.
    pub(crate) fn client_keys(&self, role: &str, password: &str, salt: &[u8], iterations: u32) -> ClientKeys {
        let name = (role.to_owned(), salt.to_vec(), iterations);
        if let Some((known, keys)) = lock(&self.keys).get(&name)
            && known == password
        {
            return keys.clone();
        }
        let keys = ClientKeys::derive(password, salt, iterations);
        let mut all = lock(&self.keys);
        if all.len() >= MAX_KEYS {
            all.clear();
        }
        all.insert(name, (password.to_owned(), keys.clone()));
        keys
    }

    /// Counts a server connection, before it is made.
    pub(crate) fn register(self: &Arc<Self>, door: Door, route: Route) -> Registered {
        self.registered(&mut lock(&self.links), door, route)
    }

    /// The same, if there are fewer than `most`.
    pub(crate) fn register_below(self: &Arc<Self>, most: usize, door: Door, route: Route) -> Option<Registered> {
        let mut links = lock(&self.links);
        (links.len() < most).then(|| self.registered(&mut links, door, route))
    }

    fn registered(self: &Arc<Self>, links: &mut BTreeMap<u64, Counted>, door: Door, route: Route) -> Registered {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        links.insert(number, Counted { route, is_parked: false });
        self.counters(door).servers.fetch_add(1, Ordering::Relaxed);
        Registered { shared: Arc::clone(self), door, number }
    }

    /// Waits until a server connection is closed.
    pub(crate) async fn link_closed(&self) {
        self.link_closed.notified().await;
    }

    /// Waits until no connection is left that takes another server than `primary` for the primary.
    pub(crate) async fn only_primary_left(&self, primary: &Server) {
        loop {
            let closed = self.link_closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if lock(&self.links).values().all(|one| !one.route.is_primary || one.route.server == *primary) {
                return;
            }
            closed.await;
        }
    }

    /// Connections at work that the targets in force no longer lead to, by member.
    pub(crate) fn leaving(&self) -> BTreeMap<mainstay_types::Member, u64> {
        let mut leaving = BTreeMap::new();
        let Some(targets) = self.view.borrow().targets.clone() else { return leaving };
        for Counted { route, is_parked } in lock(&self.links).values() {
            let is_target = match route.is_primary {
                true => targets.write.as_ref() == Some(&route.server),
                false => targets.read.contains(&route.server),
            };
            if !is_target && !is_parked {
                *leaving.entry(route.server.member).or_insert(0) += 1;
            }
        }
        leaving
    }

    /// Gives a session a cancel key of its own.
    pub(crate) fn issue_cancel(self: &Arc<Self>) -> std::io::Result<CancelKey> {
        let secret = crate::random::number()?;
        let mut cancels = lock(&self.cancels);
        // Process numbers are of no secrecy; a free one is found at once, there are far fewer sessions.
        let mut process = crate::random::number()? >> 1;
        while process == 0 || cancels.contains_key(&process) {
            process = process.wrapping_add(1) & 0x7fff_ffff;
        }
        cancels.insert(process, CancelEntry { secret: secret.to_be_bytes(), at: None });
        Ok(CancelKey { shared: Arc::clone(self), process, secret })
    }

    /// The server process that a client's cancel request means.
    pub(crate) fn cancel_target(&self, process: u32, secret: &[u8]) -> Option<Cancelling> {
        let cancels = lock(&self.cancels);
        let entry = cancels.get(&process)?;
        let at = bool::from(entry.secret.as_slice().ct_eq(secret)).then(|| entry.at.clone()).flatten()?;
        // Taken while the key points there: whoever gives the server away waits for it.
        let gate = Arc::clone(&at.gate).try_read_owned().ok()?;
        Some(Cancelling { at, _gate: gate })
    }
}

/// A server connection that is counted until this is dropped.
pub(crate) struct Registered {
    shared: Arc<Shared>,
    door: Door,
    number: u64,
}

impl Registered {
    /// Nothing is under way on the connection, or something may be from now on.
    pub(crate) fn park(&self, is_parked: bool) {
        if let Some(counted) = lock(&self.shared.links).get_mut(&self.number) {
            counted.is_parked = is_parked;
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.shared.links).remove(&self.number);
        self.shared.counters(self.door).servers.fetch_sub(1, Ordering::Relaxed);
        self.shared.link_closed.notify_waiters();
    }
}

/// A session's cancel key.
pub(crate) struct CancelKey {
    shared: Arc<Shared>,
    pub(crate) process: u32,
    pub(crate) secret: u32,
}

impl CancelKey {
    /// From now on it cancels there.
    pub(crate) fn point(&self, at: Option<CancelAt>) {
        if let Some(entry) = lock(&self.shared.cancels).get_mut(&self.process) {
            entry.at = at;
        }
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        lock(&self.shared.cancels).remove(&self.process);
    }
}

/// A client session that is counted until this is dropped.
pub(crate) struct ClientCount {
    pub(crate) shared: Arc<Shared>,
    door: Door,
}

impl ClientCount {
    pub(crate) fn new(shared: Arc<Shared>, door: Door) -> Self {
        shared.counters(door).clients.fetch_add(1, Ordering::Relaxed);
        Self { shared, door }
    }
}

impl Drop for ClientCount {
    fn drop(&mut self) {
        self.shared.counters(self.door).clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A session that knows its transaction's number, counted until this is dropped.
pub(crate) struct Knowing(Arc<Shared>);

impl Knowing {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        shared.knowing.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Knowing {
    fn drop(&mut self) {
        self.0.knowing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A session without a server that is counted until this is dropped.
pub(crate) struct Detached {
    shared: Arc<Shared>,
    door: Door,
}

impl Detached {
    pub(crate) fn new(shared: Arc<Shared>, door: Door) -> Self {
        shared.counters(door).detached.fetch_add(1, Ordering::Relaxed);
        Self { shared, door }
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        self.shared.counters(self.door).detached.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A hold that is counted and measured until this is dropped.
pub(crate) struct Held {
    shared: Arc<Shared>,
    door: Door,
    since: Instant,
}

impl Held {
    pub(crate) fn new(shared: Arc<Shared>, door: Door) -> Self {
        shared.counters(door).held.fetch_add(1, Ordering::Relaxed);
        Self { shared, door, since: Instant::now() }
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let counters = self.shared.counters(self.door);
        counters.held.fetch_sub(1, Ordering::Relaxed);
        let took = self.since.elapsed();
        counters.hold.record(took);
        self.shared.note(|failover| failover.longest_hold = failover.longest_hold.max(took));
    }
}
