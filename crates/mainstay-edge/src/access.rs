//! The access log: one JSON line a request, written by a thread of its own.
//!
//! Never slows a request: when the queue is full the line is dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use serde::Serialize;

/// Lines waiting for the disk: at 30 000 requests a second this is an eighth of a second, some 2 MiB.
const QUEUE_LINES: usize = 4096;

/// Names of query keys whose value is a secret.
const SECRET_KEYS: [&str; 10] =
    ["token", "password", "passwd", "secret", "key", "code", "signature", "sig", "auth", "session"];

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
    let mut place: Option<PathBuf> = None;
    let mut file: Option<BufWriter<File>> = None;
    let mut unflushed = 0;
    loop {
        // Flushed whenever nothing waits: lines are late by no more than the batch they are in.
        let message = match messages.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Empty) => {
                if file.as_mut().is_some_and(|file| file.flush().is_err()) {
                    lost.fetch_add(unflushed, Ordering::Relaxed);
                    // What is in the buffer would fail again; a full disk may have room later.
                    file = place.as_deref().and_then(open);
                }
                unflushed = 0;
                match messages.recv() {
                    Ok(message) => message,
                    Err(_) => return,
                }
            }
            Err(TryRecvError::Disconnected) => return,
        };
        match message {
            Message::Open(path) if place.as_ref() == Some(&path) && file.is_some() => {}
            Message::Open(path) => {
                file = open(&path);
                place = Some(path);
            }
            Message::Flush(done) => {
                if file.as_mut().is_some_and(|file| file.flush().is_err()) {
                    lost.fetch_add(unflushed, Ordering::Relaxed);
                }
                unflushed = 0;
                done.try_send(()).ok();
            }
            Message::Line(line) => {
                unflushed += 1;
                if file.as_mut().is_none_or(|file| file.write_all(&line).is_err()) {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The path and query as they may be logged: values of keys that look like secrets are replaced.
pub(crate) fn redact(path_and_query: &str) -> String {
    let Some((path, query)) = path_and_query.split_once('?') else { return path_and_query.to_owned() };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((key, _)) if is_secret(key) => format!("{key}=***"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_queries_are_not_logged() {
        assert_eq!(redact("/a?x=1&access_token=abc&Pass%77ord=p&flag"), "/a?x=1&access_token=***&Pass%77ord=***&flag");
        assert_eq!(redact("/a"), "/a");
    }
}
