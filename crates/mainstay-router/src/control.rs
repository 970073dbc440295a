//! The control socket: policy and targets come in, reports go out.
//!
//! Never chooses a primary. Refuses targets older than the last ones, whoever sends them.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mainstay_supervisor::wire;
use mainstay_types::Member;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::client::acceptor;
use crate::events::{Event, emit};
use crate::metrics::{self, Window};
use crate::protocol::{FromRouter, PROTOCOL_VERSION, Policy, Targets, ToRouter};
use crate::resolve::fence;
use crate::shared::{Failover, InForce, Shared};
use crate::store::Store;

/// Name of the socket in the runtime folder.
pub const SOCKET: &str = "router.sock";

/// The control plane, its successor while the old one dies, and a person who looks.
const MAX_CONNECTIONS: usize = 4;

/// How long new targets wait for the old primary's connections to close: tasks only have to be scheduled.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// A control plane that does not read is let go.
const SEND_DEADLINE: Duration = Duration::from_secs(5);

const WINDOW: Duration = Duration::from_secs(1);

/// How often the end of a failover is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// What the control connections share.
pub(crate) struct Control {
    shared: Arc<Shared>,
    store: Mutex<Store>,
    /// Policy and targets are taken one at a time.
    turn: tokio::sync::Mutex<()>,
    connections: AtomicUsize,
}

/// Opens the socket: it exists under its name only once it is closed to others.
pub(crate) fn bind(runtime: &Path) -> io::Result<UnixListener> {
    let aside = runtime.join(format!(".{SOCKET}.{}", std::process::id()));
    std::fs::remove_file(&aside).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    let listener = UnixListener::bind(&aside)?;
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&aside, runtime.join(SOCKET))?;
    Ok(listener)
}

impl Control {
    pub(crate) fn new(shared: Arc<Shared>, store: Store) -> Arc<Self> {
        Arc::new(Self {
            shared,
            store: Mutex::new(store),
            turn: tokio::sync::Mutex::new(()),
            connections: AtomicUsize::new(0),
        })
    }

