//! Server connections that clients share: given out in the order of asking, taken back clean, and not kept for ever.
//!
//! Never gives a connection to two sessions, nor one to a session that another has left state on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::fit::{Suit, fit, is_fresh};
use crate::link::{self, ATTEMPT, AttemptError, Link, Luggage, Parameters, RETRY, Refused, Wanted};
use crate::metrics::Histogram;
use crate::protocol::{PoolMode, PoolPolicy, PoolState};
use crate::shared::{Choice, Door, Held, Route, Shared, View};
use crate::startup::Startup;

/// A client that finds all servers of the machine in use looks again that soon, besides being told.
const LOOK: Duration = Duration::from_millis(50);

/// How often connections that are idle or old are looked for, at most and at least.
const SWEEP: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Whose servers they are.
type Name = (Door, String, String);

/// All pools.
#[derive(Default)]
pub(crate) struct Pools {
    all: Mutex<BTreeMap<Name, Arc<Pool>>>,
}

/// The servers of one role in one database, by one door.
pub(crate) struct Pool {
    name: Name,
    permits: Arc<Semaphore>,
    held_back: Mutex<Size>,
    /// The one used last at the end.
    idle: Mutex<Vec<Idle>>,
    /// Parameters and startup packets that are the same are kept once.
    last: Mutex<(Arc<Parameters>, Arc<Startup>)>,
    clients: AtomicU64,
    active: AtomicU64,
    waiting: AtomicU64,
    /// Sessions whose turn it is and whose server cannot be reached; told of when that begins or ends.
    failing: watch::Sender<u64>,
    tied: Mutex<BTreeMap<&'static str, u64>>,
    acquired: AtomicU64,
    refused: AtomicU64,
    waits: Histogram,
    /// Waits of readers for a position.
    behind: Histogram,
    to_primary: AtomicU64,
}

/// How many permits there are, and how many too many after the policy shrank.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    size: usize,
    surplus: usize,
}

