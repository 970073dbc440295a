//! The application's own counter as a receipt: numbers are taken through the edge, as its users take them.
//!
//! Each number that was given is one operation of the history; a checker holds the counter to all of them. A request
//! that was sent and not answered with a number may have counted: it is never repeated.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::StatusCode;
use mainstay_client::Client;
use mainstay_stack::Stack;
use mainstay_stack::drills::{Call, Counter as Declared};
use mainstay_stack::model::Service;
use mainstay_types::Secret;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::checker::monotonic::APPLICATION;
use crate::checker::{Op, Outcome};
use crate::history::History;
use crate::http::{Open, Probe};
use crate::record::Record;
use crate::run::Error;
use crate::workload::LAST_READER;

/// Clients that take numbers.
pub(crate) const TAKERS: u32 = 2;
/// Pause of a client between two numbers: together they take fewer than 80 a second.
const PACE: Duration = Duration::from_millis(25);
/// Time for one request.
const REQUEST: Duration = Duration::from_secs(40);
/// Pause after a refusal, or before a client that could not connect tries again.
const AGAIN: Duration = Duration::from_millis(50);
/// The counter is read back when the stack is whole: an answer that comes later is none.
const READ_WITHIN: Duration = Duration::from_secs(20);
/// Processes in the history.
const FIRST_TAKER: u32 = 400;
/// Longest answer that is read: a number has twenty digits, and a page that stands in its place some kilobytes.
const LONGEST: usize = 64 << 10;
/// Bytes of an answer that is no number that are quoted.
const QUOTED: usize = 40;

/// The counter as it is asked.
#[derive(Clone)]
pub(crate) struct Counter {
    probe: Probe,
    declared: Arc<Declared>,
    /// What says who counts.
    key: Option<Secret>,
}

/// What a request was answered with.
enum Answer {
    Number(u64, Open),
    /// Certainly nothing was counted.
    Refused(String),
    /// Perhaps it was.
    Unknown(String),
}

/// A counter in one round.
pub(crate) struct Receipts {
    counter: Counter,
    record: Record,
    /// Where it stood before the first request.
    pub(crate) base: u64,
}

impl Counter {
    /// The counter of the stack file, if it has one.
    ///
    /// **Errors**: nobody knows the key that it is asked with.
    pub(crate) async fn of(client: &Client, stack: &Stack, edge: Probe) -> Result<Option<Self>, Error> {
        let Some(declared) = &stack.drills.counter else { return Ok(None) };
        let mut key = None;
        if let Some(variable) = &declared.variable {
            let has = |service: &Service| service.secrets.contains(variable) || service.env.contains_key(variable);
            let found = stack.services.iter().find(|(_, service)| has(service));
            let (name, _) = found.ok_or_else(|| Error::Counter(format!("no service has the variable {variable}")))?;
            key = client.service_env(name.as_str()).await?.env.get(variable).cloned();
            if key.is_none() {
                return Err(Error::Counter(format!("{name} was given no variable {variable}")));
            }
        }
        Ok(Some(Self { probe: edge, declared: Arc::new(declared.clone()), key }))
    }

    /// What it is, for people.
    pub(crate) fn text(&self) -> String {
        format!("{TAKERS} clients {} through the edge, each number a receipt", self.declared.take)
    }

    /// Reads where it stands.
    ///
    /// **Errors**: it does not say.
    pub(crate) async fn begin(&self, record: &Record, errors: &History) -> Result<Receipts, Error> {
        let counter = Self { probe: Probe { history: errors.clone(), ..self.probe.clone() }, ..self.clone() };
        let base = counter.read(record).await?;
        Ok(Receipts { counter, record: record.clone(), base })
    }

