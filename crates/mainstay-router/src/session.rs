//! One client session: greeted, authenticated, given a server, and kept through the loss of it.
//!
//! Never repeats a statement. Says to the client what became of what it sent.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::greet::{Greeted, greet};
use crate::link::{Link, Luggage, Parameters, Refused, Wanted, acquire};
use crate::message::{self, Severity, sqlstate};
use crate::relay::{Event, Relay, Stop};
use crate::shared::{CancelKey, ClientCount, Door, Held, Shared, View};
use crate::startup::Startup;
use crate::tracker::Fate;

/// A client that does not read its last message has this long.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a session without a server does not get one.
enum NoServer {
    ClientGone,
    Expired,
    Refused(Refused),
}

/// What a session does with the server it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stance {
    Run,
    /// New cycles wait: the targets say hold.
    Pause,
    /// To another server at the next good moment.
    Move,
    /// Another primary is in force: not a byte more from this one.
    Close,
    /// The router stops.
    Stop,
}

struct Session {
    shared: Arc<Shared>,
    door: Door,
    startup: Arc<Startup>,
    relay: Relay,
    view: watch::Receiver<View>,
    cancel: CancelKey,
    /// What the client believes.
    parameters: Parameters,
    settings: Vec<(String, String)>,
}

/// Serves a client until it or we are done.
pub(crate) async fn serve(client: TcpStream, count: ClientCount, door: Door) {
    let shared = Arc::clone(&count.shared);
    let Some(Greeted { client, startup, rest }) = greet(client, &shared, door).await else { return };
    let Ok(cancel) = shared.issue_cancel() else { return };
    let mut session = Session {
        view: shared.view.subscribe(),
        relay: Relay::new(client, Arc::clone(&shared), door, rest),
        shared,
        door,
        startup: Arc::new(startup),
        cancel,
        parameters: Parameters::new(),
        settings: Vec::new(),
    };
    Box::pin(session.run()).await;
    session.farewell().await;
}

impl Session {
    async fn run(&mut self) {
        let held = Held::new(Arc::clone(&self.shared), self.door);
        let mut link = match self.find(true, held).await {
            Ok(link) => link,
            Err(no_server) => return self.give_up(no_server),
        };
        self.adopt(&mut link);
        message::backend_key(self.relay.client_buffer(), self.cancel.process, self.cancel.secret);
        message::ready(self.relay.client_buffer(), crate::tracker::IDLE);
        self.relay.resume(&mut link);
        loop {
            let event = self.live(&mut link).await;
            self.cancel.point(None);
            self.settings = merged(std::mem::take(&mut self.settings), link.settings());
            self.parameters = std::mem::take(&mut link.parameters);
            let fate = match event {
                LiveEnd::Lost => self.relay.lose(),
                LiveEnd::Over => None,
            };
            let Some(fate) = fate else { return };
            // Counted as held before the connection's end is seen: whoever looks in between must not miss it.
            let held = Held::new(Arc::clone(&self.shared), self.door);
            let is_in_flight = matches!(fate, Fate::Unknown | Fate::UnknownAndEnd);
            self.shared.note(|failover| failover.in_flight += u64::from(is_in_flight));
            // Closed before anything is waited for: new targets wait for it.
            drop(link);
            match self.replace(fate, held).await {
                Some(next) => link = next,
                None => return,
            }
        }
    }

