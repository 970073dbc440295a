//! Malformed and smuggled requests, byte by byte, with two origins of opposite taste behind: one strict (hyper), one
//! that takes whatever it can make sense of and prefers the length to the encoding. Neither may ever see a request
//! that the edge did not see, or see one differently.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mainstay_edge::protocol::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Edge, HOST, eventually};

const REQUESTS: &str = include_str!("data/requests.txt");
/// Some cases promise bytes that never come: the edge waits for them longer than this.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A request as an origin understood it: method, target, body. Without a body when it broke off.
type Seen = (String, String, Option<Vec<u8>>);
type Record = Arc<Mutex<Vec<Seen>>>;

struct Case {
    name: String,
    expected: String,
    bytes: Vec<u8>,
}

/// `\r`, `\xNN`, `{x*N}` as bytes.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let mut taken = 1;
        match (letter, rest.as_bytes().get(1)) {
            ('{', _) => {
                let (run, _) = rest[1..].split_once('}').expect("a run ends");
                let (unit, count) = run.split_once('*').expect("a run has a count");
                bytes.extend(unit.repeat(count.parse().expect("a number")).into_bytes());
                taken = run.len() + 2;
            }
            ('\\', Some(b'r')) => (taken, _) = (2, bytes.push(b'\r')),
            ('\\', Some(b'n')) => (taken, _) = (2, bytes.push(b'\n')),
            ('\\', Some(b't')) => (taken, _) = (2, bytes.push(b'\t')),
            ('\\', Some(b'\\')) => (taken, _) = (2, bytes.push(b'\\')),
            ('\\', Some(b'x')) => {
                bytes.push(u8::from_str_radix(&rest[2..4], 16).expect("two digits"));
                taken = 4;
            }
            _ => bytes.push(u8::try_from(letter).expect("ASCII")),
        }
        rest = &rest[taken..];
    }
    bytes
}

fn cases() -> Vec<Case> {
    let lines = REQUESTS.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let cases = lines.map(|line| {
        let mut parts = line.splitn(3, " | ");
        let mut next = || parts.next().unwrap_or_else(|| panic!("three parts: {line}"));
        Case { name: next().to_owned(), expected: next().to_owned(), bytes: unescape(next()) }
    });
    cases.collect()
}

async fn strict_origin(record: Record) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address").to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let record = Arc::clone(&record);
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let record = Arc::clone(&record);
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.ok().map(|body| body.to_bytes().to_vec());
                    let target = head.uri.path_and_query().map_or_else(|| head.uri.to_string(), ToString::to_string);
                    record.lock().expect("alive").push((head.method.to_string(), target, body));
                    Ok::<_, hyper::Error>(Response::new(Full::new(Bytes::from_static(b"ok"))))
                }
            });
            tokio::spawn(async move {
                let serving = hyper::server::conn::http1::Builder::new();
                serving.serve_connection(TokioIo::new(socket), service).await.ok();
            });
        }
    });
    Endpoint { id: "strict".to_owned(), address, is_ready: true, release: 0 }
}

async fn lenient_origin(record: Record) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address").to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(lenient(socket, Arc::clone(&record)));
        }
    });
    Endpoint { id: "lenient".to_owned(), address, is_ready: true, release: 0 }
}

/// Takes line feeds for line ends, blanks before colons, folded lines, the first length, and any encoding that speaks
/// of chunks when there is no length.
async fn lenient(mut socket: TcpStream, record: Record) {
    let mut bytes = Vec::new();
    loop {
        match take_one(&bytes) {
            Some((seen, length)) => {
                record.lock().expect("alive").push(seen);
                bytes.drain(..length);
                if socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                    return;
                }
            }
            None => {
                let mut piece = [0; 16 * 1024];
                match socket.read(&mut piece).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => bytes.extend(&piece[..count]),
                }
            }
        }
    }
}

