//! The access log: one JSON line a request, written by a thread of its own.
//!
//! Never slows a request: when too much waits for the disk the line is dropped and counted, and the next line that is
//! written says so. Lines are written in batches: a wake and a write for each cost more than making the line. Its oldest
//! part is let go of before it fills the disk.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mainstay_supervisor::logs;
use mainstay_types::Bytes;
use serde::Serialize;

/// How much of the log stays: half a million requests and more. At most twice as much is on the disk.
const BOUND: Bytes = Bytes::mebi(256);
/// Bytes between two looks at how long it is.
const LOOK_BYTES: usize = 8 * 1024 * 1024;
/// Lines waiting for the disk: at 10 000 requests a second more than half a second.
const QUEUE_BYTES: usize = 4 << 20;
/// A line is in the file so much later at the most, while the disk takes it: nobody who reads a log along sees it.
const LATENESS: Duration = Duration::from_millis(25);

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

/// Lines for one file.
#[derive(Debug, Default)]
struct Batch {
    /// The file from here on; `None`: as before.
    place: Option<PathBuf>,
    bytes: Vec<u8>,
    lines: u64,
}

/// What waits for the writer.
#[derive(Debug, Default)]
struct Pending {
    batches: Vec<Batch>,
    /// Who waits until all so far is in the file.
    flushes: Vec<SyncSender<()>>,
    /// The handle is gone.
    is_over: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.flushes.is_empty()
    }

    fn bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.bytes.len()).sum()
    }
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    /// Told when there is something after nothing, and when somebody waits.
    is_there: Condvar,
    lost: AtomicU64,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }
}

thread_local! {
    /// A line is made outside of the lock, in a buffer that stays.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Handle of the writer.
#[derive(Debug)]
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    /// Whether there is a writer at all.
    is_written: bool,
}

impl AccessLog {
    /// Starts the writer; it ends with the handle.
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let of_writer = Arc::clone(&shared);
        let spawned = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&of_writer));
        // Without the thread every line counts as lost.
        Self { shared, is_written: spawned.is_ok() }
    }

    /// Lines go to this file from now on.
    pub(crate) fn open(&self, path: &Path) {
        self.tell(|pending| pending.batches.push(Batch { place: Some(path.to_owned()), ..Batch::default() }));
    }

    /// Adds a line to what waits, or drops and counts it.
    pub(crate) fn write(&self, line: &Line<'_>) {
        let is_taken = self.is_written
            && LINE.with_borrow_mut(|bytes| {
                bytes.clear();
                serde_json::to_writer(&mut *bytes, line).is_ok() && {
                    bytes.push(b'\n');
                    self.add(bytes)
                }
            });
        if !is_taken {
            self.shared.lose(1);
        }
    }

    fn add(&self, line: &[u8]) -> bool {
        let mut pending = self.shared.pending();
        if pending.bytes() + line.len() > QUEUE_BYTES {
            return false;
        }
        let was_empty = pending.is_empty();
        if pending.batches.is_empty() {
            pending.batches.push(Batch::default());
        }
        if let Some(last) = pending.batches.last_mut() {
            last.bytes.extend_from_slice(line);
            last.lines += 1;
        }
        drop(pending);
        if was_empty {
            self.shared.is_there.notify_one();
        }
        true
    }

    fn tell(&self, change: impl FnOnce(&mut Pending)) {
        change(&mut self.shared.pending());
        self.shared.is_there.notify_one();
    }

    /// Returns when all lines so far are in the file, or after a second. Blocks.
    pub(crate) fn flush(&self) {
        if !self.is_written {
            return;
        }
        let (done, is_done) = sync_channel(1);
        self.tell(|pending| pending.flushes.push(done));
        is_done.recv_timeout(Duration::from_secs(1)).ok();
    }

    /// Lines that never reached the file.
    pub(crate) fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.tell(|pending| pending.is_over = true);
    }
}

fn open(path: &Path) -> Option<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).ok();
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(path).ok()
}

