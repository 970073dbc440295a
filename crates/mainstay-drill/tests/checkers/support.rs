//! Short ways to write a history and to say what a checker must find in it.

use mainstay_drill::checker::{Anomaly, Checked, History, Op, Operation, Outcome, Validity};

/// An operation of `process` from `start` to `end`.
pub(crate) fn operation(process: u32, start_us: u64, end_us: u64, op: Op, outcome: Outcome) -> Operation {
    Operation { process, start_us, end_us, op, outcome }
}

pub(crate) fn history(operations: &[Operation]) -> History {
    History::new("a test", None, operations.to_vec()).unwrap()
}

/// The history is right.
#[track_caller]
pub(crate) fn assert_valid(checked: &Checked) {
    assert_eq!(checked.validity, Validity::Valid, "{:?} {:?}", checked.findings, checked.notes);
}

/// It is wrong by exactly these: class, and the operations that it names.
#[track_caller]
pub(crate) fn assert_finds(checked: &Checked, wanted: &[(Anomaly, &[usize])]) {
    assert_eq!(checked.validity, Validity::Invalid, "{checked:?}");
    let found: Vec<(Anomaly, &[usize])> =
        checked.findings.iter().map(|finding| (finding.anomaly, finding.operations.as_slice())).collect();
    assert_eq!(found, wanted, "{:?}", checked.findings);
}
