//! Talking to keep from an async program (the control plane) and from a plain one (commands).
//!
//! A connection that ends fails every call under way and ends the stream of notices: that is how the control
//! plane learns that keep is gone and starts a new one.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainstay_types::{ExitReason, Nonce, Pid, Timestamp};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot};

use crate::protocol::{Answer, Ask, Child, FromKeep, Notice, PROTOCOL_VERSION, Refusal, Request, SpawnSpec};
use crate::wire;

/// Notices that may wait for their reader. Beyond it the connection is closed: who comes back asks for the
/// list, which is the truth.
pub const NOTICES: usize = 4096;
/// Requests that may wait to be written.
const REQUESTS: usize = 256;
/// How long keep may take to answer. A start syncs two files; a slow disk takes seconds for that.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Why a call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// keep is not there, or went away.
    #[error("keep does not answer")]
    Gone(#[source] io::Error),
    /// keep is there and silent.
    #[error("keep did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// keep refused.
    #[error("{reason}")]
    Refused {
        /// Why, with the values.
        reason: String,
        /// What kind of trouble.
        kind: Refusal,
    },
    /// keep said something that is no answer to what was asked.
    #[error("keep gave an answer to another question: {0}")]
    Confused(String),
    /// A task outlived its time and was killed.
    #[error("{name} (pid {pid}) did not end within {} s and was killed", .within.as_secs())]
    TaskTimedOut {
        /// The task.
        name: String,
        /// Its process id.
        pid: Pid,
        /// The time it had.
        within: Duration,
    },
}

impl Error {
    /// The kind of refusal, when keep refused.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    /// Whether the connection is lost, so that a new keep may be needed.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }
}

fn gone() -> Error {
    Error::Gone(io::Error::from(io::ErrorKind::ConnectionReset))
}

/// What keep says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its protocol's version.
    pub version: u32,
    /// Its process id.
    pub pid: Pid,
    /// When it started.
    pub since: Timestamp,
    /// What cgroups can do here.
    pub cgroups: String,
}

impl Hello {
    fn from_answer(answer: Answer) -> Result<Self, Error> {
        match answer {
            Answer::Hello { version, pid, since, cgroups } => Ok(Self { version, pid, since, cgroups }),
            other => Err(confused(other)),
        }
    }
}

fn confused(answer: Answer) -> Error {
    match answer {
        Answer::Refused { reason, kind } => Error::Refused { reason, kind },
        other => Error::Confused(format!("{other:?}")),
    }
}

#[derive(Default)]
struct Waiters {
    is_closed: bool,
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    ends: BTreeMap<Nonce, oneshot::Sender<ExitReason>>,
}

struct Shared {
    next: AtomicU64,
    requests: mpsc::Sender<Vec<u8>>,
    waiters: Arc<Mutex<Waiters>>,
}

fn locked(waiters: &Mutex<Waiters>) -> MutexGuard<'_, Waiters> {
    // A panic elsewhere leaves maps of senders, which cannot be half-written.
    waiters.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection to keep. Clones share it.
#[derive(Clone)]
pub struct Keep {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keep")
    }
}

/// Reads frames and hands them out, until the connection ends.
async fn read(mut from: OwnedReadHalf, waiters: Arc<Mutex<Waiters>>, notices: mpsc::Sender<Notice>) {
    while let Ok(Some(frame)) = wire::receive::<FromKeep>(&mut from).await {
        match frame {
            FromKeep::Answer { id, answer } => {
                if let Some(waiter) = locked(&waiters).answers.remove(&id) {
                    waiter.send(answer).ok();
                }
            }
            FromKeep::Notice { notice } => {
                if let Notice::Exited { child } = &notice
                    && let Some(ended) = &child.ended
                    && let Some(waiter) = locked(&waiters).ends.remove(&child.nonce)
                {
                    waiter.send(ended.reason.clone()).ok();
                }
                if matches!(notices.try_send(notice), Err(mpsc::error::TrySendError::Full(_))) {
                    break;
                }
            }
        }
    }
    let mut waiters = locked(&waiters);
    waiters.is_closed = true;
    waiters.answers.clear();
    waiters.ends.clear();
}

