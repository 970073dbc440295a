//! The first words with a client: TLS where there is a certificate, cancel passed on, role and password checked.
//!
//! Says nothing that tells an existing role from another; reads a bounded amount in a bounded time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::client::Client;
use crate::events::{Event, emit_seldom};
use crate::frame::{HEADER, peek, split_string};
use crate::link;
use crate::message::{self, Severity, sqlstate};
use crate::scram::{Check, MECHANISM, nonce};
use crate::shared::{Door, Shared};
use crate::startup::{self, Request, Startup};

/// `authentication_timeout` is 60 s in PostgreSQL; on one machine a sixth is generous.
const DEADLINE: Duration = Duration::from_secs(10);

/// `PG_MAX_SASL_MESSAGE_LENGTH`.
const MAX_SASL: usize = 1024;

/// A client asks for TLS, then for GSS, then for a session.
const MAX_REQUESTS: usize = 4;

/// A client that may come in.
pub(crate) struct Greeted {
    pub(crate) client: Client,
    pub(crate) startup: Startup,
    /// What it sent already behind its password.
    pub(crate) rest: Vec<u8>,
}

/// Why it may not.
enum Turned {
    /// Nobody to tell.
    Away,
    With {
        code: &'static str,
        text: String,
    },
}

impl From<io::Error> for Turned {
    fn from(_: io::Error) -> Self {
        Self::Away
    }
}

fn turned(code: &'static str, text: impl Into<String>) -> Turned {
    Turned::With { code, text: text.into() }
}

/// What a client came for.
enum Asked {
    Session(Startup),
    Tls(TlsAcceptor),
}

/// `None`: the connection is over.
pub(crate) async fn greet(stream: TcpStream, shared: &Arc<Shared>, door: Door) -> Option<Greeted> {
    let deadline = Instant::now() + DEADLINE;
    let mut client = Client::Plain(stream);
    let mut left = MAX_REQUESTS;
    let refused = loop {
        // Silence is answered by silence, as PostgreSQL does.
        match timeout_at(deadline, request(&mut client, shared, &mut left)).await.ok()? {
            Ok(Asked::Session(startup)) => {
                match timeout_at(deadline, admit(&mut client, shared, &startup)).await.ok()? {
                    Ok(rest) => return Some(Greeted { client, startup, rest }),
                    Err(refused) => break refused,
                }
            }
            Ok(Asked::Tls(acceptor)) => {
                let Client::Plain(stream) = client else { return None };
                // What came in the clear behind the request is part of the handshake, and fails it.
                let stream = timeout_at(deadline, acceptor.accept(stream)).await.ok()?.ok()?;
                client = Client::Tls(Box::new(stream));
            }
            Err(refused) => break refused,
        }
    };
    if let Turned::With { code, text } = refused {
        turn_away(client, shared, door, code, text).await;
    }
    None
}

async fn turn_away(mut client: Client, shared: &Arc<Shared>, door: Door, code: &'static str, text: String) {
    shared.counters(door).error(code, true);
    let mut out = Vec::new();
    message::error(&mut out, Severity::Fatal, code, &text);
    emit_seldom(&Event::ClientTurnedAway { sqlstate: code, reason: text }, &shared.turned_away);
    timeout(DEADLINE, async {
        client.write_all(&out).await?;
        client.shutdown().await
    })
    .await
    .ok();
}

async fn request(client: &mut Client, shared: &Arc<Shared>, left: &mut usize) -> Result<Asked, Turned> {
    while *left > 0 {
        *left -= 1;
        let mut head = [0; 4];
        client.read_exact(&mut head).await?;
        let violation = |error: startup::StartupError| turned(sqlstate::PROTOCOL_VIOLATION, error.to_string());
        let mut body = vec![0; startup::body_length(head).map_err(violation)?];
        client.read_exact(&mut body).await?;
        match startup::parse(&body).map_err(violation)? {
            Request::Tls => {
                let acceptor = shared.view.borrow().policy.as_ref().and_then(|in_force| in_force.tls.clone());
                match acceptor.filter(|_| matches!(client, Client::Plain(_))) {
                    Some(acceptor) => {
                        client.write_all(b"S").await?;
                        return Ok(Asked::Tls(acceptor));
                    }
                    None => client.write_all(b"N").await?,
                }
            }
            Request::Gss => client.write_all(b"N").await?,
            Request::Cancel { process, secret } => {
                if let Some(at) = shared.cancel_target(process, &secret) {
                    // A cancel request is a wish: PostgreSQL answers none either.
                    link::cancel(&at).await.ok();
                }
                return Err(Turned::Away);
            }
            Request::Session(startup) => return Ok(Asked::Session(startup)),
        }
    }
    Err(turned(sqlstate::PROTOCOL_VIOLATION, "too many requests before the startup packet"))
}

