//! One client session: greeted, authenticated, given a server, and kept through the loss of it.
//!
//! Never repeats a statement. Says to the client what became of what it sent.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::fit::{Settings, Suit, read_back};
use crate::greet::{Greeted, greet};
use crate::link::{ATTEMPT, Link, Luggage, Parameters, Refused, Wanted, acquire};
use crate::message::{self, Severity, sqlstate};
use crate::pool::{Active, Asker, Member, Pool};
use crate::protocol::PoolMode;
use crate::relay::{Event, Outcome, Relay, Stop};
use crate::resolve::outcome;
use crate::shared::{CancelKey, Choice, ClientCount, Detached, Door, Held, Route, Shared, View};
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
    parameters: Arc<Parameters>,
    /// As its last server had them at first.
    initial: Arc<Parameters>,
    settings: Vec<(String, String)>,
    pool: Arc<Pool>,
    /// As it was when the client came in.
    mode: PoolMode,
    /// Settings that a shared server has to be given: those that it reports, and others.
    reported: Settings,
    unreported: Settings,
    active: Option<Active>,
    /// Under which primary the last server was lost.
    lost_reign: u64,
    choice: Choice,
    /// The last server did not have what the client's reads must see.
    is_behind: bool,
}

mod behind;

/// Serves a client until it or we are done.
///
/// What runs once in a session's life or seldom is boxed, here and below: an idle session holds the room of the
/// largest future that it may be in.
pub(crate) async fn serve(client: TcpStream, count: ClientCount, door: Door) {
    let Some(mut session) = Box::pin(begin(client, Arc::clone(&count.shared), door)).await else { return };
    let _member = Member::new(Arc::clone(&session.pool));
    Box::pin(session.run()).await;
    Box::pin(farewell(session.relay)).await;
}

/// Greets a client; `None`: there is no session, and it knows why.
async fn begin(client: TcpStream, shared: Arc<Shared>, door: Door) -> Option<Box<Session>> {
    let Greeted { client, startup, rest } = greet(client, &shared, door).await?;
    let (startup, read_after) = match behind::without_position(startup, door) {
        Ok(known) => known,
        Err(text) => {
            let mut relay = Relay::new(client, shared, door, Vec::new());
            relay.error(Severity::Fatal, sqlstate::INVALID_TEXT_REPRESENTATION, &text);
            farewell(relay).await;
            return None;
        }
    };
    let cancel = shared.issue_cancel().ok()?;
    let view = shared.view.subscribe();
    let pool = shared.pools.of(door, &startup, &view.borrow());
    let mode = view.borrow().policy.as_ref().map(|in_force| in_force.policy.pool.mode).unwrap_or_default();
    let mut relay = Relay::new(client, Arc::clone(&shared), door, rest);
    if mode == PoolMode::Transaction {
        relay.share(Arc::clone(&pool));
    }
    relay.tracker.start_after(read_after);
    Some(Box::new(Session {
        view,
        relay,
        shared,
        door,
        cancel,
        parameters: Arc::default(),
        initial: Arc::default(),
        settings: Vec::new(),
        pool,
        mode,
        reported: application_name(&startup),
        unreported: Settings::new(),
        startup: Arc::new(startup),
        active: None,
        lost_reign: 0,
        choice: Choice::default(),
        is_behind: false,
    }))
}

/// What became of a server that was given back.
enum GivenBack {
    Yes,
    /// It has state of the session that cannot be known.
    No(Box<Link>),
    Lost,
}

impl Session {
    async fn run(&mut self) {
        let mut link = match Box::pin(self.find_first()).await {
            Ok(link) => link,
            Err(no_server) => return self.give_up(no_server),
        };
        self.adopt(&mut link);
        message::backend_key(self.relay.client_buffer(), self.cancel.process, self.cancel.secret);
        message::ready(self.relay.client_buffer(), crate::tracker::IDLE);
        self.relay.resume(&mut link);
        loop {
            let end = self.live(&mut link).await;
            self.cancel.point(None);
            self.learn(&link);
            let next = match end {
                LiveEnd::Over => return,
                LiveEnd::Lost => Box::pin(self.go_on(Some(link))).await,
                LiveEnd::Behind => Box::pin(self.catch_up(link)).await,
                LiveEnd::Changed => match Box::pin(self.settle(&mut link)).await {
                    true => {
                        self.take_up(&mut link);
                        Some(link)
                    }
                    false => Box::pin(self.go_on(Some(link))).await,
                },
                LiveEnd::Free { is_client_gone } => match self.give_back(link, is_client_gone).await {
                    GivenBack::Yes if is_client_gone => return,
                    GivenBack::Yes => self.rest().await,
                    GivenBack::No(mut link) => {
                        self.take_up(&mut link);
                        Some(link)
                    }
                    GivenBack::Lost => Box::pin(self.go_on(None)).await,
                },
            };
            let Some(next) = next else { return };
            link = next;
        }
    }