/// The first request in these bytes and its length, once it is complete.
fn take_one(bytes: &[u8]) -> Option<(Seen, usize)> {
    let mut lines: Vec<String> = Vec::new();
    let mut at = 0;
    loop {
        let line = take_line(bytes, &mut at)?;
        if line.is_empty() && lines.is_empty() {
            continue;
        }
        if line.is_empty() {
            break;
        }
        match lines.last_mut() {
            Some(before) if line.starts_with([' ', '\t']) => before.push_str(&line),
            _ => lines.push(line),
        }
    }
    let mut words = lines.first()?.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let value = |wanted: &str| {
        let pairs = lines.iter().skip(1).filter_map(|line| line.split_once(':'));
        pairs
            .filter(|(name, _)| name.trim().eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value.trim().to_owned())
            .next()
    };
    let length = value("content-length").and_then(|length| length.parse::<usize>().ok());
    let is_chunked = value("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked"));
    let mut body = Vec::new();
    if let Some(length) = length {
        body.extend(bytes.get(at..at + length)?);
        at += length;
    } else if is_chunked {
        loop {
            let size = take_line(bytes, &mut at)?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).ok()?;
            body.extend(bytes.get(at..at + size)?);
            at += size;
            let end = take_line(bytes, &mut at)?;
            if size == 0 {
                let mut trailer = end;
                while !trailer.is_empty() {
                    trailer = take_line(bytes, &mut at)?;
                }
                break;
            }
        }
    }
    Some(((method, target, Some(body)), at))
}

fn take_line(bytes: &[u8], at: &mut usize) -> Option<String> {
    let length = bytes.get(*at..)?.iter().position(|byte| *byte == b'\n')?;
    let line = String::from_utf8_lossy(&bytes[*at..*at + length]).trim_end_matches('\r').to_owned();
    *at += length + 1;
    Some(line)
}

struct Side {
    edge: Edge,
    record: Record,
    _control: crate::support::Control,
}

impl Side {
    async fn start(is_strict: bool) -> Self {
        let record = Record::default();
        let endpoint = match is_strict {
            true => strict_origin(Arc::clone(&record)).await,
            false => lenient_origin(Arc::clone(&record)).await,
        };
        let edge = Edge::start().await;
        let control = edge.with(&[endpoint]).await;
        Self { edge, record, _control: control }
    }

    /// What the origin saw so far belongs to no case that is to come.
    fn forget(&self) {
        self.record.lock().expect("alive").clear();
    }

    /// What the client got, and what the origin saw.
    async fn send(&self, bytes: &[u8]) -> (String, Vec<Seen>) {
        let mut stream = self.edge.client().tls(HOST, &["http/1.1"]).await.expect("connects");
        let mut answer = Vec::new();
        // A refusal may come, and end the connection, before all is sent.
        stream.write_all(bytes).await.ok();
        stream.flush().await.ok();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        drop(stream);
        if read.is_err() {
            tokio::time::sleep(PATIENCE / 5).await;
        }
        let seen = std::mem::take(&mut *self.record.lock().expect("alive"));
        (String::from_utf8_lossy(&answer).into_owned(), seen)
    }
}

/// Final status codes of the answers.
fn statuses(answer: &str) -> Vec<u16> {
    let codes = answer.split("HTTP/1.").skip(1).filter_map(|part| part.get(2..5)?.parse().ok());
    codes.filter(|code| *code >= 200).collect()
}

