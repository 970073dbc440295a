//! A member's `global/pg_control`, read without PostgreSQL's help: it says how a server ended that no longer runs.
//!
//! Read while a server writes it, its parts may be of two moments: decisions go by it only once its writer is dead.

use std::path::Path;

use mainstay_decide::observed::ControlFile;
use mainstay_types::{Lsn, Timeline};

/// Layouts of which the first 52 bytes are known: PostgreSQL 13 to 18.
const VERSIONS: std::ops::RangeInclusive<u32> = 1300..=1899;
/// `DB_SHUTDOWNED`: a primary that ended in order.
const SHUT_DOWN: u32 = 1;

/// Reads it; `None`: there is none, or its layout is not known.
pub fn read(data: &Path) -> Option<ControlFile> {
    parse(&std::fs::read(data.join("global/pg_control")).ok()?)
}

/// **Source**: `src/include/catalog/pg_control.h`, `ControlFileData`.
fn parse(bytes: &[u8]) -> Option<ControlFile> {
    let small = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let large = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    if !VERSIONS.contains(&small(8)?) {
        return None;
    }
    Some(ControlFile {
        is_shut_down: small(16)? == SHUT_DOWN,
        checkpoint: Lsn::new(large(32)?),
        redo: Lsn::new(large(40)?),
        timeline: Timeline(small(48)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_or_foreign_file_says_nothing() {
        assert_eq!(parse(&[0; 30]), None);
        assert_eq!(parse(&[0; 512]), None, "version 0");
        let mut bytes = [0; 512];
        bytes[8..12].copy_from_slice(&1300_u32.to_ne_bytes());
        bytes[16..20].copy_from_slice(&SHUT_DOWN.to_ne_bytes());
        bytes[32..40].copy_from_slice(&77_u64.to_ne_bytes());
        bytes[48..52].copy_from_slice(&3_u32.to_ne_bytes());
        let read = parse(&bytes).unwrap();
        assert_eq!((read.is_shut_down, read.checkpoint, read.timeline), (true, Lsn::new(77), Timeline(3)));
    }
}
