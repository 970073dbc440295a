//! PostgreSQL's page checksum (`src/include/storage/checksum_impl.h`): FNV-1a over 32 lanes.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// Size of a page. **Unit**: bytes.
pub(crate) const PAGE: usize = 8192;
/// Pages of a segment of a relation: 1 GiB.
const SEGMENT_PAGES: u32 = 131_072;
const LANES: usize = 32;
/// Bytes that all lanes take at once.
const ROW: usize = 4 * LANES;
const PRIME: u32 = 16_777_619;

const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a page says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing but zeros, which is what one that was never used has, or its checksum is right.
    Sound,
    /// Written after this position: replay replaces it whole, so a torn read does no harm.
    Newer,
    /// Its checksum is wrong; or it claims that it was never used, and is not empty: no checksum is looked at then, by
    /// whoever asks the claim alone, as `pg_basebackup` does.
    Damaged,
}

fn mix(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
}

fn word(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

/// The checksum that a page should bear at this block number.
fn checksum(page: &[u8], block: u32) -> u16 {
    let (rows, _) = page.as_chunks::<ROW>();
    let mut sums = OFFSETS;
    if let Some((first, rows)) = rows.split_first() {
        // Its own place counts as zero.
        let mut first = *first;
        first[8..10].fill(0);
        add(&mut sums, &first);
        // Nothing but this in the loop: the compiler then takes some lanes at a time.
        for row in rows {
            add(&mut sums, row);
        }
    }
    for _ in 0..2 {
        for sum in &mut sums {
            *sum = mix(*sum, 0);
        }
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    u16::try_from(folded % 65_535 + 1).unwrap_or(u16::MAX)
}

fn add(sums: &mut [u32; LANES], row: &[u8; ROW]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        *sum = mix(*sum, u32::from_le_bytes(*word));
    }
}

/// Looks at a page that was read from a running server's file. **Source**: `PageIsVerifiedExtended` in PostgreSQL's
/// `src/backend/storage/page/bufpage.c`.
pub(crate) fn look(page: &[u8], block: u32, start: u64) -> Look {
    if claims_to_be_new(page) {
        return if page.iter().all(|byte| *byte == 0) { Look::Sound } else { Look::Damaged };
    }
    let lsn = u64::from(word(page, 0)) << 32 | u64::from(word(page, 4));
    if lsn >= start {
        return Look::Newer;
    }
    let stored = u16::from_le_bytes([page[8], page[9]]);
    if stored == checksum(page, block) { Look::Sound } else { Look::Damaged }
}

/// `PageIsNew`: `pd_upper` is zero.
fn claims_to_be_new(page: &[u8]) -> bool {
    page[14..16] == [0, 0]
}

/// A page of a data directory, as it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisk {
    /// Nothing but zeros, or its checksum is right.
    Sound,
    /// The file is not there, or ends before it.
    Gone,
    /// Its checksum is wrong, or it claims to be new and is not empty, however often it is read.
    Damaged,
}

/// Reads so often until a page counts as damaged: its server may be writing it.
const READS: u32 = 5;
/// Pause between two reads: a page is written in microseconds.
const READ_AGAIN: Duration = Duration::from_millis(20);
/// Looks at a page by the file of its relation, without the number of a segment, and its number in the relation. The
/// server may run.
///
/// **Errors**: the file cannot be read.
pub fn on_disk(data: &Path, file: &str, block: u32) -> io::Result<OnDisk> {
    let path = match block / SEGMENT_PAGES {
        0 => data.join(file),
        segment => data.join(format!("{file}.{segment}")),
    };
    let mut page = [0; PAGE];
    for read in 1..=READS {
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(OnDisk::Gone),
            opened => opened?,
        };
        match file.read_exact_at(&mut page, u64::from(block % SEGMENT_PAGES) * PAGE as u64) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(OnDisk::Gone),
            done => done?,
        }
        if look(&page, block, u64::MAX) == Look::Sound {
            return Ok(OnDisk::Sound);
        }
        if read < READS {
            std::thread::sleep(READ_AGAIN);
        }
    }
    Ok(OnDisk::Damaged)
}

