//! The event journal: one thread owns `state.db`, so that an fsync never stands in the way of a failover.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use mainstay_api::Event;
use tokio::sync::{broadcast, oneshot, watch};

use crate::store::{self, NewEvent, Store};

/// Events that may wait for the disk. At the rate of a crash loop over all boxes (some 100/s) this is a minute.
const QUEUE: usize = 8192;
/// Events that a slow reader of the stream may trail before it is told that it missed some.
const BROADCAST: usize = 1024;

enum Ask {
    Append(NewEvent),
    Read { after: Option<u64>, limit: u32, answer: oneshot::Sender<Result<Vec<Event>, store::Error>> },
    Fact { name: String, answer: oneshot::Sender<Result<Option<String>, store::Error>> },
    SetFact { name: String, value: String, answer: oneshot::Sender<Result<(), store::Error>> },
    Flush(oneshot::Sender<()>),
}

/// Handle of the journal's thread; clones share it.
#[derive(Clone)]
pub(crate) struct Journal {
    asks: mpsc::SyncSender<Ask>,
    stored: broadcast::Sender<Event>,
}

impl Journal {
    /// Starts the thread. It ends when the last handle is gone.
    pub(crate) fn start(mut store: Store) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (asks, inbox) = mpsc::sync_channel(QUEUE);
        let (stored, _) = broadcast::channel(BROADCAST);
        let sender = stored.clone();
        let thread = std::thread::Builder::new().name("journal".to_owned()).spawn(move || {
            while let Ok(first) = inbox.recv() {
                serve(&mut store, &sender, first, &inbox);
            }
        })?;
        Ok((Self { asks, stored }, thread))
    }

    /// Records an event soon. When the queue is full (the disk stands still) the event is dropped and said so
    /// on standard error: the stack's life matters more than its diary.
    pub(crate) fn emit(&self, event: NewEvent) {
        log_line(&event);
        if self.asks.try_send(Ask::Append(event)).is_err() {
            write_stderr("{\"level\":\"error\",\"kind\":\"EventDropped\",\"text\":\"the event queue is full\"}");
        }
    }

    /// Events as in [`Store::events`].
    pub(crate) async fn read(&self, after: Option<u64>, limit: u32) -> Result<Vec<Event>, String> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask::Read { after, limit, answer }).map_err(|_| "the event queue is full".to_owned())?;
        answered.await.map_err(|_| "the journal has ended".to_owned())?.map_err(|error| error.to_string())
    }

    /// A fact as it was recorded last.
    pub(crate) async fn fact(&self, name: &str) -> Result<Option<String>, String> {
        let (answer, answered) = oneshot::channel();
        self.asks
            .try_send(Ask::Fact { name: name.to_owned(), answer })
            .map_err(|_| "the event queue is full".to_owned())?;
        answered.await.map_err(|_| "the journal has ended".to_owned())?.map_err(|error| error.to_string())
    }

    /// Records a fact durably.
    pub(crate) async fn set_fact(&self, name: &str, value: &str) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        self.asks
            .try_send(Ask::SetFact { name: name.to_owned(), value: value.to_owned(), answer })
            .map_err(|_| "the event queue is full".to_owned())?;
        answered.await.map_err(|_| "the journal has ended".to_owned())?.map_err(|error| error.to_string())
    }

    /// Keeps the latest of what is sent there as a fact: in order, and again until it is durable. A write of its own for
    /// each could come to the disk after a later one, and one that failed was gone.
    pub(crate) fn keeper(&self, name: &'static str) -> watch::Sender<Option<String>> {
        let (sender, latest) = watch::channel(None);
        let journal = self.clone();
        tokio::spawn(keep_latest(latest, async move |text: String| journal.set_fact(name, &text).await));
        sender
    }

    /// Returns when everything emitted so far is on disk.
    pub(crate) async fn flush(&self) {
        let (answer, answered) = oneshot::channel();
        if self.asks.try_send(Ask::Flush(answer)).is_ok() {
            answered.await.ok();
        }
    }

    /// Events as they become durable.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.stored.subscribe()
    }
}

/// Pause before what could not be written is written again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

async fn keep_latest(mut latest: watch::Receiver<Option<String>>, write: impl AsyncFn(String) -> Result<(), String>) {
    while latest.changed().await.is_ok() {
        loop {
            let Some(text) = latest.borrow_and_update().clone() else { break };
            if write(text).await.is_ok() {
                break;
            }
            tokio::time::sleep(WRITE_AGAIN).await;
        }
    }
}

fn serve(store: &mut Store, stored: &broadcast::Sender<Event>, first: Ask, inbox: &mpsc::Receiver<Ask>) {
    let mut batch = Vec::new();
    let mut others = Vec::new();
    for ask in std::iter::once(first).chain(inbox.try_iter().take(256)) {
        match ask {
            Ask::Append(event) => batch.push(event),
            other => others.push(other),
        }
    }
    if !batch.is_empty() {
        match store.append(batch) {
            Ok(events) => events.into_iter().for_each(|event| {
                // Nobody listening is no error.
                stored.send(event).ok();
            }),
            Err(error) => write_stderr(&format!(
                "{{\"level\":\"error\",\"kind\":\"JournalFailed\",\"text\":{:?}}}",
                error.to_string()
            )),
        }
    }
    for ask in others {
        match ask {
            Ask::Append(_) => {}
            Ask::Read { after, limit, answer } => {
                answer.send(store.events(after, limit)).ok();
            }
            Ask::Fact { name, answer } => {
                answer.send(store.fact(&name)).ok();
            }
            Ask::SetFact { name, value, answer } => {
                answer.send(store.set_fact(&name, &value)).ok();
            }
            Ask::Flush(answer) => {
                answer.send(()).ok();
            }
        }
    }
}

/// The event as a JSON line on standard error, which keep appends to `logs/control.log`.
fn log_line(event: &NewEvent) {
    let mut line: BTreeMap<String, serde_json::Value> = event.fields.clone();
    line.insert("at".to_owned(), event.at.to_string().into());
    line.insert("kind".to_owned(), event.kind.into());
    line.insert("level".to_owned(), serde_json::to_value(event.level).unwrap_or_default());
    line.insert("subject".to_owned(), event.subject.clone().into());
    line.insert("text".to_owned(), event.text.clone().into());
    write_stderr(&serde_json::to_string(&line).unwrap_or_default());
}

fn write_stderr(line: &str) {
    use std::io::Write;
    // A log that cannot be written must not end the control plane.
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Each was written by a task of its own: an earlier one could be the last, and one that failed was lost.
    #[tokio::test(start_paused = true)]
    async fn the_latest_of_a_fact_is_written_last_and_until_it_is_durable() {
        let (sender, latest) = watch::channel(None);
        let written = Arc::new(Mutex::new(Vec::new()));
        let tries = Arc::clone(&written);
        let keeping = tokio::spawn(keep_latest(latest, async move |text: String| {
            let mut tries = tries.lock().expect("whole");
            tries.push(text);
            if tries.len() < 4 { Err("the disk is full".to_owned()) } else { Ok(()) }
        }));
        sender.send_replace(Some("1".to_owned()));
        tokio::time::sleep(WRITE_AGAIN / 2).await;
        sender.send_replace(Some("2".to_owned()));
        sender.send_replace(Some("3".to_owned()));
        tokio::time::sleep(WRITE_AGAIN * 5).await;
        assert_eq!(*written.lock().expect("whole"), ["1", "3", "3", "3"]);
        drop(sender);
        keeping.await.expect("it ends with who sends");
    }
}