    async fn read(&self, record: &Record) -> Result<u64, Error> {
        let asked = Instant::now();
        loop {
            let began = Instant::now();
            let said = match tokio::time::timeout(READ_WITHIN, self.ask(&self.declared.read, None)).await {
                Ok(Ok(Answer::Number(value, _))) => {
                    record.add(LAST_READER, began, Op::Read { key: APPLICATION, value: Some(value) }, Outcome::Ok);
                    return Ok(value);
                }
                Ok(Ok(Answer::Refused(text) | Answer::Unknown(text)) | Err(text)) => text,
                Err(_) => format!("no answer within {} s", READ_WITHIN.as_secs()),
            };
            if asked.elapsed() > READ_WITHIN {
                return Err(Error::Counter(format!("{}: {said}", self.declared.read)));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// **Errors**: nothing was asked.
    async fn ask(&self, call: &Call, open: Option<Open>) -> Result<Answer, String> {
        let (mut sender, opened) = self.probe.ready(open).await.map_err(|failure| failure.1)?;
        let mut request = self.probe.begin(&call.method, &call.path).header("accept", "text/plain");
        if let Some(key) = &self.key {
            request = request.header(self.declared.header.as_str(), key.expose());
        }
        if call.method != "GET" {
            // Some servers refuse a request of unknown length.
            request = request.header("content-length", "0");
        }
        let request = request.body(Empty::new()).map_err(|error| format!("request: {error}"))?;
        let response = match sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => return Ok(Answer::Unknown(format!("request: {error}"))),
        };
        let status = response.status();
        let body = match Limited::new(response.into_body(), LONGEST).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Ok(Answer::Unknown(format!("answer broke off: {error}"))),
        };
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Ok(Answer::Refused("status 429: a limit refuses the drill, not counted".to_owned()));
        }
        if status.is_client_error() {
            return Ok(Answer::Refused(format!("{call}: status {}", status.as_u16())));
        }
        if !status.is_success() {
            return Ok(Answer::Unknown(format!("{call}: status {}", status.as_u16())));
        }
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        match text.parse() {
            Ok(number) => Ok(Answer::Number(number, (sender, opened))),
            Err(_) => {
                let quoted: String = text.chars().take(QUOTED).collect();
                Ok(Answer::Unknown(format!("{call}: answered {quoted:?}, which is no number")))
            }
        }
    }

    async fn take(self, process: u32, record: Record, stop: watch::Receiver<bool>) {
        let (mut open, errors) = (None, self.probe.history.clone());
        while !*stop.borrow() {
            let began = Instant::now();
            let asked = tokio::time::timeout(REQUEST, self.ask(&self.declared.take, open.take())).await;
            let (value, outcome) = match asked {
                Ok(Ok(Answer::Number(value, kept))) => {
                    open = Some(kept);
                    (Some(value), Outcome::Ok)
                }
                Ok(Ok(Answer::Refused(text))) => {
                    errors.error(&text);
                    (None, Outcome::Failed)
                }
                Ok(Ok(Answer::Unknown(text))) => {
                    errors.error(&text);
                    (None, Outcome::Ambiguous)
                }
                Ok(Err(text)) => {
                    // Nothing was asked, so nothing is recorded.
                    errors.error(&text);
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Err(_) => {
                    errors.error("no answer within 40 s");
                    (None, Outcome::Ambiguous)
                }
            };
            record.add(process, began, Op::Increment { key: APPLICATION, value }, outcome);
            tokio::time::sleep(if outcome == Outcome::Ok { PACE } else { AGAIN }).await;
        }
    }
}

impl Receipts {
    /// Starts the clients; they end when `stop` says so.
    pub(crate) fn start(&self, stop: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        (0..TAKERS)
            .map(|taker| {
                let (counter, record) = (self.counter.clone(), self.record.clone());
                tokio::spawn(counter.take(FIRST_TAKER + taker, record, stop.clone()))
            })
            .collect()
    }

    /// Reads where it stands, once nobody counts any more.
    ///
    /// **Errors**: it does not say: what it lost is not known.
    pub(crate) async fn read_back(&self) -> Result<(), Error> {
        self.counter.read(&self.record).await.map(|_| ())
    }
}
