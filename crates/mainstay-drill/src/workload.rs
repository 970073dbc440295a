//! Workloads beside the ledger, through the router as it: counters that only go up, and a bank whose total is
//! constant. Few and slow, so that they find wrong data without being the load.

use std::collections::BTreeMap;
use std::time::Duration;

use mainstay_types::Secret;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

use crate::checker::bank::{Negative, Rules};
use crate::checker::{Op, Outcome};
use crate::history::History;
use crate::ledger::{Honesty, LIE, OPERATION, RECONNECT, connect, describe, end_of};
use crate::record::{Record, outcome};

/// Clients that count, each its own counter.
const COUNTERS: u32 = 2;
/// Clients that transfer.
const TELLERS: u32 = 2;
/// Accounts, few: transfers must meet.
const ACCOUNTS: u32 = 4;
/// What each account holds at first.
const EACH: i64 = 100;
/// The most that one transfer moves: small, so that accounts rarely run dry.
const MOST: u64 = 5;
/// Pause between two operations of a client: five clients make fewer than 200 a second.
const PACE: Duration = Duration::from_millis(25);

/// Processes in the history, above the ledger's writers.
const FIRST_COUNTER: u32 = 100;
const FIRST_TELLER: u32 = 200;
const READER: u32 = 300;
/// Who reads all back at the end.
pub(crate) const LAST_READER: u32 = 900;

/// The workloads of one round.
pub(crate) struct Workloads {
    pub(crate) url: Secret,
    pub(crate) drill: String,
    pub(crate) seed: u64,
    pub(crate) record: Record,
    pub(crate) errors: History,
}

/// What the bank must look like.
pub(crate) fn bank_rules() -> Rules {
    let initial: BTreeMap<u32, i64> = (0..ACCOUNTS).map(|account| (account, EACH)).collect();
    Rules { total: i64::from(ACCOUNTS) * EACH, initial: Some(initial), negative: Negative::Forbidden }
}

/// What the workloads are, for people.
pub(crate) fn describe_load() -> String {
    format!("{COUNTERS} counters and {TELLERS} tellers of a bank with {ACCOUNTS} accounts through the router")
}

impl Workloads {
    /// Makes the tables and this round's rows.
    pub(crate) async fn prepare(&self) -> Result<(), Error> {
        let client = connect(&self.url).await?;
        client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS counter (drill text NOT NULL, key integer NOT NULL, value bigint NOT NULL,
                   at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (drill, key));
                 CREATE TABLE IF NOT EXISTS bank (drill text NOT NULL, account integer NOT NULL, balance bigint NOT NULL,
                   at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (drill, account));
                 DELETE FROM counter WHERE at < now() - interval '1 day';
                 DELETE FROM bank WHERE at < now() - interval '1 day';",
            )
            .await?;
        for key in 0..COUNTERS {
            let sql = "INSERT INTO counter (drill, key, value) VALUES ($1, $2, 0)";
            client.execute(sql, &[&self.drill, &key.cast_signed()]).await?;
        }
        for account in 0..ACCOUNTS {
            let sql = "INSERT INTO bank (drill, account, balance) VALUES ($1, $2, $3)";
            client.execute(sql, &[&self.drill, &account.cast_signed(), &EACH]).await?;
        }
        Ok(())
    }

    /// Starts the clients; they end when `stop` says so.
    pub(crate) fn start(&self, honesty: Honesty, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        let counters = (0..COUNTERS).map(|key| (FIRST_COUNTER + key, Work::Count(key)));
        let tellers = (0..TELLERS).map(|teller| (FIRST_TELLER + teller, Work::Transfer));
        counters
            .chain(tellers)
            .chain([(READER, Work::Read)])
            .map(|(process, work)| {
                let worker = Worker {
                    url: self.url.clone(),
                    drill: self.drill.clone(),
                    record: self.record.clone(),
                    errors: self.errors.clone(),
                    random: self.seed ^ u64::from(process),
                    process,
                    work,
                    honesty,
                };
                tokio::spawn(worker.run(stop.clone()))
            })
            .collect()
    }

    /// Reads all back, once nobody writes any more.
    pub(crate) async fn read_back(&self) -> Result<(), Error> {
        let client = connect(&self.url).await?;
        for key in 0..COUNTERS {
            let began = Instant::now();
            let op = read_counter(&client, &self.drill, key).await?;
            self.record.add(LAST_READER, began, op, Outcome::Ok);
        }
        let began = Instant::now();
        let op = read_balances(&client, &self.drill).await?;
        self.record.add(LAST_READER, began, op, Outcome::Ok);
        Ok(())
    }
}

