//! The application's own counter as a receipt: numbers are taken through the edge, as its users take them.
//!
//! Each number that was given is one operation of the history; a checker holds the counter to all of them. A request
//! that was sent and not answered with a number may have counted: it is never repeated.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::StatusCode;
use mainstay_client::Client;
use mainstay_stack::Stack;
use mainstay_stack::drills::{Call, Counter as Declared};
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
    /// What was answered in place of a number; of one round.
    strange: Arc<Mutex<NoNumbers>>,
}

/// Answers that are no number: then it is no counter that was asked, and nothing is proven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NoNumbers {
    /// To requests for the next number.
    pub(crate) takes: u64,
    /// To requests for the last one.
    pub(crate) reads: u64,
    /// The first of them: what was asked, and what was answered.
    pub(crate) first: Option<String>,
}

/// What a request was answered with.
enum Answer {
    Number(u64, Open),
    /// Something else. It may have counted.
    NoNumber(String),
    /// Certainly nothing was counted.
    Refused(String),
    /// Perhaps it was.
    Unknown(String),
}

/// A counter in one round.
pub(crate) struct Receipts {
    counter: Counter,
    record: Record,
    /// Where it stood before the first request; `None`: it answered that with no number, and no other is taken.
    pub(crate) base: Option<u64>,
}

impl Counter {
    /// The counter of the stack file, if it has one.
    ///
    /// **Errors**: nobody knows the key that it is asked with.
    pub(crate) async fn of(client: &Client, stack: &Stack, edge: Probe) -> Result<Option<Self>, Error> {
        let Some(declared) = &stack.drills.counter else { return Ok(None) };
        let mut key = None;
        if let Some(variable) = &declared.variable {
            // Of who counts: another service may have another value under the same name.
            let service = declared.service.as_str();
            key = client.service_env(service).await?.env.get(variable).cloned();
            if key.is_none() {
                return Err(Error::Counter(format!("{service} was given no variable {variable}")));
            }
        }
        Ok(Some(Self { probe: edge, declared: Arc::new(declared.clone()), key, strange: Arc::default() }))
    }

    /// What it is, for people.
    pub(crate) fn text(&self) -> String {
        format!("{TAKERS} clients {} through the edge, each number a receipt", self.declared.take)
    }

    /// Reads where it stands.
    ///
    /// **Errors**: it does not say.
    pub(crate) async fn begin(&self, record: &Record, errors: &History) -> Result<Receipts, Error> {
        let probe = Probe { history: errors.clone(), ..self.probe.clone() };
        let counter = Self { probe, strange: Arc::default(), ..self.clone() };
        let base = counter.read(record, Duration::ZERO).await?;
        Ok(Receipts { counter, record: record.clone(), base })
    }

