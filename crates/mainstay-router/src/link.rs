//! One connection to a server: made, authenticated and brought to where the session was.
//!
//! Never sends a password in the clear, and repeats nothing but settings and Parse messages.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use crate::fit::Settings;
use crate::frame::{HEADER, peek, split_string};
use crate::glance::CARRIED;
use crate::message::{self, Failure, sqlstate};
use crate::protocol::Server;
use crate::scram::{MECHANISM, Proof, ScramError, nonce};
use crate::shared::{CancelAt, Choice, Door, Registered, Route, Shared, View};
use crate::startup::{self, Startup};
use crate::statements::{Kept, Known, Statement};

/// One attempt to connect. Authentication takes milliseconds; a server that takes longer is tried again.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(5);

/// Between attempts: short against a failover of some 50 ms, long against the cost of a refused connection.
pub(crate) const RETRY: Duration = Duration::from_millis(10);

/// Longest message before the session begins: errors and parameters.
const MAX_GREETING: usize = 64 * 1024;

/// Statements are written in pieces of about this size: a session may have some MiB of them, and in a failover all
/// sessions unpack at once.
const UNPACKED: usize = 64 * 1024;

pub(crate) type Parameters = BTreeMap<String, String>;

/// What a session brings along from its former server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Luggage {
    pub(crate) settings: Vec<(String, String)>,
    /// Those that a server does not report, with the text that `set_config` takes.
    pub(crate) unreported: Settings,
    pub(crate) statements: Arc<Kept>,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The server said no, in its words.
    ByServer(Failure),
    /// The former server's statements or settings are not taken by the new one.
    Luggage(String),
    /// More server connections than the policy allows.
    TooMany,
    /// All servers of the pool are in use, for longer than the policy allows to wait.
    Waited,
    /// As many wait for the pool as the policy allows.
    Crowded { most: u32 },
    /// There is no server to connect to, for longer than the policy allows to hold.
    Expired,
    /// The router is stopping.
    Stopping,
}

/// Why an attempt failed.
pub(crate) enum AttemptError {
    /// May pass: the server is not there (yet).
    Passing,
    Final(Refused),
}

impl From<io::Error> for AttemptError {
    fn from(_: io::Error) -> Self {
        Self::Passing
    }
}

/// A connection to a server, ready for a query.
pub(crate) struct Link {
    pub(crate) stream: UnixStream,
    pub(crate) route: Route,
    /// Bytes that came behind the greeting.
    pub(crate) leftover: Vec<u8>,
    /// As the server reported them at first.
    pub(crate) initial: Arc<Parameters>,
    pub(crate) side: Side,
    pub(crate) cancel: CancelAt,
    /// What it was opened with.
    pub(crate) startup: Arc<Startup>,
    pub(crate) since: Instant,
    /// Under which primary it was opened.
    pub(crate) reign: u64,
    /// Its place in a pool, while it is in use.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// Dropped last: whoever waits for the connection's end must not see it too early.
    registered: Registered,
}

/// What is known of a server's session.
#[derive(Debug, Default)]
pub(crate) struct Side {
    /// As the server reported them last.
    pub(crate) parameters: Arc<Parameters>,
    /// Settings that it does not report and that differ from its own.
    pub(crate) settings: Settings,
    /// Statements under names of the router's own.
    pub(crate) known: Known,
    /// The unnamed statement, and the cycle in which it was sent.
    pub(crate) unnamed: Option<(Arc<Statement>, u64)>,
    /// A prepared statement does not fit its tables any more; prepared anew it would, but it is known under its name.
    pub(crate) is_spoiled: bool,
}

impl Side {
    /// The server has no prepared statement any more.
    pub(crate) fn dropped(&mut self) {
        self.known.clear();
        self.unnamed = None;
    }
}

impl Link {
    /// Nothing is under way here and nothing will be sent, or something may be from now on.
    pub(crate) fn park(&self, is_parked: bool) {
        self.registered.park(is_parked);
    }

    /// The settings that the session changed here.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let changed = CARRIED.iter().filter_map(|name| {
            let now = self.side.parameters.get(*name)?;
            (self.initial.get(*name) != Some(now)).then(|| ((*name).to_owned(), now.clone()))
        });
        changed.collect()
    }
}

/// The path of a server's socket.
pub(crate) fn socket(server: &Server) -> std::path::PathBuf {
    server.socket_dir.join(format!(".s.PGSQL.{}", server.port))
}

/// Who connects.
pub(crate) struct Wanted {
    pub(crate) shared: Arc<Shared>,
    pub(crate) door: Door,
    pub(crate) startup: Arc<Startup>,
    pub(crate) luggage: Luggage,
    /// Not for sessions that had a connection before.
    pub(crate) is_new: bool,
    pub(crate) choice: Choice,
}