async fn read_counter(client: &Client, drill: &str, key: u32) -> Result<Op, Error> {
    let sql = "SELECT value FROM counter WHERE drill = $1 AND key = $2";
    let row = client.query_opt(sql, &[&drill, &key.cast_signed()]).await?;
    // A counter that is gone was never counted, as far as a reader can tell.
    let value = row.map_or(0, |row| row.get::<_, i64>(0).unsigned_abs());
    Ok(Op::Read { key, value: Some(value) })
}

/// One statement: one snapshot.
async fn read_balances(client: &Client, drill: &str) -> Result<Op, Error> {
    let rows = client.query("SELECT account, balance FROM bank WHERE drill = $1", &[&drill]).await?;
    let balances = rows.iter().map(|row| (row.get::<_, i32>(0).unsigned_abs(), row.get(1)));
    Ok(Op::Balances(balances.collect()))
}

#[derive(Clone, Copy)]
enum Work {
    Count(u32),
    Transfer,
    Read,
}

/// How an attempt ended.
struct Attempt {
    op: Op,
    outcome: Outcome,
    error: Option<Error>,
}

struct Worker {
    url: Secret,
    drill: String,
    record: Record,
    errors: History,
    random: u64,
    process: u32,
    work: Work,
    honesty: Honesty,
}

impl Worker {
    async fn run(mut self, stop: watch::Receiver<bool>) {
        let mut client: Option<Client> = None;
        while !*stop.borrow() {
            let open = match client.take().filter(|client| !client.is_closed()) {
                Some(client) => client,
                None => match connect(&self.url).await {
                    Ok(client) => client,
                    Err(error) => {
                        // Nothing was begun, so nothing is recorded.
                        self.errors.error(&describe(&error));
                        tokio::time::sleep(RECONNECT).await;
                        continue;
                    }
                },
            };
            let is_kept = match self.work {
                Work::Count(key) => match self.honesty {
                    Honesty::Honest => self.count(&open, key).await,
                    Honesty::AcknowledgeBeforeCommit => self.count_early(&open, key).await,
                },
                Work::Transfer => self.transfer(&open).await,
                Work::Read => self.read(&open).await,
            };
            if is_kept {
                client = Some(open);
            }
            tokio::time::sleep(PACE).await;
        }
    }

    fn next(&mut self, below: u64) -> u64 {
        self.random = crate::round::splitmix(self.random);
        self.random % below
    }

    /// Records an attempt. False: its connection must not be used again.
    fn record(&self, began: Instant, attempt: Attempt) -> bool {
        let Attempt { op, outcome, error } = attempt;
        if let Some(error) = &error {
            self.errors.error(&describe(error));
        }
        self.record.add(self.process, began, op, outcome);
        outcome == Outcome::Ok || error.is_some()
    }

    async fn increment(&self, client: &Client, key: u32) -> Result<u64, Error> {
        let sql = "UPDATE counter SET value = value + 1 WHERE drill = $1 AND key = $2 RETURNING value";
        let row = client.query_one(sql, &[&self.drill, &key.cast_signed()]).await?;
        Ok(row.get::<_, i64>(0).unsigned_abs())
    }

    async fn count(&self, client: &Client, key: u32) -> bool {
        let began = Instant::now();
        let (value, outcome, error) = match tokio::time::timeout(OPERATION, self.increment(client, key)).await {
            Ok(Ok(value)) => (Some(value), Outcome::Ok, None),
            Ok(Err(error)) => (None, outcome(end_of(&error)), Some(error)),
            Err(_) => (None, Outcome::Ambiguous, None),
        };
        self.record(began, Attempt { op: Op::Increment { key, value }, outcome, error })
    }