    /// Where it stands; `None`: it answers with no number, and goes on with that for as long as it is asked again.
    async fn read(&self, record: &Record, patience: Duration) -> Result<Option<u64>, Error> {
        let asked = Instant::now();
        loop {
            let began = Instant::now();
            let said = match tokio::time::timeout(READ_WITHIN, self.ask(&self.declared.read, None)).await {
                Ok(Ok(Answer::Number(value, _))) => {
                    record.add(LAST_READER, began, Op::Read { key: APPLICATION, value: Some(value) }, Outcome::Ok);
                    return Ok(Some(value));
                }
                Ok(Ok(Answer::NoNumber(text))) => {
                    if asked.elapsed() >= patience {
                        self.note(&self.declared.read, &text, |strange| &mut strange.reads);
                        return Ok(None);
                    }
                    text
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

    /// Counts an answer that is no number. They may all differ: the first alone is kept.
    fn note(&self, call: &Call, answer: &str, which: impl Fn(&mut NoNumbers) -> &mut u64) {
        let mut strange = self.strange.lock().unwrap_or_else(PoisonError::into_inner);
        *which(&mut strange) += 1;
        strange.first.get_or_insert_with(|| format!("{call}: {answer}"));
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
            Err(error) if error.is::<LengthLimitError>() => {
                return Ok(Answer::NoNumber(format!("more than {LONGEST} bytes")));
            }
            Err(error) => return Ok(Answer::Unknown(format!("answer broke off: {error}"))),
        };
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Ok(Answer::Refused("status 429: a limit refuses the drill, not counted".to_owned()));
        }
        if status.is_client_error() {
            return Ok(Answer::Refused(format!("status {}", status.as_u16())));
        }
        if status.is_redirection() {
            return Ok(Answer::NoNumber(format!("status {}", status.as_u16())));
        }
        if !status.is_success() {
            return Ok(Answer::Unknown(format!("status {}", status.as_u16())));
        }
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        match text.parse() {
            Ok(number) => Ok(Answer::Number(number, (sender, opened))),
            Err(_) => {
                let quoted: String = text.chars().take(QUOTED).collect();
                Ok(Answer::NoNumber(format!("{quoted:?}")))
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
                Ok(Ok(Answer::NoNumber(text))) => {
                    self.note(&self.declared.take, &text, |strange| &mut strange.takes);
                    (None, Outcome::Ambiguous)
                }
                Ok(Ok(Answer::Refused(text))) => {
                    errors.error(&format!("{}: {text}", self.declared.take));
                    (None, Outcome::Failed)
                }
                Ok(Ok(Answer::Unknown(text))) => {
                    errors.error(&format!("{}: {text}", self.declared.take));
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
        let takers = if self.base.is_some() { TAKERS } else { 0 };
        (0..takers)
            .map(|taker| {
                let (counter, record) = (self.counter.clone(), self.record.clone());
                tokio::spawn(counter.take(FIRST_TAKER + taker, record, stop.clone()))
            })
            .collect()
    }

    /// Reads where it stands, once nobody counts any more, and says what was answered in place of numbers.
    ///
    /// **Errors**: it does not say: what it lost is not known.
    pub(crate) async fn read_back(&self) -> Result<NoNumbers, Error> {
        if self.base.is_some() {
            self.counter.read(&self.record, READ_WITHIN).await?;
        }
        Ok(self.counter.strange.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

    use super::*;

    /// A counter at 7 whose reads and takes are answered with a status and what stands before the number.
    async fn counter(read: &'static str, take: &'static str) -> Counter {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let port = listener.local_addr().expect("has an address").port();
        tokio::spawn(async move {
            let count = Arc::new(AtomicU64::new(7));
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let (status, number) = if request.starts_with(b"POST") {
                            (take, count.fetch_add(1, Ordering::Relaxed) + 1)
                        } else {
                            (read, count.load(Ordering::Relaxed))
                        };
                        let (status, before) = status.split_once('|').expect("status|what is before the number");
                        let body = format!("{before}{number}");
                        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                        if stream.write_all((head + &body).as_bytes()).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let tls = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let (host, path, history) = ("localhost".to_owned(), "/".to_owned(), History::default());
        // Past the edge nothing is encrypted.
        let probe = Probe {
            host,
            port,
            path,
            tls: Arc::new(tls),
            history,
            crowd: 0,
            name: crate::http::NAME.to_owned(),
            past: vec![port],
        };
        let call = |method: &str| Call { method: method.to_owned(), path: "/n".to_owned() };
        let declared = Declared {
            take: call("POST"),
            read: call("GET"),
            header: "X-API-Key".to_owned(),
            variable: None,
            service: mainstay_types::ServiceName::new("backend").expect("a name"),
        };
        Counter { probe, declared: Arc::new(declared), key: None, strange: Arc::default() }
    }

    /// What is known after clients took numbers for a moment, and the errors that they told of.
    async fn taken(counter: &Counter) -> (Option<u64>, NoNumbers, usize) {
        let errors = History::default();
        let receipts = counter.begin(&Record::new(), &errors).await.expect("begins");
        let (stop, stopped) = watch::channel(false);
        let takers = receipts.start(&stopped);
        tokio::time::sleep(AGAIN * 8).await;
        stop.send_replace(true);
        for taker in takers {
            taker.await.expect("ends");
        }
        let strange = receipts.read_back().await.expect("says");
        (receipts.base, strange, History::errors_of(&[&errors]).len())
    }

    /// Each was a line of its own in the report, and the drill failed for them.
    #[tokio::test]
    async fn answers_that_are_no_number_are_counted_and_the_first_is_kept() {
        let (base, strange, errors) = taken(&counter("200|", "200|<html>").await).await;
        assert!(strange.takes > 4 && strange.reads == 0 && errors == 0, "{strange:?}, {errors} errors");
        assert_eq!((base, strange.first.as_deref()), (Some(7), Some("POST /n: \"<html>8\"")));
        let (base, strange, errors) = taken(&counter("302|", "200|").await).await;
        let first = Some("GET /n: status 302".to_owned());
        assert_eq!((base, strange, errors), (None, NoNumbers { takes: 0, reads: 1, first }, 0));
        let (base, strange, errors) = taken(&counter("200|", "200|").await).await;
        assert_eq!((base, strange, errors), (Some(7), NoNumbers::default(), 0));
    }

    /// It was "GET /n: GET /n: status 403".
    #[tokio::test]
    async fn what_was_asked_is_said_once() {
        let counter = counter("403|", "200|").await;
        let Ok(Answer::Refused(text)) = counter.ask(&counter.declared.read, None).await else {
            panic!("it is refused")
        };
        assert_eq!(text, "status 403", "who asked says what");
    }
}