/// Connects to where the targets point, as soon as that is possible. The caller sets the deadline.
pub(crate) async fn acquire(wanted: Wanted, mut view: watch::Receiver<View>) -> Result<Box<Link>, Refused> {
    let shared = &wanted.shared;
    loop {
        let now = view.borrow_and_update().clone();
        if now.is_stopping {
            return Err(Refused::Stopping);
        }
        let max_servers = now.policy.as_ref().map_or(0, |in_force| in_force.policy.max_servers as usize);
        if wanted.is_new && shared.servers() >= max_servers {
            return Err(Refused::TooMany);
        }
        let turn = shared.turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let Some(route) = shared.route(&now, wanted.door, turn as usize, wanted.choice) else {
            // The sender lives as long as `shared`.
            view.changed().await.ok();
            continue;
        };
        let attempt = async {
            let _permit = shared.connecting.acquire().await;
            tokio::time::timeout(ATTEMPT, connect(&wanted, &now, route)).await
        };
        tokio::select! {
            biased;
            _ = view.changed() => continue,
            done = attempt => match done {
                Ok(Ok(link)) => return Ok(link),
                Ok(Err(AttemptError::Final(refused))) => return Err(refused),
                Ok(Err(AttemptError::Passing)) | Err(_) => {}
            },
        }
        tokio::select! {
            _ = view.changed() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn connect(wanted: &Wanted, view: &View, route: Route) -> Result<Box<Link>, AttemptError> {
    let registered = wanted.shared.register(wanted.door, route.clone());
    open(wanted, view, route, registered).await
}

/// Opens a connection that is counted already.
pub(crate) async fn open(
    wanted: &Wanted,
    view: &View,
    route: Route,
    registered: Registered,
) -> Result<Box<Link>, AttemptError> {
    // Targets that came before the registration did not wait for it: the caller starts again with them.
    let targets = wanted.shared.view.borrow().targets.clone();
    if targets != view.targets {
        return Err(AttemptError::Passing);
    }
    let mut stream = UnixStream::connect(socket(&route.server)).await?;
    let mut greeting = Greeting { stream: &mut stream, buffer: Vec::new(), parameters: Parameters::new() };
    let is_read_only = wanted.door == Door::Read && route.is_primary;
    greeting.stream.write_all(&startup::for_server(&wanted.startup, is_read_only)).await?;
    let user = &wanted.startup.user;
    let password = view.policy.as_ref().and_then(|in_force| in_force.policy.roles.get(user).cloned());
    let (process, secret) = greeting.authenticate(&wanted.shared, user, password.as_ref().map(|p| p.expose())).await?;
    let initial = Arc::new(greeting.parameters.clone());
    greeting.unpack(&wanted.luggage).await?;
    let Greeting { buffer: leftover, parameters, .. } = greeting;
    let parameters = if parameters == *initial { Arc::clone(&initial) } else { Arc::new(parameters) };
    Ok(Box::new(Link {
        cancel: CancelAt::new(route.server.clone(), process, secret),
        stream,
        route,
        leftover,
        initial,
        side: Side { parameters, settings: wanted.luggage.unreported.clone(), ..Side::default() },
        startup: Arc::clone(&wanted.startup),
        since: Instant::now(),
        reign: view.reign,
        permit: None,
        registered,
    }))
}

/// A connection while no session uses it.
pub(crate) struct Greeting<'a> {
    pub(crate) stream: &'a mut UnixStream,
    pub(crate) buffer: Vec<u8>,
    pub(crate) parameters: Parameters,
}

impl Greeting<'_> {
    pub(crate) async fn next(&mut self) -> Result<(u8, Vec<u8>), AttemptError> {
        loop {
            if let Some(frame) = peek(&self.buffer).map_err(|_| AttemptError::Passing)? {
                if frame.len > MAX_GREETING {
                    return Err(AttemptError::Passing);
                }
                if frame.len <= self.buffer.len() {
                    let body = self.buffer[HEADER..frame.len].to_vec();
                    self.buffer.drain(..frame.len);
                    return self.handle(frame.kind, body);
                }
            }
            let mut chunk = [0; 4096];
            let read = self.stream.read(&mut chunk).await?;
            if read == 0 {
                return Err(AttemptError::Passing);
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }

    fn handle(&mut self, kind: u8, body: Vec<u8>) -> Result<(u8, Vec<u8>), AttemptError> {
        if kind == b'S' {
            record_parameter(&mut self.parameters, &body);
        }
        if kind == b'E' {
            let failure = Failure::parse(&body);
            // A server whose slots are full has room again when the old sessions' connections have gone.
            if failure.is_server_leaving() || failure.code == sqlstate::TOO_MANY_CONNECTIONS {
                return Err(AttemptError::Passing);
            }
            return Err(AttemptError::Final(Refused::ByServer(failure)));
        }
        Ok((kind, body))
    }

    /// Up to the first ReadyForQuery; gives the server's cancel key.
    async fn authenticate(
        &mut self,
        shared: &Shared,
        user: &str,
        password: Option<&str>,
    ) -> Result<(u32, Vec<u8>), AttemptError> {
        let mut proof = Proof::new(nonce()?);
        let mut key = (0, Vec::new());
        loop {
            let (kind, body) = self.next().await?;
            match kind {
                b'R' => self.answer(shared, user, password, &mut proof, &body).await?,
                b'K' => {
                    if let Some((process, secret)) = body.split_first_chunk::<4>() {
                        key = (u32::from_be_bytes(*process), secret.to_vec());
                    }
                }
                b'Z' => return Ok(key),
                _ => {}
            }
        }
    }

    async fn answer(
        &mut self,
        shared: &Shared,
        user: &str,
        password: Option<&str>,
        proof: &mut Proof,
        body: &[u8],
    ) -> Result<(), AttemptError> {
        let refuse = |text: String| {
            let code = sqlstate::INVALID_PASSWORD.to_owned();
            AttemptError::Final(Refused::ByServer(Failure { is_fatal: true, code, text }))
        };
        let scram = |error: ScramError| refuse(format!("router cannot authenticate to the server: {error}"));
        let (code, data) = body.split_first_chunk::<4>().ok_or(AttemptError::Passing)?;
        let mut out = Vec::new();
        match u32::from_be_bytes(*code) {
            0 => return Ok(()),
            10 => {
                let first = proof.client_first();
                message::put(&mut out, b'p', |out| {
                    message::put_string(out, MECHANISM.as_bytes());
                    out.extend_from_slice(&u32::try_from(first.len()).unwrap_or(0).to_be_bytes());
                    out.extend_from_slice(first.as_bytes());
                });
            }
            11 => {
                let password = password.ok_or_else(|| refuse(format!("role \"{user}\" is not in the policy")))?;
                let challenge = proof.challenge(data).map_err(scram)?;
                let keys = shared.client_keys(user, password, &challenge.salt, challenge.iterations);
                let last = proof.client_final(&challenge, &keys);
                message::put(&mut out, b'p', |out| out.extend_from_slice(last.as_bytes()));
            }
            12 => return proof.verify(data).map_err(scram),
            other => return Err(refuse(format!("server wants authentication method {other}, only SCRAM is spoken"))),
        }
        self.stream.write_all(&out).await.map_err(AttemptError::from)
    }

    /// Makes the session's settings and named statements.
    async fn unpack(&mut self, luggage: &Luggage) -> Result<(), AttemptError> {
        let sets = luggage.settings.iter().map(|(name, value)| format!("SET {name} TO {};", quoted(value)));
        let others = luggage.unreported.iter().map(|(name, value)| set_config(name, value));
        let sets: String = sets.chain(others).collect();
        if sets.is_empty() && luggage.statements.is_empty() {
            return Ok(());
        }
        let mut out = Vec::new();
        let mut cycles = 1;
        if !sets.is_empty() {
            message::query(&mut out, &sets);
            cycles += 1;
        }
        for (name, statement) in luggage.statements.iter() {
            statement.parse(&mut out, name);
            if out.len() >= UNPACKED {
                self.stream.write_all(&out).await?;
                out.clear();
            }
        }
        message::sync(&mut out);
        // Answers are five bytes a statement: the server can always write them before it reads on.
        self.stream.write_all(&out).await?;
        let mut done = 0;
        while done < cycles {
            match self.next().await {
                Ok((b'Z', _)) => done += 1,
                Ok(_) => {}
                Err(AttemptError::Final(Refused::ByServer(failure))) => {
                    return Err(AttemptError::Final(Refused::Luggage(failure.text)));
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }
}

/// A literal that reads the same whatever `standard_conforming_strings` says.
pub(crate) fn quoted(value: &str) -> String {
    format!("E'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// The form of SET that takes a list as it is shown.
pub(crate) fn set_config(name: &str, value: &str) -> String {
    format!("SELECT pg_catalog.set_config({}, {}, false);", quoted(name), quoted(value))
}

/// Notes a ParameterStatus.
pub(crate) fn record_parameter(parameters: &mut Parameters, body: &[u8]) {
    let Some((name, rest)) = split_string(body) else { return };
    let Some((value, _)) = split_string(rest) else { return };
    parameters.insert(String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned());
}

/// Passes a cancel request on; the server answers by closing.
pub(crate) async fn cancel(at: &CancelAt) -> io::Result<()> {
    let request = message::cancel(at.process, &at.secret);
    let forward = async {
        let mut stream = UnixStream::connect(socket(&at.server)).await?;
        stream.write_all(&request).await?;
        stream.read(&mut [0; 1]).await.map(|_| ())
    };
    // `at` is held until the server has answered: the connection is nobody else's before that.
    tokio::time::timeout(ATTEMPT, forward).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_backslashes_in_settings_stay_what_they_are() {
        assert_eq!(quoted(r"a'b\c"), r"E'a''b\\c'");
    }
}
