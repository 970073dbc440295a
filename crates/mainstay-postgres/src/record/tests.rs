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

#[test]
fn a_write_torn_at_any_byte_leaves_the_old_or_the_new_record() {
    let (_folder, file) = file();
    file.write(&record(1)).unwrap();
    file.write(&record(2)).unwrap();
    let before = std::fs::read(file.path()).unwrap();
    file.write(&record(3)).unwrap();
    let after = std::fs::read(file.path()).unwrap();
    let start = (0..before.len()).find(|at| before[*at] != after[*at]).unwrap() / SLOT_SIZE * SLOT_SIZE;
    for torn in 0..=SLOT_SIZE {
        let mut bytes = before.clone();
        bytes[start..start + torn].copy_from_slice(&after[start..start + torn]);
        let is_done = bytes == after;
        std::fs::write(file.path(), &bytes).unwrap();
        let expected = if is_done { record(3) } else { record(2) };
        assert_eq!(file.read().unwrap(), Some(expected), "torn after {torn} bytes");
    }
    // And the next write goes on from there.
    let mut bytes = before;
    bytes[start..start + 100].copy_from_slice(&after[start..start + 100]);
    std::fs::write(file.path(), &bytes).unwrap();
    file.write(&record(4)).unwrap();
    assert_eq!(file.read().unwrap(), Some(record(4)));
}

#[test]
fn the_first_write_torn_at_any_byte_leaves_no_record_or_the_new_one() {
    let (_folder, file) = file();
    file.write(&record(1)).unwrap();
    let whole = std::fs::read(file.path()).unwrap();
    // Within the second slot the first is whole already: some places are enough.
    let in_second = (SLOT_SIZE..=2 * SLOT_SIZE).step_by(97);
    for torn in (0..SLOT_SIZE).chain(in_second) {
        let mut bytes = vec![0; 2 * SLOT_SIZE];
        bytes[..torn].copy_from_slice(&whole[..torn]);
        std::fs::write(file.path(), &bytes).unwrap();
        let read = file.read().unwrap();
        let is_first_whole = bytes[..SLOT_SIZE] == whole[..SLOT_SIZE];
        assert_eq!(read, is_first_whole.then(|| record(1)), "torn after {torn} bytes");
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
