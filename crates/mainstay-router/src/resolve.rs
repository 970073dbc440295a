//! What became of a transaction whose COMMIT was in flight when its server was lost.
//!
//! Answers only what is certain: a number that the new primary gives out again belongs to somebody else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use crate::fit::ask;
use crate::link::{self, Link, Luggage, Wanted};
use crate::protocol::Server;
use crate::relay::Outcome;
use crate::shared::{Choice, Door, Fence, Route, Shared, View};
use crate::startup::Startup;

/// An answer comes from memory; a server that takes longer has other worries.
const DEADLINE: Duration = Duration::from_secs(1);

/// Asks the server that took over. `lost` is the reign under which the transaction ran. `None`: nothing was found out,
/// and an answer may still come on this connection, so it is for nobody any more.
pub(crate) async fn outcome(shared: &Shared, link: &mut Link, lost: u64, xid: u64) -> Option<Outcome> {
    let fence = *shared.fence.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // With two changes in between, or none (the same server came back), nothing is known of what it gives out again.
    let Some(fence) = fence.filter(|fence| fence.reign == link.reign && fence.reign == lost + 1) else {
        return Some(Outcome::Unknown);
    };
    if xid >= fence.first_own {
        return Some(Outcome::NotCommitted);
    }
    let question = format!("select pg_catalog.pg_xact_status('{xid}'::pg_catalog.xid8), ''");
    match timeout(DEADLINE, ask(link, &question)).await {
        Ok(Ok(rows)) => Some(match rows.first().map(|(status, _)| status.as_str()) {
            Some("committed") => Outcome::Committed,
            Some("aborted") => Outcome::NotCommitted,
            _ => Outcome::Unknown,
        }),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Where the numbers of a new primary begin; asked before any client gets to it, and only if somebody will want to
/// know. mainstay's own statements between promotion and this take no numbers.
pub(crate) async fn fence(shared: &Arc<Shared>, primary: &Server) -> Option<Fence> {
    if shared.knowing.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let view = shared.view.borrow().clone();
    let startup = own_startup(&view)?;
    let route = Route { server: primary.clone(), is_primary: true };
    let registered = shared.register(Door::Write, route.clone());
    let wanted = Wanted {
        shared: Arc::clone(shared),
        door: Door::Write,
        startup: Arc::new(startup),
        luggage: Luggage::default(),
        is_new: false,
        choice: Choice::default(),
    };
    let asking = async {
        let mut link = link::open(&wanted, &view, route, registered).await.ok()?;
        let question = "select pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::pg_catalog.text, ''";
        let rows = ask(&mut link, question).await.ok()?;
        let first_own = rows.first()?.0.parse().ok()?;
        Some(Fence { reign: view.reign + 1, first_own })
    };
    timeout(DEADLINE, asking).await.ok()?
}

/// As a role that may come in, in a database of its own if there is one.
pub(crate) fn own_startup(view: &View) -> Option<Startup> {
    let policy = &view.policy.as_ref()?.policy;
    let own = policy.roles.keys().find(|role| policy.databases.contains(role));
    let user = own.or_else(|| policy.roles.keys().next())?.clone();
    let database = own.or_else(|| policy.databases.first())?.clone();
    Some(Startup { user, database, ..Startup::default() })
}