    /// Positive control: says that it is done before its commit is even sent.
    async fn count_early(&self, client: &Client, key: u32) -> bool {
        let began = Instant::now();
        let lie = async {
            client.batch_execute("BEGIN").await?;
            let value = Some(self.increment(client, key).await?);
            self.record.add(self.process, began, Op::Increment { key, value }, Outcome::Ok);
            self.commit_late(client).await
        };
        tokio::time::timeout(OPERATION, lie).await.is_ok_and(|ended| ended.is_ok())
    }

    /// What happens to the commit is what the lie does not wait for.
    async fn commit_late(&self, client: &Client) -> Result<(), Error> {
        tokio::time::sleep(LIE).await;
        client.batch_execute("COMMIT").await.inspect_err(|error| self.errors.error(&describe(error)))
    }

    /// An explicit transaction of two updates: half of it must never be seen.
    async fn transfer(&mut self, client: &Client) -> bool {
        let from = u32::try_from(self.next(u64::from(ACCOUNTS))).unwrap_or(0);
        let away = 1 + u32::try_from(self.next(u64::from(ACCOUNTS) - 1)).unwrap_or(0);
        let to = (from + away) % ACCOUNTS;
        let amount = 1 + self.next(MOST).cast_signed();
        let began = Instant::now();
        let op = Op::Transfer { from, to, amount };
        // What ends before its commit was sent is certainly not done.
        let (outcome, error) = match tokio::time::timeout(OPERATION, self.move_money(client, from, to, amount)).await {
            Ok(Ok(true)) if self.honesty == Honesty::AcknowledgeBeforeCommit => {
                self.record.add(self.process, began, op, Outcome::Ok);
                return self.commit_late(client).await.is_ok();
            }
            Ok(Ok(true)) => match tokio::time::timeout(OPERATION, client.batch_execute("COMMIT")).await {
                Ok(Ok(())) => (Outcome::Ok, None),
                Ok(Err(error)) => (outcome(end_of(&error)), Some(error)),
                Err(_) => (Outcome::Ambiguous, None),
            },
            // The account is dry: the client changed its mind, nothing was tried.
            Ok(Ok(false)) => return client.batch_execute("ROLLBACK").await.is_ok(),
            Ok(Err(error)) => {
                self.record(began, Attempt { op, outcome: Outcome::Failed, error: Some(error) });
                // A transaction may be open on it still.
                return client.batch_execute("ROLLBACK").await.is_ok();
            }
            Err(_) => (Outcome::Failed, None),
        };
        self.record(began, Attempt { op, outcome, error })
    }

    /// Everything but the commit, in one message. False: the account holds too little.
    async fn move_money(&self, client: &Client, from: u32, to: u32, amount: i64) -> Result<bool, Error> {
        let drill = self.drill.replace('\'', "''");
        let take = format!(
            "UPDATE bank SET balance = balance - {amount} WHERE drill = '{drill}' AND account = {from} \
             AND balance >= {amount};"
        );
        let give = format!("UPDATE bank SET balance = balance + {amount} WHERE drill = '{drill}' AND account = {to};");
        // Always the lower account first: two tellers must not wait for each other.
        let (first, second) = if from < to { (take, give) } else { (give, take) };
        let answers = client.simple_query(&format!("BEGIN; {first} {second}")).await?;
        let updated = answers.iter().filter(|answer| matches!(answer, SimpleQueryMessage::CommandComplete(1)));
        Ok(updated.count() == 2)
    }

    /// Counters and balances in turn; a read that failed says nothing and is not recorded.
    async fn read(&mut self, client: &Client) -> bool {
        let began = Instant::now();
        let turn = u32::try_from(self.next(u64::from(COUNTERS) + 2)).unwrap_or(0);
        let read = async {
            if turn < COUNTERS {
                read_counter(client, &self.drill, turn).await
            } else {
                read_balances(client, &self.drill).await
            }
        };
        match tokio::time::timeout(OPERATION, read).await {
            Ok(Ok(op)) => self.record(began, Attempt { op, outcome: Outcome::Ok, error: None }),
            Ok(Err(error)) => {
                self.errors.error(&describe(&error));
                true
            }
            Err(_) => false,
        }
    }
}