impl Keep {
    /// Connects to the keep of a runtime folder and subscribes to its notices.
    ///
    /// The receiver may be dropped by who needs no notices. It ends when the connection does.
    ///
    /// **Errors**: nobody listens there, no answer, or another version.
    pub async fn connect(runtime: &Path) -> Result<(Self, mpsc::Receiver<Notice>), Error> {
        let (keep, notices, _) = Self::connect_and_greet(runtime).await?;
        Ok((keep, notices))
    }

    /// As [`Keep::connect`], with what keep said of itself.
    ///
    /// **Errors**: as [`Keep::connect`].
    pub async fn connect_and_greet(runtime: &Path) -> Result<(Self, mpsc::Receiver<Notice>, Hello), Error> {
        let connecting = UnixStream::connect(runtime.join(crate::SOCKET));
        let stream = tokio::time::timeout(CONNECT_WITHIN, connecting).await;
        let stream = stream.map_err(|_| Error::TimedOut(CONNECT_WITHIN))?.map_err(Error::Gone)?;
        let (read_half, mut write_half) = stream.into_split();
        let (notice_sender, notices) = mpsc::channel(NOTICES);
        let (requests, mut to_write) = mpsc::channel::<Vec<u8>>(REQUESTS);
        let waiters = Arc::new(Mutex::new(Waiters::default()));
        let reader = tokio::spawn(read(read_half, Arc::clone(&waiters), notice_sender));
        tokio::spawn(async move {
            while let Some(frame) = to_write.recv().await {
                if tokio::io::AsyncWriteExt::write_all(&mut write_half, &frame).await.is_err() {
                    break;
                }
            }
            // Every clone is gone, or the socket: nobody waits for the reader any more.
            reader.abort();
        });
        let keep = Self { shared: Arc::new(Shared { next: AtomicU64::new(1), requests, waiters }) };
        let hello = keep.hello().await?;
        Ok((keep, notices, hello))
    }