/// A page by the file of its relation, without the number of a segment, and its number in the relation.
pub type Place = (String, u32);

/// Which pages are named by [`suspects`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// All that are damaged.
    Damaged,
    /// Those alone that claim to be new and are not empty: PostgreSQL's own copies take them for sound.
    New,
}

/// So much of a file is read at once.
const PIECE: usize = 128 * PAGE;

/// Reads every page of a data directory once and names at most so many that look damaged. Where a server writes, look at
/// each again with [`on_disk`].
///
/// **Errors**: a file or folder that is there cannot be read.
pub fn suspects(data: &Path, kind: Suspect, most: usize) -> io::Result<Vec<Place>> {
    let mut found = Vec::new();
    for folder in folders(data)? {
        for name in names(&data.join(&folder))? {
            let (Some(first), false) = (first_block(&name), found.len() >= most) else { continue };
            let path = data.join(&folder).join(&name);
            let relation = name.split('.').next().unwrap_or_default();
            let blocks = suspects_of(&path, first, kind)?.into_iter().take(most - found.len());
            found.extend(blocks.map(|block| (format!("{folder}/{relation}"), block)));
        }
    }
    Ok(found)
}

/// Folders with files of relations, from the data directory.
fn folders(data: &Path) -> io::Result<Vec<String>> {
    let mut folders = vec!["global".to_owned()];
    folders.extend(names(&data.join("base"))?.into_iter().map(|database| format!("base/{database}")));
    for space in names(&data.join("pg_tblspc"))? {
        for version in names(&data.join("pg_tblspc").join(&space))? {
            let below = format!("pg_tblspc/{space}/{version}");
            folders.extend(names(&data.join(&below))?.into_iter().map(|database| format!("{below}/{database}")));
        }
    }
    Ok(folders)
}

