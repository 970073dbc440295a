//! A reader that names a position waits for a standby that has it; when none has in time, the primary serves it.

use std::future::poll_fn;
use std::sync::Arc;

use mainstay_types::Lsn;
use tokio::time::{Duration, Instant, sleep_until};

use super::{Held, Link, NoServer, PoolMode, Session, Stance, merged, stance};
use crate::message::{Severity, sqlstate};
use crate::protocol::Server;
use crate::replay::Interest;
use crate::shared::{Choice, Door, Route};
use crate::startup::Startup;
use crate::tracker::Fate;

/// What became of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reached {
    Yes,
    /// Not within the policy's time.
    Late,
    /// The targets lead away from the server that the client has, or hold it there.
    Elsewhere,
    ClientGone,
}

impl Session {
    /// Before a server is taken: which one may serve the client.
    pub(super) async fn choose(&mut self) -> Result<(), NoServer> {
        let is_behind = std::mem::take(&mut self.is_behind);
        self.choice = Choice::default();
        self.relay.ahead = None;
        if self.door == Door::Write {
            return Ok(());
        }
        let Some(position) = self.relay.tracker.read_after() else { return Ok(()) };
        let is_at_primary = match Box::pin(self.reach(position, None, is_behind)).await {
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
        let reached = match position {
            Some(position) => self.reach(position, Some(&link.route), true).await,
            None => Reached::Yes,
        };
        let is_at_primary = match reached {
            Reached::ClientGone => return None,
            Reached::Elsewhere => {
                self.take_up(&mut link);
                return Some(link);
            }
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
        self.settings = merged(std::mem::take(&mut self.settings), &link);
        if self.relay.lose()? != Fate::Carry {
            self.cannot_leave();
            return None;
        }
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

    /// Waits until a standby has replayed that far; for a client that has one, that one. `is_new`: what was seen before
    /// does not count. A server that the client should not have any more is not kept by the wait.
    async fn reach(&mut self, position: Lsn, at: Option<&Route>, is_new: bool) -> Reached {
        let begun = Instant::now();
        let mut view = self.shared.view.subscribe();
        let since = is_new.then_some(begun);
        let shared = Arc::clone(&self.shared);
        let mut interest = None;
        let only = at.filter(|route| !route.is_primary).map(|route| &route.server);
        let limit = view.borrow().policy.as_ref().map_or(0, |in_force| in_force.policy.pool.read_wait_ms);
        let deadline = begun + Duration::from_millis(limit);
        loop {
            let now = view.borrow_and_update().clone();
            if at.is_some_and(|route| stance(&now, self.door, route, self.choice) != Stance::Run) {
                return Reached::Elsewhere;
            }
            let targets = now.targets;
            let standbys = targets.as_ref().map(|targets| targets.read.as_slice()).unwrap_or_default();
            let has = |server: &Server| shared.replay.has(server, position, since);
            let is_asked = |server: &&Server| only.is_none_or(|only| only == *server);
            if standbys.is_empty() || standbys.iter().filter(is_asked).any(has) {
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

/// The position that reads must see is the router's to know, not the server's. On the write port nobody waits.
///
/// **Errors**: what is wrong with it, in words.
pub(super) fn without_position(mut startup: Startup, door: Door) -> Result<(Startup, Option<Lsn>), String> {
    let is_it = |(name, _): &(String, String)| name.eq_ignore_ascii_case(crate::position::NAME);
    let mut said = startup.parameters.iter().find(|one| is_it(one)).map(|(_, value)| value.clone());
    startup.parameters.retain(|one| !is_it(one));
    for (_, options) in startup.parameters.iter_mut().filter(|(name, _)| name == "options") {
        if let (rest, Some(value)) = crate::position::from_options(options) {
            *options = rest;
            said = Some(value);
        }
    }
    startup.parameters.retain(|(name, value)| name != "options" || !value.is_empty());
    let position = said.filter(|value| door == Door::Read && !value.is_empty()).map(|value| value.parse());
    let position = position
        .transpose()
        .map_err(|_| format!("{} takes a position such as 0/3000060, or nothing", crate::position::NAME))?;
    Ok((startup, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_in_the_startup_packet_stays_with_the_router() {
        let parameters = [(crate::position::NAME, "0/3000060"), ("application_name", "x")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let given = Startup { parameters, ..Startup::default() };
        let (startup, position) = without_position(given, Door::Read).unwrap();
        assert_eq!(position, Some(Lsn::new(0x300_0060)));
        assert_eq!(startup.parameters, [("application_name".to_owned(), "x".to_owned())]);
    }

    #[test]
    fn a_position_that_is_none_is_refused_where_it_would_count() {
        for (name, value) in [(crate::position::NAME, "0/x"), ("options", "-c mainstay.read_after=junk")] {
            let parameters = vec![(name.to_owned(), value.to_owned())];
            let given = Startup { parameters, ..Startup::default() };
            let told = without_position(given.clone(), Door::Read).unwrap_err();
            assert!(told.contains("mainstay.read_after takes a position"), "{told}");
            assert_eq!(without_position(given, Door::Write), Ok((Startup::default(), None)));
        }
    }
}
