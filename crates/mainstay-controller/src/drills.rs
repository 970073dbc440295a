//! The history of drills as the control plane and the command line read it. Drills write it; here nothing is written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use mainstay_api::{DrillHistory, DrillRecord, parse_history};
use mainstay_decide::drills::Here;
pub use mainstay_decide::drills::standings;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::message::Message;

/// Version of this mainstay, as drills are remembered with.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// Read from the end of the history: some thousand drills. Older ones are in the file.
const MOST_READ: u64 = 4 * 1024 * 1024;
/// Pause between two looks at the file.
const LOOK: Duration = Duration::from_secs(2);

/// SHA-256 of a stack file's text: a drill says something about the stack that it was run on.
pub fn stack_hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a drill must have been run with to still say something here.
pub fn here(stack: &str) -> Here<'_> {
    Here { release: RELEASE, stack }
}

/// Reads a history; a file that is not there is an empty one.
///
/// **Errors**: the file system's.
pub fn read(path: &Path) -> io::Result<DrillHistory> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DrillHistory::default()),
        Err(error) => return Err(error),
    };
    let skipped = file.metadata()?.len().saturating_sub(MOST_READ);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(MOST_READ).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // Begun in the middle of a line: the rest of it is none.
    let text = if skipped > 0 { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
    Ok(parse_history(text))
}

/// Reads all of a history, however long it is.
///
/// **Errors**: the file system's.
pub fn read_all(path: &Path) -> io::Result<DrillHistory> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(parse_history(&String::from_utf8_lossy(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(DrillHistory::default()),
        Err(error) => Err(error),
    }
}

/// Looks at the history until the end, and tells the loop when it changed.
pub(crate) async fn observe(path: std::path::PathBuf, sender: mpsc::Sender<Message>) {
    let mut known = None;
    loop {
        let stamp = std::fs::metadata(&path).ok().map(|found| (found.len(), found.modified().ok()));
        if known != Some(stamp) {
            let found = path.clone();
            let records: Option<Vec<DrillRecord>> =
                tokio::task::spawn_blocking(move || read(&found).ok().map(|history| history.records))
                    .await
                    .ok()
                    .flatten();
            if let Some(records) = records {
                known = Some(stamp);
                if sender.send(Message::Drills(records)).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_that_is_not_there_is_empty_and_a_stack_file_is_known_by_its_text() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(read(&folder.path().join("history.jsonl")).expect("reads"), DrillHistory::default());
        assert_ne!(stack_hash("a"), stack_hash("b"));
        assert_eq!(stack_hash("").len(), 64);
    }
}
