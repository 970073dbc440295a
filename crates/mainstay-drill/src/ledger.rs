//! The ledger: unique rows through the router, as an application would write them; acknowledged must be present.

use std::time::Duration;

use mainstay_types::Secret;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::checker::Element;
use crate::history::{End, History, Operation};

/// Writers at once: enough that one is always in flight, few enough that two cores are not the limit.
pub(crate) const WRITERS: u32 = 4;
/// Pause of a writer between two rows: about 100 rows a second and writer, so that a history stays small.
const PACE: Duration = Duration::from_millis(5);
/// Time for one operation: longer than any hold that should end well.
pub(crate) const OPERATION: Duration = Duration::from_secs(40);
/// Pause before a writer whose connection broke comes back.
pub(crate) const RECONNECT: Duration = Duration::from_millis(10);
/// Pause of a writer that connects anew for each row: a connection costs both sides some milliseconds.
const FRESH_PACE: Duration = Duration::from_millis(20);
/// With `acknowledge before commit`: how long the lie lasts. Four writers lie nearly all the time.
pub(crate) const LIE: Duration = Duration::from_millis(20);

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

/// What is asked of a server, with its deadline.
///
/// **Errors**: the server's, or no answer within [`OPERATION`].
pub(crate) async fn answer<T>(asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, String> {
    match tokio::time::timeout(OPERATION, asked).await {
        Ok(answer) => answer.map_err(|error| mainstay_types::full_text(&error)),
        Err(_) => Err(format!("PostgreSQL did not answer within {} s", OPERATION.as_secs())),
    }
}

/// A connection through the router.
pub(crate) async fn connect(url: &Secret) -> Result<Client, tokio_postgres::Error> {
    let mut config: tokio_postgres::Config = url.expose().parse()?;
    config.application_name("mainstay drill").connect_timeout(OPERATION);
    let (client, connection) = config.connect(NoTls).await?;
    // Its end is seen by the client's next use.
    tokio::spawn(async move { connection.await.ok() });
    Ok(client)
}

/// The server's version, when it says.
pub(crate) async fn version(url: &Secret) -> Option<String> {
    let row = connect(url).await.ok()?.query_one("SELECT current_setting('server_version')", &[]).await.ok()?;
    row.try_get(0).ok()
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

    /// Starts the writers, and `fresh` more that connect anew for each row; they end when `stop` says so.
    pub(crate) fn start(&self, honesty: Honesty, fresh: u32, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        (0..WRITERS + fresh)
            .map(|writer| {
                let is_fresh = writer >= WRITERS;
                let writer = Writer {
                    url: self.url.clone(),
                    drill: self.drill.clone(),
                    history: self.history.clone(),
                    writer,
                    honesty,
                    is_fresh,
                };
                tokio::spawn(writer.run(stop.clone()))
            })
            .collect()
    }

    /// Reads back every row, each as often as it is there.
    pub(crate) async fn read_back(&self) -> Result<Vec<Element>, tokio_postgres::Error> {
        let client = connect(&self.url).await?;
        let rows = client.query("SELECT writer, number FROM ledger WHERE drill = $1", &[&self.drill]).await?;
        let element = |row: &tokio_postgres::Row| {
            let (writer, number): (i32, i64) = (row.get(0), row.get(1));
            Element(writer.unsigned_abs(), number.unsigned_abs())
        };
        Ok(rows.iter().map(element).collect())
    }
}

struct Writer {
    url: Secret,
    drill: String,
    history: History,
    writer: u32,
    honesty: Honesty,
    /// Connects anew for each row.
    is_fresh: bool,
}

/// A connection and when it was opened.
type Open = (Client, Instant);

impl Writer {
    async fn run(self, stop: watch::Receiver<bool>) {
        let mut number = 0;
        let mut client: Option<Open> = None;
        while !*stop.borrow() {
            let began = Instant::now();
            number += 1;
            let open = match client.take().filter(|(client, _)| !client.is_closed()) {
                Some(open) => open,
                // As old as the moment before it was asked for: see the twin in `http`.
                None => match connect(&self.url).await {
                    Ok(client) => (client, began),
                    Err(error) => {
                        self.history.error(&describe(&error));
                        let end = if is_refused(&error) { End::Refused } else { End::Failed };
                        self.add(number, began, began, end);
                        tokio::time::sleep(RECONNECT).await;
                        continue;
                    }
                },
            };
            let result = tokio::time::timeout(OPERATION, self.write(&open, number, began)).await;
            match result {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    self.history.error(&describe(&error));
                    self.add(number, open.1, began, end_of(&error));
                }
                Err(_) => {
                    self.history.error("no answer within 40 s");
                    self.add(number, open.1, began, End::Ambiguous);
                    // Its late answer would be taken for the next one's.
                    tokio::time::sleep(RECONNECT).await;
                    continue;
                }
            }
            client = (!self.is_fresh).then_some(open);
            tokio::time::sleep(if self.is_fresh { FRESH_PACE } else { PACE }).await;
        }
    }

    async fn write(&self, (client, opened): &Open, number: u64, began: Instant) -> Result<(), tokio_postgres::Error> {
        let sql = "INSERT INTO ledger (drill, writer, number) VALUES ($1, $2, $3)";
        let (writer, row) = (self.writer.cast_signed(), number.cast_signed());
        match self.honesty {
            Honesty::Honest => {
                client.execute(sql, &[&self.drill, &writer, &row]).await?;
                self.add(number, *opened, began, End::Ok);
            }
            Honesty::AcknowledgeBeforeCommit => {
                client.batch_execute("BEGIN").await?;
                client.execute(sql, &[&self.drill, &writer, &row]).await?;
                self.add(number, *opened, began, End::Ok);
                tokio::time::sleep(LIE).await;
                // What happens to the commit is what the lie does not wait for.
                if let Err(error) = client.batch_execute("COMMIT").await {
                    self.history.error(&describe(&error));
                }
            }
        }
        Ok(())
    }

    fn add(&self, number: u64, opened: Instant, began: Instant, end: End) {
        self.history.add(Operation { client: self.writer, number, opened, began, ended: Instant::now(), end });
    }
}

fn is_refused(error: &tokio_postgres::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// An error's text, with the server's code.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(database) => format!("{} {}", database.code().code(), database.message()),
        None => {
            let source = std::error::Error::source(error).map(|inner| format!(": {inner}")).unwrap_or_default();
            format!("{error}{source}")
        }
    }
}

/// An error of the server is certain, but for the one that says that it is not; a broken connection is not.
pub(crate) fn end_of(error: &tokio_postgres::Error) -> End {
    match error.as_db_error() {
        Some(database) if *database.code() == SqlState::TRANSACTION_RESOLUTION_UNKNOWN => End::Ambiguous,
        // The session was ended: before the statement began, or with it in flight, nobody can tell from here.
        Some(database) if *database.code() == SqlState::ADMIN_SHUTDOWN => End::Ambiguous,
        Some(_) => End::Failed,
        None => End::Ambiguous,
    }
}
