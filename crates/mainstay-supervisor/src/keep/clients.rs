//! The socket, and the connections on it. What a client sends or does not read is bounded.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;

use super::children::{Refused, refuse};
use super::{Keep, emit};
use crate::protocol::{Answer, Ask, FromKeep, Notice, PROTOCOL_VERSION, Refusal, Request};

/// Longest request: the kernel takes 2 MiB of arguments and environment, which JSON can double.
const MAX_REQUEST: usize = 4 * 1024 * 1024;
/// A client that lets this much pile up is dropped; it comes back and asks for the list.
const MAX_UNREAD: usize = 4 * 1024 * 1024;
/// Connections: the control plane, the commands of a person, drills.
const MAX_CLIENTS: usize = 64;

struct Client {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    is_subscribed: bool,
    is_gone: bool,
}

/// All connections.
pub(super) struct Clients {
    path: PathBuf,
    listener: UnixListener,
    all: BTreeMap<u64, Client>,
    next: u64,
}

impl Client {
    /// Reads what there is and takes whole requests out of it.
    fn read(&mut self) -> Vec<Request> {
        let mut chunk = [0; 64 * 1024];
        // Room for a whole frame, header included; else the last bytes of one would never be read.
        while self.inbox.len() < MAX_REQUEST + 4 {
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.is_gone = true;
                    break;
                }
                Ok(read) => self.inbox.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.is_gone = true;
                    break;
                }
            }
        }
        let mut requests = Vec::new();
        let mut taken = 0;
        while let Some(header) = self.inbox.get(taken..taken + 4) {
            let length = header.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
            let Some(body) = self.inbox.get(taken + 4..).and_then(|rest| rest.get(..length)) else {
                self.is_gone |= length > MAX_REQUEST;
                break;
            };
            match serde_json::from_slice(body) {
                Ok(request) => requests.push(request),
                Err(error) => {
                    emit("request-not-understood", &error.to_string());
                    self.is_gone = true;
                    return requests;
                }
            }
            taken += 4 + length;
        }
        self.inbox.drain(..taken);
        requests
    }

    fn send(&mut self, frame: &FromKeep) {
        match crate::wire::encode(frame) {
            Ok(bytes) => self.outbox.extend_from_slice(&bytes),
            Err(error) => {
                emit("frame-not-sent", &error.to_string());
                self.is_gone = true;
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(written) => drop(self.outbox.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.is_gone = true;
                    break;
                }
            }
        }
        self.is_gone |= self.outbox.len() > MAX_UNREAD;
    }
}

impl Clients {
    /// Opens the socket, for this user only. The caller holds the state's lock, so an existing file is dead.
    pub(super) fn listen(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        // The moment before this is covered by the check of who connects.
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self { path: path.to_owned(), listener, all: BTreeMap::new(), next: 1 })
    }

    /// Leaves: what was answered is sent as far as the sockets take it, the socket goes.
    pub(super) fn close(&mut self) {
        self.flush();
        std::fs::remove_file(&self.path).ok();
    }

    pub(super) fn poll<'a>(&'a self, fds: &mut Vec<PollFd<'a>>) {
        fds.push(PollFd::new(&self.listener, PollFlags::IN));
        for client in self.all.values() {
            let writable = if client.outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::from_borrowed_fd(client.stream.as_fd(), PollFlags::IN | writable));
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let peer = rustix::net::sockopt::socket_peercred(&stream);
            let is_welcome = peer.is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid());
            // Beyond the bound the connection is closed at once, which its client sees.
            if is_welcome && self.all.len() < MAX_CLIENTS && stream.set_nonblocking(true).is_ok() {
                let (inbox, outbox) = (Vec::new(), Vec::new());
                self.all.insert(self.next, Client { stream, inbox, outbox, is_subscribed: false, is_gone: false });
                self.next += 1;
            }
        }
    }

    /// New connections, and all requests that have come in, by client.
    pub(super) fn read(&mut self) -> Vec<(u64, Request)> {
        self.accept();
        let mut requests = Vec::new();
        for (id, client) in &mut self.all {
            requests.extend(client.read().into_iter().map(|request| (*id, request)));
        }
        requests
    }

    pub(super) fn answer(&mut self, client: u64, id: u64, answer: Answer) {
        if let Some(client) = self.all.get_mut(&client) {
            client.send(&FromKeep::Answer { id, answer });
        }
    }

    pub(super) fn tell(&mut self, client: u64, notice: &Notice) {
        if let Some(client) = self.all.get_mut(&client) {
            client.send(&FromKeep::Notice { notice: notice.clone() });
        }
    }

    pub(super) fn notify(&mut self, notice: &Notice) {
        for client in self.all.values_mut().filter(|client| client.is_subscribed) {
            client.send(&FromKeep::Notice { notice: notice.clone() });
        }
    }

    /// Sends what waits, and forgets who is gone.
    pub(super) fn flush(&mut self) {
        for client in self.all.values_mut() {
            client.flush();
        }
        self.all.retain(|_, client| !client.is_gone);
    }
}

fn refusal(refused: Refused) -> Answer {
    Answer::Refused { reason: refused.reason, kind: refused.kind }
}

impl Keep {
    /// Does what a client asks; `None` when the answer comes later.
    pub(super) fn serve(&mut self, client: u64, ask: Ask, request: u64) -> Option<Answer> {
        Some(match ask {
            Ask::Subscribe { version } => self.greet(client, version),
            Ask::Spawn { spec } => match self.spawn(*spec) {
                Ok(pid) => Answer::Spawned { pid },
                Err(refused) => refusal(refused),
            },
            Ask::Signal { nonce, signal } => self.send_signal(&nonce, signal).map_or_else(refusal, |()| Answer::Done),
            Ask::KillTree { nonce, deadline_ms } => {
                self.begin_kill(client, request, nonce, Duration::from_millis(deadline_ms));
                return None;
            }
            Ask::List => Answer::Children { children: self.children_as_seen() },
            Ask::Listen { name, address } => match self.listen(&name, &address) {
                Ok(bound) => Answer::Listening { address: bound.to_string() },
                Err(refused) => refusal(refused),
            },
            Ask::Unlisten { name } => self.listeners.unlisten(&name).map_or_else(refusal, |()| Answer::Done),
            Ask::Exit => {
                self.is_done = true;
                Answer::Done
            }
        })
    }

    fn greet(&mut self, client: u64, version: u32) -> Answer {
        if version != PROTOCOL_VERSION && version + 1 != PROTOCOL_VERSION {
            let text = format!("client speaks version {version}, keep {PROTOCOL_VERSION}");
            return refusal(refuse(Refusal::Invalid, text));
        }
        if let Some(client) = self.clients.all.get_mut(&client) {
            client.is_subscribed = true;
        }
        self.tell_adopted(client);
        let cgroups = self.cgroups.describe();
        Answer::Hello { version: PROTOCOL_VERSION, pid: self.me, since: self.since, cgroups }
    }

    fn send_signal(&mut self, nonce: &mainstay_types::Nonce, number: i32) -> Result<(), Refused> {
        let signal =
            Signal::from_named_raw(number).ok_or_else(|| refuse(Refusal::Invalid, format!("{number} is no signal")))?;
        let gone = || refuse(Refusal::NotRunning, format!("start {nonce} does not run"));
        let entry = self.running(nonce).ok_or_else(gone)?;
        entry.signal(signal).map_err(|_| gone())
    }
}