    /// The session has a server; ends when it has not any more.
    async fn live(&mut self, link: &mut Link) -> LiveEnd {
        let mut view = self.view.clone();
        let mut held: Option<(Held, Instant)> = None;
        loop {
            let stance = stance(&view.borrow_and_update(), self.door, link);
            self.relay.is_paused = stance == Stance::Pause;
            self.relay.stop = match stance {
                Stance::Run | Stance::Pause => Stop::Never,
                Stance::Move => Stop::WhenIdle,
                Stance::Stop => Stop::WhenQuiet,
                Stance::Close => return LiveEnd::Lost,
            };
            if stance == Stance::Pause {
                let hold = view.borrow().hold();
                held.get_or_insert_with(|| (Held::new(Arc::clone(&self.shared), self.door), Instant::now() + hold));
            } else if held.take().is_some() {
                self.shared.note(|failover| failover.carried += 1);
            }
            let deadline = held.as_ref().map(|(_, deadline)| *deadline);
            tokio::select! {
                biased;
                _ = view.changed() => {}
                event = poll_fn(|cx| self.relay.poll_live(link, cx)) => return self.ended(event, stance),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    if self.relay.tracker.is_idle() {
                        self.expired();
                        return LiveEnd::Over;
                    }
                    // What is begun may take its time; looked at again soon.
                    held = held.map(|(held, _)| (held, Instant::now() + Duration::from_millis(100)));
                }
            }
        }
    }

    fn ended(&mut self, event: Event, stance: Stance) -> LiveEnd {
        match event {
            Event::ClientGone | Event::ServerEnded => LiveEnd::Over,
            Event::ClientMalformed(error) => {
                self.relay.error(Severity::Fatal, sqlstate::PROTOCOL_VIOLATION, &error.to_string());
                LiveEnd::Over
            }
            Event::Stopped if stance == Stance::Stop => {
                self.stopping();
                LiveEnd::Over
            }
            Event::ServerLost | Event::Stopped => LiveEnd::Lost,
        }
    }

    /// Another server for a session that lost its own, if it can have one.
    async fn replace(&mut self, fate: Fate, held: Held) -> Option<Box<Link>> {
        if fate == Fate::UnknownAndEnd {
            return None;
        }
        let found = self.find(false, held).await;
        if let Fate::End { reason } = fate {
            if !matches!(found, Err(NoServer::ClientGone)) {
                self.shared.note(|failover| failover.ended += 1);
                let text = format!("the database server was lost, and with it {reason}; connect again");
                self.relay.error(Severity::Fatal, sqlstate::ADMIN_SHUTDOWN, &text);
            }
            return None;
        }
        match found {
            Ok(mut link) => {
                self.shared.note(|failover| failover.carried += 1);
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

    /// Waits for a server, with the client held.
    async fn find(&mut self, is_new: bool, held: Held) -> Result<Box<Link>, NoServer> {
        let deadline = held.since() + self.view.borrow().hold();
        let wanted = Wanted {
            shared: Arc::clone(&self.shared),
            door: self.door,
            startup: Arc::clone(&self.startup),
            luggage: Luggage { settings: self.settings.clone(), statements: self.relay.tracker.statements() },
            is_new,
        };
        let acquired = Box::pin(acquire(wanted, self.shared.view.subscribe()));
        tokio::select! {
            biased;
            found = acquired => found.map_err(NoServer::Refused),
            _ = poll_fn(|cx| self.relay.poll_held(cx)) => Err(NoServer::ClientGone),
            () = sleep_until(deadline) => Err(NoServer::Expired),
        }
    }

    /// The client learns what is different here.
    fn adopt(&mut self, link: &mut Link) {
        self.cancel.point(Some(link.cancel.clone()));
        for (name, value) in &link.parameters {
            if self.parameters.get(name) != Some(value) {
                message::parameter_status(self.relay.client_buffer(), name, value);
            }
        }
        self.parameters = Parameters::new();
    }

    fn give_up(&mut self, no_server: NoServer) {
        match no_server {
            NoServer::ClientGone => {}
            NoServer::Expired => self.expired(),
            NoServer::Refused(Refused::Stopping) => self.stopping(),
            NoServer::Refused(Refused::TooMany) => self.relay.error(
                Severity::Fatal,
                sqlstate::TOO_MANY_CONNECTIONS,
                "the router's limit of server connections (max_servers) is reached",
            ),
            NoServer::Refused(Refused::ByServer(failure)) => {
                self.relay.error(Severity::Fatal, &failure.code, &failure.text);
            }
            NoServer::Refused(Refused::Luggage(text)) => {
                self.shared.note(|failover| failover.ended += 1);
                let text = format!("the session could not be carried over to another database server: {text}");
                self.relay.error(Severity::Fatal, sqlstate::ADMIN_SHUTDOWN, &text);
            }
        }
    }

    fn expired(&mut self) {
        let hold = self.view.borrow().hold();
        let text = format!("no database server for {} ms (hold_ms); connect again later", hold.as_millis());
        self.relay.error(Severity::Fatal, sqlstate::CANNOT_CONNECT_NOW, &text);
    }

    fn stopping(&mut self) {
        self.relay.error(Severity::Fatal, sqlstate::ADMIN_SHUTDOWN, "the router is stopping; connect again");
    }

    /// Gives the client its last message.
    async fn farewell(mut self) {
        // A client that is gone or does not read learns nothing more: there is no one to tell.
        if let Ok(Ok(())) = timeout(FAREWELL, poll_fn(|cx| self.relay.poll_flushed(cx))).await {
            self.relay.into_client().shutdown().await.ok();
        }
    }
}

enum LiveEnd {
    /// The server is lost, the client is there.
    Lost,
    /// Nothing more to do.
    Over,
}

fn stance(view: &View, door: Door, link: &Link) -> Stance {
    if view.is_stopping {
        return Stance::Stop;
    }
    let Some(targets) = &view.targets else { return Stance::Pause };
    let route = &link.route;
    match &targets.write {
        Some(primary) if route.is_primary && *primary == route.server => match door {
            Door::Write => Stance::Run,
            // Standbys are back, or still none.
            Door::Read if targets.read.is_empty() => Stance::Run,
            Door::Read => Stance::Move,
        },
        Some(_) if route.is_primary => Stance::Close,
        None if route.is_primary => Stance::Pause,
        _ if targets.read.contains(&route.server) => Stance::Run,
        _ => Stance::Move,
    }
}

/// Settings changed on the last server win over those carried to it.
fn merged(mut carried: Vec<(String, String)>, changed: Vec<(String, String)>) -> Vec<(String, String)> {
    carried.retain(|(name, _)| changed.iter().all(|(other, _)| other != name));
    carried.extend(changed);
    carried
}
