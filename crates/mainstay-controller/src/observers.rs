//! Those who look: at the database, Redis, telemetry, machine pressure and keep. Each tells the loop what it saw.

use std::sync::Arc;
use std::time::Duration;

use mainstay_decide::pressure;
use mainstay_decide::replicas::StoreLook;
use mainstay_supervisor::client::Keep;
use mainstay_supervisor::proc;
use mainstay_supervisor::protocol::Notice;
use mainstay_types::{Member, Seen, Timestamp};
use tokio::sync::{mpsc, watch};

use crate::clock::now;
use crate::effects::Effects;
use crate::message::Message;

/// Pause between two looks at Redis and telemetry in the steady state.
const STEADY: Duration = Duration::from_secs(2);
/// The same while it is not known to be well: `up` waits for it.
const EAGER: Duration = Duration::from_millis(50);
/// Longest time from the end of one of these looks to the end of the next: the pause, and two answers of up to 2 s.
const USUAL: Duration = Duration::from_secs(6);
/// Pause between two looks at pressure.
const PRESSURE_LOOK: Duration = Duration::from_secs(1);
/// Pause before dialling keep again.
const REDIAL: Duration = Duration::from_millis(50);

/// Since when somebody is silent, over several looks: each look knows only of itself. Time in which nobody looked,
/// because this process was stopped or waited for the CPU, is no silence of theirs.
pub(crate) struct Silence {
    since: Option<Timestamp>,
    looked_at: Option<Timestamp>,
    /// The longest time from the end of one look to the end of the next, when nothing holds us up.
    usual: Duration,
}

impl Silence {
    pub(crate) fn new(usual: Duration) -> Self {
        Self { since: None, looked_at: None, usual }
    }

    /// Takes a look that has just ended.
    pub(crate) fn take<T>(&mut self, seen: Seen<T>, at: Timestamp) -> Seen<T> {
        let between = self.looked_at.replace(at).map_or(Duration::ZERO, |before| at.saturating_since(before));
        let lost = between.saturating_sub(self.usual);
        match seen {
            Seen::Silent { since } => {
                let since = self.since.unwrap_or(since).after(lost).min(at);
                self.since = Some(since);
                Seen::Silent { since }
            }
            Seen::Fact { .. } | Seen::Unknown => {
                self.since = None;
                seen
            }
        }
    }
}

/// Keeps a connection to keep, starts a new keep when it died, and passes on what it says.
pub(crate) async fn keep(
    paths: crate::paths::Paths,
    current: watch::Sender<Option<Keep>>,
    sender: mpsc::Sender<Message>,
    stopping: watch::Receiver<bool>,
) {
    loop {
        match Keep::connect_and_greet(&paths.runtime).await {
            Ok((keep, mut notices, hello)) => {
                let asked_at = now();
                if let Ok(children) = keep.list().await {
                    current.send_replace(Some(keep.clone()));
                    sender.send(Message::KeepFound(hello)).await.ok();
                    sender.send(Message::Children(children, asked_at)).await.ok();
                    while let Some(notice) = notices.recv().await {
                        let message = match notice {
                            Notice::Exited { child } => Message::Ended(child),
                            Notice::Adopted { .. } => {
                                let asked_at = now();
                                let Ok(children) = keep.list().await else { break };
                                Message::Children(children, asked_at)
                            }
                        };
                        sender.send(message).await.ok();
                    }
                    current.send_replace(None);
                    sender.send(Message::KeepLost).await.ok();
                }
            }
            Err(_) if *stopping.borrow() => return,
            Err(_) => {
                let paths = paths.clone();
                // Another one may be starting it too: keep's own lock decides, and we dial again.
                tokio::task::spawn_blocking(move || crate::start_keep(&paths, None)).await.ok();
            }
        }
        tokio::time::sleep(REDIAL).await;
    }
}

/// Looks at one Redis until the end: the cache, or a store without others.
pub(crate) async fn redis(effects: Arc<Effects>, kind: mainstay_cache::Kind, sender: mpsc::Sender<Message>) {
    let settings = match kind {
        mainstay_cache::Kind::Cache => effects.cache_settings(),
        mainstay_cache::Kind::Store => effects.store_settings(Member::A),
    };
    let Ok(settings) = settings else { return };
    let mut looks = effects.looks.subscribe();
    let mut silence = Silence::new(USUAL);
    loop {
        let seen = mainstay_cache::ping(&settings, now()).await;
        let seen = silence.take(seen, now());
        let pause = if seen.value().is_some() { STEADY } else { EAGER };
        if sender.send(Message::Redis { name: kind.name(), seen }).await.is_err() {
            return;
        }
        rest(&mut looks, pause).await;
    }
}