    async fn ask(&self, ask: Ask, within: Duration) -> Result<Answer, Error> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let frame = wire::encode(&Request { id, ask }).map_err(Error::Gone)?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiters = locked(&self.shared.waiters);
            if waiters.is_closed {
                return Err(gone());
            }
            waiters.answers.insert(id, sender);
        }
        let call = async {
            self.shared.requests.send(frame).await.map_err(|_| gone())?;
            receiver.await.map_err(|_| gone())
        };
        let answer = tokio::time::timeout(within, call).await;
        locked(&self.shared.waiters).answers.remove(&id);
        match answer.map_err(|_| Error::TimedOut(within))?? {
            Answer::Refused { reason, kind } => Err(Error::Refused { reason, kind }),
            answer => Ok(answer),
        }
    }

    async fn ask_done(&self, ask: Ask, within: Duration) -> Result<(), Error> {
        match self.ask(ask, within).await? {
            Answer::Done => Ok(()),
            other => Err(confused(other)),
        }
    }

    /// Who keep is.
    ///
    /// **Errors**: as every call: gone, silent, refused.
    pub async fn hello(&self) -> Result<Hello, Error> {
        Hello::from_answer(self.ask(Ask::Subscribe { version: PROTOCOL_VERSION }, ANSWER_WITHIN).await?)
    }

    /// Starts a child and answers its process id.
    ///
    /// **Errors**: refused as [`Refusal::AlreadyRunning`], [`Refusal::Environment`], and others.
    pub async fn spawn(&self, spec: SpawnSpec) -> Result<Pid, Error> {
        match self.ask(Ask::Spawn { spec: Box::new(spec) }, ANSWER_WITHIN).await? {
            Answer::Spawned { pid } => Ok(pid),
            other => Err(confused(other)),
        }
    }

    /// Sends a signal to the main process of a start.
    ///
    /// **Errors**: refused as [`Refusal::NotRunning`] when it ended.
    pub async fn signal(&self, nonce: &Nonce, signal: i32) -> Result<(), Error> {
        self.ask_done(Ask::Signal { nonce: nonce.clone(), signal }, ANSWER_WITHIN).await
    }

    /// Kills every process of a start; returns when none is left. Killing what is gone is done at once.
    ///
    /// **Errors**: refused as [`Refusal::Survived`], naming process ids.
    pub async fn kill_tree(&self, nonce: &Nonce, within: Duration) -> Result<(), Error> {
        let deadline_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.ask_done(Ask::KillTree { nonce: nonce.clone(), deadline_ms }, within + ANSWER_WITHIN).await
    }

    /// All children: those that run, and the last end of each that does not.
    ///
    /// **Errors**: gone, silent.
    pub async fn list(&self) -> Result<Vec<Child>, Error> {
        match self.ask(Ask::List, ANSWER_WITHIN).await? {
            Answer::Children { children } => Ok(children),
            other => Err(confused(other)),
        }
    }

    /// Binds (once) and holds a listener; answers the address as bound.
    ///
    /// **Errors**: refused as [`Refusal::AddressInUse`], naming the holder.
    pub async fn listen(&self, name: &str, address: SocketAddr) -> Result<SocketAddr, Error> {
        let ask = Ask::Listen { name: name.to_owned(), address: address.to_string() };
        match self.ask(ask, ANSWER_WITHIN).await? {
            Answer::Listening { address } => address.parse().map_err(|_| Error::Confused(address)),
            other => Err(confused(other)),
        }
    }

    /// Closes a held listener. Children that inherited it still have it.
    ///
    /// **Errors**: refused as [`Refusal::NotRunning`] when none of the name is held.
    pub async fn unlisten(&self, name: &str) -> Result<(), Error> {
        self.ask_done(Ask::Unlisten { name: name.to_owned() }, ANSWER_WITHIN).await
    }

    /// Ends keep. Its children go on.
    ///
    /// **Errors**: gone, silent.
    pub async fn exit(&self) -> Result<(), Error> {
        self.ask_done(Ask::Exit, ANSWER_WITHIN).await
    }

    /// Starts a child that runs once and waits for its end; its tree is killed when it takes too long.
    /// When keep goes away meanwhile, the task goes on and the next keep has its end in its list.
    ///
    /// **Errors**: refused; [`Error::TaskTimedOut`]; gone.
    pub async fn run_task(&self, spec: SpawnSpec, within: Duration) -> Result<ExitReason, Error> {
        let (nonce, name) = (spec.nonce.clone(), spec.name.to_string());
        let (sender, receiver) = oneshot::channel();
        locked(&self.shared.waiters).ends.insert(nonce.clone(), sender);
        let pid = match self.spawn(spec).await {
            Ok(pid) => pid,
            Err(error) => {
                locked(&self.shared.waiters).ends.remove(&nonce);
                return Err(error);
            }
        };
        match tokio::time::timeout(within, receiver).await {
            Ok(reason) => reason.map_err(|_| gone()),
            Err(_) => {
                locked(&self.shared.waiters).ends.remove(&nonce);
                self.kill_tree(&nonce, ANSWER_WITHIN).await?;
                Err(Error::TaskTimedOut { name, pid, within })
            }
        }
    }
}

/// Asks one thing without a runtime, for commands.
///
/// **Errors**: nobody listens there, or no answer within `within`. A refusal is an answer.
pub fn ask_blocking(runtime: &Path, ask: Ask, within: Duration) -> Result<Answer, Error> {
    let call = || -> io::Result<Option<FromKeep>> {
        let mut stream = std::os::unix::net::UnixStream::connect(runtime.join(crate::SOCKET))?;
        stream.set_read_timeout(Some(within))?;
        stream.set_write_timeout(Some(within))?;
        wire::write(&mut stream, &Request { id: 1, ask })?;
        loop {
            match wire::read(&mut stream)? {
                Some(FromKeep::Notice { .. }) => {}
                other => return Ok(other),
            }
        }
    };
    match call() {
        Ok(Some(FromKeep::Answer { answer, .. })) => Ok(answer),
        Ok(_) => Err(gone()),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err(Error::TimedOut(within))
        }
        Err(error) => Err(Error::Gone(error)),
    }
}

/// Asks keep who it is, without a runtime.
///
/// **Errors**: as [`ask_blocking`], or refused.
pub fn hello_blocking(runtime: &Path, within: Duration) -> Result<Hello, Error> {
    Hello::from_answer(ask_blocking(runtime, Ask::Subscribe { version: PROTOCOL_VERSION }, within)?)
}