    /// What the session is like at the end of its time with a server.
    fn learn(&mut self, link: &Link) {
        if !Arc::ptr_eq(&self.parameters, &link.side.parameters) {
            self.parameters = Arc::clone(&link.side.parameters);
            self.reported = link.settings().into_iter().collect();
        }
    }

    async fn find_first(&mut self) -> Result<Box<Link>, NoServer> {
        match self.mode {
            PoolMode::Session => {
                let held = Held::new(Arc::clone(&self.shared), self.door);
                self.find(true, held).await
            }
            PoolMode::Transaction => {
                // One copy of those that are the same.
                self.startup = self.pool.startup(&self.startup);
                self.find_shared(&mut None).await
            }
        }
    }

    /// The server is lost: tells the client what became of what it sent, and finds another one.
    async fn go_on(&mut self, link: Option<Box<Link>>) -> Option<Box<Link>> {
        if let Some(link) = &link {
            self.lost_reign = link.reign;
            self.settings = merged(std::mem::take(&mut self.settings), link);
        }
        let fate = self.relay.lose()?;
        // Counted as held before the connection's end is seen: whoever looks in between must not miss it.
        let held = Held::new(Arc::clone(&self.shared), self.door);
        let is_in_flight = matches!(fate, Fate::Unknown | Fate::UnknownAndEnd);
        self.shared.note(|failover| {
            failover.in_flight += u64::from(is_in_flight);
            failover.aborted += u64::from(fate == Fate::Abort);
        });
        // Closed before anything is waited for: new targets wait for it.
        drop(link);
        self.active = None;
        self.replace(fate, held).await
    }

