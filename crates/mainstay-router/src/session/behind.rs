//! A reader that names a position waits for a standby that has it; when none has in time, the primary serves it.

use std::future::poll_fn;
use std::sync::Arc;

use mainstay_types::Lsn;
use tokio::time::{Duration, Instant, sleep_until};

use super::{Held, Link, NoServer, PoolMode, Session, merged};
use crate::message::{Severity, sqlstate};
use crate::protocol::Server;
use crate::replay::Interest;
use crate::shared::{Choice, Door};
use crate::startup::Startup;

/// What became of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Yes,
    /// Not within the policy's time.
    Late,
    ClientGone,
}

impl Session {
    /// Before a server is taken: which one may serve the client.
    pub(super) async fn choose(&mut self) -> Result<(), NoServer> {
        let is_behind = std::mem::take(&mut self.is_behind);
        self.choice = Choice::default();
        if self.door == Door::Write {
            return Ok(());
        }
        let Some(position) = self.relay.tracker.read_after() else { return Ok(()) };
        let is_at_primary = match self.reach(position, None, is_behind).await {
            Reached::ClientGone => return Err(NoServer::ClientGone),
            reached => reached == Reached::Late,
        };
        self.choice = Choice { after: Some(position), is_at_primary };
        Ok(())
    }

    /// The client has a server that may not have what it wants to see, and something to say. Gives the server that it
    /// goes on with.
    pub(super) async fn catch_up(&mut self, mut link: Box<Link>) -> Option<Box<Link>> {
        let is_primary = link.route.is_primary;
        let position = self.relay.tracker.read_after();
        let only = (!is_primary).then(|| link.route.server.clone());
        let reached = match position {
            Some(position) => self.reach(position, only.as_ref(), true).await,
            None => Reached::Yes,
        };
        let is_at_primary = match reached {
            Reached::ClientGone => return None,
            Reached::Yes => false,
            Reached::Late => true,
        };
        self.choice = Choice { after: position, is_at_primary };
        self.relay.ahead = if is_at_primary { position } else { None };
        if is_at_primary == is_primary {
            self.take_up(&mut link);
            return Some(link);
        }
        // A client that shares servers and does not give this one back has a reason too.
        if self.mode == PoolMode::Transaction || self.relay.tracker.must_stay() {
            self.cannot_leave();
            return None;
        }
        self.move_over(link).await
    }

    fn cannot_leave(&mut self) {
        let reason = self.relay.tracker.tie_reason().unwrap_or("state of the session");
        let text = format!("the standby has not reached {} in time, and {reason} is there", crate::position::NAME);
        self.relay.error(Severity::Fatal, sqlstate::CANNOT_CONNECT_NOW, &text);
    }

    /// To another server, with nothing under way.
    async fn move_over(&mut self, link: Box<Link>) -> Option<Box<Link>> {
        self.settings = merged(std::mem::take(&mut self.settings), link.settings());
        self.relay.lose()?;
        drop(link);
        self.active = None;
        let held = Held::new(Arc::clone(&self.shared), self.door);
        match self.find(false, held).await {
            Ok(mut link) => {
                self.adopt(&mut link);
                self.relay.resume(&mut link);
                Some(link)
            }
            Err(no_server) => {
                self.give_up(no_server);
                None
            }
        }
    }

    /// Waits until a standby, or `only` this one, has replayed that far. `is_new`: what was seen before does not count.
    async fn reach(&mut self, position: Lsn, only: Option<&Server>, is_new: bool) -> Reached {
        let begun = Instant::now();
        let mut view = self.shared.view.subscribe();
        let since = is_new.then_some(begun);
        let shared = Arc::clone(&self.shared);
        let mut interest = None;
        let limit = view.borrow().policy.as_ref().map_or(0, |in_force| in_force.policy.pool.read_wait_ms);
        let deadline = begun + Duration::from_millis(limit);
        loop {
            let targets = view.borrow_and_update().targets.clone();
            let standbys = targets.as_ref().map(|targets| targets.read.as_slice()).unwrap_or_default();
            let has = |server: &Server| shared.replay.has(server, position, since);
            let is_gone = standbys.is_empty() || only.is_some_and(|only| !standbys.contains(only));
            let is_there = standbys.iter().filter(|server| only.is_none_or(|only| only == *server)).any(has);
            if is_gone || is_there {
                if interest.is_some() {
                    self.pool.count_behind(begun.elapsed(), false);
                }
                return Reached::Yes;
            }
            if Instant::now() >= deadline {
                self.pool.count_behind(begun.elapsed(), true);
                return Reached::Late;
            }
            let changed = shared.replay.changed();
            interest.get_or_insert_with(|| Interest::new(&shared));
            tokio::select! {
                biased;
                () = changed => {}
                _ = view.changed() => {}
                _ = poll_fn(|cx| self.relay.poll_held(cx)) => return Reached::ClientGone,
                () = sleep_until(deadline) => {}
            }
        }
    }
}

/// The position that reads must see is the router's to know, not the server's.
pub(super) fn without_position(mut startup: Startup) -> (Startup, Option<Lsn>) {
    let is_it = |(name, _): &(String, String)| name == crate::position::NAME;
    let position = startup.parameters.iter().find(|one| is_it(one)).and_then(|(_, value)| value.parse().ok());
    startup.parameters.retain(|one| !is_it(one));
    (startup, position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_in_the_startup_packet_stays_with_the_router() {
        let parameters = [(crate::position::NAME, "0/3000060"), ("application_name", "x")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let (startup, position) = without_position(Startup { parameters, ..Startup::default() });
        assert_eq!(position, Some(Lsn::new(0x300_0060)));
        assert_eq!(startup.parameters, [("application_name".to_owned(), "x".to_owned())]);
    }
}
