//! Lines of children's logs: the last ones, then those that come.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::body::Bytes;
use mainstay_api::LogLine;
use mainstay_types::ChildName;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

/// A line is cut here.
const MAX_LINE: usize = 16 * 1024;
/// How far back the last lines are looked for, per file.
const MAX_TAIL: u64 = 4 * 1024 * 1024;
/// Pause between two looks at a followed file.
const LOOK: Duration = Duration::from_millis(200);
/// Read at once.
const CHUNK: usize = 64 * 1024;

type Sender = mpsc::Sender<io::Result<Bytes>>;

/// Logs in a state folder, by child.
pub fn files(state: &Path) -> Vec<(ChildName, PathBuf)> {
    let entries = std::fs::read_dir(state.join("logs")).into_iter().flatten().flatten();
    let mut files: Vec<(ChildName, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.path();
            let name = path.file_name()?.to_str()?.strip_suffix(".log")?.to_owned();
            Some((ChildName::new(name).ok()?, path))
        })
        .collect();
    files.sort();
    files
}

/// Whether a log is meant by a name: the child's own, or that of its service.
pub fn is_meant(child: &ChildName, wanted: &str) -> bool {
    child.as_str() == wanted || child.as_str().rsplit_once('-').is_some_and(|(service, _)| service == wanted)
}

struct Tail {
    child: ChildName,
    path: PathBuf,
    offset: u64,
    rest: Vec<u8>,
}

/// Sends the last `lines` of each file, then (with `follow`) what is appended, until nobody reads.
pub(crate) async fn send(files: Vec<(ChildName, PathBuf)>, lines: u32, follow: bool, sender: Sender) {
    let mut tails = Vec::new();
    for (child, path) in files {
        let (last, offset) = last_lines(&path, lines as usize).await.unwrap_or_default();
        for text in last {
            if emit(&sender, &child, &text).await.is_err() {
                return;
            }
        }
        tails.push(Tail { child, path, offset, rest: Vec::new() });
    }
    while follow && !sender.is_closed() {
        tokio::time::sleep(LOOK).await;
        for tail in &mut tails {
            // A file that cannot be read now is looked at again.
            for text in tail.read_on().await.unwrap_or_default() {
                if emit(&sender, &tail.child, &text).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn emit(sender: &Sender, child: &ChildName, text: &[u8]) -> Result<(), ()> {
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_LINE)]).into_owned();
    let line = LogLine { child: child.clone(), text };
    let mut bytes = serde_json::to_vec(&line).map_err(|_| ())?;
    bytes.push(b'\n');
    sender.send(Ok(bytes.into())).await.map_err(|_| ())
}

/// The last complete lines of a file, and where the file ends. A punched-out prefix reads as NUL bytes and is
/// skipped.
async fn last_lines(path: &Path, count: usize) -> io::Result<(Vec<Vec<u8>>, u64)> {
    let mut file = tokio::fs::File::open(path).await?;
    let end = file.metadata().await?.len();
    let start = end.saturating_sub(MAX_TAIL);
    file.seek(SeekFrom::Start(start)).await?;
    let mut bytes = Vec::new();
    file.take(end - start).read_to_end(&mut bytes).await?;
    let data = bytes.iter().rposition(|byte| *byte == 0).map_or(0, |hole_end| hole_end + 1);
    let lines: Vec<Vec<u8>> =
        bytes[data..].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
    let skip = lines.len().saturating_sub(count);
    Ok((lines.into_iter().skip(skip).collect(), end))
}

impl Tail {
    async fn read_on(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut file = tokio::fs::File::open(&self.path).await?;
        if file.metadata().await?.len() < self.offset {
            self.offset = 0;
        }
        file.seek(SeekFrom::Start(self.offset)).await?;
        let mut chunk = vec![0; CHUNK];
        let count = file.read(&mut chunk).await?;
        self.offset += count as u64;
        self.rest.extend_from_slice(&chunk[..count]);
        let mut lines = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            lines.push(line[..end].to_vec());
        }
        if self.rest.len() > MAX_LINE {
            lines.push(std::mem::take(&mut self.rest));
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_punched_prefix_is_no_line() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.log");
        let mut bytes = vec![0; 4096];
        bytes.extend_from_slice(b"half\none\ntwo\n");
        std::fs::write(&path, bytes).expect("writes");
        let (lines, end) = last_lines(&path, 2).await.expect("reads");
        assert_eq!(lines, [b"one".to_vec(), b"two".to_vec()]);
        assert_eq!(end, 4096 + 13);
    }
}
