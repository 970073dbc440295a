//! The history's file: each line carries the SHA-256 of every byte before it, so that a line that was changed, put in
//! or taken out is found by the next one.
//!
//! Whoever can write the file can write all of it anew: the sum of the whole, kept elsewhere, shows that too.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use mainstay_api::DrillFiled;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The key of the sum.
const KEY: &str = "sha256_before";
/// Bytes that are read at once.
const PIECE: usize = 64 * 1024;

/// Adds a line, behind a whole one, and syncs it. The file is locked meanwhile.
///
/// **Errors**: the file system's.
pub(crate) fn append(path: &Path, line: &impl Serialize) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    file.lock()?;
    let mut before = Sha256::new();
    if !is_whole(&mut file)? {
        file.write_all(b"\n")?;
    }
    file.seek(SeekFrom::Start(0))?;
    let mut piece = vec![0; PIECE];
    loop {
        let read = file.read(&mut piece)?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        before.update(bytes);
    }
    let mut value = serde_json::to_value(line)?;
    if let Value::Object(fields) = &mut value {
        fields.insert(KEY.to_owned(), Value::String(hex(before)));
    }
    let mut bytes = serde_json::to_vec(&value)?;
    bytes.push(b'\n');
    file.write_all(&bytes)?;
    file.sync_data()
}

/// Whether it is empty or ends with a whole line: what a crash cut off does not.
fn is_whole(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Remembers a report's files by their sums.
///
/// **Errors**: the file system's.
pub fn file(history: &Path, filed: &DrillFiled) -> io::Result<()> {
    append(history, filed)
}

/// What the sums of a history say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// Lines.
    pub lines: usize,
    /// Lines before the first one with a sum: of an older mainstay.
    pub unchained: usize,
    /// Lines that a crash cut off.
    pub cut_off: usize,
    /// The first line, from 1, whose sum is not that of what is before it; `None`: each is.
    pub broken: Option<usize>,
    /// SHA-256 of the whole file.
    pub head: String,
}

/// Looks at every line; a file that is not there is an empty one.
///
/// **Errors**: the file system's.
pub fn verify(history: &Path) -> io::Result<Chain> {
    let mut chain = Chain { lines: 0, unchained: 0, cut_off: 0, broken: None, head: String::new() };
    let mut before = Sha256::new();
    let file = match File::open(history) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Chain { head: hex(before), ..chain });
        }
        Err(error) => return Err(error),
    };
    let (mut reader, mut line, mut has_begun) = (BufReader::new(file), Vec::new(), false);
    while reader.read_until(b'\n', &mut line)? > 0 {
        chain.lines += 1;
        let value: Option<Value> = serde_json::from_slice(&line).ok();
        let sum = value.as_ref().and_then(|value| value.get(KEY)).and_then(Value::as_str);
        let is_right = match sum {
            Some(sum) => {
                has_begun = true;
                sum == hex(before.clone())
            }
            // Its first half is covered by the sum of the next line.
            None if value.is_none() => {
                chain.cut_off += 1;
                true
            }
            None => {
                chain.unchained += usize::from(!has_begun);
                !has_begun
            }
        };
        if !is_right && chain.broken.is_none() {
            chain.broken = Some(chain.lines);
        }
        before.update(&line);
        line.clear();
    }
    Ok(Chain { head: hex(before), ..chain })
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path, lines: u32) -> std::path::PathBuf {
        let path = folder.join("history.jsonl");
        for number in 0..lines {
            append(&path, &serde_json::json!({"number": number})).expect("appends");
        }
        path
    }

    #[test]
    fn a_history_that_only_grew_is_unbroken() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(verify(&folder.path().join("none")).expect("reads").lines, 0);
        let chain = verify(&written(folder.path(), 5)).expect("reads");
        assert_eq!((chain.lines, chain.unchained, chain.cut_off, chain.broken), (5, 0, 0, None));
    }

    #[test]
    fn every_line_that_was_changed_taken_out_or_put_in_is_found() {
        for line in 0..4_usize {
            for planted in ["changed", "taken out", "put in"] {
                let folder = tempfile::tempdir().expect("folder");
                let path = written(folder.path(), 5);
                let text = std::fs::read_to_string(&path).expect("reads");
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                match planted {
                    "changed" => lines[line] = lines[line].replace("number\":", "number\":9"),
                    "taken out" => drop(lines.remove(line)),
                    _ => lines.insert(line + 1, "{\"number\":9}".to_owned()),
                }
                std::fs::write(&path, lines.join("\n") + "\n").expect("writes");
                let broken = verify(&path).expect("reads").broken;
                let found = if planted == "taken out" { line + 1 } else { line + 2 };
                assert_eq!(broken, Some(found), "line {line} {planted}");
            }
        }
    }

    #[test]
    fn an_older_history_is_carried_on_and_a_line_cut_off_is_covered_by_the_next() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("history.jsonl");
        std::fs::write(&path, "{\"number\":0}\n{\"numb").expect("writes");
        written(folder.path(), 2);
        let chain = verify(&path).expect("reads");
        assert_eq!((chain.lines, chain.unchained, chain.cut_off, chain.broken), (4, 1, 1, None));
        let text = std::fs::read_to_string(&path).expect("reads");
        std::fs::write(&path, text.replace("{\"numb\n", "{\"nu\n")).expect("writes");
        assert_eq!(verify(&path).expect("reads").broken, Some(3));
    }
}
