//! Links to edge and router: dialled here, kept for as long as the process lives, told the last word again after
//! every reconnection.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mainstay_decide::observed::RouterSeen;
use mainstay_decide::share::Share;
use mainstay_edge::protocol::{FromEdge, ToEdge};
use mainstay_router::protocol::{FromRouter, PoolMode, PoolState, Targets, ToRouter};
use mainstay_supervisor::wire;
use mainstay_types::{Member, Seen};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::now;
use crate::message::Message;

/// Pause between two dials: short, because a failover may wait for the router.
const REDIAL: Duration = Duration::from_millis(50);
/// Time for an answer; both answer from memory after one fsync.
const ANSWER: Duration = Duration::from_secs(5);

/// What the edge is shown: endpoints and shares of releases by upstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shown {
    pub(crate) upstreams: BTreeMap<String, Vec<mainstay_edge::protocol::Endpoint>>,
    pub(crate) shares: BTreeMap<String, Share>,
}

/// `None` until they are known.
pub(crate) type Endpoints = Option<Shown>;

/// What is asked of a link besides its standing word.
pub(crate) enum Ask {
    /// The metrics page.
    Metrics(oneshot::Sender<String>),
    /// Router only: how its pools are.
    Pools(oneshot::Sender<Vec<PoolState>>),
    /// Router only: these targets, answered when they are in force.
    Point(Targets, oneshot::Sender<Result<(), String>>),
}

/// Handle of a link.
#[derive(Clone)]
pub(crate) struct Link {
    asks: mpsc::Sender<Ask>,
}

impl Link {
    /// A handle and the inbox for its task.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, inbox) = mpsc::channel(16);
        (Self { asks }, inbox)
    }

    /// The metrics page.
    pub(crate) async fn metrics(&self) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Metrics(answer), answered).await
    }

    /// How the router's pools are.
    pub(crate) async fn pools(&self) -> Result<Vec<PoolState>, String> {
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Pools(answer), answered).await
    }

    /// Points the router; returns when it said that the targets are in force.
    pub(crate) async fn point(&self, targets: Targets) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Point(targets, answer), answered).await?
    }

    async fn ask<T>(&self, ask: Ask, answered: oneshot::Receiver<T>) -> Result<T, String> {
        let whole = async {
            self.asks.send(ask).await.map_err(|_| "the link has ended".to_owned())?;
            answered.await.map_err(|_| "the connection broke".to_owned())
        };
        tokio::time::timeout(ANSWER, whole).await.map_err(|_| format!("no answer within {} s", ANSWER.as_secs()))?
    }
}

/// Reads frames in a task of its own: reading one is not cancellation safe.
fn read_frames<T: serde::de::DeserializeOwned + Send + 'static>(mut from: OwnedReadHalf) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok(Some(frame)) = wire::receive(&mut from).await {
            if sender.send(frame).await.is_err() {
                return;
            }
        }
    });
    receiver
}

async fn dial(socket: &PathBuf) -> (OwnedReadHalf, OwnedWriteHalf) {
    loop {
        if let Ok(stream) = UnixStream::connect(socket).await {
            return stream.into_split();
        }
        tokio::time::sleep(REDIAL).await;
    }
}