struct Idle {
    link: Box<Link>,
    since: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn policy(view: &View) -> PoolPolicy {
    view.policy.as_ref().map(|in_force| in_force.policy.pool.clone()).unwrap_or_default()
}

/// Adds one to a counter until it is dropped.
macro_rules! counted {
    ($(#[$doc:meta])* $name:ident, $field:ident) => {
        $(#[$doc])*
        pub(crate) struct $name(Arc<Pool>);

        impl $name {
            pub(crate) fn new(pool: Arc<Pool>) -> Self {
                pool.$field.fetch_add(1, Ordering::Relaxed);
                Self(pool)
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.$field.fetch_sub(1, Ordering::Relaxed);
            }
        }
    };
}

counted!(
    /// A session.
    Member,
    clients
);
counted!(
    /// A session that has a server.
    Active,
    active
);
counted!(Waiting, waiting);

/// A session whose turn it is and whose server cannot be reached, counted until this is dropped.
struct Failing(Arc<Pool>);

impl Failing {
    fn new(pool: Arc<Pool>) -> Self {
        pool.failing.send_modify(|count| *count += 1);
        Self(pool)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.0.failing.send_modify(|count| *count -= 1);
    }
}

/// What came of looking for a connection.
enum Found {
    Link(Box<Link>),
    /// Something else may: targets have changed, or there is no room for one more just now.
    Again,
    /// Its server cannot be reached.
    Unreachable,
}

impl From<Option<Box<Link>>> for Found {
    fn from(link: Option<Box<Link>>) -> Self {
        link.map_or(Self::Again, Self::Link)
    }
}

/// A session that keeps its server between transactions, and why, counted until this is dropped.
pub(crate) struct Tied(Arc<Pool>, &'static str);

impl Tied {
    pub(crate) fn new(pool: Arc<Pool>, reason: &'static str) -> Self {
        *lock(&pool.tied).entry(reason).or_default() += 1;
        Self(pool, reason)
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        let mut tied = lock(&self.0.tied);
        if let Some(count) = tied.get_mut(self.1) {
            *count -= 1;
        }
        tied.retain(|_, count| *count > 0);
    }
}

impl Pools {
    /// The pool of these.
    pub(crate) fn of(&self, door: Door, startup: &Startup, view: &View) -> Arc<Pool> {
        let name = (door, startup.database.clone(), startup.user.clone());
        let pool = Arc::clone(lock(&self.all).entry(name.clone()).or_insert_with(|| Arc::new(Pool::new(name))));
        pool.resize(policy(view).size as usize);
        pool
    }

    /// Another policy is in force.
    pub(crate) fn resize(&self, view: &View) {
        for pool in lock(&self.all).values() {
            pool.resize(policy(view).size as usize);
        }
    }

    /// Closes what leads to servers that are no targets any more. To be called once `view` is in force.
    pub(crate) fn purge(&self, view: &View) {
        for pool in lock(&self.all).values() {
            lock(&pool.idle).retain(|idle| is_current(view, &idle.link.route));
        }
    }

    /// Closes what is idle for too long or too old.
    fn sweep(&self, policy: &PoolPolicy) {
        let idle_for = Duration::from_millis(policy.idle_ms);
        let lifetime = Duration::from_millis(policy.lifetime_ms);
        for pool in lock(&self.all).values() {
            let mut idle = lock(&pool.idle);
            let mut left = idle.len();
            // The one idle for longest first.
            idle.retain(|idle| {
                let is_spare = left > policy.least_idle as usize && idle.since.elapsed() >= idle_for;
                let is_kept = !is_spare && idle.link.since.elapsed() < lifetime;
                left -= usize::from(!is_kept);
                is_kept
            });
        }
    }

    /// Closes the server connection that is idle for longest. Gives whether there was one.
    fn evict(&self) -> bool {
        let all = lock(&self.all);
        let oldest = all.values().filter_map(|pool| Some((lock(&pool.idle).first()?.since, pool)));
        let Some((_, pool)) = oldest.min_by_key(|(since, _)| *since) else { return false };
        let mut idle = lock(&pool.idle);
        if !idle.is_empty() {
            idle.remove(0);
        }
        true
    }

    /// How they are.
    pub(crate) fn states(&self, shared: &Shared) -> Vec<PoolState> {
        let mode = policy(&shared.view.borrow()).mode;
        lock(&self.all).values().map(|pool| pool.state(shared, mode)).collect()
    }
}

/// Sweeps for ever.
pub(crate) async fn sweep(shared: Arc<Shared>) {
    loop {
        let policy = policy(&shared.view.borrow());
        shared.pools.sweep(&policy);
        let (least, most) = SWEEP;
        let pause = Duration::from_millis(policy.idle_ms.min(policy.lifetime_ms) / 4);
        tokio::time::sleep(pause.clamp(least, most)).await;
    }
}

/// Whether a connection there may be used for new transactions.
fn is_current(view: &View, route: &Route) -> bool {
    let Some(targets) = &view.targets else { return true };
    match (&targets.write, route.is_primary) {
        // Held: the same primary may come back.
        (None, true) => true,
        // By the read door too: for readers that no standby can serve.
        (Some(primary), true) => *primary == route.server,
        (_, false) => targets.read.contains(&route.server),
    }
}

impl Pool {
    fn new(name: Name) -> Self {
        Self {
            name,
            permits: Arc::new(Semaphore::new(0)),
            held_back: Mutex::default(),
            idle: Mutex::default(),
            last: Mutex::default(),
            clients: AtomicU64::new(0),
            active: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            failing: watch::Sender::new(0),
            tied: Mutex::default(),
            acquired: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            waits: Histogram::default(),
            behind: Histogram::default(),
            to_primary: AtomicU64::new(0),
        }
    }

    fn resize(&self, size: usize) {
        let mut now = lock(&self.held_back);
        if size > now.size {
            let grown = size - now.size;
            let kept = grown.min(now.surplus);
            now.surplus -= kept;
            self.permits.add_permits(grown - kept);
        } else {
            let shrunk = now.size - size;
            now.surplus += shrunk - self.permits.forget_permits(shrunk);
        }
        now.size = size;
    }

    /// The policy shrank: one place less.
    fn is_surplus(&self) -> bool {
        let mut now = lock(&self.held_back);
        let is_surplus = now.surplus > 0;
        now.surplus -= usize::from(is_surplus);
        is_surplus
    }

    pub(crate) fn size(&self) -> usize {
        lock(&self.held_back).size
    }

    pub(crate) fn tied(&self) -> u64 {
        lock(&self.tied).values().sum()
    }

    /// Somebody waits for a server.
    pub(crate) fn is_contended(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    fn state(&self, shared: &Shared, mode: PoolMode) -> PoolState {
        let (door, database, role) = &self.name;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (waited, wait_p95_us) = self.waits.summary();
        let (behind, behind_p95_us) = self.behind.summary();
        let (active, waiting) = (load(&self.active), load(&self.waiting));
        PoolState {
            door: if *door == Door::Write { "write" } else { "read" }.to_owned(),
            database: database.clone(),
            role: role.clone(),
            mode,
            size: self.size() as u64,
            clients_active: active,
            clients_idle: load(&self.clients).saturating_sub(active + waiting),
            clients_waiting: waiting,
            clients_tied: self.tied(),
            tied_by: lock(&self.tied).iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            servers_idle: lock(&self.idle).len() as u64,
            acquired: load(&self.acquired),
            waited,
            wait_p95_us,
            refused: load(&self.refused),
            held: shared.counters(*door).held.load(Ordering::Relaxed),
            behind,
            behind_p95_us,
            to_primary: load(&self.to_primary),
        }
    }

    /// A session got a server.
    pub(crate) fn count_acquired(&self) {
        self.acquired.fetch_add(1, Ordering::Relaxed);
    }

    /// A reader waited for a standby, or went to the primary instead.
    pub(crate) fn count_behind(&self, took: Duration, is_late: bool) {
        self.behind.record(took);
        self.to_primary.fetch_add(u64::from(is_late), Ordering::Relaxed);
    }

    /// The startup packet for this pool's servers: without a name of its own, which is set for each client. One
    /// copy of those that are the same.
    pub(crate) fn startup(&self, startup: &Startup) -> Arc<Startup> {
        let mut plain = startup.clone();
        plain.parameters.retain(|(name, _)| name != "application_name");
        plain.unknown_options = None;
        let mut last = lock(&self.last);
        if *last.1 != plain {
            last.1 = Arc::new(plain);
        }
        Arc::clone(&last.1)
    }

    /// A connection that is there, without waiting.
    pub(crate) fn take_now(&self, route: Option<Route>, startup: &Startup) -> Option<Box<Link>> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        let route = route?;
        let mut link = self.pop(&route, startup)?;
        link.permit = Some(permit);
        Some(link)
    }

    /// The one used last of those that lead there and were opened alike.
    fn pop(&self, route: &Route, startup: &Startup) -> Option<Box<Link>> {
        loop {
            let mut link = {
                let mut idle = lock(&self.idle);
                let at = idle.iter().rposition(|idle| idle.link.route == *route && *idle.link.startup == *startup)?;
                idle.remove(at).link
            };
            // Before anything is sent: whoever counts those at work must not miss it.
            link.park(false);
            if is_fresh(&mut link) {
                return Some(link);
            }
        }
    }

    /// Takes a connection back that nothing is left on.
    pub(crate) fn put(&self, mut link: Box<Link>, shared: &Shared) {
        let permit = link.permit.take();
        if self.is_surplus() {
            if let Some(permit) = permit {
                permit.forget();
            }
            return;
        }
        let lifetime = Duration::from_millis(policy(&shared.view.borrow()).lifetime_ms);
        if link.since.elapsed() < lifetime && !link.side.is_spoiled {
            link.side.known.ready(u64::MAX);
            let mut idle = lock(&self.idle);
            // Looked at under the lock that a purge takes after the view has changed.
            if is_current(&shared.view.borrow(), &link.route) {
                link.park(true);
                idle.push(Idle { link, since: Instant::now() });
            }
        }
        // After the connection: whoever gets it finds that.
        drop(permit);
    }

    /// Room for one more connection of this session's kind.
    fn make_room(&self) {
        let size = self.size();
        let in_use = size.saturating_sub(self.permits.available_permits());
        let mut idle = lock(&self.idle);
        while !idle.is_empty() && idle.len() + in_use > size {
            idle.remove(0);
        }
    }

    fn intern(&self, link: &mut Link) {
        let mut last = lock(&self.last);
        if *last.0 == *link.initial {
            link.initial = Arc::clone(&last.0);
        } else {
            last.0 = Arc::clone(&link.initial);
        }
        if *link.side.parameters == *link.initial {
            link.side.parameters = Arc::clone(&link.initial);
        }
    }
}

/// A session that wants a server.
pub(crate) struct Asker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) door: Door,
    pub(crate) startup: Arc<Startup>,
    pub(crate) suit: Suit,
    pub(crate) choice: Choice,
}

impl Asker {
    /// A server that is like the session wants it, in its turn. `link` was taken already; `held` counts the session
    /// once there is no server to connect to.
    pub(crate) async fn ask(
        self,
        mut link: Option<Box<Link>>,
        mut view: watch::Receiver<View>,
        held: &mut Option<Held>,
    ) -> Result<Box<Link>, Refused> {
        let mut permit = match link.as_mut().and_then(|link| link.permit.take()) {
            Some(permit) => Some(permit),
            None => Some(self.queue(&mut view, held).await?),
        };
        let mut failing = None;
        loop {
            let now = view.borrow_and_update().clone();
            if now.is_stopping {
                return Err(Refused::Stopping);
            }
            let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
            let route = self.shared.route(&now, self.door, usize::try_from(turn).unwrap_or(0), self.choice);
            let found = match (route, link.take()) {
                (Some(route), Some(taken)) if taken.route == route => self.fitted(taken, false).await?.into(),
                (Some(route), _) => match self.pool.pop(&route, &self.startup) {
                    Some(popped) => self.fitted(popped, false).await?.into(),
                    None => self.connect(&now, route, &mut view).await?,
                },
                (None, _) => Found::Again,
            };
            match found {
                Found::Link(mut found) => {
                    found.permit = permit.take();
                    return Ok(found);
                }
                Found::Again => {}
                Found::Unreachable => {
                    failing.get_or_insert_with(|| Failing::new(Arc::clone(&self.pool)));
                }
            }
            let held = held.get_or_insert_with(|| Held::new(Arc::clone(&self.shared), self.door));
            let deadline = held.since() + now.hold();
            let is_routed = self.is_routed(&now);
            let pause = if is_routed { Instant::now() + RETRY } else { deadline };
            timeout_at(pause.min(deadline), view.changed()).await.ok();
            if Instant::now() >= deadline {
                return Err(Refused::Expired);
            }
        }
    }

    /// There is a server that the session could have.
    fn is_routed(&self, view: &View) -> bool {
        self.shared.route(view, self.door, 0, self.choice).is_some()
    }

    /// The same, and those whose turn it is can reach it: who waits for them waits for other clients.
    fn is_served(&self, view: &View) -> bool {
        self.is_routed(view) && *self.pool.failing.borrow() == 0
    }

    /// Waits for the turn of this session: for as long as the policy says that clients wait for each other, and, when
    /// there is no server that any of them could have, as long as it holds them. It is held from then on, not from its
    /// turn on.
    async fn queue(
        &self,
        view: &mut watch::Receiver<View>,
        held: &mut Option<Held>,
    ) -> Result<OwnedSemaphorePermit, Refused> {
        let pool = &self.pool;
        if let Ok(permit) = Arc::clone(&pool.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let begun = Instant::now();
        let PoolPolicy { wait_ms, queue: most, .. } = policy(&view.borrow());
        let wait = Duration::from_millis(wait_ms);
        let waiting = Waiting::new(Arc::clone(pool));
        let mut failing = pool.failing.subscribe();
        let is_crowded = pool.waiting.load(Ordering::Relaxed) > u64::from(most);
        if is_crowded && held.is_none() && self.is_served(&view.borrow()) {
            pool.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Refused::Crowded { most });
        }
        let acquired = Arc::clone(&pool.permits).acquire_owned();
        tokio::pin!(acquired);
        // Since when the wait is one for other clients.
        let mut routed = Some(begun);
        let found = loop {
            let now = view.borrow_and_update().clone();
            if now.is_stopping {
                break Err(Refused::Stopping);
            }
            failing.mark_unchanged();
            if self.is_served(&now) {
                routed.get_or_insert_with(Instant::now);
            } else {
                routed = None;
                held.get_or_insert_with(|| Held::new(Arc::clone(&self.shared), self.door));
            }
            let patience = held.as_ref().map(|held| held.since() + now.hold());
            // One of the two is there.
            let deadline = patience.max(routed.map(|routed| routed + wait)).unwrap_or(begun);
            tokio::select! {
                biased;
                // Nobody closes the semaphore.
                permit = &mut acquired => break permit.map_err(|_| Refused::Stopping),
                _ = view.changed() => {}
                // The pool has the sender.
                _ = failing.changed() => {}
                () = sleep_until(deadline) => {
                    break Err(if routed.is_some() { Refused::Waited } else { Refused::Expired });
                }
            }
        };
        drop(waiting);
        pool.waits.record(begun.elapsed());
        if matches!(found, Err(Refused::Waited)) {
            pool.refused.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// `None`: the connection is lost, or not what the session needs; another one may be.
    async fn fitted(&self, mut link: Box<Link>, is_new: bool) -> Result<Option<Box<Link>>, Refused> {
        if self.suit.fits(&link) {
            return Ok(Some(link));
        }
        match timeout(ATTEMPT, fit(&mut link, &self.suit)).await {
            Ok(Ok(())) => Ok(Some(link)),
            Ok(Err(AttemptError::Final(refused))) if is_new => Err(refused),
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    async fn connect(&self, now: &View, route: Route, view: &mut watch::Receiver<View>) -> Result<Found, Refused> {
        self.pool.make_room();
        let most = now.policy.as_ref().map_or(0, |in_force| in_force.policy.max_servers as usize);
        let Some(registered) = self.shared.register_below(most, self.door, route.clone()) else {
            if !self.shared.pools.evict() {
                timeout(LOOK, self.shared.link_closed()).await.ok();
            }
            return Ok(Found::Again);
        };
        let wanted = Wanted {
            shared: Arc::clone(&self.shared),
            door: self.door,
            startup: Arc::clone(&self.startup),
            luggage: Luggage::default(),
            is_new: false,
            choice: self.choice,
        };
        let attempt = async {
            let _permit = self.shared.connecting.acquire().await;
            timeout(ATTEMPT, link::open(&wanted, now, route, registered)).await
        };
        let opened = tokio::select! {
            biased;
            _ = view.changed() => {
                view.mark_changed();
                return Ok(Found::Again);
            }
            opened = attempt => opened,
        };
        match opened {
            Ok(Ok(mut link)) => {
                self.pool.intern(&mut link);
                Ok(self.fitted(link, true).await?.into())
            }
            Ok(Err(AttemptError::Final(refused))) => Err(refused),
            Ok(Err(AttemptError::Passing)) | Err(_) => Ok(Found::Unreachable),
        }
    }
}
