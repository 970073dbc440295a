//! The ledger: unique rows through the router, as an application would write them; acknowledged must be present.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay_types::Secret;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::history::{End, History, Operation};

/// Writers at once: enough that one is always in flight, few enough that two cores are not the limit.
pub(crate) const WRITERS: u32 = 4;
/// Pause of a writer between two rows: about 100 rows a second and writer, so that a history stays small.
const PACE: Duration = Duration::from_millis(5);
/// Time for one operation: longer than any hold that should end well.
const OPERATION: Duration = Duration::from_secs(40);
/// Pause before a writer whose connection broke comes back.
const RECONNECT: Duration = Duration::from_millis(10);
/// With `acknowledge before commit`: how long the lie lasts. Four writers lie nearly all the time.
const LIE: Duration = Duration::from_millis(20);

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Honesty {
    /// A row counts as acknowledged when the server said so.
    Honest,
    /// Positive control: it counts before its commit is even sent.
    AcknowledgeBeforeCommit,
}

/// The ledger of one run.
pub(crate) struct Ledger {
    pub(crate) url: Secret,
    pub(crate) drill: String,
    pub(crate) history: History,
}

/// What reading back showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readback {
    pub(crate) acknowledged: u64,
    /// Acknowledged and not there: writer and number.
    pub(crate) lost: Vec<(u32, u64)>,
    /// There more than once.
    pub(crate) duplicated: u64,
    /// Certainly failed by the client's knowledge, and there.
    pub(crate) resurrected: u64,
    /// Ambiguous ones that are there.
    pub(crate) ambiguous_present: u64,
}

async fn connect(url: &Secret) -> Result<Client, tokio_postgres::Error> {
    let mut config: tokio_postgres::Config = url.expose().parse()?;
    config.application_name("mainstay drill").connect_timeout(OPERATION);
    let (client, connection) = config.connect(NoTls).await?;
    // Its end is seen by the client's next use.
    tokio::spawn(async move { connection.await.ok() });
    Ok(client)
}

impl Ledger {
    /// Makes the table. No primary key on the ids: a row that was written twice must be seen, not refused.
    pub(crate) async fn prepare(&self) -> Result<(), tokio_postgres::Error> {
        let client = connect(&self.url).await?;
        client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS ledger (drill text NOT NULL, writer integer NOT NULL, number bigint NOT NULL,
                   at timestamptz NOT NULL DEFAULT clock_timestamp());
                 CREATE INDEX IF NOT EXISTS ledger_drill ON ledger (drill);
                 DELETE FROM ledger WHERE at < now() - interval '1 day';",
            )
            .await
    }

    /// Starts the writers; they end when `stop` says so.
    pub(crate) fn start(&self, honesty: Honesty, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        (0..WRITERS)
            .map(|writer| {
                let writer = Writer {
                    url: self.url.clone(),
                    drill: self.drill.clone(),
                    history: self.history.clone(),
                    writer,
                    honesty,
                };
                tokio::spawn(writer.run(stop.clone()))
            })
            .collect()
    }

    /// Reads back and compares.
    pub(crate) async fn read_back(&self) -> Result<Readback, tokio_postgres::Error> {
        let client = connect(&self.url).await?;
        let rows = client
            .query("SELECT writer, number, count(*) FROM ledger WHERE drill = $1 GROUP BY 1, 2", &[&self.drill])
            .await?;
        let mut present: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        for row in rows {
            let (writer, number, count): (i32, i64, i64) = (row.get(0), row.get(1), row.get(2));
            present.insert((writer.unsigned_abs(), number.unsigned_abs()), count.unsigned_abs());
        }
        Ok(compare(&self.history.all(), &present))
    }
}

/// Acknowledged against present.
pub(crate) fn compare(operations: &[Operation], present: &BTreeMap<(u32, u64), u64>) -> Readback {
    let mut readback = Readback::default();
    let mut known = BTreeSet::new();
    for operation in operations {
        let id = (operation.client, operation.number);
        known.insert(id);
        let is_present = present.contains_key(&id);
        match operation.end {
            End::Ok => {
                readback.acknowledged += 1;
                if !is_present {
                    readback.lost.push(id);
                }
            }
            End::Failed => readback.resurrected += u64::from(is_present),
            End::Ambiguous | End::Truncated => readback.ambiguous_present += u64::from(is_present),
        }
    }
    readback.duplicated = present.values().filter(|count| **count > 1).count() as u64;
    readback
}