/// The edge's link: policy first, then endpoints whenever they change.
pub(crate) async fn edge(
    socket: PathBuf,
    mut policy: watch::Receiver<Option<Arc<mainstay_edge::protocol::Policy>>>,
    mut endpoints: watch::Receiver<Endpoints>,
    mut asks: mpsc::Receiver<Ask>,
    (sender, accepted): (mpsc::Sender<Message>, watch::Sender<Option<String>>),
) {
    loop {
        let (read, mut write) = dial(&socket).await;
        let mut frames = read_frames::<FromEdge>(read);
        policy.mark_changed();
        endpoints.mark_changed();
        let mut metrics: Option<oneshot::Sender<String>> = None;
        loop {
            let sent = tokio::select! {
                frame = frames.recv() => match frame {
                    None => break,
                    Some(frame) => {
                        if let FromEdge::Accepted { hash, .. } = &frame {
                            accepted.send_replace(Some(hash.clone()));
                        }
                        take_edge(frame, &sender, &mut metrics).await;
                        Ok(())
                    }
                },
                Ok(()) = policy.changed() => {
                    let current = policy.borrow_and_update().clone();
                    match current {
                        Some(policy) => wire::send(&mut write, &ToEdge::Policy { policy: Box::new((*policy).clone()) }).await,
                        None => Ok(()),
                    }
                }
                Ok(()) = endpoints.changed() => {
                    let current = endpoints.borrow_and_update().clone();
                    match current {
                        Some(Shown { upstreams, shares }) => {
                            wire::send(&mut write, &ToEdge::Endpoints { upstreams, shares }).await
                        }
                        None => Ok(()),
                    }
                }
                Some(ask) = asks.recv() => match ask {
                    Ask::Metrics(answer) => {
                        metrics = Some(answer);
                        wire::send(&mut write, &ToEdge::Metrics).await
                    }
                    Ask::Point(_, answer) => {
                        answer.send(Err("the edge has no targets".to_owned())).ok();
                        Ok(())
                    }
                    // Dropped unanswered: the edge has no pools.
                    Ask::Pools(_) => Ok(()),
                },
            };
            if sent.is_err() {
                break;
            }
        }
        sender.send(Message::Edge(Seen::Unknown)).await.ok();
    }
}

async fn take_edge(frame: FromEdge, sender: &mpsc::Sender<Message>, metrics: &mut Option<oneshot::Sender<String>>) {
    let message = match frame {
        FromEdge::Hello { .. } => return,
        FromEdge::Accepted { .. } => Message::Edge(Seen::Fact { value: (), observed_at: now() }),
        FromEdge::Rejected { reason, .. } => Message::PolicyRejected { by: "edge", reason },
        FromEdge::Report { window_ms, upstreams, endpoints } => Message::EdgeReport { window_ms, upstreams, endpoints },
        FromEdge::EndpointChanged { endpoint, is_in, reason, .. } => {
            Message::EndpointChanged { endpoint, is_in, reason }
        }
        FromEdge::KeysChanged { issuer, keys, failure } => Message::KeysChanged { issuer, keys, failure },
        FromEdge::Metrics { text } => {
            if let Some(answer) = metrics.take() {
                answer.send(text).ok();
            }
            return;
        }
    };
    sender.send(message).await.ok();
}

/// The router's link: policy first; targets when a step says so, and the last ones again after a reconnection.
pub(crate) async fn router(
    socket: PathBuf,
    mut policy: watch::Receiver<Option<Arc<mainstay_router::protocol::Policy>>>,
    mut asks: mpsc::Receiver<Ask>,
    sender: mpsc::Sender<Message>,
) {
    loop {
        let (read, mut write) = dial(&socket).await;
        let mut frames = read_frames::<FromRouter>(read);
        policy.mark_changed();
        let mut waiting = Waiting::default();
        loop {
            let sent = tokio::select! {
                frame = frames.recv() => match frame {
                    None => break,
                    Some(frame) => {
                        take_router(frame, &sender, &mut waiting).await;
                        Ok(())
                    }
                },
                Ok(()) = policy.changed() => {
                    let current = policy.borrow_and_update().clone();
                    match current {
                        Some(policy) => {
                            waiting.policy = true;
                            wire::send(&mut write, &ToRouter::Policy { policy: Box::new((*policy).clone()) }).await
                        }
                        None => Ok(()),
                    }
                }
                Some(ask) = asks.recv() => match ask {
                    Ask::Metrics(answer) => {
                        waiting.metrics = Some(answer);
                        wire::send(&mut write, &ToRouter::Metrics).await
                    }
                    Ask::Pools(answer) => {
                        waiting.pools = Some(answer);
                        wire::send(&mut write, &ToRouter::Pools).await
                    }
                    Ask::Point(targets, answer) => {
                        waiting.point = Some((targets.clone(), answer));
                        wire::send(&mut write, &ToRouter::Targets { targets }).await
                    }
                },
            };
            if sent.is_err() {
                break;
            }
        }
        sender.send(Message::Router(Seen::Unknown)).await.ok();
    }
}