    /// Asks the server for the settings that the client has made. `false`: it is lost.
    async fn settle(&mut self, link: &mut Link) -> bool {
        match timeout(ATTEMPT, Box::pin(read_back(link))).await {
            Ok(Ok(Some(settings))) => {
                self.relay.tracker.read_back();
                self.unreported.clone_from(&settings);
                link.side.settings = settings;
                true
            }
            Ok(Ok(None)) => {
                self.relay.tracker.unreadable();
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Other clients may have the server now.
    async fn give_back(&mut self, mut link: Box<Link>, is_client_gone: bool) -> GivenBack {
        // A cancel that is under way must not meet the next client's statement.
        link.cancel.unused().await;
        if self.relay.tracker.has_changed() {
            if is_client_gone {
                return GivenBack::Yes;
            }
            if !Box::pin(self.settle(&mut link)).await {
                return GivenBack::Lost;
            }
            if self.relay.tracker.is_tied() {
                return GivenBack::No(link);
            }
        }
        // Counted all the time: whoever looks in between must not take it for gone.
        self.pool.put(link, &self.shared);
        self.active = None;
        GivenBack::Yes
    }

    /// Without a server until the client needs one.
    async fn rest(&mut self) -> Option<Box<Link>> {
        self.relay.leave();
        let detached = Detached::new(Arc::clone(&self.shared), self.door);
        let event = loop {
            if self.view.borrow_and_update().is_stopping {
                self.stopping();
                return None;
            }
            tokio::select! {
                biased;
                event = poll_fn(|cx| self.relay.poll_detached(cx)) => break event,
                _ = self.view.changed() => {}
            }
        };
        if !matches!(event, Event::ClientWants) {
            return None;
        }
        // Counted before it is not any more among those without need of a server.
        let is_routed = self.shared.route(&self.view.borrow(), self.door, 0, Choice::default()).is_some();
        let mut held = (!is_routed).then(|| Held::new(Arc::clone(&self.shared), self.door));
        drop(detached);
        match self.find_shared(&mut held).await {
            Ok(mut link) => {
                self.shared.note(|failover| failover.carried += u64::from(held.is_some()));
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

    /// A server of the pool, in this session's turn.
    async fn find_shared(&mut self, held: &mut Option<Held>) -> Result<Box<Link>, NoServer> {
        let begun = Instant::now();
        let has_had_one = !self.parameters.is_empty();
        let suit = Suit {
            known: has_had_one.then(|| (Arc::clone(&self.parameters), Arc::clone(&self.initial))),
            reported: self.reported.clone(),
            unreported: self.unreported.clone(),
        };
        self.choose().await?;
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        let turn = usize::try_from(turn).unwrap_or(0);
        let route = self.shared.route(&self.shared.view.borrow(), self.door, turn, self.choice);
        let taken = self.pool.take_now(route, &self.startup);
        let found = match taken {
            Some(link) if suit.fits(&link) => link,
            taken => Box::pin(self.ask(taken, suit, held)).await?,
        };
        self.pool.count_acquired();
        self.shared.counters(self.door).acquire.record(begun.elapsed());
        Ok(found)
    }

    /// A server of the pool for which the client has to wait, or which has to be made to suit it.
    async fn ask(
        &mut self,
        taken: Option<Box<Link>>,
        suit: Suit,
        held: &mut Option<Held>,
    ) -> Result<Box<Link>, NoServer> {
        let asker = Asker {
            shared: Arc::clone(&self.shared),
            pool: Arc::clone(&self.pool),
            door: self.door,
            startup: Arc::clone(&self.startup),
            suit,
            choice: self.choice,
        };
        let asked = asker.ask(taken, self.shared.view.subscribe(), held);
        tokio::select! {
            biased;
            found = asked => found.map_err(NoServer::Refused),
            _ = poll_fn(|cx| self.relay.poll_held(cx)) => Err(NoServer::ClientGone),
        }
    }

    /// The session has a server; ends when it has not any more.
    async fn live(&mut self, link: &mut Link) -> LiveEnd {
        let mut view = self.view.clone();
        let mut held: Option<(Held, Instant)> = None;
        let mut is_parked = false;
        loop {
            let stance = stance(&view.borrow_and_update(), self.door, &link.route, self.choice);
            self.relay.is_paused = stance == Stance::Pause;
            self.relay.tells_idle = stance == Stance::Pause && !is_parked;
            if stance != Stance::Pause {
                // Also what an earlier time with this server parked.
                link.park(false);
                is_parked = false;
            }
            if stance == Stance::Run {
                link.reign = view.borrow().reign;
            }
            self.relay.stop = match stance {
                Stance::Run | Stance::Pause if self.mode == PoolMode::Transaction => Stop::WhenFree,
                Stance::Run | Stance::Pause => Stop::WhenChanged,
                // The primary serves a reader as well as a standby.
                Stance::Move if link.route.is_primary => Stop::WhenLoose,
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
                event = poll_fn(|cx| self.relay.poll_live(link, cx)) => match event {
                    Event::Stopped if self.relay.tells_idle => {
                        // What was begun is over, and nothing is begun before somebody says where.
                        link.park(true);
                        is_parked = true;
                        self.relay.tells_idle = false;
                    }
                    event => return self.ended(event, stance),
                },
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
            Event::Stopped if matches!(stance, Stance::Run | Stance::Pause) => match self.mode {
                PoolMode::Session => LiveEnd::Changed,
                PoolMode::Transaction => LiveEnd::Free { is_client_gone: false },
            },
            // They go with the session.
            Event::Stopped if stance == Stance::Move && self.has_settings_to_read() => LiveEnd::Changed,
            Event::Behind if self.mode == PoolMode::Transaction && self.relay.tracker.is_free() => {
                self.is_behind = true;
                LiveEnd::Free { is_client_gone: false }
            }
            Event::Behind => LiveEnd::Behind,
            Event::ClientGone if self.mode == PoolMode::Transaction && self.relay.tracker.is_free() => {
                LiveEnd::Free { is_client_gone: true }
            }
            Event::ClientGone | Event::ServerEnded | Event::ClientWants => LiveEnd::Over,
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

    /// Settings may have changed, and can be asked for.
    fn has_settings_to_read(&self) -> bool {
        self.relay.tracker.has_changed() && self.relay.tracker.is_free()
    }

    /// Another server for a session that lost its own, if it can have one.
    async fn replace(&mut self, fate: Fate, held: Held) -> Option<Box<Link>> {
        if fate == Fate::UnknownAndEnd && self.relay.unresolved().is_none() {
            return None;
        }
        let mut found = self.find_another(held).await;
        let is_clean = self.resolve(fate, found.as_mut().ok()).await;
        if fate == Fate::UnknownAndEnd {
            return None;
        }
        if !is_clean && found.is_ok() {
            // Closed before the next one is looked for: its answer to our question would be taken for the client's.
            drop(found);
            let held = Held::new(Arc::clone(&self.shared), self.door);
            found = self.find_another(held).await;
        }
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

    async fn find_another(&mut self, held: Held) -> Result<Box<Link>, NoServer> {
        match self.mode {
            PoolMode::Session => self.find(false, held).await,
            PoolMode::Transaction => self.find_shared(&mut Some(held)).await,
        }
    }

    /// Tells what became of a COMMIT in flight, as far as the new server knows. `false`: that server's connection is
    /// not to be used.
    async fn resolve(&mut self, fate: Fate, link: Option<&mut Box<Link>>) -> bool {
        let Some(xid) = self.relay.unresolved() else { return true };
        let found = match link {
            Some(link) => outcome(&self.shared, link, self.lost_reign, xid).await,
            None => Some(Outcome::Unknown),
        };
        let severity = if fate == Fate::UnknownAndEnd { Severity::Fatal } else { Severity::Error };
        self.relay.resolved(found.unwrap_or(Outcome::Unknown), severity);
        found.is_some()
    }

    /// Waits for a server, with the client held.
    async fn find(&mut self, is_new: bool, held: Held) -> Result<Box<Link>, NoServer> {
        let deadline = held.since() + self.view.borrow().hold();
        let wanted = Wanted {
            shared: Arc::clone(&self.shared),
            door: self.door,
            startup: Arc::clone(&self.startup),
            luggage: Luggage {
                settings: self.settings.clone(),
                unreported: self.unreported.clone(),
                statements: self.relay.tracker.statements(),
            },
            is_new,
            choice: self.choice,
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
        self.active = Some(Active::new(Arc::clone(&self.pool)));
        self.initial = Arc::clone(&link.initial);
        self.relay.check_readable(&link.side.parameters);
        if Arc::ptr_eq(&self.parameters, &link.side.parameters) {
            return;
        }
        for (name, value) in link.side.parameters.iter() {
            if self.parameters.get(name) != Some(value) {
                message::parameter_status(self.relay.client_buffer(), name, value);
            }
        }
        self.parameters = Arc::clone(&link.side.parameters);
    }

    /// The same server again, after the router has asked it something: what it said meanwhile is the client's.
    fn take_up(&mut self, link: &mut Link) {
        self.adopt(link);
        self.relay.take_leftover(link);
    }

    fn give_up(&mut self, no_server: NoServer) {
        match no_server {
            NoServer::ClientGone => {}
            NoServer::Expired | NoServer::Refused(Refused::Expired) => self.expired(),
            NoServer::Refused(Refused::Waited) => self.waited(),
            NoServer::Refused(Refused::Crowded { most }) => {
                let text = format!(
                    "{most} clients wait for one of the {} server connections of this pool already; the statement \
                     was not begun",
                    self.pool.size(),
                );
                self.relay.error(Severity::Fatal, sqlstate::TOO_MANY_CONNECTIONS, &text);
            }
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

    fn waited(&mut self) {
        let wait_ms = self.view.borrow().policy.as_ref().map_or(0, |in_force| in_force.policy.pool.wait_ms);
        let text = format!(
            "all {} server connections of this pool were in use for {wait_ms} ms, {} of them tied to their clients; \
             the statement was not begun",
            self.pool.size(),
            self.pool.tied(),
        );
        self.relay.error(Severity::Fatal, sqlstate::TOO_MANY_CONNECTIONS, &text);
    }

    fn stopping(&mut self) {
        self.relay.error(Severity::Fatal, sqlstate::ADMIN_SHUTDOWN, "the router is stopping; connect again");
    }
}

/// Gives the client its last message.
async fn farewell(mut relay: Relay) {
    // A client that is gone or does not read learns nothing more: there is no one to tell. With TLS the end is a
    // message too, which waits for room like any other.
    let last = async move {
        poll_fn(|cx| relay.poll_flushed(cx)).await?;
        relay.into_client().shutdown().await
    };
    timeout(FAREWELL, last).await.ok();
}

enum LiveEnd {
    /// The server is lost, the client is there.
    Lost,
    /// Nothing more to do.
    Over,
    /// Settings have changed.
    Changed,
    /// Others may have the server.
    Free { is_client_gone: bool },
    /// It does not have yet what the client's reads must see.
    Behind,
}

/// The one setting of the startup packet that shared servers are not opened with.
fn application_name(startup: &Startup) -> Settings {
    startup.parameters.iter().filter(|(name, _)| name == "application_name").cloned().collect()
}

fn stance(view: &View, door: Door, route: &Route, choice: Choice) -> Stance {
    if view.is_stopping {
        return Stance::Stop;
    }
    let Some(targets) = &view.targets else { return Stance::Pause };
    match &targets.write {
        Some(primary) if route.is_primary && *primary == route.server => match door {
            Door::Write => Stance::Run,
            // Standbys are back, or still none.
            Door::Read if targets.read.is_empty() || choice.is_at_primary => Stance::Run,
            Door::Read => Stance::Move,
        },
        Some(_) if route.is_primary => Stance::Close,
        None if route.is_primary => Stance::Pause,
        _ if targets.read.contains(&route.server) => Stance::Run,
        _ => Stance::Move,
    }
}

/// Settings changed on the last server win over those carried to it. One that it does not have any more was reset
/// there.
fn merged(mut carried: Vec<(String, String)>, link: &Link) -> Vec<(String, String)> {
    let changed = link.settings();
    carried.retain(|(name, value)| {
        changed.iter().all(|(other, _)| other != name) && link.side.parameters.get(name) == Some(value)
    });
    carried.extend(changed);
    carried
}