/// What a folder holds, in order; nothing where there is none.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Numbers of the pages in the relation.
fn suspects_of(path: &Path, first: u32, kind: Suspect) -> io::Result<Vec<u32>> {
    let file = match File::open(path) {
        // Dropped meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let mut piece = Vec::with_capacity(PIECE);
    let (mut from, mut found, mut block) = (file.take(0), Vec::new(), first);
    loop {
        piece.clear();
        from.set_limit(PIECE as u64);
        from.read_to_end(&mut piece)?;
        for page in piece.chunks_exact(PAGE) {
            let is_one = match kind {
                Suspect::Damaged => look(page, block, u64::MAX) == Look::Damaged,
                Suspect::New => claims_to_be_new(page) && look(page, block, u64::MAX) == Look::Damaged,
            };
            if is_one {
                found.push(block);
            }
            block = block.saturating_add(1);
        }
        // What it grows by meanwhile is no concern of who looks now.
        if piece.len() < PIECE {
            return Ok(found);
        }
    }
}

/// Number of the first block of a relation's file, by its name: `16384`, `16384.1`, `16384_fsm`, `16384_vm.2`.
/// `None`: it holds no pages.
pub(crate) fn first_block(name: &str) -> Option<u32> {
    let (relation, segment) = match name.split_once('.') {
        Some((relation, segment)) => (relation, segment.parse::<u32>().ok()?),
        None => (name, 0),
    };
    let number = match relation.split_once('_') {
        Some((number, "fsm" | "vm" | "init")) => number,
        Some(_) => return None,
        None => relation,
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { segment.checked_mul(SEGMENT_PAGES) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_relations_are_known_by_their_names() {
        assert_eq!(first_block("16384"), Some(0));
        assert_eq!(first_block("16384_vm.2"), Some(262_144));
        assert_eq!(first_block("16384_init"), Some(0));
        for other in ["pg_filenode.map", "PG_VERSION", "pg_control", "t3_16384", "16384_tmp", ""] {
            assert_eq!(first_block(other), None, "{other}");
        }
    }

    #[test]
    fn a_changed_bit_a_moved_page_and_a_newer_page_are_told_apart() {
        let mut page = vec![7_u8; PAGE];
        page[..8].fill(0);
        let sum = checksum(&page, 5).to_le_bytes();
        page[8..10].copy_from_slice(&sum);
        assert_eq!(look(&page, 5, 1), Look::Sound);
        assert_eq!(look(&page, 6, 1), Look::Damaged, "of another place");
        page[4000] ^= 1;
        assert_eq!(look(&page, 5, 1), Look::Damaged);
        assert_eq!(look(&page, 5, 0), Look::Newer);
        assert_eq!(look(&[0; PAGE], 5, 1), Look::Sound, "never used");
    }

    /// Such a page counted as sound, so that a page could lose its header and no look and no backup told.
    #[test]
    fn a_page_that_claims_to_be_new_and_is_not_empty_is_damaged() {
        for at in [0, 8, 13, 16, PAGE - 1] {
            let mut page = vec![0_u8; PAGE];
            page[at] = 1;
            assert_eq!(look(&page, 5, u64::MAX), Look::Damaged, "byte {at}");
        }
        let mut page = vec![7_u8; PAGE];
        page[14..16].fill(0);
        assert_eq!(look(&page, 5, 0), Look::Damaged, "its position in the log counts for nothing");
    }

    #[test]
    fn every_page_of_a_directory_is_read_and_the_damaged_ones_are_named() {
        let folder = tempfile::tempdir().expect("folder");
        let data = folder.path();
        for folder in ["global", "base/5", "pg_tblspc/16400/PG_15_202209061/5"] {
            std::fs::create_dir_all(data.join(folder)).expect("made");
        }
        let mut pages = vec![0_u8; 300 * PAGE];
        assert_eq!(suspects(data, Suspect::Damaged, 9).expect("read"), []);
        // One that lost its header, and one with a wrong checksum.
        pages[200 * PAGE + 100] = 1;
        pages[299 * PAGE..].fill(9);
        std::fs::write(data.join("base/5/16384.1"), &pages).expect("written");
        std::fs::write(data.join("base/5/pg_filenode.map"), [9; 512]).expect("written");
        std::fs::write(data.join("base/5/PG_VERSION"), b"15\n").expect("written");
        std::fs::write(data.join("global/1262_vm"), [9; PAGE + 100]).expect("written");
        std::fs::write(data.join("pg_tblspc/16400/PG_15_202209061/5/16401"), [9; PAGE]).expect("written");
        let of = |name: &str, block| (name.to_owned(), block);
        let all = [
            of("global/1262_vm", 0),
            of("base/5/16384", SEGMENT_PAGES + 200),
            of("base/5/16384", SEGMENT_PAGES + 299),
            of("pg_tblspc/16400/PG_15_202209061/5/16401", 0),
        ];
        assert_eq!(suspects(data, Suspect::Damaged, 9).expect("read"), all);
        assert_eq!(suspects(data, Suspect::Damaged, 2).expect("read"), all[..2]);
        assert_eq!(suspects(data, Suspect::New, 9).expect("read"), all[1..2]);
    }

    #[test]
    fn a_page_on_disk_is_sound_damaged_or_gone() {
        let folder = tempfile::tempdir().expect("folder");
        let mut pages = vec![7_u8; 2 * PAGE];
        for block in 0..2_u32 {
            let page = &mut pages[block as usize * PAGE..][..PAGE];
            let sum = checksum(page, block).to_le_bytes();
            page[8..10].copy_from_slice(&sum);
        }
        let file = folder.path().join("16384");
        std::fs::write(&file, &pages).expect("written");
        let looks = |block| on_disk(folder.path(), "16384", block).expect("read");
        assert_eq!([0, 1, 2, SEGMENT_PAGES].map(looks), [OnDisk::Sound, OnDisk::Sound, OnDisk::Gone, OnDisk::Gone]);
        pages[PAGE + 5000] ^= 4;
        std::fs::write(&file, &pages).expect("written");
        assert_eq!([0, 1].map(looks), [OnDisk::Sound, OnDisk::Damaged]);
        std::fs::write(file.with_extension("1"), &pages[..PAGE]).expect("written");
        assert_eq!(looks(SEGMENT_PAGES), OnDisk::Damaged, "the number of a page is that in the relation");
    }
}
