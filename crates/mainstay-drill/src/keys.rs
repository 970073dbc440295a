//! The ledger of keys: unique keys in a Redis, set over the connection that applications have.

use std::collections::BTreeSet;
use std::time::Duration;

use mainstay_types::Secret;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::history::{End, History, Operation};

/// Writers at once.
pub(crate) const WRITERS: u32 = 2;
/// Pause of a writer between two keys.
const PACE: Duration = Duration::from_millis(5);
/// Time for one operation.
const OPERATION: Duration = Duration::from_secs(40);
/// Pause before a writer whose connection broke comes back.
const RECONNECT: Duration = Duration::from_millis(10);
/// Life of a key that a killed drill could not clean up. **Unit**: seconds.
const LIFE: u32 = 3600;
/// Keys asked for at once when reading back.
const PAGE: usize = 500;
/// Before every key of ours.
const PREFIX: &str = "mainstay-drill";

/// The ledger of one round.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) url: Secret,
    /// Names the round.
    pub(crate) drill: String,
    pub(crate) history: History,
}

async fn connect(url: &Secret) -> Result<MultiplexedConnection, RedisError> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(OPERATION)).set_response_timeout(Some(OPERATION));
    redis::Client::open(url.expose())?.get_multiplexed_async_connection_with_config(&config).await
}

impl Keys {
    /// Starts the writers; they end when `stop` says so.
    pub(crate) fn start(&self, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        (0..WRITERS).map(|writer| tokio::spawn(self.clone().run(writer, stop.clone()))).collect()
    }

    fn key(&self, writer: u32, number: u64) -> String {
        format!("{PREFIX}:{}:{writer}:{number}", self.drill)
    }

    async fn run(self, writer: u32, stop: watch::Receiver<bool>) {
        let mut open: Option<(MultiplexedConnection, Instant)> = None;
        let mut number = 0;
        while !*stop.borrow() {
            number += 1;
            let began = Instant::now();
            let (mut connection, opened) = match open.take() {
                Some(open) => open,
                None => match connect(&self.url).await {
                    Ok(connection) => (connection, began),
                    Err(error) => {
                        let end = if error.is_connection_refusal() { End::Refused } else { End::Failed };
                        self.add(writer, number, began, began, (end, Some(&error)));
                        tokio::time::sleep(RECONNECT).await;
                        continue;
                    }
                },
            };
            let key = self.key(writer, number);
            let mut set = redis::cmd("SET");
            set.arg(key).arg(number).arg("EX").arg(LIFE);
            match set.query_async::<()>(&mut connection).await {
                Ok(()) => {
                    self.add(writer, number, opened, began, (End::Ok, None));
                    open = Some((connection, opened));
                    tokio::time::sleep(PACE).await;
                }
                Err(error) => {
                    // What the server says is certain; of a broken connection nobody can tell.
                    let is_answer = error.code().is_some();
                    let end = if is_answer { End::Failed } else { End::Ambiguous };
                    self.add(writer, number, opened, began, (end, Some(&error)));
                    open = is_answer.then_some((connection, opened));
                    tokio::time::sleep(RECONNECT).await;
                }
            }
        }
    }

    fn add(&self, client: u32, number: u64, opened: Instant, began: Instant, (end, error): (End, Option<&RedisError>)) {
        if let Some(error) = error {
            self.history.error(&format!("redis: {error}"));
        }
        self.history.add(Operation { client, number, opened, began, ended: Instant::now(), end });
    }

    /// Reads back, compares, and removes the keys.
    pub(crate) async fn read_back(&self) -> Result<Readback, RedisError> {
        let mut connection = connect(&self.url).await?;
        let operations = self.history.all();
        let mut present = BTreeSet::new();
        for page in operations.chunks(PAGE) {
            let keys: Vec<String> = page.iter().map(|one| self.key(one.client, one.number)).collect();
            let values: Vec<Option<u64>> = redis::cmd("MGET").arg(&keys).query_async(&mut connection).await?;
            for (operation, value) in page.iter().zip(values) {
                if value == Some(operation.number) {
                    present.insert((operation.client, operation.number));
                }
            }
            redis::cmd("UNLINK").arg(&keys).query_async::<()>(&mut connection).await?;
        }
        Ok(compare(&operations, &present))
    }

    /// Positive control: the server writes nothing to its file any more, until it is started again.
    pub(crate) async fn stop_the_file(&self) -> Result<(), RedisError> {
        let mut connection = connect(&self.url).await?;
        redis::cmd("CONFIG").arg("SET").arg("appendonly").arg("no").query_async(&mut connection).await
    }
}

/// Empties a Redis and proves it: a key that was there before is gone. Returns how many there were.
pub(crate) async fn empty(url: &Secret) -> Result<u64, String> {
    let text = |error: RedisError| error.to_string();
    let mut connection = connect(url).await.map_err(text)?;
    let canary = format!("{PREFIX}:canary:{}", std::process::id());
    redis::cmd("SET").arg(&canary).arg(1).arg("EX").arg(LIFE).query_async::<()>(&mut connection).await.map_err(text)?;
    let before: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await.map_err(text)?;
    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.map_err(text)?;
    let is_there: bool = redis::cmd("EXISTS").arg(&canary).query_async(&mut connection).await.map_err(text)?;
    if is_there { Err("a key is still there after FLUSHALL".to_owned()) } else { Ok(before) }
}

/// What reading back showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readback {
    pub(crate) acknowledged: u64,
    /// Acknowledged and not there.
    pub(crate) lost: Vec<Operation>,
    /// Certainly failed by the client's knowledge, and there.
    pub(crate) resurrected: u64,
}

/// Acknowledged against present, by writer and number.
fn compare(operations: &[Operation], present: &BTreeSet<(u32, u64)>) -> Readback {
    let mut readback = Readback::default();
    for operation in operations {
        let is_present = present.contains(&(operation.client, operation.number));
        match operation.end {
            End::Ok => {
                readback.acknowledged += 1;
                if !is_present {
                    readback.lost.push(*operation);
                }
            }
            End::Failed | End::Refused => readback.resurrected += u64::from(is_present),
            End::Ambiguous | End::Truncated => {}
        }
    }
    readback
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_losses_and_resurrections_are_found() {
        let now = Instant::now();
        let operation = |client, number, end| Operation { client, number, opened: now, began: now, ended: now, end };
        let history = [
            operation(0, 1, End::Ok),
            operation(0, 2, End::Ok),
            operation(0, 3, End::Failed),
            operation(1, 1, End::Ambiguous),
            operation(1, 2, End::Ambiguous),
        ];
        let found = compare(&history, &BTreeSet::from([(0, 1), (0, 3), (1, 2)]));
        let lost: Vec<(u32, u64)> = found.lost.iter().map(|one| (one.client, one.number)).collect();
        assert_eq!((found.acknowledged, lost, found.resurrected), (2, vec![(0, 2)], 1));
    }
}