/// Looks at one server of the store until the end.
pub(crate) async fn store(effects: Arc<Effects>, member: Member, sender: mpsc::Sender<Message>) {
    // Where it is reached does not change with its part.
    let Ok(settings) = effects.store_settings(member) else { return };
    let mut looks = effects.looks.subscribe();
    let mut has_served = false;
    let mut silence = Silence::new(USUAL);
    loop {
        let (seen, file_bytes) = mainstay_cache::replicas::look(&settings, now()).await;
        let answer = silence.take(seen, now());
        if !has_served && answer.value().is_some_and(|answer| !answer.is_replica && answer.port == settings.port) {
            // Tried again at the next look.
            has_served = mainstay_cache::replicas::note_served(&settings.state).is_ok();
        }
        let pause = if answer.value().is_some() { STEADY } else { EAGER };
        let is_restoring = mainstay_cache::copies::is_waiting(&settings);
        let record = match mainstay_cache::replicas::record(&settings.state) {
            Ok(record) => fact(record.unwrap_or_default()),
            Err(_) => Seen::Unknown,
        };
        let look = StoreLook { answer, file_bytes, is_restoring, record };
        if sender.send(Message::StoreMember { member, look }).await.is_err() {
            return;
        }
        rest(&mut looks, pause).await;
    }
}

/// Looks at Prometheus and Alertmanager until the end.
pub(crate) async fn telemetry(effects: Arc<Effects>, sender: mpsc::Sender<Message>) {
    let settings = effects.telemetry_settings();
    let mut looks = effects.looks.subscribe();
    let mut silences = [USUAL, USUAL].map(Silence::new);
    loop {
        let prometheus = mainstay_telemetry::is_ready(settings.prometheus_port, &settings.password, now()).await;
        let alertmanager = mainstay_telemetry::is_ready(settings.alertmanager_port, &settings.password, now()).await;
        let [first, second] = &mut silences;
        let (prometheus, alertmanager) = (first.take(prometheus, now()), second.take(alertmanager, now()));
        let is_well = prometheus.value().is_some() && alertmanager.value().is_some();
        if sender.send(Message::Prometheus(prometheus)).await.is_err() {
            return;
        }
        sender.send(Message::Alertmanager(alertmanager)).await.ok();
        rest(&mut looks, if is_well { STEADY } else { EAGER * 4 }).await;
    }
}

/// Looks at machine pressure until the end.
pub(crate) async fn pressure(sender: mpsc::Sender<Message>) {
    loop {
        let worst = [proc::Resource::Cpu, proc::Resource::Io, proc::Resource::Memory]
            .into_iter()
            .filter_map(proc::pressure)
            .max()
            .unwrap_or(0);
        if sender.send(Message::Pressure(worst > pressure::EXPLAINS_SILENCE)).await.is_err() {
            return;
        }
        tokio::time::sleep(PRESSURE_LOOK).await;
    }
}

/// A pause that ends early when something happened, or did since the last pause.
pub(crate) async fn rest(looks: &mut watch::Receiver<()>, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        // Without a sender the control plane is at its end.
        _ = looks.changed() => {}
    }
}

/// `Seen` of a fact just now.
pub(crate) fn fact<T>(value: T) -> Seen<T> {
    Seen::Fact { value, observed_at: now() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn since(seen: &Seen<()>) -> i64 {
        match seen {
            Seen::Silent { since } => since.as_micros() / 1000,
            Seen::Fact { .. } | Seen::Unknown => -1,
        }
    }

    #[test]
    fn silence_counts_from_its_first_look_and_ends_with_an_answer() {
        let mut silence = Silence::new(Duration::from_millis(500));
        let mut take = |seen, millis| since(&silence.take(seen, at(millis)));
        assert_eq!(take(Seen::Silent { since: at(1000) }, 1250), 1000);
        assert_eq!(take(Seen::Silent { since: at(1300) }, 1550), 1000);
        assert_eq!(take(fact(()), 1700), -1);
        assert_eq!(take(Seen::Silent { since: at(1800) }, 2000), 1800);
    }

    /// A control plane that was stopped took the time of its stop for a silence of everybody it had just asked.
    #[test]
    fn time_in_which_nobody_looked_is_no_silence() {
        let mut silence = Silence::new(Duration::from_millis(500));
        let mut take =
            |since_millis, millis| since(&silence.take(Seen::Silent { since: at(since_millis) }, at(millis)));
        assert_eq!(take(1000, 1250), 1000);
        assert_eq!(take(1300, 9800), 9050, "8.05 s of 8.55 were not looked at");
        let mut silence = Silence::new(Duration::from_millis(500));
        let mut take = |seen, millis| since(&silence.take(seen, at(millis)));
        assert_eq!(take(fact(()), 1000), -1);
        assert_eq!(take(Seen::Silent { since: at(1100) }, 9600), 9200, "asked before the stop");
    }
}