    /// Takes connections for ever.
    pub(crate) async fn accept(self: Arc<Self>, listener: UnixListener) {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors: sessions end, descriptors come back.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let own = rustix::process::geteuid().as_raw();
            let is_allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
            if !is_allowed || self.connections.load(Ordering::Relaxed) >= MAX_CONNECTIONS {
                continue;
            }
            self.connections.fetch_add(1, Ordering::Relaxed);
            let control = Arc::clone(&self);
            tokio::spawn(async move {
                // A control plane that goes away comes back; nothing depends on this connection.
                control.serve(stream).await.ok();
                control.connections.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    async fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let (mut reader, mut writer) = stream.into_split();
        let (tx, mut rx) = mpsc::channel::<ToRouter>(16);
        let reading = async move {
            while let Some(frame) = wire::receive(&mut reader).await? {
                if tx.send(frame).await.is_err() {
                    break;
                }
            }
            Ok::<(), io::Error>(())
        };
        let talking = async {
            send(&mut writer, &self.hello()).await?;
            let mut windows = (Window::open(&self.shared.write), Window::open(&self.shared.read));
            let mut since = Instant::now();
            let mut tick = interval(WINDOW);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tick.reset();
            let mut look = interval(LOOK);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // What was told last of connections that are leaving; `None`: nothing about these targets.
            let mut told = None;
            loop {
                let answer = tokio::select! {
                    frame = rx.recv() => match frame {
                        Some(frame) => {
                            if matches!(frame, ToRouter::Targets { .. }) {
                                told = None;
                            }
                            self.answer(frame).await
                        }
                        None => return Ok(()),
                    },
                    _ = tick.tick() => {
                        let window_ms = millis(since.elapsed());
                        since = Instant::now();
                        let write = windows.0.turn(&self.shared.write);
                        FromRouter::Report { window_ms, write, read: windows.1.turn(&self.shared.read) }
                    }
                    // Only while something changes: an idle router wakes once a second.
                    _ = look.tick(), if self.is_report_due() || self.is_emptying(told.as_ref()) => {
                        match self.finished().or_else(|| self.leaving(&mut told)) {
                            Some(news) => news,
                            None => continue,
                        }
                    }
                };
                send(&mut writer, &answer).await?;
            }
        };
        tokio::select! {
            read = reading => read,
            talked = talking => talked,
        }
    }

    fn hello(&self) -> FromRouter {
        let view = self.shared.view.borrow();
        FromRouter::Hello {
            version: PROTOCOL_VERSION,
            generation: view.policy.as_ref().map(|in_force| in_force.policy.generation),
            targets: view.targets.as_deref().cloned(),
        }
    }

    async fn answer(&self, frame: ToRouter) -> FromRouter {
        let _turn = self.turn.lock().await;
        let taken = match frame {
            ToRouter::Pools => Ok(FromRouter::Pools { pools: self.shared.pools.states(&self.shared) }),
            ToRouter::Policy { policy } => self.take_policy(*policy).await,
            ToRouter::Targets { targets } => self.take_targets(targets).await,
            ToRouter::Metrics => {
                let epoch = self.shared.view.borrow().targets.as_ref().map(|targets| targets.epoch);
                let doors = [("write", &self.shared.write), ("read", &self.shared.read)];
                Ok(FromRouter::Metrics { text: metrics::page(doors, &self.shared.pools.states(&self.shared), epoch) })
            }
        };
        taken.unwrap_or_else(|reason| {
            emit(&Event::FrameRejected { reason: reason.clone() });
            FromRouter::Rejected { reason }
        })
    }

    async fn take_policy(&self, policy: Policy) -> Result<FromRouter, String> {
        if policy.schema != PROTOCOL_VERSION {
            return Err(format!("policy has schema {}, this router reads {PROTOCOL_VERSION}", policy.schema));
        }
        let generation = policy.generation;
        let last = self.shared.view.borrow().policy.as_ref().map(|in_force| in_force.policy.generation);
        if last.is_some_and(|last| generation < last) {
            return Err(format!("policy generation {generation} is older than the one in force"));
        }
        // SASLprep leaves these as they are; others would need its tables on both sides.
        let is_plain = |password: &str| password.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if let Some((role, _)) = policy.roles.iter().find(|(_, password)| !is_plain(password.expose())) {
            return Err(format!("password of role {role:?} has characters outside printable ASCII"));
        }
        if let Some(tls) = &policy.tls {
            acceptor(&tls.chain_pem, &tls.key_pem)?;
        }
        let secret = self.shared.secret;
        let kept = policy.clone();
        let in_force = tokio::task::spawn_blocking(move || InForce::new(policy, &secret))
            .await
            .map_err(|error| error.to_string())?;
        self.remember(|store| store.memory.policy = Some(kept)).map_err(|error| unsaved(&error))?;
        emit(&Event::PolicyAccepted {
            generation: generation.0,
            roles: in_force.policy.roles.len(),
            max_clients: in_force.policy.max_clients,
        });
        self.shared.view.send_modify(|view| view.policy = Some(Arc::new(in_force)));
        self.shared.pools.resize(&self.shared.view.borrow());
        Ok(FromRouter::Accepted { generation })
    }

    async fn take_targets(&self, targets: Targets) -> Result<FromRouter, String> {
        let epoch = targets.epoch;
        let before = self.shared.view.borrow().targets.clone();
        if let Some(last) = before.as_ref().filter(|last| epoch < last.epoch) {
            return Err(format!("epoch {epoch} is older than the last, {}", last.epoch));
        }
        let primary_of = |targets: &Targets| targets.write.as_ref().map(|server| server.member);
        if let Some(last) = before.as_ref().filter(|last| epoch == last.epoch)
            && let (Some(old), Some(new)) = (primary_of(last), primary_of(&targets))
            && old != new
        {
            return Err(format!("epoch {epoch} has postgres-{old} as its primary, not postgres-{new}"));
        }
        // Sessions move while the file is written: a restart in between asks the control plane again.
        let since = Instant::now();
        let primary = targets.write.clone();
        let read = targets.read.iter().map(|server| server.member.to_string()).collect();
        let is_other = primary.is_some() && before.as_ref().is_none_or(|before| before.write != primary);
        if let Some(primary) = primary.as_ref().filter(|_| is_other) {
            let fence = fence(&self.shared, primary).await;
            *self.shared.fence.lock().unwrap_or_else(PoisonError::into_inner) = fence;
        }
        let is_failover = primary.is_some() && before.is_some_and(|before| before.epoch < epoch);
        if is_failover {
            // Whom this lets go is counted; whose wait ended before waited for something else.
            self.shared.note(|failover| failover.longest_hold = Duration::ZERO);
        }
        self.shared.view.send_modify(|view| {
            view.targets = Some(Arc::new(targets.clone()));
            view.reign += u64::from(is_other);
        });
        self.shared.pools.purge(&self.shared.view.borrow());
        if is_failover {
            // Sessions without a server had nothing there: they are carried over by now.
            let detached = self.shared.write.detached.load(Ordering::Relaxed);
            self.shared.note(|failover| {
                failover.epoch = Some(epoch);
                failover.carried += detached;
            });
        }
        let saved = self.remember(|store| store.memory.targets = Some(targets));
        if let Some(primary) = &primary {
            // Tasks close their connections as soon as they run; not to run for that long is a bug of ours.
            timeout(CLOSE_DEADLINE, self.shared.only_primary_left(primary))
                .await
                .map_err(|_| "connections to a former primary did not close in 5 s".to_owned())?;
        }
        emit(&Event::TargetsPointed {
            epoch,
            write: primary.map(|server| server.member.to_string()),
            read,
            took_us: u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX),
        });
        saved.map_err(|error| unsaved(&error))?;
        Ok(FromRouter::Pointed { epoch })
    }

    fn remember(&self, change: impl FnOnce(&mut Store)) -> io::Result<()> {
        // The file is written a few times a day, and then nothing is more urgent.
        tokio::task::block_in_place(|| {
            let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            change(&mut store);
            store.save()
        })
    }

    /// Whether a failover is under way whose end is to be reported.
    fn is_report_due(&self) -> bool {
        self.shared.failover.lock().unwrap_or_else(PoisonError::into_inner).epoch.is_some()
    }

    /// Whether connections may yet leave a member, or nobody was told that none does.
    fn is_emptying(&self, told: Option<&BTreeMap<Member, u64>>) -> bool {
        let is_held = self.shared.view.borrow().targets.as_ref().is_some_and(|targets| targets.write.is_none());
        is_held || told.is_none_or(|told| !told.is_empty())
    }

    /// Connections that are leaving, when that differs from what was told.
    fn leaving(&self, told: &mut Option<BTreeMap<Member, u64>>) -> Option<FromRouter> {
        let epoch = self.shared.view.borrow().targets.as_ref()?.epoch;
        let by_member = self.shared.leaving();
        if told.as_ref() == Some(&by_member) {
            return None;
        }
        *told = Some(by_member.clone());
        Some(FromRouter::Leaving { epoch, by_member })
    }

    /// The report at the end of a failover, once.
    fn finished(&self) -> Option<FromRouter> {
        if self.shared.held() > 0 {
            return None;
        }
        let mut failover = self.shared.failover.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = failover.epoch?;
        let Failover { carried, ended, aborted, in_flight, longest_hold, .. } = std::mem::take(&mut *failover);
        let longest_hold_ms = millis(longest_hold);
        emit(&Event::FailoverEnded { epoch, carried, ended, aborted, in_flight, longest_hold_ms });
        Some(FromRouter::FailoverDone { epoch, carried, ended, aborted, in_flight, longest_hold_ms })
    }
}

fn unsaved(error: &io::Error) -> String {
    format!("in force, but not on disk: {error}")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn send(writer: &mut tokio::net::unix::OwnedWriteHalf, frame: &FromRouter) -> io::Result<()> {
    timeout(SEND_DEADLINE, wire::send(writer, frame)).await?
}
