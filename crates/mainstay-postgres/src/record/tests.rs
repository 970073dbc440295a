use mainstay_types::{Lsn, Member, Timeline};
use proptest::prelude::*;

use super::*;

fn record(epoch: u64) -> Record {
    Record {
        epoch,
        primary: if epoch.is_multiple_of(2) { Member::A } else { Member::B },
        timeline: Timeline(u32::try_from(epoch).unwrap_or(1)),
        lsn: Lsn::new(epoch * 1000),
        candidates: vec![Member::B],
        promoting: None,
    }
}

fn file() -> (tempfile::TempDir, RecordFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = RecordFile::new(folder.path().join("pg/record"));
    (folder, file)
}

#[test]
fn what_was_written_is_read_and_nothing_is_no_record() {
    let (_folder, file) = file();
    assert_eq!(file.read().unwrap(), None);
    for epoch in [1, 1, 2, 7] {
        file.write(&record(epoch)).unwrap();
        assert_eq!(file.read().unwrap(), Some(record(epoch)));
    }
    assert_eq!(std::fs::metadata(file.path()).unwrap().len(), 2 * SLOT_SIZE as u64, "it never grows");
}

#[test]
fn a_lower_epoch_is_refused() {
    let (_folder, file) = file();
    file.write(&record(5)).unwrap();
    assert!(matches!(file.write(&record(4)), Err(RecordError::Older { on_disk: 5, asked: 4 })));
    assert_eq!(file.read().unwrap(), Some(record(5)));
}

/// What is read when `slot` holds `bytes` and the other slot is as in `file`.
fn read_with(file: &[u8], slot: usize, bytes: &[u8]) -> Option<Option<Record>> {
    let other = 1 - slot;
    let other = decode(other, &file[other * SLOT_SIZE..(other + 1) * SLOT_SIZE]);
    let readings = if slot == 0 { [decode(0, bytes), other] } else { [other, decode(1, bytes)] };
    let (newest, _) = pick(readings)?;
    Some(newest.map(|slot| serde_json::from_slice(&slot.json).unwrap()))
}

#[test]
fn a_write_torn_at_any_byte_leaves_the_old_or_the_new_record() {
    let (_folder, file) = file();
    file.write(&record(1)).unwrap();
    file.write(&record(2)).unwrap();
    let before = std::fs::read(file.path()).unwrap();
    file.write(&record(3)).unwrap();
    let after = std::fs::read(file.path()).unwrap();
    let slot = (0..before.len()).find(|at| before[*at] != after[*at]).unwrap() / SLOT_SIZE;
    let start = slot * SLOT_SIZE;
    assert_ne!(before[start..], after[start..]);
    let mut bytes = before[start..start + SLOT_SIZE].to_vec();
    for torn in 0..SLOT_SIZE {
        let is_done = bytes == after[start..start + SLOT_SIZE];
        let expected = if is_done { record(3) } else { record(2) };
        assert_eq!(read_with(&before, slot, &bytes), Some(Some(expected)), "torn after {torn} bytes");
        bytes[torn] = after[start + torn];
    }
    assert_eq!(read_with(&before, slot, &bytes), Some(Some(record(3))));
    // And the next write goes on from there.
    let mut torn = before;
    torn[start..start + 100].copy_from_slice(&after[start..start + 100]);
    std::fs::write(file.path(), &torn).unwrap();
    assert_eq!(file.read().unwrap(), Some(record(2)));
    file.write(&record(4)).unwrap();
    assert_eq!(file.read().unwrap(), Some(record(4)));
}

#[test]
fn the_first_write_torn_at_any_byte_leaves_no_record_or_the_new_one() {
    let (_folder, file) = file();
    file.write(&record(1)).unwrap();
    let whole = std::fs::read(file.path()).unwrap();
    let nothing = vec![0; 2 * SLOT_SIZE];
    let mut bytes = vec![0; SLOT_SIZE];
    for torn in 0..SLOT_SIZE {
        assert_eq!(read_with(&nothing, 0, &bytes), Some(None), "torn after {torn} bytes");
        bytes[torn] = whole[torn];
    }
    assert_eq!(read_with(&nothing, 0, &bytes), Some(Some(record(1))));
    // The second slot is written when the first is whole: wherever it is torn, the record is there.
    for torn in (SLOT_SIZE..=2 * SLOT_SIZE).step_by(97) {
        let mut bytes = nothing.clone();
        bytes[..torn].copy_from_slice(&whole[..torn]);
        std::fs::write(file.path(), &bytes).unwrap();
        assert_eq!(file.read().unwrap(), Some(record(1)), "torn after {torn} bytes");
    }
}

#[test]
fn one_slot_that_rots_leaves_the_other_even_after_a_single_write() {
    let (_folder, file) = file();
    file.write(&record(1)).unwrap();
    for slot in 0..2 {
        let mut bytes = std::fs::read(file.path()).unwrap();
        bytes[slot * SLOT_SIZE + 40] ^= 1;
        std::fs::write(file.path(), &bytes).unwrap();
        if slot == 0 {
            assert_eq!(file.read().unwrap(), Some(record(1)));
        } else {
            assert!(matches!(file.read(), Err(RecordError::Damaged(_))), "both are gone: it must not guess");
            assert!(matches!(file.write(&record(2)), Err(RecordError::Damaged(_))));
        }
    }
}

#[test]
fn a_file_cut_short_is_damage_not_absence() {
    let (_folder, file) = file();
    file.write(&record(1)).unwrap();
    std::fs::write(file.path(), b"").unwrap();
    assert!(matches!(file.read(), Err(RecordError::Damaged(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Sectors of a torn write may arrive in any order.
    #[test]
    fn sectors_in_any_order_leave_the_old_or_the_new(arrived in proptest::collection::vec(any::<bool>(), 8)) {
        let (_folder, file) = file();
        file.write(&record(1)).unwrap();
        file.write(&record(2)).unwrap();
        let before = std::fs::read(file.path()).unwrap();
        file.write(&record(3)).unwrap();
        let after = std::fs::read(file.path()).unwrap();
        let start = (0..before.len()).find(|at| before[*at] != after[*at]).unwrap() / SLOT_SIZE * SLOT_SIZE;
        let mut bytes = before;
        for (sector, is_there) in arrived.into_iter().enumerate() {
            let range = start + sector * 512..start + (sector + 1) * 512;
            if is_there {
                bytes[range.clone()].copy_from_slice(&after[range]);
            }
        }
        std::fs::write(file.path(), &bytes).unwrap();
        let read = file.read().unwrap().unwrap();
        prop_assert!(read == record(2) || read == record(3));
    }
}