/// Checks limits, password and database. Gives what the client sent behind its password.
async fn admit(client: &mut Client, shared: &Arc<Shared>, startup: &Startup) -> Result<Vec<u8>, Turned> {
    let Some(in_force) = shared.view.borrow().policy.clone() else {
        return Err(turned(sqlstate::CANNOT_CONNECT_NOW, "the router has no policy yet"));
    };
    let policy = &in_force.policy;
    if shared.clients() > u64::from(policy.max_clients) {
        let text = format!("the router's limit of {} clients (max_clients) is reached", policy.max_clients);
        return Err(turned(sqlstate::TOO_MANY_CONNECTIONS, text));
    }
    if startup.is_replication {
        return Err(turned(sqlstate::FEATURE_NOT_SUPPORTED, "replication does not go through the router"));
    }
    let mut out = Vec::new();
    if let Some(options) = &startup.unknown_options {
        startup::negotiate(&mut out, options);
    }
    message::authentication(&mut out, 10, format!("{MECHANISM}\0\0").as_bytes());
    client.write_all(&out).await?;
    let rest = authenticate(client, shared, &startup.user).await?;
    if !policy.databases.contains(&startup.database) {
        let text = format!("database \"{}\" does not exist", startup.database);
        return Err(turned(sqlstate::INVALID_CATALOG_NAME, text));
    }
    Ok(rest)
}

async fn authenticate(client: &mut Client, shared: &Arc<Shared>, user: &str) -> Result<Vec<u8>, Turned> {
    let wrong = || turned(sqlstate::INVALID_PASSWORD, format!("password authentication failed for user \"{user}\""));
    let malformed = || turned(sqlstate::PROTOCOL_VIOLATION, "malformed SASL message");
    let mut buffer = Vec::new();
    let first = sasl(client, &mut buffer).await?;
    let (mechanism, response) = split_string(&first).ok_or_else(malformed)?;
    if mechanism != MECHANISM.as_bytes() {
        return Err(turned(sqlstate::PROTOCOL_VIOLATION, "client selected an invalid SASL mechanism"));
    }
    let response = response.get(4..).ok_or_else(malformed)?;
    let check = Check::start(shared.verifier(user), response, &nonce()?)
        .map_err(|error| turned(sqlstate::PROTOCOL_VIOLATION, error.to_string()))?;
    let mut out = Vec::new();
    message::authentication(&mut out, 11, check.server_first.as_bytes());
    client.write_all(&out).await?;
    let last = sasl(client, &mut buffer).await?;
    let server_final = check.finish(&last).map_err(|_| wrong())?;
    out.clear();
    message::authentication(&mut out, 12, server_final.as_bytes());
    message::authentication(&mut out, 0, &[]);
    client.write_all(&out).await?;
    Ok(buffer)
}

/// The body of the next `p` message.
async fn sasl(client: &mut Client, buffer: &mut Vec<u8>) -> Result<Vec<u8>, Turned> {
    loop {
        let frame = peek(buffer).map_err(|error| turned(sqlstate::PROTOCOL_VIOLATION, error.to_string()))?;
        if let Some(frame) = frame {
            if frame.kind != b'p' || frame.len > MAX_SASL {
                return Err(turned(sqlstate::PROTOCOL_VIOLATION, "expected a SASL response"));
            }
            if frame.len <= buffer.len() {
                let body = buffer[HEADER..frame.len].to_vec();
                buffer.drain(..frame.len);
                return Ok(body);
            }
        }
        let mut chunk = [0; MAX_SASL];
        let read = client.read(&mut chunk).await?;
        if read == 0 {
            return Err(Turned::Away);
        }
        buffer.extend_from_slice(&chunk[..read]);
    }
}
