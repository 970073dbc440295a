//! The access log: one JSON line a request, written by a thread of its own.
//!
//! Never slows a request: when the queue is full the line is dropped and counted, and the next line that is written says
//! so. Its oldest part is let go of before it fills the disk.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use mainstay_supervisor::logs;
use mainstay_types::Bytes;
use serde::Serialize;

/// How much of the log stays: half a million requests and more. At most twice as much is on the disk.
const BOUND: Bytes = Bytes::mebi(256);
/// Bytes between two looks at how long it is.
const LOOK_BYTES: usize = 8 * 1024 * 1024;
/// Lines waiting for the disk: at 30 000 requests a second this is an eighth of a second, some 2 MiB.
const QUEUE_LINES: usize = 4096;

/// Names of query keys whose value is a secret.
const SECRET_KEYS: [&str; 15] = [
    "token",
    "passw",
    "pwd",
    "secret",
    "key",
    "code",
    "signature",
    "sig",
    "auth",
    "session",
    "jwt",
    "credential",
    "otp",
    "assertion",
    "ticket",
];

/// One line.
#[derive(Debug, Serialize)]
pub(crate) struct Line<'a> {
    pub(crate) at: String,
    pub(crate) request_id: &'a str,
    pub(crate) trace_id: &'a str,
    pub(crate) remote: Option<SocketAddr>,
    /// Who has shown a password or a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<&'a str>,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) route: &'a str,
    pub(crate) status: u16,
    pub(crate) upstream: &'a str,
    pub(crate) endpoint: &'a str,
    /// Of the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) release: Option<&'a str>,
    pub(crate) attempts: u32,
    pub(crate) bytes: u64,
    pub(crate) duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream_ms: Option<f64>,
    pub(crate) tls: &'a str,
    pub(crate) protocol: &'a str,
    pub(crate) policy: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'a str>,
    /// The limit that refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<&'a str>,
}

/// Stands where lines are missing: so many could not be written since the last such line.
#[derive(Debug, Serialize)]
struct Gap {
    at: String,
    lost: u64,
}

enum Message {
    Open(PathBuf),
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Handle of the writer.
#[derive(Debug)]
pub(crate) struct AccessLog {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// Starts the writer; it ends with the handle.
    pub(crate) fn start() -> Self {
        let (queue, messages) = sync_channel(QUEUE_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        let spawned =
            std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&messages, &counter));
        // Without the thread the queue is closed and every line counts as lost.
        drop(spawned);
        Self { queue, lost }
    }

    /// Lines go to this file from now on.
    pub(crate) fn open(&self, path: &Path) {
        if self.queue.try_send(Message::Open(path.to_owned())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a line, or drops and counts it.
    pub(crate) fn write(&self, line: &Line<'_>) {
        let sent = serde_json::to_vec(line).is_ok_and(|mut bytes| {
            bytes.push(b'\n');
            self.queue.try_send(Message::Line(bytes)).is_ok()
        });
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns when all lines so far are in the file, or after a second. Blocks.
    pub(crate) fn flush(&self) {
        let (done, is_done) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            is_done.recv_timeout(Duration::from_secs(1)).ok();
        }
    }

    /// Lines that never reached the file.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn open(path: &Path) -> Option<BufWriter<File>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).ok();
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path).ok()?;
    Some(BufWriter::with_capacity(64 * 1024, file))
}

fn write(messages: &Receiver<Message>, lost: &AtomicU64) {
    let mut log = Log { place: None, file: None, unflushed: 0, told: 0, kept: 0, unlooked: 0, lost };
    loop {
        // Flushed whenever nothing waits: lines are late by no more than the batch they are in.
        let message = match messages.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Empty) => {
                if !log.flush() {
                    // What is in the buffer would fail again; a full disk may have room later.
                    log.file = log.place.as_deref().and_then(open);
                }
                match messages.recv() {
                    Ok(message) => message,
                    Err(_) => return,
                }
            }
            Err(TryRecvError::Disconnected) => return,
        };
        match message {
            Message::Open(path) if log.place.as_ref() == Some(&path) && log.file.is_some() => {}
            Message::Open(path) => {
                log.file = open(&path);
                log.place = Some(path);
            }
            Message::Flush(done) => {
                log.flush();
                done.try_send(()).ok();
            }
            Message::Line(line) => {
                log.tell_gap();
                log.line(&line);
            }
        }
    }
}