/// Whether the last line of a file has no end.
fn ends_in_a_line(path: &Path) -> bool {
    let last = || -> std::io::Result<u8> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut byte = [0];
        file.read_exact(&mut byte)?;
        Ok(byte[0])
    };
    // An empty file has no last byte; one that cannot be read begins with a line of its own at the worst.
    last().is_ok_and(|byte| byte != b'\n')
}

/// Writes what waits, all of it at once, until the handle is gone.
fn write(shared: &Shared) {
    let mut log = Log { place: None, file: None, is_torn: false, told: 0, unlooked: 0, shared };
    loop {
        let (batches, flushes) = {
            let pending = shared.pending();
            let idle = |pending: &mut Pending| pending.is_empty() && !pending.is_over;
            let pending = shared.is_there.wait_while(pending, idle).unwrap_or_else(PoisonError::into_inner);
            // Others will follow: one wake and one write for all of them.
            let alone = |pending: &mut Pending| pending.flushes.is_empty() && !pending.is_over;
            let waited = shared.is_there.wait_timeout_while(pending, LATENESS, alone);
            let (mut pending, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if pending.is_empty() && pending.is_over {
                return;
            }
            (std::mem::take(&mut pending.batches), std::mem::take(&mut pending.flushes))
        };
        batches.into_iter().for_each(|batch| log.take(batch));
        for done in flushes {
            done.try_send(()).ok();
        }
    }
}

/// The writer's side.
struct Log<'a> {
    place: Option<PathBuf>,
    file: Option<File>,
    /// The file ends in the middle of a line: the next one begins anew, so that it is not lost with it.
    is_torn: bool,
    /// Of the lines lost, those of which the file says it.
    told: u64,
    /// Bytes since the last look at its length.
    unlooked: usize,
    shared: &'a Shared,
}