#[derive(Default)]
struct Waiting {
    policy: bool,
    targets: Option<Targets>,
    /// What the router said last of connections that these targets no longer lead to.
    leaving: Option<BTreeMap<Member, u64>>,
    metrics: Option<oneshot::Sender<String>>,
    pools: Option<oneshot::Sender<Vec<PoolState>>>,
    point: Option<(Targets, oneshot::Sender<Result<(), String>>)>,
}

async fn take_router(frame: FromRouter, sender: &mpsc::Sender<Message>, waiting: &mut Waiting) {
    let message = match frame {
        FromRouter::Hello { targets, .. } => {
            waiting.targets = targets;
            return;
        }
        FromRouter::Accepted { .. } => {
            waiting.policy = false;
            Message::Router(seen(waiting))
        }
        FromRouter::Leaving { epoch, by_member } => {
            if waiting.targets.as_ref().is_none_or(|targets| targets.epoch != epoch) {
                return;
            }
            waiting.leaving = Some(by_member);
            Message::Router(seen(waiting))
        }
        FromRouter::Pointed { epoch } => {
            let Some((targets, answer)) = waiting.point.take().filter(|(targets, _)| targets.epoch == epoch) else {
                return;
            };
            waiting.targets = Some(targets);
            // The observation first: the step's result makes the loop plan, and it should see it.
            waiting.leaving = None;
            sender.send(Message::Router(seen(waiting))).await.ok();
            answer.send(Ok(())).ok();
            return;
        }
        FromRouter::Rejected { reason } => match waiting.point.take() {
            Some((_, answer)) if !waiting.policy => {
                answer.send(Err(reason)).ok();
                return;
            }
            _ => Message::PolicyRejected { by: "router", reason },
        },
        FromRouter::Report { window_ms, write, read } => Message::RouterReport { window_ms, write, read },
        FromRouter::FailoverDone { carried, ended, aborted, in_flight, longest_hold_ms, .. } => {
            Message::FailoverDone { carried, ended, aborted, in_flight, longest_hold_ms }
        }
        FromRouter::Pools { pools } => {
            if let Some(answer) = waiting.pools.take() {
                answer.send(pools).ok();
            }
            return;
        }
        FromRouter::Metrics { text } => {
            if let Some(answer) = waiting.metrics.take() {
                answer.send(text).ok();
            }
            return;
        }
    };
    sender.send(message).await.ok();
}

/// In the words of the API.
pub(crate) fn pool(state: PoolState) -> mainstay_api::Pool {
    let mode = match state.mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
    };
    mainstay_api::Pool {
        door: state.door,
        database: state.database,
        role: state.role,
        mode: mode.to_owned(),
        size: state.size,
        clients_active: state.clients_active,
        clients_idle: state.clients_idle,
        clients_waiting: state.clients_waiting,
        clients_tied: state.clients_tied,
        tied_by: state.tied_by,
        servers_idle: state.servers_idle,
        acquired: state.acquired,
        waited: state.waited,
        wait_p95_us: state.wait_p95_us,
        refused: state.refused,
        held: state.held,
        behind: state.behind,
        behind_p95_us: state.behind_p95_us,
        to_primary: state.to_primary,
    }
}

fn seen(waiting: &Waiting) -> Seen<RouterSeen> {
    let targets = waiting.targets.as_ref();
    let value = RouterSeen {
        epoch: targets.map_or(0, |targets| targets.epoch),
        write: targets.and_then(|targets| targets.write.as_ref()).map(|server| server.member),
        read: targets.map_or_else(Vec::new, |targets| targets.read.iter().map(|server| server.member).collect()),
        leaving: waiting.leaving.clone(),
    };
    Seen::Fact { value, observed_at: now() }
}