/// The writer's side.
struct Log<'a> {
    place: Option<PathBuf>,
    file: Option<BufWriter<File>>,
    /// Lines in the buffer.
    unflushed: u64,
    /// Of the lines lost, those that the log says are.
    told: u64,
    /// And of these, those of which the file says it: what is told into the buffer may be lost with it.
    kept: u64,
    /// Bytes since the last look at its length.
    unlooked: usize,
    lost: &'a AtomicU64,
}

impl Log<'_> {
    /// Whether nothing was lost by it.
    fn flush(&mut self) -> bool {
        let is_lost = self.file.as_mut().is_some_and(|file| file.flush().is_err());
        if is_lost {
            self.lost.fetch_add(self.unflushed, Ordering::Relaxed);
            self.told = self.kept;
        }
        self.kept = self.told;
        self.unflushed = 0;
        !is_lost
    }

    fn line(&mut self, line: &[u8]) {
        self.unflushed += 1;
        if self.file.as_mut().is_none_or(|file| file.write_all(line).is_err()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        self.unlooked += line.len();
        if self.unlooked >= LOOK_BYTES {
            self.unlooked = 0;
            if let Some(path) = &self.place {
                // A file system without holes keeps all of it.
                logs::enforce(path, BOUND).ok();
            }
        }
    }

    /// Readers of the log see where it has a hole.
    fn tell_gap(&mut self) {
        let lost = self.lost.load(Ordering::Relaxed);
        let Some(file) = self.file.as_mut().filter(|_| lost > self.told) else { return };
        let gap = Gap { at: crate::now().to_string(), lost: lost - self.told };
        let Ok(mut line) = serde_json::to_vec(&gap) else { return };
        line.push(b'\n');
        if file.write_all(&line).is_ok() {
            self.told = lost;
        }
    }
}

/// The path and query as they may be logged: values of keys that look like secrets are replaced.
pub(crate) fn redact(path_and_query: &str) -> String {
    let Some((path, query)) = path_and_query.split_once('?') else { return path_and_query.to_owned() };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if is_secret(key) || is_token(value) => format!("{key}=***"),
            None if is_token(pair) => "***".to_owned(),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

fn is_secret(key: &str) -> bool {
    let decoded = crate::strict::percent_decode(key).map(|key| String::from_utf8_lossy(&key).to_ascii_lowercase());
    // A key that cannot be decoded may be anything.
    decoded.is_none_or(|key| SECRET_KEYS.iter().any(|secret| key.contains(secret)))
}

/// Whether this begins as a JSON Web Token does, whatever it is called: `eyJ` is `{"` in Base64.
fn is_token(value: &str) -> bool {
    value.starts_with("eyJ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_lines_are_missing_the_log_says_how_many() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("access.log");
        let (queue, messages) = sync_channel(8);
        let lost = AtomicU64::new(3);
        for message in [Message::Open(path.clone()), Message::Line(b"{}\n".to_vec()), Message::Line(b"{}\n".to_vec())] {
            assert!(queue.try_send(message).is_ok());
        }
        drop(queue);
        write(&messages, &lost);
        let text = std::fs::read_to_string(&path).expect("log");
        let lines: Vec<&str> = text.lines().collect();
        let gap: serde_json::Value = serde_json::from_str(lines[0]).expect("a gap");
        assert_eq!((gap["lost"].as_u64(), &lines[1..]), (Some(3), ["{}", "{}"].as_slice()));
    }

    #[test]
    fn secrets_in_queries_are_not_logged() {
        assert_eq!(redact("/a?x=1&access_token=abc&Pass%77ord=p&flag"), "/a?x=1&access_token=***&Pass%77ord=***&flag");
        assert_eq!(redact("/a"), "/a");
        assert_eq!(redact("/a?state=eyJhbGciOiJIUzI1NiJ9.e30.x&eyJx&OTP=1"), "/a?state=***&***&OTP=***");
    }
}