impl Log<'_> {
    fn take(&mut self, batch: Batch) {
        if let Some(path) = batch.place.filter(|path| self.place.as_ref() != Some(path) || self.file.is_none()) {
            self.file = open(&path);
            self.is_torn = ends_in_a_line(&path);
            self.place = Some(path);
        }
        if batch.lines == 0 {
            return;
        }
        // Readers of the log see where it has a hole.
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let gap = self.gap(lost);
        let is_told = !gap.is_empty();
        let end: &[u8] = if self.is_torn { b"\n" } else { b"" };
        let bytes = [end, &gap, &batch.bytes].concat();
        if self.file.as_mut().is_none_or(|file| file.write_all(&bytes).is_err()) {
            self.shared.lose(batch.lines);
            // A full disk may have room later.
            self.file = self.place.as_deref().and_then(open);
            self.is_torn = self.place.as_deref().is_some_and(ends_in_a_line);
            return;
        }
        self.is_torn = false;
        if is_told {
            self.told = lost;
        }
        self.bound(bytes.len());
    }

    /// The line that says how many are missing, if some are.
    fn gap(&self, lost: u64) -> Vec<u8> {
        if lost <= self.told {
            return Vec::new();
        }
        let gap = Gap { at: crate::now().to_string(), lost: lost - self.told };
        serde_json::to_vec(&gap).map_or_else(|_| Vec::new(), |line| [line, b"\n".to_vec()].concat())
    }

    fn bound(&mut self, more: usize) {
        self.unlooked += more;
        if self.unlooked >= LOOK_BYTES {
            self.unlooked = 0;
            if let Some(path) = &self.place {
                // A file system without holes keeps all of it.
                logs::enforce(path, BOUND).ok();
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

    fn line<'a>(path: &'a str) -> Line<'a> {
        Line {
            at: "2026-01-01T00:00:00Z".to_owned(),
            request_id: "1",
            trace_id: "2",
            remote: None,
            user: None,
            method: "GET",
            host: "shop.localhost",
            path,
            route: "/*",
            status: 200,
            upstream: "web",
            endpoint: "web-1",
            release: None,
            attempts: 1,
            bytes: 2,
            duration_ms: 0.1,
            upstream_ms: None,
            tls: "",
            protocol: "http/1.1",
            policy: 1,
            reason: None,
            limit: None,
        }
    }

    #[test]
    fn lines_keep_their_order_and_go_to_the_file_of_their_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (folder.path().join("a/1.log"), folder.path().join("2.log"));
        let log = AccessLog::start();
        log.open(&first);
        for n in 0..1_000 {
            log.write(&line(&format!("/{n}")));
        }
        log.open(&second);
        log.write(&line("/after"));
        log.flush();
        let lines = |path: &Path| -> Vec<String> {
            let text = std::fs::read_to_string(path).expect("the log");
            text.lines()
                .map(|line| {
                    let line: serde_json::Value = serde_json::from_str(line).expect("a whole line");
                    line["path"].as_str().expect("a path").to_owned()
                })
                .collect()
        };
        assert_eq!(lines(&first), (0..1_000).map(|n| format!("/{n}")).collect::<Vec<_>>());
        assert_eq!(lines(&second), ["/after"]);
        assert_eq!(log.lost(), 0);
    }

    #[test]
    fn a_line_is_written_without_being_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        let log = AccessLog::start();
        log.open(&path);
        log.write(&line("/"));
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while std::fs::read(&path).unwrap_or_default().is_empty() {
            assert!(std::time::Instant::now() < until, "never written");
            std::thread::sleep(Duration::from_millis(5));
        }
        log.write(&line("/last"));
        drop(log);
        while std::fs::read_to_string(&path).unwrap_or_default().lines().count() < 2 {
            assert!(std::time::Instant::now() < until, "what waited when the handle went was lost");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let log = AccessLog::start();
        log.open(Path::new("/dev/full"));
        (0..3).for_each(|_| log.write(&line("/")));
        log.flush();
        assert_eq!(log.lost(), 3);
    }

    #[test]
    fn what_waits_is_bounded() {
        // Nobody writes.
        let log = AccessLog { shared: Arc::default(), is_written: true };
        let long = "x".repeat(QUEUE_BYTES / 4);
        (0..6).for_each(|_| log.write(&line(&long)));
        assert_eq!(log.lost(), 3);
        assert!(log.shared.pending().bytes() <= QUEUE_BYTES);
    }

    #[test]
    fn a_line_that_was_torn_takes_no_other_with_it() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("access.log");
        std::fs::write(&path, "{\"whole\":1}\n{\"remote\":\"127.0.0.1:4").expect("writes");
        let log = AccessLog::start();
        log.open(&path);
        (0..2).for_each(|_| log.write(&line("/")));
        log.flush();
        let text = std::fs::read_to_string(&path).expect("log");
        let whole = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
        assert_eq!(text.lines().map(whole).collect::<Vec<_>>(), [true, false, true, true], "{text}");
    }

    #[test]
    fn where_lines_are_missing_the_log_says_how_many() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("access.log");
        let log = AccessLog::start();
        log.open(Path::new("/dev/full"));
        (0..3).for_each(|_| log.write(&line("/")));
        log.flush();
        log.open(&path);
        (0..2).for_each(|_| log.write(&line("/there")));
        log.flush();
        log.write(&line("/there"));
        log.flush();
        let text = std::fs::read_to_string(&path).expect("log");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
        assert_eq!(lines[0]["lost"].as_u64(), Some(3));
        assert_eq!(lines.len(), 4, "a gap is told once: {text}");
        assert!(lines[1..].iter().all(|line| line["path"] == "/there"));
    }

    #[test]
    fn secrets_in_queries_are_not_logged() {
        assert_eq!(redact("/a?x=1&access_token=abc&Pass%77ord=p&flag"), "/a?x=1&access_token=***&Pass%77ord=***&flag");
        assert_eq!(redact("/a"), "/a");
        assert_eq!(redact("/a?state=eyJhbGciOiJIUzI1NiJ9.e30.x&eyJx&OTP=1"), "/a?state=***&***&OTP=***");
    }
}
