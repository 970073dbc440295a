//! `integers receipts`: clients that take integers through the edge, keep every one they were given as a
//! receipt, and hold the counter to them. What they demand: nothing that was acknowledged is missing,
//! nothing was given twice, and no integer is unaccounted for.
//!
//! A request that was cut off without a word is *ambiguous*: it may have counted. Half of the clients
//! send an Idempotency-Key and repeat until they are answered, so that theirs never are.

mod client;
mod ledger;
mod options;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;

use client::{Client, End, Target};
use ledger::{Account, Report};
use options::{Options, Until};

/// Pause after a request that got no integer.
const PAUSE: Duration = Duration::from_millis(20);
/// A client with a key gives up on one request after this time; it then counts as ambiguous.
const GIVE_UP: Duration = Duration::from_secs(60);
/// Every so many requests with a key, the same one is sent once more: it must get the same integers.
const REPLAY_EVERY: u64 = 10;
/// Exit code when receipts and counter disagree.
const BROKEN: u8 = 10;
/// Exit code when too little was acknowledged to say anything.
const NOTHING_PROVEN: u8 = 11;
const ACKNOWLEDGED_MIN: usize = 10;

/// Prints how it is called; exit code 2.
pub(crate) fn usage() -> ExitCode {
    say(options::USAGE);
    ExitCode::from(2)
}

/// Runs until the time or the number of increments is reached, or until standard input ends.
pub(crate) async fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(error) => {
            say(&format!("error: {error:#}\n\n{}", options::USAGE));
            return ExitCode::from(2);
        }
    };
    match run(&options).await {
        Ok(report) => {
            let text = if options.is_json { report.json() } else { report.text() };
            let _ = std::io::stdout().write_all(text.as_bytes());
            match () {
                () if report.is_broken() => ExitCode::from(BROKEN),
                () if report.acknowledged < ACKNOWLEDGED_MIN => ExitCode::from(NOTHING_PROVEN),
                () => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> anyhow::Result<Report> {
    let target = Arc::new(Target::new(options)?);
    let keys = keys(options, &target).await?;
    let mut accounts = Vec::new();
    for key in &keys {
        let (value, epoch) = client::position(&target, key).await.context("cannot read the counter")?;
        accounts.push(Account { start: value, epoch, ..Account::default() });
    }
    let (stop, stopped) = watch::channel(false);
    let began = Instant::now();
    let mut tasks = Vec::new();
    for number in 0..options.clients {
        let owner = number % keys.len();
        let worker = Worker {
            client: Client::new(Arc::clone(&target), keys[owner].clone()),
            number,
            has_key: options.keys.are_sent_by(number),
            n: options.n,
            pace: options.pace,
            quota: options.until.increments_of(number, options.clients),
            began,
            stopped: stopped.clone(),
        };
        tasks.push((owner, tokio::spawn(worker.run())));
    }
    let ending = end(options, stop);
    tokio::pin!(ending);
    let mut operations = Vec::new();
    for (owner, mut task) in tasks {
        let done = tokio::select! {
            done = &mut task => done,
            () = &mut ending => task.await, // all of them have been told to stop
        };
        operations.push((owner, done.context("a client broke")?));
    }
    let took = began.elapsed();
    for (owner, done) in operations {
        accounts[owner].operations.extend(done.operations);
        accounts[owner].replays += done.replays;
        accounts[owner].wrong_replays += done.wrong_replays;
    }
    for (account, key) in accounts.iter_mut().zip(&keys) {
        let (value, epoch) = client::position(&target, key).await.context("cannot read the counter afterwards")?;
        account.end = value;
        account.was_reset = epoch != account.epoch;
    }
    Ok(Report::of(&accounts, options.clients, took))
}

/// Says when to stop. Ends never before it has said so.
async fn end(options: &Options, stop: watch::Sender<bool>) {
    match options.until {
        Until::Seconds(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        Until::InputEnds => {
            // A thread of its own: a read of a terminal cannot be called off.
            let (done, waiting) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
                let _ = done.send(());
            });
            let _ = waiting.await;
        }
        Until::Increments(_) => std::future::pending().await,
    }
    stop.send_replace(true);
    stop.closed().await;
}

/// API keys of the users whose counters are used: the given one, or those of new users.
async fn keys(options: &Options, target: &Arc<Target>) -> anyhow::Result<Vec<String>> {
    if let Some(key) = &options.api_key {
        return Ok(vec![key.clone()]);
    }
    let mut keys = Vec::new();
    for _ in 0..options.users {
        keys.push(client::register(target).await.context("cannot register a user")?);
    }
    Ok(keys)
}

/// One client.
struct Worker {
    client: Client,
    number: usize,
    has_key: bool,
    n: i64,
    pace: Duration,
    quota: Option<u64>,
    began: Instant,
    stopped: watch::Receiver<bool>,
}

#[derive(Default)]
struct Done {
    operations: Vec<ledger::Operation>,
    replays: u64,
    wrong_replays: u64,
}

impl Worker {
    async fn run(mut self) -> Done {
        let mut done = Done::default();
        let mut sent = 0_u64;
        while !*self.stopped.borrow() && self.quota.is_none_or(|quota| sent < quota) {
            sent += 1;
            let key = self.has_key.then(|| format!("r-{}-{}-{sent}", std::process::id(), self.number));
            let began = Instant::now();
            let end = self.take(key.as_deref()).await;
            let ended = Instant::now();
            done.operations.push(ledger::Operation {
                client: self.number,
                ended: ended - self.began,
                took: ended - began,
                n: self.n,
                end: end.clone(),
            });
            match (&end, &key) {
                (End::Given { .. }, Some(key)) if sent.is_multiple_of(REPLAY_EVERY) => {
                    let again = self.take(Some(key)).await;
                    // Only an answer can be wrong: no answer is none.
                    if let End::Given { .. } = again {
                        done.replays += 1;
                        done.wrong_replays += u64::from(again != end);
                    }
                }
                (End::Given { .. }, _) => {}
                _ => tokio::time::sleep(PAUSE).await,
            }
            if !self.pace.is_zero() {
                tokio::time::sleep(self.pace).await;
            }
        }
        done
    }

    /// With a key: again until there is a word.
    async fn take(&mut self, key: Option<&str>) -> End {
        let began = Instant::now();
        loop {
            let end = self.client.next(self.n, key).await;
            let is_settled = matches!(end, End::Given { .. }) || key.is_none();
            if is_settled || began.elapsed() > GIVE_UP {
                // What was refused once may have counted in an earlier attempt.
                return match end {
                    End::Refused(text) if key.is_some() => End::Ambiguous(text),
                    end => end,
                };
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