/// What is wrong with a case, if anything.
fn fault(case: &Case, answer: &str, seen: &[Seen]) -> Option<String> {
    let complete: Vec<&Seen> = seen.iter().filter(|(_, _, body)| body.is_some()).collect();
    let codes = statuses(answer);
    if seen.iter().any(|(_, target, _)| target.contains("smuggled")) {
        return Some("the origin saw the smuggled request".to_owned());
    }
    let is_refusal =
        || matches!(codes.as_slice(), [] | [400 | 404 | 405 | 408 | 413 | 414 | 417 | 421 | 431 | 501 | 505]);
    let passes =
        |count: usize| complete.len() == count && codes.len() == count && codes.iter().all(|code| *code == 200);
    let is_good = case.expected.split('/').any(|expected| match expected {
        "refused" => seen.is_empty() && is_refusal(),
        "chunk" => seen.is_empty() && codes == [400],
        "late chunk" => complete.is_empty() && codes == [400],
        count => passes(count.parse().unwrap_or_else(|_| panic!("an expectation: {count}"))),
    });
    (!is_good).then(|| format!("expected {}, answered {codes:?}, the origin saw {seen:?}", case.expected))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_understood_differently_by_the_edge_and_two_origins() {
    let (strict, lenient) = (Side::start(true).await, Side::start(false).await);
    let cases = cases();
    assert!(cases.len() >= 200, "only {} cases", cases.len());
    let mut faults = Vec::new();
    let mut understood: Vec<(String, String)> = Vec::new();
    for case in &cases {
        let ask = async || {
            let ((to_one, by_one), (to_other, by_other)) =
                tokio::join!(strict.send(&case.bytes), lenient.send(&case.bytes));
            let sides = [("strict", &to_one, &by_one), ("lenient", &to_other, &by_other)];
            let found = sides.into_iter().filter_map(|(side, answer, seen)| {
                fault(case, answer, seen).map(|fault| format!("{} ({side}): {fault}", case.name))
            });
            (found.collect::<Vec<_>>(), by_one, by_other)
        };
        let (mut found, mut by_one, mut by_other) = ask().await;
        if !found.is_empty() {
            // On a busy machine an origin may see the beginning of the case before this one only now.
            tokio::time::sleep(PATIENCE / 5).await;
            strict.forget();
            lenient.forget();
            (found, by_one, by_other) = ask().await;
        }
        faults.extend(found);
        let complete = |seen: &[Seen]| seen.iter().filter(|seen| seen.2.is_some()).cloned().collect::<Vec<_>>();
        if complete(&by_one) != complete(&by_other) {
            faults.push(format!("{}: the origins differ: {by_one:?} and {by_other:?}", case.name));
        }
        understood.extend(complete(&by_other).into_iter().map(|(method, target, _)| (method, target)));
    }
    assert!(faults.is_empty(), "{} of {} cases:\n{}", faults.len(), cases.len(), faults.join("\n"));
    // The edge says in its log what it understood itself.
    eventually("a line for each request", async || {
        let log = std::fs::read_to_string(lenient.edge.access_log()).ok()?;
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let passed = lines.filter(|line| line["status"] == 200);
        let text = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let logged: Vec<_> = passed.map(|line| (text(&line, "method"), text(&line, "path"))).collect();
        if logged.len() < understood.len() {
            return None;
        }
        assert_eq!(logged, understood);
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_in_a_body_that_comes_after_its_head_is_refused_as_well() {
    let side = Side::start(true).await;
    let head = format!("POST /api/x HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
    for pieces in [
        vec![head.as_str(), "5\r\nhello\r\n", "\r\n", "0\r\n\r\n"],
        vec![head.as_str(), "5\r\nhel", "lo\r\n0 \r\n\r\n"],
        vec![&head[..head.len() - 2], "\r\n5 \r\nhello\r\n0\r\n\r\n"],
    ] {
        let mut stream = side.edge.client().tls(HOST, &["http/1.1"]).await.expect("connects");
        for piece in &pieces {
            // The refusal may come before all is sent.
            stream.write_all(piece.as_bytes()).await.ok();
            stream.flush().await.ok();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut answer = Vec::new();
        tokio::time::timeout(crate::support::PATIENCE, stream.read_to_end(&mut answer)).await.expect("ends").ok();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert_eq!(statuses(&answer), [400], "{pieces:?}: {answer}");
        let seen = std::mem::take(&mut *side.record.lock().expect("alive"));
        assert!(seen.iter().all(|(_, _, body)| body.is_none()), "{pieces:?}: {seen:?}");
    }
    // The next request of a connection is none of the body's business.
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let last = format!("GET /api/y HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let mut stream = side.edge.client().tls(HOST, &["http/1.1"]).await.expect("connects");
    for _ in 0..2 {
        stream.write_all(format!("{head}{body}").as_bytes()).await.expect("writes");
        let mut answer = [0; 1024];
        let count = stream.read(&mut answer).await.expect("reads");
        assert!(answer[..count].starts_with(b"HTTP/1.1 200"), "{}", answer[..count].escape_ascii());
    }
    stream.write_all(last.as_bytes()).await.expect("writes");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    assert_eq!(statuses(&String::from_utf8_lossy(&answer)), [200]);
}
