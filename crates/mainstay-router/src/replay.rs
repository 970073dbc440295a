//! How far standbys have replayed, for clients whose reads must see a position.
//!
//! Asks them only while somebody waits. What was seen of a standby holds for connections that were open before: one
//! that has crashed since may be further back, but its connections are gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mainstay_types::Lsn;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::fit::ask;
use crate::link::{self, Link, Luggage, Wanted};
use crate::protocol::Server;
use crate::resolve::own_startup;
use crate::shared::{Choice, Door, Route, Shared, View};

/// Between two questions: WAL of one commit is replayed in less.
const POLL: Duration = Duration::from_millis(5);

/// How long a standby may take to answer before the others are asked.
const ANSWER: Duration = Duration::from_millis(250);

/// How long the connections for it are kept when nobody waits.
const KEPT: Duration = Duration::from_secs(10);

/// What was seen of a standby.
#[derive(Clone, Debug)]
struct Seen {
    server: Server,
    position: Lsn,
    /// When it was asked.
    at: Instant,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Replay {
    seen: watch::Sender<Vec<Seen>>,
    waiting: AtomicUsize,
    wanted: Notify,
}

impl Replay {
    /// Whether the server had replayed that far when it was asked, later than `since`.
    pub(crate) fn has(&self, server: &Server, position: Lsn, since: Option<Instant>) -> bool {
        let is_it = |seen: &Seen| seen.server == *server && seen.position >= position;
        self.seen.borrow().iter().any(|seen| is_it(seen) && since.is_none_or(|since| seen.at > since))
    }

    /// Told of whenever something new was seen.
    pub(crate) async fn changed(&self) {
        self.seen.subscribe().changed().await.ok();
    }

    fn note(&self, seen: Seen) {
        self.seen.send_modify(|all| {
            all.retain(|other| other.server != seen.server);
            all.push(seen);
        });
    }

    fn forget(&self, is_forgotten: impl Fn(&Server) -> bool) {
        self.seen.send_if_modified(|all| {
            let before = all.len();
            all.retain(|seen| !is_forgotten(&seen.server));
            all.len() < before
        });
    }

    async fn is_wanted(&self) {
        while self.waiting.load(Ordering::Acquire) == 0 {
            self.wanted.notified().await;
        }
    }
}

/// Somebody waits, until this is dropped.
pub(crate) struct Interest(Arc<Shared>);

impl Interest {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        shared.replay.waiting.fetch_add(1, Ordering::AcqRel);
        shared.replay.wanted.notify_one();
        Self(Arc::clone(shared))
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.replay.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Asks for ever, whenever somebody waits.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut links: Vec<Link> = Vec::new();
    loop {
        if timeout(KEPT, shared.replay.is_wanted()).await.is_err() {
            links.clear();
            shared.replay.is_wanted().await;
        }
        let view = shared.view.borrow().clone();
        let standbys = view.targets.as_ref().map(|targets| targets.read.clone()).unwrap_or_default();
        links.retain(|link| standbys.contains(&link.route.server));
        shared.replay.forget(|server| !standbys.contains(server));
        for server in standbys {
            let at = Instant::now();
            match timeout(ANSWER, look(&shared, &view, &mut links, &server)).await {
                Ok(Some(position)) => shared.replay.note(Seen { server, position, at }),
                // A question may still be under way there.
                Ok(None) | Err(_) => {
                    links.retain(|link| link.route.server != server);
                    shared.replay.forget(|forgotten| *forgotten == server);
                }
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn look(shared: &Arc<Shared>, view: &View, links: &mut Vec<Link>, server: &Server) -> Option<Lsn> {
    let known = links.iter().position(|link| link.route.server == *server);
    let at = match known {
        Some(at) => at,
        None => {
            let route = Route { server: server.clone(), is_primary: false };
            let registered = shared.register(Door::Read, route.clone());
            // Nothing of a client's is ever under way there.
            registered.park(true);
            let wanted = Wanted {
                shared: Arc::clone(shared),
                door: Door::Read,
                startup: Arc::new(own_startup(view)?),
                luggage: Luggage::default(),
                is_new: false,
                choice: Choice::default(),
            };
            links.push(*link::open(&wanted, view, route, registered).await.ok()?);
            links.len() - 1
        }
    };
    let question = "select coalesce(pg_catalog.pg_last_wal_replay_lsn(), '0/0')::pg_catalog.text, ''";
    ask(&mut links[at], question).await.ok()?.first()?.0.parse().ok()
}
