//! How far an import is, on a terminal: by a thread of its own, since a source may be silent for long, and that must be
//! seen too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mainstay_types::Bytes;

/// Often enough to be seen moving.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// A pause that a person begins to wonder about.
const SILENCE: Duration = Duration::from_secs(5);

/// Ends what it says when it is dropped, and takes the line away.
pub(super) struct Progress {
    far: Arc<Far>,
    talk: Option<(Sender<()>, JoinHandle<()>)>,
}

#[derive(Default)]
struct Far {
    bytes: AtomicU64,
    is_all: AtomicBool,
}

impl Progress {
    /// `rows`: what PostgreSQL took so far.
    pub(super) fn begin(is_wanted: bool, rows: &Arc<AtomicU64>) -> Self {
        let far = Arc::<Far>::default();
        let talk = is_wanted.then(|| {
            let (end, ended) = mpsc::channel();
            let (far, rows) = (Arc::clone(&far), Arc::clone(rows));
            let thread = std::thread::spawn(move || {
                let began = Instant::now();
                let (mut last, mut since) = ((0, 0), began);
                while ended.recv_timeout(TELL_EVERY) == Err(RecvTimeoutError::Timeout) {
                    let now = (far.bytes.load(Ordering::Relaxed), rows.load(Ordering::Relaxed));
                    if now != last {
                        (last, since) = (now, Instant::now());
                    }
                    let is_all = far.is_all.load(Ordering::Relaxed);
                    eprint!("\r\x1b[K  {}", line(now, is_all, began.elapsed(), since.elapsed()));
                }
                eprint!("\r\x1b[K");
            });
            (end, thread)
        });
        Self { far, talk }
    }

    pub(super) fn read(&self, bytes: u64) {
        self.far.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The source has ended; PostgreSQL may still be at work.
    pub(super) fn read_all(&self) {
        self.far.is_all.store(true, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.talk.take() {
            drop(end);
            thread.join().ok();
        }
    }
}

fn line((bytes, rows): (u64, u64), is_all: bool, took: Duration, silence: Duration) -> String {
    let doing = match (is_all, silence > SILENCE) {
        (true, _) => "; all of it was read, PostgreSQL is at work".to_owned(),
        (false, true) => format!("; nothing new for {} s", silence.as_secs()),
        (false, false) => String::new(),
    };
    format!("{} of SQL read, {rows} rows, {} s{doing}", Bytes(bytes), took.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_said_and_so_is_the_end_of_the_source() {
        let [short, long] = [1, 12].map(Duration::from_secs);
        assert_eq!(line((2048, 7), false, long, short), "2 KiB of SQL read, 7 rows, 12 s");
        assert_eq!(line((2048, 7), false, long, long), "2 KiB of SQL read, 7 rows, 12 s; nothing new for 12 s");
        assert!(line((2048, 7), true, long, long).ends_with("all of it was read, PostgreSQL is at work"));
    }
}