struct Writer {
    url: Secret,
    drill: String,
    history: History,
    writer: u32,
    honesty: Honesty,
}

impl Writer {
    async fn run(self, stop: watch::Receiver<bool>) {
        let mut number = 0;
        let mut client: Option<Client> = None;
        while !*stop.borrow() {
            let began = Instant::now();
            let open = match client.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => match connect(&self.url).await {
                    Ok(client) => client,
                    Err(error) => {
                        self.fail(&mut number, began, End::Failed, &describe(&error));
                        tokio::time::sleep(RECONNECT).await;
                        continue;
                    }
                },
            };
            number += 1;
            let result = tokio::time::timeout(OPERATION, self.write(&open, number, began)).await;
            match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    self.history.error(&describe(&error));
                    self.add(number, began, end_of(&error));
                }
                Err(_) => {
                    self.history.error("no answer within 40 s");
                    self.add(number, began, End::Ambiguous);
                    // Its late answer would be taken for the next one's.
                    tokio::time::sleep(RECONNECT).await;
                    continue;
                }
            }
            client = Some(open);
            tokio::time::sleep(PACE).await;
        }
    }

    async fn write(&self, client: &Client, number: u64, began: Instant) -> Result<(), tokio_postgres::Error> {
        let sql = "INSERT INTO ledger (drill, writer, number) VALUES ($1, $2, $3)";
        let (writer, row) = (self.writer.cast_signed(), number.cast_signed());
        match self.honesty {
            Honesty::Honest => {
                client.execute(sql, &[&self.drill, &writer, &row]).await?;
                self.add(number, began, End::Ok);
            }
            Honesty::AcknowledgeBeforeCommit => {
                client.batch_execute("BEGIN").await?;
                client.execute(sql, &[&self.drill, &writer, &row]).await?;
                self.add(number, began, End::Ok);
                tokio::time::sleep(LIE).await;
                // What happens to the commit is what the lie does not wait for.
                if let Err(error) = client.batch_execute("COMMIT").await {
                    self.history.error(&describe(&error));
                }
            }
        }
        Ok(())
    }

    fn add(&self, number: u64, began: Instant, end: End) {
        self.history.add(Operation { client: self.writer, number, began, ended: Instant::now(), end });
    }

    fn fail(&self, number: &mut u64, began: Instant, end: End, text: &str) {
        *number += 1;
        self.history.error(text);
        self.add(*number, began, end);
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(database) => format!("{} {}", database.code().code(), database.message()),
        None => {
            let source = std::error::Error::source(error).map(|inner| format!(": {inner}")).unwrap_or_default();
            format!("{error}{source}")
        }
    }
}

/// An error of the server is certain, but for the one that says that it is not; a broken connection is not.
fn end_of(error: &tokio_postgres::Error) -> End {
    match error.as_db_error() {
        Some(database) if *database.code() == SqlState::TRANSACTION_RESOLUTION_UNKNOWN => End::Ambiguous,
        // The session was ended: before the statement began, or with it in flight, nobody can tell from here.
        Some(database) if *database.code() == SqlState::ADMIN_SHUTDOWN => End::Ambiguous,
        Some(_) => End::Failed,
        None => End::Ambiguous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(client: u32, number: u64, end: End) -> Operation {
        let now = Instant::now();
        Operation { client, number, began: now, ended: now, end }
    }

    #[test]
    fn planted_losses_duplicates_and_resurrections_are_all_found() {
        let history = [
            operation(0, 1, End::Ok),
            operation(0, 2, End::Ok),
            operation(0, 3, End::Failed),
            operation(1, 1, End::Ambiguous),
            operation(1, 2, End::Ambiguous),
        ];
        let present = BTreeMap::from([((0, 1), 2), ((0, 3), 1), ((1, 2), 1)]);
        let found = compare(&history, &present);
        assert_eq!(found.acknowledged, 2);
        assert_eq!(found.lost, [(0, 2)]);
        assert_eq!((found.duplicated, found.resurrected, found.ambiguous_present), (1, 1, 1));
    }
}
