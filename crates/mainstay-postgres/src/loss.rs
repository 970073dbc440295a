//! What a fallen primary had written and its successor does not have: read from the log that it left.

use std::io::{BufRead, BufReader};

use mainstay_types::{Lsn, Member, Timeline};

use crate::layout::Layout;
use crate::waldump;

/// Records that are counted; beyond that the answer is "at least".
const MOST_RECORDS: u64 = 5_000_000;

/// What `pg_waldump` says where no record follows.
const END: &str = "could not find a valid record after";

/// What was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Log behind the point where the successor left it. **Unit**: bytes.
    pub bytes: u64,
    /// Commits in it.
    pub commits: u64,
    /// There is more than was counted.
    pub is_more: bool,
}

/// Reads the log of a member that is dead, from where its successor's timeline began. Blocks: some 200 MB a second.
///
/// **Errors**: the log is not there any more or cannot be read from there on, or `pg_waldump` is missing, in words for people.
pub fn after(layout: &Layout, fallen: Member, timeline: Timeline, from: Lsn) -> Result<Loss, String> {
    let folder = layout.data(fallen).join("pg_wal");
    let mut child = waldump::command(layout)
        .arg(format!("--path={}", folder.display()))
        .arg(format!("--timeline={}", timeline.0))
        .arg(format!("--start={from}"))
        .spawn()
        .map_err(|error| format!("cannot run pg_waldump: {error}"))?;
    let Some(output) = child.stdout.take() else { return Err("pg_waldump has no output".to_owned()) };
    let mut loss = Loss::default();
    let mut records = 0;
    for line in BufReader::new(output).lines() {
        let line = line.map_err(|error| format!("cannot read what pg_waldump says: {error}"))?;
        let Some((end, is_commit)) = record(&line) else { continue };
        records += 1;
        loss.commits += u64::from(is_commit);
        loss.bytes = end.saturating_sub(from.as_u64());
        if records >= MOST_RECORDS {
            loss.is_more = true;
            break;
        }
    }
    child.kill().ok();
    let ended = child.wait_with_output().map_err(|error| format!("pg_waldump: {error}"))?;
    let said = String::from_utf8_lossy(&ended.stderr);
    // Nothing read is nothing lost only where the log ends there.
    if records == 0 && !said.contains(END) {
        if !folder.exists() {
            return Err(format!("the log of postgres-{fallen} is not there any more"));
        }
        return Err(format!("the log of postgres-{fallen} cannot be read from {from} on: {}", said.trim()));
    }
    Ok(loss)
}

/// Where a record ends, and whether it is a commit.
fn record(line: &str) -> Option<(u64, bool)> {
    let field = |name: &str| line.split_once(name).map(|(_, rest)| rest.trim_start());
    let length: u64 = field("len (rec/tot):")?.split_once('/')?.1.split(',').next()?.trim().parse().ok()?;
    let start: Lsn = field("lsn:")?.split(',').next()?.trim().parse().ok()?;
    // Records begin at multiples of eight bytes; headers of pages in between count as what they are.
    let end = start.as_u64() + length.next_multiple_of(8);
    let is_commit = line.contains("rmgr: Transaction") && field("desc:")?.starts_with("COMMIT");
    Some((end, is_commit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_from_a_line_of_the_tool() {
        let line = "rmgr: Transaction len (rec/tot):     34/    34, tx:        735, lsn: 0/0155B6A8, prev 0/0155B660, \
                    desc: COMMIT 2026-11-26 09:00:00.000000 UTC";
        assert_eq!(record(line), Some((0x0155_B6A8 + 40, true)));
        let heap = "rmgr: Heap        len (rec/tot):     59/    59, tx:        735, lsn: 0/0155B600, prev 0/0155B5C8, \
                    desc: INSERT off 1 flags 0x00, blkref #0: rel 1663/5/16385 blk 0";
        assert_eq!(record(heap).map(|(_, is_commit)| is_commit), Some(false));
        assert_eq!(record("pg_waldump: error"), None);
    }
}
