//! Small files of a site, held for a moment: the page that everybody asks for is not looked up and read for each.
//!
//! Who asks looks whether the file is still the one that was read; only which file a path means, and which codings lie
//! beside it, is as old as a moment. It is so short that nobody who swaps folders sees the old one, and long enough for
//! hundreds of requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::coding::Coding;

/// How long a path means the same file without a look.
pub(crate) const MOMENT: Duration = Duration::from_millis(200);
/// Largest file that is held: what goes out in one piece.
pub(crate) const MOST_BYTES: usize = 128 * 1024;
/// Files held of one site, in all.
const MOST_HELD: usize = 4 * 1024 * 1024;
/// What an entry takes besides its content and its path.
const ENTRY_BYTES: usize = 1024;
/// Longest path that is held: longer ones are nobody's page.
const MOST_PATH: usize = 1024;

/// What is asked for: a path, and the codings that the client takes.
pub(crate) type Key = (String, Vec<Coding>);

/// Files by what they were asked for; `T` is what is known of one.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    files: Mutex<Files<T>>,
}

#[derive(Debug)]
struct Files<T> {
    by_key: HashMap<Key, File<T>>,
    bytes: usize,
}

#[derive(Debug)]
struct File<T> {
    since: Instant,
    about: Arc<T>,
    content: Bytes,
}

impl<T> Kept<T> {
    pub(crate) fn new() -> Self {
        Self { files: Mutex::new(Files { by_key: HashMap::new(), bytes: 0 }) }
    }

    /// The file, if it was looked up a moment ago.
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<(Arc<T>, Bytes)> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let file = files.by_key.get(key).filter(|file| now.saturating_duration_since(file.since) < MOMENT)?;
        Some((Arc::clone(&file.about), file.content.clone()))
    }

    /// Holds a file that was looked up at `since`, if there is room.
    pub(crate) fn keep(&self, key: Key, since: Instant, about: &Arc<T>, content: &Bytes) {
        if key.0.len() > MOST_PATH {
            return;
        }
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let size = size(&key, content);
        if files.bytes + size > MOST_HELD {
            files.by_key.retain(|_, file| since.saturating_duration_since(file.since) < MOMENT);
            files.bytes = files.by_key.iter().map(|(key, file)| self::size(key, &file.content)).sum();
            if files.bytes + size > MOST_HELD {
                return;
            }
        }
        files.bytes += size;
        let file = File { since, about: Arc::clone(about), content: content.clone() };
        // The path is the same, so is its length.
        let path = key.0.len();
        if let Some(before) = files.by_key.insert(key, file) {
            files.bytes -= before.content.len() + path + ENTRY_BYTES;
        }
    }
}

fn size(key: &Key, content: &Bytes) -> usize {
    content.len() + key.0.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> Key {
        (path.to_owned(), Vec::new())
    }

    #[test]
    fn a_file_is_held_for_a_moment_and_by_what_was_asked() {
        let kept = Kept::new();
        let now = Instant::now();
        kept.keep(key("/a"), now, &Arc::new(1), &Bytes::from_static(b"one"));
        assert!(kept.get(&key("/a"), now + MOMENT / 2).is_some_and(|(about, content)| *about == 1 && content == "one"));
        assert!(kept.get(&key("/b"), now).is_none());
        assert!(kept.get(&("/a".to_owned(), vec![Coding::Gzip]), now).is_none());
        assert!(kept.get(&key("/a"), now + MOMENT).is_none());
        kept.keep(key("/a"), now + MOMENT, &Arc::new(2), &Bytes::from_static(b"two"));
        assert!(kept.get(&key("/a"), now + MOMENT).is_some_and(|(about, _)| *about == 2));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let kept = Kept::new();
        let now = Instant::now();
        let content = Bytes::from(vec![0; MOST_BYTES]);
        let held = |kept: &Kept<()>| kept.files.lock().expect("alive").bytes;
        for nth in 0..100 {
            kept.keep(key(&format!("/{nth}")), now, &Arc::new(()), &content);
            assert!(held(&kept) <= MOST_HELD);
        }
        assert!(kept.get(&key("/0"), now).is_some(), "nothing goes before its time");
        assert!(kept.get(&key("/99"), now).is_none(), "there was no room");
        kept.keep(key("/99"), now + MOMENT, &Arc::new(()), &content);
        assert!(kept.get(&key("/99"), now + MOMENT).is_some(), "what is too old makes room");
        assert!(held(&kept) < 2 * MOST_BYTES);
        let long = "x".repeat(MOST_PATH);
        kept.keep(key(&format!("/{long}")), now + MOMENT, &Arc::new(()), &Bytes::new());
        assert!(kept.get(&key(&format!("/{long}")), now + MOMENT).is_none(), "a path that nobody has a page at");
        for _ in 0..100 {
            kept.keep(key("/99"), now + MOMENT, &Arc::new(()), &content);
        }
        assert!(held(&kept) < 2 * MOST_BYTES, "the same file counts once");
    }
}
